# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import tomllib
from dataclasses import replace

import pytest

from enarx.errors import ConfigError, PlatformError
from enarx.host.launchers import gramine
from enarx.host.launchers.gramine import EnclaveSpec, enclave_measurement, make_manifest, sign_manifest

ONE, TWO, THREE = "11" * 32, "22" * 32, "33" * 32
SPEC = EnclaveSpec(
    libos="/opt/gramine/libsysdb.so",
    libos_sha256=TWO,
    program="/usr/bin/python3.11",
    arguments=("-I", "-S", "/usr/lib/enarx/keep/__main__.py", "--backend", "sgx"),
    environment={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
    files={"/usr/bin/python3.11": ONE, "/usr/lib64/ld.so": TWO, "/usr/lib/enarx/keep/__main__.py": THREE},
    root="root",
    links={"/lib64/ld.so": "/usr/lib64/ld.so"},
    enclave_bytes=1 << 30,
)
GOLDEN = f"""\
loader.entrypoint.uri = "file:/opt/gramine/libsysdb.so"
libos.entrypoint = "/usr/bin/python3.11"
loader.argv = ["/usr/bin/python3.11", "-I", "-S", "/usr/lib/enarx/keep/__main__.py", "--backend", "sgx"]
loader.log_level = "error"
loader.env.LANG = "C.UTF-8"
loader.env.PATH = "/usr/bin"
sys.enable_sigterm_injection = false
fs.root.type = "tmpfs"
fs.mounts = [
  {{ path = "/lib64/ld.so", uri = "file:root/usr/lib64/ld.so" }},
  {{ path = "/usr/bin/python3.11", uri = "file:root/usr/bin/python3.11" }},
  {{ path = "/usr/lib/enarx/keep/__main__.py", uri = "file:root/usr/lib/enarx/keep/__main__.py" }},
  {{ path = "/usr/lib64/ld.so", uri = "file:root/usr/lib64/ld.so" }},
  {{ type = "tmpfs", path = "/tmp" }},
]
sgx.enclave_size = "1073741824"
sgx.max_threads = 64
sgx.debug = false
sgx.edmm_enable = false
sgx.remote_attestation = "dcap"
sgx.isvprodid = 0
sgx.isvsvn = 0
sgx.trusted_files = [
  {{ uri = "file:/opt/gramine/libsysdb.so", sha256 = "{TWO}" }},
  {{ uri = "file:root/usr/bin/python3.11", sha256 = "{ONE}" }},
  {{ uri = "file:root/usr/lib/enarx/keep/__main__.py", sha256 = "{THREE}" }},
  {{ uri = "file:root/usr/lib64/ld.so", sha256 = "{TWO}" }},
]
"""


def test_the_manifest_is_this():
    assert make_manifest(SPEC) == GOLDEN
    assert tomllib.loads(GOLDEN)["loader"]["argv"][1:] == list(SPEC.arguments)


def test_the_order_in_which_files_are_given_does_not_matter():
    assert make_manifest(replace(SPEC, files=dict(reversed(SPEC.files.items())))) == GOLDEN


def test_nothing_is_let_in_unseen():
    found = tomllib.loads(make_manifest(SPEC))
    assert "insecure" not in GOLDEN
    assert "allowed_files" not in found["sgx"]
    assert "file_check_policy" not in found["sgx"]
    mounted = {mount["uri"] for mount in found["fs"]["mounts"] if "uri" in mount}
    assert mounted | {found["loader"]["entrypoint"]["uri"]} == {file["uri"] for file in found["sgx"]["trusted_files"]}
    assert not {"use_cmdline_argv", "use_host_env"} & {key.removeprefix("insecure__") for key in found["loader"]}
    assert all(isinstance(value, str) for value in found["loader"]["env"].values())
    assert found["sgx"]["debug"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"enclave_bytes": 3 << 20},
        {"enclave_bytes": 1 << 19},
        {"files": {}},
        {"files": {"/usr/lib64/ld.so": ONE}},
        {"libos": "libsysdb.so"},
        {"libos_sha256": ""},
        {"root": "../root"},
        {"root": "/root"},
        {"links": {"/lib64/ld.so": "/etc/passwd"}},
        {"links": {"/usr/bin/python3.11": "/usr/lib64/ld.so"}},
        {"links": {"/usr/../x": "/usr/lib64/ld.so"}},
        {"files": {**SPEC.files, "relative": ONE}},
        {"files": {**SPEC.files, "/a/../b": ONE}},
        {"files": {**SPEC.files, '/a"b': ONE}},
        {"files": {**SPEC.files, "/a\nb": ONE}},
        {"files": {**SPEC.files, "/a": "AB" * 32}},
        {"arguments": ('"',)},
        {"arguments": ("a\nb",)},
        {"arguments": ("\\",)},
        {"environment": {"A=B": "c"}},
        {"environment": {"A": "c\x00"}},
    ],
)
def test_what_cannot_be_in_a_manifest_is_refused(change):
    with pytest.raises(ConfigError, match="cannot make a Gramine manifest"):
        make_manifest(replace(SPEC, **change))


def test_without_a_signer_the_measurement_is_unknown(monkeypatch):
    monkeypatch.setattr(gramine.shutil, "which", lambda name: None)
    assert enclave_measurement(GOLDEN) is None


def signer(tmp_path, monkeypatch, script):
    program = tmp_path / "gramine-sgx-sign"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(gramine.shutil, "which", lambda name: str(program))


def test_the_measurement_is_in_what_the_signer_signed(monkeypatch, tmp_path):
    (tmp_path / "sig").write_bytes(bytes(960) + b"m" * 32 + bytes(816))
    key = 'grep -q "BEGIN RSA PRIVATE KEY" "$6" && test "$(stat -c %a "$6")" = 600'
    signer(tmp_path, monkeypatch, f'test "$1" = --manifest && grep -q libsysdb "$2" && {key} && cp {tmp_path}/sig "$8"')
    assert enclave_measurement(GOLDEN) == b"m" * 32


def test_what_an_enclave_is_started_from_is_beside_its_name_and_no_key_is(monkeypatch, tmp_path):
    signer(tmp_path, monkeypatch, 'cp "$2" "$4" && head -c 1808 /dev/zero > "$8"')
    (tmp_path / "e").mkdir()
    assert sign_manifest(GOLDEN, str(tmp_path / "e/keep")) == bytes(32)
    assert sorted(os.listdir(tmp_path / "e")) == ["keep.manifest", "keep.manifest.sgx", "keep.sig"]


def test_a_signer_that_fails_leaves_no_key(monkeypatch, tmp_path):
    signer(tmp_path, monkeypatch, "echo no such file >&2; exit 1")
    with pytest.raises(PlatformError, match="found status 1, want 0: no such file"):
        sign_manifest(GOLDEN, str(tmp_path / "keep"))
    assert not (tmp_path / "keep.key").exists()


def test_without_a_signer_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr(gramine.shutil, "which", lambda name: None)
    with pytest.raises(PlatformError, match="found no gramine-sgx-sign on PATH"):
        sign_manifest(GOLDEN, str(tmp_path / "keep"))


@pytest.mark.parametrize("script", ["exit 1", "exit 0", 'echo short > "$8"'])
def test_a_signer_that_fails_is_said(monkeypatch, tmp_path, script):
    signer(tmp_path, monkeypatch, script)
    with pytest.raises(PlatformError, match="cannot sign an enclave: gramine-sgx-sign"):
        enclave_measurement(GOLDEN)
