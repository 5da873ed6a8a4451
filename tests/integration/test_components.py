# SPDX-License-Identifier: Apache-2.0
"""Components by the installed command: the same statuses, limits and sockets as core modules have."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.certificates import client
from tests.integration.peers import PEER_S, at_once, connected, receive

HELLO = b"Hello, Enarx!\n"
AT_ONCE_S = 5.0


def test_a_command_says_hello(enarx, guest):
    ended = enarx.run(guest("component/hello_cmd"))
    assert (ended.status, ended.stdout, ended.stderr) == (0, HELLO, "")


def test_a_command_copies_two_mebibytes(enarx, guest):
    data = os.urandom(2 << 20)
    ended = enarx.run(guest("component/echo_cmd"), stdin=data)
    assert (ended.status, ended.stdout, ended.stderr) == (0, data, "")


@pytest.mark.parametrize(("last", "status"), [("nothing", 0), ("fail", 1), ("exit-ok", 0), ("exit-error", 1)])
def test_a_command_ends_with_its_own_status(enarx, guest, last, status):
    ended = enarx.run(guest("component/args_cmd"), "--env", "A=1", "--", "x", last)
    assert (ended.status, ended.stderr) == (status, "")
    assert ended.stdout == f"main.wasm\nx\n{last}\n\nA=1\n".encode()


def test_a_trap_of_a_command_is_134(enarx, guest):
    ended = enarx.run(guest("component/args_cmd"), "--", "trap")
    assert ended.status == 134
    assert ended.stderr.startswith("enarx: workload trapped: ")
    assert "Traceback" not in ended.stderr


def test_a_command_writes_to_stderr(enarx, guest):
    ended = enarx.run(guest("component/args_cmd"), "--", "stderr")
    assert (ended.status, ended.stderr) == (0, "to stderr\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--timeout", "300ms"), "wall time"), (("--fuel", "1000000"), "fuel"), (("--output", "5"), "output")],
)
def test_limits_hold_for_a_command(enarx, guest, arguments, word):
    ended = enarx.run(guest("component/args_cmd"), *arguments, "--", "spin")
    assert ended.status == 109
    assert ended.stderr.startswith(f"enarx: workload stopped: {word}: ")
    assert ended.stdout == (b"main." if word == "output" else b"main.wasm\nspin\n\n")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command(enarx, guest, by):
    with enarx.start(guest("component/args_cmd"), "--", "spin") as started:
        started.until_stdout(b"spin\n")
        ended = started.end(by=by)
    assert ended.status == (130 if by == signal.SIGINT else -by)
    assert ended.seconds < AT_ONCE_S


def test_a_command_reads_its_directory_and_nothing_else(enarx, guest, tmp_path: Path):
    (tmp_path / "secret").write_text("not for it\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "own").write_text("own\n")
    (inside / "link").symlink_to("../secret")
    module = guest("component/cat_file")
    found = enarx.run(module, "--dir", f"{inside}::/d", "--", "own")
    assert (found.status, found.stdout, found.stderr) == (0, b"own\n", "")
    for path in ("../secret", "link", "/etc/passwd", str(tmp_path / "secret")):
        refused = enarx.run(module, "--dir", f"{inside}::/d", "--", path)
        assert refused.status == 1
        assert refused.stdout.startswith(b"error ")
    assert enarx.run(module, "--", "own").stdout.startswith(b"no directory")


def test_an_import_that_is_not_offered_is_named(enarx, guest):
    enarx.run(guest("component/import_unknown")).refused(103, "import")


def allow(tmp_path: Path, *patterns: str) -> Path:
    config = tmp_path / "Enarx.toml"
    listed = ", ".join(f'"{pattern}"' for pattern in patterns)
    config.write_text(f"allow_connect = [{listed}]\n")
    return config


def test_a_command_connects_where_it_may_and_nowhere_else(enarx, guest, tmp_path: Path):
    module = guest("component/tcp_client")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        port = server.getsockname()[1]

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                assert receive(peer, 5) == b"ping\n"
                peer.sendall(b"pong\n")

        served = pool.submit(answer)
        config = allow(tmp_path, f"127.0.0.1:{port}")
        ended = enarx.run("--wasmcfgfile", config, module, "--", "127.0.0.1", port)
        assert (ended.status, ended.stdout) == (0, b"pong\n")
        served.result(PEER_S)
        server.settimeout(0)
        for other in ([], ["127.0.0.1:1"]):
            refused = enarx.run("--wasmcfgfile", allow(tmp_path, *other), module, "--", "127.0.0.1", port)
            assert refused.status == 1
            with pytest.raises(BlockingIOError):
                server.accept()


@pytest.fixture(params=["tcp", "tls"])
def prot(request):
    return request.param


def connection_to(port: int, prot: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PEER_S)
    if prot == "tls":
        connection.sock = client().wrap_socket(socket.create_connection(("127.0.0.1", port), PEER_S))
    return connection


def test_a_service_answers_many_connections_that_stay(enarx, guest, prot):
    with enarx.start(guest("component/http_hello"), "--listen", f"web={prot}:0") as started:
        port = started.port("web")

        def ask(_: int) -> None:
            connection = connection_to(port, prot)
            for _ in range(25):
                connection.request("GET", "/")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, HELLO)
            connection.close()

        # Somebody who says nothing stops nobody.
        with connected(port):
            at_once(16, ask)
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130


def test_a_service_sees_the_request_and_its_body(enarx, guest, prot):
    with enarx.start(guest("component/http_echo_body"), "--listen", f"web={prot}:0") as started:
        connection = connection_to(started.port("web"), prot)
        body = os.urandom(300_000)
        connection.request("POST", "/path?query", body, {"X-Mark": "1"})
        response = connection.getresponse()
        head, _, echoed = response.read().partition(b"\n\n")
        assert (response.status, response.headers["x-second"]) == (200, "two")
        assert head.startswith(b"POST /path?query\n")
        assert b"x-mark: 1" in head.lower()
        assert echoed == body
        connection.close()


def test_a_trap_ends_one_request_and_not_the_service(enarx, guest):
    with enarx.start(guest("component/http_trap"), "--listen", "web=tcp:0") as started:
        port = started.port("web")
        for _ in range(3):
            connection = connection_to(port, "tcp")
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            assert response.status == 500
            connection.close()
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130
    assert "Traceback" not in ended.stderr


def test_a_service_without_a_listener_is_refused(enarx, guest):
    ended = enarx.run(guest("component/http_hello"))
    assert ended.status in {102, 103}
    assert ended.stderr.startswith("enarx: ")
    assert "listen" in ended.stderr


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 200_000],
    ids=["zeros", "short", "version", "long"],
)
def test_garbage_is_answered_or_cut_and_stops_nobody(enarx, guest, garbage):
    with enarx.start(guest("component/http_hello"), "--listen", "web=tcp:0") as started:
        port = started.port("web")
        with connected(port) as rude:
            try:
                rude.sendall(garbage)
                rude.shutdown(socket.SHUT_WR)
                answer = receive(rude, 1000)
            except ConnectionError:
                answer = b""
            assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        connection = connection_to(port, "tcp")
        connection.request("GET", "/")
        assert connection.getresponse().read() == HELLO
        connection.close()


def test_a_cut_tls_connection_stops_nobody(enarx, guest):
    with enarx.start(guest("component/http_hello"), "--listen", "web=0") as started:
        port = started.port("web")
        with socket.create_connection(("127.0.0.1", port), PEER_S) as sock:
            rude = client().wrap_socket(sock, do_handshake_on_connect=False)
            rude.setblocking(False)
            # Whether the answer is there already does not matter.
            with contextlib.suppress(ssl.SSLWantReadError):
                rude.do_handshake()
            rude.close()
        connection = connection_to(port, "tls")
        connection.request("GET", "/")
        assert connection.getresponse().read() == HELLO
        connection.close()


def test_outgoing_http_goes_where_it_may(enarx, guest, tmp_path: Path):
    module = guest("component/http_get")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        port = server.getsockname()[1]

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(PEER_S)
                assert peer.recv(4096).startswith(b"GET /x HTTP/1.1\r\n")
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nworld")
                peer.recv(1)

        served = pool.submit(answer)
        config = allow(tmp_path, f"127.0.0.1:{port}")
        ended = enarx.run("--wasmcfgfile", config, module, "--", "http", f"127.0.0.1:{port}", "/x")
        assert (ended.status, ended.stdout) == (0, b"200\nworld"), ended
        served.result(PEER_S)
        server.settimeout(0)
        refused = enarx.run(module, "--", "http", f"127.0.0.1:{port}", "/x")
        assert refused.status == 1
        assert refused.stdout.startswith(b"error ")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.slow
def test_a_command_in_python(enarx, guest, tmp_path: Path):
    (tmp_path / "text").write_text("read\n")
    module = guest("component_py/app")
    ended = enarx.run(module, "--dir", f"{tmp_path}::/d", "--env", "GREETING=hi", "--", "/d/text")
    assert ended.status == 0, ended.stderr
    assert ended.stdout == b"Hello, Enarx!\n['/d/text'] hi\nread\n"
    assert enarx.run(module, "--", "fail").status == 1
