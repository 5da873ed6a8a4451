# SPDX-License-Identifier: Apache-2.0
"""Sockets of a preview 1 workload: the preopened ones of Enarx.toml, and those it accepts.

Every host socket is non-blocking; whether a call waits is the guest's flag, kept here and never on the socket. TLS ends
here too: a descriptor of a `tls` entry carries plaintext, and a connection is the guest's only once its handshake is
complete. Source: WASI snapshot preview 1, `sock_*`; the entries' meaning is the original's (docs/enarx-toml.md).
"""

from __future__ import annotations

import select
import socket

from enarx.runtime.handshakes import Handshakes
from enarx.runtime.network import Network, prepare
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
    buffers = True

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

    A listener that the guest has said nothing about blocks, as the original's do, until the guest asks for its flags:
    it then says that it does not block, and does not. Programs that ask (Go's runtime) wait by polling; a blocking
    accept would stop all of them, and those that do not ask expect to wait.
    """

    __slots__ = ("_decided", "_handshakes", "_sock")

    is_socket = True

    def __init__(self, sock: socket.socket, tls: ServerTls | None) -> None:
        self._sock = sock
        self._decided = False
        self._handshakes = Handshakes(sock, tls) if tls is not None else None
        super().__init__(
            SOCKET_STREAM,
            _LISTENER_RIGHTS,
            poll_fd=sock.fileno() if self._handshakes is None else self._handshakes.fd,
            read=_not_connected,
            write=_not_connected,
            waiting=(lambda: 0) if self._handshakes is None else self._handshakes.__len__,
        )

    @property
    def buffers(self) -> bool:  # type: ignore[override]
        """Whether connections wait here whose handshakes are complete."""
        return self._handshakes is not None

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
        return self._handshakes is None or self._handshakes.advance()

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
        if self._handshakes is not None:
            return TlsSocket(self._handshakes.take()[0], flags=flags)
        sock, _ = self._sock.accept()
        prepare(sock)
        return TcpSocket(sock, flags=flags)

    def shutdown(self, how: int) -> None:
        """Refuse: a listener has no directions."""
        raise OSError(107, "a listener is not connected")

    def receiver(self, flags: int) -> Callable[[memoryview], int]:
        """Refuse: a listener carries no data."""
        raise OSError(107, "a listener is not connected")

    def close(self) -> None:
        """Stop listening and drop the handshakes that are under way."""
        if self._handshakes is not None:
            self._handshakes.close()
        self._sock.close()


def _not_connected(_: memoryview) -> int:
    raise OSError(107, "a listener is not connected")


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
