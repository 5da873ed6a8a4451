# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/verifier.md and examples/evidence do what they show, also with evidence that is made anew."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs/verifier.md").read_text(encoding="utf-8")
EXAMPLES = TOP / "examples/evidence"
CHALLENGE = "00112233445566778899aabbccddeeff"
TIMEOUT_S = 60


def block_after(text, language):
    """The first block of a language after a text."""
    return re.search(rf"^```{language}\n(.*?)^```$", PAGE.partition(text)[2], re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Evidence as the examples' own, with keys of its own."""
    folder = tmp_path_factory.mktemp("evidence")
    runpy.run_path(str(TOP / "tools/make_evidence.py"))["make_evidence"](folder)
    return folder


@pytest.fixture(params=["in the tree", "made anew"])
def folder(request, made):
    return EXAMPLES if request.param == "in the tree" else made


@pytest.mark.parametrize("heading", ["## In Python", "### Much evidence"])
def test_the_example_prints_what_the_page_shows(folder, tmp_path, heading):
    script = tmp_path / "example.py"
    script.write_text(block_after(heading, "python"), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == block_after(heading, "text")


@pytest.mark.parametrize(
    ("options", "status", "verdict"),
    [
        (["--policy", "policy.toml", "--report-data", CHALLENGE], 0, "accepted"),
        (["--policy", "policy.toml", "--report-data", "00"], 105, "refused"),
        (["--policy", "policy.toml"], 106, "undecided"),
        ([], 104, "not authentic"),
    ],
)
def test_the_example_evidence_shows_each_verdict(enarx, folder, options, status, verdict):
    ended = enarx.command("attest", "verify", "report.bin", "--offline", "--json", *options, cwd=folder)
    document = json.loads(ended.stdout)
    assert (ended.status, document["verdict"]) == (status, verdict)
    assert document["emulated"] is bool(options)


def test_the_page_lists_the_members_of_the_document(enarx):
    ended = enarx.command("attest", "verify", EXAMPLES / "report.bin", "--offline", "--json")
    document = json.loads(ended.stdout)
    table = PAGE.partition("## The JSON document")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(document)
    members = set(re.findall(r"`(\w+)`", table.partition("| `findings` |")[2].partition("\n")[0]))
    assert set(document["findings"][0]) <= members


def test_the_generated_tables_are_current():
    assert runpy.run_path(str(TOP / "tools/make_docs.py"))["render"](PAGE) == PAGE, "run: make docs"
