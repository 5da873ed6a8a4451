# SPDX-License-Identifier: Apache-2.0
"""What a Keep's certificate says of the Keep: one extension, the CMW of RFC 9999, with the identity record and what vouches for it.

Rules of this file:

- There are two kinds. A Steward's says what the Steward concluded (an EAR); its signature is the certificate's. A self-signed one has
  the evidence itself, of purpose `self-signed`, and is worth what that is worth once it is judged.
- Decoding believes nothing. Whoever reads the identity of a Steward's certificate has checked the chain to that Steward's root first.
- There is one encoding for each value; another one is refused.

A Keep uses it: no verifier is needed here.

Source: docs/formats/keep-certificate.cddl; RFC 9999 section 4.4.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from enarx.crypto.certificates import X509_ERRORS
from enarx.errors import DecodeError, UsageError
from enarx.wire.cmw import (
    CMW_EXTENSION_OID,
    Cmw,
    CmwCollection,
    CmwRecord,
    Indicator,
    decode_cmw_extension_untrusted,
    decode_cmw_untrusted,
    encode_cmw_cbor,
    encode_cmw_extension,
)
from enarx.wire.release import decode_identity_untrusted

__all__ = [
    "EMULATED",
    "IDENTITY_TYPE",
    "MAX_KEEP_CERTIFICATE_BYTES",
    "SELF_SIGNED_TYPE",
    "STEWARD_TYPE",
    "KeepCertificate",
    "decode_keep_certificate_untrusted",
    "decode_keep_extension_untrusted",
    "encode_keep_extension",
    "is_marked_emulated_untrusted",
]

EMULATED = "EMULATED platform, protects nothing"
"""The organisation in a Steward's certificates of Keeps that nothing protects."""

IDENTITY_TYPE = "application/vnd.enarx.identity+cbor"
RESULT_TYPE = "application/eat+cwt"
STEWARD_TYPE = "tag:enarx.dev,2026:keep-certificate"
SELF_SIGNED_TYPE = "tag:enarx.dev,2026:self-signed-keep"

MAX_KEEP_CERTIFICATE_BYTES = 64 << 10
MAX_EXTENSION_BYTES = 60 << 10
MAX_ENDORSEMENTS = 8


class KeepCertificate(NamedTuple):
    """What the extension says.

    Args:
        identity: an `enarx.wire.release.Identity` in CBOR.
        result: an EAR as CWT, signed by a Steward; None in a self-signed certificate.
        evidence: CMW in CBOR; None in a Steward's certificate.
        endorsements: CMWs in CBOR that came with the evidence, at most 8.
    """

    identity: bytes
    result: bytes | None
    evidence: bytes | None = None
    endorsements: tuple[bytes, ...] = ()


def encode_keep_extension(keep: KeepCertificate) -> bytes:
    """Return the value of the extension `CMW_EXTENSION_OID`, which is not critical.

    Args:
        keep: with a result, or with evidence.

    Raises:
        UsageError: with both or neither, larger than 60 KiB, or what would be refused when it is read.
    """
    try:
        cmw = _cmw_of(keep)
        # What is encoded was read back, as a wrapper: what it says is looked at without reading it once more.
        data = encode_cmw_extension(cmw)
        _require_size(data)
        _keep_of(cmw)
    except DecodeError as error:
        raise UsageError(f"cannot encode the identity of a Keep: {error}") from error
    return data


def decode_keep_extension_untrusted(der: bytes) -> KeepCertificate:
    """Decode the value of the extension.

    Raises:
        DecodeError: it is none of a Keep's certificate. Nothing else, for any input.
    """
    _require_size(der)
    keep = _keep_of(decode_cmw_extension_untrusted(der))
    if encode_cmw_extension(_cmw_of(keep)) != der:
        raise _refusal("the extension", "another encoding of it", "the deterministic one")
    return keep


def decode_keep_certificate_untrusted(der: bytes) -> KeepCertificate:
    """Decode what a certificate says of the Keep it is of.

    Args:
        der: a certificate. Neither its names and dates nor its signature are looked at.

    Raises:
        DecodeError: it is no certificate, or none of a Keep. Nothing else, for any input.
    """
    if len(der) > MAX_KEEP_CERTIFICATE_BYTES:
        raise _refusal("size", f"{len(der)} bytes", f"at most {MAX_KEEP_CERTIFICATE_BYTES}")
    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        found = extensions.get_extension_for_oid(x509.ObjectIdentifier(CMW_EXTENSION_OID)).value
    except x509.ExtensionNotFound as error:
        raise _refusal("the certificate", "no extension about a Keep", CMW_EXTENSION_OID) from error
    except X509_ERRORS as error:
        raise _refusal("the certificate", " ".join(str(error).split())[:200], "X.509 in DER") from error
    if not isinstance(found, x509.UnrecognizedExtension):
        raise _refusal("the extension", type(found).__name__, "bytes")
    return decode_keep_extension_untrusted(found.value)


def is_marked_emulated_untrusted(der: bytes) -> bool:
    """Return whether a Steward's certificate says in its subject that nothing protects the Keep it is of.

    Args:
        der: a certificate. Neither its dates nor its signature are looked at.

    Raises:
        DecodeError: it is no certificate. Nothing else, for any input.
    """
    try:
        subject = x509.load_der_x509_certificate(der).subject
        return any(each.value == EMULATED for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    except X509_ERRORS as error:
        raise _refusal("the certificate", " ".join(str(error).split())[:200], "X.509 in DER") from error


def _require_size(der: bytes) -> None:
    if len(der) > MAX_EXTENSION_BYTES:
        raise _refusal("the extension", f"{len(der)} bytes", f"at most {MAX_EXTENSION_BYTES}")


def _cmw_of(keep: KeepCertificate) -> CmwCollection:
    entries: dict[str | int, Cmw] = {"identity": CmwRecord(IDENTITY_TYPE, keep.identity)}
    if keep.result is not None:
        kind = STEWARD_TYPE
        entries["result"] = CmwRecord(RESULT_TYPE, keep.result, Indicator.ATTESTATION_RESULTS)
    else:
        kind = SELF_SIGNED_TYPE
    if keep.evidence is not None:
        entries["evidence"] = decode_cmw_untrusted(keep.evidence)
    if keep.endorsements:
        numbered: dict[str | int, Cmw] = {
            number: decode_cmw_untrusted(each) for number, each in enumerate(keep.endorsements)
        }
        entries["endorsements"] = CmwCollection(numbered)
    return CmwCollection(entries, kind)


def _keep_of(cmw: Cmw) -> KeepCertificate:
    if not isinstance(cmw, CmwCollection) or cmw.type not in {STEWARD_TYPE, SELF_SIGNED_TYPE}:
        raise _refusal("the extension", "another message", f"{STEWARD_TYPE} or {SELF_SIGNED_TYPE}")
    left = dict(cmw.entries)
    identity = _record(left, "identity", IDENTITY_TYPE, None)
    decode_identity_untrusted(identity)
    if cmw.type == STEWARD_TYPE:
        keep = KeepCertificate(identity, _record(left, "result", RESULT_TYPE, Indicator.ATTESTATION_RESULTS))
    else:
        evidence = left.pop("evidence", None)
        if evidence is None:
            raise _refusal("the extension", "no evidence", "some")
        keep = KeepCertificate(identity, None, encode_cmw_cbor(evidence), _endorsements(left.pop("endorsements", None)))
    if left:
        raise _refusal("the extension", f"an unknown entry {ascii(next(iter(left)))[:40]}", "none")
    return keep


def _record(left: dict[str | int, Cmw], label: str, kind: str, indicator: Indicator | None) -> bytes:
    found = left.pop(label, None)
    if not isinstance(found, CmwRecord) or found.type != kind or found.indicator != indicator:
        raise _refusal(label, "nothing" if found is None else "another message", kind)
    return found.value


def _endorsements(found: Cmw | None) -> tuple[bytes, ...]:
    if found is None:
        return ()
    if (
        not isinstance(found, CmwCollection)
        or found.type is not None
        or len(found.entries) > MAX_ENDORSEMENTS
        or list(found.entries) != list(range(len(found.entries)))
    ):
        raise _refusal("endorsements", "another message", f"at most {MAX_ENDORSEMENTS}, numbered from 0 on")
    return tuple(map(encode_cmw_cbor, found.entries.values()))


def _refusal(where: str, found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot decode the identity of a Keep: {where}: found {found}, want {want}")
