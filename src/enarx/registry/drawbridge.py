# SPDX-License-Identifier: Apache-2.0
"""Bring a package out of a Drawbridge, the original's registry, into a folder, from which it can be built and published as OCI.

Rules of this file:

- The registry is trusted for nothing below the digest of the root. Whoever pins that has the very package or an error; whoever does not
  takes what the registry says the tag is, which the result says.
- Each body is what its own header says it is by every digest in it, and what the tag or the directory above says by every digest there,
  and has that length and that type. The original compares the two sets of digests; here the bytes are compared with both.
- All directories come first: names, types, sizes, depth and number are judged before the first file is fetched.
- The limits of the original hold for `main.wasm`, `Enarx.toml` and directories. A folder needs both files, as there. What else is in the
  tree, which the original's client never publishes though its server takes it, comes along within limits of ours.
- The folder appears under its name when everything in it is there, and not at all otherwise.

Source: enarx/enarx 0.7.1, `exec-wasmtime` (what it accepts of a Drawbridge); enarx/drawbridge 0.4.3 (the API).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from enarx.errors import DecodeError, PlatformError, TransportError, UsageError, VerificationError
from enarx.registry.drawbridge_http import Answer
from enarx.user_files import new_folder
from enarx.wire.drawbridge import (
    ALGORITHMS,
    DIRECTORY,
    ENTRY,
    MAX_DIRECTORY_BYTES,
    MAX_TAG_BYTES,
    MAX_TOML_BYTES,
    MAX_WASM_BYTES,
    SIGNED_ENTRY,
    TOML,
    WASM,
    DrawbridgeRef,
    Node,
    decode_content_digest_untrusted,
    decode_directory_untrusted,
    decode_tag_untrusted,
)
from enarx.wire.quoting import quote

__all__ = ["MAX_DEPTH", "MAX_FILES_BYTES", "MAX_NODES", "Imported", "import_package", "parse_pin"]

MODULE, CONFIGURATION = "main.wasm", "Enarx.toml"
MAX_DEPTH = 16
"""Directories in each other, the root included."""
MAX_NODES = 2000
"""Files and directories of a tree."""
MAX_DIRECTORIES = 200
"""Each is asked for on its own, and the same one can be named in many places."""
MAX_FILES_BYTES = 256 << 20
"""Of all files but the two, together."""

_LAYOUT_FILE = "oci-layout"
"""A folder with a file of this name would be taken for something else than a folder with a module."""
_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


class Asks(Protocol):
    """Whoever gets bodies; `enarx.registry.drawbridge_http.Asker` is one."""

    def get(self, path: str, *, max_bytes: int, write: Callable[[bytes], object]) -> Answer:
        """Ask for a path below the repository, and write its body piece by piece."""


class Imported(NamedTuple):
    """What was brought.

    Args:
        digest: `sha256:` and 64 small hex digits: of the root as it was served, which is what can be pinned.
        files: paths in the folder, sorted.
        size: of all files, in bytes.
    """

    digest: str
    files: tuple[str, ...]
    size: int


class _Meter:
    """Weighs what is written by all algorithms that there are, and passes it on."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._hashes = {name: hashlib.new(known) for name, known in ALGORITHMS.items()}
        self._write = write

    def write(self, piece: bytes) -> None:
        for each in self._hashes.values():
            each.update(piece)
        self._write(piece)

    def digest(self, name: str) -> bytes:
        return self._hashes[name].digest()


def parse_pin(text: str) -> bytes:
    """Read a digest that the root has to have: `sha256:` and 64 small hex digits.

    Raises:
        UsageError: it is none.
    """
    if not _PIN.fullmatch(text):
        raise UsageError(f"cannot use the digest: found {quote(text)}, want sha256: and 64 small hex digits")
    return bytes.fromhex(text.partition(":")[2])


def import_package(
    ref: DrawbridgeRef,
    output: str,
    asker: Asks,
    *,
    pin: bytes | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> Imported:
    """Bring a package into a folder of its own.

    Args:
        ref: the package.
        output: the folder, of which there is nothing yet, or which is empty.
        asker: for this package.
        pin: SHA-256 of the root that is wanted, or None to believe the tag.
        progress: is told what is fetched, how much of it there is, and how much there will be.

    Raises:
        UsageError: there is a folder of that name, or it cannot be written.
        TransportError: the registry cannot be reached, is too slow, says no, or sends too much.
        DecodeError: what it sends is not well formed, is a signed tag, or is no package.
        VerificationError: it is not what its digests say, or not what is pinned.
        PlatformError: the disk is full, or the like.
    """
    package = _Package(ref, asker, pin, progress)
    with new_folder(output) as folder:
        try:
            return package.bring(folder)
        except OSError as error:
            raise PlatformError(f"cannot write {output}: {error.strerror}") from error


class _Package:
    def __init__(
        self, ref: DrawbridgeRef, asker: Asks, pin: bytes | None, progress: Callable[[str, int, int], None]
    ) -> None:
        self._ref = ref
        self._asker = asker
        self._pin = pin
        self._progress = progress
        self._tag = f"/_tag/{ref.version}"
        self._tree = f"{self._tag}/tree"
        self._root_digest = b""
        self._name = ref.text

    def bring(self, folder: str) -> Imported:
        root = self._root()
        if root.media_type == WASM:
            files = {MODULE: (self._tree, root)}
        elif root.media_type == DIRECTORY:
            files = self._files(root, folder)
        else:
            raise DecodeError(
                f"cannot import {self._name}: found a tree of type {quote(root.media_type)}, want {DIRECTORY} or {WASM}"
            )
        _require_sizes(files, self._name)
        for path, (served, node) in files.items():
            with open(os.path.join(folder, path), "xb") as file:
                os.fchmod(file.fileno(), _FILE_MODE)
                self._fetch(served, node, node.length, self._watched(f"fetching {path}", node.length, file.write))
        size = sum(node.length for _, node in files.values())
        return Imported(f"sha256:{self._root_digest.hex()}", tuple(sorted(files)), size)

    def _watched(self, what: str, total: int, write: Callable[[bytes], object]) -> Callable[[bytes], None]:
        """Return what writes, and says how far it is."""
        done = 0
        self._progress(what, 0, total)

        def write_and_say(piece: bytes) -> None:
            nonlocal done
            write(piece)
            done += len(piece)
            self._progress(what, done, total)

        return write_and_say

    def _root(self) -> Node:
        """Return what the tag says of the root."""
        self._progress(f"asking for {self._name}", 0, 0)
        data, answer = self._document(self._tag, None, MAX_TAG_BYTES)
        if answer.media_type == SIGNED_ENTRY:
            raise DecodeError(
                f"cannot import {self._name}: signed tags are not currently supported: found {SIGNED_ENTRY}, want {ENTRY}",
                hint="nobody verified signatures of tags; sign the package once it is published as OCI",
            )
        if answer.media_type != ENTRY:
            raise DecodeError(
                f"cannot import {self._name}: tag: found the type {quote(answer.media_type)}, want {ENTRY}"
            )
        root = decode_tag_untrusted(data)
        listed = root.digests.get("sha-256")
        if self._pin is not None and listed is not None and listed != self._pin:
            raise self._unpinned(listed)
        return root

    def _files(self, root: Node, folder: str) -> dict[str, tuple[str, Node]]:
        """Fetch all directories and make them; return where each file is served, and what the tree says of it, by path."""
        files: dict[str, tuple[str, Node]] = {}
        waiting = [("", root, 1)]
        nodes = directories = 0
        while waiting:
            path, node, depth = waiting.pop()
            directories += 1
            if directories > MAX_DIRECTORIES:
                raise DecodeError(
                    f"cannot import {self._name}: found more than {MAX_DIRECTORIES} directories, want fewer"
                )
            if depth > MAX_DEPTH:
                raise DecodeError(
                    f"cannot import {self._name}: {path[:60]}: found more than {MAX_DEPTH} directories in each other, want fewer"
                )
            data, _ = self._document(self._tree + (f"/{path}" if path else ""), node, MAX_DIRECTORY_BYTES)
            if path:
                os.mkdir(os.path.join(folder, path), _FOLDER_MODE)
            listed = decode_directory_untrusted(data)
            nodes += len(listed)
            if nodes > MAX_NODES:
                raise DecodeError(f"cannot import {self._name}: found more than {MAX_NODES} files, want fewer")
            for name, each in listed.items():
                below = f"{path}/{name}" if path else name
                if each.media_type == DIRECTORY:
                    waiting.append((below, each, depth + 1))
                else:
                    files[below] = (f"{self._tree}/{below}", each)
        for name, wanted in ((MODULE, WASM), (CONFIGURATION, TOML)):
            found = files.get(name)
            if found is None or found[1].media_type != wanted:
                said = "none" if found is None else f"the type {quote(found[1].media_type)}"
                raise DecodeError(f"cannot import {self._name}: {name}: found {said}, want a file of type {wanted}")
        if _LAYOUT_FILE in files:
            raise DecodeError(f"cannot import {self._name}: found {_LAYOUT_FILE}, want a folder that is no OCI layout")
        return files

    def _document(self, path: str, node: Node | None, max_bytes: int) -> tuple[bytes, Answer]:
        """Fetch what is read here and not written."""
        data = bytearray()
        if node is not None and node.length > max_bytes:
            raise TransportError(
                f"cannot import {self._name}: {path}: found {node.length} bytes, want at most {max_bytes}"
            )
        answer = self._fetch(path, node, max_bytes if node is None else node.length, data.extend)
        return bytes(data), answer

    def _fetch(self, path: str, node: Node | None, max_bytes: int, write: Callable[[bytes], object]) -> Answer:
        """Fetch a body; it counts only once this returns: then it is what its header says, what the tree says, and what is pinned."""
        meter = _Meter(write)
        answer = self._asker.get(path, max_bytes=max_bytes, write=meter.write)
        if not answer.content_digest:
            raise VerificationError(f"cannot import {self._name}: {path}: found no Content-Digest, want one")
        self._compare(path, "its Content-Digest", decode_content_digest_untrusted(answer.content_digest), meter)
        if node is None:
            return answer
        if answer.length != node.length:
            raise VerificationError(
                f"cannot import {self._name}: {path}: found {answer.length} bytes, want the {node.length} of the tree"
            )
        if answer.media_type != node.media_type:
            raise VerificationError(
                f"cannot import {self._name}: {path}: found the type {quote(answer.media_type)},"
                f" want the {quote(node.media_type)} of the tree"
            )
        self._compare(path, "the tree", node.digests, meter)
        if path == self._tree:
            self._root_digest = meter.digest("sha-256")
            if self._pin not in {None, self._root_digest}:
                raise self._unpinned(self._root_digest)
        return answer

    def _compare(self, path: str, where: str, digests: Mapping[str, bytes], meter: _Meter) -> None:
        for name, wanted in digests.items():
            if (found := meter.digest(name)) != wanted:
                raise VerificationError(
                    f"cannot import {self._name}: {path}: {name}: found {found.hex()}, want {wanted.hex()} of {where}"
                )

    def _unpinned(self, found: bytes) -> VerificationError:
        return VerificationError(
            f"cannot import {self._name}: found the digest sha256:{found.hex()}, want sha256:{(self._pin or b'').hex()}",
            hint="the tag has another package than the one that was named",
        )


def _require_sizes(files: dict[str, tuple[str, Node]], name: str) -> None:
    limits = {MODULE: MAX_WASM_BYTES, CONFIGURATION: MAX_TOML_BYTES}
    rest = 0
    for path, (_, node) in files.items():
        if (limit := limits.get(path)) is None:
            rest += node.length
        elif node.length > limit:
            raise TransportError(f"cannot import {name}: {path}: found {node.length} bytes, want at most {limit}")
    if rest > MAX_FILES_BYTES:
        raise TransportError(f"cannot import {name}: files: found {rest} bytes, want at most {MAX_FILES_BYTES}")
