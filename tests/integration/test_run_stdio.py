# SPDX-License-Identifier: Apache-2.0
"""Standard input, output and error of a workload are the command's own, whatever they are."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ENARX

# Says what it finds at 0, 1 and 2: filetype, fdflags and whether fd_seek works, through isatty's own questions.
STAT = """
(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (call $stat (i32.const {fd}) (i32.const 64)) (then (call $exit (i32.const 98))))
    (call $exit (i32.load8_u (i32.const 64)))))
"""
UNKNOWN, CHARACTER_DEVICE, REGULAR_FILE = 0, 2, 4

# Reads 4 bytes, skips 4, writes the next 4: a seek on stdin; ends with the errno of the seek.
SEEK = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\40\\00\\00\\00\\04\\00\\00\\00")
  (func (export "_start") (local $errno i32)
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
    (local.set $errno (call $seek (i32.const 0) (i64.const 4) (i32.const 1) (i32.const 24)))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (call $exit (local.get $errno))))
"""
SPIPE = 70


@pytest.fixture
def stat_of(tmp_path: Path):
    """Return a function that writes the module which ends with the file type of a descriptor."""

    def write(fd: int) -> Path:
        module = tmp_path / f"stat{fd}.wat"
        module.write_text(STAT.replace("{fd}", str(fd)))
        return module

    return write


def test_two_mebibytes_go_from_file_to_file(enarx, guest, tmp_path: Path):
    data = os.urandom(2 << 20)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        ended = enarx.run(guest("echo"), stdin=stdin.fileno(), stdout=stdout.fileno())
    assert (ended.status, ended.stderr) == (0, "")
    assert (tmp_path / "out").read_bytes() == data


def test_appends_to_a_file_that_was_opened_for_appending(enarx, guest, tmp_path: Path):
    (tmp_path / "log").write_bytes(b"before\n")
    with (tmp_path / "log").open("ab") as stdout:
        ended = enarx.run(guest("hello_wasi_snapshot1"), stdout=stdout.fileno())
    assert ended.status == 0
    assert (tmp_path / "log").read_bytes() == b"before\nHello, world!\n"


def test_seeks_in_stdin_when_it_is_a_file(enarx, tmp_path: Path):
    (tmp_path / "seek.wat").write_text(SEEK)
    (tmp_path / "in").write_bytes(b"0123456789abcdef")
    with (tmp_path / "in").open("rb") as stdin:
        ended = enarx.run(tmp_path / "seek.wat", stdin=stdin.fileno())
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"89ab", "")


def test_cannot_seek_in_a_pipe(enarx, tmp_path: Path):
    (tmp_path / "seek.wat").write_text(SEEK)
    ended = enarx.run(tmp_path / "seek.wat", stdin=b"0123456789abcdef")
    assert (ended.status, ended.stdout, ended.stderr) == (SPIPE, b"4567", "")


def test_a_file_is_a_regular_file_and_a_pipe_is_not(enarx, stat_of, tmp_path: Path):
    (tmp_path / "in").write_bytes(b"")
    with (tmp_path / "in").open("rb") as stdin:
        assert enarx.run(stat_of(0), stdin=stdin.fileno()).status == REGULAR_FILE
    assert enarx.run(stat_of(0)).status == UNKNOWN
    assert enarx.run(stat_of(1)).status == UNKNOWN


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_terminal_is_a_terminal(enarx, stat_of, fd):
    controller, terminal = os.openpty()
    try:
        how = {"stdin": terminal} if fd == 0 else {"stdout": terminal}
        if fd == 2:
            how = {}
            with enarx.start(stat_of(2), stderr=terminal) as started:
                assert started.end().status == CHARACTER_DEVICE
            return
        assert enarx.run(stat_of(fd), **how).status == CHARACTER_DEVICE
    finally:
        os.close(controller)
        os.close(terminal)


def test_talks_to_a_terminal_line_by_line(enarx, guest):
    controller, terminal = os.openpty()
    try:
        with enarx.start(guest("echo"), stdin=terminal) as started:
            os.write(controller, b"first\n")
            started.until_stdout(b"first\n")
            os.write(controller, b"second\n")
            started.until_stdout(b"second\n")
            # Ctrl-D on a line of its own is the end of a terminal's input.
            os.write(controller, b"\x04")
            assert started.end().status == 0
    finally:
        os.close(controller)
        os.close(terminal)


def test_null_devices_read_nothing_and_take_everything(enarx, guest):
    null = os.open(os.devnull, os.O_RDWR)
    try:
        ended = enarx.run(guest("echo"), stdin=null, stdout=null)
    finally:
        os.close(null)
    assert (ended.status, ended.stderr) == (0, "")


def test_a_full_device_is_an_error_for_the_workload(enarx, guest):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = enarx.run(guest("flood"), stdout=full)
    finally:
        os.close(full)
    assert (ended.status, ended.stderr) == (4, "")


def test_a_pipe_that_nobody_reads_is_an_error_for_the_workload(enarx, guest):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = enarx.run(guest("flood"), stdout=writer)
    finally:
        os.close(writer)
    assert (ended.status, ended.stderr) == (4, "")


def test_a_reader_that_goes_away_is_an_error_for_the_workload(enarx, guest):
    with enarx.start(guest("flood")) as started:
        started.until_stdout(b"xxxx")
        started.process.stdout.close()
        ended = started.end()
    assert (ended.status, ended.stderr) == (4, "")


def run_with_closed(enarx, module: Path, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run as a shell does that closes descriptors. What is left open is a pipe, or nothing for stdin."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" run --backend nil "$1" {closed}', str(ENARX), str(module)],
        env=enarx.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_closed_descriptor_is_never_another_file_of_ours(enarx, guest, closed):
    done = run_with_closed(enarx, guest("echo"), closed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = run_with_closed(enarx, guest("hello_wasi_snapshot1"), closed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello, world!\n", b"")


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_stdout_swallows_what_is_written(enarx, guest, closed):
    done = run_with_closed(enarx, guest("hello_wasi_snapshot1"), closed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("arguments", [("nowhere.wasm",), ("--unknown",), ("--wasmcfgfile", "nowhere.toml", "x.wasm")])
def test_an_error_that_nobody_reads_keeps_its_status(enarx, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with enarx.start(*arguments, stderr=writer) as started:
            assert started.end().status == 102
    finally:
        os.close(writer)


def test_a_server_whose_stderr_nobody_reads_still_serves(enarx, guest):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with enarx.start(guest("hello_wasi_snapshot1"), "--listen", "web=tcp:0", stderr=writer) as started:
            ended = started.end()
    finally:
        os.close(writer)
    assert (ended.status, ended.stdout) == (0, b"Hello, world!\n")


def test_pipes_that_somebody_made_non_blocking_are_waited_for(enarx, guest):
    data = os.urandom(1 << 20)
    stdin, feed = os.pipe()
    drain, stdout = os.pipe()
    for fd in (stdin, stdout):
        os.set_blocking(fd, False)
    with enarx.start(guest("echo"), stdin=stdin, stdout=stdout) as started, ThreadPoolExecutor() as pool:
        os.close(stdin)
        os.close(stdout)

        def write() -> None:
            with open(feed, "wb") as file:
                file.write(data)

        written = pool.submit(write)
        with open(drain, "rb") as file:
            assert file.read() == data
        written.result(20)
        assert started.end().status == 0


@pytest.mark.parametrize("arguments", ["cache list --json", "--version", "run --help"])
def test_facts_that_cannot_be_written_are_an_error(enarx, arguments):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = enarx.command(*arguments.split(), stdout=full)
    finally:
        os.close(full)
    ended.refused(108, "No space left on device")
