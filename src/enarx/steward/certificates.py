# SPDX-License-Identifier: Apache-2.0
"""What stands in certificates that a Steward issues: for Keeps, for keys of the original's protocol, and for its own port.

Rules of this file:

- Nothing of a request is copied but its key, and that only where the request is signed with it.
- No certificate outlives what it rests on: the endorsements of its evidence, or the authority.
- Signing is the authority's. Time is an argument.

Source: RFC 5280; RFC 5480 section 3; RFC 9525 (names); SPIFFE X.509-SVID; RFC 9999 section 4.4 (the extension).
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha384

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx.crypto.certificates import extension_of
from enarx.errors import DecodeError, EndorsementError, VerificationError
from enarx.steward.entries import as_ms
from enarx.wire.cmw import CMW_EXTENSION_OID
from enarx.wire.keep_certificate import EMULATED, KeepCertificate, encode_keep_extension
from enarx.wire.steward import MAX_CSR_BYTES

__all__ = [
    "BACKDATED",
    "EMULATED",
    "ORIGINAL_LIFETIME",
    "KeepKey",
    "Wanted",
    "authority_key",
    "encode_key",
    "keep_builder",
    "key_identifier",
    "key_usage",
    "original_builder",
    "require_key",
    "require_request",
    "serial_number",
    "server_builder",
    "spiffe_id",
    "spki_of",
]

BACKDATED = timedelta(minutes=5)
"""For clocks that are behind."""

MIN_LEFT = timedelta(minutes=1)
"""A certificate that lasts less is none."""

SERVER_LIFETIME = timedelta(days=30)
ORIGINAL_LIFETIME = timedelta(days=28)

KeepKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_CMW_OID = x509.ObjectIdentifier(CMW_EXTENSION_OID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A Keep's certificate.

    Args:
        key: of the Keep.
        spki: its SubjectPublicKeyInfo in DER.
        package: SHA-256 of the manifest.
        identity: the record in CBOR.
        result: an EAR as CWT.
        dns: names that were granted.
        spiffe: the identifier.
        lifetime: at most.
        valid_until: when what it rests on ends, or None.
        is_emulated: whether nothing protects the Keep.
        crl_url: where the revocation list is, or None.
    """

    key: KeepKey
    spki: bytes
    package: bytes
    identity: bytes
    result: bytes
    dns: tuple[str, ...]
    spiffe: str
    lifetime: timedelta
    valid_until: datetime | None = None
    is_emulated: bool = False
    crl_url: str | None = None


def require_request(der: bytes) -> KeepKey:
    """Return the key of a certificate request, which whoever made the request has.

    Args:
        der: PKCS#10.

    Raises:
        DecodeError: it is none, or too large.
        VerificationError: it is signed with another key, or the key is of a kind that is not certified.
    """
    if len(der) > MAX_CSR_BYTES:
        raise DecodeError(
            f"cannot decode the certificate request: found {len(der)} bytes, want at most {MAX_CSR_BYTES}"
        )
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split())[:200]
        raise DecodeError(f"cannot decode the certificate request: found {reason}, want PKCS#10 in DER") from error
    found = require_key(key)
    if not is_signed:
        raise VerificationError(
            "the certificate request is not authentic: signature: found one of another key, want one of the key in it"
        )
    return found


def require_key(key: object) -> KeepKey:
    """Return a key of a kind that is certified: on P-256 or P-384, or Ed25519.

    Raises:
        VerificationError: it is another.
    """
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    ):
        return key
    found = f"one on {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else "another kind"
    raise VerificationError(f"the key cannot be certified: found {found}, want one on P-256 or P-384, or Ed25519")


def spki_of(key: KeepKey) -> bytes:
    """Return the 48 bytes that stand for a key: SHA-384 of its SubjectPublicKeyInfo."""
    return sha384(encode_key(key)).digest()


def encode_key(key: KeepKey) -> bytes:
    """Return a key's SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_identifier(spki: bytes) -> bytes:
    """Return by what a certificate's key is known in it: the first 20 bytes of what stands for it in the log.

    Args:
        spki: its SubjectPublicKeyInfo in DER.

    Source: RFC 5280 section 4.2.1.2; RFC 7093 section 2, method 4.
    """
    return sha384(spki).digest()[:20]


def spiffe_id(trust_domain: str, package: bytes) -> str:
    """Return the SPIFFE identifier of Keeps with a package."""
    return f"spiffe://{trust_domain}/keep/{package.hex()}"


def keep_builder(wanted: Wanted, issuer: x509.Certificate, *, at: datetime) -> x509.CertificateBuilder:
    """Return a Keep's certificate, unsigned.

    Args:
        wanted: what is in it.
        issuer: who will sign it.
        at: aware.

    Raises:
        EndorsementError: what it rests on, or the authority, ends within a minute.
        UsageError: what it says of the Keep is too large for a certificate.
    """
    ends = [at + wanted.lifetime, *([] if wanted.valid_until is None else [wanted.valid_until])]
    extension = encode_keep_extension(KeepCertificate(wanted.identity, wanted.result))
    subject = _subject(f"keep {wanted.package.hex()[:16]}", is_emulated=wanted.is_emulated)
    builder = _builder(subject, wanted.key, wanted.spki, issuer, at=at, until=min(ends), both_ends=True)
    builder = builder.add_extension(_alternative_names(wanted.dns, wanted.spiffe), critical=False)
    if wanted.crl_url is not None:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(wanted.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder.add_extension(x509.UnrecognizedExtension(_CMW_OID, extension), critical=False)


def original_builder(
    key: KeepKey, issuer: x509.Certificate, *, at: datetime, valid_until: datetime | None, is_emulated: bool
) -> x509.CertificateBuilder:
    """Return a certificate of the original's protocol, unsigned: it proves a key, so it has no name that anybody looks for.

    Args:
        key: that was attested.
        issuer: the authority of that protocol alone.
        at: aware.
        valid_until: when the endorsements end, or None.
        is_emulated: whether nothing protects the key.

    Raises:
        EndorsementError: as for `keep_builder`.
    """
    subject = _subject("a key in a TEE, of no known workload", is_emulated=is_emulated)
    ends = [at + ORIGINAL_LIFETIME, *([] if valid_until is None else [valid_until])]
    return _builder(subject, key, encode_key(key), issuer, at=at, until=min(ends), both_ends=True)


def server_builder(name: str, key: KeepKey, issuer: x509.Certificate, *, at: datetime) -> x509.CertificateBuilder:
    """Return the certificate of the Steward's own port, unsigned.

    Args:
        name: DNS name or IP address.
        key: of the port.
        issuer: the authority.
        at: aware.

    Raises:
        EndorsementError: the authority ends within a minute.
    """
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enarx Steward")])
    builder = _builder(subject, key, encode_key(key), issuer, at=at, until=at + SERVER_LIFETIME, both_ends=False)
    return builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)


def serial_number(at: datetime) -> int:
    """Return a serial number: a one, 46 bits of milliseconds since 1970, and 80 random bits. It is positive, and always 16 bytes.

    Later ones are larger, so that a database's index of them grows at its end and is not written all over.

    Args:
        at: aware, until 4199.
    """
    return 1 << 126 | (as_ms(at) & (1 << 46) - 1) << 80 | secrets.randbits(80)


def key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """Return what a key is for: an authority's signs certificates and lists, any other's signs."""
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    key: KeepKey,
    spki: bytes,
    issuer: x509.Certificate,
    *,
    at: datetime,
    until: datetime,
    both_ends: bool,
) -> x509.CertificateBuilder:
    until = min(until, issuer.not_valid_after_utc).replace(microsecond=0)
    if until - at < MIN_LEFT:
        raise EndorsementError(
            f"cannot certify: found what the certificate rests on to end at {until:%Y-%m-%dT%H:%M:%SZ}, want at least a minute"
            " from now",
            hint="the vendor's lists and certificates have to be fetched again, or the authority has ended",
        )
    return (
        _begun(issuer, both_ends=both_ends)
        .subject_name(subject)
        .public_key(key)
        .serial_number(serial_number(at))
        .not_valid_before((at - BACKDATED).replace(microsecond=0))
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(spki)), critical=False)
    )


# An authority has one certificate for years, and to encode what follows from that takes as long as a signature.
@lru_cache(maxsize=8)
def _begun(issuer: x509.Certificate, *, both_ends: bool) -> x509.CertificateBuilder:
    """Return what all certificates of an issuer have in common."""
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if both_ends else [])]
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer.subject)
        .add_extension(_encoded(key_usage(is_authority=False)), critical=True)
        .add_extension(_encoded(x509.BasicConstraints(ca=False, path_length=None)), critical=True)
        .add_extension(_encoded(x509.ExtendedKeyUsage(purposes)), critical=False)
        .add_extension(_encoded(authority_key(issuer)), critical=False)
    )


# Keeps of few packages ask again and again.
@lru_cache(maxsize=256)
def _subject(common_name: str, *, is_emulated: bool) -> x509.Name:
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, EMULATED)] if is_emulated else []
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@lru_cache(maxsize=256)
def _alternative_names(dns: tuple[str, ...], spiffe: str) -> x509.UnrecognizedExtension:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    return _encoded(x509.SubjectAlternativeName([*names, x509.UniformResourceIdentifier(spiffe)]))


def _encoded(extension: x509.ExtensionType) -> x509.UnrecognizedExtension:
    """Return an extension that need not be encoded for each certificate."""
    return x509.UnrecognizedExtension(extension.oid, extension.public_bytes())


def authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return how certificates and lists name the key that signed them."""
    identifier = extension_of(issuer, x509.SubjectKeyIdentifier)
    if identifier is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(require_key(issuer.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
