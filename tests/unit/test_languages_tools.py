# SPDX-License-Identifier: Apache-2.0
"""What builds of the examples of languages share: fetching by a lock, and what of it is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FAILED, UNAVAILABLE = 1, 69
BUILD = """\
#!/bin/sh
set -eu
. "$(dirname "$0")/../tools"
folder=$(locked package-lock.json npm_install)
cp "$folder/given" "$out/"
"""
ALONE = """\
#!/bin/sh
set -eu
. "$(dirname "$0")/../tools"
alone
[ -e "$cache/made" ] || { ls "$cache" >>"$root/makers"; sleep 0.2; : >"$cache/made"; }
"""


@pytest.fixture
def example(tmp_path):
    """An example whose caches are reached by a symbolic link."""
    folder = tmp_path / "top" / "examples" / "languages" / "some"
    folder.mkdir(parents=True)
    shutil.copy(TOP / "examples/languages/tools", folder.parent)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "top" / "build").symlink_to(tmp_path / "elsewhere")
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_text("{}\n")
    (tmp_path / "bin").mkdir()
    return folder


def write_script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def start(example):
    environment = {"PATH": f"{example.parents[3] / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        [example / "build", example.parent / "out"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build(example, npm):
    """Build with an npm that is this script."""
    write_script(example.parents[3] / "bin" / "npm", f"#!/bin/sh\n{npm}\n")
    write_script(example / "build", BUILD)
    with start(example) as process:
        said, _ = process.communicate(timeout=60)
    return process.returncode, said.splitlines()


def left(example):
    return list((example.parents[3] / "elsewhere" / "languages").iterdir())


def test_fetches_once_to_a_folder_that_is_no_link(example):
    status, said = build(example, '[ "$3" = "$(cd "$3" && pwd -P)" ] && cp "$3/package.json" "$3/given"')
    assert (status, said) == (0, [])
    assert (example.parent / "out" / "given").read_text() == "{}\n"
    assert build(example, "exit 1") == (0, [])
    assert len(left(example)) == 1


@pytest.mark.parametrize(
    "said",
    [
        "npm error code ENOTFOUND",
        "npm error code ECONNREFUSED",
        "npm error code E404",
        "npm error code E503",
        "ERROR: No matching distribution found for some==1.0",
    ],
)
def test_what_nobody_gives_is_unavailable(example, said):
    assert build(example, f"echo '{said}' >&2; exit 1") == (
        UNAVAILABLE,
        [said, "build: package-lock.json: cannot be fetched"],
    )
    assert left(example) == []


@pytest.mark.parametrize(
    "said",
    [
        "npm error code EUSAGE",
        "npm error code EINTEGRITY",
        "WARNING: Connection timed out\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
        "Segmentation fault",
    ],
)
def test_any_other_failure_is_one(example, said):
    assert build(example, f"echo '{said}' >&2; exit 1") == (FAILED, said.splitlines())
    assert left(example) == []


def test_without_an_environment_pip_is_unavailable(example):
    (example / "requirements.lock").write_text("")
    write_script(example / "build", BUILD.replace("package-lock.json npm", "requirements.lock pip"))
    with start(example) as process:
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (
        UNAVAILABLE,
        "build: pip: no environment of the project, want: make dev\n",
    )


def test_one_builds_and_the_others_wait_for_it(example):
    write_script(example / "build", ALONE)
    processes = [start(example) for _ in range(3)]
    assert [(process.communicate(timeout=60), process.returncode) for process in processes] == [(("", None), 0)] * 3
    assert (example.parents[2] / "makers").read_text() == "lock\n"
