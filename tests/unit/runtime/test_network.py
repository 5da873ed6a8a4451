# SPDX-License-Identifier: Apache-2.0
"""What Enarx.toml names is listened on and connected to; nothing else, and never for ever."""

from __future__ import annotations

import socket

import pytest

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.runtime import network
from enarx.runtime.network import Network
from enarx.runtime.workload import File, Limits, Tls, Workload


def make(*files, allow_connect=None, broker=None):
    return Network(
        Workload("app.wasm", files=files, allow_connect=allow_connect, limits=Limits(), tls=Tls(), broker=broker)
    )


def listen(host="127.0.0.1", port=0, prot="tcp"):
    return File("listen", "http", prot=prot, host=host, port=port)


def connect(host, port, prot="tcp"):
    return File("connect", "db", prot=prot, host=host, port=port)


def test_says_where_it_listens(capfd):
    with make().listen(listen()) as sock:
        port = sock.getsockname()[1]
        assert not sock.getblocking()
    assert capfd.readouterr().err == f"enarx: listening on tcp://127.0.0.1:{port} (http)\n"


def test_every_address_is_shown_as_one_that_can_be_typed(capfd):
    with make().listen(listen("::", prot="tls")) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
    assert capfd.readouterr().err == f"enarx: listening on tls://localhost:{port} (http)\n"


def test_an_ipv6_address_is_shown_in_brackets(capfd):
    try:
        sock = make().listen(listen("::1"))
    except PlatformError:
        pytest.skip("no IPv6 here")
    with sock:
        assert f"tcp://[::1]:{sock.getsockname()[1]} " in capfd.readouterr().err


@pytest.mark.parametrize("host", ["localhost", "example.com", "1.2.3.4.5", "a" * 300, "ü" * 70])
def test_refuses_an_address_that_is_none(host):
    with pytest.raises(ConfigError) as caught:
        make().listen(listen(host))
    assert caught.value.key == "files.addr"


def test_a_taken_port_is_told_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PlatformError, match="in use") as caught:
        make().listen(listen(port=taken.getsockname()[1]))
    assert "--listen" in caught.value.hint


def test_an_address_that_is_not_ours_is_told():
    with pytest.raises(PlatformError, match=r"203\.0\.113\.7"):
        make().listen(listen("203.0.113.7"))


def test_a_machine_without_ipv6_listens_on_every_ipv4_address(monkeypatch):
    real = socket.socket

    def without_ipv6(family, *rest):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(network.socket, "socket", without_ipv6)
    with make().listen(listen("::")) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"  # noqa: S104  # what the entry asks for
    with pytest.raises(PlatformError, match="family"):
        make().listen(listen("::1"))


def test_connects_to_what_an_entry_names():
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = connect("127.0.0.1", server.getsockname()[1])
        with make(file).connect(file) as sock:
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_refuses_what_allow_connect_does_not_name():
    file = connect("127.0.0.1", 9)
    with pytest.raises(ConfigError):
        make(file, allow_connect=["127.0.0.1:10"]).connect(file)
    with pytest.raises(ConfigError):
        make(file, allow_connect=[]).connect(file)


def test_refuses_a_pattern_that_is_none():
    with pytest.raises(ConfigError):
        make(allow_connect=["everywhere"])


def test_nobody_there_is_told_with_who_was_asked():
    file = connect("127.0.0.1", 1)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1.*refused") as caught:
        make(file).connect(file)
    assert caught.value.hint


def test_nobody_answering_ends_within_the_limit(monkeypatch):
    monkeypatch.setattr(network, "CONNECT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        waiting = []
        try:
            # The queue of a listener that never accepts is full after some of these.
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(silent.getsockname())
            file = connect(*silent.getsockname())
            with pytest.raises(TransportError, match=r"no answer within 0\.05 s"):
                make(file).connect(file)
        finally:
            for sock in waiting:
                sock.close()


def test_a_peer_that_does_not_speak_tls_is_told_within_the_limit(monkeypatch):
    monkeypatch.setattr(network, "HANDSHAKE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = connect("127.0.0.1", server.getsockname()[1], prot="tls")
        with pytest.raises(TransportError, match="handshake"):
            make(file).connect_tls(file)


def test_the_certificate_and_what_is_shared_are_made_once():
    made = make()
    assert made.identity is made.identity
    assert made.server_tls() is made.server_tls()
    assert made.server_tls() is not made.server_tls(alpn=["h2"])
    assert made.client_tls() is made.client_tls()


def test_refuses_a_certificate_that_cannot_be_read(tmp_path):
    tls = Tls(certificate=str(tmp_path / "none.pem"), private_key=str(tmp_path / "none.key"))
    made = Network(Workload("app.wasm", files=[], limits=Limits(), tls=tls))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        made.server_tls()


# --- With a broker ---------------------------------------------------------------------------------------------------


class Asked:
    """What a broker answers: a socket, an error or nothing yet."""

    def __init__(self, answer):
        self.answer = answer
        self.closed = False
        self.ready, self._other = socket.socketpair()
        if answer is not None:
            self._other.send(b"!")

    def fileno(self):
        return self.ready.fileno()

    def take(self):
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    def close(self):
        self.closed = True
        self.ready.close()
        self._other.close()


class FakeBroker:
    def __init__(self, answer=None):
        self.answer = answer
        self.asked = []

    def ask(self, host, port):
        self.asked.append((host, port))
        self.last = Asked(self.answer)
        return self.last

    def listener(self, name):
        return socket.socket(socket.AF_UNIX)


def test_a_broker_s_listener_is_taken_and_nothing_is_said(capfd):
    with make(broker=FakeBroker()).listen(listen("not an address")) as sock:
        assert sock.family == socket.AF_UNIX
        assert not sock.getblocking()
    assert capfd.readouterr().err == ""


def test_a_broker_connects_by_name():
    ours, theirs = socket.socketpair()
    broker = FakeBroker(theirs)
    file = connect("db.example", 5432)
    with ours, make(file, broker=broker).connect(file) as sock:
        assert sock is theirs
        assert not sock.getblocking()
    assert broker.asked == [("db.example", 5432)]
    assert broker.last.closed


def test_a_broker_s_refusal_and_its_silence_are_told(monkeypatch):
    file = connect("db.example", 5432)
    refusing = FakeBroker(ConnectionRefusedError(111, "Connection refused"))
    with pytest.raises(TransportError, match=r"db\.example:5432: connection refused"):
        make(file, broker=refusing).connect(file)
    monkeypatch.setattr(network, "CONNECT_S", 0.01)
    silent = FakeBroker()
    with pytest.raises(TransportError, match="no answer within"):
        make(file, broker=silent).connect(file)
    assert refusing.last.closed
    assert silent.last.closed


def test_a_broker_is_not_asked_for_what_is_forbidden():
    broker = FakeBroker()
    with pytest.raises(ConfigError):
        make(connect("db.example", 1), allow_connect=[], broker=broker).connect(connect("db.example", 1))
    assert broker.asked == []


def test_a_name_has_an_address_that_stands_for_it_and_nothing_else():
    broker = FakeBroker(OSError())
    made = make(allow_connect=["a.example:80", "*.b.example:*", "0.0.0.0/0:443"], broker=broker)
    ((family, (first, port)),) = made.look_up("A.example.", 80, timeout_s=1)
    ((_, (second, _)),) = made.look_up("x.b.example", 1, timeout_s=1)
    assert (family, port) == (socket.AF_INET, 80)
    assert first != second
    assert first.startswith("240.")
    assert made.look_up("a.example", 80, timeout_s=1)[0][1][0] == first
    assert made.name_at(first) == "a.example"
    assert made.permits(first, 80)
    # A rule for all addresses is none for the one that stands for a name.
    assert not made.permits(first, 443)
    assert made.permits(second, 9)
    made.ask(first, 80).close()
    assert broker.asked == [("a.example", 80)]


def test_an_address_stands_for_itself():
    made = make(allow_connect=["*:*"], broker=FakeBroker(OSError()))
    assert made.look_up("192.0.2.1", 80, timeout_s=1) == [(socket.AF_INET, ("192.0.2.1", 80))]
    assert made.look_up("[2001:DB8::1]", 80, timeout_s=1) == [(socket.AF_INET6, ("2001:db8::1", 80))]
    with pytest.raises(OSError, match="no name"):
        made.ask("240.0.0.1", 80)


def test_no_name_ever_gets_the_address_that_another_had(monkeypatch):
    monkeypatch.setattr(network, "_MAX_NAMES", 3)
    made = make(allow_connect=["*:80"], broker=FakeBroker(OSError()))
    addresses = [made.look_up(f"h{n}.example", 80, timeout_s=1)[0][1][0] for n in range(5)]
    assert len(set(addresses)) == 5
    assert [made.name_at(address) for address in addresses] == [
        *addresses[:2],
        "h2.example",
        "h3.example",
        "h4.example",
    ]
    with pytest.raises(OSError, match="no name"):
        made.ask(addresses[0], 80)


@pytest.mark.parametrize("address", [("192.0.2.1", 5), "", b"\0abstract", None])
def test_any_peer_can_be_named_in_a_message(address):
    assert network.shown_peer(address) == ("192.0.2.1" if isinstance(address, tuple) else "a client")
