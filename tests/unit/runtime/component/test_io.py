# SPDX-License-Identifier: Apache-2.0
"""Streams over hooks, waiting, and the interfaces as guests use them."""

from __future__ import annotations

import errno
import os
import time

import pytest

from enarx.runtime.component.binding import Trap
from enarx.runtime.component.clock import Clock
from enarx.runtime.component.io import (
    BLOCKING_WRITE_BYTES,
    CHUNK,
    NEVER,
    POLLIN,
    POLLOUT,
    Closed,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    Timer,
    WouldBlock,
    block,
    failed,
    poll,
    poll_interface,
    streams_interface,
)
from enarx.runtime.component.values import Err

from .conftest import component_text

CLOCK = Clock()
MS = 10**6


class Pipe(Pollable):
    """Waits for a descriptor; `fired` as told."""

    def __init__(self, fd: int, events: int = POLLIN, *, fires: bool = True) -> None:
        self.fd, self.events, self.fires = fd, events, fires

    def interest(self):
        return (self.fd, self.events, None)

    def fired(self):
        if not self.fires:
            os.read(self.fd, 1)
        return self.fires


class Ready(Pollable):
    def interest(self):
        return None


class Never(Pollable):
    def interest(self):
        return NEVER


class Script(InputStream):
    """Reads what the script says: bytes, or an exception to raise."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.asked: list[int] = []

    def read_some(self, size):
        self.asked.append(size)
        step = self.script.pop(0)
        if isinstance(step, bytes):
            return step[:size]
        raise step

    def poll_interest(self):
        return None


class Sink(OutputStream):
    """Takes as much as it is told at each call, or raises."""

    def __init__(self, *script) -> None:
        super().__init__()
        self.script = list(script)
        self.data = b""
        self.flushes = 0
        self.finished = False

    def write_some(self, data):
        step = self.script.pop(0) if self.script else len(data)
        if not isinstance(step, int):
            raise step
        self.data += bytes(data[:step])
        return min(step, len(data))

    def write_interest(self):
        return (-1, 0, 0)

    def flush_some(self):
        self.flushes += 1

    def finish(self):
        self.finished = True


def call(interface, name, keep, *arguments):
    return interface.functions[name].call(keep, *arguments)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


# --- Waiting ---------------------------------------------------------------------------------------------------------


def test_poll_returns_what_is_ready_in_order(pipe):
    os.write(pipe[1], b"x")
    assert poll(CLOCK, [Never(), Ready(), Pipe(pipe[0]), Timer(0), Timer(2**64)]) == [1, 2, 3]


def test_poll_waits_for_the_first_deadline():
    now = CLOCK.monotonic_ns()
    assert poll(CLOCK, [Timer(now + 10**18), Timer(now + 3 * MS), Never()]) == [1]
    assert CLOCK.monotonic_ns() >= now + 3 * MS


def test_poll_waits_for_a_descriptor_or_a_deadline(pipe):
    now = CLOCK.monotonic_ns()
    assert poll(CLOCK, [Pipe(pipe[0]), Timer(now + 3 * MS)]) == [1]
    assert poll(CLOCK, [Pipe(pipe[1], POLLOUT), Timer(now + 10**18)]) == [0]


def test_poll_looks_again_when_a_descriptor_fired_for_nothing(pipe):
    os.write(pipe[1], b"xx")
    now = CLOCK.monotonic_ns()
    assert poll(CLOCK, [Pipe(pipe[0], fires=False), Timer(now + 3 * MS)]) == [1]


def test_poll_does_not_wait_when_told(pipe):
    assert poll(CLOCK, [Pipe(pipe[0]), Timer(2**64), Never()], wait=False) == []


def test_a_closed_peer_is_ready():
    read_end, write_end = os.pipe()
    os.close(write_end)
    assert poll(CLOCK, [Pipe(read_end)]) == [0]
    os.close(read_end)


def test_100000_pollables_are_one_wait(pipe):
    os.write(pipe[1], b"x")
    started = time.monotonic()
    ready = poll(CLOCK, [Pipe(pipe[0]), Never(), Timer(2**64), Ready()] * 25_000)
    assert len(ready) == 50_000
    assert time.monotonic() - started < 5


def test_block_returns_when_ready():
    block(CLOCK, Timer(CLOCK.monotonic_ns() + MS))


# --- Input -----------------------------------------------------------------------------------------------------------


def test_read_asks_for_a_chunk_at_most():
    stream = Script(b"x")
    assert stream.read(2**64 - 1) == b"x"
    assert stream.asked == [CHUNK]


def test_read_of_nothing_asks_nothing():
    assert Script().read(0) == b""


def test_read_returns_nothing_yet():
    assert Script(WouldBlock()).read(5) == b""


def test_blocking_read_waits():
    assert Script(WouldBlock(), WouldBlock(), b"abc").blocking_read(CLOCK, 2) == b"ab"


def test_the_end_is_closed():
    with pytest.raises(Err) as caught:
        Script(Closed()).read(1)
    assert caught.value.value == ("closed", None)


def test_a_failure_says_what_failed():
    with pytest.raises(Err) as caught:
        Script(OSError(errno.EIO, "Input/output error")).blocking_read(CLOCK, 1)
    case, error = caught.value.value
    assert case == "last-operation-failed"
    assert (error.text, error.cause.errno) == ("Input/output error", errno.EIO)


def test_a_failure_may_carry_its_own_error():
    error = IoError("reset by peer", "connection-reset")
    assert failed(error).value == ("last-operation-failed", error)


# --- Output ----------------------------------------------------------------------------------------------------------


def test_write_takes_what_check_write_permits():
    stream = Sink()
    assert stream.check_write() == CHUNK
    stream.write(bytes(CHUNK))
    assert len(stream.data) == CHUNK


def test_a_write_larger_than_permitted_traps():
    with pytest.raises(Trap):
        Sink().write(bytes(CHUNK + 1))


def test_what_does_not_fit_waits_and_nothing_more_is_permitted():
    stream = Sink(2, WouldBlock(), WouldBlock(), WouldBlock())
    stream.write(b"abcdef")
    assert stream.data == b"ab"
    assert stream.check_write() == 0
    with pytest.raises(Trap):
        stream.write(b"g")
    assert stream.check_write() == CHUNK
    assert stream.data == b"abcdef"


def test_blocking_flush_waits_until_all_went():
    stream = Sink(1, WouldBlock(), 1, WouldBlock(), 1)
    stream.write(b"abc")
    stream.blocking_flush(CLOCK)
    assert stream.data == b"abc"
    assert stream.flushes == 1


def test_a_failure_is_told_once_and_then_it_is_closed():
    stream = Sink(1, WouldBlock(), OSError(errno.ENOSPC, "No space left on device"))
    stream.write(b"abc")
    with pytest.raises(Err) as caught:
        stream.check_write()
    assert caught.value.value[0] == "last-operation-failed"
    for operation in (stream.check_write, stream.flush, lambda: stream.write(b"x")):
        with pytest.raises(Err) as caught:
            operation()
        assert caught.value.value == ("closed", None)
    assert stream.poll_interest() is None


def test_fail_is_told_at_the_next_operation():
    stream = Sink()
    stream.fail(IoError("aborted"))
    with pytest.raises(Err) as caught:
        stream.write(b"x")
    assert caught.value.value[1].text == "aborted"


def test_a_reader_that_went_away_is_closed():
    with pytest.raises(Err) as caught:
        Sink(Closed()).write(b"x")
    assert caught.value.value == ("closed", None)


def test_drop_offers_the_rest_once_more():
    stream = Sink(1, WouldBlock())
    stream.write(b"abc")
    stream.drop()
    assert stream.data == b"abc"
    assert stream.finished


# --- Interfaces ------------------------------------------------------------------------------------------------------


def test_skip_counts(keep):
    assert call(streams_interface, "[method]input-stream.skip", keep, Script(b"abc"), 2) == 2
    assert call(streams_interface, "[method]input-stream.blocking-skip", keep, Script(WouldBlock(), b"abc"), 9) == 3


def test_splice_moves_what_there_is_and_what_fits(keep):
    sink = Sink()
    assert call(streams_interface, "[method]output-stream.splice", keep, sink, Script(b"abc"), 2**64 - 1) == 3
    assert call(streams_interface, "[method]output-stream.splice", keep, sink, Script(WouldBlock()), 9) == 0
    assert (
        call(streams_interface, "[method]output-stream.blocking-splice", keep, sink, Script(WouldBlock(), b"d"), 9) == 1
    )
    assert sink.data == b"abcd"
    full = Sink(1, WouldBlock(), WouldBlock())
    full.write(b"xy")
    assert call(streams_interface, "[method]output-stream.splice", keep, full, Script(), 9) == 0


def test_zeroes_are_written_and_too_many_trap(keep):
    sink = Sink()
    call(streams_interface, "[method]output-stream.write-zeroes", keep, sink, 5)
    call(streams_interface, "[method]output-stream.blocking-write-zeroes-and-flush", keep, sink, 3)
    assert sink.data == bytes(8)
    for name in ("write-zeroes", "blocking-write-zeroes-and-flush"):
        with pytest.raises(Trap):
            call(streams_interface, f"[method]output-stream.{name}", keep, sink, 2**64 - 1)


def test_a_blocking_write_takes_4096_bytes(keep):
    sink = Sink(1, WouldBlock())
    name = "[method]output-stream.blocking-write-and-flush"
    call(streams_interface, name, keep, sink, bytes(BLOCKING_WRITE_BYTES))
    assert len(sink.data) == BLOCKING_WRITE_BYTES
    with pytest.raises(Trap):
        call(streams_interface, name, keep, sink, bytes(BLOCKING_WRITE_BYTES + 1))


def test_a_pollable_of_a_dropped_stream_is_harmless(keep):
    sink = Sink(1, WouldBlock(), WouldBlock())
    sink.write(b"abc")
    pollable = call(streams_interface, "[method]output-stream.subscribe", keep, sink)
    sink.drop()
    assert call(poll_interface, "[method]pollable.ready", keep, pollable) is True


def test_an_empty_list_of_pollables_traps(keep):
    with pytest.raises(Trap):
        call(poll_interface, "poll", keep, [])


POLLING = """
  (import "wasi:io/poll@0.2.4" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.1" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
"""
POLLING_CALLS = [
    ("subscribe", '$clock "subscribe-duration"', "(param i64) (result i32)"),
    ("poll", '$poll "poll"', "(param i32 i32 i32)"),
    ("block", '$poll "[method]pollable.block"', "(param i32)"),
    ("drop", "drop $pollable", "(param i32)"),
]


@pytest.mark.parametrize(("count", "trap"), [(20_000, None), (100_000, "handle limit")])
def test_a_guest_polls_as_many_timers_as_it_may_hold(runner, count, trap):
    body = f"""(func (export "run") (result i32) (local $i i32)
      (drop (memory.grow (i32.const 20)))
      (loop $more
        (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 4)))
          (call $subscribe (select (i64.const 0) (i64.const -1) (i32.eq (local.get $i) (i32.const 7000)))))
        (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count}))))
      (call $poll (i32.const 65536) (i32.const {count}) (i32.const 16))
      (i32.ne (i32.load (i32.load (i32.const 16))) (i32.const 7000)))"""
    outcome = runner.run(component_text(POLLING, POLLING_CALLS, body))
    if trap is None:
        assert outcome.status == 0
    else:
        assert outcome.status == 134
        assert trap in outcome.trap


def test_a_guest_may_name_one_pollable_100000_times(runner):
    body = """(func (export "run") (result i32) (local $i i32) (local $t i32)
      (drop (memory.grow (i32.const 20)))
      (local.set $t (call $subscribe (i64.const 1000)))
      (loop $more
        (i32.store (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 4))) (local.get $t))
        (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100000))))
      (call $poll (i32.const 65536) (i32.const 100000) (i32.const 16))
      (i32.ne (i32.load (i32.const 20)) (i32.const 100000)))"""
    outcome = runner.run(component_text(POLLING, POLLING_CALLS, body))
    assert outcome.status == 134
    assert "handle limit" in outcome.trap


def test_a_guest_that_uses_a_dropped_pollable_traps(runner):
    body = """(func (export "run") (result i32) (local $t i32)
      (call $block (local.tee $t (call $subscribe (i64.const 1000))))
      (call $drop (local.get $t)) (call $block (local.get $t)) (i32.const 0))"""
    outcome = runner.run(component_text(POLLING, POLLING_CALLS, body))
    assert outcome.status == 134
    assert "unknown handle" in outcome.trap


def test_a_guest_that_polls_nothing_traps(runner):
    body = """(func (export "run") (result i32)
      (call $poll (i32.const 0) (i32.const 0) (i32.const 16)) (i32.const 0))"""
    outcome = runner.run(component_text(POLLING, POLLING_CALLS, body))
    assert outcome.status == 134
    assert "empty list" in outcome.trap
