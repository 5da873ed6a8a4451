# SPDX-License-Identifier: Apache-2.0
"""How `enarx run` ends: the workload's own status, traps, signals."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

# Far more than it takes, far less than the guests' own time.
AT_ONCE_S = 5.0


@pytest.mark.parametrize("status", [0, 1, 2, 7, 99])
def test_passes_on_the_workloads_own_status(enarx, guest, status):
    ended = enarx.run(guest("exitcode"), "--", status)
    assert (ended.status, ended.stdout, ended.stderr) == (status, b"", "")


@pytest.mark.parametrize("status", [100, 101, 134, 255, 256, 2147483647, 4294967295])
def test_ends_with_99_and_says_so_when_a_status_could_be_taken_for_ours(enarx, guest, status):
    ended = enarx.run(guest("exitcode"), "--", status)
    assert ended.status == 99
    assert (
        ended.stderr == f"enarx: the workload ended with status {status}; ending with 99, since what is above is ours\n"
    )


def test_a_trap_names_the_functions_it_went_through(enarx, guest):
    ended = enarx.run(guest("trap_named"))
    assert ended.status == 134
    first, *frames = ended.stderr.splitlines()
    assert first.startswith("enarx: workload trapped: ")
    assert "unreachable" in first
    names = [frame.rpartition("!")[2] for frame in frames]
    assert names[:4] == ["innermost_function", "middle_function", "outer_function", "main"]


def test_a_stack_that_is_gone_is_a_trap(enarx, guest):
    ended = enarx.run(guest("recurse"), timeout_s=20)
    assert ended.status == 134
    first, *frames = ended.stderr.splitlines()
    assert "call stack exhausted" in first
    assert all("!" in frame for frame in frames)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("division", '(module (func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0)))))'),
        ("memory", '(module (memory 1) (func (export "_start") (drop (i32.load (i32.const -4)))))'),
        ("start", '(module (func $f unreachable) (start $f) (func (export "_start")))'),
    ],
)
def test_a_trap_without_names_or_wasi_is_one_too(enarx, tmp_path: Path, name, text):
    module = tmp_path / f"{name}.wat"
    module.write_text(text)
    ended = enarx.run(module)
    assert ended.status == 134, ended.stderr
    assert ended.stderr.startswith(f"enarx: workload trapped: {module}: ")


def test_the_empty_export_comes_before_start(enarx, tmp_path: Path):
    module = tmp_path / "both.wat"
    module.write_text('(module (func (export "")) (func (export "_start") unreachable))')
    assert enarx.run(module).status == 0


def test_proc_exit_in_a_reactors_initializer_is_the_end(enarx, tmp_path: Path):
    module = tmp_path / "early.wat"
    module.write_text(
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)'
        ' (func (export "_initialize") (call $exit (i32.const 5))) (func (export "_start") unreachable))'
    )
    assert enarx.run(module).status == 5


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_loop(enarx, guest, by):
    with enarx.start(guest("spin")) as started:
        started.until_busy()
        ended = started.end(by=by)
    check_signalled(ended, by)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_sleep(enarx, guest, by):
    with enarx.start(guest("sleeper")) as started:
        started.until_asleep()
        ended = started.end(by=by)
    check_signalled(ended, by)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_read_from_stdin(enarx, guest, by):
    with enarx.start(guest("echo")) as started:
        started.send(b"begun\n")
        started.until_stdout(b"begun\n")
        started.until_asleep()
        ended = started.end(by=by)
    check_signalled(ended, by)


@pytest.mark.parametrize("prot", ["tcp", "tls"])
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_accept_that_blocks(enarx, guest, tmp_path: Path, by, prot):
    with socket.create_server(("127.0.0.1", 0)) as ping:
        config = tmp_path / "Enarx.toml"
        config.write_text(
            '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
            f'[[files]]\nkind = "listen"\nname = "ingest"\nprot = "{prot}"\nport = 0\n'
            f'[[files]]\nkind = "connect"\nname = "ping"\nprot = "tcp"\nhost = "127.0.0.1"\nport = {ping.getsockname()[1]}\n'
        )
        with enarx.start("--wasmcfgfile", config, guest("listen")) as started:
            started.port("ingest")
            started.until_asleep()
            ended = started.end(by=by)
    assert ended.status == (130 if by == signal.SIGINT else -by)
    assert ended.seconds < AT_ONCE_S
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_long_compilation(fresh, tmp_path: Path, by):
    body = "(local.set 0 (i32.mul (i32.add (local.get 0) (i32.const 7)) (local.get 0)))" * 30
    function = f"(func (param i32) (result i32) {body} (local.get 0))"
    module = tmp_path / "long.wat"
    module.write_text(f'(module {function * 8000} (func (export "_start")))')
    with fresh.start(module) as started:
        # Python's part is over when threads of the engine are at work.
        started.until_threads(2)
        ended = started.end(by=by)
    check_signalled(ended, by)
    assert not list(fresh.cache.rglob("*.tmp"))


def test_ctrl_c_is_ignored_where_the_caller_ignores_it(enarx, guest):
    # As a shell does for what it runs in the background.
    with enarx.start(
        guest("echo"), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), restore_signals=False
    ) as started:
        started.send(b"before\n")
        started.until_stdout(b"before\n")
        started.process.send_signal(signal.SIGINT)
        started.send(b"after\n")
        started.until_stdout(b"after\n")
        assert started.end().status == 0


def check_signalled(ended, by):
    assert ended.status == (130 if by == signal.SIGINT else -by)
    assert ended.seconds < AT_ONCE_S
    assert ended.stderr == ""
