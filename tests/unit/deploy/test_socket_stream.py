# SPDX-License-Identifier: Apache-2.0
"""The WebSocket to a host that answers as it likes."""

from __future__ import annotations

import asyncio
import json

import pytest

from enarx.deploy.host_client import HostClient, parse_address
from enarx.errors import KeepError, TransportError, UsageError

TOKEN = "a-token-that-must-not-be-told"


@pytest.mark.parametrize("where", ["ws://127.0.0.1:{port}/admin?do=it", "/v1/elsewhere", "ws://localhost:{port}/"])
def test_a_redirect_is_not_followed(where):
    """Neither to another server, which the tenant can reach and the host perhaps cannot, nor to another path."""

    async def work():
        asked, elsewhere = [], []

        async def host(reader, writer):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            location = where.format(port=other.sockets[0].getsockname()[1])
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        async def victim(reader, writer):
            elsewhere.append(await reader.read(65536))
            writer.close()

        other = await asyncio.start_server(victim, "127.0.0.1", 0)
        server = await asyncio.start_server(host, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(20), other, server, HostClient(parse_address(url), token=TOKEN) as client:
            with pytest.raises(TransportError, match="found status 302"):
                await client.open_session("abcd")
        assert (len(asked), elsewhere) == (1, [])

    asyncio.run(work())


@pytest.mark.parametrize(
    ("status", "kind", "body", "message", "hint"),
    [
        ("410 Gone", KeepError, {"class": "KeepError", "message": "killed\x07", "hint": "another"}, "says: killed\N{REPLACEMENT CHARACTER}", "another"),
        ("401 Unauthorized", UsageError, {"class": "UsageError", "message": "no token"}, "says: no token", "ENARX_HOST_TOKEN"),
        ("403 Forbidden", TransportError, None, "found status 403 and no reason", "of the same version"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_the_hosts_words(status, kind, body, message, hint):
    async def host(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        said = b"" if body is None else json.dumps({"error": body}).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
        await writer.drain()
        writer.close()

    async def work():
        server = await asyncio.start_server(host, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(20), server, HostClient(parse_address(url), token=TOKEN) as client:
            with pytest.raises(kind, match=message) as refused:
                await client.open_session("abcd")
        assert hint in refused.value.hint

    asyncio.run(work())
