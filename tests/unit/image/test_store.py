# SPDX-License-Identifier: Apache-2.0
"""The folder of images: what is opened, listed and verified, and what each way of being broken is called."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from enarx.errors import ConfigError, PlatformError, UsageError, VerificationError
from enarx.image.lock import Input
from enarx.image.manifest import Artefact, File, Manifest, decode_manifest, differences, encode_manifest
from enarx.image.store import (
    check_name,
    image_names,
    images_folder,
    install_image,
    list_images,
    make_private,
    open_image,
    private_cache,
    verify_image,
)

ARTEFACTS = {
    "cmdline": b"quiet",
    "initramfs": b"init",
    "kernel": b"linux",
    "firmware/vm.fd": b"ovmf",
    "firmware/snp.fd": b"sev",
}
INPUT = Input(kind="deb", name="a", version="1", suite="bookworm", filename="pool/a.deb", size=1, sha256="ab" * 32)


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def manifest_of(artefacts=ARTEFACTS, **fields):
    return Manifest(
        **{
            "enarx": "0.1.0",
            "arch": "x86_64",
            "compression": "zstd -19",
            "command_line": "quiet",
            "artefacts": {
                path: Artefact(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
                for path, data in sorted(artefacts.items())
            },
            "reference": {"snp": {"measurement": ["ab" * 48]}},
            "inputs": (INPUT,),
            "files": (File(path="init", mode="100755", size=4, sha256="cd" * 32),),
            **fields,
        }
    )


def make(name="keep", artefacts=ARTEFACTS, **fields):
    made = os.path.join(make_private(images_folder()), ".making")
    for path, data in {**artefacts, "manifest.json": encode_manifest(manifest_of(artefacts, **fields))}.items():
        os.makedirs(os.path.dirname(f"{made}/{path}"), exist_ok=True)
        with open(f"{made}/{path}", "wb") as file:
            file.write(data)
    return install_image(made, name)


def test_an_image_is_what_was_installed():
    image = make()
    assert open_image("keep") == image
    assert (image.name, image.arch, image.cmdline) == ("keep", "x86_64", "quiet")
    assert image.folder == f"{images_folder()}/keep"
    assert (image.kernel, image.initramfs) == (f"{image.folder}/kernel", f"{image.folder}/initramfs")
    assert image.firmware == {"vm": f"{image.folder}/firmware/vm.fd", "snp": f"{image.folder}/firmware/snp.fd"}
    assert image.manifest == manifest_of()


def test_its_digest_is_what_sha256sum_computes():
    image = make()
    command = "sha256sum cmdline firmware/* initramfs kernel | sha256sum"
    printed = subprocess.run(["/bin/sh", "-c", command], cwd=image.folder, capture_output=True, text=True, check=True)
    assert image.digest == printed.stdout.split()[0]


def test_its_files_cannot_be_written_and_its_folder_is_closed_to_others():
    image = make()
    assert os.stat(image.folder).st_mode & 0o777 == 0o700
    assert {os.stat(path).st_mode & 0o777 for path in (image.kernel, *image.firmware.values())} == {0o444}


def test_is_found_by_its_digest():
    image = make()
    other = make("other", {**ARTEFACTS, "kernel": b"bsd"})
    for wanted in (image, other):
        assert open_image(wanted.digest) == wanted
        assert open_image(f"sha256:{wanted.digest}") == wanted


def test_takes_the_place_of_what_has_its_name():
    make()
    image = make(artefacts={**ARTEFACTS, "kernel": b"bsd"})
    assert open_image("keep").digest == image.digest
    assert os.listdir(images_folder()) == ["keep"]


def test_all_are_listed_by_name_without_what_is_broken_or_unfinished():
    for name in ("b", "a"):
        make(name)
    os.makedirs(f"{images_folder()}/.making-x")
    os.makedirs(f"{images_folder()}/c")
    assert image_names() == ("a", "b", "c")
    assert [image.name for image in list_images()] == ["a", "b"]


def test_there_are_none_where_there_is_no_folder():
    assert image_names() == list_images() == ()


@pytest.mark.parametrize("name", ["none", "../keep", ".making", "", "ab" * 32])
def test_refuses_an_image_that_is_not_there(name):
    make()
    with pytest.raises(UsageError, match=r"found no such image in .*, want one of: keep") as caught:
        open_image(name)
    assert "enarx image build" in caught.value.hint


@pytest.mark.parametrize("name", [*ARTEFACTS, "manifest.json"])
def test_refuses_a_folder_that_lacks_a_file(name):
    os.unlink(f"{make().folder}/{name}")
    with pytest.raises(ConfigError, match=r"cannot open an image: .*[Nn]o "):
        open_image("keep")


def spoil(path, data):
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        encode_manifest(manifest_of()).replace(b'"format": 1', b'"format": 2'),
        encode_manifest(manifest_of()).replace(b'"kernel"', b'"../kernel"'),
        encode_manifest(manifest_of()).replace(b'"size": 5', b'"size": "5"'),
        encode_manifest(manifest_of()).replace(b'"mode": "100755", ', b""),
        encode_manifest(manifest_of()).replace(b'"enarx"', b'"other"'),
        encode_manifest(manifest_of()).replace(b"ab" * 48, b"AB" * 48),
        encode_manifest(manifest_of(inputs=())).replace(b'"inputs": [\n\n]', b'"inputs": 1'),
    ],
)
def test_refuses_a_manifest_that_is_none(data):
    spoil(f"{make().folder}/manifest.json", data)
    with pytest.raises(ConfigError, match="found no manifest"):
        open_image("keep")


@pytest.mark.parametrize("line", [b"quiet\n", b"\xe9", b"a" * 4000])
def test_refuses_a_command_line_that_is_no_line(line):
    spoil(f"{make().folder}/cmdline", line)
    with pytest.raises(ConfigError, match="cmdline: found"):
        open_image("keep")


def test_an_image_as_it_was_made_is_verified():
    verify_image(make())


@pytest.mark.parametrize("name", ARTEFACTS)
def test_names_the_file_of_which_one_byte_changed(name):
    image = make()
    spoil(f"{image.folder}/{name}", bytes([ARTEFACTS[name][0] ^ 1]) + ARTEFACTS[name][1:])
    with pytest.raises(VerificationError, match=f"keep: {name}: found SHA-256"):
        verify_image(image)


def test_refuses_to_verify_what_went():
    image = make()
    os.unlink(image.kernel)
    with pytest.raises(ConfigError, match="kernel: No such file"):
        verify_image(image)


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "a" * 101, "ab" * 32, "ü"])
def test_refuses_a_name_that_is_none(name):
    with pytest.raises(UsageError, match="cannot name an image"):
        check_name(name)


def test_a_manifest_is_read_as_it_was_written():
    assert decode_manifest(encode_manifest(manifest_of()), "it") == manifest_of()


def test_differences_are_named_inside_the_initramfs_where_they_are_known():
    changed = manifest_of(
        {**ARTEFACTS, "initramfs": b"1234", "kernel": b"bsd"},
        files=(File(path="init", mode="100755", size=4, sha256="ef" * 32),),
    )
    assert differences(manifest_of(), changed) == ["kernel", "initramfs: init"]
    assert differences(manifest_of(), manifest_of()) == []
    assert differences(manifest_of(), manifest_of({**ARTEFACTS, "initramfs": b"1234"})) == ["initramfs"]


def test_a_cache_is_ours_alone():
    folder = private_cache("image-inputs")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    os.chmod(folder, 0o704)
    with pytest.raises(PlatformError, match="found mode 704 of user") as caught:
        private_cache("image-inputs")
    assert caught.value.hint == f"chmod 700 {folder}"


def test_refuses_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PlatformError, match="want a folder that can be written"):
        private_cache("image-inputs")


def test_without_homes_there_is_a_word_about_it(monkeypatch):
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    with pytest.raises(PlatformError, match="cannot find a folder for images: found no home directory"):
        images_folder()
