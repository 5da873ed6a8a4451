# SPDX-License-Identifier: Apache-2.0
"""No bit of a genuine quote can be another: neither of what is signed, nor of signatures, nor of the certificates in it."""

from __future__ import annotations

import pytest

from enarx.errors import DecodeError
from enarx.rats import Evidence, Verdict
from enarx.verifier import TrustCache, verify_evidence
from tests.evidence import needs_evidence
from tests.soak import STEP
from tests.unit.verifier.dcap_corpus import quote_cases, read_endorsements_of, read_quote, time_of


def _genuine(tee):
    """The valid cases, one for each quote."""
    by_quote = {}
    for case in quote_cases(tee):
        if case["verdict"] == "valid":
            name = case["inputs"].get("quote") or case["inputs"].get("quote_padded")
            by_quote.setdefault(name, case)
    return list(by_quote.values())


CASES = [pytest.param(case, id=case["id"]) for tee in ("sgx", "tdx") for case in _genuine(tee)]


def _judge(case, data, endorsements, cache):
    return verify_evidence(Evidence(data=data), at=time_of(case), endorsements=endorsements, cache=cache)


def _refuses_flips(case, stride):
    data, endorsements, cache = read_quote(case).rstrip(b"\0") + b"\0", read_endorsements_of(case), TrustCache()
    accepted = _judge(case, data, endorsements, cache)
    # Which policy accepts it is another question: nothing about its authenticity is open.
    assert accepted.verdict in {Verdict.ACCEPTED, Verdict.REFUSED}, accepted.failures
    taken = []
    for position in range(0, 8 * (len(data) - 1), stride):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            verdict = _judge(case, bytes(flipped), endorsements, cache).verdict
        except DecodeError:
            continue
        if verdict not in {Verdict.NOT_AUTHENTIC, Verdict.UNDECIDED}:
            taken.append(position)
    assert taken == []


@needs_evidence
@pytest.mark.parametrize("case", CASES)
def test_refuses_flipped_bits_here_and_there(case):
    _refuses_flips(case, 1511)


@needs_evidence
@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_refuses_every_flipped_bit_of_genuine_quotes(case):
    _refuses_flips(case, STEP)
