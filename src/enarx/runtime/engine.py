# SPDX-License-Identifier: Apache-2.0
"""The engine's configuration, in one place for those who compile and those who map.

Nothing is switched on that slows code down: no epochs (a wall-time limit is the warden's, from outside), fuel only
when asked for, and the address space reservation stays, because reducing it puts a bounds check on every access.
"""

from __future__ import annotations

from enarx.runtime import capi


def configure(config: int, *, fuel: bool) -> None:
    """Set every switch that makes one artefact differ from another.

    Args:
        config: a `wasm_config_t`.
        fuel: whether code counts fuel.
    """
    # Exceptions are what languages with setjmp or try need; off by default in the C API.
    capi.config_wasm_exceptions_set(config, True)
    capi.config_concurrency_support_set(config, False)
    # Backtraces follow frame pointers. Unwind tables are for native debuggers, and are read at every start.
    capi.config_native_unwind_info_set(config, False)
    if fuel:
        capi.config_consume_fuel_set(config, True)


def make_engine(*, fuel: bool) -> int:
    """Make the engine that maps artefacts of `enarx.runtime.cache`; it lives as long as its holder."""
    config = capi.config_new()
    configure(config, fuel=fuel)
    engine: int = capi.engine_new_with_config(config)
    return engine
