# SPDX-License-Identifier: Apache-2.0
"""TCP of wasi:sockets 0.2.

A guest connects where `allow_connect` permits and listens where a `listen` entry says; where the entry says tls, TLS ends
here and the guest's streams carry plaintext, as preopened sockets of core modules do. A handshake never holds up an accept.

With a broker nothing is bound and no option reaches a TCP: see `BrokeredTcpSocket`.

What holds this file together is the state of one socket, from created to connected or listening.

Source: WIT package wasi:sockets@0.2.12.
"""

# The hooks and codecs overridden here are described where they are declared.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

from enarx.errors import EnarxError
from enarx.runtime.component.binding import Borrow, Interface, Kind, Own
from enarx.runtime.component.http_bodies import PlainTransport, TlsTransport
from enarx.runtime.component.io import (
    CHUNK,
    INPUT_STREAM,
    OUTPUT_STREAM,
    POLLABLE,
    POLLIN,
    POLLOUT,
    Closed,
    InputStream,
    OutputStream,
    Pollable,
    WouldBlock,
)
from enarx.runtime.component.sockets_network import (
    ERROR_CODE,
    FAMILIES,
    FAMILY,
    NETWORK,
    SOCKET_ADDRESS,
    NetworkHandle,
    SocketAddress,
    find_listen_entry,
    find_tls_entry,
    refused,
)
from enarx.runtime.component.sockets_options import RememberedOptions, declare_tcp_options
from enarx.runtime.component.values import U64, Bool, Enum, Err, Result, Tuple
from enarx.runtime.egress import pattern_for
from enarx.runtime.handshakes import Handshakes
from enarx.runtime.network import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.http_bodies import Transport
    from enarx.runtime.component.io import Interest
    from enarx.runtime.network import Pending
    from enarx.runtime.tls import TlsStream
    from enarx.runtime.workload import File

MAX_BACKLOG = 4096
DEFAULT_BACKLOG = 128
LAST_WRITE_S = 10.0
"""How long dropping an output-stream waits for a peer to take what was accepted."""


# --- Connections -----------------------------------------------------------------------------------------------------


class _Link:
    """A connected socket that its tcp-socket and its two streams share; the last to be dropped closes it."""

    __slots__ = ("_keep", "_users", "is_receiving", "transport")

    def __init__(self, keep: Keep, transport: Transport) -> None:
        self._keep = keep
        self._users = 3
        self.transport = transport
        self.is_receiving = True

    def release(self) -> None:
        """One of the three was dropped."""
        self._users -= 1
        if not self._users:
            self.transport.close()
            self._keep.account.close_file()


class TcpInput(InputStream):
    """The input-stream of a connection. It may have received more than was read: a TLS record is whole or nothing."""

    __slots__ = ("_ahead", "_failure", "_is_ended", "_link")

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._ahead = memoryview(b"")
        self._is_ended = False
        self._failure: OSError | None = None

    def read_some(self, size: int) -> bytes:
        if not self._ahead:
            self._receive()
        data = bytes(self._ahead[:size])
        self._ahead = self._ahead[size:]
        return data

    def poll_interest(self) -> Interest | None:
        if self._ahead or self._is_ended or self._failure is not None:
            return None
        try:
            self._receive()
        except WouldBlock:
            transport = self._link.transport
            return (transport.fileno(), transport.wants, None)
        except Closed:
            self._is_ended = True
        except OSError as error:
            self._failure = error
        return None

    def fired(self) -> bool:
        return False

    def _receive(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._is_ended or not self._link.is_receiving:
            raise Closed
        try:
            data = self._link.transport.recv(CHUNK)
        except BlockingIOError:
            raise WouldBlock from None
        if not data:
            self._is_ended = True
            raise Closed
        self._ahead = memoryview(data)

    def drop(self) -> None:
        """Let go of the connection."""
        self._link.release()


class TcpOutput(OutputStream):
    """The output-stream of a connection."""

    __slots__ = ("_link",)

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def write_some(self, data: memoryview | bytes) -> int:
        try:
            return self._link.transport.send(data)
        except BlockingIOError:
            raise WouldBlock from None
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def write_interest(self) -> Interest | None:
        transport = self._link.transport
        return (transport.fileno(), POLLOUT if transport.is_concurrent else transport.wants, None)

    def fired(self) -> bool:
        return False

    def finish(self) -> None:
        """Give the peer a while to take what was accepted, then let go of the connection."""
        deadline_s = time.monotonic() + LAST_WRITE_S
        interest = self.poll_interest()
        while interest is not None and time.monotonic() < deadline_s:
            poll = select.poll()
            poll.register(interest[0], interest[1])
            poll.poll(LAST_WRITE_S * 1000)
            interest = self.poll_interest()
        self._link.release()


# --- The socket ------------------------------------------------------------------------------------------------------


class TcpSocket(Pollable):
    """The resource `tcp-socket`.

    Attributes:
        state: `unbound`, `binding`, `bound`, `connecting`, `connected`, `starting` to listen, `listening` or `failed`.
    """

    __slots__ = (
        "_backlog", "_bound_entry", "_failure", "_handshakes", "_keep", "_link", "_tls_entry", "_tls_stream", "family", "options",
        "sock", "state",
    )  # fmt: skip

    def __init__(self, keep: Keep, family: str, sock: socket.socket, *, state: str = "unbound") -> None:
        self._keep = keep
        self.family = family
        self.sock = sock
        self.options: socket.socket | RememberedOptions = sock
        self.state = state
        self._backlog = DEFAULT_BACKLOG
        self._bound_entry: File | None = None
        self._tls_entry: File | None = None
        self._tls_stream: TlsStream | None = None
        self._handshakes: Handshakes | None = None
        self._link: _Link | None = None
        self._failure: OSError | EnarxError | None = None

    def local_address(self) -> SocketAddress:
        """Return its own address."""
        self.require("bound", "connecting", "connected", "starting", "listening")
        return SocketAddress.from_host(self.sock.getsockname())

    def remote_address(self) -> SocketAddress:
        """Return its peer's."""
        self.require("connected")
        return SocketAddress.from_host(self.sock.getpeername())

    def require(self, *states: str) -> None:
        """Return only in one of these states.

        Raises:
            Err: in another.
        """
        if self.state not in states:
            raise Err("invalid-state")

    def require_progress(self, state: str) -> None:
        """Return only where the first half of an operation was done.

        Raises:
            Err: it was not.
        """
        if self.state != state:
            raise Err("not-in-progress")

    def start_bind(self, address: SocketAddress) -> None:
        """Bind: to a port of a `listen` entry, or to any that is free."""
        self.require("unbound")
        address.require_family(self.family)
        if address.ip.is_multicast:
            raise Err("invalid-argument")
        entry = find_listen_entry(self._keep, address)
        if address.port and entry is None:
            raise Err("access-denied")
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.family == "ipv6":
                # WASI's IPv6 sockets are IPv6 only, unless the entry is for every address of the machine.
                dual = entry is not None and entry.host == "::" and address.ip.is_unspecified
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
            self.sock.bind(address.to_host())
        except OSError as error:
            raise refused(error) from error
        self._bound_entry = entry
        self.state = "binding"

    def finish_bind(self) -> None:
        """Take note."""
        self.require_progress("binding")
        self.state = "bound"

    def start_connect(self, address: SocketAddress) -> None:
        """Begin to connect, if the outbound rule permits it."""
        self.require("unbound", "bound")
        address.require_peer(self.family)
        if not self._keep.network.permits(str(address.ip), address.port):
            raise Err("access-denied")
        self._tls_entry = find_tls_entry(self._keep, address)
        try:
            with contextlib.suppress(BlockingIOError):
                self.sock.connect(address.to_host())
        except OSError as error:
            self.state = "failed"
            raise refused(error) from error
        self.state = "connecting"

    def finish_connect(self) -> tuple[TcpInput, TcpOutput]:
        """Return the streams once the connection, and its TLS, is there."""
        self.require_progress("connecting")
        try:
            is_done = self._advance_connect()
        except OSError as error:
            self.state = "failed"
            raise refused(error) from error
        except EnarxError as error:
            self.state = "failed"
            # The guest learns that it failed, and whoever runs it why.
            self._keep.network.refusals.tell(str(error))
            raise Err("connection-aborted") from error
        if not is_done:
            raise Err("would-block")
        self.state = "connected"
        return self._open(self._tls_stream)

    def _advance_connect(self) -> bool:
        if self._failure is not None:
            # The operating system tells it once, and whoever polls may have been that one.
            raise self._failure
        if self._tls_stream is None:
            poll = select.poll()
            poll.register(self.sock, POLLOUT)
            if not poll.poll(0):
                return False
            failure = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._failure = OSError(failure, os.strerror(failure))
                raise self._failure
            prepare(self.sock)
            entry = self._tls_entry
            if entry is None:
                return True
            # The TLS stream closes the socket it is given, and this one's options stay the guest's.
            tls = self._keep.network.client_tls()
            self._tls_stream = tls.stream(self.sock, host=entry.host, peer=pattern_for(entry.host, entry.port))
        try:
            return self._tls_stream.handshake()
        except EnarxError as error:
            self._failure = error
            raise

    def _open(self, stream: TlsStream | None) -> tuple[TcpInput, TcpOutput]:
        link = self._link = _Link(self._keep, PlainTransport(self.sock) if stream is None else TlsTransport(stream))
        return TcpInput(link), TcpOutput(link)

    def start_listen(self) -> None:
        """Begin to listen, where a `listen` entry says so."""
        self.require("bound")
        if self._bound_entry is None:
            raise Err("access-denied")
        try:
            self.sock.listen(self._backlog)
        except OSError as error:
            raise refused(error) from error
        if self._bound_entry.prot == "tls":
            self._handshakes = Handshakes(self.sock, self._keep.network.server_tls())
        self.state = "starting"

    def finish_listen(self) -> None:
        """Take note."""
        self.require_progress("starting")
        self.state = "listening"

    def accept(self) -> tuple[TcpSocket, TcpInput, TcpOutput]:
        """Return the next connection with its streams."""
        self.require("listening")
        account = self._keep.account
        if not account.open_file():
            raise Err("new-socket-limit")
        stream: TlsStream | None = None
        try:
            if self._handshakes is not None:
                stream, sock = self._handshakes.take()
            else:
                sock, _ = self.sock.accept()
        except OSError as error:
            account.close_file()
            raise refused(error) from error
        prepare(sock)
        accepted = type(self)(self._keep, self.family, sock, state="connected")
        return accepted, *accepted._open(stream)

    def interest(self) -> Interest | None:
        if self.state == "connecting":
            try:
                if self._advance_connect():
                    return None
            except (OSError, EnarxError):
                # finish-connect tells.
                return None
            stream = self._tls_stream
            return (self.sock.fileno(), POLLOUT if stream is None else stream.wants, None)
        if self.state == "listening":
            if self._handshakes is not None:
                return None if self._handshakes.advance() else (self._handshakes.fd, POLLIN, None)
            return (self.sock.fileno(), POLLIN, None)
        return None

    def fired(self) -> bool:
        return (self.state == "listening" and self._handshakes is None) or self.interest() is None

    def shut_down(self, direction: str) -> None:
        """End one direction, or both."""
        self.require("connected")
        if self._link is None:
            raise Err("invalid-state")
        if direction != "send":
            self._link.is_receiving = False
        if direction != "receive":
            try:
                self._link.transport.end()
            except OSError as error:
                raise refused(error) from error

    def set_backlog(self, size: int) -> None:
        """Set how many connections wait to be accepted."""
        if not size:
            raise Err("invalid-argument")
        self.require("unbound", "bound", "listening")
        self._backlog = min(size, MAX_BACKLOG)
        if self.state == "listening":
            try:
                self.sock.listen(self._backlog)
            except OSError as error:
                raise refused(error) from error

    def drop(self) -> None:
        """Let go of the connection, or close what never became one."""
        if self._link is not None:
            self._link.release()
            return
        if self._handshakes is not None:
            self._handshakes.close()
        if self._tls_stream is not None:
            self._tls_stream.close()
        self.sock.close()
        self._keep.account.close_file()


class BrokeredTcpSocket(TcpSocket):
    """A `tcp-socket` whose connections a broker makes.

    It listens where a `listen` entry says, on the socket that was handed over for it, and binds nowhere else. `sock` is a
    socket that does nothing until there is a connection or a listener to take its place.
    """

    __slots__ = ("_local", "_pending", "_remote")

    def __init__(self, keep: Keep, family: str, sock: socket.socket, *, state: str = "unbound") -> None:
        super().__init__(keep, family, sock, state=state)
        self.options = RememberedOptions()
        self._pending: Pending | None = None
        self._local = self._remote = SocketAddress.from_host(("0.0.0.0" if family == "ipv4" else "::", 0))  # noqa: S104

    def local_address(self) -> SocketAddress:
        self.require("bound", "connecting", "connected", "starting", "listening")
        return self._local

    def remote_address(self) -> SocketAddress:
        self.require("connected")
        return self._remote

    def start_bind(self, address: SocketAddress) -> None:
        self.require("unbound")
        address.require_family(self.family)
        if address.ip.is_multicast:
            raise Err("invalid-argument")
        self._bound_entry = find_listen_entry(self._keep, address)
        if self._bound_entry is None:
            raise Err("access-denied")
        self._local = address
        self.state = "binding"

    def start_connect(self, address: SocketAddress) -> None:
        self.require("unbound", "bound")
        address.require_peer(self.family)
        network = self._keep.network
        host = str(address.ip)
        if not network.permits(host, address.port):
            raise Err("access-denied")
        self._tls_entry = find_tls_entry(self._keep, address)
        try:
            self._pending = network.ask(host, address.port)
        except OSError as error:
            self.state = "failed"
            raise refused(error) from error
        self._remote = address
        self.state = "connecting"

    def _advance_connect(self) -> bool:
        pending = self._pending
        if pending is not None:
            try:
                sock = pending.take()
            except BlockingIOError:
                return False
            except OSError as error:
                self._failure = error
            else:
                self._replace(sock)
            pending.close()
            self._pending = None
        return super()._advance_connect()

    def _replace(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock.close()
        self.sock = sock

    def start_listen(self) -> None:
        self.require("bound")
        entry = self._bound_entry
        if entry is None:
            raise Err("access-denied")
        try:
            self._replace(self._keep.network.listen(entry))
        except OSError as error:
            raise refused(error) from error
        if entry.prot == "tls":
            self._handshakes = Handshakes(self.sock, self._keep.network.server_tls())
        self.state = "starting"

    def interest(self) -> Interest | None:
        found = super().interest()
        if found is not None and self._pending is not None:
            return (self._pending.fileno(), POLLIN, None)
        return found

    def drop(self) -> None:
        if self._pending is not None:
            self._pending.close()
        super().drop()


class _SocketPollable(Pollable):
    __slots__ = ("_socket",)

    def __init__(self, tcp_socket: TcpSocket) -> None:
        self._socket = tcp_socket

    def interest(self) -> Interest | None:
        return self._socket.interest()

    def fired(self) -> bool:
        return self._socket.fired()


def open_socket(keep: Keep, family: str, kind: int) -> socket.socket:
    """Open a non-blocking socket and count it.

    Raises:
        Err: there may be no more, or the operating system has none of this family.
    """
    if not keep.account.open_file():
        raise Err("new-socket-limit")
    try:
        sock = socket.socket(FAMILIES[family], kind)
        sock.setblocking(False)
        if family == "ipv6":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError as error:
        keep.account.close_file()
        raise refused(error) from error
    return sock


# --- Interfaces ------------------------------------------------------------------------------------------------------

tcp_interface = Interface(
    "wasi:sockets/tcp",
    uses={"network": NETWORK, "pollable": POLLABLE, "input-stream": INPUT_STREAM, "output-stream": OUTPUT_STREAM},
)
TCP_SOCKET: Kind = tcp_interface.resource("tcp-socket")
create_tcp_interface = Interface("wasi:sockets/tcp-create-socket", uses={"network": NETWORK, "tcp-socket": TCP_SOCKET})

_SOCKET = Borrow(TCP_SOCKET)
_STREAMS = (Own(INPUT_STREAM), Own(OUTPUT_STREAM))
_DONE = Result(None, ERROR_CODE)
_ADDRESS_RESULT = Result(SOCKET_ADDRESS, ERROR_CODE)
_AT_ADDRESS = (_SOCKET, Borrow(NETWORK), SOCKET_ADDRESS)

declare_tcp_options(tcp_interface, TCP_SOCKET)


@create_tcp_interface.func("create-tcp-socket", (FAMILY,), Result(Own(TCP_SOCKET), ERROR_CODE))
def _create(keep: Keep, family: str) -> TcpSocket:
    if keep.network.broker is None:
        return TcpSocket(keep, family, open_socket(keep, family, socket.SOCK_STREAM))
    if not keep.account.open_file():
        raise Err("new-socket-limit")
    return BrokeredTcpSocket(keep, family, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))


@tcp_interface.func("[method]tcp-socket.start-bind", _AT_ADDRESS, _DONE)
def _start_bind(_keep: Keep, tcp_socket: TcpSocket, _network: NetworkHandle, address: tuple[str, Any]) -> None:
    tcp_socket.start_bind(SocketAddress.from_wit(address))


@tcp_interface.func("[method]tcp-socket.finish-bind", (_SOCKET,), _DONE)
def _finish_bind(_keep: Keep, tcp_socket: TcpSocket) -> None:
    tcp_socket.finish_bind()


@tcp_interface.func("[method]tcp-socket.start-connect", _AT_ADDRESS, _DONE)
def _start_connect(_keep: Keep, tcp_socket: TcpSocket, _network: NetworkHandle, address: tuple[str, Any]) -> None:
    tcp_socket.start_connect(SocketAddress.from_wit(address))


@tcp_interface.func("[method]tcp-socket.finish-connect", (_SOCKET,), Result(Tuple(*_STREAMS), ERROR_CODE))
def _finish_connect(_keep: Keep, tcp_socket: TcpSocket) -> tuple[TcpInput, TcpOutput]:
    return tcp_socket.finish_connect()


@tcp_interface.func("[method]tcp-socket.start-listen", (_SOCKET,), _DONE)
def _start_listen(_keep: Keep, tcp_socket: TcpSocket) -> None:
    tcp_socket.start_listen()


@tcp_interface.func("[method]tcp-socket.finish-listen", (_SOCKET,), _DONE)
def _finish_listen(_keep: Keep, tcp_socket: TcpSocket) -> None:
    tcp_socket.finish_listen()


@tcp_interface.func("[method]tcp-socket.accept", (_SOCKET,), Result(Tuple(Own(TCP_SOCKET), *_STREAMS), ERROR_CODE))
def _accept(_keep: Keep, tcp_socket: TcpSocket) -> tuple[TcpSocket, TcpInput, TcpOutput]:
    return tcp_socket.accept()


@tcp_interface.func("[method]tcp-socket.local-address", (_SOCKET,), _ADDRESS_RESULT)
def _local_address(_keep: Keep, tcp_socket: TcpSocket) -> tuple[str, Any]:
    with _refusing():
        return tcp_socket.local_address().to_wit()


@tcp_interface.func("[method]tcp-socket.remote-address", (_SOCKET,), _ADDRESS_RESULT)
def _remote_address(_keep: Keep, tcp_socket: TcpSocket) -> tuple[str, Any]:
    with _refusing():
        return tcp_socket.remote_address().to_wit()


@contextlib.contextmanager
def _refusing() -> Any:
    try:
        yield
    except OSError as error:
        raise refused(error) from error


@tcp_interface.func("[method]tcp-socket.is-listening", (_SOCKET,), Bool)
def _is_listening(_keep: Keep, tcp_socket: TcpSocket) -> bool:
    return tcp_socket.state == "listening"


@tcp_interface.func("[method]tcp-socket.address-family", (_SOCKET,), FAMILY)
def _address_family(_keep: Keep, tcp_socket: TcpSocket) -> str:
    return tcp_socket.family


@tcp_interface.func("[method]tcp-socket.set-listen-backlog-size", (_SOCKET, U64), _DONE)
def _set_backlog(_keep: Keep, tcp_socket: TcpSocket, size: int) -> None:
    tcp_socket.set_backlog(size)


@tcp_interface.func("[method]tcp-socket.subscribe", (_SOCKET,), Own(POLLABLE))
def _subscribe(_keep: Keep, tcp_socket: TcpSocket) -> Pollable:
    return _SocketPollable(tcp_socket)


@tcp_interface.func("[method]tcp-socket.shutdown", (_SOCKET, Enum("receive", "send", "both")), _DONE)
def _shutdown(_keep: Keep, tcp_socket: TcpSocket, direction: str) -> None:
    tcp_socket.shut_down(direction)
