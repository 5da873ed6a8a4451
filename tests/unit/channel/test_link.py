# SPDX-License-Identifier: Apache-2.0
"""The link: streams with credit, ends and resets between two real ends, and a real end before a peer that breaks the rules."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

import pytest

from enarx.channel import frames, link
from enarx.channel.frames import MAX_DATA_BYTES, MAX_STREAMS, WINDOW_BYTES, Target
from enarx.channel.link import open_link, relay
from enarx.errors import TransportError, UsageError
from tests.loops import run


class Pair:
    """A host's and a Keep's end, and what each was opened."""

    def __init__(self):
        self.at_host = asyncio.Queue()
        self.at_keep = asyncio.Queue()

    async def __aenter__(self):
        here, there = socket.socketpair()
        self.host, self.keep = await asyncio.gather(
            open_link(here, role="host", accept=self.at_host.put_nowait),
            open_link(there, role="keep", accept=self.at_keep.put_nowait),
        )
        return self

    async def __aexit__(self, *_):
        self.host.close()
        self.keep.close()

    async def session(self):
        mine = await self.host.open(Target.session())
        return mine, await self.at_keep.get()


class Peer:
    """A host's end and, in the place of a Keep, a socket that sends whatever it is told."""

    def __init__(self, *, hello=True, **how):
        self.hello = hello
        self.how = how
        self.accepted = []

    async def __aenter__(self):
        here, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        if self.hello:
            self.sock.send(frames.encode_hello("keep"))
            self.link = await open_link(here, role="host", accept=self.accepted.append, **self.how)
            await self.wire(len(frames.encode_hello("host")))
        else:
            self.here = here
        return self

    async def __aexit__(self, *_):
        if self.hello:
            self.link.close()
        self.sock.close()

    async def wire(self, count):
        """Return as many bytes that the host's end has sent."""
        data = b""
        while len(data) < count:
            data += await asyncio.get_running_loop().sock_recv(self.sock, count - len(data))
        return data

    async def send(self, *what):
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(what))

    async def broken(self, *what):
        """Send what ends the link, and return why it ended."""
        await self.send(*what)
        return await self.link.wait_closed()


def data(number, text):
    return frames.encode_data_header(number, len(text)) + text


async def read_all(stream, size=1 << 18):
    found = bytearray()
    while piece := await stream.read(size):
        found += piece
    return bytes(found)


async def read_to_end(sock):
    """Return everything that a socket receives."""
    found = bytearray()
    while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        found += piece
    return bytes(found)


async def until(condition):
    """Let the loop run until something is so."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def settle():
    """Let both ends do what can be done now."""
    for _ in range(10):
        await asyncio.sleep(0)


# --- Streams


def test_carries_bytes_both_ways_and_ends_each_way_alone():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            assert theirs.target == Target.session()
            await mine.write(b"question")
            mine.end()
            assert await read_all(theirs) == b"question"
            await theirs.write(bytearray(b"ans"))
            await theirs.write(memoryview(b"wer"))
            theirs.end()
            assert await read_all(mine) == b"answer"
            assert not pair.host._streams
            assert not pair.keep._streams
            assert await mine.read() == b""

    run(test)


@pytest.mark.parametrize(
    ("opener", "target"),
    [
        ("host", Target.inbound("http")),
        ("keep", Target.outbound("example.com", 443)),
        ("keep", Target.blob(bytes(32))),
        ("keep", Target.platform()),
    ],
)
def test_each_role_opens_its_own_targets(opener, target):
    async def test():
        async with Pair() as pair:
            own, other, queue = (
                (pair.host, pair.keep, pair.at_keep) if opener == "host" else (pair.keep, pair.host, pair.at_host)
            )
            await own.open(target)
            stream = await queue.get()
            assert stream.target == target
            with pytest.raises(UsageError):
                await other.open(target)

    run(test)


@pytest.mark.parametrize("size", [1, 1000, 65536, 1 << 18])
def test_more_than_a_window_arrives_whole_and_in_order(size):
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            text = os.urandom(5 * WINDOW_BYTES + 77) if size > 1 else os.urandom(3000)

            async def send():
                await mine.write(text)
                mine.end()

            _, found = await asyncio.gather(send(), read_all(theirs, size))
            assert found == text

    run(test)


def test_nothing_written_is_nothing_sent():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            await mine.write(b"")
            mine.end()
            assert await theirs.read() == b""
            with pytest.raises(TransportError):
                await mine.write(b"late")

    run(test)


def test_a_writer_waits_for_a_reader_that_does_not_read():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            writing = asyncio.ensure_future(mine.write(bytes(3 * WINDOW_BYTES)))
            await asyncio.wait([writing], timeout=0.2)
            assert not writing.done()
            assert theirs._unread == pair.keep._buffered == WINDOW_BYTES
            assert pair.host._out_bytes == 0
            found = 0
            while found < 3 * WINDOW_BYTES:
                found += len(await theirs.read())
            await writing
            assert pair.keep._buffered == 0

    run(test)


def test_one_stream_without_credit_stops_no_other():
    async def test():
        async with Pair() as pair:
            stuck, _ = await pair.session()
            writing = asyncio.ensure_future(stuck.write(bytes(2 * WINDOW_BYTES)))
            mine, theirs = await pair.session()
            text = os.urandom(4 * WINDOW_BYTES)

            async def send():
                await mine.write(text)
                mine.end()

            _, found = await asyncio.gather(send(), read_all(theirs))
            assert found == text
            assert not writing.done()
            stuck.reset()
            with pytest.raises(TransportError):
                await writing

    run(test)


def test_streams_take_turns():
    async def test():
        async with Pair() as pair:
            pairs = [await pair.session() for _ in range(4)]
            writing = [asyncio.ensure_future(mine.write(bytes(WINDOW_BYTES))) for mine, _ in pairs]
            spread = 0
            while not all(task.done() for task in writing):
                await asyncio.sleep(0)
                left = [mine._credit for mine, _ in pairs]
                spread = max(spread, max(left) - min(left))
            # Whoever writes first may have one full turn of the loop; nobody has a whole window before another has begun.
            assert spread <= WINDOW_BYTES
            for _, theirs in pairs:
                assert await theirs.read()

    run(test)


def test_small_frames_cost_no_more_memory_than_large_ones():
    async def test():
        async with Peer() as peer:
            await peer.send(frames.encode_open(1, Target.platform()), data(1, b"x") * 5000)
            await until(lambda: peer.accepted and peer.accepted[0]._unread == 5000)
            stream = peer.accepted[0]
            assert len(stream._chunks) == 1
            assert await stream.read() == b"x" * 5000

    run(test)


def test_a_reset_ends_both_ways_and_says_why():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            await mine.write(b"lost")
            reading = asyncio.ensure_future(theirs.read())
            await reading
            reading = asyncio.ensure_future(theirs.read())
            await settle()
            mine.reset("timeout")
            for call in (lambda: reading, theirs.read, lambda: theirs.write(b"x")):
                with pytest.raises(TransportError, match=r"by the peer.*timeout"):
                    await call()
            for call in (mine.read, lambda: mine.write(b"x")):
                with pytest.raises(TransportError, match=r"by this end.*timeout"):
                    await call()
            mine.reset()
            mine.end()
            mine.close()
            assert not pair.host._streams
            assert not pair.keep._streams

    run(test)


def test_a_reset_takes_nothing_back_that_was_ended():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            await mine.write(b"whole")
            mine.close()
            await pair.host.drain()
            assert await read_all(theirs) == b"whole"
            with pytest.raises(TransportError):
                await theirs.write(b"x")
            assert not pair.host._streams
            assert not pair.keep._streams

    run(test)


def test_close_waits_behind_what_is_being_written():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            writing = asyncio.ensure_future(mine.write(bytes(2 * WINDOW_BYTES)))
            await settle()
            mine.close()
            assert len(await read_all(theirs)) == 2 * WINDOW_BYTES
            await writing

    run(test)


def test_a_cancelled_read_has_taken_nothing():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            for _ in range(20):
                reading = asyncio.ensure_future(theirs.read())
                await asyncio.sleep(0)
                await mine.write(b"x")
                reading.cancel()
                found = await asyncio.gather(reading, return_exceptions=True)
                assert isinstance(found[0], asyncio.CancelledError)
                assert await theirs.read() == b"x"

    run(test)


def test_a_cancelled_write_has_sent_nothing_or_reset_the_stream():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            await mine.write(bytes(WINDOW_BYTES))
            writing = asyncio.ensure_future(mine.write(b"never"))
            await settle()
            writing.cancel()
            await asyncio.wait([writing])
            mine.end()
            assert await read_all(theirs) == bytes(WINDOW_BYTES)

            mine, theirs = await pair.session()
            writing = asyncio.ensure_future(mine.write(bytes(2 * WINDOW_BYTES)))
            await settle()
            writing.cancel()
            await asyncio.wait([writing])
            with pytest.raises(TransportError, match="reset by the peer"):
                await read_all(theirs)

    run(test)


def test_writes_of_several_tasks_do_not_mix():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            texts = [bytes([n]) * 200_000 for n in range(8)]
            writing = [asyncio.ensure_future(mine.write(text)) for text in texts]
            found = bytearray()
            while len(found) < 8 * 200_000:
                found += await theirs.read()
            await asyncio.gather(*writing)
            assert bytes(found) == b"".join(texts)

    run(test)


def test_at_most_so_many_streams_are_open():
    async def test():
        async with Pair() as pair:
            opened = [await pair.host.open(Target.session()) for _ in range(MAX_STREAMS)]
            with pytest.raises(TransportError):
                await pair.host.open(Target.session())
            opened[0].reset()
            await pair.host.open(Target.session())

    run(test)


def test_a_peer_that_opens_more_is_told_so():
    async def test():
        async with Peer() as peer:
            opens = [frames.encode_open(1 + 2 * n, Target.platform()) for n in range(MAX_STREAMS + 1)]
            await peer.send(*opens)
            expected = frames.encode_reset(1 + 2 * MAX_STREAMS, "limit")
            assert await peer.wire(len(expected)) == expected
            assert len(peer.accepted) == MAX_STREAMS
            assert not peer.link.closed.is_set()

    run(test)


def test_without_somebody_to_accept_every_stream_is_refused():
    async def test():
        here, there = socket.socketpair()
        host, keep = await asyncio.gather(open_link(here, role="host"), open_link(there, role="keep"))
        stream = await host.open(Target.session())
        with pytest.raises(TransportError, match="refused"):
            await stream.read()
        host.close()
        keep.close()

    run(test)


def test_what_nobody_reads_is_bounded_over_all_streams():
    async def test():
        async with Peer(max_buffered_bytes=100_000) as peer:
            block = bytes(MAX_DATA_BYTES)
            await peer.send(
                *(frames.encode_open(1 + 2 * n, Target.platform()) + data(1 + 2 * n, block) for n in range(2))
            )
            expected = frames.encode_reset(3, "limit")
            assert await peer.wire(len(expected)) == expected
            assert peer.link._buffered == MAX_DATA_BYTES
            assert await peer.accepted[0].read() == block
            assert peer.link._buffered == 0

    run(test)


# --- The link's end


def test_the_end_of_a_link_ends_every_stream():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            complete, other = await pair.session()
            await complete.write(b"whole")
            complete.end()
            await until(lambda: other._ended)
            reading = asyncio.ensure_future(theirs.read())
            writing = asyncio.ensure_future(theirs.write(bytes(2 * WINDOW_BYTES)))
            await settle()
            pair.host.close()
            for call in (lambda: reading, lambda: writing, lambda: mine.write(b"x"), mine.read):
                with pytest.raises(TransportError, match="link: "):
                    await call()
            assert await read_all(other) == b"whole"
            assert await pair.keep.wait_closed() == "found it closed by the peer"
            with pytest.raises(TransportError):
                await pair.keep.open(Target.platform())
            await pair.keep.drain()
            pair.keep.close()

    run(test)


def test_a_hello_that_comes_as_the_host_loses_patience_is_the_beginning_of_a_link(monkeypatch):
    """What ends an earlier link would end the new one, were it sent after the host's hello."""

    async def work():
        monkeypatch.setattr(link, "BREAK_S", 0.01)
        async with Peer(hello=False) as peer:
            opening = asyncio.ensure_future(open_link(peer.here, role="host"))
            await asyncio.sleep(0)
            # Both are there when the loop looks again, as they are in a process that had to wait for a processor.
            late = time.monotonic() + 2 * link.BREAK_S
            peer.sock.send(frames.encode_hello("keep"))
            while time.monotonic() < late:
                pass
            opened = await opening
            opened.close()
            assert await read_to_end(peer.sock) == frames.encode_hello("host")

    run(work)


def test_a_hello_comes_first_and_in_time():
    async def test():
        for sent in (
            frames.encode_open(1, Target.platform()),
            data(1, b"x"),
            frames.encode_hello("host"),
            b"GET / HTTP/1.1\r\n\r\n",
            frames.encode_hello("keep")[:3],
        ):
            async with Peer(hello=False) as peer:
                await peer.send(sent)
                with pytest.raises(TransportError):
                    await open_link(peer.here, role="host", timeout_s=0.1)
                assert peer.here.fileno() == -1
        async with Peer(hello=False) as peer:
            peer.sock.close()
            with pytest.raises(TransportError, match=r"closed by the peer|broken pipe|reset"):
                await open_link(peer.here, role="host")
        async with Peer(hello=False) as peer:
            opening = asyncio.ensure_future(open_link(peer.here, role="host"))
            await settle()
            opening.cancel()
            await asyncio.wait([opening])
            assert peer.here.fileno() == -1

    run(test)


@pytest.mark.parametrize(
    "wrong",
    [
        [frames.encode_hello("keep")],
        [frames.encode_open(0, Target.platform())],
        [frames.encode_open(1, Target.session())],
        [frames.encode_open(1, Target.inbound("x"))],
        [frames.encode_open(3, Target.platform()), frames.encode_open(1, Target.platform())],
        [frames.encode_open(1, Target.platform()), frames.encode_open(1, Target.platform())],
        [
            frames.encode_open(1, Target.platform()),
            frames.encode_reset(1, "closed"),
            frames.encode_open(1, Target.platform()),
        ],
        [data(1, b"x")],
        [data(0, b"x")],
        [frames.encode_credit(1, 1)],
        [frames.encode_end(0)],
        [frames.encode_reset(7, "closed")],
        [frames.encode_open(1, Target.platform()), frames.encode_end(1), data(1, b"x")],
        [frames.encode_open(1, Target.platform()), frames.encode_end(1), frames.encode_end(1)],
        [frames.encode_open(1, Target.platform()), frames.encode_credit(1, 1)],
        [frames.encode_open(1, Target.platform()), *[data(1, bytes(MAX_DATA_BYTES))] * 16, data(1, b"x")],
        [b"\0\0"],
    ],
    ids=str,
)
def test_a_peer_that_breaks_a_rule_loses_the_link(wrong):
    async def test():
        async with Peer() as peer:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                assert "by the peer" not in await peer.broken(*wrong)
            assert peer.link.closed.is_set()

    run(test)


def test_frames_that_cross_a_reset_are_no_mistake():
    async def test():
        async with Peer() as peer:
            await peer.send(frames.encode_open(1, Target.platform()))
            await until(lambda: peer.accepted)
            peer.accepted[0].reset("refused")
            own = await peer.link.open(Target.session())
            own.reset()
            await peer.send(
                data(1, b"x"), frames.encode_credit(1, 5), frames.encode_end(1), frames.encode_reset(1, "closed")
            )
            await peer.send(data(0, b"x"), frames.encode_open(3, Target.platform()))
            await until(lambda: len(peer.accepted) == 2)
            assert not peer.link.closed.is_set()

    run(test)


def test_a_peer_that_sends_and_never_reads_loses_the_link(monkeypatch):
    monkeypatch.setattr(link, "_MAX_BACKLOG_BYTES", 1 << 16)
    monkeypatch.setattr(link, "_SOCKET_BUFFER_BYTES", 1 << 12)

    async def test():
        async with Peer() as peer:
            peer.link._accept = None
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            number = 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while not peer.link.closed.is_set():
                    await peer.send(*(frames.encode_open(number + 2 * n, Target.platform()) for n in range(1000)))
                    number += 2000
                    assert peer.link._out_bytes < 1 << 20
            assert peer.link.reason == "found a peer that sends and does not read"

    run(test)


# --- Relays


class Relayed:
    """A socket at each end, with two relays and a link between them."""

    async def __aenter__(self):
        self.pair = await Pair().__aenter__()
        self.near, near = socket.socketpair()
        self.far, far = socket.socketpair()
        for sock in (self.near, self.far):
            sock.setblocking(False)
        mine = await self.pair.host.open(Target.inbound("x"))
        theirs = await self.pair.at_keep.get()
        self.tasks = [asyncio.ensure_future(relay(mine, near)), asyncio.ensure_future(relay(theirs, far))]
        self.streams = mine, theirs
        self.loop = asyncio.get_running_loop()
        # A task that is cancelled before it began has never run the first line of what it was to do.
        await settle()
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.near.close()
        self.far.close()
        await self.pair.__aexit__()


def test_a_relay_carries_bytes_both_ways_and_keeps_a_half_close():
    async def test():
        async with Relayed() as relayed:
            text = os.urandom(5 << 20)

            async def send(sock, text):
                await relayed.loop.sock_sendall(sock, text)
                sock.shutdown(socket.SHUT_WR)

            for here, there in ((relayed.near, relayed.far), (relayed.far, relayed.near)):
                _, found = await asyncio.gather(send(here, text), read_to_end(there))
                assert found == text
            await asyncio.gather(*relayed.tasks)
            assert not relayed.pair.host._streams
            assert not relayed.pair.keep._streams

    run(test)


def test_a_relay_bounds_what_a_slow_reader_leaves():
    async def test():
        async with Relayed() as relayed:
            sending = asyncio.ensure_future(relayed.loop.sock_sendall(relayed.near, bytes(16 << 20)))
            await asyncio.wait([sending], timeout=0.3)
            assert not sending.done()
            assert 0 < relayed.pair.keep._buffered <= WINDOW_BYTES
            found = 0
            while found < 16 << 20:
                found += len(await relayed.loop.sock_recv(relayed.far, 1 << 20))
            await sending

    run(test)


def test_a_relay_whose_socket_breaks_resets_the_stream():
    async def test():
        async with Relayed() as relayed:
            relayed.far.close()
            await relayed.loop.sock_sendall(relayed.near, b"x")
            found = await asyncio.gather(*relayed.tasks, return_exceptions=True)
            assert all(isinstance(error, TransportError) for error in found)
            assert await relayed.loop.sock_recv(relayed.near, 1) == b""

    run(test)


def test_what_a_socket_sent_before_it_went_away_arrives():
    async def test():
        async with Relayed() as relayed:
            # The far end answers, leaves a byte unread, and goes; the near end reads late.
            await relayed.loop.sock_sendall(relayed.near, b"x")
            await settle()
            text = os.urandom(300_000)

            async def answer():
                await relayed.loop.sock_sendall(relayed.far, text)
                relayed.far.close()

            await asyncio.gather(answer(), relayed.loop.sock_sendall(relayed.near, b"y" * 100_000))
            found = bytearray()
            while piece := await relayed.loop.sock_recv(relayed.near, 10_000):
                found += piece
                await asyncio.sleep(0)
            assert found == text

    run(test)


def test_a_relay_of_a_stream_that_is_reset_closes_the_socket():
    async def test():
        async with Relayed() as relayed:
            relayed.pair.host.close()
            found = await asyncio.gather(*relayed.tasks, return_exceptions=True)
            assert all(isinstance(error, TransportError) for error in found)
            assert await relayed.loop.sock_recv(relayed.near, 1) == b""
            late = socket.socketpair()
            with pytest.raises(TransportError), late[1]:
                await relay(relayed.streams[0], late[0])
            assert late[0].fileno() == -1

    run(test)


def test_a_cancelled_relay_resets_the_stream_and_closes_the_socket():
    async def test():
        async with Relayed() as relayed:
            relayed.tasks[0].cancel()
            await asyncio.wait(relayed.tasks)
            assert relayed.tasks[0].cancelled()
            assert isinstance(relayed.tasks[1].exception(), TransportError)
            assert await relayed.loop.sock_recv(relayed.far, 1) == b""

    run(test)


def test_a_relay_takes_over_what_came_before_it():
    async def test():
        async with Pair() as pair:
            mine, theirs = await pair.session()
            await mine.write(b"early")
            mine.end()
            await until(lambda: theirs._ended)
            near, far = socket.socketpair()
            relaying = asyncio.ensure_future(relay(theirs, far))
            near.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(near, 100) == b"early"
            near.close()
            await relaying
            assert await read_all(mine) == b""

    run(test)


def test_the_host_says_that_an_outbound_connection_is_there():
    async def test():
        async with Pair() as pair:
            stream = await pair.keep.open(Target.outbound("peer.example", 80))
            theirs = await pair.at_host.get()
            waiting = asyncio.create_task(stream.wait_confirmed())
            await until(lambda: waiting.get_coro().cr_await is not None)
            assert not waiting.done()
            theirs.confirm()
            await waiting
            await theirs.write(b"hello")
            assert await stream.read() == b"hello"

    run(test)


@pytest.mark.parametrize("reason", ["unreachable", "refused", "timeout"])
def test_the_host_says_why_an_outbound_connection_is_not_there(reason):
    async def test():
        async with Pair() as pair:
            stream = await pair.keep.open(Target.outbound("peer.example", 80))
            (await pair.at_host.get()).reset(reason)
            with pytest.raises(TransportError, match=reason):
                await stream.wait_confirmed()
            assert stream.reset_reason == reason

    run(test)


def test_a_link_that_breaks_is_no_connection():
    async def test():
        async with Pair() as pair:
            stream = await pair.keep.open(Target.outbound("peer.example", 80))
            pair.host.close()
            with pytest.raises(TransportError):
                await stream.wait_confirmed()
            assert stream.reset_reason is None

    run(test)


def test_a_keep_does_not_say_that_a_connection_is_there():
    async def test():
        async with Peer() as peer:
            await peer.send(frames.encode_open(1, Target.outbound("h", 1)))
            assert "opened" in await peer.broken(frames.encode_opened(1))

    run(test)


def test_a_connection_is_there_once():
    async def test():
        async with Pair() as pair:
            stream = await pair.keep.open(Target.outbound("peer.example", 80))
            theirs = await pair.at_host.get()
            theirs.confirm()
            theirs.confirm()
            assert "that once" in await pair.keep.wait_closed()
            with pytest.raises(TransportError):
                await stream.read()

    run(test)


@pytest.mark.parametrize("is_peer_gone", [True, False], ids=["ended", "others hold its socket"])
def test_what_a_peer_said_before_its_end_is_read(is_peer_gone):
    async def check():
        async with Peer() as peer:
            stream = await peer.link.open(Target.session())
            other = await peer.link.open(Target.session())
            await peer.send(frames.encode_data_header(stream.number, 9), b"last word", frames.encode_end(stream.number))
            if is_peer_gone:
                peer.sock.close()
            # Nothing is waited for: whoever sees the end of a process may see it first.
            peer.link.close_after_peer("found the Keep ended")
            assert await stream.read() == b"last word"
            assert await stream.read() == b""
            with pytest.raises(TransportError, match="link: found the Keep ended"):
                await other.read()

    run(check)


def test_what_a_peer_said_is_read_where_it_takes_no_more():
    async def check():
        async with Peer() as peer:
            stream = await peer.link.open(Target.session())
            other = await peer.link.open(Target.session())
            await peer.send(frames.encode_data_header(stream.number, 9), b"last word", frames.encode_end(stream.number))
            peer.sock.close()
            # Said before anything is read: the socket refuses it, and has what came.
            await stream.write(b"too late")
            assert await stream.read() == b"last word"
            assert await stream.read() == b""
            with pytest.raises(TransportError, match=r"link: found (broken pipe|connection reset by peer)"):
                await other.read()

    run(check)


def test_a_link_that_is_closed_at_once_loses_what_was_not_read():
    async def check():
        async with Peer() as peer:
            stream = await peer.link.open(Target.session())
            await peer.send(frames.encode_data_header(stream.number, 9), b"last word", frames.encode_end(stream.number))
            peer.link.close("found the Keep ended")
            with pytest.raises(TransportError, match="link: found the Keep ended"):
                await stream.read()

    run(check)


def test_a_peer_that_has_ended_is_not_read_for_ever():
    async def check():
        async with Peer() as peer:
            stream = await peer.link.open(Target.session())
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(link, "_MAX_LAST_BYTES", 0)
                peer.link._view = memoryview(bytearray(1))
                before = peer.link.received_bytes
                await peer.send(frames.encode_end(stream.number))
                peer.link.close_after_peer("found the Keep ended")
            assert peer.link.received_bytes - before == 1
            assert peer.link.reason == "found the Keep ended"

    run(check)
