# SPDX-License-Identifier: Apache-2.0
"""Write docs/formats/host-api.json, the OpenAPI document of the host's API, again."""

from __future__ import annotations

from pathlib import Path

from enarx.host.openapi import openapi_bytes

TARGET = Path(__file__).parent.parent / "docs/formats/host-api.json"

if __name__ == "__main__":
    TARGET.write_bytes(openapi_bytes())
