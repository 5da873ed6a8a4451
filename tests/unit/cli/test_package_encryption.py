# SPDX-License-Identifier: Apache-2.0
"""`enarx package recipient|encrypt`: what they write, what they print, and that nothing is written where something is wrong."""

from __future__ import annotations

import json

import pytest

from enarx.cli import main
from enarx.registry.archive import LayoutArchive
from enarx.registry.encryption import LayerKeys, is_encrypted
from enarx.registry.layout import LayoutFolder
from enarx.wire.oci import decode_manifest_untrusted

MODULE = b"\0asm\1\0\0\0"


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.wasm").write_bytes(MODULE)
    (folder / "Enarx.toml").write_text('args = ["a"]\n')
    return folder


@pytest.fixture
def key(tmp_path, capfd):
    path = tmp_path / "k"
    assert main(["package", "recipient", str(path)]) == 0
    said = capfd.readouterr()
    assert said.out == f"private     {path}\npublic      {path}.pub\n"
    assert "keep a copy" in said.err
    return path


def encrypt(app, key, output, *more):
    return main(["package", "encrypt", str(app), "--to", f"{key}.pub", "--output", str(output), *more])


def layers(layout):
    return decode_manifest_untrusted(layout.resolve(layout.only_digest()).data).layers


@pytest.mark.parametrize("form", ["layout", "layout.tar"])
def test_writes_a_folder_or_a_file(app, key, tmp_path, form, capfd):
    output = tmp_path / form
    assert encrypt(app, key, output, "--json") == 0
    said = capfd.readouterr()
    found = LayoutArchive(str(output)) if form.endswith(".tar") else LayoutFolder(str(output))
    assert json.loads(said.out) == {"package": found.only_digest(), "output": str(output), "recipients": 1}
    assert all(is_encrypted(layer) for layer in layers(found))
    keys = LayerKeys.load([str(key)])
    assert [keys.unwrap(layer)[1].length for layer in layers(found)] == [len(MODULE), 13]


def test_a_layout_keeps_its_tag(app, key, tmp_path, capfd):
    assert main(["package", "build", str(app), "--output", str(tmp_path / "plain"), "--tag", "1.0"]) == 0
    assert encrypt(f"{tmp_path}/plain:1.0", key, tmp_path / "sealed") == 0
    said = capfd.readouterr()
    assert "sign it with `enarx package sign`" in said.err
    sealed = LayoutFolder(str(tmp_path / "sealed"))
    assert sealed.resolve("1.0").descriptor.digest in said.out


@pytest.mark.parametrize("form", ["there", "there.tar"])
def test_nothing_is_written_over(app, key, tmp_path, form, capfd):
    output = tmp_path / form
    if form.endswith(".tar"):
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "file").write_text("mine")
    assert encrypt(app, key, output) == 2
    assert "found one already, want none" in capfd.readouterr().err
    assert (output if output.is_file() else output / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--output", "OUT"], 2, "recipients: found none"),
        (["--to", "KEY.pub"], 2, "no --output"),
        (["--to", "KEY", "--output", "OUT"], 2, "found a private key"),
        (["--to", "KEY.none", "--output", "OUT"], 2, "No such file"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(app, key, tmp_path, words, status, said, capfd):
    given = [word.replace("KEY", str(key)).replace("OUT", str(tmp_path / "out")) for word in words]
    assert main(["package", "encrypt", str(app), *given]) == status
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_fails_leaves_no_output(app, key, tmp_path, capfd):
    (app / "main.wasm").write_bytes(b"(module)")
    for name in ("out", "out.tar"):
        assert encrypt(app, key, tmp_path / name) in {2, 103}
        assert not (tmp_path / name).exists()
    assert encrypt(tmp_path / "none", key, tmp_path / "out") == 2
    capfd.readouterr()
