# SPDX-License-Identifier: Apache-2.0
"""Limits, each as an option and as a key of Enarx.toml: what does not end by itself is ended, on time and by name.

Times are upper bounds and generous: a machine that runs other tests too is slow.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

MFILE = 33
SLACK_S = 10.0


@pytest.fixture(params=["option", "key"])
def limited(request, enarx, tmp_path: Path):
    """Return a function that runs a guest under one limit, given in either way."""

    def run(module: Path, limit: str, value: str, *arguments: object, **how: object):
        if request.param == "option":
            return enarx.run(module, f"--{limit}", value, *arguments, **how)
        config = tmp_path / "Enarx.toml"
        shown = value if value.isdigit() else f'"{value}"'
        config.write_text(f"[limits]\n{limit.replace('-', '_')} = {shown}\n")
        return enarx.run("--wasmcfgfile", config, module, *arguments, **how)

    return run


@pytest.mark.parametrize("name", ["spin", "sleeper", "echo"])
def test_time_is_up_for_what_loops_sleeps_or_waits(limited, guest, name):
    reader, writer = os.pipe()
    try:
        ended = limited(guest(name), "timeout", "300ms", stdin=reader)
    finally:
        os.close(reader)
        os.close(writer)
    ended.refused(109, "wall time", "0.3 s", "hint: raise --timeout")
    assert 0.3 <= ended.seconds < 0.3 + SLACK_S


def test_a_workload_that_ends_in_time_is_not_told_of_the_limit(limited, guest):
    ended = limited(guest("hello_wasi_snapshot1"), "timeout", "1h")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, world!\n", "")


def test_time_is_up_while_the_output_is_blocked(limited, guest):
    reader, writer = os.pipe()
    try:
        ended = limited(guest("flood"), "timeout", "300ms", stdout=writer)
    finally:
        os.close(reader)
        os.close(writer)
    assert ended.status == 109
    assert ended.seconds < 0.3 + SLACK_S


def test_memory_ends_at_its_limit_and_the_workload_is_told(limited, guest):
    ended = limited(guest("grow"), "memory", "32MiB")
    assert ended.status == 3
    # The C library rounds every block up, so less arrives than is taken.
    assert 4 <= int(ended.stdout) <= 32
    assert re.fullmatch(r"hint: its memory stood at \d+ of 33554432 bytes; .*--memory.*\n", ended.stderr), ended.stderr


def test_memory_has_a_limit_that_nobody_asked_for(enarx, guest):
    ended = enarx.run(guest("grow"))
    assert ended.status == 3
    assert 256 <= int(ended.stdout) <= 1024


def test_a_module_that_wants_more_memory_at_once_is_refused(limited, tmp_path: Path):
    module = tmp_path / "large.wat"
    module.write_text('(module (memory (export "memory") 1024) (func (export "_start")))')
    limited(module, "memory", "1MiB").refused(109, "memory", "1048576", "hint: raise --memory")


@pytest.mark.parametrize("limit", [1, 65535, 65536, 65537, 1000000])
def test_output_ends_at_its_last_byte(limited, guest, limit):
    ended = limited(guest("flood"), "output", str(limit))
    assert ended.stdout == b"x" * limit
    assert ended.status == 109
    assert ended.stderr.startswith(f"enarx: workload stopped: output: found more than {limit} bytes")
    assert "hint: raise --output" in ended.stderr


def test_output_up_to_the_limit_is_fine(limited, guest):
    ended = limited(guest("hello_wasi_snapshot1"), "output", "14")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, world!\n", "")


def test_output_counts_stdout_and_stderr_together(limited, guest):
    # Writes "0 errno" to stderr and then to stdout.
    whole = limited(guest("hostile"), "output", "1000", "--", "0")
    line = whole.stdout
    assert whole.stderr.encode() == line
    ended = limited(guest("hostile"), "output", str(len(line) + 1), "--", "0")
    assert ended.status == 109
    assert ended.stdout == line[:1]


def test_fuel_runs_out(limited, guest):
    ended = limited(guest("spin"), "fuel", "1000000")
    ended.refused(109, "fuel", "1000000", "hint: raise --fuel")


def test_fuel_that_is_enough_is_not_noticed(limited, guest):
    ended = limited(guest("hello_wasi_snapshot1"), "fuel", "1000000")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, world!\n", "")


def test_open_files_end_with_an_errno(limited, guest, tmp_path: Path):
    (tmp_path / "file").touch()
    ended = limited(guest("openfiles"), "open-files", "16", "--dir", f"{tmp_path}::/d", "--", "/d/file")
    count, errno = map(int, ended.stdout.split())
    assert (ended.status, errno) == (0, MFILE)
    # Whether what it starts with counts is the configuration's page to say.
    assert 10 <= count <= 16


def test_open_files_have_a_limit_that_nobody_asked_for(enarx, guest, tmp_path: Path):
    (tmp_path / "file").touch()
    ended = enarx.run(guest("openfiles"), "--dir", f"{tmp_path}::/d", "--", "/d/file")
    count, errno = map(int, ended.stdout.split())
    assert errno == MFILE
    assert 1000 <= count <= 1024


def test_recursion_has_an_end_under_every_limit(limited, guest):
    ended = limited(guest("recurse"), "timeout", "30s")
    assert ended.status == 134
    assert "call stack exhausted" in ended.stderr


def test_options_win_over_keys(enarx, guest, tmp_path: Path):
    config = tmp_path / "Enarx.toml"
    config.write_text('[limits]\noutput = 1\ntimeout = "100ms"\n')
    ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"), "--output", "14", "--timeout", "1m")
    assert (ended.status, ended.stdout) == (0, b"Hello, world!\n")


def test_the_longest_times_are_times_too(enarx, guest):
    with enarx.start(guest("sleeper"), "--timeout", "365d", "--", "1.8e10") as started:
        started.until_asleep()
        ended = started.end(by=signal.SIGINT)
    assert (ended.status, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    "arguments",
    [("--memory", "1TiB"), ("--fuel", str((1 << 63) - 1)), ("--open-files", "1048576"), ("--output", "9TiB")],
)
def test_the_largest_limits_are_limits_too(enarx, guest, arguments):
    ended = enarx.run(guest("hello_wasi_snapshot1"), *arguments)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"Hello, world!\n", "")


def test_descriptors_of_the_host_that_run_out_are_an_errno(enarx, guest):
    # The caller's own limit is below ours.
    with enarx.start(
        guest("tcp_echo"),
        "--listen",
        "listen=tcp:0",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
    ) as started:
        port = started.port("listen")
        with contextlib.ExitStack() as stack:
            # It ends before all have come, and then nobody listens.
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            started.until_stderr(b"sock_accept: errno 33\n")
            assert started.end().status == 1
