# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os

import pytest

from enarx.errors import KeepError, PlatformError, TransportError, UsageError
from enarx.host import blobs
from enarx.host.blobs import Blob, BlobFolder


def run(work):
    async def limited():
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


async def pieces(*data, fail=None):
    for piece in data:
        yield piece
    if fail:
        raise fail


async def whole(blob):
    return b"".join([piece async for piece in blob.read()])


def test_a_blob_is_appended_to_and_read(tmp_path):
    async def work():
        blob = Blob(str(tmp_path / "b"), 10)
        reading = asyncio.create_task(whole(blob))
        await blob.append(pieces(b"0123", b"45"))
        assert blob.offset == 6
        again = Blob(str(tmp_path / "b"), 10)
        assert again.offset == 6
        await blob.append(pieces(b"6789"))
        assert await whole(Blob(str(tmp_path / "b"), 10)) == b"0123456789"
        return await reading

    assert run(work()) == b"0123456789"


def test_what_came_before_an_error_stays(tmp_path):
    async def work():
        blob = Blob(str(tmp_path / "b"), 10)
        with pytest.raises(ConnectionError):
            await blob.append(pieces(b"012", b"34", fail=ConnectionError()))
        assert blob.offset == 5
        with pytest.raises(UsageError, match="more than the 10 bytes"):
            await blob.append(pieces(b"56", b"7890"))
        assert blob.offset == 7
        await blob.append(pieces(b"789"))
        return await whole(blob)

    assert run(work()) == b"0123456789"


def test_an_upload_that_is_cancelled_counts_what_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "_WRITE_BYTES", 1)

    async def work():
        blob = Blob(str(tmp_path / "b"), 1 << 20)
        forever = asyncio.Event()

        async def slow():
            yield bytes(1000)
            await forever.wait()

        task = asyncio.create_task(blob.append(slow()))
        await anext(blob.read())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert blob.offset == (tmp_path / "b").stat().st_size == 1000

    run(work())


def test_only_one_uploads(tmp_path):
    async def work():
        blob = Blob(str(tmp_path / "b"), 10)
        assert blob.take()
        assert not blob.take()
        blob.release()
        assert blob.take()

    run(work())


def test_a_blob_without_bytes_is_whole(tmp_path):
    async def work():
        return await whole(Blob(str(tmp_path / "b"), 0))

    assert run(work()) == b""


def test_waiting_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "PROGRESS_TIMEOUT_S", 0.01)

    async def work():
        folder = BlobFolder(str(tmp_path), {})
        with pytest.raises(TransportError, match="none of that name"):
            await folder.wait_for("ab")
        blob = folder.announce("ab", 10)
        assert await folder.wait_for("ab") is blob
        await blob.append(pieces(b"01"))
        with pytest.raises(TransportError, match="no more of it"):
            await whole(blob)

    run(work())


def test_a_folder_knows_its_blobs(tmp_path):
    async def work():
        (tmp_path / "ab").write_bytes(b"012")
        folder = BlobFolder(str(tmp_path), {"ab": 10})
        assert folder.find("ab").offset == 3
        assert folder.find("cd") is None
        waiting = asyncio.create_task(folder.wait_for("cd"))
        await asyncio.sleep(0)
        blob = folder.announce("cd", 5)
        assert await waiting is blob
        assert (len(folder), folder.reserved_bytes) == (2, 15)

    run(work())


def test_an_upload_ends_with_the_keep_and_none_begins(tmp_path):
    async def work():
        folder = BlobFolder(str(tmp_path), {})
        blob = folder.announce("ab", 1 << 20)
        forever, begun = asyncio.Event(), asyncio.Event()

        async def slow():
            yield bytes(1000)
            begun.set()
            await forever.wait()

        task = asyncio.create_task(blob.append(slow()))
        await begun.wait()
        folder.close()
        with pytest.raises(KeepError, match="found its Keep ended"):
            await task
        assert not [name for fd in os.listdir("/proc/self/fd") if (name := link_of(fd)).startswith(str(tmp_path))]
        with pytest.raises(KeepError, match="found its Keep ended"):
            await blob.append(pieces(b"x"))

    run(work())


def link_of(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_a_time_limit_of_the_upload_is_its_own(tmp_path):
    async def work():
        with pytest.raises(TimeoutError):
            await Blob(str(tmp_path / "b"), 10).append(pieces(b"0", fail=TimeoutError()))

    run(work())


def test_what_cannot_be_stored_is_an_error(tmp_path):
    async def work():
        with pytest.raises(PlatformError, match="cannot store"):
            await Blob(str(tmp_path / "nowhere" / "b"), 10).append(pieces(b"0"))

    run(work())
