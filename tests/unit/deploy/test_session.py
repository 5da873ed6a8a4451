# SPDX-License-Identifier: Apache-2.0
"""Streams, signals and ends of a workload, against a Keep that is a queue of messages."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from enarx.deploy import session as session_module
from enarx.deploy.session import Conversation, Detached, Ended, Quiet
from enarx.errors import DecodeError, KeepError, TransportError
from enarx.wire.session import Attach, Detach, Exit, Failure, Offer, Output, Signal, Stats, Stdin, Stop, Window
from tests.loops import run

DONE = Exit(0, None, None, None)


class FakeSession:
    """What a conversation talks to."""

    def __init__(self, *messages, then=None):
        self.inbound = asyncio.Queue()
        for message in messages:
            self.inbound.put_nowait(message)
        self.sent = []
        self.is_closed = False
        self.then = then

    async def send(self, *messages, timeout_s=None):
        self.sent += messages
        for message in messages:
            if self.then is not None:
                self.then(self, message)

    async def receive(self):
        message = await self.inbound.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self):
        self.is_closed = True


class Bytes:
    """Standard input that is there already."""

    def __init__(self, data):
        self.data = data
        self.asked = []

    async def read(self, max_bytes):
        self.asked.append(max_bytes)
        data, self.data = self.data[:max_bytes], self.data[max_bytes:]
        return data


class Kept(Quiet):
    """Output that is kept."""

    def __init__(self):
        super().__init__()
        self.written = []

    async def write(self, fd, data):
        self.written.append((fd, data))


def test_shows_both_outputs_in_their_order_and_ends():
    async def use():
        fake, sink = FakeSession(Output("stdout", 0, b"a"), Output("stderr", 1, b"bc"), Stats(1, 2, 3), DONE), Kept()
        conversation = Conversation(fake)
        ended = await conversation.converse(None, sink)
        assert ended == Ended(exit=DONE, was_signalled=False)
        assert sink.written == [(1, b"a"), (2, b"bc")]
        assert conversation.offset == 3
        assert conversation.stats == Stats(1, 2, 3)
        assert fake.is_closed

    run(use)


@pytest.mark.parametrize("offset", [0, 2])
def test_output_that_leaves_a_gap_or_comes_twice_is_refused(offset):
    async def use():
        fake = FakeSession(Output("stdout", 0, b"a"), Output("stdout", offset, b"b"))
        with pytest.raises(DecodeError, match="left something out"):
            await Conversation(fake).converse(None, Kept())

    run(use)


def test_accepts_a_receipt_by_attaching_at_the_beginning_which_leaves_no_gap():
    async def use():
        fake = FakeSession(Output("stdout", 1, b"a"))
        conversation = Conversation(fake)
        await conversation.accept()
        assert fake.sent == [Attach(0)]
        with pytest.raises(DecodeError, match="left something out"):
            await conversation.converse(None, Kept())

    run(use)


def test_the_first_output_of_an_attach_may_begin_later_and_is_said_so():
    async def use():
        fake, said, sink = FakeSession(Output("stdout", 9, b"a"), Output("stdout", 10, b"b"), DONE), [], Kept()
        conversation = Conversation(fake, say=said.append)
        await conversation.attach(2)
        await conversation.converse(None, sink)
        assert said == ["7 bytes of output are gone from the log"]
        assert sink.written == [(1, b"a"), (1, b"b")]
        assert conversation.offset == 11

    run(use)


@pytest.mark.parametrize(
    "messages", [[(1, b"a")], [(2, b"a"), (4, b"b")], [(3, b"a"), (5, b"b")], [(3, b"a"), (3, b"b")]]
)
def test_no_other_output_of_an_attach_may(messages):
    async def use():
        fake = FakeSession(*(Output("stdout", offset, data) for offset, data in messages))
        conversation = Conversation(fake)
        await conversation.attach(2)
        with pytest.raises(DecodeError, match="left something out"):
            await conversation.converse(None, Kept())

    run(use)


def test_a_log_that_has_moved_on_is_shown_up_to_the_next_statistics():
    async def use():
        outputs = Output("stdout", 90, b"abc"), Output("stdout", 93, b"d")
        fake, sink = FakeSession(*outputs, Stats(1, 2, 3), Output("stdout", 94, b"e")), Kept()
        conversation = Conversation(fake)
        await conversation.attach(2)
        outcome = await conversation.converse(None, sink, until=50)
        assert (outcome, sink.written) == (Detached(offset=94), [(1, b"abc"), (1, b"d")])
        assert fake.sent == [Attach(2), Detach()]

    run(use)


def test_a_log_that_has_moved_on_a_little_is_shown_up_to_where_it_was_wanted():
    async def use():
        fake, sink = FakeSession(Stats(1, 2, 3), Output("stdout", 4, b"abc"), Output("stdout", 7, b"d")), Kept()
        conversation = Conversation(fake)
        await conversation.attach(2)
        assert await conversation.converse(None, sink, until=7) == Detached(offset=7)

    run(use)


@pytest.mark.parametrize(("keeps_end", "sent"), [(False, []), (True, [Detach()])])
def test_who_only_reads_along_leaves_the_end_for_others(keeps_end, sent):
    async def use():
        fake = FakeSession(DONE)
        assert (await Conversation(fake).converse(None, Kept(), keeps_end=keeps_end)).exit == DONE
        assert fake.sent == sent
        assert fake.is_closed

    run(use)


def test_sends_no_more_input_than_the_window_and_says_where_it_ends():
    async def use():
        def widen(fake, message):
            if message == Stdin(b""):
                fake.inbound.put_nowait(DONE)
            elif sum(len(each.data) for each in fake.sent) == 4:
                fake.inbound.put_nowait(Window(10))

        source = Bytes(b"abcdef")
        fake = FakeSession(Window(2), Window(4), then=widen)
        await Conversation(fake).converse(source, Kept())
        assert b"".join(message.data for message in fake.sent) == b"abcdef"
        assert fake.sent[-1] == Stdin(b"")
        assert source.asked[0] <= 4

    run(use)


def test_reads_no_input_before_there_is_a_window():
    async def use():
        source = Bytes(b"abc")
        fake = FakeSession(Output("stdout", 0, b"x"), DONE)
        await Conversation(fake).converse(source, Kept())
        assert source.asked == []

    run(use)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (Failure(109, "gone"), KeepError),
        (TransportError("broken"), TransportError),
        (Offer(b"", None, None, (), b""), DecodeError),
    ],
)
def test_a_session_that_breaks_is_no_end(message, kind):
    async def use():
        with pytest.raises(kind):
            await Conversation(FakeSession(message)).converse(None, Kept())

    run(use)


def test_one_interrupt_is_the_workloads_and_the_second_kills():
    async def use():
        def react(fake, message):
            if message == Signal(2):
                os.kill(os.getpid(), signal.SIGINT)
            elif message == Stop(0):
                fake.inbound.put_nowait(Exit(137, None, None, None))

        said = []
        fake = FakeSession(then=react)
        conversation = Conversation(fake, say=said.append)
        with conversation.signals():
            os.kill(os.getpid(), signal.SIGINT)
            ended = await conversation.converse(None, Kept())
        assert ended.was_signalled
        assert fake.sent == [Signal(2), Stop(0)]
        assert "again within 5 seconds" in said[0]

    run(use)


def test_an_interrupt_long_after_another_is_a_first_one_again(monkeypatch):
    async def use():
        monkeypatch.setattr(session_module, "INTERRUPTED_AGAIN_S", -1.0)

        def react(fake, message):
            if fake.sent == [Signal(2)]:
                os.kill(os.getpid(), signal.SIGINT)
            else:
                fake.inbound.put_nowait(DONE)

        fake = FakeSession(then=react)
        conversation = Conversation(fake)
        with conversation.signals():
            os.kill(os.getpid(), signal.SIGINT)
            await conversation.converse(None, Kept())
        assert fake.sent == [Signal(2), Signal(2)]

    run(use)


def test_term_is_passed_on():
    async def use():
        fake = FakeSession(then=lambda fake, _: fake.inbound.put_nowait(Exit(143, None, None, None)))
        conversation = Conversation(fake)
        with conversation.signals():
            os.kill(os.getpid(), signal.SIGTERM)
            ended = await conversation.converse(None, Kept())
        assert fake.sent == [Signal(15)]
        assert ended.exit.status == 143

    run(use)


@pytest.mark.parametrize(("number", "only_leave"), [(signal.SIGHUP, False), (signal.SIGINT, True)])
def test_a_terminal_that_closes_detaches(number, only_leave):
    async def use():
        fake = FakeSession()
        conversation = Conversation(fake)
        await conversation.attach(7)
        with conversation.signals(only_leave=only_leave):
            os.kill(os.getpid(), number)
            outcome = await conversation.converse(None, Kept())
        assert outcome == Detached(offset=7)
        assert fake.sent == [Attach(7), Detach()]
        assert fake.is_closed

    run(use)


@pytest.mark.parametrize("number", [signal.SIGHUP, None])
def test_says_where_the_output_was_left_that_was_shown_while_it_detached(number):
    class Endless(FakeSession):
        """Writes all the time."""

        async def receive(self):
            await asyncio.sleep(0)
            return Output("stdout", conversation.offset, b"a")

        async def close(self):
            await asyncio.sleep(0)

    async def use():
        nonlocal conversation
        conversation, sink = Conversation(Endless()), Kept()
        with conversation.signals():
            if number is None:
                sink.failed.set_result(BrokenPipeError(32, "Broken pipe"))
            else:
                os.kill(os.getpid(), number)
            outcome = await conversation.converse(None, sink)
        assert outcome.offset == conversation.offset == len(sink.written)

    conversation = None
    run(use)


def test_a_session_that_ends_by_a_detach_is_no_error():
    async def use():
        fake = FakeSession(then=lambda fake, _: fake.inbound.put_nowait(TransportError("ended")))
        conversation = Conversation(fake)
        with conversation.signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert await conversation.converse(None, Kept()) == Detached(offset=0)

    run(use)


def test_a_workload_that_ended_is_told_that_it_was_heard_while_input_is_under_way():
    """A call of `send` that is cancelled would break the session, and the Keep would wait for somebody to come back."""

    class Slow(FakeSession):
        async def send(self, *messages, timeout_s=None):
            try:
                await asyncio.Event().wait()
            finally:
                self.was_closed_before = self.is_closed

    async def use():
        fake = Slow(Window(2))
        asyncio.get_running_loop().call_later(0.05, fake.inbound.put_nowait, DONE)
        assert (await Conversation(fake).converse(Bytes(b"ab"), Kept())).exit == DONE
        assert fake.was_closed_before

    run(use)


def test_output_that_nobody_takes_detaches_with_the_reason():
    async def use():
        sink, error = Kept(), BrokenPipeError(32, "Broken pipe")
        sink.failed.set_result(error)
        outcome = await Conversation(FakeSession()).converse(None, sink)
        assert outcome.reason is error

    run(use)


def test_detaches_where_it_was_told_to():
    async def use():
        fake, sink = FakeSession(Output("stdout", 2, b"abc"), Output("stdout", 5, b"d")), Kept()
        conversation = Conversation(fake)
        await conversation.attach(2)
        outcome = await conversation.converse(None, sink, until=5)
        assert fake.sent == [Attach(2), Detach()]
        assert (outcome.offset, sink.written) == (5, [(1, b"abc")])
        nothing = FakeSession()
        assert await Conversation(nothing).converse(None, Kept(), until=0) == Detached(offset=0)

    run(use)


def test_stops_what_writes_without_end_and_shows_nothing_of_it():
    async def use():
        said = []
        fake = FakeSession(Output("stdout", 99, b"a"), Output("stdout", 100, b"b"), DONE)
        conversation = Conversation(fake, say=said.append)
        await conversation.attach(2)
        assert (await conversation.stop(0, Quiet())).exit == DONE
        assert said == []

    run(use)


def test_a_workload_that_does_not_stop_is_said_so(monkeypatch):
    async def use():
        monkeypatch.setattr(session_module, "KILL_TIMEOUT_S", 0.01)
        with pytest.raises(KeepError, match="cannot stop the workload"):
            await Conversation(FakeSession()).stop(0, Quiet())

    run(use)


def test_stops_and_waits_for_the_end():
    async def use():
        fake = FakeSession(then=lambda fake, _: fake.inbound.put_nowait(DONE))
        assert (await Conversation(fake).stop(250, Quiet())).exit == DONE
        assert fake.sent == [Stop(250)]

    run(use)
