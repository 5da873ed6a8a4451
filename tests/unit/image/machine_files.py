# SPDX-License-Identifier: Apache-2.0
"""Firmware, kernels and unified kernel images that are just enough of them to be measured; nothing can be booted from these."""

from __future__ import annotations

import lzma
import struct
from uuid import UUID

VERSION = "2026.08+test-1"
HASH_ENTRIES = (
    "4de79437-abd2-427f-b835-d5b172d2045b",
    "44baf731-3a2f-4bd7-9af1-41e29169781d",
    "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",
)
PEI_FV = "6938079b-b503-4e3d-9d24-b28337a25806"
DXE_FV = "7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1"
ARM_FV = "64074afe-340a-4be6-94ba-91b5b4d0f71e"
_FFS = "8c8ce578-8a3d-4f1c-9935-896185c32dd3"
_LZMA = "ee4e5898-3914-4259-9d6e-dc7bd79403cf"

SNP_SECTIONS = ((0x800000, 0x9000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x810000, 0x1000, 0x10))
HASHES_AT, RESET_EIP = 0x810C00, 0x80B004


def guid(text):
    return UUID(text).bytes_le


def volume(name, content, *, kind="00000000-0000-0000-0000-000000000001"):
    """Return a firmware volume; one of another kind than FFS is not looked into by readers."""
    body = guid(name) + struct.pack("<I", 20) + content
    length = 72 + len(body) + -len(body) % 8
    header = struct.pack("<16x16sQ4sIHHHBB", guid(kind), length, b"_FVH", 0, 72, 0, 72, 0, 2)
    return (header + struct.pack("<IIII", 1, length, 0, 0) + body).ljust(length, b"\xff")


def section(kind, data):
    size = 4 + len(data)
    return struct.pack("<I", size | kind << 24) + data + bytes(-size % 4)


def volumes(pei=b"pei", dxe=b"dxe", *, version=VERSION, checks_hashes=False):
    """Return the two volumes that OVMF measures of itself."""
    known = b"".join(map(guid, HASH_ENTRIES)) if checks_hashes else b""
    return (
        volume(PEI_FV, pei + bytes(2) + f"{version}\0".encode("utf-16-le")),
        volume(DXE_FV, dxe + known),
    )


def make_firmware(
    pei=b"pei",
    dxe=b"dxe",
    *,
    version=VERSION,
    checks_hashes=False,
    snp=SNP_SECTIONS,
    hashes_at=HASHES_AT,
    reset_eip=RESET_EIP,
    tdx=None,
    size=0x8000,
):
    """Return an OVMF: volumes in a compressed section, and the tables of SNP and TDX before the reset vector.

    Args:
        snp: address, size and kind of each section.
        tdx: address, size, offset in the file, bytes in the file and attributes of each section, and its kind if it is not 0.
    """
    data = _pack(volumes(pei, dxe, version=version, checks_hashes=checks_hashes))

    snp_table = b"".join(struct.pack("<III", *one) for one in snp)
    snp_table = struct.pack("<4sIII", b"ASEV", 16 + len(snp_table), 1, len(snp)) + snp_table
    tdx = () if tdx is None else tdx
    tdx_table = b"".join(
        struct.pack("<IIQQII", offset, in_file, address, in_memory, kind[0] if kind else 0, attributes)
        for address, in_memory, offset, in_file, attributes, *kind in tdx
    )
    tdx_table = struct.pack("<4sIII", b"TDVF", 16 + len(tdx_table), 1, len(tdx)) + tdx_table

    def entry(name, content):
        return content + struct.pack("<H", 18 + len(content)) + guid(name)

    entries = entry("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", hashes_at, 0x400))
    entries += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", reset_eip))
    offsets_at = len(entries)
    for name, wanted in (("dc886566-984a-4798-a75e-5585a7bf67cc", snp), ("e47a6535-984a-4798-865e-4685a7bf8ec2", tdx)):
        entries += entry(name, bytes(4)) if wanted else b""
    tail = len(entries) + 18 + 32
    entries = bytearray(entries)
    at = offsets_at
    for wanted, offset in ((snp, tail + len(tdx_table) + len(snp_table)), (tdx, tail + len(tdx_table))):
        if wanted:
            struct.pack_into("<I", entries, at, offset)
            at += 22
    entries += struct.pack("<H", len(entries) + 18) + guid("96b582de-1fb2-45f7-baea-a366c55a082d")
    end = snp_table + tdx_table + bytes(entries) + bytes(32)
    return data.ljust(size - len(end), b"\xff") + end


def _pack(inner):
    """Return a volume without a name that has others in a compressed section."""
    packed = lzma.compress(b"".join(section(0x17, one) for one in inner), lzma.FORMAT_ALONE)
    compressed = section(2, guid(_LZMA) + struct.pack("<HH", 24, 1) + packed)
    file_bytes = 24 + len(compressed)
    file = struct.pack("<16sHBB", guid(PEI_FV), 0, 0x0B, 0) + file_bytes.to_bytes(3, "little") + b"\xf8" + compressed
    outer = file + b"\xff" * 32
    length = 72 + len(outer)
    header = struct.pack("<16x16sQ4sIHHHBB", guid(_FFS), length, b"_FVH", 0, 72, 0, 0, 0, 2)
    return header + struct.pack("<IIII", 1, length, 0, 0) + outer


def make_arm_firmware(content=b"dxe", *, version=VERSION, knows_keys=True, name=ARM_FV):
    """Return what OVMF is for Arm: where a processor begins, and the volume that it measures of itself."""
    text = f"{version}\0".encode("utf-16-le") + ("SecureBootEnable".encode("utf-16-le") if knows_keys else b"")
    return b"\x14\0\0\x14".ljust(0x1000, b"\0") + _pack([volume(name, content + bytes(2) + text)])


def make_pe(sections, *, header=b"", certificates=b"", magic=0x20B, header_bytes=0x400, directories=16, machine=0x8664):
    """Return a PE file with sections by name."""
    start = 0x280
    data = bytearray(header.ljust(start, b"\0"))
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, start)
    fixed = 112 if magic == 0x20B else 96
    optional = bytearray(fixed + 8 * directories)
    struct.pack_into("<H", optional, 0, magic)
    struct.pack_into("<I", optional, 60, header_bytes)
    struct.pack_into("<I", optional, 64, 0xC0FFEE)
    struct.pack_into("<I", optional, fixed - 4, directories)
    data += b"PE\0\0" + struct.pack("<HH12xHH", machine, len(sections), len(optional), 0x206)
    at = header_bytes
    table, contents = b"", b""
    for name, content in sections.items():
        raw = len(content) + -len(content) % 0x200
        table += struct.pack("<8sIIII16x", name.encode(), len(content), at, raw, at)
        contents += content.ljust(raw, b"\0")
        at += raw
    if certificates and directories > 4:
        struct.pack_into("<II", optional, fixed + 32, at, len(certificates))
    return bytes(data + optional + table).ljust(header_bytes, b"\0") + contents + certificates


def make_kernel(content=b"kernel", *, protocol=0x20F, flags=0x7F, **changes):
    """Return a bzImage with an EFI stub."""
    header = bytearray(0x280)
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, protocol)
    header[0x211] = 1
    struct.pack_into("<H", header, 0x236, flags)
    return make_pe({".setup": b"s" * 600, ".text": content}, header=bytes(header), **changes)


def make_stub(version="257.13-1", *, room=0x1000, alignments=(0x1000, 0x200)):
    """Return systemd's stub, as far as it is looked at."""
    magic = f"#### LoaderInfo: systemd-stub {version} ####".encode()
    stub = bytearray(make_pe({".text": b"stub", ".sdmagic": magic}, header_bytes=room))
    (start,) = struct.unpack_from("<I", stub, 0x3C)
    struct.pack_into("<II", stub, start + 24 + 32, *alignments)
    return bytes(stub)


def make_arm_kernel(content=b"kernel"):
    """Return an Image with an EFI stub."""
    return make_pe({".text": content, ".data": b"d" * 600}, machine=0xAA64)


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)
