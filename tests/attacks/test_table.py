# SPDX-License-Identifier: Apache-2.0
"""The table of attacks says what there is: every test, and every control beside what it is the control of."""

from __future__ import annotations

import re
from pathlib import Path

from tests.attacks.builds import BUILDS

FOLDER = Path(__file__).parent
TABLE = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_test_is_in_the_table_and_nothing_else():
    files = [path for path in FOLDER.glob("test_*.py") if path != Path(__file__)]
    written = {name for path in files for name in re.findall(r"(?m)^def (test_\w+)", path.read_text(encoding="utf-8"))}
    assert set(re.findall(r"`(test_\w+)`", TABLE)) == written


def test_every_attack_has_tests_and_a_control():
    rows = [line.strip("| ").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")][1:]
    assert all(len(row) == 4 for row in rows)
    without = {attack for attack, _, _, control in rows if "`test_control_" not in control}
    # Its controls are those of the rows before it.
    assert without == {"any record edited, dropped, duplicated, out of order"}


def test_every_build_that_takes_something_away_is_in_the_table_and_nothing_else():
    _, *controls = (line.split(" | ")[-1] for line in TABLE.splitlines() if line.startswith("| "))
    named = {name for text in re.findall(r"`([a-z=,-]+)`", "".join(controls)) for name in text.split(",")}
    # What has fallen in some of them, and what lets a test see.
    assert {name.partition("=")[0] for name in named} == set(BUILDS) - {"leaf", "one-exporter", "show-provision"}
