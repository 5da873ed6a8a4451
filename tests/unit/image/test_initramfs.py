# SPDX-License-Identifier: Apache-2.0
"""Parts of an image: libraries by what is needed, layers that are kept and made again, the package as it is read."""

from __future__ import annotations

import os
import struct
from dataclasses import replace

import pytest

from enarx.errors import ConfigError
from enarx.image import initramfs
from enarx.image.closure import Module
from enarx.image.contents import ARCHITECTURES, Firmware
from enarx.image.initramfs import image_inputs, needed_entries, read_package
from enarx.image.lock import Input, Lock
from enarx.image.newc import file
from enarx.image.packages import Package


def elf(*needed):
    """Return an ELF file that needs some libraries, and has no more than says so."""
    names, offsets = b"\0", []
    for name in needed:
        offsets.append(len(names))
        names += name.encode() + b"\0"
    dynamic_at = 64 + 2 * 56
    dynamic = b"".join(struct.pack("<qQ", 1, offset) for offset in offsets)
    names_at = dynamic_at + len(dynamic) + 32
    dynamic += struct.pack("<qQqQ", 5, names_at, 0, 0)
    header = struct.pack("<6s10xHHIQQQIHHHHHH", b"\x7fELF\x02\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, names_at + len(names), names_at + len(names), 4096)
    return (
        header
        + load
        + struct.pack("<IIQQQQQQ", 2, 4, dynamic_at, 0, 0, len(dynamic), len(dynamic), 8)
        + dynamic
        + names
    )


LIBRARIES = {
    "libc.so.6": file("lib/libc.so.6", elf("ld.so")),
    "libm.so.6": file("lib/libm.so.6", elf("libc.so.6")),
    "libz.so.1": file("lib/libz.so.1", elf("libc.so.6")),
}


def test_chooses_the_libraries_that_are_needed_and_those_that_they_need():
    program = file("bin/program", elf("libm.so.6", "ld.so"))
    assert needed_entries([program, file("text", b"text")], LIBRARIES, "ld.so") == [
        LIBRARIES["libm.so.6"], LIBRARIES["libc.so.6"],
    ]  # fmt: skip


def test_refuses_a_file_that_needs_what_is_not_listed():
    with pytest.raises(ConfigError, match=r"bin/program: found that it needs libssl.so.3, want one of libc.so.6, libm"):
        needed_entries([file("bin/program", elf("libssl.so.3"))], LIBRARIES, "ld.so")


def test_says_which_input_a_lock_lacks():
    with pytest.raises(ConfigError, match="found no deb libc6, want it pinned"):
        image_inputs(ARCHITECTURES["x86_64"], Lock(path="lock", arch="x86_64", inputs=()))


class TestLayer:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        self.folder = tmp_path / "enarx/image-layers"
        self.made = []

    def layer(self, *key, fresh=False):
        def make():
            self.made.append(key)
            return [file("usr/a", b"a"), file(".hidden", b"h")]

        return initramfs._layer(key, make, lambda: None, fresh=fresh)

    def test_is_made_once(self):
        first = self.layer("k")
        assert {entry.path for entry in first} == {"usr/a", ".hidden"}
        assert sorted(self.layer("k"), key=str) == sorted(first, key=str)
        assert self.made == [("k",)]

    def test_is_made_for_each_key_and_whenever_it_is_wanted_fresh(self):
        self.layer("k")
        self.layer("l")
        self.layer("k", fresh=True)
        assert self.made == [("k",), ("l",), ("k",)]

    def test_is_made_again_where_the_code_that_makes_it_changed(self, monkeypatch):
        self.layer("k")
        monkeypatch.setattr(initramfs, "_recipe", lambda: "another")
        self.layer("k")
        assert len(self.made) == 2

    @pytest.mark.parametrize("data", [b"", b"short", bytes(200)])
    def test_is_made_again_where_it_is_damaged(self, data):
        self.layer("k")
        (path,) = self.folder.iterdir()
        path.write_bytes(data)
        self.layer("k")
        assert len(self.made) == 2

    def test_those_unused_for_longest_go(self):
        for number in range(initramfs._MAX_LAYERS + 3):
            self.layer(str(number))
            for path in self.folder.iterdir():
                status = path.stat()
                os.utime(path, (status.st_atime, status.st_mtime - 1))
        assert len(list(self.folder.iterdir())) == initramfs._MAX_LAYERS
        self.made.clear()
        self.layer(str(initramfs._MAX_LAYERS + 2))
        self.layer("0")
        assert self.made == [("0",)]


class CountingTools:
    """Programs of which only the compiler is there; what it compiled is listed."""

    def __init__(self, identity="tools"):
        self.identity = identity
        self.asked = []

    def compile(self, sources):
        self.asked.append([path for path, _ in sources])
        return [b"compiled " + text for _, text in sources]


class TestCompiling:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_compiles_what_changed_and_nothing_else(self):
        tools = CountingTools()
        first = initramfs._compile([("b.py", b"2"), ("a.py", b"1")], tools, fresh=False)
        assert first == [file("a.pyc", b"compiled 1"), file("b.pyc", b"compiled 2")]
        assert initramfs._compile([("a.py", b"1"), ("b.py", b"2")], tools, fresh=False) == first
        again = initramfs._compile([("a.py", b"1"), ("b.py", b"3")], tools, fresh=False)
        assert again == [file("a.pyc", b"compiled 1"), file("b.pyc", b"compiled 3")]
        assert tools.asked == [["/b.py", "/a.py"], ["/b.py"]]

    def test_compiles_all_of_it_where_that_is_wanted_or_another_interpreter_does(self):
        for tools, fresh in ((CountingTools(), True), (CountingTools(), True), (CountingTools("others"), False)):
            initramfs._compile([("a.py", b"1")], tools, fresh=fresh)
            assert tools.asked == [["/a.py"]]

    def test_the_same_text_elsewhere_is_another_module(self):
        tools = CountingTools()
        for path in ("a.py", "b.py"):
            initramfs._compile([(path, b"1")], tools, fresh=False)
        assert len(tools.asked) == 2

    def test_imports_are_found_once_for_each_text(self, monkeypatch):
        found = []
        real = initramfs.find_imports
        monkeypatch.setattr(initramfs, "find_imports", lambda *what: found.append(what) or real(*what))
        for text in (b"import os.path", b"import os.path", b"from . import a, b"):
            module = Module(source=text, is_package=False)
            assert initramfs._kept_imports("some.name", module, True) == real("some.name", module, True)
        assert len(found) == 2


def test_refuses_a_package_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_package(str(tmp_path))


def test_refuses_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(initramfs, "_MAX_SOURCE_BYTES", 10)
    (tmp_path / "__init__.py").write_text("# much too long")
    with pytest.raises(ConfigError, match=r"__init__.py: found more than 10 bytes"):
        read_package(str(tmp_path))


@pytest.mark.parametrize(("padded", "kept"), [(False, b"code\xff\0\0\0"), (True, b"code\xff")])
def test_firmware_is_without_what_fills_a_flash_chip(monkeypatch, padded, kept):
    package = Package(name="firmware", files={"boot/vmlinuz-6": b"kernel", "a/file": b"code\xff\0\0\0"})
    monkeypatch.setattr(initramfs, "read_deb", lambda *_: package)
    inputs = tuple(
        Input(kind="deb", name=name, version="1", suite="testing", filename=name, size=1, sha256=name)
        for name in ("linux-image-6", "firmware")
    )
    lock = Lock(path="lock", arch="aarch64", inputs=inputs)
    firmware = {"vm": Firmware(package="firmware", path="a/file", padded=padded)}
    entries = initramfs._make_boot(
        replace(ARCHITECTURES["aarch64"], modules=(), firmware=firmware), lock, dict.fromkeys(inputs, "")
    )
    assert {entry.path: entry.data for entry in entries} == {".kernel": b"kernel", ".firmware/vm": kept}
