# SPDX-License-Identifier: Apache-2.0
"""What all TOML files of ours have in common; the readers' own tests have the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire.toml_lines import find_line, line_finder
from enarx.wire.toml_text import all_of, dotted, one_of, parse_toml


def test_returns_the_text_and_the_document():
    assert parse_toml(b"\xef\xbb\xbfa.b = 1\n", path="x", max_bytes=100) == ("a.b = 1\n", {"a": {"b": 1}})


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"a" * 101, None, "size: found 101 bytes, want at most 100"),
        (b"a = 1\n\xff", 2, "text: found byte 0xff at offset 6, want UTF-8"),
        (b"a = 1\nb", 2, "syntax: "),
        (b"a = 1\na = 2", 2, "syntax: "),
        (b"a.b.c.d.e.f.g.h.i = 1", None, "syntax: found a key of more than 8 parts"),
        (b"a = " + b"[" * 90, None, "syntax: "),
    ],
)
def test_refuses_with_the_line(data, line, words):
    with pytest.raises(ConfigError) as caught:
        parse_toml(data, path="x.toml", max_bytes=100)
    assert words in str(caught.value)
    assert caught.value.path == "x.toml"
    assert line is None or caught.value.line == line


def test_refuses_an_integer_that_python_does_not_convert():
    with pytest.raises(ConfigError, match="found an integer out of range, want at most 64 bits"):
        parse_toml(b"a = " + b"9" * 5000, path="x", max_bytes=10_000)


def test_refuses_values_that_are_nested_too_deeply():
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_toml(b"a = " + b"[" * 100_000, path="x", max_bytes=1_000_000)


def test_keys_as_users_read_them():
    assert dotted(("files", 3, "port")) == "files[3].port"
    assert dotted(("a b", "c")) == "'a b'.c"
    assert dotted(("k" * 41,)) == repr("k" * 41)
    assert all_of(["a"]) == "a"
    assert all_of(["a", "b", "c"]) == "a, b and c"
    assert one_of(["a", "b"]) == "a or b"


def test_a_finder_finds_what_find_line_finds():
    text = "a = 1\n[t]\nb = [\n1,\n2]\n"
    find = line_finder(text)
    for path in [("a",), ("t",), ("t", "b"), ("t", "b", 1), ("t", "c"), ("x",)]:
        assert find(path) == find_line(text, path)
    assert find(("t", "b", 1)) == 5


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_are_a_document_or_an_error(data):
    try:
        _, document = parse_toml(data, path="x", max_bytes=50)
    except ConfigError as error:
        document = {"error": error}
    assert isinstance(document, dict)
