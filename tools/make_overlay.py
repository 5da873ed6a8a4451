# SPDX-License-Identifier: Apache-2.0
"""Write the two modules that stand between a WASI preview 1 workload and its host functions.

The workload imports `trampoline.wat`: every function there jumps through a table. `router.wat`, instantiated after
the workload because it imports the workload's memory, fills that table. For each call it decides by the descriptor:
the engine's own WASI for directories and files, Python for stdio and sockets. The engine finds the memory of a call
through the instance that makes it, which is why the router re-exports the workload's memory as its own; Python gets
its arguments through a mailbox, a second memory, because a host function without arguments costs half of one with.

Run `make overlay` after a change here; tests/unit/runtime/preview1/test_overlay.py fails until it was run.

Descriptors: a map in the mailbox says for each of the workload's numbers whether it is Python's, or which of the
engine's it is, or that it is free. So either side's can have any number, the lowest free one as programs expect, and
`fd_renumber` moves both. The engine's own numbers never reach the workload, nor the host's anybody.
"""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src/enarx/runtime/preview1"

# Every preview 1 function that takes a descriptor, `proc_exit`, and the clock, which can be the Keep's own; i is i32, I is i64. All but `proc_exit` return an
# errno. Source: WASI snapshot preview 1, `wasi_snapshot_preview1.witx`.
SIGNATURES = {
    "clock_time_get": "iIi",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}

# What Python answers for a descriptor of its own, where it has nothing more to say than that the operation is of
# another kind of file. errno values of preview 1.
BADF, FAULT, INVAL, MFILE, NOTDIR, SPIPE = 8, 21, 28, 33, 54, 70
REFUSALS = {
    "fd_advise": SPIPE,
    "fd_allocate": SPIPE,
    "fd_datasync": INVAL,
    "fd_fdstat_set_rights": INVAL,
    "fd_filestat_set_size": INVAL,
    "fd_filestat_set_times": INVAL,
    "fd_pread": SPIPE,
    "fd_prestat_dir_name": NOTDIR,
    "fd_pwrite": SPIPE,
    "fd_readdir": NOTDIR,
    "fd_sync": INVAL,
} | {name: NOTDIR for name in SIGNATURES if name.startswith("path_")}

# Functions of Python's own. Those with iovecs get the first one read for them.
VECTORED = {"fd_read": 3, "fd_write": 3, "sock_recv": 4, "sock_send": 4}
PLAIN = [
    "fd_close",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_filestat_get",
    "fd_prestat_get",
    "fd_seek",
    "fd_tell",
    "sock_accept",
    "sock_shutdown",
]
# Of those, the ones with an answer of a fixed size: the parameter that says where it goes, and its bytes. Python leaves
# it in the mailbox, and the router moves it.
RESULTS = {
    "fd_fdstat_get": (1, 24),
    "fd_filestat_get": (1, 64),
    "fd_prestat_get": (1, 8),
    "fd_seek": (3, 8),
    "fd_tell": (1, 8),
    "sock_accept": (2, 4),
}
HOST_FUNCTIONS = ["refuse", "move", *VECTORED, *PLAIN, "poll_oneoff", "wall_clock"]

# The parameter, beside the first, that is a descriptor too.
SECOND_DESCRIPTOR = {"path_link": 4, "path_rename": 3}
# `path_symlink` names its target first and then the descriptor.
FIRST_DESCRIPTOR = {"path_symlink": 2}

# Byte offsets in the mailbox; src/enarx/runtime/preview1/mailbox.py has them as indices of u32.
ERRNO, PAGES, IOV_PTR, IOV_LEN, ARGS = 0, 4, 8, 12, 16
OPEN, OPEN_LIMIT, EXITED, EXIT_CODE, COUNT, NOW, OWN_CLOCK, WALL = 100, 108, 112, 116, 120, 128, 136, 144
MAPPED, DIRECT, RESULT, RESULT_BYTES = 152, 156, 160, 64
# What no descriptor has for a number.
NOBODY = -1
# The map: one u16 for each of the workload's numbers. 0 is free, HELD is Python's, anything else the engine's number.
MAP, MAP_ENTRIES, HELD = 4096, 30720, 0xFFFF

# What the workload calls in the engine directly. The trampoline hands these on, so that one instance offers it all.
PASSED_ON = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
}

TYPES = {"i": "i32", "I": "i64"}


def params(signature: str) -> str:
    return " ".join(f"(param $p{n} {TYPES[kind]})" for n, kind in enumerate(signature))


def trampoline() -> str:
    out = [
        ";; SPDX-License-Identifier: Apache-2.0",
        ";; Made by tools/make_overlay.py, which explains it.",
        "(module $trampoline",
    ]
    for name, signature in PASSED_ON.items():
        types = " ".join(TYPES[kind] for kind in signature)
        out += [
            f'  (import "wasi_snapshot_preview1" "{name}" (func ${name} (param {types}) (result i32)))',
            f'  (export "{name}" (func ${name}))',
        ]
    out += [
        f'  (table (export "table") {len(SIGNATURES)} {len(SIGNATURES)} funcref)',
        # For the router, where the workload has no memory.
        '  (memory (export "memory") 0 0)',
    ]
    for index, (name, signature) in enumerate(SIGNATURES.items()):
        result = "" if name == "proc_exit" else " (result i32)"
        arguments = " ".join(f"local.get {n}" for n in range(len(signature)))
        types = " ".join(TYPES[kind] for kind in signature)
        out.append(
            f'  (func (export "{name}") {params(signature)}{result}'
            f" {arguments} i32.const {index} call_indirect (param {types}){result})"
        )
    return "\n".join([*out, ")", ""])


def post(signature: str) -> list[str]:
    """Put the arguments and the memory's size in the mailbox, and success for an answer until Python has another."""
    lines = [
        f"(i32.store $box (i32.const {PAGES}) (memory.size $app))",
        f"(i32.store $box (i32.const {ERRNO}) (i32.const 0))",
    ]
    for n, kind in enumerate(signature):
        lines.append(f"({TYPES[kind]}.store $box (i32.const {ARGS + 8 * n}) (local.get $p{n}))")
    return lines


ANSWER = f"(i32.load $box (i32.const {ERRNO}))"


def native(name: str, signature: str) -> str:
    """Call the engine's function with its own descriptors."""
    first = FIRST_DESCRIPTOR.get(name, 0)
    descriptors = {first, SECOND_DESCRIPTOR.get(name, first)}
    arguments = " ".join(
        f"(call $native (local.get $p{n}))" if n in descriptors else f"(local.get $p{n})" for n in range(len(signature))
    )
    return f"(call $w_{name} {arguments})"


def direct(name: str) -> list[str]:
    """Read the first iovec, and say whether it is all there is to the call.

    It is where one buffer within the memory as Python has it mapped is to be moved, and there are no flags.
    """
    conditions = [
        "(i32.eq (local.get $p2) (i32.const 1))",
        f"(i32.eq (memory.size $app) (i32.load $box (i32.const {MAPPED})))",
        f"(call $within (i32.load $box (i32.const {IOV_PTR})) (i32.load $box (i32.const {IOV_LEN})))",
    ]
    if name.startswith("sock_"):
        conditions.append("(i32.eqz (local.get $p3))")
    every = conditions[0]
    for condition in conditions[1:]:
        every = f"(i32.and {every} {condition})"
    return [
        "(if (local.get $p2) (then",
        f"  (i32.store $box (i32.const {IOV_PTR}) (i32.load $app (local.get $p1)))",
        f"  (i32.store $box (i32.const {IOV_LEN}) (i32.load $app offset=4 (local.get $p1)))))",
        f"(i32.store $box (i32.const {DIRECT}) (select (local.get $p0) (i32.const {NOBODY}) {every}))",
        f"(i32.store $box (i32.const {COUNT}) (i32.const 0))",
    ]


def move_result(name: str) -> list[str]:
    """Move an answer of a fixed size into the workload's memory, where the call succeeded."""
    parameter, size = RESULTS[name]
    kind, width = ("i64", 8) if size % 8 == 0 else ("i32", 4)
    return [
        f"(if (i32.eqz {ANSWER}) (then",
        *(
            f"  ({kind}.store $app offset={at} (local.get $p{parameter}) ({kind}.load $box (i32.const {RESULT + at})))"
            for at in range(0, size, width)
        ),
        "  ))",
    ]


def routed(name: str, signature: str) -> list[str]:
    """Choose by the descriptor, or by either of two."""
    first = FIRST_DESCRIPTOR.get(name, 0)
    second = SECOND_DESCRIPTOR.get(name)
    test = f"(call $is_host (local.get $p{first}))"
    if second is not None:
        test = f"(i32.or {test} (call $is_host (local.get $p{second})))"
    body = [f"(if {test} (then"]
    if name in VECTORED:
        result = VECTORED[name]
        body += [
            f"  (if (i32.gt_u (local.get $p2) (i32.const 1024)) (then (return (i32.const {INVAL}))))",
            "  (if (i32.eqz (call $within (local.get $p1) (i32.mul (local.get $p2) (i32.const 8))))"
            f" (then (return (i32.const {FAULT}))))",
            f"  (if (i32.eqz (call $within (local.get $p{result}) (i32.const 4))) (then (return (i32.const {FAULT}))))",
        ]
        if name == "sock_recv":
            body.append(
                f"  (if (i32.eqz (call $within (local.get $p5) (i32.const 2))) (then (return (i32.const {FAULT}))))"
            )
        body += ["  " + line for line in direct(name)]
    if name in RESULTS:
        parameter, size = RESULTS[name]
        body.append(
            f"  (if (i32.eqz (call $within (local.get $p{parameter}) (i32.const {size})))"
            f" (then (return (i32.const {FAULT}))))"
        )
    body += ["  " + line for line in post(signature)]
    if name in REFUSALS:
        if first or second is not None:
            # It is the one of Python's that is looked at.
            other = f"(local.get $p{first if second is None else second})"
            of = f"(select (local.get $p{first}) {other} (call $is_host (local.get $p{first})))"
            body.append(f"  (i32.store $box (i32.const {ARGS}) {of if second is not None else other})")
        body.append(f"  (i32.store $box (i32.const {ERRNO}) (i32.const {REFUSALS[name]}))")
        body.append("  (call $p_refuse)")
    else:
        body.append(f"  (call $p_{name})")
    if name in VECTORED:
        body.append(f"  (i32.store $app (local.get $p{VECTORED[name]}) (i32.load $box (i32.const {COUNT})))")
        if name == "sock_recv":
            body.append("  (i32.store16 $app (local.get $p5) (i32.const 0))")
    if name in RESULTS:
        body += ["  " + line for line in move_result(name)]
    body.append(f"  (return {ANSWER})))")
    return body


def special(name: str, signature: str) -> list[str]:
    if name == "clock_time_get":
        return [
            f"(if (i32.and (i32.eqz (local.get $p0)) (i32.load $box (i32.const {OWN_CLOCK}))) (then",
            f"  (if (i32.eqz (call $within (local.get $p2) (i32.const 8))) (then (return (i32.const {FAULT}))))",
            "  (call $p_wall_clock)",
            f"  (i64.store $app (local.get $p2) (i64.load $box (i32.const {WALL})))",
            "  (return (i32.const 0))))",
            "(call $w_clock_time_get (local.get $p0) (local.get $p1) (local.get $p2))",
        ]
    if name == "proc_exit":
        # The status is read by the host once the trap has unwound the workload.
        return [
            f"(i32.store $box (i32.const {EXIT_CODE}) (local.get $p0))",
            f"(i32.store $box (i32.const {EXITED}) (i32.const 1))",
            "unreachable",
        ]
    if name == "path_open":
        return [
            *routed(name, signature),
            f"(if (i32.ge_u (i32.load $box (i32.const {OPEN})) (i32.load $box (i32.const {OPEN_LIMIT})))",
            f"  (then (return (i32.const {MFILE}))))",
            "(local.set $guest (i32.const 3))",
            "(block $found (loop $next",
            "  (br_if $found (i32.eqz (call $entry (local.get $guest))))",
            "  (local.set $guest (i32.add (local.get $guest) (i32.const 1)))",
            f"  (if (i32.ge_u (local.get $guest) (i32.const {MAP_ENTRIES})) (then (return (i32.const {MFILE}))))",
            "  (br $next)))",
            f"(local.set $errno {native(name, signature)})",
            "(if (i32.eqz (local.get $errno)) (then",
            "  (local.set $fd (i32.load $app (local.get $p8)))",
            f"  (if (i32.ge_u (local.get $fd) (i32.const {HELD})) (then",
            f"    (drop (call $w_fd_close (local.get $fd))) (return (i32.const {MFILE}))))",
            "  (i32.store $app (local.get $p8) (local.get $guest))",
            "  (call $set_entry (local.get $guest) (local.get $fd))",
            "  (call $count (i32.const 1))))",
            "(local.get $errno)",
        ]
    if name == "fd_close":
        return [
            *routed(name, signature),
            f"(local.set $errno {native(name, signature)})",
            "(if (i32.eqz (local.get $errno)) (then",
            "  (call $set_entry (local.get $p0) (i32.const 0))",
            "  (call $count (i32.const -1))))",
            "(local.get $errno)",
        ]
    if name == "fd_renumber":
        # What is at the target is closed by whose it is; then the source's entry moves, and Python's object with it.
        return [
            "(if (i32.or (i32.eqz (call $entry (local.get $p0))) (i32.eqz (call $entry (local.get $p1))))",
            f"  (then (return (i32.const {BADF}))))",
            "(if (i32.eq (local.get $p0) (local.get $p1)) (then (return (i32.const 0))))",
            "(local.set $errno (call $r_fd_close (local.get $p1)))",
            "(if (local.get $errno) (then (return (local.get $errno))))",
            "(if (call $is_host (local.get $p0)) (then",
            *["  " + line for line in post(signature)],
            "  (call $p_move)",
            f"  (return {ANSWER})))",
            "(call $set_entry (local.get $p1) (call $entry (local.get $p0)))",
            "(call $set_entry (local.get $p0) (i32.const 0))",
            "(i32.const 0)",
        ]
    if name == "poll_oneoff":
        # Python's always: it knows from the map which of the engine's are open, and those are always ready.
        return [
            f"(if (i32.gt_u (local.get $p2) (i32.const 1000000)) (then (return (i32.const {INVAL}))))",
            "(if (i32.eqz (call $within (local.get $p0) (i32.mul (local.get $p2) (i32.const 48))))"
            f" (then (return (i32.const {FAULT}))))",
            "(if (i32.eqz (call $within (local.get $p1) (i32.mul (local.get $p2) (i32.const 32))))"
            f" (then (return (i32.const {FAULT}))))",
            f"(if (i32.eqz (call $within (local.get $p3) (i32.const 4))) (then (return (i32.const {FAULT}))))",
            f"(if (i32.eqz (local.get $p2)) (then (return (i32.const {INVAL}))))",
            *post(signature),
            f"(i32.store $box (i32.const {COUNT}) (i32.const 0))",
            # The engine's monotonic clock has a start of its own; Python needs a reading of it. The answer lands where
            # the events will, since every pointer of the engine's functions is one into the workload's memory.
            # What was there is put back: it may be the list itself.
            "(local.set $kept (i64.load $app (local.get $p1)))",
            "(drop (call $w_clock_time_get (i32.const 1) (i64.const 0) (local.get $p1)))",
            f"(i64.store $box (i32.const {NOW}) (i64.load $app (local.get $p1)))",
            "(i64.store $app (local.get $p1) (local.get $kept))",
            "(call $p_poll_oneoff)",
            f"(i32.store $app (local.get $p3) (i32.load $box (i32.const {COUNT})))",
            ANSWER,
        ]
    return [*routed(name, signature), native(name, signature)]


def router() -> str:
    out = [
        ";; SPDX-License-Identifier: Apache-2.0",
        ";; Made by tools/make_overlay.py, which explains it.",
        "(module $router",
        '  (import "app" "memory" (memory $app 0))',
        f'  (import "trampoline" "table" (table $table {len(SIGNATURES)} funcref))',
    ]
    for name, signature in SIGNATURES.items():
        if name in {"fd_renumber", "poll_oneoff", "proc_exit"}:
            continue
        types = " ".join(TYPES[kind] for kind in signature)
        out.append(
            f'  (import "wasi_snapshot_preview1" "{name}" (func $w_{name} (param {types}) (result i32)))',
        )
    out += [f'  (import "host" "{name}" (func $p_{name}))' for name in HOST_FUNCTIONS]
    out += [
        '  (memory $box (export "mailbox") 1 1)',
        '  (export "memory" (memory $app))',
        "  (func $entry (param $fd i32) (result i32)",
        f"    (if (i32.ge_u (local.get $fd) (i32.const {MAP_ENTRIES})) (then (return (i32.const 0))))",
        f"    (i32.load16_u $box offset={MAP} (i32.shl (local.get $fd) (i32.const 1))))",
        "  (func $set_entry (param $fd i32) (param $entry i32)",
        f"    (i32.store16 $box offset={MAP} (i32.shl (local.get $fd) (i32.const 1)) (local.get $entry)))",
        "  (func $count (param $by i32)",
        f"    (i32.store $box (i32.const {OPEN}) (i32.add (i32.load $box (i32.const {OPEN})) (local.get $by))))",
        # Free numbers are Python's too: it answers that they are.
        "  (func $is_host (param $fd i32) (result i32)",
        f"    (i32.ge_u (i32.sub (call $entry (local.get $fd)) (i32.const 1)) (i32.const {HELD - 1})))",
        "  (func $native (param $fd i32) (result i32) (call $entry (local.get $fd)))",
        "  (func $within (param $at i32) (param $length i32) (result i32)",
        "    (i64.le_u (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $length)))",
        "              (i64.mul (i64.extend_i32_u (memory.size $app)) (i64.const 65536))))",
    ]
    for name, signature in SIGNATURES.items():
        result = "" if name == "proc_exit" else " (result i32)"
        out.append(f"  (func $r_{name} {params(signature)}{result}")
        if name in {"path_open", "fd_close", "fd_renumber"}:
            out.append("    (local $errno i32) (local $fd i32) (local $guest i32)")
        if name == "poll_oneoff":
            out.append("    (local $kept i64)")
        out += ["    " + line for line in special(name, signature)]
        out[-1] += ")"
    names = " ".join(f"$r_{name}" for name in SIGNATURES)
    return "\n".join([*out, f"  (elem (table $table) (i32.const 0) func {names})", ")", ""])


def main() -> int:
    """Write both files."""
    for name, text in {"trampoline.wat": trampoline(), "router.wat": router()}.items():
        (TARGET / name).write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
