# SPDX-License-Identifier: Apache-2.0
"""The seed of virtual TPMs: made once, with a key that is the same in every copy."""

from __future__ import annotations

import os
import shutil

import pytest

from enarx.errors import PlatformError
from enarx.host.launchers import swtpm
from enarx.host.launchers.swtpm import TpmSeed, copy_state, open_seed, read_key_digest, seed_folder, swtpm_command

needs_swtpm = pytest.mark.skipif(
    shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None,
    reason="swtpm and swtpm-tools are not installed",
)
DIGEST = "ab" * 32


@pytest.fixture
def seed(tmp_path):
    folder = tmp_path / "vtpm"
    folder.mkdir()
    (folder / "ak.sha256").write_text(DIGEST + "\n")
    (folder / "tpm2-00.permall").write_bytes(b"state")
    return TpmSeed(str(folder), DIGEST)


def test_the_seed_is_beside_the_emulated_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert seed_folder() == f"{tmp_path}/enarx/vtpm"
    assert read_key_digest() is None


def test_a_seed_that_is_there_is_taken(seed):
    assert open_seed(seed.folder) == seed


def test_a_keep_has_a_copy_that_is_its_own(seed, tmp_path):
    copy_state(seed, str(tmp_path / "copy"), user=None)
    assert os.listdir(tmp_path / "copy") == ["tpm2-00.permall"]
    assert (tmp_path / "copy/tpm2-00.permall").read_bytes() == b"state"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        copy_state(seed, str(tmp_path / "copy"), user=None)


@pytest.mark.parametrize("text", ["", "ab", DIGEST.upper(), "zz" * 32, DIGEST + "a", "\udcff"])
def test_a_digest_that_is_none_is_refused_with_the_way_out(seed, text):
    with open(f"{seed.folder}/ak.sha256", "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PlatformError, match="cannot read the virtual TPM's key"):
        open_seed(seed.folder)


@pytest.mark.parametrize("missing", ["swtpm", "swtpm_setup"])
def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch, tmp_path, missing):
    monkeypatch.setattr(swtpm.shutil, "which", lambda name: None if name == missing else "/bin/true")
    with pytest.raises(PlatformError, match=f"found no {missing} on PATH") as caught:
        open_seed(str(tmp_path / "vtpm"))
    assert caught.value.hint.startswith("apt install swtpm")


def test_a_setup_that_fails_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(swtpm.shutil, "which", lambda name: "/bin/false")
    with pytest.raises(PlatformError, match="swtpm_setup: found status 1"):
        open_seed(str(tmp_path / "vtpm"))
    assert os.listdir(tmp_path) == []


def test_a_setup_that_hangs_is_ended(monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(swtpm, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(swtpm.shutil, "which", lambda name: str(program))
    with pytest.raises(PlatformError, match=r"found no end in 0\.2 s"):
        open_seed(str(tmp_path / "vtpm"))


def test_a_tpm_that_ends_at_once_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(swtpm.shutil, "which", lambda name: "/bin/true")
    with pytest.raises(PlatformError, match=r"swtpm: found answer none|Broken pipe|reset by peer"):
        open_seed(str(tmp_path / "vtpm"))


def test_the_command_has_its_sockets_by_descriptor():
    command = swtpm_command("/usr/bin/swtpm")
    assert command[0] == "/usr/bin/swtpm"
    assert "dir=/proc/self/fd/14,mode=0600" in command
    assert "type=unixio,clientfd=10" in command
    assert "--terminate" in command


@needs_swtpm
def test_a_seed_is_made_with_a_key_that_its_copies_have(tmp_path):
    seed = open_seed(str(tmp_path / "vtpm"))
    assert len(bytes.fromhex(seed.key_sha256)) == 32
    assert open_seed(str(tmp_path / "vtpm")) == seed
    copy_state(seed, str(tmp_path / "copy"), user=None)
    program = shutil.which("swtpm")
    assert swtpm._ask_key(program, str(tmp_path / "copy")) == seed.key_sha256
    assert sorted(os.listdir(tmp_path)) == ["copy", "vtpm"]
    assert open_seed(str(tmp_path / "another")).key_sha256 != seed.key_sha256
