# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch a measured virtual machine, with no TEE and a virtual TPM?

No special hardware is needed: where KVM does not work the machine is emulated, which is slow and works.
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import ask_firmware_file, ask_kvm_device, ask_program

__all__ = ["probe"]

# Debian and Ubuntu, Fedora, Arch, in this order.
_FIRMWARE_X86 = (
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
)
_FIRMWARE_ARM = (
    "/usr/share/AAVMF/AAVMF_CODE.fd",
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",
    "/usr/share/edk2/aarch64/QEMU_CODE.fd",
)


def probe(machine: Machine) -> Probed:
    """Ask for QEMU, its firmware, a software TPM and a compressor; tell whether KVM or emulation would run it."""
    is_arm = machine.machine == "aarch64"
    qemu = "qemu-system-aarch64" if is_arm else "qemu-system-x86_64"
    firmware = _FIRMWARE_ARM if is_arm else _FIRMWARE_X86
    package = "qemu-efi-aarch64" if is_arm else "ovmf"
    return Probed(
        hardware=(),
        setup=(
            ask_program(machine, qemu, fix="install QEMU"),
            ask_firmware_file(machine, firmware, name="UEFI firmware for QEMU", fix=f"install it ({package})"),
            ask_program(machine, "swtpm", fix="install swtpm, the software TPM"),
            ask_program(machine, "zstd", fix="install zstd, which compresses the Keep image"),
        ),
        facts=(ask_kvm_device(machine), _tell_accelerator(machine)),
    )


def _tell_accelerator(machine: Machine) -> Datum:
    works = ask_kvm_device(machine).passed is True
    speed = "KVM" if works else "TCG emulation: works without KVM, about ten times slower"
    return Datum(name="runs by", passed=True, info=speed)
