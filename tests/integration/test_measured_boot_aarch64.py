# SPDX-License-Identifier: Apache-2.0
"""As `test_measured_boot.py`, of a machine for Arm: PCRs are those that were predicted, and with one byte changed exactly the others.

It is emulated where this machine is another one.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from enarx import __version__
from enarx.errors import UsageError
from enarx.image import build
from enarx.image.inputs import fetch_inputs
from enarx.image.lock import read_lock
from enarx.image.measure import vtpm_pcrs
from enarx.image.newc import read_newc
from enarx.image.reference import Machine, which_part_changed
from enarx.image.store import open_image
from enarx.image.tools import tool_inputs, unpack_tools
from tests.integration.test_measured_boot import (
    BOOT_TIMEOUT_S,
    PREDICTED,
    SOURCE,
    changed_at,
    newc,
    virtual_tpm,
    write_parts,
)

pytestmark = pytest.mark.slow

NAME = os.environ.get("ENARX_TEST_IMAGE_AARCH64", f"keep-{__version__}-aarch64")
PROGRAM = "qemu-system-aarch64"
MEMORY_MIB = 512
CMDLINE = "console=ttyAMA0 quiet panic=-1"
# In the padding between the kernel's headers and its code.
UNUSED = 0x8000


def drivers_of(image):
    """Return the modules of an image, by name."""
    native = build._native()
    lock = read_lock(native.name)
    tools = unpack_tools(native, lock, fetch_inputs(lock, tool_inputs(lock), native.wheel))
    entries = read_newc(tools.decompress(Path(image.initramfs).read_bytes()))
    return {posixpath.basename(entry.path): entry.data for entry in entries if entry.path.endswith(".ko")}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return firmware, kernel, initramfs and command line of a machine whose PID 1 reads its TPM."""
    for program in (PROGRAM, "swtpm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install qemu-system-arm swtpm")
    try:
        image = open_image(NAME)
    except UsageError:
        pytest.skip(f"no image {NAME}: enarx image build --arch aarch64 makes it")
    init = tmp_path_factory.mktemp("init") / "init"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-Os", "-static", "-s"]
    subprocess.run([*compiler, str(SOURCE), "-o", str(init)], check=True, timeout=BOOT_TIMEOUT_S)
    entries = [
        ("dev", 0o40755, b"", (0, 0)),
        ("dev/console", 0o20600, b"", (5, 1)),
        ("init", 0o100755, init.read_bytes(), (0, 0)),
        ("note", 0o100644, b"nobody reads this", (0, 0)),
        *((name, 0o100644, data, (0, 0)) for name, data in drivers_of(image).items()),
    ]
    return {
        "firmware": Path(image.firmware["vm"]).read_bytes(),
        "kernel": Path(image.kernel).read_bytes(),
        "initramfs": newc(entries),
        "cmdline": CMDLINE,
    }


def boot(folder, parts):
    """Start the machine and return its PCRs and its firmware's log."""
    write_parts(folder, parts)
    command = [
        PROGRAM, "-machine", "virt,gic-version=3", "-nodefaults", "-display", "none", "-no-reboot",
        "-accel", "tcg", "-cpu", "max,pauth-impdef=on", "-smp", "1", "-m", f"{MEMORY_MIB}M",
        "-bios", f"{folder}/firmware", "-kernel", f"{folder}/kernel", "-initrd", f"{folder}/initramfs",
        "-append", parts["cmdline"], "-serial", f"file:{folder}/console",
        "-chardev", f"socket,id=tpm,path={folder}/tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-tis-device,tpmdev=tpm0",
    ]  # fmt: skip
    with virtual_tpm(folder):
        subprocess.run(command, check=True, timeout=BOOT_TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
    said = (folder / "console").read_text(errors="replace").replace("\r", "")
    assert "DONE" in said, said[-2000:]
    pcrs = {int(index): bytes.fromhex(value) for index, value in re.findall(r"PCR (\d+) ([0-9a-f]{64})\n", said)}
    return pcrs, bytes.fromhex(re.search(r"LOG ([0-9a-f]+)\n", said)[1])


CHANGES = {
    "nothing": (lambda parts: {}, set()),
    "firmware": (
        lambda parts: {"firmware": changed_at(parts["firmware"], parts["firmware"].index(b"UEFI firmware (version"))},
        {0},
    ),
    "kernel": (lambda parts: {"kernel": changed_at(parts["kernel"], UNUSED)}, {4}),
    "initramfs": (
        lambda parts: {"initramfs": changed_at(parts["initramfs"], parts["initramfs"].index(b"nobody reads"))},
        {9},
    ),
    "command line": (lambda parts: {"cmdline": parts["cmdline"].replace("panic=-1", "panic=-2")}, {9}),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_boot_has_the_predicted_pcrs(parts, tmp_path, part):
    change, registers = CHANGES[part]
    machine = parts | change(parts)
    wanted, predicted = vtpm_pcrs(**parts), vtpm_pcrs(**machine)
    pcrs, log = boot(tmp_path, machine)
    assert {index: pcrs[index].hex() for index in PREDICTED} == {i: predicted[i].hex() for i in PREDICTED}
    assert {index for index in PREDICTED if pcrs[index] != wanted[index]} == registers
    image = Machine(
        name="test",
        kernel=parts["kernel"],
        initramfs=parts["initramfs"],
        cmdline=parts["cmdline"],
        firmware={"vm": parts["firmware"]},
    )
    refused = {f"tpm.pcr{index}": pcrs[index] for index in registers}
    assert which_part_changed(image, refused, event_logs=[log]) == ((part,) if registers else ())
