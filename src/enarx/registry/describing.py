# SPDX-License-Identifier: Apache-2.0
"""What a package is, and what its workload will be able to do, in words.

Told from what was opened, never from what a publisher wrote beside it: imports and exports come from the module itself, sockets and
directories from Enarx.toml. Values of arguments and variables may be secrets and are not told.

Source: WASI preview 1 (witx/wasi_snapshot_preview1); WASI 0.2 (wit packages wasi:cli, clocks, filesystem, http, io, random, sockets).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from enarx.registry.building import MAX_MODULE_BYTES
from enarx.registry.content import PIECE_BYTES
from enarx.registry.opening import ENCRYPTED, layer_kind
from enarx.registry.reading import FileReader
from enarx.registry.wasm_outline import Outline, outline_untrusted
from enarx.wire import ConnectFile, EnarxToml, ListenFile, decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES as MAX_TOML_BYTES
from enarx.wire.oci import TOML, WASM, Descriptor, Manifest
from enarx.wire.release import MAIN, Content
from enarx.wire.release import TOML as TOML_NAME
from enarx.wire.release import Manifest as PackageManifest
from enarx.wire.release import encode_manifest as encode_package_manifest

__all__ = ["Inside", "abilities", "folder_digest", "inside_of", "package_digest"]

_PREVIEW1 = "wasi_snapshot_preview1::"
# What the imports of a module, or the interfaces of a component, are for. The first that fits counts.
_MODULE_IMPORTS = (
    (("args_", "environ_"), "read its arguments and environment variables"),
    (("clock_", "poll_oneoff"), "read clocks and wait"),
    (("random_get",), "get random numbers"),
    (("path_", "fd_readdir", "fd_prestat_"), "use files below the directories it is given"),
    (("sock_",), "use the sockets it is given"),
    (("fd_",), "read and write its standard streams and what it has opened"),
    (("proc_", "sched_"), "end itself, and give way"),
)
_INTERFACES = (
    (("wasi:cli/environment",), "read its arguments and environment variables"),
    (("wasi:cli/terminal-",), "ask whether its standard streams are a terminal"),
    (("wasi:cli/exit",), "end itself, and give way"),
    (("wasi:cli/std", "wasi:io/"), "read and write its standard streams and what it has opened"),
    (("wasi:clocks/",), "read clocks and wait"),
    (("wasi:random/",), "get random numbers"),
    (("wasi:filesystem/",), "use files below the directories it is given"),
    (("wasi:http/outgoing-handler",), "send HTTP requests to hosts it may connect to"),
    (("wasi:http/types",), "read and write HTTP messages"),
    (("wasi:sockets/",), "listen on its ports and connect to hosts it may connect to"),
)
_EXPORTS = (
    ("_start", "is a command: it runs once"),
    ("", "is a command: it runs once"),
    ("wasi:cli/run@", "is a command: it runs once"),
    ("wasi:http/incoming-handler@", "is a service: it answers HTTP requests"),
)


class Inside(NamedTuple):
    """What is in a package that was opened.

    Args:
        outline: of its module.
        toml: its Enarx.toml, or None.
        files: how many there are beside these two.
        files_bytes: how long all of them are.
        tree: their paths, sorted, and how long each is.
    """

    outline: Outline
    toml: EnarxToml | None
    files: int
    files_bytes: int
    tree: tuple[tuple[str, int], ...]


def inside_of(folder: str) -> Inside:
    """Look into a package that was opened.

    Args:
        folder: of `open_package`.

    Raises:
        DecodeError: the module is no WebAssembly binary.
    """
    with open(os.path.join(folder, MAIN), "rb") as file:
        reader = FileReader(file, min(os.fstat(file.fileno()).st_size, MAX_MODULE_BYTES))
        outline = outline_untrusted(reader, MAIN)
    toml = None
    path = os.path.join(folder, TOML_NAME)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            toml = decode_enarx_toml(file.read(MAX_TOML_BYTES + 1), path=TOML_NAME)
    tree = tuple(sorted(each for each in _files(folder) if each[0] not in {MAIN, TOML_NAME}))
    return Inside(outline, toml, len(tree), sum(size for _, size in tree), tree)


def package_digest(manifest: Manifest) -> bytes | None:
    """Return the digest that receipts and certificates have of a package, 32 bytes; None where layers are encrypted.

    Args:
        manifest: as a registry has it; its layers are the package's.
    """
    found: dict[str, Descriptor] = {}
    for layer in manifest.layers:
        kind = layer_kind(layer)
        if layer.media_type.endswith(ENCRYPTED):
            return None
        if kind is not None:
            found[kind] = layer
    return _digest(found[WASM], found.get(TOML)) if WASM in found else None


def folder_digest(folder: str) -> bytes:
    """Return the same digest of a package that was opened, 32 bytes."""
    main = _measure(os.path.join(folder, MAIN), WASM)
    path = os.path.join(folder, TOML_NAME)
    return _digest(main, _measure(path, TOML) if os.path.isfile(path) else None)


def _digest(main: Descriptor, toml: Descriptor | None) -> bytes:
    contents = PackageManifest(_content(main), None if toml is None else _content(toml))
    return sha256(encode_package_manifest(contents)).digest()


def _measure(path: str, media_type: str) -> Descriptor:
    running, size = sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            running.update(piece)
            size += len(piece)
    return Descriptor(media_type, "sha256:" + running.hexdigest(), size)


def abilities(inside: Inside) -> tuple[str, ...]:
    """Say what a workload will be able to do, one line each."""
    outline, said = inside.outline, dict[str, None]()
    for prefix, words in _EXPORTS:
        if any(_begins(name, prefix, is_component=outline.is_component) for name in outline.exports):
            said[words] = None
    if not said:
        said["exports no beginning: it will not start"] = None
    strange = []
    for name in outline.imports:
        purpose = _purpose(name, is_component=outline.is_component)
        if purpose is None:
            strange.append(name)
        else:
            said[f"can {purpose}"] = None
    for name in strange[:20]:
        said[f"wants {name}, which a Keep does not offer: it will not start"] = None
    return (*said, *_given(inside.toml)) if inside.toml is not None else tuple(said)


def _begins(name: str, prefix: str, *, is_component: bool) -> bool:
    """Return whether an export is where a workload begins. A module's own is one name; an interface has a version behind it."""
    return prefix.startswith("wasi:") and name.startswith(prefix) if is_component else name == prefix


def _purpose(name: str, *, is_component: bool) -> str | None:
    """Return what an import is for; None where nothing here offers it."""
    if not is_component:
        if not name.startswith(_PREVIEW1):
            return None
        name = name.removeprefix(_PREVIEW1)
    known = _INTERFACES if is_component else _MODULE_IMPORTS
    return next((words for prefixes, words in known if name.startswith(prefixes)), None)


def _given(toml: EnarxToml) -> Iterator[str]:
    for entry in toml.files:
        if isinstance(entry, ListenFile):
            yield f"is given: {entry.name}, listens on port {entry.port} ({entry.prot})"
        elif isinstance(entry, ConnectFile):
            yield f"is given: {entry.name}, a connection to {entry.host}:{entry.port} ({entry.prot})"
    for directory in toml.dirs:
        yield f"is given: {directory.host} as {directory.guest}{' for reading' if directory.read_only else ''}"
    for host in toml.allow_connect or ():
        yield f"may connect to {host}"
    if toml.args:
        yield f"is given: {len(toml.args)} argument{'s' if len(toml.args) > 1 else ''}"
    if toml.env:
        yield f"is given: variables {', '.join(sorted(name for name, _ in toml.env))}"
    if toml.steward is not None:
        yield f"wants a certificate of the Steward {toml.steward}"


def _files(folder: str) -> Iterator[tuple[str, int]]:
    for above, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(above, name)
            yield os.path.relpath(path, folder), os.lstat(path).st_size


def _content(layer: Descriptor) -> Content:
    return Content(digest=bytes.fromhex(layer.digest.removeprefix("sha256:")), length=layer.size)
