# SPDX-License-Identifier: Apache-2.0
"""Getting inputs, with apt and pip played by a function: what each is asked, what is kept, and what each failure is called."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from enarx.errors import ConfigError, PlatformError, TransportError
from enarx.image import inputs
from enarx.image.contents import ARCHITECTURES, STUB, WHEELS
from enarx.image.inputs import fetch_inputs, resolve_lock
from enarx.image.lock import Input, Lock

MAIN, SECURITY = "http://mirror.test/debian/", "http://mirror.test/debian-security/"
SOURCES = f"""\
{MAIN} bookworm main
{MAIN} bookworm contrib
{MAIN} bookworm-updates main
{SECURITY} bookworm-security main
http://other.test/ubuntu/ noble main
http://other.test/node/ nodistro main
"""


def an_input(kind, name, data, filename, **fields):
    return Input(
        kind=kind, name=name, version="1", suite="", filename=filename, size=len(data),
        sha256=hashlib.sha256(data).hexdigest(), **fields,
    )  # fmt: skip


DEB = an_input("deb", "zlib1g", b"zlib", "pool/main/zlib1g_1_amd64.deb")
UPDATE = an_input("deb", "libexpat1", b"expat", "pool/updates/main/libexpat1_1_amd64.deb")
WHEEL = an_input("wheel", "cbor2", b"cbor2", "cbor2-1-py3-none-any.whl")
LOCK = Lock(path="x86_64.toml", arch="x86_64", inputs=(DEB, UPDATE, WHEEL))


class World:
    """What mirrors and an index have, and what they were asked."""

    def __init__(self):
        self.files = {MAIN + DEB.filename: b"zlib", SECURITY + UPDATE.filename: b"expat"}
        self.wheels = {WHEEL.filename: b"cbor2"}
        self.sources = SOURCES
        self.packages = ""
        self.unreachable = False
        self.asked = []

    def run(self, command, environment, deadline, tell=lambda: None):
        program = os.path.basename(command[0])
        self.asked.append((program, list(command[1:]), dict(environment)))
        assert environment["LC_ALL"] == "C"
        tell()
        return getattr(self, "do_" + re.sub(r"\W", "_", program))(list(command[1:]), environment)

    def do_apt_get(self, words, environment):
        if words[0] == "indextargets":
            return 0, self.sources
        with open(os.path.dirname(environment["APT_CONFIG"]) + "/etc/debian.sources", encoding="utf-8") as file:
            self.written_sources = file.read()
        return (100, "E: no route") if self.unreachable else (0, "Hit:1")

    def do_apt_config(self, words, environment):
        return 0, 'Acquire::http::Proxy "http://proxy.test:3128";\nAcquire::IndexTargets::deb::x "y";\n'

    def do_apt_cache(self, words, environment):
        return 0, self.packages

    def do_apt_helper(self, words, environment):
        with open(environment["APT_CONFIG"], encoding="utf-8") as file:
            self.configuration = file.read()
        said = []
        for address, place, digest in zip(words[1::3], words[2::3], words[3::3], strict=True):
            data = self.files.get(address)
            if self.unreachable:
                said.append(f"Err:1 {address}\n  Could not connect\nE: Failed to fetch {address}  Could not connect")
            elif data is None:
                said.append(f"E: Failed to fetch {address}  404  Not Found [IP: 192.0.2.1 80]")
            elif "SHA256:" + hashlib.sha256(data).hexdigest() != digest:
                said.append(f"E: Failed to fetch {address}  Hash Sum mismatch")
            else:
                with open(place, "wb") as file:
                    file.write(data)
        return (100 if said else 0), "\n".join(said)

    def do_pip(self, words):
        folder = words[words.index("--dest") + 1]
        os.makedirs(folder, exist_ok=True)
        if self.unreachable:
            return 1, "WARNING: Retrying\nERROR: Could not find a version (from versions: none)"
        if not self.wheels:
            return 1, "ERROR: No matching distribution found for cbor2==1"
        for name, data in self.wheels.items():
            with open(f"{folder}/{name}", "wb") as file:
                file.write(data)
        return 0, ""


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World()
    setattr(world, "do_" + re.sub(r"\W", "_", os.path.basename(sys.executable)), lambda words, _: world.do_pip(words))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(inputs, "_run", world.run)
    monkeypatch.setattr(inputs, "_apt_helper", lambda: "apt-helper")
    return world


def fetch(lock=LOCK, **options):
    return fetch_inputs(lock, lock.inputs, "x86_64", **options)


def test_every_input_is_fetched_and_kept_under_its_digest(world, tmp_path):
    found = fetch()
    assert {entry: Path(path).read_bytes() for entry, path in found.items()} == {
        DEB: b"zlib", UPDATE: b"expat", WHEEL: b"cbor2",
    }  # fmt: skip
    assert sorted(os.listdir(tmp_path / "cache/enarx/image-inputs")) == sorted(entry.sha256 for entry in LOCK.inputs)


def test_what_is_kept_is_not_asked_for_again(world):
    fetch()
    world.asked.clear()
    assert set(fetch()) == set(LOCK.inputs)
    assert world.asked == []


@pytest.mark.parametrize("data", [b"zli", b"zlob", b""])
def test_what_was_damaged_in_the_cache_is_fetched_again(world, data):
    path = fetch()[DEB]
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(data)
    assert fetch()[DEB] == path
    with open(path, "rb") as file:
        assert file.read() == b"zlib"


def test_only_mirrors_of_debian_are_asked_one_after_the_other(world):
    fetch()
    addresses = [word for program, words, _ in world.asked if program == "apt-helper" for word in words[1::3]]
    assert addresses == [MAIN + DEB.filename, MAIN + UPDATE.filename, SECURITY + UPDATE.filename]


def test_apt_is_told_how_to_fetch_as_the_machine_is_and_nothing_else(world):
    fetch()
    assert 'Acquire::http::Proxy "http://proxy.test:3128";' in world.configuration
    assert "IndexTargets" not in world.configuration
    assert 'Dir::Etc::parts "/dev/null";' in world.configuration


def test_pip_is_asked_for_the_digests_of_the_lock_and_the_guests_interpreter(world):
    fetch()
    (words,) = [words for program, words, _ in world.asked if "download" in words]
    assert "--require-hashes" in words
    assert words[words.index("--python-version") + 1] == "3.11"
    assert "manylinux2014_x86_64" in words
    assert not any(word.startswith(("--index-url", "--extra-index-url")) for word in words)


def test_progress_is_told_up_to_the_last_byte(world):
    told = []
    fetch(progress=lambda *words: told.append(words))
    assert told[0] == ("fetching", 0, 14)
    assert told[-1] == ("fetching", 14, 14)
    assert all(done <= total for _, done, total in told)


@pytest.mark.parametrize("gone", [DEB, UPDATE])
def test_a_pin_that_the_mirror_no_longer_has_is_named_with_what_to_do(world, gone):
    world.files = {address: data for address, data in world.files.items() if not address.endswith(gone.filename)}
    with pytest.raises(
        ConfigError, match=f"{gone.filename}: found nothing on any of apt's mirrors, want {gone.name} 1"
    ) as caught:
        fetch()
    assert "`enarx image build --refresh`" in caught.value.hint
    assert (caught.value.path, caught.value.key) == ("x86_64.toml", gone.name)


def test_a_wheel_that_the_index_no_longer_has_is_named(world):
    world.wheels = {}
    with pytest.raises(ConfigError, match="found nothing in pip's index, want cbor2 1 with SHA-256"):
        fetch()


def test_another_file_under_a_pins_name_is_refused(world):
    world.files[MAIN + DEB.filename] = b"altered"
    with pytest.raises(ConfigError, match="found another file under its name, want zlib1g 1"):
        fetch()


def test_another_wheel_under_a_pins_name_is_refused(world):
    world.wheels[WHEEL.filename] = b"altered"
    with pytest.raises(ConfigError, match="found another file under its name, want cbor2 1"):
        fetch()


@pytest.mark.parametrize("kept", [(WHEEL,), (DEB, UPDATE)])
def test_a_network_that_is_not_there_is_another_matter(world, kept):
    fetch(replace(LOCK, inputs=kept))
    world.unreachable = True
    with pytest.raises(TransportError, match="cannot fetch") as caught:
        fetch()
    assert "works" in caught.value.hint


def test_a_failure_leaves_nothing_behind(world, tmp_path):
    world.files = {}
    with pytest.raises(ConfigError):
        fetch()
    assert os.listdir(tmp_path / "cache/enarx/image-inputs") == []


def test_sources_without_a_mirror_of_debian_are_refused(world):
    world.sources = "http://other.test/ubuntu/ noble main\n"
    with pytest.raises(PlatformError, match="apt's sources: found no mirror of Debian"):
        fetch()


def test_a_machine_without_apt_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(inputs, "_APT_HELPER", str(tmp_path / "none"))
    with pytest.raises(PlatformError, match="apt: found none"):
        fetch()


class TestRun:
    def test_returns_status_and_all_that_was_said(self):
        command = [sys.executable, "-c", "import sys; print('a', flush=True); print('b', file=sys.stderr); sys.exit(3)"]
        assert inputs._run(command, {}, time.monotonic() + 60) == (3, "a\nb\n")

    def test_ends_a_program_that_takes_too_long(self):
        with pytest.raises(TransportError, match="found no end after"):
            inputs._run(["sleep", "60"], {}, 0.0)

    def test_a_program_that_is_not_there_is_named(self):
        with pytest.raises(PlatformError, match="none: No such file"):
            inputs._run(["/none"], {}, 0.0)


# --- A new lock ------------------------------------------------------------------------------------------------------

TARGET = ARCHITECTURES["x86_64"]


def stanza(name, **fields):
    fields = {
        "Package": name, "Version": "2", "Filename": f"pool/main/{name}_2.deb", "Size": "7", "SHA256": "cd" * 32, **fields,
    }  # fmt: skip
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


def all_packages():
    names = [*TARGET.guest_packages, *inputs.TOOLS, *TARGET.firmware_packages, STUB, "linux-image-6.12.9-cloud-amd64"]
    stanzas = [stanza(name) for name in names]
    return "\n".join([*stanzas, stanza(TARGET.kernel, Depends="linux-image-6.12.9-cloud-amd64 (= 2), other")])


def all_wheels():
    return {f"{name.replace('-', '_')}-1-py3-none-any.whl": name.encode() for name in WHEELS}


def test_a_new_lock_has_every_input_that_there_is(world, tmp_path):
    world.packages, world.wheels = all_packages(), all_wheels()
    lock = resolve_lock(TARGET, str(tmp_path / "lock"))
    assert lock.kernel().name == "linux-image-6.12.9-cloud-amd64"
    assert lock.deb("libc6").suite == "bookworm"
    assert lock.deb("ovmf-amdsev") == Input(
        kind="deb", name="ovmf-amdsev", version="2", suite="testing", filename="pool/main/ovmf-amdsev_2.deb", size=7,
        sha256="cd" * 32,
    )  # fmt: skip
    assert {entry.name for entry in lock.inputs if entry.kind == "wheel"} == set(WHEELS)
    assert lock.deb(STUB).suite == "trixie"
    assert len(lock.inputs) == len(TARGET.guest_packages) + len(inputs.TOOLS) + 3 + 1 + 1 + len(WHEELS)


def test_a_new_lock_adds_the_suites_it_needs_to_the_machines_own_mirrors(world, tmp_path):
    world.packages, world.wheels = all_packages(), all_wheels()
    resolve_lock(TARGET, str(tmp_path / "lock"))
    assert (
        f"URIs: {MAIN}\nSuites: bookworm bookworm-updates bookworm-backports trixie testing\n" in world.written_sources
    )
    assert f"URIs: {SECURITY}\nSuites: bookworm-security\n" in world.written_sources
    assert "other.test" not in world.written_sources


def test_a_new_lock_has_its_wheels_at_hand(world, tmp_path):
    world.packages, world.wheels = all_packages(), all_wheels()
    lock = resolve_lock(TARGET, str(tmp_path / "lock"))
    world.asked.clear()
    fetch_inputs(lock, [lock.wheel("cbor2")], "x86_64")
    assert world.asked == []


def test_a_package_that_is_nowhere_is_named(world, tmp_path):
    world.packages = all_packages().replace("Package: libffi8\n", "Package: libffi9\n")
    with pytest.raises(ConfigError, match="libffi8: found no such package"):
        resolve_lock(TARGET, str(tmp_path / "lock"))


def test_a_new_lock_needs_the_mirror(world, tmp_path):
    world.unreachable = True
    with pytest.raises(TransportError, match="apt-get update: E: no route"):
        resolve_lock(TARGET, str(tmp_path / "lock"))
