# SPDX-License-Identifier: Apache-2.0
"""What a hostile workload cannot do: reach the host's descriptors, leave its directories, or take the runtime down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.peers import at_once

SECRET = b"not for the workload\n"

# Tries fd_read and fd_fdstat_get on every number from 3 to 199: ends with how many of them were something.
PROBE = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\00\\10\\00\\00\\00\\10\\00\\00")
  (func $count (param $errno i32) (result i32) (i32.ne (local.get $errno) (i32.const 8)))
  (func (export "_start") (local $fd i32) (local $found i32)
    (local.set $fd (i32.const 3))
    (loop $next
      (local.set $found (i32.add (local.get $found)
        (call $count (call $read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)))))
      (local.set $found (i32.add (local.get $found) (call $count (call $stat (local.get $fd) (i32.const 64)))))
      (local.set $found (i32.add (local.get $found)
        (call $count (call $renumber (local.get $fd) (i32.const 0)))))
      (local.set $found (i32.add (local.get $found) (call $count (call $close (local.get $fd)))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 200))))
    (call $exit (local.get $found))))
"""


def test_no_number_reaches_a_descriptor_of_the_host(enarx, tmp_path: Path):
    module = tmp_path / "probe.wat"
    module.write_text(PROBE)
    (tmp_path / "secret").write_bytes(SECRET)
    files = [os.open(tmp_path / "secret", os.O_RDONLY) for _ in range(20)]
    try:
        ended = enarx.run(module, pass_fds=files)
    finally:
        for fd in files:
            os.close(fd)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", "")


@pytest.fixture(scope="module")
def hostile_cases(enarx, guest) -> int:
    return int(enarx.run(guest("hostile"), "--", "count").stdout)


@pytest.mark.parametrize("fd", [0, 3, 4])
def test_hostile_arguments_end_in_an_errno_or_a_trap(enarx, guest, hostile_cases, tmp_path: Path, fd):
    # 0 is stdin, 3 a listener, 4 a directory.
    module = guest("hostile")
    where = ("--dir", f"{tmp_path}::/d", "--listen", "a=tcp:0")

    def attack(number: int) -> None:
        # What would wait for a connection that never comes is ended by the time limit.
        ended = enarx.run(module, *where, "--timeout", "2s", "--", number, fd)
        assert "Traceback" not in ended.stderr, (number, ended.stderr)
        assert ended.status in {0, 109, 134}, (number, ended)
        if ended.status == 0:
            case, errno = map(int, ended.stdout.split())
            assert case == number
            assert 0 <= errno < 77

    # Four processes at a time.
    at_once(4, lambda worker: [attack(number) for number in range(worker, hostile_cases, 4)])
    assert os.listdir(tmp_path) == []


@pytest.fixture
def prison(tmp_path: Path) -> Path:
    """A directory beside a secret, with links to it."""
    (tmp_path / "secret").write_bytes(SECRET)
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    (inside / "relative").symlink_to("../secret")
    (inside / "absolute").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to("..")
    (inside / "root").symlink_to("/")
    (inside / "loop").symlink_to("loop")
    (inside / "own").write_bytes(b"own\n")
    (inside / "fine").symlink_to("own")
    return inside


ESCAPES = [
    "../secret",
    "deep/../../secret",
    "./../secret",
    "deep/./.././../secret",
    "relative",
    "absolute",
    "up/secret",
    "root/etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "loop",
    "/../secret",
    "deep/../../inside/own",
    "own/../../secret",
]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out_of_a_directory(enarx, guest, prison, path, raw):
    arguments = ["--raw", path] if raw else [path if path.startswith("/") else f"/d/{path}"]
    ended = enarx.run(guest("cat_file"), "--dir", f"{prison}::/d", "--", *arguments)
    assert ended.status == 1, ended
    assert SECRET not in ended.stdout
    assert b"root:" not in ended.stdout
    # With --raw, what is printed is the descriptor and its errno, which is not 0.
    assert not raw or all(line.split()[1] != "0" for line in ended.stdout.decode().splitlines())


@pytest.mark.parametrize("path", ["/d/own", "/d/fine", "/d/deep/../own", "/d/./own"])
def test_paths_inside_lead_where_they_say(enarx, guest, prison, path):
    ended = enarx.run(guest("cat_file"), "--dir", f"{prison}::/d", "--", path)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"own\n", "")


def test_nothing_is_written_outside_either(enarx, guest, prison, tmp_path: Path):
    for target in ("/d/../new", "/d/up/new", "/d/relative", "/d/absolute"):
        ended = enarx.run(guest("cat_file"), "--dir", f"{prison}::/d", "--", "/d/own", target)
        assert ended.status == 1
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert sorted(os.listdir(tmp_path)) == ["inside", "secret"]


def test_without_a_directory_there_is_no_file(enarx, guest):
    ended = enarx.run(guest("cat_file"), "--", "/etc/passwd")
    assert (ended.status, ended.stdout) == (1, b"")


def test_what_a_workload_writes_is_not_mistaken_for_ours(enarx, guest):
    # Bytes go through as they are, to its own stdout only.
    data = b"enarx: \x1b[2J\xff\0\n"
    ended = enarx.run(guest("echo"), stdin=data)
    assert (ended.status, ended.stdout, ended.stderr) == (0, data, "")
