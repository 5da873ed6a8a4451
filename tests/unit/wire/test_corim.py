# SPDX-License-Identifier: Apache-2.0
"""Tests of reference values as CoRIM. The bytes written out by hand follow the draft's CDDL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto import cose
from enarx.crypto.cbor import Tagged, encode
from enarx.errors import DecodeError, EndorsementError, UsageError, VerificationError
from enarx.wire.corim import (
    ENVIRONMENTS,
    MAX_CORIM_BYTES,
    Digest,
    Environment,
    Measurement,
    ReferenceValue,
    ReferenceValueSet,
    decode_corim_untrusted,
    encode_corim,
    sign_corim,
    verify_corim,
)

AT = datetime(2026, 11, 21, 8, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = ec.derive_private_key(21, ec.SECP384R1())
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x02")
SHA384 = Digest("sha-384", bytes(range(48)))
SHA256 = Digest("sha-256", bytes(range(32)))
ONE = ReferenceValueSet(
    id="x",
    values=(
        ReferenceValue(
            environment=ENVIRONMENTS["snp"], measurements=(Measurement(key="measurement", digests=(SHA384,)),)
        ),
    ),
)
# 501({0: "x", 1: [506(<<{1: {0: "x"}, 4: {0: [[{0: {1: "AMD", 2: "SEV-SNP"}}, [{0: "measurement", 1: {2: [[7, h'..']]}}]]]}}>>)]})
BY_HAND = bytes.fromhex("d901f5" "a2" "00" "6178" "01" "81" "d901fa" "5863") + bytes.fromhex(
    "a2" "01" "a1" "00" "6178" "04" "a1" "00" "81" "82" "a1" "00" "a2" "01" "63414d44" "02" "675345562d534e50"
    "81" "a2" "00" "6b6d6561737572656d656e74" "01" "a1" "02" "81" "82" "07" "5830"
) + SHA384.value  # fmt: skip
FULL = ReferenceValueSet(
    id=UUID(int=5),
    values=(
        *ONE.values,
        ReferenceValue(
            environment=Environment(class_id="1.3.6.1.4.1.3704.2.1", vendor="AMD", model="Milan", layer=0, index=3),
            measurements=(
                Measurement(key="bootloader", min_svn=4),
                Measurement(key=1, svn=7, name="microcode"),
                Measurement(key="policy", raw=b"\x00\x03", raw_mask=b"\xff\x01"),
                Measurement(raw=b""),
            ),
        ),
        ReferenceValue(
            environment=Environment(class_id=UUID(int=7)),
            measurements=(Measurement(registers={0: (SHA256, SHA384), "rtmr1": (SHA384,)}),),
        ),
        ReferenceValue(environment=Environment(class_id=b"\x01\x02"), measurements=(Measurement(svn=0),)),
    ),
    not_before=AT - DAY,
    not_after=AT + DAY,
)


def corim(comid=None, **others):
    """Return a CoRIM that our own writer would not write."""
    comid = {1: {0: "x"}, 4: {0: [triple()]}} if comid is None else comid
    members = {0: "x", 1: [Tagged(506, encode(comid))]}
    return encode(Tagged(501, members | {int(name[1:]): value for name, value in others.items()}))


def triple(environment=None, **values):
    values = {int(name[1:]): value for name, value in values.items()} or {1: 3}
    return [{0: {1: "AMD"}} if environment is None else environment, [{1: values}]]


def with_triple(item):
    return corim({1: {0: "x"}, 4: {0: [item]}})


def test_writes_and_reads_what_the_draft_says():
    assert encode_corim(ONE) == BY_HAND
    assert decode_corim_untrusted(BY_HAND) == ONE


@pytest.mark.parametrize("values", [ONE, FULL])
def test_what_was_written_is_read(values):
    data = encode_corim(values)
    assert decode_corim_untrusted(data) == values
    assert encode_corim(decode_corim_untrusted(data)) == data


@pytest.mark.parametrize("profile", ["https://example.com/profile", "2.999.1"])
def test_a_profile_has_to_be_known(profile):
    data = encode_corim(replace(ONE, profile=profile))
    assert decode_corim_untrusted(data, profiles=frozenset({profile})).profile == profile
    with pytest.raises(DecodeError, match="profile"):
        decode_corim_untrusted(data)


def test_reads_all_the_tags_of_a_document():
    comid = Tagged(506, encode({1: {0: "a"}, 4: {0: [triple()]}}))
    assert len(decode_corim_untrusted(encode(Tagged(501, {0: "x", 1: [comid, comid]}))).values) == 2


def test_reads_and_drops_who_wrote_it_and_in_which_language():
    entity = [{0: "ACME", 1: Tagged(32, "https://acme.example"), 2: [1]}, {0: "Other", 2: [1, 2]}]
    assert decode_corim_untrusted(corim({0: "en", 1: {0: "x", 1: 2}, 2: entity, 4: {0: [triple()]}}, _5=entity))


def test_a_tagged_svn_is_an_svn_and_a_named_algorithm_a_number():
    decoded = decode_corim_untrusted(with_triple(triple(_1=Tagged(552, 9), _2=[["sha-256", SHA256.value]])))
    assert decoded.values[0].measurements == (Measurement(svn=9, digests=(SHA256,)),)


REFUSED = {
    "nothing": b"",
    "another tag": encode(Tagged(502, {})),
    "no tag": BY_HAND[3:],
    "something after it": BY_HAND + b"\0",
    "too much": bytes(MAX_CORIM_BYTES + 1),
    "endorsed values": corim({1: {0: "x"}, 4: {0: [triple()], 1: [triple()]}}),
    "nothing but conditional endorsements": corim({1: {0: "x"}, 4: {10: [triple()]}}),
    "a kind of triples nobody knows": corim({1: {0: "x"}, 4: {0: [triple()], -1: []}}),
    "no triples": corim({1: {0: "x"}, 4: {}}),
    "an empty list of triples": corim({1: {0: "x"}, 4: {0: []}}),
    "linked tags": corim({1: {0: "x"}, 3: [{0: "y", 1: 1}], 4: {0: [triple()]}}),
    "dependent documents": corim(_2=[{0: Tagged(32, "https://example.com")}]),
    "an extension": corim(_99=1),
    "CoSWID": encode(Tagged(501, {0: "x", 1: [Tagged(505, b"\xa0")]})),
    "a tag that is no bytes": encode(Tagged(501, {0: "x", 1: [Tagged(506, {})]})),
    "no tags": encode(Tagged(501, {0: "x", 1: []})),
    "an end before its beginning": corim(_4={0: Tagged(1, 2), 1: Tagged(1, 1)}),
    "a beginning alone": corim(_4={0: Tagged(1, 2)}),
    "a time without its tag": corim(_4={1: 2}),
    "an instance": with_triple(triple({0: {1: "AMD"}, 1: Tagged(560, b"x")})),
    "a group": with_triple(triple({0: {1: "AMD"}, 2: Tagged(560, b"x")})),
    "no class": with_triple(triple({})),
    "an empty class": with_triple(triple({0: {}})),
    "a class id without a tag": with_triple(triple({0: {0: b"x"}})),
    "an object identifier in a longer form": with_triple(triple({0: {0: Tagged(111, b"\x80\x01")}})),
    "an object identifier that is cut off": with_triple(triple({0: {0: Tagged(111, b"\x2b\x81")}})),
    "an object identifier of one number": with_triple(triple({0: {0: Tagged(111, b"")}})),
    "a huge object identifier": with_triple(triple({0: {0: Tagged(111, b"\xff" * 9 + b"\x01")}})),
    "an object identifier with a number of 11 digits": with_triple(
        triple({0: {0: Tagged(111, b"\x2b\xff\xff\xff\xff\x7f")}})
    ),
    "a digest without its algorithm": with_triple(triple(_2=[[SHA256.value]])),
    "CoSWID under a tag that is known": encode(Tagged(501, {0: "x", 1: [Tagged(560, b"x")]})),
    "more triples than there may be": encode(
        Tagged(501, {0: "x", 1: [Tagged(506, encode({1: {0: "x"}, 4: {0: [triple()] * 4096}}))] * 2})
    ),
    "an entity without a role": corim(_5=[{0: "ACME"}]),
    "a UUID of 15 bytes": with_triple(triple({0: {0: Tagged(37, bytes(15))}})),
    "a condition on who says it": with_triple([{0: {1: "AMD"}}, [{1: {1: 3}, 2: [Tagged(560, b"x")]}]]),
    "flags": with_triple(triple(_3={3: False})),
    "a version": with_triple(triple(_0={0: "1.0"})),
    "nothing but a name": with_triple(triple(_11="x")),
    "no measurement": with_triple([{0: {1: "AMD"}}, []]),
    "three parts": with_triple([{0: {1: "AMD"}}, [{1: {1: 3}}], 1]),
    "a negative svn": with_triple(triple(_1=-1)),
    "a true svn": with_triple(triple(_1=True)),
    "no digest": with_triple(triple(_2=[])),
    "a digest of an unknown algorithm": with_triple(triple(_2=[[2, bytes(16)]])),
    "a digest of another size": with_triple(triple(_2=[[7, bytes(32)]])),
    "a digest of a named unknown algorithm": with_triple(triple(_2=[["md5", bytes(16)]])),
    "bytes without their tag": with_triple(triple(_4=b"x")),
    "a mask of another length": with_triple(triple(_4=Tagged(563, [b"xy", b"x"]))),
    "a mask that lets everything pass": with_triple(triple(_4=Tagged(563, [b"xy", bytes(2)]))),
    "no register": with_triple(triple(_14={})),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data):
    with pytest.raises(DecodeError):
        decode_corim_untrusted(data)


def test_the_documents_that_differ_from_those_in_one_thing_are_read():
    assert decode_corim_untrusted(corim()) == decode_corim_untrusted(with_triple(triple(_1=3)))


@pytest.mark.parametrize(
    "values",
    [
        replace(ONE, values=()),
        replace(ONE, id=""),
        replace(ONE, not_before=AT),
        replace(ONE, not_after=AT.replace(tzinfo=None)),
        replace(ONE, not_after=AT.replace(microsecond=1)),
        replace(ONE, values=(ReferenceValue(environment=Environment(), measurements=(Measurement(svn=1),)),)),
        replace(ONE, values=(ReferenceValue(environment=Environment(vendor="x"), measurements=()),)),
        replace(
            ONE, values=(ReferenceValue(environment=Environment(class_id="3.1"), measurements=(Measurement(svn=1),)),)
        ),
        replace(
            ONE, values=(ReferenceValue(environment=Environment(class_id="1.40"), measurements=(Measurement(svn=1),)),)
        ),
        replace(
            ONE,
            values=(ReferenceValue(environment=ENVIRONMENTS["snp"], measurements=(Measurement(svn=1, min_svn=1),)),),
        ),
        replace(
            ONE,
            values=(
                ReferenceValue(
                    environment=ENVIRONMENTS["snp"], measurements=(Measurement(digests=(Digest("sha-384", b"x"),)),)
                ),
            ),
        ),
    ],
)
def test_does_not_write_what_it_would_refuse(values):
    with pytest.raises(UsageError):
        encode_corim(values)


# --- Signed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_signed_document_is_read_with_its_signer_s_key(key):
    data = sign_corim(FULL, key, signer="ACME Inc.")
    signed = verify_corim(data, [OTHER.public_key(), KEY.public_key()], at=AT)
    assert (signed.values, signed.signer) == (FULL, "ACME Inc.")
    assert signed.key == key.public_key()
    message = cose.parse_sign1_untrusted(data, max_bytes=MAX_CORIM_BYTES)
    assert message.header[3] == "application/rim+cbor"
    assert message.header[8] == encode({0: {0: "ACME Inc."}})


def test_a_signed_document_of_another_key_is_refused():
    data = sign_corim(ONE, KEY, signer="ACME")
    with pytest.raises(VerificationError, match="signature"):
        verify_corim(data, [OTHER.public_key()], at=AT)
    with pytest.raises(UsageError, match="no key"):
        verify_corim(data, [], at=AT)
    with pytest.raises(UsageError, match="naive"):
        verify_corim(data, [KEY.public_key()], at=AT.replace(tzinfo=None))


@pytest.mark.parametrize("bit", range(0, 8 * 350, 37))
def test_a_flipped_bit_is_refused(bit):
    data = bytearray(sign_corim(ONE, KEY, signer="ACME"))
    assert verify_corim(bytes(data), [KEY.public_key()], at=AT).values == ONE
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises((DecodeError, VerificationError)):
        verify_corim(bytes(data), [KEY.public_key()], at=AT)


def test_both_periods_include_their_ends():
    for data in (
        sign_corim(replace(ONE, not_before=AT - DAY, not_after=AT + DAY), KEY, signer="ACME"),
        sign_corim(ONE, KEY, signer="ACME", not_before=AT - DAY, not_after=AT + DAY),
        cose.sign(
            encode_corim(ONE),
            KEY,
            protected={
                3: "application/rim+cbor",
                15: {1: "ACME", 4: int((AT + DAY).timestamp()), 5: int((AT - DAY).timestamp())},
            },
        ),
    ):
        for at in (AT - DAY, AT, AT + DAY):
            assert verify_corim(data, [KEY.public_key()], at=at).signer == "ACME"
        for at in (AT - DAY - timedelta(seconds=1), AT + DAY + timedelta(seconds=1)):
            with pytest.raises(EndorsementError, match="cannot use the CoRIM"):
                verify_corim(data, [KEY.public_key()], at=at)


META = encode({0: {0: "ACME"}})


@pytest.mark.parametrize(
    "header",
    [
        {},
        {3: "application/rim+cbor"},
        {8: META},
        {3: "application/corim-unsigned+cbor", 8: META},
        {3: "application/rim+cbor", 8: b"\xa0"},
        {3: "application/rim+cbor", 8: META + b"\0"},
        {3: "application/rim+cbor", 15: {4: 1}},
        {3: "application/rim+cbor", 15: {1: "ACME", 4: 1.5}},
        {3: "application/rim+cbor", 8: META, 258: -16},
        {3: "application/rim+cbor", 8: encode({0: {0: ""}})},
    ],
)
def test_refuses_a_signature_that_does_not_say_what_it_is_on(header):
    payload = encode_corim(ONE)
    good = cose.sign(payload, KEY, protected={3: "application/rim+cbor", 8: META})
    assert verify_corim(good, [KEY.public_key()], at=AT).signer == "ACME"
    if header.get(15, {}).get(4) == 1.5:
        header = {3: "application/rim+cbor", 15: {1: "ACME", 4: "1"}}
    with pytest.raises(DecodeError):
        verify_corim(cose.sign(payload, KEY, protected=header), [KEY.public_key()], at=AT)


def test_refuses_a_signed_document_without_its_tag_or_of_something_else():
    for data in (
        sign_corim(ONE, KEY, signer="ACME")[1:],
        cose.sign(b"\xa0", KEY, protected={3: "application/rim+cbor", 8: META}),
        encode_corim(ONE),
    ):
        with pytest.raises(DecodeError):
            verify_corim(data, [KEY.public_key()], at=AT)


def test_reads_the_signer_s_address_and_drops_it():
    meta = encode({0: {0: "ACME", 1: Tagged(32, "https://acme.example")}})
    data = cose.sign(encode_corim(ONE), KEY, protected={3: "application/rim+cbor", 8: meta})
    assert verify_corim(data, [KEY.public_key()], at=AT).signer == "ACME"


def test_does_not_sign_without_a_name():
    with pytest.raises(UsageError):
        sign_corim(ONE, KEY, signer="")


# --- Any -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
NUMBERS = st.integers(0, 1 << 60)
OIDS = st.builds(
    lambda first, rest: ".".join(map(str, (*first, *rest))),
    st.tuples(st.integers(0, 1), st.integers(0, 39)) | st.tuples(st.just(2), st.integers(0, 999)),
    st.lists(st.integers(0, 1 << 30), max_size=5),
)
DIGESTS = st.lists(
    st.builds(lambda value: Digest("sha-256", value), st.binary(min_size=32, max_size=32))
    | st.builds(lambda value: Digest("sha-512", value), st.binary(min_size=64, max_size=64)),
    min_size=1,
    max_size=3,
).map(tuple)
VALUES = st.one_of(
    st.fixed_dictionaries({"svn": NUMBERS}),
    st.fixed_dictionaries({"min_svn": NUMBERS}),
    st.fixed_dictionaries({"digests": DIGESTS, "svn": NUMBERS}),
    st.fixed_dictionaries({"raw": st.binary(max_size=9)}),
    st.fixed_dictionaries({"registers": st.dictionaries(NUMBERS | TEXT, DIGESTS, min_size=1, max_size=2)}),
)
MEASUREMENTS = st.builds(
    lambda key, name, values: Measurement(key=key, name=name, **values),
    st.none() | NUMBERS | TEXT,
    st.none() | TEXT,
    VALUES,
)
ENVIRONMENT = st.builds(
    Environment,
    class_id=st.none() | OIDS | st.uuids() | st.binary(min_size=1, max_size=5),
    vendor=TEXT,
    model=st.none() | TEXT,
    layer=st.none() | NUMBERS,
    index=st.none() | NUMBERS,
)
SETS = st.builds(
    ReferenceValueSet,
    id=TEXT | st.uuids(),
    values=st.lists(
        st.builds(
            ReferenceValue,
            environment=ENVIRONMENT,
            measurements=st.lists(MEASUREMENTS, min_size=1, max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    not_after=st.none() | st.integers(0, 1 << 32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    profile=st.none() | OIDS,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(SETS)
def test_any_set_is_read_as_it_was_written(values):
    data = encode_corim(values)
    profiles = frozenset({values.profile or ""})
    assert decode_corim_untrusted(data, profiles=profiles) == values
    assert encode_corim(decode_corim_untrusted(data, profiles=profiles)) == data


SEEDS = [encode_corim(FULL), encode_corim(ONE), sign_corim(ONE, KEY, signer="ACME")]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80) | st.builds(
    lambda seed, at, new: seed[: at % len(seed)] + new + seed[at % len(seed) + 1 :],
    st.sampled_from(SEEDS), st.integers(0, 2000), st.binary(max_size=3),
))  # fmt: skip
def test_any_bytes_are_reference_values_or_refused(data):
    with pytest.raises((DecodeError, VerificationError)):
        verify_corim(data, [OTHER.public_key()], at=AT)
    try:
        values = decode_corim_untrusted(data)
    except DecodeError:
        return
    assert decode_corim_untrusted(encode_corim(values)) == values
