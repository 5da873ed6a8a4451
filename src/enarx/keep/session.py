# SPDX-License-Identifier: Apache-2.0
"""What a Keep says to a tenant in one session: evidence first, and then the workload's standard streams.

Rules of this file:

- A message that is not one of those that may come now ends the session, whatever it is.
- Every message but those of a running workload has a time limit.
- One task sends: what it sends is what the log, the inlet and the supervisor have at that moment, so nothing is queued twice.

It knows one session; which sessions there may be is for `life` to say.

Source: docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from enarx import __version__
from enarx.attester import Attested
from enarx.channel.hpke import OneTimeKey
from enarx.channel.session import Session
from enarx.channel.transcript import Transcript, attach_report_data, offer_report_data, receipt_report_data
from enarx.errors import DecodeError, EnarxError, KeepError, PlatformError, TransportError
from enarx.keep.log import Log
from enarx.keep.supervisor import Supervisor
from enarx.keep.workload_start import Ended
from enarx.wire.session import (
    Attach,
    Attachment,
    Challenge,
    Detach,
    Exit,
    Failure,
    Image,
    KeepMessage,
    Limits,
    Offer,
    Provision,
    Receipt,
    Refuse,
    Signal,
    Stdin,
    Stop,
    TenantMessage,
    Window,
)

__all__ = [
    "About",
    "Conversation",
    "attest_receipt",
    "class_of",
    "receive_acceptance",
    "receive_attach",
    "receive_challenge",
    "receive_provision",
    "say_failure",
    "send_attachment",
    "send_offer",
]

CHALLENGE_S = 30.0
PROVISION_S = 120.0
ATTACH_S = 120.0
SEND_S = 30.0
"""For a tenant, or its host, to take what it waits for."""
FAREWELL_S = 1.0
"""For the last words to a tenant who may not listen."""
DELIVERY_S = 10.0
"""For a tenant to say that it has heard of the end."""
STATS_S = 5.0

INPUT_BYTES = 4 << 20
"""What a tenant may send before the workload has taken any."""
_OUTPUT_BYTES = 1 << 19

Attest = Callable[[bytes], Awaitable[Attested]]


class About(NamedTuple):
    """What a Keep says of itself.

    Args:
        backend: what it was started as.
        media_type: of its evidence.
        limits: what there is room for.
    """

    backend: str
    media_type: str
    limits: Limits

    @property
    def image(self) -> Image:
        """What it says it is."""
        return Image("enarx", __version__, self.backend)


async def receive_challenge(session: Session, about: About) -> Transcript:
    """Wait for a tenant's challenge.

    Returns:
        What the evidence of this session is over, but for the Keep's own message.

    Raises:
        DecodeError: it is something else.
        PlatformError: this Keep has no evidence that the tenant can judge.
        TransportError: the tenant went away or took too long.
    """
    message = await session.receive(CHALLENGE_S)
    if not isinstance(message, Challenge):
        raise _out_of_order(message, "a challenge")
    if about.media_type not in message.media_types:
        raise PlatformError(f"challenge refused: media types: found none of this Keep's evidence, {about.media_type}")
    return session.transcript(session.received)


async def send_offer(session: Session, transcript: Transcript, key: OneTimeKey, about: About, attest: Attest) -> bytes:
    """Offer a one-time key, with evidence for it.

    Returns:
        The report data that the evidence is over.
    """
    offer = Offer(key.public_bytes, about.image, about.limits, (), b"")
    report_data = offer_report_data(transcript, offer)
    attested = await attest(report_data)
    offer = offer._replace(endorsements=attested.endorsements, evidence=attested.evidence)
    await session.send(offer, timeout_s=SEND_S)
    return report_data


async def receive_provision(session: Session) -> bytes | None:
    """Wait for the tenant's decision.

    Returns:
        The sealed release, or None where the tenant refused this Keep or went away in order.

    Raises:
        DecodeError: it is something else.
        TransportError: the tenant took too long, or the session broke.
    """
    try:
        message = await session.receive(PROVISION_S)
    except TransportError:
        if session.ended and not session.has_partial:
            return None
        raise
    if isinstance(message, Refuse):
        return None
    if not isinstance(message, Provision):
        raise _out_of_order(message, "provision or refuse")
    return message.release


async def attest_receipt(receipt: Receipt, offered: bytes, attest: Attest) -> Receipt:
    """Return a receipt with its evidence; `offered` is what the offer's was over."""
    attested = await attest(receipt_report_data(offered, receipt))
    return receipt._replace(endorsements=attested.endorsements, evidence=attested.evidence)


async def receive_acceptance(session: Session) -> None:
    """Wait until the tenant has checked and stored the receipt, which makes what runs here its own.

    Raises:
        DecodeError: it says something else.
        KeepError: it refuses the receipt.
        TransportError: it went away or took too long.
    """
    message = await session.receive(ATTACH_S)
    if isinstance(message, Refuse):
        raise KeepError("session over: found the receipt refused, want it accepted")
    if not isinstance(message, Attach):
        raise _out_of_order(message, "attach or refuse")
    if message.offset:
        raise DecodeError(f"attach refused: offset: found {message.offset}, want 0 after a receipt")


async def send_attachment(
    session: Session, transcript: Transcript, about: About, log: Log, receipt: bytes, attest: Attest
) -> Attachment:
    """Prove to the tenant that this is the Keep of its receipt.

    Args:
        session: with the tenant.
        transcript: of it.
        about: this Keep.
        log: tells what is still there.
        receipt: its digest.
        attest: gets evidence.
    """
    attachment = Attachment(log.start, log.end, about.image, about.limits, (), b"")
    attested = await attest(attach_report_data(transcript, attachment, receipt))
    attachment = attachment._replace(endorsements=attested.endorsements, evidence=attested.evidence)
    await session.send(attachment, timeout_s=SEND_S)
    return attachment


async def receive_attach(session: Session, attachment: Attachment) -> int | None:
    """Wait for the tenant's decision.

    Returns:
        From which offset on it wants the output, or None where it refused this Keep or went away in order.

    Raises:
        DecodeError: it is something else, or an offset that the attachment did not offer.
        TransportError: the tenant took too long, or the session broke.
    """
    try:
        message = await session.receive(ATTACH_S)
    except TransportError:
        if session.ended:
            return None
        raise
    if isinstance(message, Refuse):
        return None
    if not isinstance(message, Attach):
        raise _out_of_order(message, "attach or refuse")
    if not attachment.log_start <= message.offset <= attachment.log_end:
        raise DecodeError(
            f"attach refused: offset: found {message.offset}, want {attachment.log_start} to {attachment.log_end}"
        )
    return message.offset


def class_of(error: EnarxError) -> int:
    """Return the class of a failure, 103 to 109: a configuration that is wrong is 2 to who wrote it, and here what came is wrong."""
    return error.status if 103 <= error.status <= 109 else DecodeError.status


async def say_failure(session: Session, error: EnarxError) -> None:
    """Tell the tenant why the session ends, if it takes it."""
    with contextlib.suppress(TransportError):
        await session.send(Failure(class_of(error), str(error)[:1024] or type(error).__name__), timeout_s=FAREWELL_S)


class Conversation:
    """A session with the tenant of a workload, from its `attach` on.

    Args:
        session: established and judged by both.
        supervisor: of the workload.
        log: of what it writes; pinned as long as this is the conversation of the moment.
        offset: of the first byte of output to send; where the log has lost it meanwhile, the first that is still there.
    """

    def __init__(self, session: Session, supervisor: Supervisor, log: Log, offset: int) -> None:
        self._session, self._supervisor, self._log = session, supervisor, log
        self._at = max(offset, log.start)
        self._changed = asyncio.Event()
        self._displaced = asyncio.Event()
        self._stats_due = True
        self._received = 0
        self._granted = 0
        self._said_end = False
        self.delivered = False
        """Whether the tenant has said that it knows of the workload's end."""
        self.stopping = False
        """Whether the tenant wants nothing to be left."""
        log.pin = self._at

    def wake(self) -> None:
        """Look again: something has changed."""
        self._changed.set()

    def displace(self) -> None:
        """Give way to a later one."""
        self._displaced.set()

    async def carry(self) -> None:
        """Carry the streams until the tenant leaves, is displaced, or has heard of the workload's end.

        Raises:
            DecodeError: the tenant said what may not come now.
            TransportError: it was displaced, or sent more input than it may. A session that breaks is just over.
        """
        loop = asyncio.get_running_loop()
        receiver = loop.create_task(self._receive())
        sender = loop.create_task(self._send())
        displaced = loop.create_task(self._displaced.wait())
        tasks: set[asyncio.Task[Any]] = {receiver, sender, displaced}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._said_end:
                await asyncio.wait({receiver, displaced}, timeout=DELIVERY_S, return_when=asyncio.FIRST_COMPLETED)
            if self._displaced.is_set():
                raise TransportError("session over: found a later attach, want one session")
            for task in (receiver, sender):
                if task.done():
                    task.result()
        except TransportError:
            if self._displaced.is_set() or self._received > self._granted:
                raise
            # A tenant that heard the end closes the session, which nobody else can say in its name. One that leaves before it
            # has heard it says `detach` first, and that is not the end of the session by an error.
            self.delivered = self._said_end and receiver.done() and self._session.ended
        finally:
            self._session_over(tasks)

    def _session_over(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            if task.done():
                # Asked for, or it would be taken for forgotten.
                _ = task.cancelled() or task.exception()
            else:
                task.cancel()

    async def _receive(self) -> None:
        while not self._displaced.is_set():
            message = await self._session.receive()
            match message:
                case Stdin(data):
                    self._received += len(data)
                    if self._received > self._granted:
                        raise TransportError("session over: stdin: found more than the window, want none beyond it")
                    self._supervisor.inlet.write(data)
                case Signal(number):
                    self._supervisor.signal(number)
                case Stop(grace_ms):
                    self.stopping = True
                    self._supervisor.stop(grace_ms)
                case Detach():
                    return
                case _:
                    raise _out_of_order(message, "stdin, signal, stop or detach")

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(STATS_S, self._tick)
        try:
            while not self._displaced.is_set():
                self._changed.clear()
                ended = self._supervisor.ended
                messages = self._about_input()
                outputs = self._log.read(self._at, _OUTPUT_BYTES)
                if outputs:
                    messages += outputs
                    self._at = outputs[-1].offset + len(outputs[-1].data)
                    # What is in `outputs` needs no pin.
                    self._log.pin = self._at
                    self._supervisor.resume()
                if self._stats_due or (ended and not outputs):
                    messages.append(self._supervisor.stats())
                    self._stats_due = False
                    timer.cancel()
                    timer = loop.call_later(STATS_S, self._tick)
                if ended and not outputs:
                    messages.append(_exit_of(ended))
                    await self._session.send(*messages)
                    self._said_end = True
                    return
                if messages:
                    await self._session.send(*messages)
                else:
                    await self._changed.wait()
        finally:
            timer.cancel()

    def _tick(self) -> None:
        self._stats_due = True
        self._changed.set()

    def _about_input(self) -> list[KeepMessage]:
        """Let the tenant send more, in large steps."""
        inlet = self._supervisor.inlet
        if inlet.ended:
            return []
        grant = self._received + INPUT_BYTES - inlet.waiting_bytes
        if grant - self._granted < INPUT_BYTES // 2:
            return []
        self._granted = grant
        return [Window(grant)]


def _exit_of(ended: Ended) -> Exit:
    return Exit(ended.status, ended.failure, ended.trap, ended.hint)


def _out_of_order(message: TenantMessage | KeepMessage, want: str) -> DecodeError:
    return DecodeError(f"session over: found {type(message).__name__.lower()}, want {want}")
