# SPDX-License-Identifier: Apache-2.0
"""What packages are read from and written to: a layout, an archive, a registry.

Rules that hold for each of them:

- Bytes are believed for their digest alone. A piece of a blob may be passed on before all of it was seen, but never the last one:
  whoever has got everything has got what was asked for.
- Nothing longer than announced is read, and nothing without a limit is held.

Source: OCI image-spec 1.1 (descriptor.md), distribution-spec 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple, Protocol

from enarx.errors import DecodeError, VerificationError
from enarx.wire.oci import Descriptor

__all__ = ["PIECE_BYTES", "Resolved", "Sink", "Source", "checked", "read_blob"]

PIECE_BYTES = 1 << 20
"""How much of a blob is read from a file at once."""


class Resolved(NamedTuple):
    """A manifest or an index.

    Args:
        descriptor: whose digest the bytes have.
        data: at most 4 MiB.
    """

    descriptor: Descriptor
    data: bytes


class Source(Protocol):
    """Where packages are read from."""

    def resolve(self, reference: str) -> Resolved:
        """Return the manifest or index of a tag, or of a digest (`sha256:...`).

        Raises:
            UsageError: there is none of this name.
            VerificationError: bytes and digest differ.
            DecodeError: it is too large.
            TransportError: it cannot be read.
        """
        ...

    def open_blob(self, wanted: Descriptor) -> Iterator[bytes]:
        """Return exactly `wanted.size` bytes with `wanted.digest`, in pieces; the last one only once the digest was right.

        Raises:
            VerificationError: they are others.
            TransportError: they cannot be read.
        """
        ...

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Return what refers to a manifest, of one artifact type or of all."""
        ...


class Sink(Protocol):
    """Where packages are written to."""

    def has_blob(self, wanted: Descriptor) -> bool:
        """Return whether it is there already."""
        ...

    def put_blob(self, wanted: Descriptor, pieces: Iterable[bytes]) -> None:
        """Store bytes that have to be `wanted`, all of them or none.

        Raises:
            VerificationError: they are others.
            TransportError: they cannot be written.
        """
        ...

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        """Store a manifest or index whose blobs are there, under a tag or under its digest alone."""
        ...


def checked(pieces: Iterable[bytes], wanted: Descriptor) -> Iterator[bytes]:
    """Pass bytes on while they can be what is wanted; the last piece only once size and digest are right.

    Raises:
        VerificationError: they are longer, shorter or others.
    """
    running, size, held = sha256(), 0, b""
    for piece in pieces:
        if not piece:
            continue
        size += len(piece)
        if size > wanted.size:
            raise VerificationError(
                f"cannot accept {wanted.digest}: found more than {wanted.size} bytes, want {wanted.size}"
            )
        running.update(piece)
        if held:
            yield held
        held = piece
    if size != wanted.size:
        raise VerificationError(f"cannot accept {wanted.digest}: found {size} bytes, want {wanted.size}")
    if (found := "sha256:" + running.hexdigest()) != wanted.digest:
        raise VerificationError(f"cannot accept {wanted.digest}: found bytes with the digest {found}, want that one")
    if held:
        yield held


def read_blob(source: Source, wanted: Descriptor, max_bytes: int) -> bytes:
    """Return a whole blob.

    Args:
        source: where it is.
        wanted: which one.
        max_bytes: what is longer is not read at all.

    Raises:
        DecodeError: it is announced as longer.
        VerificationError: it is another.
        TransportError: it cannot be read.
    """
    if wanted.size > max_bytes:
        raise DecodeError(f"cannot read {wanted.digest}: found {wanted.size} bytes, want at most {max_bytes}")
    return b"".join(checked(source.open_blob(wanted), wanted))
