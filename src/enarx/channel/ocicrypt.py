# SPDX-License-Identifier: Apache-2.0
"""Encryption of a layer where it is stored, as ocicrypt does it: AES-256 in counter mode, then HMAC-SHA256 over the ciphertext.

Counter mode alone hides and proves nothing: whoever changes a bit of ciphertext changes that bit of plaintext. So nothing is decrypted
before all of the ciphertext was seen and both its digest and its HMAC were right; and what was decrypted is given out only if it has the
plaintext's digest. Ciphertext therefore goes into a file first, which becomes the plaintext in its place.

The key of the HMAC is that of the cipher, and the nonce is not covered by it: both are ocicrypt's choice. The nonce is believed only from
beside the key, where nobody changes it, and the plaintext's digest covers both. A key encrypts one layer and never another.

Source: ocicrypt 1.1, `blockcipher` (AES_256_CTR_HMAC_SHA256); NIST SP 800-38A section 6.5; RFC 2104.
"""

from __future__ import annotations

import hmac
import os
import secrets
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from enarx.errors import PlatformError, UsageError, VerificationError

__all__ = ["HMAC_BYTES", "KEY_BYTES", "NONCE_BYTES", "Expected", "LayerOpener", "LayerSealer", "LayerSecret"]

KEY_BYTES = 32
NONCE_BYTES = 16
"""The whole first counter block, as ocicrypt has it."""
HMAC_BYTES = 32

_PIECE_BYTES = 1 << 20


class LayerSecret(NamedTuple):
    """What a layer is encrypted with.

    Args:
        key: 32 bytes, of this layer alone.
        nonce: 16 bytes.
    """

    key: bytes
    nonce: bytes

    @classmethod
    def make(cls) -> LayerSecret:
        """Return a new one."""
        return cls(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(NONCE_BYTES))

    def __repr__(self) -> str:
        """Say nothing: what is printed or logged must not have a key in it."""
        return "LayerSecret(...)"


class Expected(NamedTuple):
    """What a layer has to be.

    Args:
        ciphertext: SHA-256.
        plaintext: SHA-256.
        hmac: HMAC-SHA256 of the ciphertext.
        length: bytes, of either.
    """

    ciphertext: bytes
    plaintext: bytes
    hmac: bytes
    length: int


class LayerSealer:
    """Encrypts one layer as it comes.

    Args:
        secret: used for this layer alone; the same one for two would tell how they differ.

    Raises:
        UsageError: key or nonce have another length.
    """

    def __init__(self, secret: LayerSecret) -> None:
        self._stream = _cipher(secret).encryptor()
        self._hmac = hmac.new(secret.key, digestmod=sha256)
        self._ciphertext, self._plaintext = sha256(), sha256()
        self._length = 0

    def update(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the ciphertext of more of the plaintext, which is as long."""
        self._plaintext.update(data)
        sealed = self._stream.update(data)
        self._hmac.update(sealed)
        self._ciphertext.update(sealed)
        self._length += len(sealed)
        return sealed

    def finish(self) -> Expected:
        """Return what whoever opens the layer has to find; nothing may follow."""
        self._stream.finalize()
        return Expected(self._ciphertext.digest(), self._plaintext.digest(), self._hmac.digest(), self._length)


class LayerOpener:
    """Decrypts one layer, in a file that has its ciphertext first and its plaintext once all of it was found right.

    Args:
        fd: of an empty file that nobody else writes, open for reading and writing; the caller closes it.
        secret: of the layer.
        expected: what the layer has to be.
        what: names it in messages: `layer application/wasm`.

    Raises:
        UsageError: key or nonce have another length.
    """

    def __init__(self, fd: int, secret: LayerSecret, expected: Expected, *, what: str) -> None:
        self._fd, self._expected, self._what = fd, expected, what
        self._stream = _cipher(secret).decryptor()
        self._hmac = hmac.new(secret.key, digestmod=sha256)
        self._ciphertext = sha256()
        self._length = 0

    def take(self, data: bytes | bytearray | memoryview) -> None:
        """Take more of the ciphertext.

        Raises:
            VerificationError: it is more than expected.
            PlatformError: the file cannot be written.
        """
        if self._length + len(data) > self._expected.length:
            raise self._wrong(f"more than {self._expected.length} bytes of ciphertext", "none after them")
        self._hmac.update(data)
        self._ciphertext.update(data)
        self._write(data, self._length)
        self._length += len(data)

    def finish(self) -> None:
        """Make the file the plaintext, if all of the ciphertext came and is what it has to be.

        Raises:
            VerificationError: it is not, or was encrypted of something else; the file has no plaintext then.
            PlatformError: the file cannot be written.
        """
        if self._length != self._expected.length:
            raise self._wrong(f"{self._length} bytes of ciphertext", f"{self._expected.length}")
        if self._ciphertext.digest() != self._expected.ciphertext:
            raise self._wrong("ciphertext of another digest", "the one it is known by")
        if not hmac.compare_digest(self._hmac.digest(), self._expected.hmac):
            raise self._wrong("ciphertext with another HMAC", "that of the key")
        try:
            self._decrypt(self._stream)
        except BaseException:
            os.ftruncate(self._fd, 0)
            raise

    def _decrypt(self, stream: CipherContext) -> None:
        plaintext = sha256()
        at = 0
        while at < self._length:
            sealed = os.pread(self._fd, min(_PIECE_BYTES, self._length - at), at)
            if not sealed:
                raise self._wrong("its file cut short", "nobody else to write it")
            piece = stream.update(sealed)
            plaintext.update(piece)
            self._write(piece, at)
            at += len(piece)
        if plaintext.digest() != self._expected.plaintext:
            raise self._wrong("plaintext of another digest", "the one that was encrypted")

    def _write(self, data: bytes | bytearray | memoryview, at: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise PlatformError(f"cannot keep the {self._what}: {error.strerror}") from error

    def _wrong(self, found: str, want: str) -> VerificationError:
        return VerificationError(f"cannot decrypt the {self._what}: found {found}, want {want}")


def _cipher(secret: LayerSecret) -> Cipher[CTR]:
    for name, value, want in (("key", secret.key, KEY_BYTES), ("nonce", secret.nonce, NONCE_BYTES)):
        if len(value) != want:
            raise UsageError(f"encrypted layer: {name}: found {len(value)} bytes, want {want}")
    return Cipher(AES(secret.key), CTR(secret.nonce))
