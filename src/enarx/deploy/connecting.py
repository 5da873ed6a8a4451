# SPDX-License-Identifier: Apache-2.0
"""TLS connections to services in Keeps: the handshake, then the verdict, and only then a byte of the application's.

    policy = KeepPolicy(steward_root=load_steward_root("root.pem"), package=bytes.fromhex("..."))
    with connect("keep.example", 443, policy) as secure:
        secure.sendall(...)

    context = keep_ssl_context(policy)          # for whatever takes an `ssl.SSLContext`: asyncio, http.client, httpx2, requests

Rules of this file:

- Whoever uses the standard library's `ssl` gets no connection on which something could be sent before the verdict: the check is part
  of `do_handshake`, and sending and receiving do a handshake that was not asked for.
- What is judged is the chain that the peer sent in this handshake, which proved that it has the leaf's key. A resumed session has
  no such proof and is refused. TLS 1.3 alone.
- Nothing that a library does to a context weakens the verdict: it looks at what the policy says and not at what the context trusts.
  OpenSSL's own verification is on beside it where there is a root.
- A refusal is an `ssl.SSLCertVerificationError`, so that libraries close the connection as they do for any other; its cause is the
  error of `enarx.errors`.

The standard library has shown the peer's chain since 3.13. Earlier versions have the same method on the object inside, under the same
name; a test looks whether it is there.
"""

from __future__ import annotations

import queue
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.x509 import MAX_PEM_BYTES, load_certificates
from enarx.deploy.presented import MAX_CHAIN_BYTES
from enarx.deploy.service_judge import JudgedService, KeepPolicy, ServiceJudge
from enarx.errors import EnarxError, TransportError, UsageError, VerificationError

if TYPE_CHECKING:
    from enarx.deploy.attesting import Fetch

__all__ = [
    "CONNECT_TIMEOUT_S",
    "JudgedService",
    "KeepPolicy",
    "KeepSSLContext",
    "RefusedServiceError",
    "connect",
    "fetch_chain",
    "keep_ssl_context",
    "load_steward_root",
]

CONNECT_TIMEOUT_S = 15.0
_MAX_ADDRESSES = 8
_DER = 2  # _ssl.ENCODING_DER

_NOT_TLS = "found bytes that are not TLS, want TLS 1.3"
_REASONS = {
    "EXCESSIVE_MESSAGE_SIZE": f"found certificates of more than {MAX_CHAIN_BYTES} bytes, want less",
    "HTTP_REQUEST": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": "found a peer without TLS 1.3, want TLS 1.3",
    "UNEXPECTED_MESSAGE": _NOT_TLS,
    "UNSUPPORTED_PROTOCOL": "found a peer without TLS 1.3, want TLS 1.3",
    "WRONG_VERSION_NUMBER": _NOT_TLS,
}


class RefusedServiceError(ssl.SSLCertVerificationError):
    """The handshake went well, and the verdict on what the service presented did not.

    Args:
        error: of `enarx.errors`; it is the cause as well.
    """

    def __init__(self, error: EnarxError) -> None:
        super().__init__(1, str(error))
        self.error = error


def load_steward_root(path: str) -> x509.Certificate:
    """Read a Steward's root certificate.

    Args:
        path: of a PEM file with one certificate.

    Raises:
        UsageError: it cannot be read, or has several.
        ConfigError: it has none.
    """
    try:
        with open(path, "rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the Steward's root: {path}: {error.strerror}") from error
    certificates = load_certificates(pem, path=path)
    if len(certificates) != 1:
        raise UsageError(
            f"cannot use the Steward's root: {path}: found {len(certificates)} certificates, want one",
            hint="root.pem of the Steward's folder has the one to trust, its own",
        )
    return certificates[0]


# --- Contexts --------------------------------------------------------------------------------------------------------


class _Judging:
    """What connections of both kinds do beside the standard library's: the verdict, once, before anything else."""

    _judged: JudgedService | None = None

    @property
    def judged(self) -> JudgedService:
        """Return what the service is.

        Raises:
            UsageError: there was no handshake yet.
        """
        if self._judged is None:
            raise UsageError("cannot say what the service is: found no completed handshake, want one first")
        return self._judged

    def _judge_peer(self) -> None:
        connection: Any = self
        context = connection.context
        judge = context.judge if isinstance(context, KeepSSLContext) else None
        try:
            if judge is None:
                raise UsageError("cannot judge a service: found a context without a policy, want keep_ssl_context's")
            if connection.version() != "TLSv1.3":
                raise TransportError(f"cannot judge a service: found {connection.version()}, want TLSv1.3")
            if connection.session_reused:
                raise TransportError(
                    "cannot judge a service: found a resumed session, want a handshake with certificates"
                )
            judged = judge.judge(_presented_chain(connection), server_name=connection.server_hostname)
            judged.require(connection.server_hostname or "the service")
        except EnarxError as error:
            raise RefusedServiceError(error) from error
        self._judged = judged


class KeepSSLSocket(_Judging, ssl.SSLSocket):
    """A TLS connection on a socket, which says and believes nothing before the verdict."""

    def do_handshake(self, block: bool = False) -> None:
        """Do the handshake, and judge.

        Raises:
            RefusedServiceError: the service is not the Keep that is wanted.
        """
        super().do_handshake(block)
        if self._judged is None:
            self._judge_peer()

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, after the verdict."""
        self._require_judged()
        return super().send(data, flags)

    def write(self, data: Any) -> int:
        """Send, after the verdict."""
        self._require_judged()
        return super().write(data)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Receive, after the verdict."""
        self._require_judged()
        return super().read(len, buffer)

    def _require_judged(self) -> None:
        if self._judged is None and self._sslobj is not None:  # type: ignore[attr-defined]
            self.do_handshake()


class KeepSSLObject(_Judging, ssl.SSLObject):
    """A TLS connection without a socket, likewise."""

    def do_handshake(self) -> None:
        """Do the handshake, and judge.

        Raises:
            RefusedServiceError: the service is not the Keep that is wanted.
        """
        super().do_handshake()
        if self._judged is None:
            self._judge_peer()

    def write(self, data: Any) -> int:
        """Send, after the verdict."""
        if self._judged is None:
            self.do_handshake()
        return super().write(data)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Receive, after the verdict."""
        if self._judged is None:
            self.do_handshake()
        return super().read(len, buffer)


class KeepSSLContext(ssl.SSLContext):
    """Makes connections that are judged; `keep_ssl_context` makes one. Without `judge` it refuses every service."""

    sslsocket_class = KeepSSLSocket
    sslobject_class = KeepSSLObject
    judge: ServiceJudge | None = None


def keep_ssl_context(
    policy: KeepPolicy, *, now: Callable[[], datetime] | None = None, fetch: Fetch | None = None
) -> KeepSSLContext:
    """Return a context for clients that talk to services in Keeps, and to nobody else.

    Args:
        policy: what is wanted.
        now: the time, aware UTC; None is this machine's clock. OpenSSL's own verification, where there is a root, uses that one always.
        fetch: for endorsements that evidence does not bring along; the handshake waits for it. None fetches nothing.
    """
    context = KeepSSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.judge = ServiceJudge(policy, now=now or _clock, fetch=fetch)
    if policy.steward_root is None:
        # There is no authority to verify by; evidence is all that there is, and it is judged after the handshake.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=policy.steward_root.public_bytes(Encoding.DER))
    return context


def connect(
    host: str,
    port: int,
    policy: KeepPolicy,
    *,
    server_name: str | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    now: Callable[[], datetime] | None = None,
    fetch: Fetch | None = None,
) -> KeepSSLSocket:
    """Connect to a service and judge it; `judged` of what is returned says what it is.

    Args:
        host: name or address.
        port: of the service.
        policy: what is wanted.
        server_name: whom the certificate must name, if not `host`.
        timeout_s: for all of it; the connection has it as its timeout afterwards.
        now: as for `keep_ssl_context`.
        fetch: likewise.

    Raises:
        TransportError: it cannot be reached, or does not speak TLS 1.3.
        VerificationError: it is not authentic, or is another one.
        AppraisalError: it is not what was wanted.
        EndorsementError: it cannot be decided.
        DecodeError: what it presents is not well formed.
        UsageError: the name can be none.
    """
    context = keep_ssl_context(policy, now=now, fetch=fetch)
    try:
        secure = _handshake(context, host, port, server_name or host, timeout_s)
    except RefusedServiceError as refused:
        raise refused.error from None
    if not isinstance(secure, KeepSSLSocket):
        secure.close()
        raise UsageError("cannot judge a service: found another kind of connection, want one that judges")
    return secure


def fetch_chain(
    host: str, port: int, *, server_name: str | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[bytes, ...]:
    """Return the certificates that a service presents, judged by nobody. The handshake is all that is said.

    Args:
        host: name or address.
        port: of the service.
        server_name: that the service is asked for, if not `host`.
        timeout_s: for all of it.

    Raises:
        TransportError: it cannot be reached, or does not speak TLS 1.3.
        UsageError: the name can be none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _handshake(context, host, port, server_name or host, timeout_s) as secure:
        return _presented_chain(secure)


def _presented_chain(connection: Any) -> tuple[bytes, ...]:
    """Return the peer's certificates in DER, its own first."""
    if sys.version_info >= (3, 13):
        return tuple(connection.get_unverified_chain())
    inner = connection._sslobj
    return tuple(each.public_bytes(_DER) for each in inner.get_unverified_chain() or ())


# --- Connecting ------------------------------------------------------------------------------------------------------


def _handshake(context: ssl.SSLContext, host: str, port: int, server_name: str, timeout_s: float) -> ssl.SSLSocket:
    """Connect and do the handshake within a time."""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    deadline = time.monotonic() + timeout_s
    try:
        # The same question as below, before there is a socket that could be left open.
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=_bare(server_name))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"cannot connect to {name}: server name: found {server_name[:80]!a}, want a DNS name or an address"
        ) from error
    plain = _open(host, port, name, deadline, timeout_s)
    try:
        plain.settimeout(_left(deadline))
        secure = context.wrap_socket(plain, server_hostname=_bare(server_name))
    except RefusedServiceError:
        raise
    except TimeoutError as error:
        raise _unreachable(name, f"found no end of the handshake, want one within {timeout_s:g} s") from error
    except ssl.SSLCertVerificationError as error:
        # OpenSSL was first.
        raise VerificationError(
            f"{name} is not authentic: its certificate: {error.verify_message}",
            hint=f"enarx attest connect {name} shows what it presents",
        ) from error
    except ssl.SSLError as error:
        reason = error.reason or "peer closed the connection"
        raise _unreachable(name, _REASONS.get(reason, reason.replace("_", " ").lower())) from error
    except OSError as error:
        raise _unreachable(name, (error.strerror or "connection lost").lower()) from error
    finally:
        # wrap_socket has taken the descriptor, or it is still there to be closed.
        plain.close()
    secure.settimeout(timeout_s)
    return secure


def _open(host: str, port: int, name: str, deadline: float, timeout_s: float) -> socket.socket:
    error: OSError | None = None
    for family, kind, protocol, _, address in _look_up(host, port, name, deadline, timeout_s)[:_MAX_ADDRESSES]:
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_left(deadline))
            plain.connect(address)
        except OSError as failure:
            plain.close()
            error = failure
        else:
            return plain
    if isinstance(error, TimeoutError):
        raise _unreachable(name, f"found no answer, want one within {timeout_s:g} s") from error
    raise _unreachable(name, (error.strerror if error and error.strerror else "no address").lower()) from error


def _look_up(host: str, port: int, name: str, deadline: float, timeout_s: float) -> list[tuple[Any, ...]]:
    """Look a name up in a thread of its own: nothing but the resolver bounds how long that takes."""
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="enarx-connect").start()
    try:
        answer = answers.get(timeout=_left(deadline))
    except queue.Empty:
        raise _unreachable(name, f"found no answer to the name, want one within {timeout_s:g} s") from None
    if isinstance(answer, ValueError):
        raise UsageError(f"cannot connect to {name}: found no host name, want a DNS name or an address") from answer
    if isinstance(answer, OSError):
        raise _unreachable(name, (answer.strerror or "unknown name").lower()) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _bare(server_name: str) -> str:
    """Return a name as it stands in certificates: without brackets and the dot of the root."""
    return server_name.removeprefix("[").removesuffix("]").removesuffix(".")


def _left(deadline: float) -> float:
    # 0 would mean not to wait at all.
    return max(deadline - time.monotonic(), 0.001)


def _unreachable(name: str, reason: str) -> TransportError:
    return TransportError(f"cannot connect to {name}: {reason}")


def _clock() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
