# SPDX-License-Identifier: Apache-2.0
"""Judge evidence of a fake Intel, with one thing made different at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

from enarx.rats import AppraisalPolicy, Endorsements, Evidence, Outcome, TrustAnchors
from enarx.testing.dcap import AT, SGX, TDX, EnclaveReport, FakeIntel, Platform, TdReport
from enarx.verifier import TrustCache, verify_evidence
from enarx.verifier.registry import judge_of

TEES = (SGX, TDX)
SVN = bytes([6, 1, 4]).ljust(16, b"\0")
BODIES = {SGX: EnclaveReport(), TDX: TdReport(tee_tcb_svn2=SVN)}
PLATFORM = Platform()


@cache
def intel(name: str = "test") -> FakeIntel:
    """Return a fake Intel, made once."""
    return FakeIntel(name)


def judge(tee: str, **changes: Any):
    """Judge a quote that is accepted unless something is changed.

    Args:
        tee: `SGX` or `TDX`.
        changes: `body`, `platform`, `quote` (arguments of `make_quote`), `data` (the quote itself), `collateral` (arguments of
            `make_collateral`), `sets` (the sets themselves), `certificates`, `event_logs`, `at`, `roots`, `cache`, `policy` (TOML values by the
            last part of their keys), `report_data`.
    """
    platform = changes.get("platform", PLATFORM)
    data = changes.get("data")
    if data is None:
        data = intel().make_quote(changes.get("body", BODIES[tee]), platform, **changes.get("quote", {}))
    sets = changes.get("sets")
    if sets is None:
        sets = (intel().make_collateral(tee, platform, **changes.get("collateral", {})),)
    return verify_evidence(
        Evidence(data=data),
        at=changes.get("at", AT),
        endorsements=Endorsements(
            intel=sets, certificates=changes.get("certificates", ()), event_logs=changes.get("event_logs", ())
        ),
        anchors=TrustAnchors(intel=changes.get("roots", (intel().root.der,))),
        policy=policy_of(tee, changes["policy"]) if "policy" in changes else None,
        cache=changes.get("cache", TrustCache()),
        report_data=changes.get("report_data"),
    )


def policy_of(tee: str, values: dict[str, Any]) -> AppraisalPolicy:
    """Return the baseline of a TEE with some keys changed."""
    section = tee.lower()
    expectations = {rule.key: rule.baseline for rule in judge_of(section).rules}
    for rule in judge_of(section).rules:
        name = rule.key.partition(".")[2]
        if name in values:
            expectations[rule.key] = rule.grammar.decode(values[name])
    return AppraisalPolicy(name="test", expectations=expectations, tees=frozenset({section}))


def not_passed(result: Any) -> set[str]:
    """Return the ids, without their section, of the findings that failed or are undecided."""
    return {
        finding.check.id.partition(".")[2]
        for finding in result.findings
        if finding.outcome in {Outcome.FAILED, Outcome.UNDECIDED}
    }
