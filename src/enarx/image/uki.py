# SPDX-License-Identifier: Apache-2.0
"""A unified kernel image: one file that firmware starts from a disk, of systemd's stub, a kernel, an initramfs and a command line.

The stub is a PE file that looks for the others among its own sections, measures them into PCR 11 and starts the kernel. Here they
are appended to it as sections; nothing else of it changes but the sizes in its headers, and nothing but the arguments decides a byte.

Rules of this file:

- Any bytes for a stub give a result or a DecodeError.
- Nothing is signed: what is measured is compared by who is to trust it.

Source: Microsoft PE format; the UAPI group's specification of unified kernel images (UAPI.5); systemd-stub(7).
"""

from __future__ import annotations

import struct

from enarx.errors import DecodeError
from enarx.image.measure_pe import parse_pe_untrusted

__all__ = ["make_uki"]

_PE32_PLUS = 0x20B
_SECTION_BYTES = 40
_READ_ONLY_DATA = 0x40000040
"""IMAGE_SCN_CNT_INITIALIZED_DATA and IMAGE_SCN_MEM_READ."""

_MAX_ALIGNMENT = 1 << 16
_MAX_IMAGE_BYTES = 1 << 31


def make_uki(stub: bytes, *, kernel: bytes, initramfs: bytes, cmdline: str) -> bytes:
    """Put a unified kernel image together.

    Args:
        stub: systemd's, without sections of that kind.
        kernel: with an EFI stub of its own.
        initramfs: the file.
        cmdline: ASCII, without an end.

    Raises:
        DecodeError: the stub is none, or has no room for more sections.
    """
    parse_pe_untrusted(stub, what="the stub")
    (start,) = struct.unpack_from("<I", stub, 0x3C)
    count, optional_bytes = struct.unpack_from("<H12xH", stub, start + 6)
    optional = start + 24
    magic, data_bytes = struct.unpack_from("<H6xI", stub, optional)
    alignment, file_alignment = struct.unpack_from("<II", stub, optional + 32)
    (headers_bytes,) = struct.unpack_from("<I", stub, optional + 60)
    if magic != _PE32_PLUS or not all(_is_power_of_2(each) for each in (alignment, file_alignment)):
        raise _refusal(f"magic {magic:#x} and alignments {alignment} and {file_alignment}", "PE32+ and powers of 2")
    table = optional + optional_bytes
    added = {".cmdline": cmdline.encode("ascii"), ".initrd": initramfs, ".linux": kernel}
    if table + _SECTION_BYTES * (count + len(added)) > headers_bytes:
        raise _refusal(f"room for {(headers_bytes - table) // _SECTION_BYTES} sections", f"{count + len(added)}")
    address = 0
    for index in range(count):
        memory_bytes, begin = struct.unpack_from("<8xII", stub, table + _SECTION_BYTES * index)
        address = max(address, begin + memory_bytes)
    made = bytearray(stub)
    made += bytes(-len(made) % file_alignment)
    for index, (name, content) in enumerate(added.items(), count):
        address += -address % alignment
        padded = len(content) + -len(content) % file_alignment
        header = (name.encode(), len(content), address, padded, len(made), 0, 0, 0, 0, _READ_ONLY_DATA)
        struct.pack_into("<8sIIIIIIHHI", made, table + _SECTION_BYTES * index, *header)
        made += content.ljust(padded, b"\0")
        address += len(content)
        data_bytes += padded
    address += -address % alignment
    if address > _MAX_IMAGE_BYTES:
        raise _refusal(f"{address} bytes in memory", f"at most {_MAX_IMAGE_BYTES}")
    struct.pack_into("<H", made, start + 6, count + len(added))
    struct.pack_into("<I", made, optional + 8, data_bytes)
    struct.pack_into("<I", made, optional + 56, address)
    return bytes(made)


def _is_power_of_2(number: int) -> bool:
    return 0 < number <= _MAX_ALIGNMENT and not number & (number - 1)


def _refusal(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot make a unified kernel image: the stub: found {found}, want {want}")
