# SPDX-License-Identifier: Apache-2.0
"""Fields, requests and responses, by the functions that guests call."""

from __future__ import annotations

import pytest

from enarx.runtime.component.binding import Trap
from enarx.runtime.component.http_fields import FORBIDDEN, MAX_FIELDS, Fields, types_interface
from enarx.runtime.component.http_types import IncomingRequest, OutgoingRequest, split_authority, visible_headers
from enarx.runtime.component.io import IoError
from enarx.runtime.component.values import Err
from enarx.runtime.http1 import MAX_HEAD_BYTES, Message


class FakeKeep:
    clock = None


def call(name, *arguments):
    return types_interface.functions[name].call(FakeKeep(), *arguments)


def refusal(name, *arguments):
    with pytest.raises(Err) as error:
        call(name, *arguments)
    return error.value.value


def test_fields_compare_names_without_case_and_keep_order():
    fields = call("[static]fields.from-list", [("A", b"1"), ("b", b" 2 "), ("a", b"3")])
    assert call("[method]fields.entries", fields) == [("a", b"1"), ("b", b"2"), ("a", b"3")]
    assert call("[method]fields.get", fields, "A") == [b"1", b"3"]
    assert call("[method]fields.has", fields, "B")
    call("[method]fields.set", fields, "A", [b"4"])
    assert call("[method]fields.entries", fields) == [("b", b"2"), ("a", b"4")]
    call("[method]fields.delete", fields, "B")
    call("[method]fields.append", fields, "a", b"5")
    assert call("[method]fields.get", fields, "a") == [b"4", b"5"]
    assert call("[method]fields.get", fields, "b") == []


@pytest.mark.parametrize(
    ("name", "value"), [("", b""), ("a b", b""), ("é", b""), ("a\n", b""), ("a", b"\n"), ("a", b"\0")]
)
def test_fields_refuse_what_would_be_another_line(name, value):
    fields = Fields([])
    assert refusal("[method]fields.append", fields, name, value) == ("invalid-syntax", None)
    assert refusal("[method]fields.set", fields, name, [value]) == ("invalid-syntax", None)
    assert refusal("[static]fields.from-list", [(name, value)]) == ("invalid-syntax", None)
    assert fields.entries == []


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_fields_refuse_what_is_the_connection_s(name):
    assert refusal("[method]fields.append", Fields([]), name.decode().upper(), b"x") == ("forbidden", None)


def test_fields_of_a_message_do_not_change():
    fields = Fields([(b"a", b"b")], is_mutable=False)
    for name, arguments in (("append", ("c", b"")), ("set", ("c", [b""])), ("delete", ("a",))):
        assert refusal(f"[method]fields.{name}", fields, *arguments) == ("immutable", None)
    copy = call("[method]fields.clone", fields)
    call("[method]fields.append", copy, "c", b"d")
    assert fields.entries == [(b"a", b"b")]


def test_fields_do_not_grow_without_end():
    fields = Fields([])
    for _ in range(MAX_FIELDS):
        call("[method]fields.append", fields, "a", b"")
    with pytest.raises(Trap):
        call("[method]fields.append", fields, "a", b"")
    assert len(fields.entries) == MAX_FIELDS
    with pytest.raises(Trap):
        call("[method]fields.append", Fields([]), "a", bytes(MAX_HEAD_BYTES).replace(b"\0", b"x"))


@pytest.mark.parametrize(
    ("target", "authority", "path"),
    [
        (b"/a?b", "host:1", "/a?b"),
        (b"*", "host:1", "*"),
        (b"http://x:2/y?z", "x:2", "/y?z"),
        (b"http://x", "x", "/"),
        (b"http://x?z", "x", "/?z"),
    ],
)
def test_an_incoming_request_says_where_it_goes(target, authority, path):
    message = Message()
    message.method, message.target = b"GET", target
    message.headers = [(b"host", b"host:1"), (b"a", b"b"), (b"connection", b"close")]
    request = IncomingRequest(message, None, "HTTP")
    assert call("[method]incoming-request.authority", request) == authority
    assert call("[method]incoming-request.path-with-query", request) == path
    assert call("[method]incoming-request.method", request) == ("get", None)
    assert call("[method]incoming-request.scheme", request) == ("HTTP", None)
    assert visible_headers(message).entries == [(b"a", b"b")]
    call("[method]incoming-request.consume", request)
    assert refusal("[method]incoming-request.consume", request) is None


def test_an_outgoing_request_takes_what_can_be_sent():
    request = OutgoingRequest(FakeKeep(), Fields([]))
    call("[method]outgoing-request.set-method", request, ("other", "QUERY"))
    assert call("[method]outgoing-request.method", request) == ("other", "QUERY")
    call("[method]outgoing-request.set-method", request, ("other", "POST"))
    assert call("[method]outgoing-request.method", request) == ("post", None)
    for name, good, bad in (
        ("path-with-query", ["/a?b=c%20d&e=~", None, ""], ["/a b", "/a\r\nb", "/\0", "/é", "/#f"]),
        (
            "authority",
            ["a", "a.b:80", "[::1]:80", "127.0.0.1", None],
            ["", "a b", "u@a", "a:b", "a:99999", "a/b", "[::1"],
        ),
        ("scheme", [("HTTP", None), ("HTTPS", None), ("other", "gopher"), None], [("other", ""), ("other", "a b")]),
    ):
        for value in good:
            call(f"[method]outgoing-request.set-{name}", request, value)
            assert call(f"[method]outgoing-request.{name}", request) == value
        for value in bad:
            assert refusal(f"[method]outgoing-request.set-{name}", request, value) is None
    assert refusal("[method]outgoing-request.set-method", request, ("other", "A B")) is None


@pytest.mark.parametrize("lengths", [[b"1", b"2"], [b"x"], [b"-1"], [b"9" * 19]])
def test_refuses_a_body_of_no_single_length(lengths):
    request = OutgoingRequest(FakeKeep(), Fields([(b"content-length", value) for value in lengths]))
    assert refusal("[method]outgoing-request.body", request) is None


def test_a_body_is_given_once():
    response = call("[constructor]outgoing-response", Fields([(b"content-length", b"3")]))
    assert call("[method]outgoing-response.body", response).outlet.declared == 3
    assert refusal("[method]outgoing-response.body", response) is None


@pytest.mark.parametrize(("status", "is_taken"), [(199, False), (200, True), (999, True), (1000, False)])
def test_a_response_has_a_final_status(status, is_taken):
    response = call("[constructor]outgoing-response", Fields([]))
    if is_taken:
        call("[method]outgoing-response.set-status-code", response, status)
        assert call("[method]outgoing-response.status-code", response) == status
    else:
        assert refusal("[method]outgoing-response.set-status-code", response, status) is None


def test_options_are_what_they_were_set_to():
    options = call("[constructor]request-options")
    for name in ("connect-timeout", "first-byte-timeout", "between-bytes-timeout"):
        assert call(f"[method]request-options.{name}", options) is None
        call(f"[method]request-options.set-{name}", options, 5)
        assert call(f"[method]request-options.{name}", options) == 5


def test_an_error_of_a_stream_tells_its_code_again():
    assert call("http-error-code", IoError("x", ("connection-terminated", None))) == ("connection-terminated", None)
    assert call("http-error-code", IoError("x", OSError(5, "x"))) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("a", ("a", None)), ("a:1", ("a", 1)), ("[::1]:80", ("[::1]", 80)), ("a:", ("a", None))]
)
def test_splits_an_authority(text, expected):
    assert split_authority(text) == expected
