# SPDX-License-Identifier: Apache-2.0
"""Nonces: ours, for two minutes, and nobody else's."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest

from enarx.errors import UsageError, VerificationError
from enarx.steward.nonces import AHEAD_S, NONCE_LIFETIME_S, ExpiredNonceError, check_nonce, make_nonce

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY, OTHER = bytes(32), b"k" * 32


def test_is_accepted_until_it_expires():
    nonce = make_nonce(KEY, AT)
    assert len(nonce) == 32
    for age_s in (0, 60, NONCE_LIFETIME_S):
        check_nonce(KEY, nonce, AT + timedelta(seconds=age_s))
    with pytest.raises(ExpiredNonceError, match="found one of 120 s ago, want one of at most 120 s"):
        check_nonce(KEY, nonce, AT + timedelta(seconds=NONCE_LIFETIME_S, milliseconds=1))
    with pytest.raises(ExpiredNonceError, match="found one of 86400 s ago"):
        check_nonce(KEY, nonce, AT + timedelta(days=1))


def test_is_built_as_it_is_described():
    nonce = make_nonce(KEY, AT)
    assert int.from_bytes(nonce[:8], "big") == int(AT.timestamp()) * 1000
    assert nonce[16:] == hmac.digest(KEY, nonce[:16], hashlib.sha256)[:16]


def test_each_is_another():
    assert len({make_nonce(KEY, AT) for _ in range(1000)}) == 1000


def test_one_of_another_key_is_not_ours():
    with pytest.raises(VerificationError, match="the nonce is not ours") as error:
        check_nonce(OTHER, make_nonce(KEY, AT), AT)
    assert not isinstance(error.value, ExpiredNonceError)


@pytest.mark.parametrize("bit", range(256))
def test_one_with_a_bit_changed_is_not_ours(bit):
    nonce = bytearray(make_nonce(KEY, AT))
    nonce[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationError, match="the nonce is not ours"):
        check_nonce(KEY, bytes(nonce), AT)


@pytest.mark.parametrize("change", [lambda n: n[:-1], lambda n: n + b"\0", lambda n: b"", lambda n: bytes(32)])
def test_one_of_another_size_is_not_ours(change):
    with pytest.raises(VerificationError, match="the nonce is not ours"):
        check_nonce(KEY, change(make_nonce(KEY, AT)), AT)


def test_clocks_may_be_a_little_apart_and_no_more():
    nonce = make_nonce(KEY, AT + timedelta(seconds=AHEAD_S))
    check_nonce(KEY, nonce, AT)
    with pytest.raises(VerificationError, match="of the future"):
        check_nonce(KEY, nonce, AT - timedelta(seconds=1))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_size_is_refused(key):
    with pytest.raises(UsageError):
        make_nonce(key, AT)
    with pytest.raises(UsageError):
        check_nonce(key, bytes(32), AT)
