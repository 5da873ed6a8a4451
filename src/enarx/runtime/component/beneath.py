# SPDX-License-Identifier: Apache-2.0
"""Paths below a directory, resolved by the kernel and never by us.

Rules of this file:

- A guest's path is resolved by one `openat2` with RESOLVE_BENEATH: `..`, absolute paths and symbolic links that lead out
  are refused by the kernel, also while somebody else renames directories. There is no other way in.
- What creates, renames or deletes gets the directory that way and names one entry in it, which Linux does not follow.
- It knows descriptors and bytes, and raises OSError. It knows neither WASI nor limits.

Source: openat2(2), utimensat(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

from enarx.errors import PlatformError

SYS_OPENAT2 = 437  # on x86-64 and AArch64 alike
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
AT_EMPTY_PATH = 0x1000
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
O_PATH = os.O_PATH

# What the kernel says when somebody renames directories while it resolves `..`; it asks to try again.
_ATTEMPTS = 16

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_utimensat = _libc.utimensat
_utimensat.restype = ctypes.c_int
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]


def open_beneath(directory: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open a path that does not leave a directory.

    Args:
        directory: its descriptor.
        path: relative; without NUL.
        flags: of open(2); O_CLOEXEC is added.
        mode: of a file that O_CREAT creates, else 0.

    Returns:
        A descriptor that the caller closes.

    Raises:
        OSError: EPERM for a path that leads out, else what the kernel says.
        PlatformError: the kernel has no openat2.
    """
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    code = 0
    for _attempt in range(_ATTEMPTS):
        fd: int = _syscall(SYS_OPENAT2, directory, path, how, ctypes.sizeof(how))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    if code == errno.ENOSYS:
        raise PlatformError(
            "cannot open a directory for the workload: kernel: found no openat2, want Linux 5.6 or later",
            hint="run on a newer kernel, or without directories",
        )
    if code == errno.EXDEV:
        code = errno.EPERM
    raise OSError(code, os.strerror(code))


class Entry:
    """A directory below another and the name of one entry in it, as a context; the entry need not exist.

    Args:
        directory: descriptor below which the path stays.
        path: relative; without NUL.

    Raises:
        OSError: as `open_beneath`, and EPERM for an entry `..`.
    """

    __slots__ = ("fd", "name")

    def __init__(self, directory: int, path: bytes) -> None:
        stripped = path.rstrip(b"/")
        head, _, name = stripped.rpartition(b"/")
        if name == b"..":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        # A path of slashes alone is absolute. The trailing ones say that the entry must be a directory.
        if path.startswith(b"/"):
            head = b"/"
        self.name = name + path[len(stripped) :]
        self.fd = open_beneath(directory, head or b".", O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> Entry:  # noqa: PYI034  # typing.Self is an import
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self.fd)


def set_times(fd: int, accessed: tuple[int, int], modified: tuple[int, int]) -> None:
    """Set the times of what a descriptor is open on; one opened with O_PATH will do.

    Args:
        fd: the descriptor.
        accessed: seconds and nanoseconds; UTIME_NOW or UTIME_OMIT as the latter.
        modified: the same.

    Raises:
        OSError: what the kernel says.
    """
    times = (ctypes.c_int64 * 4)(*accessed, *modified)
    if _utimensat(fd, b"", times, AT_EMPTY_PATH):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
