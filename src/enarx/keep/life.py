# SPDX-License-Identifier: Apache-2.0
"""The one life of a Keep: empty, provisioned, ended; and which sessions there may be in each.

- Empty: one session at a time, each with a key of its own. A tenant that refuses leaves it empty. Whoever provisions it owns it.
- From the first byte of `provision` on, whatever goes wrong ends the Keep: there is no second try. So does a session that ends
  before the tenant has said that it has the receipt: nobody would know what runs here, or could stop it.
- Provisioned: only the tenant that provisioned it may attach, by the certificate of that session. A later attach takes the place of
  the one before, once it is proven and said; one that a host held back since before then is refused. Nobody attached is a
  workload that runs on.
- Ended: how it ended is told whoever attaches, for a while, and at once forgotten where the tenant has heard it.

The host can break the link and come back; it can neither speak in a session nor keep one from ending.

What holds it together is that state. Evidence, opening, certificates, running and carrying are in the files beside.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from enarx.attester import Attested, Attester
from enarx.channel.hpke import OneTimeKey
from enarx.channel.link import Link, Stream, Target, open_link
from enarx.channel.port import Port, PortConnection
from enarx.channel.session import Session
from enarx.channel.transcript import leaf_hash, receipt_digest
from enarx.crypto.x509 import make_self_signed
from enarx.errors import DecodeError, EnarxError, KeepError, PlatformError, TransportError, VerificationError
from enarx.keep.log import Log
from enarx.keep.options import Options
from enarx.keep.ports import Ports, egress_of, listen, open_outbound
from enarx.keep.provisioning import Package, identify, make_start, open_release, receive_package
from enarx.keep.session import (
    SEND_S,
    About,
    Conversation,
    attest_receipt,
    class_of,
    receive_acceptance,
    receive_attach,
    receive_challenge,
    receive_provision,
    say_failure,
    send_attachment,
    send_offer,
)
from enarx.keep.supervisor import Supervisor
from enarx.keep.workload_spawn import Spawned, spawn
from enarx.keep.workload_start import Connect, Refused, workload_command
from enarx.runtime.scratch import Scratch
from enarx.wire.platform_answer import MAX_ANSWER_BYTES
from enarx.wire.release import Steward
from enarx.wire.session import Limits, Receipt, without_evidence

if TYPE_CHECKING:
    from enarx.keep.certificates import Certificates

__all__ = ["Keep"]

IDLE_S = 300.0
"""How long an empty Keep waits for a session."""
LINGER_S = 600.0
"""How long a Keep tells of its workload's end."""
EVIDENCE_S = 60.0
EXCHANGE_S = 50.0
"""For one request to the emulated platform."""
FLUSH_S = 5.0

MAX_SESSIONS = 8
"""With a provisioned Keep, those that are not attached yet."""

# Its dates mean nothing to anybody; the wall clock is the host's and is not asked.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Keep:
    """A Keep.

    Args:
        options: what it was started with.
        listener: where the host connects, one connection at a time; closed at the end.
        make_attester: makes the evidence device; it is given a function that asks the emulated platform and blocks.
        say: a line for the console, without anything of a tenant's.
        command: starts a workload process; None is ours.
        spawned: the first workload process, where there is one.
        user: number of whom workload processes become; None is whoever this one is.
        idle_s: how long an empty Keep waits for a session.
        linger_s: how long it tells of its workload's end.
    """

    def __init__(
        self,
        options: Options,
        listener: socket.socket | Port,
        make_attester: Callable[[Callable[[bytes], bytes]], Attester],
        *,
        say: Callable[[str], None],
        command: Sequence[str] | None = None,
        spawned: Spawned | None = None,
        user: int | None = None,
        idle_s: float = IDLE_S,
        linger_s: float = LINGER_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._say = say
        self._command, self._spawned = command or workload_command(user), spawned
        self._idle_s, self._linger_s = idle_s, linger_s
        self._attester = make_attester(self._ask_platform)
        self._attesting = asyncio.Lock()
        limits = Limits(options.memory_bytes, options.package_bytes, options.log_bytes)
        self._about = About(options.backend, self._attester.media_type, limits)
        self._credential = make_self_signed(at=_EPOCH)
        self._link: Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

        self._log = Log(options.log_bytes)
        self._scratch = Scratch(owner=user)
        self._supervisor: Supervisor | None = None
        self._ports: Ports | None = None
        self._certificates: Certificates | None = None
        self._renewing: asyncio.Task[None] | None = None
        # Which sessions there are. `_tenant` and `_receipt` are of the session that provisioned, once the receipt was accepted.
        self._sessions = 0
        self._stopping = False
        self._tenant = b""
        self._receipt = b""
        self._conversation: Conversation | None = None
        self._arrivals = 0
        self._attached = 0

    async def run(self) -> int:
        """Live.

        Returns:
            The status to end with.
        """
        if isinstance(self._listener, socket.socket):
            self._listener.setblocking(False)
        hosts = self._loop.create_task(self._serve_hosts())
        hosts.add_done_callback(self._stop_serving)
        self._wait_for_session()
        try:
            return await self._over
        finally:
            self._listener.close()
            self._set_timer(None)
            tasks = {hosts, *self._tasks}
            for task in tasks:
                task.cancel()
            # First of all: nobody may be there who could stop it. What waits for the host has limits, and comes after it.
            if self._supervisor is not None:
                await self._supervisor.close()
            self._scratch.remove()
            await asyncio.wait(tasks, timeout=FLUSH_S)
            if self._ports is not None:
                await self._ports.close()
            if self._certificates is not None:
                self._certificates.slot.close()
            if self._link is not None:
                # Farewells of sessions are with the link; the host may not take them. A host that sees it closed looks for the
                # end of this process, so nothing comes after it.
                await self._flush(self._link)

    def end(self, status: int) -> None:
        """End the Keep, as soon as what was said is on its way."""
        if not self._over.done():
            self._over.set_result(status)

    # --- The host

    async def _serve_hosts(self) -> None:
        while True:
            sock = await self._accept_host()
            try:
                self._link = await open_link(sock, role="keep", accept=self._accept)
            except TransportError:
                continue
            await self._link.wait_closed()
            self._link = None

    async def _accept_host(self) -> socket.socket | PortConnection:
        if isinstance(self._listener, Port):
            return await self._listener.accept()
        return (await self._loop.sock_accept(self._listener))[0]

    def _stop_serving(self, hosts: asyncio.Task[None]) -> None:
        if not hosts.cancelled() and (error := hosts.exception()) is not None:
            self._say(f"cannot serve the host: {type(error).__name__} at {_place_of(error)}")
            self.end(PlatformError.status)

    async def _flush(self, link: Link) -> None:
        try:
            async with asyncio.timeout(FLUSH_S):
                await link.drain()
        except TimeoutError:
            self._say("the host took nothing any more")
        link.close()

    def _accept(self, stream: Stream) -> None:
        if self._over.done():
            stream.reset("closed")
        elif stream.target.kind == "session":
            self._accept_session(stream)
        elif self._ports is not None:
            self._ports.accept(stream)
        else:
            stream.reset("refused")

    def _accept_session(self, stream: Stream) -> None:
        if self._sessions >= (MAX_SESSIONS if self._tenant else 1):
            stream.reset("limit")
            return
        self._sessions += 1
        self._set_timer(None)
        work = self._serve_attach(stream) if self._tenant else self._serve_empty(stream)
        task = self._loop.create_task(self._serve(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # a bug of ours ends this session, not the workload; its text may be a tenant's
            self._say(f"bug in enarx: {type(error).__name__} at {_place_of(error)}")
            if not self._tenant:
                self.end(1)
        finally:
            self._sessions -= 1
            self._wait_for_session()

    # --- Empty

    async def _serve_empty(self, stream: Stream) -> None:
        session = await self._shake_hands(stream)
        if session is None:
            return
        provisioned = False
        try:
            transcript = await receive_challenge(session, self._about)
            key = OneTimeKey()
            offered = await send_offer(session, transcript, key, self._about, self._attest)
            self._prepare()
            try:
                sealed = await receive_provision(session)
            except EnarxError as error:
                # What was no message, or was the beginning of one, may have been a provision.
                provisioned = session.has_partial or not isinstance(error, TransportError)
                raise
            if sealed is not None:
                provisioned = True
                receipt = await self._provision(session, sealed, key, offered)
                await session.send(receipt, timeout_s=SEND_S)
                await receive_acceptance(session)
                self._tenant, self._receipt = leaf_hash(session.peer_leaf), receipt_digest(receipt)
        except EnarxError as error:
            if provisioned and self._supervisor is not None:
                # Before the farewell, which takes as long as the host likes.
                self._supervisor.kill()
            await self._fail(session, error)
            if provisioned:
                self._say(f"provisioning failed: {type(error).__name__}")
                self.end(class_of(error))
            return
        except BaseException:
            if provisioned:
                self.end(1)
            raise
        if provisioned:
            await self._converse(session, 0)
        else:
            await session.close()

    async def _provision(self, session: Session, sealed: bytes, key: OneTimeKey, offered: bytes) -> Receipt:
        """Open a release, start its workload, and return the receipt."""
        arrived_ns = time.monotonic_ns()
        release = open_release(sealed, key, info=offered, limits=self._about.limits)
        package = await receive_package(release, fetch=self._fetch, limits=self._about.limits)
        try:
            receipt = Receipt(identify(release, session.peer_leaf), self._about.limits, (), b"")
            time_ns, steward = release.time_ns, release.steward
            # The content keys with it.
            del release
            egress = egress_of(package.toml)
            start = await asyncio.to_thread(
                make_start, package, self._scratch, time_ns=time_ns, monotonic_ns=arrived_ns
            )
            register = self._attester.register
            if register is not None:
                await asyncio.to_thread(register.extend, receipt_digest(receipt))
            receipt = await attest_receipt(receipt, offered, self._attest)
            certificates = await self._certify(package, receipt, steward, time_ns - arrived_ns)
            if certificates is not None:
                root = None if steward is None else steward.root
                start = start._replace(has_credential=True, steward_root=root)
            supervisor = self._prepare()
            # The tenant has all of the output before it, so the workload waits where the log is full before the tenant is there.
            self._log.pin = 0
            listeners = listen(package.toml)
            try:
                self._ports = Ports(
                    egress,
                    {name: sock.getsockname() for name, sock in listeners.items()},
                    link=lambda: self._link,
                    answer=supervisor.answer,
                )
                supervisor.start(
                    start,
                    package.module_fd,
                    [sock.fileno() for sock in listeners.values()],
                    None if certificates is None else certificates.slot.fd,
                )
            finally:
                for sock in listeners.values():
                    sock.close()
        finally:
            os.close(package.module_fd)
        return receipt

    async def _certify(
        self, package: Package, receipt: Receipt, steward: Steward | None, offset_ns: int
    ) -> Certificates | None:
        """Have a certificate for the workload's TLS sockets, and have it renewed; None where nothing would show one.

        Args:
            package: what the certificate is for.
            receipt: its identity.
            steward: the one that the tenant named.
            offset_ns: between CLOCK_MONOTONIC and the tenant's Unix time.
        """
        # Not for packages without: attesting takes time, and so do these imports.
        if steward is None:
            from enarx.keep.certificates_needed import needs_certificate

            if not needs_certificate(package.toml, package.module_fd):
                return None
        from enarx.keep.certificates import Certificates

        certificates = self._certificates = Certificates(
            receipt.identity,
            attest=self._attest,
            now=lambda: datetime.fromtimestamp((time.monotonic_ns() + offset_ns) / 1e9, UTC),
            say=self._say,
        )
        if steward is None:
            await certificates.sign_itself()
            return certificates
        renew = await certificates.obtain(
            steward, without_evidence(receipt), lambda host, port: open_outbound(self._link, host, port)
        )
        task = self._renewing = self._loop.create_task(self._keep_renewing(renew))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return certificates

    async def _keep_renewing(self, renew: Callable[[], Awaitable[None]]) -> None:
        try:
            await renew()
        except Exception as error:  # noqa: BLE001  # a bug of ours ends the renewing, not the workload
            self._say(f"bug in enarx: {type(error).__name__} at {_place_of(error)}")

    def _prepare(self) -> Supervisor:
        """Start a workload process that has no workload yet, because starting takes a while."""
        if self._supervisor is None or self._supervisor.ended is not None:
            spawned, self._spawned = self._spawned or spawn(self._command), None
            self._supervisor = Supervisor(self._log, changed=self._look, connect=self._connect, spawned=spawned)
        return self._supervisor

    async def _fetch(self, digest: bytes) -> Stream:
        stream = await self._require_link().open(Target.blob(digest))
        stream.end()
        return stream

    # --- Provisioned

    async def _serve_attach(self, stream: Stream) -> None:
        session = await self._shake_hands(stream)
        if session is None:
            return
        try:
            if leaf_hash(session.peer_leaf) != self._tenant:
                raise VerificationError("attach refused: this Keep is another tenant's")
            # A host can hold back what a tenant has long given up. Who came first does not displace who came later.
            self._arrivals += 1
            arrival = self._arrivals
            transcript = await receive_challenge(session, self._about)
            attachment = await send_attachment(session, transcript, self._about, self._log, self._receipt, self._attest)
            offset = await receive_attach(session, attachment)
            if offset is not None and arrival < self._attached:
                raise TransportError("attach refused: found a later one that came before it")
        except EnarxError as error:
            await self._fail(session, error)
            return
        if offset is None:
            await session.close()
            return
        self._attached = arrival
        await self._converse(session, offset)

    async def _converse(self, session: Session, offset: int) -> None:
        """Carry the workload's streams over this session, in the place of another."""
        supervisor = self._supervisor
        if supervisor is None:
            raise KeepError("session over: found no workload, want one")
        if self._conversation is not None:
            self._conversation.displace()
        conversation = self._conversation = Conversation(session, supervisor, self._log, offset)
        # It is counted among those that are not attached yet no more.
        self._sessions -= 1
        try:
            await conversation.carry()
        except EnarxError as error:
            await self._fail(session, error)
        finally:
            self._sessions += 1
            if self._conversation is conversation:
                self._conversation = None
                self._log.pin = None
                supervisor.resume()
            await session.close()
        self._stopping = self._stopping or conversation.stopping
        if conversation.delivered:
            self.end(0)
        else:
            self._look()

    def _connect(self, wanted: Connect) -> None:
        if self._ports is not None:
            self._ports.connect(wanted)
        elif self._supervisor is not None:
            self._supervisor.answer(Refused(wanted.request, "denied"))

    def _look(self) -> None:
        """Something changed about the workload."""
        if self._renewing is not None and self._supervisor is not None and self._supervisor.ended is not None:
            # Nobody shows it any more.
            self._renewing.cancel()
        if self._conversation is not None:
            self._conversation.wake()
        elif self._tenant and self._supervisor is not None and self._supervisor.ended is not None:
            if self._stopping:
                self.end(0)
            elif self._timer is None and not self._sessions:
                self._set_timer(self._linger_s)

    # --- What all of it needs

    async def _shake_hands(self, stream: Stream) -> Session | None:
        try:
            return await Session.handshake(stream, self._credential, "keep")
        except (TransportError, VerificationError, DecodeError):
            # Whoever it was has been told by TLS.
            return None

    async def _fail(self, session: Session, error: EnarxError) -> None:
        await say_failure(session, error)
        await session.close()

    async def _attest(self, report_data: bytes) -> Attested:
        try:
            async with asyncio.timeout(EVIDENCE_S), self._attesting:
                return await asyncio.to_thread(self._attester.attest, report_data)
        except TimeoutError as error:
            raise PlatformError(f"cannot attest: found no evidence, want it within {EVIDENCE_S:g} s") from error

    def _ask_platform(self, request: bytes) -> bytes:
        """Ask the emulated platform, from another thread than the loop's."""
        return asyncio.run_coroutine_threadsafe(self._exchange(request), self._loop).result()

    async def _exchange(self, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(EXCHANGE_S):
                stream = await self._require_link().open(Target.platform())
                try:
                    await stream.write(request)
                    stream.end()
                    answer = b""
                    while len(answer) <= MAX_ANSWER_BYTES and (data := await stream.read()):
                        answer += data
                    return answer
                finally:
                    stream.close()
        except TimeoutError as error:
            raise PlatformError("cannot attest: the emulated platform: found no answer, want one in time") from error

    def _require_link(self) -> Link:
        if self._link is None:
            raise TransportError("link: found no host, want one")
        return self._link

    def _wait_for_session(self) -> None:
        if self._sessions:
            return
        if self._tenant:
            self._look()
        else:
            self._set_timer(self._idle_s)

    def _set_timer(self, delay_s: float | None) -> None:
        """End the Keep after so long without a session, or not."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None else self._loop.call_later(delay_s, self.end, 0)


def _place_of(error: BaseException) -> str:
    """Return where in our sources an error is from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "no place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
