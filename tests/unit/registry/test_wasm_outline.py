# SPDX-License-Identifier: Apache-2.0
"""Imports and exports, read without an engine: what the engine says they are."""

from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.registry.reading import PieceReader
from enarx.registry.wasm_outline import Outline, outline_untrusted, read_outline_untrusted
from tests.unit.registry.layouts import COMPONENT, IMPORTING, MODULE

RICH = """
(module
  (type $t (func (param i32) (result i64)))
  (import "a" "function" (func (type $t)))
  (import "a" "table" (table 1 2 funcref))
  (import "a" "memory" (memory 1))
  (import "b" "global" (global (mut i32)))
  (import "b" "external" (table 0 externref))
  (import "b" "tag" (tag (param i32)))
  (func (export "f") (param i32) (result i64) (i64.const 0))
  (global (export "g") i32 (i32.const 7))
  (data "padding")
)
"""
INSTANCES = """
(component
  (import "wasi:io/poll@0.2.0" (instance (export "pollable" (type (sub resource)))))
  (import "plain" (func))
  (import "module" (core module))
  (import "kind" (type (sub resource)))
  (component $inner (import "hidden" (func)) (export "hidden" (func 0)))
  (instance $i (instantiate $inner (with "hidden" (func 0))))
  (export "wasi:cli/run@0.2.0" (instance $i))
  (export "again" (func 0))
)
"""


def test_a_modules_names_are_the_engines():
    binary = bytes(wasmtime.wat2wasm(RICH))
    module = wasmtime.Module(wasmtime.Engine(), binary)
    found = read_outline_untrusted(binary)
    assert found.imports == tuple(f"{each.module}::{each.name}" for each in module.imports)
    assert found.exports == tuple(each.name for each in module.exports)
    assert not found.is_component
    assert len(found.imports) == 6


def test_a_components_names_are_those_of_its_outside():
    found = read_outline_untrusted(bytes(wasmtime.wat2wasm(INSTANCES)))
    assert found == Outline(
        is_component=True,
        imports=("wasi:io/poll@0.2.0", "plain", "module", "kind"),
        exports=("wasi:cli/run@0.2.0", "again"),
    )


@pytest.mark.parametrize("name", ["hello", "component/hello_cmd"])
def test_real_programs_are_read(guest, name):
    found = read_outline_untrusted(guest(name).read_bytes())
    assert found.is_component == (name != "hello")
    if found.is_component:
        assert any(each.startswith("wasi:cli/stdout@0.2") for each in found.imports)
        assert any(each.startswith("wasi:cli/run@0.2") for each in found.exports)
    else:
        assert "wasi_snapshot_preview1::fd_write" in found.imports
        assert "_start" in found.exports


def test_small_ones_are_read_from_pieces():
    for binary in (MODULE, IMPORTING, COMPONENT):
        pieces = PieceReader(binary[at : at + 1] for at in range(len(binary)))
        assert outline_untrusted(pieces, "x") == read_outline_untrusted(binary)
    assert read_outline_untrusted(IMPORTING).imports == ("wasi_snapshot_preview1::fd_write", "env::memory")
    assert read_outline_untrusted(COMPONENT).exports == ("wasi:cli/run@0.2.0",)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "found no WebAssembly"),
        (b"\x7fELF" + bytes(20), "found no WebAssembly"),
        (b" (module)", "found WebAssembly text"),
        (MODULE[:4] + b"\x02\0\0\0", "found no WebAssembly"),
        (MODULE + b"\x02", "not well formed"),
        (MODULE + b"\x02\x05\x01", "not well formed"),
        (MODULE + b"\x00\x05\x01", "not well formed"),
        (MODULE + b"\x02\x02\x7f\x00", "not well formed"),
        (MODULE + b"\x02\x02\x00\x00", "not well formed"),
        (MODULE + b"\x02\xff\xff\xff\xff\x0f", "a section of 4294967295 bytes"),
        (MODULE + b"\x02\xff\xff\xff\xff\xff\xff", "not well formed"),
        (MODULE + b"\x02\x08\x01\x01\xff\x01a\x00\x00\x00", "no UTF-8"),
        (MODULE + b"\x02\x07\x01\x01a\x01b\x09\x00", "not well formed"),
        (IMPORTING[:-1], "not well formed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_binary_is_refused(data, word):
    with pytest.raises(DecodeError, match=word):
        read_outline_untrusted(data)


def test_there_is_a_limit_of_names():
    names = b"".join(b"\x03%03d\x00\x00" % (number % 1000) for number in range(10))
    section = b"\x0a" + names
    assert len(read_outline_untrusted(MODULE + b"\x07" + bytes([len(section)]) + section).exports) == 10
    many = 20001
    names = b"".join(b"\x05%05d\x00\x00" % number for number in range(many))
    section = leb(many) + names
    with pytest.raises(DecodeError, match="not well formed"):
        read_outline_untrusted(MODULE + b"\x07" + leb(len(section)) + section)


def leb(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@given(st.data())
def test_any_changed_byte_is_read_or_refused(data):
    changed = bytearray(data.draw(st.sampled_from([IMPORTING, COMPONENT])))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_outline_untrusted(bytes(changed))
    except DecodeError:
        return
    assert len(found.imports) + len(found.exports) <= 3


def _imports(*names: bytes, count: int = 1) -> bytes:
    """Return a section of imports, of each name so often."""
    entries = b"".join((b"\0" + _leb(len(name)) + name + b"\0\0") * count for name in names)
    body = _leb(len(names) * count) + entries
    return b"\x02" + _leb(len(body)) + body


def _leb(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21])


def test_the_same_name_is_not_read_for_ever():
    section = _imports(b"a", count=50_000)
    assert read_outline_untrusted(MODULE + section * 4).imports == ("::a",)
    with pytest.raises(DecodeError, match="found 250000 imports and exports, want at most 200000"):
        read_outline_untrusted(MODULE + section * 5)


def test_names_over_the_limit_are_not_collected_first():
    def pieces():
        yield MODULE
        yield _imports(bytes(600_000))
        yield _imports(bytes(600_001))
        raise AssertionError("read on")

    with pytest.raises(DecodeError, match="found names of more than 1048576 characters"):
        outline_untrusted(PieceReader(pieces()), "x")
