# SPDX-License-Identifier: Apache-2.0
"""Lines about refused peers: said, counted where there are too many, and never waited for."""

from __future__ import annotations

import fcntl
import os

import pytest

from enarx.runtime.refusals import AT_ONCE, INTERVAL_S, Refusals


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def said():
    """Give refusals, their clock, and what returns the lines that were written since."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    clock = Clock()

    def lines():
        try:
            return os.read(reading, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []

    yield Refusals(monotonic=clock, fd=writing), clock, lines
    os.close(reading)
    os.close(writing)


def test_a_line_is_written(said):
    refusals, _, lines = said
    refusals.tell("handshake with a client failed: no")
    assert lines() == ["enarx: handshake with a client failed: no"]


def test_what_is_too_much_is_counted_and_told_later(said):
    refusals, clock, lines = said
    for number in range(AT_ONCE + 3):
        refusals.tell(str(number))
    assert lines() == [f"enarx: {number}" for number in range(AT_ONCE)]
    clock.now += INTERVAL_S
    refusals.tell("later")
    refusals.tell("too soon")
    assert lines() == ["enarx: later (and 3 more that were not said)"]


def test_a_pause_does_not_allow_more_than_at_first(said):
    refusals, clock, lines = said
    clock.now += 1000 * INTERVAL_S
    for number in range(AT_ONCE + 1):
        refusals.tell(str(number))
    assert len(lines()) == AT_ONCE


def test_whoever_serves_does_not_wait_for_a_reader(said):
    refusals, _, lines = said
    fd = refusals._fd
    room = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    os.write(fd, b"x" * room)
    refusals.tell("nobody reads")
    assert "nobody" not in "".join(lines())
    refusals.tell("somebody does")
    assert lines() == ["enarx: somebody does (and 1 more that were not said)"]


def test_a_reader_that_is_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    Refusals(fd=writing).tell("nobody is there")
    os.close(writing)
    Refusals(fd=writing).tell("nothing is there")
