# SPDX-License-Identifier: Apache-2.0
"""A workload's sockets: what it listens on, which the host publishes, and what it connects to, which goes out through the host.

Which connections are allowed is decided here, before the host hears of them, and not in the workload process, which is not
believed. The host carries the bytes wherever it likes: it is TLS in the workload process that makes a peer who it says it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from enarx.channel.link import Link, Stream, Target, relay
from enarx.errors import PlatformError, TransportError, UsageError
from enarx.keep.workload_start import Connect, Connected, Refused, peer_pid
from enarx.runtime.egress import Egress, pattern_for
from enarx.wire.records import ConnectFile, EnarxToml, ListenFile

__all__ = ["NoConnectionError", "Ports", "egress_of", "listen", "open_outbound"]

OPEN_TIMEOUT_S = 15.0
"""For the host to be connected; it gives up after 10."""

MAX_OUTBOUND = 512
_BACKLOG = 1024


def egress_of(toml: EnarxToml) -> Egress:
    """Return what the workload may connect to: its `allow_connect`, or else exactly what it says it connects to.

    Raises:
        ConfigError: a pattern is wrong.
    """
    patterns = toml.allow_connect
    if patterns is None:
        patterns = tuple(pattern_for(file.host, file.port) for file in toml.files if isinstance(file, ConnectFile))
    return Egress(patterns)


def listen(toml: EnarxToml) -> dict[str, socket.socket]:
    """Make a listening socket for each `listen` entry, in their order.

    Their names are the kernel's, in no folder: nothing is left of them when the Keep is killed, and nobody has to make room. Who
    answers at such a name is looked at before it is believed.

    Raises:
        PlatformError: it cannot be made.
    """
    listeners: dict[str, socket.socket] = {}
    for file in toml.files:
        if isinstance(file, ListenFile):
            sock = listeners[file.name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # An empty name asks for one that is free; see unix(7), "Autobind feature".
                sock.bind("")
                sock.listen(_BACKLOG)
            except OSError as error:
                raise PlatformError(f"cannot listen for {file.name}: {error.strerror}") from error
    return listeners


class NoConnectionError(TransportError):
    """A connection was not made.

    Args:
        where: host and port, for the message.
        reason: one of `enarx.keep.workload_start.REASONS`.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"cannot connect to {where}: the host says {reason}, want a connection")
        self.reason = reason


async def open_outbound(link: Link | None, host: str, port: int) -> Stream:
    """Open a connection that the host makes; who may be connected to was judged before.

    Raises:
        NoConnectionError: there is none, or not in time.
    """
    stream: Stream | None = None
    try:
        if link is None:
            reason = "closed"
        else:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                stream = await link.open(Target.outbound(host, port))
                await stream.wait_confirmed()
                return stream
    except TimeoutError:
        reason = "timeout"
        if stream is not None:
            stream.reset("timeout")
    except TransportError:
        if link is None or link.closed.is_set():
            reason = "closed"
        else:
            reason = "limit" if stream is None else stream.reset_reason or "closed"
    except UsageError:
        # A name that the link cannot carry.
        reason = "refused"
    raise NoConnectionError(f"{host}:{port}", reason)


class Ports:
    """The sockets of one workload.

    Args:
        egress: what it may connect to.
        names: of its listening sockets, by those of their entries.
        link: returns the link of the moment, or None.
        answer: takes what the workload process is answered, and the descriptors for it.
    """

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, bytes],
        *,
        link: Callable[[], Link | None],
        answer: Callable[[Connected | Refused, tuple[int, ...]], None],
    ) -> None:
        self._egress = egress
        self._names = dict(names)
        self._link = link
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbound = 0

    def accept(self, stream: Stream) -> None:
        """Connect a stream that the host opened to the socket it names."""
        name = self._names.get(stream.target.name)
        if name is None:
            stream.reset("refused")
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            # A unix socket is connected at once, or its backlog is full or nobody listens any more.
            sock.connect(name)
            # Where it is not this process that listens, the name is another's by now.
            if peer_pid(sock) != os.getpid():
                raise ConnectionRefusedError
        except OSError as error:
            sock.close()
            stream.reset("limit" if isinstance(error, BlockingIOError) else "refused")
            return
        self._keep(self._carry(stream, sock))

    def connect(self, wanted: Connect) -> None:
        """Connect the workload to a peer, or tell it why not."""
        if not self._egress.permits(wanted.host, wanted.port):
            self._answer(Refused(wanted.request, "denied"), ())
        elif self._outbound >= MAX_OUTBOUND:
            self._answer(Refused(wanted.request, "limit"), ())
        else:
            self._outbound += 1
            self._keep(self._connect(wanted))

    async def close(self) -> None:
        """Break every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _connect(self, wanted: Connect) -> None:
        try:
            try:
                stream = await open_outbound(self._link(), wanted.host, wanted.port)
            except NoConnectionError as error:
                self._answer(Refused(wanted.request, error.reason), ())
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._answer(Connected(wanted.request), (theirs.detach(),))
            await self._carry(stream, ours)
        finally:
            self._outbound -= 1

    async def _carry(self, stream: Stream, sock: socket.socket) -> None:
        # Either end may break a connection whenever it likes, and each hears of it from its own socket.
        with contextlib.suppress(TransportError):
            await relay(stream, sock)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
