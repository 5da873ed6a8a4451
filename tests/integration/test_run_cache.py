# SPDX-License-Identifier: Apache-2.0
"""The compiled-module cache as its users meet it: fast when it can be believed, silent and rebuilt when it cannot."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ENARX
from tests.integration.peers import at_once

AS_ROOT = os.geteuid() == 0
NOBODY = 65534
HELLO = b"Hello, world!\n"


def artefacts(fresh) -> list[Path]:
    """Return the compiled files of a cache, the runtime's own two among them."""
    return sorted(fresh.cache.glob("modules-*/*.cwasm"))


def text_module(path: Path, text: str) -> None:
    """Write a module that prints a text of one character and a newline."""
    assert len(text) == 1
    path.write_text(
        '(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        ' (memory (export "memory") 1) (data (i32.const 0) "\\10\\00\\00\\00\\02\\00\\00\\00")'
        f' (data (i32.const 16) "{text}\\n")'
        ' (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))'
    )


def says_hello(ended) -> bool:
    assert (ended.status, ended.stdout) == (0, HELLO), ended.stderr
    return True


def test_what_is_kept_is_private_and_complete(fresh, guest):
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))
    for path in fresh.cache.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert not list(fresh.cache.rglob("*.tmp"))
    # The workload's, and the runtime's trampoline and router.
    assert len(artefacts(fresh)) == 3
    assert len(list(fresh.cache.glob("modules-*/*.seal"))) == 3


def test_eight_first_runs_at_once_leave_one_artefact(fresh, guest):
    module = guest("hello_wasi_snapshot1")
    at_once(8, lambda _: says_hello(fresh.run(module)))
    assert len(artefacts(fresh)) == 3
    assert not list(fresh.cache.rglob("*.tmp"))
    ended = fresh.run("--verbose", module)
    says_hello(ended)
    assert "compiling again" not in ended.stderr
    listed = json.loads(fresh.command("cache", "list", "--json").stdout)
    assert {entry["kind"] for entry in listed["entries"]} == {"module"}


def test_list_shows_and_clear_removes(fresh, guest):
    before = fresh.command("cache", "list", "--json")
    assert (before.status, before.stderr) == (0, "")
    assert json.loads(before.stdout)["entries"] == []
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))
    listed = json.loads(fresh.command("cache", "list", "--json").stdout)
    assert listed["root"] == str(fresh.cache)
    assert len(listed["entries"]) == 3
    for entry in listed["entries"]:
        assert len(entry["name"]) == 64
        assert entry["bytes"] > 0
    shown = fresh.command("cache", "list")
    assert len(shown.stdout.splitlines()) == 3
    cleared = fresh.command("cache", "clear")
    assert (cleared.status, cleared.stdout) == (0, b"")
    assert artefacts(fresh) == []
    assert fresh.command("cache", "clear").status == 0
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))


def test_fuel_is_another_artefact_of_the_same_source(fresh, guest):
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    says_hello(fresh.run(module, "--fuel", "1000000"))
    assert len([path for path in artefacts(fresh) if path.stem.endswith("-fuel")]) == 3
    says_hello(fresh.run(module))


def test_a_changed_file_is_compiled_again(fresh, tmp_path: Path):
    module = tmp_path / "m.wat"
    for text in "ab":
        text_module(module, text)
        assert fresh.run(module).stdout == f"{text}\n".encode()


def test_a_file_rewritten_in_place_right_after_a_run_is_not_mistaken(fresh, tmp_path: Path):
    module = tmp_path / "m.wat"
    for round_ in range(12):
        text = "abc"[round_ % 3]
        # Same inode, same size, and as soon as can be.
        text_module(module, text)
        assert fresh.run(module).stdout == f"{text}\n".encode()


def test_a_file_that_keeps_its_times_is_not_mistaken(fresh, tmp_path: Path):
    module = tmp_path / "m.wat"
    text_module(module, "a")
    before = module.stat()
    assert fresh.run(module).stdout == b"a\n"
    text_module(module, "b")
    # The inode's own time of change cannot be set back.
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fresh.run(module).stdout == b"b\n"


@pytest.mark.parametrize("way", ["flip", "truncate", "empty", "longer", "touch"])
def test_an_artefact_that_was_changed_is_made_again(fresh, guest, way):
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    for path in artefacts(fresh):
        content = bytearray(path.read_bytes())
        if way == "flip":
            content[len(content) // 2] ^= 1
        changed = {"truncate": content[: len(content) // 2], "empty": b"", "longer": content + b"\0"}.get(way, content)
        with path.open("r+b") as file:
            file.write(changed)
            file.truncate(len(changed))
    ended = fresh.run("--verbose", module)
    says_hello(ended)
    assert ended.stderr.count("compiling again") >= 3
    assert all(line.startswith("enarx: cache: ") for line in ended.stderr.splitlines())
    quiet = fresh.run(module)
    says_hello(quiet)
    assert quiet.stderr == ""


@pytest.mark.parametrize("way", ["removed", "garbage", "empty", "of another", "large"])
def test_an_artefact_without_its_seal_is_made_again(fresh, guest, way):
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    for path in artefacts(fresh):
        seal = path.with_suffix(".seal")
        if way == "removed":
            seal.unlink()
        else:
            other = b"module 1-2-3-4-5"
            seal.write_bytes({"garbage": b"\xff\0\n", "empty": b"", "of another": other, "large": b"x" * 5000}[way])
    ended = fresh.run(module)
    says_hello(ended)
    assert ended.stderr == ""
    assert len(artefacts(fresh)) == 3
    again = fresh.run("--verbose", module)
    says_hello(again)
    assert again.stderr == ""


def test_an_artefact_that_another_engine_wrote_is_made_again(fresh, guest):
    # Sealed properly, as an upgrade of the engine in place would leave it: only the engine can tell.
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    for path in artefacts(fresh):
        path.write_bytes(b"\x7fELF" + bytes(1000))
        found = path.stat()
        numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        path.with_suffix(".seal").write_text("module " + "-".join(f"{number:x}" for number in numbers))
    ended = fresh.run("--verbose", module)
    says_hello(ended)
    assert "the engine refuses" in ended.stderr
    assert fresh.run("--verbose", module).stderr == ""


def test_a_symbolic_link_in_the_cache_is_not_followed(fresh, guest, tmp_path: Path):
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    for path in artefacts(fresh):
        moved = tmp_path / path.name
        path.rename(moved)
        path.symlink_to(moved)
    says_hello(fresh.run(module))
    assert not any(path.is_symlink() for path in artefacts(fresh))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755, 0o701])
def test_a_cache_that_is_open_to_others_is_refused(fresh, guest, mode):
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))
    (folder,) = fresh.cache.glob("modules-*")
    folder.chmod(mode)
    ended = fresh.run(guest("hello_wasi_snapshot1"))
    ended.refused(108, str(folder), f"{mode:04o}", "hint: ")
    assert fresh.command("cache", "clear").status == 108
    assert len(artefacts(fresh)) == 3
    folder.chmod(0o700)


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_a_cache_of_somebody_else_is_refused(fresh, guest):
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))
    (folder,) = fresh.cache.glob("modules-*")
    os.chown(folder, NOBODY, NOBODY)
    fresh.run(guest("hello_wasi_snapshot1")).refused(108, f"owner {NOBODY}")


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_an_artefact_of_somebody_else_is_made_again(fresh, guest):
    module = guest("hello_wasi_snapshot1")
    says_hello(fresh.run(module))
    for path in artefacts(fresh):
        os.chown(path, NOBODY, NOBODY)
    says_hello(fresh.run(module))
    assert {path.stat().st_uid for path in artefacts(fresh)} == {0}


def test_a_cache_that_is_a_link_to_elsewhere_is_refused(fresh, guest, tmp_path: Path):
    says_hello(fresh.run(guest("hello_wasi_snapshot1")))
    (folder,) = fresh.cache.glob("modules-*")
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    fresh.run(guest("hello_wasi_snapshot1")).refused(108, str(folder))


@pytest.mark.parametrize("place", ["file", "/proc", "/dev/null"])
def test_where_nothing_can_be_kept_it_still_runs(enarx, guest, tmp_path: Path, place):
    if place == "file":
        place = str(tmp_path / "file")
        Path(place).touch()
    other = enarx.with_env(XDG_CACHE_HOME=place)
    ended = other.run(guest("hello_wasi_snapshot1"))
    says_hello(ended)
    assert ended.stderr == ""
    told = other.run("--verbose", guest("hello_wasi_snapshot1"))
    says_hello(told)
    assert "are not kept" in told.stderr


@pytest.mark.skipif(not AS_ROOT, reason="as root, a file system has to be read-only, not a directory")
def test_a_read_only_home_still_runs(enarx, guest, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    script = 'mount -t tmpfs -o ro none "$HOME" && exec "$0" run --backend nil "$1"'
    env = {**enarx.env, "HOME": str(home)}
    del env["XDG_CACHE_HOME"]
    command = ["unshare", "--mount", "/bin/sh", "-c", script, str(ENARX), str(guest("hello_wasi_snapshot1"))]
    done = subprocess.run(command, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    if b"mount" in done.stderr or b"unshare" in done.stderr:
        pytest.skip("no mounts here")
    assert (done.returncode, done.stdout, done.stderr) == (0, HELLO, b"")


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_it_still_runs(enarx, guest, home, tmp_path: Path):
    ended = enarx.with_env(HOME=home, XDG_CACHE_HOME=None).run(guest("hello_wasi_snapshot1"), cwd=tmp_path)
    says_hello(ended)
    assert ended.stderr == ""
    assert os.listdir(tmp_path) == []
    listed = enarx.with_env(HOME=home, XDG_CACHE_HOME=None).command("cache", "list", "--json")
    assert json.loads(listed.stdout)["entries"] == []


def test_runs_what_comes_from_a_pipe(fresh, guest):
    reader, writer = os.pipe()
    os.write(writer, guest("hello_wasi_snapshot1").read_bytes())
    os.close(writer)
    try:
        says_hello(fresh.run(f"/dev/fd/{reader}", pass_fds=[reader]))
    finally:
        os.close(reader)
    assert len(list(fresh.cache.glob("modules-*/seen/*"))) == 2


def test_clearing_while_others_run_disturbs_nobody(fresh, guest):
    module = guest("hello_wasi_snapshot1")

    def work(number: int) -> None:
        for _ in range(12):
            if number:
                says_hello(fresh.run(module))
                continue
            cleared = fresh.command("cache", "clear")
            # A run that fills it again at the same time is said, in one line.
            assert cleared.status in {0, 108}, cleared.stderr
            assert "Traceback" not in cleared.stderr

    at_once(4, work)
