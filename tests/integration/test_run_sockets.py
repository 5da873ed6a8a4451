# SPDX-License-Identifier: Apache-2.0
"""Preopened sockets without TLS, and polling: real peers on the loopback interface."""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path

import pytest

from tests.integration.certificates import client
from tests.integration.peers import PEER_S, at_once, connected, receive, require_echo

STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
BADF = 8
CLOCK, READ = 0, 1


@pytest.fixture(params=["tcp", "tls"])
def prot(request):
    return request.param


def context_of(prot: str):
    return client() if prot == "tls" else None


def test_echoes_many_connections_at_once(enarx, guest, prot):
    count = 24
    with enarx.start(guest("tcp_echo"), "--listen", f"listen={prot}:0", "--", count) as started:
        port = started.port("listen")
        tls = context_of(prot)
        at_once(count, lambda number: require_echo(port, tls, bytes([number]) * 200_000))
        ended = started.end()
    assert ended.status == 0, ended.stderr


def test_echoes_one_connection_after_the_other(enarx, guest, prot):
    count = 60
    with enarx.start(guest("tcp_echo"), "--listen", f"listen={prot}:0", "--", count) as started:
        port = started.port("listen")
        tls = context_of(prot)
        for number in range(count):
            require_echo(port, tls, b"%d" % number)
        assert started.end().status == 0


def test_serves_http_to_many_connections_that_stay(enarx, guest, prot):
    with enarx.start(guest("http_poll"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        tls = context_of(prot)

        def ask(_: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PEER_S)
            if tls is not None:
                connection.sock = tls.wrap_socket(socket.create_connection(("127.0.0.1", port), PEER_S))
            for _ in range(40):
                connection.request("GET", "/")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"Hello, Enarx!")
            connection.close()

        at_once(16, ask)


def test_answers_pipelined_requests_in_one_go(enarx, guest, prot):
    with (
        enarx.start(guest("http_poll"), "--listen", f"listen={prot}:0") as started,
        connected(started.port("listen"), context_of(prot)) as peer,
    ):
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        assert receive(peer, 50 * 78).count(b"Hello, Enarx!") == 50


def test_a_peer_that_does_not_read_stops_nobody_else(enarx, guest, prot):
    with enarx.start(guest("tcp_echo"), "--listen", f"listen={prot}:0") as started:
        port = started.port("listen")
        tls = context_of(prot)
        with connected(port, tls) as greedy:
            # More than both ends buffer: the guest cannot write any more.
            greedy.settimeout(0.5)
            with pytest.raises((TimeoutError, BlockingIOError)):
                greedy.sendall(bytes(1 << 26))
            require_echo(port, tls, b"still here" * 1000)


def test_a_reset_connection_is_one_connections_end(enarx, guest):
    with enarx.start(guest("tcp_echo"), "--listen", "listen=tcp:0", "--", "2") as started:
        port = started.port("listen")
        with connected(port) as rude:
            rude.sendall(b"x")
            assert receive(rude, 1) == b"x"
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        require_echo(port, None, b"polite")
        assert started.end().status == 0


def test_half_a_close_still_gets_its_answer(enarx, guest):
    with (
        enarx.start(guest("tcp_echo"), "--listen", "listen=tcp:0") as started,
        connected(started.port("listen")) as peer,
    ):
        peer.sendall(b"the whole of it")
        peer.shutdown(socket.SHUT_WR)
        assert receive(peer, 100) == b"the whole of it"


EVERYWHERE = "0.0.0.0"  # noqa: S104  # what is tested


@pytest.mark.parametrize(
    ("addr", "host"), [("::", "127.0.0.1"), ("::", "::1"), (EVERYWHERE, "127.0.0.1"), ("::1", "::1")]
)
def test_listens_at_the_address_that_was_asked_for(enarx, guest, tmp_path: Path, addr, host):
    config = tmp_path / "Enarx.toml"
    config.write_text(f'{STDIO}[[files]]\nkind = "listen"\nname = "listen"\nprot = "tcp"\naddr = "{addr}"\nport = 0\n')
    with enarx.start("--wasmcfgfile", config, guest("tcp_echo"), "--", "1") as started:
        with connected(started.port("listen"), host=host) as peer:
            peer.sendall(b"hello")
            assert receive(peer, 5) == b"hello"
        assert started.end().status == 0


def test_two_listeners_are_two_sockets(enarx, guest):
    with enarx.start(guest("tcp_echo"), "--listen", "other=tcp:0", "--listen", "listen=tcp:0", "--", "1") as started:
        assert started.port("other") != started.port("listen")
        require_echo(started.port("listen"), None, b"by its name")
        assert started.end().status == 0


def test_open_files_limit_accepted_connections(enarx, guest):
    with enarx.start(guest("http_poll"), "--listen", "listen=tcp:0", "--open-files", "8") as started:
        port = started.port("listen")
        peers = []
        try:
            for _ in range(12):
                peers.append(socket.create_connection(("127.0.0.1", port), PEER_S))
                peers[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert receive(peers[0], 78).endswith(b"Hello, Enarx!")
            # The last ones wait in the backlog until somebody goes.
            peers[11].settimeout(0.2)
            with pytest.raises(TimeoutError):
                peers[11].recv(1)
            for peer in peers[:11]:
                peer.close()
            peers[11].settimeout(PEER_S)
            assert receive(peers[11], 78).endswith(b"Hello, Enarx!")
        finally:
            for peer in peers:
                peer.close()


def connect_config(tmp_path: Path, port: int, *, above: str = "", host: str = "127.0.0.1") -> Path:
    config = tmp_path / "Enarx.toml"
    config.write_text(
        f'{above}\n{STDIO}[[files]]\nkind = "connect"\nprot = "tcp"\nname = "stream"\nhost = "{host}"\nport = {port}\n'
    )
    return config


def test_nobody_who_listens_is_found_before_the_workload_starts(enarx, guest, tmp_path: Path, free_port):
    config = connect_config(tmp_path, free_port)
    ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"))
    ended.refused(107, f"cannot connect stream: 127.0.0.1:{free_port}: connection refused")


def test_a_name_without_an_address_is_refused(enarx, guest, tmp_path: Path):
    config = connect_config(tmp_path, 80, host="nowhere.invalid")
    enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(107, "nowhere.invalid")


@pytest.mark.parametrize("allowed", ["[]", '["127.0.0.1:1"]', '["10.0.0.0/8:*"]'])
def test_allow_connect_forbids_even_what_files_name(enarx, guest, tmp_path: Path, allowed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = connect_config(tmp_path, port, above=f"allow_connect = {allowed}")
        ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"))
        ended.refused(102, f"127.0.0.1:{port}", "allow_connect")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_polls_stdin_until_it_ends(enarx, guest):
    with enarx.start(guest("poll_stdin"), "--", "30") as started:
        started.send(b"abc")
        started.until_stdout(b"data 3\n")
        started.send(b"defgh")
        started.until_stdout(b"data 5\n")
        ended = started.end()
    assert (ended.status, ended.stdout) == (0, b"data 3\ndata 5\nend\n")


def test_polls_stdin_until_time_is_up(enarx, guest):
    with enarx.start(guest("poll_stdin"), "--", "0.1") as started:
        started.until_stdout(b"timeout\n")
        assert started.end().status == 5


@pytest.mark.parametrize("kind", ["file", "null"])
def test_a_file_or_a_null_device_is_always_ready(enarx, guest, tmp_path: Path, kind):
    path = Path(os.devnull)
    if kind == "file":
        path = tmp_path / "in"
        path.write_bytes(b"12345")
    with path.open("rb") as stdin:
        ended = enarx.run(guest("poll_stdin"), "--", "30", stdin=stdin.fileno())
    assert (ended.status, ended.stdout) == (0, b"data 5\nend\n" if kind == "file" else b"end\n")


@pytest.mark.parametrize("count", [1, 2, 1000, 100_000])
def test_polls_as_many_subscriptions_as_there_are(enarx, guest, count):
    ended = enarx.run(guest("poll_many"), "--", count)
    assert ended.status == 0
    head, *events = ended.stdout.decode().splitlines()
    errno, found = map(int, head.split())
    assert (errno, found) == (0, count)
    listed = [tuple(map(int, event.split())) for event in events]
    assert sorted(listed)[: min(count, 8)] == listed or {READ, CLOCK} >= {kind for _, _, kind in listed}
    assert all(error == (BADF if kind == READ else 0) for _, error, kind in listed)


def test_polls_a_listener_a_hundred_thousand_times_at_once(enarx, guest):
    with enarx.start(guest("poll_many"), "--listen", "a=tcp:0", "--", "100000", "3") as started:
        ended = started.end()
    assert ended.status == 0
    assert ended.stdout.startswith(b"0 1\n0 0 0\n")
