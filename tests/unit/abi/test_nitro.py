# SPDX-License-Identifier: Apache-2.0
"""Nitro documents: the layout, and nothing but the layout."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.nitro import MAX_DOCUMENT_BYTES, parse_document_untrusted
from enarx.crypto.cbor import encode
from enarx.crypto.cose import parse_sign1_untrusted, sign
from enarx.errors import DecodeError
from enarx.testing.nitro import NitroAuthority
from tests.evidence import cases, needs_evidence, read

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHORITY = NitroAuthority(at=AT)
LEAF = AUTHORITY.leaf()
# How much of the optional members the corpus shows, in bytes.
SHOWN = {"public_key": 64, "user_data": 128, "nonce": 128}


def document(**options: Any) -> bytes:
    return AUTHORITY.document(leaf=LEAF, **options)


def shown(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


@needs_evidence
@pytest.mark.parametrize("case", cases("nitro"), ids=lambda case: case["id"])
def test_reads_what_real_documents_say(case: dict[str, Any]):
    data = read(case["inputs"]["document"])
    parsed = parse_document_untrusted(data)
    assert parsed.serialise() == data
    named = dict(parsed.named())
    for name, size in SHOWN.items():
        named[name] = named[name] and named[name][:size]
    named["pcrs"] = {index: value.hex() for index, value in named["pcrs"].items()}
    assert {name: shown(value) for name, value in named.items()} == case["claims"]


def test_reads_every_member():
    changes = {"public_key": b"k" * 1024, "user_data": b"u", "nonce": b""}
    parsed = parse_document_untrusted(document(changes=changes))
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == (b"k" * 1024, b"u", b"")
    assert parsed.timestamp_ms == int(AT.timestamp() * 1000)
    assert (parsed.digest, parsed.is_tpm, len(parsed.pcrs)) == ("SHA384", False, 16)
    assert (parsed.certificate, parsed.cabundle) == (LEAF.certificate, AUTHORITY.cabundle)
    assert parsed.named()["nonce"] is None
    assert set(parsed.named()["pcrs"]) == {"0", "1", "2", "4"}


def test_reads_a_document_of_a_nitrotpm():
    parsed = parse_document_untrusted(document(is_tpm=True))
    assert parsed.is_tpm
    assert len(parsed.pcrs) == 24


@pytest.mark.parametrize("tagged", [True, False])
def test_reads_tagged_and_untagged_messages(tagged: bool):
    data = document(tagged=tagged)
    assert parse_document_untrusted(data).serialise() == data


def test_reads_a_document_without_its_optional_members():
    parsed = parse_document_untrusted(document(without=("public_key", "user_data", "nonce")))
    assert (parsed.public_key, parsed.user_data, parsed.nonce) == (None, None, None)


def test_reads_a_map_without_a_length():
    message = parse_sign1_untrusted(document(), max_bytes=MAX_DOCUMENT_BYTES)
    payload = b"\xbf" + message.payload[1:] + b"\xff"
    assert parse_document_untrusted(sign(payload, LEAF.key)).module_id == parse_document_untrusted(document()).module_id


@pytest.mark.parametrize(("digest", "size"), [("SHA256", 32), ("SHA384", 48), ("SHA512", 64)])
def test_reads_registers_of_the_digests_size_only(digest: str, size: int):
    changes = {"digest": digest, "pcrs": {0: bytes(size)}}
    assert parse_document_untrusted(document(changes=changes)).pcrs == {0: bytes(size)}
    with pytest.raises(DecodeError, match="pcrs: found another register"):
        parse_document_untrusted(document(changes={**changes, "pcrs": {0: bytes(size + 16)}}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"module_id": ""}, "module_id"),
        ({"module_id": b"i-0"}, "module_id"),
        ({"module_id": "i" * 257}, "module_id"),
        ({"digest": "SHA1"}, "digest"),
        ({"digest": ["SHA384"]}, "digest"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 1 << 63}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": "2026"}, "timestamp"),
        ({"pcrs": {}}, "pcrs"),
        ({"pcrs": []}, "pcrs"),
        ({"pcrs": {32: bytes(48)}}, "pcrs"),
        ({"pcrs": {-1: bytes(48)}}, "pcrs"),
        ({"pcrs": {"0": bytes(48)}}, "pcrs"),
        ({"pcrs": {0: bytes(47)}}, "pcrs"),
        ({"pcrs": {0: "0" * 48}}, "pcrs"),
        ({"pcrs": {i: bytes(48) for i in range(33)}}, "pcrs"),
        ({"nitrotpm_pcrs": {0: bytes(48)}}, "unknown ones"),
        ({"certificate": b""}, "certificate"),
        ({"certificate": bytes(1025)}, "certificate"),
        ({"certificate": None}, "certificate"),
        ({"cabundle": []}, "cabundle"),
        ({"cabundle": b"\x30"}, "cabundle"),
        ({"cabundle": [b""]}, "cabundle"),
        ({"cabundle": [bytes(1025)]}, "cabundle"),
        ({"cabundle": [b"\x30"] * 9}, "cabundle"),
        ({"public_key": bytes(1025)}, "public_key"),
        ({"user_data": "text"}, "user_data"),
        ({"nonce": bytes(1025)}, "nonce"),
        ({"other": 1}, "unknown ones"),
        ({0: 1}, "unknown ones"),
    ],
)
def test_refuses_a_member_that_is_not_as_it_should_be(changes: dict[Any, Any], reason: str):
    assert parse_document_untrusted(document())
    with pytest.raises(DecodeError, match=reason):
        parse_document_untrusted(document(changes=changes))


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_refuses_a_document_without_a_member(name: str):
    with pytest.raises(DecodeError, match=f"members: found no {name}"):
        parse_document_untrusted(document(without=(name,)))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x80", "payload: found list"),
        (b"\xa0\x00", "after the end"),
        (b"", "premature"),
        (b"\xa2\x01\x01\x01\x02", "Duplicate"),
        (b"\xbf\x01\x01\x01\x02\xff", "Duplicate"),
        (b"\xa1\x18\x01\x01", "shortest form"),
    ],
)
def test_refuses_a_payload_that_is_no_map(payload: bytes, reason: str):
    with pytest.raises(DecodeError, match=reason):
        parse_document_untrusted(sign(payload, LEAF.key))


def test_refuses_unprotected_parameters():
    with pytest.raises(DecodeError, match="unprotected header"):
        parse_document_untrusted(document(unprotected={4: b"kid"}))


def test_refuses_a_duplicate_member_in_a_document():
    message = parse_sign1_untrusted(document(), max_bytes=MAX_DOCUMENT_BYTES)
    first = message.payload[0]
    payload = bytes([first + 1]) + message.payload[1:] + encode("nonce") + encode(b"another")
    with pytest.raises(DecodeError, match="Duplicate"):
        parse_document_untrusted(sign(payload, LEAF.key))


@pytest.mark.parametrize("cut", [0, 1, 5, 100, -1])
def test_refuses_a_truncated_document(cut: int):
    with pytest.raises(DecodeError):
        parse_document_untrusted(document()[:cut])


def test_refuses_an_extended_or_oversized_document():
    with pytest.raises(DecodeError, match="after the end"):
        parse_document_untrusted(document() + b"\0")
    with pytest.raises(DecodeError, match=f"want at most {MAX_DOCUMENT_BYTES}"):
        parse_document_untrusted(bytes(MAX_DOCUMENT_BYTES + 1))


DOCUMENT = document()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, len(DOCUMENT) - 1), change=st.binary(min_size=1, max_size=9))
def test_gives_a_document_or_a_decode_error_for_any_change(at: int, change: bytes):
    try:
        parse_document_untrusted(DOCUMENT[:at] + change + DOCUMENT[at + len(change) :])
    except DecodeError:
        return


@settings(max_examples=200, deadline=None, derandomize=True)
@given(payload=st.binary(max_size=200))
def test_gives_a_document_or_a_decode_error_for_any_payload(payload: bytes):
    try:
        parse_document_untrusted(encode([b"\xa1\x01\x38\x22", {}, payload, bytes(96)]))
    except DecodeError:
        return
