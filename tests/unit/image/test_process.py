# SPDX-License-Identifier: Apache-2.0
"""The measurement of a Keep process: what it covers, and that coreutils computes the same one."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess

import pytest

from enarx.errors import PlatformError
from enarx.image import measure_process, package_folder, process


@pytest.fixture
def folder(tmp_path):
    package = tmp_path / "enarx"
    for name, text in (("__init__.py", "version"), ("keep/__main__.py", "main"), ("keep/a.wat", "(module)")):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_is_what_coreutils_compute(folder):
    command = re.search(r"::\n\n(.*)\n\Z", process.__doc__, re.DOTALL)[1]
    printed = subprocess.run(["/bin/sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert measure_process(str(folder)).hex() == printed.split()[0]


def test_is_a_digest_of_the_paths_and_contents(folder):
    lines = ["enarx process image 1\n"]
    for name, text in (("__init__.py", "version"), ("keep/__main__.py", "main"), ("keep/a.wat", "(module)")):
        lines.append(f"{hashlib.sha384(text.encode()).hexdigest()}  {name}\n")
    assert measure_process(str(folder)) == hashlib.sha384("".join(lines).encode()).digest()


def change(folder):
    (folder / "keep/a.wat").write_text("(module )")


def rename(folder):
    (folder / "keep/a.wat").rename(folder / "keep/b.wat")


def add(folder):
    (folder / "keep/session.abi3.so").write_bytes(b"what Python prefers to session.py")


def remove(folder):
    (folder / "keep/a.wat").unlink()


def swap(folder):
    (folder / "__init__.py").write_text("main")
    (folder / "keep/__main__.py").write_text("version")


@pytest.mark.parametrize("alter", [change, rename, add, remove, swap])
def test_differs_when_a_file_does(folder, alter):
    before = measure_process(str(folder))
    alter(folder)
    assert measure_process(str(folder)) != before


def test_leaves_out_what_python_compiled(folder):
    before = measure_process(str(folder))
    (folder / "keep/__pycache__").mkdir()
    (folder / "keep/__pycache__/a.pyc").write_bytes(b"compiled")
    assert measure_process(str(folder)) == before


def test_is_the_same_in_another_place(folder, tmp_path):
    before = measure_process(str(folder))
    folder.rename(tmp_path / "elsewhere")
    assert measure_process(str(tmp_path / "elsewhere")) == before


def test_measures_the_package_that_runs():
    assert os.path.isfile(f"{package_folder()}/errors.py")
    assert len(measure_process(package_folder())) == 48


def test_refuses_a_link(folder):
    (folder / "keep/b.py").symlink_to("/etc/passwd")
    with pytest.raises(PlatformError, match=r"keep/b\.py: found neither a file nor a folder"):
        measure_process(str(folder))


def test_refuses_a_fifo(folder):
    os.mkfifo(folder / "keep/b.py")
    with pytest.raises(PlatformError, match="neither a file nor a folder"):
        measure_process(str(folder))


@pytest.mark.parametrize("name", ["a\nb.py", "a\\b.py", "a\rb.py"])
def test_refuses_a_name_that_is_no_line(folder, name):
    (folder / name).write_text("")
    with pytest.raises(PlatformError, match="a name that is no line"):
        measure_process(str(folder))


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_refuses_a_folder_that_is_no_package(tmp_path, what):
    if what == "empty":
        (tmp_path / what).mkdir()
    with pytest.raises(PlatformError, match=r"cannot measure a Keep process"):
        measure_process(str(tmp_path / what))


@pytest.mark.parametrize(("name", "value"), [("MAX_FILES", 2), ("MAX_BYTES", 12), ("_MAX_DEPTH", 1)])
def test_refuses_what_is_too_large(folder, monkeypatch, name, value):
    monkeypatch.setattr(process, name, value)
    with pytest.raises(PlatformError, match=r"found .*more than"):
        measure_process(str(folder))
