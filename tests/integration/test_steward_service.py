# SPDX-License-Identifier: Apache-2.0
"""The Steward as a process of its own on loopback, asked with evidence of a fake AMD."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sqlite3
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.testing.snp import FakeAmd
from enarx.wire import steward as wire
from enarx.wire.ear import verify_ear_jwt
from enarx.wire.keep_certificate import decode_keep_certificate_untrusted
from tests.attesting import make_policy_text
from tests.steward_processes import (
    AMD,
    PACKAGE,
    TENANT,
    StewardProcess,
    Visitor,
    found_steward,
    policy_text,
    problem,
    run_steward,
)

JSON = {"content-type": wire.MEDIA_TYPE_JSON}
SLOW_CLIENTS = 1000


@pytest.fixture(scope="module")
def steward(tmp_path_factory):
    with StewardProcess(found_steward(tmp_path_factory.mktemp("steward") / "state")) as running:
        yield running


def certificate_of(answer):
    assert answer.status_code == 201, answer.text
    chain = wire.decode_certificate_answer_untrusted(answer.content).chain
    return [x509.load_der_x509_certificate(der) for der in chain]


def send(client, path, content, headers=JSON):
    return client.post(path, content=content, headers=headers)


# --- Certificates


def test_a_keep_gets_a_certificate_that_says_what_it_is(steward):
    visitor = Visitor()
    answer = steward.certify(visitor)
    leaf, root = certificate_of(answer)
    assert root.public_bytes(Encoding.PEM) in steward.root.read_bytes()
    leaf.verify_directly_issued_by(root)
    assert leaf.public_key() == visitor.key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["keep.example.com"]
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uri.endswith(f"/keep/{PACKAGE.hex()}")
    # The fake AMD is an emulated platform's, and the certificate says so.
    assert "EMULATED platform, protects nothing" in leaf.subject.rfc4514_string().replace("\\", "")
    assert decode_keep_certificate_untrusted(leaf.public_bytes(Encoding.DER)).identity == visitor.identity
    said = wire.decode_certificate_answer_untrusted(answer.content)
    assert said.not_after == leaf.not_valid_after_utc
    now = datetime.now(UTC)  # noqa: TID251
    half = (said.not_after - now) / 2
    assert abs(said.renew_after - now - half) < timedelta(minutes=1)


def test_a_nonce_is_worth_one_request(steward):
    visitor = Visitor()
    with steward.client() as client:
        nonce = steward.nonce(client)
        request = wire.encode_certificate_request(visitor.request(nonce, steward.root_digest))
        assert send(client, wire.CERTIFICATES_PATH, request).status_code == 201
        status, kind, _ = problem(send(client, wire.CERTIFICATES_PATH, request))
        assert (status, kind) == (409, "replayed-nonce")


def test_of_many_requests_with_one_nonce_one_gets_a_certificate(steward):
    visitor = Visitor()
    with steward.client() as client, ThreadPoolExecutor(8) as threads:
        request = wire.encode_certificate_request(visitor.request(steward.nonce(client), steward.root_digest))
        answers = list(threads.map(lambda _: send(client, wire.CERTIFICATES_PATH, request).status_code, range(16)))
    assert sorted(answers) == [201] + [409] * 15


def test_a_refusal_takes_the_nonce_too(steward):
    visitor = Visitor()
    with steward.client() as client:
        nonce = steward.nonce(client)
        wrong = visitor.request(nonce, steward.root_digest, csr=Visitor().csr)
        assert problem(send(client, wire.CERTIFICATES_PATH, wire.encode_certificate_request(wrong)))[0] == 403
        right = wire.encode_certificate_request(visitor.request(nonce, steward.root_digest))
        assert problem(send(client, wire.CERTIFICATES_PATH, right))[1] == "replayed-nonce"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        # Another key's evidence.
        (lambda request: request._replace(csr=Visitor().csr), "not-authentic"),
        # Evidence over another nonce.
        (lambda request: request._replace(evidence=Visitor().request(bytes(32)).evidence), "not-authentic"),
        # Another Keep's identity.
        (lambda request: request._replace(receipt=Visitor(package=bytes(32)).receipt), "not-authentic"),
        (lambda request: request._replace(evidence=request.evidence[:-1]), "decode"),
        (lambda request: request._replace(csr=request.csr[:-1] + bytes([request.csr[-1] ^ 1])), "not-authentic"),
        (lambda request: request._replace(csr=b"0"), "decode"),
        (lambda request: request._replace(receipt=b"0"), "decode"),
        (lambda request: request._replace(endorsements=()), "undecided"),
        (lambda request: request._replace(endorsements=(b"0",)), "decode"),
    ],
)
def test_what_is_wrong_gets_nothing_and_is_told_why(tmp_path_factory, offline, change, kind):
    before = size_of_log(offline)
    visitor = Visitor()
    with offline.client() as client:
        request = change(visitor.request(offline.nonce(client), offline.root_digest))
        answer = send(client, wire.CERTIFICATES_PATH, wire.encode_certificate_request(request))
    assert problem(answer)[1] == kind
    assert size_of_log(offline) == before + 1


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    with StewardProcess(found_steward(tmp_path_factory.mktemp("steward") / "state"), "--offline") as running:
        yield running


def size_of_log(steward):
    with steward.client() as client:
        text = client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("enarx_steward_log_entries ")]
    return int(float(line.split()[1]))


@pytest.mark.parametrize(
    ("visitor", "kind"),
    [
        ({"amd": FakeAmd(owner="somebody else")}, "not-authentic"),
        ({"measurement": b"\1" * 48}, "refused"),
        ({"package": b"\1" * 32}, "no-grant"),
        ({"tenant": b"\1" * 48}, "no-grant"),
        ({"package": b"\2" * 32, "pristine": False}, "no-grant"),
        ({"package": b"\2" * 32, "pristine": True}, None),
    ],
)
def test_who_gets_a_certificate_is_said_by_policy_and_grants(choosy, visitor, kind):
    answer = choosy.certify(Visitor(**visitor))
    assert kind == (None if answer.status_code == 201 else problem(answer)[1])
    if kind == "refused":
        found = wire.decode_problem_untrusted(answer.content)
        assert found.check == "snp.measurement"
        assert any(line.startswith("snp.measurement failed") for line in found.findings)


@pytest.fixture(scope="module")
def choosy(tmp_path_factory):
    state = found_steward(
        tmp_path_factory.mktemp("steward") / "state",
        policy=policy_text(measurement=f'["{bytes(48).hex()}"]'),
        grants=((PACKAGE, TENANT, ("keep.example.com",)), (b"\2" * 32, "any", ("any.example.com",))),
    )
    with StewardProcess(state, "--offline") as running:
        yield running


def test_nonces_of_others_and_old_ones_are_refused(steward):
    visitor = Visitor()
    with steward.client() as client:
        for nonce in (bytes(32), os.urandom(32)):
            request = wire.encode_certificate_request(visitor.request(nonce, steward.root_digest))
            assert problem(send(client, wire.CERTIFICATES_PATH, request))[:2] == (403, "not-authentic")


# --- Results


def test_anybody_gets_a_signed_result_whatever_the_verdict(steward):
    visitor = Visitor()
    with steward.client() as client:
        (jwk,) = client.get("/.well-known/jwks.json").json()["keys"]
        for amd, verdict in ((AMD, "accepted"), (FakeAmd(owner="somebody else"), "not authentic")):
            visitor.amd = amd
            evidence, endorsement = visitor.attest(bytes(64))
            request = wire.ResultRequest(evidence=evidence, endorsements=(endorsement,), report_data=bytes(64))
            answer = send(client, wire.RESULTS_PATH, wire.encode_result_request(request))
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/eat+jwt")
            ear = verify_ear_jwt(answer.text, [public_key(jwk)], at=datetime.now(UTC))  # noqa: TID251
            claims = ear.submods["cpu0"].verifier_claims
            assert claims["enarx_verdict"] == verdict
            assert claims["enarx_evidence_sha256"] == hashlib.sha256(evidence).hexdigest()


def public_key(jwk):
    from joserfc.jwk import ECKey

    key = ECKey.import_key(jwk).get_op_key("verify")
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


# --- What everybody may know


def test_what_everybody_may_know(steward):
    with steward.client() as client:
        policies = client.get("/v1/policies").json()
        (policy,) = policies["policies"]
        assert hashlib.sha256(policy["text"].encode()).hexdigest() == policy["sha256"]
        assert policies["grants"] == [{"package": PACKAGE.hex(), "tenant": TENANT.hex(), "dns": ["keep.example.com"]}]
        assert client.get("/v1/ca.pem").content == (steward.state / "ca.pem").read_bytes()
        crl = x509.load_der_x509_crl(client.get("/v1/crl").content)
        assert crl.is_signature_valid(x509.load_pem_x509_certificates(steward.root.read_bytes())[0].public_key())
        assert client.get("/healthz").json()["status"] == "ok"


def test_only_the_stewards_own_root_is_needed_to_reach_it(steward):
    with socket.create_connection(("127.0.0.1", steward.port), 10) as plain:
        context = steward.context()
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            assert secure.version() == "TLSv1.3"
    with (
        socket.create_connection(("127.0.0.1", steward.port), 10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


# --- Policies that change


def test_what_another_policy_refuses_is_revoked(tmp_path):
    good = bytes(48)
    state = found_steward(tmp_path / "state", policy=policy_text(measurement=f'["{good.hex()}"]'))
    with StewardProcess(state, "--offline") as steward:
        leaf, root = certificate_of(steward.certify(Visitor()))
        with steward.client() as client:
            assert revoked(client, root) == set()
            (state / "policy.toml").write_text("this is no policy")
            seen = len(steward.lines)
            steward.signal(signal.SIGHUP)
            steward.wait_for("rules-not-loaded", after=seen)
            # A file with an error changes nothing.
            steward.wait_for("reviewed", after=seen)
            certificate_of(steward.certify(Visitor(), client=client))
            (state / "policy.toml").write_text(policy_text(measurement=f'["{(b"1" * 48).hex()}"]'))
            seen = len(steward.lines)
            steward.signal(signal.SIGHUP)
            steward.wait_for("rules-loaded", after=seen)
            assert "revoked=2" in steward.wait_for("reviewed", after=seen)
            assert leaf.serial_number in revoked(client, root)
            assert len(revoked(client, root)) == 2
            assert problem(steward.certify(Visitor(), client=client))[1] == "refused"
        steward.signal(signal.SIGTERM)
        assert steward.wait() == 0
    run_steward("audit", "--state", str(state))


def revoked(client, root):
    crl = x509.load_der_x509_crl(client.get("/v1/crl").content)
    assert crl.is_signature_valid(root.public_key())
    return {each.serial_number for each in crl}


def test_a_grant_that_is_taken_away_ends_certificates(tmp_path):
    state = found_steward(tmp_path / "state")
    with StewardProcess(state, "--offline") as steward:
        leaf, root = certificate_of(steward.certify(Visitor()))
        configuration = state / "steward.toml"
        configuration.write_text(configuration.read_text().partition("\n[[grant]]")[0])
        seen = len(steward.lines)
        steward.signal(signal.SIGHUP)
        steward.wait_for("rules-loaded", after=seen)
        steward.wait_for("reviewed", after=seen)
        with steward.client() as client:
            assert revoked(client, root) == {leaf.serial_number}


# --- Its start and its end


@pytest.mark.parametrize("policy", [None, "", "# nothing\n"])
def test_without_a_policy_it_does_not_start(tmp_path, policy):
    state = found_steward(tmp_path / "state")
    (state / "policy.toml").unlink()
    if policy is not None:
        (state / "policy.toml").write_text(policy)
        (state / "policy.toml").chmod(0o600)
    _, err = run_steward("serve", "--state", str(state), "--listen", "127.0.0.1:0", status=2)
    assert "policy" in err
    assert "enarx policy init" in err


def test_emulated_platforms_are_refused_without_the_flag(tmp_path):
    state = found_steward(tmp_path / "state", policy=make_policy_text())
    with StewardProcess(state, "--offline") as steward:
        assert problem(steward.certify(Visitor()))[1] == "not-authentic"
    root = hashlib.sha256(AMD.root).hexdigest()
    with StewardProcess(state, "--offline", f"--insecure-accept-emulated={root}") as steward:
        assert "EMULATED" in certificate_of(steward.certify(Visitor()))[0].subject.rfc4514_string()


def test_it_goes_on_with_its_log_after_it_was_killed(tmp_path):
    state = found_steward(tmp_path / "state")
    with StewardProcess(state, "--offline") as steward:
        first = wire.decode_certificate_answer_untrusted(steward.certify(Visitor()).content)
        steward.child.kill()
        steward.wait()
    with StewardProcess(state, "--offline") as steward:
        second = wire.decode_certificate_answer_untrusted(steward.certify(Visitor()).content)
        assert second.log_index > first.log_index
        _, err = run_steward("serve", "--state", str(state), "--listen", "127.0.0.1:0", status=108)
        assert "found another Steward" in err
    (tmp_path / "leaf.der").write_bytes(first.chain[0])
    run_steward("audit", "--state", str(state), "--certificate", str(tmp_path / "leaf.der"))


def test_neither_evidence_nor_keys_are_in_its_log(steward):
    evidence = Visitor().request(bytes(32)).evidence
    steward.certify(Visitor())
    text = "\n".join(line for line in steward.lines if line)
    assert "endpoint=certify" in text
    assert evidence[40:60].hex() not in text
    for key in steward.state.glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0
        assert "PRIVATE KEY" not in text


def test_tampering_is_found(tmp_path):
    state = found_steward(tmp_path / "state")
    with StewardProcess(state, "--offline") as steward:
        certificate_of(steward.certify(Visitor()))
        steward.signal(signal.SIGTERM)
        assert steward.wait() == 0
    saved = tmp_path / "checkpoint"
    run_steward("audit", "--state", str(state), "--save", str(saved))
    run_steward("audit", "--state", str(state), "--since", str(saved))
    with sqlite3.connect(state / "steward.sqlite3") as database:
        (index, body) = database.execute('SELECT "index", body FROM entries ORDER BY 1 DESC LIMIT 1').fetchone()
        changed = bytes([body[0] ^ 1]) + body[1:]
        database.execute('UPDATE entries SET body = ? WHERE "index" = ?', (changed, index))
    database.close()
    _, err = run_steward("audit", "--state", str(state), status=104)
    assert "found" in err


# --- Clients that are slow


def test_a_thousand_slow_clients_do_not_stop_the_next_one(steward):
    """Half of them never end TLS' handshake, the others never end their request."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = steward.context()
    slow = []
    try:
        for number in range(SLOW_CLIENTS):
            peer = socket.create_connection(("127.0.0.1", steward.port), 30)
            slow.append(peer)
            if number % 2:
                secure = context.wrap_socket(peer, server_hostname="localhost")
                slow[-1] = secure
                secure.sendall(
                    b"POST /v1/certificates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 100000\r\n\r\n{"
                )
        assert steward.certify(Visitor()).status_code == 201
    finally:
        for peer in slow:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert steward.certify(Visitor()).status_code == 201


def test_a_log_whose_newest_entries_were_taken_away_is_not_served(tmp_path):
    state = found_steward(tmp_path / "state")
    database, kept = state / "steward.sqlite3", state / "checkpoint"
    with StewardProcess(state, "--offline") as steward:
        with sqlite3.connect(database) as connection:
            (size,) = connection.execute("SELECT max(size) FROM checkpoints").fetchone()
        steward.certify(Visitor()).raise_for_status()
        steward.signal(signal.SIGTERM)
        assert steward.wait() == 0
    assert kept.stat().st_mode & 0o7777 == 0o600
    run_steward("audit", "--state", str(state))
    with sqlite3.connect(database) as connection:
        for statement in (
            "DELETE FROM certificates WHERE entry >= ?",
            'DELETE FROM entries WHERE "index" >= ?',
            "DELETE FROM checkpoints WHERE size > ?",
            'DELETE FROM hashes WHERE ("index" + 1) << level > ?',
        ):
            connection.execute(statement, (size,))
    out, _ = run_steward("audit", "--state", str(state), status=104)
    assert "history-rolled-back" in out
    _, said = run_steward("serve", "--state", str(state), "--listen", "127.0.0.1:0", "--offline", status=104)
    assert f"found {size} entries, want at least the {size + 1} that were signed before" in said
    # What an operator does who restored a backup.
    kept.unlink()
    with StewardProcess(state, "--offline") as steward:
        assert steward.certify(Visitor()).status_code == 201
