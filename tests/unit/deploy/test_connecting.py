# SPDX-License-Identifier: Apache-2.0
"""Connections to services in Keeps: the right one is talked to, and the wrong one never gets a byte of what was to be said."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from enarx.deploy.connecting import (
    KeepPolicy,
    KeepSSLContext,
    RefusedServiceError,
    connect,
    fetch_chain,
    keep_ssl_context,
    load_steward_root,
)
from enarx.deploy.keep_transport import AsyncKeepTransport, KeepTransport
from enarx.deploy.policy import make_policy
from enarx.deploy.presented import MAX_CHAIN_BYTES
from enarx.errors import AppraisalError, ConfigError, DecodeError, TransportError, UsageError, VerificationError
from enarx.testing.snp import FakeAmd
from tests.attesting import NOW, make_policy_text
from tests.presenting import ANSWER, IDENTITY, WAIT_S, FakeSteward, make_self_signed_keep, serving

REQUEST = b"GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n"
OTHER = IDENTITY._replace(package=b"P" * 32)


@pytest.fixture(scope="module")
def steward():
    return FakeSteward(at=NOW)


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture
def policy(steward):
    return KeepPolicy(steward_root=steward.root, package=IDENTITY.package)


def talk(port, policy, **options):
    with connect("localhost", port, policy, timeout_s=WAIT_S, **options) as secure:
        secure.sendall(REQUEST)
        return secure.judged, secure.recv(65536)


class TestConnect:
    def test_talks_to_the_keep_that_is_wanted(self, steward, policy, tmp_path):
        with serving(steward.issue(), tmp_path) as service:
            judged, answer = talk(service.port, policy)
        assert answer == ANSWER
        assert service.received == REQUEST
        assert judged.presented.identity == IDENTITY

    def test_talks_to_a_key_alone_where_that_is_said(self, amd, tmp_path):
        policy = KeepPolicy(
            accept_key_only=True,
            package=IDENTITY.package,
            appraisal=make_policy(make_policy_text(amd.root).encode(), name="p.toml"),
        )
        with serving(make_self_signed_keep(amd, at=NOW), tmp_path) as service:
            assert talk(service.port, policy)[1] == ANSWER
            with pytest.raises(AppraisalError, match=r"service\.fresh"):
                talk(service.port, replace(policy, accept_key_only=False))
            with pytest.raises(AppraisalError, match=r"service\.package"):
                talk(service.port, replace(policy, package=OTHER.package))
        assert service.received == REQUEST

    @pytest.mark.parametrize(
        ("issued", "wanted", "error", "reason"),
        [
            ({"names": ["keep.example"]}, {}, VerificationError, "[Hh]ostname mismatch"),
            ({"lasts": timedelta(minutes=1)}, {}, VerificationError, "expired"),
            ({"identity": OTHER}, {}, AppraisalError, r"service\.package"),
            ({}, {"tenant": b"T" * 48}, AppraisalError, r"service\.tenant"),
            ({"emulated": True}, {}, AppraisalError, r"service\.emulated"),
            ({"verdict": "refused"}, {}, AppraisalError, r"service\.result"),
            ({"expires_at": NOW.replace(microsecond=0)}, {}, VerificationError, r"service\.result_time"),
            ({"extension": None}, {}, AppraisalError, "no evidence of a Keep"),
            ({"extension": b"\x04\x01\x00"}, {}, DecodeError, "CMW"),
        ],
    )
    def test_says_nothing_to_another(self, steward, policy, tmp_path, issued, wanted, error, reason):
        with serving(steward.issue(**issued), tmp_path) as service, pytest.raises(error, match=reason):
            talk(service.port, replace(policy, **wanted))
        assert service.received == b""

    def test_says_nothing_to_what_another_authority_certified(self, policy, tmp_path):
        with (
            serving(FakeSteward(at=NOW).issue(), tmp_path) as service,
            pytest.raises(VerificationError, match=r"localhost:[0-9]+ is not authentic") as caught,
        ):
            talk(service.port, policy)
        assert "attest connect" in caught.value.hint
        assert service.received == b""

    def test_the_name_may_be_another_than_the_address(self, steward, policy, tmp_path):
        with serving(steward.issue(names=["keep.example"]), tmp_path) as service:
            assert talk(service.port, policy, server_name="keep.example.")[1] == ANSWER

    def test_takes_an_authority_below_the_root(self, policy, tmp_path):
        steward = FakeSteward(at=NOW, intermediate=True)
        for root in (steward.root, steward.issuers[0]):
            with serving(steward.issue(), tmp_path) as service:
                assert talk(service.port, replace(policy, steward_root=root))[1] == ANSWER


class TestContext:
    """What the standard library's connections do, whoever calls them."""

    @pytest.fixture
    def wrong(self, steward, tmp_path):
        with serving(steward.issue(identity=OTHER), tmp_path) as service:
            yield service
        assert service.received == b""

    def test_no_way_of_sending_comes_before_the_verdict(self, policy, wrong):
        context = keep_ssl_context(policy)
        for send in ("sendall", "send", "write"):
            with (
                socket.create_connection(("127.0.0.1", wrong.port), WAIT_S) as plain,
                context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as secure,
            ):
                for _ in range(2):
                    with pytest.raises(RefusedServiceError, match=r"service\.package"):
                        getattr(secure, send)(REQUEST)
                for receive in (secure.recv, secure.read):
                    with pytest.raises(RefusedServiceError):
                        receive(1)
                with pytest.raises(RefusedServiceError):
                    secure.recv_into(bytearray(1))
                with pytest.raises(UsageError, match="no completed handshake"):
                    _ = secure.judged

    def test_a_socket_that_connects_later_is_judged_too(self, policy, wrong):
        with keep_ssl_context(policy).wrap_socket(socket.socket(), server_hostname="localhost") as secure:
            secure.settimeout(WAIT_S)
            with pytest.raises(RefusedServiceError):
                secure.connect(("127.0.0.1", wrong.port))

    def test_a_connection_without_a_socket_is_judged_too(self, policy, wrong):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = keep_ssl_context(policy).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", wrong.port), WAIT_S) as plain:
            for act in (lambda: secure.write(REQUEST), lambda: secure.read(1), secure.do_handshake):
                while True:
                    try:
                        act()
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        incoming.write(plain.recv(65536))
                    except RefusedServiceError:
                        break
                plain.sendall(outgoing.read())

    def test_asyncio_is_refused(self, policy, wrong):
        async def talk():
            with pytest.raises(RefusedServiceError, match=r"service\.package"):
                await asyncio.open_connection("localhost", wrong.port, ssl=keep_ssl_context(policy))

        asyncio.run(talk())

    def test_a_library_cannot_weaken_it(self, steward, policy, tmp_path):
        other = FakeSteward(at=NOW)
        context = keep_ssl_context(policy)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_verify_locations(cadata=other.pem.decode())
        for shown in (other.issue(), steward.issue(names=["keep.example"])):
            with (
                serving(shown, tmp_path) as service,
                socket.create_connection(("127.0.0.1", service.port), WAIT_S) as plain,
                pytest.raises(RefusedServiceError, match=r"service\.(chain|name)") as caught,
            ):
                context.wrap_socket(plain, server_hostname="localhost")
            assert isinstance(caught.value.__cause__, VerificationError)
            assert caught.value.error is caught.value.__cause__
            assert service.received == b""

    def test_another_context_for_the_connection_is_refused(self, policy, steward, tmp_path):
        with (
            serving(steward.issue(), tmp_path) as service,
            socket.create_connection(("127.0.0.1", service.port), WAIT_S) as plain,
            keep_ssl_context(policy).wrap_socket(
                plain, server_hostname="localhost", do_handshake_on_connect=False
            ) as secure,
        ):
            secure.context = ssl.create_default_context(cadata=steward.pem.decode())
            with pytest.raises(RefusedServiceError, match="a context without a policy"):
                secure.sendall(REQUEST)
        assert service.received == b""

    def test_an_older_tls_is_refused_whatever_a_library_allows(self, steward, policy, tmp_path):
        context = keep_ssl_context(policy)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with (
            serving(steward.issue(), tmp_path, newest=ssl.TLSVersion.TLSv1_2) as service,
            socket.create_connection(("127.0.0.1", service.port), WAIT_S) as plain,
            pytest.raises(RefusedServiceError, match=r"found TLSv1\.2, want TLSv1\.3"),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        assert service.received == b""

    def test_without_a_policy_everybody_is_refused(self, steward, tmp_path):
        context = KeepSSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=steward.pem.decode())
        with (
            serving(steward.issue(), tmp_path) as service,
            socket.create_connection(("127.0.0.1", service.port), WAIT_S) as plain,
            pytest.raises(RefusedServiceError, match="a context without a policy"),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        assert service.received == b""

    def test_a_resumed_session_is_refused(self, steward, policy, tmp_path):
        context = keep_ssl_context(policy)
        with serving(steward.issue(), tmp_path) as service:

            def wrap(session):
                plain = socket.create_connection(("127.0.0.1", service.port), WAIT_S)
                return context.wrap_socket(plain, server_hostname="localhost", session=session)

            with wrap(None) as secure:
                secure.sendall(REQUEST)
                assert secure.recv(65536) == ANSWER
                session = secure.session
            assert session.has_ticket
            with pytest.raises(RefusedServiceError, match="a resumed session"):
                wrap(session)
        assert service.received == REQUEST

    def test_the_verdict_is_for_the_time_that_is_asked(self, steward, policy, tmp_path):
        with serving(steward.issue(), tmp_path) as service, pytest.raises(VerificationError, match=r"service\.time"):
            talk(service.port, policy, now=lambda: datetime(2020, 1, 1, tzinfo=UTC))
        assert service.received == b""


class TestHttp:
    def test_http_client(self, steward, policy, tmp_path):
        for identity, expected in ((IDENTITY, b"hello"), (OTHER, None)):
            with serving(steward.issue(identity=identity), tmp_path) as service:
                client = http.client.HTTPSConnection(
                    "localhost", service.port, context=keep_ssl_context(policy), timeout=WAIT_S
                )
                if expected is None:
                    with pytest.raises(RefusedServiceError):
                        client.request("GET", "/secret")
                else:
                    client.request("GET", "/secret")
                    assert client.getresponse().read() == expected
                client.close()
            assert (b"/secret" in service.received) is (expected is not None)

    def test_httpx(self, steward, policy, tmp_path):
        for identity, expected in ((IDENTITY, "hello"), (OTHER, None)):
            with serving(steward.issue(identity=identity), tmp_path) as service:
                url = f"https://localhost:{service.port}/secret"
                with httpx2.Client(transport=KeepTransport(policy), trust_env=False, timeout=WAIT_S) as client:
                    if expected is None:
                        with pytest.raises(httpx2.ConnectError, match=r"service\.package"):
                            client.get(url)
                    else:
                        assert client.get(url).text == expected
            assert (b"/secret" in service.received) is (expected is not None)

    def test_httpx_with_asyncio(self, steward, policy, tmp_path):
        async def get(port):
            transport = AsyncKeepTransport(policy)
            async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=WAIT_S) as client:
                return (await client.get(f"https://localhost:{port}/secret")).text

        with serving(steward.issue(), tmp_path) as service:
            assert asyncio.run(get(service.port)) == "hello"
        with (
            serving(steward.issue(identity=OTHER), tmp_path) as service,
            pytest.raises(httpx2.ConnectError, match=r"service\.package"),
        ):
            asyncio.run(get(service.port))
        assert service.received == b""

    def test_httpx_never_sends_in_the_clear(self, policy):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            with (
                httpx2.Client(transport=KeepTransport(policy), trust_env=False) as client,
                pytest.raises(httpx2.UnsupportedProtocol, match="want https://"),
            ):
                client.get(url)

            async def get():
                async with httpx2.AsyncClient(transport=AsyncKeepTransport(policy), trust_env=False) as client:
                    await client.get(url)

            with pytest.raises(httpx2.UnsupportedProtocol, match="want https://"):
                asyncio.run(get())
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()


@contextmanager
def plain_server(answer):
    """Accept one connection and answer what comes, if there is an answer; give what came at the end."""
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(WAIT_S)
                said.extend(peer.recv(65536))
                if answer is None:
                    peer.recv(65536)
                else:
                    peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], said
        thread.join(WAIT_S)


class TestFetch:
    def test_returns_the_chain_as_it_came_and_says_nothing(self, tmp_path):
        shown = FakeSteward(at=NOW, intermediate=True).issue(names=["keep.example"])
        with serving(shown, tmp_path) as service:
            assert fetch_chain("127.0.0.1", service.port, server_name="keep.example", timeout_s=WAIT_S) == shown.der
            assert fetch_chain("127.0.0.1", service.port, timeout_s=WAIT_S) == shown.der
        assert service.received == b""

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"SSH-2.0-x\r\n"])
    def test_refuses_what_is_no_tls(self, answer):
        with (
            plain_server(answer) as (port, _),
            pytest.raises(TransportError, match=r"found bytes that are not TLS, want TLS 1\.3"),
        ):
            fetch_chain("127.0.0.1", port, timeout_s=WAIT_S)

    def test_refuses_an_end_before_the_handshake_s(self):
        with plain_server(b"") as (port, _), pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1:"):
            fetch_chain("127.0.0.1", port, timeout_s=WAIT_S)

    def test_refuses_an_older_tls(self, steward, tmp_path):
        with (
            serving(steward.issue(), tmp_path, newest=ssl.TLSVersion.TLSv1_2) as service,
            pytest.raises(TransportError, match=r"found a peer without TLS 1\.3"),
        ):
            fetch_chain("127.0.0.1", service.port, timeout_s=WAIT_S)

    def test_does_not_wait_for_ever(self):
        began = time.monotonic()
        with plain_server(None) as (port, _), pytest.raises(TransportError, match=r"want one within 0\.2 s"):
            fetch_chain("127.0.0.1", port, timeout_s=0.2)
        assert time.monotonic() - began < WAIT_S

    def test_does_not_wait_for_ever_for_a_name(self, monkeypatch):
        over = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(WAIT_S) and [])
        with pytest.raises(TransportError, match=r"no answer to the name, want one within 0\.1 s"):
            fetch_chain("keep.example", 443, timeout_s=0.1)
        over.set()

    def test_refuses_more_certificates_than_a_keep_has(self, steward, tmp_path):
        shown = steward.issue()
        large = replace(shown, chain=shown.chain + steward.issuers * (MAX_CHAIN_BYTES // 300))
        assert sum(map(len, large.der)) > MAX_CHAIN_BYTES
        with (
            oversized(large, tmp_path) as port,
            pytest.raises(TransportError, match=f"certificates of more than {MAX_CHAIN_BYTES} bytes"),
        ):
            fetch_chain("127.0.0.1", port, timeout_s=WAIT_S)

    def test_says_that_nobody_is_there(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(TransportError, match="connection refused"):
            fetch_chain("127.0.0.1", port, timeout_s=WAIT_S)

    @pytest.mark.parametrize("name", ["keep..example", "k" * 300, "nul\0.example"])
    def test_refuses_what_can_be_no_name(self, steward, tmp_path, name):
        with (
            serving(steward.issue(), tmp_path) as service,
            pytest.raises(UsageError, match="want a DNS name or an address"),
        ):
            fetch_chain("127.0.0.1", service.port, server_name=name, timeout_s=WAIT_S)


@contextmanager
def oversized(shown, folder):
    """Serve a chain that clients do not take."""
    path = folder / "large.pem"
    path.write_bytes(shown.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            peer.settimeout(WAIT_S)
            with peer, pytest.raises(OSError):
                context.wrap_socket(peer, server_side=True)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(WAIT_S)
        assert not thread.is_alive()


class TestRoot:
    def test_reads_one_certificate(self, steward, tmp_path):
        path = tmp_path / "root.pem"
        path.write_bytes(steward.pem)
        assert load_steward_root(str(path)) == steward.root

    def test_refuses_several_none_and_no_file(self, steward, tmp_path):
        path = tmp_path / "root.pem"
        path.write_bytes(steward.pem * 2)
        with pytest.raises(UsageError, match="found 2 certificates, want one"):
            load_steward_root(str(path))
        path.write_bytes(b"nothing")
        with pytest.raises(ConfigError):
            load_steward_root(str(path))
        with pytest.raises(UsageError, match="No such file"):
            load_steward_root(str(tmp_path / "nothing"))
