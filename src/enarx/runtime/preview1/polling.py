# SPDX-License-Identifier: Apache-2.0
"""`poll_oneoff`: descriptors of either side, and clocks.

A server calls it before nearly every request, mostly with the list it gave last time. So the host's interest set lives
in one epoll from call to call, and a list whose bytes are the last one's is not read again.

A subscription (48 bytes, little-endian): userdata u64 at 0, tag u8 at 8 (0 clock, 1 read, 2 write); for a clock: id u32
at 16, timeout u64 at 24, flags u16 at 40 (1 absolute); else the descriptor u32 at 16. An event (32 bytes): userdata at
0, errno u16 at 8, tag u8 at 10, nbytes u64 at 16, flags u16 at 24 (always 0 here).
Source: WASI snapshot preview 1, `subscription`, `event`.
"""

from __future__ import annotations

import select
import struct
import time

from enarx.runtime.preview1 import errno
from enarx.runtime.preview1.calls import wall_ns
from enarx.runtime.preview1.mailbox import ARG0, ARG1, ARG2, COUNT, FREE, MAP_ENTRIES, NOW
from enarx.runtime.preview1.sockets import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.runtime.preview1.descriptors import Descriptor
    from enarx.runtime.preview1.host import Host

_CLOCK, _READ, _WRITE = 0, 1, 2
_REALTIME, _MONOTONIC = 0, 1
_ABSOLUTE = 1
_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
_SUBSCRIPTION_BYTES = 48
_EVENT_BYTES = 32
_READABLE = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
_WRITABLE = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
# However long the wait, the host is asked in spans that it can count.
_LONGEST_WAIT_NS = 1_000_000 * 1_000_000_000
# What waits for a descriptor that the epoll knows and the plan does not.
_NOBODY: tuple[list[bytes], list[bytes]] = ([], [])


def _event(userdata: int, tag: int, *, error: int = 0) -> bytes:
    return struct.pack("<QHB5xQ8x", userdata, error, tag, tag > _CLOCK)


class _Plan:
    """A subscription list, read once."""

    __slots__ = ("buffered", "clocks", "fixed", "listeners", "readers", "waits")

    def __init__(self) -> None:
        self.fixed: list[bytes] = []  # events that hold whatever happens: unknown descriptors, files
        self.clocks: list[tuple[int, int, bool, int]] = []  # userdata, clock, absolute, timeout in ns
        # Per host descriptor: the events to give when it can be read, and when it can be written.
        self.waits: dict[int, tuple[list[bytes], list[bytes]]] = {}
        self.listeners: dict[int, Listener] = {}  # by host descriptor
        self.buffered: list[tuple[Descriptor, bytes]] = []  # may be readable without the host knowing
        # Where all that is waited for is plain connections that can be read: their events by host descriptor.
        self.readers: dict[int, bytes] | None = None

    def settle(self) -> None:
        """Take note that the list is read to its end."""
        # A listener for TLS that is to be read is among `buffered`.
        plain = self.waits and not (self.fixed or self.clocks or self.buffered)
        if plain and not any(writers for _, writers in self.waits.values()):
            self.readers = {number: b"".join(readers) for number, (readers, _) in self.waits.items()}


class Poller:
    """One workload's polling.

    Args:
        host: its table, memory and mailbox.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._epoll = select.epoll()
        self._interest: set[int] = set()
        self._bytes = b""
        self._changes = -1
        self._plan = _Plan()

    def poll(self) -> int:
        """Answer one call; the router has found list, events and count to be in bounds."""
        host = self._host
        box = host.box
        memory = host.mapped()
        start, count = box[ARG0], box[ARG2]
        given = bytes(memory[start : start + _SUBSCRIPTION_BYTES * count])
        if given != self._bytes or host.changes != self._changes:
            error = self._read(given)
            if error:
                self._bytes = b""
                return error
        readers = self._plan.readers
        answer = b"".join(self._wait()) if readers is None else self._wait_for(readers)
        # The list has as much room as the router found, however many events there are.
        answer = answer[: _EVENT_BYTES * count]
        out = box[ARG1]
        memory[out : out + len(answer)] = answer
        box[COUNT] = len(answer) // _EVENT_BYTES
        return errno.SUCCESS

    def _read(self, given: bytes) -> int:
        """Read a new list and set the host's interest to it."""
        table = self._host.table
        numbers = self._host.map
        plan = _Plan()
        for userdata, tag, word, timeout, _, flags in _SUBSCRIPTION.iter_unpack(given):
            if tag == _CLOCK:
                if word not in {_REALTIME, _MONOTONIC} or flags & ~_ABSOLUTE:
                    plan.fixed.append(_event(userdata, tag, error=errno.INVAL))
                else:
                    plan.clocks.append((userdata, word, bool(flags & _ABSOLUTE), timeout))
                continue
            if tag not in {_READ, _WRITE}:
                return errno.INVAL
            descriptor = table.get(word)
            if descriptor is None:
                # Files of the engine's are always ready.
                known = word < MAP_ENTRIES and numbers[word] != FREE
                plan.fixed.append(_event(userdata, tag, error=0 if known else errno.BADF))
            elif descriptor.poll_fd < 0:
                plan.fixed.append(_event(userdata, tag))
            else:
                if descriptor.buffers and isinstance(descriptor, Listener):
                    plan.listeners[descriptor.poll_fd] = descriptor
                waits = plan.waits.setdefault(descriptor.poll_fd, ([], []))
                waits[tag == _WRITE].append(_event(userdata, tag))
                if tag == _READ and descriptor.buffers:
                    plan.buffered.append((descriptor, _event(userdata, tag)))
        # Whatever stops this halfway, the next call begins anew.
        self._changes = -1
        self._set_interest(
            {
                number: (select.EPOLLIN if readers else 0) | (select.EPOLLOUT if writers else 0)
                for number, (readers, writers) in plan.waits.items()
            }
        )
        plan.settle()
        self._plan = plan
        self._bytes = given
        self._changes = self._host.changes
        return errno.SUCCESS

    def _set_interest(self, wanted: dict[int, int]) -> None:
        """Change the epoll to what is wanted now.

        A number may have been closed and given to another socket since, which the kernel forgets without a word; so
        what it does not know any more is registered again.
        """
        for number in self._interest - wanted.keys():
            try:
                self._epoll.unregister(number)
            except OSError:
                continue
        self._interest = set(wanted)
        for number, events in wanted.items():
            try:
                self._epoll.modify(number, events)
            except FileNotFoundError:
                self._epoll.register(number, events)

    def _wait_for(self, readers: dict[int, bytes]) -> bytes:
        """Return the events of what can be read, waiting for the first; whatever happens to those makes them readable."""
        while True:
            ready = self._epoll.poll(_LONGEST_WAIT_NS / 1e9, len(readers))
            events = b"".join([readers.get(number, b"") for number, _ in ready])
            if events:
                return events

    def _wait(self) -> list[bytes]:
        """Return the events of the plan, waiting for the first."""
        plan = self._plan
        events = list(plan.fixed)
        for descriptor, event in plan.buffered:
            if descriptor.waiting():
                events.append(event)
        deadlines = self._deadlines(plan) if plan.clocks else []
        while True:
            left_ns = 0
            if not events:
                left_ns = _LONGEST_WAIT_NS
                if deadlines:
                    left_ns = max(0, min(left_ns, min(due for due, _ in deadlines) - time.monotonic_ns()))
            if plan.waits:
                waits, listeners = plan.waits, plan.listeners
                # The host counts in milliseconds and rounds up, which makes a timeout late and never early.
                for number, happened in self._epoll.poll(left_ns / 1e9, len(waits)):
                    if number in listeners and not listeners[number].confirm():
                        continue
                    readers, writers = waits.get(number, _NOBODY)
                    if happened & _READABLE:
                        events += readers
                    if happened & _WRITABLE:
                        events += writers
            elif left_ns:
                time.sleep(left_ns / 1e9)
            now = time.monotonic_ns()
            events += [event for due, event in deadlines if due <= now]
            if events:
                # A connection can be readable twice: in OpenSSL's buffer and on its socket.
                return list(dict.fromkeys(events)) if plan.buffered else events

    def _deadlines(self, plan: _Plan) -> list[tuple[int, bytes]]:
        """Return each clock's end on the monotonic clock, and its event."""
        now = time.monotonic_ns()
        box = self._host.box
        guest_now = box[NOW] | box[NOW + 1] << 32
        found = []
        for userdata, clock, absolute, timeout in plan.clocks:
            if not absolute:
                due = now + timeout
            else:
                due = now + timeout - (wall_ns(self._host) if clock == _REALTIME else guest_now)
            found.append((due, _event(userdata, _CLOCK)))
        return found
