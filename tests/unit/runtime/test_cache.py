# SPDX-License-Identifier: Apache-2.0
"""Compiled code is mapped only if it is what we wrote, in a place that is ours alone; everything else is compiled again."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from enarx.errors import ConfigError, DecodeError, PlatformError
from enarx.runtime import cache as cache_module
from enarx.runtime import cache_keeping as keeping
from enarx.runtime import compiling, run_workload
from enarx.runtime.cache import MODULE, Artefact, Cache, default_root, identity
from enarx.runtime.workload import File, Limits, Tls, Workload

from .conftest import FOLDER, TEXT, files, make

OTHER_TEXT = '(module (memory 1) (func (export "_start")))'
OLD_NS = 1_600_000_000 * 1_000_000_000
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


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
    monkeypatch.setattr(keeping, "_SETTLED_NS", 1 << 62)
    make(root, said).find(str(source))
    assert list((root / FOLDER / "seen").iterdir()) == []
    make(root, said).find(str(source))
    assert len(compiled) == 1


def test_the_young_are_told_by_either_time(root, said, source, monkeypatch):
    """A modification time can be set by anybody; the change time is the kernel's."""
    os.utime(source, ns=(OLD_NS, OLD_NS))
    monkeypatch.setattr(keeping, "_SETTLED_NS", 1 << 60)
    make(root, said).find(str(source))
    assert list((root / FOLDER / "seen").iterdir()) == []
    monkeypatch.setattr(keeping, "_SETTLED_NS", 50_000_000)
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
        keeping.clear(str(root))


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
    assert (keeping.list_entries(made), keeping.clear(made.root)) == ([], 0)
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
        seal.write_text(f"{MODULE} {identity(cwasm.lstat())}")
    assert run_workload(workload(source), made, lambda: None).status == 0
    assert len(compiled) == 6
    assert any("the engine refuses" in line for line in said)


def test_discarding_what_is_in_memory_alone_touches_nothing(root, said):
    make(root, said).discard(Artefact("/proc/self/fd/0", MODULE, temporary=True))
    assert said == []


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
