# SPDX-License-Identifier: Apache-2.0
"""Clients of guests that echo, many at once."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

PEER_S = 20


@contextmanager
def connected(port: int, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Connect to a port of this machine, with TLS where a context is given."""
    with socket.create_connection((host, port), PEER_S) as sock:
        if tls is None:
            yield sock
            return
        # Without this a connection cut short looks like one that ended.
        with tls.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
            yield secure


def receive(sock: socket.socket, count: int) -> bytes:
    """Receive so many bytes, or what comes before the end."""
    data = bytearray()
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return bytes(data)


def require_echo(port: int, tls: ssl.SSLContext | None, data: bytes, *, piece_bytes: int = 1 << 14) -> None:
    """Send data piece by piece and require that it comes back."""
    with connected(port, tls) as peer:
        for at in range(0, len(data), piece_bytes):
            piece = data[at : at + piece_bytes]
            peer.sendall(piece)
            assert receive(peer, len(piece)) == piece


def at_once(count: int, act: object, *arguments: object) -> None:
    """Do something in so many threads and raise what any of them raised."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(act, number, *arguments) for number in range(count)]:
            future.result(3 * PEER_S)
