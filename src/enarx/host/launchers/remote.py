# SPDX-License-Identifier: Apache-2.0
"""Keeps on machines that run already, elsewhere: in a cloud, started by its own means from an image for clouds.

There is nothing to start here but a process that connects to the machine and carries the link (`remote_relay.py`), so that killing,
adopting and forgetting are what they are for every Keep. Each machine has one Keep for one life; which machine a tenant's Keep is on
decides this host, and the tenant finds out what it is by its evidence alone.

A machine cannot be ended from here: its Keep ends it, when the tenant stops the workload or nobody comes, or its owner does by
the cloud's means. So a Keep that this host lets go of may run on, unreachable.

    <folder>/link      the socket of the link
    <folder>/ending    why the machine could not be reached any more
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from enarx.errors import EnarxError, PlatformError, UsageError
from enarx.host.launchers import KeepSpec, Launched
from enarx.host.launchers.own_process import OwnProcess, make_ending, mark_of, read_ending, watch
from enarx.host.launchers.remote_relay import ENDING_FD, LINK_FD
from enarx.host.state import listen_link

__all__ = ["BACKENDS", "RELAY_PROGRAM", "RemoteLauncher", "RemoteMachine", "parse_machine"]

BACKENDS = ("snp", "tdx", "cca", "vm")
"""What a machine elsewhere can be."""

RELAY_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "remote_relay.py")

START_S = 180.0
"""For a machine that is booting still to be reached."""

AGAIN_S = 10.0
"""For one to be reached again after the connection to it ended."""

_ANSWER_S = 10.0
_MIN_FD = 64
_MAX_COMMAND_BYTES = 4096
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]")


class RemoteMachine(NamedTuple):
    """A machine elsewhere.

    Args:
        backend: of `BACKENDS`.
        address: IP address or name.
        port: for TCP.
    """

    backend: str
    address: str
    port: int


def parse_machine(text: str) -> RemoteMachine:
    """Parse `BACKEND=ADDRESS:PORT`.

    Raises:
        UsageError: it is not that.
    """
    backend, _, place = text.partition("=")
    address, _, port = place.rpartition(":")
    if (
        backend not in BACKENDS
        or not _ADDRESS.fullmatch(address)
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536)
    ):
        raise UsageError(
            f"--machine: found {text[:80]!r}, want BACKEND=ADDRESS:PORT, such as tdx=192.0.2.7:8471, with a backend of"
            f" {', '.join(BACKENDS)}"
        )
    return RemoteMachine(backend, address.strip("[]"), int(port))


class RemoteLauncher(OwnProcess):
    """Gives Keeps of one backend, on machines that run.

    Args:
        backend: of `BACKENDS`.
        machines: of that backend, in the order in which they are taken.
        dies_with_host: whether a Keep is let go of when the host ends, however it does.
        start_s: likewise `START_S`.
        again_s: likewise `AGAIN_S`.
    """

    def __init__(
        self,
        backend: str,
        machines: Sequence[RemoteMachine],
        *,
        dies_with_host: bool = False,
        start_s: float = START_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self.backend = backend
        self._machines = tuple(machines)
        self._dies_with_host = dies_with_host
        self._start_s, self._again_s = start_s, again_s
        self._taken: dict[str, RemoteMachine] = {}

    @property
    def start_timeout_s(self) -> float:
        """Return how long a Keep may take from its start to its first word."""
        return self._start_s + _ANSWER_S

    def reserved_bytes(self, memory_bytes: int, package_bytes: int) -> int:
        """Return 0: it takes nothing of this machine."""
        return 0

    def start(self, spec: KeepSpec, folder: str) -> Launched:
        """Take a machine that no Keep is on; see `Launcher.start`."""
        taken = set(self._taken.values())
        machine = next((machine for machine in self._machines if machine not in taken), None)
        if machine is None:
            raise PlatformError(
                f"cannot have a Keep on a machine elsewhere: found a Keep on each of {len(self._machines)}, want one without",
                hint="start another machine, and name it with --machine",
            )
        parent = str(os.getpid()) if self._dies_with_host else "-"
        command = [sys.executable, "-I", "-S", mark_of(spec.id), RELAY_PROGRAM, parent]
        command += [machine.address, str(machine.port), f"{self._start_s:g}", f"{self._again_s:g}"]
        try:
            with listen_link(folder) as link:
                ending = make_ending(folder)
                try:
                    pid = self._spawn(command, {LINK_FD: link.fileno(), ENDING_FD: ending})
                finally:
                    os.close(ending)
            launched = watch(pid)
        except OSError as error:
            raise PlatformError(f"cannot connect to a machine: {error.strerror}") from error
        self._taken[spec.id] = machine
        return launched

    def _spawn(self, command: list[str], files: dict[int, int]) -> int:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)
        ]
        # First above all those numbers, so that none is overwritten before it is used.
        actions += [(os.POSIX_SPAWN_DUP2, fd, _MIN_FD + number) for number, fd in files.items()]
        actions += [(os.POSIX_SPAWN_DUP2, _MIN_FD + number, number) for number in files]
        actions += [(os.POSIX_SPAWN_CLOSE, _MIN_FD + number) for number in files]
        return os.posix_spawn(
            sys.executable,
            command,
            {},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )

    def adopt(self, identifier: str, pid: int, ticks: int) -> Launched | None:
        """Take over a connection; see `Launcher.adopt`."""
        launched = super().adopt(identifier, pid, ticks)
        machine = None if launched is None else _machine_of(pid, self.backend)
        if machine is not None:
            self._taken[identifier] = machine
        return launched

    def explain(self, folder: str) -> EnarxError | None:
        """Say why a machine could not be reached any more; see `Launcher.explain`."""
        self._taken.pop(os.path.basename(folder), None)
        return read_ending(folder)

    def parts(self, folder: str) -> NoReturn:
        """Refuse: nobody here started it."""
        raise PlatformError(
            "cannot say what the Keep was started with: found a machine elsewhere, want one of this host"
        )

    def report(self, launched: Launched, request: bytes) -> NoReturn:
        """Refuse: it has a platform of its own."""
        raise PlatformError("cannot answer for the platform: found a machine elsewhere, want one of this host")


def _machine_of(pid: int, backend: str) -> RemoteMachine | None:
    """Return which machine a process of ours is connected to."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_MAX_COMMAND_BYTES).decode("utf-8", "replace").split("\0")
        at = words.index(RELAY_PROGRAM)
        return RemoteMachine(backend, words[at + 2], int(words[at + 3]))
    except (OSError, ValueError, IndexError):
        return None
