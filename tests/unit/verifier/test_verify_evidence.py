# SPDX-License-Identifier: Apache-2.0
"""The package's front door: the way in three steps, the short one, and what neither of them can be talked into."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from enarx.errors import AppraisalError, EndorsementError, UsageError, VerificationError
from enarx.rats import (
    AppraisalPolicy,
    AtLeast,
    Endorsements,
    Evidence,
    OneOf,
    Outcome,
    Skip,
    TrustAnchors,
    Verdict,
    Verified,
)
from enarx.testing.dcap import AT as INTEL_AT
from enarx.testing.dcap import TDX, FakeIntel, Platform, TdReport
from enarx.testing.snp import AT, FakeAmd
from enarx.verifier import (
    TrustCache,
    appraise,
    baseline_policy,
    pinned_anchors,
    recognise,
    verify,
    verify_evidence,
)
from enarx.verifier.registry import SECTIONS, judge_of
from enarx.wire.ear import Tier, build_ear

DATA = bytes(range(64))


def make_policy(*sections: str, insecure: frozenset[bytes] = frozenset(), **expectations) -> AppraisalPolicy:
    """A policy that skips all it is not told."""
    skipped = {rule.key: Skip("not what is tested") for section in sections for rule in judge_of(section).rules}
    wanted = {key.replace("__", "."): value for key, value in expectations.items()}
    assert wanted.keys() <= skipped.keys()
    return AppraisalPolicy(
        name="test", tees=frozenset(sections), expectations=skipped | wanted, insecure_emulated_roots=insecure
    )


def outcome(result, check):
    (found,) = (each.outcome for each in result.findings if each.check.id == check)
    return found


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture(scope="module")
def case(amd):
    return amd.make_case(report={"report_data": DATA})


@pytest.fixture(scope="module")
def given(case):
    """The arguments with which the case is accepted."""
    return {"at": case.at, "endorsements": case.endorsements, "anchors": case.anchors}


class TestTheShortWay:
    def test_accepts_what_is_authentic_and_acceptable(self, case, given):
        result = verify_evidence(Evidence(data=case.data), policy=make_policy("snp"), **given)
        assert result.verdict is Verdict.ACCEPTED
        result.require()
        assert (result.tee, result.policy_name, result.at, result.emulated) == ("snp", "test", AT, False)
        assert result.claims["report_data"] == DATA
        assert result.chains == (("ARK-Milan", "SEV-Milan", "SEV-VCEK", "the report"),)
        assert result.valid_until is not None

    def test_raises_for_no_verdict_and_shows_every_check(self, case, given):
        accepted = verify_evidence(Evidence(data=case.data), **given)
        forged = bytearray(case.data)
        forged[0x90] ^= 1
        result = verify_evidence(Evidence(data=bytes(forged)), **given)
        assert result.verdict is Verdict.NOT_AUTHENTIC
        assert [each.check for each in result.findings] == [each.check for each in accepted.findings]
        with pytest.raises(VerificationError, match=r"snp\.report\.signature failed"):
            result.require()
        assert result.chains[0][-1] == "not this report"

    def test_cannot_decide_without_the_endorsement(self, case):
        result = verify_evidence(Evidence(data=case.data), at=AT, anchors=case.anchors)
        assert result.verdict is Verdict.UNDECIDED
        with pytest.raises(EndorsementError):
            result.require()
        assert result.claims["report_data"] == DATA

    def test_takes_what_was_recognised_before_and_a_cache(self, case, given):
        cache = TrustCache()
        recognised = recognise(Evidence(data=case.data))
        first, second = (verify_evidence(recognised, cache=cache, **given) for _ in range(2))
        assert first.findings == second.findings == verify_evidence(Evidence(data=case.data), **given).findings

    def test_a_warm_cache_does_not_stop_time_or_change_whom_to_trust(self, case, given):
        cache = TrustCache()
        evidence = Evidence(data=case.data)
        assert verify_evidence(evidence, cache=cache, **given).verdict is Verdict.ACCEPTED
        late = given | {"at": AT + timedelta(days=4000)}
        assert verify_evidence(evidence, cache=cache, **late).verdict is Verdict.NOT_AUTHENTIC
        others = given | {"anchors": pinned_anchors()}
        assert verify_evidence(evidence, cache=cache, **others).verdict is Verdict.NOT_AUTHENTIC
        assert verify_evidence(evidence, cache=cache, **given).verdict is Verdict.ACCEPTED

    def test_refuses_a_tee_that_the_policy_does_not_name(self, case, given):
        result = verify_evidence(Evidence(data=case.data), policy=make_policy("tdx", "sgx"), **given)
        assert result.verdict is Verdict.REFUSED
        assert [finding.check.id for finding in result.failures] == ["policy.tee"]
        with pytest.raises(AppraisalError, match=r"policy\.tee failed: found snp, want sgx, tdx"):
            result.require()

    @pytest.mark.parametrize("at", [datetime(2026, 6, 1), datetime(2026, 6, 1, tzinfo=None)])  # noqa: DTZ001
    def test_refuses_a_time_without_a_zone(self, case, given, at):
        recognised = recognise(Evidence(data=case.data))
        for call in (verify_evidence, verify):
            with pytest.raises(UsageError, match="naive"):
                call(recognised, **(given | {"at": at}))

    def test_a_time_is_the_same_in_every_zone(self, case, given):
        elsewhere = AT.astimezone(timezone(timedelta(hours=-11)))
        result = verify_evidence(Evidence(data=case.data), **(given | {"at": elsewhere}))
        assert result.verdict is Verdict.ACCEPTED

    def test_judges_another_tee_by_the_same_call(self):
        intel, platform = FakeIntel(), Platform()
        quote = intel.make_quote(TdReport(), platform)
        result = verify_evidence(
            Evidence(data=quote),
            at=INTEL_AT,
            endorsements=Endorsements(intel=(intel.make_collateral(TDX, platform),)),
            anchors=TrustAnchors(intel=(intel.root.der,)),
            policy=make_policy("tdx"),
        )
        assert (result.verdict, result.tee, result.tcb_status) == (Verdict.ACCEPTED, "tdx", "UpToDate")
        assert verify_evidence(Evidence(data=quote), at=INTEL_AT).verdict is Verdict.NOT_AUTHENTIC


class TestThreeSteps:
    def test_give_what_the_short_way_gives(self, case, given):
        policy = make_policy("snp", snp__vmpl=OneOf(0))
        verified = verify(recognise(Evidence(data=case.data)), **given)
        assert isinstance(verified, Verified)
        assert verified.claims.named()["report_data"] == DATA
        result = appraise(verified, policy=policy, report_data=DATA)
        short = verify_evidence(Evidence(data=case.data), policy=policy, report_data=DATA, **given)
        assert result.findings == short.findings
        for name in ("tee", "at", "policy_name", "valid_until", "chains", "emulated", "verdict"):
            assert getattr(result, name) == getattr(short, name)

    def test_stop_at_what_is_not_authentic(self, case, given, amd):
        with pytest.raises(VerificationError):
            verify(recognise(Evidence(data=case.data)), **(given | {"anchors": FakeAmd(owner="rogue").anchors}))
        with pytest.raises(EndorsementError):
            verify(recognise(Evidence(data=case.data)), at=AT, anchors=case.anchors)
        other = amd.make_case(chip="another")
        with pytest.raises(VerificationError):
            verify(recognise(Evidence(data=case.data)), **(given | {"endorsements": other.endorsements}))

    def test_appraise_as_often_as_there_are_policies(self, case, given):
        verified = verify(recognise(Evidence(data=case.data)), **given)
        assert appraise(verified, policy=make_policy("snp")).verdict is Verdict.ACCEPTED
        refused = appraise(verified, policy=make_policy("snp", snp__guest_svn=AtLeast(200)))
        assert [finding.check.id for finding in refused.failures] == ["snp.guest_svn"]
        assert appraise(verified, policy=make_policy("nitro")).verdict is Verdict.REFUSED
        assert appraise(verified, policy=make_policy("snp")).verdict is Verdict.ACCEPTED

    def test_verified_is_nothing_that_can_be_made(self, case):
        with pytest.raises(TypeError, match="no public constructor"):
            Verified()
        with pytest.raises(TypeError):
            Verified(case.parsed, (), None)
        made = Verified._create(case.parsed, (), None)
        with pytest.raises(TypeError, match="not verified here"):
            appraise(made, policy=make_policy("snp"))
        with pytest.raises(AttributeError):
            appraise(case.parsed, policy=make_policy("snp"))

    def test_verified_is_nothing_that_can_be_changed(self, case, given):
        verified = verify(recognise(Evidence(data=case.data)), **given)
        for name in ("claims", "findings"):
            with pytest.raises(AttributeError):
                setattr(verified, name, None)


class TestReportData:
    @pytest.mark.parametrize(
        "policy",
        [
            None,
            make_policy("snp"),
            make_policy("snp", snp__report_data=OneOf(DATA)),
            make_policy("snp", snp__report_data=OneOf(bytes(64))),
        ],
    )
    def test_that_the_caller_expects_is_compared_whatever_the_policy_says(self, case, given, policy):
        evidence = Evidence(data=case.data)
        right = verify_evidence(evidence, policy=policy, report_data=DATA, **given)
        wrong = verify_evidence(evidence, policy=policy, report_data=DATA[:-1] + b"\0", **given)
        assert right.verdict is Verdict.ACCEPTED
        assert wrong.verdict is Verdict.REFUSED
        assert [finding.check.id for finding in wrong.failures] == ["snp.report_data"]
        verified = verify(recognise(evidence), **given)
        three = appraise(verified, policy=policy or baseline_policy("snp"), report_data=bytes(64))
        assert outcome(three, "snp.report_data") is Outcome.FAILED

    def test_is_the_policys_affair_where_the_caller_says_nothing(self, case, given):
        wanted = make_policy("snp", snp__report_data=OneOf(bytes(64)))
        assert verify_evidence(Evidence(data=case.data), policy=wanted, **given).verdict is Verdict.REFUSED


class TestEmulated:
    def test_is_refused_unless_the_policy_names_its_root(self, amd, case):
        given = {"at": AT, "endorsements": case.endorsements}
        evidence = Evidence(data=case.data)
        for policy in (None, make_policy("snp"), make_policy("snp", insecure=frozenset({bytes(32)}))):
            result = verify_evidence(evidence, policy=policy, **given)
            assert result.verdict is Verdict.NOT_AUTHENTIC
            assert not result.emulated
            assert result.chains == ()
        (root,) = amd.emulated_anchors.insecure_emulated
        result = verify_evidence(evidence, policy=make_policy("snp", insecure=frozenset({root})), **given)
        assert result.verdict is Verdict.ACCEPTED
        assert result.emulated

    def test_is_never_affirming(self, amd, case):
        policy = make_policy("snp", insecure=amd.emulated_anchors.insecure_emulated)
        result = verify_evidence(Evidence(data=case.data), at=AT, endorsements=case.endorsements, policy=policy)
        ear = build_ear(result, issued_at=AT, evidence_sha256=bytes(32), build="test")
        assert {appraisal.status for appraisal in ear.submods.values()} == {Tier.WARNING}

    def test_a_warm_cache_forgets_that_a_policy_accepted_it(self, amd, case):
        cache = TrustCache()
        given = {"at": AT, "endorsements": case.endorsements, "cache": cache}
        policy = make_policy("snp", insecure=amd.emulated_anchors.insecure_emulated)
        assert verify_evidence(Evidence(data=case.data), policy=policy, **given).emulated
        result = verify_evidence(Evidence(data=case.data), policy=make_policy("snp"), **given)
        assert result.verdict is Verdict.NOT_AUTHENTIC

    def test_in_three_steps_it_needs_the_anchor_and_stays_emulated(self, amd, case):
        recognised = recognise(Evidence(data=case.data))
        with pytest.raises(VerificationError):
            verify(recognised, at=AT, endorsements=case.endorsements)
        verified = verify(recognised, at=AT, endorsements=case.endorsements, anchors=amd.emulated_anchors)
        assert appraise(verified, policy=make_policy("snp")).emulated

    def test_a_forgery_of_it_is_one(self, amd, case):
        policy = make_policy("snp", insecure=amd.emulated_anchors.insecure_emulated)
        data = bytearray(case.data)
        data[0x50] ^= 1
        result = verify_evidence(Evidence(data=bytes(data)), at=AT, endorsements=case.endorsements, policy=policy)
        assert result.verdict is Verdict.NOT_AUTHENTIC


def test_the_baseline_says_something_of_every_key_of_every_tee():
    for section in SECTIONS:
        policy = baseline_policy(section)
        assert policy.tees == {section}
        assert policy.expectations.keys() == {rule.key for rule in judge_of(section).rules}
    assert baseline_policy().tees == set(SECTIONS)
    assert baseline_policy() is baseline_policy()


def test_the_pinned_roots_are_there():
    anchors = pinned_anchors()
    assert (len(anchors.amd), len(anchors.intel), len(anchors.aws)) == (3, 1, 1)
    assert anchors.insecure_emulated == frozenset()
    assert anchors.tpm_aks == frozenset()
    assert anchors.cca == {}


def test_what_is_judged_for_is_said_in_utc(case, given):
    assert verify_evidence(Evidence(data=case.data), **given).at == datetime(2026, 6, 1, tzinfo=UTC)
