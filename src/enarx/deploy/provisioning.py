# SPDX-License-Identifier: Apache-2.0
"""Entrust a package to a Keep that was accepted, and make sure that it runs exactly that.

Seal and provision:

1. The release has the keys and digests of everything that travels. It is sealed to the one-time key of the offer, with the offer's
   report data as `info`, so that nobody but this Keep can open it, and this Keep only in this session.
2. `provision` is sent, and the ciphertext handed to the host meanwhile, where the host does not fetch it itself. After the first byte of it a failure ends the Keep.
3. The receipt says what the Keep runs. It is compared with what was computed here, and its evidence judged under the same policy.

What is left is to store the receipt and to say so (`Conversation.accept`): without that word the Keep ends with the session.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enarx.channel.hpke import seal
from enarx.channel.transcript import configuration_digest, spki_hash
from enarx.deploy.attesting import FAREWELL_S, SEND_S, Attested, Judge, Judged, judge_receipt, raise_failure, refuse
from enarx.deploy.sealing import SealedBlob
from enarx.errors import DecodeError, EnarxError, TransportError, UsageError, VerificationError
from enarx.wire.release import MAIN, Configuration, Identity, Release, decode_identity_untrusted, encode_release
from enarx.wire.session import Failure, Provision, Receipt

if TYPE_CHECKING:
    from enarx.channel.session import Session
    from enarx.deploy.host_client import HostClient
    from enarx.deploy.package import Package
    from enarx.deploy.sealing import StoredBlob

__all__ = ["Provisioned", "provision", "require_room"]

RECEIPT_TIMEOUT_S = 440.0
"""For a Keep to receive the package, attest, and have its first certificate, for which it asks a Steward a minute long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A Keep that runs the package.

    Args:
        receipt: as received.
        judged: the verdict on its evidence.
    """

    receipt: Receipt
    judged: Judged


def require_room(package: Package, package_bytes: int) -> None:
    """Return if a package fits into a Keep.

    Raises:
        UsageError: it does not.
    """
    if package.total_bytes > package_bytes:
        raise UsageError(
            f"cannot deploy {package.path}: the package: found {package.total_bytes} bytes, want at most {package_bytes},"
            " which is what the Keep has room for",
            hint="ask for a larger Keep with --memory, or the host's owner for larger packages",
        )


async def provision(
    session: Session,
    attested: Attested,
    package: Package,
    blobs: Mapping[str, SealedBlob | StoredBlob],
    *,
    judge: Judge,
    host: HostClient,
    keep_id: str,
    time_ns: int,
) -> Provisioned:
    """Release a package to a Keep.

    Args:
        session: in which the offer came.
        attested: the accepted offer.
        package: what it shall run.
        blobs: its ciphertext, by name, or where the host has begun to fetch it from.
        judge: with the tenant's policy.
        host: takes the ciphertext.
        keep_id: the host's name for the Keep.
        time_ns: the tenant's Unix time.

    Raises:
        UsageError: the package does not fit.
        VerificationError: the Keep runs something else. Evidence is refused as `enarx.deploy.attesting` says.
        TransportError: the connection broke, or there was no answer in time.
        KeepError: the Keep failed; so do the other classes that a Keep can name.
    """
    require_room(package, attested.offer.limits.package_bytes)
    salt = secrets.token_bytes(32)
    release = Release(
        package=package.manifest,
        blobs={name: sealed.blob for name, sealed in blobs.items()},
        configuration=package.configuration,
        time_ns=time_ns,
        salt=salt,
        steward=package.steward,
    )
    sealed = seal(attested.offer.hpke_key, encode_release(release), attested.judged.report_data)
    try:
        await session.send(Provision(sealed), timeout_s=SEND_S)
    except TransportError:
        # A Keep that waits no longer says so before it goes.
        said = await session.hear_out(FAREWELL_S)
        if isinstance(said, Failure):
            raise_failure(said)
        raise
    receipt = await _receive(session, host, keep_id, [each for each in blobs.values() if isinstance(each, SealedBlob)])
    expected = Identity(
        package=package.digest,
        module=release.blobs[MAIN].plaintext,
        configuration=configuration_digest(salt, package.configuration),
        pristine=package.configuration == Configuration(),
        tenant=spki_hash(attested.transcript.tenant_leaf),
    )
    try:
        _require_same(receipt, expected)
        judged = await judge_receipt(judge, attested, receipt)
    except EnarxError as error:
        # The workload runs already, and the host may keep the session open.
        await refuse(session, error)
        raise
    return Provisioned(receipt=receipt, judged=judged)


async def _receive(session: Session, host: HostClient, keep_id: str, blobs: Sequence[SealedBlob]) -> Receipt:
    """Hand over the ciphertext and wait for the receipt; whatever fails first ends both."""
    upload = asyncio.ensure_future(_upload(host, keep_id, blobs))
    answer = asyncio.ensure_future(session.receive(RECEIPT_TIMEOUT_S))
    try:
        await asyncio.wait({upload, answer}, return_when=asyncio.FIRST_COMPLETED)
        if upload.done() and upload.exception() is not None and not answer.done():
            # A Keep that failed says why, and then nobody takes the rest: its word is the better one, if it comes.
            await asyncio.wait({answer}, timeout=1.0)
            if not answer.done():
                upload.result()
        message = await answer
    finally:
        for task in (upload, answer):
            task.cancel()
        await asyncio.gather(upload, answer, return_exceptions=True)
    if isinstance(message, Failure):
        raise_failure(message)
    if not isinstance(message, Receipt):
        raise DecodeError(
            f"cannot understand the Keep: found a message {type(message).__name__.lower()}, want a receipt"
        )
    return message


async def _upload(host: HostClient, keep_id: str, blobs: Sequence[SealedBlob]) -> None:
    for blob in blobs:
        await host.upload(keep_id, blob)


def _require_same(receipt: Receipt, expected: Identity) -> None:
    """Return only if the Keep says that it runs exactly what it was given."""
    found = decode_identity_untrusted(receipt.identity)
    for name in Identity._fields:
        if getattr(found, name) != getattr(expected, name):
            raise VerificationError(
                f"the Keep runs something else: identity.{name}: found another value than was released, want the same",
                hint="nothing it says can be believed; deploy again, and tell whoever runs the Keep's platform",
            )
