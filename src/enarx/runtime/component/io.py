# SPDX-License-Identifier: Apache-2.0
"""wasi:io 0.2: errors, pollables, byte streams. All waiting of a component happens in `poll` here.

Rules of this file:

- What is read or written (files, stdio, sockets, HTTP bodies) subclasses `InputStream` or `OutputStream` and implements
  the few hooks named there, which never wait. Semantics of WASI's stream functions are written once, here.
- A length that a guest asks for is a wish: no call moves more than `CHUNK`.
- A pollable holds what it waits for, so that dropping the stream first leaves it harmless.

What holds it together: an `Interest` says what to wait for; streams have one, pollables have one, `poll` waits for many.

Source: WIT package wasi:io@0.2.12.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import select
import time

from enarx.runtime.component.binding import Borrow, Interface, Kind, Own, Trap
from enarx.runtime.component.values import U32, U64, Bool, Bytes, Err, ListOf, Result, String, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.clock import Clock

    Interest = tuple[int, int, int | None]
    """Descriptor or -1, `select.POLLIN` and `POLLOUT` bits, deadline in monotonic nanoseconds or None."""

CHUNK = 1 << 16
"""Bytes that one call moves at most."""

BLOCKING_WRITE_BYTES = 4096
"""What WASI allows in one blocking-write-and-flush."""

POLLIN = select.POLLIN
POLLOUT = select.POLLOUT
NEVER: Interest = (-1, 0, None)
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_LONGEST_WAIT_NS = 10**15


class WouldBlock(Exception):  # noqa: N818  # the error code's name
    """A hook has nothing to give yet."""


class Closed(Exception):  # noqa: N818  # as above
    """A hook met the end of the stream."""


class IoError:
    """The resource `wasi:io/error.error`.

    Args:
        text: for people.
        cause: what failed, for interfaces that tell more: an OSError, or an error value of the interface.
    """

    __slots__ = ("cause", "text")

    def __init__(self, text: str, cause: Any = None) -> None:
        self.text = text
        self.cause = cause


def closed() -> Err:
    """Return the stream-error `closed`."""
    return Err(("closed", None))


def failed(error: OSError | IoError) -> Err:
    """Return the stream-error `last-operation-failed`."""
    if isinstance(error, OSError):
        error = IoError(error.strerror or type(error).__name__, error)
    return Err(("last-operation-failed", error))


# --- Pollables -------------------------------------------------------------------------------------------------------


class Pollable:
    """What can be waited for."""

    __slots__ = ()

    def interest(self) -> Interest | None:
        """Return what to wait for, or None when it is ready now. It may try non-blocking work to find out."""
        raise NotImplementedError

    def fired(self) -> bool:
        """Tell whether it is ready, now that its descriptor is; a TLS record may be incomplete."""
        return True


class Timer(Pollable):
    """Ready from a point in monotonic time on."""

    __slots__ = ("_interest",)

    def __init__(self, deadline_ns: int) -> None:
        self._interest = (-1, 0, deadline_ns)

    def interest(self) -> Interest | None:
        return self._interest


class _StreamPollable(Pollable):
    __slots__ = ("_stream",)

    def __init__(self, stream: InputStream | OutputStream) -> None:
        self._stream = stream

    def interest(self) -> Interest | None:
        return self._stream.poll_interest()

    def fired(self) -> bool:
        return self._stream.poll_interest() is None or self._stream.fired()


def poll(clock: Clock, pollables: Sequence[Pollable], *, wait: bool = True) -> list[int]:
    """Return the indices of those that are ready; wait until one is.

    Args:
        clock: whose monotonic time deadlines are in.
        pollables: any number; many may watch one descriptor.
        wait: False to look once and return, perhaps, nothing.
    """
    while True:
        ready = []
        events_by_fd: dict[int, int] = {}
        waiting: list[tuple[int, Pollable, Interest]] = []
        now = clock.monotonic_ns()
        first_deadline = now + _LONGEST_WAIT_NS
        for index, pollable in enumerate(pollables):
            interest = pollable.interest()
            if interest is None:
                ready.append(index)
                continue
            fd, events, deadline = interest
            if deadline is not None:
                if deadline <= now:
                    ready.append(index)
                    continue
                first_deadline = min(first_deadline, deadline)
            if fd >= 0:
                events_by_fd[fd] = events_by_fd.get(fd, 0) | events
                waiting.append((index, pollable, interest))
        remaining_ns = 0 if ready or not wait else first_deadline - now
        if remaining_ns > 0:
            clock.about_to_wait()
        fired = _wait(events_by_fd, remaining_ns)
        if fired:
            ready.extend(
                index
                for index, pollable, (fd, events, _) in waiting
                if fired.get(fd, 0) & (events | _BROKEN) and pollable.fired()
            )
            ready.sort()
        if ready or not wait:
            return ready


def _wait(events_by_fd: dict[int, int], remaining_ns: int) -> dict[int, int]:
    if not events_by_fd:
        if remaining_ns:
            time.sleep(remaining_ns / 10**9)
        return {}
    poller = select.poll()
    for fd, events in events_by_fd.items():
        poller.register(fd, events)
    # The call takes whole milliseconds in 31 bits; a caller that was woken early looks again.
    return dict(poller.poll(min(-(-remaining_ns // 10**6), 10**9)))


def block(clock: Clock, pollable: Pollable) -> None:
    """Wait until it is ready."""
    poll(clock, (pollable,))


# --- Streams ---------------------------------------------------------------------------------------------------------


class InputStream:
    """The resource `wasi:io/streams.input-stream`. Subclasses implement the three hooks; `drop` where there is need."""

    __slots__ = ()

    def read_some(self, size: int) -> bytes:
        """Hook: return 1 to `size` bytes without waiting.

        Raises:
            WouldBlock: nothing yet.
            Closed: the end.
            OSError: reading failed.
            Err: reading failed, and the stream-error says more.
        """
        raise NotImplementedError

    def poll_interest(self) -> Interest | None:
        """Hook: return what to wait for before `read_some` gives something, or None if it does now."""
        raise NotImplementedError

    def fired(self) -> bool:
        """Hook: tell whether `read_some` gives something, now that the descriptor of `poll_interest` is ready."""
        return True

    def read(self, size: int) -> bytes:
        """Return what is there, at most `size` bytes, perhaps none.

        Raises:
            Err: closed, or failed.
        """
        if not size:
            return b""
        try:
            return self.read_some(min(size, CHUNK))
        except WouldBlock:
            return b""
        except Closed:
            raise closed() from None
        except OSError as error:
            raise failed(error) from error

    def blocking_read(self, clock: Clock, size: int) -> bytes:
        """Return at least one byte, waiting for it, unless `size` is 0.

        Raises:
            Err: closed, or failed.
        """
        while True:
            data = self.read(size)
            if data or not size:
                return data
            block(clock, _StreamPollable(self))


class OutputStream:
    """The resource `wasi:io/streams.output-stream`. Subclasses implement the hooks and call `super().__init__()`.

    At most `CHUNK` accepted bytes wait here for a descriptor that takes no more.
    """

    __slots__ = ("_failure", "_pending")

    def __init__(self) -> None:
        self._pending: memoryview | bytes = b""
        self._failure: OSError | IoError | Closed | None = None

    def write_some(self, data: memoryview | bytes) -> int:
        """Hook: take 1 to `len(data)` bytes without waiting and return how many.

        Raises:
            WouldBlock: none yet.
            Closed: it takes no more.
            OSError: writing failed.
        """
        raise NotImplementedError

    def write_interest(self) -> Interest | None:
        """Hook: return what to wait for before `write_some` takes something, or None if it does now."""
        return None

    def fired(self) -> bool:
        """Hook: tell whether `write_some` takes something, now that the descriptor is ready."""
        return True

    def flush_some(self) -> None:
        """Hook: push on what `write_some` took, where there is a layer that holds bytes back. It does not wait."""

    def finish(self) -> None:
        """Hook: the guest dropped the stream; everything accepted was offered to `write_some` once more."""

    def poll_interest(self) -> Interest | None:
        """Return what to wait for before `check_write` permits something."""
        self._drain()
        return self.write_interest() if self._pending and self._failure is None else None

    def _drain(self) -> None:
        if not self._pending or self._failure is not None:
            return
        data = memoryview(self._pending)
        try:
            with contextlib.suppress(WouldBlock):
                while data:
                    data = data[self.write_some(data) :]
        except Closed as end:
            self._failure = end
        except OSError as error:
            self._failure = error
        self._pending = data

    def _raise_failure(self) -> None:
        failure = self._failure
        if failure is None:
            return
        # Once told, a failed stream is a closed stream.
        self._failure = Closed()
        self._pending = b""
        raise closed() if isinstance(failure, Closed) else failed(failure)

    def fail(self, error: IoError) -> None:
        """Make the next operation fail with this error."""
        self._failure = error

    def check_write(self) -> int:
        """Return how many bytes `write` takes now.

        Raises:
            Err: closed, or an earlier write failed.
        """
        self._drain()
        self._raise_failure()
        return 0 if self._pending else CHUNK

    def write(self, data: bytes) -> None:
        """Accept bytes that `check_write` permitted.

        Raises:
            Trap: it did not.
            Err: closed, or failed.
        """
        if len(data) > CHUNK or (data and not self.check_write()):
            raise Trap(f"found a write of {len(data)} bytes, want at most what check-write permitted")
        self._pending = data
        self._drain()
        self._raise_failure()

    def flush(self) -> None:
        """Push on everything accepted, as far as it goes without waiting.

        Raises:
            Err: closed, or failed.
        """
        self._drain()
        self._raise_failure()
        try:
            self.flush_some()
        except WouldBlock:
            return
        except Closed as end:
            self._failure = end
        except OSError as error:
            self._failure = error
        self._raise_failure()

    def blocking_flush(self, clock: Clock) -> None:
        """Wait until everything accepted went on.

        Raises:
            Err: closed, or failed.
        """
        self.await_room(clock)
        self.flush()

    def await_room(self, clock: Clock) -> None:
        """Wait until `write` takes something.

        Raises:
            Err: closed, or failed.
        """
        while not self.check_write():
            block(clock, _StreamPollable(self))

    def drop(self) -> None:
        """Offer what was accepted once more, and let go."""
        self._drain()
        self.finish()


# --- Interfaces ------------------------------------------------------------------------------------------------------

error_interface = Interface("wasi:io/error")
ERROR: Kind = error_interface.resource("error")

poll_interface = Interface("wasi:io/poll")
POLLABLE: Kind = poll_interface.resource("pollable")

streams_interface = Interface("wasi:io/streams", uses={"error": ERROR, "pollable": POLLABLE})
INPUT_STREAM: Kind = streams_interface.resource("input-stream")
OUTPUT_STREAM: Kind = streams_interface.resource("output-stream")

STREAM_ERROR = Variant(("last-operation-failed", Own(ERROR)), ("closed", None))

INTERFACES = (error_interface, poll_interface, streams_interface)

_INPUT = Borrow(INPUT_STREAM)
_OUTPUT = Borrow(OUTPUT_STREAM)
_DATA = Result(Bytes, STREAM_ERROR)
_COUNT = Result(U64, STREAM_ERROR)
_DONE = Result(None, STREAM_ERROR)


@error_interface.func("[method]error.to-debug-string", (Borrow(ERROR),), String)
def _to_debug_string(_keep: Keep, error: IoError) -> str:
    return error.text


@poll_interface.func("[method]pollable.ready", (Borrow(POLLABLE),), Bool)
def _ready(keep: Keep, pollable: Pollable) -> bool:
    return bool(poll(keep.clock, (pollable,), wait=False))


@poll_interface.func("[method]pollable.block", (Borrow(POLLABLE),))
def _block(keep: Keep, pollable: Pollable) -> None:
    block(keep.clock, pollable)


@poll_interface.func("poll", (ListOf(Borrow(POLLABLE)),), ListOf(U32))
def _poll(keep: Keep, pollables: list[Pollable]) -> list[int]:
    if not pollables:
        raise Trap("found an empty list, want one pollable at least")
    return poll(keep.clock, pollables)


@streams_interface.func("[method]input-stream.read", (_INPUT, U64), _DATA)
def _read(_keep: Keep, stream: InputStream, size: int) -> bytes:
    return stream.read(size)


@streams_interface.func("[method]input-stream.blocking-read", (_INPUT, U64), _DATA)
def _blocking_read(keep: Keep, stream: InputStream, size: int) -> bytes:
    return stream.blocking_read(keep.clock, size)


@streams_interface.func("[method]input-stream.skip", (_INPUT, U64), _COUNT)
def _skip(_keep: Keep, stream: InputStream, size: int) -> int:
    return len(stream.read(size))


@streams_interface.func("[method]input-stream.blocking-skip", (_INPUT, U64), _COUNT)
def _blocking_skip(keep: Keep, stream: InputStream, size: int) -> int:
    return len(stream.blocking_read(keep.clock, size))


@streams_interface.func("[method]input-stream.subscribe", (_INPUT,), Own(POLLABLE))
@streams_interface.func("[method]output-stream.subscribe", (_OUTPUT,), Own(POLLABLE))
def _subscribe(_keep: Keep, stream: InputStream | OutputStream) -> Pollable:
    return _StreamPollable(stream)


@streams_interface.func("[method]output-stream.check-write", (_OUTPUT,), _COUNT)
def _check_write(_keep: Keep, stream: OutputStream) -> int:
    return stream.check_write()


@streams_interface.func("[method]output-stream.write", (_OUTPUT, Bytes), _DONE)
def _write(_keep: Keep, stream: OutputStream, data: bytes) -> None:
    stream.write(data)


@streams_interface.func("[method]output-stream.blocking-write-and-flush", (_OUTPUT, Bytes), _DONE)
def _blocking_write_and_flush(keep: Keep, stream: OutputStream, data: bytes) -> None:
    if len(data) > BLOCKING_WRITE_BYTES:
        raise Trap(f"found {len(data)} bytes, want at most {BLOCKING_WRITE_BYTES}")
    stream.await_room(keep.clock)
    stream.write(data)
    stream.blocking_flush(keep.clock)


@streams_interface.func("[method]output-stream.flush", (_OUTPUT,), _DONE)
def _flush(_keep: Keep, stream: OutputStream) -> None:
    stream.flush()


@streams_interface.func("[method]output-stream.blocking-flush", (_OUTPUT,), _DONE)
def _blocking_flush(keep: Keep, stream: OutputStream) -> None:
    stream.blocking_flush(keep.clock)


@streams_interface.func("[method]output-stream.write-zeroes", (_OUTPUT, U64), _DONE)
def _write_zeroes(_keep: Keep, stream: OutputStream, size: int) -> None:
    # One more than is ever permitted is enough to be refused.
    stream.write(bytes(min(size, CHUNK + 1)))


@streams_interface.func("[method]output-stream.blocking-write-zeroes-and-flush", (_OUTPUT, U64), _DONE)
def _blocking_write_zeroes_and_flush(keep: Keep, stream: OutputStream, size: int) -> None:
    _blocking_write_and_flush(keep, stream, bytes(min(size, BLOCKING_WRITE_BYTES + 1)))


@streams_interface.func("[method]output-stream.splice", (_OUTPUT, _INPUT, U64), _COUNT)
def _splice(_keep: Keep, stream: OutputStream, source: InputStream, size: int) -> int:
    data = source.read(min(size, stream.check_write()))
    stream.write(data)
    return len(data)


@streams_interface.func("[method]output-stream.blocking-splice", (_OUTPUT, _INPUT, U64), _COUNT)
def _blocking_splice(keep: Keep, stream: OutputStream, source: InputStream, size: int) -> int:
    stream.blocking_flush(keep.clock)
    data = source.blocking_read(keep.clock, min(size, CHUNK))
    stream.write(data)
    return len(data)
