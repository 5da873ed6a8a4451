# SPDX-License-Identifier: Apache-2.0
"""Tell from the bytes what evidence is, take off the wrappers it arrives in, and decode it without believing it.

Rules of this file:

- A file name or a media type decides nothing.
- Each format is known by something its own: a magic, a tag, a version beside a length. Where two could be meant, the order
  below says which is tried first, and the parser of a format that was recognised has the last word: its error is the error.
- A wrapper adds endorsements, never trust. Wrappers are taken off at most `_MAX_WRAPPERS` deep.

Source: AMD 56860; Intel DCAP quote format; RFC 9999 (CMW); AMD 56421 (GHCB certificate table); Linux configfs-tsm ABI.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from enarx.errors import DecodeError
from enarx.rats import MAX_EVIDENCE_BYTES, Endorsements, Evidence
from enarx.verifier.text_encodings import decode_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enarx.abi.cca import CcaToken
    from enarx.abi.nitro import NitroDocument
    from enarx.abi.snp import SnpReport
    from enarx.verifier.snp import SnpEvidence
    from enarx.wire.cmw import Cmw, CmwRecord, CmwTag

    _Leaves = Callable[[Cmw], Iterator[tuple[tuple[str | int, ...], CmwRecord | CmwTag]]]

__all__ = ["Binding", "Recognised", "recognise"]

_MAX_WRAPPERS = 4
_NOTHING = Endorsements()
# Of a JSON member that could be evidence; the longest known has 20.
_MAX_NAME_CHARS = 64
# Of what evidence brings along; what a caller has of his own is his affair.
_MAX_ENDORSEMENTS = {"certificates": 256, "crls": 32, "intel": 16, "event_logs": 8}
_SNP_REPORT_BYTES = 1184
_SNP_VERSIONS = range(1, 9)
# The kernel's answer to SNP_GET_REPORT: status, size, 24 reserved bytes, the report.
_SNP_RESPONSE_HEADER = (0).to_bytes(4, "little") + _SNP_REPORT_BYTES.to_bytes(4, "little") + bytes(24)
_QUOTE_VERSIONS = {3, 4, 5}
_QUOTE_KEY_TYPES = {2, 3}
_HCL_MAGIC = b"HCLA"
_COSE_STARTS = (b"\xd2\x84", b"\x84\x44\xa1\x01\x38")
# A SEQUENCE with its length in two or three bytes; in text, a zero digit is the same byte.
_DER_STARTS = (b"\x30\x82", b"\x30\x83")
_CCA_TAGS = (b"\xd9\x01\x8f", b"\xd9\x03\x8b")
# The original's arc of object identifiers, 1.3.6.1.4.1.58270.1, in DER.
_ENARX_ARC = bytes.fromhex("2b0601040183c71e01")
_PEM_STARTS = (b"-----BEGIN CERTIFICATE", b"-----BEGIN NEW CERTIFICATE")
_PROTOBUF_BYTES = b"\x0a"
# Major types of CBOR: an array, a map, a tag.
_CBOR_COLLECTIONS = {4, 5, 6}

# Names under which tools print evidence in JSON, and endorsements beside it.
_EVIDENCE_NAMES = frozenset(
    {
        "attestation", "attestation_document", "attestation_report", "cca_token", "document", "evidence", "intel_quote", "outblob",
        "quote", "report", "sgx_quote", "snp_report", "td_quote", "tdx_quote", "token",
    }
)  # fmt: skip


class Binding(NamedTuple):
    """What a wrapper that has a key of its own wants to find in the evidence.

    Args:
        expected: the digest of the key, padded with zeros as the attester padded it.
        found: the evidence's report data.
        is_signed: whether the wrapper is signed with that key, or None where that is another's to do: a certificate's issuer.
    """

    expected: bytes
    found: bytes
    is_signed: bool | None = None


class Recognised(NamedTuple):
    """Evidence, decoded and not believed.

    Args:
        section: which module of `enarx.verifier` judges it.
        format: what it is, for people: `AMD SEV-SNP report version 3`.
        parsed: what that module's judge examines.
        endorsements: what came along with it.
        wrappers: what it was wrapped in, the outermost first: `CMW`, `extended report`.
        binding: what a wrapper binds, or None.
    """

    section: str
    format: str
    parsed: Any
    endorsements: Endorsements = _NOTHING
    wrappers: tuple[str, ...] = ()
    binding: Binding | None = None


def recognise(evidence: Evidence) -> Recognised:
    """Decode evidence of any known format.

    Raises:
        DecodeError: of no known format, or not well formed.
    """
    try:
        recognised = _recognise(evidence.data, _MAX_WRAPPERS)
    except DecodeError as error:
        error.hint = error.hint or _KNOWN
        raise
    if recognised.endorsements is not _NOTHING:
        for what, most in _MAX_ENDORSEMENTS.items():
            found = len(getattr(recognised.endorsements, what))
            if found > most:
                raise DecodeError(f"cannot decode the evidence: {what} beside it: found {found}, want at most {most}")
    return recognised


def _recognise(data: bytes, depth: int) -> Recognised:
    if depth < 0:
        raise _too_deep()
    if not data:
        raise _unknown()
    if len(data) >= 8:
        version = int.from_bytes(data[:4], "little")
        if version in _SNP_VERSIONS:
            return _snp(data)
        if data.startswith(_SNP_RESPONSE_HEADER):
            return _unwrapped("sev-guest response", _recognise(_cut_zeros(data[32:], _SNP_REPORT_BYTES), depth - 1))
        if version & 0xFFFF in _QUOTE_VERSIONS and version >> 16 in _QUOTE_KEY_TYPES:
            return _quote(data)
    if data.startswith(_HCL_MAGIC):
        return _hcl(data)
    if data.startswith(_CCA_TAGS):
        return _cca(data)
    if data.startswith(_COSE_STARTS):
        return _nitro(data)
    if data.startswith(_DER_STARTS) or data.lstrip().startswith(_PEM_STARTS):
        return _certificate_request(data, depth)
    if data.lstrip()[:1] in {b"{", b"["}:
        return _json(data, depth)
    if data[0] >> 5 in _CBOR_COLLECTIONS:
        return _cmw(data, depth)
    decoded = decode_text(data)
    if decoded is not None:
        return _unwrapped("text", _recognise(decoded, depth - 1))
    if data[:1] == _PROTOBUF_BYTES:
        return _tpm_protobuf(data)
    raise _unknown()


def _unknown() -> DecodeError:
    return DecodeError("cannot decode the evidence: format: found none that is known", hint=_KNOWN)


_KNOWN = (
    "known are SEV-SNP reports, SGX and TDX quotes, Nitro documents, CCA tokens, TPM quotes and Azure's bundles, raw, in hex or"
    " base64, in JSON, CMW or a certificate request, and whole; an encrypted file has to be decrypted first"
)


def _too_deep() -> DecodeError:
    return DecodeError(f"cannot decode the evidence: wrappers: found more than {_MAX_WRAPPERS}, want fewer")


def _unwrapped(wrapper: str, inner: Recognised, endorsements: Endorsements | None = None) -> Recognised:
    known = inner.endorsements if endorsements is None else inner.endorsements + endorsements
    return inner._replace(wrappers=(wrapper, *inner.wrappers), endorsements=known)


def _cut_zeros(data: bytes, at_least: int) -> bytes:
    """Return data without the zeros after its first `at_least` bytes; a buffer is often larger than what is in it."""
    return data[:at_least] if not any(data[at_least:]) else data


# --- Formats ---------------------------------------------------------------------------------------------------------

# A format's module is imported when the first of it comes. To say `import` again for each that follows costs 1 microsecond.


@cache
def _snp_parser() -> tuple[Callable[[bytes], SnpReport], type[SnpEvidence]]:
    from enarx.abi.snp import parse_report_untrusted
    from enarx.verifier.snp import SnpEvidence

    return parse_report_untrusted, SnpEvidence


@cache
def _nitro_parser() -> Callable[[bytes], NitroDocument]:
    from enarx.abi.nitro import parse_document_untrusted

    return parse_document_untrusted


@cache
def _cca_parser() -> Callable[[bytes], CcaToken]:
    from enarx.abi.cca import parse_token_untrusted

    return parse_token_untrusted


@cache
def _cmw_reader() -> tuple[Callable[[bytes], Cmw], _Leaves, int, int]:
    from enarx.wire.cmw import Indicator, decode_cmw_untrusted, leaves

    return decode_cmw_untrusted, leaves, int(Indicator.EVIDENCE), int(Indicator.ENDORSEMENTS)


def _snp(data: bytes) -> Recognised:
    parse, make = _snp_parser()
    data = _cut_zeros(data, _SNP_REPORT_BYTES)
    report = parse(data[:_SNP_REPORT_BYTES])
    what, evidence = f"AMD SEV-SNP report version {report.version}", make(report)
    rest = data[_SNP_REPORT_BYTES:]
    if not rest:
        return Recognised("snp", what, evidence)
    from enarx.verifier.endorsement_files import read_endorsements

    return Recognised("snp", what, evidence, read_endorsements([("the certificate table", rest)]), ("extended report",))


def _quote(data: bytes) -> Recognised:
    from enarx.abi.quote import SgxQuote, parse_quote_untrusted

    quote = parse_quote_untrusted(data)
    if isinstance(quote, SgxQuote):
        from enarx.verifier.sgx import SgxEvidence

        return Recognised("sgx", f"Intel SGX quote version {quote.version}", SgxEvidence(quote=quote))
    from enarx.verifier.tdx import TdxEvidence

    return Recognised("tdx", f"Intel TDX quote version {quote.version}", TdxEvidence(quote=quote))


def _nitro(data: bytes) -> Recognised:
    return Recognised("nitro", "AWS Nitro attestation document", _nitro_parser()(data))


def _cca(data: bytes) -> Recognised:
    return Recognised("cca", "Arm CCA attestation token", _cca_parser()(data))


def _hcl(data: bytes) -> Recognised:
    from enarx.abi.tpm_bundle import make_azure_evidence_untrusted

    return Recognised("azure", "Azure HCL report", make_azure_evidence_untrusted(data))


def _tpm_protobuf(data: bytes) -> Recognised:
    from enarx.abi.tpm_bundle import parse_tpm_protobuf_untrusted

    return Recognised(
        "tpm", "TPM 2.0 quote", parse_tpm_protobuf_untrusted(data), wrappers=("go-tpm-tools attestation",)
    )


# --- Wrappers --------------------------------------------------------------------------------------------------------


def _cmw(data: bytes, depth: int) -> Recognised:
    """Take the one message that is evidence out of a wrapper; those that say they are endorsements come along."""
    decode, leaves, is_evidence, is_endorsement = _cmw_reader()
    endorsing: list[tuple[str, bytes]] = []
    evidence: list[bytes] = []
    for path, leaf in leaves(decode(data)):
        # Whoever asks an enumeration waits longer than whoever asks a number.
        said = getattr(leaf, "indicator", None)
        indicator = None if said is None else int(said)
        if indicator is None or indicator & is_evidence:
            evidence.append(leaf.value)
        elif indicator & is_endorsement:
            endorsing.append(("/".join(str(part) for part in path) or "CMW", leaf.value))
    if len(evidence) != 1:
        raise DecodeError(
            f"cannot decode the evidence: CMW: found {len(evidence)} messages that can be evidence, want one",
            hint="say with the indicator which message is evidence and which are endorsements",
        )
    inner = _recognise(evidence[0], depth - 1)
    if not endorsing:
        return _unwrapped("CMW", inner)
    from enarx.verifier.endorsement_files import read_endorsements

    return _unwrapped("CMW", inner, read_endorsements(endorsing))


def _certificate_request(data: bytes, depth: int) -> Recognised:
    """Take the original's evidence out of a certificate request or a certificate; it binds the key that is certified."""
    from enarx.abi.enarx_csr import is_request_signed, parse_certificate_untrusted, parse_csr_untrusted
    from enarx.verifier.endorsement_files import split_certificates

    certificates = split_certificates(data)
    if certificates and _ENARX_ARC not in certificates[-1]:
        raise DecodeError(
            "cannot decode the evidence: format: found a certificate, which is no evidence",
            hint="pass what the TEE made, and this with --endorsements; enarx attest inspect shows what it says",
        )
    carrier = parse_certificate_untrusted(certificates[-1]) if certificates else parse_csr_untrusted(data)
    if carrier.kind == "kvm":
        raise DecodeError(
            "cannot decode the evidence: certificate request: found one of the original's KVM Keep, which brings no evidence",
            hint="a Keep without a TEE can prove nothing",
        )
    inner = _recognise(carrier.evidence, depth - 1)
    if inner.section != carrier.kind:
        raise DecodeError(f"cannot decode the evidence: certificate request: found {inner.format}, want {carrier.kind}")
    digest = hashlib.sha256 if carrier.kind == "sgx" else hashlib.sha384
    report = inner.parsed.quote.report if carrier.kind == "sgx" else inner.parsed.report
    binding = Binding(
        expected=digest(carrier.public_key).digest().ljust(64, b"\0"),
        found=report.report_data,
        is_signed=None if certificates else is_request_signed(data),
    )
    known = Endorsements(certificates=carrier.certificates, crls=tuple(crl for _, crl in carrier.crls))
    wrapper = "certificate" if certificates else "certificate request"
    return _unwrapped(f"Enarx {wrapper}", inner._replace(binding=binding), known)


def _json(data: bytes, depth: int) -> Recognised:
    from enarx.wire.strict_json import load_json_untrusted

    value = load_json_untrusted(data, what="evidence", max_bytes=MAX_EVIDENCE_BYTES)
    if not isinstance(value, dict) or _is_cmw_collection(value):
        return _cmw(data, depth)
    from enarx.abi.tpm_bundle import (
        is_azure_bundle,
        is_tpm_bundle,
        parse_azure_bundle_untrusted,
        parse_tpm_bundle_untrusted,
    )

    if is_azure_bundle(value):
        return Recognised(
            "azure", "Azure confidential VM evidence", parse_azure_bundle_untrusted(value), wrappers=("JSON",)
        )
    if is_tpm_bundle(value):
        return Recognised("tpm", "TPM 2.0 quote", parse_tpm_bundle_untrusted(value), wrappers=("JSON",))
    return _bundle(value, depth)


def _is_cmw_collection(value: dict[str, Any]) -> bool:
    """Return whether an object says that it is a collection, or has nothing but CMWs: records `[type, value, ...]` and collections."""
    if "__cmwc_t" in value:
        return True
    records = [
        item for item in value.values() if isinstance(item, list) and len(item) in {2, 3} and isinstance(item[1], str)
    ]
    return bool(records) and all(item in records or isinstance(item, dict) for item in value.values())


def _bundle(value: dict[str, Any], depth: int) -> Recognised:
    """Take the one piece of evidence out of an object, and whatever else is in it as endorsements."""
    if depth < 0:
        raise _too_deep()
    named = {name: item for name, item in value.items() if _plain(name) in _EVIDENCE_NAMES}
    found = {name: content for name, item in named.items() if (content := _bytes_of(item)) is not None}
    inner = [item for item in named.values() if isinstance(item, dict)]
    if len(inner) == 1 and not found:
        return _unwrapped("JSON", _bundle(inner[0], depth - 1))
    if len(found) != 1 or inner:
        raise DecodeError(
            f"cannot decode the evidence: JSON: found {len(found) + len(inner)} members that are evidence, want one",
            hint=f"evidence is named {', '.join(sorted(_EVIDENCE_NAMES))}, in hex or base64",
        )
    ((name, content),) = found.items()
    inner_evidence = _recognise(content, depth - 1)
    return _unwrapped("JSON", inner_evidence, _endorsements_of(value, name))


def _endorsements_of(value: dict[str, Any], evidence_name: str) -> Endorsements:
    """Read what stands beside the evidence, where it is an endorsement; other members are the tool's own affairs."""
    from enarx.verifier.endorsement_files import read_endorsements, write_compact

    gathered = Endorsements()
    beside = {name: item for name, item in value.items() if name != evidence_name}
    candidates: list[tuple[str, bytes]] = []
    if {"tcb_info", "qe_identity"} <= beside.keys():
        candidates.append(("collateral", write_compact(beside)))
    else:
        for name, item in beside.items():
            content = write_compact(item) if isinstance(item, dict) else _bytes_of(item)
            if content and len(content) > 64:
                candidates.append((name, content))
    for candidate in candidates:
        try:
            gathered = gathered + read_endorsements([candidate])
        except DecodeError:
            # A nonce, a log line, a version: what is no endorsement helps no verdict and spoils none.
            continue
    return gathered


def _plain(name: str) -> str:
    """Return a JSON name as the table writes it: `attestationReport` and `attestation-report` are `attestation_report`."""
    if len(name) > _MAX_NAME_CHARS:
        return ""
    text = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return text.replace("-", "_").replace("__", "_").removesuffix("_base64").removesuffix("_hex").strip("_")


def _bytes_of(item: Any) -> bytes | None:
    """Return the bytes that a JSON value stands for: hex, base64, PEM, or an array of numbers below 256."""
    if isinstance(item, str):
        data = item.encode()
        if data.lstrip().startswith(b"-----BEGIN"):
            return data
        return decode_text(data)
    if isinstance(item, list) and item and all(type(each) is int and 0 <= each < 256 for each in item):
        return bytes(item)
    return None
