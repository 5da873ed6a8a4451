# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on the wire: received bytes into messages, messages into bytes.

Parsing is llhttp's, by `httptools`. What llhttp lets through although a peer in front may read it another way is refused
here: any transfer coding but `chunked`, one at all in HTTP/1.0, a body behind `Upgrade`, other versions, no or many `Host`.
Serialising is ours, and it alone decides the framing. No sockets, no time, no WASI here.

Source: RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from collections import deque

import httptools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Headers = list[tuple[bytes, bytes]]
    """Names in lower case, in the order of arrival; values without white space around them."""

__all__ = [
    "CHUNK_END",
    "Message",
    "ProtocolError",
    "RequestParser",
    "ResponseParser",
    "encode_chunk",
    "encode_request_head",
    "encode_response_head",
    "encode_trailers",
    "is_name",
    "is_value",
    "reason_phrase",
]

MAX_HEAD_BYTES = 1 << 16
MAX_HEADERS = 128
# Of chunk headers and extensions: what a sender of tiny chunks needs, and no more for each byte of the body.
_OVERHEAD_BYTES = 1 << 16
_OVERHEAD_PER_BODY_BYTE = 16

_REASONS = {
    100: b"Continue", 101: b"Switching Protocols", 102: b"Processing", 103: b"Early Hints",
    200: b"OK", 201: b"Created", 202: b"Accepted", 203: b"Non-Authoritative Information", 204: b"No Content",
    205: b"Reset Content", 206: b"Partial Content", 300: b"Multiple Choices", 301: b"Moved Permanently", 302: b"Found",
    303: b"See Other", 304: b"Not Modified", 307: b"Temporary Redirect", 308: b"Permanent Redirect",
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict", 410: b"Gone", 411: b"Length Required",
    412: b"Precondition Failed", 413: b"Content Too Large", 414: b"URI Too Long", 415: b"Unsupported Media Type",
    416: b"Range Not Satisfiable", 417: b"Expectation Failed", 421: b"Misdirected Request",
    422: b"Unprocessable Content", 426: b"Upgrade Required", 428: b"Precondition Required", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip

# The methods of llhttp that are RTSP's, icecast's or HTTP/2's, and the one that makes a tunnel.
_FOREIGN_METHODS = frozenset(
    b"ANNOUNCE DESCRIBE PAUSE PLAY REDIRECT SETUP TEARDOWN GET_PARAMETER SET_PARAMETER RECORD FLUSH SOURCE PRI"
    b" CONNECT".split()
)

CHUNK_END = b"0\r\n\r\n"

_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# RFC 9110 section 5.5, and no control character but the tab.
_value = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch


class ProtocolError(Exception):
    """What was received is not a message that we take.

    Args:
        status: what a server answers.
        reason: for the log; never holds received bytes.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Message:
    """One received request or response; its body arrives in `chunks`, which the reader empties.

    Attributes:
        method, target: of a request, as sent; empty in a response.
        status: of a response; 0 in a request.
        headers: without framing applied; see `Headers`.
        version: `1.0` or `1.1`.
        keep_alive: whether the connection may carry another message after this one.
        expects_continue: whether the peer waits for `100 Continue` before it sends the body.
        length: of the body, where content-length says so.
        chunked: whether the body is.
        chunks: pieces of the body that nobody took yet.
        complete: whether everything has arrived.
        trailers: as headers; whole once `complete`.
    """

    __slots__ = (
        "_size", "chunked", "chunks", "complete", "expects_continue", "headers", "keep_alive", "length", "method", "status",
        "target", "trailers", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.status = 0
        self.version = "1.1"
        self.headers: Headers = []
        self.trailers: Headers = []
        self.chunks: deque[bytes] = deque()
        self.keep_alive = False
        self.expects_continue = False
        self.length: int | None = None
        self.chunked = False
        self.complete = False
        self._size = 0


class _Parser:
    """What requests and responses share. After a ProtocolError nothing more is fed."""

    # Names without a leading underscore are the ones that httptools calls.
    __slots__ = ("_body_bytes", "_ended", "_fields", "_head_bytes", "_in_body", "_message", "_overhead", "_parser", "_refused", "messages")  # fmt: skip

    _parser: httptools.HttpRequestParser | httptools.HttpResponseParser

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self._message = Message()
        self._fields: Headers = self._message.headers
        self._in_body = False
        self._ended = False
        # Of the head that has begun; of the body in this call; of chunk headers that no body byte has paid for.
        self._head_bytes = 0
        self._body_bytes = 0
        self._overhead = 0
        self._refused: tuple[int, str] | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a next message has arrived."""
        return not self._in_body and not self._head_bytes

    def feed(self, data: bytes) -> None:
        """Take what was received; messages whose head is complete come into `messages`.

        Args:
            data: at most 64 KiB, because the limits are counted per call.

        Raises:
            ProtocolError: not HTTP/1.1 as we take it. Messages before the fault are in `messages` all the same.
        """
        self._body_bytes = 0
        self._ended = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The head was judged in `on_headers_complete`; the connection ends after the answer.
            return
        except httptools.HttpParserInvalidMethodError as error:
            raise ProtocolError(501, "unknown method") from error
        except httptools.HttpParserError as error:
            if self._refused is not None:
                raise ProtocolError(*self._refused) from error
            raise ProtocolError(400, str(error).lower()[:80]) from error
        if self._in_body:
            self._count_overhead(len(data))
        elif self._message.target or not self._ended:
            # Counts what stood before the head in the same call too, hence twice the limit.
            self._head_bytes += len(data)
            if self._head_bytes > 2 * MAX_HEAD_BYTES:
                raise ProtocolError(431, "head too large")

    def _count_overhead(self, fed: int) -> None:
        if self._message.chunked:
            self._overhead = max(0, self._overhead + fed - self._body_bytes * (1 + _OVERHEAD_PER_BODY_BYTE))
            if self._overhead > _OVERHEAD_BYTES:
                raise ProtocolError(400, "too much chunk overhead")

    def _refuse(self, status: int, reason: str) -> None:
        # Not the exception: its traceback would hold whoever feeds this parser in a cycle.
        self._refused = (status, reason)
        raise ProtocolError(status, reason)

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Called by httptools for each header and each trailer."""
        message, fields, value = self._message, self._fields, value or b""
        message._size += len(name) + len(value) + 4
        if message._size > MAX_HEAD_BYTES or len(fields) >= MAX_HEADERS:
            self._refuse(431, "head too large")
        fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        """Called by httptools for each piece of a body."""
        self._message.chunks.append(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self._message.complete = True
        self._message = Message()
        self._fields = self._message.headers
        self._in_body = False
        self._ended = True
        self._head_bytes = self._overhead = 0

    def _frame(self, message: Message) -> int:
        """Read the headers that frame the message and return how many `host` there are."""
        hosts = 0
        for name, value in message.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                # llhttp has seen to it that it is one number of 64 bits.
                message.length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    self._refuse(501, "transfer coding other than chunked")
                message.chunked = True
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    self._refuse(417, "unknown expectation")
                message.expects_continue = True
        message.version = self._parser.get_http_version()
        if message.version not in {"1.1", "1.0"}:
            self._refuse(505, "version other than 1.1 and 1.0")
        if message.chunked and message.version == "1.0":
            self._refuse(400, "transfer coding in HTTP/1.0")
        # Nobody who still speaks HTTP/1.0 needs more than one answer.
        message.keep_alive = message.version == "1.1" and self._parser.should_keep_alive()
        self._in_body = True
        self._head_bytes = 0
        self._fields = message.trailers
        return hosts


class RequestParser(_Parser):
    """Requests of one connection."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        """Called by httptools, perhaps in pieces."""
        message = self._message
        message.target += url
        if len(message.target) > MAX_HEAD_BYTES:
            self._refuse(414, "target too long")

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        message = self._message
        message.method = method = self._parser.get_method()
        hosts = self._frame(message)
        if method in _FOREIGN_METHODS:
            self._refuse(501, "method not offered")
        if hosts > 1 or (hosts == 0 and message.version == "1.1"):
            self._refuse(400, "no or several hosts")
        target = message.target
        if b"#" in target or (target == b"*" and method != b"OPTIONS"):
            self._refuse(400, "target")
        if self._parser.should_upgrade():
            # llhttp would not read a body; we do not upgrade, so it would be taken for the next request.
            if message.chunked or message.length:
                self._refuse(501, "upgrade with a body")
            message.keep_alive = False
        if message.version == "1.0":
            message.expects_continue = False
        self.messages.append(message)


class ResponseParser(_Parser):
    """The response to one request, on a connection that is used for no other.

    Args:
        method: of the request; a response to HEAD has no body, whatever its headers say.
    """

    __slots__ = ("_method",)

    def __init__(self, method: bytes) -> None:
        super().__init__()
        self._method = method
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what was received, as `_Parser.feed`; what follows the response is ignored."""
        if not (self.messages and self.messages[0].complete):
            super().feed(data)

    def feed_end(self) -> None:
        """Take the end of the stream, which ends a body that nothing else delimits.

        Raises:
            ProtocolError: the response is not whole.
        """
        message = self.messages[0] if self.messages else None
        if message is None or not (message.complete or (message.length is None and not message.chunked)):
            raise ProtocolError(502, "response not complete")
        message.complete = True

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        message = self._message
        message.status = status = self._parser.get_status_code()
        self._frame(message)
        message.expects_continue = False
        if status == 101:
            self._refuse(502, "upgrade that nobody asked for")
        if status >= 200 and not self.messages:
            message.complete = self._method == b"HEAD" or status in {204, 304}
            self.messages.append(message)


# --- Serialising -----------------------------------------------------------------------------------------------------


def is_name(name: bytes) -> bool:
    """Tell whether this is a field name: a token."""
    return _name(name) is not None


def is_value(value: bytes) -> bool:
    """Tell whether this is a field value: no control characters but the tab."""
    return _value(value) is not None


def reason_phrase(status: int) -> bytes:
    """Return what stands behind a status code; empty for one without a registered phrase."""
    return _REASONS.get(status, b"")


def _encode_head(first: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [first, *[b"%b: %b" % field for field in headers], b"\r\n"]
    head = b"\r\n".join(lines)
    ends = len(lines)
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise ValueError("a line end or NUL within a line of the head")
    return head


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def _framed(headers: Headers, length: int | None) -> Headers:
    """Return the headers with exactly one way to frame the body: a length, or chunks for None."""
    framed = _unframed(headers)
    framed.append((b"transfer-encoding", b"chunked") if length is None else (b"content-length", b"%d" % length))
    return framed


def _unframed(headers: Headers) -> Headers:
    return [field for field in headers if field[0] not in _FRAMING]


_STATUS_LINES = {status: b"HTTP/1.1 %d %b" % (status, phrase) for status, phrase in _REASONS.items()}


def encode_response_head(
    status: int,
    headers: Headers,
    length: int | None,
    *,
    has_body: bool = True,
    close: bool = False,
    until_close: bool = False,
) -> bytes:
    """Encode the head of a response.

    Args:
        status: 100 to 999.
        headers: any framing in them is replaced.
        length: of the body, or None where it goes in chunks.
        has_body: False for an answer to HEAD and for 204 and 304, where content-length says what there would have been.
        close: whether the connection ends after it.
        until_close: whether the end of the connection, and nothing else, ends the body: for HTTP/1.0.

    Raises:
        ValueError: a header is not one line.
    """
    if until_close or status < 200 or status == 204:
        headers = _unframed(headers)
    elif has_body:
        headers = _framed(headers, length)
    else:
        headers = [field for field in headers if field[0] != b"transfer-encoding"]
    if close:
        headers = [*headers, (b"connection", b"close")]
    return _encode_head(_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, headers)


def encode_request_head(method: bytes, target: bytes, headers: Headers, length: int | None) -> bytes:
    """Encode the head of a request whose connection ends with its response.

    Args:
        method: a token.
        target: origin form, or `*`.
        headers: `host` among them; any framing in them is replaced.
        length: of the body; None sends it in chunks. 0 says nothing for methods that have no body.

    Raises:
        ValueError: method, target or a header has characters that would end it.
    """
    if not is_name(method) or not target or any(byte <= 0x20 or byte == 0x7F for byte in target):
        raise ValueError("not a method or not a target")
    if length == 0 and method not in {b"POST", b"PUT", b"PATCH"}:
        framed = _unframed(headers)
    else:
        framed = _framed(headers, length)
    return _encode_head(method + b" " + target + b" HTTP/1.1", [*framed, (b"connection", b"close")])


def encode_chunk(data: bytes) -> bytes:
    """Encode a piece of a body; an empty one is no chunk, because that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_trailers(trailers: Headers) -> bytes:
    """Encode the last chunk, with trailers.

    Raises:
        ValueError: a trailer is not one line.
    """
    return _encode_head(b"0", trailers)
