# SPDX-License-Identifier: Apache-2.0
"""The TLS 1.3 of a session, without I/O: bytes of the wire go in and come out, and so do those that it protects.

Rules of this file:

- One version, one group (X25519MLKEM768), one application protocol, a certificate at both ends: whoever wants it otherwise is
  refused, and before all of it was looked at not a byte of the peer's is given out or one of ours is taken.
- A certificate carries a key and nothing else. It is one, self-signed; its names, dates and extensions are not looked at.
  The handshake proves that the peer has the key; whose key it is, evidence or a deployment's record says.
- Nothing of a session outlives it: no tickets, no resumption, no early data.
- It knows nothing of messages and transports.

Like `enarx.runtime.tls` it calls through the private table of pyOpenSSL where that has no function: for the group, and because
its own `recv` would allocate for every record.

Source: docs/protocol.md, "The session's channel"; RFC 8446, RFC 9266.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from enarx.crypto.x509 import Credential
from enarx.errors import TransportError, UsageError, VerificationError

__all__ = ["ALPN", "EXPORTER_BYTES", "GROUP", "TlsEnd"]

ALPN = b"enarx-keep/1"
GROUP = "X25519MLKEM768"
SUITES = b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"

EXPORTER_BYTES = 32
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"
# Far above any certificate with one key and one signature of today, post-quantum ones included.
_MAX_LEAF_BYTES = 16384
# What is sent or comes at once, at most 512 KiB, with the overhead of its records: it is put together from parts only beyond it.
_BUFFER_BYTES = (512 + 32) << 10

_ffi = SSL._ffi  # type: ignore[attr-defined]
_lib = SSL._lib  # type: ignore[attr-defined]
_allocate = _ffi.new_allocator(should_clear_after_alloc=False)

_REASONS = {
    "no suitable key share": f"found no common key-exchange group, want {GROUP}",
    "no suitable groups": f"found no common key-exchange group, want {GROUP}",
    "peer did not return a certificate": "found no certificate of the peer, want one",
    "unsupported protocol": "found a peer without TLS 1.3, want TLS 1.3",
    "wrong ssl version": "found a peer without TLS 1.3, want TLS 1.3",
    "wrong version number": "found bytes that are not TLS, want TLS 1.3",
    "packet length too long": "found bytes that are not TLS, want TLS 1.3",
    "http request": "found plain HTTP, want TLS 1.3",
}


class TlsEnd:
    """One end of a session's TLS connection: the tenant's is the client, the Keep's the server.

    Give it what came by `receive`, send what `take_output` returns, after every call and before every wait. Until `established`
    is True, nothing can be read or written.
    """

    def __init__(self, credential: Credential, *, is_client: bool) -> None:
        connection = SSL.Connection(_context(credential, is_client=is_client), None)
        if is_client:
            connection.set_connect_state()
        else:
            connection.set_accept_state()
        self._is_client = is_client
        self._connection = connection
        self._buffer = _allocate("unsigned char[]", _BUFFER_BYTES)
        self._shows = memoryview(_ffi.buffer(self._buffer))
        self._error: tuple[type[TransportError | VerificationError], str] | None = None
        self.established = False
        """Whether the handshake is complete and the peer is as it must be."""
        self.ended = False
        """Whether the peer has said that it will send no more."""
        self.own_leaf = credential.chain[0].public_bytes(Encoding.DER)
        """The own certificate in DER."""
        self._peer_leaf = b""
        self._exporter = b""
        self._step()

    @classmethod
    def for_tenant(cls, credential: Credential) -> TlsEnd:
        """Return the client's end; its first message is there to be taken.

        Raises:
            UsageError: the credential is not one self-signed certificate and its key.
        """
        return cls(credential, is_client=True)

    @classmethod
    def for_keep(cls, credential: Credential) -> TlsEnd:
        """Return the server's end.

        Raises:
            UsageError: the credential is not one self-signed certificate and its key.
        """
        return cls(credential, is_client=False)

    @property
    def peer_leaf(self) -> bytes:
        """Return the peer's certificate in DER.

        Raises:
            UsageError: the connection is not established.
        """
        self._require_established()
        return self._peer_leaf

    @property
    def exporter(self) -> bytes:
        """Return the 32 bytes that tell this connection from every other one: RFC 9266, of the own completed handshake.

        They do not cover the client's certificate.

        Raises:
            UsageError: the connection is not established.
        """
        self._require_established()
        return self._exporter

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the wire, any number of them; go on with the handshake if it is not complete.

        Raises:
            TransportError: the peer has another version, group or application protocol, it refused us, or a record was not as
                it was sent.
            VerificationError: the peer's certificate is not one, or not self-signed. After either, send what `take_output`
                returns and give up: every further call says the same.
        """
        self._raise_error()
        if data:
            with _ffi.from_buffer(data) as view:
                # A BIO in memory grows, so it takes all or fails for want of memory.
                if _lib.BIO_write(self._connection._into_ssl, view, len(view)) != len(view):
                    raise self._fail(TransportError, "found no memory for what the peer sent")
        if not self.established:
            self._step()

    def read(self) -> bytes | memoryview:
        """Return what the peer sent and was received, all of it; nothing where no record is complete.

        What is returned is good until the next call.

        Raises:
            TransportError: a record was not as it was sent, or the peer sent an alert. What came before it was authentic and
                was dropped with it.
            UsageError: the connection is not established.
        """
        self._raise_error()
        self._require_established()
        ssl, buffer = self._connection._ssl, self._buffer
        parts = []
        held = 0
        # Each call returns one record.
        while (count := _lib.SSL_read(ssl, buffer + held, _BUFFER_BYTES - held)) > 0:
            held += count
            if held == _BUFFER_BYTES:
                parts.append(bytes(self._shows))
                held = 0
        error = _lib.SSL_get_error(ssl, count)
        if error == _lib.SSL_ERROR_ZERO_RETURN:
            self.ended = True
        elif error != _lib.SSL_ERROR_WANT_READ:
            raise self._fail(TransportError, _reason())
        last = self._shows[:held]
        return b"".join((*parts, last)) if parts else last

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Protect bytes; they are in what `take_output` returns.

        Raises:
            TransportError: this end was closed.
            UsageError: the connection is not established.
        """
        self._raise_error()
        self._require_established()
        if data:
            with _ffi.from_buffer(data) as view:
                if _lib.SSL_write(self._connection._ssl, view, len(view)) != len(view):
                    raise self._fail(TransportError, _reason())

    def take_output(self) -> bytes:
        """Return the bytes that must be sent to the peer, and forget them."""
        wire, buffer = self._connection._from_ssl, self._buffer
        parts = []
        while (count := _lib.BIO_read(wire, buffer, _BUFFER_BYTES)) > 0:
            parts.append(bytes(self._shows[:count]))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Say that nothing more will be sent. May be called at any time and again."""
        if self.established and self._error is None:
            _lib.SSL_shutdown(self._connection._ssl)
            _drain()

    def _step(self) -> None:
        """Take the handshake as far as it goes."""
        ssl = self._connection._ssl
        result = _lib.SSL_do_handshake(ssl)
        if result != 1:
            if _lib.SSL_get_error(ssl, result) != _lib.SSL_ERROR_WANT_READ:
                raise self._fail(TransportError, _reason())
            return
        connection = self._connection
        # The lists of what is offered leave no other outcome; what the session rests on is looked at all the same.
        for what, found, want in (
            ("version", connection.get_protocol_version_name(), "TLSv1.3"),
            ("group", connection.get_group_name(), GROUP),
            ("application protocol", connection.get_alpn_proto_negotiated().decode("ascii", "replace"), ALPN.decode()),
            ("resumption", str(_lib.SSL_session_reused(ssl)), "0"),
        ):
            if found != want:
                raise self._fail(TransportError, f"{what}: found {found or 'none'}, want {want}")
        self._peer_leaf = self._read_leaf()
        self._exporter = connection.export_keying_material(_EXPORTER_LABEL, EXPORTER_BYTES, b"")
        self.established = True

    def _read_leaf(self) -> bytes:
        """Return the peer's certificate, which is the only one it sent and signed by its own key."""
        # OpenSSL's list has the end entity's own certificate where the peer is the server.
        chain = self._connection.get_peer_cert_chain() or []
        others = len(chain) - 1 if self._is_client else len(chain)
        if others:
            raise self._fail(VerificationError, f"certificate of the peer: found {1 + others}, want one")
        try:
            leaf = self._connection.get_peer_certificate(as_cryptography=True)
            der = b"" if leaf is None else leaf.public_bytes(Encoding.DER)
            if leaf is None or len(der) > _MAX_LEAF_BYTES:
                raise self._fail(
                    VerificationError, f"certificate of the peer: found {len(der)} bytes, want 1 to {_MAX_LEAF_BYTES}"
                )
            leaf.verify_directly_issued_by(leaf)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            failure = self._fail(
                VerificationError, "certificate of the peer: found another issuer, want a self-signed one"
            )
            raise failure from error
        return der

    def _require_established(self) -> None:
        if not self.established:
            raise UsageError("session: found no completed handshake, want one first")

    def _raise_error(self) -> None:
        if self._error is not None:
            kind, message = self._error
            raise kind(message)

    def _fail(self, kind: type[TransportError | VerificationError], reason: str) -> TransportError | VerificationError:
        phase = "session" if self.established else "session: handshake"
        self.established = False
        self._error = kind, f"{phase}: {reason}"
        _drain()
        return kind(self._error[1])


# A Keep meets all its tenants with one credential, and making a context takes as long as half a handshake.
@lru_cache(maxsize=2)
def _context(credential: Credential, *, is_client: bool) -> SSL.Context:
    if len(credential.chain) != 1:
        raise UsageError(f"session: certificate: found {len(credential.chain)}, want one that signs itself")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD if is_client else SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(SUITES)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | _lib.SSL_OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # pyOpenSSL's default is for sockets; a BIO in memory takes whatever is written.
    context.clear_mode(_lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    # Every chain passes here: there is no issuer to judge by. That the peer has the key is proven all the same.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    if _lib.SSL_CTX_set1_curves_list(context._context, GROUP.encode()) != 1:
        _drain()
        raise UsageError(f"session: group: found an OpenSSL without {GROUP}, want 3.5 or later")
    try:
        context.use_certificate(credential.chain[0])
        context.use_privatekey(credential.private_key)
        context.check_privatekey()
    except SSL.Error as error:
        raise UsageError("session: certificate: found another key than its own, want its own") from error
    if is_client:
        context.set_alpn_protos([ALPN])
    else:
        context.set_alpn_select_callback(_choose_alpn)
    return context


def _choose_alpn(_connection: Any, offered: list[bytes]) -> Any:
    # Without a common one the handshake goes on without any, and is refused at its end like one that offers none.
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _drain() -> list[str]:
    """Empty OpenSSL's queue of this thread, or the next call's outcome would be read from it."""
    reasons = []
    while code := _lib.ERR_get_error():
        text = _lib.ERR_reason_error_string(code)
        if text != _ffi.NULL:
            reasons.append(_ffi.string(text).decode("ascii", "replace"))
    return reasons


def _reason() -> str:
    """Say in one phrase why a call failed."""
    found = _drain()
    for reason in found:
        if reason in _REASONS:
            return _REASONS[reason]
        _, alert, name = reason.partition(" alert ")
        if alert:
            return f"found the peer's alert: {name}, want none"
    return (
        f"found {found[0]}, want TLS 1.3 as the peer sent it" if found else "found the connection closed, want it open"
    )
