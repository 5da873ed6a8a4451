# SPDX-License-Identifier: Apache-2.0
"""What is in a firmware file, OVMF or its counterpart for Arm, as far as measurements depend on it.

Rules of this file:

- Volumes are taken out and hashed by virt-firmware, a program of its own that runs as a process of its own. Here firmware is only
  looked into: for its version, and for the code that compares a kernel with its hash.
- Firmware is a file that somebody chose. What is no OVMF gives a DecodeError, within limits of size and time.

Source: UEFI Platform Initialization 1.8 volume 3 (GUID-defined sections); edk2 OvmfPkg/Library/BlobVerifierLibSevHashes; Intel TDX
Virtual Firmware Design Guide, section 11.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import struct
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import NamedTuple, TypeVar
from uuid import UUID

from enarx.errors import DecodeError, PlatformError

__all__ = [
    "MAX_FIRMWARE_BYTES",
    "TdvfSection",
    "added_memory",
    "checks_kernel_hashes",
    "configuration_volume",
    "firmware_version",
    "has_secure_boot",
    "measures_configuration",
    "measures_smbios",
    "remembering",
    "tdvf_sections",
    "vendor_and_date",
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
_SECURE_BOOT = "SecureBootEnable".encode("utf-16-le")
"""The variable that only firmware has which can ask for signatures."""

_ARM_VOLUME = "64074afe-340a-4be6-94ba-91b5b4d0f71e"
"""The name of the volume that firmware for Arm has compressed in the one that it measures."""

_TABLE_END = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_TDVF_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_CONFIGURATION, _HOB, _TEMPORARY = 1, 2, 3
_VENDOR = re.compile(rb"(?:[\x20-\x7e]\x00){0,80}E\x00D\x00K\x00 \x00I\x00I\x00\x00\x00")
_DATE = re.compile(rb"(?:[0-9]\x00){2}/\x00(?:[0-9]\x00){2}/\x00(?:[0-9]\x00){4}\x00\x00")
_UNSAID = frozenset({"EDK II", "02/02/2022"})
_FW_CFG_EVENT = b"QEMU FW CFG\0"
_SMBIOS_MEASUREMENT = UUID("d27fed59-abb4-4fed-bead-2a878c7e4a7e").bytes_le
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


_T = TypeVar("_T", bool, str, tuple[str, str], tuple[bytes, ...])
_memory: Callable[[str, Callable[[], bytes]], bytes] | None = None


@contextmanager
def remembering(memory: Callable[[str, Callable[[], bytes]], bytes]) -> Iterator[None]:
    """Find out about each firmware file once, and not again in another process, while the block runs.

    Args:
        memory: returns what it has under a name, else what the function gives, which it keeps.
    """
    global _memory  # what is remembered is the same for all threads
    before, _memory = _memory, memory
    try:
        yield
    finally:
        _memory = before


def _remembered(find: Callable[[bytes], _T]) -> Callable[[bytes], _T]:
    @wraps(find)
    def ask(firmware: bytes) -> _T:
        if _memory is None:
            return find(firmware)
        name = f"{find.__name__} {hashlib.sha256(firmware).hexdigest()}"
        found: _T = literal_eval(_memory(name, lambda: repr(find(firmware)).encode()).decode())
        return found

    return ask


@_remembered
def checks_kernel_hashes(firmware: bytes) -> bool:
    """Return whether firmware has the code that compares what it boots with the hashes that SNP measured.

    OVMF for every purpose has room for the hashes, and so a launch digest, but not that code: under it a host could start another
    kernel with the same digest.
    """
    return any(all(name in volumes for name in _HASHES) for volumes in _unpacked(firmware))


@_remembered
def has_secure_boot(firmware: bytes) -> bool:
    """Return whether firmware can ask for signatures: then it measures that it does not, and otherwise that it cannot."""
    return any(_SECURE_BOOT in volumes for volumes in _unpacked(firmware))


@_remembered
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


@_remembered
def measures_configuration(firmware: bytes) -> bool:
    """Return whether firmware measures what it reads of QEMU's configuration, where it runs in a TD. Not every build does."""
    return any(_FW_CFG_EVENT in volumes for volumes in _unpacked(firmware))


def measures_smbios(firmware: bytes) -> bool:
    """Return whether firmware has the driver that measures SMBIOS tables."""
    return any(_SMBIOS_MEASUREMENT in volumes for volumes in _unpacked(firmware))


def vendor_and_date(firmware: bytes) -> tuple[str, str]:
    """Return who made firmware and when, as it says in SMBIOS.

    Raises:
        DecodeError: it says neither, or several.
    """
    found = []
    for what, pattern in (("vendor", _VENDOR), ("date", _DATE)):
        texts = {
            match.group()[:-2].decode("utf-16-le") for part in _unpacked(firmware) for match in pattern.finditer(part)
        }
        # Who builds firmware says so, and what the source says is there all the same.
        texts = texts - _UNSAID or texts
        if len(texts) != 1:
            raise _refusal(what, f"{len(texts)} texts that look like one", "one")
        found.append(texts.pop())
    return found[0], found[1]


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
@_remembered
def volume_digests(firmware: bytes) -> tuple[bytes, ...]:
    """Return the SHA-256 of the volumes that firmware measures of itself: of OVMF PEIFV and DXEFV, of that for Arm the whole.

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
        found = [
            (volume.get("name") or volume.get("guid-name"), bytes.fromhex(volume["sha256"]))
            for volume in json.loads(done.stdout)[0]["volumes"]
        ]
        if [name for name, _ in found] == [None, _ARM_VOLUME]:
            return (found[0][1],)
        volumes = dict(found)
        return volumes["PEIFV"], volumes["DXEFV"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _refusal("volumes", "no PEIFV and DXEFV", "those of OVMF") from error


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def configuration_volume(firmware: bytes) -> bytes:
    """Return the volume of variables that firmware comes with, which a TD measures beside its code.

    Raises:
        DecodeError: there is not exactly one.
    """
    volumes = [
        firmware[offset : offset + file_bytes]
        for offset, file_bytes, _, _, kind, _ in _tdvf_entries(firmware)
        if kind == _CONFIGURATION
    ]
    if len(volumes) != 1:
        raise _refusal("TDX metadata", f"{len(volumes)} configuration volumes", "one")
    return volumes[0]


def added_memory(firmware: bytes) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return where a TD's firmware has its list of memory, and each range that is added for it: address and bytes.

    Raises:
        DecodeError: there is not exactly one such list.
    """
    entries = [(kind, address, size) for _, _, address, size, kind, _ in _tdvf_entries(firmware)]
    lists = [address for kind, address, _ in entries if kind == _HOB]
    if len(lists) != 1:
        raise _refusal("TDX metadata", f"{len(lists)} lists of memory", "one")
    return lists[0], tuple((address, size) for kind, address, size in entries if kind in {_HOB, _TEMPORARY})


def _tdvf_entries(firmware: bytes) -> list[tuple[int, int, int, int, int, int]]:
    """List the sections of TDX metadata: offset and bytes in the file, address and bytes in memory, kind and attributes."""
    try:
        at = len(firmware) - _tdvf_offset(firmware)
        signature, _, version, count = struct.unpack_from("<4sIII", firmware, at)
        if signature != b"TDVF" or version != 1 or count > MAX_TDVF_SECTIONS:
            raise _refusal("TDX metadata", f"{signature!r}, version {version}, {count} sections", "TDVF, version 1")
        return [struct.unpack_from("<IIQQII", firmware, at + 16 + 32 * index) for index in range(count)]
    except struct.error as error:
        raise _refusal("TDX metadata", "one that ends too early", "a whole one") from error


def tdvf_sections(firmware: bytes) -> tuple[TdvfSection, ...]:
    """Return what firmware asks to have in a TD's memory before it runs, in the order of its metadata.

    Raises:
        DecodeError: it has no such metadata, or one that says what cannot be.
    """
    sections, left = [], MAX_TDVF_BYTES
    for offset, file_bytes, address, size, _kind, attributes in _tdvf_entries(firmware):
        if attributes & 2:
            # Memory that the TD accepts by itself, later.
            continue
        left -= size
        if left < 0 or size % 4096 or address % 4096 or file_bytes > size or offset + file_bytes > len(firmware):
            raise _refusal(
                "TDX metadata", f"a section of {size} bytes at {address:#x}", "whole pages, data from the file"
            )
        sections.append(TdvfSection(address, firmware[offset : offset + file_bytes], size, bool(attributes & 1)))
    return tuple(sections)


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
