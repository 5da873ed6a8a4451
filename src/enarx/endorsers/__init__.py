# SPDX-License-Identifier: Apache-2.0
"""Fetch and keep what vendors say about attesters; never judge it.

Runs: tenant, Steward. Trusted by: nobody; what it returns is bytes whose signatures the verifier checks.

    endorsers = Endorsers(cache_dir, now=...)
    fetched = endorsers.fetch_for(recognised)
    result = verify_evidence(evidence, at=..., endorsements=fetched.endorsements)

AMD learns the product, chip id and TCB of SNP machines, Intel the FMSPC of SGX and TDX machines; neither learns what runs
there. What is kept for how long is in `enarx.endorsers.fetching`, and for people in `docs/endorsements.md`.
"""

from __future__ import annotations

from enarx.endorsers.amd_kds import AMD_KDS_URL
from enarx.endorsers.endorsers import Endorsers, Fetched
from enarx.endorsers.fetching import Source, Timing
from enarx.endorsers.http import Client
from enarx.endorsers.intel_pcs import INTEL_PCS_URL, UPDATES

__all__ = ["AMD_KDS_URL", "INTEL_PCS_URL", "UPDATES", "Client", "Endorsers", "Fetched", "Source", "Timing"]
