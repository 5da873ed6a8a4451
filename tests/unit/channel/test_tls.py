# SPDX-License-Identifier: Apache-2.0
"""TLS of a session: two of our ends agree; a peer that wants anything else is refused, and before that nothing is given out."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from enarx.channel.tls import ALPN, GROUP, TlsEnd
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.errors import TransportError, UsageError, VerificationError


def make_credential():
    # Long over: dates are not looked at.
    return make_self_signed(at=datetime(2001, 1, 1, tzinfo=UTC))


TENANT = make_credential()
KEEP = make_credential()


class Wrong:
    """A peer of bare pyOpenSSL that does one thing otherwise; everything is as it should be by default."""

    def __init__(
        self,
        *,
        is_client,
        alpn=ALPN,
        group=b"X25519MLKEM768",
        version=SSL.TLS1_3_VERSION,
        credential=None,
        chain=(),
        again=None,
        resumes=False,
    ):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD if is_client else SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(version)
        assert SSL._lib.SSL_CTX_set1_curves_list(context._context, group) == 1
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if credential is not None:
            context.use_certificate(credential.chain[0])
            context.use_privatekey(credential.private_key)
            for certificate in chain:
                context.add_extra_chain_cert(certificate)
        if alpn is not None:
            context.set_alpn_protos([alpn])
            context.set_alpn_select_callback(lambda *_: alpn)
        if resumes:
            context.set_session_cache_mode(SSL.SESS_CACHE_BOTH)
            context.set_session_id(b"x")
        self.connection = SSL.Connection(again.get_context() if again else context, None)
        if again is not None:
            self.connection.set_session(again.get_session())
        if is_client:
            self.connection.set_connect_state()
        else:
            self.connection.set_accept_state()
        self.error = None
        self.got = b""

    def receive(self, data):
        if data:
            self.connection.bio_write(data)
        try:
            self.connection.do_handshake()
            self.got += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self.error = error

    def take_output(self):
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""


def shake_hands(one, other):
    """Carry bytes until neither has any; a real end's refusal comes out."""
    if isinstance(one, Wrong):
        one.receive(b"")
    while True:
        there, back = one.take_output(), b""
        if there:
            other.receive(there)
        back = other.take_output()
        if back:
            one.receive(back)
        if not there and not back:
            return


def pair():
    tenant, keep = TlsEnd.for_tenant(TENANT), TlsEnd.for_keep(KEEP)
    shake_hands(tenant, keep)
    return tenant, keep


def issued(by):
    """A certificate of TENANT's key that somebody else signed."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(TENANT.private_key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(by.private_key, hashes.SHA256())
    )
    return Credential(chain=(certificate,), private_key=TENANT.private_key)


def test_both_ends_agree_on_everything():
    tenant, keep = pair()
    assert tenant.established
    assert keep.established
    assert tenant.exporter == keep.exporter
    assert len(tenant.exporter) == 32
    assert tenant.own_leaf == keep.peer_leaf == TENANT.chain[0].public_bytes(Encoding.DER)
    assert keep.own_leaf == tenant.peer_leaf == KEEP.chain[0].public_bytes(Encoding.DER)
    connection = tenant._connection
    assert connection.export_keying_material(b"EXPORTER-Channel-Binding", 32) == tenant.exporter
    assert (connection.get_group_name(), connection.get_protocol_version_name()) == (GROUP, "TLSv1.3")
    assert keep._connection.get_servername() is None


def test_every_connection_has_another_exporter():
    assert pair()[0].exporter != pair()[0].exporter


@pytest.mark.parametrize("length", [0, 1, 16384, 16385, 1 << 20])
def test_carries_bytes_both_ways(length):
    text = os.urandom(length)
    tenant, keep = pair()
    for sender, receiver in ((tenant, keep), (keep, tenant)):
        sender.write(text)
        wire = sender.take_output()
        found = b""
        for start in range(0, len(wire), 100_000):
            receiver.receive(wire[start : start + 100_000])
            found += receiver.read()
        assert found == text
        assert receiver.read() == b""
        assert not receiver.ended
    tenant.close()
    keep.receive(tenant.take_output())
    assert keep.read() == b""
    assert keep.ended


def test_single_bytes_of_the_wire_are_enough():
    tenant, keep = TlsEnd.for_tenant(TENANT), TlsEnd.for_keep(KEEP)
    while not (tenant.established and keep.established):
        for one, other in ((tenant, keep), (keep, tenant)):
            for byte in one.take_output():
                other.receive(bytes([byte]))


def test_nothing_is_given_out_or_taken_before_the_handshake_is_complete():
    tenant = TlsEnd.for_tenant(TENANT)
    for use in (tenant.read, lambda: tenant.write(b"x"), lambda: tenant.exporter, lambda: tenant.peer_leaf):
        with pytest.raises(UsageError):
            use()
    tenant.close()


def test_no_ticket_is_sent_and_nothing_is_resumed():
    tenant, keep = pair()
    assert keep.take_output() == b""
    tenant.receive(b"")
    client = Wrong(is_client=True, credential=TENANT, resumes=True)
    keep = TlsEnd.for_keep(KEEP)
    shake_hands(client, keep)
    assert keep.established
    again = Wrong(is_client=True, credential=TENANT, resumes=True, again=client.connection)
    keep = TlsEnd.for_keep(KEEP)
    shake_hands(again, keep)
    assert keep.established
    assert SSL._lib.SSL_session_reused(again.connection._ssl) == 0


@pytest.mark.parametrize("is_client", [True, False])
def test_a_bare_peer_that_does_everything_right_is_accepted(is_client):
    end = TlsEnd.for_keep(KEEP) if is_client else TlsEnd.for_tenant(TENANT)
    peer = Wrong(is_client=is_client, credential=make_credential())
    shake_hands(*((peer, end) if is_client else (end, peer)))
    assert end.established


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize(
    ("otherwise", "error"),
    [
        ({"alpn": b"h2"}, TransportError),
        ({"alpn": None}, TransportError),
        ({"alpn": b"enarx-keep/2"}, TransportError),
        ({"group": b"X25519"}, TransportError),
        ({"group": b"P-256:X25519"}, TransportError),
        ({"version": SSL.TLS1_2_VERSION, "group": b"X25519"}, TransportError),
        ({"credential": issued(KEEP)}, VerificationError),
        ({"credential": TENANT, "chain": KEEP.chain}, VerificationError),
    ],
    ids=["other ALPN", "no ALPN", "next ALPN", "X25519", "P-256", "TLS 1.2", "issued", "chain of two"],
)
def test_refuses_a_peer_that_wants_it_otherwise(is_client, otherwise, error):
    end = TlsEnd.for_keep(KEEP) if is_client else TlsEnd.for_tenant(TENANT)
    peer = Wrong(is_client=is_client, **{"credential": TENANT, **otherwise})
    with pytest.raises(error, match="session: handshake: "):
        shake_hands(*((peer, end) if is_client else (end, peer)))
    assert not end.established
    for use in (end.read, lambda: end.write(b"x"), lambda: end.receive(b"x")):
        with pytest.raises(error):
            use()


def test_refuses_a_tenant_without_a_certificate():
    keep = TlsEnd.for_keep(KEEP)
    with pytest.raises(TransportError, match="no certificate"):
        shake_hands(Wrong(is_client=True), keep)
    assert not keep.established


def test_refuses_more_in_its_own_chain_or_another_key():
    with pytest.raises(UsageError):
        TlsEnd.for_keep(Credential(chain=KEEP.chain + TENANT.chain, private_key=KEEP.private_key))
    with pytest.raises(UsageError):
        TlsEnd.for_keep(Credential(chain=KEEP.chain, private_key=TENANT.private_key))


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, os.urandom(100)])
@pytest.mark.parametrize("make", [lambda: TlsEnd.for_keep(KEEP), lambda: TlsEnd.for_tenant(TENANT)])
def test_refuses_what_is_not_tls(make, text):
    with pytest.raises(TransportError):
        make().receive(text)


def test_refuses_a_changed_record_and_everything_after_it():
    tenant, keep = pair()
    tenant.write(b"text")
    wire = bytearray(tenant.take_output())
    wire[-1] ^= 1
    keep.receive(wire)
    with pytest.raises(TransportError, match="session: "):
        keep.read()
    tenant.write(b"more")
    with pytest.raises(TransportError):
        keep.receive(tenant.take_output())


@pytest.mark.parametrize("edit", ["drop", "repeat", "swap"])
def test_refuses_records_dropped_repeated_and_swapped(edit):
    tenant, keep = pair()
    records = []
    for text in (b"one", b"two"):
        tenant.write(text)
        records.append(tenant.take_output())
    first, second = records
    keep.receive({"drop": second, "repeat": first + first, "swap": second + first}[edit])
    with pytest.raises(TransportError):
        keep.read()
