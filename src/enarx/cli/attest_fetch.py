# SPDX-License-Identifier: Apache-2.0
"""What `enarx attest verify` fetches when the verdict waits for it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

from enarx.cli import ui
from enarx.cli.options import Parsed
from enarx.endorsers import AMD_KDS_URL, INTEL_PCS_URL, Client, Endorsers, Fetched, Timing
from enarx.rats import Endorsements
from enarx.runtime.cache import default_root
from enarx.verifier import Recognised

__all__ = ["fetch_missing"]


def fetch_missing(
    parsed: Parsed, recognised: Recognised, known: Endorsements, *, at: datetime, timeout_s: float
) -> Fetched:
    """Fetch what evidence needs and neither brings along nor was given.

    Args:
        parsed: the command's arguments, which say where from: --amd-kds, --intel-pcs, --proxy.
        recognised: the evidence.
        known: what was given.
        at: the time that is judged for.
        timeout_s: for each thing that is fetched.

    Raises:
        PlatformError: the cache cannot be used.
        UsageError: an address is none.
    """
    root = default_root()
    endorsers = Endorsers(
        os.path.join(root or os.path.join("/tmp", f"enarx-{os.getuid()}"), "endorsements"),  # noqa: S108 - it must be ours alone, and that is checked
        timing=Timing(now=lambda: datetime.fromtimestamp(time.time(), UTC)),
        client=Client(proxy=parsed.value("proxy")),
        amd_url=parsed.value("amd-kds") or AMD_KDS_URL,
        intel_url=parsed.value("intel-pcs") or INTEL_PCS_URL,
        max_wait_s=timeout_s,
        say=ui.note,
    )
    return endorsers.fetch_for(recognised, known=known, at=at)
