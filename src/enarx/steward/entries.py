# SPDX-License-Identifier: Apache-2.0
"""What an entry of a Steward's log says: docs/formats/steward-log.cddl in Python.

An entry is written once and read by whoever audits, perhaps years later. There is one encoding for each, so that what an entry's hash
is of cannot be said in two ways, and what is not in the format is refused. Nothing here gives a fact a meaning.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from enarx.crypto.cbor import encode
from enarx.errors import DecodeError, UsageError
from enarx.wire.fields import Fields, bytes_of, choice_of, decode_canonical, refusal, some_of, text_of

__all__ = [
    "KINDS",
    "MAX_BODY_BYTES",
    "MAX_SERIAL_BYTES",
    "MAX_TIME_MS",
    "Facts",
    "as_ms",
    "as_time",
    "decode_entry_untrusted",
    "encode_entry",
]

KINDS = ("certificate", "result", "refusal", "revocation", "policy", "original")
MAX_BODY_BYTES = 65000
"""A tile of entries counts the bytes of each in 16 bits."""
MAX_SERIAL_BYTES = 20
MAX_CHECKS = 256
_MAX_TEXT_BYTES = 1024
_MAX_NAME_BYTES = 256
_MAX_IDENTITY_BYTES = 4096
_MAX_CERTIFICATE_BYTES = 49152
MAX_TIME_MS = 253_402_300_799_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_ENTRY = "an entry of the log"


class Facts(NamedTuple):
    """What a decision was about.

    Args:
        kind: one of `KINDS`.
        time_ms: when it was made, Unix, by the Steward's clock.
        nonce: 32 bytes that it uses up, or None.
        policy_sha256: of the policy in force.
        verdict: of the judgement: `accepted`, `refused` and so on.
        tee: what kind of platform.
        failed_checks: ids.
        evidence_sha256: of the evidence.
        kept_sha256: of everything that is kept beside an entry to judge its Keep again, as `enarx.steward.issued` makes it.
        spki_sha384: of the key that is certified.
        identity: of the workload, in CBOR.
        certificate: in DER.
        serial: of the certificate.
        reason: in words.
    """

    kind: str
    time_ms: int
    nonce: bytes | None
    policy_sha256: bytes | None
    verdict: str | None
    tee: str | None
    failed_checks: tuple[str, ...]
    evidence_sha256: bytes | None
    kept_sha256: bytes | None
    spki_sha384: bytes | None
    identity: bytes | None
    certificate: bytes | None
    serial: int | None
    reason: str | None


def encode_entry(
    *,
    kind: str,
    at: datetime,
    nonce: bytes | None = None,
    policy_sha256: bytes | None = None,
    verdict: str | None = None,
    tee: str | None = None,
    failed_checks: tuple[str, ...] = (),
    evidence_sha256: bytes | None = None,
    kept_sha256: bytes | None = None,
    spki_sha384: bytes | None = None,
    identity: bytes | None = None,
    certificate: bytes | None = None,
    serial: int | None = None,
    reason: str | None = None,
) -> bytes:
    """Encode an entry. Words and lists of checks that are too long are cut; nothing else is changed.

    Args:
        kind: one of `KINDS`.
        at: when the decision was made, aware.
        nonce: see `Facts`, as for all that follow; what is None is left out.
        policy_sha256: see there.
        verdict: see there.
        tee: see there.
        failed_checks: see there.
        evidence_sha256: see there.
        kept_sha256: see there.
        spki_sha384: see there.
        identity: see there.
        certificate: see there.
        serial: see there.
        reason: see there.

    Raises:
        UsageError: a fact does not fit the format.
    """
    facts: dict[str, Any] = {
        "kind": kind,
        "time-ms": as_ms(at),
        "nonce": nonce,
        "policy": policy_sha256,
        "verdict": verdict or None,
        "tee": tee or None,
        "failed-checks": [_cut(check, _MAX_NAME_BYTES) for check in failed_checks[:MAX_CHECKS] if check] or None,
        "evidence": evidence_sha256,
        "kept": kept_sha256,
        "key": spki_sha384,
        "identity": identity,
        "certificate": certificate,
        "serial": None if serial is None else _serial_bytes(serial),
        "reason": None if not reason else _cut(reason, _MAX_TEXT_BYTES),
    }
    said = {name: value for name, value in facts.items() if value is not None}
    body = encode(said)
    try:
        # There is one encoding of it, so it need not be decoded to know what whoever reads it would find.
        if len(body) > MAX_BODY_BYTES:
            raise refusal(f"{_ENTRY}: size", f"{len(body)} bytes", f"at most {MAX_BODY_BYTES}")
        _facts_of(said)
    except DecodeError as error:
        raise UsageError(f"cannot log a decision: {error}") from error
    return body


def decode_entry_untrusted(body: bytes) -> Facts:
    """Decode an entry.

    Args:
        body: as it is in the log.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    return _facts_of(decode_canonical(body, MAX_BODY_BYTES, _ENTRY))


def as_ms(at: datetime) -> int:
    """Return a time as the log has it: milliseconds since 1970."""
    return (at - _EPOCH) // _MS


def as_time(ms: int) -> datetime:
    """Return a time that the log has."""
    return _EPOCH + ms * _MS


# What reads each member, made once.
_DIGEST = bytes_of(32, 32)
_KIND = choice_of(KINDS)
_NAME = text_of(_MAX_NAME_BYTES, 1)
_CHECKS = some_of(_NAME, most=MAX_CHECKS)
_KEY = bytes_of(48, 48)
_SERIAL = bytes_of(1, MAX_SERIAL_BYTES)
_IDENTITY = bytes_of(1, _MAX_IDENTITY_BYTES)
_CERTIFICATE = bytes_of(1, _MAX_CERTIFICATE_BYTES)
_REASON = text_of(_MAX_TEXT_BYTES, 1)


def _facts_of(value: Any) -> Facts:
    fields = Fields(value, "entry")
    serial = fields.optional("serial", _SERIAL)
    if serial is not None and not serial[0]:
        # One encoding for each number; 0 is none of a certificate.
        raise refusal("entry.serial", "a leading zero", "none")
    found = Facts(
        kind=fields.required("kind", _KIND),
        time_ms=fields.uint("time-ms", MAX_TIME_MS),
        nonce=fields.optional("nonce", _DIGEST),
        policy_sha256=fields.optional("policy", _DIGEST),
        verdict=fields.optional("verdict", _NAME),
        tee=fields.optional("tee", _NAME),
        failed_checks=fields.optional("failed-checks", _CHECKS) or (),
        evidence_sha256=fields.optional("evidence", _DIGEST),
        kept_sha256=fields.optional("kept", _DIGEST),
        spki_sha384=fields.optional("key", _KEY),
        identity=fields.optional("identity", _IDENTITY),
        certificate=fields.optional("certificate", _CERTIFICATE),
        serial=None if serial is None else int.from_bytes(serial),
        reason=fields.optional("reason", _REASON),
    )
    fields.end()
    return found


def _serial_bytes(serial: int) -> bytes:
    if not 0 < serial < 1 << 8 * MAX_SERIAL_BYTES:
        raise UsageError(f"cannot log a decision: serial: found {serial}, want a positive number of 160 bits at most")
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def _cut(text: str, most: int) -> str:
    """Return at most so many bytes of text, whatever it holds."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
