# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from enarx.serving import requests
from enarx.serving.requests import WHOLE, RefusedError, read_body, read_pieces


def asked(*messages):
    """Return a request whose body comes in these messages, and nothing after them."""
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return Request({"type": "http", "headers": []}, receive)


def piece(body, *, is_more=False):
    return {"type": "http.request", "body": body, "more_body": is_more}


async def pieces(request, **options):
    return [each async for each in read_pieces(request, **options)]


def test_gives_what_comes_until_there_is_no_more():
    assert asyncio.run(pieces(asked(piece(b"a", is_more=True), piece(b"", is_more=True), piece(b"b")))) == [b"a", b"b"]
    assert asyncio.run(pieces(asked(piece(b"")), total_s=1.0)) == []
    assert asyncio.run(read_body(asked(piece(b"a", is_more=True), piece(b"b")), max_bytes=2)) == b"ab"


def test_a_body_that_is_too_large_is_refused():
    with pytest.raises(RefusedError, match="more than 2 bytes") as refused:
        asyncio.run(read_body(asked(piece(b"abc")), max_bytes=2))
    assert refused.value.status == 413


def test_whoever_has_gone_is_not_waited_for():
    with pytest.raises(ClientDisconnect):
        asyncio.run(pieces(asked(piece(b"a", is_more=True), {"type": "http.disconnect"})))


def test_the_next_bytes_have_a_time_limit(monkeypatch):
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.01)
    for options in ({}, {"total_s": 60.0}):
        with pytest.raises(RefusedError, match="nothing more of it in time") as refused:
            asyncio.run(pieces(asked(piece(b"a", is_more=True)), **options))
        assert refused.value.status == 408


def test_all_of_it_has_one_too():
    with pytest.raises(RefusedError, match="no end of it within 0 s") as refused:
        asyncio.run(pieces(asked(piece(b"a", is_more=True)), total_s=0.01))
    assert refused.value.status == 408


def test_what_is_all_there_needs_no_timer(monkeypatch):
    when = []
    timeout_at = asyncio.timeout_at
    monkeypatch.setattr(requests.asyncio, "timeout_at", lambda at: when.append(at) or timeout_at(at))
    request = asked(piece(b"a"))
    request.scope[WHOLE] = True
    assert asyncio.run(pieces(request)) == [b"a"]
    assert not when
    assert asyncio.run(pieces(asked(piece(b"a")))) == [b"a"]
    assert [each is None for each in when] == [False]
