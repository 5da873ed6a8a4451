# SPDX-License-Identifier: Apache-2.0
"""One application as a folder, a layout and one file: it runs alike, and is the same package to whoever reads the receipt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tests.fake_registry import FakeRegistry

EMULATED = "--insecure-accept-emulated"
CONFIG = """
args = ["/data/greeting"]
[[files]]
kind = "stdin"
[[files]]
kind = "stdout"
[[files]]
kind = "stderr"
[[dirs]]
host = "data"
guest = "/data"
read_only = true
"""


@pytest.fixture(scope="module")
def app(guest, tmp_path_factory):
    """An application that prints a file of its own."""
    folder = tmp_path_factory.mktemp("package") / "app"
    (folder / "data").mkdir(parents=True)
    shutil.copyfile(guest("cat_file"), folder / "main.wasm")
    (folder / "Enarx.toml").write_text(CONFIG)
    (folder / "data/greeting").write_text("hello from the package\n")
    return folder


@pytest.fixture(scope="module")
def forms(enarx, app):
    """The names of the same package."""
    top = app.parent
    digests = set()
    for output in (top / "app.tar", top / "layout"):
        ended = enarx.command("package", "build", app, "--output", output, "--tag", "1.0", "--json")
        assert ended.status == 0, ended.stderr
        built = json.loads(ended.stdout)
        digests.add((built["oci"], built["package"]))
    ((oci, package),) = digests
    names = (app, top / "app.tar", top / "layout", f"{top}/layout:1.0", f"{top}/layout@{oci}")
    return names, oci, package


def changed(path, what, at):
    """Write a copy of an archive with one bit of something in it changed."""
    data = bytearray(path.read_bytes())
    place = data.index(what)
    data[place + at] ^= 1
    copy = path.with_name("changed.tar")
    copy.write_bytes(data)
    return copy


def test_runs_from_every_form(enarx, forms, tmp_path):
    names, oci, _ = forms
    enarx = enarx.with_env(TMPDIR=str(tmp_path))
    for name in names:
        ended = enarx.command("run", name)
        assert (ended.status, ended.stdout) == (0, b"hello from the package\n"), ended.stderr
        assert (oci in ended.stderr) == (name != names[0])
    assert os.listdir(tmp_path) == []


def test_deploys_from_every_form_with_one_digest(enarx, forms, tmp_path):
    names, oci, package = forms
    enarx = enarx.with_env(TMPDIR=str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for number, name in enumerate((names[0], names[1], names[3])):
        receipt = tmp_path / str(number)
        ended = enarx.command("deploy", name, EMULATED, "--receipt", receipt)
        assert (ended.status, ended.stdout) == (0, b"hello from the package\n"), ended.stderr
        assert (oci in ended.stderr) == (number > 0)
        told = enarx.command("attest", "verify", receipt, "--json")
        assert package.removeprefix("sha256:").encode() in told.stdout, told.stderr
    assert not [name for name in os.listdir(tmp_path / "temporary") if "package" in name]


PARTS = {
    "module": b"\0asm",
    "file": b"hello from",
    "toml": b'args = ["/data',
    "manifest": b'"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest',
    "configuration": b'"architecture"',
}


@pytest.mark.parametrize("what", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("command", ["run", "deploy"])
def test_a_changed_byte_is_refused(enarx, forms, what, command):
    names, _, _ = forms
    copy = changed(names[1], what, 4)
    options = (EMULATED,) if command == "deploy" else ()
    ended = enarx.command(command, copy, *options)
    assert ended.status == 104, ended.stderr
    assert "digest" in ended.stderr
    assert ended.stdout == b""


def test_a_run_that_ends_at_its_limit_leaves_no_folder(enarx, guest, tmp_path):
    from enarx.wire.oci import WASM
    from tests.unit.registry.layouts import new, package

    layout = new(tmp_path / "layout")
    package(layout, (WASM, guest("spin").read_bytes()))
    (tmp_path / "temporary").mkdir()
    ended = enarx.with_env(TMPDIR=str(tmp_path / "temporary")).command("run", layout.path, "--timeout", "500ms")
    assert ended.status == 109, ended.stderr
    assert os.listdir(tmp_path / "temporary") == []


def test_a_package_of_others_runs(enarx, guest, tmp_path):
    """One layer of WebAssembly, and a configuration that says nothing."""
    from tests.unit.registry.layouts import new, package

    layout = new(tmp_path / "layout")
    package(layout, ("application/vnd.wasm.content.layer.v1+wasm", guest("hello").read_bytes()))
    ended = enarx.command("run", layout.path)
    assert (ended.status, ended.stdout) == (0, b"Hello, Enarx!\n"), ended.stderr


def test_a_stranger_gets_no_file_of_this_machine(enarx, guest, tmp_path):
    from enarx.wire.oci import TOML, WASM
    from tests.unit.registry.layouts import new, package

    layout = new(tmp_path / "layout")
    text = b'[[dirs]]\nhost = "/etc"\nguest = "/data"\n'
    package(layout, (WASM, guest("hello").read_bytes()), (TOML, text))
    for command in (("run",), ("deploy", EMULATED)):
        ended = enarx.command(*command, layout.path)
        assert ended.status == 102
        assert "want a path below the package's folder" in ended.stderr


def test_a_signature_is_wanted_of_a_package_and_of_a_folder(enarx, forms):
    names, _, _ = forms
    for name in names[:2]:
        ended = enarx.command("deploy", name, EMULATED, "--require-signature")
        assert ended.status == 102
        assert "found no signer in the policy, want one" in ended.stderr


@pytest.mark.parametrize("output", ["there", "there.tar"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_fetch_that_is_told_to_end_leaves_nothing(enarx, forms, tmp_path, number, output):
    """A registry stops in the middle of the module, and the command is ended then."""
    _, archive, *_ = forms[0]
    sent, over = threading.Event(), threading.Event()

    def behave(handler):
        if handler.command != "GET" or "/blobs/" not in handler.path:
            return False
        data = handler.server.registry.blobs[handler.path.rpartition("/")[2]]
        if not data.startswith(b"\0asm"):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        sent.set()
        over.wait(60)
        return True

    place = tmp_path / "place"
    place.mkdir()
    with FakeRegistry() as registry:
        named = f"oci://{registry.address}/app:1.0"
        assert enarx.command("package", "publish", archive, named).status == 0
        registry.behave = behave
        command = [sys.executable, "-m", "enarx", "package", "fetch", named, "--output", str(place / output)]
        env = {**enarx.env, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            assert sent.wait(60)
            running.send_signal(number)
            assert running.wait(20) == 128 + number
        over.set()
    assert not list(place.iterdir())
