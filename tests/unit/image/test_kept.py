# SPDX-License-Identifier: Apache-2.0
"""What is kept is what was made of the same; what is damaged is made again, and what nobody used goes."""

from __future__ import annotations

import os

import pytest

from enarx.errors import PlatformError
from enarx.image.kept import find, forget_old, keep, put


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "enarx/things"


@pytest.fixture
def made():
    return []


def keep_thing(made, key=b"key", **options):
    return keep("things", key, lambda: made.append(key) or b"made of " + key, **options)


def test_is_made_once_for_each_key(made):
    assert [keep_thing(made, key) for key in (b"a", b"b", b"a")] == [b"made of a", b"made of b", b"made of a"]
    assert made == [b"a", b"b"]


def test_is_made_again_where_it_is_wanted_fresh(made):
    keep_thing(made)
    keep_thing(made, fresh=True)
    assert len(made) == 2


@pytest.mark.parametrize("data", [b"", b"short", bytes(100)])
def test_is_made_again_where_it_is_damaged(made, folder, data):
    keep_thing(made)
    (path,) = folder.iterdir()
    path.write_bytes(data)
    assert find("things", b"key") is None
    assert keep_thing(made) == b"made of key"
    assert len(made) == 2


def test_is_closed_to_others(folder):
    put("things", b"key", b"data")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_used_last_stays(folder):
    for number, key in enumerate((b"a", b"b", b"c")):
        put("things", key, key)
        for path in folder.iterdir():
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - 10 * (number + 1)))
    assert find("things", b"a") == b"a"
    forget_old("things", 2)
    assert [find("things", key) for key in (b"a", b"b", b"c")] == [b"a", None, b"c"]


@pytest.mark.parametrize("call", ["stat", "unlink"])
def test_another_build_may_take_what_is_old_away_meanwhile(folder, monkeypatch, call):
    for key in (b"a", b"b", b"c"):
        put("things", key, key)
    asked, unlink = getattr(os, call), os.unlink

    def ask(path, *args, **options):
        if os.path.dirname(path) == str(folder):
            unlink(path)
        return asked(path, *args, **options)

    monkeypatch.setattr(os, call, ask)
    forget_old("things", 0)
    monkeypatch.undo()
    assert not [*folder.iterdir()]


def test_says_that_it_cannot_be_written(monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PlatformError, match="No space left on device"):
        put("things", b"key", b"data")
