# SPDX-License-Identifier: Apache-2.0
"""The questions that more than one backend asks, each answered as a `Datum`.

A question takes the advice for its "no" as an argument, since the same missing thing has another remedy per backend.
"""

from __future__ import annotations

import os
import re

from enarx.host.probes.datum import Datum, group
from enarx.host.probes.kvm import KVM_API_VERSION, Registers
from enarx.host.probes.machine import Machine

__all__ = [
    "ask_brand",
    "ask_cpu_bit",
    "ask_device",
    "ask_exists",
    "ask_image",
    "ask_inside_tee",
    "ask_kernel",
    "ask_kvm_device",
    "ask_parameter",
    "ask_program",
    "ask_qemu",
    "ask_vendor",
    "find_registers",
    "reason",
]

EAX, EBX, ECX, EDX = range(4)

_MODPROBE_CPUID = "ask again as root after modprobe cpuid: that reads the CPU itself"

# What a guest kernel shows when the machine is itself a Trusted Execution Environment.
_GUEST_SIGNS = {
    "SEV-SNP": "/dev/sev-guest",
    "TDX": "/dev/tdx_guest",
    "CCA": "/sys/bus/platform/devices/arm-cca-dev",
}


def reason(err: OSError) -> str:
    """Say why the system refused, in lower case."""
    return (err.strerror or str(err)).lower()


def _unknown(name: str, why: str, *, fix: str | None = None) -> Datum:
    """Answer that there is no answer, and why."""
    return Datum(name=name, passed=None, info=f"could not be determined: {why}", fix=fix)


def ask_vendor(machine: Machine, wanted: str, *, fix: str) -> Datum:
    """Ask whether a CPU is of a vendor, by its CPUID name (`AuthenticAMD`)."""
    name = "CPU vendor"
    try:
        vendor = machine.read_cpuinfo().vendor
    except OSError as err:
        return _unknown(name, f"/proc/cpuinfo: {reason(err)}", fix=fix)
    if vendor == wanted:
        return Datum(name=name, passed=True, info=vendor)
    return Datum(name=name, passed=False, info=f"{vendor or machine.machine}, want {wanted}", fix=fix)


def ask_brand(machine: Machine, wanted: str, *, fix: str) -> Datum:
    """Ask whether the CPU's brand string holds a word."""
    name = "CPU brand"
    try:
        brand = machine.read_cpuinfo().brand
    except OSError as err:
        return _unknown(name, f"/proc/cpuinfo: {reason(err)}", fix=fix)
    if wanted in brand:
        return Datum(name=name, passed=True, info=brand)
    return Datum(name=name, passed=False, info=f"{brand or 'none'}, want {wanted}", fix=fix)


def find_registers(machine: Machine, leaf: int, subleaf: int = 0) -> Registers | None:
    """Find what the CPU itself answered, or None where it could not be asked."""
    return machine.cpuid.get((leaf, subleaf))


def ask_cpu_bit(
    machine: Machine, name: str, *, vendor: str, flag: str, leaf: int, register: int, bit: int, fix: str
) -> Datum:
    """Ask whether the CPU has a feature.

    The kernel's flag or KVM's table can only prove a yes: both leave out what the kernel does not use. A no needs the CPU's
    own word, or another vendor's CPU; without either the answer is unknown.

    Args:
        machine: the machine.
        name: what people call the feature.
        vendor: the vendor that defines the bit.
        flag: the kernel's name in /proc/cpuinfo.
        leaf: CPUID leaf, subleaf 0.
        register: 0 to 3 for EAX, EBX, ECX, EDX.
        bit: 0 to 31.
        fix: what to do when the CPU has it not, on bare metal.
    """
    try:
        cpu = machine.read_cpuinfo()
    except OSError:
        cpu = None
    if cpu is not None and flag in cpu.flags:
        return Datum(name=name, passed=True)
    if cpu is not None and cpu.vendor != vendor:
        return Datum(name=name, passed=False, info=f"a feature of {vendor} CPUs")
    registers = find_registers(machine, leaf)
    if registers is not None:
        if registers[register] >> bit & 1:
            return Datum(name=name, passed=True, info="the CPU has it; the kernel does not list it")
        if cpu is not None and "hypervisor" in cpu.flags:
            fix = "this is a virtual machine: use the machine beneath it, or bare metal"
        return Datum(name=name, passed=False, fix=fix)
    offered = machine.kvm.cpuid.get((leaf, 0))
    if offered is not None and offered[register] >> bit & 1:
        return Datum(name=name, passed=True, info="KVM offers it")
    return _unknown(name, f"the kernel does not list it; {machine.cpuid_unknown}", fix=_MODPROBE_CPUID)


def ask_exists(machine: Machine, path: str, *, name: str | None = None, fix: str) -> Datum:
    """Ask whether a file or device is there."""
    name = name or path
    try:
        there = machine.exists(path)
    except OSError as err:
        return _unknown(name, reason(err), fix="ask again as root")
    return Datum(name=name, passed=there, fix=None if there else fix)


def ask_device(machine: Machine, path: str, flags: int, *, fix: str) -> Datum:
    """Ask whether a device opens with `os.O_RDONLY`, `O_WRONLY` or `O_RDWR`.

    Args:
        machine: the machine.
        path: the device.
        flags: how to open it.
        fix: what to do when it is not there.
    """
    purpose = {os.O_RDONLY: "reading", os.O_WRONLY: "writing", os.O_RDWR: "reading and writing"}[flags]
    name = f"{path} opens for {purpose}"
    try:
        machine.open_device(path, flags)
    except FileNotFoundError:
        return Datum(name=name, passed=False, info="not there", fix=fix)
    except PermissionError as err:
        return Datum(
            name=name, passed=False, info=reason(err), fix=f"join the group that owns {path}, or run as its owner"
        )
    except OSError as err:
        return Datum(name=name, passed=False, info=reason(err), fix="the kernel log (dmesg) says more")
    return Datum(name=name, passed=True)


def ask_parameter(machine: Machine, path: str, *, fix: str) -> Datum:
    """Ask whether a kernel module's switch is on: `Y` or `1`."""
    name = path
    try:
        value = machine.read_text(path).strip()
    except FileNotFoundError:
        return Datum(name=name, passed=False, info="not there: the module is not loaded, or does not know it", fix=fix)
    except OSError as err:
        return _unknown(name, reason(err), fix="ask again as root")
    if value in {"1", "Y"}:
        return Datum(name=name, passed=True, info=value)
    return Datum(name=name, passed=False, info=f"{value or 'empty'}, want Y", fix=fix)


def ask_kernel(machine: Machine, major: int, minor: int) -> Datum:
    """Ask whether the running Linux is of a version or later."""
    want = f"Linux {major}.{minor} or later"
    if machine.sysname != "Linux":
        return Datum(name="kernel", passed=False, info=f"{machine.sysname}, want {want}", fix=f"run on {want}")
    found = re.match(r"(\d{1,4})\.(\d{1,4})", machine.release)
    if found is None:
        return _unknown("kernel", f"found version {machine.release}, want {want}", fix=f"boot {want}")
    if (int(found[1]), int(found[2])) >= (major, minor):
        return Datum(name="kernel", passed=True, info=f"Linux {machine.release}")
    return Datum(name="kernel", passed=False, info=f"Linux {machine.release}, want {major}.{minor}", fix=f"boot {want}")


def ask_program(machine: Machine, name: str, *, fix: str) -> Datum:
    """Ask whether a program is on the search path."""
    found = machine.find_program(name)
    return Datum(
        name=f"{name} on PATH", passed=found is not None, info=found or "not found", fix=None if found else fix
    )


def ask_qemu(machine: Machine, program: str, obj: str | None = None, *, fix: str) -> Datum:
    """Ask whether a QEMU is on the search path, and can make an object where one is needed."""
    there = ask_program(machine, program, fix=fix)
    if obj is None or there.passed is False:
        return there
    name = f"{program} knows {obj}"
    known = machine.qemu_objects.get(program)
    if known is None:
        return _unknown(name, "it did not answer", fix=f"{program} -object help says why")
    found = obj in known
    return group(
        "QEMU", there, Datum(name=name, passed=found, info=None if found else "no", fix=None if found else fix)
    )


def ask_image(machine: Machine) -> Datum:
    """Ask whether there is an image for machines."""
    name = "Keep image"
    if machine.images is None:
        return _unknown(name, "the folder of images cannot be read", fix="enarx image list says why")
    if machine.images:
        return Datum(name=name, passed=True, info=", ".join(machine.images))
    return Datum(name=name, passed=False, info="none", fix="enarx image build")


def ask_kvm_device(machine: Machine) -> Datum:
    """Ask whether KVM can make a virtual machine, not only whether its device is there."""
    kvm = machine.kvm
    not_reached = f"not asked: {kvm.stopped}"
    if kvm.exists:
        there = Datum(name="/dev/kvm exists", passed=True)
    else:
        there = Datum(
            name="/dev/kvm exists",
            passed=False,
            info=kvm.stopped,
            fix="load kvm_amd or kvm_intel, switch virtualization on in the firmware; in a container, pass /dev/kvm in",
        )
    if kvm.opened:
        opens = Datum(name="/dev/kvm opens", passed=True)
    else:
        opens = Datum(
            name="/dev/kvm opens",
            passed=False if kvm.exists else None,
            info=kvm.stopped if kvm.exists else not_reached,
            fix="join the group that owns /dev/kvm, often kvm, and log in again" if kvm.exists else None,
        )
    version_name = "KVM API version"
    if kvm.api_version is None:
        version = Datum(name=version_name, passed=None, info=not_reached)
    elif kvm.api_version == KVM_API_VERSION:
        version = Datum(name=version_name, passed=True, info=str(kvm.api_version))
    else:
        found = f"{kvm.api_version}, want {KVM_API_VERSION}"
        version = Datum(name=version_name, passed=False, info=found, fix="boot a current Linux")
    if kvm.created_vm:
        creates = Datum(name="KVM makes a virtual machine", passed=True)
    else:
        creates = Datum(
            name="KVM makes a virtual machine",
            passed=False if kvm.opened else None,
            info=kvm.stopped if kvm.opened else not_reached,
            fix="the kernel log (dmesg) says more; another hypervisor may hold the CPU's extension"
            if kvm.opened
            else None,
        )
    return group("KVM", there, opens, version, creates, *_ask_extension(machine))


def _ask_extension(machine: Machine) -> tuple[Datum, ...]:
    """Ask for the CPU extension beneath KVM: without it the device of some hypervisors starts QEMU and then hangs it."""
    if machine.machine not in {"x86_64", "i686"}:
        return ()
    name = "CPU virtualization (svm or vmx)"
    try:
        flags = machine.read_cpuinfo().flags
    except OSError as err:
        return (_unknown(name, f"/proc/cpuinfo: {reason(err)}"),)
    found = sorted(flags & {"svm", "vmx"})
    if found:
        return (Datum(name=name, passed=True, info=found[0]),)
    fix = (
        "this is a virtual machine: use one with nested virtualization, or bare metal"
        if "hypervisor" in flags
        else "switch virtualization (SVM, VT-x) on in the firmware"
    )
    return (Datum(name=name, passed=False, info="not listed; a guest on such a KVM can hang at its start", fix=fix),)


def ask_inside_tee(machine: Machine, tee: str) -> Datum:
    """Tell, as a fact, whether this machine is itself a guest of a TEE: it then gives evidence but launches none.

    Nothing is made under configfs-tsm to learn its provider; a probe leaves no trace.
    """
    name = f"this machine is itself a {tee} guest"
    try:
        inside = machine.exists(_GUEST_SIGNS[tee])
    except OSError as err:
        return _unknown(name, reason(err))
    return Datum(name=name, passed=True, info=f"yes ({_GUEST_SIGNS[tee]})" if inside else "no")
