# SPDX-License-Identifier: Apache-2.0
"""The portable tests of the original, against guests of the same behaviour (docs/enarx-toml.md says what differs)."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from OpenSSL import SSL

from tests.integration.certificates import client

LINE = b"test\n"
ROT13 = (
    b"Good morning, that's a nice tnetennba.\n0118 999 881 999 119 725 3\n",
    b"Tbbq zbeavat, gung'f n avpr gargraaon.\n0118 999 881 999 119 725 3\n",
)
PEER_S = 20


def exchange_three_lines(peer: socket.socket) -> None:
    """Be the other end of the guest's echo_three_lines, then wait for its end."""
    peer.settimeout(PEER_S)
    for _ in range(3):
        peer.sendall(LINE)
        received = b""
        while len(received) < len(LINE):
            data = peer.recv(len(LINE) - len(received))
            assert data, "closed too early"
            received += data
        assert received == LINE


def test_return_1_ends_with_0_whatever_the_function_returns(enarx, guest):
    ended = enarx.run(guest("return_1"))
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


def test_wasi_snapshot1_ends_with_0_whatever_start_returns(enarx, guest):
    ended = enarx.run(guest("wasi_snapshot1"), "--", "one", "two")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


def test_hello_wasi_snapshot1_says_hello(enarx, guest):
    ended = enarx.run(guest("hello_wasi_snapshot1"))
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, world!\n", "")


def test_no_export_has_no_entry_point(enarx, guest):
    enarx.run(guest("no_export")).refused(103, "found no entry point", "_start")


def test_echo_copies_two_mebibytes(enarx, guest):
    data = bytes(range(256)) * (2 << 12)
    ended = enarx.run(guest("echo"), stdin=data)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == data


@pytest.mark.parametrize("name", ["memspike", "memory_stress"])
def test_memory_comes_and_goes(enarx, guest, name):
    ended = enarx.run(guest(name))
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


def test_zerooneone_turns_letters_round(enarx, guest):
    ended = enarx.run(guest("zerooneone"), stdin=ROT13[0])
    assert (ended.status, ended.stdout, ended.stderr) == (0, ROT13[1], "")


def test_zerooneone_runs_as_a_package(enarx, guest, tmp_path: Path):
    (tmp_path / "main.wasm").write_bytes(guest("zerooneone").read_bytes())
    (tmp_path / "Enarx.toml").write_text(
        '[[files]]\nkind = "stdin"\n\n[[files]]\nkind = "stdout"\n\n[[files]]\nkind = "stderr"\n'
    )
    given = enarx.run("--wasmcfgfile", tmp_path / "Enarx.toml", tmp_path / "main.wasm", stdin=ROT13[0])
    found = enarx.run(tmp_path, stdin=ROT13[0])
    assert (given.status, given.stdout, given.stderr) == (0, ROT13[1], "")
    assert (found.status, found.stdout, found.stderr) == (0, ROT13[1], "")


STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'


def test_connect_tcp_echoes_in_three_blocking_modes(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        server.settimeout(PEER_S)
        config = tmp_path / "Enarx.toml"
        config.write_text(
            f'{STDIO}[[files]]\nkind = "connect"\nprot = "tcp"\nname = "stream"\nhost = "127.0.0.1"\n'
            f"port = {server.getsockname()[1]}\n"
        )

        def serve() -> bytes:
            peer, _ = server.accept()
            with peer:
                exchange_three_lines(peer)
                return peer.recv(1)

        peer = pool.submit(serve)
        ended = enarx.run("--wasmcfgfile", config, guest("connect_tcp"))
        assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")
        assert peer.result(PEER_S) == b""


def listen_package(tmp_path: Path, prot: str, ping: socket.socket) -> Path:
    """Write the Enarx.toml of listen_tcp and listen_tls."""
    config = tmp_path / "Enarx.toml"
    config.write_text(
        f'{STDIO}[[files]]\nkind = "listen"\nprot = "{prot}"\nname = "ingest"\naddr = "127.0.0.1"\nport = 0\n'
        f'[[files]]\nkind = "connect"\nprot = "tcp"\nname = "ping"\nhost = "127.0.0.1"\nport = {ping.getsockname()[1]}\n'
    )
    return config


def test_listen_tcp_serves_three_connections_in_three_modes(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as ping:
        config = listen_package(tmp_path, "tcp", ping)
        with enarx.start("--wasmcfgfile", config, guest("listen")) as started:
            port = started.port("ingest")
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port), PEER_S) as peer:
                    exchange_three_lines(peer)
                    assert peer.recv(1) == b""
            ended = started.end()
    assert (ended.status, ended.stdout) == (0, b"")
    assert ended.stderr == f"enarx: listening on tcp://127.0.0.1:{port} (ingest)\n"


def test_listen_tls_serves_three_connections_in_three_modes(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as ping:
        config = listen_package(tmp_path, "tls", ping)
        certificates = set()
        with enarx.start("--wasmcfgfile", config, guest("listen")) as started:
            port = started.port("ingest")
            for _ in range(3):
                with (
                    socket.create_connection(("127.0.0.1", port), PEER_S) as sock,
                    client().wrap_socket(sock, server_hostname="localhost") as peer,
                ):
                    assert peer.version() == "TLSv1.3"
                    certificates.add(peer.getpeercert(binary_form=True))
                    exchange_three_lines(peer)
                    # With suppress_ragged_eofs a connection cut short would look the same.
                    peer.suppress_ragged_eofs = False
                    assert peer.recv(1) == b""
            ended = started.end()
    assert (ended.status, ended.stdout) == (0, b"")
    assert ended.stderr == f"enarx: listening on tls://127.0.0.1:{port} (ingest)\n"
    assert len(certificates) == 1


def test_listen_tls_negotiates_the_hybrid_group_with_who_has_it(enarx, guest, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as ping:
        config = listen_package(tmp_path, "tls", ping)
        with enarx.start("--wasmcfgfile", config, guest("listen")) as started:
            port = started.port("ingest")
            with socket.create_connection(("127.0.0.1", port), PEER_S) as sock:
                # The time limit is on the kernel's side: pyOpenSSL wants a socket that blocks.
                sock.settimeout(None)
                connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
                connection.set_connect_state()
                connection.do_handshake()
                assert connection.get_group_name() == "X25519MLKEM768"
                assert connection.get_protocol_version_name() == "TLSv1.3"


def test_config_init_writes_once_and_its_file_runs(enarx, guest, tmp_path: Path):
    first = enarx.command("config", "init", cwd=tmp_path)
    assert first.status == 0
    again = enarx.command("config", "init", cwd=tmp_path)
    again.refused(2, "Enarx.toml")
    ended = enarx.run("--wasmcfgfile", "Enarx.toml", guest("hello_wasi_snapshot1"), cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, b"Hello, world!\n")
