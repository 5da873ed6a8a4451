# SPDX-License-Identifier: Apache-2.0
"""Segments: what was sealed opens, in any pieces; whatever was changed, swapped, repeated, left out or added does not."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.channel.segments import SEGMENT_BYTES, TAG_BYTES, Opener, ciphertext_length, seal
from enarx.errors import UsageError, VerificationError

KEY = bytes(range(32))
SEALED = SEGMENT_BYTES + TAG_BYTES
LENGTHS = [0, 1, 100, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 5]


def opened(ciphertext, length, key=KEY):
    opener = Opener(key, length)
    plaintext = opener.update(ciphertext)
    opener.finish()
    return plaintext


@pytest.mark.parametrize("length", LENGTHS)
def test_opens_what_was_sealed(length):
    plaintext = os.urandom(length)
    segments = list(seal(KEY, [plaintext]))
    assert {len(segment) for segment in segments[:-1]} <= {SEALED}
    assert len(b"".join(segments)) == ciphertext_length(length)
    assert opened(b"".join(segments), length) == plaintext


@pytest.mark.parametrize("length", LENGTHS)
def test_the_nonce_is_seven_zero_bytes_the_place_and_whether_it_is_the_last(length):
    plaintext = os.urandom(length)
    count = max(1, (length + 65535) // 65536)
    expected = b"".join(
        AESGCM(KEY).encrypt(
            b"\0\0\0\0\0\0\0" + i.to_bytes(4, "big") + (b"\1" if i == count - 1 else b"\0"),
            plaintext[i * 65536 : (i + 1) * 65536],
            None,
        )
        for i in range(count)
    )
    assert b"".join(seal(KEY, [plaintext])) == expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 3 * SEGMENT_BYTES), st.lists(st.integers(0, 4 * SEGMENT_BYTES), max_size=5))
def test_neither_end_cares_about_pieces(length, cuts):
    plaintext = os.urandom(length)
    whole = b"".join(seal(KEY, [plaintext]))

    def pieces(data):
        at = sorted(min(cut, len(data)) for cut in cuts)
        return [data[start:stop] for start, stop in zip([0, *at], [*at, len(data)], strict=True)]

    assert b"".join(seal(KEY, pieces(plaintext))) == whole
    opener = Opener(KEY, length)
    assert b"".join(opener.update(memoryview(piece)) for piece in pieces(whole)) == plaintext
    opener.finish()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_refuses_any_flipped_bit_and_gives_out_nothing_of_that_segment(data):
    length = 2 * SEGMENT_BYTES + 9
    plaintext = bytes(length)
    ciphertext = bytearray(b"".join(seal(KEY, [plaintext])))
    at = data.draw(st.integers(0, len(ciphertext) - 1))
    ciphertext[at] ^= 1 << data.draw(st.integers(0, 7))
    opener = Opener(KEY, length)
    before = at // SEALED * SEALED
    assert opener.update(ciphertext[:before]) == plaintext[: at // SEALED * SEGMENT_BYTES]
    with pytest.raises(VerificationError):
        opener.update(ciphertext[before:])
    with pytest.raises(VerificationError):
        opener.finish()
    with pytest.raises(VerificationError):
        opener.update(b"more")


@pytest.mark.parametrize("length", [1, SEGMENT_BYTES, 3 * SEGMENT_BYTES + 5])
@pytest.mark.parametrize("missing", [1, TAG_BYTES, 10_000_000])
def test_refuses_less(length, missing):
    ciphertext = b"".join(seal(KEY, [bytes(length)]))
    with pytest.raises(VerificationError):
        opened(ciphertext[: max(0, len(ciphertext) - missing)], length)


@pytest.mark.parametrize("length", [0, 5, SEGMENT_BYTES, SEGMENT_BYTES + 1])
def test_refuses_more(length):
    ciphertext = b"".join(seal(KEY, [bytes(length)]))
    for more in (b"\0", ciphertext):
        with pytest.raises(VerificationError):
            opened(ciphertext + more, length)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 2), (0, 1), (2,)])
def test_refuses_segments_swapped_repeated_and_left_out(order):
    length = 3 * SEGMENT_BYTES
    segments = list(seal(KEY, [os.urandom(length)]))
    changed = b"".join(segments[i] for i in order)
    with pytest.raises(VerificationError):
        opened(changed, length)
    with pytest.raises(VerificationError):
        opened(changed, len(order) * SEGMENT_BYTES)


@pytest.mark.parametrize("claimed", [0, 1, SEGMENT_BYTES, 2 * SEGMENT_BYTES - 1, 2 * SEGMENT_BYTES + 1])
def test_refuses_another_length_than_the_release_says(claimed):
    with pytest.raises(VerificationError):
        opened(b"".join(seal(KEY, [bytes(2 * SEGMENT_BYTES)])), claimed)


def test_refuses_another_key():
    with pytest.raises(VerificationError):
        opened(b"".join(seal(KEY, [b"x"])), 1, key=bytes(32))
    for use in (lambda: Opener(b"short", 1), lambda: list(seal(bytes(16), [b"x"]))):
        with pytest.raises(UsageError):
            use()
