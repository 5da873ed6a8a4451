# SPDX-License-Identifier: Apache-2.0
"""Bodies over real socket pairs, without a guest."""

from __future__ import annotations

import socket

import pytest

from enarx.runtime.component.clock import Clock
from enarx.runtime.component.http_bodies import (
    BodyReader,
    BodyWriter,
    FutureTrailers,
    HttpError,
    OutgoingBody,
    Outlet,
    PlainTransport,
)
from enarx.runtime.component.io import CHUNK, IoError
from enarx.runtime.component.values import Err
from enarx.runtime.http1 import RequestParser, encode_response_head


class Source:
    """A body that arrives in the given pieces; None is a pause, an error code the end."""

    def __init__(self, *pieces, between_bytes_ns=10**10):
        self.clock = Clock()
        self.between_bytes_ns = between_bytes_ns
        self.pieces = list(pieces)
        self.parser = RequestParser()
        self.parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.message = self.parser.messages[0]

    def pump(self):
        piece = self.pieces.pop(0) if self.pieces else None
        if piece is None:
            raise BlockingIOError
        if isinstance(piece, tuple):
            raise HttpError(piece)
        self.parser.feed(piece)

    def read_interest(self):
        return 0, 1


def failure(error):
    case, value = error.value.value
    assert case == "last-operation-failed"
    assert isinstance(value, IoError)
    return value.cause


def test_a_body_is_read_in_the_pieces_that_are_asked_for():
    source = Source(b"5\r\nhello\r\n", None, b"1\r\n!\r\n0\r\n\r\n")
    reader = BodyReader(source.message, source)
    assert reader.read(2) == b"he"
    assert reader.read(100) == b"llo"
    assert reader.read(100) == b""
    assert reader.read(100) == b"!"
    with pytest.raises(Err) as end:
        reader.read(1)
    assert end.value.value == ("closed", None)


def test_a_body_that_ends_early_is_not_a_whole_one():
    source = Source(b"5\r\nhel", ("connection-terminated", None))
    reader = BodyReader(source.message, source)
    assert reader.read(100) == b"hel"
    with pytest.raises(Err) as error:
        reader.read(100)
    assert failure(error) == ("connection-terminated", None)


def test_a_peer_that_stops_is_not_waited_for_longer_than_the_limit():
    source = Source(between_bytes_ns=0)
    reader = BodyReader(source.message, source)
    assert reader.read(100) == b""
    with pytest.raises(Err) as error:
        reader.read(100)
    assert failure(error) == ("connection-read-timeout", None)


def test_trailers_come_after_the_rest_of_the_body_was_thrown_away():
    source = Source(b"5\r\nhello\r\n", None, b"0\r\nA: b\r\n\r\n")
    future = FutureTrailers(source.message, source)
    assert future.outcome() is None
    is_ok, trailers = future.outcome()
    assert is_ok
    assert trailers.entries == [(b"a", b"b")]
    assert not trailers.is_mutable


def test_trailers_of_a_body_that_failed_are_its_error():
    source = Source(("HTTP-protocol-error", None))
    assert FutureTrailers(source.message, source).outcome() == (False, ("HTTP-protocol-error", None))


# --- Outgoing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def encode_head(length):
    return encode_response_head(200, [], length), length is None


def open_outlet(sock=None, **options):
    outlet = Outlet(Clock(), "HTTP-response-body-size")
    for name, value in options.items():
        setattr(outlet, name, value)
    if sock is not None:
        outlet.attach(PlainTransport(sock), encode_head)
    return outlet


def test_what_ends_before_anything_was_sent_leaves_in_one_piece(pair):
    ours, theirs = pair
    outlet = open_outlet(ours, is_lazy=True)
    writer = BodyWriter(outlet)
    writer.write(b"hello")
    writer.flush()
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    outlet.finish([])
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    assert not outlet.is_sent
    outlet.urge()
    assert theirs.recv(100) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    assert outlet.is_sent


def test_an_end_that_nobody_else_sends_is_sent_at_once(pair):
    ours, theirs = pair
    outlet = open_outlet(ours)
    BodyWriter(outlet).write(b"hello")
    outlet.finish([])
    assert theirs.recv(100) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    assert outlet.is_sent


def test_chunks_and_trailers_that_wait_are_sent_once(pair):
    ours, theirs = pair
    outlet = open_outlet(ours, is_lazy=True)
    writer = BodyWriter(outlet)
    writer.write(b"a")
    outlet.push()
    assert theirs.recv(100).endswith(b"\r\n1\r\na\r\n")
    writer.write(b"b")
    outlet.finish([(b"t", b"u")])
    outlet.urge()
    outlet.urge()
    assert theirs.recv(100) == b"1\r\nb\r\n0\r\nt: u\r\n\r\n"
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_what_is_flushed_is_sent_unless_somebody_else_does(pair):
    ours, theirs = pair
    outlet = open_outlet(ours)
    writer = BodyWriter(outlet)
    writer.flush()
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    writer.write(b"a")
    writer.flush()
    assert theirs.recv(100).endswith(b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    outlet.finish([(b"t", b"u")])
    assert theirs.recv(100) == b"0\r\nt: u\r\n\r\n"


def test_what_is_held_back_is_sent_when_somebody_urges(pair):
    ours, theirs = pair
    outlet = open_outlet(ours, is_lazy=True)
    BodyWriter(outlet).write(b"a")
    outlet.urge()
    assert theirs.recv(100).endswith(b"1\r\na\r\n")


def test_a_peer_that_takes_nothing_stops_the_guest(pair):
    ours, theirs = pair
    writer = BodyWriter(open_outlet(ours))
    sent = 0
    while permitted := writer.check_write():
        writer.write(bytes(permitted))
        sent += permitted
    fd, _, deadline = writer.poll_interest()
    assert fd == ours.fileno()
    assert deadline is not None
    received = 0
    while received < sent:
        received += len(theirs.recv(1 << 20))
        writer.check_write()
    assert writer.check_write() == CHUNK


def test_only_so_much_waits_for_a_response_that_was_not_set():
    writer = BodyWriter(open_outlet())
    while permitted := writer.check_write():
        writer.write(bytes(min(permitted, 5000)))
    assert writer.poll_interest()[0] == -1


@pytest.mark.parametrize("written", [b"", b"1234", b"123456"])
def test_refuses_a_body_of_another_size_than_declared(pair, written):
    ours, theirs = pair
    outlet = open_outlet(ours, declared=5)
    if len(written) > 5:
        with pytest.raises(Err):
            BodyWriter(outlet).write(written)
    else:
        BodyWriter(outlet).write(written)
        with pytest.raises(Err):
            outlet.finish([])
    assert outlet.failure == ("HTTP-response-body-size", len(written))
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_a_body_that_is_dropped_is_not_ended(pair):
    ours, theirs = pair
    outlet = open_outlet(ours)
    BodyWriter(outlet).write(b"a")
    OutgoingBody(outlet).drop()
    assert theirs.recv(100).endswith(b"1\r\na\r\n")
    assert outlet.is_truncated
    assert outlet.is_sent


def test_a_body_that_is_dropped_after_all_of_it_was_written_is_whole(pair):
    ours, theirs = pair
    outlet = open_outlet(ours, declared=1)
    BodyWriter(outlet).write(b"a")
    OutgoingBody(outlet).drop()
    assert theirs.recv(100).endswith(b"content-length: 1\r\n\r\na")
    assert not outlet.is_truncated


def test_a_peer_that_has_gone_closes_the_stream(pair):
    ours, theirs = pair
    outlet = open_outlet(ours)
    theirs.close()
    writer = BodyWriter(outlet)
    writer.write(b"a")
    writer.flush()
    with pytest.raises(Err) as error:
        writer.check_write()
    assert error.value.value == ("closed", None)
