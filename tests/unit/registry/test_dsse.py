# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from enarx.crypto.signature_keys import key_id_of, public_key_of, sign
from enarx.errors import AppraisalError, DecodeError, VerificationError
from enarx.registry.dsse import sign_with_key, verify_envelope
from enarx.wire.dsse import (
    IN_TOTO,
    Envelope,
    EnvelopeSignature,
    decode_envelope_untrusted,
    encode_envelope,
    encode_statement,
    pre_authentication,
)
from tests.unit.registry.signed import key, public_pem

DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
PUBLIC = public_key_of(key())


def enveloped(payload, payload_type=IN_TOTO, private=None, key_id=None):
    private = private or key()
    signature = sign(private, pre_authentication(payload_type, payload))
    name = key_id_of(public_key_of(private)) if key_id is None else key_id
    return encode_envelope(Envelope(payload_type, payload, (EnvelopeSignature(signature, name),)))


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_signature_is_of_its_key_and_its_package(kind):
    private = key(kind=kind)
    data, public = sign_with_key(DIGEST, private), public_key_of(private)
    assert verify_envelope(data, DIGEST, [public_key_of(key("other")), public]) == public
    with pytest.raises(VerificationError, match=f"of another package: found {DIGEST}, want {OTHER}"):
        verify_envelope(data, OTHER, [public])
    with pytest.raises(AppraisalError, match=f"another local key: found {key_id_of(public)}, want one of sha256"):
        verify_envelope(data, DIGEST, [public_key_of(key("other"))])


def test_an_ed25519_signature_is_the_same_bytes_each_time():
    assert sign_with_key(DIGEST, key()) == sign_with_key(DIGEST, key())


def test_the_name_of_a_key_is_only_a_hint():
    payload = encode_statement(DIGEST)
    assert verify_envelope(enveloped(payload, key_id=""), DIGEST, [PUBLIC]) == PUBLIC
    assert verify_envelope(enveloped(payload, key_id="somebody else"), DIGEST, [PUBLIC]) == PUBLIC


def test_one_that_names_a_signer_who_did_not_make_it_is_false():
    data = enveloped(encode_statement(DIGEST), private=key("other"), key_id=key_id_of(PUBLIC))
    with pytest.raises(VerificationError, match=f"is not the key's: {key_id_of(PUBLIC)}"):
        verify_envelope(data, DIGEST, [PUBLIC])


def test_an_altered_payload_is_false():
    envelope = decode_envelope_untrusted(sign_with_key(OTHER, key()))
    data = encode_envelope(envelope._replace(payload=encode_statement(DIGEST)))
    with pytest.raises(VerificationError, match="is not the key's"):
        verify_envelope(data, DIGEST, [PUBLIC])


def test_an_altered_payload_type_is_false():
    envelope = decode_envelope_untrusted(enveloped(encode_statement(DIGEST), payload_type="text/plain"))
    with pytest.raises(VerificationError, match="is not the key's"):
        verify_envelope(encode_envelope(envelope._replace(payload_type=IN_TOTO)), DIGEST, [PUBLIC])


def test_every_flipped_bit_of_what_is_signed_is_false():
    envelope = decode_envelope_untrusted(sign_with_key(DIGEST, key()))
    for position in range(len(envelope.payload) * 8):
        payload = bytearray(envelope.payload)
        payload[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            verify_envelope(encode_envelope(envelope._replace(payload=bytes(payload))), DIGEST, [PUBLIC])


def test_a_document_of_another_kind_is_no_signature_of_the_package():
    with pytest.raises(AppraisalError, match="payloadType: found 'text/plain'"):
        verify_envelope(enveloped(encode_statement(DIGEST), payload_type="text/plain"), DIGEST, [PUBLIC])


def test_a_statement_that_says_something_else_about_the_package_permits_nothing():
    scanned = json.loads(encode_statement(DIGEST)) | {"predicateType": "https://scans.example/failed"}
    with pytest.raises(AppraisalError, match="says something else: predicateType: found 'https"):
        verify_envelope(enveloped(json.dumps(scanned).encode()), DIGEST, [PUBLIC])


def test_a_signed_payload_that_is_no_statement_is_refused():
    with pytest.raises(DecodeError, match="signed statement"):
        verify_envelope(enveloped(b"[]"), DIGEST, [PUBLIC])


def test_one_of_several_signatures_is_enough():
    one, other = (decode_envelope_untrusted(sign_with_key(DIGEST, key(name))) for name in ("tenant", "other"))
    data = encode_envelope(one._replace(signatures=other.signatures + one.signatures))
    assert verify_envelope(data, DIGEST, [PUBLIC]) == PUBLIC


def test_nobody_may_sign_where_there_are_no_keys():
    with pytest.raises(AppraisalError, match="want one of none"):
        verify_envelope(sign_with_key(DIGEST, key()), DIGEST, [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_verifies_what_is_signed(tmp_path):
    private = key(kind="p256")
    envelope = decode_envelope_untrusted(sign_with_key(DIGEST, private))
    payload = envelope.payload
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
    (tmp_path / "signature").write_bytes(envelope.signatures[0].signature)
    (tmp_path / "public").write_bytes(public_pem(private))
    command = ["openssl", "dgst", "-sha256", "-verify", "public", "-signature", "signature", "message"]
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True).stdout == "Verified OK\n"
