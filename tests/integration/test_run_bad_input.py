# SPDX-License-Identifier: Apache-2.0
"""What is wrong before a workload starts: one line, the right status, nothing left behind."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from tests.integration.certificates import Authority

STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
LISTEN = f'{STDIO}[[files]]\nkind = "listen"\nname = "web"\naddr = "127.0.0.1"\n'
AS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def nothing_is_left(enarx, tmp_path: Path):
    """Require after every test here that neither the cache nor the test's own directory has a temporary file."""
    yield
    for folder in (enarx.cache, tmp_path):
        assert not list(folder.rglob("*.tmp"))


def test_no_such_file(enarx, tmp_path: Path):
    enarx.run(tmp_path / "none.wasm").refused(102, "none.wasm", "No such file")


def test_a_directory_without_a_module(enarx, tmp_path: Path):
    enarx.run(tmp_path).refused(102, "main.wasm")


def test_a_directory_called_main_wasm(enarx, tmp_path: Path):
    (tmp_path / "main.wasm").mkdir()
    enarx.run(tmp_path).refused(102, "main.wasm")
    # The directory is a package then, and has no module either.
    enarx.run(tmp_path / "main.wasm").refused(102, "main.wasm")


def test_an_empty_name(enarx):
    enarx.run("").refused(102)


def test_a_name_that_is_too_long(enarx):
    enarx.run("x" * 5000).refused(102, "File name too long")


def test_a_name_with_control_characters_cannot_move_the_cursor(enarx, tmp_path: Path):
    ended = enarx.run(tmp_path / "\x1b[2J\n.wasm")
    ended.refused(102)
    assert "\x1b" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"hello\n", "68 65 6c 6c"),
        (b"\0", "found bytes 00"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "native program"),
        (b"#!/bin/sh\necho\n", "source text"),
        (b"PK\x03\x04" + bytes(100), "archive"),
        (b"\0asm", "version"),
        (b"\0asm\x02\0\0\0", "version 02000000"),
        (b"\0asm\x0d\0\x01\0\xff", ""),
        (b"(module (func", "expected `)`"),
        (b"(modul)", ""),
        (b"( \xff )", ""),
        (b'(module (func (export "_start") (i32.add)))', ""),
        (b'(module (func (export "_start") (param i32)))', "entry point"),
    ],
)
def test_what_is_no_module(enarx, tmp_path: Path, content, words):
    (tmp_path / "x.wasm").write_bytes(content)
    enarx.run(tmp_path / "x.wasm").refused(103, "x.wasm", words)


def test_a_module_that_ends_too_early(enarx, guest, tmp_path: Path):
    whole = guest("hello_wasi_snapshot1").read_bytes()
    # All of them are 200 runs: a few of each kind, in order.
    for cut in sorted({8, 9, 10, 11, 20, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}):
        (tmp_path / "cut.wasm").write_bytes(whole[:cut])
        enarx.run(tmp_path / "cut.wasm").refused(103, "cut.wasm")


def test_random_bytes_after_the_magic(enarx, tmp_path: Path):
    source = random.Random(1)
    for number in range(10):
        (tmp_path / "noise.wasm").write_bytes(b"\0asm\x01\0\0\0" + source.randbytes(1 << number))
        enarx.run(tmp_path / "noise.wasm").refused(103, "noise.wasm")


def test_a_module_that_is_too_large(enarx, tmp_path: Path):
    with (tmp_path / "huge.wasm").open("wb") as file:
        file.write(b"\0asm\x01\0\0\0")
        file.truncate(1 << 40)
    ended = enarx.run(tmp_path / "huge.wasm")
    ended.refused(103, "huge.wasm", str(1 << 40))


def test_a_device_that_never_ends(enarx):
    enarx.run("/dev/zero").refused(103, "/dev/zero")


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("elsewhere", "launch", "a Keep offers WASI and nothing else"),
        ("env", "emscripten_memcpy", "Emscripten"),
        ("wasi_unstable", "fd_write", "preview 0"),
        ("wasi_snapshot_preview1", "sock_open", "WasmEdge"),
        ("wbg", "__wbg_alert", "wasm-bindgen"),
    ],
)
def test_an_import_that_is_not_offered_is_named_with_what_offers_it(enarx, tmp_path: Path, module, name, words):
    source = tmp_path / "import.wat"
    source.write_text(f'(module (import "{module}" "{name}" (func (param i32))) (func (export "_start")))')
    enarx.run(source).refused(103, f"{module}::{name}", words)


def test_the_guest_with_an_unknown_import(enarx, guest):
    enarx.run(guest("unknown_import")).refused(103, "elsewhere::launch")


def test_an_import_of_another_type(enarx, tmp_path: Path):
    source = tmp_path / "type.wat"
    source.write_text(
        '(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))) (memory (export "memory") 1)'
        ' (func (export "_start")))'
    )
    enarx.run(source).refused(103, "wasi_snapshot_preview1::fd_write", "another type")


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_a_port_that_is_taken(enarx, guest, prot):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = enarx.run(guest("hello_wasi_snapshot1"), "--listen", f"web={prot}:{port}")
        ended.refused(108, f":{port}", "web", "address already in use")


def test_a_port_that_is_taken_twice_in_one_file(enarx, guest, tmp_path: Path, free_port):
    config = tmp_path / "Enarx.toml"
    config.write_text(
        f'{LISTEN}port = {free_port}\nprot = "tcp"\n{LISTEN.removeprefix(STDIO)}port = {free_port}\n'.replace(
            '"web"', '"one"', 1
        )
    )
    ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"))
    assert ended.status == 108
    assert ended.stderr.splitlines()[-2].startswith("enarx: cannot listen for web")


@pytest.mark.parametrize("addr", ["203.0.113.1", "not-an-address", "127.0.0.1:80"])
def test_an_address_that_is_not_ours(enarx, guest, tmp_path: Path, addr):
    config = tmp_path / "Enarx.toml"
    config.write_text(LISTEN.replace("127.0.0.1", addr) + "port = 0\n")
    ended = enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1"))
    ended.refused(108 if addr.startswith("203") else 102, addr)


@pytest.mark.parametrize("host", ["nowhere", "file"])
def test_a_directory_that_does_not_exist(enarx, guest, tmp_path: Path, host):
    (tmp_path / "file").touch()
    config = tmp_path / "Enarx.toml"
    config.write_text(f'[[dirs]]\nhost = "{host}"\nguest = "/x"\n')
    enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(102, str(tmp_path / host))
    enarx.run("--dir", f"{tmp_path / host}::/x", guest("hello_wasi_snapshot1")).refused(102, str(tmp_path / host))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "root")


def tls_config(tmp_path: Path, tls: str) -> Path:
    config = tmp_path / "Enarx.toml"
    config.write_text(f"{LISTEN}port = 0\n[tls]\n{tls}")
    return config


def test_a_certificate_that_does_not_match_its_key(enarx, guest, tmp_path: Path, authority):
    one, other = authority.issue("one"), authority.issue("other")
    config = tls_config(tmp_path, f'certificate = "{one.certificate}"\nprivate_key = "{other.key}"\n')
    enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(102, str(other.key))


@pytest.mark.parametrize("key", ["certificate", "private_key", "trust_anchors"])
@pytest.mark.parametrize(
    "content", [None, b"", b"not PEM\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_of_tls_that_is_not_what_it_should_be(enarx, guest, tmp_path: Path, authority, key, content):
    pair = authority.issue("pair")
    paths = {"certificate": pair.certificate, "private_key": pair.key, "trust_anchors": authority.root}
    paths[key] = tmp_path / "wrong.pem"
    if content is not None:
        paths[key].write_bytes(content)
    config = tls_config(
        tmp_path,
        f'certificate = "{paths["certificate"]}"\nprivate_key = "{paths["private_key"]}"\n'
        f'client_auth = "required"\ntrust_anchors = ["{paths["trust_anchors"]}"]\n',
    )
    enarx.run("--wasmcfgfile", config, guest("hello_wasi_snapshot1")).refused(102, "wrong.pem")


@pytest.mark.skipif(AS_ROOT, reason="root reads everything")
@pytest.mark.parametrize("name", ["main.wasm", "Enarx.toml"])
def test_a_file_that_cannot_be_read(enarx, guest, tmp_path: Path, name):
    (tmp_path / "main.wasm").write_bytes(guest("hello_wasi_snapshot1").read_bytes())
    (tmp_path / "Enarx.toml").touch()
    (tmp_path / name).chmod(0)
    enarx.run(tmp_path).refused(102, name, "Permission denied")


def test_a_configuration_that_is_too_large_or_no_file(enarx, guest, tmp_path: Path):
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(1 << 40)
    module = guest("hello_wasi_snapshot1")
    enarx.run("--wasmcfgfile", tmp_path / "large.toml", module).refused(102, "large.toml")
    enarx.run("--wasmcfgfile", tmp_path, module).refused(102, "Is a directory")


def test_verbose_adds_the_causes(enarx, tmp_path: Path):
    ended = enarx.run("--verbose", tmp_path / "none.wasm")
    assert ended.status == 102
    assert "caused by: FileNotFoundError" in ended.stderr
    assert "Traceback" not in ended.stderr
