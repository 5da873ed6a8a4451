# SPDX-License-Identifier: Apache-2.0
"""Judge Intel SGX quotes.

What makes a quote authentic is in `enarx.verifier.dcap`; what can be asked of the platform is in `enarx.verifier.dcap_rules`.
Here is what can be asked of the enclave.

Source: Intel SDM volume 3D (REPORT), Intel SGX ECDSA Quote Library Reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from enarx.abi.quote import SgxQuote
from enarx.rats import Endorsements, OneOf
from enarx.verifier.dcap import Standing, examine_quote, make_dcap_checks
from enarx.verifier.dcap_rules import MaskedDigests, RuleMaker, make_platform_rules
from enarx.verifier.grammar import Digests, Flag, Freshness, Minimum, Numbers
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Setting

__all__ = ["JUDGE", "RULES", "SgxClaims", "SgxEvidence"]

_CHECKS = make_dcap_checks("sgx")
_UNUSED = '{ skip = "only enclaves with key separation and sharing have it" }'


class SgxEvidence(NamedTuple):
    """A decoded quote."""

    quote: SgxQuote


class SgxClaims(NamedTuple):
    """What an enclave's quote says, and what Intel says about its platform."""

    quote: SgxQuote
    standing: Standing

    def named(self) -> Mapping[str, object]:
        """Return the claims by Intel's names in lower case."""
        header, report = self.quote.header, self.quote.report
        return {
            "tee": "SGX",
            "ver": header.version,
            **self.standing.named(),
            "cert_type": self.quote.signature.certification_type,
            "user_data": header.user_data,
            "report_data": report.report_data,
            "debug": report.debug,
            "mr_enclave": report.mr_enclave,
            "mr_signer": report.mr_signer,
            "isv_prod_id": report.isv_prod_id,
            "isv_svn": report.isv_svn,
            "isv_ext_prod_id": report.isv_ext_prod_id,
            "isv_family_id": report.isv_family_id,
            "attributes": report.attributes,
            "cpu_svn": report.cpu_svn,
            "misc_select": report.misc_select,
            "config_id": report.config_id,
            "config_svn": report.config_svn,
        }


def _examine(parsed: SgxEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    standing = examine_quote(parsed.quote, "SGX", _CHECKS, endorsements, setting, ledger)
    return Examined(
        parts=(Part("sgx", SgxClaims(parsed.quote, standing)),),
        tee="sgx",
        tcb_status=standing.tcb_status,
        advisory_ids=standing.advisory_ids or (),
    )


_make = RuleMaker("sgx", "Intel SDM volume 3D, REPORT")

RULES = (
    _make("mr_enclave", "MRENCLAVE is one of these", "quote.report.mr_enclave", Digests(32)),
    _make("mr_signer", "MRSIGNER is one of these", "quote.report.mr_signer", Digests(32)),
    _make("isv_prod_id", "ISVPRODID is one of these", "quote.report.isv_prod_id", Numbers(0xFFFF)),
    _make("isv_svn", "ISVSVN is high enough", "quote.report.isv_svn", Minimum(0xFFFF)),
    _make("debug", "the enclave cannot be debugged", "quote.report.debug", Flag(), '"forbidden"', OneOf(False)),
    _make("attributes", "ATTRIBUTES are as expected", "quote.report.attributes", MaskedDigests(16)),
    _make("misc_select", "MISCSELECT is as expected", "quote.report.misc_select", MaskedDigests(4)),
    _make("config_id", "CONFIGID is one of these", "quote.report.config_id", Digests(64), _UNUSED),
    _make("config_svn", "CONFIGSVN is high enough", "quote.report.config_svn", Minimum(0xFFFF), _UNUSED),
    _make("isv_ext_prod_id", "ISVEXTPRODID is one of these", "quote.report.isv_ext_prod_id", Digests(16), _UNUSED),
    _make("isv_family_id", "ISVFAMILYID is one of these", "quote.report.isv_family_id", Digests(16), _UNUSED),
    _make("report_data", "the report data is the caller's", "quote.report.report_data", Freshness(64), '"from-caller"'),
    *make_platform_rules(
        "sgx",
        strict_statuses='["UpToDate", "SWHardeningNeeded"]',
        strict_advisories='{ skip = "what software must harden against depends on the processor" }',
    ),
)
"""The appraisal's rules, one for each key of the section."""

JUDGE = Judge(section="sgx", examine=_examine, rules=RULES)
"""How the verifier judges SGX quotes."""
