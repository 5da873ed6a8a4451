# SPDX-License-Identifier: Apache-2.0
"""Nonces that need no memory: the time, chance, and a stamp that only this Steward's key makes.

A nonce that was used is known from the log's unique index; one that has expired is known from itself. So a Steward that is asked for
millions of them keeps none, and several with one key know each other's.

::

    8 bytes     milliseconds since 1970, big endian
    8 bytes     random
    16 bytes    the beginning of HMAC-SHA256 over the 16 before

Source: RFC 2104; RFC 9334 section 10 (freshness by nonces).
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from enarx.errors import UsageError, VerificationError

__all__ = ["NONCE_KEY_BYTES", "NONCE_LIFETIME_S", "ExpiredNonceError", "check_nonce", "make_nonce"]

NONCE_KEY_BYTES = 32
NONCE_LIFETIME_S = 120
AHEAD_S = 5
"""How far the clocks of Stewards with one key may be apart."""

_STAMPED_BYTES = 16
_NONCE_BYTES = 32
_SHA256 = SHA256()


class ExpiredNonceError(VerificationError):
    """A nonce of ours is too old."""


def make_nonce(key: bytes, now: datetime) -> bytes:
    """Return a nonce.

    Args:
        key: 32 bytes.
        now: aware.

    Raises:
        UsageError: the key has another size.
    """
    _require_key(key)
    stamped = _milliseconds(now).to_bytes(8, "big") + secrets.token_bytes(8)
    return stamped + _stamp(key, stamped)


def check_nonce(key: bytes, nonce: bytes, now: datetime) -> None:
    """Return if a nonce is ours and may still be used.

    Args:
        key: 32 bytes.
        nonce: whatever somebody sent.
        now: aware.

    Raises:
        VerificationError: it is not ours.
        ExpiredNonceError: it is, and too old.
        UsageError: the key has another size.
    """
    _require_key(key)
    stamped, stamp = nonce[:_STAMPED_BYTES], nonce[_STAMPED_BYTES:]
    if len(nonce) != _NONCE_BYTES or not bytes_eq(stamp, _stamp(key, stamped)):
        raise VerificationError(
            "the nonce is not ours: found one that another made, want one of this Steward",
            hint="ask this Steward for a challenge, and show it the evidence over that",
        )
    age_ms = _milliseconds(now) - int.from_bytes(stamped[:8], "big")
    if age_ms > NONCE_LIFETIME_S * 1000:
        raise ExpiredNonceError(
            f"the nonce has expired: found one of {age_ms // 1000} s ago, want one of at most {NONCE_LIFETIME_S} s",
            hint="ask for another challenge",
        )
    if age_ms < -AHEAD_S * 1000:
        raise VerificationError(
            f"the nonce is of the future: found one of {-age_ms // 1000} s ahead, want one of now",
            hint="the Stewards' clocks differ, or this one's was set back",
        )


def _stamp(key: bytes, stamped: bytes) -> bytes:
    # Python's own gives up its lock for these 16 bytes, and has to wait for it.
    made = HMAC(key, _SHA256)
    made.update(stamped)
    return made.finalize()[: _NONCE_BYTES - _STAMPED_BYTES]


def _milliseconds(at: datetime) -> int:
    since = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return max(0, since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000)


def _require_key(key: bytes) -> None:
    if len(key) != NONCE_KEY_BYTES:
        raise UsageError(f"cannot stamp a nonce: key: found {len(key)} bytes, want {NONCE_KEY_BYTES}")
