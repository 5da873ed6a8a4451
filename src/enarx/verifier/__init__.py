# SPDX-License-Identifier: Apache-2.0
"""Judge attestation evidence: is it authentic, and is it acceptable?

Runs: tenant, Steward, anywhere. Trusted by: whoever relies on its verdict.

Judging is pure: evidence, endorsements, policy, trust anchors and time are arguments, and nothing here opens a file, a
socket or a clock (the pinned roots are this package's own data). The same arguments give the same verdict anywhere, offline.

The long way, where each step's type says what may be believed:

    parsed = recognise(Evidence(data=...))                 # decoded, not believed
    verified = verify(parsed, at=..., endorsements=...)    # Verified: authentic, not yet acceptable
    result = appraise(verified, policy=...)                # acceptable?

The short way, which never raises for a verdict and shows every check even when the first one fails:

    result = verify_evidence(Evidence(data=...), at=..., policy=...)
    result.require()

Source: RFC 9334.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from enarx.errors import UsageError
from enarx.rats import AttestationResult, Check, Claims, Concern, Endorsements, Verified
from enarx.verifier.appraisal import apply_rules
from enarx.verifier.cache import TrustCache
from enarx.verifier.ledger import Examined, Ledger, Setting
from enarx.verifier.recognise import Recognised, recognise
from enarx.verifier.registry import baseline_policy, judge_of
from enarx.verifier.roots import pinned_anchors

if TYPE_CHECKING:
    from datetime import datetime

    from enarx.rats import AppraisalPolicy, Evidence, TrustAnchors

__all__ = [
    "Recognised",
    "TrustCache",
    "appraise",
    "baseline_policy",
    "pinned_anchors",
    "recognise",
    "verify",
    "verify_evidence",
]

KEY_BOUND = Check(
    "wrapper.key", "the evidence binds the key it came with", Concern.AUTHENTICITY, "enarx/steward, crates/attestation"
)
KEY_HELD = Check(
    "wrapper.signature",
    "the request is signed with the key it asks a certificate for",
    Concern.AUTHENTICITY,
    "RFC 2986 4.2",
)
TEE_ACCEPTED = Check("policy.tee", "the policy accepts this kind of TEE", Concern.APPRAISAL, "RFC 9334 8.5")


def verify_evidence(
    evidence: Evidence | Recognised,
    *,
    at: datetime,
    endorsements: Endorsements | None = None,
    policy: AppraisalPolicy | None = None,
    anchors: TrustAnchors | None = None,
    cache: TrustCache | None = None,
    report_data: bytes | None = None,
) -> AttestationResult:
    """Judge evidence of any known format.

    Args:
        evidence: the bytes, of which the format is recognised; or what `recognise` returned for them.
        at: the time to judge for, aware.
        endorsements: what the evidence does not bring itself.
        policy: None applies `baseline_policy()`: authentic, not debuggable, and nothing said about what runs.
        anchors: None are the pinned roots of the vendors.
        cache: remembers chains and collateral between calls.
        report_data: the freshness value that the evidence must carry, at least one byte, or None.

    Returns:
        The result, whatever the verdict; `result.require()` raises for any but acceptance.

    Raises:
        DecodeError: the evidence, or an endorsement, is not well formed or of no known format.
        UsageError: `at` is naive, or `report_data` empty.
    """
    recognised = evidence if isinstance(evidence, Recognised) else recognise(evidence)
    setting = _make_setting(at, policy, anchors, cache, report_data)
    ledger = Ledger()
    examined = _examine(recognised, endorsements, setting, ledger)
    return _appraise(examined, policy, setting, ledger)


def verify(
    recognised: Recognised,
    *,
    at: datetime,
    endorsements: Endorsements | None = None,
    anchors: TrustAnchors | None = None,
    cache: TrustCache | None = None,
) -> Verified[Claims]:
    """Find out whether evidence is authentic.

    Args:
        recognised: what `recognise` returned.
        at: as for `verify_evidence`, like all that follow.
        endorsements: what the evidence does not bring itself.
        anchors: None are the pinned roots of the vendors.
        cache: remembers chains and collateral between calls.

    Raises:
        VerificationError: it is not.
        EndorsementError: what would decide it is missing or stale.
        DecodeError: an endorsement is not well formed.
        UsageError: `at` is naive.
    """
    setting = _make_setting(at, None, anchors, cache, None)
    ledger = Ledger()
    examined = _examine(recognised, endorsements, setting, ledger)
    _result(examined, "none", setting, ledger).require()
    return Verified._create(
        examined.claims,
        tuple(ledger.findings),
        _Context(examined, setting.at, ledger.valid_until, tuple(ledger.chains)),
    )


def appraise(
    verified: Verified[Claims], *, policy: AppraisalPolicy, report_data: bytes | None = None
) -> AttestationResult:
    """Find out whether authentic claims are acceptable.

    Args:
        verified: what `verify` returned.
        policy: the relying party's.
        report_data: as for `verify_evidence`.

    Returns:
        The result with the findings of both steps.
    """
    context = verified._context
    if not isinstance(context, _Context):
        raise TypeError("found claims that were not verified here")
    ledger = Ledger()
    ledger.findings.extend(verified.findings)
    ledger.valid_until = context.valid_until
    ledger.chains.extend(context.chains)
    setting = _make_setting(context.at, policy, None, None, report_data)
    return _appraise(context.examined, policy, setting, ledger)


class _Context(NamedTuple):
    """What `appraise` needs of what `verify` did."""

    examined: Examined
    at: datetime
    valid_until: datetime | None
    chains: tuple[tuple[str, ...], ...]


def _make_setting(
    at: datetime,
    policy: AppraisalPolicy | None,
    anchors: TrustAnchors | None,
    cache: TrustCache | None,
    report_data: bytes | None,
) -> Setting:
    if at.utcoffset() is None:
        raise UsageError("cannot judge evidence: at: found a naive time, want an aware one")
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise UsageError(
            f"cannot judge evidence: at: found {at.isoformat()}, want a time of the years 1 to 9999 in UTC"
        ) from None
    if report_data == b"":
        # Padded, it would be what evidence without any challenge carries.
        raise UsageError(
            "cannot judge evidence: report_data: found no byte, want at least one, or None to expect nothing"
        )
    anchors = anchors if anchors is not None else pinned_anchors()
    if policy is not None and (policy.insecure_emulated_roots or policy.insecure_vtpm_aks):
        anchors = anchors.extended(emulated=policy.insecure_emulated_roots, tpm_aks=policy.insecure_vtpm_aks)
    return Setting(at=at, anchors=anchors, cache=cache if cache is not None else TrustCache(), report_data=report_data)


def _examine(recognised: Recognised, endorsements: Endorsements | None, setting: Setting, ledger: Ledger) -> Examined:
    known = recognised.endorsements
    if endorsements is not None:
        known = known + endorsements
    examined = judge_of(recognised.section).examine(recognised.parsed, known, setting, ledger)
    binding = recognised.binding
    if binding is not None:
        ledger.require(
            KEY_BOUND,
            binding.found == binding.expected,
            expected=binding.expected,
            found=binding.found,
            source=f"the key of the {recognised.wrappers[0]}",
        )
        if binding.is_signed is not None:
            ledger.require(
                KEY_HELD,
                binding.is_signed,
                expected="a signature of its own key",
                found="one that this key made" if binding.is_signed else "one that this key did not make",
                source="the request",
            )
    return examined


def _appraise(
    examined: Examined, policy: AppraisalPolicy | None, setting: Setting, ledger: Ledger
) -> AttestationResult:
    sections = tuple(part.section for part in examined.parts)
    if policy is None:
        policy = baseline_policy(*sections)
    for part in examined.parts:
        accepted = part.section in policy.tees
        ledger.require(TEE_ACCEPTED, accepted, expected=policy.tees, found=part.section, source=policy.name)
        if accepted:
            apply_rules(judge_of(part.section), part, policy, setting, ledger)
    return _result(examined, policy.name, setting, ledger)


def _result(examined: Examined, policy_name: str, setting: Setting, ledger: Ledger) -> AttestationResult:
    return AttestationResult(
        tee=examined.tee,
        subject=examined.claims,
        findings=tuple(ledger.findings),
        at=setting.at,
        policy_name=policy_name,
        valid_until=ledger.valid_until,
        tcb_status=examined.tcb_status,
        advisory_ids=examined.advisory_ids,
        chains=tuple(ledger.chains),
        emulated=examined.emulated,
    )
