# SPDX-License-Identifier: Apache-2.0
"""Sealing to a key that opens once or is kept: HPKE with MLKEM768-X25519, HKDF-SHA256 and AES-256-GCM, base mode, empty aad.

`cryptography` does the work. It has no serialisation of this public key yet, so the one of the draft is made here: the ML-KEM key,
then the X25519 key; a private key that is kept is the seed of the ML-KEM key, then the X25519 key. Base mode says nothing about who sealed; the session in which the bytes come does.

Source: RFC 9180; draft-ietf-hpke-pq, MLKEM768-X25519.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from enarx.errors import DecodeError, VerificationError

__all__ = ["OVERHEAD_BYTES", "PRIVATE_KEY_BYTES", "PUBLIC_KEY_BYTES", "KeptKey", "OneTimeKey", "seal"]

PUBLIC_KEY_BYTES = 1216
PRIVATE_KEY_BYTES = 96
OVERHEAD_BYTES = 1136
"""By how much what is sealed is longer: 1120 bytes of encapsulated key and 16 of tag."""

_MLKEM_BYTES = 1184
_SEED_BYTES = 64
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class OneTimeKey:
    """A fresh private key that opens once, whether that succeeds or not, and is forgotten."""

    def __init__(self) -> None:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._key: MLKEM768X25519PrivateKey | None = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public_bytes = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        """1216 bytes for whoever seals."""

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open what was sealed to this key.

        Args:
            sealed: as `seal` returned it.
            info: the same that it was sealed with.

        Raises:
            VerificationError: it was sealed to another key or with another info, or was changed; or this key was used before.
        """
        key, self._key = self._key, None
        if key is None:
            raise VerificationError("sealed bytes: found a key that was used before, want a fresh one")
        return _open(sealed, key, info)


class KeptKey:
    """A private key that its owner keeps, and that opens whatever was sealed to it.

    Args:
        private_bytes: 96 bytes, as `private_bytes` returns them; None makes a new key.

    Raises:
        DecodeError: they are another number of bytes.
    """

    def __init__(self, private_bytes: bytes | None = None) -> None:
        if private_bytes is None:
            mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        elif len(private_bytes) != PRIVATE_KEY_BYTES:
            raise DecodeError(f"HPKE private key: found {len(private_bytes)} bytes, want {PRIVATE_KEY_BYTES}")
        else:
            mlkem = MLKEM768PrivateKey.from_seed_bytes(private_bytes[:_SEED_BYTES])
            x25519 = X25519PrivateKey.from_private_bytes(private_bytes[_SEED_BYTES:])
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self._private_bytes = mlkem.private_bytes_raw() + x25519.private_bytes_raw()
        self.public_bytes = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        """1216 bytes for whoever seals."""

    def private_bytes(self) -> bytes:
        """Return the 96 bytes that are the key: a secret."""
        return self._private_bytes

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open what was sealed to this key.

        Args:
            sealed: as `seal` returned it.
            info: the same that it was sealed with.

        Raises:
            VerificationError: it was sealed to another key or with another info, or was changed.
        """
        return _open(sealed, self._key, info)


def seal(public_bytes: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal to a public key.

    Args:
        public_bytes: 1216 bytes, of whoever shall open.
        plaintext: any number of bytes.
        info: what it is bound to; who opens must have the same.

    Returns:
        1136 bytes more than the plaintext has.

    Raises:
        DecodeError: the public key is none.
    """
    if len(public_bytes) != PUBLIC_KEY_BYTES:
        raise DecodeError(f"HPKE public key: found {len(public_bytes)} bytes, want {PUBLIC_KEY_BYTES}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public_bytes[:_MLKEM_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public_bytes[_MLKEM_BYTES:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError as error:
        raise DecodeError("HPKE public key: found a value that is none, want an MLKEM768-X25519 key") from error


def _open(sealed: bytes, key: MLKEM768X25519PrivateKey, info: bytes) -> bytes:
    try:
        return _SUITE.decrypt(sealed, key, info=info)
    except (InvalidTag, ValueError) as error:
        raise VerificationError("sealed bytes: found others than were sealed to this key, want those") from error
