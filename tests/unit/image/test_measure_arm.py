# SPDX-License-Identifier: Apache-2.0
"""What a vTPM will have of a machine for Arm: as on x86-64, but for firmware, and for a kernel that QEMU leaves as it is.

A real boot with what is predicted is in `tests/integration/test_measured_boot.py`.
"""

from __future__ import annotations

import hashlib

import pytest

from enarx.errors import DecodeError, UsageError
from enarx.image.measure import snp_launch_digest, tdx_registers, vtpm_pcrs
from enarx.image.measure_firmware import firmware_version, has_secure_boot, volume_digests
from enarx.image.measure_pe import parse_pe_untrusted
from enarx.image.reference import Machine, open_machine, reference_values, which_part_changed
from tests.unit.image.machine_files import DXE_FV, VERSION, flipped, make_arm_firmware, make_arm_kernel
from tests.unit.image.machines import installed

PARTS = {
    "firmware": make_arm_firmware(),
    "kernel": make_arm_kernel(),
    "initramfs": b"initramfs" * 100,
    "cmdline": "console=ttyAMA0 quiet",
}
CHANGES = {
    "firmware": ({"firmware": make_arm_firmware(b"dxF")}, {0}),
    "kernel": ({"kernel": make_arm_kernel(b"kerneM")}, {4}),
    "initramfs": ({"initramfs": flipped(PARTS["initramfs"], 5)}, {9}),
    "command line": ({"cmdline": "console=ttyAMA1 quiet"}, {9}),
}
PCRS = vtpm_pcrs(**PARTS)


def extended(*contents):
    value = bytes(32)
    for content in contents:
        value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    return value


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_changes_its_pcrs(part):
    change, registers = CHANGES[part]
    pcrs = vtpm_pcrs(**(PARTS | change))
    assert {number for number in PCRS if pcrs[number] != PCRS[number]} == registers


def test_pcrs_are_what_the_log_of_a_boot_has():
    """By hand, in the order of the events of a real log."""
    kernel = parse_pe_untrusted(PARTS["kernel"], what="the kernel").digest("sha256")
    first = hashlib.sha256(bytes(32) + kernel).digest()
    for content in (b"Calling EFI Application from Boot Option", bytes(4)):
        first = hashlib.sha256(first + hashlib.sha256(content).digest()).digest()
    assert PCRS[4] == first
    # The whole volume, in which the other one is compressed.
    assert PCRS[0] == extended(f"{VERSION}\0".encode("utf-16-le"), PARTS["firmware"][0x1000:], bytes(4))
    assert PCRS[9] == extended("initrd=initrd console=ttyAMA0 quiet\0".encode("utf-16-le"), PARTS["initramfs"])
    # Seen in a vTPM under Debian's firmware without keys, whatever else is booted.
    assert PCRS[7].hex() == "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"
    assert PCRS[5].hex() == "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0"


def test_where_a_processor_begins_is_in_no_register():
    assert vtpm_pcrs(**(PARTS | {"firmware": flipped(PARTS["firmware"], 0)})) == PCRS


def test_the_size_of_memory_changes_nothing():
    assert vtpm_pcrs(**PARTS, patched_for=512 << 20) == PCRS


def test_firmware_that_cannot_ask_for_signatures_does_not_measure_that_it_does_not():
    without = make_arm_firmware(knows_keys=False)
    assert (has_secure_boot(PARTS["firmware"]), has_secure_boot(without)) == (True, False)
    pcrs = vtpm_pcrs(**(PARTS | {"firmware": without}))
    assert pcrs[7].hex() == "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439"


def test_reads_the_firmware():
    assert firmware_version(PARTS["firmware"]) == VERSION
    assert volume_digests(PARTS["firmware"]) == (hashlib.sha256(PARTS["firmware"][0x1000:]).digest(),)
    with pytest.raises(DecodeError, match="want those of OVMF"):
        volume_digests(make_arm_firmware(name=DXE_FV))


def test_no_register_of_x86_is_computed():
    with pytest.raises(DecodeError, match="SNP metadata"):
        snp_launch_digest(**PARTS)
    with pytest.raises(DecodeError, match="cannot measure firmware"):
        tdx_registers(**PARTS)


# --- Images ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path, monkeypatch):
    parts = {name: PARTS[name] for name in ("kernel", "initramfs", "cmdline")}
    return installed(tmp_path, monkeypatch, arch="aarch64", firmware={"vm": PARTS["firmware"]}, **parts)


def test_an_image_has_one_value_for_each_pcr(image):
    values = reference_values(open_machine(image))
    assert values == {"tpm": {f"pcr{number}": [value.hex()] for number, value in PCRS.items()}}


def test_an_image_for_yet_another_architecture_is_refused(tmp_path, monkeypatch):
    image = installed(tmp_path, monkeypatch, arch="riscv64")
    with pytest.raises(UsageError, match="architecture: found riscv64, want x86_64 or aarch64"):
        open_machine(image)


@pytest.mark.parametrize(("part", "number"), [("firmware", 0), ("kernel", 4)])
def test_names_the_part_that_is_another(part, number):
    machine, other = (
        Machine(
            name="test",
            kernel=parts["kernel"],
            initramfs=parts["initramfs"],
            cmdline=parts["cmdline"],
            firmware={"vm": parts["firmware"]},
        )
        for parts in (PARTS, PARTS | CHANGES[part][0])
    )
    found = {f"tpm.pcr{number}": bytes.fromhex(reference_values(other)["tpm"][f"pcr{number}"][0])}
    assert which_part_changed(machine, found) == (part,)
    assert which_part_changed(machine, {"tpm.pcr4": PCRS[4]}) == ()
