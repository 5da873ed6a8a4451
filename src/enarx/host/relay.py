# SPDX-License-Identifier: Apache-2.0
"""Bytes between a Keep's streams and the network: published ports, and connections that leave.

What is relayed is never looked at. The host decides where it connects to on a Keep's behalf, whatever the Keep's own rules
allow: never to its own API, which on loopback asks nobody who he is, and to the machine's neighbourhood only where its
operator says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from enarx.channel.link import Link, Stream, Target, relay
from enarx.errors import PlatformError, TransportError

__all__ = ["MAX_INBOUND", "MAX_LOOKUPS", "Outbound", "OutboundRules", "PublishedPort", "bind_port"]

CONNECT_TIMEOUT_S = 10.0
"""For the lookup and all addresses together; a Keep waits 15."""

MAX_ADDRESSES = 8
MAX_LOOKUPS = 2
"""Of one Keep at once. A resolver that does not answer keeps a thread for longer than anybody waits for it."""

MAX_INBOUND = 640
"""Connections to the published ports of one Keep. Its link has 1024 streams, and sessions need theirs."""

BACKLOG = 512

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def bind_port(address: str, port: int) -> socket.socket:
    """Listen on a TCP port; 0 is any that is free.

    Raises:
        PlatformError: it is not free, or not ours to use.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise PlatformError(
            f"cannot listen on {address} port {port}: {error.strerror}",
            hint="choose another port, or 0 for any that is free",
        ) from error
    return listener


class PublishedPort:
    """A port of this machine that leads to a socket of a workload.

    Args:
        name: of the socket, as the workload's configuration has it.
        listener: the listening socket; this object closes it.
        link: of the Keep.
        slots: taken by each connection of the Keep.
    """

    def __init__(self, name: str, listener: socket.socket, link: Link, slots: asyncio.Semaphore) -> None:
        self.name = name
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._link = link
        self._slots = slots
        self._tasks = {asyncio.create_task(self._accept())}

    def close(self) -> None:
        """Stop listening and end every connection."""
        for task in self._tasks:
            task.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Where there is no slot, a connection waits in the backlog.
            await self._slots.acquire()
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:
                # Too many descriptors, or a peer that went before it was there. The loop goes on with others first.
                self._slots.release()
                await asyncio.sleep(0.05)
                continue
            except BaseException:
                self._slots.release()
                raise
            task = asyncio.create_task(self._carry(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, connection: socket.socket) -> None:
        try:
            stream = await self._link.open(Target.inbound(self.name))
            await relay(stream, connection)
        except TransportError:
            return  # told to whoever is connected by the end of the connection
        finally:
            connection.close()
            self._slots.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRules:
    """Where the host connects to for Keeps.

    Args:
        allowed: whether anywhere.
        local: whether to addresses that are not public: loopback, private, link-local.
        api: addresses and ports on which the host itself listens.
    """

    allowed: bool = True
    local: bool = True
    api: tuple[tuple[str, int], ...] = ()


class Outbound:
    """Connects to the network for Keeps.

    Args:
        rules: where to.
        keeps: how many there can be at once; each has threads for `MAX_LOOKUPS`, so that none waits for another's.
        resolve: looks a name up, blocking, as `socket.getaddrinfo` does.
    """

    def __init__(
        self, rules: OutboundRules, *, keeps: int, resolve: Callable[..., list[Any]] = socket.getaddrinfo
    ) -> None:
        self._rules = rules
        self._resolve = resolve
        # Of their own: a resolver that does not answer keeps its thread, and nothing else may wait for that. A thread is
        # made when no other is idle.
        self._lookups = ThreadPoolExecutor(max(1, keeps) * MAX_LOOKUPS, "lookup")

    def close(self) -> None:
        """Forget lookups that have not begun."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def carry(self, stream: Stream, lookups: asyncio.Semaphore) -> None:
        """Connect a stream to where its target says, and relay until both directions have ended.

        Args:
            stream: that a Keep opened.
            lookups: of that Keep, `MAX_LOOKUPS` at once.

        Raises:
            TransportError: the connection cannot be made, or was reset. The stream is reset with the reason.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await self._connect(stream.target.host, stream.target.port, lookups)
        except TimeoutError as error:
            stream.reset("timeout")
            raise TransportError("cannot connect for a Keep: found no answer in time") from error
        except PermissionError as error:
            stream.reset("refused")
            raise TransportError(f"cannot connect for a Keep: {error}") from error
        except ConnectionRefusedError as error:
            stream.reset("refused")
            raise TransportError("cannot connect for a Keep: found the connection refused") from error
        except (OSError, ValueError) as error:
            stream.reset("unreachable")
            raise TransportError("cannot connect for a Keep: found nobody there") from error
        stream.confirm()
        try:
            await relay(stream, connection)
        finally:
            connection.close()

    async def _connect(self, host: str, port: int, lookups: asyncio.Semaphore) -> socket.socket:
        if not self._rules.allowed:
            raise PermissionError("found outbound connections switched off")
        loop = asyncio.get_running_loop()
        await lookups.acquire()
        looking = loop.run_in_executor(
            self._lookups, lambda: self._resolve(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        )
        # When the thread ends, which may be long after nobody waits for it any more.
        looking.add_done_callback(lambda _: lookups.release())
        found = await asyncio.shield(looking)
        problem: OSError = OSError("no address")
        for family, _, _, _, address in found[:MAX_ADDRESSES]:
            try:
                self._require_allowed(ipaddress.ip_address(str(address[0]).partition("%")[0]), port)
                return await self._try(loop, family, address)
            except OSError as error:
                problem = error
        raise problem

    @staticmethod
    async def _try(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connection.close()
            raise
        return connection

    def _require_allowed(self, address: _Address, port: int) -> None:
        """Refuse the host's own API, and what only somebody on this machine should reach.

        Raises:
            PermissionError: the host does not connect there.
        """
        address = _plain(address)
        if address.is_unspecified or address.is_multicast:
            # Connecting to 0.0.0.0 is connecting to this machine, by another name.
            raise PermissionError("found an address that is nobody's")
        if not self._rules.local and not address.is_global:
            raise PermissionError("found an address that is not public")
        for own, own_port in self._rules.api:
            if port != own_port:
                continue
            listening = _plain(ipaddress.ip_address(own))
            if listening == address or (listening.is_unspecified and _is_ours(address)):
                raise PermissionError("found the address of the host's own API")


def _plain(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one stands for."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_ours(address: _Address) -> bool:
    """Say whether an address is one of this machine's: only on those can a socket be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
