# SPDX-License-Identifier: Apache-2.0
"""A disk that firmware boots a unified kernel image from: GPT, one EFI system partition with FAT32, one file.

Rules of this file:

- The same image gives the same bytes: identifiers are derived from its digest, dates are the format's first.
- A disk is told as pieces and where they go. What is between them is zero, and takes no room in a file.
- It is written once and whole, so there is no more here of a file system than one file in two folders takes.

The disk has 1 GiB, of which clouds ask for whole ones. `fixed VHD` is that, and a footer of 512 bytes behind it.

Source: UEFI 2.10 section 5 and table 5.3 (GPT); Microsoft FAT32 File System Specification 1.03; Microsoft Virtual Hard Disk Image Format
Specification, "Hard Disk Footer Format"; TCG PC Client Platform Firmware Profile 1.06, section 10.2.6 (UEFI_GPT_DATA).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from uuid import UUID

from enarx.errors import DecodeError

__all__ = ["BOOT_FILES", "DISK_BYTES", "gpt_event", "make_disk", "vhd_footer"]

DISK_BYTES = 1 << 30
BOOT_FILES: Mapping[str, str] = {"x86_64": "BOOTX64", "aarch64": "BOOTAA64"}
"""What firmware starts from a disk about which it was told nothing, without `.EFI`, by architecture."""

_SECTOR = 512
_ALIGNED = (1 << 20) // _SECTOR

# --- GPT -------------------------------------------------------------------------------------------------------------

_ENTRIES, _ENTRY_BYTES = 128, 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_BYTES // _SECTOR
_GPT_HEADER_BYTES = 92
_SYSTEM_PARTITION = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_LAST = DISK_BYTES // _SECTOR - 1
_FIRST_USABLE, _LAST_USABLE = 2 + _TABLE_SECTORS, _LAST - 1 - _TABLE_SECTORS
# From one mebibyte to the next to last, so that both ends lie well with every storage.
_ESP_FIRST, _ESP_LAST = _ALIGNED, _LAST - _ALIGNED


def make_disk(image: bytes, arch: str) -> dict[int, bytes]:
    """Make a disk.

    Args:
        image: the unified kernel image.
        arch: `x86_64` or `aarch64`.

    Returns:
        The pieces of `DISK_BYTES`, by where they begin; everything else is zero.

    Raises:
        DecodeError: the image does not fit.
    """
    if not 0 < len(image) <= _MAX_FILE_BYTES:
        raise DecodeError(f"cannot make a disk: image: found {len(image)} bytes, want 1 to {_MAX_FILE_BYTES}")
    table, header, backup = _partition_tables(image)
    pieces = {
        0: _protective_record(),
        _SECTOR: header,
        2 * _SECTOR: table,
        (_LAST - _TABLE_SECTORS) * _SECTOR: table,
        _LAST * _SECTOR: backup,
    }
    start = _ESP_FIRST * _SECTOR
    return pieces | {start + at: piece for at, piece in _file_system(image, BOOT_FILES[arch]).items()}


def gpt_event(image: bytes) -> bytes:
    """Return what firmware measures into PCR 5 of the disk's partitions: UEFI_GPT_DATA."""
    table, header, _ = _partition_tables(image)
    return header[:_GPT_HEADER_BYTES] + struct.pack("<Q", 1) + table[:_ENTRY_BYTES]


def _identifier(image: bytes, what: str) -> UUID:
    """Return an identifier of a thing, which is the same for the same image: of version 8, as RFC 9562 has it."""
    digest = bytearray(hashlib.sha256(f"enarx {what}\0".encode() + hashlib.sha256(image).digest()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def _protective_record() -> bytes:
    """Return what tells programs that know no GPT that the whole disk is taken."""
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, _LAST)
    return (bytes(446) + entry).ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _partition_tables(image: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the table, its header, and the header at the end of the disk."""
    name = "EFI system partition".encode("utf-16-le")
    entry = struct.pack(
        "<16s16sQQQ72s",
        _SYSTEM_PARTITION.bytes_le,
        _identifier(image, "partition").bytes_le,
        _ESP_FIRST,
        _ESP_LAST,
        0,
        name,
    )
    table = entry.ljust(_ENTRIES * _ENTRY_BYTES, b"\0")
    disk = _identifier(image, "disk").bytes_le

    def header(own: int, other: int, table_at: int) -> bytes:
        def encode(checksum: int) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, _GPT_HEADER_BYTES, checksum, 0, own, other,
                _FIRST_USABLE, _LAST_USABLE, disk, table_at, _ENTRIES, _ENTRY_BYTES, zlib.crc32(table),
            )  # fmt: skip

        return encode(zlib.crc32(encode(0))).ljust(_SECTOR, b"\0")

    return table, header(1, _LAST, 2), header(_LAST, 1, _LAST - _TABLE_SECTORS)


# --- FAT32 -----------------------------------------------------------------------------------------------------------

_CLUSTER_SECTORS = 8
_CLUSTER = _CLUSTER_SECTORS * _SECTOR
_RESERVED_SECTORS = 32
_ESP_SECTORS = _ESP_LAST - _ESP_FIRST + 1
# Each FAT has four bytes for each cluster and for the two numbers that none has; it also covers its own sectors, which costs nothing.
_FAT_SECTORS = -(-4 * (_ESP_SECTORS // _CLUSTER_SECTORS + 2) // _SECTOR)
_DATA_AT = (_RESERVED_SECTORS + 2 * _FAT_SECTORS) * _SECTOR
_CLUSTERS = (_ESP_SECTORS * _SECTOR - _DATA_AT) // _CLUSTER
_ROOT, _EFI, _BOOT, _FILE = 2, 3, 4, 5
_MAX_FILE_BYTES = (_CLUSTERS + 2 - _FILE) * _CLUSTER
_MEDIA = 0xF8
_END = 0x0FFFFFFF
_FOLDER, _LABEL, _ARCHIVE = 0x10, 0x08, 0x20
_FIRST_DATE = 1 << 5 | 1
"""1980-01-01, before which the format knows no date."""


def _file_system(image: bytes, name: str) -> dict[int, bytes]:
    """Return the pieces of the partition."""
    count = -(-len(image) // _CLUSTER)
    last = _FILE + count
    chain = (_MEDIA | 0x0FFFFF00, _END, _END, _END, _END, *range(_FILE + 1, last), _END)
    table = struct.pack(f"<{len(chain)}I", *chain)
    # Sector 1 says how much is free; sector 6 and the next are what repairs the first two.
    boot, information = _boot_sector(image), _information(_CLUSTERS + 2 - last, last)
    folders = {
        _ROOT: _entry(b"ENARX      ", _LABEL, 0) + _entry(b"EFI        ", _FOLDER, _EFI),
        # The folder above is the root, which is said by the number 0.
        _EFI: _entry(b".          ", _FOLDER, _EFI) + _entry(b"..         ", _FOLDER, 0) + _entry(b"BOOT       ", _FOLDER, _BOOT),
        _BOOT: _entry(b".          ", _FOLDER, _BOOT)
        + _entry(b"..         ", _FOLDER, _EFI)
        + _entry(name.ljust(8).encode() + b"EFI", _ARCHIVE, _FILE, len(image)),
        _FILE: image,
    }  # fmt: skip
    return {
        0: boot,
        _SECTOR: information,
        6 * _SECTOR: boot,
        7 * _SECTOR: information,
        _RESERVED_SECTORS * _SECTOR: table,
        (_RESERVED_SECTORS + _FAT_SECTORS) * _SECTOR: table,
        **{_DATA_AT + (cluster - 2) * _CLUSTER: content for cluster, content in folders.items()},
    }


def _boot_sector(image: bytes) -> bytes:
    serial = _identifier(image, "volume").fields[0]
    head = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb\x58\x90", b"ENARX   ", _SECTOR, _CLUSTER_SECTORS, _RESERVED_SECTORS, 2, 0, 0,
        _MEDIA, 0, 63, 255, _ESP_FIRST, _ESP_SECTORS,
    )  # fmt: skip
    more = struct.pack(
        "<IHHIHH12xBBBI11s8s", _FAT_SECTORS, 0, 0, _ROOT, 1, 6, 0x80, 0, 0x29, serial, b"ENARX      ", b"FAT32   "
    )
    return (head + more).ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _information(free: int, next_free: int) -> bytes:
    head = b"RRaA".ljust(484, b"\0") + struct.pack("<4sII", b"rrAa", free, next_free)
    return head.ljust(_SECTOR - 4, b"\0") + struct.pack("<I", 0xAA550000)


def _entry(name: bytes, attributes: int, cluster: int, size: int = 0) -> bytes:
    """Return a folder's entry."""
    return struct.pack(
        "<11sBBBHHHHHHHI", name, attributes, 0, 0, 0, _FIRST_DATE, _FIRST_DATE, cluster >> 16, 0, _FIRST_DATE,
        cluster & 0xFFFF, size,
    )  # fmt: skip


# --- VHD -------------------------------------------------------------------------------------------------------------

_FIXED = 2
_NO_NEXT = (1 << 64) - 1
_CREATOR = b"win "
"""Of makers that they do not know, programs take the size from the geometry, which has room for fewer sectors."""


def vhd_footer(image: bytes) -> bytes:
    """Return the 512 bytes that make a fixed VHD of the disk when they follow it.

    Args:
        image: the unified kernel image on the disk.
    """
    cylinders, heads, sectors = _geometry(DISK_BYTES // _SECTOR)

    def encode(checksum: int) -> bytes:
        return struct.pack(
            ">8sIIQI4sI4sQQHBBII16s", b"conectix", 2, 0x10000, _NO_NEXT, 0, _CREATOR, 0x10000, b"Wi2k", DISK_BYTES,
            DISK_BYTES, cylinders, heads, sectors, _FIXED, checksum, _identifier(image, "vhd").bytes,
        ).ljust(_SECTOR, b"\0")  # fmt: skip

    return encode(~sum(encode(0)) & 0xFFFFFFFF)


def _geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors of a track; the specification's own rule, in its appendix."""
    if sectors >= 65535 * 16 * 63:
        tracks, heads, total = 255, 16, 65535 * 16 * 255
        return total // heads // tracks, heads, tracks
    tracks = 17
    cylinder_heads = sectors // tracks
    heads = max(4, (cylinder_heads + 1023) // 1024)
    if cylinder_heads >= heads * 1024 or heads > 16:
        tracks, heads = 31, 16
        cylinder_heads = sectors // tracks
    if cylinder_heads >= heads * 1024:
        tracks, heads = 63, 16
        cylinder_heads = sectors // tracks
    return cylinder_heads // heads, heads, tracks
