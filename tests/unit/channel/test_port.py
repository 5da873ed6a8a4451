# SPDX-License-Identifier: Apache-2.0
"""A port in the place of a socket. What stands for the device here is a socket or a FIFO: the calls and their answers are the same."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from enarx.channel import frames
from enarx.channel.frames import Target
from enarx.channel.link import open_link
from enarx.channel.port import Port, PortConnection
from enarx.errors import PlatformError, TransportError

WAIT_S = 20


@pytest.fixture
def ends():
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with here, there:
        yield PortConnection(here.fileno()), there


def test_pieces_arrive_in_order(ends):
    port, host = ends
    assert port.sendmsg([b"one", bytearray(b"two"), memoryview(b"three")]) == 11
    assert host.recv(100) == b"onetwothree"


def test_says_how_much_it_took(ends):
    port, host = ends
    pieces = [bytes([number]) * 70_000 for number in range(64)]
    sent = port.sendmsg(pieces)
    assert 0 < sent < 64 * 70_000
    with pytest.raises(BlockingIOError):
        port.sendmsg(pieces)
    received = b""
    while len(received) < sent:
        received += host.recv(1 << 20)
    assert received == b"".join(pieces)[:sent]
    with pytest.raises(BlockingIOError):
        host.recv(1)


def test_sends_nothing_where_there_is_nothing(ends):
    port, _ = ends
    assert port.sendmsg([]) == 0


def test_receives_over_page_after_page(ends):
    port, host = ends
    data = os.urandom(20_000)
    host.send(data)
    view = memoryview(bytearray(1 << 18))
    assert port.recv_into(view) == 20_000
    assert view[:20_000] == data
    with pytest.raises(BlockingIOError):
        port.recv_into(view)
    host.close()
    assert port.recv_into(view) == 0


def test_closing_a_connection_leaves_the_port(ends):
    port, host = ends
    port.close()
    port.sendmsg([b"x"])
    assert host.recv(1) == b"x"


def test_a_port_that_is_not_there(tmp_path):
    with pytest.raises(PlatformError, match=r"cannot open .*: No such file"):
        Port.open(str(tmp_path / "vport0p1"))


def test_waits_for_the_next_host(tmp_path):
    # What stands for hosts is whoever has the FIFO open for writing.
    path = str(tmp_path / "port")
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.close(os.open(path, os.O_WRONLY))

    async def test():
        port = Port(reading)
        for _ in range(2):
            waiting = asyncio.ensure_future(port.accept())
            await settle()
            assert not waiting.done()
            host = os.open(path, os.O_WRONLY)
            os.write(host, b"x")
            connection = await asyncio.wait_for(waiting, WAIT_S)
            assert (await asyncio.wait_for(port.accept(), WAIT_S)).fileno() == reading
            view = memoryview(bytearray(10))
            assert connection.recv_into(view) == 1
            os.close(host)
            assert connection.recv_into(view) == 0
        port.close()

    asyncio.run(test())
    os.close(reading)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_carries_a_link(ends):
    port, sock = ends
    data = os.urandom(3_000_000)

    async def test():
        opened = asyncio.Queue()
        keep, host = await asyncio.gather(
            open_link(port, role="keep", accept=opened.put_nowait), open_link(sock, role="host")
        )
        mine = await host.open(Target.session())
        theirs = await opened.get()

        async def send(stream):
            await stream.write(data)
            stream.end()

        async def receive(stream):
            found = bytearray()
            while piece := await stream.read():
                found += piece
            return bytes(found)

        async with asyncio.timeout(WAIT_S):
            found = await asyncio.gather(send(mine), send(theirs), receive(mine), receive(theirs))
        assert found[2:] == [data, data]
        host.close()
        assert await keep.wait_closed() == "found it closed by the peer"

    asyncio.run(test())


def test_the_next_host_is_not_confused_by_what_was_left(ends):
    """The Keep has not noticed that its host went and another came, in the midst of a frame of each side."""
    port, sock = ends
    host_before = frames.encode_hello("host") + frames.encode_open(0, Target.session())

    async def test():
        sock.send(host_before + frames.encode_data_header(0, 60_000) + bytes(100))
        before = await open_link(port, role="keep", accept=lambda _: None)
        stream = await before.open(Target.platform())
        await stream.write(b"for the host that went")
        await settle()
        assert sock.recv(100).startswith(frames.encode_hello("keep"))
        await stream.write(b"for the host that went, too")
        async with asyncio.timeout(WAIT_S):
            arriving = asyncio.ensure_future(open_link(sock, role="host"))
            assert "length of a header" in await before.wait_closed()
            keep, host = await asyncio.gather(open_link(port, role="keep", accept=lambda s: s.end()), arriving)
            assert await (await host.open(Target.session())).read() == b""
        host.close()
        keep.close()

    asyncio.run(test())


def test_a_host_speaks_when_it_is_spoken_to(ends):
    port, sock = ends

    async def test():
        arriving = asyncio.ensure_future(open_link(sock, role="host"))
        await settle()
        view = memoryview(bytearray(100))
        with pytest.raises(BlockingIOError):
            port.recv_into(view)
        port.sendmsg([b"the end of something", frames.encode_hello("keep")])
        host = await arriving
        count = port.recv_into(view)
        assert view[:count] == frames.encode_hello("host")
        host.close()

    asyncio.run(test())


def test_a_hello_comes_in_pieces(ends):
    port, sock = ends

    async def test():
        arriving = asyncio.ensure_future(open_link(sock, role="host"))
        for byte in b"\0\x0a" + frames.encode_hello("keep"):
            port.sendmsg([bytes([byte])])
            await settle()
        (await arriving).close()

    asyncio.run(test())


def test_the_other_role_is_no_peer(ends):
    port, sock = ends

    async def test():
        port.sendmsg([frames.encode_hello("host")])
        with pytest.raises(TransportError, match="found no hello of the peer"):
            await open_link(sock, role="host", timeout_s=0.1)

    asyncio.run(test())
