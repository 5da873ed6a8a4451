# SPDX-License-Identifier: Apache-2.0
"""Opening: what was built comes back, and what is meant to do harm does not come in, nor leave anything behind."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, DecodeError, PlatformError, UsageError, VerificationError
from enarx.registry import opening
from enarx.registry.building import build_package
from enarx.registry.layout import blob_path
from enarx.registry.opening import open_package
from enarx.wire.oci import (
    EMPTY,
    FILES,
    IMAGE_CONFIG,
    INDEX,
    SPIN_WASM,
    TOML,
    WASM,
    Descriptor,
    Index,
    digest_of,
    encode_index,
)
from tests.unit.registry.layouts import MODULE, new, package, simple, special, tar
from tests.unit.registry.test_building import make_app
from tests.unit.registry.test_tar_format import ENTRY

DIRS = b'[[dirs]]\nhost = "data"\nguest = "/data"\n'


@pytest.fixture
def layout(tmp_path):
    return new(tmp_path / "layout")


@pytest.fixture
def into(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir(mode=0o700)
    return folder


def opened(layout, into, descriptor, **how):
    return open_package(layout, layout.resolve(descriptor.digest), str(into), **how)


def tree(folder):
    return {
        os.path.relpath(os.path.join(above, name), folder): (
            None if name in folders else Path(above, name).read_bytes()
        )
        for above, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }


def refused(layout, into, descriptor, error, word, **how):
    with pytest.raises(error, match=word):
        opened(layout, into, descriptor, **how)
    assert os.listdir(into) == []


def test_what_was_built_comes_back(tmp_path, layout, into):
    app = make_app(tmp_path / "app")
    found = opened(layout, into, build_package(str(app), layout))
    want = {name: data for name, data in tree(app).items() if not name.startswith(("notes", "unnamed"))}
    assert tree(into) == want
    assert found.path == str(into)
    assert len(found.manifest.layers) == 3


def test_nobody_else_can_read_what_was_opened(layout, into):
    before = os.umask(0)
    try:
        opened(layout, into, simple(layout, DIRS, tar(("data", None), ("data/x", b"x"))))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(os.stat(into / name).st_mode) for name in tree(into)}
    assert modes == {"main.wasm": 0o600, "Enarx.toml": 0o600, "data": 0o700, "data/x": 0o600}


@pytest.mark.parametrize("media_type", [WASM, SPIN_WASM])
@pytest.mark.parametrize("config", [IMAGE_CONFIG, EMPTY, "application/vnd.somebody.config+json"])
def test_a_plain_artifact_of_others_is_opened(layout, into, media_type, config):
    opened(layout, into, package(layout, (media_type, MODULE), config=(config, b"not json")))
    assert tree(into) == {"main.wasm": MODULE}


def test_an_index_leads_to_the_only_package_in_it(layout, into):
    wanted = simple(layout, tag=None)
    image = package(layout, ("application/vnd.docker.image.rootfs.diff.tar.gzip", b"x"), tag=None)
    index = layout.put_manifest(encode_index(Index((image, wanted))), INDEX, tag="1")
    assert opened(layout, into, index).descriptor == wanted


def test_an_index_with_two_packages_or_none_is_refused(layout, into):
    one, two = simple(layout, tag=None), simple(layout, toml=b"", tag=None)
    for manifests, count in (((one, two), 2), ((), 0)):
        index = layout.put_manifest(encode_index(Index(manifests)), INDEX, tag="1")
        refused(layout, into, index, DecodeError, f"found an index with {count} packages")
    inner = layout.put_manifest(encode_index(Index((one,))), INDEX, tag="2")
    outer = layout.put_manifest(encode_index(Index((inner,))), INDEX, tag="3")
    refused(layout, into, outer, DecodeError, "found an index with 0 packages")
    many = layout.put_manifest(encode_index(Index((one,) * 33)), INDEX, tag="4")
    refused(layout, into, many, DecodeError, "found an index of 33")


def test_a_document_of_another_kind_is_refused(layout, into):
    found = layout.resolve(simple(layout).digest)
    found = found._replace(descriptor=found.descriptor._replace(media_type="application/json"))
    with pytest.raises(DecodeError, match="found the media type 'application/json'"):
        open_package(layout, found, str(into))


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ([], "found no layers of WebAssembly"),
        ([(TOML, b"")], "found no layers of WebAssembly"),
        ([(WASM, MODULE), (WASM, MODULE)], "found 2 layers of WebAssembly"),
        ([(WASM, MODULE), (SPIN_WASM, MODULE)], "found 2 layers of WebAssembly"),
        ([(WASM, MODULE), (TOML, b""), (TOML, b"")], "found 2 layers of Enarx.toml"),
        ([(WASM, MODULE), ("application/octet-stream", b"")], "found a layer of type 'application/octet-stream'"),
        ([(WASM, MODULE), ("application/vnd.docker.image.rootfs.diff.tar.gzip", b"")], "found a layer of type"),
        ([(WASM, MODULE), (FILES + "+bzip2", b"")], "found a layer of type"),
        ([(WASM, MODULE), (TOML, b" " * 1_000_001)], "found a layer of 1000001 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_that_are_no_packages_are_refused(layout, into, layers, word):
    refused(layout, into, package(layout, *layers), DecodeError, word)


def test_what_is_too_long_is_refused_before_it_is_fetched(layout, into, monkeypatch):
    descriptor = simple(layout)
    monkeypatch.setattr(opening, "MAX_MODULE_BYTES", 7)
    os.unlink(os.path.join(layout.path, blob_path(digest_of(MODULE))))
    refused(layout, into, descriptor, DecodeError, "found a layer of 8 bytes, want at most 7")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (("/etc/x", b""), "found the path '/etc/x'"),
        (("../x", b""), "found the path '../x'"),
        (("data/../../x", b""), "found the path"),
        (("data/./x", b""), "found the path"),
        (("data//x", b""), "found the path"),
        (("..", None), "found the path"),
        (("data/x/", b""), "found the path"),
        ((".", b""), "found the path"),
        (special("data/x", tarfile.SYMTYPE, "/etc/passwd"), "found a symbolic link"),
        (special("data", tarfile.SYMTYPE, "/etc"), "found a symbolic link"),
        (special("data/x", tarfile.LNKTYPE, "main.wasm"), "found a hard link"),
        (special("data/x", tarfile.CHRTYPE), "found a device"),
        (special("data/x", tarfile.BLKTYPE), "found a device"),
        (special("data/x", tarfile.FIFOTYPE), "found a pipe"),
        (("data/f", b"again"), "found 'data/f' twice"),
        (("data/f", None), "found 'data/f' twice"),
        (("data/f/x", b""), "found 'data/f' twice"),
        (("data", b""), "found 'data' twice"),
        (("main.wasm", b""), "found 'main.wasm' twice"),
        (("./main.wasm", b""), "found 'main.wasm' twice"),
        (("Enarx.toml", b""), "found 'Enarx.toml' twice"),
        (("main.wasm/x", b""), "found 'main.wasm' twice"),
        (("data/.wh.f", b""), "what removes a file"),
        (("data/" + "x" * 256, b""), "want at most 64 names of 255 bytes"),
        (("data" + "/x" * 64, b""), "want at most 64 names"),
        (("data" + ("/" + "x" * 250) * 17, b""), "found a path that is too long"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else str(value)[:40],
)
def test_paths_that_mean_harm_are_refused(tmp_path, layout, into, entry, word):
    files = tar(("data", None), ("data/f", b"f"), entry, form=tarfile.PAX_FORMAT)
    refused(layout, into, simple(layout, DIRS, files), DecodeError, word)
    assert sorted(os.listdir(tmp_path)) == ["into", "layout"]


def test_two_layers_with_one_path_are_refused(layout, into):
    one, two = tar(("data/x", b"1")), tar(("data/x", b"2"))
    refused(layout, into, package(layout, (WASM, MODULE), (FILES, one), (FILES, two)), DecodeError, "'data/x' twice")


def test_two_layers_may_share_a_directory(layout, into):
    one, two = tar(("data", None), ("data/x", b"1")), tar(("./", None), ("./data/", None), ("./data/y", b"2"))
    opened(layout, into, package(layout, (WASM, MODULE), (FILES, one), (FILES, two)))
    assert tree(into) == {"main.wasm": MODULE, "data": None, "data/x": b"1", "data/y": b"2"}


def test_a_compressed_layer_is_opened(layout, into):
    files = gzip.compress(tar(("data/x", b"x" * 100_000)))
    opened(layout, into, package(layout, (WASM, MODULE), (TOML, DIRS), (FILES + "+gzip", files)))
    assert tree(into)["data/x"] == b"x" * 100_000


def test_a_layer_that_is_compressed_for_this_python_alone_says_so(layout, into):
    descriptor = package(layout, (WASM, MODULE), (FILES + "+zstd", b"\x28\xb5\x2f\xfd"))
    refused(layout, into, descriptor, (PlatformError, DecodeError), "found zstd, which this Python has not|too early")


def test_a_bomb_ends_at_the_limit(layout, into, monkeypatch):
    monkeypatch.setattr(opening, "MAX_FILES_BYTES", 1 << 20)
    monkeypatch.setattr(opening, "MAX_ENTRIES", 10)
    empty = gzip.compress(bytes(64 << 20))
    for files, word in (
        (gzip.compress(tar(("data/x", bytes(2 << 20)))), "found more than"),
        # Nothing of this one is ever a file.
        (gzip.compress(tar(("a", b""))[:1024]) + empty, "bytes behind its end|found more than"),
    ):
        descriptor = package(layout, (WASM, MODULE), (FILES + "+gzip", files))
        refused(layout, into, descriptor, DecodeError, word)


def test_too_many_files_are_refused(layout, into, monkeypatch):
    monkeypatch.setattr(opening, "MAX_ENTRIES", 3)
    files = tar(*((f"d/{number}", b"") for number in range(6)))
    refused(layout, into, simple(layout, files=files), DecodeError, "found more than 3 files")
    deep = tar(("/".join("abcdefgh"), b""))
    refused(layout, into, simple(layout, files=deep), DecodeError, "found more than 3 files")


@pytest.mark.parametrize("name", ["main", "toml", "files"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"\xff", lambda data: data + b"x"])
def test_a_changed_layer_is_refused(layout, into, name, change):
    data = {"main": MODULE, "toml": DIRS, "files": tar(("data", None))}
    descriptor = simple(layout, data["toml"], data["files"])
    with open(os.path.join(layout.path, blob_path(digest_of(data[name]))), "r+b") as file:
        changed = change(data[name])
        file.write(changed)
        file.truncate(len(changed))
    refused(layout, into, descriptor, VerificationError, "cannot (open|accept)")


def test_a_configuration_is_anybodys_but_whole(layout, into):
    descriptor = package(layout, (WASM, MODULE), config=(EMPTY, b"{}"))
    path = os.path.join(layout.path, blob_path(digest_of(b"{}")))
    Path(path).write_bytes(b"[]")
    refused(layout, into, descriptor, VerificationError, "digest")
    os.unlink(path)
    refused(layout, into, descriptor, DecodeError, "found no blobs/sha256")
    large = package(layout, (WASM, MODULE), config=(EMPTY, bytes((1 << 20) + 1)))
    refused(layout, into, large, DecodeError, "want at most 1048576")


def test_a_layer_is_believed_only_once_its_digest_was_right(layout, into, monkeypatch):
    """No entry of a layer is looked at before all of it was hashed."""
    bad = tar(special("x", tarfile.SYMTYPE, "/etc"))
    descriptor = simple(layout, files=bad)
    path = os.path.join(layout.path, blob_path(digest_of(bad)))
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    refused(layout, into, descriptor, VerificationError, "digest")


def test_a_source_that_dies_leaves_nothing(layout, into):
    descriptor = simple(layout, DIRS, tar(("data", None)))
    open_blob = layout.open_blob

    def dying(wanted):
        if wanted.size == len(DIRS):
            raise KeyboardInterrupt
        return open_blob(wanted)

    layout.open_blob = dying
    refused(layout, into, descriptor, KeyboardInterrupt, None)


@pytest.mark.parametrize(
    "text",
    [
        '[[dirs]]\nhost = "/etc"\nguest = "/x"\n',
        '[[dirs]]\nhost = "../.."\nguest = "/x"\n',
        '[[dirs]]\nhost = "data/../../x"\nguest = "/x"\n',
        '[tls]\ncertificate = "/etc/ssl/cert.pem"\nprivate_key = "/etc/ssl/key.pem"\n',
        '[tls]\ntrust_anchors = ["../x.pem"]\n',
    ],
)
def test_an_enarx_toml_that_names_files_of_this_machine_is_refused(layout, into, text):
    refused(layout, into, simple(layout, text.encode()), UsageError, "want a path below the package's folder")


def test_an_enarx_toml_that_names_what_is_not_there_is_refused(layout, into):
    refused(layout, into, simple(layout, DIRS), DecodeError, "found no directory 'data'")
    refused(layout, into, simple(layout, DIRS, tar(("data", b""))), DecodeError, "found no directory 'data'")
    text = b'[tls]\ntrust_anchors = ["a.pem"]\n'
    refused(layout, into, simple(layout, text, tar(("a.pem", None))), DecodeError, r"found no file 'a\.pem'")


def test_an_enarx_toml_that_is_wrong_is_refused(layout, into):
    refused(layout, into, simple(layout, b"argz = []"), ConfigError, "argz")


def test_an_encrypted_layer_needs_a_key(layout, into):
    refused(layout, into, package(layout, (WASM + "+encrypted", b"x")), UsageError, "an encrypted layer and no key")


def test_a_plain_package_is_not_opened_with_a_key(layout, into):
    """A registry that has the name of an encrypted package can give out a plain one of its own."""
    with pytest.raises(VerificationError, match="found a package that is not encrypted"):
        opened(layout, into, simple(layout), decrypt=object())
    assert tree(into) == {}
    opened(layout, into, simple(layout))


def test_a_layer_is_decrypted_before_anything_looks_at_it(layout, into):
    class Keys:
        def require_together(self, layers, name):
            assert [each.media_type for each in layers] == [kind + "+encrypted" for kind in kinds]

        def open_layer(self, layer, pieces, fd):
            data = bytes(each ^ 1 for each in b"".join(pieces))
            os.write(fd, data)
            return Descriptor(layer.media_type.removesuffix("+encrypted"), digest_of(data), len(data))

    hidden = [bytes(each ^ 1 for each in data) for data in (MODULE, DIRS, gzip.compress(tar(("data/x", b"1"))))]
    kinds = (WASM, TOML, FILES + "+gzip")
    layers = [(kind + "+encrypted", data) for kind, data in zip(kinds, hidden, strict=True)]
    opened(layout, into, package(layout, *layers), decrypt=Keys())
    assert tree(into) == {"main.wasm": MODULE, "Enarx.toml": DIRS, "data": None, "data/x": b"1"}


def test_a_folder_that_is_not_empty_is_left_alone(layout, into):
    (into / "mine").write_text("mine")
    with pytest.raises(UsageError, match="found a folder with something in it"):
        opened(layout, into, simple(layout))
    assert tree(into) == {"mine": b"mine"}
    with pytest.raises(PlatformError, match="No such file"):
        opened(layout, into / "nothing", simple(layout))


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_files_layer_is_opened_or_refused(tmp_path_factory, data):
    top = tmp_path_factory.mktemp("x")
    layout, into = new(top / "layout"), top / "into"
    into.mkdir()
    changed = bytearray(tar(("data", None), ("data/x", b"x")) if data.draw(st.booleans()) else ENTRY)
    for _ in range(3):
        changed[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    try:
        opened(layout, into, simple(layout, files=bytes(changed)))
    except DecodeError:
        assert os.listdir(into) == []
    assert sorted(os.listdir(top)) == ["into", "layout"]
