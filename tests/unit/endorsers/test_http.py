# SPDX-License-Identifier: Apache-2.0
"""The client on loopback: bounded, discreet, and choosy about whom it asks."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enarx.endorsers.http import Client, Unreachable, require_base_url
from enarx.errors import EndorsementError, UsageError
from enarx.testing.endorsers import Answer, FakeVendors, TestAuthority


def ask(vendors, path="/a", *, client=None, max_bytes=1000, timeout_s=20.0):
    return (client or Client()).get(vendors.url + path, max_bytes=max_bytes, timeout_s=timeout_s)


def test_returns_status_headers_and_body(vendors):
    vendors.serve("/a?b=01", b"body", {"X-Chain": "c"})
    reply = ask(vendors, "/a?b=01")
    assert (reply.status, reply.body, reply.headers["x-chain"]) == (200, b"body", "c")


def test_sends_nothing_about_who_asks(vendors):
    vendors.serve("/a", b"")
    ask(vendors)
    assert vendors.heads == [
        {
            "Host": vendors.url.removeprefix("http://"),
            "User-Agent": "enarx",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
    ]


def test_takes_no_proxy_from_the_environment(vendors, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    vendors.serve("/a", b"x")
    assert ask(vendors).body == b"x"


def test_asks_the_proxy_that_it_is_given(vendors):
    vendors.serve("http://vendor.invalid/a", b"through the proxy")
    reply = Client(proxy=vendors.url).get("http://vendor.invalid/a", max_bytes=1000, timeout_s=20.0)
    assert reply.body == b"through the proxy"


def test_never_prints_a_proxy_password():
    client = Client(proxy="http://user:secret@127.0.0.1:1")
    with pytest.raises(Unreachable) as refusal:
        client.get("http://vendor.invalid/a", max_bytes=1, timeout_s=20.0)
    assert "secret" not in str(refusal.value)
    with pytest.raises(UsageError) as refusal:
        Client(proxy="socks5://user:secret@127.0.0.1:1")
    assert "secret" not in str(refusal.value)


def test_takes_a_body_of_the_limit_and_refuses_one_more(vendors):
    vendors.serve("/a", bytes(1000))
    assert len(ask(vendors).body) == 1000
    vendors.serve("/a", bytes(1001))
    with pytest.raises(EndorsementError, match="more than 1000 bytes"):
        ask(vendors)


def test_refuses_a_compressed_body(vendors):
    vendors.serve("/a", b"x", {"Content-Encoding": "gzip"})
    with pytest.raises(EndorsementError, match="compressed"):
        ask(vendors)


def test_refuses_a_long_header(vendors):
    vendors.serve("/a", b"x", {"X-Chain": "c" * (65 << 10)})
    with pytest.raises(EndorsementError, match="header"):
        ask(vendors)


def test_follows_a_redirect_on_the_same_server(vendors):
    vendors.serve("/a", b"", {"Location": "/b"}, status=302)
    vendors.serve("/b", b"here")
    assert ask(vendors).body == b"here"


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/b", "https://elsewhere.invalid/", "//elsewhere.invalid/b", "http://[", ""]
)
def test_refuses_a_redirect_to_another_server(vendors, target):
    vendors.serve("/a", b"", {"Location": target}, status=302)
    with pytest.raises(EndorsementError, match="redirect to another server"):
        ask(vendors)


def test_refuses_redirects_in_a_circle(vendors):
    vendors.serve("/a", b"", {"Location": "/a"}, status=301)
    with pytest.raises(EndorsementError, match="more than 3 redirects"):
        ask(vendors)
    assert len(vendors.asked) == 4


def test_an_answer_that_breaks_off_is_no_answer(vendors):
    vendors.serve_first("/a", Answer(body=bytes(100), cut=True))
    with pytest.raises(Unreachable):
        ask(vendors)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\x00", b"220 smtp.example\r\n", HEAD, HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 1e3\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", HEAD + b"X: " + bytes(200_000), HEAD + b"A: b\r\n" * 50_000,
        b"HTTP/x 200 OK\r\n\r\n", b"HTTP/1.1 99999 OK\r\n\r\n", b"HTTP/1.1 -1 OK\r\n\r\n", HEAD + b"\xff: \xff\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" * 3, b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    ],
)  # fmt: skip
def test_what_is_not_http_is_no_answer(vendors, raw):
    vendors.serve_first("/a", Answer(raw=raw))
    with pytest.raises(EndorsementError):
        ask(vendors)


@given(raw=st.binary(max_size=200), head=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_answer_or_none(vendors, raw, head):
    vendors.serve_first("/a", Answer(raw=HEAD + raw if head else raw))
    try:
        body = ask(vendors).body
    except EndorsementError:
        body = b""
    assert len(body) <= len(raw)


def test_no_time_is_no_answer(vendors):
    with pytest.raises(Unreachable, match="no time left"):
        ask(vendors, timeout_s=0.0)
    assert vendors.asked == []


def test_a_server_that_is_not_there_is_no_answer():
    with pytest.raises(Unreachable, match="ConnectError"):
        Client().get("http://127.0.0.1:1/a", max_bytes=1, timeout_s=20.0)


def test_the_time_limit_holds_against_a_server_that_drips(vendors):
    vendors.serve_first("/a", Answer(drip_s=0.01))
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no whole answer"):
        ask(vendors, timeout_s=0.3)
    assert time.monotonic() - began < 5


def test_the_time_limit_holds_against_a_server_that_says_nothing(vendors):
    vendors.gate.clear()
    with pytest.raises(Unreachable):
        ask(vendors, timeout_s=0.3)


@pytest.fixture(scope="module")
def authority():
    return TestAuthority()


class TestTls:
    @pytest.fixture
    def secure(self, authority):
        with FakeVendors(authority) as running:
            running.serve("/a", b"secure")
            yield running

    def test_trusts_the_authority_of_a_mirror(self, secure, authority, tmp_path):
        path = tmp_path / "ca.pem"
        path.write_bytes(authority.pem)
        assert ask(secure, client=Client(ca_file=str(path))).body == b"secure"

    def test_refuses_an_authority_that_certifi_does_not_have(self, secure):
        with pytest.raises(Unreachable, match="ConnectError"):
            ask(secure)
        assert secure.asked == []

    def test_refuses_a_certificate_for_another_name(self, secure, authority, tmp_path):
        path = tmp_path / "ca.pem"
        path.write_bytes(authority.pem)
        with pytest.raises(Unreachable):
            Client(ca_file=str(path)).get(secure.url.replace("127.0.0.1", "localhost") + "/a", max_bytes=9, timeout_s=9)
        assert secure.asked == []

    @pytest.mark.parametrize("content", [None, b"no certificate"])
    def test_refuses_a_file_without_authorities(self, secure, tmp_path, content):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"ca\.pem"):
            ask(secure, client=Client(ca_file=str(path)))


@pytest.mark.parametrize(
    "url",
    [
        "https://kds.example",
        "https://kds.example:8443/amd",
        "http://127.0.0.1:8081",
        "http://localhost",
        "http://[::1]:1",
    ],
)
def test_accepts_a_base_url(url):
    assert require_base_url(url + "/", "AMD KDS") == url


@pytest.mark.parametrize(
    "url",
    [
        "", "kds.example", "http://kds.example", "ftp://kds.example", "https://", "https://user:secret@kds.example",
        "https://kds.example/?a=b", "https://kds.example/#a", "https://kds.example:99999", "https://kds.example:0",
        "https://kds example", "https://kds.example/\n", "https://[", "https://kds.éxample",
    ],
)  # fmt: skip
def test_refuses_what_is_no_base_url(url):
    with pytest.raises(UsageError) as refusal:
        require_base_url(url, "AMD KDS")
    assert "secret" not in str(refusal.value)
