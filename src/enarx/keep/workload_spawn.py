# SPDX-License-Identifier: Apache-2.0
"""How a workload process comes into being: a program that is started, or a fork of what is there before anything is secret.

Either way it is the leader of its own session, and has standard streams and a control socket and no other descriptor of ours.
Nothing of an event loop is here, because the fork is made before there is one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from enarx.keep.workload_start import CONTROL_FD

__all__ = ["Spawned", "fork", "make_pipe", "make_stdin", "spawn"]

_PIPE_BYTES = 1 << 18
_STDIN_BYTES = 1 << 20
# Python ignores SIGPIPE and the Keep what a terminal sends; a child would inherit that.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Spawned(NamedTuple):
    """A workload process without a workload, and this process's ends of what it was given.

    Args:
        pid: its number; nobody has waited for it.
        control: see `workload_start`.
        stdin: for writing.
        stdout: for reading.
        stderr: for reading.
    """

    pid: int
    control: socket.socket
    stdin: int
    stdout: int
    stderr: int


def make_pipe() -> tuple[int, int]:
    """Return the ends of a pipe, for reading and for writing, with more room than usual where that is allowed."""
    ends = os.pipe2(os.O_CLOEXEC)
    # What a user may have in pipes altogether is limited.
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return ends


def make_stdin() -> tuple[int, int]:
    """Return the ends of a standard input, for reading and for writing.

    They are sockets. A pipe that was full tells its writer of every page that was read, a socket when most of it was: that is a
    tenth of the wakes.
    """
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STDIN_BYTES)
    # Nothing comes back, as in a pipe.
    ours.shutdown(socket.SHUT_RD)
    return theirs.detach(), ours.detach()


def spawn(command: Sequence[str]) -> Spawned:
    """Start a program that is a workload process.

    It has to unblock SIGINT when it is ready for one: a Python that starts ends of it as of an error, with status 1.
    """

    def start(given: Sequence[int]) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given)]
        return os.posix_spawn(
            command[0],
            list(command),
            {},
            file_actions=actions,
            setsid=True,
            setsigdef=_DEFAULT_SIGNALS,
            setsigmask=(signal.SIGINT,),
        )

    return _make(start)


def fork(be: Callable[[], NoReturn]) -> Spawned:
    """Fork this process, which must have no thread and no secret.

    Args:
        be: is called in the child; it closes the descriptors that it was not given.
    """

    def start(given: Sequence[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            for number, fd in enumerate(given):
                os.dup2(fd, number)
            os.setsid()
            be()
        finally:
            # Whatever it was: nobody above may take it for its own.
            os._exit(1)

    return _make(start)


def _make(start: Callable[[Sequence[int]], int]) -> Spawned:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stdin, stdout, stderr = make_stdin(), make_pipe(), make_pipe()
    given = (stdin[0], stdout[1], stderr[1], theirs.fileno())
    # Copied out of the way first, so that none of the numbers that it shall have is one that it comes from.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CONTROL_FD + 1) for fd in given]
    try:
        pid = start(moved)
    except BaseException:
        for fd in (ours.detach(), stdin[1], stdout[0], stderr[0]):
            os.close(fd)
        raise
    finally:
        for fd in (*moved, *given[:3]):
            os.close(fd)
        theirs.close()
    return Spawned(pid, ours, stdin[1], stdout[0], stderr[0])
