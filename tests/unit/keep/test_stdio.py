# SPDX-License-Identifier: Apache-2.0
"""The Keep's ends of a workload's standard streams."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from enarx.keep.stdio import Inlet
from enarx.keep.workload_spawn import make_stdin


@pytest.mark.parametrize("size", [1, 7, 4096, 5000])
def test_input_that_comes_in_pieces_is_kept_in_few_and_in_order(size):
    data = os.urandom(1 << 17)

    async def test():
        reading, writing = make_stdin()
        # Full: everything that is given waits.
        os.set_blocking(writing, False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(writing, bytes(4096))
        inlet = Inlet(writing, lambda: None)
        for at in range(0, len(data), size):
            inlet.write(data[at : at + size])
        assert inlet.waiting_bytes == len(data)
        assert len(inlet._waiting) <= len(data) // 2048 + 1
        inlet.write(b"")
        got = b""
        while len(got) < filled + len(data):
            got += await asyncio.to_thread(os.read, reading, 1 << 16)
        assert got[filled:] == data
        assert await asyncio.to_thread(os.read, reading, 1) == b""
        assert inlet.waiting_bytes == 0
        os.close(reading)

    run(test)


def test_what_comes_together_leaves_together():
    async def test():
        told = []
        reading, writing = make_stdin()
        inlet = Inlet(writing, lambda: told.append(inlet.waiting_bytes))
        for number in range(5):
            inlet.write(bytes([number]) * 5000)
        assert inlet.waiting_bytes == 25000
        assert told == []
        await asyncio.sleep(0)
        assert told == [0]
        assert os.read(reading, 1 << 16) == b"".join(bytes([number]) * 5000 for number in range(5))
        inlet.close()
        os.close(reading)

    run(test)


@pytest.mark.parametrize("unread", [False, True])
def test_a_workload_may_close_its_input_at_any_time(unread):
    async def test():
        reading, writing = make_stdin()
        inlet = Inlet(writing, lambda: None)
        if unread:
            inlet.write(b"nobody reads this")
            await asyncio.sleep(0)
        os.close(reading)
        inlet.write(b"nor this")
        await asyncio.sleep(0)
        assert inlet.ended
        assert inlet.waiting_bytes == 0
        inlet.write(b"thrown away")
        inlet.close()

    run(test)


def test_what_is_given_and_not_written_is_dropped_by_closing():
    async def test():
        reading, writing = make_stdin()
        inlet = Inlet(writing, lambda: None)
        inlet.write(b"too late")
        inlet.close()
        await asyncio.sleep(0)
        assert os.read(reading, 10) == b""
        os.close(reading)

    run(test)


def run(test):
    async def limited():
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())
