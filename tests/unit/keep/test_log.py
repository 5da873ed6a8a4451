# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.keep.log import Log


def everything(log):
    return b"".join(output.data for output in log.read(log.start, 1 << 30))


def test_an_empty_log_starts_where_it_ends():
    log = Log(1 << 18)
    assert (log.start, log.end, log.read(0, 100)) == (0, 0, [])


def test_tells_the_outputs_apart_and_keeps_their_order():
    log = Log(1 << 18)
    for name, data in (("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")):
        log.append(name, data)
    assert [tuple(output) for output in log.read(0, 100)] == [
        ("stdout", 0, b"ab"),
        ("stderr", 2, b"c"),
        ("stdout", 3, b"d"),
    ]


def test_reads_from_within_a_piece():
    log = Log(1 << 18)
    log.append("stdout", b"abcdef")
    assert [tuple(output) for output in log.read(4, 100)] == [("stdout", 4, b"ef")]


def test_a_pin_leaves_no_room_and_what_is_before_it_goes():
    log = Log(1 << 18)
    log.pin = 0
    while log.has_room(65536):
        log.append("stdout", bytes(65536))
    assert log.start == 0
    log.pin = 65536
    assert log.has_room(65536)
    assert log.start == 65536


def test_single_bytes_of_both_outputs_in_turn_cost_what_they_cost():
    log = Log(1 << 18)
    for number in range(20_000):
        log.append(("stdout", "stderr")[number % 2], b"x")
    assert log.end == 20_000
    assert len(log.read(log.start, 1 << 20)) < (1 << 18) // 190


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=3000)), max_size=200))
def test_what_is_kept_is_the_end_of_what_was_written(pieces):
    log = Log(1 << 16)
    written = b""
    for name, data in pieces:
        log.append(name, data)
        written += data
    assert log.end == len(written)
    assert everything(log) == written[log.start :]
