# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Iterator
from random import Random

import pytest

from enarx.errors import PlatformError, TransportError, VerificationError
from enarx.registry.cache import BlobCache, default_cache
from enarx.registry.client import Limits, RegistryClient
from enarx.wire.oci import WASM, Descriptor, digest_of
from tests.fake_registry import FakeRegistry

# The same in the processes that the tests start.
DATA = Random(7).randbytes(2_500_000)
HALF = 1_200_000


def descriptor(data: bytes) -> Descriptor:
    return Descriptor(WASM, digest_of(data), len(data))


WANTED = descriptor(DATA)
NAME = WANTED.digest[7:]


class Origin:
    """Where blobs are fetched from; breaks off where it is told to."""

    def __init__(self, data: bytes = DATA, *, cut: int | None = None) -> None:
        self.data = data
        self.cut = cut
        self.offsets: list[int] = []

    def fetch(self, _: Descriptor, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        end = len(self.data) if self.cut is None else self.cut
        for start in range(offset, end, 100_000):
            yield self.data[start : min(start + 100_000, end)]
        if self.cut is not None:
            raise TransportError("cannot fetch: found the end of the connection, want more")


@pytest.fixture
def cache(tmp_path) -> BlobCache:
    return BlobCache(str(tmp_path), patience_s=1.0, wait=lambda _: None)


def files(cache) -> dict[str, int]:
    return {name: os.stat(os.path.join(cache.path, name)).st_size for name in os.listdir(cache.path)}


def test_a_blob_is_fetched_once_and_then_read(cache):
    origin = Origin()
    for _ in range(3):
        assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
    assert origin.offsets == [0]
    assert files(cache) == {NAME: len(DATA)}
    assert stat.S_IMODE(os.stat(os.path.join(cache.path, NAME)).st_mode) == 0o600


def test_an_empty_blob_is_one_too(cache):
    assert list(cache.open_blob(descriptor(b""), Origin(b"").fetch)) == []
    assert list(cache.open_blob(descriptor(b""), Origin(b"").fetch)) == []
    assert files(cache) == {descriptor(b"").digest[7:]: 0}


def test_what_came_before_a_break_is_gone_on_with(cache):
    origin = Origin(cut=HALF)
    with pytest.raises(TransportError, match="the end of the connection"):
        list(cache.open_blob(WANTED, origin.fetch))
    assert files(cache) == {f"{NAME}.partial": HALF}
    origin.cut = None
    assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
    assert origin.offsets == [0, HALF]
    assert files(cache) == {NAME: len(DATA)}


def test_a_reader_that_goes_away_leaves_no_half_that_looks_whole(cache):
    pieces = cache.open_blob(WANTED, Origin().fetch)
    next(pieces)
    pieces.close()
    (left,) = files(cache)
    assert left == f"{NAME}.partial"


@pytest.mark.parametrize("kept", [b"", DATA[:HALF]])
def test_other_bytes_are_refused_and_not_kept(cache, kept):
    if kept:
        with pytest.raises(TransportError):
            list(cache.open_blob(WANTED, Origin(cut=HALF).fetch))
    given = []
    with pytest.raises(VerificationError, match="found 2500000 bytes with the digest"):
        given.extend(cache.open_blob(WANTED, Origin(DATA[::-1]).fetch))
    assert sum(map(len, given)) < len(DATA)
    assert files(cache) == {}


@pytest.mark.parametrize(("data", "found"), [(DATA + b"x", "found more"), (DATA[:-1], "found 2499999")])
def test_another_length_is_refused_and_not_kept(cache, data, found):
    with pytest.raises(VerificationError, match=found):
        list(cache.open_blob(WANTED, Origin(data).fetch))
    assert files(cache) == {}


def test_a_partial_that_is_whole_already_is_taken_for_its_digest(cache):
    path = os.path.join(cache.path, NAME)
    origin = Origin()
    for data in (DATA, DATA + b"more"):
        with open(path + ".partial", "wb") as file:
            file.write(data)
        assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
        os.unlink(path)
    assert origin.offsets == [0]


@pytest.mark.parametrize("change", ["flip", "truncate", "link", "folder"])
def test_what_rotted_is_fetched_again(cache, change, tmp_path_factory):
    list(cache.open_blob(WANTED, Origin().fetch))
    path = os.path.join(cache.path, NAME)
    if change == "flip":
        with open(path, "r+b") as file:
            file.write(bytes([DATA[0] ^ 1]))
    elif change == "truncate":
        os.truncate(path, HALF)
    else:
        os.unlink(path)
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
        elsewhere.write_bytes(DATA)
        os.symlink(elsewhere, path) if change == "link" else os.mkdir(path)
    origin = Origin()
    assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
    assert origin.offsets == [0]


def test_what_was_unused_for_longest_makes_room(tmp_path):
    blobs = [os.urandom(1000) for _ in range(4)]
    cache = BlobCache(str(tmp_path), max_bytes=3000)
    for number, data in enumerate(blobs[:3]):
        list(cache.open_blob(descriptor(data), Origin(data).fetch))
        os.utime(tmp_path / descriptor(data).digest[7:], (number, number))
    list(cache.open_blob(descriptor(blobs[0]), Origin(blobs[0]).fetch))
    list(cache.open_blob(descriptor(blobs[3]), Origin(blobs[3]).fetch))
    assert set(files(cache)) == {descriptor(blobs[index]).digest[7:] for index in (0, 2, 3)}


def test_what_is_too_large_passes_through(tmp_path):
    cache = BlobCache(str(tmp_path), max_bytes=1000)
    assert b"".join(cache.open_blob(WANTED, Origin().fetch)) == DATA
    assert files(cache) == {}
    with pytest.raises(VerificationError, match="digest"):
        list(cache.open_blob(WANTED, Origin(DATA[::-1]).fetch))


def test_an_old_partial_is_removed_and_a_young_one_is_not(cache, tmp_path):
    for name, age in (("0" * 64, 30), ("1" * 64, 1)):
        (tmp_path / f"{name}.partial").write_bytes(b"half")
        at = os.stat(tmp_path).st_mtime - age * 86400
        os.utime(tmp_path / f"{name}.partial", (at, at))
    (tmp_path / ("2" * 64)).write_bytes(b"")
    (tmp_path / "not ours").write_bytes(b"")
    list(cache.open_blob(WANTED, Origin().fetch))
    assert set(files(cache)) == {"1" * 64 + ".partial", "2" * 64, "not ours", NAME}


def test_who_waits_too_long_for_somebody_else_fetches_alone(tmp_path):
    now = iter(range(1000))
    cache = BlobCache(str(tmp_path), patience_s=5.0, clock=lambda: float(next(now)), wait=lambda _: None)
    slow = cache.open_blob(WANTED, Origin().fetch)
    next(slow)
    origin = Origin()
    assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
    assert origin.offsets == [0]
    slow.close()


def test_a_cache_that_cannot_be_written_makes_nothing_fail(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert b"".join(cache.open_blob(WANTED, Origin().fetch)) == DATA
    assert files(cache) == {}


def test_a_blob_gets_a_second_name_without_being_copied(cache, tmp_path_factory):
    place = tmp_path_factory.mktemp("layout")
    origin = Origin()
    for name in ("one", "two"):
        assert cache.link_blob(WANTED, origin.fetch, str(place / name))
        assert (place / name).read_bytes() == DATA
        assert os.stat(place / name).st_ino == os.stat(os.path.join(cache.path, NAME)).st_ino
    assert origin.offsets == [0]
    assert not cache.link_blob(WANTED, origin.fetch, str(place / "one"))
    assert not BlobCache(cache.path, max_bytes=10).link_blob(WANTED, origin.fetch, str(place / "three"))
    # Who writes to it there changes what is kept, which is seen.
    with (place / "one").open("r+b") as file:
        file.write(b"changed")
    assert b"".join(cache.open_blob(WANTED, origin.fetch)) == DATA
    assert origin.offsets == [0, 0]


def test_the_users_cache_is_his_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = default_cache()
    assert cache.path == f"{tmp_path}/enarx/packages"
    assert stat.S_IMODE(os.stat(cache.path).st_mode) == 0o700
    os.chmod(cache.path, 0o755)  # noqa: S103
    with pytest.raises(PlatformError, match="found mode 755"):
        default_cache()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    assert default_cache() is None


def _fetch_through(address: str, path: str, results: multiprocessing.Queue) -> None:
    client = RegistryClient(address, "app", cache=BlobCache(path), limits=Limits(connect_s=30.0, stall_s=30.0))
    with client:
        results.put(digest_of(b"".join(client.open_blob(WANTED))))


def test_processes_that_want_the_same_blob_share_one_download(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with FakeRegistry() as registry:
        registry.put(DATA)
        children = [
            context.Process(target=_fetch_through, args=(registry.address, str(tmp_path), results)) for _ in range(3)
        ]
        for child in children:
            child.start()
        found = [results.get(timeout=60) for _ in children]
        for child in children:
            child.join(30)
        assert found == [WANTED.digest] * 3
        assert len(registry.asked("GET", "/blobs/")) == 1


def _fetch_until_killed(address: str, path: str) -> None:
    with RegistryClient(address, "app", cache=BlobCache(path), limits=Limits(connect_s=30.0, stall_s=30.0)) as client:
        list(client.open_blob(WANTED))


def test_a_killed_download_is_gone_on_with(tmp_path):
    context = multiprocessing.get_context("spawn")
    with FakeRegistry() as registry:
        registry.put(DATA)
        child = context.Process(target=_fetch_until_killed, args=(registry.address, str(tmp_path)))

        def behave(handler):
            if "/blobs/" not in handler.path:
                return False
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(DATA)))
            handler.end_headers()
            handler.wfile.write(DATA[:-1])
            # It has most of it, and waits for the rest.
            while not (tmp_path / f"{NAME}.partial").exists() or (tmp_path / f"{NAME}.partial").stat().st_size < HALF:
                child.join(0.01)
            child.kill()
            handler.close_connection = True
            return True

        registry.behave = behave
        child.start()
        child.join(60)
        assert child.exitcode == -9
        registry.behave = None
        kept = (tmp_path / f"{NAME}.partial").stat().st_size
        assert HALF <= kept < len(DATA)
        with RegistryClient(registry.address, "app", cache=BlobCache(str(tmp_path))) as client:
            assert b"".join(client.open_blob(WANTED)) == DATA
        assert registry.asked("GET", "/blobs/")[-1].headers["range"] == f"bytes={kept}-"
        assert os.listdir(tmp_path) == [NAME]


def test_beginnings_that_nobody_goes_on_with_make_room(tmp_path):
    cache = BlobCache(str(tmp_path), max_bytes=10_000)

    def breaks(_: Descriptor, __: int) -> Iterator[bytes]:
        yield bytes(3_999)
        raise TransportError("it broke off")

    for number in range(5):
        with pytest.raises(TransportError):
            list(cache.open_blob(Descriptor(WASM, digest_of(b"%d" % number), 4_000), breaks))
    assert sum(files(cache).values()) <= 10_000
    # The one that somebody is fetching stays.
    held = cache.open_blob(Descriptor(WASM, digest_of(b"held"), 4_000), lambda *_: iter([bytes(1), bytes(1), bytes(1)]))
    next(held)
    for number in range(5):
        with pytest.raises(TransportError):
            list(cache.open_blob(Descriptor(WASM, digest_of(b"%d" % number), 4_000), breaks))
    assert f"{digest_of(b'held')[7:]}.partial" in files(cache)
    held.close()
