# SPDX-License-Identifier: Apache-2.0
"""Sockets of a guest: connections, listeners that say whether they block, and handshakes that hold nobody up."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from datetime import UTC, datetime

import pytest

from enarx.crypto.x509 import make_self_signed
from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.runtime import handshakes
from enarx.runtime.preview1.descriptors import FDFLAGS_NONBLOCK, SOCKET_STREAM
from enarx.runtime.preview1.sockets import Listener, TcpSocket, TlsSocket, open_sockets, prepare
from enarx.runtime.tls import ServerTls
from enarx.runtime.workload import File, Limits, Tls, Workload

WAIT_S = 20
PEEK, WAITALL = 1, 2


@pytest.fixture(scope="module")
def server_tls():
    return ServerTls(
        make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC)), client_auth="none", trust_anchors=(), alpn=()
    )


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def pair():
    ours, other = socket.socketpair()
    ours.setblocking(False)
    with ours, other:
        other.settimeout(WAIT_S)
        yield ours, other


def take(descriptor, size=16):
    buffer = bytearray(size)
    return bytes(buffer[: descriptor.read(memoryview(buffer))])


def receive(descriptor, flags, size=16):
    buffer = bytearray(size)
    return bytes(buffer[: descriptor.receiver(flags)(memoryview(buffer))])


def until_readable(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(WAIT_S * 1000)


def confirmed(listener):
    """Wait until the listener has a connection to give."""
    for _ in range(1000):
        until_readable(listener.poll_fd)
        if listener.confirm():
            return
    raise AssertionError("no connection became ready")


def test_a_connection_is_a_stream_that_does_not_block_the_host(pair):
    ours, other = pair
    made = TcpSocket(ours)
    assert (made.filetype, made.poll_fd, made.is_socket) == (SOCKET_STREAM, ours.fileno(), True)
    with pytest.raises(BlockingIOError):
        take(made)
    other.sendall(b"abc")
    assert take(made) == b"abc"
    assert made.write(memoryview(b"xyz")) == 3
    assert other.recv(9) == b"xyz"


def test_what_is_peeked_at_stays(pair):
    ours, other = pair
    made = TcpSocket(ours)
    other.sendall(b"abc")
    assert receive(made, PEEK) == receive(made, PEEK | WAITALL) == take(made) == b"abc"


@pytest.mark.parametrize("flags", [4, 7, 1 << 31])
def test_refuses_receive_flags_that_are_none(pair, flags):
    with pytest.raises(OSError) as caught:
        TcpSocket(pair[0]).receiver(flags)
    assert caught.value.errno == 22


@pytest.mark.parametrize(("how", "reads", "writes"), [(1, False, True), (2, True, False), (3, False, False)])
def test_shutdown_ends_a_direction(pair, how, reads, writes):
    ours, other = pair
    made = TcpSocket(ours)
    made.shutdown(how)
    if writes:
        assert made.write(memoryview(b"x")) == 1
    else:
        assert other.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            made.write(memoryview(b"x"))
    if reads:
        other.sendall(b"y")
        assert take(made) == b"y"
    else:
        assert take(made) == b""


def test_a_listener_blocks_until_it_is_asked(server):
    listener = Listener(server, None)
    assert not listener.flags & FDFLAGS_NONBLOCK
    listener.asked()
    assert listener.flags & FDFLAGS_NONBLOCK
    with pytest.raises(BlockingIOError):
        listener.accept(0)


def test_what_a_listener_was_told_stays(server):
    listener = Listener(server, None)
    listener.told()
    listener.asked()
    assert not listener.flags & FDFLAGS_NONBLOCK


def test_a_listener_that_accepted_before_it_was_asked_goes_on_blocking(server):
    listener = Listener(server, None)
    with socket.create_connection(server.getsockname()):
        listener.accept(0).close()
    listener.asked()
    assert not listener.flags & FDFLAGS_NONBLOCK


@pytest.mark.parametrize("secure", [False, True])
def test_a_blocking_accept_waits_for_somebody(server, server_tls, secure):
    listener = Listener(server, server_tls if secure else None)
    accepted = []
    waiting = threading.Thread(target=lambda: accepted.append(listener.accept(0)), daemon=True)
    waiting.start()
    with connected(server, secure=secure):
        waiting.join(WAIT_S)
        assert len(accepted) == 1
    accepted[0].close()


def test_an_accepted_connection_has_the_flags_it_was_accepted_with(server):
    listener = Listener(server, None)
    for flags in (0, FDFLAGS_NONBLOCK):
        with socket.create_connection(server.getsockname()):
            accepted = listener.accept(flags)
            assert accepted.flags == flags
            accepted.close()


@pytest.mark.parametrize("secure", [False, True])
def test_a_listener_carries_no_data(server, server_tls, secure):
    listener = Listener(server, server_tls if secure else None)
    for call in (
        lambda: take(listener),
        lambda: listener.write(memoryview(b"x")),
        lambda: listener.receiver(1),
        lambda: listener.shutdown(1),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == 107


def client_context():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def connected(server, *, secure=True):
    """Connect in another thread, because our side has to answer meanwhile; give a function that waits for it."""
    made = []

    def connect():
        sock = socket.create_connection(server.getsockname(), timeout=WAIT_S)
        made.append(client_context().wrap_socket(sock) if secure else sock)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()

    def other():
        thread.join(WAIT_S)
        return made[0]

    try:
        yield other
    finally:
        thread.join(WAIT_S)
        for sock in made:
            sock.close()


def test_a_tls_connection_carries_plaintext_and_says_goodbye(server, server_tls):
    listener = Listener(server, server_tls)
    with connected(server) as other:
        confirmed(listener)
        ours = listener.accept(0)
        assert isinstance(ours, TlsSocket)
        client = other()
        client.sendall(b"abc")
        until_readable(ours.poll_fd)
        assert take(ours, 2) == b"ab"
        # The rest is in OpenSSL's buffer, of which the host knows nothing.
        assert ours.waiting() == 1
        assert take(ours) == b"c"
        assert ours.write(memoryview(b"xyz")) == 3
        assert client.recv(9) == b"xyz"
        ours.shutdown(2)
        assert client.recv(9) == b""
        with pytest.raises(OSError) as caught:
            ours.receiver(PEEK)
        assert caught.value.errno == 95
        ours.close()
    listener.close()


def test_a_stalled_handshake_holds_nobody_up(server, server_tls):
    listener = Listener(server, server_tls)
    listener.asked()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            silent = stack.enter_context(socket.create_connection(server.getsockname()))
            silent.sendall(b"\x16\x03\x01")
        with connected(server) as other:
            confirmed(listener)
            ours = listener.accept(0)
            other().sendall(b"x")
            until_readable(ours.poll_fd)
            assert take(ours) == b"x"
            ours.close()
        with pytest.raises(BlockingIOError):
            listener.accept(0)
    listener.close()


def test_who_does_not_speak_tls_is_never_the_guest_s(server, server_tls):
    listener = Listener(server, server_tls)
    listener.asked()
    with socket.create_connection(server.getsockname(), timeout=WAIT_S) as loud:
        loud.sendall(b"GET / HTTP/1.0\r\n\r\n")
        until_readable(listener.poll_fd)
        while not select.select([loud], [], [], 0)[0]:
            assert not listener.confirm()
        with pytest.raises(BlockingIOError):
            listener.accept(0)
    listener.close()


def test_the_oldest_handshake_gives_way_when_there_are_too_many(server, server_tls, monkeypatch):
    """Also when the one that gives way has an event waiting, which is then nobody's."""
    monkeypatch.setattr(handshakes, "MAX_HANDSHAKES", 3)
    listener = Listener(server, server_tls)
    listener.asked()
    with contextlib.ExitStack() as stack:
        others = []
        for _ in range(3):
            others.append(stack.enter_context(socket.create_connection(server.getsockname(), timeout=WAIT_S)))
            others[-1].sendall(b"\x16\x03\x01")
            until_readable(listener.poll_fd)
            listener.confirm()
        # A fourth comes, and in the same breath the first three all go on.
        others.append(stack.enter_context(socket.create_connection(server.getsockname(), timeout=WAIT_S)))
        for other in others:
            other.sendall(b"\x00")
        until_readable(server.fileno())
        assert not listener.confirm()
        assert others[0].recv(1) == b""
        assert len(listener._handshakes._under_way) <= 3
    listener.close()


def test_a_handshake_that_takes_too_long_is_dropped_however_busy_it_is(server, server_tls, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(handshakes.time, "monotonic", lambda: now[0])
    listener = Listener(server, server_tls)
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(server.getsockname(), timeout=WAIT_S))
        until_readable(listener.poll_fd)
        listener.confirm()
        now[0] += 6
        later = stack.enter_context(socket.create_connection(server.getsockname(), timeout=WAIT_S))
        until_readable(listener.poll_fd)
        listener.confirm()
        # One byte keeps it busy, which does not make it younger.
        slow.sendall(b"\x16")
        until_readable(listener.poll_fd)
        listener.confirm()
        now[0] += 6
        listener.confirm()
        assert slow.recv(1) == b""
        assert not select.select([later], [], [], 0)[0]
        assert len(listener._handshakes._under_way) == 1
    listener.close()


def test_closing_a_listener_drops_what_was_under_way(server, server_tls):
    listener = Listener(server, server_tls)
    with socket.create_connection(server.getsockname(), timeout=WAIT_S) as silent:
        until_readable(listener.poll_fd)
        listener.confirm()
        listener.close()
        assert silent.recv(1) == b""


def test_a_prepared_connection_does_not_block_or_wait(server):
    with socket.create_connection(server.getsockname()):
        until_readable(server.fileno())
        ours, _ = server.accept()
        with ours:
            prepare(ours)
            assert not ours.getblocking()
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def workload(*files):
    return Workload("app.wasm", files=files, limits=Limits(), tls=Tls())


def test_opens_every_socket_of_the_workload(server):
    port = server.getsockname()[1]
    files = [
        File("null", "null"),
        File("listen", "in", prot="tcp", host="127.0.0.1", port=0),
        File("listen", "safe", prot="tls", host="127.0.0.1", port=0),
        File("connect", "out", prot="tcp", host="127.0.0.1", port=port),
    ]
    table = open_sockets(workload(*files), [1, 2, 3])
    assert [type(table[number]) for number in (1, 2, 3)] == [Listener, Listener, TcpSocket]
    for descriptor in table.values():
        descriptor.close()


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (File("listen", "x", prot="tcp", host="localhost", port=0), ConfigError),
        (File("listen", "x", prot="tcp", host="203.0.113.7", port=0), PlatformError),
        (File("connect", "x", prot="tcp", host="127.0.0.1", port=1), TransportError),
    ],
)
def test_closes_what_it_opened_when_the_next_one_fails(server, file, error, capfd):
    first = File("listen", "in", prot="tcp", host="127.0.0.1", port=0)
    with pytest.raises(error):
        open_sockets(workload(first, file), [0, 1])
    port = int(capfd.readouterr().err.split("127.0.0.1:")[1].split()[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
