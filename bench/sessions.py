# SPDX-License-Identifier: Apache-2.0
"""A tenant and a Keep that meet in this process, and the bare cryptography that such a meeting cannot do without.

Both sides of `attest` are here. `Meeting` is the code that deploys and Keeps run: TLS over a stream in memory, the challenge,
evidence of an emulated platform, the production verifier's verdict under the policy of a deployment, and the release, sealed,
sent and opened. `BareCryptography` calls the libraries for what the issue counts: one TLS 1.3 handshake with a client
certificate and the same group, one P-384 signature and its verification, and one HPKE seal and open. Keys, contexts and
platform are made once and before, on both sides; only what a session must have fresh is made in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from OpenSSL import SSL
from timing import BenchError, now

from enarx.attester import Attested
from enarx.attester.emulated import EmulatedAttester
from enarx.channel.hpke import _SUITE, OneTimeKey, seal
from enarx.channel.session import Session
from enarx.channel.tls import ALPN, GROUP, SUITES
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.deploy.attesting import Judge, attest
from enarx.deploy.package import load_package
from enarx.deploy.policy import TenantPolicy
from enarx.deploy.reference import POLICY_NAME, default_policy
from enarx.deploy.sealing import seal_blobs
from enarx.emulator.installation import open_installation
from enarx.emulator.service import answer
from enarx.image import measure_process, package_folder
from enarx.keep.provisioning import open_release
from enarx.keep.session import About, receive_challenge, receive_provision, send_offer
from enarx.rats import Verdict
from enarx.wire.release import Release, encode_release
from enarx.wire.session import Limits, Provision

LIMITS = Limits(memory_bytes=1 << 30, package_bytes=1 << 30, log_bytes=1 << 20)
INFO = bytes(64)


class _End:
    """One end of a stream in memory."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self.peer = self

    async def read(self) -> bytes:
        return await self._arrived.get()

    async def write(self, data: bytes) -> None:
        self.peer._arrived.put_nowait(data)

    def close(self) -> None:
        self.peer._arrived.put_nowait(b"")


class Meeting:
    """A tenant and a Keep that meet again and again, each time in a session with keys of its own.

    Args:
        folder: for the emulated platform.
        module: that is released.
    """

    def __init__(self, folder: Path, module: str) -> None:
        at = now()
        platform = open_installation(str(folder / "platform"), at=at)
        measurement = measure_process(package_folder())
        attester = EmulatedAttester(
            lambda request: answer(platform, request, measurement=measurement, report_id=bytes(32))
        )

        async def attest_in_a_thread(report_data: bytes) -> Attested:
            return await asyncio.to_thread(attester.attest, report_data)

        made = default_policy({"process": measurement})
        policy = TenantPolicy(policy=made.policy, text=made.text.encode(), name=POLICY_NAME)
        self._attest = attest_in_a_thread
        self._about = About(attester.backend, attester.media_type, LIMITS)
        self._judge = Judge(policy.accepting({hashlib.sha256(platform.root).digest()}), now=now)
        self._tenant, self._keep = make_self_signed(at=at), make_self_signed(at=at)
        package = load_package(module)
        blobs = {name: sealed.blob for name, sealed in seal_blobs(package.plaintexts).items()}
        self._release = Release(package.manifest, blobs, package.configuration, 1, bytes(32))
        self.release_bytes = len(encode_release(self._release))
        self.n_findings = 0

    async def meet(self) -> None:
        """Attest, appraise, seal and open."""
        ours, theirs = _End(), _End()
        ours.peer, theirs.peer = theirs, ours
        _, released = await asyncio.gather(self._be_tenant(ours), self._be_keep(theirs))
        if released != self._release:
            raise BenchError("attest: the Keep opened another release, want the one that was sealed")

    async def _be_tenant(self, stream: _End) -> None:
        session = await Session.handshake(stream, self._tenant, "tenant")
        attested = await attest(session, self._judge)
        if attested.judged.result.verdict is not Verdict.ACCEPTED:
            raise BenchError("attest: found a verdict that accepts nothing")
        self.n_findings = len(attested.judged.result.findings)
        sealed = seal(attested.offer.hpke_key, encode_release(self._release), attested.judged.report_data)
        await session.send(Provision(sealed))

    async def _be_keep(self, stream: _End) -> Release:
        session = await Session.handshake(stream, self._keep, "keep")
        transcript = await receive_challenge(session, self._about)
        key = OneTimeKey()
        offered = await send_offer(session, transcript, key, self._about, self._attest)
        sealed = await receive_provision(session)
        if sealed is None:
            raise BenchError("attest: the tenant refused, want a release")
        return open_release(sealed, key, info=offered, limits=LIMITS)


class BareCryptography:
    """The same operations with nothing around them.

    Args:
        release_bytes: how much is sealed.
    """

    def __init__(self, release_bytes: int) -> None:
        at = now()
        self._client = _context(SSL.TLS_CLIENT_METHOD, make_self_signed(at=at))
        self._server = _context(SSL.TLS_SERVER_METHOD, make_self_signed(at=at))
        self._client.set_alpn_protos([ALPN])
        self._server.set_alpn_select_callback(lambda _, offered: offered[0])
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._public = self._key.public_key()
        self._sealed_to = OneTimeKey()
        self._plaintext = os.urandom(release_bytes)
        self._signed = os.urandom(672)

    def run(self) -> None:
        """Do each once."""
        self._shake_hands()
        signature = self._key.sign(self._signed, ec.ECDSA(SHA384()))
        self._public.verify(signature, self._signed, ec.ECDSA(SHA384()))
        key = self._sealed_to._key
        if key is None or _SUITE.decrypt(
            _SUITE.encrypt(self._plaintext, key.public_key(), info=INFO), key, info=INFO
        ) != (self._plaintext):
            raise BenchError("bare cryptography: opened other bytes than were sealed")

    def _shake_hands(self) -> None:
        client, server = SSL.Connection(self._client, None), SSL.Connection(self._server, None)
        client.set_connect_state()
        server.set_accept_state()
        for end, other in ((client, server), (server, client), (client, server)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            other.bio_write(end.bio_read(1 << 16))
        server.do_handshake()
        if server.get_peer_certificate() is None or client.get_group_name() != GROUP:
            raise BenchError(f"bare TLS: found no client certificate or not {GROUP}")


def _context(method: int, credential: Credential) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(SUITES)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    if SSL._lib.SSL_CTX_set1_curves_list(context._context, GROUP.encode()) != 1:
        raise BenchError(f"bare TLS: found an OpenSSL without {GROUP}")
    context.use_certificate(credential.chain[0])
    context.use_privatekey(credential.private_key)
    return context


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that stays, so that none is made while something is timed."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
