# SPDX-License-Identifier: Apache-2.0
"""The tenant's folder of a deployment: who may read it, and what is never overwritten."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.deploy.folder import DeploymentFolder, default_state_root
from enarx.errors import PlatformError, UsageError
from tests.tenants import make_credential


@pytest.fixture
def folder(tmp_path):
    return DeploymentFolder.of(str(tmp_path / "keeps"), "[::1]:8470", "k1")


def test_stores_the_key_for_nobody_else(folder):
    credential = make_credential()
    folder.create(credential)
    assert folder.exists()
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    assert os.stat(f"{folder.path}/key.pem").st_mode & 0o777 == 0o600
    loaded = folder.load_credential()
    assert loaded.chain == credential.chain
    encoding = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    assert loaded.private_key.public_key().public_bytes(*encoding) == credential.private_key.public_key().public_bytes(
        *encoding
    )


def test_never_overwrites_a_key(folder):
    folder.create(make_credential())
    before = folder.load_credential().chain
    with pytest.raises(PlatformError, match="deployment of that name"):
        folder.create(make_credential())
    assert folder.load_credential().chain == before


def test_a_key_that_others_can_read_is_refused(folder):
    folder.create(make_credential())
    os.chmod(f"{folder.path}/key.pem", 0o640)
    with pytest.raises(PlatformError, match="0640"):
        folder.load_credential()


def test_a_link_is_not_followed(folder):
    folder.create(make_credential())
    os.rename(f"{folder.path}/key.pem", f"{folder.path}/elsewhere")
    os.symlink("elsewhere", f"{folder.path}/key.pem")
    with pytest.raises(PlatformError):
        folder.load_credential()


def test_a_keep_of_somebody_else_is_said_so(folder):
    with pytest.raises(UsageError, match="no such file") as refused:
        folder.load_credential()
    assert "--kill" in refused.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "../k", "a/b", "a\0", "-x", "x" * 65])
def test_an_id_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(UsageError):
        DeploymentFolder.of(str(tmp_path), "h:1", name)


def test_remembers_how_much_was_shown(folder):
    folder.create(make_credential())
    assert folder.load_offset() == 0
    folder.store_offset(7)
    folder.store_offset(12)
    assert folder.load_offset() == 12


@pytest.mark.parametrize("text", [b"", b"[" * 60_000, b"[]", b'{"shown": -1}', b'{"shown": "7"}', b"\xff"])
def test_what_is_no_place_is_the_beginning(folder, text):
    folder.create(make_credential())
    folder.store_offset(7)
    with open(os.path.join(folder.path, "place.json"), "wb") as file:
        file.write(text)
    assert folder.load_offset() == 0


def test_forgets_the_key_of_a_keep_that_is_gone(folder):
    folder.create(make_credential())
    folder.forget_key()
    folder.forget_key()
    assert not folder.exists()
    folder.remove()
    assert not os.path.exists(folder.path)


def test_state_is_below_xdg_state_home(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert default_state_root() == "/s/enarx/keeps"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    assert default_state_root() == "/h/.local/state/enarx/keeps"
    monkeypatch.delenv("HOME")
    with pytest.raises(PlatformError):
        default_state_root()
