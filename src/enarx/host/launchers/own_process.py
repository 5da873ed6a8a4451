# SPDX-License-Identifier: Apache-2.0
"""What launchers share: to each of them a Keep is one process of this host's.

It is the Keep itself, or what stands beside a machine or an enclave and ends with it. It has a word with the Keep's id among its arguments, by which it is found where its pid was never recorded, and may
leave a file that says why it ended. It goes on when the host ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket

from enarx.errors import EnarxError, KeepError, PlatformError
from enarx.host.launchers import Launched
from enarx.host.process_facts import find_marked, open_process, start_ticks
from enarx.host.state import connect_link

__all__ = ["ENDING", "ENDING_BYTES", "MARK", "OwnProcess", "make_ending", "mark_of", "move_up", "read_ending", "watch"]

MARK = "-Xenarx-keep="
"""Begins the word of a Keep's command that has its id."""

ENDING = "ending"
"""The file in a Keep's folder in which its process says why it ended."""

ENDING_BYTES = 4096

_MIN_FD = 64
_MAX_MESSAGE = 2000
_MAX_HINT = 500


class OwnProcess:
    """How a Keep is taken over, reached and ended; see `Launcher` for each."""

    def adopt(self, identifier: str, pid: int, ticks: int) -> Launched | None:
        """Take over a process that another host process started; None where it has ended."""
        pidfd = open_process(pid, ticks)
        return None if pidfd is None else Launched(pid=pid, start_ticks=ticks, pidfd=pidfd)

    def connect(self, folder: str) -> socket.socket:
        """Connect to the link socket in the Keep's folder."""
        return connect_link(folder)

    def stop(self, launched: Launched, *, at_once: bool) -> None:
        """Have the process end, or kill it; what stands behind it dies with it."""
        _end(launched.pidfd, at_once=at_once)

    def stop_strays(self, identifier: str) -> None:
        """Kill what was started for a Keep whose pid was never recorded."""
        for pid in find_marked(mark_of(identifier).encode()):
            ticks = start_ticks(pid)
            pidfd = None if ticks is None else open_process(pid, ticks)
            if pidfd is not None:
                try:
                    _end(pidfd, at_once=True)
                finally:
                    os.close(pidfd)


def mark_of(identifier: str) -> str:
    """Return the word by which the process of a Keep is found."""
    return f"{MARK}{identifier}"


def watch(pid: int, *, tpm_key_sha256: str | None = None) -> Launched:
    """Return a child of ours that was just started, or kill it where it cannot be watched.

    Args:
        pid: of a child that nobody has waited for: the number is not used again before somebody does.
        tpm_key_sha256: as `Launched` has it.

    Raises:
        OSError: there are too many descriptors.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return Launched(pid=pid, start_ticks=start_ticks(pid) or 0, pidfd=pidfd, tpm_key_sha256=tpm_key_sha256)


def move_up(fd: int) -> int:
    """Move a descriptor above the numbers that a child gets, so that none is overwritten before it is used.

    Raises:
        OSError: there are too many; the given one is closed all the same.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _MIN_FD)
    finally:
        os.close(fd)


def make_ending(folder: str) -> int:
    """Make the file for `read_ending`, with room for the reason while there is any; return a descriptor of it for writing.

    Raises:
        OSError: it cannot be made, or the disk is full.
    """
    fd = os.open(os.path.join(folder, ENDING), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.pwrite(fd, b" " * ENDING_BYTES, 0) != ENDING_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.close(fd)
        raise
    return fd


def read_ending(folder: str) -> EnarxError | None:
    """Return what a process said in its folder of why it ended; None where that was no error, or it could not say so."""
    try:
        with open(os.path.join(folder, ENDING), "rb") as file:
            said = json.loads(file.read(ENDING_BYTES))
        kind, message, hint = said["kind"], said["message"], said.get("hint")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    found = {"KeepError": KeepError, "PlatformError": PlatformError}.get(kind)
    return None if found is None else found(str(message)[:_MAX_MESSAGE], hint=str(hint or "")[:_MAX_HINT] or None)


def _end(pidfd: int, *, at_once: bool) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL if at_once else signal.SIGTERM)
    except ProcessLookupError:
        return  # it has ended
