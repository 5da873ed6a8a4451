# SPDX-License-Identifier: Apache-2.0
"""Stdio and nothing: pipes, files, terminals, directories and the limit of output."""

from __future__ import annotations

import contextlib
import os
import pty

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import KeepError
from enarx.runtime.preview1.descriptors import (
    CHARACTER_DEVICE,
    FDFLAGS_APPEND,
    FDFLAGS_NONBLOCK,
    REGULAR_FILE,
    RIGHT_SEEK,
    RIGHT_TELL,
    UNKNOWN,
    Descriptor,
    Null,
    Output,
    OutputBudget,
    Stdin,
)


@pytest.fixture
def pipe():
    """Both ends of a pipe, closed afterwards if the test has not done it."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def take(descriptor, size=16):
    buffer = bytearray(size)
    return bytes(buffer[: descriptor.read(memoryview(buffer))])


def test_nothing_reads_as_the_end_and_takes_everything():
    null = Null()
    assert take(null) == b""
    assert null.write(memoryview(b"abc")) == 3
    assert (null.filetype, null.flags, null.poll_fd) == (UNKNOWN, FDFLAGS_APPEND | FDFLAGS_NONBLOCK, -1)


def test_a_descriptor_is_open_in_no_direction_by_itself():
    for move in (Descriptor(UNKNOWN, 0).read, Descriptor(UNKNOWN, 0).write):
        with pytest.raises(OSError) as caught:
            move(memoryview(bytearray(1)))
        assert caught.value.errno == 9


def test_stdin_of_a_pipe_reads_what_is_there_and_then_its_end(pipe):
    stdin = Stdin(pipe[0])
    os.write(pipe[1], b"abc")
    assert take(stdin) == b"abc"
    os.close(pipe[1])
    assert take(stdin) == b""
    assert (stdin.filetype, stdin.poll_fd) == (UNKNOWN, pipe[0])


def test_stdin_that_does_not_block_says_so_and_leaves_the_host_s_flags_alone(pipe):
    stdin = Stdin(pipe[0])
    stdin.flags = FDFLAGS_NONBLOCK
    with pytest.raises(BlockingIOError):
        take(stdin)
    assert os.get_blocking(pipe[0])
    os.write(pipe[1], b"abc")
    assert take(stdin, 2) == b"ab"


def test_a_regular_file_is_always_ready_and_seekable(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abcdef")
    with path.open("rb") as file:
        stdin = Stdin(file.fileno())
        assert (stdin.filetype, stdin.poll_fd) == (REGULAR_FILE, -1)
        assert stdin.rights & (RIGHT_SEEK | RIGHT_TELL) == RIGHT_SEEK | RIGHT_TELL
        assert stdin.seek(-2, 2) == 4
        assert take(stdin) == b"ef"
        with pytest.raises(OSError):
            stdin.seek(-1, 0)


def test_a_terminal_is_a_character_device_to_wait_for():
    ours, theirs = pty.openpty()
    try:
        stdin, stdout = Stdin(theirs), Output(theirs, None)
        assert (stdin.filetype, stdin.poll_fd) == (stdout.filetype, stdout.poll_fd) == (CHARACTER_DEVICE, theirs)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("path", ["/dev/null", "/"])
def test_what_cannot_be_waited_for_is_always_ready(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        assert Stdin(fd).poll_fd == -1
    finally:
        os.close(fd)


def test_a_pipe_cannot_seek(pipe):
    with pytest.raises(OSError) as caught:
        Stdin(pipe[0]).seek(0, 1)
    assert caught.value.errno == 29


def test_output_is_written_at_once(pipe):
    assert Output(pipe[1], None).write(memoryview(b"abc")) == 3
    assert os.read(pipe[0], 10) == b"abc"


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
