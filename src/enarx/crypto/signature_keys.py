# SPDX-License-Identifier: Apache-2.0
"""Keys that sign documents: Ed25519, and ECDSA on P-256 with SHA-256. What `openssl genpkey` writes is taken as it is.

A key is known by the SHA-256 of its SubjectPublicKeyInfo in DER. One that is not strictly one of the two kinds is refused, so
that nobody has to ask which hash or padding belongs to a signature.

Source: RFC 8032, FIPS 186-5 section 6, RFC 5208, RFC 5280 section 4.1.2.7.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from enarx.crypto.x509 import load_private_key
from enarx.errors import ConfigError, DecodeError, VerificationError

__all__ = [
    "MAX_PUBLIC_KEY_BYTES",
    "SigningKey",
    "key_id_of",
    "load_public_key",
    "load_signing_key",
    "public_key_of",
    "sign",
    "verify_signature",
]

MAX_PUBLIC_KEY_BYTES = 4096

SigningKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


def load_signing_key(pem: bytes, *, path: str) -> SigningKey:
    """Decode a private key that signs.

    Args:
        pem: PKCS #8 or the traditional EC block, without a passphrase.
        path: the file as the user named it, for messages.

    Raises:
        ConfigError: it is not well formed, has a passphrase, or is neither Ed25519 nor P-256. Nothing else, for any input.
    """
    key = load_private_key(pem, path=path)
    if isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    raise ConfigError(
        f"loading the signing key failed: {path}: found {_kind_of(key)}, want Ed25519 or P-256",
        path=path,
        hint="openssl genpkey -algorithm ed25519 -out KEY",
    )


def load_public_key(pem: bytes) -> bytes:
    """Decode a public key from PEM.

    Args:
        pem: one PUBLIC KEY block, at most `MAX_PUBLIC_KEY_BYTES`.

    Returns:
        its SubjectPublicKeyInfo in DER, encoded again.

    Raises:
        DecodeError: anything else. Nothing else, for any input.
    """
    if len(pem) > MAX_PUBLIC_KEY_BYTES:
        raise DecodeError(
            f"cannot decode a public key: size: found {len(pem)} bytes, want at most {MAX_PUBLIC_KEY_BYTES}"
        )
    if b"PRIVATE KEY-----" in pem:
        raise DecodeError(
            "cannot decode a public key: found a private key, want a public one",
            hint="openssl pkey -in KEY -pubout -out PUB",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DecodeError("cannot decode a public key: found no PUBLIC KEY block, want one in PEM") from error
    return _encode(_required(key))


def public_key_of(key: SigningKey) -> bytes:
    """Return the public key of a private one: SubjectPublicKeyInfo in DER."""
    return _encode(key.public_key())


def key_id_of(public_key: bytes) -> str:
    """Return what a key is called: `sha256:` and the digest of its SubjectPublicKeyInfo in lower-case hex."""
    return "sha256:" + hashlib.sha256(public_key).hexdigest()


def sign(key: SigningKey, message: bytes) -> bytes:
    """Sign a message: 64 bytes by Ed25519, a DER sequence by ECDSA with SHA-256."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return only if the key's holder signed the message.

    Args:
        public_key: as `load_public_key` returns it.
        signature: foreign bytes.
        message: what should have been signed.

    Raises:
        VerificationError: he did not.
        DecodeError: the key is none.
    """
    try:
        key = _required(load_der_public_key(public_key))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DecodeError("cannot decode a public key: found other bytes, want SubjectPublicKeyInfo in DER") from error
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise VerificationError(
            f"the signature is not the key's: {key_id_of(public_key)}: found other bytes, want a signature of this message"
        ) from error


def _required(key: object) -> _PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise DecodeError(f"cannot decode a public key: found {_kind_of(key)}, want Ed25519 or P-256")


def _encode(key: _PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _kind_of(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"a key on {key.curve.name}"
    return type(key).__name__
