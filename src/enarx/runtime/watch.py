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
    from typing import NoReturn

    from enarx.errors import EnarxError

_SIGHUP, _SIGINT, _SIGTERM = 1, 2, 15
_SIGNALLED = 128
INTERRUPTED_STATUS = _SIGNALLED + _SIGINT
_LONGEST_WAIT_S = 1_000_000.0  # the host counts milliseconds in an int
# The workload may have filled a pipe that nobody reads, where our last line goes too.
_LAST_WORDS_S = 1.0
_STACK_BYTES = 1 << 20


def watch(
    timeout_s: float | None, fail: Callable[[EnarxError], object], leave: Callable[[], object] | None = None
) -> None:
    """Watch this process from now on. Call it in the main thread, as late as possible before the workload.

    A later call takes over Ctrl-C; the limit of an earlier one stays.

    Args:
        timeout_s: of wall time from now, or None for no limit.
        fail: tells the user about an error.
        leave: is called before the process ends, to remove what it made; None where there is nothing.
    """
    read_end, write_end = posix.pipe2(posix.O_CLOEXEC)
    posix.set_blocking(write_end, False)
    _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    # Where there is nothing to remove, the system's way with the others is quite right.
    for number in (_SIGINT,) if leave is None else (_SIGINT, _SIGHUP, _SIGTERM):
        # Who started us may want Ctrl-C ignored, as shells do for jobs in the background.
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _woken)
    # The usual 8 MiB are laid out for huge pages, which costs more than starting the thread.
    _thread.stack_size(_STACK_BYTES)
    _thread.start_new_thread(_wait, (read_end, timeout_s, fail, leave))
    _thread.stack_size(0)


def _woken(number: int, frame: FrameType | None) -> None:
    """Do nothing: a handler has to be there for the signal's number to be written to the pipe."""


def _wait(
    pipe: int,
    timeout_s: float | None,
    fail: Callable[[EnarxError], object],
    leave: Callable[[], object] | None,
) -> None:
    if timeout_s is None:
        _end(_SIGNALLED + posix.read(pipe, 1)[0], leave)
    import select
    import time

    end_s = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (left_s := end_s - time.monotonic()) > 0:
        if poll.poll(max(1, int(min(left_s, _LONGEST_WAIT_S) * 1000))):
            _end(_SIGNALLED + posix.read(pipe, 1)[0], leave)
    _thread.start_new_thread(_end_without_words, ())
    try:
        fail(
            KeepError(
                f"workload stopped: wall time: found more than {timeout_s:g} s, want at most {timeout_s:g} s",
                hint="raise --timeout, or limits.timeout in Enarx.toml",
            )
        )
    finally:
        _end(KeepError.status, leave)


def _end(status: int, leave: Callable[[], object] | None) -> NoReturn:
    try:
        if leave is not None:
            leave()
    finally:
        posix._exit(status)


def _end_without_words() -> None:
    import time

    time.sleep(_LAST_WORDS_S)
    posix._exit(KeepError.status)
