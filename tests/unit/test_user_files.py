# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from enarx.errors import ConfigError, PlatformError, UsageError
from enarx.user_files import new_folder, read_key_file, user_folder, write_whole


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


def test_a_new_folder_appears_when_all_of_it_is_there(tmp_path):
    with new_folder(str(tmp_path / "new")) as folder:
        Path(folder, "file").write_text("x")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["new"]


def test_a_new_folder_takes_the_place_of_an_empty_one_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(str(tmp_path / "empty")) as folder:
        Path(folder, "file").touch()
    assert (tmp_path / "empty" / "file").exists()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("empty", "link", "file"):
        with pytest.raises(UsageError, match="found one already"), new_folder(str(tmp_path / name)):
            pytest.fail("it was made")
    with pytest.raises(UsageError, match="No such file"), new_folder(str(tmp_path / "none" / "new")):
        pytest.fail("it was made")


def test_nothing_is_left_of_a_folder_that_did_not_come_to_be(tmp_path):
    def make():
        with new_folder(str(tmp_path / "new")) as folder:
            Path(folder, "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("mode", "is_secret"), [(0o600, True), (0o400, True), (0o644, False)])
def test_reads_a_file_with_a_key(tmp_path, mode, is_secret):
    path = tmp_path / "key"
    path.write_bytes(b"12345678")
    path.chmod(mode)
    assert read_key_file(str(path), what="the key", is_secret=is_secret, max_bytes=8) == b"12345678"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_refuses_a_secret_that_others_can_read(tmp_path, mode):
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"cannot use the key: .* mode {mode:04o}, want a file of") as refused:
        read_key_file(str(path), what="the key", is_secret=True, max_bytes=8)
    assert refused.value.hint == f"chmod 600 {path}"


def test_refuses_what_is_no_file_with_a_key(tmp_path):
    def read(name):
        return read_key_file(str(tmp_path / name), what="the key", is_secret=False, max_bytes=8)

    with pytest.raises(UsageError, match=r"cannot read the key: .*No such file"):
        read("none")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UsageError, match="found no regular file"):
            read(name)
    (tmp_path / "long").write_bytes(b"123456789")
    with pytest.raises(ConfigError, match="found more than 8 bytes"):
        read("long")
