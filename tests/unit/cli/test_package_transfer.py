# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os

import pytest

from enarx.cli import main
from enarx.registry.layout import LayoutFolder, make_layout
from enarx.wire.oci import EMPTY, FILES, MANIFEST, WASM, Descriptor, Manifest, digest_of, encode_manifest
from tests.fake_registry import FakeRegistry

MODULE = b"\0asm\1\0\0\0" + os.urandom(2_000_000)


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("DOCKER_CONFIG", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def put(layout, data: bytes = MODULE, media_type: str = WASM, *, tag: str | None = "1", **changes) -> Descriptor:
    for each in (b"{}", data):
        layout.put_blob(Descriptor(media_type, digest_of(each), len(each)), [each])
    config, layer = Descriptor(EMPTY, digest_of(b"{}"), 2), Descriptor(media_type, digest_of(data), len(data))
    return layout.put_manifest(encode_manifest(Manifest(config, (layer,), **changes)), MANIFEST, tag=tag)


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "layout").mkdir()
    return make_layout(str(tmp_path / "layout"))


def test_a_package_goes_there_and_back_with_what_refers_to_it(layout, tmp_path, capfd):
    package = put(layout)
    signature = put(layout, b"signature", tag=None, subject=package)
    with FakeRegistry() as registry:
        target = f"oci://{registry.address}/app:2"
        assert main(["package", "publish", layout.path, target, "--json"]) == 0
        assert json.loads(capfd.readouterr().out) == {
            "package": package.digest,
            "place": f"{target}@{package.digest}",
        }
        for output in ("folder", "file.tar"):
            assert main(["package", "fetch", target, "--output", str(tmp_path / output)]) == 0
            assert capfd.readouterr().out == f"package   {package.digest}\nplace     {tmp_path / output}\n"
        asked = len(registry.asked("GET", digest_of(MODULE)))
    assert asked == 1
    fetched = LayoutFolder(str(tmp_path / "folder"))
    assert fetched.resolve("2").descriptor == package
    assert [each.digest for each in fetched.referrers(package.digest)] == [signature.digest]
    # One file is published as well as a folder.
    with FakeRegistry(api=False) as registry:
        assert main(["package", "publish", str(tmp_path / "file.tar"), f"oci://{registry.address}/app"]) == 0
        assert registry.manifests["latest"] == registry.manifests[package.digest]
        assert signature.digest in registry.manifests


def test_what_is_no_package_yet_is_made_one(tmp_path, capfd):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    with FakeRegistry() as registry:
        assert main(["package", "publish", str(tmp_path / "app"), f"oci://{registry.address}/app:1"]) == 0
        assert digest_of(b"\0asm\1\0\0\0") in registry.blobs
        assert "1" in registry.manifests


def test_another_package_may_be_added_to_a_layout(layout, tmp_path):
    one = put(layout)
    other = put(layout, b"\0asm\1\0\0\0", tag="2")
    with FakeRegistry() as registry:
        for tag in "12":
            assert main(["package", "publish", f"{layout.path}:{tag}", f"oci://{registry.address}/app:{tag}"]) == 0
            assert (
                main(["package", "fetch", f"oci://{registry.address}/app:{tag}", "--output", str(tmp_path / "to")]) == 0
            )
    fetched = LayoutFolder(str(tmp_path / "to"))
    assert (fetched.resolve("1").descriptor, fetched.resolve("2").descriptor) == (one, other)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("publish", "{layout}", "{layout}"), 2, "found a path, want oci://"),
        (("publish", "{layout}", "oci://127.0.0.1:1/app:1@sha256:" + "0" * 64), 104, "want sha256:0000"),
        (("publish", "{module}", "oci://127.0.0.1:1/app:1@sha256:" + "0" * 64), 2, "what it will be is not known yet"),
        (("publish", "{layout}", "oci://127.0.0.1:1/app:1"), 107, "Connection refused"),
        (("publish", "{absent}", "oci://127.0.0.1:1/app:1"), 2, "No such file or directory"),
        (("fetch", "{layout}"), 2, "found no --output"),
        (("fetch", "{module}", "--output", "{absent}"), 2, "found a plain module or folder"),
        (("fetch", "{layout}", "--output", "{module}"), 2, "found one already"),
        (("fetch", "{layout}", "--output", "{tar}"), 2, "found one already"),
        (("fetch", "{layout}", "--output", "{absent}/x.tar"), 2, "No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(words, status, message, layout, tmp_path, capfd):
    put(layout)
    for name in ("module.wasm", "file.tar"):
        (tmp_path / name).write_bytes(b"\0asm\1\0\0\0")
    before = sorted(os.listdir(tmp_path))
    names = {
        "layout": layout.path,
        "module": tmp_path / "module.wasm",
        "tar": tmp_path / "file.tar",
        "absent": tmp_path / "absent",
    }
    assert main(["package", *(word.format(**names) for word in words)]) == status
    assert message in capfd.readouterr().err
    assert sorted(set(os.listdir(tmp_path)) - {"cache"}) == before


def test_a_container_image_is_no_package(layout, tmp_path, capfd):
    put(layout, b"tar", FILES)
    with FakeRegistry() as registry:
        assert main(["package", "publish", layout.path, f"oci://{registry.address}/app:1"]) == 103
        assert "found no layers of WebAssembly" in capfd.readouterr().err
        assert not registry.requests


def test_what_does_not_come_leaves_nothing(layout, tmp_path, capfd):
    put(layout)
    with FakeRegistry() as registry:
        target = f"oci://{registry.address}/app:1"
        assert main(["package", "publish", layout.path, target]) == 0
        registry.blobs[digest_of(MODULE)] = MODULE[::-1]
        for output in ("folder", "file.tar"):
            assert main(["package", "fetch", target, "--output", str(tmp_path / output)]) == 104
        assert "want 2000008 with that one" in capfd.readouterr().err
    # Where the tag leads that was published is remembered below the home.
    assert sorted(os.listdir(tmp_path)) == ["cache", "home", "layout"]


def test_a_tag_that_was_moved_is_not_brought_anywhere(layout, tmp_path, capfd):
    put(layout)
    other = put(layout, b"\0asm\1\0\0\0", tag="2")
    with FakeRegistry() as registry:
        target = f"oci://{registry.address}/app:1"
        for tag in "12":
            assert main(["package", "publish", f"{layout.path}:{tag}", f"oci://{registry.address}/app:{tag}"]) == 0
        registry.manifests["1"] = registry.manifests["2"]
        assert main(["package", "fetch", target, "--output", str(tmp_path / "to")]) == 104
        assert main(["package", "publish", target, f"oci://{registry.address}/app:3"]) == 104
        said = capfd.readouterr().err
        assert said.count("the tag was moved") == 2
        assert f"oci://{registry.address}/app@{other.digest}" in said
        assert not (tmp_path / "to").exists()
        assert "3" not in registry.manifests
        meant = f"oci://{registry.address}/app@{other.digest}"
        assert main(["package", "fetch", meant, "--output", str(tmp_path / "to")]) == 0
