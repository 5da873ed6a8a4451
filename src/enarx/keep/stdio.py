# SPDX-License-Identifier: Apache-2.0
"""The Keep's ends of a workload's standard streams: read into the log, and written from what a tenant sent.

Both directions have backpressure: nothing is read while the log has no room that is not pinned, and whoever writes to the inlet
minds how much of it is waiting. The bytes are nobody's business here.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice

from enarx.keep.log import Log
from enarx.wire.session import MAX_DATA_BYTES

__all__ = ["Inlet", "Outlet"]

_READS_AT_ONCE = 8
_PIECES_AT_ONCE = 64
_MERGED_BYTES = 4096


class Outlet:
    """What comes out of a workload by one of its outputs.

    Args:
        fd: for reading; closed at the end.
        name: `stdout` or `stderr`.
        log: gets it.
        changed: is called whenever there was some, and at the end.
    """

    def __init__(self, fd: int, name: str, log: Log, changed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd, self._name, self._log, self._changed = fd, name, log, changed
        self._reading = False
        self.ended = False
        """Whether all of it is in the log."""
        os.set_blocking(fd, False)
        self.resume()

    def resume(self) -> None:
        """Read on, after the log had no room."""
        if not self._reading and not self.ended:
            self._reading = True
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Read no more."""
        if not self.ended:
            self._pause()
            self.ended = True
            os.close(self._fd)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        for _ in range(_READS_AT_ONCE):
            if not self._log.has_room(MAX_DATA_BYTES):
                self._pause()
                break
            try:
                data = os.read(self._fd, MAX_DATA_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.close()
                break
            self._log.append(self._name, data)
        self._changed()


class Inlet:
    """What goes into a workload's standard input.

    Args:
        fd: for writing; closed after the end was written, or when nobody reads any more.
        changed: is called when some of it was taken.
    """

    def __init__(self, fd: int, changed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd, self._changed = fd, changed
        self._waiting: deque[memoryview] = deque()
        self._writing = False
        # What comes in one turn of the loop leaves together.
        self._soon: asyncio.Handle | None = None
        self._ending = False
        self._closed = False
        self.waiting_bytes = 0
        """Given and not yet taken by the workload."""
        os.set_blocking(fd, False)

    @property
    def ended(self) -> bool:
        """Whether nothing more can be given."""
        return self._ending or self._closed

    def write(self, data: bytes) -> None:
        """Give the workload bytes, or nothing for the end. After the end they are thrown away."""
        if self.ended:
            return
        if data:
            self.waiting_bytes += len(data)
            if self._waiting and len(self._waiting[-1]) + len(data) <= _MERGED_BYTES:
                # Each piece takes two hundred bytes beside its own.
                data = bytes(self._waiting.pop()) + data
            self._waiting.append(memoryview(data))
        else:
            self._ending = True
        if not self._writing and self._soon is None:
            self._soon = self._loop.call_soon(self._write)

    def close(self) -> None:
        """Give no more, whatever is waiting."""
        if self._closed:
            return
        self._closed = True
        self._stop_writing()
        self._waiting.clear()
        self.waiting_bytes = 0
        os.close(self._fd)

    def _stop_writing(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _write(self) -> None:
        self._soon = None
        try:
            while self._waiting:
                written = os.writev(self._fd, list(islice(self._waiting, _PIECES_AT_ONCE)))
                self.waiting_bytes -= written
                while written and written >= len(self._waiting[0]):
                    written -= len(self._waiting.popleft())
                if written:
                    self._waiting[0] = self._waiting[0][written:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._write)
        except ConnectionError:
            # It closed its standard input, which is its right; also before it has read what is there.
            self.close()
        else:
            self._stop_writing()
            if self._ending:
                self.close()
        self._changed()
