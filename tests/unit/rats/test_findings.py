# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enarx.rats import Check, Concern, Finding, OneOf, Outcome, render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (0, "0"),
        (b"\x00\xff", "00ff"),
        (b"", "empty"),
        ("", "empty"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (frozenset({b"\x02", b"\x01"}), "01, 02"),
        (frozenset(), "empty"),
        ((1, b"\x01"), "1, 01"),
        ((1, 52), "1.52"),
        ([1, 52], "1, 52"),
        ((1, 2, 3, 4, 5), "1, 2, 3, 4, 5"),
        (
            (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
            "2026-01-01T00:00:00Z to 2027-01-01T00:00:00Z",
        ),
        (("Milan", {"snp": 8, "microcode": 115}), "Milan, snp=8 microcode=115"),
        (OneOf(7), "7"),
    ],
)
def test_renders_values_as_people_write_them(value, text):
    assert render(value) == text


def test_a_line_says_found_wanted_and_who_says_so():
    check = Check("snp.vmpl", "the VMPL is accepted", Concern.APPRAISAL, "AMD 56860")
    assert Finding(check, Outcome.FAILED, OneOf(0), 2, "policy p: snp.vmpl").line == (
        "snp.vmpl failed: found 2, want 0 (policy p: snp.vmpl)"
    )
    assert Finding(check, Outcome.NOTED, None, 2, "").line == "snp.vmpl noted: found 2"
