# SPDX-License-Identifier: Apache-2.0
"""TLS streams over real sockets on this machine: two of ours, and ours against the standard library's OpenSSL."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.x509 import Credential, make_self_signed
from enarx.errors import ConfigError, TransportError
from enarx.runtime import tls
from enarx.runtime.tls import ClientTls, ServerTls, TlsStream

AT = datetime(2026, 6, 1, tzinfo=UTC)
AT_S = int(AT.timestamp())
WAIT_S = 20


class Authority:
    """A certificate authority of this test."""

    def __init__(self, name="test authority"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject, public_key, days=30):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(AT - timedelta(days=1))
            .not_valid_after(AT + timedelta(days=days))
        )

    def issue(self, *names, days=30):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._builder(x509.Name([]), key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(list(names)), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return Credential(chain=(certificate,), private_key=key)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def credential(authority):
    import ipaddress

    return authority.issue(
        x509.DNSName("localhost"),
        x509.DNSName("*.example.com"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    )


@pytest.fixture
def sockets():
    """Give connected pairs and close what is left of them."""
    with contextlib.ExitStack() as stack:

        def pair(*, tcp=False):
            if tcp:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    ends = (socket.create_connection(listener.getsockname()), listener.accept()[0])
            else:
                ends = socket.socketpair()
            for end in ends:
                stack.enter_context(end)
                end.setblocking(False)
                # Small, so that tests meet a full socket soon.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            return ends

        yield pair


def server_on(sock, credential, **options):
    options.setdefault("verify_at", lambda: AT_S)
    return ServerTls(credential, **options).stream(sock, peer="10.0.0.2:5000")


def client_on(sock, authority, host="localhost", credential=None, **options):
    options.setdefault("verify_at", lambda: AT_S)
    options.setdefault("trust_anchors", [authority.certificate])
    return ClientTls(credential, **options).stream(sock, host=host, peer="10.0.0.1:443")


def shake(*streams):
    """Take turns until every handshake is complete or failed; return the first failure or None per stream."""
    results = dict.fromkeys(streams)
    todo = list(streams)
    for _ in range(40):
        for stream in list(todo):
            try:
                if stream.handshake():
                    todo.remove(stream)
            except TransportError as error:
                results[stream] = error
                todo.remove(stream)
    return [results[stream] or ("unfinished" if stream in todo else None) for stream in streams]


@pytest.fixture
def connected(sockets, authority, credential):
    """Give a client and a server that have shaken hands."""

    def connect(*, tcp=False, **server_options):
        a, b = sockets(tcp=tcp)
        client, server = client_on(a, authority), server_on(b, credential, **server_options)
        assert shake(client, server) == [None, None]
        return client, server

    return connect


def receive(stream, size=65536):
    """Receive once, waiting for it."""
    buffer = memoryview(bytearray(size))
    while True:
        try:
            return bytes(buffer[: stream.recv_into(buffer)])
        except BlockingIOError:
            wait(stream)


def wait(stream):
    poll = select.poll()
    poll.register(stream, stream.wants)
    assert poll.poll(WAIT_S * 1000), "nothing happened"


def send_all(stream, data):
    view = memoryview(data)
    while view:
        try:
            view = view[stream.send(view) :]
        except BlockingIOError:
            wait(stream)


def in_thread(function):
    """Run in a thread; calling what is returned waits for it and returns or raises its result."""
    box = []

    def body():
        try:
            box.append((function(), None))
        except Exception as error:  # noqa: BLE001  # raised again by whoever waits
            box.append((None, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def result():
        thread.join(WAIT_S)
        assert box, "the thread is still at work"
        value, error = box[0]
        if error is not None:
            raise error
        return value

    return result


# The dependency


def test_the_private_names_of_the_tls_library_are_all_there():
    for name in [
        "SSL_read",
        "SSL_write",
        "SSL_pending",
        "SSL_get_error",
        "SSL_do_handshake",
        "SSL_shutdown",
        "SSL_get_verify_result",
        "ERR_get_error",
        "ERR_reason_error_string",
        "SSL_CTX_set1_curves_list",
        "SSL_CTX_set_alpn_select_cb",
        "SSL_TLSEXT_ERR_OK",
        "SSL_TLSEXT_ERR_ALERT_FATAL",
        "SSL_CTX_get0_param",
        "SSL_get0_param",
        "SSL_OP_NO_RENEGOTIATION",
        "X509_VERIFY_PARAM_set1_host",
        "X509_VERIFY_PARAM_set1_ip",
        "X509_VERIFY_PARAM_set_flags",
        "X509_VERIFY_PARAM_set_hostflags",
        "X509_VERIFY_PARAM_set_time",
        "X509_verify_cert_error_string",
        "X509_STORE_CTX_get_current_cert",
        "X509_STORE_CTX_get_error",
        "X509_STORE_CTX_get_error_depth",
        "X509_STORE_CTX_get_ex_data",
        "X509_STORE_CTX_set_error",
        "X509_V_ERR_CERT_REJECTED",
        "X509_up_ref",
        "SSL_CTX_set_verify",
        "SSL_get_ex_data_X509_STORE_CTX_idx",
        "X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS",
        "X509_CHECK_FLAG_NEVER_CHECK_SUBJECT",
        "SSL_ERROR_WANT_READ",
        "SSL_ERROR_WANT_WRITE",
        "SSL_ERROR_ZERO_RETURN",
        "SSL_ERROR_SYSCALL",
    ]:
        assert hasattr(tls._lib, name), f"cryptography no longer has {name}: tls.py depends on it"
    context = tls.SSL.Context(tls.SSL.TLS_CLIENT_METHOD)
    assert tls._ffi.typeof(context._context) == tls._ffi.typeof("SSL_CTX *")
    assert tls._ffi.typeof(tls.SSL.Connection(context)._ssl) == tls._ffi.typeof("SSL *")
    for name in ("callback", "cast", "from_buffer", "errno", "string", "NULL"):
        assert hasattr(tls._ffi, name)


# Handshakes that work


def test_two_of_ours_agree_on_the_hybrid_group(connected):
    client, server = connected()
    assert client.group() == server.group() == "X25519MLKEM768"
    assert client._connection.get_protocol_version_name() == "TLSv1.3"
    assert client._connection.get_cipher_name() == "TLS_AES_256_GCM_SHA384"


def test_the_group_is_not_known_before_the_handshake(sockets, credential):
    assert server_on(sockets()[0], credential).group() is None


@pytest.fixture
def stdlib_files(tmp_path, authority, credential):
    (tmp_path / "cert.pem").write_bytes(credential.chain[0].public_bytes(Encoding.PEM))
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return tmp_path


def stdlib_context(version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    return context


def stdlib_client(sock, context, **options):
    sock.settimeout(WAIT_S)
    return context.wrap_socket(sock, **options)


def test_a_client_with_classical_groups_only_still_connects(sockets, credential):
    a, b = sockets()
    peer = in_thread(lambda: stdlib_client(a, stdlib_context()))
    server = server_on(b, credential)
    server.handshake_within(WAIT_S)
    # The standard library of a later Python may be linked with an OpenSSL that has the hybrid.
    assert server.group() in {"x25519", "X25519MLKEM768"}
    with peer() as client:
        client.sendall(b"ping")
        assert receive(server) == b"ping"
        send_all(server, b"pong")
        assert client.recv(10) == b"pong"
        server.close()
        assert client.recv(10) == b""


@pytest.mark.parametrize("client_auth", ["none", "optional"])
def test_no_session_is_resumed_past_the_certificate_check(sockets, authority, credential, client_auth):
    anchors = [] if client_auth == "none" else [authority.certificate]
    entry = ServerTls(credential, client_auth=client_auth, trust_anchors=anchors)
    context, session = stdlib_context(), None
    for _ in range(2):
        a, b = sockets()
        peer = in_thread(lambda a=a, session=session: stdlib_client(a, context, session=session))
        server = entry.stream(b, peer="p")
        server.handshake_within(WAIT_S)
        send_all(server, b"after any ticket")
        with peer() as client:
            client.recv(100)
            assert not client.session_reused
            session = client.session
        # A session whose connection just ends is never kept, so this one ends properly.
        server.close()


def test_a_server_of_the_standard_library_accepts_us(sockets, authority, stdlib_files):
    a, b = sockets()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stdlib_files / "cert.pem", stdlib_files / "key.pem")
    b.settimeout(WAIT_S)

    def serve():
        with context.wrap_socket(b, server_side=True) as peer:
            peer.sendall(peer.recv(10))
            return peer.recv(10)

    outcome = in_thread(serve)
    client = client_on(a, authority)
    client.handshake_within(WAIT_S)
    send_all(client, b"echo")
    assert receive(client) == b"echo"
    client.close()
    assert outcome() == b""


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "a.example.com", "127.0.0.1", "::1", "[::1]"])
def test_a_client_accepts_a_certificate_for_the_host(sockets, authority, credential, host):
    a, b = sockets()
    client, server = client_on(a, authority, host), server_on(b, credential)
    assert shake(client, server) == [None, None]
    assert client.peer_certificate_der() == credential.chain[0].public_bytes(Encoding.DER)
    assert server.peer_certificate_der() is None
    is_name = host[0].isalpha()
    assert server._connection.get_servername() == (host.removesuffix(".").encode() if is_name else None)


def test_a_self_signed_certificate_is_trusted_when_it_is_the_anchor(sockets):
    own = make_self_signed(at=AT)
    a, b = sockets()
    client = ClientTls(None, trust_anchors=own.chain, verify_at=lambda: AT_S).stream(a, host="localhost", peer="p")
    assert shake(client, server_on(b, own)) == [None, None]


def test_an_issuer_that_is_no_root_can_be_the_anchor(sockets):
    root, issuer = Authority("root"), Authority("issuer")
    signed = x509.CertificateBuilder(
        root.name, issuer.name, issuer.key.public_key(), 9, AT, AT + timedelta(days=1), [*issuer.certificate.extensions]
    ).sign(root.key, hashes.SHA256())
    own = issuer.issue(x509.DNSName("localhost"))
    a, b = sockets()
    client = ClientTls(None, trust_anchors=[signed], verify_at=lambda: AT_S).stream(a, host="localhost", peer="p")
    assert shake(client, server_on(b, own)) == [None, None]


def test_the_whole_chain_is_sent(sockets):
    root, issuer = Authority("root"), Authority("issuer")
    signed = x509.CertificateBuilder(
        root.name, issuer.name, issuer.key.public_key(), 9, AT, AT + timedelta(days=1), [*issuer.certificate.extensions]
    ).sign(root.key, hashes.SHA256())
    own = issuer.issue(x509.DNSName("localhost"))
    root_ca = (
        root._builder(root.name, root.key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    a, b = sockets()
    client = ClientTls(None, trust_anchors=[root_ca], verify_at=lambda: AT_S).stream(a, host="localhost", peer="p")
    whole = Credential(chain=(*own.chain, signed), private_key=own.private_key)
    assert shake(client, server_on(b, whole)) == [None, None]


@pytest.mark.parametrize("client_auth", ["optional", "required"])
def test_a_client_certificate_is_verified_and_given(sockets, authority, credential, client_auth):
    own = authority.issue(x509.DNSName("keep"))
    a, b = sockets()
    client = client_on(a, authority, credential=own)
    server = server_on(b, credential, client_auth=client_auth, trust_anchors=[authority.certificate])
    assert shake(client, server) == [None, None]
    assert server.peer_certificate_der() == own.chain[0].public_bytes(Encoding.DER)


def test_an_optional_client_certificate_may_be_missing(connected, authority):
    _, server = connected(client_auth="optional", trust_anchors=[authority.certificate])
    assert server.peer_certificate_der() is None


def test_a_common_application_protocol_is_chosen_by_the_server(sockets, authority, credential):
    a, b = sockets()
    client = client_on(a, authority, alpn=["h2", "http/1.1"])
    server = server_on(b, credential, alpn=["http/1.1"])
    assert shake(client, server) == [None, None]
    assert client.alpn() == server.alpn() == "http/1.1"


def test_without_application_protocols_there_is_none(connected):
    client, server = connected(alpn=["http/1.1"])
    assert client.alpn() is None
    assert server.alpn() is None


# Handshakes that fail, for the right reason


def refusal(streams):
    """Return the error of the first stream, whatever the second one made of it."""
    error = shake(*streams)[0]
    assert isinstance(error, TransportError), error
    assert "\n" not in str(error)
    return str(error)


def test_refuses_an_application_protocol_nobody_shares(sockets, authority, credential):
    a, b = sockets()
    client = client_on(a, authority, alpn=["h2"])
    error = refusal((client, server_on(b, credential, alpn=["http/1.1"])))
    assert error == "handshake with 10.0.0.1:443 failed: peer refused with the alert: no application protocol"


def test_refuses_a_client_without_the_required_certificate(sockets, authority, credential):
    a, b = sockets()
    client = client_on(a, authority)
    said = []
    server = server_on(b, credential, client_auth="required", trust_anchors=[authority.certificate], tell=said.append)
    assert refusal((server, client)) == "handshake with 10.0.0.2:5000 failed: found no client certificate, want one"
    assert said == ["handshake with 10.0.0.2:5000 failed: found no client certificate, want one"]
    # The client had finished before the server refused, so it learns of it when it reads.
    with pytest.raises(ConnectionResetError, match="certificate required"):
        receive(client)


def test_refuses_a_client_certificate_of_another_authority(sockets, authority, credential):
    a, b = sockets()
    client = client_on(a, authority, credential=Authority("other").issue(x509.DNSName("keep")))
    server = server_on(b, credential, client_auth="optional", trust_anchors=[authority.certificate])
    assert "certificate has no trusted issuer" in refusal((server, client))


def test_refuses_a_server_certificate_of_another_authority(sockets, authority):
    a, b = sockets()
    other = Authority("other").issue(x509.DNSName("localhost"))
    server = server_on(b, other)
    client_error, server_error = shake(client_on(a, authority), server)
    assert "certificate has no trusted issuer" in str(client_error)
    assert "[tls]" in client_error.hint
    assert str(server_error).endswith("peer refused with the alert: unknown ca")


def test_refuses_a_self_signed_server_by_default(sockets):
    a, b = sockets()
    client = ClientTls(None, verify_at=lambda: AT_S).stream(a, host="localhost", peer="10.0.0.1:443")
    assert "(self-signed certificate)" in refusal((client, server_on(b, make_self_signed(at=AT))))


@pytest.mark.parametrize(
    "host", ["other", "example.com", "a.b.example.com", "10.0.0.1", "::2", "127.0.0.1.example.net"]
)
def test_refuses_a_certificate_for_another_host(sockets, authority, credential, host):
    a, b = sockets()
    error = refusal((client_on(a, authority, host), server_on(b, credential)))
    assert error == f"handshake with 10.0.0.1:443 failed: certificate does not name {host}"


def test_refuses_a_wildcard_inside_a_label(sockets, authority):
    a, b = sockets()
    own = authority.issue(x509.DNSName("f*.example.com"))
    assert "does not name foo.example.com" in refusal((client_on(a, authority, "foo.example.com"), server_on(b, own)))


def test_refuses_a_common_name_as_a_host_name(sockets):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 7, AT, AT + timedelta(days=1)).sign(
        key, hashes.SHA256()
    )
    a, b = sockets()
    client = ClientTls(None, trust_anchors=[certificate], verify_at=lambda: AT_S).stream(a, host="localhost", peer="p")
    own = Credential(chain=(certificate,), private_key=key)
    assert "does not name localhost" in refusal((client, server_on(b, own)))


@pytest.mark.parametrize(("at_s", "reason"), [(31, "certificate has expired"), (-2, "certificate is not yet valid")])
def test_refuses_a_certificate_outside_its_time(sockets, authority, credential, at_s, reason):
    a, b = sockets()
    # The authority of this test lives as long as what it issues, so the server's own is made to end first.
    credential = authority.issue(x509.DNSName("localhost"), days=1) if at_s > 0 else credential
    at_s = AT_S + (2 if at_s > 0 else at_s) * 86400
    error = refusal((client_on(a, authority, verify_at=lambda: at_s), server_on(b, credential)))
    assert error.startswith(f"handshake with 10.0.0.1:443 failed: {reason}")


def test_refuses_a_client_without_tls_1_3(sockets, credential):
    a, b = sockets()
    peer = in_thread(lambda: stdlib_client(a, stdlib_context(ssl.TLSVersion.TLSv1_2)))
    with pytest.raises(TransportError, match=r"failed: found a peer without TLS 1.3, want TLS 1.3$"):
        server_on(b, credential).handshake_within(WAIT_S)
    with pytest.raises(ssl.SSLError):
        peer()


def test_refuses_a_server_without_tls_1_3(sockets, authority, stdlib_files):
    a, b = sockets()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(stdlib_files / "cert.pem", stdlib_files / "key.pem")
    b.settimeout(WAIT_S)
    peer = in_thread(lambda: context.wrap_socket(b, server_side=True))
    with pytest.raises(TransportError, match=r"failed: found a peer without TLS 1.3, want TLS 1.3$"):
        client_on(a, authority).handshake_within(WAIT_S)
    with pytest.raises(ssl.SSLError):
        peer()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "found plain HTTP, want TLS"),
        (b"\xff" * 64, "found bytes that are not TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "found bytes that are not TLS"),
    ],
)
def test_refuses_a_client_that_does_not_speak_tls(sockets, credential, sent, reason):
    a, b = sockets()
    a.send(sent)
    with pytest.raises(TransportError, match=reason):
        server_on(b, credential).handshake_within(WAIT_S)


def test_refuses_a_server_that_speaks_plain_http(sockets, authority):
    a, b = sockets()
    b.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(TransportError, match=r"found bytes that are not TLS"):
        client_on(a, authority).handshake_within(WAIT_S)


def test_a_peer_that_hangs_up_is_told_apart(sockets, authority, credential):
    a, b = sockets()
    a.close()
    with pytest.raises(TransportError, match="peer closed the connection"):
        server_on(b, credential).handshake_within(WAIT_S)
    c, d = sockets()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    d.close()
    with pytest.raises(TransportError, match=r"handshake with 10.0.0.1:443 failed: (peer closed|broken pipe)"):
        client_on(c, authority).handshake_within(WAIT_S)


def test_a_stalled_handshake_ends_by_its_time_limit_and_harms_nobody(sockets, authority, credential):
    server = ServerTls(credential)
    stalled, b = sockets()
    waiting = server.stream(b, peer="10.0.0.2:5000")
    assert waiting.handshake() is False
    assert waiting.wants == select.POLLIN
    c, d = sockets()
    assert shake(client_on(c, authority), server.stream(d, peer="10.0.0.3:5000")) == [None, None]
    with pytest.raises(TransportError, match=r"with 10.0.0.2:5000 failed: found no answer, want one within 0.01 s"):
        waiting.handshake_within(0.01)
    waiting.close()
    assert stalled.recv(10) == b""


def refuse_or_wait(data, as_record):
    a, b = socket.socketpair()
    with a, b:
        b.setblocking(False)
        a.send(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data if as_record else data)
        a.shutdown(socket.SHUT_WR)
        stream = ServerTls(_own()).stream(b, peer="p")
        with pytest.raises(TransportError):
            stream.handshake_within(WAIT_S)
        stream.close()


FIRST_BYTES = given(st.binary(min_size=1, max_size=200), st.booleans())


def test_any_first_bytes_are_refused():
    settings(max_examples=150, deadline=None, derandomize=True)(FIRST_BYTES(refuse_or_wait))()


@pytest.mark.soak
def test_any_first_bytes_are_refused_for_long():
    count = int(os.environ.get("ENARX_SOAK_EXAMPLES", "50000"))
    settings(max_examples=count, deadline=None)(FIRST_BYTES(refuse_or_wait))()


_made = []


def _own():
    if not _made:
        _made.append(make_self_signed(at=AT))
    return _made[0]


# Configuration


def test_refuses_a_client_authentication_nobody_knows(credential):
    with pytest.raises(ConfigError, match="want none, optional or required"):
        ServerTls(credential, client_auth="maybe")


@pytest.mark.parametrize("client_auth", ["optional", "required"])
def test_refuses_to_ask_for_client_certificates_without_anchors(credential, client_auth):
    with pytest.raises(ConfigError, match="found no trust anchors"):
        ServerTls(credential, client_auth=client_auth)


def test_refuses_anchors_that_would_not_be_used(credential, authority):
    with pytest.raises(ConfigError, match="found trust anchors"):
        ServerTls(credential, trust_anchors=[authority.certificate])


def test_refuses_to_trust_nobody():
    with pytest.raises(ConfigError, match="found none"):
        ClientTls(None, trust_anchors=[])


def test_refuses_a_key_of_another_certificate(authority):
    mixed = Credential(
        chain=authority.issue(x509.DNSName("a")).chain, private_key=authority.issue(x509.DNSName("b")).private_key
    )
    with pytest.raises(ConfigError, match="key values mismatch"):
        ServerTls(mixed)
    with pytest.raises(ConfigError, match="key values mismatch"):
        ClientTls(mixed)


@pytest.mark.parametrize("host", ["", ".", "a\0b", "b\xfccher.example"])
def test_refuses_a_server_name_that_would_switch_the_check_off(sockets, authority, host):
    with pytest.raises(TransportError, match="want a DNS name or an address"):
        client_on(sockets()[0], authority, host)


# Bytes


def test_small_messages_arrive_in_order_both_ways(connected):
    client, server = connected()
    for number in range(300):
        send_all(client, b"request %d" % number)
        assert receive(server) == b"request %d" % number
        send_all(server, b"response %d" % number)
        assert receive(client) == b"response %d" % number


def test_many_small_records_are_read_one_by_one(connected):
    client, server = connected(tcp=True)
    for number in range(500):
        send_all(client, b"%03d" % number)
    got = [receive(server) for _ in range(500)]
    assert got == [b"%03d" % number for number in range(500)]


def test_what_is_pending_is_what_the_next_read_gets_without_the_socket(connected):
    client, server = connected()
    send_all(client, b"0123456789")
    assert server.pending() == 0
    assert receive(server, 4) == b"0123"
    assert server.pending() == 6
    assert receive(server) == b"456789"
    assert server.pending() == 0


def test_a_whole_record_never_hides_behind_an_idle_socket(connected):
    client, server = connected()
    send_all(client, b"first")
    send_all(client, b"second")
    assert receive(server) == b"first"
    assert server.pending() == 0
    assert select.select([server], [], [], 0)[0] == [server]


def test_full_records_are_read_together_as_far_as_there_is_room(connected):
    client, server = connected()
    data = os.urandom(40000)
    send_all(client, data)
    assert receive(server, 20000) == data[:20000]
    assert server.pending() == 2 * 16384 - 20000
    # The rest of a record is not full, so it comes alone.
    assert receive(server) == data[20000:32768]
    assert receive(server) == data[32768:]
    send_all(client, data)
    assert receive(server) == data
    assert server.pending() == 0


def test_the_end_behind_a_full_record_comes_after_it(connected):
    client, server = connected()
    send_all(client, bytes(16384))
    client.shutdown_write()
    assert receive(server) == bytes(16384)
    assert receive(server) == receive(server) == b""


def test_a_failure_behind_a_full_record_comes_after_it(connected):
    client, server = connected()
    send_all(client, bytes(16384))
    client._sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert receive(server) == bytes(16384)
    with pytest.raises(ConnectionResetError, match="bad record mac"):
        server.recv_into(memoryview(bytearray(10)))
    with pytest.raises(OSError):
        server.recv_into(memoryview(bytearray(10)))


def test_reading_an_empty_stream_would_block(connected):
    client, _ = connected()
    with pytest.raises(BlockingIOError):
        client.recv_into(memoryview(bytearray(10)))
    assert client.wants == select.POLLIN


def test_empty_buffers_move_nothing_and_break_nothing(connected):
    client, server = connected()
    empty = memoryview(bytearray())
    assert client.recv_into(empty) == 0
    assert client.send(empty) == 0
    send_all(client, b"still here")
    assert server.recv_into(empty) == 0
    assert receive(server) == b"still here"


def test_a_buffer_longer_than_a_c_int_is_used_in_part(connected):
    client, server = connected()
    with mmap.mmap(-1, 2**31 + 1) as mapping, memoryview(mapping) as buffer:
        assert client.send(buffer) == 16384
        assert server.recv_into(buffer) == 16384


def test_never_writes_through_a_read_only_buffer(connected):
    client, _ = connected()
    with pytest.raises(TypeError):
        client.recv_into(memoryview(b"constant"))


@pytest.mark.parametrize("tcp", [False, True])
def test_a_big_transfer_both_ways_at_once_arrives_whole(connected, tcp):
    client, server = connected(tcp=tcp)
    data = {stream: bytes([seed]) + bytes(range(251)) * 16000 for seed, stream in enumerate((client, server))}
    views = {stream: memoryview(sent) for stream, sent in data.items()}
    got = {client: bytearray(), server: bytearray()}
    buffer = memoryview(bytearray(30000))
    blocked = 0
    poll = select.poll()
    for stream in data:
        poll.register(stream, select.POLLIN | select.POLLOUT)
    while any(len(received) < len(data[client]) for received in got.values()):
        # One end is slower than the other, so that its peer meets a full socket.
        for stream, sends in ((client, 40), (server, 3)):
            with contextlib.suppress(BlockingIOError):
                for _ in range(sends):
                    try:
                        views[stream] = views[stream][stream.send(views[stream]) :]
                    except BlockingIOError:
                        blocked += 1
                        break
            with contextlib.suppress(BlockingIOError):
                for _ in range(4):
                    got[stream] += buffer[: stream.recv_into(buffer)]
        assert poll.poll(WAIT_S * 1000)
    assert got[client] == data[server]
    assert got[server] == data[client]
    assert blocked


def fill(stream, chunk):
    """Send until the socket is full; return how many bytes were taken."""
    taken = 0
    while True:
        try:
            taken += stream.send(chunk)
        except BlockingIOError:
            assert stream.wants == select.POLLOUT
            return taken


def drain(stream, count):
    received = bytearray()
    while len(received) < count:
        received += receive(stream, min(65536, count - len(received)))
    return bytes(received)


@pytest.mark.parametrize("repeat", [1, 100, 5000, 20000])
def test_a_refused_send_may_be_repeated_with_more_or_fewer_bytes(connected, repeat):
    client, server = connected()
    chunk = memoryview(bytes(range(250)) * 20)
    taken = fill(client, chunk)
    rest = bytes(chunk) * 4
    with pytest.raises(BlockingIOError):
        client.send(memoryview(rest)[:repeat])
    sender = in_thread(lambda: [send_all(client, rest[at : at + repeat]) for at in range(0, len(rest), repeat)])
    assert drain(server, taken) == (bytes(chunk) * (taken // len(chunk) + 1))[:taken]
    assert drain(server, len(rest)) == rest
    sender()


def test_a_refused_send_that_is_replaced_is_an_error_and_not_a_mixture(connected):
    client, server = connected()
    taken = fill(client, memoryview(bytes(5000)))
    drain(server, taken)
    with pytest.raises(ConnectionAbortedError, match="not repeated"):
        client.send(memoryview(b"\1" * 5000))


def test_close_notify_ends_one_direction_and_leaves_the_other(connected):
    client, server = connected(tcp=True)
    send_all(client, b"last request")
    client.shutdown_write()
    client.shutdown_write()
    assert receive(server) == b"last request"
    assert receive(server) == b""
    assert receive(server) == b""
    send_all(server, b"answer" * 10000)
    server.shutdown_write()
    assert drain(client, 60000) == b"answer" * 10000
    assert receive(client) == b""


def test_sending_after_close_notify_is_a_broken_pipe(connected):
    client, server = connected()
    client.shutdown_write()
    with pytest.raises(BrokenPipeError, match="after close_notify"):
        client.send(memoryview(b"too late"))
    send_all(server, b"still heard")
    assert receive(client) == b"still heard"


def test_a_record_still_held_goes_before_close_notify(connected):
    client, server = connected()
    taken = fill(client, memoryview(bytes(5000)))
    with pytest.raises(BlockingIOError):
        client.shutdown_write()
    assert client.wants == select.POLLOUT
    drain(server, taken)
    client.shutdown_write()
    assert drain(server, 5000) == bytes(5000)
    assert receive(server) == b""


def test_close_says_goodbye_and_closes_the_socket(connected):
    client, server = connected(tcp=True)
    send_all(server, b"unread")
    client.close()
    assert client.fileno() == -1
    assert receive(server) == b""
    # Not a reset, which could destroy what the peer has not read.
    assert server._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_close_works_in_every_state(sockets, authority, credential):
    a, b = sockets()
    client, server = client_on(a, authority), server_on(b, credential)
    client.handshake()
    client.close()
    server.close()
    assert a.fileno() == b.fileno() == -1


def test_an_end_without_close_notify_is_a_truncation(connected):
    client, server = connected()
    send_all(client, b"the first half")
    client._sock.shutdown(socket.SHUT_WR)
    assert receive(server) == b"the first half"
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            receive(server)


def test_bytes_changed_on_the_way_are_refused(connected):
    client, server = connected()
    send_all(client, b"to be changed")
    record = bytearray(server._sock.recv(1000))
    record[-1] ^= 1
    client._sock.send(record)
    with pytest.raises(ConnectionResetError, match=r"bad record mac|decryption failed"):
        receive(server)
    server.close()
    with pytest.raises(ConnectionResetError, match="alert: bad record mac"):
        receive(client)


def test_sending_to_a_peer_that_has_gone_is_an_error_of_the_socket(connected):
    client, server = connected()
    server._sock.close()
    with pytest.raises(BrokenPipeError):
        fill(client, memoryview(bytes(5000)))
    client.close()


def test_failures_of_one_connection_do_not_leak_into_the_next(connected, sockets, credential):
    _, server = connected()
    a, b = sockets()
    a.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(TransportError):
        server_on(b, credential).handshake()
    with pytest.raises(BlockingIOError):
        server.recv_into(memoryview(bytearray(10)))


def test_a_stream_is_only_as_big_as_its_slots():
    assert not hasattr(TlsStream.__new__(TlsStream), "__dict__")
