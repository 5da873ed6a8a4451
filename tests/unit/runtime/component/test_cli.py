# SPDX-License-Identifier: Apache-2.0
"""Commands: what they are given, what they write, how they end."""

from __future__ import annotations

import os

import pytest

from enarx.errors import ConfigError, DecodeError, KeepError
from enarx.runtime.component import run_component
from enarx.runtime.component.binding import Exit, Keep
from enarx.runtime.component.cli import (
    NullInput,
    NullOutput,
    StandardInput,
    StandardOutput,
    environment_interface,
    exit_interface,
    stderr_interface,
    stdin_interface,
    stdout_interface,
    terminal_stdin_interface,
    terminal_stdout_interface,
)
from enarx.runtime.component.values import Err
from enarx.runtime.workload import Directory, File, Limits, standard_files

from .conftest import component_text, make_workload

STDOUT = """
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output (sub resource)))
    (alias outer 1 $error (type $outer))
    (export "error" (type $err (eq $outer)))
    (type $failure (variant (case "last-operation-failed" (own $err)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $outer))
    (export "output-stream" (type $output (eq $outer)))
    (export "get-stdout" (func (result (own $output))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit
    (export "exit" (func (param "status" (result))))
    (export "exit-with-code" (func (param "status-code" u8)))))
"""
CALLS = [
    ("stdout", '$stdout "get-stdout"', "(result i32)"),
    ("write", '$streams "[method]output-stream.blocking-write-and-flush"', "(param i32 i32 i32 i32)"),
    ("exit", '$exit "exit"', "(param i32)"),
    ("exit-with-code", '$exit "exit-with-code"', "(param i32)"),
]
HELLO = """(data (i32.const 0) "Hello, Enarx!\\n")
  (func $hello (call $write (call $stdout) (i32.const 0) (i32.const 14) (i32.const 64)))"""


def command(run: str) -> str:
    return component_text(STDOUT, CALLS, f'{HELLO} (func (export "run") (result i32) {run})')


def call(interface, name, keep, *arguments):
    return interface.functions[name].call(keep, *arguments)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("(i32.const 0)", 0),
        ("(i32.const 1)", 1),
        ("(call $exit (i32.const 0)) (i32.const 1)", 0),
        ("(call $exit (i32.const 1)) (i32.const 0)", 1),
        ("(call $exit-with-code (i32.const 0)) (i32.const 1)", 0),
        ("(call $exit-with-code (i32.const 77)) (i32.const 0)", 77),
        ("(call $exit-with-code (i32.const 255)) (i32.const 0)", 255),
    ],
)
def test_a_command_writes_and_ends_with_its_own_status(runner, capfd, end, status):
    outcome = runner.run(command(f"(call $hello) {end}"))
    assert (outcome.status, outcome.trap) == (status, None)
    assert capfd.readouterr().out == "Hello, Enarx!\n"


def test_a_trap_ends_134_with_its_backtrace(runner, capfd):
    outcome = runner.run(command("(call $hello) unreachable"))
    assert outcome.status == 134
    assert "wasm backtrace" in outcome.trap
    assert "unreachable" in outcome.trap
    assert capfd.readouterr().out == "Hello, Enarx!\n"


@pytest.mark.parametrize(
    ("kinds", "out", "err"),
    [
        (("stdin", "stdout", "stderr"), "Hello, Enarx!\n", ""),
        (("stdin", "stderr", "stdout"), "", "Hello, Enarx!\n"),
        (("stdin", "null", "null"), "", ""),
        (("stdin", "stdin", "stdin"), "", ""),
        ((), "", ""),
    ],
)
def test_stdout_goes_where_files_say(runner, capfd, kinds, out, err):
    outcome = runner.run(
        command("(call $hello) (i32.load8_u (i32.const 64))"), files=[File(kind, kind) for kind in kinds]
    )
    assert outcome.status == 0
    assert capfd.readouterr() == (out, err)


def test_output_stops_exactly_at_the_limit(runner, capfd):
    with pytest.raises(KeepError, match="output: found more than 20 bytes"):
        runner.run(command("(loop $again (call $hello) (br $again)) (i32.const 0)"), limits=Limits(output_bytes=20))
    assert capfd.readouterr().out == "Hello, Enarx!\nHello,"


def test_output_up_to_the_limit_is_no_error(runner, capfd):
    assert runner.run(command("(call $hello) (i32.const 0)"), limits=Limits(output_bytes=14)).status == 0
    assert capfd.readouterr().out == "Hello, Enarx!\n"


def test_a_component_without_entry_point_is_named(runner):
    with pytest.raises(DecodeError, match=r"guest\.wasm: found no entry point"):
        runner.run("(component)")
    with pytest.raises(DecodeError, match="found no entry point"):
        runner.run(component_text("", [], '(func (export "run") (result i32) (i32.const 0))', run="wasi:cli/run@0.3.0"))


@pytest.mark.parametrize("options", [{"args": ["\udcff"]}, {"env": [("A", "\udcff")]}, {"env": [("\udcff", "")]}])
def test_what_is_not_unicode_cannot_be_given(runner, options):
    with pytest.raises(ConfigError, match="want UTF-8"):
        runner.run(command("(i32.const 0)"), **options)


def test_arguments_begin_with_the_name_of_the_module(engine):
    keep = Keep(engine, make_workload(args=["a", "ü"], env=[("A", "b"), ("C", "")]))
    assert call(environment_interface, "get-arguments", keep) == ["main.wasm", "a", "ü"]
    assert call(environment_interface, "get-environment", keep) == [("A", "b"), ("C", "")]
    assert call(environment_interface, "initial-cwd", keep) is None
    keep.close()


def test_exit_says_how():
    for is_ok, status in ((True, 0), (False, 1)):
        with pytest.raises(Exit) as caught:
            call(exit_interface, "exit", None, (is_ok, None))
        assert caught.value.status == status


def test_what_files_leave_out_is_empty_or_swallows(engine):
    keep = Keep(engine, make_workload(files=[]))
    stdin, stdout = call(stdin_interface, "get-stdin", keep), call(stdout_interface, "get-stdout", keep)
    assert isinstance(stdin, NullInput)
    assert stdin.poll_interest() is None
    with pytest.raises(Err) as caught:
        stdin.read(1)
    assert caught.value.value == ("closed", None)
    assert isinstance(stdout, NullOutput)
    stdout.write(b"x")
    assert call(terminal_stdin_interface, "get-terminal-stdin", keep) is None
    assert call(terminal_stdout_interface, "get-terminal-stdout", keep) is None
    keep.close()


def test_standard_streams_are_this_process_own(keep):
    assert isinstance(call(stdin_interface, "get-stdin", keep), StandardInput)
    assert isinstance(call(stdout_interface, "get-stdout", keep), StandardOutput)
    assert isinstance(call(stderr_interface, "get-stderr", keep), StandardOutput)


def test_stdin_reads_a_pipe_without_waiting():
    read_end, write_end = os.pipe()
    stream = StandardInput(read_end)
    assert stream.read(10) == b""
    os.write(write_end, b"abc")
    assert stream.read(2) == b"ab"
    os.close(write_end)
    assert stream.read(9) == b"c"
    with pytest.raises(Err) as caught:
        stream.read(9)
    assert caught.value.value == ("closed", None)
    os.close(read_end)


def test_stdout_without_reader_is_closed(keep):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(Err) as caught:
        StandardOutput(keep, write_end).write(b"x")
    assert caught.value.value == ("closed", None)
    os.close(write_end)


def test_stdout_that_does_not_wait_is_waited_for(keep):
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    stream = StandardOutput(keep, write_end)
    while stream.check_write():
        stream.write(bytes(4096))
    assert stream.poll_interest()[0] == write_end
    os.read(read_end, 1 << 20)
    stream.blocking_flush(keep.clock)
    os.close(read_end)
    os.close(write_end)


def test_a_terminal_is_known():
    leader, follower = os.openpty()
    saved = os.dup(0)
    os.dup2(follower, 0)
    try:
        keep = type("K", (), {"workload": make_workload(files=standard_files())})()
        assert call(terminal_stdin_interface, "get-terminal-stdin", keep) is not None
    finally:
        os.dup2(saved, 0)
        for fd in (saved, leader, follower):
            os.close(fd)


def test_the_run_begins_once_everything_is_there(runner, capfd, tmp_path):
    begun = []
    path = runner.compile(command("(call $hello) (i32.const 0)"))
    dirs = [Directory(str(tmp_path / "missing"), "/data")]
    with pytest.raises(ConfigError, match="missing: found no directory"):
        run_component(runner.engine, path, make_workload(dirs=dirs), lambda: begun.append(1))
    unknown = runner.compile(
        '(component (import "wasi:cli/launch@0.2.0" (instance)) (export "wasi:cli/run@0.2.0" (instance 0)))'
    )
    with pytest.raises(DecodeError, match="wasi:cli/launch"):
        run_component(runner.engine, unknown, make_workload(), lambda: begun.append(2))
    assert begun == []
    run_component(runner.engine, path, make_workload(), lambda: begun.append(capfd.readouterr().out))
    assert begun == [""]
    assert capfd.readouterr().out == "Hello, Enarx!\n"
