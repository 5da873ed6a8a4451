# SPDX-License-Identifier: Apache-2.0
"""What a Steward is asked and answers: what is written is read, and nothing else is."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, UsageError
from enarx.wire import steward as s

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
CERTIFICATE_REQUEST = s.CertificateRequest(
    b"csr", b"receipt", b"evidence", (b"1", b"2"), bytes(range(32)), bytes(range(48))
)
RESULT_REQUEST = s.ResultRequest(b"evidence", (b"1",), bytes(64))
CHALLENGE = s.ChallengeAnswer(bytes(range(32)), AT)
CERTIFICATE = s.CertificateAnswer((b"leaf", b"root"), AT, AT, 7)
MESSAGES = [
    (CERTIFICATE_REQUEST, s.encode_certificate_request, s.decode_certificate_request_untrusted),
    (RESULT_REQUEST, s.encode_result_request, s.decode_result_request_untrusted),
    (CHALLENGE, s.encode_challenge_answer, s.decode_challenge_answer_untrusted),
    (CERTIFICATE, s.encode_certificate_answer, s.decode_certificate_answer_untrusted),
]
MEMBERS = [
    (encode(message), name, decode) for message, encode, decode in MESSAGES for name in json.loads(encode(message))
]


@pytest.mark.parametrize(("message", "encode", "decode"), MESSAGES)
def test_reads_what_it_wrote(message, encode, decode):
    assert decode(encode(message)) == message


def test_the_request_has_the_members_that_the_interface_names():
    assert json.loads(s.encode_certificate_request(CERTIFICATE_REQUEST)) == {
        "csr": "Y3Ny",
        "receipt": "cmVjZWlwdA==",
        "evidence": "ZXZpZGVuY2U=",
        "endorsements": ["MQ==", "Mg=="],
        "nonce": bytes(range(32)).hex(),
        "root": bytes(range(48)).hex(),
    }
    assert json.loads(s.encode_certificate_answer(CERTIFICATE)) == {
        "chain": ["bGVhZg==", "cm9vdA=="],
        "not-after": "2026-06-01T12:00:00Z",
        "renew-after": "2026-06-01T12:00:00Z",
        "log-index": 7,
    }


@pytest.mark.parametrize(("data", "name", "decode"), MEMBERS)
@pytest.mark.parametrize("value", [None, -1, True, "", "\N{SNOWMAN}", {}, [5], "missing"])
def test_refuses_members_that_are_missing_or_of_another_kind(data, name, decode, value):
    document = json.loads(data)
    del document[name]
    if value != "missing":
        document[name] = value
    with pytest.raises(DecodeError, match=name):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(("message", "encode", "decode"), MESSAGES)
def test_refuses_a_member_too_many(message, encode, decode):
    data = encode(message)[:-1] + b',"more":1}'
    with pytest.raises(DecodeError, match="found an unknown member"):
        decode(data)


@pytest.mark.parametrize(("message", "encode", "decode"), MESSAGES)
@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"{}{}"])
def test_refuses_what_is_no_object(message, encode, decode, data):
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"csr": bytes(s.MAX_CSR_BYTES + 1)},
        {"receipt": bytes(s.MAX_RECEIPT_BYTES + 1)},
        {"evidence": bytes(s.MAX_EVIDENCE_BYTES + 1)},
        {"endorsements": (b"e",) * (s.MAX_ENDORSEMENTS + 1)},
        {"nonce": bytes(31)},
        {"nonce": bytes(33)},
        {"root": bytes(47)},
        {"root": bytes(49)},
    ],
)
def test_parts_of_a_request_have_limits(change):
    with pytest.raises(DecodeError, match=f"the request to the Steward: {next(iter(change))}"):
        s.decode_certificate_request_untrusted(s.encode_certificate_request(CERTIFICATE_REQUEST._replace(**change)))


def test_parts_of_a_request_may_be_as_large_as_their_limits():
    request = s.CertificateRequest(
        bytes(s.MAX_CSR_BYTES),
        bytes(s.MAX_RECEIPT_BYTES),
        bytes(s.MAX_EVIDENCE_BYTES),
        (b"e",) * 8,
        bytes(32),
        bytes(48),
    )
    assert s.decode_certificate_request_untrusted(s.encode_certificate_request(request)) == request


def test_a_request_that_no_steward_reads_is_not_sent():
    large = (bytes(1 << 20),) * 3
    with pytest.raises(UsageError, match="want at most 4194304"):
        s.encode_certificate_request(CERTIFICATE_REQUEST._replace(evidence=bytes(3 << 20)))
    with pytest.raises(UsageError, match="want at most 4194304"):
        s.encode_result_request(RESULT_REQUEST._replace(endorsements=large))
    with pytest.raises(DecodeError, match="want at most 4194304"):
        s.decode_certificate_request_untrusted(b" " * ((4 << 20) + 1))


@pytest.mark.parametrize("chain", [(), (b"c",) * 9, (bytes((64 << 10) + 1),)])
def test_a_chain_has_limits(chain):
    with pytest.raises(DecodeError, match="chain"):
        s.decode_certificate_answer_untrusted(s.encode_certificate_answer(CERTIFICATE._replace(chain=chain)))


def test_the_longest_chain_fits_into_an_answer():
    answer = CERTIFICATE._replace(chain=(bytes(s.MAX_CERTIFICATE_BYTES),) * s.MAX_CHAIN)
    assert s.decode_certificate_answer_untrusted(s.encode_certificate_answer(answer)) == answer


@pytest.mark.parametrize("size", [0, 65])
def test_report_data_has_limits(size):
    with pytest.raises(DecodeError, match=r"report-data: found .*, want 1 to 64 bytes in lower-case hex"):
        s.decode_result_request_untrusted(s.encode_result_request(RESULT_REQUEST._replace(report_data=bytes(size))))


@pytest.mark.parametrize("data", [b"", b"\n", b"{}", b" {\n} "])
def test_a_request_for_a_challenge_says_nothing(data):
    s.decode_challenge_request_untrusted(data)


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b'{"a":1}', b" " * 1025])
def test_a_request_for_a_challenge_that_says_something_is_refused(data):
    with pytest.raises(DecodeError, match="the request to the Steward"):
        s.decode_challenge_request_untrusted(data)


# --- Problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", s.PROBLEMS)
def test_a_problem_of_each_kind_is_read(kind):
    problem = s.make_problem(kind, "a detail", hint="a hint", check="snp.measurement", findings=("1", "2"))
    data = s.encode_problem(problem)
    assert s.decode_problem_untrusted(data) == problem
    document = json.loads(data)
    assert document["type"] == f"urn:enarx:problem:{kind}"
    assert document["status"] == problem.status == s.PROBLEMS[kind].status
    assert 400 <= problem.status < 600


def test_what_a_problem_has_not_is_not_written():
    document = json.loads(s.encode_problem(s.make_problem("decode", "a detail")))
    assert set(document) == {"type", "title", "status", "detail"}


def test_a_problem_that_is_too_long_is_cut_and_still_read():
    long = "\U0001f600" * 5000
    problem = s.make_problem("refused", long, hint=long, check=long, findings=(long,) * 100)
    assert problem.detail.endswith("...")
    data = s.encode_problem(problem)
    assert len(data) <= s.MAX_PROBLEM_BYTES
    assert s.decode_problem_untrusted(data) == problem


def test_a_problem_is_one_line_without_control_characters():
    said = {"status": 400, "detail": "a\nb\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}", "hint": "\r", "findings": ["x\0y"]}
    problem = s.decode_problem_untrusted(json.dumps(said).encode())
    assert problem.detail == "a b [31m "
    assert problem.hint == " "
    assert problem.findings == ("x y",)
    assert s.make_problem("decode", "a\nb").detail == "a b"


def test_somebody_else_s_problem_is_read_and_its_members_ignored():
    problem = s.decode_problem_untrusted(b'{"type":"https://example.com/p","status":502,"instance":"/x","title":"t"}')
    assert problem == s.Problem("", "t", 502, "")
    assert s.decode_problem_untrusted(b'{"type":"decode","status":400}').kind == ""
    assert json.loads(s.encode_problem(problem))["type"] == "about:blank"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"status": 200},
        {"status": "400"},
        {"status": 600},
        {"status": 400, "detail": 5},
        {"status": 400, "type": None},
        {"status": 400, "findings": [5]},
        {"status": 400, "findings": ["x"] * 33},
        {"status": 400, "detail": "x" * 4097},
    ],
)
def test_refuses_what_is_no_problem(document):
    with pytest.raises(DecodeError, match="the problem of the Steward"):
        s.decode_problem_untrusted(json.dumps(document).encode())


@given(
    st.builds(
        s.CertificateRequest,
        *[st.binary(min_size=1, max_size=60)] * 3,
        st.lists(st.binary(min_size=1, max_size=30), max_size=8).map(tuple),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=48, max_size=48),
    )
)
@settings(derandomize=True)
def test_any_request_is_read_as_it_was_written(request):
    assert s.decode_certificate_request_untrusted(s.encode_certificate_request(request)) == request


def test_a_keep_can_use_it():
    code = (
        "import sys; import enarx.wire.steward, enarx.wire.keep_certificate;"
        "print(sorted({name for name in sys.modules for part in ('enarx.rats', 'enarx.verifier', 'pydantic', 'starlette')"
        " if name.startswith(part)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_endorsements_that_would_be_kept_are_limited_in_all():
    most = s.MAX_KEPT_ENDORSEMENTS_BYTES
    allowed = CERTIFICATE_REQUEST._replace(endorsements=(bytes(most - 5), b"five."))
    data = s.encode_certificate_request(allowed)
    assert s.decode_certificate_request_untrusted(data) == allowed
    beyond = (bytes(most - 5), b"sixsix")
    with pytest.raises(UsageError, match=f"endorsements: found {most + 1} bytes") as caught:
        s.encode_certificate_request(CERTIFICATE_REQUEST._replace(endorsements=beyond))
    assert caught.value.hint
    longer = data.replace(base64.b64encode(b"five."), base64.b64encode(b"sixsix"))
    assert longer != data
    with pytest.raises(DecodeError, match=f"endorsements: found {most + 1} bytes"):
        s.decode_certificate_request_untrusted(longer)
    # Of a result nothing is kept.
    result = RESULT_REQUEST._replace(endorsements=beyond)
    assert s.decode_result_request_untrusted(s.encode_result_request(result)) == result


@pytest.mark.parametrize(
    "decode",
    [s.decode_certificate_request_untrusted, s.decode_challenge_request_untrusted, s.decode_result_request_untrusted],
)
def test_requests_of_many_items_are_refused_unread(decode, monkeypatch):
    monkeypatch.setattr("json.loads", None)
    with pytest.raises(DecodeError, match="brackets, commas and colons"):
        decode(b'{"csr":[' + b"[]," * 300 + b"[]]}")
