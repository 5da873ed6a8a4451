# SPDX-License-Identifier: Apache-2.0
"""The command lines of QEMU: one table of machines, and what all of them have in common.

Nothing is chosen here but words. What a machine is given: kernel, initramfs, firmware and a command line, which are measured;
the port that carries the link; the port of the emulated platform or a TPM, never both. No network, no disk, no share, no other
source of randomness or configuration.

QEMU gets every file and socket as a descriptor with a number of its own, so that it needs no path that only its host may use, and
so that what it was started with can be found through /proc.

Source: QEMU docs/system/i386/amd-memory-encryption.rst, docs/system/i386/tdx.rst, docs/system/confidential-guest-support.rst;
Kata Containers src/runtime/pkg/govmm/qemu/qemu.go for CCA, which QEMU has not merged.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from enarx.errors import PlatformError
from enarx.wire.machine import LINK_PORT, PLATFORM_PORT

__all__ = [
    "CONSOLE_FD",
    "FIRMWARE_FD",
    "INITRAMFS_FD",
    "KERNEL_FD",
    "LINK_FD",
    "MACHINES",
    "PLATFORM_FD",
    "QMP_FD",
    "TPM_FD",
    "TRANSLATED_MIB",
    "MachineKind",
    "MachineSpec",
    "command_line",
    "kind_of",
    "this_arch",
]

LINK_FD, PLATFORM_FD, KERNEL_FD, INITRAMFS_FD, FIRMWARE_FD, QMP_FD, CONSOLE_FD, TPM_FD = range(3, 11)
"""Descriptors of QEMU: two listening sockets, three files, and three connected sockets."""

TRANSLATED_MIB = 256
"""For the translation of what an emulated machine runs; without a size QEMU takes as much as a gigabyte."""

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind:
    """One row of the table.

    Args:
        program: of QEMU.
        machine: value of -machine, without what refers to other options.
        cpu: value of -cpu; what is measured where the number of a CPU model is.
        kvm_cpu: the same under KVM, where nothing is measured of it; None is `cpu`.
        accelerators: that it can run by, the preferred one first.
        protection: value of -object for what protects the guest; None has none.
        memory: value of -object for the guest's memory, `%d` standing for bytes; None leaves that to QEMU.
        tpm: value of -device for a virtual TPM; None has none.
        firmware: role of the firmware in an image, or None.
        flagged: whether it needs to be asked for by a flag, because nobody has seen it run.
    """

    program: str
    machine: str
    cpu: str
    kvm_cpu: str | None = None
    accelerators: tuple[str, ...] = ("kvm",)
    protection: str | None = None
    memory: str | None = None
    tpm: str | None = None
    firmware: str | None = None
    flagged: bool = False


_TDX_GUEST = json.dumps(
    {
        "qom-type": "tdx-guest",
        "id": "protection",
        # The service that turns a TD's report into a quote; MRCONFIGID, MROWNER and MROWNERCONFIG stay zero.
        "quote-generation-socket": {"type": "vsock", "cid": "2", "port": "4050"},
    },
    separators=(",", ":"),
)

MACHINES: dict[tuple[str, str], MachineKind] = {
    # A CPU model that QEMU has had since 4.1, with RDRAND, without which an interpreter has no randomness when it begins.
    ("vm", "x86_64"): MachineKind(
        program="qemu-system-x86_64",
        machine="q35,vmport=off",
        cpu="EPYC-v3",
        kvm_cpu="host",
        accelerators=("kvm", "tcg"),
        tpm="tpm-crb",
        firmware="vm",
    ),
    ("vm", "aarch64"): MachineKind(
        program="qemu-system-aarch64",
        machine="virt,gic-version=3",
        # Signing addresses as the standard has it takes half of the time where it is emulated.
        cpu="max,pauth-impdef=on",
        kvm_cpu="host",
        accelerators=("kvm", "tcg"),
        tpm="tpm-tis-device",
        firmware="vm",
    ),
    ("vm", "ppc64"): MachineKind(
        program="qemu-system-ppc64",
        machine="pseries",
        cpu="power9",
        kvm_cpu="host",
        accelerators=("kvm", "tcg"),
        tpm="tpm-spapr",
    ),
    # Kernel, initramfs and command line are hashed into what is measured; host data and the id block stay zero.
    ("snp", "x86_64"): MachineKind(
        program="qemu-system-x86_64",
        machine="q35,vmport=off,kernel_irqchip=split,confidential-guest-support=protection,memory-backend=ram",
        cpu="EPYC-v4",
        protection="sev-snp-guest,id=protection,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on",
        memory="memory-backend-memfd,id=ram,size=%d,share=true,prealloc=false,reserve=false",
        firmware="snp",
    ),
    ("tdx", "x86_64"): MachineKind(
        program="qemu-system-x86_64",
        machine="q35,kernel_irqchip=split,hpet=off,confidential-guest-support=protection,memory-backend=ram",
        cpu="host",
        protection=_TDX_GUEST,
        memory="memory-backend-ram,id=ram,size=%d",
        firmware="tdx",
    ),
    ("cca", "aarch64"): MachineKind(
        program="qemu-system-aarch64",
        machine="virt,gic-version=3,confidential-guest-support=protection",
        cpu="host",
        protection="rme-guest,id=protection,measurement-algorithm=sha512",
        flagged=True,
    ),
    ("pef", "ppc64"): MachineKind(
        program="qemu-system-ppc64",
        machine="pseries,confidential-guest-support=protection",
        cpu="host",
        protection="pef-guest,id=protection",
        flagged=True,
    ),
}
"""By backend and architecture, as uname names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A machine that is wanted.

    Args:
        backend: `vm`, `snp`, `tdx`, `cca` or `pef`.
        arch: `x86_64`, `aarch64` or `ppc64`.
        name: of the Keep; QEMU calls itself by it.
        accelerator: `kvm` or `tcg`.
        memory_bytes: of the machine, a multiple of 1 MiB.
        vcpus: how many.
        cmdline: the kernel's.
        has_firmware: whether there is a file of it.
        has_tpm: whether there is a virtual TPM.
        has_platform: whether the host answers for the emulated platform.
    """

    backend: str
    arch: str
    name: str
    accelerator: str
    memory_bytes: int
    vcpus: int = 1
    cmdline: str
    has_firmware: bool = True
    has_tpm: bool = False
    has_platform: bool = False


def this_arch() -> str:
    """Return this machine's architecture by QEMU's name."""
    machine = os.uname().machine
    return "ppc64" if machine == "ppc64le" else machine


def kind_of(backend: str, arch: str) -> MachineKind:
    """Return the row of a backend.

    Raises:
        PlatformError: that architecture does not have it.
    """
    kind = MACHINES.get((backend, arch))
    if kind is None:
        known = sorted(arch for known, arch in MACHINES if known == backend)
        raise PlatformError(
            f"backend {backend}: found a machine of {arch}, want {' or '.join(known) if known else 'another backend'}"
        )
    return kind


def command_line(spec: MachineSpec) -> tuple[str, ...]:
    """Return the command line of QEMU, its program first, by name.

    Raises:
        PlatformError: there is no such machine.
    """
    kind = kind_of(spec.backend, spec.arch)
    if spec.accelerator not in kind.accelerators:
        raise PlatformError(
            f"backend {spec.backend}: found {spec.accelerator}, want {' or '.join(kind.accelerators)} to run it by"
        )
    if spec.has_tpm and (kind.tpm is None or spec.has_platform):
        raise PlatformError(f"backend {spec.backend}: found a virtual TPM, want none beside what gives evidence there")
    is_kvm = spec.accelerator == "kvm"
    cpu = kind.kvm_cpu if is_kvm and kind.kvm_cpu is not None and not spec.has_platform else kind.cpu
    options = [
        ("-name", f"keep-{spec.name}"),
        ("-machine", kind.machine),
        ("-accel", "kvm" if is_kvm else f"tcg,thread=multi,tb-size={TRANSLATED_MIB}"),
        ("-cpu", cpu),
        ("-smp", str(spec.vcpus)),
        ("-m", f"{spec.memory_bytes >> 20}M"),
    ]
    options += [] if kind.memory is None else [("-object", kind.memory % spec.memory_bytes)]
    options += [] if kind.protection is None else [("-object", kind.protection)]
    options += [("-bios", f"/proc/self/fd/{FIRMWARE_FD}")] if spec.has_firmware else []
    options += [
        ("-kernel", f"/proc/self/fd/{KERNEL_FD}"),
        ("-initrd", f"/proc/self/fd/{INITRAMFS_FD}"),
        ("-append", spec.cmdline),
        ("-sandbox", _SANDBOX),
        ("-chardev", f"socket,id=qmp,fd={QMP_FD}"),
        ("-mon", "chardev=qmp,mode=control"),
        ("-chardev", f"socket,id=console,fd={CONSOLE_FD}"),
        ("-serial", "chardev:console"),
        ("-device", "virtio-serial-pci,id=ports"),
        *_port("keep", LINK_PORT, LINK_FD),
    ]
    options += _port("platform", PLATFORM_PORT, PLATFORM_FD) if spec.has_platform else []
    if spec.has_tpm:
        options += [
            ("-chardev", f"socket,id=tpm,fd={TPM_FD}"),
            ("-tpmdev", "emulator,id=vtpm,chardev=tpm"),
            ("-device", f"{kind.tpm},tpmdev=vtpm"),
        ]
    flags = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
    return (kind.program, *flags, *(word for option in options for word in option))


def _port(identifier: str, name: str, fd: int) -> list[tuple[str, str]]:
    return [
        ("-chardev", f"socket,id={identifier},fd={fd},server=on,wait=off"),
        ("-device", f"virtserialport,bus=ports.0,chardev={identifier},name={name}"),
    ]
