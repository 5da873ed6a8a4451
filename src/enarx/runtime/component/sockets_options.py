# SPDX-License-Identifier: Apache-2.0
"""Socket options of wasi:sockets 0.2: real ones of the operating system, clamped to what it takes, or remembered ones.

Source: WIT package wasi:sockets@0.2.12; tcp(7), ip(7), socket(7).
"""

from __future__ import annotations

import socket

from enarx.runtime.component.binding import Borrow
from enarx.runtime.component.sockets_network import ERROR_CODE, refused
from enarx.runtime.component.values import U8, U32, U64, Bool, Err, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from enarx.runtime.component.binding import Interface, Keep, Kind
    from enarx.runtime.component.values import Codec

    class HasSocket(Protocol):
        """A tcp-socket or a udp-socket."""

        family: str
        options: socket.socket | RememberedOptions


_SECOND_NS = 10**9
_MAX_KEEPALIVE_S = 32767
_MAX_KEEPALIVE_COUNT = 127
_MAX_BUFFER_BYTES = (1 << 31) - 1

# What Linux starts with.
_DEFAULTS = {
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 7200,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 75,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 9,
    (socket.IPPROTO_IP, socket.IP_TTL): 64,
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): 64,
    (socket.SOL_SOCKET, socket.SO_RCVBUF): 212992,
    (socket.SOL_SOCKET, socket.SO_SNDBUF): 212992,
}

_HOP_LIMIT = {
    "ipv4": (socket.IPPROTO_IP, socket.IP_TTL),
    "ipv6": (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}


class RememberedOptions:
    """Options of a socket that a broker makes: somebody else's TCP is beyond them, so that they are told back and no more."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[tuple[int, int], int] = {}

    def getsockopt(self, level: int, number: int) -> int:
        """Return what was set, or what Linux would start with."""
        return self._values.get((level, number), _DEFAULTS.get((level, number), 0))

    def setsockopt(self, level: int, number: int, value: int) -> None:
        """Remember it; buffers are told doubled, as Linux tells them."""
        doubled = level == socket.SOL_SOCKET and number in {socket.SO_RCVBUF, socket.SO_SNDBUF}
        self._values[level, number] = 2 * value if doubled else value


def _hop_limit(resource: HasSocket) -> tuple[int, int]:
    return _HOP_LIMIT[resource.family]


def _option(level: int, number: int) -> Callable[[HasSocket], tuple[int, int]]:
    return lambda _resource: (level, number)


def _plain(value: int) -> int:
    return value


def _seconds(value_ns: int) -> int:
    return max(1, min(-(-value_ns // _SECOND_NS), _MAX_KEEPALIVE_S))


def declare_option(
    interface: Interface,
    kind: Kind,
    name: str,
    codec: Codec,
    where: Callable[[HasSocket], tuple[int, int]],
    *,
    to_host: Callable[[int], int] = _plain,
    from_host: Callable[[int], int] = _plain,
) -> None:
    """Declare the two functions of one option; 0 is refused unless it is a bool.

    Args:
        interface: of the socket.
        kind: the socket's.
        name: of the getter.
        codec: of the value.
        where: level and number of the operating system's option.
        to_host: translates and clamps.
        from_host: translates back.
    """
    resource_name = kind.name.rpartition(".")[2]

    def read(_keep: Keep, resource: HasSocket) -> int:
        try:
            return from_host(resource.options.getsockopt(*where(resource)))
        except OSError as error:
            raise refused(error) from error

    def write(_keep: Keep, resource: HasSocket, value: int) -> None:
        if not value and codec is not Bool:
            raise Err("invalid-argument")
        try:
            resource.options.setsockopt(*where(resource), to_host(value))
        except OSError as error:
            raise refused(error) from error

    interface.func(f"[method]{resource_name}.{name}", (Borrow(kind),), Result(codec, ERROR_CODE))(read)
    setter = f"[method]{resource_name}.set-{name}"
    interface.func(setter, (Borrow(kind), codec), Result(None, ERROR_CODE))(write)


def declare_tcp_options(interface: Interface, kind: Kind) -> None:
    """Declare what only TCP has, and what it shares with UDP."""
    tcp = socket.IPPROTO_TCP
    declare_option(
        interface, kind, "keep-alive-enabled", Bool, _option(socket.SOL_SOCKET, socket.SO_KEEPALIVE), to_host=int
    )
    for name, number in (("keep-alive-idle-time", socket.TCP_KEEPIDLE), ("keep-alive-interval", socket.TCP_KEEPINTVL)):
        declare_option(
            interface,
            kind,
            name,
            U64,
            _option(tcp, number),
            to_host=_seconds,
            from_host=lambda value: value * _SECOND_NS,
        )
    declare_option(
        interface,
        kind,
        "keep-alive-count",
        U32,
        _option(tcp, socket.TCP_KEEPCNT),
        to_host=lambda value: min(value, _MAX_KEEPALIVE_COUNT),
    )
    declare_option(interface, kind, "hop-limit", U8, _hop_limit)
    _declare_buffers(interface, kind)


def declare_udp_options(interface: Interface, kind: Kind) -> None:
    """Declare what UDP has."""
    declare_option(interface, kind, "unicast-hop-limit", U8, _hop_limit)
    _declare_buffers(interface, kind)


def _declare_buffers(interface: Interface, kind: Kind) -> None:
    for name, number in (("receive-buffer-size", socket.SO_RCVBUF), ("send-buffer-size", socket.SO_SNDBUF)):
        declare_option(
            interface,
            kind,
            name,
            U64,
            _option(socket.SOL_SOCKET, number),
            to_host=lambda value: min(value, _MAX_BUFFER_BYTES),
            # Linux counts its own records too, and so doubles what it was told.
            from_host=lambda value: value // 2,
        )
