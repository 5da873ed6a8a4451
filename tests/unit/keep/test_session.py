# SPDX-License-Identifier: Apache-2.0
"""A conversation at its edges, against a session and a workload that are a few lines: who has heard what when it ends."""

from __future__ import annotations

import asyncio

import pytest

from enarx.errors import TransportError
from enarx.keep import session as session_module
from enarx.keep.log import Log
from enarx.keep.session import Conversation
from enarx.keep.workload_start import Ended
from enarx.wire.session import Detach, Exit, Output, Stdin
from tests.loops import run


class FakeSession:
    """A tenant that says what is in its queue, and takes nothing while its gate is closed."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.inbox: asyncio.Queue[object] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.said_end = asyncio.Event()
        self.ended = False

    async def send(self, *messages: object, timeout_s: float | None = None) -> None:
        await self.gate.wait()
        self.sent += messages
        if any(isinstance(message, Exit) for message in messages):
            self.said_end.set()

    async def receive(self, timeout_s: float | None = None) -> object:
        message = await self.inbox.get()
        if isinstance(message, Exception):
            self.ended = True
            raise message
        return message


class FakeSupervisor:
    """A workload that has written, and has ended or not."""

    def __init__(self, ended: Ended | None = None) -> None:
        self.ended = ended
        self.inlet = self
        self.waiting_bytes = 0

    def write(self, data: bytes) -> None:
        """Take input."""

    def resume(self) -> None:
        """Write on."""

    def stats(self) -> object:
        """Return no numbers."""
        return "stats"


CLOSED = TransportError("session: found it ended by the peer, want a message")


def conversation(session: FakeSession, supervisor: FakeSupervisor, offset: int = 0) -> Conversation:
    log = Log(1 << 18)
    log.append("stdout", b"x" * 100)
    return Conversation(session, supervisor, log, offset)


def test_a_session_closed_after_the_end_was_said_has_heard_it():
    async def test():
        session = FakeSession()
        carried = conversation(session, FakeSupervisor(Ended(7)))
        carrying = asyncio.ensure_future(carried.carry())
        await session.said_end.wait()
        session.inbox.put_nowait(CLOSED)
        await carrying
        assert carried.delivered
        assert session.sent[-1] == Exit(7, None, None, None)

    run(test)


def test_one_that_detaches_has_not_even_if_its_word_crossed_the_end():
    async def test():
        session = FakeSession()
        carried = conversation(session, FakeSupervisor(Ended(7)))
        carrying = asyncio.ensure_future(carried.carry())
        await session.said_end.wait()
        session.inbox.put_nowait(Detach())
        session.inbox.put_nowait(CLOSED)
        session.ended = True
        await carrying
        assert not carried.delivered

    run(test)


def test_one_that_says_nothing_has_not(monkeypatch):
    async def test():
        monkeypatch.setattr(session_module, "DELIVERY_S", 0.01)
        carried = conversation(FakeSession(), FakeSupervisor(Ended(7)))
        await carried.carry()
        assert not carried.delivered

    run(test)


def test_one_that_is_closed_before_the_end_has_not():
    async def test():
        session = FakeSession()
        session.inbox.put_nowait(CLOSED)
        carried = conversation(session, FakeSupervisor())
        await carried.carry()
        assert not carried.delivered

    run(test)


def test_one_that_is_displaced_while_it_sends_has_not():
    async def test():
        session = FakeSession()
        session.gate.clear()
        carried = conversation(session, FakeSupervisor())
        carrying = asyncio.ensure_future(carried.carry())
        while not session.inbox._getters:  # noqa: ASYNC110  # nobody else is told
            await asyncio.sleep(0)
        # All of it arrives at once: another attach, input, and credit for what is being sent.
        carried.displace()
        carried._granted = 10
        session.inbox.put_nowait(Stdin(b"a"))
        session.gate.set()
        with pytest.raises(TransportError, match="later attach"):
            await carrying
        assert not carried.delivered

    run(test)


def test_output_begins_where_the_log_does_and_has_no_gap_then():
    async def test():
        log = Log(1 << 17)
        for _ in range(8):
            log.append("stdout", b"x" * 65536)
        session = FakeSession()
        assert log.start > 1
        carried = Conversation(session, FakeSupervisor(Ended(0)), log, 1)
        carrying = asyncio.ensure_future(carried.carry())
        await session.said_end.wait()
        session.inbox.put_nowait(CLOSED)
        await carrying
        outputs = [message for message in session.sent if isinstance(message, Output)]
        assert outputs[0].offset == log.start
        assert sum(len(message.data) for message in outputs) == log.end - log.start

    run(test)
