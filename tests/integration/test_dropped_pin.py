# SPDX-License-Identifier: Apache-2.0
"""A pin that no mirror has any more: it is named, a new lock is written, and what builds the image for CI goes on with it and says so.

The mirrors are this machine's own, and the pin is one that no mirror ever had.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from enarx.image.contents import ARCHITECTURES
from enarx.image.lock import encode_lock, own_lock_path, read_lock

ARCH = platform.machine()
TOP = Path(__file__).parents[2]
BUILD_S = 900.0
GONE = "libexpat1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt"),
    pytest.mark.skipif(ARCH not in ARCHITECTURES, reason="no image for this architecture"),
]


def run(*command, **environment):
    return subprocess.run(
        list(map(str, command)),
        cwd=TOP,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )


@pytest.fixture
def lock(tmp_path):
    """A copy of the release's lock with a version of a library that there never was."""
    found = read_lock(ARCH, own_lock_path(ARCH))
    inputs = [
        replace(entry, version="0.0-1", filename=f"pool/main/e/expat/{GONE}_0.0-1_all.deb", sha256="5a" * 32)
        if entry.name == GONE
        else entry
        for entry in found.inputs
    ]
    path = tmp_path / f"{ARCH}.toml"
    path.write_text(encode_lock(replace(found, path=str(path), inputs=tuple(inputs))))
    return path


def test_a_pin_that_no_mirror_has_is_named_and_ci_goes_on_with_a_new_lock(lock, tmp_path):
    home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    done = run(TOP / "tools/build-test-image", "--level", "1", "--name", "refreshed", ENARX_TEST_LOCK=str(lock), **home)
    assert done.returncode == 0, done.stderr
    # Named, with what was wanted.
    assert (
        f"{GONE}_0.0-1_all.deb: found nothing on any of apt's mirrors, want {GONE} 0.0-1 with SHA-256 {'5a' * 32}"
        in done.stderr
    )
    # Written, and said.
    assert f"wrote a new lock: {lock}" in done.stderr
    assert f"built with the lock {lock}, which is not the one of this release" in done.stderr
    assert "building with --refresh, whose measurements are others" in done.stdout
    assert "the image is of a new lock, and not of the one of this release" in done.stdout
    pins = read_lock(ARCH, str(lock)).inputs
    (found,) = [entry for entry in pins if entry.name == GONE]
    assert found.version != "0.0-1"
    # The image is made of what the new lock pins, and can be made of it again without a look at what there is.
    (image,) = json.loads(run(TOP / ".venv/bin/enarx", "image", "list", "--json", **home).stdout)["images"]
    manifest = json.loads(Path(image["folder"], "manifest.json").read_text())
    assert {entry["sha256"] for entry in manifest["inputs"]} <= {entry.sha256 for entry in pins}
    again = run(
        TOP / ".venv/bin/enarx", "image", "build", "--lock", lock, "--level", "1", "--name", "again", "--json", **home
    )
    assert json.loads(again.stdout)["digest"] == image["digest"]


def test_a_lock_that_is_none_is_not_written_anew(tmp_path):
    lock = tmp_path / "lock.toml"
    lock.write_text("format = 1\nthis is no TOML")
    done = run(
        TOP / "tools/build-test-image",
        "--name",
        "none",
        ENARX_TEST_LOCK=str(lock),
        XDG_DATA_HOME=str(tmp_path / "data"),
    )
    assert done.returncode == 0
    assert "found no image (status 2): tests of virtual machines skip" in done.stdout
    assert "--refresh, whose" not in done.stdout
    assert lock.read_text().endswith("this is no TOML")
