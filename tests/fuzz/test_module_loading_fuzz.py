# SPDX-License-Identifier: Apache-2.0
"""Any bytes are a module, a component or a DecodeError; never a dead process, never one that does not end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import wasmtime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.child import Child

SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000")) // 4
WORKER = Path(__file__).with_name("loading_worker.py")
TOP = Path(__file__).parents[2]
ANSWER_S = 60
MAGIC = b"\0asm\1\0\0\0"

TEXTS = [
    b'(module (import "wasi_snapshot_preview1" "proc_exit" (func $e (param i32))) (memory (export "memory") 1 2)'
    b' (table 4 funcref) (global (mut i32) (i32.const 7)) (elem (i32.const 0) func $f) (data (i32.const 8) "text")'
    b" (func $f (param i32 i64) (result i32) (local f64) (block (loop (br_if 1 (local.get 0)))) (i32.const 1))"
    b' (func $s) (start $s) (func (export "_start") (call $e (i32.const 3))))',
    b"(module (type $p (struct (field i32) (field (ref null eq)))) (tag $t (param i32))"
    b' (func (export "_start") (drop (struct.new $p (i32.const 1) (ref.null eq)))'
    b" (block $h (result i32) (try_table (catch $t $h) (throw $t (i32.const 1))) (i32.const 2)) drop)"
    b" (func (result v128) (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (v128.const i64x2 1 2) (v128.const i64x2 3 4))))",
    b'(component (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32) (result i32) i32.const 0)'
    b' (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)) (core instance $i (instantiate $m))'
    b' (func (export "f") (param "s" string) (result u32)'
    b' (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))',
    (TOP / "src/enarx/runtime/preview1/trampoline.wat").read_bytes(),
]
SEEDS = [bytes(wasmtime.wat2wasm(text)) for text in TEXTS]


def number(data, at):
    """Read an unsigned LEB128 number; return it and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def sections(data):
    """Split a binary after its header into its sections."""
    found, at = [], 8
    while at < len(data):
        length, start = number(data, at + 1)
        found.append(data[at : start + length])
        at = start + length
    return found


@st.composite
def damaged(draw):
    """Draw a real binary or text with some of its bytes, spans or sections changed."""
    data = draw(st.sampled_from([*SEEDS, *TEXTS]))
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.integers(0, 5))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 16))
        if how == 0 and data:
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif how == 1:
            data = data[:at]
        elif how == 2:
            data = data[:at] + draw(st.binary(max_size=8)) + data[at + length :]
        elif how == 3:
            other = draw(st.sampled_from(SEEDS))
            start = draw(st.integers(0, len(other)))
            data = data[:at] + other[start : start + 4 * length] + data[at:]
        elif how == 4:
            # Counts and sizes are what a hostile module lies about.
            data = (
                data[:at]
                + draw(st.sampled_from([b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08", b"\x80" * 12]))
                + data[at + 1 :]
            )
        else:
            data = data[:at] + data[at : at + length] * draw(st.integers(0, 50)) + data[at + length :]
    return data


@st.composite
def shuffled(draw):
    """Draw a binary with its sections in another order, missing or repeated."""
    seed = draw(st.sampled_from(SEEDS))
    parts = sections(seed)
    chosen = draw(st.lists(st.sampled_from(parts), max_size=len(parts) + 2))
    return seed[:8] + b"".join(chosen)


files = st.tuples(
    st.sampled_from(["a.wasm", "a.wat", "a"]),
    st.one_of(
        damaged(),
        damaged(),
        shuffled(),
        st.binary(max_size=64),
        st.binary(max_size=64).map(MAGIC.__add__),
        st.text().map(str.encode),
    ),
)


class Worker(Child):
    """A process that loads files."""

    def __init__(self) -> None:
        super().__init__(WORKER, answer_s=ANSWER_S)

    def answer(self, name, data):
        return self.ask([name, data.hex()], f": {name}: {data[:2000].hex()}")


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.stop()


@pytest.mark.parametrize("data", [*SEEDS, *TEXTS])
def test_the_undamaged_ones_load(worker, data):
    assert worker.answer("a.wasm", data) in {"module", "component"}


def test_the_sections_of_the_undamaged_ones_are_all_there():
    for seed in SEEDS:
        assert seed[:8] + b"".join(sections(seed)) == seed


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(files)
def test_any_bytes_load_or_are_refused(worker, file):
    assert worker.answer(*file) in {"module", "component", "refused"}


@pytest.mark.soak
@settings(max_examples=SOAK_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(files)
def test_any_bytes_load_or_are_refused_at_length(worker, file):
    assert worker.answer(*file) in {"module", "component", "refused"}


def leb(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def section(kind, body):
    return bytes([kind]) + leb(len(body)) + body


HOSTILE = {
    "many types": MAGIC + section(1, leb(1_000_000) + b"\x60\0\0" * 1_000_000),
    "more types than there are": MAGIC + section(1, leb((1 << 32) - 1)),
    "many locals": MAGIC
    + section(1, b"\1\x60\0\0")
    + section(3, b"\1\0")
    + section(10, b"\1" + leb(8) + b"\1" + leb((1 << 32) - 1) + b"\x7f\x0b"),
    "deep blocks": MAGIC
    + section(1, b"\1\x60\0\0")
    + section(3, b"\1\0")
    + section(10, b"\1" + leb(200_002) + b"\0" + b"\2\x40" * 50_000 + b"\x0b" * 50_000 + b"\1" * 50_000 + b"\x0b"),
    "a large table": b"(module (table 4294967295 funcref))",
    "a large memory": b"(module (memory 65536))",
    "too large a memory": b"(module (memory 65537))",
    "deep text": b"(module " + b"(func " * 100_000,
    "a long name": b'(module (import "' + b"a" * 200_000 + b'" "b" (func)))',
    "many functions": b"(module " + b"(func)" * 20_000 + b")",
    "deep components": b"(component " * 5000 + b")" * 5000,
    "a long comment": b"(; " * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_was_made_to_hurt_is_answered(worker, name):
    assert worker.answer("hostile.wasm", HOSTILE[name]) in {"module", "component", "refused"}
