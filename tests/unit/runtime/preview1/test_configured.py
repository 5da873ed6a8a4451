# SPDX-License-Identifier: Apache-2.0
"""A descriptor that is nothing, and a limit of output that is kept to the byte."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import KeepError
from enarx.runtime.preview1.configured import Null, OutputBudget
from enarx.runtime.preview1.descriptors import FDFLAGS_APPEND, FDFLAGS_NONBLOCK, UNKNOWN, Output

from .conftest import take


def test_nothing_reads_as_the_end_and_takes_everything():
    null = Null()
    assert take(null) == b""
    assert null.write(memoryview(b"abc")) == 3
    assert (null.filetype, null.flags, null.poll_fd) == (UNKNOWN, FDFLAGS_APPEND | FDFLAGS_NONBLOCK, -1)


def test_two_outputs_share_a_budget_to_its_last_byte(pipe):
    budget = OutputBudget(5)
    first, second = Output(pipe[1], budget), Output(pipe[1], budget)
    assert first.write(memoryview(b"abc")) == 3
    assert second.write(memoryview(b"")) == 0
    assert second.write(memoryview(b"defg")) == 2
    assert os.read(pipe[0], 10) == b"abcde"
    with pytest.raises(KeepError, match="output") as caught:
        first.write(memoryview(b"h"))
    assert "--output" in caught.value.hint


def test_what_the_host_did_not_take_is_not_counted(pipe):
    os.set_blocking(pipe[1], False)
    budget = OutputBudget(1 << 30)
    output = Output(pipe[1], budget)
    written = output.write(memoryview(bytes(1 << 20)))
    assert written < 1 << 20
    assert budget.left == (1 << 30) - written
    with pytest.raises(BlockingIOError):
        output.write(memoryview(bytes(1 << 20)))
    assert budget.left == (1 << 30) - written


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 100), st.lists(st.integers(0, 60), max_size=8))
def test_never_more_than_the_budget_is_written(limit, sizes):
    budget = OutputBudget(limit)
    fd = os.open("/dev/null", os.O_WRONLY)
    try:
        output = Output(fd, budget)
        done = 0
        for size in sizes:
            try:
                done += output.write(memoryview(bytes(size)))
            except KeepError:
                assert done == limit
    finally:
        os.close(fd)
    assert done <= limit
    assert budget.left == limit - done
