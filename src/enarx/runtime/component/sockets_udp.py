# SPDX-License-Identifier: Apache-2.0
"""UDP of wasi:sockets 0.2: datagrams to peers that `allow_connect` permits, and their answers.

Whom a stream is connected to is kept here and not in the operating system, so that it can change. No `listen` entry is for
UDP, so a socket binds to whatever port is free. A broker carries no datagrams.

Source: WIT package wasi:sockets@0.2.12.
"""

from __future__ import annotations

import select
import socket

from enarx.runtime.component.binding import Borrow, Interface, Kind, Own, Trap
from enarx.runtime.component.io import POLLABLE, POLLIN, POLLOUT, Pollable
from enarx.runtime.component.sockets_network import (
    ERROR_CODE,
    FAMILY,
    NETWORK,
    SOCKET_ADDRESS,
    NetworkHandle,
    SocketAddress,
    refused,
)
from enarx.runtime.component.sockets_options import declare_udp_options
from enarx.runtime.component.sockets_tcp import open_socket
from enarx.runtime.component.values import U64, Bytes, Err, ListOf, Option, Record, Result, Tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.io import Interest

MAX_DATAGRAMS = 64
_MAX_DATAGRAM_BYTES = 65535


class UdpSocket:
    """The resource `udp-socket`; its streams share it, and the last to be dropped closes it.

    Attributes:
        state: `unbound`, `binding` or `bound`.
        remote: the one peer of its streams, or None.
    """

    __slots__ = ("_keep", "_users", "family", "options", "remote", "sock", "state")

    def __init__(self, keep: Keep, family: str, sock: socket.socket) -> None:
        self._keep = keep
        self._users = 1
        self.family = family
        self.sock = self.options = sock
        self.state = "unbound"
        self.remote: SocketAddress | None = None

    def permits(self, address: SocketAddress) -> bool:
        """Tell whether datagrams may go to, and come from, an address."""
        if self.remote is not None:
            return address == self.remote
        return self._keep.network.permits(str(address.ip), address.port)

    def start_bind(self, address: SocketAddress) -> None:
        """Bind to a free port."""
        if self.state != "unbound":
            raise Err("invalid-state")
        address.require_family(self.family)
        if address.port:
            raise Err("access-denied")
        try:
            self.sock.bind(address.to_host())
        except OSError as error:
            raise refused(error) from error
        self.state = "binding"

    def open_streams(self, remote: SocketAddress | None) -> tuple[IncomingDatagrams, OutgoingDatagrams]:
        """Return new streams, to one peer or to any that is permitted."""
        if self.state != "bound":
            raise Err("invalid-state")
        self.remote = None
        if remote is not None:
            remote.require_peer(self.family)
            if not self.permits(remote):
                raise Err("access-denied")
            self.remote = remote
        self._users += 2
        return IncomingDatagrams(self), OutgoingDatagrams(self)

    def drop(self) -> None:
        """Close it, if its streams have been dropped."""
        self._users -= 1
        if not self._users:
            self.sock.close()
            self._keep.account.close_file()


class IncomingDatagrams:
    """The resource `incoming-datagram-stream`."""

    __slots__ = ("_socket",)

    def __init__(self, udp_socket: UdpSocket) -> None:
        self._socket = udp_socket

    def receive(self, count: int) -> list[tuple[bytes, tuple[str, Any]]]:
        """Return what is there, at most `count` datagrams, without those of other senders."""
        datagrams: list[tuple[bytes, tuple[str, Any]]] = []
        try:
            for _ in range(min(count, MAX_DATAGRAMS)):
                data, sender = self._socket.sock.recvfrom(_MAX_DATAGRAM_BYTES)
                address = SocketAddress.from_host(sender)
                if self._socket.permits(address):
                    datagrams.append((data, address.to_wit()))
        except BlockingIOError:
            return datagrams
        except OSError as error:
            if not datagrams:
                raise refused(error) from error
        return datagrams

    def pollable(self) -> Pollable:
        """Return what is ready when a datagram, perhaps of another sender, is there."""
        return _Ready(self._socket, POLLIN)

    def drop(self) -> None:
        """Let go of the socket."""
        self._socket.drop()


class OutgoingDatagrams:
    """The resource `outgoing-datagram-stream`."""

    __slots__ = ("_permitted", "_socket")

    def __init__(self, udp_socket: UdpSocket) -> None:
        self._socket = udp_socket
        self._permitted = 0

    def check_send(self) -> int:
        """Return how many datagrams `send` takes now."""
        poll = select.poll()
        poll.register(self._socket.sock, POLLOUT)
        self._permitted = MAX_DATAGRAMS if poll.poll(0) else 0
        return self._permitted

    def send(self, datagrams: list[tuple[bytes, tuple[str, Any] | None]]) -> int:
        """Send datagrams and return how many went; the reason why the next did not is for the next call.

        Raises:
            Trap: more than `check_send` permitted.
            Err: the first could not be sent.
        """
        if len(datagrams) > self._permitted:
            raise Trap(
                f"found {len(datagrams)} datagrams, want at most the {self._permitted} that check-send permitted"
            )
        self._permitted -= len(datagrams)
        for sent, (data, remote) in enumerate(datagrams):
            try:
                self._send(data, None if remote is None else SocketAddress.from_wit(remote))
            except BlockingIOError:
                return sent
            except OSError as error:
                if not sent:
                    raise refused(error) from error
                return sent
            except Err:
                if not sent:
                    raise
                return sent
        return len(datagrams)

    def _send(self, data: bytes, remote: SocketAddress | None) -> None:
        udp_socket = self._socket
        target = remote or udp_socket.remote
        if target is None or (remote is not None and udp_socket.remote is not None and remote != udp_socket.remote):
            raise Err("invalid-argument")
        target.require_peer(udp_socket.family)
        if not udp_socket.permits(target):
            raise Err("access-denied")
        udp_socket.sock.sendto(data, target.to_host())

    def pollable(self) -> Pollable:
        """Return what is ready when `check_send` permits something."""
        return _Ready(self._socket, POLLOUT)

    def drop(self) -> None:
        """Let go of the socket."""
        self._socket.drop()


class _Ready(Pollable):
    __slots__ = ("_events", "_socket")

    def __init__(self, udp_socket: UdpSocket, events: int) -> None:
        self._socket = udp_socket
        self._events = events

    def interest(self) -> Interest | None:
        fd = self._socket.sock.fileno()
        return None if fd < 0 else (fd, self._events, None)


class _AlwaysReady(Pollable):
    __slots__ = ()

    def interest(self) -> Interest | None:
        return None


udp_interface = Interface("wasi:sockets/udp", uses={"network": NETWORK, "pollable": POLLABLE})
UDP_SOCKET: Kind = udp_interface.resource("udp-socket")
INCOMING: Kind = udp_interface.resource("incoming-datagram-stream")
OUTGOING: Kind = udp_interface.resource("outgoing-datagram-stream")
create_udp_interface = Interface("wasi:sockets/udp-create-socket", uses={"network": NETWORK, "udp-socket": UDP_SOCKET})

_SOCKET = Borrow(UDP_SOCKET)
_DONE = Result(None, ERROR_CODE)
_ADDRESS_RESULT = Result(SOCKET_ADDRESS, ERROR_CODE)

declare_udp_options(udp_interface, UDP_SOCKET)


@create_udp_interface.func("create-udp-socket", (FAMILY,), Result(Own(UDP_SOCKET), ERROR_CODE))
def _create(keep: Keep, family: str) -> UdpSocket:
    if keep.network.broker is not None:
        raise Err("not-supported")
    return UdpSocket(keep, family, open_socket(keep, family, socket.SOCK_DGRAM))


@udp_interface.func("[method]udp-socket.start-bind", (_SOCKET, Borrow(NETWORK), SOCKET_ADDRESS), _DONE)
def _start_bind(_keep: Keep, udp_socket: UdpSocket, _network: NetworkHandle, address: tuple[str, Any]) -> None:
    udp_socket.start_bind(SocketAddress.from_wit(address))


@udp_interface.func("[method]udp-socket.finish-bind", (_SOCKET,), _DONE)
def _finish_bind(_keep: Keep, udp_socket: UdpSocket) -> None:
    if udp_socket.state != "binding":
        raise Err("not-in-progress")
    udp_socket.state = "bound"


@udp_interface.func(
    "[method]udp-socket.stream",
    (_SOCKET, Option(SOCKET_ADDRESS)),
    Result(Tuple(Own(INCOMING), Own(OUTGOING)), ERROR_CODE),
)
def _stream(
    _keep: Keep, udp_socket: UdpSocket, remote: tuple[str, Any] | None
) -> tuple[IncomingDatagrams, OutgoingDatagrams]:
    return udp_socket.open_streams(None if remote is None else SocketAddress.from_wit(remote))


@udp_interface.func("[method]udp-socket.local-address", (_SOCKET,), _ADDRESS_RESULT)
def _local_address(_keep: Keep, udp_socket: UdpSocket) -> tuple[str, Any]:
    if udp_socket.state != "bound":
        raise Err("invalid-state")
    return SocketAddress.from_host(udp_socket.sock.getsockname()).to_wit()


@udp_interface.func("[method]udp-socket.remote-address", (_SOCKET,), _ADDRESS_RESULT)
def _remote_address(_keep: Keep, udp_socket: UdpSocket) -> tuple[str, Any]:
    if udp_socket.remote is None:
        raise Err("invalid-state")
    return udp_socket.remote.to_wit()


@udp_interface.func("[method]udp-socket.address-family", (_SOCKET,), FAMILY)
def _address_family(_keep: Keep, udp_socket: UdpSocket) -> str:
    return udp_socket.family


@udp_interface.func("[method]udp-socket.subscribe", (_SOCKET,), Own(POLLABLE))
def _subscribe(_keep: Keep, _udp_socket: UdpSocket) -> Pollable:
    # Binding, the only thing to wait for, never takes time.
    return _AlwaysReady()


@udp_interface.func(
    "[method]incoming-datagram-stream.receive",
    (Borrow(INCOMING), U64),
    Result(ListOf(Record(("data", Bytes), ("remote-address", SOCKET_ADDRESS))), ERROR_CODE),
)
def _receive(_keep: Keep, stream: IncomingDatagrams, count: int) -> list[tuple[bytes, tuple[str, Any]]]:
    return stream.receive(count)


@udp_interface.func("[method]outgoing-datagram-stream.check-send", (Borrow(OUTGOING),), Result(U64, ERROR_CODE))
def _check_send(_keep: Keep, stream: OutgoingDatagrams) -> int:
    return stream.check_send()


@udp_interface.func(
    "[method]outgoing-datagram-stream.send",
    (Borrow(OUTGOING), ListOf(Record(("data", Bytes), ("remote-address", Option(SOCKET_ADDRESS))))),
    Result(U64, ERROR_CODE),
)
def _send(_keep: Keep, stream: OutgoingDatagrams, datagrams: list[tuple[bytes, tuple[str, Any] | None]]) -> int:
    return stream.send(datagrams)


@udp_interface.func("[method]incoming-datagram-stream.subscribe", (Borrow(INCOMING),), Own(POLLABLE))
@udp_interface.func("[method]outgoing-datagram-stream.subscribe", (Borrow(OUTGOING),), Own(POLLABLE))
def _subscribe_stream(_keep: Keep, stream: IncomingDatagrams | OutgoingDatagrams) -> Pollable:
    return stream.pollable()
