# SPDX-License-Identifier: Apache-2.0
"""DHCP as far as a Keep in a cloud needs it: what is asked for an address, and what an answer says. No sockets are here.

Rules of this file:

- Whoever answers is the host, who may say what he likes: an address is where the Keep can be reached, and nothing else of an answer
  is used but how to send from there. Any bytes give a value or a DecodeError.
- Messages go in frames of our own making, because a network that gives an address cannot yet deliver to it.

Source: RFC 2131 (DHCP), RFC 2132 (options 1, 3, 26 and 50 to 55), RFC 768 and 791 (UDP, IPv4), RFC 1071 (checksum).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from enarx.errors import DecodeError

__all__ = [
    "ACK",
    "DISCOVER",
    "MAX_FRAME_BYTES",
    "NAK",
    "OFFER",
    "REQUEST",
    "Answer",
    "encode_request",
    "parse_answer_untrusted",
]

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
"""Kinds of messages."""

MAX_FRAME_BYTES = 2048
MIN_LEASE_S = 60

_CLIENT, _SERVER = 68, 67
_UDP = 17
_BOOTP_BYTES = 236
# Shorter messages are dropped by some relays: RFC 1542, section 2.1.
_LEAST_BYTES = 300
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST = b"\xff\xff\xff\xff"
_NOWHERE = bytes(4)
_WANTS_BROADCAST = 0x8000
_MASK, _ROUTER, _MTU, _ADDRESS, _LEASE, _OVERLOAD, _KIND, _SERVER_ID, _WANTED = 1, 3, 26, 50, 51, 52, 53, 54, 55
_PAD, _END = 0, 255


class Answer(NamedTuple):
    """What a server says.

    Args:
        kind: `OFFER`, `ACK` or `NAK`.
        address: that it gives, 4 bytes.
        mask: of the network, 4 bytes.
        router: on the way to everybody else, 4 bytes, or None.
        mtu: the largest packet in bytes, or None.
        lease_s: for how long; at least `MIN_LEASE_S`.
        server: what it calls itself, 4 bytes.
    """

    kind: int
    address: bytes
    mask: bytes
    router: bytes | None
    mtu: int | None
    lease_s: int
    server: bytes


def encode_request(
    kind: int, *, transaction: bytes, hardware: bytes, offered: Answer | None = None, held: bytes = _NOWHERE
) -> bytes:
    """Return an IPv4 packet to all servers of a network.

    Args:
        kind: `DISCOVER`, or `REQUEST`.
        transaction: 4 bytes that answers repeat.
        hardware: the address of the network device, 6 bytes.
        offered: what a server offered, where that is requested.
        held: the address that was given before and is requested again, 4 bytes.
    """
    options = bytes((_KIND, 1, kind, _WANTED, 4, _MASK, _ROUTER, _MTU, _LEASE))
    if offered is not None:
        options += bytes((_ADDRESS, 4)) + offered.address + bytes((_SERVER_ID, 4)) + offered.server
    # Answers go to everybody: this end has no address by which it could be found yet.
    message = struct.pack(
        ">BBBB4sHH4s4s4s4s16s192x", 1, 1, len(hardware), 0, transaction, 0, 0 if any(held) else _WANTS_BROADCAST,
        held, _NOWHERE, _NOWHERE, _NOWHERE, hardware,
    )  # fmt: skip
    message = (message + _COOKIE + options + bytes((_END,))).ljust(_LEAST_BYTES, b"\0")
    # A checksum of zero says that there is none; the one below is of the address part alone.
    datagram = struct.pack(">HHHH", _CLIENT, _SERVER, 8 + len(message), 0) + message
    return _packet(held, datagram)


def _packet(source: bytes, datagram: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, _UDP, 0, source, _BROADCAST)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack(">H", checksum) + head[12:] + datagram


def parse_answer_untrusted(packet: bytes, *, transaction: bytes, hardware: bytes) -> Answer:
    """Decode an answer.

    Args:
        packet: IPv4.
        transaction: of the question.
        hardware: the address of the network device that asked.

    Raises:
        DecodeError: it is none to that question, or none that can be used.
    """
    try:
        message = _message(packet)
        operation, _, size, transaction_found = struct.unpack_from(">BBBx4s", message)
        if operation != 2 or transaction_found != transaction or size != len(hardware):
            raise _refusal("an answer to somebody else")
        if message[28 : 28 + size] != hardware or message[_BOOTP_BYTES : _BOOTP_BYTES + 4] != _COOKIE:
            raise _refusal("an answer to somebody else")
        options = _options(message[_BOOTP_BYTES + 4 :])
        return _answer(message[16:20], options)
    except (struct.error, IndexError) as error:
        raise _refusal(f"{len(packet)} bytes that end too early") from error


def _message(packet: bytes) -> bytes:
    version_size, total, fragment, protocol = struct.unpack_from(">BxHxxHxB", packet)
    head = (version_size & 15) * 4
    if version_size >> 4 != 4 or head < 20 or protocol != _UDP or fragment & 0x3FFF:
        raise _refusal("another packet than a whole UDP datagram")
    source, target, size = struct.unpack_from(">HHH", packet, head)
    if source != _SERVER or target != _CLIENT or not 8 + _BOOTP_BYTES <= size <= min(total, len(packet)) - head:
        raise _refusal(f"{size} bytes from port {source} to {target}")
    return packet[head + 8 : head + size]


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        size = data[at + 1]
        value = data[at + 2 : at + 2 + size]
        if len(value) != size:
            raise _refusal("an option that ends too early")
        found.setdefault(data[at], value)
        at += 2 + size
    if _OVERLOAD in found:
        raise _refusal("options where names are")
    return found


def _answer(address: bytes, options: dict[int, bytes]) -> Answer:
    kind = options.get(_KIND, b"")
    server = options.get(_SERVER_ID, b"")
    if kind == bytes((NAK,)):
        return Answer(NAK, address, _NOWHERE, None, None, MIN_LEASE_S, server)
    mask, routers, mtu = options.get(_MASK, b"\xff\xff\xff\x00"), options.get(_ROUTER, b""), options.get(_MTU, b"")
    lease = options.get(_LEASE, b"")
    bits = f"{int.from_bytes(mask, 'big'):032b}"
    if kind not in {bytes((OFFER,)), bytes((ACK,))} or len(server) != 4 or len(lease) != 4:
        raise _refusal("an answer without kind, server or lease")
    if not 1 <= address[0] <= 223 or address[0] == 127:
        raise _refusal("an address that no machine can have")
    if len(mask) != 4 or "01" in bits or len(routers) % 4 or len(mtu) not in {0, 2}:
        raise _refusal("a mask, routers or a size of packets that are none")
    size = int.from_bytes(mtu, "big")
    return Answer(
        kind=kind[0],
        address=address,
        mask=mask,
        router=routers[:4] or None,
        # Below that no host has to carry what is sent; RFC 791.
        mtu=size if size >= 576 else None,
        lease_s=max(int.from_bytes(lease, "big"), MIN_LEASE_S),
        server=server,
    )


def _refusal(found: str) -> DecodeError:
    return DecodeError(f"cannot use an answer of DHCP: found {found}, want one with an address")
