# SPDX-License-Identifier: Apache-2.0
"""What other verifiers say of the corpus's SNP cases, and that a difference nobody explained is noticed."""

from __future__ import annotations

import pytest

from tests.evidence import cases, needs_evidence
from tests.peers.compare_snp import (
    DIFFERENCES,
    PAGE,
    PEERS,
    Answer,
    Difference,
    MissingToolError,
    compare,
    compared,
    rows_of,
)

PEER = "go-sev-guest"
YES = Answer(accepts=True)
FORGED = Answer(accepts=False, words=("report_signature_invalid", "hwid_mismatch"))
CLOCKLESS = Difference(peer=PEER, cases=("one",), says=None, why="It has no clock.")
NARROW = Difference(peer=PEER, cases=("one",), says="no such product", why="It knows fewer products.")


def no(says):
    return Answer(accepts=False, says=says)


@pytest.mark.slow
@needs_evidence
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_agrees_or_the_difference_is_explained(peer):
    try:
        comparison = compared(peer)
    except MissingToolError as error:
        pytest.skip(str(error))
    assert comparison.failures == ()
    assert comparison.total == len(cases("snp")) > 0
    assert len(comparison.agreed) + len(comparison.explained) == comparison.total
    first, rest = rows_of(comparison)
    page = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [row for row in (first, *rest) if row not in page]
    assert missing == [], "run python -m tests.peers.compare_snp --record"


def test_every_explained_difference_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert [each.why for each in DIFFERENCES if each.why not in page] == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(YES, YES), (FORGED, no("verify: report signature verification error: x509: ECDSA verification failure"))],
)
def test_the_same_verdict_for_a_shared_reason_agrees(ours, theirs):
    comparison = compare(PEER, {"snp/one": ours}, {"snp/one": theirs}, ())
    assert comparison.agreed == ("snp/one",)
    assert comparison.failures == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (YES, no("something new"), "enarx accepts, go-sev-guest refuses: something new"),
        (FORGED, YES, "enarx refuses (report_signature_invalid, hwid_mismatch), go-sev-guest accepts"),
        (FORGED, no("verify: ASK was revoked at noon"), "go-sev-guest refuses: verify: ASK was revoked at noon"),
    ],
)
def test_any_other_answer_fails_unless_it_is_explained(ours, theirs, said):
    (failure,) = compare(PEER, {"snp/one": ours}, {"snp/one": theirs}, ()).failures
    assert failure.startswith("snp/one: ")
    assert failure.endswith(said)


def test_an_explained_difference_is_none_that_fails():
    comparison = compare(PEER, {"snp/one": FORGED}, {"snp/one": YES}, (CLOCKLESS,))
    assert comparison.explained == {"snp/one": CLOCKLESS}
    assert comparison.failures == ()


@pytest.mark.parametrize("theirs", [YES, no("something else")])
def test_a_reason_explains_only_what_it_says(theirs):
    comparison = compare(PEER, {"snp/one": FORGED}, {"snp/one": theirs}, (NARROW,))
    assert comparison.explained == {}
    assert len(comparison.failures) == 2


def test_a_reason_without_its_difference_fails():
    comparison = compare(PEER, {"snp/one": YES}, {"snp/one": YES}, (CLOCKLESS,))
    assert comparison.failures == ("snp/one: go-sev-guest does not differ, but it is explained why it does",)


def test_a_case_without_an_answer_fails():
    assert compare(PEER, {"snp/one": YES}, {}, ()).failures == ("snp/one: go-sev-guest did not answer",)
