# SPDX-License-Identifier: Apache-2.0
"""Threads with a bounded queue: whoever finds it full is told so at once, instead of waiting for longer and longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from enarx.errors import PlatformError

__all__ = ["BusyError", "Room"]

_T = TypeVar("_T")


class BusyError(PlatformError):
    """There is no room for another request; a later one may find some."""


class Room:
    """Threads, and how many may use them or wait for it.

    Args:
        threads: how many.
        most: that use them or wait.
        name: of the threads.
    """

    def __init__(self, threads: int, most: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = most
        self.taken = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        """Do something in one of the threads.

        Raises:
            BusyError: too many wait already.
        """
        if self.taken >= self._most:
            raise BusyError("cannot judge now: found too many requests before this one", hint="ask again in a second")
        self.taken += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self.taken -= 1

    def close(self) -> None:
        """End the threads, once nobody asks any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
