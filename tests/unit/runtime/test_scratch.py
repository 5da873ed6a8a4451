# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from enarx.errors import DecodeError, PlatformError
from enarx.runtime.scratch import Scratch, sweep
from enarx.wire.release import Directory, Entry


@pytest.fixture
def scratch(tmp_path):
    made = Scratch(str(tmp_path))
    yield made
    made.remove()


def test_makes_a_private_folder_once_and_removes_it(scratch, tmp_path):
    path = scratch.make()
    assert scratch.make() == path
    assert os.stat(path).st_mode & 0o777 == 0o700
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_unpacks_files_and_folders(scratch):
    entries = (Entry(("a", "b"), b"contents"), Entry(("empty",), None), Entry(("a",), None))
    path = scratch.unpack(Directory("/data", False, entries), 0)
    with open(f"{path}/a/b", "rb") as file:
        assert file.read() == b"contents"
    assert os.path.isdir(f"{path}/empty")


@pytest.mark.parametrize(
    "entries",
    [
        (Entry(("a",), b""), Entry(("a",), b"")),
        (Entry(("a",), b""), Entry(("a", "b"), b"")),
        (Entry(("a", "b"), b""), Entry(("a",), b"")),
        (Entry(("a",), b""), Entry(("a",), None)),
    ],
)
def test_refuses_entries_in_each_others_way(scratch, entries):
    with pytest.raises(DecodeError, match="/data"):
        scratch.unpack(Directory("/data", False, entries), 0)


def test_says_where_there_is_no_room(tmp_path):
    with pytest.raises(PlatformError):
        Scratch(str(tmp_path / "none")).make()


def test_sweeps_what_a_killed_keep_left_and_nothing_else(scratch, tmp_path):
    mine = scratch.make()
    (tmp_path / "enarx-keep-left" / "0").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    sweep(str(tmp_path))
    assert {entry.name for entry in tmp_path.iterdir()} == {os.path.basename(mine), "other"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_unpacked_for_another_user_is_theirs(tmp_path):
    scratch = Scratch(str(tmp_path), owner=12345)
    entries = (Entry(("ä",), None), Entry(("ä", "b"), b"contents"), Entry(("c",), b""))
    for number in range(2):
        base = scratch.unpack(Directory("/data", True, entries), number)
        owned = [base, f"{base}/ä", f"{base}/ä/b", f"{base}/c"]
        assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in owned} == {(12345, 12345)}
        assert os.stat(base).st_mode & 0o777 == 0o700
    # They pass through it and cannot list it.
    assert (os.stat(scratch.path).st_uid, os.stat(scratch.path).st_mode & 0o777) == (os.getuid(), 0o711)
    scratch.remove()
