# SPDX-License-Identifier: Apache-2.0
"""Codecs between the engine's `wasmtime_component_val_t` and Python values.

Rules of this file:

- A codec says what WASI declares. What a component sends is checked against it value by value, because the engine links
  a host function whatever type the component imports it with: without the check a number could be taken for a pointer.
- Whatever becomes part of an encoded value is allocated by the engine, which frees it.
- A location is a *word index*: the address divided by 8, an index into `WORDS`. A value has four words: its kind, then
  up to three of payload.
- It knows neither linker nor stores. A codec receives the `Keep` only to pass it to the resource codecs of `binding`.

What a type is in Python: integers `int`, bool `bool`, string `str`, list<u8> `bytes`, other lists `list`, option None or
the value, tuple and record `tuple` in declared order, variant `(case, payload or None)`, enum `str`, flags
`frozenset[str]`. A result that a host function returns is its value, or `raise Err(value)`; a result that a component
passes is `(is_ok, payload)`.

What holds it together: one class for each type of WIT, each with the same two methods.

Source: Wasmtime 50 C API header `wasmtime/component/val.h`.
"""

# What overrides a documented method needs no second text, and codecs leave out what they do not need.
# ruff: noqa: D102

from __future__ import annotations

import _ctypes

from enarx.runtime import capi
from enarx.runtime.capi import MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from enarx.runtime.component.binding import Keep

SIZEOF_VAL = 32
SIZEOF_RECORD_ENTRY = 48
WORDS_PER_VAL = 4
WORDS_PER_ENTRY = 6
WORDS_PER_NAME = 2

BOOL, U8_KIND, U16_KIND, S32_KIND, U32_KIND, S64_KIND, U64_KIND = 0, 2, 4, 5, 6, 7, 8
STRING, LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = 12, 13, 14, 15, 16, 17, 18, 19, 20, 21

# This process's memory as 64-bit words. Reading one this way costs 20 ns; through a ctypes object made for the purpose it
# costs ten times that, and a host call reads a handful.
WORDS = MEMORY.cast("Q")


class c_uint32(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: N801  # C's own name
    """`uint32_t`, which only components need."""

    _type_ = "I"


_new_bytes = capi.bind("wasm_byte_vec_new", None, capi.P, capi.N, capi.S, quick=True)
_new_list = capi.bind("wasmtime_component_vallist_new_uninit", None, capi.P, capi.N, quick=True)
_new_record = capi.bind("wasmtime_component_valrecord_new_uninit", None, capi.P, capi.N, quick=True)
_new_tuple = capi.bind("wasmtime_component_valtuple_new_uninit", None, capi.P, capi.N, quick=True)
_new_flags = capi.bind("wasmtime_component_valflags_new_uninit", None, capi.P, capi.N, quick=True)
# Moves a value to memory of the engine's and leaves `false` behind, so that a payload can be built where its owner goes.
_new_val = capi.bind("wasmtime_component_val_new", capi.P, capi.P, quick=True)


class Err(Exception):  # noqa: N818  # the name of the case in WIT
    """Raised by a host function to return the error case of its result.

    Args:
        value: what the error codec encodes; None for an error without payload.
    """

    def __init__(self, value: Any = None) -> None:
        super().__init__(value)
        self.value = value


class ForeignTypeError(Exception):
    """A component sent a value of another type than WASI declares."""


class Codec:
    """How one WIT type crosses."""

    __slots__ = ()

    def decode(self, keep: Keep, at: int) -> Any:
        """Return the Python value of the argument at word index `at`, which stays the engine's.

        Raises:
            ForeignTypeError: the value there is of another type.
        """
        raise NotImplementedError

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        """Write a value at word index `at`, where a `false` of the engine's is now."""
        raise NotImplementedError


def _expect(at: int, kind: int) -> None:
    found = WORDS[at] & 0xFF
    if found != kind:
        raise ForeignTypeError(f"found a value of kind {found}, want {kind}")


def _text(at: int) -> bytes:
    size, data = WORDS[at], WORDS[at + 1]
    return MEMORY[data : data + size].tobytes()


class _Bool(Codec):
    __slots__ = ()

    def decode(self, keep: Keep, at: int) -> bool:
        if WORDS[at] & 0xFF:
            _expect(at, BOOL)
        return WORDS[at + 1] & 0xFF != 0

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        WORDS[at] = BOOL
        WORDS[at + 1] = 1 if value else 0


class _Unsigned(Codec):
    __slots__ = ("kind", "mask")

    def __init__(self, kind: int, bits: int) -> None:
        self.kind = kind
        self.mask = (1 << bits) - 1

    def decode(self, keep: Keep, at: int) -> int:
        if WORDS[at] & 0xFF != self.kind:
            _expect(at, self.kind)
        return WORDS[at + 1] & self.mask

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        if value > self.mask:
            raise ValueError(value)
        WORDS[at + 1] = value
        WORDS[at] = self.kind


class _Signed(Codec):
    __slots__ = ("half", "kind")

    def __init__(self, kind: int, bits: int) -> None:
        self.kind = kind
        self.half = 1 << (bits - 1)

    def decode(self, keep: Keep, at: int) -> int:
        _expect(at, self.kind)
        low = WORDS[at + 1] & (2 * self.half - 1)
        return low - 2 * self.half if low >= self.half else low

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        if not -self.half <= value < self.half:
            raise ValueError(value)
        WORDS[at + 1] = value & (2 * self.half - 1)
        WORDS[at] = self.kind


class _String(Codec):
    __slots__ = ()

    def decode(self, keep: Keep, at: int) -> str:
        if WORDS[at] & 0xFF != STRING:
            _expect(at, STRING)
        return _text(at + 1).decode()

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        data = value.encode()
        _new_bytes((at + 1) << 3, len(data), data)
        WORDS[at] = STRING


# 4096 encoded u8 values, whose payload bytes are filled in by one strided copy.
_TEMPLATE_COUNT = 4096
_TEMPLATE = bytes([U8_KIND, *bytes(SIZEOF_VAL - 1)]) * _TEMPLATE_COUNT


class _Bytes(Codec):
    __slots__ = ()

    def decode(self, keep: Keep, at: int) -> bytes:
        if WORDS[at] & 0xFF != LIST:
            _expect(at, LIST)
        size = WORDS[at + 1]
        if not size:
            return b""
        data = WORDS[at + 2]
        # One look is enough: the elements of a list are all of its one type.
        if WORDS[data >> 3] & 0xFF != U8_KIND:
            _expect(data >> 3, U8_KIND)
        return MEMORY[data + 8 : data + SIZEOF_VAL * size : SIZEOF_VAL].tobytes()

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        size = len(value)
        _new_list((at + 1) << 3, size)
        WORDS[at] = LIST
        if not size:
            return
        data = WORDS[at + 2]
        end = data + SIZEOF_VAL * size
        start = data
        while start < end:
            some = min(end - start, SIZEOF_VAL * _TEMPLATE_COUNT)
            MEMORY[start : start + some] = _TEMPLATE[:some] if some < len(_TEMPLATE) else _TEMPLATE
            start += some
        MEMORY[data + 8 : end : SIZEOF_VAL] = value


Bool = _Bool()
U8 = _Unsigned(U8_KIND, 8)
U16 = _Unsigned(U16_KIND, 16)
U32 = _Unsigned(U32_KIND, 32)
U64 = _Unsigned(U64_KIND, 64)
S32 = _Signed(S32_KIND, 32)
S64 = _Signed(S64_KIND, 64)
String = _String()
Bytes = _Bytes()


class ListOf(Codec):
    """A list of anything but u8; see `Bytes`."""

    __slots__ = ("element",)

    def __init__(self, element: Codec) -> None:
        self.element = element

    def decode(self, keep: Keep, at: int) -> list[Any]:
        _expect(at, LIST)
        size, first = WORDS[at + 1], WORDS[at + 2] >> 3
        decode = self.element.decode
        return [decode(keep, item) for item in range(first, first + WORDS_PER_VAL * size, WORDS_PER_VAL)]

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        _new_list((at + 1) << 3, len(value))
        WORDS[at] = LIST
        item = WORDS[at + 2] >> 3
        encode = self.element.encode
        for element in value:
            encode(keep, item, element)
            item += WORDS_PER_VAL


class Option(Codec):
    """None, or a value."""

    __slots__ = ("some",)

    def __init__(self, some: Codec) -> None:
        self.some = some

    def decode(self, keep: Keep, at: int) -> Any:
        _expect(at, OPTION)
        payload = WORDS[at + 1]
        return self.some.decode(keep, payload >> 3) if payload else None

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        payload = 0
        if value is not None:
            self.some.encode(keep, at, value)
            payload = _new_val(at << 3)
        WORDS[at + 1] = payload
        WORDS[at] = OPTION


class Result(Codec):
    """`result<ok, err>`, where None is a case without payload.

    A host function returns the payload of `ok` and raises `Err` with that of `err`. As an argument it is
    `(is_ok, payload)`.
    """

    __slots__ = ("err", "ok")

    def __init__(self, ok: Codec | None, err: Codec | None) -> None:
        self.ok = ok
        self.err = err

    def decode(self, keep: Keep, at: int) -> tuple[bool, Any]:
        _expect(at, RESULT)
        is_ok = WORDS[at + 1] & 0xFF != 0
        payload = WORDS[at + 2]
        codec = self.ok if is_ok else self.err
        if (codec is None) != (payload == 0):
            raise ForeignTypeError("found a result with another payload than declared")
        return is_ok, None if codec is None else codec.decode(keep, payload >> 3)

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        payload = 0
        ok = self.ok
        if ok is not None:
            ok.encode(keep, at, value)
            payload = _new_val(at << 3)
        words = WORDS
        words[at + 1] = 1
        words[at + 2] = payload
        words[at] = RESULT

    def encode_err(self, keep: Keep, at: int, value: Any) -> None:
        """Write the error case."""
        payload = 0
        if self.err is not None:
            self.err.encode(keep, at, value)
            payload = _new_val(at << 3)
        WORDS[at + 1] = 0
        WORDS[at + 2] = payload
        WORDS[at] = RESULT


class Tuple(Codec):
    """A tuple; in Python too."""

    __slots__ = ("elements",)

    def __init__(self, *elements: Codec) -> None:
        self.elements = elements

    def decode(self, keep: Keep, at: int) -> tuple[Any, ...]:
        _expect(at, TUPLE)
        if WORDS[at + 1] != len(self.elements):
            raise ForeignTypeError(f"found a tuple of {WORDS[at + 1]}, want {len(self.elements)}")
        item = WORDS[at + 2] >> 3
        values = []
        for codec in self.elements:
            values.append(codec.decode(keep, item))
            item += WORDS_PER_VAL
        return tuple(values)

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        _new_tuple((at + 1) << 3, len(self.elements))
        WORDS[at] = TUPLE
        item = WORDS[at + 2] >> 3
        for codec, element in zip(self.elements, value, strict=True):
            codec.encode(keep, item, element)
            item += WORDS_PER_VAL


class Record(Codec):
    """A record; in Python a tuple of the fields in declared order.

    Args:
        fields: WIT names, `-` written as in WIT: `Record(("link-count", U64), ...)`.
    """

    __slots__ = ("fields",)

    def __init__(self, *fields: tuple[str, Codec]) -> None:
        self.fields = tuple((name.encode(), codec) for name, codec in fields)

    def decode(self, keep: Keep, at: int) -> tuple[Any, ...]:
        _expect(at, RECORD)
        if WORDS[at + 1] != len(self.fields):
            raise ForeignTypeError(f"found a record of {WORDS[at + 1]} fields, want {len(self.fields)}")
        entry = WORDS[at + 2] >> 3
        values = []
        for name, codec in self.fields:
            if _text(entry) != name:
                raise ForeignTypeError(f"found a record without the field {name.decode()}")
            values.append(codec.decode(keep, entry + WORDS_PER_NAME))
            entry += WORDS_PER_ENTRY
        return tuple(values)

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        _new_record((at + 1) << 3, len(self.fields))
        WORDS[at] = RECORD
        entry = WORDS[at + 2] >> 3
        for (name, codec), element in zip(self.fields, value, strict=True):
            _new_bytes(entry << 3, len(name), name)
            codec.encode(keep, entry + WORDS_PER_NAME, element)
            entry += WORDS_PER_ENTRY


class Variant(Codec):
    """A variant; in Python `(case, payload)`, the payload None where the case has none.

    Args:
        cases: WIT names with the codec of their payload or None: `Variant(("closed", None), ...)`.
    """

    __slots__ = ("cases",)

    def __init__(self, *cases: tuple[str, Codec | None]) -> None:
        self.cases = dict(cases)

    def decode(self, keep: Keep, at: int) -> tuple[str, Any]:
        _expect(at, VARIANT)
        case = _text(at + 1).decode()
        payload = WORDS[at + 3]
        if case not in self.cases:
            raise ForeignTypeError(f"found the case {case}, want one of {', '.join(self.cases)}")
        codec = self.cases[case]
        if (codec is None) != (payload == 0):
            raise ForeignTypeError(f"found the case {case} with another payload than declared")
        return case, None if codec is None else codec.decode(keep, payload >> 3)

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        case, content = value
        codec = self.cases[case]
        payload = 0
        if codec is not None:
            codec.encode(keep, at, content)
            payload = _new_val(at << 3)
        name = case.encode()
        _new_bytes((at + 1) << 3, len(name), name)
        WORDS[at + 3] = payload
        WORDS[at] = VARIANT


class Enum(Codec):
    """An enum; in Python the name of the case."""

    __slots__ = ("cases",)

    def __init__(self, *cases: str) -> None:
        self.cases = {case: case.encode() for case in cases}

    def decode(self, keep: Keep, at: int) -> str:
        _expect(at, ENUM)
        case = _text(at + 1).decode()
        if case not in self.cases:
            raise ForeignTypeError(f"found the case {case}, want one of {', '.join(self.cases)}")
        return case

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        name = self.cases[value]
        _new_bytes((at + 1) << 3, len(name), name)
        WORDS[at] = ENUM


class Flags(Codec):
    """Flags; in Python the frozenset of the names that are set."""

    __slots__ = ("names",)

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def decode(self, keep: Keep, at: int) -> frozenset[str]:
        _expect(at, FLAGS)
        size, first = WORDS[at + 1], WORDS[at + 2] >> 3
        names = frozenset(_text(item).decode() for item in range(first, first + WORDS_PER_NAME * size, WORDS_PER_NAME))
        if not names <= self.names:
            raise ForeignTypeError(f"found the flags {', '.join(sorted(names - self.names))}")
        return names

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        names = self.names & value
        _new_flags((at + 1) << 3, len(names))
        WORDS[at] = FLAGS
        item = WORDS[at + 2] >> 3
        for name in names:
            data = name.encode()
            _new_bytes(item << 3, len(data), data)
            item += WORDS_PER_NAME
