# SPDX-License-Identifier: Apache-2.0
"""What is kept of a certificate beside its entry, and whether it still is what the entry says.

A Keep is judged again from what its certificate was given for: evidence, endorsements and receipt are too large for an entry, which
has their digest instead. The log's key signed the entry and not what stands beside it, so nothing is done on the word of a row that
does not fit its entry.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256, sha384
from typing import NamedTuple

from enarx.crypto.cbor import encode
from enarx.crypto.certificates import load_certificate_untrusted, not_after_of
from enarx.errors import DecodeError
from enarx.steward.entries import Facts, as_ms, decode_entry_untrusted

__all__ = ["Issued", "IssuedRow", "RowDigests", "fit", "kept_digest", "misfits"]


class IssuedRow(NamedTuple):
    """A certificate that was issued, and what it takes to judge its Keep again.

    Args:
        serial: of the certificate.
        not_after: when it ends, aware.
        evidence: as it was shown.
        endorsements: as they were shown.
        receipt: the message without evidence.
        spki: SubjectPublicKeyInfo in DER.
        report_data: what the evidence is over.
    """

    serial: int
    not_after: datetime
    evidence: bytes
    endorsements: tuple[bytes, ...]
    receipt: bytes
    spki: bytes
    report_data: bytes

    @property
    def kept_sha256(self) -> bytes:
        """The digest that the entry has of it."""
        endorsements = encode(list(self.endorsements))
        return kept_digest(self.evidence, endorsements, self.receipt, self.spki, self.report_data)


class Issued(NamedTuple):
    """A certificate whose row fits its entry.

    Args:
        row: what is kept of it.
        certificate: in DER, as the entry has it.
    """

    row: IssuedRow
    certificate: bytes


class RowDigests(NamedTuple):
    """What is stored of a certificate, without what may be large.

    Args:
        serial: of it.
        not_after_ms: when it ends.
        evidence_sha256: of the evidence that is stored.
        spki_sha384: of the key that is stored.
        kept_sha256: as from `kept_digest`.
    """

    serial: int
    not_after_ms: int
    evidence_sha256: bytes
    spki_sha384: bytes
    kept_sha256: bytes


def kept_digest(evidence: bytes, endorsements: bytes, receipt: bytes, spki: bytes, report_data: bytes) -> bytes:
    """Return what an entry has of everything that is kept beside it: `kept` of docs/formats/steward-log.cddl.

    Args:
        evidence: as it was shown.
        endorsements: a list of byte strings in deterministic CBOR, as it is stored.
        receipt: the message without evidence.
        spki: SubjectPublicKeyInfo in DER.
        report_data: what the evidence is over.
    """
    return sha256(encode([evidence, endorsements, receipt, spki, report_data])).digest()


def misfits(facts: Facts, found: RowDigests) -> list[str]:
    """Compare what is stored of a certificate with its entry.

    Args:
        facts: of the entry, of kind `certificate`.
        found: what is stored.

    Returns:
        What is another one, in words; nothing where it fits.

    Raises:
        DecodeError: the certificate in the entry is none.
    """
    pairs: list[tuple[str, object, object]] = [
        ("serial number", facts.serial, found.serial),
        ("evidence", facts.evidence_sha256, found.evidence_sha256),
        ("key", facts.spki_sha384, found.spki_sha384),
    ]
    if facts.certificate is not None:
        certificate = load_certificate_untrusted(facts.certificate)
        pairs.append(("serial number than its entry's", certificate.serial_number, found.serial))
        pairs.append(("end", as_ms(not_after_of(certificate)), found.not_after_ms))
    unlike = [what for what, wanted, stored in pairs if wanted is not None and wanted != stored]
    # It covers evidence and key too, and says less of where to look.
    if facts.kept_sha256 != found.kept_sha256 and not {"evidence", "key"} & set(unlike):
        unlike.append("evidence, endorsement, receipt, key or report data")
    return unlike


def fit(body: bytes | None, row: IssuedRow) -> Issued:
    """Return a certificate if what is stored of it is what its entry says.

    Args:
        body: of the entry, or None where there is none.
        row: what is stored.

    Raises:
        DecodeError: it is not, or the entry cannot be read.
    """
    if body is None:
        raise DecodeError("found no entry that issues it, want one")
    facts = decode_entry_untrusted(body)
    if facts.kind != "certificate" or facts.certificate is None:
        raise DecodeError(f"found an entry of kind {facts.kind} that issues none, want its own")
    spki, evidence = sha384(row.spki).digest(), sha256(row.evidence).digest()
    unlike = misfits(facts, RowDigests(row.serial, as_ms(row.not_after), evidence, spki, row.kept_sha256))
    if unlike:
        raise DecodeError(f"found another {unlike[0]}, want what its entry says")
    return Issued(row, facts.certificate)
