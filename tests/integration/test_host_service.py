# SPDX-License-Identifier: Apache-2.0
"""The host service as a process of its own on loopback, with Keeps that are stubs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.hosting import (
    STUB,
    TOP,
    WAIT_S,
    HostProcess,
    connect_to,
    create,
    end_keeps,
    keep_pids,
    read_line,
    request,
    session,
    tell,
)
from tests.integration.certificates import Authority

TOKEN = "a-token-that-must-not-be-told"
OTHER = "the-token-of-somebody-else"


@pytest.fixture
def state(tmp_path):
    # Longer than the path of a socket may be.
    folder = tmp_path / ("s" * 120)
    yield folder
    end_keeps(folder)


@pytest.fixture
def host(state):
    with HostProcess(state) as running:
        yield running


def tenants_file(tmp_path, text=""):
    path = tmp_path / "tenants.toml"
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in (TOKEN, OTHER)]
    path.write_text(
        f'[[tenants]]\nname = "one"\ntoken_sha256 = "{digests[0]}"\n{text}\n'
        f'[[tenants]]\nname = "two"\ntoken_sha256 = "{digests[1]}"\n'
    )
    path.chmod(0o600)
    return str(path)


def told(answer):
    """Return status, class and message of a refusal."""
    status, _, body = answer
    return status, body["error"]["class"], body["error"]["message"]


def wait_until_gone(pids):
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(WAIT_S * 1000)
        os.close(pidfd)


# --- Keeps


def test_a_keep_is_made_shown_listed_and_ended(host):
    status, headers, keep = create(host.url, memory=64 << 20)
    assert status == 201
    assert headers["location"] == f"/v1/keeps/{keep['id']}"
    assert (keep["state"], keep["backend"], keep["memory-bytes"], keep["ports"]) == ("ready", "nil", 64 << 20, [])
    assert request(host.url, path=f"/v1/keeps/{keep['id']}")[2] == keep
    assert request(host.url)[2] == {"keeps": [keep]}
    (pid,) = keep_pids(host.state)
    status, _, ended = request(host.url, "DELETE", f"/v1/keeps/{keep['id']}")
    assert (status, ended["state"]) == (200, "ended")
    wait_until_gone([pid])
    assert not os.listdir(host.state / "keeps")
    assert request(host.url)[2] == {"keeps": [ended]}


def test_a_keep_gets_its_limits_and_nothing_of_the_host(state):
    with HostProcess(state, "--keep-cpus", "1", "--max-package", "1 MiB", "--keep-log", "512 KiB") as host:
        keep = create(host.url, memory=64 << 20)[2]
        facts = json.loads(tell(host.url, keep["id"], {"do": "limits"}))
    assert facts["argv"][1:] == [
        *("--backend", "nil", "--memory", str(64 << 20), "--package-limit", str(1 << 20)),
        *("--log", str(512 << 10), "--link-fd", "3"),
    ]
    assert (facts["RLIMIT_CORE"], facts["RLIMIT_NOFILE"], facts["cpus"]) == (0, 8192, 1)
    assert facts["RLIMIT_DATA"] == (64 << 20) + (1 << 30)
    assert facts["RLIMIT_FSIZE"] == (64 << 20) + (1 << 20)
    assert facts["session"]
    assert set(facts["environment"]) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR"}
    assert all(name.endswith("/console") for name in facts["files"])


def test_the_end_of_a_keep_is_seen_at_once(host):
    keep = create(host.url)[2]
    (pid,) = keep_pids(host.state)
    os.kill(pid, signal.SIGKILL)
    host.wait_for("keep-ended")
    assert request(host.url, path=f"/v1/keeps/{keep['id']}")[2]["state"] == "ended"
    status, _, _ = request(host.url, "HEAD", f"/v1/keeps/{keep['id']}/blobs/{'0' * 64}")
    assert status == 410


def test_why_a_keep_ended_is_told_and_remembered_by_the_next_host(state):
    with HostProcess(state) as host:
        killed, stopped = (create(host.url)[2]["id"] for _ in range(2))
        request(host.url, "DELETE", f"/v1/keeps/{stopped}")
        (pid,) = keep_pids(state)
        os.kill(pid, signal.SIGKILL)
        host.wait_for(f"keep-ended keep={killed}")
        told = {keep["id"]: keep["reason"] for keep in request(host.url)[2]["keeps"]}
        page = request(host.url, path="/")[2].decode()
    message = "the Keep ended: its process: found it killed by signal 9, want it to run"
    assert told == {killed: {"class": "KeepError", "message": message, "hint": None}, stopped: None}
    assert page.count(message) == 1
    with HostProcess(state) as host:
        assert {keep["id"]: keep["reason"] for keep in request(host.url)[2]["keeps"]} == told
        assert request(host.url, "HEAD", f"/v1/keeps/{killed}/blobs/{'0' * 64}")[0] == 410


def test_a_keep_that_ends_as_it_starts_is_an_error(host):
    status, kind, message = told(create(host.url, memory=111 << 20))
    assert (status, kind) == (410, "KeepError")
    assert "cannot reach the Keep" in message
    host.wait_for("keep-ended")
    assert request(host.url)[2]["keeps"][0]["state"] == "ended"


def test_many_keeps_at_once_are_each_their_own(host):
    with ThreadPoolExecutor(8) as threads:
        made = [body for _, _, body in threads.map(lambda _: create(host.url, ports=[("echo", 0)]), range(8))]
    assert len({keep["id"] for keep in made}) == 8
    assert {keep["state"] for keep in made} == {"ready"}
    for keep in made:
        with connect_to(keep["ports"][0]["port"]) as peer:
            assert read_line(peer) == b"echo\n"


def test_a_port_may_have_any_name_that_can_be_printed(host):
    name = "\u00e9" * 127
    keep = create(host.url, ports=[(name, 0)])[2]
    with connect_to(keep["ports"][0]["port"]) as peer:
        assert read_line(peer) == name.encode() + b"\n"


@pytest.mark.parametrize(("do", "status"), [("tidy", 7), ("stay", -signal.SIGKILL)])
def test_a_keep_may_tidy_up_and_has_to_end(host, do, status):
    keep = create(host.url)[2]["id"]
    tell(host.url, keep, {"do": do})
    assert request(host.url, "DELETE", f"/v1/keeps/{keep}")[2]["state"] == "ended"
    assert f"status={int(status)}" in host.wait_for("keep-ended")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"backend": "nil"}, "memory-bytes"),
        ({"backend": "nil", "memory-bytes": 1}, "memory-bytes"),
        ({"backend": "nil", "memory-bytes": "64"}, "memory-bytes"),
        ({"backend": "xen", "memory-bytes": 1 << 20}, "backend"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "package": "x"}, "package"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "", "port": 0}]}, "ports.0.name"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "a\u202eb", "port": 0}]}, "ports.0.name"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "\u00e9" * 128, "port": 0}]}, "ports.0.name"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "a", "port": 0}] * 2}, "twice"),
        ({"backend": "nil", "memory-bytes": 1 << 20, "ports": [{"name": "a", "port": 22}]}, "22"),
        ([], "body"),
    ],
)
def test_refuses_a_request_that_is_none(host, body, what):
    status, kind, message = told(request(host.url, "POST", body=body))
    assert (status, kind) == (400, "UsageError")
    assert what in message


def test_refuses_a_backend_without_a_launcher(host):
    status, kind, _ = told(request(host.url, "POST", body={"backend": "snp", "memory-bytes": 1 << 20}))
    assert (status, kind) == (503, "PlatformError")


def test_refuses_bodies_that_are_too_large_or_of_another_type(host):
    json_type = {"Content-Type": "application/json"}
    assert told(request(host.url, "POST", content=b" " * (65 << 10), headers=json_type))[0] == 413
    assert told(request(host.url, "POST", content=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
    assert told(request(host.url, "POST", content=b'{"a":1,"a":1}', headers=json_type))[:2] == (400, "UsageError")


def test_unknown_paths_and_methods_are_errors_of_ours(host):
    assert told(request(host.url, path="/v2"))[:2] == (404, "UsageError")
    assert told(request(host.url, "PUT"))[:2] == (405, "UsageError")
    assert told(request(host.url, path="/v1/keeps/0123456789abcdef"))[:2] == (404, "UsageError")


def test_headers_have_a_limit(host):
    with connect_to(host.port) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.sendall(b"x" * (64 << 20))
    assert request(host.url, path="/healthz")[0] == 200


def test_a_process_has_no_parts_of_a_machine(host):
    keep = create(host.url)[2]["id"]
    answer = request(host.url, path=f"/v1/keeps/{keep}/parts")
    assert told(answer)[:2] == (503, "PlatformError")
    assert "found a process, want a machine" in str(answer[2])


# --- Who may


def test_strangers_are_refused_everywhere(tmp_path, state):
    with HostProcess(state, "--tenants", tenants_file(tmp_path)) as host:
        keep = create(host.url, token=TOKEN)[2]["id"]
        digest = "0" * 64
        for token in (None, "", "wrong", TOKEN + "x", TOKEN[:-1]):
            assert told(create(host.url, token=token))[:2] == (401, "UsageError")
            for method, path in (("GET", ""), ("GET", f"/{keep}"), ("GET", f"/{keep}/parts"), ("DELETE", f"/{keep}")):
                assert request(host.url, method, "/v1/keeps" + path, token=token)[0] == 401
            assert request(host.url, "PATCH", f"/v1/keeps/{keep}/blobs/{digest}", token=token)[0] == 401
            with pytest.raises(InvalidStatus) as refused:
                tell(host.url, keep, {"do": "echo"}, token=token)
            assert refused.value.response.status_code == 401
        # Another tenant's Keep is one that is not there.
        for method, path in (("GET", ""), ("GET", "/parts"), ("DELETE", ""), ("HEAD", f"/blobs/{digest}")):
            assert request(host.url, method, f"/v1/keeps/{keep}{path}", token=OTHER)[0] == 404
        with pytest.raises(InvalidStatus) as refused:
            tell(host.url, keep, {"do": "echo"}, token=OTHER)
        assert refused.value.response.status_code == 404
        assert request(host.url, token=OTHER)[2] == {"keeps": []}
        assert request(host.url, path="/healthz")[0] == 200
        assert not any(TOKEN in line or OTHER in line for line in host.lines)
        stored = b"".join(path.read_bytes() for path in host.state.rglob("*") if path.is_file())
        assert TOKEN.encode() not in stored


def test_a_tenant_has_quotas(tmp_path, state):
    # Each Keep takes its memory and room for its package: 32 MiB where the memory is at most 64.
    text = 'max_keeps = 2\nmax_memory = "160 MiB"\nmax_disk = "1 KiB"'
    with HostProcess(state, "--tenants", tenants_file(tmp_path, text)) as host:
        keep = create(host.url, token=TOKEN, memory=64 << 20)[2]["id"]
        assert told(create(host.url, token=TOKEN, memory=33 << 20))[:2] == (429, "UsageError")
        assert create(host.url, token=TOKEN, memory=32 << 20)[0] == 201
        assert told(create(host.url, token=TOKEN, memory=1 << 20))[:2] == (429, "UsageError")
        assert create(host.url, token=OTHER, memory=64 << 20)[0] == 201
        blob = f"/v1/keeps/{keep}/blobs/"
        headers = {"Upload-Offset": "0", "Upload-Length": "1000"}
        assert request(host.url, "PATCH", blob + "1" * 64, token=TOKEN, headers=headers, content=b"x")[0] == 204
        assert told(request(host.url, "PATCH", blob + "2" * 64, token=TOKEN, headers=headers, content=b"x"))[0] == 429
        request(host.url, "DELETE", f"/v1/keeps/{keep}", token=TOKEN)
        assert create(host.url, token=TOKEN, memory=64 << 20)[0] == 201


def test_quotas_hold_for_requests_at_the_same_moment(tmp_path, state):
    options = ("--tenants", tenants_file(tmp_path, "max_keeps = 3"))
    with HostProcess(state, *options) as host, ThreadPoolExecutor(8) as threads:
        statuses = [status for status, _, _ in threads.map(lambda _: create(host.url, token=TOKEN), range(8))]
    assert sorted(statuses) == [201] * 3 + [429] * 5


def test_the_host_has_limits_of_its_own(state):
    with HostProcess(state, "--max-keeps", "1", "--max-memory", "64 MiB", "--max-package", "1 KiB") as host:
        # There is no room for a package beside so much memory.
        assert told(create(host.url, memory=64 << 20))[:2] == (503, "PlatformError")
        keep = create(host.url, memory=1 << 20)[2]
        assert told(create(host.url, memory=1 << 20))[:2] == (503, "PlatformError")
        headers = {"Upload-Offset": "0", "Upload-Length": str(keep["blob-limit-bytes"] + 1)}
        answer = request(host.url, "PATCH", f"/v1/keeps/{keep['id']}/blobs/{'1' * 64}", headers=headers, content=b"x")
        assert told(answer)[:2] == (400, "UsageError")


def test_the_tenants_file_is_read_again(tmp_path, state):
    path = tenants_file(tmp_path)
    with HostProcess(state, "--tenants", path) as host:
        assert request(host.url, token="new")[0] == 401
        digest = hashlib.sha256(b"new").hexdigest()
        with open(path, "a", encoding="ascii") as file:
            file.write(f'[[tenants]]\nname = "new"\ntoken_sha256 = "{digest}"\n')
        host.signal(signal.SIGHUP)
        host.wait_for("tenants-loaded")
        assert request(host.url, token="new")[0] == 200
        with open(path, "a", encoding="ascii") as file:
            file.write("what is this")
        host.signal(signal.SIGHUP)
        host.wait_for("tenants-not-loaded")
        assert request(host.url, token="new")[0] == 200


def test_a_client_certificate_is_a_tenants(tmp_path, state):
    authority = Authority(tmp_path, "tenants")
    own, other, server = (authority.issue(name) for name in ("own", "other", "localhost"))
    tenants = tmp_path / "tenants.toml"
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(own.certificate.read_text())).hexdigest()
    tenants.write_text(f'[[tenants]]\nname = "one"\ncertificate_sha256 = "{digest}"\n')
    tenants.chmod(0o600)

    def context(who=None, *, most=None):
        made = ssl.create_default_context(cafile=authority.root)
        made.check_hostname = False
        if most is not None:
            made.maximum_version = most
        if who:
            made.load_cert_chain(who.certificate, who.key)
        return made

    options = ("--tls-certificate", server.certificate, "--tls-key", server.key, "--client-ca", authority.root)
    with HostProcess(state, "--tenants", str(tenants), *options) as host:
        assert host.url.startswith("https://")
        status, _, keep = create(host.url, verify=context(own))
        assert status == 201
        assert request(host.url, verify=context(other))[0] == 401
        assert request(host.url, verify=context())[0] == 401

        async def echo():
            async with (
                asyncio.timeout(WAIT_S),
                session(host.url, keep["id"], {"do": "echo"}, ssl=context(own)) as opened,
            ):
                await opened.send(b"through TLS")
                return await opened.recv()

        assert asyncio.run(echo()) == b"through TLS"
        with socket.create_connection(("127.0.0.1", host.port), WAIT_S) as plain, pytest.raises(ssl.SSLError):
            context(most=ssl.TLSVersion.TLSv1_2).wrap_socket(plain)


def test_no_web_page_reaches_a_host_that_asks_nobody(host):
    for headers in ({"Origin": "https://example.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.example"}):
        assert told(request(host.url, headers=headers))[0] == 403
        assert told(create(host.url, headers=headers))[0] == 403
    keep = create(host.url)[2]["id"]

    async def opened():
        async with session(host.url, keep, origin="https://example.com"):
            raise AssertionError("let in")

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(opened())
    assert refused.value.response.status_code == 403


# --- Sessions


def test_a_session_carries_bytes_of_any_cut(host):
    keep = create(host.url)[2]["id"]
    data = os.urandom(5 << 20)

    async def echo():
        async with asyncio.timeout(WAIT_S), session(host.url, keep, {"do": "echo"}) as opened:

            async def send():
                at = 0
                for size in (1, 7, 65_537, 1 << 20, 300_000, len(data)):
                    for start in range(at, min(at + size, len(data)), 1 << 20):
                        await opened.send(data[start : min(start + (1 << 20), at + size, len(data))])
                    at = min(at + size, len(data))

            sending = asyncio.create_task(send())
            received = bytearray()
            while len(received) < len(data):
                received += await opened.recv()
            await sending
            return bytes(received)

    assert asyncio.run(echo()) == data


def test_a_session_is_closed_when_its_keep_ends(host):
    keep = create(host.url)[2]["id"]

    async def ending(command):
        async with asyncio.timeout(WAIT_S), session(host.url, keep, command) as opened:
            with pytest.raises(ConnectionClosed) as closed:
                await opened.recv()
            return closed.value.rcvd.code

    assert asyncio.run(ending({"do": "break"})) == 1011
    host.wait_for("link-restored")
    assert asyncio.run(ending({"do": "exit"})) == 1011
    host.wait_for("keep-ended")


def test_text_and_large_messages_end_a_session(host):
    keep = create(host.url)[2]["id"]

    async def sending(message):
        async with asyncio.timeout(WAIT_S), session(host.url, keep, {"do": "hang"}, max_size=None) as opened:
            await opened.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                await opened.recv()
            return closed.value.rcvd.code

    assert asyncio.run(sending("text")) == 1003
    assert asyncio.run(sending(bytes((1 << 20) + 1))) == 1009


def test_a_keep_that_reads_nothing_stops_whoever_sends(host):
    """What waits is bounded: by the link's window, and by a few messages."""
    keep = create(host.url)[2]["id"]

    async def sending():
        sent = 0
        async with session(host.url, keep, {"do": "hang"}, write_limit=1, close_timeout=0.1) as opened:
            try:
                while sent < 256 << 20:
                    async with asyncio.timeout(1):
                        await opened.send(bytes(1 << 20))
                    sent += 1 << 20
            except TimeoutError:
                opened.transport.abort()
        return sent

    assert asyncio.run(sending()) < 64 << 20


def test_a_session_needs_our_subprotocol(host):
    keep = create(host.url)[2]["id"]

    async def opened():
        async with session(host.url, keep, subprotocols=["other"]):
            raise AssertionError("let in")

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(opened())
    assert refused.value.response.status_code == 400


# --- Blobs


def patch(url, keep, digest, data, *, offset=0, length=None):
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(data) if length is None else length)}
    return request(url, "PATCH", f"/v1/keeps/{keep}/blobs/{digest}", headers=headers, content=data)


def head(url, keep, digest):
    headers = request(url, "HEAD", f"/v1/keeps/{keep}/blobs/{digest}")[1]
    return int(headers["upload-offset"])


def test_a_blob_is_given_to_the_keep_whenever_it_asks(host):
    keep = create(host.url)[2]["id"]
    data = os.urandom((3 << 20) + 5)
    digest = hashlib.sha256(data).hexdigest()
    assert head(host.url, keep, digest) == 0
    with ThreadPoolExecutor(1) as threads:
        before = threads.submit(tell, host.url, keep, {"do": "blob", "digest": digest})
        status, headers, _ = patch(host.url, keep, digest, data)
        assert (status, headers["upload-offset"]) == (204, str(len(data)))
        assert json.loads(before.result(WAIT_S)) == [digest, len(data)]
    assert json.loads(tell(host.url, keep, {"do": "blob", "digest": digest})) == [digest, len(data)]
    assert head(host.url, keep, digest) == len(data)


def test_an_upload_goes_on_where_it_stopped_also_after_the_host_was_killed(state):
    data = os.urandom(1 << 20)
    digest = hashlib.sha256(data).hexdigest()
    with HostProcess(state) as host:
        keep = create(host.url)[2]["id"]
        assert patch(host.url, keep, digest, data[:1000], length=len(data))[0] == 204
        # An upload that breaks off leaves what came of it.
        with connect_to(host.port) as peer:
            peer.sendall(
                f"PATCH /v1/keeps/{keep}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
                f"Upload-Offset: 1000\r\nUpload-Length: {len(data)}\r\n\r\n".encode()
                + data[1000:3000]
            )
        host.wait_for("endpoint=blob status=400")
        assert head(host.url, keep, digest) == 3000
        status, kind, _ = told(patch(host.url, keep, digest, data[4000:], offset=4000, length=len(data)))
        assert (status, kind) == (409, "UsageError")
        assert told(patch(host.url, keep, digest, b"", offset=3000, length=len(data) - 1))[0] == 400
        assert told(patch(host.url, keep, digest, data[3000:] + b"x", offset=3000, length=len(data)))[0] == 400
        offset = head(host.url, keep, digest)
        host.kill()
        with HostProcess(state) as again:
            assert head(again.url, keep, digest) == offset
            assert patch(again.url, keep, digest, data[offset:], offset=offset, length=len(data))[0] == 204
            assert json.loads(tell(again.url, keep, {"do": "blob", "digest": digest})) == [digest, len(data)]


def test_a_blob_reaches_the_keep_while_it_is_uploaded(host):
    keep = create(host.url)[2]["id"]
    length = 4 << 20

    async def streaming():
        async with (
            asyncio.timeout(WAIT_S),
            session(host.url, keep, {"do": "blob", "digest": "ab" * 32, "tell": True}) as opened,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(
                f"PATCH /v1/keeps/{keep}/blobs/{'ab' * 32} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
                f"Upload-Offset: 0\r\nUpload-Length: {length}\r\n\r\n".encode()
                + bytes(2 << 20)
            )
            early = await opened.recv()
            writer.write(bytes(length - (2 << 20)))
            said = b""
            async for message in opened:
                said += message
            answer = await reader.readuntil(b"\r\n")
            writer.close()
            await writer.wait_closed()
            return early, said, answer

    early, said, answer = asyncio.run(streaming())
    assert 0 < int(early.split(b"\n")[0]) <= 2 << 20
    assert json.loads(said.splitlines()[-1]) == [hashlib.sha256(bytes(length)).hexdigest(), length]
    assert b"204" in answer


@contextlib.contextmanager
def uploading(host, keep, *, length, token=None):
    """Begin an upload that does not end by itself; the blob's first half is with the host."""
    digest = os.urandom(32).hex()
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    with connect_to(host.port) as peer:
        peer.sendall(
            f"PATCH /v1/keeps/{keep}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
            f"{authorization}Upload-Offset: 0\r\nUpload-Length: {length}\r\n\r\n".encode()
            + bytes(length // 2)
        )
        path = f"/v1/keeps/{keep}/blobs/{digest}"
        while int(request(host.url, "HEAD", path, token=token)[1]["upload-offset"]) == 0:
            pass
        yield peer


def test_an_upload_ends_with_its_keep_and_gives_its_room_back(tmp_path, state):
    with HostProcess(state, "--tenants", tenants_file(tmp_path, 'max_disk = "6 MiB"')) as host:
        for _ in range(2):
            keep = create(host.url, token=TOKEN)[2]["id"]
            with uploading(host, keep, length=6 << 20, token=TOKEN) as peer:
                assert request(host.url, "DELETE", f"/v1/keeps/{keep}", token=TOKEN)[0] == 200
                assert b" 410 " in peer.recv(4096).partition(b"\r\n")[0]
                assert not any("/blobs/" in name for name in open_names(host.child.pid))


def open_names(pid):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")


def test_a_host_that_is_stopped_in_an_upload_says_nothing_of_it(host):
    keep = create(host.url)[2]["id"]
    with uploading(host, keep, length=6 << 20):
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
    assert not any(line and ("Traceback" in line or "Error" in line or "ASGI" in line) for line in host.lines)


def test_only_one_uploads_a_blob_at_a_time(host):
    keep = create(host.url)[2]["id"]
    with connect_to(host.port) as first:
        first.sendall(
            f"PATCH /v1/keeps/{keep}/blobs/{'ab' * 32} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            "Content-Length: 10\r\nUpload-Offset: 0\r\nUpload-Length: 10\r\n\r\n".encode()
        )
        # Now it is being read.
        assert b"100" in first.recv(100)
        assert told(patch(host.url, keep, "ab" * 32, b"0123456789"))[:2] == (423, "TransportError")
    host.wait_for("endpoint=blob status=400")
    assert patch(host.url, keep, "ab" * 32, b"0123456789")[0] == 204


@pytest.mark.parametrize("name", ["0" * 63, "0" * 65, "A" * 64, "..%2f" + "0" * 59, "g" * 64])
def test_refuses_a_blob_of_another_name(host, name):
    keep = create(host.url)[2]["id"]
    assert patch(host.url, keep, name, b"x")[0] in {400, 404}


# --- Ports and the network


def test_a_published_port_leads_to_the_keep(host):
    keep = create(host.url, ports=[("one", 0), ("two", 0)])[2]
    data = os.urandom(2 << 20)
    for port in keep["ports"]:
        with connect_to(port["port"]) as peer:
            assert read_line(peer) == port["name"].encode() + b"\n"
            sending = threading.Thread(target=lambda peer=peer: (peer.sendall(data), peer.shutdown(socket.SHUT_WR)))
            sending.start()
            received = b""
            while piece := peer.recv(1 << 16):
                received += piece
            sending.join(WAIT_S)
            assert received == data
    request(host.url, "DELETE", f"/v1/keeps/{keep['id']}")
    with pytest.raises(ConnectionRefusedError):
        connect_to(keep["ports"][0]["port"])


def test_a_busy_port_is_a_platform_error(host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, kind, message = told(create(host.url, ports=[("free", 0), ("busy", port)]))
    assert (status, kind) == (503, "PlatformError")
    assert str(port) in message
    assert not keep_pids(host.state)


def outbound(host, address, port, options=()):
    keep = create(host.url)[2]["id"]
    return tell(host.url, keep, {"do": "outbound", "host": address, "port": port})


@pytest.fixture
def echo_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)


def test_connections_leave_through_the_host(host, echo_port):
    assert outbound(host, "127.0.0.1", echo_port) == b"hello"
    assert outbound(host, "localhost", echo_port) == b"hello"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert b"(refused)" in outbound(host, "127.0.0.1", nobody.getsockname()[1])
    for name in ("no such name", "a..b", "\N{SNOWMAN}" * 50):
        assert b"(unreachable)" in outbound(host, name, 80)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0", "127.1", "2130706433", "::"],  # noqa: S104
)
def test_no_keep_connects_to_the_api(host, address):
    assert b"(refused)" in outbound(host, address, host.port)


def test_outbound_connections_can_be_switched_off(tmp_path, state, echo_port):
    with HostProcess(state, "--no-outbound") as host:
        assert b"(refused)" in outbound(host, "127.0.0.1", echo_port)


def test_tenants_do_not_reach_the_hosts_neighbourhood(tmp_path, state, echo_port):
    for flags, answer in (((), b"(refused)"), (("--outbound-local",), b"hello")):
        with HostProcess(state, "--tenants", tenants_file(tmp_path), *flags) as host:
            keep = create(host.url, token=TOKEN)[2]["id"]
            command = {"do": "outbound", "host": "127.0.0.1", "port": echo_port}
            assert answer in tell(host.url, keep, command, token=TOKEN)
            request(host.url, "DELETE", f"/v1/keeps/{keep}", token=TOKEN)


def test_a_platform_that_cannot_answer_says_no(host):
    """The stub is no package of enarx, so there is nothing to measure."""
    keep = create(host.url)[2]["id"]
    assert b"(refused)" in tell(host.url, keep, {"do": "platform"})


# --- The life of a host


def test_a_killed_host_takes_its_keeps_over_again(state):
    with HostProcess(state) as host:
        made = [create(host.url, ports=[("echo", 0)])[2] for _ in range(3)]
        pids = keep_pids(state)
        assert len(pids) == 3
        host.kill()
        # One ends while nobody looks.
        gone = next(pid for pid in pids if f"enarx-keep={made[1]['id']}".encode() in cmdline(pid))
        os.kill(gone, signal.SIGKILL)
        wait_until_gone([gone])
        with HostProcess(state) as again:
            listed = {keep["id"]: keep for keep in request(again.url)[2]["keeps"]}
            assert [listed[keep["id"]]["state"] for keep in made] == ["ready", "ended", "ready"]
            assert keep_pids(state) == pids - {gone}
            for keep in (made[0], made[2]):
                assert listed[keep["id"]] == keep
                with connect_to(keep["ports"][0]["port"]) as peer:
                    assert read_line(peer) == b"echo\n"
                assert json.loads(tell(again.url, keep["id"], {"do": "limits"}))["session"]
            # A Keep that is not our child ends as visibly as one that is.
            request(again.url, "DELETE", f"/v1/keeps/{made[0]['id']}")
            tell(again.url, made[2]["id"], {"do": "exit"})
            again.wait_for(f"keep-ended keep={made[2]['id']}")
            assert not os.listdir(state / "keeps")


def cmdline(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def test_a_keep_that_was_starting_when_the_host_was_killed_is_ended(state):
    with HostProcess(state) as host, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(create, host.url, memory=112 << 20)
        keep_folder_appears(state)
        host.kill()
        assert asked.exception(WAIT_S)
        with HostProcess(state) as again:
            (keep,) = request(again.url)[2]["keeps"]
            assert keep["state"] == "lost"
            assert not keep_pids(state)
            assert not os.listdir(state / "keeps")


def keep_folder_appears(state):
    """Wait until a Keep process is there and has said its one word."""
    import time

    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        for console in (state / "keeps").glob("*/console"):
            if console.read_bytes().startswith(b"ready"):
                return
        os.sched_yield()
    raise AssertionError("no Keep")


def test_a_process_nobody_recorded_is_found_by_its_mark(state):
    """The host was killed after it started a process and before it wrote down which."""
    import sqlite3

    with HostProcess(state) as host:
        keep = create(host.url)[2]["id"]
        (pid,) = keep_pids(state)
        host.kill()
        with sqlite3.connect(state / "state.sqlite3") as db:
            db.execute("UPDATE keeps SET state = 'starting', pid = NULL, start_ticks = NULL")
        db.close()
        with HostProcess(state) as again:
            assert request(again.url, path=f"/v1/keeps/{keep}")[2]["state"] == "lost"
            wait_until_gone([pid])


def test_another_process_of_the_same_number_is_no_keep(state):
    import sqlite3

    with HostProcess(state) as host:
        keep = create(host.url)[2]["id"]
        (pid,) = keep_pids(state)
        host.kill()
        # The record is going to be wrong, so nobody will end it.
        os.kill(pid, signal.SIGKILL)
        wait_until_gone([pid])
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            with sqlite3.connect(state / "state.sqlite3") as db:
                db.execute("UPDATE keeps SET pid = ?", (stranger.pid,))
            db.close()
            with HostProcess(state) as again:
                assert request(again.url, path=f"/v1/keeps/{keep}")[2]["state"] == "ended"
            assert stranger.poll() is None
            stranger.communicate(b"\n", timeout=WAIT_S)


def test_a_link_that_breaks_again_and_again_ends_the_keep(host):
    keep = create(host.url)[2]["id"]
    while not any("keep-lost" in line for line in host.lines):
        # Between a break and the next connection the host has no link, and says so.
        with contextlib.suppress(InvalidStatus):
            asyncio.run(broken(host.url, keep))
    host.wait_for("keep-ended")
    assert request(host.url, path=f"/v1/keeps/{keep}")[2]["state"] == "lost"


async def broken(url, keep):
    async with asyncio.timeout(WAIT_S), session(url, keep, {"do": "break"}) as opened:
        with pytest.raises(ConnectionClosed):
            await opened.recv()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_keeps_go_on_when_the_host_is_stopped(state, number):
    with HostProcess(state) as host:
        keep = create(host.url)[2]["id"]
        pids = keep_pids(state)
        host.signal(number)
        assert host.wait() == 0
        assert keep_pids(state) == pids
        with HostProcess(state) as again:
            assert request(again.url, path=f"/v1/keeps/{keep}")[2]["state"] == "ready"


def test_a_host_can_end_its_keeps_with_it(state):
    with HostProcess(state, "--drain", "stop") as host:
        create(host.url)
        pids = keep_pids(state)
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        wait_until_gone(pids)
        assert not os.listdir(state / "keeps")


def test_a_host_can_wait_for_its_keeps_and_takes_no_new_ones(state):
    with HostProcess(state, "--drain", "wait") as host:
        keep = create(host.url)[2]["id"]

        async def waiting():
            async with asyncio.timeout(WAIT_S), session(host.url, keep, {"do": "echo"}) as opened:
                host.signal(signal.SIGTERM)
                await asyncio.to_thread(host.wait_for, "draining")
                refused = await asyncio.to_thread(create, host.url)
                health = await asyncio.to_thread(request, host.url, path="/healthz")
                await opened.send(b"still there")
                return refused, health, await opened.recv()

        refused, health, said = asyncio.run(waiting())
        assert told(refused)[:2] == (503, "PlatformError")
        assert (health[0], health[2]["status"]) == (503, "draining")
        assert said == b"still there"
        assert host.child.poll() is None
        tell(host.url, keep, {"do": "exit"})
        assert host.wait() == 0


def test_a_second_signal_ends_a_host_that_waits(state):
    with HostProcess(state, "--drain", "wait") as host:
        create(host.url)
        host.signal(signal.SIGTERM)
        host.wait_for("draining")
        host.signal(signal.SIGINT)
        assert host.wait() == 130
        assert len(keep_pids(state)) == 1


def test_a_state_directory_has_one_host(host):
    with HostProcess(host.state, scheme="") as second:
        assert second.wait() == 108
        assert "found another host that uses it" in second.lines[0]


def test_a_busy_address_is_a_platform_error(tmp_path, host):
    with HostProcess(tmp_path / "other", listen=f"127.0.0.1:{host.port}", scheme="") as second:
        assert second.wait() == 108
        assert f"port {host.port}" in second.lines[0]


@pytest.mark.parametrize(
    ("listen", "options", "what"),
    [
        ("0.0.0.0:0", (), "no tenants file"),
        ("0.0.0.0:0", ("--tenants", "FILE"), "no TLS certificate"),
        ("example.com:0", (), "want an IP address"),
        ("127.0.0.1", (), "want ADDRESS:PORT"),
        ("127.0.0.1:0", ("--tls-key", "x"), "want both or neither"),
        ("127.0.0.1:0", ("--drain", "later"), "want one of leave, wait, stop"),
        ("127.0.0.1:0", ("--log-format", "xml"), "want text or json"),
        ("127.0.0.1:0", ("--ports", "9-1"), "want LOW-HIGH"),
        ("127.0.0.1:0", ("--max-memory", "much"), "--max-memory"),
        ("127.0.0.1:0", ("--tenants", "FILE", "--parent-fd", "3"), "one tenant"),
        ("127.0.0.1:0", ("--keep-log", "1 KiB"), "--keep-log"),
        ("127.0.0.1:0", ("--tenants", "/nowhere"), "No such file"),
    ],
)
def test_refuses_options_that_make_no_sense(tmp_path, state, listen, options, what):
    options = [tenants_file(tmp_path) if option == "FILE" else option for option in options]
    with HostProcess(state, *options, listen=listen, scheme="") as host:
        assert host.wait() == 2
        assert what in host.lines[0]


def test_a_private_host_and_its_keeps_end_with_whoever_started_it(state):
    for kill in (False, True):
        ours, theirs = os.pipe()
        with HostProcess(state, "--parent-fd", str(theirs), pass_fds=(theirs,)) as host:
            os.close(theirs)
            with open(ours, "rb", closefd=False) as told_here:
                address, token = told_here.readline().decode().split()
            assert address == host.url
            assert create(host.url, token=token)[0] == 201
            # Every user of this machine can connect.
            for path in ("/v1/keeps", "/", "/metrics"):
                assert request(host.url, path=path)[0] == 401
                assert request(host.url, path=path, token=token)[0] == 200
            assert not any(token in line for line in host.lines)
            pids = keep_pids(state)
            assert pids
            if kill:
                host.kill()
            os.close(ours)
            assert host.wait() == 0 if not kill else True
            wait_until_gone(pids)


def test_the_log_is_lines_of_json(tmp_path, state):
    with HostProcess(state, "--log-format", "json", "--tenants", tenants_file(tmp_path)) as host:
        keep = create(host.url, token=TOKEN)[2]["id"]
        request(host.url, path="/v1/keeps/%0a%22", token=TOKEN)
        host.signal(signal.SIGTERM)
        host.wait()
    events = [json.loads(line) for line in host.lines if line and not line.startswith("enarx: ")]
    assert {"keep-ready", "request", "draining"} <= {event["event"] for event in events}
    ready = next(event for event in events if event["event"] == "keep-ready")
    assert (ready["keep"], ready["tenant"], ready["level"]) == (keep, "one", "info")


# --- What the operator sees


def test_the_page_and_the_numbers_are_the_operators(tmp_path, state):
    digest = hashlib.sha256(b"operator").hexdigest()
    path = tenants_file(tmp_path)
    with open(path, "a", encoding="ascii") as file:
        file.write(f'[operator]\ntoken_sha256 = "{digest}"\n')
    with HostProcess(state, "--tenants", path) as host:
        proxied = {"X-Forwarded-For": "192.0.2.1"}
        for page in ("/", "/metrics"):
            assert request(host.url, path=page)[0] == 200
            status, headers, _ = request(host.url, path=page, headers=proxied)
            assert (status, headers["www-authenticate"].split()[0]) == (401, "Basic")
            assert request(host.url, path=page, headers=proxied, token="operator")[0] == 200
            assert request(host.url, path=page, headers=proxied, token=TOKEN)[0] == 401
            assert request(host.url, path=page, headers=proxied, auth=("", "operator"))[0] == 200


def test_the_page_lists_keeps_and_no_verdict(host):
    keep = create(host.url, ports=[("<b>&", 0)])[2]
    status, headers, body = request(host.url, path="/")
    text = body.decode()
    assert status == 200
    assert keep["id"] in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text
    assert "<script" not in text
    policy = headers["content-security-policy"]
    style = text.partition("<style>")[2].partition("</style>")[0]
    import base64

    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for word in ("affirming", "verified", "attested", "secure"):
        assert word not in text.lower()


def test_the_numbers_count_what_happens(host):
    keep = create(host.url)[2]["id"]
    tell(host.url, keep, {"do": "limits"})
    text = request(host.url, path="/metrics")[2].decode()
    assert 'enarx_host_keeps{state="ready"} 1.0' in text
    assert 'enarx_host_requests_total{endpoint="create",status="201"} 1.0' in text
    assert keep not in text
    from_keep = next(
        line for line in text.splitlines() if line.startswith('enarx_host_relayed_bytes_total{direction="from')
    )
    assert float(from_keep.split()[1]) > 100


def test_the_document_is_the_checked_in_one(host):
    served = request(host.url, path="/openapi.json")[2]
    assert served == json.loads((TOP / "docs/formats/host-api.json").read_text(encoding="utf-8"))


def test_the_stub_is_where_the_tests_say():
    assert os.path.exists(STUB)
