# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority for tests of chains: P-256 keys, and whatever a case wants to be wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
AT = datetime(2026, 6, 1, tzinfo=UTC)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Node:
    """A certificate with its key."""

    def __init__(
        self, text, issuer=None, *, is_ca=True, start=START, end=END, path_length=None, critical=None, serial=None
    ):
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        issuer_name = issuer.certificate.subject if issuer else name(text)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(text))
            .issuer_name(issuer_name)
            .public_key(self.key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if is_ca is not None:
            constraints = x509.BasicConstraints(ca=is_ca, path_length=path_length)
            builder = builder.add_extension(constraints, critical=True)
        if critical:
            oid = x509.ObjectIdentifier(critical)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=True)
        self.certificate = builder.sign(signer.key, hashes.SHA256())
        self.der = self.certificate.public_bytes(Encoding.DER)

    def crl(self, *revoked, start=START, end=END, signer=None):
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(start).next_update(end)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(start).build())
        return builder.sign((signer or self).key, hashes.SHA256()).public_bytes(Encoding.DER)


def a_second():
    return timedelta(seconds=1)
