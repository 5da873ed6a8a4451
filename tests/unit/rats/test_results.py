# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enarx.errors import AppraisalError, EndorsementError, VerificationError
from enarx.rats import AttestationResult, Check, Concern, Finding, OneOf, Outcome, Verdict

AUTHENTIC = Check("test.signature", "it is signed", Concern.AUTHENTICITY, "a document 1")
ACCEPTABLE = Check("test.debug", "it cannot be debugged", Concern.APPRAISAL, "a document 2")


class Subject:
    def named(self):
        return {"vmpl": 0}


def finding(check, outcome):
    return Finding(check, outcome, OneOf(0), 1, "policy x: test.debug")


def result(*findings):
    return AttestationResult(
        tee="test", subject=Subject(), findings=findings, at=datetime(2026, 1, 1, tzinfo=UTC), policy_name="x"
    )


PASSED = finding(AUTHENTIC, Outcome.PASSED)
FORGED = finding(AUTHENTIC, Outcome.FAILED)
DISLIKED = finding(ACCEPTABLE, Outcome.FAILED)
DOUBTED = finding(AUTHENTIC, Outcome.UNDECIDED)
SKIPPED = finding(ACCEPTABLE, Outcome.SKIPPED)
NOTED = finding(ACCEPTABLE, Outcome.NOTED)


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((PASSED, SKIPPED, NOTED), Verdict.ACCEPTED),
        ((PASSED, DISLIKED), Verdict.REFUSED),
        ((PASSED, DOUBTED), Verdict.UNDECIDED),
        ((DISLIKED, DOUBTED), Verdict.UNDECIDED),
        ((DISLIKED, DOUBTED, FORGED), Verdict.NOT_AUTHENTIC),
    ],
)
def test_a_forgery_is_said_before_a_doubt_and_a_doubt_before_a_dislike(findings, verdict):
    assert result(*findings).verdict is verdict
    assert result(*reversed(findings)).verdict is verdict


@pytest.mark.parametrize(
    ("findings", "error", "status"),
    [((FORGED,), VerificationError, 104), ((DISLIKED,), AppraisalError, 105), ((DOUBTED,), EndorsementError, 106)],
)
def test_raises_the_class_of_its_verdict_and_carries_itself(findings, error, status):
    judged = result(PASSED, *findings, *findings)
    with pytest.raises(error, match=r"found 1, want 0 .*\(and 1 more\)") as caught:
        judged.require()
    assert caught.value.result is judged
    assert caught.value.status == status


def test_an_accepted_result_raises_nothing_and_shows_its_claims():
    accepted = result(PASSED)
    accepted.require()
    assert accepted.failures == ()
    assert accepted.claims == {"vmpl": 0}


def test_failures_are_those_the_verdict_rests_on():
    assert result(DISLIKED, FORGED, DOUBTED).failures == (FORGED,)
    assert result(DISLIKED, DOUBTED).failures == (DOUBTED,)
    assert result(DISLIKED, PASSED).failures == (DISLIKED,)
