# SPDX-License-Identifier: Apache-2.0
"""What a QEMU that stands still says of a machine is what its firmware measures when it runs: PCR 1, bit for bit.

RTMR0 of a TD is made of the same events and some more, which are compared with what hardware is known to have said.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

import pytest

from enarx.abi.event_log import EV_NO_ACTION, parse_event_log_untrusted
from enarx.host.launchers.qemu import MachineSpec, command_line
from enarx.image.ask_qemu import _Qtest, ask_qemu, without_protection
from enarx.image.measure_firmware import configuration_volume
from enarx.image.measure_shape import pcr1_events, rtmr0_events
from tests.integration.test_measured_boot import (
    BOOT_TIMEOUT_S,
    MEMORY_BYTES,
    boot,
    find,
    find_image,
    machine_words,
    virtual_tpm,
    write_parts,
)
from tests.integration.test_measured_boot import parts as parts  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.slow

EMPTY_VOLUME = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
"""SHA-384 of a configuration volume without variables: the digest that dstack expects in the logs of its TDs on hardware."""

SHAPES = {
    "as it is": ((), MEMORY_BYTES),
    "with more memory and a port": (
        ("-device", "virtio-serial-pci", "-device", "virtio-rng-pci"),
        MEMORY_BYTES + (96 << 20),
    ),
}


def extended(events):
    value = bytes(32)
    for event in events:
        value = hashlib.sha256(value + event.digest).digest()
    return value


@pytest.mark.parametrize("shape", SHAPES)
def test_a_boot_has_the_predicted_pcr_1(parts, tmp_path, shape):
    more, memory_bytes = SHAPES[shape]
    write_parts(tmp_path, parts)
    words = machine_words(tmp_path, parts, *more, memory_bytes=memory_bytes)
    with virtual_tpm(tmp_path):
        asked = ask_qemu(without_protection(words, {}, tpm=f"{tmp_path}/tpm.sock"))
    predicted = pcr1_events(asked, parts["firmware"])
    pcrs, log = boot(tmp_path, parts, *more, memory_bytes=memory_bytes)
    events = [
        event for event in parse_event_log_untrusted(log).events if event.register == 1 and event.type != EV_NO_ACTION
    ]
    assert [event.digests["sha256"].hex() for event in events] == [event.digest.hex() for event in predicted]
    assert pcrs[1] == extended(predicted)


def test_another_shape_is_another_pcr_1(parts, tmp_path):
    write_parts(tmp_path, parts)
    found = set()
    for more, memory_bytes in (
        *SHAPES.values(),
        ((), MEMORY_BYTES + (32 << 20)),
        (("-device", "pvpanic-pci"), MEMORY_BYTES),
    ):
        words = machine_words(tmp_path, parts, *more, memory_bytes=memory_bytes)
        with virtual_tpm(tmp_path):
            asked = ask_qemu(without_protection(words, {}, tpm=f"{tmp_path}/tpm.sock"))
        found.add(extended(pcr1_events(asked, parts["firmware"])))
    assert len(found) == len(SHAPES) + 2


def test_an_empty_configuration_volume_has_the_digest_that_hardware_says():
    firmware = Path(find_image().firmware["vm"]).read_bytes()
    assert hashlib.sha384(configuration_volume(firmware)).hexdigest() == EMPTY_VOLUME


def test_a_qemu_without_tdx_says_what_a_td_would_have():
    image = find_image()
    find("qemu-system-x86_64")
    spec = MachineSpec(
        backend="tdx", arch="x86_64", name="x", accelerator="kvm", memory_bytes=512 << 20, cmdline=image.cmdline
    )
    files = {"-bios": image.firmware["tdx"], "-kernel": image.kernel, "-initrd": image.initramfs}
    firmware = Path(image.firmware["tdx"]).read_bytes()
    shapes = [ask_qemu(without_protection(command_line(spec), files), physical_bits=bits) for bits in (40, 46, 46)]
    narrow, wide, again = (tuple(event.digest for event in rtmr0_events(shape, firmware)) for shape in shapes)
    assert wide == again
    # This build measures nothing of QEMU's configuration.
    assert len(wide) == 15
    # Where devices are is in one of the tables, and nowhere else.
    assert [index for index in range(15) if narrow[index] != wide[index]] == [10]


def test_firmware_for_tdx_reads_the_tables_that_qemu_said(tmp_path):
    """The firmware of a TD on the machine of a TD, run by emulation: where it put devices is in the tables that it then got."""
    image = find_image()
    find("qemu-system-x86_64")
    spec = MachineSpec(
        backend="tdx",
        arch="x86_64",
        name="x",
        accelerator="kvm",
        memory_bytes=512 << 20,
        cmdline="console=ttyS0 panic=-1",
    )
    files = {"-bios": image.firmware["tdx"], "-kernel": image.kernel, "-initrd": image.initramfs}
    command = without_protection(command_line(spec), files)
    # Under emulation there is no other width of addresses.
    asked = ask_qemu(command, physical_bits=40)
    console = tmp_path / "console"
    command[command.index("-serial") + 1] = f"file:{console}"
    command += ["-accel", "tcg", "-qtest", "stdio", "-qtest-log", "none"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        try:
            until = time.monotonic() + BOOT_TIMEOUT_S
            while not console.exists() or b"EFI stub" not in console.read_bytes():
                assert time.monotonic() < until, "the firmware did not start a kernel"
                time.sleep(0.1)
            qtest = _Qtest(program)
            directory = qtest.directory()
            ran = {name: qtest.read(*directory[name]) for name in asked.files if name in directory}
        finally:
            program.kill()
    assert ran == {name: data for name, data in asked.files.items() if name != "BootMenu"}
