# SPDX-License-Identifier: Apache-2.0
"""The receipt file: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.rats import Endorsements, IntelCollateral
from enarx.wire.receipt_file import ReceiptFile, decode_receipt_untrusted, encode_receipt

RECEIPT = ReceiptFile(
    made_at=datetime(2026, 6, 1, 12, tzinfo=UTC),
    enarx="0.1.0",
    host="https://keeps.example:8470",
    keep="0123",
    keep_leaf=b"k",
    tenant_leaf=b"t",
    exporter=bytes(32),
    challenge=b"c",
    offer=b"o",
    receipt=b"r",
    endorsements=Endorsements(
        certificates=(b"1", b"2"),
        crls=(b"3",),
        intel=(
            IntelCollateral(
                tcb_info=b"{}",
                tcb_info_chain=(b"4",),
                qe_identity=b"{}",
                qe_identity_chain=(),
                pck_crl=b"",
                pck_crl_chain=(b"5", b"6"),
                root_ca_crl=b"7",
            ),
        ),
        event_logs=(b"8",),
    ),
    policy=b"version = 1\n",
    policy_name="policy.toml",
    accepted_roots=frozenset({bytes(32)}),
    offer_result="a.b.c",
    receipt_result="d.e.f",
)


def test_reads_what_it_wrote():
    assert decode_receipt_untrusted(encode_receipt(RECEIPT)) == RECEIPT


def test_begins_with_its_type():
    assert encode_receipt(RECEIPT).startswith(b'{\n "type": "enarx-receipt"')


@pytest.mark.parametrize("member", sorted(json.loads(encode_receipt(RECEIPT))))
@pytest.mark.parametrize("value", [None, 5, "", [], {}, "\N{SNOWMAN}", "missing"])
def test_refuses_members_that_are_missing_or_of_another_kind(member, value):
    document = json.loads(encode_receipt(RECEIPT))
    if value == "missing":
        del document[member]
    else:
        document[member] = value
    fine = {"": {"enarx", "host", "keep", "policy", "policy-name", "offer-result", "receipt-result"}}
    fine["\N{SNOWMAN}"] = fine[""] - {"policy"}
    if value is not None and isinstance(value, str) and member in fine.get(value, ()):
        decode_receipt_untrusted(json.dumps(document).encode())
        return
    if value == [] and member == "accepted-roots":
        decode_receipt_untrusted(json.dumps(document).encode())
        return
    with pytest.raises(DecodeError):
        decode_receipt_untrusted(json.dumps(document).encode())


def test_refuses_an_unknown_member_and_another_version():
    document = json.loads(encode_receipt(RECEIPT))
    for change in ({"x": 1}, {"version": 2}, {"version": True}, {"exporter": "AA=="}, {"accepted-roots": ["00"]}):
        with pytest.raises(DecodeError):
            decode_receipt_untrusted(json.dumps({**document, **change}).encode())
    document["endorsements"]["x"] = []
    with pytest.raises(DecodeError):
        decode_receipt_untrusted(json.dumps(document).encode())


def test_says_an_unknown_member_in_one_line():
    document = json.loads(encode_receipt(RECEIPT)) | {"a\n\x1b[2Jb": 1}
    with pytest.raises(DecodeError, match=r"'a\\n\\x1b\[2Jb': found an unknown member"):
        decode_receipt_untrusted(json.dumps(document).encode())


def test_a_digest_has_one_form():
    for text in ("00 " * 32, "AB" * 32, "0x" + "00" * 31):
        document = json.loads(encode_receipt(RECEIPT)) | {"accepted-roots": [text]}
        with pytest.raises(DecodeError, match="want 32 bytes in lower-case hex"):
            decode_receipt_untrusted(json.dumps(document).encode())


def test_says_how_long_what_is_too_long_is():
    document = json.loads(encode_receipt(RECEIPT)) | {"policy-name": "x" * 4097}
    with pytest.raises(DecodeError, match="policy-name: found str of 4097, want text of at most 4096 characters"):
        decode_receipt_untrusted(json.dumps(document).encode())


def test_base64_has_one_form():
    for text in ("Yw", "Yw=", "Yx==", " Yw==", "Yw==\n"):
        document = json.loads(encode_receipt(RECEIPT)) | {"challenge": text}
        with pytest.raises(DecodeError):
            decode_receipt_untrusted(json.dumps(document).encode())


@given(data=st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)).map(
           lambda value: json.dumps({**json.loads(encode_receipt(RECEIPT)), "endorsements": value}).encode()))  # fmt: skip
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_are_a_receipt_or_refused(data):
    try:
        decode_receipt_untrusted(data)
    except DecodeError:
        return


@given(
    times=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(9999, 1, 1)),  # noqa: DTZ001 - made aware below
    blobs=st.lists(st.binary(min_size=1, max_size=20), max_size=4),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_receipt_is_read_as_it_was_written(times, blobs):
    made = replace(
        RECEIPT,
        made_at=times.replace(microsecond=0, tzinfo=UTC),
        endorsements=Endorsements(certificates=tuple(blobs), crls=tuple(blobs)),
    )
    assert decode_receipt_untrusted(encode_receipt(made)) == made
