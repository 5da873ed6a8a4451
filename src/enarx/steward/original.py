# SPDX-License-Identifier: Apache-2.0
"""The protocol of the original Enarx's Steward: one POST with a certificate request that has evidence in it, a certificate back.

What such a certificate proves is a key in a genuine TEE that the policy accepts, and no more: there is no nonce, so the evidence may be as old
as the key; the evidence is over the key alone, so nothing says what runs beyond what is measured at launch. So this has an authority
of its own, that nobody needs to trust for anything else; its certificates have no name that a client looks for; and it is off unless the
operator enables it.

What differs from the original: the policy is always applied, evidence always binds the key, plain virtual machines get nothing, names of
requests are not copied, and the reason of a refusal is said.

Source: enarx/steward, main.rs and crates/attestation (Apache-2.0); docs/formats.md, "Requests of the original Enarx".
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from enarx.abi.enarx_csr import encode_bundle_answer, encode_pki_path, parse_bundle_untrusted, parse_csr_untrusted
from enarx.errors import DecodeError, UsageError
from enarx.rats import AttestationResult, Endorsements, Evidence
from enarx.steward.authority import Authority
from enarx.steward.certificates import KeepKey, require_key, spki_of
from enarx.steward.judging import OperatorPolicy, judge_recognised
from enarx.steward.vendors import Fetch
from enarx.verifier import TrustCache, recognise

__all__ = [
    "BUNDLE_TYPE",
    "REQUEST_TYPE",
    "RESPONSE_TYPE",
    "OriginalAnswer",
    "OriginalIssued",
    "OriginalSteward",
]

REQUEST_TYPE = "application/pkcs10"
BUNDLE_TYPE = "application/vnd.steward.pkcs10-bundle.v1"
RESPONSE_TYPE = "application/octet-stream"
MAX_BODY_BYTES = 1 << 20


class OriginalIssued(NamedTuple):
    """One certificate.

    Args:
        certificate: that was issued.
        result: that it rests on.
        request: in DER, with the evidence.
        spki: SHA-384 of the key's SubjectPublicKeyInfo.
    """

    certificate: x509.Certificate
    result: AttestationResult
    request: bytes
    spki: bytes


class OriginalAnswer(NamedTuple):
    """What is answered.

    Args:
        body: of type `RESPONSE_TYPE`.
        issued: certificates in it, in the order of the requests.
    """

    body: bytes
    issued: tuple[OriginalIssued, ...]


class OriginalSteward:
    """Answers the original's protocol; for any number of threads.

    Args:
        authority: of this protocol alone.
        policy: the operator's.
        fetch: for missing endorsements, or None where nothing is fetched.
        cache: remembers chains and collateral; None is a new one.
    """

    def __init__(
        self,
        authority: Authority,
        policy: OperatorPolicy,
        *,
        fetch: Fetch | None = None,
        cache: TrustCache | None = None,
    ) -> None:
        self.authority = authority
        self.policy = policy
        self._fetch = fetch
        self._cache = cache if cache is not None else TrustCache()

    def answer(self, body: bytes, media_type: str, *, now: datetime) -> OriginalAnswer:
        """Answer one request, or a bundle of them: all of it or nothing.

        Args:
            body: of the request.
            media_type: `REQUEST_TYPE` or `BUNDLE_TYPE`.
            now: aware.

        Raises:
            UsageError: another media type.
            NoEvidenceError: a request has no evidence.
            DecodeError: a request is not well formed.
            VerificationError: a request or its evidence is not authentic; what is about evidence has every finding as `result`, like the
                next two.
            AppraisalError: the policy refuses it.
            EndorsementError: it cannot be decided.
        """
        if len(body) > MAX_BODY_BYTES:
            raise DecodeError(f"cannot decode the request: found {len(body)} bytes, want at most {MAX_BODY_BYTES}")
        # The original sends the issuer and what is above it, the root first, and the leaf last.
        above = [each.public_bytes(Encoding.DER) for each in reversed(self.authority.chain)]
        if media_type == REQUEST_TYPE:
            one = self._issue(body, now)
            return OriginalAnswer(encode_pki_path([*above, _der(one)]), (one,))
        if media_type == BUNDLE_TYPE:
            issued = tuple(self._issue(request, now) for request in parse_bundle_untrusted(body))
            return OriginalAnswer(encode_bundle_answer(above, list(map(_der, issued))), issued)
        raise UsageError(f"cannot answer {ascii(media_type)[:80]}: want {REQUEST_TYPE} or {BUNDLE_TYPE}")

    def _issue(self, request: bytes, now: datetime) -> OriginalIssued:
        key = _key_of(request)
        recognised = recognise(Evidence(data=request))
        if recognised.binding is None or recognised.binding.is_signed is None:
            raise DecodeError(f"cannot decode the request: found {recognised.format}, want a certificate request")
        result = judge_recognised(
            recognised,
            Endorsements(),
            self.policy.policy,
            report_data=recognised.binding.expected,
            fetch=self._fetch,
            cache=self._cache,
            now=now,
        )
        result.require()
        certificate = self.authority.issue_original(
            key, at=now, valid_until=result.valid_until, is_emulated=result.emulated
        )
        return OriginalIssued(certificate, result, request, spki_of(key))


def _key_of(request: bytes) -> KeepKey:
    try:
        key = load_der_public_key(parse_csr_untrusted(request).public_key)
    except (ValueError, TypeError) as error:
        raise DecodeError("cannot decode the request: found a key that cannot be read, want one") from error
    return require_key(key)


def _der(issued: OriginalIssued) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)
