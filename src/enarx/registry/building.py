# SPDX-License-Identifier: Apache-2.0
"""Make a package of a module, or of a folder with main.wasm and Enarx.toml: the same bytes every time, wherever it is done.

Rules of this file:

- What goes in is main.wasm, Enarx.toml, the directories that its `[[dirs]]` name and the PEM files that `[tls]` names. All of it is
  below the folder: what a package needs from elsewhere would be missing, or another, where it is opened.
- Of files there are names and contents. Times, owners, modes and the order in which a file system lists them are left out.
- Links, devices, sockets and pipes are refused, as `enarx deploy` refuses them.
- Nothing large is held: what is written is read again, and refused where it changed in between.

Source: CNCF TAG Runtime, Wasm OCI Artifact layout; OCI image-spec 1.1, manifest.md and layer.md.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from typing import BinaryIO

from enarx.errors import UsageError
from enarx.registry.content import PIECE_BYTES, Sink
from enarx.registry.reading import PieceReader, open_regular
from enarx.registry.tar_format import DIRECTORY, FILE, end_of_tar, padding, tar_header
from enarx.registry.wasm_outline import outline_untrusted
from enarx.wire import EnarxToml, decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES as MAX_TOML_BYTES
from enarx.wire.oci import (
    FILES,
    MANIFEST,
    TITLE,
    TOML,
    WASM,
    WASM_CONFIG,
    Descriptor,
    Manifest,
    digest_of,
    encode_manifest,
)
from enarx.wire.package_ref import is_tag
from enarx.wire.quoting import quote
from enarx.wire.release import MAIN, MAX_FILES_BYTES, MAX_NAME_BYTES, MAX_PATH_PARTS
from enarx.wire.release import TOML as TOML_NAME
from enarx.wire.wasm_config import COMPONENT_OS, MODULE_OS, WasmConfig, encode_wasm_config

__all__ = ["FILES_TITLE", "MAX_ENTRIES", "MAX_MODULE_BYTES", "build_package", "named_paths"]

MAX_MODULE_BYTES = 1 << 30
MAX_ENTRIES = 10_000
FILES_TITLE = "files.tar"


def build_package(path: str, sink: Sink, *, tag: str | None = None, created_s: int = 0) -> Descriptor:
    """Put a package into a sink.

    Args:
        path: a module, or a folder with main.wasm and perhaps Enarx.toml.
        sink: a layout, or a registry.
        tag: under which it is stored, or None.
        created_s: the Unix time that it says it was made at.

    Returns:
        its manifest's descriptor.

    Raises:
        UsageError: a file is missing, is a link, too large, or not below the folder.
        ConfigError: Enarx.toml is wrong.
        DecodeError: the module is no WebAssembly binary.
        VerificationError: a file changed while it was read.
    """
    folder = path if os.path.isdir(path) else None
    main = path if folder is None else os.path.join(folder, MAIN)
    if folder is not None and not os.path.isfile(main):
        raise UsageError(f"cannot build {path}: found a directory without {MAIN}, want {main}")
    if tag is not None and not is_tag(tag):
        raise UsageError(f"cannot build {path}: found the tag {quote(tag)}, want letters, digits, `_`, `.` and `-`")
    with _open(main) as file:
        layers = [_put_file(sink, file, main)]
        file.seek(0)
        outline = outline_untrusted(PieceReader(_pieces(file)), main)
    if folder is not None and os.path.lexists(beside := os.path.join(folder, TOML_NAME)):
        with _open(beside) as file:
            text = file.read(MAX_TOML_BYTES + 1)
        toml = decode_enarx_toml(text, path=beside)
        layers.append(_put(sink, text, TOML, TOML_NAME))
        if (files := _put_files(sink, folder, toml)) is not None:
            layers.append(files)
    config = encode_wasm_config(
        WasmConfig(
            created_s,
            COMPONENT_OS if outline.is_component else MODULE_OS,
            tuple(each.digest for each in layers),
            outline.imports if outline.is_component else None,
            outline.exports if outline.is_component else None,
        )
    )
    manifest = Manifest(_put(sink, config, WASM_CONFIG, None), tuple(layers))
    return sink.put_manifest(encode_manifest(manifest), MANIFEST, tag=tag)


def named_paths(toml: EnarxToml, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the directories and the PEM files that an Enarx.toml names, as paths below its folder; `.` for the folder itself.

    Args:
        toml: of a package.
        where: names it in messages.

    Raises:
        UsageError: a path leads elsewhere.
    """
    tls = toml.tls
    pem = [name for name in (tls.certificate, tls.private_key, *tls.trust_anchors) if name is not None]
    return (
        tuple(dict.fromkeys(_below(each.host, "dirs.host", where) for each in toml.dirs)),
        tuple(dict.fromkeys(_below(name, "tls", where) for name in pem)),
    )


def _below(path: str, key: str, where: str) -> str:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise UsageError(
            f"cannot accept {where}: {key}: found {quote(path)}, want a path below the package's folder",
            hint="what is elsewhere can be given with --dir where the package is run",
        )
    return "/".join(parts) or "."


def _put(sink: Sink, data: bytes, media_type: str, title: str | None) -> Descriptor:
    wanted = Descriptor(media_type, digest_of(data), len(data), {} if title is None else {TITLE: title})
    if not sink.has_blob(wanted):
        sink.put_blob(wanted, [data])
    return wanted


def _put_file(sink: Sink, file: BinaryIO, path: str) -> Descriptor:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_MODULE_BYTES:
        raise UsageError(f"cannot build {path}: found {size} bytes, want at most {MAX_MODULE_BYTES}")
    return _put_open(sink, file, WASM, MAIN)


def _put_open(sink: Sink, file: BinaryIO, media_type: str, title: str) -> Descriptor:
    """Store a file that is open: read once for its digest, and once more to store it."""
    running, size = sha256(), 0
    file.seek(0)
    for piece in _pieces(file):
        running.update(piece)
        size += len(piece)
    wanted = Descriptor(media_type, "sha256:" + running.hexdigest(), size, {TITLE: title})
    if not sink.has_blob(wanted):
        file.seek(0)
        sink.put_blob(wanted, _pieces(file))
    return wanted


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _open(path: str) -> BinaryIO:
    """Open a file that the user named; there, a link is as good as what it leads to."""
    try:
        return open_regular(path)[0]
    except OSError as error:
        raise UsageError(f"cannot build {path}: {error.strerror}") from error


# --- Files -----------------------------------------------------------------------------------------------------------


def _put_files(sink: Sink, folder: str, toml: EnarxToml) -> Descriptor | None:
    directories, pem = named_paths(toml, os.path.join(folder, TOML_NAME))
    if not directories and not pem:
        return None
    walk = _Walk(folder)
    for each in directories:
        walk.directory(each)
    for each in pem:
        walk.named(each)
    with tempfile.TemporaryFile() as archive:
        for name, kind in sorted(walk.found.items(), key=lambda entry: entry[0].encode()):
            if kind == DIRECTORY:
                archive.write(tar_header(name, DIRECTORY))
            else:
                walk.write(name, archive)
        archive.write(end_of_tar())
        return _put_open(sink, archive, FILES, FILES_TITLE)


class _Walk:
    """Finds what travels below a folder, and reads it; no link is followed on the way.

    Args:
        folder: of the package.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._size = 0
        self.found: dict[str, str] = {}

    def directory(self, path: str) -> None:
        """Add a directory and all below it."""
        if path != ".":
            self._parents(path)
        self._add_below("" if path == "." else path)

    def named(self, path: str) -> None:
        """Add one file."""
        self._parents(path)
        self._require_kind(path, self._mode(path), FILE)
        self._add(path, FILE)

    def write(self, path: str, archive: BinaryIO) -> None:
        """Write one file's entry into an archive."""
        shown = os.path.join(self._folder, path)
        try:
            file, size = self._open(path)
        except OSError as error:
            raise UsageError(f"cannot build {shown}: {error.strerror}") from error
        with file:
            self._size += size
            if self._size > MAX_FILES_BYTES:
                raise UsageError(
                    f"cannot build {shown}: found more than {MAX_FILES_BYTES} bytes of files in all, want at most that"
                )
            archive.write(tar_header(path, FILE, size))
            left = size
            while piece := file.read(min(left, PIECE_BYTES)):
                archive.write(piece)
                left -= len(piece)
            if left:
                raise UsageError(f"cannot build {shown}: found it shorter than a moment before, want it unchanged")
            archive.write(bytes(padding(size)))

    def _open(self, path: str) -> tuple[BinaryIO, int]:
        """Open a file from folder to folder, so that nobody can put a link in between after we have looked."""
        *above, name = path.split("/")
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in above:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            return open_regular(name, os.O_NOFOLLOW, folder=folder)
        finally:
            os.close(folder)

    def _parents(self, path: str) -> None:
        parts = path.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            self._require_kind(above, self._mode(above), DIRECTORY)
            self._add(above, DIRECTORY)

    def _add_below(self, path: str) -> None:
        if path:
            self._require_kind(path, self._mode(path), DIRECTORY)
            self._add(path, DIRECTORY)
        try:
            names = sorted(os.listdir(os.path.join(self._folder, path)))
        except OSError as error:
            raise UsageError(f"cannot build {os.path.join(self._folder, path)}: {error.strerror}") from error
        for name in names:
            # Where the package's own folder is named, these two are in it as layers of their own.
            if not path and name in {MAIN, TOML_NAME}:
                continue
            inner = f"{path}/{name}" if path else name
            mode = self._mode(inner)
            if stat.S_ISDIR(mode):
                self._add_below(inner)
            else:
                self._require_kind(inner, mode, FILE)
                self._add(inner, FILE)

    def _add(self, path: str, kind: str) -> None:
        shown = os.path.join(self._folder, path)
        parts = path.split("/")
        if len(parts) > MAX_PATH_PARTS:
            raise UsageError(f"cannot build {shown}: found {len(parts)} levels, want at most {MAX_PATH_PARTS}")
        try:
            longest = max(len(part.encode()) for part in parts)
        except UnicodeEncodeError as error:
            raise UsageError(f"cannot build {shown!r}: found a name that is no UTF-8, want one") from error
        if longest > MAX_NAME_BYTES:
            raise UsageError(f"cannot build {shown}: found a name of {longest} bytes, want at most {MAX_NAME_BYTES}")
        self.found[path] = kind
        if len(self.found) > MAX_ENTRIES:
            raise UsageError(
                f"cannot build {shown}: found more than {MAX_ENTRIES} files, want at most that",
                hint="pack them into one file, an archive or an image",
            )

    def _mode(self, path: str) -> int:
        shown = os.path.join(self._folder, path)
        try:
            return os.stat(shown, follow_symlinks=False).st_mode
        except OSError as error:
            raise UsageError(f"cannot build {shown}: {error.strerror}") from error

    def _require_kind(self, path: str, mode: int, kind: str) -> None:
        if stat.S_ISDIR(mode) if kind == DIRECTORY else stat.S_ISREG(mode):
            return
        found = (
            "a symbolic link"
            if stat.S_ISLNK(mode)
            else "a directory"
            if stat.S_ISDIR(mode)
            else "a file"
            if stat.S_ISREG(mode)
            else "a device, socket or pipe"
        )
        raise UsageError(
            f"cannot build {os.path.join(self._folder, path)}: found {found}, want a {kind}",
            hint="copy what is meant into the folder: cp -rL" if stat.S_ISLNK(mode) else None,
        )
