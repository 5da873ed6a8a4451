# SPDX-License-Identifier: Apache-2.0
"""Apply a policy's expectations to claims, the same way for every TEE.

A policy is worked out once into a plan, what to read and what to hold it against, and the plan is kept with the policy. The loop
over it is most of what a verdict costs beside its signatures, so it looks up nothing twice and makes its findings as plain
tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from enarx.errors import UsageError
from enarx.rats import AppraisalPolicy, Check, Expectation, Finding, FromCaller, OneOf, Outcome, Skip
from enarx.verifier.grammar import Freshness
from enarx.verifier.ledger import Judge, Ledger, Part, Setting

__all__ = ["apply_rules"]

_PASSED, _FAILED, _SKIPPED, _UNDECIDED = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.UNDECIDED


class _Step(NamedTuple):
    """One rule under one policy.

    Args:
        read: the rule's.
        check: likewise.
        expectation: the policy's.
        source: for findings.
        holds: of the expectation; None where the policy skips it.
        freshness: the grammar of a rule whose value the caller may give, else None.
    """

    read: Callable[[Any], object]
    check: Check
    expectation: Expectation
    source: str
    holds: Callable[[Any], bool] | None
    freshness: Freshness | None


def apply_rules(judge: Judge, part: Part, policy: AppraisalPolicy, setting: Setting, ledger: Ledger) -> None:
    """Record a finding for each rule.

    What the caller expects as the freshness value is compared whatever the policy says about it.

    Args:
        judge: whose rules.
        part: with claims that are authentic or not; the verdict counts the other findings too.
        policy: has every key of this judge's section.
        setting: for the freshness value.
        ledger: receives the findings.

    Raises:
        UsageError: the policy lacks a key.
    """
    plan = policy.plans.get(judge.section)
    if plan is None:
        plan = policy.plans[judge.section] = _make_plan(judge, policy)
    claims, append, make = part.claims, ledger.findings.append, tuple.__new__
    for read, check, expectation, source, holds, freshness in plan:
        found = read(claims)
        if freshness is not None:
            _apply_freshness(freshness, check, expectation, source, found, part, setting, ledger)
        elif holds is None:
            append(make(Finding, (check, _SKIPPED, expectation, found, source, None)))
        elif found is _UNDECIDED:
            append(make(Finding, (check, _UNDECIDED, expectation, found, source, None)))
        else:
            append(make(Finding, (check, _PASSED if holds(found) else _FAILED, expectation, found, source, None)))


def _make_plan(judge: Judge, policy: AppraisalPolicy) -> tuple[_Step, ...]:
    missing = next((rule.key for rule in judge.rules if rule.key not in policy.expectations), None)
    if missing is not None:
        raise UsageError(f"cannot apply the policy {policy.name}: {missing}: found no expectation, want one, or a Skip")
    return tuple(
        _Step(
            read=rule.read,
            check=rule.check,
            expectation=(expectation := policy.expectations[rule.key]),
            source=f"policy {policy.name}: {rule.key}",
            holds=_test_of(expectation),
            freshness=rule.grammar if isinstance(rule.grammar, Freshness) else None,
        )
        for rule in judge.rules
    )


def _test_of(expectation: Expectation) -> Callable[[Any], bool] | None:
    """Return what tells whether a claim is as expected, None for what is skipped."""
    if isinstance(expectation, Skip):
        return None
    if type(expectation) is OneOf and None not in expectation.values:
        # The same, without a call of Python's.
        return expectation.values.__contains__
    return expectation.holds


def _apply_freshness(
    grammar: Freshness,
    check: Check,
    expectation: Expectation,
    source: str,
    found: object,
    part: Part,
    setting: Setting,
    ledger: Ledger,
) -> None:
    given = setting.report_data
    if part.freshness is not None and (given is not None or isinstance(expectation, FromCaller)):
        ledger.note(check, found, part.freshness)
    elif given is not None:
        holds = grammar.meets(found, given)
        ledger.require(check, holds, expected=given, found=found, source="the caller's expectation")
    elif isinstance(expectation, Skip):
        ledger.findings.append(Finding(check, _SKIPPED, expectation, found, source))
    elif isinstance(expectation, FromCaller):
        ledger.doubt(check, expected=expectation, found=found, source=source)
    else:
        ledger.require(check, expectation.holds(found), expected=expectation, found=found, source=source)
