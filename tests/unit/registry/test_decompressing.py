# SPDX-License-Identifier: Apache-2.0
"""Decompression ends, whatever the bytes say."""

from __future__ import annotations

import gzip
import importlib.util
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import DecodeError, PlatformError
from enarx.registry.decompressing import decompressed

HAS_ZSTD = importlib.util.find_spec("compression") is not None


def gunzip(data, most=1 << 20, step=None):
    pieces = (data[at : at + step] for at in range(0, len(data), step)) if step else iter([data])
    return b"".join(decompressed(pieces, "gzip", most, "x"))


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=3), st.integers(1, 100))
def test_what_was_compressed_comes_back(members, step):
    data = b"".join(gzip.compress(each) for each in members)
    assert gunzip(data, step=step) == b"".join(members)
    assert gunzip(data) == b"".join(members)


def test_more_than_the_limit_is_refused_and_never_held():
    bomb = gzip.compress(bytes(200 << 20), 9)
    tracemalloc.start()
    with pytest.raises(DecodeError, match="found more than 1048576 bytes"):
        for _ in decompressed(iter([bomb]), "gzip", 1 << 20, "x"):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(gunzip(gzip.compress(bytes(1 << 20)))) == 1 << 20


def test_what_is_cut_or_something_else_is_refused():
    data = gzip.compress(b"contents" * 100)
    for size in range(len(data)):
        with pytest.raises(DecodeError, match="too early"):
            gunzip(data[:size])
    for bad in (b"x", data + b"x", data[:-8] + bytes(8), b"\x78\x9c" + data):
        with pytest.raises(DecodeError, match=r"want gzip|too early"):
            gunzip(bad)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(DecodeError):
        gunzip(data)


@pytest.mark.skipif(HAS_ZSTD, reason="this Python has zstd")
def test_without_zstd_it_is_said():
    with pytest.raises(PlatformError, match="found zstd, which this Python has not"):
        list(decompressed(iter([b""]), "zstd", 1, "x"))


@pytest.mark.skipif(not HAS_ZSTD, reason="Python's zstd came with 3.14")
def test_zstd_has_the_same_limits():
    zstd = importlib.import_module("compression.zstd")
    data = zstd.compress(bytes(2 << 20)) + zstd.compress(b"more")
    assert b"".join(decompressed(iter([data]), "zstd", 3 << 20, "x")) == bytes(2 << 20) + b"more"
    with pytest.raises(DecodeError, match="found more than"):
        list(decompressed(iter([data]), "zstd", 1 << 20, "x"))
    for bad in (b"", data[:-1], b"x" * 100):
        with pytest.raises(DecodeError):
            list(decompressed(iter([bad]), "zstd", 3 << 20, "x"))


def test_members_without_contents_end_too():
    empty = gzip.compress(b"", mtime=0)
    assert gunzip(empty * 100_000) == b""
    with pytest.raises(DecodeError, match="found more than 100000 parts"):
        gunzip(empty * 100_001)
