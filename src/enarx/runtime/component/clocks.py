# SPDX-License-Identifier: Apache-2.0
"""wasi:clocks 0.2, over the Keep's `Clock`.

Source: WIT package wasi:clocks@0.2.12.
"""

from __future__ import annotations

from enarx.runtime.component.binding import Interface, Own
from enarx.runtime.component.io import POLLABLE, Pollable, Timer
from enarx.runtime.component.values import U32, U64, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.runtime.component.binding import Keep

SECOND_NS = 10**9

DATETIME = Record(("seconds", U64), ("nanoseconds", U32))

monotonic_clock_interface = Interface("wasi:clocks/monotonic-clock", uses={"pollable": POLLABLE})
wall_clock_interface = Interface("wasi:clocks/wall-clock")

INTERFACES = (monotonic_clock_interface, wall_clock_interface)


@monotonic_clock_interface.func("now", (), U64)
def _monotonic_now(keep: Keep) -> int:
    return keep.clock.monotonic_ns()


@monotonic_clock_interface.func("resolution", (), U64)
def _monotonic_resolution(keep: Keep) -> int:
    return keep.clock.resolution_ns


@monotonic_clock_interface.func("subscribe-instant", (U64,), Own(POLLABLE))
def _subscribe_instant(_keep: Keep, when_ns: int) -> Pollable:
    return Timer(when_ns)


@monotonic_clock_interface.func("subscribe-duration", (U64,), Own(POLLABLE))
def _subscribe_duration(keep: Keep, duration_ns: int) -> Pollable:
    return Timer(keep.clock.monotonic_ns() + duration_ns)


@wall_clock_interface.func("now", (), DATETIME)
def _wall_now(keep: Keep) -> tuple[int, int]:
    return divmod(keep.clock.wall_ns(), SECOND_NS)


@wall_clock_interface.func("resolution", (), DATETIME)
def _wall_resolution(keep: Keep) -> tuple[int, int]:
    return divmod(keep.clock.resolution_ns, SECOND_NS)
