# SPDX-License-Identifier: Apache-2.0
"""What `enarx run` can do, `enarx deploy` can: sockets both ways, directories and time, through a real host and real Keeps.

Guests, clients and servers are those of the tests of `enarx run`. What is between them is another: a port is published by the
host and leads to a socket in the Keep, a connection leaves through the host, and none of them is a socket of this machine to
the workload.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import select
import signal
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.between import until
from tests.hosting import HostProcess
from tests.integration.certificates import Authority, client, server
from tests.integration.peers import PEER_S, at_once, connected, receive, require_echo
from tests.integration.test_components import HELLO, connection_to
from tests.integration.test_deploy import NOTE, Host, detached
from tests.integration.test_run_tls import serve_one

GROUP = "X25519MLKEM768"
LARGE_BYTES = 20 << 20
STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
RESET = struct.pack("ii", 1, 0)
ACCESS_DENIED, CONNECTION_REFUSED = 1, 14
"""Of wasi:sockets."""

# Prints the time as eight bytes and ends when somebody was accepted on descriptor 3.
TELL_TIME = """
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\08\\00\\00\\00")
  (func (export "_start")
    (drop (call $time (i32.const 0) (i64.const 1) (i32.const 16)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
    (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 32)))))
"""


@pytest.fixture(scope="module")
def service(enarx, tmp_path_factory):
    with HostProcess(tmp_path_factory.mktemp("host"), stub=False, env=enarx.env) as running:
        yield running


@pytest.fixture(scope="module")
def host(service, enarx):
    return Host(url=service.url, enarx=enarx)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


@contextlib.contextmanager
def published(host, *arguments, name="listen", says=b""):
    """Run a workload while the block does, and give its port once it said something; an interrupt ends it."""
    with host.start(*arguments) as started:
        # A machine may take minutes to start where others have much to do.
        port = int(started.until_stderr(rb"port (\d+) is %s\n" % name.encode(), 300.0)[1])
        # Compiling what is large takes minutes on a busy machine.
        started.until_stdout(says, 300.0)
        yield port
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr


def listening(prot, *, name="listen"):
    """Return the flags for a socket of a workload."""
    return ("--listen", f"{name}={prot}:0", *(("--allow-plaintext", name) if prot == "tcp" else ()))


def package(folder: Path, module: Path, toml: str) -> Path:
    folder.mkdir()
    (folder / "main.wasm").write_bytes(module.read_bytes())
    (folder / "Enarx.toml").write_text(STDIO + toml)
    return folder


class Port(NamedTuple):
    """A published port, and how to speak to it."""

    number: int
    prot: str

    @property
    def tls(self):
        return client() if self.prot == "tls" else None


@pytest.fixture(scope="module", params=["tls", "tcp"])
def echo(request, host, guest):
    """A port on which everything comes back."""
    with published(host, *listening(request.param), guest("tcp_echo")) as port:
        yield Port(port, request.param)


# --- What a published port carries -------------------------------------------------------------------------------------


def test_a_c_server_answers_64_connections_at_once(host, guest):
    with published(host, *listening("tls"), guest("http_poll")) as port:

        def ask(_):
            with contextlib.closing(connection_to(port, "tls")) as connection:
                for _ in range(5):
                    connection.request("GET", "/")
                    response = connection.getresponse()
                    assert (response.status, response.read()) == (200, b"Hello, Enarx!")

        at_once(64, ask)


def test_64_connections_at_once_are_64_streams(echo):
    at_once(64, lambda number: require_echo(echo.number, echo.tls, bytes([number]) * 60_000))


def test_one_connection_after_the_other(echo):
    for number in range(30):
        require_echo(echo.number, echo.tls, b"%d" % number)


def exchange(sock, data):
    """Send and receive at the same time; return the digest of as much as was sent."""
    nothing_now = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    view, digest, sent, received = memoryview(data), hashlib.sha256(), 0, 0
    sock.setblocking(False)
    while received < len(data):
        moved = 0
        with contextlib.suppress(*nothing_now):
            if sent < len(data):
                moved = sock.send(view[sent : sent + (1 << 16)])
                sent += moved
        with contextlib.suppress(*nothing_now):
            piece = sock.recv(1 << 16)
            assert piece, f"found the end after {received} bytes"
            digest.update(piece)
            received += len(piece)
            moved += len(piece)
        if not moved:
            ready = select.select([sock], [sock] if sent < len(data) else [], [], PEER_S)
            assert any(ready), f"found nothing for {PEER_S} s after {received} bytes"
    return digest.digest()


def test_twenty_megabytes_go_both_ways_at_once(echo):
    data = os.urandom(LARGE_BYTES)
    with connected(echo.number, echo.tls) as peer:
        assert exchange(peer, data) == hashlib.sha256(data).digest()


def receive_all(connection):
    """Receive until the other end says that nothing more comes."""
    found = bytearray()
    while True:
        try:
            found += connection.recv(1 << 16)
        except SSL.ZeroReturnError:
            return bytes(found)


def test_half_a_close_still_gets_its_answer(echo):
    data = os.urandom(300_000)
    with connected(echo.number) as sock:
        # The time limit is on the kernel's side: pyOpenSSL wants a socket that blocks.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PEER_S, 0))
        if echo.prot == "tcp":
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert receive(sock, len(data) + 1) == data
            return
        connection = hybrid(sock)
        connection.sendall(data)
        # Says that nothing more comes, and waits for nothing.
        connection.shutdown()
        assert receive_all(connection) == data


def test_clients_that_go_away_or_do_not_read_stop_nobody(echo):
    with connected(echo.number, echo.tls) as greedy:
        greedy.settimeout(0.2)
        # More than everybody on the way buffers: the guest cannot write any more.
        with pytest.raises((TimeoutError, BlockingIOError)):
            greedy.sendall(bytes(1 << 26))
        for _ in range(5):
            with connected(echo.number) as rude:
                rude.sendall(b"x" * 1000)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        require_echo(echo.number, echo.tls, b"polite" * 1000)
    require_echo(echo.number, echo.tls, b"and after that")


def test_a_port_that_carries_no_tls_has_to_be_asked_for_by_name(host, guest, tmp_path):
    before = set(host.listed())
    for options in ((), ("--allow-plaintext", "another")):
        host.deploy("--listen", "listen=tcp:0", *options, guest("tcp_echo")).refused(102, "--allow-plaintext listen")
    app = package(tmp_path / "app", guest("tcp_echo"), listen_entry('prot = "tcp"'))
    host.deploy(app).refused(102, "--allow-plaintext listen")
    assert set(host.listed()) == before


def listen_entry(more=""):
    return f'[[files]]\nkind = "listen"\nname = "listen"\nport = 0\n{more}\n'


# --- TLS ends in the Keep ----------------------------------------------------------------------------------------------


def hybrid(sock):
    """Return a TLS 1.3 connection of a client that offers the hybrid group first."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
    connection.set_connect_state()
    connection.do_handshake()
    return connection


def handshake(port):
    """Return what a client with a hybrid group negotiates: version, group, certificate."""
    with connected(port) as sock:
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PEER_S, 0))
        connection = hybrid(sock)
        certificate = connection.get_peer_certificate(as_cryptography=True)
        found = connection.get_protocol_version_name(), connection.get_group_name(), certificate
        connection.shutdown()
    return found


def test_tls_ends_in_the_keep_with_a_key_that_only_the_workload_has(host, guest, tmp_path):
    import base64
    import json

    receipt = tmp_path / "receipt.json"
    with published(host, "--receipt", receipt, *listening("tls"), guest("tcp_echo")) as port:
        version, group, certificate = handshake(port)
        assert (version, group) == ("TLSv1.3", GROUP)
        assert handshake(port)[2] == certificate
        keep = x509.load_der_x509_certificate(base64.b64decode(json.loads(receipt.read_text())["keep-leaf"]))
        # The process that ends TLS is given no key of the session.
        assert keep.public_key() != certificate.public_key()
        old = client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError), connected(port, old):
            pass


def test_a_certificate_of_ones_own_travels_and_clients_are_judged(host, guest, authority, stranger, tmp_path):
    pair = authority.issue("server", "localhost")
    tls = '[tls]\ncertificate = "tls/server.pem"\nprivate_key = "tls/server.key"\n'
    tls += 'client_auth = "required"\ntrust_anchors = ["tls/ours.pem"]\n'
    app = package(tmp_path / "app", guest("tcp_echo"), listen_entry() + tls)
    (app / "tls").mkdir()
    for path in (pair.certificate, pair.key, authority.root):
        (app / "tls" / path.name).write_bytes(path.read_bytes())
    good, bad = authority.issue("client"), stranger.issue("client")
    with published(host, app) as port:
        assert handshake(port)[2] == x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        require_echo(port, client(anchors=authority.root, shows=good), b"known")
        for shown in (None, bad):
            # The alert comes with the first read, or its reset overtakes it.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                require_echo(port, client(anchors=authority.root, shows=shown), b"unknown")
        require_echo(port, client(anchors=authority.root, shows=good), b"served all the same")


def test_garbage_and_stalls_on_a_tls_port_are_their_senders_problem(host, guest):
    with published(host, *listening("tls"), guest("tcp_echo")) as port, connected(port), connected(port) as half:
        # The beginning of a record that never comes.
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1000), b"\x16\x03\x01\x00\x05hello"):
            with connected(port) as rude, contextlib.suppress(ConnectionResetError):
                rude.sendall(garbage)
                assert len(receive(rude, 1000)) < 100
        require_echo(port, client(), b"served all the same")


# --- Components --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_an_http_service_answers_through_the_host(host, guest, prot):
    with published(host, *listening(prot, name="web"), guest("component/http_hello"), name="web") as port:

        def ask(_):
            with contextlib.closing(connection_to(port, prot)) as connection:
                for _ in range(10):
                    connection.request("GET", "/")
                    response = connection.getresponse()
                    assert (response.status, response.read()) == (200, HELLO)

        # Somebody who says nothing stops nobody.
        with connected(port):
            at_once(16, ask)


def test_an_http_service_sees_a_body(host, guest):
    with published(host, *listening("tls", name="web"), guest("component/http_echo_body"), name="web") as port:
        body = os.urandom(1 << 20)
        with contextlib.closing(connection_to(port, "tls")) as connection:
            connection.request("POST", "/path?query", body)
            head, _, echoed = connection.getresponse().read().partition(b"\n\n")
        assert head.startswith(b"POST /path?query\n")
        assert hashlib.sha256(echoed).digest() == hashlib.sha256(body).digest()


# --- Connections that leave --------------------------------------------------------------------------------------------


def connect_entry(port, *, prot="tcp"):
    return f'[[files]]\nkind = "connect"\nname = "stream"\nprot = "{prot}"\nhost = "localhost"\nport = {port}\n'


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PEER_S)
        yield sock


def port_of(listener):
    return listener.getsockname()[1]


def require_nobody(listener):
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_connects_in_the_clear_where_that_is_asked_for(host, guest, listener, tmp_path):
    app = package(tmp_path / "app", guest("connect_tcp"), connect_entry(port_of(listener)))
    host.deploy(app).refused(102, "--allow-plaintext stream")
    require_nobody(listener)
    listener.settimeout(PEER_S)

    def serve():
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PEER_S)
            for _ in range(3):
                sock.sendall(b"test\n")
                assert receive(sock, 5) == b"test\n"
            return sock.recv(1)

    with ThreadPoolExecutor() as pool:
        peer = pool.submit(serve)
        ended = host.deploy("--allow-plaintext", "stream", app)
        assert (ended.status, ended.stdout) == (0, b""), ended.stderr
        assert peer.result(PEER_S) == b""


def test_connects_to_a_server_that_proves_its_name_and_shows_what_it_was_given(
    host, guest, listener, authority, tmp_path
):
    pair, own = authority.issue("server", "localhost"), authority.issue("keep")
    tls = f'[tls]\ncertificate = "{own.certificate}"\nprivate_key = "{own.key}"\ntrust_anchors = ["{authority.root}"]\n'
    app = package(tmp_path / "app", guest("connect_tcp"), connect_entry(port_of(listener), prot="tls") + tls)
    with ThreadPoolExecutor() as pool:
        peer = pool.submit(serve_one, listener, server(pair, asks=authority.root))
        ended = host.deploy(app)
        assert (ended.status, ended.stdout) == (0, b""), ended.stderr
        assert peer.result(PEER_S) == b""


@pytest.mark.parametrize(
    ("issuer", "named", "words"),
    [("ours", "elsewhere.example", "does not name localhost"), ("theirs", "localhost", "no trusted issuer")],
)
def test_a_server_that_the_host_puts_there_instead_is_refused(
    host, guest, listener, authority, stranger, tmp_path, issuer, named, words
):
    pair = {"ours": authority, "theirs": stranger}[issuer].issue("server", named)
    tls = f'[tls]\ntrust_anchors = ["{authority.root}"]\n'
    app = package(tmp_path / "app", guest("connect_tcp"), connect_entry(port_of(listener), prot="tls") + tls)
    with ThreadPoolExecutor() as pool:
        peer = pool.submit(serve_one, listener, server(pair))
        require_refused(host.deploy(app), 107, words)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            peer.result(PEER_S)


def require_refused(ended, status, *words):
    """Require an error of ours after the line about the Keep."""
    assert (ended.status, ended.stdout) == (status, b""), ended.stderr
    said = [line for line in ended.stderr.splitlines() if NOTE not in line]
    assert len(said) in {1, 2}, said
    assert said[0].startswith("enarx: ")
    assert all(line.startswith("hint: ") for line in said[1:]), said
    for word in words:
        assert word in ended.stderr


def test_a_peer_that_refuses_is_told_apart_from_everything_else(host, guest, free_port, tmp_path):
    app = package(tmp_path / "app", guest("connect_tcp"), connect_entry(free_port))
    require_refused(
        host.deploy("--allow-plaintext", "stream", app),
        107,
        f"cannot connect stream: localhost:{free_port}: connection refused",
    )
    app = package(tmp_path / "component", guest("component/tcp_client"), "")
    (app / "Enarx.toml").write_text('allow_connect = ["localhost:*"]\n')
    ended = host.deploy(app, "--", "localhost", free_port)
    assert (ended.status, ended.stdout) == (1, b"connect %d\n" % CONNECTION_REFUSED), ended.stderr


def component(folder, module, *patterns, tls=""):
    """Make a package of a component that may connect there."""
    app = package(folder, module, tls)
    listed = ", ".join(f'"{pattern}"' for pattern in patterns)
    (app / "Enarx.toml").write_text(f"allow_connect = [{listed}]\n{tls}")
    return app


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_component_connects_by_name_and_by_address(host, guest, listener, tmp_path, name):
    def answer():
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PEER_S)
            assert receive(peer, 5) == b"ping\n"
            peer.sendall(b"pong\n")

    port = port_of(listener)
    app = component(tmp_path / "app", guest("component/tcp_client"), f"{name}:{port}")
    with ThreadPoolExecutor() as pool:
        served = pool.submit(answer)
        ended = host.deploy(app, "--", name, port)
        assert (ended.status, ended.stdout) == (0, b"pong\n"), ended.stderr
        served.result(PEER_S)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_component_asks_over_http_by_name(host, guest, listener, authority, tmp_path, scheme):
    pair = authority.issue("server", "localhost")

    def answer():
        peer, _ = listener.accept()
        peer.settimeout(PEER_S)
        with server(pair).wrap_socket(peer, server_side=True) if scheme == "https" else peer as peer:
            assert peer.recv(4096).startswith(b"GET /x HTTP/1.1\r\n")
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nworld")
            # Whether it says goodbye is its own affair.
            with contextlib.suppress(OSError):
                peer.recv(1)

    where = f"localhost:{port_of(listener)}"
    tls = f'[tls]\ntrust_anchors = ["{authority.root}"]\n'
    app = component(tmp_path / "app", guest("component/http_get"), where, tls=tls)
    with ThreadPoolExecutor() as pool:
        served = pool.submit(answer)
        ended = host.deploy(app, "--", scheme, where, "/x")
        assert (ended.status, ended.stdout) == (0, b"200\nworld"), ended.stderr
        served.result(PEER_S)


def test_what_allow_connect_forbids_never_reaches_the_host(enarx, guest, listener, tmp_path):
    """This host says of every connection that it is asked for that it does not make it."""
    where = f"127.0.0.1:{port_of(listener)}"
    with HostProcess(tmp_path / "state", "--no-outbound", stub=False, env=enarx.env) as running:
        host = Host(url=running.url, enarx=enarx)
        sockets, asking = guest("component/tcp_client"), guest("component/http_get")
        forbidden = component(tmp_path / "forbidden", sockets, "127.0.0.1:1", "*.localhost:*")
        ended = host.deploy(forbidden, "--", *where.split(":"))
        assert (ended.status, ended.stdout) == (1, b"connect %d\n" % ACCESS_DENIED), ended.stderr
        assert host.deploy(forbidden, "--", "localhost", "1").stdout == b"resolve %d\n" % ACCESS_DENIED
        ended = host.deploy(component(tmp_path / "asking", asking, "127.0.0.1:1"), "--", "http", where, "/x")
        assert ended.stdout.startswith(b"error "), ended.stderr
        native = package(tmp_path / "native", guest("connect_tcp"), connect_entry(port_of(listener), prot="tls"))
        (native / "Enarx.toml").write_text("allow_connect = []\n" + (native / "Enarx.toml").read_text())
        require_refused(host.deploy(native), 102, "allow_connect")
        assert not any("outbound" in line for line in running.lines), running.lines
        # What is allowed reaches the host, and it says no.
        ended = host.deploy(component(tmp_path / "allowed", sockets, where), "--", *where.split(":"))
        assert (ended.status, ended.stdout) == (1, b"connect %d\n" % CONNECTION_REFUSED), ended.stderr
        said = running.wait_for("stream-failed")
        assert "outbound" in said
        assert where not in said
    assert sum("stream-failed" in line for line in running.lines if line) == 1
    require_nobody(listener)


# --- Several Keeps, and a host that is killed --------------------------------------------------------------------------


def test_two_tenants_have_ports_at_once_and_not_each_others_keeps(enarx, guest, tmp_path):
    tokens = {"one": "the-token-of-the-first", "two": "the-token-of-the-second"}
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        "".join(
            f'[[tenants]]\nname = "{name}"\ntoken_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
            for name, token in tokens.items()
        )
    )
    tenants.chmod(0o600)
    with HostProcess(tmp_path / "state", "--tenants", str(tenants), stub=False, env=enarx.env) as running:
        one, two = (
            Host(url=running.url, enarx=enarx.with_env(ENARX_HOST_TOKEN=token, XDG_STATE_HOME=str(tmp_path / name)))
            for name, token in tokens.items()
        )
        workload = (*listening("tls"), guest("tcp_echo"))
        with published(one, *workload) as first, published(two, *workload) as second:
            assert first != second
            at_once(8, lambda number: require_echo((first, second)[number % 2], client(), bytes([number]) * 100_000))
            assert handshake(first)[2] != handshake(second)[2]
            (keep,), (other,) = one.listed(), two.listed()
            assert keep != other
            assert two.keep("stop", keep, "--kill").status != 0
            require_echo(first, client(), b"it is not the other's to stop")


def connects(port):
    """Return whether somebody listens."""
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PEER_S).close()
        return True
    return False


def test_a_killed_host_publishes_the_port_again_and_the_workload_was_never_gone(enarx, guest, tmp_path):
    state = tmp_path / "state"
    with HostProcess(state, stub=False, env=enarx.env) as running:
        host = Host(url=running.url, enarx=enarx)
        # It ends by itself after the fourth connection: one before, one during, a look and one after.
        keep = detached(host, *listening("tls"), guest("tcp_echo"), "--", 4)
        (port,) = host.listed()[keep]["host-says"]["ports"]
        port = port["port"]
        require_echo(port, client(), b"before")
        certificate = handshake(port)[2].public_bytes(Encoding.DER)
        with connected(port, client()) as broken:
            broken.sendall(b"in the middle")
            assert receive(broken, 13) == b"in the middle"
            running.signal(signal.SIGKILL)
            running.wait()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert broken.recv(1) == b""
        assert not connects(port)
        with (
            HostProcess(state, stub=False, env=enarx.env, listen=f"127.0.0.1:{running.port}"),
            host.start("keep", "attach", keep, "--on", host.url) as attached,
        ):
            attached.until_stderr(b"it is the one of the receipt")
            until(lambda: connects(port), "the port")
            with connected(port, client()) as peer:
                # The key was in the memory of the workload process, and nowhere else.
                assert peer.getpeercert(binary_form=True) == certificate
                peer.sendall(b"after")
                assert receive(peer, 5) == b"after"
            ended = attached.end()
            assert ended.status == 0, ended.stderr


# --- Directories and time ----------------------------------------------------------------------------------------------


def test_directories_are_copies_that_can_be_read_only(host, guest, tmp_path):
    app = package(tmp_path / "app", guest("cat_file"), '[[dirs]]\nhost = "data"\nguest = "/data"\nread_only = true\n')
    for folder in (app / "data", tmp_path / "more"):
        folder.mkdir()
        (folder / "a").write_text(f"{folder.name}\n")
    given = (app, "--dir", f"{tmp_path}/more::/more")
    ended = host.deploy(*given, "--", "/data/a")
    assert (ended.status, ended.stdout) == (0, b"data\n"), ended.stderr
    ended = host.deploy(*given, "--", "/data/a", "/more/new")
    assert ended.status == 0, ended.stderr
    ended = host.deploy(*given, "--", "/more/a", "/data/new")
    assert (ended.status, "/data/new: errno" in ended.stderr) == (1, True), ended.stderr
    # What a Keep writes stays in it.
    assert [path.name for path in (*(app / "data").iterdir(), *(tmp_path / "more").iterdir())] == ["a", "a"]


def now():
    return datetime.fromtimestamp(time.time(), UTC)


def test_a_workload_has_its_tenants_time(service, enarx, tmp_path, monkeypatch):
    from enarx.deploy.deploying import deploy_package
    from enarx.deploy.host_client import HostClient, parse_address
    from enarx.deploy.package import load_package
    from enarx.deploy.policy import find_policy
    from enarx.deploy.session import Quiet
    from enarx.wire.overrides import Overrides

    # The emulated platform of this user is that of the host.
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", enarx.env["HOME"])
    ahead = timedelta(days=300)
    module = tmp_path / "time.wat"
    module.write_text(TELL_TIME)
    written = bytearray()

    class Kept(Quiet):
        async def write(self, fd, data):
            written.extend(data)

    async def run():
        async with asyncio.timeout(60), HostClient(parse_address(service.url)) as client_:
            deployment = await deploy_package(
                load_package(str(module), overrides=Overrides(listen=[("listen", "tls", 0)])),
                host=client_,
                policy=lambda: find_policy(None),
                state_root=str(tmp_path / "state"),
                accept_emulated="",
                clock_ns=lambda: time.time_ns() + int(ahead.total_seconds()) * 10**9,
            )
            (port,) = deployment.keep.ports
            conversing = asyncio.ensure_future(deployment.conversation.converse(None, Kept()))
            return await asyncio.to_thread(handshake, port.port), await conversing

    before = now()
    (_, _, certificate), ended = asyncio.run(run())
    after = now()
    assert ended.exit.status == 0
    told = datetime.fromtimestamp(int.from_bytes(written, "little") / 1e9, UTC)
    assert before + ahead <= told <= after + ahead
    # What TLS in the Keep takes for now is the same.
    assert certificate.not_valid_before_utc <= told <= certificate.not_valid_after_utc
    assert certificate.not_valid_before_utc > after


# --- Other languages, and what is large --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_go_serves_many_at_once_and_keeps_them(host, guest, prot):
    with published(host, *listening(prot), guest("go/http"), says=b"ready\n") as port:

        def ask(number):
            with contextlib.closing(connection_to(port, prot)) as connection:
                for _ in range(20):
                    connection.request("GET", "/")
                    response = connection.getresponse()
                    assert (response.status, response.read()) == (200, b"Hello, Enarx!")
                body = bytes([number]) * 500_000
                connection.request("POST", "/echo", body)
                assert connection.getresponse().read() == body

        with connected(port):
            at_once(16, ask)


@pytest.mark.slow
@pytest.mark.parametrize("prot", ["tls", "tcp"])
@pytest.mark.parametrize("name", ["rust/mio_echo", "rust/std_echo"])
def test_rust_echoes(host, guest, name, prot):
    with published(host, *listening(prot), guest(name), says=b"ready\n") as port:
        tls = client() if prot == "tls" else None
        at_once(16, lambda number: require_echo(port, tls, bytes([number]) * 100_000))


@pytest.mark.slow
def test_a_whole_interpreter_travels_and_runs(host, guest, tmp_path):
    """CPython as a component, tens of megabytes: what is largest of all that tests have."""
    (tmp_path / "text").write_text("read\n")
    module = guest("component_py/app")
    assert module.stat().st_size > 10 << 20
    ended = host.deploy("--dir", f"{tmp_path}::/d", "--env", "GREETING=hi", module, "--", "/d/text", timeout_s=300)
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n['/d/text'] hi\nread\n"), ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("prot", ["tls", "tcp"])
def test_several_large_transfers_at_once(host, guest, prot):
    with published(host, *listening(prot), guest("tcp_echo")) as port:
        data = os.urandom(LARGE_BYTES)
        digest = hashlib.sha256(data).digest()

        def carry(_):
            with connected(port, client() if prot == "tls" else None) as peer:
                assert exchange(peer, data) == digest

        at_once(4, carry)


@pytest.mark.slow
def test_a_large_answer_from_outside_comes_through(host, guest, listener, tmp_path):
    data = os.urandom(LARGE_BYTES)

    def answer():
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PEER_S)
            assert receive(peer, 5) == b"ping\n"
            peer.sendall(data)

    port = port_of(listener)
    app = component(tmp_path / "app", guest("component/tcp_client"), f"localhost:{port}")
    with ThreadPoolExecutor() as pool:
        served = pool.submit(answer)
        ended = host.deploy(app, "--", "localhost", port)
        served.result(PEER_S)
    assert ended.status == 0, ended.stderr
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(data).digest()
