# SPDX-License-Identifier: Apache-2.0
"""The workload process's side of its sockets: it asks the Keep, and gets descriptors.

Any number of threads ask, each packet is whole, and one thread takes the answers and gives each to whoever asked: the request
number says who. Whoever wants it no more forgets it, and a descriptor that nobody wants is closed. It implements
`enarx.runtime.network.Broker`; what may be connected to is judged by the Keep, not here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

from enarx.errors import DecodeError
from enarx.keep.workload_start import (
    Connect,
    Connected,
    Refused,
    decode_answer,
    encode_word,
    peer_pid,
    receive_packet,
    send_packet,
)

__all__ = ["ControlBroker"]

MAX_PENDING = 256
SEND_S = 15
_ERRNO = {
    "denied": errno.EACCES,
    "refused": errno.ECONNREFUSED,
    "unreachable": errno.EHOSTUNREACH,
    "timeout": errno.ETIMEDOUT,
    "closed": errno.ECONNRESET,
    "limit": errno.EMFILE,
}


class ControlBroker:
    """Asks the Keep over the control socket.

    Args:
        control: blocking; the Keep's answers are all that is received there from now on.
        listeners: listening sockets by the names of their entries; the broker's from now on.
    """

    def __init__(self, control: socket.socket, listeners: Mapping[str, socket.socket]) -> None:
        self._control = control
        # Its maker is the Keep.
        self._keep = peer_pid(control)
        self._listeners = dict(listeners)
        self._lock = threading.Lock()
        self._pending: dict[int, PendingConnection] = {}
        self._next = 0
        self._is_listening = False
        self._is_over = False
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))

    def listener(self, name: str) -> socket.socket:
        """Return the listening socket of an entry, one more each time; they accept from one queue.

        Raises:
            OSError: there is none of that name, or no descriptor left.
        """
        sock = self._listeners.get(name)
        if sock is None:
            raise _error(errno.EADDRNOTAVAIL)
        return _KeepListener(os.dup(sock.fileno()), self._keep)

    def ask(self, host: str, port: int) -> PendingConnection:
        """Ask for a connection.

        Raises:
            OSError: too many are asked for, or the Keep has gone.
        """
        with self._lock:
            if self._is_over or len(self._pending) >= MAX_PENDING:
                raise _error(errno.ECONNRESET if self._is_over else errno.EMFILE)
            while self._next in self._pending:
                self._next = self._next + 1 & 0xFFFFFFFF
            number = self._next
            self._next = self._next + 1 & 0xFFFFFFFF
            pending = self._pending[number] = PendingConnection(self, number)
            if not self._is_listening:
                self._is_listening = True
                threading.Thread(target=self._listen, daemon=True).start()
        try:
            send_packet(self._control, encode_word(Connect(number, host, port)))
        except OSError as error:
            pending.close()
            raise _error(errno.ETIMEDOUT if isinstance(error, BlockingIOError) else errno.ECONNRESET) from error
        return pending

    def forget(self, number: int) -> None:
        """Give no answer to this request any more."""
        with self._lock:
            self._pending.pop(number, None)

    def _listen(self) -> None:
        while True:
            try:
                data, fds = receive_packet(self._control, max_fds=1)
                if not data:
                    break
                answer = decode_answer(data)
            except (OSError, DecodeError):
                # The Keep has gone, or is none.
                break
            self._give(answer, [socket.socket(fileno=fd) for fd in fds])
        with self._lock:
            self._is_over = True
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            pending.settle(_error(errno.ECONNRESET))

    def _give(self, answer: Connected | Refused, socks: list[socket.socket]) -> None:
        with self._lock:
            pending = self._pending.pop(answer.request, None)
        if pending is not None and isinstance(answer, Connected) and socks:
            pending.settle(socks.pop())
        elif pending is not None:
            pending.settle(_error(errno.ECONNRESET if isinstance(answer, Connected) else _ERRNO[answer.reason]))
        for sock in socks:
            sock.close()


class _KeepListener(socket.socket):
    """A listening socket through which only the Keep comes.

    Its name is the kernel's and in no folder, so that any process of this machine can connect to it. What is not the Keep's is
    closed before anybody sees it.

    Args:
        fd: of the socket; this object's from now on.
        keep: number of the Keep's process.
    """

    __slots__ = ("_keep",)

    def __init__(self, fd: int, keep: int) -> None:
        super().__init__(fileno=fd)
        self._keep = keep

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept the Keep's next connection."""
        while True:
            sock, address = super().accept()
            if peer_pid(sock) == self._keep:
                return sock, address
            sock.close()


class PendingConnection:
    """A connection that was asked for, as `enarx.runtime.network.Pending`."""

    __slots__ = ("_answer", "_broker", "_fd", "_lock", "_number")

    def __init__(self, broker: ControlBroker, number: int) -> None:
        self._broker = broker
        self._number = number
        self._lock = threading.Lock()
        self._answer: socket.socket | OSError | None = None
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return what is readable once there is an answer."""
        return self._fd

    def settle(self, answer: socket.socket | OSError) -> None:
        """Take the answer, once, which is closed if nobody wants it any more."""
        with self._lock:
            if self._fd >= 0:
                self._answer = answer
                os.eventfd_write(self._fd, 1)
                return
        if isinstance(answer, socket.socket):
            answer.close()

    def take(self) -> socket.socket:
        """Return the connection, once.

        Raises:
            BlockingIOError: there is no answer yet.
            OSError: there will be no connection.
        """
        with self._lock:
            answer = self._answer
            if answer is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if isinstance(answer, OSError):
                raise answer
            self._answer = _error(errno.EBADF)
            return answer

    def close(self) -> None:
        """Want it no more."""
        self._broker.forget(self._number)
        with self._lock:
            answer, self._answer = self._answer, _error(errno.EBADF)
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        if isinstance(answer, socket.socket):
            answer.close()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
