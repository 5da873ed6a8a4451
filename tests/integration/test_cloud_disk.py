# SPDX-License-Identifier: Apache-2.0
"""Disks of ours as programs of others see them: tables, file system, formats. Each skips where its program is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from enarx.image.disk import DISK_BYTES
from enarx.image.export import export_image
from enarx.image.manifest import UKI
from tests.unit.image.test_store import ARTEFACTS, make

pytestmark = pytest.mark.slow

IMAGE = bytes(range(256)) * 50_000
PACKAGES = {"sgdisk": "gdisk", "fsck.vfat": "dosfstools", "mcopy": "mtools", "qemu-img": "qemu-utils"}
SYSTEM_PROGRAMS = "/usr/sbin:/sbin"


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return make("keep-1", {**ARTEFACTS, UKI: IMAGE})


def run(program, *arguments):
    found = shutil.which(program, path=f"{os.environ['PATH']}:{SYSTEM_PROGRAMS}")
    if found is None:
        pytest.skip(f"no {program}: apt-get install {PACKAGES[program]}")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def esp(disk):
    """Write the partition alone."""
    count = (DISK_BYTES >> 20) - 2
    run("dd", f"if={disk}", "of=esp", "bs=1M", "skip=1", f"count={count}", "conv=sparse", "status=none")
    return "esp"


def test_the_partition_table_has_no_problems(image):
    said = run("sgdisk", "-v", export_image(image, "raw"))
    assert "No problems found" in said
    table = run("sgdisk", "-p", "keep-1.raw")
    assert "EF00  EFI system partition" in table


def test_the_file_system_is_consistent(image):
    said = run("fsck.vfat", "-n", "-v", esp(export_image(image, "raw")))
    assert "32 bit entries" in said
    assert "4 files" in said


def test_the_file_is_read_by_others(image):
    run("mcopy", "-n", "-i", esp(export_image(image, "raw")), "::/EFI/BOOT/BOOTX64.EFI", "back")
    with open("back", "rb") as file:
        assert file.read() == IMAGE


def test_a_vhd_is_one_of_the_disks_size(image):
    told = json.loads(run("qemu-img", "info", "--output=json", "-f", "vpc", export_image(image, "vhd")))
    assert told["virtual-size"] == DISK_BYTES
    export_image(image, "raw")
    run("qemu-img", "compare", "-f", "raw", "-F", "vpc", "keep-1.raw", "keep-1.vhd")


def test_a_qcow2_is_the_disk_and_the_same_bytes_each_time(image):
    if shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img: apt-get install qemu-utils")
    export_image(image, "raw")
    for name in ("one", "two"):
        export_image(image, "qcow2", name)
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "keep-1.raw", name)
    with open("one", "rb") as one, open("two", "rb") as two:
        assert one.read() == two.read()
    assert os.stat("one").st_size < 64 << 20
