# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enarx.rats import AtLeast, AtMost, EachAtLeast, FromCaller, OneOf, Skip, Subset

MILAN = EachAtLeast({"Milan": {"snp": 24, "microcode": 219}})


@pytest.mark.parametrize(
    ("expectation", "found"),
    [
        (OneOf(b"a", b"b"), b"b"),
        (OneOf(False), False),
        (AtLeast(3), 3),
        (AtLeast((1, 55, 29)), (1, 56, 0)),
        (AtMost(0), 0),
        (Subset("a", "b"), frozenset({"a"})),
        (Subset(), frozenset()),
        (MILAN, ("Milan", {"snp": 24, "microcode": 220, "tee": 0})),
        (Skip("not ours"), None),
    ],
)
def test_accepts_what_it_expects(expectation, found):
    assert expectation.holds(found)


@pytest.mark.parametrize(
    ("expectation", "found"),
    [
        (OneOf(b"a"), b"c"),
        (OneOf(False), True),
        (AtLeast(3), 2),
        (AtLeast((1, 55, 29)), (1, 55, 28)),
        (AtMost(0), 1),
        (Subset("a"), frozenset({"a", "b"})),
        (Subset(), frozenset({"a"})),
        (MILAN, ("Milan", {"snp": 23, "microcode": 255})),
        (MILAN, ("Milan", {"snp": 24})),
        (MILAN, ("Genoa", {"snp": 255, "microcode": 255})),
        (FromCaller(), b"anything"),
    ],
)
def test_refuses_what_it_does_not_expect(expectation, found):
    assert not expectation.holds(found)


@pytest.mark.parametrize("expectation", [OneOf(0), AtLeast(0), AtMost(9), Subset("a"), MILAN, FromCaller()])
def test_a_claim_that_is_absent_meets_nothing(expectation):
    assert not expectation.holds(None)


@pytest.mark.parametrize(
    "make",
    [OneOf, lambda: Skip(" "), lambda: EachAtLeast({}), lambda: EachAtLeast({"Milan": {}})],
)
def test_an_expectation_that_says_nothing_cannot_be_made(make):
    with pytest.raises(ValueError, match="found no"):
        make()


def test_says_what_it_wants_in_one_order():
    assert str(OneOf(b"\x02", b"\x01")) == "one of 01, 02"
    assert str(OneOf(False)) == "no"
    assert str(AtLeast((1, 55))) == "at least 1.55"
    assert str(MILAN) == "at least Milan snp=24 microcode=219"
    assert str(Subset()) == "none"
    assert str(Skip("why")) == "anything: why"


def test_expectations_are_equal_by_what_they_expect():
    assert OneOf(1, 2) == OneOf(2, 1)
    assert hash(OneOf(1, 2)) == hash(OneOf(2, 1))
    assert OneOf(1) != AtLeast(1)
    assert OneOf(1) != 1
