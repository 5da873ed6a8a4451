# SPDX-License-Identifier: Apache-2.0
"""Find out whether what answers is a Keep that the tenant's policy accepts. Until then nothing else is sent.

Challenge, offer, verdict:

1. The challenge has a fresh nonce. The evidence that answers must be over this very session: the exporter, both leaves, the
   challenge, the offer, and the purpose.
2. Endorsements come with the offer. What is missing is fetched, where the tenant allows that; it is the vendor's, not the host's.
3. The verifier judges. A refusal tells the Keep its class and nothing more, and raises an error that has every finding.

What says that it failed before that is believed no more than anything else it says: it is one kind of error, whatever class it
names, and never a verdict.

Judging blocks for some milliseconds, or for as long as a vendor takes to answer; it happens in a thread.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from enarx.attester.attested import (
    AZURE_EVIDENCE,
    CCA_TOKEN,
    NITRO_DOCUMENT,
    SGX_QUOTE,
    SNP_REPORT,
    TDX_QUOTE,
    TPM_QUOTE,
)
from enarx.channel.transcript import (
    Transcript,
    attach_report_data,
    offer_report_data,
    receipt_digest,
    receipt_report_data,
)
from enarx.deploy.host_client import clean
from enarx.deploy.reference import image_hint
from enarx.errors import (
    AppraisalError,
    DecodeError,
    EnarxError,
    EndorsementError,
    KeepError,
    PlatformError,
    TransportError,
    UsageError,
    VerificationError,
)
from enarx.rats import AttestationResult, Endorsements, Evidence, Outcome, Verdict
from enarx.verifier import Recognised, TrustCache, recognise, verify_evidence
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.verifier.keep_evidence import BINDING, empty_keep, provisioned_keep, weigh_binding
from enarx.wire.fields import MAX_TEXT_BYTES
from enarx.wire.session import (
    Attachment,
    Challenge,
    Failure,
    KeepMessage,
    Offer,
    Receipt,
    Refuse,
    TenantMessage,
    encode_message,
)

if TYPE_CHECKING:
    from enarx.channel.session import Session
    from enarx.deploy.policy import TenantPolicy

__all__ = [
    "Attested",
    "Fetch",
    "Judge",
    "Judged",
    "Reattested",
    "attest",
    "attest_again",
    "error_class",
    "judge_receipt",
    "raise_failure",
    "refuse",
]

SEND_S = 30.0
"""For the host to take what a Keep waits for."""
OFFER_TIMEOUT_S = 90.0
FAREWELL_S = 1.0
MEDIA_TYPES = (SNP_REPORT, TDX_QUOTE, SGX_QUOTE, CCA_TOKEN, NITRO_DOCUMENT, TPM_QUOTE, AZURE_EVIDENCE)
"""Of evidence that the verifier can judge."""

Fetch = Callable[[Recognised, Endorsements, datetime], Endorsements]
"""Fetches what evidence needs and is not at hand, for a time. Raises EndorsementError with what to do where there is none of it."""

_REFUSALS: tuple[tuple[type[EnarxError], str], ...] = (
    (DecodeError, "decode"),
    (VerificationError, "verification"),
    (AppraisalError, "appraisal"),
    (EndorsementError, "endorsement"),
)
_FAILURES: dict[int, type[EnarxError]] = {102: UsageError} | {
    error.status: error
    for error in (
        DecodeError,
        VerificationError,
        AppraisalError,
        EndorsementError,
        TransportError,
        PlatformError,
        KeepError,
    )
}
_UNPROTECTED = frozenset({"nil", "vm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Evidence that the policy accepts.

    Args:
        result: with every finding.
        format: what the evidence is.
        evidence: CMW in CBOR, as it came.
        report_data: 64 bytes that it is over.
        endorsements: that came with it or were fetched; those inside the evidence itself are not repeated.
    """

    result: AttestationResult
    format: str
    evidence: bytes
    report_data: bytes
    endorsements: Endorsements


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """An offer that was accepted."""

    transcript: Transcript
    offer: Offer
    judged: Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Reattested:
    """An attachment that was accepted: the Keep of the stored receipt."""

    attachment: Attachment
    judged: Judged


class Judge:
    """Judges evidence under one policy.

    Args:
        policy: the tenant's.
        now: the time, aware UTC.
        fetch: for missing endorsements, or None where nothing may be fetched.
        accept_emulated: gives the SHA-256 of an emulated root to accept beside the policy, or None. It is asked when there is
            evidence to judge.
    """

    def __init__(
        self,
        policy: TenantPolicy,
        *,
        now: Callable[[], datetime],
        fetch: Fetch | None = None,
        accept_emulated: Callable[[], bytes] | None = None,
    ) -> None:
        self.policy = policy
        """What is applied; with the emulated root once there was evidence."""
        self._accept_emulated = accept_emulated
        self._now = now
        self._fetch = fetch
        self._cache = TrustCache()
        # An offer and its receipt bring the same; so do the Keeps of a platform.
        self._offered: tuple[tuple[bytes, ...], Endorsements] = (), Endorsements()

    def judge(
        self,
        message: Offer | Attachment | Receipt,
        report_data: bytes,
        *,
        backend: str,
        receipt: bytes | None = None,
    ) -> Judged:
        """Judge the evidence of a message, fetching what is missing.

        Args:
            message: with evidence and endorsements.
            report_data: 64 bytes that the evidence must be over.
            backend: what the Keep says it is, for hints.
            receipt: the digest of the receipt that the Keep was provisioned with; None for a Keep that is empty.

        Raises:
            DecodeError: it cannot be read.
            VerificationError: it is not authentic, or not of this session. This and the next two have the result with every finding as `result`.
            AppraisalError: the policy refuses it.
            EndorsementError: it cannot be decided.
        """
        at = self._now()
        if self._accept_emulated is not None:
            self.policy = self.policy.accepting({self._accept_emulated()})
            self._accept_emulated = None
        recognised = recognise(Evidence(data=message.evidence))
        offered, known = self._offered
        if offered != message.endorsements:
            known = read_wrapped_endorsements(message.endorsements)
            self._offered = message.endorsements, known
        policy = empty_keep(self.policy.policy) if receipt is None else provisioned_keep(self.policy.policy, receipt)

        def verify() -> AttestationResult:
            return weigh_binding(
                verify_evidence(
                    recognised, at=at, endorsements=known, policy=policy, cache=self._cache, report_data=report_data
                )
            )

        result = verify()
        if result.verdict is Verdict.UNDECIDED and self._fetch is not None:
            try:
                known += self._fetch(recognised, known, at)
            except EndorsementError as error:
                error.result = result  # type: ignore[attr-defined]
                raise
            result = verify()
        try:
            result.require()
        except EnarxError as error:
            error.hint = _next_step(result, backend, self.policy, known.event_logs)
            raise
        return Judged(
            result=result,
            format=recognised.format,
            evidence=message.evidence,
            report_data=report_data,
            endorsements=known,
        )


async def attest(session: Session, judge: Judge) -> Attested:
    """Challenge an empty Keep and judge its offer.

    Args:
        session: after its handshake.
        judge: with the tenant's policy.

    Raises:
        DecodeError: what answers speaks another language.
        VerificationError: not authentic; with every finding as `result`, like the next two.
        AppraisalError: the policy refuses it.
        EndorsementError: it cannot be decided.
        TransportError: no answer in time, or one that it cannot be done.
    """
    transcript, message = await _challenge(session)
    if not isinstance(message, Offer):
        await _refuse(session, "usage")
        raise _taken(message)
    report_data = offer_report_data(transcript, message)
    judged = await _judge(session, judge, message, report_data)
    return Attested(transcript=transcript, offer=message, judged=judged)


async def attest_again(session: Session, judge: Judge, receipt: bytes) -> Reattested:
    """Challenge the Keep that a receipt is of, before anything it says is believed.

    Args:
        session: after its handshake, with the deployment's key.
        judge: with the policy of the deployment.
        receipt: digest of the stored receipt, 48 bytes. It is in what the evidence must be over, so another Keep's does not fit.

    Raises:
        VerificationError: it is another Keep, or not authentic; otherwise as `attest` says.
    """
    transcript, message = await _challenge(session)
    if not isinstance(message, Attachment):
        await _refuse(session, "usage")
        raise VerificationError(
            "this is not the Keep of the receipt: found an empty Keep, want the one that was provisioned",
            hint="the host may have started another one under its name: what ran there is gone",
        )
    report_data = attach_report_data(transcript, message, receipt)
    judged = await _judge(session, judge, message, report_data, receipt)
    return Reattested(attachment=message, judged=judged)


async def judge_receipt(judge: Judge, attested: Attested, receipt: Receipt) -> Judged:
    """Judge the evidence of a receipt under the same policy; raises as `Judge.judge` does."""
    report_data = receipt_report_data(attested.judged.report_data, receipt)
    return await asyncio.to_thread(
        judge.judge,
        receipt,
        report_data,
        backend=attested.offer.image.backend,
        receipt=receipt_digest(receipt),
    )


def error_class(kind: int) -> type[EnarxError]:
    """Return the class that a Keep means by a number, 102 to 109: the exit status that `deploy` has for it."""
    return _FAILURES.get(kind, KeepError)


def raise_failure(failure: Failure) -> NoReturn:
    """Raise what a Keep that was accepted says went wrong, as its class."""
    raise error_class(failure.kind)(f"the Keep says: {clean(failure.message, MAX_TEXT_BYTES)}")


async def _challenge(session: Session) -> tuple[Transcript, TenantMessage | KeepMessage]:
    challenge = Challenge(nonce=secrets.token_bytes(32), media_types=MEDIA_TYPES)
    message: TenantMessage | KeepMessage | None
    try:
        await session.send(challenge, timeout_s=SEND_S)
        message = await session.receive(OFFER_TIMEOUT_S)
    except TransportError:
        # Why it has ended the session says more than that it has.
        message = await session.hear_out(FAREWELL_S)
        if message is None:
            raise
    if isinstance(message, Failure):
        raise TransportError(
            f"cannot attest the Keep: found a failure, want evidence: {clean(message.message, 4096)}",
            hint="that is what answers under its name; nothing has proven that it is a Keep",
        )
    transcript = session.transcript(encode_message(challenge))
    return transcript, message


async def _judge(
    session: Session, judge: Judge, message: Offer | Attachment, report_data: bytes, receipt: bytes | None = None
) -> Judged:
    try:
        return await asyncio.to_thread(
            judge.judge, message, report_data, backend=message.image.backend, receipt=receipt
        )
    except EnarxError as error:
        await refuse(session, error)
        raise


async def refuse(session: Session, error: EnarxError) -> None:
    """Tell a Keep that it is not wanted, by the class of the error and nothing more. Whether it arrives changes nothing here."""
    await _refuse(session, next((name for kind, name in _REFUSALS if isinstance(error, kind)), "usage"))


async def _refuse(session: Session, kind: str) -> None:
    try:
        await session.send(Refuse(kind), timeout_s=FAREWELL_S)
    except TransportError:
        return
    finally:
        await session.close()


def _taken(message: TenantMessage | KeepMessage) -> EnarxError:
    if isinstance(message, Attachment):
        return VerificationError(
            "this Keep is not empty: found one that was provisioned already, want one that runs nothing",
            hint="somebody else was first, the host perhaps; deploy again for another Keep",
        )
    return DecodeError(f"cannot understand the Keep: found a message {type(message).__name__.lower()}, want an offer")


def _next_step(
    result: AttestationResult, backend: str, policy: TenantPolicy, event_logs: tuple[bytes, ...] = ()
) -> str | None:
    """Return what to do about a verdict."""
    if result.verdict is Verdict.NOT_AUTHENTIC and all(f.check.id.endswith(BINDING) for f in result.failures):
        return "it is not of this session: the host may have relayed or replayed somebody else's, do not trust it"
    if (
        result.verdict is Verdict.NOT_AUTHENTIC
        and backend in _UNPROTECTED
        and not policy.policy.insecure_emulated_roots
    ):
        return (
            "this Keep's platform is EMULATED, software that protects nothing from its host; for a trial,"
            " --insecure-accept-emulated accepts this installation's own, =ROOT-SHA256 another's"
        )
    undecided = [finding for finding in result.findings if finding.outcome is Outcome.UNDECIDED]
    if result.verdict is Verdict.UNDECIDED and any(finding.check.id == "tpm.ak.trust" for finding in undecided):
        return (
            "a TPM without a certificate is accepted only by its key: insecure_vtpm_aks of a policy, named by --policy"
        )
    if result.verdict is Verdict.UNDECIDED and undecided:
        return "the vendor's certificates or lists are missing or out of date: without --offline they are fetched"
    if result.verdict is Verdict.REFUSED:
        by_image = image_hint(result, policy.images, event_logs) if policy.images != () else None
        return by_image or f"the policy {clean(policy.name, 200)} says what is accepted; enarx policy check explains it"
    return None
