# SPDX-License-Identifier: Apache-2.0
r"""The launch measurement of a Keep that is a process: a digest of the package `enarx` that it runs.

Measured is every file of the package's folder, by its relative path and its content, and so enarx's version too, which is in one
of them. Not measured are Python, the libraries that are installed beside enarx, and `__pycache__`, in which Python keeps what it
compiled of the files measured. A process protects nothing from its host anyway; the measurement says which code the
parties mean, so that everything that follows is the same as with a Trusted Execution Environment.

The measurement is the SHA-384 of a text: the line `enarx process image 1`, then for each file, in the order of the paths' bytes, the
line that `sha384sum` prints::

    ( echo 'enarx process image 1'
      find . -name __pycache__ -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha384sum ) | sha384sum
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import enarx
from enarx.errors import PlatformError

__all__ = ["PROCESS_IMAGE", "measure_process", "package_folder"]

PROCESS_IMAGE = "process"
"""The name of the image that is the installed package itself."""

MAX_FILES = 4096
MAX_BYTES = 64 << 20
_MAX_DEPTH = 16
_LABEL = b"enarx process image 1\n"
_COMPILED = "__pycache__"


def package_folder() -> str:
    """Return the folder of the package that this process runs, without symbolic links."""
    return os.path.dirname(os.path.realpath(enarx.__file__))


def measure_process(folder: str) -> bytes:
    """Return the launch measurement of a Keep process that runs the package in a folder.

    Args:
        folder: the package itself, which ends in `enarx`.

    Returns:
        48 bytes.

    Raises:
        PlatformError: it cannot be read, has something other than files and folders, or more than `MAX_FILES` or `MAX_BYTES`.
    """
    lines: list[tuple[bytes, bytes]] = []
    left = MAX_BYTES
    try:
        for path in _files(folder, "", _MAX_DEPTH):
            if len(lines) == MAX_FILES:
                raise _refusal(folder, f"more than {MAX_FILES} files", "a package of enarx")
            content = _read(f"{folder}/{path}", left)
            left -= len(content)
            if left < 0:
                raise _refusal(folder, f"more than {MAX_BYTES} bytes", "a package of enarx")
            name = os.fsencode(path)
            lines.append((name, hashlib.sha384(content).hexdigest().encode() + b"  " + name + b"\n"))
    except OSError as error:
        raise _refusal(folder, str(error.strerror), "a folder that can be read") from error
    if not lines:
        raise _refusal(folder, "no file", "a package of enarx")
    return hashlib.sha384(_LABEL + b"".join(line for _, line in sorted(lines))).digest()


def _files(folder: str, below: str, depth: int) -> Iterator[str]:
    if not depth:
        raise _refusal(folder, f"folders more than {_MAX_DEPTH} deep", "a package of enarx")
    with os.scandir(f"{folder}/{below}") as entries:
        for entry in entries:
            path = below + entry.name
            if entry.name == _COMPILED:
                continue
            if entry.is_file(follow_symlinks=False):
                # sha384sum writes such a name in another way, and two names could then look like one.
                if not {"\n", "\r", "\\"}.isdisjoint(entry.name):
                    raise _refusal(f"{folder}/{path!r}", "a name that is no line", "another")
                yield path
            elif not entry.is_dir(follow_symlinks=False):
                # What a link leads to can change, and is not in the package.
                raise _refusal(f"{folder}/{path}", "neither a file nor a folder", "one of them")
            else:
                yield from _files(folder, path + "/", depth - 1)


def _read(path: str, max_bytes: int) -> bytes:
    """Read a file, or one byte more of it than allowed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        return file.read(max_bytes + 1) if os.fstat(fd).st_size > max_bytes else file.readall()


def _refusal(subject: str, found: str, want: str) -> PlatformError:
    return PlatformError(f"cannot measure a Keep process: {subject}: found {found}, want {want}")
