# SPDX-License-Identifier: Apache-2.0
"""The Keep's ends of a workload's pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from enarx.keep.stdio import Inlet
from enarx.keep.workload_spawn import make_pipe


@pytest.mark.parametrize("size", [1, 7, 4096, 5000])
def test_input_that_comes_in_pieces_is_kept_in_few_and_in_order(size):
    data = os.urandom(1 << 17)

    async def test():
        reading, writing = make_pipe()
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

    async def limited():
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())
