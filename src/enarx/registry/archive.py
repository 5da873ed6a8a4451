# SPDX-License-Identifier: Apache-2.0
"""An OCI layout as one file: an uncompressed tar, read in place, and the same bytes whenever it is written of the same layout.

Rules of this file:

- A blob is read from where it lies in the archive; nothing is unpacked.
- An archive has each path once, and nothing but files and directories. What is no part of a layout is passed over.
- It is written beside its place and gets its name last.

Source: OCI image-spec 1.1, image-layout.md; POSIX.1-2017, pax.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from enarx.errors import DecodeError, UsageError
from enarx.registry.content import PIECE_BYTES
from enarx.registry.layout import INDEX_FILE, LAYOUT_FILE, Layout, LayoutFolder, make_layout, new_layout
from enarx.registry.reading import FileReader, open_regular
from enarx.registry.tar_format import BLOCK, DIRECTORY, FILE, end_of_tar, padding, read_tar_untrusted, tar_header
from enarx.wire.quoting import quote

__all__ = ["LayoutArchive", "is_archive", "new_package", "write_archive"]

_SUFFIX = ".tar"

_MAX_ENTRIES = 10_000
_MAX_NAME_CHARS = 255


def is_archive(path: str) -> bool:
    """Return whether a file begins as an archive does."""
    try:
        file, _ = open_regular(path)
    except OSError:
        return False
    with file:
        return file.read(BLOCK)[257:262] == b"ustar"


class LayoutArchive(Layout):
    """A layout in an archive: a source.

    Args:
        path: of the archive.

    Raises:
        UsageError: it cannot be read.
        DecodeError: it is no archive, or has a path twice or a link.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        file, size = self._file()
        with file:
            reader = FileReader(file, size)
            for entry in read_tar_untrusted(reader, f"the archive {path}", _MAX_ENTRIES):
                name = entry.name.removeprefix("./")
                name = name if entry.kind == FILE else name.rstrip("/")
                if entry.kind not in {FILE, DIRECTORY} or len(name) > _MAX_NAME_CHARS:
                    raise DecodeError(f"cannot read {path}: found {entry.kind} in it, want files and directories")
                if entry.kind == FILE:
                    if any(part in {"", ".", ".."} for part in name.split("/")):
                        raise DecodeError(
                            f"cannot read {path}: found the path {quote(entry.name)} in it, want each path in one spelling"
                        )
                    if name in self._places:
                        raise DecodeError(f"cannot read {path}: found {name} twice in it, want it once")
                    self._places[name] = (reader.position, entry.size)

    def open_file(self, name: str) -> tuple[BinaryIO, int] | None:
        """Return a file of the layout, at its beginning, and its length; None where there is none."""
        place = self._places.get(name)
        if place is None:
            return None
        file, _ = self._file()
        file.seek(place[0])
        return file, place[1]

    def _file(self) -> tuple[BinaryIO, int]:
        try:
            return open_regular(self.path)
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from error


def write_archive(layout: LayoutFolder, path: str) -> None:
    """Write a layout as one file, in the place of an archive of the same name.

    Args:
        layout: whole; nobody writes to it meanwhile.
        path: of which there is nothing yet, or an archive of a layout.

    Raises:
        UsageError: there is something else, or it cannot be written.
    """
    if os.path.lexists(path) and not _is_package(path):
        raise UsageError(
            f"cannot write {path}: found something that is no archive of a package, want one or nothing",
            hint="name another with --output, or remove it",
        )
    folder = os.path.dirname(os.path.abspath(path))
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)[:100]}.", dir=folder)
        try:
            with open(fd, "wb") as file:
                _write(layout, file)
                os.fchmod(fd, 0o644)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def new_package(path: str, *, replaces: bool = False) -> Iterator[LayoutFolder]:
    """Make a layout that becomes what a command was asked for, whole or not at all: one file if its name ends in `.tar`, else a folder.

    Args:
        path: of which there is nothing yet.
        replaces: whether an archive of a package may be there, whose place the new one takes.

    Raises:
        UsageError: there is something, or it cannot be written.
    """
    if not path.endswith(_SUFFIX):
        with new_layout(path) as layout:
            yield layout
        return
    if os.path.lexists(path) and not replaces:
        raise UsageError(f"cannot write {path}: found one already, want none", hint="name another, or remove it")
    try:
        # Beside it, because there is room for it if anywhere.
        place = tempfile.TemporaryDirectory(prefix=".new-", dir=os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    with place as folder:
        layout = make_layout(folder)
        yield layout
        write_archive(layout, path)


def _is_package(path: str) -> bool:
    """Return whether a file is what this module writes: somebody's other archives are not to be lost."""
    if os.path.islink(path) or not os.path.isfile(path) or not is_archive(path):
        return False
    try:
        LayoutArchive(path).index()
    except (DecodeError, UsageError):
        return False
    return True


def _write(layout: LayoutFolder, archive: BinaryIO) -> None:
    blobs = sorted(name for name in os.listdir(os.path.join(layout.path, "blobs/sha256")) if not name.startswith("."))
    for name in (LAYOUT_FILE, INDEX_FILE):
        _write_file(layout, name, archive)
    for name in ("blobs", "blobs/sha256"):
        archive.write(tar_header(name, DIRECTORY))
    for name in blobs:
        _write_file(layout, f"blobs/sha256/{name}", archive)
    archive.write(end_of_tar())


def _write_file(layout: LayoutFolder, name: str, archive: BinaryIO) -> None:
    found = layout.open_file(name)
    if found is None:
        raise DecodeError(f"cannot read {layout.path}: found no {name} in it, want a whole OCI layout")
    file, size = found
    archive.write(tar_header(name, FILE, size))
    with file:
        left = size
        while piece := file.read(min(left, PIECE_BYTES)):
            archive.write(piece)
            left -= len(piece)
    if left:
        raise DecodeError(f"cannot read {layout.path}: {name}: found its end too early")
    archive.write(bytes(padding(size)))
