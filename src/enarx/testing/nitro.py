# SPDX-License-Identifier: Apache-2.0
"""A fake AWS Nitro: its certification authorities, and attestation documents that they vouch for.

The names, lifetimes, extensions and key types are those of AWS, the keys are new each time. `NitroAuthority.document` makes
a document that is accepted; each argument bends one thing, so that any refusal can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.cbor import encode
from enarx.crypto.cose import sign
from enarx.rats import TrustAnchors

__all__ = ["Issued", "NitroAuthority", "issue", "make_members"]

_DAY = timedelta(days=1)
_AUTHORITIES = (
    ("aws.nitro-enclaves", 30 * 365 * _DAY, None),
    ("b6a1f0c2d3e4f506.eu-test-1.aws.nitro-enclaves", 20 * _DAY, 2),
    ("a1b2c3d4e5f60718.zonal.eu-test-1.aws.nitro-enclaves", 6 * _DAY, 1),
    ("i-0123456789abcdef0.eu-test-1.aws.nitro-enclaves", _DAY, 0),
)
MODULE_ID = "i-0123456789abcdef0-enc0123456789abcdef"
_LEAF_LIFETIME = timedelta(hours=3)


class Issued(NamedTuple):
    """A certificate with its private key.

    Args:
        certificate: in DER.
        key: that it is for.
        name: the subject's common name.
    """

    certificate: bytes
    key: ec.EllipticCurvePrivateKey
    name: str


def issue(
    name: str,
    issuer: Issued | None,
    *,
    not_before: datetime,
    not_after: datetime,
    is_ca: bool,
    path_length: int | None = None,
    digital_signature: bool = True,
    key_cert_sign: bool | None = None,
    curve: ec.EllipticCurve | None = None,
    critical: bytes | None = None,
) -> Issued:
    """Issue a certificate for a new key.

    Args:
        name: the subject's common name.
        issuer: None signs itself.
        not_before: aware.
        not_after: aware.
        is_ca: for the basic constraints.
        path_length: likewise.
        digital_signature: for the key usage.
        key_cert_sign: likewise; None is what `is_ca` says.
        curve: of the new key; None is P-384.
        critical: the value of a critical extension that nobody knows.
    """
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    above = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer.name if issuer else name)])
    usage = x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca if key_cert_sign is None else key_cert_sign,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(usage, critical=is_ca)
    )
    if critical is not None:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), critical)
        builder = builder.add_extension(unknown, critical=True)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA384())
    return Issued(certificate.public_bytes(Encoding.DER), key, name)


def make_members(authority: NitroAuthority, leaf: Issued, *, at: datetime, is_tpm: bool = False) -> dict[str, Any]:
    """Return the members of a document as the hypervisor would write them at a time."""
    count = 24 if is_tpm else 16
    pcrs = {index: bytes([index + 1]) * 48 if index in {0, 1, 2, 4} else bytes(48) for index in range(count)}
    return {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": int(at.timestamp() * 1000),
        "nitrotpm_pcrs" if is_tpm else "pcrs": pcrs,
        "certificate": leaf.certificate,
        "cabundle": list(authority.cabundle),
        "public_key": None,
        "user_data": None,
        "nonce": None,
    }


class NitroAuthority:
    """A root, a region's, a zone's and an instance's authority.

    Args:
        at: aware; each of them is valid for a while before it.
    """

    def __init__(self, *, at: datetime) -> None:
        self.at = at
        self.authorities: list[Issued] = []
        for name, lifetime, path_length in _AUTHORITIES:
            issuer = self.authorities[-1] if self.authorities else None
            begin = at - lifetime / 4
            self.authorities.append(
                issue(name, issuer, not_before=begin, not_after=begin + lifetime, is_ca=True, path_length=path_length)
            )

    @property
    def cabundle(self) -> tuple[bytes, ...]:
        """The certificates in DER, the root's first."""
        return tuple(issued.certificate for issued in self.authorities)

    @property
    def anchors(self) -> TrustAnchors:
        """Trust in this root and in nothing else."""
        return TrustAnchors(aws=(self.authorities[0].certificate,))

    def leaf(self, *, at: datetime | None = None, **options: Any) -> Issued:
        """Issue a signing certificate.

        Args:
            at: within its validity; None is the authority's own time.
            options: as for `issue`.
        """
        begin = (at or self.at) - timedelta(seconds=3)
        defaults = {"not_before": begin, "not_after": begin + _LEAF_LIFETIME, "is_ca": False}
        return issue(f"{MODULE_ID}.eu-test-1.aws", self.authorities[-1], **{**defaults, **options})

    def document(
        self,
        *,
        at: datetime | None = None,
        leaf: Issued | None = None,
        is_tpm: bool = False,
        changes: Mapping[str, Any] | None = None,
        without: tuple[str, ...] = (),
        signer: ec.EllipticCurvePrivateKey | None = None,
        **options: Any,
    ) -> bytes:
        """Make a document.

        Args:
            at: when it is signed; None is the authority's own time.
            leaf: whose certificate it carries; None issues one.
            is_tpm: whether it is a NitroTPM's.
            changes: members that are otherwise than `make_members` says.
            without: members that it does not have.
            signer: signs in the place of the leaf's key.
            options: as for `enarx.crypto.cose.sign`; documents of AWS are untagged.
        """
        at = at or self.at
        leaf = leaf or self.leaf(at=at)
        members = make_members(self, leaf, at=at, is_tpm=is_tpm) | dict(changes or {})
        payload = encode({name: value for name, value in members.items() if name not in without})
        return sign(payload, signer or leaf.key, **{"tagged": False, **options})
