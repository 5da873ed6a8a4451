# SPDX-License-Identifier: Apache-2.0
"""The protocol's models: their properties hold, and without any one of its parts one of them falls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKER = Path(__file__).resolve().parents[2] / "tools" / "check_model.py"
TIMEOUT_S = 900
REQUIRED = {
    "keep": {"NO_EXPORTER", "NO_KEEP_LEAF", "NO_TENANT_LEAF", "NO_PURPOSE"},
    "identity": {"NO_ROOT", "NO_SPKI", "NO_NONCE", "NO_PURPOSE", "NO_IDENTITY", "NONCE_AGAIN"},
}


def test_the_models_hold_and_every_mutant_falls():
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)}: not installed")
    done = subprocess.run([sys.executable, CHECKER], check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    for model, mutants in REQUIRED.items():
        lines = [line.split() for line in done.stdout.splitlines() if "falls: " in line]
        fell = {word for first, *words in lines if first == model for word in words[: words.index("states")]}
        assert mutants <= fell, done.stdout
        assert any(line.startswith(f"{model} ") and "holds: " in line for line in done.stdout.splitlines())


def test_the_checker_says_what_is_missing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, CHECKER], env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stderr == "check_model: spin and gcc: found none on the path, want Debian's packages\n"
