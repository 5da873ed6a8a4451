# SPDX-License-Identifier: Apache-2.0
"""Certificates and private keys: make a self-signed pair, load PEM, tell whether the two belong together.

Nothing here judges a certificate: `load_certificates` believes neither names, dates nor signatures. It knows nothing of
sockets, files and clocks, so a path is only a name for messages and a time is an argument.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx.errors import ConfigError

__all__ = [
    "MAX_PEM_BYTES",
    "Credential",
    "PrivateKey",
    "load_certificates",
    "load_private_key",
    "make_self_signed",
    "require_match",
]

# Mozilla's whole root store is a quarter of this.
MAX_PEM_BYTES = 1 << 20

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What an end of a TLS connection shows and what it signs with.

    Args:
        chain: certificates, the end entity's first, then each one's issuer; at least one.
        private_key: the key of `chain[0]`.
    """

    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)


def make_self_signed(
    *,
    at: datetime,
    lifetime: timedelta = timedelta(days=365),
    key: ec.EllipticCurvePrivateKey | None = None,
    extension: x509.ExtensionType | None = None,
) -> Credential:
    """Make a P-256 key and a certificate for `localhost` that it signs itself.

    The subject, serial length, lifetime and extensions are those of the original's fallback, with two differences. The
    key usage is `digitalSignature` alone, because RFC 5480 section 3 forbids `keyEncipherment` on an elliptic-curve key.
    A subject alternative name is added, because no current client reads a name anywhere else.

    Args:
        at: aware time at which the certificate becomes valid.
        lifetime: how long it stays valid.
        key: to use instead of a new one.
        extension: to add, not critical.

    Spec: RFC 5280 section 4.2.1, RFC 5480 section 3.
    """
    key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        # The top bit is clear for a positive number and the next one set for a length of exactly 16 bytes.
        .serial_number(secrets.randbits(126) | 1 << 126)
        .not_valid_before(at)
        .not_valid_after(at + lifetime)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(both_ends, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return Credential(chain=(builder.sign(key, hashes.SHA256()),), private_key=key)


def load_certificates(pem: bytes, *, path: str) -> tuple[x509.Certificate, ...]:
    """Decode every certificate of a PEM file, believing none of them.

    Args:
        pem: at most `MAX_PEM_BYTES`; text between the blocks is skipped.
        path: the file as the user named it, for messages.

    Raises:
        ConfigError: too long, no certificate, or one that is not well formed. Nothing else, for any input.
    """
    _require_size(pem, path)
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(
            f"loading certificates failed: {path}: found no well-formed chain, want PEM CERTIFICATE blocks", path=path
        ) from error


def load_private_key(pem: bytes, *, path: str) -> PrivateKey:
    """Decode one unencrypted private key that TLS 1.3 can sign with.

    Args:
        pem: at most `MAX_PEM_BYTES`; PKCS #8, or the traditional RSA and EC blocks.
        path: the file as the user named it, for messages.

    Raises:
        ConfigError: too long, not well formed, encrypted, or of a kind TLS has no use for. Nothing else, for any input.
    """
    _require_size(pem, path)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(
            f"loading private key failed: {path}: found an encrypted key, want one without a passphrase",
            path=path,
            hint="openssl pkey -in KEY -out PLAIN",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"loading private key failed: {path}: found no well-formed key, want a PEM PRIVATE KEY block", path=path
        ) from error
    if not isinstance(key, PrivateKey):
        raise ConfigError(
            f"loading private key failed: {path}: found {type(key).__name__}, want an EC, RSA or EdDSA key", path=path
        )
    return key


def require_match(certificate: x509.Certificate, private_key: PrivateKey, *, path: str) -> None:
    """Return only if the certificate is for this private key.

    Args:
        certificate: the end entity's.
        private_key: the key it should name.
        path: the private key's file as the user named it, for messages.

    Raises:
        ConfigError: the public keys differ, or the certificate's cannot be decoded.
    """
    try:
        certified = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"certificate does not match: {path}: found a public key of an unknown kind, want EC, RSA or EdDSA",
            path=path,
        ) from error
    if certified != private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise ConfigError(
            f"certificate does not match: {path}: found the key of another certificate, want the first certificate's",
            path=path,
            hint="the end entity's certificate comes first in its file, then its issuers",
        )


def _require_size(pem: bytes, path: str) -> None:
    if len(pem) > MAX_PEM_BYTES:
        raise ConfigError(
            f"loading PEM failed: {path}: found {len(pem)} bytes, want at most {MAX_PEM_BYTES}", path=path
        )
