# SPDX-License-Identifier: Apache-2.0
"""A process that is blocked in native code ends at its limit and at Ctrl-C, whatever its pipes are like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# The argument is the limit; what follows `watch` is native code that takes no notice of Python.
CHILD = """
import sys, os
from enarx.runtime import capi
from enarx.runtime.watch import watch
limit, how = sys.argv[1:]
def fail(error):
    os.write(2, f"{type(error).__name__}: {error}\\n".encode())
def broken(error):
    raise OSError(32, "nobody reads")
def leave():
    os.write(2, b"left\\n")
watch(None if limit == "none" else float(limit), broken if how == "mute" else fail, leave if how == "leave" else None)
if how == "twice":
    watch(None, fail)
if how == "flood":
    os.write(1, b"ready\\n")
    while True:
        os.write(2, bytes(65536))
os.write(1, b"ready\\n")
if how == "loop":
    import wasmtime
    text = '(module (func (export "f") (loop br 0)))'
    store = wasmtime.Store()
    wasmtime.Instance(store, wasmtime.Module(store.engine, text), []).exports(store)["f"](store)
usleep = capi.bind("usleep", capi.N, capi.N)
while True:
    usleep(60_000_000)
"""


def start(limit, how="sleep", **pipes):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, limit, how], **pipes)


def ended(process):
    try:
        return process.wait(20)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.mark.parametrize("how", ["sleep", "loop", "twice"])
def test_native_code_ends_at_its_limit(how):
    began = time.monotonic()
    process = start("0.2", how)
    told = process.stderr.read()
    assert ended(process) == 109
    assert told == b"KeepError: workload stopped: wall time: found more than 0.2 s, want at most 0.2 s\n"
    assert time.monotonic() - began >= 0.2


def test_an_error_that_cannot_be_told_ends_it_too():
    process = start("0.05", "mute")
    process.stderr.read()
    assert ended(process) == 109


def test_a_full_pipe_that_nobody_reads_ends_it_too():
    assert ended(start("0.1", "flood")) == 109


@pytest.mark.parametrize("how", ["sleep", "loop", "twice"])
@pytest.mark.parametrize("limit", ["none", "30", str(365 * 86400)])
def test_ctrl_c_ends_native_code_at_once(limit, how):
    process = start(limit, how)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == 130


@pytest.mark.parametrize("limit", ["none", "30", "0.2"])
def test_what_was_made_is_left_as_it_should_be(limit):
    process = start(limit, "leave")
    assert process.stdout.readline() == b"ready\n"
    if limit != "0.2":
        process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert ended(process) == (109 if limit == "0.2" else 130)
    assert told.endswith(b"left\n")


def test_no_other_signal_is_taken():
    process = start("none")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == -signal.SIGTERM


def test_the_pipe_of_the_watch_is_not_inherited():
    code = (
        "import os, subprocess, sys\nfrom enarx.runtime.watch import watch\nwatch(None, print)\n"
        "sys.exit(len(subprocess.run(['ls', '/proc/self/fd'], capture_output=True, close_fds=False).stdout.split()) - 4)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, timeout=20, check=False).returncode == 0
    )


def test_the_length_of_a_limit_is_no_number_the_host_cannot_count():
    """A year in milliseconds is more than an int; the thread that waits must not end by that."""
    process = start(str(365 * 86400.0))
    assert process.stdout.readline() == b"ready\n"
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert (ended(process), told) == (130, b"")
