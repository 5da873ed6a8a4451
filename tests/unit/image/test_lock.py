# SPDX-License-Identifier: Apache-2.0
"""The lock: the ones that come with enarx, writing and reading, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enarx.errors import ConfigError
from enarx.image.build import image_inputs
from enarx.image.contents import ARCHITECTURES
from enarx.image.lock import Input, Lock, decode_lock, encode_lock, own_lock_path, read_lock, write_lock
from enarx.image.tools import interpreter_version, tool_inputs

DEB = Input(
    kind="deb",
    name="zlib1g",
    version="1:1.2.13.dfsg-1",
    suite="bookworm",
    filename="pool/main/z/zlib/zlib1g_1.2.13.dfsg-1_amd64.deb",
    size=86684,
    sha256="ab" * 32,
)
WHEEL = replace(DEB, kind="wheel", name="cbor2", version="6.2.1", suite="", filename="cbor2-6.2.1-py3-none-any.whl")
KERNEL = replace(DEB, name="linux-image-6.12.1+deb12-cloud-amd64", version="6.12.1-1")
LOCK = Lock(path="lock.toml", arch="x86_64", inputs=(DEB, WHEEL))


@pytest.mark.parametrize("arch", ARCHITECTURES)
class TestOwn:
    def test_has_all_that_an_image_and_its_tools_are_made_of_and_nothing_else(self, arch):
        lock = read_lock(arch)
        used = {*image_inputs(ARCHITECTURES[arch], lock, cloud=True), *tool_inputs(lock)}
        assert used == set(lock.inputs)

    def test_is_as_it_was_written(self, arch):
        with open(own_lock_path(arch), encoding="utf-8") as file:
            assert encode_lock(read_lock(arch)) == file.read()

    def test_has_the_interpreter_that_the_others_have(self, arch):
        assert interpreter_version(read_lock(arch)) == interpreter_version(read_lock("x86_64"))


def test_what_is_written_is_read_again(tmp_path):
    lock = replace(LOCK, path=str(tmp_path / "below/lock.toml"))
    write_lock(lock)
    assert read_lock("x86_64", lock.path) == lock
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["lock.toml"]


def test_finds_inputs_by_kind_and_name():
    lock = replace(LOCK, inputs=(*LOCK.inputs, KERNEL))
    assert (lock.deb("zlib1g"), lock.wheel("cbor2"), lock.kernel()) == (DEB, WHEEL, KERNEL)


@pytest.mark.parametrize(
    ("ask", "lacks"),
    [
        (lambda: LOCK.deb("cbor2"), "deb cbor2"),
        (lambda: LOCK.wheel("zlib1g"), "wheel zlib1g"),
        (LOCK.kernel, "package linux-image-"),
    ],
)
def test_says_what_it_lacks(ask, lacks):
    with pytest.raises(ConfigError, match=f"lock.toml: found no {lacks}") as caught:
        ask()
    assert caught.value.path == "lock.toml"
    assert "--refresh" in caught.value.hint


def altered(**fields):
    return encode_lock(replace(LOCK, inputs=(replace(DEB, **fields),)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("format = 2\narch = 'x86_64'", "format 2"),
        ("format = 1\narch = 'x86_64'\nmirror = ''", "keys arch, format, mirror"),
        ("format = 1\narch = 'riscv64'", "arch 'riscv64'"),
        ("format = 1\narch = []", r"arch \[\]"),
        ("format = 1\narch = 'x86_64'\ninput = 1", "another `input`"),
        ("format = 1\narch = 'x86_64'\ninput = [1]", "an input 1"),
        ("format", "no TOML"),
        ("a = " + "[" * 5000, "no TOML"),
        (encode_lock(replace(LOCK, inputs=(DEB, DEB))), "the deb zlib1g twice"),
        (encode_lock(LOCK).replace("size = 86684\n", ""), "an input"),
        (encode_lock(LOCK).replace("86684", "true"), "size True"),
        (altered(kind="exe"), "kind 'exe'"),
        (altered(size=0), "size 0"),
        (altered(size=1 << 40), "size 1099511627776"),
        (altered(sha256="AB" * 32), "sha256"),
        (altered(filename="pool/../../etc/shadow"), "filename"),
        (altered(filename="/etc/shadow"), "filename"),
        (altered(name="-o"), "name '-o'"),
        (altered(version="1 --index-url=x"), "version"),
    ],
)
def test_refuses(text, found):
    with pytest.raises(ConfigError, match=f"cannot read the image's lock: it: found .*{found}") as caught:
        decode_lock(text.encode(), "it")
    assert caught.value.path == "it"


def test_refuses_what_is_too_long_or_no_text():
    for data in (b"#" * (1 << 21), b"\xff"):
        with pytest.raises(ConfigError, match="cannot read the image's lock"):
            decode_lock(data, "it")


def test_refuses_the_lock_of_another_architecture(tmp_path):
    (tmp_path / "lock").write_text(encode_lock(LOCK))
    with pytest.raises(ConfigError, match="found a lock of x86_64, want one of aarch64"):
        read_lock("aarch64", str(tmp_path / "lock"))


def test_refuses_a_lock_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_lock("x86_64", str(tmp_path / "none"))
