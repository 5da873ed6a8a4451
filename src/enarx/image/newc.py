# SPDX-License-Identifier: Apache-2.0
"""The archive that the kernel unpacks as its first file system: cpio in the `newc` format.

What is written depends on the entries alone: they are sorted by path, numbered in that order, belong to root, have one
link and the time 0. Two archives of the same entries are the same bytes.

Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from enarx.errors import ConfigError, DecodeError

__all__ = ["Entry", "arrange", "device", "directory", "file", "link", "read_newc", "write_newc"]

_TRAILER = "TRAILER!!!"
_MAX_FILE_BYTES = (1 << 32) - 1
_MAX_PATH_BYTES = 4095


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in a file system.

    Args:
        path: relative, with `/`; no `.`, no `..`, none empty.
        mode: `st_mode`: the kind and the permissions.
        data: contents of a file, or where a link leads; else empty.
        device: major and minor number of a device.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    """Return a file that everybody can read."""
    return Entry(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def directory(path: str) -> Entry:
    """Return a folder that everybody can list."""
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def device(path: str, major: int, minor: int, permissions: int) -> Entry:
    """Return a character device."""
    return Entry(path=path, mode=stat.S_IFCHR | permissions, device=(major, minor))


def arrange(entries: Iterable[Entry]) -> list[Entry]:
    """Return some entries and every folder that they are in, in the order of an archive.

    Args:
        entries: in any order, each path once.

    Raises:
        ConfigError: a path that is no relative path or is there twice, or a file of 4 GiB and more.
    """
    every: dict[str, Entry] = {}
    for entry in entries:
        _check(entry)
        if every.setdefault(entry.path, entry) is not entry:
            raise ConfigError(f"cannot write an archive: {entry.path}: found it twice, want it once")
    for path in list(every):
        parent = path.rpartition("/")[0]
        while parent:
            if not stat.S_ISDIR(every.setdefault(parent, directory(parent)).mode):
                raise ConfigError(f"cannot write an archive: {parent}: found {path} in what is no folder")
            parent = parent.rpartition("/")[0]
    # Before what is in it comes a folder, because a path is longer than that of its folder.
    return sorted(every.values(), key=lambda entry: entry.path.encode())


def write_newc(entries: Iterable[Entry]) -> bytes:
    """Return the archive of some entries and of every folder that they are in; see `arrange`."""
    pieces: list[bytes] = []
    for number, entry in enumerate(arrange(entries), 1):
        _append(pieces, number, entry)
    _append(pieces, 0, Entry(path=_TRAILER, mode=0))
    return b"".join(pieces)


def _check(entry: Entry) -> None:
    path = entry.path
    if not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path or len(path.encode()) > _MAX_PATH_BYTES:
        raise ConfigError(f"cannot write an archive: found the path {path!r}, want a relative one")
    if path == _TRAILER or len(entry.data) > _MAX_FILE_BYTES:
        raise ConfigError(f"cannot write an archive: {path}: found what the format cannot hold")


def _append(pieces: list[bytes], number: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    major, minor = entry.device
    # magic, then: inode, mode, uid, gid, links, time, size, device of the file (2), device (2), length of the name, checksum.
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    pieces += (header, name, bytes(-(len(header) + len(name)) % 4), entry.data, bytes(-len(entry.data) % 4))


def read_newc(data: bytes) -> list[Entry]:
    """Read an archive that `write_newc` made, folders and all, in its order.

    Raises:
        DecodeError: it is none, or not whole.
    """
    entries: list[Entry] = []
    at = 0
    while True:
        header = data[at : at + 110]
        try:
            if len(header) != 110 or header[:6] != b"070701":
                raise ValueError("found no header")
            fields = [int(header[place : place + 8], 16) for place in range(6, 110, 8)]
            name_at = at + 110
            data_at = name_at + fields[11] + (-(110 + fields[11]) % 4)
            path = data[name_at : name_at + fields[11] - 1].decode()
        except ValueError as error:
            raise DecodeError(f"cannot read an archive: at byte {at}: {error}") from error
        if path == _TRAILER:
            return entries
        contents = data[data_at : data_at + fields[6]]
        at = data_at + fields[6] + -fields[6] % 4
        if len(contents) != fields[6]:
            raise DecodeError(f"cannot read an archive: {path}: found its end, want {fields[6]} bytes")
        entries.append(Entry(path=path, mode=fields[1], data=contents, device=(fields[9], fields[10])))
