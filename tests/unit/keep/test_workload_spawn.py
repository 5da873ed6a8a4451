# SPDX-License-Identifier: Apache-2.0
"""What a workload process starts with, whether it is a program or a fork."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from enarx.keep.workload_spawn import make_stdin, spawn
from enarx.keep.workload_start import workload_command

WAIT_S = 20
# Says what it has: its descriptors, its session, what signals it ignores, and what it was sent.
TELLS = """
import os, signal, sys
os.set_blocking(0, True)
names = sorted(os.listdir('/proc/self/fd'), key=int)
ignored = [number for number in (13, 1, 15) if signal.getsignal(number) is signal.SIG_IGN]
os.write(1, f"{names[:4]} {os.getsid(0) == os.getpid()} {os.read(0, 10)!r}".encode())
os.write(2, b"to stderr")
os.write(3, b"a packet")
os._exit(7)
"""


def finish(spawned):
    # One that ends at once takes nothing.
    with contextlib.suppress(BrokenPipeError):
        os.write(spawned.stdin, b"input")
    os.close(spawned.stdin)
    output = b""
    while data := os.read(spawned.stdout, 1000):
        output += data
    errors = os.read(spawned.stderr, 1000)
    os.close(spawned.stdout)
    os.close(spawned.stderr)
    with spawned.control as control:
        packet = control.recv(100)
    return os.waitstatus_to_exitcode(os.waitpid(spawned.pid, 0)[1]), output, errors, packet


def test_a_program_has_streams_and_a_control_socket():
    found = finish(spawn([sys.executable, "-I", "-S", "-c", TELLS]))
    assert found == (7, b"['0', '1', '2', '3'] True b'input'", b"to stderr", b"a packet")


def test_ctrl_c_waits_until_a_program_is_ready_for_it():
    asks = "import os, signal; os.kill(os.getpid(), 2); os.write(1, repr(signal.sigpending()).encode()); os._exit(7)"
    found = finish(spawn([sys.executable, "-I", "-S", "-c", asks]))
    assert found[:2] == (7, b"{<Signals.SIGINT: 2>}")


def test_ctrl_c_that_waited_ends_a_workload_process():
    command = workload_command()
    at = command.index("-c") + 1
    command[at] = f"import os; os.kill(os.getpid(), 2); {command[at]}"
    found = finish(spawn(command))
    assert found == (-2, b"", b"", b"")


def test_a_program_that_is_not_there():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        spawn(["/nonexistent"])
    assert os.listdir("/proc/self/fd") == before


def test_standard_input_goes_one_way():
    reading, writing = make_stdin()
    with pytest.raises(BrokenPipeError):
        os.write(reading, b"back")
    os.write(writing, b"input")
    os.close(writing)
    assert [os.read(reading, 10), os.read(reading, 10)] == [b"input", b""]
    os.close(reading)


FORKS = f"""
import os, sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from tests.unit.keep.test_workload_spawn import TELLS, finish
from enarx.keep.workload_spawn import fork
print(finish(fork(lambda: %s)))
"""


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("exec(TELLS, {})", """(7, b"['0', '1', '2', '3'] True b'input'", b'to stderr', b'a packet')"""),
        ("(os.write(2, b'!'), 1 / 0)", "(1, b'', b'!', b'')"),
        ("(os.write(2, b'!'), sys.exit(0))", "(1, b'', b'!', b'')"),
        ("os.write(2, b'!')", "(1, b'', b'!', b'')"),
    ],
)
def test_a_fork_has_the_same_and_never_comes_back(child, expected):
    # In a process without threads, as the first of a machine is.
    program = [sys.executable, "-c", FORKS % child]
    found = subprocess.run(program, capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert found.stdout == f"{expected}\n"
