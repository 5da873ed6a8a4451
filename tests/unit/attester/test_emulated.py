# SPDX-License-Identifier: Apache-2.0
"""The emulated platform: accepted only by whoever said so, and nothing the host answers does harm."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.attester.attested import SNP_REPORT
from enarx.attester.emulated import EmulatedAttester
from enarx.errors import DecodeError, EnarxError, PlatformError, TransportError, UsageError
from enarx.testing.attesters import snp_source
from enarx.testing.snp import AT, FakeAmd
from enarx.wire.platform_answer import MAX_ANSWER_BYTES, encode_answer
from tests.unit.attester.judging import OTHER_DATA, REPORT_DATA, assert_judged, assert_marked, judge

AMD = FakeAmd(owner="emulated")
SOURCE = snp_source(AMD)
GOOD = encode_answer(*SOURCE(REPORT_DATA, 0))


def attest(answer):
    return EmulatedAttester(lambda _: answer).attest(REPORT_DATA)


def test_evidence_is_accepted_by_whoever_accepts_this_root_and_is_called_emulated():
    attester = EmulatedAttester(lambda request: encode_answer(*SOURCE(request, 0)))
    assert (attester.backend, attester.media_type, attester.register) == ("nil", SNP_REPORT, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, SNP_REPORT)
    result = assert_judged(attested, at=AT, anchors=AMD.emulated_anchors, freshness="snp.report_data")
    assert result.emulated


def test_evidence_is_refused_by_everybody_else():
    for anchors in (None, FakeAmd().anchors, FakeAmd().emulated_anchors):
        with pytest.raises(EnarxError):
            judge(attest(GOOD), at=AT, anchors=anchors).require()


def test_what_is_asked_is_the_report_data_alone():
    asked = []
    EmulatedAttester(lambda request: (asked.append(request), GOOD)[1]).attest(REPORT_DATA)
    assert asked == [REPORT_DATA]


def test_no_answer_is_said():
    with pytest.raises(PlatformError, match="found no answer, want a report") as caught:
        attest(b"")
    assert "log" in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\0\0\0", "found 3 bytes, want a length of 4"),
        (b"\0\0\4\xa1" + bytes(2000), "found a block of 1185 bytes, want at most 1184"),
        (GOOD[:1000], "found 996 bytes of a block, want 1184"),
        (GOOD[:1188], "found 0 bytes, want a length of 4"),
        (GOOD[:1188] + b"\0\1\0\1" + bytes(65537), "found a block of 65537 bytes, want at most 65536"),
        (GOOD[:-1], "bytes of a block"),
        (GOOD + b"\0", "found 1 bytes after the end, want none"),
        (encode_answer(bytes(1184), b""), "cannot decode"),
        (encode_answer(b"", b""), "cannot decode"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer, words):
    with pytest.raises(DecodeError, match="cannot attest: the emulated platform: ") as caught:
        attest(answer)
    assert words in str(caught.value)


def test_a_report_over_other_data_is_refused():
    with pytest.raises(PlatformError, match="over other report data"):
        attest(encode_answer(*SOURCE(OTHER_DATA, 0)))


def test_an_exchange_that_fails_is_its_own_error():
    def exchange(_):
        raise TransportError("no host")

    with pytest.raises(TransportError):
        EmulatedAttester(exchange).attest(REPORT_DATA)


def test_refuses_report_data_of_another_size():
    with pytest.raises(UsageError, match="found 63 bytes, want 64"):
        EmulatedAttester(lambda _: GOOD).attest(bytes(63))


def test_the_largest_answer_is_read():
    report, _ = SOURCE(REPORT_DATA, 0)
    answer = encode_answer(report, bytes(64 << 10))
    assert len(answer) == MAX_ANSWER_BYTES
    assert attest(answer).endorsements == ()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=100), st.integers(0, len(GOOD)))
def test_no_answer_does_more_than_raise_our_errors(noise, at):
    with contextlib.suppress(PlatformError, DecodeError):
        attest(GOOD[:at] + noise + GOOD[at + len(noise) :])
