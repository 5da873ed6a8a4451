# SPDX-License-Identifier: Apache-2.0
"""The archive: what it says of each entry, that order and surroundings do not matter, and that it can be read again."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError, DecodeError
from enarx.image.newc import Entry, device, directory, file, link, read_newc, write_newc

ENTRIES = (
    file("usr/bin/python", b"program", executable=True),
    file("usr/lib/a.pyc", b""),
    link("lib", "usr/lib"),
    device("dev/console", 5, 1, 0o600),
    directory("proc"),
)


def test_the_order_given_does_not_matter():
    assert write_newc(ENTRIES) == write_newc(ENTRIES[::-1])


def test_is_read_again_with_its_folders_sorted_by_path():
    read = read_newc(write_newc(ENTRIES))
    assert [entry.path for entry in read] == [
        "dev", "dev/console", "lib", "proc", "usr", "usr/bin", "usr/bin/python", "usr/lib", "usr/lib/a.pyc",
    ]  # fmt: skip
    assert set(ENTRIES) < set(read)


def test_an_entry_is_a_header_of_numbers_a_name_and_the_contents():
    archive = write_newc([file("init", b"12345", executable=True)])
    fields = ["00000001", "000081ED", "0" * 16, "00000001", "00000000", "00000005", "0" * 32, "00000005"]
    start = ("070701" + "".join(fields) + "0" * 8).encode() + b"init\0"
    assert archive.startswith(start + bytes(-len(start) % 4) + b"12345" + bytes(3) + b"070701")
    assert archive.endswith(b"TRAILER!!!\0\0\0\0")
    assert len(archive) % 4 == 0


def test_modes_say_who_may_do_what():
    modes = {entry.path: entry.mode for entry in read_newc(write_newc(ENTRIES))}
    assert modes["usr/bin/python"] == stat.S_IFREG | 0o755
    assert modes["usr/lib/a.pyc"] == stat.S_IFREG | 0o644
    assert modes["usr"] == stat.S_IFDIR | 0o755
    assert modes["dev/console"] == stat.S_IFCHR | 0o600


@pytest.mark.parametrize("path", ["", "/init", "a//b", "a/../b", "./a", "a/", "a\0b", "a" * 4096, "TRAILER!!!"])
def test_refuses_a_path_that_is_no_relative_one(path):
    with pytest.raises(ConfigError, match="cannot write an archive"):
        write_newc([file(path, b"")])


def test_refuses_a_path_that_is_there_twice():
    with pytest.raises(ConfigError, match="init: found it twice"):
        write_newc([file("init", b"a"), file("init", b"b")])


def test_refuses_what_is_in_no_folder():
    with pytest.raises(ConfigError, match="a: found a/b in what is no folder"):
        write_newc([file("a", b""), file("a/b", b"")])


@pytest.mark.parametrize("size", [0, 3, 110, 200])
def test_refuses_to_read_an_archive_that_ends_early(size):
    with pytest.raises(DecodeError, match="cannot read an archive"):
        read_newc(write_newc(ENTRIES)[:size])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=400))
def test_reads_or_refuses_any_bytes(data):
    try:
        entries = read_newc(data)
    except DecodeError:
        return
    assert all(isinstance(entry, Entry) for entry in entries)
