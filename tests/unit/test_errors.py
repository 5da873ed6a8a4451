# SPDX-License-Identifier: Apache-2.0
"""The error tree and the exit statuses are the contract of docs/cli.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enarx import cli, errors

STATUSES = {
    "UsageError": 2,
    "ConfigError": 2,
    "DecodeError": 103,
    "VerificationError": 104,
    "AppraisalError": 105,
    "EndorsementError": 106,
    "TransportError": 107,
    "PlatformError": 108,
    "KeepError": 109,
}


def test_every_class_is_known_by_its_name():
    assert set(errors.__all__) == {*STATUSES, "EnarxError"}


@pytest.mark.parametrize(("name", "status"), STATUSES.items())
def test_every_class_has_the_status_of_the_contract(name, status):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.EnarxError)
    assert kind.status == status


def test_a_bug_has_the_status_nobody_else_has():
    assert errors.EnarxError.status == 1
    assert 1 not in STATUSES.values()


@pytest.mark.parametrize(("name", "status"), STATUSES.items())
def test_where_a_workload_has_the_low_statuses_ours_are_high(name, status):
    error = getattr(errors, name)("told")
    assert cli.exit_status(error, "run") == (102 if status == 2 else status)
    assert cli.exit_status(error, "config init") == status
    assert cli.exit_status(errors.EnarxError("bug"), "run") == 101


def test_the_docstring_names_every_status():
    for name, status in STATUSES.items():
        assert re.search(rf"\b{name}\s+{status}\b", errors.__doc__), name


def test_an_error_has_a_message_and_perhaps_a_next_step():
    assert str(errors.KeepError("what failed")) == "what failed"
    assert errors.KeepError("what failed").hint is None
    assert errors.KeepError("what failed", hint="do this").hint == "do this"


def test_a_configuration_error_says_where():
    error = errors.ConfigError("wrong", path="Enarx.toml", line=3, key="files[0].port")
    assert (error.path, error.line, error.key) == ("Enarx.toml", 3, "files[0].port")
    assert errors.ConfigError("wrong").line is None


def test_the_document_of_the_command_line_has_the_same_numbers():
    text = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8")
    for name, status in STATUSES.items():
        assert re.search(rf"^\| {status}\b.*\b{name}\b", text, re.MULTILINE), name
