# SPDX-License-Identifier: Apache-2.0
"""What is added to the server library. The rest is seen in tests/integration/test_host_service.py."""

from __future__ import annotations

import asyncio
import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from enarx.errors import PlatformError, UsageError
from enarx.serving import http_server
from enarx.serving.http_server import HttpServer, bind_api, make_context
from enarx.serving.requests import WHOLE


def serving(work):
    """Run work against a server that answers everything with `yes`."""

    async def yes(request):
        await request.body()
        return PlainTextResponse("yes")

    async def run():
        listening = bind_api("127.0.0.1", 0, secure=False)
        server = HttpServer(Starlette(routes=[Route("/", yes, methods=["GET", "POST"])]), listening, None)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
        try:
            async with asyncio.timeout(20):
                return await work(reader, writer)
        finally:
            writer.close()
            await server.stop()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(3)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_headers_have_a_time_limit(monkeypatch, begun):
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 0.05)

    async def work(reader, writer):
        writer.write(begun)
        return await reader.read()

    assert serving(work) == b""


def test_headers_of_a_second_request_have_one_too(monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 0.05)

    async def work(reader, writer):
        writer.write(REQUEST + b"GET / HTTP/1.1\r\n")
        assert (await answer(reader))[1] == b"yes"
        return await reader.read()

    assert serving(work) == b""


def test_bodies_may_be_longer_than_headers(monkeypatch):
    monkeypatch.setattr(http_server, "MAX_HEAD_BYTES", 100)

    async def work(reader, writer):
        body = bytes(1 << 20)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await answer(reader))[1] == b"yes"
        writer.write(REQUEST)
        return (await answer(reader))[1]

    assert serving(work) == b"yes"


def test_headers_have_a_size_limit(monkeypatch):
    monkeypatch.setattr(http_server, "MAX_HEAD_BYTES", 100)

    async def work(reader, writer):
        writer.write(REQUEST)
        await answer(reader)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ")

        async def go_on():
            while True:
                writer.write(b"x" * 200)
                await writer.drain()
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await go_on()

    serving(work)


def test_ends_with_connections_open():
    async def work(reader, writer):
        writer.write(REQUEST)
        return (await answer(reader))[1]

    assert serving(work) == b"yes"


@pytest.mark.parametrize("host", ["example.com", "", "127.0.0.1.1", "*"])
def test_refuses_what_is_no_address(host):
    with pytest.raises(UsageError):
        bind_api(host, 0, secure=False)


def test_names_its_own_url():
    for host, url, loopback in (
        ("localhost", "http://127.0.0.1:", True),
        ("127.0.0.1", "http://127.0.0.1:", True),
        ("0.0.0.0", "http://0.0.0.0:", False),  # noqa: S104
    ):
        listening = bind_api(host, 0, secure=False)
        assert listening.url == f"{url}{listening.port}"
        assert listening.is_loopback is loopback
        with pytest.raises(PlatformError, match=str(listening.port)):
            bind_api(host, listening.port, secure=False)
        listening.sock.close()


def test_refuses_certificates_that_are_none(tmp_path):
    (tmp_path / "file").write_text("nothing")
    with pytest.raises(UsageError, match="TLS certificate"):
        make_context(str(tmp_path / "file"), str(tmp_path / "file"), None)
    with pytest.raises(UsageError, match="TLS certificate"):
        make_context(str(tmp_path / "none"), str(tmp_path / "none"), None)


def pieces_of(app, request=REQUEST):
    """Return what an application's answer is written as, piece by piece."""
    written = []

    class Recording(http_server._Joining):
        __slots__ = ()

        def __init__(self, transport, loop):
            class Noting:
                def __getattr__(self, name):
                    return getattr(transport, name)

                def write(self, data):
                    written.append(bytes(data))
                    transport.write(data)

            super().__init__(Noting(), loop)

    async def run():
        listening = bind_api("127.0.0.1", 0, secure=False)
        server = HttpServer(app, listening, None)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
        try:
            async with asyncio.timeout(20):
                writer.write(request)
                read = await reader.read()
        finally:
            writer.close()
            await server.stop()
        assert b"".join(written) == read
        return written

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http_server, "_Joining", Recording)
        return asyncio.run(run())


START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"6"), (b"connection", b"close")],
}
BEGIN = {"type": "http.response.body", "body": b"abc", "more_body": True}
END = {"type": "http.response.body", "body": b"def"}


@pytest.mark.parametrize(
    ("request_", "is_whole"),
    [
        (REQUEST, True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na", False),
    ],
)
def test_says_whether_all_of_a_request_is_there(request_, is_whole):
    found = []

    async def app(scope, receive, send):
        found.append(WHOLE in scope)
        await send(START)
        await send({**END, "body": b"abcdef"})

    pieces_of(app, request_)
    assert found == [is_whole]


def test_an_answer_goes_out_in_one_piece():
    async def app(scope, receive, send):
        await send(START)
        await send({**END, "body": b"abcdef"})

    (piece,) = pieces_of(app)
    assert piece.startswith(b"HTTP/1.1 200")
    assert piece.endswith(b"\r\n\r\nabcdef")


def test_a_head_does_not_wait_for_a_body_that_comes_later():
    async def app(scope, receive, send):
        await send(START)
        await asyncio.sleep(0.01)
        await send(BEGIN)
        await send(END)

    head, *rest = pieces_of(app)
    assert head.endswith(b"\r\n\r\n")
    assert rest == [b"abc", b"def"]


def test_a_large_body_is_not_copied_behind_its_head(monkeypatch):
    monkeypatch.setattr(http_server, "_JOINED_BYTES", 2)

    async def app(scope, receive, send):
        await send(START)
        await send(BEGIN)
        await send(END)

    head, *rest = pieces_of(app)
    assert head.endswith(b"\r\n\r\n")
    assert rest == [b"abc", b"def"]


def test_what_was_begun_is_written_before_the_end():
    async def app(scope, receive, send):
        await send(START)
        raise RuntimeError

    assert pieces_of(app)[0].startswith(b"HTTP/1.1 200")
