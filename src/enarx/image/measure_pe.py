# SPDX-License-Identifier: Apache-2.0
"""Kernels and unified kernel images as firmware measures them: Authenticode digests and sections of PE files, and what QEMU changes.

Rules of this file:

- Any bytes give a result or a DecodeError.
- A file whose digest firmwares of different makers would compute differently is refused: one with sections that overlap or leave
  gaps, or whose size is not a multiple of 8.

Source: Microsoft PE format, "attribute certificate table"; Windows Authenticode Portable Executable Signature Format 1.0; Linux
Documentation/arch/x86/boot.rst; QEMU hw/i386/x86-common.c.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

from enarx.errors import DecodeError, UsageError

__all__ = ["PeFile", "kernel_as_patched", "parse_pe_untrusted"]

MAX_SECTIONS = 96
_PE_MAGICS = {0x10B: 96, 0x20B: 112}  # PE32 and PE32+: the offset of the data directories
_X86 = 0x8664
_CERTIFICATES = 4
_CHUNK = 8

# Fields of the setup header (boot.rst), and where QEMU puts things.
_HEADER_MAGIC = b"HdrS"
_ABOVE_4G = 2
_BOOT_LOADER_QEMU = 0xB0
_CAN_USE_HEAP = 0x80
_REAL_ADDRESS, _CMDLINE_ADDRESS = 0x10000, 0x20000
_ACPI_BYTES = 0x20000 + 0x8000
_SPLIT_AT, _LOW_BYTES = 0xB0000000, 0x80000000


class PeFile(NamedTuple):
    """A PE file, taken apart.

    Args:
        data: all of it.
        pieces: the ranges that the Authenticode digest is over, in their order.
        sections: content by name, as long as it is in memory.
        is_x86: whether it is for x86-64.
    """

    data: bytes
    pieces: tuple[tuple[int, int], ...]
    sections: Mapping[str, bytes]
    is_x86: bool

    def digest(self, algorithm: str) -> bytes:
        """Return the Authenticode digest, by the name that `hashlib` has for its algorithm."""
        digest = hashlib.new(algorithm)
        view = memoryview(self.data)
        for start, end in self.pieces:
            digest.update(view[start:end])
        return digest.digest()


def parse_pe_untrusted(data: bytes, *, what: str) -> PeFile:
    """Take a PE file apart.

    Args:
        data: all of it.
        what: it is, for messages.

    Raises:
        DecodeError: it is none, or not one with a single Authenticode digest.
    """
    try:
        return _parse(data, what)
    except struct.error as error:
        raise _refusal(what, f"{len(data)} bytes that end too early", "a PE file") from error


def _parse(data: bytes, what: str) -> PeFile:
    (start,) = struct.unpack_from("<I", data, 0x3C)
    if data[:2] != b"MZ" or data[start : start + 4] != b"PE\0\0":
        raise _refusal(what, "no PE header", "a PE file, as kernels with an EFI stub are")
    machine, n_sections, optional_bytes = struct.unpack_from("<HH12xH", data, start + 4)
    optional = start + 24
    (magic,) = struct.unpack_from("<H", data, optional)
    if magic not in _PE_MAGICS or n_sections > MAX_SECTIONS:
        raise _refusal(what, f"the magic {magic:#x} and {n_sections} sections", f"PE32+ and at most {MAX_SECTIONS}")
    (header_bytes,) = struct.unpack_from("<I", data, optional + 60)
    checksum = optional + 64
    directories = optional + _PE_MAGICS[magic]
    (n_directories,) = struct.unpack_from("<I", data, directories - 4)
    sections_at = optional + optional_bytes
    end = len(data)
    pieces = [(0, checksum)]
    if n_directories > _CERTIFICATES:
        entry = directories + 8 * _CERTIFICATES
        certificates, size = struct.unpack_from("<II", data, entry)
        if size:
            if certificates + size != len(data):
                raise _refusal(what, "certificates that are not its end", "them there")
            end = certificates
        pieces += [(checksum + 4, entry), (entry + 8, header_bytes)]
    else:
        pieces.append((checksum + 4, header_bytes))
    contents: dict[str, bytes] = {}
    ranges = []
    for index in range(n_sections):
        name, memory_bytes, file_bytes, offset = struct.unpack_from("<8sI4xII", data, sections_at + 40 * index)
        if file_bytes:
            ranges.append((offset, offset + file_bytes))
        contents[name.rstrip(b"\0").decode("ascii", "replace")] = data[offset : offset + min(memory_bytes, file_bytes)]
    at = header_bytes
    for first, last in sorted(ranges):
        if first != at or last > end:
            raise _refusal(what, f"a section at {first} that does not follow what ends at {at}", "one after the other")
        at = last
    if not sections_at + 40 * n_sections <= header_bytes <= end or end % _CHUNK:
        raise _refusal(
            what, f"a header of {header_bytes} and {end} bytes to measure", "a multiple of 8, header included"
        )
    return PeFile(data, (*pieces, (header_bytes, end)), contents, machine == _X86)


def kernel_as_patched(kernel: bytes, *, initramfs_bytes: int, memory_bytes: int) -> bytes:
    """Return a kernel as QEMU before 10.0 hands it to firmware: with its own values in the setup header.

    From 10.0 on, firmware that knows how gets the file as it is.

    Args:
        kernel: an x86 bzImage.
        initramfs_bytes: the size of the initramfs.
        memory_bytes: of the machine, a q35.

    Raises:
        DecodeError: it is none of boot protocol 2.12 or later.
        UsageError: the initramfs does not fit.
    """
    if len(kernel) < 0x268 or kernel[0x202:0x206] != _HEADER_MAGIC:
        raise _refusal("the kernel", "no setup header", "an x86 bzImage")
    protocol, flags = struct.unpack_from("<H46xH", kernel, 0x206)
    if protocol < 0x20C or not flags & _ABOVE_4G:
        raise _refusal("the kernel", f"boot protocol {protocol >> 8}.{protocol & 255}", "2.12 with a 64-bit entry")
    below_4g = memory_bytes if memory_bytes < _SPLIT_AT else _LOW_BYTES
    initramfs_at = (below_4g - _ACPI_BYTES - 1 - initramfs_bytes) & ~4095
    if initramfs_at <= 0:
        raise UsageError(f"cannot measure: memory: found {memory_bytes} bytes, want more than the initramfs has")
    patched = bytearray(kernel)
    patched[0x210] = _BOOT_LOADER_QEMU
    patched[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<II", patched, 0x218, initramfs_at, initramfs_bytes)
    struct.pack_into("<H", patched, 0x224, _CMDLINE_ADDRESS - _REAL_ADDRESS - 0x200)
    struct.pack_into("<I", patched, 0x228, _CMDLINE_ADDRESS)
    return bytes(patched)


def _refusal(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot measure {what}: found {found}, want {want}")
