# SPDX-License-Identifier: Apache-2.0
"""Clocks tell the Keep's time."""

from __future__ import annotations

import time

from enarx.runtime.component.binding import Keep
from enarx.runtime.component.clock import Clock
from enarx.runtime.component.clocks import monotonic_clock_interface, wall_clock_interface
from enarx.runtime.component.io import poll

from .conftest import make_workload


class Stopped(Clock):
    """Time stands still."""

    def monotonic_ns(self):
        return 1000

    def wall_ns(self):
        return 1_700_000_000_000_000_007


def call(interface, name, *arguments):
    return interface.functions[name].call(*arguments)


def test_tells_the_time_of_the_keep(engine):
    keep = Keep(engine, make_workload(), clock=Stopped())
    assert call(monotonic_clock_interface, "now", keep) == 1000
    assert call(monotonic_clock_interface, "resolution", keep) == 1
    assert call(wall_clock_interface, "now", keep) == (1_700_000_000, 7)
    assert call(wall_clock_interface, "resolution", keep) == (0, 1)
    keep.close()


def test_a_pollable_is_ready_from_its_instant_on(engine):
    keep = Keep(engine, make_workload(), clock=Stopped())
    for name, when, ready in (
        ("subscribe-instant", 1000, True),
        ("subscribe-instant", 1001, False),
        ("subscribe-duration", 0, True),
        ("subscribe-duration", 1, False),
        ("subscribe-duration", 2**64 - 1, False),
    ):
        pollable = call(monotonic_clock_interface, name, keep, when)
        assert poll(keep.clock, [pollable], wait=False) == ([0] if ready else [])
    keep.close()


def test_time_goes_on():
    clock = Clock()
    assert clock.monotonic_ns() <= clock.monotonic_ns()
    assert clock.wall_ns() > 1_700_000_000 * 10**9


def test_the_workload_s_own_wall_clock_goes_on_with_the_monotonic_one(engine):
    workload = make_workload()
    workload.wall_clock_offset_ns = 946_684_800 * 10**9 - time.monotonic_ns()
    keep = Keep(engine, workload)
    first = call(wall_clock_interface, "now", keep)
    assert 946_684_800 <= first[0] < 946_684_860
    assert call(wall_clock_interface, "now", keep) >= first
    workload.wall_clock_offset_ns = -(1 << 62)
    assert Clock(workload.wall_clock_offset_ns).wall_ns() == 0
    keep.close()
