# SPDX-License-Identifier: Apache-2.0
"""Attestation results and claims as text for people. Everything from the evidence is stripped of control characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from enarx.cli.ui import printable
from enarx.rats import AttestationResult, Concern, Finding, Outcome, Verdict, render

__all__ = ["compare", "count_same", "explain", "show_claims", "summarise"]

_MARKS = {
    Outcome.PASSED: "\N{CHECK MARK}",
    Outcome.FAILED: "\N{BALLOT X}",
    Outcome.UNDECIDED: "?",
    Outcome.SKIPPED: "-",
    Outcome.NOTED: " ",
}
_COLOURS = {
    Outcome.PASSED: "32",
    Outcome.FAILED: "31",
    Outcome.UNDECIDED: "33",
    Outcome.SKIPPED: "2",
    Outcome.NOTED: "0",
}
_HEADINGS = {Concern.AUTHENTICITY: "Is it authentic?", Concern.APPRAISAL: "Is it acceptable?"}
_TONES = {Verdict.ACCEPTED: "1;32", Verdict.UNDECIDED: "1;33", Verdict.REFUSED: "1;31", Verdict.NOT_AUTHENTIC: "1;31"}
_WIDTH = 160
# What a verdict rests on is worth more lines, and still not a megabyte of them.
_FAILED_WIDTH = 1000
_BEFORE = 24
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def summarise(
    result: AttestationResult, format_name: str, wrappers: tuple[str, ...] = (), *, colour: bool = False
) -> str:
    """Return the verdict and what it rests on, in a few lines.

    Args:
        result: what the verifier concluded.
        format_name: what the evidence is.
        wrappers: what it came in, the outermost first.
        colour: whether the verdict is coloured.
    """
    counted = {outcome: sum(finding.outcome is outcome for finding in result.findings) for outcome in Outcome}
    inside = f" (in {', in '.join(reversed(wrappers))})" if wrappers else ""
    lines = [f"{_paint(str(result.verdict), _TONES[result.verdict], colour)}: {format_name}{inside}"]
    if result.emulated:
        lines.append("  EMULATED: this platform is software; nothing here protects data in use")
    lines += [f"  trust     {' > '.join(printable(name) for name in chain)}" for chain in result.chains]
    if result.tcb_status is not None:
        advisories = f" ({', '.join(result.advisory_ids)})" if result.advisory_ids else ""
        lines.append(f"  tcb       {printable(result.tcb_status + advisories)}")
    lines.append(f"  policy    {printable(result.policy_name)}")
    until = f", valid until {render(result.valid_until)}" if result.valid_until else ""
    lines.append(f"  time      judged for {render(result.at)}{until}")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in counted.items() if count)
    lines.append(f"  checks    {counts}")
    return "\n".join(lines)


def explain(result: AttestationResult, *, everything: bool, colour: bool) -> str:
    """Return the findings: all of them, or those that the verdict rests on.

    Args:
        result: what the verifier concluded.
        everything: whether those that passed are shown too.
        colour: whether marks are coloured.
    """
    lines: list[str] = []
    for concern in Concern:
        findings = [finding for finding in result.findings if finding.check.concern is concern]
        if not everything:
            findings = [each for each in findings if each.outcome in {Outcome.FAILED, Outcome.UNDECIDED}]
        if findings:
            lines.append(_HEADINGS[concern])
            lines += (line for finding in findings for line in _finding_lines(finding, colour=colour))
    return "\n".join(lines)


def show_claims(claims: Mapping[str, object], indent: str = "") -> str:
    """Return claims, one per line, nested ones indented."""
    return "\n".join(_claim_lines(claims, indent))


def _finding_lines(finding: Finding, *, colour: bool) -> Iterator[str]:
    mark = _paint(_MARKS[finding.outcome], _COLOURS[finding.outcome], colour)
    yield f"  {mark} {finding.check.id}: {finding.check.title}"
    width = _FAILED_WIDTH if finding.outcome in {Outcome.FAILED, Outcome.UNDECIDED} else _WIDTH
    expected = "" if finding.expected is None else render(finding.expected)
    found, expected = compare(printable(render(finding.found)), printable(expected), width)
    yield f"      found     {found}"
    if expected:
        yield f"      expected  {expected}"
    if finding.source:
        yield f"      source    {_cut(printable(finding.source), width)}"
    if finding.anchor:
        yield f"      anchor    {_cut(printable(finding.anchor), width)}"


def _claim_lines(claims: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, value in claims.items():
        items = value if isinstance(value, list) and all(isinstance(each, Mapping) for each in value) else [value]
        for item in items:
            if isinstance(item, Mapping) and item:
                yield f"{indent}{printable(str(name))}:"
                yield from _claim_lines(item, indent + "  ")
            else:
                yield f"{indent}{printable(str(name))}: {printable(render(item))}"


def compare(found: str, expected: str, width: int) -> tuple[str, str]:
    """Return two texts as wide as there is room for; where both are wider, the part in which they differ first."""
    same = count_same(found, expected)
    start = same - _BEFORE if found != expected and expected and same > width - 2 * _BEFORE else 0
    return _cut(found, width, start), _cut(expected, width, start)


def count_same(one: str, other: str) -> int:
    """Return with how many characters both begin."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cut(text: str, width: int, start: int = 0) -> str:
    if len(text) <= width and not start:
        return text
    shown = text[start : start + width - 2]
    return (_ELLIPSIS if start else "") + shown + (_ELLIPSIS if start + len(shown) < len(text) else "")


def _paint(text: str, tone: str, colour: bool) -> str:
    return f"\x1b[{tone}m{text}\x1b[0m" if colour else text
