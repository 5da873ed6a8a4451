# SPDX-License-Identifier: Apache-2.0
"""The protocol's model: its properties hold, and without any one of its parts one of them falls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKER = Path(__file__).resolve().parents[2] / "tools" / "check_model.py"
TIMEOUT_S = 900
REQUIRED = ("NO_EXPORTER", "NO_KEEP_LEAF", "NO_TENANT_LEAF", "NO_PURPOSE")


def test_the_model_holds_and_every_mutant_falls():
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)}: not installed")
    done = subprocess.run([sys.executable, CHECKER], check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    fell = {
        line.split(" states ")[0].rsplit(maxsplit=1)[0].strip()
        for line in done.stdout.splitlines()
        if "falls: " in line
    }
    for mutant in REQUIRED:
        assert any(mutant in defines for defines in fell), done.stdout


def test_the_checker_says_what_is_missing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, CHECKER], env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stderr == "check_model: spin and gcc: found none on the path, want Debian's packages\n"
