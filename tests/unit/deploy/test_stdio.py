# SPDX-License-Identifier: Apache-2.0
"""Standard streams of any kind as ends of asyncio streams."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from enarx.deploy.stdio import Input, Output
from tests.loops import run


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def test_reads_a_pipe_when_there_is_something_and_its_end(pipe):
    async def use():
        source = Input(pipe[0])
        first = asyncio.ensure_future(source.read(10))
        await asyncio.sleep(0)
        assert not first.done()
        os.write(pipe[1], b"abc")
        assert await first == b"abc"
        os.close(pipe[1])
        assert await source.read(10) == b""

    run(use)


def test_reads_a_file_and_the_null_device(tmp_path):
    async def use():
        (tmp_path / "file").write_bytes(b"abc")
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        assert [await Input(fd).read(2), await Input(fd).read(2), await Input(fd).read(2)] == [b"ab", b"c", b""]
        os.close(fd)
        fd = os.open(os.devnull, os.O_RDONLY)
        assert await Input(fd).read(2) == b""
        os.close(fd)

    run(use)


def test_what_cannot_be_read_is_an_end():
    async def use():
        fd = os.open(os.devnull, os.O_WRONLY)
        assert await Input(fd).read(2) == b""
        os.close(fd)

    run(use)


def test_writes_everything_in_its_order(pipe):
    taken = bytearray()

    def drain():
        while data := os.read(pipe[0], 65536):
            taken.extend(data)

    reader = threading.Thread(target=drain)
    reader.start()

    async def use():
        output = Output()
        for number in range(200):
            await output.write(pipe[1], bytes((number,)) * 60_000)
        await output.close()
        os.close(pipe[1])

    run(use)
    reader.join(10)
    assert bytes(taken) == b"".join(bytes((number,)) * 60_000 for number in range(200))


def test_waits_while_nobody_reads_and_goes_on_then(pipe):
    async def use():
        output = Output()

        async def write():
            for _ in range(200):
                await output.write(pipe[1], bytes(65536))

        writing = asyncio.ensure_future(write())
        done, _ = await asyncio.wait({writing}, timeout=0.1)
        assert not done
        count = 0
        while count < 200 * 65536:
            count += len(await asyncio.to_thread(os.read, pipe[0], 1 << 20))
        await writing
        await output.close()

    run(use)


def test_a_reader_who_has_gone_is_told(pipe):
    async def use():
        os.close(pipe[0])
        output = Output()
        await output.write(pipe[1], b"x")
        assert isinstance(await output.failed, BrokenPipeError)
        await output.write(pipe[1], b"y")
        await output.close()

    run(use)
