# SPDX-License-Identifier: Apache-2.0
"""Write the OpenAPI documents of the host's and the Steward's APIs again: docs/formats/host-api.json and steward-api.json."""

from __future__ import annotations

from pathlib import Path

from enarx.host import openapi as host
from enarx.steward import openapi as steward

FORMATS = Path(__file__).parent.parent / "docs/formats"

if __name__ == "__main__":
    (FORMATS / "host-api.json").write_bytes(host.openapi_bytes())
    (FORMATS / "steward-api.json").write_bytes(steward.openapi_bytes())
