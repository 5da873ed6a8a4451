# SPDX-License-Identifier: Apache-2.0
"""The cache on disk: whole entries or none, and a directory that is ours alone or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.endorsers.disk_cache import DiskCache, Entry
from enarx.errors import PlatformError

URL = "https://kds.example/a?b=1"
ENTRY = Entry(
    url=URL, body=b"body\nof\x00bytes", headers={"x-chain": "c"}, fetched_at=datetime(2026, 6, 1, 12, tzinfo=UTC)
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "above" / "cache"


@pytest.fixture
def cache(path):
    return DiskCache(str(path))


def entry_file(path):
    (found,) = path.glob("*.endorsement")
    return found


def test_returns_what_was_kept(cache, path):
    assert cache.load(URL) is None
    cache.store(ENTRY)
    assert cache.load(URL) == ENTRY
    assert DiskCache(str(path)).load(URL) == ENTRY
    assert cache.load(URL + "0") is None


def test_makes_everything_private(cache, path):
    cache.store(ENTRY)
    assert path.stat().st_mode & 0o7777 == 0o700
    assert entry_file(path).stat().st_mode & 0o7777 == 0o600


def test_replaces_and_forgets(cache):
    cache.store(ENTRY)
    newer = Entry(url=URL, body=b"newer", fetched_at=ENTRY.fetched_at)
    cache.store(newer)
    assert cache.load(URL) == newer
    cache.forget(URL)
    cache.forget(URL)
    assert cache.load(URL) is None


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_refuses_a_directory_open_to_others(path, mode):
    path.mkdir(parents=True)
    path.chmod(mode)
    with pytest.raises(PlatformError, match="mode 0700"):
        DiskCache(str(path))


def test_refuses_a_directory_of_another_user(path, monkeypatch):
    path.mkdir(parents=True, mode=0o700)
    DiskCache(str(path))
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    with pytest.raises(PlatformError, match=f"want a directory of owner {somebody}"):
        DiskCache(str(path))


def test_refuses_a_link_and_a_file(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlatformError):
        DiskCache(str(path))
    path.unlink()
    path.write_bytes(b"")
    with pytest.raises(PlatformError):
        DiskCache(str(path))


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_an_entry_with_a_flipped_bit_is_none(at, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("flip", numbered=True) / "cache"
    cache = DiskCache(str(path))
    cache.store(ENTRY)
    file = entry_file(path)
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1 << bit
    file.write_bytes(data)
    assert cache.load(URL) is None


@given(data=st.binary(max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_are_an_entry_or_none(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("any", numbered=True) / "cache"
    cache = DiskCache(str(path))
    cache.store(ENTRY)
    entry_file(path).write_bytes(data)
    assert cache.load(URL) is None


@pytest.mark.parametrize(
    "about", [b"[]", b"{}", b"null", b"{", b'{"url": 1, "headers": [], "fetched_at": "x"}', b"[" * 9999]
)
def test_an_entry_with_a_sum_and_no_sense_is_none(cache, path, about):
    import hashlib

    cache.store(ENTRY)
    rest = about + b"\nbody"
    entry_file(path).write_bytes(b"enarx-endorsement-1 " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
    assert cache.load(URL) is None


def test_an_entry_for_another_question_is_none(cache, path):
    cache.store(ENTRY)
    first = entry_file(path)
    cache.store(Entry(url=URL + "0", body=b"other", fetched_at=ENTRY.fetched_at))
    (other,) = set(path.glob("*.endorsement")) - {first}
    first.rename(other)
    assert cache.load(URL + "0") is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_entry_that_others_can_write_is_none(cache, path, mode):
    cache.store(ENTRY)
    entry_file(path).chmod(mode)
    assert cache.load(URL) is None


def test_an_entry_of_another_user_is_none(cache, path, monkeypatch):
    cache.store(ENTRY)
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    assert cache.load(URL) is None


def test_a_link_a_pipe_and_a_giant_are_none(cache, path, tmp_path):
    cache.store(ENTRY)
    file = entry_file(path)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert cache.load(URL) is None
    file.unlink()
    os.mkfifo(file, 0o600)
    assert cache.load(URL) is None
    file.unlink()
    with file.open("wb") as giant:
        giant.truncate(1 << 30)
    assert cache.load(URL) is None


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from enarx.endorsers.disk_cache import DiskCache, Entry

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Half:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, data):
        self.file.write(data[:len(data) // 2]); self.file.flush(); die()

if sys.argv[2] == "rename":
    os.rename = die
else:
    import builtins
    real = builtins.open
    builtins.open = lambda *arguments, **named: Half(real(*arguments, **named))
DiskCache(sys.argv[1]).store(Entry(url=sys.argv[3], body=b"new" * 1000, fetched_at=datetime(2026, 6, 1, tzinfo=UTC)))
"""


@pytest.mark.parametrize("where", ["write", "rename"])
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_leaves_the_old_entry_or_none(cache, path, where, before):
    if before:
        cache.store(ENTRY)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), where, URL], timeout=60, check=False)
    assert done.returncode == -9
    (abandoned,) = path.glob("*.tmp")
    assert cache.load(URL) == (ENTRY if before else None)
    # Somebody may still be writing it, and later nobody is.
    os.utime(abandoned, (ENTRY.fetched_at.timestamp() - 3500,) * 2)
    cache.store(ENTRY)
    assert abandoned.exists()
    os.utime(abandoned, (ENTRY.fetched_at.timestamp() - 3700,) * 2)
    cache.store(ENTRY)
    assert not abandoned.exists()
    assert cache.load(URL) == ENTRY


def test_a_write_that_fails_keeps_the_old_entry(cache, path, monkeypatch):
    cache.store(ENTRY)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        cache.store(Entry(url=URL, body=b"new", fetched_at=ENTRY.fetched_at))
    monkeypatch.undo()
    assert cache.load(URL) == ENTRY
    assert not list(path.glob("*.tmp"))


def test_makes_room_by_removing_what_was_unused_for_longest(path):
    cache = DiskCache(str(path), max_bytes=3000)
    urls = [f"https://kds.example/{n}" for n in range(3)]
    for age, url in enumerate(urls):
        before = set(path.glob("*.endorsement"))
        cache.store(Entry(url=url, body=bytes(800), fetched_at=ENTRY.fetched_at))
        (made,) = set(path.glob("*.endorsement")) - before
        os.utime(made, (1000.0 + age,) * 2)
    # The first was used since.
    first = Path(cache._name(urls[0]))
    os.utime(first, (2000.0, 1000.0))
    cache.store(Entry(url=URL, body=bytes(800), fetched_at=ENTRY.fetched_at))
    assert [cache.load(url) is not None for url in [*urls, URL]] == [True, False, True, True]


def test_one_turn_at_a_time(cache, path):
    other = DiskCache(str(path))
    with cache.try_turn("amd") as ours:
        assert ours
        with other.try_turn("amd") as theirs:
            assert not theirs
        with other.try_turn("intel") as theirs:
            assert theirs
    with other.try_turn("amd") as theirs:
        assert theirs


def test_a_turn_ends_with_its_process(cache, path):
    code = "import os, sys\nfrom enarx.endorsers.disk_cache import DiskCache\nturn = DiskCache(sys.argv[1]).try_turn('amd')\nprint(turn.__enter__(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"True\n"
        with cache.try_turn("amd") as ours:
            assert not ours
        other.kill()
        other.wait(timeout=60)
        with cache.try_turn("amd") as ours:
            assert ours


def test_a_directory_that_cannot_be_written_gives_no_turn(cache, path):
    (path / "amd.lock").mkdir()
    with pytest.raises(PlatformError, match=r"amd\.lock"), cache.try_turn("amd"):
        pass
