# SPDX-License-Identifier: Apache-2.0
"""Bring a package from one place to another: its blobs, then its manifest, then what refers to it.

Rules of this file:

- A manifest is written when everything it names is there, so nobody finds a package that is not whole.
- Bytes pass through in pieces. What the source sent is what its digest says, and the sink says so again of what it stored.
- Signatures and the like come along. One on the list that is not there, that is no manifest of ours, or that refers to something else,
  is left behind: a list is a registry's word. So is one that is larger than what is left for all of them.

Source: OCI distribution-spec 1.1, "Pushing manifests", "Listing referrers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.registry.content import Resolved, Sink, Source
from enarx.registry.layout import LayoutFolder, blob_path
from enarx.wire.oci import (
    INDEX,
    MANIFEST,
    MAX_LAYERS,
    Descriptor,
    Manifest,
    decode_index_untrusted,
    decode_manifest_untrusted,
    digest_of,
)

__all__ = ["copy_package"]

MAX_MANIFESTS = 500
"""Of one copy, with everything that refers to one of them."""

MAX_BYTES = 4 << 30
"""Of one copy, in blobs."""

MAX_REFERRING_BYTES = 256 << 20
"""Of these, of what refers to a package: anybody who may write to a repository can attach something."""

_MAX_DEPTH = 3
_TRIES = 2


@runtime_checkable
class _Linking(Protocol):
    """A source with a cache that can give a blob a second name."""

    def link_blob(self, wanted: Descriptor, path: str) -> bool: ...


def copy_package(source: Source, resolved: Resolved, sink: Sink, *, tag: str | None) -> Descriptor:
    """Copy a package with everything that refers to it.

    Args:
        source: where it is.
        resolved: its manifest or index there.
        sink: where it shall be.
        tag: that it gets there, or None.

    Returns:
        What it is there: the digest is the same.

    Raises:
        DecodeError: a manifest is none, or there are too many.
        VerificationError: what came, or what was stored, is not what was meant.
        TransportError: a place is out of reach, or too slow.
        UsageError: a part of it is missing, or a place wants a login.
    """
    return _Copy(source, sink).copy(resolved, tag, 0)


class _Copy:
    def __init__(self, source: Source, sink: Sink) -> None:
        self._source = source
        self._sink = sink
        self._done: set[str] = set()
        self._left = MAX_BYTES
        self._left_referring = MAX_REFERRING_BYTES

    def copy(self, resolved: Resolved, tag: str | None, depth: int) -> Descriptor:
        digest = resolved.descriptor.digest
        if digest_of(resolved.data) != digest:
            raise VerificationError(f"cannot copy {digest}: found a manifest with another digest, want that one")
        if len(self._done) >= MAX_MANIFESTS:
            raise DecodeError(f"cannot copy {digest}: found more than {MAX_MANIFESTS} manifests, want at most that")
        self._done.add(digest)
        if resolved.descriptor.media_type == INDEX:
            self._copy_listed(resolved, depth)
        else:
            blobs = _blobs_of(decode_manifest_untrusted(resolved.data))
            self._left -= sum(each.size for each in blobs)
            if self._left < 0:
                raise DecodeError(f"cannot copy {digest}: found more than {MAX_BYTES} bytes, want at most that")
            for blob in blobs:
                self._copy_blob(blob)
        stored = self._sink.put_manifest(resolved.data, resolved.descriptor.media_type, tag=tag)
        if stored.digest != digest:
            raise VerificationError(f"cannot copy {digest}: found it stored as {stored.digest}, want the same digest")
        if depth < _MAX_DEPTH:
            for each in self._referrers(digest):
                self.copy(each, None, depth + 1)
        return stored

    def _copy_listed(self, resolved: Resolved, depth: int) -> None:
        listed = decode_index_untrusted(resolved.data).manifests
        digest = resolved.descriptor.digest
        if len(listed) > MAX_LAYERS or depth >= _MAX_DEPTH:
            raise DecodeError(f"cannot copy {digest}: found an index of {len(listed)} in {depth} others, want less")
        for each in listed:
            if each.media_type not in {MANIFEST, INDEX}:
                raise DecodeError(f"cannot copy {digest}: found a part that is no manifest, want manifests")
            if each.digest not in self._done:
                self.copy(self._source.resolve(each.digest), None, depth + 1)

    def _copy_blob(self, blob: Descriptor) -> None:
        if self._sink.has_blob(blob):
            return
        for left in reversed(range(_TRIES)):
            try:
                if not self._link_blob(blob):
                    self._sink.put_blob(blob, self._source.open_blob(blob))
            except TransportError:
                if not left:
                    raise
            else:
                return

    def _link_blob(self, blob: Descriptor) -> bool:
        """Put a blob into a folder of the user's without a second copy of it, where that can be done."""
        return (
            isinstance(self._sink, LayoutFolder)
            and isinstance(self._source, _Linking)
            and self._source.link_blob(blob, os.path.join(self._sink.path, blob_path(blob.digest)))
        )

    def _referrers(self, digest: str) -> Iterator[Resolved]:
        for each in self._source.referrers(digest):
            if each.digest in self._done or each.media_type != MANIFEST:
                continue
            try:
                found = self._source.resolve(each.digest)
                manifest = decode_manifest_untrusted(found.data)
            except (UsageError, DecodeError):
                # A list outlives what is on it, and others may attach what we cannot read.
                continue
            if manifest.subject is None or manifest.subject.digest != digest:
                continue
            size = sum(blob.size for blob in _blobs_of(manifest))
            if size <= self._left_referring:
                self._left_referring -= size
                yield found


def _blobs_of(manifest: Manifest) -> tuple[Descriptor, ...]:
    return tuple({each.digest: each for each in (manifest.config, *manifest.layers)}.values())
