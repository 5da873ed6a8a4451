# SPDX-License-Identifier: Apache-2.0
"""The parser takes what the contract says and refuses everything else in one line; help names every option."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.cli import COMMANDS, load
from enarx.cli.options import Command, Option
from enarx.errors import UsageError


def make(**changes):
    given_fields = {
        "operands": ("MODULE",),
        "rest": "ARG...",
        "summary": "run it",
        "description": "Run it.",
        "options": (
            Option("env", "NAME=VALUE", "a variable", repeat=True),
            Option("memory", "SIZE", "a limit"),
            Option("json", "", "a flag"),
            Option("backend", "KEEP", "from the environment", environment="ENARX_TEST_BACKEND"),
        ),
        "examples": (("enarx test app.wasm", "do it"),),
        "run": lambda parsed: 0,
    }
    return Command("test", **{**given_fields, **changes})


def refusal(*argv, **changes):
    with pytest.raises(UsageError) as caught:
        make(**changes).parse(list(argv))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("cannot run test: ")
    return caught.value


def test_options_stand_anywhere_before_the_rest():
    parsed = make().parse(["--env", "A=1", "app.wasm", "--memory=1MiB", "--env=B=2", "--json", "--", "--env", "x"])
    assert parsed.operands == ["app.wasm"]
    assert parsed.all("env") == ["A=1", "B=2"]
    assert parsed.value("memory") == "1MiB"
    assert parsed.flag("json")
    assert not parsed.flag("verbose")
    assert parsed.rest == ["--env", "x"]


def test_what_was_not_given_is_none_or_nothing():
    parsed = make().parse(["app.wasm"])
    assert (parsed.value("memory"), parsed.all("env"), parsed.rest) == (None, [], None)
    assert make().parse(["app.wasm", "--"]).rest == []


def test_a_value_may_be_empty_or_look_like_an_option():
    assert make().parse(["a", "--memory="]).value("memory") == ""
    assert make().parse(["a", "--memory", "--json"]).value("memory") == "--json"
    assert make().parse(["a", "--memory=a=b"]).value("memory") == "a=b"


def test_a_single_dash_is_an_operand():
    assert make().parse(["-"]).operands == ["-"]


def test_help_wins_over_what_is_missing():
    assert make().parse(["--help"]) is None
    assert make().parse(["a", "b", "--help", "--", "c"]) is None
    assert make().parse(["a", "--", "--help"]) is not None


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([], "found operands none, want MODULE"),
        (["a", "b"], "found operands a b, want MODULE"),
        (["a", "--nonsense"], "found --nonsense, which is no option of it"),
        (["a", "-v"], "found -v, which is no option of it"),
        (["a", "--memory"], "found --memory at the end, want --memory SIZE"),
        (["a", "--memory", "1", "--memory", "2"], "found --memory twice, want it once"),
        (["a", "--json=yes"], "found --json=yes, want --json without a value"),
        (["a", "--=x"], "found --=x, which is no option of it"),
        (["a", "---json"], "found ---json, which is no option of it"),
    ],
)
def test_refuses_what_it_does_not_know(argv, found):
    assert found in str(refusal(*argv))


@pytest.mark.parametrize(
    ("word", "nearest"), [("--memor", "memory"), ("--verb", "verbose"), ("--memroy=1", "memory"), ("-json", "json")]
)
def test_an_abbreviation_is_refused_with_the_nearest_name(word, nearest):
    assert refusal("a", word).hint == f"did you mean --{nearest}?"


def test_an_unknown_word_leads_to_the_help():
    assert refusal("a", "--zzzzzz").hint == "enarx test --help"


def test_refuses_a_rest_where_there_is_none():
    assert "found arguments after --, want none" in str(refusal("a", "--", "b", rest=""))


def test_a_flag_may_be_given_twice():
    assert make().parse(["a", "--json", "--json"]).flag("json")


def test_the_environment_stands_in_for_what_is_not_given(monkeypatch):
    monkeypatch.setenv("ENARX_TEST_BACKEND", "vm")
    assert make().parse(["a"]).value("backend") == "vm"
    assert make().parse(["a", "--backend", "nil"]).value("backend") == "nil"
    monkeypatch.setenv("ENARX_TEST_BACKEND", "")
    assert make().parse(["a"]).value("backend") is None


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "--",
                    "-",
                    "",
                    "--env",
                    "--memory",
                    "--json",
                    "--help",
                    "--verbose",
                    "--env=",
                    "--json=1",
                    "-h",
                    "a",
                    "\udcff",
                ]
            ),
            st.text(max_size=8),
            st.text(max_size=8).map("--{}".format),
        ),
        max_size=8,
    )
)
def test_any_words_are_parsed_or_refused(argv):
    try:
        parsed = make().parse(argv)
    except UsageError:
        return
    if parsed is not None:
        assert len(parsed.operands) == 1
        assert set(parsed.values) <= {"env", "memory", "json", "backend", "verbose"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_one_that_parses(name):
    import shlex

    command = load(name)
    for example, _ in command.examples:
        words = shlex.split(example.removeprefix("source <(").removesuffix(")"))
        assert words[: 1 + len(name.split())] == ["enarx", *name.split()]
        assert command.parse(words[1 + len(name.split()) :]) is not None
