# SPDX-License-Identifier: Apache-2.0
"""Conceptual Message Wrappers: evidence, endorsements and results with a name of their type, alone or several together.

Rules of this file:

- A wrapper says what something is called. It adds no trust, and whoever unwraps it looks at the bytes themselves.
- There are two texts for each meaning, JSON and CBOR, told apart by the first byte. CBOR is written deterministically; JSON
  without spaces and with its members in the order of the record.
- What would be refused when it is read is refused when it is written: every text is read again before it leaves.
- Limits: `MAX_CMW_BYTES`, `MAX_DEPTH` collections in each other, `MAX_ENTRIES` entries in all of them together.

Code points, as the drafts 13 to 20 that became RFC 9999 and implementations of it have them: the tag numbers (RFC 9277, TN()),
the bits of the indicator, the extension's object identifier. The CBOR tag, the CWT claim and the content formats that RFC 9999
registers for wrappers themselves are not used here.

Source: RFC 9999; RFC 9277 appendix B.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from enum import IntFlag
from typing import Any, NamedTuple

from enarx.crypto.cbor import Tagged, decode_untrusted, encode
from enarx.errors import DecodeError, UsageError
from enarx.wire.strict_json import load_json_untrusted

__all__ = [
    "CMW_EXTENSION_OID",
    "MAX_CMW_BYTES",
    "MEDIA_TYPE_CBOR",
    "MEDIA_TYPE_JSON",
    "Cmw",
    "CmwCollection",
    "CmwRecord",
    "CmwTag",
    "Indicator",
    "content_format_of_tag",
    "decode_cmw_extension_untrusted",
    "decode_cmw_untrusted",
    "encode_cmw_cbor",
    "encode_cmw_extension",
    "encode_cmw_json",
    "leaves",
    "tag_of_content_format",
]

MEDIA_TYPE_CBOR = "application/cmw+cbor"
MEDIA_TYPE_JSON = "application/cmw+json"
CMW_EXTENSION_OID = "1.3.6.1.5.5.7.1.35"

MAX_CMW_BYTES = 4 << 20
MAX_DEPTH = 4
MAX_ENTRIES = 256
_MAX_TYPE_CHARS = 512
_MAX_LABEL_CHARS = 256

_COLLECTION_TYPE = "__cmwc_t"
_MAX_CONTENT_FORMAT = 0xFFFF

# TN() writes a content format as two digits to the base of 255, each one more than it is, so that no byte of them is zero.
_TAG_BASE = 0x63740101
_TAG_DIGIT = 255
_TAG = re.compile(rb"(?=\xda(\x63\x74..))", re.DOTALL)
_TAG_START = b"\xda\x63\x74"
_NO_TAGS: frozenset[int] = frozenset()

_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110's word
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_CONTENT_TYPE = re.compile(rf"{_NAME}/{_NAME}(?: *; *{_TOKEN}=(?:{_TOKEN}|{_QUOTED}))*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

_TYPE_NAMES = {
    str: "text", bytes: "bytes", int: "a number", float: "a number", bool: "a truth value", list: "an array", dict: "a map",
    type(None): "null", Tagged: "a tag",
}  # fmt: skip


class Indicator(IntFlag):
    """What kinds of conceptual messages are in a record."""

    REFERENCE_VALUES = 1
    ENDORSEMENTS = 2
    EVIDENCE = 4
    ATTESTATION_RESULTS = 8
    APPRAISAL_POLICY = 16


class CmwRecord(NamedTuple):
    """One message.

    Args:
        type: a media type with its parameters, or a CoAP content format (CBOR only), 0 to 65535.
        value: the message, not empty.
        indicator: which kinds it holds where its type leaves that open, or None.
    """

    type: str | int
    value: bytes
    indicator: Indicator | None = None


class CmwTag(NamedTuple):
    """One message under a CBOR tag that says its content format.

    Args:
        content_format: 0 to 65024.
        value: not empty.
    """

    content_format: int
    value: bytes


class CmwCollection(NamedTuple):
    """Several messages.

    Args:
        entries: by label, at least one; a label is printable text, or (CBOR only) a number of at most 64 bits.
        type: what the collection is: an absolute URI or an object identifier, or None.
    """

    entries: dict[str | int, Cmw]
    type: str | None = None


Cmw = CmwRecord | CmwTag | CmwCollection


def tag_of_content_format(content_format: int) -> int:
    """Return the CBOR tag number of a CoAP content format.

    Raises:
        UsageError: it is not from 0 to 65024.

    Spec: RFC 9277 appendix B.
    """
    if not 0 <= content_format < _TAG_DIGIT * _TAG_DIGIT:
        raise UsageError(f"cannot make a CBOR tag: content format: found {content_format}, want 0 to 65024")
    return _TAG_BASE + content_format // _TAG_DIGIT * 256 + content_format % _TAG_DIGIT


def content_format_of_tag(tag: int) -> int | None:
    """Return the CoAP content format that a CBOR tag number says, or None where it says none."""
    high, low = divmod(tag - _TAG_BASE, 256)
    return high * _TAG_DIGIT + low if 0 <= high < _TAG_DIGIT and low < _TAG_DIGIT else None


def decode_cmw_untrusted(data: bytes) -> Cmw:
    """Decode a wrapper in JSON or in CBOR.

    Args:
        data: all of it is the wrapper; in JSON, spaces around it are allowed.

    Raises:
        DecodeError: neither, not well formed, or beyond a limit of this file. Nothing else, for any input.

    Spec: RFC 9999 section 3.4.
    """
    start = data.lstrip(b" \t\r\n")[:1]
    if start in {b"[", b"{"}:
        value = load_json_untrusted(data, what="CMW", max_bytes=MAX_CMW_BYTES)
        return _Reader(is_json=True).read(value, "the wrapper", 0)
    value = decode_untrusted(data, max_bytes=MAX_CMW_BYTES, what="CMW", indefinite=True, tags=_tags(data))
    return _Reader(is_json=False).read(value, "the wrapper", 0)


def encode_cmw_cbor(cmw: Cmw) -> bytes:
    """Encode a wrapper in CBOR, deterministically.

    Raises:
        UsageError: it is not a wrapper as its types say.
    """
    try:
        value = _cbor_value(cmw)
        data = encode(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot encode CMW: found {error}") from error
    # There is one encoding of it, so it need not be decoded to know what whoever reads it would find.
    return _read_back(data, value)


def encode_cmw_json(cmw: Cmw) -> bytes:
    """Encode a wrapper in JSON.

    Raises:
        UsageError: it is not a wrapper as its types say, or has what JSON has not: a tag, a content format, a number as a label.
    """
    try:
        data = json.dumps(_json_value(cmw), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot encode CMW: found {error}") from error
    return _read_back(data, None)


def decode_cmw_extension_untrusted(der: bytes) -> Cmw:
    """Decode the value of the X.509 extension `CMW_EXTENSION_OID`: a UTF8String of JSON, or an OCTET STRING of CBOR.

    Args:
        der: all of what is in the extension's own OCTET STRING.

    Raises:
        DecodeError: anything else.

    Spec: RFC 9999 section 4.4.
    """
    from cryptography.hazmat import asn1

    is_json = der[:1] == b"\x0c"
    try:
        content = asn1.decode_der(str, der).encode() if is_json else asn1.decode_der(bytes, der)
    except (ValueError, TypeError) as error:
        raise _refusal("the extension", str(error), "a UTF8String or an OCTET STRING in DER") from error
    if is_json is not (content.lstrip()[:1] in {b"[", b"{"}):
        raise _refusal("the extension", "the other encoding", "JSON in a UTF8String, CBOR in an OCTET STRING")
    return decode_cmw_untrusted(content)


def encode_cmw_extension(cmw: Cmw) -> bytes:
    """Encode the value of the X.509 extension `CMW_EXTENSION_OID`, in CBOR. The extension should not be critical.

    Raises:
        UsageError: it is not a wrapper as its types say.
    """
    from cryptography.hazmat import asn1

    return asn1.encode_der(encode_cmw_cbor(cmw))


def leaves(cmw: Cmw) -> Iterator[tuple[tuple[str | int, ...], CmwRecord | CmwTag]]:
    """Yield the messages of a wrapper, each with the labels that lead to it, in their order."""
    if not isinstance(cmw, CmwCollection):
        yield (), cmw
        return
    for label, entry in cmw.entries.items():
        for path, leaf in leaves(entry):
            yield (label, *path), leaf


# --- Reading ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Turns plain values into wrappers, and counts what it has seen."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self.entries = 0

    def read(self, value: Any, where: str, depth: int) -> Cmw:
        if type(value) is list:
            return self._record(value, where)
        if type(value) is dict:
            return self._collection(value, where, depth)
        if type(value) is Tagged:
            content_format = content_format_of_tag(value.tag)
            if content_format is None:
                raise _refusal(where, f"the tag {value.tag}", "one that says a content format")
            return CmwTag(content_format, _message(value.value, where))
        raise _refusal(where, _kind(value), "a record, a tag or a collection")

    def _record(self, value: list[Any], where: str) -> CmwRecord:
        if len(value) not in {2, 3}:
            raise _refusal(where, f"{len(value)} elements", "a type, a value and perhaps an indicator")
        kind = value[0]
        if type(kind) is int and not self.is_json:
            if not 0 <= kind <= _MAX_CONTENT_FORMAT:
                raise _refusal(f"{where}: type", str(kind), f"0 to {_MAX_CONTENT_FORMAT}")
        elif type(kind) is not str or len(kind) > _MAX_TYPE_CHARS or not _CONTENT_TYPE.fullmatch(kind):
            raise _refusal(f"{where}: type", _kind(kind), "a media type")
        message = _message(_decode_base64url(value[1], where) if self.is_json else value[1], where)
        indicator = None
        if len(value) == 3:
            bits = value[2]
            if type(bits) is not int or not 0 < bits <= _ALL_INDICATORS:
                raise _refusal(f"{where}: indicator", _kind(bits), f"1 to {_ALL_INDICATORS}")
            indicator = _INDICATORS[bits]
        return CmwRecord(kind, message, indicator)

    def _collection(self, value: dict[Any, Any], where: str, depth: int) -> CmwCollection:
        if depth == MAX_DEPTH:
            raise _refusal(where, f"more than {MAX_DEPTH} collections in each other", "fewer")
        kind = value.get(_COLLECTION_TYPE)
        if _COLLECTION_TYPE in value and not _is_collection_type(kind):
            raise _refusal(f"{where}: {_COLLECTION_TYPE}", _kind(kind), "an absolute URI or an object identifier")
        labels = [label for label in value if label != _COLLECTION_TYPE]
        if not labels:
            raise _refusal(where, "no entry", "at least one")
        self.entries += len(labels)
        if self.entries > MAX_ENTRIES:
            raise _refusal(where, f"more than {MAX_ENTRIES} entries", "fewer")
        for label in labels:
            is_text = type(label) is str and label.isprintable() and 0 < len(label) <= _MAX_LABEL_CHARS
            if not is_text and type(label) is not int:
                raise _refusal(f"{where}: label", _kind(label), "printable text or a number")
        entries = {label: self.read(value[label], f"entry {label}", depth + 1) for label in labels}
        return CmwCollection(entries, kind)


_ALL_INDICATORS = sum(Indicator)
_INDICATORS = tuple(map(Indicator, range(_ALL_INDICATORS + 1)))


def _tags(data: bytes) -> frozenset[int]:
    """Return the tags of content formats that may be in the data: few, where naming all of them would take longer than the rest."""
    if _TAG_START not in data:
        return _NO_TAGS
    return frozenset(int.from_bytes(tag, "big") for tag in set(_TAG.findall(data)))


def _is_collection_type(kind: Any) -> bool:
    return (
        type(kind) is str
        and len(kind) <= _MAX_TYPE_CHARS
        and (_URI.fullmatch(kind) is not None or _OID.fullmatch(kind) is not None)
    )


def _message(value: Any, where: str) -> bytes:
    if type(value) is not bytes or not value:
        raise _refusal(f"{where}: value", "nothing" if value == b"" else _kind(value), "bytes")
    return value


def _decode_base64url(value: Any, where: str) -> bytes:
    """Decode base64url without padding; the bits after the last byte are zero, so that each message has one text."""
    if type(value) is str and _BASE64URL.fullmatch(value) and len(value) % 4 != 1:
        message = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        if _base64url(message) == value:
            return message
    raise _refusal(f"{where}: value", _kind(value), "base64url without padding")


# --- Writing ---------------------------------------------------------------------------------------------------------


def _cbor_value(cmw: Cmw) -> Any:
    if isinstance(cmw, CmwTag):
        return Tagged(tag_of_content_format(cmw.content_format), cmw.value)
    if isinstance(cmw, CmwCollection):
        entries = {label: _cbor_value(entry) for label, entry in cmw.entries.items()}
        return entries if cmw.type is None else _with_type(entries, cmw.type)
    return [cmw.type, cmw.value] if cmw.indicator is None else [cmw.type, cmw.value, int(cmw.indicator)]


def _json_value(cmw: Cmw) -> Any:
    if isinstance(cmw, CmwTag):
        raise TypeError("a tag, which JSON has not")
    if isinstance(cmw, CmwCollection):
        if not all(type(label) is str for label in cmw.entries):
            raise TypeError("a number as a label, which JSON has not")
        entries = {label: _json_value(entry) for label, entry in cmw.entries.items()}
        return entries if cmw.type is None else _with_type(entries, cmw.type)
    record = [cmw.type, _base64url(cmw.value)]
    return record if cmw.indicator is None else [*record, int(cmw.indicator)]


def _with_type(entries: dict[str | int, Any], kind: str) -> dict[str | int, Any]:
    if _COLLECTION_TYPE in entries:
        raise ValueError(f"the label {_COLLECTION_TYPE}, which is not one")
    return {_COLLECTION_TYPE: kind, **entries}


def _read_back(data: bytes, value: Any) -> bytes:
    """Return what was encoded, if it would be read; `value` is what CBOR would be decoded to, and None for JSON."""
    try:
        if value is None:
            decode_cmw_untrusted(data)
        else:
            if len(data) > MAX_CMW_BYTES:
                raise _refusal("size", f"{len(data)} bytes", f"at most {MAX_CMW_BYTES}")
            _Reader(is_json=False).read(value, "the wrapper", 0)
    except DecodeError as error:
        raise UsageError(f"cannot encode CMW: {error}") from error
    return data


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _kind(value: Any) -> str:
    if type(value) is int:
        return str(value)
    if type(value) is str:
        return repr(value[:64])
    return _TYPE_NAMES.get(type(value), "something else")


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode CMW: {where}: found {found}, want {want}")
