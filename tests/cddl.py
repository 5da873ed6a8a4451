# SPDX-License-Identifier: Apache-2.0
"""The CDDL of docs/formats as schemas."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

FORMATS = Path(__file__).parents[1] / "docs/formats"


@cache
def schema(name: str, rule: str) -> Any:
    """Return what checks that CBOR is as a rule of docs/formats/<name>.cddl says."""
    pycddl = pytest.importorskip("pycddl", reason="pycddl has no wheel for this Python; the others check the CDDL")
    text = (FORMATS / f"{name}.cddl").read_text(encoding="utf-8")
    return pycddl.Schema(f"checked = {rule}\n{text}")
