# SPDX-License-Identifier: Apache-2.0
"""Read files out of Debian packages and wheels, without installing anything.

Packages are read into memory, as much of them as is wanted. `/bin`, `/lib`, `/lib64` and `/sbin` are taken for their places below
`/usr`, as on an installed system. Which files are wanted is said by the caller; whether a package is the right one was said by its digest.
"""

from __future__ import annotations

import posixpath
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from enarx.errors import DecodeError, PlatformError

__all__ = ["Package", "read_deb", "read_wheel"]

_MAX_FILES = 20_000
_MAX_BYTES = 1 << 30
_MAX_LINKS = 8
_UNPACK_TIMEOUT_S = 120.0
_MERGED = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Files of a package.

    Args:
        name: for messages.
        files: contents by path, without a slash before it.
        links: where symbolic links lead, by path.
    """

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def read(self, path: str) -> bytes:
        """Return a file's contents, through links inside the package.

        Raises:
            DecodeError: there is none.
        """
        found = path
        for _ in range(_MAX_LINKS):
            if found in self.files:
                return self.files[found]
            if found not in self.links:
                break
            target = self.links[found]
            found = _merged(target if target.startswith("/") else posixpath.join(posixpath.dirname(found), target))
        raise DecodeError(f"cannot build an image: {self.name}: found no file {path}, want it")


def read_deb(path: str, name: str, wanted: Callable[[str], bool]) -> Package:
    """Read some files of a Debian package, and all its links.

    Args:
        path: the package.
        name: for messages.
        wanted: says by its path in the image's file system whether a file is.

    Raises:
        DecodeError: it is no package, or too large.
        PlatformError: there is no `dpkg-deb`.
    """
    package = Package(name=name)
    try:
        program = subprocess.Popen(
            [shutil.which("dpkg-deb") or "dpkg-deb", "--fsys-tarfile", path],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise PlatformError(f"cannot build an image: dpkg-deb: {error.strerror}", hint="build on Debian") from error
    total = 0
    try:
        with tarfile.open(fileobj=program.stdout, mode="r|") as archive:
            for number, member in enumerate(archive):
                total += member.size
                if number > _MAX_FILES or total > _MAX_BYTES:
                    raise DecodeError(f"cannot build an image: {name}: found more than {_MAX_BYTES} bytes, want fewer")
                place = _merged(member.name)
                if member.issym():
                    package.links[place] = member.linkname
                elif member.isfile() and wanted(place):
                    file = archive.extractfile(member)
                    package.files[place] = file.read() if file else b""
        program.wait(_UNPACK_TIMEOUT_S)
    except (tarfile.TarError, EOFError, subprocess.TimeoutExpired) as error:
        raise DecodeError(f"cannot build an image: {name}: {error}") from error
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
        if program.stdout:
            program.stdout.close()
    if program.returncode:
        raise DecodeError(f"cannot build an image: {name}: found no Debian package, want one")
    return package


def read_wheel(path: str, name: str, patterns: tuple[str, ...]) -> Package:
    """Read the files of a wheel that match one of some patterns, in which `*` matches `/` too.

    Raises:
        DecodeError: it is no wheel, or a pattern matches nothing.
    """
    package = Package(name=name)
    left = set(patterns)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise DecodeError(f"cannot build an image: {name}: found more than {_MAX_BYTES} bytes, want fewer")
            for info in archive.infolist():
                matching = {pattern for pattern in patterns if fnmatchcase(info.filename, pattern)}
                if matching:
                    left -= matching
                    package.files[posixpath.normpath(info.filename)] = archive.read(info)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise DecodeError(f"cannot build an image: {name}: {error}") from error
    if left:
        raise DecodeError(f"cannot build an image: {name}: found nothing that matches {sorted(left)}, want a file")
    return package


def _merged(path: str) -> str:
    path = posixpath.normpath(path).lstrip("/")
    return f"usr/{path}" if path.partition("/")[0] in _MERGED else path
