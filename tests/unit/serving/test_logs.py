# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import logging

import pytest

from enarx.errors import UsageError
from enarx.serving.logs import make_log


@pytest.fixture(autouse=True)
def _untouched():
    loggers = [logging.getLogger(name) for name in ("enarx.service", "uvicorn", "asyncio")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_events_are_lines_of_json():
    stream = io.StringIO()
    log = make_log("json", stream=stream)
    log.info("keep-ready", keep="\x1b[2J\n", pid=7)
    log.bug("bug", ValueError("why"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["keep"], first["pid"], first["level"]) == ("keep-ready", "\x1b[2J\n", 7, "info")
    assert "ValueError: why" in second["traceback"]


def test_lines_for_people_move_no_cursor():
    stream = io.StringIO()
    make_log("text", stream=stream).warning("event", name="\x1b[2J\nforged" + "x" * 5000)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue()) < 1200


def test_a_private_host_tells_only_of_trouble():
    stream = io.StringIO()
    log = make_log("text", stream=stream, quiet=True)
    log.info("not this")
    log.warning("but this")
    assert "but this" in stream.getvalue()
    assert "not this" not in stream.getvalue()


def test_refuses_another_form():
    with pytest.raises(UsageError, match="want text or json"):
        make_log("xml")
