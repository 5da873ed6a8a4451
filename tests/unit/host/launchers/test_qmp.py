# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.host.launchers.qmp import MAX_LINE_BYTES, Fact, Qmp

GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n'
CAPABILITIES = b'{"execute":"qmp_capabilities"}\n'
QUERY = b'{"execute":"query-status"}\n'


def line(**message):
    return json.dumps(message).encode() + b"\r\n"


@pytest.fixture
def qmp():
    qmp = Qmp()
    assert qmp.feed(GREETING) == (CAPABILITIES, [])
    assert qmp.feed(line(**{"return": {}})) == (b"", [])
    return qmp


def test_nothing_is_asked_before_it_has_greeted():
    qmp = Qmp()
    assert not qmp.can_ask
    assert qmp.ask() == b""
    qmp.feed(GREETING)
    assert qmp.ask() == b""


def test_one_question_at_a_time(qmp):
    assert qmp.ask() == QUERY
    assert qmp.is_asked
    assert qmp.ask() == b""
    assert qmp.feed(line(**{"return": {"status": "running", "running": True}})) == (b"", [])
    assert qmp.can_ask


@pytest.mark.parametrize("state", ["internal-error", "paused", "io-error", "guest-panicked", "suspended"])
def test_a_state_of_a_machine_that_does_not_run_is_told(qmp, state):
    assert qmp.feed(line(**{"return": {"status": state}}))[1] == [Fact("state", state)]


def test_a_machine_that_stops_is_asked_why(qmp):
    assert qmp.feed(line(event="STOP")) == (QUERY, [])
    assert qmp.is_asked


@pytest.mark.parametrize("reason", ["guest-shutdown", "guest-reset", "host-signal", "host-qmp-quit"])
def test_a_shutdown_is_told_with_its_reason(qmp, reason):
    message = line(event="SHUTDOWN", data={"guest": True, "reason": reason}, timestamp={"seconds": 1})
    assert qmp.feed(message) == (b"", [Fact("shutdown", reason)])


def test_a_panic_is_told(qmp):
    assert qmp.feed(line(event="GUEST_PANICKED", data={"action": "pause"}))[1] == [Fact("panic", "pause")]


def test_other_events_say_nothing(qmp):
    assert qmp.feed(line(event="RTC_CHANGE", data={"offset": 1})) == (b"", [])


def test_a_message_may_come_in_pieces(qmp):
    message = line(event="SHUTDOWN", data={"reason": "guest-reset"})
    said = [fact for at in range(len(message)) for fact in qmp.feed(message[at : at + 1])[1]]
    assert said == [Fact("shutdown", "guest-reset")]


@pytest.mark.parametrize(
    "noise", [b"[]\n", b"{}\n", b"nothing\n", b'{"error": {"desc": "no"}}\n', b"\xff\n", b"[" * 100_000 + b"\n"]
)
def test_what_is_no_qmp_is_an_error(qmp, noise):
    with pytest.raises(DecodeError, match="cannot watch QEMU"):
        qmp.feed(noise)


def test_a_line_has_a_limit(qmp):
    with pytest.raises(DecodeError, match="more than"):
        qmp.feed(b" " * (MAX_LINE_BYTES + 1))


def test_words_that_are_told_are_short_and_printable(qmp):
    _, (fact,) = qmp.feed(line(event="SHUTDOWN", data={"reason": "\x1b[31m" + "x" * 1000}))
    assert fact.word.isprintable()
    assert len(fact.word) <= 64


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["QMP", "event", "return", "error", "data", "status", "reason"]), inner, max_size=4), max_leaves=10).map(lambda value: json.dumps(value).encode() + b"\n"))  # fmt: skip
def test_any_bytes_are_facts_or_an_error(data):
    qmp = Qmp()
    try:
        answer, facts = qmp.feed(data)
    except DecodeError:
        return
    assert set(answer.splitlines(keepends=True)) <= {CAPABILITIES, QUERY}
    assert all(isinstance(fact, Fact) for fact in facts)
