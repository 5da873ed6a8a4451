# SPDX-License-Identifier: Apache-2.0
"""Read deterministic CBOR member by member: each has a type and limits, and nothing may be left over.

A reader takes a value and where it stands, and returns it as it should be or raises DecodeError.

Source: RFC 8949 section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from enarx.crypto.cbor import decode_untrusted, is_ordered
from enarx.errors import DecodeError

__all__ = [
    "MAX_TEXT_BYTES",
    "Fields",
    "bytes_of",
    "choice_of",
    "decode_canonical",
    "read_bool",
    "read_map",
    "refusal",
    "require_one_of",
    "some_of",
    "text_of",
    "tuple_of",
    "uint_of",
]

MAX_TEXT_BYTES = 4096
"""Of text in UTF-8 for which nothing else is said."""
MAX_UINT = (1 << 64) - 1

T = TypeVar("T")


class Fields:
    """The members of a map, taken one by one; what is left at the end was one too many."""

    __slots__ = ("_left", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            raise refusal(where, type(value).__name__, "a map")
        self._left: dict[Any, Any] = dict(value)
        self._where = where

    def required(self, name: str, read: Callable[[Any, str], T]) -> T:
        """Take a member that must be there."""
        if name not in self._left:
            raise refusal(self._where, f"no {name}", "one")
        return read(self._left.pop(name), f"{self._where}.{name}")

    def optional(self, name: str, read: Callable[[Any, str], T]) -> T | None:
        """Take a member, or None where there is none."""
        return self.required(name, read) if name in self._left else None

    def bytes(self, name: str, least: int, most: int) -> bytes:
        """Take a byte string of so many bytes."""
        return self.required(name, bytes_of(least, most))

    def uint(self, name: str, most: int = MAX_UINT, least: int = 0) -> int:
        """Take a number."""
        return self.required(name, uint_of(most, least))

    def text(self, name: str, most: int = MAX_TEXT_BYTES, least: int = 0) -> str:
        """Take text of so many bytes in UTF-8."""
        return self.required(name, text_of(most, least))

    def map(self, name: str) -> dict[Any, Any]:
        """Take a map as it is."""
        return self.required(name, read_map)

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            found = ", ".join(sorted(repr(name)[:40] for name in self._left)[:4])
            raise refusal(self._where, f"unknown members {found}", "none")


def decode_canonical(data: bytes, max_bytes: int, what: str) -> Any:
    """Decode one item in its deterministic encoding.

    Args:
        data: the item and nothing after it.
        max_bytes: the most that it may have.
        what: for messages.

    Raises:
        DecodeError: it is none, larger, or encoded in another way. Nothing else, for any input.
    """
    value = decode_untrusted(data, max_bytes=max_bytes, what=what)
    if not is_ordered(value):
        raise refusal(what, "another encoding of it", "the deterministic one")
    return value


def read_map(value: Any, where: str) -> dict[Any, Any]:
    """Return a map as it is."""
    if type(value) is not dict:
        raise refusal(where, type(value).__name__, "a map")
    return value


def read_bool(value: Any, where: str) -> bool:
    """Return true or false."""
    if type(value) is not bool:
        raise refusal(where, type(value).__name__, "true or false")
    return value


def bytes_of(least: int, most: int) -> Callable[[Any, str], bytes]:
    """Return a reader of byte strings of so many bytes."""

    def read(value: Any, where: str) -> bytes:
        if type(value) is not bytes:
            raise refusal(where, type(value).__name__, "bytes")
        if not least <= len(value) <= most:
            raise refusal(where, f"{len(value)} bytes", f"{least}" if least == most else f"{least} to {most}")
        return value

    return read


def uint_of(most: int = MAX_UINT, least: int = 0) -> Callable[[Any, str], int]:
    """Return a reader of numbers."""

    def read(value: Any, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise refusal(where, repr(value)[:40], f"a number from {least} to {most}")
        return value

    return read


def text_of(most: int = MAX_TEXT_BYTES, least: int = 0) -> Callable[[Any, str], str]:
    """Return a reader of text of so many bytes in UTF-8."""

    def read(value: Any, where: str) -> str:
        if type(value) is not str:
            raise refusal(where, type(value).__name__, "text")
        if not least <= len(value.encode()) <= most:
            raise refusal(where, f"{len(value.encode())} bytes of text", f"{least} to {most}")
        return value

    return read


def some_of(
    read: Callable[[Any, str], T], *, least: int = 1, most: int = 1 << 16
) -> Callable[[Any, str], tuple[T, ...]]:
    """Return a reader of arrays of such items."""

    def read_all(value: Any, where: str) -> tuple[T, ...]:
        if type(value) is not list or not least <= len(value) <= most:
            found = f"{len(value)} items" if type(value) is list else type(value).__name__
            raise refusal(where, found, f"an array of {least} to {most} items")
        return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))

    return read_all


def require_one_of(value: Any, known: tuple[Any, ...], where: str) -> Any:
    """Return the known value that this one is."""
    for item in known:
        # True is 1 to Python, and not here.
        if type(value) is type(item) and value == item:
            return item
    raise refusal(where, repr(value)[:40], f"one of {', '.join(map(str, known))}")


def choice_of(known: tuple[Any, ...]) -> Callable[[Any, str], Any]:
    """Return a reader of known values."""
    return lambda value, where: require_one_of(value, known, where)


def tuple_of(*reads: Callable[[Any, str], Any]) -> Callable[[Any, str], tuple[Any, ...]]:
    """Return a reader of arrays with one item for each of these."""

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(reads):
            raise refusal(where, repr(value)[:40], f"an array of {len(reads)} items")
        return tuple(
            part(item, f"{where}[{number}]") for number, (part, item) in enumerate(zip(reads, value, strict=True))
        )

    return read


def refusal(where: str, found: str, want: str) -> DecodeError:
    """Return the error for a value that is not as it should be."""
    return DecodeError(f"cannot decode {where}: found {found}, want {want}")
