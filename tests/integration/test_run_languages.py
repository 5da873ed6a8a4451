# SPDX-License-Identifier: Apache-2.0
"""Servers of other languages' own libraries on preopened sockets, unchanged: mio, Rust's std and Go's net/http."""

from __future__ import annotations

import http.client
import socket

import pytest

from tests.integration.certificates import client
from tests.integration.peers import PEER_S, at_once, connected, require_echo

pytestmark = pytest.mark.slow


@pytest.fixture(params=["tcp", "tls"])
def prot(request):
    return request.param


def context_of(prot: str):
    return client() if prot == "tls" else None


def test_mio_echoes_many_at_once(enarx, guest, prot):
    with enarx.start(guest("rust/mio_echo"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        started.until_stdout(b"ready\n")
        tls = context_of(prot)
        # Somebody who says nothing is nobody's concern.
        with socket.create_connection(("127.0.0.1", port)):
            at_once(32, lambda number: require_echo(port, tls, bytes([number]) * 300_000))


def test_std_echoes_one_after_the_other(enarx, guest, prot):
    with enarx.start(guest("rust/std_echo"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        started.until_stdout(b"ready\n")
        for number in range(20):
            require_echo(port, context_of(prot), bytes([number]) * 100_000)


def http_connection(port: int, prot: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PEER_S)
    if prot == "tls":
        connection.sock = client().wrap_socket(socket.create_connection(("127.0.0.1", port), PEER_S))
    return connection


def test_go_says_hello(enarx, guest):
    ended = enarx.run(guest("go/hello"))
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, Enarx!\n", "")


def test_go_serves_many_at_once_and_keeps_them(enarx, guest, prot):
    with enarx.start(guest("go/http"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        started.until_stdout(b"ready\n")

        def ask(_: int) -> None:
            connection = http_connection(port, prot)
            for _ in range(30):
                connection.request("GET", "/")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"Hello, Enarx!")
            connection.close()

        with connected(port):
            at_once(16, ask)


def test_go_reads_a_body_before_it_answers(enarx, guest, prot):
    with enarx.start(guest("go/http"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        connection = http_connection(port, prot)
        body = bytes(range(256)) * 8192
        connection.request("POST", "/echo", body)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, body)
        connection.request("GET", "/headers", headers={"X-Mark": "1"})
        assert b"X-Mark" in connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("name", ["go/http", "rust/mio_echo", "rust/std_echo"])
def test_ctrl_c_ends_them(enarx, guest, name):
    import signal

    with enarx.start(guest(name), "--listen", "listen=0") as started:
        started.until_stdout(b"ready\n")
        assert started.end(by=signal.SIGINT).status == 130
