# SPDX-License-Identifier: Apache-2.0
"""Tests of conceptual message wrappers. The examples are those of RFC 9999 section 5."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, UsageError
from enarx.wire.cmw import (
    MAX_CMW_BYTES,
    MAX_DEPTH,
    MAX_ENTRIES,
    CmwCollection,
    CmwRecord,
    CmwTag,
    Indicator,
    content_format_of_tag,
    decode_cmw_extension_untrusted,
    decode_cmw_untrusted,
    encode_cmw_cbor,
    encode_cmw_extension,
    encode_cmw_json,
    leaves,
    tag_of_content_format,
)

MEDIA_TYPE = "application/vnd.example.rats-conceptual-msg"
MESSAGE = bytes.fromhex("2347da55")
COLLECTION = CmwCollection(
    {
        0: CmwRecord(30001, MESSAGE, Indicator.EVIDENCE),
        1: CmwTag(30001, MESSAGE),
        2: CmwRecord("application/eat+jwt", b"...", Indicator.ATTESTATION_RESULTS),
    },
    "tag:example.com,2024:composite-attester",
)
JSON_COLLECTION = CmwCollection(
    {
        "attester A": CmwRecord("application/eat-ucs+json", b"{}\n", Indicator.EVIDENCE),
        "attester B": CmwRecord("application/eat-ucs+cbor", b"\xa0", Indicator.EVIDENCE),
    },
    "tag:example.com,2024:another-composite-attester",
)
EXAMPLES = [
    ("82197531442347da55", CmwRecord(30001, MESSAGE)),
    ("da637476a7442347da55", CmwTag(30001, MESSAGE)),
    (
        "83746170706c69636174696f6e2f72696d2b636f73654ad28440a044d901f5a04003",
        CmwRecord(
            "application/rim+cose",
            bytes.fromhex("d28440a044d901f5a040"),
            Indicator.REFERENCE_VALUES | Indicator.ENDORSEMENTS,
        ),
    ),
]


@pytest.mark.parametrize(("text", "cmw"), EXAMPLES)
def test_reads_and_writes_the_standard_s_cbor(text, cmw):
    assert decode_cmw_untrusted(bytes.fromhex(text)) == cmw
    assert encode_cmw_cbor(cmw).hex() == text


def test_reads_and_writes_the_standard_s_json_record():
    text = b'["application/vnd.example.rats-conceptual-msg","I0faVQ"]'
    assert decode_cmw_untrusted(text) == CmwRecord(MEDIA_TYPE, MESSAGE)
    assert encode_cmw_json(CmwRecord(MEDIA_TYPE, MESSAGE)) == text


def test_reads_and_writes_the_standard_s_json_collection():
    text = json.dumps(
        {
            "__cmwc_t": "tag:example.com,2024:another-composite-attester",
            "attester A": ["application/eat-ucs+json", "e30K", 4],
            "attester B": ["application/eat-ucs+cbor", "oA", 4],
        }
    ).encode()
    assert decode_cmw_untrusted(b" \n" + text + b"\n") == JSON_COLLECTION
    assert decode_cmw_untrusted(encode_cmw_json(JSON_COLLECTION)) == JSON_COLLECTION


def test_reads_and_writes_the_standard_s_cbor_collection():
    data = encode_cmw_cbor(COLLECTION)
    assert decode_cmw_untrusted(data) == COLLECTION
    assert encode_cmw_cbor(decode_cmw_untrusted(data)) == data
    assert [path for path, _ in leaves(COLLECTION)] == [(0,), (1,), (2,)]


def test_reads_a_collection_of_indefinite_length():
    assert decode_cmw_untrusted(bytes.fromhex("bf0182197531442347da55ff")) == CmwCollection(
        {1: CmwRecord(30001, MESSAGE)}
    )


@pytest.mark.parametrize(
    ("content_format", "tag"), [(0, 1668546817), (254, 1668547071), (255, 1668547073), (65024, 1668612095)]
)
def test_a_tag_says_a_content_format(content_format, tag):
    assert tag_of_content_format(content_format) == tag
    assert content_format_of_tag(tag) == content_format


@pytest.mark.parametrize("tag", [18, 1668546816, 1668547072, 1668612096])
def test_other_tags_say_none(tag):
    assert content_format_of_tag(tag) is None


def test_content_formats_beyond_the_last_have_no_tag():
    with pytest.raises(UsageError, match="65025"):
        tag_of_content_format(65025)


REFUSED = {
    "nothing": b"",
    "one element": b'["application/cbor"]',
    "four elements": b'["application/cbor","oA",4,4]',
    "a content format in JSON": b'[30001,"oA"]',
    "no media type": b'["cbor","oA"]',
    "a parameter without a value": b'["application/cbor; profile","oA"]',
    "a long type": b'["application/' + b"a" * 600 + b'","oA"]',
    "an empty value": b'["application/cbor",""]',
    "padding": b'["application/cbor","oA=="]',
    "the other alphabet": b'["application/cbor","+/+/"]',
    "bits after the end": b'["application/cbor","oB"]',
    "an indicator of zero": b'["application/cbor","oA",0]',
    "an unknown indicator": b'["application/cbor","oA",32]',
    "a true indicator": b'["application/cbor","oA",true]',
    "a fractional indicator": b'["application/cbor","oA",4.0]',
    "an empty collection": b"{}",
    "a collection with nothing but a type": b'{"__cmwc_t":"tag:a"}',
    "a relative type": b'{"__cmwc_t":"a","x":["a/b","oA"]}',
    "a type that is null": b'{"__cmwc_t":null,"x":["a/b","oA"]}',
    "a label twice": b'{"x":["a/b","oA"],"x":["a/b","oB"]}',
    "a label that is no text": b'{"\\ud800":["a/b","oA"]}',
    "something after it": b'["a/b","oA"]]',
    "a number": b"7",
    "empty bytes": bytes.fromhex("8219753140"),
    "text for bytes": bytes.fromhex("82197531613a"),
    "a content format of 65536": bytes.fromhex("821a0001000041aa"),
    "a negative content format": bytes.fromhex("822041aa"),
    "a tag of another range": bytes.fromhex("d841442347da55"),
    "a tag that says nothing": bytes.fromhex("da63740200442347da55"),
    "a tag on text": bytes.fromhex("da637476a7613a"),
    "a number in a longer form": bytes.fromhex("821a00007531442347da55"),
    "bytes after it": bytes.fromhex("82197531442347da5500"),
    "bytes as a label": bytes.fromhex("a1410182197531442347da55"),
    "the same label twice": bytes.fromhex("a20182197531442347da550182197531442347da55"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data):
    with pytest.raises(DecodeError):
        decode_cmw_untrusted(data)


def nested(depth):
    cmw = CmwRecord("a/b", b"x")
    for _ in range(depth):
        cmw = CmwCollection({"x": cmw})
    return cmw


def test_collections_nest_to_a_limit():
    assert decode_cmw_untrusted(encode_cmw_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(UsageError, match="more than 4 collections"):
        encode_cmw_json(nested(MAX_DEPTH + 1))
    with pytest.raises(DecodeError):
        decode_cmw_untrusted(b'{"a":' * 100_000)
    with pytest.raises(DecodeError):
        decode_cmw_untrusted(b"\xa1\x61a" * 100_000)


def test_entries_are_counted_over_all_collections():
    many = CmwCollection({number: CmwRecord("a/b", b"x") for number in range(MAX_ENTRIES)})
    assert decode_cmw_untrusted(encode_cmw_cbor(many)) == many
    with pytest.raises(UsageError, match="more than 256 entries"):
        encode_cmw_cbor(CmwCollection({"more": many}))


def test_refuses_more_than_the_limit():
    with pytest.raises(DecodeError, match="size"):
        decode_cmw_untrusted(b"[" + b" " * MAX_CMW_BYTES + b"]")
    with pytest.raises(UsageError, match="size"):
        encode_cmw_cbor(CmwRecord("a/b", bytes(MAX_CMW_BYTES)))


@pytest.mark.parametrize(
    "cmw", [CmwTag(30001, MESSAGE), CmwCollection({0: CmwRecord("a/b", b"x")}), CmwRecord(30001, MESSAGE)]
)
def test_json_has_neither_tags_nor_numbers(cmw):
    with pytest.raises(UsageError):
        encode_cmw_json(cmw)
    assert decode_cmw_untrusted(encode_cmw_cbor(cmw)) == cmw


def test_does_not_write_what_it_would_refuse():
    with pytest.raises(UsageError):
        encode_cmw_cbor(CmwRecord("no type", b"x"))
    with pytest.raises(UsageError):
        encode_cmw_cbor(CmwRecord("a/b", b"x", Indicator(0)))
    with pytest.raises(UsageError):
        encode_cmw_cbor(CmwCollection({"__cmwc_t": CmwRecord("a/b", b"x")}, "tag:a"))
    with pytest.raises(UsageError):
        encode_cmw_cbor(CmwRecord(1 << 70, b"x"))


def test_an_extension_holds_either_encoding():
    der = encode_cmw_extension(COLLECTION)
    assert der[0] == 0x04
    assert decode_cmw_extension_untrusted(der) == COLLECTION
    text = encode_cmw_json(JSON_COLLECTION)
    assert decode_cmw_extension_untrusted(b"\x0c\x81" + bytes([len(text)]) + text) == JSON_COLLECTION


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x04\x00",
        b"\x04\x0c" + b'["a/b","oA"]',  # JSON where CBOR belongs
        b"\x0c\x09" + bytes.fromhex("82197531442347da55"),  # and the other way round
        b"\x04\x0a" + bytes.fromhex("82197531442347da55"),
        b"\x04\x81\x09" + bytes.fromhex("82197531442347da55"),
        b"\x30\x00",
    ],
)
def test_refuses_an_extension_that_is_neither(der):
    with pytest.raises(DecodeError):
        decode_cmw_extension_untrusted(der)


TYPES = st.from_regex(r'\A[a-z]{1,9}/[a-z][a-z.+-]{0,9}(; ?[a-z]{1,5}=([a-z]{1,5}|"[a-z ]{0,5}"))?\Z', fullmatch=True)
RECORDS = st.builds(CmwRecord, TYPES, st.binary(min_size=1, max_size=40), st.none() | st.integers(1, 31).map(Indicator))
CBOR_RECORDS = (
    RECORDS
    | st.builds(CmwRecord, st.integers(0, 65535), st.binary(min_size=1, max_size=40), st.none())
    | st.builds(CmwTag, st.integers(0, 65024), st.binary(min_size=1, max_size=40))
)
KINDS = st.none() | st.sampled_from(["tag:example.com,2024:x", "1.2.3.0.45", "https://example.com/a"])
LABELS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8).filter(lambda x: x != "__cmwc_t")


def collections_of(leaf, labels):
    return st.recursive(
        leaf,
        lambda inner: st.builds(CmwCollection, st.dictionaries(labels, inner, min_size=1, max_size=3), KINDS),
        max_leaves=6,
    ).filter(lambda cmw: depth_of(cmw) <= MAX_DEPTH)


def depth_of(cmw):
    return 1 + max(map(depth_of, cmw.entries.values())) if isinstance(cmw, CmwCollection) else 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(collections_of(CBOR_RECORDS, LABELS | st.integers(-(1 << 40), 1 << 40)))
def test_what_was_written_in_cbor_is_read(cmw):
    data = encode_cmw_cbor(cmw)
    assert decode_cmw_untrusted(data) == cmw
    assert encode_cmw_cbor(decode_cmw_untrusted(data)) == data


@settings(max_examples=200, deadline=None, derandomize=True)
@given(collections_of(RECORDS, LABELS))
def test_what_was_written_in_json_is_read(cmw):
    data = encode_cmw_json(cmw)
    assert decode_cmw_untrusted(data) == cmw
    assert encode_cmw_json(decode_cmw_untrusted(data)) == data


SEEDS = [encode_cmw_cbor(COLLECTION), encode_cmw_json(JSON_COLLECTION), *(bytes.fromhex(text) for text, _ in EXAMPLES)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60) | st.builds(
    lambda seed, at, new: seed[: at % len(seed)] + new + seed[at % len(seed) + 1 :],
    st.sampled_from(SEEDS), st.integers(0, 500), st.binary(max_size=3),
))  # fmt: skip
def test_any_bytes_are_a_wrapper_or_refused(data):
    for decode in (decode_cmw_untrusted, decode_cmw_extension_untrusted):
        try:
            cmw = decode(data)
        except DecodeError:
            continue
        assert decode_cmw_untrusted(encode_cmw_cbor(cmw)) == cmw
