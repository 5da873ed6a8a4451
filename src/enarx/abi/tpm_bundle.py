# SPDX-License-Identifier: Apache-2.0
"""The shapes in which TPM quotes and Azure's vTPM evidence arrive: JSON of several tools, and go-tpm-tools' protobuf.

Rules of this file:

- JSON is decoded by the caller, who knows how to refuse duplicate keys; here it is dict, list, str and int. What a shape does not
  name is left alone, because nothing signs it.
- A byte string is a list of numbers, hex, base64 or base64url; a text that is both is hex.
- Signatures come raw, which means RSASSA with SHA-256 as Azure's library makes them, or as TPMT_SIGNATURE, by the shape.
- What comes out is records, and certificates and event logs as bytes: endorsements, which nobody believes yet.

Source: trustee `attester` (az-snp-vtpm, az-tdx-vtpm, tpm), lunal attestation-rs, flashbots attested-tls, and go-tpm-tools
`proto/attest.proto` and `proto/tpm.proto`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from enarx.abi.hcl import HclReport, parse_hcl_report_untrusted
from enarx.abi.quote import TdxQuote, parse_quote_untrusted
from enarx.abi.snp import SnpReport, parse_report_untrusted
from enarx.abi.tpm import (
    DIGEST_SIZES,
    MAX_PCR,
    TPM_ALG,
    Attest,
    Public,
    Signature,
    parse_attest_untrusted,
    parse_pcr_file_untrusted,
    parse_public_untrusted,
    parse_signature_untrusted,
)
from enarx.errors import DecodeError

__all__ = [
    "AzureEvidence",
    "Quote",
    "TpmEvidence",
    "is_azure_bundle",
    "is_tpm_bundle",
    "make_azure_evidence_untrusted",
    "make_quote_untrusted",
    "make_tpm_evidence_untrusted",
    "parse_azure_bundle_untrusted",
    "parse_tpm_bundle_untrusted",
    "parse_tpm_protobuf_untrusted",
]

MAX_BUNDLE_BYTES: Final = 4 << 20
MAX_QUOTES: Final = 8
MAX_CERTIFICATES: Final = 16
MAX_TD_QUOTE_BYTES: Final = 64 << 10
_MAX_SMALL_BYTES: Final = 64 << 10
_MAX_LOG_BYTES: Final = 2 << 20

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+").fullmatch
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}").fullmatch
_PEM_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]*)-----END PUBLIC KEY-----").findall
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----").findall


class Quote(NamedTuple):
    """One TPM quote with the PCR values that go with it.

    Args:
        message: the TPMS_ATTEST that was signed.
        attest: the same, decoded.
        signature: by the attestation key.
        pcrs: values by bank and index, which may be more than the quote selects.
    """

    message: bytes
    attest: Attest
    signature: Signature
    pcrs: Mapping[str, Mapping[int, bytes]]


class TpmEvidence(NamedTuple):
    """Quotes of one attestation key.

    Args:
        quotes: at least one.
        ak_spki: the key as SubjectPublicKeyInfo in DER, or None.
        ak_public: the key's public area, or None; where both are None, a certificate has the key.
        certificates: DER, which came along: the key's first.
        event_logs: which came along.
    """

    quotes: tuple[Quote, ...]
    ak_spki: bytes | None = None
    ak_public: Public | None = None
    certificates: tuple[bytes, ...] = ()
    event_logs: tuple[bytes, ...] = ()


class AzureEvidence(NamedTuple):
    """What an Azure confidential VM hands over.

    Args:
        hcl: its HCL report.
        snp_report: the hardware's report in it, decoded, of an SNP VM.
        quote: by the virtual TPM, or None where there is only the HCL report.
        td_quote: of a TDX VM, or None.
        ak_certificates: DER, from the virtual TPM's NV memory.
        certificates: DER, which came along: the VCEK and its issuers.
        event_logs: which came along.
    """

    hcl: HclReport
    snp_report: SnpReport | None = None
    quote: Quote | None = None
    td_quote: TdxQuote | None = None
    ak_certificates: tuple[bytes, ...] = ()
    certificates: tuple[bytes, ...] = ()
    event_logs: tuple[bytes, ...] = ()


def make_quote_untrusted(message: bytes, signature: Signature, pcrs: Mapping[str, Mapping[int, bytes]]) -> Quote:
    """Decode a quote and put it together with its signature and PCR values.

    Raises:
        DecodeError: the message is no quote, or a value does not have its bank's size.
    """
    for bank, values in pcrs.items():
        for index, value in values.items():
            if not 0 <= index <= MAX_PCR or len(value) != DIGEST_SIZES[bank]:
                raise _refuse(
                    "TPM evidence",
                    f"{bank} PCR {index}",
                    f"{len(value)} bytes",
                    f"{DIGEST_SIZES[bank]} bytes, PCR 0 to {MAX_PCR}",
                )
    return Quote(message, parse_attest_untrusted(message), signature, pcrs)


def make_tpm_evidence_untrusted(
    message: bytes, signature: bytes, pcr_file: bytes, *, ak: bytes | None = None
) -> TpmEvidence:
    """Put together the files that `tpm2_quote` writes.

    Args:
        message: `--message`: TPMS_ATTEST.
        signature: `--signature`: TPMT_SIGNATURE.
        pcr_file: `--pcr`, format `serialized`.
        ak: the key as SubjectPublicKeyInfo in PEM or DER, or as TPM2B_PUBLIC or TPMT_PUBLIC; None where a certificate has it.

    Raises:
        DecodeError: one of them is not well formed.
    """
    quote = make_quote_untrusted(message, parse_signature_untrusted(signature), parse_pcr_file_untrusted(pcr_file))
    return TpmEvidence((quote,), *_key(ak, "TPM evidence"))


def _key(data: bytes | None, what: str) -> tuple[bytes | None, Public | None]:
    """Return a key as SubjectPublicKeyInfo in DER, or as a public area."""
    if data is None:
        return None, None
    found = _PEM_KEY(data.decode("ascii", "replace"))
    if found:
        return _octets(found[0], what, "ak", _MAX_SMALL_BYTES), None
    return (data, None) if data[:1] == b"\x30" else (None, parse_public_untrusted(data))


def make_azure_evidence_untrusted(
    hcl_report: bytes,
    *,
    quote: Quote | None = None,
    td_quote: bytes | None = None,
    ak_certificates: tuple[bytes, ...] = (),
    certificates: tuple[bytes, ...] = (),
    event_logs: tuple[bytes, ...] = (),
) -> AzureEvidence:
    """Decode an HCL report and what is in it, and put it together with what else an Azure VM hands over.

    Args:
        hcl_report: as in NV memory; alone it can be read, and not be judged to the end.
        quote: as in `AzureEvidence`.
        td_quote: an Intel TDX quote.
        ak_certificates: as in `AzureEvidence`, like what follows.
        certificates: DER.
        event_logs: as firmware wrote them.

    Raises:
        DecodeError: one of them is not well formed.
    """
    hcl = parse_hcl_report_untrusted(hcl_report)
    report = parse_report_untrusted(hcl.hardware_report) if hcl.tee == "snp" else None
    td = parse_quote_untrusted(td_quote) if td_quote is not None else None
    if td is not None and not isinstance(td, TdxQuote):
        raise _refuse("Azure evidence", "td_quote", "an SGX quote", "a TDX quote")
    return AzureEvidence(hcl, report, quote, td, ak_certificates, certificates, event_logs)


def is_azure_bundle(value: object) -> bool:
    """Return whether a JSON value has the shape of Azure's evidence: then `parse_azure_bundle_untrusted` says what is wrong with it."""
    if not isinstance(value, dict):
        return False
    keys = value.keys()
    return bool(keys & {"hcl_report", "hcl_report_base64"}) or {"quote", "report", "vcek"} <= keys


def is_tpm_bundle(value: object) -> bool:
    """Return whether a JSON value has the shape of a TPM quote's evidence."""
    return isinstance(value, dict) and "tpm_quote" in value and not is_azure_bundle(value)


def parse_azure_bundle_untrusted(bundle: object) -> AzureEvidence:
    """Decode Azure's evidence.

    Args:
        bundle: decoded JSON: trustee's version 0 (lists of numbers) or 1, lunal's, or attested-tls'.

    Raises:
        DecodeError: none of them, or a field that is not well formed.
    """
    what = "Azure evidence"
    if not isinstance(bundle, dict):
        raise _refuse(what, "shape", type(bundle).__name__, "an object")
    report = _first(bundle, "hcl_report", "hcl_report_base64", "report")
    attestation = bundle.get("tpm_attestation")
    inner = attestation if isinstance(attestation, dict) else {}
    quote = _first({"inner": inner.get("quote"), **bundle}, "tpm_quote", "quote", "inner")
    td_quote = _first(bundle, "td_quote", "tdx_quote_base64")
    return make_azure_evidence_untrusted(
        _octets(report, what, "hcl_report", _MAX_SMALL_BYTES),
        quote=_json_quote(quote, what, raw=True) if quote is not None else None,
        td_quote=_octets(td_quote, what, "td_quote", MAX_TD_QUOTE_BYTES) if td_quote is not None else None,
        ak_certificates=_certificates(inner.get("ak_certificate_pem"), what, "ak_certificate_pem"),
        certificates=_certificates(bundle.get("vcek"), what, "vcek"),
        event_logs=_logs(_first(bundle, "event_log", "eventlog") or inner.get("event_log"), what),
    )


def parse_tpm_bundle_untrusted(bundle: object) -> TpmEvidence:
    """Decode a TPM quote's evidence.

    Args:
        bundle: decoded JSON: `ak_public` (SubjectPublicKeyInfo), `tpm_quote` with `message`, `signature` (TPMT_SIGNATURE) and 24
            SHA-256 `pcrs`; `ak_cert` and `event_log` where they are.

    Raises:
        DecodeError: anything else.
    """
    what = "TPM evidence"
    if not isinstance(bundle, dict):
        raise _refuse(what, "shape", type(bundle).__name__, "an object")
    key = bundle.get("ak_public")
    return TpmEvidence(
        (_json_quote(bundle.get("tpm_quote"), what, raw=False),),
        *_key(_octets(key, what, "ak_public", _MAX_SMALL_BYTES) if key is not None else None, what),
        _certificates(_first(bundle, "ak_cert", "ak_certificate", "ak_certificate_pem"), what, "ak_cert"),
        _logs(_first(bundle, "event_log", "eventlog"), what),
    )


def _first(bundle: Mapping[str, Any], *names: str) -> Any:
    return next((bundle[name] for name in names if bundle.get(name) is not None), None)


def _json_quote(value: Any, what: str, *, raw: bool) -> Quote:
    if not isinstance(value, dict):
        raise _refuse(what, "the quote", type(value).__name__, "an object")
    message = _octets(value.get("message"), what, "message", _MAX_SMALL_BYTES)
    signature = _octets(value.get("signature"), what, "signature", _MAX_SMALL_BYTES)
    pcrs = value.get("pcrs")
    if not isinstance(pcrs, list) or len(pcrs) > MAX_PCR + 1:
        raise _refuse(what, "pcrs", type(pcrs).__name__, f"a list of at most {MAX_PCR + 1}")
    values = {index: _octets(each, what, f"PCR {index}", 64) for index, each in enumerate(pcrs)}
    decoded = Signature("rsassa", "sha256", (signature,)) if raw else parse_signature_untrusted(signature)
    return make_quote_untrusted(message, decoded, {"sha256": values})


def _octets(value: Any, what: str, field: str, maximum: int) -> bytes:
    """Decode a byte string of JSON."""
    refusal = _refuse(what, field, type(value).__name__, f"bytes, at most {maximum}: a list of numbers, hex or base64")
    try:
        if isinstance(value, list) and len(value) <= maximum:
            return bytes(value)
        if isinstance(value, str) and len(value) <= 2 * maximum + 2:
            text = "".join(value.split())
            if _HEX(text):
                return bytes.fromhex(text)
            if _BASE64(text):
                body = text.rstrip("=").replace("-", "+").replace("_", "/")
                return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (TypeError, ValueError) as error:
        raise refusal from error
    raise refusal


def _certificates(value: Any, what: str, field: str) -> tuple[bytes, ...]:
    """Decode certificates in PEM, or one in DER as a byte string; NV memory has zeros after it, which are cut."""
    if value is None or value in ("", []):
        return ()
    if isinstance(value, str) and "-----BEGIN" in value and len(value) <= 4 * _MAX_SMALL_BYTES:
        found = _PEM(value)
        if not 0 < len(found) <= MAX_CERTIFICATES:
            raise _refuse(what, field, f"{len(found)} certificates", f"1 to {MAX_CERTIFICATES} in PEM")
        return tuple(_cut(_octets(body, what, field, _MAX_SMALL_BYTES), what, field) for body in found)
    return (_cut(_octets(value, what, field, _MAX_SMALL_BYTES), what, field),)


def _cut(data: bytes, what: str, field: str) -> bytes:
    """Return a DER structure without the zeros after it. Anything else after it stays, for the certificate's reader to refuse."""
    if data[:2] == b"\x30\x82" and len(data) >= 4:
        end = 4 + int.from_bytes(data[2:4], "big")
        if end <= len(data) and not any(data[end:]):
            return data[:end]
        return data
    raise _refuse(what, field, data[:4].hex(), "a certificate in DER")


def _logs(value: Any, what: str) -> tuple[bytes, ...]:
    return () if value is None or value in ("", []) else (_octets(value, what, "event_log", _MAX_LOG_BYTES),)


def parse_tpm_protobuf_untrusted(data: bytes) -> TpmEvidence:
    """Decode go-tpm-tools' Attestation message.

    Args:
        data: protobuf: `ak_pub` 1, `quotes` 2, `event_log` 3, `ak_cert` 6, `intermediate_certs` 7; other fields are left alone.

    Raises:
        DecodeError: anything else.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise _refuse("attestation protobuf", "size", f"{len(data)} bytes", f"at most {MAX_BUNDLE_BYTES}")
    public, quotes, log, leaf, others = b"", [], b"", b"", []
    for number, value in _fields(data):
        if number in {1, 2, 3, 6, 7} and not isinstance(value, bytes):
            raise _refuse("attestation protobuf", f"field {number}", "a number", "bytes")
        if not isinstance(value, bytes):
            continue
        if number == 1:
            public = value
        elif number == 2:
            quotes.append(value)
        elif number == 3:
            log = value
        elif number == 6:
            leaf = value
        elif number == 7:
            others.append(value)
    if not 0 < len(quotes) <= MAX_QUOTES or len(others) > MAX_CERTIFICATES:
        raise _refuse("attestation protobuf", "quotes", len(quotes), f"1 to {MAX_QUOTES}")
    return TpmEvidence(
        tuple(_protobuf_quote(quote) for quote in quotes),
        None,
        parse_public_untrusted(public) if public else None,
        (leaf, *others) if leaf else tuple(others),
        (log,) if log else (),
    )


def _protobuf_quote(data: bytes) -> Quote:
    found = {number: value for number, value in _fields(data) if isinstance(value, bytes)}
    if not found.keys() >= {1, 2, 3}:
        raise _refuse("attestation protobuf", "quote", f"fields {sorted(found)}", "fields 1 to 3")
    bank, values = "", {}
    for number, value in _fields(found[3]):
        if number == 1 and isinstance(value, int):
            bank = TPM_ALG.get(value, "")
        elif number == 2 and isinstance(value, bytes):
            # An entry of a map: the index may be left out where it is zero.
            entry = dict(_fields(value))
            index, digest = entry.get(1, 0), entry.get(2, b"")
            if not isinstance(index, int) or not isinstance(digest, bytes) or index in values:
                raise _refuse("attestation protobuf", "PCR", str(index), "an index with a digest, once")
            values[index] = digest
    if not bank:
        raise _refuse("attestation protobuf", "PCR bank", "none", "a known hash")
    return make_quote_untrusted(found[1], parse_signature_untrusted(found[2]), {bank: values})


_MAX_FIELDS: Final = 4096


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield a protobuf message's fields by number, undecoded."""
    at, total = 0, len(data)
    for _ in range(_MAX_FIELDS):
        if at == total:
            return
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not number:
            break
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            break
        if size > total - at:
            break
        yield number, data[at : at + size]
        at += size
    raise _refuse("attestation protobuf", "a field", f"at byte {at} of {total}", "a well formed message")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _refuse("attestation protobuf", "a number", "no end", "at most 10 bytes")


def _refuse(what: str, subject: str, found: object, wanted: str) -> DecodeError:
    return DecodeError(f"cannot decode the {what}: {subject}: found {found}, want {wanted}")
