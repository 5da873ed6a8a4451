# SPDX-License-Identifier: Apache-2.0
"""OCI manifests, indexes and descriptors: how a package is described where it is stored and where it travels.

Rules of this file:

- What we write is the same bytes for the same records: compact JSON, members in one order, annotations sorted.
- What others wrote is read with their additions: unknown members are ignored, as the specification demands. A member we know has to
  have its type, and all of it has limits.
- A document that is a manifest and an index at once is refused: two readers would take it for two packages.
- Digests are SHA-256 alone, and in one spelling.

Source: OCI image-spec 1.1 (manifest.md, image-index.md, descriptor.md, annotations.md); CNCF TAG Runtime, Wasm OCI Artifact layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

from enarx.errors import DecodeError
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "EMPTY",
    "FILES",
    "FILES_GZIP",
    "FILES_ZSTD",
    "IMAGE_CONFIG",
    "INDEX",
    "MANIFEST",
    "MAX_LAYERS",
    "MAX_MANIFEST_BYTES",
    "REF_NAME",
    "SPIN_WASM",
    "TITLE",
    "TOML",
    "WASM",
    "WASM_CONFIG",
    "Descriptor",
    "Index",
    "Manifest",
    "decode_index_untrusted",
    "decode_manifest_untrusted",
    "digest_of",
    "encode_index",
    "encode_manifest",
    "is_digest",
]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
WASM = "application/wasm"
SPIN_WASM = "application/vnd.wasm.content.layer.v1+wasm"
WASM_CONFIG = "application/vnd.wasm.config.v0+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
TOML = "application/vnd.enarx.config.v1+toml"
FILES = "application/vnd.oci.image.layer.v1.tar"
FILES_GZIP = FILES + "+gzip"
FILES_ZSTD = FILES + "+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"

MAX_MANIFEST_BYTES = 4 << 20
"""What registries have to take at least, and what we take at most."""

MAX_LAYERS = 100
_MAX_MANIFESTS = 10_000
_MAX_ITEMS = 400_000
_MAX_ANNOTATIONS = 1000
_MAX_SIZE = (1 << 53) - 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
# Of what others attach there are types with parameters, and a list of referrers has them beside ours.
_ARTIFACT_TYPE = re.compile(_MEDIA_TYPE.pattern + r"(?:;[ -~]{0,255})?")
_NONE: Mapping[str, str] = MappingProxyType({})


class Descriptor(NamedTuple):
    """What something is, how long and with which digest.

    Args:
        media_type: of what it points to.
        digest: `sha256:` and 64 small hex digits.
        size: bytes.
        annotations: names and values.
        artifact_type: of the manifest it points to, where it says so.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = _NONE
    artifact_type: str | None = None


class Manifest(NamedTuple):
    """What a package consists of, in the order of its layers.

    Args:
        config: of the Wasm configuration.
        layers: at most 100.
        annotations: names and values.
        artifact_type: where it says so.
        subject: the manifest that this one refers to, for signatures and the like.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = _NONE
    artifact_type: str | None = None
    subject: Descriptor | None = None


class Index(NamedTuple):
    """A list of manifests."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = _NONE


def digest_of(data: bytes) -> str:
    """Return the digest of bytes as descriptors have it."""
    return "sha256:" + sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Return whether a text is a digest as descriptors have it."""
    return _DIGEST.fullmatch(text) is not None


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest in JSON, the same bytes every time."""
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if manifest.artifact_type is not None:
        value["artifactType"] = manifest.artifact_type
    value["config"] = _descriptor_value(manifest.config)
    value["layers"] = [_descriptor_value(each) for each in manifest.layers]
    if manifest.subject is not None:
        value["subject"] = _descriptor_value(manifest.subject)
    return _encode(value, manifest.annotations)


def encode_index(index: Index) -> bytes:
    """Return an index in JSON, the same bytes every time."""
    manifests = [_descriptor_value(each) for each in index.manifests]
    return _encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, index.annotations)


def decode_manifest_untrusted(data: bytes) -> Manifest:
    """Decode a manifest.

    Args:
        data: at most 4 MiB.

    Raises:
        DecodeError: it is none, of another media type, or beyond a limit.
    """
    what = "manifest"
    value = _document(data, what, MANIFEST, "manifests")
    layers = _array(value, "layers", what, MAX_LAYERS)
    return Manifest(
        config=_descriptor(value.get("config"), what, "config"),
        layers=tuple(_descriptor(each, what, f"layers[{number}]") for number, each in enumerate(layers)),
        annotations=_annotations(value, what, ""),
        artifact_type=_artifact_type(value, what, ""),
        subject=None if value.get("subject") is None else _descriptor(value["subject"], what, "subject"),
    )


def decode_index_untrusted(data: bytes) -> Index:
    """Decode an index.

    Args:
        data: at most 4 MiB.

    Raises:
        DecodeError: it is none, of another media type, or beyond a limit.
    """
    what = "index"
    value = _document(data, what, INDEX, "layers", "config")
    manifests = _array(value, "manifests", what, _MAX_MANIFESTS)
    return Index(
        manifests=tuple(_descriptor(each, what, f"manifests[{number}]") for number, each in enumerate(manifests)),
        annotations=_annotations(value, what, ""),
    )


def _encode(value: dict[str, Any], annotations: Mapping[str, str]) -> bytes:
    if annotations:
        value["annotations"] = dict(sorted(annotations.items()))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _descriptor_value(descriptor: Descriptor) -> dict[str, Any]:
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(sorted(descriptor.annotations.items()))
    if descriptor.artifact_type is not None:
        value["artifactType"] = descriptor.artifact_type
    return value


def _document(data: bytes, what: str, media_type: str, *of_another: str) -> dict[str, Any]:
    value = load_json_untrusted(data, what=what, max_bytes=MAX_MANIFEST_BYTES, max_items=_MAX_ITEMS)
    if type(value) is not dict:
        raise _refusal(what, "the text", quote(value), "an object")
    if type(value.get("schemaVersion")) is not int or value["schemaVersion"] != 2:
        raise _refusal(what, "schemaVersion", quote(value.get("schemaVersion")), "2")
    if value.get("mediaType", media_type) != media_type:
        raise _refusal(what, "mediaType", quote(value["mediaType"]), media_type)
    for name in of_another:
        if name in value:
            raise _refusal(what, name, "a member of another kind of document", "none")
    return value


def _descriptor(value: Any, what: str, where: str) -> Descriptor:
    if type(value) is not dict:
        raise _refusal(what, where, quote(value), "a descriptor")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if type(media_type) is not str or not _MEDIA_TYPE.fullmatch(media_type):
        raise _refusal(what, f"{where}.mediaType", quote(media_type), "a media type")
    if type(digest) is not str or not _DIGEST.fullmatch(digest):
        raise _refusal(what, f"{where}.digest", quote(digest), "sha256: and 64 small hex digits")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise _refusal(what, f"{where}.size", quote(size), f"a number from 0 to {_MAX_SIZE}")
    prefix = f"{where}."
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=_annotations(value, what, prefix),
        artifact_type=_artifact_type(value, what, prefix),
    )


def _annotations(value: dict[str, Any], what: str, prefix: str) -> Mapping[str, str]:
    found = value.get("annotations")
    if found is None:
        return _NONE
    where = f"{prefix}annotations"
    if type(found) is not dict or len(found) > _MAX_ANNOTATIONS:
        raise _refusal(what, where, quote(found), f"an object of at most {_MAX_ANNOTATIONS} members")
    for name, text in found.items():
        if type(text) is not str:
            raise _refusal(what, f"{where}.{quote(name)}", quote(text), "a string")
    return found


def _artifact_type(value: dict[str, Any], what: str, prefix: str) -> str | None:
    found = value.get("artifactType")
    # Some programs write nothing where they mean nothing.
    if found is None or found == "":
        return None
    if type(found) is not str or not _ARTIFACT_TYPE.fullmatch(found):
        raise _refusal(what, f"{prefix}artifactType", quote(found), "a media type")
    return found


def _array(value: dict[str, Any], name: str, what: str, most: int) -> list[Any]:
    found = value.get(name)
    if type(found) is not list:
        raise _refusal(what, name, quote(found), "an array")
    if len(found) > most:
        raise _refusal(what, name, f"an array of {len(found)}", f"at most {most}")
    return found


def _refusal(what: str, where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the {what}: {where}: found {found}, want {want}")
