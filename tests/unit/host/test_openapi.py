# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

from enarx.host import api
from enarx.host.openapi import make_openapi, openapi_bytes
from enarx.serving import requests

TOP = Path(__file__).parents[3]


def test_the_checked_in_copy_is_what_is_served():
    """`python tools/make_host_api.py` writes it again."""
    assert (TOP / "docs/formats/host-api.json").read_bytes() == openapi_bytes()


def test_every_reference_leads_somewhere():
    text = json.dumps(make_openapi())
    schemas = make_openapi()["components"]["schemas"]
    found = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert found
    assert found <= set(schemas)


def test_every_status_of_the_api_is_in_it():
    """Which operation gives which is seen in tests/integration/test_host_service.py, at every request."""
    sources = Path(api.__file__).read_text() + Path(requests.__file__).read_text()
    said = {*re.findall(r"RefusedError\(\s*(\d{3})", sources)}
    assert len(said) > 5
    said |= {str(status) for _, status in api._STATUSES}
    operations = [
        operation
        for path in make_openapi()["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
    ]
    assert said <= {status for operation in operations for status in operation["responses"]}


def test_names_have_hyphens():
    for schema in make_openapi()["components"]["schemas"].values():
        assert not [name for name in schema.get("properties", {}) if "_" in name]
