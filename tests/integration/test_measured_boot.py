# SPDX-License-Identifier: Apache-2.0
"""A machine under QEMU with a vTPM has the PCRs that were predicted from its files, and with one byte changed exactly the others.

The kernel and the firmware are those of an installed image; PID 1 is a program of ours that reads the TPM. Predictions are made
before QEMU starts, by functions that see files and nothing else.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from enarx import __version__
from enarx.errors import UsageError
from enarx.image.measure import vtpm_pcrs
from enarx.image.reference import Machine, which_part_changed
from enarx.image.store import Image, open_image

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("measured_boot.c")
MEMORY_BYTES = 512 << 20
CMDLINE = "console=ttyS0 quiet panic=-1"
BOOT_TIMEOUT_S = 120.0
START_TIMEOUT_S = 20.0
LZMA_SECTION = bytes.fromhex("9858 4eee 1439 5942 9d6e dc7b d794 03cf")
PREDICTED = (0, 2, 3, 4, 5, 6, 7, 8, 9)


def find_image() -> Image:
    name = os.environ.get("ENARX_TEST_IMAGE", f"keep-{__version__}-x86_64")
    try:
        return open_image(name)
    except UsageError:
        pytest.skip(f"no image {name}: enarx image build makes it")


def find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program}: apt-get install qemu-system-x86 swtpm")
    return path


@cache
def qemu_is_old() -> bool:
    """Return whether QEMU writes into the kernel's header."""
    said = subprocess.run([find("qemu-system-x86_64"), "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"version (\d+)", said)[1]) < 10


def newc(entries) -> bytes:
    """Return an archive of `(name, mode, data, device)`."""
    archive = b""
    for inode, (name, mode, data, (major, minor)) in enumerate((*entries, ("TRAILER!!!", 0, b"", (0, 0))), 1):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        archive += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return archive


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return firmware, kernel, initramfs and command line of a machine whose PID 1 reads its TPM."""
    image = find_image()
    init = tmp_path_factory.mktemp("init") / "init"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl", "-Os", "-static", "-s"]
    subprocess.run([*compiler, str(SOURCE), "-o", str(init)], check=True, timeout=BOOT_TIMEOUT_S)
    entries = [
        ("dev", 0o40755, b"", (0, 0)),
        ("dev/console", 0o20600, b"", (5, 1)),
        ("init", 0o100755, init.read_bytes(), (0, 0)),
        ("note", 0o100644, b"nobody reads this", (0, 0)),
    ]
    return {
        "firmware": Path(image.firmware["vm"]).read_bytes(),
        "kernel": Path(image.kernel).read_bytes(),
        "initramfs": newc(entries),
        "cmdline": CMDLINE,
    }


def machine_words(folder: Path, parts, *more: str, memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """Return the command line of the machine, whose files are in a folder."""
    return [
        find("qemu-system-x86_64"), "-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot",
        "-accel", "tcg", "-cpu", "EPYC-v3", "-smp", "1", "-m", f"{memory_bytes >> 20}M",
        "-bios", f"{folder}/firmware", "-kernel", f"{folder}/kernel", "-initrd", f"{folder}/initramfs",
        "-append", parts["cmdline"], "-serial", f"file:{folder}/console",
        "-chardev", f"socket,id=tpm,path={folder}/tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-crb,tpmdev=tpm0", *more,
    ]  # fmt: skip


@contextlib.contextmanager
def virtual_tpm(folder: Path):
    """Run a TPM while the block runs, at the socket that the machine's command line names."""
    state = folder / "tpm"
    state.mkdir(exist_ok=True)
    tpm = subprocess.Popen([
        find("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state}",
        "--ctrl", f"type=unixio,path={folder}/tpm.sock", "--flags", "not-need-init,startup-clear", "--terminate",
    ])  # fmt: skip
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not (folder / "tpm.sock").exists():
            assert time.monotonic() < until, "swtpm did not start"
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            tpm.send_signal(signal.SIGTERM)
        tpm.wait(START_TIMEOUT_S)


def write_parts(folder: Path, parts) -> None:
    for name in ("firmware", "kernel", "initramfs"):
        (folder / name).write_bytes(parts[name])


def boot(folder: Path, parts, *more: str, **options) -> tuple[dict[int, bytes], bytes]:
    """Start the machine and return its PCRs and its firmware's log."""
    write_parts(folder, parts)
    with virtual_tpm(folder):
        command = machine_words(folder, parts, *more, **options)
        subprocess.run(command, check=True, timeout=BOOT_TIMEOUT_S, stdin=subprocess.DEVNULL, capture_output=True)
    said = (folder / "console").read_text(errors="replace").replace("\r", "")
    assert "DONE" in said, said[-2000:]
    pcrs = {int(index): bytes.fromhex(value) for index, value in re.findall(r"PCR (\d+) ([0-9a-f]{64})\n", said)}
    return pcrs, bytes.fromhex(re.search(r"LOG ([0-9a-f]+)\n", said)[1])


def predict(parts) -> dict[int, bytes]:
    return vtpm_pcrs(**parts, patched_for=MEMORY_BYTES if qemu_is_old() else None)


def another_firmware(firmware: bytes) -> bytes:
    """Return firmware with one letter changed in code that its volumes are unpacked to."""
    at = firmware.index(LZMA_SECTION) - 4
    assert firmware[at + 3] == 2
    size = int.from_bytes(firmware[at : at + 3], "little")
    start = at + int.from_bytes(firmware[at + 20 : at + 22], "little")
    unpacked = lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(firmware[start : at + size])
    text = b"No bootable option or device was found"
    assert text in unpacked or text.decode().encode("utf-16-le") in unpacked
    for form in (text, text.decode().encode("utf-16-le")):
        unpacked = unpacked.replace(form, form.replace(b"N", b"M", 1))
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 64 << 20}]
    packed = bytearray(lzma.compress(unpacked, lzma.FORMAT_ALONE, filters=filters))
    packed[5:13] = len(unpacked).to_bytes(8, "little")
    assert len(packed) <= at + size - start
    return firmware[:start] + bytes(packed).ljust(at + size - start, b"\xff") + firmware[at + size :]


def changed_at(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# Bytes that change nothing of what happens: real-mode code, which EFI does not run, and a file that nobody reads.
CHANGES = {
    "nothing": (lambda parts: {}, set()),
    "firmware": (lambda parts: {"firmware": another_firmware(parts["firmware"])}, {0}),
    "kernel": (lambda parts: {"kernel": changed_at(parts["kernel"], 0x2000)}, {4}),
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
    wanted, predicted = predict(parts), predict(machine)
    pcrs, log = boot(tmp_path, machine)
    assert {index: pcrs[index].hex() for index in PREDICTED} == {i: predicted[i].hex() for i in PREDICTED}
    assert {index for index in PREDICTED if pcrs[index] != wanted[index]} == registers
    assert pcrs[15] == bytes(32)
    # What a refusal says, of the registers that a policy refuses.
    image = Machine(
        name="test",
        kernel=parts["kernel"],
        initramfs=parts["initramfs"],
        cmdline=parts["cmdline"],
        firmware={"vm": parts["firmware"]},
    )
    refused = {f"tpm.pcr{index}": pcrs[index] for index in registers}
    assert which_part_changed(image, refused, event_logs=[log]) == ((part,) if registers else ())
