# SPDX-License-Identifier: Apache-2.0
"""`enarx platform selftest` on this machine: to the end for what it has, and the exact error for what it has not.

The image is the one of this version, or `ENARX_TEST_IMAGE`. On a machine with a TEE the tests marked `hardware` run the same command for
it, without any of this machine's stand-ins.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from enarx.cli.selftest_report import STEPS
from enarx.host.launchers.sgx import QUOTE_CODE, Gramine, _unpack, enclave_manifest
from enarx.image import inputs, store, tools  # noqa: F401 - before one of their folders is another
from enarx.rats import Evidence
from enarx.verifier import recognise
from tests.machines import NAME, require_image

TOP = Path(__file__).parents[2]
LIMIT_S = 600.0


def selftest(folder, *options):
    command = [sys.executable, "-m", "enarx", "platform", "selftest", "--report", "r.json", "--image", NAME, *options]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TOP / "src"), "TMPDIR": str(folder)},
        check=False,
    )
    report = json.loads((folder / "r.json").read_text())
    return done, {each["name"]: each for each in report["backends"]}


def steps_of(backend):
    return {step["step"]: step for step in backend["steps"]}


@pytest.fixture
def machine():
    return require_image()


@pytest.mark.slow
def test_the_whole_chain_runs_here_for_machines_and_processes(machine, tmp_path):
    done, backends = selftest(tmp_path, "--offline", "--backend", "vm", "--backend", "nil")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert {name: each["outcome"] for name, each in backends.items()} == dict.fromkeys(
        ("vm (virtual TPM)", "vm (emulated SNP)", "nil"), "ok"
    )
    for each in backends.values():
        steps = steps_of(each)
        assert list(steps) == list(STEPS)
        assert {name for name, step in steps.items() if step["outcome"] == "not tried"} <= {"image", "register"}
        assert steps["hello"]["facts"] == {"output": "hello from a Keep\n", "status": 0}
        assert steps["verdict"]["facts"]["result"]["verdict"] == "accepted"
        recognise(Evidence(data=base64.b64decode(steps["evidence"]["facts"]["evidence_cmw_base64"])))
        assert steps["teardown"]["facts"]["processes_ended"] >= 1
    steps = steps_of(backends["vm (virtual TPM)"])
    keep = steps["start"]["facts"]["keep"]
    # What ran is what was computed before, but for the name; so are the registers.
    assert steps["start"]["command"] == [word.replace("0" * 16, keep) for word in steps["command line"]["command"]]
    found = {each["id"]: each["found"] for each in steps["verdict"]["facts"]["result"]["findings"]}
    for key in ("tpm.pcr0", "tpm.pcr4", "tpm.pcr7", "tpm.pcr9"):
        assert found[key] in steps["reference values"]["facts"]["reference_values"][key]
    assert steps["register"]["facts"]["found"] in steps["register"]["facts"]["expected"]
    for name in ("r.json", "r.txt"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["r.json", "r.txt"]


@pytest.mark.slow
def test_what_this_machine_has_not_is_not_tried_and_says_why(tmp_path):
    done, backends = selftest(tmp_path, "--offline", "--backend", "pef")
    assert done.returncode == 108
    assert backends["pef"]["why"].startswith("command line: backend pef: found a machine of")
    steps = steps_of(backends["pef"])
    assert steps["probes"]["facts"]["present"] is False
    assert steps["start"]["outcome"] == "not tried"


@pytest.mark.slow
def test_a_tee_that_is_not_here_fails_with_the_exact_command_and_error(machine, tmp_path):
    done, backends = selftest(tmp_path, "--offline", "--backend", "tdx")
    steps = steps_of(backends["tdx"])
    if steps["probes"]["facts"]["present"] is not False:
        pytest.skip("it is here")
    assert done.returncode == 108
    assert steps["reference values"]["outcome"] == "ok"
    assert any("tdx-guest" in word for word in steps["command line"]["command"])
    assert steps["start"]["outcome"] == "failed"
    assert "cannot run QEMU" in steps["start"]["error"]["message"]
    assert steps["teardown"]["outcome"] == "not tried"


@pytest.mark.slow
def test_the_files_of_an_enclave_are_those_of_the_image_and_can_ask_for_a_quote(machine, tmp_path, monkeypatch):
    # What unpacks an image stays where it was when the image was made.
    monkeypatch.setattr(store, "private_cache", lambda name: str(tmp_path))
    root = Path(_unpack(machine))
    gramine = Gramine("/bin/true", str(Path(machine.kernel)))
    manifest = tomllib.loads(enclave_manifest(machine, QUOTE_CODE, gramine))
    trusted = {file["uri"]: file["sha256"] for file in manifest["sgx"]["trusted_files"]}
    assert len(trusted) > 300
    for uri, digest in trusted.items():
        path = Path(uri.removeprefix("file:"))
        path = path if path.is_absolute() else root / path.relative_to("root")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    if os.geteuid() == 0:
        # The interpreter finds all that the program imports among these files; then there is no device.
        (root / "lib64").symlink_to("usr/lib64")
        (root / "usr/bin/python3.11").chmod(0o755)
        (root / "usr/lib64/ld-linux-x86-64.so.2").chmod(0o755)
        done = subprocess.run(
            [shutil.which("chroot"), str(root), *manifest["loader"]["argv"]],
            input=bytes(64),
            capture_output=True,
            env=manifest["loader"]["env"],
            check=False,
        )
        assert b"PlatformError: cannot attest: /dev/attestation" in done.stderr


@pytest.mark.hardware
@pytest.mark.parametrize("backend", ["snp", "tdx", "cca", "sgx"])
def test_the_whole_chain_runs_on_a_tee(backend, tmp_path):
    done, backends = selftest(tmp_path, "--backend", backend)
    if steps_of(backends[backend])["probes"]["facts"]["present"] is False:
        pytest.skip(f"no {backend} here: {backends[backend]['why']}")
    assert done.returncode == 0, (tmp_path / "r.txt").read_text()
