# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.wire.strict_json import MAX_DEPTH, load_json_untrusted


def load(data, max_bytes=1 << 16):
    return load_json_untrusted(data, what="text", max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": [1, 2.5, null, "x"]}', {"a": [1, 2.5, None, "x"]}),
        (b"\xef\xbb\xbf{}", {}),
        (b"[]\0\0", []),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"-1.5e300", -1.5e300),
    ],
)
def test_reads_json(data, value):
    assert load(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "a": 2}}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1" * 41,
        b"[" * 200_0,
        b"\xff",
        b"",
        b"{} {}",
        b"{'a': 1}",
        b"1e999",
        b"[-1.0e400]",
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'["\\ude00\\ud83d"]',
    ],
)
def test_refuses_what_two_readers_could_read_differently(data):
    with pytest.raises(DecodeError, match="cannot decode the text"):
        load(data)


@pytest.mark.parametrize("inside", [b"1", b"", b"{}", b'"' + b"[" * 99 + b'"'])
def test_counts_how_deep_objects_and_arrays_stand_in_each_other(inside):
    depth = MAX_DEPTH - (inside == b"{}")
    assert load(b"[" * depth + inside + b"]" * depth)
    assert load(b'{"a":' * (depth - 1) + b"[" + inside + b"]" + b"}" * (depth - 1))
    assert load(b"[" + b"[]," * 99 + b"[]]") == [[]] * 100
    assert load(b'"' + b"[" * 99 + b'"') == "[" * 99
    with pytest.raises(DecodeError, match=f"found more than {MAX_DEPTH} objects and arrays in each other"):
        load(b"[" * (depth + 1) + inside + b"]" * (depth + 1))


def test_refuses_more_than_its_limit():
    with pytest.raises(DecodeError, match="found 5 bytes, want at most 4"):
        load(b"[1,2]", max_bytes=4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=64) | st.text(alphabet='{}[]",:0aNf\\u', max_size=64).map(str.encode))
def test_any_bytes_are_a_value_or_a_decode_error(data):
    try:
        load(data)
    except DecodeError:
        return


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"1,", b'"a":1,'])
def test_more_than_there_can_be_is_refused_before_it_is_read(piece, monkeypatch):
    data = b"[" + piece * 300 + b"0]"
    few = b"[" + b"0," * 254 + b"0]"
    assert len(load_json_untrusted(few, what="text", max_bytes=1 << 16, max_items=256)) == 255
    monkeypatch.setattr("json.loads", None)
    with pytest.raises(DecodeError, match=r"brackets, commas and colons: found [0-9]+, want at most 256"):
        load_json_untrusted(data, what="text", max_bytes=1 << 16, max_items=256)
