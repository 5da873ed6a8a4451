# SPDX-License-Identifier: Apache-2.0
"""Worker processes of a service: one for each processor, since Python's lock lets one thread run at a time.

The workers share the listening sockets and the numbers of their connections; each request has an instance of its own
anyway. They are forked once everything is loaded and before any thread or epoll of the service exists, and die with the
process that was started: the kernel sees to it (docs/decisions/0013-service-workers.md).

Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading

from enarx.errors import KeepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.runtime.workload import Workload

MAX_WORKERS = 16
_PR_SET_PDEATHSIG = 1


def suitable_count(workload: Workload) -> int:
    """Return how many processes should serve a workload.

    An output limit is one count for the whole workload, which processes do not share, and a broker answers one process; so
    there is one then.
    """
    if workload.limits.output_bytes is not None or workload.broker is not None:
        return 1
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS, workload.limits.open_files)


class Worker:
    """One process of a service, and how many connections each has.

    Args:
        count: of all of them.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._number = 0
        self._others: list[int] = []
        # One word for each process, which it alone writes.
        self._board = memoryview(mmap.mmap(-1, 4 * count)).cast("I")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that was started."""
        return self._number == 0

    def fork(self) -> None:
        """Become all of them, before any thread of the service exists. It returns in each."""
        first = os.getpid()
        for number in range(1, self.count):
            pid = os.fork()
            if pid == 0:
                _die_with(first)
                self._number = number
                self._others = []
                return
            self._others.append(pid)

    def watch(self, fail: Callable[[BaseException], None]) -> None:
        """Watch the others, none of which ends of itself, in a thread of the first.

        Args:
            fail: is told when one has ended without a word; when it has said why, this process ends with its status.
        """
        if self._others:
            threading.Thread(target=_await_end, args=(self._others, fail), daemon=True).start()

    def tell(self, connection_count: int) -> None:
        """Put down how many connections this process has."""
        self._board[self._number] = connection_count

    def has_most(self) -> bool:
        """Return whether another process has fewer connections."""
        return self._board[self._number] > min(self._board)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the kernel was asked to tell.
        os._exit(0)


def _await_end(workers: list[int], fail: Callable[[BaseException], None]) -> None:
    pid, status = os.waitpid(-1, 0)
    while pid not in workers:
        pid, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    if code > 0:
        # It has said why; this process ends the same way.
        os._exit(code)
    fail(KeepError(f"service stopped: worker process: found it ended by signal {-code}, want it to serve"))
