# SPDX-License-Identifier: Apache-2.0
"""How the verifiers of all TEEs write down what they find, and what each of them is given.

A verifier does not stop at the first failure: it records it and goes on with what can still be said, so that a person sees
everything at once. Nothing is believed because a later check passed: the verdict is computed from all findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, NamedTuple

from enarx.rats import Check, Claims, Endorsements, Expectation, Finding, Outcome, TrustAnchors
from enarx.verifier.cache import TrustCache
from enarx.verifier.grammar import Grammar

__all__ = ["Examined", "Judge", "Ledger", "Part", "Rule", "Setting", "make_findings"]

# To look these up in their class for each finding takes as long as to make it.
_PASSED, _FAILED, _UNDECIDED, _NOTED = Outcome.PASSED, Outcome.FAILED, Outcome.UNDECIDED, Outcome.NOTED
# So does the constructor of a named tuple, beside that of the tuple in it.
_make = tuple.__new__


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything a verdict depends on besides evidence, endorsements and policy.

    Args:
        at: the time to judge for, aware UTC.
        anchors: whom the relying party believes.
        cache: what was worked out before.
        report_data: what the caller wants to find as the evidence's freshness value, or None.
    """

    at: datetime
    anchors: TrustAnchors
    cache: TrustCache = field(default_factory=TrustCache)
    report_data: bytes | None = None


class Ledger:
    """The findings so far, the chains of trust they rest on, and until when the endorsements that were used are valid.

    Attributes:
        chains: each the names of certificates from the trust anchor down, then what the last of them signs.
    """

    __slots__ = ("chains", "findings", "valid_until")

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.chains: list[tuple[str, ...]] = []
        self.valid_until: datetime | None = None

    def require(
        self, check: Check, passed: bool, *, expected: object, found: object, source: str, anchor: str | None = None
    ) -> bool:
        """Record a check that was made, and return whether it passed."""
        self.findings.append(_make(Finding, (check, _PASSED if passed else _FAILED, expected, found, source, anchor)))
        return passed

    def doubt(self, check: Check, *, expected: object, found: object, source: str) -> None:
        """Record a check that cannot be made for want of something."""
        self.findings.append(_make(Finding, (check, _UNDECIDED, expected, found, source, None)))

    def note(self, check: Check, found: object, source: str = "") -> None:
        """Record a value of which nothing is expected."""
        self.findings.append(_make(Finding, (check, _NOTED, None, found, source, None)))

    def limit(self, until: datetime) -> None:
        """Say that something the verdict rests on ends at a time."""
        if self.valid_until is None or until < self.valid_until:
            self.valid_until = until


def make_findings(rows: Iterable[tuple[Check, Outcome, object, object, str, str | None]]) -> list[Finding]:
    """Return a finding for each row, which has a finding's fields in their order."""
    return [*map(_make, repeat(Finding), rows)]


class Rule(NamedTuple):
    """One key of an appraisal policy, and the claim it is about.

    Args:
        key: in the policy: `snp.guest_policy.debug`.
        check: which findings it makes.
        read: returns the claim's value, None where this evidence does not have it, or `Outcome.UNDECIDED` where an
            endorsement that would tell did not come along.
        grammar: how its value is written in a policy.
        strict: what `policy init` writes, as TOML; None where it has to come from a reference value.
        baseline: what is expected where no policy is given.
    """

    key: str
    check: Check
    read: Callable[[Any], object]
    grammar: Grammar
    strict: str | None
    baseline: Expectation


class Part(NamedTuple):
    """One claims set of the evidence; composite evidence has several.

    Args:
        section: of the policy that appraises it.
        claims: what the rules read.
        freshness: None where the caller's freshness value belongs in these claims; else where it is instead, for findings.
    """

    section: str
    claims: Claims
    freshness: str | None = None


class Examined(NamedTuple):
    """What came out of looking at one piece of evidence.

    Args:
        parts: at least one.
        tee: as `AttestationResult.tee`.
        tcb_status: Intel's word for the platform, or None.
        advisory_ids: that apply.
        emulated: whether it rests on an emulated platform's root.
    """

    parts: tuple[Part, ...]
    tee: str
    tcb_status: str | None = None
    advisory_ids: tuple[str, ...] = ()
    emulated: bool = False

    @property
    def claims(self) -> Claims:
        """The claims of the only part, or of all parts by section."""
        return self.parts[0].claims if len(self.parts) == 1 else _Composite(self.parts)


class _Composite:
    """The claims of several parts as one."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._parts = parts

    def named(self) -> Mapping[str, object]:
        """Return each part's claims under its section."""
        return {part.section: part.claims.named() for part in self._parts}


class Judge(NamedTuple):
    """How one kind of evidence is judged.

    Args:
        section: of the policy, which is also the first word of its rules' keys.
        examine: makes the authenticity findings about parsed evidence. It may raise DecodeError for endorsements that are not well formed, and
            nothing else.
        rules: the appraisal's, over the claims of a `Part` of this section.
    """

    section: str
    examine: Callable[[Any, Endorsements, Setting, Ledger], Examined]
    rules: tuple[Rule, ...]
