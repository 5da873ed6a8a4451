# SPDX-License-Identifier: Apache-2.0
"""Authenticode digests and sections of PE files, and kernels as older QEMUs hand them to firmware."""

from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, UsageError
from enarx.image.measure_pe import kernel_as_patched, parse_pe_untrusted
from tests.unit.image.machine_files import flipped, make_kernel, make_pe

SECTIONS = {".text": b"t" * 700, ".data": b"d" * 10}
CHECKSUM = 0x280 + 24 + 64
CERTIFICATE_ENTRY = 0x280 + 24 + 112 + 32


def digest(data):
    return parse_pe_untrusted(data, what="it").digest("sha256")


def by_hand(data, end):
    parts = (data[:CHECKSUM], data[CHECKSUM + 4 : CERTIFICATE_ENTRY], data[CERTIFICATE_ENTRY + 8 : end])
    return hashlib.sha256(b"".join(parts)).digest()


def test_is_over_everything_but_checksum_and_certificates():
    data = make_pe(SECTIONS, certificates=b"c" * 64)
    assert digest(data) == by_hand(data, len(data) - 64)
    for at in (*range(CHECKSUM, CHECKSUM + 4), len(data) - 1):
        assert digest(flipped(data, at)) == digest(data)
    for at in (2, 0x100, 0x3FF, 0x400, len(data) - 65):
        assert digest(flipped(data, at)) != digest(data)


def test_a_signature_changes_nothing():
    assert digest(make_pe(SECTIONS, certificates=b"c" * 64)) == digest(make_pe(SECTIONS))


def test_reads_32_bit_files_and_files_without_certificate_entry():
    assert digest(make_pe(SECTIONS, magic=0x10B)) != digest(make_pe(SECTIONS))
    few = make_pe(SECTIONS, directories=4)
    assert digest(few) == hashlib.sha256(few[:CHECKSUM] + few[CHECKSUM + 4 :]).digest()


def test_what_follows_the_sections_is_measured_too():
    data = make_pe(SECTIONS) + b"x" * 8
    assert digest(data) == by_hand(data, len(data))


def test_sections_have_the_size_that_they_have_in_memory():
    assert dict(parse_pe_untrusted(make_pe(SECTIONS), what="it").sections) == SECTIONS


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes that end too early"),
        (bytes(4096), "no PE header"),
        (make_pe(SECTIONS, magic=0x107), "the magic 0x107"),
        (make_pe(SECTIONS)[:0x300], "end too early"),
        (make_pe(SECTIONS)[:0x400], "a section at 1024"),
        (make_pe(SECTIONS) + b"x", "want a multiple of 8"),
        (make_pe(SECTIONS, certificates=b"c" * 64) + bytes(8), "certificates that are not its end"),
        (make_pe(SECTIONS, header_bytes=0x200), "a header of 512"),
        (make_pe({f".{n}": b"x" for n in range(97)}, header_bytes=0x2000), "97 sections"),
    ],
)
def test_refuses_what_firmwares_could_measure_differently(data, words):
    with pytest.raises(DecodeError, match=words):
        parse_pe_untrusted(data, what="it")


def test_refuses_sections_with_a_gap():
    data = bytearray(make_pe(SECTIONS))
    table = 0x280 + 24 + 112 + 128
    struct.pack_into("<I", data, table + 40 + 20, 0xA00)
    with pytest.raises(DecodeError, match="a section at 2560 that does not follow what ends at 2048"):
        parse_pe_untrusted(bytes(data) + bytes(0x200), what="it")


@given(data=st.binary(max_size=64), at=st.integers(0, 0x600), whole=st.booleans())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_give_a_digest_or_a_decode_error(data, at, whole):
    made = make_pe(SECTIONS)
    for foreign in (made[:at] + data + (made[at + len(data) :] if whole else b""), data):
        with contextlib.suppress(DecodeError):
            assert len(digest(foreign)) == 32


def test_older_qemu_writes_into_the_setup_header():
    kernel = make_kernel()
    patched = kernel_as_patched(kernel, initramfs_bytes=28736, memory_bytes=512 << 20)
    assert len(patched) == len(kernel)
    changed = {at for at in range(len(kernel)) if kernel[at] != patched[at]}
    assert changed <= {0x210, 0x211, *range(0x218, 0x220), 0x224, 0x225, *range(0x228, 0x22C)}
    assert patched[0x210:0x212] == b"\xb0\x81"
    # Below the last 160 KiB and one byte, on a page.
    assert struct.unpack_from("<II", patched, 0x218) == (0x1FFD0000, 28736)
    assert struct.unpack_from("<H2xI", patched, 0x224) == (0xFE00, 0x20000)


def test_memory_from_2816_mib_on_looks_alike():
    kernel = make_kernel()
    sizes = [2815 << 20, 2816 << 20, 4096 << 20]
    first, second, third = (kernel_as_patched(kernel, initramfs_bytes=1, memory_bytes=size) for size in sizes)
    assert first != second == third


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (b"", "no setup header"),
        (make_pe(SECTIONS), "no setup header"),
        (make_kernel(protocol=0x20B), "boot protocol 2.11"),
        (make_kernel(flags=1), "2.12 with a 64-bit entry"),
    ],
)
def test_refuses_to_patch_what_is_no_such_kernel(kernel, words):
    with pytest.raises(DecodeError, match=words):
        kernel_as_patched(kernel, initramfs_bytes=1, memory_bytes=512 << 20)


def test_refuses_memory_that_is_less_than_the_initramfs():
    with pytest.raises(UsageError, match="want more than the initramfs has"):
        kernel_as_patched(make_kernel(), initramfs_bytes=1 << 20, memory_bytes=1 << 20)
