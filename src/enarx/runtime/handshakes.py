# SPDX-License-Identifier: Apache-2.0
"""TLS handshakes of a listening socket, each as far as its peer has come: none ever stops the next.

A handshake takes as long as its peer likes, so it never happens inside an accept. Connections whose handshakes are under
way wait in an epoll of their own, with the listening socket; what is taken from here is complete. The oldest unfinished
one gives way when there are too many, and each when its time is over.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque

from enarx.errors import TransportError
from enarx.runtime.network import prepare, shown_peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.runtime.tls import ServerTls, TlsStream

HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 256
_ACCEPTS_AT_ONCE = 64


class Handshakes:
    """Accepted connections that are nobody's yet.

    Args:
        listener: non-blocking; closed by its owner, after this.
        tls: the server's end.

    Attributes:
        fd: a descriptor that is readable whenever a handshake can go on or a connection has come.
    """

    __slots__ = ("_epoll", "_listener", "_ready", "_tls", "_under_way", "fd")

    def __init__(self, listener: socket.socket, tls: ServerTls) -> None:
        self._listener = listener
        self._tls = tls
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._ready: deque[tuple[TlsStream, socket.socket]] = deque()
        # In the order of their deadlines.
        self._under_way: dict[int, tuple[TlsStream, socket.socket, float]] = {}
        self.fd = self._epoll.fileno()

    def __len__(self) -> int:
        """Return how many connections are ready to be taken."""
        return len(self._ready)

    def advance(self) -> bool:
        """Take every handshake as far as it goes; return whether a connection is ready."""
        now = time.monotonic()
        for number, _ in self._epoll.poll(0):
            if number == self._listener.fileno():
                self._welcome(now)
            elif number in self._under_way:
                # One that gave way a moment ago can still be among the events.
                self._shake(number)
        for number, (_, _, deadline) in list(self._under_way.items()):
            if deadline > now:
                break
            self._drop(number)
        return bool(self._ready)

    def take(self) -> tuple[TlsStream, socket.socket]:
        """Return the next connection.

        Raises:
            BlockingIOError: none is ready.
        """
        if not self._ready and not self.advance():
            raise BlockingIOError(11, "no connection whose handshake is complete")
        return self._ready.popleft()

    def close(self) -> None:
        """Drop all of them."""
        for number in list(self._under_way):
            self._drop(number)
        for stream, _ in self._ready:
            stream.close()
        self._epoll.close()

    def _welcome(self, now: float) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._listener.accept()
            except OSError:
                # Nothing more, or a connection that went before it was looked at, or no descriptor left for it.
                return
            prepare(sock)
            if len(self._under_way) >= MAX_HANDSHAKES:
                self._drop(next(iter(self._under_way)))
            number = sock.fileno()
            self._epoll.register(number, select.EPOLLIN)
            self._under_way[number] = (self._tls.stream(sock, peer=shown_peer(peer)), sock, now + HANDSHAKE_S)

    def _shake(self, number: int) -> None:
        stream, sock, _ = self._under_way[number]
        try:
            done = stream.handshake()
        except (TransportError, OSError):
            # A peer that does not speak TLS, or not ours: it was told by an alert. The guest never hears of it; whom this end refused is
            # said on its stderr.
            self._drop(number)
            return
        if not done:
            self._epoll.modify(number, stream.wants)
            return
        self._epoll.unregister(number)
        del self._under_way[number]
        self._ready.append((stream, sock))

    def _drop(self, number: int) -> None:
        # A failed handshake may have closed its socket, which takes it out of the epoll.
        with contextlib.suppress(OSError):
            self._epoll.unregister(number)
        self._under_way.pop(number)[0].close()
