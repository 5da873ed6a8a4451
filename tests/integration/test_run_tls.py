# SPDX-License-Identifier: Apache-2.0
"""Preopened sockets with TLS: what ends in the Keep, whom it believes, and what no peer can do to it."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.certificates import Authority, client, server
from tests.integration.peers import PEER_S, connected, receive, require_echo

STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
CONNRESET = 15
MAX_HANDSHAKES = 256

# Accepts a connection on descriptor 3, waiting for it, reads until its end, and ends with the errno of the last read.
READ_TO_THE_END = """
(module
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\00\\10\\00\\00\\00\\10\\00\\00")
  (func (export "_start") (local $errno i32)
    (if (call $accept (i32.const 3) (i32.const 0) (i32.const 32)) (then (call $exit (i32.const 99))))
    (loop $next
      (local.set $errno (call $read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 40)))
      (if (local.get $errno) (then (call $exit (local.get $errno))))
      (br_if $next (i32.load (i32.const 40))))))
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


def listen_config(tmp_path: Path, tls: str = "") -> Path:
    config = tmp_path / "Enarx.toml"
    config.write_text(f'{STDIO}[[files]]\nkind = "listen"\nname = "listen"\naddr = "127.0.0.1"\nport = 0\n{tls}')
    return config


def test_a_stalled_handshake_never_blocks_a_poll_loop(enarx, guest):
    with enarx.start(guest("tcp_echo"), "--listen", "listen=0", "--", "1") as started:
        port = started.port("listen")
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as half:
            # The beginning of a record that never comes.
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            require_echo(port, client(), b"served all the same")
            assert started.end().status == 0


def test_a_stalled_handshake_never_blocks_an_accept_that_waits(enarx, tmp_path: Path):
    module = tmp_path / "read.wat"
    module.write_text(READ_TO_THE_END)
    with enarx.start(module, "--listen", "listen=0") as started:
        port = started.port("listen")
        with socket.create_connection(("127.0.0.1", port)):
            with connected(port, client()) as peer:
                peer.sendall(b"served all the same")
                peer.unwrap()
            assert started.end().status == 0


def test_more_stalled_handshakes_than_are_kept_give_way(enarx, guest):
    with enarx.start(guest("tcp_echo"), "--listen", "listen=0", "--", "1") as started:
        port = started.port("listen")
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_HANDSHAKES + 50):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), PEER_S))
            require_echo(port, client(), b"served all the same")
            assert started.end().status == 0


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1000), b"\xff" * 1000, b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n"],
)
def test_garbage_on_a_tls_port_is_its_senders_problem(enarx, guest, garbage):
    with enarx.start(guest("tcp_echo"), "--listen", "listen=0", "--", "1") as started:
        port = started.port("listen")
        with connected(port) as rude:
            rude.sendall(garbage)
            # An alert at most, then the end.
            with contextlib.suppress(ConnectionResetError):
                assert len(receive(rude, 1000)) < 100
        require_echo(port, client(), b"served all the same")
        ended = started.end()
    assert ended.status == 0
    assert ended.stderr.count("\n") == 1


def test_a_client_without_tls_1_3_is_refused(enarx, guest):
    with enarx.start(guest("tcp_echo"), "--listen", "listen=0", "--", "1") as started:
        port = started.port("listen")
        old = client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError), connected(port, old):
            pass
        require_echo(port, client(), b"served all the same")
        assert started.end().status == 0


@pytest.mark.parametrize(("orderly", "status"), [(True, 0), (False, CONNRESET)])
def test_an_orderly_end_is_an_end_and_a_cut_is_an_error(enarx, tmp_path: Path, orderly, status):
    module = tmp_path / "read.wat"
    module.write_text(READ_TO_THE_END)
    with (
        enarx.start(module, "--listen", "listen=0") as started,
        connected(started.port("listen"), client()) as peer,
    ):
        peer.sendall(b"some of it")
        if orderly:
            peer.unwrap()
        else:
            peer.shutdown(socket.SHUT_WR)
        assert started.end().status == status


def test_shows_the_certificate_that_was_configured(enarx, guest, tmp_path: Path, authority):
    pair = authority.issue("server", "localhost")
    config = listen_config(tmp_path, f'[tls]\ncertificate = "{pair.certificate}"\nprivate_key = "{pair.key}"\n')
    with enarx.start("--wasmcfgfile", config, guest("tcp_echo"), "--", "1") as started:
        require_echo(started.port("listen"), client(anchors=authority.root), b"believed")
        assert started.end().status == 0


@pytest.mark.parametrize(
    ("mode", "shows", "served"),
    [
        ("required", "ours", True),
        ("required", "theirs", False),
        ("required", None, False),
        ("optional", "ours", True),
        ("optional", "theirs", False),
        ("optional", None, True),
        ("none", None, True),
        ("none", "theirs", True),
    ],
)
def test_client_certificates_are_judged_as_configured(
    enarx, guest, tmp_path: Path, authority, stranger, mode, shows, served
):
    anchors = f'trust_anchors = ["{authority.root}"]\n' if mode != "none" else ""
    config = listen_config(tmp_path, f'[tls]\nclient_auth = "{mode}"\n{anchors}')
    pair = {"ours": authority, "theirs": stranger}[shows].issue("client") if shows else None
    good = authority.issue("good")
    with enarx.start("--wasmcfgfile", config, guest("tcp_echo"), "--", "1") as started:
        port = started.port("listen")
        if served:
            require_echo(port, client(shows=pair), b"hello")
        else:
            # The alert comes with the first read, or its reset overtakes it.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                require_echo(port, client(shows=pair), b"hello")
            why = (
                b"found no client certificate"
                if pair is None
                else b"certificate (has no trusted issuer|signature failure)"
            )
            started.until_stderr(rb"enarx: handshake with [0-9a-f.:]+ failed: " + why)
            require_echo(port, client(shows=good), b"served all the same")
        assert started.end().status == 0


def test_a_service_of_a_component_says_whom_it_refused(enarx, guest, tmp_path: Path, authority, stranger):
    config = listen_config(tmp_path, f'[tls]\nclient_auth = "required"\ntrust_anchors = ["{authority.root}"]\n')
    with enarx.start("--wasmcfgfile", config, guest("component/http_hello")) as started:
        port = started.port("listen")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            require_echo(port, client(shows=stranger.issue("client")), b"hello")
        started.until_stderr(rb"enarx: handshake with [0-9a-f.:]+ failed: certificate (has no trusted|signature)")


def serve_one(listener: socket.socket, context: ssl.SSLContext) -> bytes:
    """Be the server of the guest connect_tcp; return what came after its three lines."""
    listener.settimeout(PEER_S)
    sock, _ = listener.accept()
    sock.settimeout(PEER_S)
    with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as peer:
        for _ in range(3):
            peer.sendall(b"test\n")
            assert receive(peer, 5) == b"test\n"
        return peer.recv(1)


def connect_config(tmp_path: Path, listener: socket.socket, *, host: str, tls: str) -> Path:
    config = tmp_path / "Enarx.toml"
    config.write_text(
        f'{STDIO}[[files]]\nkind = "connect"\nname = "stream"\nhost = "{host}"\nport = {listener.getsockname()[1]}\n{tls}'
    )
    return config


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_connects_to_a_server_that_proves_its_name(enarx, guest, tmp_path: Path, authority, host):
    pair = authority.issue("server", host)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        config = connect_config(tmp_path, listener, host=host, tls=f'[tls]\ntrust_anchors = ["{authority.root}"]\n')
        peer = pool.submit(serve_one, listener, server(pair))
        ended = enarx.run("--wasmcfgfile", config, guest("connect_tcp"))
        assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")
        assert peer.result(PEER_S) == b""


def test_shows_its_certificate_to_a_server_that_asks(enarx, guest, tmp_path: Path, authority):
    pair, own = authority.issue("server", "localhost"), authority.issue("keep")
    tls = f'[tls]\ncertificate = "{own.certificate}"\nprivate_key = "{own.key}"\ntrust_anchors = ["{authority.root}"]\n'
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        config = connect_config(tmp_path, listener, host="localhost", tls=tls)
        peer = pool.submit(serve_one, listener, server(pair, asks=authority.root))
        ended = enarx.run("--wasmcfgfile", config, guest("connect_tcp"))
        assert (ended.status, ended.stderr) == (0, "")
        assert peer.result(PEER_S) == b""


@pytest.mark.parametrize(
    ("issuer", "names", "anchors", "words"),
    [
        ("ours", ("elsewhere.example",), True, "does not name localhost"),
        ("ours", (), True, "does not name localhost"),
        ("theirs", ("localhost",), True, "no trusted issuer"),
        ("ours", ("localhost",), False, "no trusted issuer"),
    ],
)
def test_a_server_that_does_not_prove_its_name_is_refused(
    enarx, guest, tmp_path: Path, authority, stranger, issuer, names, anchors, words
):
    pair = {"ours": authority, "theirs": stranger}[issuer].issue("server", *names)
    tls = f'[tls]\ntrust_anchors = ["{authority.root}"]\n' if anchors else ""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        config = connect_config(tmp_path, listener, host="localhost", tls=tls)
        peer = pool.submit(serve_one, listener, server(pair))
        enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(107, words)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            peer.result(PEER_S)


def test_a_server_that_does_not_speak_tls_is_refused(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1)
                sock.sendall(b"220 mail.example ESMTP\r\n")
                while sock.recv(4096):
                    pass

        config = connect_config(tmp_path, listener, host="localhost", tls="")
        pool.submit(answer)
        enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(107, "not TLS")


def test_ctrl_c_ends_a_handshake_that_stalls(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = connect_config(tmp_path, listener, host="localhost", tls="")
        with enarx.start("--wasmcfgfile", config, guest("hello_wasi_snapshot1")) as started:
            listener.settimeout(PEER_S)
            peer, _ = listener.accept()
            with peer:
                # The client has spoken and waits now.
                assert peer.recv(1)
                ended = started.end(by=signal.SIGINT)
    assert (ended.status, ended.stdout, ended.stderr) == (130, b"", "")


@pytest.mark.slow
def test_a_server_that_says_nothing_is_given_up(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = connect_config(tmp_path, listener, host="localhost", tls="")
        ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"))
        ended.refused(107, "found no answer, want one within 10 s")
