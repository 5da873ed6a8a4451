# SPDX-License-Identifier: Apache-2.0
"""Judge Intel TDX quotes.

What makes a quote authentic is in `enarx.verifier.dcap`; what can be asked of the platform is in `enarx.verifier.dcap_rules`.
Here is what concerns the TDX module and the trust domain.

Source: Intel TDX Module ABI (TDREPORT), Intel TDX DCAP Quoting Library API, Intel PCS API 4 (TDX module identities).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from enarx.abi.quote import TdReport, TdxQuote
from enarx.rats import Check, Concern, Endorsements, OneOf
from enarx.verifier.collateral import Collateral
from enarx.verifier.dcap import Standing, examine_quote, make_dcap_checks, mask_bytes
from enarx.verifier.dcap_rules import MaskedDigests, MinimumBytes, RuleMaker, make_platform_rules
from enarx.verifier.grammar import Digests, Flag, Freshness
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Setting
from enarx.verifier.tcb import TcbStanding, find_module_identity, module_version

__all__ = ["JUDGE", "RULES", "TdxClaims", "TdxEvidence"]

_CHECKS = make_dcap_checks("tdx")
_SPEC = "Intel PCS API 4, TDX module identities"
_MODULE_KNOWN = Check("tdx.module.known", "Intel knows the TDX module's version", Concern.AUTHENTICITY, _SPEC)
_MODULE_SIGNER = Check("tdx.module.mr_signer", "the TDX module's signer is as Intel says", Concern.AUTHENTICITY, _SPEC)
_MODULE_ATTRIBUTES = Check(
    "tdx.module.attributes", "the TDX module's attributes are zero and as Intel says", Concern.AUTHENTICITY, _SPEC
)
_MODULE_LEVEL = Check("tdx.module.tcb_level", "Intel has a TCB level for the TDX module", Concern.AUTHENTICITY, _SPEC)

_CURRENT_LEVEL = Check(
    "tdx.tcb.current_level", "Intel has TCB levels for what runs now", Concern.AUTHENTICITY, "Intel PCS API 4"
)

_EVENT_LOG = Check(
    "tdx.event_log.replay",
    "the event logs that came along replay to the RTMRs",
    Concern.AUTHENTICITY,
    "TCG PFP 1.06 10.2; UEFI 2.10 section 38",
)

_NO_SERVICE_TD = bytes(48)
_DIGEST = Digests(48)
_UNUSED = '["' + "00" * 48 + '"]'


class TdxEvidence(NamedTuple):
    """A decoded quote."""

    quote: TdxQuote


class TdxClaims(NamedTuple):
    """What a trust domain's quote says, and what Intel says about its platform."""

    quote: TdxQuote
    standing: Standing

    @property
    def mr_service_td(self) -> bytes:
        """The digest of the bound service domains; zero where a TDX 1.0 report cannot tell of any."""
        return self.quote.report.mr_service_td or _NO_SERVICE_TD

    def named(self) -> Mapping[str, object]:
        """Return the claims by Intel's names in lower case."""
        header, report = self.quote.header, self.quote.report
        claims: dict[str, object] = {
            "tee": "TDX",
            "ver": header.version,
            **self.standing.named(),
            "cert_type": self.quote.signature.certification_type,
            "user_data": header.user_data,
            "report_data": report.report_data,
            "debug": report.debug,
            "sept_ve_disable": report.sept_ve_disable,
            "mr_td": report.mr_td,
            "mr_seam": report.mr_seam,
            "mrsignerseam": report.mr_signer_seam,
            "seam_attributes": report.seam_attributes,
            "td_attributes": report.td_attributes,
            "xfam": report.xfam,
            "mr_config_id": report.mr_config_id,
            "mr_owner": report.mr_owner,
            "mr_owner_config": report.mr_owner_config,
            "rtmr0": report.rtmr0,
            "rtmr1": report.rtmr1,
            "rtmr2": report.rtmr2,
            "rtmr3": report.rtmr3,
            "tee_tcb_svn": report.tee_tcb_svn,
        }
        if self.quote.version > 4:
            claims["bodytype"] = self.quote.body_type
        if report.tee_tcb_svn2 is not None:
            claims |= {"tee_tcb_svn2": report.tee_tcb_svn2, "mr_service_td": report.mr_service_td}
        return claims


def _examine(parsed: TdxEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    quote = parsed.quote
    standing = examine_quote(quote, "TDX", _CHECKS, endorsements, setting, ledger, _record_module)
    if endorsements.event_logs:
        _record_event_logs(quote, endorsements.event_logs, ledger)
    return Examined(
        parts=(Part("tdx", TdxClaims(quote, standing)),),
        tee="tdx",
        tcb_status=standing.tcb_status,
        advisory_ids=standing.advisory_ids or (),
    )


def _record_event_logs(quote: TdxQuote, logs: tuple[bytes, ...], ledger: Ledger) -> None:
    """Replay each log. Registers that a log does not measure into are not compared: the guest may extend them later."""
    from enarx.abi.event_log import parse_event_log_untrusted
    from enarx.verifier.tpm import replay_findings

    report = quote.report
    rtmrs = dict(enumerate((report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3), start=1))
    for data in dict.fromkeys(logs):
        replay_findings(ledger, _EVENT_LOG, parse_event_log_untrusted(data), {"sha384": rtmrs}, "the quote's RTMRs")


def _record_module(report: TdReport, collateral: Collateral, tcb: TcbStanding, ledger: Ledger) -> None:
    """Compare the TDX module with what Intel says about modules of its version; of the report, nothing else is looked at."""
    source = "the TCB info"
    version = module_version(report.tee_tcb_svn)
    identity = find_module_identity(collateral.tcb_info, version)
    ledger.require(
        _MODULE_KNOWN, identity is not None, expected="a version that Intel lists", found=version, source=source
    )
    if report.tee_tcb_svn2 is not None:
        ledger.require(
            _CURRENT_LEVEL,
            tcb.has_current,
            expected="levels at or below the SVNs of what runs now",
            found=report.tee_tcb_svn2,
            source=source,
        )
    if identity is None:
        return
    ledger.require(
        _MODULE_SIGNER,
        report.mr_signer_seam == identity.mr_signer,
        expected=identity.mr_signer,
        found=report.mr_signer_seam,
        source=source,
    )
    attributes = report.seam_attributes
    ledger.require(
        _MODULE_ATTRIBUTES,
        mask_bytes(attributes, identity.attributes_mask) == identity.attributes and not any(attributes),
        expected=identity.attributes,
        found=attributes,
        source=source,
    )
    if version > 0:
        ledger.require(
            _MODULE_LEVEL,
            tcb.module is not None,
            expected="a level at or below the TDX module's SVN" if tcb.module is None else tcb.module.date,
            found=report.tee_tcb_svn[0],
            source=source,
        )


_make = RuleMaker("tdx", "Intel TDX Module ABI, TDREPORT")

RULES = (
    _make("mr_td", "MRTD is one of these", "quote.report.mr_td", _DIGEST),
    _make("rtmr0", "RTMR 0 is one of these", "quote.report.rtmr0", _DIGEST),
    _make("rtmr1", "RTMR 1 is one of these", "quote.report.rtmr1", _DIGEST),
    _make("rtmr2", "RTMR 2 is one of these", "quote.report.rtmr2", _DIGEST),
    _make("rtmr3", "RTMR 3 is one of these", "quote.report.rtmr3", _DIGEST),
    _make("mr_config_id", "MRCONFIGID is one of these", "quote.report.mr_config_id", _DIGEST),
    _make("mr_owner", "MROWNER is one of these", "quote.report.mr_owner", _DIGEST, _UNUSED),
    _make("mr_owner_config", "MROWNERCONFIG is one of these", "quote.report.mr_owner_config", _DIGEST, _UNUSED),
    _make(
        "mr_service_td",
        "no other service domain is bound to the domain",
        "mr_service_td",
        _DIGEST,
        _UNUSED,
        OneOf(_NO_SERVICE_TD),
    ),
    _make("debug", "the domain cannot be debugged", "quote.report.debug", Flag(), '"forbidden"', OneOf(False)),
    _make(
        "sept_ve_disable",
        "the host cannot make the domain handle pages that it took away",
        "quote.report.sept_ve_disable",
        Flag(),
        '"required"',
        OneOf(True),
    ),
    _make("td_attributes", "TDATTRIBUTES are as expected", "quote.report.td_attributes", MaskedDigests(8)),
    _make("xfam", "XFAM is as expected", "quote.report.xfam", MaskedDigests(8)),
    _make(
        "mr_seam",
        "the TDX module is one of these",
        "quote.report.mr_seam",
        _DIGEST,
        '{ skip = "the TCB status covers it" }',
    ),
    _make("mrsignerseam", "the TDX module's signer is Intel", "quote.report.mr_signer_seam", _DIGEST, _UNUSED),
    _make(
        "seam_attributes",
        "the TDX module's attributes are as expected",
        "quote.report.seam_attributes",
        MaskedDigests(8),
        '["0000000000000000"]',
    ),
    _make(
        "tee_tcb_svn",
        "the SVNs of TDX are high enough",
        "quote.report.tee_tcb_svn",
        MinimumBytes(16),
        '{ skip = "the TCB status covers it" }',
    ),
    _make("report_data", "the report data is the caller's", "quote.report.report_data", Freshness(64), '"from-caller"'),
    *make_platform_rules("tdx", strict_statuses='["UpToDate"]', strict_advisories="[]"),
)
"""The appraisal's rules, one for each key of the section."""

JUDGE = Judge(section="tdx", examine=_examine, rules=RULES)
"""How the verifier judges TDX quotes."""
