# SPDX-License-Identifier: Apache-2.0
"""Attestation results of each verdict, with nothing behind them."""

from __future__ import annotations

from datetime import UTC, datetime

from enarx.rats import AttestationResult, Check, Concern, Finding, Outcome

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Nothing:
    """Claims of nobody."""

    def named(self):
        return {}


def result(*outcomes, concern=Concern.APPRAISAL, at=AT, **facts):
    """Return a result with one finding for each outcome."""
    findings = tuple(
        Finding(Check(f"snp.check{number}", "something", concern, "nowhere"), outcome, number, 99, "policy")
        for number, outcome in enumerate(outcomes)
    )
    return AttestationResult(tee="snp", subject=Nothing(), findings=findings, at=at, policy_name="policy.toml", **facts)


def accepted_result(**facts):
    return result(Outcome.PASSED, **facts)


def refused_result(**facts):
    return result(Outcome.PASSED, Outcome.FAILED, Outcome.FAILED, **facts)


def forged_result(**facts):
    return result(Outcome.FAILED, concern=Concern.AUTHENTICITY, **facts)


def undecided_result(**facts):
    return result(Outcome.UNDECIDED, **facts)
