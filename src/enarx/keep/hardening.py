# SPDX-License-Identifier: Apache-2.0
"""What a Keep process gives up before it knows anything: core dumps, being read by its user, files for others, new privileges."""

from __future__ import annotations

import ctypes
import os
import resource

from enarx.errors import PlatformError

__all__ = ["harden"]

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def harden(link_fd: int) -> None:
    """Give up what is not needed, in this process and, but for being undumpable, in those it starts.

    Args:
        link_fd: is not for them.

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
    try:
        os.set_inheritable(link_fd, False)
    except OSError as error:
        raise PlatformError(f"cannot start the Keep: --link-fd: {link_fd}: {error.strerror}") from error


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise PlatformError(f"cannot start the Keep: prctl {option}: {os.strerror(ctypes.get_errno())}")
