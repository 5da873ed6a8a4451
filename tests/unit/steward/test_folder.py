# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat

import pytest

from enarx.errors import PlatformError, UsageError
from enarx.steward import folder as files
from enarx.steward.folder import StewardFolder, default_folder, make_folder


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "steward"
    make_folder(str(path), {files.KEY: b"secret", files.CONFIGURATION: b"public"})
    return path


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_the_folder_and_its_files_are_its_owners_alone(made):
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert modes(made) == {files.KEY: 0o600, files.CONFIGURATION: 0o600}
    with StewardFolder(str(made)) as folder:
        assert folder.read(files.KEY) == b"secret"
        assert folder.has(files.KEY)
        assert not folder.has(files.CHAIN)


def test_an_empty_folder_can_become_a_stewards(tmp_path):
    path = tmp_path / "empty"
    path.mkdir(mode=0o755)
    make_folder(str(path), {files.KEY: b"secret"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_keys_are_never_written_over(made):
    with pytest.raises(UsageError, match="found something already") as refused:
        make_folder(str(made), {files.KEY: b"another"})
    assert "--state" in refused.value.hint
    assert (made / files.KEY).read_bytes() == b"secret"
    (made.parent / "file").touch()
    with pytest.raises(UsageError, match="found something already"):
        make_folder(str(made.parent / "file"), {})


def test_what_a_killed_process_left_is_no_steward(tmp_path):
    left = tmp_path / "steward.new"
    left.mkdir()
    (left / files.KEY).write_bytes(b"half")
    with pytest.raises(UsageError, match="found no folder") as refused:
        StewardFolder(str(tmp_path / "steward"))
    assert "enarx steward init" in refused.value.hint
    make_folder(str(tmp_path / "steward"), {files.LOG_KEY: b"whole"})
    assert not left.exists()
    assert set(modes(tmp_path / "steward")) == {files.LOG_KEY}


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o770])
def test_a_folder_that_is_open_to_others_is_refused(made, mode):
    made.chmod(mode)
    with pytest.raises(PlatformError, match=f"{mode:04o}, want owner {os.geteuid()} and 0700"):
        StewardFolder(str(made))


@pytest.mark.parametrize(
    ("name", "mode", "accepted"),
    [
        (files.KEY, 0o600, True),
        (files.KEY, 0o400, True),
        (files.KEY, 0o640, False),
        (files.KEY, 0o604, False),
        (files.CONFIGURATION, 0o644, True),
        (files.CONFIGURATION, 0o664, False),
    ],
)
def test_a_secret_must_be_its_owners_and_the_rest_written_by_him_alone(made, name, mode, accepted):
    (made / name).chmod(mode)
    with StewardFolder(str(made)) as folder:
        if accepted:
            assert folder.read(name)
        else:
            with pytest.raises(PlatformError, match=f"mode {mode:04o}"):
                folder.read(name)


def test_links_folders_and_large_files_are_no_files_of_it(made):
    (made / files.POLICY).symlink_to(made / files.CONFIGURATION)
    (made / files.CHAIN).mkdir()
    with open(made / files.REQUEST, "wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    (made / files.REQUEST).chmod(0o600)
    with StewardFolder(str(made)) as folder:
        for name, why in ((files.POLICY, "symbolic"), (files.CHAIN, "mode"), (files.REQUEST, "more than")):
            with pytest.raises(PlatformError, match=why):
                folder.read(name)
        with pytest.raises(UsageError, match="found nothing"):
            folder.read(files.RESULT_KEY)


def test_one_process_at_a_time_serves_with_the_log_that_is_in_it(made):
    one, other = StewardFolder(str(made)), StewardFolder(str(made))
    one.lock()
    with pytest.raises(PlatformError, match="found another Steward") as refused:
        other.lock()
    assert "--database-file" in refused.value.hint
    one.close()
    other.lock()
    other.close()
    other.close()


def test_a_file_is_replaced_whole(made):
    with StewardFolder(str(made)) as folder:
        folder.write(files.CHAIN, b"chain")
        folder.write(files.CHAIN, b"another")
        assert folder.read(files.CHAIN) == b"another"
        folder.remove(files.CHAIN)
        folder.remove(files.CHAIN)
    assert modes(made)[files.KEY] == 0o600
    assert not (made / files.CHAIN).exists()


def test_where_it_is_when_nobody_says_where(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_folder() == "/state/enarx/steward"
