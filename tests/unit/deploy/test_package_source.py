# SPDX-License-Identifier: Apache-2.0
"""From a name to a path: what is opened, what is refused before it is opened, and what is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from datetime import UTC, datetime

import pytest

from enarx.deploy import known_tags, package_source
from enarx.deploy.package import load_package
from enarx.deploy.package_source import FoundPackage, Signers, find_package, open_reference
from enarx.errors import AppraisalError, ConfigError, DecodeError, UsageError, VerificationError
from enarx.registry.archive import write_archive
from enarx.registry.building import build_package
from enarx.registry.layout import blob_path
from enarx.wire.oci import digest_of
from enarx.wire.package_ref import RegistryRef
from tests.unit.registry.layouts import IMPORTING, new, simple
from tests.unit.registry.test_building import make_app

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A place for folders that the tests look into."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return place


@pytest.fixture
def app(tmp_path):
    return make_app(tmp_path / "app")


@pytest.fixture
def layout(app, tmp_path):
    layout = new(tmp_path / "layout")
    build_package(str(app), layout, tag="1.0")
    return layout


def test_a_plain_path_is_used_where_it_is(app, temporary):
    for path in (str(app), str(app / "main.wasm"), str(app / "nothing")):
        with open_reference(path) as opened:
            assert (opened.path, opened.name, opened.oci_digest) == (path, path, None)
            assert os.listdir(temporary) == []


def test_every_form_of_a_package_has_the_digest_of_its_folder(app, layout, tmp_path, temporary):
    write_archive(layout, str(tmp_path / "app.tar"))
    want = load_package(str(app)).digest
    oci = layout.only_digest()
    for name in (
        layout.path,
        f"{layout.path}:1.0",
        f"{layout.path}@{oci}",
        f"{tmp_path}/app.tar",
        f"{tmp_path}/app.tar:1.0",
    ):
        said = []
        with open_reference(name, say=said.append) as opened:
            assert load_package(opened.path).digest == want
            assert (opened.name, opened.oci_digest) == (name, oci)
            assert os.stat(opened.path).st_mode & 0o777 == 0o700
            assert said == [f"{name} is {oci}"]
        assert os.listdir(temporary) == []


def test_a_name_that_is_there_is_a_path(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rename(layout.path, "layout:1.0")
    with open_reference("layout:1.0") as opened, open_reference("layout:1.0:1.0") as other:
        assert opened.oci_digest == other.oci_digest


def test_a_folder_with_a_module_is_a_folder(layout):
    with open(f"{layout.path}/main.wasm", "wb") as file:
        file.write(IMPORTING)
    with open_reference(layout.path) as opened:
        assert opened.path == layout.path


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nothing:1.0", "found no such file"),
        ("app:1.0", "is no OCI layout"),
        ("app@sha256:" + "0" * 64, "is no OCI layout"),
        ("layout:2.0", "found no package '2.0' in it"),
        ("https://registry.example/app", "found https://"),
    ],
)
def test_what_is_not_there_is_named(app, layout, tmp_path, monkeypatch, name, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=word), open_reference(name):
        pass


def test_a_changed_byte_is_refused_and_leaves_nothing(layout, temporary):
    with open(os.path.join(layout.path, blob_path(digest_of(IMPORTING))), "r+b") as file:
        file.write(b"x")
    with pytest.raises(VerificationError), open_reference(layout.path):
        pass
    assert os.listdir(temporary) == []


def test_the_folder_goes_whatever_happens_to_its_user(layout, temporary):
    with pytest.raises(FileNotFoundError), open_reference(layout.path) as opened:
        os.unlink(f"{opened.path}/nothing")
    assert os.listdir(temporary) == []


def test_what_a_killed_process_left_is_removed_and_what_is_used_is_not(layout, temporary):
    left, others = temporary / "enarx-package-left", temporary / "enarx-package-open"
    mine = temporary / "something-else"
    for each, mode in ((left, 0o700), (others, 0o755), (mine, 0o700)):
        each.mkdir()
        each.chmod(mode)
        (each / "main.wasm").touch()
    with open_reference(layout.path) as one, open_reference(layout.path) as two:
        assert {one.path, two.path} <= {str(each) for each in temporary.iterdir()}
        assert not left.exists()
    assert sorted(os.listdir(temporary)) == ["enarx-package-open", "something-else"]


def test_a_folder_that_is_swept_before_it_is_held_is_made_again(layout, temporary, monkeypatch):
    flock, swept = fcntl.flock, []

    def sweep_first(fd, operation):
        if not swept:
            swept.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.rmdir(swept[0])
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with open_reference(layout.path) as opened:
        assert os.path.isfile(f"{opened.path}/main.wasm")
        assert opened.path != swept[0]


def test_a_signature_is_wanted_before_anything_is_opened(app, layout, temporary, monkeypatch):
    require = Signers((), NOW)
    with (
        pytest.raises(AppraisalError, match="found a plain module or folder"),
        open_reference(str(app), require=require),
    ):
        pass
    monkeypatch.setattr(package_source, "open_package", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(AppraisalError, match="found nobody who may sign"), open_reference(layout.path, require=require):
        pass


def found_in_registry(monkeypatch, layout, tag="1.0", digest=None):
    """Let a name of a registry lead to a layout."""

    @contextlib.contextmanager
    def find(text, *, progress=None):
        ref = RegistryRef("registry.example", "team/app", tag, digest)
        yield FoundPackage(ref, layout, layout.resolve(digest or tag or "1.0"), "registry.example/team/app")
        closed.append(text)

    closed = []
    monkeypatch.setattr(package_source, "find_package", find)
    return closed


def open_it(**how):
    with open_reference("oci://registry.example/team/app:1.0", **how) as opened:
        return opened.oci_digest


def test_a_tag_that_moved_is_refused_until_it_is_accepted(layout, monkeypatch):
    found_in_registry(monkeypatch, layout)
    before = open_it()
    assert open_it() == before
    assert known_tags.known_digest("registry.example/team/app:1.0") == before
    simple(layout, tag="1.0")
    with pytest.raises(VerificationError, match="the tag was moved"):
        open_it()
    after = open_it(accept_new_digest=True)
    assert after != before
    assert open_it() == after


def test_a_package_that_may_not_be_used_is_not_remembered(layout, monkeypatch):
    found_in_registry(monkeypatch, layout)
    with pytest.raises(AppraisalError):
        open_it(require=Signers((), NOW))
    assert known_tags.known_digest("registry.example/team/app:1.0") is None


def test_a_command_that_ends_at_once_removes_the_folder_and_nothing_else(app, layout):
    with open_reference(str(app)) as plain, open_reference(layout.path) as opened:
        plain.remove()
        opened.remove()
        assert not os.path.exists(opened.path)
        assert (app / "main.wasm").exists()


def test_a_registry_is_let_go_before_the_package_is_used(layout, monkeypatch):
    closed = found_in_registry(monkeypatch, layout)
    with open_reference("oci://registry.example/team/app:1.0") as opened:
        assert closed == ["oci://registry.example/team/app:1.0"]
        assert os.path.exists(f"{opened.path}/main.wasm")


def test_a_digest_is_never_looked_up(layout, monkeypatch):
    before = layout.only_digest()
    found_in_registry(monkeypatch, layout, digest=before)
    assert open_it() == before
    assert known_tags.known_digest("registry.example/team/app:1.0") is None


def test_no_tag_is_the_tag_latest(layout, monkeypatch):
    found_in_registry(monkeypatch, layout, tag=None)
    assert known_tags.known_digest("registry.example/team/app:latest") != open_it()
    assert known_tags.known_digest("registry.example/team/app:latest") == layout.only_digest()


def test_a_layout_is_found_without_being_opened(layout, temporary):
    with find_package(layout.path) as found:
        assert (found.digest, found.repository) == (layout.only_digest(), None)
    assert os.listdir(temporary) == []


def test_a_layout_that_is_none_is_refused(layout):
    os.unlink(f"{layout.path}/index.json")
    with pytest.raises(DecodeError, match="found no index"), open_reference(layout.path):
        pass


def test_a_package_that_cannot_be_opened_is_not_remembered(layout, monkeypatch):
    found_in_registry(monkeypatch, layout)
    good = open_it()
    broken = simple(layout, toml=b"not = [", tag="1.0").digest
    with pytest.raises(VerificationError, match="the tag was moved"):
        open_it()
    with pytest.raises(ConfigError, match=broken):
        open_it(accept_new_digest=True)
    assert known_tags.known_digest("registry.example/team/app:1.0") == good
