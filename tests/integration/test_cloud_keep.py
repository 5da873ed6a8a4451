# SPDX-License-Identifier: Apache-2.0
"""A Keep on a disk as clouds take it: made here, booted by OVMF, reached over TCP, and judged by its vTPM.

What it measures is predicted from the image's file before QEMU starts. QEMU's user network plays the cloud: it gives the address by
DHCP, and its port on this machine is what a host connects to. The image is built for these tests, with a compression that is quick.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enarx.host.launchers.swtpm import copy_state, open_seed
from enarx.image.build import build_image
from enarx.image.disk import DISK_BYTES, make_disk
from enarx.image.export import export_image
from enarx.image.measure import uki_pcrs
from enarx.image.measure_pe import parse_pe_untrusted
from enarx.image.uki import make_uki
from enarx.wire.machine import READY_LINE, TCP_LINK_PORT

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]
NAME = "test-cloud"
BOOT_S = 300.0
WAIT_S = 30.0
POLICY = (
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
pcr0 = ["{pcr0}"]
pcr7 = ["{pcr7}"]
"""
    + "".join(f'pcr{index} = {{{{ skip = "not of the image" }}}}\n' for index in (1, 2, 3, 5, 6, 8, 10, *range(14, 24)))
    + """event_log = {{ skip = "the PCRs themselves are compared" }}
secure_boot = {{ skip = "PCR 7 is compared" }}
"""
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Give images, and the seed of virtual TPMs, a place of their own."""
    for program in ("qemu-system-x86_64", "swtpm", "swtpm_setup"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install qemu-system-x86 swtpm swtpm-tools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def image(home):
    return build_image("x86_64", name=NAME, cloud=True, level=3)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "hello.wasm"
    from wasmtime import wat2wasm

    text = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "hello from a cloud\\n")
      (data (i32.const 0) "\\10\\00\\00\\00\\13\\00\\00\\00")
      (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    path.write_bytes(bytes(wat2wasm(text)))
    return path


class Cloud:
    """A machine that boots a disk, with a TPM whose key is known, and a port of this machine that leads to its link."""

    def __init__(self, disk, firmware, folder):
        self.folder = folder
        seed = open_seed()
        self.key = seed.key_sha256
        copy_state(seed, str(folder / "tpm"), user=None)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.tpm = subprocess.Popen([
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/tpm", "--ctrl", f"type=unixio,path={folder}/tpm.sock",
            "--flags", "startup-clear", "--terminate",
        ])  # fmt: skip
        try:
            until((folder / "tpm.sock").exists, WAIT_S)
            self.qemu = subprocess.Popen([
                "qemu-system-x86_64", "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg",
                "-cpu", "EPYC-v3", "-smp", "1", "-m", "1G", "-bios", firmware, "-serial", f"file:{folder}/console",
                "-drive", f"file={disk},format=raw,if=none,id=disk,snapshot=on", "-device", "virtio-blk-pci,drive=disk",
                "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:{TCP_LINK_PORT}",
                "-device", "virtio-net-pci,netdev=net,romfile=",
                "-chardev", f"socket,id=tpm,path={folder}/tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                "-device", "tpm-crb,tpmdev=tpm0",
            ], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        except BaseException:
            self.tpm.kill()
            self.tpm.wait()
            raise

    def console(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "console").read_bytes()
        return b""

    def end(self):
        for process in (self.qemu, self.tpm):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait(WAIT_S)


def until(condition, timeout_s):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def boot(image, tmp_path):
    machines = []

    def boot(disk):
        machines.append(Cloud(disk, image.firmware["vm"], tmp_path))
        return machines[-1]

    yield boot
    for machine in machines:
        machine.end()


def deploy_command(machine, module, *options):
    where = f"vm=127.0.0.1:{machine.port}"
    return [sys.executable, "-m", "enarx", "deploy", str(module), "--machine", where, *options]


def environment():
    return {**os.environ, "PYTHONPATH": str(TOP / "src")}


def deploy(machine, module, *options):
    return subprocess.run(
        deploy_command(machine, module, *options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_S,
        env=environment(),
        check=False,
    )


def policy_for(image, machine, path):
    firmware, uki = Path(image.firmware["vm"]).read_bytes(), Path(image.uki).read_bytes()
    pcrs = uki_pcrs(firmware=firmware, uki=uki, from_disk=True)
    path.write_text(POLICY.format(image=NAME, key=machine.key, pcr0=pcrs[0].hex(), pcr7=pcrs[7].hex()))
    return str(path)


def test_a_workload_runs_on_a_disk_whose_measurements_are_as_predicted(image, boot, module, tmp_path):
    disk = tmp_path / "disk.raw"
    export_image(image, "raw", str(disk))
    machine = boot(disk)
    policy = policy_for(image, machine, tmp_path / "policy.toml")
    # While it boots: whoever connects waits until the Keep is there. A policy that knows nothing of it leaves it empty.
    refused = deploy(machine, module)
    assert refused.returncode == 106, refused.stderr.decode()
    assert b"policy.tee" in refused.stderr
    assert READY_LINE.encode() in machine.console()
    # Another host comes after the first. PCRs 0, 4, 7, 9 and 11 to 13 are compared with the prediction.
    done = deploy(machine, module, "--policy", policy)
    assert done.stdout == b"hello from a cloud\n", done.stderr.decode()
    assert done.returncode == 0
    # Its life is over with its workload, and so is the machine's.
    assert machine.qemu.wait(WAIT_S) == 0


def test_a_disk_with_another_command_line_is_refused_by_what_differs(image, boot, module, tmp_path):
    sections = parse_pe_untrusted(Path(image.uki).read_bytes(), what="the image").sections
    stub = stub_of(Path(image.uki).read_bytes())
    uki = make_uki(
        stub, kernel=sections[".linux"], initramfs=sections[".initrd"], cmdline=image.cmdline + " loglevel=3"
    )
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        for at, piece in make_disk(uki, "x86_64").items():
            file.seek(at)
            file.write(piece)
        file.truncate(DISK_BYTES)
    machine = boot(disk)
    refused = deploy(machine, module, "--policy", policy_for(image, machine, tmp_path / "policy.toml"))
    assert refused.returncode == 105, refused.stderr.decode()
    said = refused.stderr.decode()
    assert "tpm.pcr4" in said
    assert "tpm.pcr11" in said
    assert "command line" in said
    assert refused.stdout == b""


def test_a_machine_that_is_gone_ends_the_deployment_soon(image, boot, tmp_path):
    disk = tmp_path / "disk.raw"
    export_image(image, "raw", str(disk))
    machine = boot(disk)
    policy = policy_for(image, machine, tmp_path / "policy.toml")
    with subprocess.Popen(
        deploy_command(machine, waiting_module(tmp_path), "--policy", policy),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    ) as deployment:  # fmt: skip
        try:
            # The workload's own word: from then on there is a Keep to be lost.
            assert deployment.stdout.read(5) == b"ready"
            machine.qemu.kill()
            _, said = deployment.communicate(timeout=WAIT_S)
        finally:
            deployment.kill()
    assert deployment.returncode == 107, said.decode()
    assert b"lost Keep" in said


def waiting_module(folder):
    """Return a module that says that it is there and waits for input."""
    from wasmtime import wat2wasm

    text = """(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "ready")
      (data (i32.const 0) "\\10\\00\\00\\00\\05\\00\\00\\00")
      (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
    path = folder / "waiting.wasm"
    path.write_bytes(bytes(wat2wasm(text)))
    return path


def stub_of(uki):
    """Return the stub of an image: what is before the sections that were added, which are the last three."""
    import struct

    (start,) = struct.unpack_from("<I", uki, 0x3C)
    count, optional_bytes = struct.unpack_from("<H12xH", uki, start + 6)
    table = start + 24 + optional_bytes
    first = table + 40 * (count - 3)
    (address, offset) = struct.unpack_from("<12xI4xI", uki, first)
    stub = bytearray(uki[:offset])
    stub[first : first + 120] = bytes(120)
    struct.pack_into("<H", stub, start + 6, count - 3)
    struct.pack_into("<I", stub, start + 24 + 56, address)
    return bytes(stub)
