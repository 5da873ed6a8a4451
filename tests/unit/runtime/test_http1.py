# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1: what is taken, what is refused and how, and that what we write reads back."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.runtime.http1 import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    ProtocolError,
    RequestParser,
    ResponseParser,
    encode_chunk,
    encode_request_head,
    encode_response_head,
    encode_trailers,
    is_name,
    is_value,
)

SOAK = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000"))
HOST = b"Host: a\r\n"


def parse(data: bytes, *, step: int = 1 << 16):
    parser = RequestParser()
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
    return list(parser.messages)


def body(message) -> bytes:
    return b"".join(message.chunks)


@pytest.mark.parametrize("step", [1, 3, 1 << 16])
def test_reads_a_request_however_it_is_cut(step):
    data = b"POST /a/b?c HTTP/1.1\r\nHost: a:1\r\nX-Y:  z \r\nTransfer-Encoding: chunked\r\n\r\n5;e=f\r\nhello\r\n0\r\nT: u\r\n\r\n"
    (message,) = parse(data, step=step)
    assert (message.method, message.target, message.version) == (b"POST", b"/a/b?c", "1.1")
    assert message.headers == [(b"host", b"a:1"), (b"x-y", b"z"), (b"transfer-encoding", b"chunked")]
    assert body(message) == b"hello"
    assert message.trailers == [(b"t", b"u")]
    assert message.complete
    assert message.chunked
    assert message.keep_alive


def test_reads_pipelined_requests_one_by_one():
    first, second = parse(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert (body(first), first.length, first.complete) == (b"ok", 2, True)
    assert (second.target, second.length, second.complete) == (b"/2", None, True)


def test_a_request_is_there_before_its_body():
    parser = RequestParser()
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    message = parser.messages[0]
    assert message.expects_continue
    assert not message.complete
    parser.feed(b"ab")
    parser.feed(b"cd")
    assert body(message) == b"abcd"
    assert message.complete
    assert parser.is_between_messages


def test_knows_whether_a_request_has_begun():
    parser = RequestParser()
    assert parser.is_between_messages
    parser.feed(b"GE")
    assert not parser.is_between_messages


@pytest.mark.parametrize(
    ("status", "data"),
    [
        pytest.param(400, b"POST / HTTP/1.1\r\n" + HOST + rest, id=name)
        for name, rest in {
            "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "two equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
            "signed length": b"Content-Length: +5\r\n\r\nhello",
            "negative length": b"Content-Length: -5\r\n\r\nhello",
            "empty length": b"Content-Length: \r\n\r\n",
            "overlong length": b"Content-Length: 18446744073709551616\r\n\r\n",
            "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "chunk size in hex notation": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
            "space after chunk size": b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
            "negative chunk size": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
            "overlong chunk size": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
            "bare line feed after chunk size": b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            "bytes after a chunk": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n",
            "line feed in a chunk extension": b"Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
            "folded header": b"X: a\r\n b\r\n\r\n",
            "space before colon": b"X : a\r\n\r\n",
            "space before name": b" X: a\r\n\r\n",
            "no colon": b"X\r\n\r\n",
            "no name": b": a\r\n\r\n",
            "bare line feed": b"X: a\nY: b\r\n\r\n",
            "bare carriage return": b"X: a\rb\r\n\r\n",
            "NUL": b"X: a\0b\r\n\r\n",
            "second host": b"Host: b\r\n\r\n",
        }.items()
    ]
    + [
        pytest.param(400, b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", id="asterisk of a GET"),
        pytest.param(400, b"GET /#f HTTP/1.1\r\n" + HOST + b"\r\n", id="fragment"),
        pytest.param(400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks in 1.0"),
        pytest.param(501, b"\x16\x03\x01\x02\x00\x01", id="TLS"),
        pytest.param(501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip"),
        pytest.param(501, b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", id="unknown method"),
        pytest.param(501, b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", id="CONNECT"),
        pytest.param(501, b"DESCRIBE / RTSP/1.0\r\n\r\n", id="RTSP"),
        pytest.param(
            501,
            b"POST / HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc",
            id="upgrade with a body",
        ),
        pytest.param(505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", id="version 2.0"),
        pytest.param(505, b"GET /\r\n\r\n", id="version 0.9"),
        pytest.param(417, b"POST / HTTP/1.1\r\n" + HOST + b"Expect: a\r\nContent-Length: 1\r\n\r\n", id="expectation"),
        pytest.param(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * MAX_HEADERS + b"\r\n", id="many headers"),
        pytest.param(
            431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", id="long header"
        ),
        pytest.param(431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 3 * MAX_HEAD_BYTES, id="endless header"),
        pytest.param(414, b"GET /" + b"y" * 2 * MAX_HEAD_BYTES, id="endless target"),
        pytest.param(
            431,
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * (MAX_HEADERS + 2),
            id="many trailers",
        ),
        pytest.param(
            400,
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"e" * 3 * MAX_HEAD_BYTES,
            id="endless chunk extension",
        ),
    ],
)  # fmt: skip
def test_refuses(status, data):
    with pytest.raises(ProtocolError) as refusal:
        parse(data)
    assert refusal.value.status == status


def test_an_upgrade_is_ignored_and_the_last_request():
    (message,) = parse(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"
    )
    assert message.complete
    assert not message.keep_alive


def test_messages_before_the_fault_are_kept():
    parser = RequestParser()
    with pytest.raises(ProtocolError):
        parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\0\0")
    assert len(parser.messages) == 1


def test_tiny_chunks_are_a_body_like_any_other():
    count = 20_000
    (message,) = parse(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    )
    assert body(message) == b"x" * count


# --- Responses -------------------------------------------------------------------------------------------------------


def parse_response(data: bytes, method: bytes = b"GET"):
    parser = ResponseParser(method)
    parser.feed(data)
    return parser


def test_reads_a_response_after_informational_ones():
    parser = parse_response(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 Gone\r\nContent-Length: 2\r\n\r\nno"
    )
    (message,) = parser.messages
    assert (message.status, body(message), message.complete) == (404, b"no", True)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_a_response_without_body_ends_with_its_head(method, status):
    parser = parse_response(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, method)
    assert parser.messages[0].complete
    parser.feed(b"ignored")


def test_the_end_of_the_stream_ends_a_body_that_nothing_else_delimits():
    parser = parse_response(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert not parser.messages[0].complete
    parser.feed_end()
    assert parser.messages[0].complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConte",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_refuses_a_response_that_ends_early(data):
    parser = parse_response(data)
    with pytest.raises(ProtocolError):
        parser.feed_end()


def test_refuses_an_upgrade_nobody_asked_for():
    with pytest.raises(ProtocolError):
        parse_response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n")


# --- Serialising -----------------------------------------------------------------------------------------------------


def test_a_length_or_chunks_and_never_both():
    given_both = [(b"content-length", b"9"), (b"transfer-encoding", b"gzip"), (b"a", b"b")]
    assert encode_response_head(200, given_both, 5) == b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 5\r\n\r\n"
    assert (
        encode_response_head(200, given_both, None) == b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    assert encode_response_head(200, given_both, None, close=True, until_close=True) == (
        b"HTTP/1.1 200 OK\r\na: b\r\nconnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("status", [100, 103, 204])
def test_statuses_without_a_body_say_nothing_of_one(status):
    assert b"content-length" not in encode_response_head(status, [(b"content-length", b"5")], None, has_body=False)


def test_an_answer_to_head_says_how_long_the_body_would_be():
    assert b"content-length: 5" in encode_response_head(200, [(b"content-length", b"5")], 5, has_body=False)


@pytest.mark.parametrize("bad", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
def test_refuses_to_write_more_lines_than_headers(bad):
    with pytest.raises(ValueError, match="line"):
        encode_response_head(200, [(b"x", bad)], 0)
    with pytest.raises(ValueError, match="line"):
        encode_response_head(200, [(bad, b"x")], 0)
    with pytest.raises(ValueError, match="line"):
        encode_trailers([(b"x", bad)])
    with pytest.raises(ValueError, match="target"):
        encode_request_head(b"GET", b"/" + bad, [], 0)
    assert not is_name(bad)
    assert not is_value(bad)


def test_a_request_without_body_says_so_only_where_one_is_expected():
    assert b"content-length" not in encode_request_head(b"GET", b"/", [], 0)
    assert b"content-length: 0" in encode_request_head(b"POST", b"/", [], 0)
    with pytest.raises(ValueError, match="method"):
        encode_request_head(b"G T", b"/", [], 0)


def test_an_empty_piece_is_not_the_last_chunk():
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"x" * 16) == b"10\r\n" + b"x" * 16 + b"\r\n"


# --- Properties ------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(rb"[a-z][a-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: name not in {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"host", b"expect"}
)
VALUES = st.from_regex(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,40}[\x21-\x7e\x80-\xff])?", fullmatch=True)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=20)
PIECES = st.lists(st.binary(max_size=200), max_size=8)
FRAGMENTS = st.sampled_from([
    b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 3\r\n", b"\r\n", b"abc", b"0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"HTTP/1.1 200 OK\r\n", b"\n", b" ", b"\0",
])  # fmt: skip
BYTES = st.one_of(
    st.binary(max_size=300), st.lists(st.one_of(FRAGMENTS, st.binary(max_size=4)), max_size=16).map(b"".join)
)


def response_reads_back(headers, pieces, trailers, *, chunked):
    if chunked:
        wire = (
            encode_response_head(200, headers, None) + b"".join(map(encode_chunk, pieces)) + encode_trailers(trailers)
        )
    else:
        wire = encode_response_head(200, headers, sum(map(len, pieces))) + b"".join(pieces)
    (message,) = parse_response(wire).messages
    assert message.complete
    assert body(message) == b"".join(pieces)
    assert message.headers[:-1] == headers
    assert message.trailers == (trailers if chunked else [])


def any_bytes_are_taken_or_refused(data, step):
    for parser in (RequestParser(), ResponseParser(b"GET")):
        refusal = None
        try:
            for at in range(0, len(data), step):
                parser.feed(data[at : at + step])
        except ProtocolError as error:
            refusal = error
        assert refusal is None or 400 <= refusal.status <= 505


@given(HEADERS, PIECES, HEADERS, st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_written_reads_back(headers, pieces, trailers, chunked):
    response_reads_back(headers, pieces, trailers, chunked=chunked)


@given(BYTES, st.integers(1, 400))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_bytes_are_taken_or_refused(data, step):
    any_bytes_are_taken_or_refused(data, step)


@pytest.mark.soak
@given(BYTES, st.integers(1, 400))
@settings(max_examples=SOAK, deadline=None)
def test_any_bytes_are_taken_or_refused_at_length(data, step):
    any_bytes_are_taken_or_refused(data, step)
