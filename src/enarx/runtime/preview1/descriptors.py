# SPDX-License-Identifier: Apache-2.0
"""The descriptors Python holds for a workload: stdio. `sockets` and `configured` have others, imported where there are any.

A descriptor is an object with the attributes below; the callbacks in `host` reach it through the workload's table and
never pass a number of the guest's to the operating system. `read` and `write` raise OSError like the calls they make,
BlockingIOError when nothing can be done now.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.runtime.preview1.configured import OutputBudget

UNKNOWN, CHARACTER_DEVICE, REGULAR_FILE, SOCKET_STREAM = 0, 2, 4, 6
"""`filetype` of preview 1."""

FDFLAGS_APPEND = 1
FDFLAGS_NONBLOCK = 4

RIGHT_READ, RIGHT_SEEK, RIGHT_FLAGS, RIGHT_TELL, RIGHT_WRITE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 6
RIGHT_STAT, RIGHT_POLL, RIGHT_SHUTDOWN, RIGHT_ACCEPT = 1 << 21, 1 << 27, 1 << 28, 1 << 29


def _not_open(_: memoryview) -> int:
    raise OSError(9, "not open in this direction")


def _nothing() -> int:
    return 0


class Descriptor:
    """What every descriptor has.

    Args:
        filetype: as the guest sees it.
        rights: as the guest sees them; what is possible is decided by what is here.
        poll_fd: a host descriptor whose readiness is this one's, or -1 when it is always ready.
        flags: `fdflags`, of which only NONBLOCK can be changed.
        read: fills a buffer and returns how much; 0 is the end.
        write: writes what can be written and returns how much.
        waiting: returns how much can be read, or accepted, without asking the operating system.
    """

    __slots__ = ("filetype", "flags", "poll_fd", "read", "rights", "stat", "waiting", "write")

    is_socket = False
    # Whether `waiting` can be more than 0, which a poll then has to ask.
    buffers = False

    def __init__(
        self,
        filetype: int,
        rights: int,
        *,
        poll_fd: int = -1,
        flags: int = 0,
        read: Callable[[memoryview], int] = _not_open,
        write: Callable[[memoryview], int] = _not_open,
        waiting: Callable[[], int] = _nothing,
    ) -> None:
        self.filetype = filetype
        self.rights = rights
        self.poll_fd = poll_fd
        self.flags = flags
        self.stat = b""  # `fdstat` as it was last told, empty when the flags have changed since
        self.read = read
        self.write = write
        self.waiting = waiting

    def asked(self) -> None:
        """Take note that the guest asks for the flags, before it is answered."""

    def told(self) -> None:
        """Take note that the guest has set the flags."""

    def close(self) -> None:
        """Give back what the descriptor holds."""


def _describe(fd: int) -> tuple[int, int, int]:
    """Return the file type the guest sees, its rights to seek, and what to poll (-1: it is always ready)."""
    kind = posix.fstat(fd).st_mode & 0o170000
    if kind == 0o100000:
        return REGULAR_FILE, RIGHT_SEEK | RIGHT_TELL, -1
    if kind == 0o020000:
        # Of the devices only terminals can be waited for; /dev/null is not one to wait for.
        return (CHARACTER_DEVICE, 0, fd) if posix.isatty(fd) else (UNKNOWN, 0, -1)
    # Nor can directories and block devices.
    return UNKNOWN, 0, -1 if kind in {0o040000, 0o060000} else fd


class Stdin(Descriptor):
    """The command's own standard input."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int = 0) -> None:
        filetype, seek, poll_fd = _describe(fd)
        self._fd = fd
        rights = RIGHT_READ | RIGHT_FLAGS | RIGHT_STAT | RIGHT_POLL | seek
        super().__init__(filetype, rights, poll_fd=poll_fd, read=self._read)

    def _read(self, buffer: memoryview) -> int:
        """Read what is there, waiting for it unless the guest asked not to."""
        if self.flags & FDFLAGS_NONBLOCK and self.poll_fd >= 0 and not self._ready():
            raise BlockingIOError
        return posix.readv(self._fd, [buffer])

    def _ready(self) -> bool:
        # The flag is the guest's alone: O_NONBLOCK on a terminal would be everybody's.
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def seek(self, offset: int, whence: int) -> int:
        """Move in a regular file."""
        return posix.lseek(self._fd, offset, whence)


class Output(Descriptor):
    """The command's own standard output or error, counted together against the output limit.

    Args:
        fd: 1 or 2.
        budget: what may be written, or None for no limit.
    """

    __slots__ = ("_budget", "_fd")

    def __init__(self, fd: int, budget: OutputBudget | None) -> None:
        filetype, seek, poll_fd = _describe(fd)
        self._fd = fd
        self._budget = budget
        rights = RIGHT_WRITE | RIGHT_FLAGS | RIGHT_STAT | RIGHT_POLL | seek
        super().__init__(filetype, rights, poll_fd=poll_fd, write=self._write)

    def _write(self, data: memoryview) -> int:
        """Write all of it, or as much as the operating system takes now."""
        budget = self._budget
        if budget is None:
            return posix.write(self._fd, data)
        count = posix.write(self._fd, data[: budget.allowed(len(data))])
        budget.left -= count
        return count

    def seek(self, offset: int, whence: int) -> int:
        """Move in a regular file."""
        return posix.lseek(self._fd, offset, whence)
