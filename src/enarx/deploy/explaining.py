# SPDX-License-Identifier: Apache-2.0
"""Ask the host which part of a machine is another, after its launch digest was refused.

A launch digest is one number over firmware, kernel, initramfs and command line. The host knows what it started and may say so; it is
not believed, but computed with: what gives the digest that the evidence has is what was launched.

The verdict is there before anybody is asked, and no answer changes it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from enarx.deploy.reference import launch_hint
from enarx.errors import AppraisalError, EnarxError
from enarx.rats import AttestationResult

if TYPE_CHECKING:
    from enarx.deploy.host_client import HostClient
    from enarx.deploy.policy import TenantPolicy

__all__ = ["explain_launch"]


async def explain_launch(error: AppraisalError, policy: TenantPolicy, host: HostClient, keep_id: str) -> None:
    """Put into the hint of a refusal what the host's word proves.

    Args:
        error: of the verdict; one that is about something else stays as it is.
        policy: that was applied.
        host: where the Keep is; it is still there.
        keep_id: the host's name for it.
    """
    from enarx.image.reference import UNTOLD

    result = getattr(error, "result", None)
    if UNTOLD not in (error.hint or "") or not isinstance(result, AttestationResult):
        return
    try:
        said = await host.show_parts(keep_id)
    except EnarxError:
        return  # it says nothing, and the hint stands as it is
    hint = await asyncio.to_thread(launch_hint, result, policy.images, said)
    if hint is None:
        error.hint = f"{error.hint}; what the host says that it started does not give this launch digest"
    elif hint:
        error.hint = hint
