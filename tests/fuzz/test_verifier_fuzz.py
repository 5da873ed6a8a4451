# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a parser is given, of evidence or of a deployment: a value or its own error, in bounded time and memory.

The default suite changes seeds without looking. The soak run is guided by coverage where `tools/install-fuzz` found atheris, has
processes of its own with limits, and all its targets together get 150 times `ENARX_SOAK_EXAMPLES` inputs: fifteen million.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import verifier_mutations, verifier_worker
from tests.fuzz.verifier_worker import TARGETS

INPUTS = 250
SLOW_INPUTS = {
    "verdict": 60,
    "policy": 40,
    "evidence of any kind": 120,
    "endorsement files": 80,
    "sigstore bundle": 120,
}
SOAK_INPUTS = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000")) * 150
# Of the inputs that a run draws, so that it is not spent on what is refused at the first byte.
LEAST_PASSING = 0.3
SOURCE = Path(__file__).parents[2] / "src" / "enarx"

# Functions that read foreign bytes and are called by one of the targets, or have one of another name.
CALLED_BY_OTHERS = {
    "read_tag_untrusted",
    "make_azure_evidence_untrusted",
    "make_quote_untrusted",
    "make_tpm_evidence_untrusted",
}


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]


def test_gives_a_value_or_its_own_error(target):
    watched = verifier_worker.Watched(target)
    verifier_worker.plainly(watched, target.seeds(), SLOW_INPUTS.get(target.name, INPUTS), seed=1)
    assert not watched.faults
    assert watched.values, "no input gave a value: the seeds are none"


def test_half_of_the_inputs_get_past_magic_and_length(target):
    random, seeds = Random(2), target.seeds()
    good = [data for data in seeds if target.passes(data)]
    inputs = [target.mutate(random.choice(good), random, verifier_mutations.scramble) for _ in range(60)]
    assert sum(map(target.passes, inputs)) >= LEAST_PASSING * len(inputs)


def test_the_same_random_numbers_make_the_same_inputs(target):
    seed = target.seeds()[0]

    def draw():
        random = Random(3)
        return [target.mutate(seed, random, verifier_mutations.scramble) for _ in range(20)]

    assert draw() == draw()


def test_every_entry_of_a_target_has_lines_that_can_be_reached(target):
    for entry in target.entries:
        assert verifier_worker.lines_of(target._replace(entries=(entry,))), entry


def test_every_parser_of_foreign_bytes_is_a_target():
    packages = (
        "abi",
        "attester",
        "channel",
        "crypto",
        "deploy",
        "emulator",
        "host",
        "keep",
        "registry",
        "steward",
        "verifier",
        "wire",
    )
    sources = [path for package in packages for path in (SOURCE / package).rglob("*.py")]
    parsers = {
        node.name
        for path in sources
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_untrusted") and not node.name.startswith("_")
    }
    folder = Path(verifier_worker.__file__).parent
    table = "".join(path.read_text() for path in folder.glob("*_targets.py"))
    assert {name for name in parsers - CALLED_BY_OTHERS if f'"{name}"' not in table} == set()


@pytest.mark.soak
def test_gives_a_value_or_its_own_error_at_length(target):
    report = verifier_worker.run(target.name, verifier_worker.share_of(target.name, SOAK_INPUTS))
    assert report["faults"] == []
    assert report["inputs"] >= verifier_worker.share_of(target.name, SOAK_INPUTS)
    assert report["passing"] >= LEAST_PASSING
