# SPDX-License-Identifier: Apache-2.0
"""A host that means harm, between Keeps that are genuine processes and tenants that are the genuine command.

It speaks the host's API and the link like the real one, and does with each session what a test says: `sessions` is called with
the tenant's bytes and has all Keeps at hand. It records every byte that passes. Its emulated platform is honest, as hardware
would be, unless a test gives a Keep another measurement: what is attacked is the protocol, not the processor.

Knows what a host knows, and what has fallen in a test; reads no tenant's files.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from enarx.channel.link import Link, Stream, Target, open_link
from enarx.channel.link import relay as carry
from enarx.channel.session import Session
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.emulator.installation import open_installation
from enarx.emulator.service import answer
from enarx.errors import EnarxError, TransportError
from enarx.host.state import connect_link, listen_link
from enarx.image import measure_process, package_folder

BUILDER = Path(__file__).with_name("builds.py")
TIMEOUT_S = 60.0
KEEP_LIMITS = ("--memory", str(256 << 20), "--package-limit", str(64 << 20), "--log", str(1 << 20))
TENANT, KEEP = "tenant", "keep"
ATTESTED_BYTES = 4000
"""Of what a Keep says before its workload does, only records that have evidence are longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a tenant's command ended."""

    status: int
    stdout: bytes
    stderr: str


class Wire:
    """A tenant's end of a session, as the host has it: bytes in both directions, `ByteStream` of `enarx.channel.session`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ServerProtocol) -> None:
        self._reader, self._writer, self._protocol = reader, writer, protocol
        self._waiting: list[bytes] = []

    async def read(self) -> bytes:
        """Return some bytes; none at the end."""
        while not self._waiting:
            if self._protocol.state is not State.OPEN:
                return b""
            data = await self._reader.read(1 << 16)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode in {Opcode.BINARY, Opcode.CONT} and event.data:
                    self._waiting.append(bytes(event.data))
            with contextlib.suppress(OSError):
                await self._flush()
            if not data:
                break
        return self._waiting.pop(0) if self._waiting else b""

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        try:
            self._protocol.send_binary(bytes(data))
            await self._flush()
        except (OSError, WebSocketException) as error:
            raise TransportError("the tenant has gone") from error

    def close(self) -> None:
        """End both directions."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            for data in self._protocol.data_to_send():
                self._writer.write(data)
        self._writer.close()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._writer.write(data)
        await self._writer.drain()


@dataclass(slots=True, kw_only=True)
class Keep:
    """A Keep process, and the host's link to it."""

    folder: Path
    process: subprocess.Popen[bytes]
    measurement: bytes | None = None
    link: Link | None = None
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def session(self) -> Stream:
        """Open a stream for a session."""
        assert self.link is not None
        return await self.link.open(Target.session())

    @property
    def console(self) -> bytes:
        """What it wrote."""
        return (self.folder / "console").read_bytes()

    async def ended(self, timeout_s: float = 20.0) -> int:
        """Wait for its end."""
        return await asyncio.to_thread(self.process.wait, timeout_s)


SessionHandler = Callable[["Host", str, Wire], Awaitable[None]]


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


@functools.cache
def _platform() -> str:
    """Make the emulated platform of this machine, which takes a second, once for all hosts of these tests."""
    folder = tempfile.mkdtemp(prefix="enarx-attacks-")
    atexit.register(shutil.rmtree, folder)
    path = f"{folder}/emulated-platform"
    open_installation(path, at=_now())
    return path


class Host:
    """The host that means harm.

    Args:
        folder: for everything.
        sessions: what becomes of a tenant's session.
        keep_build: of the Keeps that it starts: names of `builds.py`.
    """

    def __init__(self, folder: Path, sessions: SessionHandler, *, keep_build: str = "-") -> None:
        self.folder, self.sessions, self.keep_build = folder, sessions, keep_build
        self.keeps: dict[str, Keep] = {}
        self.launched: bytes | None = None  # the measurement of Keeps that it starts, where it is not the true one
        self.captured: list[tuple[str, bytes]] = []
        self.errors: list[BaseException] = []
        # Where connections of workloads and Keeps end: by name and port, a port of this machine or a socket of a Keep's workload.
        self.routes: dict[tuple[str, int], int | tuple[str, str]] = {}
        self._home = folder / "home"
        platform = f"{self._home}/share/enarx/emulated-platform"
        shutil.copytree(_platform(), platform)
        self._installation = open_installation(platform, at=_now())
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        """Where this machine's emulated platform is, for whoever judges by it."""
        return {"PATH": os.environ["PATH"], "HOME": str(self._home), "XDG_DATA_HOME": f"{self._home}/share"}

    # --- What it has

    async def start_keep(
        self, name: str | None = None, *, build: str | None = None, measurement: bytes | None = None
    ) -> Keep:
        """Start a Keep process and connect to it."""
        name = name or f"keep{len(self.keeps)}"
        folder = self.folder / "keeps" / name
        folder.mkdir(parents=True)
        link = listen_link(str(folder))
        command = [sys.executable, str(BUILDER), build or self.keep_build, "keep", "--backend", "nil", *KEEP_LIMITS]
        with (folder / "console").open("wb") as console:
            process = subprocess.Popen(  # noqa: ASYNC220 - it is spawned, not waited for
                [*command, "--link-fd", str(link.fileno())],
                pass_fds=[link.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=folder,
                start_new_session=True,
            )
        link.close()
        keep = self.keeps[name] = Keep(folder=folder, process=process, measurement=measurement or self.launched)
        keep.link = await open_link(
            connect_link(str(folder)),
            role="host",
            accept=lambda stream: self._spawn(self._serve(keep, stream)),
            timeout_s=60,
        )
        return keep

    def platform(self, report_data: bytes, *, measurement: bytes | None = None) -> bytes:
        """Return the answer of the platform for a genuine Keep: also what the attacker's own could have attested."""
        return answer(
            self._installation,
            report_data,
            # Taken anew, as a tenant does who asks what is installed.
            measurement=measurement or measure_process(package_folder()),
            report_id=os.urandom(32),
        )

    async def _serve(self, keep: Keep, stream: Stream) -> None:
        """Answer what a Keep asks for: its platform, and ciphertext."""
        with contextlib.suppress(TransportError):
            if stream.target.kind == "platform":
                request = b""
                while len(request) < 64 and (data := await stream.read()):
                    request += data
                await stream.write(self.platform(request, measurement=keep.measurement))
                stream.end()
            elif stream.target.kind == "blob":
                digest = stream.target.digest
                while digest not in keep.blobs:
                    keep.arrived.clear()
                    await keep.arrived.wait()
                await stream.write(keep.blobs[digest])
                stream.end()
            elif (there := self.routes.get((stream.target.host, stream.target.port))) is not None:
                connection = await self.reach(there)
                stream.confirm()
                await carry(stream, connection)
            else:
                stream.reset("refused")

    async def reach(self, there: int | tuple[str, str]) -> socket.socket:
        """Return a connection to a port of this machine, or to a socket of a Keep's workload: the Keep's name, and its own."""
        if isinstance(there, int):
            connection = socket.socket()
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", there))
            return connection
        keep, name = there
        assert self.keeps[keep].link is not None
        near, far = socket.socketpair()
        stream = await self.keeps[keep].link.open(Target.inbound(name))

        async def pass_on() -> None:
            with contextlib.suppress(TransportError):
                await carry(stream, far)

        self._spawn(pass_on())
        return near

    # --- The API

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Host]:
        """Serve; whatever is left at the end is killed."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for keep in self.keeps.values():
                if keep.link is not None:
                    keep.link.close()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(keep.process.pid, signal.SIGKILL)
                keep.process.wait()
                # Shown where a test fails.
                print(f"{keep.folder.name}: {keep.process.returncode}: {keep.console.decode(errors='replace')[:2000]}")
        for error in self.errors:
            raise error

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TransportError, asyncio.IncompleteReadError):
                await self._request(reader, writer)
        except Exception as error:  # noqa: BLE001 - a mistake of a test's own is told at its end
            self.errors.append(error)
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if "upgrade" in headers:
            await self._upgrade(head, path, reader, writer)
            return
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.captured.append((TENANT, head + body))
        status, said, more = await self._answer(method, path, headers, body)
        data = b"" if said is None else json.dumps(said).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{extra}\r\n".encode() + data
        )
        await writer.drain()

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes):
        parts = path.removeprefix("/v1/keeps").strip("/").split("/")
        if method == "POST":
            wanted = json.loads(body)
            name = f"keep{len(self.keeps)}"
            await self.start_keep(name)
            return 201, self._describe(name, wanted["memory-bytes"]), {}
        name = parts[0]
        if "blobs" in parts:
            keep = self.keeps[name]
            if method == "PATCH":
                # Ciphertext is anybody's: whichever Keep asks for it gets it.
                for each in self.keeps.values():
                    each.blobs[bytes.fromhex(parts[2])] = body
                    each.arrived.set()
            size = len(keep.blobs.get(bytes.fromhex(parts[2]), b""))
            return (204 if method == "PATCH" else 200), None, {"Upload-Offset": str(size)}
        if method == "DELETE":
            return 204, None, {}
        return 200, self._describe(name, 1 << 28), {}

    def _describe(self, name: str, memory_bytes: int):
        return {
            "id": name,
            "backend": "nil",
            "state": "ready",
            "created": "2026-01-01T00:00:00Z",
            "memory-bytes": memory_bytes,
            "ports": [],
        }

    async def _upgrade(
        self, head: bytes, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        protocol = ServerProtocol(subprotocols=["enarx-link.v1"])
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))
        for data in protocol.data_to_send():
            writer.write(data)
        wire = Wire(reader, writer, protocol)
        try:
            await self.sessions(self, path.split("/")[3], wire)
        finally:
            wire.close()

    # --- Tenants

    async def tenant(self, *arguments: str, stdin: bytes = b"", **how: str) -> Ended:
        """Run the command as a tenant with a home of its own, to its end."""
        async with self.running(*arguments, **how) as process:
            out, err = await process.communicate(stdin)
        return Ended(status=process.returncode or 0, stdout=out, stderr=err.decode())

    @contextlib.asynccontextmanager
    async def running(
        self, *arguments: str, build: str = "-", name: str = "tenant"
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the command while the block runs."""
        home = self.folder / name
        environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "XDG_DATA_HOME": f"{self._home}/share",
            "XDG_CACHE_HOME": f"{self._home}/cache",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            BUILDER,
            build,
            "enarx",
            *arguments,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                # Its pipes too are at their end then.
                await process.communicate()

    async def deploy(self, module: Path, *arguments: str, **how) -> Ended:
        """Run `enarx deploy` to this host, accepting its emulated platform."""
        return await self.tenant(*self.deployment(module, *arguments), **how)

    def deployment(self, module: Path, *arguments: str) -> tuple[str, ...]:
        """Return the command that deploys here."""
        return ("deploy", "--to", self.url, "--insecure-accept-emulated", "--offline", str(module), *arguments)


# --- What to do with a session

Tamper = Callable[[str, int, bytes], list[bytes] | Awaitable[list[bytes]]]


def records(data: bytearray) -> list[bytes]:
    """Take complete TLS records off the front of some bytes."""
    found = []
    while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[3:5], "big")):
        found.append(bytes(data[:end]))
        del data[:end]
    return found


def chunks(data: bytearray) -> list[bytes]:
    """Take everything."""
    found = [bytes(data)]
    data.clear()
    return found


def frames(data: bytearray) -> list[bytes]:
    """Take what is complete where there is no TLS: a leaf or a message, or a record of `one-key`, after its length."""
    found = []
    while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "big")):
        found.append(bytes(data[:end]))
        del data[:end]
    return found


def pieces_of(build: str) -> Callable[[bytearray], list[bytes]]:
    """Return what takes pieces off the front of what ends of a build say."""
    return frames if {"null-tls", "one-key"} & set(build.split(",")) else records


async def relay(
    host: Host, wire, stream: Stream, tamper: Tamper = lambda _from, _number, record: [record], split=records
) -> None:
    """Pass bytes on between a tenant and a Keep, record by record, as `tamper` has it: what it returns is sent instead.

    Args:
        host: keeps a copy of what the two parties said.
        wire: the tenant's end.
        stream: the Keep's.
        tamper: is given who spoke, the number of the record in that direction, and the record.
        split: takes pieces to pass on off the front of what came.
    """

    async def pump(source, sink, speaker: str) -> None:
        held, number = bytearray(), 0
        with contextlib.suppress(TransportError):
            while data := await source.read():
                host.captured.append((speaker, data))
                held += data
                for record in split(held):
                    replaced = tamper(speaker, number, record)
                    for piece in await replaced if asyncio.iscoroutine(replaced) else replaced:
                        await sink.write(piece)
                    number += 1

    pumps = {asyncio.ensure_future(pump(wire, stream, TENANT)), asyncio.ensure_future(pump(stream, wire, KEEP))}
    try:
        # Whoever ends it: the other one is told so.
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        # What a test's own function raises must not look like a session that broke.
        found = await asyncio.gather(*pumps, return_exceptions=True)
        host.errors += [error for error in found if isinstance(error, Exception)]
        stream.close()
        wire.close()


def honest(tamper: Tamper = lambda _from, _number, record: [record], split=records) -> SessionHandler:
    """Relay each session to the Keep that the tenant asked for."""

    async def sessions(host: Host, name: str, wire: Wire) -> None:
        await relay(host, wire, await host.keeps[name].session(), tamper, split)

    return sessions


async def in_between(
    wire,
    stream: Stream,
    *,
    as_keep: Credential | None = None,
    as_tenant: Credential | None = None,
    heard: list[tuple[str, object]] | None = None,
) -> None:
    """Be the Keep to the tenant and the tenant to a Keep, and pass on each message, read."""
    upper = await Session.handshake(wire, as_keep or stranger(), "keep")
    lower = await Session.handshake(stream, as_tenant or stranger(), "tenant")
    log = heard if heard is not None else []

    async def pump(source: Session, sink: Session, speaker: str) -> None:
        with contextlib.suppress(EnarxError):
            while True:
                message = await source.receive()
                log.append((speaker, message))
                await sink.send(message)

    pumps = {asyncio.ensure_future(pump(upper, lower, TENANT)), asyncio.ensure_future(pump(lower, upper, KEEP))}
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await upper.close()
        await lower.close()


def stranger() -> Credential:
    """Return a leaf that nobody knows."""
    return make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))


def write_leaf(path: Path) -> Credential:
    """Make a leaf, and write it where a build with `leaf=` finds it: its key is known to two."""
    credential = stranger()
    key = credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + credential.chain[0].public_bytes(Encoding.PEM))
    return credential


def find(needle: bytes, places: list[tuple[str, bytes]]) -> list[str]:
    """Return where a secret is, as it is or in hex, base64 at any alignment, or UTF-16."""
    forms = {"raw": needle, "hex": needle.hex().encode(), "HEX": needle.hex().upper().encode()}
    text = needle.decode("latin-1")
    forms["UTF-16LE"], forms["UTF-16BE"] = text.encode("utf-16-le"), text.encode("utf-16-be")
    for shift in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            # What is the same whatever stands before and after.
            forms[f"{name}+{shift}"] = encode(bytes(shift) + needle)[4 if shift else 0 : -4]
    return [f"{place}: {name}" for place, data in places for name, form in forms.items() if form in data]


def says(text: str, *, asked: bool = False, forever: bool = False) -> str:
    """Return a module that writes a text, perhaps once it has read something, and ends or waits."""
    data = text.encode() + b"\n"
    wait = (
        " (i32.store (i32.const 1040) (i32.const 1)) (i64.store (i32.const 1048) (i64.const 3600000000000))"
        " (drop (call $poll (i32.const 1024) (i32.const 1152) (i32.const 1) (i32.const 1216)))"
    )
    read = (
        " (i32.store (i32.const 2048) (i32.const 4096)) (i32.store (i32.const 2052) (i32.const 32768))"
        " (drop (call $read (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const 2056)))"
    )
    size, escaped = ("".join(f"\\{byte:02x}" for byte in part) for part in (len(data).to_bytes(4, "little"), data))
    return (
        '(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
        ' (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))'
        ' (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
        f' (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00{size}{escaped}")'
        f' (func (export "_start"){read if asked else ""} (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 512)))'
        f"{wait if forever else ''}))"
    )


def run(folder: Path, sessions, scenario, **how):
    """Run a scenario against a host that means harm."""

    async def whole():
        async with Host(folder / "host", sessions, **how).serving() as host:
            return await scenario(host)

    return asyncio.run(whole())


def contents(message: object) -> bytes:
    return b"".join(part for part in message if isinstance(part, bytes)) if isinstance(message, tuple) else b""


def overheard(heard) -> bytes:
    return b"".join(contents(message) for _, message in heard)
