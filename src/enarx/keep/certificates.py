# SPDX-License-Identifier: Apache-2.0
"""The certificate that a workload's TLS sockets show: a Steward's, renewed while it runs, or one that the Keep signs itself.

Rules of this file:

- Key and certificate are in memory only: in this process, which makes them, and in the one of the workload, which shows them.
- A certificate of a Steward's is for the key and the workload that were attested, ends in the tenant's root and in nothing else,
  and is valid at the Keep's time; else the one before stays. Each has a key of its own and fresh evidence, which is over that root:
  no other Steward than the one that the release names can use it.
- Without a Steward the certificate has the evidence itself. A handshake carries it every time, so there is nothing in it that is
  not needed: no event logs, and no more than `MAX_SELF_SIGNED_BYTES` altogether.
- The console, which is the host's, hears the class of an error, and nothing else of it.

Source: docs/protocol.md, "Certificates".
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL.crypto import X509, Error, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags

from enarx.attester import Attested
from enarx.attester.attested import EVENT_LOG
from enarx.channel.link import Stream
from enarx.channel.transcript import identity_report_data, leaf_hash, self_signed_report_data
from enarx.crypto.certificates import is_valid_at, load_certificate_untrusted
from enarx.crypto.x509 import Credential, make_self_signed
from enarx.errors import ConfigError, DecodeError, EnarxError, TransportError, UsageError, VerificationError
from enarx.runtime.credential_slot import CredentialSlot
from enarx.runtime.identity import load_root
from enarx.wire.cmw import CMW_EXTENSION_OID, CmwRecord, decode_cmw_untrusted
from enarx.wire.keep_certificate import KeepCertificate, decode_keep_certificate_untrusted, encode_keep_extension
from enarx.wire.release import Steward
from enarx.wire.steward import CertificateAnswer, CertificateRequest
from enarx.wire.steward_url import parse_steward_url

if TYPE_CHECKING:
    from enarx.keep.steward_client import StewardClient

__all__ = ["Certificates", "Issued", "judge_answer"]

FIRST_S = 60.0
"""For the first certificate, evidence and all."""
RENEWAL_S = 120.0
"""For each later one; nobody waits for it."""
FIRST_PAUSE_S = 5.0
LAST_PAUSE_S = 300.0
"""Between attempts that fail: as much as the first, twice as much each time, and never more than the last."""

MAX_SELF_SIGNED_BYTES = 16 << 10
"""Of a certificate with evidence. It travels in each handshake: what does not fit into one TLS record is more than some clients
take, and more than a new connection sends at once."""

MAX_CLOCK_DIFFERENCE = timedelta(minutes=10)
"""Between this Keep's clock and the end of a nonce. A certificate that lasts for days would hide that clocks are a day apart."""

Attest = Callable[[bytes], Awaitable[Attested]]


class Issued(NamedTuple):
    """A certificate that was found right.

    Args:
        credential: the chain without what is signed by itself, and the key.
        renew_in_s: when to ask for the next one, at the latest two thirds of the rest of its life from now.
    """

    credential: Credential
    renew_in_s: float


class Certificates:
    """The certificates of one workload, one after another.

    Args:
        identity: the record in CBOR that they are about.
        attest: gets evidence.
        now: the Keep's wall time.
        say: a line for the console.

    Attributes:
        slot: where the workload process finds the newest.
    """

    def __init__(
        self, identity: bytes, *, attest: Attest, now: Callable[[], datetime], say: Callable[[str], None]
    ) -> None:
        self.slot = CredentialSlot()
        self._identity = identity
        self._attest = attest
        self._now = now
        self._say = say

    async def sign_itself(self) -> None:
        """Make a certificate that the Keep signs itself, with evidence for its key.

        Raises:
            PlatformError: there is no evidence.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attested = await self._attest(self_signed_report_data(_spki_digest(key), self._identity))
        self.slot.put(_self_signed(key, self._identity, attested, self._now(), self._say))

    async def obtain(
        self, steward: Steward, receipt: bytes, connect: Callable[[str, int], Awaitable[Stream]]
    ) -> Callable[[], Awaitable[None]]:
        """Ask a Steward for the first certificate.

        Args:
            steward: the one that the tenant named.
            receipt: the message without its evidence.
            connect: as of `StewardClient`.

        Returns:
            What renews it for ever, to be run as a task.

        Raises:
            DecodeError: the Steward's URL or root is none, or what it answers.
            VerificationError: what it answers is no certificate of this Keep's. So do the classes by which it refuses.
            TransportError: it cannot be asked, or not in time.
            PlatformError: there is no evidence.
        """
        from enarx.keep.steward_client import StewardClient

        try:
            url, root = parse_steward_url(steward.url), load_root(steward.root)
        except ConfigError as error:
            raise DecodeError(f"release refused: {error}") from error
        client = StewardClient(url, root, connect=connect, now=self._now)

        async def ask(within_s: float) -> float:
            try:
                async with asyncio.timeout(within_s):
                    issued = await self._ask(client, root, receipt)
            except TimeoutError as error:
                raise TransportError(
                    f"cannot ask the Steward {client.name}: found no certificate, want one within {within_s:g} s"
                ) from error
            self.slot.put(issued.credential)
            return issued.renew_in_s

        renew_in_s = await ask(FIRST_S)
        return lambda: self._renew(ask, renew_in_s)

    async def _ask(self, client: StewardClient, root: x509.Certificate, receipt: bytes) -> Issued:
        challenge = await client.challenge()
        _require_same_time(challenge.expires, self._now())
        key = ec.generate_private_key(ec.SECP256R1())
        root_digest = leaf_hash(root.public_bytes(Encoding.DER))
        attested = await self._attest(
            identity_report_data(challenge.nonce, _spki_digest(key), self._identity, root_digest)
        )
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        answer = await client.certify(
            CertificateRequest(
                csr=csr.public_bytes(Encoding.DER),
                receipt=receipt,
                evidence=attested.evidence,
                endorsements=attested.endorsements,
                nonce=challenge.nonce,
                root=root_digest,
            )
        )
        return judge_answer(answer, key, identity=self._identity, root=root, at=self._now())

    async def _renew(self, ask: Callable[[float], Awaitable[float]], renew_in_s: float) -> None:
        """Renew the certificate in time, again and again; where it fails, the one before stays."""
        pause_s = 0.0
        while True:
            # Keeps that were started together do not ask together.
            await asyncio.sleep(pause_s or renew_in_s * (0.9 + secrets.randbelow(1000) / 10_000))
            try:
                renew_in_s = await ask(RENEWAL_S)
            except EnarxError as error:
                self._say(f"certificate not renewed: {type(error).__name__}")
                pause_s = min(LAST_PAUSE_S, pause_s * 2 or FIRST_PAUSE_S)
                continue
            if pause_s:
                self._say("certificate renewed")
            pause_s = 0.0


def judge_answer(
    answer: CertificateAnswer, key: ec.EllipticCurvePrivateKey, *, identity: bytes, root: x509.Certificate, at: datetime
) -> Issued:
    """Return what a Steward issued only if it is this Keep's certificate.

    Args:
        answer: of the Steward.
        key: that it is for.
        identity: the record in CBOR that it is about.
        root: the tenant's.
        at: the Keep's wall time.

    Raises:
        DecodeError: a certificate is not well formed, or says nothing of a Keep.
        VerificationError: it is another's, or not valid.
    """
    leaf, *issuers = map(load_certificate_untrusted, answer.chain)
    try:
        is_ours = leaf.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        is_ours = False
    if not is_ours:
        raise VerificationError("certificate refused: key: found another one, want the one that was asked for")
    keep = decode_keep_certificate_untrusted(answer.chain[0])
    if keep.result is None or keep.identity != identity:
        raise VerificationError("certificate refused: identity: found that of another Keep, want this one's")
    if not is_valid_at(leaf, at):
        first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        raise VerificationError(
            f"certificate refused: the clocks differ: the Steward's certificate is valid from {_time(first)} to {_time(last)},"
            f" and this Keep's clock, which is the tenant's, says {_time(at)}",
            hint="is the clock of the machine that deploys right, and that of the Steward?",
        )
    _require_chain(leaf, issuers, root, at)
    left = leaf.not_valid_after_utc - at
    renew_in = min(answer.renew_after - at, left * 2 / 3)
    # Whoever trusts the operator's authority alone, above the Steward's, has to be shown the Steward's; a root is with those who trust it.
    chain = (leaf, *(issuer for issuer in issuers if issuer.issuer != issuer.subject))
    return Issued(Credential(chain=chain, private_key=key), max(FIRST_PAUSE_S, renew_in.total_seconds()))


def _require_same_time(expires: datetime, at: datetime) -> None:
    """Return only if the Steward's clock is about this Keep's, as its nonce shows, which does not hold for long."""
    if abs(expires - at) > MAX_CLOCK_DIFFERENCE:
        raise VerificationError(
            f"certificate refused: the clocks differ: the Steward's nonce is for {_time(expires)} at the latest, and this Keep's"
            f" clock, which is the tenant's, says {_time(at)}",
            hint="is the clock of the machine that deploys right, and that of the Steward?",
        )


def _require_chain(
    leaf: x509.Certificate, issuers: list[x509.Certificate], root: x509.Certificate, at: datetime
) -> None:
    """Return only if a chain ends in the root, as those will find who connect."""
    store = X509Store()
    store.add_cert(X509.from_cryptography(root))
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(at)
    try:
        X509StoreContext(
            store, X509.from_cryptography(leaf), [X509.from_cryptography(each) for each in issuers]
        ).verify_certificate()
    except X509StoreContextError as error:
        reason = str(error).lower()[:100]
        raise VerificationError(
            f"certificate refused: chain: found {reason} at {_time(at)}, want one that ends in the Steward's root",
            hint="is --steward-root the root of that Steward, and are the clocks right?",
        ) from error
    except Error as error:
        # It looks at parts of a certificate that were passed over before.
        raise DecodeError("certificate refused: found one that OpenSSL cannot read, want X.509 in DER") from error


def _self_signed(
    key: ec.EllipticCurvePrivateKey, identity: bytes, attested: Attested, at: datetime, say: Callable[[str], None]
) -> Credential:
    """Return a certificate with as much evidence as there is room for."""
    needed = tuple(each for each in attested.endorsements if _type_of(each) != EVENT_LOG)
    for endorsements in dict.fromkeys((needed, ())):
        try:
            value = encode_keep_extension(KeepCertificate(identity, None, attested.evidence, endorsements))
        except UsageError:
            continue
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_EXTENSION_OID), value)
        made = make_self_signed(at=at, key=key, extension=extension)
        if len(made.chain[0].public_bytes(Encoding.DER)) <= MAX_SELF_SIGNED_BYTES:
            return made
    say("the certificate has no evidence, because there is too much of it")
    return make_self_signed(at=at, key=key)


def _type_of(endorsement: bytes) -> str | int | None:
    try:
        cmw = decode_cmw_untrusted(endorsement)
    except DecodeError:
        return None
    return cmw.type if isinstance(cmw, CmwRecord) else None


def _spki_digest(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha384(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
