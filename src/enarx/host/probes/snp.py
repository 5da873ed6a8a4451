# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch AMD SEV-SNP guests?

Spec: AMD 24594 (APM volume 3), CPUID Fn8000_001F; Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst.
"""

from __future__ import annotations

import os

from enarx.host.probes.datum import Datum, Probed, group
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import (
    EAX,
    ask_brand,
    ask_cpu_bit,
    ask_device,
    ask_exists,
    ask_image,
    ask_inside_tee,
    ask_kvm_device,
    ask_parameter,
    ask_qemu,
    ask_vendor,
    find_registers,
)

__all__ = ["probe"]

_VENDOR = "AuthenticAMD"
_LEAF = 0x8000001F
_NEED_EPYC = "SEV-SNP needs an AMD EPYC 7003 or later"
_NEED_FIRMWARE = "SEV-SNP needs an AMD EPYC 7003 or later, with SME and SEV switched on in the firmware"
_NEED_KERNEL = "switch SEV-SNP and the IOMMU on in the firmware, boot Linux 6.11 or later, load ccp and kvm_amd (kvm_amd.sev_snp=1)"

# What the original asks for: room for one small Keep whose pages are pinned.
MIN_MEMLOCK_BYTES = 5 * 1024 * 1024


def probe(machine: Machine) -> Probed:
    """Ask for the CPU, the kernel's switch, the security processor's device, KVM and the limit of locked memory."""
    return Probed(
        hardware=(
            group(
                "CPU",
                ask_vendor(machine, _VENDOR, fix=_NEED_EPYC),
                ask_brand(machine, "EPYC", fix=_NEED_EPYC),
                _ask_bit(machine, "SME (memory encryption)", "sme", 0),
                _ask_bit(machine, "SEV (encrypted guests)", "sev", 1),
                _ask_bit(machine, "SEV-ES (encrypted registers)", "sev_es", 3),
                _ask_bit(machine, "SEV-SNP (protected page tables)", "sev_snp", 4),
            ),
        ),
        setup=(
            group(
                "/dev/sev",
                ask_exists(machine, "/dev/sev", name="/dev/sev exists", fix=_NEED_KERNEL),
                ask_device(machine, "/dev/sev", os.O_RDONLY, fix=_NEED_KERNEL),
                ask_device(machine, "/dev/sev", os.O_WRONLY, fix=_NEED_KERNEL),
            ),
            ask_parameter(machine, "/sys/module/kvm_amd/parameters/sev_snp", fix=_NEED_KERNEL),
            ask_kvm_device(machine),
            _ask_memlock(machine),
            ask_qemu(machine, "qemu-system-x86_64", "sev-snp-guest", fix="install QEMU 9.1 or later"),
            ask_image(machine),
        ),
        facts=(*_tell_leaf(machine), ask_inside_tee(machine, "SEV-SNP")),
    )


def _ask_bit(machine: Machine, name: str, flag: str, bit: int) -> Datum:
    return ask_cpu_bit(machine, name, vendor=_VENDOR, flag=flag, leaf=_LEAF, register=EAX, bit=bit, fix=_NEED_FIRMWARE)


def _ask_memlock(machine: Machine) -> Datum:
    name = "limit of locked memory"
    found = machine.memlock_bytes
    if found is None:
        return Datum(name=name, passed=True, info="no limit")
    if found >= MIN_MEMLOCK_BYTES:
        return Datum(name=name, passed=True, info=f"{found // 1024} KiB")
    return Datum(
        name=name,
        passed=False,
        info=f"{found // 1024} KiB, want {MIN_MEMLOCK_BYTES // 1024} KiB or more",
        fix="raise memlock in /etc/security/limits.conf, or LimitMEMLOCK= of the service",
    )


def _tell_leaf(machine: Machine) -> tuple[Datum, ...]:
    """Tell the numbers of the memory encryption leaf; they decide nothing, so they are left out where there are none."""
    registers = find_registers(machine, _LEAF)
    if registers is None or not registers[EAX]:
        return ()
    eax, ebx, ecx, edx = registers
    flush = "yes" if eax >> 2 & 1 else "no: the kernel flushes whole caches, or the CPU keeps them coherent"
    return (
        Datum(name="page flush MSR", passed=True, info=flush),
        Datum(name="C-bit position", passed=True, info=str(ebx & 0x3F)),
        Datum(name="physical address bits given up", passed=True, info=str(ebx >> 6 & 0x3F)),
        Datum(name="encrypted guests at once", passed=True, info=str(ecx)),
        Datum(name="lowest ASID of a guest without SEV-ES", passed=True, info=str(edx)),
    )
