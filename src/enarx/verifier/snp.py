# SPDX-License-Identifier: Apache-2.0
"""Judge AMD SEV-SNP reports: the chain ARK, ASK or ASVK, VCEK or VLEK, the report's signature, and whether the two fit.

What holds this file together:

- The chain is three steps long and its names are AMD's, so it is walked here and not searched for. `cryptography`'s path
  builder refuses the RSA-PSS parameters of these certificates.
- Everything about a chain but its dates is worked out once and remembered with its findings. What is left for each report is
  one P-384 signature, the dates, and comparing the report with what the VEK's extensions say.
- Every certificate that comes along with AMD's name in it has to be signed by a trusted ARK or be one. So a chain that was
  tampered with is refused, and never mended silently with the intermediates that are part of this package; those are used where
  none came along.
- A revocation list that comes along always counts. That one must come along is a policy's wish.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI, AMD 57230 VCEK Certificate and KDS Interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    CHIP_ID_BYTES,
    CRL_GUID,
    GUEST_POLICY_BITS,
    PLATFORM_INFO_BITS,
    TCB_LAYOUTS,
    VCEK_GUID,
    VEK_OIDS,
    VLEK_GUID,
    SnpReport,
    VekClaims,
    line_of,
    parse_vek_extensions_untrusted,
    tcb_components,
)
from enarx.crypto.certificates import (
    describe,
    fingerprint,
    issued_directly,
    load_certificate_untrusted,
    load_crl_untrusted,
    name_of,
    not_after_of,
    not_before_of,
    unknown_critical_extensions,
)
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, Expectation, Finding, OneOf, Outcome, Skip
from enarx.verifier.cache import TrustCache
from enarx.verifier.chain import check_crl
from enarx.verifier.grammar import (
    ByProduct,
    Digests,
    Flag,
    Freshness,
    Grammar,
    Minimum,
    MinimumVersion,
    Numbers,
    Words,
    WordsOrFewer,
)
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Rule, Setting
from enarx.verifier.roots import amd_intermediates

__all__ = ["JUDGE", "AllBits", "SnpClaims", "SnpEvidence"]

_ABI = "AMD 56860"
_KDS = "AMD 57230"
_MAX_CERTIFICATES = 64
_PSS_SALT_BYTES = 48
_MIN_RSA_BITS = 4096
_AMD = b"Advanced Micro Devices"

_CERTIFICATE_GUIDS = frozenset({VCEK_GUID, VLEK_GUID, ASK_GUID, ARK_GUID, ""})
_KNOWN_GUIDS = _CERTIFICATE_GUIDS | {CRL_GUID}

_ECDSA = ec.ECDSA(SHA384())


def _check(name: str, title: str, spec: str) -> Check:
    return Check(f"snp.{name}", title, Concern.AUTHENTICITY, spec)


_VEK_PRESENT = _check("vek.present", "a VCEK or VLEK certificate came along", f"{_KDS} 3.1")
_CERTIFICATES = _check(
    "chain.certificates", "the certificates that came along are signed by a trusted ARK", f"{_KDS} 4"
)
_VEK_SIGNATURE = _check("vek.signature", "the VEK certificate is signed by AMD's ASK or ASVK", f"{_KDS} 3.1")
_ASK_SIGNATURE = _check("ask.signature", "the ASK or ASVK certificate is signed by AMD's ARK", f"{_KDS} 3.2")
_ARK_PINNED = _check("ark.pinned", "the ARK is a trust anchor", f"{_KDS} 3.2")
_ALGORITHMS = _check("chain.algorithms", "the chain is RSA-4096-PSS with SHA-384 and the VEK's key P-384", f"{_KDS} 3")
_CONSTRAINTS = _check(
    "chain.constraints", "each certificate is used for what it was made for", "RFC 5280 4.2.1.3, 4.2.1.9"
)
_EXTENSIONS = _check("chain.extensions", "no certificate has an unknown critical extension", "RFC 5280 4.2")
_NAMES = _check("chain.product", "VEK, ASK and ARK are of the same product line", f"{_KDS} 3")
_KIND = _check("vek.kind", "the VEK's name, issuer and extensions agree on its kind", f"{_KDS} 3.1")
_VEK_VALIDITY = _check("vek.validity", "the VEK certificate is valid at the time", "RFC 5280 4.1.2.5")
_ASK_VALIDITY = _check("ask.validity", "the ASK or ASVK certificate is valid at the time", "RFC 5280 4.1.2.5")
_ARK_VALIDITY = _check("ark.validity", "the ARK certificate is valid at the time", "RFC 5280 4.1.2.5")
_REVOKED = _check("chain.revocation", "neither ASK nor ARK is revoked", f"{_KDS} 4.3")
_SIGNATURE = _check("report.signature", "the report is signed by the VEK", f"{_ABI} table 23")
_ALGORITHM = _check(
    "report.signature_algorithm", "the report says that it is signed with ECDSA P-384", f"{_ABI} table 139"
)
_RESERVED = _check("report.reserved", "the report's reserved fields are as specified", f"{_ABI} tables 10 and 23")
_SIGNING_KEY = _check(
    "report.signing_key", "the report says that it is signed with a VEK of this kind", f"{_ABI} table 23"
)
_PRODUCT = _check("report.product", "the report's CPUID is of the VEK's product", f"{_KDS} 3.1")
_HWID = _check("vek.hwid", "the VCEK is this chip's", f"{_KDS} 3.1")
_TCB = {
    component: _check(f"vek.tcb.{component}", f"the VEK is for the reported TCB: {component}", f"{_KDS} 3.1")
    for component in ("fmc", "bootloader", "tee", "snp", "microcode", "reserved")
}

_OF_THE_CHAIN = (_VEK_SIGNATURE, _ASK_SIGNATURE, _ARK_PINNED, _VEK_VALIDITY, _SIGNATURE, _SIGNING_KEY, _HWID)
"""What is undecided without a VEK; what else a VEK would be compared with goes unsaid then."""

# Turin puts its components elsewhere, so what is left over, and must be equal too, is elsewhere as well.
_TCB_COMPARISONS = {
    has_fmc: (
        tuple((_TCB[name], at) for name, at in TCB_LAYOUTS[product].items()),
        slice(4, 7) if has_fmc else slice(2, 6),
    )
    for has_fmc, product in ((True, "Turin"), (False, "Milan"))
}


class SnpEvidence(NamedTuple):
    """A report, and what came in the same wrapper.

    Args:
        report: decoded.
        table: GUID and content of each entry of the certificate table; a GUID may be empty where the wrapper has none.
    """

    report: SnpReport
    table: tuple[tuple[str, bytes], ...] = ()


class SnpClaims(NamedTuple):
    """What a report and the VEK certificate it was judged with say.

    Args:
        report: decoded.
        product: whose TCB layout the report has: by CPUID, before version 3 by the VEK; None where neither says.
        vek: what the certificate says, or None where there was none.
        dates: its first and last second, or None.
        issuer: its issuer's common name, or None.
        entries: GUIDs of the certificate table that have no known meaning.
        revocation: `checked`, or UNDECIDED where no current revocation list came along.
    """

    report: SnpReport
    product: str | None
    vek: VekClaims | None
    dates: tuple[datetime, datetime] | None
    issuer: str | None
    entries: frozenset[str]
    revocation: object

    def named(self) -> Mapping[str, object]:
        """Return the claims by AMD's names in lower case."""
        report, vek = self.report, self.vek
        named: dict[str, object] = {
            "version": report.version,
            "guest_svn": report.guest_svn,
            "policy": report.policy,
            "vmpl": report.vmpl,
            "measurement": report.measurement,
            "host_data": report.host_data,
            "report_data": report.report_data,
            "chip_id": report.chip_id,
            "report_id": report.report_id,
            "report_id_ma": report.report_id_ma,
            "family_id": report.family_id,
            "image_id": report.image_id,
            "id_key_digest": report.id_key_digest,
            "author_key_digest": report.author_key_digest,
            "author_key_en": bool(report.key_info & 1),
            "mask_chip_key": bool(report.key_info & 2),
            "signing_key": report.signing_key,
            "signature_algo": report.signature_algo,
            "platform_info": report.platform_info,
            "current_tcb": report.current_tcb,
            "reported_tcb": report.reported_tcb,
            "committed_tcb": report.committed_tcb,
            "launch_tcb": report.launch_tcb,
            "cpuid": bytes((report.cpuid_family, report.cpuid_model, report.cpuid_stepping)),
            "cur_ver": f"{report.current_major}.{report.current_minor}.{report.current_build}",
            "com_ver": f"{report.committed_major}.{report.committed_minor}.{report.committed_build}",
            "launch_mit": report.launch_mit_vector,
            "current_mit": report.current_mit_vector,
        }
        if vek is not None:
            components = tcb_components(vek.tcb, "Turin" if vek.has_fmc else "Milan") or {}
            named |= {
                "vek_kind": vek.kind,
                "vek_issuer": self.issuer,
                "product": vek.product,
                "csp_id": vek.csp_id,
                "vek_tcb": {
                    "bl": components["bootloader"],
                    "tee": components["tee"],
                    "snp": components["snp"],
                    "ucode": components["microcode"],
                    "fmc": components.get("fmc"),
                },
            }
        if self.dates is not None:
            named["vek_not_before"], named["vek_not_after"] = (f"{date:%Y-%m-%d}" for date in self.dates)
        return named


class _Chain(NamedTuple):
    """A VEK with all that can be said about it and its issuers without looking at a report or a clock.

    Args:
        vek: what its extensions say.
        key: None where it is not a P-384 key.
        dates: the VEK's first and last second.
        issuer: common name of the VEK's issuer.
        findings: about signatures, names and extensions.
        periods: for each certificate of the chain its check, first and last second.
        not_after: when the first of them ends.
        ask: None where no issuer was found; so is `ark`.
        anchor: as findings name it; None where the chain ends nowhere.
        ders: of those two.
        names: of the certificates, the trust anchor's first; empty where the chain ends nowhere.
        emulated: whether the anchor is an emulated platform's.
    """

    vek: VekClaims
    key: ec.EllipticCurvePublicKey | None
    dates: tuple[datetime, datetime]
    issuer: str
    findings: tuple[Finding, ...]
    periods: tuple[tuple[Check, datetime, datetime], ...]
    not_after: datetime
    ask: x509.Certificate | None
    ark: x509.Certificate | None
    ders: tuple[bytes, ...]
    anchor: str | None
    names: tuple[str, ...]
    emulated: bool


class _Known(NamedTuple):
    """Everything that was made of the certificates that came along."""

    chains: tuple[_Chain, ...]
    strangers: Finding


def _examine(parsed: SnpEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    report, certificates, crls, entries = parsed.report, endorsements.certificates, endorsements.crls, _NO_ENTRIES
    if parsed.table:
        certificates += tuple(content for guid, content in parsed.table if guid in _CERTIFICATE_GUIDS)
        crls += tuple(content for guid, content in parsed.table if guid == CRL_GUID)
        entries = frozenset(guid for guid, _ in parsed.table if guid not in _KNOWN_GUIDS)
    anchors = setting.anchors
    known = setting.cache.remember(
        ("snp", certificates, anchors.amd, anchors.insecure_emulated),
        lambda: _load_chains(certificates, anchors.amd, anchors.insecure_emulated, setting.cache),
    )
    _judge_layout(report, ledger)
    findings = ledger.findings
    findings.append(known.strangers)
    if not known.chains:
        for check in (_VEK_PRESENT, *_OF_THE_CHAIN):
            ledger.doubt(
                check, expected="the VCEK or VLEK certificate", found=None, source="certificates that came along"
            )
        claims = SnpClaims(report, report.product, None, None, None, entries, Outcome.UNDECIDED)
        return Examined((Part("snp", claims),), "snp")
    chain = _choose_chain(known.chains, report, setting.at)
    findings.extend(chain.findings)
    anchor, at = chain.anchor, setting.at
    for check, not_before, not_after in chain.periods:
        passed = _PASSED if not_before <= at <= not_after else _FAILED
        findings.append(Finding(check, passed, (not_before, not_after), at, "the certificate", anchor))
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


_NO_ENTRIES: frozenset[str] = frozenset()
_NO_CHIP_ID = bytes(CHIP_ID_BYTES)
_PASSED, _FAILED = Outcome.PASSED, Outcome.FAILED
_SAME_CPUID = {"Bergamo": "Siena"}


def _judge_layout(report: SnpReport, ledger: Ledger) -> None:
    reserved = report.reserved_fields
    findings = ledger.findings
    findings.append(Finding(_RESERVED, _FAILED if reserved else _PASSED, _NO_ENTRIES, reserved, _ABI))
    algorithm = report.signature_algo
    findings.append(Finding(_ALGORITHM, _PASSED if algorithm == 1 else _FAILED, 1, algorithm, _ABI))


def _judge_signature(report: SnpReport, chain: _Chain, ledger: Ledger) -> bool:
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
    ledger.findings.append(
        Finding(_SIGNATURE, _PASSED if passed else _FAILED, "the VEK's signature", found, "the VEK's key", chain.anchor)
    )
    return passed


def _judge_fit(report: SnpReport, vek: VekClaims, ledger: Ledger) -> None:
    """Compare the report with what the VEK was made for."""
    append, source = ledger.findings.append, "the VEK certificate"
    signing_key = report.signing_key
    append(Finding(_SIGNING_KEY, _PASSED if signing_key == vek.kind else _FAILED, vek.kind, signing_key, source))
    if report.version >= 3:
        product = report.product
        line, wanted = line_of(product) if product is not None else None, line_of(vek.product)
        passed = line is not None and line == wanted
        found = product or f"CPUID family {report.cpuid_family:#x} model {report.cpuid_model:#x}"
        append(Finding(_PRODUCT, _PASSED if passed else _FAILED, vek.product, found, source))
    else:
        append(Finding(_PRODUCT, Outcome.NOTED, None, vek.product, "a report without CPUID, before version 3"))
    chip_id = vek.chip_id
    if chip_id is None:
        append(Finding(_HWID, Outcome.NOTED, None, report.chip_id, "a VLEK, which is no single chip's"))
    elif _is_masked(report):
        append(Finding(_HWID, Outcome.NOTED, None, report.chip_id, "a masked chip id: snp.masked_chip_id judges it"))
    else:
        append(Finding(_HWID, _PASSED if report.chip_id == chip_id else _FAILED, chip_id, report.chip_id, source))
    wanted_tcb, found_tcb = vek.tcb, report.reported_tcb
    comparisons, rest = _TCB_COMPARISONS[vek.has_fmc]
    for check, position in comparisons:
        want, found_spl = wanted_tcb[position], found_tcb[position]
        append(Finding(check, _PASSED if want == found_spl else _FAILED, want, found_spl, source))
    passed = wanted_tcb[rest] == found_tcb[rest]
    append(Finding(_TCB["reserved"], _PASSED if passed else _FAILED, wanted_tcb[rest], found_tcb[rest], source))


def _judge_revocation(crls: tuple[bytes, ...], chain: _Chain, setting: Setting, ledger: Ledger) -> object:
    """Record what the revocation lists say, and return what `SnpClaims.revocation` is."""
    lists = [crl for crl in crls if _AMD in crl]
    if not lists:
        ledger.findings.append(_NO_LIST)
        return Outcome.UNDECIDED
    ark, ask = chain.ark, chain.ask
    if ark is None or ask is None:
        ledger.doubt(_REVOKED, expected="the ARK that signed the list", found=None, source="the chain")
        return Outcome.UNDECIDED
    remember = setting.cache.remember
    mine = [crl for crl in lists if remember(("snp.crl", crl), partial(_issuer_of, crl)) == ark.subject]
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


def _issuer_of(crl: bytes) -> x509.Name:
    return load_crl_untrusted(crl).issuer


def _is_masked(report: SnpReport) -> bool:
    return report.chip_id == _NO_CHIP_ID


def _choose_chain(chains: tuple[_Chain, ...], report: SnpReport, at: datetime) -> _Chain:
    """Return the chain whose VEK fits the report best; a store has one for each chip and TCB version.

    Of several that fit equally, a renewed VEK's or a lookalike's, one that holds now is better: what else came along cannot spoil it.
    """
    if len(chains) == 1:
        return chains[0]

    def fit(chain: _Chain) -> tuple[bool, bool, bool, bool, bool]:
        vek = chain.vek
        return (
            vek.kind == report.signing_key,
            vek.chip_id is None or vek.chip_id == report.chip_id,
            vek.tcb == report.reported_tcb,
            bool(chain.names),
            chain.dates[0] <= at <= chain.dates[1],
        )

    return max(chains, key=fit)


# The chain.


def _load_chains(
    certificates: tuple[bytes, ...], roots: tuple[bytes, ...], emulated: frozenset[bytes], cache: TrustCache
) -> _Known:
    """Work out everything about the certificates that came along that depends on nothing else.

    Raises:
        DecodeError: one with AMD's name is not well formed, or there are more than 64.
    """
    # A bundle may bring other vendors' certificates. AMD's have its name in issuer and subject, so one flipped bit hides none.
    ours = tuple(dict.fromkeys(der for der in certificates if _AMD in der))
    if len(ours) > _MAX_CERTIFICATES:
        raise DecodeError(f"cannot decode AMD's certificates: found {len(ours)}, want at most {_MAX_CERTIFICATES}")
    loaded = {der: _load(der, cache) for der in ours}
    anchors = {der: _load(der, cache) for der in roots}
    software = {der for der in (*ours, *roots) if bytes.fromhex(fingerprint(der)) in emulated}
    anchors |= {der: loaded[der] for der in software if der not in anchors}
    veks = [certificate for certificate in loaded.values() if _is_vek(certificate)]
    authorities = [certificate for certificate in loaded.values() if not _is_vek(certificate)]
    trusted = tuple(anchors.values())
    strangers = frozenset(
        name_of(certificate)
        for certificate in authorities
        if certificate not in trusted and not any(_issued(certificate, ark, cache) for ark in trusted)
    )
    finding = Finding(
        _CERTIFICATES, _FAILED if strangers else _PASSED, _NO_ENTRIES, strangers, "the trust anchors", None
    )
    names = {certificate.subject for certificate in authorities}
    own = [_load(der, cache) for der in amd_intermediates()]
    authorities += [certificate for certificate in own if certificate.subject not in names]
    software_arks = tuple(anchors[der] for der in software)
    return _Known(tuple(_walk(vek, authorities, trusted, software_arks, cache) for vek in veks), finding)


def _walk(
    vek: x509.Certificate,
    authorities: list[x509.Certificate],
    anchors: tuple[x509.Certificate, ...],
    software: tuple[x509.Certificate, ...],
    cache: TrustCache,
) -> _Chain:
    """Follow one VEK to its ARK, and say what holds on the way."""
    values: dict[str, bytes] = {}
    for extension in vek.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            values[extension.oid.dotted_string] = extension.value.value
    claims = parse_vek_extensions_untrusted(values)
    ask, ask_signed = _find_issuer(vek, authorities, cache)
    ark, ark_signed = _find_issuer(ask, [*anchors, *authorities], cache) if ask is not None else (None, False)
    pinned = ark is not None and ark_signed and ark in anchors
    anchor = describe(ark) if ark is not None and pinned else None
    path = tuple(certificate for certificate in (vek, ask, ark) if certificate is not None)
    key = _key_of(vek)
    findings: list[Finding] = []

    def require(check: Check, passed: bool, expected: object, found: object, source: str) -> None:
        findings.append(Finding(check, _PASSED if passed else _FAILED, expected, found, source, anchor))

    require(_VEK_PRESENT, True, "the VCEK or VLEK certificate", claims.kind, "certificates that came along")
    require(
        _VEK_SIGNATURE,
        ask_signed,
        vek.issuer.rfc4514_string(),
        _signer(ask, ask_signed),
        "the VEK's issuer's signature",
    )
    wanted = ask.issuer.rfc4514_string() if ask is not None else "AMD's ARK"
    require(_ASK_SIGNATURE, ark_signed, wanted, _signer(ark, ark_signed), "the ASK's issuer's signature")
    found = describe(ark) if ark is not None and ark_signed else "no ARK that signed the ASK"
    require(_ARK_PINNED, pinned, frozenset(describe(each) for each in anchors), found, "the trust anchors")
    problems = frozenset().union(*(_algorithm_problems(each) for each in path)) | (
        frozenset() if key is not None else {f"{name_of(vek)}: not a P-384 key"}
    )
    require(_ALGORITHMS, not problems, _NO_ENTRIES, problems, _KDS)
    problems = _usage_problems(vek, depth=None)
    for depth, authority in enumerate(path[1:]):
        problems |= _usage_problems(authority, depth=depth)
    require(_CONSTRAINTS, not problems, _NO_ENTRIES, problems, "the certificates")
    problems = frozenset().union(*(unknown_critical_extensions(each) for each in path))
    require(_EXTENSIONS, not problems, _NO_ENTRIES, problems, "RFC 5280")
    line = line_of(claims.product) or "a known product"
    vlek = "VLEK-" if claims.kind == "VLEK" else ""
    require(_KIND, name_of(vek) == f"SEV-{claims.kind}", f"SEV-{claims.kind}", name_of(vek), "the VEK's extensions")
    names = tuple(name_of(each) for each in path[1:])
    wanted_names = (f"SEV-{vlek}{line}", f"ARK-{line}")
    right_layout = claims.has_fmc == (line == "Turin")
    require(_NAMES, names == wanted_names and right_layout, wanted_names, names, f"the VEK: {claims.product}")
    checks = (_VEK_VALIDITY, _ASK_VALIDITY, _ARK_VALIDITY)
    periods = tuple((check, not_before_of(each), not_after_of(each)) for check, each in zip(checks, path, strict=False))
    return _Chain(
        vek=claims,
        key=key,
        dates=(not_before_of(vek), not_after_of(vek)),
        issuer=_common_name(vek.issuer),
        findings=tuple(findings),
        periods=periods,
        not_after=min(not_after for _, _, not_after in periods),
        ask=ask,
        ark=ark if ark_signed else None,
        ders=tuple(each.public_bytes(Encoding.DER) for each in path[1:]),
        anchor=anchor,
        names=tuple(name_of(each) for each in reversed(path)) if pinned and ask_signed else (),
        emulated=pinned and ark in software,
    )


def _is_vek(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is an end entity's; each has nine extensions that say so, so one flipped bit hides none."""
    return any(extension.oid.dotted_string in VEK_OIDS for extension in certificate.extensions)


def _find_issuer(
    subject: x509.Certificate, candidates: list[x509.Certificate], cache: TrustCache
) -> tuple[x509.Certificate | None, bool]:
    """Return who signed a certificate and True; else somebody with the issuer's name, or None, and False."""
    named = [each for each in candidates if each.subject == subject.issuer]
    for issuer in named:
        if _issued(subject, issuer, cache):
            return issuer, True
    return (named[0] if named else None), False


def _issued(subject: x509.Certificate, issuer: x509.Certificate, cache: TrustCache) -> bool:
    """Return whether one certificate signed another, in the only encoding of a signature that has no unused bits."""
    if subject.issuer != issuer.subject:
        return False
    der, signature = subject.public_bytes(Encoding.DER), subject.signature
    return not der[-len(signature) - 1] and cache.remember(
        ("snp.issued", der, issuer.public_bytes(Encoding.DER)), lambda: issued_directly(subject, issuer)
    )


def _load(der: bytes, cache: TrustCache) -> x509.Certificate:
    return cache.remember(("snp.certificate", der), lambda: load_certificate_untrusted(der))


def _signer(issuer: x509.Certificate | None, signed: bool) -> str:
    if issuer is None:
        return "no certificate of that name"
    return name_of(issuer) if signed else f"a signature that {name_of(issuer)} did not make"


def _common_name(name: x509.Name) -> str:
    names = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[-1].value) if names else name.rfc4514_string()


def _key_of(vek: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    try:
        key = vek.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1) else None


def _algorithm_problems(certificate: x509.Certificate) -> frozenset[str]:
    """Say what is not RSA-4096-PSS with SHA-384 about a certificate's signature, or about an authority's key."""
    problems, name = set(), name_of(certificate)
    try:
        digest, parameters = certificate.signature_hash_algorithm, certificate.signature_algorithm_parameters
    except (ValueError, UnsupportedAlgorithm):
        digest = parameters = None
    if (
        not isinstance(parameters, padding.PSS)
        or not isinstance(digest, SHA384)
        or not isinstance(parameters._mgf._algorithm, SHA384)
        or parameters._salt_length != _PSS_SALT_BYTES
    ):
        problems.add(f"{name}: another signature algorithm")
    if not _is_vek(certificate):
        try:
            key: object = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
            problems.add(f"{name}: another kind of key")
    return frozenset(problems)


def _usage_problems(certificate: x509.Certificate, *, depth: int | None) -> frozenset[str]:
    """Say what a certificate must not be used for although it is.

    Args:
        certificate: of the chain.
        depth: how many authorities are below it; None for the VEK.
    """
    problems, name = set(), name_of(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if depth is None:
        if constraints is not None and constraints.ca:
            problems.add(f"{name}: a certificate authority")
        if usage is not None and not usage.digital_signature:
            problems.add(f"{name}: may not sign data")
        return frozenset(problems)
    if constraints is None or not constraints.ca:
        problems.add(f"{name}: no certificate authority")
    elif constraints.path_length is not None and constraints.path_length < depth:
        problems.add(f"{name}: allows {constraints.path_length} authorities below it")
    if usage is not None and not usage.key_cert_sign:
        problems.add(f"{name}: may not sign certificates")
    return frozenset(problems)


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# The appraisal policy.


class AllBits(Expectation):
    """The claim, a bit vector, has all of these bits set.

    Args:
        bits: at least one.
    """

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        if not bits:
            raise ValueError("found no bit, want at least one")
        self.bits = bits

    def holds(self, found: Any) -> bool:
        """Return whether all of them are set."""
        return found is not None and found & self.bits == self.bits

    def __str__(self) -> str:
        return f"all bits of {self.bits:#x}"


class _Bits(Grammar):
    """A number whose bits must all be set in the claim."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "a number from 1 to 2**63 - 1, whose bits must be set"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
            raise self.refuse(value)
        return AllBits(value)


class _Revocation(Grammar):
    """`"required"`: a current revocation list has to come along."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return '"required"'

    def decode(self, value: Any) -> Expectation:
        if value != "required":
            raise self.refuse(value)
        return OneOf("checked")


_NO_POLICY = Skip("no policy was given")
_NO_DIGEST = bytes(48)
_ANY = '{ skip = "any value is fine" }'


def _rule(
    name: str,
    title: str,
    read: Callable[[SnpClaims], object],
    grammar: Grammar,
    strict: str | None,
    baseline: Expectation = _NO_POLICY,
    spec: str = f"{_ABI} table 23",
) -> Rule:
    key = f"snp.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, spec), read, grammar, strict, baseline)


def _policy_bit(name: str) -> Callable[[SnpClaims], object]:
    mask = 1 << GUEST_POLICY_BITS[name]
    return lambda claims: claims.report.policy & mask != 0


def _platform_bit(name: str) -> Callable[[SnpClaims], object]:
    mask = 1 << PLATFORM_INFO_BITS[name]
    return lambda claims: claims.report.platform_info & mask != 0


_NAMED_PLATFORM_BITS = sum(1 << bit for bit in PLATFORM_INFO_BITS.values())


def _other_platform_bits(claims: SnpClaims) -> frozenset[str]:
    others = claims.report.platform_info & ~_NAMED_PLATFORM_BITS
    return frozenset(f"bit{bit}" for bit in range(64) if others >> bit & 1) if others else _NO_ENTRIES


@lru_cache(maxsize=1024)
def _tcb(raw: bytes, product: str | None) -> object:
    components = tcb_components(raw, product)
    return (product, components) if components is not None else None


def _firmware(claims: SnpClaims) -> tuple[int, int]:
    report = claims.report
    return min((report.current_major, report.current_minor), (report.committed_major, report.committed_minor))


def _is_provisional(claims: SnpClaims) -> bool:
    report = claims.report
    return (
        report.current_tcb != report.committed_tcb
        or report.current_build != report.committed_build
        or report.current_minor != report.committed_minor
        or report.current_major != report.committed_major
    )


_TCB_GRAMMAR = ByProduct(
    {product: dict.fromkeys(TCB_LAYOUTS[product], 255) for product in ("Milan", "Genoa", "Siena", "Turin")}
)
_FLAG = Flag()
_FORBIDDEN = '"forbidden"'
_REQUIRED = '"required"'
_POLICY_SPEC = f"{_ABI} table 10"
_PLATFORM_SPEC = f"{_ABI} table 24"

RULES: tuple[Rule, ...] = (
    _rule("version", "the report's version is accepted", lambda c: c.report.version, Numbers(0xFFFFFFFF), "[3, 5]"),
    _rule(
        "product",
        "the processor is of an accepted product",
        lambda c: c.product,
        Words("Milan", "Genoa", "Siena", "Turin"),
        '["Milan", "Genoa", "Siena", "Turin"]',
        spec=f"{_KDS} 3.1",
    ),
    _rule(
        "signing_key",
        "the report is signed with an accepted kind of key",
        lambda c: c.vek.kind if c.vek is not None else None,
        Words("VCEK", "VLEK"),
        '["VCEK"]',
    ),
    _rule(
        "csp_id",
        "the VLEK is an accepted cloud provider's",
        lambda c: c.vek.csp_id if c.vek is not None else None,
        Words(),
        '{ skip = "a VCEK names a chip and no provider" }',
        spec=f"{_KDS} 3.1",
    ),
    _rule(
        "chip_id",
        "the chip is an accepted one",
        lambda c: c.report.chip_id,
        Digests(64),
        '{ skip = "any genuine chip is accepted" }',
    ),
    _rule(
        "masked_chip_id",
        "a report that a VCEK signed names its chip",
        lambda c: c.vek is not None and c.vek.hwid is not None and _is_masked(c.report),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
    ),
    _rule("vmpl", "the report was asked for at an accepted VMPL", lambda c: c.report.vmpl, Numbers(3), "[0]", OneOf(0)),
    _rule(
        "guest_policy.debug",
        "the guest cannot be debugged",
        _policy_bit("debug"),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
        _POLICY_SPEC,
    ),
    _rule(
        "guest_policy.migrate_ma",
        "the guest cannot have a migration agent",
        _policy_bit("migrate_ma"),
        _FLAG,
        _FORBIDDEN,
        OneOf(False),
        _POLICY_SPEC,
    ),
    _rule(
        "guest_policy.smt",
        "whether the guest may run with SMT",
        _policy_bit("smt"),
        _FLAG,
        '{ skip = "clouds run with SMT" }',
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.single_socket",
        "whether the guest runs on one socket only",
        _policy_bit("single_socket"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.cxl",
        "whether CXL devices and memory may be there",
        _policy_bit("cxl"),
        _FLAG,
        _FORBIDDEN,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.mem_aes_256_xts",
        "whether memory must be encrypted with AES-256-XTS",
        _policy_bit("mem_aes_256_xts"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.rapl_dis",
        "whether power limits must not be readable",
        _policy_bit("rapl_dis"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.ciphertext_hiding_dram",
        "whether ciphertext must be hidden from the host",
        _policy_bit("ciphertext_hiding_dram"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.page_swap_disable",
        "whether pages must not be swapped",
        _policy_bit("page_swap_disable"),
        _FLAG,
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "guest_policy.abi",
        "the guest asks for this firmware ABI",
        lambda c: (c.report.policy >> 8 & 0xFF, c.report.policy & 0xFF),
        MinimumVersion(2),
        _ANY,
        spec=_POLICY_SPEC,
    ),
    _rule(
        "firmware.version",
        "the firmware's API, current and committed, is new enough",
        _firmware,
        MinimumVersion(2),
        '"1.55"',
    ),
    _rule(
        "firmware.build",
        "the firmware's build, current and committed, is new enough",
        lambda c: min(c.report.current_build, c.report.committed_build),
        Minimum(255),
        '{ skip = "builds are counted anew for each version; the TCB minima are what matters" }',
    ),
    _rule(
        "firmware.provisional",
        "whether the current firmware can be rolled back",
        _is_provisional,
        _FLAG,
        _FORBIDDEN,
        spec=f"{_ABI} 3.3",
    ),
    _rule(
        "tcb.reported",
        "the reported TCB is new enough",
        lambda c: _tcb(c.report.reported_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.current",
        "the current TCB is new enough",
        lambda c: _tcb(c.report.current_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.committed",
        "the committed TCB is new enough",
        lambda c: _tcb(c.report.committed_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "tcb.launch",
        "the TCB at the guest's launch was new enough",
        lambda c: _tcb(c.report.launch_tcb, c.product),
        _TCB_GRAMMAR,
        None,
    ),
    _rule(
        "platform_info.smt",
        "whether SMT is on",
        _platform_bit("smt"),
        _FLAG,
        '{ skip = "clouds run with SMT" }',
        spec=_PLATFORM_SPEC,
    ),
    _rule("platform_info.tsme", "whether TSME is on", _platform_bit("tsme"), _FLAG, _ANY, spec=_PLATFORM_SPEC),
    _rule(
        "platform_info.ecc",
        "whether memory has ECC",
        _platform_bit("ecc"),
        _FLAG,
        _REQUIRED,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.rapl_dis",
        "whether power limits are unreadable",
        _platform_bit("rapl_dis"),
        _FLAG,
        _ANY,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.ciphertext_hiding_dram",
        "whether ciphertext is hidden from the host",
        _platform_bit("ciphertext_hiding_dram"),
        _FLAG,
        _ANY,
        spec=_PLATFORM_SPEC,
    ),
    _rule(
        "platform_info.alias_check_complete",
        "whether memory was checked for aliases",
        _platform_bit("alias_check_complete"),
        _FLAG,
        _REQUIRED,
        spec=f"{_PLATFORM_SPEC}, AMD-SB-3015",
    ),
    _rule("platform_info.tio", "whether trusted I/O is on", _platform_bit("tio"), _FLAG, _ANY, spec=_PLATFORM_SPEC),
    _rule(
        "platform_info.others",
        "no platform bit without a public name is set, or these are",
        _other_platform_bits,
        WordsOrFewer(),
        '{ skip = "Turin sets bit 6, which has no public name" }',
        spec=_PLATFORM_SPEC,
    ),
    _rule("family_id", "the guest's family", lambda c: c.report.family_id, Digests(16), _ANY),
    _rule("image_id", "the guest's image", lambda c: c.report.image_id, Digests(16), _ANY),
    _rule("report_id", "the guest instance", lambda c: c.report.report_id, Digests(32), _ANY),
    _rule("report_id_ma", "the migration agent's instance", lambda c: c.report.report_id_ma, Digests(32), _ANY),
    _rule("host_data", "what the host passed in at launch", lambda c: c.report.host_data, Digests(32), _ANY),
    _rule("measurement", "the guest's launch measurement", lambda c: c.report.measurement, Digests(48), None),
    _rule(
        "id_block",
        "whether an ID block came with the launch",
        lambda c: c.report.id_key_digest != _NO_DIGEST,
        _FLAG,
        _ANY,
        spec=f"{_ABI} 8.17",
    ),
    _rule("id_key_digest", "the key that signed the ID block", lambda c: c.report.id_key_digest, Digests(48), _ANY),
    _rule(
        "author_key",
        "whether an author key signed the ID key",
        lambda c: c.report.key_info & 1 != 0,
        _FLAG,
        _ANY,
    ),
    _rule(
        "author_key_digest",
        "the key that signed the ID key",
        lambda c: c.report.author_key_digest,
        Digests(48),
        _ANY,
    ),
    _rule(
        "guest_svn", "the guest's own version is new enough", lambda c: c.report.guest_svn, Minimum(0xFFFFFFFF), _ANY
    ),
    _rule(
        "mitigations.launch",
        "these mitigations were on at launch",
        lambda c: c.report.launch_mit_vector if c.report.version >= 5 else None,
        _Bits(),
        _ANY,
    ),
    _rule(
        "mitigations.current",
        "these mitigations are on",
        lambda c: c.report.current_mit_vector if c.report.version >= 5 else None,
        _Bits(),
        _ANY,
    ),
    _rule(
        "revocation",
        "a current revocation list of the ARK came along",
        lambda c: c.revocation,
        _Revocation(),
        _REQUIRED,
        spec=f"{_KDS} 4.3",
    ),
    _rule(
        "certificate_table",
        "the host's certificate table has no other entries, or these",
        lambda c: c.entries,
        WordsOrFewer(),
        "[]",
        spec="AMD 56421 4.1.8.1",
    ),
    _rule(
        "report_data",
        "the report answers the caller",
        lambda c: c.report.report_data,
        Freshness(64),
        '"from-caller"',
    ),
)

JUDGE = Judge(section="snp", examine=_examine, rules=RULES)
