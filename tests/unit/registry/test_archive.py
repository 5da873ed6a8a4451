# SPDX-License-Identifier: Apache-2.0
"""A layout as one file: read in place, the same bytes each time, and in the form that others read and write."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.registry.archive import LayoutArchive, is_archive, write_archive
from enarx.registry.layout import LAYOUT_TEXT
from enarx.wire.oci import WASM, Descriptor, digest_of
from tests.unit.registry.layouts import MODULE, new, package, simple, special, tar

WANTED = Descriptor(WASM, digest_of(MODULE), len(MODULE))


@pytest.fixture
def layout(tmp_path):
    layout = new(tmp_path / "layout")
    simple(layout, toml=b"args = []")
    return layout


@pytest.fixture
def archive(layout, tmp_path):
    write_archive(layout, str(tmp_path / "a.tar"))
    return tmp_path / "a.tar"


def members(layout):
    names = [
        "oci-layout",
        "index.json",
        *(f"blobs/sha256/{name}" for name in os.listdir(f"{layout.path}/blobs/sha256")),
    ]
    found = []
    for name in names:
        with open(os.path.join(layout.path, name), "rb") as file:
            found.append((name, file.read()))
    return found


def test_an_archive_has_what_the_layout_has(layout, archive):
    found = LayoutArchive(str(archive))
    assert found.index() == layout.index()
    assert found.resolve("1") == layout.resolve("1")
    assert b"".join(found.open_blob(WANTED)) == MODULE
    assert found.only_digest() == layout.only_digest()


def test_referrers_are_in_an_archive_too(layout, tmp_path):
    subject = layout.resolve("1").descriptor
    package(layout, ("text/x", b"s"), subject=subject, artifact_type="application/sig", tag=None)
    write_archive(layout, str(tmp_path / "b.tar"))
    assert LayoutArchive(str(tmp_path / "b.tar")).referrers(subject.digest) == layout.referrers(subject.digest)


def test_the_same_layout_gives_the_same_bytes(tmp_path):
    for name, order in (("x", ["1", "2"]), ("y", ["2", "1"])):
        layout = new(tmp_path / name)
        for tag in order:
            simple(layout, toml=tag.encode(), tag=tag)
        os.utime(f"{layout.path}/index.json", (1, 1))
        write_archive(layout, str(tmp_path / f"{name}.tar"))
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_the_standard_librarys_tar_reads_it(layout, archive):
    with tarfile.open(archive) as found:
        infos = found.getmembers()
        assert {each.name for each in infos if each.isfile()} == {name for name, _ in members(layout)}
        assert {(each.uid, each.gid, each.uname, each.mtime) for each in infos} == {(0, 0, "", 0)}
        assert found.extractfile("index.json").read() == dict(members(layout))["index.json"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_archives_of_others_are_read(layout, tmp_path, form, prefix):
    path = tmp_path / "o.tar"
    path.write_bytes(tar(("./", None), *((prefix + name, data) for name, data in members(layout)), form=form))
    assert LayoutArchive(str(path)).resolve("1") == layout.resolve("1")


def test_a_changed_byte_is_refused(archive):
    data = bytearray(archive.read_bytes())
    at = data.index(MODULE)
    data[at + 4] ^= 1
    archive.write_bytes(data)
    with pytest.raises(VerificationError, match="found bytes with the digest"):
        list(LayoutArchive(str(archive)).open_blob(WANTED))


def test_every_cut_is_refused(layout, archive):
    data = archive.read_bytes()
    # Behind the first empty block, what is left out has nothing in it.
    for size in range(0, len(data) - 1024, 256):
        archive.write_bytes(data[:size])
        with pytest.raises(DecodeError, match="found its end in the middle"):
            LayoutArchive(str(archive))


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (("index.json", b"{}"), "found index.json twice"),
        (("./index.json", b"{}"), "found index.json twice"),
        (special("index.json", tarfile.SYMTYPE, "/etc/passwd"), "found a symbolic link"),
        (special("x", tarfile.LNKTYPE, "index.json"), "found a hard link"),
        (special("x", tarfile.CHRTYPE), "found a device"),
        (special("x", tarfile.FIFOTYPE), "found a pipe"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else str(value)[:30],
)
def test_what_has_two_meanings_is_refused(layout, tmp_path, entry, word):
    path = tmp_path / "o.tar"
    path.write_bytes(tar(*members(layout), entry))
    with pytest.raises(DecodeError, match=word):
        LayoutArchive(str(path))


def test_what_is_no_archive_is_none(tmp_path):
    (tmp_path / "x").write_bytes(MODULE)
    os.mkfifo(tmp_path / "pipe")
    for name in ("x", "pipe", ".", "nothing"):
        assert not is_archive(str(tmp_path / name))
    for name in ("pipe", "nothing"):
        with pytest.raises(UsageError, match="cannot read"):
            LayoutArchive(str(tmp_path / name))


def test_a_blob_is_read_where_it_lies(archive, monkeypatch):
    found = LayoutArchive(str(archive))
    file, size = found.open_file("index.json")
    with file:
        assert (type(file), size) == (io.BufferedReader, len(file.read(size)))
        assert file.tell() < archive.stat().st_size


def test_an_archive_takes_the_place_of_one_and_of_nothing_else(layout, archive, tmp_path):
    write_archive(layout, str(archive))
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "link.tar").symlink_to(archive)
    for name in ("letter", "link.tar", "layout"):
        with pytest.raises(UsageError, match="found something that is no archive"):
            write_archive(layout, str(tmp_path / name))
    with pytest.raises(UsageError, match="No such file"):
        write_archive(layout, str(tmp_path / "no/such.tar"))
    assert (tmp_path / "letter").read_text() == "dear"


def test_nothing_is_left_where_writing_fails(layout, tmp_path):
    os.unlink(f"{layout.path}/index.json")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DecodeError, match=r"found no index\.json"):
        write_archive(layout, str(tmp_path / "b.tar"))
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "name", ["blobs/../index.json", ".//index.json", "././index.json", "/index.json", "index.json/", "a//b", "../x"]
)
def test_a_path_in_another_spelling_is_refused(tmp_path, name):
    path = tmp_path / "a.tar"
    path.write_bytes(tar(("oci-layout", LAYOUT_TEXT), ("index.json", b"{}"), (name, b"{}")))
    with pytest.raises(DecodeError, match="want each path in one spelling"):
        LayoutArchive(str(path))


def test_an_archive_of_something_else_is_not_overwritten(tmp_path):
    layout = new(tmp_path / "layout")
    simple(layout)
    path = tmp_path / "backup.tar"
    path.write_bytes(tar(("letters/one.txt", b"kept")))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="no archive of a package"):
        write_archive(layout, str(path))
    assert path.read_bytes() == before
