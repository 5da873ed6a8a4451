# SPDX-License-Identifier: Apache-2.0
"""A session between a tenant and a Keep: messages over TLS over any stream of bytes that a host relays.

Rules of this file:

- It carries messages and judges none: which message may come when, and whether evidence is good, is for its user.
- Every wait has a limit, but for a message that may come at any time.
- What cannot be undone is not hidden: a call that is cancelled while it sends breaks the session, because the peer would see
  records that have a gap. A `receive` that is cancelled loses nothing.

Source: docs/protocol.md, docs/formats/session.cddl.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from enarx.channel.tls import TlsEnd
from enarx.channel.transcript import Transcript
from enarx.crypto.x509 import Credential
from enarx.errors import DecodeError, TransportError, UsageError, VerificationError
from enarx.wire.session import (
    MAX_MESSAGE_BYTES,
    KeepMessage,
    TenantMessage,
    decode_keep_message_untrusted,
    decode_tenant_message_untrusted,
    encode_pieces,
)

__all__ = ["HANDSHAKE_TIMEOUT_S", "ByteStream", "Session"]

HANDSHAKE_TIMEOUT_S = 30.0
# For the last words of a session that ends, which nobody may be there to take.
_CLOSE_TIMEOUT_S = 1.0
_LENGTH_BYTES = 4

Message = TenantMessage | KeepMessage


class ByteStream(Protocol):
    """What a session runs over: a link's `Stream`, or a WebSocket behind the same three functions."""

    async def read(self) -> bytes:
        """Return some bytes, or none at the end; a call that is cancelled has taken none."""

    async def write(self, data: bytes) -> None:
        """Send all of the bytes, or fail."""

    def close(self) -> None:
        """End both directions, after what was written."""


class Session:
    """One end of a session whose TLS is established. `handshake` makes it, `close` ends it."""

    def __init__(self, stream: ByteStream, tls: TlsEnd, role: str) -> None:
        self._stream = stream
        self._tls = tls
        self._role = role
        self._decode: Callable[[memoryview], Message] = (
            decode_keep_message_untrusted if role == "tenant" else decode_tenant_message_untrusted
        )
        # What was received, how much of it was taken as messages, what came since, and how much completes the next message.
        self._input = b""
        self._taken = 0
        self._more: list[bytes] = []
        self._missing = 0
        self._sending = asyncio.Lock()
        self._error: str | None = None
        # Of a stream that takes nothing more; what the peer said before can still be received.
        self._send_error: str | None = None
        self._is_closed = False
        self._received = memoryview(b"")

    @classmethod
    async def handshake(
        cls, stream: ByteStream, credential: Credential, role: str, timeout_s: float = HANDSHAKE_TIMEOUT_S
    ) -> Session:
        """Complete TLS with the peer.

        Args:
            stream: to the peer; the session owns it, also where this fails.
            credential: one self-signed certificate and its key.
            role: of this end: `tenant` or `keep`.
            timeout_s: for all of it.

        Raises:
            TransportError: the peer went away, took too long, or has another version, group or application protocol.
            VerificationError: the peer's certificate is not one that signs itself.
        """
        if role not in {"tenant", "keep"}:
            raise UsageError(f"session: role: found {role}, want tenant or keep")
        tls = TlsEnd.for_tenant(credential) if role == "tenant" else TlsEnd.for_keep(credential)
        session = cls(stream, tls, role)
        try:
            async with asyncio.timeout(timeout_s):
                await session._shake_hands()
        except TimeoutError as error:
            await session.close()
            raise TransportError(f"session: handshake: found no answer, want one within {timeout_s:g} s") from error
        except BaseException:
            stream.close()
            raise
        return session

    @property
    def exporter(self) -> bytes:
        """Return the 32 bytes that tell this session from every other one."""
        return self._tls.exporter

    @property
    def own_leaf(self) -> bytes:
        """Return the own certificate in DER."""
        return self._tls.own_leaf

    @property
    def peer_leaf(self) -> bytes:
        """Return the peer's certificate in DER."""
        return self._tls.peer_leaf

    def transcript(self, challenge: bytes) -> Transcript:
        """Return what the evidence of this session is over, up to the Keep's first message.

        Args:
            challenge: the challenge message, in CBOR, as it was sent.
        """
        is_tenant = self._role == "tenant"
        keep_leaf, tenant_leaf = (self.peer_leaf, self.own_leaf) if is_tenant else (self.own_leaf, self.peer_leaf)
        return Transcript(self.exporter, keep_leaf, tenant_leaf, challenge)

    async def send(self, *messages: Message, timeout_s: float | None = None) -> None:
        """Send messages, in their order and in one go. Calls of several tasks follow one another.

        A call that is cancelled has sent nothing, or has broken the session.

        Args:
            messages: of this end.
            timeout_s: for the stream to take them; None waits as long as the session lasts.

        Raises:
            TransportError: the session is over, or they were not taken within the time.
        """
        pieces: list[bytes] = []
        for message in messages:
            body = encode_pieces(message)
            pieces.append(sum(map(len, body)).to_bytes(_LENGTH_BYTES, "big"))
            pieces += body
        try:
            async with asyncio.timeout(timeout_s), self._sending:
                self._require_open()
                if self._send_error is not None:
                    raise TransportError(self._send_error)
                self._tls.write(b"".join(pieces))
                await self._flush()
        except TimeoutError as error:
            raise TransportError(f"session: found a message not taken, want it taken within {timeout_s:g} s") from error

    async def receive(self, timeout_s: float | None = None) -> Message:
        """Wait for the next message; one task at a time.

        Args:
            timeout_s: for the whole message; None waits as long as the session lasts.

        Raises:
            DecodeError: it is no message of the peer's; the session is of no use any more.
            TransportError: the session is over, or nothing came within the time.
            VerificationError: what came is not what the peer sent.
        """
        body = self._take_body()
        if body is None:
            try:
                async with asyncio.timeout(timeout_s):
                    while (body := self._take_body()) is None:
                        await self._fill()
            except TimeoutError as error:
                raise TransportError(f"session: found no message, want one within {timeout_s:g} s") from error
        self._received = body
        return self._decode(body)

    async def hear_out(self, timeout_s: float) -> Message | None:
        """Return what the peer said before it ended the session, after it could not be told something.

        Args:
            timeout_s: for the whole message.

        Returns:
            the next message, or None where there is none or what came is none.
        """
        try:
            return await self.receive(timeout_s)
        except (TransportError, VerificationError, DecodeError):
            return None

    @property
    def received(self) -> bytes:
        """Return the body of the last message that `receive` returned, as it came."""
        return bytes(self._received)

    @property
    def ended(self) -> bool:
        """Whether the peer has ended the session in order; what it sent before may still be received."""
        return self._tls.ended

    @property
    def has_partial(self) -> bool:
        """Whether there are bytes of a message that `receive` has not returned."""
        return self._taken < len(self._input) or any(self._more)

    async def close(self) -> None:
        """End the session: say so if the peer takes it, then close the stream. May be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._tls.close()
            if self._error is None and self._send_error is None:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S), self._sending:
                    await self._flush()
        except (TransportError, TimeoutError):
            # Nobody is there to hear it.
            self._error = self._error or "found it closed by this end"
        finally:
            self._error = self._error or "found it closed by this end"
            self._stream.close()

    # --- What sends and receives

    async def _shake_hands(self) -> None:
        tls = self._tls
        # A refusal of ours is also an alert for the peer.
        while not tls.established:
            await self._send_output()
            data = await self._stream.read()
            if not data:
                raise TransportError("session: handshake: found the end of the stream, want the peer's answer")
            try:
                tls.receive(data)
            except (TransportError, VerificationError):
                await self._send_output()
                raise
        await self._send_output()
        # What the peer said right after its last flight may have come with it.
        self._input = bytes(tls.read())

    async def _send_output(self) -> None:
        output = self._tls.take_output()
        if output:
            await self._stream.write(output)

    async def _flush(self) -> None:
        """Send what TLS has to say; the caller has the lock."""
        try:
            await self._send_output()
        except TransportError as error:
            self._send_error = str(error)
            raise
        except BaseException:
            self._error = "found a call cancelled while it sent"
            raise

    async def _fill(self) -> None:
        """Wait for bytes, and take what TLS makes of them."""
        self._require_open()
        if self._tls.ended:
            raise self._break("found it ended by the peer, want a message")
        data = await self._stream.read()
        if not data:
            raise self._break("found the end of the stream without TLS's own, want a message")
        try:
            self._tls.receive(data)
            plain = self._tls.read()
        except TransportError as error:
            self._error = str(error)
            raise
        self._missing -= len(plain)
        if self._missing > 0:
            # A long message in many small pieces is put together once.
            self._more.append(bytes(plain))
        else:
            self._input = b"".join((memoryview(self._input)[self._taken :], *self._more, plain))
            self._taken = 0
            self._more.clear()

    def _take_body(self) -> memoryview | None:
        """Take the next message off the input, or return None where it is not complete."""
        if self._more:
            return None
        start = self._taken + _LENGTH_BYTES
        self._missing = start - len(self._input)
        if self._missing > 0:
            return None
        length = int.from_bytes(self._input[self._taken : start], "big")
        if not 1 <= length <= MAX_MESSAGE_BYTES:
            self._error = "found a message of a wrong length"
            raise DecodeError(f"session: length of a message: found {length}, want 1 to {MAX_MESSAGE_BYTES}")
        self._missing += length
        if self._missing > 0:
            return None
        self._taken = start + length
        return memoryview(self._input)[start : self._taken]

    def _require_open(self) -> None:
        if self._error is not None:
            raise TransportError(f"session: {self._error.removeprefix('session: ')}")

    def _break(self, reason: str) -> TransportError:
        self._error = reason
        return TransportError(f"session: {reason}")
