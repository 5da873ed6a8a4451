# SPDX-License-Identifier: Apache-2.0
"""What a workload's Enarx.toml says about the network, turned into sockets: one place for core modules and components.

Listens and connects exactly what the entries name; `egress` judges the rest. Every wait has a limit.

A workload has this machine's network, or a `Broker`. With a broker every socket is one of AF_UNIX that somebody else made,
and no name is looked up: each gets an address of its own from 240.0.0.0/4, which nobody else has (RFC 1112 section 4), and
connecting there asks the broker for the name. So rules for names hold for names, whatever a resolver would have said.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.runtime.egress import Egress, as_address, pattern_for, resolve
from enarx.runtime.refusals import Refusals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from cryptography import x509

    from enarx.runtime.identity import Identity
    from enarx.runtime.tls import ClientTls, ServerTls, TlsStream
    from enarx.runtime.workload import File, Workload

    class Pending(Protocol):
        """A connection that a broker was asked for."""

        def fileno(self) -> int:
            """Return what is readable once there is an answer."""

        def take(self) -> socket.socket:
            """Return the connection, once.

            Raises:
                BlockingIOError: there is no answer yet.
                OSError: there will be no connection; `errno` says why.
            """

        def close(self) -> None:
            """Want it no more."""

    class Broker(Protocol):
        """Who makes a workload's sockets; any number of threads may ask."""

        def listener(self, name: str) -> socket.socket:
            """Return the listening socket of an entry, which the caller closes."""

        def ask(self, host: str, port: int) -> Pending:
            """Ask for a connection. OSError: it cannot even be asked."""


LOOKUP_S = 10.0
CONNECT_S = 10.0
HANDSHAKE_S = 10.0
_BACKLOG = 1024
_BROKERED_BYTES = 1 << 20
_MAX_NAMES = 4096
_FIRST_NAME = 0xF0000001
_STAND_INS = tuple(f"{first}." for first in range(240, 256))


def prepare(sock: socket.socket) -> None:
    """Make a connection non-blocking and immediate: a guest cannot ask for TCP_NODELAY, and none wants its absence."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        # A broker's is immediate as it is. Its room is not sized by the kernel as that of TCP is.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BROKERED_BYTES)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def shown_peer(address: object) -> str:
    """Return a peer's address for messages; one that came through a broker has none."""
    return str(address[0]) if isinstance(address, tuple) else "a client"


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
        self.broker: Broker | None = workload.broker
        self.refusals = Refusals()
        self._workload = workload
        self._identity: Identity | None = None
        self._server: dict[tuple[str, ...], ServerTls] = {}
        self._client: dict[tuple[str, ...], ClientTls] = {}
        self._address_of: dict[str, str] = {}
        self._name_at: dict[str, str] = {}
        self._names_given = 0
        self._names_lock = threading.Lock()

    def wall_ns(self) -> int:
        """Return the time since 1970 as the workload has it."""
        offset_ns = self._workload.wall_clock_offset_ns
        return time.time_ns() if offset_ns is None else time.monotonic_ns() + offset_ns

    def permits(self, host: str, port: int) -> bool:
        """Tell whether the workload may connect there; an address that stands for a name is judged as the name."""
        return self.egress.permits(self.name_at(host), port)

    def name_at(self, host: str) -> str:
        """Return the name that an address stands for, or what was given."""
        return self._name_at.get(host, host)

    def look_up(self, name: str, port: int, *, timeout_s: float) -> list[tuple[int, tuple[str | int, ...]]]:
        """Find the addresses of a name that may be looked up, or of an address; they may be connected to as the name may.

        Raises:
            TransportError: as `egress.resolve`.
        """
        if self.broker is None:
            endpoints = resolve(name, port, timeout_s=timeout_s)
        elif (address := as_address(name)) is not None:
            endpoints = [(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, port))]
        else:
            endpoints = [(socket.AF_INET, (self._stand_in(name.lower().removesuffix(".")), port))]
        self.egress.learn(name, [str(address[0]) for _, address in endpoints])
        return endpoints

    def _stand_in(self, name: str) -> str:
        """Return the address that stands for a name: always the same, and never another's."""
        with self._names_lock:
            address = self._address_of.get(name)
            if address is None:
                number = _FIRST_NAME + self._names_given
                self._names_given += 1
                address = socket.inet_ntoa(number.to_bytes(4, "big"))
                self._address_of[name] = address
                self._name_at[address] = name
                if len(self._address_of) > _MAX_NAMES:
                    # The oldest is forgotten, and with it that it may be connected to.
                    del self._name_at[self._address_of.pop(next(iter(self._address_of)))]
            return address

    def ask(self, host: str, port: int) -> Pending:
        """Ask the broker for a connection that `permits` allows.

        Raises:
            OSError: it cannot be asked, or the address stands for no name.
        """
        if self.broker is None:
            raise OSError(101, "no broker")
        name = self.name_at(host)
        if name == host and host.startswith(_STAND_INS) and as_address(host) is not None:
            raise OSError(113, "no name has this address")
        return self.broker.ask(name, port)

    def connect_through_broker(self, host: str, port: int, *, timeout_s: float) -> socket.socket:
        """Wait for a connection that `permits` allows.

        Raises:
            OSError: there is none; TimeoutError where there was no answer in time.
        """
        pending = self.ask(host, port)
        try:
            poll = select.poll()
            poll.register(pending.fileno(), select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                raise TimeoutError(110, f"no answer within {timeout_s:g} s")
            return pending.take()
        finally:
            pending.close()

    def listen(self, file: File) -> socket.socket:
        """Open a `listen` entry and say so on stderr, with the port it really has.

        Returns:
            a non-blocking listening socket. The address `::` takes IPv4 too. A broker has said where already.

        Raises:
            ConfigError: the address is none.
            PlatformError: it is taken or not ours to listen on.
        """
        if self.broker is not None:
            brokered = self.broker.listener(file.name)
            brokered.setblocking(False)
            return brokered
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
        reason = "no address"
        endpoints: Sequence[tuple[int, tuple[str | int, ...]]] = ()
        if self.broker is not None:
            try:
                brokered = self.connect_through_broker(file.host, file.port, timeout_s=CONNECT_S)
            except OSError as error:
                reason = (error.strerror or "refused").lower()
            else:
                prepare(brokered)
                return brokered
        else:
            endpoints = self.look_up(file.host, file.port, timeout_s=LOOKUP_S)
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
                self._identity = FromFiles(
                    certificate=tls.certificate, private_key=tls.private_key, contents=tls.contents
                )
            else:
                self._identity = tls.identity or SelfSigned(self.wall_ns)
        return self._identity

    def server_tls(self, *, alpn: Sequence[str] = ()) -> ServerTls:
        """Return what the workload's listening sockets share.

        Raises:
            ConfigError: a file of `[tls]` cannot be read or is wrong, or a Steward is wanted and there is none.
        """
        key = tuple(alpn)
        if key not in self._server:
            from enarx.runtime.tls import ServerTls

            tls = self._workload.tls
            judge_peer = self._judge_peer()
            # Who has to be one of the peers has to show a certificate.
            client_auth = tls.client_auth if judge_peer is None else "required"
            self._server[key] = ServerTls(
                self.identity.credential,
                client_auth=client_auth,
                trust_anchors=self._client_anchors() if client_auth != "none" else (),
                alpn=alpn,
                verify_at=self._verify_at,
                judge_peer=judge_peer,
                tell=self.refusals.tell,
            )
        return self._server[key]

    def client_tls(self, *, alpn: Sequence[str] = ()) -> ClientTls:
        """Return what the workload's outbound TLS connections share.

        Raises:
            ConfigError: a file of `[tls]` cannot be read or is wrong, or a Steward is wanted and there is none.
        """
        key = tuple(alpn)
        if key not in self._client:
            from enarx.runtime.tls import ClientTls

            judge_peer = self._judge_peer()
            anchors = self._anchors() if judge_peer is None else [self._steward_root()]
            self._client[key] = ClientTls(
                self.identity.credential,
                trust_anchors=anchors or None,
                alpn=alpn,
                verify_at=self._verify_at,
                judge_peer=judge_peer,
                tell=self.refusals.tell,
            )
        return self._client[key]

    @property
    def _verify_at(self) -> Callable[[], int] | None:
        return None if self._workload.wall_clock_offset_ns is None else lambda: self.wall_ns() // 10**9

    def _judge_peer(self) -> Callable[[bytes], None] | None:
        """Return what refuses a peer that is none of `[tls] peers`, or None where there are none."""
        peers = self._workload.tls.peers
        if not peers:
            return None
        from enarx.runtime.peers import PeerRules

        return PeerRules(peers, own=self._own_certificate).require

    def _own_certificate(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.identity.credential().chain[0].public_bytes(Encoding.DER)

    def _client_anchors(self) -> list[x509.Certificate]:
        """Return what clients are judged by: a Steward's root alone where peers are named or nothing else is."""
        tls = self._workload.tls
        return [self._steward_root()] if tls.peers or not tls.trust_anchors else self._anchors()

    def _steward_root(self) -> x509.Certificate:
        tls = self._workload.tls
        if tls.steward_root is None:
            key = "tls.peers" if tls.peers else "tls.client_auth"
            raise ConfigError(
                f"{key}: found no Steward, want the one that certifies the peers",
                hint="a Steward is named when a package is deployed: --steward URL --steward-root FILE",
                key=key,
            )
        from enarx.runtime.identity import load_root

        return load_root(tls.steward_root)

    def _anchors(self) -> list[x509.Certificate]:
        from enarx.runtime.identity import load_trust_anchors

        return [
            anchor
            for path in self._workload.tls.trust_anchors
            for anchor in load_trust_anchors(path, self._workload.tls.contents)
        ]
