# SPDX-License-Identifier: Apache-2.0
"""From what an Enarx.toml says to what the runtime takes: defaults filled in, paths resolved. Nothing is opened or judged."""

from __future__ import annotations

from enarx.runtime.workload import Directory, File, Limits, Tls, Workload
from enarx.wire.records import ConnectFile, ListenFile, NullFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enarx.runtime.identity import Identity
    from enarx.runtime.network import Broker
    from enarx.wire.records import EnarxToml
    from enarx.wire.records import File as FileEntry

__all__ = ["make_workload"]


def make_workload(
    path: str,
    toml: EnarxToml,
    *,
    announce_files: bool,
    folder: str = "",
    dirs: Sequence[Directory] = (),
    tls_contents: Mapping[str, bytes] | None = None,
    broker: Broker | None = None,
    wall_clock_offset_ns: int | None = None,
    identity: Identity | None = None,
    steward_root: bytes | None = None,
) -> Workload:
    """Make a workload.

    Args:
        path: the file to load.
        toml: what it is given.
        announce_files: whether somebody chose `files`.
        folder: against which paths in `toml` are resolved.
        dirs: given beside those of `toml`, with paths that are resolved already.
        tls_contents: as `Tls.contents`.
        broker: as `Workload.broker`.
        wall_clock_offset_ns: as `Workload.wall_clock_offset_ns`.
        identity: as `Tls.identity`.
        steward_root: as `Tls.steward_root`.
    """
    limits = Limits()
    for name in ("memory_bytes", "timeout_s", "fuel", "output_bytes", "open_files"):
        if (value := getattr(toml.limits, name)) is not None:
            setattr(limits, name, value)
    return Workload(
        path,
        args=toml.args,
        env=toml.env,
        files=[_file(entry) for entry in toml.files],
        announce_files=announce_files,
        dirs=[*(Directory(_beside(folder, d.host), d.guest, read_only=d.read_only) for d in toml.dirs), *dirs],
        limits=limits,
        allow_connect=toml.allow_connect,
        tls=Tls(
            certificate=toml.tls.certificate and _beside(folder, toml.tls.certificate),
            private_key=toml.tls.private_key and _beside(folder, toml.tls.private_key),
            client_auth=toml.tls.client_auth,
            trust_anchors=[_beside(folder, anchors) for anchors in toml.tls.trust_anchors],
            peers=[(peer.package, peer.tenant) for peer in toml.tls.peers],
            contents=tls_contents,
            identity=identity,
            steward_root=steward_root,
        ),
        broker=broker,
        wall_clock_offset_ns=wall_clock_offset_ns,
    )


def _file(entry: FileEntry) -> File:
    if isinstance(entry, ListenFile):
        return File("listen", entry.name, prot=entry.prot, host=entry.addr, port=entry.port)
    if isinstance(entry, ConnectFile):
        return File("connect", entry.name, prot=entry.prot, host=entry.host, port=entry.port)
    return File("null" if isinstance(entry, NullFile) else entry.kind, entry.name)


def _beside(folder: str, path: str) -> str:
    """Resolve a path of a configuration file against the folder it is in."""
    return path if path.startswith("/") or not folder else f"{folder}/{path}"
