# SPDX-License-Identifier: Apache-2.0
"""What to run and under which limits, with every default filled in and every name resolved.

The records here are the runtime's only input. They are plain slotted classes, because `dataclasses` alone costs a
third of a start. Who makes them (the command line, later a Keep's release) has already judged the values: here they
are believed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enarx.runtime.identity import Identity
    from enarx.runtime.network import Broker

# As `enarx.wire.records` has it, which a run without an Enarx.toml does not load.
DEFAULT_MEMORY_BYTES = 1 << 30
DEFAULT_OPEN_FILES = 1024


class Limits:
    """What a workload may use.

    Args:
        memory_bytes: of each linear memory.
        timeout_s: of wall time from when everything is there and the workload may begin, or None.
        fuel: units of the engine's fuel, or None.
        output_bytes: written to stdout and stderr together, or None.
        open_files: descriptors open at once, those it starts with included.
    """

    __slots__ = ("fuel", "memory_bytes", "open_files", "output_bytes", "timeout_s")

    def __init__(
        self,
        *,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        timeout_s: float | None = None,
        fuel: int | None = None,
        output_bytes: int | None = None,
        open_files: int = DEFAULT_OPEN_FILES,
    ) -> None:
        self.memory_bytes = memory_bytes
        self.timeout_s = timeout_s
        self.fuel = fuel
        self.output_bytes = output_bytes
        self.open_files = open_files


class File:
    """One preopened descriptor: entry i of Enarx.toml's `files` is the workload's descriptor i.

    Args:
        kind: `null`, `stdin`, `stdout`, `stderr`, `listen` or `connect`.
        name: what FD_NAMES calls it.
        prot: `tls` or `tcp` for sockets, else empty.
        host: the address to listen on or the host to connect to, else empty.
        port: 0 to 65535; 0 is only for listen and means any free port.
    """

    __slots__ = ("host", "kind", "name", "port", "prot")

    def __init__(self, kind: str, name: str, *, prot: str = "", host: str = "", port: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.prot = prot
        self.host = host
        self.port = port


class Directory:
    """One preopened directory.

    Args:
        host: path on this machine, absolute or relative to the current directory.
        guest: path the workload sees.
        read_only: whether writing, creating and deleting are refused.
    """

    __slots__ = ("guest", "host", "read_only")

    def __init__(self, host: str, guest: str, *, read_only: bool = False) -> None:
        self.host = host
        self.guest = guest
        self.read_only = read_only


class Tls:
    """How the Keep's TLS sockets authenticate.

    Args:
        certificate: path of a PEM chain, or None for the Keep's own certificate.
        private_key: path of its PEM key; given exactly when `certificate` is.
        client_auth: `none`, `optional` or `required`, for listening sockets.
        trust_anchors: paths of PEM roots for both directions; empty means Mozilla's for connecting sockets, and the Steward's for
            clients.
        peers: which workloads may be at the other end of a connection, each as digests in hex of package and tenant, or `any` for
            the tenant; empty is whoever the trust anchors say.
        contents: of all those files, by path, where they travelled here; None reads them from this machine.
        identity: gives the Keep's own certificate; None makes a self-signed one for this run.
        steward_root: the Steward's root certificate in DER, or None where there is no Steward.
    """

    __slots__ = (
        "certificate",
        "client_auth",
        "contents",
        "identity",
        "peers",
        "private_key",
        "steward_root",
        "trust_anchors",
    )

    def __init__(
        self,
        *,
        certificate: str | None = None,
        private_key: str | None = None,
        client_auth: str = "none",
        trust_anchors: Sequence[str] = (),
        peers: Sequence[tuple[str, str]] = (),
        contents: Mapping[str, bytes] | None = None,
        identity: Identity | None = None,
        steward_root: bytes | None = None,
    ) -> None:
        self.certificate = certificate
        self.private_key = private_key
        self.client_auth = client_auth
        self.trust_anchors = tuple(trust_anchors)
        self.peers = tuple(peers)
        self.contents = contents
        self.identity = identity
        self.steward_root = steward_root


class Workload:
    """A module or component and all it is given.

    Args:
        path: the file to load.
        args: arguments after argv[0], which is always `main.wasm` as in the original.
        env: names and values, in order; FD_COUNT and FD_NAMES are put before them.
        files: descriptors from 0 on.
        announce_files: whether FD_COUNT and FD_NAMES describe them; not where nobody chose them.
        dirs: preopened directories, numbered after `files`.
        limits: what it may use.
        allow_connect: outbound patterns as `enarx.runtime.egress` reads them; None means exactly the connect entries.
        tls: certificates of its sockets.
        broker: who makes its sockets, where it has no network of its own; None is this machine's network.
        wall_clock_offset_ns: what to add to CLOCK_MONOTONIC for the time since 1970; None is this machine's clock.
    """

    __slots__ = (
        "allow_connect",
        "announce_files",
        "args",
        "broker",
        "dirs",
        "env",
        "files",
        "limits",
        "path",
        "tls",
        "wall_clock_offset_ns",
    )

    def __init__(
        self,
        path: str,
        *,
        args: Sequence[str] = (),
        env: Sequence[tuple[str, str]] = (),
        files: Sequence[File],
        announce_files: bool = True,
        dirs: Sequence[Directory] = (),
        limits: Limits,
        allow_connect: Sequence[str] | None = None,
        tls: Tls,
        broker: Broker | None = None,
        wall_clock_offset_ns: int | None = None,
    ) -> None:
        self.path = path
        self.args = args
        self.env = env
        self.files = files
        self.announce_files = announce_files
        self.dirs = dirs
        self.limits = limits
        self.allow_connect = allow_connect
        self.tls = tls
        self.broker = broker
        self.wall_clock_offset_ns = wall_clock_offset_ns


class Outcome:
    """How a workload ended.

    Args:
        status: its own exit status; 134 for a trap.
        trap: the engine's text for a trap, its WebAssembly backtrace included, or None.
        hint: one line about a limit that stood in its way, or None.
    """

    __slots__ = ("hint", "status", "trap")

    def __init__(self, status: int, *, trap: str | None = None, hint: str | None = None) -> None:
        self.status = status
        self.trap = trap
        self.hint = hint


TRAP_STATUS = 134


def standard_files() -> list[File]:
    """Return the three descriptors that hold where nothing else is said."""
    return [File("stdin", "stdin"), File("stdout", "stdout"), File("stderr", "stderr")]
