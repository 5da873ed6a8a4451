# SPDX-License-Identifier: Apache-2.0
"""Sockets of a preview 1 workload: the preopened ones of Enarx.toml, and those it accepts.

Every host socket is non-blocking; whether a call waits is the guest's flag, kept here and never on the socket. TLS ends
here too: a descriptor of a `tls` entry carries plaintext, and a connection is the guest's only once its handshake is
complete. Source: WASI snapshot preview 1, `sock_*`; the entries' meaning is the original's (docs/enarx-toml.md).
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque

from enarx.runtime.network import Network
from enarx.runtime.preview1.descriptors import (
    FDFLAGS_NONBLOCK,
    RIGHT_ACCEPT,
    RIGHT_FLAGS,
    RIGHT_POLL,
    RIGHT_READ,
    RIGHT_SHUTDOWN,
    RIGHT_STAT,
    RIGHT_WRITE,
    SOCKET_STREAM,
    Descriptor,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enarx.runtime.tls import ServerTls, TlsStream
    from enarx.runtime.workload import Workload

_HANDSHAKE_S = 10.0
_MAX_HANDSHAKES = 256
_ACCEPTS_AT_ONCE = 64
_RECV_PEEK, _RECV_WAITALL = 1, 2
_SHUT_READ, _SHUT_WRITE = 1, 2
_STREAM_RIGHTS = RIGHT_READ | RIGHT_WRITE | RIGHT_FLAGS | RIGHT_STAT | RIGHT_POLL | RIGHT_SHUTDOWN
_LISTENER_RIGHTS = RIGHT_READ | RIGHT_FLAGS | RIGHT_STAT | RIGHT_POLL | RIGHT_ACCEPT


class TcpSocket(Descriptor):
    """A connected plaintext socket; `read` and `write` are the socket's own methods, without a step between."""

    __slots__ = ("_sock",)

    is_socket = True

    def __init__(self, sock: socket.socket, *, flags: int = 0) -> None:
        super().__init__(
            SOCKET_STREAM, _STREAM_RIGHTS, poll_fd=sock.fileno(), flags=flags, read=sock.recv_into, write=sock.send
        )
        self._sock = sock

    def receiver(self, flags: int) -> Callable[[memoryview], int]:
        """Return what receives with `riflags`: peek, wait for all, or both."""
        host_flags = (socket.MSG_PEEK if flags & _RECV_PEEK else 0) | (
            # Without the guest's leave to wait, waiting for all is what a non-blocking socket makes of it.
            socket.MSG_WAITALL if flags & _RECV_WAITALL else 0
        )
        if flags & ~(_RECV_PEEK | _RECV_WAITALL):
            raise OSError(22, "unknown receive flags")
        return lambda buffer: self._sock.recv_into(buffer, 0, host_flags)

    def shutdown(self, how: int) -> None:
        """End one direction, or both."""
        self._sock.shutdown({1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}[how])

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


class TlsSocket(Descriptor):
    """A connection whose TLS ends in the Keep; the guest sees plaintext."""

    __slots__ = ("_stream",)

    is_socket = True

    def __init__(self, stream: TlsStream, *, flags: int = 0) -> None:
        super().__init__(
            SOCKET_STREAM,
            _STREAM_RIGHTS,
            poll_fd=stream.fileno(),
            flags=flags,
            read=stream.recv_into,
            write=stream.send,
            waiting=stream.pending,
        )
        self._stream = stream

    @property
    def wants(self) -> int:
        """What to poll the socket for after it could not go on; TLS may have to read in order to write."""
        return self._stream.wants

    def receiver(self, flags: int) -> Callable[[memoryview], int]:
        """Refuse: decrypted bytes cannot be put back, and waiting for all is the guest's loop."""
        raise OSError(95, "no receive flags on a TLS connection")

    def shutdown(self, how: int) -> None:
        """Say close_notify when the writing side ends; reading ends with the connection."""
        if how & _SHUT_WRITE:
            self._stream.shutdown_write()

    def close(self) -> None:
        """Say close_notify and close the connection."""
        self._stream.close()


class Listener(Descriptor):
    """A preopened listening socket, which accepts connections and, for `tls`, completes their handshakes.

    A handshake takes as long as its peer likes, so it never happens inside an accept: connections whose handshakes are
    under way wait in an epoll of the listener's own, which is readable whenever one of them can go on or a new one has
    come, and `accept` only ever takes finished ones. The oldest unfinished one gives way when there are too many.

    A listener that the guest has said nothing about blocks, as the original's do, until the guest asks for its flags:
    it then says that it does not block, and does not. Programs that ask (Go's runtime) wait by polling; a blocking
    accept would stop all of them, and those that do not ask expect to wait.
    """

    __slots__ = ("_decided", "_handshakes", "_ready", "_sock", "_tls", "_under_way")

    is_socket = True

    def __init__(self, sock: socket.socket, tls: ServerTls | None) -> None:
        self._sock = sock
        self._tls = tls
        self._decided = False
        self._ready: deque[TlsStream] = deque()
        self._under_way: dict[int, tuple[TlsStream, float]] = {}
        self._handshakes = None
        if tls is not None:
            self._handshakes = select.epoll()
            self._handshakes.register(sock.fileno(), select.EPOLLIN)
        waits = self._handshakes.fileno() if self._handshakes else sock.fileno()
        super().__init__(
            SOCKET_STREAM,
            _LISTENER_RIGHTS,
            poll_fd=waits,
            read=_not_connected,
            write=_not_connected,
            waiting=self._ready.__len__,
        )

    def asked(self) -> None:
        """Settle on not blocking, if nothing was settled before the guest asked."""
        if not self._decided:
            self._decided = True
            self.flags |= FDFLAGS_NONBLOCK

    def told(self) -> None:
        """Take the guest's flags as settled."""
        self._decided = True

    def confirm(self) -> bool:
        """Return whether readiness of the host's descriptor means that a connection can be accepted."""
        return self._handshakes is None or self._advance()

    def accept(self, flags: int) -> Descriptor:
        """Return the next connection.

        Raises:
            BlockingIOError: there is none, and the guest does not want to wait.
        """
        self._decided = True
        poll = None
        while True:
            try:
                return self._take(flags)
            except BlockingIOError:
                if self.flags & FDFLAGS_NONBLOCK:
                    raise
            if poll is None:
                poll = select.poll()
                poll.register(self.poll_fd, select.POLLIN)
            poll.poll()

    def _take(self, flags: int) -> Descriptor:
        if self._tls is None:
            sock, _ = self._sock.accept()
            prepare(sock)
            return TcpSocket(sock, flags=flags)
        if not self._ready and not self._advance():
            raise BlockingIOError
        return TlsSocket(self._ready.popleft(), flags=flags)

    def _advance(self) -> bool:
        """Take every handshake as far as it goes; return whether a connection is ready."""
        epoll = self._handshakes
        if epoll is None:
            return False
        now = time.monotonic()
        for number, _ in epoll.poll(0):
            if number == self._sock.fileno():
                self._welcome(now)
            else:
                # One that gave way a moment ago can still be among the events.
                found = self._under_way.get(number)
                if found is not None:
                    self._shake(number, *found)
        for number, (stream, deadline) in list(self._under_way.items()):
            if deadline > now:
                break
            self._drop(number, stream)
        return bool(self._ready)

    def _welcome(self, now: float) -> None:
        """Accept what has come and begin its handshakes."""
        if self._tls is None:
            return
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except OSError:
                # Nothing more, or a connection that went before it was looked at, or no descriptor left for it.
                return
            prepare(sock)
            if len(self._under_way) >= _MAX_HANDSHAKES:
                oldest = next(iter(self._under_way))
                self._drop(oldest, self._under_way[oldest][0])
            self._shake(sock.fileno(), self._tls.stream(sock, peer=str(peer[0])), now + _HANDSHAKE_S)

    def _shake(self, number: int, stream: TlsStream, deadline: float) -> None:
        """Take one handshake as far as it goes. `_under_way` stays in the order of the deadlines."""
        from enarx.errors import TransportError

        epoll = self._handshakes
        if epoll is None:
            return
        try:
            done = stream.handshake()
        except (TransportError, OSError):
            # A peer that does not speak TLS, or not ours: it was told by an alert, the guest never hears of it.
            self._under_way.pop(number, None)
            stream.close()
            return
        if done:
            self._under_way.pop(number, None)
            _unregister(epoll, number)
            self._ready.append(stream)
            return
        self._under_way[number] = (stream, deadline)
        try:
            epoll.modify(number, stream.wants)
        except FileNotFoundError:
            epoll.register(number, stream.wants)

    def _drop(self, number: int, stream: TlsStream) -> None:
        if self._handshakes is not None:
            _unregister(self._handshakes, number)
        del self._under_way[number]
        stream.close()

    def shutdown(self, how: int) -> None:
        """Refuse: a listener has no directions."""
        raise OSError(107, "a listener is not connected")

    def receiver(self, flags: int) -> Callable[[memoryview], int]:
        """Refuse: a listener carries no data."""
        raise OSError(107, "a listener is not connected")

    def close(self) -> None:
        """Stop listening and drop the handshakes that are under way."""
        for stream in [*self._ready, *(stream for stream, _ in self._under_way.values())]:
            stream.close()
        if self._handshakes is not None:
            self._handshakes.close()
        self._sock.close()


def _not_connected(_: memoryview) -> int:
    raise OSError(107, "a listener is not connected")


def _unregister(epoll: select.epoll, number: int) -> None:
    """Take a descriptor out of an epoll in which it may not be."""
    import contextlib

    with contextlib.suppress(FileNotFoundError):
        epoll.unregister(number)


def prepare(sock: socket.socket) -> None:
    """Make a connection non-blocking and immediate: a guest cannot ask for TCP_NODELAY, and none wants its absence."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def open_sockets(workload: Workload, numbers: Iterable[int]) -> dict[int, Descriptor]:
    """Open the `listen` and `connect` entries, all before the workload starts.

    Returns:
        the descriptors by number.

    Raises:
        ConfigError: an address, certificate or pattern is wrong.
        PlatformError: a port is taken or not ours to listen on.
        TransportError: a peer cannot be reached, or its certificate does not hold.
    """
    network = Network(workload)
    table: dict[int, Descriptor] = {}
    try:
        for number in numbers:
            file = workload.files[number]
            if file.kind == "listen":
                tls = network.server_tls() if file.prot == "tls" else None
                table[number] = Listener(network.listen(file), tls)
            elif file.prot == "tls":
                table[number] = TlsSocket(network.connect_tls(file))
            else:
                table[number] = TcpSocket(network.connect(file))
    except BaseException:
        for descriptor in table.values():
            descriptor.close()
        raise
    return table
