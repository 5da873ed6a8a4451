# SPDX-License-Identifier: Apache-2.0
"""The other two parties of a Keep, for tests: a host that carries, and a tenant that says whatever a test wants said."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enarx.attester import Attested
from enarx.attester.attested import SNP_REPORT, RuntimeRegister
from enarx.channel.hpke import seal as seal_to
from enarx.channel.link import Link, Stream, Target, open_link, relay
from enarx.channel.segments import seal
from enarx.channel.session import Session
from enarx.channel.transcript import (
    Transcript,
    attach_report_data,
    offer_report_data,
    receipt_digest,
    receipt_report_data,
)
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.errors import TransportError
from enarx.keep.life import Keep
from enarx.keep.options import Options
from enarx.wire.release import (
    FILES,
    MAIN,
    TOML,
    Blob,
    Configuration,
    Content,
    Manifest,
    Release,
    encode_manifest,
    encode_release,
)
from enarx.wire.session import (
    Attach,
    Attachment,
    Challenge,
    Exit,
    Failure,
    Offer,
    Output,
    Provision,
    Receipt,
    Stats,
    Stdin,
    Window,
    encode_message,
)

WAIT_S = 20.0
"""For any one thing of a test; far more than it takes."""

OPTIONS = Options(backend="nil", memory_bytes=1 << 30, package_bytes=64 << 20, log_bytes=1 << 20, link_fd=3)


def make_credential() -> Credential:
    """Return a certificate and its key, another one each time."""
    return make_self_signed(at=datetime(2026, 1, 1, tzinfo=UTC))


class FakeAttester:
    """Says what it was asked, and counts.

    Args:
        problem: to raise instead.
    """

    media_type = SNP_REPORT
    backend = "nil"

    def __init__(self, problem: Exception | None = None, register: RuntimeRegister | None = None) -> None:
        self.problem = problem
        self.register = register
        self.asked: list[bytes] = []

    def attest(self, report_data: bytes) -> Attested:
        if self.problem is not None:
            raise self.problem
        self.asked.append(report_data)
        return Attested(b"over " + report_data)


@dataclass
class Host:
    """Carries, as a host does, what a test lets it.

    Args:
        path: of the Keep's listening socket.
        answer: of the emulated platform.
    """

    path: str
    answer: Callable[[bytes], bytes] | None = None
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    outbound: Callable[[Stream], Any] | None = None
    opened: list[Target] = field(default_factory=list)
    link: Link = None  # type: ignore[assignment]
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def connect(self) -> None:
        """Say hello to the Keep; wait until its socket is there."""
        deadline = time.monotonic() + WAIT_S
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        self.link = await open_link(sock, role="host", accept=self._accept)

    async def session(self) -> Stream:
        """Open a session stream."""
        return await self.link.open(Target.session())

    async def inbound(self, name: str) -> Stream:
        """Connect to a published port."""
        return await self.link.open(Target.inbound(name))

    def _accept(self, stream: Stream) -> None:
        self.opened.append(stream.target)
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        kind = stream.target.kind
        if kind == "blob":
            data = self.blobs.get(stream.target.digest)
            if data is None:
                stream.reset("refused")
                return
            await stream.write(data)
            stream.end()
        elif kind == "platform" and self.answer is not None:
            request = await stream.read()
            await stream.write(await asyncio.to_thread(self.answer, request))
            stream.close()
        elif kind == "outbound" and self.outbound is not None:
            stream.confirm()
            await self.outbound(stream)
        else:
            stream.reset("refused")


async def echo(stream: Stream) -> None:
    """Be a peer that sends back what it gets."""
    while data := await stream.read():
        await stream.write(data)
    stream.end()


async def connect_to(stream: Stream, port: int) -> None:
    """Be a peer that is a port of this machine."""
    sock = socket.create_connection(("127.0.0.1", port))
    await relay(stream, sock)


@dataclass
class Sealed:
    """A release before it is sealed, and its ciphertexts."""

    release: Release
    blobs: dict[bytes, bytes]


def seal_package(
    module: bytes,
    toml: bytes | None = None,
    files: bytes | None = None,
    *,
    configuration: Configuration | None = None,
    **changes: Any,
) -> Sealed:
    """Encrypt a package.

    Args:
        module: main.wasm.
        toml: Enarx.toml.
        files: the blob of that name.
        configuration: beyond the package.
        changes: of the release.
    """
    contents = {MAIN: module} | ({} if toml is None else {TOML: toml}) | ({} if files is None else {FILES: files})
    named, blobs = {}, {}
    for name, plaintext in contents.items():
        key = secrets.token_bytes(32)
        ciphertext = b"".join(seal(key, [plaintext]))
        digest = hashlib.sha256(ciphertext).digest()
        blobs[digest] = ciphertext
        named[name] = Blob(key, digest, len(ciphertext), hashlib.sha256(plaintext).digest(), len(plaintext))
    manifest = Manifest(
        Content(hashlib.sha256(module).digest(), len(module)),
        None if toml is None else Content(hashlib.sha256(toml).digest(), len(toml)),
    )
    configuration = configuration or Configuration()
    if files is not None:
        configuration = configuration._replace(files=hashlib.sha256(files).digest())
    release = Release(
        package=encode_manifest(manifest),
        blobs=named,
        configuration=configuration,
        time_ns=time.time_ns(),
        salt=secrets.token_bytes(32),
    )
    return Sealed(release._replace(**changes), blobs)


class Tenant:
    """One session of a tenant.

    Args:
        session: established.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.offered = b""
        self.transcript: Transcript | None = None
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.offsets: list[int] = []
        self.window = 0
        self.stats: Stats | None = None
        self._runs = False

    @classmethod
    async def connect(cls, stream: Stream, credential: Credential | None = None) -> Tenant:
        """Complete the handshake."""
        return cls(await Session.handshake(stream, credential or make_credential(), "tenant"))

    async def send(self, *messages: Any) -> None:
        """Send messages; input waits for the first window, once there will be one."""
        if self._runs and not self.window and any(isinstance(message, Stdin) and message.data for message in messages):
            await self.until_window(1)
        await self.session.send(*messages)

    async def receive(self) -> Any:
        """Return the next message."""
        return await self.session.receive(WAIT_S)

    async def challenge(self, **changes: Any) -> Offer | Attachment | Failure:
        """Challenge the Keep, and return what it answers."""
        challenge = Challenge(secrets.token_bytes(32), (SNP_REPORT,))._replace(**changes)
        await self.send(challenge)
        self.transcript = self.session.transcript(encode_message(challenge))
        answer: Offer | Attachment | Failure = await self.receive()
        return answer

    async def offer(self) -> Offer:
        """Challenge an empty Keep."""
        offer = await self.challenge()
        assert isinstance(offer, Offer), offer
        assert self.transcript is not None
        self.offered = offer_report_data(self.transcript, offer)
        return offer

    async def provision(self, offer: Offer, sealed: Sealed, *, info: bytes | None = None) -> Receipt | Failure:
        """Provision the Keep, and return what it answers."""
        plaintext = encode_release(sealed.release)
        await self.send(Provision(seal_to(offer.hpke_key, plaintext, self.offered if info is None else info)))
        answer: Receipt | Failure = await self.receive()
        return answer

    async def accept(self) -> None:
        """Say that the receipt is good; without it the Keep ends with the session."""
        await self.send(Attach(0))
        self._runs = True

    def receipt_data(self, receipt: Receipt) -> bytes:
        """Return what the evidence of a receipt has to be over."""
        return receipt_report_data(self.offered, receipt)

    async def attachment(self, receipt: Receipt) -> tuple[Attachment, bytes]:
        """Challenge a provisioned Keep, and return its answer with what its evidence has to be over."""
        attachment = await self.challenge()
        assert isinstance(attachment, Attachment), attachment
        assert self.transcript is not None
        return attachment, attach_report_data(self.transcript, attachment, receipt_digest(receipt))

    async def attach(self, receipt: Receipt, offset: int | None = None) -> Attachment:
        """Attach from an offset on; None is all that is still there."""
        attachment, _ = await self.attachment(receipt)
        await self.send(Attach(attachment.log_start if offset is None else offset))
        self._runs = True
        return attachment

    async def next_output(self) -> str:
        """Wait for a message that is output, collect it, and return the name; other messages are remembered."""
        while True:
            message = await self.receive()
            self._remember(message)
            if isinstance(message, Output):
                return message.name

    async def until(self, text: bytes, name: str = "stdout") -> None:
        """Wait until the output has some text."""
        while text not in self.output[name]:
            self._remember(await self.receive())

    async def until_window(self, window: int) -> None:
        """Wait until so much input may be sent."""
        while self.window < window:
            self._remember(await self.receive())

    async def finish(self, data: bytes | None = None) -> Exit:
        """Send input, if any, and its end; wait for the workload's end; close the session."""
        if data is not None:
            sent = 0
            while sent < len(data):
                await self.until_window(sent + 1)
                piece = data[sent : sent + min(65536, self.window - sent)]
                await self.send(Stdin(piece))
                sent += len(piece)
            await self.send(Stdin(b""))
        while True:
            message = await self.receive()
            if isinstance(message, Exit):
                await self.session.close()
                return message
            self._remember(message)

    def _remember(self, message: Any) -> None:
        if isinstance(message, Output):
            self.output[message.name] += message.data
            self.offsets.append(message.offset)
        elif isinstance(message, Window):
            self.window = message.stdin
        elif isinstance(message, Stats):
            self.stats = message
        else:
            raise AssertionError(f"found {message}")


@dataclass
class Running:
    """A Keep in this process, and its host."""

    keep: Keep
    host: Host
    attester: FakeAttester
    said: list[str]
    life: asyncio.Task[int]

    async def tenant(self, credential: Credential | None = None) -> Tenant:
        """Return a tenant with a session, as soon as the Keep has room for it."""
        while True:
            try:
                return await Tenant.connect(await self.host.session(), credential)
            except TransportError as error:
                if "limit" not in str(error):
                    raise
                await asyncio.sleep(0.01)

    async def ended(self) -> int:
        """Wait for the Keep's end."""
        async with asyncio.timeout(WAIT_S):
            return await asyncio.shield(self.life)


async def start_keep(folder: Path, *, attester: FakeAttester | None = None, **changes: Any) -> Running:
    """Start a Keep in this process."""
    path = str(folder / "link")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    said: list[str] = []
    attester = attester or FakeAttester()
    options = changes.pop("options", OPTIONS)
    keep = Keep(options, listener, lambda _ask: attester, say=said.append, **changes)
    life = asyncio.get_running_loop().create_task(keep.run())
    host = Host(path)
    await host.connect()
    return Running(keep, host, attester, said, life)
