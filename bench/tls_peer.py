# SPDX-License-Identifier: Apache-2.0
"""One bare TLS 1.3 connection over loopback, by the OpenSSL that enarx uses, with nothing around it.

As a program it is the server: `tls_peer.py PORT BYTES` does what the guest `stream.c` does for each connection. The benchmark's
client, of a bare server and of a workload's port alike, is here too. Both call OpenSSL on the socket itself, with one
buffer, because pyOpenSSL's own `recv` copies: nothing in Python is faster.
"""

from __future__ import annotations

import socket
import struct
import sys

from OpenSSL import SSL
from timing import now

from enarx.crypto.x509 import make_self_signed

GROUP = b"X25519MLKEM768"
SUITES = b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
BLOCK = 65536
WAIT_S = 60

_ffi, _lib = SSL._ffi, SSL._lib


class Peer:
    """An end of a connection.

    Args:
        sock: connected, blocking.
        context: of this end.
        is_client: whether it begins.
    """

    def __init__(self, sock: socket.socket, context: SSL.Context, *, is_client: bool) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", WAIT_S, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", WAIT_S, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._connection = SSL.Connection(context, sock)
        (self._connection.set_connect_state if is_client else self._connection.set_accept_state)()
        self._connection.do_handshake()
        self._ssl = self._connection._ssl
        self._buffer = _ffi.new("unsigned char[]", b"x" * BLOCK)
        self.group = self._connection.get_group_name()

    def send(self, count: int) -> None:
        """Send so many bytes; raises OSError."""
        left = count
        while left:
            sent = _lib.SSL_write(self._ssl, self._buffer, min(left, BLOCK))
            if sent <= 0:
                raise OSError("the peer took no more")
            left -= sent

    def say(self, byte: bytes) -> None:
        """Send one byte; raises OSError."""
        if _lib.SSL_write(self._ssl, byte, 1) != 1:
            raise OSError("the peer took nothing")

    def take(self, count: int) -> None:
        """Receive so many bytes; raises OSError."""
        left = count
        while left:
            got = _lib.SSL_read(self._ssl, self._buffer, min(left, BLOCK))
            if got <= 0:
                raise OSError(f"the peer sent {left} bytes too few")
            left -= got

    def hear(self) -> bytes:
        """Receive one byte; raises OSError."""
        self.take(1)
        return bytes(_ffi.buffer(self._buffer, 1))

    def close(self) -> None:
        """End the connection."""
        self._sock.close()


def connect(port: int) -> Peer:
    """Connect to a server on this machine; raises OSError or SSL.Error."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    sock.settimeout(None)
    try:
        return Peer(sock, make_context(SSL.TLS_CLIENT_METHOD), is_client=True)
    except BaseException:
        sock.close()
        raise


def make_context(method: int) -> SSL.Context:
    """Return a context as the Keep's: its version, group and cipher suites."""
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(SUITES)
    context.set_options(SSL.OP_NO_TICKET)
    if _lib.SSL_CTX_set1_curves_list(context._context, GROUP) != 1:
        raise OSError(f"found an OpenSSL without {GROUP.decode()}")
    return context


def main(port: int, count: int) -> None:
    """Serve connections one after the other, for ever."""
    credential = make_self_signed(at=now())
    context = make_context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(credential.chain[0])
    context.use_privatekey(credential.private_key)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            sock, _ = listener.accept()
            try:
                peer = Peer(sock, context, is_client=False)
                if peer.hear() == b"d":
                    peer.send(count)
                else:
                    peer.take(count)
                    peer.say(b"x")
            except (OSError, SSL.Error):
                # The benchmark looks whether somebody listens.
                continue
            finally:
                sock.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
