# SPDX-License-Identifier: Apache-2.0
"""Directories and files: each function of WASI, what a read-only directory refuses, and what hostile use meets."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.runtime.component.binding import Keep
from enarx.runtime.component.filesystem import (
    ERROR_CODE,
    MAX_OFFSET,
    preopens_interface,
    types_interface,
)
from enarx.runtime.component.io import CHUNK, IoError
from enarx.runtime.component.values import Err
from enarx.runtime.workload import Directory, Limits

from .conftest import make_workload

FOLLOW = frozenset({"symlink-follow"})
NONE = frozenset()
READ = frozenset({"read"})
WRITE = frozenset({"write"})
BOTH = READ | WRITE
CREATE = frozenset({"create"})
NO_CHANGE = ("no-change", None)


class Guest:
    """Calls the interface as a component would, without one."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.root, self.name = preopens_interface.functions["get-directories"].call(keep)[0]

    def __call__(self, method: str, opened, *arguments):
        return types_interface.functions[f"[method]descriptor.{method}"].call(self.keep, opened, *arguments)

    def code(self, method: str, opened, *arguments) -> str:
        with pytest.raises(Err) as caught:
            self(method, opened, *arguments)
        assert caught.value.value in ERROR_CODE.cases
        return caught.value.value

    def open(self, path: str, flags=READ, open_flags=NONE, path_flags=FOLLOW):
        return self("open-at", self.root, path_flags, path, open_flags, flags)

    def entries(self, opened):
        stream = self("read-directory", opened)
        try:
            while (entry := self.next(stream)) is not None:
                yield entry
        finally:
            stream.drop()

    def next(self, stream):
        name = "[method]directory-entry-stream.read-directory-entry"
        return types_interface.functions[name].call(self.keep, stream)


def make_guest(engine, path, *, read_only=False, limits=None):
    return Guest(Keep(engine, make_workload(limits=limits, dirs=[Directory(str(path), "/data", read_only=read_only)])))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("0123456789")
    (folder / "sub").mkdir()
    (folder / "link").symlink_to("file")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def guest(engine, folder):
    guest = make_guest(engine, folder)
    yield guest
    guest.root.drop()
    assert guest.keep.account.open_files == 0
    guest.keep.close()


@pytest.fixture
def reader(engine, folder):
    guest = make_guest(engine, folder, read_only=True)
    yield guest
    guest.root.drop()
    assert guest.keep.account.open_files == 0
    guest.keep.close()


def test_directories_are_given_by_their_guest_names(guest, reader):
    assert guest.name == "/data"
    assert guest("get-type", guest.root) == "directory"
    assert guest("get-flags", guest.root) == {"read", "mutate-directory"}
    assert reader("get-flags", reader.root) == READ


def test_a_directory_that_is_not_there_is_named(engine, tmp_path):
    with pytest.raises(ConfigError, match=r"missing: found no directory"):
        make_guest(engine, tmp_path / "missing")


def test_reads_at_an_offset(guest):
    file = guest.open("file")
    assert guest("read", file, 3, 4) == (b"456", False)
    assert guest("read", file, 2**64 - 1, 8) == (b"89", False)
    assert guest("read", file, 1, 10) == (b"", True)
    assert guest("read", file, 0, 10) == (b"", False)
    assert guest.code("read", file, 1, MAX_OFFSET + 1) == "invalid"
    assert guest.code("write", file, b"x", 0) == "bad-descriptor"
    assert guest.code("write-via-stream", file, 0) == "bad-descriptor"
    assert guest.code("append-via-stream", file) == "bad-descriptor"
    assert guest("get-flags", file) == READ
    assert guest("get-type", file) == "regular-file"
    file.drop()


def test_writes_at_an_offset(guest, folder):
    file = guest.open("file", BOTH)
    assert guest("write", file, b"ab", 2) == 2
    guest("set-size", file, 6)
    guest("sync", file)
    guest("sync-data", file)
    assert guest("read", file, 99, 0) == (b"01ab45", False)
    assert guest.code("set-size", file, MAX_OFFSET + 1) == "invalid"
    assert guest.code("write", file, b"x", 2**64 - 1) == "invalid"
    assert guest("get-flags", file) == BOTH
    file.drop()
    assert (folder / "file").read_text() == "01ab45"


def test_a_file_that_is_only_written_is_not_read(guest):
    file = guest.open("file", WRITE)
    assert guest.code("read", file, 1, 0) == "bad-descriptor"
    assert guest.code("read-via-stream", file, 0) == "bad-descriptor"
    file.drop()


def test_a_directory_is_no_file(guest):
    for method, arguments in (
        ("read", (1, 0)),
        ("write", (b"x", 0)),
        ("set-size", (0,)),
        ("read-via-stream", (0,)),
        ("write-via-stream", (0,)),
        ("append-via-stream", ()),
        ("advise", (0, 0, "normal")),
    ):
        assert guest.code(method, guest.root, *arguments) == "bad-descriptor"
    assert guest.code("open-at", guest.root, FOLLOW, "sub", NONE, WRITE) == "is-directory"


def test_a_file_is_no_directory(guest):
    file = guest.open("file")
    for method, arguments in (
        ("read-directory", ()),
        ("create-directory-at", ("x",)),
        ("stat-at", (FOLLOW, "x")),
        ("set-times-at", (FOLLOW, "x", NO_CHANGE, NO_CHANGE)),
        ("link-at", (NONE, "x", guest.root, "y")),
        ("open-at", (FOLLOW, "x", NONE, READ)),
        ("readlink-at", ("x",)),
        ("remove-directory-at", ("x",)),
        ("rename-at", ("x", guest.root, "y")),
        ("symlink-at", ("x", "y")),
        ("unlink-file-at", ("x",)),
        ("metadata-hash-at", (FOLLOW, "x")),
    ):
        assert guest.code(method, file, *arguments) == "not-directory"
    assert guest.code("open-at", guest.root, FOLLOW, "file", frozenset({"directory"}), READ) == "not-directory"
    file.drop()


def test_streams_read_and_write_from_an_offset_on(guest, folder):
    file = guest.open("file", BOTH)
    stream = guest("read-via-stream", file, 8)
    assert stream.read(CHUNK) == b"89"
    with pytest.raises(Err):
        stream.read(1)
    output, end = guest("write-via-stream", file, 1), guest("append-via-stream", file)
    output.write(b"AB")
    output.write(b"CD")
    end.write(b"yz")
    assert end.poll_interest() is None
    file.drop()
    # The streams live on.
    end.write(b"!")
    for used in (stream, output, end):
        used.drop()
    assert (folder / "file").read_text() == "0ABCD56789yz!"


@pytest.mark.parametrize("offset", [MAX_OFFSET, MAX_OFFSET + 1, 2**64 - 1])
def test_streams_far_beyond_the_end(guest, offset):
    file = guest.open("file", BOTH)
    stream, output = guest("read-via-stream", file, offset), guest("write-via-stream", file, offset)
    for use in (lambda: stream.read(1), lambda: output.write(b"x")):
        with pytest.raises(Err):
            use()
    for used in (file, stream, output):
        used.drop()


def test_creates_truncates_and_refuses_what_exists(guest, folder):
    guest.open("new", WRITE, CREATE).drop()
    assert (folder / "new").read_bytes() == b""
    assert guest.code("open-at", guest.root, FOLLOW, "new", CREATE | {"exclusive"}, WRITE) == "exist"
    assert guest.code("open-at", guest.root, FOLLOW, "missing", NONE, READ) == "no-entry"
    assert guest.code("open-at", guest.root, FOLLOW, "new", CREATE | {"directory"}, WRITE) == "invalid"
    guest.open("file", WRITE, frozenset({"truncate"})).drop()
    assert (folder / "file").read_bytes() == b""
    for flag in ("file-integrity-sync", "data-integrity-sync", "requested-write-sync"):
        guest.open("file", WRITE | {flag}).drop()


def test_follows_a_link_only_when_told(guest):
    guest.open("link").drop()
    assert guest.code("open-at", guest.root, NONE, "link", NONE, READ) == "loop"
    assert guest("stat-at", guest.root, FOLLOW, "link")[0] == "regular-file"
    assert guest("stat-at", guest.root, NONE, "link")[0] == "symbolic-link"


def test_stat_tells_what_the_kernel_tells(guest, folder):
    os.utime(folder / "file", ns=(5_000_000_006, 7_000_000_008))
    kind, links, size, accessed, modified, changed = guest("stat-at", guest.root, FOLLOW, "file")
    assert (kind, links, size, accessed, modified) == ("regular-file", 1, 10, (5, 6), (7, 8))
    assert changed[0] > 1_600_000_000
    assert guest("stat", guest.root)[0] == "directory"
    os.utime(folder / "file", ns=(-1, 0))
    assert guest("stat-at", guest.root, FOLLOW, "file")[3:5] == (None, (0, 0))


def test_sets_times(guest, folder):
    guest("set-times-at", guest.root, FOLLOW, "link", ("timestamp", (5, 6)), ("timestamp", (7, 8)))
    status = (folder / "file").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (5_000_000_006, 7_000_000_008)
    file = guest.open("file")
    guest("set-times", file, NO_CHANGE, ("now", None))
    assert (folder / "file").stat().st_atime_ns == 5_000_000_006
    assert (folder / "file").stat().st_mtime_ns > 10**18
    for timestamp, code in (((1, 10**9), "invalid"), ((1, (1 << 30) - 1), "invalid"), ((2**63, 0), "overflow")):
        assert guest.code("set-times", file, ("timestamp", timestamp), NO_CHANGE) == code
    file.drop()


def test_makes_renames_links_and_removes(guest, folder):
    guest("create-directory-at", guest.root, "made/")
    assert guest.code("create-directory-at", guest.root, "made") == "exist"
    guest("rename-at", guest.root, "made", guest.root, "sub/moved")
    guest("link-at", guest.root, NONE, "file", guest.root, "sub/moved/hard")
    guest("symlink-at", guest.root, "../../file", "sub/moved/soft")
    assert guest("readlink-at", guest.root, "sub/moved/soft") == "../../file"
    assert (folder / "sub/moved/hard").samefile(folder / "file")
    assert guest.code("remove-directory-at", guest.root, "sub/moved") == "not-empty"
    assert guest.code("unlink-file-at", guest.root, "sub/moved") == "is-directory"
    assert guest.code("remove-directory-at", guest.root, "file") == "not-directory"
    assert guest.code("readlink-at", guest.root, "file") == "invalid"
    assert guest.code("link-at", guest.root, FOLLOW, "link", guest.root, "x") == "invalid"
    assert guest.code("link-at", guest.root, NONE, "link/", guest.root, "x") == "not-permitted"
    for name in ("hard", "soft"):
        guest("unlink-file-at", guest.root, f"sub/moved/{name}")
    guest("remove-directory-at", guest.root, "sub/moved")
    assert list((folder / "sub").iterdir()) == []


def test_renames_between_descriptors(guest, folder):
    sub = guest.open("sub")
    guest("rename-at", guest.root, "file", sub, "there")
    assert (folder / "sub/there").exists()
    sub.drop()


def test_knows_the_same_object(guest):
    one, two, sub = guest.open("file"), guest.open("link"), guest.open("sub")
    same = types_interface.functions["[method]descriptor.is-same-object"].call
    assert same(guest.keep, one, two) is True
    assert same(guest.keep, one, sub) is False
    assert guest("metadata-hash", one) == guest("metadata-hash", two)
    assert guest("metadata-hash", one) == guest("metadata-hash-at", guest.root, NONE, "file")
    assert guest("metadata-hash", one) != guest("metadata-hash", sub)
    assert max(guest("metadata-hash", one)) < 2**64
    for opened in (one, two, sub):
        opened.drop()


def test_advice_is_passed_on(guest):
    file = guest.open("file")
    for advice in ("normal", "sequential", "random", "will-need", "dont-need", "no-reuse"):
        guest("advise", file, 0, 5, advice)
    assert guest.code("advise", file, 2**64 - 1, 1, "normal") == "invalid"
    file.drop()


def test_error_codes_of_streams_are_told(guest):
    tell = types_interface.functions["filesystem-error-code"].call
    assert tell(guest.keep, IoError("full", OSError(errno.ENOSPC, "full"))) == "insufficient-space"
    assert tell(guest.keep, IoError("strange", OSError(errno.ENOTUNIQ, "strange"))) == "io"
    assert tell(guest.keep, IoError("closed")) is None


# --- Directories -----------------------------------------------------------------------------------------------------


def test_lists_a_directory(guest, folder):
    os.mkfifo(folder / "pipe")
    assert sorted(guest.entries(guest.root)) == [
        ("directory", "sub"),
        ("fifo", "pipe"),
        ("regular-file", "file"),
        ("symbolic-link", "link"),
    ]


def test_two_listings_do_not_disturb_each_other(guest):
    one, two = guest.entries(guest.root), guest.entries(guest.root)
    pairs = list(zip(one, two, strict=True))
    assert len(pairs) == 3
    assert sorted(first for first, _ in pairs) == sorted(second for _, second in pairs)


def test_a_name_that_is_not_utf8_is_one_error(guest, folder):
    (folder / "sub" / os.fsdecode(b"\xff\xfe")).touch()
    (folder / "sub" / "ok").touch()
    sub = guest.open("sub")
    stream = guest("read-directory", sub)
    seen = []
    while True:
        try:
            entry = guest.next(stream)
        except Err as error:
            seen.append(error.value)
            continue
        if entry is None:
            break
        seen.append(entry[1])
    assert sorted(seen) == ["illegal-byte-sequence", "ok"]
    stream.drop()
    sub.drop()


def test_a_link_to_a_name_that_is_not_utf8_is_one_error(guest, folder):
    os.symlink(b"\xff", os.fsencode(folder / "bad"))
    assert guest.code("readlink-at", guest.root, "bad") == "illegal-byte-sequence"


def test_a_directory_may_be_emptied_while_it_is_listed(guest, folder):
    for number in range(3000):
        (folder / "sub" / f"{number}").touch()
    sub = guest.open("sub")
    count = 0
    for _, name in guest.entries(sub):
        guest("unlink-file-at", sub, name)
        count += 1
    assert 0 < count <= 3000
    for _, name in guest.entries(sub):
        guest("unlink-file-at", sub, name)
    assert list(guest.entries(sub)) == []
    guest("remove-directory-at", guest.root, "sub")
    assert list(guest.entries(sub)) == []
    assert guest.code("create-directory-at", sub, "x") == "no-entry"
    sub.drop()


# --- Hostile use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["..", "../secret", "/etc/passwd", "/", "sub/../../secret", "out/secret", "secret"])
def test_no_path_leads_out(guest, folder, path):
    (folder / "out").symlink_to("..")
    (folder / "secret").symlink_to(folder.parent / "secret")
    for method, arguments in (
        ("open-at", (FOLLOW, path, NONE, READ)),
        ("open-at", (FOLLOW, path, CREATE, WRITE)),
        ("stat-at", (FOLLOW, path)),
        ("metadata-hash-at", (FOLLOW, path)),
        ("set-times-at", (FOLLOW, path, ("now", None), NO_CHANGE)),
    ):
        assert guest.code(method, guest.root, *arguments) == "not-permitted"
    if path == "secret":
        assert guest.code("readlink-at", guest.root, path) == "not-permitted"
        return
    for method, arguments in (
        ("create-directory-at", (path,)),
        ("remove-directory-at", (path,)),
        ("unlink-file-at", (path,)),
        ("symlink-at", ("file", path)),
        ("link-at", (NONE, path, guest.root, "x")),
        ("link-at", (NONE, "file", guest.root, path)),
        ("rename-at", (path, guest.root, "x")),
        ("rename-at", ("file", guest.root, path)),
        ("readlink-at", (path,)),
        ("stat-at", (NONE, path)),
    ):
        assert guest.code(method, guest.root, *arguments) == "not-permitted"
    assert (folder.parent / "secret").read_text() == "secret"


def test_an_absolute_link_is_not_made(guest, folder):
    assert guest.code("symlink-at", guest.root, "/etc", "etc") == "not-permitted"
    assert not (folder / "etc").is_symlink()


@pytest.mark.parametrize("path", ["a\0b", "\0", "x" * 256, "x/" * 3000, ""])
def test_paths_that_are_none(guest, path):
    codes = {"invalid", "name-too-long", "no-entry"}
    assert guest.code("open-at", guest.root, FOLLOW, path, CREATE, WRITE) in codes
    assert guest.code("unlink-file-at", guest.root, path) in codes
    assert guest.code("rename-at", guest.root, path, guest.root, "y") in codes


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=20))
def test_any_text_is_a_path_or_an_error(engine, tmp_path_factory, path):
    guest = make_guest(engine, tmp_path_factory.getbasetemp(), read_only=True)
    codes = set()
    for method, arguments in (("open-at", (FOLLOW, path, NONE, READ)), ("stat-at", (NONE, path))):
        try:
            result = guest(method, guest.root, *arguments)
        except Err as error:
            codes.add(error.value)
        else:
            if method == "open-at":
                result.drop()
    assert codes <= set(ERROR_CODE.cases)
    guest.root.drop()
    guest.keep.close()


def test_a_named_pipe_does_not_stop_the_world(guest, folder):
    os.mkfifo(folder / "pipe")
    assert guest.code("open-at", guest.root, FOLLOW, "pipe", NONE, WRITE) == "no-such-device"
    pipe = guest.open("pipe")
    stream = guest("read-via-stream", pipe, 0)
    writer = os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    assert stream.read(5) == b""
    assert stream.poll_interest()[0] == pipe.fd
    os.write(writer, b"abc")
    assert stream.read(5) == b"abc"
    os.close(writer)
    with pytest.raises(Err):
        stream.read(5)
    assert guest.code("read", pipe, 1, 0) == "invalid-seek"
    pipe.drop()
    stream.drop()


def test_nothing_changes_in_a_read_only_directory(reader, folder):
    sub = reader.open("sub")
    file = reader.open("file")
    before = sorted(path.name for path in folder.rglob("*")), (folder / "file").stat()
    stamp = ("timestamp", (1, 1))
    for opened in (reader.root, sub):
        for method, arguments in (
            ("open-at", (FOLLOW, "new", CREATE, READ)),
            ("open-at", (FOLLOW, "file", NONE, WRITE)),
            ("open-at", (FOLLOW, "file", frozenset({"truncate"}), READ)),
            ("open-at", (FOLLOW, ".", NONE, frozenset({"mutate-directory"}))),
            ("create-directory-at", ("new",)),
            ("remove-directory-at", ("sub",)),
            ("unlink-file-at", ("file",)),
            ("symlink-at", ("file", "new")),
            ("link-at", (NONE, "file", opened, "new")),
            ("rename-at", ("file", opened, "new")),
            ("set-times-at", (FOLLOW, "file", stamp, stamp)),
            ("set-times", (stamp, stamp)),
        ):
            assert reader.code(method, opened, *arguments) == "not-permitted"
    assert reader.code("set-times", file, stamp, stamp) == "not-permitted"
    assert reader.code("write", file, b"x", 0) == "bad-descriptor"
    assert reader.code("set-size", file, 0) in {"invalid", "bad-descriptor"}
    after = sorted(path.name for path in folder.rglob("*")), (folder / "file").stat()
    assert before[0] == after[0]
    assert (before[1].st_mtime_ns, before[1].st_ctime_ns) == (after[1].st_mtime_ns, after[1].st_ctime_ns)
    assert reader("get-flags", sub) == READ
    sub.drop()
    file.drop()


def test_a_writable_directory_gives_no_way_into_a_read_only_one(engine, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    dirs = [Directory(str(folder), "/ro", read_only=True), Directory(str(other), "/rw")]
    keep = Keep(engine, make_workload(dirs=dirs))
    guest = Guest.__new__(Guest)
    guest.keep = keep
    (read_only, _), (writable, _) = preopens_interface.functions["get-directories"].call(keep)
    for method, arguments in (
        ("link-at", (read_only, NONE, "file", writable, "x")),
        ("rename-at", (read_only, "file", writable, "x")),
        ("link-at", (writable, NONE, "x", read_only, "x")),
        ("rename-at", (writable, "x", read_only, "x")),
    ):
        assert guest.code(method, *arguments) == "not-permitted"
    read_only.drop()
    writable.drop()
    keep.close()


def test_descriptors_are_counted(engine, folder):
    guest = make_guest(engine, folder, limits=Limits(open_files=3))
    one, stream = guest.open("file"), guest("read-directory", guest.root)
    assert guest.keep.account.hint is None
    assert guest.code("open-at", guest.root, FOLLOW, "file", NONE, READ) == "quota"
    assert guest.code("read-directory", guest.root) == "quota"
    assert "open_files" in guest.keep.account.hint
    one.drop()
    # A failed attempt counts nothing.
    for _ in range(5):
        assert guest.code("open-at", guest.root, FOLLOW, "missing", NONE, READ) == "no-entry"
    guest.open("file").drop()
    stream.drop()
    guest.root.drop()
    guest.keep.close()


def test_directories_beyond_the_limit_are_not_given(engine, folder):
    keep = Keep(engine, make_workload(limits=Limits(open_files=0), dirs=[Directory(str(folder), "/data")]))
    assert preopens_interface.functions["get-directories"].call(keep) == []
    keep.close()


def test_descriptors_of_this_process_used_up_are_a_quota(guest, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("enarx.runtime.component.filesystem.open_beneath", refuse)
    assert guest.code("open-at", guest.root, FOLLOW, "file", NONE, READ) == "quota"


def test_what_the_guest_leaves_open_is_closed(engine, folder):
    before = len(os.listdir("/proc/self/fd"))
    guest = make_guest(engine, folder)
    types = types_interface.resources
    guest.keep.insert(types["descriptor"], guest.root)
    guest.keep.insert(types["descriptor"], guest.open("file"))
    guest.keep.insert(types["directory-entry-stream"], guest("read-directory", guest.root))
    guest.keep.close()
    assert len(os.listdir("/proc/self/fd")) == before
