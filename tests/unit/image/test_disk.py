# SPDX-License-Identifier: Apache-2.0
"""Disks: the structures as their specifications have them, read by code of this file, and known bytes."""

from __future__ import annotations

import hashlib
import struct
import zlib
from uuid import UUID

import pytest

from enarx.errors import DecodeError
from enarx.image.disk import DISK_BYTES, gpt_event, make_disk, vhd_footer

IMAGE = bytes(range(256)) * 40
SECTOR = 512
LAST = DISK_BYTES // SECTOR - 1


def read(pieces, at, size):
    """Return bytes of a disk."""
    data = bytearray(size)
    for start, piece in pieces.items():
        first, last = max(at, start), min(at + size, start + len(piece))
        if first < last:
            data[first - at : last - at] = piece[first - start : last - start]
    return bytes(data)


def partition(pieces):
    """Return the first and the last sector of the partition, by the table."""
    return struct.unpack_from("<QQ", read(pieces, 2 * SECTOR, 128), 32)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_no_two_pieces_lie_on_each_other_and_all_on_the_disk(arch):
    at = 0
    for start, piece in sorted(make_disk(IMAGE, arch).items()):
        assert start >= at
        at = start + len(piece)
    assert at == DISK_BYTES


def test_both_partition_tables_are_alike_and_their_checksums_right():
    pieces = make_disk(IMAGE, "x86_64")
    for own, other, table_at in ((1, LAST, 2), (LAST, 1, LAST - 32)):
        header = bytearray(read(pieces, own * SECTOR, 92))
        fields = struct.unpack("<8sIIIIQQQQ16sQIII", header)
        assert fields[:3] == (b"EFI PART", 0x10000, 92)
        header[16:20] = bytes(4)
        assert fields[3] == zlib.crc32(header)
        assert fields[5:9] == (own, other, 34, LAST - 33)
        assert fields[10:13] == (table_at, 128, 128)
        table = read(pieces, table_at * SECTOR, 128 * 128)
        assert fields[13] == zlib.crc32(table)
        assert UUID(bytes_le=table[:16]) == UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
        assert not any(table[128:])


def test_programs_that_know_no_gpt_see_a_disk_that_is_taken():
    record = read(make_disk(IMAGE, "x86_64"), 0, SECTOR)
    assert record[446:462] == bytes.fromhex("00000200 eeffffff 01000000") + struct.pack("<I", LAST)
    assert record[510:] == b"\x55\xaa"


@pytest.mark.parametrize(("arch", "name"), [("x86_64", b"BOOTX64 EFI"), ("aarch64", b"BOOTAA64EFI")])
def test_the_file_is_where_firmware_looks_for_it(arch, name):
    pieces = make_disk(IMAGE, arch)
    start = partition(pieces)[0] * SECTOR
    boot = read(pieces, start, SECTOR)
    sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", boot, 11)
    fat_sectors, root = struct.unpack_from("<I4xI", boot, 36)
    (sectors,) = struct.unpack_from("<I", boot, 32)
    data_at = (reserved + fats * fat_sectors) * sector
    # What a driver takes for FAT32 is decided by the number of clusters alone.
    clusters = (sectors * sector - data_at) // (sector * per_cluster)
    assert clusters >= 65525
    assert 4 * (clusters + 2) <= fat_sectors * sector
    table = read(pieces, start + reserved * sector, 4 * 64)
    assert table == read(pieces, start + (reserved + fat_sectors) * sector, 4 * 64)

    def content(cluster):
        data = b""
        while cluster < 0x0FFFFFF8:
            data += read(pieces, start + data_at + (cluster - 2) * per_cluster * sector, per_cluster * sector)
            (cluster,) = struct.unpack_from("<I", table, 4 * cluster)
        return data

    def find(cluster, wanted):
        folder = content(cluster)
        for at in range(0, len(folder), 32):
            entry = folder[at : at + 32]
            if entry[:11] == wanted:
                high, low, size = struct.unpack_from("<H4xHI", entry, 20)
                return high << 16 | low, size
        raise AssertionError(wanted)

    efi, _ = find(root, b"EFI        ")
    folder, _ = find(efi, b"BOOT       ")
    assert find(folder, b"..         ")[0] == efi
    file, size = find(folder, name)
    assert content(file)[:size] == IMAGE


def test_the_file_may_be_a_whole_number_of_clusters():
    image = bytes(4096 * 3)
    table = make_disk(image, "x86_64")[(2048 + 32) * SECTOR]
    assert struct.unpack(f"<{len(table) // 4}I", table)[5:] == (6, 7, 0x0FFFFFFF)


@pytest.mark.parametrize("size", [0, DISK_BYTES])
def test_refuses_what_does_not_fit(size):
    with pytest.raises(DecodeError, match=f"image: found {size} bytes"):
        make_disk(bytes(size), "x86_64")


def test_identifiers_are_those_of_the_image_and_of_nothing_else():
    one, other = make_disk(IMAGE, "x86_64"), make_disk(IMAGE + b"x", "x86_64")
    assert one == make_disk(bytes(IMAGE), "x86_64")
    assert read(one, SECTOR + 56, 16) != read(other, SECTOR + 56, 16)
    identifiers = {
        read(one, SECTOR + 56, 16),
        read(one, 2 * SECTOR + 16, 16),
        vhd_footer(IMAGE)[68:84],
    }
    assert len(identifiers) == 3


def test_a_disk_has_known_bytes():
    digest = hashlib.sha256()
    for at, piece in sorted(make_disk(IMAGE, "x86_64").items()):
        digest.update(struct.pack("<QQ", at, len(piece)) + piece)
    assert digest.hexdigest() == "49c840915a726f8c687de5ba81c05dcc153d2134eb7c17fa7c26050104a8f6e9"


def test_what_firmware_measures_of_the_partitions_is_the_header_and_the_one_entry():
    pieces = make_disk(IMAGE, "x86_64")
    event = gpt_event(IMAGE)
    assert event == read(pieces, SECTOR, 92) + struct.pack("<Q", 1) + read(pieces, 2 * SECTOR, 128)


def test_a_vhd_is_fixed_and_of_the_disks_size():
    footer = vhd_footer(IMAGE)
    assert len(footer) == SECTOR
    assert footer[:8] == b"conectix"
    assert struct.unpack_from(">Q", footer, 16) == ((1 << 64) - 1,)
    assert struct.unpack_from(">QQ", footer, 40) == (DISK_BYTES, DISK_BYTES)
    # 2080 x 16 x 63 sectors, as the specification's rule has it for a gibibyte.
    assert struct.unpack_from(">HBBI", footer, 56) == (2080, 16, 63, 2)
    (checksum,) = struct.unpack_from(">I", footer, 64)
    assert checksum == ~sum(footer[:64] + bytes(4) + footer[68:]) & 0xFFFFFFFF
    assert DISK_BYTES % (1 << 20) == 0


def test_a_footer_has_known_bytes():
    assert (
        hashlib.sha256(vhd_footer(IMAGE)).hexdigest()
        == "f633ea904d93f55b46e443708b454840121bc272e768f04dbdf60003cc749a11"
    )
