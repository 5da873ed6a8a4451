# SPDX-License-Identifier: Apache-2.0
"""Fetches of a host: from where the operator says and nowhere else, no more than was announced, and the Keep is told where it fails."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from enarx.errors import PlatformError, TransportError, UsageError
from enarx.host.blobs import Blob
from enarx.host.fetching import MAX_AT_ONCE, RegistryFetcher, parse_allowed
from enarx.serving.logs import make_log

DIGEST = "ab" * 32
DATA = bytes(range(256)) * 10


class Registry:
    """A client of a registry, and what it was asked for."""

    def __init__(self, data=DATA, error=None, gate=None):
        self.data, self.error, self.gate = data, error, gate
        self.asked = []
        self.at_once = self.most_at_once = 0
        self.closed = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def connect(self, ref):
        self.asked.append((ref.registry, ref.repository, ref.digest))
        try:
            yield self
        finally:
            self.closed += 1

    def pieces_from(self, wanted, offset):
        self.asked.append((wanted.digest, wanted.size, offset))
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for at in range(offset, len(self.data), 100):
                if self.gate is not None:
                    assert self.gate.wait(20)
                yield self.data[at : at + 100]
            if self.error is not None:
                raise self.error
        finally:
            with self._lock:
                self.at_once -= 1


def fetcher(registry, *allowed, **options):
    log = make_log("text", quiet=True)
    return RegistryFetcher(allowed or ("registry.example",), log, connect=registry.connect, **options)


def begin(fetching, blob):
    """Begin a fetch as the API does, in a task."""
    ref = fetching.find_untrusted("registry.example", "team/app", DIGEST)
    assert blob.take()
    return asyncio.ensure_future(fetching.start(blob, ref))


async def whole(blob):
    return b"".join([piece async for piece in blob.read()])


def fetched(registry, blob):
    async def play():
        fetching = fetcher(registry)
        starting = begin(fetching, blob)
        try:
            async with asyncio.timeout(20):
                data = await whole(blob)
                await starting
                while not blob.take():  # noqa: ASYNC110  # it is released a moment after the last byte
                    await asyncio.sleep(0)
                return data
        finally:
            await asyncio.gather(starting, return_exceptions=True)
            await fetching.close()

    return asyncio.run(play())


def test_a_blob_is_fetched_and_read(tmp_path):
    registry = Registry()
    assert fetched(registry, Blob(str(tmp_path / "b"), len(DATA))) == DATA
    assert registry.asked == [
        ("registry.example", "team/app", f"sha256:{DIGEST}"),
        (f"sha256:{DIGEST}", len(DATA), 0),
    ]
    assert registry.closed == 1


def test_what_is_there_already_is_not_fetched_again(tmp_path):
    (tmp_path / "b").write_bytes(DATA[:700])
    registry = Registry()
    assert fetched(registry, Blob(str(tmp_path / "b"), len(DATA))) == DATA
    assert registry.asked[1][2] == 700


@pytest.mark.parametrize(
    "registry",
    [
        Registry(DATA[:500]),
        Registry(DATA[:500], TransportError("no")),
        Registry(DATA[:500], RuntimeError("a bug")),
        Registry(DATA + b"more"),
    ],
    ids=["short", "broken", "bug", "long"],
)
def test_a_keep_that_waits_is_told_of_a_failure(tmp_path, registry, capsys):
    with pytest.raises(TransportError, match="found it nowhere, or not whole"):
        fetched(registry, Blob(str(tmp_path / "b"), len(DATA) + (0 if registry.data == DATA + b"more" else 1)))
    assert registry.closed == 1
    capsys.readouterr()


def test_an_upload_can_go_on_after_a_failure(tmp_path):
    async def play():
        blob = Blob(str(tmp_path / "b"), len(DATA))
        fetching = fetcher(Registry(DATA[:500]))
        starting = begin(fetching, blob)
        with pytest.raises(TransportError):
            await whole(blob)
        await asyncio.gather(starting, return_exceptions=True)
        while not blob.take():  # noqa: ASYNC110
            await asyncio.sleep(0)

        async def rest():
            yield DATA[blob.offset :]

        await blob.append(rest())
        assert await whole(blob) == DATA
        await fetching.close()

    asyncio.run(play())


def test_so_many_at_once_and_no_more(tmp_path):
    registry = Registry(gate=threading.Event())

    async def play():
        fetching = fetcher(registry)
        blobs = [Blob(str(tmp_path / str(number)), len(DATA)) for number in range(MAX_AT_ONCE)]
        starting = [begin(fetching, blob) for blob in blobs]
        async with asyncio.timeout(20):
            while registry.at_once < MAX_AT_ONCE:  # noqa: ASYNC110
                await asyncio.sleep(0)
            # Others are told at once: their Keeps would not wait.
            with pytest.raises(PlatformError, match="found 8 fetches under way"):
                fetching.find_untrusted("registry.example", "app", DIGEST)
            registry.gate.set()
            assert [await whole(blob) for blob in blobs] == [DATA] * len(blobs)
            await asyncio.gather(*starting)
            while fetching._tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert fetching.find_untrusted("registry.example", "app", DIGEST)
        await fetching.close()

    asyncio.run(play())
    assert registry.most_at_once == MAX_AT_ONCE


def test_a_keep_that_ends_ends_its_fetch(tmp_path):
    registry = Registry(gate=threading.Event())

    async def play():
        fetching = fetcher(registry)
        blob = Blob(str(tmp_path / "b"), len(DATA))
        starting = begin(fetching, blob)
        async with asyncio.timeout(20):
            while not registry.at_once:  # noqa: ASYNC110
                await asyncio.sleep(0)
            blob.close()
            with pytest.raises(PlatformError, match="does not give it"):
                await starting
            assert blob.take()
            # Its thread waits on, and has its place as long.
            assert len(fetching._left) == 1
            registry.gate.set()
            while fetching._left:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await fetching.close()

    asyncio.run(play())
    assert registry.closed == 1


@pytest.mark.parametrize(
    "error", [None, UsageError("a login"), RuntimeError("a bug")], ids=["nothing", "refusal", "bug"]
)
def test_whoever_asks_is_told_of_a_registry_that_gives_nothing(tmp_path, error, capsys):
    """He can send it himself then; a Keep that waits for it already cannot be helped."""

    async def play():
        fetching = fetcher(Registry(b"", error))
        blob = Blob(str(tmp_path / "b"), len(DATA))
        with pytest.raises(PlatformError, match="does not give it"):
            await begin(fetching, blob)
        assert blob.take()
        await fetching.close()

    asyncio.run(play())
    capsys.readouterr()


def test_a_silent_registry_is_not_waited_for(tmp_path):
    """Neither by whoever asks, nor by the host when it ends: threads of an executor are waited for at the end of a program."""
    registry = Registry(gate=threading.Event())

    async def play():
        fetching = fetcher(registry, first_s=0.05)
        blob = Blob(str(tmp_path / "b"), len(DATA))
        with pytest.raises(PlatformError, match="does not give it"):
            await begin(fetching, blob)
        assert [each.daemon for each in threading.enumerate() if each.name == "registry"] == [True]
        await fetching.close()

    asyncio.run(play())
    registry.gate.set()


def test_nothing_is_waited_for_where_nothing_is_missing(tmp_path):
    async def play():
        fetching = fetcher(Registry(b""))
        (tmp_path / "whole").write_bytes(DATA)
        for name, length in (("whole", len(DATA)), ("empty", 0)):
            await begin(fetching, Blob(str(tmp_path / name), length))
        await fetching.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("allowed", "registry", "repository", "is_allowed"),
    [
        ("registry.example", "registry.example", "team/app", True),
        ("registry.example", "registry.example:5000", "team/app", False),
        ("registry.example", "registry.example.evil.example", "team/app", False),
        ("registry.example/team", "registry.example", "team/app", True),
        ("registry.example/team/app", "registry.example", "team/app", True),
        ("registry.example/team", "registry.example", "teams/app", False),
        ("registry.example/team", "registry.example", "other", False),
        ("localhost:5000", "127.0.0.1:5000", "app", False),
    ],
)
def test_only_what_the_operator_allows_is_asked(allowed, registry, repository, is_allowed):
    async def play():
        fetching = fetcher(Registry(), parse_allowed(allowed))
        if is_allowed:
            assert fetching.find_untrusted(registry, repository, DIGEST).repository == repository
        else:
            with pytest.raises(UsageError, match="operator does not allow"):
                fetching.find_untrusted(registry, repository, DIGEST)

    asyncio.run(play())


def test_nothing_is_allowed_where_nothing_is_said():
    async def play():
        fetching = RegistryFetcher((), make_log("text", quiet=True))
        with pytest.raises(UsageError, match="operator does not allow"):
            fetching.find_untrusted("registry.example", "app", DIGEST)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("registry", "repository"),
    [
        ("registry.example", "app:tag"),
        ("registry.example/app", "more"),
        ("registry.example", "../x"),
        ("registry.example", "app@sha256:" + DIGEST),
        ("", "app"),
        ("user:password@registry.example", "app"),
        ("registry.example", "app?x=1"),
        ("registry.example\n", "app"),
    ],
)
def test_what_is_no_place_is_refused(registry, repository):
    async def play():
        with pytest.raises(UsageError):
            fetcher(Registry()).find_untrusted(registry, repository, DIGEST)

    asyncio.run(play())


@pytest.mark.parametrize(
    "text", ["", "/", "registry.example/", "https://registry.example", "registry.example/app:1", "a b"]
)
def test_what_no_operator_can_allow(text):
    with pytest.raises(UsageError):
        parse_allowed(text)


def test_what_an_operator_allows_has_one_form():
    assert parse_allowed("registry.example:5000") == "registry.example:5000"
    assert parse_allowed("registry.example/team/app") == "registry.example/team/app"
