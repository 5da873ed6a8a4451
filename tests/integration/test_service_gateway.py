# SPDX-License-Identifier: Apache-2.0
"""The gateway of examples/services, before an upstream that is here: what is allowed reaches it, with the key, and nothing else does.

Clients trust a Steward's root, and ask for the package and its tenant by their digests; whoever is between them, the Keep and the
upstream records everything. The upstream keeps what it was asked, so each refusal also says that it was asked nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import shutil
import signal
import socket
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from enarx.deploy.naming import load_tenant_key, tenant_digest
from tests.canary import make_canary, search
from tests.integration.certificates import Authority, client, server
from tests.integration.test_deploy_canary import everything, require_nowhere
from tests.service_examples import (
    NAME,
    PEER_S,
    built,
    change,
    deployed,
    digest_of,
    keep_context,
    named,
    world,
)

TIMEOUT_S = 5
MAX_BODY_BYTES = 65536
MAX_ANSWER_BYTES = 1 << 20
LENGTHS = (1, 55, 56, 63, 64, 119, 120, 500)
"""Of tokens: where SHA-256 begins another block, and some others."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# --- The upstream --------------------------------------------------------------------------------------------------------


class Upstream(ThreadingHTTPServer):
    """An API that wants a key, and misbehaves on some paths. `asked` has the requests that reached it."""

    daemon_threads = True

    def __init__(self, shown, impostor, key):
        super().__init__((NAME, 0), Handler)
        self.key, self.asked, self.canary = key, [], make_canary()
        self.end = threading.Event()
        self.is_impostor = False
        contexts = {False: server(shown), True: server(impostor)}

        def choose(secure, _name, _context):
            secure.context = contexts[self.is_impostor]

        self._context = server(shown)
        self._context.sni_callback = choose
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def finish_request(self, request, client_address):
        # In the connection's thread, so that a handshake holds up nobody.
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def close(self):
        self.end.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        upstream = self.server
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        upstream.asked.append(
            SimpleNamespace(method=self.command, path=self.path, headers=self.headers.items(), body=body)
        )
        how = self.path.rpartition("/")[2].partition("?")[0]
        fields = {
            "Content-Type": "text/plain",
            "ETag": '"1"',
            "Set-Cookie": "a=b",
            "Server": "upstream",
            "X-Key": "none",
        }
        status, content = 200, upstream.canary.encode()
        if how == "slow":
            upstream.end.wait(PEER_S)
            return
        if how == "garbage":
            self.wfile.write(b"what is HTTP?\r\n\r\n")
            self.close_connection = True
            return
        if how == "key-in-body":
            content = b"your key is " + upstream.key.encode() + b", I think"
        elif how == "key-in-header":
            fields["Content-Type"] = f"text/{upstream.key}"
        elif how == "key-in-a-header-that-stays":
            fields["X-Key"] = upstream.key
        elif how == "encoded":
            fields["Content-Encoding"] = "gzip"
        elif how == "large":
            content = bytes(MAX_ANSWER_BYTES + 1)
        elif how == "largest":
            content = bytes(MAX_ANSWER_BYTES)
        elif how == "moved":
            status, fields["Location"] = 302, "https://elsewhere.example/"
        elif how in {"401", "404", "500"}:
            status = int(how)
        elif how == "204":
            status, content = 204, b""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content) + (how == "cut")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.close_connection = how == "cut"

    do_HEAD = do_POST = do_DELETE = do_PUT = do_GET  # noqa: N815 - of the library


@pytest.fixture(scope="module")
def built_package(tmp_path_factory):
    """The package as it was built, its keys, and tokens of clients that are there for the lengths of their tokens."""
    folder = tmp_path_factory.mktemp("gateway")
    path = built("gateway", folder)
    secrets = {name: (folder / f"gateway.{name}").read_text() for name in ("alice.token", "bob.token", "upstream-key")}
    others = {f"of-{length}": (make_canary() * 16)[:length] for length in LENGTHS}
    tokens = {"alice": secrets["alice.token"], "bob": secrets["bob.token"], **others}
    return SimpleNamespace(path=path, key=secrets["upstream-key"], tokens=tokens, others=others)


@pytest.fixture(scope="module")
def upstream(built_package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
    running = Upstream(authority.issue("upstream", NAME), stranger.issue("impostor", NAME), built_package.key)
    running.root = authority.root
    yield running
    running.close()


@pytest.fixture(scope="module")
def package(built_package, upstream):
    """The package for the upstream that is here, changed as its page says."""
    path = built_package.path
    text = (path / "Enarx.toml").read_text()
    assert text.count("api.example.com:443") == 2
    (path / "Enarx.toml").write_text(text.replace("api.example.com:443", f"{NAME}:{upstream.port}"))
    digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in built_package.others.items()}
    more = "".join(f"client {name} {digest}\nallow {name} GET /v1/status\n" for name, digest in digests.items())
    change(path, "pass accept", f"{more}\npass accept")
    change(path, "timeout 10\n", f"timeout {TIMEOUT_S}\n")
    change(path, "port = 8443", "port = 0")
    shutil.copy(upstream.root, path / "upstream.pem")
    with (path / "Enarx.toml").open("a") as file:
        file.write('\n[tls]\ntrust_anchors = ["upstream.pem"]\n')
    return SimpleNamespace(path=path, digest=digest_of(path), key=built_package.key, tokens=built_package.tokens)


# --- The gateway ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("tenant") / "tenant.pem"
    return SimpleNamespace(path=path, digest=tenant_digest(load_tenant_key(str(path))[0]))


@pytest.fixture(scope="module")
def around(enarx, guest, package, key, tmp_path_factory):
    """A host, and a Steward that grants the name to the package of this tenant: its trust anchor is given beyond the package."""
    with world(enarx, guest, tmp_path_factory.mktemp("around"), [(package.digest, key.digest, (NAME,))]) as running:
        yield running


class Gateway:
    """A gateway that runs, and its clients."""

    def __init__(self, port, context, tokens):
        self.port, self.context, self.tokens = port, context, tokens

    def ask(self, who, method, path, body=None, **fields):
        """Make one request as a client, or as nobody where that is None; return status, headers and body."""
        connection = http.client.HTTPSConnection(NAME, self.port, timeout=PEER_S, context=self.context)
        if who is not None:
            fields["authorization"] = f"Bearer {self.tokens[who]}"
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def connect(self):
        """Return a connection to say bytes on."""
        plain = socket.create_connection((NAME, self.port), PEER_S)
        return self.context.wrap_socket(plain, server_hostname=NAME)

    def say(self, content):
        """Say bytes on a connection of their own; return all that is answered."""
        with self.connect() as secure:
            secure.sendall(content)
            answer = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                while piece := secure.recv(65536):
                    answer += piece
        return answer


@pytest.fixture(scope="module")
def gateway(around, package, key):
    options = (*named(around.steward), "--tenant-key", key.path)
    with deployed(around.tenant, "gateway", package.path, *options, says=b"") as port:
        yield Gateway(port, keep_context(around.steward, package.digest, tenant=key.digest), package.tokens)


@contextlib.contextmanager
def asked_nothing(upstream):
    before = len(upstream.asked)
    yield
    assert upstream.asked[before:] == []


def error(status, words, answer):
    found, headers, body = answer
    assert (found, json.loads(body)) == (status, {"error": words})
    assert headers["content-type"] == "application/json"
    return headers


def head(method, path, *fields, host=NAME):
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", "")).encode("latin-1")


def test_what_is_allowed_reaches_the_upstream_with_the_key(gateway, upstream, package):
    body = bytes(range(256)) * (MAX_BODY_BYTES // 256)
    fields = {
        "content_type": "application/x-order",
        "accept": "text/plain",
        "cookie": "c=1",
        "x_http_method_override": "PUT",
    }
    own = {"x_gateway_client": "bob", "x_served_by": "me", "x_forwarded_for": "10.0.0.1", "accept_encoding": "gzip"}
    status, headers, content = gateway.ask("alice", "POST", "/v1/orders/7%20a/?a=b&c=%2F..%2F", body, **fields, **own)
    assert (status, content) == (200, upstream.canary.encode())
    assert headers == {"content-type": "text/plain", "etag": '"1"', "content-length": str(len(content))}
    asked = upstream.asked[-1]
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/orders/7%20a/?a=b&c=%2F..%2F", body)
    assert {name.lower(): value for name, value in asked.headers} == {
        "host": f"{NAME}:{upstream.port}",
        "authorization": f"Bearer {package.key}",
        "content-type": "application/x-order",
        "accept": "text/plain",
        "accept-encoding": "identity",
        "x-served-by": "gateway",
        "x-gateway-client": "alice",
        "content-length": str(len(body)),
        "connection": "close",
    }
    assert not [name for name, times in Counter(name.lower() for name, _ in asked.headers).items() if times > 1]


@pytest.mark.parametrize("who", ["alice", "bob", *(f"of-{length}" for length in LENGTHS)])
def test_clients_are_known_by_their_tokens(gateway, upstream, who):
    assert gateway.ask(who, "GET", "/v1/status")[0] == 200
    assert dict(upstream.asked[-1].headers)["x-gateway-client"] == who


def test_head_and_no_content_have_no_body(gateway, upstream):
    assert gateway.ask("bob", "HEAD", "/v1/status")[::2] == (200, b"")
    assert upstream.asked[-1].method == "HEAD"
    assert gateway.ask("alice", "DELETE", "/v1/orders/204")[::2] == (204, b"")
    assert upstream.asked[-1].method == "DELETE"


def test_who_has_no_token_is_refused(gateway, upstream, package):
    token = package.tokens["alice"]
    digest = hashlib.sha256(token.encode()).hexdigest()
    values = (
        *(
            f"Bearer {wrong}"
            for wrong in ("", token[:-1], token + "0", token.upper(), digest, package.key, f"{token}, x")
        ),
        *(f"{scheme}{token}" for scheme in ("", "Basic ", "Bearer", "Bearer  ", "Token ", "Bearer,")),
    )
    with asked_nothing(upstream):
        for value, path in itertools.product(values, ("/v1/status", "/nowhere", "/v1/../x")):
            headers = error(
                401,
                "want the token of a client: Authorization: Bearer TOKEN",
                gateway.ask(None, "GET", path, authorization=value),
            )
            assert headers["www-authenticate"] == "Bearer", value
        assert gateway.ask(None, "GET", "/v1/status")[0] == 401
        assert gateway.ask(None, "GET", "/v1/status", x_authorization=f"Bearer {token}")[0] == 401


@pytest.mark.parametrize(
    ("who", "method", "path", "status", "words"),
    [
        ("bob", "GET", "/v1/orders/7", 403, "no rule allows this path to this client"),
        ("bob", "POST", "/v1/orders/", 403, "no rule allows this path to this client"),
        ("alice", "GET", "/", 404, "no rule has this path"),
        ("alice", "GET", "/v1/orders", 404, "no rule has this path"),
        ("alice", "GET", "/v1/status/", 404, "no rule has this path"),
        ("alice", "GET", "/v1/status2", 404, "no rule has this path"),
        ("alice", "GET", "/V1/status", 404, "no rule has this path"),
        ("alice", "GET", "/v2/orders/7", 404, "no rule has this path"),
        ("alice", "PUT", "/v1/orders/7", 405, "no rule allows this method on this path to this client"),
        ("alice", "HEAD", "/v1/status", 405, None),
        ("bob", "POST", "/v1/status", 405, "no rule allows this method on this path to this client"),
        ("bob", "get", "/v1/status", 501, None),
        ("alice", "TRACE", "/v1/status", 405, "no rule allows this method on this path to this client"),
        ("alice", "MKCOL", "/v1/orders/7", 405, "no rule allows this method on this path to this client"),
    ],
)
def test_what_no_rule_allows_is_refused(gateway, upstream, who, method, path, status, words):
    with asked_nothing(upstream):
        answer = gateway.ask(who, method, path)
    assert answer[0] == status
    if words is not None:
        headers = error(status, words, answer)
        if status == 405:
            assert headers["allow"] == ("GET, HEAD" if who == "bob" else headers["allow"])
            assert method not in headers["allow"].split(", ")


TRICKS = (
    *("/v1/orders/../status", "/v1/orders/..", "/v1/orders/.", "/v1/orders/./7", "/v1/orders/../../admin", "/.."),
    *("/v1/orders/%2e%2e/admin", "/v1/orders/%2E./admin", "/v1/orders/.%2e", "/v1/orders/%252e%252e/admin"),
    *("//v1/orders/7", "/v1//orders/7", "/v1/orders//", "/v1/orders//7", "//evil.example/v1/orders/7"),
    *("/v1/orders%2f7", "/v1/orders/%2F..%2Fadmin", "/v1/orders/..%2fadmin", "/v1/orders/%5c..%5cadmin"),
    *("/v1/orders/..\\admin", "/v1/orders/7\\", "/v1/orders/..;/admin", "/v1/orders/7;a=b", "/v1/orders/%3b"),
    *(
        "/v1/orders/7%00",
        "/v1/orders/7%0d%0aX-A:b",
        "/v1/orders/7%7f",
        "/v1/orders/7%",
        "/v1/orders/7%2",
        "/v1/orders/%zz",
    ),
    *("/v1/orders/%37", "/v1/orders/%u002e", "/v1/orders/7%23", "/v1/orders/7%3f", "/%76%31/status", "/v1/orders/{7}"),
    *("/v1/orders/\xe9", "/v1/orders/7?a=%0a", "/v1/orders/7?a=%", "/v1/orders/7?a=<b>", "/v1/orders/" + "a" * 2100),
    *("http://evil.example/v1/orders/../x", "http://evil.example//v1/orders/7"),
)


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_could_be_read_in_two_ways_is_refused(gateway, upstream, path):
    token = f"Authorization: Bearer {gateway.tokens['alice']}"
    with asked_nothing(upstream):
        answer = gateway.say(head("GET", path, token, "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer


def test_a_target_with_a_host_of_its_own_still_goes_to_the_upstream(gateway, upstream):
    token = f"Authorization: Bearer {gateway.tokens['alice']}"
    answer = gateway.say(head("GET", "http://evil.example/v1/status", token, "Connection: close", host="evil.example"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert dict(upstream.asked[-1].headers)["host"] == f"{NAME}:{upstream.port}"
    assert upstream.asked[-1].path == "/v1/status"


HIDDEN = b"GET /v1/orders/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED = {
    "two authorizations": (("{token}", "{token}", "Connection: close"), b"", 400),
    "another authorization": (("Authorization: Bearer x", "{token}", "Connection: close"), b"", 400),
    "an empty authorization": (("{token}", "Authorization:", "Connection: close"), b"", 400),
    "length and chunked": (("{token}", "Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n" + HIDDEN, 400),
    "chunked and length": (("{token}", "Transfer-Encoding: chunked", "Content-Length: 5"), b"0\r\n\r\n" + HIDDEN, 400),
    "two lengths": (("{token}", "Content-Length: 0", "Content-Length: 44"), HIDDEN, 400),
    "a list of lengths": (("{token}", "Content-Length: 0, 0"), HIDDEN, 400),
    "a length with a sign": (("{token}", "Content-Length: +44"), HIDDEN, 400),
    "another coding": (("{token}", "Transfer-Encoding: xchunked"), b"0\r\n\r\n" + HIDDEN, 501),
    "two codings": (("{token}", "Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n" + HIDDEN, 501),
    "a space before the colon": (("{token}", "Transfer-Encoding : chunked"), b"0\r\n\r\n" + HIDDEN, 400),
    "a folded line": (("{token}", "X-A: b", " Transfer-Encoding: chunked"), HIDDEN, 400),
    "two hosts": (("{token}", "Host: evil.example"), b"", 400),
    "a line feed alone": (("{token}\nX-A: b",), b"", 400),
    "a carriage return in a value": (("{token}", "X-A: b\rX-B: c"), b"", 400),
    "a body of GET": (("{token}", f"Content-Length: {len(HIDDEN)}", "Connection: close"), HIDDEN, 400),
    "an upgrade": (("{token}", "Upgrade: h2c", "Connection: Upgrade", "Content-Length: 44"), HIDDEN, 501),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_a_message_that_could_be_read_in_two_ways_is_refused(gateway, upstream, how):
    fields, body, status = SMUGGLED[how]
    token = f"Authorization: Bearer {gateway.tokens['alice']}"
    with asked_nothing(upstream):
        answer = gateway.say(head("GET", "/v1/status", *(field.format(token=token) for field in fields)) + body)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer


def test_a_connection_header_takes_nothing_away_from_the_upstream(gateway, upstream):
    """As it would where a proxy removes all that the client names there."""
    token = f"Authorization: Bearer {gateway.tokens['alice']}"
    named_there = "Connection: close, authorization, x-gateway-client, x-served-by"
    answer = gateway.say(head("GET", "/v1/status", token, named_there, "TE: trailers", "Proxy-Authorization: x"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    names = {name.lower() for name, _ in upstream.asked[-1].headers}
    assert names >= {"authorization", "x-gateway-client", "x-served-by"}
    assert not names & {"te", "proxy-authorization"}


def test_a_body_that_is_too_large_is_refused(gateway, upstream):
    chunked = iter([bytes(MAX_BODY_BYTES), b"1"])
    with asked_nothing(upstream):
        error(413, "the body is too large", gateway.ask("alice", "POST", "/v1/orders/", bytes(MAX_BODY_BYTES + 1)))
        error(413, "the body is too large", gateway.ask("alice", "POST", "/v1/orders/", chunked))
    assert gateway.ask("alice", "POST", "/v1/orders/", iter([bytes(MAX_BODY_BYTES)]))[0] == 200
    assert upstream.asked[-1].body == bytes(MAX_BODY_BYTES)


def test_a_body_that_is_not_whole_is_not_forwarded(gateway, upstream):
    token = f"Authorization: Bearer {gateway.tokens['alice']}"
    for framing, part in (("Content-Length: 100", b"x" * 99), ("Transfer-Encoding: chunked", b"2\r\nxx\r\n2\r\nx")):
        with asked_nothing(upstream), gateway.connect() as secure:
            secure.sendall(head("POST", "/v1/orders/", token, framing) + part)
            secure.shutdown(socket.SHUT_WR)
            # Until the gateway has nothing more to do for it.
            with contextlib.suppress(ConnectionError):
                while secure.recv(65536):
                    pass


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("cut", 502, "the upstream failed"),
        ("garbage", 502, "the upstream failed"),
        ("slow", 504, "the upstream did not answer in time"),
        ("large", 502, "the upstream's answer is too large"),
        ("401", 502, "the upstream refuses the gateway"),
        ("encoded", 502, "the upstream's answer is encoded"),
        ("key-in-body", 502, "the upstream's answer has something that is not for clients"),
        ("key-in-header", 502, "the upstream's answer has something that is not for clients"),
    ],
)
def test_an_upstream_that_fails_or_says_the_key_is_told_apart_from_an_answer(gateway, package, how, status, words):
    answer = gateway.ask("alice", "GET", f"/v1/orders/{how}")
    error(status, words, answer)
    assert search(package.key, {"headers": repr(answer[1]).encode(), "body": answer[2]}) == set()


@pytest.mark.parametrize("how", ["404", "500", "moved", "largest", "key-in-a-header-that-stays"])
def test_other_answers_are_the_upstreams_own(gateway, upstream, how):
    status, headers, body = gateway.ask("alice", "GET", f"/v1/orders/{how}")
    assert status == {"404": 404, "500": 500, "moved": 302}.get(how, 200)
    assert headers.keys() == {"content-type", "etag", "content-length"}
    assert body == (bytes(MAX_ANSWER_BYTES) if how == "largest" else upstream.canary.encode())


def test_an_upstream_that_is_another_gets_neither_request_nor_key(gateway, upstream):
    upstream.is_impostor = True
    try:
        with asked_nothing(upstream):
            error(502, "the upstream failed", gateway.ask("alice", "GET", "/v1/status"))
    finally:
        upstream.is_impostor = False
    assert gateway.ask("alice", "GET", "/v1/status")[0] == 200


def test_the_host_sees_no_token_no_key_and_nothing_that_is_said(gateway, upstream, package, around):
    canary = make_canary()
    assert gateway.ask("alice", "POST", f"/v1/orders/{canary}", canary)[0] == 200
    assert upstream.asked[-1].body == canary.encode()
    secrets = {name: token for name, token in package.tokens.items() if len(token) > 30}
    places = everything(around.between)
    assert any(name.startswith("link") for name in places)
    require_nowhere({**secrets, "key": package.key, "request": canary, "answer": upstream.canary}, places)


def test_a_stranger_cannot_pose_as_the_gateway(gateway, package, around, key):
    """The same package of another tenant might have other rules."""
    for digest, tenant in ((bytes(32), key.digest), (package.digest, bytes(48))):
        context = keep_context(around.steward, digest, tenant=tenant)
        with pytest.raises(ssl.SSLCertVerificationError):
            Gateway(gateway.port, context, package.tokens).ask("alice", "GET", "/v1/status")


# --- Its rules -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(enarx, package, *options):
    """Run the gateway on this machine, in no Keep."""
    with enarx.start(package.path, *options) as started:
        yield Gateway(started.port("web"), client(), package.tokens), started
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130


def rules_of(package):
    return (package.path / "Enarx.toml").read_text().split('"""')[1].lstrip("\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("allow bob", "allow carol", "found no such client above"),
        ("allow bob", "alow bob", "found no rule"),
        ("GET,HEAD", "GET,HED", "want methods between commas"),
        ("GET,HEAD", "GET,CONNECT", "want methods between commas"),
        ("GET,HEAD", "*", "want methods between commas"),
        ("GET,HEAD /v1/status", "GET /v1/../status", "want a path that a request could have"),
        ("GET,HEAD /v1/status", "GET v1", "want a path that a request could have"),
        ("GET,HEAD /v1/status", "GET /v1/status?a", "want a path that a request could have"),
        ("client bob ", "client bob 0", "want the SHA-256 of the client's token"),
        ("client bob ", "client alice ", "found the client's name or token before"),
        ("pass accept", "pass authorization", "found a header that is the gateway's own to say"),
        ("pass accept", "pass range", "found a header that is the gateway's own to say"),
        ("pass accept", "pass *", "want names of headers in lower case"),
        ("add x-served-by gateway", "add x-gateway-client bob", "found a header that is the gateway's own to say"),
        ("add x-served-by gateway", "add x-served-by a b", "found no rule"),
        ("max-body 65536", "", "found no max-body, want one"),
        ("max-body 65536", "max-body 99999999", "max-body: want a number from 1 to 4194304"),
        ("max-body 65536", "max-body 1\nmax-body 2", "found it twice"),
        (f"timeout {TIMEOUT_S}", "timeout 0", "timeout: want a number from 1 to 60"),
        ("upstream ", "upstream https://", "upstream: want HOST:PORT"),
        (None, "", "found no upstream, want one"),
    ],
)
def test_with_rules_that_cannot_be_read_nothing_is_forwarded(enarx, package, upstream, old, new, words):
    text = rules_of(package)
    assert old is None or old in text
    changed = "" if old is None else text.replace(old, new, 1)
    with running(enarx, package, "--env", f"RULES={changed}") as (gateway, started), asked_nothing(upstream):
        for who, method, path in (("alice", "GET", "/v1/status"), ("bob", "GET", "/v1/status"), (None, "GET", "/")):
            answer = gateway.ask(who, method, path)
            error(500, "the gateway's rules cannot be used, so nothing is forwarded", answer)
        started.until_stderr(b"gateway: cannot use the rules: .*" + words.encode())


@pytest.mark.parametrize("key", ["", "short", "sixteen letters and spaces", "0123456789abcde\u00e9"])
def test_without_a_key_nothing_is_forwarded(enarx, package, upstream, key):
    with running(enarx, package, "--env", f"UPSTREAM_KEY={key}") as (gateway, started), asked_nothing(upstream):
        assert gateway.ask("alice", "GET", "/v1/status")[0] == 500
        started.until_stderr(b"gateway: cannot use the rules: UPSTREAM_KEY: want 16 or more visible ASCII characters")


def test_whatever_the_rules_say_the_keep_reaches_the_upstream_alone(enarx, package, upstream):
    with socket.create_server((NAME, 0)) as elsewhere:
        elsewhere.setblocking(False)
        other = f"{NAME}:{elsewhere.getsockname()[1]}"
        changed = rules_of(package).replace(f"{NAME}:{upstream.port}", other)
        with running(enarx, package, "--env", f"RULES={changed}") as (gateway, _), asked_nothing(upstream):
            error(502, "the upstream failed", gateway.ask("alice", "GET", "/v1/status"))
            with pytest.raises(BlockingIOError):
                elsewhere.accept()


def test_an_upstream_that_is_not_there_is_502(enarx, package, upstream, tmp_path):
    with socket.create_server((NAME, 0)) as taken:
        nobody = f"{NAME}:{taken.getsockname()[1]}"
    folder = tmp_path / "gateway"
    shutil.copytree(package.path, folder)
    text = (folder / "Enarx.toml").read_text()
    (folder / "Enarx.toml").write_text(text.replace(f"{NAME}:{upstream.port}", nobody))
    elsewhere = SimpleNamespace(path=folder, tokens=package.tokens)
    with running(enarx, elsewhere) as (gateway, _):
        error(502, "the upstream failed", gateway.ask("alice", "GET", "/v1/status"))
