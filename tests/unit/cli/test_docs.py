# SPDX-License-Identifier: Apache-2.0
"""docs/cli.md says what the commands say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from enarx import errors
from enarx.cli import COMMANDS, load

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs/cli.md").read_text(encoding="utf-8")


def test_the_help_blocks_are_what_the_commands_print():
    render = runpy.run_path(str(TOP / "tools/make_docs.py"))["render"]
    assert render(PAGE) == PAGE, "run: make docs"


@pytest.mark.parametrize("command", ["enarx", *(f"enarx {name}" for name in COMMANDS)])
def test_every_command_has_a_block(command):
    assert PAGE.count(f"<!-- help: {command} -->") == 1
    assert f"\nusage: {command}" in PAGE


def test_a_stale_block_is_written_again():
    render = runpy.run_path(str(TOP / "tools/make_docs.py"))["render"]
    assert render(PAGE.replace("--timeout DURATION", "--timeout SOON")) == PAGE


def test_the_exit_table_is_that_of_the_error_tree():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {name: int(status) for status, name in rows} == {
        name: getattr(errors, name).status for name in errors.__all__
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_variable_that_stands_in_for_an_option_is_listed(command):
    for option in load(command).options:
        assert not option.environment or f"| `{option.environment}` |" in PAGE
