# SPDX-License-Identifier: Apache-2.0
"""A result as JSON: every finding, values that any reader understands, and an end."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from enarx.rats import AttestationResult, Check, Concern, Finding, OneOf, Outcome
from enarx.wire.result_json import plain_claims, result_document

CHECK = Check("x.vmpl", "the VMPL is accepted", Concern.APPRAISAL, "AMD 56860")
AT = datetime(2026, 6, 1, tzinfo=UTC)


class Claims(dict):
    def named(self):
        return self


def make(*findings, claims=None, **values):
    subject = Claims(claims or {})
    return AttestationResult(tee="snp", subject=subject, findings=findings, at=AT, policy_name="p", **values)


def test_says_everything_that_was_found():
    result = make(
        Finding(CHECK, Outcome.FAILED, OneOf(0), 2, "policy p: x.vmpl", "ROOT, 00ff"),
        Finding(CHECK, Outcome.NOTED, None, None, ""),
        claims={"report_data": b"\1", "at": AT, "set": frozenset({"b", "a"})},
        valid_until=AT,
        chains=(("ROOT", "the report"),),
        tcb_status="UpToDate",
        advisory_ids=("INTEL-SA-1",),
        emulated=True,
    )
    document = result_document(result, format_name="a report", wrappers=("JSON",))
    assert json.loads(json.dumps(document)) == document
    assert document == {
        "verdict": "refused",
        "tee": "snp",
        "format": "a report",
        "wrappers": ["JSON"],
        "at": "2026-06-01T00:00:00Z",
        "valid_until": "2026-06-01T00:00:00Z",
        "policy": "p",
        "emulated": True,
        "tcb_status": "UpToDate",
        "advisory_ids": ["INTEL-SA-1"],
        "chains": [["ROOT", "the report"]],
        "findings": [
            {
                "id": "x.vmpl",
                "title": "the VMPL is accepted",
                "concern": "appraisal",
                "outcome": "failed",
                "expected": "0",
                "found": "2",
                "source": "policy p: x.vmpl",
                "anchor": "ROOT, 00ff",
                "spec": "AMD 56860",
            },
            {
                "id": "x.vmpl",
                "title": "the VMPL is accepted",
                "concern": "appraisal",
                "outcome": "noted",
                "expected": None,
                "found": None,
                "source": "",
                "anchor": None,
                "spec": "AMD 56860",
            },
        ],
        "claims": {"report_data": "01", "at": "2026-06-01T00:00:00Z", "set": ["a", "b"]},
    }


def test_an_end_that_nothing_sets_is_null():
    assert result_document(make(), format_name="x")["valid_until"] is None


def test_claims_are_what_every_reader_of_json_understands():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    claims = plain_claims(
        {
            "nan": float("nan"),
            "inf": float("-inf"),
            "half": 0.5,
            "huge": 1 << 20_000,
            "yes": True,
            "deep": deep,
            "other": CHECK,
        }
    )
    text = json.dumps(claims, allow_nan=False)
    assert (claims["nan"], claims["inf"]) == ("nan", "-inf")
    assert claims["half"] == 0.5
    assert claims["yes"] is True
    assert claims["huge"] == hex(1 << 20_000)
    assert "nested too deeply to show" in text
    assert claims["other"] == ["x.vmpl", "the VMPL is accepted", "appraisal", "AMD 56860"]
