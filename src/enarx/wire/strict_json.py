# SPDX-License-Identifier: Apache-2.0
"""JSON from strangers: bounded, without duplicate keys, without numbers that JSON does not have.

Python's reader lets the last of two equal keys win, and another reader the first: whoever signs one meaning could have
another one judged. So two equal keys are an error here.

Source: RFC 8259; RFC 7493 (I-JSON) sections 2.1 and 2.3.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NoReturn

from enarx.errors import DecodeError

__all__ = ["MAX_DEPTH", "load_json_untrusted"]

MAX_DEPTH = 64
"""How deep objects and arrays may stand in each other: far below where Python's recursion ends, here or in whoever goes on."""

_STRUCTURE = b"[{,:"


def load_json_untrusted(data: bytes, *, what: str, max_bytes: int, max_items: int | None = None) -> Any:
    """Decode a JSON text.

    Args:
        data: UTF-8, a byte order mark and trailing zero bytes allowed.
        what: names it in messages: `TCB info`.
        max_bytes: the largest size that is looked at.
        max_items: how many of `[{,:` there may be, those in text too; more are refused before anything is made of them, which takes a
            hundred times as long as to count them. None is any number.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        DecodeError: too large, too many items, not UTF-8, not JSON, a key twice in one object, half of a surrogate pair, nested too deeply, or
            a number out of range.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"cannot decode the {what}: size: found {len(data)} bytes, want at most {max_bytes}")
    # What is left without them tells how many there are in one go; to count each of them takes eight times as long.
    items = len(data) - len(data.translate(None, _STRUCTURE))
    if max_items is not None and items > max_items:
        raise DecodeError(
            f"cannot decode the {what}: brackets, commas and colons: found {items}, want at most {max_items}"
        )

    try:
        text = data.rstrip(b"\0").decode("utf-8-sig")
        value = _DECODER.decode(text)
        if "\\" in text:
            # Half of a surrogate pair is text that nobody can encode again; only an escape can write one.
            json.dumps(value, ensure_ascii=False).encode()
        # Most texts have fewer of all of these than objects and arrays may stand in each other.
        if items > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH:
            _require_shallow(value)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"cannot decode the {what}: found {_one_line(error)}, want JSON") from error
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise ValueError("a key twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}")


def _number(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError("a number of more than 40 digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"the number {digits[:40]}")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_refuse, parse_int=_number, parse_float=_real)


def _require_shallow(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"more than {MAX_DEPTH} objects and arrays in each other")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
