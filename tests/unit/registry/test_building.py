# SPDX-License-Identifier: Apache-2.0
"""Building: the same bytes wherever it is done, and nothing in them that nobody named."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys

import pytest

from enarx.errors import ConfigError, DecodeError, UsageError, VerificationError
from enarx.registry import building
from enarx.registry.archive import write_archive
from enarx.registry.building import build_package
from enarx.wire.oci import FILES, TITLE, TOML, WASM, WASM_CONFIG, decode_manifest_untrusted
from enarx.wire.wasm_config import decode_wasm_config_untrusted
from tests.unit.registry.layouts import COMPONENT, IMPORTING, MODULE, new
from tests.unit.registry.test_tar_format import read

CONFIG = """
[[dirs]]
host = "data"
guest = "/data"
[[dirs]]
host = "./data/inner/"
guest = "/inner"
[tls]
certificate = "tls/cert.pem"
private_key = "tls/key.pem"
"""


def make_app(folder, *, seed=0):
    """Make a folder; files come in an order, with modes and times, that depend on the seed."""
    chance = random.Random(seed)
    files = {
        "main.wasm": IMPORTING,
        "Enarx.toml": CONFIG.encode(),
        "data/b": b"b" * 700,
        "data/a": b"",
        "data/inner/" + "n" * 200: b"long",
        "data/Zeichen/ä": b"x",
        "tls/cert.pem": b"cert",
        "tls/key.pem": b"key",
        "unnamed/secret": b"stays",
        "notes": b"stays",
    }
    names = list(files)
    chance.shuffle(names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        path.chmod(chance.choice([0o600, 0o644, 0o755]))
        os.utime(path, (chance.randrange(1 << 30), chance.randrange(1 << 30)))
    (folder / "data/empty").mkdir()
    return folder


def built(tmp_path, path, **how):
    layout = new(tmp_path / "built")
    descriptor = build_package(str(path), layout, **how)
    return layout, decode_manifest_untrusted(layout.resolve(descriptor.digest).data)


def contents(layout, wanted):
    return b"".join(layout.open_blob(wanted))


def test_a_folder_becomes_three_layers(tmp_path):
    layout, manifest = built(tmp_path, make_app(tmp_path / "app"), tag="1.0")
    assert [(each.media_type, each.annotations) for each in manifest.layers] == [
        (WASM, {TITLE: "main.wasm"}),
        (TOML, {TITLE: "Enarx.toml"}),
        (FILES, {TITLE: "files.tar"}),
    ]
    assert contents(layout, manifest.layers[0]) == IMPORTING
    assert contents(layout, manifest.layers[1]) == CONFIG.encode()
    names = [entry.name for entry, _ in read(contents(layout, manifest.layers[2]))]
    assert names == [
        "data/", "data/Zeichen/", "data/Zeichen/ä", "data/a", "data/b", "data/empty/", "data/inner/",
        "data/inner/" + "n" * 200, "tls/", "tls/cert.pem", "tls/key.pem",
    ]  # fmt: skip
    assert manifest.annotations == {}
    assert layout.resolve("1.0").descriptor.digest == layout.only_digest()


def test_the_configuration_says_what_it_is(tmp_path):
    layout, manifest = built(tmp_path, make_app(tmp_path / "app"), created_s=86400)
    assert manifest.config.media_type == WASM_CONFIG
    config = decode_wasm_config_untrusted(contents(layout, manifest.config))
    assert (config.created_s, config.os, config.imports) == (86400, "wasip1", None)
    assert config.layer_digests == tuple(each.digest for each in manifest.layers)


def test_a_components_configuration_has_its_names(tmp_path):
    (tmp_path / "c.wasm").write_bytes(COMPONENT)
    layout, manifest = built(tmp_path, tmp_path / "c.wasm")
    config = decode_wasm_config_untrusted(contents(layout, manifest.config))
    assert (config.os, config.imports, config.exports) == (
        "wasip2",
        ("wasi:io/streams@0.2.0",),
        ("wasi:cli/run@0.2.0",),
    )
    assert len(manifest.layers) == 1


BUILD = """
import os, sys, time
os.umask(int(sys.argv[3]))
time.tzset()
from enarx.registry.archive import write_archive
from enarx.registry.building import build_package
from enarx.registry.layout import make_layout
os.mkdir(sys.argv[2])
layout = make_layout(sys.argv[2])
build_package(sys.argv[1], layout, tag="1")
write_archive(layout, sys.argv[2] + ".tar")
"""


def test_the_same_folder_gives_the_same_bytes_everywhere(tmp_path):
    found = []
    for number, (mask, zone, seed) in enumerate(
        (("0", "UTC", "1"), ("63", "Pacific/Auckland", "77"), ("18", "X+9", "0"))
    ):
        place = tmp_path / ("deeper/" * number + str(number))
        place.mkdir(parents=True)
        app = make_app(place / "app", seed=number)
        subprocess.run(
            [sys.executable, "-c", BUILD, app, place / "out", mask],
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": seed, "LC_ALL": "C"},
            cwd=place,
            check=True,
            timeout=60,
        )
        found.append((place / "out.tar").read_bytes())
    assert found[0] == found[1] == found[2]


def test_listing_in_another_order_changes_nothing(tmp_path, monkeypatch):
    app, listdir = make_app(tmp_path / "app"), os.listdir
    found = []
    for order in (False, True):
        monkeypatch.setattr(os, "listdir", lambda path, order=order: sorted(listdir(path), reverse=order))
        layout = new(tmp_path / str(order))
        found.append(build_package(str(app), layout))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["main.wasm", "Enarx.toml", "data/a", "tls/key.pem"])
def test_every_byte_that_is_named_counts(tmp_path, name):
    app = make_app(tmp_path / "app")
    one = build_package(str(app), new(tmp_path / "one"))
    with open(app / name, "ab") as file:
        file.write(b"\n" if name == "Enarx.toml" else b"\0\1\0" if name == "main.wasm" else b"x")
    assert build_package(str(app), new(tmp_path / "two")) != one


def test_what_nobody_named_does_not_travel(tmp_path):
    app = make_app(tmp_path / "app")
    one = build_package(str(app), new(tmp_path / "one"))
    (app / "notes").write_bytes(b"other")
    os.symlink("/etc/passwd", app / "unnamed/link")
    assert build_package(str(app), new(tmp_path / "two")) == one
    blobs = tmp_path / "one/blobs/sha256"
    assert not any(b"stays" in path.read_bytes() for path in blobs.iterdir())


def test_the_folder_itself_can_be_named(tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.wasm").write_bytes(MODULE)
    (app / "Enarx.toml").write_text('[[dirs]]\nhost = "."\nguest = "/app"\n')
    (app / "page").write_text("hi")
    layout, manifest = built(tmp_path, app)
    assert [entry.name for entry, _ in read(contents(layout, manifest.layers[2]))] == ["page"]


@pytest.mark.parametrize("path", ["/etc", "..", "data/../../x", "../data"])
@pytest.mark.parametrize("key", ["dirs", "tls"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, path, key):
    app = make_app(tmp_path / "app")
    text = f'[[dirs]]\nhost = "{path}"\nguest = "/x"\n' if key == "dirs" else f'[tls]\ntrust_anchors = ["{path}"]\n'
    (app / "Enarx.toml").write_text(text)
    with pytest.raises(UsageError, match="want a path below the package's folder"):
        build_package(str(app), new(tmp_path / "out"))


def link(path):
    path.symlink_to("/etc")


@pytest.mark.parametrize(
    ("name", "make", "word"),
    [
        ("data/link", link, "found a symbolic link, want a file"),
        ("data/inner/pipe", os.mkfifo, "found a device, socket or pipe"),
        ("tls/cert.pem", link, "found a symbolic link"),
        ("tls/cert.pem", os.mkdir, "found a directory, want a file"),
        ("data", lambda path: path.write_text(""), "found a file, want a directory"),
        ("data", link, "found a symbolic link, want a directory"),
        ("tls", link, "found a symbolic link, want a directory"),
        ("main.wasm", os.mkdir, "without main.wasm"),
        ("Enarx.toml", os.mkdir, "found no file"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path, name, make, word):
    app = make_app(tmp_path / "app")
    subprocess.run(["rm", "-rf", app / name], check=True, timeout=10)
    make(app / name)
    with pytest.raises(UsageError, match=word):
        build_package(str(app), new(tmp_path / "out"))


@pytest.mark.parametrize("name", ["data", "tls/key.pem"])
def test_what_is_named_has_to_be_there(tmp_path, name):
    app = make_app(tmp_path / "app")
    subprocess.run(["rm", "-rf", app / name], check=True, timeout=10)
    with pytest.raises(UsageError, match="No such file"):
        build_package(str(app), new(tmp_path / "out"))


def test_what_is_wrong_is_refused_as_elsewhere(tmp_path):
    app = make_app(tmp_path / "app")
    (app / "Enarx.toml").write_text("argz = []")
    with pytest.raises(ConfigError, match="argz"):
        build_package(str(app), new(tmp_path / "one"))
    (app / "main.wasm").write_text("(module)")
    with pytest.raises(DecodeError, match="found WebAssembly text"):
        build_package(str(app), new(tmp_path / "two"))
    with pytest.raises(UsageError, match="No such file"):
        build_package(str(tmp_path / "nothing"), new(tmp_path / "three"))


def test_limits_hold(tmp_path, monkeypatch):
    app = make_app(tmp_path / "app")
    monkeypatch.setattr(building, "MAX_FILES_BYTES", 700)
    with pytest.raises(UsageError, match="found more than 700 bytes of files"):
        build_package(str(app), new(tmp_path / "one"))
    monkeypatch.setattr(building, "MAX_ENTRIES", 5)
    with pytest.raises(UsageError, match="found more than 5 files"):
        build_package(str(app), new(tmp_path / "two"))
    monkeypatch.setattr(building, "MAX_MODULE_BYTES", 5)
    with pytest.raises(UsageError, match="want at most 5"):
        build_package(str(app), new(tmp_path / "three"))


def test_a_module_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "m.wasm"
    path.write_bytes(MODULE)
    layout = new(tmp_path / "out")
    put = layout.put_blob

    def change(wanted, pieces):
        path.write_bytes(MODULE[:-1] + b"\1")
        put(wanted, pieces)

    layout.put_blob = change
    with pytest.raises(VerificationError):
        build_package(str(path), layout)


def test_nothing_large_is_held(tmp_path):
    """A module of 64 MiB is built in far less memory than that."""
    import tracemalloc

    path = tmp_path / "m.wasm"
    size = 64 << 20
    with open(path, "wb") as file:
        file.write(
            MODULE + b"\0" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
        )
        file.truncate(file.tell() + size)
    layout = new(tmp_path / "out")
    tracemalloc.start()
    build_package(str(path), layout)
    write_archive(layout, str(tmp_path / "out.tar"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_link_that_is_put_on_the_way_meanwhile_is_not_followed(tmp_path, monkeypatch):
    app = make_app(tmp_path / "app")
    shutil.copytree(app / "data", tmp_path / "elsewhere")
    write = building._Walk.write

    def swap_first(walk, path, archive):
        if not (app / "data").is_symlink():
            (app / "data").rename(app / "before")
            (app / "data").symlink_to(tmp_path / "elsewhere")
        write(walk, path, archive)

    monkeypatch.setattr(building._Walk, "write", swap_first)
    with pytest.raises(UsageError, match=r"cannot build .*/data/.*: Not a directory"):
        build_package(str(app), new(tmp_path / "layout"))


def test_a_long_path_is_not_told_whole(tmp_path):
    app = make_app(tmp_path / "app")
    (app / "Enarx.toml").write_text('[[dirs]]\nhost = "../' + "a" * 500_000 + '"\nguest = "/d"\n')
    with pytest.raises(UsageError, match="want a path below the package's folder") as refused:
        build_package(str(app), new(tmp_path / "layout"))
    assert len(str(refused.value)) < 1000
