# SPDX-License-Identifier: Apache-2.0
"""What it takes to decide one request, with plain values in and out, so that it can be done in another process than the one that is asked.

A court judges by one set of rules, and signs what it grants: certificates and results. It knows neither the log nor who waits for an answer.
What is made here is no decision yet: that is what is in the log.

Rules of this file:

- What goes in and comes out can be pickled, and holds no key. A recipe does: it goes to processes of this Steward alone.
- A court that is made of a recipe judges as the one that the recipe was made for, and fetches nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

import enarx
from enarx.crypto.x509 import load_certificates
from enarx.errors import EnarxError, EndorsementError, UsageError
from enarx.rats import Verdict
from enarx.steward.authority import Authority, load_authority_key, write_key
from enarx.steward.configuration import Configuration
from enarx.steward.entries import as_ms, as_time, encode_entry
from enarx.steward.facts import check_of, facts_of_granted, facts_of_original, facts_of_result, row_of
from enarx.steward.issued import Issued, IssuedRow
from enarx.steward.judging import Judge, read_policy
from enarx.steward.key_uris import KeyUri
from enarx.steward.original import OriginalSteward
from enarx.steward.token_key import TokenError, TokenKey, open_token_key
from enarx.steward.vendors import lists_at_hand
from enarx.wire.ear import build_ear, sign_ear_jwt
from enarx.wire.steward import CertificateRequest, ResultRequest

__all__ = [
    "Appraised",
    "Bench",
    "Certified",
    "Certifier",
    "Certifying",
    "Court",
    "OriginalCertified",
    "Recipe",
    "Rules",
]

_LEAST_NONCE_BYTES = 8  # of a nonce in an EAR
_T = TypeVar("_T")


class Certified(NamedTuple):
    """A certificate that may be told once it is in the log; of what its Keep showed, nothing is in it.

    Args:
        certificate: in DER.
        body: of its entry.
        serial: of the certificate.
        not_after_ms: when it ends, in milliseconds since 1970.
        spki: SubjectPublicKeyInfo in DER.
        report_data: what the evidence is over.
    """

    certificate: bytes
    body: bytes
    serial: int
    not_after_ms: int
    spki: bytes
    report_data: bytes

    def row(self, request: CertificateRequest) -> IssuedRow:
        """Return what has to be kept of it.

        Args:
            request: that it was given for.
        """
        return IssuedRow(
            serial=self.serial,
            not_after=as_time(self.not_after_ms),
            evidence=request.evidence,
            endorsements=request.endorsements,
            receipt=request.receipt,
            spki=self.spki,
            report_data=self.report_data,
        )


class Certifying:
    """What has a court certify a Keep. It is small and quick to pickle, as is what it returns.

    Args:
        request: whose nonce was found to be ours.
        now: aware; a court judges by its milliseconds.
    """

    __slots__ = ("_now_ms", "_request")

    def __init__(self, request: CertificateRequest, now: datetime) -> None:
        self._request = request
        self._now_ms = as_ms(now)

    def __call__(self, court: Court) -> Certified:
        """Certify; see `Court.certify`."""
        return court.certify(self._request, as_time(self._now_ms))

    def __reduce__(self) -> tuple[object, ...]:
        return _certifying, (*self._request, self._now_ms)


def _certifying(*sent: Any) -> Certifying:
    made = Certifying.__new__(Certifying)
    made._request, made._now_ms = CertificateRequest(*sent[:-1]), sent[-1]
    return made


class Appraised(NamedTuple):
    """A result that may be told once it is in the log.

    Args:
        token: an EAR as JWT.
        body: of its entry.
        is_undecided: whether something was missing.
    """

    token: str
    body: bytes
    is_undecided: bool


class OriginalCertified(NamedTuple):
    """What may be answered in the original's protocol once it is in the log.

    Args:
        answer: of type `enarx.steward.original.RESPONSE_TYPE`.
        bodies: of the entries.
    """

    answer: bytes
    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Court:
    """Judges, and signs what is granted.

    Args:
        judge: by the rules.
        policy_sha256: of the policy's text.
        authority: issues certificates.
        result_key: signs results, on P-384.
        original: answers the original's protocol; None where that is off.
    """

    judge: Judge
    policy_sha256: bytes
    authority: Authority
    result_key: ec.EllipticCurvePrivateKey = field(repr=False)
    original: OriginalSteward | None = None

    def certify(self, request: CertificateRequest, now: datetime) -> Certified:
        """Judge a Keep, and issue its certificate.

        Args:
            request: whose nonce was found to be ours.
            now: aware.

        Raises:
            DecodeError: what is in the request is not well formed.
            VerificationError: evidence or request are not authentic.
            AppraisalError: the policy refuses it, or no grant names it.
            EndorsementError: it cannot be judged.
        """
        granted = self.judge.certify(request, now=now)
        certificate = self.authority.issue(granted.wanted, at=now)
        row = row_of(granted, certificate, request)
        facts = {**facts_of_granted(granted, certificate), "kept_sha256": row.kept_sha256}
        body = self._entry("certificate", now, request.evidence, nonce=request.nonce, **facts)
        return Certified(
            certificate=facts["certificate"],
            body=body,
            serial=row.serial,
            not_after_ms=as_ms(row.not_after),
            spki=row.spki,
            report_data=row.report_data,
        )

    def appraise(self, request: ResultRequest, now: datetime) -> Appraised:
        """Judge anybody's evidence, and sign what comes of it.

        Args:
            request: the evidence.
            now: aware.

        Raises:
            DecodeError: what is in the request is not well formed.
        """
        result = self.judge.appraise(request.evidence, request.endorsements, request.report_data, now=now)
        nonce = request.report_data if len(request.report_data) >= _LEAST_NONCE_BYTES else None
        ear = build_ear(
            result,
            issued_at=now,
            evidence_sha256=sha256(request.evidence).digest(),
            build=enarx.__version__,
            nonce=nonce,
            evidence_nonce=nonce if result.verdict is Verdict.ACCEPTED else None,
            policy_ids=(result.policy_name, f"sha256:{self.policy_sha256.hex()}"),
        )
        token = sign_ear_jwt(ear, self.result_key)
        body = self._entry("result", now, request.evidence, **facts_of_result(result))
        return Appraised(token, body, result.verdict is Verdict.UNDECIDED)

    def certify_original(self, body: bytes, media_type: str, now: datetime) -> OriginalCertified:
        """Answer the original's protocol.

        Args:
            body: of the request.
            media_type: of it.
            now: aware.

        Raises:
            UsageError: it is off, or another media type.
            DecodeError: a request is not well formed.
            VerificationError: a request or its evidence is not authentic.
            AppraisalError: the policy refuses it.
            EndorsementError: it cannot be judged.
        """
        if self.original is None:
            raise UsageError(
                "cannot answer the original's protocol: found it not enabled, want [original] in steward.toml"
            )
        answer = self.original.answer(body, media_type, now=now)
        bodies = [
            encode_entry(
                kind="original",
                at=now,
                policy_sha256=self.policy_sha256,
                **facts_of_result(issued.result),
                **facts_of_original(issued),
            )
            for issued in answer.issued
        ]
        return OriginalCertified(answer.body, tuple(bodies))

    def refresh(self, issued: Issued, now: datetime) -> None:
        """Have what vendors say now at hand before a certificate is judged again.

        Args:
            issued: the certificate, and what is kept of it.
            now: aware.
        """
        # What is wrong is said when it is judged.
        with contextlib.suppress(EnarxError):
            self.judge.refresh(issued.row, now=now)

    def reason_to_revoke(self, issued: Issued, now: datetime) -> str | None:
        """Return why a certificate would not be given now, None where it would be, and nothing where that cannot be said.

        Args:
            issued: the certificate, and what is kept of it.
            now: aware.
        """
        try:
            self.judge.again(issued.row, issued.certificate, now=now).require()
        except EndorsementError:
            return ""
        except EnarxError as error:
            return check_of(error) or str(error)
        return None

    def _entry(self, kind: str, now: datetime, evidence: bytes, **facts: Any) -> bytes:
        return encode_entry(
            kind=kind,
            at=now,
            policy_sha256=self.policy_sha256,
            evidence_sha256=sha256(evidence).digest(),
            **facts,
        )


class Certifier(NamedTuple):
    """What an authority is made of.

    Args:
        key: PKCS #8 in PEM, or where it is: then each process has a session of its own with the token.
        chain: certificates in PEM, the root last.
    """

    key: bytes | KeyUri
    chain: bytes

    @classmethod
    def of(cls, authority: Authority) -> Certifier:
        """Return what an authority is made of."""
        key = authority.key
        return cls(key.uri if isinstance(key, TokenKey) else write_key(key), authority.chain_pem)

    def make(self) -> Authority:
        """Return the authority, without looking at it again.

        Raises:
            ConfigError: it is none.
            TokenError: the token cannot be used.
        """
        chain = tuple(load_certificates(self.chain, path="the authority's certificates"))
        if isinstance(self.key, bytes):
            return Authority(certificates=chain, key=load_authority_key(self.key, path="the authority's key"))
        try:
            return Authority(certificates=chain, key=open_token_key(self.key))
        except EnarxError as error:
            # It could be used when the service started, and who asks now is not who can mend it.
            raise TokenError(str(error), hint=error.hint) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a court is made of in another process. It has keys in it.

    Args:
        policy_text: with the values of images in place of their names.
        policy_name: for messages and results.
        accepted_roots: SHA-256 of emulated roots that are accepted beside the text.
        configuration: has the grants.
        authority: of certificates.
        result_key: of results, PKCS #8 in PEM.
        original: of the original's protocol; None where that is off.
        kept: folder of what was fetched, whose lists count too; None where nothing is fetched.
    """

    policy_text: bytes
    policy_name: str
    accepted_roots: frozenset[bytes]
    configuration: Configuration
    authority: Certifier = field(repr=False)
    result_key: bytes = field(repr=False)
    original: Certifier | None = field(default=None, repr=False)
    kept: str | None = None

    def make(self) -> Court:
        """Return the court.

        Raises:
            ConfigError: a part of it is not what it should be.
            TokenError: a token cannot be used.
        """
        policy = read_policy(
            self.policy_text, path=self.policy_name, name=self.policy_name, accepted_roots=self.accepted_roots
        )
        result_key = load_authority_key(self.result_key, path="the key of results")
        authority = self.authority.make()
        judge = Judge(
            policy,
            self.configuration,
            root=authority.certificate,
            result_key=result_key,
            newest=None if self.kept is None else lists_at_hand(self.kept),
        )
        original = None if self.original is None else OriginalSteward(self.original.make(), policy, cache=judge.cache)
        return Court(
            judge=judge,
            policy_sha256=policy.sha256,
            authority=authority,
            result_key=result_key,
            original=original,
        )


class Rules(NamedTuple):
    """By what is decided, as long as it is in force.

    Args:
        court: judges with what is at hand.
        fetching: the same, and fetches from vendors what is missing; None where nothing may be fetched.
        recipe: of the first in other processes; None where there are none.
        for_results: as `fetching`, for anybody's evidence; None where nothing may be fetched.
    """

    court: Court
    fetching: Court | None
    recipe: Recipe | None = None
    for_results: Court | None = None


class Bench(Protocol):
    """Where courts sit."""

    @property
    def count(self) -> int:
        """How many sit at once."""

    @property
    def taken(self) -> int:
        """How many requests are judged or wait for it."""

    async def run(self, rules: Rules, work: Callable[[Court], _T]) -> tuple[_T, float]:
        """Have something done by a court of these rules.

        Args:
            rules: in force now; never some that were in force before others that were given.
            work: what is to be done, as a partial of a method: it is pickled.

        Returns:
            What it returned, and how many seconds it took. What it raises is raised.

        Raises:
            BusyError: none sits, or it has ended.
        """
