# SPDX-License-Identifier: Apache-2.0
"""What drivers need of Linux, and nothing else: `LinuxSystem` is the kernel, and tests put an emulation in its place.

An error is an `OSError` with the kernel's number here; what it means is the driver's to say.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from enarx.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REBOOT_HINT", "LinuxSystem", "System", "exists", "iowr", "read_file", "refusal", "write_file"]

REBOOT_HINT = "start the machine again: the guest kernel gave up its key to the security processor after a failure"

_CHUNK_BYTES = 1 << 16
_IOC_READ_WRITE = 3


class System(Protocol):
    """The system calls that devices are reached with; each behaves and fails as Linux' does."""

    def open(self, path: str, flags: int) -> int:
        """Open a file, and return its descriptor."""
        ...

    def close(self, fd: int) -> None:
        """Close it."""
        ...

    def read(self, fd: int, size: int) -> bytes:
        """Read up to `size` bytes; none at the end."""
        ...

    def write(self, fd: int, data: bytes) -> int:
        """Write, and return how many bytes were."""
        ...

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        """Call the driver with a structure, a `ctypes` one or another writable buffer, which it may change."""
        ...

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        ...

    def rmdir(self, path: str) -> None:
        """Remove one."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class LinuxSystem:
    """The kernel that this process runs on.

    Args:
        root: folder that stands for `/`.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")

    def open(self, path: str, flags: int) -> int:
        """Open a file, which no child inherits."""
        return os.open(self._root + path, flags | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close it."""
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        """Write, and return how many bytes were."""
        return os.write(fd, data)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        """Call the driver; the structure is changed also where the call fails."""
        fcntl.ioctl(fd, request, argument, True)

    def mkdir(self, path: str) -> None:
        """Make a directory that nobody else opens."""
        os.mkdir(self._root + path, 0o700)

    def rmdir(self, path: str) -> None:
        """Remove one."""
        os.rmdir(self._root + path)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def iowr(kind: int, number: int, size: int) -> int:
    """Return the number of an ioctl that reads and writes a structure, as `_IOWR` does.

    Args:
        kind: the driver's letter.
        number: of the call.
        size: of the structure in bytes.

    Spec: Linux include/uapi/asm-generic/ioctl.h, which is x86-64's and aarch64's.
    """
    return _IOC_READ_WRITE << 30 | size << 16 | kind << 8 | number


def read_file(system: System, path: str, max_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        OSError: of the kernel; `EFBIG` where there is more than `max_bytes`, as the kernel says it of its own limit.
    """
    fd = system.open(path, os.O_RDONLY)
    try:
        data = bytearray()
        while chunk := system.read(fd, min(_CHUNK_BYTES, max_bytes + 1 - len(data))):
            data += chunk
            if len(data) > max_bytes:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    finally:
        system.close(fd)
    return bytes(data)


def write_file(system: System, path: str, data: bytes) -> None:
    """Write bytes with one call, as attributes want it.

    Raises:
        OSError: of the kernel; `EIO` where it took only a part.
    """
    fd = system.open(path, os.O_WRONLY)
    try:
        taken = system.write(fd, data)
    finally:
        system.close(fd)
    if taken != len(data):
        raise OSError(errno.EIO, f"{taken} of {len(data)} bytes were taken", path)


def exists(system: System, path: str) -> bool:
    """Return whether a file can be opened, or is there and cannot be."""
    try:
        system.close(system.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO}
    return True


_ANYWHERE = {
    errno.EACCES: ("permission denied", "run as a user who may use the device, such as root"),
    errno.EPERM: ("not permitted", "run as a user who may use the device, such as root"),
    errno.ENOENT: ("not there", "load the kernel's driver; enarx platform info shows what there is"),
}


def refusal(device: str, error: OSError, meanings: Mapping[int, tuple[str, str | None]]) -> PlatformError:
    """Return what a device's error means.

    Args:
        device: for the message.
        error: of a system call.
        meanings: by number: what was found, and the next step; the usual ones are known.
    """
    number = error.errno or 0
    found, hint = meanings.get(number) or _ANYWHERE.get(number) or ((error.strerror or str(error)).lower(), None)
    name = errno.errorcode.get(number, str(number))
    return PlatformError(f"cannot attest: {device}: found {found} ({name}), want evidence", hint=hint)
