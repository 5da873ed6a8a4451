# SPDX-License-Identifier: Apache-2.0
"""TCP, UDP and name lookup over loopback: by the functions that guests call, and by a guest."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.errors import TransportError
from enarx.runtime import network as network_module
from enarx.runtime.component import find_interface
from enarx.runtime.component.binding import Keep, Trap
from enarx.runtime.component.io import CHUNK, block, poll
from enarx.runtime.component.sockets import INTERFACES
from enarx.runtime.component.values import Err
from enarx.runtime.network import Network
from enarx.runtime.workload import File, Limits, Tls, Workload

from .conftest import make_workload

WAIT_S = 10
FUNCTIONS = {name: function.call for interface in INTERFACES for name, function in interface.functions.items()}
LOOPBACK = (127, 0, 0, 1)


class Guest:
    """Calls host functions as a guest does, in a Keep of its own."""

    def __init__(self, engine, **options):
        for name in ("wasi:io/x", "wasi:sockets/x"):
            find_interface(name)
        self.keep = Keep(engine, make_workload(**options))
        self.resources = []

    def __call__(self, name, *arguments):
        result = FUNCTIONS[name](self.keep, *arguments)
        made = result if isinstance(result, tuple) else (result,)
        self.resources.extend(resource for resource in made if hasattr(resource, "drop"))
        return result

    def drop(self, *resources):
        for resource in resources:
            self.resources.remove(resource)
            resource.drop()

    def close(self):
        self.drop(*reversed(self.resources))
        self.keep.close()

    def tcp(self, name, *arguments):
        return self(f"[method]tcp-socket.{name}", *arguments)

    def udp(self, name, *arguments):
        return self(f"[method]udp-socket.{name}", *arguments)

    def wait(self, resource, method="tcp-socket"):
        block(self.keep.clock, self(f"[method]{method}.subscribe", resource))

    def connected(self, port, address=LOOPBACK):
        sock = self("create-tcp-socket", "ipv4")
        self.tcp("start-connect", sock, None, ipv4(port, address))
        while True:
            try:
                return sock, *self.tcp("finish-connect", sock)
            except Err as error:
                if error.value != "would-block":
                    raise
            self.wait(sock)

    def listening(self, port, address=LOOPBACK, family="ipv4"):
        sock = self("create-tcp-socket", family)
        self.tcp("start-bind", sock, None, ipv4(port, address) if family == "ipv4" else ipv6(port, address))
        self.tcp("finish-bind", sock)
        self.tcp("start-listen", sock)
        self.tcp("finish-listen", sock)
        return sock, self.tcp("local-address", sock)[1][0]

    def accept(self, sock):
        while True:
            try:
                return self.tcp("accept", sock)
            except Err as error:
                if error.value != "would-block":
                    raise
            self.wait(sock)


@pytest.fixture
def make_guest(engine):
    with contextlib.ExitStack() as stack:

        def make(**options):
            guest = Guest(engine, **options)
            stack.callback(guest.close)
            return guest

        yield make


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        yield listener


def ipv4(port, address=LOOPBACK):
    return "ipv4", (port, address)


def ipv6(port, groups):
    return "ipv6", (port, 0, groups, 0)


def refusal(call, *arguments):
    with pytest.raises(Err) as error:
        call(*arguments)
    return error.value.value


def read_all(guest, stream):
    data = b""
    while True:
        try:
            data += stream.blocking_read(guest.keep.clock, CHUNK)
        except Err as end:
            return data, end.value


def listen_entry(prot="tcp", host="127.0.0.1", port=0):
    return [File("listen", "in", prot=prot, host=host, port=port)]


# --- Connecting ------------------------------------------------------------------------------------------------------


def test_connects_where_a_pattern_allows(make_guest, server):
    port = server.getsockname()[1]
    guest = make_guest(allow_connect=[f"127.0.0.1:{port}"])
    sock, reader, writer = guest.connected(port)
    peer, _ = server.accept()
    with peer:
        writer.write(b"ping")
        assert peer.recv(10) == b"ping"
        peer.sendall(b"pong")
        assert reader.blocking_read(guest.keep.clock, 2) == b"po"
        assert reader.blocking_read(guest.keep.clock, 100) == b"ng"
        assert reader.read(1) == b""
        assert guest.tcp("remote-address", sock) == ipv4(port)
        assert guest.tcp("address-family", sock) == "ipv4"
        guest.tcp("shutdown", sock, "send")
        assert peer.recv(1) == b""
        peer.sendall(b"bye")
    assert read_all(guest, reader) == (b"bye", ("closed", None))


@pytest.mark.parametrize("allowed", [[], ["127.0.0.1:1"], ["127.0.0.2:*"], ["localhost:*"], None])
def test_refuses_what_no_pattern_allows(make_guest, server, allowed):
    guest = make_guest(allow_connect=allowed)
    sock = guest("create-tcp-socket", "ipv4")
    server.setblocking(False)
    assert refusal(guest.tcp, "start-connect", sock, None, ipv4(server.getsockname()[1])) == "access-denied"
    with pytest.raises(BlockingIOError):
        server.accept()


def test_says_that_nobody_answers(make_guest, free_port):
    guest = make_guest(allow_connect=["*:*"])
    assert refusal(guest.connected, free_port) == "connection-refused"


@pytest.mark.parametrize(
    ("family", "address"),
    [
        ("ipv4", ipv4(0)),
        ("ipv4", ipv4(80, (0, 0, 0, 0))),
        ("ipv4", ipv6(80, (0, 0, 0, 0, 0, 0, 0, 1))),
        ("ipv6", ipv4(80)),
        ("ipv6", ipv6(80, (0,) * 8)),
        # IPv4 in IPv6's clothes.
        ("ipv6", ipv6(80, (0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1))),
    ],
)
def test_refuses_what_is_no_peer_s_address(make_guest, family, address):
    guest = make_guest(allow_connect=["*:*"])
    sock = guest("create-tcp-socket", family)
    assert refusal(guest.tcp, "start-connect", sock, None, address) == "invalid-argument"


def test_halves_of_operations_come_in_order(make_guest):
    guest = make_guest(files=listen_entry())
    sock = guest("create-tcp-socket", "ipv4")
    for name in ("finish-bind", "finish-connect", "finish-listen"):
        assert refusal(guest.tcp, name, sock) == "not-in-progress"
    for name in ("start-listen", "accept", "local-address", "remote-address"):
        assert refusal(guest.tcp, name, sock) == "invalid-state"
    assert refusal(guest.tcp, "shutdown", sock, "both") == "invalid-state"
    assert not guest.tcp("is-listening", sock)
    guest.tcp("start-bind", sock, None, ipv4(0))
    assert refusal(guest.tcp, "start-bind", sock, None, ipv4(0)) == "invalid-state"
    guest.tcp("finish-bind", sock)
    guest.tcp("start-listen", sock)
    guest.tcp("finish-listen", sock)
    assert guest.tcp("is-listening", sock)
    assert refusal(guest.tcp, "accept", sock) == "would-block"
    assert refusal(guest.tcp, "start-connect", sock, None, ipv4(1)) == "invalid-state"


def test_a_write_that_waits_is_not_lost_when_the_stream_is_dropped(make_guest, server):
    port = server.getsockname()[1]
    guest = make_guest(allow_connect=["*:*"])
    sock, reader, writer = guest.connected(port)
    peer, _ = server.accept()
    sent, received = 0, []
    while writer.check_write():
        writer.write(bytes(CHUNK))
        sent += CHUNK

    def drain():
        with peer:
            while data := peer.recv(1 << 16):
                received.append(len(data))

    thread = threading.Thread(target=drain)
    thread.start()
    guest.drop(writer, reader, sock)
    thread.join(WAIT_S)
    assert sum(received) == sent


def test_sockets_are_counted(make_guest):
    guest = make_guest(limits=Limits(open_files=2))
    first = guest("create-tcp-socket", "ipv4")
    guest("create-udp-socket", "ipv4")
    assert refusal(guest, "create-tcp-socket", "ipv4") == "new-socket-limit"
    guest.drop(first)
    guest("create-udp-socket", "ipv6")


def test_a_connection_is_closed_with_the_last_of_its_three_handles(make_guest, server):
    guest = make_guest(allow_connect=["*:*"], limits=Limits(open_files=1))
    resources = guest.connected(server.getsockname()[1])
    peer, _ = server.accept()
    with peer:
        for resource in resources:
            assert refusal(guest, "create-tcp-socket", "ipv4") == "new-socket-limit"
            guest.drop(resource)
        assert peer.recv(1) == b""
    guest("create-tcp-socket", "ipv4")


# --- Listening -------------------------------------------------------------------------------------------------------


def test_listens_where_an_entry_says(make_guest):
    guest = make_guest(files=listen_entry())
    sock, port = guest.listening(0)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        _, reader, writer = guest.accept(sock)
        client.sendall(b"ping")
        assert reader.blocking_read(guest.keep.clock, 100) == b"ping"
        writer.write(b"pong")
        assert client.recv(10) == b"pong"


@pytest.mark.parametrize(("host", "port_given"), [("127.0.0.2", True), ("127.0.0.1", False), ("::1", True)])
def test_refuses_to_bind_where_no_entry_says(make_guest, free_port, host, port_given):
    guest = make_guest(files=listen_entry(host=host, port=free_port if port_given else 1))
    sock = guest("create-tcp-socket", "ipv4")
    assert refusal(guest.tcp, "start-bind", sock, None, ipv4(free_port)) == "access-denied"


def test_a_port_for_connecting_is_not_one_for_listening(make_guest):
    guest = make_guest()
    sock = guest("create-tcp-socket", "ipv4")
    guest.tcp("start-bind", sock, None, ipv4(0))
    guest.tcp("finish-bind", sock)
    assert refusal(guest.tcp, "start-listen", sock) == "access-denied"


def test_an_entry_for_every_address_takes_both_families(make_guest):
    guest = make_guest(files=listen_entry(host="::"))
    sock, port = guest.listening(0, (0,) * 8, "ipv6")
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
        guest.accept(sock)


def test_says_that_a_port_is_taken(make_guest, server):
    port = server.getsockname()[1]
    guest = make_guest(files=listen_entry(port=port))
    sock = guest("create-tcp-socket", "ipv4")
    assert refusal(guest.tcp, "start-bind", sock, None, ipv4(port)) == "address-in-use"


def test_accepts_tls_and_a_stalled_handshake_is_in_nobody_s_way(make_guest):
    guest = make_guest(files=listen_entry("tls"))
    sock, port = guest.listening(0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answers = []

    def talk():
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)) as client:
            client.sendall(b"ping")
            answers.append(client.recv(10))

    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
        thread = threading.Thread(target=talk)
        thread.start()
        _, reader, writer = guest.accept(sock)
        assert reader.blocking_read(guest.keep.clock, 2) == b"pi"
        # Decrypted already, so that polling the socket would wait for ever.
        assert reader.poll_interest() is None
        assert reader.blocking_read(guest.keep.clock, 2) == b"ng"
        writer.write(b"pong")
        thread.join(WAIT_S)
    assert answers == [b"pong"]


class TlsServer:
    """Completes the handshake of one connection and echoes what comes first."""

    def __init__(self, serving):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(WAIT_S)
        self.port = self.listener.getsockname()[1]
        self.tls = serving.server_tls()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        stream = self.tls.stream(sock, peer="guest")
        buffer = memoryview(bytearray(100))
        with contextlib.closing(stream), contextlib.suppress(TransportError):
            stream.handshake_within(WAIT_S)
            select.select([sock], [], [], WAIT_S)
            with contextlib.suppress(OSError):
                stream.send(buffer[: stream.recv_into(buffer)])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(WAIT_S)
        self.listener.close()


def make_network(*, trust_anchors=()):
    return Network(Workload("", files=[], limits=Limits(), tls=Tls(trust_anchors=trust_anchors), allow_connect=["*:*"]))


@pytest.mark.parametrize("is_trusted", [True, False])
def test_connects_by_tls_where_an_entry_says(make_guest, tmp_path, capfd, is_trusted):
    serving = make_network()
    root = tmp_path / "root.pem"
    root.write_bytes(serving.identity.credential().chain[0].public_bytes(Encoding.PEM))
    with TlsServer(serving) as server:
        guest = make_guest(files=[File("connect", "db", prot="tls", host="localhost", port=server.port)])
        guest.keep._network = make_network(trust_anchors=[str(root)] if is_trusted else [])
        look_up(guest, "localhost")
        if is_trusted:
            _, reader, writer = guest.connected(server.port)
            writer.write(b"ping")
            assert reader.blocking_read(guest.keep.clock, 100) == b"ping"
        else:
            # The guest never gets a connection to whom nobody vouches for.
            assert refusal(guest.connected, server.port) == "connection-aborted"
            # And whoever runs it learns why.
            said = capfd.readouterr().err
            assert f"enarx: handshake with localhost:{server.port} failed: certificate has no trusted issuer" in said


# --- UDP -------------------------------------------------------------------------------------------------------------


def udp_streams(guest, remote=None):
    sock = guest("create-udp-socket", "ipv4")
    guest.udp("start-bind", sock, None, ipv4(0))
    guest.udp("finish-bind", sock)
    return sock, *guest.udp("stream", sock, remote)


def send(guest, outgoing, *datagrams):
    assert guest("[method]outgoing-datagram-stream.check-send", outgoing) >= len(datagrams)
    return guest("[method]outgoing-datagram-stream.send", outgoing, list(datagrams))


@pytest.fixture
def udp_peer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(WAIT_S)
        yield sock


@pytest.mark.parametrize("is_connected", [False, True])
def test_datagrams_go_to_permitted_peers_and_come_from_them(make_guest, udp_peer, is_connected):
    port = udp_peer.getsockname()[1]
    guest = make_guest(allow_connect=[f"127.0.0.1:{port}"])
    sock, incoming, outgoing = udp_streams(guest, ipv4(port) if is_connected else None)
    own_port = guest.udp("local-address", sock)[1][0]
    assert send(guest, outgoing, (b"ping", None if is_connected else ipv4(port))) == 1
    assert udp_peer.recv(10) == b"ping"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"hello", ("127.0.0.1", own_port))
    udp_peer.sendto(b"pong", ("127.0.0.1", own_port))
    received = []
    while not received:
        block(guest.keep.clock, guest("[method]incoming-datagram-stream.subscribe", incoming))
        received = guest("[method]incoming-datagram-stream.receive", incoming, 10)
    assert received == [(b"pong", ipv4(port))]
    if is_connected:
        assert guest.udp("remote-address", sock) == ipv4(port)
    else:
        assert refusal(guest.udp, "remote-address", sock) == "invalid-state"


def test_datagrams_go_nowhere_else(make_guest, udp_peer):
    port = udp_peer.getsockname()[1]
    guest = make_guest(allow_connect=["127.0.0.1:1"])
    sock, _, outgoing = udp_streams(guest)
    assert refusal(send, guest, outgoing, (b"x", ipv4(port))) == "access-denied"
    assert refusal(send, guest, outgoing, (b"x", None)) == "invalid-argument"
    assert refusal(guest.udp, "stream", sock, ipv4(port)) == "access-denied"
    bound = guest("create-udp-socket", "ipv4")
    assert refusal(guest.udp, "start-bind", bound, None, ipv4(port)) == "access-denied"
    assert refusal(guest.udp, "stream", bound, None) == "invalid-state"
    with pytest.raises(Trap):
        guest("[method]outgoing-datagram-stream.send", outgoing, [(b"x", None)] * 1000)


def test_a_datagram_that_is_too_long_is_refused(make_guest):
    guest = make_guest(allow_connect=["*:*"])
    _, _, outgoing = udp_streams(guest)
    assert refusal(send, guest, outgoing, (bytes(66_000), ipv4(9))) == "datagram-too-large"


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_options_are_the_operating_system_s(make_guest, family):
    guest = make_guest()
    sock = guest("create-tcp-socket", family)
    for name, value, expected in (
        ("keep-alive-enabled", True, True),
        ("keep-alive-enabled", False, False),
        ("keep-alive-idle-time", 5 * 10**9, 5 * 10**9),
        ("keep-alive-idle-time", 1, 10**9),
        ("keep-alive-idle-time", 2**64 - 1, 32767 * 10**9),
        ("keep-alive-interval", 7 * 10**9, 7 * 10**9),
        ("keep-alive-count", 3, 3),
        ("keep-alive-count", 2**32 - 1, 127),
        ("hop-limit", 42, 42),
        ("receive-buffer-size", 65536, 65536),
        ("send-buffer-size", 65536, 65536),
    ):
        guest.tcp(f"set-{name}", sock, value)
        assert guest.tcp(name, sock) == expected
        if not isinstance(value, bool):
            assert refusal(guest.tcp, f"set-{name}", sock, 0) == "invalid-argument"
    guest.tcp("set-receive-buffer-size", sock, 2**64 - 1)
    assert guest.tcp("receive-buffer-size", sock) > 0
    guest.tcp("set-listen-backlog-size", sock, 2**64 - 1)
    assert refusal(guest.tcp, "set-listen-backlog-size", sock, 0) == "invalid-argument"
    other = guest("create-udp-socket", family)
    guest.udp("set-unicast-hop-limit", other, 42)
    assert guest.udp("unicast-hop-limit", other) == 42


# --- Names -----------------------------------------------------------------------------------------------------------


def look_up(guest, name):
    stream = guest("resolve-addresses", None, name)
    guest.wait(stream, "resolve-address-stream")
    found = []
    while (address := guest("[method]resolve-address-stream.resolve-next-address", stream)) is not None:
        found.append(address)
    guest.drop(stream)
    return found


def test_looks_up_what_a_pattern_allows_and_may_then_connect(make_guest, server):
    port = server.getsockname()[1]
    guest = make_guest(allow_connect=[f"localhost:{port}"])
    assert refusal(guest.connected, port) == "access-denied"
    assert look_up(guest, "LOCALHOST.") == [("ipv4", LOOPBACK), ("ipv6", (0, 0, 0, 0, 0, 0, 0, 1))]
    guest.connected(port)


def test_a_looked_up_name_of_a_tls_entry_is_recognised_by_its_address(make_guest):
    from enarx.runtime.component.sockets_network import SocketAddress, find_tls_entry

    guest = make_guest(files=[File("connect", "db", prot="tls", host="localhost", port=5432)])
    address = SocketAddress.from_wit(ipv4(5432))
    assert find_tls_entry(guest.keep, address) is None
    look_up(guest, "localhost")
    assert find_tls_entry(guest.keep, address).name == "db"
    assert find_tls_entry(guest.keep, SocketAddress.from_wit(ipv4(5433))) is None


def test_refuses_to_look_up_what_no_pattern_allows(make_guest):
    guest = make_guest(allow_connect=["localhost:1"])
    assert refusal(guest, "resolve-addresses", None, "example.com") == "access-denied"
    assert refusal(guest, "resolve-addresses", None, "") == "invalid-argument"


def test_says_that_a_name_has_no_address(make_guest, monkeypatch):
    guest = make_guest(allow_connect=["*:*"])
    assert refusal(look_up, guest, "name.invalid") in {"name-unresolvable", "temporary-resolver-failure"}


def test_a_lookup_that_was_dropped_ends_by_itself(make_guest):
    guest = make_guest(allow_connect=["*:*"])
    guest.drop(guest("resolve-addresses", None, "localhost"))


def test_network_is_made_once(make_guest):
    guest = make_guest()
    assert guest.keep.network is guest.keep.network
    assert isinstance(guest.keep.network, network_module.Network)


def test_nothing_to_wait_for_is_ready(make_guest):
    guest = make_guest()
    sock = guest("create-tcp-socket", "ipv4")
    assert poll(guest.keep.clock, [guest.tcp("subscribe", sock)], wait=False) == [0]


# --- A guest ---------------------------------------------------------------------------------------------------------


def test_a_guest_talks_to_a_server(runner, guest, server, capfd):
    port = server.getsockname()[1]
    received = []

    def answer():
        peer, _ = server.accept()
        with peer:
            received.append(peer.recv(10))
            peer.sendall(b"pong\n")

    thread = threading.Thread(target=answer)
    thread.start()
    component = guest("component/tcp_client").read_bytes()
    outcome = runner.run(component, args=["localhost", str(port)], allow_connect=[f"localhost:{port}"])
    thread.join(WAIT_S)
    assert (outcome.status, capfd.readouterr().out) == (0, "pong\n")
    assert received == [b"ping\n"]


def test_a_guest_is_told_that_it_may_not(runner, guest, capfd):
    component = guest("component/tcp_client").read_bytes()
    assert runner.run(component, args=["localhost", "1"], allow_connect=["localhost:2"]).status == 1
    assert capfd.readouterr().out == "connect 1\n"
    assert runner.run(component, args=["localhost", "1"], allow_connect=[]).status == 1
    assert capfd.readouterr().out == "resolve 1\n"


# --- With a broker ---------------------------------------------------------------------------------------------------


class Broker:
    """Hands out one listening socket, and connections to it."""

    def __init__(self, path):
        self.path = str(path)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(8)
        self.asked = []

    def listener(self, name):
        return self.sock.dup()

    def dial(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT_S)
        sock.connect(self.path)
        return sock


@pytest.fixture
def broker(tmp_path):
    broker = Broker(tmp_path / "listen")
    yield broker
    broker.sock.close()


@pytest.fixture
def brokered(make_guest, broker):
    return make_guest(files=[File("listen", "http", prot="tcp", host="::", port=8080)], broker=broker)


def test_listens_on_what_a_broker_hands_over(brokered, broker):
    listener, port = brokered.listening(8080)
    assert port == 8080
    with broker.dial() as sock:
        accepted, incoming, outgoing = brokered.accept(listener)
        sock.sendall(b"ping")
        assert incoming.blocking_read(brokered.keep.clock, CHUNK) == b"ping"
        assert brokered.tcp("remote-address", accepted) == ("ipv4", (0, (0, 0, 0, 0)))
        brokered.drop(outgoing, incoming, accepted)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("port", [0, 8081])
def test_binds_nowhere_else_with_a_broker(brokered, port):
    sock = brokered("create-tcp-socket", "ipv4")
    assert refusal(brokered, "[method]tcp-socket.start-bind", sock, None, ipv4(port)) == "access-denied"


def test_there_are_no_datagrams_with_a_broker(brokered):
    before = brokered.keep.account.open_files
    assert refusal(brokered, "create-udp-socket", "ipv4") == "not-supported"
    assert brokered.keep.account.open_files == before


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_options_are_told_back_with_a_broker(brokered, family):
    sock = brokered("create-tcp-socket", family)
    for name, default, value in (
        ("keep-alive-enabled", False, True),
        ("keep-alive-idle-time", 7200 * 10**9, 5 * 10**9),
        ("keep-alive-interval", 75 * 10**9, 6 * 10**9),
        ("keep-alive-count", 9, 3),
        ("hop-limit", 64, 7),
        ("receive-buffer-size", 106496, 4096),
        ("send-buffer-size", 106496, 8192),
    ):
        assert brokered.tcp(name, sock) == default
        brokered.tcp(f"set-{name}", sock, value)
        assert brokered.tcp(name, sock) == value


def test_a_refused_connection_stays_refused_however_often_it_is_polled(make_guest, monkeypatch, server):
    guest = make_guest(allow_connect=["127.0.0.1:*"])
    sock = guest("create-tcp-socket", "ipv4")
    guest.tcp("start-connect", sock, None, ipv4(server.getsockname()[1]))
    failing = [errno.ECONNREFUSED]

    class Refused:
        """A socket whose connection was refused, which it tells once."""

        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def getsockopt(self, *where):
            return failing.pop() if failing else 0

    sock.sock = Refused(sock.sock)
    guest.wait(sock)
    for _ in range(2):
        assert refusal(guest, "[method]tcp-socket.finish-connect", sock) in {"connection-refused", "not-in-progress"}
    assert sock.state == "failed"
