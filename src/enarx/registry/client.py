# SPDX-License-Identifier: Apache-2.0
"""One repository of a registry, as a place that packages are read from and written to.

Rules of this file:

- What comes is believed for its digest alone; what a registry says of length and digest is compared and never needed.
- A download that breaks goes on where it broke, by Range, a few times in all. An upload goes in parts of which each can be sent again
  where a login has run out meanwhile.
- Referrers are asked for by their API; a registry without it has an index under the tag `sha256-<hex>`. Who writes a manifest with a
  subject looks whether the registry says that it took notice (`OCI-Subject`), and keeps that index where it does not.
- Nothing that a registry says is put in a message but its error code.

Source: OCI distribution-spec 1.1 (pull, push, "Listing Referrers", "Referrers Tag Schema").
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.registry.bounded_session import BROKEN, Limits, Stalled, broken, origin_of, pieces_of
from enarx.registry.content import PIECE_BYTES, Resolved, checked
from enarx.registry.session import RegistrySession, login_wanted
from enarx.wire.oci import (
    INDEX,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    decode_index_untrusted,
    decode_manifest_untrusted,
    digest_of,
    encode_index,
    is_digest,
)
from enarx.wire.quoting import quote

if TYPE_CHECKING:
    from requests import Response

    from enarx.registry.cache import BlobCache

__all__ = ["Limits", "Progress", "RegistryClient", "referrers_tag", "silent"]

Progress = Callable[[str, int, int], None]
"""Is told what is done, how many bytes of it are done, and of how many."""

PART_BYTES = 32 << 20
"""How much of a blob is sent in one request: less than what proxies refuse, and kept until it has arrived."""

MAX_REFERRERS = 1000
MAX_PAGES = 20
_INDEX_TRIES = 3
_NO_API = frozenset({404, 405, 501})
_CODE = re.compile(r"[A-Z_]{1,40}")


def silent(_: str, __: int, ___: int) -> None:
    """Tell nobody."""


def referrers_tag(digest: str) -> str:
    """Return the tag under which registries without a referrers API have the list of what refers to a manifest."""
    return digest.replace(":", "-")


class RegistryClient:
    """A repository of a registry; a `Source` and a `Sink`.

    Args:
        registry: `HOST[:PORT]`; HTTPS, but for loopback, where the registry may speak HTTP.
        repository: below it.
        progress: is told of blobs.
        cache: what blobs are read through; None is no cache.
        limits: of time and tries.
        wait: pauses between tries, in seconds.

    Raises:
        TransportError: a registry on this machine is too slow.
    """

    def __init__(
        self,
        registry: str,
        repository: str,
        *,
        progress: Progress | None = None,
        cache: BlobCache | None = None,
        limits: Limits | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = f"oci://{registry}/{repository}"
        self._progress = progress or silent
        self._cache = cache
        self._session = RegistrySession(registry, repository, limits=limits, wait=wait)
        self._wait = wait
        self._limits = self._session.limits

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection."""
        self._session.close()

    # --- Source

    def resolve(self, reference: str) -> Resolved:
        """Return the manifest or index of a tag, or of a digest (`sha256:...`).

        Raises:
            UsageError: there is none of this name, or the registry wants a login.
            VerificationError: bytes and digest differ.
            DecodeError: it is too large, or neither a manifest nor an index.
            TransportError: it cannot be read.
        """
        found = self._manifest(reference)
        if found is None:
            raise UsageError(
                f"cannot find {self._place(reference)}: found no package of this name in the registry, want one"
            )
        return found

    def open_blob(self, wanted: Descriptor) -> Iterator[bytes]:
        """Return exactly `wanted.size` bytes with `wanted.digest`, in pieces; the last one only once the digest was right.

        Raises:
            UsageError: there is no such blob.
            VerificationError: they are others.
            TransportError: they cannot be read.
        """
        if self._cache is not None:
            return self._cache.open_blob(wanted, self.pieces_from)
        return checked(self.pieces_from(wanted, 0), wanted)

    def link_blob(self, wanted: Descriptor, path: str) -> bool:
        """Make a file of a blob without copying what the cache has of it; return whether there is one now.

        Args:
            wanted: which one.
            path: of which there is nothing yet.

        Raises:
            as `open_blob`.
        """
        return self._cache is not None and self._cache.link_blob(wanted, self.pieces_from, path)

    def pieces_from(self, wanted: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from an offset on, never more than one beyond its size; nobody has checked them.

        Raises:
            UsageError: there is no such blob.
            VerificationError: it is announced with another length.
            TransportError: they cannot be read, however often they are asked for.
        """
        for resume in range(self._limits.resumes + 1):
            if resume:
                self._wait(self._limits.pauses_s[0])
            error: BaseException | None = None
            try:
                for piece in self._part_from(wanted, offset):
                    offset += len(piece)
                    if wanted.size > PIECE_BYTES:
                        self._progress("fetching", min(offset, wanted.size), wanted.size)
                    yield piece
            except BROKEN as broke:
                error = broke
            if offset >= wanted.size:
                return
            failure = broken(f"fetch {wanted.digest} from {self.name}: {offset} of {wanted.size} bytes", error)
            if resume == self._limits.resumes or isinstance(failure, Stalled):
                raise failure from None

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Return what refers to a manifest, of one artifact type or of all; at most 1000.

        Raises:
            DecodeError: the registry's list is none, or too long.
            TransportError: it cannot be read.
            UsageError: the registry wants a login.
        """
        if not is_digest(digest):
            raise UsageError(
                f"cannot list what refers to {quote(digest)}: found no digest, want sha256: and 64 hex digits"
            )
        found = self._referrers_by_api(digest)
        if found is None:
            found = self._referrers_index(digest).manifests
        return tuple(each for each in found if artifact_type is None or each.artifact_type == artifact_type)

    # --- Sink

    def has_blob(self, wanted: Descriptor) -> bool:
        """Return whether it is there already.

        Raises:
            TransportError: that cannot be asked.
            UsageError: the registry wants a login.
        """
        answer = self._session.ask("HEAD", f"blobs/{wanted.digest}")
        if answer.status_code == 404:
            return False
        self._require(answer, {200}, f"look for {wanted.digest}")
        length = answer.headers.get("content-length")
        return length is None or length == str(wanted.size)

    def put_blob(self, wanted: Descriptor, pieces: Iterable[bytes]) -> None:
        """Store bytes that have to be `wanted`, all of them or none.

        Raises:
            VerificationError: they are others.
            TransportError: they cannot be written.
            UsageError: the registry wants a login.
        """
        what = f"publish {wanted.digest}"
        answer = self._session.ask("POST", "blobs/uploads/", headers={"Content-Length": "0"})
        self._require(answer, {202}, what)
        place = self._session.location_of(answer)
        parts = _Parts(pieces, wanted, self._progress)
        last = b""
        if wanted.size > PART_BYTES:
            for part in parts.all_but_last():
                place = self._put_part(place, part, what)
        if wanted.size > PIECE_BYTES:
            place = self._put_part(place, parts.rest(), what)
        else:
            last = bytes(parts.rest())
        parts.require_end()
        answer = self._session.ask(
            "PUT",
            _with_digest(place, wanted.digest),
            data=last,
            headers={"Content-Length": str(len(last)), "Content-Type": "application/octet-stream"},
        )
        if answer.status_code == 400 and _code(answer) in {"DIGEST_INVALID", "SIZE_INVALID"}:
            raise VerificationError(
                f"cannot {what} in {self.name}: found that the registry got other bytes, want these"
            )
        self._require(answer, {201}, what)

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        """Store a manifest or index whose blobs are there, under a tag or under its digest alone.

        Raises:
            DecodeError: it is no manifest and no index.
            VerificationError: the registry stored it under another digest.
            TransportError: it cannot be written.
            UsageError: the registry wants a login.
        """
        descriptor = Descriptor(media_type, digest_of(data), len(data))
        subject = None
        if media_type == MANIFEST:
            manifest = decode_manifest_untrusted(data)
            subject = manifest.subject
            listed = descriptor._replace(
                annotations=manifest.annotations, artifact_type=manifest.artifact_type or manifest.config.media_type
            )
        else:
            decode_index_untrusted(data)
            listed = descriptor
        answer = self._put_manifest(data, media_type, tag or descriptor.digest)
        if subject is not None and answer.headers.get("oci-subject") != subject.digest:
            self._add_referrer(subject.digest, listed)
        return descriptor

    # --- Manifests

    def _manifest(self, reference: str) -> Resolved | None:
        what = f"read {self._place(reference)}"
        answer = self._session.ask("GET", f"manifests/{reference}", headers={"Accept": f"{MANIFEST}, {INDEX}"})
        if answer.status_code == 404:
            return None
        self._require(answer, {200}, what)
        data = answer.content
        digest = digest_of(data)
        if is_digest(reference) and digest != reference:
            raise VerificationError(f"cannot {what}: found a manifest with the digest {digest}, want that one")
        said = answer.headers.get("docker-content-digest")
        if said is not None and said != digest:
            raise VerificationError(
                f"cannot {what}: found a manifest with the digest {digest} announced as {quote(said)}, want what was announced"
            )
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        if media_type not in {MANIFEST, INDEX}:
            raise DecodeError(f"cannot {what}: found the media type {quote(media_type)}, want {MANIFEST} or an index")
        return Resolved(Descriptor(media_type, digest, len(data)), data)

    def _put_manifest(self, data: bytes, media_type: str, reference: str) -> Response:
        what = f"publish {self._place(reference)}"
        if len(data) > MAX_MANIFEST_BYTES:
            raise DecodeError(
                f"cannot {what}: found a manifest of {len(data)} bytes, want at most {MAX_MANIFEST_BYTES}"
            )
        answer = self._session.ask("PUT", f"manifests/{reference}", data=data, headers={"Content-Type": media_type})
        self._require(answer, {201}, what)
        said = answer.headers.get("docker-content-digest")
        if said is not None and said != digest_of(data):
            raise VerificationError(f"cannot {what}: found it stored as {quote(said)}, want {digest_of(data)}")
        return answer

    # --- Blobs

    def _part_from(self, wanted: Descriptor, offset: int) -> Iterator[bytes]:
        """Yield what one request brings of a blob."""
        what = f"fetch {wanted.digest}"
        answer = self._session.ask_blob(wanted.digest, offset=offset)
        if answer.status_code == 404:
            raise UsageError(f"cannot {what} from {self.name}: found no such blob, want it: the package is not whole")
        self._require(answer, {200, 206} if offset else {200}, what)
        skip = offset
        if answer.status_code == 206:
            found = answer.headers.get("content-range", "")
            if not found.startswith(f"bytes {offset}-"):
                answer.close()
                raise TransportError(f"cannot {what}: found the range {quote(found)}, want it from byte {offset} on")
            skip = 0
        length = answer.headers.get("content-length")
        expected = wanted.size - offset + skip
        if length is not None and length != str(expected):
            answer.close()
            raise VerificationError(f"cannot {what}: found {quote(length)} bytes announced, want {expected}")
        # One byte more, so that whoever checks sees that there is more.
        for piece in pieces_of(answer, expected + 1, PIECE_BYTES):
            if skip:
                dropped = min(skip, len(piece))
                skip -= dropped
                if dropped < len(piece):
                    yield piece[dropped:]
            else:
                yield piece

    def _put_part(self, place: str, part: _Part, what: str) -> str:
        answer = self._session.ask(
            "PATCH",
            place,
            data=part,
            headers={
                "Content-Length": str(len(part)),
                "Content-Range": f"{part.offset}-{part.offset + len(part) - 1}",
                "Content-Type": "application/octet-stream",
            },
        )
        self._require(answer, {201, 202, 204}, what)
        return self._session.location_of(answer)

    # --- Referrers

    def _referrers_by_api(self, digest: str) -> tuple[Descriptor, ...] | None:
        """Return what the registry's API lists, or None where it has none."""
        found: list[Descriptor] = []
        place = f"referrers/{digest}"
        for _ in range(MAX_PAGES):
            answer = self._session.ask("GET", place, headers={"Accept": INDEX})
            if answer.status_code in _NO_API:
                return None
            what = f"list what refers to {digest} in {self.name}"
            self._require(answer, {200}, what)
            media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
            if media_type != INDEX:
                return None
            # What is said beside each is of no use here, and twenty pages of it are more than there is room for.
            found += (each._replace(annotations={}) for each in decode_index_untrusted(answer.content).manifests)
            following = answer.links.get("next", {}).get("url")
            if not following or len(found) > MAX_REFERRERS:
                break
            try:
                place = urljoin(f"{self._session.base}/", following)
                is_here = origin_of(place) == origin_of(self._session.base)
            except ValueError:
                is_here = False
            if not is_here:
                raise TransportError(
                    f"cannot {what}: found that the list goes on at another server, want all of it here"
                )
        else:
            raise DecodeError(
                f"cannot list what refers to {digest}: found more than {MAX_PAGES} pages, want at most that"
            )
        return self._few(found, digest)

    def _few(self, found: list[Descriptor], digest: str) -> tuple[Descriptor, ...]:
        if len(found) > MAX_REFERRERS:
            raise DecodeError(
                f"cannot list what refers to {digest} in {self.name}: found {len(found)}, want at most {MAX_REFERRERS}"
            )
        return tuple(found)

    def _referrers_index(self, digest: str) -> Index:
        found = self._manifest(referrers_tag(digest))
        if found is None:
            return Index(())
        index = decode_index_untrusted(found.data)
        self._few(list(index.manifests), digest)
        return index

    def _add_referrer(self, digest: str, descriptor: Descriptor) -> None:
        """Put a manifest on the list of what refers to another, and look whether it is on it: nothing keeps others from writing it."""
        for _ in range(_INDEX_TRIES):
            index = self._referrers_index(digest)
            if any(each.digest == descriptor.digest for each in index.manifests):
                return
            self._few([*index.manifests, descriptor], digest)
            changed = index._replace(manifests=(*index.manifests, descriptor))
            self._put_manifest(encode_index(changed), INDEX, referrers_tag(digest))
        if not any(each.digest == descriptor.digest for each in self._referrers_index(digest).manifests):
            raise TransportError(
                f"cannot publish what refers to {digest} in {self.name}: found that others change the list all the time, want it"
                " kept",
                hint="publish it again when nobody else does",
            )

    # --- Answers

    def _place(self, reference: str) -> str:
        return f"{self.name}{'@' if is_digest(reference) else ':'}{reference}"

    def _require(self, answer: Response, wanted: set[int], what: str) -> None:
        """Return where an answer has one of some statuses; else close it and raise."""
        status = answer.status_code
        if status in wanted:
            return
        if status in {401, 403}:
            answer.close()
            raise login_wanted(self._session.registry)
        code = _code(answer)
        answer.close()
        said = f"the answer {status}{f' {code}' if code else ''}"
        if status == 404:
            raise UsageError(f"cannot {what}: found {said} from {self.name}, want it to be there")
        raise TransportError(f"cannot {what}: found {said} from {self.name}, want {min(wanted)}")


class _Part:
    """A part of a blob: bytes that are read as they are sent, and kept in case they have to be sent again.

    Args:
        offset: of its first byte.
        size: in bytes.
        pull: returns the next piece, at most so long.
    """

    def __init__(self, offset: int, size: int, pull: Callable[[int], bytes]) -> None:
        self.offset = offset
        self._size = size
        self._pull = pull
        self._kept: list[bytes] = []

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        yield from self._kept
        left = self._size - sum(map(len, self._kept))
        while left:
            piece = self._pull(left)
            left -= len(piece)
            self._kept.append(piece)
            yield piece

    def __bytes__(self) -> bytes:
        return b"".join(self)


class _Parts:
    """Cuts the pieces of a blob into parts.

    Args:
        pieces: of the blob.
        wanted: what they have to be.
        progress: is told of what has been taken.
    """

    def __init__(self, pieces: Iterable[bytes], wanted: Descriptor, progress: Progress) -> None:
        self._pieces = iter(pieces)
        self._wanted = wanted
        self._progress = progress
        self._over = b""
        self._taken = 0

    def all_but_last(self) -> Iterator[_Part]:
        while self._wanted.size - self._taken > PART_BYTES:
            yield _Part(self._taken, PART_BYTES, self._pull)

    def rest(self) -> _Part:
        return _Part(self._taken, self._wanted.size - self._taken, self._pull)

    def require_end(self) -> None:
        if self._over or any(self._pieces):
            raise self._other("more")

    def _pull(self, most: int) -> bytes:
        piece = self._over or next((each for each in self._pieces if each), b"")
        if not piece:
            raise self._other(str(self._taken))
        piece, self._over = piece[:most], piece[most:]
        self._taken += len(piece)
        if self._wanted.size > PIECE_BYTES:
            self._progress("publishing", self._taken, self._wanted.size)
        return piece

    def _other(self, found: str) -> VerificationError:
        return VerificationError(f"cannot publish {self._wanted.digest}: found {found} bytes, want {self._wanted.size}")


def _with_digest(place: str, digest: str) -> str:
    """Return where an upload ends; what the registry put in the address stays as it is."""
    parts = urlsplit(place)
    query = f"{parts.query}&digest={digest}" if parts.query else f"digest={digest}"
    return urlunsplit(parts._replace(query=query))


def _code(answer: Response) -> str:
    """Return the code of an error as registries name it, or nothing."""
    try:
        found = json.loads(answer.content)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError, RecursionError, *BROKEN):
        return ""
    return found if isinstance(found, str) and _CODE.fullmatch(found) else ""
