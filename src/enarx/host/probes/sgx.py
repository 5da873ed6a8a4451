# SPDX-License-Identifier: Apache-2.0
"""Can this machine launch Intel SGX enclaves through Gramine?

Spec: Intel SDM volume 3D, "Enumerating SGX" (CPUID leaves 07H and 12H); Linux Documentation/arch/x86/sgx.rst.
"""

from __future__ import annotations

import os

from enarx.host.probes.datum import Datum, Probed, group
from enarx.host.probes.machine import Machine
from enarx.host.probes.questions import (
    EAX,
    EBX,
    ECX,
    ask_cpu_bit,
    ask_device,
    ask_image,
    ask_program,
    ask_vendor,
    find_registers,
    reason,
)

__all__ = ["probe"]

_VENDOR = "GenuineIntel"
_NEED_CPU = "SGX with remote attestation needs a 3rd generation Intel Xeon or later"
_NEED_FIRMWARE = f"{_NEED_CPU}, with SGX and flexible launch control switched on in the firmware"
_NEED_KERNEL = "switch SGX on in the firmware and boot Linux 5.11 or later, on bare metal or with SGX passed in"

# Where the services that sign quotes listen: Intel's architectural enclave service, and the one for guests.
_QUOTE_SOCKETS = ("/var/run/aesmd/aesm.socket", "/var/run/tdx-qgs/qgs.socket")

_SECTION_SUBLEAVES = range(2, 10)
MAX_NODES = 1024


_KEEP = Datum(
    name="a Keep runs in an enclave",
    passed=False,
    info="not in this version: Gramine has nothing by which a workload process is held",
    fix="enarx platform selftest --backend sgx tries what there is: an enclave that attests itself",
)


def probe(machine: Machine) -> Probed:
    """Ask for the CPU and its enclave memory, the kernel's devices, a service that signs quotes, Gramine, and an image for it."""
    return Probed(
        hardware=(
            group(
                "CPU",
                ask_vendor(machine, _VENDOR, fix=_NEED_CPU),
                _ask_bit(machine, "SGX", flag="sgx", leaf=0x7, register=EBX, bit=2),
                _ask_bit(machine, "SGX1 (enclaves)", flag="sgx1", leaf=0x12, register=EAX, bit=0),
                _ask_bit(machine, "SGX2 (enclaves that grow)", flag="sgx2", leaf=0x12, register=EAX, bit=1),
                _ask_bit(machine, "FLC (launch control)", flag="sgx_lc", leaf=0x7, register=ECX, bit=30),
            ),
            _ask_enclave_memory(machine),
        ),
        setup=(
            ask_device(machine, "/dev/sgx_enclave", os.O_RDWR, fix=_NEED_KERNEL),
            ask_device(machine, "/dev/sgx_provision", os.O_RDWR, fix=_NEED_KERNEL),
            _ask_quote_service(machine),
            ask_program(machine, "gramine-sgx", fix="install Gramine"),
            ask_program(machine, "gramine-sgx-sign", fix="install Gramine, whose signer measures enclaves"),
            ask_image(machine),
        ),
        facts=(*_tell_leaf(machine), _KEEP),
    )


def _ask_bit(machine: Machine, name: str, *, flag: str, leaf: int, register: int, bit: int) -> Datum:
    return ask_cpu_bit(
        machine, name, vendor=_VENDOR, flag=flag, leaf=leaf, register=register, bit=bit, fix=_NEED_FIRMWARE
    )


def _ask_enclave_memory(machine: Machine) -> Datum:
    """Ask how much enclave memory there is: of the kernel, which tells everybody, else of the CPU."""
    name = "enclave memory (EPC)"
    # A CPU that cannot be identified may be Intel's: only a certain "no" ends the question here.
    if ask_vendor(machine, _VENDOR, fix=_NEED_CPU).passed is False:
        return Datum(name=name, passed=False, info=f"a feature of {_VENDOR} CPUs")
    total_bytes = _sum_nodes(machine)
    if total_bytes is None:
        total_bytes = _sum_sections(machine)
    if total_bytes is None:
        return Datum(
            name=name,
            passed=None,
            info=f"could not be determined: the kernel does not tell; {machine.cpuid_unknown}",
            fix="boot Linux 5.17 or later, or ask again as root after modprobe cpuid",
        )
    if total_bytes > 0:
        return Datum(name=name, passed=True, info=f"{total_bytes // 2**20} MiB")
    return Datum(name=name, passed=False, info="none", fix=_NEED_FIRMWARE)


def _sum_nodes(machine: Machine) -> int | None:
    """Add up the enclave memory of all memory nodes, or None where the kernel does not tell."""
    total_bytes: int | None = None
    for node in range(MAX_NODES):
        try:
            text = machine.read_text(f"/sys/devices/system/node/node{node}/x86/sgx_total_bytes").strip()
        except OSError:
            # Node numbers have gaps on machines with memory switched off, so the first absence ends nothing.
            continue
        if text.isascii() and text.isdigit() and len(text) < 20:
            total_bytes = (total_bytes or 0) + int(text)
    return total_bytes


def _sum_sections(machine: Machine) -> int | None:
    """Add up the sections that CPUID lists: type 1 in EAX[3:0], size in ECX[31:12] and EDX[19:0]."""
    if find_registers(machine, 0x12) is None:
        return None
    total_bytes = 0
    for subleaf in _SECTION_SUBLEAVES:
        eax, _, ecx, edx = find_registers(machine, 0x12, subleaf) or (0, 0, 0, 0)
        if eax & 0xF == 1:
            total_bytes += (edx & 0xFFFFF) << 32 | ecx & 0xFFFFF000
    return total_bytes


def _ask_quote_service(machine: Machine) -> Datum:
    name = "a service that signs quotes answers"
    refused: str | None = None
    for path in _QUOTE_SOCKETS:
        try:
            machine.connect_unix(path)
        except FileNotFoundError:
            continue
        except OSError as err:
            refused = f"{path}: {reason(err)}"
        else:
            return Datum(name=name, passed=True, info=path)
    return Datum(
        name=name,
        passed=False,
        info=refused or "no socket of aesmd or qgs",
        fix="install and start aesmd (sgx-aesm-service) with its quote plugin",
    )


def _tell_leaf(machine: Machine) -> tuple[Datum, ...]:
    """Tell the sizes and optional parts that leaf 12H lists, where the CPU could be asked and has it."""
    registers = find_registers(machine, 0x12)
    if registers is None or not registers[EAX]:
        return ()
    _, ebx, _, edx = registers
    return (
        Datum(name="largest enclave", passed=True, info=f"2^{edx >> 8 & 0xFF} bytes"),
        Datum(name="MISCSELECT", passed=True, info=f"{ebx:#010x}"),
    )
