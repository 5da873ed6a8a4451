# SPDX-License-Identifier: Apache-2.0
"""What a workload's Enarx.toml says about the network, turned into sockets: one place for core modules and components.

Listens and connects exactly what the entries name; `egress` judges the rest. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import os
import socket

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.runtime.egress import Egress, pattern_for, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from enarx.runtime.identity import Identity
    from enarx.runtime.tls import ClientTls, ServerTls, TlsStream
    from enarx.runtime.workload import File, Workload

LOOKUP_S = 10.0
CONNECT_S = 10.0
HANDSHAKE_S = 10.0
_BACKLOG = 1024


def prepare(sock: socket.socket) -> None:
    """Make a connection non-blocking and immediate: a guest cannot ask for TCP_NODELAY, and none wants its absence."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Network:
    """The sockets of one workload, made as they are asked for; certificates are read or made at the first TLS one.

    Args:
        workload: its files, `allow_connect` and `tls` are what counts.

    Raises:
        ConfigError: a pattern of `allow_connect` is wrong.
    """

    def __init__(self, workload: Workload) -> None:
        patterns = workload.allow_connect
        if patterns is None:
            patterns = [pattern_for(file.host, file.port) for file in workload.files if file.kind == "connect"]
        self.egress = Egress(list(patterns))
        self._workload = workload
        self._identity: Identity | None = None
        self._server: dict[tuple[str, ...], ServerTls] = {}
        self._client: dict[tuple[str, ...], ClientTls] = {}

    def listen(self, file: File) -> socket.socket:
        """Open a `listen` entry and say so on stderr, with the port it really has.

        Returns:
            a non-blocking listening socket. The address `::` takes IPv4 too.

        Raises:
            ConfigError: the address is none.
            PlatformError: it is taken or not ours to listen on.
        """
        where = f"[{file.host}]:{file.port}" if ":" in file.host else f"{file.host}:{file.port}"
        try:
            found = socket.getaddrinfo(
                file.host, file.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
            )
        except (socket.gaierror, UnicodeError) as error:
            raise ConfigError(
                f"cannot listen for {file.name}: addr: found {file.host}, want an IP address", key="files.addr"
            ) from error
        family, kind, proto, _, address = found[0]
        try:
            sock = socket.socket(family, kind, proto)
        except OSError as error:
            if file.host != "::":
                raise PlatformError(f"cannot listen for {file.name}: {where}: {error.strerror}") from error
            # A machine without IPv6: every address is every IPv4 address.
            family, address = socket.AF_INET, ("0.0.0.0", file.port)  # noqa: S104  # the entry says so
            sock = socket.socket(family, kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, file.host != "::")
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise PlatformError(
                f"cannot listen for {file.name}: {where}: {(error.strerror or 'refused').lower()}",
                hint="stop what listens there, or choose another port with --listen" if error.errno == 98 else None,
            ) from error
        port = sock.getsockname()[1]
        shown = "localhost" if file.host in {"::", "0.0.0.0"} else where.rpartition(":")[0]  # noqa: S104
        # A server whose stderr nobody reads, or nobody reads fast enough, serves all the same.
        with contextlib.suppress(OSError):
            os.write(2, f"enarx: listening on {file.prot}://{shown}:{port} ({file.name})\n".encode())
        return sock

    def connect(self, file: File) -> socket.socket:
        """Open a `connect` entry.

        Returns:
            a non-blocking connected socket.

        Raises:
            ConfigError: `allow_connect` forbids it.
            TransportError: the name has no address, or nobody answers at any of them.
        """
        self.egress.require(file.host, file.port)
        endpoints = resolve(file.host, file.port, timeout_s=LOOKUP_S)
        self.egress.learn(file.host, [str(address[0]) for _, address in endpoints])
        reason = "no address"
        for family, address in endpoints:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(CONNECT_S)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                reason = (error.strerror or f"no answer within {CONNECT_S:g} s").lower()
                continue
            prepare(sock)
            return sock
        raise TransportError(
            f"cannot connect {file.name}: {pattern_for(file.host, file.port)}: {reason}",
            hint="is the service there, and is this its port?",
        )

    def connect_tls(self, file: File) -> TlsStream:
        """Open a `connect` entry and complete its handshake; the server must prove to be `host`.

        Raises:
            ConfigError, TransportError: as `connect`; the handshake fails or takes too long.
        """
        sock = self.connect(file)
        stream = self.client_tls().stream(sock, host=file.host, peer=pattern_for(file.host, file.port))
        try:
            stream.handshake_within(HANDSHAKE_S)
        except BaseException:
            stream.close()
            raise
        return stream

    @property
    def identity(self) -> Identity:
        """The provider of this workload's certificate."""
        if self._identity is None:
            from enarx.runtime.identity import FromFiles, SelfSigned

            tls = self._workload.tls
            if tls.certificate is not None and tls.private_key is not None:
                self._identity = FromFiles(certificate=tls.certificate, private_key=tls.private_key)
            else:
                self._identity = SelfSigned()
        return self._identity

    def server_tls(self, *, alpn: Sequence[str] = ()) -> ServerTls:
        """Return what the workload's listening sockets share.

        Raises:
            ConfigError: a file of `[tls]` cannot be read or is wrong.
        """
        key = tuple(alpn)
        if key not in self._server:
            from enarx.runtime.tls import ServerTls

            tls = self._workload.tls
            self._server[key] = ServerTls(
                self.identity.credential(),
                client_auth=tls.client_auth,
                trust_anchors=self._anchors() if tls.client_auth != "none" else (),
                alpn=alpn,
            )
        return self._server[key]

    def client_tls(self, *, alpn: Sequence[str] = ()) -> ClientTls:
        """Return what the workload's outbound TLS connections share.

        Raises:
            ConfigError: a file of `[tls]` cannot be read or is wrong.
        """
        key = tuple(alpn)
        if key not in self._client:
            from enarx.runtime.tls import ClientTls

            anchors = self._anchors()
            self._client[key] = ClientTls(self.identity.credential(), trust_anchors=anchors or None, alpn=alpn)
        return self._client[key]

    def _anchors(self) -> list[x509.Certificate]:
        from enarx.runtime.identity import load_trust_anchors

        return [anchor for path in self._workload.tls.trust_anchors for anchor in load_trust_anchors(path)]
