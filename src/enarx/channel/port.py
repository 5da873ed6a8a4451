# SPDX-License-Identifier: Apache-2.0
"""A virtio-serial port in the place of a socket: the one way between the Keep of a virtual machine and its host.

Rules of this file:

- A port has one peer at a time, and no end: where the host goes, reading gives nothing, and the next host is on the same
  descriptor. So `Port` stands for a listening socket, and `PortConnection` for the connected one that it gives.
- The kernel takes at most 32 KiB at a time and gives at most a page. Each goes in as few system calls as it can, and what is not
  whole is said so, as a socket says it.
- Whatever was on its way for a host that is gone may come to the next one; telling it apart is the link's affair.

Source: Linux 6.12 drivers/char/virtio_console.c.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterable

from enarx.errors import PlatformError

__all__ = ["Port", "PortConnection"]

_PAGE_BYTES = 4096
_WRITE_BYTES = 32 << 10
# What is copied together for one call: as much as a link gathers before it sends.
_GATHERED_BYTES = 256 << 10


class Port:
    """A port, as what hosts connect to.

    Args:
        fd: of the device, not blocking; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(self._fd, 0)
        # A port without a host is ready all the time; this one is when something about it has changed.
        self._edges = select.epoll()
        self._edges.register(self._fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    @classmethod
    def open(cls, path: str) -> Port:
        """Open a device, for as long as this process lives.

        Raises:
            PlatformError: it cannot be opened.
        """
        try:
            return cls(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
        except OSError as error:
            raise PlatformError(f"cannot open {path}: {error.strerror}") from error

    async def accept(self) -> PortConnection:
        """Wait until a host is there."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._edges, changed.set)
        try:
            while True:
                changed.clear()
                self._edges.poll(0)
                # It is told of hanging up, whatever it is asked for.
                if not self._poll.poll(0):
                    return PortConnection(self._fd)
                await changed.wait()
        finally:
            loop.remove_reader(self._edges)

    def close(self) -> None:
        """Take no further host; the last one's connection goes on."""


class PortConnection:
    """A port, as the connection with one host: what a link needs of a socket.

    Args:
        fd: of the device, not blocking; the port's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._view = memoryview(b"")
        self._pages: list[memoryview] = []

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def close(self) -> None:
        """Do nothing: the next host will be on the same descriptor."""

    def recv_into(self, view: memoryview) -> int:
        """Receive; 0 where the host has gone.

        Raises:
            OSError: BlockingIOError where there is nothing now.
        """
        if view is not self._view:
            # A link always gives the same.
            self._view = view
            self._pages = [view[at : at + _PAGE_BYTES] for at in range(0, len(view), _PAGE_BYTES)]
        return os.readv(self._fd, self._pages)

    def sendmsg(self, pieces: Iterable[bytes | bytearray | memoryview]) -> int:
        """Send as much as there is room for.

        Returns:
            How many bytes of the pieces were taken.

        Raises:
            OSError: BlockingIOError where there is room for none, or no host.
        """
        sent = 0
        gathered: list[bytes | bytearray | memoryview] = []
        size = 0
        for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            if size >= _GATHERED_BYTES:
                taken = self._send(gathered, sent)
                sent += taken
                if taken < size:
                    return sent
                gathered, size = [], 0
        return sent + self._send(gathered, sent) if gathered else sent

    def _send(self, pieces: list[bytes | bytearray | memoryview], sent: int) -> int:
        view = memoryview(b"".join(pieces))
        try:
            return os.writev(self._fd, [view[at : at + _WRITE_BYTES] for at in range(0, len(view), _WRITE_BYTES)])
        except BlockingIOError:
            if not sent:
                raise
            return 0
