# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

from enarx.steward.openapi import make_openapi, openapi_bytes
from enarx.wire.steward import CERTIFICATES_PATH, CHALLENGE_PATH, PROBLEMS, RESULTS_PATH

TOP = Path(__file__).parents[3]


def operations():
    return [operation for path in make_openapi()["paths"].values() for operation in path.values()]


def test_the_checked_in_copy_is_what_is_served():
    """`python tools/make_host_api.py` writes it again."""
    assert (TOP / "docs/formats/steward-api.json").read_bytes() == openapi_bytes()


def test_every_reference_leads_somewhere_and_every_model_is_used():
    text = json.dumps(make_openapi())
    schemas = make_openapi()["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) == set(schemas)


def test_every_path_that_a_keep_asks_is_there():
    assert {CHALLENGE_PATH, CERTIFICATES_PATH, RESULTS_PATH} <= set(make_openapi()["paths"])


def test_every_problem_but_a_bug_and_a_wrong_method_is_in_it():
    """Which operation gives which is seen in tests/integration/test_steward_openapi.py, at many requests."""
    said = {status for operation in operations() for status in operation["responses"]}
    assert {str(kind.status) for kind in PROBLEMS.values()} - said == {"405", "500"}


def test_every_error_is_a_problem_document():
    for operation in operations():
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] != "health":
                assert set(answer["content"]) == {"application/problem+json"}


def test_names_have_hyphens():
    for schema in make_openapi()["components"]["schemas"].values():
        assert not [name for name in schema.get("properties", {}) if "_" in name]
