# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from enarx.errors import PlatformError
from enarx.host.state import StateFolder, connect_link, default_state_path, listen_link


def test_is_private_and_used_by_one(tmp_path):
    path = tmp_path / "a" / "b"
    folder = StateFolder(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(PlatformError, match="another host"):
        StateFolder(str(path))
    folder.close()
    StateFolder(str(path)).close()


def test_refuses_a_folder_that_others_write_to(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(PlatformError, match="writable by others"):
        StateFolder(str(tmp_path))


def test_refuses_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="cannot use the state directory"):
        StateFolder(str(tmp_path / "file"))


def test_makes_and_removes_what_belongs_to_keeps(tmp_path):
    folder = StateFolder(str(tmp_path / "state"))
    one, two = folder.make_keep("one"), folder.make_keep("two")
    assert os.path.isdir(os.path.join(one, "blobs"))
    with pytest.raises(PlatformError):
        folder.make_keep("one")
    folder.remove_strangers({"two"})
    assert os.listdir(tmp_path / "state" / "keeps") == ["two"]
    folder.remove_keep("two")
    folder.remove_keep("two")
    assert not os.path.exists(two)
    folder.close()


def test_links_may_have_long_paths(tmp_path):
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with pytest.raises(OSError, match="No such file"):
        connect_link(str(folder))
    listener = listen_link(str(folder))
    with pytest.raises(OSError, match="in use"):
        listen_link(str(folder))
    with connect_link(str(folder)) as near, listener.accept()[0] as far:
        far.sendall(b"hello")
        near.setblocking(True)
        assert near.recv(5) == b"hello"
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        connect_link(str(folder))


def test_the_default_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/some/where")
    assert default_state_path() == "/some/where/enarx/host"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/of/mine")
    assert default_state_path() == "/of/mine/.local/state/enarx/host"
    monkeypatch.delenv("HOME")
    with pytest.raises(PlatformError, match="no home directory"):
        default_state_path()
