# SPDX-License-Identifier: Apache-2.0
"""An attestation result as a JSON document, for programs. It says what was concluded; signed results are `wire.ear`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import isfinite

from enarx.rats import AttestationResult, Finding, render

__all__ = ["plain_claims", "result_document"]

_MAX_DEPTH = 32
_MAX_INTEGER_BITS = 1024


def result_document(
    result: AttestationResult, *, format_name: str, wrappers: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return a result as values that JSON has: bytes in hex, times in RFC 3339.

    Args:
        result: what the verifier concluded.
        format_name: what the evidence is.
        wrappers: what it came in.
    """
    return {
        "verdict": str(result.verdict),
        "tee": result.tee,
        "format": format_name,
        "wrappers": list(wrappers),
        "at": render(result.at),
        "valid_until": None if result.valid_until is None else render(result.valid_until),
        "policy": result.policy_name,
        "emulated": result.emulated,
        "tcb_status": result.tcb_status,
        "advisory_ids": list(result.advisory_ids),
        "chains": [list(chain) for chain in result.chains],
        "findings": [_finding(finding) for finding in result.findings],
        "claims": plain_claims(result.claims),
    }


def plain_claims(claims: Mapping[str, object]) -> dict[str, object]:
    """Return claims as values that JSON has; what is nested deeper than 32 levels is left out, and says so."""
    return {str(name): _plain(value, _MAX_DEPTH) for name, value in claims.items()}


def _finding(finding: Finding) -> dict[str, object]:
    check = finding.check
    return {
        "id": check.id,
        "title": check.title,
        "concern": str(check.concern),
        "outcome": str(finding.outcome),
        "expected": None if finding.expected is None else render(finding.expected),
        "found": None if finding.found is None else render(finding.found),
        "source": finding.source,
        "anchor": finding.anchor,
        "spec": check.spec,
    }


def _plain(value: object, depth: int) -> object:
    if isinstance(value, Mapping | list | tuple) and not depth:
        return "nested too deeply to show"
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return render(value)
    if isinstance(value, set | frozenset):
        return sorted(render(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        # No reader takes it as a number, and Python does not write one of thousands of digits.
        return hex(value)
    return value if isinstance(value, int | str) or value is None else str(value)
