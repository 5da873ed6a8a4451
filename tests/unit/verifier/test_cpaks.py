# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.errors import DecodeError
from enarx.verifier.cpaks import read_cpaks

OWNER = bytes([1]) + bytes(range(32))
CURVES = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48), "P-521": (ec.SECP521R1(), 66)}


def text(number, size):
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()


def make(name="P-384"):
    curve, size = CURVES[name]
    key = ec.generate_private_key(curve).public_key()
    numbers = key.public_numbers()
    jwk = {"kty": "EC", "crv": name, "x": text(numbers.x, size), "y": text(numbers.y, size)}
    return jwk, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read(value):
    return read_cpaks(json.dumps(value).encode(), instance_id=OWNER)


@pytest.mark.parametrize("name", CURVES)
def test_a_jwk_alone_is_the_key_of_the_platform_at_hand(name):
    jwk, spki = make(name)
    assert read(jwk) == {OWNER: spki}
    assert read(jwk | {"d": "AAAA", "use": "sig"}) == {OWNER: spki}


def test_a_list_says_whose_each_key_is():
    (first, spki_1), (second, spki_2) = make(), make("P-256")
    other = bytes([1]) + bytes(32)
    entries = [{"instance-id": OWNER.hex(), "pkey": first}, {"instance-id": other.hex(), "pkey": second}]
    assert read(entries) == {OWNER: spki_1, other: spki_2}


JWK, _ = make()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([], "list"),
        ("key", "str"),
        ({}, "another kind"),
        (JWK | {"kty": "RSA"}, "another kind"),
        (JWK | {"crv": "secp256k1"}, "another kind"),
        (JWK | {"crv": 3}, "another kind"),
        (JWK | {"x": 3}, "another coordinate"),
        (JWK | {"x": "AAAA"}, "a coordinate of 3 bytes"),
        (JWK | {"x": "A"}, "another coordinate"),
        (JWK | {"x": "A" * 500}, "another coordinate"),
        (JWK | {"x": JWK["y"]}, "no point on its curve"),
        ([JWK], "another shape"),
        ([{"instance-id": OWNER.hex(), "pkey": JWK}] * 2, "twice"),
        ([{"instance-id": "zz", "pkey": JWK}], "another value"),
        ([{"instance-id": 3, "pkey": JWK}], "another value"),
        ([{"instance-id": "00", "pkey": JWK}], "1 bytes"),
    ],
)
def test_refuses_anything_else(value, found):
    with pytest.raises(DecodeError, match=f"found .*{found}"):
        read(value)
