# SPDX-License-Identifier: Apache-2.0
"""Lines of keys: every way to write a key, and texts that are not TOML at all."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.wire.toml_lines import find_line, longest_key

DOCUMENT = '''\
top = 1 # [not.a.header]
"quoted \\u0061" = 'x = 2'
dotted . key = """
text = 1
[text]
"""
list = [ # comment
  "a", ["b"],
  { x = 1, y = "}]" , z.z = [3,
    4] },
]
[table]
a = {b = {c = 1}, "d" = 2}
[[array]]
name = "first"
[array.sub]
deep = 1.5e3
[[array]]
name = \'\'\'
[[array]]\'\'\'
sub.deep = 1979-05-27 07:32:00
  [[array.inner]]
  x = -1
  [[array.inner]]
  x = +2
'empty' = ''
""  = ""
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("quoted a",), 2),
        (("dotted",), 3),
        (("dotted", "key"), 3),
        (("list",), 7),
        (("list", 0), 8),
        (("list", 1), 8),
        (("list", 1, 0), 8),
        (("list", 2), 9),
        (("list", 2, "x"), 9),
        (("list", 2, "y"), 9),
        (("list", 2, "z", "z", 0), 9),
        (("list", 2, "z", "z", 1), 10),
        (("table",), 12),
        (("table", "a", "b", "c"), 13),
        (("table", "a", "d"), 13),
        (("array",), 14),
        (("array", 0), 14),
        (("array", 0, "name"), 15),
        (("array", 0, "sub"), 16),
        (("array", 0, "sub", "deep"), 17),
        (("array", 1), 18),
        (("array", 1, "name"), 19),
        (("array", 1, "sub", "deep"), 21),
        (("array", 1, "inner", 0, "x"), 23),
        (("array", 1, "inner", 1, "x"), 25),
        (("array", 1, "inner", 1, "empty"), 26),
        (("array", 1, "inner", 1, ""), 27),
    ],
)
def test_finds_the_line_of_a_key(path, line):
    value = tomllib.loads(DOCUMENT)
    for part in path:
        value = value[part]
    assert find_line(DOCUMENT, path) == line
    assert find_line(DOCUMENT.replace("\n", "\r\n"), path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("array", 1, "missing"), 18),
        (("array", 0, "sub", "missing", "more"), 16),
        (("table", "a", "missing"), 13),
        (("list", 9), 7),
        (("missing",), None),
        ((), None),
    ],
)
def test_falls_back_to_what_stands_around_a_missing_key(path, line):
    assert find_line(DOCUMENT, path) == line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 0),
        ("a = 1", 1),
        ("a . 'b' .\"c\" = 1", 3),
        ("[a.b]\nc.d.e.f = 1", 4),
        ("a = 'x.x.x.x.x' # y.y.y.y", 1),
        ('a = """\nx.x.x.x\n"""', 1),
        ("a = [1.5, 2.5]", 2),
        ("a = { b.c.d = 1 }", 3),
        ("a" + ".a" * 99_999, 100_000),
    ],
)
def test_counts_the_parts_of_the_longest_key(text, parts):
    assert longest_key(text) == parts


@pytest.mark.parametrize(
    "text", ['"""' + '\\"""' * 10_000, "'" * 10_000, '"' * 10_000, "[" * 10_000, "\\", "a=}", "[[", "[[a"]
)
def test_gives_up_quietly_and_soon_on_what_is_not_toml(text):
    assert longest_key(text) <= 1
    assert find_line(text, ("never", 1, "there")) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text() | st.text("ab.=[]{},\"'\\\n #1"))
def test_never_raises(text):
    assert longest_key(text) <= len(text)
    assert find_line(text, ("a", 0, "b")) in {None, *range(1, text.count("\n") + 2)}
