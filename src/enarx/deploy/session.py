# SPDX-License-Identifier: Apache-2.0
"""Talk to a workload through its Keep: standard streams, signals, its end.

Rules of this file:

- Output has offsets, and they leave no gap: a Keep that left something out is told apart from a log that has wrapped around.
  Where a session begins in the middle, its first output may begin later than was asked for, which is said; nothing after it.
- Standard input is sent as far as the Keep's window goes, and read from the terminal no sooner than that.
- The first interrupt is the workload's. A second one within five seconds kills it, a third one leaves at once. A terminal that
  closes detaches; what is running goes on.
- It ends in an `Ended`, or `Detached`, or an error: a session that breaks is never taken for a workload that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from enarx.channel.memory import keep_freed_memory
from enarx.deploy.attesting import SEND_S, raise_failure
from enarx.errors import DecodeError, KeepError
from enarx.wire.session import MAX_DATA_BYTES, Attach, Detach, Exit, Failure, Output, Signal, Stats, Stdin, Stop, Window

if TYPE_CHECKING:
    from enarx.channel.session import Session

__all__ = ["Conversation", "Detached", "Ended", "Quiet", "Sink", "Source"]

INTERRUPTED_AGAIN_S = 5.0
KILL_TIMEOUT_S = 15.0
_STDIN_BYTES = 1 << 19
"""Read at once; several messages take one turn through TLS and the relay."""
_FDS = {"stdout": 1, "stderr": 2}


class Source(Protocol):
    """Where standard input comes from."""

    async def read(self, max_bytes: int) -> bytes:
        """Return some bytes; none at the end."""
        ...


class Sink(Protocol):
    """Where output goes."""

    failed: asyncio.Future[OSError]
    """Done with the reason when it takes no more."""

    async def write(self, fd: int, data: bytes) -> None:
        """Take bytes for stdout (1) or stderr (2), waiting where there is no room."""
        ...


class Quiet:
    """A sink that takes output and shows none."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()

    async def write(self, fd: int, data: bytes) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The workload ended.

    Args:
        exit: as the Keep says it.
        was_signalled: whether a signal or a stop was sent from here.
    """

    exit: Exit
    was_signalled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """The workload goes on.

    Args:
        offset: of output that was not shown yet.
        reason: the error where output cannot be written any more, else None.
    """

    offset: int
    reason: OSError | None = None


_Ending = Exit | Detach | OSError | None
"""What ends a conversation: the message received or sent, or why output cannot be written; None does not."""


class Conversation:
    """A session with a Keep that runs a workload.

    Args:
        session: after the receipt, or after the attachment. `accept` or `attach` comes first.
        say: is told one line about what matters to whoever is at the terminal.
    """

    def __init__(self, session: Session, *, say: Callable[[str], None] = lambda _: None) -> None:
        self._session = session
        self._offset = 0
        self._say = say
        self._window = 0
        self._window_moved = asyncio.Event()
        self._commands: asyncio.Queue[int] = asyncio.Queue()
        self._was_signalled = False
        self._until: int | None = None
        self._until_stats = False
        self._may_skip = False
        self._keeps_end = False
        self.stats: Stats | None = None

    @property
    def offset(self) -> int:
        """Return the offset of output that was not shown yet."""
        return self._offset

    async def accept(self) -> None:
        """Tell the Keep that its receipt was judged and stored: it runs on from here, and begins to send output.

        A Keep whose session ends before that ends with it, because nobody would know of its workload.
        """
        await self._session.send(Attach(0), timeout_s=SEND_S)

    async def attach(self, offset: int) -> None:
        """Ask for output from an offset on, after an attachment was accepted."""
        self._offset = offset
        self._may_skip = True
        await self._session.send(Attach(offset), timeout_s=SEND_S)

    async def converse(
        self, source: Source | None, sink: Sink, *, until: int | None = None, keeps_end: bool = False
    ) -> Ended | Detached:
        """Carry bytes and signals until the workload ends or this end detaches.

        Args:
            source: standard input; None sends nothing, and does not end it either.
            sink: for output.
            until: detach at this offset of output; None does not. Where output begins after it, because the log has moved on,
                some of what there is then is shown.
            keeps_end: whether the Keep goes on telling how the workload ended. Else it forgets that once it was heard here.

        Raises:
            TransportError: the session broke; the workload may go on.
            DecodeError: the Keep does not keep to the protocol.
            KeepError: the Keep failed; so do the other classes that it can name.
        """
        self._until = until
        self._keeps_end = keeps_end
        if until is not None and self._offset >= until:
            return await self.detach()
        keep_freed_memory()
        receiver: asyncio.Task[_Ending] = asyncio.create_task(self._receive(sink))
        tasks: set[asyncio.Task[_Ending]] = {
            receiver,
            asyncio.create_task(self._command()),
            asyncio.create_task(self._watch(sink)),
        }
        if source is not None:
            tasks.add(asyncio.create_task(self._send_stdin(source)))
        try:
            ending = await _first_ending(tasks)
            # Nothing is shown from here on, so the offset stays. What is being sent goes on until the session is closed: to
            # cancel that breaks the session, and a Keep would not learn that its workload's end was heard.
            receiver.cancel()
            await asyncio.wait({receiver})
            await self._session.close()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(ending, Exit):
            return Ended(exit=ending, was_signalled=self._was_signalled)
        return Detached(offset=self._offset, reason=ending if isinstance(ending, OSError) else None)

    async def detach(self) -> Detached:
        """Leave the workload running."""
        await self._say_detach()
        await self._session.close()
        return Detached(offset=self._offset)

    async def _say_detach(self) -> Detach:
        """Tell the Keep that this end goes."""
        message = Detach()
        await self._session.send(message, timeout_s=SEND_S)
        return message

    async def leave(self) -> None:
        """End a session in which nothing was attached."""
        await self._session.close()

    async def end_stdin(self) -> None:
        """Tell the workload that there is no standard input."""
        await self._session.send(Stdin(b""))

    async def stop(self, grace_ms: int, sink: Sink) -> Ended:
        """End the workload and wait for its end.

        Args:
            grace_ms: between TERM and KILL.
            sink: for output.

        Raises:
            KeepError: it does not end in time.
        """
        self._was_signalled = True
        # Nobody wants to know what is gone of output that is not shown.
        self._say = lambda _: None
        await self._session.send(Stop(grace_ms))
        try:
            async with asyncio.timeout(grace_ms / 1000 + KILL_TIMEOUT_S):
                ended = await self.converse(None, sink)
        except TimeoutError as error:
            raise KeepError(
                "cannot stop the workload: found no end of it in time, want one",
                hint="enarx keep stop --kill asks the host to end the Keep",
            ) from error
        if not isinstance(ended, Ended):
            raise KeepError("cannot stop the workload: found the session detached, want its end")
        return ended

    @contextlib.contextmanager
    def signals(self, *, only_leave: bool = False) -> Iterator[None]:
        """Take INT, TERM and HUP of this process as the terminal's, while the block runs.

        Args:
            only_leave: whether each of them just leaves the workload running.
        """
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._commands.put_nowait, int(signal.SIGHUP if only_leave else number))
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    # --- Tasks of a conversation. Each sends and receives, and what it returns ends all of them.

    async def _receive(self, sink: Sink) -> _Ending:
        while True:
            message = await self._session.receive()
            if isinstance(message, Output):
                self._reach(message.offset)
                await sink.write(_FDS[message.name], message.data)
                self._offset += len(message.data)
                if self._until is not None and self._offset >= self._until:
                    return await self._say_detach()
            elif isinstance(message, Window):
                self._window = max(self._window, message.stdin)
                self._window_moved.set()
            elif isinstance(message, Stats):
                self.stats = message
                if self._until_stats:
                    return await self._say_detach()
            elif isinstance(message, Exit):
                # The end of the session says that it was heard, unless it is left first; the Keep has nothing to wait for then.
                if self._keeps_end:
                    await self._say_detach()
                return message
            elif isinstance(message, Failure):
                raise_failure(message)
            else:
                raise DecodeError(
                    f"cannot understand the Keep: found a message {type(message).__name__.lower()}, want output or an end"
                )

    def _reach(self, offset: int) -> None:
        """Go on at the offset of a message of output."""
        lost = offset - self._offset
        if lost < 0 or (lost and not self._may_skip):
            raise DecodeError(
                f"cannot show the output: offset: found {offset}, want {self._offset}: the Keep left something out"
            )
        self._may_skip = False
        if lost:
            self._say(f"{lost} bytes of output are gone from the log")
            self._offset = offset
            if self._until is not None and offset >= self._until:
                # The log has moved on while the Keep was judged. The Keep sends much of it before the next statistics.
                self._until, self._until_stats = None, True

    async def _watch(self, sink: Sink) -> _Ending:
        # Whoever waits for a future alone cancels it with himself.
        await asyncio.wait({sink.failed})
        await self._say_detach()
        return sink.failed.result()

    async def _send_stdin(self, source: Source) -> _Ending:
        sent = 0
        while True:
            while sent >= self._window:
                self._window_moved.clear()
                await self._window_moved.wait()
            data = await source.read(min(_STDIN_BYTES, self._window - sent))
            if not data:
                await self._session.send(Stdin(b""))
                return None
            pieces = (data[at : at + MAX_DATA_BYTES] for at in range(0, len(data), MAX_DATA_BYTES))
            await self._session.send(*map(Stdin, pieces))
            sent += len(data)

    async def _command(self) -> _Ending:
        last_s = float("-inf")
        interrupts = 0
        while True:
            number = await self._commands.get()
            now_s = asyncio.get_running_loop().time()
            if number == signal.SIGHUP:
                return await self._say_detach()
            self._was_signalled = True
            if number == signal.SIGTERM:
                await self._session.send(Signal(int(signal.SIGTERM)))
                continue
            interrupts = interrupts + 1 if now_s - last_s <= INTERRUPTED_AGAIN_S else 1
            last_s = now_s
            if interrupts == 1:
                await self._session.send(Signal(int(signal.SIGINT)))
                self._say("sent an interrupt to the workload; again within 5 seconds kills it")
            elif interrupts == 2:
                await self._session.send(Stop(0))
                self._say("told the Keep to kill the workload; again leaves without waiting")
            else:
                raise KeyboardInterrupt


async def _first_ending(tasks: set[asyncio.Task[_Ending]]) -> Exit | Detach | OSError:
    """Wait for what ends a conversation, or raise what broke it."""
    waiting = tasks
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # A session that this end has left may end at the same moment, and that is no error.
        for task in sorted(done, key=lambda task: task.exception() is not None):
            ending = task.result()
            if ending is not None:
                return ending
