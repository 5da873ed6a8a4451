# SPDX-License-Identifier: Apache-2.0
"""A start image is believed when it is ours, closed to others and as it was written; else the modules are imported."""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enarx.cli import start_image
from tests.unit.test_tree import HELLO_MODULES

TOP = Path(__file__).parents[3]
LAUNCHER = Path(sys.executable).with_name("enarx")
# What an image that must not run would do.
STATUS_OF_AN_INTRUDER = 77


@pytest.fixture
def hello(tmp_path):
    """Return a function that runs hello by the installed command and returns what it said about the image."""
    guest = tmp_path / "hello.wat"
    guest.write_text('(module (func (export "_start")))')
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": os.environ["PATH"]}

    def run(*, launcher=LAUNCHER):
        done = subprocess.run(
            [launcher, "run", "--backend", "nil", "--verbose", guest],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "/start" in line]

    return run


@pytest.fixture
def image(hello, tmp_path):
    """Return the image that a first run wrote and a second one used."""
    (said,) = hello()
    assert said.endswith(" for the next start")
    (path,) = (tmp_path / "cache/enarx/start").iterdir()
    assert said == f"enarx: cache: wrote {path} for the next start"
    assert hello() == []
    return path


def seal(path):
    os.utime(path, ns=(start_image.SEALED_NS, start_image.SEALED_NS))


def intrude(path):
    """Put something in the image's place whose running shows."""
    code = compile(f"import posix; posix._exit({STATUS_OF_AN_INTRUDER})", "intruder", "exec")
    path.write_bytes(marshal.dumps((code, ())))


def test_holds_what_hello_loads():
    names = {name for name in HELLO_MODULES if name.split(".")[0] == "enarx"}
    assert set(start_image.MODULES) == names
    assert len(start_image.MODULES) == len(names)


def test_is_ours_and_closed_to_others(image):
    assert image.stat().st_mode & 0o7777 == 0o600
    assert image.parent.stat().st_mode & 0o7777 == 0o700
    assert f"{sys.implementation.cache_tag}-{sys.hexversion:x}%" in image.name


def test_an_intruder_would_show(image, hello):
    intrude(image)
    seal(image)
    with pytest.raises(AssertionError):
        hello()


def test_refuses_a_file_that_was_written_to_later(image, hello):
    intrude(image)
    assert len(hello()) == 1
    assert hello() == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o640, 0o604])
def test_refuses_a_file_that_is_open_to_others(image, hello, mode):
    intrude(image)
    seal(image)
    image.chmod(mode)
    assert len(hello()) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_refuses_a_directory_that_is_open_to_others(image, hello, mode):
    intrude(image)
    seal(image)
    image.parent.chmod(mode)
    (said,) = hello()
    assert "cannot write" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["file", "directory"])
def test_refuses_what_another_user_owns(image, hello, whose):
    intrude(image)
    seal(image)
    os.chown(image if whose == "file" else image.parent, 12345, 12345)
    assert len(hello()) == 1


def test_refuses_a_symbolic_link(image, hello, tmp_path):
    intrude(image)
    elsewhere = image.rename(tmp_path / "elsewhere")
    seal(elsewhere)
    image.symlink_to(elsewhere)
    assert len(hello()) == 1
    assert not image.is_symlink()


@pytest.mark.parametrize("keep", [0, 1, 100, 20_000])
def test_a_truncated_one_fails_no_run(image, hello, keep):
    os.truncate(image, keep)
    # Even if its times did not tell.
    seal(image)
    assert len(hello()) == 1
    assert hello() == []


@pytest.mark.parametrize("position", [50, 5_000, 50_000])
def test_a_flipped_bit_is_not_run(image, hello, position):
    data = bytearray(image.read_bytes())
    data[position] ^= 0x10
    image.write_bytes(data)
    assert len(hello()) == 1
    assert hello() == []


def test_another_python_has_another_image(image, monkeypatch):
    root = str(image.parents[1])
    assert start_image.image_path(root) == str(image)
    monkeypatch.setattr(sys, "hexversion", sys.hexversion + 1)
    assert start_image.image_path(root) != str(image)


def arguments(tmp_path, name, text):
    """Return what `load` is given for an image of one module."""
    source = tmp_path / f"{name}.py"
    source.write_text(text)
    stat = source.stat()
    files = [(str(source), stat.st_mtime_ns, stat.st_size)]
    return sys.executable, [], files, [(name, str(source), False, compile(text, str(source), "exec"))]


def test_loads_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)
    assert start_image.load(*arguments(tmp_path, "made_of_an_image", "value = 7"))
    module = sys.modules.pop("made_of_an_image")
    assert module.value == 7
    assert module.__file__ == str(tmp_path / "made_of_an_image.py")
    assert module.__spec__.name == "made_of_an_image"


def test_refuses_a_source_that_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)
    given = arguments(tmp_path, "changed_since", "value = 7")
    os.utime(tmp_path / "changed_since.py", ns=(1, 1))
    assert not start_image.load(*given)
    assert "changed_since" not in sys.modules


def test_refuses_the_image_of_another_environment(tmp_path, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)
    _, *given = arguments(tmp_path, "of_another", "value = 7")
    assert not start_image.load("/elsewhere/bin/python", *given)
    assert "of_another" not in sys.modules


def test_leaves_nothing_of_modules_that_fail(tmp_path, monkeypatch):
    monkeypatch.setattr("gc.disable", lambda: None)
    before = list(sys.path)
    executable, _, files, modules = arguments(tmp_path, "that_fails", "raise OSError")
    assert not start_image.load(executable, ["/added"], files, modules)
    assert "that_fails" not in sys.modules
    assert sys.path == before


def test_the_launcher_starts_an_isolated_python_without_site_and_in_utf_8_mode(tmp_path):
    package = tmp_path / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/enarx"
    package.mkdir(parents=True)
    (package / "launch.py").write_text(
        "import sys\nflags = sys.flags\nprint(flags.isolated, flags.no_site, flags.utf8_mode, *map(ascii, sys.argv[1:]))\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    launcher = shutil.copy(TOP / "bin/enarx", tmp_path / "bin")
    # In the POSIX locale Python would choose that mode by itself.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    words = [b"run", b"caf\xc3\xa9", b"\xff"]
    done = subprocess.run([launcher, *words], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "1", "1", "'run'", "'caf\\xe9'", "'\\udcff'"]


def test_a_cache_that_cannot_be_written_is_said_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "enarx").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    start_image.write([], said.append)
    assert len(said) == 1
    assert "cannot write" in said[0]


def test_writers_at_the_same_time_leave_one_whole_image(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = "import sys; from enarx.cli import start_image; start_image.write(sys.path, print)"
    writers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=TOP) for _ in range(4)
    ]
    said = [writer.communicate(timeout=60)[0] for writer in writers]
    assert all("cache: wrote" in line for line in said), said
    (image,) = (tmp_path / "enarx/start").iterdir()
    code, (executable, _, files, modules) = marshal.loads(image.read_bytes())  # noqa: S302  # written above
    assert code == start_image.load.__code__
    assert executable == sys.executable
    assert [name for name, *_ in modules] == list(start_image.MODULES)
    assert len(files) == len(modules)


def test_has_lines_and_neither_columns_nor_what_is_for_type_checkers():
    text = (
        b"from __future__ import annotations\n"
        b"TYPE_CHECKING = False\n"
        b"if TYPE_CHECKING:\n"
        b"    from enarx.runtime.workload import Workload\n"
        b"value: Workload = (\n"
        b"    1 // zero)\n"
    )
    code = start_image._compile(text, "of_a_test.py")
    assert "Workload" not in code.co_names
    assert {place[2:] for place in code.co_positions() if place[0]} == {(None, None)}
    with pytest.raises(NameError) as raised:
        exec(code, {})  # noqa: S102  # compiled above
    assert raised.traceback[-1].lineno + 1 == 6


def test_keeps_a_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "enarx/start"
    folder.mkdir(mode=0o700, parents=True)
    for number in range(30):
        (folder / str(number)).touch()
    start_image.write(sys.path, str)
    assert Path(start_image.image_path(str(folder.parent))).exists()
    assert len(list(folder.iterdir())) == start_image._MAX_IMAGES


def test_clearing_the_cache_removes_it_and_does_not_count_it(image):
    from enarx.runtime.cache import Cache
    from enarx.runtime.cache_keeping import clear, list_entries

    root = str(image.parents[1])
    count = len(list_entries(Cache(root, str)))
    assert count > 0
    assert clear(root) == count
    assert not image.parent.exists()
