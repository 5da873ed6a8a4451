# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 on a connected, non-blocking socket.

`ServerTls` and `ClientTls` hold what all connections of one Enarx.toml entry share; each makes a `TlsStream` from a
socket. A stream never waits: what cannot go on raises BlockingIOError (or returns False from `handshake`) and `wants` says
what to poll the socket for. This module knows nothing of WASI and the overlay, and never reads a certificate's meaning:
OpenSSL judges chains and names, and what else a peer has to be is for the `judge_peer` that an end is given. It is asked
while OpenSSL verifies, so a peer that it refuses is told by an alert, as for any other certificate.

What an end shows can change while it is used: a connection shows what is the newest when it begins.

Contexts are set up through pyOpenSSL. Bytes go directly through the C functions underneath, because pyOpenSSL's
`recv_into` copies through a buffer that it allocates: for 100-byte messages the direct calls save a fifth of a send, a
quarter of a receive and a seventh of a would-block. The same private table holds what pyOpenSSL does not offer: groups,
host name verification, the time to verify at, and which alert a refusal is. It is named once, in `_lib` and `_ffi`, and a test compares what is used
of it with the installed version.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags

from enarx.crypto.x509 import Credential
from enarx.errors import ConfigError, EnarxError, TransportError

__all__ = ["ClientTls", "ServerTls", "TlsStream"]

# The hybrid first: whoever records today's traffic needs to break both halves.
GROUPS = b"X25519MLKEM768:X25519:P-256:P-384"
SUITES = b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
# End entity, three issuers and a root are more than any public chain.
MAX_CHAIN_DEPTH = 8
# One TLS record, the most that OpenSSL takes at a time (RFC 8446 section 5.1).
MAX_RECORD_BYTES = 16384
# What OpenSSL's lengths, which are C ints, can express; a guest's can be longer.
MAX_CALL_BYTES = 2**31 - 1

_ffi = SSL._ffi  # type: ignore[attr-defined]
_lib = SSL._lib  # type: ignore[attr-defined]
_from_buffer = _ffi.from_buffer
_read = _lib.SSL_read
_write = _lib.SSL_write
_pending = _lib.SSL_pending
_get_error = _lib.SSL_get_error
_next_error = _lib.ERR_get_error
_do_handshake = _lib.SSL_do_handshake
_send_close_notify = _lib.SSL_shutdown
_WANT_READ = _lib.SSL_ERROR_WANT_READ
_WANT_WRITE = _lib.SSL_ERROR_WANT_WRITE
_ZERO_RETURN = _lib.SSL_ERROR_ZERO_RETURN
_SYSCALL = _lib.SSL_ERROR_SYSCALL
# Attributes of modules cost as much as the rest of a would-block.
_EAGAIN = errno.EAGAIN
_POLLIN = select.POLLIN

# The one by which OpenSSL sends the alert bad_certificate; it has none for access_denied (RFC 8446 section 6.2).
_REJECTED = _lib.X509_V_ERR_CERT_REJECTED

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATES = frozenset((9, 10))

_NO_COMMON_VERSION = "found a peer without TLS 1.3, want TLS 1.3"
_NOT_TLS = "found bytes that are not TLS, want TLS 1.3"
_VERIFY_FAILED = "certificate verify failed"
_NO_CERTIFICATE = "found no client certificate, want one"
_ALERT = "peer refused with the alert: "
# By their names in OpenSSL: what a peer says that does not accept what it was shown. Before its alert came, the handshake was over here.
_ABOUT_CERTIFICATES = (
    "bad certificate",
    "unsupported certificate",
    "certificate revoked",
    "certificate expired",
    "certificate unknown",
    "certificate required",
    "unknown ca",
    "access denied",
)
_CLOSED = "peer closed the connection without close_notify"
# OpenSSL's reasons that do not tell a user what to change.
_REASONS = {
    # Says more than what failed in it; which certificate it was, and why, is in the verdict.
    _VERIFY_FAILED: _VERIFY_FAILED,
    "http request": "found plain HTTP, want TLS",
    "https proxy request": "found a plain HTTP proxy request, want TLS",
    "no suitable key share": "found no common key-exchange group, want one of " + GROUPS.decode(),
    "no suitable groups": "found no common key-exchange group, want one of " + GROUPS.decode(),
    "no shared cipher": "found no common cipher suite, want one of " + SUITES.decode(),
    "packet length too long": _NOT_TLS,
    "peer did not return a certificate": _NO_CERTIFICATE,
    "unexpected eof while reading": _CLOSED,
    "unsupported protocol": _NO_COMMON_VERSION,
    "wrong ssl version": _NO_COMMON_VERSION,
    "wrong version number": _NOT_TLS,
}


Credentials = Credential | Callable[[], Credential]
"""What an end shows, or what returns it: the same object as long as it is the newest, since it is asked for each connection."""


class ServerTls:
    """The accepting end of one `listen` entry.

    Args:
        credential: what it shows.
        client_auth: `none` does not ask clients for a certificate, `optional` verifies one that is shown, `required`
            refuses clients without.
        trust_anchors: certificates that client chains may end in, roots or not; wanted exactly where clients are asked.
        alpn: protocols in order of preference; a client that offers some, but none of these, is refused (RFC 7301).
            Empty: the extension is ignored.
        verify_at: returns the Unix time at which a client's chain must be valid; None is this machine's clock.
        judge_peer: is given the certificate of each client, verified, and raises TransportError for one that is not welcome;
            wanted only where clients have to show one.
        tell: is given one line for each client whose certificate is refused here, or that refuses this end's after the handshake.

    Raises:
        ConfigError: OpenSSL refuses the credential, or client_auth and the others contradict each other.
    """

    def __init__(
        self,
        credential: Credentials,
        *,
        client_auth: str = "none",
        trust_anchors: Sequence[x509.Certificate] = (),
        alpn: Sequence[str] = (),
        verify_at: Callable[[], int] | None = None,
        judge_peer: Callable[[bytes], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        modes = {
            "none": SSL.VERIFY_NONE,
            "optional": SSL.VERIFY_PEER,
            "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
        }
        if client_auth not in modes:
            raise ConfigError(
                f"client authentication: found {client_auth!r}, want none, optional or required", key="tls"
            )
        if (client_auth != "none") != bool(trust_anchors):
            found = "trust anchors" if trust_anchors else "no trust anchors"
            raise ConfigError(
                f"client authentication {client_auth}: found {found}, want them where clients are asked", key="tls"
            )
        if judge_peer is not None and client_auth != "required":
            raise ConfigError(
                f"client authentication {client_auth}: found rules for peers, want it required with them", key="tls"
            )

        def make(shown: Credential) -> SSL.Context:
            context = _context(SSL.TLS_SERVER_METHOD, modes[client_auth])
            try:
                _use_credential(context, shown)
                _trust(context, trust_anchors)
                for anchor in trust_anchors:
                    context.add_client_ca(anchor)
            except SSL.Error as error:
                raise ConfigError(f"tls server certificate: {_drained(error)}", key="tls") from error
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
            if alpn:
                _choose_alpn(context, [protocol.encode("ascii") for protocol in alpn])
            return context

        self._newest = _Newest(credential, make)
        self._verify_at = verify_at
        self._judge_peer = judge_peer
        self._tell = tell

    def stream(self, sock: socket.socket, *, peer: str) -> TlsStream:
        """Put the server's end on an accepted socket, without talking yet.

        Args:
            sock: connected and non-blocking; the stream owns it from now on.
            peer: the client as messages should name it.
        """
        connection = SSL.Connection(self._newest.context(), sock)
        connection.set_accept_state()
        _judge_at(connection, self._verify_at)
        return TlsStream(connection, sock, peer, judge_peer=self._judge_peer, tell=self._tell)


class ClientTls:
    """The connecting end of `connect` entries and outgoing HTTP.

    Args:
        credential: what it shows to a server that asks, or None for nothing.
        trust_anchors: certificates that server chains must end in, roots or not; None is Mozilla's, from `certifi`.
        alpn: protocols to offer, in order of preference.
        verify_at: returns the Unix time at which a server's chain must be valid; None is this machine's clock.
        judge_peer: is given the certificate of each server, verified, and raises TransportError for one that is not wanted.
        tell: is given one line for each server that refuses what this end showed, which comes after the handshake.

    Raises:
        ConfigError: OpenSSL refuses the credential or an anchor, or there is none.
    """

    def __init__(
        self,
        credential: Credentials | None,
        *,
        trust_anchors: Sequence[x509.Certificate] | None = None,
        alpn: Sequence[str] = (),
        verify_at: Callable[[], int] | None = None,
        judge_peer: Callable[[bytes], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if trust_anchors is not None and not trust_anchors:
            raise ConfigError("tls trust anchors: found none, want at least one certificate", key="tls")

        def make(shown: Credential | None) -> SSL.Context:
            context = _context(SSL.TLS_CLIENT_METHOD, SSL.VERIFY_PEER)
            try:
                if shown is not None:
                    _use_credential(context, shown)
                if trust_anchors is None:
                    import certifi

                    context.load_verify_locations(certifi.where())
                else:
                    _trust(context, trust_anchors)
            except SSL.Error as error:
                raise ConfigError(f"tls client certificate or trust anchor: {_drained(error)}", key="tls") from error
            if alpn:
                context.set_alpn_protos([protocol.encode("ascii") for protocol in alpn])
            return context

        self._newest = _Newest(credential, make)
        self._verify_at = verify_at
        self._judge_peer = judge_peer
        self._tell = tell

    def stream(self, sock: socket.socket, *, host: str, peer: str) -> TlsStream:
        """Put the client's end on a connected socket, without talking yet.

        Args:
            sock: connected and non-blocking; the stream owns it from now on.
            host: whom the server's certificate must name: a DNS name, also sent as SNI, or an address, which is not.
            peer: the server as messages should name it.

        Raises:
            TransportError: `host` can be neither.
        """
        connection = SSL.Connection(self._newest.context(), sock)
        connection.set_connect_state()
        _judge_at(connection, self._verify_at)
        _expect_host(connection, host.removeprefix("[").removesuffix("]"))
        return TlsStream(connection, sock, peer, host=host, judge_peer=self._judge_peer, tell=self._tell)


class _Newest:
    """The context for what is the newest to show, made again where that has changed.

    Args:
        credential: as the ends have it.
        make: a context; it raises ConfigError.
    """

    __slots__ = ("_ask", "_made", "_make")

    def __init__(self, credential: Credentials | None, make: Callable[[Any], SSL.Context]) -> None:
        self._ask = credential if callable(credential) else None
        self._make = make
        shown = credential() if callable(credential) else credential
        # Together, so that another thread has both or neither.
        self._made = (shown, make(shown))

    def context(self) -> SSL.Context:
        if self._ask is None:
            return self._made[1]
        try:
            newest = self._ask()
        except EnarxError:
            # What was shown until now is as good as it was.
            return self._made[1]
        shown, context = self._made
        if newest is not shown:
            with contextlib.suppress(ConfigError):
                context = self._make(newest)
            self._made = (newest, context)
        return context


class TlsStream:
    """One TLS connection; `wants` is what to poll its socket for after it could not go on.

    `handshake` comes first and until it returns True nothing else but `close`. After `close` nothing may be called. One
    thread at a time may use a stream. OpenSSL writes with write(2), so the process must ignore SIGPIPE, as Python does.
    Buffers are contiguous memoryviews of bytes, `cast("B")`.
    """

    __slots__ = (
        "_connection", "_failure", "_held", "_host", "_peer", "_ready", "_said_goodbye", "_sent", "_sock", "_ssl", "_tell", "_verdict", "wants",
    )  # fmt: skip

    def __init__(
        self,
        connection: SSL.Connection,
        sock: socket.socket,
        peer: str,
        *,
        host: str | None = None,
        judge_peer: Callable[[bytes], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.wants = select.POLLIN
        self._connection = connection
        self._ssl = connection._ssl
        self._sock = sock
        self._peer = peer
        self._host = host
        self._verdict = _Verdict(judge_peer)
        _verdicts[_address_of(self._ssl)] = self._verdict
        self._tell = tell
        self._ready = False
        self._said_goodbye = False
        # Bytes of a send that would have blocked, and whether their record has left since: see `send`.
        self._held = b""
        self._sent = False
        # Of a connection that failed behind what was received: nobody was told yet.
        self._failure: OSError | None = None

    def handshake(self) -> bool:
        """Take the handshake as far as it goes.

        Returns:
            True when it is complete; False when the socket must first be ready for `wants`.

        Raises:
            TransportError: it failed; the message has the reason, and the peer was sent an alert. Only `close` may follow.
        """
        result = _do_handshake(self._ssl)
        if result == 1:
            self._require_judged()
            self._ready = True
            return True
        number = _ffi.errno
        error = _get_error(self._ssl, result)
        if error in {_WANT_READ, _WANT_WRITE}:
            self.wants = select.POLLIN if error == _WANT_READ else select.POLLOUT
            return False
        found = _reason(number if error == _SYSCALL else 0)
        reason, hint = self._why_refused(found)
        text = f"handshake with {self._peer} failed: {reason}"
        if self._tell is not None and self._host is None and found in {_VERIFY_FAILED, _NO_CERTIFICATE}:
            # Who accepts goes on, and nobody else would hear of it; who connects hears of it as an error.
            self._tell(text)
        raise TransportError(text, hint=hint)

    def _require_judged(self) -> None:
        """Return only if the certificate that the peer has now is the one that was judged, where one has to be."""
        verdict = self._verdict
        if verdict.judge is not None and (verdict.judged is None or verdict.judged != self.peer_certificate_der()):
            raise TransportError(
                f"handshake with {self._peer} failed: found a certificate that was not judged, want none"
            )

    def handshake_within(self, timeout_s: float) -> None:
        """Complete the handshake, waiting for the peer.

        Raises:
            TransportError: it failed or took longer.
        """
        deadline_s = time.monotonic() + timeout_s
        poll = select.poll()
        while not self.handshake():
            left_s = deadline_s - time.monotonic()
            poll.register(self._sock, self.wants)
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TransportError(
                    f"handshake with {self._peer} failed: found no answer, want one within {timeout_s:g} s",
                    hint="a peer that does not speak TLS waits too: check the port and prot",
                )

    def recv_into(self, buffer: memoryview) -> int:
        """Receive decrypted bytes into a writable buffer.

        Returns:
            How many; 0 when the peer has said close_notify, or for an empty buffer.

        Raises:
            BlockingIOError: nothing there yet.
            ConnectionResetError: the peer sent an alert, or its end of the stream came without close_notify.
            OSError: the socket failed.
        """
        # The C call would write through a read-only view.
        if buffer.readonly:
            raise TypeError("recv_into needs a writable buffer")
        try:
            count: int = _read(self._ssl, _from_buffer(buffer), len(buffer))
        except OverflowError:
            return self.recv_into(buffer[:MAX_CALL_BYTES])
        if count > 0:
            # A full record is seldom the last one, and a call costs as much as its decryption.
            return self._receive_on(buffer, count) if count == MAX_RECORD_BYTES else count
        return self._not_transferred(count) if buffer else 0

    def _receive_on(self, buffer: memoryview, count: int) -> int:
        """Fill a buffer on with the records that are there, and return how much is in it."""
        end = len(buffer)
        while count < end:
            more: int = _read(self._ssl, _from_buffer(buffer[count:]), end - count)
            if more <= 0:
                # `wants` is of what could not go on, and this did.
                if _get_error(self._ssl, more) not in {_WANT_READ, _WANT_WRITE}:
                    try:
                        self._not_transferred(more)
                    except OSError as failure:
                        # What came before it is received first.
                        self._failure = failure
                break
            count += more
        return count

    def send(self, buffer: memoryview) -> int:
        """Encrypt and send bytes of a buffer.

        OpenSSL cannot take back a record that the socket did not take whole. So after BlockingIOError the next call must
        begin with the same bytes, up to one record of them, as every program that retries does; how many more or fewer
        there are does not matter.

        Returns:
            How many, at most 16384; 0 only for an empty buffer.

        Raises:
            BlockingIOError: the socket is full.
            ConnectionAbortedError: other bytes than the ones that could not be sent before.
            BrokenPipeError: after `shutdown_write`, or the peer has gone.
            OSError: the socket failed.
        """
        if self._held:
            return self._send_held(buffer)
        try:
            count: int = _write(self._ssl, _from_buffer(buffer), len(buffer))
        except OverflowError:
            return self.send(buffer[:MAX_CALL_BYTES])
        if count > 0:
            return count
        if not buffer:
            return 0
        try:
            return self._not_transferred(count)
        except BlockingIOError:
            self._held = bytes(buffer[:MAX_RECORD_BYTES])
            raise

    def pending(self) -> int:
        """Count the bytes that `recv_into` would return without reading the socket.

        Read-ahead is off, so OpenSSL never holds a whole record it has not decrypted: when this is 0, polling the socket
        misses nothing.
        """
        count: int = _pending(self._ssl)
        return count

    def shutdown_write(self) -> None:
        """Say close_notify, then end the TCP stream in this direction; receiving goes on.

        Raises:
            BlockingIOError: the socket is full; call again.
            OSError: the socket failed.
        """
        self._say_goodbye()
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Say close_notify if the socket takes it at once, and close the socket."""
        # Best effort by contract: whoever closes does not want to hear of a peer that has gone.
        with contextlib.suppress(OSError):
            self.shutdown_write()
        # Linux answers a close with unread bytes (a session ticket, the peer's close_notify) by a reset, which can
        # destroy what the peer has not read yet.
        with contextlib.suppress(OSError):
            self._sock.recv(65536)
        self._ssl = None
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for polling."""
        return self._sock.fileno()

    def group(self) -> str | None:
        """Return the name of the negotiated key-exchange group, as OpenSSL writes it, or None before the handshake."""
        return self._connection.get_group_name() if self._ready else None

    def alpn(self) -> str | None:
        """Return the negotiated application protocol, or None."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def peer_certificate_der(self) -> bytes | None:
        """Return the peer's end-entity certificate, which is verified where verification was asked for, or None."""
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    def _not_transferred(self, result: int) -> int:
        """Turn the result of a read or write that moved nothing into 0 for an orderly end, or an OSError."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            _drained()
            raise failure
        error = _get_error(self._ssl, result)
        if error == _WANT_READ:
            self.wants = _POLLIN
            raise BlockingIOError(_EAGAIN, "would block")
        if error == _WANT_WRITE:
            self.wants = select.POLLOUT
            raise BlockingIOError(_EAGAIN, "would block")
        if error == _ZERO_RETURN:
            return 0
        # No close_notify after a failure: there is nobody to tell, or an alert has said more.
        self._said_goodbye = True
        # The errno of the last call through this library; asking for the kind of error leaves it alone.
        number = _ffi.errno
        if error == _SYSCALL and number:
            _drained()
            raise OSError(number, os.strerror(number))
        reason = _reason(0)
        if reason == "protocol is shutdown":
            raise BrokenPipeError(errno.EPIPE, "sent after close_notify")
        if self._tell is not None and reason.removeprefix(_ALERT) in _ABOUT_CERTIFICATES:
            # A guest sees a connection that is reset, and nothing of why.
            self._tell(f"connection with {self._peer} failed: {reason}; its own log says why")
        raise ConnectionResetError(errno.ECONNRESET, reason)

    def _send_held(self, buffer: memoryview) -> int:
        """Go on with a send that would have blocked, then count its bytes as the caller repeats them."""
        if not self._sent:
            count: int = _write(self._ssl, self._held, len(self._held))
            if count <= 0:
                return self._not_transferred(count)
            self._held = self._held[:count]
            self._sent = True
        repeated = min(len(buffer), len(self._held))
        if buffer[:repeated] != self._held[:repeated]:
            raise ConnectionAbortedError(errno.ECONNABORTED, "a send that would have blocked was not repeated")
        self._held = self._held[repeated:]
        if not self._held:
            self._sent = False
        return repeated

    def _say_goodbye(self) -> None:
        if self._said_goodbye or not self._ready:
            return
        if self._held and not self._sent:
            # The alert must not overtake the record.
            count = _write(self._ssl, self._held, len(self._held))
            if count <= 0:
                self._not_transferred(count)
            self._sent = True
        # 0: sent, and the peer's own is still to come. A second call would wait for that one.
        result = _send_close_notify(self._ssl)
        if result < 0:
            self._not_transferred(result)
        self._said_goodbye = True

    def _why_refused(self, reason: str) -> tuple[str, str | None]:
        """Say more than OpenSSL's reason where it was this end that refused a certificate: the reason and a hint."""
        if reason != _VERIFY_FAILED:
            return reason, None
        if (refusal := self._verdict.refusal) is not None:
            return str(refusal), refusal.hint
        code = _lib.SSL_get_verify_result(self._ssl)
        verdict = _ffi.string(_lib.X509_verify_cert_error_string(code)).decode("ascii", "replace").lower()
        if "mismatch" in verdict:
            return f"certificate does not name {self._host}", "connect by a name that the certificate has"
        if (dates := self._verdict.dates) is not None:
            return f"{verdict} ({dates})", "is the clock of this end right, and that of the peer?"
        if "issuer" in verdict or "self-signed" in verdict:
            return (
                f"certificate has no trusted issuer ({verdict})",
                "name the issuer's certificate as a trust anchor in [tls]",
            )
        return verdict, None


def _context(method: int, verify_mode: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(SUITES)
    # No resumption: a ticket would outlive the check of the client's certificate.
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | _lib.SSL_OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify_depth(MAX_CHAIN_DEPTH)
    pointer = context._context
    _lib.SSL_CTX_set_verify(pointer, verify_mode, _ffi.NULL if verify_mode == SSL.VERIFY_NONE else _verify)
    if _lib.SSL_CTX_set1_curves_list(pointer, GROUPS) != 1:
        raise ConfigError(f"tls groups: {_reason(0)}: found an OpenSSL without one of {GROUPS.decode()}")
    parameters = _lib.SSL_CTX_get0_param(pointer)
    # A listed certificate is trusted for being listed, whether it is a root or not.
    _lib.X509_VERIFY_PARAM_set_flags(parameters, X509StoreFlags.PARTIAL_CHAIN)
    return context


class _Verdict:
    """What is found of a peer's certificate while OpenSSL verifies it.

    Args:
        judge: as the ends have it, or None.

    Attributes:
        judged: the certificate that it accepted, in DER.
        refusal: what it said of the one that it refused.
        dates: of a certificate that was refused for them.
    """

    __slots__ = ("__weakref__", "dates", "judge", "judged", "refusal")

    def __init__(self, judge: Callable[[bytes], None] | None) -> None:
        self.judge = judge
        self.judged: bytes | None = None
        self.refusal: TransportError | None = None
        self.dates: str | None = None


# By the addresses of their connections, which OpenSSL says; those of a stream that is gone are gone with it.
_verdicts: WeakValueDictionary[int, _Verdict] = WeakValueDictionary()


def _address_of(ssl: object) -> int:
    return int(_ffi.cast("uintptr_t", ssl))


def _look(accepted: int, store: object) -> int:
    """Look at a certificate of a chain with OpenSSL's verdict on it, and return ours: what is refused stays so.

    Whatever fails here is a refusal.
    """
    ssl = _lib.X509_STORE_CTX_get_ex_data(store, _lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    verdict = _verdicts.get(_address_of(ssl))
    code = _lib.X509_STORE_CTX_get_error(store)
    if verdict is None:
        return 0
    if not accepted:
        if code in _DATES:
            # One that OpenSSL reads and `cryptography` does not has no dates that could be shown.
            with contextlib.suppress(ValueError, TypeError, x509.InvalidVersion):
                verdict.dates = _dates_of(_current(store))
        return 0
    if verdict.judge is not None and _lib.X509_STORE_CTX_get_error_depth(store) == 0:
        try:
            certificate = _current(store).public_bytes(Encoding.DER)
            verdict.judge(certificate)
        except TransportError as error:
            # Its frames hold the verdict: what refers to itself would stay until Python looks for such things.
            verdict.refusal = error.with_traceback(None)
        except (ValueError, TypeError, x509.InvalidVersion):
            verdict.refusal = TransportError("certificate cannot be read, want that of a peer")
        else:
            verdict.judged = certificate
            return 1
        _lib.X509_STORE_CTX_set_error(store, _REJECTED)
        return 0
    return 1


# OpenSSL keeps a pointer to it, so it must live for ever.
_verify = _ffi.callback("int(int, X509_STORE_CTX *)", _look, error=0)


def _current(store: object) -> x509.Certificate:
    pointer = _lib.X509_STORE_CTX_get_current_cert(store)
    # What pyOpenSSL makes of it gives a reference back.
    _lib.X509_up_ref(pointer)
    return X509._from_raw_x509_ptr(pointer).to_cryptography()


def _dates_of(certificate: x509.Certificate) -> str:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"it is valid from {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"


def _judge_at(connection: SSL.Connection, verify_at: Callable[[], int] | None) -> None:
    """Have the peer's chain judged at the time that it is now, where that is not this machine's word."""
    if verify_at is not None:
        _lib.X509_VERIFY_PARAM_set_time(_lib.SSL_get0_param(connection._ssl), verify_at())


def _use_credential(context: SSL.Context, credential: Credential) -> None:
    context.use_certificate(credential.chain[0])
    for issuer in credential.chain[1:]:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(credential.private_key)
    context.check_privatekey()


def _trust(context: SSL.Context, anchors: Sequence[x509.Certificate]) -> None:
    store = context.get_cert_store()
    if store is not None:
        for anchor in anchors:
            store.add_cert(X509.from_cryptography(anchor))


def _choose_alpn(context: SSL.Context, preferred: list[bytes]) -> None:
    """Choose the first of our protocols that a client offers, and end the handshake when it offers others only.

    pyOpenSSL's own callback can refuse only with an alert that means a broken server.
    """
    # OpenSSL keeps a pointer into the choice, so it must live as long as the context.
    choices = {protocol: _ffi.from_buffer("unsigned char[]", protocol) for protocol in preferred}

    def choose(_ssl: object, out: list[object], out_length: list[int], offer: object, length: int, _arg: object) -> int:
        rest = bytes(_ffi.buffer(offer, length))
        offered = set()
        while rest:
            offered.add(rest[1 : 1 + rest[0]])
            rest = rest[1 + rest[0] :]
        for protocol, choice in choices.items():
            if protocol in offered:
                out[0], out_length[0] = choice, len(protocol)
                return int(_lib.SSL_TLSEXT_ERR_OK)
        return int(_lib.SSL_TLSEXT_ERR_ALERT_FATAL)

    callback = _ffi.callback(
        "int(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
        choose,
        error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL,
    )
    context.set_app_data(callback)
    _lib.SSL_CTX_set_alpn_select_cb(context._context, callback, _ffi.NULL)


def _expect_host(connection: SSL.Connection, host: str) -> None:
    """Make OpenSSL verify the server's certificate against this name or address, by subject alternative names only."""
    ssl = connection._ssl
    parameters = _lib.SSL_get0_param(ssl)
    _lib.X509_VERIFY_PARAM_set_hostflags(
        parameters, _lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | _lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.inet_pton(family, host)
    except (OSError, ValueError):
        address = b""
    if address:
        accepted = _lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
    else:
        name = host.removesuffix(".").encode() if host.isascii() else b""
        # An empty name would switch the check off.
        accepted = name and b"\0" not in name and _lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
        if accepted == 1:
            connection.set_tlsext_host_name(name)
    if accepted != 1:
        raise TransportError(f"tls server name: found {host!a}, want a DNS name or an address")


def _drained(error: Exception | None = None) -> str:
    """Empty OpenSSL's queue for this thread and return the reason that says most, or an empty string.

    The queue must be empty before the next call, or that call's outcome would be read from it. Reasons that pyOpenSSL has
    already taken off are in its exception, as (library, function, reason).
    """
    reasons: list[str] = [str(entry[-1]) for entry in error.args[0]] if error is not None and error.args else []
    while code := _next_error():
        text = _lib.ERR_reason_error_string(code)
        if text != _ffi.NULL:
            reasons.append(_ffi.string(text).decode("ascii", "replace"))
    known = [reason for reason in reasons if reason in _REASONS]
    return (known or reasons or [""])[0]


def _reason(number: int) -> str:
    """Say in one phrase why a call failed: an alert, OpenSSL's reason, or an errno (0: none)."""
    found = _drained()
    if found in _REASONS:
        return _REASONS[found]
    _, alert, name = found.partition(" alert ")
    if alert:
        return _NO_COMMON_VERSION if name == "protocol version" else _ALERT + name
    return found or (os.strerror(number).lower() if number else _CLOSED)
