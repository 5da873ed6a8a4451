# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import logging
import re

import pytest

from enarx.errors import UsageError
from enarx.serving.logs import make_log


@pytest.fixture(autouse=True)
def _untouched():
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
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


@pytest.mark.parametrize("form", ["text", "json"])
def test_libraries_are_named_and_say_errors_alone(form):
    stream = io.StringIO()
    make_log(form, stream=stream)
    logging.getLogger("uvicorn.error").warning("not this")
    try:
        raise ValueError("why \x1b[2J")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("it failed: %s", "\x1b[2J")
    said = stream.getvalue()
    assert "not this" not in said
    assert "\x1b" not in said
    assert "uvicorn.error" in said
    assert "error" in said
    assert "it failed" in said
    assert "ValueError: why" in said


def test_a_library_that_says_nonsense_fails_nothing(capfd):
    stream = io.StringIO()
    make_log("text", stream=stream)
    logging.getLogger("uvicorn.error").error("%d", "not a number")
    assert "not a number" not in stream.getvalue()
    assert "Logging error" in capfd.readouterr().err


def test_lines_of_json_say_the_time_in_milliseconds():
    stream = io.StringIO()
    make_log("json", stream=stream).info("event")
    said = json.loads(stream.getvalue())
    assert [*said] == ["time", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", said["time"])


def test_a_service_goes_on_where_nobody_reads_what_it_says():
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    make_log("text", stream=Gone()).info("event")
    closed = io.StringIO()
    closed.close()
    make_log("json", stream=closed).bug("event", ValueError())


def test_refuses_another_form():
    with pytest.raises(UsageError, match="want text or json"):
        make_log("xml")
