# SPDX-License-Identifier: Apache-2.0
"""The authenticity of Intel quotes, the same for SGX and TDX.

A quote hangs together from both ends: Intel's root certifies the platform's PCK key, which signs the quoting enclave's report,
which holds the hash of the attestation key, which signs the quote. Beside that Intel says, in collateral that it signs and
renews, what platforms and quoting enclaves of that kind are worth today.

Rules of this file:

- Every quote has its own two signatures verified every time. What depends on the platform or on collateral alone is
  remembered: certificate paths, the SGX extension, signatures of collateral.
- The certificates may come in any order. The leaf is the one with the SGX extension. Each that a quote brings along must be part
  of the path, so its root must be the trust anchor itself, as Intel's library demands, and nothing else stands in the PEM text.
- Missing or stale collateral is a doubt, collateral for another platform or TEE a failure.

Source: Intel SGX ECDSA Quote Library Reference, "Quote verification"; Intel TDX DCAP Quoting Library API.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.pck import SGX_EXTENSION_OID, PckExtension, parse_pck_extension_untrusted
from enarx.abi.quote import CERTIFICATION_PCK_CHAIN, EnclaveReport, QuoteSignature, SgxQuote, TdReport, TdxQuote
from enarx.crypto.certificates import (
    common_name_of,
    extension_of,
    fingerprint,
    load_certificate_untrusted,
    load_pem_chain_untrusted,
    name_of,
)
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, Finding, IntelCollateral, render
from enarx.verifier.chain import Chain, ChainChecks, check_crl, make_chain_checks, verify_chain
from enarx.verifier.collateral import (
    Collateral,
    CollateralChecks,
    load_collateral,
    make_collateral_checks,
    p256_key_of,
    verify_p256,
)
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.tcb import TcbStanding, appraise_tcb

__all__ = ["QE_VENDOR_ID", "DcapChecks", "Platform", "Standing", "examine_quote", "make_dcap_checks", "mask_bytes"]

QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Intel's quoting enclaves."""

_PCK_NAME = "Intel SGX PCK Certificate"
_PCK_CAS = {"Intel SGX PCK Platform CA": "platform", "Intel SGX PCK Processor CA": "processor"}
_QE_IDS = {"SGX": "QE", "TDX": "TD_QE"}
# Without line ends, which is how texts are compared.
_PEM_BEGIN, _PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_PEM_SPACE = b"\r\n"
_MAX_PCK_CANDIDATES = 16
_TCB_TYPE = 0
_EXTENSION = x509.ObjectIdentifier(SGX_EXTENSION_OID)


class DcapChecks(NamedTuple):
    """The authenticity checks of one section."""

    vendor_id: Check
    pck_present: Check
    pck_chain: ChainChecks
    pck_root: Check
    pck_purpose: Check
    pck_ca_revocation: Check
    qe_report_signature: Check
    qe_report_binding: Check
    quote_signature: Check
    collateral_present: Check
    collateral: CollateralChecks
    tcb_info_tee: Check
    tcb_info_fmspc: Check
    tcb_info_pce_id: Check
    tcb_info_type: Check
    qe_identity_tee: Check
    qe_mr_signer: Check
    qe_isv_prod_id: Check
    qe_misc_select: Check
    qe_attributes: Check
    qe_tcb_level: Check
    tcb_level: Check
    tcb_known: Check
    tcb_revoked: Check


def make_dcap_checks(section: str) -> DcapChecks:
    """Make the checks of one section, `sgx` or `tdx`."""

    def make(name: str, title: str, spec: str) -> Check:
        return Check(f"{section}.{name}", title, Concern.AUTHENTICITY, spec)

    quote = "Intel SGX ECDSA Quote Library Reference, Quote Format"
    pcs = "Intel PCS API 4"
    profile = "Intel SGX PCK Certificate Profile 1.5"
    return DcapChecks(
        vendor_id=make("quote.vendor_id", "the quoting enclave is Intel's", quote),
        pck_present=make("pck_chain.present", "the PCK certificate is at hand", quote),
        pck_chain=make_chain_checks(f"{section}.pck_chain", "the PCK certificate", profile),
        pck_root=make("pck_chain.root", "the quote brings no certificate that is not of the path", profile),
        pck_purpose=make("pck_chain.purpose", "the leaf is a PCK certificate of a PCK CA", profile),
        pck_ca_revocation=make("pck_ca.revocation", "the PCK CA and the TCB signers are not revoked", "RFC 5280 6.3"),
        qe_report_signature=make("qe_report.signature", "the PCK key signed the quoting enclave's report", quote),
        qe_report_binding=make("qe_report.binding", "the quoting enclave vouches for the attestation key", quote),
        quote_signature=make("quote.signature", "the attestation key signed the quote", quote),
        collateral_present=make("collateral.present", "Intel's collateral is at hand", pcs),
        collateral=make_collateral_checks(section),
        tcb_info_tee=make("tcb_info.tee", "the TCB info is for this TEE", pcs),
        tcb_info_fmspc=make("tcb_info.fmspc", "the TCB info is for this platform", pcs),
        tcb_info_pce_id=make("tcb_info.pce_id", "the TCB info is for this PCE", pcs),
        tcb_info_type=make("tcb_info.type", "the TCB info compares levels by their components", pcs),
        qe_identity_tee=make("qe_identity.tee", "the QE identity is for this TEE", pcs),
        qe_mr_signer=make("qe.mr_signer", "the quoting enclave's signer is as Intel says", pcs),
        qe_isv_prod_id=make("qe.isv_prod_id", "the quoting enclave's product is as Intel says", pcs),
        qe_misc_select=make("qe.misc_select", "the quoting enclave's MISCSELECT is as Intel says", pcs),
        qe_attributes=make("qe.attributes", "the quoting enclave's attributes are as Intel says", pcs),
        qe_tcb_level=make("qe.tcb_level", "Intel has a TCB level for the quoting enclave", pcs),
        tcb_level=make("tcb.level", "Intel has a TCB level for the platform", pcs),
        tcb_known=make("tcb.known", "Intel's words for the TCB levels are known", pcs),
        tcb_revoked=make("tcb.revoked", "the TCB is not revoked", pcs),
    )


class Platform(NamedTuple):
    """What Intel certified about a machine; None where no PCK certificate is at hand.

    Args:
        fmspc: 6 bytes.
        pce_id: 2 bytes.
        ppid: 16 bytes.
        platform_instance_id: 16 bytes, or None where the machine has one package.
        pce_svn: of the PCK certificate.
        sgx_type: how memory is protected.
        dynamic_platform: None where the machine has one package; so for the two that follow.
        cached_keys: whether Intel keeps the platform's keys.
        smt_enabled: whether simultaneous multithreading is on.
        pck_ca: `platform` or `processor`.
        pck_issuer: common name.
        pck_serial: in hex.
    """

    fmspc: bytes | None = None
    pce_id: bytes | None = None
    ppid: bytes | None = None
    platform_instance_id: bytes | None = None
    pce_svn: int | None = None
    sgx_type: str | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None
    pck_ca: str | None = None
    pck_issuer: str | None = None
    pck_serial: str | None = None


class Standing(NamedTuple):
    """What became of a quote's platform, for rules and results; None where there is no collateral to say it.

    Args:
        platform: as certified.
        qe: the quoting enclave's report.
        collateral: that was used.
        tcb: where the platform stands.
        tcb_status: Intel's word, when collateral that Intel signed for this platform says it.
        advisory_ids: likewise.
        tcb_evaluation_data_number: the lower one of TCB info and QE identity.
        tcb_date: of the oldest level, in UTC.
        out_of_date_days: whole days from that date to the time judged for; 0 where no update is due.
        collateral_age_days: whole days since the older document was issued.
    """

    platform: Platform
    qe: EnclaveReport
    collateral: Collateral | None = None
    tcb: TcbStanding | None = None
    tcb_status: str | None = None
    advisory_ids: tuple[str, ...] | None = None
    tcb_evaluation_data_number: int | None = None
    tcb_date: datetime | None = None
    out_of_date_days: int | None = None
    collateral_age_days: int | None = None

    def named(self) -> dict[str, object]:
        """Return what claims sets show of it."""
        platform = self.platform
        return {
            "qe_svn": self.qe.isv_svn,
            "fmspc": platform.fmspc,
            "pceid": platform.pce_id,
            "ppid": platform.ppid,
            "platform_instance_id": platform.platform_instance_id,
            "pce_svn": platform.pce_svn,
            "sgx_type": platform.sgx_type,
            "dynamic_platform": platform.dynamic_platform,
            "cached_keys": platform.cached_keys,
            "smt_enabled": platform.smt_enabled,
            "pck_ca": platform.pck_ca,
            "pck_issuer": platform.pck_issuer,
            "pck_serial": platform.pck_serial,
            "tcb_date": None if self.tcb_date is None else render(self.tcb_date),
            "tcb_evaluation_data_number": self.tcb_evaluation_data_number,
            "tcb_parts": self._name_parts(),
        }

    def _name_parts(self) -> dict[str, str] | None:
        if self.tcb is None or self.tcb_status is None:
            return None
        levels = {"platform": self.tcb.platform, "tdx_module": self.tcb.module, "qe": self.tcb.qe}
        return {name: level.status for name, level in levels.items() if level is not None}


ModuleComparison = Callable[[TdReport, Collateral, TcbStanding, Ledger], None]


class _Pck(NamedTuple):
    """A PCK certificate and what it says; `ders` are the certificates of its chain."""

    ders: tuple[bytes, ...]
    certificate: x509.Certificate
    key: EllipticCurvePublicKey | None
    extension: PckExtension
    platform: Platform
    chain: Chain | None
    chains: tuple[tuple[str, ...], ...]
    findings: tuple[Finding, ...]


def examine_quote(
    quote: SgxQuote | TdxQuote,
    tee: str,
    checks: DcapChecks,
    endorsements: Endorsements,
    setting: Setting,
    ledger: Ledger,
    compare_module: ModuleComparison | None = None,
) -> Standing:
    """Record everything about a quote that is the same for both TEEs.

    Args:
        quote: as decoded.
        tee: `SGX` or `TDX`.
        checks: of the section.
        endorsements: collateral, and the PCK chain where the quote does not bring it.
        setting: for trust anchors, time and cache.
        ledger: receives the findings.
        compare_module: records what Intel says about the TDX module of a TD report.

    Raises:
        DecodeError: a certificate, a CRL or a document is not well formed.
    """
    signature = quote.signature
    qe = signature.quoting_enclave
    vendor_id = quote.header.qe_vendor_id
    ledger.require(
        checks.vendor_id, vendor_id == QE_VENDOR_ID, expected=QE_VENDOR_ID, found=vendor_id, source="the quote's header"
    )
    pck = _find_pck(signature, checks, endorsements, setting)
    if pck is None:
        ledger.doubt(
            checks.pck_present,
            expected="a PCK certificate, in the quote or beside it",
            found=f"certification data of type {signature.certification_type} and no PCK certificate",
            source="the quote's certification data",
        )
    else:
        _record_pck(pck, checks, setting, ledger)
        ledger.require(
            checks.qe_report_signature,
            pck.key is not None and verify_p256(pck.key, signature.qe_report_signature, signature.qe_report),
            expected="a signature of the PCK key",
            found=signature.qe_report_signature,
            source="the PCK certificate",
            anchor=pck.chain.anchor if pck.chain is not None else None,
        )
    digest = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest().ljust(64, b"\0")
    ledger.require(
        checks.qe_report_binding,
        qe.report_data == digest,
        expected=digest,
        found=qe.report_data,
        source="SHA-256 of the attestation key and the QE's data",
    )
    standing = (
        Standing(Platform(), qe)
        if pck is None
        else _examine_collateral(quote, qe, pck, tee, checks, endorsements, setting, ledger, compare_module)
    )
    # Python's lock is free while a signature is verified. With half of the work between the two, another thread has done its half
    # when the lock is wanted back, and nobody waits.
    attestation_key = _load_point(signature.attestation_key)
    ledger.require(
        checks.quote_signature,
        attestation_key is not None and verify_p256(attestation_key, signature.signature, quote.signed),
        expected="a signature of the attestation key",
        found=signature.signature,
        source="the attestation key",
    )
    return standing


# The PCK certificate.


def _find_pck(
    signature: QuoteSignature, checks: DcapChecks, endorsements: Endorsements, setting: Setting
) -> _Pck | None:
    embedded = signature.certification_data if signature.certification_type == CERTIFICATION_PCK_CHAIN else None
    beside, roots = endorsements.certificates, setting.anchors.intel

    def holds(known: _Pck) -> bool:
        return known.chain is not None and known.chain.not_before <= setting.at <= known.chain.not_after

    if embedded is not None:
        return setting.cache.remember(
            ("pck", checks.pck_present.id, embedded, beside, roots),
            lambda: _load_pck(_split_pem(embedded), None, beside, checks, setting),
            holds=holds,
        )
    # Nothing in the quote says which of several PCK certificates is its own: the one that signed it is.
    leaves = [der for der in beside if _has_extension(load_certificate_untrusted(der))][:_MAX_PCK_CANDIDATES]
    found = None
    for leaf in leaves:
        pck = setting.cache.remember(
            ("pck", checks.pck_present.id, leaf, beside, roots),
            lambda leaf=leaf: _load_pck((), leaf, beside, checks, setting),  # type: ignore[misc]
            holds=holds,
        )
        if pck.key is not None and verify_p256(pck.key, signature.qe_report_signature, signature.qe_report):
            return pck
        found = found or pck
    return found


def _split_pem(pem: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a text that holds nothing else, in whatever lines."""
    ders = load_pem_chain_untrusted(pem)
    if pem.rstrip(b"\0").translate(None, _PEM_SPACE) != b"".join(
        _PEM_BEGIN + base64.b64encode(der) + _PEM_END for der in ders
    ):
        raise DecodeError(
            "cannot decode the quote: certification data: found more than certificates in PEM, want nothing else"
        )
    return ders


def _load_pck(
    embedded: tuple[bytes, ...], leaf: bytes | None, beside: tuple[bytes, ...], checks: DcapChecks, setting: Setting
) -> _Pck:
    """Find the path of a PCK certificate and read it."""
    certificates = tuple(load_certificate_untrusted(der) for der in embedded)
    if leaf is None:
        leaf = next((der for der, each in zip(embedded, certificates, strict=True) if _has_extension(each)), None)
        if leaf is None:
            raise DecodeError(
                "cannot decode the quote: certification data: found no certificate with the SGX extension, want one"
            )
    certificate = load_certificate_untrusted(leaf)
    ledger, roots = Ledger(), setting.anchors.intel
    candidates = tuple(der for der in (*embedded, *beside) if der != leaf)
    chain = verify_chain(ledger, checks.pck_chain, leaf, candidates, roots, setting, signs="the QE report")
    path = frozenset(each.public_bytes(Encoding.DER) for each in chain.certificates) if chain is not None else roots
    strange = frozenset(
        fingerprint(der)
        for der, each in zip(embedded, certificates, strict=True)
        if der not in path and (chain is not None or each.issuer == each.subject)
    )
    ledger.require(
        checks.pck_root,
        not strange,
        expected="none but the certificates of its path",
        found=strange or "no others",
        source="the trust anchors",
    )
    issuer = common_name_of(certificate.issuer)
    ledger.require(
        checks.pck_purpose,
        name_of(certificate) == _PCK_NAME
        and issuer in _PCK_CAS
        and _may_sign(certificate)
        and (chain is None or len(chain.certificates) == 3),
        expected=f"{_PCK_NAME}, for signatures, of {' or '.join(_PCK_CAS)}, of a root",
        found=f"{name_of(certificate)} of {issuer}",
        source="the certificate's subject, issuer and key usage",
    )
    extension = parse_pck_extension_untrusted(_extension_of(certificate))
    return _Pck(
        ders=tuple(each.public_bytes(Encoding.DER) for each in (chain.certificates if chain else (certificate,))),
        certificate=certificate,
        key=p256_key_of(certificate),
        extension=extension,
        platform=Platform(
            fmspc=extension.fmspc,
            pce_id=extension.pce_id,
            ppid=extension.ppid,
            platform_instance_id=extension.platform_instance_id,
            pce_svn=extension.pce_svn,
            sgx_type=extension.sgx_type,
            dynamic_platform=extension.dynamic_platform,
            cached_keys=extension.cached_keys,
            smt_enabled=extension.smt_enabled,
            pck_ca=_PCK_CAS.get(issuer),
            pck_issuer=issuer,
            pck_serial=f"{certificate.serial_number:x}",
        ),
        chain=chain,
        chains=tuple(ledger.chains),
        findings=tuple(finding for finding in ledger.findings if finding.check is not checks.pck_chain.validity),
    )


def _record_pck(pck: _Pck, checks: DcapChecks, setting: Setting, ledger: Ledger) -> None:
    ledger.findings.extend(pck.findings)
    ledger.chains.extend(pck.chains)
    if pck.chain is not None:
        _record_validity(pck.chain, checks.pck_chain.validity, setting, ledger)


def _record_validity(chain: Chain, check: Check, setting: Setting, ledger: Ledger) -> None:
    ledger.require(
        check,
        chain.not_before <= setting.at <= chain.not_after,
        expected=(chain.not_before, chain.not_after),
        found=setting.at,
        source="the certificates",
        anchor=chain.anchor,
    )
    ledger.limit(chain.not_after)


def _has_extension(certificate: x509.Certificate) -> bool:
    return any(extension.oid == _EXTENSION for extension in certificate.extensions)


def _extension_of(certificate: x509.Certificate) -> bytes:
    value = certificate.extensions.get_extension_for_oid(_EXTENSION).value
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


def _may_sign(certificate: x509.Certificate) -> bool:
    usage = extension_of(certificate, x509.KeyUsage)
    return usage is not None and usage.digital_signature


def _load_point(point: bytes) -> EllipticCurvePublicKey | None:
    """Return the public key at a point, or None where the curve has no such point."""
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + point)
    except ValueError:
        return None


# Collateral.


def _examine_collateral(
    quote: SgxQuote | TdxQuote,
    qe: EnclaveReport,
    pck: _Pck,
    tee: str,
    checks: DcapChecks,
    endorsements: Endorsements,
    setting: Setting,
    ledger: Ledger,
    compare_module: ModuleComparison | None,
) -> Standing:
    platform, fmspc = pck.platform, pck.extension.fmspc
    if not endorsements.intel:
        ledger.doubt(
            checks.collateral_present,
            expected=f"collateral for {tee} and FMSPC {fmspc.hex()}",
            found="none",
            source="Intel PCS",
        )
        return Standing(platform, qe)
    collateral, found = _choose(pck, tee, checks, endorsements, setting)
    _record_collateral(collateral, checks, setting, ledger)
    _record_revocation(pck, collateral, checks, setting, ledger)

    # What platform, quoting enclave and TDX module are worth by a set of collateral is the same for each of their quotes.
    enclave = (qe.mr_signer, qe.isv_prod_id, qe.isv_svn, qe.misc_select, qe.attributes)
    report, module = quote.report, None
    if not isinstance(report, EnclaveReport):
        module = (report.tee_tcb_svn, report.tee_tcb_svn2, report.mr_signer_seam, report.seam_attributes)

    def compare() -> tuple[tuple[Finding, ...], TcbStanding | None]:
        compared = Ledger()
        svns = (None, None) if module is None else module[:2]
        tcb = _compare(qe, svns, pck, collateral, tee, checks, anchor, compared)
        if tcb is not None and compare_module is not None and not isinstance(report, EnclaveReport):
            compare_module(report, collateral, tcb, compared)
        return tuple(compared.findings), tcb

    anchor = collateral.chains[0][1].anchor if collateral.chains else None
    findings, tcb = setting.cache.remember(
        ("standing", tee, found.tcb_info, found.qe_identity, anchor, pck.ders, enclave, module), compare
    )
    ledger.findings.extend(findings)
    if tcb is None:
        return Standing(platform, qe, collateral)
    info, identity, says, date = collateral.tcb_info, collateral.qe_identity, collateral.signed, tcb.date
    return Standing(
        platform=platform,
        qe=qe,
        collateral=collateral,
        tcb=tcb,
        tcb_status=tcb.status if says else None,
        advisory_ids=tcb.advisory_ids if says else None,
        tcb_evaluation_data_number=min(info.evaluation_data_number, identity.evaluation_data_number),
        tcb_date=date,
        out_of_date_days=None if date is None else _days(date, setting.at) if tcb.out_of_date else 0,
        collateral_age_days=_days(min(info.issue_date, identity.issue_date), setting.at),
    )


def _compare(
    qe: EnclaveReport,
    svns: tuple[bytes | None, bytes | None],
    pck: _Pck,
    collateral: Collateral,
    tee: str,
    checks: DcapChecks,
    anchor: str | None,
    ledger: Ledger,
) -> TcbStanding | None:
    """Hold a platform against collateral; return where it stands, or None where the collateral is for another one.

    Args:
        qe: of which what it measures and what it vouches for are not looked at.
        svns: `tee_tcb_svn` and `tee_tcb_svn2` of a TD report.
        pck: the platform.
        collateral: the set.
        tee: `SGX` or `TDX`.
        checks: of the section.
        anchor: that the collateral rests on.
        ledger: receives the findings.
    """
    fmspc = pck.extension.fmspc
    info, identity = collateral.tcb_info, collateral.qe_identity
    source = "the TCB info"
    fits = [
        ledger.require(
            checks.tcb_info_tee, info.tee == tee, expected=tee, found=info.tee, source=source, anchor=anchor
        ),
        ledger.require(
            checks.tcb_info_fmspc, info.fmspc == fmspc, expected=fmspc, found=info.fmspc, source=source, anchor=anchor
        ),
        ledger.require(
            checks.tcb_info_pce_id,
            info.pce_id == pck.extension.pce_id,
            expected=pck.extension.pce_id,
            found=info.pce_id,
            source=source,
            anchor=anchor,
        ),
        ledger.require(
            checks.tcb_info_type,
            info.tcb_type == _TCB_TYPE,
            expected=_TCB_TYPE,
            found=info.tcb_type,
            source=source,
            anchor=anchor,
        ),
        ledger.require(
            checks.qe_identity_tee,
            identity.id == _QE_IDS[tee],
            expected=_QE_IDS[tee],
            found=identity.id,
            source="the QE identity",
            anchor=anchor,
        ),
    ]
    if not all(fits):
        return None
    _record_qe(qe, collateral, checks, anchor, ledger)
    return _record_tcb(qe, svns, pck, collateral, checks, anchor, ledger)


def _choose(
    pck: _Pck, tee: str, checks: DcapChecks, endorsements: Endorsements, setting: Setting
) -> tuple[Collateral, IntelCollateral]:
    """Return the set that fits best, for this platform, signed, of this time, then the newest; decoded and as received."""
    extension = pck.extension

    def rank(
        candidate: tuple[Collateral, IntelCollateral],
    ) -> tuple[bool, bool, bool, bool, bool, int, datetime]:
        collateral, info = candidate[0], candidate[0].tcb_info
        return (
            info.tee == tee and info.fmspc == extension.fmspc and info.pce_id == extension.pce_id,
            collateral.qe_identity.id == _QE_IDS[tee],
            collateral.pck_crl_issuer == pck.certificate.issuer,
            collateral.signed,
            collateral.not_before <= setting.at <= collateral.not_after,
            info.evaluation_data_number,
            collateral.not_before,
        )

    sets = [(load_collateral(each, checks.collateral, setting), each) for each in endorsements.intel]
    return sets[0] if len(sets) == 1 else max(sets, key=rank)


def _record_collateral(collateral: Collateral, checks: DcapChecks, setting: Setting, ledger: Ledger) -> None:
    ledger.findings.extend(collateral.findings)
    ledger.chains.extend(collateral.said)
    for check, chain in collateral.chains:
        _record_validity(chain, check, setting, ledger)
    for check, document in (
        (checks.collateral.tcb_info_window, collateral.tcb_info),
        (checks.collateral.qe_identity_window, collateral.qe_identity),
    ):
        since, until = document.issue_date, document.next_update
        if since <= setting.at <= until:
            ledger.require(check, passed=True, expected=(since, until), found=setting.at, source="Intel PCS")
            ledger.limit(until)
        else:
            ledger.doubt(
                check,
                expected=f"{'a later' if setting.at > until else 'an earlier'} document, for the time judged for",
                found=f"one that {'expired' if setting.at > until else 'is not yet valid'}: for {since} to {until}",
                source="Intel PCS",
            )


def _record_revocation(pck: _Pck, collateral: Collateral, checks: DcapChecks, setting: Setting, ledger: Ledger) -> None:
    """Look the PCK certificate up in its CA's list, and the CA and the TCB signers in the root's."""
    if pck.chain is None or len(pck.chain.certificates) < 2:
        return
    issuer, root = pck.chain.certificates[1], pck.chain.certificates[-1]
    # An anchor is named by its digest, which takes less time to compare than two certificates.
    signers = tuple(chain.leaf for _, chain in collateral.chains if chain.anchor == pck.chain.anchor)
    for check, crl, signer, subjects in (
        (checks.pck_chain.revocation, collateral.pck_crl, issuer, (pck.certificate,)),
        (checks.pck_ca_revocation, collateral.root_ca_crl, root, (issuer, root, *signers)),
    ):
        # Certificates are long to compare; their bytes, which the two records hold, are the same objects each time.
        key = ("revocation", check.id, crl, pck.ders, collateral.signers)
        check_crl(ledger, check, crl, signer, subjects, setting, anchor=pck.chain.anchor, key=key)


def _record_qe(
    qe: EnclaveReport, collateral: Collateral, checks: DcapChecks, anchor: str | None, ledger: Ledger
) -> None:
    identity = collateral.qe_identity
    source = "the QE identity"
    ledger.require(
        checks.qe_mr_signer,
        qe.mr_signer == identity.mr_signer,
        expected=identity.mr_signer,
        found=qe.mr_signer,
        source=source,
        anchor=anchor,
    )
    ledger.require(
        checks.qe_isv_prod_id,
        qe.isv_prod_id == identity.isv_prod_id,
        expected=identity.isv_prod_id,
        found=qe.isv_prod_id,
        source=source,
        anchor=anchor,
    )
    misc_select = mask_bytes(qe.misc_select, identity.misc_select_mask)
    ledger.require(
        checks.qe_misc_select,
        misc_select == identity.misc_select,
        expected=identity.misc_select,
        found=misc_select,
        source=source,
        anchor=anchor,
    )
    attributes = mask_bytes(qe.attributes, identity.attributes_mask)
    ledger.require(
        checks.qe_attributes,
        attributes == identity.attributes,
        expected=identity.attributes,
        found=attributes,
        source=source,
        anchor=anchor,
    )


def _record_tcb(
    qe: EnclaveReport,
    svns: tuple[bytes | None, bytes | None],
    pck: _Pck,
    collateral: Collateral,
    checks: DcapChecks,
    anchor: str | None,
    ledger: Ledger,
) -> TcbStanding:
    extension = pck.extension
    tcb = appraise_tcb(
        collateral.tcb_info, collateral.qe_identity, extension.components, extension.pce_svn, qe.isv_svn, *svns
    )
    source = "the TCB info"
    found = (bytes(extension.components), extension.pce_svn, *(svn for svn in svns if svn is not None))
    ledger.require(
        checks.tcb_level,
        tcb.platform is not None,
        expected="a level at or below the platform's SVNs" if tcb.platform is None else tcb.platform.date,
        found=found,
        source=source,
        anchor=anchor,
    )
    ledger.require(
        checks.qe_tcb_level,
        tcb.qe is not None,
        expected="a level at or below the quoting enclave's SVN" if tcb.qe is None else tcb.qe.date,
        found=qe.isv_svn,
        source="the QE identity",
        anchor=anchor,
    )
    ledger.require(
        checks.tcb_known,
        not tcb.unknown,
        expected="words of Intel's rules",
        found=tcb.unknown or tcb.status,
        source=source,
        anchor=anchor,
    )
    ledger.require(
        checks.tcb_revoked,
        tcb.status != "Revoked",
        expected="anything but Revoked",
        found=tcb.status,
        source=source,
        anchor=anchor,
    )
    return tcb


def mask_bytes(value: bytes, mask: bytes) -> bytes:
    """Return the bits of a value that a mask of the same size selects."""
    return (int.from_bytes(value) & int.from_bytes(mask)).to_bytes(len(value))


def _days(since: datetime, until: datetime) -> int:
    return max(0, (until - since) // timedelta(days=1))
