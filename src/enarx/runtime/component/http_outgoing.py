# SPDX-License-Identifier: Apache-2.0
"""Outgoing requests of wasi:http 0.2.

Each has a connection of its own, which `allow_connect` must permit by name or address and port; redirects, cookies and
proxies are the guest's affair. Looking up, connecting and the TLS handshake happen in a thread, because looking up blocks;
from then on the guest's own thread sends and receives, when it waits for the result.

Source: WIT package wasi:http@0.2.12.
"""

# The hooks and codecs overridden here are described where they are declared.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
import weakref

from enarx.errors import EnarxError, TransportError
from enarx.runtime.component.binding import Borrow, Interface, Kind, Own
from enarx.runtime.component.http_bodies import SECOND_NS, HttpError, PlainTransport, TlsTransport
from enarx.runtime.component.http_fields import ERROR_CODE, Inner, types_interface
from enarx.runtime.component.http_types import (
    INCOMING_RESPONSE,
    OUTGOING_REQUEST,
    REQUEST_OPTIONS,
    IncomingResponse,
    OutgoingRequest,
    RequestOptions,
    split_authority,
)
from enarx.runtime.component.io import POLLABLE, POLLIN, POLLOUT, Pollable
from enarx.runtime.component.values import Err, Option, Result
from enarx.runtime.egress import pattern_for
from enarx.runtime.http1 import ProtocolError, ResponseParser, encode_request_head
from enarx.runtime.network import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.http_bodies import ErrorCode, Transport
    from enarx.runtime.component.io import Interest
    from enarx.runtime.http1 import Headers
    from enarx.runtime.network import Network

CONNECT_NS = 10 * SECOND_NS
FIRST_BYTE_NS = 60 * SECOND_NS
BETWEEN_BYTES_NS = 60 * SECOND_NS
MAX_CONNECTING = 64
"""Requests of one process whose connection is being made; each is a thread."""

_connecting = threading.BoundedSemaphore(MAX_CONNECTING)
_RECEIVE_BYTES = 1 << 16
_PORTS = {"HTTP": 80, "HTTPS": 443}

_CODE_BY_ERRNO: dict[int | None, ErrorCode] = {
    errno.EACCES: ("HTTP-request-denied", None),
    errno.EMFILE: ("connection-limit-reached", None),
    errno.ECONNREFUSED: ("connection-refused", None),
    errno.ECONNRESET: ("connection-terminated", None),
    errno.ENETUNREACH: ("destination-IP-unroutable", None),
    errno.EHOSTUNREACH: ("destination-IP-unroutable", None),
    errno.ETIMEDOUT: ("connection-timeout", None),
}


class _Connecting:
    """A connection being made in a thread, and `ready_fd`, which becomes readable when that has ended."""

    __slots__ = ("_host", "_network", "_port", "_timeout_s", "_use_tls", "failure", "is_unwanted", "lock", "ready_fd", "transport")  # fmt: skip

    def __init__(self, network: Network, host: str, port: int, *, use_tls: bool, timeout_s: float) -> None:
        self._network = network
        self._host = host
        self._port = port
        self._use_tls = use_tls
        self._timeout_s = timeout_s
        self.transport: Transport | None = None
        self.failure: ErrorCode | None = None
        self.is_unwanted = False
        self.lock = threading.Lock()
        self.ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        transport: Transport | None = None
        try:
            try:
                transport = self._connect()
            except HttpError as error:
                self.failure = error.code
            except EnarxError as error:
                self.failure = ("internal-error", str(error))
        finally:
            _connecting.release()
            with self.lock:
                self.transport = transport
                if self.is_unwanted:
                    self.close()
                else:
                    os.eventfd_write(self.ready_fd, 1)

    def _connect(self) -> Transport:
        deadline_s = time.monotonic() + self._timeout_s
        sock = self._connect_tcp(deadline_s)
        prepare(sock)
        if not self._use_tls:
            return PlainTransport(sock)
        try:
            tls = self._network.client_tls(alpn=("http/1.1",))
            stream = tls.stream(sock, host=self._host, peer=pattern_for(self._host, self._port))
        except EnarxError:
            sock.close()
            raise
        try:
            stream.handshake_within(max(0.0, deadline_s - time.monotonic()))
        except TransportError as error:
            stream.close()
            if time.monotonic() >= deadline_s:
                raise HttpError(("connection-timeout", None)) from error
            self._network.refusals.tell(str(error))
            case = "TLS-certificate-error" if "certificate" in str(error) else "TLS-protocol-error"
            raise HttpError((case, None)) from error
        return TlsTransport(stream)

    def _connect_tcp(self, deadline_s: float) -> socket.socket:
        if self._network.broker is not None:
            try:
                return self._network.connect_through_broker(self._host, self._port, timeout_s=self._timeout_s)
            except OSError as error:
                raise HttpError(_CODE_BY_ERRNO.get(error.errno, ("destination-unavailable", None))) from error
        try:
            endpoints = self._network.look_up(self._host, self._port, timeout_s=self._timeout_s)
        except TransportError as error:
            late = time.monotonic() >= deadline_s
            code: ErrorCode = ("DNS-timeout", None) if late else ("DNS-error", (str(error), None))
            raise HttpError(code) from error
        code = ("destination-not-found", None)
        for family, address in endpoints:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise HttpError(("connection-timeout", None))
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(left_s)
            try:
                sock.connect(address)
            except TimeoutError:
                code = ("connection-timeout", None)
            except OSError as error:
                code = _CODE_BY_ERRNO.get(error.errno, ("destination-unavailable", None))
            else:
                return sock
            sock.close()
        raise HttpError(code)

    def close(self) -> None:
        """Free what there is. `lock` is held, and the thread has ended."""
        if self.transport is not None:
            self.transport.close()
        os.close(self.ready_fd)

    def abandon(self) -> None:
        """Nobody wants it any more."""
        with self.lock:
            if self.transport is None and self.failure is None:
                self.is_unwanted = True
            else:
                self.close()


class FutureIncomingResponse(Pollable):
    """The resource `future-incoming-response`; it is also what the response's body is read from."""

    __slots__ = (
        "__weakref__",
        "_connecting",
        "_deadline_ns",
        "_encode_head",
        "_failure",
        "_first_byte_ns",
        "_keep",
        "_outlet",
        "_parser",
        "_transport",
        "between_bytes_ns",
        "clock",
        "is_told",
    )  # fmt: skip

    def __init__(
        self,
        keep: Keep,
        request: OutgoingRequest,
        head: tuple[bytes, bytes, Headers],
        connecting: _Connecting,
        options: RequestOptions,
    ) -> None:
        self.clock = keep.clock
        self.between_bytes_ns = BETWEEN_BYTES_NS if options.between_bytes_ns is None else options.between_bytes_ns
        self.is_told = False
        self._keep = keep
        method, target, headers = head
        self._encode_head = lambda length: (encode_request_head(method, target, headers, length), length is None)
        self._outlet = request.outlet
        self._parser = ResponseParser(request.method)
        self._connecting = connecting
        self._transport: Transport | None = None
        self._failure: ErrorCode | None = None
        self._first_byte_ns = FIRST_BYTE_NS if options.first_byte_ns is None else options.first_byte_ns
        self._deadline_ns = 0
        self._outlet.gate_fd = connecting.ready_fd
        # Weak, so that the last handle a guest drops ends the connection.
        opener = weakref.WeakMethod(self._open)
        self._outlet.opener = lambda: (method := opener()) and method()
        if not request.is_taken:
            self._outlet.finish([])

    def _open(self) -> None:
        """Let the request go out, if its connection is there."""
        connecting = self._connecting
        if self._transport is not None or self._failure is not None:
            return
        if connecting.failure is not None:
            self._failure = self._outlet.failure = connecting.failure
            return
        transport = connecting.transport
        if transport is None:
            return
        self._transport = transport
        self._deadline_ns = self.clock.monotonic_ns() + self._first_byte_ns
        self._outlet.opener = None
        self._outlet.attach(transport, self._encode_head)

    def interest(self) -> Interest | None:
        self._open()
        transport = self._transport
        if self._failure is not None or self._parser.messages:
            return None
        if transport is None:
            return (self._connecting.ready_fd, POLLIN, None)
        try:
            with contextlib.suppress(BlockingIOError):
                while not self._parser.messages:
                    self.pump()
        except HttpError as error:
            self._failure = error.code
            return None
        if self._parser.messages:
            return None
        if self.clock.monotonic_ns() >= self._deadline_ns:
            self._failure = ("HTTP-response-timeout", None)
            return None
        fd, events = self.read_interest()
        return (fd, events, self._deadline_ns)

    def fired(self) -> bool:
        return self.interest() is None

    def pump(self) -> None:
        """Send what waits, then receive once, as `http_bodies.Source` says."""
        transport = self._transport
        if transport is None:
            raise BlockingIOError
        if not self._outlet.is_sent:
            # One that is not finished sends what was flushed; what fails here shows in what is received.
            self._outlet.capacity()
            if self._outlet.is_finished:
                self._outlet.push()
        try:
            data = transport.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            raise
        except OSError as error:
            raise HttpError(("connection-terminated", None)) from error
        try:
            if data:
                self._parser.feed(data)
            else:
                self._parser.feed_end()
        except ProtocolError as error:
            incomplete = not data
            raise HttpError(("HTTP-response-incomplete" if incomplete else "HTTP-protocol-error", None)) from error

    def read_interest(self) -> tuple[int, int]:
        """Return what to wait for, as `http_bodies.Source` says."""
        transport = self._transport
        if transport is None:
            return self._connecting.ready_fd, POLLIN
        events = transport.wants if not transport.is_concurrent else POLLIN
        return transport.fileno(), events if self._outlet.is_sent or not self._outlet.is_finished else events | POLLOUT

    def outcome(self) -> tuple[bool, Any] | None:
        """Return `(True, IncomingResponse)`, `(False, error-code)`, or None while it is open."""
        if self.interest() is not None:
            return None
        if self._failure is not None:
            return False, self._failure
        return True, IncomingResponse(self._parser.messages[0], self)

    def __del__(self) -> None:
        """End the connection, because neither the guest nor a body can reach it any more."""
        self._connecting.abandon()
        self._keep.account.close_file()


outgoing_handler_interface = Interface(
    "wasi:http/outgoing-handler",
    uses={name: types_interface.resources[name] for name in ("outgoing-request", "request-options")},
)
FUTURE_RESPONSE: Kind = types_interface.resource("future-incoming-response")
outgoing_handler_interface.resources["future-incoming-response"] = FUTURE_RESPONSE


@types_interface.func("[method]future-incoming-response.subscribe", (Borrow(FUTURE_RESPONSE),), Own(POLLABLE))
def _subscribe(_keep: Keep, future: FutureIncomingResponse) -> Pollable:
    return future


@types_interface.func(
    "[method]future-incoming-response.get",
    (Borrow(FUTURE_RESPONSE),),
    Option(Inner(Inner(Own(INCOMING_RESPONSE), ERROR_CODE), None)),
)
def _get(_keep: Keep, future: FutureIncomingResponse) -> Any:
    if future.is_told:
        return (False, None)
    outcome = future.outcome()
    if outcome is None:
        return None
    future.is_told = True
    return (True, outcome)


@outgoing_handler_interface.func(
    "handle", (Own(OUTGOING_REQUEST), Option(Own(REQUEST_OPTIONS))), Result(Own(FUTURE_RESPONSE), ERROR_CODE)
)
def _handle(keep: Keep, request: OutgoingRequest, options: RequestOptions | None) -> FutureIncomingResponse:
    scheme = "HTTPS" if request.scheme is None else request.scheme[0]
    if scheme not in _PORTS or request.authority is None:
        raise Err(("HTTP-request-URI-invalid", None))
    if request.method == b"CONNECT":
        raise Err(("HTTP-request-method-invalid", None))
    host, port = split_authority(request.authority)
    port = port or _PORTS[scheme]
    network = keep.network
    if not network.permits(host, port):
        raise Err(("HTTP-request-denied", None))
    target = request.path or "/"
    if not target.startswith(("/", "*")):
        target = "/" + target
    headers = [(b"host", request.authority.encode()), *request.headers.entries]
    options = options or RequestOptions()
    connect_ns = CONNECT_NS if options.connect_ns is None else options.connect_ns
    if not _connecting.acquire(blocking=False):
        raise Err(("connection-limit-reached", None))
    if not keep.account.open_file():
        _connecting.release()
        raise Err(("connection-limit-reached", None))
    connecting = _Connecting(
        network, host, port, use_tls=scheme == "HTTPS", timeout_s=min(connect_ns / SECOND_NS, float(3600))
    )
    return FutureIncomingResponse(keep, request, (request.method, target.encode(), headers), connecting, options)
