# SPDX-License-Identifier: Apache-2.0
"""The emulated platform of an installation: made once, whole, private; renewed in time; refused where it is not ours."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, parse_certificate_table_untrusted
from enarx.crypto.certificates import issued_directly, load_certificate_untrusted, load_crl_untrusted, not_after_of
from enarx.emulator import installation
from enarx.emulator.installation import TCB, open_installation
from enarx.errors import PlatformError
from enarx.testing.snp import AT

DAY = timedelta(days=1)
SECRETS = ("ark.key", "ask.key", "chip.secret")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("above") / "enarx/emulated-platform"
    open_installation(str(folder), at=AT)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "enarx/emulated-platform", copy_function=shutil.copy2)


def open_at(folder, at=AT):
    return open_installation(str(folder), at=at)


def refuses(folder, what, at=AT):
    with pytest.raises(PlatformError, match=what) as caught:
        open_at(folder, at)
    assert caught.value.hint


def test_makes_a_private_platform(made):
    assert made.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in made.iterdir()}
    assert modes == dict.fromkeys(SECRETS, 0o600) | dict.fromkeys(("ark.der", "ask.der", "vcek.der", "crl.der"), 0o644)
    assert sorted(path.name for path in made.parent.iterdir()) == ["emulated-platform", "emulated-platform.lock"]


def test_hands_out_a_chain_with_a_revocation_list(folder):
    opened = open_at(folder)
    table = dict(parse_certificate_table_untrusted(opened.table))
    assert list(table) == [VCEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID]
    vcek, ask, ark = (load_certificate_untrusted(table[guid]) for guid in (VCEK_GUID, ASK_GUID, ARK_GUID))
    assert issued_directly(vcek, ask)
    assert issued_directly(ask, ark)
    assert issued_directly(ark, ark)
    assert table[ARK_GUID] == opened.root == (folder / "ark.der").read_bytes()
    assert vcek.public_key() == opened.signing_key.public_key() == opened.processor.key_for(TCB).public_key()
    assert load_crl_untrusted(table[CRL_GUID]).is_signature_valid(ark.public_key())
    assert "key" not in repr(opened)


def test_opens_the_same_one_again_and_writes_nothing(folder):
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert open_at(folder).table == open_at(folder, AT + DAY).table
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_opens_without_the_right_to_write(folder, monkeypatch):
    monkeypatch.setattr(installation, "_turn", None)
    assert open_at(folder).root


def test_makes_another_one_elsewhere(made, tmp_path):
    assert open_at(tmp_path / "other").root != open_at(made).root


def test_renews_certificates_before_they_end_and_keeps_the_root(folder):
    first = open_at(folder)
    later = first.renew_at
    assert AT + 300 * DAY < later < AT + 366 * DAY
    second = open_at(folder, later)
    assert second.root == first.root
    assert second.table != first.table
    assert second.renew_at > later + 300 * DAY
    assert second.processor.chip_id == first.processor.chip_id


@pytest.mark.parametrize("name", ["vcek.der", "crl.der"])
def test_makes_a_certificate_again_that_is_gone(folder, name):
    (folder / name).unlink()
    assert dict(parse_certificate_table_untrusted(open_at(folder).table)).keys() >= {VCEK_GUID, CRL_GUID}
    assert (folder / name).exists()


def test_makes_certificates_again_for_a_clock_that_was_set_back(folder):
    opened = open_at(folder, AT - 40 * DAY)
    crl = load_crl_untrusted(dict(parse_certificate_table_untrusted(opened.table))[CRL_GUID])
    assert crl.last_update_utc <= AT - 40 * DAY


def test_issues_for_the_tcb_of_this_version(folder, monkeypatch):
    first = open_at(folder)
    tcb = bytes((4, 0, 0, 0, 0, 0, 99, 219))
    monkeypatch.setattr(installation, "TCB", tcb)
    second = open_at(folder)
    assert second.signing_key.public_key() == first.processor.key_for(tcb).public_key()
    vcek = load_certificate_untrusted(dict(parse_certificate_table_untrusted(second.table))[VCEK_GUID])
    assert vcek.public_key() == second.signing_key.public_key()


@pytest.mark.parametrize("years", [-3, 30])
def test_refuses_a_clock_outside_the_roots_time(folder, years):
    refuses(folder, "found certificates that do not hold at", AT + timedelta(days=years * 365))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("", 0o750), ("", 0o701), ("ark.key", 0o640), ("chip.secret", 0o604), ("ark.der", 0o666), ("crl.der", 0o664)],
)
def test_refuses_open_modes(folder, name, mode):
    (folder / name).chmod(mode)
    refuses(folder, f"mode {mode:04o}, want owner")


def test_refuses_a_foreign_owner(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refuses(folder, "want owner 12345")


def test_refuses_links(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    refuses(folder, "want owner")
    folder.unlink()
    elsewhere.rename(folder)
    (folder / "ark.key").rename(tmp_path / "key")
    (folder / "ark.key").symlink_to(tmp_path / "key")
    refuses(folder, "ark.key: Too many levels of symbolic links")


def test_refuses_a_fifo_at_once(folder):
    (folder / "chip.secret").unlink()
    os.mkfifo(folder / "chip.secret", 0o600)
    refuses(folder, "want owner")


@pytest.mark.parametrize("name", [*SECRETS, "ark.der", "ask.der"])
def test_refuses_a_platform_with_a_file_missing(folder, name):
    (folder / name).unlink()
    refuses(folder, f"{name}: No such file")


@pytest.mark.parametrize("name", [*SECRETS, "ark.der", "ask.der", "vcek.der", "crl.der"])
@pytest.mark.parametrize("damage", ["empty", "short", "long", "other"])
def test_refuses_or_replaces_damaged_files(folder, name, damage):
    content = (folder / name).read_bytes()
    changed = {
        "empty": b"",
        "short": content[:20],
        "long": content + bytes(20_000),
        "other": bytes(len(content)),
    }[damage]
    (folder / name).write_bytes(changed)
    if name == "chip.secret" and damage == "other":
        # Any bytes are a secret: this is another chip now, of the same vendor.
        assert open_at(folder).root
        return
    refuses(folder, "emulated-platform: found")


def test_refuses_a_key_that_is_not_its_certificates(folder):
    shutil.copy(folder / "ask.key", folder / "ark.key")
    refuses(folder, "ark.key is not the key of ark.der")


def test_waits_for_another_process_a_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "LOCK_WAIT_S", 0.05)
    folder = tmp_path / "platform"
    with open(f"{folder}.lock", "w", encoding="ascii") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        refuses(folder, "another process that has it")
    assert not folder.exists()


def test_refuses_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    refuses(tmp_path / "file/enarx/platform", "file")


def test_begins_anew_after_a_process_that_was_killed(tmp_path):
    left = tmp_path / "platform.new"
    left.mkdir()
    (left / "ark.key").write_text("half")
    assert open_at(tmp_path / "platform").root
    assert not left.exists()


def test_threads_that_start_at_once_have_one_platform(tmp_path):
    with ThreadPoolExecutor(3) as threads:
        opened = list(threads.map(lambda _: open_at(tmp_path / "platform"), range(3)))
    assert len({each.table for each in opened}) == 1


def test_processes_that_start_at_once_have_one_platform(tmp_path):
    code = (
        "import sys\nfrom datetime import UTC, datetime\n"
        "from enarx.emulator.installation import open_installation\n"
        "print(open_installation(sys.argv[1], at=datetime(2026, 6, 1, tzinfo=UTC)).table.hex())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "platform")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    printed = {each.communicate(timeout=60) for each in running}
    assert len(printed) == 1
    ((tables, errors),) = printed
    assert tables
    assert not errors


def test_the_roots_end_is_far(folder):
    assert not_after_of(load_certificate_untrusted(open_at(folder).root)) > AT + 20 * 365 * DAY
