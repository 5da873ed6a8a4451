# SPDX-License-Identifier: Apache-2.0
"""What the log says of a decision: results, errors and certificates as facts of an entry."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.errors import AppraisalError, DecodeError, EnarxError, EndorsementError, VerificationError
from enarx.rats import AttestationResult, Verdict
from enarx.steward.issued import IssuedRow

if TYPE_CHECKING:
    from enarx.steward.judging import Granted
    from enarx.steward.original import OriginalIssued
    from enarx.wire.steward import CertificateRequest

__all__ = ["check_of", "facts_of_error", "facts_of_granted", "facts_of_original", "facts_of_result", "row_of"]


def facts_of_result(result: AttestationResult) -> dict[str, Any]:
    """Return what an entry says of a verdict."""
    return {
        "verdict": str(result.verdict),
        "tee": result.tee,
        "failed_checks": tuple(finding.check.id for finding in result.failures),
    }


def facts_of_granted(granted: Granted, certificate: x509.Certificate) -> dict[str, Any]:
    """Return what an entry says of a certificate, but for the digest of the row that is kept beside it."""
    return {
        **facts_of_result(granted.result),
        "spki_sha384": granted.spki,
        "identity": granted.wanted.identity,
        "certificate": certificate.public_bytes(Encoding.DER),
        "serial": certificate.serial_number,
    }


def facts_of_original(issued: OriginalIssued) -> dict[str, Any]:
    """Return what an entry says of a certificate of the original's protocol."""
    return {
        "evidence_sha256": sha256(issued.request).digest(),
        "spki_sha384": issued.spki,
        "certificate": issued.certificate.public_bytes(Encoding.DER),
        "serial": issued.certificate.serial_number,
    }


def row_of(granted: Granted, certificate: x509.Certificate, request: CertificateRequest) -> IssuedRow:
    """Return what has to be kept of a certificate, so that its Keep can be judged again."""
    return IssuedRow(
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
        evidence=request.evidence,
        endorsements=request.endorsements,
        receipt=request.receipt,
        spki=granted.wanted.spki,
        report_data=granted.report_data,
    )


def facts_of_error(error: EnarxError) -> dict[str, Any]:
    """Return what an entry says of a refusal."""
    result = getattr(error, "result", None)
    facts = facts_of_result(result) if isinstance(result, AttestationResult) else {}
    verdicts = (
        (DecodeError, "malformed"),
        (VerificationError, Verdict.NOT_AUTHENTIC),
        (AppraisalError, Verdict.REFUSED),
        (EndorsementError, Verdict.UNDECIDED),
    )
    # A Keep without a grant is refused, whatever its evidence is worth.
    verdict = next((str(verdict) for kind, verdict in verdicts if isinstance(error, kind)), "failed")
    return {**facts, "verdict": verdict, "reason": str(error)}


def check_of(error: EnarxError) -> str | None:
    """Return the id of the check that an error is of, or of the first that failed where it has findings."""
    if isinstance(check := getattr(error, "check", None), str):
        return check
    result = getattr(error, "result", None)
    failures = result.failures if isinstance(result, AttestationResult) else ()
    return failures[0].check.id if failures else None
