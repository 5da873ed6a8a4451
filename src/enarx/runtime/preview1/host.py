# SPDX-License-Identifier: Apache-2.0
"""What Python answers when a preview 1 workload calls: the functions the router imports, one closure each.

Those that say hello are here, the others in `calls`.

Rules of both files:

- They are on the path of every start, or of every socket call: plain code, and no imports here but to say hello.
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
    COUNT,
    ERRNO,
    IOV_LEN,
    IOV_PTR,
    MAPPED,
    PAGES,
    RESULT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Of `calls`, which a workload without sockets loads when it makes the first of them.
_LATER = (
    "move",
    "fd_read",
    "sock_recv",
    "sock_send",
    "fd_close",
    "fd_filestat_get",
    "fd_seek",
    "fd_tell",
    "sock_accept",
    "sock_shutdown",
    "poll_oneoff",
    "wall_clock",
)
_MAX_TRANSFER_BYTES = 1 << 20
_SET_FLAGS = 0x1F
_POLLOUT = 4
_FDSTAT = slice(0, 24)
_NOTHING = memoryview(b"")


class Host:
    """One workload's side of Python: its descriptors, and the callbacks that reach them.

    Args:
        table: the descriptors by number.

        wall_offset_ns: what to add to monotonic time for that since 1970; None is this machine's clock.

    `box`, `map`, `result` and `memory_source` are set once the router is there, before the workload runs.
    """

    def __init__(self, table: dict[int, Descriptor], wall_offset_ns: int | None = None) -> None:
        self.table = table
        self.wall_offset_ns = wall_offset_ns
        self.box: memoryview = memoryview(b"")
        self.map: memoryview = memoryview(b"")
        self.result: memoryview = memoryview(b"")
        self.memory_source: Callable[[], memoryview] = lambda: memoryview(b"")
        self.memory: memoryview = memoryview(b"")
        self.changes = 0  # of the table, so that a poller knows when what it read of it is old
        self.failure: BaseException | None = None
        self._made: dict[str, Callable[[], int | None]] | None = None

    def mapped(self) -> memoryview:
        """Return the workload's memory as it is now, mapped again if it has grown."""
        box = self.box
        if box[MAPPED] != box[PAGES]:
            self.memory = self.memory_source()
            box[MAPPED] = box[PAGES]
        return self.memory

    def callbacks(self) -> dict[str, Any]:
        """Return the functions of the module `host`, as C sees them. The caller keeps them alive."""
        functions = {name: self.guard(function) for name, function in self._functions().items()}
        functions["fd_fdstat_get"] = self._fdstat_get()
        if any(descriptor.is_socket for descriptor in self.table.values()):
            from enarx.runtime.preview1.calls import fast_send

            functions.update(self._calls())
            functions["fd_write"] = fast_send(self, functions["fd_write"])
        else:
            functions.update((name, self._later(name)) for name in _LATER)
        return {name: capi.HostCallback(function) for name, function in functions.items()}

    def _calls(self) -> dict[str, Callable[[], int | None]]:
        if self._made is None:
            from enarx.runtime.preview1.calls import make_calls

            self._made = make_calls(self)
        return self._made

    def _later(self, name: str) -> Callable[[], int | None]:
        """Return a callback that is made when it is called first."""
        call: Callable[[], int | None] | None = None

        def callback() -> int | None:
            nonlocal call
            if call is None:
                try:
                    call = self._calls()[name]
                except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                    return self.judge(error)
            return call()

        return callback

    def _fdstat_get(self) -> Callable[[], int | None]:
        """Return the callback that guests make most, without the call that `guard` puts before the others."""
        table = self.table

        def fd_fdstat_get() -> int | None:
            try:
                descriptor = table[self.box[ARG0]]
                stat = descriptor.stat
                if not stat:
                    descriptor.asked()
                    words = descriptor.filetype | descriptor.flags << 16 | descriptor.rights << 64
                    stat = descriptor.stat = words.to_bytes(24, "little")
                self.result[_FDSTAT] = stat
            except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                return self.judge(error)
            return None

        return fd_fdstat_get

    def guard(self, function: Callable[[], int]) -> Callable[[], int | None]:
        """Turn a function that returns an errno into a callback."""

        def callback() -> int | None:
            try:
                self.box[ERRNO] = function()
            except BaseException as error:  # noqa: BLE001  # nothing may pass through C
                return self.judge(error)
            return None

        return callback

    def judge(self, error: BaseException) -> int | None:
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

        def fd_write() -> int:
            return self.send(table[self.box[ARG0]])

        def fd_fdstat_set_flags() -> int:
            descriptor = table[self.box[ARG0]]
            flags = self.box[ARG1]
            if flags & ~_SET_FLAGS:
                return errno.INVAL
            descriptor.flags = flags & FDFLAGS_NONBLOCK | descriptor.flags & ~FDFLAGS_NONBLOCK
            descriptor.stat = b""
            descriptor.told()
            return errno.SUCCESS

        def fd_prestat_get() -> int:
            number = self.box[ARG0]
            table[number]  # an unknown one is BADF
            if number < 3:
                return errno.BADF
            # C libraries stop looking for directories at the first BADF and end the program at any other error, so
            # a socket has to succeed with a tag that is not the directory's, 0.
            self.box[RESULT], self.box[RESULT + 1] = 1, 0
            return errno.SUCCESS

        def refuse() -> int:
            table[self.box[ARG0]]  # an unknown one is BADF
            return self.box[ERRNO]

        return {
            "refuse": refuse,
            "fd_write": fd_write,
            "fd_prestat_get": fd_prestat_get,
            "fd_fdstat_set_flags": fd_fdstat_set_flags,
        }

    def buffers(self) -> list[memoryview] | None:
        """Return the guest's buffers of this call, or None if one is out of bounds."""
        box = self.box
        memory = self.mapped()
        if box[ARG2] > 1:
            return self._iovecs(memory, box[ARG1], box[ARG2])
        if not box[ARG2] or not box[IOV_LEN]:
            return []
        start = box[IOV_PTR]
        end = start + box[IOV_LEN]
        return [memory[start:end]] if end <= len(memory) else None

    @staticmethod
    def _iovecs(memory: memoryview, at: int, count: int) -> list[memoryview] | None:
        """Return the buffers of an iovec list of more than one entry, or None if one of them is out of bounds.

        The list itself was found to be in bounds by the router.
        """
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

    def send(self, descriptor: Descriptor) -> int:
        """Send the guest's buffers: all of them if it blocks, else what goes."""
        box = self.box
        found = self.buffers()
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
                    from enarx.runtime.preview1.calls import wait_and

                    count = wait_and(descriptor, write, rest, _POLLOUT)
                done += count
                rest = rest[count:] if count < len(rest) else _NOTHING
        box[COUNT] = done
        return errno.SUCCESS
