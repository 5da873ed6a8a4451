# SPDX-License-Identifier: Apache-2.0
"""Ciphertext on its way from tenants to Keeps: one file for each blob, appended to by uploads, read while it grows.

A blob is named by the digest that the tenant says it has. Whether it has it is for the Keep to find out; here it is bytes of
a length that was announced, reserved against the quotas when the first of them came. Resumed uploads go on where the file
ends, also after the host was killed. Everything goes when the Keep ends, and so does every upload: its reservation is given
back then, and a file that is still open would be on the disk without one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator

from enarx.errors import KeepError, PlatformError, TransportError, UsageError

__all__ = ["PROGRESS_TIMEOUT_S", "Blob", "BlobFolder"]

PROGRESS_TIMEOUT_S = 300.0
"""How long a Keep is let wait for the next byte of a blob."""

_WRITE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_MAX_PIECES = 256
_ENDED = "cannot take the blob: found its Keep ended, want it ready"


class Blob:
    """One blob.

    Args:
        path: of its file.
        length: announced, in bytes.
    """

    def __init__(self, path: str, length: int) -> None:
        self.path = path
        self.length = length
        try:
            self.offset = min(os.stat(path).st_size, length)
        except FileNotFoundError:
            self.offset = 0
        self._being_written = False
        self._has_failed = False
        self._is_closed = False
        self._appending: asyncio.Timeout | None = None
        self._more = asyncio.Event()

    def take(self) -> bool:
        """Be the one who uploads; False where somebody else does."""
        taken = not self._being_written
        if taken:
            self._has_failed = False
        self._being_written = True
        return taken

    def release(self) -> None:
        """Let somebody else go on with the upload."""
        self._being_written = False

    def fail(self) -> None:
        """Tell the Keep, where it waits, that nothing more comes: where this was to be fetched from has not got it."""
        self._has_failed = True
        self._wake()

    def close(self) -> None:
        """End an upload that is under way, and refuse others: the Keep has ended."""
        self._is_closed = True
        if self._appending is not None:
            self._appending.reschedule(asyncio.get_running_loop().time())

    async def append(self, chunks: AsyncIterator[bytes]) -> None:
        """Append what comes, until it ends; what came before an error stays.

        Raises:
            UsageError: more came than was announced.
            PlatformError: it cannot be stored.
            KeepError: the Keep ended.
        """
        if self._is_closed:
            raise KeepError(_ENDED)
        try:
            # Without a time until `close` sets one: it is how a wait for the next chunk is ended from outside.
            async with asyncio.timeout(None) as self._appending:
                await self._append(chunks)
        except TimeoutError as error:
            if not self._is_closed:
                raise
            raise KeepError(_ENDED) from error
        finally:
            self._appending = None

    async def _append(self, chunks: AsyncIterator[bytes]) -> None:
        pending: list[bytes] = []
        waiting = 0
        fd = self._open()
        try:
            async for chunk in chunks:
                if self.offset + waiting + len(chunk) > self.length:
                    raise UsageError(f"cannot take the blob: found more than the {self.length} bytes announced")
                pending.append(chunk)
                waiting += len(chunk)
                if waiting >= _WRITE_BYTES or self.offset + waiting == self.length or len(pending) == _MAX_PIECES:
                    whole, pending, waiting = pending, [], 0
                    await self._write(fd, whole)
        finally:
            try:
                if pending and not self._is_closed:
                    await self._write(fd, pending)
            finally:
                os.close(fd)

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.lseek(fd, self.offset, os.SEEK_SET)
        except OSError as error:
            raise PlatformError(f"cannot store the blob: {error.strerror}") from error
        return fd

    async def _write(self, fd: int, pieces: list[bytes]) -> None:
        # A write waits for the disk when too much is waiting already, and the other Keeps must not wait with it.
        writing = asyncio.ensure_future(asyncio.to_thread(_write_all, fd, pieces))
        try:
            await asyncio.shield(writing)
        except OSError as error:
            raise PlatformError(f"cannot store the blob: {error.strerror}") from error
        finally:
            # A thread cannot be called back, and its descriptor must not be another file's by then.
            if not writing.done():
                await asyncio.wait({writing})
            if writing.exception() is None:
                self.offset += sum(map(len, pieces))
                self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Give the blob from its beginning, each byte as soon as it is there.

        Raises:
            TransportError: no byte came for `PROGRESS_TIMEOUT_S`, or none will come.
            OSError: the file cannot be read.
        """
        sent = 0
        fd = -1
        try:
            while sent < self.length:
                while sent == self.offset:
                    if self._has_failed:
                        raise TransportError("cannot give the Keep its blob: found it nowhere, or not whole")
                    more = self._more
                    try:
                        async with asyncio.timeout(PROGRESS_TIMEOUT_S):
                            await more.wait()
                    except TimeoutError as error:
                        raise TransportError("cannot give the Keep its blob: found no more of it") from error
                if fd < 0:
                    fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                # It was written a moment ago, so it is in memory as a rule.
                data = os.pread(fd, min(_READ_BYTES, self.offset - sent), sent)
                if not data:
                    raise TransportError("cannot give the Keep its blob: found its file shorter than it was")
                sent += len(data)
                yield data
        finally:
            if fd >= 0:
                os.close(fd)


def _write_all(fd: int, pieces: list[bytes]) -> None:
    left = [memoryview(piece) for piece in pieces]
    while left:
        written = os.writev(fd, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


class BlobFolder:
    """The blobs of one Keep.

    Args:
        path: the folder.
        known: length by digest, of those announced before.
    """

    def __init__(self, path: str, known: dict[str, int]) -> None:
        self._path = path
        self._blobs = {digest: Blob(os.path.join(path, digest), length) for digest, length in known.items()}
        self._announced = asyncio.Event()

    def close(self) -> None:
        """End every upload: the Keep has ended, and what it had reserved is somebody else's from now on."""
        for blob in self._blobs.values():
            blob.close()

    def find(self, digest: str) -> Blob | None:
        """Return a blob that was announced, or None."""
        return self._blobs.get(digest)

    def announce(self, digest: str, length: int) -> Blob:
        """Make room for a blob that is going to be uploaded."""
        blob = self._blobs[digest] = Blob(os.path.join(self._path, digest), length)
        self._announced.set()
        self._announced = asyncio.Event()
        return blob

    def __len__(self) -> int:
        return len(self._blobs)

    @property
    def reserved_bytes(self) -> int:
        """Return what all of them take, or will."""
        return sum(blob.length for blob in self._blobs.values())

    async def wait_for(self, digest: str) -> Blob:
        """Return a blob once it is announced.

        Raises:
            TransportError: it was not, for `PROGRESS_TIMEOUT_S`.
        """
        try:
            async with asyncio.timeout(PROGRESS_TIMEOUT_S):
                while (blob := self._blobs.get(digest)) is None:
                    await self._announced.wait()
        except TimeoutError as error:
            raise TransportError("cannot give the Keep its blob: found none of that name") from error
        return blob
