# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enarx.errors import PlatformError, VerificationError
from enarx.steward.folder import StewardFolder, make_folder
from enarx.steward.kept import KeptCheckpoint
from enarx.steward.log import LogSigner

SIGNER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def folder(tmp_path):
    make_folder(str(tmp_path / "state"), {})
    return StewardFolder(str(tmp_path / "state"))


def test_what_is_kept_is_there_and_its_owners_alone(folder):
    kept = KeptCheckpoint(folder)
    assert kept.checkpoint(SIGNER.verifier_key) is None
    for size in (3, 4):
        kept.keep(SIGNER.sign(size, bytes(32)))
        assert kept.checkpoint(SIGNER.verifier_key)[1:] == (size, bytes(32))
    (path,) = Path(folder.path).iterdir()
    assert path.name == "checkpoint"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "nothing", "\x00\xff", OTHER.sign(3, bytes(32))])
def test_what_is_not_of_this_log_is_refused(folder, text):
    kept = KeptCheckpoint(folder)
    kept.keep(text)
    with pytest.raises(VerificationError, match=r"cannot use the kept checkpoint: .*/checkpoint: ") as caught:
        kept.checkpoint(SIGNER.verifier_key)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_what_others_can_write_is_refused(folder):
    kept = KeptCheckpoint(folder)
    kept.keep(SIGNER.sign(3, bytes(32)))
    path = Path(folder.file("checkpoint"))
    path.chmod(0o622)
    with pytest.raises(PlatformError, match="nobody else can write"):
        kept.checkpoint(SIGNER.verifier_key)


def test_what_cannot_be_written_is_said(folder):
    kept = KeptCheckpoint(folder)
    os.mkdir(folder.file("checkpoint"))
    with pytest.raises(PlatformError, match="cannot write"):
        kept.keep("text")
