# SPDX-License-Identifier: Apache-2.0
"""What a build keeps of its work: bytes under the digest of everything that they follow from, in folders of the user's cache.

A file begins with the digest of what follows, so that one that was damaged is made again. Of all that is kept, what was unused for
longest goes. What may be kept is for whoever asks to say: the key has to tell apart whatever differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable

from enarx.errors import PlatformError
from enarx.image.store import private_cache

__all__ = ["find", "forget_old", "keep", "put"]

_DIGEST_BYTES = 32


def find(cache: str, key: bytes) -> bytes | None:
    """Return what is kept under a key, or None.

    Args:
        cache: the folder's name.
        key: of any length; its digest is the file's name.

    Raises:
        PlatformError: the cache cannot be used.
    """
    path = _path(cache, key)
    try:
        # A buffer would copy all of what follows its first bytes.
        with open(path, "rb", buffering=0) as file:
            head, data = file.read(_DIGEST_BYTES), file.readall()
        os.utime(path)
    except OSError:
        return None
    return data if hashlib.sha256(data).digest() == head else None


def put(cache: str, key: bytes, data: bytes) -> None:
    """Keep something under a key.

    Args:
        cache: the folder's name.
        key: as for `find`.
        data: what to keep.

    Raises:
        PlatformError: the cache cannot be written.
    """
    path = _path(cache, key)
    folder = os.path.dirname(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as made:
            made.write(hashlib.sha256(data).digest())
            made.write(data)
        os.rename(made.name, path)
    except OSError as error:
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error


def keep(cache: str, key: bytes, make: Callable[[], bytes], *, fresh: bool = False) -> bytes:
    """Return what is kept under a key, or make it and keep it; see `find`.

    Args:
        cache: the folder's name.
        key: as for `find`.
        make: makes it.
        fresh: whether to make it, whatever is kept.
    """
    data = None if fresh else find(cache, key)
    if data is None:
        data = make()
        put(cache, key, data)
    return data


def _path(cache: str, key: bytes) -> str:
    return os.path.join(private_cache(cache), hashlib.sha256(key).hexdigest())


def forget_old(cache: str, most: int) -> None:
    """Remove of what is kept all but the files that were used last.

    Args:
        cache: the folder's name.
        most: how many stay.

    Raises:
        PlatformError: they cannot be removed.
    """
    folder = private_cache(cache)
    used: list[tuple[float, str]] = []
    try:
        for entry in os.scandir(folder):
            # Another build that runs now names its files and removes old ones, too.
            with contextlib.suppress(FileNotFoundError):
                used.append((os.stat(entry.path).st_mtime, entry.path))
        for _, old in sorted(used, reverse=True)[most:]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(old)
    except OSError as error:
        raise PlatformError(f"cannot build an image: {folder}: {error.strerror}") from error
