# SPDX-License-Identifier: Apache-2.0
"""Frames of the link between a host and a Keep, without I/O: encode headers, turn bytes into events.

Rules of this file:

- It knows the shape of each frame and no order of frames: who may open what, and when, is the link's to judge.
- Every byte comes from a peer that is not believed: any input gives events or DecodeError.
- Data are not gathered: they come out as they came in, as views of what was fed, so that nothing of a frame is held here but
  an incomplete header of at most 514 bytes.

What holds it together is the one table of frames in link.cddl: records, encoders and the reader, each in its order.

Source: docs/formats/link.cddl.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError, UsageError

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_HOST_BYTES",
    "MAX_STREAMS",
    "MAX_STREAM_NUMBER",
    "RESET_REASONS",
    "ROLES",
    "WINDOW_BYTES",
    "Credit",
    "Data",
    "End",
    "Event",
    "FrameReader",
    "Hello",
    "Open",
    "Opened",
    "Reset",
    "Target",
    "encode_credit",
    "encode_data_header",
    "encode_end",
    "encode_hello",
    "encode_open",
    "encode_opened",
    "encode_reset",
]

VERSION = 1
MAX_HEADER_BYTES = 512
MAX_DATA_BYTES = 65536
MAX_STREAMS = 1024
MAX_STREAM_NUMBER = (1 << 32) - 1
WINDOW_BYTES = 1 << 20
"""Credit of each direction of a stream when it is opened, and the most that is ever outstanding."""

MAX_HOST_BYTES = 253
"""Of a name that a connection is wanted to, as DNS has them."""

ROLES = ("host", "keep")
RESET_REASONS = ("refused", "unreachable", "timeout", "closed", "limit")

_HELLO, _OPEN, _DATA, _CREDIT, _END, _RESET, _OPENED = range(7)
_MAX_NAME_BYTES = 255
_DIGEST_BYTES = 32

# A data header is an array of three that begins with 2; its two numbers follow.
_DATA_START = b"\x83\x02"
_CREDIT_START = b"\x83\x03"


class Target(NamedTuple):
    """What a stream is for.

    Args:
        kind: `session` or `inbound`, opened by the host; `outbound`, `blob` or `platform`, opened by the Keep.
        name: of the listen entry, for `inbound`: 1 to 255 bytes of UTF-8.
        host: for `outbound`: 1 to 253 bytes of UTF-8.
        port: for `outbound`: 1 to 65535.
        digest: for `blob`: SHA-256 of the ciphertext, 32 bytes.
    """

    kind: str
    name: str = ""
    host: str = ""
    port: int = 0
    digest: bytes = b""

    @property
    def opener(self) -> str:
        """Return the role that may open it: `host` or `keep`."""
        return "host" if self.kind in {"session", "inbound"} else "keep"

    @classmethod
    def session(cls) -> Target:
        """Return the target of a tenant's session."""
        return cls("session")

    @classmethod
    def inbound(cls, name: str) -> Target:
        """Return the target of a connection to a published port."""
        return cls("inbound", name=name)

    @classmethod
    def outbound(cls, host: str, port: int) -> Target:
        """Return the target of a connection to the network."""
        return cls("outbound", host=host, port=port)

    @classmethod
    def blob(cls, digest: bytes) -> Target:
        """Return the target of a ciphertext that the host has."""
        return cls("blob", digest=digest)

    @classmethod
    def platform(cls) -> Target:
        """Return the target of one request to the emulated platform."""
        return cls("platform")


class Hello(NamedTuple):
    """The first frame of an end: `host` or `keep`."""

    role: str


class Open(NamedTuple):
    """A stream begins."""

    stream: int
    target: Target


class Data(NamedTuple):
    """Bytes of a stream: a frame's, or a part of them. The view is of what was fed and lives no longer than that."""

    stream: int
    data: memoryview


class Credit(NamedTuple):
    """So many bytes more may be sent: 1 to 1048576."""

    stream: int
    more: int


class End(NamedTuple):
    """No data of this direction follow."""

    stream: int


class Reset(NamedTuple):
    """Both directions are over."""

    stream: int
    reason: str


class Opened(NamedTuple):
    """The connection that an `outbound` stream is for is there."""

    stream: int


Event = Hello | Open | Data | Credit | End | Reset | Opened


def encode_hello(role: str) -> bytes:
    """Encode the first frame of an end.

    Raises:
        UsageError: there is no such role.
    """
    if role not in ROLES:
        raise _misuse("role", role, "host or keep")
    return _frame([_HELLO, VERSION, role])


def encode_open(stream: int, target: Target) -> bytes:
    """Encode the beginning of a stream.

    Raises:
        UsageError: the target is not one that link.cddl has.
    """
    members = _TARGET_MEMBERS.get(target.kind)
    if members is None:
        raise _misuse("target", target.kind, "a kind that there is")
    value = [target.kind, *(getattr(target, member) for member in members)]
    try:
        _decode_target(value)
    except DecodeError as error:
        raise UsageError(str(error)) from error
    return _frame([_OPEN, _number(stream), value])


@lru_cache(maxsize=256)
def encode_data_header(stream: int, length: int) -> bytes:
    """Encode the header that `length` bytes of data must follow.

    Args:
        stream: 0 to 4294967295.
        length: 1 to `MAX_DATA_BYTES`.

    Raises:
        UsageError: a number is out of its range, as for every encoder here.
    """
    if not 1 <= length <= MAX_DATA_BYTES:
        raise _misuse("data", f"{length} bytes", f"1 to {MAX_DATA_BYTES}")
    header = _DATA_START + encode(_number(stream)) + encode(length)
    return len(header).to_bytes(2, "big") + header


def encode_credit(stream: int, more: int) -> bytes:
    """Encode that `more` bytes more may be sent: 1 to `WINDOW_BYTES`."""
    if not 1 <= more <= WINDOW_BYTES:
        raise _misuse("credit", f"{more} bytes", f"1 to {WINDOW_BYTES}")
    return _frame([_CREDIT, _number(stream), more])


def encode_end(stream: int) -> bytes:
    """Encode the end of a direction."""
    return _frame([_END, _number(stream)])


def encode_reset(stream: int, reason: str) -> bytes:
    """Encode the end of both directions.

    Raises:
        UsageError: the reason is not one of `RESET_REASONS`.
    """
    if reason not in RESET_REASONS:
        raise _misuse("reset", reason, "a reason that there is")
    return _frame([_RESET, _number(stream), reason])


def encode_opened(stream: int) -> bytes:
    """Encode that the connection of an `outbound` stream is there."""
    return _frame([_OPENED, _number(stream)])


class FrameReader:
    """Turns the bytes of one direction of a link into events, in whatever pieces they come."""

    def __init__(self) -> None:
        # The beginning of a header, with its length, that has not come whole.
        self._partial = bytearray()
        # Of the data frame that is on its way: whose, and how many bytes of it are to come.
        self._stream = 0
        self._left = 0

    @property
    def between_frames(self) -> bool:
        """Whether every frame that has begun is complete."""
        return not self._partial and not self._left

    def feed_untrusted(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take more bytes.

        Args:
            data: any number of them; views of it are in the events.

        Returns:
            What is complete, in its order; data also where their frame is not.

        Raises:
            DecodeError: a frame is not as link.cddl says. Nothing else, for any input; only giving up may follow.
        """
        view = memoryview(data)
        at, end = 0, len(view)
        events: list[Event] = []
        while at < end:
            if self._left:
                taken = min(self._left, end - at)
                events.append(Data(self._stream, view[at : at + taken]))
                at += taken
                self._left -= taken
                continue
            if not self._partial and end - at >= 2:
                start = at + 2
                stop = start + _header_length(view[at], view[at + 1])
                if stop > end:
                    self._partial += view[at:]
                    break
                header = bytes(view[start:stop])
                at = stop
            else:
                partial = self._partial
                known = len(partial) >= 2
                wanted = 2 + _header_length(partial[0], partial[1]) if known else 2
                taken = min(wanted - len(partial), end - at)
                partial += view[at : at + taken]
                at += taken
                if not known or len(partial) < wanted:
                    continue
                header = bytes(partial[2:])
                partial.clear()
            self._take_header(header, events)
        return events

    def _take_header(self, header: bytes, events: list[Event]) -> None:
        start = header[:2]
        if start == _DATA_START:
            self._stream, self._left = _decode_numbers(header, MAX_DATA_BYTES, "data")
        elif start == _CREDIT_START:
            events.append(Credit(*_decode_numbers(header, WINDOW_BYTES, "credit")))
        else:
            events.append(_decode_header(header))


def _header_length(high: int, low: int) -> int:
    length = high << 8 | low
    if not 1 <= length <= MAX_HEADER_BYTES:
        raise _refusal("length of a header", str(length), f"1 to {MAX_HEADER_BYTES}")
    return length


def _decode_numbers(header: bytes, most: int, what: str) -> tuple[int, int]:
    """Decode the stream's number and the count, 1 to `most`, that a data or a credit header ends with.

    Nearly all frames are these two, so they do not go through the general decoder.
    """
    stream, at = _decode_unsigned(header, 2)
    count, at = _decode_unsigned(header, at)
    if at != len(header):
        raise _refusal(what, f"{len(header)} bytes of header", f"{at}")
    if stream > MAX_STREAM_NUMBER:
        raise _refusal(what, f"stream {stream}", f"at most {MAX_STREAM_NUMBER}")
    if not 1 <= count <= most:
        raise _refusal(what, f"{count} bytes", f"1 to {most}")
    return stream, count


def _decode_unsigned(header: bytes, at: int) -> tuple[int, int]:
    """Decode an unsigned integer in its shortest form; RFC 8949 section 3.1."""
    first = header[at] if at < len(header) else 0xFF
    if first < 24:
        return first, at + 1
    size = _SIZES.get(first)
    text = header[at + 1 : at + 1 + size] if size else b""
    value = int.from_bytes(text, "big")
    if not size or len(text) != size or value < _LEAST[size]:
        raise _refusal("a number", header[at:].hex()[:20] or "nothing", "an unsigned integer in its shortest form")
    return value, at + 1 + size


_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
_LEAST = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}


def _decode_header(header: bytes) -> Event:
    value = decode_untrusted(header, max_bytes=MAX_HEADER_BYTES, what="link frame")
    kind = value[0] if type(value) is list and value else None
    length = _LENGTHS.get(kind) if type(kind) is int else None
    if length is None:
        raise _refusal("a frame", "another type", "hello, open, data, credit, end, reset or opened")
    if len(value) != length:
        raise _refusal(f"frame of type {kind}", f"{len(value)} members", f"{length}")
    if kind == _HELLO:
        if type(value[1]) is not int or value[1] != VERSION:
            raise _refusal("hello", f"version {_show(value[1])}", f"version {VERSION}")
        if value[2] not in ROLES:
            raise _refusal("hello", f"role {_show(value[2])}", "host or keep")
        return Hello(value[2])
    stream = value[1]
    if type(stream) is not int or not 0 <= stream <= MAX_STREAM_NUMBER:
        raise _refusal("a frame", f"stream {_show(stream)}", f"0 to {MAX_STREAM_NUMBER}")
    if kind == _OPEN:
        return Open(stream, _decode_target(value[2]))
    if kind == _END:
        return End(stream)
    if kind == _OPENED:
        return Opened(stream)
    if type(value[2]) is not str or value[2] not in RESET_REASONS:
        raise _refusal("reset", f"reason {_show(value[2])}", "one of " + ", ".join(RESET_REASONS))
    return Reset(stream, value[2])


_LENGTHS = {_HELLO: 3, _OPEN: 3, _END: 2, _RESET: 3, _OPENED: 2}
_TARGET_MEMBERS = {
    "session": (),
    "inbound": ("name",),
    "outbound": ("host", "port"),
    "blob": ("digest",),
    "platform": (),
}


def _decode_target(value: Any) -> Target:
    kind: Any = value[0] if type(value) is list and value else None
    members = _TARGET_MEMBERS.get(kind) if type(kind) is str else None
    if members is None or len(value) != 1 + len(members):
        raise _refusal("target", _show(kind), "session, inbound, outbound, blob or platform with its members")
    target = Target(kind, **dict(zip(members, value[1:], strict=True)))
    if kind == "inbound":
        _require_text("inbound", target.name, _MAX_NAME_BYTES)
    elif kind == "outbound":
        _require_text("outbound", target.host, MAX_HOST_BYTES)
        if type(target.port) is not int or not 1 <= target.port <= 65535:
            raise _refusal("outbound", f"port {_show(target.port)}", "1 to 65535")
    elif kind == "blob" and (type(target.digest) is not bytes or len(target.digest) != _DIGEST_BYTES):
        raise _refusal("blob", _show(target.digest), f"a digest of {_DIGEST_BYTES} bytes")
    return target


def _require_text(what: str, text: Any, most: int) -> None:
    # A lone surrogate can only be our own end's; it has no UTF-8 and so no length.
    if type(text) is not str or not 1 <= len(text.encode("utf-8", "ignore")) <= most or not text.isprintable():
        raise _refusal(what, _show(text), f"printable text of 1 to {most} bytes")


def _number(stream: int) -> int:
    if not 0 <= stream <= MAX_STREAM_NUMBER:
        raise _misuse("stream", str(stream), f"0 to {MAX_STREAM_NUMBER}")
    return stream


def _frame(value: list[Any]) -> bytes:
    header = encode(value)
    return len(header).to_bytes(2, "big") + header


def _show(value: Any) -> str:
    if type(value) in {str, bytes}:
        return ascii(value[:40])
    return str(value) if type(value) is int else type(value).__name__


def _refusal(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode link frame: {what}: found {found}, want {want}")


def _misuse(what: str, found: str, want: str) -> UsageError:
    return UsageError(f"cannot encode link frame: {what}: found {found}, want {want}")
