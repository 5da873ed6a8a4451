# SPDX-License-Identifier: Apache-2.0
"""What a service says while it serves: events with a name and facts, as lines for people or as JSON, on one stream.

No token, no header and no byte of a session is ever a fact of an event. Values come from strangers as well: JSON escapes
them, and lines for people have their control characters replaced. What the server library says goes the same way.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from enarx.errors import UsageError

__all__ = ["FORMS", "Log", "make_log"]

FORMS = ("text", "json")
LOGGER = "enarx.service"
_MAX_VALUE = 1000

Fact = str | int | float | bool | None


class Log:
    """Where events go."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, event: str, **facts: Fact) -> None:
        """Tell what happened."""
        self._logger.info(event, extra={"facts": facts})

    def warning(self, event: str, **facts: Fact) -> None:
        """Tell what an operator may want to look at."""
        self._logger.warning(event, extra={"facts": facts})

    def bug(self, event: str, error: BaseException) -> None:
        """Tell of an error that should not have been possible, with its traceback."""
        self._logger.error(event, extra={"facts": {}}, exc_info=error)


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
    # Nobody reads which line of the program, which thread or which process an event is of, and to find that out takes longer than the event.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _TextLines())
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    for each, level in (
        (logger, None),
        (logging.getLogger("uvicorn"), logging.ERROR),
        (logging.getLogger("asyncio"), None),
    ):
        each.handlers = [handler]
        each.propagate = False
        if level is not None:
            each.setLevel(level)
    return Log(logger)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts = dict(getattr(record, "facts", {}))
    if record.name != LOGGER:
        facts["source"] = record.name
    return {key: value[:_MAX_VALUE] if isinstance(value, str) else value for key, value in facts.items()}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:_MAX_VALUE],
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [record.getMessage()[:_MAX_VALUE], *(f"{key}={value}" for key, value in _facts(record).items())]
        text = " ".join(words)
        if not text.isprintable():
            text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
        line = f"{time} {record.levelname.lower()} {text}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")
