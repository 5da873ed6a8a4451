# SPDX-License-Identifier: Apache-2.0
"""Standard input and output of this process as ends of asyncio streams, whatever they are: terminal, pipe, socket or file.

Their descriptors are shared with other processes, so they are left as they are: blocking. Input is read when the system says
that there is some. Output is written by a thread, so that a reader who does not read stops nothing but the output.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import threading
from collections import deque

__all__ = ["Input", "Output"]

_PIPE_BYTES = 1 << 20
_MAX_WAITING_BYTES = 4 << 20
_MAX_PIECES = 512
"""Of one `writev`; the system takes 1024."""


class Input:
    """Bytes from a descriptor.

    Args:
        fd: to read from; it is not closed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _enlarge(fd)

    async def read(self, max_bytes: int) -> bytes:
        """Return some bytes as soon as there are any; none at the end, or where it cannot be read."""
        if not self._is_ready():
            with contextlib.suppress(PermissionError):
                # A file is refused here, because it is always ready.
                await self._wait()
        try:
            return os.read(self._fd, max_bytes)
        except OSError:
            # A terminal that is gone, a descriptor that is only for writing: there is nothing more to come.
            return b""

    def _is_ready(self) -> bool:
        """Say whether there is something at once: asking costs less than waiting for it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(self._fd, wake)
        except (OSError, ValueError) as error:
            raise PermissionError from error
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)


class Output:
    """Bytes to descriptors, in the order in which they were given, by a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._enlarged: set[int] = set()
        self._is_ending = False
        self._condition = threading.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self._done = asyncio.Event()
        self.failed: asyncio.Future[OSError] = self._loop.create_future()
        """Done with the reason when a descriptor cannot be written any more."""
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    async def write(self, fd: int, data: bytes) -> None:
        """Hand bytes over, waiting while too many are not written yet. After a failure they go nowhere."""
        await self._room.wait()
        if fd not in self._enlarged:
            self._enlarged.add(fd)
            _enlarge(fd)
        with self._condition:
            self._pieces.append((fd, data))
            self._size += len(data)
            if self._size >= _MAX_WAITING_BYTES:
                self._room.clear()
            self._condition.notify()

    async def close(self) -> None:
        """Wait until everything is written, and end the thread."""
        with self._condition:
            self._is_ending = True
            self._condition.notify()
        await self._done.wait()

    def _work(self) -> None:
        failure: OSError | None = None
        while (batch := self._take()) is not None:
            fd, pieces = batch
            if failure is None:
                try:
                    _write_all(fd, pieces)
                except OSError as error:
                    failure = error
                    self._tell(self._fail, error)
            self._tell(self._room.set)
        self._tell(self._done.set)

    def _take(self) -> tuple[int, list[bytes]] | None:
        """Return what waits for one descriptor, or None at the end."""
        with self._condition:
            while not self._pieces:
                if self._is_ending:
                    return None
                self._condition.wait()
            fd = self._pieces[0][0]
            pieces: list[bytes] = []
            while self._pieces and self._pieces[0][0] == fd and len(pieces) < _MAX_PIECES:
                pieces.append(self._pieces.popleft()[1])
            self._size -= sum(map(len, pieces))
            return fd, pieces

    def _tell(self, call: object, *arguments: object) -> None:
        # The loop is closed where nobody waits for the output any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)  # type: ignore[arg-type]

    def _fail(self, error: OSError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


def _write_all(fd: int, pieces: list[bytes]) -> None:
    views = [memoryview(piece) for piece in pieces]
    while views:
        try:
            written = os.writev(fd, views)
        except BlockingIOError:
            # Somebody who shares the pipe or terminal with us made it non-blocking.
            select.select((), (fd,), ())
            continue
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def _enlarge(fd: int) -> None:
    """Give a pipe more room, so that its ends take turns less often."""
    # What is no pipe is refused, and so is one that is beyond what the user may have in pipes.
    with contextlib.suppress(OSError, ValueError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _PIPE_BYTES:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
