# SPDX-License-Identifier: Apache-2.0
"""Enclaves, with stand-ins for Gramine's programs. The real ones are asked in tests/integration/test_selftest.py, on hardware."""

from __future__ import annotations

import json
import os
import signal
import time
import tomllib
from pathlib import Path

import pytest

from enarx.attester.attested import SGX_QUOTE, Attested
from enarx.errors import KeepError, PlatformError
from enarx.host.launchers import KeepSpec, sgx
from enarx.host.launchers.sgx import (
    MEMORY_BYTES,
    QUOTE_CODE,
    SgxLauncher,
    ask_quote,
    enclave_manifest,
    find_gramine,
    predict_measurement,
)
from enarx.host.process_facts import children_of, has_ended
from enarx.rats import Endorsements, TrustAnchors
from enarx.testing.dcap import AT, SGX, FakeIntel, Platform
from tests import fake_gramine
from tests.unit.attester.judging import REPORT_DATA, assert_judged, assert_marked

ID = "0123456789abcdef"
SPEC = KeepSpec(id=ID, memory_bytes=1 << 20, package_bytes=1 << 20, log_bytes=1 << 20)
ECHO = "import os,sys;[os.write(1, data.upper()) for data in iter(lambda: os.read(0, 4096), b'')]"
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def gramine(tmp_path, monkeypatch):
    programs = fake_gramine.install(tmp_path)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    # A key for SGX takes half a second to make.
    monkeypatch.setattr("enarx.host.launchers.gramine._throwaway_key", lambda: b"-----BEGIN RSA PRIVATE KEY-----\n")
    return programs


@pytest.fixture
def image(tmp_path):
    return fake_gramine.image(tmp_path / "image")


def until(condition):
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


# --- What an enclave is


def test_the_files_of_an_enclave_are_those_of_the_image(image, gramine):
    found = tomllib.loads(enclave_manifest(image, QUOTE_CODE, find_gramine()))
    assert found["libos"]["entrypoint"] == "/usr/bin/python3.11"
    assert found["loader"]["argv"] == ["/usr/bin/python3.11", "-I", "-S", "-c", QUOTE_CODE]
    assert found["loader"]["env"] == {"LANG": "C.UTF-8", "PATH": "/usr/bin"}
    libos = f"file:{gramine.parent}/lib/x86_64-linux-gnu/gramine/libsysdb.so"
    assert {file["uri"] for file in found["sgx"]["trusted_files"]} == {
        libos,
        "file:root/usr/bin/python3.11",
        "file:root/usr/lib64/ld-linux-x86-64.so.2",
    }
    assert {mount["path"]: mount.get("uri") for mount in found["fs"]["mounts"]} == {
        "/lib64/ld-linux-x86-64.so.2": "file:root/usr/lib64/ld-linux-x86-64.so.2",
        "/usr/bin/python3.11": "file:root/usr/bin/python3.11",
        "/usr/lib64/ld-linux-x86-64.so.2": "file:root/usr/lib64/ld-linux-x86-64.so.2",
        "/tmp": None,
    }


def test_an_image_without_an_interpreter_is_refused(image):
    image.manifest.files = image.manifest.files[1:]
    with pytest.raises(PlatformError, match="image fake: found no interpreter"):
        enclave_manifest(image, QUOTE_CODE, find_gramine())


def test_the_measurement_is_the_signers_and_unknown_without_it(image, gramine):
    assert predict_measurement(image) == fake_gramine.MEASUREMENT
    (gramine / "gramine-sgx-sign").unlink()
    assert predict_measurement(image) is None


def test_a_gramine_that_is_not_there_or_not_whole_is_said(gramine):
    with pytest.raises(PlatformError, match="found no gramine-sgx on PATH") as caught:
        find_gramine(lambda name: None)
    assert caught.value.hint == "install Gramine"
    (gramine.parent / "lib/x86_64-linux-gnu/gramine/libsysdb.so").unlink()
    with pytest.raises(PlatformError, match=r"found no gramine/libsysdb\.so"):
        find_gramine()


# --- Quotes


def test_an_enclave_gives_a_quote_that_is_judged(image, tmp_path):
    evidence = ask_quote(image, REPORT_DATA, str(tmp_path), unpack=lambda image: image.folder)
    attested = Attested(evidence)
    assert_marked(attested, SGX_QUOTE)
    intel = FakeIntel()
    assert_judged(
        attested,
        at=AT,
        anchors=TrustAnchors(intel=(intel.root.der,)),
        freshness="sgx.report_data",
        endorsements=Endorsements(intel=(intel.make_collateral(SGX, Platform()),)),
    )


def test_a_changed_file_is_refused_by_gramine_and_said(image, tmp_path):
    Path(image.folder, "usr/lib64/ld-linux-x86-64.so.2").write_bytes(b"another")
    with pytest.raises(PlatformError, match=r"found status 1 and 0 bytes, want a quote; it said last: .*hash mismatch"):
        ask_quote(image, REPORT_DATA, str(tmp_path), unpack=lambda image: image.folder)


# --- Keeps


class Started:
    def __init__(self, image, folder, code, monkeypatch):
        monkeypatch.setattr(SgxLauncher, "open_image", lambda self: image)
        self.launcher = SgxLauncher(code=code, unpack=lambda image: image.folder)
        self.folder = folder / "keep"
        self.folder.mkdir()
        self.launched = self.launcher.start(SPEC, str(self.folder))

    def connect(self):
        link = self.launcher.connect(str(self.folder))
        link.settimeout(WAIT_S)
        return link

    def wait(self):
        until(lambda: has_ended(self.launched.pidfd))
        os.waitpid(self.launched.pid, 0)
        os.close(self.launched.pidfd)
        return self.launcher.explain(str(self.folder))

    def enclave(self):
        until(lambda: children_of(self.launched.pid))
        return children_of(self.launched.pid)[0]


@pytest.fixture
def start(image, tmp_path, monkeypatch):
    started = []

    def start(code):
        started.append(Started(image, tmp_path, code, monkeypatch))
        return started[-1]

    yield start
    for one in started:
        one.launcher.stop_strays(ID)


def exchange(link, data):
    link.sendall(data)
    found = b""
    while len(found) < len(data):
        found += link.recv(4096)
    return found


def test_the_link_is_standard_input_and_output_for_one_host_after_another(start):
    keep = start(ECHO)
    with keep.connect() as link:
        assert exchange(link, b"hello") == b"HELLO"
        assert exchange(link, b"x" * 100_000) == b"X" * 100_000
    with keep.connect() as link:
        assert exchange(link, b"again") == b"AGAIN"
    keep.launcher.stop(keep.launched, at_once=False)
    assert keep.wait() is None
    assert json.loads((keep.folder / "ending").read_bytes())["kind"] == "stopped"


def test_nothing_of_the_host_is_in_the_enclave(start, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    code = "import os,sys,json;os.write(1, json.dumps([dict(os.environ), [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]]).encode())"
    keep = start(code)
    with keep.connect() as link:
        data = b""
        while piece := link.recv(4096):
            data += piece
    environment, (stdin, stdout, stderr) = json.loads(data)
    assert environment == {"LANG": "C.UTF-8", "PATH": "/usr/bin"}
    assert stdin == stdout == stderr
    assert stdin.startswith("socket:")
    assert keep.wait() is None


def test_the_last_words_of_an_enclave_arrive(start):
    keep = start("import os;os.read(0, 1);os.write(1, b'z' * 150_000)")
    with keep.connect() as link:
        link.sendall(b".")
        data = b""
        while piece := link.recv(1 << 16):
            data += piece
    assert data == b"z" * 150_000
    assert keep.wait() is None


def test_an_enclave_that_fails_is_explained(start):
    keep = start("import os;os._exit(3)")
    error = keep.wait()
    assert type(error) is KeepError
    assert "gramine-sgx: found it ended with status 3" in str(error)


def test_what_gramine_says_is_in_the_explanation(start, image):
    Path(image.folder, "usr/lib64/ld-linux-x86-64.so.2").write_bytes(b"another")
    error = start(ECHO).wait()
    assert "ended with status 1" in str(error)
    assert "hash mismatch" in str(error)


def test_an_enclave_that_is_killed_is_explained(start):
    keep = start(ECHO)
    os.kill(keep.enclave(), signal.SIGKILL)
    assert "killed by signal 9" in str(keep.wait())


def test_an_enclave_dies_with_the_process_beside_it(start):
    keep = start(ECHO)
    with keep.connect() as link:
        assert exchange(link, b"a") == b"A"
        enclave = os.pidfd_open(keep.enclave())
        keep.launcher.stop(keep.launched, at_once=True)
        assert keep.wait() is None
        until(lambda: has_ended(enclave))
        os.close(enclave)
        assert link.recv(1) == b""


def test_a_running_enclave_can_be_taken_over(start):
    keep = start(ECHO)
    adopted = SgxLauncher().adopt(ID, keep.launched.pid, keep.launched.start_ticks)
    assert adopted is not None
    keep.launcher.stop(adopted, at_once=True)
    os.close(adopted.pidfd)
    keep.wait()
    assert SgxLauncher().adopt(ID, keep.launched.pid, keep.launched.start_ticks) is None


# --- Refusals


def test_an_image_without_a_keep_for_enclaves_is_refused_before_anything_is_made(image, tmp_path, monkeypatch):
    monkeypatch.setattr(SgxLauncher, "open_image", lambda self: image)
    with pytest.raises(PlatformError, match="image fake: found no Keep for enclaves"):
        SgxLauncher(unpack=lambda image: image.folder).start(SPEC, str(tmp_path))
    assert not (tmp_path / "enclave").exists()


def test_more_memory_than_an_enclave_has_is_refused(tmp_path):
    spec = KeepSpec(id=ID, memory_bytes=MEMORY_BYTES + 1, package_bytes=1, log_bytes=1)
    with pytest.raises(PlatformError, match="cannot start an enclave: memory"):
        SgxLauncher().start(spec, str(tmp_path))


def test_there_is_no_platform_to_answer_for_and_no_parts(tmp_path):
    launcher = SgxLauncher()
    with pytest.raises(PlatformError, match="found an enclave"):
        launcher.parts(str(tmp_path))
    with pytest.raises(PlatformError, match="found an enclave"):
        launcher.report(None, b"")
    assert launcher.reserved_bytes(1, 1) == sgx.ENCLAVE_BYTES


def test_nobody_listens_where_no_enclave_is(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        SgxLauncher().connect(str(tmp_path))
