# SPDX-License-Identifier: Apache-2.0
"""What is read of an OVMF: its version, its volumes, whether it checks a kernel, and what a TD's memory has of it."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, PlatformError
from enarx.image import measure_firmware
from enarx.image.measure_firmware import (
    checks_kernel_hashes,
    firmware_version,
    remembering,
    tdvf_sections,
    volume_digests,
)
from tests.unit.image.machine_files import VERSION, flipped, make_firmware, volumes

TDX = ((0xFFFF8000, 0x8000, 0, 0x8000, 1), (0x810000, 0x2000, 0, 0, 0), (0x900000, 0x1000, 0, 0, 2))


def test_finds_the_version():
    assert firmware_version(make_firmware()) == VERSION


def test_refuses_to_guess_among_versions():
    with pytest.raises(DecodeError, match="found 2 texts that look like one"):
        firmware_version(make_firmware(dxe="2025.02\0".encode("utf-16-le")))
    with pytest.raises(DecodeError, match="found 0 texts"):
        firmware_version(bytes(4096))


def test_knows_firmware_that_checks_what_it_boots():
    assert checks_kernel_hashes(make_firmware(checks_hashes=True))
    assert not checks_kernel_hashes(make_firmware())
    # Its tables have room for hashes all the same.
    assert not checks_kernel_hashes(b"")


def test_the_hashes_have_to_be_known_by_code():
    """The names as plain text of the file are no code."""
    firmware = make_firmware()
    names = b"".join(measure_firmware._HASHES)
    assert not checks_kernel_hashes(firmware[:-4096] + names.ljust(4096, b"\0"))


def test_damaged_compression_is_a_decode_error():
    firmware = make_firmware()
    at = firmware.index(measure_firmware._LZMA_SECTION) + 20
    with pytest.raises(DecodeError, match="a compressed section"):
        checks_kernel_hashes(firmware[:at] + b"\xff" * 16 + firmware[at + 16 :])


def test_the_reader_hashes_the_two_volumes():
    firmware = make_firmware(b"one", b"two")
    assert volume_digests(firmware) == tuple(hashlib.sha256(one).digest() for one in volumes(b"one", b"two"))


def test_refuses_firmware_without_volumes():
    with pytest.raises(DecodeError, match="want those of OVMF"):
        volume_digests(bytes(4096))
    with pytest.raises(DecodeError, match="want a raw image"):
        volume_digests(b"")
    # The reader would start another program for such a file.
    with pytest.raises(DecodeError, match="want a raw image"):
        volume_digests(b"QFI\xfb" + bytes(4096))


def test_says_what_is_not_installed(monkeypatch):
    answer = subprocess.CompletedProcess([], 1, b"", b"python: No module named virt\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(PlatformError, match="No module named virt") as caught:
        volume_digests(make_firmware(b"not asked before"))
    assert "virt-firmware" in caught.value.hint


def test_a_reader_that_hangs_ends(monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("virt.firmware.dump", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(PlatformError, match="timed out"):
        volume_digests(make_firmware(b"not asked before either"))


def test_reads_what_a_td_begins_with():
    firmware = make_firmware(tdx=TDX)
    first, second = tdvf_sections(firmware)
    assert (first.address, first.data, first.size, first.extended) == (0xFFFF8000, firmware, 0x8000, True)
    assert (second.address, second.data, second.size, second.extended) == (0x810000, b"", 0x2000, False)


@pytest.mark.parametrize(
    ("firmware", "words"),
    [
        (b"", "the table of GUIDs: found none"),
        (bytes(4096), "the table of GUIDs: found none"),
        (make_firmware(), "TDX metadata: found none"),
        (make_firmware(tdx=((0, 0x1001, 0, 0, 0),)), "whole pages"),
        (make_firmware(tdx=((1, 0x1000, 0, 0, 0),)), "whole pages"),
        (make_firmware(tdx=((0, 0x1000, 0, 0x2000, 0),)), "data from the file"),
        (make_firmware(tdx=((0, 0x1000, 0x8000, 1, 0),)), "data from the file"),
        (make_firmware(tdx=((0, 1 << 40, 0, 0, 0),)), "a section of"),
        (make_firmware(tdx=((0, 0x1000, 0, 0, 0),) * 65), "65 sections"),
    ],
)
def test_refuses_tdx_metadata_that_cannot_be(firmware, words):
    with pytest.raises(DecodeError, match=words):
        tdvf_sections(firmware)


@given(at=st.integers(0, 0x7FFF), data=st.binary(min_size=1, max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_firmware_gives_an_answer_or_a_decode_error(at, data):
    made = make_firmware(tdx=TDX)
    firmware = made[:at] + data + made[at + len(data) :]
    for ask in (tdvf_sections, checks_kernel_hashes, firmware_version):
        with contextlib.suppress(DecodeError):
            ask(firmware)


def test_one_byte_of_a_volume_is_another_digest():
    firmware = make_firmware(b"one")
    pei, dxe = volume_digests(firmware)
    other_pei, same_dxe = volume_digests(make_firmware(flipped(b"one", 1)))
    assert other_pei != pei
    assert same_dxe == dxe


def test_what_is_found_out_about_firmware_is_remembered_while_somebody_does():
    firmware, kept, asked = make_firmware(checks_hashes=True), {}, []

    def memory(name, find):
        asked.append(name)
        return kept.setdefault(name, find() if name not in kept else b"")

    volume_digests.cache_clear()
    expected = [checks_kernel_hashes(firmware), firmware_version(firmware), volume_digests(firmware)]
    volume_digests.cache_clear()
    assert not asked
    for _ in range(2):
        with remembering(memory):
            found = [checks_kernel_hashes(firmware), firmware_version(firmware), volume_digests(firmware)]
        assert found == expected
        volume_digests.cache_clear()
    assert len(asked) == 6
    assert len(kept) == 3
    with remembering(memory):
        assert not checks_kernel_hashes(make_firmware())
    assert len(kept) == 4


def test_what_is_refused_is_not_remembered():
    kept = {}
    with remembering(lambda name, find: kept.setdefault(name, find())):
        for _ in range(2):
            with pytest.raises(DecodeError):
                firmware_version(bytes(4096))
    assert not kept
