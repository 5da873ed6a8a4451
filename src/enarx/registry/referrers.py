# SPDX-License-Identifier: Apache-2.0
"""Signatures as they are attached to a package: an artifact manifest whose subject is the package's, with one layer.

The two kinds have media types of their own, of the layer and of the artifact: sigstore's bundle, as cosign stores it, and the DSSE
envelope of a local key. What is attached comes from strangers: whoever may write to a repository can attach anything, so

- what is listed is bounded (`MAX_ATTACHED` of each kind are looked at, in the order given), and so is each;
- one that cannot be read is a fault of that one, told with it, and no reason to believe or refuse another;
- a registry that cannot be asked is an error, never "nothing is attached".

Source: OCI image-spec 1.1 manifest.md (guidelines for artifact usage) and distribution-spec 1.1 (listing referrers); cosign,
specs/BUNDLE_SPEC.md (layout of bundles).
"""

from __future__ import annotations

from typing import NamedTuple

from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.registry.content import Sink, Source, read_blob
from enarx.wire.dsse import DSSE, MAX_ENVELOPE_BYTES, SIGN_PREDICATE
from enarx.wire.oci import EMPTY, MANIFEST, Descriptor, Manifest, decode_manifest_untrusted, digest_of, encode_manifest

__all__ = ["BUNDLE", "MAX_ATTACHED", "MAX_BUNDLE_BYTES", "Attached", "Attachments", "attach", "attached"]

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""The media type of a sigstore bundle."""

MAX_BUNDLE_BYTES = 512 << 10
MAX_ATTACHED = 64
_MAX_BYTES = {DSSE: MAX_ENVELOPE_BYTES, BUNDLE: MAX_BUNDLE_BYTES}
_EMPTY_DATA = b"{}"
_CONTENT = "dev.sigstore.bundle.content"
_PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"


class Attached(NamedTuple):
    """What one artifact holds.

    Args:
        digest: of its manifest.
        media_type: `BUNDLE` or `wire.dsse.DSSE`.
        data: foreign bytes, at most 512 KiB; empty where there is a fault.
        fault: why they could not be read, or None.
    """

    digest: str
    media_type: str
    data: bytes
    fault: DecodeError | VerificationError | None = None


class Attachments(NamedTuple):
    """What is attached to a package.

    Args:
        signatures: at most `MAX_ATTACHED` of each kind.
        left_out: how many more there are, which nobody looks at.
    """

    signatures: tuple[Attached, ...]
    left_out: int


def attach(sink: Sink, subject: Descriptor, media_type: str, data: bytes) -> Descriptor:
    """Attach a signature to a package; the same bytes make the same artifact.

    Args:
        sink: where the package is.
        subject: of the package's manifest.
        media_type: `BUNDLE` or `wire.dsse.DSSE`.
        data: the bundle or envelope.

    Returns:
        the artifact's descriptor.

    Raises:
        TransportError: it cannot be written.
    """
    layer = Descriptor(media_type, digest_of(data), len(data))
    config = Descriptor(EMPTY, digest_of(_EMPTY_DATA), len(_EMPTY_DATA))
    manifest = encode_manifest(
        Manifest(
            config=config,
            layers=(layer,),
            annotations={_CONTENT: "dsse-envelope", _PREDICATE_TYPE: SIGN_PREDICATE} if media_type == BUNDLE else {},
            artifact_type=media_type,
            subject=Descriptor(subject.media_type, subject.digest, subject.size),
        )
    )
    for wanted, content in ((config, _EMPTY_DATA), (layer, data)):
        if not sink.has_blob(wanted):
            sink.put_blob(wanted, iter((content,)))
    return sink.put_manifest(manifest, MANIFEST, tag=None)


def attached(source: Source, digest: str) -> Attachments:
    """Return the signatures that are attached to a package, believing none.

    Args:
        source: where it is.
        digest: of its manifest.

    Raises:
        TransportError: what is attached cannot be listed or read.
        DecodeError: the list is not well formed.
    """
    signatures: list[Attached] = []
    left_out = 0
    for kind in _MAX_BYTES:
        # Asked for by its kind, because a list need not say of what kind each is.
        known = list({each.digest: each for each in source.referrers(digest, kind)}.values())
        signatures += [_read(source, digest, kind, each) for each in known[:MAX_ATTACHED]]
        left_out += max(0, len(known) - MAX_ATTACHED)
    return Attachments(tuple(signatures), left_out)


def _read(source: Source, subject: str, kind: str, listed: Descriptor) -> Attached:
    try:
        manifest = decode_manifest_untrusted(source.resolve(listed.digest).data)
        if manifest.subject is None or manifest.subject.digest != subject:
            found = manifest.subject.digest if manifest.subject else "none"
            raise VerificationError(
                f"cannot read the signature {listed.digest}: subject: found {found}, want {subject}"
            )
        kinds = [layer.media_type for layer in manifest.layers]
        if kinds != [kind]:
            raise DecodeError(
                f"cannot read the signature {listed.digest}: layers: found {', '.join(kinds[:4]) or 'none'}, want one {kind}"
            )
        return Attached(listed.digest, kind, read_blob(source, manifest.layers[0], _MAX_BYTES[kind]))
    except (DecodeError, VerificationError) as error:
        return Attached(listed.digest, kind, b"", error)
    except UsageError as error:
        # A list may name what is not there: nothing was signed with that, rightly or falsely.
        return Attached(listed.digest, kind, b"", DecodeError(f"cannot read the signature {listed.digest}: {error}"))
