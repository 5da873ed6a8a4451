# SPDX-License-Identifier: Apache-2.0
"""End what does not end by itself: Ctrl-C, and the limit of wall time.

A workload runs in the engine's native code, where Python sees no signal and no exception; it may loop, or sleep in a
call of the operating system. So a thread waits for what can end the run, says why, and ends the whole process. It
costs the workload nothing, unlike a check in its loops.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no `enum`
import _thread
import posix

from enarx.errors import KeepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from enarx.errors import EnarxError

_SIGINT = 2
INTERRUPTED_STATUS = 130


def watch(timeout_s: float | None, fail: Callable[[EnarxError], int]) -> None:
    """Watch this process from now on. Call it in the main thread, as late as possible before the workload.

    Args:
        timeout_s: of wall time from now, or None for no limit.
        fail: tells the user about an error and returns the exit status.
    """
    read_end, write_end = posix.pipe2(posix.O_CLOEXEC)
    posix.set_blocking(write_end, False)
    _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _signal.signal(_SIGINT, _woken)
    _thread.start_new_thread(_wait, (read_end, timeout_s, fail))


def _woken(number: int, frame: FrameType | None) -> None:
    """Do nothing: a handler has to be there for the signal's number to be written to the pipe."""


def _wait(pipe: int, timeout_s: float | None, fail: Callable[[EnarxError], int]) -> None:
    if timeout_s is None:
        posix.read(pipe, 1)
        posix._exit(INTERRUPTED_STATUS)
    import select

    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if poll.poll(max(1, int(timeout_s * 1000))):
        posix._exit(INTERRUPTED_STATUS)
    posix._exit(
        fail(
            KeepError(
                f"workload stopped: wall time: found more than {timeout_s:g} s, want at most {timeout_s:g} s",
                hint="raise --timeout, or limits.timeout in Enarx.toml",
            )
        )
    )
