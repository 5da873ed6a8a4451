# SPDX-License-Identifier: Apache-2.0
"""What a court makes: all that is told and logged, of one request. Order and log are those of test_decisions.py."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from cryptography import x509

from enarx.errors import AppraisalError, UsageError
from enarx.rats import Verdict
from enarx.steward.court import Certifying, Court
from enarx.steward.entries import as_ms, decode_entry_untrusted
from enarx.steward.issued import Issued
from enarx.wire.ear import verify_ear_jwt
from enarx.wire.steward import ResultRequest
from tests.unit.steward.courts import make_rules
from tests.unit.steward.keeps import AT, CONFIGURATION, IDENTITY, RESULT_KEY, authority, make_request, policy


def _sent(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # it is ours


@pytest.fixture(scope="module")
def rules():
    return make_rules()


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_court_that_was_made_of_a_recipe_certifies_as_its_own_does(rules, is_sent):
    court = _sent(rules.recipe).make() if is_sent else rules.court
    request = make_request()
    made = _sent(court.certify(request, AT))
    decoded = x509.load_der_x509_certificate(made.certificate)
    decoded.verify_directly_issued_by(authority().certificate)
    facts = decode_entry_untrusted(made.body)
    assert (facts.kind, facts.nonce, facts.verdict) == ("certificate", request.nonce, "accepted")
    assert (facts.certificate, facts.serial) == (made.certificate, made.serial)
    assert facts.policy_sha256 == policy().sha256
    assert facts.evidence_sha256 == sha256(request.evidence).digest()
    row = made.row(request)
    assert (facts.kept_sha256, facts.serial) == (row.kept_sha256, row.serial)
    assert (row.evidence, row.receipt) == (request.evidence, request.receipt)
    assert row.not_after == decoded.not_valid_after_utc


def test_what_is_to_be_certified_is_the_same_in_another_process(rules):
    now = AT + timedelta(microseconds=1_234_567)
    sent = _sent(Certifying(make_request(), now))
    body = sent(rules.court).body
    assert decode_entry_untrusted(body).time_ms == as_ms(now)
    assert sent(rules.court).certificate != sent(rules.court).certificate


def test_a_recipe_shows_no_key(rules):
    assert b"PRIVATE KEY" in rules.recipe.result_key
    for shown in (repr(rules), repr(rules.recipe), str(rules.court)):
        assert "PRIVATE" not in shown


def test_what_is_refused_comes_with_its_findings_through_a_pickle(rules):
    with pytest.raises(AppraisalError) as refused:
        rules.court.certify(make_request(IDENTITY._replace(package=bytes(32))), AT)
    sent = _sent(refused.value)
    assert type(sent) is type(refused.value)
    assert (str(sent), sent.hint) == (str(refused.value), refused.value.hint)


def test_a_result_is_signed_whatever_the_verdict(rules):
    request = make_request()
    made = rules.court.appraise(ResultRequest(request.evidence, request.endorsements, bytes(64)), AT)
    assert not made.is_undecided
    (appraisal,) = verify_ear_jwt(made.token, [RESULT_KEY.public_key()], at=AT).submods.values()
    assert appraisal.verifier_claims["enarx_verdict"] == str(Verdict.NOT_AUTHENTIC)
    assert decode_entry_untrusted(made.body).verdict == str(Verdict.NOT_AUTHENTIC)
    own = rules.court.certify(request, AT).report_data
    missing = rules.court.appraise(ResultRequest(request.evidence, (), own), AT)
    assert missing.is_undecided


def test_what_was_certified_is_revoked_for_a_reason(rules):
    request = make_request()
    made = rules.court.certify(request, AT)
    row = made.row(request)
    issued = Issued(row, made.certificate)
    assert rules.court.reason_to_revoke(issued, AT) is None
    assert "no grant" in make_rules(configuration=replace(CONFIGURATION, grants=())).court.reason_to_revoke(issued, AT)
    without = Issued(row._replace(endorsements=()), made.certificate)
    assert rules.court.reason_to_revoke(without, AT) == ""


def test_the_originals_protocol_is_off_unless_there_is_an_authority_for_it(rules):
    court = Court(
        judge=rules.court.judge, policy_sha256=bytes(32), authority=authority(), result_key=RESULT_KEY, original=None
    )
    with pytest.raises(UsageError, match="not enabled"):
        court.certify_original(b"", "application/pkcs10", AT)
