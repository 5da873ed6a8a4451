# SPDX-License-Identifier: Apache-2.0
"""Apply a policy's expectations to claims, the same way for every TEE.

A policy is worked out once into a plan, what to read and what to hold it against, and the plan is kept with the policy. Going
over it is much of what a verdict costs beside its signatures, so it goes over one column at a time, looks up nothing twice and
makes its findings all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

from enarx.errors import UsageError
from enarx.rats import AppraisalPolicy, Check, Expectation, Finding, FromCaller, OneOf, Outcome, Skip
from enarx.verifier.grammar import Freshness
from enarx.verifier.ledger import Judge, Ledger, Part, Setting, make_findings

__all__ = ["apply_rules"]

_PASSED, _FAILED, _SKIPPED, _UNDECIDED = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.UNDECIDED


class _Plan(NamedTuple):
    """The rules of one section under one policy, column by column.

    Args:
        reads: the rules'.
        checks: likewise.
        outcomes: what each comes to that no test says otherwise of: skipped where the policy skips it, else passed.
        expectations: the policy's.
        sources: for findings.
        tests: of the expectations that are not skipped, each with the number of its rule.
        freshness: of the rules whose value the caller may give, each with its number.
    """

    reads: tuple[Callable[[Any], object], ...]
    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]
    expectations: tuple[Expectation, ...]
    sources: tuple[str, ...]
    tests: tuple[tuple[int, Callable[[Any], bool]], ...]
    freshness: tuple[tuple[int, Freshness], ...]


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
    reads, checks, usual, expectations, sources, tests, freshness = plan
    claims = part.claims
    found, outcomes = [read(claims) for read in reads], [*usual]
    for number, holds in tests:
        value = found[number]
        if value is _UNDECIDED:
            outcomes[number] = _UNDECIDED
        elif not holds(value):
            outcomes[number] = _FAILED
    findings = make_findings(zip(checks, outcomes, expectations, found, sources, repeat(None)))
    for number, grammar in freshness:
        findings[number] = _judge_freshness(grammar, findings[number], part, setting)
    ledger.findings += findings


def _make_plan(judge: Judge, policy: AppraisalPolicy) -> _Plan:
    rules = judge.rules
    missing = next((rule.key for rule in rules if rule.key not in policy.expectations), None)
    if missing is not None:
        raise UsageError(f"cannot apply the policy {policy.name}: {missing}: found no expectation, want one, or a Skip")
    expectations = tuple(policy.expectations[rule.key] for rule in rules)
    return _Plan(
        reads=tuple(rule.read for rule in rules),
        checks=tuple(rule.check for rule in rules),
        outcomes=tuple(_SKIPPED if isinstance(each, Skip) else _PASSED for each in expectations),
        expectations=expectations,
        sources=tuple(f"policy {policy.name}: {rule.key}" for rule in rules),
        tests=tuple((number, _test_of(each)) for number, each in enumerate(expectations) if not isinstance(each, Skip)),
        freshness=tuple(
            (number, each.grammar) for number, each in enumerate(rules) if isinstance(each.grammar, Freshness)
        ),
    )


def _test_of(expectation: Expectation) -> Callable[[Any], bool]:
    """Return what tells whether a claim is as expected."""
    if type(expectation) is OneOf and None not in expectation.values:
        # The same, without a call of Python's.
        return expectation.values.__contains__
    return expectation.holds


def _judge_freshness(grammar: Freshness, usual: Finding, part: Part, setting: Setting) -> Finding:
    """Return the finding about the value that the caller may give, in place of the one that any other rule would have."""
    given, found = setting.report_data, usual.found
    is_callers = isinstance(usual.expected, FromCaller)
    if part.freshness is not None and (given is not None or is_callers):
        return Finding(usual.check, Outcome.NOTED, None, found, part.freshness)
    if given is not None:
        outcome = _PASSED if grammar.meets(found, given) else _FAILED
        return Finding(usual.check, outcome, given, found, "the caller's expectation")
    return usual._replace(outcome=_UNDECIDED) if is_callers else usual
