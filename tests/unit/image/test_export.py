# SPDX-License-Identifier: Apache-2.0
"""Writing disks: which file is there afterwards, and what is refused."""

from __future__ import annotations

import os

import pytest

from enarx.errors import PlatformError, UsageError, VerificationError
from enarx.image import export
from enarx.image.disk import DISK_BYTES, make_disk, vhd_footer
from enarx.image.export import FORMATS, export_image
from enarx.image.manifest import UKI
from tests.unit.image.test_store import ARTEFACTS, make

IMAGE = b"unified" * 5000


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def image():
    return make("keep-1", {**ARTEFACTS, UKI: IMAGE})


def disk_is_whole(path):
    with open(path, "rb") as file:
        for at, piece in make_disk(IMAGE, "x86_64").items():
            file.seek(at)
            assert file.read(len(piece)) == piece


def test_the_image_by_itself_is_the_file(image):
    assert export_image(image, "uki") == "keep-1.efi"
    with open("keep-1.efi", "rb") as file:
        assert file.read() == IMAGE


def test_a_raw_disk_has_its_size_and_takes_no_room_for_what_is_zero(image):
    path = export_image(image, "raw")
    assert path == "keep-1.raw"
    status = os.stat(path)
    assert status.st_size == DISK_BYTES
    assert status.st_blocks * 512 < 16 << 20
    assert status.st_mode & 0o777 == 0o644
    disk_is_whole(path)


def test_a_vhd_is_the_disk_and_a_footer(image):
    path = export_image(image, "vhd", "azure.vhd")
    assert os.stat(path).st_size == DISK_BYTES + 512
    disk_is_whole(path)
    with open(path, "rb") as file:
        file.seek(DISK_BYTES)
        assert file.read() == vhd_footer(IMAGE)


def fake_qemu_img(folder, monkeypatch, script):
    program = folder / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(export.shutil, "which", lambda name: str(program) if name == "qemu-img" else None)


def test_qcow2_is_made_of_the_disk_by_a_program(image, tmp_path, monkeypatch):
    # The last two words are the disk and what is to be made.
    fake_qemu_img(tmp_path, monkeypatch, 'shift 9; stat -c %s "$1" > "$2"')
    assert export_image(image, "qcow2") == "keep-1.qcow2"
    with open("keep-1.qcow2", "rb") as file:
        assert file.read() == b"%d\n" % DISK_BYTES
    assert os.listdir() == ["keep-1.qcow2"]


def test_what_the_program_says_is_told_and_nothing_left(image, tmp_path, monkeypatch):
    fake_qemu_img(tmp_path, monkeypatch, "echo first; echo no space >&2; exit 3")
    with pytest.raises(PlatformError, match="qemu-img: found status 3, it said: no space"):
        export_image(image, "qcow2")
    assert os.listdir() == []


def test_a_program_that_does_not_end_is_ended(image, tmp_path, monkeypatch):
    fake_qemu_img(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(export, "CONVERT_TIMEOUT_S", 0.1)
    with pytest.raises(PlatformError, match=r"qemu-img: found no end in 0\.1 s"):
        export_image(image, "qcow2")
    assert os.listdir() == []


def test_qcow2_without_the_program_is_refused_and_the_others_are_not(image, monkeypatch):
    monkeypatch.setattr(export.shutil, "which", lambda name: None)
    with pytest.raises(PlatformError, match="no qemu-img") as caught:
        export_image(image, "qcow2")
    assert "qemu-utils" in caught.value.hint
    export_image(image, "raw")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_there_already_stays(image, kind, tmp_path, monkeypatch):
    fake_qemu_img(tmp_path, monkeypatch, 'shift 9; echo made > "$2"')
    with open("there", "w", encoding="ascii") as file:
        file.write("mine")
    with pytest.raises(UsageError, match="cannot write there: found one already") as caught:
        export_image(image, kind, "there")
    assert "--output" in caught.value.hint
    with open("there", encoding="ascii") as file:
        assert file.read() == "mine"


def test_an_image_for_launchers_has_no_disk():
    with pytest.raises(UsageError, match="image keep-2: found one for launchers") as caught:
        export_image(make("keep-2"), "raw")
    assert "--format" in caught.value.hint


def test_a_format_that_nobody_knows_is_refused(image):
    with pytest.raises(UsageError, match="found 'iso', want one of raw, qcow2, vhd, uki"):
        export_image(image, "iso")


def test_an_image_that_was_changed_is_not_written(image):
    os.chmod(image.uki, 0o600)
    with open(image.uki, "ab") as file:
        file.write(b"x")
    with pytest.raises(VerificationError, match=f"keep-1: {UKI}: found SHA-256"):
        export_image(image, "raw")
    assert os.listdir() == []


def test_a_disk_that_cannot_be_written_whole_is_not_left(image, monkeypatch):
    monkeypatch.setattr(export, "make_disk", lambda *_: {0: b"x", -1: b"y"})
    with pytest.raises((PlatformError, ValueError)):
        export_image(image, "raw")
    assert os.listdir() == []
