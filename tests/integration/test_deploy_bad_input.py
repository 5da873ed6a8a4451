# SPDX-License-Identifier: Apache-2.0
"""`enarx deploy` and what is not as it should be: whoever answers, what is deployed, and how that behaves.

One line says what is wrong, the status says whose affair it is, and the host and its other Keeps do not notice: a workload that
was there before answers after each of these as it did before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from enarx.deploy import HostClient, host_client, parse_address
from enarx.errors import TransportError
from tests.between import until
from tests.conftest import Started
from tests.hosting import TOP, request
from tests.integration.certificates import Authority
from tests.integration.test_deploy import EMULATED, Host, detached

MAX_PACKAGE = 1 << 20
MAX_HOST_BYTES = 300 << 20
"""Of a host's process, whatever passes through it."""

WAITING = (
    '(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
    ' (memory (export "memory") 1)'
    ' (func (export "_start") (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const 3600000000000))'
    " (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))))"
)


@contextlib.contextmanager
def serving(enarx, state, *options, program=("-m", "enarx", "host", "serve")):
    """Run a host; give its process and URL."""
    command = [sys.executable, *program, "--listen", "127.0.0.1:0", "--state", str(state), "--drain", "stop", *options]
    env = {**enarx.env, "PYTHONPATH": f"{TOP}/src:{TOP}"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, start_new_session=True, cwd="/", **pipes) as process:
        said = Started(process)
        try:
            url = said.until_stderr(rb"listening on (http://\S+)\n")[1].decode()
            reader = threading.Thread(target=process.stderr.read, daemon=True)
            reader.start()
            yield process, Host(url=url, enarx=enarx)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join(10)


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A host with a workload that was there before, and answers."""

    process: subprocess.Popen
    host: Host
    started: Started

    def require_unharmed(self) -> None:
        """Require that host and workload are as they were."""
        word = os.urandom(8).hex().encode()
        self.started.send(word + b"\n")
        self.started.until_stdout(word)
        assert self.process.poll() is None
        assert request(self.host.url, path="/healthz")[0] == 200
        resident = re.search(r"(?m)^VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())[1]
        assert int(resident) << 10 < MAX_HOST_BYTES


@pytest.fixture(scope="module")
def witnessed(enarx, guest, tmp_path_factory):
    state = tmp_path_factory.mktemp("host")
    with (
        serving(enarx, state, "--max-package", str(MAX_PACKAGE)) as (process, host),
        host.start(guest("echo")) as started,
    ):
        witness = Witness(process=process, host=host, started=started)
        witness.require_unharmed()
        yield witness


@pytest.fixture
def witness(witnessed):
    before = running(witnessed.host)
    yield witnessed
    witnessed.require_unharmed()
    # What failed was taken down.
    assert running(witnessed.host) == before


def running(host):
    return {keep["id"] for keep in request(host.url)[2]["keeps"] if keep["state"] in {"starting", "ready"}}


def last_line(ended):
    """Return the one line that says what is wrong; what is said of an accepted Keep comes before it, a hint after it."""
    lines = [line for line in ended.stderr.splitlines() if "accepted, because you said so" not in line]
    assert 1 <= len(lines) <= 2, ended.stderr
    assert lines[0].startswith("enarx: "), ended.stderr
    assert all(line.startswith("hint: ") for line in lines[1:]), ended.stderr
    return lines[0]


# --- Whoever answers is no host ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(answer, *, context=None):
    """Be a server on loopback: `answer(connection, request)` is called with each connection and the first bytes of it."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            stream = connection if context is None else context.wrap_socket(connection, server_side=True)
            with stream:
                answer(stream, stream.recv(65536))

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.settimeout(10)
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for thread in (accepting, *threads):
            thread.join(15)


def http(status, body, *headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(data):
    return lambda connection, _: connection.sendall(data)


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"<html>It works!</html>", "Content-Type: text/html"),
        http("302 Found", b"", "Location: http://127.0.0.1:1/v1/keeps"),
        http("201 Created", b"[1, 2]", "Content-Type: application/json"),
        http("201 Created", b'{"id": "../../x", "memory-bytes": 1}', "Content-Type: application/json"),
        http("201 Created", b'{"id": "a", "memory-bytes": -1}', "Content-Type: application/json"),
        http("404 Not Found", json.dumps({"error": {"class": 1}}).encode(), "Content-Type: application/json"),
    ],
    ids=["page", "redirect", "array", "path", "number", "error"],
)
def test_another_server_is_no_host(enarx, guest, answer):
    with answering(saying(answer)) as port:
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{port}", EMULATED, guest("hello"))
    ended.refused(107, "cannot understand the host", "want ")


def test_a_host_of_another_api_version_says_what_it_has_not(enarx, guest):
    said = {"error": {"class": "UsageError", "message": "cannot answer: found a path that is not known", "hint": None}}
    with answering(saying(http("404 Not Found", json.dumps(said).encode(), "Content-Type: application/json"))) as port:
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{port}", EMULATED, guest("hello"))
    assert ended.status == 102
    assert f"http://127.0.0.1:{port} says: cannot answer: found a path that is not known" in last_line(ended)


@pytest.mark.parametrize("subprotocol", [None, "enarx-link.v0"])
def test_a_relay_of_another_version_is_refused(enarx, guest, subprotocol):
    keep = {"id": "a", "backend": "nil", "state": "ready", "created": "", "memory-bytes": 1, "ports": []}

    def answer(connection, asked):
        if not asked.startswith(b"GET"):
            connection.sendall(http("201 Created", json.dumps(keep).encode(), "Content-Type: application/json"))
            return
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", asked)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()  # noqa: S324
        chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        connection.sendall(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{chosen}"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        connection.recv(100)

    with answering(answer) as port:
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{port}", EMULATED, guest("hello"))
    assert (ended.status, ended.stdout) == (107, b"")
    assert "session" in last_line(ended) or "relay of another version" in last_line(ended)


@pytest.fixture
def secured(tmp_path):
    authority = Authority(tmp_path, "somebody")
    issued = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    return context


def test_a_certificate_of_nobody_known_is_refused(enarx, guest, secured):
    with answering(saying(http("200 OK", b"")), context=secured) as port:
        ended = enarx.command("deploy", "--to", f"https://127.0.0.1:{port}", EMULATED, guest("hello"))
    ended.refused(107, f"https://127.0.0.1:{port}", "certificate")


def test_a_port_that_speaks_tls_is_no_host_without_it(enarx, guest, secured):
    with answering(saying(http("200 OK", b"")), context=secured) as port:
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{port}", EMULATED, guest("hello"))
    ended.refused(107, f"http://127.0.0.1:{port}")


def test_a_port_that_does_not_speak_tls_is_no_host_with_it(enarx, guest):
    with answering(saying(http("200 OK", b""))) as port:
        ended = enarx.command("deploy", "--to", f"https://127.0.0.1:{port}", EMULATED, guest("hello"))
    ended.refused(107, f"https://127.0.0.1:{port}")


def endless(before, piece):
    def answer(connection, _):
        connection.sendall(before)
        while True:
            connection.sendall(piece)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"", b"x" * 65536),
        endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 4096),
        endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
        endless(b"HTTP/1.1 404 Not Found\r\n\r\n", b" " * 65536),
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
    ],
    ids=["anything", "headers", "body", "error", "chunks"],
)
def test_a_server_that_never_ends_is_left(enarx, guest, answer):
    with answering(answer) as port:
        ended = enarx.command("deploy", "--to", f"http://127.0.0.1:{port}", EMULATED, guest("hello"), timeout_s=30)
    ended.refused(107, "cannot understand the host")


def drip(connection, _):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    connection.settimeout(0.02)
    for _ in range(500):
        # A piece often enough that no single wait is long.
        with contextlib.suppress(TimeoutError):
            connection.sendall(b" ")
            connection.recv(1)


def silent(connection, _):
    connection.recv(1)


@pytest.mark.parametrize("answer", [silent, drip])
def test_a_server_that_says_nothing_in_time_is_left(monkeypatch, answer):
    monkeypatch.setattr(host_client, "CREATE_TIMEOUT_S", 0.5)

    async def ask(port):
        async with HostClient(parse_address(f"http://127.0.0.1:{port}")) as host, asyncio.timeout(5):
            await host.create_keep(backend="nil", memory_bytes=1, ports=())

    with answering(answer) as port, pytest.raises(TransportError, match="no answer in") as refused:
        asyncio.run(ask(port))
    assert refused.value.status == 107


# --- A Keep of another version -----------------------------------------------------------------------------------------


def test_a_keep_of_another_version_of_the_link_is_ended(enarx, guest, tmp_path):
    """The host knows no version 0; nobody is told of such a Keep, and it does not stay."""
    old = tmp_path / "old_keep.py"
    old.write_text(
        "import socket, sys\n"
        "link = socket.socket(fileno=int(sys.argv[sys.argv.index('--link-fd') + 1]))\n"
        "while True:\n"
        "    host, _ = link.accept()\n"
        "    host.sendall(bytes([0, 8, 0x83, 0, 0, 0x64]) + b'keep')\n"
        "    while host.recv(4096): pass\n"
    )
    program = (
        "-c",
        "import sys; from tests import hosting; hosting.STUB = sys.argv[1]; sys.exit(hosting.main(sys.argv[2:]))",
        str(old),
    )
    with serving(enarx, tmp_path / "state", program=program) as (_, host):
        ended = host.deploy(guest("hello"))
        ended.refused(109, "cannot reach the Keep")
        assert not running(host)


# --- What is deployed --------------------------------------------------------------------------------------------------


def test_a_package_above_what_the_keep_has_room_for_is_not_released(witness, guest, tmp_path):
    large = tmp_path / "large.wasm"
    size = MAX_PACKAGE
    # A custom section of that many zero bytes; its length is LEB128.
    length = bytes([(size & 127) | 128, ((size >> 7) & 127) | 128, ((size >> 14) & 127) | 128, size >> 21])
    large.write_bytes(guest("hello").read_bytes() + b"\0" + length + b"\x01x" + bytes(size - 2))
    ended = witness.host.deploy(large)
    assert (ended.status, ended.stdout) == (102, b"")
    assert f"want at most {MAX_PACKAGE}" in last_line(ended)


def test_more_memory_than_the_host_has_is_refused(witness, guest):
    ended = witness.host.deploy("--memory", "1000GiB", guest("hello"))
    ended.refused(108, "too little memory left on this host")


def test_a_module_that_needs_more_memory_than_it_may_have_does_not_start(witness, tmp_path):
    module = tmp_path / "large.wat"
    module.write_text('(module (memory (export "memory") 1024) (func (export "_start")))')
    ended = witness.host.deploy("--memory", "16MiB", module)
    assert (ended.status, ended.stdout) == (109, b""), ended.stderr
    assert "memory" in last_line(ended)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("hello", 103),
        ("\0asm\1\0\0\0\7", 103),
        ('(module (import "env" "f" (func)) (func (export "_start")))', 103),
        ('(module (func (export "start")))', 103),
    ],
    ids=["text", "truncated", "import", "entry"],
)
def test_what_is_no_module_ends_its_keep_alone(witness, tmp_path, text, status):
    module = tmp_path / ("module.wat" if text.startswith("(") else "module.wasm")
    module.write_text(text)
    ended = witness.host.deploy(module)
    assert (ended.status, ended.stdout) == (status, b""), ended.stderr
    last_line(ended)


def test_a_policy_that_refuses_prints_every_finding(witness, guest, tmp_path):
    receipt = tmp_path / "receipt.json"
    assert witness.host.deploy("--receipt", receipt, guest("hello")).status == 0
    text = base64.b64decode(json.loads(receipt.read_text())["policy"]).decode()
    policy = tmp_path / "policy.toml"
    text = re.sub(r"(?m)^measurement = .*$", f'measurement = ["{"ab" * 48}"]', text)
    text = re.sub(r"(?m)^vmpl = .*$", "vmpl = [3]", text)
    policy.write_text(text)
    ended = witness.host.deploy("--policy", policy, guest("hello"))
    assert (ended.status, ended.stdout) == (105, b""), ended.stderr
    for finding in ("snp.measurement", "snp.vmpl"):
        assert re.search(rf"(?m)^.*{finding}.*$", ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


# --- How it behaves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trap_named", "recurse"])
def test_a_trap_is_its_own_keeps_affair(witness, guest, name):
    ended = witness.host.deploy(guest(name))
    assert ended.status == 134, ended.stderr
    assert "enarx: workload trapped: " in ended.stderr


def test_a_loop_ends_at_its_time_and_not_before(witness, guest):
    ended = witness.host.deploy("--timeout", "500ms", guest("spin"))
    assert (ended.status, ended.stdout) == (109, b""), ended.stderr
    assert "0.5 s" in last_line(ended)


def test_fuel_ends_a_loop_too(witness, guest):
    ended = witness.host.deploy("--fuel", "1000000", guest("spin"))
    assert (ended.status, ended.stdout) == (109, b""), ended.stderr
    assert "fuel" in last_line(ended)


def test_taking_all_memory_gets_what_was_allowed(witness, guest):
    ended = witness.host.deploy("--memory", "96MiB", guest("grow"))
    assert ended.status == 3, ended.stderr
    assert int(ended.stdout) < 96


def test_a_flood_of_output_stops_at_its_limit(witness, guest):
    ended = witness.host.deploy("--output", "2MiB", guest("flood"))
    assert ended.status == 109, ended.stderr
    assert len(ended.stdout) == 2 << 20
    assert "output" in last_line(ended)


def test_a_flood_that_nobody_limits_waits_for_whoever_reads_it(witness, guest):
    with witness.host.start(guest("flood")) as started:
        until(lambda: started._pump(0.01) or len(started._written[started.process.stdout]) > 4 << 20, "4 MiB of it")
        # Nobody reads now; others are not kept waiting by that.
        witness.require_unharmed()
        ended = started.end(by=signal.SIGINT)
    assert ended.status == 130, ended.stderr


def test_a_flood_that_nobody_attends_keeps_the_end_of_it(witness, guest):
    keep = detached(witness.host, guest("flood"))
    witness.require_unharmed()
    logs = witness.host.keep("logs", keep)
    assert logs.status == 0, logs.stderr
    assert set(logs.stdout) <= set(b"x")
    assert witness.host.keep("stop", keep, "--grace", "1ms").status == 0


def test_a_keep_that_is_stopped_by_force_takes_nobody_with_it(witness, tmp_path):
    module = tmp_path / "waiting.wat"
    module.write_text(WAITING)
    keep = detached(witness.host, module)
    assert witness.host.keep("stop", keep, "--kill").status == 0
