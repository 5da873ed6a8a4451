# SPDX-License-Identifier: Apache-2.0
"""The layer cipher: the same bytes as ocicrypt makes, and no plaintext of anything that was changed."""

from __future__ import annotations

import os
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.channel.ocicrypt import LayerOpener, LayerSealer, LayerSecret
from enarx.errors import UsageError, VerificationError

SECRET = LayerSecret(bytes(range(32)), bytes(range(100, 116)))
PLAINTEXT = b"a layer" * 400_000
"""Of more than two of the pieces that are decrypted at a time."""


def seal(secret, plaintext, piece=1_000_003):
    sealer = LayerSealer(secret)
    sealed = b"".join(sealer.update(plaintext[at : at + piece]) for at in range(0, len(plaintext), piece))
    return sealed, sealer.finish()


@pytest.fixture
def fd():
    fd = os.memfd_create("layer")
    yield fd
    os.close(fd)


def contents(fd):
    return os.pread(fd, 1 << 30, 0)


def opener(fd, secret, expected):
    return LayerOpener(fd, secret, expected, what="layer")


def test_is_what_the_openssl_program_says_of_it():
    # printf 'enarx' | openssl enc -aes-256-ctr -K 000102..1f -iv 6465..73 | xxd -p; then: openssl dgst -sha256 -mac HMAC -macopt hexkey:0001..1f
    sealed, expected = seal(SECRET, b"enarx")
    assert sealed.hex() == "f6b67052ce"
    assert expected.hmac.hex() == "4cffe1897c0ffe90f43c295f822283987514e9ca1f9df001c4c393af6230e86d"
    assert expected == (sha256(sealed).digest(), sha256(b"enarx").digest(), expected.hmac, 5)


def test_counts_in_all_of_the_nonce():
    # The counter is the whole block, as ocicrypt has it: after the greatest one comes zero.
    secret = LayerSecret(bytes(32), b"\xff" * 16)
    sealed, _ = seal(secret, bytes(32))
    assert sealed[16:] == seal(LayerSecret(bytes(32), bytes(16)), bytes(16))[0]


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 50))
def test_opens_what_was_sealed_in_pieces_of_any_size(plaintext, one, other):
    sealed, expected = seal(SECRET, plaintext, one)
    fd = os.memfd_create("layer")
    try:
        opening = opener(fd, SECRET, expected)
        for at in range(0, len(sealed), other):
            opening.take(sealed[at : at + other])
        opening.finish()
        assert contents(fd) == plaintext
    finally:
        os.close(fd)


def test_has_only_ciphertext_before_the_end(fd):
    sealed, expected = seal(SECRET, PLAINTEXT)
    opening = opener(fd, SECRET, expected)
    opening.take(sealed)
    assert contents(fd) == sealed
    opening.finish()
    assert contents(fd) == PLAINTEXT


def changed(sealed, expected):
    flipped = bytearray(sealed)
    flipped[-1] ^= 1
    yield bytes(flipped), expected, "ciphertext of another digest"
    yield bytes(flipped), expected._replace(ciphertext=sha256(flipped).digest()), "another HMAC"
    yield sealed, expected._replace(hmac=bytes(32)), "another HMAC"
    yield sealed[:-1], expected, f"{len(sealed) - 1} bytes of ciphertext"


@pytest.mark.parametrize("which", range(4))
def test_decrypts_nothing_that_was_changed(fd, which):
    sealed, expected, reason = list(changed(*seal(SECRET, PLAINTEXT)))[which]
    opening = opener(fd, SECRET, expected)
    opening.take(sealed)
    with pytest.raises(VerificationError, match=reason):
        opening.finish()
    assert contents(fd) == sealed


def test_takes_no_more_than_was_announced(fd):
    sealed, expected = seal(SECRET, PLAINTEXT)
    opening = opener(fd, SECRET, expected)
    opening.take(sealed)
    with pytest.raises(VerificationError, match="found more than"):
        opening.take(b"x")
    assert contents(fd) == sealed


@pytest.mark.parametrize(
    "change", [{"plaintext": bytes(32)}, {"nonce": bytes(16)}], ids=["digest", "nonce, which the HMAC does not cover"]
)
def test_leaves_no_plaintext_of_another_digest(fd, change):
    sealed, expected = seal(SECRET, PLAINTEXT)
    secret = SECRET._replace(nonce=change.get("nonce", SECRET.nonce))
    opening = opener(fd, secret, expected._replace(plaintext=change.get("plaintext", expected.plaintext)))
    opening.take(sealed)
    with pytest.raises(VerificationError, match="plaintext of another digest"):
        opening.finish()
    assert contents(fd) == b""


def test_another_key_is_refused_before_anything_is_decrypted(fd):
    sealed, expected = seal(SECRET, PLAINTEXT)
    opening = opener(fd, SECRET._replace(key=bytes(32)), expected)
    opening.take(sealed)
    with pytest.raises(VerificationError, match="another HMAC"):
        opening.finish()
    assert contents(fd) == sealed


@pytest.mark.parametrize("secret", [LayerSecret(bytes(16), bytes(16)), LayerSecret(bytes(32), bytes(12))])
def test_wants_a_key_and_a_nonce_of_their_lengths(secret):
    with pytest.raises(UsageError, match=r"want (32|16)"):
        LayerSealer(secret)


def test_each_secret_is_another_and_says_nothing():
    one, other = LayerSecret.make(), LayerSecret.make()
    assert one.key != other.key
    assert one.nonce != other.nonce
    assert repr(one) == str(one) == "LayerSecret(...)"
