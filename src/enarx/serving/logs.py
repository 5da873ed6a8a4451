# SPDX-License-Identifier: Apache-2.0
"""What a service says while it serves: events with a name and facts, as lines for people or as JSON, on one stream.

No token, no header and no byte of a session is ever a fact of an event. Values come from strangers as well: JSON escapes
them, and lines for people have their control characters replaced. What the server library says goes the same way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time
from typing import Any, Protocol, TextIO

from enarx.errors import UsageError

__all__ = ["FORMS", "Log", "make_log"]

FORMS = ("text", "json")
_MAX_VALUE = 1000

Fact = str | int | float | bool | None


class Sink(Protocol):
    """What is told of events."""

    def tell(self, level: str, event: str, facts: Mapping[str, Fact], error: BaseException | None = None) -> None:
        """Tell of one."""


class Log:
    """Where events go.

    Args:
        sink: is told of each.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def info(self, event: str, **facts: Fact) -> None:
        """Tell what happened."""
        self._sink.tell("info", event, facts)

    def warning(self, event: str, **facts: Fact) -> None:
        """Tell what an operator may want to look at."""
        self._sink.tell("warning", event, facts)

    def bug(self, event: str, error: BaseException) -> None:
        """Tell of an error that should not have been possible, with its traceback."""
        self._sink.tell("error", event, {}, error)


def make_log(form: str, *, stream: TextIO | None = None, quiet: bool = False) -> Log:
    """Set up logging for the process.

    Args:
        form: `json` or `text`.
        stream: where to; stderr.
        quiet: only warnings.

    Raises:
        UsageError: another form.
    """
    if form not in FORMS:
        raise UsageError(f"cannot log: found {form[:64]!r}, want {' or '.join(FORMS)}")
    lines = _Lines(stream if stream is not None else sys.stderr, is_json=form == "json", quiet=quiet)
    others = _Others(lines)
    for name, level in (("uvicorn", logging.ERROR), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [others], False
        logger.setLevel(level)
    return Log(lines)


class _Lines:
    """Writes a line for each event. The library's logging would take half as long again, and there are two for each decision."""

    def __init__(self, stream: TextIO, *, is_json: bool, quiet: bool) -> None:
        self._stream = stream
        self._line = _json_line if is_json else _text_line
        self._quiet = quiet
        # What is collected as garbage while a line is written may have something to say as well.
        self._writing = threading.RLock()

    def tell(self, level: str, event: str, facts: Mapping[str, Fact], error: BaseException | None = None) -> None:
        """Write a line."""
        if self._quiet and level == "info":
            return
        short = {key: value[:_MAX_VALUE] if isinstance(value, str) else value for key, value in facts.items()}
        found = None if error is None else "".join(traceback.format_exception(error)).rstrip("\n")
        line = self._line(datetime.fromtimestamp(time(), UTC), level, event[:_MAX_VALUE], short, found)
        # Where nobody reads any more, the service goes on.
        with self._writing, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


class _Others(logging.Handler):
    """What libraries say."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception:  # noqa: BLE001  # words and values that do not fit are a library's bug, and no reason to fail
            self.handleError(record)
            return
        error = record.exc_info[1] if record.exc_info else None
        self._lines.tell(record.levelname.lower(), event, {"source": record.name}, error)


def _json_line(at: datetime, level: str, event: str, facts: Mapping[str, Any], found: str | None) -> str:
    line = {"time": at.isoformat(timespec="milliseconds"), "level": level, "event": event, **facts}
    return json.dumps(line if found is None else {**line, "traceback": found})


def _text_line(at: datetime, level: str, event: str, facts: Mapping[str, Any], found: str | None) -> str:
    text = _printable(" ".join([event, *(f"{key}={value}" for key, value in facts.items())]))
    line = f"{at.isoformat(timespec='seconds')} {level} {text}"
    return line if found is None else "\n".join([line, *map(_printable, found.splitlines())])


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
