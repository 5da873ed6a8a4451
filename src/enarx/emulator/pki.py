# SPDX-License-Identifier: Apache-2.0
"""A vendor's certificates as AMD makes them: who signs whom, with which names, numbers, dates and extensions.

Rules of this file:

- Names are AMD's own, letter by letter. What tells these certificates from AMD's is the key at the top, and nothing else may; but
  a root that lasts longer than a test also bears an extension that says what it is, so that nobody can pin it as AMD's.
- A VCEK or VLEK has the serial number 0, as AMD's have. No certificate library makes one, so it is put in before signing.

Source: AMD 57230 VCEK Certificate and KDS Interface, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from enarx.abi.snp import VekClaims, serialise_vek_extensions
from enarx.rats.anchors import EMULATED_ROOT

__all__ = [
    "Authority",
    "Vendor",
    "issue_vek",
    "make_authority",
    "make_certificate",
    "make_crl",
    "make_name",
    "make_vendor",
    "make_vendor_key",
    "vek_extensions",
]

_AUTHORITY_LIFETIME = timedelta(days=25 * 365)
_VEK_LIFETIME = timedelta(days=7 * 365)
_LINE_NUMBERS = {"Milan": 1, "Genoa": 2, "Turin": 3}

# After version 3, an INTEGER of one byte: the placeholder that becomes AMD's serial number 0.
_SERIAL_ONE = b"\xa0\x03\x02\x01\x02\x02\x01\x01"
_SERIAL_ZERO = b"\xa0\x03\x02\x01\x02\x02\x01\x00"
_DER_NULL = b"\x05\x00"

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate that signs others, and its key.

    Args:
        certificate: DER.
        private_key: of the certificate.
    """

    certificate: bytes
    private_key: rsa.RSAPrivateKey = field(repr=False)

    @property
    def subject(self) -> x509.Name:
        """Whose name stands on what it signs."""
        return x509.load_der_x509_certificate(self.certificate).subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Everything that one product line's certificates rest on.

    Args:
        line: `Milan`, `Genoa` or `Turin`.
        ark: the root.
        ask: signs VCEKs.
        asvk: signs VLEKs.
    """

    line: str
    ark: Authority
    ask: Authority
    asvk: Authority

    def issuer_of(self, kind: str) -> Authority:
        """Return who signs a VCEK or a VLEK."""
        return self.asvk if kind == "VLEK" else self.ask


def make_vendor_key() -> rsa.RSAPrivateKey:
    """Make an RSA-4096 key, which takes a good part of a second."""
    return rsa.generate_private_key(65537, 4096)


def make_vendor(
    *,
    line: str = "Milan",
    at: datetime,
    keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey, rsa.RSAPrivateKey] | None = None,
) -> Vendor:
    """Make the certificates of a product line.

    Args:
        line: `Milan`, `Genoa` or `Turin`.
        at: aware time from which they are valid.
        keys: of ARK, ASK and ASVK; None makes new ones.
    """
    ark_key, ask_key, asvk_key = keys or (make_vendor_key(), make_vendor_key(), make_vendor_key())
    number = _LINE_NUMBERS[line] << 16
    ark = make_authority(f"ARK-{line}", ark_key, None, serial=number, at=at, signs_lists=True, path_length=None)
    return Vendor(
        line=line,
        ark=ark,
        ask=make_authority(f"SEV-{line}", ask_key, ark, serial=number + 1, at=at),
        asvk=make_authority(f"SEV-VLEK-{line}", asvk_key, ark, serial=number + 0x101, at=at),
    )


def make_authority(
    name: str,
    key: rsa.RSAPrivateKey,
    issuer: Authority | None,
    *,
    serial: int,
    at: datetime,
    lifetime: timedelta = _AUTHORITY_LIFETIME,
    signs_lists: bool = False,
    path_length: int | None = 0,
    says_emulated: bool = False,
) -> Authority:
    """Make an ARK, ASK or ASVK.

    Args:
        name: its common name.
        key: its own.
        issuer: who signs it; None makes it sign itself.
        serial: its number.
        at: aware time from which it is valid.
        lifetime: for how long.
        signs_lists: whether it may sign revocation lists.
        path_length: how many authorities may be below it; None is any number.
        says_emulated: whether it bears the extension of an emulated platform's root.
    """
    signer = issuer.private_key if issuer is not None else key
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=signs_lists,
        encipher_only=False,
        decipher_only=False,
    )
    extensions: Extensions = (
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (usage, True),
    )
    if says_emulated:
        mark = x509.UnrecognizedExtension(x509.ObjectIdentifier(EMULATED_ROOT), _DER_NULL)
        extensions = (*extensions, (mark, False))
    subject = make_name(name)
    certificate = make_certificate(
        subject,
        key.public_key(),
        issuer=issuer.subject if issuer is not None else subject,
        signer=signer,
        serial=serial,
        not_before=at,
        not_after=at + lifetime,
        extensions=extensions,
    )
    return Authority(certificate=certificate, private_key=key)


def issue_vek(
    issuer: Authority,
    claims: VekClaims,
    public_key: PublicKey,
    *,
    at: datetime,
    lifetime: timedelta = _VEK_LIFETIME,
    name: str | None = None,
    extensions: Extensions | None = None,
) -> bytes:
    """Return a VCEK or VLEK certificate in DER.

    Args:
        issuer: an ASK or ASVK.
        claims: what its extensions say.
        public_key: P-384, where it is to be like AMD's.
        at: aware time from which it is valid.
        lifetime: for how long.
        name: its common name; None is `SEV-VCEK` or `SEV-VLEK`.
        extensions: instead of those that the claims give.
    """
    return make_certificate(
        make_name(name if name is not None else f"SEV-{claims.kind}"),
        public_key,
        issuer=issuer.subject,
        signer=issuer.private_key,
        serial=0,
        not_before=at,
        not_after=at + lifetime,
        extensions=extensions if extensions is not None else vek_extensions(claims),
    )


def vek_extensions(claims: VekClaims) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """Return the extensions that say what the claims say, none of them critical."""
    return tuple(
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
        for oid, value in serialise_vek_extensions(claims)
    )


def make_crl(
    issuer: Authority,
    revoked: Sequence[int],
    *,
    at: datetime,
    lifetime: timedelta = timedelta(days=365),
    signer: rsa.RSAPrivateKey | None = None,
) -> bytes:
    """Return a revocation list in DER.

    Args:
        issuer: whose list it is, an ARK.
        revoked: serial numbers.
        at: aware time from which it is current.
        lifetime: for how long.
        signer: None is the issuer's own key.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(at)
        .next_update(at + lifetime)
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    key = signer if signer is not None else issuer.private_key
    return builder.sign(key, SHA384(), rsa_padding=_pss()).public_bytes(Encoding.DER)


def make_certificate(
    subject: x509.Name,
    public_key: PublicKey,
    *,
    issuer: x509.Name,
    signer: rsa.RSAPrivateKey,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    extensions: Extensions,
    rsa_padding: padding.PSS | padding.PKCS1v15 | None = None,
) -> bytes:
    """Return any certificate in DER, signed with RSA-PSS and SHA-384 as AMD signs unless `rsa_padding` says otherwise.

    Args:
        subject: whose it is.
        public_key: the subject's.
        issuer: whose name stands on it.
        signer: whose key signs it.
        serial: its number, which may be 0.
        not_before: its first second, aware.
        not_after: its last second, aware.
        extensions: each with whether it is critical.
        rsa_padding: None is AMD's.
    """
    rsa_padding = rsa_padding if rsa_padding is not None else _pss()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial or 1)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(signer, SHA384(), rsa_padding=rsa_padding)
    der = certificate.public_bytes(Encoding.DER)
    if serial:
        return der
    tbs = certificate.tbs_certificate_bytes
    zeroed = tbs.replace(_SERIAL_ONE, _SERIAL_ZERO, 1)
    signature = signer.sign(zeroed, rsa_padding, SHA384())
    return der.replace(tbs, zeroed, 1)[: -len(signature)] + signature


def make_name(common_name: str) -> x509.Name:
    """Return a name as AMD's certificates have it, part by part."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _pss() -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=SHA384.digest_size)
