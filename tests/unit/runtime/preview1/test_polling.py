# SPDX-License-Identifier: Apache-2.0
"""Polls of real pipes, sockets and clocks, and of lists that no program would write."""

from __future__ import annotations

import os
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.runtime.preview1 import errno, mailbox
from enarx.runtime.preview1.configured import Null
from enarx.runtime.preview1.descriptors import Stdin
from enarx.runtime.preview1.sockets import Listener, TcpSocket, prepare

from .conftest import MEMORY_BYTES, PAGE_BYTES, Machine

CLOCK, READ, WRITE = 0, 1, 2
REALTIME, MONOTONIC = 0, 1
ABSOLUTE = 1
MS = 1_000_000
OUT = 65536


def on_clock(userdata, timeout, *, clock=MONOTONIC, flags=0):
    return struct.pack("<QB7xI4xQQH6x", userdata, CLOCK, clock, timeout, 0, flags)


def on_fd(userdata, fd, tag=READ):
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(made, *subscriptions, at=0, out=OUT, now=0):
    """Poll as the router does; return errno and events as (userdata, errno, tag)."""
    given_list = b"".join(subscriptions)
    made.bytes[at : at + len(given_list)] = given_list
    count = len(given_list) // 48
    words = {mailbox.NOW: now & 0xFFFFFFFF, mailbox.NOW + 1: now >> 32}
    found = made.call("poll_oneoff", at, out, count, 0, words=words)
    assert made.failure is None
    data = bytes(made.bytes[out : out + 32 * made.count])
    return found, [(user, code, tag) for user, code, tag, _, _ in struct.iter_unpack("<QHB5xQH6x", data)]


@pytest.fixture
def pipe():
    """Both ends of a pipe, as file objects."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as writer:
        yield reader, writer


@pytest.fixture
def pair():
    """Two ends of a connection, the first one prepared as the guest's are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    prepare(ours)
    with ours, other:
        yield ours, other


def test_a_pipe_is_readable_when_something_is_in_it_and_at_its_end(machine, pipe):
    reader, writer = pipe
    made = machine({0: Stdin(reader.fileno())})
    assert poll(made, on_fd(1, 0), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
    writer.write(b"x")
    assert poll(made, on_fd(1, 0), on_clock(2, 10_000 * MS)) == (0, [(1, 0, READ)])
    reader.read(1)
    assert poll(made, on_fd(1, 0), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
    writer.close()
    assert poll(made, on_fd(1, 0), on_clock(2, 10_000 * MS)) == (0, [(1, 0, READ)])


def test_a_socket_is_writable_readable_or_both(machine, pair):
    ours, other = pair
    made = machine({3: TcpSocket(ours)})
    both = (on_fd(1, 3, READ), on_fd(2, 3, WRITE))
    assert poll(made, *both) == (0, [(2, 0, WRITE)])
    other.send(b"x")
    assert poll(made, on_fd(1, 3)) == (0, [(1, 0, READ)])
    assert sorted(poll(made, *both)[1]) == [(1, 0, READ), (2, 0, WRITE)]


def test_the_same_list_is_answered_anew(machine, pair):
    ours, other = pair
    made = machine({3: TcpSocket(ours)})
    for _ in range(3):
        assert poll(made, on_fd(1, 3), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
        other.send(b"x")
        assert poll(made, on_fd(1, 3), on_clock(2, 10_000 * MS)) == (0, [(1, 0, READ)])
        ours.recv(1)


def connect(server):
    other = socket.create_connection(server.getsockname())
    ours, _ = server.accept()
    prepare(ours)
    return ours, other


def test_a_host_number_that_another_connection_has_now_is_watched_again(machine):
    """The kernel forgets a closed number without a word; the same list must see the new connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        first, first_other = connect(server)
        made = machine({3: TcpSocket(first)})
        assert poll(made, on_fd(1, 3), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
        number = first.fileno()
        later, second_other = connect(server)
        assert made.call("fd_close", 3) == 0
        os.dup2(later.fileno(), number)
        later.close()
        second = socket.socket(fileno=number)
        made.host.table[3] = TcpSocket(second)
        made.host.map[3] = mailbox.HELD
        made.host.changes += 1
        second_other.send(b"x")
        assert poll(made, on_fd(1, 3), on_clock(2, 10_000 * MS)) == (0, [(1, 0, READ)])
        for end in (second, second_other, first_other):
            end.close()


def test_a_closed_descriptor_is_badf_in_the_list_it_was_in(machine, pair):
    made = machine({3: TcpSocket(pair[0])})
    assert poll(made, on_fd(1, 3, WRITE)) == (0, [(1, 0, WRITE)])
    assert made.call("fd_close", 3) == 0
    assert poll(made, on_fd(1, 3, WRITE)) == (0, [(1, errno.BADF, WRITE)])


def test_a_moved_descriptor_is_found_under_its_new_number(machine, pair):
    made = machine({3: TcpSocket(pair[0])})
    assert poll(made, on_fd(1, 3, WRITE), on_fd(2, 9, WRITE))[1] == [(2, errno.BADF, WRITE), (1, 0, WRITE)]
    assert made.call("move", 3, 9) == 0
    assert poll(made, on_fd(1, 3, WRITE), on_fd(2, 9, WRITE))[1] == [(1, errno.BADF, WRITE), (2, 0, WRITE)]


@pytest.mark.parametrize("fd", [5, 511, 512, 1023, 30719, 30720, 65535, 1 << 31, (1 << 32) - 1])
def test_an_unknown_descriptor_is_badf_at_once(machine, fd):
    """It is a number of nobody's, even where the host has a descriptor of that number."""
    made = machine({3: Null()})
    assert poll(made, on_fd(1, fd), on_clock(2, 10_000 * MS)) == (0, [(1, errno.BADF, READ)])


def test_a_host_descriptor_is_not_reached_by_its_number(machine, pipe):
    reader, writer = pipe
    writer.write(b"x")
    made = machine({})
    assert poll(made, on_fd(1, reader.fileno())) == (0, [(1, errno.BADF, READ)])


def test_what_the_engine_has_and_what_cannot_be_waited_for_is_ready(machine):
    made = machine({3: Null()})
    made.host.map[4] = mailbox.FIRST_NATIVE
    assert poll(made, on_fd(1, 4), on_fd(2, 3, WRITE)) == (0, [(1, 0, READ), (2, 0, WRITE)])


@pytest.mark.parametrize("clock", [REALTIME, MONOTONIC])
@pytest.mark.parametrize("flags", [0, ABSOLUTE])
def test_a_clock_ends_after_its_time_and_not_before(machine, clock, flags):
    guest_now = 5_000_000_000
    base = 0 if not flags else (time.time_ns() if clock == REALTIME else guest_now)
    began = time.monotonic_ns()
    found = poll(machine({}), on_clock(1, base + 20 * MS, clock=clock, flags=flags), now=guest_now)
    assert found == (0, [(1, 0, CLOCK)])
    # The realtime clock may be stepped; the others have no excuse.
    assert time.monotonic_ns() - began >= (15 if clock == REALTIME and flags else 20) * MS


def test_an_absolute_time_that_has_passed_ends_at_once(machine):
    found = poll(machine({}), on_clock(1, 1, flags=ABSOLUTE), on_clock(2, 1 << 62), now=5_000_000_000)
    assert found == (0, [(1, 0, CLOCK)])


def test_an_absolute_time_is_on_the_workload_s_own_clock(machine):
    made = machine({})
    made.host.wall_offset_ns = 946_684_800 * 10**9 - time.monotonic_ns()
    past, future = 946_684_800 * 10**9, 946_684_900 * 10**9
    found = poll(
        made, on_clock(1, past, clock=REALTIME, flags=ABSOLUTE), on_clock(2, future, clock=REALTIME, flags=ABSOLUTE)
    )
    assert found == (0, [(1, 0, CLOCK)])


def test_the_earlier_clock_ends_first(machine):
    assert poll(machine({}), on_clock(1, 10_000 * MS), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])


@pytest.mark.parametrize("timeout", [3_000_000 * 1000 * MS, 1 << 62, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("with_fd", [False, True])
def test_a_wait_longer_than_the_host_can_count_is_a_wait(machine, pipe, timeout, with_fd, monkeypatch):
    reader, writer = pipe
    made = machine({0: Stdin(reader.fileno())})
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        raise InterruptedError(4, "enough")

    monkeypatch.setattr(time, "sleep", sleep)
    if with_fd:
        writer.write(b"x")
        assert poll(made, on_clock(1, timeout), on_fd(2, 0)) == (0, [(2, 0, READ)])
    else:
        assert poll(made, on_clock(1, timeout))[0] == 27
        assert 0 < waits[0] <= 1_000_000


@pytest.mark.parametrize(("clock", "flags"), [(2, 0), (3, 0), (77, 0), (MONOTONIC, 2), (REALTIME, 0xFFFF)])
def test_a_clock_that_is_none_is_an_event_with_an_error(machine, clock, flags):
    found = poll(machine({}), on_clock(1, MS, clock=clock, flags=flags))
    assert found == (0, [(1, errno.INVAL, CLOCK)])


@pytest.mark.parametrize("tag", [3, 4, 255])
def test_a_kind_of_subscription_that_is_none_fails_the_call(machine, tag):
    made = machine({3: Null()})
    assert poll(made, on_fd(1, 3), on_fd(2, 3, tag)) == (errno.INVAL, [])
    assert poll(made, on_fd(1, 3)) == (0, [(1, 0, READ)])


def test_a_descriptor_that_the_host_cannot_wait_for_fails_every_time_and_harms_nothing(machine, tmp_path, pair):
    """A directory given as stdin is refused by the host; the next list must not inherit half of this one."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        stdin = Stdin(fd)
        stdin.poll_fd = fd
        made = machine({0: stdin, 3: TcpSocket(pair[0])})
        for _ in range(2):
            assert poll(made, on_fd(1, 3), on_fd(2, 0))[0] == 63
        assert poll(made, on_fd(1, 3, READ), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
    finally:
        os.close(fd)


def test_duplicates_are_each_answered(machine, pair):
    made = machine({3: TcpSocket(pair[0])})
    found, events = poll(made, *[on_fd(1, 3, WRITE)] * 3, on_fd(2, 3, WRITE), on_fd(5, 99), on_fd(5, 99))
    assert found == 0
    assert sorted(events) == [(1, 0, WRITE)] * 3 + [(2, 0, WRITE)] + [(5, errno.BADF, READ)] * 2


def test_what_holds_whatever_happens_stands_beside_what_can_be_read(machine, pair):
    ours, other = pair
    made = machine({3: TcpSocket(ours)})
    other.send(b"x")
    assert poll(made, on_fd(1, 3), on_fd(2, 99)) == (0, [(2, errno.BADF, READ), (1, 0, READ)])


def test_what_is_buffered_here_is_readable_although_its_socket_is_not(machine, pair):
    class Buffering(TcpSocket):
        __slots__ = ()
        buffers = True

    with socket.create_server(("127.0.0.1", 0)) as server:
        plain, plain_other = connect(server)
    with plain, plain_other:
        made = machine({3: Buffering(pair[0]), 4: TcpSocket(plain)})
        plain_other.send(b"x")
        for waiting, expected in ((0, [(2, 0, READ)]), (1, [(1, 0, READ), (2, 0, READ)])):
            made.host.table[3].waiting = lambda waiting=waiting: waiting
            assert poll(made, on_fd(1, 3), on_fd(2, 4)) == (0, expected)


def test_many_readers_of_one_list_are_each_answered(machine):
    """Connections alone, one of them twice, one hung up: as a plain server polls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = [connect(server) for _ in range(4)]
    made = machine({3 + n: TcpSocket(ours) for n, (ours, _) in enumerate(ends)})
    watched = [on_fd(n, 3 + n) for n in range(4)] + [on_fd(9, 3)]
    ends[0][1].send(b"x")
    ends[1][1].close()
    for _ in range(2):
        found, events = poll(made, *watched)
        assert (found, sorted(events)) == (0, [(0, 0, READ), (1, 0, READ), (9, 0, READ)])
    ends[2][1].send(b"x")
    assert sorted(poll(made, *watched)[1]) == [(0, 0, READ), (1, 0, READ), (2, 0, READ), (9, 0, READ)]
    for end in [end for both in ends for end in both]:
        end.close()


def test_a_hundred_thousand_subscriptions_are_answered_soon(machine, pair):
    made = machine({3: TcpSocket(pair[0])})
    made.bytes = made.bytes + bytes(100_000 * 80)
    kinds = [on_fd(1, 3, WRITE), on_fd(2, 99), on_clock(3, 1 << 60), on_fd(4, 3, READ)]
    began = time.monotonic()
    for _ in range(2):
        found, events = poll(made, *(kinds * 25_000), out=100_000 * 48)
        assert (found, len(events)) == (0, 50_000)
    assert time.monotonic() - began < 10


def test_events_may_be_written_over_the_list(machine, pair):
    made = machine({3: TcpSocket(pair[0])})
    for _ in range(2):
        assert poll(made, on_fd(1, 3, WRITE), on_fd(2, 99), out=0)[1] == [(2, errno.BADF, READ), (1, 0, WRITE)]


def test_a_listener_is_readable_when_somebody_has_come(machine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        made = machine({3: Listener(server, None)})
        assert poll(made, on_fd(1, 3), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
        with socket.create_connection(server.getsockname()):
            assert poll(made, on_fd(1, 3), on_clock(2, 10_000 * MS)) == (0, [(1, 0, READ)])
            assert made.call("sock_accept", 3, 4, 256) == 0
            assert poll(made, on_fd(1, 3), on_clock(2, MS)) == (0, [(2, 0, CLOCK)])
            made.host.table[4].close()


subscriptions = st.one_of(
    st.builds(
        on_clock, st.integers(0, 9), st.sampled_from([0, 1, MS]), clock=st.integers(0, 4), flags=st.integers(0, 3)
    ),
    st.builds(on_fd, st.integers(0, 9), st.sampled_from([0, 3, 4, 9, 30720, (1 << 32) - 1]), st.integers(1, 2)),
    st.binary(min_size=48, max_size=48),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.lists(subscriptions, min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_lists_are_answered_and_write_events_only(lists):
    ours, other = socket.socketpair()
    with ours, other:
        prepared = Machine({3: TcpSocket(ours), 4: Null()})
        for drawn in lists:
            # Whatever else is in the list, this ends the wait.
            given_list = [*drawn, on_clock(99, MS)]
            before = bytes(prepared.bytes)
            found, events = poll(prepared, *given_list)
            assert found in {0, errno.INVAL}
            assert len(events) <= len(given_list)
            assert events or found
            assert prepared.bytes[48 * len(given_list) : OUT] == before[48 * len(given_list) : OUT]
            end = OUT + 32 * len(events)
            assert prepared.bytes[end:] == before[end:]


def test_the_list_may_end_where_the_memory_ends(machine):
    made = machine({3: Null()})
    at = MEMORY_BYTES - 48
    assert poll(made, on_fd(7, 3), at=at, out=PAGE_BYTES)[1] == [(7, 0, READ)]
