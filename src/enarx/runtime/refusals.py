# SPDX-License-Identifier: Apache-2.0
"""Lines on stderr about peers that were refused, or that refused us: whoever runs the workload has to find out why.

Guests see connections that never come or break, and no reason. Anybody can be refused as often as he likes, so what is said is bounded,
and who serves never waits for whoever reads it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Refusals"]

AT_ONCE = 8
"""Lines that may come one after the other."""

INTERVAL_S = 10.0
"""Then one in this time."""

_MAX_BYTES = 2048


class Refusals:
    """Says them; any number of threads may.

    Args:
        monotonic: seconds.
        fd: where lines go.
    """

    __slots__ = ("_at", "_fd", "_left", "_lock", "_monotonic", "_unsaid")

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic, fd: int = 2) -> None:
        self._monotonic = monotonic
        self._fd = fd
        self._left = float(AT_ONCE)
        self._at = monotonic()
        self._unsaid = 0
        self._lock = threading.Lock()

    def tell(self, text: str) -> None:
        """Write a line, or count it where too many were written or nobody reads them.

        Args:
            text: one line, in which nothing is as a peer wrote it.
        """
        with self._lock:
            now = self._monotonic()
            self._left = min(float(AT_ONCE), self._left + max(0.0, now - self._at) / INTERVAL_S)
            self._at = now
            if self._left < 1.0 or not self._has_room():
                self._unsaid += 1
                return
            self._left -= 1.0
            more = f" (and {self._unsaid} more that were not said)" if self._unsaid else ""
            self._unsaid = 0
            with contextlib.suppress(OSError):
                os.write(self._fd, f"enarx: {text[:_MAX_BYTES]}{more}\n".encode())

    def _has_room(self) -> bool:
        """Return whether a line can be written without waiting: what a pipe that is ready for writing takes at once is more."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))
