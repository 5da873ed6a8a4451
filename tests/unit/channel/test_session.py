# SPDX-License-Identifier: Apache-2.0
"""Sessions: messages between two real ends over a link, and an end before a peer that is not one."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime

import pytest

from enarx.channel.frames import Target
from enarx.channel.link import open_link
from enarx.channel.session import Session
from enarx.channel.tls import TlsEnd
from enarx.channel.transcript import Transcript
from enarx.crypto.x509 import make_self_signed
from enarx.errors import DecodeError, TransportError, UsageError
from enarx.wire.session import Challenge, Detach, Failure, Output, Stats, Stdin, encode_message
from tests.loops import run

TENANT = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))
KEEP = make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))


async def receive_all(session):
    while True:
        await session.receive(5)


class Streams:
    """The two ends of one stream of a link."""

    async def __aenter__(self):
        here, there = socket.socketpair()
        accepted = asyncio.Queue()
        self.links = await asyncio.gather(
            open_link(here, role="host"), open_link(there, role="keep", accept=accepted.put_nowait)
        )
        self.mine = await self.links[0].open(Target.session())
        self.theirs = await accepted.get()
        return self

    async def __aexit__(self, *_):
        for link in self.links:
            link.close()


class Sessions(Streams):
    """A tenant's and a Keep's end."""

    async def __aenter__(self):
        await super().__aenter__()
        self.tenant, self.keep = await asyncio.gather(
            Session.handshake(self.mine, TENANT, "tenant"), Session.handshake(self.theirs, KEEP, "keep")
        )
        return self


def test_a_message_that_nobody_takes_has_its_time():
    async def test():
        async with Sessions() as both:
            with pytest.raises(TransportError, match="not taken, want it taken within"):
                # More than the stream's credit; the Keep reads nothing.
                await both.tenant.send(*[Stdin(bytes(65536))] * 256, timeout_s=0.5)
            with pytest.raises(TransportError):
                await both.tenant.send(Detach())

    run(test)


def test_what_the_peer_said_before_it_went_can_still_be_heard():
    async def test():
        async with Sessions() as both:
            await both.keep.send(Failure(107, "too late"))
            await both.keep.close()
            with pytest.raises(TransportError):
                # More than the stream's credit.
                await both.tenant.send(*[Stdin(bytes(65536))] * 256, timeout_s=5)
            with pytest.raises(TransportError):
                await both.tenant.send(Detach())
            assert await both.tenant.hear_out(5) == Failure(107, "too late")
            assert await both.tenant.hear_out(5) is None

    run(test)


def test_carries_messages_both_ways_in_their_order():
    async def test():
        async with Sessions() as both:
            challenge = Challenge(bytes(32), ("application/x",))
            await both.tenant.send(challenge, Detach())
            assert await both.keep.receive(5) == challenge
            assert both.keep.received == encode_message(challenge)
            assert await both.keep.receive() == Detach()
            await both.keep.send(Stats(1, 2, 3))
            assert await both.tenant.receive(5) == Stats(1, 2, 3)

    run(test)


def test_both_ends_have_the_same_transcript():
    async def test():
        async with Sessions() as both:
            parts = both.tenant.transcript(b"challenge")
            assert parts == both.keep.transcript(b"challenge")
            assert parts == Transcript(both.tenant.exporter, both.keep.own_leaf, both.tenant.own_leaf, b"challenge")
            assert both.keep.peer_leaf == both.tenant.own_leaf

    run(test)


def test_many_and_long_messages_arrive_whole():
    async def test():
        async with Sessions() as both:
            data = os.urandom(65536)
            sent = [Output("stdout", n * 65536, data) for n in range(64)]

            async def send():
                for start in range(0, 64, 8):
                    await both.keep.send(*sent[start : start + 8])

            sending = asyncio.ensure_future(send())
            assert [await both.tenant.receive(5) for _ in sent] == sent
            await sending

    run(test)


def test_senders_of_several_tasks_follow_one_another():
    async def test():
        async with Sessions() as both:
            sending = [asyncio.ensure_future(both.tenant.send(Stdin(bytes([n]) * 60_000))) for n in range(40)]
            found = [(await both.keep.receive(5)).data[0] for _ in range(40)]
            assert sorted(found) == list(range(40))
            await asyncio.gather(*sending)

    run(test)


def test_a_cancelled_receive_loses_nothing():
    async def test():
        async with Sessions() as both:
            for n in range(10):
                receiving = asyncio.ensure_future(both.keep.receive())
                await asyncio.sleep(0)
                await both.tenant.send(Stdin(bytes([n])))
                receiving.cancel()
                await asyncio.wait([receiving])
                assert await both.keep.receive(5) == Stdin(bytes([n]))

    run(test)


def test_a_send_that_is_cancelled_halfway_breaks_the_session():
    async def test():
        async with Sessions() as both:
            sending = asyncio.ensure_future(both.tenant.send(*[Stdin(bytes(65536))] * 40))
            await asyncio.wait([sending], timeout=0.2)
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])
            with pytest.raises(TransportError):
                await both.tenant.send(Detach())
            with pytest.raises(TransportError):
                await receive_all(both.keep)

    run(test)


def test_an_orderly_end_comes_after_the_last_message():
    async def test():
        async with Sessions() as both:
            await both.tenant.send(Detach())
            await both.tenant.close()
            await both.tenant.close()
            assert await both.keep.receive(5) == Detach()
            with pytest.raises(TransportError, match="ended by the peer"):
                await both.keep.receive(5)
            assert both.keep.ended
            await both.keep.close()
            with pytest.raises(TransportError):
                await both.tenant.send(Detach())

    run(test)


def test_an_end_without_that_of_tls_is_no_orderly_one():
    async def test():
        async with Sessions() as both:
            both.mine.end()
            with pytest.raises(TransportError, match="without TLS"):
                await both.keep.receive(5)
            assert not both.keep.ended
            with pytest.raises(TransportError):
                await both.keep.receive(5)

    run(test)


def test_waits_no_longer_than_it_is_told():
    async def test():
        async with Sessions() as both:
            with pytest.raises(TransportError, match=r"within 0\.05 s"):
                await both.keep.receive(0.05)
            await both.tenant.send(Detach())
            assert await both.keep.receive(5) == Detach()
        async with Streams() as streams:
            with pytest.raises(TransportError, match=r"within 0\.05 s"):
                await Session.handshake(streams.theirs, KEEP, "keep", 0.05)
            assert await streams.mine.read() == b""
            with pytest.raises(TransportError):
                await streams.mine.write(b"x")

    run(test)


@pytest.mark.parametrize("length", [0, (2 << 20) + 1, 0xFFFFFFFF])
def test_refuses_a_message_of_a_wrong_length_before_it_comes(length):
    async def test():
        async with Sessions() as both:
            both.tenant._tls.write(length.to_bytes(4, "big"))
            await both.mine.write(both.tenant._tls.take_output())
            with pytest.raises(DecodeError):
                await both.keep.receive(5)
            with pytest.raises(TransportError):
                await both.keep.send(Stats(1, 2, 3))

    run(test)


def test_refuses_a_message_of_the_other_direction_and_what_is_none():
    async def test():
        for body in (encode_message(Stats(1, 2, 3)), b"\xff", bytes(2 << 20)):
            async with Sessions() as both:
                both.tenant._tls.write(len(body).to_bytes(4, "big") + body)
                sending = asyncio.ensure_future(both.mine.write(both.tenant._tls.take_output()))
                with pytest.raises(DecodeError):
                    await both.keep.receive(5)
                await sending

    run(test)


def test_a_peer_that_is_none_is_told_and_refused():
    async def test():
        async with Streams() as streams:
            await streams.mine.write(b"\x16\x03\x01\0\x05hello")
            with pytest.raises(TransportError, match="handshake"):
                await Session.handshake(streams.theirs, KEEP, "keep")
            # The alert was sent before the end.
            assert (await streams.mine.read())[:1] == b"\x15"
        async with Streams() as streams:
            streams.theirs.end()
            with pytest.raises(TransportError, match="end of the stream"):
                await Session.handshake(streams.mine, TENANT, "tenant")
        async with Streams() as streams:
            handshake = asyncio.ensure_future(Session.handshake(streams.mine, TENANT, "tenant"))
            await streams.theirs.read()
            handshake.cancel()
            await asyncio.wait([handshake])
            assert await streams.theirs.read() == b""
            with pytest.raises(UsageError):
                await Session.handshake(streams.theirs, KEEP, "host")

    run(test)


def test_bytes_that_the_host_changes_end_the_session():
    async def test():
        async with Sessions() as both:
            both.tenant._tls.write(b"\0\0\0\1x")
            wire = bytearray(both.tenant._tls.take_output())
            wire[7] ^= 1
            await both.mine.write(wire)
            for _ in range(2):
                with pytest.raises(TransportError):
                    await both.keep.receive(5)

    run(test)


def test_a_session_needs_nothing_of_a_stream_but_three_functions():
    class Loop:
        def __init__(self, peer):
            self.peer = peer
            self.closed = False

        async def read(self):
            return self.peer.take_output()

        async def write(self, data):
            self.peer.receive(data)

        def close(self):
            self.closed = True

    async def test():
        keep = TlsEnd.for_keep(KEEP)
        stream = Loop(keep)
        session = await Session.handshake(stream, TENANT, "tenant")
        await session.send(Detach())
        body = encode_message(Detach())
        assert keep.read() == len(body).to_bytes(4, "big") + body
        await session.close()
        assert stream.closed

    run(test)
