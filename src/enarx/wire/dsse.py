# SPDX-License-Identifier: Apache-2.0
"""What is signed of a package: an in-toto statement that names its OCI manifest, in a DSSE envelope.

- The signature covers the payload's type too (the pre-authentication encoding), so that one kind of document is never another.
- A statement counts as a signature of the package only with the predicate type of signatures: one that says "this was scanned" or
  "this was built there" is about the same digest and permits nothing.
- The subject is the digest of the manifest, never a name or a tag.
- Unknown members are ignored, as both specifications ask; wrong types and limits are refused.

Source: DSSE 1.0.2 protocol.md and envelope.md; in-toto Attestation Framework, Statement v1; the predicate type is that of cosign's
image signatures.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from typing import Any, NamedTuple

from enarx.errors import DecodeError
from enarx.wire.quoting import quote
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "DSSE",
    "IN_TOTO",
    "MAX_ENVELOPE_BYTES",
    "MAX_SIGNATURES",
    "SIGN_PREDICATE",
    "Envelope",
    "EnvelopeSignature",
    "Statement",
    "decode_envelope_untrusted",
    "decode_statement_untrusted",
    "encode_envelope",
    "encode_statement",
    "pre_authentication",
]

DSSE = "application/vnd.dsse.envelope.v1+json"
"""The media type of an envelope."""
IN_TOTO = "application/vnd.in-toto+json"
"""The payload type of a statement."""
STATEMENT = "https://in-toto.io/Statement/v1"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"

MAX_ENVELOPE_BYTES = 64 << 10
MAX_SIGNATURES = 4
"""Each is tried with every key that may have made it."""
MAX_SUBJECTS = 64
_MAX_ITEMS = 2000
_MAX_TEXT = 4096
_MAX_SIGNATURE_BYTES = 1024

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class EnvelopeSignature(NamedTuple):
    """One signature of an envelope.

    Args:
        signature: bytes.
        key_id: a hint that nobody signed; may be empty.
    """

    signature: bytes
    key_id: str = ""


class Envelope(NamedTuple):
    """A payload with its signatures, none of which was looked at.

    Args:
        payload_type: a media type.
        payload: bytes.
        signatures: at least one.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]


class Statement(NamedTuple):
    """A statement about some artifacts.

    Args:
        subjects: their SHA-256 digests, each `sha256:` and hex; those with another digest alone are left out.
        predicate_type: what is said of them.
    """

    subjects: tuple[str, ...]
    predicate_type: str


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return what a signature of an envelope covers (PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode_envelope(envelope: Envelope) -> bytes:
    """Encode an envelope as compact JSON, the same bytes each time."""
    signatures = [
        {"keyid": signature.key_id, "sig": b64encode(signature.signature).decode()} for signature in envelope.signatures
    ]
    return _encode(
        {
            "payload": b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": signatures,
        }
    )


def decode_envelope_untrusted(data: bytes) -> Envelope:
    """Decode an envelope without believing it.

    Args:
        data: JSON of at most `MAX_ENVELOPE_BYTES`.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    what = "signature envelope"
    document = _object(load_json_untrusted(data, what=what, max_bytes=MAX_ENVELOPE_BYTES, max_items=_MAX_ITEMS), what)
    signatures = _some(document, "signatures", what, MAX_SIGNATURES)
    return Envelope(
        _text(document, "payloadType", what),
        _base64(document, "payload", what, MAX_ENVELOPE_BYTES),
        tuple(_signature(_object(each, what), what) for each in signatures),
    )


def encode_statement(digest: str) -> bytes:
    """Encode the statement that a package is signed, the same bytes each time.

    Args:
        digest: of its OCI manifest: `sha256:` and hex.
    """
    algorithm, _, value = digest.partition(":")
    return _encode(
        {
            "_type": STATEMENT,
            "subject": [{"name": "", "digest": {algorithm: value}}],
            "predicateType": SIGN_PREDICATE,
            "predicate": {},
        }
    )


def decode_statement_untrusted(data: bytes) -> Statement:
    """Decode a statement, whoever signed it.

    Args:
        data: JSON of at most `MAX_ENVELOPE_BYTES`.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    what = "signed statement"
    document = _object(load_json_untrusted(data, what=what, max_bytes=MAX_ENVELOPE_BYTES, max_items=_MAX_ITEMS), what)
    if (kind := _text(document, "_type", what)) != STATEMENT:
        raise DecodeError(f"cannot decode the {what}: _type: found {quote(kind)}, want {STATEMENT}")
    subjects = _some(document, "subject", what, MAX_SUBJECTS)
    digests = (_object(_object(subject, what).get("digest"), what).get("sha256") for subject in subjects)
    return Statement(tuple(_sha256(digest, what) for digest in digests if digest is not None), _text(document, "predicateType", what))  # fmt: skip


def _signature(item: dict[str, Any], what: str) -> EnvelopeSignature:
    key_id = item.get("keyid", "")
    if type(key_id) is not str or len(key_id) > _MAX_TEXT:
        raise DecodeError(f"cannot decode the {what}: keyid: found {quote(key_id)}, want text")
    return EnvelopeSignature(_base64(item, "sig", what, _MAX_SIGNATURE_BYTES), key_id)


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise DecodeError(f"cannot decode the {what}: found {quote(value)}, want an object")
    return value


def _some(document: dict[str, Any], name: str, what: str, most: int) -> list[Any]:
    value = document.get(name)
    if type(value) is not list or not 0 < len(value) <= most:
        found = f"{len(value)}" if type(value) is list else quote(value)
        raise DecodeError(f"cannot decode the {what}: {name}: found {found}, want 1 to {most}")
    return value


def _text(document: dict[str, Any], name: str, what: str) -> str:
    value = document.get(name)
    if type(value) is not str or not 0 < len(value) <= _MAX_TEXT:
        raise DecodeError(f"cannot decode the {what}: {name}: found {quote(value)}, want text")
    return value


def _base64(document: dict[str, Any], name: str, what: str, most: int) -> bytes:
    value = document.get(name)
    try:
        # DSSE allows either alphabet to whoever reads.
        data = b64decode(value, altchars=b"-_" if "-" in value or "_" in value else None, validate=True) if type(value) is str else b""  # fmt: skip
    except (binascii.Error, ValueError):
        data = b""
    if not 0 < len(data) <= most:
        raise DecodeError(f"cannot decode the {what}: {name}: found {quote(value)}, want base64 of 1 to {most} bytes")
    return data


def _sha256(value: Any, what: str) -> str:
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise DecodeError(f"cannot decode the {what}: subject.digest.sha256: found {quote(value)}, want 64 digits of lower-case hex")  # fmt: skip
    return "sha256:" + value


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
