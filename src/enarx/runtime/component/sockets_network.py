# SPDX-License-Identifier: Apache-2.0
"""wasi:sockets 0.2 below TCP and UDP: addresses, error codes, name lookup.

Names are looked up where `allow_connect` permits it, and what was found is remembered twice: by the network, which then
permits the addresses, and here by name, so that a `tls` entry of Enarx.toml is recognised by the address a guest
connects to.

Source: WIT package wasi:sockets@0.2.12.
"""

# The hooks and codecs overridden here are described where they are declared.
# ruff: noqa: D102

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading

from enarx.errors import TransportError
from enarx.runtime.component.binding import Borrow, Interface, Kind, Own
from enarx.runtime.component.io import ERROR, POLLABLE, POLLIN, IoError, Pollable
from enarx.runtime.component.values import U8, U16, U32, Enum, Err, Option, Record, Result, String, Tuple, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.io import Interest
    from enarx.runtime.network import Network
    from enarx.runtime.workload import File

LOOKUP_S = 10.0
MAX_REMEMBERED = 4096
_LOOKUP_PORT = 1
"""What is passed where a port is wanted and none is known."""

ERROR_CODE = Enum(
    "unknown", "access-denied", "not-supported", "invalid-argument", "out-of-memory", "timeout", "concurrency-conflict",
    "not-in-progress", "would-block", "invalid-state", "new-socket-limit", "address-not-bindable", "address-in-use",
    "remote-unreachable", "connection-refused", "connection-reset", "connection-aborted", "datagram-too-large",
    "name-unresolvable", "temporary-resolver-failure", "permanent-resolver-failure",
)  # fmt: skip
FAMILY = Enum("ipv4", "ipv6")
_IPV4 = Tuple(U8, U8, U8, U8)
_IPV6 = Tuple(U16, U16, U16, U16, U16, U16, U16, U16)
_ADDRESS = Variant(("ipv4", _IPV4), ("ipv6", _IPV6))
SOCKET_ADDRESS = Variant(
    ("ipv4", Record(("port", U16), ("address", _IPV4))),
    ("ipv6", Record(("port", U16), ("flow-info", U32), ("address", _IPV6), ("scope-id", U32))),
)

_CODE_BY_ERRNO = {
    errno.EACCES: "access-denied",
    errno.EPERM: "access-denied",
    errno.ENOTSUP: "not-supported",
    errno.EINVAL: "invalid-argument",
    errno.ENOMEM: "out-of-memory",
    errno.ENOBUFS: "out-of-memory",
    errno.ETIMEDOUT: "timeout",
    errno.EALREADY: "concurrency-conflict",
    errno.EAGAIN: "would-block",
    errno.ENOTCONN: "invalid-state",
    errno.EMFILE: "new-socket-limit",
    errno.ENFILE: "new-socket-limit",
    errno.EADDRNOTAVAIL: "address-not-bindable",
    errno.EADDRINUSE: "address-in-use",
    errno.EHOSTUNREACH: "remote-unreachable",
    errno.ENETUNREACH: "remote-unreachable",
    errno.ENETDOWN: "remote-unreachable",
    errno.ECONNREFUSED: "connection-refused",
    errno.ECONNRESET: "connection-reset",
    errno.EPIPE: "connection-reset",
    errno.ECONNABORTED: "connection-aborted",
    errno.EMSGSIZE: "datagram-too-large",
}

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def error_code(error: OSError) -> str:
    """Return the error-code for an error of the operating system."""
    return _CODE_BY_ERRNO.get(error.errno or 0, "unknown")


def refused(error: OSError) -> Err:
    """Return what a host function raises for an error of the operating system."""
    return Err(error_code(error))


class SocketAddress:
    """An address and port of either family.

    Args:
        ip: the address.
        port: 0 to 65535.
        flow_info, scope_id: of IPv6.
    """

    __slots__ = ("flow_info", "ip", "port", "scope_id")

    def __init__(
        self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, flow_info: int = 0, scope_id: int = 0
    ) -> None:
        self.ip = ip
        self.port = port
        self.flow_info = flow_info
        self.scope_id = scope_id

    @classmethod
    def from_wit(cls, value: tuple[str, Any]) -> SocketAddress:
        """Take what `SOCKET_ADDRESS` decodes."""
        case, fields = value
        if case == "ipv4":
            port, octets = fields
            return cls(ipaddress.IPv4Address(bytes(octets)), port)
        port, flow_info, groups, scope_id = fields
        return cls(
            ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups)), port, flow_info, scope_id
        )

    @classmethod
    def from_host(cls, address: tuple[Any, ...]) -> SocketAddress:
        """Take what Python's sockets use."""
        ip = ipaddress.ip_address(address[0].partition("%")[0])
        return cls(ip, *address[1:])

    def to_wit(self) -> tuple[str, Any]:
        """Return what `SOCKET_ADDRESS` encodes."""
        case, parts = ip_to_wit(self.ip)
        if case == "ipv4":
            return case, (self.port, parts)
        return case, (self.port, self.flow_info, parts, self.scope_id)

    def to_host(self) -> tuple[Any, ...]:
        """Return what Python's sockets use."""
        if self.ip.version == 4:
            return str(self.ip), self.port
        return str(self.ip), self.port, self.flow_info & 0xFFFFF, self.scope_id

    def require_family(self, family: str) -> None:
        """Return only for an address that a socket of this family takes.

        Raises:
            Err: it is of the other, or IPv4 in IPv6's clothes.
        """
        if (self.ip.version == 4) != (family == "ipv4"):
            raise Err("invalid-argument")
        if isinstance(self.ip, ipaddress.IPv6Address) and self.ip.ipv4_mapped is not None:
            raise Err("invalid-argument")

    def require_peer(self, family: str) -> None:
        """Return only for an address that can be a peer's.

        Raises:
            Err: no port, no address, or the other family.
        """
        self.require_family(family)
        if not self.port or self.ip.is_unspecified:
            raise Err("invalid-argument")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SocketAddress) and (self.ip, self.port) == (other.ip, other.port)

    def __hash__(self) -> int:
        return hash((self.ip, self.port))


def ip_to_wit(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[str, tuple[int, ...]]:
    """Return what `_ADDRESS` encodes."""
    packed = ip.packed
    if len(packed) == 4:
        return "ipv4", tuple(packed)
    return "ipv6", tuple(int.from_bytes(packed[at : at + 2], "big") for at in range(0, 16, 2))


# --- What Enarx.toml says about an address ---------------------------------------------------------------------------


def find_listen_entry(keep: Keep, address: SocketAddress) -> File | None:
    """Return the `listen` entry that allows to listen on an address, or None.

    An entry for `::` allows every address, one for `0.0.0.0` every IPv4 address, and any other exactly its own. One with
    port 0 allows the ports that the operating system chooses, for which `address.port` is 0.
    """
    for file in keep.workload.files:
        if file.kind != "listen" or file.port != address.port:
            continue
        if file.host == "::":
            return file
        try:
            entry = ipaddress.ip_address(file.host)
        except ValueError:
            # No address, so it names none; preopened sockets are where that is an error.
            continue
        if entry == address.ip or (entry.is_unspecified and entry.version == 4 and address.ip.version == 4):
            return file
    return None


def find_tls_entry(keep: Keep, address: SocketAddress) -> File | None:
    """Return the `connect` entry with prot tls that names an address, itself or by a name that was looked up."""
    text = str(address.ip)
    names = _remembered(keep).get(text, ())
    for file in keep.workload.files:
        if (file.kind, file.prot, file.port) == ("connect", "tls", address.port) and (
            file.host.strip("[]") == text or file.host.lower().removesuffix(".") in names
        ):
            return file
    return None


def _remembered(keep: Keep) -> dict[str, set[str]]:
    names: dict[str, set[str]] = keep.state.setdefault("wasi:sockets names", {})
    return names


# --- Interfaces ------------------------------------------------------------------------------------------------------


class NetworkHandle:
    """The resource `network`: there is one, and all it says is that."""

    __slots__ = ()


network_interface = Interface("wasi:sockets/network", uses={"error": ERROR})
NETWORK: Kind = network_interface.resource("network")
instance_network_interface = Interface("wasi:sockets/instance-network", uses={"network": NETWORK})
lookup_interface = Interface("wasi:sockets/ip-name-lookup", uses={"network": NETWORK, "pollable": POLLABLE})
RESOLVE_STREAM: Kind = lookup_interface.resource("resolve-address-stream")


@network_interface.func("network-error-code", (Borrow(ERROR),), Option(ERROR_CODE))
def _network_error_code(_keep: Keep, error: IoError) -> str | None:
    return error_code(error.cause) if isinstance(error.cause, OSError) else None


@instance_network_interface.func("instance-network", (), Own(NETWORK))
def _instance_network(_keep: Keep) -> NetworkHandle:
    return NetworkHandle()


class ResolveStream(Pollable):
    """The resource `resolve-address-stream`: a lookup in a thread of its own, which has an end in time."""

    __slots__ = ("_answer", "_keep", "_left", "_lock", "_name", "_network", "_ready_fd")

    def __init__(self, keep: Keep, network: Network, name: str) -> None:
        self._keep = keep
        self._network = network
        self._name = name
        self._answer: list[tuple[int, tuple[Any, ...]]] | str | None = None
        self._left: list[ipaddress.IPv4Address | ipaddress.IPv6Address] | None = None
        self._lock = threading.Lock()
        self._ready_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._look_up, daemon=True).start()

    def _look_up(self) -> None:
        answer: list[tuple[int, tuple[Any, ...]]] | str
        try:
            answer = self._network.look_up(self._name, _LOOKUP_PORT, timeout_s=LOOKUP_S)
        except TransportError as error:
            answer = "temporary-resolver-failure" if "want one within" in str(error) else "name-unresolvable"
        with self._lock:
            self._answer = answer
            if self._ready_fd >= 0:
                os.eventfd_write(self._ready_fd, 1)

    def interest(self) -> Interest | None:
        return None if self._answer is not None else (self._ready_fd, POLLIN, None)

    def next_address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """Return the next address, or None after the last.

        Raises:
            Err: there is no answer yet, or there is none.
        """
        if self._left is None:
            answer = self._answer
            if answer is None:
                raise Err("would-block")
            if isinstance(answer, str):
                raise Err(answer)
            found = [str(address[0]).partition("%")[0] for _, address in answer]
            self._remember(found)
            self._left = [ipaddress.ip_address(text) for text in found]
        return self._left.pop(0) if self._left else None

    def _remember(self, found: list[str]) -> None:
        names = _remembered(self._keep)
        for text in found:
            # As in `Egress.learn`, the oldest are forgotten first.
            known = names.pop(text, set())
            names[text] = {*known, self._name.lower().removesuffix(".")}
            if len(names) > MAX_REMEMBERED:
                del names[next(iter(names))]

    def drop(self) -> None:
        """Forget the lookup, which ends by itself."""
        with self._lock:
            os.close(self._ready_fd)
            self._ready_fd = -1


@lookup_interface.func("resolve-addresses", (Borrow(NETWORK), String), Result(Own(RESOLVE_STREAM), ERROR_CODE))
def _resolve_addresses(keep: Keep, _network: NetworkHandle, name: str) -> ResolveStream:
    if not name or len(name) > 253:
        raise Err("invalid-argument")
    network = keep.network
    if not network.egress.permits_name(name):
        raise Err("access-denied")
    return ResolveStream(keep, network, name)


@lookup_interface.func(
    "[method]resolve-address-stream.resolve-next-address",
    (Borrow(RESOLVE_STREAM),),
    Result(Option(_ADDRESS), ERROR_CODE),
)
def _next_address(_keep: Keep, stream: ResolveStream) -> tuple[str, tuple[int, ...]] | None:
    ip = stream.next_address()
    return None if ip is None else ip_to_wit(ip)


@lookup_interface.func("[method]resolve-address-stream.subscribe", (Borrow(RESOLVE_STREAM),), Own(POLLABLE))
def _subscribe(_keep: Keep, stream: ResolveStream) -> Pollable:
    return _LookupPollable(stream)


class _LookupPollable(Pollable):
    __slots__ = ("_stream",)

    def __init__(self, stream: ResolveStream) -> None:
        self._stream = stream

    def interest(self) -> Interest | None:
        return self._stream.interest()
