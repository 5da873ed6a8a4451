# SPDX-License-Identifier: Apache-2.0
"""A log that can only grow: its Merkle tree, and the signed checkpoints by which others hold it to what it said.

Rules of this file:

- It is pure: whoever stores hashes hands in a function that reads one. What is stored is the hash of each complete subtree,
  `(level, index)` for the leaves from `index << level` to `(index + 1) << level`; a leaf is level 0. They never change, and a leaf
  completes one of them on average.
- Hashes are SHA-256 of RFC 6962: a leaf's begins with a zero byte, a node's with a one.
- A checkpoint is text: origin, size, root, and a signature by Ed25519, as witnesses and monitors of other logs read it.
- What verifies raises; nothing is returned that could be forgotten.

Source: RFC 6962 section 2.1; RFC 9162 sections 2.1.3.2 and 2.1.4.2; c2sp.org/signed-note v1.0.0, c2sp.org/tlog-checkpoint v1.0.0,
c2sp.org/tlog-tiles v1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from enarx.errors import DecodeError, VerificationError

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_NOTE_BYTES",
    "Checkpoint",
    "Frontier",
    "LogSigner",
    "Node",
    "Note",
    "NoteSignature",
    "ReadHash",
    "Tile",
    "VerifierKey",
    "consistency_proof",
    "hash_of_leaf",
    "hash_of_node",
    "inclusion_proof",
    "parse_checkpoint_untrusted",
    "parse_note_untrusted",
    "parse_verifier_key_untrusted",
    "root_of",
    "tiles_of",
    "verify_checkpoint",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
MAX_SIZE = (1 << 63) - 1
"""Of a tree: what a database's index holds."""
MAX_NOTE_BYTES = 65536
MAX_SIGNATURES = 64
TILE_WIDTH = 256
_TILE_HEIGHT = 8

_ED25519 = b"\1"
_SIGNATURE_BYTES = 64
_DASH = "\N{EM DASH} "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)

ReadHash = Callable[[int, int], bytes]
"""Reads the hash of a complete subtree by level and index."""


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree.

    Args:
        level: it has `1 << level` leaves.
        index: among those of its level.
        hash: of it.
    """

    level: int
    index: int
    hash: bytes


def hash_of_leaf(entry: bytes) -> bytes:
    """Return the hash of an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def hash_of_node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


# --- The tree --------------------------------------------------------------------------------------------------------


class Frontier:
    """The right edge of a tree, which is all that appending needs.

    Args:
        size: how many leaves there are.
        peaks: the hash of the complete subtree for each bit of the size that is set, the largest first.

    Raises:
        ValueError: there are more or fewer of them.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"found {len(peaks)} subtrees for {size} leaves")
        self.size = size
        self._peaks = list(peaks)

    @classmethod
    def read(cls, size: int, read: ReadHash) -> Frontier:
        """Return the edge of a tree that is stored."""
        return cls(size, [read(level, index) for level, index in _peaks_of(size)])

    def copy(self) -> Frontier:
        """Return another one that grows by itself."""
        return Frontier(self.size, self._peaks)

    def append(self, leaf: bytes) -> list[Node]:
        """Add the hash of a leaf, and return what it completes: itself first, then each node above it."""
        node = Node(0, self.size, leaf)
        done = [node]
        while self.size >> node.level & 1:
            node = Node(node.level + 1, node.index >> 1, hash_of_node(self._peaks.pop(), node.hash))
            done.append(node)
        self._peaks.append(node.hash)
        self.size += 1
        return done

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            found = hash_of_node(peak, found)
        return found


def root_of(size: int, read: ReadHash) -> bytes:
    """Return the hash of the tree as it was when it had so many leaves."""
    return Frontier.read(size, read).root()


def inclusion_proof(index: int, size: int, read: ReadHash) -> list[bytes]:
    """Return what proves that a leaf is in a tree.

    Args:
        index: of the leaf.
        size: of the tree, at most what is stored.
        read: see `ReadHash`.

    Raises:
        ValueError: there is no such leaf in it.

    Source: RFC 6962 section 2.1.1.
    """
    if not 0 <= index < size:
        raise ValueError(f"found leaf {index} of {size}")
    proof, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(_range_hash(middle, end, read))
            end = middle
        else:
            proof.append(_range_hash(begin, middle, read))
            begin = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, read: ReadHash) -> list[bytes]:
    """Return what proves that a tree begins with all of an older one.

    Args:
        old: size of the older one; nothing needs to be shown for 0.
        new: size of the newer one, at most what is stored.
        read: see `ReadHash`.

    Raises:
        ValueError: the older one is larger.

    Source: RFC 6962 section 2.1.2.
    """
    if not 0 <= old <= new:
        raise ValueError(f"found sizes {old} and {new}")
    if old in {0, new}:
        return []
    proof, begin, end = [], 0, new
    while end != old:
        middle = begin + _split(end - begin)
        if old <= middle:
            proof.append(_range_hash(middle, end, read))
            end = middle
        else:
            proof.append(_range_hash(begin, middle, read))
            begin = middle
    if begin:
        # The verifier does not know this part; where it is all of the older tree, its root is known.
        proof.append(_range_hash(begin, end, read))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Require that a leaf is in a tree.

    Args:
        leaf: its hash.
        index: where it is said to be.
        size: of the tree.
        proof: as from `inclusion_proof`.
        root: of the tree.

    Raises:
        VerificationError: it is not shown.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size or any(len(each) != HASH_BYTES for each in (leaf, root, *proof)):
        raise _unproven("inclusion", f"leaf {index} of {size}")
    first, last, found = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise _unproven("inclusion", "a proof that is too long")
        if first & 1 or first == last:
            found = hash_of_node(part, found)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            found = hash_of_node(found, part)
        first, last = first >> 1, last >> 1
    if last or found != root:
        raise _unproven("inclusion", "another root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Require that a tree begins with all of an older one.

    Args:
        old: size of the older one.
        new: size of the newer one.
        old_root: of the older one.
        new_root: of the newer one.
        proof: as from `consistency_proof`.

    Raises:
        VerificationError: it is not shown.

    Source: RFC 9162 section 2.1.4.2.
    """
    if not 0 <= old <= new or any(len(each) != HASH_BYTES for each in (old_root, new_root, *proof)):
        raise _unproven("consistency", f"sizes {old} and {new}")
    if old in {0, new}:
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise _unproven("consistency", "two roots for one size" if old == new else "a proof where none is needed")
        return
    parts = list(proof) if old & (old - 1) else [old_root, *proof]
    if not parts:
        raise _unproven("consistency", "no proof")
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    found_old = found_new = parts[0]
    for part in parts[1:]:
        if last == 0:
            raise _unproven("consistency", "a proof that is too long")
        if first & 1 or first == last:
            found_old, found_new = hash_of_node(part, found_old), hash_of_node(part, found_new)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            found_new = hash_of_node(found_new, part)
        first, last = first >> 1, last >> 1
    if last or found_old != old_root or found_new != new_root:
        raise _unproven("consistency", "another root")


def _split(size: int) -> int:
    """Return the largest power of two below a size of at least two."""
    return 1 << (size - 1).bit_length() - 1


def _peaks_of(size: int) -> Iterator[tuple[int, int]]:
    begin = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            yield level, begin >> level
            begin += 1 << level


def _range_hash(begin: int, end: int, read: ReadHash) -> bytes:
    """Return the hash of the leaves from `begin`, which is where a subtree of that many begins, to `end`."""
    peaks = [read(level, (begin >> level) + index) for level, index in _peaks_of(end - begin)]
    return Frontier(end - begin, peaks).root()


def _unproven(what: str, found: str) -> VerificationError:
    return VerificationError(f"cannot verify {what} in the log: found {found}, want a proof")


# --- Checkpoints -----------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """What a log says of itself.

    Args:
        origin: its name.
        size: how many entries it has.
        root: of their tree.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class NoteSignature(NamedTuple):
    """One of the signatures of a note.

    Args:
        name: of the key.
        key_id: 4 bytes.
        signature: whatever the key makes.
    """

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """Text that somebody signed.

    Args:
        text: with its last newline.
        signatures: at least one; none was verified.
    """

    text: str
    signatures: tuple[NoteSignature, ...]


class VerifierKey(NamedTuple):
    """The public half of a log's key, and its name.

    Args:
        name: of the key, which is the log's origin.
        public_key: 32 bytes, Ed25519.
    """

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes by which a signature says which key made it."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def text(self) -> str:
        """Return it as auditors are told: `name+hash+key`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"


class LogSigner:
    """Signs the checkpoints of one log.

    Args:
        origin: the log's name, as `steward.example.com/log`: no spaces and no plus.
        key: its Ed25519 key, which signs nothing else.

    Raises:
        ValueError: the name is none.
    """

    __slots__ = ("_key", "verifier_key")

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        if not _is_name(origin):
            raise ValueError(f"found the origin {origin!r}, want a name without spaces and plus")
        self._key = key
        self.verifier_key = VerifierKey(origin, key.public_key().public_bytes_raw())

    def sign(self, size: int, root: bytes) -> str:
        """Return a signed checkpoint."""
        text = Checkpoint(self.verifier_key.name, size, root).text()
        made = base64.b64encode(self.verifier_key.key_id + self._key.sign(text.encode())).decode()
        return f"{text}\n{_DASH}{self.verifier_key.name} {made}\n"


def parse_note_untrusted(data: bytes) -> Note:
    """Take a signed note apart.

    Args:
        data: all of it.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise _no_note(f"{len(data)} bytes", f"at most {MAX_NOTE_BYTES}")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise _no_note("bytes that are no text", "UTF-8") from error
    if any(letter < " " and letter != "\n" for letter in whole):
        raise _no_note("a control character", "newlines alone")
    text, blank, below = whole.rpartition("\n\n")
    if not blank or not below.endswith("\n"):
        raise _no_note("no signature below an empty line", "one")
    lines = below[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise _no_note(f"{len(lines)} signatures", f"at most {MAX_SIGNATURES}")
    return Note(f"{text}\n", tuple(map(_read_signature, lines)))


def parse_checkpoint_untrusted(text: str) -> Checkpoint:
    """Read what a checkpoint says.

    Args:
        text: of a note.

    Raises:
        DecodeError: it is none, or says more than a log of ours does. Nothing else, for any input.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise _no_checkpoint(f"{len(lines) - 1} lines", "origin, size and root")
    origin, size, root, _ = lines
    if not _is_name(origin):
        raise _no_checkpoint(f"the origin {origin[:80]!r}", "a name without spaces and plus")
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise _no_checkpoint(f"the size {size[:40]!r}", "a number")
    digest = _from_base64(root)
    if digest is None or len(digest) != HASH_BYTES:
        raise _no_checkpoint("another root", f"base64 of {HASH_BYTES} bytes")
    if size == "0" and digest != EMPTY_ROOT:
        raise _no_checkpoint("a root of no entries", "that of the empty tree")
    return Checkpoint(origin, int(size), digest)


def parse_verifier_key_untrusted(text: str) -> VerifierKey:
    """Read a key as an auditor has it: `name+hash+key`.

    Args:
        text: of it, without a newline.

    Raises:
        DecodeError: it is none, of another kind than Ed25519, or its hash is another key's. Nothing else, for any input.
    """
    parts = text.split("+", 2)
    if len(parts) != 3 or not _is_name(parts[0]) or not _KEY_ID.fullmatch(parts[1]):
        raise _no_key("other text", "name+hash+key")
    key = _from_base64(parts[2])
    if key is None or len(key) != 33 or key[:1] != _ED25519:
        raise _no_key("another kind of key", "base64 of an Ed25519 key")
    found = VerifierKey(parts[0], key[1:])
    if found.key_id.hex() != parts[1]:
        raise _no_key(f"the hash {parts[1]}", found.key_id.hex())
    return found


def verify_checkpoint(note: str | bytes, key: VerifierKey) -> Checkpoint:
    """Return what a checkpoint says, if that log signed it.

    Args:
        note: the signed checkpoint.
        key: of the log.

    Raises:
        DecodeError: it is none.
        VerificationError: that key did not sign it, or it is another log's.
    """
    parsed = parse_note_untrusted(note if isinstance(note, bytes) else note.encode("utf-8", "surrogatepass"))
    known = [each for each in parsed.signatures if (each.name, each.key_id) == (key.name, key.key_id)]
    if not known:
        raise VerificationError(f"cannot verify the checkpoint: found no signature of {key.name}, want one")
    public = Ed25519PublicKey.from_public_bytes(key.public_key)
    for each in known:
        try:
            public.verify(each.signature, parsed.text.encode())
        except InvalidSignature as error:
            raise VerificationError(
                f"cannot verify the checkpoint: found a signature of {key.name} that does not fit, want its own"
            ) from error
    found = parse_checkpoint_untrusted(parsed.text)
    if found.origin != key.name:
        raise VerificationError(f"cannot verify the checkpoint: found the log {found.origin}, want {key.name}")
    return found


def _read_signature(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise _no_note("a line below that is no signature", "an em dash, a name and base64")
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    signature = _from_base64(encoded)
    if not space or not _is_name(name) or signature is None or len(signature) <= 4:
        raise _no_note("a line below that is no signature", "an em dash, a name and base64")
    return NoteSignature(name, signature[:4], signature[4:])


def _is_name(text: str) -> bool:
    # Whatever is not printable is neither a name nor fit to be shown; half of a surrogate pair is not printable.
    return bool(text) and "+" not in text and text.isprintable() and not any(map(str.isspace, text))


def _from_base64(text: str) -> bytes | None:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # There are several texts for some bytes; one of them is meant.
    return found if base64.b64encode(found).decode() == text else None


def _no_note(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the signed note: found {found}, want {want}")


def _no_checkpoint(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the checkpoint: found {found}, want {want}")


def _no_key(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the log's key: found {found}, want {want}")


# --- Tiles -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tile:
    """A row of up to 256 hashes, as logs are served and copied.

    Args:
        level: of the tile: its hashes are of subtrees of level `8 * level`.
        index: among the tiles of its level.
        width: how many hashes it has, 1 to 256.
    """

    level: int
    index: int
    width: int

    def path(self) -> str:
        """Return where it is below a log's prefix."""
        return f"tile/{self.level}/{_path_of(self.index, self.width)}"

    def entries_path(self) -> str:
        """Return where the entries of a tile of level 0 are."""
        return f"tile/entries/{_path_of(self.index, self.width)}"

    def nodes(self) -> Iterator[tuple[int, int]]:
        """Yield level and index of the subtree for each hash."""
        for number in range(self.width):
            yield self.level * _TILE_HEIGHT, self.index * TILE_WIDTH + number


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield the tiles of a tree of that size, the last one of each level perhaps narrower than the others."""
    level = 0
    while size >> level * _TILE_HEIGHT:
        full, rest = divmod(size >> level * _TILE_HEIGHT, TILE_WIDTH)
        for index in range(full):
            yield Tile(level, index, TILE_WIDTH)
        if rest:
            yield Tile(level, full, rest)
        level += 1


def _path_of(index: int, width: int) -> str:
    parts = [f"{index % 1000:03}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03}")
    return "/".join(reversed(parts)) + ("" if width == TILE_WIDTH else f".p/{width}")
