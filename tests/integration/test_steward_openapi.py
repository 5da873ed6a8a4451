# SPDX-License-Identifier: Apache-2.0
"""The real service, asked whatever its own OpenAPI document allows and forbids: no status that is not in it, none of 500 and above."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.steward_processes import StewardProcess, found_steward

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "50"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "negative_data_rejection",
)

# It knows no way to write these types: what it makes up is sent as it is.
HOOKS = """
import schemathesis

@schemathesis.serializer("application/pkcs10", "application/vnd.steward.pkcs10-bundle.v1")
def as_it_is(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
"""


@pytest.fixture(scope="module")
def steward(tmp_path_factory):
    state = found_steward(tmp_path_factory.mktemp("steward") / "state", more="\n[original]\nenabled = true\n")
    with StewardProcess(state, "--offline") as running:
        yield running


def run_schemathesis(steward, *options, folder):
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"https://localhost:{steward.port}/openapi.json"),
        *("--tls-verify", str(steward.root), "--checks", ",".join(CHECKS), "--seed", "6", "--workers", "2"),
        *(
            "--max-examples",
            str(EXAMPLES),
            "--suppress-health-check",
            "all",
            "--phases",
            "examples,coverage,fuzzing",
            *options,
        ),
    ]
    (folder / "steward_hooks.py").write_text(HOOKS)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "steward_hooks", "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_answer_is_one_of_the_document(steward, tmp_path):
    done = run_schemathesis(steward, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    tested = re.search(r"(\d+) generated", done.stdout)
    assert tested is not None, done.stdout
    assert int(tested[1]) > 5 * EXAMPLES
    assert not [line for line in steward.lines if "traceback" in line.lower() or " bug" in line]
    with steward.client() as client:
        assert client.get("/healthz").json()["status"] == "ok"
