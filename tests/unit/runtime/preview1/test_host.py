# SPDX-License-Identifier: Apache-2.0
"""The callbacks without an engine: a hostile guest gets an errno or is ended, and writes nowhere but where it may."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import KeepError
from enarx.runtime.preview1 import errno, mailbox
from enarx.runtime.preview1.configured import Null
from enarx.runtime.preview1.descriptors import FDFLAGS_NONBLOCK, RIGHT_READ, SOCKET_STREAM, Descriptor

from .conftest import FILLING, MEMORY_BYTES, PAGE_BYTES, Machine, generator

TOP = 0xFFFFFFFF
EDGES = [0, 1, 8, PAGE_BYTES, MEMORY_BYTES - 8, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, 1 << 31, TOP - 7, TOP]


class Scripted(Descriptor):
    """A descriptor that does what it is told, once for every call.

    Args:
        script: for every call a number of bytes at most, or an exception to raise; the last one stays.
    """

    __slots__ = ("closed", "script", "seen")

    is_socket = True

    def __init__(self, *script, flags=FDFLAGS_NONBLOCK, poll_fd=-1) -> None:
        super().__init__(SOCKET_STREAM, RIGHT_READ, poll_fd=poll_fd, flags=flags, read=self._fill, write=self._take)
        self.script = list(script) or [1 << 32]
        self.seen = []
        self.closed = 0

    def _next(self):
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, BaseException):
            raise step
        return step

    def _take(self, buffer):
        self.seen.append(bytes(buffer))
        return min(self._next(), len(buffer))

    def _fill(self, buffer):
        count = self._take(buffer)
        buffer[:count] = b"\x77" * count
        return count

    def receiver(self, flags):
        self._next()
        return self._fill

    def shutdown(self, how):
        self._next()

    def accept(self, flags):
        self._next()
        return Scripted()

    def seek(self, offset, whence):
        self.seen.append((offset, whence))
        return self._next()

    def close(self):
        self.closed += 1
        self._next()


class File(Scripted):
    """The same, and no socket."""

    __slots__ = ()

    is_socket = False


IO = ["fd_read", "fd_write", "sock_recv", "sock_send"]


@pytest.mark.parametrize("name", IO)
@pytest.mark.parametrize("fd", [7, TOP, 1 << 31, 30720])
def test_an_unknown_descriptor_is_badf(machine, name, fd):
    made = machine({0: Scripted()})
    at, count = made.iovecs(0, (64, 8))
    assert made.call(name, fd, at, count, 0) == errno.BADF


@pytest.mark.parametrize("name", IO)
@pytest.mark.parametrize("length", [0, 1, 7, PAGE_BYTES, TOP - 1, TOP])
@pytest.mark.parametrize("start", EDGES)
def test_one_buffer_is_in_bounds_or_a_fault(machine, name, start, length):
    descriptor = Scripted()
    made = machine({0: descriptor})
    for _ in range(2):
        # Once before the memory was mapped and once after.
        at, count = made.iovecs(64, (start, length))
        found = made.call(name, 0, at, count, 0)
        if start + length <= MEMORY_BYTES or not length:
            assert (found, made.count) == (errno.SUCCESS, length if start + length <= MEMORY_BYTES else 0)
        else:
            assert (found, made.count) == (errno.FAULT, 0)
            assert not descriptor.seen
    assert len(made.bytes) == MEMORY_BYTES


@pytest.mark.parametrize("name", IO)
def test_one_buffer_of_several_out_of_bounds_is_a_fault_before_anything_moves(machine, name):
    descriptor = Scripted()
    made = machine({0: descriptor})
    at, count = made.iovecs(0, (128, 8), (MEMORY_BYTES - 4, 8))
    assert made.call(name, 0, at, count, 0) == errno.FAULT
    assert made.count == 0
    assert not descriptor.seen


def test_buffers_that_overlap_each_other_and_their_list_are_filled_in_order(machine):
    made = machine({0: Scripted(4)})
    at, count = made.iovecs(0, (0, 4), (2, 4), (0, 4))
    assert made.call("fd_read", 0, at, count) == errno.SUCCESS
    assert made.count == 12
    assert made.bytes[:6] == b"\x77" * 6


def test_a_thousand_buffers_are_one_transfer_of_at_most_a_mebibyte(machine):
    descriptor = Scripted()
    made = machine({0: descriptor})
    at, count = made.iovecs(0, *[(PAGE_BYTES, PAGE_BYTES)] * 1024)
    assert made.call("fd_write", 0, at, count) == errno.SUCCESS
    assert made.count == 1 << 20
    assert sum(map(len, descriptor.seen)) == 1 << 20


def test_empty_buffers_among_others_are_skipped(machine):
    descriptor = Scripted()
    made = machine({0: descriptor})
    at, count = made.iovecs(0, (128, 0), (128, 3), (MEMORY_BYTES, 0), (200, 2))
    assert made.call("sock_send", 0, at, count, 0) == errno.SUCCESS
    assert made.count == 5
    assert [len(data) for data in descriptor.seen] == [3, 2]


def test_a_short_read_ends_the_call(machine):
    descriptor = Scripted(5)
    made = machine({0: descriptor})
    at, count = made.iovecs(0, (128, 8), (256, 8))
    assert (made.call("sock_recv", 0, at, count, 0), made.count) == (errno.SUCCESS, 5)
    assert len(descriptor.seen) == 1


def test_what_was_read_before_there_was_no_more_is_told(machine):
    made = machine({0: Scripted(8, BlockingIOError())})
    at, count = made.iovecs(0, (128, 8), (256, 8))
    assert (made.call("sock_recv", 0, at, count, 0), made.count) == (errno.SUCCESS, 8)


def test_a_blocking_socket_does_not_wait_for_the_second_buffer(machine):
    made = machine({0: Scripted(8, BlockingIOError(), flags=0)})
    at, count = made.iovecs(0, (128, 8), (256, 8))
    assert (made.call("sock_recv", 0, at, count, 0), made.count) == (errno.SUCCESS, 8)


def test_what_was_written_before_there_was_no_room_is_told(machine):
    made = machine({0: Scripted(8, 3, BlockingIOError())})
    at, count = made.iovecs(0, (128, 8), (256, 8))
    assert (made.call("fd_write", 0, at, count), made.count) == (errno.SUCCESS, 11)


@pytest.mark.parametrize("name", IO)
@pytest.mark.parametrize("buffers", [1, 2])
def test_a_non_blocking_one_that_cannot_go_on_says_again(machine, name, buffers):
    made = machine({0: Scripted(BlockingIOError())})
    at, count = made.iovecs(0, *[(128, 8)] * buffers)
    assert (made.call(name, 0, at, count, 0), made.count) == (errno.AGAIN, 0)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(104, "reset"), 15),
        (ConnectionResetError(104, "reset"), 15),
        (BrokenPipeError(32, "pipe"), errno.PIPE),
        (OSError(24, "no more"), errno.MFILE),
        (OSError(95, "not supported"), errno.NOTSUP),
        (OSError("without a number"), errno.IO),
        (OSError(9999, "unknown"), errno.IO),
        (TimeoutError(), errno.IO),
    ],
)
@pytest.mark.parametrize("buffers", [1, 2])
@pytest.mark.parametrize("name", IO)
def test_an_error_of_the_host_is_one_of_the_guest(machine, name, buffers, error, wanted):
    made = machine({0: Scripted(error)})
    at, count = made.iovecs(0, *[(128, 8)] * buffers)
    assert made.call(name, 0, at, count, 0) == wanted
    assert made.failure is None


@pytest.mark.parametrize(
    "error",
    [KeyError(0), KeyError("other"), MemoryError(), ValueError(), RecursionError(), SystemExit(), KeepError("limit")],
)
@pytest.mark.parametrize("kind", [Scripted, File])
@pytest.mark.parametrize("flags", [0, FDFLAGS_NONBLOCK])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fd_read", (0, 0, 1)),
        ("fd_write", (0, 0, 1)),
        ("sock_recv", (0, 0, 1, 0)),
        ("sock_recv", (0, 0, 1, 1)),
        ("sock_send", (0, 0, 1, 0)),
        ("sock_shutdown", (0, 1)),
        ("sock_accept", (0, 0, 256)),
        ("fd_seek", (0, 0, 0, 256)),
        ("fd_close", (0,)),
    ],
)
def test_what_is_not_the_guest_s_error_ends_it_and_is_kept(machine, name, arguments, flags, kind, error):
    made = machine({0: kind(error, flags=flags)})
    made.iovecs(0, (128, 8))
    found = made.call(name, *arguments)
    if kind is File and name.startswith("sock_"):
        assert found == errno.NOTSOCK
    elif name == "fd_close" and isinstance(error, KeyError):
        # The descriptor has gone, and with it the difference.
        assert found == errno.BADF
    else:
        assert found is None
        assert made.failure is error


def test_calls_that_cannot_be_loaded_end_it_and_later_ones_too(machine, monkeypatch):
    made = machine({0: File()})
    made.iovecs(0, (128, 8))
    monkeypatch.setitem(sys.modules, "enarx.runtime.preview1.calls", None)
    assert made.call("fd_read", 0, 0, 1) is None
    assert isinstance(made.failure, ImportError)
    assert made.call("fd_close", 0) is None
    # What a hello needs is there all the same.
    assert made.call("fd_write", 0, 0, 1) == errno.SUCCESS


@pytest.mark.parametrize("name", ["sock_recv", "sock_send"])
@pytest.mark.parametrize("flags", [0, 1])
def test_a_file_is_no_socket(machine, name, flags):
    made = machine({0: File()})
    at, count = made.iovecs(0, (128, 8))
    assert made.call(name, 0, at, count, flags) == errno.NOTSOCK


def test_sending_with_flags_is_not_supported(machine):
    made = machine({0: Scripted()})
    at, count = made.iovecs(0, (128, 8))
    assert made.call("sock_send", 0, at, count, 1) == errno.NOTSUP


@pytest.mark.parametrize(("how", "wanted"), [(0, 28), (1, 0), (2, 0), (3, 0), (4, 28), (TOP, 28)])
def test_shutdown_takes_a_direction(machine, how, wanted):
    assert machine({0: Scripted()}).call("sock_shutdown", 0, how) == wanted


def test_an_accepted_connection_has_the_lowest_free_number_from_3(machine):
    made = machine({0: Scripted(), 3: Null()})
    assert made.call("sock_accept", 0, FDFLAGS_NONBLOCK, 256) == errno.SUCCESS
    assert struct.unpack_from("<I", made.bytes, 256) == (4,)
    assert made.host.map[4] == mailbox.HELD
    assert made.host.box[mailbox.OPEN] == 3


def test_accept_stops_at_the_limit_and_at_the_last_number(machine):
    made = machine({0: Scripted()})
    made.host.box[mailbox.OPEN_LIMIT] = 1
    assert made.call("sock_accept", 0, 0, 256) == errno.MFILE
    made.host.box[mailbox.OPEN_LIMIT] = TOP
    for number in range(3, mailbox.MAP_ENTRIES):
        made.host.map[number] = mailbox.HELD
    assert made.call("sock_accept", 0, 0, 256) == errno.MFILE
    made.host.map[mailbox.MAP_ENTRIES - 1] = mailbox.FREE
    assert made.call("sock_accept", 0, 0, 256) == errno.SUCCESS
    assert struct.unpack_from("<I", made.bytes, 256) == (mailbox.MAP_ENTRIES - 1,)


@pytest.mark.parametrize("flags", [1, 2, 5, TOP])
def test_accept_knows_one_flag(machine, flags):
    assert machine({0: Scripted()}).call("sock_accept", 0, flags, 256) == errno.INVAL


def test_a_connection_accepts_nothing(machine):
    class Connected(Descriptor):
        is_socket = True

    assert machine({0: Connected(SOCKET_STREAM, 0)}).call("sock_accept", 0, 0, 256) == errno.INVAL


def test_closing_frees_the_number_even_if_the_host_cannot_close(machine):
    made = machine({0: Scripted(OSError(5, "cannot"))})
    assert made.call("fd_close", 0) == errno.IO
    assert made.host.map[0] == mailbox.FREE
    assert made.host.box[mailbox.OPEN] == 0
    assert made.call("fd_close", 0) == errno.BADF


def test_moving_keeps_the_object_and_tells_pollers(machine):
    descriptor = Scripted()
    made = machine({4: descriptor})
    changes = made.host.changes
    assert made.call("move", 4, 30719) == errno.SUCCESS
    assert made.host.table == {30719: descriptor}
    assert (made.host.map[4], made.host.map[30719]) == (mailbox.FREE, mailbox.HELD)
    assert made.host.changes != changes


def test_seek_and_tell_are_those_of_what_can_seek(machine):
    position = 5 << 32 | 7
    descriptor = Scripted(position)
    made = machine({0: descriptor, 1: Null()})
    assert made.call("fd_seek", 0, -2, 1, 256, words={mailbox.ARG1 + 1: TOP}) == errno.SUCCESS
    assert descriptor.seen == [(-2, 1)]
    assert struct.unpack_from("<Q", made.bytes, 256) == (position,)
    assert made.call("fd_tell", 0, 264) == errno.SUCCESS
    assert struct.unpack_from("<Q", made.bytes, 264) == (position,)
    assert made.call("fd_seek", 0, 0, 3, 256) == errno.INVAL
    assert made.call("fd_seek", 1, 0, 0, 256) == errno.SPIPE
    assert made.call("fd_tell", 1, 256) == errno.SPIPE
    assert made.call("fd_tell", 2, 256) == errno.BADF


def test_of_a_file_only_the_type_and_one_link_are_told(machine):
    made = machine({0: Scripted()})
    assert made.call("fd_filestat_get", 0, 256) == errno.SUCCESS
    assert struct.unpack_from("<8Q", made.bytes, 256) == (0, 0, SOCKET_STREAM, 1, 0, 0, 0, 0)


def test_the_flags_are_what_was_set(machine):
    made = machine({0: Scripted(flags=0)})
    assert made.call("fd_fdstat_set_flags", 0, FDFLAGS_NONBLOCK) == errno.SUCCESS
    assert made.call("fd_fdstat_get", 0, 256) == errno.SUCCESS
    assert struct.unpack_from("<BxHxxxxQQ", made.bytes, 256) == (SOCKET_STREAM, FDFLAGS_NONBLOCK, RIGHT_READ, 0)
    assert made.call("fd_fdstat_set_flags", 0, 0x20) == errno.INVAL
    assert made.call("fd_fdstat_set_flags", 0, TOP) == errno.INVAL


def test_a_socket_is_a_preopen_of_a_kind_nobody_knows(machine):
    """C libraries stop at the first error when they look for directories, so that these must not be one."""
    made = machine({1: Scripted(), 3: Scripted()})
    assert made.call("fd_prestat_get", 3, 256) == errno.SUCCESS
    assert made.bytes[256:264] == b"\1" + bytes(7)
    assert made.call("fd_prestat_get", 1, 256) == errno.BADF
    assert made.call("fd_prestat_get", 4, 256) == errno.BADF


def test_a_refusal_is_the_router_s_unless_the_number_is_free(machine):
    made = machine({3: Null()})
    assert made.call("refuse", 3, words={mailbox.ERRNO: 54}) == 54
    assert made.call("refuse", 4, words={mailbox.ERRNO: 54}) == errno.BADF


def test_the_memory_is_mapped_again_when_it_has_grown(machine):
    made = machine({0: Scripted()})
    at, count = made.iovecs(0, (MEMORY_BYTES, 8))
    assert made.call("fd_read", 0, at, count) == errno.FAULT
    made.bytes = made.bytes + bytes(PAGE_BYTES)
    assert made.call("fd_read", 0, at, count) == errno.SUCCESS
    assert made.bytes[MEMORY_BYTES : MEMORY_BYTES + 8] == b"\x77" * 8


def test_a_blocking_one_waits_until_the_host_is_ready(machine):
    import os

    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    try:
        made = machine({0: Scripted(BlockingIOError(), BlockingIOError(), 8, flags=0, poll_fd=read_end)})
        at, count = made.iovecs(0, (128, 8))
        assert (made.call("sock_recv", 0, at, count, 0), made.count) == (errno.SUCCESS, 8)
    finally:
        os.close(read_end)
        os.close(write_end)


words = st.one_of(st.sampled_from(EDGES), st.integers(0, TOP), st.integers(0, 16))
steps = st.one_of(
    st.integers(1, 1 << 20),
    st.sampled_from(
        [
            BlockingIOError(),
            OSError(104, "reset"),
            OSError("plain"),
            KeyError(3),
            MemoryError(),
            ValueError(),
            EOFError(),
        ]
    ),
)
NAMES = sorted(Machine({}).host.callbacks().keys() - {"poll_oneoff"})
calls = st.tuples(st.sampled_from(NAMES), st.lists(words, min_size=6, max_size=6))


def router_would_pass(name, arguments):
    """The router's own checks: without them a callback is never called."""
    if name not in IO:
        return True
    at, count = arguments[1], arguments[2]
    return count <= 1024 and at + 8 * count <= MEMORY_BYTES


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(steps, min_size=1, max_size=4),
    st.lists(st.tuples(words, words), max_size=6),
    st.lists(calls, min_size=1, max_size=8),
)
def test_any_calls_are_answered_and_touch_only_what_they_name(script, vectors, given_calls):
    if isinstance(script[-1], BlockingIOError):
        # What is told to block waits for as long as that stays.
        script = [*script, 8]
    made = Machine({0: Scripted(*script), 1: File(*script), 2: Null(), 7: Scripted(*script)})
    for name, arguments in given_calls:
        if made.failure is not None or not router_would_pass(name, arguments):
            continue
        at = arguments[1] % (MEMORY_BYTES - 64)
        if name in IO:
            at, count = made.iovecs(at, *vectors)
            arguments[1:3] = [at, count]
        source, target = arguments[:2]
        if name == "move" and not (
            source in made.host.table and target < mailbox.MAP_ENTRIES and target not in made.host.table
        ):
            continue  # the router calls it for numbers of its map alone, and has closed what was at the target
        before = bytes(made.bytes)
        found = made.call(name, *arguments)
        assert (found is None) == (made.failure is not None)
        assert found is None or 0 <= found <= 76
        allowed = bytearray(before)
        if name in {"fd_read", "sock_recv"}:
            spans = [(start, length) for start, length in vectors]
        elif name in generator.RESULTS:
            pointer, size = generator.RESULTS[name]
            spans = [(arguments[pointer], size)]
        else:
            spans = []
        for start, length in spans:
            end = min(start + length, MEMORY_BYTES)
            if start < end:
                allowed[start:end] = made.bytes[start:end]
        assert made.bytes == allowed
        assert made.host.box[mailbox.OPEN] == len(made.host.table)
    assert {number for number in range(64) if made.host.map[number] == mailbox.HELD} == {
        number for number in made.host.table if number < 64
    }


def test_the_memory_that_nobody_named_is_as_it_was(machine):
    made = machine({0: Scripted()})
    at, count = made.iovecs(0, (1000, 10), (2000, 10))
    made.call("fd_read", 0, at, count)
    touched = {n for n, byte in enumerate(made.bytes) if byte != FILLING} - set(range(16))
    assert touched == {*range(1000, 1010), *range(2000, 2010)}
