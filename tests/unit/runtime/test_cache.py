# SPDX-License-Identifier: Apache-2.0
"""Compiled code is mapped only if it is what we wrote, in a place that is ours alone; everything else is compiled again."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from enarx import __version__
from enarx.errors import ConfigError, DecodeError, PlatformError
from enarx.runtime import cache as cache_module
from enarx.runtime import capi, compiling, run_workload
from enarx.runtime.cache import COMPONENT, MODULE, Artefact, Cache, default_root
from enarx.runtime.workload import File, Limits, Tls, Workload

FOLDER = f"modules-{capi.ENGINE_VERSION}-{__version__}"
TEXT = '(module (func (export "_start")))'
OTHER_TEXT = '(module (memory 1) (func (export "_start")))'
OLD_NS = 1_600_000_000 * 1_000_000_000
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


class Said(list):
    """What the cache said; called with a line."""

    def __call__(self, line):
        self.append(line)


@pytest.fixture
def said():
    return Said()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "home/.cache/enarx"


@pytest.fixture
def source(tmp_path):
    """A module whose times have settled, as far as the cache can be made to believe."""
    path = tmp_path / "app.wat"
    path.write_text(TEXT)
    return path


@pytest.fixture
def settled(monkeypatch):
    """Every file is old enough for its digest to be remembered; the change time cannot be set from outside."""
    monkeypatch.setattr(cache_module, "_SETTLED_NS", -(1 << 62))


@pytest.fixture
def compiled(monkeypatch):
    """The sources that were really compiled."""
    seen = []
    real = compiling.compile_source

    def compile_source(source, path, *, fuel):
        seen.append(source)
        return real(source, path, fuel=fuel)

    monkeypatch.setattr(compiling, "compile_source", compile_source)
    return seen


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def make(root, said):
    return Cache(str(root), said)


def test_the_layout_is_private_and_what_it_says(root, said, source, settled):
    found = make(root, said).find(str(source))
    digest = compiling.digest(source.read_bytes())
    assert (found.path, found.kind, found.temporary) == (str(root / FOLDER / f"{digest}.cwasm"), MODULE, False)
    assert [name.rpartition("/")[0] for name in files(root)] == [FOLDER, FOLDER, f"{FOLDER}/seen"]
    for path in [root, *root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert said == []


def test_an_unchanged_file_is_compiled_once_and_then_not_even_read(root, said, source, settled, compiled, monkeypatch):
    first = make(root, said).find(str(source))
    monkeypatch.setattr(compiling, "read_source", None)
    second = make(root, said).find(str(source))
    assert (first.path, len(compiled)) == (second.path, 1)


def test_a_file_that_is_too_young_is_read_again(root, said, source, compiled, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED_NS", 1 << 62)
    make(root, said).find(str(source))
    assert list((root / FOLDER / "seen").iterdir()) == []
    make(root, said).find(str(source))
    assert len(compiled) == 1


def test_the_young_are_told_by_either_time(root, said, source, monkeypatch):
    """A modification time can be set by anybody; the change time is the kernel's."""
    os.utime(source, ns=(OLD_NS, OLD_NS))
    monkeypatch.setattr(cache_module, "_SETTLED_NS", 1 << 60)
    make(root, said).find(str(source))
    assert list((root / FOLDER / "seen").iterdir()) == []
    monkeypatch.setattr(cache_module, "_SETTLED_NS", 50_000_000)
    os.utime(source, ns=(time.time_ns() + (1 << 50), time.time_ns() + (1 << 50)))
    make(root, said).find(str(source))
    assert list((root / FOLDER / "seen").iterdir()) == []


def test_a_file_that_changed_in_place_is_noticed_even_with_its_old_times(root, said, source, settled, compiled):
    os.utime(source, ns=(OLD_NS, OLD_NS))
    first = make(root, said).find(str(source))
    source.write_text(TEXT.replace("_start", "_stark"))
    os.utime(source, ns=(OLD_NS, OLD_NS))
    assert make(root, said).find(str(source)).path != first.path
    assert len(compiled) == 2


def test_a_digest_is_not_remembered_where_that_is_not_wanted(root, said, source, settled, monkeypatch):
    made = make(root, said)
    made.find(str(source), remember=False)
    assert list((root / FOLDER / "seen").iterdir()) == []
    made.find(str(source))
    read = []
    real = compiling.read_source
    monkeypatch.setattr(compiling, "read_source", lambda *args: read.append(args) or real(*args))
    made.find(str(source), remember=False)
    assert len(read) == 1


def test_the_same_content_elsewhere_is_the_same_artefact(root, said, source, settled, compiled, tmp_path):
    other = tmp_path / "copy.wat"
    other.write_bytes(source.read_bytes())
    made = make(root, said)
    assert made.find(str(source)).path == made.find(str(other)).path
    assert len(compiled) == 1


def test_code_that_counts_fuel_is_another_artefact(root, said, source, settled, compiled):
    made = make(root, said)
    assert made.find(str(source)).path != made.find(str(source), fuel=True).path
    assert len(compiled) == 2
    assert make(root, said).find(str(source), fuel=True).path.endswith("-fuel.cwasm")
    assert len(compiled) == 2


def test_what_comes_out_of_a_pipe_is_not_remembered(root, said, settled):
    read_end, write_end = os.pipe()
    os.write(write_end, TEXT.encode())
    os.close(write_end)
    try:
        found = make(root, said).find(f"/dev/fd/{read_end}")
    finally:
        os.close(read_end)
    assert found.kind == MODULE
    assert list((root / FOLDER / "seen").iterdir()) == []


def rewrite(path):
    data = path.read_bytes()
    path.write_bytes(data)


ANY_FILE = [
    pytest.param(lambda path: path.chmod(0o620), id="writable by the group"),
    pytest.param(lambda path: path.chmod(0o602), id="writable by others"),
    pytest.param(lambda path: (path.rename(f"{path}.x"), path.symlink_to(f"{path}.x")), id="a symbolic link"),
    pytest.param(lambda path: path.unlink(), id="gone"),
    pytest.param(lambda path: os.truncate(path, 10), id="cut"),
    pytest.param(lambda path: os.chown(path, 1000, -1), id="somebody else's", marks=root_only),
]
ARTEFACT = [
    *ANY_FILE,
    pytest.param(rewrite, id="written again with the same bytes"),
    pytest.param(os.utime, id="touched"),
    pytest.param(lambda path: os.link(path, f"{path}.link"), id="linked"),
]


@pytest.mark.parametrize(
    ("suffix", "tamper"),
    [pytest.param("cwasm", *case.values, id=f"artefact {case.id}", marks=case.marks) for case in ARTEFACT]
    + [pytest.param("seal", *case.values, id=f"seal {case.id}", marks=case.marks) for case in ANY_FILE],
)
def test_what_is_not_as_we_wrote_it_is_compiled_again(root, said, source, settled, compiled, suffix, tamper):
    cwasm = Path(make(root, said).find(str(source)).path)
    tamper(cwasm.with_suffix(f".{suffix}"))
    for _ in range(2):
        found = make(root, said).find(str(source))
        assert found.path == str(cwasm)
        assert found.kind == MODULE
    assert len(compiled) == 2
    assert stat.S_IMODE(cwasm.lstat().st_mode) == 0o600
    assert all(line.endswith("; compiling again") for line in said)


def test_a_directory_in_the_place_of_an_artefact_is_stepped_around(root, said, source, settled):
    cwasm = Path(make(root, said).find(str(source)).path)
    cwasm.unlink()
    cwasm.mkdir()
    assert make(root, said).find(str(source)).temporary
    assert "cannot keep" in said[-1]


@pytest.mark.parametrize(
    "seal", ["", "module", "module x y", "\xff" * 300, "module 0-0-0-0-0", "\0", "module " + "0" * 249]
)
def test_a_seal_that_says_something_else_is_none(root, said, source, settled, compiled, seal):
    cwasm = Path(make(root, said).find(str(source)).path)
    cwasm.with_suffix(".seal").write_bytes(seal.encode("latin-1"))
    make(root, said).find(str(source))
    assert len(compiled) == 2


@pytest.mark.parametrize("note", ["", "../../../../etc/passwd", "0" * 64, "a b", "\xff", "x" * 300])
def test_a_remembered_digest_that_leads_nowhere_is_computed_again(root, said, source, settled, compiled, note):
    first = make(root, said).find(str(source))
    (seen,) = (root / FOLDER / "seen").iterdir()
    seen.write_bytes(note.encode("latin-1"))
    assert make(root, said).find(str(source)).path == first.path
    assert len(compiled) == 1


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_refuses_a_directory_that_others_can_enter(root, said, mode):
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER).chmod(mode)
    with pytest.raises(PlatformError, match=f"mode {mode:04o}, want .* 0700"):
        make(root, said)
    with pytest.raises(PlatformError):
        Cache.clear(type("Root", (), {"root": str(root)})())


@root_only
def test_refuses_a_directory_of_somebody_else(root, said):
    (root / FOLDER).mkdir(parents=True, mode=0o700)
    os.chown(root / FOLDER, 1000, 1000)
    with pytest.raises(PlatformError, match="owner 1000"):
        make(root, said)


def test_refuses_a_directory_that_is_a_link(root, said, tmp_path):
    root.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (root / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlatformError):
        make(root, said)


def test_a_cache_directory_may_be_reached_through_a_link(said, source, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = make(tmp_path / "link", said).find(str(source))
    assert not found.temporary
    assert files(tmp_path / "real")


@pytest.mark.parametrize("blocked", ["home", "home/.cache/enarx", f"home/.cache/enarx/{FOLDER}"])
def test_without_a_place_to_keep_it_code_is_in_memory_alone(tmp_path, root, said, source, blocked):
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    if blocked.endswith(FOLDER):
        with pytest.raises(PlatformError):
            make(root, said)
        return
    found = make(root, said).find(str(source))
    assert found.temporary
    assert Path(found.path).read_bytes()[:4] == b"\x7fELF"
    assert "not kept" in said[0]


def test_without_a_home_nothing_is_left_behind(said, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    made = Cache(None, said)
    assert made.find(str(source)).temporary
    assert (made.entries(), made.clear()) == ([], 0)
    assert sorted(tmp_path.iterdir()) == before
    assert "no home directory" in said[0]


def workload(path):
    return Workload(str(path), files=[File("null", "x")] * 3, limits=Limits(), tls=Tls())


def test_what_is_in_memory_alone_runs(said, source):
    assert run_workload(workload(source), Cache(None, said), lambda: None).status == 0


def test_an_artefact_that_the_engine_refuses_is_made_again(root, said, source, settled, compiled):
    made = make(root, said)
    assert run_workload(workload(source), made, lambda: None).status == 0
    assert len(compiled) == 3
    for cwasm in (root / FOLDER).glob("*.cwasm"):
        # As an engine with another configuration would have left it: whole, sealed and of no use.
        cwasm.write_bytes(b"\x7fELF" + bytes(100))
        seal = cwasm.with_suffix(".seal")
        seal.write_text(f"{MODULE} {cache_module._identity(cwasm.lstat())}")
    assert run_workload(workload(source), made, lambda: None).status == 0
    assert len(compiled) == 6
    assert any("the engine refuses" in line for line in said)


def test_discarding_what_is_in_memory_alone_touches_nothing(root, said):
    make(root, said).discard(Artefact("/proc/self/fd/0", MODULE, temporary=True))
    assert said == []


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
    real = Cache._write

    def write(self, path, data):
        if path.endswith(".seal") or "/seen/" in path:
            raise OSError(28, "No space left on device")
        real(self, path, data)

    monkeypatch.setattr(Cache, "_write", write)
    assert make(root, said).find(str(source)).temporary
    assert "cannot keep" in said[0]
    monkeypatch.setattr(
        Cache,
        "_write",
        lambda self, path, data: ("/seen/" in path and write(self, path, data)) or real(self, path, data),
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
            monkeypatch.setattr(cache_module, "MAX_CACHE_BYTES", 3 * paths[0].stat().st_size)
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
    kinds = sorted(kind for _, kind, _ in made.entries())
    assert kinds == [COMPONENT, MODULE, "not sealed"]
    assert made.entries() == sorted(made.entries())


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
    assert made.clear() == 3
    assert files(root) == ["modules-file", "other/kept"]
    assert (treasure / "a.cwasm").exists()
    assert not (root / FOLDER).exists()
    assert make(root, said).clear() == 0


def test_clear_says_what_it_cannot_remove(root, said, source, monkeypatch):
    made = make(root, said)
    made.find(str(source))

    def refuse(path):
        raise OSError(39, "Directory not empty", path)

    monkeypatch.setattr(cache_module.posix, "rmdir", refuse)
    with pytest.raises(PlatformError, match="Directory not empty"):
        made.clear()


def test_clear_and_list_may_race_with_other_runs(root, said, source, monkeypatch):
    made = make(root, said)
    made.find(str(source))
    done = threading.Event()

    def again():
        while not done.is_set():
            made.entries()
            make(root, said).find(str(source))

    runner = threading.Thread(target=again)
    runner.start()
    failures = []
    for _ in range(20):
        try:
            made.clear()
        except PlatformError as error:
            failures.append(error)
    done.set()
    runner.join()
    assert all("cannot clear the cache" in str(error) for error in failures)


def test_refuses_what_cannot_be_opened(root, said, tmp_path):
    with pytest.raises(ConfigError, match="No such file") as caught:
        make(root, said).find(str(tmp_path / "none.wasm"))
    assert caught.value.path == str(tmp_path / "none.wasm")


def test_what_is_refused_leaves_nothing(root, said, tmp_path):
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(DecodeError):
        make(root, said).find(str(path))
    assert files(root) == []


def test_is_told_before_something_is_compiled_and_only_then(root, said, source, settled):
    told = []
    for _ in range(2):
        Cache(str(root), said, before_compiling=lambda: told.append(1)).find(str(source))
    assert told == [1]


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({b"XDG_CACHE_HOME": b"/x", b"HOME": b"/h"}, "/x/enarx"),
        ({b"XDG_CACHE_HOME": b"relative", b"HOME": b"/h"}, "/h/.cache/enarx"),
        ({b"XDG_CACHE_HOME": b"", b"HOME": b"/h"}, "/h/.cache/enarx"),
        ({b"HOME": b"relative"}, None),
        ({}, None),
        # The engine opens no file of such a name.
        ({b"XDG_CACHE_HOME": b"/\xff", b"HOME": b"/h"}, None),
    ],
)
def test_the_place_is_the_user_s(variables, wanted, monkeypatch):
    monkeypatch.setattr(cache_module.posix, "environ", variables)
    assert default_root() == wanted
