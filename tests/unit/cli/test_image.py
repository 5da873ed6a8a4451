# SPDX-License-Identifier: Apache-2.0
"""`enarx image build|list|verify`: what is asked of the builder, what is printed, and which lock is used."""

from __future__ import annotations

import json

import pytest

from enarx.cli import main
from enarx.errors import VerificationError
from enarx.image import build, export, inputs, store
from enarx.image.lock import encode_lock, read_lock
from enarx.image.manifest import File
from tests.unit.image.test_store import make, manifest_of


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    asked = []

    def build_image(arch, *, name, progress, **options):
        asked.append((arch, name, options))
        progress("fetching", 1, 2)
        progress("fetching", 2, 2)
        return make(name or "keep-1")

    monkeypatch.setattr(build, "build_image", build_image)
    return asked


def test_builds_for_this_machine_at_the_highest_level(asked, capfd, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert main(["image", "build"]) == 0
    assert asked == [("x86_64", None, {"cloud": False, "lock": None, "level": 19, "fresh": False})]
    said = capfd.readouterr()
    assert said.out == f"keep-1  sha256:{store.open_image('keep-1').digest}\n"
    assert said.err.count("fetching (2 bytes)") == 1


def test_builds_as_it_is_told(asked, tmp_path, capfd):
    path = tmp_path / "lock"
    path.write_text(encode_lock(read_lock("aarch64")))
    words = ["--arch", "aarch64", "--name", "n", "--level", "3", "--fresh", "--lock", str(path), "--json"]
    assert main(["image", "build", *words]) == 0
    ((arch, name, options),) = asked
    assert (arch, name, options["level"], options["fresh"]) == ("aarch64", "n", 3, True)
    assert options["lock"].path == str(path)
    said = capfd.readouterr()
    assert json.loads(said.out)["name"] == "n"
    assert f"built with the lock {path}" in said.err


@pytest.mark.parametrize(("words", "output"), [((), None), (("--output", "d"), "d")])
def test_a_format_makes_an_image_for_clouds_and_writes_its_disk(asked, monkeypatch, capfd, words, output):
    written = []
    monkeypatch.setattr(
        export, "export_image", lambda image, kind, path: written.append((image.name, kind, path)) or "p"
    )
    assert main(["image", "build", "--format", "vhd", "--json", *words]) == 0
    assert [options["cloud"] for _, _, options in asked] == [True]
    assert written == [("keep-1", "vhd", output)]
    said = capfd.readouterr()
    assert json.loads(said.out)["disk"] == "p"
    assert "wrote p; the Keep on it listens on TCP port 8471" in said.err


def test_writes_a_new_lock_says_so_and_builds_with_it(asked, monkeypatch, capfd, tmp_path):
    lock = read_lock("x86_64")

    def resolve_lock(target, path, *, progress):
        assert target.name == "x86_64"
        return type(lock)(path=path, arch="x86_64", inputs=lock.inputs)

    monkeypatch.setattr(inputs, "resolve_lock", resolve_lock)
    assert main(["image", "build", "--arch", "x86_64", "--refresh"]) == 0
    path = str(tmp_path / "data/enarx/image-locks/x86_64.toml")
    assert read_lock("x86_64", path).inputs == lock.inputs
    assert asked[0][2]["lock"].path == path
    said = capfd.readouterr().err
    assert f"wrote a new lock: {path}" in said
    assert "which is not the one of this release" in said


@pytest.mark.parametrize(
    ("words", "status", "found"),
    [
        (["--arch", "riscv64"], 108, "found riscv64, want one of x86_64, aarch64"),
        (["--output", "disk"], 2, "found --output without --format"),
        (["--level", "high"], 2, "--level: found 'high', want a number"),
        (["--lock", "/none"], 2, "/none: No such file"),
    ],
)
def test_refuses(words, status, found, asked, capfd):
    assert main(["image", "build", *words]) == status
    assert found in capfd.readouterr().err
    assert asked == []


def test_lists_images_and_says_which_is_broken(capfd, tmp_path):
    image = make("keep-1")
    (tmp_path / "data/enarx/images/broken").mkdir()
    assert main(["image", "list"]) == 0
    said = capfd.readouterr()
    assert said.out == f"keep-1                    x86_64             4 bytes  sha256:{image.digest}\n"
    assert "images/broken/manifest.json: No such file" in said.err
    assert main(["image", "list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert [(row["name"], row["digest"]) for row in listed["images"]] == [("keep-1", image.digest)]


class TestVerify:
    @pytest.fixture(autouse=True)
    def image(self, monkeypatch):
        self.compared = []
        monkeypatch.setattr(build, "verify_contents", lambda image, **_: self.compared.append(image.name))
        self.image = make("keep-1")

    def rebuild(self, monkeypatch, tmp_path, manifest):
        def make_image(arch, *, cloud, lock, level, fresh, progress):
            assert (arch, cloud, lock, level, fresh) == ("x86_64", False, None, 19, True)
            (tmp_path / "made").mkdir()
            return str(tmp_path / "made"), manifest

        monkeypatch.setattr(build, "make_image", make_image)
        status = main(["image", "verify", "keep-1", "--rebuild"])
        assert not (tmp_path / "made").exists()
        return status

    def test_compares_with_the_manifest(self, capfd):
        assert main(["image", "verify", "keep-1"]) == 0
        assert self.compared == ["keep-1"]
        assert self.image.digest in capfd.readouterr().out

    def test_refuses_what_differs(self, monkeypatch, capfd):
        def verify_contents(image, **_):
            raise VerificationError("cannot verify an image: keep-1: kernel: found this, want that")

        monkeypatch.setattr(build, "verify_contents", verify_contents)
        assert main(["image", "verify", "keep-1"]) == 104
        assert "kernel: found this" in capfd.readouterr().err

    def test_an_image_that_is_made_again_alike_is_verified(self, monkeypatch, tmp_path):
        assert self.rebuild(monkeypatch, tmp_path, manifest_of()) == 0

    def test_names_what_a_new_build_has_otherwise(self, monkeypatch, tmp_path, capfd):
        changed = manifest_of(files=(File(path="init", mode="100644", size=4, sha256="cd" * 32),))
        assert self.rebuild(monkeypatch, tmp_path, changed) == 104
        assert "than this enarx and its lock make: initramfs: init" in capfd.readouterr().err

    def test_refuses_an_image_that_is_not_there(self, capfd):
        assert main(["image", "verify", "none"]) == 2
        assert "want one of: keep-1" in capfd.readouterr().err
