# SPDX-License-Identifier: Apache-2.0
"""CBOR: decode foreign bytes into plain values, encode values the one way there is.

Rules of this file:

- Plain values are int, str, bytes, bool, None, float, list and dict with keys of int, str or bytes. Nothing else comes out:
  no date, no pattern, no big number, no shared reference. Tags are refused, save those that the caller names, which come out
  as `Tagged`.
- Integers and lengths have their shortest form, strings are in one piece, a key occurs once, nothing follows. Two different
  texts are therefore two different values, but for the order of keys and, where the caller allows them, containers of
  indefinite length.
- `cbor2` decodes; what it would turn into Python objects never reaches its decoders. An item whose lengths stand in front is
  in its shortest form exactly if it is as long as that: adding up lengths costs less than looking at each head, which
  is done for the rest.
- `cbor2` encodes; it gets keys in their order, which its own canonical form puts by length first, and nothing for which it has a tag.

Source: RFC 8949.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

import cbor2

from enarx.errors import DecodeError

__all__ = [
    "MAX_DEPTH",
    "MAX_ITEMS",
    "Tagged",
    "decode_untrusted",
    "encode",
    "encode_head",
    "is_ordered",
    "read_tag_untrusted",
]

MAX_DEPTH = 16
MAX_ITEMS = 1 << 16
"""How many items there can be within each other and beside each other. It bounds time and memory; what is legitimate has a few hundred."""

_BREAK = 0xFF
_TOO_LARGE = 1 << 62
_KEYS = frozenset({int, str, bytes})
# The numbers that are all head. Keys of other types that are equal to one of them are refused before.
_SMALL = frozenset(range(24))
# How long the head of a small argument is.
_HEAD_SIZES = b"\1" * 24 + b"\2" * 232 + b"\3" * (65536 - 256)
# How many bytes of argument follow a head, by its lower bits.
_ARGUMENT_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}

# What cbor2 has decoders of its own for. A tag that a later release adds is caught by the look at types that follows.
_CBOR2_TAGS = frozenset(
    {0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799}
)


class Tagged(NamedTuple):
    """A value under a tag.

    Args:
        tag: 0 to 2^64 - 1.
        value: plain.
    """

    tag: int
    value: Any


_CONTAINERS = frozenset({dict, list, Tagged})
_WRITTEN = frozenset({bytes, str, bool, type(None)})
_ATOMS = _WRITTEN | {int}
_LEAST, _MOST = -(1 << 64), (1 << 64) - 1
_NAMES, _NUMBERS = frozenset({str}), frozenset({int})


class _RefusedTagError(ValueError):
    """A tag that the caller did not name."""


def _refuse(_value: object, _immutable: bool) -> NoReturn:
    raise _RefusedTagError


_REFUSE_ALL = dict.fromkeys(_CBOR2_TAGS, _refuse)
_OPTIONS: dict[str, Any] = {
    "tag_hook": _refuse,
    "semantic_decoders": _REFUSE_ALL,
    "max_depth": MAX_DEPTH,
    "allow_duplicate_keys": False,
}
_loads_definite: Callable[[bytes], Any] = partial(cbor2.loads, allow_indefinite=False, **_OPTIONS)
_ERRORS = (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError)


def decode_untrusted(
    data: bytes,
    *,
    max_bytes: int,
    what: str = "CBOR",
    indefinite: bool = False,
    tags: frozenset[int] = frozenset(),
) -> Any:
    """Decode one data item, believing nothing about it.

    Args:
        data: all of it is the item.
        max_bytes: of `data`.
        what: it is, for messages.
        indefinite: whether arrays and maps may have no length up front; strings must have one.
        tags: those that come out as `Tagged`.

    Raises:
        DecodeError: longer than the limit, nested deeper than `MAX_DEPTH`, more than `MAX_ITEMS`, not well formed, or not as the
            rules of this file say. Nothing else, for any input.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"cannot decode {what}: size: found {len(data)} bytes, want at most {max_bytes}")
    if len(data) > MAX_ITEMS and _has_too_many_items(data):
        raise _refusal(what, f"more than {MAX_ITEMS} items", "fewer")
    if not tags:
        try:
            value = _loads_definite(data)
            if _size(value) == len(data):
                return value
        except _ERRORS as error:
            if not indefinite:
                raise _refusal(what, _explain(error), "one well-formed item without tags") from error
    # What has no length in front, a tag or a floating-point number comes here, and what has to be refused with a reason.
    options = _OPTIONS | {"tag_hook": _make_tag_hook(tags), "semantic_decoders": _make_semantic_decoders(tags)}
    try:
        value = _thaw(cbor2.loads(data, allow_indefinite=indefinite, **options))
        _size(value)
    except _ERRORS as error:
        raise _refusal(what, _explain(error), "one well-formed item") from error
    end = _scan(data, 0, what, indefinite=indefinite, tags=tags)
    if end != len(data):
        raise _refusal(what, f"{len(data) - end} bytes after the end", "none")
    return value


def read_tag_untrusted(data: bytes, *, what: str = "CBOR") -> tuple[int | None, bytes]:
    """Take the outermost tag off.

    Returns:
        The tag and what it is on, or None and the data where there is none.

    Raises:
        DecodeError: there is nothing, or the tag is not in its shortest form.
    """
    if not data:
        raise _refusal(what, "nothing", "an item")
    if data[0] >> 5 != 6:
        return None, data
    tag, start = _read_head(data, 0, what)
    return tag, data[start:]


def encode(value: Any) -> bytes:
    """Encode plain values and `Tagged` deterministically: shortest forms, definite lengths, keys in the order of their encodings.

    Raises:
        TypeError: the value is of another type.
        ValueError: an integer needs more than 64 bits.

    Spec: RFC 8949 section 4.2.1; floating-point numbers are not supported, because no format here has any.
    """
    return cbor2.dumps(_as_written(value))


def is_ordered(value: Any) -> bool:
    """Return whether a value that was decoded without tags and indefinite lengths was in its deterministic encoding.

    What is left to look at then is the order of keys, which a dict has kept, and that there are no floating-point numbers.
    """
    kind = type(value)
    if kind is dict:
        return [*value] == _in_order(value) and all(
            is_ordered(item) for item in value.values() if type(item) not in _ATOMS
        )
    if kind is list:
        return all(is_ordered(item) for item in value if type(item) not in _ATOMS)
    return kind is not float


def _as_written(value: Any) -> Any:
    """Return what `cbor2` writes as it stands: keys in their order, and nothing for which it has a tag of its own."""
    kind = type(value)
    if kind in _WRITTEN:
        return value
    # What most values are made of is not called for.
    if kind is dict:
        return {
            key: item
            if (kind := type(item := value[key])) in _WRITTEN or (kind is int and _LEAST <= item <= _MOST)
            else _as_written(item)
            for key in _in_order(value)
        }
    if kind is list or kind is tuple:
        return [item if type(item) in _WRITTEN else _as_written(item) for item in value]
    if isinstance(value, int):
        if not _LEAST <= value <= _MOST:
            raise ValueError(f"found the integer {int(value)}, want at most 64 bits")
        return int(value)
    if kind is Tagged:
        return cbor2.CBORTag(value.tag, _as_written(value.value))
    if isinstance(value, Mapping):
        return _as_written(dict(value))
    raise TypeError(f"found {kind.__name__}, want a plain value")


def _in_order(keys: Collection[Any]) -> list[Any]:
    """Return keys in the order of their encodings: of names that is by length and then by letter, of natural numbers by size."""
    kinds = {*map(type, keys)}
    if kinds <= _NAMES and "".join(keys).isascii():
        return sorted(sorted(keys), key=len)
    if kinds == _NUMBERS and min(keys) >= 0 and max(keys) <= _MOST:
        return sorted(keys)
    return sorted(keys, key=encode)


# By type and argument.
_SMALL_HEADS = tuple(
    bytes((major << 5 | argument,) if argument < 24 else (major << 5 | 24, argument))
    for major in range(8)
    for argument in range(256)
)


def encode_head(major: int, argument: int) -> bytes:
    """Return a head in its shortest form."""
    if argument < 256:
        return _SMALL_HEADS[major << 8 | argument]
    for info, size in ((25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes((major << 5 | info,)) + argument.to_bytes(size, "big")
    raise ValueError(f"found the integer {argument}, want at most 64 bits")


def _make_tag_hook(tags: frozenset[int]) -> Any:
    def hook(tagged: Any, _immutable: bool) -> Tagged:
        if tagged.tag not in tags:
            raise _RefusedTagError
        return Tagged(tagged.tag, tagged.value)

    return hook


def _make_semantic_decoders(tags: frozenset[int]) -> dict[int, Any]:
    def make(tag: int) -> Any:
        return lambda value, _immutable: Tagged(tag, value)

    return _REFUSE_ALL | {tag: make(tag) for tag in _CBOR2_TAGS & tags}


def _thaw(value: Any) -> Any:
    """Return the value with lists and dicts for what `cbor2` freezes below a tag."""
    if type(value) is Tagged:
        return Tagged(value.tag, _thaw(value.value))
    if type(value) in {list, tuple}:
        return [_thaw(item) for item in value]
    if type(value) in {dict, cbor2.frozendict}:
        return {key: _thaw(item) for key, item in value.items()}
    return value


def _size(value: Any) -> int:
    """Return the length of a plain value's shortest encoding without floating-point numbers, for which it is too large.

    Raises:
        TypeError: the value is not plain.
    """
    kind = type(value)
    total = 0
    items: Iterable[Any] = (value,)
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)):
            raise TypeError(f"a key that is {next(type(key).__name__ for key in value if type(key) not in _KEYS)}")
        total = _head_size(len(value))
        if value.keys() <= _SMALL:
            total, items = total + len(value), value.values()
        else:
            items = (*value, *value.values())
    elif kind is list:
        total, items = _head_size(len(value)), value
    elif kind is Tagged:
        total, items = _head_size(value.tag), (value.value,)
    for item in items:
        kind = type(item)
        if kind is bytes:
            length = len(item)
            total += length + (_HEAD_SIZES[length] if length < 65536 else _head_size(length))
        elif kind is int:
            argument = item if item >= 0 else -1 - item
            total += _HEAD_SIZES[argument] if argument < 65536 else _head_size(argument)
        elif kind is str:
            length = len(item) if item.isascii() else len(item.encode())
            total += length + (_HEAD_SIZES[length] if length < 65536 else _head_size(length))
        elif kind in _CONTAINERS:
            total += _size(item)
        elif item is None or kind is bool:
            total += 1
        elif kind is float:
            total += _TOO_LARGE
        else:
            raise TypeError(f"a value that is {kind.__name__}")
    return total


def _head_size(argument: int) -> int:
    return _HEAD_SIZES[argument] if argument < 65536 else 5 if argument < 1 << 32 else 9


def _has_too_many_items(data: bytes) -> bool:
    """Return whether there are more heads than `MAX_ITEMS`, which is counted from head to head, before anything is made of them."""
    at, end = 0, len(data)
    for _ in range(MAX_ITEMS):
        if at >= end:
            return False
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        size = 1 << info - 24 if 24 <= info < 28 else 0
        if major in {2, 3}:
            at += info if info < 24 else int.from_bytes(data[at : at + size], "big")
        at += size
    return at < end


def _scan(data: bytes, at: int, what: str, *, indefinite: bool, tags: frozenset[int]) -> int:
    """Return where the item ends that begins at `at`. It is well formed already; this is about its forms."""
    first = data[at]
    major, info = first >> 5, first & 31
    if major == 7:
        return at + 1 + _ARGUMENT_SIZES.get(info, 0)
    if info == 31:
        if not indefinite or major not in {4, 5}:
            raise _refusal(what, "an item of indefinite length", "a length")
        at += 1
        while data[at] != _BREAK:
            at = _scan(data, at, what, indefinite=indefinite, tags=tags)
        return at + 1
    argument, at = _read_head(data, at, what)
    if major in {2, 3}:
        return at + argument
    if major == 6 and argument not in tags:
        raise _refusal(what, f"the tag {argument}", "none")
    for _ in range((0, 0, 0, 0, argument, 2 * argument, 1)[major]):
        at = _scan(data, at, what, indefinite=indefinite, tags=tags)
    return at


def _read_head(data: bytes, at: int, what: str) -> tuple[int, int]:
    """Return a head's argument and where it ends."""
    info = data[at] & 31
    if info < 24:
        return info, at + 1
    size = _ARGUMENT_SIZES.get(info)
    end = at + 1 + (size or 0)
    if size is None or end > len(data):
        raise _refusal(what, "a head that is cut off or reserved", "a length of 0 to 8 bytes")
    argument = int.from_bytes(data[at + 1 : end], "big")
    if argument < (24 if size == 1 else 1 << 4 * size):
        raise _refusal(what, f"{argument} in {size} bytes", "its shortest form")
    return argument, end


def _explain(error: BaseException) -> str:
    """Return what `cbor2` says, or what one of the refusals here says through it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _RefusedTagError):
            return "a tag that does not belong there"
        cause = cause.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(what: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode {what}: found {found}, want {want}")
