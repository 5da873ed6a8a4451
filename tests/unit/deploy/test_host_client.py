# SPDX-License-Identifier: Apache-2.0
"""Asking hosts that answer well, badly, too much, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.deploy import host_client as module
from enarx.deploy.host_client import HostClient, HostPort, clean, parse_address
from enarx.deploy.sealing import seal_blobs
from enarx.errors import EnarxError, KeepError, PlatformError, TransportError, UsageError
from enarx.image.measure import LaunchParts

KEEP = {
    "id": "0123456789abcdef",
    "backend": "nil",
    "state": "ready",
    "created": "2026-06-01T00:00:00Z",
    "memory-bytes": 1024,
    "ports": [{"name": "web", "port": 80}],
}


class Server:
    """Answers each request with what `respond(method, path, headers, body)` returns, or breaks off where that is None."""

    def __init__(self, respond):
        self.respond = respond
        self.requests = []
        self.tasks = set()
        self.url = ""

    async def work(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.decode().split(" ", 2)
                headers = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): (.*?)\r$", head.decode())}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((method, path, headers, body))
                answer = self.respond(method, path, headers, body)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if not answer.startswith(b"HTTP"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            # Whoever asked has gone.
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def answer(status, value=None, headers=""):
    body = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def serving(respond):
    server = Server(respond)
    listening = await asyncio.start_server(server.work, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        # Whoever asked has closed its end.
        await asyncio.gather(*server.tasks)


def asking(respond, use, **options):
    async def run():
        async with (
            asyncio.timeout(20),
            serving(respond) as server,
            HostClient(parse_address(server.url), **options) as host,
        ):
            return await use(host), server

    return asyncio.run(run())


def error_of(respond, use=lambda host: host.list_keeps(), **options):
    with pytest.raises(EnarxError) as error:
        asking(respond, use, **options)
    return error.value


# --- Addresses and tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://keeps.example", "https://keeps.example:8470"),
        ("https://keeps.example:1/x/", "https://keeps.example:1/x"),
        ("http://[::1]:2", "http://[::1]:2"),
        ("keeps.example:3", "https://keeps.example:3"),
        ("localhost:4", "http://localhost:4"),
        ("127.0.0.1", "http://127.0.0.1:8470"),
    ],
)
def test_reads_addresses(text, url):
    assert parse_address(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://x",
        "http://",
        "http://a:b@c",
        "http://x?y",
        "http://x#y",
        "http://x:0",
        "http://x:99999",
        "a b",
        "http://x\n",
    ],
)
def test_refuses_what_is_no_address(text):
    with pytest.raises(UsageError):
        parse_address(text)


@given(text=st.text(max_size=40))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_is_an_address_or_refused(text):
    try:
        parse_address(text)
    except UsageError:
        return


def test_a_token_goes_to_this_machine_or_over_tls_only():
    HostClient(parse_address("http://127.0.0.1:1"), token="t")
    HostClient(parse_address("https://keeps.example"), token="t")
    with pytest.raises(UsageError, match="cannot send the token") as refused:
        HostClient(parse_address("http://keeps.example"), token="not-told")
    assert "not-told" not in str(refused.value)
    with pytest.raises(UsageError, match="printable ASCII"):
        HostClient(parse_address("http://127.0.0.1:1"), token="a\r\nX: y")


def test_certificates_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UsageError, match="http://"):
        HostClient(parse_address("http://x"), ca_file="x")
    with pytest.raises(UsageError, match="no-such"):
        HostClient(parse_address("https://x"), certificate=str(tmp_path / "no-such"))


# --- Questions and answers ---------------------------------------------------------------------------------------------


def test_asks_for_a_keep_with_nothing_but_what_a_host_may_know():
    made, server = asking(
        lambda *_: answer(201, KEEP),
        lambda host: host.create_keep(backend="nil", memory_bytes=1024, ports=[HostPort(name="web", port=0)]),
        token="secret",
    )
    assert (made.id, made.ports) == ("0123456789abcdef", (HostPort(name="web", port=80),))
    ((method, path, headers, body),) = server.requests
    assert (method, path) == ("POST", "/v1/keeps")
    assert json.loads(body) == {"backend": "nil", "memory-bytes": 1024, "ports": [{"name": "web", "port": 0}]}
    assert headers["authorization"] == "Bearer secret"
    assert headers["user-agent"] == "enarx"


def test_lists_keeps_without_control_characters():
    keeps, _ = asking(lambda *_: answer(200, {"keeps": [{**KEEP, "state": "re\x1b[2Jady"}]}), HostClient.list_keeps)
    assert keeps[0].state == "re\N{REPLACEMENT CHARACTER}[2Jady"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("UsageError", UsageError),
        ("PlatformError", PlatformError),
        ("KeepError", KeepError),
        ("VerificationError", TransportError),
    ],
)
def test_a_refusal_is_told_in_the_hosts_words_and_never_as_a_verdict(name, kind):
    error = error_of(lambda *_: answer(400, {"error": {"class": name, "message": "f\x07ull", "hint": "wait"}}))
    assert type(error) is kind
    assert "says: f\N{REPLACEMENT CHARACTER}ull" in str(error)
    assert error.hint == "wait"


def test_reads_why_a_keep_ended_and_the_key_of_its_tpm():
    said = {"class": "KeepError", "message": "killed\x1b[2K", "hint": "start \nanother"}
    listed = [{**KEEP, "reason": said, "vtpm-key-sha256": "ab" * 32}, {**KEEP, "reason": None, "vtpm-key-sha256": None}]
    (first, second), _ = asking(lambda *_: answer(200, {"keeps": listed}), lambda host: host.list_keeps())
    assert first.reason == ("KeepError", "killed\N{REPLACEMENT CHARACTER}[2K", "start \N{REPLACEMENT CHARACTER}another")
    assert first.vtpm_key_sha256 == "ab" * 32
    assert (second.reason, second.vtpm_key_sha256) == (None, None)


def test_a_token_that_is_not_accepted_is_said_so():
    error = error_of(lambda *_: answer(401, {"error": {"class": "UsageError", "message": "no token"}}))
    assert "ENARX_HOST_TOKEN" in error.hint


@pytest.mark.parametrize(
    "respond",
    [
        lambda *_: answer(404, b"<html>"),
        lambda *_: answer(200, b"<html>"),
        lambda *_: answer(200, {"keeps": 5}),
        lambda *_: answer(200, [{**KEEP, "id": "../../x"}]),
        lambda *_: answer(200, [{**KEEP, "memory-bytes": True}]),
        lambda *_: answer(200, [{**KEEP, "ports": [{"name": "x", "port": 70000}]}]),
        lambda *_: answer(200, [{**KEEP, "backend": None}]),
        lambda *_: answer(200, {"keeps": [{**KEEP, "reason": "none"}]}),
        lambda *_: answer(200, {"keeps": [{**KEEP, "reason": {"class": "KeepError", "message": 5}}]}),
        lambda *_: answer(200, {"keeps": [{**KEEP, "vtpm-key-sha256": "00"}]}),
        lambda *_: answer(500, {"error": "x"}),
        lambda *_: answer(302, b"", "Location: http://127.0.0.1:1/\r\n"),
        lambda *_: b"SSH-2.0-x\r\n",
        lambda *_: None,
    ],
)
def test_what_is_no_answer_of_an_enarx_host_is_a_transport_error(respond):
    error = error_of(respond)
    assert type(error) is TransportError
    assert error.hint
    assert "\n" not in str(error)


def test_an_answer_has_a_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100)
    assert type(error_of(lambda *_: answer(200, b" " * 101))) is TransportError


def test_an_answer_has_a_time_limit(monkeypatch):
    async def use():
        async with asyncio.timeout(10):
            silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
            url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
            async with HostClient(parse_address(url)) as host:
                with pytest.raises(TransportError, match="no answer in 0 s"):
                    await host._ask("GET", "/v1/keeps", timeout_s=0.05)
            silent.close()
            for writer in writers:
                writer.close()
                await writer.wait_closed()

    writers = []
    asyncio.run(use())


def test_nobody_there_is_said_so():
    async def use():
        gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        await gone.wait_closed()
        async with HostClient(parse_address(f"http://127.0.0.1:{port}")) as host:
            with pytest.raises(TransportError, match="connection refused"):
                await host.list_keeps()

    asyncio.run(use())


PARTS = {"firmware": "ab" * 48, "kernel": "01" * 32, "initramfs": "02" * 32, "cmdline": "03" * 32}


def test_asks_what_a_machine_was_started_with():
    parts, server = asking(lambda *_: answer(200, PARTS), lambda host: host.show_parts("0123456789abcdef"))
    assert parts == LaunchParts(b"\xab" * 48, b"\1" * 32, b"\2" * 32, b"\3" * 32)
    assert server.requests[0][:2] == ("GET", "/v1/keeps/0123456789abcdef/parts")


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        PARTS | {"firmware": "ab" * 32},
        PARTS | {"kernel": "AB" * 32},
        PARTS | {"initramfs": 7},
        PARTS | {"cmdline": "\u0660" * 64},
    ],
)
def test_parts_that_are_no_digests_are_refused(said):
    error = error_of(lambda *_: answer(200, said), lambda host: host.show_parts("0123456789abcdef"))
    assert type(error) is TransportError
    assert "want an object" in str(error) or "hexadecimal digits" in str(error)


def test_an_id_cannot_become_another_path():
    error = error_of(lambda *_: answer(200, KEEP), lambda host: host.show_keep("../x"))
    assert type(error) is UsageError


def test_cleans_and_cuts_what_a_host_says():
    assert clean("a\x1b\x9bb") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"
    assert clean("x" * 30, 10) == "x" * 10 + "\N{HORIZONTAL ELLIPSIS}"


# --- Uploads -----------------------------------------------------------------------------------------------------------


class Store:
    """A host's store of one blob, which breaks off or takes less where a test says so."""

    def __init__(self, *, cuts=(), start=0):
        self.data = b""
        self.cuts = list(cuts)
        self.data = bytes(start)

    def __call__(self, method, path, headers, body):
        if method == "HEAD":
            return answer(204, headers=f"Upload-Offset: {len(self.data)}\r\n").replace(b"Content-Length: 0\r\n", b"")
        if int(headers["upload-offset"]) != len(self.data):
            return answer(409, b"", f"Upload-Offset: {len(self.data)}\r\n")
        if self.cuts:
            self.data += body[: self.cuts.pop()]
            return None
        self.data += body
        return answer(204, headers=f"Upload-Offset: {len(self.data)}\r\n").replace(b"Content-Length: 0\r\n", b"")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.0)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_uploads_all_of_a_blob(size):
    blob = seal_blobs({"files": bytes(size)})["files"]
    store = Store()
    asking(store, lambda host: host.upload("k", blob))
    assert store.data == b"".join(blob.segments)


def test_goes_on_where_it_stopped(quick):
    blob = seal_blobs({"files": bytes(3_000_000)})["files"]
    store = Store(cuts=[1_000_000, 70_000, 1])
    asking(store, lambda host: host.upload("k", blob))
    assert store.data == b"".join(blob.segments)


def test_believes_the_offset_of_a_host_that_has_some_already(quick):
    blob = seal_blobs({"files": bytes(200_000)})["files"]
    store = Store()
    store.data = b"".join(blob.segments)[:1234]
    asking(store, lambda host: host.upload("k", blob))
    assert store.data == b"".join(blob.segments)


def test_gives_up_where_nothing_gets_on(quick):
    blob = seal_blobs({"files": bytes(1000)})["files"]
    error = error_of(lambda *_: None, lambda host: host.upload("k", blob))
    assert type(error) is TransportError
    assert "without getting on" in str(error)


def test_gives_up_on_a_host_that_always_wants_another_offset(quick):
    blob = seal_blobs({"files": bytes(1000)})["files"]
    asked = []

    def respond(method, path, headers, body):
        asked.append(headers["upload-offset"])
        return answer(409, b"", f"Upload-Offset: {1 - int(headers['upload-offset'])}\r\n")

    error = error_of(respond, lambda host: host.upload("k", blob))
    assert type(error) is TransportError
    assert "5 times without getting on" in str(error)
    assert len(asked) == 6


def test_gives_up_on_a_host_that_takes_it_all_and_has_nothing(quick):
    blob = seal_blobs({"files": bytes(1000)})["files"]

    def respond(method, path, headers, body):
        return answer(204, headers="Upload-Offset: 1\r\n").replace(b"Content-Length: 0\r\n", b"")

    error = error_of(respond, lambda host: host.upload("k", blob))
    assert "5 times without getting on" in str(error)


def test_a_refused_upload_is_told():
    blob = seal_blobs({"files": bytes(1000)})["files"]
    error = error_of(
        lambda *_: answer(413, {"error": {"class": "UsageError", "message": "too large"}}),
        lambda host: host.upload("k", blob),
    )
    assert "says: too large" in str(error)
