# SPDX-License-Identifier: Apache-2.0
"""All printing of the command line: facts on stdout, everything else on stderr.

`posix` is what `os` is made of, and `os` costs a tenth of a start. Bytes go straight to the descriptors, so that nothing
of ours is buffered when a workload writes beside us or a limit ends the command at once.
"""

from __future__ import annotations

import posix

from enarx.errors import EnarxError, PlatformError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141


def _write(fd: int, text: str) -> None:
    data = text.encode("utf-8", "replace")
    while data:
        try:
            data = data[posix.write(fd, data) :]
        except BlockingIOError:
            # Somebody who shares the pipe or terminal with us made it non-blocking.
            import select

            select.select((), (fd,), ())


def tell(text: str) -> None:
    """Write to stderr. Where that fails nobody can be told, and the status says what there is to say."""
    try:
        _write(2, text)
    except OSError:
        return


def printable(text: str) -> str:
    """Replace control characters, so that no name from elsewhere can move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def wants_colour(stream: TextIO) -> bool:
    """Say whether a stream is a terminal whose user has not said no to colour (no-color.org)."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def out(text: str) -> None:
    """Print a fact.

    Raises:
        BrokenPipeError: nobody reads it any more.
        PlatformError: it cannot be written.
    """
    try:
        _write(1, text if text.endswith("\n") else text + "\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PlatformError(f"cannot write to stdout: {error.strerror}") from error


def note(text: str) -> None:
    """Tell the person in front of the terminal."""
    tell(f"enarx: {printable(text)}\n")


def silence(_: str) -> None:
    """Say nothing, where only --verbose has something said."""


def show_error(error: EnarxError, *, verbose: bool = False) -> None:
    """Print an error in one line, its hint in another, and its causes when asked for."""
    lines = [f"enarx: {printable(str(error))}"]
    cause = error.__cause__
    while verbose and cause is not None:
        lines.append(f"caused by: {type(cause).__name__}: {printable(str(cause))}")
        cause = cause.__cause__
    if error.hint:
        lines.append(f"hint: {printable(error.hint)}")
    tell("\n".join(lines) + "\n")


def show_bug() -> None:
    """Print what a bug report needs."""
    import traceback

    tell(traceback.format_exc())
    tell("enarx: this is a bug in enarx; the lines above say where\n")


def show_hint(text: str) -> None:
    """Print a next step that belongs to no error of ours."""
    tell(f"hint: {printable(text)}\n")
