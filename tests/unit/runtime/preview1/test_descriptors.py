# SPDX-License-Identifier: Apache-2.0
"""Stdio: pipes, files, terminals and directories."""

from __future__ import annotations

import os
import pty

import pytest

from enarx.runtime.preview1.descriptors import (
    CHARACTER_DEVICE,
    FDFLAGS_NONBLOCK,
    REGULAR_FILE,
    RIGHT_SEEK,
    RIGHT_TELL,
    UNKNOWN,
    Descriptor,
    Output,
    Stdin,
)

from .conftest import take


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
