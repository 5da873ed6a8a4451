# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import multiprocessing
import os
import stat

import pytest

from enarx.deploy import known_tags
from enarx.deploy.known_tags import known_digest, require_known
from enarx.errors import ConfigError, DecodeError, PlatformError, VerificationError

TAG = "registry.example/app:1.0"
ONE, OTHER = ("sha256:" + digit * 64 for digit in "12")


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "tags")


def test_a_tag_is_remembered_and_refused_when_it_moves(folder):
    assert known_digest(TAG, folder=folder) is None
    require_known(TAG, ONE, folder=folder)
    require_known(TAG, ONE, folder=folder)
    with pytest.raises(VerificationError, match=f"{TAG}: found {OTHER}, want {ONE}") as refused:
        require_known(TAG, OTHER, folder=folder)
    assert "--accept-new-digest" in refused.value.hint
    # A refusal changes nothing: the old one is still the known one.
    assert known_digest(TAG, folder=folder) == ONE
    require_known(TAG, ONE, folder=folder)
    require_known(TAG, OTHER, accept_new=True, folder=folder)
    with pytest.raises(VerificationError, match="the tag was moved"):
        require_known(TAG, ONE, folder=folder)


def test_tags_are_apart(folder):
    for number, tag in enumerate((TAG, TAG + "1", "other.example/app:1.0", "registry.example/other/app:1.0")):
        require_known(tag, f"sha256:{number:064}", folder=folder)
    assert known_digest(TAG, folder=folder) == "sha256:" + "0" * 64


def test_it_is_the_users_own_and_nobody_else_reads_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    require_known(TAG, ONE)
    path = tmp_path / "enarx" / "known-tags" / "tags.json"
    assert json.loads(path.read_text()) == {TAG: ONE}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.parent.chmod(0o755)
    with pytest.raises(PlatformError, match="found mode 755"):
        require_known(TAG, ONE)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": "sha256:1"}', '{"a": {}}', "\0", '{"a": null}'])
def test_a_record_that_is_none_is_refused_and_not_replaced(folder, text):
    require_known(TAG, ONE, folder=folder)
    path = os.path.join(folder, "tags.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    for accept_new in (False, True):
        with pytest.raises((ConfigError, DecodeError)):
            require_known(TAG, OTHER, accept_new=accept_new, folder=folder)
    with open(path, encoding="utf-8") as file:
        assert file.read() == text


def test_a_record_behind_a_link_is_not_followed(folder, tmp_path):
    require_known(TAG, ONE, folder=folder)
    path = os.path.join(folder, "tags.json")
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(PlatformError, match="cannot read the known tags"):
        require_known(TAG, ONE, folder=folder)


def test_it_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(known_tags, "MAX_TAGS", 3)
    for number in range(5):
        require_known(f"{TAG}{number}", ONE, folder=folder)
    assert known_digest(f"{TAG}1", folder=folder) is None
    assert known_digest(f"{TAG}2", folder=folder) == ONE


def _remember(folder: str, first: int) -> None:
    for number in range(first, first + 10):
        require_known(f"{TAG}{number}", ONE, folder=folder)


def test_processes_that_remember_at_once_lose_nothing(folder):
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_remember, args=(folder, first)) for first in (0, 10, 20)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert all(known_digest(f"{TAG}{number}", folder=folder) == ONE for number in range(30))


@pytest.mark.parametrize("host", ["registry.example", "registry.example:50000", "[fd00:0:0:0:0:0:0:1]:50000"])
def test_as_many_tags_as_are_kept_can_be_read_again(folder, host):
    require_known(TAG, ONE, folder=folder)
    path = os.path.join(folder, "tags.json")
    with open(path, "w") as file:
        json.dump({f"{host}/team/app:{number}": ONE for number in range(known_tags.MAX_TAGS)}, file)
    require_known(TAG, OTHER, folder=folder)
    assert known_digest(TAG, folder=folder) == OTHER
    assert known_digest(f"{host}/team/app:0", folder=folder) is None
