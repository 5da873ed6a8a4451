# SPDX-License-Identifier: Apache-2.0
"""Read a JSON object member by member: each has a type and limits, and nothing may be left over.

As `enarx.wire.fields` does for CBOR. JSON has neither bytes nor times, so each is text in one form: base64 with padding, lower-case
hex, UTC in whole seconds.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Any

from enarx.errors import DecodeError

__all__ = ["Members", "base64_of", "time_text"]

MAX_TEXT_CHARS = 4096
"""Of text for which nothing else is said."""
MAX_ITEMS = 256
MAX_UINT = (1 << 53) - 1
"""What every reader of JSON reads exactly: RFC 7493 section 2.2."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)

# A method has the name of the type.
_Bytes = bytes


class Members:
    """The members of an object, each taken once.

    Args:
        value: what should be an object.
        what: names the text in messages: `the receipt`.
        where: the object's place in it, with a dot at its end, or nothing for the text itself.
    """

    __slots__ = ("_left", "_what", "_where")

    def __init__(self, value: Any, what: str, where: str = "") -> None:
        self._what = what
        self._where = where
        if type(value) is not dict:
            raise self._refusal(where.rstrip(".") or "the text", type(value).__name__, "an object")
        self._left: dict[str, Any] = dict(value)

    def take(self, name: str) -> Any:
        """Take a member that must be there, as it is."""
        if name not in self._left:
            raise self._refusal(self._where + name, "nothing", "a value")
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Return whether a member is there and not taken."""
        return name in self._left

    def text(self, name: str, max_chars: int = MAX_TEXT_CHARS) -> str:
        """Take text."""
        value = self.take(name)
        if type(value) is not str or len(value) > max_chars:
            raise self._refusal(self._where + name, _size_of(value), f"text of at most {max_chars} characters")
        return value

    def texts(self, name: str, most: int = MAX_ITEMS, max_chars: int = MAX_TEXT_CHARS) -> tuple[str, ...]:
        """Take an array of so many texts."""
        found = self.list(name, most)
        if not all(type(item) is str and len(item) <= max_chars for item in found):
            raise self._refusal(self._where + name, "another item", f"text of at most {max_chars} characters")
        return tuple(found)

    def uint(self, name: str, most: int = MAX_UINT, least: int = 0) -> int:
        """Take a number."""
        value = self.take(name)
        if type(value) is not int or not least <= value <= most:
            raise self._refusal(self._where + name, repr(value)[:40], f"a number from {least} to {most}")
        return value

    def bytes(self, name: str, least: int, most: int) -> _Bytes:
        """Take so many bytes in base64."""
        return self._bytes_of(self.take(name), name, least, most)

    def hex(self, name: str, least: int, most: int) -> _Bytes:
        """Take so many bytes in lower-case hex."""
        return self._hex_of(self.take(name), name, least, most)

    def time(self, name: str) -> datetime:
        """Take a time: aware UTC, whole seconds."""
        value = self.take(name)
        try:
            if type(value) is not str or not _TIME.fullmatch(value):
                raise ValueError(value)
            return datetime.fromisoformat(value).astimezone(UTC)
        except ValueError as error:
            raise self._refusal(self._where + name, repr(value)[:40], "a time in UTC, to the second") from error

    def list(self, name: str, most: int = MAX_ITEMS, least: int = 0) -> list[Any]:
        """Take an array of so many items, as it is."""
        value = self.take(name)
        if type(value) is not list or not least <= len(value) <= most:
            raise self._refusal(self._where + name, _size_of(value), f"an array of {least} to {most}")
        return value

    def blobs(self, name: str, *, each: int, most: int = MAX_ITEMS, least: int = 0) -> tuple[_Bytes, ...]:
        """Take an array of so many items, of at least one byte and at most `each` in base64."""
        return tuple(self._bytes_of(item, name, 1, each) for item in self.list(name, most, least))

    def hexes(self, name: str, size: int) -> tuple[_Bytes, ...]:
        """Take an array of so many bytes each, in lower-case hex."""
        return tuple(self._hex_of(item, name, size, size) for item in self.list(name))

    def inside(self, name: str) -> Members:
        """Take an object."""
        return Members(self.take(name), self._what, f"{self._where}{name}.")

    def all_inside(self, name: str) -> tuple[Members, ...]:
        """Take an array of objects."""
        return tuple(Members(item, self._what, f"{self._where}{name}.") for item in self.list(name))

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            raise self._refusal(self._where + ascii(next(iter(self._left)))[:40], "an unknown member", "none")

    def _bytes_of(self, value: Any, name: str, least: int, most: int) -> _Bytes:
        try:
            data = base64.b64decode(value, validate=True) if type(value) is str else None
        except (binascii.Error, ValueError):
            data = None
        # Bits behind the last byte are another way to write it, and there is one. Of base64 that is as long as it should be, they can be
        # in the last letters alone.
        is_one = (
            data is not None
            and len(value) == (len(data) + 2) // 3 * 4
            and value[-4:] == base64_of(data[(len(data) - 1) // 3 * 3 :])
        )
        if data is None or not is_one or not least <= len(data) <= most:
            raise self._refusal(self._where + name, _size_of(value), f"base64 of {least} to {most} bytes")
        return data

    def _hex_of(self, value: Any, name: str, least: int, most: int) -> _Bytes:
        try:
            data = bytes.fromhex(value) if type(value) is str else None
        except ValueError:
            data = None
        # `fromhex` takes spaces and capitals as well; there is one way to write it.
        if data is None or data.hex() != value or not least <= len(data) <= most:
            size = f"{least}" if least == most else f"{least} to {most}"
            raise self._refusal(self._where + name, repr(value)[:40], f"{size} bytes in lower-case hex")
        return data

    def _refusal(self, where: str, found: str, want: str) -> DecodeError:
        return DecodeError(f"cannot decode {self._what}: {where}: found {found}, want {want}")


def base64_of(data: bytes) -> str:
    """Return bytes as `Members.bytes` takes them."""
    return base64.b64encode(data).decode()


def time_text(at: datetime) -> str:
    """Return a time as `Members.time` takes it.

    Args:
        at: aware; parts of a second are dropped.
    """
    return at.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _size_of(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, str | list | dict) else type(value).__name__
