# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch a measured virtual machine, with no TEE and a virtual TPM?

No special hardware is needed: where KVM does not work the machine is emulated, which is slow and works.
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import ask_image, ask_kvm_device, ask_program, ask_qemu

__all__ = ["probe"]


def probe(machine: Machine) -> Probed:
    """Ask for QEMU, a software TPM and an image, whose firmware is in it; tell whether KVM or emulation would run it."""
    is_arm = machine.machine == "aarch64"
    qemu = "qemu-system-aarch64" if is_arm else "qemu-system-x86_64"
    package = "qemu-system-arm" if is_arm else "qemu-system-x86"
    return Probed(
        hardware=(),
        setup=(
            ask_qemu(machine, qemu, fix=f"install QEMU ({package})"),
            ask_program(machine, "swtpm", fix="install swtpm, the software TPM"),
            ask_program(machine, "swtpm_setup", fix="install swtpm-tools, which make a software TPM"),
            ask_image(machine),
        ),
        facts=(ask_kvm_device(machine), _tell_accelerator(machine), _tell_key(machine)),
    )


def _tell_key(machine: Machine) -> Datum:
    info = machine.tpm_key or "none yet: the first Keep makes it"
    return Datum(name="key of virtual TPMs, SHA-256 (insecure_vtpm_aks of a policy)", passed=True, info=info)


def _tell_accelerator(machine: Machine) -> Datum:
    works = ask_kvm_device(machine).passed is True
    speed = "KVM" if works else "TCG emulation: works without KVM, about ten times slower"
    return Datum(name="runs by", passed=True, info=speed)
