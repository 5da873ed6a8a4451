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


def links_of(page: Path) -> set[Path]:
    """Return the files of the project that a page links to, and the pages of folders it links to."""
    found: set[Path] = set()
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path = (page.parent / target).resolve()
            found |= set(path.glob("*.md")) if path.is_dir() else {path}
    return found


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {TOP / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        new |= {link for link in links_of(page) if link.suffix == ".md" and link.exists()} - reached
    assert set(PAGES) <= reached


def test_every_document_is_named_in_the_readme_or_the_architecture():
    named = links_of(TOP / "README.md") | links_of(TOP / "docs/architecture.md")
    assert set(TOP.glob("docs/*.md")) <= named
