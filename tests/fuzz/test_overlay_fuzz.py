# SPDX-License-Identifier: Apache-2.0
"""Any calls of preview 1 with any arguments, through the real engine: an errno or a trap, never a dead process."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.child import Child

SOAK_EXAMPLES = int(os.environ.get("ENARX_SOAK_EXAMPLES", "100000")) // 20
WORKER = Path(__file__).with_name("overlay_worker.py")
ANSWER_S = 60
# A store is never given back in a process that ends with its workload.
LINES_PER_WORKER = 300

PAGE = 65536
FUNCTIONS = {
    line.split('"')[3]: line.count("i32", 0, line.find("(result")) + line.count("i64")
    for line in Path(__file__).parents[2].joinpath("src/enarx/runtime/preview1/router.wat").read_text().splitlines()
    if '(import "wasi_snapshot_preview1"' in line and "(param" in line
} | {"poll_oneoff": 4, "fd_renumber": 2, "proc_exit": 1, "clock_time_get": 3, "random_get": 2, "args_get": 2, "grow": 1}

descriptors = st.one_of(
    st.integers(0, 12), st.sampled_from([511, 512, 1023, 30719, 30720, 65535, 1 << 31, (1 << 32) - 1])
)
pointers = st.one_of(
    st.sampled_from([0, 64, 128, 256, 512, 1024, 4096, 8192]),
    st.sampled_from(
        [PAGE - 1, PAGE - 4, PAGE - 8, PAGE, PAGE + 1, 2 * PAGE - 8, (1 << 32) - 1, (1 << 32) - 8, 1 << 31]
    ),
    st.integers(0, PAGE),
)
lengths = st.one_of(
    st.integers(0, 9), st.sampled_from([1024, 1025, PAGE, 1000000, 1000001, 1 << 27, 1 << 29, 1 << 31, (1 << 32) - 1])
)
wide = st.one_of(st.integers(0, 9), st.sampled_from([1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1]))
arguments = st.one_of(pointers, lengths, descriptors, wide)
calls = st.tuples(st.sampled_from(sorted(FUNCTIONS)), descriptors, st.lists(arguments, min_size=8, max_size=8)).map(
    lambda drawn: [drawn[0], [drawn[1], *drawn[2]]]
)
# The calls a program would make, so that the others meet files and connections that are open.
sensible = st.sampled_from(
    [
        ["path_open", [6, 0, 4096, 4, 0, 1 << 1, 1 << 1, 0, 512]],
        ["path_open", [6, 0, 4096, 4, 1, 1 << 6, 1 << 6, 0, 512]],
        ["sock_accept", [4, 4, 512]],
        ["fd_fdstat_set_flags", [4, 4]],
        ["fd_read", [5, 64, 2, 512]],
        ["fd_write", [5, 64, 2, 512]],
        ["fd_write", [1, 64, 2, 512]],
        ["sock_recv", [7, 64, 1, 0, 512, 516]],
        ["poll_oneoff", [1024, 2048, 3, 512]],
        ["poll_oneoff", [1024, 1024, 3, 512]],
        ["fd_renumber", [7, 3]],
        ["fd_renumber", [3, 7]],
        ["fd_renumber", [6, 1]],
        ["fd_close", [7]],
        ["grow", [1]],
    ]
)
iovecs = st.lists(st.tuples(pointers, lengths), min_size=1, max_size=8).map(
    lambda pairs: b"".join(struct.pack("<II", at, length) for at, length in pairs)
)
subscriptions = st.lists(
    st.one_of(
        st.builds(lambda tag, fd: struct.pack("<QB7xI28x", 1, tag, fd), st.integers(1, 2), descriptors),
        st.builds(
            lambda clock, timeout, flags: struct.pack("<QB7xI4xQQH6x", 2, 0, clock, timeout, 0, flags),
            *(st.integers(0, 4), wide, st.integers(0, 3)),
        ),
        st.binary(min_size=48, max_size=48),
    ),
    min_size=1,
    max_size=5,
).map(b"".join)
guests = st.fixed_dictionaries(
    {
        "memory": st.tuples(iovecs, subscriptions, st.binary(max_size=64)).map(
            lambda parts: [
                [64, parts[0].hex()],
                [1024, parts[1].hex()],
                [4096, b"file\0".hex()],
                [8192, parts[2].hex()],
                [PAGE - 8, parts[0][:8].hex()],
            ]
        ),
        "calls": st.lists(st.one_of(calls, sensible), min_size=5, max_size=25),
    }
)


class Worker(Child):
    """A process that makes the calls."""

    def __init__(self) -> None:
        super().__init__(WORKER, answer_s=ANSWER_S, max_lines=LINES_PER_WORKER)

    def answer(self, guest):
        return self.ask(guest)


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.stop()


def answered(worker, guest):
    answer = worker.answer(guest)
    assert "wrong" not in answer, answer
    assert len(answer["answers"]) == len(guest["calls"])


def test_every_function_with_a_descriptor_is_called():
    assert len(FUNCTIONS) >= 37 + 4


def test_the_calls_of_a_sensible_program_succeed(worker):
    guest = {
        "memory": [
            [64, struct.pack("<II", 9000, 4).hex()],
            [1024, struct.pack("<QB7xI28x", 1, 2, 5).hex()],
            [4096, b"file".hex()],
            [9000, b"abcd".hex()],
        ],
        "calls": [
            ["path_open", [6, 0, 4096, 4, 0, 2, 2, 0, 512]],
            ["fd_read", [7, 64, 1, 512]],
            ["fd_write", [5, 64, 1, 512]],
            ["poll_oneoff", [1024, 2048, 1, 512]],
            ["sock_accept", [4, 0, 512]],
            ["fd_renumber", [7, 3]],
            ["fd_close", [3]],
            ["fd_close", [7]],
            ["proc_exit", [3]],
        ],
    }
    assert worker.answer(guest) == {"answers": [0, 0, 0, 0, 0, 0, 0, 8, "trap"]}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(guests)
def test_any_calls_are_answered(worker, guest):
    answered(worker, guest)


@pytest.mark.soak
@settings(max_examples=SOAK_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(guests)
def test_any_calls_are_answered_at_length(worker, guest):
    answered(worker, guest)
