# SPDX-License-Identifier: Apache-2.0
"""Serve a component's `wasi:http/incoming-handler` on the workload's `listen` entries.

Each request gets an instance of its own, in a store of its own, and nothing is left of it afterwards.

How threads share the work: under Python's lock one thread that does everything is fastest, so one, the *leader*, waits for
sockets and runs requests where it stands. It gives the lead away, to an idle thread or a new one, as soon as its request
is about to wait, or when the *sentry* finds it in one request for longer than `SENTRY_S`, for code in the engine runs
without the lock. Whoever lost the lead finishes its request and hands the connection back. When all threads are in
requests, connections wait in the kernel.

What holds this file together is that hand-over. It has one rule: `_lock` guards who leads and what the leader is in, and
a connection belongs to one thread: to the one in its request, else to the leader. The epoll is the leader's; a
connection leaves it together with the lead.

An answer that is whole waits until the leader has been through what the sockets were ready for, because each one that
is sent wakes a client, which would take the processor from the next request. It waits for `_HELD_AT_ONCE` others at
most, and for nobody who loses the lead.

Source: RFC 9110, RFC 9112; WIT package wasi:http@0.2.12.
"""

from __future__ import annotations

import gc
import os
import select
import threading
import time
from collections import deque

from enarx.errors import ConfigError, EnarxError, KeepError, TransportError
from enarx.runtime.component.binding import Exit, Own, Trapped
from enarx.runtime.component.clock import Clock
from enarx.runtime.component.http_bodies import SECOND_NS, HttpError, PlainTransport, TlsTransport
from enarx.runtime.component.http_types import (
    INCOMING_REQUEST,
    RESPONSE_OUTPARAM,
    IncomingRequest,
    OutgoingResponse,
    ResponseOutparam,
)
from enarx.runtime.component.values import Err
from enarx.runtime.component.workers import Worker, suitable_count
from enarx.runtime.http1 import Message, ProtocolError, RequestParser, encode_response_head, reason_phrase
from enarx.runtime.network import prepare, shown_peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from enarx.runtime.component.binding import Keep, Linker
    from enarx.runtime.component.http_bodies import ErrorCode, Outlet, Transport
    from enarx.runtime.http1 import Headers
    from enarx.runtime.network import Network
    from enarx.runtime.tls import ServerTls, TlsStream
    from enarx.runtime.workload import Outcome, Workload

    Listening = tuple[socket.socket, ServerTls | None]

MAX_THREADS = 64
# The engine's stack for a guest is 512 KiB, and ours comes on top.
THREAD_STACK_BYTES = 2 << 20
SENTRY_S = 0.005
MAX_CONNECTIONS = 1024
HANDSHAKE_S = 10.0
HEAD_S = 30.0
IDLE_S = 60.0
WRITE_S = 60.0
LINGER_S = 2.0
# For how long a new connection is left to a worker that has fewer.
LEAVE_S = 0.002
BETWEEN_BYTES_NS = 60 * SECOND_NS
LOG_INTERVAL_S = 1.0
_RECEIVE_BYTES = 1 << 16
_ACCEPTS_AT_ONCE = 64
_EVENTS_AT_ONCE = 64
_HELD_AT_ONCE = 16
_GC_THRESHOLD = 50_000

# What a connection is waiting for.
_HANDSHAKE, _REQUEST, _FLUSH, _LINGER = range(4)


class _Connection:
    """One client. It is also what the body of its current request is read from."""

    __slots__ = (
        "awaits_continue", "between_bytes_ns", "clock", "deadline", "error", "fd", "has_lead", "is_ended", "is_last", "mask", "outlet",
        "parser", "scheme", "state", "tls", "transport",
    )  # fmt: skip

    def __init__(self, clock: Clock, transport: Transport | None, fd: int, scheme: str) -> None:
        self.clock = clock
        self.between_bytes_ns = BETWEEN_BYTES_NS
        self.transport = transport
        self.tls: TlsStream | None = None
        self.fd = fd
        self.scheme = scheme
        self.parser = RequestParser()
        self.error: ProtocolError | None = None
        self.state = _REQUEST
        self.mask = 0
        self.deadline = 0.0
        self.has_lead = True
        self.is_ended = False
        self.is_last = False
        self.awaits_continue = False
        self.outlet: Outlet | None = None

    def receive(self) -> None:
        """Receive once and parse.

        Raises:
            BlockingIOError: nothing there.
        """
        transport = self.transport
        if transport is None or self.is_ended:
            raise BlockingIOError
        try:
            data = transport.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            self.is_ended = True
            return
        try:
            self.parser.feed(data)
        except ProtocolError as error:
            self.error = error

    def pump(self) -> None:
        """Receive more of the body, as `http_bodies.Source` says."""
        if self.awaits_continue:
            self.awaits_continue = False
            self.send_continue()
        if self.is_ended:
            raise HttpError(("connection-terminated", None))
        if self.error is not None:
            raise HttpError(("HTTP-protocol-error", None))
        self.receive()

    def send_continue(self) -> None:
        """Let the client send the body it asked about; a client that does not take 25 bytes asks in vain."""
        if self.transport is not None and (self.outlet is None or not self.outlet.started):
            try:
                self.transport.send(encode_response_head(100, [], None, has_body=False))
            except OSError:
                self.is_ended = True

    def read_interest(self) -> tuple[int, int]:
        """Return what to wait for, as `http_bodies.Source` says."""
        return self.fd, select.POLLIN if self.transport is None else self.transport.wants


class _Exchange:
    """One request and what the guest answers: what a response-outparam stands for."""

    __slots__ = ("_connection", "_has_body", "_message", "outlet", "response")

    def __init__(self, connection: _Connection, message: Message) -> None:
        self._connection = connection
        self._message = message
        self._has_body = True
        self.response: OutgoingResponse | None = None
        self.outlet: Outlet | None = None

    def respond(self, response: OutgoingResponse) -> None:
        """Take the guest's response."""
        connection = self._connection
        self.response = response
        outlet = self.outlet = connection.outlet = response.outlet
        if connection.transport is None:
            return
        outlet.is_lazy = connection.has_lead and connection.transport.is_concurrent
        if not response.is_taken:
            outlet.finish([])
        self._has_body = self._message.method != b"HEAD" and response.status not in {204, 304}
        outlet.attach(connection.transport, self._encode_head, has_body=self._has_body)

    def _encode_head(self, length: int | None) -> tuple[bytes, bool]:
        message, response, outlet = self._message, self.response, self.outlet
        if response is None or outlet is None:
            raise RuntimeError("a head without a response")
        has_body = self._has_body
        until_close = length is None and message.version == "1.0"
        if until_close or (outlet.is_finished and not message.complete):
            message.keep_alive = False
        head = encode_response_head(
            response.status,
            response.headers.entries,
            length,
            has_body=has_body,
            close=not message.keep_alive,
            until_close=until_close,
        )
        return head, has_body and length is None and not until_close

    def give_up(self, code: ErrorCode) -> None:
        """Take that the guest could not answer."""

    def inform(self, status: int, headers: Headers) -> None:
        """Send an informational response, which HTTP/1.0 does not know."""
        transport = self._connection.transport
        if transport is None or self._message.version == "1.0":
            return
        head = encode_response_head(status, headers, None, has_body=False)
        try:
            sent = transport.send(head)
        except BlockingIOError:
            # It only informs.
            return
        except OSError:
            raise Err(("connection-terminated", None)) from None
        if sent != len(head):
            self._connection.is_ended = True
            raise Err(("connection-terminated", None))


class _Thread:
    """One of the threads, and what it is in while it leads."""

    __slots__ = ("connection", "serial", "turn")

    def __init__(self) -> None:
        self.connection: _Connection | None = None
        self.serial = 0
        self.turn = threading.Lock()
        self.turn.acquire()


class _ServiceClock(Clock):
    """The Keep's clock, which also hears when its guest is about to wait."""

    __slots__ = ("_yield_lead",)

    def __init__(self, yield_lead: Callable[[], None], wall_offset_ns: int | None) -> None:
        super().__init__(wall_offset_ns)
        self._yield_lead = yield_lead

    def about_to_wait(self) -> None:
        """Hook of `io.poll`."""
        self._yield_lead()


class Service:
    """A component that serves HTTP.

    Args:
        linker: of the component.
        handler: full name of the exported interface.
        make_keep: makes the Keep of one request, whose clock it is given.
        workload: whose `listen` entries are served.
        network: makes their sockets.
        listeners: the sockets, where they are open already; else `start` opens them.
        worker: this process among those that share them; None is the only one.
    """

    def __init__(
        self,
        linker: Linker,
        handler: str,
        make_keep: Callable[[Clock], Keep],
        workload: Workload,
        network: Network,
        *,
        listeners: Sequence[Listening] | None = None,
        worker: Worker | None = None,
    ) -> None:
        self._linker = linker
        self._handler = handler
        self._make_keep = make_keep
        self._worker = worker if worker is not None else Worker()
        self._listening = open_listeners(workload, network) if listeners is None else listeners
        self._max_connections = max(1, min(MAX_CONNECTIONS, workload.limits.open_files // self._worker.count))
        # One at a time where others wait for connections too, or the first to wake would have them all.
        self._accepts_at_once = _ACCEPTS_AT_ONCE if self._worker.count == 1 else 1
        self._left_at: float | None = None
        self._clock = _ServiceClock(self._yield_lead, workload.wall_clock_offset_ns)
        self._lock = threading.Lock()
        self._leader: _Thread | None = None
        self._idle: list[_Thread] = []
        self._thread_count = 0
        self._current = threading.local()
        self._sentry_rests = False
        self._sentry_turn = threading.Lock()
        self._sentry_turn.acquire()
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._returned: deque[_Connection] = deque()
        self._held: deque[_Connection] = deque()
        self._connections: dict[int, _Connection] = {}
        self._listeners: dict[int, tuple[socket.socket, ServerTls | None]] = {}
        self._is_accepting = True
        self._next_sweep = 0.0
        self._next_log = 0.0
        self._unlogged = 0
        self._end = threading.Lock()
        self._end.acquire()
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._is_closed = False

    # --- Start and end

    def start(self) -> list[int]:
        """Begin to serve.

        Returns:
            the ports, one for each `listen` entry that is on this machine's network.
        """
        self._listeners = {sock.fileno(): (sock, tls) for sock, tls in self._listening}
        names = [sock.getsockname() for sock, _ in self._listening]
        # One of a broker's has no port.
        ports = [int(name[1]) for name in names if isinstance(name, tuple)]
        self._epoll.register(self._wakeup, select.EPOLLIN)
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN)
        # Requests leave few cycles and none that matter, and looking for them would cost a tenth of a request.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 20)
        with self._lock:
            self._appoint()
        self._start_thread(self._keep_watch)
        return ports

    def wait(self) -> None:
        """Wait until the service ends.

        Raises:
            BaseException: what ended it: a limit of the whole workload, or a bug of ours.
        """
        self._end.acquire()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the service; requests that are running end in their own time, unheard."""
        self._stopping.set()
        os.eventfd_write(self._wakeup, 1)
        with self._lock:
            rests, self._sentry_rests = self._sentry_rests, False
        if rests:
            self._sentry_turn.release()

    def fail(self, error: BaseException) -> None:
        """End the service for a reason of somebody else's."""
        self._failure = error
        self.stop()

    def _start_thread(self, target: Callable[[], None]) -> None:
        previous = threading.stack_size(THREAD_STACK_BYTES)
        try:
            threading.Thread(target=target, daemon=True).start()
        finally:
            threading.stack_size(previous)

    def _close(self) -> None:
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        self._urge_held()
        for fd, (sock, _) in self._listeners.items():
            if self._is_accepting:
                self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()
        for connection in list(self._connections.values()):
            if connection.has_lead or connection in self._returned:
                self._drop(connection)
        self._returned.clear()
        self._end.release()

    # --- The lead

    def _appoint(self) -> None:
        """Give the lead, which nobody has, to an idle thread or a new one, if there may be one. `_lock` is held."""
        if self._idle:
            thread = self._idle.pop()
        elif self._thread_count < MAX_THREADS:
            self._thread_count += 1
            thread = _Thread()
            self._start_thread(lambda: self._work(thread))
        else:
            self._leader = None
            return
        self._leader = thread
        thread.turn.release()

    def _depose(self, thread: _Thread) -> None:
        """Take the lead, and its connection out of the epoll, from a thread that is in a request. `_lock` is held."""
        connection = thread.connection
        if connection is None:
            return
        connection.has_lead = False
        if connection.mask:
            self._epoll.unregister(connection.fd)
            connection.mask = 0
        self._appoint()

    def _yield_lead(self) -> None:
        """The guest of this thread is about to wait: let another thread lead, and hold nothing back."""
        thread: _Thread | None = getattr(self._current, "thread", None)
        if thread is None or thread.connection is None:
            return
        connection = thread.connection
        with self._lock:
            if self._leader is thread:
                self._depose(thread)
        if connection.outlet is not None:
            connection.outlet.urge()
        self._urge_held()

    def _keep_watch(self) -> None:
        """Be the sentry: look twice, and depose a leader that is still in the same request."""
        seen: tuple[_Thread, int] | None = None
        while not self._stopping.is_set():
            time.sleep(SENTRY_S)
            late: _Connection | None = None
            with self._lock:
                leader = self._leader
                now_in = None if leader is None or leader.connection is None else (leader, leader.serial)
                if now_in is not None and now_in == seen and leader is not None:
                    late = leader.connection
                    self._depose(leader)
                    now_in = None
                rest = now_in is None and seen is None
                seen = now_in
                self._sentry_rests = rest
            if late is not None:
                if late.outlet is not None:
                    late.outlet.urge()
                self._urge_held()
            if rest:
                self._sentry_turn.acquire()

    def _work(self, thread: _Thread) -> None:
        self._current.thread = thread
        try:
            while not self._stopping.is_set():
                thread.turn.acquire()
                while self._leader is thread and not self._stopping.is_set():
                    self._lead(thread)
                with self._lock:
                    if self._stopping.is_set():
                        break
                    self._idle.append(thread)
                    if self._leader is None:
                        self._appoint()
        except BaseException as error:  # noqa: BLE001  # told to whoever waits for the service
            # Once the service ends, another thread may have closed what this one was about to wait for.
            if not (self._stopping.is_set() and isinstance(error, OSError)):
                self._failure = error
                self.stop()
        self._close()

    def _lead(self, thread: _Thread) -> None:
        """Wait for sockets once and do what they are ready for, as long as the lead stays here."""
        if self._held:
            # Of a leader that was deposed.
            self._send_held(thread, time.monotonic())
            return
        timeout_s = 1.0 if self._connections else -1
        events = self._epoll.poll(timeout_s if self._left_at is None else LEAVE_S, _EVENTS_AT_ONCE)
        now = time.monotonic()
        if self._left_at is not None and now - self._left_at >= LEAVE_S:
            self._accept_again(is_accepting=True)
        for fd, _ in events:
            if len(self._held) >= _HELD_AT_ONCE:
                self._send_held(thread, now)
                if self._leader is not thread:
                    return
            connection = self._connections.get(fd)
            if connection is not None:
                self._go_on(thread, connection, now)
            elif fd in self._listeners:
                self._accept(fd, now)
            elif fd == self._wakeup:
                self._take_back(thread, now)
            if self._leader is not thread:
                return
        self._send_held(thread, now)
        if self._leader is thread and now >= self._next_sweep:
            self._next_sweep = now + 1
            self._sweep(now)

    def _send_held(self, thread: _Thread, now: float) -> None:
        """Send the answers that wait, and go on with their connections."""
        while self._held and self._leader is thread:
            self._urge_held()
            # Requests that had come with the answered ones may leave answers for another turn.
            for _ in range(len(self._held)):
                self._settle(thread, self._held.popleft(), now)
                if self._leader is not thread:
                    return

    def _urge_held(self) -> None:
        for connection in tuple(self._held):
            outlet = connection.outlet
            if outlet is not None:
                outlet.urge()

    def _take_back(self, thread: _Thread, now: float) -> None:
        """Take the connections whose requests ended in other threads."""
        os.eventfd_read(self._wakeup)
        while self._returned and self._leader is thread:
            connection = self._returned.popleft()
            connection.has_lead = True
            self._settle(thread, connection, now)
        if self._returned:
            os.eventfd_write(self._wakeup, 1)

    # --- Connections

    def _accept(self, fd: int, now: float) -> None:
        if self._leaves(now):
            return
        listener, tls = self._listeners[fd]
        for _ in range(self._accepts_at_once):
            if len(self._connections) >= self._max_connections:
                self._accept_again(is_accepting=False)
                return
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # A client that went before it was looked at, or no descriptor left: not before another closes.
                if self._connections:
                    self._accept_again(is_accepting=False)
                return
            prepare(sock)
            if tls is None:
                connection = _Connection(self._clock, PlainTransport(sock), sock.fileno(), "HTTP")
                connection.deadline = now + HEAD_S
            else:
                connection = _Connection(self._clock, None, sock.fileno(), "HTTPS")
                connection.tls = tls.stream(sock, peer=shown_peer(peer))
                connection.state = _HANDSHAKE
                connection.deadline = now + HANDSHAKE_S
            self._connections[connection.fd] = connection
            self._worker.tell(len(self._connections))
            self._expect(connection, select.EPOLLIN)

    def _leaves(self, now: float) -> bool:
        """Return whether a new connection is left to a process that has fewer; if none takes it soon, this one does."""
        if self._left_at is None:
            if not self._worker.has_most():
                return False
            self._left_at = now
            self._accept_again(is_accepting=False)
            return True
        self._left_at = None
        return False

    def _accept_again(self, *, is_accepting: bool) -> None:
        if is_accepting != self._is_accepting:
            self._is_accepting = is_accepting
            for fd in self._listeners:
                if is_accepting:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)

    def _expect(self, connection: _Connection, mask: int) -> None:
        if connection.mask == mask:
            return
        if connection.mask:
            self._epoll.modify(connection.fd, mask)
        else:
            self._epoll.register(connection.fd, mask)
        connection.mask = mask

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.fd]
        self._worker.tell(len(self._connections))
        # The number may belong to another connection as soon as it is closed.
        if connection.mask:
            self._epoll.unregister(connection.fd)
            connection.mask = 0
        closing = connection.transport or connection.tls
        if closing is not None:
            closing.close()
        self._accept_again(is_accepting=True)

    def _go_on(self, thread: _Thread, connection: _Connection, now: float) -> None:
        """Do what a connection is ready for."""
        state = connection.state
        if state == _REQUEST:
            fresh = connection.parser.is_between_messages
            try:
                connection.receive()
            except BlockingIOError:
                if connection.transport is not None:
                    self._expect(connection, connection.transport.wants)
                return
            if fresh:
                connection.deadline = now + HEAD_S
            if connection.parser.messages or connection.error is not None or connection.is_ended:
                self._settle(thread, connection, now)
        elif state == _FLUSH:
            outlet = connection.outlet
            if outlet is not None:
                outlet.push()
            self._settle(thread, connection, now)
        elif state == _HANDSHAKE:
            self._shake(connection, now)
        else:
            try:
                connection.receive()
            except BlockingIOError:
                return
            connection.parser = RequestParser()
            if connection.is_ended:
                self._drop(connection)

    def _shake(self, connection: _Connection, now: float) -> None:
        stream = connection.tls
        if stream is None:
            return
        try:
            done = stream.handshake()
        except (TransportError, OSError):
            # The client was told by an alert; whom this end refused is said on stderr.
            self._drop(connection)
            return
        if not done:
            self._expect(connection, stream.wants)
            return
        connection.transport = TlsTransport(stream)
        connection.state = _REQUEST
        connection.deadline = now + HEAD_S
        self._expect(connection, select.EPOLLIN)

    def _settle(self, thread: _Thread, connection: _Connection, now: float) -> None:
        """Run the requests that have arrived, one after another, then wait for what comes next."""
        while True:
            outlet = connection.outlet
            if outlet is not None:
                if not outlet.is_sent:
                    if outlet.failure is not None:
                        self._drop(connection)
                        return
                    connection.state = _FLUSH
                    connection.deadline = now + WRITE_S
                    if outlet.is_lazy:
                        self._held.append(connection)
                        return
                    transport = connection.transport
                    self._expect(
                        connection, select.EPOLLOUT if transport is None or transport.is_concurrent else transport.wants
                    )
                    return
                connection.outlet = None
                if outlet.is_truncated:
                    self._drop(connection)
                    return
            messages = connection.parser.messages
            if connection.state == _LINGER:
                break
            connection.state = _REQUEST
            if connection.is_last:
                self._linger(connection, now)
                return
            if messages:
                if not self._run(thread, connection, messages[0]):
                    return
                continue
            if connection.error is not None:
                self._answer(connection, connection.error.status)
                self._linger(connection, now)
                return
            if connection.is_ended:
                self._drop(connection)
                return
            break
        connection.deadline = now + (IDLE_S if connection.parser.is_between_messages else HEAD_S)
        self._expect(connection, select.EPOLLIN)

    def _answer(self, connection: _Connection, status: int) -> None:
        """Send an answer of ours, after which the connection ends."""
        body = reason_phrase(status) + b"\n"
        head = encode_response_head(status, [(b"content-type", b"text/plain")], len(body), close=True)
        if connection.transport is not None:
            try:
                connection.transport.send(head + body)
            except OSError:
                # It has gone, or took nothing of what was sent before.
                connection.is_ended = True

    def _linger(self, connection: _Connection, now: float) -> None:
        """End our direction and wait for the client to end its own, because a reset could destroy what it has not read."""
        if connection.transport is None or connection.is_ended:
            self._drop(connection)
            return
        try:
            connection.transport.end()
        except OSError:
            self._drop(connection)
            return
        connection.state = _LINGER
        connection.deadline = now + LINGER_S
        connection.parser = RequestParser()
        connection.error = None
        self._expect(connection, select.EPOLLIN)

    def _sweep(self, now: float) -> None:
        """Drop the connections whose time is up."""
        for connection in list(self._connections.values()):
            if connection.has_lead and connection.deadline <= now:
                if connection.state == _REQUEST and not connection.parser.is_between_messages:
                    self._answer(connection, 408)
                    self._linger(connection, now)
                else:
                    self._drop(connection)

    # --- Requests

    def _run(self, thread: _Thread, connection: _Connection, message: Message) -> bool:
        """Run one request; return whether this thread still leads."""
        connection.awaits_continue = message.expects_continue and not message.complete
        with self._lock:
            if self._leader is not thread:
                return False
            thread.connection = connection
            thread.serial += 1
            rouse, self._sentry_rests = self._sentry_rests, False
        if rouse:
            self._sentry_turn.release()
        try:
            self._handle_message(connection, message)
        finally:
            with self._lock:
                thread.connection = None
                leads = connection.has_lead
        if not leads:
            with self._lock:
                is_closed = self._is_closed
                if not is_closed:
                    self._returned.append(connection)
            if is_closed:
                self._drop(connection)
            else:
                os.eventfd_write(self._wakeup, 1)
        return leads

    def _handle_message(self, connection: _Connection, message: Message) -> None:
        exchange = _Exchange(connection, message)
        fault = self._call(connection, message, exchange)
        outlet = exchange.outlet
        if outlet is not None and not (fault is not None and not outlet.started):
            outlet.truncate()
        elif not connection.is_ended:
            message.keep_alive = False
            connection.outlet = None
            self._answer(connection, 500)
            fault = fault or "found no response"
        # The head is encoded, if ever: what the encoder knows would hold this request in a cycle until Python looks for them.
        exchange.response = exchange.outlet = None
        if fault is not None:
            self._log(f"enarx: request failed: {message.method.decode()}: {fault}")
        if message.keep_alive and message.complete:
            connection.parser.messages.popleft()
        else:
            connection.is_last = True

    def _call(self, connection: _Connection, message: Message, exchange: _Exchange) -> str | None:
        """Call the guest; return what went wrong."""
        keep = self._make_keep(self._clock)
        try:
            try:
                handle = self._linker.instantiate(keep).function(self._handler, "handle", _HANDLE_PARAMS)
                handle(IncomingRequest(message, connection, connection.scheme), ResponseOutparam(exchange))
            finally:
                keep.close()
        except Trapped as trap:
            return f"trap: {trap}"
        except Exit as end:
            return None if exchange.outlet is not None else f"the guest ended itself with status {end.status}"
        except KeepError as error:
            # Fuel is each request's own; output is the whole workload's, and its end is the service's.
            keep.account.return_output(keep.account.permit_output(1))
            return str(error)
        except EnarxError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  # a bug of ours must not let one request end all the others
            return f"bug in enarx: {type(error).__name__}: {error}"
        return None

    def _log(self, text: str) -> None:
        """Write to stderr, at most once in `LOG_INTERVAL_S`."""
        now = time.monotonic()
        with self._lock:
            if now < self._next_log:
                self._unlogged += 1
                return
            self._next_log = now + LOG_INTERVAL_S
            unlogged, self._unlogged = self._unlogged, 0
        more = f" (and {unlogged} more since the last)" if unlogged else ""
        os.write(2, f"{text}{more}\n".encode())


_HANDLE_PARAMS = (Own(INCOMING_REQUEST), Own(RESPONSE_OUTPARAM))


def open_listeners(workload: Workload, network: Network) -> list[Listening]:
    """Open the workload's `listen` entries.

    Raises:
        ConfigError, PlatformError: there is none, or as `Network.listen` and `Network.server_tls`.
    """
    entries = [file for file in workload.files if file.kind == "listen"]
    if not entries:
        raise ConfigError(
            "cannot start the service: files: found no listen entry, want one to serve HTTP on",
            hint="--listen http=8080",
            key="files",
        )
    tls = [network.server_tls(alpn=("http/1.1",)) if file.prot == "tls" else None for file in entries]
    return [(network.listen(file), context) for file, context in zip(entries, tls, strict=True)]


def serve(
    linker: Linker,
    handler: str,
    make_keep: Callable[[Clock], Keep],
    workload: Workload,
    network: Network,
    begin: Callable[[], None],
) -> Outcome:
    """Serve until the process ends, with one process for each processor.

    Args:
        linker: of the component.
        handler: full name of the exported incoming-handler.
        make_keep: makes the Keep of one request, whose clock it is given.
        workload: whose `listen` entries are served.
        network: makes their sockets.
        begin: is called before the first of the workload's code runs, in the process that was started.

    Raises:
        ConfigError: no listen entry, or a wrong one.
        PlatformError: a port is taken.
        KeepError: a limit of the whole workload.
    """
    listeners = open_listeners(workload, network)
    worker = Worker(suitable_count(workload))
    worker.fork()
    service = Service(linker, handler, make_keep, workload, network, listeners=listeners, worker=worker)
    if worker.is_first:
        begin()
        worker.watch(service.fail)
    service.start()
    service.wait()
    raise KeepError("service stopped: found no thread left to serve, want one")
