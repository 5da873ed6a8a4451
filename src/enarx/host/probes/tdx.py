# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch Intel TDX guests?

Spec: Linux Documentation/arch/x86/tdx.rst (the host's flag), Documentation/virt/kvm/x86/intel-tdx.rst (KVM, from 6.16).
"""

from __future__ import annotations

from enarx.host.probes.datum import Datum, Probed, group
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import (
    ask_image,
    ask_inside_tee,
    ask_kernel,
    ask_kvm_device,
    ask_parameter,
    ask_qemu,
    ask_vendor,
    reason,
)

__all__ = ["probe"]

_VENDOR = "GenuineIntel"
_FLAG = "tdx_host_platform"
_NEED_CPU = "TDX needs a 5th generation Intel Xeon Scalable, a Xeon 6 or later"
_NEED_FIRMWARE = f"{_NEED_CPU}, with TME-MT, SEAM and TDX switched on in the firmware"


def probe(machine: Machine) -> Probed:
    """Ask for the CPU, the kernel's version, KVM and its switch."""
    return Probed(
        hardware=(group("CPU", ask_vendor(machine, _VENDOR, fix=_NEED_CPU), _ask_host_flag(machine)),),
        setup=(
            ask_kernel(machine, 6, 16),
            ask_parameter(
                machine,
                "/sys/module/kvm_intel/parameters/tdx",
                fix="switch TDX on in the firmware, boot with kvm_intel.tdx=1 and nohibernate; the kernel log says more",
            ),
            ask_kvm_device(machine),
            ask_qemu(machine, "qemu-system-x86_64", "tdx-guest", fix="install QEMU 10.1 or later"),
            ask_image(machine),
        ),
        facts=(ask_inside_tee(machine, "TDX"),),
    )


def _ask_host_flag(machine: Machine) -> Datum:
    """Ask for the kernel's flag; no CPUID bit tells a program, and a kernel before 6.8 does not know the flag."""
    name = f"CPU lists {_FLAG}"
    try:
        cpu = machine.read_cpuinfo()
    except OSError as err:
        return Datum(name=name, passed=None, info=f"could not be determined: /proc/cpuinfo: {reason(err)}")
    if _FLAG in cpu.flags:
        return Datum(name=name, passed=True)
    if cpu.vendor != _VENDOR:
        return Datum(name=name, passed=False, info=f"a feature of {_VENDOR} CPUs")
    knows = ask_kernel(machine, 6, 8)
    if knows.passed is not True:
        return Datum(
            name=name,
            passed=None,
            info="could not be determined: Linux tells from 6.8 on",
            fix="boot Linux 6.16 or later",
        )
    return Datum(name=name, passed=False, info="not listed", fix=_NEED_FIRMWARE)
