# SPDX-License-Identifier: Apache-2.0
"""A byte stream to a Keep over a host's WebSocket. The bytes are TLS records of ours; the host relays them, or does not.

Messages have no meaning of their own: a message is some bytes, however they were cut.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from enarx.deploy.host_client import clean, refusal
from enarx.errors import TransportError
from enarx.wire.host_api import MAX_SESSION_PIECE_BYTES, SUBPROTOCOL

__all__ = ["SocketStream", "open_socket_stream"]

OPEN_TIMEOUT_S = 20.0
# A message of ours may be larger than what waits in the system's buffers; more than this waits for the host.
_WRITE_LIMIT_BYTES = 1 << 20
_PING_S = 20.0
_PONG_S = 60.0
_CLOSE_S = 2.0


class SocketStream:
    """Bytes in both directions, in order, until one end closes.

    Args:
        connection: open.
        where: the host, for messages.
    """

    def __init__(self, connection: ClientConnection, where: str) -> None:
        self._connection = connection
        self._where = where
        self._closing: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            TransportError: the connection broke, or what arrived is not what a relay sends.
        """
        while True:
            try:
                message = await self._connection.recv(decode=False)
            except ConnectionClosed as error:
                if error.rcvd is not None:
                    return b""
                raise TransportError(
                    f"the connection to the host broke: {self._where}: found no end of the session, want one"
                ) from error
            if message:
                return message

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while too many are under way.

        Raises:
            TransportError: the connection is closed.
        """
        view = memoryview(data)
        try:
            for at in range(0, len(view), MAX_SESSION_PIECE_BYTES):
                await self._connection.send(view[at : at + MAX_SESSION_PIECE_BYTES])
        except ConnectionClosed as error:
            raise TransportError(
                f"the connection to the host broke: {self._where}: found it closed, want it open"
            ) from error

    def close(self) -> None:
        """End both directions, after what was written."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._connection.close())

    async def wait_closed(self) -> None:
        """Close, and wait until that is done."""
        self.close()
        if self._closing is not None:
            await self._closing


class _ConnectHere(connect):
    """Connects to the host that was named and to no other: wherever it points, only it was chosen by the tenant."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow no redirect."""
        return exc


async def open_socket_stream(
    url: str, *, headers: Mapping[str, str], context: ssl.SSLContext | None, where: str
) -> SocketStream:
    """Open a stream.

    Args:
        url: `ws://` or `wss://`.
        headers: of the request; the token among them.
        context: for `wss://`, else None.
        where: the host, for messages.

    Raises:
        EnarxError: the host refuses, in its words; see `refusal`.
        TransportError: it does not answer, or is none.
    """
    try:
        connection = await _ConnectHere(
            url,
            ssl=context,
            additional_headers={name: value for name, value in headers.items() if name != "User-Agent"},
            user_agent_header="enarx",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
            compression=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=_PING_S,
            ping_timeout=_PONG_S,
            close_timeout=_CLOSE_S,
            max_size=MAX_SESSION_PIECE_BYTES,
            write_limit=_WRITE_LIMIT_BYTES,
        )
    except InvalidStatus as error:
        raise refusal(error.response.status_code, bytes(error.response.body), where) from error
    except (InvalidHandshake, WebSocketException, OSError, TimeoutError) as error:
        raise TransportError(
            f"cannot open a session: {where}: found {_reason(error)}, want a WebSocket of an enarx host", hint=_GONE
        ) from error
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close()
        raise TransportError(
            f"cannot open a session: {where}: found a relay of another version, want {SUBPROTOCOL}",
            hint="use the same version of enarx on both sides",
        )
    return SocketStream(connection, where)


_GONE = "the Keep may have ended, or the host is full: enarx keep list shows what there is"


def _reason(error: BaseException) -> str:
    return clean(" ".join(str(error).split()), 200) or type(error).__name__
