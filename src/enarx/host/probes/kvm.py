# SPDX-License-Identifier: Apache-2.0
"""Whether KVM works here, asked for real and within a time limit.

That /dev/kvm opens and reports version 12 proves little: some hypervisors offer a device that then hangs, and QEMU with
it. So a virtual machine is created, in a child process that is killed when it takes too long, and the CPU must list the
hardware extension that KVM stands on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["KVM_API_VERSION", "KvmAnswer", "Registers", "ask_kvm"]

KVM_API_VERSION = 12

# A healthy device answers all four steps in a millisecond; the rest is the child's start on a busy machine.
TIMEOUT_S = 3.0
# How long a killed child may take to go before it is left to the kernel (it can be stuck in an uninterruptible call).
KILL_GRACE_S = 0.5

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX and EDX as CPUID left them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmAnswer:
    """How far the questions to /dev/kvm came.

    Args:
        exists: the device is there.
        opened: it could be opened for reading and writing.
        api_version: what KVM_GET_API_VERSION said, None where it was not reached.
        created_vm: KVM_CREATE_VM gave a virtual machine.
        cpuid: what KVM offers its guests, by leaf and subleaf. A bit that is not set says nothing about the CPU.
        stopped: what ended the questions before the last, None where nothing did.
    """

    exists: bool
    opened: bool = False
    api_version: int | None = None
    created_vm: bool = False
    cpuid: Mapping[tuple[int, int], Registers] = field(default_factory=dict)
    stopped: str | None = None


def ask_kvm(
    device: Path, *, has_cpuid: bool, timeout_s: float = TIMEOUT_S, program: Sequence[str] | None = None
) -> KvmAnswer:
    """Ask a KVM device what it can do, in a child process, and come back in time whatever it does.

    Args:
        device: the device, /dev/kvm on a real machine.
        has_cpuid: the machine is x86, so KVM_GET_SUPPORTED_CPUID exists.
        timeout_s: seconds after which the child is killed.
        program: what to run in place of `kvm_child.py`; gets the same two arguments.
    """
    try:
        device.stat()
    except FileNotFoundError:
        return KvmAnswer(exists=False, stopped="not there")
    except OSError as err:
        return KvmAnswer(exists=False, stopped=_reason(err))
    if program is None:
        program = (sys.executable, "-I", "-S", str(Path(__file__).with_name("kvm_child.py")))
    try:
        child = subprocess.Popen(
            [*program, str(device), "1" if has_cpuid else "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C reaches this process only; the child ends with its time limit or ours.
            start_new_session=True,
        )
    except OSError as err:
        return KvmAnswer(exists=True, stopped=f"the child process that asks could not start: {_reason(err)}")
    output, hung = _collect(child, timeout_s)
    return _decode_answer(output, hung_after_s=timeout_s if hung else None)


def _collect(child: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bool]:
    """Read all the child says; kill it at the limit, and do not wait for one that cannot even be killed."""
    try:
        return child.communicate(timeout=timeout_s)[0], False
    except subprocess.TimeoutExpired:
        child.kill()
    except BaseException:
        child.kill()
        raise
    try:
        return child.communicate(timeout=KILL_GRACE_S)[0], True
    except subprocess.TimeoutExpired as stuck:
        if child.stdout is not None:
            child.stdout.close()
        child.poll()
        return stuck.output or b"", True


def _decode_answer(output: bytes, *, hung_after_s: float | None) -> KvmAnswer:
    """Turn the child's lines into an answer; a line cut short by the kill does not count."""
    step = "start"
    api_version: int | None = None
    cpuid: dict[tuple[int, int], Registers] = {}
    ended = False
    stopped: str | None = None
    for line in output.decode("ascii", "replace").split("\n")[:-1]:
        word, _, rest = line.partition(" ")
        if word == "begin":
            step = rest
        elif word == "api":
            api_version = int(rest)
        elif word == "cpuid":
            leaf, subleaf, eax, ebx, ecx, edx = map(int, rest.split())
            cpuid[leaf, subleaf] = (eax, ebx, ecx, edx)
        elif word == "error":
            stopped = f"{step}: {os.strerror(int(rest)).lower()}"
        elif word == "end":
            ended = True
    if hung_after_s is not None:
        stopped = f"{step} gave no answer within {hung_after_s:g} s, so the child process that asked was killed"
    elif not ended and stopped is None:
        stopped = f"the child process that asks died at {step}"
    return KvmAnswer(
        exists=True,
        opened=step not in {"start", "open"},
        api_version=api_version,
        created_vm=ended,
        cpuid=cpuid,
        stopped=stopped,
    )


def _reason(err: OSError) -> str:
    return (err.strerror or str(err)).lower()
