# SPDX-License-Identifier: Apache-2.0
"""The HTTP service with real components and real connections on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, PlatformError
from enarx.runtime.component import find_interface, http_service
from enarx.runtime.component.binding import Account, Component, Keep, Linker
from enarx.runtime.component.http_service import Service
from enarx.runtime.network import Network
from enarx.runtime.workload import File, Limits

from .conftest import make_workload

SOAK = int(os.environ.get("ENARX_SOAK_EXAMPLES", "5000"))
WAIT_S = 20
HELLO = b"Hello, Enarx!\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Served:
    """A running service, and connections to it."""

    def __init__(self, runner, path, *, prot="tcp", limits=None, port=0):
        self.workload = make_workload(
            files=[File("listen", "web", prot=prot, host="127.0.0.1", port=port)], limits=limits or Limits()
        )
        linker = Linker(Component(runner.engine, runner.compile(path.read_bytes())), find_interface)
        account = Account(self.workload)
        network = Network(self.workload)
        self.service = Service(
            linker,
            "wasi:http/incoming-handler@0.2.0",
            lambda clock: Keep(runner.engine, self.workload, network=network, clock=clock, account=account),
            self.workload,
            network,
        )

    def __enter__(self):
        (self.port,) = self.service.start()
        return self

    def __exit__(self, *_):
        self.service.stop()
        self.service.wait()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def exchange(self, data, *, end=True):
        """Send bytes, say that there are no more, and return what comes until the service closes."""
        with self.connect() as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return receive_all(sock)


def receive_all(sock):
    pieces = []
    while data := sock.recv(65536):
        pieces.append(data)
    return b"".join(pieces)


def receive_echo(file):
    """Read what the echoing guest answers and return the body it was sent: it says the request's head first."""
    status, _, answer = receive_response(file)
    assert status == 200
    return answer.partition(b"\n\n")[2]


def receive_response(file, *, has_body=True):
    """Read one response from a buffered file: status, headers, body."""
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline()) != b"\r\n":
        name, _, value = line.partition(b": ")
        headers[name] = value.strip()
    body = b""
    if has_body and headers.get(b"transfer-encoding") == b"chunked":
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
        while file.readline() != b"\r\n":
            pass
    elif has_body:
        body = file.read(int(headers.get(b"content-length", 0)))
    return status, headers, body


@pytest.fixture
def served(runner, guest):
    with contextlib.ExitStack() as stack:
        yield lambda name, **options: stack.enter_context(Served(runner, guest(f"component/{name}"), **options))


def test_answers_with_what_the_component_says(served):
    answer = served("http_hello").exchange(GET)
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + HELLO


def test_says_where_it_listens(served, capfd):
    service = served("http_hello")
    assert capfd.readouterr() == ("", f"enarx: listening on tcp://127.0.0.1:{service.port} (web)\n")


def test_a_connection_carries_many_requests(served):
    with served("http_hello").connect() as sock, sock.makefile("rb") as file:
        for _ in range(3):
            sock.sendall(GET)
            assert receive_response(file) == (200, {b"content-length": b"14"}, HELLO)


def test_pipelined_requests_are_answered_in_order(served):
    answer = served("http_hello").exchange(GET * 50)
    assert answer.count(HELLO) == 50


def test_the_client_may_ask_for_the_end(served):
    answer = served("http_hello").exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", end=False)
    assert b"connection: close" in answer


def test_an_old_client_gets_one_answer(served):
    answer = served("http_hello").exchange(b"GET / HTTP/1.0\r\n\r\n", end=False)
    assert answer.endswith(HELLO)
    assert b"connection: close" in answer


def test_an_answer_to_head_has_no_body(served):
    answer = served("http_hello").exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("length", [0, 1, 1000, 300_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_go_both_ways(served, length, chunked):
    body = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    if chunked:
        head = b"Transfer-Encoding: chunked\r\n\r\n"
        sent = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[at : at + 7000] for at in range(0, length, 7000)))
        sent += b"0\r\n\r\n"
    else:
        head, sent = b"Content-Length: %d\r\n\r\n" % length, body
    with served("http_echo_body").connect() as sock, sock.makefile("rb") as file:
        sender = threading.Thread(target=sock.sendall, args=(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + sent,))
        sender.start()
        answer = receive_echo(file)
        sender.join(WAIT_S)
    assert answer == body


def test_a_client_that_asks_may_go_on(served):
    with served("http_echo_body").connect() as sock, sock.makefile("rb") as file:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        sock.sendall(b"ok")
        assert receive_echo(file) == b"ok"


def test_a_slow_request_holds_up_nobody(served):
    service = served("http_echo_body")
    with service.connect() as slow, slow.makefile("rb") as file:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        for _ in range(20):
            assert b"200 OK" in service.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        slow.sendall(b"cd")
        assert receive_echo(file) == b"abcd"
        # The connection has come back from the thread that waited.
        slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        assert receive_echo(file) == b"ok"


def test_more_slow_requests_than_threads_wait_their_turn(served, monkeypatch):
    monkeypatch.setattr(http_service, "MAX_THREADS", 3)
    service = served("http_echo_body")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(service.connect()) for _ in range(6)]
        for sock in slow:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        for sock in slow:
            sock.sendall(b"cd")
        for sock in slow:
            assert receive_echo(stack.enter_context(sock.makefile("rb"))) == b"abcd"


class Gathering:
    """An epoll that answers when as many sockets are ready as are wanted, the oldest first; then as ever, until it is told again.

    On a busy machine the service hands over the lead in the middle of a turn, and the next leader finds fewer that are ready.
    """

    def __init__(self, epoll):
        self._epoll = epoll
        self.wanted = 1

    def __getattr__(self, name):
        return getattr(self._epoll, name)

    def poll(self, timeout_s, most):
        while True:
            events = self._epoll.poll(timeout_s, most)
            if not events or len(events) >= self.wanted:
                self.wanted = 1
                return sorted(events)


@pytest.fixture
def gathered(served, monkeypatch):
    """Open connections to a service, and say together with them how to let it be told of several requests at once."""
    epoll_type = http_service.select.epoll
    made = []
    monkeypatch.setattr(http_service.select, "epoll", lambda: made.append(Gathering(epoll_type())) or made[-1])
    with contextlib.ExitStack() as stack:

        def open_connections(name, count):
            service = served(name)
            monkeypatch.undo()
            socks = [stack.enter_context(service.connect()) for _ in range(count)]
            files = [stack.enter_context(sock.makefile("rb")) for sock in socks]
            for sock, file in zip(socks, files, strict=True):
                sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                assert receive_response(file)[0] == 200
            (epoll,) = made
            return socks, files, epoll

        yield open_connections
        for epoll in made:
            epoll.wanted = 1


def test_answers_that_wait_for_each_other_all_leave(gathered):
    count = 2 * http_service._HELD_AT_ONCE + 3
    socks, files, epoll = gathered("http_hello", count)
    for _ in range(3):
        epoll.wanted = count
        for sock in socks:
            sock.sendall(2 * GET)
        for file in files:
            assert [receive_response(file)[2] for _ in range(2)] == [HELLO, HELLO]


def test_an_answer_does_not_wait_for_a_slow_request(gathered, monkeypatch):
    (quick, slow), (file, slow_file), epoll = gathered("http_echo_body", 2)
    # Nobody is there to take the lead.
    monkeypatch.setattr(http_service, "MAX_THREADS", 1)
    epoll.wanted = 2
    quick.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
    slow.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
    assert receive_echo(file) == b"ok"
    slow.sendall(b"cd")
    assert receive_echo(slow_file) == b"abcd"


def test_a_trap_is_the_request_s_and_not_the_service_s(served, capfd):
    service = served("http_trap")
    for _ in range(3):
        assert service.exchange(GET).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    errors = capfd.readouterr().err
    assert re.search(r"^enarx: request failed: GET: trap: .*wasm", errors, re.MULTILINE | re.DOTALL)
    # One each second at most.
    assert errors.count("request failed") == 1


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
        (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ],
)
def test_refuses_and_ends_the_connection(served, status, request_bytes):
    answer = served("http_hello").exchange(request_bytes + GET, end=False)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1


def test_a_good_request_before_a_bad_one_is_answered(served):
    answer = served("http_hello").exchange(GET + b"\0\0\0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" + HELLO + b"HTTP/1.1 501" in answer


def test_a_head_that_takes_too_long_is_refused(served, monkeypatch):
    monkeypatch.setattr(http_service, "HEAD_S", 0.2)
    with served("http_hello").connect() as sock:
        sock.sendall(b"GET / HT")
        assert receive_all(sock).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed(served, monkeypatch):
    monkeypatch.setattr(http_service, "IDLE_S", 0.0)
    answer = served("http_hello").exchange(GET, end=False)
    assert answer.endswith(HELLO)


def test_a_client_that_goes_away_is_forgotten(served):
    service = served("http_echo_body")
    with service.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
    assert service.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").endswith(b"ok")


def test_more_clients_than_may_be_open_wait(served):
    service = served("http_hello", limits=Limits(open_files=2))
    with service.connect() as first, service.connect() as second, service.connect() as third:
        for sock in (first, second):
            sock.sendall(GET)
            assert sock.recv(4096).endswith(HELLO)
        third.sendall(GET)
        first.close()
        assert third.recv(4096).endswith(HELLO)


def test_speaks_tls(served):
    service = served("http_hello", prot="tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    # A client that never begins its handshake is in nobody's way.
    with service.connect(), context.wrap_socket(service.connect()) as sock, sock.makefile("rb") as file:
        assert sock.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            sock.sendall(GET)
            assert receive_response(file)[2] == HELLO


def test_many_clients_at_once(served):
    service = served("http_hello")
    answers = []

    def ask():
        answers.append(service.exchange(GET * 20).count(HELLO))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert answers == [20] * 16


def test_refuses_to_serve_without_a_listen_entry(runner):
    workload = make_workload()
    with pytest.raises(ConfigError) as refusal:
        Service(None, "", None, workload, Network(workload))
    assert refusal.value.hint == "--listen http=8080"


def test_refuses_a_port_that_is_taken(runner, guest):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PlatformError, match=str(port)):
            Served(runner, guest("component/http_hello"), port=port).service.start()


# --- Any bytes -------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from([
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 3\r\n", b"\r\n", b"abc", b"0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", GET,
])  # fmt: skip
BYTES = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=6)), max_size=12).map(b"".join)


def answers_or_closes(service, data):
    answer = service.exchange(data)
    assert answer == b"" or re.match(rb"HTTP/1\.1 (100|200|400|408|414|417|431|500|501|505) ", answer)


@pytest.fixture
def echo(served):
    return served("http_echo_body")


def test_any_bytes_give_an_answer_or_a_close(echo):
    @given(BYTES)
    @settings(max_examples=150, deadline=None, derandomize=True)
    def property_holds(data):
        answers_or_closes(echo, data)

    property_holds()
    assert echo.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").endswith(b"ok")


@pytest.mark.soak
def test_any_bytes_give_an_answer_or_a_close_at_length(echo):
    @given(BYTES)
    @settings(max_examples=SOAK, deadline=None)
    def property_holds(data):
        answers_or_closes(echo, data)

    property_holds()
