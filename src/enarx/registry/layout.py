# SPDX-License-Identifier: Apache-2.0
"""An OCI layout: packages in a folder, without a registry.

Rules of this file:

- The index names what is there; a package without a tag is there too. What refers to another manifest (a signature) is listed like
  the rest and is never taken for the package itself.
- A file is opened only where it is a file, never through a link, and is read no further than announced.
- What is written is there whole or not at all: a blob and the index get their names last, and a new layout appears at once.
- Two that write to one layout wait for each other where they change the index.

Source: OCI image-spec 1.1, image-layout.md and image-index.md; distribution-spec 1.1, "Referrers tag schema".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.registry.content import PIECE_BYTES, Resolved, checked
from enarx.registry.reading import open_regular
from enarx.user_files import new_folder, write_whole
from enarx.wire.oci import (
    INDEX,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    REF_NAME,
    Descriptor,
    Index,
    decode_index_untrusted,
    decode_manifest_untrusted,
    digest_of,
    encode_index,
    is_digest,
)
from enarx.wire.package_ref import is_tag
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "INDEX_FILE",
    "LAYOUT_FILE",
    "LAYOUT_TEXT",
    "Layout",
    "LayoutFolder",
    "blob_path",
    "is_layout",
    "make_layout",
    "new_layout",
]

LAYOUT_FILE = "oci-layout"
LAYOUT_TEXT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_FILE = "index.json"
_MAX_LAYOUT_BYTES = 4096
_MAX_REFERRERS = 1000
_FALLBACK = "sha256-"
_FOLDER_MODE = 0o755


def blob_path(digest: str) -> str:
    """Return where a layout has a blob."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def is_layout(path: str) -> bool:
    """Return whether a folder says that it is a layout."""
    return os.path.isfile(os.path.join(path, LAYOUT_FILE))


class Layout:
    """What a folder and an archive of one have in common: a source of packages.

    Args:
        path: as the user named it, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._said: dict[str, tuple[str | None, str]] = {}
        self._listed: tuple[bytes, Index] | None = None

    def open_file(self, name: str) -> tuple[BinaryIO, int] | None:
        """Return a file of the layout, at its beginning, and its length; None where there is none.

        Raises:
            DecodeError: there is something else.
        """
        raise NotImplementedError

    def index(self) -> Index:
        """Return what is in the layout.

        Raises:
            DecodeError: it is no layout.
        """
        version = load_json_untrusted(
            self._read(LAYOUT_FILE, _MAX_LAYOUT_BYTES), what=f"layout {self.path}", max_bytes=_MAX_LAYOUT_BYTES
        )
        if not isinstance(version, dict) or version.get("imageLayoutVersion") != "1.0.0":
            raise DecodeError(f"cannot read the layout {self.path}: imageLayoutVersion: found another, want 1.0.0")
        data = self._read(INDEX_FILE, MAX_MANIFEST_BYTES)
        if self._listed is None or self._listed[0] != data:
            self._listed = data, decode_index_untrusted(data)
        return self._listed[1]

    def only_digest(self) -> str:
        """Return the digest of the package that is meant where none is named.

        Raises:
            UsageError: there is none, or more than one.
            DecodeError: it is no layout.
        """
        listed = self.index().manifests
        tagged = {each.digest for each in listed if not each.annotations.get(REF_NAME, _FALLBACK).startswith(_FALLBACK)}
        if not tagged:
            rest = {each.digest: each for each in listed if REF_NAME not in each.annotations}
            tagged = {digest for digest, each in rest.items() if len(rest) == 1 or self._subject(each) is None}
        if len(tagged) == 1:
            return tagged.pop()
        names = sorted({each.annotations[REF_NAME] for each in listed if REF_NAME in each.annotations})
        shown = ", ".join(quote(name) for name in names[:10])
        raise UsageError(
            f"cannot open {self.path}: found {len(tagged) or 'no'} packages, want one",
            hint=f"say which one: {self.path}:TAG, of {shown}"
            if names
            else f"say which one: {self.path}@sha256:DIGEST",
        )

    def resolve(self, reference: str) -> Resolved:
        """Return the manifest or index of a tag or a digest. See `Source.resolve`."""
        listed = self.index().manifests
        if is_digest(reference):
            found = next((each for each in listed if each.digest == reference), None)
            if found is None and not self._has(blob_path(reference)):
                raise UsageError(f"cannot open {self.path}: found no package {reference} in it, want one")
            data = self._manifest_bytes(reference)
            if found is None:
                found = Descriptor(_media_type(data), reference, len(data))
        else:
            named = {each.digest: each for each in listed if each.annotations.get(REF_NAME) == reference}
            if not named:
                raise UsageError(f"cannot open {self.path}: found no package {quote(reference)} in it, want one")
            if len(named) > 1:
                raise DecodeError(
                    f"cannot open {self.path}: found {len(named)} packages {quote(reference)} in it, want one"
                )
            found = next(iter(named.values()))
            data = self._manifest_bytes(found.digest)
        if len(data) != found.size:
            raise VerificationError(
                f"cannot open {self.path}: {found.digest}: found {len(data)} bytes, want {found.size}"
            )
        return Resolved(Descriptor(found.media_type, found.digest, found.size, {}, found.artifact_type), data)

    def open_blob(self, wanted: Descriptor) -> Iterator[bytes]:
        """Return a blob in pieces. See `Source.open_blob`."""
        return checked(self._pieces(wanted), wanted)

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Return what refers to a manifest: what the index lists, and what a fallback tag does."""
        listed = self.index().manifests
        fallback = _FALLBACK + digest.removeprefix("sha256:")
        more = next((each for each in listed if each.annotations.get(REF_NAME) == fallback), None)
        found: dict[str, Descriptor] = {}
        if more is not None:
            found = {
                each.digest: each
                for each in decode_index_untrusted(self._manifest_bytes(more.digest)).manifests
                if self._subject(each) == digest
            }
        untagged = [each for each in listed if REF_NAME not in each.annotations and each.media_type == MANIFEST]
        if len(untagged) > _MAX_REFERRERS:
            raise DecodeError(
                f"cannot read {self.path}: found {len(untagged)} manifests, want at most {_MAX_REFERRERS}"
            )
        found |= {each.digest: each for each in untagged if self._subject(each) == digest}
        return tuple(
            each for each in found.values() if artifact_type is None or self._artifact_type(each) == artifact_type
        )

    def _subject(self, manifest: Descriptor) -> str | None:
        return None if manifest.media_type != MANIFEST else self._says(manifest.digest)[0]

    def _artifact_type(self, manifest: Descriptor) -> str:
        if manifest.artifact_type is not None:
            return manifest.artifact_type
        return self._says(manifest.digest)[1]

    def _says(self, digest: str) -> tuple[str | None, str]:
        """Return to what a manifest refers, and of which type it is; read once, however often a list has it."""
        if digest not in self._said:
            found = decode_manifest_untrusted(self._manifest_bytes(digest))
            subject = None if found.subject is None else found.subject.digest
            self._said[digest] = subject, found.artifact_type or found.config.media_type
        return self._said[digest]

    def _manifest_bytes(self, digest: str) -> bytes:
        data = self._read(blob_path(digest), MAX_MANIFEST_BYTES)
        if (found := digest_of(data)) != digest:
            raise VerificationError(
                f"cannot open {self.path}: {digest}: found bytes with the digest {found}, want that one"
            )
        return data

    def _pieces(self, wanted: Descriptor) -> Iterator[bytes]:
        file, size = self._open(blob_path(wanted.digest))
        with file:
            if size != wanted.size:
                raise VerificationError(
                    f"cannot open {self.path}: {wanted.digest}: found {size} bytes, want {wanted.size}"
                )
            while size:
                piece = file.read(min(size, PIECE_BYTES))
                if not piece:
                    raise VerificationError(f"cannot open {self.path}: {wanted.digest}: found its end too early")
                size -= len(piece)
                yield piece

    def _read(self, name: str, max_bytes: int) -> bytes:
        file, size = self._open(name)
        with file:
            if size > max_bytes:
                raise DecodeError(f"cannot read {self.path}: {name}: found {size} bytes, want at most {max_bytes}")
            return file.read(size)

    def _has(self, name: str) -> bool:
        found = self.open_file(name)
        if found is not None:
            found[0].close()
        return found is not None

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        found = self.open_file(name)
        if found is None:
            raise DecodeError(f"cannot read {self.path}: found no {name} in it, want a whole OCI layout")
        return found


class LayoutFolder(Layout):
    """A layout in a folder: a source and a sink."""

    def open_file(self, name: str) -> tuple[BinaryIO, int] | None:
        """Return a file of the layout and its length; None where there is none."""
        try:
            return open_regular(os.path.join(self.path, name), os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DecodeError(f"cannot read {self.path}: {name}: {error.strerror}") from error

    def has_blob(self, wanted: Descriptor) -> bool:
        """Return whether a blob is there; what was put there was checked then."""
        found = self.open_file(blob_path(wanted.digest))
        if found is None:
            return False
        found[0].close()
        return found[1] == wanted.size

    def put_blob(self, wanted: Descriptor, pieces: Iterable[bytes]) -> None:
        """Store a blob. See `Sink.put_blob`."""
        path = os.path.join(self.path, blob_path(wanted.digest))
        try:
            fd, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            with open(fd, "wb") as file:
                file.writelines(checked(pieces, wanted))
                os.fchmod(fd, 0o644)
            os.rename(temporary, path)
        except OSError as error:
            os.unlink(temporary)
            raise UsageError(f"cannot write to {self.path}: {error.strerror}") from error
        except BaseException:
            os.unlink(temporary)
            raise

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        """Store a manifest or index. See `Sink.put_manifest`."""
        if tag is not None and not is_tag(tag):
            raise UsageError(f"cannot write to {self.path}: found the tag {quote(tag)}, want one")
        wanted = Descriptor(media_type, digest_of(data), len(data))
        if media_type == MANIFEST:
            found = decode_manifest_untrusted(data)
            if found.subject is not None:
                wanted = wanted._replace(artifact_type=found.artifact_type or found.config.media_type)
        self.put_blob(wanted, [data])
        with self._alone():
            self._list(wanted, tag)
        return wanted

    def _list(self, wanted: Descriptor, tag: str | None) -> None:
        """Put a manifest into the index; a tag leads to one manifest, and one with a tag needs no second entry."""
        index = self.index()
        kept = [
            each
            for each in index.manifests
            if (tag is None or each.annotations.get(REF_NAME) != tag)
            and (each.digest != wanted.digest or REF_NAME in each.annotations)
        ]
        if tag is not None:
            kept.append(wanted._replace(annotations={REF_NAME: tag}))
        elif all(each.digest != wanted.digest for each in kept):
            kept.append(wanted)
        kept.sort(key=lambda each: (each.digest, each.annotations.get(REF_NAME, "")))
        write_whole(
            os.path.join(self.path, INDEX_FILE), encode_index(Index(tuple(kept), index.annotations)), mode=0o644
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fd = os.open(os.path.join(self.path, LAYOUT_FILE), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def new_layout(path: str) -> Iterator[LayoutFolder]:
    """Make a layout that appears under its name when everything in it is there, and not at all otherwise.

    Args:
        path: of which there is nothing yet, or an empty folder.

    Raises:
        UsageError: there is something, or it cannot be written.
    """
    with new_folder(path) as folder:
        yield make_layout(folder)


def make_layout(folder: str) -> LayoutFolder:
    """Make an empty layout in an empty folder."""
    for name in ("blobs", "blobs/sha256"):
        os.mkdir(os.path.join(folder, name))
        os.chmod(os.path.join(folder, name), _FOLDER_MODE)
    write_whole(os.path.join(folder, LAYOUT_FILE), LAYOUT_TEXT, mode=0o644)
    write_whole(os.path.join(folder, INDEX_FILE), encode_index(Index(())), mode=0o644)
    return LayoutFolder(folder)


def _media_type(data: bytes) -> str:
    """Return what a manifest that nothing points to says that it is."""
    value = load_json_untrusted(data, what="manifest", max_bytes=MAX_MANIFEST_BYTES, max_items=400_000)
    found = value.get("mediaType") if isinstance(value, dict) else None
    if found in {MANIFEST, INDEX}:
        return str(found)
    return INDEX if isinstance(value, dict) and "manifests" in value else MANIFEST
