# SPDX-License-Identifier: Apache-2.0
"""Ask a KVM device what it can do, in a process that may be killed.

A program of its own, run by `kvm.py` with `-I -S`: standard library only, nothing of enarx. A KVM device can open and then
never answer, so each step is announced before it is taken: the last line tells where it hung.

Output: lines `begin STEP`, `api N`, `cpuid LEAF SUBLEAF EAX EBX ECX EDX` (decimal), `error ERRNO`, `end`.

Spec: Linux include/uapi/linux/kvm.h; struct kvm_cpuid2 and kvm_cpuid_entry2 of arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_SUPPORTED_CPUID = 0xC008AE05

MAX_CPUID_ENTRIES = 256
ENTRY_BYTES = 40

# If whoever waits for this process dies first, it must not stay behind.
LIFETIME_S = 30


def say(line: str) -> None:
    """Write one line at once: the process may not live to the next."""
    os.write(1, line.encode() + b"\n")


def ask(path: str, *, has_cpuid: bool) -> None:
    """Take the steps in order of how much they ask of the device."""
    say("begin open")
    device = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    say("begin KVM_GET_API_VERSION")
    say(f"api {fcntl.ioctl(device, KVM_GET_API_VERSION, 0)}")
    if has_cpuid:
        say("begin KVM_GET_SUPPORTED_CPUID")
        table = bytearray(8 + MAX_CPUID_ENTRIES * ENTRY_BYTES)
        struct.pack_into("=I", table, 0, MAX_CPUID_ENTRIES)
        fcntl.ioctl(device, KVM_GET_SUPPORTED_CPUID, table)
        (count,) = struct.unpack_from("=I", table, 0)
        for index in range(min(count, MAX_CPUID_ENTRIES)):
            leaf, subleaf, _flags, *registers = struct.unpack_from("=7I", table, 8 + index * ENTRY_BYTES)
            say(f"cpuid {leaf} {subleaf} {' '.join(map(str, registers))}")
    say("begin KVM_CREATE_VM")
    fcntl.ioctl(device, KVM_CREATE_VM, 0)
    say("end")


def main() -> None:
    """Ask the device named by the first argument; the second is 1 where the machine has CPUID."""
    signal.alarm(LIFETIME_S)
    try:
        ask(sys.argv[1], has_cpuid=sys.argv[2] == "1")
    except OSError as err:
        say(f"error {err.errno}")


if __name__ == "__main__":
    main()
