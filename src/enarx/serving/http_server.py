# SPDX-License-Identifier: Apache-2.0
"""Uvicorn's protocols on a socket of ours: limits that it does not have, client certificates, and an end without polling.

Uvicorn's own server object owns signals and wakes up ten times a second; what is needed of it is a few lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import resource
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from enarx.errors import PlatformError, UsageError
from enarx.serving.requests import WHOLE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HttpServer", "Listening", "allow_many_files", "bind_api", "make_context", "require_both", "require_tls"]

HEAD_TIMEOUT_S = 10.0
"""From a connection, or the first byte of a request, to the end of its headers; and for the handshake of TLS."""

KEEP_ALIVE_S = 30
MAX_HEAD_BYTES = 32 << 10
MAX_CONNECTIONS = 4096
CLOSE_TIMEOUT_S = 5.0
"""For requests under way, when the service ends."""

BACKLOG = 1024
PING_INTERVAL_S = 20.0
"""So that a proxy between does not take a quiet session for a dead one."""

_WRITE_BUFFER_BYTES = 1 << 20
_JOINED_BYTES = 64 << 10
_READ_BYTES = 256 << 10


class _Http(HttpToolsProtocol, asyncio.BufferedProtocol):
    """HTTP with a limit on headers in time and size, which knows the client's certificate.

    Args:
        buffer: what is read into, by one connection after the other: what was read is parsed before anything else is read.
        config: see `uvicorn`, as for all that follow.
        server_state: see there.
        app_state: see there.
    """

    def __init__(
        self, buffer: memoryview, *, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._is_in_head = True
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)
        connection = transport.get_extra_info("ssl_object")
        if connection is not None and (certificate := connection.getpeercert(binary_form=True)):
            self.app_state = {**self.app_state, "certificate_sha256": hashlib.sha256(certificate).digest()}
        _keep_alive(transport)

    def data_received(self, data: bytes | memoryview) -> None:
        # What begins and ends within headers is counted; a piece in which a body ends as well is not, and pieces are small.
        was_in_head = self._is_in_head
        # The parser takes whatever has bytes.
        super().data_received(cast("bytes", data))
        if not self._is_in_head:
            return
        if self._deadline is None:
            # Most heads come in one piece, and need no timer.
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)
        if was_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("Headers too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._is_in_head = False
        self._end_deadline()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            # It has begun nothing yet.
            self.cycle.transport = cast("asyncio.Transport", _Joining(self.cycle.transport, self.loop))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cast("dict[str, Any]", self.scope)[WHOLE] = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_in_head = False
        self._end_deadline()
        super().connection_lost(exc)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Joining:
    """What one answer is written to: its head goes out together with the first of its body where that comes at once.

    That is one record of TLS, one call to the system, and one time that the other end wakes up, instead of two of each.

    Args:
        transport: of the connection.
        loop: the connection's.
    """

    __slots__ = ("_flush", "_head", "_is_begun", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._is_begun = False
        self._head = b""
        self._flush: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write, the first time in the next turn of the loop."""
        if not self._is_begun:
            self._is_begun, self._head = True, data
            self._flush = self._loop.call_soon(self._write_head)
        elif self._head and len(data) <= _JOINED_BYTES:
            data = self._taken() + data
            self._transport.write(data)
        else:
            self._write_head()
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._write_head()
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether the connection ends."""
        return self._transport.is_closing()

    def _write_head(self) -> None:
        if self._head:
            self._transport.write(self._taken())

    def _taken(self) -> bytes:
        head, self._head = self._head, b""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        return head


class _WebSocket(WebSocketsSansIOProtocol):
    """WebSocket with room for a few large messages between the relay and a slow tenant."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Notice peers that have gone without a word."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Listening:
    """The address of the API.

    Args:
        sock: that listens on it.
        secure: whether with TLS.
    """

    def __init__(self, sock: socket.socket, *, secure: bool) -> None:
        self.sock = sock
        self.host, self.port = sock.getsockname()[:2]
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if secure else 'http'}://{shown}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can connect."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback


def require_both(certificate: str | None, key: str | None) -> None:
    """Return only if the PEM files of a service's certificate and of its key are both named, or neither.

    Raises:
        UsageError: one of them is.
    """
    if (certificate is None) != (key is None):
        raise UsageError("cannot serve: found one of --tls-certificate and --tls-key, want both or neither")


def require_tls(listening: Listening, *, secure: bool, insecure_http: bool, what: str) -> None:
    """Return only if nothing is said in the clear where others than this machine hear it, or somebody wants that.

    Args:
        listening: where.
        secure: whether with TLS.
        insecure_http: whether it may be without.
        what: would be heard, for the message.

    Raises:
        UsageError: it would be heard.
    """
    if not (listening.is_loopback or secure or insecure_http):
        raise UsageError(
            f"cannot listen on {listening.host}: found no TLS certificate, want one: {what} would be sent in the clear",
            hint="give --tls-certificate and --tls-key; behind a proxy that speaks TLS, --insecure-http",
        )


def bind_api(host: str, port: int, *, secure: bool) -> Listening:
    """Listen for the API.

    Args:
        host: an IP address, or localhost.
        port: 0 is any that is free.
        secure: whether TLS will be spoken.

    Raises:
        UsageError: no address.
        PlatformError: it cannot be had.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"cannot listen: found {host[:64]!r}, want an IP address or localhost") from error
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((str(address), port))
        # At once: two sockets can be bound to one port as long as neither listens.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PlatformError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint="choose another one with --listen"
        ) from error
    return Listening(sock, secure=secure)


def allow_many_files() -> None:
    """Let this process have as many connections as the system gives it descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_context(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """Make the TLS context of the API: TLS 1.3, and a client certificate where one is offered.

    Raises:
        UsageError: a file cannot be read, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the TLS certificate: {certificate}, {key}: {error.strerror or error}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"cannot use the client CA: {client_ca}: {error.strerror or error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class HttpServer:
    """Serves an application on one socket.

    Args:
        app: the application.
        listening: where.
        context: for TLS, or None.
        max_message_bytes: of a WebSocket's messages, where there are any.
    """

    def __init__(
        self, app: ASGIApp, listening: Listening, context: ssl.SSLContext | None, *, max_message_bytes: int = 0
    ) -> None:
        self._listening = listening
        self._context = context
        self._state = ServerState()
        self._config = uvicorn.Config(
            app=_quiet_when_cancelled(app),
            loop="none",
            http=_Http,
            ws=_WebSocket,
            ws_max_size=max_message_bytes,
            ws_ping_interval=PING_INTERVAL_S,
            # A tenant whose message waits for the Keep is not read, so its answer to a ping may take as long.
            ws_ping_timeout=None,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._server: asyncio.Server | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))

    async def start(self) -> None:
        """Accept connections from here on."""
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=self._listening.sock,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else HEAD_TIMEOUT_S,
            backlog=BACKLOG,
        )

    def _protocol(self) -> asyncio.Protocol:
        return _Http(self._buffer, config=self._config, server_state=self._state, app_state={})

    async def stop(self) -> None:
        """Accept no more, let requests under way end for a while, and end every connection."""
        if self._server is not None:
            self._server.close()
        connections: set[Any] = self._state.connections
        for connection in list(connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        unfinished: set[asyncio.Task[None]] = set()
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        for connection in list(connections):
            with contextlib.suppress(Exception):
                connection.transport.abort()
        # Requests see that their connections have ended before they are cancelled, so that none tries to answer. Over TLS that
        # is a turn of the loop later.
        await asyncio.sleep(0)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def _quiet_when_cancelled(app: ASGIApp) -> ASGIApp:
    """Let a request end that `HttpServer.stop` cancels; the server would print it as a bug of the application."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return wrapped
