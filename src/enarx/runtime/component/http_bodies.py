# SPDX-License-Identifier: Apache-2.0
"""Bodies of wasi:http 0.2, in both directions: what carries them, and the resources that guests see.

Rules of this file:

- An incoming body is read from its connection only when the guest asks for more, so a guest that is slow slows the peer.
- An outgoing body is held until there is a reason to send: 64 KiB, or its end or a flush where nobody else would send
  soon. One that ends before anything was sent leaves in one piece with its head, and with a content-length.
- Requests and responses differ only in what is passed in: who encodes the head, and which error code says "size".

Source: WIT package wasi:http@0.2.12.
"""

# The hooks and codecs overridden here are described where they are declared.
# ruff: noqa: D102

from __future__ import annotations

import threading

from enarx.runtime.component.binding import Borrow, Kind, Own, Trap
from enarx.runtime.component.http_fields import ERROR_CODE, FIELDS, Fields, Inner, types_interface
from enarx.runtime.component.io import (
    BLOCKING_WRITE_BYTES,
    CHUNK,
    INPUT_STREAM,
    OUTPUT_STREAM,
    POLLABLE,
    POLLIN,
    POLLOUT,
    Closed,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    WouldBlock,
    closed,
    failed,
)
from enarx.runtime.component.values import Err, Option, Result
from enarx.runtime.http1 import encode_chunk, encode_trailers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, Protocol

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.clock import Clock
    from enarx.runtime.component.io import Interest
    from enarx.runtime.http1 import Headers, Message
    from enarx.runtime.tls import TlsStream

    ErrorCode = tuple[str, Any]

    class Source(Protocol):
        """Where an incoming body comes from."""

        clock: Clock
        between_bytes_ns: int

        def pump(self) -> None:
            """Receive once. Raises BlockingIOError where nothing is there, HttpError where nothing will be."""

        def read_interest(self) -> tuple[int, int]:
            """Return descriptor and poll bits to wait for before `pump` again."""


SECOND_NS = 10**9
WRITE_NS = 60 * SECOND_NS
"""How long a peer may take nothing."""


class HttpError(Exception):
    """An exchange failed.

    Args:
        code: an error-code of wasi:http.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code[0])
        self.code = code


def stream_failure(code: ErrorCode) -> Err:
    """Return the stream-error that `http-error-code` turns back into this code."""
    return failed(IoError(code[0], code))


# --- Transports ------------------------------------------------------------------------------------------------------


class PlainTransport:
    """A connected, non-blocking socket."""

    __slots__ = ("_sock", "close", "fileno", "recv", "send", "shutdown_write")

    is_concurrent = True
    wants = POLLIN

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.fileno: Callable[[], int] = sock.fileno
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[memoryview | bytes], int] = sock.send
        self.close: Callable[[], None] = sock.close

    def end(self) -> None:
        """Tell the peer that nothing more comes."""
        self._sock.shutdown(1)


class TlsTransport:
    """A TLS stream whose handshake is complete; one thread at a time may use it."""

    __slots__ = ("_buffer", "_stream", "close", "end", "fileno")

    is_concurrent = False

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(CHUNK))
        self.fileno: Callable[[], int] = stream.fileno
        self.close: Callable[[], None] = stream.close
        self.end: Callable[[], None] = stream.shutdown_write

    @property
    def wants(self) -> int:
        """What to poll for after a BlockingIOError."""
        return self._stream.wants

    def recv(self, size: int) -> bytes:
        """Receive; a whole record fits, so that none is left where polling does not see it."""
        return bytes(self._buffer[: self._stream.recv_into(self._buffer[:size])])

    def send(self, data: memoryview | bytes) -> int:
        """Send; after a BlockingIOError the same bytes come again."""
        return self._stream.send(memoryview(data))


if TYPE_CHECKING:
    Transport = PlainTransport | TlsTransport


# --- Incoming --------------------------------------------------------------------------------------------------------


class BodyReader(InputStream):
    """The input-stream of an incoming body."""

    __slots__ = ("_deadline_ns", "_failure", "_message", "_offset", "_source")

    def __init__(self, message: Message, source: Source) -> None:
        self._message = message
        self._source = source
        self._offset = 0
        self._deadline_ns = 0
        self._failure: ErrorCode | None = None

    def read_some(self, size: int) -> bytes:
        chunks = self._message.chunks
        if not chunks:
            self._receive()
        data = chunks[0]
        start = self._offset
        if len(data) - start > size:
            self._offset = start + size
            return data[start : start + size]
        self._offset = 0
        chunks.popleft()
        return data[start:] if start else data

    def poll_interest(self) -> Interest | None:
        if self._message.chunks:
            return None
        try:
            self._receive()
        except WouldBlock:
            fd, events = self._source.read_interest()
            return (fd, events, self._deadline_ns)
        except (Closed, Err):
            # Reading tells.
            return None
        return None

    def fired(self) -> bool:
        return False

    def _receive(self) -> None:
        """Return once there is a chunk."""
        message, source = self._message, self._source
        if self._failure is not None:
            raise stream_failure(self._failure)
        try:
            while not message.chunks:
                if message.complete:
                    raise Closed
                source.pump()
                self._deadline_ns = 0
        except BlockingIOError:
            now = source.clock.monotonic_ns()
            if not self._deadline_ns:
                self._deadline_ns = now + source.between_bytes_ns
            elif now >= self._deadline_ns:
                self._failure = ("connection-read-timeout", None)
                raise stream_failure(self._failure) from None
            raise WouldBlock from None
        except HttpError as error:
            self._failure = error.code
            raise stream_failure(error.code) from error


class IncomingBody:
    """The resource `incoming-body`."""

    __slots__ = ("is_taken", "message", "source")

    def __init__(self, message: Message, source: Source) -> None:
        self.message = message
        self.source = source
        self.is_taken = False


class FutureTrailers(Pollable):
    """The resource `future-trailers`; waiting for it reads the rest of the body and throws it away."""

    __slots__ = ("_error", "_message", "_reader", "is_told")

    def __init__(self, message: Message, source: Source) -> None:
        self._message = message
        self._reader = BodyReader(message, source)
        self._error: ErrorCode | None = None
        self.is_told = False

    def interest(self) -> Interest | None:
        try:
            # A peer that sends fast must not keep us here.
            for _ in range(64):
                interest = self._reader.poll_interest()
                if interest is not None:
                    return interest
                self._reader.read_some(CHUNK)
        except Closed:
            return None
        except Err as error:
            self._error = error.value[1].cause
            return None
        return (-1, 0, 0)

    def fired(self) -> bool:
        return self.interest() is None

    def outcome(self) -> tuple[bool, Any] | None:
        """Return `(True, trailers or None)`, `(False, error-code)`, or None while it is open."""
        if self._error is None and self.interest() is not None:
            return None
        if self._error is not None:
            return False, self._error
        return True, Fields(self._message.trailers, is_mutable=False) if self._message.trailers else None


# --- Outgoing --------------------------------------------------------------------------------------------------------


class Outlet:
    """The way out of one message: its head, its body, its trailers.

    Another thread may call `urge`; everything else belongs to the guest's.

    Args:
        clock: for the time a peer takes nothing.
        size_error: the case of error-code for a body of another size than declared.
        gate_fd: becomes readable when `attach` can be called, or -1.
        opener: is called to see whether it can.

    Attributes:
        is_lazy: whether somebody will call `urge` soon, so that neither a flush nor the end has to send.
    """

    __slots__ = (
        "_chunked", "_chunks", "_clock", "_deadline_ns", "_encode_head", "_has_body", "_held", "_lock", "_transport", "_wire",
        "_written", "declared", "failure", "gate_fd", "is_finished", "is_lazy", "is_truncated", "opener", "size_error", "started",
        "trailers",
    )  # fmt: skip

    def __init__(self, clock: Clock, size_error: str) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._held = 0
        self._wire: memoryview | bytes = b""
        self._written = 0
        self._chunked = False
        self._has_body = True
        self._deadline_ns = 0
        self._transport: Transport | None = None
        self._encode_head: Callable[[int | None], tuple[bytes, bool]] | None = None
        self.size_error = size_error
        self.gate_fd = -1
        self.opener: Callable[[], None] | None = None
        self.declared: int | None = None
        self.trailers: Headers = []
        self.failure: ErrorCode | None = None
        self.started = False
        self.is_lazy = False
        self.is_finished = False
        self.is_truncated = False

    @property
    def is_sent(self) -> bool:
        """Whether the message, whole or truncated, has left."""
        return self.started and not self._wire and not self._chunks and (self.is_finished or self.is_truncated)

    def attach(
        self, transport: Transport, encode_head: Callable[[int | None], tuple[bytes, bool]], *, has_body: bool = True
    ) -> None:
        """Say where it goes.

        Args:
            transport: of the connection.
            encode_head: takes the length of the body, or None where it is not known yet; returns the head and whether the
                body goes in chunks.
            has_body: False to leave the body out.
        """
        with self._lock:
            self._transport = transport
            self._encode_head = encode_head
            self._has_body = has_body
            if self.is_finished or self._held > CHUNK - BLOCKING_WRITE_BYTES:
                self._push()

    def capacity(self) -> int:
        """Return how many bytes `write` takes now."""
        if self._transport is None and self.opener is not None:
            self.opener()
        if self._wire:
            with self._lock:
                self._drain()
        if self._wire:
            return 0
        if self._transport is not None:
            return CHUNK
        # Whoever may write at all may write what one blocking write takes.
        left = CHUNK - self._held
        return left if left >= BLOCKING_WRITE_BYTES else 0

    def write(self, data: bytes) -> None:
        """Take bytes of the body.

        Raises:
            Err: more than declared, or the connection failed.
        """
        with self._lock:
            self._written += len(data)
            if self.declared is not None and self._written > self.declared:
                self.failure = (self.size_error, self._written)
                raise stream_failure(self.failure)
            if self._has_body and data:
                self._chunks.append(data)
                self._held += len(data)
            if self._held >= CHUNK:
                self._push()

    def flush(self) -> None:
        """Send what is held, unless somebody will."""
        if self._transport is None and self.opener is not None:
            self.opener()
        if not self.is_lazy:
            with self._lock:
                self._push()

    def urge(self) -> None:
        """Send what is held now and from now on at each flush."""
        with self._lock:
            self.is_lazy = False
            self._push()

    def push(self) -> None:
        """Send what is held."""
        with self._lock:
            self._push()

    def finish(self, trailers: Headers) -> None:
        """End the body.

        Raises:
            Err: it has another size than declared.
        """
        if self.declared is not None and self._written != self.declared:
            self.failure = (self.size_error, self._written)
            self.truncate()
            raise Err(self.failure)
        if self._transport is None and self.opener is not None:
            self.opener()
        with self._lock:
            self.trailers = trailers
            self.is_finished = True
            self._push()

    def truncate(self) -> None:
        """End the body although it is not whole: the connection says so by ending too."""
        if self.is_finished or self.is_truncated:
            return
        if self.declared is not None and self._written == self.declared:
            self.finish([])
            return
        with self._lock:
            self.is_truncated = True
            self._push()

    def interest(self) -> Interest | None:
        """Return what to wait for before something can be written, or None."""
        if self.failure is not None or self.capacity():
            self._deadline_ns = 0
            return None
        now = self._clock.monotonic_ns()
        if not self._deadline_ns:
            self._deadline_ns = now + WRITE_NS
        elif now >= self._deadline_ns:
            self.failure = ("connection-write-timeout", None)
            return None
        if self._transport is None:
            return (self.gate_fd, POLLIN, self._deadline_ns)
        return (self._transport.fileno(), POLLOUT, self._deadline_ns)

    def _push(self) -> None:
        encode_head = self._encode_head
        if encode_head is None or self.failure is not None:
            return
        if not self.started:
            if not self._chunks and not self.is_finished and not self.is_truncated:
                # A flush with nothing to flush does not decide on the framing.
                return
            length = self.declared
            if length is None and self.is_finished and not self.trailers:
                length = self._written
            head, self._chunked = encode_head(length)
            self.started = True
            parts = [self._wire, head]
        elif not self._chunks and not (self.is_finished and self._chunked):
            self._drain()
            return
        else:
            parts = [self._wire]
        if self._chunks:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
            parts.append(encode_chunk(body) if self._chunked else body)
        if self.is_finished and self._chunked:
            self._chunked = False
            parts.append(encode_trailers(self.trailers))
        self._wire = b"".join(parts)
        if not (self.is_lazy and self.is_finished):
            self._drain()

    def _drain(self) -> None:
        transport = self._transport
        if transport is None:
            return
        wire = self._wire
        try:
            while wire:
                sent = transport.send(wire)
                wire = b"" if sent == len(wire) else memoryview(wire)[sent:]
        except BlockingIOError:
            # The rest waits until the peer takes more.
            self._wire = wire
            return
        except OSError:
            self.failure = ("connection-terminated", None)
            wire = b""
        self._wire = wire


class BodyWriter(OutputStream):
    """The output-stream of an outgoing body: all of it is the outlet's."""

    __slots__ = ("_outlet",)

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def poll_interest(self) -> Interest | None:
        return self._outlet.interest()

    def fired(self) -> bool:
        return False

    def check_write(self) -> int:
        outlet = self._outlet
        if outlet.failure is not None or outlet.is_finished or outlet.is_truncated:
            raise closed()
        return outlet.capacity()

    def write(self, data: bytes) -> None:
        if len(data) > self.check_write():
            raise Trap(f"found a write of {len(data)} bytes, want at most what check-write permitted")
        self._outlet.write(data)

    def flush(self) -> None:
        self._outlet.flush()

    def drop(self) -> None:
        """Leave what was written to the body's own end."""


class OutgoingBody:
    """The resource `outgoing-body`."""

    __slots__ = ("is_taken", "outlet")

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.is_taken = False

    def drop(self) -> None:
        """End a body that was not finished."""
        self.outlet.truncate()


# --- Interface -------------------------------------------------------------------------------------------------------

INCOMING_BODY: Kind = types_interface.resource("incoming-body")
OUTGOING_BODY: Kind = types_interface.resource("outgoing-body")
FUTURE_TRAILERS: Kind = types_interface.resource("future-trailers")


@types_interface.func("[method]incoming-body.stream", (Borrow(INCOMING_BODY),), Result(Own(INPUT_STREAM), None))
def _stream(_keep: Keep, body: IncomingBody) -> InputStream:
    if body.is_taken:
        raise Err
    body.is_taken = True
    return BodyReader(body.message, body.source)


@types_interface.func("[static]incoming-body.finish", (Own(INCOMING_BODY),), Own(FUTURE_TRAILERS))
def _finish_incoming(_keep: Keep, body: IncomingBody) -> FutureTrailers:
    return FutureTrailers(body.message, body.source)


@types_interface.func("[method]future-trailers.subscribe", (Borrow(FUTURE_TRAILERS),), Own(POLLABLE))
def _subscribe_trailers(_keep: Keep, future: FutureTrailers) -> Pollable:
    return future


@types_interface.func(
    "[method]future-trailers.get",
    (Borrow(FUTURE_TRAILERS),),
    Option(Inner(Inner(Option(Own(FIELDS)), ERROR_CODE), None)),
)
def _get_trailers(_keep: Keep, future: FutureTrailers) -> Any:
    if future.is_told:
        return (False, None)
    outcome = future.outcome()
    if outcome is None:
        return None
    future.is_told = True
    return (True, outcome)


@types_interface.func("[method]outgoing-body.write", (Borrow(OUTGOING_BODY),), Result(Own(OUTPUT_STREAM), None))
def _write(_keep: Keep, body: OutgoingBody) -> OutputStream:
    if body.is_taken:
        raise Err
    body.is_taken = True
    return BodyWriter(body.outlet)


@types_interface.func(
    "[static]outgoing-body.finish", (Own(OUTGOING_BODY), Option(Own(FIELDS))), Result(None, ERROR_CODE)
)
def _finish_outgoing(_keep: Keep, body: OutgoingBody, trailers: Fields | None) -> None:
    body.outlet.finish(trailers.entries if trailers is not None else [])
