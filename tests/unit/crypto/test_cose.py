# SPDX-License-Identifier: Apache-2.0
"""COSE_Sign1 and COSE_Key: what is signed, with which algorithm, by whose key."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.crypto.cbor import Tagged, encode
from enarx.crypto.cose import (
    EDDSA,
    ES256,
    ES384,
    ES512,
    algorithm_name,
    algorithm_of,
    encode_key,
    encode_sign1,
    load_key_untrusted,
    parse_sign1_untrusted,
    sign,
    verifies,
)
from enarx.errors import DecodeError

KEYS = {
    ES256: ec.generate_private_key(ec.SECP256R1()),
    ES384: ec.generate_private_key(ec.SECP384R1()),
    ES512: ec.generate_private_key(ec.SECP521R1()),
    EDDSA: ed25519.Ed25519PrivateKey.generate(),
}
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def parse(data: bytes) -> Any:
    return parse_sign1_untrusted(data, max_bytes=1 << 16)


def message_of(*parts: object, tag: int | None = None) -> bytes:
    return encode(Tagged(tag, list(parts)) if tag is not None else list(parts))


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("tagged", [True, False])
def test_verifies_what_it_signs(algorithm: int, tagged: bool):
    key = KEYS[algorithm]
    data = sign(b"payload", key, tagged=tagged, unprotected={4: b"kid"}, external_aad=b"aad")
    message = parse(data)
    assert message.algorithm == algorithm == algorithm_of(key.public_key())
    assert (message.payload, message.unprotected, message.tagged) == (b"payload", {4: b"kid"}, tagged)
    assert encode_sign1(message) == data
    assert verifies(message, key.public_key(), external_aad=b"aad")
    assert not verifies(message, key.public_key())
    assert not verifies(message._replace(payload=b"Payload"), key.public_key(), external_aad=b"aad")


@pytest.mark.parametrize("algorithm", KEYS)
def test_refuses_another_key_of_the_same_kind(algorithm: int):
    key = KEYS[algorithm]
    other = ed25519.Ed25519PrivateKey.generate() if algorithm == EDDSA else ec.generate_private_key(key.curve)
    message = parse(sign(b"payload", key))
    assert verifies(message, key.public_key())
    assert not verifies(message, other.public_key())


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("claimed", [*KEYS, None, 5, "ES384", True])
def test_refuses_an_algorithm_that_is_not_the_keys(algorithm: int, claimed: object):
    message = parse(sign(b"payload", KEYS[algorithm]))
    header = {} if claimed is None else {1: claimed}
    forged = message._replace(protected=encode(header) if header else b"", header=header)
    assert verifies(forged, KEYS[algorithm].public_key()) == (claimed == algorithm)


def test_takes_the_algorithm_from_the_protected_header_only():
    message = parse(message_of(b"", {1: ES384}, b"payload", bytes(96)))
    assert message.algorithm is None
    assert not verifies(message, KEYS[ES384].public_key())


def test_refuses_every_flipped_bit_of_a_signature():
    data = sign(b"payload", KEYS[ES256])
    message, public = parse(data), KEYS[ES256].public_key()
    assert verifies(message, public)
    for bit in range(8 * len(message.signature)):
        flipped = bytearray(message.signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not verifies(message._replace(signature=bytes(flipped)), public)


@pytest.mark.parametrize("algorithm", KEYS)
def test_refuses_a_signature_of_another_length(algorithm: int):
    message, public = parse(sign(b"payload", KEYS[algorithm])), KEYS[algorithm].public_key()
    for signature in (b"", message.signature[:-1], message.signature + b"\0", b"\0" + message.signature):
        assert not verifies(message._replace(signature=signature), public)


def test_refuses_signature_halves_that_are_out_of_range():
    message, public = parse(sign(b"payload", KEYS[ES384])), KEYS[ES384].public_key()
    r, s = message.signature[:48], message.signature[48:]
    order = P384_ORDER.to_bytes(48, "big")
    for signature in (bytes(96), bytes(48) + s, r + bytes(48), order + s, r + order, b"\xff" * 96):
        assert not verifies(message._replace(signature=signature), public)


def test_a_negated_signature_is_one_for_the_same_signed_bytes():
    # This is ECDSA as RFC 9053 has it: no second meaning can be had from it, so it is no forgery.
    message, public = parse(sign(b"payload", KEYS[ES384])), KEYS[ES384].public_key()
    s = P384_ORDER - int.from_bytes(message.signature[48:], "big")
    negated = message._replace(signature=message.signature[:48] + s.to_bytes(48, "big"))
    assert verifies(negated, public)
    assert not verifies(negated._replace(payload=b"other"), public)


def test_has_no_algorithm_for_a_curve_that_is_not_known():
    key = ec.generate_private_key(ec.SECP256K1())
    assert algorithm_of(key.public_key()) is None
    assert not verifies(parse(sign(b"payload", KEYS[ES256])), key.public_key())
    with pytest.raises(ValueError, match="another curve"):
        sign(b"payload", key)
    with pytest.raises(ValueError, match="secp256k1"):
        encode_key(key.public_key())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message_of(b"\xa0", {}, b"", b"", tag=17), "tag: found 17"),
        (message_of(b"\xa0", {}, b""), "other parts"),
        (message_of(b"\xa0", {}, b"", b"", b""), "other parts"),
        (message_of(b"\xa0", {}, None, b""), "other parts"),
        (message_of("", {}, b"", b""), "other parts"),
        (message_of(b"\xa0", [], b"", b""), "other parts"),
        (message_of({}, {}, b"", b""), "other parts"),
        (encode({1: 2}), "other parts"),
        (message_of(b"\x80", {}, b"", b""), "protected header: found list"),
        (message_of(b"\xa1\x01", {}, b"", b""), "protected header: found"),
        (message_of(b"\xa0\x00", {}, b"", b""), "after the end"),
        (message_of(b"\xa2\x01\x26\x01\x38\x22", {}, b"", b""), "Duplicate map key"),
        (message_of(b"\xa1\x18\x01\x26", {}, b"", b""), "shortest form"),
        (message_of(encode({1: ES384, 2: [4]}), {}, b"", b""), "crit"),
        (message_of(b"\xa0", {2: [4]}, b"", b""), "crit"),
        (message_of(encode({1: ES384}), {1: ES256}, b"", b""), "in both"),
        (message_of(b"\xa0", {}, b"", b"") + b"\0", "after the end"),
        (b"\xd8\x12" + message_of(b"\xa0", {}, b"", b""), "shortest form"),
        (b"\xd2" + message_of(b"\xa0", {}, b"", b"", tag=18), "a tag"),
        (b"\x98\x04" + message_of(b"\xa0", {}, b"", b"")[1:], "shortest form"),
        (b"\x9f" + message_of(b"\xa0", {}, b"", b"")[1:] + b"\xff", "indefinite"),
        (b"", "nothing"),
    ],
)
def test_refuses_what_is_not_the_one_encoding_of_a_message(data: bytes, reason: str):
    assert parse(message_of(b"\xa0", {}, b"", b"")) == parse(message_of(b"", {}, b"", b""))._replace(protected=b"\xa0")
    with pytest.raises(DecodeError, match=reason):
        parse(data)


USUAL = b"\xa1\x01\x38\x22"


@pytest.mark.parametrize("tag", [None, 18])
@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 257, 4096, 60000])
@pytest.mark.parametrize("n_signature", [95, 96, 97])
def test_takes_a_message_of_the_usual_form_apart_like_any_other(tag: int | None, size: int, n_signature: int):
    payload, signature = bytes(size - 1) + b"\x58" if size else b"", b"\x60" * n_signature
    data = message_of(USUAL, {}, payload, signature, tag=tag)
    # An unprotected parameter is all it takes not to have that form.
    other = parse(message_of(USUAL, {4: b""}, payload, signature, tag=tag))
    assert parse(data) == other._replace(unprotected={})
    assert encode_sign1(parse(data)) == data


@pytest.mark.parametrize("tag", [b"", b"\xd2"])
@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\x59\x00\xff" + bytes(255) + b"\x58\x60" + bytes(96), "shortest form"),
        (b"\x59\x01\x00" + bytes(256) + b"\x59\x00\x60" + bytes(96), "shortest form"),
        (b"\x59\x01\x00" + bytes(256) + b"\x58\x60" + bytes(97), "after the end"),
        (b"\x59\x01\x00" + bytes(256) + b"\x58\x60" + bytes(95), "premature end"),
        (b"\x59\x01\x00" + bytes(256) + b"\x78\x60" + bytes(96), "other parts"),
        (b"\x59\x01\x00" + bytes(256), "premature end"),
        (b"\x59\x01", "premature end"),
    ],
)
def test_refuses_what_only_begins_like_a_message_of_the_usual_form(tag: bytes, rest: bytes, reason: str):
    with pytest.raises(DecodeError, match=reason):
        parse(tag + b"\x84\x44" + USUAL + b"\xa0" + rest)


def test_refuses_a_message_beyond_its_limit():
    with pytest.raises(DecodeError, match="size: found"):
        parse_sign1_untrusted(message_of(b"", {}, bytes(100), b""), max_bytes=100)


@pytest.mark.parametrize("algorithm", KEYS)
def test_loads_the_public_keys_it_encodes(algorithm: int):
    public = KEYS[algorithm].public_key()
    assert load_key_untrusted(encode_key(public)) == public


def key_parts(algorithm: int = ES384) -> dict[Any, Any]:
    import cbor2

    return dict(cbor2.loads(encode_key(KEYS[algorithm].public_key())))


def test_ignores_labels_of_a_key_that_say_nothing_of_it():
    assert load_key_untrusted(encode({**key_parts(), 2: b"kid", 3: ES384})) == KEYS[ES384].public_key()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({1: 1}, "another kind"),
        ({1: 3}, "another kind"),
        ({1: True, -1: 6, -2: bytes(32), -3: None}, "another kind"),
        ({-1: 1}, "another size"),
        ({-1: 8}, "another kind"),
        ({-1: True}, "another kind"),
        ({-2: bytes(48)}, "want a point on its curve"),
        ({-2: bytes(47)}, "another size"),
        ({-3: True}, "another kind"),
        ({-4: bytes(48)}, "private"),
        ({3: ES256}, "alg"),
    ],
)
def test_refuses_a_key_that_is_not_a_point_on_its_curve(change: dict[int, Any], reason: str):
    assert load_key_untrusted(encode(key_parts()))
    with pytest.raises(DecodeError, match=reason):
        load_key_untrusted(encode({**key_parts(), **change}))


@pytest.mark.parametrize("data", [b"", b"\x80", encode({}), encode({1: 1, -1: 6, -2: bytes(31)}), bytes(2000)])
def test_refuses_what_is_no_key(data: bytes):
    with pytest.raises(DecodeError):
        load_key_untrusted(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60))
def test_gives_a_message_or_a_decode_error_for_any_bytes(data: bytes):
    for parse_any in (parse, load_key_untrusted):
        try:
            parse_any(b"\xd2\x84\x43\xa1\x01\x26" + data if data[:1] < b"\x80" else data)
        except DecodeError:
            continue


def test_names_algorithms_as_people_do():
    assert [algorithm_name(number) for number in (ES384, EDDSA, 5, None)] == ["ES384", "EdDSA", "5", "none"]


def test_a_key_of_another_kind_has_no_algorithm():
    message = parse_sign1_untrusted(sign(b"payload", ed25519.Ed25519PrivateKey.generate()), max_bytes=1000)
    for key in (rsa.generate_private_key(65537, 2048), ed448.Ed448PrivateKey.generate()):
        assert algorithm_of(key.public_key()) is None
        assert not verifies(message, key.public_key())
