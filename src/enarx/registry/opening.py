# SPDX-License-Identifier: Apache-2.0
"""Make a folder of a package: main.wasm, Enarx.toml and files, as if somebody had put them there by hand.

Rules of this file:

- Nothing is parsed, decompressed or named before all of it has the digest that the manifest says.
- A path stays below the folder, is there once, and leads to a file or a directory. Links, devices and names that mean something else
  to another program are refused, and so is an Enarx.toml that names a directory or a PEM file of the machine it is opened on.
- Decompression ends at the limits that hold for what was never compressed.
- After an error the folder is as empty as before.

What others publish is opened too: one layer of WebAssembly, whatever the configuration beside it says.

Source: OCI image-spec 1.1, manifest.md and layer.md; CNCF TAG Runtime, Wasm OCI Artifact layout; RFC 1952 (gzip); RFC 8878 (zstd).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from enarx.errors import DecodeError, PlatformError, UsageError, VerificationError
from enarx.registry.building import MAX_ENTRIES, MAX_MODULE_BYTES, named_paths
from enarx.registry.content import Resolved, Source, checked, read_blob
from enarx.registry.decompressing import decompressed
from enarx.registry.reading import FileReader, PieceReader, Reader, pieces_of
from enarx.registry.tar_format import DIRECTORY, FILE, read_tar_untrusted
from enarx.wire import decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES as MAX_TOML_BYTES
from enarx.wire.oci import (
    FILES,
    FILES_GZIP,
    FILES_ZSTD,
    INDEX,
    MANIFEST,
    SPIN_WASM,
    TOML,
    WASM,
    Descriptor,
    Manifest,
    decode_index_untrusted,
    decode_manifest_untrusted,
)
from enarx.wire.quoting import quote
from enarx.wire.release import MAIN, MAX_FILES_BYTES, MAX_NAME_BYTES, MAX_PATH_PARTS
from enarx.wire.release import TOML as TOML_NAME
from enarx.wire.wasm_config import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from enarx.registry.encryption import LayerKeys

__all__ = ["ENCRYPTED", "PackageFolder", "find_manifest", "layer_kind", "open_package", "require_package"]

ENCRYPTED = "+encrypted"
_MODULES = (WASM, SPIN_WASM)
_ARCHIVES = (FILES, FILES_GZIP, FILES_ZSTD)
_MAX_CANDIDATES = 32
_WHITEOUT = ".wh."


class PackageFolder(NamedTuple):
    """A package that was opened.

    Args:
        path: of the folder.
        descriptor: of the manifest; where an index was named, of the one in it.
        manifest: what it says.
    """

    path: str
    descriptor: Descriptor
    manifest: Manifest


def find_manifest(source: Source, resolved: Resolved) -> tuple[Resolved, Manifest]:
    """Return the manifest of a package: the one that was resolved, or the only one with WebAssembly in an index.

    Raises:
        DecodeError: there is none, or more than one.
        VerificationError: bytes and digest differ.
        TransportError: it cannot be read.
    """
    kind = resolved.descriptor.media_type
    if kind == MANIFEST:
        return resolved, decode_manifest_untrusted(resolved.data)
    name = resolved.descriptor.digest
    if kind != INDEX:
        raise DecodeError(f"cannot open {name}: found the media type {quote(kind)}, want {MANIFEST}")
    listed = [each for each in decode_index_untrusted(resolved.data).manifests if each.media_type == MANIFEST]
    if len(listed) > _MAX_CANDIDATES:
        raise DecodeError(f"cannot open {name}: found an index of {len(listed)}, want at most {_MAX_CANDIDATES}")
    found = []
    for each in {each.digest: each for each in listed}.values():
        one = source.resolve(each.digest)
        manifest = decode_manifest_untrusted(one.data)
        if any(layer_kind(layer) == WASM for layer in manifest.layers):
            found.append((one, manifest))
    if len(found) != 1:
        raise DecodeError(f"cannot open {name}: found an index with {len(found)} packages of WebAssembly, want one")
    return found[0]


def layer_kind(layer: Descriptor) -> str | None:
    """Return what a layer is once it is decrypted: `WASM`, `TOML`, `FILES`, or None for what no package has."""
    plain = layer.media_type.removesuffix(ENCRYPTED)
    if plain in _MODULES:
        return WASM
    if plain in _ARCHIVES:
        return FILES
    return TOML if plain == TOML else None


def require_package(manifest: Manifest, name: str) -> None:
    """Return only if the layers of a manifest are those of a package, as far as media types and lengths say.

    Args:
        manifest: of what may be one.
        name: its digest, for messages.

    Raises:
        DecodeError: they are not.
    """
    counts, sizes = {WASM: 0, TOML: 0, FILES: 0}, {WASM: 0, TOML: 0, FILES: 0}
    for layer in manifest.layers:
        kind = layer_kind(layer)
        if kind is None:
            raise DecodeError(
                f"cannot open {name}: found a layer of type {quote(layer.media_type)}, want {WASM}, {TOML} or {FILES}",
                hint="this may be a container image; what runs here is WebAssembly"
                if "image" in layer.media_type
                else None,
            )
        counts[kind] += 1
        sizes[kind] += layer.size
        most = {WASM: MAX_MODULE_BYTES, TOML: MAX_TOML_BYTES, FILES: 2 * MAX_FILES_BYTES}[kind]
        if sizes[kind] > most:
            raise DecodeError(f"cannot open {name}: found a layer of {sizes[kind]} bytes, want at most {most}")
    if counts[WASM] != 1:
        raise DecodeError(f"cannot open {name}: found {counts[WASM] or 'no'} layers of WebAssembly, want one")
    if counts[TOML] > 1:
        raise DecodeError(f"cannot open {name}: found {counts[TOML]} layers of {TOML_NAME}, want one")


def open_package(source: Source, resolved: Resolved, into: str, *, decrypt: LayerKeys | None = None) -> PackageFolder:
    """Write a package into a folder.

    Args:
        source: where its blobs are.
        resolved: its manifest, or an index with one package in it.
        into: an empty folder that nobody else can read or write.
        decrypt: keys for what is encrypted, or None.

    Raises:
        DecodeError: it is no package, not well formed, or beyond a limit.
        VerificationError: bytes and digest differ, it is encrypted for others, or is put together of parts of other packages.
        UsageError: it is encrypted and there is no key; its Enarx.toml names files of this machine.
        ConfigError: its Enarx.toml is wrong.
        TransportError: it cannot be read.
        PlatformError: the folder cannot be written.
    """
    found, manifest = find_manifest(source, resolved)
    name = found.descriptor.digest
    require_package(manifest, name)
    try:
        if os.listdir(into):
            raise UsageError(f"cannot open {name} in {into}: found a folder with something in it, want an empty one")
    except OSError as error:
        raise PlatformError(f"cannot open {name} in {into}: {error.strerror}") from error
    # Nothing is decided by it, so it may be anybody's; but a package that is not whole is none.
    read_blob(source, manifest.config, MAX_CONFIG_BYTES)
    if decrypt is not None:
        if not any(layer.media_type.endswith(ENCRYPTED) for layer in manifest.layers):
            # Whoever has a key expects that nobody else made the package; a registry may have another one in its place.
            raise VerificationError(
                f"cannot open {name}: found a package that is not encrypted, want one that is: a key was given",
                hint="without --decryption-key it is opened as what it is, somebody's plain package",
            )
        decrypt.require_together(manifest.layers, name)
    try:
        opening = _Opening(source, into, name, decrypt)
        for layer in manifest.layers:
            opening.take(layer)
        opening.require_whole()
    except OSError as error:
        _empty(into)
        if error.errno == errno.ENAMETOOLONG:
            raise DecodeError(
                f"cannot open {name}: found a path that is too long, want one that a file can have"
            ) from error
        raise PlatformError(f"cannot open {name} in {into}: {error.strerror}") from error
    except BaseException:
        _empty(into)
        raise
    return PackageFolder(into, found.descriptor, manifest)


class _Opening:
    """Writes layers into a folder, and knows which paths are taken.

    Args:
        source: where layers are.
        into: the folder.
        name: of the package, for messages.
        decrypt: keys, or None.
    """

    def __init__(self, source: Source, into: str, name: str, decrypt: LayerKeys | None) -> None:
        self._source = source
        self._into = into
        self._name = name
        self._decrypt = decrypt
        self._kinds: dict[str, str] = {}
        self._left = MAX_FILES_BYTES

    def take(self, layer: Descriptor) -> None:
        kind = layer_kind(layer)
        if kind == FILES:
            self._unpack(layer)
            return
        name = MAIN if kind == WASM else TOML_NAME
        self._claim(name, FILE)
        with self._create(name) as file:
            self._write(layer, file)

    def require_whole(self) -> None:
        """Return only if Enarx.toml is one, and names nothing but what the package has."""
        if TOML_NAME not in self._kinds:
            return
        with open(os.path.join(self._into, TOML_NAME), "rb") as file:
            toml = decode_enarx_toml(file.read(MAX_TOML_BYTES + 1), path=f"{TOML_NAME} of {self._name}")
        directories, pem = named_paths(toml, f"{TOML_NAME} of {self._name}")
        for path, kind in (*((each, DIRECTORY) for each in directories), *((each, FILE) for each in pem)):
            if path != "." and self._kinds.get(path) != kind:
                raise DecodeError(
                    f"cannot open {self._name}: found no {kind} {quote(path)}, want it: {TOML_NAME} names it"
                )

    def _write(self, layer: Descriptor, file: BinaryIO) -> None:
        """Write a layer's plaintext into a new file; what is there afterwards has the right digest."""
        pieces = self._source.open_blob(layer)
        if not layer.media_type.endswith(ENCRYPTED):
            file.writelines(checked(pieces, layer))
            file.flush()
            return
        if self._decrypt is None:
            raise UsageError(
                f"cannot open {self._name}: found an encrypted layer and no key, want one",
                hint="--decryption-key FILE, of a recipient it was encrypted for",
            )
        self._decrypt.open_layer(layer, pieces, file.fileno())

    def _unpack(self, layer: Descriptor) -> None:
        what = f"the files of {self._name}"
        # Without a name: nothing in the archive can mean it.
        with tempfile.TemporaryFile(dir=self._into) as file:
            self._write(layer, file)
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            plain = layer.media_type.removesuffix(ENCRYPTED)
            reader: Reader = FileReader(file, size)
            if plain != FILES:
                # Headers and padding are not counted among the files, and are bounded by how many entries there may be.
                limit = MAX_FILES_BYTES + MAX_ENTRIES * 4096
                reader = PieceReader(decompressed(pieces_of(reader, size), plain.rpartition("+")[2], limit, what))
            for entry in read_tar_untrusted(reader, what, 2 * MAX_ENTRIES):
                self._entry(entry.name, entry.kind, entry.size, reader, what)

    def _entry(self, written: str, kind: str, size: int, reader: Reader, what: str) -> None:
        if kind not in {FILE, DIRECTORY}:
            raise DecodeError(f"cannot read {what}: {quote(written)}: found {kind}, want files and directories")
        path = _safe_path(written, kind, what)
        if not path:
            return
        parts = path.split("/")
        for end in range(1, len(parts)):
            self._directory("/".join(parts[:end]))
        if kind == DIRECTORY:
            self._directory(path)
            return
        self._left -= size
        if self._left < 0:
            raise DecodeError(f"cannot read {what}: found more than {MAX_FILES_BYTES} bytes, want at most that")
        self._claim(path, FILE)
        with self._create(path) as file:
            file.writelines(pieces_of(reader, size))
            if file.tell() != size:
                raise DecodeError(f"cannot read {what}: found its end in the middle of an entry, want a whole archive")

    def _directory(self, path: str) -> None:
        if self._kinds.get(path) == DIRECTORY:
            return
        self._claim(path, DIRECTORY)
        os.mkdir(os.path.join(self._into, path), 0o700)

    def _claim(self, path: str, kind: str) -> None:
        """Take a path that nothing has yet."""
        if path in self._kinds or (kind == DIRECTORY and path in {MAIN, TOML_NAME}):
            raise DecodeError(f"cannot open {self._name}: found {quote(path)} twice, want one file of each path")
        self._kinds[path] = kind
        if len(self._kinds) > MAX_ENTRIES + 2:
            raise DecodeError(f"cannot open {self._name}: found more than {MAX_ENTRIES} files, want at most that")

    def _create(self, path: str) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return open(os.open(os.path.join(self._into, path), flags, 0o600), "w+b")


def _safe_path(written: str, kind: str, what: str) -> str:
    """Return a path below the folder as it is written in one way; empty for the folder itself."""
    path = written.removeprefix("./")
    if kind == DIRECTORY:
        path = path.removesuffix("/")
        if path in {"", "."}:
            return ""
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise DecodeError(f"cannot read {what}: found the path {quote(written)}, want one below the package's folder")
    if len(parts) > MAX_PATH_PARTS or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise DecodeError(
            f"cannot read {what}: found the path {quote(written)}, want at most {MAX_PATH_PARTS} names of {MAX_NAME_BYTES} bytes"
        )
    if parts[-1].startswith(_WHITEOUT):
        raise DecodeError(
            f"cannot read {what}: {quote(written)}: found what removes a file of another layer, want files"
        )
    if path in {MAIN, TOML_NAME}:
        raise DecodeError(f"cannot read {what}: found {quote(path)} twice, want it as a layer of its own alone")
    return path


def _empty(folder: str) -> None:
    with os.scandir(folder) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):
                shutil.rmtree(each.path, ignore_errors=True)
            else:
                os.unlink(each.path)
