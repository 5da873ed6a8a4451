# SPDX-License-Identifier: Apache-2.0
"""The README's `console` blocks do what they show. Its other blocks need a network, a terminal or minutes.

A block is commands, each behind `$ `, and beneath each what it prints on stdout and stderr.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")
EXPORT = "export ENARX_BACKEND=nil"
TIMEOUT_S = 60
BLOCKS = list(re.finditer(r"^```console\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, guest):
    """A directory that looks like a checkout in which the programs of the README were built."""
    top = tmp_path_factory.mktemp("checkout")
    (top / ".venv").symlink_to(sys.prefix)
    (top / "examples").symlink_to(TOP / "examples")
    (top / "build/component").mkdir(parents=True)
    for name in ["hello", *re.search(r"for name in ([\w/ ]+);", README)[1].split()]:
        shutil.copyfile(guest(name), top / f"build/{name}.wasm")
    return top


def test_there_is_something_to_run():
    assert EXPORT in README
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_a_block_prints_what_it_shows(checkout, enarx, block):
    env = {**enarx.env, "PATH": f"{checkout}/.venv/bin:{enarx.env['PATH']}"}
    if EXPORT in README[: block.start()]:
        env["ENARX_BACKEND"] = "nil"
    shown = re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]
    assert shown
    for command, _, output in (part.partition("\n") for part in shown):
        ended = subprocess.run(
            ["sh", "-c", command],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert _without_port(ended.stdout.decode()) == _without_port(output), command


def _without_port(text):
    """Put one number in the place of every port that the system chose."""
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text)
