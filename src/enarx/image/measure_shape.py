# SPDX-License-Identifier: Apache-2.0
"""What OVMF measures of a machine's shape: PCR 1 of a machine with a vTPM, and RTMR0 of a TD.

Kernel and firmware do not say what ACPI tables, boot order and memory a machine has: QEMU does, by its version and its command line.
`ask_qemu` asks one that is never let run, and the answer is a `Shape`. Here it becomes registers.

What holds for what:

- **PCR 1** was compared with boots, bit for bit, under QEMU 7.2 with OVMF 2026.08.
- **RTMR0** has the same events for ACPI tables and boot variables. The configuration volume is hashed as TDs hash it: that of an
  empty one is a digest known from hardware. The list of memory and the configuration items are written by what QEMU and OVMF
  are documented to do, and SMBIOS is assumed to be as with a vTPM. The whole register has not been compared with a TD.

Not every build of OVMF measures SMBIOS or QEMU's configuration: whether one does is seen in its file.

Rules of this file: pure functions; what cannot be understood is a DecodeError.

Source: TCG PC Client Platform Firmware Profile 1.06, 3.3.4.2; UEFI 2.10, 3.1.3 and 38.4.1; DMTF DSP0134 3.7; Intel TDX Virtual Firmware
Design Guide 1.01, 4 and 8; QEMU docs/specs/fw_cfg.rst; edk2 SmbiosMeasurementDxe, QemuFwCfgCacheInit.c, QemuFwCfgAcpi.c.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from enarx.errors import DecodeError
from enarx.image import measure_firmware
from enarx.image.measure import Measured, secure_boot_events

__all__ = ["ACPI_LOADER", "MEASURED_ITEMS", "SMBIOS", "Shape", "pcr1_events", "rtmr0_events", "td_hob"]

SHAPE = "shape of the machine"
"""What the events of this file are called."""

ACPI_LOADER, SMBIOS, MEMORY = "etc/table-loader", "etc/smbios/smbios-tables", "etc/e820"
"""Names of files in QEMU's firmware configuration."""

MEASURED_ITEMS: Mapping[str, int | None] = {
    "etc/extra-pci-roots": 8,
    "BootMenu": 2,
    "etc/boot-menu-wait": 2,
    "etc/reserved-memory-end": 8,
    "opt/ovmf/X-PciMmio64Mb": None,
    "bootorder": None,
}
"""Configuration that firmware may measure in a TD before it uses it, in this order, and the size that it wants of each."""

_LOADER_ENTRY = 128
_ALLOCATE = 1
_MAX_BLOBS = 16
_RAM = 1
_SEPARATOR = bytes(4)

_VOLUME = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
# Attributes, text and file of the entries that firmware makes for itself: active, of the category of applications, the first hidden.
_BOOT_OPTIONS = (
    (0x109, "BootManagerMenuApp", UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")),
    (0x101, "EFI Firmware Setup", UUID("462caa21-7614-4503-836e-8ab6f4662331")),
)

_END_OF_TABLE = 127
_FIRST_OEM = 128
_EMPTY_TYPES = frozenset({11, 15, 18, 31, 33})
# Fields that are left out, because they are another machine's without being another kind of machine: offset, bytes, whether it is the
# number of a string, which is blanked too.
_LEFT_OUT: Mapping[int, tuple[tuple[int, int, bool], ...]] = {
    1: ((7, 1, True), (8, 16, False), (0x18, 1, False)),
    2: ((7, 1, True), (10, 1, True)),
    3: ((7, 1, True), (8, 1, True)),
    4: (
        (0x20, 1, True), (0x21, 1, True), (0x22, 1, True), (0x23, 1, False), (0x24, 1, False), (0x25, 1, False),
        (0x2A, 2, False), (0x2C, 2, False), (0x2E, 2, False), (0x11, 1, False), (0x16, 2, False),
    ),
    17: ((0x18, 1, True), (0x19, 1, True), (0x1A, 1, True)),
    22: ((7, 1, True), (0x10, 2, False), (0x12, 2, False)),
    23: ((7, 2, False),),
    27: ((0x14, 2, False),),
    39: ((8, 1, True), (9, 1, True), (0x0A, 1, True)),
}  # fmt: skip
# Version 0 of OVMF, ROM segment 0xE800, 1 MiB in all; a virtual machine with UEFI.
_BIOS = bytes.fromhex("001a0000010200e803000800000000000000001c0000ffff")
_LAST = bytes([_END_OF_TABLE, 4, 0xFF, 0xFE, 0, 0])

_TD_HOB_ATTRIBUTES = 7
_ACCEPTED, _UNACCEPTED = 0, 7


class Shape(NamedTuple):
    """What a QEMU says of a machine.

    Args:
        files: of its firmware configuration, by name: `ACPI_LOADER` and what that names, `SMBIOS`, `MEMORY`, and those of
            `MEASURED_ITEMS` that there are.
    """

    files: Mapping[str, bytes]


def pcr1_events(shape: Shape, firmware: bytes) -> tuple[Measured, ...]:
    """Return what goes into PCR 1 of a machine with a vTPM.

    Args:
        shape: of the machine, its TPM included.
        firmware: the file given to `-bios`.

    Raises:
        DecodeError: the shape lacks something, or the firmware is no OVMF.
    """
    contents = (*_acpi(shape), *_smbios(shape, firmware), *_boot_variables(), _SEPARATOR)
    return tuple(Measured(SHAPE, hashlib.sha256(content).digest()) for content in contents)


def rtmr0_events(shape: Shape, firmware: bytes) -> tuple[Measured, ...]:
    """Return what goes into RTMR0 of a TD; see the head of this file for what was compared with one.

    Raises:
        DecodeError: as `pcr1_events`, or the firmware is not for TDX.
    """
    hob, volume = td_hob(shape, firmware), measure_firmware.configuration_volume(firmware)
    after = (*_acpi(shape), *_smbios(shape, firmware), *_boot_variables())
    return (
        *_digests(hob, volume, *_configuration(shape, firmware)),
        *secure_boot_events(firmware, "sha384"),
        *_digests(*after),
    )


def _configuration(shape: Shape, firmware: bytes) -> Iterator[bytes]:
    if measure_firmware.measures_configuration(firmware):
        for name, size in MEASURED_ITEMS.items():
            item = shape.files.get(name, b"")
            if item and size in {None, len(item)}:
                yield item


def _digests(*contents: bytes) -> tuple[Measured, ...]:
    return tuple(Measured(SHAPE, hashlib.sha384(content).digest()) for content in contents)


def _file(shape: Shape, name: str) -> bytes:
    if name not in shape.files:
        raise DecodeError(f"cannot measure the shape of a machine: found no {name}, want what QEMU has")
    return shape.files[name]


def blobs_of(loader: bytes) -> tuple[str, ...]:
    """Return the files that a table loader has firmware read, in its order.

    Raises:
        DecodeError: it is none.
    """
    names: list[str] = []
    for at in range(0, len(loader) - len(loader) % _LOADER_ENTRY, _LOADER_ENTRY):
        command, name = struct.unpack_from("<I56s", loader, at)
        if command == _ALLOCATE:
            text = name.rstrip(b"\0")
            if not text.isascii() or not text or len(names) == _MAX_BLOBS:
                raise DecodeError(
                    f"cannot measure ACPI tables: found a name {text[:40]!r}, want at most {_MAX_BLOBS} of files"
                )
            names.append(text.decode())
    return tuple(names)


def _acpi(shape: Shape) -> tuple[bytes, ...]:
    """Return the ACPI data as QEMU hands it over: the loader's script, then the files in the order in which that has them read."""
    loader = _file(shape, ACPI_LOADER)
    return loader, *(_file(shape, name) for name in blobs_of(loader))


# --- Boot variables --------------------------------------------------------------------------------------------------


def _boot_variables() -> tuple[bytes, ...]:
    """Return the content of BootOrder and of the entries that it names."""
    order = struct.pack(f"<{len(_BOOT_OPTIONS)}H", *range(len(_BOOT_OPTIONS)))
    return order, *(_boot_option(*option) for option in _BOOT_OPTIONS)


def _boot_option(attributes: int, text: str, file: UUID) -> bytes:
    path = (
        struct.pack("<BBH16s", 4, 7, 20, _VOLUME.bytes_le)
        + struct.pack("<BBH16s", 4, 6, 20, file.bytes_le)
        + struct.pack("<BBH", 0x7F, 0xFF, 4)
    )
    return struct.pack("<IH", attributes, len(path)) + f"{text}\0".encode("utf-16-le") + path


# --- SMBIOS ----------------------------------------------------------------------------------------------------------


def _smbios(shape: Shape, firmware: bytes) -> tuple[bytes, ...]:
    """Return the SMBIOS tables as they are measured: QEMU's, then firmware's own, without what differs between equal machines."""
    if not measure_firmware.measures_smbios(firmware):
        return ()
    tables = [entry for entry in _structures(_file(shape, SMBIOS)) if entry[0][0] != _END_OF_TABLE]
    if all(formatted[0] for formatted, _ in tables):
        said = (*measure_firmware.vendor_and_date(firmware), measure_firmware.firmware_version(firmware))
        vendor, date, version = (text.encode() + b"\0" for text in said)
        tables.append((_BIOS + bytes(2), vendor + version + date + b"\0"))
    return (b"".join(_left_out(*entry) for entry in tables) + _LAST,)


def _structures(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """List formatted parts and strings of SMBIOS structures."""
    at = 0
    while at < len(data):
        size = data[at + 1] if at + 1 < len(data) else 0
        end = data.find(b"\0\0", at + size) + 2
        if size < 4 or end < at + size + 2:
            raise DecodeError(f"cannot measure SMBIOS: found no whole structure at {at}, want one")
        yield data[at : at + size], data[at + size : end]
        at = end


def _left_out(formatted: bytes, strings: bytes) -> bytes:
    kind = formatted[0]
    if kind in _EMPTY_TYPES or kind >= _FIRST_OEM:
        return formatted[:4] + bytes(len(formatted) + len(strings) - 4)
    changed, texts = bytearray(formatted), strings.split(b"\0")
    for offset, size, is_string in _LEFT_OUT.get(kind, ()):
        if offset + size > len(changed):
            continue
        number = changed[offset]
        if is_string and 0 < number < len(texts):
            texts[number - 1] = b" " * len(texts[number - 1])
        changed[offset : offset + size] = bytes(size)
    return bytes(changed) + b"\0".join(texts)


# --- The list of memory of a TD ----------------------------------------------------------------------------------------


def td_hob(shape: Shape, firmware: bytes) -> bytes:
    """Return the list of memory that QEMU hands to a TD's firmware, as far as that measures it: without its end.

    Raises:
        DecodeError: the firmware is not for TDX, or the shape has no memory.
    """
    address, added = measure_firmware.added_memory(firmware)
    memory = _file(shape, MEMORY)
    entries = [struct.unpack_from("<QQI", memory, at) for at in range(0, len(memory) - 19, 20)]
    ranges = [(start, start + size, _UNACCEPTED) for start, size, kind in entries if kind == _RAM]
    for start, size in added:
        ranges = [piece for one in ranges for piece in _split(one, start, start + size)]
    resources = b"".join(
        struct.pack("<HHI16xIIQQ", 3, 48, 0, kind, _TD_HOB_ATTRIBUTES, start, end - start)
        for start, end, kind in sorted(ranges)
    )
    end_of_list = address + 56 + len(resources) + 8
    return struct.pack("<HHIII32xQ", 1, 56, 0, 9, 0, end_of_list) + resources


def _split(one: tuple[int, int, int], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Mark a part of a range of memory as added, where it is in it."""
    first, last, kind = one
    if kind == _ACCEPTED or end <= first or last <= start:
        yield one
        return
    if first < start:
        yield first, start, kind
    yield max(first, start), min(last, end), _ACCEPTED
    if end < last:
        yield end, last, kind
