# SPDX-License-Identifier: Apache-2.0
"""What Python answers when a preview 1 workload calls: the functions the router imports, one closure each.

Rules of this file:

- It is on the path of every start and of every socket call: plain code, no imports that are not needed to say hello.
- The guest is hostile. Its numbers index our table or nothing; its pointers are compared with the size of its memory
  before a byte moves; a slice of a memoryview never reaches past it.
- A callback returns None, or the pointer of a trap when the workload has to end; it never lets an exception out,
  since C would swallow it. What ended the workload is in `failure`.

Arguments and answers travel in the mailbox (`mailbox`, `tools/make_overlay.py`). Source of the functions: WASI
snapshot preview 1.
"""

from __future__ import annotations

from enarx.runtime import capi
from enarx.runtime.preview1 import errno
from enarx.runtime.preview1.descriptors import FDFLAGS_NONBLOCK, Descriptor
from enarx.runtime.preview1.mailbox import (
    ARG0,
    ARG1,
    ARG2,
    ARG3,
    COUNT,
    ERRNO,
    FREE,
    HELD,
    IOV_LEN,
    IOV_PTR,
    MAP_ENTRIES,
    OPEN,
    OPEN_LIMIT,
    PAGES,
    WALL,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_TRANSFER_BYTES = 1 << 20
_SET_FLAGS = 0x1F
_SEEK_CUR = 1
_POLLIN, _POLLOUT = 1, 4
_NOTHING = memoryview(b"")


class Host:
    """One workload's side of Python: its descriptors, and the callbacks that reach them.

    Args:
        table: the descriptors by number.

        wall_offset_ns: what to add to monotonic time for that since 1970; None is this machine's clock.

    `box`, `map` and `memory_source` are set once the router is there, before the workload runs.
    """

    def __init__(self, table: dict[int, Descriptor], wall_offset_ns: int | None = None) -> None:
        self.table = table
        self.wall_offset_ns = wall_offset_ns
        self.box: memoryview = memoryview(b"")
        self.map: memoryview = memoryview(b"")
        self.memory_source: Callable[[], memoryview] = lambda: memoryview(b"")
        self.memory: memoryview = memoryview(b"")
        self.pages = -1
        self.changes = 0  # of the table, so that a poller knows when what it read of it is old
        self.failure: BaseException | None = None
        self._poll: Callable[[], int] | None = None

    def refresh(self, pages: int) -> memoryview:
        """Map the workload's memory again after it has grown."""
        self.pages = pages
        self.memory = self.memory_source()
        return self.memory

    def iovecs(self, at: int, count: int) -> list[memoryview] | None:
        """Return the buffers of an iovec list of more than one entry, or None if one of them is out of bounds.

        The list itself was found to be in bounds by the router.
        """
        memory = self.memory
        size = len(memory)
        words = memory[at : at + 8 * count]
        found = []
        total = 0
        for n in range(0, 8 * count, 8):
            start = int.from_bytes(words[n : n + 4], "little")
            length = int.from_bytes(words[n + 4 : n + 8], "little")
            if start + length > size:
                return None
            length = min(length, _MAX_TRANSFER_BYTES - total)
            if length:
                found.append(memory[start : start + length])
                total += length
        return found

    def callbacks(self) -> dict[str, Any]:
        """Return the functions of the module `host`, as C sees them. The caller keeps them alive."""
        functions = {name: self._guard(function) for name, function in self._functions().items()}
        for name in ("fd_read", "sock_recv"):
            functions[name] = self._fast_receive(functions[name], flagged=name == "sock_recv")
        for name in ("fd_write", "sock_send"):
            functions[name] = self._fast_send(functions[name], flagged=name == "sock_send")
        return {name: capi.HostCallback(function) for name, function in functions.items()}

    def _guard(self, function: Callable[[], int]) -> Callable[[], int | None]:
        """Turn a function that returns an errno into a callback."""

        def callback() -> int | None:
            try:
                self.box[ERRNO] = function()
            except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                return self._judge(error)
            return None

        return callback

    def _fast_receive(self, whole: Callable[[], int | None], *, flagged: bool) -> Callable[[], int | None]:
        """Answer what nearly every read is, one buffer and no flags, without a call in between; leave the rest."""
        table = self.table

        def callback() -> int | None:
            box = self.box
            memory = self.memory
            start = box[IOV_PTR]
            end = start + box[IOV_LEN]
            if box[ARG2] != 1 or box[PAGES] != self.pages or end > len(memory) or (flagged and box[ARG3]):
                return whole()
            descriptor = table.get(box[ARG0])
            if descriptor is None or (flagged and not descriptor.is_socket):
                return whole()
            # Called through a name of its own, it is not taken for a method: Python finds it faster.
            read = descriptor.read
            try:
                box[COUNT] = read(memory[start:end])
                box[ERRNO] = 0
            except BlockingIOError:
                if not descriptor.flags & FDFLAGS_NONBLOCK:
                    return whole()
                box[COUNT] = 0
                box[ERRNO] = errno.AGAIN
            except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                return self._judge(error)
            return None

        return callback

    def _fast_send(self, whole: Callable[[], int | None], *, flagged: bool) -> Callable[[], int | None]:
        """Answer what nearly every write of a non-blocking socket is: one buffer, and what goes of it."""
        table = self.table

        def callback() -> int | None:
            box = self.box
            memory = self.memory
            start = box[IOV_PTR]
            end = start + box[IOV_LEN]
            if box[ARG2] != 1 or box[PAGES] != self.pages or end > len(memory) or (flagged and box[ARG3]):
                return whole()
            descriptor = table.get(box[ARG0])
            if descriptor is None or not descriptor.is_socket or not descriptor.flags & FDFLAGS_NONBLOCK:
                return whole()
            write = descriptor.write
            try:
                box[COUNT] = write(memory[start:end])
                box[ERRNO] = 0
            except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                box[COUNT] = 0
                return self._judge(error)
            return None

        return callback

    def _judge(self, error: BaseException) -> int | None:
        """Answer the guest with an errno, or end it when the error is not its own."""
        box = self.box
        if isinstance(error, BlockingIOError):
            box[ERRNO] = errno.AGAIN
        elif isinstance(error, OSError):
            box[ERRNO] = errno.from_host(error)
        elif isinstance(error, KeyError) and box[ARG0] not in self.table:
            box[ERRNO] = errno.BADF
        else:
            return self._end(error)
        return None

    def _end(self, error: BaseException) -> int:
        self.failure = error
        trap: int = capi.trap_new(b"ended by the host", 17)
        return trap

    def _functions(self) -> dict[str, Callable[[], int]]:
        table = self.table

        def buffers() -> list[memoryview] | None:
            """Return the guest's buffers of this call, or None if one is out of bounds."""
            box = self.box
            memory = self.memory if box[PAGES] == self.pages else self.refresh(box[PAGES])
            if box[ARG2] > 1:
                return self.iovecs(box[ARG1], box[ARG2])
            if not box[ARG2] or not box[IOV_LEN]:
                return []
            start = box[IOV_PTR]
            end = start + box[IOV_LEN]
            return [memory[start:end]] if end <= len(memory) else None

        def receive(descriptor: Descriptor, read: Callable[[memoryview], int]) -> int:
            """Fill the guest's buffers with what is there, waiting only for the first byte."""
            box = self.box
            box[COUNT] = 0
            found = buffers()
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
                    count = self._wait_and(descriptor, read, buffer, _POLLIN)
                done += count
                if count < len(buffer) or waits:
                    break
            box[COUNT] = done
            return errno.SUCCESS

        def send(descriptor: Descriptor) -> int:
            """Send the guest's buffers: all of them if it blocks, else what goes."""
            box = self.box
            box[COUNT] = 0
            found = buffers()
            if found is None:
                return errno.FAULT
            write = descriptor.write
            done = 0
            for buffer in found:
                rest = buffer
                while rest:
                    try:
                        count = write(rest)
                    except BlockingIOError:
                        if descriptor.flags & FDFLAGS_NONBLOCK:
                            box[COUNT] = done
                            return errno.SUCCESS if done else errno.AGAIN
                        count = self._wait_and(descriptor, write, rest, _POLLOUT)
                    done += count
                    rest = rest[count:] if count < len(rest) else _NOTHING
            box[COUNT] = done
            return errno.SUCCESS

        def fd_read() -> int:
            descriptor = table[self.box[ARG0]]
            return receive(descriptor, descriptor.read)

        def fd_write() -> int:
            return send(table[self.box[ARG0]])

        def sock_recv() -> int:
            descriptor = table[self.box[ARG0]]
            if not descriptor.is_socket:
                return errno.NOTSOCK
            flags = self.box[ARG3]
            return receive(descriptor, descriptor.receiver(flags) if flags else descriptor.read)  # type: ignore[attr-defined]

        def sock_send() -> int:
            descriptor = table[self.box[ARG0]]
            if not descriptor.is_socket:
                return errno.NOTSOCK
            return errno.NOTSUP if self.box[ARG3] else send(descriptor)

        def sock_shutdown() -> int:
            descriptor = table[self.box[ARG0]]
            if not descriptor.is_socket:
                return errno.NOTSOCK
            how = self.box[ARG1]
            if not 1 <= how <= 3:
                return errno.INVAL
            descriptor.shutdown(how)  # type: ignore[attr-defined]
            return errno.SUCCESS

        def sock_accept() -> int:
            box = self.box
            descriptor = table[box[ARG0]]
            if not descriptor.is_socket:
                return errno.NOTSOCK
            accept = getattr(descriptor, "accept", None)
            if accept is None or box[ARG1] & ~FDFLAGS_NONBLOCK:
                return errno.INVAL
            if box[OPEN] >= box[OPEN_LIMIT]:
                return errno.MFILE
            numbers = self.map
            number = 3
            while numbers[number] != FREE:
                number += 1
                if number == MAP_ENTRIES:
                    return errno.MFILE
            accepted = accept(box[ARG1])
            if not self.store(box[ARG2], number.to_bytes(4, "little")):
                accepted.close()
                return errno.FAULT
            table[number] = accepted
            numbers[number] = HELD
            self.changes += 1
            box[OPEN] += 1
            return errno.SUCCESS

        def fd_close() -> int:
            number = self.box[ARG0]
            descriptor = table.pop(number)
            self.map[number] = FREE
            self.changes += 1
            self.box[OPEN] -= 1
            descriptor.close()
            return errno.SUCCESS

        def move() -> int:
            # The rest of fd_renumber: the router has closed what was at the target.
            source, target = self.box[ARG0], self.box[ARG1]
            table[target] = table.pop(source)
            self.map[source], self.map[target] = FREE, HELD
            self.changes += 1
            return errno.SUCCESS

        def fd_fdstat_get() -> int:
            box = self.box
            descriptor = table[box[ARG0]]
            stat = descriptor.stat
            if not stat:
                descriptor.asked()
                words = descriptor.filetype | descriptor.flags << 16 | descriptor.rights << 64
                stat = descriptor.stat = words.to_bytes(24, "little")
            start = box[ARG1]
            end = start + 24
            memory = self.memory
            if box[PAGES] != self.pages or end > len(memory):
                return errno.SUCCESS if self.store(start, stat) else errno.FAULT
            memory[start:end] = stat
            return errno.SUCCESS

        def fd_fdstat_set_flags() -> int:
            descriptor = table[self.box[ARG0]]
            flags = self.box[ARG1]
            if flags & ~_SET_FLAGS:
                return errno.INVAL
            descriptor.flags = flags & FDFLAGS_NONBLOCK | descriptor.flags & ~FDFLAGS_NONBLOCK
            descriptor.stat = b""
            descriptor.told()
            return errno.SUCCESS

        def fd_filestat_get() -> int:
            descriptor = table[self.box[ARG0]]
            # dev, ino, filetype, nlink, size, three times: of stdio and sockets only the type says anything.
            stat = (descriptor.filetype << 128) | (1 << 192)
            return errno.SUCCESS if self.store(self.box[ARG1], stat.to_bytes(64, "little")) else errno.FAULT

        def fd_prestat_get() -> int:
            number = self.box[ARG0]
            table[number]  # an unknown one is BADF
            if number < 3:
                return errno.BADF
            # C libraries stop looking for directories at the first BADF and end the program at any other error, so
            # a socket has to succeed with a tag that is not the directory's, 0.
            return errno.SUCCESS if self.store(self.box[ARG1], b"\x01" + bytes(7)) else errno.FAULT

        def seek(offset: int, whence: int, result: int) -> int:
            descriptor = table[self.box[ARG0]]
            move = getattr(descriptor, "seek", None)
            if move is None:
                return errno.SPIPE
            if whence > 2:
                return errno.INVAL
            position = move(offset, whence)
            return errno.SUCCESS if self.store(result, position.to_bytes(8, "little")) else errno.FAULT

        def fd_seek() -> int:
            box = self.box
            offset = box[ARG1] | box[ARG1 + 1] << 32
            return seek(offset - (1 << 64) if offset >> 63 else offset, box[ARG2], box[ARG3])

        def fd_tell() -> int:
            return seek(0, _SEEK_CUR, self.box[ARG1])

        def refuse() -> int:
            table[self.box[ARG0]]  # an unknown one is BADF
            return self.box[ERRNO]

        def poll_oneoff() -> int:
            if self._poll is None:
                from enarx.runtime.preview1.polling import Poller

                self._poll = Poller(self).poll
            return self._poll()

        def wall_clock() -> int:
            box = self.box
            wall_ns = self.wall_ns()
            box[WALL], box[WALL + 1] = wall_ns & 0xFFFFFFFF, wall_ns >> 32
            return errno.SUCCESS

        return {
            "refuse": refuse,
            "move": move,
            "fd_read": fd_read,
            "fd_write": fd_write,
            "sock_recv": sock_recv,
            "sock_send": sock_send,
            "fd_close": fd_close,
            "fd_fdstat_get": fd_fdstat_get,
            "fd_fdstat_set_flags": fd_fdstat_set_flags,
            "fd_filestat_get": fd_filestat_get,
            "fd_prestat_get": fd_prestat_get,
            "fd_seek": fd_seek,
            "fd_tell": fd_tell,
            "sock_accept": sock_accept,
            "sock_shutdown": sock_shutdown,
            "poll_oneoff": poll_oneoff,
            "wall_clock": wall_clock,
        }

    def wall_ns(self) -> int:
        """Return the time since 1970 as the workload has it, 64 bits."""
        import time

        offset_ns = self.wall_offset_ns
        wall_ns = time.time_ns() if offset_ns is None else time.monotonic_ns() + offset_ns
        return max(0, min(wall_ns, (1 << 64) - 1))

    def store(self, at: int, data: bytes) -> bool:
        """Write into the workload's memory; False if that is out of bounds."""
        box = self.box
        memory = self.memory if box[PAGES] == self.pages else self.refresh(box[PAGES])
        end = at + len(data)
        if end > len(memory):
            return False
        memory[at:end] = data
        return True

    def _wait_and(
        self, descriptor: Descriptor, move: Callable[[memoryview], int], buffer: memoryview, event: int
    ) -> int:
        """Do what a blocking descriptor would: wait until it is ready, however long the guest's peer takes."""
        import select

        poll = select.poll()
        while True:
            poll.register(descriptor.poll_fd, getattr(descriptor, "wants", event))
            poll.poll()
            try:
                return move(buffer)
            except BlockingIOError:
                continue
