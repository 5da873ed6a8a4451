# SPDX-License-Identifier: Apache-2.0
"""Put a package together: what travels to a Keep, and what is said to its host.

Rules of this file:

- What travels is main.wasm, Enarx.toml, the files below the directories that `--dir` and `[[dirs]]` name, and the PEM files that
  `[tls]` names. Symbolic links, devices, sockets and pipes are refused, not followed and not left out: what a link leads to may
  never have been meant to leave this machine.
- Everything is read into memory once, here. What is encrypted later is what was judged here.
- A socket with prot = "tcp" lets the host read and change what passes. It is refused unless it is allowed by its name.
- Which Steward certifies the Keep is the tenant's to say. What a package says of it is a wish, and refused where the tenant has not
  named the same one.
- Nothing is sent here, and nothing secret is in a message: values of arguments and variables are in none.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from enarx.crypto import cbor
from enarx.deploy.host_client import HostPort
from enarx.deploy.sealing import StoredBlob
from enarx.errors import UsageError
from enarx.wire import ConnectFile, EnarxToml, ListenFile, decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES as MAX_TOML_BYTES
from enarx.wire.fields import MAX_TEXT_BYTES
from enarx.wire.overrides import Overrides, apply_overrides, require_steward
from enarx.wire.records import DEFAULT_MEMORY_BYTES
from enarx.wire.release import (
    FILES,
    MAIN,
    MAX_FILES_BYTES,
    MAX_NAME_BYTES,
    MAX_PATH_PARTS,
    MAX_PEM_BYTES,
    TOML,
    Configuration,
    Content,
    Directory,
    Entry,
    ListenOverride,
    Manifest,
    PeerOverride,
    Steward,
    TravellingFiles,
    encode_files,
    encode_manifest,
)
from enarx.wire.steward_url import parse_steward_url

__all__ = ["DirectorySource", "Package", "load_package"]

MAX_MODULE_BYTES = 1 << 30
# Of data items in CBOR, which the Keep counts too: some are left for what is around the entries.
_MAX_ITEMS = cbor.MAX_ITEMS - 5536
_ITEMS_OF_ENTRY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorySource:
    """A directory of the tenant's that travels.

    Args:
        path: on this machine.
        guest: where the workload sees it.
        read_only: whether it may change its copy.
    """

    path: str
    guest: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What travels.

    Args:
        path: of the module as the user named it, for messages.
        manifest: in CBOR; its SHA-256 is the package's digest.
        plaintexts: by the names of blobs.
        digests: their SHA-256.
        configuration: beyond the package.
        ports: that the host has to publish.
        memory_bytes: that the Keep needs for the workload.
        steward: that certifies the Keep, or None.
        stored: the module where a registry has it, encrypted, for hosts that fetch from there; or None.
    """

    path: str
    manifest: bytes
    plaintexts: Mapping[str, bytes] = field(repr=False)
    digests: Mapping[str, bytes] = field(repr=False)
    configuration: Configuration = field(repr=False)
    ports: tuple[HostPort, ...]
    memory_bytes: int
    steward: Steward | None = None
    stored: StoredBlob | None = None

    @property
    def total_bytes(self) -> int:
        """Return how much room all plaintexts need."""
        return sum(map(len, self.plaintexts.values()))

    @property
    def digest(self) -> bytes:
        """Return the package's digest, 32 bytes."""
        return sha256(self.manifest).digest()


def load_package(
    path: str,
    *,
    config_path: str | None = None,
    overrides: Overrides | None = None,
    directories: Sequence[DirectorySource] = (),
    plaintext: frozenset[str] = frozenset(),
    steward: Steward | None = None,
) -> Package:
    """Read a package and what is given beyond it.

    Args:
        path: a module, or a directory with main.wasm and perhaps Enarx.toml.
        config_path: an Enarx.toml instead of the one in the directory, or None.
        overrides: arguments, variables, ports and limits beyond the package, or None for none.
        directories: that travel, beside those of Enarx.toml.
        plaintext: names of sockets that may have prot = "tcp".
        steward: the one that the tenant names, or None.

    Raises:
        UsageError: a file is not there, is a link, too large, or a socket would be in the clear; the package wants a Steward that
            the tenant has not named.
        ConfigError: Enarx.toml is wrong, or what is given beyond it cannot be.
    """
    given = overrides if overrides is not None else Overrides()
    main, config = _sources(path, config_path)
    module = _read(main, MAX_MODULE_BYTES, "module")
    plaintexts = {MAIN: module}
    digests = {MAIN: sha256(module).digest()}
    toml, folder = EnarxToml(), ""
    if config is not None:
        text = _read(config, MAX_TOML_BYTES, "configuration")
        toml, folder = decode_enarx_toml(text, path=config), os.path.dirname(config)
        plaintexts[TOML], digests[TOML] = text, sha256(text).digest()
    effective = apply_overrides(toml, given)
    _refuse_plaintext(effective, plaintext)
    _require_named(effective.steward, steward)
    require_steward(effective, has_steward=steward is not None)
    travelling = _travelling(toml, folder, directories)
    if travelling.directories or travelling.tls:
        files = plaintexts[FILES] = encode_files(travelling)
        if len(files) > MAX_FILES_BYTES:
            raise UsageError(f"cannot pack the directories: found {len(files)} bytes, want at most {MAX_FILES_BYTES}")
        digests[FILES] = sha256(files).digest()
    memory = effective.limits.memory_bytes
    return Package(
        path=path,
        manifest=encode_manifest(
            Manifest(
                main=Content(digest=digests[MAIN], length=len(module)),
                toml=Content(digest=digests[TOML], length=len(plaintexts[TOML])) if TOML in digests else None,
            )
        ),
        plaintexts=plaintexts,
        digests=digests,
        configuration=Configuration(
            arguments=None
            if given.arguments is None
            else tuple(_word(each, "an argument") for each in given.arguments),
            environment=_environment(given.environment or ()),
            listen=_listen(toml, given.listen or ()),
            limits={name: math.ceil(value) for name, value in (given.limits or {}).items()} or None,
            files=digests.get(FILES),
            peers=tuple(PeerOverride(*peer) for peer in given.peers or ()) or None,
        ),
        ports=tuple(
            HostPort(name=entry.name, port=entry.port) for entry in effective.files if isinstance(entry, ListenFile)
        ),
        memory_bytes=memory if memory is not None else DEFAULT_MEMORY_BYTES,
        steward=steward,
    )


def _sources(path: str, config: str | None) -> tuple[str, str | None]:
    if not os.path.isdir(path):
        return path, config
    main, beside = os.path.join(path, MAIN), os.path.join(path, TOML)
    if not os.path.isfile(main):
        raise UsageError(f"cannot deploy {path}: found a directory without {MAIN}, want {main}")
    return main, config if config is not None or not os.path.lexists(beside) else beside


def _read(path: str, max_bytes: int, what: str) -> bytes:
    """Read a file that the user named; there, a link is as good as what it leads to."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"cannot deploy: {what}: {path}: found no file, want one")
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot deploy: {what}: {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise UsageError(f"cannot deploy: {what}: {path}: found more than {max_bytes} bytes, want at most that")
    return data


def _word(text: str, what: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot deploy: {what}: found bytes that are no UTF-8, want text") from error
    if size > MAX_TEXT_BYTES or "\0" in text:
        raise UsageError(
            f"cannot deploy: {what}: found {size} bytes or a NUL, want at most {MAX_TEXT_BYTES} and none",
            hint="what is longer can travel as a file: --dir",
        )
    return text


def _environment(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...] | None:
    return tuple((_word(name, "a variable"), _word(value, "a variable")) for name, value in dict(pairs).items()) or None


# --- Sockets ---------------------------------------------------------------------------------------------------------


def _listen(toml: EnarxToml, wanted: Sequence[tuple[str, str, int]]) -> tuple[ListenOverride, ...] | None:
    """Return what changes for the workload. Another port of an entry is the host's affair alone and changes nothing."""
    prots = {entry.name: entry.prot for entry in toml.files if isinstance(entry, ListenFile)}
    return (
        tuple(
            ListenOverride(_word(name, "--listen"), prot or "tls", port)
            for name, prot, port in wanted
            if name not in prots or (prot and prots[name] != prot)
        )
        or None
    )


def _require_named(wanted: str | None, named: Steward | None) -> None:
    """Return only if the Steward that a package wants, if any, is the one that the tenant has named."""
    if wanted is None:
        return
    if named is None:
        raise UsageError(
            f"cannot deploy: steward: found {wanted} in the package's Enarx.toml, want it named by whoever deploys",
            hint=f"--steward {wanted} --steward-root FILE or [steward] of the policy, if that Steward shall say who this workload is",
        )
    if parse_steward_url(wanted) != parse_steward_url(named.url):
        raise UsageError(
            f"cannot deploy: steward: found {wanted} in the package's Enarx.toml and {named.url} named by whoever deploys, want the same",
            hint="a package without a steward takes whichever is named",
        )


def _refuse_plaintext(effective: EnarxToml, allowed: frozenset[str]) -> None:
    for entry in effective.files:
        if isinstance(entry, ListenFile | ConnectFile) and entry.prot == "tcp" and entry.name not in allowed:
            raise UsageError(
                f'cannot deploy: socket {entry.name}: found prot = "tcp", want "tls", because the host reads and can change'
                " what passes",
                hint=f"--allow-plaintext {entry.name}, if nothing that passes there is secret or has to be right",
            )


# --- Files that travel -----------------------------------------------------------------------------------------------


def _travelling(toml: EnarxToml, folder: str, directories: Sequence[DirectorySource]) -> TravellingFiles:
    sources = [
        DirectorySource(path=os.path.join(folder, each.host), guest=each.guest, read_only=each.read_only)
        for each in toml.dirs
    ]
    walk = _Walk()
    packed = tuple(
        Directory(guest=each.guest, read_only=each.read_only, entries=tuple(walk.entries(each.path)))
        for each in (*sources, *directories)
    )
    names = [name for name in (toml.tls.certificate, toml.tls.private_key, *toml.tls.trust_anchors) if name is not None]
    return TravellingFiles(
        directories=packed,
        tls={name: _read(os.path.join(folder, name), MAX_PEM_BYTES, "PEM file") for name in names},
    )


class _Walk:
    """Reads directories, and counts what it has read of all of them."""

    def __init__(self) -> None:
        self.items = 0
        self.size = 0

    def entries(self, root: str) -> list[Entry]:
        """Return everything below a directory, in the order of names."""
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"cannot pack the directory {root}: {error.strerror}") from error
        try:
            found: list[Entry] = []
            self._below(fd, root, (), found)
        except OSError as error:
            raise UsageError(f"cannot pack the directory {root}: {error.filename}: {error.strerror}") from error
        else:
            return found
        finally:
            os.close(fd)

    def _below(self, folder: int, root: str, above: tuple[str, ...], found: list[Entry]) -> None:
        if len(above) == MAX_PATH_PARTS:
            raise UsageError(f"cannot pack the directory {root}: found {MAX_PATH_PARTS} levels or more, want fewer")
        for name in sorted(os.listdir(folder)):
            path = (*above, name)
            shown = os.path.join(root, *path)
            _require_name(name, shown)
            self.items += _ITEMS_OF_ENTRY + len(path)
            if self.items > _MAX_ITEMS:
                raise UsageError(
                    f"cannot pack the directory {root}: found too many files, want fewer than about"
                    f" {_MAX_ITEMS // (_ITEMS_OF_ENTRY + 2)} in all",
                    hint="pack them into one file, an archive or an image",
                )
            # Looked at and opened through the folder's own descriptor, so that nobody can put a link in between.
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                found.append(Entry(path, None))
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    self._below(fd, root, path, found)
                finally:
                    os.close(fd)
            elif stat.S_ISREG(mode):
                found.append(Entry(path, self._read(folder, name, shown)))
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device, socket or pipe"
                raise UsageError(
                    f"cannot pack {shown}: found {kind}, want files and directories",
                    hint="copy what is meant into a directory of its own: cp -rL",
                )

    def _read(self, folder: int, name: str, shown: str) -> bytes:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"cannot pack {shown}: found no file, want one")
            data = file.read(MAX_FILES_BYTES - self.size + 1)
        self.size += len(data)
        if self.size > MAX_FILES_BYTES:
            raise UsageError(f"cannot pack {shown}: found more than {MAX_FILES_BYTES} bytes in all, want at most that")
        return data


def _require_name(name: str, shown: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"cannot pack {shown!r}: found a name that is no UTF-8, want one") from error
    if size > MAX_NAME_BYTES:
        raise UsageError(f"cannot pack {shown}: found a name of {size} bytes, want at most {MAX_NAME_BYTES}")
