# SPDX-License-Identifier: Apache-2.0
"""docs/checks.md has every check and every answer, and what the answers name is there."""

from __future__ import annotations

import ast
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

from enarx.verifier.registry import SECTIONS, judge_of
from tests.unit.verifier.peer_rows import ROWS

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs/checks.md").read_text(encoding="utf-8")
MAKE_DOCS = runpy.run_path(str(TOP / "tools/make_docs.py"))
CHECKS_PAGE = runpy.run_path(str(TOP / "tools/checks_page.py"))
ANSWERS = {section: import_module(f"tests.unit.verifier.peer_checks_{section}").PEER_CHECKS for section in SECTIONS}


def named(section):
    """The answers of a section that are findings and tests."""
    return {row: answer for row, answer in ANSWERS[section].items() if not isinstance(answer, str)}


def test_the_page_is_what_the_code_says():
    assert MAKE_DOCS["render"](PAGE) == PAGE, "run: make docs"


def test_a_stale_page_is_written_again():
    assert MAKE_DOCS["render"](PAGE.replace("snp.vmpl", "snp.privilege")) == PAGE


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_of_the_survey_is_answered(section):
    assert set(ROWS) == set(SECTIONS)
    assert set(ROWS[section]) <= set(ANSWERS[section])


@pytest.mark.parametrize("section", SECTIONS)
def test_every_answer_is_findings_and_tests_or_a_reason(section):
    for row, answer in ANSWERS[section].items():
        if isinstance(answer, str):
            assert len(answer) > 20, row
        else:
            assert len(answer) == 3, row
            assert all(answer), row


@pytest.mark.parametrize("section", SECTIONS)
def test_every_finding_that_an_answer_names_is_a_check(section):
    known = {check.id for check in CHECKS_PAGE["checks_of"](section)}
    for row, (ids, _, _) in named(section).items():
        assert set(ids) <= known, row


@pytest.mark.parametrize("section", SECTIONS)
def test_every_test_that_an_answer_names_is_there(section):
    modules = CHECKS_PAGE["MODULES"].get(section, (f"test_{section}.py",))
    texts = [(Path(__file__).parent / module).read_text(encoding="utf-8") for module in modules]
    functions = {node.name for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    for row, (_, *tests) in named(section).items():
        for test in tests:
            function, _, case = test.removesuffix("]").partition("[")
            assert function in functions, row
            assert any(f'"{case}"' in text for text in texts) or not case, row


def test_an_answer_with_a_test_that_is_not_there_is_not_written():
    with pytest.raises(KeyError, match="test_that_nobody_wrote"):
        CHECKS_PAGE["_test_link"]("snp", "test_that_nobody_wrote")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_check_is_listed_once_under_its_section(section):
    table = PAGE.partition(f"<!-- checks: {section} -->")[2].partition("<!-- end of checks -->")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(listed) == len(set(listed)) > 20
    assert all(each.startswith(f"{section}.") for each in listed)
    assert {rule.check.id for rule in judge_of(section).rules} <= set(listed)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_check_says_what_it_is(section):
    for check in CHECKS_PAGE["checks_of"](section):
        assert check.title, check.id
        assert not check.title.endswith("."), check.id
        assert check.spec, check.id
