# SPDX-License-Identifier: Apache-2.0
"""Hold the process that runs the workload, carry its standard streams and its wishes, and know how it ended.

It is another process because what a workload may get hold of by escaping from the engine must not be the session: it is started
without the Keep's descriptors, environment, keys or attestation device, and nothing it says is believed beyond what a workload
may say anyway. It is the leader of its own session, so that whatever it starts can be ended with it.

Knows descriptors and signals; knows neither tenant nor host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence

from enarx.errors import DecodeError, KeepError
from enarx.keep.log import Log
from enarx.keep.stdio import Inlet, Outlet
from enarx.keep.workload_spawn import Spawned
from enarx.keep.workload_start import (
    Connect,
    Connected,
    Ended,
    Refused,
    Start,
    decode_word_untrusted,
    encode_word,
    receive_packet,
    send_packet,
    send_start,
)
from enarx.wire.session import ExitFailure, Stats

__all__ = ["Supervisor"]

LINGER_S = 5.0
"""Between a workload process's last word and its end."""

_MAX_ANSWERS = 64
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAX_CHILDREN = 256


class Supervisor:
    """One workload process, from before it has a workload until after its end.

    Args:
        log: gets its output.
        changed: is called when there is output, room for input, or the end.
        connect: is called with each connection it wants; whoever is called answers by `answer`.
        spawned: the process; its descriptors are this object's from here on.
    """

    def __init__(
        self,
        log: Log,
        *,
        changed: Callable[[], None],
        connect: Callable[[Connect], None],
        spawned: Spawned,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._changed = changed
        self._connect = connect
        self._answers: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._last_word: Ended | None = None
        self._status: int | None = None
        self._cpu_ms = 0
        self._stopping = False
        self._reaped = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._started_ns = time.monotonic_ns()
        self.ended: Ended | None = None
        """How it ended, once all it wrote is in the log."""
        self._pid = spawned.pid
        self._control = spawned.control
        self._control.setblocking(False)
        self._pidfd = os.pidfd_open(self._pid)
        self.inlet = Inlet(spawned.stdin, self._changed)
        self._outlets = [
            Outlet(spawned.stdout, "stdout", self._log, self._advanced),
            Outlet(spawned.stderr, "stderr", self._log, self._advanced),
        ]
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(self._control, self._receive)

    def start(self, start: Start, module_fd: int, listeners: Sequence[int], credential_fd: int | None = None) -> None:
        """Give it its workload, once. The descriptors stay the caller's.

        Raises:
            KeepError: it has ended before.
            ConfigError: there are too many listeners.
        """
        self._started_ns = time.monotonic_ns()
        try:
            self._control.setblocking(True)
            self._control.settimeout(LINGER_S)
            send_start(self._control, start, module_fd, listeners, credential_fd)
            self._control.setblocking(False)
        except OSError as error:
            raise KeepError(f"cannot start the workload: {error.strerror or 'no room'}") from error

    def resume(self) -> None:
        """Read its output on, after the log had no room."""
        for outlet in self._outlets:
            outlet.resume()

    def signal(self, number: int) -> None:
        """Send a signal to it and all it started; nothing after its end."""
        # Its group cannot be another's: its number is not free before it is reaped.
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def stop(self, grace_ms: int) -> None:
        """End it: TERM, and KILL after a time of grace, the earliest of all that were given."""
        self._stopping = True
        if not grace_ms:
            self.kill()
            return
        self.signal(signal.SIGTERM)
        at = self._loop.time() + grace_ms / 1000
        if self._status is None and (self._grace is None or at < self._grace.when()):
            if self._grace is not None:
                self._grace.cancel()
            self._grace = self._loop.call_at(at, self.kill)

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        self.signal(signal.SIGKILL)

    async def close(self) -> None:
        """End it at once, and wait until it has."""
        self.kill()
        await self._reaped.wait()
        for outlet in self._outlets:
            outlet.close()

    def answer(self, word: Connected | Refused, fds: tuple[int, ...] = ()) -> None:
        """Answer a connection it wanted; the descriptors are closed here."""
        if self._status is not None:
            for fd in fds:
                os.close(fd)
            return
        self._answers.append((encode_word(word), fds))
        if len(self._answers) == 1:
            self._send_answers()

    def stats(self) -> Stats:
        """Return what it uses, or used until its end."""
        uptime_ms = (time.monotonic_ns() - self._started_ns) // 1_000_000
        if self._status is not None:
            return Stats(uptime_ms, self._cpu_ms, 0)
        cpu_ms = memory_bytes = 0
        for pid in [self._pid, *_children(self._pid)]:
            used_ms, used_bytes = _usage(pid)
            cpu_ms += used_ms
            memory_bytes += used_bytes
        return Stats(uptime_ms, cpu_ms, memory_bytes)

    # --- What it says

    def _receive(self) -> None:
        try:
            while len(self._answers) < _MAX_ANSWERS:
                data, _ = receive_packet(self._control, max_fds=0)
                if not data:
                    self._loop.remove_reader(self._control)
                    return
                word = decode_word_untrusted(data)
                if isinstance(word, Connect):
                    self._connect(word)
                elif self._last_word is None:
                    self._last_word = word
                    self._linger = self._loop.call_later(LINGER_S, self.signal, signal.SIGKILL)
        except BlockingIOError:
            return
        except OSError:
            # It went away before it read all it was told; `_reap` says how.
            self._loop.remove_reader(self._control)
            return
        except DecodeError:
            # Ours never says what is none of its words, so it is not ours any more.
            self._loop.remove_reader(self._control)
            self._last_word = Ended(
                KeepError.status,
                failure=ExitFailure(KeepError.status, "the workload process broke its own protocol and was ended"),
            )
            self.signal(signal.SIGKILL)
            return
        # It asks faster than it takes answers.
        self._loop.remove_reader(self._control)

    def _send_answers(self) -> None:
        full = len(self._answers) >= _MAX_ANSWERS
        while self._answers:
            data, fds = self._answers[0]
            try:
                send_packet(self._control, data, fds)
            except BlockingIOError:
                self._loop.add_writer(self._control, self._send_answers)
                return
            except OSError:
                # It has gone, which is for `_reap` to say.
                full = False
            self._answers.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._control)
        if full and self._status is None:
            self._loop.add_reader(self._control, self._receive)

    # --- Its end

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # What it started goes with it; before it is reaped its number cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        _, self._status, usage = os.wait4(self._pid, 0)
        self._cpu_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
        for _, fds in self._answers:
            for fd in fds:
                os.close(fd)
        self._answers.clear()
        # Its last word may be in the socket still; what else is there, nobody wants any more.
        self._connect = _ignore
        if self._last_word is None:
            self._receive()
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        for timer in (self._grace, self._linger):
            if timer is not None:
                timer.cancel()
        self.inlet.close()
        self._reaped.set()
        self._advanced()

    def _advanced(self) -> None:
        if self._status is not None and self.ended is None and all(outlet.ended for outlet in self._outlets):
            self.ended = self._end(self._status)
        self._changed()

    def _end(self, status: int) -> Ended:
        """Put its last word and its wait status together."""
        if self._last_word is not None:
            return self._last_word
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if self._stopping or number in {signal.SIGINT, signal.SIGTERM}:
                return Ended(128 + number)
            problem = f"the workload process was ended by signal {number}"
            hint = "it may have needed more memory than there is" if number == signal.SIGKILL else None
            return Ended(128 + number, failure=ExitFailure(KeepError.status, problem, hint))
        code = os.WEXITSTATUS(status)
        # Ctrl-C is an end without a word; see enarx.runtime.watch.
        if code == 128 + signal.SIGINT:
            return Ended(code)
        problem = f"the workload process ended with status {code} and without a word"
        return Ended(KeepError.status, failure=ExitFailure(KeepError.status, problem))


def _ignore(_word: Connect) -> None:
    """Want nothing."""


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read(8 * _MAX_CHILDREN).split()[:_MAX_CHILDREN]]
    except OSError:
        # The kernel may have been built without it.
        return []


def _usage(pid: int) -> tuple[int, int]:
    """Return processor time in milliseconds and resident memory in bytes, or zeros for what has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return 0, 0
    # Fields 14 to 17 and 24 of proc(5), counted from the one after the name, which is the third.
    ticks = sum(map(int, fields[11:15]))
    return ticks * 1000 // _TICKS, int(fields[21]) * _PAGE_BYTES
