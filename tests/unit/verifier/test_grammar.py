# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import pytest

from enarx.rats import AtLeast, AtMost, EachAtLeast, FromCaller, OneOf, Subset
from enarx.verifier.grammar import (
    ByProduct,
    Digests,
    Flag,
    Freshness,
    Maximum,
    Minimum,
    MinimumVersion,
    Numbers,
    Words,
    WordsOrFewer,
)

TCB = ByProduct({"Milan": {"snp": 255, "microcode": 255}, "Turin": {"fmc": 255}})


@pytest.mark.parametrize(
    ("grammar", "value", "expectation"),
    [
        (Digests(2), ["00ff", "0102"], OneOf(b"\x00\xff", b"\x01\x02")),
        (Digests(None), ["ff"], OneOf(b"\xff")),
        (Flag(), "forbidden", OneOf(False)),
        (Flag(), "required", OneOf(True)),
        (Numbers(3), [0, 3], OneOf(0, 3)),
        (Minimum(9), 9, AtLeast(9)),
        (Maximum(9), 0, AtMost(0)),
        (MinimumVersion(3), "1.55.29", AtLeast((1, 55, 29))),
        (Words("a", "b"), ["a"], OneOf("a")),
        (Words(), ["anything"], OneOf("anything")),
        (WordsOrFewer("a"), [], Subset()),
        (TCB, {"Milan": {"snp": 1, "microcode": 2}}, EachAtLeast({"Milan": {"snp": 1, "microcode": 2}})),
        (Freshness(64), "from-caller", FromCaller()),
    ],
)
def test_decodes_what_it_documents(grammar, value, expectation):
    assert grammar.decode(value) == expectation


@pytest.mark.parametrize(
    ("grammar", "value"),
    [
        (Digests(2), []),
        (Digests(2), "00ff"),
        (Digests(2), ["00"]),
        (Digests(2), ["zz00"]),
        (Digests(2), [7]),
        (Digests(None), [""]),
        (Digests(None), ["00" * 65]),
        (Digests(2), ["0000"] * 4097),
        (Flag(), True),
        (Flag(), "allowed"),
        (Numbers(3), [4]),
        (Numbers(3), [True]),
        (Numbers(3), []),
        (Minimum(9), -1),
        (Minimum(9), "9"),
        (Maximum(9), 10),
        (Maximum(9), False),
        (MinimumVersion(3), "1.55"),
        (MinimumVersion(3), "1.55.x"),
        (MinimumVersion(3), 1.55),
        (Words("a"), ["b"]),
        (Words("a"), []),
        (Words("a"), [""]),
        (Words(), [3]),
        (WordsOrFewer("a"), ["b"]),
        (WordsOrFewer("a"), "a"),
        (TCB, {}),
        (TCB, []),
        (TCB, {"Rome": {"snp": 1}}),
        (TCB, {"Milan": {}}),
        (TCB, {"Milan": {"snp": 1}}),
        (TCB, {"Milan": {"snp": 1, "microcode": 256}}),
        (TCB, {"Milan": {"snp": 1, "microcode": 2, "fmc": 1}}),
        (Freshness(64), "yes"),
    ],
)
def test_refuses_anything_else_and_says_what_it_wants(grammar, value):
    with pytest.raises(ValueError, match=r"^found .*, want "):
        grammar.decode(value)


def test_a_freshness_value_is_padded_with_zeros_and_never_cut():
    grammar = Freshness(8)
    assert grammar.meets(b"abc\0\0\0\0\0", b"abc")
    assert grammar.meets(b"abcdefgh", b"abcdefgh")
    assert not grammar.meets(b"abc\0\0\0\0\x01", b"abc")
    assert not grammar.meets(b"abcdefgh", b"abcdefghi")
    assert not grammar.meets(None, b"abc")


def test_a_quote_may_carry_the_digest_of_the_freshness_value():
    grammar = Freshness(None)
    assert grammar.meets(b"nonce", b"nonce")
    assert grammar.meets(hashlib.sha256(b"nonce").digest(), b"nonce")
    assert not grammar.meets(b"nonce\0", b"nonce")
