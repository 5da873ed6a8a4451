# SPDX-License-Identifier: Apache-2.0
"""No path leaves its directory, whatever it is made of."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import PlatformError
from enarx.runtime.component import beneath
from enarx.runtime.component.beneath import O_PATH, UTIME_OMIT, Entry, open_beneath, set_times


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    (outside / "dir").mkdir()
    root = tmp_path_factory.mktemp("root")
    (root / "file").write_text("inside")
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "file").write_text("inside")
    links = {
        "up": "..",
        "absolute": str(outside),
        "secret": str(outside / "secret"),
        "relative": os.path.relpath(outside, root),
        "chain": "sub/chain",
        "sub/chain": "../up",
        "proc": "/proc/self/root",
        "self": ".",
        "loop": "loop",
        "inside": "sub/../file",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "dangling").symlink_to(outside / "new")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd, root, outside
    os.close(fd)


def content(directory, path):
    fd = open_beneath(directory, path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "path",
    [b"file", b"./file", b"sub/../file", b"sub/deep/../../file", b"inside", b"self/self/file", b"sub//file"],
)
def test_opens_what_is_inside(tree, path):
    assert content(tree[0], path) == b"inside"


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../secret",
        b"sub/../..",
        b"/",
        b"/etc/passwd",
        b"up",
        b"up/x",
        b"absolute/secret",
        b"secret",
        b"relative/secret",
        b"chain/x",
        b"sub/chain/x",
        b"self/../x",
        b"proc/etc/passwd",
        b"dangling",
    ],
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, O_PATH, os.O_WRONLY | os.O_TRUNC | os.O_CREAT])
def test_refuses_what_leads_out(tree, path, flags):
    with pytest.raises(OSError) as caught:
        os.close(open_beneath(tree[0], path, flags, 0o600 if flags & os.O_CREAT else 0))
    assert caught.value.errno == errno.EPERM
    assert (tree[2] / "secret").read_text() == "secret"
    assert not (tree[2] / "new").exists()


def test_refuses_a_loop(tree):
    with pytest.raises(OSError) as caught:
        open_beneath(tree[0], b"loop", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_refuses_magic_links():
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path in (b"fd/0", b"root/etc", b"cwd/x", b"exe"):
            with pytest.raises(OSError) as caught:
                open_beneath(proc, path, os.O_RDONLY)
            assert caught.value.errno in {errno.ELOOP, errno.EPERM}
    finally:
        os.close(proc)


NAMES = [b"..", b".", b"sub", b"deep", b"up", b"absolute", b"relative", b"chain", b"self", b"proc", b"secret", b"file"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(NAMES), max_size=8).map(b"/".join), st.booleans())
def test_whatever_opens_is_inside(tree, path, absolute):
    fd, root, _ = tree
    try:
        opened = open_beneath(fd, b"/" * absolute + path, O_PATH)
    except OSError:
        return
    try:
        real = os.readlink(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)
    assert real == str(root) or real.startswith(f"{root}/")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=40).filter(lambda path: 0 not in path))
def test_any_bytes_are_a_path_or_an_error(tree, path):
    for attempt in (lambda: os.close(open_beneath(tree[0], path, O_PATH)), lambda: Entry(tree[0], path).__exit__()):
        try:
            attempt()
        except OSError:
            continue


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"new", b"new"),
        (b"sub/new", b"new"),
        (b"sub/new//", b"new//"),
        (b"./new", b"new"),
        (b"sub/.", b"."),
        (b"", b""),
    ],
)
def test_an_entry_has_its_directory_and_its_name(tree, path, name):
    with Entry(tree[0], path) as entry:
        assert entry.name == name
        assert os.fstat(entry.fd)


@pytest.mark.parametrize(
    "path", [b"..", b"sub/..", b"../new", b"/new", b"/", b"//", b"up/new", b"absolute/new", b"chain/new", b"../../"]
)
def test_an_entry_outside_is_refused(tree, path):
    with pytest.raises(OSError) as caught:
        Entry(tree[0], path)
    assert caught.value.errno == errno.EPERM


def test_sets_times_of_a_link_and_not_of_its_target(tree):
    fd = open_beneath(tree[0], b"inside", O_PATH | os.O_NOFOLLOW)
    before = os.stat("file", dir_fd=tree[0]).st_mtime_ns
    set_times(fd, (0, UTIME_OMIT), (5, 7))
    assert os.fstat(fd).st_mtime_ns == 5 * 10**9 + 7
    assert os.stat("file", dir_fd=tree[0]).st_mtime_ns == before
    os.close(fd)
    with pytest.raises(OSError) as caught:
        set_times(fd, (0, 0), (0, 0))
    assert caught.value.errno == errno.EBADF


def test_a_kernel_without_openat2_is_named(tree, monkeypatch):
    monkeypatch.setattr(beneath, "SYS_OPENAT2", 100_000)
    with pytest.raises(PlatformError, match="openat2"):
        open_beneath(tree[0], b"file", os.O_RDONLY)


def test_leaves_no_descriptor_open(tree):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for path in (b"file", b"..", b"missing", b"sub/x"):
        with suppress(OSError):
            os.close(open_beneath(tree[0], path, os.O_RDONLY))
        with suppress(OSError), Entry(tree[0], path):
            pass
    assert count() == before
