# SPDX-License-Identifier: Apache-2.0
"""How much `make soak` asks for: everything, or with fewer `SOAK_EXAMPLES` a fixed sample."""

from __future__ import annotations

import os

FULL = 100_000
EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", str(FULL)))
# Every how many bits one is flipped; odd, so that a sample meets each bit of a byte.
STEP = max(1, FULL // max(1, EXAMPLES)) | 1
"""1 in a full run."""
