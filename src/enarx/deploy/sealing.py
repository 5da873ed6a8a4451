# SPDX-License-Identifier: Apache-2.0
"""Encrypt what travels outside of the session: each blob with a key of its own, made here and used once.

The ciphertext stays in memory in its segments, so that an upload can go on anywhere without encrypting again. What is encrypted in a
registry already need not be: the host can fetch it from there, and the Keep is told how to open it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from enarx.channel.segments import SEGMENT_BYTES, TAG_BYTES, seal
from enarx.wire.release import Blob

__all__ = ["SealedBlob", "StoredBlob", "seal_blobs"]

_SEALED_BYTES = SEGMENT_BYTES + TAG_BYTES
_CHUNK_SEGMENTS = 16
"""How many segments are handed over at a time: a megabyte costs less in pieces of that size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBlob:
    """A blob, encrypted.

    Args:
        blob: what the release says of it, its key among that.
        segments: the ciphertext; every one but the last is as long as the first.
    """

    blob: Blob = field(repr=False)
    segments: tuple[bytes, ...] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Return the SHA-256 of the ciphertext, its name at the host."""
        return self.blob.ciphertext

    @property
    def length(self) -> int:
        """Return how long the ciphertext is."""
        return self.blob.ciphertext_length

    def chunks_from(self, offset: int) -> Iterator[bytes]:
        """Yield the ciphertext from an offset on."""
        first, within = divmod(offset, _SEALED_BYTES)
        for at in range(first, len(self.segments), _CHUNK_SEGMENTS):
            chunk = b"".join(self.segments[at : at + _CHUNK_SEGMENTS])
            yield chunk[within:] if at == first else chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob that a registry has, encrypted; the tenant sends nothing of it.

    Args:
        blob: what the release says of it, its key among that.
        registry: `HOST[:PORT]`.
        repository: in it.
    """

    blob: Blob = field(repr=False)
    registry: str
    repository: str


def seal_blobs(plaintexts: Mapping[str, bytes], digests: Mapping[str, bytes] | None = None) -> dict[str, SealedBlob]:
    """Encrypt blobs, each with a fresh key.

    Args:
        plaintexts: by the names of blobs.
        digests: the SHA-256 of those that were hashed already.
    """
    known = digests or {}
    return {
        name: _seal(plaintext, known.get(name) or sha256(plaintext).digest()) for name, plaintext in plaintexts.items()
    }


def _seal(plaintext: bytes, plaintext_digest: bytes) -> SealedBlob:
    key = secrets.token_bytes(32)
    digest = sha256()
    segments = []
    for segment in seal(key, (plaintext,)):
        digest.update(segment)
        segments.append(segment)
    blob = Blob(
        key=key,
        ciphertext=digest.digest(),
        ciphertext_length=sum(map(len, segments)),
        plaintext=plaintext_digest,
        plaintext_length=len(plaintext),
    )
    return SealedBlob(blob=blob, segments=tuple(segments))
