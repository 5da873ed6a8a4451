# SPDX-License-Identifier: Apache-2.0
"""`fields` of wasi:http 0.2: headers and trailers, and the codecs that all of wasi:http shares.

Names compare without regard to case and are kept in lower case. What frames a message or belongs to one connection
is the host's to say and forbidden to guests; `host` is the authority of a request.

Source: WIT package wasi:http@0.2.12.
"""

# The hooks and codecs overridden here are described where they are declared.
# ruff: noqa: D102

from __future__ import annotations

from enarx.runtime.component.binding import Borrow, Interface, Kind, Own, Trap
from enarx.runtime.component.io import ERROR, INPUT_STREAM, OUTPUT_STREAM, POLLABLE
from enarx.runtime.component.values import (
    U8,
    U16,
    U32,
    U64,
    Bool,
    Bytes,
    Err,
    ListOf,
    Option,
    Record,
    Result,
    String,
    Tuple,
    Variant,
)
from enarx.runtime.http1 import MAX_HEAD_BYTES, is_name, is_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.http1 import Headers

FORBIDDEN = frozenset({
    b"connection", b"host", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"expect",
})  # fmt: skip
MAX_FIELDS = 1024

types_interface = Interface(
    "wasi:http/types",
    uses={
        "io-error": ERROR,
        "error": ERROR,
        "pollable": POLLABLE,
        "input-stream": INPUT_STREAM,
        "output-stream": OUTPUT_STREAM,
    },
)
FIELDS: Kind = types_interface.resource("fields")
types_interface.resources["headers"] = types_interface.resources["trailers"] = FIELDS

_SIZE = Record(("field-name", Option(String)), ("field-size", Option(U32)))
ERROR_CODE = Variant(
    ("DNS-timeout", None),
    ("DNS-error", Record(("rcode", Option(String)), ("info-code", Option(U16)))),
    ("destination-not-found", None),
    ("destination-unavailable", None),
    ("destination-IP-prohibited", None),
    ("destination-IP-unroutable", None),
    ("connection-refused", None),
    ("connection-terminated", None),
    ("connection-timeout", None),
    ("connection-read-timeout", None),
    ("connection-write-timeout", None),
    ("connection-limit-reached", None),
    ("TLS-protocol-error", None),
    ("TLS-certificate-error", None),
    ("TLS-alert-received", Record(("alert-id", Option(U8)), ("alert-message", Option(String)))),
    ("HTTP-request-denied", None),
    ("HTTP-request-length-required", None),
    ("HTTP-request-body-size", Option(U64)),
    ("HTTP-request-method-invalid", None),
    ("HTTP-request-URI-invalid", None),
    ("HTTP-request-URI-too-long", None),
    ("HTTP-request-header-section-size", Option(U32)),
    ("HTTP-request-header-size", Option(_SIZE)),
    ("HTTP-request-trailer-section-size", Option(U32)),
    ("HTTP-request-trailer-size", _SIZE),
    ("HTTP-response-incomplete", None),
    ("HTTP-response-header-section-size", Option(U32)),
    ("HTTP-response-header-size", _SIZE),
    ("HTTP-response-body-size", Option(U64)),
    ("HTTP-response-trailer-section-size", Option(U32)),
    ("HTTP-response-trailer-size", _SIZE),
    ("HTTP-response-transfer-coding", Option(String)),
    ("HTTP-response-content-coding", Option(String)),
    ("HTTP-response-timeout", None),
    ("HTTP-upgrade-failed", None),
    ("HTTP-protocol-error", None),
    ("loop-detected", None),
    ("configuration-error", None),
    ("internal-error", Option(String)),
)


class Inner(Result):
    """A result within another value, in Python `(is_ok, payload)` both ways; only the outermost can be raised."""

    __slots__ = ()

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        is_ok, payload = value
        if is_ok:
            super().encode(keep, at, payload)
        else:
            self.encode_err(keep, at, payload)


_HEADER_ERROR = Variant(("invalid-syntax", None), ("forbidden", None), ("immutable", None))
_INVALID, _FORBIDDEN, _IMMUTABLE = ("invalid-syntax", None), ("forbidden", None), ("immutable", None)
_ENTRIES = ListOf(Tuple(String, Bytes))
_CHANGED = Result(None, _HEADER_ERROR)
_FIELDS = Borrow(FIELDS)


class Fields:
    """The resource `fields`.

    Args:
        entries: taken, not copied.
        is_mutable: whether the guest may change them.
    """

    __slots__ = ("entries", "is_mutable", "size")

    def __init__(self, entries: Headers, *, is_mutable: bool = True) -> None:
        self.entries = entries
        self.is_mutable = is_mutable
        self.size = sum(len(name) + len(value) + 4 for name, value in entries)

    def frozen(self) -> Fields:
        """Return the same fields, not to be changed through what is returned."""
        return Fields(self.entries, is_mutable=False)

    def append(self, name: bytes, value: bytes) -> None:
        """Add an entry whose name and value have been judged.

        Raises:
            Trap: more than a message may have; a guest could fill our memory with them.
        """
        self.size += len(name) + len(value) + 4
        if self.size > MAX_HEAD_BYTES or len(self.entries) >= MAX_FIELDS:
            raise Trap(f"found fields of more than {MAX_HEAD_BYTES} bytes or {MAX_FIELDS} entries, want fewer")
        self.entries.append((name, value))

    def remove(self, name: bytes) -> None:
        """Remove every entry of a name."""
        self.entries = [field for field in self.entries if field[0] != name]
        self.size = sum(len(name) + len(value) + 4 for name, value in self.entries)


def _judge_name(text: str) -> bytes:
    name = text.encode().lower()
    if not is_name(name):
        raise Err(_INVALID)
    if name in FORBIDDEN:
        raise Err(_FORBIDDEN)
    return name


def _judge_value(value: bytes) -> bytes:
    if not is_value(value):
        raise Err(_INVALID)
    return value.strip(b" \t")


def _require_mutable(fields: Fields) -> None:
    if not fields.is_mutable:
        raise Err(_IMMUTABLE)


@types_interface.func("[constructor]fields", (), Own(FIELDS))
def _new(_keep: Keep) -> Fields:
    return Fields([])


@types_interface.func("[static]fields.from-list", (_ENTRIES,), Result(Own(FIELDS), _HEADER_ERROR))
def _from_list(_keep: Keep, entries: list[tuple[str, bytes]]) -> Fields:
    fields = Fields([])
    for name, value in entries:
        fields.append(_judge_name(name), _judge_value(value))
    return fields


@types_interface.func("[method]fields.get", (_FIELDS, String), ListOf(Bytes))
def _get(_keep: Keep, fields: Fields, name: str) -> list[bytes]:
    wanted = name.encode().lower()
    return [value for found, value in fields.entries if found == wanted]


@types_interface.func("[method]fields.has", (_FIELDS, String), Bool)
def _has(_keep: Keep, fields: Fields, name: str) -> bool:
    wanted = name.encode().lower()
    return any(found == wanted for found, _ in fields.entries)


@types_interface.func("[method]fields.set", (_FIELDS, String, ListOf(Bytes)), _CHANGED)
def _set(_keep: Keep, fields: Fields, name: str, values: list[bytes]) -> None:
    _require_mutable(fields)
    judged, accepted = _judge_name(name), [_judge_value(value) for value in values]
    fields.remove(judged)
    for value in accepted:
        fields.append(judged, value)


@types_interface.func("[method]fields.delete", (_FIELDS, String), _CHANGED)
def _delete(_keep: Keep, fields: Fields, name: str) -> None:
    _require_mutable(fields)
    fields.remove(_judge_name(name))


@types_interface.func("[method]fields.append", (_FIELDS, String, Bytes), _CHANGED)
def _append(_keep: Keep, fields: Fields, name: str, value: bytes) -> None:
    _require_mutable(fields)
    fields.append(_judge_name(name), _judge_value(value))


@types_interface.func("[method]fields.entries", (_FIELDS,), _ENTRIES)
def _entries(_keep: Keep, fields: Fields) -> list[tuple[str, bytes]]:
    return [(name.decode("ascii"), value) for name, value in fields.entries]


@types_interface.func("[method]fields.clone", (_FIELDS,), Own(FIELDS))
def _clone(_keep: Keep, fields: Fields) -> Fields:
    return Fields(list(fields.entries))
