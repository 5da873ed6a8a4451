# SPDX-License-Identifier: Apache-2.0
"""Linking, host functions and resources, told by components that behave and components that do not."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from wasmtime import _bindings
from wasmtime import _ffi as ffi

from enarx.errors import DecodeError, KeepError
from enarx.runtime import capi, compiling
from enarx.runtime.component import binding, find_interface, values
from enarx.runtime.component.binding import Borrow, Exit, Interface, Keep, Own, Trap, Trapped, split_version
from enarx.runtime.component.values import U32, Bytes, Enum, Err, ListOf, Result, String
from enarx.runtime.engine import make_engine
from enarx.runtime.workload import Limits

from .conftest import component_text, make_workload

RUN = "wasi:cli/run@0.2.0"


class Thing:
    """A resource that remembers how often it was dropped."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.drops = 0

    def drop(self) -> None:
        self.drops += 1


class Bench:
    """An interface of all shapes, and what the guest did with it."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.things: list[Thing] = []
        interface = self.interface = Interface("wasi:test/bench")
        thing = self.kind = interface.resource("thing")
        other = self.other = interface.resource("other")

        @interface.func("note", (U32,))
        def note(_keep, number):
            self.seen.append(number)

        @interface.func("text", (String,), String)
        def text(_keep, value):
            self.seen.append(value)
            return value.upper()

        @interface.func("bytes", (Bytes, U32), Bytes)
        def data(_keep, value, count):
            return value * count

        @interface.func("fallible", (U32,), Result(U32, Enum("odd", "other")))
        def fallible(_keep, number):
            if number % 2:
                raise Err("odd")
            return number

        @interface.func("bug")
        def bug(_keep):
            raise ZeroDivisionError

        @interface.func("infallible-err")
        def infallible_err(_keep):
            raise Err("odd")

        @interface.func("trap")
        def trap(_keep):
            raise Trap("found a \0 rule broken, want none")

        @interface.func("exit", (U32,))
        def leave(_keep, status):
            raise Exit(status)

        @interface.func("[constructor]thing", (U32,), Own(thing))
        def construct(_keep, number):
            self.things.append(Thing(number))
            return self.things[-1]

        @interface.func("[method]thing.get", (Borrow(thing),), U32)
        def get(_keep, value):
            return value.number

        @interface.func("consume", (Own(thing),))
        def consume(_keep, value):
            self.seen.append(value.number)

        @interface.func("sum", (ListOf(Borrow(thing)),), U32)
        def total(_keep, values):
            return sum(value.number for value in values)

        @interface.func("make-other", (), Own(other))
        def make_other(_keep):
            return Thing(99)

    def find(self, name: str):
        return self.interface if name == "wasi:test/bench" else find_interface(name)


@pytest.fixture
def bench():
    return Bench()


def run(runner, bench, text, *, limits=None, engine=None):
    linker = runner.link(text, bench.find)
    keep = Keep(engine or runner.engine, make_workload(limits=limits))
    try:
        return linker.instantiate(keep).function(RUN, "run", (), Result(None, None))()
    finally:
        keep.close()
        linker.close()


def one_instance(exports: str, version: str = "0.2.0") -> str:
    return f'(import "wasi:test/bench@{version}" (instance $bench {exports}))'


THING = '(export "thing" (type $thing (sub resource)))'
THING_ALIAS = '(alias export $bench "thing" (type $thing))'
NEW = '(export "[constructor]thing" (func (param "n" u32) (result (own $thing))))'
GET = '(export "[method]thing.get" (func (param "self" (borrow $thing)) (result u32)))'
CONSUME = '(export "consume" (func (param "thing" (own $thing))))'
NOTE = '(export "note" (func (param "n" u32)))'


def lower(name: str) -> str:
    return f'$bench "{name}"'


def test_knows_the_layout_of_the_engine():
    assert ctypes.sizeof(ffi.wasmtime_component_item_t) == binding.SIZEOF_ITEM
    assert ffi.wasmtime_component_item_t.of.offset == 8
    assert ctypes.sizeof(ffi.wasmtime_component_instance_t) == binding.SIZEOF_COMPONENT_INSTANCE
    assert ctypes.sizeof(ffi.wasmtime_component_func_t) == binding.SIZEOF_COMPONENT_FUNC
    assert ffi.WASMTIME_COMPONENT_ITEM_COMPONENT_INSTANCE.value == binding._ITEM_INSTANCE
    assert ffi.WASMTIME_COMPONENT_ITEM_COMPONENT_FUNC.value == binding._ITEM_FUNC
    assert ffi.WASMTIME_COMPONENT_ITEM_RESOURCE.value == binding._ITEM_RESOURCE
    assert ffi.WASMTIME_COMPONENT_ITEM_TYPE.value == binding._ITEM_TYPE


def bound_functions():
    for module in (binding, values):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for ours, theirs in re.findall(r'^(\w+) = capi\.bind\(\s*"(\w+)"', source, re.MULTILINE):
            yield pytest.param(getattr(module, ours), theirs, id=theirs)


@pytest.mark.parametrize(("ours", "name"), list(bound_functions()))
def test_binds_each_function_as_the_package_does(ours, name):
    theirs = getattr(_bindings, f"_{name}")
    assert [ctypes.sizeof(kind) for kind in theirs.argtypes] == [ctypes.sizeof(kind) for kind in ours.argtypes]
    restype = ours.restype
    assert (restype and ctypes.sizeof(restype)) == (theirs.restype and ctypes.sizeof(theirs.restype))


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.12", "0.2.99"])
def test_links_every_release_of_0_2(runner, bench, version):
    text = component_text(
        one_instance(NOTE, version),
        [("note", lower("note"), "(param i32)")],
        '(func (export "run") (result i32) (call $note (i32.const 7)) (i32.const 0))',
    )
    assert run(runner, bench, text) == (True, None)
    assert bench.seen == [7]


def test_serves_two_releases_in_one_component(runner, bench):
    imports = (
        f'(import "wasi:test/bench@0.2.0" (instance $bench {THING} {NEW})) {THING_ALIAS}'
        f' (import "wasi:test/bench@0.2.5" (instance $later {NOTE}))'
    )
    text = component_text(
        imports,
        [
            ("new", lower("[constructor]thing"), "(param i32) (result i32)"),
            ("note", '$later "note"', "(param i32)"),
        ],
        '(func (export "run") (result i32) (call $note (call $new (i32.const 5))) (i32.const 0))',
    )
    assert run(runner, bench, text) == (True, None)
    assert len(bench.things) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wasi:test/bench@0.3.0", "WASI 0.3"),
        ("wasi:test/bench@0.3.0-rc-2025-09-16", "WASI 0.3"),
        ("wasi:test/bench@0.2.0-rc-2023-11-10", "preview"),
        ("wasi:test/bench", "preview"),
        ("wasi:test/nothing@0.2.0", "wasi:cli"),
        ("wasi:keyvalue/store@0.2.0", "wasi:cli"),
        ("acme:disk/format@1.0.0", "compose"),
    ],
)
def test_names_an_import_that_nobody_offers(runner, bench, name, hint):
    text = f'(component (import "{name}" (instance {NOTE})))'
    with pytest.raises(DecodeError) as caught:
        runner.link(text, bench.find)
    assert name in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '(component (import "launch" (func)))',
        '(component (import "wasi:test/bench@0.2.0" (func)))',
        '(component (import "wasi:test/bench@0.2.0" (instance (export "missing" (func)))))',
        '(component (import "wasi:test/bench@0.2.0" (instance (export "note" (type (sub resource))))))',
        '(component (import "wasi:test/bench@0.2.0" (instance (export "thing" (func)))))',
        '(component (import "wasi:test/bench@0.2.0" (instance (export "inner" (instance)))))',
        '(component (import "m" (core module)))',
    ],
)
def test_refuses_an_import_of_another_shape(runner, bench, text):
    with pytest.raises(DecodeError):
        runner.link(text, bench.find)


def test_strings_and_bytes_cross_both_ways(runner, bench):
    text = component_text(
        one_instance(
            '(export "text" (func (param "s" string) (result string)))'
            ' (export "bytes" (func (param "b" (list u8)) (param "n" u32) (result (list u8))))'
        ),
        [
            ("text", lower("text"), "(param i32 i32 i32)"),
            ("bytes", lower("bytes"), "(param i32 i32 i32 i32)"),
        ],
        """(data (i32.const 16) "h\\c3\\a9llo")
        (func (export "run") (result i32)
          (call $text (i32.const 16) (i32.const 6) (i32.const 64))
          (call $text (i32.load (i32.const 64)) (i32.load (i32.const 68)) (i32.const 64))
          (call $bytes (i32.const 16) (i32.const 1) (i32.const 3) (i32.const 64))
          (i32.and (i32.eq (i32.load (i32.const 68)) (i32.const 3))
            (i32.eq (i32.load8_u (i32.load (i32.const 64))) (i32.const 0x68)))
          (i32.eqz))""",
    )
    assert run(runner, bench, text) == (True, None)
    assert bench.seen == ["héllo", "HÉLLO"]


@pytest.mark.parametrize(("number", "is_ok"), [(4, True), (5, False)])
def test_an_err_is_the_error_case(runner, bench, number, is_ok):
    text = component_text(
        '(type $code (enum "odd" "other")) (import "wasi:test/bench@0.2.0" (instance $bench'
        ' (alias outer 1 $code (type $inner)) (export "code" (type $named (eq $inner)))'
        ' (export "fallible" (func (param "n" u32) (result (result u32 (error $named)))))))',
        [("fallible", lower("fallible"), "(param i32 i32)")],
        f"""(func (export "run") (result i32)
          (call $fallible (i32.const {number}) (i32.const 64)) (i32.load8_u (i32.const 64)))""",
    )
    assert run(runner, bench, text) == (is_ok, None)


@pytest.mark.parametrize(
    ("function", "error"), [("bug", ZeroDivisionError), ("infallible-err", Err), ("trap", Trapped)]
)
def test_what_a_host_function_raises_stops_the_guest_and_comes_out(runner, bench, function, error):
    text = component_text(
        one_instance(f'(export "{function}" (func)) {NOTE}'),
        [("f", lower(function), ""), ("note", lower("note"), "(param i32)")],
        '(func (export "run") (result i32) (call $f) (call $note (i32.const 1)) (i32.const 0))',
    )
    with pytest.raises(error) as caught:
        run(runner, bench, text)
    assert bench.seen == []
    if error is Trapped:
        assert "wasi:test/bench@0.2.0#trap: found a ? rule broken, want none" in str(caught.value)
        assert "wasm backtrace" in str(caught.value)


def test_a_guest_that_exits_is_no_trap(runner, bench):
    text = component_text(
        one_instance('(export "exit" (func (param "n" u32)))'),
        [("f", lower("exit"), "(param i32)")],
        '(func (export "run") (result i32) (call $f (i32.const 7)) (i32.const 0))',
    )
    with pytest.raises(Exit) as caught:
        run(runner, bench, text)
    assert caught.value.status == 7


def test_a_trap_names_the_function(runner, bench):
    text = component_text(
        one_instance(NOTE),
        [("note", lower("note"), "(param i32)")],
        '(func $inner_function unreachable) (func (export "run") (result i32) (call $inner_function) (i32.const 0))',
    )
    with pytest.raises(Trapped, match="inner_function"):
        run(runner, bench, text)


# --- Resources -------------------------------------------------------------------------------------------------------

RESOURCES = [
    ("new", lower("[constructor]thing"), "(param i32) (result i32)"),
    ("get", lower("[method]thing.get"), "(param i32) (result i32)"),
    ("consume", lower("consume"), "(param i32)"),
    ("note", lower("note"), "(param i32)"),
    ("drop", "drop $thing", "(param i32)"),
]


def resources(body: str) -> str:
    return component_text(one_instance(THING + NEW + GET + CONSUME + NOTE) + THING_ALIAS, RESOURCES, body)


def test_a_borrow_is_given_back(runner, bench):
    body = """(func (export "run") (result i32) (local $t i32) (local $i i32)
      (local.set $t (call $new (i32.const 5)))
      (loop $again
        (call $note (call $get (local.get $t)))
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))
      (call $drop (local.get $t)) (i32.const 0))"""
    assert run(runner, bench, resources(body)) == (True, None)
    assert bench.seen == [5] * 10
    assert bench.things[0].drops == 1


def test_what_the_guest_leaves_is_dropped_once_when_the_keep_closes(runner, bench):
    body = '(func (export "run") (result i32) (drop (call $new (i32.const 5))) (i32.const 0))'
    assert run(runner, bench, resources(body)) == (True, None)
    assert bench.things[0].drops == 1


def test_what_the_guest_gives_away_is_not_dropped(runner, bench):
    body = '(func (export "run") (result i32) (call $consume (call $new (i32.const 5))) (i32.const 0))'
    assert run(runner, bench, resources(body)) == (True, None)
    assert bench.seen == [5]
    assert bench.things[0].drops == 0


@pytest.mark.parametrize(
    "misuse",
    [
        "(call $drop (local.get $t)) (call $drop (local.get $t))",
        "(call $drop (local.get $t)) (drop (call $get (local.get $t)))",
        "(call $drop (local.get $t)) (call $consume (local.get $t))",
        "(call $consume (local.get $t)) (call $consume (local.get $t))",
        "(call $consume (local.get $t)) (drop (call $get (local.get $t)))",
        "(call $drop (i32.const 0))",
        "(drop (call $get (i32.const 77)))",
        "(drop (call $get (i32.const -1)))",
    ],
)
def test_a_stale_or_invented_handle_traps(runner, bench, misuse):
    body = f"""(func (export "run") (result i32) (local $t i32)
      (local.set $t (call $new (i32.const 5))) {misuse} (i32.const 0))"""
    with pytest.raises(Trapped):
        run(runner, bench, resources(body))
    assert bench.things[0].drops <= 1


def test_lists_of_borrows(runner, bench):
    text = component_text(
        one_instance(THING + NEW + '(export "sum" (func (param "l" (list (borrow $thing))) (result u32)))')
        + THING_ALIAS,
        [
            ("new", lower("[constructor]thing"), "(param i32) (result i32)"),
            ("sum", lower("sum"), "(param i32 i32) (result i32)"),
        ],
        """(func (export "run") (result i32)
          (i32.store (i32.const 16) (call $new (i32.const 5)))
          (i32.store (i32.const 20) (call $new (i32.const 6)))
          (i32.store (i32.const 24) (i32.load (i32.const 16)))
          (i32.ne (call $sum (i32.const 16) (i32.const 3)) (i32.const 16)))""",
    )
    assert run(runner, bench, text) == (True, None)


@pytest.mark.parametrize(
    ("declared", "core", "call"),
    [
        # A number where a string is expected, a string where a number is, and so on: none is taken for a pointer.
        (
            '(export "text" (func (param "s" u64) (result u32)))',
            "(param i64) (result i32)",
            "(drop (call $f (i64.const 64)))",
        ),
        ('(export "note" (func (param "n" string)))', "(param i32 i32)", "(call $f (i32.const 0) (i32.const 4))"),
        ('(export "note" (func (param "n" u64)))', "(param i64)", "(call $f (i64.const 4))"),
        ('(export "note" (func))', "", "(call $f)"),
        (
            '(export "note" (func (param "n" u32) (param "m" u32)))',
            "(param i32 i32)",
            "(call $f (i32.const 4) (i32.const 4))",
        ),
        (
            '(export "note" (func (param "n" u32) (result u32)))',
            "(param i32) (result i32)",
            "(drop (call $f (i32.const 4)))",
        ),
        (
            '(export "text" (func (param "s" string)))',
            "(param i32 i32)",
            "(call $f (i32.const 4) (i32.const 4))",
        ),
        (
            '(export "text" (func (param "s" string) (result u32)))',
            "(param i32 i32) (result i32)",
            "(drop (call $f (i32.const 4) (i32.const 4)))",
        ),
        (
            '(export "bytes" (func (param "b" (list u64)) (param "n" u32) (result u32)))',
            "(param i32 i32 i32) (result i32)",
            "(drop (call $f (i32.const 0) (i32.const 4) (i32.const 4)))",
        ),
        ('(export "consume" (func (param "t" u32)))', "(param i32)", "(call $f (i32.const 1))"),
        (
            '(export "sum" (func (param "t" (list u32)) (result u32)))',
            "(param i32 i32) (result i32)",
            "(drop (call $f (i32.const 0) (i32.const 4)))",
        ),
        (
            '(export "fallible" (func (param "n" u32) (result u32)))',
            "(param i32) (result i32)",
            "(drop (call $f (i32.const 4)))",
        ),
    ],
)
def test_a_component_that_lies_about_types_traps(runner, bench, declared, core, call):
    name = declared.split('"')[1]
    imports = one_instance(declared) if "thing" not in name else one_instance(THING + declared)
    text = component_text(
        imports, [("f", lower(name), core)], f'(func (export "run") (result i32) {call} (i32.const 0))'
    )
    with pytest.raises(Trapped, match="found"):
        run(runner, bench, text)


def test_a_handle_of_another_resource_traps(runner, bench):
    # What the host calls `get` of `thing` is declared to take an `other`.
    imports = (
        '(import "wasi:test/bench@0.2.0" (instance $bench (export "other" (type $other (sub resource)))'
        ' (export "make-other" (func (result (own $other))))'
        ' (export "consume" (func (param "t" (own $other))))'
        ' (export "sum" (func (param "l" (list (borrow $other))) (result u32)))))'
    )
    for name, core, call in (
        ("consume", "(param i32)", "(call $f (call $make))"),
        (
            "sum",
            "(param i32 i32) (result i32)",
            "(i32.store (i32.const 16) (call $make)) (drop (call $f (i32.const 16) (i32.const 1)))",
        ),
    ):
        text = component_text(
            imports,
            [("f", lower(name), core), ("make", lower("make-other"), "(result i32)")],
            f'(func (export "run") (result i32) {call} (i32.const 0))',
        )
        with pytest.raises(Trapped, match=r"no wasi:test/bench\.thing"):
            run(runner, bench, text)


def test_too_many_resources_trap(runner, bench):
    body = """(func (export "run") (result i32)
      (loop $again (drop (call $new (i32.const 5))) (br $again)) (i32.const 0))"""
    with pytest.raises(Trapped, match="handle limit"):
        run(runner, bench, resources(body))
    assert 10_000 < len(bench.things) < 1 << 20
    # The last one was refused on its way.
    assert {thing.drops for thing in bench.things} == {1}


def test_numbers_of_resources_are_not_used_again_and_wrap_around(bench, engine):
    keep = Keep(engine, make_workload())
    keep.next_rep = 2**32 - 2
    reps = [keep.insert(bench.kind, Thing(index)) for index in range(4)]
    assert len(set(reps)) == 4
    assert max(reps) < 2**32
    # What is given without a look whether it is taken, is given once.
    assert min(reps) >= binding._KEPT_HOSTS
    keep.next_rep = reps[0]
    assert keep.insert(bench.kind, Thing(9)) not in reps
    keep.close()


def test_a_representation_is_where_it_is_read(bench):
    ask = capi.bind("wasmtime_component_resource_host_rep", values.c_uint32, capi.P)
    for owned, rep in ((True, 0xDEADBEEF), (False, 1), (True, 0xFFFFFFFF), (True, 0)):
        host = binding._resource_host_new(owned, rep, bench.kind.index)
        assert host % 8 == 0
        assert values.WORDS[host // 8 + binding.HOST_REP_WORD] & 0xFFFFFFFF == ask(host) == rep
        binding._resource_host_delete(host)


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_fuel_ends_a_loop(tmp_path):
    text = component_text("", [], '(func (export "run") (result i32) (loop $again (br $again)) (i32.const 0))')
    path = tmp_path / "loop"
    path.write_bytes(compiling.compile_source(text.encode(), "loop.wat", fuel=True)[1])
    engine = make_engine(fuel=True)
    linker = binding.Linker(binding.Component(engine, str(path)), find_interface)
    keep = Keep(engine, make_workload(limits=Limits(fuel=10_000)))
    with pytest.raises(KeepError, match="fuel"):
        linker.instantiate(keep).function(RUN, "run", (), Result(None, None))()
    keep.close()


def test_memory_does_not_grow_beyond_the_limit(runner, bench):
    text = component_text(
        "",
        [],
        '(func (export "run") (result i32) (i32.ne (memory.grow (i32.const 100)) (i32.const -1)))',
    )
    assert run(runner, bench, text, limits=Limits(memory_bytes=1 << 20)) == (True, None)
    assert run(runner, bench, text, limits=Limits(memory_bytes=1 << 24)) == (False, None)


def test_a_component_that_starts_larger_than_its_memory_is_a_keep_error(runner, bench):
    text = component_text("", [], '(func (export "run") (result i32) (i32.const 0))')
    with pytest.raises(KeepError, match="memory"):
        run(runner, bench, text, limits=Limits(memory_bytes=1000))


def test_a_list_larger_than_the_engine_copies_traps(runner, bench):
    text = component_text(
        one_instance('(export "bytes" (func (param "b" (list u8)) (param "n" u32) (result (list u8))))'),
        [("bytes", lower("bytes"), "(param i32 i32 i32 i32)")],
        """(func (export "run") (result i32)
          (drop (memory.grow (i32.const 8000)))
          (call $bytes (i32.const 0) (i32.const 0x1f000000) (i32.const 1) (i32.const 16)) (i32.const 0))""",
    )
    with pytest.raises(Trapped, match="fuel allocated for hostcalls"):
        run(runner, bench, text)


def test_an_artefact_that_is_none_is_refused(engine, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"not an artefact")
    with pytest.raises(capi.UnmappableError):
        binding.Component(engine, str(path))


def test_an_export_that_is_not_there_is_named(runner, bench):
    text = component_text("", [], '(func (export "run") (result i32) (i32.const 0))')
    linker = runner.link(text, bench.find)
    keep = Keep(runner.engine, make_workload())
    instance = linker.instantiate(keep)
    for interface, name in ((RUN, "walk"), ("wasi:cli/walk@0.2.0", "run")):
        with pytest.raises(DecodeError, match="walk"):
            instance.function(interface, name)
    keep.close()


def test_splits_names():
    assert split_version("wasi:io/streams@0.2.3") == ("wasi:io/streams", "0.2.3")
    assert split_version("launch") == ("launch", "")
