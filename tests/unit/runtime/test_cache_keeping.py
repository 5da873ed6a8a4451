# SPDX-License-Identifier: Apache-2.0
"""What is kept is kept whole or not at all, however many keep, list and clear at the same time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enarx.errors import PlatformError
from enarx.runtime import cache_keeping as keeping
from enarx.runtime.cache import COMPONENT, MODULE

from .conftest import FOLDER, files, make

OLD_NS = 1_600_000_000 * 1_000_000_000


def test_a_full_disk_is_said_and_survived(root, source, tmp_path):
    """A process whose files may have no more than a few bytes can keep nothing, and leaves nothing half written."""
    code = f"""
import sys
from enarx.runtime.cache import Cache
said = []
cache = Cache({str(root)!r}, said.append)
found = cache.find({str(source)!r})
assert found.temporary, found.path
assert any("cannot keep" in line for line in said), said
"""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    # memfd counts as a file too, so that only the half that fails first can be seen this way.
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 or "File too large" in done.stderr, done.stderr
    assert files(root) == []


def test_no_room_for_the_note_or_the_seal_is_said(root, said, source, settled, monkeypatch):
    real = keeping._write

    def write(path, data):
        if path.endswith(".seal") or "/seen/" in path:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(keeping, "_write", write)
    assert make(root, said).find(str(source)).temporary
    assert "cannot keep" in said[0]
    monkeypatch.setattr(
        keeping, "_write", lambda path, data: ("/seen/" in path and write(path, data)) or real(path, data)
    )
    assert not make(root, said).find(str(source)).temporary
    assert "cannot remember" in said[-1]


def test_writers_at_the_same_time_all_find_a_whole_artefact(root, tmp_path):
    """Processes, because that is what concurrent runs are."""
    sources = []
    for n in range(3):
        sources.append(tmp_path / f"{n}.wat")
        sources[-1].write_text(f'(module (func (export "_start") (drop (i32.const {n}))))')
    code = (
        "import sys\nfrom enarx.runtime.cache import Cache\n"
        "cache = Cache(sys.argv[1], lambda line: None)\n"
        "for path in sys.argv[2:]:\n    print(cache.find(path).path, open(cache.find(path).path, 'rb').read(4))\n"
    )
    command = [sys.executable, "-c", code, str(root), *map(str, sources)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(printed) == 1
    assert not [name for name in files(root) if name.endswith(".tmp")]


def test_the_least_used_give_way(root, said, tmp_path, monkeypatch):
    made = make(root, said)
    paths = []
    for n in range(4):
        path = tmp_path / f"{n}.wat"
        path.write_text(f'(module (func (export "_start") (drop (i32.const {n}))))')
        paths.append(Path(made.find(str(path)).path))
        if n < 3:
            os.utime(paths[-1], ns=(OLD_NS + [2, 0, 1][n], OLD_NS))
        if n == 2:
            monkeypatch.setattr(keeping, "MAX_CACHE_BYTES", 3 * paths[0].stat().st_size)
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert not paths[1].with_suffix(".seal").exists()
    assert f"removing {paths[1]}" in said[-1]


def test_what_a_killed_run_left_half_written_is_removed_in_time(root, said, source):
    made = make(root, said)
    left = root / FOLDER / "0.cwasm.1.tmp"
    young = root / FOLDER / "0.cwasm.2.tmp"
    for path in (left, young):
        path.write_text("half")
    os.utime(left, ns=(OLD_NS, OLD_NS))
    made.find(str(source))
    assert (left.exists(), young.exists()) == (False, True)


def test_lists_what_is_there_and_what_is_not_sealed(root, said, source, tmp_path):
    other = tmp_path / "other.wat"
    other.write_text("(component)")
    made = make(root, said)
    made.find(str(source))
    made.find(str(other))
    (root / FOLDER / "0.cwasm").write_bytes(b"x")
    kinds = sorted(kind for _, kind, _ in keeping.list_entries(made))
    assert kinds == [COMPONENT, MODULE, "not sealed"]
    assert keeping.list_entries(made) == sorted(keeping.list_entries(made))


def test_clear_removes_every_version_and_nothing_else(root, said, source, settled, tmp_path):
    made = make(root, said)
    made.find(str(source))
    old = root / "modules-1.2.3"
    old.mkdir(mode=0o700)
    (old / "a.cwasm").write_bytes(b"x")
    (root / "packages").mkdir(mode=0o700)
    (root / "packages" / ("0" * 64)).write_bytes(b"x")
    (root / "other").mkdir()
    (root / "other/kept").write_text("x")
    (root / "modules-file").write_text("x")
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "a.cwasm").write_text("x")
    (root / FOLDER / "link").symlink_to(treasure)
    (root / FOLDER / "seen/b.cwasm").symlink_to(treasure / "a.cwasm")
    assert keeping.clear(str(root)) == 3
    assert files(root) == ["modules-file", "other/kept"]
    assert (treasure / "a.cwasm").exists()
    assert not (root / FOLDER).exists()
    assert keeping.clear(str(root)) == 0


def test_clear_says_what_it_cannot_remove(root, said, source, monkeypatch):
    made = make(root, said)
    made.find(str(source))

    def refuse(path):
        raise OSError(39, "Directory not empty", path)

    monkeypatch.setattr(keeping.os, "rmdir", refuse)
    with pytest.raises(PlatformError, match="Directory not empty"):
        keeping.clear(str(root))


def test_clear_and_list_may_race_with_other_runs(root, said, source, monkeypatch):
    made = make(root, said)
    made.find(str(source))
    done = threading.Event()

    def again():
        while not done.is_set():
            keeping.list_entries(made)
            make(root, said).find(str(source))

    runner = threading.Thread(target=again)
    runner.start()
    failures = []
    for _ in range(20):
        try:
            keeping.clear(str(root))
        except PlatformError as error:
            failures.append(error)
    done.set()
    runner.join()
    assert all("cannot clear the cache" in str(error) for error in failures)
