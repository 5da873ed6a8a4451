# SPDX-License-Identifier: Apache-2.0
"""A certificate authority: its key, the certificates above it, and what it signs.

Rules of this file:

- There is one key, on P-384: in a token, or in PKCS #8 without a passphrase; whoever stores that lets nobody else read it.
- An authority is its own root, or another's below it: then that other signs a request, and what comes back is checked before it is used:
  that it is of this key, an authority, in force, and that a chain leads to the last certificate, the root.
- Before an authority is used it signs a certificate, and a path from that to its root has to be found by another's code.
- Nothing here judges who gets a certificate.

Source: RFC 5280 sections 4.2, 5.2 and 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from enarx.crypto.certificates import build_path, extension_of, is_valid_at, issued_directly, name_of
from enarx.crypto.x509 import Credential, load_certificates, load_private_key
from enarx.errors import ConfigError, VerificationError
from enarx.steward.certificates import (
    BACKDATED,
    KeepKey,
    Wanted,
    authority_key,
    keep_builder,
    key_usage,
    original_builder,
    serial_number,
    server_builder,
)

__all__ = [
    "Authority",
    "install_chain",
    "load_authority_key",
    "make_authority",
    "make_key",
    "make_request",
    "write_key",
]

ROOT_LIFETIME = timedelta(days=3652)
CRL_LIFETIME = timedelta(days=1)
MAX_CHAIN = 6
"""Of an authority with all above it, so that with a Keep's certificate it fits into an answer."""

_CURVE = ec.SECP384R1
_HASH = hashes.SHA384
_REASONS = {flag.value: flag for flag in x509.ReasonFlags if flag.value not in {"unspecified", "removeFromCRL"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An authority that may be used.

    Args:
        certificates: its own, then each one's issuer, the root last.
        key: of the first of them.
    """

    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """Its own."""
        return self.certificates[0]

    @property
    def root(self) -> x509.Certificate:
        """What its own certificate leads to. Keeps are to trust its own: other authorities may be below this one."""
        return self.certificates[-1]

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What goes with each certificate: all that are between it and the root, or the root where there is nothing else."""
        return self.certificates[:-1] or self.certificates

    @property
    def chain_pem(self) -> bytes:
        """Its certificates in PEM, the root last."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.certificates)

    def issue(self, wanted: Wanted, *, at: datetime) -> x509.Certificate:
        """Issue a Keep's certificate.

        Args:
            wanted: what is in it.
            at: aware.

        Raises:
            EndorsementError: what it rests on, or the authority, ends within a minute.
            UsageError: what it says of the Keep is too large for a certificate.
        """
        return self._signed(keep_builder(wanted, self.certificate, at=at))

    def issue_original(
        self, key: KeepKey, *, at: datetime, valid_until: datetime | None, is_emulated: bool
    ) -> x509.Certificate:
        """Issue a certificate of the original's protocol; the arguments are those of `original_builder`.

        Raises:
            EndorsementError: what it rests on, or the authority, ends within a minute.
        """
        return self._signed(
            original_builder(key, self.certificate, at=at, valid_until=valid_until, is_emulated=is_emulated)
        )

    def server_credential(self, name: str, *, at: datetime) -> Credential:
        """Issue a certificate for the Steward's own port, with a new key, for 30 days.

        Args:
            name: DNS name or IP address.
            at: aware.

        Raises:
            EndorsementError: the authority ends within a minute.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(server_builder(name, key.public_key(), self.certificate, at=at))
        return Credential(chain=(certificate, *self.chain), private_key=key)

    def crl(self, revoked: Iterable[tuple[int, datetime, str]], *, at: datetime, number: int) -> bytes:
        """Return a revocation list in DER.

        Args:
            revoked: serial number, when, and why: the name of a reason of RFC 5280, or text of our own, which is privilegeWithdrawn.
            at: aware; another one is due a day later.
            number: greater than that of any list before.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(at.replace(microsecond=0))
            .next_update((at + CRL_LIFETIME).replace(microsecond=0))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(authority_key(self.certificate), critical=False)
        )
        for serial, when, why in revoked:
            reason = _REASONS.get(why, x509.ReasonFlags.privilege_withdrawn)
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when.replace(microsecond=0))
            builder = builder.add_revoked_certificate(
                entry.add_extension(x509.CRLReason(reason), critical=False).build()
            )
        return builder.sign(self.key, _HASH()).public_bytes(Encoding.DER)

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, _HASH())


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key for an authority."""
    return ec.generate_private_key(_CURVE())


def write_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key that is in no token as PEM, PKCS #8 without a passphrase, for a file that nobody else can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_authority(
    name: str, at: datetime, *, key: ec.EllipticCurvePrivateKey | None = None, purpose: str = "Steward"
) -> Authority:
    """Make an authority that is its own root, for ten years.

    Args:
        name: of the Steward.
        at: aware.
        key: on P-384; None is a new one.
        purpose: a word for its name.
    """
    key = make_key() if key is None else key
    subject = _subject(name, key, purpose)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial_number(at))
        .not_valid_before((at - BACKDATED).replace(microsecond=0))
        .not_valid_after((at + ROOT_LIFETIME).replace(microsecond=0))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(certificates=(builder.sign(key, _HASH()),), key=key)


def make_request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request in PEM for another authority to sign: PKCS#10 that asks for an authority of path length 0.

    Args:
        name: of the Steward.
        key: of the authority to be.
    """
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(name, key, "Steward"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_authority=True), critical=True)
        .sign(key, _HASH())
        .public_bytes(Encoding.PEM)
    )


def load_authority_key(pem: bytes, *, path: str) -> ec.EllipticCurvePrivateKey:
    """Load an authority's key.

    Args:
        pem: PKCS #8 in PEM.
        path: for messages.

    Raises:
        ConfigError: it is none on P-384.
    """
    key = load_private_key(pem, path=path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVE):
        raise ConfigError(f"cannot use the authority's key: {path}: found another kind, want one on P-384", path=path)
    return key


def install_chain(key: ec.EllipticCurvePrivateKey, chain_pem: bytes, *, path: str, at: datetime) -> Authority:
    """Return the authority that a key and its certificates are, once that is found to be true.

    Args:
        key: of the authority.
        chain_pem: certificates in PEM: its own, each one's issuer, the root last.
        path: of that file, for messages.
        at: aware.

    Raises:
        ConfigError: the file is not well formed.
        VerificationError: the certificates are not of this key, no authority's, no chain, or not in force.
    """
    certificates = load_certificates(chain_pem, path=path)
    _require(len(certificates) <= MAX_CHAIN, path, f"{len(certificates)} certificates", f"at most {MAX_CHAIN}")
    _require(
        _public(certificates[0]) == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        path,
        f"the key of {name_of(certificates[0])} first",
        "this Steward's own, then each one's issuer",
    )
    for each in certificates:
        _require_authority(each, path, at)
    for each, issuer in pairwise((*certificates, certificates[-1])):
        found = "a last one that is no root" if each is issuer else f"{name_of(each)} before {name_of(issuer)}"
        _require(issued_directly(each, issuer), path, found, "each one's issuer after it, the root last")
    authority = Authority(certificates=certificates, key=key)
    trial = authority.server_credential("trial.invalid", at=at).chain[0]
    build_path(trial, certificates[:-1], (authority.root,), at=at)
    return authority


def _require_authority(certificate: x509.Certificate, path: str, at: datetime) -> None:
    name = name_of(certificate)
    try:
        constraints = extension_of(certificate, x509.BasicConstraints)
        usage = extension_of(certificate, x509.KeyUsage)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise VerificationError(
            f"cannot use the authority: {path}: {name}: found extensions that cannot be read"
        ) from error
    is_authority = constraints is not None and constraints.ca
    _require(is_authority, path, f"{name}, which is no authority", "basicConstraints CA:TRUE")
    may_sign = usage is not None and usage.key_cert_sign
    _require(may_sign, path, f"{name}, whose key may not sign certificates", "keyUsage keyCertSign")
    in_force = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
    _require(is_valid_at(certificate, at), path, f"{name} in force from {in_force}", f"one in force at {at:%Y-%m-%d}")


def _require(condition: bool, path: str, found: str, want: str) -> None:
    if not condition:
        raise VerificationError(f"cannot use the authority: {path}: found {found}, want {want}")


def _public(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""  # no key of ours


def _subject(name: str, key: ec.EllipticCurvePrivateKey, purpose: str) -> x509.Name:
    # Two authorities of one name would be taken for each other by who looks for an issuer by its name.
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:16]
    common = f"enarx {purpose} {name}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common if len(common) <= 64 else common[:61] + "..."),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, mark),
        ]
    )
