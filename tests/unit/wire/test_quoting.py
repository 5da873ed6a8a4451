# SPDX-License-Identifier: Apache-2.0
"""Foreign values in messages stay short, on one line and harmless to a terminal."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.wire.quoting import kind_of, quote


@pytest.mark.parametrize(
    ("value", "shown", "kind"),
    [
        (True, "true", "a boolean"),
        (False, "false", "a boolean"),
        (70000, "70000", "a number"),
        (1.5, "1.5", "a number"),
        ("a", "'a'", "a string"),
        ([1], "an array", "an array"),
        ({}, "a table", "a table"),
        (dt.time(1), "a date or time", "a date or time"),
        (None, "nothing", "nothing"),
        pytest.param(1 << 99_999, "an integer of 100000 bits", "a number", id="huge"),
    ],
)
def test_shows_scalars_and_names_the_rest(value, shown, kind):
    assert quote(value) == shown
    assert kind_of(value) == kind


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text() | st.integers() | st.text(st.characters(codec="utf-8", categories=["Cc", "Cf", "Zl"]), min_size=50))
def test_is_short_and_printable_for_any_value(value):
    shown = quote(value)
    assert len(shown) < 700
    assert shown.isprintable()
