# SPDX-License-Identifier: Apache-2.0
"""End by SIGTERM or SIGHUP as by Ctrl-C: on the way out a command removes what it had made for itself.

The system's own way with these signals leaves temporary folders behind, and one of them may hold a package in the clear.
"""

from __future__ import annotations

import contextlib
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

__all__ = ["unwound_by_signals"]

_SIGNALLED = 128


@contextlib.contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Leave the block by SystemExit with 128 and the signal's number, in the main thread; in another one signals stay as they are.

    Who started us may want a signal ignored, as `nohup` does: it stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(_SIGNALLED + number)
