# SPDX-License-Identifier: Apache-2.0
"""A Keep for tests of the tenant's side: the real session and the real emulated platform, and answers that a test can bend."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

from enarx.attester.emulated import EmulatedAttester
from enarx.channel.hpke import OneTimeKey
from enarx.channel.session import Session
from enarx.channel.transcript import (
    attach_report_data,
    configuration_digest,
    offer_report_data,
    receipt_digest,
    receipt_report_data,
    spki_hash,
)
from enarx.crypto.x509 import make_self_signed
from enarx.emulator.service import answer
from enarx.wire.release import (
    Configuration,
    Identity,
    decode_manifest_untrusted,
    decode_release_untrusted,
    encode_identity,
)
from enarx.wire.session import Attachment, Image, Limits, Offer, Receipt

AT = datetime(2026, 6, 1, tzinfo=UTC)
LIMITS = Limits(1 << 30, 1 << 20, 1 << 16)
MEASUREMENT = b"\x42" * 48


class Pipe:
    """One end of two queues, as a session wants its stream."""

    def __init__(self, inbound: asyncio.Queue[bytes], outbound: asyncio.Queue[bytes]) -> None:
        self.inbound, self.outbound = inbound, outbound

    async def read(self) -> bytes:
        return await self.inbound.get()

    async def write(self, data: bytes) -> None:
        self.outbound.put_nowait(bytes(data))

    def close(self) -> None:
        self.outbound.put_nowait(b"")
        # Whoever reads here is told too.
        self.inbound.put_nowait(b"")


def make_pipes() -> tuple[Pipe, Pipe]:
    one, other = asyncio.Queue(), asyncio.Queue()
    return Pipe(one, other), Pipe(other, one)


def make_credential():
    return make_self_signed(at=AT, lifetime=timedelta(days=36500))


class FakeKeep:
    """The Keep's end. Each step is a method that a test calls, replaces or leaves out."""

    def __init__(self, installation, measurement: bytes = MEASUREMENT, backend: str = "nil") -> None:
        self.installation = installation
        self.credential = make_credential()
        self.key = OneTimeKey()
        self.image = Image("enarx", "0.1.0", backend)
        self.session: Session | None = None
        self.received = []
        self.offered = b""
        self._attester = EmulatedAttester(
            lambda request: answer(installation, request, measurement=measurement, report_id=bytes(32))
        )

    async def open(self, pipe: Pipe) -> None:
        self.session = await Session.handshake(pipe, self.credential, "keep")

    async def challenged(self):
        await self.session.receive(10)
        return self.session.transcript(self.session.received)

    async def offer(self, change=lambda offer: offer) -> None:
        transcript = await self.challenged()
        offer = Offer(self.key.public_bytes, self.image, LIMITS, (), b"")
        self.offered = offer_report_data(transcript, offer)
        attested = self._attester.attest(self.offered)
        await self.session.send(change(offer._replace(evidence=attested.evidence, endorsements=attested.endorsements)))

    def identify(self, release) -> Identity:
        return Identity(
            package=hashlib.sha256(release.package).digest(),
            module=decode_manifest_untrusted(release.package).main.digest,
            configuration=configuration_digest(release.salt, release.configuration),
            pristine=release.configuration == Configuration(),
            tenant=spki_hash(self.session.peer_leaf),
        )

    async def receipt(self, change=lambda identity: identity) -> Receipt:
        provision = await self.session.receive(10)
        self.release = decode_release_untrusted(self.key.open(provision.release, self.offered))
        receipt = Receipt(encode_identity(change(self.identify(self.release))), LIMITS, (), b"")
        attested = self._attester.attest(receipt_report_data(self.offered, receipt))
        receipt = receipt._replace(evidence=attested.evidence, endorsements=attested.endorsements)
        await self.session.send(receipt)
        self.digest = receipt_digest(receipt)
        return receipt

    async def attachment(self, digest: bytes, log_start: int = 0, log_end: int = 0) -> None:
        transcript = await self.challenged()
        attachment = Attachment(log_start, log_end, self.image, LIMITS, (), b"")
        attested = self._attester.attest(attach_report_data(transcript, attachment, digest))
        await self.session.send(attachment._replace(evidence=attested.evidence, endorsements=attested.endorsements))

    async def listen(self) -> None:
        """Keep what the tenant sends until it leaves."""
        from enarx.errors import TransportError

        try:
            while True:
                self.received.append(await self.session.receive())
        except TransportError:
            return


class FakeHost:
    """Takes uploads and forgets them."""

    def __init__(self) -> None:
        self.uploads = []

    async def upload(self, keep_id, blob) -> None:
        self.uploads.append(b"".join(blob.chunks_from(0)))
