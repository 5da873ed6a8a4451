# SPDX-License-Identifier: Apache-2.0
"""The documents of the project: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("examples/**/*.md")])


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings have on the hosting services in use."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_relative_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_decisions_are_numbered_without_gaps():
    numbers = [int(page.name[:4]) for page in sorted(TOP.glob("docs/decisions/*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_package_is_in_the_architecture():
    tree = (TOP / "docs/architecture.md").read_text(encoding="utf-8")
    packages = {found.parent.name for found in (TOP / "src/enarx").glob("*/__init__.py")}
    assert packages
    for package in packages:
        assert f"\n  {package}/" in tree, package
