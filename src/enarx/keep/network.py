# SPDX-License-Identifier: Apache-2.0
"""The network of a Keep in a cloud: one device that gets an address, and a listening socket for the host.

Rules of this file:

- The measured command line says whether there is a network at all, and which port; nothing of a host's does.
- Whoever connects is the host, and not believed; so is whoever gives an address. What is behind this file is the link, as on every
  other way.
- One address of IPv4, which is kept for the life of the machine: what would change it, this process gives up before the Keep is ready.
  Leases are asked for again in time, because some networks give an address to others where nobody does.
- Every wait has a limit. Devices that no server answers on are left alone.

Source: Linux netdevice(7), packet(7), rtnetlink is not used; RFC 2131 section 4.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import time

from enarx.errors import DecodeError, PlatformError
from enarx.keep.dhcp import (
    ACK,
    DISCOVER,
    MAX_FRAME_BYTES,
    NAK,
    OFFER,
    REQUEST,
    Answer,
    encode_request,
    parse_answer_untrusted,
)

__all__ = ["Lease", "join_network", "listen"]

JOIN_S = 60.0
"""For a device and an address; clouds attach devices while the machine starts."""

RENEW_S = 10.0
"""For the answer to a lease that is asked for again."""

BACKLOG = 16
KEEPALIVE_S = (15, 5, 3)
"""Silence before a host is asked whether it is still there, the time between such questions, and how many are."""

_ASK_EVERY_S = 2.0
_LOOK_EVERY_S = 0.1
_RETRY_S = 60.0
_DEVICES = "/sys/class/net"
_ETHERNET = "1"
_ETH_IP = 0x0800
_TO_ALL = b"\xff" * 6

_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS, _SET_MASK, _SET_MTU, _ADD_ROUTE = 0x8913, 0x8914, 0x8916, 0x891C, 0x8922, 0x890B
_UP = 1
_ROUTE_UP, _ROUTE_GATEWAY, _ROUTE_HOST = 1, 2, 4


def listen(port: int) -> socket.socket:
    """Return a socket on which hosts can connect, over every device.

    What is set on it holds for connections that it gives: a host that went away without a word is noticed.

    Raises:
        PlatformError: it cannot be made.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        idle_s, every_s, count = KEEPALIVE_S
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (idle_s + every_s * count))
        sock.bind(("0.0.0.0", port))  # noqa: S104  # the machine is the Keep's, and whoever connects is the host
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PlatformError(f"cannot start the Keep: TCP port {port}: {error.strerror}") from error
    return sock


class _Device:
    """A network device, with a socket of its frames."""

    def __init__(self, name: str) -> None:
        self.name = name
        with open(f"{_DEVICES}/{name}/address", encoding="ascii") as file:
            self.hardware = bytes.fromhex(file.read().strip().replace(":", ""))
        self.transaction = os.urandom(4)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            _set_flags(name)
            self.socket.bind((name, _ETH_IP))
        except OSError:
            self.socket.close()
            raise

    def ask(self, kind: int, *, offered: Answer | None = None, held: bytes = bytes(4)) -> None:
        packet = encode_request(kind, transaction=self.transaction, hardware=self.hardware, offered=offered, held=held)
        # A device that was just switched on may not send yet; it is asked again.
        with contextlib.suppress(OSError):
            self.socket.sendto(packet, (self.name, _ETH_IP, 0, 0, _TO_ALL))

    def answer(self, *kinds: int) -> Answer | None:
        """Return an answer of some kind that has come, and forget what else has."""
        while True:
            try:
                packet = self.socket.recv(MAX_FRAME_BYTES)
            except OSError:
                # There is none, or the device is down for now.
                return None
            with contextlib.suppress(DecodeError):
                answer = parse_answer_untrusted(packet, transaction=self.transaction, hardware=self.hardware)
                if answer.kind in kinds:
                    return answer


class Lease:
    """An address that was given, and is asked for again in time.

    Args:
        device: that has it.
        answer: what was said with it.
    """

    def __init__(self, device: _Device, answer: Answer) -> None:
        self._device = device
        self.answer = answer

    async def keep(self) -> None:
        """Ask for the address again whenever half of its time is over, for ever.

        Where nobody answers it is kept and asked for again: the network is the host's, and can be taken away in other ways.
        """
        while True:
            wait_s: float = self.answer.lease_s / 2
            while True:
                await asyncio.sleep(wait_s)
                again = await self._ask_again()
                if again is not None:
                    self.answer = again
                    break
                wait_s = _RETRY_S

    async def _ask_again(self) -> Answer | None:
        device = self._device
        device.transaction = os.urandom(4)
        device.ask(REQUEST, held=self.answer.address)
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(device.socket, readable.set)
        try:
            async with asyncio.timeout(RENEW_S):
                while True:
                    readable.clear()
                    answer = device.answer(ACK, NAK)
                    if answer is not None:
                        return answer if answer.kind == ACK and answer.address == self.answer.address else None
                    await readable.wait()
        except TimeoutError:
            return None
        finally:
            loop.remove_reader(device.socket)


def join_network(timeout_s: float = JOIN_S) -> Lease:
    """Have a device of this machine get an address; blocking.

    Args:
        timeout_s: for all of it.

    Raises:
        PlatformError: no server answered in time, or the kernel does not take what it said.
    """
    until = time.monotonic() + timeout_s
    devices: dict[str, _Device] = {}
    poll = select.poll()
    asked = 0.0
    try:
        while time.monotonic() < until:
            for name in _ethernet_devices():
                if name not in devices:
                    devices[name] = _Device(name)
                    poll.register(devices[name].socket, select.POLLIN)
                    asked = 0.0
            if time.monotonic() - asked > _ASK_EVERY_S:
                asked = time.monotonic()
                for device in devices.values():
                    device.ask(DISCOVER)
            poll.poll(_LOOK_EVERY_S * 1000)
            for name, device in devices.items():
                offer = device.answer(OFFER)
                if offer is not None and (answer := _take(device, offer, until)) is not None:
                    _configure(name, answer)
                    del devices[name]
                    return Lease(device, answer)
    except OSError as error:
        raise PlatformError(f"cannot start the Keep: network: {error.strerror}") from error
    finally:
        for device in devices.values():
            device.socket.close()
    found = ", ".join(devices) or "no device"
    raise PlatformError(
        f"cannot start the Keep: network: found {found} and no address, want one within {timeout_s:g} s"
    )


def _take(device: _Device, offer: Answer, until: float) -> Answer | None:
    """Ask for what was offered, and return the answer if it is yes."""
    until = min(until, time.monotonic() + _ASK_EVERY_S)
    device.ask(REQUEST, offered=offer)
    while time.monotonic() < until:
        answer = device.answer(ACK, NAK)
        if answer is not None:
            return answer if answer.kind == ACK else None
        select.select([device.socket], [], [], _LOOK_EVERY_S)
    return None


def _ethernet_devices() -> list[str]:
    names = []
    for name in sorted(os.listdir(_DEVICES)):
        # One that goes while it is looked at is none.
        with contextlib.suppress(OSError), open(f"{_DEVICES}/{name}/type", encoding="ascii") as file:
            if file.read().strip() == _ETHERNET:
                names.append(name)
    return names


# --- The kernel's side -----------------------------------------------------------------------------------------------


def _configure(name: str, answer: Answer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if answer.mtu is not None:
            fcntl.ioctl(control, _SET_MTU, struct.pack("16si20x", name.encode(), answer.mtu))
        for request, value in ((_SET_ADDRESS, answer.address), (_SET_MASK, answer.mask)):
            fcntl.ioctl(control, request, struct.pack("16s16s8x", name.encode(), _socket_address(value)))
        if answer.router is not None:
            # Some clouds give networks of one address, where the router is on no network of ours.
            _add_route(control, name, answer.router, _ROUTE_UP | _ROUTE_HOST, mask=b"\xff" * 4)
            _add_route(control, name, bytes(4), _ROUTE_UP | _ROUTE_GATEWAY, router=answer.router)


def _set_flags(name: str) -> None:
    """Switch a device on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(control, _GET_FLAGS, struct.pack("16s24x", name.encode())))
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH22x", name.encode(), flags | _UP))


def _add_route(
    control: socket.socket, name: str, target: bytes, flags: int, *, mask: bytes = bytes(4), router: bytes = bytes(4)
) -> None:
    import ctypes

    # struct rtentry has a pointer to the device's name, which has to live as long as the call.
    device = ctypes.create_string_buffer(name.encode())
    entry = struct.pack(
        "@L16s16s16sHhLPhPLLH", 0, *map(_socket_address, (target, router, mask)), flags, 0, 0, 0, 0,
        ctypes.addressof(device), 0, 0, 0,
    )  # fmt: skip
    fcntl.ioctl(control, _ADD_ROUTE, entry)


def _socket_address(address: bytes) -> bytes:
    """Return struct sockaddr_in."""
    return struct.pack("=H2x4s8x", socket.AF_INET, address)
