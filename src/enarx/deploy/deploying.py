# SPDX-License-Identifier: Apache-2.0
"""Deploy: ask for a Keep, attest it, provision it. The steps are labelled where they happen.

1. The host is asked for a Keep. While it boots, the verifier is loaded, the package encrypted, the deployment's key made, and what
   is accepted found out.
2. A session with the Keep is opened, and the Keep challenged. Nothing secret leaves before the verdict.
3. The key is stored: from the next step on, it is the only one that the Keep answers to.
4. The package is released, the receipt judged and stored.
5. The Keep is told so: it ends with the session until then, whatever the host does.

What fails before the end takes the Keep down and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from enarx.errors import AppraisalError, EnarxError, PlatformError, TransportError, UsageError
from enarx.wire.release import MAIN

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from enarx.channel.session import Session
    from enarx.crypto.x509 import Credential
    from enarx.deploy.attesting import Attested, Fetch
    from enarx.deploy.folder import DeploymentFolder
    from enarx.deploy.host_client import HostClient, HostKeep
    from enarx.deploy.package import Package
    from enarx.deploy.policy import TenantPolicy
    from enarx.deploy.sealing import SealedBlob, StoredBlob
    from enarx.deploy.session import Conversation
    from enarx.wire.receipt_file import ReceiptFile

__all__ = ["Deployment", "deploy_package"]

GIVE_UP_S = 10.0
_GIVE_UP_ATTEMPTS = 3
_GIVE_UP_PAUSE_S = 0.2
_LEAF_LIFETIME = timedelta(days=36500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A Keep that was accepted and runs the package.

    Args:
        keep: as the host describes it.
        attested: the offer and its verdict.
        receipt_file: with the Keep's identity record and all that both verdicts rest on.
        folder: where key and receipt are.
        conversation: with the workload.
    """

    keep: HostKeep
    attested: Attested
    receipt_file: ReceiptFile
    folder: DeploymentFolder
    conversation: Conversation


class _Prepared(NamedTuple):
    """What is made while the Keep boots."""

    blobs: dict[str, SealedBlob]
    credential: Credential


async def deploy_package(
    package: Package,
    *,
    host: HostClient,
    policy: Callable[[], TenantPolicy],
    state_root: str,
    backend: str = "nil",
    fetch: Fetch | None = None,
    accept_emulated: str | None = None,
    tenant_key: EllipticCurvePrivateKey | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
    say: Callable[[str], None] = lambda _: None,
    accepted: Callable[[Attested], None] = lambda _: None,
) -> Deployment:
    """Run a package in a Keep on a host that is not trusted.

    Args:
        package: what `load_package` returned.
        host: where; entered already.
        policy: gives what the tenant accepts. It is asked in a thread, while the Keep boots and the session is opened.
        state_root: where the deployment's folder is made: `default_state_root()`, or another.
        backend: that the host is asked for. What the Keep is, its evidence says.
        fetch: for missing endorsements, or None where nothing may be fetched.
        accept_emulated: the SHA-256 in hex of an emulated platform's root that is accepted beside the policy, empty for this
            installation's own, None for none. Such a platform protects nothing from its host.
        tenant_key: the deployment's key, by whose digest a Steward's grants know this tenant; None makes one for this deployment.
        clock_ns: the tenant's Unix time.
        say: is told what matters to whoever is at the terminal.
        accepted: is told of the verdict before anything is released; it may raise.

    Returns:
        the deployment; nothing of the workload's output was taken yet.

    Raises:
        UsageError: the package cannot be deployed like this, or the host says so.
        ConfigError: the policy is none.
        VerificationError: the Keep's evidence is not authentic. This and the next two have every finding as `result`.
        AppraisalError: the policy refuses the Keep.
        EndorsementError: it cannot be decided.
        DecodeError: what answers is no Keep of this version.
        TransportError: host or Keep do not answer.
        PlatformError: the key cannot be stored, or the host cannot start a Keep.
        KeepError: the Keep failed.
    """
    # 1
    creating = asyncio.ensure_future(
        host.create_keep(backend=backend, memory_bytes=package.memory_bytes, ports=package.ports)
    )
    preparing = asyncio.ensure_future(asyncio.to_thread(_prepare, package, clock_ns, tenant_key))

    async def decide() -> TenantPolicy:
        await asyncio.shield(preparing)
        return await asyncio.to_thread(policy)

    # A machine takes longer to boot than images to be measured.
    deciding = asyncio.ensure_future(decide())
    # What fails before anybody asks for it is told of that, and not of this too.
    deciding.add_done_callback(lambda done: done.cancelled() or done.exception())
    keep_id: str | None = None
    made: DeploymentFolder | None = None
    session: Session | None = None
    try:
        keep = await asyncio.shield(creating)
        keep_id = keep.id
        prepared = await preparing
        # 2
        from enarx.deploy.attesting import Judge, attest, refuse
        from enarx.deploy.explaining import explain_launch
        from enarx.deploy.folder import DeploymentFolder
        from enarx.deploy.provisioning import provision, require_room
        from enarx.deploy.receipt import make_receipt
        from enarx.deploy.session import Conversation
        from enarx.endorsers.emulated_root import emulated_root

        opening = asyncio.ensure_future(_open(host, keep.id, prepared.credential))
        try:
            in_force = await deciding
            if accept_emulated:
                # Whether it is one at all can be told now, and the platform's own only after the offer.
                emulated_root(accept_emulated)
        finally:
            session = await opening
        judge = Judge(
            in_force,
            now=lambda: datetime.fromtimestamp(clock_ns() / 1e9, UTC),
            fetch=fetch,
            accept_emulated=None if accept_emulated is None else lambda: emulated_root(accept_emulated),
        )
        try:
            attested = await attest(session, judge)
        except AppraisalError as error:
            await explain_launch(error, judge.policy, host, keep.id)
            raise
        try:
            require_room(package, attested.offer.limits.package_bytes)
            accepted(attested)
            # 3
            folder = DeploymentFolder.of(state_root, host.address.name, keep.id)
            folder.create(prepared.credential)
            made = folder
            blobs = await _place(host, keep.id, package, prepared.blobs, say)
        except EnarxError as error:
            await refuse(session, error)
            raise
        # 4
        provisioned = await provision(
            session,
            attested,
            package,
            blobs,
            judge=judge,
            host=host,
            keep_id=keep.id,
            time_ns=clock_ns(),
        )
        receipt_file = make_receipt(
            attested,
            provisioned.receipt,
            provisioned.judged,
            policy=judge.policy,
            credential=prepared.credential,
            host=host.address.url,
            keep_id=keep.id,
        )
        folder.store_receipt(receipt_file)
        # 5
        conversation = Conversation(session, say=say)
        await conversation.accept()
    except BaseException:
        deciding.cancel()
        preparing.cancel()
        if session is not None:
            await session.close()
        await _give_up(host, creating, keep_id)
        if made is not None:
            made.remove()
        raise
    return Deployment(
        keep=keep,
        attested=attested,
        receipt_file=receipt_file,
        folder=folder,
        conversation=conversation,
    )


def _prepare(package: Package, clock_ns: Callable[[], int], key: EllipticCurvePrivateKey | None) -> _Prepared:
    """Load what judging takes, encrypt, and make the deployment's key where there is none, and its certificate."""
    from enarx.crypto.x509 import make_self_signed
    from enarx.deploy import policy, provisioning, receipt, session, socket_stream  # noqa: F401 - their imports take time
    from enarx.deploy.sealing import seal_blobs

    at = datetime.fromtimestamp(clock_ns() / 1e9, UTC)
    return _Prepared(
        blobs=seal_blobs(
            # What a registry has encrypted need not be encrypted again, as a rule.
            {name: data for name, data in package.plaintexts.items() if package.stored is None or name != MAIN},
            package.digests,
        ),
        credential=make_self_signed(at=at, lifetime=_LEAF_LIFETIME, key=key),
    )


async def _place(
    host: HostClient, keep_id: str, package: Package, blobs: dict[str, SealedBlob], say: Callable[[str], None]
) -> dict[str, SealedBlob | StoredBlob]:
    """Have the host begin to fetch what a registry has, where it does that; else encrypt that too, for an upload."""
    stored = package.stored
    if stored is None:
        return {**blobs}
    try:
        await host.fetch_blob(keep_id, stored)
    except (UsageError, PlatformError):
        from enarx.deploy.sealing import seal_blobs

        say(f"the host does not fetch from {stored.registry}: uploading the package")
        return {**await asyncio.to_thread(seal_blobs, {MAIN: package.plaintexts[MAIN]}, package.digests), **blobs}
    return {MAIN: stored, **blobs}


async def _open(host: HostClient, keep_id: str, credential: Credential) -> Session:
    from enarx.channel.session import Session

    return await Session.handshake(await host.open_session(keep_id), credential, "tenant")


async def _give_up(host: HostClient, creating: asyncio.Future[HostKeep], keep_id: str | None) -> None:
    """Have the Keep taken down, also where it was not known yet that there is one. What the host does then is its affair."""
    with contextlib.suppress(EnarxError, TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(GIVE_UP_S):
            keep_id = keep_id or (await asyncio.shield(creating)).id
            for _ in range(_GIVE_UP_ATTEMPTS):
                try:
                    await host.delete_keep(keep_id)
                except TransportError:
                    # What broke the session may break the connection under this as well.
                    await asyncio.sleep(_GIVE_UP_PAUSE_S)
                else:
                    return
