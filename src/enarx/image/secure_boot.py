# SPDX-License-Identifier: Apache-2.0
"""Take Secure Boot out of a firmware's variables, so that it starts a kernel that QEMU hands to it.

Debian's only build of OVMF for TDX comes with Microsoft's keys enrolled, and refuses ours before it has looked at it. Secure
Boot protects nothing here: the kernel is measured. What is done is what `virt-fw-vars -d PK -d KEK -d db -d dbx --set-false
SecureBootEnable` does, so that it does not depend on the release of a tool. The variables are no part of MRTD.

Spec: UEFI 2.10 section 8.2; EDK II, MdeModulePkg/Include/Guid/VariableFormat.h and MdePkg/Include/Pi/PiFirmwareVolume.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from enarx.errors import DecodeError

__all__ = ["remove_secure_boot"]

_VOLUME = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
_STORE = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_ENABLE = UUID("f0a30bc7-af08-4556-99c4-001009c93a44").bytes_le
_NAME = "SecureBootEnable"
_REMOVED = {"PK", "KEK", "db", "dbx"}

# File system, length, signature, attributes, length of the header: after a zero vector of 16 bytes.
_VOLUME_HEADER = struct.Struct("<16x16sQ4sIH")
# Signature, size, format, state: then six reserved bytes.
_STORE_HEADER = struct.Struct("<16sIBB6x")
# Id, state, attributes, count, time, key index, lengths of name and data, vendor.
_VARIABLE = struct.Struct("<HBxIQ16sIII16s")
_VOLUME_ALIGNMENT = 1024
_START = 0x55AA
_ADDED = 0x3F
_FORMATTED, _HEALTHY = 0x5A, 0xFE
_NON_VOLATILE_BOOT_SERVICE = 3


def remove_secure_boot(firmware: bytes) -> bytes:
    """Return the firmware without Secure Boot's keys and with Secure Boot said to be off, of the same length.

    Variables that were deleted are left out, and the others are sorted by their names.

    Raises:
        DecodeError: it has no store of variables, or one that is too small or damaged.
    """
    try:
        start, end = _find_store(firmware)
        kept = {name: variable for name, variable in _variables(firmware, start, end) if name not in {*_REMOVED, _NAME}}
    except (struct.error, ValueError) as error:
        raise DecodeError(f"cannot take Secure Boot out of a firmware: {error}") from error
    name = _NAME.encode("utf-16-le") + bytes(2)
    header = _VARIABLE.pack(_START, _ADDED, _NON_VOLATILE_BOOT_SERVICE, 0, bytes(16), 0, len(name), 1, _ENABLE)
    kept[_NAME] = header + name + b"\0"
    store = b"".join(variable + b"\xff" * (-len(variable) % 4) for _, variable in sorted(kept.items()))
    if len(store) > end - start:
        raise DecodeError(
            f"cannot take Secure Boot out of a firmware: found room for {end - start} bytes, want {len(store)}"
        )
    return firmware[:start] + store.ljust(end - start, b"\xff") + firmware[end:]


def _find_store(firmware: bytes) -> tuple[int, int]:
    """Return where the variables begin and where their place ends."""
    for at in range(0, len(firmware) - _VOLUME_HEADER.size, _VOLUME_ALIGNMENT):
        kind, _, signature, _, header_size = _VOLUME_HEADER.unpack_from(firmware, at)
        if signature == b"_FVH" and kind == _VOLUME:
            store = at + header_size
            guid, size, form, state = _STORE_HEADER.unpack_from(firmware, store)
            if (guid, form, state) != (_STORE, _FORMATTED, _HEALTHY) or not 0 < size <= len(firmware) - store:
                raise ValueError(f"at byte {at}: found another store, want one of authenticated variables")
            return store + _STORE_HEADER.size, store + size
    raise ValueError("found no volume of variables, want one")


def _variables(firmware: bytes, at: int, end: int) -> Iterator[tuple[str, bytes]]:
    while at + _VARIABLE.size <= end:
        start, state, _, _, _, _, name_size, data_size, _ = _VARIABLE.unpack_from(firmware, at)
        if start != _START:
            return
        size = _VARIABLE.size + name_size + data_size
        if at + size > end or name_size < 2 or name_size % 2:
            raise ValueError(f"at byte {at}: found a variable of {size} bytes, want one inside the store")
        if state == _ADDED:
            name = firmware[at + _VARIABLE.size : at + _VARIABLE.size + name_size - 2].decode("utf-16-le")
            yield name, firmware[at : at + size]
        at += size + -size % 4
