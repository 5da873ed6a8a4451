# SPDX-License-Identifier: Apache-2.0
"""Apply a policy's expectations to claims, the same way for every TEE."""

from __future__ import annotations

from enarx.rats import AppraisalPolicy, Finding, FromCaller, Outcome, Skip
from enarx.verifier.grammar import Freshness
from enarx.verifier.ledger import Judge, Ledger, Part, Setting

__all__ = ["apply_rules"]


def apply_rules(judge: Judge, part: Part, policy: AppraisalPolicy, setting: Setting, ledger: Ledger) -> None:
    """Record a finding for each rule.

    What the caller expects as the freshness value is compared whatever the policy says about it.

    Args:
        judge: whose rules.
        part: with claims that are authentic or not; the verdict counts the other findings too.
        policy: has every key of this judge's section.
        setting: for the freshness value.
        ledger: receives the findings.
    """
    expectations, claims, append = policy.expectations, part.claims, ledger.findings.append
    source, given, elsewhere = f"policy {policy.name}: ", setting.report_data, part.freshness
    passed, failed, skipped, undecided = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.UNDECIDED
    is_asked = given is not None or elsewhere is not None
    # This loop is most of what a verdict costs beside its signatures, so it looks up nothing twice.
    for key, check, read, grammar, _, _ in judge.rules:
        expectation, found = expectations[key], read(claims)
        if is_asked and isinstance(grammar, Freshness):
            if elsewhere is not None:
                ledger.note(check, found, elsewhere)
            elif given is not None:
                holds = grammar.meets(found, given)
                ledger.require(check, holds, expected=given, found=found, source="the caller's expectation")
        elif type(expectation) is Skip:
            append(Finding(check, skipped, expectation, found, source + key))
        elif type(expectation) is FromCaller or found is undecided:
            append(Finding(check, undecided, expectation, found, source + key))
        else:
            append(Finding(check, passed if expectation.holds(found) else failed, expectation, found, source + key))
