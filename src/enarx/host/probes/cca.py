# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch Arm CCA Realms?

Little can be known: the register field that names the Realm Management Extension is not shown to programs, and KVM's
support for Realms is not in the mainline kernel, so no stable interface answers for it. The probe says so.
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import ask_image, ask_inside_tee, ask_kvm_device, ask_qemu

__all__ = ["probe"]

_NEED_CPU = "CCA needs an Armv9 machine with the Realm Management Extension and its firmware"


def probe(machine: Machine) -> Probed:
    """Ask for the architecture and KVM, and admit what cannot be asked."""
    is_arm = machine.machine == "aarch64"
    architecture = Datum(
        name="CPU architecture",
        passed=is_arm,
        info=machine.machine if is_arm else f"{machine.machine}, want aarch64",
        fix=None if is_arm else _NEED_CPU,
    )
    if is_arm:
        extension = Datum(
            name="Realm Management Extension",
            passed=None,
            info="could not be determined: Linux does not tell programs",
            fix=f"{_NEED_CPU}; the kernel log of a CCA kernel names the RMM",
        )
        realms = Datum(
            name="KVM launches Realms",
            passed=None,
            info="could not be determined: the support is not in mainline Linux",
            fix="boot a kernel with the KVM CCA host patches",
        )
    else:
        extension = Datum(name="Realm Management Extension", passed=False, info="a feature of Arm CPUs")
        realms = Datum(name="KVM launches Realms", passed=False, info="a feature of Arm CPUs")
    return Probed(
        hardware=(architecture, extension),
        setup=(
            ask_kvm_device(machine),
            realms,
            ask_qemu(machine, "qemu-system-aarch64", "rme-guest", fix="install a QEMU with the patches for CCA"),
            ask_image(machine),
        ),
        facts=(ask_inside_tee(machine, "CCA"),),
    )
