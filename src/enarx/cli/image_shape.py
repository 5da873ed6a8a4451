# SPDX-License-Identifier: Apache-2.0
"""RTMR0 of the TDs that a named QEMU makes, for `enarx image measure --qemu`: that QEMU is asked, and no TD is started."""

from __future__ import annotations

import os
from collections.abc import Iterable

from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.reference import Machine

__all__ = ["DEFAULT_PHYSICAL_BITS", "UNPROVEN", "td_rtmr0"]

DEFAULT_PHYSICAL_BITS = 46
"""What OVMF reckons with at most where pages have four levels."""

UNPROVEN = "computed for the QEMU that was asked; no TD has been compared with it"

_WORKLOAD_BYTES = 1 << 30
_WIDTHS = range(36, 53)


def td_rtmr0(machine: Machine, qemu: str, memory_sizes: Iterable[int], physical_bits: int) -> list[str]:
    """Return RTMR0 of a TD of each size of memory, in hex.

    Args:
        machine: its parts.
        qemu: the program, a path or a name on PATH.
        memory_sizes: in bytes; none is the size of a Keep whose workload may take 1 GiB.
        physical_bits: the width of addresses that the TD's firmware reckons with.

    Raises:
        UsageError: there is no firmware for TDX, or the width cannot be.
        PlatformError: QEMU does not answer.
        DecodeError: what it says, or the firmware, cannot be understood.
    """
    from enarx.host.launchers.qemu import MachineSpec, command_line
    from enarx.host.launchers.vm import machine_bytes
    from enarx.image.ask_qemu import ask_qemu, without_protection
    from enarx.image.measure import register_values
    from enarx.image.measure_shape import rtmr0_events

    if "tdx" not in machine.firmware:
        raise UsageError("cannot measure the shape of a TD: found no firmware for tdx, want it")
    if physical_bits not in _WIDTHS:
        raise UsageError(f"cannot measure: --physical-bits: found {physical_bits}, want {_WIDTHS[0]} to {_WIDTHS[-1]}")
    firmware = machine.firmware["tdx"]
    contents = {"-bios": firmware, "-kernel": machine.boot.kernel, "-initrd": machine.boot.initramfs}
    held: dict[str, int] = {}
    values = []
    try:
        for name, content in contents.items():
            held[name] = os.memfd_create(name)
            with open(held[name], "wb", closefd=False) as file:
                file.write(content)
        files = {name: f"/proc/self/fd/{fd}" for name, fd in held.items()}
        for memory_bytes in tuple(memory_sizes) or (machine_bytes(_WORKLOAD_BYTES),):
            spec = MachineSpec(
                backend="tdx",
                arch="x86_64",
                name="measured",
                accelerator="kvm",
                memory_bytes=memory_bytes,
                cmdline=machine.cmdline,
            )
            command = without_protection((qemu, *command_line(spec)[1:]), files)
            shape = ask_qemu(command, physical_bits=physical_bits, pass_fds=tuple(held.values()))
            values.append(register_values({"tdx.rtmr0": rtmr0_events(shape, firmware)})["tdx.rtmr0"].hex())
    finally:
        for fd in held.values():
            os.close(fd)
    return values
