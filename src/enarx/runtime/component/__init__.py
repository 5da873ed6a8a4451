# SPDX-License-Identifier: Apache-2.0
"""Components: WASI 0.2 in Python on the engine's C API. The face is `run_component`.

One implementation serves every component, because the engine's own cannot be limited to `allow_connect`, cannot serve
HTTP, and cannot share its streams with another's. `values` and `binding` are the boundary; each other module is a WASI
package and is imported only when a component imports that package. What must not be known here: sockets below WASI,
compilation, time limits.
"""

from __future__ import annotations

import os
from importlib import import_module

from enarx.errors import ConfigError, DecodeError
from enarx.runtime.component.binding import Account, Component, Exit, Interface, Keep, Linker, Trapped
from enarx.runtime.component.values import Result
from enarx.runtime.workload import TRAP_STATUS, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.runtime.component.clock import Clock
    from enarx.runtime.workload import Workload

__all__ = ["run_component"]

# The module that offers each package of WASI 0.2.
_MODULES = {
    "wasi:cli": "cli",
    "wasi:clocks": "clocks",
    "wasi:filesystem": "filesystem",
    "wasi:http": "http",
    "wasi:io": "io",
    "wasi:random": "random",
    "wasi:sockets": "sockets",
}


def find_interface(name: str) -> Interface | None:
    """Return what offers an interface, or None.

    Args:
        name: without a version: `wasi:io/streams`.
    """
    module = _MODULES.get(name.partition("/")[0])
    if module is None:
        return None
    interfaces = import_module(f"enarx.runtime.component.{module}").INTERFACES
    return next((interface for interface in interfaces if interface.name == name), None)


def run_component(
    engine: int, artefact_path: str, workload: Workload, begin: Callable[[], None] = lambda: None
) -> Outcome:
    """Run a component to its end: a command, or an HTTP service for as long as it is not stopped.

    Args:
        engine: the `wasm_engine_t`.
        artefact_path: of the compiled component; trusted.
        workload: what it is given, and its limits.
        begin: is called once everything is there, before the first of the workload's code runs.

    Raises:
        DecodeError: an import that a Keep does not offer, or no entry point.
        ConfigError: an argument or variable that is not Unicode, a directory that is none.
        KeepError: a fuel or output limit.
        EnarxError: what the service or a file system raises.
    """
    _require_givable(workload)
    component = Component(engine, artefact_path)
    command = component.find_export("wasi:cli/run")
    entry = command or component.find_export("wasi:http/incoming-handler")
    if entry is None:
        raise DecodeError(
            f"cannot start the workload: component {workload.path}: found no entry point, want wasi:cli/run or"
            " wasi:http/incoming-handler",
            hint="build it as a WASI 0.2 command or HTTP service",
        )
    from enarx.runtime.network import Network

    network = Network(workload)
    account = Account(workload)
    if entry == command:
        linker = Linker(component, find_interface)
        begin()
        return _run_command(linker, entry, Keep(engine, workload, network=network, account=account))
    from enarx.runtime.component.http_service import serve

    component = _pooled(component, artefact_path, fuel=workload.limits.fuel is not None)
    linker = Linker(component, find_interface)

    def make_keep(clock: Clock) -> Keep:
        return Keep(component.engine, workload, network=network, clock=clock, account=account)

    return serve(linker, entry, make_keep, workload, network, begin)


def _pooled(component: Component, artefact_path: str, *, fuel: bool) -> Component:
    """Load a service's component again, for an engine that has its instances' memory ready."""
    from enarx.runtime.capi import UnmappableError
    from enarx.runtime.component.pooling import make_pooled_engine

    try:
        return Component(make_pooled_engine(fuel=fuel), artefact_path)
    except UnmappableError:
        # It needs more than a slot of the pool has.
        return component


def _require_givable(workload: Workload) -> None:
    for text in (*workload.args, *(part for pair in workload.env for part in pair)):
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            raise ConfigError(f"cannot start the workload: arguments and environment: found {text!a}, want UTF-8")
    if workload.dirs:
        from enarx.runtime.component.filesystem import open_directory

        for directory in workload.dirs:
            os.close(open_directory(directory))


def _run_command(linker: Linker, interface: str, keep: Keep) -> Outcome:
    try:
        is_ok, _ = linker.instantiate(keep).function(interface, "run", (), Result(None, None))()
    except Exit as end:
        return Outcome(end.status, hint=keep.account.hint)
    except Trapped as trap:
        return Outcome(TRAP_STATUS, trap=str(trap), hint=keep.account.hint)
    else:
        return Outcome(0 if is_ok else 1, hint=keep.account.hint)
    finally:
        keep.close()
