# SPDX-License-Identifier: Apache-2.0
"""HPKE: opens once, with the same info, what was sealed to this key."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from enarx.channel.hpke import OVERHEAD_BYTES, PUBLIC_KEY_BYTES, OneTimeKey, seal
from enarx.errors import DecodeError, VerificationError
from enarx.wire import session
from enarx.wire.release import MAX_RELEASE_BYTES

INFO = bytes(range(64))


@pytest.mark.parametrize("length", [0, 1, 65536])
def test_opens_what_was_sealed(length):
    key = OneTimeKey()
    assert len(key.public_bytes) == PUBLIC_KEY_BYTES
    sealed = seal(key.public_bytes, bytes(length), INFO)
    assert len(sealed) == length + OVERHEAD_BYTES
    assert KEM.MLKEM768_X25519.enc_length() + 16 == OVERHEAD_BYTES
    assert key.open(sealed, INFO) == bytes(length)


def test_sizes_are_those_of_the_messages():
    assert session._HPKE_KEY_BYTES == PUBLIC_KEY_BYTES
    assert (session._MIN_SEALED_BYTES, session._MAX_SEALED_BYTES) == (
        OVERHEAD_BYTES + 1,
        OVERHEAD_BYTES + MAX_RELEASE_BYTES,
    )


def test_is_the_suite_that_the_protocol_names():
    key = OneTimeKey()
    sealed = seal(key.public_bytes, b"text", INFO)
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert suite.decrypt(sealed, key._key, info=INFO) == b"text"


def test_keys_differ():
    assert OneTimeKey().public_bytes != OneTimeKey().public_bytes


def test_refuses_another_info_and_every_use_after_that():
    key = OneTimeKey()
    sealed = seal(key.public_bytes, b"text", INFO)
    with pytest.raises(VerificationError):
        key.open(sealed, INFO[:-1])
    with pytest.raises(VerificationError, match="used before"):
        key.open(sealed, INFO)


def test_refuses_a_second_use():
    key = OneTimeKey()
    sealed = seal(key.public_bytes, b"text", INFO)
    key.open(sealed, INFO)
    with pytest.raises(VerificationError, match="used before"):
        key.open(sealed, INFO)


@pytest.mark.parametrize("at", [0, 1087, 1088, 1119, 1120, -1])
def test_refuses_a_flipped_bit(at):
    key = OneTimeKey()
    sealed = bytearray(seal(key.public_bytes, b"text", INFO))
    sealed[at] ^= 1
    with pytest.raises(VerificationError):
        key.open(bytes(sealed), INFO)


@pytest.mark.parametrize("length", [0, 1, 1120, OVERHEAD_BYTES - 1])
def test_refuses_too_little(length):
    with pytest.raises(VerificationError):
        OneTimeKey().open(bytes(length), INFO)


def test_refuses_what_was_sealed_to_another_key():
    with pytest.raises(VerificationError):
        OneTimeKey().open(seal(OneTimeKey().public_bytes, b"text", INFO), INFO)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(PUBLIC_KEY_BYTES - 1),
        bytes(PUBLIC_KEY_BYTES + 1),
        b"\xff" * PUBLIC_KEY_BYTES,
        OneTimeKey().public_bytes[:1184] + bytes(32),
    ],
    ids=["empty", "short", "long", "no number below the modulus", "small order"],
)
def test_refuses_to_seal_to_what_is_no_key(public):
    with pytest.raises(DecodeError):
        seal(public, b"text", INFO)
