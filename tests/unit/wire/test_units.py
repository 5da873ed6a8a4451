# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations: what is read, what is refused, and that reading them costs no import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire import parse_duration, parse_size
from enarx.wire.units import MAX_DURATION_S, MAX_SIZE_BYTES, MIN_DURATION_S


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (0, 0),
        (65536, 65536),
        ("65536", 65536),
        ("64 MiB", 64 << 20),
        ("64MiB", 64 << 20),
        ("64m", 64 << 20),
        (" 1G ", 1 << 30),
        ("2t", 2 << 40),
        ("3 KiB", 3 << 10),
        ("3 kB", 3000),
        ("5 MB", 5_000_000),
        ("7 B", 7),
        (MAX_SIZE_BYTES, MAX_SIZE_BYTES),
    ],
)
def test_reads_a_size(value, size_bytes):
    assert parse_size(value) == size_bytes


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "MiB",
        "-1",
        -1,
        "1.5 GiB",
        "1 XB",
        "1 Ki",
        "1 MiB MiB",
        "0x10",
        "1_000",
        "²",
        "٣",
        True,
        1.0,
        None,
        [],
        {},
        "9" * 39,
        "9" * 5000,
        MAX_SIZE_BYTES + 1,
        "8388608T",
        pytest.param(1 << 20000, id="huge"),
    ],
)
def test_refuses_what_is_no_size(value):
    with pytest.raises(ConfigError) as caught:
        parse_size(value, name="--memory")
    assert caught.value.key == "--memory"
    assert str(caught.value).startswith("--memory: found ")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "duration_s"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("2.5", 2.5),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("500ms", 0.5),
        ("100ms", 0.1),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("1 MS", 0.001),
        (MIN_DURATION_S, MIN_DURATION_S),
        ("365d", MAX_DURATION_S),
    ],
)
def test_reads_a_duration(value, duration_s):
    assert parse_duration(value) == duration_s


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "s",
        "0",
        0,
        "0s",
        "-1s",
        -1,
        "1.s",
        ".5s",
        "1..5s",
        "1e3",
        "1e3s",
        "nan",
        "inf",
        "1s2m",
        "1s1s",
        "1h30",
        "1 h x",
        "5us",
        "1m30sm",
        "366d",
        "²s",
        float("nan"),
        float("inf"),
        0.0001,
        True,
        None,
        [],
        {},
        pytest.param(1 << 20000, id="huge"),
        "1" * 41,
        "1" * 40,
    ],
)
def test_refuses_what_is_no_duration(value):
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, name="--timeout")
    assert caught.value.key == "--timeout"
    assert str(caught.value).startswith("--timeout: found ")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text() | st.text("0123456789.dhms kKMGTiB-"))
def test_reads_or_refuses_any_text(text):
    for parse, least, most in (
        (parse_size, 0, MAX_SIZE_BYTES),
        (parse_duration, MIN_DURATION_S, MAX_DURATION_S),
    ):
        try:
            value = parse(text)
        except ConfigError:
            continue
        assert least <= value <= most


def test_the_face_imports_nothing_but_the_errors():
    # Every start of `run` pays for what the face of the package imports.
    program = (
        f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; before = set(sys.modules); import enarx.wire;"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('enarx')))"
    )
    found = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['__future__']"
