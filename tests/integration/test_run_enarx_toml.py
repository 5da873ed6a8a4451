# SPDX-License-Identifier: Apache-2.0
"""Enarx.toml, and the options and variables that override it, as the workload sees them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

BADF, ROFS, PERM = 8, 69, 63
STDIO = '[[files]]\nkind = "stdin"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "stderr"\n'
# Writes "N\n" to the descriptor N, for 0 to 7, and ends with how many of them took it.
WRITE_ALL = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\40\\00\\00\\00\\02\\00\\00\\00")
  (func (export "_start") (local $fd i32) (local $taken i32)
    (i32.store8 (i32.const 65) (i32.const 10))
    (loop $next
      (i32.store8 (i32.const 64) (i32.add (i32.const 48) (local.get $fd)))
      (if (i32.eqz (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)))
        (then (local.set $taken (i32.add (local.get $taken) (i32.const 1)))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 8))))
    (call $exit (local.get $taken))))
"""


@pytest.fixture
def package(tmp_path: Path, guest):
    """Return a function that writes a directory with main.wasm and Enarx.toml."""

    def write(module: str, config: str) -> Path:
        folder = tmp_path / "package"
        folder.mkdir(exist_ok=True)
        if "(module" in module:
            (folder / "main.wasm").write_text(module)
        else:
            (folder / "main.wasm").write_bytes(guest(module).read_bytes())
        (folder / "Enarx.toml").write_text(config)
        return folder

    return write


def seen(ended) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment that args_env printed."""
    assert ended.status == 0, ended.stderr
    arguments, _, environment = ended.stdout.decode().rpartition("\n\n")
    return arguments.split("\n"), dict(line.split("=", 1) for line in environment.splitlines())


def test_nothing_of_the_callers_environment_reaches_the_workload(enarx, guest):
    arguments, environment = seen(enarx.with_env(SECRET="x").run(guest("args_env")))
    assert arguments == ["main.wasm"]
    assert environment == {}


def test_an_option_that_adds_a_file_announces_all(enarx, guest):
    with enarx.start(guest("args_env"), "--listen", "web=tcp:0") as started:
        environment = seen(started.end())[1]
    assert environment == {"FD_COUNT": "4", "FD_NAMES": "stdin:stdout:stderr:web"}


def test_arguments_and_variables_come_from_the_file(enarx, package):
    folder = package("args_env", 'args = ["--one", "", "three four", "\\u00e4"]\n[env]\nB = "2"\nA = ""\nC = "x=y"\n')
    arguments, environment = seen(enarx.run(folder))
    assert arguments == ["main.wasm", "--one", "", "three four", "ä"]
    assert environment == {"FD_COUNT": "3", "FD_NAMES": "stdin:stdout:stderr", "B": "2", "A": "", "C": "x=y"}


def test_options_win_over_the_file(enarx, package):
    folder = package("args_env", 'args = ["old"]\n[env]\nA = "file"\nB = "file"\n')
    ended = enarx.run(folder, "--env", "A=option", "--env=C=a=b", "--env", "D=", "--", "--new", "--", "x")
    arguments, environment = seen(ended)
    assert arguments == ["main.wasm", "--new", "--", "x"]
    assert {name: environment[name] for name in "ABCD"} == {"A": "option", "B": "file", "C": "a=b", "D": ""}


def test_an_empty_list_after_the_dashes_is_no_arguments(enarx, package):
    arguments, _ = seen(enarx.run(package("args_env", 'args = ["old"]\n'), "--"))
    assert arguments == ["main.wasm"]


def test_the_workload_finds_the_keeps_own_names_whatever_the_file_says(enarx, package):
    folder = package("args_env", '[env]\nFD_COUNT = "9"\nFD_NAMES = "x"\n')
    _, environment = seen(enarx.run(folder, "--env", "FD_COUNT=8"))
    ended = enarx.run(folder)
    # A C program's getenv takes the first of several.
    lines = ended.stdout.decode().partition("\n\n")[2].splitlines()
    assert next(line for line in lines if line.startswith("FD_COUNT=")) == "FD_COUNT=3"
    assert next(line for line in lines if line.startswith("FD_NAMES=")) == "FD_NAMES=stdin:stdout:stderr"
    assert environment


def test_files_are_numbered_as_they_are_written(enarx, package):
    folder = package(
        WRITE_ALL,
        '[[files]]\nkind = "stderr"\n[[files]]\nkind = "null"\nname = "nothing"\n[[files]]\nkind = "stdin"\n'
        '[[files]]\nkind = "stdout"\n[[files]]\nkind = "stdout"\nname = "again"\n',
    )
    ended = enarx.run(folder)
    assert (ended.stderr, ended.stdout) == ("0\n", b"3\n4\n")
    assert ended.status == 4


def test_names_are_the_kinds_or_what_was_written(enarx, package):
    folder = package(
        "args_env",
        '[[files]]\nkind = "null"\n[[files]]\nkind = "stdout"\nname = "out"\n[[files]]\nkind = "null"\n',
    )
    _, environment = seen(enarx.run(folder))
    assert environment == {"FD_COUNT": "3", "FD_NAMES": "null:out:null"}


def test_an_empty_list_of_files_gives_none(enarx, package):
    ended = enarx.run(package(WRITE_ALL, "files = []\n"))
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


def test_a_listener_can_be_the_only_file(enarx, package, tmp_path: Path):
    # Accepts one connection on descriptor 0 and ends with the errno of it.
    module = """
(module
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (call $accept (i32.const 0) (i32.const 0) (i32.const 16)))))
"""
    folder = package(module, '[[files]]\nkind = "listen"\nname = "web"\nprot = "tcp"\nport = 0\n')
    with enarx.start(folder) as started, socket.create_connection(("127.0.0.1", started.port("web")), 20):
        ended = started.end()
    assert (ended.status, ended.stdout) == (0, b"")


def test_null_reads_as_empty_and_swallows(enarx, package):
    config = '[[files]]\nkind = "null"\n[[files]]\nkind = "stdout"\n[[files]]\nkind = "null"\n'
    ended = enarx.run(package("echo", config), stdin=b"not for you")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


def test_directories_are_relative_to_the_file(enarx, package, tmp_path: Path):
    config = '[[dirs]]\nhost = "data"\nguest = "/in"\nread_only = true\n[[dirs]]\nhost = "../out"\nguest = "/out"\n'
    folder = package("cat_file", config)
    (folder / "data").mkdir()
    (folder / "data" / "text").write_text("from the package\n")
    (tmp_path / "out").mkdir()
    shown = enarx.run("package", "--", "/in/text", cwd=tmp_path)
    assert (shown.status, shown.stdout, shown.stderr) == (0, b"from the package\n", "")
    copied = enarx.run(folder, "--", "/in/text", "/out/copy", cwd="/")
    assert (copied.status, copied.stderr) == (0, "")
    assert (tmp_path / "out" / "copy").read_text() == "from the package\n"
    beside = enarx.run("--wasmcfgfile", "Enarx.toml", "main.wasm", "--", "/in/text", cwd=folder)
    assert beside.stdout == b"from the package\n"


def test_a_read_only_directory_takes_nothing(enarx, package):
    folder = package("cat_file", '[[dirs]]\nhost = "data"\nguest = "/in"\nread_only = true\n')
    (folder / "data").mkdir()
    (folder / "data" / "text").write_text("kept\n")
    for target in ("/in/new", "/in/text"):
        ended = enarx.run(folder, "--", "/in/text", target)
        assert ended.status == 1
        assert ended.stderr.startswith(f"{target}: errno ")
    assert os.listdir(folder / "data") == ["text"]
    assert (folder / "data" / "text").read_text() == "kept\n"


def test_directories_of_options_come_after_the_files(enarx, guest, tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "name").touch()
    (tmp_path / "a" / "other").touch()
    ended = enarx.run(guest("ls_dir"), "--dir", "a::/x", "--", "/x", cwd=tmp_path)
    assert ended.status == 0, ended.stderr
    assert sorted(ended.stdout.decode().split()) == ["name", "other"]
    refused = enarx.run(guest("cat_file"), "--dir", f"{tmp_path / 'a'}::/x::ro", "--", "/x/name", "/x/new")
    assert refused.status == 1
    assert not (tmp_path / "a" / "new").exists()


def test_sockets_shift_directories_and_both_are_found(enarx, guest, tmp_path: Path):
    (tmp_path / "text").write_text("found\n")
    with enarx.start(
        guest("cat_file"), "--dir", f"{tmp_path}::/d", "--listen", "a=tcp:0", "--listen", "b=tcp:0", "--", "/d/text"
    ) as started:
        ended = started.end()
    assert (ended.status, ended.stdout) == (0, b"found\n")


def test_listen_gives_an_entry_another_port_and_protocol_or_adds_one(enarx, package):
    folder = package("tcp_echo", f'{STDIO}[[files]]\nkind = "listen"\nname = "listen"\naddr = "127.0.0.1"\nport = 1\n')
    with enarx.start(folder, "--listen", "listen=tcp:0", "--listen", "more=0", "--", "1") as started:
        port = started.port("listen")
        assert started.until_stderr(rb"listening on tls://localhost:\d+ \(more\)")
        with socket.create_connection(("127.0.0.1", port), 20) as peer:
            peer.sendall(b"hello")
            assert peer.recv(5) == b"hello"
        assert started.end().status == 0


def test_variables_stand_in_for_options(enarx, package, guest, tmp_path: Path):
    folder = package("args_env", 'args = ["from", "file"]\n')
    other = enarx.with_env(ENARX_BACKEND="nil", ENARX_WASMCFGFILE=str(folder / "Enarx.toml"))
    ended = other.command("run", guest("args_env"))
    assert ended.stderr == ""
    assert seen(ended)[0] == ["main.wasm", "from", "file"]
    (tmp_path / "other.toml").write_text('args = ["option"]\n')
    ended = other.command("run", guest("args_env"), "--wasmcfgfile", tmp_path / "other.toml")
    assert seen(ended)[0] == ["main.wasm", "option"]


def test_auto_says_that_nothing_protects_the_data(enarx, guest):
    ended = enarx.command("run", guest("hello_wasi_snapshot1"))
    assert (ended.status, ended.stdout) == (0, b"Hello, world!\n")
    assert ended.stderr.startswith("enarx: backend nil: nothing here protects data in use")
    assert ended.stderr.count("\n") == 1


def test_a_backend_that_cannot_be_used_is_refused(enarx, guest):
    ended = enarx.with_env(ENARX_BACKEND="sgx").command("run", guest("hello_wasi_snapshot1"))
    ended.refused(108, "sgx")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("args = [1]\n", ("Enarx.toml:1", "args[0]")),
        ('arg = ["x"]\n', ("Enarx.toml:1", "arg", "args")),
        ('[[files]]\nkind = "pipe"\n', ("Enarx.toml:2", "files[0].kind", "pipe")),
        ('[[files]]\nkind = "listen"\nname = "x"\nport = 70000\n', ("Enarx.toml:4", "files[0].port", "70000")),
        ("[limits]\nfuel = 0\n", ("Enarx.toml:2", "limits.fuel")),
        ("args = [", ("Enarx.toml",)),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1") * 3 + "=", ("Enarx.toml",)),
    ],
)
def test_a_wrong_file_is_refused_by_file_line_and_key(enarx, package, config, words):
    enarx.run(package("hello_wasi_snapshot1", config)).refused(102, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--env", "NOVALUE"),
        ("--env", "=x"),
        ("--dir", "only"),
        ("--dir", "a::"),
        ("--dir", "/dev/null/nowhere::/x"),
        ("--listen", "web"),
        ("--listen", "web=udp:1"),
        ("--listen", "web=70000"),
        ("--memory", "lots"),
        ("--timeout", "0"),
        ("--timeout", "-1s"),
        ("--fuel", "0"),
        ("--fuel", "1e3"),
        ("--open-files", "none"),
        ("--backend", "tpm"),
        ("--unknown",),
        ("--env",),
        ("second.wasm",),
        ("--wasmcfgfile", "/dev/null/Enarx.toml"),
        ("--memory", "1G", "--memory", "2G"),
    ],
)
def test_a_wrong_option_is_refused(enarx, guest, arguments):
    module = guest("hello_wasi_snapshot1")
    enarx.with_env(ENARX_BACKEND="nil").command("run", module, *arguments).refused(102)


@pytest.mark.parametrize("arguments", [("--", b"\xff"), ("--env", b"A=\xff"), ("--env", b"\xff=A")])
def test_arguments_that_are_not_utf_8_are_refused(enarx, guest, arguments):
    decoded = [os.fsdecode(argument) for argument in arguments]
    enarx.run(guest("args_env"), *decoded).refused(102, "UTF-8")
