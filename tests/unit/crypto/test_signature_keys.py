# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from enarx.crypto.signature_keys import (
    MAX_PUBLIC_KEY_BYTES,
    key_id_of,
    load_public_key,
    load_signing_key,
    public_key_of,
    sign,
    verify_signature,
)
from enarx.errors import ConfigError, DecodeError, VerificationError
from tests.unit.registry.signed import key, private_pem, public_pem

KINDS = ("ed25519", "p256")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_key_signs_its_public_key_verifies_and_no_other_message_or_key_does(kind):
    private = load_signing_key(private_pem(key(kind=kind)), path="k")
    public = load_public_key(public_pem(private))
    assert public == public_key_of(private)
    signature = sign(private, b"message")
    verify_signature(public, signature, b"message")
    for wrong in ((public, signature, b"massage"), (public_key_of(key("other", kind)), signature, b"message"), (public, signature[:-1] + bytes([signature[-1] ^ 1]), b"message"), (public, b"", b"message")):  # fmt: skip
        with pytest.raises(VerificationError, match="is not the key's: sha256:"):
            verify_signature(*wrong)


def test_a_key_of_one_kind_does_not_verify_what_the_other_signed():
    with pytest.raises(VerificationError):
        verify_signature(public_key_of(key(kind="p256")), sign(key(), b"m"), b"m")


def test_a_key_is_called_by_the_digest_of_its_public_key():
    import hashlib

    public = public_key_of(key())
    assert key_id_of(public) == "sha256:" + hashlib.sha256(public).hexdigest()


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "a key on secp384r1"),
        (rsa.generate_private_key(65537, 2048), "RSAP"),
        (ed448.Ed448PrivateKey.generate(), "Ed448P"),
    ],
    ids=["P-384", "RSA", "Ed448"],
)
def test_keys_of_other_kinds_are_refused(other, found):
    with pytest.raises(ConfigError, match=f"k.pem: found {found}.*, want Ed25519 or P-256"):
        load_signing_key(private_pem(other), path="k.pem")
    with pytest.raises(DecodeError, match=f"found {found}.*, want Ed25519 or P-256"):
        load_public_key(public_pem(other))
    with pytest.raises(DecodeError, match="want Ed25519 or P-256"):
        verify_signature(other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b"s", b"m")


def test_a_key_with_a_passphrase_is_refused_with_what_to_do():
    pem = key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigError, match="found an encrypted key") as caught:
        load_signing_key(pem, path="k.pem")
    assert caught.value.hint == "openssl pkey -in KEY -out PLAIN"


def test_a_private_key_is_not_taken_for_a_public_one():
    with pytest.raises(DecodeError, match="found a private key, want a public one"):
        load_public_key(private_pem(key()))


def test_a_file_that_is_too_large_is_not_decoded():
    with pytest.raises(DecodeError, match="size: found 4097 bytes, want at most 4096"):
        load_public_key(public_pem(key()).ljust(MAX_PUBLIC_KEY_BYTES + 1, b"\n"))


def test_a_verifying_key_that_is_none_is_no_verdict_on_the_signature():
    with pytest.raises(DecodeError, match="want SubjectPublicKeyInfo in DER"):
        verify_signature(b"\x30\x00", b"s", b"m")


@given(
    st.binary(max_size=200)
    | st.binary(max_size=100).map(lambda body: b"-----BEGIN PUBLIC KEY-----\n" + body + b"\n-----END PUBLIC KEY-----\n")
)
def test_any_bytes_are_a_key_or_an_error_of_ours(data):
    try:
        assert load_public_key(data)
    except DecodeError:
        return


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize("options", [["ed25519"], ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]], ids=KINDS)
def test_keys_that_openssl_makes_are_taken(options, tmp_path):
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", *options, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    loaded = load_signing_key(private.read_bytes(), path="key.pem")
    verify_signature(load_public_key(public.read_bytes()), sign(loaded, b"m"), b"m")
