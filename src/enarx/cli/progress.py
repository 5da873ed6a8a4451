# SPDX-License-Identifier: Apache-2.0
"""Show how far a long step is, on stderr."""

from __future__ import annotations

import contextlib

from enarx.cli import ui

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["show_progress"]


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress: on a terminal one line that changes and goes at the end, else a line for each step.

    Yields:
        what is told what is done, how much of it, and how much there is; 0 where that is not known.
    """
    import sys

    shown = [""]
    terminal = sys.stderr.isatty()

    def show(what: str, done: int, total: int) -> None:
        if terminal:
            text = f"{what}: {done * 100 // total}%" if total else what
            if text != shown[0]:
                shown[0] = text
                print(f"\r\x1b[Kenarx: {text}", end="", file=sys.stderr, flush=True)
        elif what != shown[0]:
            shown[0] = what
            ui.note(what + (f" ({total} bytes)" if total else ""))

    try:
        yield show
    finally:
        if terminal and shown[0]:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
