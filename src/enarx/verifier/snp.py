# SPDX-License-Identifier: Apache-2.0
"""Judge AMD SEV-SNP reports: the report's signature, and whether report and VEK fit.

- Everything about a chain but its dates is worked out once by `snp_chain` and remembered with its findings. What is left for each
  report is one P-384 signature, the dates, and comparing the report with what the VEK's extensions say.
- A revocation list that comes along always counts. That one must come along is a policy's wish.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI, AMD 57230 VCEK Certificate and KDS Interface.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    CRL_GUID,
    TCB_LAYOUTS,
    VCEK_GUID,
    VLEK_GUID,
    SnpReport,
    VekClaims,
    line_of,
    product_of_cpuid,
)
from enarx.crypto.certificates import load_crl_untrusted, name_of
from enarx.rats import Check, Endorsements, Finding, Outcome
from enarx.verifier.chain import check_crl
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Setting
from enarx.verifier.snp_chain import (
    ARK_PINNED,
    ASK_SIGNATURE,
    VEK_PRESENT,
    VEK_SIGNATURE,
    VEK_VALIDITY,
    VekChain,
    load_chains,
)
from enarx.verifier.snp_claims import ABI, AMD_NAME, KDS, NOTHING, SnpClaims, SnpEvidence, check_of, is_masked
from enarx.verifier.snp_rules import RULES, AllBits

__all__ = ["JUDGE", "RULES", "AllBits", "SnpClaims", "SnpEvidence"]

_CERTIFICATE_GUIDS = frozenset({VCEK_GUID, VLEK_GUID, ASK_GUID, ARK_GUID, ""})
_KNOWN_GUIDS = _CERTIFICATE_GUIDS | {CRL_GUID}
_ECDSA = ec.ECDSA(SHA384())

_REVOKED = check_of("chain.revocation", "neither ASK nor ARK is revoked", f"{KDS} 4.3")
_SIGNATURE = check_of("report.signature", "the report is signed by the VEK", f"{ABI} table 23")
_ALGORITHM = check_of(
    "report.signature_algorithm", "the report says that it is signed with ECDSA P-384", f"{ABI} table 139"
)
_RESERVED = check_of("report.reserved", "the report's reserved fields are as specified", f"{ABI} tables 10 and 23")
_SIGNING_KEY = check_of(
    "report.signing_key", "the report says that it is signed with a VEK of this kind", f"{ABI} table 23"
)
_PRODUCT = check_of("report.product", "the report's CPUID is of the VEK's product", f"{KDS} 3.1")
_HWID = check_of("vek.hwid", "the VCEK is this chip's", f"{KDS} 3.1")
_TCB = {
    component: check_of(f"vek.tcb.{component}", f"the VEK is for the reported TCB: {component}", f"{KDS} 3.1")
    for component in ("fmc", "bootloader", "tee", "snp", "microcode", "reserved")
}

_OF_THE_CHAIN = (VEK_SIGNATURE, ASK_SIGNATURE, ARK_PINNED, VEK_VALIDITY, _SIGNATURE, _SIGNING_KEY, _HWID)
"""What is undecided without a VEK; what else a VEK would be compared with goes unsaid then."""

# Turin puts its components elsewhere, so what is left over, and must be equal too, is elsewhere as well.
_TCB_COMPARISONS = {
    has_fmc: (
        tuple((_TCB[name], at) for name, at in TCB_LAYOUTS[product].items()),
        slice(4, 7) if has_fmc else slice(2, 6),
    )
    for has_fmc, product in ((True, "Turin"), (False, "Milan"))
}


def _examine(parsed: SnpEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    report, certificates, crls, entries = parsed.report, endorsements.certificates, endorsements.crls, NOTHING
    if parsed.table:
        certificates += tuple(content for guid, content in parsed.table if guid in _CERTIFICATE_GUIDS)
        crls += tuple(content for guid, content in parsed.table if guid == CRL_GUID)
        entries = frozenset(guid for guid, _ in parsed.table if guid not in _KNOWN_GUIDS)
    anchors = setting.anchors
    known = setting.cache.remember(
        ("snp", certificates, anchors.amd, anchors.insecure_emulated),
        lambda: load_chains(certificates, anchors.amd, anchors.insecure_emulated, setting.cache),
    )
    _judge_layout(report, ledger)
    findings = ledger.findings
    findings.append(known.strangers)
    if not known.chains:
        for check in (VEK_PRESENT, *_OF_THE_CHAIN):
            ledger.doubt(
                check, expected="the VCEK or VLEK certificate", found=None, source="certificates that came along"
            )
        claims = SnpClaims(report, report.product, None, None, None, entries, Outcome.UNDECIDED)
        return Examined((Part("snp", claims),), "snp")
    chain = _choose_chain(known.chains, report, setting.at)
    findings += chain.findings
    anchor, at = chain.anchor, setting.at
    for check, not_before, not_after in chain.periods:
        passed = _PASSED if not_before <= at <= not_after else _FAILED
        findings.append(_make(Finding, (check, passed, (not_before, not_after), at, "the certificate", anchor)))
    ledger.limit(chain.not_after)
    signed = _judge_signature(report, chain, ledger)
    if chain.names:
        ledger.chains.append((*chain.names, "the report" if signed else "not this report"))
    _judge_fit(report, chain.vek, ledger)
    revocation = _judge_revocation(crls, chain, setting, ledger)
    product = report.product
    if product is None and report.version < 3 and line_of(chain.vek.product) is not None:
        product = _SAME_CPUID.get(base := chain.vek.product.partition("-")[0], base)
    claims = SnpClaims(report, product, chain.vek, chain.dates, chain.issuer, entries, revocation)
    return Examined((Part("snp", claims),), "snp", emulated=chain.emulated)


_PASSED, _FAILED = Outcome.PASSED, Outcome.FAILED
_VEK = "the VEK certificate"
# As in `enarx.verifier.ledger`.
_make = tuple.__new__
_SAME_CPUID = {"Bergamo": "Siena"}


def _judge_layout(report: SnpReport, ledger: Ledger) -> None:
    reserved = report.reserved_fields
    findings = ledger.findings
    findings.append(_make(Finding, (_RESERVED, _FAILED if reserved else _PASSED, NOTHING, reserved, ABI, None)))
    algorithm = report.signature_algo
    findings.append(_make(Finding, (_ALGORITHM, _PASSED if algorithm == 1 else _FAILED, 1, algorithm, ABI, None)))


def _judge_signature(report: SnpReport, chain: VekChain, ledger: Ledger) -> bool:
    """Check the ECDSA signature, and return whether it holds.

    R and S are numbers of 72 bytes, so one with a high byte set is too large to hold.
    """
    r = int.from_bytes(report.signature_r + report.reserved_2d0, "little")
    s = int.from_bytes(report.signature_s + report.reserved_318, "little")
    found = "one that the VEK made"
    if chain.key is None:
        found = "no key to check it with"
    elif not (r and s):
        found = "none: R or S is zero"
    else:
        try:
            chain.key.verify(encode_dss_signature(r, s), report.signed_bytes, _ECDSA)
        except InvalidSignature:
            found = "one that the VEK did not make"
    passed = found == "one that the VEK made"
    outcome = _PASSED if passed else _FAILED
    ledger.findings.append(
        _make(Finding, (_SIGNATURE, outcome, "the VEK's signature", found, "the VEK's key", chain.anchor))
    )
    return passed


def _judge_fit(report: SnpReport, vek: VekClaims, ledger: Ledger) -> None:
    """Compare the report with what the VEK was made for."""
    findings, signing_key = ledger.findings, report.signing_key
    passed = _PASSED if signing_key == vek.kind else _FAILED
    findings.append(_make(Finding, (_SIGNING_KEY, passed, vek.kind, signing_key, _VEK, None)))
    if report.version >= 3:
        findings.append(_compare_product(report.cpuid_family, report.cpuid_model, vek.product))
    else:
        findings.append(Finding(_PRODUCT, Outcome.NOTED, None, vek.product, "a report without CPUID, before version 3"))
    found, chip_id = report.chip_id, vek.chip_id
    if chip_id is None:
        findings.append(Finding(_HWID, Outcome.NOTED, None, found, "a VLEK, which is no single chip's"))
    elif is_masked(report):
        findings.append(Finding(_HWID, Outcome.NOTED, None, found, "a masked chip id: snp.masked_chip_id judges it"))
    else:
        findings.append(_make(Finding, (_HWID, _PASSED if found == chip_id else _FAILED, chip_id, found, _VEK, None)))
    findings += _compare_tcb(report.reported_tcb, vek.tcb, vek.has_fmc)


# A fleet has few of these, and each comparison has several findings.
@lru_cache(maxsize=1024)
def _compare_tcb(found: bytes, wanted: bytes, has_fmc: bool) -> tuple[Finding, ...]:
    comparisons, rest = _TCB_COMPARISONS[has_fmc]
    pairs: list[tuple[Check, object, object]] = [(check, wanted[at], found[at]) for check, at in comparisons]
    pairs.append((_TCB["reserved"], wanted[rest], found[rest]))
    return tuple(Finding(check, _PASSED if want == have else _FAILED, want, have, _VEK) for check, want, have in pairs)


@lru_cache(maxsize=256)
def _compare_product(family: int, model: int, wanted: str) -> Finding:
    product = product_of_cpuid(family, model)
    line = line_of(product) if product is not None else None
    passed = line is not None and line == line_of(wanted)
    found = product or f"CPUID family {family:#x} model {model:#x}"
    return Finding(_PRODUCT, _PASSED if passed else _FAILED, wanted, found, _VEK)


def _judge_revocation(crls: tuple[bytes, ...], chain: VekChain, setting: Setting, ledger: Ledger) -> object:
    """Record what the revocation lists say, and return what `SnpClaims.revocation` is."""
    lists = tuple([crl for crl in crls if AMD_NAME in crl])
    if not lists:
        ledger.findings.append(_NO_LIST)
        return Outcome.UNDECIDED
    ark, ask = chain.ark, chain.ask
    if ark is None or ask is None:
        ledger.doubt(_REVOKED, expected="the ARK that signed the list", found=None, source="the chain")
        return Outcome.UNDECIDED
    mine = setting.cache.remember(
        ("snp.crls", lists, chain.ders),
        lambda: [crl for crl in lists if load_crl_untrusted(crl).issuer == ark.subject],
    )
    if not mine:
        ledger.doubt(
            _REVOKED, expected=f"{name_of(ark)}'s list", found="other issuers' lists", source="revocation lists"
        )
        return Outcome.UNDECIDED
    trial = Ledger()
    for crl in mine:
        key = ("snp.revocation", crl, chain.ders)
        check_crl(trial, _REVOKED, crl, ark, (ask, ark), setting, anchor=chain.anchor, key=key)
    finding = min(trial.findings, key=lambda finding: _WEIGHT[finding.outcome])
    ledger.findings.append(finding)
    if finding.outcome is not _PASSED:
        return Outcome.UNDECIDED
    if trial.valid_until is not None:
        ledger.limit(trial.valid_until)
    return "checked"


_NO_LIST = Finding(_REVOKED, Outcome.NOTED, None, None, "no revocation list came along: snp.revocation judges it")
# Of several lists, one that is forged or names the ASK decides; then one that is current, and old ones do no harm.
_WEIGHT = {Outcome.FAILED: 0, Outcome.PASSED: 1, Outcome.UNDECIDED: 2}


def _choose_chain(chains: tuple[VekChain, ...], report: SnpReport, at: datetime) -> VekChain:
    """Return the chain whose VEK fits the report best; a store has one for each chip and TCB version.

    Of several that fit equally, a renewed VEK's or a lookalike's, one that holds now is better: what else came along cannot spoil it.
    """
    if len(chains) == 1:
        return chains[0]

    def fit(chain: VekChain) -> tuple[bool, bool, bool, bool, bool]:
        vek = chain.vek
        return (
            vek.kind == report.signing_key,
            vek.chip_id is None or vek.chip_id == report.chip_id,
            vek.tcb == report.reported_tcb,
            bool(chain.names),
            chain.dates[0] <= at <= chain.dates[1],
        )

    return max(chains, key=fit)


JUDGE = Judge(section="snp", examine=_examine, rules=RULES)
