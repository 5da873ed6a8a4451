# SPDX-License-Identifier: Apache-2.0
"""Outgoing requests of a real component to servers on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from enarx.runtime.component import http_outgoing
from enarx.runtime.component.http_fields import ERROR_CODE

WAIT_S = 5


class Server:
    """Answers connections one after another, each with the next of `answers`, and keeps what it was sent."""

    def __init__(self, *answers, close=True):
        self.answers = answers
        self.requests = []
        self.close = close
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(WAIT_S)
        self.port = self.listener.getsockname()[1]
        self.held = []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        for answer in self.answers:
            sock, _ = self.listener.accept()
            sock.settimeout(WAIT_S)
            request = b""
            while b"\r\n\r\n" not in request:
                request += sock.recv(4096)
            self.requests.append(request)
            for piece in answer if isinstance(answer, list) else [answer]:
                sock.sendall(piece)
            if self.close:
                sock.close()
            else:
                self.held.append(sock)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(WAIT_S)
        self.listener.close()
        for sock in self.held:
            sock.close()


@pytest.fixture
def get(runner, guest, capfd):
    """Run the guest that makes one request; return its status and what it printed."""

    def run(scheme, authority, path="/", **options):
        component = guest("component/http_get").read_bytes()
        outcome = runner.run(component, args=[scheme, authority, path], **options)
        said = capfd.readouterr()
        run.said = said.err
        return outcome.status, said.out

    return run


def error(case):
    return 1, f"error {list(ERROR_CODE.cases).index(case)}\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200\nok"),
        (b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", "404\nno"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "200\nuntil the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "204\n"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", "200\n!"),
        ([b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2", b"\r\n\r\n", b"o", b"k"], "200\nok"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n", "302\n"),
    ],
)
def test_takes_what_the_server_answers(get, answer, expected):
    with Server(answer) as server:
        assert get("http", f"127.0.0.1:{server.port}", "/a?b", allow_connect=["127.0.0.1:*"]) == (0, expected)
    (request,) = server.requests
    assert request == b"GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\n\r\n" % server.port


def test_takes_a_long_body(get):
    body = "0123456789" * 100_000
    with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + body.encode()) as server:
        assert get("http", f"localhost:{server.port}", allow_connect=[f"localhost:{server.port}"]) == (
            0,
            "200\n" + body,
        )


@pytest.mark.parametrize("allowed", [[], ["127.0.0.1:1"], ["127.0.0.2:*"], ["localhost:*"], None])
def test_refuses_what_no_pattern_allows(get, allowed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        authority = f"127.0.0.1:{server.getsockname()[1]}"
        assert get("http", authority, allow_connect=allowed) == error("HTTP-request-denied")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_says_that_nobody_answers(get, free_port):
    assert get("http", f"127.0.0.1:{free_port}", allow_connect=["*:*"]) == error("connection-refused")


def test_says_that_a_name_has_no_address(get):
    assert get("http", "name.invalid", allow_connect=["*:*"])[1].startswith("error ")


@pytest.mark.parametrize(
    ("answer", "case"),
    [
        (b"", "HTTP-response-incomplete"),
        (b"HTTP/1.1 200 OK\r\nConte", "HTTP-response-incomplete"),
        (b"SSH-2.0-OpenSSH\r\n", "HTTP-protocol-error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP-protocol-error"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP-protocol-error"),
    ],
)
def test_says_that_the_answer_is_none(get, answer, case):
    with Server(answer) as server:
        assert get("http", f"127.0.0.1:{server.port}", allow_connect=["*:*"]) == error(case)


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_limit(get, monkeypatch):
    monkeypatch.setattr(http_outgoing, "FIRST_BYTE_NS", 10**8)
    with Server(b"", close=False) as server:
        assert get("http", f"127.0.0.1:{server.port}", allow_connect=["*:*"]) == error("HTTP-response-timeout")


def test_a_server_without_tls_is_no_https_server(get):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)

        def answer():
            sock, _ = server.accept()
            with sock, contextlib.suppress(OSError):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(4096)

        thread = threading.Thread(target=answer)
        thread.start()
        result = get("https", f"127.0.0.1:{server.getsockname()[1]}", allow_connect=["*:*"])
        thread.join(WAIT_S)
    assert result == error("TLS-protocol-error")


def test_a_certificate_that_nobody_vouches_for_is_refused(get, runner, guest):
    from .test_http_service import Served

    with Served(runner, guest("component/http_hello"), prot="tls") as service:
        result = get("https", f"127.0.0.1:{service.port}", allow_connect=["*:*"])
    assert result == error("TLS-certificate-error")
    assert f"enarx: handshake with 127.0.0.1:{service.port} failed: certificate has no trusted" in get.said
