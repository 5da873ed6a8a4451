# SPDX-License-Identifier: Apache-2.0
"""OCI layouts: what is stored comes back, what was changed does not, and nothing is there by half."""

from __future__ import annotations

import json
import os

import pytest

from enarx.errors import DecodeError, UsageError, VerificationError
from enarx.registry.layout import LayoutFolder, blob_path, new_layout
from enarx.wire.oci import INDEX, MANIFEST, WASM, Descriptor, Index, digest_of, encode_index
from tests.unit.registry.layouts import MODULE, new, package, put, simple


@pytest.fixture
def layout(tmp_path):
    return new(tmp_path / "layout")


def files(layout):
    return sorted(name for _, _, names in os.walk(layout.path) for name in names)


def edit(layout, name, data):
    with open(os.path.join(layout.path, name), "wb") as file:
        file.write(data)


def test_a_package_comes_back_by_tag_and_by_digest(layout):
    put_ = simple(layout, tag="1.0")
    for reference in ("1.0", put_.digest):
        found = layout.resolve(reference)
        assert (found.descriptor, digest_of(found.data)) == (put_, put_.digest)
    assert layout.only_digest() == put_.digest
    wanted = Descriptor(WASM, digest_of(MODULE), len(MODULE))
    assert layout.has_blob(wanted)
    assert b"".join(layout.open_blob(wanted)) == MODULE


def test_a_package_needs_no_tag(layout):
    put_ = simple(layout, tag=None)
    assert layout.only_digest() == put_.digest
    assert layout.resolve(put_.digest).descriptor == put_


def test_a_tag_moves_and_the_package_it_left_stays(layout):
    one, two = simple(layout), simple(layout, toml=b"")
    assert layout.resolve("1").descriptor == two
    assert layout.resolve(one.digest).descriptor.size == one.size


def test_one_package_can_have_two_tags(layout):
    assert simple(layout, tag="1") == simple(layout, tag="2")
    assert layout.only_digest() == layout.resolve("2").descriptor.digest
    assert len(layout.index().manifests) == 2


def test_which_of_several_has_to_be_said(layout):
    simple(layout, tag="b")
    simple(layout, toml=b"", tag="a")
    with pytest.raises(UsageError, match="found 2 packages, want one") as raised:
        layout.only_digest()
    assert "'a', 'b'" in raised.value.hint


def test_an_empty_layout_has_no_package(layout):
    with pytest.raises(UsageError, match="found no packages, want one"):
        layout.only_digest()
    with pytest.raises(UsageError, match="found no package 'x' in it"):
        layout.resolve("x")


def test_what_refers_to_a_package_is_listed_and_is_not_the_package(layout):
    put_ = simple(layout, tag=None)
    signature = package(layout, ("text/x", b"s"), subject=put_, artifact_type="application/sig", tag=None)
    other = package(layout, ("text/y", b"t"), subject=put_, config=("application/c", b"{}"), tag=None)
    assert layout.only_digest() == put_.digest
    assert {each.digest for each in layout.referrers(put_.digest)} == {signature.digest, other.digest}
    assert [each.digest for each in layout.referrers(put_.digest, "application/sig")] == [signature.digest]
    # Where there is no artifact type, the configuration's is.
    assert [each.digest for each in layout.referrers(put_.digest, "application/c")] == [other.digest]
    assert layout.referrers(signature.digest) == ()


def test_what_refers_to_a_package_can_be_in_a_list_under_a_tag(layout):
    put_ = simple(layout)
    signature = package(layout, ("text/x", b"s"), subject=put_, artifact_type="application/sig", tag="gone")
    stranger = simple(layout, toml=b"", tag="gone")
    data = encode_index(Index((signature, stranger)))
    layout.put_manifest(data, INDEX, tag=put_.digest.replace(":", "-"))
    layout._list(stranger, "1b")
    assert [each.digest for each in layout.referrers(put_.digest)] == [signature.digest]


def test_the_list_of_what_refers_is_not_taken_for_a_package(layout):
    put_ = simple(layout)
    layout.put_manifest(encode_index(Index(())), INDEX, tag=put_.digest.replace(":", "-"))
    assert layout.only_digest() == put_.digest


def test_a_blob_that_is_another_is_not_stored(layout):
    before = files(layout)
    with pytest.raises(VerificationError):
        layout.put_blob(Descriptor(WASM, digest_of(MODULE), len(MODULE)), [MODULE[:-1] + b"x"])
    assert files(layout) == before


def test_what_breaks_off_is_not_stored(layout):
    def pieces():
        yield MODULE[:4]
        raise RuntimeError("gone")

    before = files(layout)
    with pytest.raises(RuntimeError):
        layout.put_blob(Descriptor(WASM, digest_of(MODULE), len(MODULE)), pieces())
    assert files(layout) == before


@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"x", lambda data: data + b"x", lambda data: data[:-1]])
def test_a_changed_blob_is_refused(layout, change):
    wanted = put(layout, MODULE, WASM)
    edit(layout, blob_path(wanted.digest), change(MODULE))
    with pytest.raises(VerificationError):
        list(layout.open_blob(wanted))


def test_what_is_not_there_is_said_to_be_none(layout):
    simple(layout)
    for reference in ("2", f"sha256:{'0' * 64}"):
        with pytest.raises(UsageError, match=r"found no package .* in it, want one"):
            layout.resolve(reference)


def test_a_changed_manifest_is_refused(layout):
    put_ = simple(layout)
    data = layout.resolve("1").data
    edit(layout, blob_path(put_.digest), data.replace(b"wasm", b"masw"))
    for reference in ("1", put_.digest):
        with pytest.raises(VerificationError, match="found bytes with the digest"):
            layout.resolve(reference)


def test_an_index_that_lies_about_a_length_is_refused(layout):
    put_ = simple(layout)
    edit(layout, "index.json", encode_index(Index((put_._replace(size=7),))))
    with pytest.raises(VerificationError, match="want 7"):
        layout.resolve(put_.digest)


def test_a_manifest_over_its_limit_is_refused(layout):
    with pytest.raises(DecodeError, match="want at most 4194304"):
        layout.resolve(put(layout, b" " * ((4 << 20) + 1), MANIFEST).digest)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_layout_without_a_part_is_refused(layout, name):
    os.unlink(os.path.join(layout.path, name))
    with pytest.raises(DecodeError, match=f"found no {name}"):
        layout.index()


@pytest.mark.parametrize("text", [b"", b"[]", b'{"imageLayoutVersion":"2.0.0"}', b" " * 5000])
def test_a_layout_of_another_kind_is_refused(layout, text):
    edit(layout, "oci-layout", text)
    with pytest.raises(DecodeError):
        layout.index()


def test_a_blob_that_is_a_link_a_pipe_or_a_folder_is_not_read(layout, tmp_path):
    wanted = put(layout, MODULE, WASM)
    path = os.path.join(layout.path, blob_path(wanted.digest))
    outside = tmp_path / "outside"
    outside.write_bytes(MODULE)
    for make in (lambda: os.symlink(outside, path), lambda: os.mkfifo(path), lambda: os.mkdir(path)):
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        make()
        with pytest.raises(DecodeError, match=r"Too many levels of symbolic links|found no file"):
            list(layout.open_blob(wanted))


def test_a_tag_that_is_none_is_refused(layout):
    with pytest.raises(UsageError, match="found the tag 'a/b'"):
        simple(layout, tag="a/b")


def test_a_new_layout_is_there_at_once_or_not_at_all(tmp_path):
    with new_layout(str(tmp_path / "one")) as layout:
        simple(layout)
        assert not (tmp_path / "one").exists()
    assert LayoutFolder(str(tmp_path / "one")).resolve("1")
    with pytest.raises(UsageError), new_layout(str(tmp_path / "two")) as layout:
        simple(layout, tag="no tag")
    assert os.listdir(tmp_path) == ["one"]


def test_a_new_layout_takes_nobodys_place(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    for path in (tmp_path / "there", tmp_path / "there/file"):
        with pytest.raises(UsageError, match="found one already"), new_layout(str(path)):
            pass
    with pytest.raises(UsageError, match="No such file"), new_layout(str(tmp_path / "no/such")):
        pass
    (tmp_path / "empty").mkdir()
    with new_layout(str(tmp_path / "empty")) as layout:
        simple(layout)
    assert (tmp_path / "empty/index.json").exists()


def test_what_is_written_is_the_same_under_any_umask(tmp_path):
    found = []
    for number, mask in enumerate((0o000, 0o077)):
        before = os.umask(mask)
        try:
            with new_layout(str(tmp_path / str(number))) as layout:
                simple(layout)
        finally:
            os.umask(before)
        tree = sorted(
            (
                os.path.relpath(os.path.join(above, name), tmp_path / str(number)),
                os.stat(os.path.join(above, name)).st_mode,
            )
            for above, folders, names in os.walk(tmp_path / str(number))
            for name in (*folders, *names)
        )
        found.append(tree)
    assert found[0] == found[1]
    assert json.loads((tmp_path / "0/oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_what_a_list_has_many_times_is_read_once(tmp_path, monkeypatch):
    layout = new(tmp_path / "layout")
    stored = simple(layout)
    signature = package(layout, (WASM, b"x"), tag=None, subject=stored, artifact_type="application/x.y")
    fallback = encode_index(Index((signature,) * 2000))
    listed = Descriptor(INDEX, digest_of(fallback), len(fallback))
    layout.put_blob(listed, [fallback])
    layout.put_manifest(fallback, INDEX, tag=stored.digest.replace(":", "-"))
    read = []
    monkeypatch.setattr(LayoutFolder, "open_file", _recorded(LayoutFolder.open_file, read))
    for kind in ("application/x.y", "application/x.z"):
        layout.referrers(stored.digest, kind)
    assert read.count(blob_path(signature.digest)) == 1


def _recorded(open_file, read):
    def opened(self, name):
        read.append(name)
        return open_file(self, name)

    return opened
