# SPDX-License-Identifier: Apache-2.0
"""The trampoline and the router: made by their generator, complete, and no way out of a guest's memory or numbers."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from pathlib import Path

import pytest
import wasmtime

from enarx.errors import DecodeError, KeepError
from enarx.runtime.preview1 import errno, mailbox
from enarx.runtime.preview1.configured import Null
from enarx.runtime.preview1.descriptors import FDFLAGS_NONBLOCK
from enarx.runtime.workload import Directory, File

from .conftest import PAGE_BYTES, generator

TOP = Path(__file__).parents[4]
OVERLAY = TOP / "src/enarx/runtime/preview1"


FUNCTIONS = {**generator.SIGNATURES, **generator.PASSED_ON}


def import_of(name):
    types = " ".join(generator.TYPES[kind] for kind in FUNCTIONS[name])
    result = "" if name == "proc_exit" else "(result i32)"
    return f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {types}) {result}))'


def guest(*names, body="", before='(memory (export "memory") 1)'):
    """Write a guest that imports functions and ends with the status that its body leaves on the stack."""
    imports = " ".join(import_of(name) for name in dict.fromkeys((*names, "proc_exit")))
    return f'(module {imports} {before} (func (export "_start") {body} call $proc_exit))'


@pytest.mark.parametrize("name", ["trampoline", "router"])
def test_what_is_kept_is_what_the_generator_makes(name):
    assert (OVERLAY / f"{name}.wat").read_text(encoding="ascii") == getattr(generator, name)()


def test_the_mailbox_has_the_generator_s_layout():
    words = {
        "ERRNO": generator.ERRNO,
        "PAGES": generator.PAGES,
        "IOV_PTR": generator.IOV_PTR,
        "IOV_LEN": generator.IOV_LEN,
        **{f"ARG{n}": generator.ARGS + 8 * n for n in range(4)},
        "OPEN": generator.OPEN,
        "OPEN_LIMIT": generator.OPEN_LIMIT,
        "EXITED": generator.EXITED,
        "EXIT_CODE": generator.EXIT_CODE,
        "COUNT": generator.COUNT,
        "NOW": generator.NOW,
        "OWN_CLOCK": generator.OWN_CLOCK,
        "WALL": generator.WALL,
        "MAPPED": generator.MAPPED,
        "DIRECT": generator.DIRECT,
        "RESULT": generator.RESULT,
    }
    assert {name: getattr(mailbox, name) * 4 for name in words} == words
    assert (mailbox.MAP_OFFSET, mailbox.MAP_ENTRIES, mailbox.HELD) == (
        generator.MAP,
        generator.MAP_ENTRIES,
        generator.HELD,
    )


def test_nothing_in_the_mailbox_overlaps():
    arguments = 8 * max(map(len, generator.SIGNATURES.values()))
    assert mailbox.RESULT_BYTES == generator.RESULT_BYTES == max(size for _, size in generator.RESULTS.values())
    parts = sorted(
        [
            *((at, 4) for at in (generator.ERRNO, generator.PAGES, generator.IOV_PTR, generator.IOV_LEN)),
            (generator.ARGS, arguments),
            *((at, 4) for at in (generator.OPEN, generator.OPEN_LIMIT, generator.EXITED, generator.EXIT_CODE)),
            *((at, 4) for at in (generator.COUNT, generator.OWN_CLOCK, generator.MAPPED, generator.DIRECT)),
            *((at, 8) for at in (generator.NOW, generator.WALL)),
            (generator.RESULT, generator.RESULT_BYTES),
            (generator.MAP, 2 * generator.MAP_ENTRIES),
            (65536, 0),
        ]
    )
    for (at, size), (following, _) in itertools.pairwise(parts):
        assert at + size <= following


def test_every_number_of_the_map_is_a_number_python_and_the_engine_agree_on():
    assert generator.MAP_ENTRIES < generator.HELD
    assert mailbox.FREE == 0
    assert {generator.BADF, generator.FAULT, generator.INVAL, generator.MFILE} == {
        errno.BADF,
        errno.FAULT,
        errno.INVAL,
        errno.MFILE,
    }
    assert generator.SPIPE == errno.SPIPE


def test_offers_all_46_functions_of_preview_1(run_wat):
    assert len(FUNCTIONS) == 46
    assert run_wat(guest(*FUNCTIONS, body="i32.const 46")).status == 46


def test_the_signatures_are_those_of_the_engine_s_own():
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasmtime.WasiConfig())
    module = wasmtime.Module(engine, guest(*FUNCTIONS, body="i32.const 0"))
    assert linker.instantiate(store, module).exports(store)["_start"] is not None


def test_refuses_a_function_of_no_standard_by_name(run_wat):
    text = '(module (import "wasi_snapshot_preview1" "sock_open" (func)) (func (export "_start")))'
    with pytest.raises(DecodeError, match="wasi_snapshot_preview1::sock_open"):
        run_wat(text)


def test_refuses_a_function_of_another_type(run_wat):
    text = '(module (import "wasi_snapshot_preview1" "fd_close" (func)) (func (export "_start")))'
    with pytest.raises(DecodeError, match="wasi_snapshot_preview1::fd_close"):
        run_wat(text)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param("", id="none"),
        pytest.param('(func (export "memory"))', id="a function"),
        pytest.param('(global (export "memory") i32 (i32.const 0))', id="a global"),
        pytest.param('(table (export "memory") 1 funcref)', id="a table"),
        pytest.param("(memory 1)", id="not exported"),
        pytest.param('(memory (export "memory") 0)', id="of no size"),
        pytest.param('(memory (export "memory") 1) (memory (export "mailbox") 1)', id="with a mailbox"),
        pytest.param('(memory 1) (memory (export "memory") 1) (memory 1)', id="one of three"),
    ],
)
def test_a_guest_can_end_itself_whatever_it_calls_memory(run_wat, memory):
    assert run_wat(guest(body="i32.const 7", before=memory)).status == 7


def test_without_a_memory_every_pointer_is_out_of_bounds(run_wat):
    body = "i32.const 1 i32.const 0 call $fd_fdstat_get"
    assert run_wat(guest("fd_fdstat_get", body=body, before="")).status == errno.FAULT


@pytest.mark.parametrize("memory", ['(memory (export "memory") i64 1)', '(memory (export "memory") 1 2 shared)'])
def test_refuses_a_memory_that_is_not_preview_1_s(run_wat, memory):
    with pytest.raises(DecodeError, match="memory"):
        run_wat(guest(body="i32.const 7", before=memory))


def test_refuses_wasi_in_a_start_function(run_wat):
    text = (
        f'(module {import_of("proc_exit")} (func $s i32.const 1 call $proc_exit) (start $s) (func (export "_start")))'
    )
    with pytest.raises(DecodeError, match="start function"):
        run_wat(text)


def test_fuel_is_counted_in_a_start_function(run_wat):
    with pytest.raises(KeepError, match="fuel"):
        run_wat('(module (func $s (loop br 0)) (start $s) (func (export "_start")))', fuel=1000)


def test_a_trap_in_a_start_function_is_a_trap(run_wat):
    outcome = run_wat('(module (func $s unreachable) (start $s) (func (export "_start")))')
    assert outcome.status == 134
    assert "unreachable" in outcome.trap


@pytest.mark.parametrize("entry", ["(param i32)", "(param i32 i64 externref)"])
def test_refuses_an_entry_point_with_parameters(run_wat, entry):
    with pytest.raises(DecodeError, match="entry point"):
        run_wat(f'(module (func (export "_start") {entry}))')


def test_takes_an_entry_point_with_any_results(run_wat):
    results = "i32 i64 f32 f64 v128 externref funcref " * 20
    constants = (
        "i32.const 1 i64.const 2 f32.const 3 f64.const 4 v128.const i64x2 5 6 ref.null extern ref.null func " * 20
    )
    assert run_wat(f'(module (func (export "") (result {results}) {constants}))').status == 0


def test_a_table_has_a_limit(run_wat):
    assert run_wat(guest(body="i32.const 1", before="(table 10000000 funcref)")).status == 1
    with pytest.raises(DecodeError, match="table"):
        run_wat(guest(body="i32.const 1", before="(table 10000001 funcref)"))


@pytest.mark.parametrize(("item", "most"), [("(memory 1)", 4), ("(table 1 funcref)", 10)])
def test_the_number_of_memories_and_tables_has_a_limit(run_wat, item, most):
    assert run_wat(guest(body="i32.const 1", before=item * most)).status == 1
    with pytest.raises(DecodeError, match="count too high"):
        run_wat(guest(body="i32.const 1", before=item * (most + 1)))


def test_refuses_less_memory_than_the_overlay_needs(run_wat):
    with pytest.raises(KeepError, match="memory"):
        run_wat(guest(body="i32.const 1", before=""), memory_bytes=1000)


def test_a_larger_limit_of_open_files_than_there_are_numbers_is_none(run_wat):
    assert run_wat(guest(body="i32.const 7"), open_files=1 << 40).status == 7


GROWN = """
      (drop (memory.grow (i32.const 500)))
      (drop (memory.grow (i32.const 1000000)))"""


def test_the_memory_may_grow_between_calls_and_up_to_its_limit(run_wat):
    body = f"""
      (drop (call $fd_fdstat_get (i32.const 1) (i32.const 0)))
      {GROWN}
      (drop (call $fd_fdstat_get (i32.const 1) (i32.const 32800000)))
      (i64.eq (i64.load (i32.const 32800000)) (i64.load (i32.const 0)))"""
    assert run_wat(guest("fd_fdstat_get", body=body), memory_bytes=64 << 20).status == 1


@contextlib.contextmanager
def a_peer(says=b""):
    """A connection as the guest's 3; at its other end somebody says something and listens until the guest has ended.

    Yields:
        the guest's files, and a list that has what was heard afterwards.
    """
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def talk():
            with server.accept()[0] as other, other.makefile("rb") as stream:
                other.settimeout(10)
                other.sendall(says)
                heard.append(stream.read())

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        yield [File("null", "null")] * 3 + [File("connect", "out", prot="tcp", host="127.0.0.1", port=port)], heard
        thread.join(10)


def transfer(name, fd, at, count, flags=0):
    """Call one of the four that move bytes; how many is stored at 64."""
    rest = {"sock_recv": f"(i32.const {flags})", "sock_send": f"(i32.const {flags})"}.get(name, "")
    last = "(i32.const 68)" if name == "sock_recv" else ""
    return f"(call ${name} (i32.const {fd}) (i32.const {at}) (i32.const {count}) {rest} (i32.const 64) {last})"


@pytest.mark.parametrize("name", ["fd_write", "sock_send"])
@pytest.mark.parametrize("flags", [0, FDFLAGS_NONBLOCK])
def test_python_s_view_of_the_memory_grows_for_what_is_sent(run_wat, name, flags):
    """What is sent first maps the memory; what is sent then lies where there was nothing at the time."""
    send = transfer(name, 3, 0, 1)
    body = f"""
      (i32.store (i32.const 0) (i32.const 128)) (i32.store (i32.const 4) (i32.const 4))
      (i32.store (i32.const 128) (i32.const 0x64636261))
      (call $fd_fdstat_set_flags (i32.const 3) (i32.const {flags}))
      {send} {send}
      {GROWN}
      (i32.store (i32.const 0) (i32.const 32800000))
      (i32.store (i32.const 32800000) (i32.const 0x68676665))
      {send} {send}
      i32.or i32.or i32.or i32.or"""
    with a_peer() as (files, heard):
        text = guest(name, "fd_fdstat_set_flags", body=body)
        assert run_wat(text, files=files, memory_bytes=64 << 20).status == errno.SUCCESS
    assert heard == [b"abcdabcdefghefgh"]


@pytest.mark.parametrize("name", ["fd_read", "sock_recv"])
def test_python_s_view_of_the_memory_grows_for_what_is_received(run_wat, name):
    receive = transfer(name, 3, 0, 1)
    body = f"""
      (i32.store (i32.const 0) (i32.const 128)) (i32.store (i32.const 4) (i32.const 4))
      {receive} {receive}
      {GROWN}
      (i32.store (i32.const 0) (i32.const 32800000))
      {receive} (i32.ne (i32.load (i32.const 64)) (i32.const 4))
      {receive} (i32.ne (i32.load (i32.const 32800000)) (i32.const 0x706f6e6d))
      i32.or i32.or i32.or i32.or i32.or"""
    with a_peer(b"abcdefghijklmnop") as (files, _):
        assert run_wat(guest(name, body=body), files=files, memory_bytes=64 << 20).status == errno.SUCCESS


def test_buffers_and_flags_beyond_the_first_are_seen(run_wat):
    """Of a connection: a look ahead, once more, two buffers filled, two sent, and flags that nobody has for sending."""
    peek = transfer("sock_recv", 3, 0, 1, flags=1)
    body = f"""
      (i32.store (i32.const 0) (i32.const 128)) (i32.store (i32.const 4) (i32.const 2))
      (i32.store (i32.const 8) (i32.const 136)) (i32.store (i32.const 12) (i32.const 6))
      {peek} (i32.ne (i32.load (i32.const 64)) (i32.const 2))
      (i32.store (i32.const 128) (i32.const 0))
      {peek} (i32.ne (i32.load (i32.const 128)) (i32.const 0x6261))
      {transfer("sock_recv", 3, 0, 2, flags=2)} (i32.ne (i32.load (i32.const 64)) (i32.const 8))
      (call $fd_fdstat_set_flags (i32.const 3) (i32.const {FDFLAGS_NONBLOCK}))
      {transfer("sock_send", 3, 0, 2)} (i32.ne (i32.load (i32.const 64)) (i32.const 8))
      (i32.ne {transfer("sock_send", 3, 0, 1, flags=1)} (i32.const {errno.NOTSUP}))
      i32.or i32.or i32.or i32.or i32.or i32.or i32.or i32.or i32.or"""
    with a_peer(b"abcdefgh") as (files, heard):
        text = guest("sock_recv", "sock_send", "fd_fdstat_set_flags", body=body)
        assert run_wat(text, files=files).status == errno.SUCCESS
    assert heard == [b"abcdefgh"]


def test_events_may_be_written_over_their_subscriptions(run_wat):
    """The engine's clock is read through the same place, which must not show."""
    body = """
      (i64.store (i32.const 0) (i64.const 77)) (i32.store (i32.const 16) (i32.const 1))
      (drop (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 512)))
      (i32.load (i32.const 0))"""
    assert run_wat(guest("poll_oneoff", body=body)).status == 77


def test_a_poll_that_failed_has_no_events(run_wat):
    """The count of the poll before it is not told again."""
    call = "(call $poll_oneoff (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 1024))"
    body = f"""
      (drop {call})
      (if (i32.ne (i32.load (i32.const 1024)) (i32.const 1)) (then (call $proc_exit (i32.const 90))))
      (i32.store8 (i32.const 8) (i32.const 3))
      (if (i32.ne {call} (i32.const {errno.INVAL})) (then (call $proc_exit (i32.const 91))))
      (i32.load (i32.const 1024))"""
    assert run_wat(guest("poll_oneoff", body=body)).status == 0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fd_read", errno.FAULT),
        ("fd_write", errno.FAULT),
        ("sock_recv", errno.NOTSOCK),
        ("sock_send", errno.NOTSOCK),
    ],
)
def test_a_transfer_that_failed_moved_nothing(run_wat, name, wanted):
    """The count of the call before it is not told again."""
    body = f"""
      (i32.store (i32.const 4) (i32.const 8))
      (drop {transfer("fd_write", 1, 0, 1)})
      (if (i32.ne (i32.load (i32.const 64)) (i32.const 8)) (then (call $proc_exit (i32.const 90))))
      (i32.store (i32.const 0) (i32.const 65530))
      (if (i32.ne {transfer(name, 1, 0, 1)} (i32.const {wanted})) (then (call $proc_exit (i32.const 91))))
      (i32.load (i32.const 64))"""
    assert run_wat(guest("fd_write", name, body=body)).status == 0


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        pytest.param(
            "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))", errno.INVAL, id="no"
        ),
        pytest.param(
            "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 1000001) (i32.const 0))",
            errno.INVAL,
            id="too many",
        ),
        # 2^32 / 48 and 2^32 / 32 entries would be none, if the product were taken in 32 bits.
        pytest.param(
            "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 134217728) (i32.const 0))",
            errno.INVAL,
            id="wraps",
        ),
        pytest.param(
            "(call $poll_oneoff (i32.const 65500) (i32.const 0) (i32.const 1) (i32.const 0))", errno.FAULT, id="list"
        ),
        pytest.param(
            "(call $poll_oneoff (i32.const 0) (i32.const 65512) (i32.const 1) (i32.const 0))", errno.FAULT, id="events"
        ),
        pytest.param(
            "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 65533))", errno.FAULT, id="count"
        ),
        pytest.param(
            "(call $poll_oneoff (i32.const -1) (i32.const 0) (i32.const 1) (i32.const 0))", errno.FAULT, id="at the top"
        ),
    ],
)
def test_the_bounds_of_a_poll_are_those_of_the_memory(run_wat, call, wanted):
    assert run_wat(guest("poll_oneoff", body=call)).status == wanted


@pytest.mark.parametrize("name", ["fd_read", "fd_write"])
@pytest.mark.parametrize(
    ("at", "count", "result", "wanted"),
    [
        (0, 0, 0, errno.SUCCESS),
        (0, 1024, 65532, errno.SUCCESS),
        (0, 1025, 0, errno.INVAL),
        (0, 0x20000000, 0, errno.INVAL),
        (65529, 1, 0, errno.FAULT),
        (65536, 0, 0, errno.SUCCESS),
        (65537, 0, 0, errno.FAULT),
        (-8, 1, 0, errno.FAULT),
        (0, 0, 65533, errno.FAULT),
        (0, 0, -1, errno.FAULT),
    ],
)
def test_the_bounds_of_iovecs_are_those_of_the_memory(run_wat, name, at, count, result, wanted):
    body = f"(call ${name} (i32.const 1) (i32.const {at}) (i32.const {count}) (i32.const {result}))"
    assert run_wat(guest(name, body=body)).status == wanted


@pytest.mark.parametrize("name", sorted(generator.RESULTS))
@pytest.mark.parametrize("past", [0, 1, 1 << 31])
def test_an_answer_fits_or_is_a_fault_before_anybody_is_asked(run_wat, name, past):
    """Standard output, which is no socket, cannot be moved in, and is no directory: asked, it says something else."""
    pointer, size = generator.RESULTS[name]
    arguments = [1] + [0] * (len(generator.SIGNATURES[name]) - 1)
    arguments[pointer] = PAGE_BYTES - size + past
    kinds = [generator.TYPES[kind] for kind in generator.SIGNATURES[name]]
    pushed = " ".join(f"({kind}.const {value})" for kind, value in zip(kinds, arguments, strict=True))
    asked = {"fd_seek": errno.SPIPE, "fd_tell": errno.SPIPE, "sock_accept": errno.NOTSOCK, "fd_prestat_get": errno.BADF}
    wanted = errno.FAULT if past else asked.get(name, errno.SUCCESS)
    assert run_wat(guest(name, body=f"(call ${name} {pushed})")).status == wanted


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # filetype and flags, rights, those inherited: what `null` for standard output has.
        ("fd_fdstat_get", {0: Null().flags << 16, 8: Null().rights, 16: 0}),
        # dev, ino, filetype, nlink, size and three times.
        ("fd_filestat_get", {0: 0, 8: 0, 16: 0, 24: 1, 32: 0, 40: 0, 48: 0, 56: 0}),
    ],
)
def test_an_answer_is_moved_whole_and_nothing_beside_it(run_wat, name, words):
    size = generator.RESULTS[name][1]
    at = PAGE_BYTES - size
    wrong = " ".join(
        f"(i32.or (i64.ne (i64.load (i32.const {at + offset})) (i64.const {value})))" for offset, value in words.items()
    )
    body = f"""
      (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const {PAGE_BYTES}))
      (drop (call $fd_filestat_get (i32.const 1) (i32.const 0)))
      (drop (call $fd_fdstat_get (i32.const 1) (i32.const 0)))
      (call ${name} (i32.const 1) (i32.const {at}))
      (i64.ne (i64.load (i32.const {at - 8})) (i64.const 0xa5a5a5a5a5a5a5a5)) i32.or
      {wrong}"""
    assert run_wat(guest("fd_filestat_get", "fd_fdstat_get", body=body)).status == 0


def test_an_answer_of_a_call_that_failed_is_not_moved(run_wat):
    body = """
      (i64.store (i32.const 64) (i64.const -1))
      (drop (call $fd_fdstat_get (i32.const 99) (i32.const 64)))
      (i64.eq (i64.load (i32.const 64)) (i64.const -1))"""
    assert run_wat(guest("fd_fdstat_get", body=body)).status == 1


def opened(number_at=64):
    """Open the file `f` of the directory that is descriptor 3; the number is stored at an address."""
    return (
        "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)"
        f" (i64.const 2) (i64.const 2) (i32.const 0) (i32.const {number_at}))"
    )


@pytest.fixture
def folder(tmp_path):
    """A directory with a file `f` of 3 bytes, as the guest's 3."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given/f").write_text("abc")
    return [Directory(str(tmp_path / "given"), "/given")]


F = '(memory (export "memory") 1) (data (i32.const 0) "f")'


def test_an_opened_file_has_the_lowest_free_number(run_wat, folder):
    body = f"(drop {opened()}) (drop {opened()}) (drop (call $fd_close (i32.const 4))) (drop {opened()}) (i32.load (i32.const 64))"
    assert run_wat(guest("path_open", "fd_close", body=body, before=F), dirs=folder).status == 4


def test_stdio_that_was_closed_does_not_become_the_next_file(run_wat, folder):
    """The numbers below 3 are never given out, so that nobody prints into a file by chance."""
    body = f"(drop (call $fd_close (i32.const 1))) (drop {opened()}) (i32.load (i32.const 64))"
    assert run_wat(guest("path_open", "fd_close", body=body, before=F), dirs=folder).status == 4


def test_the_limit_of_open_files_holds_for_opened_ones(run_wat, folder):
    body = f"(drop {opened()}) {opened()}"
    text = guest("path_open", body=body, before=F)
    assert run_wat(text, dirs=folder, open_files=6).status == errno.SUCCESS
    assert run_wat(text, dirs=folder, open_files=5).status == errno.MFILE


def test_a_refused_open_leaves_nothing_open(run_wat, folder):
    before = len(os.listdir("/proc/self/fd"))
    body = f"(local $n i32) (loop (drop {opened()}) (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3000)))) (i32.const 1)"
    assert run_wat(guest("path_open", body=body, before=F), dirs=folder, open_files=20).status == 1
    assert len(os.listdir("/proc/self/fd")) - before < 100


def test_more_files_than_one_byte_and_one_page_of_the_map_can_count(run_wat, folder):
    """2000 descriptors are open at once, and the last one can be read."""
    body = f"""(local $n i32)
      (loop (drop {opened()}) (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 900))))
      (i32.store (i32.const 128) (i32.const 256)) (i32.store (i32.const 132) (i32.const 3))
      (drop (call $fd_read (i32.load (i32.const 64)) (i32.const 128) (i32.const 1) (i32.const 136)))
      (i32.and (i32.eq (i32.load (i32.const 64)) (i32.const 903)) (i32.eq (i32.load8_u (i32.const 258)) (i32.const 99)))"""
    assert run_wat(guest("path_open", "fd_read", body=body, before=F), dirs=folder, open_files=2000).status == 1


RENUMBER = ("path_open", "fd_renumber", "fd_close", "fd_fdstat_get", "fd_read")


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        pytest.param(4, 3, errno.SUCCESS, id="the engine's over the engine's"),
        pytest.param(4, 1, errno.SUCCESS, id="the engine's over Python's"),
        pytest.param(1, 4, errno.SUCCESS, id="Python's over the engine's"),
        pytest.param(1, 2, errno.SUCCESS, id="Python's over Python's"),
        pytest.param(4, 4, errno.SUCCESS, id="the engine's onto itself"),
        pytest.param(1, 1, errno.SUCCESS, id="Python's onto itself"),
        pytest.param(4, 5, errno.BADF, id="onto a free number"),
        pytest.param(5, 4, errno.BADF, id="from a free number"),
        pytest.param(1, -1, errno.BADF, id="onto the last number"),
        pytest.param(-1, 1, errno.BADF, id="from the last number"),
        pytest.param(1, 30720, errno.BADF, id="onto the first number beyond the map"),
        pytest.param(0x80000001, 1, errno.BADF, id="a number whose double wraps"),
    ],
)
def test_renumbering_moves_either_side_s(run_wat, folder, source, target, wanted):
    """Afterwards the target has the source's file type and the source, if it is another number, is free."""
    text = f"""
      (local $type i32) (local $errno i32)
      (drop {opened()})
      (drop (call $fd_fdstat_get (i32.const {source}) (i32.const 512)))
      (local.set $type (i32.load8_u (i32.const 512)))
      (local.set $errno (call $fd_renumber (i32.const {source}) (i32.const {target})))
      (if (i32.eqz (local.get $errno)) (then
        (if (call $fd_fdstat_get (i32.const {target}) (i32.const 512)) (then (call $proc_exit (i32.const 90))))
        (if (i32.ne (local.get $type) (i32.load8_u (i32.const 512))) (then (call $proc_exit (i32.const 91))))
        (if (i32.const {int(source != target)}) (then
          (if (i32.ne (call $fd_close (i32.const {source})) (i32.const 8)) (then (call $proc_exit (i32.const 92))))))
        (if (call $fd_close (i32.const {target})) (then (call $proc_exit (i32.const 93))))
        (if (i32.ne (call $fd_close (i32.const {target})) (i32.const 8)) (then (call $proc_exit (i32.const 94))))))
      (local.get $errno)"""
    assert run_wat(guest(*RENUMBER, body=text, before=F), dirs=folder).status == wanted


def test_renumbering_gives_back_what_it_closes(run_wat, folder):
    """A program that opens and renumbers for ever stays within its limit."""
    body = f"""(local $n i32) (local $e i32)
      (loop
        (local.set $e (i32.or (local.get $e) {opened()}))
        (local.set $e (i32.or (local.get $e) (call $fd_renumber (i32.load (i32.const 64)) (i32.const 2))))
        (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
      (local.get $e)"""
    assert run_wat(guest(*RENUMBER, body=body, before=F), dirs=folder, open_files=5).status == errno.SUCCESS


@pytest.mark.parametrize(
    ("call", "names", "wanted"),
    [
        (
            "(call $path_symlink (i32.const 500) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 1))",
            "path_symlink",
            54,
        ),
        (
            "(call $path_symlink (i32.const 1) (i32.const 1) (i32.const 99) (i32.const 0) (i32.const 1))",
            "path_symlink",
            8,
        ),
        (
            "(call $path_rename (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 1))",
            "path_rename",
            54,
        ),
        (
            "(call $path_rename (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 99) (i32.const 0) (i32.const 1))",
            "path_rename",
            8,
        ),
        (
            "(call $path_rename (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 0) (i32.const 1))",
            "path_rename",
            54,
        ),
        ("(call $fd_sync (i32.const 1))", "fd_sync", errno.INVAL),
        ("(call $fd_sync (i32.const 77))", "fd_sync", errno.BADF),
        ("(call $fd_sync (i32.const 30719))", "fd_sync", errno.BADF),
        ("(call $fd_sync (i32.const 30720))", "fd_sync", errno.BADF),
        ("(call $fd_sync (i32.const -1))", "fd_sync", errno.BADF),
        ("(call $fd_sync (i32.const 0x80000003))", "fd_sync", errno.BADF),
    ],
)
def test_what_is_python_s_is_refused_where_a_file_is_wanted(run_wat, folder, call, names, wanted):
    assert run_wat(guest(names, body=call, before=F), dirs=folder).status == wanted


def test_the_engine_s_own_stdio_is_out_of_reach(run_wat, folder):
    """Its numbers 0 to 2 are entries of no map; closing everything does not bring them forward."""
    closes = " ".join(f"(drop (call $fd_close (i32.const {n})))" for n in range(5))
    probes = " ".join(
        f"(i32.ne (call $fd_fdstat_get (i32.const {n}) (i32.const 512)) (i32.const 8)) i32.or" for n in range(5)
    )
    body = f"{closes} (i32.const 0) {probes}"
    assert run_wat(guest("fd_close", "fd_fdstat_get", body=body), dirs=folder).status == 0


def test_files_come_before_directories_and_neither_below_3(run_wat, folder):
    body = "(i32.eqz (call $fd_prestat_get (i32.const {n}) (i32.const 512)))"
    two = [File("null", "a"), File("null", "b")]
    five = [File("null", "x")] * 5
    assert run_wat(guest("fd_prestat_get", body=body.format(n=3)), dirs=folder, files=two).status == 1
    assert run_wat(guest("fd_prestat_get", body=body.format(n=2)), dirs=folder, files=two).status == 0
    assert run_wat(guest("fd_prestat_get", body=body.format(n=5)), dirs=folder, files=five).status == 1
