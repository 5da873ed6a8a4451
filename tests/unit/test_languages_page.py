# SPDX-License-Identifier: Apache-2.0
"""docs/languages.md has a row for each example of a language, from what the slow tests saw."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs/languages.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("<!-- languages -->\n")[2].partition("<!-- end of languages -->")[0].strip()
LANGUAGES = sorted(path.parent.name for path in TOP.glob("examples/languages/*/build"))
SEEN = {"nil": True, "keep": True, "module_bytes": 2_655_770, "build_s": 3.25, "start_ms": 61}


def table(before, rows):
    return runpy.run_path(str(TOP / "tools/languages_page.py"))["languages_table"](before, rows)


def row_of(text, language):
    (row,) = [line for line in text.splitlines() if f"(../examples/languages/{language}/README.md)" in line]
    return [cell.strip() for cell in row.strip("|").split("|")]


def leave(rows, language, part, **facts):
    (rows / f"{language}.{part}.json").write_text(json.dumps(facts))


def test_there_are_examples():
    assert {"c", "cpp", "rust", "go", "python"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_example_has_a_row_of_what_was_seen(language):
    name, builds, *others = row_of(TABLE, language)
    readme = (TOP / "examples/languages" / language / "README.md").read_text(encoding="utf-8")
    assert readme.splitlines()[1] == f"# {name[1:].partition(']')[0]}"
    assert builds == "yes" or (builds.startswith("no: ") and others == ["-"] * 6)
    assert "not run yet" not in builds, "run: make test-slow docs"


def test_no_row_is_of_something_else():
    assert len(TABLE.splitlines()) == 2 + len(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_can_be_built_by_its_name(language):
    build = TOP / "examples/languages" / language / "build"
    assert build.stat().st_mode & 0o111
    assert build.read_text(encoding="utf-8").startswith("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n")


def test_the_table_stays_where_nothing_was_seen(tmp_path):
    assert table(TABLE, tmp_path) == TABLE


def test_what_was_seen_is_written(tmp_path):
    leave(tmp_path, "go", "program", **SEEN)
    leave(tmp_path, "go", "server", nil=True, keep=True)
    written = table(TABLE, tmp_path)
    assert row_of(written, "go")[1:] == ["yes", "yes", "yes", "yes, in both", "2.7 MB", "3.2 s", "61 ms"]
    assert row_of(written, "c") == row_of(TABLE, "c")


@pytest.mark.parametrize(
    ("server", "cell"),
    [({"none": True}, "none"), ({"failed": "it did not end"}, "no: it did not end"), ({}, "no: not run yet")],
)
def test_a_server_that_was_not_seen_is_not_said_to_run(tmp_path, server, cell):
    leave(tmp_path, "c", "program", **{**SEEN, "module_bytes": 29_078})
    leave(tmp_path, "c", "server", **server)
    assert row_of(table(TABLE, tmp_path), "c")[4:6] == [cell, "29 kB"]


@pytest.mark.parametrize("why", ["unavailable", "failed"])
def test_what_cannot_be_built_or_fails_is_said_with_the_reason(tmp_path, why):
    leave(tmp_path, "rust", "program", **{why: "rustc: not found | want it"})
    assert row_of(table(TABLE, tmp_path), "rust")[1:] == ["no: rustc: not found / want it", *["-"] * 6]


def test_an_example_that_nobody_ran_says_so(tmp_path):
    assert row_of(table("", tmp_path), "zig")[1] == "no: not run yet"
