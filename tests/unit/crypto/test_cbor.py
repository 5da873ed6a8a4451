# SPDX-License-Identifier: Apache-2.0
"""CBOR: plain values or DecodeError, one encoding for each value."""

from __future__ import annotations

import os
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.cbor import MAX_DEPTH, MAX_ITEMS, Tagged, decode_untrusted, encode, is_ordered, read_tag_untrusted
from enarx.errors import DecodeError

SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "200000"))
LIMIT = 1 << 16

keys = st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=30) | st.binary(max_size=30)
values = st.recursive(
    keys | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(keys, inner, max_size=30),
    max_leaves=60,
)


def decode(data: bytes | str, **options: Any) -> Any:
    data = bytes.fromhex(data) if isinstance(data, str) else data
    return decode_untrusted(data, **{"max_bytes": LIMIT, **options})


def assert_in_order(value: object):
    """Keys are in the order of the bytes of their encodings, each made alone."""
    if isinstance(value, dict):
        found = [cbor2.dumps(key) for key in value]
        assert found == sorted(found)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            assert_in_order(item)


def is_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) in {int, str, bytes} and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return type(value) in {int, str, bytes, bool, type(None), float}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=values)
def test_decodes_what_it_encodes(value: object):
    assert decode(encode(value)) == value
    assert cbor2.loads(encode(value)) == value
    assert_in_order(cbor2.loads(encode(value)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65536, "1a00010000"),
        (1 << 32, "1b0000000100000000"),
        ((1 << 64) - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-25, "3818"),
        (-(1 << 64), "3bffffffffffffffff"),
        (b"\x01\x02", "420102"),
        ("ü", "62c3bc"),
        ([1, [2]], "82018102"),
        (True, "f5"),
        (None, "f6"),
        (Tagged(18, b""), "d240"),
        # Keys are in the order of their encodings, which is not that of their lengths: 24 comes before -1.
        ({-1: 0, 24: 0, 10: 0, "a": 0, b"": 0}, "a50a0018180020004000616100"),
    ],
)
def test_encodes_deterministically(value: object, expected: str):
    assert encode(value).hex() == expected
    tags = frozenset({18})
    assert decode(expected, tags=tags) == value


@pytest.mark.parametrize("value", [1.5, {1, 2}, object(), bytearray(b"x")])
def test_does_not_encode_what_is_not_plain(value: object):
    with pytest.raises(TypeError, match="want a plain value"):
        encode(value)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 64) - 1])
def test_does_not_encode_an_integer_of_more_than_64_bits(number: int):
    for value in (number, [number], {0: number}, {number: 0}, {number: 0, 1: 0}):
        with pytest.raises(ValueError, match="want at most 64 bits"):
            encode(value)


def test_encodes_names_by_length_and_numbers_by_size():
    names = {"b": 0, "ä": 1, "aa": 2, "a": 3, "": 4, "z" * 24: 5, "zz": 6}
    assert_in_order(cbor2.loads(encode(names)))
    assert [*cbor2.loads(encode({300: 0, 2: 0, 24: 0, 70000: 0, 23: 0}))] == [2, 23, 24, 300, 70000]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "premature end"),
        ("0000", "after the end"),
        ("1800", "shortest form"),
        ("1817", "shortest form"),
        ("190017", "shortest form"),
        ("1900ff", "shortest form"),
        ("1a0000ffff", "shortest form"),
        ("1b00000000ffffffff", "shortest form"),
        ("3800", "shortest form"),
        ("580101", "shortest form"),
        ("780161", "shortest form"),
        ("980101", "shortest form"),
        ("b8010101", "shortest form"),
        ("a201010102", "Duplicate map key"),
        ("a2010118010a", "Duplicate map key"),
        ("9f01ff", "indefinite"),
        ("bf0101ff", "indefinite"),
        ("5f4101ff", "indefinite"),
        ("c11a00000000", "a tag"),
        ("c249ffffffffffffffffff", "a tag"),
        ("d81c8101", "a tag"),
        ("d81d00", "a tag"),
        ("d823612e", "a tag"),
        ("d8255000112233445566778899aabbccddeeff", "a tag"),
        ("d9010283010203", "a tag"),
        ("d9d9f700", "a tag"),
        ("f7", "Undefined"),
        ("e0", "SimpleValue"),
        ("f820", "SimpleValue"),
        ("a1e000", "a key that is"),
        ("a1f500", "a key that is bool"),
        ("a1f600", "a key that is NoneType"),
        ("a1f93c0000", "a key that is float"),
        ("a1810000", "a key that is tuple"),
        ("a1a00000", "a key that is"),
        ("62c328", "text string"),
        ("1c", "subtype"),
        ("ff", "break"),
        ("f818", "special value"),
    ],
)
def test_refuses_what_is_not_one_plain_item_in_its_one_form(data: str, reason: str):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.parametrize("data", ["f93c00", "fa3fc00000", "fb3ff8000000000000"])
def test_decodes_numbers_with_a_fraction(data: str):
    assert decode(data) in {1.0, 1.5}


def test_decodes_containers_without_a_length_where_the_caller_allows_it():
    assert decode("bf019f02ffff", indefinite=True) == {1: [2]}
    assert decode("a1019f02ff", indefinite=True) == {1: [2]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("bf011802ff", "shortest form"),
        ("bf01020103ff", "Duplicate"),
        ("bf0102ff00", "after the end"),
        ("bf01c102ff", "a tag"),
        ("bf015f4101ffff", "indefinite length"),
        ("bf017f6161ffff", "indefinite length"),
        ("bf01ff", "missing value"),
        ("9f", "premature"),
    ],
)
def test_allows_nothing_else_than_a_missing_length(data: str, reason: str):
    with pytest.raises(DecodeError, match=reason):
        decode(data, indefinite=True)


def test_gives_named_tags_and_no_others():
    tags = frozenset({18, 37, 999})
    assert decode("d903e7a101d2820102", tags=tags) == Tagged(999, {1: Tagged(18, [1, 2])})
    assert decode("d8254101", tags=tags) == Tagged(37, b"\x01")
    with pytest.raises(DecodeError, match="a tag"):
        decode("d903e7c10a", tags=tags)
    with pytest.raises(DecodeError, match="shortest form"):
        decode("d90012820102", tags=tags)


def test_lets_no_tag_become_a_python_object():
    refused = 0
    for tag in [*range(2048), 43000, 55799, 65535, 1 << 32, (1 << 64) - 1]:
        for content in (b"\xf6", b"\x00", b"\x61a", b"\x41a", b"\x82\x01\x02"):
            with pytest.raises(DecodeError):
                decode(encode(Tagged(tag, None))[:-1] + content)
            refused += 1
    assert refused == 5 * (2048 + 5)


def test_nests_as_deep_as_the_limit_and_no_deeper():
    assert decode(b"\x81" * (MAX_DEPTH - 1) + b"\x00")
    for opening in (b"\x81", b"\xa1\x00", b"\x9f", b"\xc6", b"\xd8\x1c"):
        with pytest.raises(DecodeError):
            decode(opening * (LIMIT // len(opening)), indefinite=True, tags=frozenset({6, 28}))


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "bb", "5a", "9a", "ba"])
@pytest.mark.parametrize("length", ["7fffffff", "ffffffff", "7fffffffffffffff", "ffffffffffffffff"])
def test_takes_no_memory_for_a_length_without_content(head: str, length: str):
    data = bytes.fromhex(head + length + "00" * 16)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data, indefinite=True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_refuses_more_bytes_than_the_limit():
    assert decode(b"\x42ab", max_bytes=3) == b"ab"
    with pytest.raises(DecodeError, match="found 3 bytes, want at most 2"):
        decode(b"\x42ab", max_bytes=2)


def test_says_what_it_could_not_decode():
    with pytest.raises(DecodeError, match="cannot decode a letter: found"):
        decode("1800", what="a letter")


@pytest.mark.parametrize(
    ("data", "expected"), [("d240", (18, b"\x40")), ("d9018fa0", (399, b"\xa0")), ("a0", (None, b"\xa0"))]
)
def test_takes_the_outermost_tag_off(data: str, expected: tuple[int | None, bytes]):
    assert read_tag_untrusted(bytes.fromhex(data)) == expected


@pytest.mark.parametrize("data", ["", "d8", "d812", "d90012a0", "dc00", "df00"])
def test_takes_no_tag_off_that_is_not_in_its_form(data: str):
    with pytest.raises(DecodeError):
        read_tag_untrusted(bytes.fromhex(data))


def check_any(data: bytes) -> None:
    for options in ({}, {"indefinite": True}, {"tags": frozenset({1, 18, 258})}):
        try:
            value = decode(data, **options)
        except DecodeError:
            continue
        if not options:
            assert is_plain(value)
            if not any(byte >> 5 == 7 for byte in data):
                assert cbor2.dumps(value) == data


def test_counts_items_before_anything_is_made_of_them():
    most = b"\x99\xff\xff" + b"\x19\x01\x00" * (MAX_ITEMS - 1)
    assert decode_untrusted(most, max_bytes=1 << 20) == [256] * (MAX_ITEMS - 1)
    more = b"\x9a" + MAX_ITEMS.to_bytes(4, "big") + b"\x19\x01\x00" * MAX_ITEMS
    for data, options in (
        (more, {}),
        (b"\x9f" + b"\x80" * (MAX_ITEMS + 1) + b"\xff", {"indefinite": True}),
        (b"\x80" * (2 * MAX_ITEMS), {}),
    ):
        with pytest.raises(DecodeError, match="more than 65536 items"):
            decode_untrusted(data, max_bytes=1 << 20, **options)
    # A string's content is one item, whatever is in it.
    text = b"\x5a" + (3 * MAX_ITEMS).to_bytes(4, "big") + bytes(3 * MAX_ITEMS)
    assert decode_untrusted(text, max_bytes=1 << 20) == bytes(3 * MAX_ITEMS)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=st.binary(max_size=80))
def test_gives_a_plain_value_or_a_decode_error_for_any_bytes(data: bytes):
    check_any(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=values, at=st.integers(0, 200), mask=st.integers(1, 255))
def test_gives_a_plain_value_or_a_decode_error_for_any_change(value: object, at: int, mask: int):
    data = bytearray(encode(value))
    data[at % len(data)] ^= mask
    check_any(bytes(data))


@pytest.mark.soak
@settings(max_examples=SOAK_EXAMPLES, deadline=None)
@given(data=st.binary(max_size=300))
def test_gives_a_plain_value_or_a_decode_error_for_very_many_bytes(data: bytes):
    check_any(data)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": b"x" * 300, "aa": [{"z": None, "yy": True}]},
        {5: 1, 24: 2, 1000: 3, -1: 4, "a": 5},
        [{}, {"a": {"b": -1}}],
        {"t" * 40: 1, "u" * 40: 2},
        {"\N{SNOWMAN}": 1, "four": 2},
        b"x" * 256,
        "x" * 255,
    ],
)
def test_what_was_encoded_is_ordered(value: object):
    assert is_ordered(decode_untrusted(encode(value), max_bytes=1024))


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": 2},
        {"aa": 1, "b": 2},
        {-1: 1, 1000: 2},
        {"a": 1, 1: 2},
        [{"b": 1, "a": 2}],
        {"a": [[{"b": 1, "a": 2}]]},
        {"\N{SNOWMAN}": 1, "abc": 2},
        {"u" * 40: 1, "t" * 40: 2},
    ],
)
def test_keys_in_another_order_are_not(value: object):
    data = cbor2.dumps(value)
    found = decode_untrusted(data, max_bytes=1024)
    assert found == value
    assert not is_ordered(found)
    assert encode(found) != data


def test_a_number_with_a_fraction_has_no_deterministic_encoding_here():
    for value in (1.5, [1.5], {"a": [1.5]}):
        assert not is_ordered(decode_untrusted(cbor2.dumps(value), max_bytes=64))


def test_a_truth_value_as_a_key_is_no_number():
    assert encode({1: 0}) == bytes.fromhex("a10100")
    assert encode({True: 0}) == bytes.fromhex("a1f500")
    assert encode({1: 0}) == bytes.fromhex("a10100")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=values)
def test_is_ordered_exactly_if_it_is_encoded_the_same_way_again(value: object):
    data = cbor2.dumps(value)
    assert is_ordered(decode_untrusted(data, max_bytes=1 << 16)) is (encode(value) == data)
