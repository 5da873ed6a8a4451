# SPDX-License-Identifier: Apache-2.0
"""A session's bytes between its WebSocket and its stream: the last ones arrive, whoever notices the end first."""

from __future__ import annotations

import asyncio

from enarx.errors import TransportError
from enarx.host import api
from tests.loops import run


class Socket:
    """A tenant who says one thing and then listens, or goes."""

    def __init__(self, *, leaves=False):
        self.said = [{"type": "websocket.receive", "bytes": b"more"}]
        self.leaves = leaves
        self.heard = []

    async def receive(self):
        if self.said:
            return self.said.pop()
        if self.leaves:
            return {"type": "websocket.disconnect"}
        return await asyncio.Event().wait()

    async def send_bytes(self, data):
        self.heard.append(data)

    async def close(self, code, reason):
        self.heard.append(code)


class Stream:
    """Of a Keep that takes nothing any more, and whose last word is read after that was noticed."""

    def __init__(self, *pieces, takes=False):
        self.pieces = [*pieces, b""]
        self.takes = takes
        self.refused = asyncio.Event()

    async def write(self, _):
        self.refused.set()
        if not self.takes:
            raise TransportError("link: found the Keep ended")

    async def read(self, _):
        await self.refused.wait()
        # Others have their turn, and what carries the other way ends in it.
        for _ in range(5):
            await asyncio.sleep(0)
        if self.takes:
            await asyncio.Event().wait()
        return self.pieces.pop(0)


def test_the_last_word_arrives_where_the_keep_takes_no_more():
    async def check():
        socket = Socket()
        await api._carry(socket, Stream(b"refused", b", and why"))
        assert socket.heard == [b"refused", b", and why", 1000]

    run(check)


def test_nothing_is_carried_for_a_tenant_who_has_gone():
    async def check():
        socket = Socket(leaves=True)
        await api._carry(socket, Stream(b"never", takes=True))
        assert socket.heard == []

    run(check)


def test_a_last_word_that_does_not_come_is_waited_for_a_while(monkeypatch):
    class Silent(Stream):
        async def read(self, _):
            await asyncio.Event().wait()

    async def check():
        socket = Socket()
        await api._carry(socket, Silent())
        assert socket.heard == []

    monkeypatch.setattr(api, "HANG_UP_TIMEOUT_S", 0.01)
    run(check)


def test_an_end_that_is_none_is_told():
    class Broken(Stream):
        async def read(self, _):
            raise TransportError("link: found the Keep ended")

    async def check():
        socket = Socket()
        await api._carry(socket, Broken())
        assert socket.heard == [1011]

    run(check)
