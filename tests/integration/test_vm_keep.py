# SPDX-License-Identifier: Apache-2.0
"""Keeps in real QEMUs: deployed into by the command line, and killed in every way.

What a host says of machines that fail is in test_vm_failures.py, what many of them leave in test_vm_soak.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enarx.errors import KeepError, PlatformError
from enarx.host.launchers import KeepSpec
from enarx.host.launchers.swtpm import open_seed
from enarx.host.launchers.vm import VmLauncher
from enarx.host.process_facts import children_of, find_marked, has_ended
from tests.hosting import request
from tests.machines import BOOT_S, MEMORY_BYTES, NAME, beside, environment, require_image, serve, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOP = Path(__file__).parents[2]
WAIT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def image():
    return require_image()


class Started:
    def __init__(self, launcher, folder):
        self.launcher, self.id = launcher, secrets.token_hex(8)
        self.folder = folder / self.id
        self.folder.mkdir()
        spec = KeepSpec(id=self.id, memory_bytes=MEMORY_BYTES, package_bytes=MEMORY_BYTES, log_bytes=1 << 20)
        self.launched = launcher.start(spec, str(self.folder))
        self.held = []

    def child(self, name):
        return beside(self.launched.pid, name)

    def runs(self):
        """Wait until firmware or kernel have said something, and hold on to what runs."""
        until(lambda: b"BdsDxe" in self.console() or b"\x1b[" in self.console())
        self.held = [os.pidfd_open(pid) for pid in children_of(self.launched.pid)]
        return self

    def console(self):
        return (self.folder / "console").read_bytes()

    def wait(self, timeout_s=WAIT_S):
        until(lambda: has_ended(self.launched.pidfd), timeout_s)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.launched.pid, 0)
        os.close(self.launched.pidfd)
        for pidfd in self.held:
            until(lambda pidfd=pidfd: has_ended(pidfd))
            os.close(pidfd)
        return self.launcher.explain(str(self.folder))


@pytest.fixture
def start(tmp_path):
    started = []

    def start(**options):
        started.append(Started(VmLauncher("vm", image=NAME, **{"boot_s": BOOT_S, **options}), tmp_path))
        return started[-1]

    yield start
    for one in started:
        for pid in find_marked(f"-Xenarx-keep={one.id}".encode()):
            os.kill(pid, signal.SIGKILL)


def deploy(tmp_path, *options, module):
    command = [sys.executable, "-m", "enarx", "deploy", str(module), "--backend", "vm", "--image", NAME, *options]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_S + 60,
        env={**os.environ, "PYTHONPATH": str(TOP / "src"), "TMPDIR": str(tmp_path)},
        check=False,
    )


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "hello.wasm"
    from wasmtime import wat2wasm

    text = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "hello from a machine\\n")
      (data (i32.const 0) "\\10\\00\\00\\00\\15\\00\\00\\00")
      (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    path.write_bytes(bytes(wat2wasm(text)))
    return path


# --- Deployed into


def test_a_workload_runs_in_a_machine_on_the_emulated_platform(tmp_path, module):
    done = deploy(tmp_path, "--vm-evidence", "emulated-snp", "--insecure-accept-emulated", module=module)
    assert done.stdout == b"hello from a machine\n", done.stderr.decode()
    assert done.returncode == 0
    assert b"EMULATED Keep" in done.stderr


def test_a_workload_runs_in_a_machine_with_a_virtual_tpm_whose_key_a_policy_pins(tmp_path, module):
    policy = tmp_path / "policy.toml"
    policy.write_text(TPM_POLICY.format(image=NAME, key=open_seed().key_sha256))
    done = deploy(tmp_path, "--vm-evidence", "vtpm", "--policy", str(policy), module=module)
    assert done.stdout == b"hello from a machine\n", done.stderr.decode()
    assert done.returncode == 0


def test_the_key_that_a_host_tells_can_be_pinned(enarx, tmp_path, module):
    tenant = enarx.with_env(XDG_DATA_HOME=environment({})["XDG_DATA_HOME"])
    with serve(tmp_path / "state", env=tenant.env, evidence="vtpm") as host:
        body = {"backend": "vm", "memory-bytes": MEMORY_BYTES, "ports": []}
        status, _, keep = request(host.url, "POST", body=body, timeout_s=BOOT_S)
        assert status == 201
        shown = tenant.command("keep", "show", keep["id"], "--on", host.url)
        key = re.search(rb"  host says  .*TPM's key is sha256:([0-9a-f]{64})", shown.stdout)[1].decode()
        request(host.url, "DELETE", f"/v1/keeps/{keep['id']}")
        policy = tmp_path / "policy.toml"
        policy.write_text(TPM_POLICY.format(image=NAME, key=key))
        to_host = ("--to", host.url, "--backend", "vm", "--policy", policy)
        done = tenant.command("deploy", *to_host, module, timeout_s=BOOT_S)
    assert (done.status, done.stdout) == (0, b"hello from a machine\n"), done.stderr


def test_a_default_policy_refuses_a_virtual_tpm(tmp_path, module):
    done = deploy(tmp_path, "--vm-evidence", "vtpm", module=module)
    # Nobody vouches for its key, so that no more can be said than that.
    assert done.returncode == 106, done.stderr.decode()
    assert b"policy.tee" in done.stderr
    assert open_seed().key_sha256.encode() in done.stderr
    assert done.stdout == b""


TPM_POLICY = (
    """version = 1
insecure_vtpm_aks = ["{key}"]

[tpm]
image = "{image}"
nonce = "from-caller"
ak_trust = ["pinned"]
ak = ["{key}"]
firmware = {{ skip = "swtpm says nothing of worth" }}
clock_safe = {{ skip = "freshness is by nonce" }}
bank = ["sha256"]
pcr1 = {{ skip = "QEMU's own" }}
"""
    + "".join(f'pcr{index} = {{{{ skip = "not of the image" }}}}\n' for index in range(10, 24))
    + """event_log = {{ skip = "the PCRs themselves are compared" }}
secure_boot = {{ skip = "PCR 7 is compared" }}
"""
)


# --- Failures


def test_qemu_is_sandboxed_and_nobody_else(start):
    keep = start().runs()
    status = Path(f"/proc/{keep.child('qemu')}/status").read_text()
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    if os.geteuid() == 0:
        users = {int(word) for word in re.search(r"^Uid:\t(.*)$", status, re.MULTILINE)[1].split()}
        assert len(users) == 1
        assert min(users) >= 0x70000000
        assert Path(f"/proc/{keep.child('swtpm')}").stat().st_uid in users
    keep.launcher.stop(keep.launched, at_once=False)
    assert keep.wait() is None


@pytest.mark.parametrize(
    ("victim", "number", "says", "within_s"),
    [
        ("qemu", signal.SIGKILL, "QEMU: found it killed by signal 9", 5),
        ("qemu", signal.SIGTERM, "QEMU: found that it was told to end", 5),
        ("qemu", signal.SIGSTOP, "QEMU: found no answer in 10 s", 20),
        ("swtpm", signal.SIGKILL, "swtpm: found it killed by signal 9", 5),
    ],
)
def test_what_happens_to_its_processes_ends_a_keep_with_that_error(start, victim, number, says, within_s):
    keep = start(answer_s=10.0).runs()
    os.kill(keep.child(victim), number)
    error = keep.wait(within_s)
    assert type(error) is KeepError
    assert says in str(error)


def test_a_boot_that_takes_too_long_is_ended(start):
    error = start(boot_s=2.0).wait(15)
    assert type(error) is KeepError
    assert "found no 'enarx keep: ready' in 2 s" in str(error)


def test_a_machine_without_memory_is_said(tmp_path):
    launcher = VmLauncher("vm", image=NAME)
    spec = KeepSpec(id=secrets.token_hex(8), memory_bytes=1 << 45, package_bytes=1, log_bytes=1)
    launched = launcher.start(spec, str(tmp_path))
    until(lambda: has_ended(launched.pidfd))
    os.waitpid(launched.pid, 0)
    os.close(launched.pidfd)
    error = launcher.explain(str(tmp_path))
    assert type(error) is PlatformError
    assert "cannot run QEMU: found status 1" in str(error)
