# SPDX-License-Identifier: Apache-2.0
"""What root gives up in a virtual machine, tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from enarx.errors import PlatformError
from enarx.keep.hardening import become

WAIT_S = 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")

SHOW = """
with open("/proc/self/status") as file:
    facts = dict(line.rstrip().split(":", 1) for line in file)
print([facts[name].strip() for name in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd")])
"""
NOTHING = "0" * 16


def run(code):
    program = "from enarx.keep.hardening import become, give_up, keep_capabilities\n" + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    return done.stdout.splitlines()


def test_keeps_the_capabilities_that_it_is_told():
    (found,) = run("keep_capabilities((0, 5, 40))" + SHOW)
    kept = "0000010000000021"
    assert found.endswith(f"'{NOTHING}', '{kept}', '{kept}', '{kept}']")


def test_what_it_starts_has_no_others():
    code = (
        "import subprocess, sys\n"
        "keep_capabilities((5,))\n"
        f"print(subprocess.run([sys.executable, '-c', {SHOW!r}], capture_output=True, text=True).stdout)\n"
    )
    assert "'0000000000000020', '0000000000000020', '0000000000000020']" in run(code)[0]


def test_becomes_a_user_without_rights():
    found, score = run("become(12345)" + SHOW + "print(open('/proc/self/oom_score_adj').read())")[:2]
    ids = "\\t".join(["12345"] * 4)
    assert found == str([ids.replace("\\t", "\t")] * 2 + ["", NOTHING, NOTHING, NOTHING, NOTHING])
    assert score == "1000"


def test_there_is_no_way_back():
    code = (
        "import os\n"
        "become(12345); give_up()\n"
        "for call in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.kill(os.getppid(), 0)):\n"
        "    try:\n"
        "        call()\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
    )
    assert run(code) == ["refused"] * 3


def test_a_user_that_cannot_be_become_is_told_of(monkeypatch):
    def refuse(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("enarx.keep.hardening._limit_capabilities", lambda _: None)
    monkeypatch.setattr("enarx.keep.hardening._be_first_to_go", lambda: None)
    monkeypatch.setattr(os, "setgroups", refuse)
    with pytest.raises(PlatformError, match="user 12345: Operation not permitted"):
        become(12345)
