# SPDX-License-Identifier: Apache-2.0
"""What the Keep's processes give up before they know anything: core dumps, being read by their user, files for others, new privileges.

The Keep process and the workload process each do it for themselves: being undumpable does not pass on.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Sequence

from enarx.errors import PlatformError

__all__ = ["become", "die_with", "give_up", "harden", "keep_capabilities"]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522


def harden(link_fd: int) -> None:
    """Give up what a Keep process does not need.

    Args:
        link_fd: is not for the processes that it starts.

    Raises:
        PlatformError: the kernel does not do it.
    """
    give_up()
    try:
        os.set_inheritable(link_fd, False)
    except OSError as error:
        raise PlatformError(f"cannot start the Keep: --link-fd: {link_fd}: {error.strerror}") from error


def give_up() -> None:
    """Give up what neither process needs.

    Raises:
        PlatformError: the kernel does not do it.
    """
    # An undumpable process writes no core, and its memory and descriptors are closed to others of the same user.
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.environ.clear()
    os.chdir("/")


def keep_capabilities(kept: Sequence[int]) -> None:
    """Give up every capability but some, for this process and all that it starts.

    Args:
        kept: their numbers.

    Raises:
        PlatformError: the kernel does not do it.
    """
    _limit_capabilities(kept)
    kept_bits = sum(1 << number for number in kept)
    # Effective, permitted and inheritable, of the lower 32 and then of the higher.
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = b"".join(struct.pack("=III", part, part, 0) for part in (kept_bits & 0xFFFFFFFF, kept_bits >> 32))
    library = ctypes.CDLL(None, use_errno=True)
    if library.capset(header, data):
        raise PlatformError(f"cannot start the process: capabilities: {os.strerror(ctypes.get_errno())}")


def become(user: int) -> None:
    """Become a user without rights, and the first to go where there is too little memory.

    Args:
        user: number of whom, and of the group.

    Raises:
        PlatformError: the kernel does not do it.
    """
    try:
        _be_first_to_go()
        _limit_capabilities(())
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        raise PlatformError(f"cannot start the process: user {user}: {error.strerror}") from error


def die_with(parent: int) -> None:
    """Be killed when the parent ends, or end at once where it has.

    Args:
        parent: its number; whoever is the parent now may have taken over from it.

    Raises:
        PlatformError: the kernel does not do it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the kernel was asked to tell.
        os._exit(0)


def _be_first_to_go() -> None:
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"1000")


def _limit_capabilities(kept: Sequence[int]) -> None:
    """Let no program that is started ever have other capabilities than some."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for number in range(last + 1):
        if number not in kept:
            _prctl(_PR_CAPBSET_DROP, number)


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise PlatformError(f"cannot start the process: prctl {option}: {os.strerror(ctypes.get_errno())}")
