# SPDX-License-Identifier: Apache-2.0
"""The functions of `host` that saying hello does not need: reading, sockets, descriptors that move, polling.

Its rules are those of `host`.
"""

from __future__ import annotations

import select
import time

from enarx.runtime.preview1 import errno
from enarx.runtime.preview1.descriptors import FDFLAGS_NONBLOCK, Descriptor
from enarx.runtime.preview1.mailbox import (
    ARG0,
    ARG1,
    ARG2,
    ARG3,
    COUNT,
    DIRECT,
    ERRNO,
    FREE,
    HELD,
    IOV_LEN,
    IOV_PTR,
    MAP_ENTRIES,
    OPEN,
    OPEN_LIMIT,
    RESULT,
    RESULT_BYTES,
    WALL,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.runtime.preview1.host import Host

_SEEK_CUR = 1
_POLLIN = 1


def make_calls(host: Host) -> dict[str, Callable[[], int | None]]:
    """Return the callbacks by name."""
    table = host.table
    poll: Callable[[], int] | None = None

    def receive(descriptor: Descriptor, read: Callable[[memoryview], int]) -> int:
        """Fill the guest's buffers with what is there, waiting only for the first byte."""
        found = host.buffers()
        if found is None:
            return errno.FAULT
        # A pipe or terminal is the one kind that would wait for a second buffer although the first is full.
        waits = descriptor.poll_fd >= 0 and not descriptor.is_socket
        done = 0
        for buffer in found:
            try:
                count = read(buffer)
            except OSError as error:
                if done:
                    break
                if not isinstance(error, BlockingIOError):
                    raise
                if descriptor.flags & FDFLAGS_NONBLOCK:
                    return errno.AGAIN
                count = wait_and(descriptor, read, buffer, _POLLIN)
            done += count
            if count < len(buffer) or waits:
                break
        host.box[COUNT] = done
        return errno.SUCCESS

    def fd_read() -> int:
        descriptor = table[host.box[ARG0]]
        return receive(descriptor, descriptor.read)

    def sock_recv() -> int:
        descriptor = table[host.box[ARG0]]
        if not descriptor.is_socket:
            return errno.NOTSOCK
        flags = host.box[ARG3]
        return receive(descriptor, descriptor.receiver(flags) if flags else descriptor.read)  # type: ignore[attr-defined]

    def sock_send() -> int:
        descriptor = table[host.box[ARG0]]
        if not descriptor.is_socket:
            return errno.NOTSOCK
        return errno.NOTSUP if host.box[ARG3] else host.send(descriptor)

    def sock_shutdown() -> int:
        descriptor = table[host.box[ARG0]]
        if not descriptor.is_socket:
            return errno.NOTSOCK
        how = host.box[ARG1]
        if not 1 <= how <= 3:
            return errno.INVAL
        descriptor.shutdown(how)  # type: ignore[attr-defined]
        return errno.SUCCESS

    def sock_accept() -> int:
        box = host.box
        descriptor = table[box[ARG0]]
        if not descriptor.is_socket:
            return errno.NOTSOCK
        accept = getattr(descriptor, "accept", None)
        if accept is None or box[ARG1] & ~FDFLAGS_NONBLOCK:
            return errno.INVAL
        if box[OPEN] >= box[OPEN_LIMIT]:
            return errno.MFILE
        numbers = host.map
        number = 3
        while numbers[number] != FREE:
            number += 1
            if number == MAP_ENTRIES:
                return errno.MFILE
        accepted = accept(box[ARG1])
        box[RESULT] = number
        table[number] = accepted
        numbers[number] = HELD
        host.changes += 1
        box[OPEN] += 1
        return errno.SUCCESS

    def fd_close() -> int:
        number = host.box[ARG0]
        descriptor = table.pop(number)
        host.map[number] = FREE
        host.changes += 1
        host.box[OPEN] -= 1
        descriptor.close()
        return errno.SUCCESS

    def move() -> int:
        # The rest of fd_renumber: the router has closed what was at the target.
        source, target = host.box[ARG0], host.box[ARG1]
        table[target] = table.pop(source)
        host.map[source], host.map[target] = FREE, HELD
        host.changes += 1
        return errno.SUCCESS

    def fd_filestat_get() -> int:
        descriptor = table[host.box[ARG0]]
        # dev, ino, filetype, nlink, size, three times: of stdio and sockets only the type says anything.
        stat = (descriptor.filetype << 128) | (1 << 192)
        host.result[:] = stat.to_bytes(RESULT_BYTES, "little")
        return errno.SUCCESS

    def seek(offset: int, whence: int) -> int:
        descriptor = table[host.box[ARG0]]
        move = getattr(descriptor, "seek", None)
        if move is None:
            return errno.SPIPE
        if whence > 2:
            return errno.INVAL
        position = move(offset, whence)
        host.box[RESULT], host.box[RESULT + 1] = position & 0xFFFFFFFF, position >> 32
        return errno.SUCCESS

    def fd_seek() -> int:
        box = host.box
        offset = box[ARG1] | box[ARG1 + 1] << 32
        return seek(offset - (1 << 64) if offset >> 63 else offset, box[ARG2])

    def fd_tell() -> int:
        return seek(0, _SEEK_CUR)

    def poll_oneoff() -> int:
        nonlocal poll
        if poll is None:
            from enarx.runtime.preview1.polling import Poller

            poll = Poller(host).poll
        return poll()

    def wall_clock() -> int:
        box = host.box
        now_ns = wall_ns(host)
        box[WALL], box[WALL + 1] = now_ns & 0xFFFFFFFF, now_ns >> 32
        return errno.SUCCESS

    made = {
        name: host.guard(function)
        for name, function in {
            "move": move,
            "fd_read": fd_read,
            "sock_recv": sock_recv,
            "sock_send": sock_send,
            "fd_close": fd_close,
            "fd_filestat_get": fd_filestat_get,
            "fd_seek": fd_seek,
            "fd_tell": fd_tell,
            "sock_accept": sock_accept,
            "sock_shutdown": sock_shutdown,
            "poll_oneoff": poll_oneoff,
            "wall_clock": wall_clock,
        }.items()
    }
    for name in ("fd_read", "sock_recv"):
        made[name] = _fast_receive(host, made[name], flagged=name == "sock_recv")
    made["sock_send"] = fast_send(host, made["sock_send"])
    return made


def _fast_receive(host: Host, whole: Callable[[], int | None], *, flagged: bool) -> Callable[[], int | None]:
    """Answer what nearly every read is, one buffer and no flags, without a call in between; leave the rest."""
    table = host.table

    def callback() -> int | None:
        box = host.box
        descriptor = table.get(box[DIRECT])
        if descriptor is None or (flagged and not descriptor.is_socket):
            return whole()
        # Called through a name of its own, it is not taken for a method: Python finds it faster.
        read = descriptor.read
        start = box[IOV_PTR]
        try:
            box[COUNT] = read(host.memory[start : start + box[IOV_LEN]])
        except BlockingIOError:
            if not descriptor.flags & FDFLAGS_NONBLOCK:
                return whole()
            box[ERRNO] = errno.AGAIN
        except BaseException as error:  # noqa: BLE001  # nothing may pass through C
            return host.judge(error)
        return None

    return callback


def fast_send(host: Host, whole: Callable[[], int | None]) -> Callable[[], int | None]:
    """Answer what nearly every write of a non-blocking socket is, one buffer and what goes of it; leave the rest.

    Args:
        host: whose workload calls.
        whole: answers the rest.
    """
    table = host.table

    def callback() -> int | None:
        box = host.box
        descriptor = table.get(box[DIRECT])
        if descriptor is None or not descriptor.flags & FDFLAGS_NONBLOCK or not descriptor.is_socket:
            return whole()
        write = descriptor.write
        start = box[IOV_PTR]
        try:
            box[COUNT] = write(host.memory[start : start + box[IOV_LEN]])
        except BaseException as error:  # noqa: BLE001  # nothing may pass through C
            return host.judge(error)
        return None

    return callback


def wait_and(descriptor: Descriptor, move: Callable[[memoryview], int], buffer: memoryview, event: int) -> int:
    """Do what a blocking descriptor would: wait until it is ready, however long the guest's peer takes."""
    poll = select.poll()
    while True:
        poll.register(descriptor.poll_fd, getattr(descriptor, "wants", event))
        poll.poll()
        try:
            return move(buffer)
        except BlockingIOError:
            continue


def wall_ns(host: Host) -> int:
    """Return the time since 1970 as the workload has it, 64 bits."""
    offset_ns = host.wall_offset_ns
    now_ns = time.time_ns() if offset_ns is None else time.monotonic_ns() + offset_ns
    return max(0, min(now_ns, (1 << 64) - 1))
