# SPDX-License-Identifier: Apache-2.0
"""What a launcher makes of a process that stands for a Keep, and of what it said of its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from enarx.errors import KeepError, PlatformError
from enarx.host.launchers import guard, own_process, remote_relay, sgx_relay
from enarx.host.launchers.own_process import (
    ENDING,
    ENDING_BYTES,
    OwnProcess,
    make_ending,
    mark_of,
    move_up,
    read_ending,
    watch,
)

KEEP = "00112233445566aa"


@pytest.fixture
def child():
    made = subprocess.Popen(
        [sys.executable, "-I", "-S", mark_of(KEEP), "-c", "import time; print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    # `Popen` returns while the kernel has yet to note the command line.
    made.stdout.readline()
    yield made
    made.stdout.close()
    made.kill()
    made.wait()


@pytest.mark.parametrize(("at_once", "number"), [(True, signal.SIGKILL), (False, signal.SIGTERM)])
def test_ends_a_process_as_it_is_told(child, at_once, number):
    launched = watch(child.pid)
    OwnProcess().stop(launched, at_once=at_once)
    assert child.wait(30) == -number
    # It has ended, and that is no error.
    OwnProcess().stop(launched, at_once=at_once)
    os.close(launched.pidfd)


def test_takes_over_what_still_runs_and_nothing_else(child):
    launched = watch(child.pid)
    again = OwnProcess().adopt(KEEP, launched.pid, launched.start_ticks)
    assert (again.pid, again.start_ticks) == (launched.pid, launched.start_ticks)
    assert OwnProcess().adopt(KEEP, launched.pid, launched.start_ticks + 1) is None
    for each in (launched, again):
        os.close(each.pidfd)


def test_a_child_that_cannot_be_watched_is_killed(child, monkeypatch):
    def no_descriptor(_pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(own_process.os, "pidfd_open", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        watch(child.pid)
    assert not os.path.exists(f"/proc/{child.pid}")


def test_strays_of_a_keep_are_killed_and_no_others(child):
    OwnProcess().stop_strays(KEEP.replace("a", "b"))
    assert child.poll() is None
    OwnProcess().stop_strays(KEEP)
    assert child.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ({"kind": "KeepError", "message": "the Keep ended", "hint": "look"}, KeepError, "look"),
        ({"kind": "PlatformError", "message": "the Keep ended", "hint": ""}, PlatformError, None),
        ({"kind": "PlatformError", "message": "the Keep ended"}, PlatformError, None),
    ],
)
def test_reads_why_a_keep_ended(tmp_path, said, kind, hint):
    (tmp_path / ENDING).write_bytes(json.dumps(said).encode().ljust(ENDING_BYTES))
    error = read_ending(str(tmp_path))
    assert (type(error), str(error), error.hint) == (kind, "the Keep ended", hint)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b" " * ENDING_BYTES,
        b"[]",
        b'"off"',
        b"\xff",
        b'{"kind": "off", "message": ""}',
        b'{"kind": "KeepError"}',
    ],
)
def test_what_says_nothing_of_an_error_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / ENDING).write_bytes(content)
    assert read_ending(str(tmp_path)) is None


def test_programs_that_import_nothing_of_ours_mean_the_same_length():
    assert {guard.ENDING_BYTES, remote_relay.ENDING_BYTES, sgx_relay._ENDING_BYTES} == {ENDING_BYTES}


def test_a_reason_has_room_before_there_is_one(tmp_path):
    fd = make_ending(str(tmp_path))
    assert os.fstat(fd).st_size == ENDING_BYTES
    os.pwrite(fd, b'{"kind": "KeepError", "message": "late"}', 0)
    os.close(fd)
    assert str(read_ending(str(tmp_path))) == "late"
    with pytest.raises(FileExistsError):
        make_ending(str(tmp_path))


def test_without_room_for_a_reason_nothing_is_left_open(tmp_path, monkeypatch):
    monkeypatch.setattr(own_process.os, "pwrite", lambda *_: 100)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space left on device"):
        make_ending(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_descriptor_that_was_moved_up_is_there_once():
    reader, writer = os.pipe()
    moved = move_up(writer)
    assert moved >= 64
    os.close(moved)
    # Nobody has the writing end any more.
    assert os.read(reader, 1) == b""
    os.close(reader)
