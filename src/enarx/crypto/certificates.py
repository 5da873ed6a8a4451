# SPDX-License-Identifier: Apache-2.0
"""Foreign certificates and revocation lists: load, compare with a time, check who issued what.

Rules of this file:

- Parsing, signatures and path building are `cryptography`'s. What is here says which of its answers is which error.
- AMD's VCEK certificates have the serial number 0. `cryptography` 50 loads them with a deprecation warning, which is
  silenced here and nowhere else, like that of names longer than X.520 allows; the release is pinned, and `docs/decisions/0014-verifier.md` says what follows when it ends.
- It knows no vendor and no clock.

Source: RFC 5280.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID

from enarx.errors import DecodeError, VerificationError

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CRL_BYTES",
    "X509_ERRORS",
    "Issuer",
    "build_path",
    "common_name_of",
    "describe",
    "extension_of",
    "fingerprint",
    "is_valid_at",
    "issued_directly",
    "load_certificate_untrusted",
    "load_crl_untrusted",
    "load_pem_chain_untrusted",
    "name_of",
    "not_after_of",
    "not_before_of",
    "unknown_critical_extensions",
]

X509_ERRORS = (
    ValueError,
    TypeError,
    x509.UnsupportedGeneralNameType,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises for certificates, requests and lists that are not well formed, when they are loaded or when a part is asked for."""

warnings.filterwarnings(
    "ignore", message="Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning
)
# A name longer than X.520 allows, or a country of other than two letters, is no reason to write to standard error; whoever
# judges compares names in full.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

MAX_CERTIFICATE_BYTES = 16 << 10
MAX_CRL_BYTES = 4 << 20
MAX_CHAIN_LENGTH = 16
_MAX_PATH_DEPTH = 8

# A certificate and what is signed of it with lengths in two bytes, version 3, and the tag of the serial number.
_USUAL_START = re.compile(rb"\x30\x82..\x30\x82..\xa0\x03\x02\x01\x02\x02", re.DOTALL).match
# ecdsa-with-SHA256 and so on as they stand in certificates (RFC 5758 section 3.2).
_ECDSA = {
    bytes.fromhex("300a06082a8648ce3d040302"): ec.ECDSA(hashes.SHA256()),
    bytes.fromhex("300a06082a8648ce3d040303"): ec.ECDSA(hashes.SHA384()),
    bytes.fromhex("300a06082a8648ce3d040304"): ec.ECDSA(hashes.SHA512()),
}

_KNOWN_EXTENSIONS = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)


def load_certificate_untrusted(der: bytes, *, decode_issuer: bool = True) -> x509.Certificate:
    """Decode a certificate without believing it.

    Args:
        der: DER, at most `MAX_CERTIFICATE_BYTES`, nothing after it.
        decode_issuer: whether the issuer's name is decoded too. Without it, asking for the issuer may raise any of `X509_ERRORS`.

    Raises:
        DecodeError: anything else.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise DecodeError(
            f"cannot decode a certificate: size: found {len(der)} bytes, want at most {MAX_CERTIFICATE_BYTES}"
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        # These are decoded when they are asked for; whoever asks later must not meet an error of another kind.
        certificate.extensions  # noqa: B018
        if decode_issuer:
            certificate.issuer  # noqa: B018
        certificate.subject  # noqa: B018
        certificate.signature_algorithm_oid  # noqa: B018
    except X509_ERRORS as error:
        raise DecodeError(f"cannot decode a certificate: found {error}, want X.509 in DER") from error
    return certificate


def load_pem_chain_untrusted(pem: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a PEM text in DER, in its order; text between them and zero padding are ignored.

    Raises:
        DecodeError: none, more than `MAX_CHAIN_LENGTH`, or one that is not well formed.
    """
    if len(pem) > MAX_CHAIN_LENGTH * 2 * MAX_CERTIFICATE_BYTES:
        raise DecodeError(f"cannot decode a certificate chain: size: found {len(pem)} bytes, want less")
    try:
        certificates = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise DecodeError(f"cannot decode a certificate chain: found {error}, want certificates in PEM") from error
    if len(certificates) > MAX_CHAIN_LENGTH:
        raise DecodeError(
            f"cannot decode a certificate chain: found {len(certificates)}, want at most {MAX_CHAIN_LENGTH}"
        )
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def load_crl_untrusted(der: bytes) -> x509.CertificateRevocationList:
    """Decode a revocation list without believing it.

    Raises:
        DecodeError: not a CRL in DER, or larger than `MAX_CRL_BYTES`.
    """
    if len(der) > MAX_CRL_BYTES:
        raise DecodeError(f"cannot decode a CRL: size: found {len(der)} bytes, want at most {MAX_CRL_BYTES}")
    try:
        crl = x509.load_der_x509_crl(der)
        crl.issuer  # noqa: B018
        crl.extensions  # noqa: B018
        crl.next_update_utc  # noqa: B018
        for revoked in crl:
            revoked.serial_number  # noqa: B018
    except X509_ERRORS as error:
        raise DecodeError(f"cannot decode a CRL: found {error}, want a CRL in DER") from error
    return crl


@lru_cache(maxsize=64)
def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate's DER in hex."""
    return hashlib.sha256(der).hexdigest()


@lru_cache(maxsize=256)
def name_of(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or the whole subject where it has none."""
    return common_name_of(certificate.subject)


def common_name_of(name: x509.Name) -> str:
    """Return the common name in a name, or the whole name where it has none."""
    names = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[-1].value) if names else name.rfc4514_string()


def extension_of(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """Return the value of a certificate's extension of a kind of `cryptography.x509`, or None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def describe(certificate: x509.Certificate) -> str:
    """Return `name, SHA-256 in hex`, as findings name a trust anchor."""
    return f"{name_of(certificate)}, {fingerprint(certificate.public_bytes(Encoding.DER))}"


def not_before_of(certificate: x509.Certificate) -> datetime:
    """Return the first second of validity, aware UTC."""
    return certificate.not_valid_before_utc


def not_after_of(certificate: x509.Certificate) -> datetime:
    """Return the last second of validity, aware UTC."""
    return certificate.not_valid_after_utc


def is_valid_at(certificate: x509.Certificate, at: datetime) -> bool:
    """Return whether a certificate is valid at a time, both ends included."""
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def issued_directly(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether `issuer`'s name and key are those that signed the certificate. Nothing else is checked."""
    if _has_unused_bits(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


class Issuer:
    """An authority with its key loaded, for who checks many certificates of one issuer; it answers as `issued_directly` does.

    Args:
        certificate: of the authority.
    """

    __slots__ = ("_certificate", "_encoded_name", "_key", "_name")

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate
        self._name = certificate.subject
        self._encoded_name = certificate.subject.public_bytes()
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            key = None
        self._key = key if isinstance(key, ec.EllipticCurvePublicKey) else None

    def issued(self, certificate: x509.Certificate, der: bytes) -> bool:
        """Return whether this authority's name and key are those that signed the certificate. Nothing else is checked.

        Args:
            certificate: decoded.
            der: what it was decoded from; asking the certificate for its bytes means to encode it.
        """
        # Certificates of this form are DER down to the algorithm in what is signed, so their parts can be cut out of the bytes.
        if self._key is None or not _USUAL_START(der):
            return issued_directly(certificate, self._certificate)
        signed_end = 8 + int.from_bytes(der[6:8])
        outer = der[signed_end : signed_end + 2 + der[signed_end + 1]]
        algorithm = _ECDSA.get(outer)
        # RFC 5280 section 4.1.1.2: what is signed, behind version and serial number, names the algorithm that stands beside the
        # signature. `cryptography` shows only the one that nobody signed.
        inner_at = 15 + der[14]
        if algorithm is None or not der.startswith(outer, inner_at):
            return issued_directly(certificate, self._certificate)
        signature = certificate.signature
        if der[-len(signature) - 1] != 0:
            return False
        try:
            if not der.startswith(self._encoded_name, inner_at + len(outer)) and certificate.issuer != self._name:
                return False
            self._key.verify(signature, der[4:signed_end], algorithm)
        except (*X509_ERRORS, InvalidSignature):
            return False
        return True


def _has_unused_bits(certificate: x509.Certificate) -> bool:
    """Return whether a signature says that it ends within a byte: another encoding of it, which `cryptography` takes for the same."""
    return certificate.public_bytes(Encoding.DER)[-len(certificate.signature) - 1] != 0


def unknown_critical_extensions(certificate: x509.Certificate) -> frozenset[str]:
    """Return the object identifiers of critical extensions that nobody here understands; RFC 5280 says to refuse them."""
    return frozenset(
        extension.oid.dotted_string
        for extension in certificate.extensions
        if extension.critical and extension.oid not in _KNOWN_EXTENSIONS
    )


def build_path(
    leaf: x509.Certificate,
    candidates: tuple[x509.Certificate, ...],
    roots: tuple[x509.Certificate, ...],
    *,
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    """Find the path from a certificate to a root by `cryptography`'s path builder.

    Args:
        leaf: the end entity.
        candidates: intermediates, in any order; those that are not needed do no harm.
        roots: trust anchors, at least one.
        at: the time that all of the path must be valid at, aware.

    Returns:
        The path, the leaf first and the root last.

    Raises:
        VerificationError: there is none.

    Spec: RFC 5280 section 6; extensions of the leaf are its vendor's, so they are left to the caller.
    """
    from cryptography.x509.verification import (
        Criticality,
        ExtensionPolicy,
        PolicyBuilder,
        Store,
    )
    from cryptography.x509.verification import VerificationError as PathError

    ca_policy = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    builder = PolicyBuilder().store(Store(list(roots))).time(at.astimezone(UTC).replace(tzinfo=None))
    builder = builder.max_chain_depth(_MAX_PATH_DEPTH)
    verifier = builder.extension_policies(
        ca_policy=ca_policy, ee_policy=ExtensionPolicy.permit_all()
    ).build_client_verifier()
    try:
        path = tuple(verifier.verify(leaf, list(candidates)).chain)
    except (PathError, x509.UnsupportedGeneralNameType, ValueError) as error:
        raise VerificationError(
            f"cannot trust {name_of(leaf)}: found no path to a trust anchor, want one: {error}"
        ) from error
    for each in path:
        if _has_unused_bits(each):
            raise VerificationError(
                f"cannot trust {name_of(each)}: found a signature that ends within a byte, want DER"
            )
    return path
