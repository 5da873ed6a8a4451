# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError
from enarx.wire.release import Identity, encode_identity
from enarx.wire.session import (
    MAX_MESSAGE_BYTES,
    Attach,
    Challenge,
    Detach,
    Exit,
    Failure,
    Image,
    Limits,
    Offer,
    Output,
    Receipt,
    Signal,
    Stdin,
    Stop,
    Window,
    decode_keep_message_untrusted,
    decode_tenant_message_untrusted,
    decode_without_evidence_untrusted,
    encode_message,
    without_evidence,
)
from tests.cddl import schema
from tests.unit.wire.session_strategies import ATTACHMENTS, KEEP_MESSAGES, OFFERS, RECEIPTS, TENANT_MESSAGES

QUICK = settings(max_examples=200, deadline=None, derandomize=True)
DECODERS = (decode_tenant_message_untrusted, decode_keep_message_untrusted)


@given(TENANT_MESSAGES)
@QUICK
def test_a_tenant_s_message_comes_back_as_it_was_and_is_none_of_a_keep_s(message):
    data = encode_message(message)
    assert decode_tenant_message_untrusted(data) == message
    with pytest.raises(DecodeError, match=r"message\.type"):
        decode_keep_message_untrusted(data)


@given(KEEP_MESSAGES)
@QUICK
def test_a_keep_s_message_comes_back_as_it_was_and_is_none_of_a_tenant_s(message):
    data = encode_message(message)
    assert decode_keep_message_untrusted(data) == message
    with pytest.raises(DecodeError, match=r"message\.type"):
        decode_tenant_message_untrusted(data)


@given(st.one_of(TENANT_MESSAGES, KEEP_MESSAGES))
@QUICK
def test_a_message_is_what_the_cddl_says(message):
    schema("session", "message").validate_cbor(encode_message(message))


@given(st.one_of(TENANT_MESSAGES, KEEP_MESSAGES), st.data())
@QUICK
def test_the_cddl_and_the_decoders_refuse_the_same_changes(message, data):
    """Change one member; what the decoders accept, the CDDL accepts."""
    value = decode_untrusted(encode_message(message), max_bytes=MAX_MESSAGE_BYTES)
    name = data.draw(st.sampled_from([*value, "more"]))
    value[name] = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(-1, 1 << 64), st.text(max_size=3), st.binary(max_size=3))
    )
    try:
        changed = encode(value)
    except ValueError:
        return
    for decode in DECODERS:
        try:
            decode(changed)
        except DecodeError:
            continue
        schema("session", "message").validate_cbor(changed)


@given(st.one_of(TENANT_MESSAGES, KEEP_MESSAGES), st.data())
@QUICK
def test_a_member_too_many_or_too_few_is_refused(message, data):
    value = decode_untrusted(encode_message(message), max_bytes=MAX_MESSAGE_BYTES)
    for decode in DECODERS:
        with pytest.raises(DecodeError):
            decode(encode(value | {"unknown": 1}))
    needed = [name for name in value if name not in {"failure", "trap", "hint"}]
    del value[data.draw(st.sampled_from(needed))]
    for decode in DECODERS:
        with pytest.raises(DecodeError):
            decode(encode(value))


@pytest.mark.parametrize("backend", ["snp\x1b[2K\rattested", "SNP", "", "auto", 1])
@given(message=st.one_of(OFFERS, ATTACHMENTS))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_a_backend_that_nobody_knows_is_refused(backend, message):
    value = decode_untrusted(encode_message(message), max_bytes=MAX_MESSAGE_BYTES)
    value["image"]["backend"] = backend
    with pytest.raises(DecodeError, match="backend"):
        decode_keep_message_untrusted(encode(value))


@given(st.binary(max_size=200))
@QUICK
def test_any_bytes_are_a_message_or_refused(data):
    any_bytes_are_a_message_or_refused(data)


@pytest.mark.soak
@given(st.one_of(st.binary(max_size=400), st.one_of(TENANT_MESSAGES, KEEP_MESSAGES).map(encode_message)), st.data())
@settings(max_examples=int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000")), deadline=None)
def test_any_bytes_are_a_message_or_refused_at_length(data, draw):
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3)) if changed else 0):
        at = draw.draw(st.integers(0, len(changed)))
        changed[at : at + draw.draw(st.integers(0, 2))] = draw.draw(st.binary(max_size=3))
    any_bytes_are_a_message_or_refused(bytes(changed))


def any_bytes_are_a_message_or_refused(data):
    for decode in DECODERS:
        try:
            message = decode(data)
        except DecodeError:
            continue
        assert encode_message(message) == data


@given(st.one_of(OFFERS, ATTACHMENTS, RECEIPTS), st.binary(min_size=1, max_size=9))
@QUICK
def test_what_is_hashed_has_everything_but_evidence_and_endorsements(message, other):
    hashed = without_evidence(message)
    assert hashed == without_evidence(message._replace(evidence=other, endorsements=(other,)))
    value = decode_untrusted(hashed, max_bytes=MAX_MESSAGE_BYTES)
    whole = decode_untrusted(encode_message(message), max_bytes=MAX_MESSAGE_BYTES)
    assert whole.keys() - value.keys() == {"evidence", "endorsements"}
    assert value == {name: whole[name] for name in value}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Challenge(bytes(31), ("a/b",)), "31 bytes, want 32"),
        (Challenge(bytes(32), ()), "0 items, want an array of 1 to 16"),
        (Challenge(bytes(32), ("a/b",) * 17), "17 items"),
        (Signal(9), "found 9, want one of 2, 15"),
        (Stop(600_001), "want a number from 0 to 600000"),
        (Stdin(bytes(65537)), "65537 bytes"),
        (Attach(-1), "want a number from 0"),
    ],
)
def test_a_tenant_s_message_beyond_a_limit_is_refused(message, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_tenant_message_untrusted(encode_message(message))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Output("stdout", 0, b""), "0 bytes"),
        (Output("stdin", 0, b"x"), r"message\.type"),
        (Exit(256, None, None, None), "want a number from 0 to 255"),
        (Failure(102, "x"), "want a number from 103 to 109"),
        (Failure(103, ""), "0 bytes of text"),
        (Window(True), "found True"),
    ],
)
def test_a_keep_s_message_beyond_a_limit_is_refused(message, reason):
    with pytest.raises(DecodeError, match=reason):
        decode_keep_message_untrusted(encode_message(message))


def test_another_encoding_of_a_message_is_refused():
    data = encode_message(Attach(1))
    assert decode_tenant_message_untrusted(data) == Attach(1)
    other = b"\xa2" + encode("offset") + encode(1) + encode("type") + encode("attach")
    assert sorted(other) == sorted(data)
    with pytest.raises(DecodeError, match="deterministic"):
        decode_tenant_message_untrusted(other)


def test_a_message_over_the_limit_is_refused_unseen():
    with pytest.raises(DecodeError, match="size"):
        decode_keep_message_untrusted(bytes(MAX_MESSAGE_BYTES + 1))


def test_floating_point_is_refused():
    with pytest.raises(DecodeError):
        decode_tenant_message_untrusted(b"\xa2dtypefattachfoffset\xf9\x3c\x00")


def test_a_message_without_members_has_its_type_alone():
    assert encode_message(Detach()) == b"\xa1dtypefdetach"


@given(RECEIPTS)
@QUICK
def test_what_is_hashed_of_a_receipt_is_read(receipt):
    data = without_evidence(receipt)
    found = decode_without_evidence_untrusted(data)
    assert found == receipt._replace(endorsements=(), evidence=b"")
    assert without_evidence(found) == data


def test_what_is_hashed_of_another_message_or_more_than_that_is_no_receipt():
    identity = encode_identity(Identity(bytes(32), bytes(32), bytes(32), pristine=True, tenant=bytes(48)))
    receipt = Receipt(identity, Limits(1, 2, 3), (), b"e")
    offer = Offer(bytes(1216), Image("n", "v", "nil"), Limits(1, 2, 3), (), b"e")
    refused = {
        without_evidence(offer): "want one of receipt",
        encode_message(receipt): "unknown members",
        without_evidence(receipt._replace(identity=b"x")): "cannot decode the identity record",
        without_evidence(receipt) + b"\0": "cannot decode the receipt",
        encode({"limits": {}, "identity": identity}): "no type",
        bytes(5000): "want at most 4096",
    }
    for data, found in refused.items():
        with pytest.raises(DecodeError, match=found):
            decode_without_evidence_untrusted(data)
