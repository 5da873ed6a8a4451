# SPDX-License-Identifier: Apache-2.0
"""Judge a lot of evidence in one process and print what it holds: `python bench/verifier_memory.py COUNT`.

Five kinds of TEE take turns. Each piece of evidence is made for its turn, Nitro's and CCA's with signers that were never seen, so
that the cache is full by the first fifth and has to let go of something ever after. Every 99th is a copy with a bit flipped.
The resident set is read five times in the last quarter of the first fifth, and five times at the very end.

Prints one JSON object: `early_mb`, `late_mb`, `accepted`, `refused`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence

import verdicts
from verdicts import Subject

from enarx.rats import Verdict
from enarx.testing.dcap import SGX, TDX
from enarx.verifier import TrustCache

FULL_COUNT = 100_000
N_SAMPLES = 5
EVERY_FLIPPED = 99  # not a multiple of the number of kinds, so that all kinds have their turn.
CCA_BATCH = 50


def main(arguments: Sequence[str]) -> int:
    count = int(arguments[0])
    # A fifth of 100,000 verdicts fills the cache as it is by default; fewer fill a smaller one.
    known = TrustCache() if count >= FULL_COUNT else TrustCache(max_entries=count // 25)
    early_mb, late_mb = [], []
    accepted = refused = 0
    step = max(count // 100, 1)
    for number, subject in enumerate(itertools.islice(_evidence(), count), 1):
        if number % EVERY_FLIPPED:
            accepted += subject.judge(known).verdict is Verdict.ACCEPTED
        else:
            refused += subject.flipped.judge(known).verdict is Verdict.NOT_AUTHENTIC
        if number % step == 0:
            sample = number // step
            if 20 - N_SAMPLES < sample <= 20:
                early_mb.append(_resident_mb())
            elif sample > 100 - N_SAMPLES:
                late_mb.append(_resident_mb())
    if accepted + refused != count:
        print(f"found {accepted} accepted and {refused} flipped and refused, want {count} together", file=sys.stderr)
        return 1
    print(json.dumps({"early_mb": early_mb, "late_mb": late_mb, "accepted": accepted, "refused": refused}))
    return 0


def _evidence() -> Iterator[Subject]:
    """Make evidence for ever, a TEE after the other."""
    sources = (
        verdicts.make_snp(itertools.count()),
        verdicts.make_quotes(TDX, itertools.count()),
        verdicts.make_quotes(SGX, itertools.count()),
        verdicts.make_nitro(itertools.count()),
        _tokens(),
    )
    for together in zip(*map(verdicts.with_policy, sources), strict=True):
        yield from together


def _tokens() -> Iterator[Subject]:
    while True:
        yield from verdicts.make_cca(CCA_BATCH)


def _resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
