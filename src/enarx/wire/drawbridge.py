# SPDX-License-Identifier: Apache-2.0
"""How the original's registry, Drawbridge, names packages and describes them: slugs, tags, directories, digests.

Rules of this file:

- A package is a tree. A tag has the digests, the length and the type of its root, and a directory those of each of its nodes, over
  exactly the bytes that it is served as. So who knows the digest of the root knows everything below it.
- Every digest that is listed counts, and one of them at least is a SHA-2 of 256 bits or more. There are four algorithms; a digest of
  another one, which cannot be compared, is an error and is not passed over.
- Members that nobody here knows are ignored: the format has room for them.

Source: enarx/drawbridge 0.4.3, `crates/type`; Semantic Versioning 2.0.0, "Backus-Naur Form Grammar"; RFC 9530 section 2 for the form of
Content-Digest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from enarx.errors import DecodeError, UsageError
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "ALGORITHMS",
    "DIRECTORY",
    "ENTRY",
    "MAX_DIRECTORY_BYTES",
    "MAX_TAG_BYTES",
    "MAX_TOML_BYTES",
    "MAX_WASM_BYTES",
    "SCHEME",
    "SIGNED_ENTRY",
    "TOML",
    "WASM",
    "DrawbridgeRef",
    "Node",
    "decode_content_digest_untrusted",
    "decode_directory_untrusted",
    "decode_tag_untrusted",
    "parse_drawbridge_ref",
]

SCHEME = "drawbridge://"

ENTRY = "application/vnd.drawbridge.entry.v1+json"
SIGNED_ENTRY = "application/jose+json"
DIRECTORY = "application/vnd.drawbridge.directory.v1+json"
WASM = "application/wasm"
TOML = "application/toml"

MAX_WASM_BYTES = 100_000_000
MAX_TOML_BYTES = 1_000_000
MAX_DIRECTORY_BYTES = 1_000_000
"""The limits of the original."""
MAX_TAG_BYTES = 64 << 10
"""Of ours; a tag has some 500 bytes."""

ALGORITHMS: Mapping[str, str] = {"sha-224": "sha224", "sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
"""The algorithms as they are written, and as Python calls them."""

_STRONG = frozenset(ALGORITHMS) - {"sha-224"}
_MAX_HEADER_CHARACTERS = 1024
_MAX_TEXT = 1024
_MAX_NAME = 255
_MAX_TYPE = 255
_MAX_NODES = 20_000
_MAX_LENGTH = 2**53 - 1

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_AUTHORITY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?")
_USER = re.compile(r"[0-9A-Za-z]+")
_REPOSITORY = re.compile(r"[0-9A-Za-z-]+")
_NUMBER = r"(?:0|[1-9][0-9]*)"
_MARK = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"{_NUMBER}(?:\.{_NUMBER}){{2}}(?:-{_MARK}(?:\.{_MARK})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_NODE = re.compile(r"[0-9A-Za-z._:-]+")
_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]+")
_WANT = "drawbridge://HOST[:PORT]/USER/REPOSITORY:VERSION"


class DrawbridgeRef(NamedTuple):
    """A package in a Drawbridge.

    Args:
        authority: host name or address, with its port where one is written.
        user: letters and digits.
        repository: letters, digits and hyphens.
        version: of Semantic Versioning, which is what tags are there.
    """

    authority: str
    user: str
    repository: str
    version: str

    @property
    def host(self) -> str:
        """Return the name or the address, an IPv6 one without its brackets."""
        authority = self.authority
        host = authority.partition("]")[0] + "]" if authority[0] == "[" else authority.partition(":")[0]
        return host.strip("[]").lower()

    @property
    def text(self) -> str:
        """Return it as it is written."""
        return f"{SCHEME}{self.authority}/{self.user}/{self.repository}:{self.version}"


class Node(NamedTuple):
    """What a tag says of its root, and a directory of each of its nodes.

    Args:
        digests: by algorithm as it is written, at least one.
        length: in bytes.
        media_type: as it is served.
    """

    digests: Mapping[str, bytes]
    length: int
    media_type: str


def parse_drawbridge_ref(text: str) -> DrawbridgeRef:
    """Read how a user names a package: the original's slug with its host, after `drawbridge://` or without.

    Raises:
        UsageError: it is none. Where the original would take its own hosted service, which is gone, a host is wanted.
    """
    slug = text.removeprefix(SCHEME)
    authority, _, rest = slug.partition("/")
    user, slash, last = rest.partition("/")
    repository, colon, version = last.partition(":")
    found = _AUTHORITY.fullmatch(authority)
    is_right = (
        len(text) <= _MAX_TEXT
        and found is not None
        and (found[1] is None or 0 < int(found[1]) < 1 << 16)
        and _USER.fullmatch(user)
        and _REPOSITORY.fullmatch(repository)
        and _VERSION.fullmatch(version)
    )
    if not is_right:
        hint = "a version has three numbers, as 1.0.0" if colon else None
        if not slash:
            hint = "there is no host that is taken where none is named"
        raise UsageError(f"cannot read the package's name: found {quote(text)}, want {_WANT}", hint=hint)
    return DrawbridgeRef(authority, user, repository, version)


def decode_content_digest_untrusted(text: str) -> dict[str, bytes]:
    """Read a Content-Digest header: `sha-256=:base64:,sha-512=:base64:`.

    Returns:
        The digests by algorithm, of the lengths that they have.

    Raises:
        DecodeError: it is none, has an algorithm twice or one that there is not, or none of 256 bits or more.
    """
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise DecodeError(
            f"cannot decode Content-Digest: found {len(text)} characters, want at most {_MAX_HEADER_CHARACTERS}"
        )
    digests: dict[str, bytes] = {}
    for part in text.split(","):
        name, _, value = part.strip(" \t").partition("=")
        if len(value) < 2 or value[0] != ":" or value[-1] != ":":
            raise DecodeError(f"cannot decode Content-Digest: found {quote(part)}, want NAME=:BASE64:")
        if name in digests:
            raise DecodeError(f"cannot decode Content-Digest: found {quote(name)} twice, want it once")
        digests[name] = _digest(name, value[1:-1], "Content-Digest")
    return _require_strong(digests, "Content-Digest")


def decode_tag_untrusted(data: bytes) -> Node:
    """Read an unsigned tag, of type `ENTRY`.

    Returns:
        What it says of the root of the package.

    Raises:
        DecodeError: it is none.
    """
    return _node(load_json_untrusted(data, what="tag", max_bytes=MAX_TAG_BYTES, max_items=1000), "tag")


def decode_directory_untrusted(data: bytes) -> dict[str, Node]:
    """Read a directory, of type `DIRECTORY`.

    Returns:
        What it says of its nodes, by name. No name leads out of a folder.

    Raises:
        DecodeError: it is none.
    """
    value = load_json_untrusted(data, what="directory", max_bytes=MAX_DIRECTORY_BYTES, max_items=12 * _MAX_NODES)
    if not isinstance(value, dict):
        raise DecodeError(f"cannot decode the directory: found {quote(value)}, want an object")
    if len(value) > _MAX_NODES:
        raise DecodeError(f"cannot decode the directory: found {len(value)} names, want at most {_MAX_NODES}")
    nodes = {}
    for name, entry in value.items():
        # The original's grammar has room for these two.
        if len(name) > _MAX_NAME or not _NODE.fullmatch(name) or name in {".", ".."}:
            raise DecodeError(
                f"cannot decode the directory: found the name {quote(name)},"
                f" want at most {_MAX_NAME} letters, digits and ._:- that are a name of its own"
            )
        nodes[name] = _node(entry, f"directory: {name[:60]}")
    return nodes


def _node(value: Any, what: str) -> Node:
    if not isinstance(value, dict):
        raise DecodeError(f"cannot decode the {what}: found {quote(value)}, want an object")
    listed, length, media_type = value.get("digest"), value.get("length"), value.get("type")
    if not isinstance(listed, dict):
        raise DecodeError(f"cannot decode the {what}: digest: found {quote(listed)}, want an object")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= _MAX_LENGTH:
        raise DecodeError(f"cannot decode the {what}: length: found {quote(length)}, want a number of bytes")
    if not isinstance(media_type, str) or len(media_type) > _MAX_TYPE or not _TYPE.fullmatch(media_type):
        raise DecodeError(f"cannot decode the {what}: type: found {quote(media_type)}, want a media type")
    digests = {name: _digest(name, each, what) for name, each in listed.items()}
    return Node(_require_strong(digests, what), length, media_type)


def _digest(name: str, value: object, what: str) -> bytes:
    if name not in ALGORITHMS:
        raise DecodeError(f"cannot decode the {what}: digest: found {quote(name)}, want one of {', '.join(ALGORITHMS)}")
    size = hashlib.new(ALGORITHMS[name]).digest_size
    try:
        digest = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        raise DecodeError(f"cannot decode the {what}: {name}: found {quote(value)}, want {size} bytes in base64")
    return digest


def _require_strong(digests: dict[str, bytes], what: str) -> dict[str, bytes]:
    if not _STRONG & digests.keys():
        raise DecodeError(
            f"cannot decode the {what}: digest: found {', '.join(digests) or 'none'}, want one of {', '.join(sorted(_STRONG))}"
        )
    return digests
