# SPDX-License-Identifier: Apache-2.0
"""SGX quotes: real ones and their verdicts, and what a policy can ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enarx.rats import Outcome, Verdict
from enarx.testing.dcap import SGX, EnclaveReport, Platform, make_tcb_info
from enarx.verifier.sgx import JUDGE, RULES
from tests.evidence import needs_evidence
from tests.unit.verifier import peer_checks_sgx
from tests.unit.verifier.dcap_corpus import check_case, quote_cases
from tests.unit.verifier.dcap_judging import PLATFORM, judge, not_passed

OLDER = replace(PLATFORM, components=tuple(max(svn - 1, 0) for svn in PLATFORM.components))
ASIDE = {"collateral": {"tcb_info": make_tcb_info(SGX, PLATFORM)}, "platform": OLDER}
SINGLE = {"platform": Platform(instance_id=None)}
DEBUG = {"body": EnclaveReport(attributes=bytes.fromhex("0700000000000000e700000000000000"))}

# A key, a value that accepts, a value that refuses, and what is judged.
POLICY = [
    ("mr_enclave", ["e1" * 32], ["e2" * 32], {}),
    ("mr_signer", ["00" * 32, "e2" * 32], ["e1" * 32], {}),
    ("isv_prod_id", [1], [0, 2], {}),
    ("isv_svn", 8, 9, {}),
    ("debug", "forbidden", "required", {}),
    ("debug", "required", "forbidden", DEBUG),
    ("attributes", ["0500000000000000e700000000000000"], ["0500000000000000e600000000000000"], {}),
    ("attributes", ["05" + "00" * 15 + "/" + "ff" * 8 + "00" * 8], ["04" + "00" * 15 + "/" + "ff" * 8 + "00" * 8], {}),
    ("misc_select", ["00000000"], ["01000000"], {}),
    ("config_id", ["00" * 64], ["01" * 64], {}),
    ("config_svn", 0, 1, {}),
    ("isv_ext_prod_id", ["00" * 16], ["01" * 16], {}),
    ("isv_family_id", ["00" * 16], ["01" * 16], {}),
    ("tcb_status", ["UpToDate"], ["SWHardeningNeeded"], {}),
    ("tcb_status", ["UpToDate", "OutOfDate"], ["UpToDate"], ASIDE),
    ("advisory_ids", [], [], {}),
    ("advisory_ids", ["INTEL-SA-90001", "INTEL-SA-90002"], ["INTEL-SA-90001"], ASIDE),
    ("tcb_evaluation_data_number", 20, 21, {}),
    ("out_of_date_days", 1000, 100, ASIDE),
    ("out_of_date_days", 0, None, {}),
    ("collateral_age_days", 14, 13, {}),
    ("qe_svn", 8, 9, {}),
    ("pce_svn", 15, 16, {}),
    ("fmspc", [PLATFORM.fmspc.hex()], ["00" * 6], {}),
    ("ppid", [PLATFORM.ppid.hex()], ["ff" * 16], {}),
    ("platform_instance_id", [PLATFORM.instance_id.hex()], ["ff" * 16], {}),
    ("platform_instance_id", None, [PLATFORM.instance_id.hex()], SINGLE),
    ("pck_ca", ["platform"], ["processor"], {}),
    ("pck_ca", ["processor"], ["platform"], SINGLE),
    ("sgx_type", ["Scalable"], ["Standard"], {}),
    ("dynamic_platform", "required", "forbidden", {}),
    ("cached_keys", "required", "forbidden", {}),
    ("smt", "required", "forbidden", {}),
    ("smt", None, "forbidden", SINGLE),
]


@pytest.mark.parametrize(("key", "accepts", "refuses", "changes"), POLICY)
def test_a_policy_accepts_and_refuses(key, accepts, refuses, changes):
    allowed = {} if key == "debug" or changes is not DEBUG else {"debug": "required"}
    if accepts is not None:
        result = judge("SGX", policy=allowed | {key: accepts}, **changes)
        assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    if refuses is not None and refuses != accepts:
        result = judge("SGX", policy=allowed | {key: refuses}, **changes)
        assert (result.verdict, not_passed(result)) == (Verdict.REFUSED, {key})


def test_every_rule_is_tried():
    assert {f"sgx.{key}" for key, *_ in POLICY} | {"sgx.report_data"} == {rule.key for rule in RULES}


def test_without_a_policy_only_debugging_is_refused():
    assert judge("SGX").verdict is Verdict.ACCEPTED
    result = judge("SGX", **DEBUG)
    assert (result.verdict, not_passed(result)) == (Verdict.REFUSED, {"debug"})
    skipped = {finding.check.id for finding in judge("SGX").findings if finding.outcome is Outcome.SKIPPED}
    assert skipped == {rule.key for rule in RULES} - {"sgx.debug"}


def test_compares_the_report_data_that_the_caller_expects():
    body = EnclaveReport(report_data=b"nonce".ljust(64, b"\0"))
    assert judge("SGX", body=body, report_data=b"nonce").verdict is Verdict.ACCEPTED
    result = judge("SGX", body=body, report_data=b"another")
    assert (result.verdict, not_passed(result)) == (Verdict.REFUSED, {"report_data"})
    result = judge("SGX", body=body, policy={"report_data": "from-caller"})
    assert result.verdict is Verdict.UNDECIDED


@needs_evidence
@pytest.mark.parametrize("case", quote_cases("sgx"), ids=lambda case: case["id"])
def test_gives_real_quotes_their_verdict(case):
    check_case(case)


def test_every_check_of_a_peer_has_its_finding():
    made = {finding.check.id for finding in judge("SGX").findings} | {"sgx.pck_chain.present", "sgx.collateral.present"}
    peer_checks_sgx.check(peer_checks_sgx.PEER_CHECKS, made)
    assert JUDGE.section == "sgx"
