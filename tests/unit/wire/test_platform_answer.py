# SPDX-License-Identifier: Apache-2.0
"""One exchange with the emulated platform: two blocks with their lengths, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.attester import REPORT_DATA_BYTES
from enarx.errors import DecodeError
from enarx.wire.platform_answer import MAX_ANSWER_BYTES, REQUEST_BYTES, decode_answer_untrusted, encode_answer


def test_a_request_is_report_data():
    assert REQUEST_BYTES == REPORT_DATA_BYTES


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=1184), st.binary(max_size=300))
def test_an_answer_is_read_as_it_was_written(report, table):
    assert decode_answer_untrusted(encode_answer(report, table)) == (report, table)


def test_the_largest_answer_has_room_for_both():
    largest = encode_answer(bytes(1184), bytes(64 << 10))
    assert len(largest) == MAX_ANSWER_BYTES
    assert decode_answer_untrusted(largest) == (bytes(1184), bytes(64 << 10))


@pytest.mark.parametrize("over", [(bytes(1185), b""), (b"", bytes((64 << 10) + 1))])
def test_refuses_a_block_that_is_too_large(over):
    with pytest.raises(DecodeError, match="found a block of"):
        decode_answer_untrusted(encode_answer(*over))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_a_decode_error(data):
    try:
        found = decode_answer_untrusted(data)
    except DecodeError:
        return
    assert encode_answer(*found) == data
