# SPDX-License-Identifier: Apache-2.0
"""Come back to a Keep from another terminal, with the deployment's key and its receipt.

The Keep has to show anew what it is, under the policy of its deployment, and that it is the one of the stored receipt, before
anything is sent to it or anything it says is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from enarx.channel.session import Session
from enarx.channel.transcript import receipt_digest
from enarx.deploy.attesting import Fetch, Judge, Reattested, attest_again
from enarx.deploy.policy import make_policy
from enarx.deploy.session import Conversation
from enarx.errors import DecodeError
from enarx.wire.session import Receipt, decode_keep_message_untrusted

if TYPE_CHECKING:
    from enarx.deploy.folder import DeploymentFolder
    from enarx.deploy.host_client import HostClient

__all__ = ["AttachedKeep", "attach"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedKeep:
    """A Keep that showed that it is the one of the receipt; `conversation.attach(offset)` comes next.

    Args:
        conversation: with its workload.
        attested: what it said, and the verdict.
    """

    conversation: Conversation
    attested: Reattested

    @property
    def emulated(self) -> bool:
        """Return whether it rests on an emulated platform."""
        return self.attested.judged.result.emulated


async def attach(
    host: HostClient,
    keep_id: str,
    folder: DeploymentFolder,
    *,
    now: Callable[[], datetime],
    fetch: Fetch | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AttachedKeep:
    """Open a session with a Keep that was deployed from here, and judge it.

    Args:
        host: where it is.
        keep_id: the host's name for it.
        folder: of the deployment.
        now: the time, aware UTC.
        fetch: for missing endorsements, or None where nothing may be fetched.
        say: is told what matters to whoever is at the terminal.

    Raises:
        UsageError: it was not deployed from here.
        VerificationError: another Keep answers under its name, or evidence is not authentic; and as `Judge.judge` says.
        TransportError: the host or the Keep does not answer.
    """
    credential = folder.load_credential()
    stored = folder.load_receipt()
    receipt = decode_keep_message_untrusted(stored.receipt)
    if not isinstance(receipt, Receipt):
        raise DecodeError(
            f"cannot use the stored receipt: found a message {type(receipt).__name__.lower()}, want a receipt"
        )
    policy = make_policy(stored.policy, name=stored.policy_name, accepted_roots=stored.accepted_roots)
    session = await Session.handshake(await host.open_session(keep_id), credential, "tenant")
    try:
        attested = await attest_again(session, Judge(policy, now=now, fetch=fetch), receipt_digest(receipt))
    except BaseException:
        await session.close()
        raise
    return AttachedKeep(conversation=Conversation(session, say=say), attested=attested)
