# SPDX-License-Identifier: Apache-2.0
"""Codecs, both ways, on values that the engine itself allocates and frees."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import _ffi as ffi

from enarx.runtime import capi
from enarx.runtime.component import values
from enarx.runtime.component.values import (
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    WORDS,
    Bool,
    Bytes,
    Enum,
    Err,
    Flags,
    ForeignTypeError,
    ListOf,
    Option,
    Record,
    Result,
    String,
    Tuple,
    Variant,
)

delete = capi.bind("wasmtime_component_val_delete", None, capi.P)
KEEP = None

texts = st.text(st.characters(exclude_categories=["Cs"]))
POINT = Record(("x", U32), ("y", Option(String)))
SHAPE = Variant(("none", None), ("dot", POINT), ("blob", Bytes), ("line", ListOf(POINT)))
CASES = {
    "bool": (Bool, st.booleans()),
    "u8": (U8, st.integers(0, 2**8 - 1)),
    "u16": (U16, st.integers(0, 2**16 - 1)),
    "u32": (U32, st.integers(0, 2**32 - 1)),
    "u64": (U64, st.integers(0, 2**64 - 1)),
    "s32": (S32, st.integers(-(2**31), 2**31 - 1)),
    "s64": (S64, st.integers(-(2**63), 2**63 - 1)),
    "string": (String, texts),
    "bytes": (Bytes, st.binary(max_size=10000)),
    "list": (ListOf(String), st.lists(texts)),
    "tuple": (Tuple(U8, String, Bytes), st.tuples(st.integers(0, 255), texts, st.binary())),
    "option": (Option(Bytes), st.none() | st.binary()),
    "enum": (Enum("a", "b-c"), st.sampled_from(["a", "b-c"])),
    "flags": (Flags("read", "write", "sync"), st.frozensets(st.sampled_from(["read", "write", "sync"]))),
    "variant": (
        SHAPE,
        st.just(("none", None))
        | st.tuples(st.just("blob"), st.binary())
        | st.tuples(st.just("dot"), st.tuples(st.integers(0, 9), st.none() | texts))
        | st.tuples(st.just("line"), st.lists(st.tuples(st.integers(0, 9), st.none() | texts))),
    ),
}


class Slot:
    """One value, `false` as the engine makes it."""

    def __enter__(self) -> int:
        self.buffer = capi.buffer(values.SIZEOF_VAL)
        return capi.address(self.buffer) >> 3

    def __exit__(self, *_exception) -> None:
        delete(capi.address(self.buffer))


def round_trip(codec, value):
    with Slot() as at:
        codec.encode(KEEP, at, value)
        return codec.decode(KEEP, at)


def test_knows_the_layout_of_the_engine():
    assert ctypes.sizeof(ffi.wasmtime_component_val_t) == values.SIZEOF_VAL == 8 * values.WORDS_PER_VAL
    assert ffi.wasmtime_component_val_t.of.offset == 8
    assert ctypes.sizeof(ffi.wasmtime_component_valrecord_entry_t) == values.SIZEOF_RECORD_ENTRY
    assert ffi.wasmtime_component_valrecord_entry_t.val.offset == 8 * values.WORDS_PER_NAME
    assert ffi.wasmtime_component_valvariant_t.val.offset == 16
    assert ffi.wasmtime_component_valresult_t.val.offset == 8


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BOOL", values.BOOL),
        ("U8", values.U8_KIND),
        ("U16", values.U16_KIND),
        ("S32", values.S32_KIND),
        ("U32", values.U32_KIND),
        ("S64", values.S64_KIND),
        ("U64", values.U64_KIND),
        ("STRING", values.STRING),
        ("LIST", values.LIST),
        ("RECORD", values.RECORD),
        ("TUPLE", values.TUPLE),
        ("VARIANT", values.VARIANT),
        ("ENUM", values.ENUM),
        ("OPTION", values.OPTION),
        ("RESULT", values.RESULT),
        ("FLAGS", values.FLAGS),
        ("RESOURCE", values.RESOURCE),
    ],
)
def test_knows_the_kinds_of_the_engine(name, kind):
    assert getattr(ffi, f"WASMTIME_COMPONENT_{name}").value == kind


@pytest.mark.parametrize("name", CASES)
def test_decodes_what_it_encodes(name):
    codec, strategy = CASES[name]

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(strategy)
    def check(value):
        assert round_trip(codec, value) == value

    check()


@pytest.mark.parametrize("codec", [codec for codec, _ in CASES.values()])
@pytest.mark.parametrize("other", CASES)
def test_refuses_a_value_of_another_kind(codec, other):
    other_codec, strategy = CASES[other]
    if codec is other_codec:
        return

    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(strategy)
    def check(value):
        with Slot() as at:
            other_codec.encode(KEEP, at, value)
            if isinstance(codec, ListOf) and other == "bytes" and not value:
                assert codec.decode(KEEP, at) == []
            elif codec is Bytes and other == "list" and not value:
                assert codec.decode(KEEP, at) == b""
            else:
                with pytest.raises(ForeignTypeError):
                    codec.decode(KEEP, at)

    check()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 << 16, (1 << 16) + 1])
def test_encodes_bytes_of_any_length(size):
    data = bytes(index * 7 & 0xFF for index in range(size))
    assert round_trip(Bytes, data) == data


def test_result_is_ok_with_its_payload():
    assert round_trip(Result(Bytes, Enum("a")), b"x") == (True, b"x")
    assert round_trip(Result(None, None), None) == (True, None)


def test_result_is_an_error_with_its_payload():
    for codec, value in ((Result(Bytes, Enum("a")), "a"), (Result(Bytes, None), None)):
        with Slot() as at:
            codec.encode_err(KEEP, at, value)
            assert codec.decode(KEEP, at) == (False, value)


def test_err_has_no_payload_unless_given():
    assert Err().value is None
    assert Err("access").value == "access"


@pytest.mark.parametrize(
    ("sent", "declared"),
    [
        (Enum("a", "x"), Enum("a", "b")),
        (Flags("a", "x"), Flags("a", "b")),
        (Variant(("x", None)), Variant(("a", None))),
        (Variant(("x", U8)), Variant(("x", None))),
        (Variant(("x", None)), Variant(("x", U8))),
        (Record(("x", U8)), Record(("a", U8))),
        (Record(("x", U8)), Record(("x", U8), ("y", U8))),
        (Record(("x", U8)), Record(("x", String))),
        (Tuple(U8, U8), Tuple(U8)),
        (Tuple(U8), Tuple(String)),
        (Option(U8), Option(String)),
        (Result(None, U8), Result(None, None)),
        (Result(None, None), Result(U8, None)),
        (Result(U8, None), Result(None, None)),
        (ListOf(U64), Bytes),
        (Bytes, ListOf(U64)),
    ],
)
def test_refuses_what_is_not_declared(sent, declared):
    value = {
        Enum: "x",
        Flags: frozenset("x"),
        Variant: ("x", 1),
        Record: (1,),
        Tuple: (1, 1),
        Option: 1,
        Result: 1,
        ListOf: [1],
        type(Bytes): b"x",
    }[type(sent)]
    if isinstance(sent, Tuple):
        value = value[: len(sent.elements)]
    with Slot() as at:
        if isinstance(sent, Result) and sent.err is not None:
            sent.encode_err(KEEP, at, value)
        else:
            sent.encode(KEEP, at, value)
        with pytest.raises(ForeignTypeError):
            declared.decode(KEEP, at)


@pytest.mark.parametrize(("codec", "value"), [(U8, 256), (U64, 2**64), (U8, -1), (S32, 2**31), (S64, -(2**63) - 1)])
def test_does_not_cut_an_integer(codec, value):
    with Slot() as at, pytest.raises(ValueError):
        codec.encode(KEEP, at, value)


def test_building_a_payload_leaves_nothing_behind():
    with Slot() as at:
        Option(String).encode(KEEP, at, "x" * 100)
        assert WORDS[at] & 0xFF == values.OPTION
