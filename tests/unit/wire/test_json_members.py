# SPDX-License-Identifier: Apache-2.0
"""Members of JSON objects: each has one form, a limit and a name in messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from enarx.errors import DecodeError
from enarx.wire.json_members import Members, base64_of, time_text

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def members(value, name="m"):
    return Members({name: value}, "the text")


def test_takes_each_kind_once_and_nothing_is_left():
    found = Members(
        {
            "text": "t",
            "uint": 7,
            "bytes": "YWI=",
            "hex": "00ff",
            "time": "2026-06-01T12:00:00Z",
            "blobs": ["YQ==", "Yg=="],
            "hexes": ["00", "01"],
            "texts": ["a", "b"],
            "inside": {"x": 1},
            "all": [{"y": 2}],
        },
        "the text",
    )
    assert found.has("text")
    assert found.text("text") == "t"
    assert not found.has("text")
    assert found.uint("uint") == 7
    assert found.bytes("bytes", 1, 2) == b"ab"
    assert found.hex("hex", 2, 2) == b"\0\xff"
    assert found.time("time") == AT
    assert found.blobs("blobs", each=1) == (b"a", b"b")
    assert found.hexes("hexes", 1) == (b"\0", b"\1")
    assert found.texts("texts") == ("a", "b")
    assert found.inside("inside").uint("x") == 1
    assert [each.uint("y") for each in found.all_inside("all")] == [2]
    found.end()


def test_refuses_what_is_missing_and_what_is_left():
    with pytest.raises(DecodeError, match=r"^cannot decode the text: other: found nothing, want a value$"):
        members(1).take("other")
    with pytest.raises(DecodeError, match=r"^cannot decode the text: in\.'m': found an unknown member, want none$"):
        Members({"m": 1}, "the text", "in.").end()


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_refuses_what_is_no_object(value):
    with pytest.raises(DecodeError, match=r"^cannot decode the text: in: found \w+, want an object$"):
        Members(value, "the text", "in.")


@pytest.mark.parametrize(
    "value", ["YWI", "YWI=\n", " YWI=", "YWJ=", "YW-_", "YWI==", "", "YWJj", None, 5, ["YWI="], "\xe9"]
)
def test_bytes_have_one_form_and_a_limit(value):
    with pytest.raises(DecodeError, match="want base64 of 1 to 2 bytes"):
        members(value).bytes("m", 1, 2)


@pytest.mark.parametrize("value", ["0", "00 ff", "00FF", "0x00", "", "00", "000000", None, 5, b"00ff"])
def test_hex_has_one_form_and_a_limit(value):
    with pytest.raises(DecodeError, match="want 2 bytes in lower-case hex"):
        members(value).hex("m", 2, 2)


@pytest.mark.parametrize(
    "value",
    [
        "2026-06-01T12:00:00",
        "2026-06-01T12:00:00+00:00",
        "2026-06-01 12:00:00Z",
        "2026-6-1T12:00:00Z",
        "2026-06-01T12:00:00.5Z",
        "2026-02-30T12:00:00Z",
        "2026-06-01T24:00:01Z",
        "2026-06-01T12:00:60Z",
        "0000-01-01T00:00:00Z",
        "\N{ARABIC-INDIC DIGIT TWO}026-06-01T12:00:00Z",
        None,
        1780000000,
    ],
)
def test_a_time_has_one_form(value):
    with pytest.raises(DecodeError, match="want a time in UTC"):
        members(value).time("m")


@pytest.mark.parametrize("value", [True, -1, 8, 1.0, "1", None, 1 << 70])
def test_a_number_has_limits_and_is_no_truth_value(value):
    with pytest.raises(DecodeError, match="want a number from 0 to 7"):
        members(value).uint("m", 7)


def test_a_number_is_one_that_every_reader_reads():
    assert members((1 << 53) - 1).uint("m") == (1 << 53) - 1
    with pytest.raises(DecodeError, match="want a number"):
        members(1 << 53).uint("m")


@pytest.mark.parametrize(
    ("value", "call"),
    [
        ("ab", lambda m: m.text("m", 1)),
        (None, lambda m: m.text("m")),
        (["a"] * 3, lambda m: m.list("m", 2)),
        ([], lambda m: m.list("m", 2, 1)),
        ({}, lambda m: m.list("m")),
        (["a", 1], lambda m: m.texts("m")),
        (["ab"], lambda m: m.texts("m", 1, 1)),
        (["YWI="], lambda m: m.blobs("m", each=1)),
        ([""], lambda m: m.blobs("m", each=1)),
        ([None], lambda m: m.blobs("m", each=1)),
        (["0000"], lambda m: m.hexes("m", 1)),
        ([[]], lambda m: m.all_inside("m")),
        ([], lambda m: m.inside("m")),
    ],
)
def test_refuses_another_kind_or_size(value, call):
    with pytest.raises(DecodeError, match=r"^cannot decode the text: m"):
        call(members(value))


def test_writes_what_it_reads():
    assert base64_of(b"ab") == "YWI="
    assert time_text(AT.replace(microsecond=999_999)) == "2026-06-01T12:00:00Z"
    assert time_text(datetime(2026, 6, 1, 14, tzinfo=timezone(timedelta(hours=2)))) == "2026-06-01T12:00:00Z"
