# SPDX-License-Identifier: Apache-2.0
"""TDX quotes: real ones and their verdicts, the TDX module, and what a policy can ask."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from enarx.errors import DecodeError
from enarx.rats import Outcome, Verdict
from enarx.testing.dcap import TDX, TdReport, make_isv_level, make_tcb_info
from enarx.testing.tpm import make_log
from enarx.verifier.dcap_rules import MaskedDigests
from enarx.verifier.grammar import Grammar
from enarx.verifier.tdx import JUDGE, RULES
from tests.evidence import needs_evidence
from tests.unit.verifier import peer_checks_sgx, peer_checks_tdx
from tests.unit.verifier.dcap_corpus import check_case, quote_cases
from tests.unit.verifier.dcap_judging import BODIES, PLATFORM, SVN, judge, not_passed
from tests.unit.verifier.test_sgx import POLICY as SGX_POLICY

BODY = BODIES[TDX]
OLDER = replace(PLATFORM, components=tuple(max(svn - 1, 0) for svn in PLATFORM.components))
ASIDE = {"collateral": {"tcb_info": make_tcb_info(TDX, PLATFORM)}, "platform": OLDER}
DEBUG = {"body": replace(BODY, td_attributes=bytes.fromhex("0100001000000000"))}
NO_SEPT = {"body": replace(BODY, td_attributes=bytes(8))}
SERVICE = {"body": replace(BODY, mr_service_td=b"\1" * 48)}
OF_PLATFORM = {
    "tcb_status", "advisory_ids", "tcb_evaluation_data_number", "out_of_date_days", "collateral_age_days", "qe_svn", "pce_svn",
    "fmspc", "ppid", "platform_instance_id", "pck_ca", "sgx_type", "dynamic_platform", "cached_keys", "smt",
}  # fmt: skip

POLICY = [
    *((key, accepts, refuses, ASIDE if "collateral" in changes else changes) for key, accepts, refuses, changes in SGX_POLICY if key in OF_PLATFORM),
    ("mr_td", ["d2" * 48], ["d1" * 48], {}),
    ("rtmr0", ["01" * 48], ["02" * 48], {}),
    ("rtmr1", ["02" * 48], ["01" * 48], {}),
    ("rtmr2", ["03" * 48], ["01" * 48], {}),
    ("rtmr3", ["00" * 48], ["01" * 48], {}),
    ("mr_config_id", ["00" * 48], ["01" * 48], {}),
    ("mr_owner", ["00" * 48], ["01" * 48], {}),
    ("mr_owner_config", ["00" * 48], ["01" * 48], {}),
    ("mr_service_td", ["00" * 48], ["01" * 48], {}),
    ("mr_service_td", ["01" * 48], ["00" * 48], SERVICE),
    ("debug", "forbidden", "required", {}),
    ("debug", "required", "forbidden", DEBUG),
    ("sept_ve_disable", "required", "forbidden", {}),
    ("sept_ve_disable", "forbidden", "required", NO_SEPT),
    ("td_attributes", ["0000001000000000"], ["0000000000000000"], {}),
    ("td_attributes", ["0000001000000000/000000ff00000000"], ["0000000000000000/0000001000000000"], {}),
    ("xfam", ["e702060000000000"], ["e700060000000000"], {}),
    ("mr_seam", ["d1" * 48], ["d2" * 48], {}),
    ("mrsignerseam", ["00" * 48], ["01" * 48], {}),
    ("seam_attributes", ["00" * 8], ["01" * 8], {}),
    ("tee_tcb_svn", SVN.hex(), bytes([6, 1, 5]).ljust(16, b"\0").hex(), {}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "accepts", "refuses", "changes"), POLICY)
def test_a_policy_accepts_and_refuses(key, accepts, refuses, changes):
    if accepts is not None:
        result = judge("TDX", policy={key: accepts}, **changes)
        assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]
    if refuses is not None and refuses != accepts:
        result = judge("TDX", policy={key: refuses}, **changes)
        assert (result.verdict, not_passed(result)) == (Verdict.REFUSED, {key})


def test_every_rule_is_tried():
    assert {f"tdx.{key}" for key, *_ in POLICY} | {"tdx.report_data"} == {rule.key for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_grammar_refuses_what_it_does_not_have(rule):
    assert isinstance(rule.grammar, Grammar)
    for value in (None, 1.5, {}, "nonsense", ["nonsense", 1], 1 << 64, [[]]):
        with pytest.raises(ValueError, match="found"):
            rule.grammar.decode(value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (["00/00/00"], "want a list of 8-byte values"),
        (["00" * 8 + "/" + "00" * 8], "empty mask"),
        (["01" * 8 + "/" + "02" * 8], "its mask leaves out"),
        (["00" * 7], "want a list of 8-byte values"),
        ([], "at least one"),
    ],
)
def test_refuses_a_mask_that_makes_no_sense(value, what):
    with pytest.raises(ValueError, match=what):
        MaskedDigests(8).decode(value)


def test_without_a_policy_what_lets_the_host_in_is_refused():
    for changes, key in ((DEBUG, "debug"), (NO_SEPT, "sept_ve_disable"), (SERVICE, "mr_service_td")):
        result = judge("TDX", **changes)
        assert (result.verdict, not_passed(result)) == (Verdict.REFUSED, {key})
    skipped = {finding.check.id for finding in judge("TDX").findings if finding.outcome is Outcome.SKIPPED}
    assert skipped == {rule.key for rule in RULES} - {"tdx.debug", "tdx.sept_ve_disable", "tdx.mr_service_td"}


def test_a_tdx_1_0_report_tells_of_no_service_domain():
    assert judge("TDX", body=TdReport()).verdict is Verdict.ACCEPTED


def test_compares_the_report_data_that_the_caller_expects():
    body = replace(BODY, report_data=b"nonce".ljust(64, b"\0"))
    assert judge("TDX", body=body, report_data=b"nonce").verdict is Verdict.ACCEPTED
    assert not_passed(judge("TDX", body=body, report_data=b"another")) == {"report_data"}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"mr_signer_seam": b"\1" * 48}, "module.mr_signer"),
        ({"seam_attributes": b"\1" + bytes(7)}, "module.attributes"),
        ({"tee_tcb_svn": bytes([6, 2, 4]).ljust(16, b"\0")}, "module.known"),
        ({"tee_tcb_svn": bytes([3, 1, 4]).ljust(16, b"\0")}, "module.tcb_level"),
        ({"tee_tcb_svn2": bytes([6, 2, 4]).ljust(16, b"\0")}, "tcb.current_level"),
    ],
)
def test_refuses_a_tdx_module_that_intel_does_not_describe(change, finding):
    result = judge("TDX", body=replace(BODY, **change))
    assert (result.verdict, not_passed(result)) == (Verdict.NOT_AUTHENTIC, {finding})


def test_advises_a_relaunch_after_an_update_of_the_module():
    body = replace(BODY, tee_tcb_svn=bytes([4, 1, 4]).ljust(16, b"\0"))
    result = judge("TDX", body=body)
    assert (result.verdict, result.tcb_status) == (Verdict.ACCEPTED, "TDRelaunchAdvised")
    assert set(result.advisory_ids) == {"INTEL-SA-90003", "INTEL-SA-90001"}
    assert not_passed(judge("TDX", body=body, policy={"tcb_status": ["UpToDate"]})) == {"tcb_status"}


def test_a_revoked_module_revokes_the_platform():
    info = make_tcb_info(TDX, PLATFORM)
    info["tdxModuleIdentities"][1]["tcbLevels"] = [make_isv_level(1, "Revoked")]
    assert not_passed(judge("TDX", collateral={"tcb_info": info})) == {"tcb.revoked"}


def _ccel(*measured, bank="sha384"):
    """Return a log and the RTMRs that it replays to; each of `measured` is a register of the log."""
    events, rtmrs = [], [bytes(48)] * 4
    for register in measured:
        digest = hashlib.new(bank, bytes([register])).digest()
        events.append((register, 5, {bank: digest}, bytes([register])))
        rtmrs[register - 1] = hashlib.sha384(rtmrs[register - 1] + digest).digest()
    return make_log([bank], events, register=1), tuple(rtmrs)


def test_accepts_event_logs_that_replay_to_the_rtmrs():
    log, rtmrs = _ccel(1, 2, 1, 3)
    # The guest extends RTMR 3 itself, without a log.
    body = replace(BODY, rtmrs=(*rtmrs[:3], b"\7" * 48))
    result = judge("TDX", body=body, event_logs=(log, log))
    assert result.verdict is Verdict.ACCEPTED
    (finding,) = [each for each in result.findings if each.check.id == "tdx.event_log.replay"]
    assert (finding.outcome, finding.found) == (Outcome.PASSED, "3 registers equal")


def test_refuses_an_event_log_that_does_not_replay_to_the_rtmrs():
    log, rtmrs = _ccel(1, 2, 3, 4)
    assert judge("TDX", body=replace(BODY, rtmrs=rtmrs), event_logs=(log,)).verdict is Verdict.ACCEPTED
    for changed in range(4):
        others = tuple(b"\1" * 48 if index == changed else rtmr for index, rtmr in enumerate(rtmrs))
        result = judge("TDX", body=replace(BODY, rtmrs=others), event_logs=(log,))
        assert (result.verdict, not_passed(result)) == (Verdict.NOT_AUTHENTIC, {"event_log.replay"})
        assert f"sha384:{changed + 1}" in result.failures[0].line


def test_one_log_that_replays_does_not_excuse_another():
    log, rtmrs = _ccel(1, 2)
    result = judge("TDX", body=replace(BODY, rtmrs=rtmrs), event_logs=(log, _ccel(1)[0], _ccel(2, 2)[0]))
    assert not_passed(result) == {"event_log.replay"}


def test_a_log_of_another_bank_says_nothing_of_rtmrs():
    result = judge("TDX", event_logs=(_ccel(1, bank="sha256")[0],))
    assert result.verdict is Verdict.ACCEPTED
    assert Outcome.NOTED in {each.outcome for each in result.findings if each.check.id == "tdx.event_log.replay"}


def test_an_event_log_that_is_none_is_a_decode_error():
    with pytest.raises(DecodeError, match="event log"):
        judge("TDX", event_logs=(b"\1" * 8,))


@needs_evidence
@pytest.mark.parametrize("case", quote_cases("tdx"), ids=lambda case: case["id"])
def test_gives_real_quotes_their_verdict(case):
    check_case(case)


def test_every_check_of_a_peer_has_its_finding():
    log, rtmrs = _ccel(1)
    result = judge("TDX", body=replace(BODY, rtmrs=rtmrs), event_logs=(log,))
    made = {finding.check.id for finding in result.findings} | {"tdx.pck_chain.present", "tdx.collateral.present"}
    peer_checks_sgx.check(peer_checks_tdx.PEER_CHECKS, made)
    assert JUDGE.section == "tdx"
