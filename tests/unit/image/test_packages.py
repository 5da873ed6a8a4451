# SPDX-License-Identifier: Apache-2.0
"""Packages: files through links, merged folders, patterns of wheels, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import zipfile

import pytest

from enarx.errors import DecodeError
from enarx.image.packages import Package, read_deb, read_wheel

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")


@pytest.fixture
def deb(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: small\n"
    )
    (root / "lib/x").mkdir(parents=True)
    (root / "lib/x/libsmall.so.1.2").write_bytes(b"library")
    (root / "lib/x/libsmall.so.1").symlink_to("libsmall.so.1.2")
    (root / "lib64").mkdir()
    (root / "lib64/ld.so").symlink_to("/lib/x/libsmall.so.1")
    (root / "usr/share/doc").mkdir(parents=True)
    (root / "usr/share/doc/text").write_bytes(b"text")
    path = tmp_path / "small.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, path], check=True, capture_output=True)
    return str(path)


@needs_dpkg
def test_files_are_read_through_links_at_their_merged_places(deb):
    package = read_deb(deb, "small", lambda path: path.startswith("usr/lib"))
    assert package.files == {"usr/lib/x/libsmall.so.1.2": b"library"}
    assert package.read("usr/lib/x/libsmall.so.1") == b"library"
    assert package.read("usr/lib64/ld.so") == b"library"


@needs_dpkg
def test_refuses_what_is_no_debian_package(tmp_path):
    (tmp_path / "no.deb").write_bytes(b"no package")
    with pytest.raises(DecodeError, match="cannot build an image: no:"):
        read_deb(str(tmp_path / "no.deb"), "no", lambda _: True)


@pytest.mark.parametrize("links", [{}, {"a": "a"}, {"a": "b", "b": "/a"}, {"a": "../../../b"}])
def test_refuses_to_read_what_is_not_there(links):
    with pytest.raises(DecodeError, match="p: found no file a, want it"):
        Package(name="p", links=links).read("a")


@pytest.fixture
def wheel(tmp_path):
    path = str(tmp_path / "w.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("w/__init__.py", "w/below/b.py", "w/_w.abi3.so", "w/py.typed", "w-1.dist-info/RECORD"):
            archive.writestr(name, name)
    return path


def test_files_of_a_wheel_are_those_that_match(wheel):
    package = read_wheel(wheel, "w", ("w/*.py", "w/*.so"))
    assert sorted(package.files) == ["w/__init__.py", "w/_w.abi3.so", "w/below/b.py"]
    assert package.files["w/below/b.py"] == b"w/below/b.py"


def test_refuses_a_pattern_that_matches_nothing(wheel):
    with pytest.raises(DecodeError, match=r"w: found nothing that matches \['w/\*.pyd'\]"):
        read_wheel(wheel, "w", ("w/*.py", "w/*.pyd"))


def test_refuses_what_is_no_wheel(tmp_path):
    (tmp_path / "no.whl").write_bytes(b"no wheel")
    with pytest.raises(DecodeError, match="cannot build an image: no:"):
        read_wheel(str(tmp_path / "no.whl"), "no", ("*",))
