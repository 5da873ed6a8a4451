# SPDX-License-Identifier: Apache-2.0
"""Check the protocol's two models with SPIN: the properties hold in the whole of each, and each mutant breaks one of them.

usage: check_model.py [--trails] [--thorough]

Installs nothing. Prints states, seconds and the verdict of each run, and with --trails an attack on each mutant in words. --thorough adds some minutes, and one run of 1.6 GB. Exit status: 0, or 1 where a verdict is not the one that docs/model/README.md
gives, or 3 where spin or gcc is missing. What a row means, that page says too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

MODELS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "model")
TOOLS = ("spin", "gcc")
DEPTH = 100_000
RUN_TIMEOUT_S = 900.0
MISSING = 3


class Case(NamedTuple):
    """One verification run: what is defined, whether a property must fall, what it is, and the model's file."""

    defines: tuple[str, ...]
    falls: bool
    means: str
    model: str = "keep.pml"


class Outcome(NamedTuple):
    """What the verifier found: states stored, time it took, the assertion that fell and the trail to it."""

    states: int
    seconds: float
    fell: str
    trail: tuple[str, ...]


HOLDS = (
    Case(("FALLEN=0",), False, "TLS as it is meant to be"),
    Case(("FALLEN=0", "DISTINCT_LEAVES"), False, "the same, a leaf for each deployment"),
    Case(("FALLEN=2",), False, "two of exporters, Keep leaf keys, tenant leaf keys have fallen"),
    Case(("FALLEN=3",), False, "all: secrecy of the release, freshness and purpose only"),
    Case(("FALLEN=0", "HPKE_REUSED"), False, "a Keep that repeats its HPKE key"),
)
THOROUGH = (
    Case(("FALLEN=1",), False, "one has fallen"),
    Case(("FALLEN=1", "NO_EXPORTER"), False, "one has fallen, and the other two stand"),
    Case(("FALLEN=1", "NO_KEEP_LEAF"), False, "likewise"),
    Case(("FALLEN=1", "NO_TENANT_LEAF"), False, "likewise"),
    Case(("FALLEN=2", "DISTINCT_LEAVES"), False, "two have fallen, a leaf for each deployment"),
)
# A mutant that falls falls with no more broken than it says; that the three survive without is said, not hidden.
MUTANTS = (
    Case(("FALLEN=0", "REACHABLE"), True, "control: both deployments run and are attached to"),
    Case(("FALLEN=2", "NO_EXPORTER"), True, ""),
    Case(("FALLEN=2", "NO_KEEP_LEAF"), True, ""),
    Case(("FALLEN=2", "NO_TENANT_LEAF"), True, ""),
    Case(("FALLEN=0", "NO_PURPOSE"), True, ""),
    Case(("FALLEN=3", "NO_CHALLENGE"), True, ""),
    Case(("FALLEN=3", "NO_OFFER_HASH"), True, ""),
    Case(("FALLEN=0", "HPKE_REUSED", "NO_INFO"), True, ""),
    Case(("FALLEN=0", "NO_RECEIPT_HASH"), True, ""),
    Case(("FALLEN=0", "ANY_ATTACH"), True, ""),
    Case(("FALLEN=0", "SECOND_PROVISION"), True, ""),
)
REDUNDANT = (
    Case(("FALLEN=0", "NO_EXPORTER"), False, "with TLS as it is meant to be, the mutant is not told apart"),
    Case(("FALLEN=0", "NO_KEEP_LEAF"), False, "likewise"),
    Case(("FALLEN=0", "NO_TENANT_LEAF"), False, "likewise"),
)

IDENTITY = tuple(
    Case(defines, falls, means, "identity.pml")
    for defines, falls, means in (
        (("ALL",), False, "a Steward, Keeps that trust it and Keeps that do not"),
        (("TENANT_FELL",), False, "the attacker has the tenant's key, and deploys in its name"),
        (("CHANNEL_FELL",), False, "the attacker chooses the nonces of all Keeps"),
        (("REACHABLE",), True, "control: a Keep gets a certificate, and renews it"),
        (("NO_ROOT",), True, ""),
        (("NO_SPKI",), True, ""),
        (("NO_NONCE",), True, ""),
        (("NO_PURPOSE",), True, ""),
        (("NO_IDENTITY",), True, ""),
        (("NONCE_AGAIN",), True, ""),
    )
)

# What takes both deployments to the end is found sooner depth first.
FAR = frozenset({"REACHABLE", "NO_RECEIPT_HASH"})
# To optimise a verifier takes longer than what it then saves, but in these whole searches: of millions of states, or of many choices in each.
LONG = frozenset({"FALLEN=1", "FALLEN=2", "FALLEN=3", "TENANT_FELL", "CHANNEL_FELL"})


def verify(case: Case, folder: str) -> Outcome:
    """Generate, compile and run the verifier; mutants breadth first where that is quick, for the shortest trail."""
    defines, model = [f"-D{name}" for name in case.defines], os.path.join(MODELS, case.model)
    subprocess.run(
        ["spin", "-a", *defines, model], cwd=folder, check=True, timeout=RUN_TIMEOUT_S, stdout=subprocess.DEVNULL
    )
    search = ["-DBFS"] if case.falls and not FAR.intersection(case.defines) else []
    level = "-O0" if case.falls or not LONG.intersection(case.defines) else "-O1"
    subprocess.run(
        ["gcc", "-w", level, "-DSAFETY", "-DCOLLAPSE", *search, "-o", "pan", "pan.c"],
        cwd=folder,
        check=True,
        timeout=RUN_TIMEOUT_S,
    )
    began = time.monotonic()
    # -E: where honest parties end up waiting is availability, and a host may always refuse that.
    done = subprocess.run(
        ["./pan", "-E", f"-m{DEPTH}"], cwd=folder, check=False, timeout=RUN_TIMEOUT_S, capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    states = re.search(r"(\d+) states, stored", done.stdout)
    errors = re.search(r"errors: (\d+)", done.stdout)
    if (
        states is None
        or errors is None
        or "max search depth too small" in done.stdout
        or "out of memory" in done.stdout
    ):
        raise RuntimeError(
            f"{' '.join(case.defines)}: found no complete search\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    if errors[1] == "0":
        return Outcome(int(states[1]), seconds, "", ())
    fell = re.search(r"assertion violated (.*) \(at depth", done.stdout)
    if fell is None:
        raise RuntimeError(f"{' '.join(case.defines)}: found an error that is no assertion\n{done.stdout[-2000:]}")
    name = case.model + ".trail"
    shown = subprocess.run(
        ["spin", "-T", "-k", name, *defines, model],
        cwd=folder,
        check=False,
        timeout=RUN_TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    words = ("fallen", "session", "Keep", "the Steward", "the attacker")
    return Outcome(
        int(states[1]), seconds, fell[1], tuple(line for line in shown.stdout.splitlines() if line.startswith(words))
    )


def main(arguments: list[str]) -> int:
    """Run every case; say what each came to."""
    unknown = set(arguments) - {"--trails", "--thorough"}
    if unknown:
        print(
            f"check_model: {' '.join(sorted(unknown))}: found an unknown option, want --trails or --thorough",
            file=sys.stderr,
        )
        return 2
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"check_model: {' and '.join(missing)}: found none on the path, want Debian's packages", file=sys.stderr)
        return MISSING
    wrong = 0
    thorough = THOROUGH if "--thorough" in arguments else ()
    for case in (*HOLDS, *thorough, *MUTANTS, *REDUNDANT, *IDENTITY):
        with tempfile.TemporaryDirectory(prefix="enarx-model-") as folder:
            found = verify(case, folder)
        right = bool(found.fell) == case.falls
        wrong += not right
        verdict = f"falls: {found.fell}" if found.fell else f"holds{': ' if case.means else ''}{case.means}"
        print(
            f"{' '.join((case.model.removesuffix('.pml'), *case.defines)):34} {found.states:>9} states {found.seconds:6.1f} s  {'' if right else 'WRONG '}{verdict}",
            flush=True,
        )
        if "--trails" in arguments:
            for line in found.trail:
                print(f"    {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
