# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a process: when it started, what it uses, which one it is. Reads /proc; believes only what it says.

A pid alone names nobody: pids are used again. A pid, the tick on which that process started and the boot of the machine
name one process, and a pidfd holds on to it.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass

__all__ = ["Usage", "boot_id", "children_of", "find_marked", "has_ended", "open_process", "start_ticks", "usage_of"]

_MAX_STAT = 8192
_MAX_CMDLINE = 65_536
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATE, _UTIME, _STIME, _START, _RSS = 0, 11, 12, 19, 21  # after the command's name; proc_pid_stat(5) counts from 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a Keep's processes use.

    Args:
        memory_bytes: resident, of all of them; pages that they share count for each.
        cpu_s: user and system time of those that run.
    """

    memory_bytes: int
    cpu_s: float


def boot_id() -> str:
    """Return the name that the kernel gave to this start of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read(64).strip()


def _stat(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read(_MAX_STAT)
    except OSError:
        return None
    # The name stands in parentheses and may hold anything, these included.
    fields = data.rpartition(b")")[2].split()
    return fields if len(fields) > _RSS else None


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did; None where it has ended."""
    fields = _stat(pid)
    return None if fields is None or fields[_STATE] in {b"Z", b"X"} else int(fields[_START])


def open_process(pid: int, ticks: int) -> int | None:
    """Return a pidfd of the process that started on that tick; None where it is not there any more.

    Raises:
        OSError: the kernel has no pidfds, or no more descriptors.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # In this order: the process that is looked at now is the one that the descriptor holds, or neither is there.
    if start_ticks(pid) != ticks or has_ended(pidfd):
        os.close(pidfd)
        return None
    return pidfd


def has_ended(pidfd: int) -> bool:
    """Say whether the process of a pidfd has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def children_of(pid: int) -> list[int]:
    """Return the children of a process that has one thread; none where it has ended."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read(_MAX_STAT).split()]
    except OSError:
        return []


def usage_of(pid: int) -> Usage | None:
    """Add up what a process and its children use; None where it has ended."""
    fields = _stat(pid)
    if fields is None:
        return None
    memory = cpu = 0
    for one in (fields, *(_stat(child) for child in children_of(pid))):
        if one is not None:
            memory += int(one[_RSS]) * _PAGE
            cpu += int(one[_UTIME]) + int(one[_STIME])
    return Usage(memory_bytes=memory, cpu_s=cpu / _TICKS)


def find_marked(word: bytes) -> list[int]:
    """Find our own processes that have a word among their arguments."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(_MAX_CMDLINE).split(b"\0")
            if word in words and os.stat(f"/proc/{name}").st_uid in {os.geteuid(), 0}:
                found.append(int(name))
        except OSError:
            continue  # it ended while we looked
    return found
