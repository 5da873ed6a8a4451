# SPDX-License-Identifier: Apache-2.0
"""`enarx config init` writes a file that works as it is, and never over another."""

from __future__ import annotations

import os

import pytest

from enarx.cli import main
from enarx.wire import decode_enarx_toml


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_a_file_that_can_be_read_back(here, capfd):
    assert main(["config", "init"]) == 0
    data = (here / "Enarx.toml").read_bytes()
    assert decode_enarx_toml(data, path="Enarx.toml").files
    out, err = capfd.readouterr()
    assert out == ""
    assert "enarx run app.wasm --wasmcfgfile Enarx.toml" in err


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_leaves_what_is_there(here, capfd, kind):
    path = here / "Enarx.toml"
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(here / "elsewhere")
    else:
        path.mkdir()
    assert main(["config", "init"]) == 2
    assert "found one already, want none" in capfd.readouterr().err
    assert not (here / "elsewhere").exists()
    assert kind != "file" or path.read_text() == "mine"


def test_says_what_keeps_it_from_writing(here, capfd):
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert main(["config", "init"]) == 2
    assert "cannot write Enarx.toml" in capfd.readouterr().err


def test_takes_no_operands(capfd):
    assert main(["config", "init", "app"]) == 2
