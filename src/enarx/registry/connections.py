# SPDX-License-Identifier: Apache-2.0
"""Connections to a peer that may be slow, silent or endless, for `requests`.

Rules of this file:

- Time is counted while we wait for the peer and at no other time: each 64 KiB have to come within the limit, and an answer that is
  shorter has to come within it as a whole. No timeout of a socket bounds that, because a peer may send one byte just before each.
- What a peer may send before and around a body is bounded too: status lines, interim answers, headers, the frames of chunks.

Knows HTTP; knows nothing of registries.

Source: RFC 9112 (messages), RFC 9110 section 15.2 (interim answers).
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

__all__ = ["PatientAdapter", "bound_body"]

WINDOW_BYTES = 64 << 10
_HEAD_BYTES = 512 << 10
_BUFFER_BYTES = 128 << 10


class _Incoming(io.RawIOBase):
    """What a peer sends on one connection in answer to one request.

    Args:
        sock: connected.
        stall_s: for each window of bytes.
    """

    def __init__(self, sock: socket.socket, stall_s: float) -> None:
        self._sock = sock
        # A file of the socket's own, because it keeps the connection when the socket itself is closed.
        self._file = sock.makefile("rb", buffering=0)
        self._stall_s = stall_s
        self._left_s = stall_s
        self._window = 0
        self.left_bytes = _HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left_s <= 0:
            raise TimeoutError("too slow")
        self._sock.settimeout(self._left_s)
        began = time.monotonic()
        count = self._file.readinto(buffer)
        self._left_s -= time.monotonic() - began
        self._window += count or 0
        self.left_bytes -= count or 0
        if self.left_bytes < 0:
            raise http.client.HTTPException("found more than there is room for")
        if self._window >= WINDOW_BYTES:
            self._window, self._left_s = 0, self._stall_s
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Opener:
    """Stands for a socket where `http.client` makes a file of it."""

    def __init__(self, sock: socket.socket, stall_s: float) -> None:
        self.incoming = _Incoming(sock, stall_s)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self.incoming, _BUFFER_BYTES)


class _Answer(http.client.HTTPResponse):
    stall_s = 60.0

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        opener = _Opener(sock, self.stall_s)
        self.incoming = opener.incoming
        super().__init__(opener, *args, **kwargs)  # type: ignore[arg-type]


def bound_body(answer: object, max_bytes: int) -> None:
    """Allow a body after the head of an answer.

    Args:
        answer: what `http.client` made; of a connection of ours.
        max_bytes: of the body, and as much again for how it is framed.
    """
    if isinstance(answer, _Answer):
        answer.incoming.left_bytes = 2 * max_bytes + _HEAD_BYTES


class PatientAdapter(HTTPAdapter):
    """Carries requests over such connections.

    Args:
        stall_s: for each window of what is received, and for each piece of what is sent.
        require_reachable: is told the name and the address of whoever was connected to, before a byte is sent; what it raises ends that.
    """

    def __init__(self, stall_s: float, require_reachable: Callable[[str, str], None]) -> None:
        self._stall_s = stall_s
        self._require_reachable = require_reachable
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """Make the pools that connections come from."""
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._stall_s, self._require_reachable)


def _pool_classes(wait_s: float, require_reachable: Callable[[str, str], None]) -> dict[str, type]:
    class Answer(_Answer):
        stall_s = wait_s

    class Patient(HTTPConnection):
        response_class = Answer

        def _new_conn(self) -> socket.socket:
            return _reached(super()._new_conn(), self.host, require_reachable)

        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(wait_s)
            super().send(data)

    class Secure(Patient, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Patient

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _reached(sock: socket.socket, host: str, require_reachable: Callable[[str, str], None]) -> socket.socket:
    try:
        require_reachable(host, str(sock.getpeername()[0]))
    except BaseException:
        sock.close()
        raise
    return sock
