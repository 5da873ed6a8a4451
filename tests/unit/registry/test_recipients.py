# SPDX-License-Identifier: Apache-2.0
"""Recipients: each of them opens what was wrapped for it, nobody else does, and a key is in no file that others read."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import RSAKey

from enarx.channel.hpke import KeptKey
from enarx.errors import DecodeError, VerificationError
from enarx.registry.recipients import (
    HPKE_KEYS,
    JWE_KEYS,
    DecryptionKeys,
    Recipients,
    parse_jwe_untrusted,
    unwrap,
    wrap,
)
from tests.unit.registry.key_files import public_pem

SECRET = b'{"symkey":"..."}'
WHAT = "layer application/wasm+encrypted"


@pytest.fixture(scope="module")
def rsa_keys():
    return [rsa.generate_private_key(65537, 2048) for _ in range(3)]


@pytest.fixture(scope="module")
def kept_keys():
    return [KeptKey() for _ in range(3)]


def encode(message):
    return base64.b64encode(json.dumps(message).encode()).decode()


def jwe_in(annotations):
    return json.loads(base64.b64decode(annotations[JWE_KEYS]))


def test_every_recipient_opens_and_nobody_else(kept_keys, rsa_keys):
    recipients = Recipients(
        tuple(key.public_bytes for key in kept_keys[:2]), tuple(key.public_key() for key in rsa_keys[:2])
    )
    annotations = wrap(SECRET, recipients)
    for key in kept_keys[:2]:
        assert unwrap(annotations, DecryptionKeys(hpke=(key,)), what=WHAT) == SECRET
    for key in rsa_keys[:2]:
        assert unwrap(annotations, DecryptionKeys(rsa=(key,)), what=WHAT) == SECRET
    assert unwrap(annotations, DecryptionKeys((kept_keys[2],), tuple(rsa_keys[1:])), what=WHAT) == SECRET
    for keys in (DecryptionKeys(), DecryptionKeys((kept_keys[2],), (rsa_keys[2],))):
        with pytest.raises(VerificationError, match="found it encrypted for others"):
            unwrap(annotations, keys, what=WHAT)


def test_annotations_are_only_of_the_kinds_that_are_wanted(kept_keys, rsa_keys):
    assert set(wrap(SECRET, Recipients(hpke=(kept_keys[0].public_bytes,)))) == {HPKE_KEYS}
    assert set(wrap(SECRET, Recipients(rsa=(rsa_keys[0].public_key(),)))) == {JWE_KEYS}


def test_a_jwe_has_the_form_that_ocicrypt_gives_it(rsa_keys):
    one = jwe_in(wrap(SECRET, Recipients(rsa=(rsa_keys[0].public_key(),))))
    assert set(one) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    assert json.loads(base64.urlsafe_b64decode(one["protected"] + "==")) == {"alg": "RSA-OAEP", "enc": "A256GCM"}
    two = jwe_in(wrap(SECRET, Recipients(rsa=tuple(key.public_key() for key in rsa_keys[:2]))))
    assert set(two) == {"protected", "recipients", "iv", "ciphertext", "tag"}
    assert [each["header"] for each in two["recipients"]] == [{"alg": "RSA-OAEP"}] * 2


def test_values_for_others_are_skipped(kept_keys, rsa_keys):
    first = wrap(SECRET, Recipients((kept_keys[0].public_bytes,), (rsa_keys[0].public_key(),)))
    second = wrap(b"other", Recipients((kept_keys[1].public_bytes,), (rsa_keys[1].public_key(),)))
    both = {name: f"{first[name]},{second[name]}" for name in first}
    assert unwrap(both, DecryptionKeys(hpke=(kept_keys[1],)), what=WHAT) == b"other"
    assert unwrap(both, DecryptionKeys(rsa=(rsa_keys[1],)), what=WHAT) == b"other"


def test_a_recipient_with_another_algorithm_is_skipped(rsa_keys):
    message = jwe_in(wrap(SECRET, Recipients(rsa=tuple(key.public_key() for key in rsa_keys[:2]))))
    message["recipients"][0]["header"] = {"alg": "ECDH-ES+A256KW", "epk": {"kty": "EC"}}
    annotations = {JWE_KEYS: encode(message)}
    assert unwrap(annotations, DecryptionKeys(rsa=(rsa_keys[1],)), what=WHAT) == SECRET
    with pytest.raises(VerificationError, match="encrypted for others"):
        unwrap(annotations, DecryptionKeys(rsa=(rsa_keys[0],)), what=WHAT)


@pytest.mark.parametrize("name", ["encrypted_key", "iv", "ciphertext", "tag"])
def test_a_changed_jwe_opens_nothing(rsa_keys, name):
    message = jwe_in(wrap(SECRET, Recipients(rsa=(rsa_keys[0].public_key(),))))
    message[name] = ("B" if message[name][0] == "A" else "A") + message[name][1:]
    with pytest.raises(VerificationError, match="encrypted for others"):
        unwrap({JWE_KEYS: encode(message)}, DecryptionKeys(rsa=(rsa_keys[0],)), what=WHAT)


def test_no_more_recipients_are_tried_than_a_few(rsa_keys):
    value = wrap(SECRET, Recipients(rsa=tuple(key.public_key() for key in rsa_keys)))[JWE_KEYS]
    assert unwrap({JWE_KEYS: ",".join([value] * 10)}, DecryptionKeys(rsa=(rsa_keys[2],)), what=WHAT) == SECRET
    with pytest.raises(DecodeError, match="found 33 recipients, want at most 32"):
        unwrap({JWE_KEYS: ",".join([value] * 11)}, DecryptionKeys(rsa=(rsa_keys[2],)), what=WHAT)


def test_a_changed_hpke_value_opens_nothing(kept_keys):
    value = bytearray(base64.b64decode(wrap(SECRET, Recipients(hpke=(kept_keys[0].public_bytes,)))[HPKE_KEYS]))
    value[-1] ^= 1
    with pytest.raises(VerificationError, match="encrypted for others"):
        unwrap({HPKE_KEYS: base64.b64encode(value).decode()}, DecryptionKeys(hpke=(kept_keys[0],)), what=WHAT)


@pytest.mark.parametrize(
    ("protected", "reason"),
    [
        ({"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"}, "protected"),
        ({"alg": "dir", "enc": "A128CBC-HS256"}, "want enc A256GCM"),
        ({"alg": "RSA-OAEP", "enc": "A256GCM", "crit": ["b64"]}, "protected"),
    ],
)
def test_a_jwe_that_ocicrypt_would_not_write_is_refused(protected, reason):
    header = base64.urlsafe_b64encode(json.dumps(protected).encode()).decode().rstrip("=")
    message = {"protected": header, "encrypted_key": "AA", "iv": "AA", "ciphertext": "AA", "tag": "AA"}
    with pytest.raises(DecodeError, match=reason):
        parse_jwe_untrusted(json.dumps(message).encode())


def test_a_jwe_that_is_compressed_is_never_inflated(rsa_keys):
    message = jwe.FlattenedJSONEncryption({"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"}, bytes(60000))
    message.add_recipient({}, RSAKey.import_key(public_pem(rsa_keys[0])))
    sealed = jwe.encrypt_json(message, None)
    with pytest.raises(DecodeError, match="protected"):
        unwrap({JWE_KEYS: encode(sealed)}, DecryptionKeys(rsa=(rsa_keys[0],)), what=WHAT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!", "want values in base64"),
        ("AA==," * 32 + "AA==", "more than 32 values"),
        ("A" * (2 << 20), "longer value"),
        (base64.b64encode(b"[]").decode(), "want an object"),
        (base64.b64encode(b'{"aad":""}').decode(), "aad"),
        (base64.b64encode(b'{"protected":"AA"').decode(), "want JSON"),
    ],
)
def test_annotations_that_are_not_well_formed_are_refused(rsa_keys, text, reason):
    with pytest.raises(DecodeError, match=reason):
        unwrap({JWE_KEYS: text}, DecryptionKeys(rsa=(rsa_keys[0],)), what=WHAT)


@given(
    st.binary(max_size=200)
    | st.from_regex(r'\{"protected":"[A-Za-z0-9_-]{0,40}","iv":"AA","recipients":\[\{\}\]\}').map(str.encode)
)
def test_a_jwe_is_decoded_or_refused(data):
    with contextlib.suppress(DecodeError):
        parse_jwe_untrusted(data)
