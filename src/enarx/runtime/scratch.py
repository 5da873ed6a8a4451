# SPDX-License-Identifier: Apache-2.0
"""A folder in memory for what a workload process needs by name: the directories that travelled.

It is in a tmpfs, closed to other users, made when it is first needed and removed when the Keep ends. A Keep that was killed cannot
remove its own: whoever holds the lock of a folder lives, and every Keep that starts removes those of its user that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from enarx.errors import DecodeError, PlatformError
from enarx.wire.release import Directory

__all__ = ["ROOT", "Scratch", "sweep"]

ROOT = "/dev/shm"  # noqa: S108  # a tmpfs: nothing of it is written to a disk, but to swap
_PREFIX = "enarx-keep-"


class Scratch:
    """One Keep's folder.

    Args:
        root: where it is made; a tmpfs.
        owner: number of the user whose it is; None is this process's.
    """

    def __init__(self, root: str = ROOT, *, owner: int | None = None) -> None:
        self._root, self._owner = root, owner
        self._lock: int | None = None
        self.path: str | None = None
        """None until `make`."""

    def make(self) -> str:
        """Return the folder, and make it if it is not there.

        Raises:
            PlatformError: it cannot be made.
        """
        # Most Keeps have no folder, and what makes and removes one takes a while to load.
        import tempfile

        while self.path is None:
            try:
                path = tempfile.mkdtemp(prefix=_PREFIX, dir=self._root)
                if self._owner is not None:
                    # It passes through, to what it is given inside.
                    os.chmod(path, 0o711)  # noqa: S103  # nothing in it is for everybody
            except OSError as error:
                raise PlatformError(f"cannot make a folder in {self._root}: {error.strerror}") from error
            # Until it is locked, another Keep may take it for one that was left; then there is another try.
            with contextlib.suppress(FileNotFoundError):
                self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if os.path.samestat(os.stat(path), os.fstat(self._lock)):
                    self.path = path
                    break
            self._unlock()
        return self.path

    def remove(self) -> None:
        """Remove the folder, if there is one."""
        if self.path is not None:
            import shutil

            shutil.rmtree(self.path, ignore_errors=True)
            self.path = None
        self._unlock()

    def unpack(self, directory: Directory, number: int) -> str:
        """Write a directory that travelled.

        Args:
            directory: as decoded; its paths stay inside.
            number: tells it from others.

        Returns:
            Its path.

        Raises:
            DecodeError: two entries are in each other's way.
            PlatformError: there is no room.
        """
        base = f"{self.make()}/{number}"
        try:
            os.mkdir(base, 0o700)
            for entry in directory.entries:
                path = "/".join((base, *entry.path)).encode()
                if entry.contents is None:
                    os.makedirs(path, 0o700, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(entry.contents)
            if self._owner is not None:
                _give(base.encode(), self._owner)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise DecodeError(f"cannot unpack {directory.guest}: found an entry twice, or below a file") from error
        except OSError as error:
            raise PlatformError(f"cannot unpack {directory.guest}: {error.strerror}") from error
        return base

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _give(base: bytes, owner: int) -> None:
    # From the inside out: a folder of another user's is one that this process may not look into any more.
    for folder, _, names in os.walk(base, topdown=False):
        for path in (*(b"%s/%s" % (folder, name) for name in names), folder):
            os.chown(path, owner, owner)


def sweep(root: str = ROOT) -> None:
    """Remove the folders of this user's Keeps that are no more."""
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(entry.path)


def _remove_if_left(path: str) -> None:
    import shutil

    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(fd)
