# SPDX-License-Identifier: Apache-2.0
"""Requests and responses of wasi:http/types 0.2.

Here is what guests see of them. Who receives and sends them is not known: `http_service` passes in what an incoming
request came from and takes what the response-outparam was set to; `http_outgoing` sends outgoing requests.

Source: WIT package wasi:http@0.2.12; RFC 9110 and RFC 3986 for authorities and targets.
"""

from __future__ import annotations

import re

from enarx.runtime.component.binding import Borrow, Kind, Own
from enarx.runtime.component.http_bodies import INCOMING_BODY, OUTGOING_BODY, IncomingBody, OutgoingBody, Outlet
from enarx.runtime.component.http_fields import ERROR_CODE, FIELDS, FORBIDDEN, Fields, types_interface
from enarx.runtime.component.io import ERROR
from enarx.runtime.component.values import U16, U64, Err, Option, Result, String, Variant
from enarx.runtime.http1 import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from enarx.runtime.component.binding import Keep
    from enarx.runtime.component.http_bodies import ErrorCode, Source
    from enarx.runtime.component.io import IoError
    from enarx.runtime.http1 import Headers, Message

    class Answer(Protocol):
        """What becomes of a response-outparam."""

        def respond(self, response: OutgoingResponse) -> None:
            """Take the response."""

        def give_up(self, code: ErrorCode) -> None:
            """Take that there is none."""

        def inform(self, status: int, headers: Headers) -> None:
            """Send an informational response. Raises Err with an error-code."""


_METHODS = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
_METHOD_BY_NAME = {name.upper().encode(): (name, None) for name in _METHODS}
_NAME_BY_METHOD = {name: name.upper().encode() for name in _METHODS}
METHOD = Variant(*((name, None) for name in _METHODS), ("other", String))
SCHEME = Variant(("HTTP", None), ("HTTPS", None), ("other", String))

_SCHEME_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*").fullmatch
# A name or an address, and a port: no user information, nothing percent-encoded.
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?").fullmatch
_PATH = re.compile(r"[!$-;=?-Z\[\]_a-z~|^`{}\\\"<>%]*").fullmatch

MAX_TEXT = 1 << 16
NANOSECONDS_MAX = (1 << 63) - 1


def split_authority(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port` or `[ipv6]:port`; the port is None where there is none.

    Raises:
        ValueError: something else.
    """
    match = _AUTHORITY(text)
    if match is None or len(text) > 300:
        raise ValueError(text)
    port = int(match[2]) if match[2] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(text)
    return match[1], port


def _declared_length(fields: Fields) -> int | None:
    """Return the guest's content-length.

    Raises:
        Err: several, or no number.
    """
    values = {value for name, value in fields.entries if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise Err
    return int(value)


# --- Incoming requests -----------------------------------------------------------------------------------------------


class IncomingRequest:
    """The resource `incoming-request`."""

    __slots__ = ("is_consumed", "message", "scheme", "source")

    def __init__(self, message: Message, source: Source, scheme: str) -> None:
        self.message = message
        self.source = source
        self.scheme = scheme
        self.is_consumed = False

    def split_target(self) -> tuple[str | None, str]:
        """Return authority and path with query."""
        target = self.message.target.decode("latin-1")
        if target.startswith("/") or target == "*":
            return None, target
        rest = target.partition("://")[2]
        authority, slash, path = rest.partition("/")
        if not slash:
            authority, mark, query = rest.partition("?")
            return authority, f"/{mark}{query}"
        return authority, slash + path


INCOMING_REQUEST: Kind = types_interface.resource("incoming-request")


@types_interface.func("[method]incoming-request.method", (Borrow(INCOMING_REQUEST),), METHOD)
def _method(_keep: Keep, request: IncomingRequest) -> tuple[str, str | None]:
    method = request.message.method
    return _METHOD_BY_NAME.get(method) or ("other", method.decode("ascii"))


@types_interface.func("[method]incoming-request.path-with-query", (Borrow(INCOMING_REQUEST),), Option(String))
def _path_with_query(_keep: Keep, request: IncomingRequest) -> str | None:
    return request.split_target()[1]


@types_interface.func("[method]incoming-request.scheme", (Borrow(INCOMING_REQUEST),), Option(SCHEME))
def _scheme(_keep: Keep, request: IncomingRequest) -> tuple[str, str | None] | None:
    return (request.scheme, None)


@types_interface.func("[method]incoming-request.authority", (Borrow(INCOMING_REQUEST),), Option(String))
def _authority(_keep: Keep, request: IncomingRequest) -> str | None:
    authority = request.split_target()[0]
    if authority is not None:
        return authority
    return next((value.decode("latin-1") for name, value in request.message.headers if name == b"host"), None)


@types_interface.func("[method]incoming-request.headers", (Borrow(INCOMING_REQUEST),), Own(FIELDS))
def _request_headers(_keep: Keep, request: IncomingRequest) -> Fields:
    return visible_headers(request.message)


@types_interface.func("[method]incoming-request.consume", (Borrow(INCOMING_REQUEST),), Result(Own(INCOMING_BODY), None))
def _consume_request(_keep: Keep, request: IncomingRequest) -> IncomingBody:
    if request.is_consumed:
        raise Err
    request.is_consumed = True
    return IncomingBody(request.message, request.source)


def visible_headers(message: Message) -> Fields:
    """Return a message's headers without those that belong to its connection."""
    return Fields([field for field in message.headers if field[0] not in FORBIDDEN], is_mutable=False)


# --- Outgoing responses ----------------------------------------------------------------------------------------------


class OutgoingResponse:
    """The resource `outgoing-response`."""

    __slots__ = ("headers", "is_taken", "outlet", "status")

    def __init__(self, keep: Keep, headers: Fields) -> None:
        self.status = 200
        self.headers = headers
        self.outlet = Outlet(keep.clock, "HTTP-response-body-size")
        self.is_taken = False


class ResponseOutparam:
    """The resource `response-outparam`."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


OUTGOING_RESPONSE: Kind = types_interface.resource("outgoing-response")
RESPONSE_OUTPARAM: Kind = types_interface.resource("response-outparam")


@types_interface.func("[constructor]outgoing-response", (Own(FIELDS),), Own(OUTGOING_RESPONSE))
def _new_response(keep: Keep, headers: Fields) -> OutgoingResponse:
    return OutgoingResponse(keep, headers)


@types_interface.func("[method]outgoing-response.status-code", (Borrow(OUTGOING_RESPONSE),), U16)
def _status_code(_keep: Keep, response: OutgoingResponse) -> int:
    return response.status


@types_interface.func("[method]outgoing-response.set-status-code", (Borrow(OUTGOING_RESPONSE), U16), Result(None, None))
def _set_status_code(_keep: Keep, response: OutgoingResponse, status: int) -> None:
    if not 200 <= status <= 999:
        raise Err
    response.status = status


@types_interface.func("[method]outgoing-response.headers", (Borrow(OUTGOING_RESPONSE),), Own(FIELDS))
def _response_headers(_keep: Keep, response: OutgoingResponse) -> Fields:
    return response.headers.frozen()


@types_interface.func("[method]outgoing-response.body", (Borrow(OUTGOING_RESPONSE),), Result(Own(OUTGOING_BODY), None))
def _response_body(_keep: Keep, response: OutgoingResponse) -> OutgoingBody:
    if response.is_taken:
        raise Err
    response.outlet.declared = _declared_length(response.headers)
    response.is_taken = True
    return OutgoingBody(response.outlet)


@types_interface.func(
    "[static]response-outparam.set", (Own(RESPONSE_OUTPARAM), Result(Own(OUTGOING_RESPONSE), ERROR_CODE))
)
def _set(_keep: Keep, outparam: ResponseOutparam, outcome: tuple[bool, OutgoingResponse | ErrorCode]) -> None:
    _, value = outcome
    if isinstance(value, OutgoingResponse):
        outparam.answer.respond(value)
    else:
        outparam.answer.give_up(value)


@types_interface.func(
    "[method]response-outparam.send-informational",
    (Borrow(RESPONSE_OUTPARAM), U16, Own(FIELDS)),
    Result(None, ERROR_CODE),
)
def _send_informational(_keep: Keep, outparam: ResponseOutparam, status: int, headers: Fields) -> None:
    if not 100 <= status <= 199 or status == 101:
        raise Err(("internal-error", f"found the status {status}, want 100 to 199 and not 101"))
    outparam.answer.inform(status, headers.entries)


# --- Outgoing requests -----------------------------------------------------------------------------------------------


class OutgoingRequest:
    """The resource `outgoing-request`."""

    __slots__ = ("authority", "headers", "is_taken", "method", "outlet", "path", "scheme")

    def __init__(self, keep: Keep, headers: Fields) -> None:
        self.method = b"GET"
        self.path: str | None = None
        self.scheme: tuple[str, str | None] | None = None
        self.authority: str | None = None
        self.headers = headers
        self.outlet = Outlet(keep.clock, "HTTP-request-body-size")
        self.is_taken = False


OUTGOING_REQUEST: Kind = types_interface.resource("outgoing-request")
_REQUEST = Borrow(OUTGOING_REQUEST)
_CHANGED = Result(None, None)


@types_interface.func("[constructor]outgoing-request", (Own(FIELDS),), Own(OUTGOING_REQUEST))
def _new_request(keep: Keep, headers: Fields) -> OutgoingRequest:
    return OutgoingRequest(keep, headers)


@types_interface.func("[method]outgoing-request.body", (_REQUEST,), Result(Own(OUTGOING_BODY), None))
def _request_body(_keep: Keep, request: OutgoingRequest) -> OutgoingBody:
    if request.is_taken:
        raise Err
    request.outlet.declared = _declared_length(request.headers)
    request.is_taken = True
    return OutgoingBody(request.outlet)


@types_interface.func("[method]outgoing-request.method", (_REQUEST,), METHOD)
def _get_method(_keep: Keep, request: OutgoingRequest) -> tuple[str, str | None]:
    return _METHOD_BY_NAME.get(request.method) or ("other", request.method.decode("ascii"))


@types_interface.func("[method]outgoing-request.set-method", (_REQUEST, METHOD), _CHANGED)
def _set_method(_keep: Keep, request: OutgoingRequest, method: tuple[str, str | None]) -> None:
    case, other = method
    name = _NAME_BY_METHOD[case] if other is None else other.encode()
    if not is_name(name) or len(name) > MAX_TEXT:
        raise Err
    request.method = name


@types_interface.func("[method]outgoing-request.path-with-query", (_REQUEST,), Option(String))
def _get_path(_keep: Keep, request: OutgoingRequest) -> str | None:
    return request.path


@types_interface.func("[method]outgoing-request.set-path-with-query", (_REQUEST, Option(String)), _CHANGED)
def _set_path(_keep: Keep, request: OutgoingRequest, path: str | None) -> None:
    if path is not None and (len(path) > MAX_TEXT or _PATH(path) is None):
        raise Err
    request.path = path


@types_interface.func("[method]outgoing-request.scheme", (_REQUEST,), Option(SCHEME))
def _get_scheme(_keep: Keep, request: OutgoingRequest) -> tuple[str, str | None] | None:
    return request.scheme


@types_interface.func("[method]outgoing-request.set-scheme", (_REQUEST, Option(SCHEME)), _CHANGED)
def _set_scheme(_keep: Keep, request: OutgoingRequest, scheme: tuple[str, str | None] | None) -> None:
    if scheme is not None and scheme[1] is not None and _SCHEME_TEXT(scheme[1]) is None:
        raise Err
    request.scheme = scheme


@types_interface.func("[method]outgoing-request.authority", (_REQUEST,), Option(String))
def _get_authority(_keep: Keep, request: OutgoingRequest) -> str | None:
    return request.authority


@types_interface.func("[method]outgoing-request.set-authority", (_REQUEST, Option(String)), _CHANGED)
def _set_authority(_keep: Keep, request: OutgoingRequest, authority: str | None) -> None:
    if authority is not None:
        try:
            split_authority(authority)
        except ValueError:
            raise Err from None
    request.authority = authority


@types_interface.func("[method]outgoing-request.headers", (_REQUEST,), Own(FIELDS))
def _get_headers(_keep: Keep, request: OutgoingRequest) -> Fields:
    return request.headers.frozen()


class RequestOptions:
    """The resource `request-options`; times in nanoseconds, or None for the host's."""

    __slots__ = ("between_bytes_ns", "connect_ns", "first_byte_ns")

    def __init__(self) -> None:
        self.connect_ns: int | None = None
        self.first_byte_ns: int | None = None
        self.between_bytes_ns: int | None = None


REQUEST_OPTIONS: Kind = types_interface.resource("request-options")


@types_interface.func("[constructor]request-options", (), Own(REQUEST_OPTIONS))
def _new_options(_keep: Keep) -> RequestOptions:
    return RequestOptions()


def _declare_option(name: str, attribute: str) -> None:
    options = Borrow(REQUEST_OPTIONS)

    def read(_keep: Keep, resource: RequestOptions) -> int | None:
        value: int | None = getattr(resource, attribute)
        return value

    def write(_keep: Keep, resource: RequestOptions, value: int | None) -> None:
        setattr(resource, attribute, None if value is None else min(value, NANOSECONDS_MAX))

    types_interface.func(f"[method]request-options.{name}", (options,), Option(U64))(read)
    types_interface.func(f"[method]request-options.set-{name}", (options, Option(U64)), _CHANGED)(write)


_declare_option("connect-timeout", "connect_ns")
_declare_option("first-byte-timeout", "first_byte_ns")
_declare_option("between-bytes-timeout", "between_bytes_ns")


# --- Incoming responses ----------------------------------------------------------------------------------------------


class IncomingResponse:
    """The resource `incoming-response`."""

    __slots__ = ("is_consumed", "message", "source")

    def __init__(self, message: Message, source: Source) -> None:
        self.message = message
        self.source = source
        self.is_consumed = False


INCOMING_RESPONSE: Kind = types_interface.resource("incoming-response")


@types_interface.func("[method]incoming-response.status", (Borrow(INCOMING_RESPONSE),), U16)
def _status(_keep: Keep, response: IncomingResponse) -> int:
    return response.message.status


@types_interface.func("[method]incoming-response.headers", (Borrow(INCOMING_RESPONSE),), Own(FIELDS))
def _incoming_headers(_keep: Keep, response: IncomingResponse) -> Fields:
    return visible_headers(response.message)


@types_interface.func(
    "[method]incoming-response.consume", (Borrow(INCOMING_RESPONSE),), Result(Own(INCOMING_BODY), None)
)
def _consume_response(_keep: Keep, response: IncomingResponse) -> IncomingBody:
    if response.is_consumed:
        raise Err
    response.is_consumed = True
    return IncomingBody(response.message, response.source)


@types_interface.func("http-error-code", (Borrow(ERROR),), Option(ERROR_CODE))
def _http_error_code(_keep: Keep, error: IoError) -> ErrorCode | None:
    cause = error.cause
    return cause if isinstance(cause, tuple) and cause[0] in ERROR_CODE.cases else None
