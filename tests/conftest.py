# SPDX-License-Identifier: Apache-2.0
"""What tests of the installed command share: the command as a process, guests, certificates, free ports.

Every process has its own session, a time limit after which it is killed and the test fails, and is checked to have left
nobody behind. Homes and caches are the test session's own; compiled guests are shared between its tests.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import vendor_keys
from tests.guests import build

ENARX = Path(sys.executable).with_name("enarx")
TIMEOUT_S = 60.0
POLL_S = 0.02
LINGER_S = 2.0


def pytest_configure() -> None:
    """Take vendors' keys from those that are kept, and have signals mean what they should.

    Who started this may ignore them, as a shell's `&` and `nohup` do, and what is started here would, too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    vendor_keys.use()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Have signals mean in the next test what they did in this one, and say which test would have changed that.

    A worker whose signals still go to what an earlier test had made dies of the first that a test sends itself, without a word.
    """
    found = [f"the wake-up descriptor {left}"] if (left := signal.set_wakeup_fd(-1)) != -1 else []
    for number in (signal.SIGHUP, signal.SIGTERM):
        if (handler := signal.getsignal(number)) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            found.append(f"{number.name} for {handler}")
    if found:
        pytest.fail(f"the test has left {' and '.join(found)}, want signals as they were", pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three tests on two processors: those of processes wait for half of their time."""
    return (len(os.sched_getaffinity(0)) * 3 + 1) // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is given most time, so that one process is not left alone with it at the end."""

    def given_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark else 0.0

    items.sort(key=given_s, reverse=True)


def pytest_collection_finish() -> None:
    """Have the garbage of a test be looked for in what it made, and not among all tests: there, each look takes up to a second."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name long bytes by number only: some are random, and the processes of one run have to agree on the names of tests."""
    return "bytes" if isinstance(val, bytes) and len(val) > 16 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: its status (negative: a signal), what it wrote, and how long it took."""

    status: int
    stdout: bytes
    stderr: str
    seconds: float

    def refused(self, status: int, *words: str) -> None:
        """Require the form of every error of ours: one line, perhaps a hint, nothing on stdout."""
        lines = self.stderr.splitlines()
        assert self.status == status, self.stderr
        assert self.stdout == b""
        assert len(lines) in {1, 2}, self.stderr
        assert lines[0].startswith("enarx: "), self.stderr
        assert all(line.startswith("hint: ") for line in lines[1:]), self.stderr
        assert not lines[0].endswith("."), self.stderr
        for word in words:
            assert word in self.stderr


class Started:
    """A process that runs: wait for what it writes, never for time to pass."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._began = time.monotonic()
        self._written = {stream: bytearray() for stream in (process.stdout, process.stderr) if stream is not None}

    def _pump(self, wait_s: float) -> None:
        """Take what the process has written; wait for something when there is nothing."""
        streams = [stream for stream in self._written if not stream.closed]
        ready, _, _ = select.select(streams, [], [], wait_s)
        for stream in ready:
            data = os.read(stream.fileno(), 1 << 20)
            self._written[stream] += data
            if not data:
                stream.close()

    def _until(self, stream: object, pattern: bytes, timeout_s: float) -> re.Match[bytes]:
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, bytes(self._written[stream]))
            if found:
                return found
            if stream.closed or time.monotonic() > deadline:
                raise AssertionError(
                    f"waited for {pattern!r}, found {[bytes(data) for data in self._written.values()]}"
                )
            self._pump(POLL_S)

    def until_stdout(self, pattern: bytes, timeout_s: float = TIMEOUT_S) -> re.Match[bytes]:
        """Wait until stdout matches."""
        return self._until(self.process.stdout, pattern, timeout_s)

    def until_stderr(self, pattern: bytes, timeout_s: float = TIMEOUT_S) -> re.Match[bytes]:
        """Wait until stderr matches."""
        return self._until(self.process.stderr, pattern, timeout_s)

    def port(self, name: str) -> int:
        """Wait until it listens, and return where."""
        pattern = rb"enarx: listening on \w+://\S+:(\d+) \(" + name.encode() + rb"\)\n"
        return int(self.until_stderr(pattern)[1])

    def until_busy(self, wanted_s: float = 0.05) -> None:
        """Wait until the workload computes: until the process has used some time of a processor beyond its start."""
        ticks = os.sysconf("SC_CLK_TCK")

        def used_s() -> float:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        begin = used_s()
        deadline = time.monotonic() + TIMEOUT_S
        while used_s() < begin + wanted_s:
            assert time.monotonic() < deadline
            self._pump(POLL_S)

    def until_threads(self, count: int) -> None:
        """Wait until the process has so many threads."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(os.listdir(f"/proc/{self.process.pid}/task")) < count:
            assert time.monotonic() < deadline
            self._pump(POLL_S)

    def until_asleep(self) -> None:
        """Wait until the watching thread is there and every thread of the process sleeps: the workload waits."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            assert time.monotonic() < deadline
            states = []
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
            if len(states) > 1 and set(states) == {"S"}:
                return
            self._pump(POLL_S)

    def send(self, data: bytes) -> None:
        """Write to its stdin."""
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end(self, *, by: int | None = None, timeout_s: float = TIMEOUT_S) -> Ended:
        """Send a signal, or else end its stdin, and wait for the end; `seconds` is measured from here."""
        began = time.monotonic()
        if by is not None:
            self.process.send_signal(by)
        elif self.process.stdin is not None:
            # What is left in the buffer of a pipe that nobody reads any more.
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        deadline = began + timeout_s
        while any(not stream.closed for stream in self._written):
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"not ended within {timeout_s} s: {[bytes(d) for d in self._written.values()]}")
            self._pump(POLL_S)
        status = self.process.wait(timeout_s)
        seconds = time.monotonic() - began
        require_nobody_left(self.process.pid)
        stdout, stderr = (bytes(self._written[s]) if s else b"" for s in (self.process.stdout, self.process.stderr))
        return Ended(status=status, stdout=stdout, stderr=stderr.decode(), seconds=seconds)

    def kill(self) -> None:
        """End the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT_S)


def alive(session: int) -> bool:
    """Return whether a process of a session runs. Zombies do not: when an orphan is reaped is the init's affair."""
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, of = process.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                return True
    return False


def require_nobody_left(session: int) -> None:
    """Require that no process of a session is left, or only for the moment that a child takes to notice."""
    deadline = time.monotonic() + LINGER_S
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return
    while alive(session):
        if time.monotonic() > deadline:
            os.killpg(session, signal.SIGKILL)
            pytest.fail(f"a process of session {session} was left behind")
        select.select((), (), (), POLL_S)


class Enarx:
    """The installed command.

    Args:
        env: its whole environment.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    @property
    def cache(self) -> Path:
        """Return the directory of its caches."""
        return Path(self.env["XDG_CACHE_HOME"]) / "enarx"

    def with_env(self, **changes: str | None) -> Enarx:
        """Return the same command in another environment; None takes a variable away."""
        merged = {**self.env, **changes}
        return Enarx({name: value for name, value in merged.items() if value is not None})

    def _popen(self, arguments: Sequence[object], **how: object) -> subprocess.Popen[bytes]:
        command = [str(ENARX), *map(str, arguments)]
        return subprocess.Popen(command, env=self.env, start_new_session=True, **how)

    def command(
        self,
        *arguments: object,
        stdin: bytes | int | None = b"",
        stdout: int = subprocess.PIPE,
        cwd: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        **how: object,
    ) -> Ended:
        """Run `enarx ARGUMENTS...` to its end. `stdin` is what it reads, or a descriptor, or None for ours."""
        given = isinstance(stdin, bytes)
        began = time.monotonic()
        process = self._popen(
            arguments,
            stdin=subprocess.PIPE if given else stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            **how,
        )
        try:
            out, err = process.communicate(stdin if given else None, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"not ended within {timeout_s} s: {process.args}: {out[-500:]!r} {err!r}") from None
        seconds = time.monotonic() - began
        require_nobody_left(process.pid)
        return Ended(status=process.returncode, stdout=out or b"", stderr=err.decode(), seconds=seconds)

    def run(self, *arguments: object, **how: object) -> Ended:
        """Run `enarx run --backend nil ARGUMENTS...` to its end."""
        return self.command("run", "--backend", "nil", *arguments, **how)

    def start(self, *arguments: object, **how: object) -> contextlib.AbstractContextManager[Started]:
        """Start `enarx run --backend nil ARGUMENTS...`; see `start_command`."""
        return self.start_command("run", "--backend", "nil", *arguments, **how)

    @contextlib.contextmanager
    def start_command(self, *arguments: object, **how: object) -> Iterator[Started]:
        """Start `enarx ARGUMENTS...`; whatever is left of it at the end is killed."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with self._popen(arguments, **{**pipes, **how}) as process:
            started = Started(process)
            try:
                yield started
            finally:
                if process.poll() is None:
                    started.kill()
                if process.stdin is not None:
                    # Popen's own way out flushes into a pipe that may have lost its reader.
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()


@pytest.fixture(scope="session")
def enarx(tmp_path_factory: pytest.TempPathFactory) -> Enarx:
    """The installed command, with a home and a cache of this test session."""
    home = tmp_path_factory.mktemp("home")
    return Enarx(
        {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    )


@pytest.fixture
def fresh(enarx: Enarx, tmp_path: Path) -> Enarx:
    """The installed command, with a cache of this one test."""
    return enarx.with_env(XDG_CACHE_HOME=str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """Return a function that builds a guest by its name, or skips where its compiler is not installed."""

    def find(name: str) -> Path:
        try:
            return build.build(name)
        except build.MissingToolError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface where nobody listens; somebody might, before it is used, but nobody does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
