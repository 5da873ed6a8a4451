# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enarx.crypto.cbor import encode
from enarx.errors import DecodeError, UsageError
from enarx.steward.entries import KINDS, MAX_BODY_BYTES, MAX_CHECKS, Facts, decode_entry_untrusted, encode_entry
from tests.cddl import schema

AT = datetime(2026, 6, 1, 12, 0, 0, 500_000, tzinfo=UTC)
AT_MS = 1_780_315_200_500
ALL = {
    "nonce": b"n" * 32,
    "policy_sha256": b"p" * 32,
    "verdict": "accepted",
    "tee": "snp",
    "failed_checks": ("snp.debug", "snp.tcb"),
    "evidence_sha256": b"e" * 32,
    "kept_sha256": b"K" * 32,
    "spki_sha384": b"k" * 48,
    "identity": b"\xa0",
    "certificate": b"\x30\x00",
    "serial": 1 << 125,
    "reason": "because",
}
LEAST = {"kind": "policy", "time-ms": 0}


def test_an_entry_comes_back_as_it_was_and_is_what_the_cddl_says():
    for kind in KINDS:
        body = encode_entry(kind=kind, at=AT, **ALL)
        assert decode_entry_untrusted(body) == Facts(kind=kind, time_ms=AT_MS, **ALL)
        schema("steward-log", "entry").validate_cbor(body)


def test_what_is_not_known_is_left_out():
    body = encode_entry(kind="policy", at=datetime(1970, 1, 1, tzinfo=UTC))
    assert body == encode(LEAST)
    schema("steward-log", "entry").validate_cbor(body)
    assert decode_entry_untrusted(body).failed_checks == ()


def test_words_are_cut_and_never_lost():
    checks = tuple(f"check-{number}" for number in range(MAX_CHECKS + 9))
    body = encode_entry(kind="refusal", at=AT, reason="\udc80é" * 900, failed_checks=checks, verdict="refused")
    found = decode_entry_untrusted(body)
    assert found.reason == ("?é" * 900).encode()[:1024].decode("utf-8", "ignore")
    assert found.failed_checks == checks[:MAX_CHECKS]
    schema("steward-log", "entry").validate_cbor(body)


@pytest.mark.parametrize(
    "facts",
    [{"nonce": b"n"}, {"serial": 0}, {"serial": -1}, {"serial": 1 << 160}, {"certificate": bytes(49153)}],
)
def test_refuses_to_write_what_nobody_could_read(facts):
    with pytest.raises(UsageError, match="cannot log a decision"):
        encode_entry(kind="certificate", at=AT, **facts)


def test_refuses_a_kind_that_there_is_not():
    with pytest.raises(UsageError, match="kind"):
        encode_entry(kind="secret", at=AT)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"kind": "policy"},
        LEAST | {"extra": 1},
        LEAST | {"kind": "other"},
        LEAST | {"time-ms": -1},
        LEAST | {"time-ms": 253402300800000},
        LEAST | {"nonce": bytes(31)},
        LEAST | {"serial": b""},
        LEAST | {"failed-checks": []},
        LEAST | {"reason": None},
    ],
)
def test_refuses_what_the_cddl_does_not_have(value):
    decode_entry_untrusted(encode(LEAST))
    with pytest.raises(DecodeError):
        decode_entry_untrusted(encode(value))
    checked = schema("steward-log", "entry")
    with pytest.raises(Exception, match="error validating"):
        checked.validate_cbor(encode(value))


def test_there_is_one_encoding():
    for body in (
        encode(LEAST | {"serial": b"\0\1"}),
        b"\xb8\2" + encode(LEAST)[1:],
        encode(LEAST) + b"\0",
        bytes(MAX_BODY_BYTES + 1),
    ):
        with pytest.raises(DecodeError):
            decode_entry_untrusted(body)
