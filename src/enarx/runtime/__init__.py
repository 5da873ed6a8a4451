# SPDX-License-Identifier: Apache-2.0
"""Runs: keep. Trusted by: the tenant, once measured. Runs one WebAssembly workload to its end.

The face is `run_workload`. `cache` finds compiled code, `preview1` runs core modules, `component` runs components,
`watch` ends what does not end by itself.
"""

from __future__ import annotations

from enarx.runtime import capi
from enarx.runtime.cache import COMPONENT, Cache
from enarx.runtime.engine import make_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.runtime.workload import Outcome, Workload

_OVERLAY = __file__.rpartition("/")[0] + "/preview1"


def run_workload(workload: Workload, cache: Cache, begin: Callable[[], None]) -> Outcome:
    """Run a workload to its end, in this process.

    Time limits and Ctrl-C are the caller's, by `enarx.runtime.watch`: code in the engine is stopped from outside.

    Args:
        workload: what to run, and everything it is given.
        cache: where compiled code is kept.
        begin: is called once everything is there, before the first of the workload's code runs.

    Raises:
        EnarxError: see `preview1.core.run_module` and `component.run_component`.
    """
    fuel = workload.limits.fuel is not None
    try:
        return _run(workload, cache, begin, fuel=fuel)
    except capi.UnmappableError:
        # As we wrote it and still refused: written on another processor, or by another build of the engine.
        for path in (workload.path, *overlay_paths()):
            cache.discard(cache.find(path, fuel=fuel))
        # Or gone, by `enarx cache clear` in between: what is not in the cache now cannot go again.
        return _run(workload, cache.apart(), begin, fuel=fuel)


def _run(workload: Workload, cache: Cache, begin: Callable[[], None], *, fuel: bool) -> Outcome:
    artefact = cache.find(workload.path, fuel=fuel)
    engine = make_engine(fuel=fuel)
    if artefact.kind == COMPONENT:
        from enarx.runtime.component import run_component

        return run_component(engine, artefact.path, workload, begin)
    from enarx.runtime.preview1.core import run_module

    trampoline, router = (cache.find(path, fuel=fuel) for path in overlay_paths())
    return run_module(engine, (artefact.path, trampoline.path, router.path), workload, begin)


def overlay_paths() -> tuple[str, str]:
    """Return the sources of the trampoline and the router, which every core module runs between."""
    return f"{_OVERLAY}/trampoline.wat", f"{_OVERLAY}/router.wat"
