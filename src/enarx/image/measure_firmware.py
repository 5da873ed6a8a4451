# SPDX-License-Identifier: Apache-2.0
"""What is in an OVMF firmware file, as far as measurements depend on it.

Rules of this file:

- Volumes are taken out and hashed by virt-firmware, a program of its own that runs as a process of its own. Here firmware is only
  looked into: for its version, and for the code that compares a kernel with its hash.
- Firmware is a file that somebody chose. What is no OVMF gives a DecodeError, within limits of size and time.

Source: UEFI Platform Initialization 1.8 volume 3 (GUID-defined sections); edk2 OvmfPkg/Library/BlobVerifierLibSevHashes; Intel TDX
Virtual Firmware Design Guide, section 11.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import struct
import subprocess
import sys
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from enarx.errors import DecodeError, PlatformError

__all__ = [
    "MAX_FIRMWARE_BYTES",
    "TdvfSection",
    "checks_kernel_hashes",
    "firmware_version",
    "tdvf_sections",
    "volume_digests",
]

MAX_FIRMWARE_BYTES = 64 << 20
MAX_VOLUMES_BYTES = 256 << 20
MAX_TDVF_SECTIONS = 64
MAX_TDVF_BYTES = 64 << 20
READER_TIMEOUT_S = 60.0

_LZMA_SECTION = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
_GUID_DEFINED = 2
# What a table of kernel hashes calls the kernel, the initramfs and the command line: firmware that compares them knows all three.
_HASHES = tuple(
    UUID(text).bytes_le
    for text in (
        "4de79437-abd2-427f-b835-d5b172d2045b",
        "44baf731-3a2f-4bd7-9af1-41e29169781d",
        "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",
    )
)
_VERSION = re.compile(rb"2\x000\x00(?:[0-9]\x00){2}[.]\x00(?:[0-9]\x00){2}(?:[\x21-\x7e]\x00){0,40}\x00\x00")
_TABLE_END = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TDVF_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_QCOW2 = b"QFI\xfb"


class TdvfSection(NamedTuple):
    """A part of a TD's first memory.

    Args:
        address: where it is.
        data: its content from the file, at most `size` bytes; the rest is zero.
        size: in memory, a multiple of 4096.
        extended: whether its content is measured, and not only its place.
    """

    address: int
    data: bytes
    size: int
    extended: bool


def checks_kernel_hashes(firmware: bytes) -> bool:
    """Return whether firmware has the code that compares what it boots with the hashes that SNP measured.

    OVMF for every purpose has room for the hashes, and so a launch digest, but not that code: under it a host could start another
    kernel with the same digest.
    """
    return any(all(name in volumes for name in _HASHES) for volumes in _unpacked(firmware))


def firmware_version(firmware: bytes) -> str:
    """Return the version that firmware measures of itself.

    Raises:
        DecodeError: there is none, or more than one text that could be it.
    """
    found = {
        match.group()[:-2].decode("utf-16-le") for part in _unpacked(firmware) for match in _VERSION.finditer(part)
    }
    if len(found) != 1:
        raise _refusal("version", f"{len(found)} texts that look like one", "one, or give it: --firmware-version")
    return found.pop()


@lru_cache(maxsize=4)
def _unpacked(firmware: bytes) -> tuple[bytes, ...]:
    """Return the content of compressed sections."""
    parts, left = [], MAX_VOLUMES_BYTES
    at = firmware.find(_LZMA_SECTION)
    while at >= 4:
        if firmware[at - 1] == _GUID_DEFINED and at + 18 <= len(firmware):
            start = at - 4 + int.from_bytes(firmware[at + 16 : at + 18], "little")
            try:
                part = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_VOLUMES_BYTES).decompress(
                    firmware[start:], left
                )
            except lzma.LZMAError as error:
                raise _refusal("a compressed section", str(error), "LZMA") from error
            parts.append(part)
            left -= len(part)
            if left <= 0:
                raise _refusal("compressed sections", f"more than {MAX_VOLUMES_BYTES} bytes", "fewer")
        at = firmware.find(_LZMA_SECTION, at + 16)
    return tuple(parts)


@lru_cache(maxsize=4)
def volume_digests(firmware: bytes) -> tuple[bytes, bytes]:
    """Return the SHA-256 of the volumes that OVMF measures of itself: PEIFV and DXEFV.

    Raises:
        DecodeError: it has none.
        PlatformError: virt-firmware is not installed, or fails.
    """
    if not 0 < len(firmware) <= MAX_FIRMWARE_BYTES or firmware[:4] == _QCOW2:
        raise _refusal("the file", f"{len(firmware)} bytes", f"a raw image of at most {MAX_FIRMWARE_BYTES}")
    with open(os.memfd_create("firmware"), "w+b", buffering=0) as file:
        _write(file.fileno(), firmware)
        path = f"/proc/self/fd/{file.fileno()}"
        command = [sys.executable, "-I", "-m", "virt.firmware.dump", "--volume-hashes", "--input", path]
        try:
            done = subprocess.run(
                command,
                pass_fds=(file.fileno(),),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=READER_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PlatformError(f"cannot measure firmware: virt-firmware: found {error}, want its answer") from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        raise PlatformError(
            f"cannot measure firmware: virt-firmware: found status {done.returncode}: {last}",
            hint="pip install virt-firmware puts it beside enarx" if "No module" in last else None,
        )
    try:
        volumes = {
            volume.get("name"): bytes.fromhex(volume["sha256"]) for volume in json.loads(done.stdout)[0]["volumes"]
        }
        return volumes["PEIFV"], volumes["DXEFV"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _refusal("volumes", "no PEIFV and DXEFV", "those of OVMF") from error


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def tdvf_sections(firmware: bytes) -> tuple[TdvfSection, ...]:
    """Return what firmware asks to have in a TD's memory before it runs, in the order of its metadata.

    Raises:
        DecodeError: it has no such metadata, or one that says what cannot be.
    """
    try:
        return tuple(_tdvf_sections(firmware))
    except struct.error as error:
        raise _refusal("TDX metadata", "one that ends too early", "a whole one") from error


def _tdvf_sections(firmware: bytes) -> list[TdvfSection]:
    at = len(firmware) - _tdvf_offset(firmware)
    signature, _, version, count = struct.unpack_from("<4sIII", firmware, at)
    if signature != b"TDVF" or version != 1 or count > MAX_TDVF_SECTIONS:
        raise _refusal("TDX metadata", f"{signature!r}, version {version}, {count} sections", "TDVF, version 1")
    sections, left = [], MAX_TDVF_BYTES
    for index in range(count):
        offset, file_bytes, address, size, _kind, attributes = struct.unpack_from(
            "<IIQQII", firmware, at + 16 + 32 * index
        )
        if attributes & 2:
            # Memory that the TD accepts by itself, later.
            continue
        left -= size
        if left < 0 or size % 4096 or address % 4096 or file_bytes > size or offset + file_bytes > len(firmware):
            raise _refusal(
                "TDX metadata", f"a section of {size} bytes at {address:#x}", "whole pages, data from the file"
            )
        sections.append(TdvfSection(address, firmware[offset : offset + file_bytes], size, bool(attributes & 1)))
    return sections


def _tdvf_offset(firmware: bytes) -> int:
    """Find the offset of the metadata, counted from the end, in the table that lies before the reset vector."""
    end = len(firmware) - 32
    if end < 18 or firmware[end - 16 : end] != _TABLE_END:
        raise _refusal("the table of GUIDs", "none", "that of OVMF before its last 32 bytes")
    (size,) = struct.unpack_from("<H", firmware, end - 18)
    first, at = end - size, end - 18
    while at - 18 >= max(first, 0):
        (size,) = struct.unpack_from("<H", firmware, at - 18)
        if size < 18:
            break
        if firmware[at - 16 : at] == _TDVF_OFFSET and size == 22:
            return int.from_bytes(firmware[at - 22 : at - 18], "little")
        at -= size
    raise _refusal("TDX metadata", "none", "firmware built for TDX")


def _refusal(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot measure firmware: {what}: found {found}, want {want}")
