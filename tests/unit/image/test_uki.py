# SPDX-License-Identifier: Apache-2.0
"""Unified kernel images: what is in them, that nothing else decides a byte, and what is no stub."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.image.measure_pe import parse_pe_untrusted
from enarx.image.uki import make_uki
from tests.unit.image.machine_files import make_kernel, make_pe, make_stub

STUB, KERNEL = make_stub(), make_kernel()
PARTS = {"kernel": KERNEL, "initramfs": b"cpio" * 1000, "cmdline": "quiet panic=-1"}


def headers(data):
    """Return the size in memory, the size of all data, and for each section where it is in memory and in the file."""
    (start,) = struct.unpack_from("<I", data, 0x3C)
    count, optional = struct.unpack_from("<H12xH", data, start + 6)
    data_bytes, image_bytes = struct.unpack_from("<I44xI", data, start + 24 + 8)
    sections = [struct.unpack_from("<8sIIII", data, start + 24 + optional + 40 * index) for index in range(count)]
    return image_bytes, data_bytes, sections


def test_has_the_stub_and_each_part_as_a_section():
    uki = make_uki(STUB, **PARTS)
    sections = parse_pe_untrusted(uki, what="the image").sections
    assert list(sections) == [".text", ".sdmagic", ".cmdline", ".initrd", ".linux"]
    assert sections[".linux"] == KERNEL
    assert sections[".initrd"] == b"cpio" * 1000
    assert sections[".cmdline"] == b"quiet panic=-1"
    assert uki.startswith(STUB[:0x280])


def test_sections_are_aligned_and_apart_from_each_other_in_memory_and_in_the_file():
    uki = make_uki(STUB, **PARTS)
    image_bytes, data_bytes, sections = headers(uki)
    added = sections[2:]
    for (_, memory_bytes, address, file_bytes, offset), following in zip(added, [*added[1:], None], strict=True):
        assert address % 0x1000 == offset % 0x200 == file_bytes % 0x200 == 0
        assert memory_bytes <= file_bytes
        end, file_end = (image_bytes, len(uki)) if following is None else (following[2], following[4])
        assert address + memory_bytes <= end
        assert offset + file_bytes == file_end
    assert image_bytes % 0x1000 == 0
    assert data_bytes == sum(section[3] for section in added)


def test_the_same_parts_make_the_same_bytes_and_each_other_part_others():
    uki = make_uki(STUB, **PARTS)
    assert make_uki(bytes(STUB), **PARTS) == uki
    for change in ({"kernel": make_kernel(b"K")}, {"initramfs": b"cpio"}, {"cmdline": "quiet panic=-2"}):
        assert make_uki(STUB, **{**PARTS, **change}) != uki


@pytest.mark.parametrize(
    ("stub", "found"),
    [
        (b"no stub", "too early|no PE header"),
        (make_stub(room=0x400), "room for 3 sections, want 5"),
        (make_stub(alignments=(0x1000, 0)), "alignments 4096 and 0"),
        (make_stub(alignments=(0x1001, 0x200)), "alignments 4097 and 512"),
        (make_pe({".text": b"stub"}, magic=0x10B, header_bytes=0x1000), "magic 0x10b"),
    ],
)
def test_refuses_what_is_no_stub(stub, found):
    with pytest.raises(DecodeError, match=found):
        make_uki(stub, **PARTS)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(at=st.integers(0, 0x480), value=st.integers(0, 255))
def test_any_header_makes_an_image_or_is_refused(at, value):
    stub = bytearray(STUB)
    stub[at] = value
    with contextlib.suppress(DecodeError):
        assert make_uki(bytes(stub), kernel=b"k", initramfs=b"i", cmdline="c").startswith(b"MZ")
