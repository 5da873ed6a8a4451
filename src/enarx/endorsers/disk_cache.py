# SPDX-License-Identifier: Apache-2.0
"""Keep what services answered, one file for each URL, in a private directory.

Rules of this file:

- It knows nothing of certificates and times of validity: an entry is an answer's body, a few of its headers, and when it
  came. Whoever loads an entry decodes it again, so what is kept can go out of date but not without being seen.
- The directory is ours and closed to others, or it is refused. An entry that is not a whole, unchanged file of ours
  counts as absent: it is fetched again and replaced.
- Entries are written beside their place and renamed, so that readers see whole ones or none.
- It is bounded: the entries unused for longest go first.

An entry is three parts: a line with the format's name and the SHA-256 of what follows, a line of JSON, and the body.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from enarx.errors import PlatformError
from enarx.user_files import write_whole

__all__ = ["MAX_CACHE_BYTES", "DiskCache", "Entry"]

MAX_CACHE_BYTES = 64 << 20
# A list of the largest size in hex, and what is written about it.
MAX_ENTRY_BYTES = 9 << 20
_FORMAT = b"enarx-endorsement-1"
_SUFFIX = ".endorsement"
# What a killed process left half written; whoever still writes it after so long has no use for it either.
_ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a service answered.

    Args:
        url: the question.
        body: as received.
        headers: those that belong to the answer, by name in lower case.
        fetched_at: aware UTC.
    """

    url: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    fetched_at: datetime


class DiskCache:
    """The answers kept in one directory, for any number of threads and processes of one user.

    Args:
        path: the directory; it is made where there is none.
        max_bytes: of all entries together.

    Raises:
        PlatformError: it cannot be made, or is not ours alone.
    """

    def __init__(self, path: str, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            status = os.lstat(path)
        except OSError as error:
            raise PlatformError(
                f"cannot use the cache of endorsements: {path}: {error.strerror}, want a directory that can be written"
            ) from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o170077 != 0o040000:
            raise PlatformError(
                f"cannot use the cache of endorsements: {path}: found owner {status.st_uid} and mode"
                f" {status.st_mode & 0o7777:04o}, want a directory of owner {os.geteuid()} with mode 0700",
                hint=f"remove {path}, or chown and chmod it if all of its content is yours",
            )

    def load(self, url: str) -> Entry | None:
        """Return what was kept for a URL, or None where there is nothing that can be trusted to be what was kept."""
        data = self._read(self._name(url))
        if data is None:
            return None
        head, _, rest = data.partition(b"\n")
        if head != _FORMAT + b" " + hashlib.sha256(rest).hexdigest().encode():
            return None
        about, _, body = rest.partition(b"\n")
        try:
            known = json.loads(about)
            entry = Entry(
                url=str(known["url"]),
                body=body,
                headers={str(name): str(value) for name, value in known["headers"].items()},
                fetched_at=datetime.fromisoformat(known["fetched_at"]).astimezone(UTC),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return None
        return entry if entry.url == url else None

    def store(self, entry: Entry) -> None:
        """Keep an answer in the place of an older one to the same question.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """
        about = {"url": entry.url, "fetched_at": entry.fetched_at.isoformat(), "headers": entry.headers}
        rest = json.dumps(about).encode() + b"\n" + entry.body
        data = _FORMAT + b" " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
        self._make_room(len(data), entry.fetched_at.timestamp())
        name = self._name(entry.url)
        # Whoever asks the same at the same moment writes one of his own. What a power failure spoils counts as absent.
        write_whole(name, data, temporary=f"{name}.{secrets.token_hex(8)}.tmp", is_durable=False)

    def forget(self, url: str) -> None:
        """Remove what was kept for a URL, if anything was and the directory can be written."""
        with contextlib.suppress(OSError):
            os.unlink(self._name(url))

    @contextlib.contextmanager
    def try_turn(self, service: str) -> Iterator[bool]:
        """Try to be the only one, of all threads and processes with this directory, that asks a service.

        The kernel ends a turn with the process that had it.

        Yields:
            Whether it is ours until the end of the block.

        Raises:
            PlatformError: the directory cannot be written.
        """
        path = f"{self.path}/{service}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PlatformError(
                f"cannot use the cache of endorsements: {path}: {error.strerror}, want a file that can be written",
                hint="name another directory, or work offline with what is there",
            ) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def _name(self, url: str) -> str:
        return f"{self.path}/{hashlib.sha256(url.encode()).hexdigest()}{_SUFFIX}"

    @staticmethod
    def _read(name: str) -> bytes | None:
        try:
            # A pipe that somebody left in this place must not be waited for.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != 0o100000:
                return None
            if status.st_size > MAX_ENTRY_BYTES:
                return None
            with open(fd, "rb", closefd=False) as file:
                return file.read(MAX_ENTRY_BYTES)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _make_room(self, incoming: int, now_s: float) -> None:
        kept = []
        for name in os.listdir(self.path):
            path = f"{self.path}/{name}"
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if name.endswith(_SUFFIX):
                    kept.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, path))
                elif name.endswith(".tmp") and now_s - status.st_mtime > _ABANDONED_S:
                    os.unlink(path)
        total = incoming + sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self._max_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
