# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch a measured virtual machine, with no TEE and a virtual TPM?

No special hardware is needed: where KVM does not work the machine is emulated, which is slow and works.
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import ask_image, ask_kvm_device, ask_program, ask_qemu

__all__ = ["probe"]

_PACKAGES = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
"""Which package has QEMU, by the architecture that it plays."""


def probe(machine: Machine) -> Probed:
    """Ask for QEMU, a software TPM and an image, whose firmware is in it; tell whether KVM or emulation would run it."""
    own = "aarch64" if machine.machine == "aarch64" else "x86_64"
    others = tuple(_tell_other(machine, arch) for arch in _PACKAGES if arch != own)
    return Probed(
        hardware=(),
        setup=(
            ask_qemu(machine, f"qemu-system-{own}", fix=f"install QEMU ({_PACKAGES[own]})"),
            ask_program(machine, "swtpm", fix="install swtpm, the software TPM"),
            ask_program(machine, "swtpm_setup", fix="install swtpm-tools, which make a software TPM"),
            ask_image(machine),
        ),
        facts=(ask_kvm_device(machine), _tell_accelerator(machine), _tell_key(machine), *others),
    )


def _tell_other(machine: Machine, arch: str) -> Datum:
    there = ask_program(machine, f"qemu-system-{arch}", fix=f"install QEMU ({_PACKAGES[arch]})")
    info = f"emulated, experimental: {there.info}" if there.passed else there.info
    return Datum(name=f"images of {arch}", passed=there.passed, info=info, fix=there.fix)


def _tell_key(machine: Machine) -> Datum:
    info = machine.tpm_key or "none yet: the first Keep makes it"
    return Datum(name="key of virtual TPMs, SHA-256 (insecure_vtpm_aks of a policy)", passed=True, info=info)


def _tell_accelerator(machine: Machine) -> Datum:
    works = ask_kvm_device(machine).passed is True
    speed = "KVM" if works else "TCG emulation: works without KVM, about ten times slower"
    return Datum(name="runs by", passed=True, info=speed)
