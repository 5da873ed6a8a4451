# SPDX-License-Identifier: Apache-2.0
"""Time whole commands, and keep servers for as long as a measurement needs them.

Rules:
- What is timed is a process from `posix_spawn` to `wait4`, nothing of Python's around it.
- A run whose stdout or status is not what it must be ends the benchmark: a wrong program has no speed.
- After each timed run nothing of it may be left. This process is a subreaper, so a daemon that a command leaves behind
  becomes a child of ours wherever it tries to hide, and `run_once` refuses it.
- Servers get a free port, are waited for by connecting, and are killed on every way out; one that has processes of its own
  elsewhere is asked to end them first.

Knows commands; knows nothing of enarx or its peers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

RUN_LIMIT_S = 300  # The first run of a 26 MB module compiles it.
CONNECT_LIMIT_S = 300
OUTPUT_LIMIT_BYTES = 1 << 20
END_LIMIT_S = 30
PR_SET_CHILD_SUBREAPER = 36

_servers: set[int] = set()


class BenchError(Exception):
    """A measurement cannot be believed: wrong output, wrong status, something left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to time and what it must print.

    Args:
        argv: absolute path of an executable and its arguments.
        env: the whole environment.
        stdout: what it must print, or a check that raises BenchError.
    """

    argv: list[str]
    env: Mapping[str, str]
    stdout: bytes | Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a command: wall and processor time in seconds, and what it printed."""

    wall_s: float
    cpu_s: float
    stdout: bytes


def become_subreaper() -> None:
    """Make every orphan among our descendants our own child."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def run_once(command: Command) -> Run:
    """Run a command to its end and check stdout, status 0, and that no descendant outlives it.

    Raises:
        BenchError: any of these is wrong, or it took longer than RUN_LIMIT_S.
    """
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
    ]
    try:
        with _alarm(RUN_LIMIT_S):
            began = time.perf_counter()
            pid = os.posix_spawn(command.argv[0], command.argv, command.env, file_actions=actions, setpgroup=0)
            try:
                _, status, usage = os.wait4(pid, 0)
            except TimeoutError:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise BenchError(f"{_words(command.argv)}: still running after {RUN_LIMIT_S} s") from None
            wall_s = time.perf_counter() - began
        stdout, stderr = (os.pread(fd, OUTPUT_LIMIT_BYTES, 0) for fd in (out, err))
    finally:
        os.close(out)
        os.close(err)
    code = os.waitstatus_to_exitcode(status)
    if code:
        tail = stderr.decode(errors="replace")[-2000:]
        raise BenchError(f"{_words(command.argv)}: ended with {code}, want 0\n{tail}")
    if callable(command.stdout):
        command.stdout(stdout)
    elif stdout != command.stdout:
        raise BenchError(f"{_words(command.argv)}: printed {stdout[:200]!r}, want {command.stdout[:200]!r}")
    _refuse_survivors(command.argv)
    return Run(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, stdout=stdout)


def alternate(commands: Sequence[Command], *, rounds: int, warm_up: int = 3) -> list[list[Run]]:
    """Run commands in turn, A B A B, after some turns that do not count; return the runs of each."""
    for _ in range(warm_up):
        for command in commands:
            run_once(command)
    runs: list[list[Run]] = [[] for _ in commands]
    for _ in range(rounds):
        for command, its_runs in zip(commands, runs, strict=True):
            its_runs.append(run_once(command))
    return runs


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(argv: Sequence[str], env: Mapping[str, str], port: int, *, asked: bool = False) -> Iterator[int]:
    """Run a server in its own process group from its first accepted connection to the end of the block; yield its pid.

    Args:
        argv: its command.
        env: the whole environment.
        port: that it listens on.
        asked: whether it is asked to end by TERM before it is killed.

    Raises:
        BenchError: it ended, or did not listen within CONNECT_LIMIT_S.
    """
    err = os.memfd_create("stderr")
    child = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, process_group=0
    )
    _servers.add(child.pid)

    def said() -> str:
        return f"status {child.returncode}\n{os.pread(err, OUTPUT_LIMIT_BYTES, 0).decode(errors='replace')[-2000:]}"

    try:
        deadline = time.monotonic() + CONNECT_LIMIT_S
        while not _connects(port):
            if child.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{_words(argv)}: port {port} refuses, {said()}")
            time.sleep(0.01)
        failure: BenchError | None = None
        try:
            yield child.pid
        except BenchError as error:
            failure = error
        if child.poll() is not None:
            raise BenchError(f"{_words(argv)}: ended while it was measured, {said()}") from failure
        if failure is not None:
            raise failure
    finally:
        if asked and child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_LIMIT_S)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        _servers.discard(child.pid)
        _reap_group(child.pid)
        os.close(err)


def tool(argv: Sequence[str], *, limit_s: float) -> str:
    """Run a load generator and return its stdout.

    Raises:
        BenchError: it failed or took longer than `limit_s`.
    """
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{_words(argv)}: still running after {limit_s:g} s") from None
    if done.returncode:
        raise BenchError(f"{_words(argv)}: ended with {done.returncode}, want 0\n{done.stdout}{done.stderr}")
    return done.stdout


def resident_kb(pid: int) -> dict[str, float]:
    """Return the resident and the proportional set of a process and its descendants, in kB."""
    total = {"Rss": 0.0, "Pss": 0.0}
    for member in descendants(pid):
        with open(f"/proc/{member}/smaps_rollup", encoding="ascii") as rollup:
            for line in rollup:
                name, _, rest = line.partition(":")
                if name in total:
                    total[name] += int(rest.split()[0])
    return total


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used, all its threads together, in seconds."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_s_of_all(pid: int) -> float:
    """Return the processor time of a process and its descendants, of those that ended and were waited for too, in seconds."""
    total = 0.0
    for member in descendants(pid):
        with open(f"/proc/{member}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def now() -> datetime:
    """Return the time, which certificates that are made here are of."""
    return datetime.now(UTC)  # noqa: TID251  # nothing is decided by it


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, and they, that still run."""
    return [pid, *(member for child in _children(pid) for member in descendants(child))]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
            found += map(int, children.read().split())
    return found


def _refuse_survivors(argv: Sequence[str]) -> None:
    for pid in _children(os.getpid()):
        if pid not in _servers:
            ended, _ = os.waitpid(pid, os.WNOHANG)
            raise BenchError(f"{_words(argv)}: left a process behind ({ended or 'still running'}), want none")


def _reap_group(group: int) -> None:
    """Wait for what a killed server had started: it is our child now, and none of the next run's."""
    while True:
        try:
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    def expire(_signal: int, _frame: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _words(argv: Sequence[str]) -> str:
    return " ".join(word.rpartition("/")[2] for word in argv[:6])
