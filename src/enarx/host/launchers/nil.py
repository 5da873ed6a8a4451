# SPDX-License-Identifier: Apache-2.0
"""Start Keeps that are processes of this machine: no TEE, and the emulated platform for evidence.

The process gets its listening link socket as descriptor 3, /dev/null as stdin and a file for the little it says, and
nothing else that is ours. It has a session of its own, so that no terminal's Ctrl-C reaches it, and it outlives the host
unless it is told not to (`dies_with_host`: the private host of one deployment).

Limits are set from outside, a moment after the start, when the Keep holds nobody's code yet:

- no core dumps, and a limit on descriptors;
- RLIMIT_FSIZE: no file of a workload is larger than its Keep's memory and package together. Its folders are in memory, and how
  many files are there is not counted;
- RLIMIT_DATA, for each of the Keep's processes: what they can write to, which is what WebAssembly memory takes as it grows.
  RLIMIT_AS would count the address space that the engine reserves without using it. The margin above the Keep's memory is for
  the interpreter, the compiler and the package; it is a last line, and the Keep's own limit is the one that is told of;
- CPUs: each Keep is bound to so many of them, the ones that fewest others are bound to.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import NoReturn

import enarx
from enarx.errors import EnarxError, PlatformError
from enarx.host.launchers import KeepSpec, Launched
from enarx.host.launchers.own_process import OwnProcess, mark_of, watch
from enarx.host.platform import EmulatedPlatform
from enarx.host.process_facts import start_ticks
from enarx.host.state import listen_link

__all__ = ["DIE_WITH_PARENT", "KEEP_PROGRAM", "NilLauncher"]

KEEP_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(enarx.__file__)), "keep", "__main__.py")
MAX_OPEN_FILES = 8192
MARGIN_BYTES = 1 << 30
START_TIMEOUT_S = 20.0
"""From the start of a Keep process to its first word."""

_LINK_FD = 3

# The parent is compared afterwards, because it may have ended before.
DIE_WITH_PARENT = """\
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != {parent}: os._exit(1)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class NilLauncher(OwnProcess):
    """Starts Keep processes.

    Args:
        cpus: how many CPUs each Keep may use, or None for all.
        dies_with_host: whether a Keep ends when the host does, however it does.
        program: the Python file that is the Keep.
    """

    backend = "nil"
    start_timeout_s = START_TIMEOUT_S

    def __init__(self, *, cpus: int | None = None, dies_with_host: bool = False, program: str = KEEP_PROGRAM) -> None:
        self._cpus = cpus
        self._dies_with_host = dies_with_host
        self._program = program
        self._platform = EmulatedPlatform()
        self._bound: dict[int, frozenset[int]] = {}

    def reserved_bytes(self, memory_bytes: int, package_bytes: int) -> int:
        """Return both together: a package is in memory beside what its workload uses."""
        return memory_bytes + package_bytes

    def start(self, spec: KeepSpec, folder: str) -> Launched:
        """Start a Keep process; see `Launcher.start`."""
        # Here and not at the first report: a tenant who accepts this machine's own platform asks for its root before that.
        self._platform.open()
        # The first word without a dash is the program: by it the emulated platform knows what it measures. Python keeps an
        # -X that it does not know, and the mark is found by `stop_strays` and by whoever reads a list of processes.
        command = [sys.executable, "-I", "-S", mark_of(spec.id)]
        command += ["-c" + DIE_WITH_PARENT.format(parent=os.getpid())] if self._dies_with_host else []
        command += [self._program, "--backend", self.backend, "--memory", str(spec.memory_bytes)]
        command += ["--package-limit", str(spec.package_bytes), "--log", str(spec.log_bytes)]
        command += ["--link-fd", str(_LINK_FD)]
        try:
            link = listen_link(folder)
            try:
                console = os.open(
                    os.path.join(folder, "console"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
                )
                try:
                    pid = os.posix_spawn(
                        sys.executable,
                        command,
                        _environment(),
                        file_actions=[
                            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                            (os.POSIX_SPAWN_DUP2, console, 1),
                            (os.POSIX_SPAWN_DUP2, console, 2),
                            (os.POSIX_SPAWN_DUP2, link.fileno(), _LINK_FD),
                        ],
                        setsid=True,
                        setsigmask=(),
                        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
                    )
                finally:
                    os.close(console)
            finally:
                link.close()
            launched = watch(pid)
        except OSError as error:
            raise PlatformError(f"cannot start a Keep process: {error.strerror}") from error
        self._limit(spec, pid)
        return launched

    def _limit(self, spec: KeepSpec, pid: int) -> None:
        data_bytes = spec.memory_bytes + MARGIN_BYTES
        limits = (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
            (resource.RLIMIT_DATA, data_bytes),
            (resource.RLIMIT_FSIZE, spec.memory_bytes + spec.package_bytes),
        )
        try:
            for which, wanted in limits:
                hard = resource.getrlimit(which)[1]
                limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
                resource.prlimit(pid, which, (limit, limit))
            if self._cpus is not None:
                os.sched_setaffinity(pid, self._choose_cpus(pid, self._cpus))
        except ProcessLookupError:
            return  # it has ended already, which its pidfd tells

    def _choose_cpus(self, pid: int, count: int) -> frozenset[int]:
        self._bound = {other: cpus for other, cpus in self._bound.items() if start_ticks(other) is not None}
        load = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)
        for cpus in self._bound.values():
            for cpu in cpus & load.keys():
                load[cpu] += 1
        chosen = frozenset(sorted(load, key=lambda cpu: load[cpu])[:count])
        self._bound[pid] = chosen
        return chosen

    def explain(self, folder: str) -> EnarxError | None:
        """Return None: a process says why it ended by its status."""
        return None

    def parts(self, folder: str) -> NoReturn:
        """Refuse: a process has no such parts."""
        raise PlatformError("cannot say what the Keep was started with: found a process, want a machine")

    def report(self, launched: Launched, request: bytes) -> bytes:
        """Have the emulated platform sign for a Keep process."""
        return self._platform.report(request, pid=launched.pid, start_ticks=launched.start_ticks)


def _environment() -> dict[str, str]:
    # What a Python without `site` and user settings needs, and nothing that an operator has in a shell.
    return {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
