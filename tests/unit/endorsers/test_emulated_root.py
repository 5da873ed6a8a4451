# SPDX-License-Identifier: Apache-2.0
"""The root of this installation's emulated platform: where it is, and when it is not read."""

from __future__ import annotations

import os

import pytest

from enarx.emulator import installation
from enarx.endorsers.emulated_root import default_folder, read_emulated_root
from enarx.errors import PlatformError
from enarx.testing.snp import AT


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "platform"
    made.mkdir(mode=0o700)
    (made / "ark.der").write_bytes(b"root")
    return made


def refuses(folder, what):
    with pytest.raises(PlatformError, match=what):
        read_emulated_root(str(folder))


def test_is_below_the_users_data(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_folder() == "/data/enarx/emulated-platform"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", unusable)
        assert default_folder() == "/somebody/.local/share/enarx/emulated-platform"
    monkeypatch.delenv("HOME")
    with pytest.raises(PlatformError, match="found no home directory"):
        default_folder()


def test_reads_the_root_of_the_users_own_platform(folder, monkeypatch, tmp_path):
    assert read_emulated_root(str(folder)) == b"root"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert read_emulated_root() is None
    opened = installation.open_installation(default_folder(), at=AT)
    assert read_emulated_root() == opened.root


def test_there_may_be_none(tmp_path):
    assert read_emulated_root(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(("name", "mode"), [("", 0o720), ("", 0o702), ("ark.der", 0o666), ("ark.der", 0o664)])
def test_refuses_what_others_can_write(folder, name, mode):
    (folder / name).chmod(mode)
    refuses(folder, "nobody else who can write")


def test_refuses_a_foreign_owner(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refuses(folder, "want owner 12345")


def test_refuses_what_is_no_plain_file(folder, tmp_path):
    (folder / "ark.der").rename(tmp_path / "root")
    (folder / "ark.der").symlink_to(tmp_path / "root")
    refuses(folder, "symbolic links")
    (folder / "ark.der").unlink()
    os.mkfifo(folder / "ark.der", 0o600)
    refuses(folder, "nobody else who can write")


@pytest.mark.parametrize("size", [0, 20_000])
def test_refuses_a_size_that_no_root_has(folder, size):
    (folder / "ark.der").write_bytes(bytes(size))
    refuses(folder, "want 1 to 16384")
