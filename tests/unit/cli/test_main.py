# SPDX-License-Identifier: Apache-2.0
"""Subcommands are found or refused with the nearest; every error is one line and its status."""

from __future__ import annotations

import pytest

from enarx import __version__, cli
from enarx.cli import COMMANDS, main
from enarx.cli.options import Command
from enarx.errors import ConfigError, KeepError, UsageError


@pytest.fixture
def command(monkeypatch):
    """Put a subcommand in the place of `completion` that does what it is told."""

    def put(outcome, name="completion"):
        def run(parsed):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        made = Command(name, summary="s", description="d", examples=(), run=run)
        monkeypatch.setattr(cli, "load", lambda _: made)

    return put


def test_the_version_is_the_package_s(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"enarx {__version__}\n"


def test_the_overview_names_every_command(capfd):
    assert main(["--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for name in COMMANDS:
        assert f"\n  {name} " in out


def test_a_group_has_an_overview_of_its_own(capfd):
    assert main(["cache", "--help"]) == 0
    out = capfd.readouterr().out
    assert "cache list" in out
    assert "cache clear" in out
    assert "config init" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name, capfd):
    assert main([*name.split(), "--help"]) == 0
    assert capfd.readouterr().out.startswith(f"usage: enarx {name}")


@pytest.mark.parametrize(
    ("argv", "found", "hint"),
    [
        ([], "found no command", "--help"),
        (["cache"], "found no command", "cache --help"),
        (["rn"], "found rn", "did you mean enarx run?"),
        (["cache", "lst"], "found cache lst", "did you mean enarx cache list?"),
        (["platform"], "found no command", "platform --help"),
        (["--verbose"], "found --verbose", "enarx --help"),
        (["--version", "--help"], "found --version", "enarx --help"),
        (["cache", "--version"], "found --version", "enarx --help"),
        (["zzzzzzzz"], "found zzzzzzzz", "lists the commands"),
        ([""], "found ,", "lists the commands"),
    ],
)
def test_what_is_no_command_is_refused(argv, found, hint, capfd):
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("enarx: cannot run ")
    assert found in first
    assert second.startswith("hint: ")
    assert hint in second


def test_the_status_of_a_command_is_passed_on(command):
    command(42)
    assert main(["completion"]) == 42


@pytest.mark.parametrize(("name", "status"), [("completion", 2), ("run", 102)])
@pytest.mark.parametrize("error", [UsageError("told"), ConfigError("told", hint="so")])
def test_a_usage_error_has_the_status_of_its_command(command, capfd, name, status, error):
    command(error, name)
    assert main([name]) == status
    assert capfd.readouterr().err.startswith("enarx: told\n")


def test_the_causes_are_told_when_asked_for(command, capfd):
    error = KeepError("what failed", hint="do this")
    error.__cause__ = OSError(5, "deeper")
    error.__cause__.__cause__ = ValueError("deepest")
    command(error)
    assert main(["completion"]) == 109
    assert capfd.readouterr().err == "enarx: what failed\nhint: do this\n"
    assert main(["completion", "--verbose"]) == 109
    assert capfd.readouterr().err.splitlines() == [
        "enarx: what failed",
        "caused by: OSError: [Errno 5] deeper",
        "caused by: ValueError: deepest",
        "hint: do this",
    ]


@pytest.mark.parametrize(("name", "status"), [("completion", 1), ("run", 101)])
def test_a_bug_is_told_as_one(command, capfd, name, status):
    command(ZeroDivisionError("oops"), name)
    assert main([name]) == status
    err = capfd.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert err.endswith("enarx: this is a bug in enarx; the lines above say where\n")


def test_ctrl_c_and_a_reader_that_has_gone_have_their_statuses(command, capfd):
    command(KeyboardInterrupt())
    assert main(["completion"]) == 130
    command(BrokenPipeError())
    assert main(["completion"]) == 141
    assert capfd.readouterr().err == ""
