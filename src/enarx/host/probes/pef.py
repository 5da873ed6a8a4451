# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch secure guests of POWER's Protected Execution Facility?

It could start one, and nobody could know what runs there: a guest has no way to evidence. So no Keep is deployed into one.

Source: Linux Documentation/arch/powerpc/ultravisor.rst; QEMU docs/system/confidential-guest-support.rst.
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import ask_exists, ask_image, ask_kvm_device, ask_qemu

__all__ = ["probe"]

_NEED = "PEF needs a POWER9 or later machine whose firmware starts the ultravisor"


def probe(machine: Machine) -> Probed:
    """Ask for the architecture, the ultravisor, KVM and QEMU."""
    is_power = machine.machine == "ppc64le"
    architecture = Datum(
        name="CPU architecture",
        passed=is_power,
        info=machine.machine if is_power else f"{machine.machine}, want ppc64le",
        fix=None if is_power else _NEED,
    )
    return Probed(
        hardware=(architecture, ask_exists(machine, "/proc/device-tree/ibm,ultravisor", name="ultravisor", fix=_NEED)),
        setup=(
            ask_kvm_device(machine),
            ask_qemu(machine, "qemu-system-ppc64", "pef-guest", fix="install QEMU for POWER (qemu-system-ppc)"),
            ask_image(machine),
        ),
        facts=(Datum(name="gives evidence", passed=False, info="a guest has no way to, so nothing is deployed there"),),
    )
