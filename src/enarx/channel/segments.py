# SPDX-License-Identifier: Apache-2.0
"""Encryption of what travels outside of the session: AES-256-GCM in segments of 64 KiB, so that neither end needs all of it.

Each segment has its place and whether it is the last in its nonce, so segments that are changed, swapped, repeated, left out or
added are refused, each before a byte of it is given out. A key is used for one plaintext and never again: nonces repeat from
one to the next.

Every segment is full but the last, which has at least a byte, except where there is no plaintext at all: then it is the only one,
and empty. So a plaintext has one length of ciphertext, and one way to be cut.

Source: docs/protocol.md, "Package and provision"; the construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizar: Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, 2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enarx.errors import UsageError, VerificationError

__all__ = ["KEY_BYTES", "SEGMENT_BYTES", "TAG_BYTES", "Opener", "ciphertext_length", "seal"]

KEY_BYTES = 32
SEGMENT_BYTES = 65536
TAG_BYTES = 16

_SEALED_BYTES = SEGMENT_BYTES + TAG_BYTES
_MAX_SEGMENTS = 1 << 32


def ciphertext_length(plaintext_length: int) -> int:
    """Return how many bytes of ciphertext so many bytes of plaintext have."""
    return plaintext_length + TAG_BYTES * _count(plaintext_length)


def seal(key: bytes, chunks: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Encrypt a plaintext.

    Args:
        key: 32 bytes, random, for this plaintext alone.
        chunks: the plaintext in pieces of any size.

    Yields:
        The ciphertext, one segment at a time.

    Raises:
        UsageError: the key has another length, or there are 2^32 segments or more.
    """
    cipher = _cipher(key)
    # Which segment is the last is known once there is nothing after it, so one is always held back.
    held = bytearray()
    index = 0
    for chunk in chunks:
        view = memoryview(chunk)
        if held:
            wanted = SEGMENT_BYTES - len(held)
            held += view[:wanted]
            view = view[wanted:]
            if not view:
                continue
            yield cipher.encrypt(_nonce(index, is_last=False), bytes(held), None)
            index += 1
            held.clear()
        while len(view) > SEGMENT_BYTES:
            yield cipher.encrypt(_nonce(index, is_last=False), view[:SEGMENT_BYTES], None)
            index += 1
            view = view[SEGMENT_BYTES:]
        held += view
    yield cipher.encrypt(_nonce(index, is_last=True), bytes(held), None)


class Opener:
    """Decrypts one ciphertext as it comes. What it returns is authentic, and not yet complete before `finish`.

    Args:
        key: 32 bytes.
        plaintext_length: which the release says; nothing longer is ever returned.

    Raises:
        UsageError: the key has another length.
    """

    def __init__(self, key: bytes, plaintext_length: int) -> None:
        self._cipher = _cipher(key)
        self._last = _count(plaintext_length) - 1
        self._last_bytes = plaintext_length - self._last * SEGMENT_BYTES + TAG_BYTES
        self._index = 0
        self._held = bytearray()
        self._is_refused = False

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take more of the ciphertext.

        Returns:
            What of the plaintext became whole.

        Raises:
            VerificationError: a segment is not the one that was sealed with this key at this place, or something follows the
                last. Only giving up may follow.
        """
        self._require_not_refused()
        view = memoryview(data)
        parts = []
        while view:
            wanted = self._wanted()
            if not self._held and len(view) >= wanted:
                parts.append(self._open(view[:wanted]))
                view = view[wanted:]
                continue
            missing = wanted - len(self._held)
            self._held += view[:missing]
            view = view[missing:]
            if len(self._held) == wanted:
                parts.append(self._open(bytes(self._held)))
                self._held.clear()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        """Return only if all of the ciphertext came.

        Raises:
            VerificationError: some of it is missing.
        """
        self._require_not_refused()
        if self._index <= self._last:
            raise VerificationError(f"ciphertext: found {self._index} whole segments, want {self._last + 1}")

    def _require_not_refused(self) -> None:
        if self._is_refused:
            raise VerificationError("ciphertext: found a refused segment before, want none")

    def _wanted(self) -> int:
        if self._index > self._last:
            raise VerificationError("ciphertext: found bytes after the last segment, want none")
        return self._last_bytes if self._index == self._last else _SEALED_BYTES

    def _open(self, segment: bytes | memoryview) -> bytes:
        nonce = _nonce(self._index, is_last=self._index == self._last)
        try:
            plaintext = self._cipher.decrypt(nonce, segment, None)
        except InvalidTag as error:
            self._is_refused = True
            raise VerificationError(
                f"ciphertext: segment {self._index}: found another than was sealed, want that one"
            ) from error
        self._index += 1
        return plaintext


def _count(plaintext_length: int) -> int:
    return max(1, -(-plaintext_length // SEGMENT_BYTES))


def _nonce(index: int, *, is_last: bool) -> bytes:
    if index >= _MAX_SEGMENTS:
        raise UsageError(f"ciphertext: found more than {_MAX_SEGMENTS} segments, want fewer")
    return bytes(7) + index.to_bytes(4, "big") + (b"\x01" if is_last else b"\x00")


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise UsageError(f"ciphertext: key: found {len(key)} bytes, want {KEY_BYTES}")
    return AESGCM(key)
