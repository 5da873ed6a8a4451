# SPDX-License-Identifier: Apache-2.0
"""What Enarx.toml names is listened on and connected to; nothing else, and never for ever."""

from __future__ import annotations

import socket

import pytest

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.runtime import network
from enarx.runtime.network import Network
from enarx.runtime.workload import File, Limits, Tls, Workload


def make(*files, allow_connect=None):
    return Network(Workload("app.wasm", files=files, allow_connect=allow_connect, limits=Limits(), tls=Tls()))


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
