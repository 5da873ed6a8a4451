# SPDX-License-Identifier: Apache-2.0
"""The models say the same as the decoders and encoders that a Keep has, which know nothing of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from enarx.errors import DecodeError
from enarx.steward import models
from enarx.wire import steward as wire

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
CERTIFICATE = wire.CertificateRequest(
    csr=b"csr",
    receipt=b"receipt",
    evidence=b"evidence",
    endorsements=(b"one", b"two"),
    nonce=bytes(range(32)),
    root=bytes(48),
)
RESULT = wire.ResultRequest(evidence=b"evidence", endorsements=(), report_data=bytes(64))
REQUESTS = [
    (
        models.CertificateRequest,
        wire.decode_certificate_request_untrusted,
        wire.encode_certificate_request(CERTIFICATE),
    ),
    (models.ResultRequest, wire.decode_result_request_untrusted, wire.encode_result_request(RESULT)),
]
ANSWERS = [
    (models.ChallengeAnswer, wire.encode_challenge_answer(wire.ChallengeAnswer(nonce=bytes(32), expires=AT))),
    (
        models.CertificateAnswer,
        wire.encode_certificate_answer(
            wire.CertificateAnswer(chain=(b"leaf", b"root"), not_after=AT, renew_after=AT, log_index=0)
        ),
    ),
    (models.Problem, wire.encode_problem(wire.make_problem("refused", "no", hint="go", check="a.b", findings=("x",)))),
    (models.Problem, wire.encode_problem(wire.make_problem("internal", "x" * 9000, findings=("y" * 9000,) * 99))),
]


@pytest.mark.parametrize(("model", "decode", "text"), REQUESTS)
def test_what_is_encoded_is_a_request_of_the_model(model, decode, text):
    model.model_validate_json(text)
    decode(text)


@pytest.mark.parametrize(("model", "decode", "text"), REQUESTS)
def test_each_member_is_needed_by_both(model, decode, text):
    value = json.loads(text)
    assert set(value) == {name.replace("_", "-") for name in model.model_fields}
    for name in value:
        without = json.dumps({key: item for key, item in value.items() if key != name}).encode()
        with pytest.raises(ValidationError):
            model.model_validate_json(without)
        with pytest.raises(DecodeError):
            decode(without)


@pytest.mark.parametrize(("model", "decode", "text"), REQUESTS)
@pytest.mark.parametrize("wrong", [None, 1, "", "*", "zz", "AA", ["AA=="], [""], {}, "A" * 9_000_001])
def test_what_the_model_refuses_is_refused(model, decode, text, wrong):
    value = json.loads(text)
    for name in value:
        if value[name] == wrong:
            continue
        changed = json.dumps(value | {name: wrong}).encode()
        try:
            model.model_validate_json(changed)
        except ValidationError:
            with pytest.raises(DecodeError):
                decode(changed)


@pytest.mark.parametrize(("model", "decode", "text"), REQUESTS)
def test_a_member_too_many_is_refused_by_both(model, decode, text):
    more = json.dumps(json.loads(text) | {"more": 1}).encode()
    with pytest.raises(ValidationError):
        model.model_validate_json(more)
    with pytest.raises(DecodeError):
        decode(more)


@pytest.mark.parametrize(("model", "text"), ANSWERS)
def test_what_is_answered_is_of_the_model(model, text):
    model.model_validate_json(text)


@pytest.mark.parametrize("kind", wire.PROBLEMS)
def test_every_kind_of_problem_is_in_the_model(kind):
    found = models.Problem.model_validate_json(wire.encode_problem(wire.make_problem(kind, "what")))
    assert found.type == f"urn:enarx:problem:{kind}"
    with pytest.raises(ValidationError):
        models.Problem.model_validate(found.model_dump() | {"type": f"urn:enarx:problem:{kind}x"})
