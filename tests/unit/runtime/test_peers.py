# SPDX-License-Identifier: Apache-2.0
"""Which workloads may be at the other end: by what a Steward certified, and by nothing else."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import ConfigError, KeepError, TransportError
from enarx.runtime.network import Network
from enarx.runtime.peers import PeerRules
from enarx.runtime.tls import ClientTls, ServerTls, TlsStream
from enarx.runtime.workload import Limits, Tls, Workload
from enarx.wire.cmw import CmwRecord, encode_cmw_cbor
from enarx.wire.keep_certificate import KeepCertificate
from tests.fake_steward import FakeAuthority, identity_of

AT = datetime(2026, 6, 1, tzinfo=UTC)
AT_S = int(AT.timestamp())
PACKAGE, TENANT = "70" * 32, "74" * 48
"""Of `identity_of()`."""


@pytest.fixture(scope="module")
def steward():
    return FakeAuthority(AT)


def der_of(credential):
    from cryptography.hazmat.primitives.serialization import Encoding

    return credential.chain[0].public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("peers", "pristine", "is_welcome"),
    [
        ([(PACKAGE, TENANT)], True, True),
        ([(PACKAGE, TENANT)], False, True),
        ([(PACKAGE, "any")], True, True),
        # Anybody could deploy it with arguments of his own.
        ([(PACKAGE, "any")], False, False),
        ([(PACKAGE, "00" * 48)], True, False),
        ([("00" * 32, TENANT)], True, False),
        ([("00" * 32, "any")], True, False),
        ([("00" * 32, "any"), (PACKAGE, TENANT)], False, True),
    ],
)
def test_a_peer_is_a_package_of_a_tenant(steward, peers, pristine, is_welcome):
    certificate = der_of(steward.credential(AT, identity=identity_of(pristine=pristine)))
    if is_welcome:
        PeerRules(peers).require(certificate)
        return
    with pytest.raises(TransportError) as caught:
        PeerRules(peers).require(certificate)
    assert PACKAGE in str(caught.value)
    assert TENANT in str(caught.value)
    assert ("as it is" in str(caught.value)) is pristine
    assert "peers" in caught.value.hint


def test_who_is_no_keep_is_no_peer(steward):
    with pytest.raises(TransportError, match="says nothing of a Keep"):
        PeerRules([(PACKAGE, "any")]).require(der_of(steward.credential(AT)))
    evidence = encode_cmw_cbor(CmwRecord("application/x", b"evidence"))
    keep = KeepCertificate(identity_of(), None, evidence)
    with pytest.raises(TransportError, match="no result of a Steward"):
        PeerRules([(PACKAGE, "any")]).require(der_of(steward.credential(AT, keep=keep)))


def test_an_emulated_peer_is_welcome_to_an_emulated_keep_alone(steward):
    emulated = der_of(steward.credential(AT, identity=identity_of(), emulated=True))
    genuine = der_of(steward.credential(AT, identity=identity_of()))

    def unknown():
        raise KeepError("there is none")

    peers = [(PACKAGE, TENANT)]
    for own in (None, lambda: genuine, unknown, lambda: b"none"):
        rules = PeerRules(peers, own=own)
        rules.require(genuine)
        with pytest.raises(TransportError, match="EMULATED platform, which protects nothing, want a genuine one"):
            rules.require(emulated)
    for peer in (emulated, genuine):
        PeerRules(peers, own=lambda: emulated).require(peer)
    with pytest.raises(TransportError, match="want one of the peers"):
        PeerRules([(PACKAGE, "00" * 48)], own=lambda: emulated).require(emulated)


@given(st.binary(max_size=400))
def test_any_bytes_are_no_peer(data):
    with pytest.raises(TransportError):
        PeerRules([(PACKAGE, "any")]).require(data)


# --- Through TLS -------------------------------------------------------------------------------------------------------


def network(steward, *, peers=(), client_auth="none", identity=None, root=True):
    class Identity:
        def __init__(self):
            self.shown = identity or steward.credential(AT, identity=identity_of())

        def credential(self):
            return self.shown

    return Network(
        Workload(
            "app.wasm",
            files=[],
            limits=Limits(),
            tls=Tls(
                peers=peers,
                client_auth=client_auth,
                identity=Identity(),
                steward_root=steward.root_der if root else None,
            ),
            wall_clock_offset_ns=0,
        )
    )


@pytest.fixture
def shake(monkeypatch):
    """Have two ends shake hands, and return what each says of it; the clock is that of the certificates."""
    monkeypatch.setattr(Network, "wall_ns", lambda _: AT_S * 10**9)

    def shake(client, server):
        a, b = socket.socketpair()
        with a, b:
            for sock in (a, b):
                sock.setblocking(False)
            ends = [client.stream(a, host="localhost", peer="server"), server.stream(b, peer="client")]
            results = dict.fromkeys(ends, "unfinished")
            for _ in range(20):
                for end in ends:
                    if results[end] == "unfinished":
                        try:
                            results[end] = None if end.handshake() else "unfinished"
                        except TransportError as error:
                            results[end] = str(error)
            for end in ends:
                end.close()
            return [results[end] for end in ends]

    return shake


def test_two_keeps_require_each_other(steward, shake):
    peers = [(PACKAGE, "any")]
    one, other = network(steward, peers=peers), network(steward, peers=peers)
    assert shake(one.client_tls(), other.server_tls()) == [None, None]


def test_a_client_that_is_another_workload_is_refused(steward, shake):
    stranger = network(steward, identity=steward.credential(AT, identity=identity_of(b"x" * 32)))
    server = network(steward, peers=[(PACKAGE, "any")])
    # The client trusts the Steward for itself here, as one that asks for no peer would by a trust anchor.
    client = ClientTls(stranger.identity.credential, trust_anchors=[steward.root], verify_at=lambda: AT_S)
    _, refused = shake(client, server.server_tls())
    assert f"certificate is that of package {'78' * 32}" in refused
    assert refused.startswith("handshake with client failed")


def test_who_is_refused_is_told_by_an_alert_and_who_refuses_says_whom(steward, monkeypatch, capfd):
    monkeypatch.setattr(Network, "wall_ns", lambda _: AT_S * 10**9)
    server = network(steward, peers=[(PACKAGE, "any")])
    stranger = network(
        steward, identity=steward.credential(AT, identity=identity_of(b"x" * 32)), client_auth="required"
    )
    said = []
    client = ClientTls(
        stranger.identity.credential, trust_anchors=[steward.root], verify_at=lambda: AT_S, tell=said.append
    )
    a, b = socket.socketpair()
    for sock in (a, b):
        sock.setblocking(False)
    ends = [client.stream(a, host="localhost", peer="server"), server.server_tls().stream(b, peer="a client")]

    def take_turns():
        for _ in range(20):
            for end in ends:
                end.handshake()

    with pytest.raises(TransportError, match=f"certificate is that of package {'78' * 32}"):
        take_turns()
    assert capfd.readouterr().err.startswith(
        f"enarx: handshake with a client failed: certificate is that of package {'78' * 32}"
    )
    # In TLS 1.3 the client's handshake is over before: it learns of the refusal when it reads.
    with pytest.raises(ConnectionResetError, match="peer refused with the alert: bad certificate"):
        ends[0].recv_into(memoryview(bytearray(10)))
    assert said == ["connection with server failed: peer refused with the alert: bad certificate; its own log says why"]
    for end in ends:
        end.close()


def test_a_server_that_is_refused_is_told_by_an_alert(steward, shake):
    client = network(steward, peers=[(PACKAGE, TENANT)])
    said = []
    server = ServerTls(
        steward.credential(AT, identity=identity_of(tenant=b"x" * 48)), verify_at=lambda: AT_S, tell=said.append
    )
    _, refused = shake(client.client_tls(), server)
    assert refused == "handshake with client failed: peer refused with the alert: bad certificate"
    # Whoever hangs up on a service is not whom the service refused.
    assert said == []


def test_peers_that_are_welcome_are_not_spoken_of(steward, shake, capfd):
    peers = [(PACKAGE, "any")]
    assert shake(network(steward, peers=peers).client_tls(), network(steward, peers=peers).server_tls()) == [None, None]
    assert capfd.readouterr().err == ""


def test_a_certificate_that_nobody_judged_is_refused(steward, shake, monkeypatch):
    """Where OpenSSL does not ask, or of another certificate than the peer's."""
    peers = [(PACKAGE, "any")]
    one, other = network(steward, peers=peers), network(steward, peers=peers)
    monkeypatch.setattr(TlsStream, "peer_certificate_der", lambda _: b"another")
    assert all("was not judged" in each for each in shake(one.client_tls(), other.server_tls()))


def test_a_judge_that_fails_refuses(steward, shake):
    def judge(_):
        raise ValueError("not what it takes")

    server = ServerTls(
        steward.credential(AT),
        client_auth="required",
        trust_anchors=[steward.root],
        verify_at=lambda: AT_S,
        judge_peer=judge,
    )
    client = ClientTls(
        steward.credential(AT, identity=identity_of()), trust_anchors=[steward.root], verify_at=lambda: AT_S
    )
    assert "certificate cannot be read" in shake(client, server)[1]


def test_a_server_that_is_another_workload_is_refused(steward, shake):
    client = network(steward, peers=[(PACKAGE, TENANT)])
    server = ServerTls(steward.credential(AT, identity=identity_of(tenant=b"x" * 48)), verify_at=lambda: AT_S)
    refused, _ = shake(client.client_tls(), server)
    assert f"for tenant {'78' * 48}" in refused


def test_an_emulated_peer_is_refused_at_both_ends_by_a_genuine_keep(steward, shake):
    peers = [(PACKAGE, "any")]
    genuine = network(steward, peers=peers)
    emulated = network(steward, peers=peers, identity=steward.credential(AT, identity=identity_of(), emulated=True))
    assert "EMULATED" in shake(genuine.client_tls(), emulated.server_tls())[0]
    assert "EMULATED" in shake(emulated.client_tls(), genuine.server_tls())[1]
    assert shake(emulated.client_tls(), emulated.server_tls()) == [None, None]


def test_a_client_without_a_certificate_is_refused(steward, shake):
    server = network(steward, peers=[(PACKAGE, "any")])
    client = ClientTls(None, trust_anchors=[steward.root], verify_at=lambda: AT_S)
    _, refused = shake(client, server.server_tls())
    assert "found no client certificate" in refused


def test_a_certificate_of_another_steward_is_refused(steward, shake):
    other = FakeAuthority(AT, "another")
    server = network(steward, peers=[(PACKAGE, "any")])
    stranger = other.credential(AT, identity=identity_of())
    client = ClientTls(stranger, trust_anchors=[steward.root], verify_at=lambda: AT_S)
    _, refused = shake(client, server.server_tls())
    assert "certificate has no trusted issuer" in refused


def test_clients_are_judged_by_the_steward_where_nothing_else_is_said(steward, shake):
    server = network(steward, client_auth="required")
    anybody = steward.credential(AT, identity=identity_of(b"x" * 32))
    client = ClientTls(anybody, trust_anchors=[steward.root], verify_at=lambda: AT_S)
    assert shake(client, server.server_tls()) == [None, None]
    stranger = FakeAuthority(AT, "another").credential(AT, identity=identity_of())
    client = ClientTls(stranger, trust_anchors=[steward.root], verify_at=lambda: AT_S)
    assert "no trusted issuer" in shake(client, server.server_tls())[1]


@pytest.mark.parametrize("options", [{"peers": [(PACKAGE, "any")]}, {"client_auth": "optional"}])
def test_refuses_to_go_without_the_steward_it_needs(steward, options):
    without = network(steward, root=False, **options)
    with pytest.raises(ConfigError, match="found no Steward"):
        without.server_tls()
    if "peers" in options:
        with pytest.raises(ConfigError, match="found no Steward"):
            without.client_tls()


def test_refuses_rules_for_peers_who_need_not_show_anything(steward):
    with pytest.raises(ConfigError, match="want it required"):
        ServerTls(
            steward.credential(AT),
            client_auth="optional",
            trust_anchors=[steward.root],
            judge_peer=PeerRules([(PACKAGE, "any")]).require,
        )


# --- What is shown changes ------------------------------------------------------------------------------------------------


class Changing:
    """Shows what it was given last."""

    def __init__(self, first):
        self.newest = first

    def __call__(self):
        if isinstance(self.newest, Exception):
            raise self.newest
        return self.newest


def connect(server_credential, client_credential, steward, streams=None):
    a, b = socket.socketpair()
    for sock in (a, b):
        sock.setblocking(False)
    server, client = streams or make(server_credential, client_credential, steward)
    ends = [client.stream(a, host="localhost", peer="server"), server.stream(b, peer="client")]
    for _ in range(20):
        if all([end.handshake() for end in ends]):  # noqa: C419  # each has its turn
            break
    return ends


def make(server_credential, client_credential, steward):
    return (
        ServerTls(server_credential, client_auth="required", trust_anchors=[steward.root], verify_at=lambda: AT_S),
        ClientTls(client_credential, trust_anchors=[steward.root], verify_at=lambda: AT_S),
    )


def test_new_connections_show_the_newest_and_old_ones_go_on(steward):
    first, second = steward.credential(AT), steward.credential(AT)
    shown = Changing(first)
    ends = make(shown, shown, steward)
    old = connect(None, None, steward, ends)
    shown.newest = second
    new = connect(None, None, steward, ends)
    assert [end.peer_certificate_der() for end in old] == [der_of(first)] * 2
    assert [end.peer_certificate_der() for end in new] == [der_of(second)] * 2
    buffer = memoryview(bytearray(10))
    assert old[0].send(memoryview(b"hello")) == 5
    assert old[1].recv_into(buffer) == 5
    for end in (*old, *new):
        end.close()


def test_what_cannot_be_shown_leaves_what_was(steward):
    first = steward.credential(AT)
    other = steward.credential(AT)
    shown = Changing(first)
    ends = make(shown, shown, steward)
    from enarx.crypto.x509 import Credential
    from enarx.errors import KeepError

    for newest in (KeepError("none"), Credential(chain=other.chain, private_key=first.private_key)):
        shown.newest = newest
        found = connect(None, None, steward, ends)
        assert [end.peer_certificate_der() for end in found] == [der_of(first)] * 2
        for end in found:
            end.close()


def test_a_context_is_made_once_for_each_credential(steward, monkeypatch):
    made = []
    real = ServerTls.__init__.__globals__["_context"]
    monkeypatch.setitem(
        ServerTls.__init__.__globals__, "_context", lambda *options: made.append(options) or real(*options)
    )
    shown = Changing(steward.credential(AT))
    server = ServerTls(shown)
    for count in (1, 2):
        for _ in range(3):
            a, b = socket.socketpair()
            with a, b:
                a.setblocking(False)
                server.stream(a, peer="x").close()
        assert len(made) == count
        shown.newest = steward.credential(AT)
