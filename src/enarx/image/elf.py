# SPDX-License-Identifier: Apache-2.0
"""Which shared libraries a 64-bit little-endian ELF file needs: its DT_NEEDED entries.

Spec: System V ABI, chapter 5, "Dynamic Section".
"""

from __future__ import annotations

import struct

from enarx.errors import DecodeError

__all__ = ["is_elf", "needed_libraries"]

_MAGIC = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_MAX_NAME_BYTES = 256


def is_elf(data: bytes) -> bool:
    """Say whether bytes begin as such a file does."""
    return data.startswith(_MAGIC)


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """Return the names of the libraries that a file needs, in its order; none where it is static.

    Raises:
        DecodeError: it is not such a file.
    """
    try:
        return _needed(data)
    except (struct.error, ValueError, IndexError) as error:
        raise DecodeError(f"cannot read an ELF file: {error}") from error


def _needed(data: bytes) -> tuple[str, ...]:
    if not is_elf(data):
        raise ValueError("found other bytes, want a 64-bit little-endian one")
    _, _, _, _, table, _, _, _, entry_size, count, *_ = _HEADER.unpack_from(data)
    segments = [_PROGRAM.unpack_from(data, table + number * entry_size) for number in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, size, _, _ in segments:
        if kind == _PT_DYNAMIC:
            for tag, value in _DYNAMIC.iter_unpack(data[offset : offset + size - size % _DYNAMIC.size]):
                if tag == _DT_NULL:
                    break
                entries.append((tag, value))
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return ()
    for kind, _, offset, address, _, size, _, _ in segments:
        if kind == _PT_LOAD and address <= strings < address + size:
            at = strings - address + offset
            return tuple(_name(data, at + value) for tag, value in entries if tag == _DT_NEEDED)
    raise ValueError("found no segment with the names")


def _name(data: bytes, at: int) -> str:
    end = data.index(b"\0", at, at + _MAX_NAME_BYTES)
    return data[at:end].decode("ascii")
