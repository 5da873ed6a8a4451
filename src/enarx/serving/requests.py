# SPDX-License-Identifier: Apache-2.0
"""Reading requests within limits, and the headers that every answer has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from email.utils import formatdate
from functools import lru_cache
from math import inf
from time import time
from typing import TYPE_CHECKING

from enarx.errors import EnarxError, TransportError, UsageError

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["WHOLE", "RefusedError", "read_body", "read_pieces", "require_local_name", "with_headers"]

BODY_TIMEOUT_S = 30.0
"""For the next bytes of a request's body."""

WHOLE = "enarx.whole"
"""In the scope of a request all of which has been received."""


class RefusedError(Exception):
    """A request that is answered with an error whose status its class does not say.

    Args:
        status: of HTTP.
        error: what is wrong.
        headers: that the answer has besides.
    """

    def __init__(self, status: int, error: EnarxError, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.headers = headers or {}


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the whole body of a request.

    Raises:
        RefusedError: it is too large (413), or nothing more of it came in time (408).
    """
    data = bytearray()
    async for chunk in read_pieces(request):
        data += chunk
        if len(data) > max_bytes:
            raise RefusedError(
                413, UsageError(f"cannot read the request: found more than {max_bytes} bytes, want fewer")
            )
    return bytes(data)


async def read_pieces(request: Request, *, total_s: float | None = None) -> AsyncIterator[bytes]:
    """Yield the body of a request as it comes.

    Args:
        request: of which nothing was read.
        total_s: how long all of it may take; None is as long as something comes.

    Raises:
        RefusedError: nothing more of it came in time, or not all of it (408).
        ClientDisconnect: whoever sends it has gone.
    """
    from starlette.requests import ClientDisconnect

    now = asyncio.get_running_loop().time
    until = inf if total_s is None else now() + total_s
    is_more = True
    while is_more:
        if WHOLE in request.scope:
            # What is all there is not waited for, and a timer for each request costs more than to read it.
            message = await request.receive()
        else:
            try:
                async with asyncio.timeout_at(min(now() + BODY_TIMEOUT_S, until)):
                    message = await request.receive()
            except TimeoutError as error:
                found = "nothing more of it in time" if now() < until else f"no end of it within {total_s:.0f} s"
                raise RefusedError(408, TransportError(f"cannot read the request: found {found}")) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        is_more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece


def require_local_name(headers: Headers) -> None:
    """Return only if a service for this machine alone is called by one of its names.

    Raises:
        RefusedError: by another, which somebody's DNS says is 127.0.0.1: a page there would be of this origin (403).
    """
    name = re.sub(r":[0-9]+$", "", headers.get("host", ""))
    if name not in {"localhost", "[::1]"} and not re.fullmatch(r"[0-9.]+", name):
        raise RefusedError(403, UsageError("cannot answer under this name: found another Host, want localhost"))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """Return a time as HTTP has it; a second has many answers."""
    return formatdate(second, usegmt=True).encode()


def with_headers(app: ASGIApp, *headers: tuple[bytes, bytes]) -> ASGIApp:
    """Add to every answer what keeps browsers and caches from doing more than asked, and its date.

    Args:
        app: the application.
        headers: more of them, with names in lower case.
    """
    added = (
        (b"cache-control", b"no-store"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        *headers,
    )

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added, (b"date", _date(int(time())))]
            await send(message)

        await app(scope, receive, sent if scope["type"] == "http" else send)

    return wrapped
