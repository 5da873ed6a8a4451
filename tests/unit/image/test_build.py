# SPDX-License-Identifier: Apache-2.0
"""Building, with what an image consists of given: what is written, kept, replaced and refused. The real thing is a slow test."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from enarx.errors import ConfigError, PlatformError, UsageError, VerificationError
from enarx.image import build
from enarx.image.build import build_image, default_name, verify_contents
from enarx.image.contents import ARCHITECTURES, STUB
from enarx.image.initramfs import Parts
from enarx.image.lock import read_lock
from enarx.image.measure_pe import parse_pe_untrusted
from enarx.image.newc import file, link, read_newc, write_newc
from enarx.image.store import images_folder, open_image, verify_image
from tests.unit.image.machine_files import make_kernel, make_stub

ENTRIES = (file("init", b"#!", executable=True), link("lib", "usr/lib"))
ARCHIVE = write_newc(ENTRIES)
PARTS = Parts(
    initramfs=ARCHIVE,
    entries=tuple(read_newc(ARCHIVE)),
    kernel=b"linux",
    firmware={"vm": b"ovmf", "snp": b"sev", "tdx": b"tdvf"},
    stub=b"",
)
CLOUD = replace(PARTS, kernel=make_kernel(), stub=make_stub())


class FakeTools:
    identity = "tools"
    compressed = 0

    def compress(self, data, level, progress):
        FakeTools.compressed += 1
        progress(len(data), len(data))
        return b"%d:" % level + data

    def decompress(self, data):
        return data.partition(b":")[2]


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_prepare", lambda *_, **__: ({}, FakeTools()))
    monkeypatch.setattr(build, "fetch_inputs", lambda *_, **__: {})
    monkeypatch.setattr(build, "unpack_tools", lambda *_: FakeTools())
    given = [PARTS]
    monkeypatch.setattr(build, "make_parts", lambda *_, **__: given[0])
    monkeypatch.setattr(build, "reference_values", lambda *_, **__: {"snp": {"measurement": ["ab" * 48]}})
    FakeTools.compressed = 0
    return given


def test_an_image_has_the_parts_and_a_manifest_of_them():
    image = build_image("x86_64")
    assert image.name == default_name("x86_64")
    assert image.cmdline == ARCHITECTURES["x86_64"].command_line
    with open(image.initramfs, "rb") as made, open(image.kernel, "rb") as kernel:
        assert (made.read(), kernel.read()) == (b"19:" + ARCHIVE, b"linux")
    assert set(image.firmware) == {"vm", "snp", "tdx"}
    assert image.manifest.reference == {"snp": {"measurement": ["ab" * 48]}}
    assert [entry.path for entry in image.manifest.files] == ["init", "lib"]
    assert image.manifest.compression == "zstd -19"
    assert {entry.name for entry in image.manifest.inputs} >= {"libc6", "wasmtime", "ovmf-amdsev"}
    verify_image(image)


def test_an_image_for_clouds_has_a_unified_kernel_image_and_says_so_on_its_command_line(parts):
    parts[0] = CLOUD
    image = build_image("x86_64", cloud=True)
    assert image.name == default_name("x86_64", cloud=True) != default_name("x86_64")
    assert image.cmdline == ARCHITECTURES["x86_64"].command_line + " ipv6.disable=1 enarx.link=tcp:8471"
    # Firmware is the cloud's; ours is there to try it out.
    assert set(image.firmware) == {"vm"}
    with open(image.uki, "rb") as file:
        sections = parse_pe_untrusted(file.read(), what="the image").sections
    assert sections[".linux"] == CLOUD.kernel
    assert sections[".initrd"] == b"19:" + ARCHIVE
    assert sections[".cmdline"] == image.cmdline.encode()
    assert STUB in {entry.name for entry in image.manifest.inputs}
    verify_image(image)


def test_no_other_image_has_a_unified_kernel_image():
    image = build_image("x86_64")
    assert image.uki is None
    assert "enarx.link" not in image.cmdline
    assert STUB not in {entry.name for entry in image.manifest.inputs}


def test_a_second_build_changes_nothing_and_compresses_nothing():
    image = build_image("x86_64")
    before = os.stat(image.kernel).st_ino
    assert build_image("x86_64") == image
    assert os.stat(image.kernel).st_ino == before
    assert FakeTools.compressed == 1
    assert os.listdir(images_folder()) == [image.name]


def test_a_fresh_build_compresses_again():
    image = build_image("x86_64")
    assert build_image("x86_64", fresh=True) == image
    assert FakeTools.compressed == 2


def test_another_part_makes_another_image_in_its_place(parts):
    image = build_image("x86_64")
    parts[0] = replace(PARTS, kernel=b"bsd")
    other = build_image("x86_64")
    assert other.folder == image.folder
    assert open_image(image.name).digest == other.digest != image.digest


def test_images_of_equal_parts_have_equal_digests_whatever_their_names():
    assert build_image("x86_64", name="a").digest == build_image("x86_64", name="b").digest


def test_a_damaged_image_is_made_again():
    image = build_image("x86_64")
    os.chmod(image.kernel, 0o600)
    with open(image.kernel, "wb") as kernel:
        kernel.write(b"lunix")
    verify_image(build_image("x86_64"))


def test_a_lower_level_is_another_image():
    assert build_image("x86_64", level=3).digest != build_image("x86_64").digest


def test_an_initramfs_that_is_too_large_is_refused_at_the_highest_level_alone(monkeypatch):
    monkeypatch.setattr(build.contents, "MAX_IMAGE_BYTES", 10)
    build_image("x86_64", level=3)
    with pytest.raises(ConfigError, match=r"initramfs: found \d+ bytes, want at most 10"):
        build_image("x86_64")


@pytest.mark.parametrize("level", [0, 20, -1])
def test_refuses_a_level_that_is_none(level):
    with pytest.raises(UsageError, match=f"level: found {level}, want 1 to 19"):
        build_image("x86_64", level=level)


def test_refuses_a_name_before_anything_is_made():
    with pytest.raises(UsageError, match="cannot name an image"):
        build_image("x86_64", name="../x")
    assert FakeTools.compressed == 0


def test_contents_are_compared_entry_by_entry():
    verify_contents(build_image("x86_64"))


def test_an_entry_that_the_manifest_does_not_know_is_named(parts):
    parts[0] = replace(PARTS, initramfs=write_newc([*ENTRIES, file("bin/sh", b"shell")]))
    with pytest.raises(VerificationError, match=r"initramfs: bin: found File"):
        verify_contents(build_image("x86_64"))


def test_an_entry_that_went_is_named(parts):
    parts[0] = replace(PARTS, initramfs=write_newc(ENTRIES[:1]))
    with pytest.raises(VerificationError, match="initramfs: lib: found nothing"):
        verify_contents(build_image("x86_64"))


def test_refuses_a_lock_whose_interpreter_this_machines_lock_does_not_have(monkeypatch):
    monkeypatch.undo()
    lock = read_lock("aarch64")
    inputs = tuple(
        replace(entry, version="3.11.9-1") if entry.name == "python3.11-minimal" else entry for entry in lock.inputs
    )
    monkeypatch.setattr(build, "_native", lambda: ARCHITECTURES["x86_64"])
    with pytest.raises(ConfigError, match=r"found Python 3.11.2, want 3.11.9"):
        build._prepare(ARCHITECTURES["aarch64"], replace(lock, inputs=inputs), lambda *_: None)


def test_refuses_an_image_whose_engine_compiles_on_its_own_architecture_alone(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(build, "_native", lambda: ARCHITECTURES["aarch64"])
    with pytest.raises(PlatformError, match=r"for x86_64: found a machine of aarch64, want x86_64") as caught:
        build._prepare(ARCHITECTURES["x86_64"], read_lock("x86_64"), lambda *_: None, cloud=False)
    assert caught.value.hint


def test_inputs_are_fetched_as_soon_as_one_is_asked_for_and_once():
    lock = read_lock("x86_64")
    first, second, other = lock.inputs[:3]
    asked = []
    inputs = build._Inputs(lambda: asked.append(1) or {first: "a", second: "b"})
    assert not asked
    assert [inputs[first], inputs[second], inputs[first]] == ["a", "b", "a"]
    with pytest.raises(KeyError):
        inputs[other]
    assert asked == [1]


def test_what_is_there_already_is_not_written_again(monkeypatch):
    first = build_image("x86_64")
    monkeypatch.setattr(build, "_write", lambda _: pytest.fail("written again"))
    assert build_image("x86_64") == first
