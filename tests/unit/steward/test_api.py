# SPDX-License-Identifier: Apache-2.0
"""Requests and answers; what is decided comes from a stand-in, and is tested in test_decisions.py."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.abi.enarx_csr import NoEvidenceError
from enarx.errors import (
    AppraisalError,
    DecodeError,
    EndorsementError,
    KeepError,
    PlatformError,
    UsageError,
    VerificationError,
)
from enarx.serving.logs import Log
from enarx.steward import api
from enarx.steward.api import jwk_of, make_app, problem_of
from enarx.steward.metrics import Metrics
from enarx.steward.models import Policies, Problem
from enarx.steward.rooms import BusyError
from enarx.wire import steward as wire
from tests.recorder import Recorder

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
NONCE = bytes(range(32))
CERTIFICATE = wire.CertificateRequest(
    csr=b"csr", receipt=b"receipt", evidence=b"the evidence", endorsements=(b"one",), nonce=NONCE, root=bytes(48)
)
RESULT = wire.ResultRequest(evidence=b"the evidence", endorsements=(), report_data=bytes(64))
JSON = {"content-type": "application/json"}


class Stub:
    """Stands for `Decisions` and for what is shown."""

    answers_original = False
    chain_pem = b"-----BEGIN CERTIFICATE-----\n"
    policies = Policies(policies=[], insecure_accepted_roots=[], grants=[], trust_domain="example.com", lifetime_s=60)

    def __init__(self):
        self.asked = []
        self.arrived = asyncio.Semaphore(0)
        self.error = None
        self.gate = None

    def challenge(self):
        return wire.ChallengeAnswer(nonce=NONCE, expires=AT)

    async def _decide(self, request):
        self.asked.append(request)
        self.arrived.release()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def certify(self, request):
        await self._decide(request)
        return wire.CertificateAnswer(
            chain=(b"leaf", b"root"), not_after=AT, renew_after=AT - timedelta(hours=1), log_index=5
        )

    async def appraise(self, request):
        await self._decide(request)
        return "a.b.c"

    async def certify_original(self, body, media_type):
        await self._decide((body, media_type))
        return b"pkipath"

    async def crl(self):
        await self._decide("crl")
        return b"crl"

    async def require_log(self):
        if self.error is not None:
            raise self.error


class Served:
    """The application, asked in memory."""

    def __init__(self, *, is_draining=False, client=("127.0.0.1", 1), **options):
        self.stub = Stub()
        self.log = Recorder()
        self.metrics = Metrics()
        self.client = client
        self.app = make_app(
            decisions=self.stub,
            shown=self.stub,
            result_key=KEY.public_key(),
            metrics=self.metrics,
            log=Log(self.log),
            is_draining=lambda: is_draining,
            **options,
        )

    async def send(self, method, path, **request):
        transport = httpx2.ASGITransport(app=self.app, client=self.client)
        async with httpx2.AsyncClient(transport=transport, base_url="http://steward") as asking:
            return await asking.request(method, path, **request)

    def ask(self, method, path, **request):
        return asyncio.run(self.send(method, path, **request))

    def post(self, path, content, headers=JSON):
        return self.ask("POST", path, content=content, headers=headers)


def problem(answer):
    """Return the kind and the detail of a refusal, which is a problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(answer.content)
    assert found.status == answer.status_code
    return found.type.removeprefix("urn:enarx:problem:"), found.detail


@pytest.mark.parametrize("content", [b"", b"{}", b" {} "])
def test_a_challenge_is_a_nonce(content):
    answer = Served().post("/v1/challenge", content, JSON if content else {})
    assert answer.status_code == 200
    assert wire.decode_challenge_answer_untrusted(answer.content) == wire.ChallengeAnswer(nonce=NONCE, expires=AT)
    assert answer.headers["cache-control"] == "no-store"


def test_a_certificate_is_created():
    served = Served()
    answer = served.post("/v1/certificates", wire.encode_certificate_request(CERTIFICATE))
    assert answer.status_code == 201
    assert wire.decode_certificate_answer_untrusted(answer.content).log_index == 5
    assert served.stub.asked == [CERTIFICATE]


def test_a_result_is_a_token():
    served = Served()
    answer = served.post("/v1/results", wire.encode_result_request(RESULT))
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "application/eat+jwt", "a.b.c")
    assert served.stub.asked == [RESULT]


@pytest.mark.parametrize(
    ("path", "media_type", "content"),
    [
        ("/v1/ca.pem", "application/pem-certificate-chain", Stub.chain_pem),
        ("/v1/crl", "application/pkix-crl", b"crl"),
    ],
)
def test_what_everybody_may_have(path, media_type, content):
    answer = Served().ask("GET", path)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media_type, content)


def test_policies_and_the_key_of_results_are_shown():
    served = Served()
    assert served.ask("GET", "/v1/policies").json() == {
        "policies": [],
        "insecure-accepted-roots": [],
        "grants": [],
        "trust-domain": "example.com",
        "lifetime-s": 60,
    }
    (key,) = served.ask("GET", "/.well-known/jwks.json").json()["keys"]
    assert key == jwk_of(KEY.public_key()).model_dump()
    assert served.ask("GET", "/openapi.json").json()["openapi"] == "3.1.0"


def test_a_key_is_named_by_its_thumbprint():
    """RFC 7638 section 3."""
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    found = jwk_of(KEY.public_key())
    members = json.dumps(
        {"crv": found.crv, "kty": found.kty, "x": found.x, "y": found.y}, separators=(",", ":"), sort_keys=True
    )
    assert found.kid == urlsafe_b64encode(sha256(members.encode()).digest()).rstrip(b"=").decode()
    x = KEY.public_key().public_numbers().x
    assert found.x == urlsafe_b64encode(x.to_bytes(48, "big")).rstrip(b"=").decode()


# --- Refusals


@pytest.mark.parametrize("path", ["/v1/challenge", "/v1/certificates", "/v1/results"])
def test_bodies_that_are_no_requests_are_refused_and_nothing_is_decided(path):
    served = Served()
    most = wire.MAX_EMPTY_BYTES if path == "/v1/challenge" else wire.MAX_REQUEST_BYTES
    assert problem(served.post(path, b" " * (most + 1)))[0] == "too-large"
    assert problem(served.post(path, b"{}", {"content-type": "text/plain"}))[0] == "media-type"
    assert problem(served.post(path, b"{}", {}))[0] == "media-type"
    for content in (b"[]", b"{", b"\xff", b'{"a":1}', b'{"a":1,"a":1}', b"null", b"[" * 900):
        assert problem(served.post(path, content))[0] == "decode"
    assert served.stub.asked == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DecodeError("x"), "decode"),
        (UsageError("x"), "usage"),
        (VerificationError("x"), "not-authentic"),
        (AppraisalError("x"), "refused"),
        (EndorsementError("x"), "undecided"),
        (PlatformError("x"), "unavailable"),
        (BusyError("x"), "unavailable"),
        (api.ReplayedNonceError("x"), "replayed-nonce"),
        (api.ExpiredNonceError("x"), "expired-nonce"),
        (api.NoGrantError("x"), "no-grant"),
        (KeepError("x"), "internal"),
    ],
)
def test_every_error_is_a_problem_of_its_kind(error, kind):
    served = Served()
    served.stub.error = error
    answer = served.post("/v1/certificates", wire.encode_certificate_request(CERTIFICATE))
    assert problem(answer) == (kind, "x")
    assert answer.status_code == wire.PROBLEMS[kind].status
    assert ("retry-after" in answer.headers) == (kind == "unavailable")


def test_a_refusal_names_the_first_check_and_every_finding():
    from tests.unit.steward.verdicts import refused_result

    result = refused_result()
    with pytest.raises(AppraisalError) as refused:
        result.require()
    found = problem_of(refused.value)
    assert found.kind == "refused"
    assert found.check == result.failures[0].check.id
    assert found.findings == tuple(finding.line for finding in result.failures)
    assert len(found.findings) > 1


def test_a_bug_is_told_to_the_log_alone():
    served = Served()
    served.stub.error = RuntimeError("with something secret")
    answer = served.post("/v1/results", wire.encode_result_request(RESULT))
    assert problem(answer) == ("internal", "cannot answer: found a bug in the Steward")
    assert "secret" not in answer.text
    assert [event for event, _ in served.log.events] == ["bug", "request"]


def test_unknown_paths_and_methods_are_problems():
    served = Served()
    assert problem(served.ask("GET", "/v2"))[0] == "not-found"
    answer = served.ask("DELETE", "/v1/challenge")
    assert problem(answer)[0] == "method"
    assert answer.headers["allow"] == "POST"
    answer = served.ask("POST", "/v1/policies")
    assert (problem(answer)[0], answer.headers["allow"]) == ("method", "GET, HEAD")
    assert problem(served.ask("GET", "/v1/challenge"))[0] == "method"


def test_what_can_be_got_has_a_head():
    served = Served()
    got, head = served.ask("GET", "/v1/ca.pem"), served.ask("HEAD", "/v1/ca.pem")
    assert (head.status_code, head.headers["content-length"]) == (200, got.headers["content-length"])


def test_a_web_socket_is_closed():
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Served().app({"type": "websocket", "path": "/v1/challenge", "headers": []}, receive, send))
    assert sent == ["websocket.close"]


def test_the_originals_protocol_is_answered_only_where_it_is_allowed():
    served = Served()
    headers = {"content-type": "application/pkcs10"}
    assert problem(served.post("/", b"csr", headers))[0] == "not-found"
    served.stub.answers_original = True
    answer = served.post("/", b"csr", headers)
    assert (answer.status_code, answer.content) == (200, b"pkipath")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert served.stub.asked == [(b"csr", "application/pkcs10")]
    assert problem(served.post("/", b"csr", {"content-type": "application/json"}))[0] == "media-type"


def test_a_request_of_the_originals_protocol_without_evidence_is_unauthorised_as_it_was():
    served = Served()
    served.stub.answers_original = True
    served.stub.error = NoEvidenceError("found 0 of Enarx")
    answer = served.post("/", b"csr", {"content-type": "application/pkcs10"})
    assert (answer.status_code, problem(answer)) == (401, ("no-evidence", "found 0 of Enarx"))
    served.stub.error = DecodeError("no request")
    answer = served.post("/", b"csr", {"content-type": "application/pkcs10"})
    assert (answer.status_code, problem(answer)) == (400, ("decode", "no request"))
    # Elsewhere it is evidence like any other that nobody can read.
    served.stub.error = NoEvidenceError("found 0 of Enarx")
    assert served.post("/v1/results", wire.encode_result_request(RESULT)).status_code == 400


def test_a_steward_that_ends_decides_nothing_more():
    served = Served(is_draining=True)
    for path, content in (
        ("/v1/challenge", b""),
        ("/v1/certificates", wire.encode_certificate_request(CERTIFICATE)),
        ("/v1/results", wire.encode_result_request(RESULT)),
    ):
        assert problem(served.post(path, content, JSON))[0] == "unavailable"
    assert served.stub.asked == []
    answer = served.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")


def test_it_is_well_as_long_as_the_log_can_be_asked():
    served = Served()
    answer = served.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    served.stub.error = PlatformError("gone")
    answer = served.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "no log")


# --- Who sees what is counted


@pytest.mark.parametrize(
    ("client", "headers", "options", "status"),
    [
        (("127.0.0.1", 1), {}, {}, 200),
        (("::1", 1), {}, {}, 200),
        (("192.0.2.1", 1), {}, {}, 404),
        (("127.0.0.1", 1), {"x-forwarded-for": "192.0.2.1"}, {}, 404),
        (("192.0.2.1", 1), {}, {"metrics_for_all": True}, 200),
    ],
)
def test_metrics_are_for_this_machine_unless_the_operator_says_otherwise(client, headers, options, status):
    served = Served(client=client, **options)
    answer = served.ask("GET", "/metrics", headers=headers)
    assert answer.status_code == status
    assert (b"enarx_steward_requests" in answer.content) == (status == 200)


def test_requests_are_counted_and_logged_without_what_was_in_them():
    served = Served()
    served.stub.error = VerificationError("cannot accept: found nothing good")
    served.post("/v1/certificates", wire.encode_certificate_request(CERTIFICATE))
    assert b'enarx_steward_requests_total{endpoint="certify",status="403"} 1.0' in served.metrics.exposition()
    ((event, facts),) = served.log.events
    assert event == "request"
    assert facts.pop("ms") >= 0
    assert facts == {"endpoint": "certify", "status": 403, "problem": "not-authentic", "check": None}


# --- Room


def test_large_bodies_share_their_room_and_small_ones_have_their_own(monkeypatch):
    monkeypatch.setattr(api, "SHARED_BODY_BYTES", 100_000)
    large = wire.encode_certificate_request(CERTIFICATE._replace(evidence=bytes(100_000)))
    small = wire.encode_certificate_request(CERTIFICATE)

    async def scenario():
        served = Served()
        served.stub.gate = asyncio.Event()

        def send(content):
            return asyncio.create_task(served.send("POST", "/v1/certificates", content=content, headers=JSON))

        first = send(large)
        await served.stub.arrived.acquire()
        assert problem(await send(large))[0] == "unavailable"
        third = send(small)
        await served.stub.arrived.acquire()
        served.stub.gate.set()
        assert [(await task).status_code for task in (first, third, send(large))] == [201] * 3

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(api, "MAX_BODY_S", 0.01)

    async def forever():
        yield b"{"
        await asyncio.Event().wait()

    async def scenario():
        return await Served().send("POST", "/v1/results", content=forever(), headers=JSON)

    assert problem(asyncio.run(scenario()))[0] == "timeout"
