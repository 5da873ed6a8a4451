# SPDX-License-Identifier: Apache-2.0
"""The link between a host and a Keep: numbered streams over one connected socket, or a port of a virtual machine.

Rules of this file:

- Neither end believes the other. What link.cddl does not have, or not in this order, ends the link and with it every stream.
- The Keep says hello first, and the host answers. Nothing counts before the peer's hello: on a port the end of an earlier link
  may still be on its way, and a host that spoke before the Keep knew of it would be taken for the one before. A Keep that has
  not seen that there is another host says nothing: then the host sends what no link goes on after.
- Memory is bounded: a direction of a stream has at most `WINDOW_BYTES` that nobody has read yet, all of them together
  `max_buffered_bytes`, and what waits to leave stops whoever writes. A peer that sends and never reads loses the link.
- Nobody waits for another stream. A stream without credit stands aside, and those that can send take turns.
- No tasks: everything happens in callbacks of the loop that made the link, so there is nothing to cancel and nothing to leak.
- It knows nothing of what streams carry.

What is fast about it: bytes go between the socket and the streams without an intermediary, several frames to a system call.
Where both ends of a stream are sockets (`relay`), data that the other socket takes at once are never copied in this process.

What holds it together is the life of a stream: `Stream` is what its user sees, `Link` sends and receives for all of them, `_Relay`
stands in for a user where a socket is one.

Source: docs/formats/link.cddl.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from enarx.channel.frames import (
    MAX_DATA_BYTES,
    MAX_HEADER_BYTES,
    MAX_STREAM_NUMBER,
    MAX_STREAMS,
    ROLES,
    WINDOW_BYTES,
    Credit,
    Data,
    End,
    Event,
    FrameReader,
    Hello,
    Open,
    Opened,
    Reset,
    Target,
    encode_credit,
    encode_data_header,
    encode_end,
    encode_hello,
    encode_open,
    encode_opened,
    encode_reset,
)
from enarx.errors import DecodeError, TransportError, UsageError

if TYPE_CHECKING:
    from enarx.channel.port import PortConnection

__all__ = ["HELLO_TIMEOUT_S", "Link", "Stream", "Target", "open_link", "relay"]

HELLO_TIMEOUT_S = 10.0
BREAK_S = 0.5
# Whatever frame has begun ends within it, and is wrong or followed by one without a header.
_BREAK = bytes(MAX_DATA_BYTES + 2 + MAX_HEADER_BYTES)

DEFAULT_BUFFERED_BYTES = 256 << 20
"""What all streams of a link together may hold that nobody has read; beyond it the stream that gets more is reset."""

# What a socket is asked for at once.
_READ_BYTES = 512 << 10
# What is gathered for one system call, and what leaves before others of the loop have their turn.
_BATCH_BYTES = 256 << 10
_TURN_BYTES = 2 << 20
# What may wait to leave: a batch, a frame or a relay's turn that came on top of it, and then only our own small frames, of
# which a peer that sends must read some.
_MAX_BACKLOG_BYTES = 2 * _BATCH_BYTES + (1 << 20)
# Credit is returned in steps: small ones would cost a frame each, large ones would stop the sender.
_CREDIT_STEP_BYTES = WINDOW_BYTES // 2
# Pieces below this are gathered, or a peer that sends single bytes would make them cost fifty each.
_SMALL_BYTES = 4096
_SOCKET_BUFFER_BYTES = 1 << 20
_MAX_PIECES = 64
# Of a peer that has ended: more than sockets and the buffers of a virtual machine hold.
_MAX_LAST_BYTES = 16 << 20
_LINGER_RESET = struct.pack("ii", 1, 0)

_Piece = bytes | bytearray | memoryview


async def open_link(
    sock: socket.socket | PortConnection,
    *,
    role: str,
    accept: Callable[[Stream], None] | None = None,
    timeout_s: float = HELLO_TIMEOUT_S,
    max_buffered_bytes: int = DEFAULT_BUFFERED_BYTES,
) -> Link:
    """Exchange hellos on a connected socket.

    Args:
        sock: a stream; the link owns it from here on, also where this fails.
        role: of this end: `host` or `keep`.
        accept: is called with each stream that the peer opens, as soon as it is; it must not wait, and refuses by
            `stream.reset("refused")`. None refuses all. It may be called before this function returns.
        timeout_s: for the peer's hello.
        max_buffered_bytes: that all streams together may hold unread.

    Raises:
        TransportError: the peer went away, said something else, or nothing within the time.
    """
    if role not in ROLES:
        raise UsageError(f"cannot open a link: role: found {role}, want host or keep")
    link = Link(sock, role=role, accept=accept, max_buffered_bytes=max_buffered_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            if role == "host":
                await link._break_another()
            await link._greeted.wait()
    except TimeoutError as error:
        link.close(f"found no hello of the peer, want one within {timeout_s:g} s")
        raise link._failure() from error
    except BaseException:
        link.close()
        raise
    if link.closed.is_set():
        raise link._failure()
    return link


class _Write:
    """One call of `Stream.write` that is not all sent."""

    __slots__ = ("begun", "done", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.begun = False
        self.done: asyncio.Future[None] | None = None


class Stream:
    """One stream of a link. Both ends read and write; each ends its own direction, either resets both.

    What was received whole, up to the peer's end, can be read whatever happens afterwards.
    """

    __slots__ = (
        "_allowance",
        "_chunks",
        "_confirmed",
        "_credit",
        "_end_sent",
        "_end_wanted",
        "_ended",
        "_error",
        "_in_turn",
        "_link",
        "_owed",
        "_readable",
        "_relay",
        "_reset_after_end",
        "_unread",
        "_writes",
        "number",
        "reset_reason",
        "target",
    )

    def __init__(self, link: Link, number: int, target: Target) -> None:
        self.number = number
        self.target = target
        self._link = link
        self._error: str | None = None
        self.reset_reason: str | None = None
        """What the peer gave as its reason where it reset the stream."""
        # Of an `outbound` stream: whether the host has said that the connection is there.
        self._confirmed = asyncio.Event()
        # Receiving: what nobody has read, how much more the peer may send, and what was read that it has not been told of.
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._unread = 0
        self._allowance = WINDOW_BYTES
        self._owed = 0
        self._ended = False
        self._readable = asyncio.Event()
        # Sending: how much we may, what is to be, and whether the stream is in the queue of those that can.
        self._credit = WINDOW_BYTES
        self._writes: deque[_Write] = deque()
        self._in_turn = False
        self._end_wanted = False
        self._end_sent = False
        self._reset_after_end = False
        self._relay: _Relay | None = None

    async def read(self, max_bytes: int = 8 * MAX_DATA_BYTES) -> bytes:
        """Wait for bytes.

        A call that is cancelled has taken none.

        Returns:
            1 to `max_bytes` of them, or none where the peer has ended its direction.

        Raises:
            TransportError: the stream was reset, or the link broke, before the peer ended its direction.
        """
        while not self._chunks:
            if self._ended:
                return b""
            if self._error is not None:
                raise TransportError(self._error)
            self._readable.clear()
            await self._readable.wait()
        return self._take(max_bytes)

    async def write(self, data: _Piece) -> None:
        """Send bytes; wait for the peer's credit and for the link.

        Several calls send in the order in which they were made. A call that is cancelled has sent nothing, or has reset the
        stream, because nobody could say how much of it was sent.

        Args:
            data: any number of bytes; what is not `bytes` is copied.

        Raises:
            TransportError: the stream was reset or its direction ended, or the link broke. Some of the bytes may have been sent.
        """
        self._require_writable()
        if not data:
            return
        write = _Write(memoryview(data if type(data) is bytes else bytes(data)))
        self._writes.append(write)
        self._link._queue_turn(self)
        self._link._pump()
        if not write.view:
            return
        self._raise_error()
        write.done = self._link._loop.create_future()
        try:
            await write.done
        except asyncio.CancelledError:
            if write.begun:
                self.reset("closed")
            elif self._error is None:
                self._writes.remove(write)
                self._finish_sending()
            raise
        if write.view:
            self._raise_error()

    def confirm(self) -> None:
        """Tell the Keep that the connection of an `outbound` stream is there. Does nothing where the stream is over."""
        if self._error is None:
            self._link._send(encode_opened(self.number))

    async def wait_confirmed(self) -> None:
        """Wait until the host says that the connection of an `outbound` stream is there.

        Raises:
            TransportError: it says that it is not, by a reset (`reset_reason`), or the link broke.
        """
        await self._confirmed.wait()
        if not self._ended:
            self._raise_error()

    def end(self) -> None:
        """End this direction, after what is being written. Does nothing where it is ended or the stream is over."""
        if self._error is None and not self._end_wanted:
            self._end_wanted = True
            self._finish_sending()

    def reset(self, reason: str = "closed") -> None:
        """End both directions at once; what is being written, or was not read, is dropped.

        Args:
            reason: for the peer: `refused`, `unreachable`, `timeout`, `closed` or `limit`.
        """
        if self._error is None and not self._is_over():
            frame = encode_reset(self.number, reason)
            self._fail(f"stream {self.number}: found it reset by this end ({reason})", dropped=True)
            self._link._send(frame)

    def close(self) -> None:
        """End this direction, after what is being written, and take nothing more. Never waits, may be called again."""
        if self._error is not None:
            return
        self._reset_after_end = True
        self._drop_unread()
        if self._end_sent:
            self.reset("closed")
        else:
            self.end()

    # --- What the link calls

    def _is_over(self) -> bool:
        return self._ended and self._end_sent

    def _raise_error(self) -> None:
        if self._error is not None:
            raise TransportError(self._error)

    def _require_writable(self) -> None:
        self._raise_error()
        if self._end_wanted:
            raise TransportError(f"stream {self.number}: found a write after its end, want none")

    def _finish_sending(self) -> None:
        """Say the end where it is wanted and nothing is left to send."""
        if self._end_wanted and not self._end_sent and not self._writes:
            self._end_sent = True
            self._link._send(encode_end(self.number))
            if self._ended:
                self._link._forget(self)
            elif self._reset_after_end:
                # The peer has what it was sent, and learns that nobody reads what it sends.
                self.reset("closed")

    def _take(self, max_bytes: int) -> bytes:
        chunks = self._chunks
        first = chunks[0]
        if len(first) > max_bytes:
            view = memoryview(first)
            data = bytes(view[:max_bytes])
            chunks[0] = view[max_bytes:]
        elif len(chunks) == 1 or len(first) == max_bytes:
            chunks.popleft()
            data = first if type(first) is bytes else bytes(first)
        else:
            taken = []
            left = max_bytes
            while chunks and len(chunks[0]) <= left:
                left -= len(chunks[0])
                taken.append(chunks.popleft())
            data = b"".join(taken)
        self._forget_unread(len(data))
        self._consumed(len(data))
        return data

    def _forget_unread(self, count: int) -> None:
        self._unread -= count
        self._link._buffered -= count

    def _drop_unread(self) -> None:
        self._chunks.clear()
        self._forget_unread(self._unread)

    def _discard_unread(self) -> None:
        count = self._unread
        self._drop_unread()
        self._consumed(count)

    def _consumed(self, count: int) -> None:
        """Count bytes that have left this end, and let the peer send as many more once they are worth a frame."""
        self._owed += count
        if self._owed >= _CREDIT_STEP_BYTES and not self._ended and self._error is None:
            more, self._owed = self._owed, 0
            self._allowance += more
            self._link._send(encode_credit(self.number, more))

    def _receive(self, piece: memoryview) -> None:
        """Take data of the peer's; the view lives only during this call."""
        count = len(piece)
        self._allowance -= count
        if self._ended or self._allowance < 0:
            want = "none after the end" if self._ended else "none without credit"
            raise DecodeError(f"stream {self.number}: found data, want {want}")
        if self._reset_after_end:
            self._consumed(count)
            return
        if self._relay is None or not self._relay.borrow(piece):
            self._hold(piece)

    def _hold(self, piece: memoryview) -> None:
        """Copy data that nobody takes now."""
        count = len(piece)
        last = self._chunks[-1] if self._chunks else None
        if count >= _SMALL_BYTES:
            self._chunks.append(bytes(piece))
        elif type(last) is bytearray and len(last) < MAX_DATA_BYTES:
            last += piece
        else:
            self._chunks.append(bytearray(piece))
        self._unread += count
        self._link._buffered += count
        if self._link._buffered > self._link._max_buffered_bytes:
            self.reset("limit")
            return
        self._readable.set()

    def _receive_opened(self) -> None:
        if self.target.kind != "outbound" or self._link._role != "keep" or self._confirmed.is_set():
            raise DecodeError(
                f"stream {self.number}: found it said to be opened, want that once, of the host, of an outbound one"
            )
        self._confirmed.set()

    def _receive_end(self) -> None:
        if self._ended:
            raise DecodeError(f"stream {self.number}: found its end twice, want it once")
        self._ended = True
        self._readable.set()
        if self._relay is not None:
            self._relay.pass_on_end()
        if self._end_sent:
            self._link._forget(self)

    def _receive_credit(self, more: int) -> None:
        if self._credit + more > WINDOW_BYTES:
            raise DecodeError(
                f"stream {self.number}: found {self._credit + more} bytes of credit, want at most {WINDOW_BYTES}"
            )
        self._credit += more
        if self._writes or self._relay is not None:
            self._link._queue_turn(self)

    def _send_turn(self) -> int:
        """Send of what is being written; the link calls it when it is this stream's turn.

        Returns:
            How many bytes.
        """
        if self._relay is not None:
            return self._relay.send_turn()
        if not self._writes or not self._credit:
            return 0
        write = self._writes[0]
        count = min(len(write.view), self._credit, _BATCH_BYTES)
        self._send_data(write.view[:count])
        write.begun = True
        write.view = write.view[count:]
        if not write.view:
            self._writes.popleft()
            _settle(write)
        if self._writes:
            if self._credit:
                self._link._queue_turn(self)
        else:
            self._finish_sending()
        return count

    def _send_data(self, data: memoryview) -> None:
        """Send data, for which there is credit, in as many frames as they need."""
        self._credit -= len(data)
        for at in range(0, len(data), MAX_DATA_BYTES):
            piece = data[at : at + MAX_DATA_BYTES]
            self._link._put(encode_data_header(self.number, len(piece)))
            self._link._put(piece)

    def _fail(self, error: str, *, dropped: bool) -> None:
        """End both directions and wake whoever waits; `dropped`: also what was not read, where the peer had not ended."""
        if self._relay is not None:
            self._relay.pass_on()
        self._error = error
        if dropped and not self._ended:
            self._drop_unread()
        while self._writes:
            _settle(self._writes.popleft())
        self._link._forget(self)
        self._confirmed.set()
        self._readable.set()
        if self._relay is not None:
            self._relay.fail(error)


def _settle(write: _Write) -> None:
    """Wake the call that waits for a write, if it does; what is left of the view tells it how it went."""
    if write.done is not None and not write.done.done():
        write.done.set_result(None)


class Link:
    """One end of a link. `open_link` makes it; `close` ends it.

    Args:
        sock: connected; owned.
        role: of this end.
        accept: see `open_link`.
        max_buffered_bytes: see `open_link`.
    """

    def __init__(
        self,
        sock: socket.socket | PortConnection,
        *,
        role: str,
        accept: Callable[[Stream], None] | None,
        max_buffered_bytes: int,
    ) -> None:
        if isinstance(sock, socket.socket):
            sock.setblocking(False)
            _enlarge_buffers(sock)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        # The loop is told of descriptors: one that it does not have is looked up by what a socket says of itself.
        self._fd = sock.fileno()
        self._role = role
        self._accept = accept
        self._max_buffered_bytes = max_buffered_bytes
        self._buffered = 0
        self.closed = asyncio.Event()
        """Set once the link is over."""
        self.reason = ""
        """Why it is over: one phrase, for messages."""
        self.received_bytes = 0
        """Of the socket, frames and all."""
        self.sent_bytes = 0
        """Of the socket, frames and all."""
        self._greeted = asyncio.Event()
        self._is_greeted = False
        # What may be the beginning of the peer's hello.
        self._skipped = b""
        self._streams: dict[int, Stream] = {}
        # A number is used once, in ascending order: 0, 2, ... are the host's, 1, 3, ... the Keep's.
        self._next_own = 0 if role == "host" else 1
        self._next_peer = 1 if role == "host" else 0
        self._reader = FrameReader()
        self._view = memoryview(bytearray(_READ_BYTES))
        # The relays of this link read into one buffer, which is why what is not sent at once is copied.
        self._relay_view = memoryview(bytearray(_READ_BYTES))
        # Those that were lent pieces of what is being received.
        self._borrowers: list[_Relay] = []
        self._out: deque[bytes | memoryview] = deque()
        self._out_bytes = 0
        self._is_blocked = False
        self._is_corked = False
        self._is_pumping = False
        self._continuing: asyncio.Handle | None = None
        self._turns: deque[Stream] = deque()
        self._drained = asyncio.Event()
        self._loop.add_reader(self._fd, self._receive_ready)
        if role == "keep":
            self._send(encode_hello(role))

    async def open(self, target: Target) -> Stream:
        """Open a stream. There is no answer to it but data, an end or a reset.

        Raises:
            TransportError: the link is over, or has as many streams as it may have.
            UsageError: the target is none, or not for this end to open.
        """
        if target.opener != self._role:
            raise UsageError(f"cannot open a stream: target: found {target.kind}, want one that the {self._role} opens")
        await self.drain()
        if self.closed.is_set():
            raise self._failure()
        if len(self._streams) >= MAX_STREAMS:
            raise TransportError(f"cannot open a stream: found {MAX_STREAMS} open, want fewer")
        if self._next_own > MAX_STREAM_NUMBER:
            raise TransportError("cannot open a stream: found every number of this link used, want a new link")
        frame = encode_open(self._next_own, target)
        stream = self._streams[self._next_own] = Stream(self, self._next_own, target)
        self._next_own += 2
        self._send(frame)
        return stream

    async def drain(self) -> None:
        """Wait until the socket has taken all that may leave, which is what the peers' credit allows, or the link is over."""
        while (self._out or self._turns) and not self.closed.is_set():
            self._drained.clear()
            await self._drained.wait()

    async def wait_closed(self) -> str:
        """Wait until the link is over.

        Returns:
            Why: one phrase.
        """
        await self.closed.wait()
        return self.reason

    def close_after_peer(self, reason: str) -> None:
        """End the link of a peer that has ended: what it said before is taken first, and streams that it ended can be read to their ends.

        Args:
            reason: one phrase.
        """
        left = _MAX_LAST_BYTES + self.received_bytes
        while not self.closed.is_set():
            before = self.received_bytes
            self._receive_ready(reason)
            if self.received_bytes == before or self.received_bytes > left:
                break
        self.close(reason)

    def close(self, reason: str = "found it closed by this end") -> None:
        """End the link and every stream of it, at once. May be called again."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._greeted.set()
        self._drained.set()
        self._loop.remove_reader(self._fd)
        if self._is_blocked:
            self._loop.remove_writer(self._fd)
        if self._continuing is not None:
            self._continuing.cancel()
        self._sock.close()
        # Its number may be another's now.
        self._fd = -1
        self._out.clear()
        self._turns.clear()
        for stream in list(self._streams.values()):
            stream._fail(f"link: {reason}", dropped=True)

    def _failure(self) -> TransportError:
        return TransportError(f"link: {self.reason}")

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)

    # --- Receiving

    def _receive_ready(self, at_end: str | None = None) -> None:
        try:
            count = self._sock.recv_into(self._view)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(at_end or f"found {_words(error)}")
            return
        if not count:
            self.close(at_end or "found it closed by the peer")
            return
        self.received_bytes += count
        # What is said in answer leaves together.
        self._is_corked = True
        data = self._view[:count]
        try:
            for event in self._reader.feed_untrusted(data if self._is_greeted else self._greet(data)):
                self._take(event)
                if self.closed.is_set():
                    return
        except DecodeError as error:
            self.close(str(error))
            return
        except BaseException:
            self.close("found an error of this end")
            raise
        finally:
            while self._borrowers:
                self._borrowers.pop().pass_on()
            self._is_corked = False
        self._pump()

    def _take(self, event: Event) -> None:
        if type(event) is Data:
            stream = self._streams.get(event.stream)
            if stream is not None:
                stream._receive(event.data)
            else:
                self._require_past(event.stream)
            return
        if isinstance(event, Hello):
            raise DecodeError("link: found a second hello, want one")
        if isinstance(event, Open):
            self._take_open(event)
        else:
            stream = self._streams.get(event.stream)
            if stream is None:
                self._require_past(event.stream)
            elif type(event) is Credit:
                stream._receive_credit(event.more)
            elif type(event) is End:
                stream._receive_end()
            elif type(event) is Opened:
                stream._receive_opened()
            elif type(event) is Reset:
                stream.reset_reason = event.reason
                stream._fail(f"stream {stream.number}: found it reset by the peer ({event.reason})", dropped=True)

    async def _break_another(self) -> None:
        """Wait a moment for the Keep's hello, and then end the link that it may still have with the host before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BREAK_S):
                await self._greeted.wait()
        # On a busy machine the time may be over in the turn of the loop in which the hello came and was answered.
        if not self._greeted.is_set():
            self._send(_BREAK)

    def _greet(self, data: memoryview) -> memoryview:
        """Look for the peer's hello, and return what follows it."""
        hello = encode_hello("keep" if self._role == "host" else "host")
        seen = self._skipped + data
        before, found, rest = seen.partition(hello)
        if not found:
            self._skipped = before[1 - len(hello) :]
            return data[:0]
        self._skipped = b""
        self._is_greeted = True
        self._greeted.set()
        if self._role == "host":
            self._send(encode_hello(self._role))
        return memoryview(rest)

    def _take_open(self, event: Open) -> None:
        number = event.stream
        if number % 2 != self._next_peer % 2 or number < self._next_peer:
            raise DecodeError(f"link: found stream {number} opened, want a number of the peer's that was not used")
        if event.target.opener == self._role:
            raise DecodeError(f"link: found {event.target.kind} opened, want a target that the peer may open")
        self._next_peer = number + 2
        if len(self._streams) >= MAX_STREAMS or self._accept is None:
            self._send(encode_reset(number, "refused" if self._accept is None else "limit"))
            return
        stream = self._streams[number] = Stream(self, number, event.target)
        self._accept(stream)

    def _require_past(self, number: int) -> None:
        """Return where the number was a stream's: its last frames can cross a reset. Else the peer is wrong."""
        if number >= (self._next_peer if number % 2 == self._next_peer % 2 else self._next_own):
            raise DecodeError(f"link: found a frame of stream {number}, want one that was opened")

    # --- Sending

    def _send(self, frame: bytes) -> None:
        """Send a frame that carries no data, after what is waiting to leave."""
        if self.closed.is_set():
            return
        self._put(frame)
        if not self._is_corked and not self._is_pumping:
            self._flush()
        if self._out_bytes > _MAX_BACKLOG_BYTES:
            self.close("found a peer that sends and does not read")

    def _put(self, piece: bytes | memoryview) -> None:
        self._out.append(piece)
        self._out_bytes += len(piece)

    def _queue_turn(self, stream: Stream) -> None:
        if not stream._in_turn:
            stream._in_turn = True
            self._turns.append(stream)

    def _pump(self) -> None:
        """Let streams send in turn until none can, the socket is full, or others of the loop should have their turn."""
        if self._is_pumping:
            return
        self._is_pumping = True
        left = _TURN_BYTES
        try:
            while self._turns and not self._is_blocked and left > 0:
                stream = self._turns.popleft()
                stream._in_turn = False
                # A stream that has nothing to say has cost a turn, too.
                left -= stream._send_turn() or 1
                if self._out_bytes >= _BATCH_BYTES:
                    self._flush()
        finally:
            self._is_pumping = False
        self._flush()
        if self._turns and not self._is_blocked and self._continuing is None:
            self._continuing = self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._continuing = None
        self._pump()

    def _flush(self) -> None:
        """Let the socket take what is waiting to leave; the loop goes on with what it does not take."""
        out = self._out
        while out and not self._is_blocked:
            offered = min(len(out), _MAX_PIECES)
            try:
                sent = self._sock.sendmsg(islice(out, offered))
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                # Nothing leaves any more. What the peer said before it went is read first, and not here: this may be in the middle
                # of what it said.
                self._is_blocked = True
                self._loop.call_soon(self.close_after_peer, f"found {_words(error)}")
                return
            self.sent_bytes += sent
            self._out_bytes -= sent
            while offered and sent >= len(out[0]):
                sent -= len(out.popleft())
                offered -= 1
            if offered:
                out[0] = memoryview(out[0])[sent:]
                self._is_blocked = True
                self._loop.add_writer(self._fd, self._send_ready)
        if not out and not self._turns:
            self._drained.set()

    def _flush_lent(self) -> None:
        """Let the socket take what is waiting to leave, and copy what of it lies in the relays' buffer."""
        self._flush()
        lent = self._relay_view.obj
        for index, piece in enumerate(self._out):
            if type(piece) is memoryview and piece.obj is lent:
                self._out[index] = bytes(piece)

    def _send_ready(self) -> None:
        self._is_blocked = False
        self._loop.remove_writer(self._fd)
        self._pump()


async def relay(stream: Stream, sock: socket.socket) -> None:
    """Carry bytes between a stream and a connected socket, both ways, until both ways have ended.

    The end of one way leaves the other open. Where either side breaks, the other is reset.

    Args:
        stream: nobody else reads or writes it.
        sock: of any family; owned from here on, and closed at the end.

    Raises:
        TransportError: the stream was reset, the link broke, or the socket did.
    """
    carrier = _Relay(stream, sock)
    try:
        carrier.start()
        await carrier.over.wait()
    finally:
        carrier.stop()
    if carrier.error is not None:
        raise TransportError(carrier.error)


class _Relay:
    """A socket in the place of a stream's user."""

    def __init__(self, stream: Stream, sock: socket.socket) -> None:
        self.over = asyncio.Event()
        self.error: str | None = None
        self._stream = stream
        self._link = stream._link
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = stream._link._loop
        self._is_reading = False
        self._is_writing = False
        self._input_over = False
        self._output_over = False
        self._lent: list[memoryview] = []

    def start(self) -> None:
        stream = self._stream
        self._sock.setblocking(False)
        _enlarge_buffers(self._sock)
        stream._relay = self
        if stream._error is not None:
            self.fail(stream._error)
            return
        self._read_when_ready(wanted=True)
        if stream._chunks:
            self._write_ready()
        elif stream._ended:
            self.pass_on_end()

    def stop(self) -> None:
        """Close the socket, and reset the stream unless both ways have ended."""
        self._read_when_ready(wanted=False)
        self._write_when_ready(wanted=False)
        self._stream._relay = None
        self._stream.reset("closed")
        if not self._output_over and self._sock.family in {socket.AF_INET, socket.AF_INET6}:
            # Whoever is at the other end must not take what has come for all there is.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self._sock.close()
        # Its number may be another's now.
        self._fd = -1

    def fail(self, error: str) -> None:
        """The stream is over before its time; what was received whole still goes to the socket."""
        self.error = self.error or error
        self._read_when_ready(wanted=False)
        if self._output_over or not self._stream._ended:
            self.over.set()

    # --- From the stream to the socket

    def borrow(self, piece: memoryview) -> bool:
        """Take data for the socket, to be passed on before the buffer that they lie in is used again.

        Returns:
            False where the socket is full: then the stream has to keep them.
        """
        if self._is_writing or self._stream._chunks:
            return False
        if not self._lent:
            self._link._borrowers.append(self)
        self._lent.append(piece)
        if len(self._lent) == _MAX_PIECES:
            self.pass_on()
        return True

    def pass_on(self) -> None:
        """Send what was borrowed in one call; the loop goes on with what the socket does not take."""
        lent, self._lent = self._lent, []
        if not lent:
            return
        stream = self._stream
        left = sent = sum(map(len, lent))
        if not self._output_over:
            try:
                left = sent = self._sock.sendmsg(lent)
            except (BlockingIOError, InterruptedError):
                left = sent = 0
            except OSError as error:
                self._stop_output(error)
        stream._consumed(sent)
        for piece in lent:
            if left < len(piece) and stream._error is None:
                stream._hold(piece[left:])
            left = max(0, left - len(piece))
        self._write_when_ready(wanted=bool(stream._chunks))

    def pass_on_end(self) -> None:
        """Tell the socket that the peer has ended, unless there are data that it has not taken."""
        self.pass_on()
        if self._stream._chunks or self._output_over:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._stop_output(error)
            return
        self._output_over = True
        self._end_if_over()

    def _stop_output(self, error: OSError) -> None:
        """Drop what the socket does not take any more. What it has sent before it went away can still be read."""
        self.error = self.error or f"relay: found {_words(error)}"
        self._output_over = True
        self._write_when_ready(wanted=False)
        self._stream._discard_unread()
        self._end_if_over()

    def _write_ready(self) -> None:
        stream = self._stream
        chunks = stream._chunks
        try:
            sent = left = self._sock.sendmsg(islice(chunks, _MAX_PIECES))
        except (BlockingIOError, InterruptedError):
            sent = left = 0
        except OSError as error:
            self._stop_output(error)
            return
        while chunks and left >= len(chunks[0]):
            left -= len(chunks.popleft())
        if left:
            chunks[0] = memoryview(chunks[0])[left:]
        stream._forget_unread(sent)
        stream._consumed(sent)
        self._write_when_ready(wanted=bool(chunks))
        if stream._ended:
            self.pass_on_end()

    # --- From the socket to the stream

    def send_turn(self) -> int:
        """Read the socket and send what there is; the link calls it when it is this stream's turn.

        Returns:
            How many bytes.
        """
        stream = self._stream
        if self._input_over or self.over.is_set():
            return 0
        # Without credit nothing can be done with what is read; more credit makes another turn.
        self._read_when_ready(wanted=stream._credit > 0)
        if not stream._credit:
            return 0
        view = self._link._relay_view[: min(stream._credit, _READ_BYTES)]
        try:
            count = self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # What came before it is on its way, and the peer gets it.
            self.error = self.error or f"relay: found {_words(error)}"
            stream.close()
            self.over.set()
            return 0
        if not count:
            self._read_when_ready(wanted=False)
            self._input_over = True
            stream.end()
            self._end_if_over()
            return 0
        stream._send_data(view[:count])
        self._link._flush_lent()
        if count == len(view):
            # There is more, most likely: the loop need not be asked.
            self._link._queue_turn(stream)
        return count

    def _read_ready(self) -> None:
        if self._link._is_blocked:
            # The socket would stay ready all the time that the link is not; the stream's turn will come.
            self._read_when_ready(wanted=False)
        self._link._queue_turn(self._stream)
        self._link._pump()

    # --- Both

    def _end_if_over(self) -> None:
        if self._output_over and (self._input_over or self._stream._error is not None):
            self.over.set()

    def _read_when_ready(self, *, wanted: bool) -> None:
        if wanted is not self._is_reading:
            self._is_reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._read_ready)
            else:
                self._loop.remove_reader(self._fd)

    def _write_when_ready(self, *, wanted: bool) -> None:
        if wanted is not self._is_writing:
            self._is_writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._write_ready)
            else:
                self._loop.remove_writer(self._fd)


def _enlarge_buffers(sock: socket.socket) -> None:
    """Give a local socket buffers that are worth a system call; the kernel sizes those of TCP itself."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    elif sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
