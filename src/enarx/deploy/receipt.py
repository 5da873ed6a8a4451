# SPDX-License-Identifier: Apache-2.0
"""Make a receipt of a deployment, and judge one again.

A receipt is judged by the functions that judged the deployment: what evidence has to be over is computed from the messages in it, and
the verifier has the last word. Nothing that a receipt says about itself is believed, its verdicts least of all: they are compared
with the new ones, and that is all they are for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from enarx import __version__
from enarx.channel.transcript import Transcript, offer_report_data, receipt_digest, receipt_report_data, spki_hash
from enarx.crypto.x509 import Credential
from enarx.deploy.attesting import Attested, Judged
from enarx.deploy.policy import TenantPolicy, make_policy
from enarx.errors import DecodeError, EnarxError, UsageError, VerificationError
from enarx.rats import AppraisalPolicy, AttestationResult, Endorsements, Evidence, Verdict
from enarx.verifier import TrustCache, recognise, verify_evidence
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.verifier.keep_evidence import empty_keep, provisioned_keep, weigh_binding
from enarx.wire.ear import build_ear, sign_ear_jwt, verify_ear_jwt
from enarx.wire.receipt_file import ReceiptFile
from enarx.wire.release import Identity, decode_identity_untrusted
from enarx.wire.session import (
    Challenge,
    Limits,
    Offer,
    Receipt,
    decode_keep_message_untrusted,
    decode_tenant_message_untrusted,
    encode_message,
)

__all__ = ["AttestedFacts", "Rejudged", "attested_facts", "make_receipt", "rejudge"]


def make_receipt(
    attested: Attested,
    receipt: Receipt,
    judged: Judged,
    *,
    policy: TenantPolicy,
    credential: Credential,
    host: str,
    keep_id: str,
) -> ReceiptFile:
    """Put everything into a receipt that its verdicts rest on.

    Args:
        attested: the offer and its verdict.
        receipt: as received.
        judged: the verdict on its evidence.
        policy: that was applied to both.
        credential: of the deployment; its key signs the verdicts.
        host: URL.
        keep_id: the host's name for the Keep.
    """
    transcript = attested.transcript
    return ReceiptFile(
        made_at=judged.result.at.replace(microsecond=0),
        enarx=__version__,
        host=host,
        keep=keep_id,
        keep_leaf=transcript.keep_leaf,
        tenant_leaf=transcript.tenant_leaf,
        exporter=transcript.exporter,
        challenge=transcript.challenge,
        offer=encode_message(attested.offer),
        receipt=encode_message(receipt),
        endorsements=_without(
            attested.judged.endorsements + judged.endorsements,
            read_wrapped_endorsements(attested.offer.endorsements) + read_wrapped_endorsements(receipt.endorsements),
        ),
        policy=policy.text,
        policy_name=policy.name,
        accepted_roots=policy.accepted_roots,
        offer_result=_sign(attested.judged, credential),
        receipt_result=_sign(judged, credential),
    )


def _sign(judged: Judged, credential: Credential) -> str:
    key = credential.private_key
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("cannot sign the verdict: found a deployment key of another kind, want one on P-256 or P-384")
    ear = build_ear(
        judged.result,
        issued_at=judged.result.at,
        evidence_sha256=hashlib.sha256(judged.evidence).digest(),
        build=__version__,
        evidence_nonce=judged.report_data,
    )
    return sign_ear_jwt(ear, key)


def _without(known: Endorsements, others: Endorsements) -> Endorsements:
    """Return what of `known` is not in `others`, each once."""
    return Endorsements(
        **{
            name: tuple(each for each in dict.fromkeys(getattr(known, name)) if each not in getattr(others, name))
            for name in ("certificates", "crls", "intel", "event_logs")
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudged:
    """A receipt, judged again.

    Args:
        offer: the verdict on the offer's evidence.
        receipt: the verdict on the receipt's evidence.
        format: what the evidence is.
        identity: what the Keep says it runs, and for whom.
        image: name and version of what the Keep says it is.
        backend: likewise.
        policy_name: of the policy that was applied.
        remarks: where the stored verdicts differ from the new ones, or cannot be read.
    """

    offer: AttestationResult
    receipt: AttestationResult
    format: str
    identity: Identity
    image: str
    backend: str
    policy_name: str
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on both: the offer's where it is not acceptance, else the receipt's."""
        return self.receipt.verdict if self.offer.verdict is Verdict.ACCEPTED else self.offer.verdict

    @property
    def emulated(self) -> bool:
        """Return whether it rests on an emulated platform."""
        return self.offer.emulated or self.receipt.emulated

    def require(self) -> None:
        """Return if both verdicts are acceptance; else raise the one that is not, the offer's first."""
        self.offer.require()
        self.receipt.require()


def rejudge(
    receipt_file: ReceiptFile,
    *,
    at: datetime | None = None,
    policy: TenantPolicy | None = None,
    endorsements: Endorsements | None = None,
) -> Rejudged:
    """Judge a receipt again, offline.

    Args:
        receipt_file: decoded and not believed.
        at: the time to judge for; None is the one at which it was made, as it says.
        policy: another one; None is its own.
        endorsements: beside those in it.

    Raises:
        DecodeError: a message in it is not well formed.
        ConfigError: its policy is none.
        VerificationError: its parts do not belong together.
    """
    offer, receipt = _messages(receipt_file)
    policy = policy or make_policy(
        receipt_file.policy, name=receipt_file.policy_name, accepted_roots=receipt_file.accepted_roots
    )
    transcript = Transcript(
        exporter=receipt_file.exporter,
        keep_leaf=receipt_file.keep_leaf,
        tenant_leaf=receipt_file.tenant_leaf,
        challenge=receipt_file.challenge,
    )
    offered = offer_report_data(transcript, offer)
    known = receipt_file.endorsements + (endorsements or Endorsements())
    cache = TrustCache()
    at = at or receipt_file.made_at
    formats = []

    def judge(message: Offer | Receipt, report_data: bytes, in_force: AppraisalPolicy) -> AttestationResult:
        recognised = recognise(Evidence(data=message.evidence))
        formats.append(recognised.format)
        return weigh_binding(
            verify_evidence(
                recognised,
                at=at,
                endorsements=read_wrapped_endorsements(message.endorsements) + known,
                policy=in_force,
                cache=cache,
                report_data=report_data,
            )
        )

    offer_result = judge(offer, offered, empty_keep(policy.policy))
    receipt_result = judge(
        receipt, receipt_report_data(offered, receipt), provisioned_keep(policy.policy, receipt_digest(receipt))
    )
    identity = decode_identity_untrusted(receipt.identity)
    _require_tenant(identity, receipt_file.tenant_leaf)
    remarks = [
        remark
        for name, token, result, message in (
            ("the offer", receipt_file.offer_result, offer_result, offer),
            ("the receipt", receipt_file.receipt_result, receipt_result, receipt),
        )
        if (remark := _compare(name, token, result, message.evidence, receipt_file))
    ]
    return Rejudged(
        offer=offer_result,
        receipt=receipt_result,
        format=formats[0],
        identity=identity,
        image=f"{offer.image.name} {offer.image.version}",
        backend=offer.image.backend,
        policy_name=policy.name,
        remarks=tuple(remarks),
    )


def _messages(receipt_file: ReceiptFile) -> tuple[Offer, Receipt]:
    challenge = decode_tenant_message_untrusted(receipt_file.challenge)
    offer = decode_keep_message_untrusted(receipt_file.offer)
    receipt = decode_keep_message_untrusted(receipt_file.receipt)
    if not isinstance(challenge, Challenge) or not isinstance(offer, Offer) or not isinstance(receipt, Receipt):
        found = ", ".join(type(message).__name__.lower() for message in (challenge, offer, receipt))
        raise DecodeError(f"cannot decode the receipt: messages: found {found}, want challenge, offer, receipt")
    return offer, receipt


def _require_tenant(identity: Identity, tenant_leaf: bytes) -> None:
    try:
        found = spki_hash(tenant_leaf)
    except ValueError as error:
        raise DecodeError("cannot decode the receipt: tenant-leaf: found no certificate, want one in DER") from error
    if found != identity.tenant:
        raise VerificationError(
            "the receipt is not authentic: identity.tenant: found the digest of another key, want that of tenant-leaf"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedFacts:
    """What a receipt of the tenant's own says, for lists: judged when it was made, and not again.

    Args:
        at: when it was judged.
        identity: what the Keep said it runs.
        image: what the Keep said it is, with its version.
        backend: likewise.
        limits: in force.
        status: of the verdict, in the terms of EAR.
        emulated: whether it rests on an emulated platform.
        policy_name: that was applied.
    """

    at: datetime
    identity: Identity
    image: str
    backend: str
    limits: Limits
    status: str
    emulated: bool
    policy_name: str


def attested_facts(receipt_file: ReceiptFile) -> AttestedFacts:
    """Return what the tenant's own receipt says, its signature checked.

    Raises:
        DecodeError: it is not well formed.
        VerificationError: its verdicts are not signed by the deployment key.
    """
    offer, receipt = _messages(receipt_file)
    ear = verify_ear_jwt(receipt_file.receipt_result, [_key_of(receipt_file)], at=receipt_file.made_at)
    appraisal = next(iter(ear.submods.values()))
    return AttestedFacts(
        at=receipt_file.made_at,
        identity=decode_identity_untrusted(receipt.identity),
        image=f"{offer.image.name} {offer.image.version}",
        backend=offer.image.backend,
        limits=receipt.limits,
        status=appraisal.status.name.lower(),
        emulated=bool(appraisal.verifier_claims.get("enarx_emulated", True)),
        policy_name=receipt_file.policy_name,
    )


def _key_of(receipt_file: ReceiptFile) -> ec.EllipticCurvePublicKey:
    try:
        key = x509.load_der_x509_certificate(receipt_file.tenant_leaf).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise DecodeError("cannot decode the receipt: tenant-leaf: found no certificate, want one in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DecodeError("cannot decode the receipt: tenant-leaf: found a key of another kind, want an elliptic curve")
    return key


def _compare(
    name: str, token: str, result: AttestationResult, evidence: bytes, receipt_file: ReceiptFile
) -> str | None:
    """Return how a stored verdict differs from the new one, or None."""
    try:
        ear = verify_ear_jwt(token, [_key_of(receipt_file)], at=receipt_file.made_at)
    except EnarxError as error:
        return f"the stored verdict on {name} cannot be read: {error}"
    claims = next(iter(ear.submods.values())).verifier_claims
    if claims.get("enarx_evidence_sha256") != hashlib.sha256(evidence).hexdigest():
        return f"the stored verdict on {name} is about other evidence"
    if claims.get("enarx_verdict") != str(result.verdict):
        return f"the stored verdict on {name} was {claims.get('enarx_verdict')}, and now it is {result.verdict}"
    return None
