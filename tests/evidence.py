# SPDX-License-Identifier: Apache-2.0
"""Where tests find real evidence. It is read in place and never part of the project."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

import pytest

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.abspath(
    os.path.join(_ROOT, os.environ.get("ENARX_EVIDENCE", os.path.join("..", "shared", "evidence")))
)
IS_PRESENT = os.path.isfile(os.path.join(FOLDER, "cases.jsonl"))

needs_evidence = pytest.mark.skipif(
    not IS_PRESENT, reason="no evidence corpus: set ENARX_EVIDENCE to a folder with cases.jsonl"
)


def evidence_path(name: str) -> str:
    """Return the path of a corpus file."""
    return os.path.join(FOLDER, name)


def read(name: str) -> bytes:
    """Return the content of a corpus file."""
    with open(evidence_path(name), "rb") as file:
        return file.read()


@cache
def _all_cases() -> tuple[dict[str, Any], ...]:
    if not IS_PRESENT:
        return ()
    with open(evidence_path("cases.jsonl"), encoding="utf-8") as file:
        return tuple(json.loads(line) for line in file)


def cases(tee: str) -> list[dict[str, Any]]:
    """Return the cases of one kind, none where there is no corpus."""
    return [case for case in _all_cases() if case["tee"] == tee]
