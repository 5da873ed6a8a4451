# SPDX-License-Identifier: Apache-2.0
"""Processes in which courts sit: judging holds Python's lock, so that threads would judge one request at a time and let the API wait.

Each process gets what it has to do over a socket pair, one after the other, and answers in that order. The rules come with the first request
that is to be judged by them, so no request is judged by those of before.

Rules of this file:

- What is sent is pickled: both ends are this Steward, and nobody else has the sockets.
- A process ends with the one that started it, however that ends: its socket does, and the kernel kills it.
- One that ends by itself, or does not answer in time, fails what it had to do, and another one takes its place. Nothing is lost: what it
  made was told to nobody.
- An error says what people and the log read of it, and nothing else: whatever evidence was parsed into stays where it was parsed. What
  cannot be sent fails one request and no process.
- It has the keys that sign certificates and results, so nobody of the same user can read it, and it dumps no core.

Source: prctl(2), PR_SET_PDEATHSIG and PR_SET_DUMPABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, TypeVar, cast

from enarx.errors import EnarxError, PlatformError
from enarx.rats import AttestationResult
from enarx.rats.findings import render
from enarx.steward.rooms import BusyError

if TYPE_CHECKING:
    from enarx.serving.logs import Log
    from enarx.steward.court import Court, Recipe, Rules

__all__ = ["Chambers", "make_undumpable", "plain", "sit"]

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 60.0
"""For one request and those before it; judging takes milliseconds."""

RETRY_S = 1.0
"""Before another process is started where one has ended."""

_PROGRAM = """
import signal, sys
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_IGN)
sys.path[:] = sys.argv[3:]
from enarx.steward.chambers import sit
sit(int(sys.argv[1]), int(sys.argv[2]))
"""
_HEAD = struct.Struct("=I")
_READ_BYTES = 64 << 10
_HELD_ANSWERS = 4
_NICENESS = 12
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4

_T = TypeVar("_T")
_Message: TypeAlias = "tuple[Recipe | None, Callable[[Court], Any]]"


class Chambers:
    """Processes, each with a court.

    Args:
        count: how many.
        log: where is said that one has ended.
    """

    def __init__(self, count: int, log: Log) -> None:
        self._count = count
        self._log = log
        self._open: set[_Chamber] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def count(self) -> int:
        """How many processes there are now."""
        return len(self._open)

    @property
    def taken(self) -> int:
        """How many requests are judged or wait for it."""
        return sum(each.taken for each in self._open)

    async def start(self, rules: Rules) -> None:
        """Start the processes, and wait until each of them can judge.

        Args:
            rules: in force at first.

        Raises:
            PlatformError: one does not start.
            ConfigError: it cannot use the rules.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                for _ in range(self._count):
                    self._open.add(await _Chamber.start(self._ended))
                await asyncio.gather(*(each.ask(rules, _be_ready) for each in self._open))
        except TimeoutError as error:
            raise PlatformError(f"cannot judge: found no process ready within {START_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise PlatformError(f"cannot judge: cannot start a process: {error.strerror}") from error

    async def run(self, rules: Rules, work: Callable[[Court], _T]) -> tuple[_T, float]:
        """Have something done by a court of these rules; see `enarx.steward.court.Bench`.

        Args:
            rules: in force now.
            work: what is to be done.

        Raises:
            BusyError: the process has ended, or there is none.
        """
        if not self._open:
            raise _has_ended()
        return await min(self._open, key=lambda each: each.taken).ask(rules, work)

    def close(self) -> None:
        """End the processes, once nobody asks any more."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        for each in tuple(self._open):
            each.close()

    def _ended(self, chamber: _Chamber) -> None:
        self._open.discard(chamber)
        if not self._is_closing:
            self._log.warning("judge-ended", pid=chamber.pid)
            task = asyncio.get_running_loop().create_task(self._replace())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                self._open.add(await _Chamber.start(self._ended))
            except OSError as error:
                self._log.warning("judge-not-started", reason=error.strerror)
            else:
                return


class _Asked(NamedTuple):
    """What a process has to do.

    Args:
        answer: for who waits.
        until: when it is late, by the loop's clock.
    """

    answer: asyncio.Future[Any]
    until: float


class _Chamber(asyncio.BufferedProtocol):
    """One process, from the side of who asks."""

    def __init__(self, child: subprocess.Popen[bytes], ended: Callable[[_Chamber], None]) -> None:
        self._child = child
        self._ended = ended
        self._rules: Rules | None = None
        self._waiting: deque[_Asked] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._received = bytearray(_READ_BYTES)
        self._filled = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def start(cls, ended: Callable[[_Chamber], None]) -> Self:
        """Start a process.

        Raises:
            OSError: that cannot be done.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # In this thread, which lasts: the kernel kills the child when the thread that started it ends.
            child = subprocess.Popen(  # noqa: ASYNC220  # it does not wait for the child
                [sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        made = cls(child, ended)
        await asyncio.get_running_loop().create_unix_connection(lambda: made, sock=ours)
        return made

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    @property
    def taken(self) -> int:
        """How many requests wait for it."""
        return len(self._waiting)

    async def ask(self, rules: Rules, work: Callable[[Court], _T]) -> tuple[_T, float]:
        """Have something done."""
        if self._transport is None or self._transport.is_closing():
            raise _has_ended()
        recipe = None if rules is self._rules else rules.recipe
        self._rules = rules
        message = pickle.dumps((recipe, work), pickle.HIGHEST_PROTOCOL)
        loop = asyncio.get_running_loop()
        asked = _Asked(loop.create_future(), loop.time() + ANSWER_TIMEOUT_S)
        self._waiting.append(asked)
        if self._watch is None or self._watch.when() > asked.until:
            self._look_at(asked.until)
        self._transport.write(_HEAD.pack(len(message)) + message)
        error, value, seconds = await asked.answer
        if error is not None:
            raise error
        return value, seconds

    def _look_at(self, time: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().call_at(time, self._look)

    def _look(self) -> None:
        """End the process if it is late. It answers in order, so one timer does for all who wait."""
        self._watch = None
        if not self._waiting or self._transport is None:
            return
        answer, until = self._waiting[0]
        if asyncio.get_running_loop().time() < until:
            self._look_at(until)
            return
        if not answer.done():
            late = f"cannot judge now: found no answer of the process that judges within {ANSWER_TIMEOUT_S:.0f} s"
            answer.set_exception(BusyError(late, hint="ask again in a second"))
        self._transport.abort()

    def close(self) -> None:
        """End the process."""
        if self._transport is not None:
            self._transport.abort()
        self._child.kill()
        self._child.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._filled == len(self._received):
            self._received += bytes(len(self._received))
        return memoryview(self._received)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        at = 0
        with memoryview(self._received)[: self._filled] as received:
            while len(received) - at >= _HEAD.size:
                end = at + _HEAD.size + _HEAD.unpack_from(received, at)[0]
                if len(received) < end:
                    break
                answer = self._waiting.popleft().answer
                if not answer.done():
                    try:
                        answer.set_result(pickle.loads(received[at + _HEAD.size : end]))  # noqa: S301  # from a process of ours
                    except Exception as error:  # noqa: BLE001  # it is told to who asked, and the next one is read
                        answer.set_exception(error)
                at = end
            left = bytes(received[at:])
        self._filled = len(left)
        self._received[: self._filled] = left

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.kill()
        self._child.wait()
        if self._watch is not None:
            self._watch.cancel()
        for answer, _ in self._waiting:
            if not answer.done():
                answer.set_exception(_has_ended())
        self._waiting.clear()
        self._ended(self)


def _has_ended() -> BusyError:
    return BusyError("cannot judge now: found that the process that judges has ended", hint="ask again in a second")


def _be_ready(_court: Court) -> None:
    """Do nothing, by a court that could be made."""


# --- The process -----------------------------------------------------------------------------------------------------


def sit(fd: int, parent: int) -> None:
    """Judge until the other end closes the socket.

    Args:
        fd: of the socket.
        parent: number of the process at its other end.
    """
    _harden(parent)
    court: Court | None = None
    held: list[bytes] = []
    with socket.socket(fileno=fd) as connection:
        for message, is_last in _messages(connection):
            began = time.perf_counter()
            error: BaseException | None = None
            value = None
            try:
                recipe, work = cast("_Message", pickle.loads(message))  # noqa: S301  # from who started this
                if recipe is not None:
                    court = None
                    court = recipe.make()
                    # What rules are made of stays; there is no need to look through it again and again.
                    gc.collect()
                    gc.freeze()
                if court is None:
                    raise RuntimeError("found no rules")
                value = work(court)
            except EnarxError as found:
                error = plain(found)
            except Exception:  # noqa: BLE001  # it is told to who asked, and the next one is judged
                error = RuntimeError(f"in process {os.getpid()}: {traceback.format_exc()}")
            answer = _dump(error, value, time.perf_counter() - began)
            held += (_HEAD.pack(len(answer)), answer)
            # Where more is waiting, a few answers go together: whoever asked wakes up once for them, and so does who logs them.
            if court is None or len(held) >= 2 * _HELD_ANSWERS or is_last():
                connection.sendall(b"".join(held))
                held.clear()
            if court is None:
                # Without rules nothing can be judged; the next process is told them again.
                return


def _messages(connection: socket.socket) -> Iterator[tuple[bytes, Callable[[], bool]]]:
    """Yield each message, and what tells whether no other one has come by then, until the other end closes the socket."""
    received = bytearray()
    poll = select.poll()
    poll.register(connection, select.POLLIN)

    def end() -> int:
        return _HEAD.size + _HEAD.unpack_from(received)[0] if len(received) >= _HEAD.size else _HEAD.size

    def is_last() -> bool:
        return len(received) <= _HEAD.size and not poll.poll(0)

    while True:
        while len(received) <= _HEAD.size or len(received) < end():
            more = connection.recv(_READ_BYTES)
            if not more:
                return
            received += more
        at = end()
        message = bytes(received[_HEAD.size : at])
        del received[:at]
        yield message, is_last


def plain(error: EnarxError) -> EnarxError:
    """Return an error with what is told of it: its class, text and hint, and of its result the findings that it rests on, as text."""
    said = type(error)(str(error), hint=error.hint)
    result = getattr(error, "result", None)
    if isinstance(result, AttestationResult):
        findings = tuple(
            each._replace(expected=None if each.expected is None else render(each.expected), found=render(each.found))
            for each in result.failures
        )
        said.result = replace(result, subject=_Unsaid(), findings=findings)  # type: ignore[attr-defined]
    return said


class _Unsaid:
    """Claims of which nothing is told."""

    def named(self) -> Mapping[str, object]:
        """Return nothing."""
        return {}


def _dump(error: BaseException | None, value: Any, seconds: float) -> bytes:
    try:
        return pickle.dumps((error, value, seconds), pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001  # it is told to who asked, and the next one is judged
        bug = RuntimeError(f"in process {os.getpid()}: {traceback.format_exc()}")
        return pickle.dumps((bug, None, seconds), pickle.HIGHEST_PROTOCOL)


def _prefer_batches() -> None:
    """Have this thread wake up later and do more at once, as it can where others have much to do."""
    # A kernel that does not let it is as good, and slower.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def make_undumpable() -> None:
    """Let this process dump no core, and nobody else of its user read its memory: it has keys."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _harden(parent: int) -> None:
    make_undumpable()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What was judged is answered and logged, and what has come is handed on, before the next one is judged; but nobody is interrupted for a
    # request that has just come.
    os.nice(_NICENESS)
    _prefer_batches()
    if os.getppid() != parent:
        # It ended before the kernel was asked to tell.
        os._exit(0)
