# SPDX-License-Identifier: Apache-2.0
"""Decode whatever `enarx attest inspect` is given, and say what it is. Nothing is verified here.

Evidence is tried first, because that is what people have; then what they have beside it. When nothing fits, the error is the
one about evidence.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509

from enarx.crypto.certificates import fingerprint, load_certificate_untrusted, load_crl_untrusted
from enarx.errors import DecodeError
from enarx.rats import Endorsements, Evidence, render
from enarx.verifier import recognise, verify_evidence
from enarx.verifier.endorsement_files import read_endorsements
from enarx.wire.ear import MAX_EAR_BYTES
from enarx.wire.result_json import plain_claims
from enarx.wire.strict_json import load_json_untrusted

__all__ = ["inspect_bytes"]

_PCRS = 24
# Claims do not depend on a time; the verifier wants one.
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def inspect_bytes(data: bytes) -> dict[str, object]:
    """Return what the bytes say, as values that JSON has.

    Args:
        data: evidence, an endorsement, a token.

    Raises:
        DecodeError: of no known format, or not well formed.
    """
    try:
        return _evidence(data)
    except DecodeError as error:
        for attempt in (_token, _corim, _endorsements, _event_log):
            document = _try(attempt, data)
            if document is not None:
                return document
        raise error from None


def _try(attempt: Callable[[bytes], dict[str, object]], data: bytes) -> dict[str, object] | None:
    try:
        return attempt(data)
    except DecodeError:
        return None


def _evidence(data: bytes) -> dict[str, object]:
    recognised = recognise(Evidence(data=data))
    result = verify_evidence(recognised, at=_ANY_TIME)
    return {
        "format": recognised.format,
        "wrappers": list(recognised.wrappers),
        "tee": result.tee,
        "claims": plain_claims(result.claims),
        "endorsements": _described(recognised.endorsements),
    }


def _token(data: bytes) -> dict[str, object]:
    """Decode a JWT: a header and claims in JSON, and a signature that is not looked at."""
    parts = data.strip().split(b".")
    if len(parts) != 3:
        raise DecodeError("cannot decode a token: found another number of parts, want three")
    header, claims = (
        load_json_untrusted(_base64url(part), what="token", max_bytes=MAX_EAR_BYTES) for part in parts[:2]
    )
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise DecodeError("cannot decode a token: found no objects, want a header and claims")
    return {"format": "JSON Web Token", "header": plain_claims(header), "claims": plain_claims(claims)}


def _base64url(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"cannot decode a token: found {error}, want base64url") from error


def _corim(data: bytes) -> dict[str, object]:
    from dataclasses import asdict

    from enarx.crypto.cose import parse_sign1_untrusted
    from enarx.wire.corim import MAX_CORIM_BYTES, decode_corim_untrusted

    try:
        values, signed = decode_corim_untrusted(data), False
    except DecodeError:
        values, signed = decode_corim_untrusted(parse_sign1_untrusted(data, max_bytes=MAX_CORIM_BYTES).payload), True
    return {"format": "reference values (CoRIM)", "signed": signed, "claims": plain_claims(asdict(values))}


def _endorsements(data: bytes) -> dict[str, object]:
    described = _described(read_endorsements([("the file", data)]))
    if not described:
        raise DecodeError("cannot read endorsements: found none, want at least one")
    return {"format": "endorsements", **described}


def _event_log(data: bytes) -> dict[str, object]:
    """Decode a log that does not say of itself that it is one, as those of old firmware."""
    from enarx.abi.event_log import parse_event_log_untrusted

    if int.from_bytes(data[:4], "little") >= _PCRS or not any(data[4:8]):
        raise DecodeError("cannot decode an event log: found no event of a PCR first, want one")
    return {"format": "TCG event log", "claims": plain_claims(parse_event_log_untrusted(data).named())}


def _described(endorsements: Endorsements) -> dict[str, object]:
    document: dict[str, object] = {}
    if endorsements.certificates:
        document["certificates"] = [_certificate(der) for der in endorsements.certificates]
    if endorsements.crls:
        document["crls"] = [_crl(der) for der in endorsements.crls]
    if endorsements.intel:
        document["intel_collateral"] = [
            {"tcb_info_bytes": len(each.tcb_info), "qe_identity_bytes": len(each.qe_identity)}
            for each in endorsements.intel
        ]
    if endorsements.event_logs:
        from enarx.abi.event_log import parse_event_log_untrusted

        document["event_logs"] = [
            plain_claims(parse_event_log_untrusted(log).named()) for log in endorsements.event_logs
        ]
    return document


def _certificate(der: bytes) -> dict[str, object]:
    certificate = load_certificate_untrusted(der)
    extensions = {
        extension.oid.dotted_string: extension.value.value.hex()
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": render(certificate.not_valid_before_utc),
        "not_after": render(certificate.not_valid_after_utc),
        "sha256": fingerprint(der),
        "vendor_extensions": extensions,
    }


def _crl(der: bytes) -> dict[str, object]:
    crl = load_crl_untrusted(der)
    return {
        "issuer": crl.issuer.rfc4514_string(),
        "last_update": render(crl.last_update_utc),
        "next_update": render(crl.next_update_utc),
        "revoked": [f"{revoked.serial_number:x}" for revoked in crl],
    }
