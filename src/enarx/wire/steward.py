# SPDX-License-Identifier: Apache-2.0
"""What a Keep or a verifier asks a Steward, and what it answers: JSON in both directions, version 1.

Rules of this file:

- Each message has one encoder and one decoder, for both ends. Bytes are base64 (digests and nonces hex), times are UTC to the second.
- A member too many or too few is refused. Only a problem document may have members that nobody here knows, because RFC 9457 says so.
- What is in the bytes is looked at elsewhere: certificates, evidence and receipts are believed by nobody who has only decoded them.
- A Keep uses it, which holds no verifier and no web framework: nothing but the standard library is needed here.

Source: RFC 9457 for problems; RFC 9110 for status codes. docs/formats/steward-api.json says the same as an OpenAPI document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from enarx.errors import DecodeError, UsageError
from enarx.wire.json_members import Members, base64_of, time_text
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "CERTIFICATES_PATH",
    "CHALLENGE_PATH",
    "MAX_ANSWER_BYTES",
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN",
    "MAX_CSR_BYTES",
    "MAX_EMPTY_BYTES",
    "MAX_ENDORSEMENTS",
    "MAX_EVIDENCE_BYTES",
    "MAX_KEPT_ENDORSEMENTS_BYTES",
    "MAX_PROBLEM_BYTES",
    "MAX_RECEIPT_BYTES",
    "MAX_REQUEST_BYTES",
    "MEDIA_TYPE_JSON",
    "MEDIA_TYPE_PROBLEM",
    "NONCE_BYTES",
    "PROBLEMS",
    "RESULTS_PATH",
    "ROOT_BYTES",
    "CertificateAnswer",
    "CertificateRequest",
    "ChallengeAnswer",
    "Problem",
    "ProblemKind",
    "ResultRequest",
    "decode_certificate_answer_untrusted",
    "decode_certificate_request_untrusted",
    "decode_challenge_answer_untrusted",
    "decode_challenge_request_untrusted",
    "decode_problem_untrusted",
    "decode_result_request_untrusted",
    "encode_certificate_answer",
    "encode_certificate_request",
    "encode_challenge_answer",
    "encode_problem",
    "encode_result_request",
    "make_problem",
]

CHALLENGE_PATH = "/v1/challenge"
CERTIFICATES_PATH = "/v1/certificates"
RESULTS_PATH = "/v1/results"

MEDIA_TYPE_JSON = "application/json"
MEDIA_TYPE_PROBLEM = "application/problem+json"

NONCE_BYTES = 32
ROOT_BYTES = 48
"""Of the digest that names a root, SHA-384."""
MAX_REQUEST_BYTES = 4 << 20
MAX_EMPTY_BYTES = 1024
"""Of a request that says nothing."""
MAX_ANSWER_BYTES = 1 << 20
MAX_PROBLEM_BYTES = 128 << 10
MAX_CSR_BYTES = 8 << 10
MAX_RECEIPT_BYTES = 4096
MAX_EVIDENCE_BYTES = 1 << 20
"""Of evidence, and of each endorsement that comes with it."""
MAX_ENDORSEMENTS = 8
MAX_KEPT_ENDORSEMENTS_BYTES = 256 << 10
"""Of all that come with a request for a certificate: they are kept as long as the log is."""
MAX_ITEMS = 256
"""Of `[{,:` in a request, which has 25 at most."""
MAX_CHAIN = 8
MAX_CERTIFICATE_BYTES = 64 << 10
MAX_REPORT_DATA_BYTES = 64
MAX_FINDINGS = 32
_MAX_LINE_CHARS = 1024
_MAX_FINDING_CHARS = 256
_MAX_TYPE_CHARS = 256
_URN = "urn:enarx:problem:"


class ChallengeAnswer(NamedTuple):
    """What evidence has to be over.

    Args:
        nonce: 32 bytes, for one request.
        expires: when it is worth nothing any more.
    """

    nonce: bytes
    expires: datetime


class CertificateRequest(NamedTuple):
    """A Keep asks for its certificate.

    Args:
        csr: PKCS#10 in DER: the key, and that it is held.
        receipt: what `enarx.wire.session.without_evidence` returns for the receipt that the Keep sent.
        evidence: CMW in CBOR, of purpose `identity`.
        endorsements: CMWs in CBOR that came with it, at most 8.
        nonce: 32 bytes, the Steward's.
        root: SHA-384 of the DER of the Steward's root that the Keep was given.
    """

    csr: bytes
    receipt: bytes
    evidence: bytes
    endorsements: tuple[bytes, ...]
    nonce: bytes
    root: bytes


class CertificateAnswer(NamedTuple):
    """A certificate.

    Args:
        chain: in DER, the Keep's first, then each one's issuer; at most 8.
        not_after: when the Keep's certificate ends.
        renew_after: when it should be renewed.
        log_index: of the decision in the Steward's log.
    """

    chain: tuple[bytes, ...]
    not_after: datetime
    renew_after: datetime
    log_index: int


class ResultRequest(NamedTuple):
    """Somebody asks what a Steward concludes from evidence.

    Args:
        evidence: CMW, or evidence of any format the verifier recognises.
        endorsements: CMWs, at most 8.
        report_data: what the evidence should be over, 1 to 64 bytes.
    """

    evidence: bytes
    endorsements: tuple[bytes, ...]
    report_data: bytes


class Problem(NamedTuple):
    """Why there was no answer.

    Args:
        kind: of `PROBLEMS`; empty where it is somebody else's problem document.
        title: one line, the same for each kind.
        status: of HTTP.
        detail: one line.
        hint: what to do next, one line, or None.
        check: the id of the first check that failed, or None.
        findings: all that failed or could not be decided, a line each.
    """

    kind: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    check: str | None = None
    findings: tuple[str, ...] = ()


class ProblemKind(NamedTuple):
    """What problems of one kind have in common."""

    status: int
    title: str


PROBLEMS: Mapping[str, ProblemKind] = {
    "decode": ProblemKind(400, "the request is not well formed"),
    "usage": ProblemKind(400, "the request cannot be done"),
    "no-evidence": ProblemKind(401, "the request has no evidence"),
    "not-authentic": ProblemKind(403, "the evidence is not authentic"),
    "refused": ProblemKind(403, "the evidence is not acceptable"),
    "no-grant": ProblemKind(403, "no grant names this package and tenant"),
    "not-found": ProblemKind(404, "there is nothing here"),
    "method": ProblemKind(405, "the method is another one"),
    "timeout": ProblemKind(408, "the request did not arrive in time"),
    "replayed-nonce": ProblemKind(409, "the nonce was used before"),
    "expired-nonce": ProblemKind(410, "the nonce has expired"),
    "too-large": ProblemKind(413, "the request is too large"),
    "media-type": ProblemKind(415, "the media type is another one"),
    "undecided": ProblemKind(422, "the evidence cannot be judged"),
    "internal": ProblemKind(500, "the Steward failed"),
    "unavailable": ProblemKind(503, "the Steward cannot answer now"),
}
"""By the end of their `type`."""


def make_problem(
    kind: str, detail: str, *, hint: str | None = None, check: str | None = None, findings: tuple[str, ...] = ()
) -> Problem:
    """Return a problem of a kind of `PROBLEMS`; what is too long is cut, and of findings the first are kept."""
    known = PROBLEMS[kind]
    return Problem(
        kind=kind,
        title=known.title,
        status=known.status,
        detail=_line(detail),
        hint=None if hint is None else _line(hint),
        check=None if check is None else _line(check, _MAX_TYPE_CHARS),
        findings=tuple(_line(finding, _MAX_FINDING_CHARS) for finding in findings[:MAX_FINDINGS]),
    )


# --- Challenges ------------------------------------------------------------------------------------------------------


def decode_challenge_request_untrusted(data: bytes) -> None:
    """Look at the request for a challenge: nothing, or an empty object.

    Raises:
        DecodeError: it says something.
    """
    if len(data) > MAX_EMPTY_BYTES or data.strip(b" \t\r\n"):
        _members(data, MAX_EMPTY_BYTES, _REQUEST, MAX_ITEMS).end()


def encode_challenge_answer(answer: ChallengeAnswer) -> bytes:
    """Return a challenge in JSON."""
    return _dump({"nonce": answer.nonce.hex(), "expires": time_text(answer.expires)})


def decode_challenge_answer_untrusted(data: bytes) -> ChallengeAnswer:
    """Decode a challenge.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    members = _members(data, MAX_EMPTY_BYTES, _ANSWER)
    answer = ChallengeAnswer(members.hex("nonce", NONCE_BYTES, NONCE_BYTES), members.time("expires"))
    members.end()
    return answer


# --- Certificates ----------------------------------------------------------------------------------------------------


def encode_certificate_request(request: CertificateRequest) -> bytes:
    """Return a request for a certificate in JSON.

    Raises:
        UsageError: it is larger than a Steward reads, or has more endorsements than it keeps.
    """
    size = sum(map(len, request.endorsements))
    if size > MAX_KEPT_ENDORSEMENTS_BYTES:
        raise UsageError(
            f"cannot ask the Steward: endorsements: found {size} bytes, want at most {MAX_KEPT_ENDORSEMENTS_BYTES}",
            hint="the device gave more endorsements than a Steward keeps",
        )
    data = _dump(
        {
            "csr": base64_of(request.csr),
            "receipt": base64_of(request.receipt),
            "evidence": base64_of(request.evidence),
            "endorsements": list(map(base64_of, request.endorsements)),
            "nonce": request.nonce.hex(),
            "root": request.root.hex(),
        }
    )
    return _require_size(data)


def decode_certificate_request_untrusted(data: bytes) -> CertificateRequest:
    """Decode a request for a certificate.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    members = _members(data, MAX_REQUEST_BYTES, _REQUEST, MAX_ITEMS)
    request = CertificateRequest(
        csr=members.bytes("csr", 1, MAX_CSR_BYTES),
        receipt=members.bytes("receipt", 1, MAX_RECEIPT_BYTES),
        evidence=members.bytes("evidence", 1, MAX_EVIDENCE_BYTES),
        endorsements=members.blobs("endorsements", each=MAX_EVIDENCE_BYTES, most=MAX_ENDORSEMENTS),
        nonce=members.hex("nonce", NONCE_BYTES, NONCE_BYTES),
        root=members.hex("root", ROOT_BYTES, ROOT_BYTES),
    )
    members.end()
    size = sum(map(len, request.endorsements))
    if size > MAX_KEPT_ENDORSEMENTS_BYTES:
        raise DecodeError(
            f"cannot decode {_REQUEST}: endorsements: found {size} bytes, want at most {MAX_KEPT_ENDORSEMENTS_BYTES} in all"
        )
    return request


def encode_certificate_answer(answer: CertificateAnswer) -> bytes:
    """Return a certificate and what goes with it in JSON."""
    return _dump(
        {
            "chain": list(map(base64_of, answer.chain)),
            "not-after": time_text(answer.not_after),
            "renew-after": time_text(answer.renew_after),
            "log-index": answer.log_index,
        }
    )


def decode_certificate_answer_untrusted(data: bytes) -> CertificateAnswer:
    """Decode a certificate and what goes with it.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    members = _members(data, MAX_ANSWER_BYTES, _ANSWER)
    answer = CertificateAnswer(
        chain=members.blobs("chain", each=MAX_CERTIFICATE_BYTES, most=MAX_CHAIN, least=1),
        not_after=members.time("not-after"),
        renew_after=members.time("renew-after"),
        log_index=members.uint("log-index"),
    )
    members.end()
    return answer


# --- Results ---------------------------------------------------------------------------------------------------------


def encode_result_request(request: ResultRequest) -> bytes:
    """Return a request for a result in JSON.

    Raises:
        UsageError: it is larger than a Steward reads.
    """
    data = _dump(
        {
            "evidence": base64_of(request.evidence),
            "endorsements": list(map(base64_of, request.endorsements)),
            "report-data": request.report_data.hex(),
        }
    )
    return _require_size(data)


def decode_result_request_untrusted(data: bytes) -> ResultRequest:
    """Decode a request for a result.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    members = _members(data, MAX_REQUEST_BYTES, _REQUEST, MAX_ITEMS)
    request = ResultRequest(
        evidence=members.bytes("evidence", 1, MAX_EVIDENCE_BYTES),
        endorsements=members.blobs("endorsements", each=MAX_EVIDENCE_BYTES, most=MAX_ENDORSEMENTS),
        report_data=members.hex("report-data", 1, MAX_REPORT_DATA_BYTES),
    )
    members.end()
    return request


# --- Problems --------------------------------------------------------------------------------------------------------


def encode_problem(problem: Problem) -> bytes:
    """Return a problem in JSON."""
    value: dict[str, Any] = {
        "type": _URN + problem.kind if problem.kind else "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    value |= {name: text for name, text in (("hint", problem.hint), ("check", problem.check)) if text is not None}
    if problem.findings:
        value["findings"] = list(problem.findings)
    return _dump(value)


def decode_problem_untrusted(data: bytes) -> Problem:
    """Decode a problem of a Steward's, or of what stands in front of it.

    Text comes back on one line and without control characters, because people read it.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    members = _members(data, MAX_PROBLEM_BYTES, _PROBLEM)
    kind = members.text("type", _MAX_TYPE_CHARS) if members.has("type") else ""
    return Problem(
        kind=kind.removeprefix(_URN) if kind.removeprefix(_URN) in PROBLEMS and kind.startswith(_URN) else "",
        title=_line(members.text("title")) if members.has("title") else "",
        status=members.uint("status", 599, 400),
        detail=_line(members.text("detail")) if members.has("detail") else "",
        hint=_line(members.text("hint")) if members.has("hint") else None,
        check=_line(members.text("check", _MAX_TYPE_CHARS)) if members.has("check") else None,
        findings=tuple(map(_line, members.texts("findings", MAX_FINDINGS))) if members.has("findings") else (),
    )


_REQUEST, _ANSWER, _PROBLEM = "request to the Steward", "answer of the Steward", "problem of the Steward"


def _members(data: bytes, max_bytes: int, what: str, max_items: int | None = None) -> Members:
    return Members(load_json_untrusted(data, what=what, max_bytes=max_bytes, max_items=max_items), f"the {what}")


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _require_size(data: bytes) -> bytes:
    if len(data) > MAX_REQUEST_BYTES:
        raise UsageError(
            f"cannot ask the Steward: request: found {len(data)} bytes, want at most {MAX_REQUEST_BYTES}",
            hint="the device gave more evidence and endorsements than a Steward reads",
        )
    return data


def _line(text: str, max_chars: int = _MAX_LINE_CHARS) -> str:
    kept = "".join(character if character.isprintable() else " " for character in text)
    return kept if len(kept) <= max_chars else kept[: max_chars - 3] + "..."
