# SPDX-License-Identifier: Apache-2.0
"""What a verifier looks at, and what it found.

Rules of this file:

- A `Check` is a constant: it exists once, in the module that makes it, under an id that users may rely on.
- A `Finding` keeps values and not text. Making one costs a tenth of a microsecond, and a verdict has fifty; `render` makes text
  of the values where somebody reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

__all__ = ["Check", "Concern", "Finding", "Outcome", "render"]


class Concern(StrEnum):
    """Which question a check helps to answer; it decides the class of error that a failure is."""

    AUTHENTICITY = "authenticity"
    """Is the evidence what the vendor's hardware signed? A failure is a `VerificationError`."""

    APPRAISAL = "appraisal"
    """Is what it says acceptable to the relying party? A failure is an `AppraisalError`."""


class Outcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"
    """What would decide it is missing or stale: an `EndorsementError`, whatever the concern."""

    SKIPPED = "skipped"
    """The policy says so, with its reason."""

    NOTED = "noted"
    """Nothing was expected; the value is shown because somebody will look for it."""


class Check(NamedTuple):
    """One thing that a verifier looks at.

    Args:
        id: stable and dotted, the TEE first: `snp.report.signature`.
        title: what is true when it passes, as a short sentence without a full stop.
        concern: which question it belongs to.
        spec: document and section that define it.
    """

    id: str
    title: str
    concern: Concern
    spec: str


class Finding(NamedTuple):
    """What became of one check.

    Args:
        check: which.
        outcome: what became of it.
        expected: the value or values wanted, or an `Expectation`; None where nothing was.
        found: the value found, or None where there was none.
        source: where the expectation comes from: `policy: snp.vmpl`, `AMD 56860`, `the ASK's signature`.
        anchor: the trust anchor that the finding rests on, as `subject, SHA-256 of its DER in hex`; None where there is none.
    """

    check: Check
    outcome: Outcome
    expected: object
    found: object
    source: str
    anchor: str | None = None

    @property
    def line(self) -> str:
        """One line for a person: `snp.vmpl failed: found 2, want 0 (policy: snp.vmpl)`."""
        text = f"{self.check.id} {self.outcome}: found {render(self.found)}"
        if self.expected is not None:
            text += f", want {render(self.expected)}"
        return f"{text} ({self.source})" if self.source else text


def render(value: object) -> str:
    """Return a value as people and vendors write it: bytes in hex, times in RFC 3339, sets in order.

    A pair of times is a span, and a short tuple of numbers a version.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return value.hex() or "empty"
    if isinstance(value, str):
        return value or "empty"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, frozenset | set):
        return ", ".join(sorted(render(item) for item in value)) or "empty"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={render(item)}" for name, item in value.items()) or "empty"
    if isinstance(value, tuple) and 2 <= len(value) <= 4:
        if len(value) == 2 and all(isinstance(item, datetime) for item in value):
            return " to ".join(render(item) for item in value)
        if all(type(item) is int for item in value):
            return ".".join(str(item) for item in value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return ", ".join(render(item) for item in value) or "empty"
    return str(value)
