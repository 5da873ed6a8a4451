# SPDX-License-Identifier: Apache-2.0
"""What commands that serve read from their options: addresses, numbers and sizes, and how they are held wrong."""

from __future__ import annotations

import pytest

from enarx.cli.options import Command, Option
from enarx.cli.service_options import ServiceOptions
from enarx.errors import UsageError

COMMAND = Command(
    "x serve",
    summary="",
    description="",
    options=(Option("listen", "ADDR:PORT", ""), Option("n", "N", ""), Option("room", "SIZE", "")),
    examples=(),
    run=lambda parsed: 0,
)


def given(*words):
    return ServiceOptions(COMMAND.parse(list(words)), "x serve")


def test_what_is_not_given_has_its_default():
    options = given()
    assert options.listen("[::1]:7") == ("::1", 7)
    assert (options.number("n", 5), options.size("room", 6, most=9)) == (5, 6)


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("localhost:65535", ("localhost", 65535)), ("[::]:1", ("::", 1))],
)
def test_an_address(text, found):
    assert given("--listen", text).listen("") == found


@pytest.mark.parametrize(
    "text", ["", ":1", "127.0.0.1", "127.0.0.1:", "h:65536", "h:-1", "h:\u0661", "::1:80", "h:000001"]
)
def test_refuses_what_is_no_address(text):
    with pytest.raises(UsageError, match=r"cannot run x serve: --listen: found .*, want ADDRESS:PORT") as refused:
        given("--listen", text or " ").listen("127.0.0.1:1")
    assert refused.value.hint == "enarx x serve --help"


@pytest.mark.parametrize(("text", "least", "found"), [("0", 0, 0), ("7", 7, 7), ("1000000", 0, 1_000_000)])
def test_a_number(text, least, found):
    assert given("--n", text).number("n", 1, least=least) == found


@pytest.mark.parametrize("text", ["6", "-7", "1000001", "99999999", "7.0", "seven", "\u0667"])
def test_refuses_what_is_no_number_or_another(text):
    with pytest.raises(UsageError, match=r"--n: found .*, want a number from 7 to 1000000"):
        given("--n", text).number("n", 1, least=7)


def test_a_size():
    assert given("--room", "2 KiB").size("room", 1, most=2048) == 2048


@pytest.mark.parametrize(
    ("text", "problem"), [("2 KiB", "want 1 to 2047 bytes"), ("0", "want 1 to"), ("much", "--room")]
)
def test_refuses_what_is_no_size_or_another(text, problem):
    with pytest.raises(UsageError, match=problem):
        given("--room", text).size("room", 1, most=2047)
