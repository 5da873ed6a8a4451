# SPDX-License-Identifier: Apache-2.0
"""Keep the blobs that registries sent, by their digest, in a folder that nobody else can read.

Layout, below `$XDG_CACHE_HOME/enarx`, else `~/.cache/enarx`::

    packages/
        <64 hex>           a blob; what is read of it was compared with its name before
        <64 hex>.partial   what has come of one, locked by who fetches it

Rules of this file:

- A blob gets its name when all of it was seen and its digest was right. Until then it is a `.partial`, and who fetches the same blob
  after a killed process goes on where that one stopped.
- Who wants a blob that somebody is fetching waits for him, as long as it grows; then it fetches it without us.
- What is kept can rot: its digest is computed whenever it is read, and what is not what its name says is fetched again.
- A cache that cannot be written makes nothing fail. One that is open to others does.
- It is bounded: what was unused for longest goes first, beginnings that nobody goes on with too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import file_digest, sha256

from enarx.errors import VerificationError
from enarx.registry.content import PIECE_BYTES, checked
from enarx.user_files import private_cache
from enarx.wire.oci import Descriptor

__all__ = ["MAX_CACHE_BYTES", "BlobCache", "default_cache"]

MAX_CACHE_BYTES = 4 << 30
PATIENCE_S = 30.0
"""How long somebody else's download is waited for without a byte of it coming."""

_PARTIAL = ".partial"
_NAME = re.compile(r"[0-9a-f]{64}(?:\.partial)?")
_LOOK_S = 0.05
_ABANDONED_S = 7 * 24 * 3600.0

Fetch = Callable[[Descriptor, int], Iterator[bytes]]
"""Yields the bytes of a blob from an offset on, which nobody has checked."""


def default_cache() -> BlobCache | None:
    """Return this user's cache, or None where there is no place for one.

    Raises:
        PlatformError: it is not the user's alone.
    """
    if not os.environ.get("XDG_CACHE_HOME", "").startswith("/") and not os.environ.get("HOME", "").startswith("/"):
        return None
    return BlobCache(private_cache("packages"))


class BlobCache:
    """The blobs in one folder, for any number of processes of one user.

    Args:
        path: of a folder that is ours alone.
        max_bytes: of everything in it.
        patience_s: how long somebody else's download is waited for without a byte of it coming.
        clock: seconds of a clock that only goes forward.
        wait: pauses so many seconds.
    """

    def __init__(
        self,
        path: str,
        *,
        max_bytes: int = MAX_CACHE_BYTES,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._clock = clock
        self._wait = wait

    def open_blob(self, wanted: Descriptor, fetch: Fetch) -> Iterator[bytes]:
        """Return a blob in pieces, as `Source.open_blob` does: what is kept, else what is fetched, which is kept on the way.

        Args:
            wanted: which one.
            fetch: gets it, or the rest of it.

        Raises:
            VerificationError: what came is another. Nothing of it is kept.
            Anything that `fetch` raises. What came before is kept, for the next to go on with.
        """
        path = os.path.join(self.path, wanted.digest.removeprefix("sha256:"))
        if wanted.size > self._max_bytes // 2:
            yield from checked(fetch(wanted, 0), wanted)
            return
        fd = self._whole(path, wanted)
        if fd is None:
            partial = self._partial(path, wanted)
            if partial is None:
                fd = self._whole(path, wanted)
                if fd is None:
                    yield from checked(fetch(wanted, 0), wanted)
                    return
            else:
                try:
                    yield from self._fetched(path, partial, wanted, fetch)
                finally:
                    os.close(partial)
                return
        with open(fd, "rb") as file:
            left = wanted.size
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece
        if left:
            raise VerificationError(f"cannot read {path}: found that it has become shorter, want {wanted.size} bytes")

    def link_blob(self, wanted: Descriptor, fetch: Fetch, path: str) -> bool:
        """Give a blob that is kept, or is fetched and kept now, a second name: it is neither copied nor hashed once more.

        Whoever changes it under that name makes it worthless here, which is seen when it is read again.

        Args:
            wanted: which one.
            fetch: gets it, or the rest of it.
            path: the second name, in a folder of the user's; nothing has it.

        Returns:
            whether there is such a file now. Where there is not, it was not fetched, or is kept all the same.

        Raises:
            as `open_blob`.
        """
        place = os.path.join(self.path, wanted.digest.removeprefix("sha256:"))
        try:
            if wanted.size > self._max_bytes // 2 or os.stat(os.path.dirname(path)).st_dev != os.stat(self.path).st_dev:
                return False
        except OSError:
            return False
        fd = self._whole(place, wanted)
        if fd is None:
            for _ in self.open_blob(wanted, fetch):
                pass
        else:
            os.close(fd)
        try:
            os.link(place, path, follow_symlinks=False)
            os.chmod(path, 0o644)
        except OSError:
            return False
        return True

    def _whole(self, path: str, wanted: Descriptor) -> int | None:
        """Open a blob that is kept and is what it should be; what is not is removed."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            found = os.fstat(fd)
            with open(fd, "rb", closefd=False) as file:
                if (
                    stat.S_ISREG(found.st_mode)
                    and found.st_size == wanted.size
                    and file_digest(file, "sha256").hexdigest() == os.path.basename(path)
                ):
                    os.lseek(fd, 0, os.SEEK_SET)
                    # Not `relatime`, which a file system may not keep, decides what is removed first.
                    os.utime(fd)
                    return fd
            os.unlink(path)
        os.close(fd)
        return None

    def _partial(self, path: str, wanted: Descriptor) -> int | None:
        """Open and lock what there is of a blob; None where it is whole now, or where we cannot or should not write."""
        grown, since = -1, self._clock()
        while True:
            try:
                fd = os.open(path + _PARTIAL, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError:
                return None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same(fd, path + _PARTIAL):
                    if os.path.lexists(path):
                        # Somebody put it there between our two looks.
                        os.unlink(path + _PARTIAL)
                        os.close(fd)
                        return None
                    return fd
            except BlockingIOError:
                size = os.fstat(fd).st_size
                if size != grown:
                    grown, since = size, self._clock()
            except OSError:
                os.close(fd)
                return None
            os.close(fd)
            if self._clock() - since > self._patience_s:
                return None
            self._wait(_LOOK_S)
            if os.path.lexists(path):
                return None

    def _fetched(self, path: str, partial: int, wanted: Descriptor, fetch: Fetch) -> Iterator[bytes]:
        """Yield a blob while it is fetched and kept; the last piece when it has its name."""
        running, size, held, kept = sha256(), 0, b"", True
        if os.fstat(partial).st_size > wanted.size:
            os.ftruncate(partial, 0)
        self._prune(wanted.size)
        while piece := os.pread(partial, PIECE_BYTES, size):
            size += len(piece)
            running.update(piece)
            if held:
                yield held
            held = piece
        if size < wanted.size or not size:
            for piece in fetch(wanted, size):
                if size + len(piece) > wanted.size:
                    size += len(piece)
                    break
                kept = kept and _write(partial, piece, size)
                size += len(piece)
                running.update(piece)
                if held:
                    yield held
                held = piece
        found = "sha256:" + running.hexdigest()
        if size != wanted.size or found != wanted.digest:
            _discard(path + _PARTIAL)
            raise VerificationError(
                f"cannot accept {wanted.digest}: found {'more' if size > wanted.size else size} bytes with the digest {found},"
                f" want {wanted.size} with that one",
                hint="nothing of it was kept: if an earlier download broke off, another try may bring the right one",
            )
        if kept:
            with contextlib.suppress(OSError):
                os.rename(path + _PARTIAL, path)
        else:
            _discard(path + _PARTIAL)
        if held:
            yield held

    def _prune(self, incoming: int) -> None:
        """Remove what was unused for longest until a blob fits, and what nobody went on with for a week."""
        found: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for each in entries:
                if _NAME.fullmatch(each.name):
                    with contextlib.suppress(OSError):
                        status = each.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, each.path))
        total = incoming + sum(size for _, size, _ in found)
        newest = max((mtime for mtime, _, _ in found), default=0.0)
        for mtime, size, path in sorted(found):
            is_partial = path.endswith(_PARTIAL)
            is_abandoned = is_partial and newest - mtime >= _ABANDONED_S
            if total <= self._max_bytes and not is_abandoned:
                continue
            if is_partial and not _is_idle(path):
                continue
            total -= size
            _discard(path)


def _is_same(fd: int, path: str) -> bool:
    """Return whether a file still has its name: who had the lock before may have given it its last one."""
    try:
        ours, there = os.fstat(fd), os.lstat(path)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and stat.S_ISREG(ours.st_mode)


def _is_idle(path: str) -> bool:
    """Return whether nobody is fetching what a `.partial` has the beginning of."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _write(fd: int, piece: bytes, offset: int) -> bool:
    """Write a piece, and return whether there was room."""
    view = memoryview(piece)
    try:
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    except OSError:
        return False
    return True


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
