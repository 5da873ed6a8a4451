# SPDX-License-Identifier: Apache-2.0
"""Bytes that come one after the other, read in the sizes that a format has: from a file, or from pieces as they arrive."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from enarx.registry.content import PIECE_BYTES

__all__ = ["FileReader", "PieceReader", "Reader", "open_regular", "pieces_of"]


class Reader(Protocol):
    """Bytes that come one after the other."""

    position: int
    """How many bytes were read or passed over."""

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only where there are no more."""
        ...

    def skip(self, size: int) -> bool:
        """Pass over so many bytes; return whether there were as many."""
        ...


class FileReader:
    """Reads a file in place, and passes over what is not wanted without reading it.

    Args:
        file: at its beginning.
        size: its length.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only where there are no more."""
        data = self._file.read(min(size, self._size - self.position))
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Pass over so many bytes; return whether there were as many."""
        wanted = min(size, self._size - self.position)
        self.position += wanted
        self._file.seek(wanted, os.SEEK_CUR)
        return wanted == size


class PieceReader:
    """Reads pieces as they come, and holds no more of them than is asked for.

    Args:
        pieces: none of them too large to hold.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self._at = 0
        self.position = 0

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only where there are no more."""
        parts = []
        while size and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> bool:
        """Pass over so many bytes; return whether there were as many."""
        while size and (part := self._some(size)):
            size -= len(part)
        return not size

    def _some(self, most: int) -> bytes:
        while self._at == len(self._held):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._held, self._at = piece, 0
        part = self._held[self._at : self._at + most]
        self._at += len(part)
        self.position += len(part)
        return part


def open_regular(path: str, flags: int = 0, *, folder: int | None = None) -> tuple[BinaryIO, int]:
    """Open what has to be a file, without waiting for anybody, and return it with its length.

    Args:
        path: of a file; a link is followed unless `flags` say otherwise.
        flags: beside those for reading.
        folder: the descriptor of the one that a relative path begins in; None is the current one.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "found no file, want one")
    return open(fd, "rb"), found.st_size


def pieces_of(reader: Reader, size: int) -> Iterator[bytes]:
    """Return what a reader gives next, in pieces: `size` bytes in all, fewer only where there are no more."""
    while size and (piece := reader.read(min(size, PIECE_BYTES))):
        size -= len(piece)
        yield piece
