# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from enarx.errors import PlatformError
from enarx.user_files import user_folder, write_whole


def test_a_folder_is_where_the_user_says_or_below_the_home(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert user_folder("XDG_DATA_HOME", "keys", purpose="find keys") == "/data/enarx/keys"
    monkeypatch.setenv("HOME", "/somebody")
    for nowhere in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", nowhere)
        assert user_folder("XDG_DATA_HOME", "keys", purpose="find keys") == "/somebody/.local/share/enarx/keys"


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_user_without_a_home_is_told_so(monkeypatch, home):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.raises(PlatformError, match="cannot find keys: found no home directory") as refused:
        user_folder("XDG_STATE_HOME", "keys", purpose="find keys")
    assert "XDG_STATE_HOME" in refused.value.hint


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_writes_what_is_new_and_what_replaces_with_its_mode(tmp_path, umask, mode):
    path = tmp_path / "file"
    before = os.umask(umask)
    try:
        for data in (b"one", b"another"):
            write_whole(str(path), data, mode=mode)
            assert path.read_bytes() == data
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_removed_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"")
    (tmp_path / "file.new").symlink_to(other)
    write_whole(str(tmp_path / "file"), b"data")
    assert other.read_bytes() == b""
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_was_there_stays_where_it_cannot_be_written(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_whole(str(path), b"before")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space"):
        write_whole(str(path), b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_what_need_not_last_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", None)
    write_whole(str(tmp_path / "file"), b"data", temporary=str(tmp_path / "other"), is_durable=False)
    assert os.listdir(tmp_path) == ["file"]
