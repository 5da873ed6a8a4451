# SPDX-License-Identifier: Apache-2.0
"""`enarx package build|info`: where packages are written, and what is said of them."""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from enarx.cli import main
from enarx.cli.run import _is_stored
from enarx.deploy.package import load_package
from enarx.registry.archive import LayoutArchive
from enarx.registry.layout import LayoutFolder, new_layout
from enarx.runtime import watch
from enarx.wire.oci import WASM
from tests.unit.registry.layouts import COMPONENT, IMPORTING, MODULE, package, simple
from tests.unit.registry.test_building import make_app


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a package's files in it, where the command is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return make_app(tmp_path / "app")


def run(*words):
    return main(["package", *words])


def built(*words, capfd):
    assert run("build", *words, "--json") == 0
    return json.loads(capfd.readouterr().out)


def test_builds_one_file_named_after_what_it_is_made_of(capfd, here):
    assert run("build", "app/") == 0
    said = capfd.readouterr()
    digest, oci = load_package("app").digest.hex(), LayoutArchive("app.tar").only_digest()
    assert said.out == f"app.tar\n  package  sha256:{digest}\n  OCI      {oci}\n"
    assert said.err == ""
    (here / "hello.wasm").write_bytes(MODULE)
    assert run("build", "app/hello.wasm") == 0
    assert os.path.exists("hello.tar")
    os.chdir("app")
    assert run("build", ".") == 0
    assert os.path.exists("app.tar")
    assert os.listdir("../temporary") == []


def test_builds_the_same_again_in_its_place(capfd):
    first = built("app", capfd=capfd)
    with open("app.tar", "rb") as file:
        data = file.read()
    assert built("app", capfd=capfd) == first
    with open("app.tar", "rb") as file:
        assert file.read() == data


def test_builds_a_directory_with_a_tag(capfd):
    said = built("app", "--output", "layout", "--tag", "1.0", capfd=capfd)
    assert said["path"] == "layout"
    assert LayoutFolder("layout").resolve("1.0").descriptor.digest == said["oci"]


def test_a_time_can_be_given_and_is_part_of_it(capfd, monkeypatch):
    before = built("app", capfd=capfd)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    after = built("app", capfd=capfd)
    assert (before["package"], before["oci"] == after["oci"]) == (after["package"], False)


@pytest.mark.parametrize(
    ("words", "status", "found"),
    [
        (("nothing",), 2, "nothing: No such file"),
        (("app/data",), 2, "found a directory without main.wasm"),
        (("app/notes",), 103, "found no WebAssembly"),
        (("app", "--output", "app"), 2, "cannot write app: found one already"),
        (("app", "--output", "app/notes.tar/x.tar"), 2, "cannot write"),
        (("app", "--output", "layout", "--tag", "a/b"), 2, "cannot build app: found the tag 'a/b'"),
        (("app", "--tag", "a b"), 2, "cannot build app: found the tag 'a b'"),
        ((), 2, "found operands none, want PATH"),
    ],
)
def test_refuses_to_build(words, status, found, capfd):
    before = sorted(os.listdir("."))
    assert run("build", *words) == status
    assert found in capfd.readouterr().err
    assert sorted(os.listdir(".")) == before
    assert os.listdir("temporary") == []


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "9" * 13])
def test_a_time_that_is_none_is_refused(text, monkeypatch, capfd):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert run("build", "app") == 2
    assert f"SOURCE_DATE_EPOCH: found {text}, want seconds since 1970" in capfd.readouterr().err


def test_a_file_that_is_no_archive_is_not_overwritten(capfd):
    with open("app.tar", "wb") as file:
        file.write(b"a letter")
    assert run("build", "app") == 2
    assert "found something that is no archive" in capfd.readouterr().err
    with open("app.tar", "rb") as file:
        assert file.read() == b"a letter"


def facts(name, *words, capfd):
    assert run("info", name, "--json", *words) == 0
    return json.loads(capfd.readouterr().out)


def test_says_the_same_of_every_form(capfd):
    want = built("app", "--tag", "1.0", capfd=capfd)
    built("app", "--output", "layout", "--tag", "1.0", capfd=capfd)
    found = [facts(name, capfd=capfd) for name in ("app", "app.tar", "app.tar:1.0", "layout", f"layout@{want['oci']}")]
    assert all(each == found[0] for each in found)
    one = found[0]
    assert (one["package"], one["oci"]) == (want["package"], want["oci"])
    assert (one["kind"], one["encrypted"], one["signatures"]) == ("module", False, [])
    assert [(each.get("title"), each["size"]) for each in one["layers"]][:2] == [
        ("main.wasm", len(IMPORTING)),
        ("Enarx.toml", os.stat("app/Enarx.toml").st_size),
    ]
    assert one["imports"] == ["wasi_snapshot_preview1::fd_write", "env::memory"]
    assert one["exports"] == ["_start"]
    assert one["files"]["count"] == 6
    assert one["files"]["tree"] == [
        {"path": path, "size": size}
        for path, size in (
            ("data/Zeichen/ä", 1),
            ("data/a", 0),
            ("data/b", 700),
            ("data/inner/" + "n" * 200, 4),
            ("tls/cert.pem", 4),
            ("tls/key.pem", 3),
        )
    ]
    assert os.listdir("temporary") == []


def test_says_it_in_words(capfd):
    assert run("info", "app") == 0
    said = capfd.readouterr().out
    for line in (
        "  encrypted: no",
        "  signatures: none",
        "  a module that",
        "    is a command: it runs once",
        "    can read and write its standard streams and what it has opened",
        "    wants env::memory, which a Keep does not offer: it will not start",
        "    is given: data as /data",
        "  files: 6, 712 bytes",
        "    data/b  700 bytes",
        "  imports: 2",
        "    wasi_snapshot_preview1::fd_write",
    ):
        assert f"\n{line}\n" in said, line


def test_says_what_a_component_is(capfd):
    with open("c.wasm", "wb") as file:
        file.write(COMPONENT)
    found = facts("c.wasm", capfd=capfd)
    assert (found["kind"], found["exports"]) == ("component", ["wasi:cli/run@0.2.0"])


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(capfd):
    name = b"\x1b[2J"
    section = b"\x01" + bytes([len(name)]) + name + b"\x00\x00"
    with open("evil.wasm", "wb") as file:
        file.write(MODULE + b"\x07" + bytes([len(section)]) + section)
    assert run("info", "evil.wasm") == 0
    said = capfd.readouterr().out
    assert "\x1b" not in said
    assert "\N{REPLACEMENT CHARACTER}[2J" in said


def test_what_is_attached_is_listed_and_not_believed(capfd):
    from enarx.wire.dsse import DSSE

    with new_layout("layout") as layout:
        subject = simple(layout)
        package(layout, (DSSE, b"{}"), subject=subject, artifact_type=DSSE, tag=None)
    assert [each["kind"] for each in facts("layout", capfd=capfd)["signatures"]] == ["local key"]
    assert run("info", "layout") == 0
    assert "signature attached, not judged: local key" in capfd.readouterr().out


def test_of_an_encrypted_package_only_the_outside_is_told(capfd):
    with new_layout("layout") as layout:
        package(layout, (WASM + "+encrypted", b"ciphertext"))
    found = facts("layout", capfd=capfd)
    assert (found["encrypted"], found["package"], found["imports"]) == (True, None, None)
    assert run("info", "layout") == 0
    assert "cannot be told without a key" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [
        ("nothing", 2, "cannot open nothing: found no such file"),
        ("nothing:1.0", 2, "found no such file"),
        ("docker://x/y", 2, "found docker://"),
        ("layout", 103, "found no layers of WebAssembly"),
    ],
)
def test_refuses_to_say(name, status, found, capfd):
    with new_layout("layout") as layout:
        package(layout)
    assert run("info", name) == status
    assert found in capfd.readouterr().err


def test_a_start_looks_for_packages_where_they_can_be():
    with new_layout("layout") as layout:
        simple(layout)
    for name in ("oci://registry.example/app", "app.tar", "nothing.tar", "layout", "layout:1", "nothing:1"):
        assert _is_stored(name)
    os.mkdir("a:b")
    for name in ("app", "app/main.wasm", "nothing", "a:b"):
        assert not _is_stored(name)
    os.rename("app/main.wasm", "layout/main.wasm")
    assert not _is_stored("layout")


def test_runs_and_names_what_was_typed(capfd, monkeypatch):
    """What runs is in a folder of its own, which is gone afterwards."""
    from enarx import runtime
    from enarx.runtime.workload import Outcome

    seen = []

    def run_workload(workload, cache, begin):
        with open(workload.path, "rb") as file:
            seen.append((file.read(), [os.path.isdir(each.host) for each in workload.dirs]))
        return Outcome(0, trap="wasm trap: unreachable")

    monkeypatch.setattr(runtime, "run_workload", run_workload)
    assert run("build", "app") == 0
    capfd.readouterr()
    main(["run", "app.tar", "--backend", "nil"])
    said = capfd.readouterr().err
    assert seen == [(IMPORTING, [True, True])]
    assert f"app.tar is {LayoutArchive('app.tar').only_digest()}" in said
    assert "workload trapped: app.tar: unreachable" in said
    assert os.listdir("temporary") == []


def test_an_error_names_what_was_typed(capfd, monkeypatch, tmp_path):
    # Compiling is watched, and whoever watches would end this process by the next signal that it gets.
    watched = []
    monkeypatch.setattr(watch, "watch", lambda *_: watched.append(True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run("build", "app") == 0
    assert main(["run", "app.tar", "--backend", "nil"]) == 103
    said = capfd.readouterr().err
    assert "app.tar/main.wasm" in said
    assert "temporary" not in said
    assert watched
