# SPDX-License-Identifier: Apache-2.0
"""Certificates as a log has them: an entry with a certificate in it, and the row beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256, sha384

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.steward.entries import encode_entry
from enarx.steward.issued import IssuedRow
from enarx.steward.ledger import Entry

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOT_AFTER = AT + timedelta(hours=24)


@cache
def make_certificate(serial: int) -> tuple[bytes, bytes]:
    """Return a certificate and its key, both in DER."""
    key = ec.derive_private_key(serial, ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, AT, NOT_AFTER)
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )
    return made, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def row_of(serial: int) -> IssuedRow:
    """Return what is kept of a certificate."""
    return IssuedRow(
        serial, NOT_AFTER, b"evidence", (b"one", b"two"), b"receipt", make_certificate(serial)[1], bytes(64)
    )


def entry_of(row: IssuedRow, *, nonce: bytes | None = None) -> Entry:
    """Return the entry that a row fits."""
    certificate, spki = make_certificate(row.serial)
    body = encode_entry(
        kind="certificate",
        at=AT,
        nonce=nonce,
        evidence_sha256=sha256(row.evidence).digest(),
        kept_sha256=row.kept_sha256,
        spki_sha384=sha384(spki).digest(),
        certificate=certificate,
        serial=row.serial,
    )
    return Entry("certificate", AT, nonce, body, row)
