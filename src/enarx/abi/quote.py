# SPDX-License-Identifier: Apache-2.0
"""Intel DCAP quotes: SGX version 3, SGX and TDX versions 4 and 5.

Rules of this file:

- Every byte has a field, also the reserved ones, so writing a quote gives back what was read.
- Only ECDSA P-256 quotes have this layout (attestation key type 2). Quotes of another key type, version or body are layouts
  of their own and are not read.
- The sizes that a quote states must be exactly those of its parts. After the quote there may be zero bytes, which is how
  kernels hand over buffers, and nothing else.

Source: Intel SGX ECDSA Quote Library Reference (version 3), Intel TDX DCAP Quoting Library API appendix A (versions 4 and 5),
Intel TDX Module ABI (TDREPORT).
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from enarx.errors import DecodeError

__all__ = [
    "CERTIFICATION_PCK_CHAIN",
    "ENCLAVE_REPORT_BYTES",
    "MAX_CERTIFICATION_BYTES",
    "VERSIONS",
    "EnclaveReport",
    "QuoteHeader",
    "QuoteSignature",
    "SgxQuote",
    "TdReport",
    "TdxQuote",
    "parse_quote_untrusted",
]

VERSIONS = (3, 4, 5)
ENCLAVE_REPORT_BYTES = 384
MAX_CERTIFICATION_BYTES = 64 << 10
CERTIFICATION_PCK_CHAIN = 5
"""Certification data is the PCK certificate chain in PEM."""

_CERTIFICATION_QE_REPORT = 6
_KEY_ECDSA_P256 = 2
_TEE_SGX, _TEE_TDX = 0x00, 0x81
_BODY_SGX, _BODY_TD10, _BODY_TD15 = 1, 2, 3
_BODY_BYTES = {_BODY_SGX: ENCLAVE_REPORT_BYTES, _BODY_TD10: 584, _BODY_TD15: 648}
_BODY_TEE = {_BODY_SGX: _TEE_SGX, _BODY_TD10: _TEE_TDX, _BODY_TD15: _TEE_TDX}

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_DESCRIPTOR = struct.Struct("<HI")
_ENCLAVE_REPORT = struct.Struct("<16s4s12s16s16s32s32s32s32s64sHHH42s16s64s")
_TD_REPORT = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD_REPORT_15 = struct.Struct("<16s48s")
_SIGNATURE = struct.Struct("<64s64s")
_QE_REPORT = struct.Struct("<384s64sH")
_CERTIFICATION = struct.Struct("<HI")
_SIZE = struct.Struct("<I")

_ATTRIBUTES_DEBUG = 0x02
_TD_ATTRIBUTES_DEBUG, _TD_ATTRIBUTES_SEPT_VE_DISABLE = 1 << 0, 1 << 28


class QuoteHeader(NamedTuple):
    """The first 48 bytes.

    Args:
        version: 3, 4 or 5.
        attestation_key_type: 2, ECDSA P-256.
        tee_type: 0 for SGX, 0x81 for TDX.
        qe_svn: of the quoting enclave, as it says itself; 0 in versions 4 and 5, where it is reserved.
        pce_svn: likewise.
        qe_vendor_id: 16 bytes.
        user_data: 20 bytes; the first 16 are an identifier of the platform in quotes of Intel's quoting enclave.
    """

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes

    def serialise(self) -> bytes:
        """Return the 48 bytes."""
        return _HEADER.pack(*self)


class EnclaveReport(NamedTuple):
    """An SGX REPORT without its MAC: what an application enclave or a quoting enclave is. Sizes are those of the fields' bytes.

    Spec: Intel SDM volume 3D, table 38-20.
    """

    cpu_svn: bytes
    misc_select: bytes
    reserved_1: bytes
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    reserved_2: bytes
    mr_signer: bytes
    reserved_3: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    reserved_4: bytes
    isv_family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether anybody with access to the machine may read and write the enclave."""
        return bool(self.attributes[0] & _ATTRIBUTES_DEBUG)

    def serialise(self) -> bytes:
        """Return the 384 bytes."""
        return _ENCLAVE_REPORT.pack(*self)


class TdReport(NamedTuple):
    """What a trust domain and the TDX module under it are.

    Args:
        tee_tcb_svn: 16 bytes: of the TDX module its ISV SVN and its version, then of the platform's components.
        mr_seam: SHA-384 of the TDX module.
        mr_signer_seam: of its signer; zero for Intel's.
        seam_attributes: 8 bytes.
        td_attributes: 8 bytes, a little-endian number.
        xfam: 8 bytes.
        mr_td: SHA-384 of the initial content.
        mr_config_id: 48 bytes of the host's choice.
        mr_owner: likewise.
        mr_owner_config: likewise.
        rtmr0: run-time measurement register, SHA-384; like the three that follow.
        report_data: 64 bytes of the trust domain's choice.
        tee_tcb_svn2: as `tee_tcb_svn`, of the TDX module that runs now; None in a TDX 1.0 report.
        mr_service_td: digest of the service trust domains bound to this one; None in a TDX 1.0 report.

    Spec: Intel TDX DCAP Quoting Library API, A.3.2 and A.3.3.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the trust domain: any of the bits that say a domain is under debug."""
        return bool(self.td_attributes[0])

    @property
    def sept_ve_disable(self) -> bool:
        """Whether the host cannot make the domain handle a page that it took away."""
        return bool(int.from_bytes(self.td_attributes, "little") & _TD_ATTRIBUTES_SEPT_VE_DISABLE)

    def serialise(self) -> bytes:
        """Return 584 bytes, or 648 of a TDX 1.5 report."""
        data = _TD_REPORT.pack(*self[:15])
        if self.tee_tcb_svn2 is None:
            return data
        return data + _TD_REPORT_15.pack(self.tee_tcb_svn2, self.mr_service_td)


class QuoteSignature(NamedTuple):
    """Who vouches for a quote.

    Args:
        signature: ECDSA P-256 over the signed bytes, r and s of 32 bytes each.
        attestation_key: P-256 public key, x and y of 32 bytes each.
        qe_report: the quoting enclave's report, as received.
        qe_report_signature: the PCK key's, r and s.
        qe_auth_data: at most 65535 bytes, which the quoting enclave hashed with the attestation key.
        certification_type: what the data is: 5 is the PCK chain.
        certification_data: at most `MAX_CERTIFICATION_BYTES`.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes

    @property
    def quoting_enclave(self) -> EnclaveReport:
        """The quoting enclave's report, decoded."""
        return EnclaveReport._make(_ENCLAVE_REPORT.unpack(self.qe_report))

    def serialise(self, version: int) -> bytes:
        """Return the bytes that follow the size of the signature data."""
        certified = (
            _QE_REPORT.pack(self.qe_report, self.qe_report_signature, len(self.qe_auth_data))
            + self.qe_auth_data
            + _CERTIFICATION.pack(self.certification_type, len(self.certification_data))
            + self.certification_data
        )
        if version > 3:
            certified = _CERTIFICATION.pack(_CERTIFICATION_QE_REPORT, len(certified)) + certified
        return self.signature + self.attestation_key + certified


class SgxQuote(NamedTuple):
    """A quote of an enclave.

    Args:
        header: of 48 bytes.
        report: the enclave's.
        signature: who vouches for it.
        signed: the bytes that are signed, as received.
    """

    header: QuoteHeader
    report: EnclaveReport
    signature: QuoteSignature
    signed: bytes

    @property
    def version(self) -> int:
        """3, 4 or 5."""
        return self.header.version

    def serialise(self) -> bytes:
        """Return the quote, made from its fields."""
        return _serialise(self.header, _BODY_SGX, self.report, self.signature)


class TdxQuote(NamedTuple):
    """A quote of a trust domain; arguments as for `SgxQuote`."""

    header: QuoteHeader
    report: TdReport
    signature: QuoteSignature
    signed: bytes

    @property
    def version(self) -> int:
        """4 or 5."""
        return self.header.version

    @property
    def body_type(self) -> int:
        """2 for a TDX 1.0 report, 3 for a TDX 1.5 report."""
        return _BODY_TD10 if self.report.tee_tcb_svn2 is None else _BODY_TD15

    def serialise(self) -> bytes:
        """Return the quote, made from its fields."""
        return _serialise(self.header, self.body_type, self.report, self.signature)


def parse_quote_untrusted(data: bytes) -> SgxQuote | TdxQuote:
    """Decode a quote without believing it.

    Args:
        data: the quote, and zero bytes after it.

    Raises:
        DecodeError: of another layout, too short, of sizes that do not fit, or something else than zeros after it.
    """
    if len(data) < _HEADER.size:
        raise _bad("size", f"{len(data)} bytes", f"at least {_HEADER.size}")
    header = QuoteHeader._make(_HEADER.unpack_from(data))
    version, offset = header.version, _HEADER.size
    if version not in VERSIONS:
        raise _bad("version", version, "3, 4 or 5")
    if header.attestation_key_type != _KEY_ECDSA_P256:
        raise _bad("attestation key type", header.attestation_key_type, "2 (ECDSA P-256)")
    if header.tee_type != _TEE_SGX and (header.tee_type != _TEE_TDX or version == 3):
        raise _bad("TEE type", f"{header.tee_type:#x}", "0 (SGX), or 0x81 (TDX) from version 4 on")
    body_type = _BODY_SGX if header.tee_type == _TEE_SGX else _BODY_TD10
    if version == 5:
        body_type, stated = _unpack(_BODY_DESCRIPTOR, data, offset)
        offset += _BODY_DESCRIPTOR.size
        if _BODY_TEE.get(body_type) != header.tee_type:
            raise _bad("body type", body_type, "1 in SGX quotes, 2 or 3 in TDX quotes")
        if stated != _BODY_BYTES[body_type]:
            raise _bad("body size", stated, _BODY_BYTES[body_type])
    report_at, offset = offset, offset + _BODY_BYTES[body_type]
    (size,) = _unpack(_SIZE, data, offset)
    signature_at = offset + _SIZE.size
    end = signature_at + size
    if len(data) < end:
        raise _bad("size", f"{len(data)} bytes", f"{end}, as the quote says")
    if data.count(0, end) != len(data) - end:
        raise _bad("trailing bytes", f"{len(data) - end} bytes that are not all zero", "the quote, or zeros after it")
    signature = _parse_signature(data[signature_at:end], version)
    signed = data[:offset]
    if body_type == _BODY_SGX:
        report = EnclaveReport._make(_ENCLAVE_REPORT.unpack_from(data, report_at))
        return SgxQuote(header, report, signature, signed)
    fields = _TD_REPORT.unpack_from(data, report_at)
    if body_type == _BODY_TD15:
        fields += _TD_REPORT_15.unpack_from(data, report_at + _TD_REPORT.size)
    return TdxQuote(header, TdReport(*fields), signature, signed)


def _parse_signature(data: bytes, version: int) -> QuoteSignature:
    signature, attestation_key = _unpack(_SIGNATURE, data, 0)
    offset = _SIGNATURE.size
    if version > 3:
        kind, size = _unpack(_CERTIFICATION, data, offset)
        offset += _CERTIFICATION.size
        if kind != _CERTIFICATION_QE_REPORT:
            raise _bad("certification data type", kind, "6 (the quoting enclave's report)")
        if size != len(data) - offset:
            raise _bad("certification data size", size, f"{len(data) - offset}, what is left of the signature data")
    qe_report, qe_report_signature, size = _unpack(_QE_REPORT, data, offset)
    offset += _QE_REPORT.size
    qe_auth_data = data[offset : offset + size]
    offset += size
    kind, size = _unpack(_CERTIFICATION, data, offset)
    offset += _CERTIFICATION.size
    if size != len(data) - offset:
        raise _bad("certification data size", size, f"{len(data) - offset}, what is left of the signature data")
    if size > MAX_CERTIFICATION_BYTES:
        raise _bad("certification data size", size, f"at most {MAX_CERTIFICATION_BYTES}")
    return QuoteSignature(signature, attestation_key, qe_report, qe_report_signature, qe_auth_data, kind, data[offset:])


def _serialise(
    header: QuoteHeader, body_type: int, report: EnclaveReport | TdReport, signature: QuoteSignature
) -> bytes:
    version, body = header.version, report.serialise()
    descriptor = _BODY_DESCRIPTOR.pack(body_type, len(body)) if version == 5 else b""
    vouching = signature.serialise(version)
    return header.serialise() + descriptor + body + _SIZE.pack(len(vouching)) + vouching


def _unpack(layout: struct.Struct, data: bytes, offset: int) -> tuple[Any, ...]:
    if len(data) < offset + layout.size:
        raise _bad("size", f"{len(data)} bytes", f"at least {offset + layout.size}")
    return layout.unpack_from(data, offset)


def _bad(what: str, found: object, want: object) -> DecodeError:
    return DecodeError(
        f"cannot decode the quote: {what}: found {found}, want {want}", hint="pass the quote as the platform made it"
    )
