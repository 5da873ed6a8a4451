# SPDX-License-Identifier: Apache-2.0
"""The workload process: it runs one workload for a Keep, says how that ended, and ends.

It is given stdio, the control socket (`workload_start` has what is said there) and nothing else: no key but that of the certificate
that its TLS sockets show, no environment, no descriptor of the session or the TEE, few system calls (`seccomp`). It dies with the Keep. It prepares what does not depend on the workload before it asks
what that is, so that a Keep can start it early. Whatever is compiled, the workload's or ours, stays in memory: no file is
written, because what is compiled is what the tenant sent.

What ends here reads as it does from `enarx run`: the same errors, from the same places.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from enarx.errors import DecodeError, EnarxError
from enarx.keep.hardening import become, die_with, give_up
from enarx.keep.seccomp import restrict_calls
from enarx.keep.workload_broker import ControlBroker
from enarx.keep.workload_start import CONTROL_FD, Ended, Started, encode_word, peer_pid, receive_start, send_packet
from enarx.runtime import overlay_paths, run_workload
from enarx.runtime.cache import MODULE, Artefact, Cache
from enarx.runtime.from_toml import make_workload
from enarx.runtime.preview1 import calls, configured
from enarx.runtime.watch import watch
from enarx.wire.records import ListenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from enarx.runtime.identity import Identity

__all__ = ["main"]

# What a workload would load at its first call for it: nothing is read from files then.
_AHEAD = (calls, configured)

_MAIN = "main.wasm"
_MAX_FDS = 1 << 20


class _MemoryCache(Cache):
    """Keeps what it compiled in memory, and nothing beyond this process."""

    def __init__(self) -> None:
        super().__init__(None, _ignore)
        self._found: dict[tuple[str, bool], Artefact] = {}

    def find(self, path: str, *, fuel: bool = False, remember: bool = True) -> Artefact:
        """Return the compiled form of a source file, compiling it once."""
        key = (path, fuel)
        ahead = f"{path.removesuffix('.wat')}{'-fuel' * fuel}.cwasm"
        if key not in self._found and path in overlay_paths() and os.path.isfile(ahead):
            # In an image, where it is measured as the source beside it is.
            self._found[key] = Artefact(ahead, MODULE, temporary=True)
        if key not in self._found:
            self._found[key] = super().find(path, fuel=fuel, remember=remember)
        return self._found[key]


def main(user: int | None = None) -> NoReturn:
    """Be the workload process.

    Args:
        user: number of whom to become.
    """
    # Until somebody watches, a signal ends it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Its maker blocked it, lest one come before this line.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    control = socket.socket(fileno=CONTROL_FD)
    try:
        # Its maker is the Keep.
        ended = _serve(control, peer_pid(control), user)
    except BaseException as error:  # noqa: BLE001  # the Keep is told of it, whatever it is
        ended = Ended.of(error)
    _say(control, ended)
    # Taking the interpreter apart takes time that nobody has a use for.
    os._exit(ended.status)


def _serve(control: socket.socket, keep: int, user: int | None) -> Ended:
    _harden(keep, user)
    gc.disable()
    cache = _MemoryCache()
    for path in overlay_paths():
        cache.find(path)
    try:
        started = receive_start(control)
    except DecodeError:
        if not _is_open(control):
            # The Keep had no workload.
            os._exit(0)
        raise
    path = f"/proc/self/fd/{started.module_fd}"
    try:
        return _run(started, path, control, cache)
    except EnarxError as error:
        # The tenant knows it by its name in the package.
        return Ended.of(type(error)(str(error).replace(path, _MAIN), hint=error.hint))


def _run(started: Started, path: str, control: socket.socket, cache: Cache) -> Ended:
    start = started.start
    names = [file.name for file in start.toml.files if isinstance(file, ListenFile)]
    socks = [socket.socket(fileno=fd) for fd in started.listeners]
    identity: Identity | None = None
    if started.credential_fd is not None:
        # Not for workloads without: its imports take time.
        from enarx.runtime.credential_slot import SlotIdentity

        identity = SlotIdentity(started.credential_fd)
        os.close(started.credential_fd)
    workload = make_workload(
        path,
        start.toml,
        announce_files=start.announce_files,
        tls_contents=start.tls_files,
        broker=ControlBroker(control, dict(zip(names, socks, strict=True))),
        wall_clock_offset_ns=start.wall_clock_offset_ns,
        identity=identity,
        steward_root=start.steward_root,
    )

    def begin() -> None:
        watch(workload.limits.timeout_s, lambda error: _say(control, Ended.of(error)))
        gc.freeze()
        gc.enable()

    outcome = run_workload(workload, cache, begin)
    return Ended(
        # A core module may end with any 32 bits.
        min(outcome.status, 255),
        trap=outcome.trap,
        # As `enarx run` has it, a limit that stood in the way of nothing is not worth a line.
        hint=outcome.hint if outcome.status else None,
    )


def _say(control: socket.socket, ended: Ended) -> None:
    try:
        send_packet(control, encode_word(ended))
    except OSError:
        # The Keep has gone, which is the end of this process too.
        os._exit(ended.status)


def _is_open(control: socket.socket) -> bool:
    """Return whether the Keep still has its end."""
    try:
        return bool(control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _harden(keep: int, user: int | None) -> None:
    """Give up what no workload needs.

    Args:
        keep: number of the process that started this one, and that it dies with.
        user: number of whom to become.

    Raises:
        PlatformError: the kernel does not do it.
    """
    if user is not None:
        become(user)
    die_with(keep)
    give_up()
    restrict_calls()
    os.closerange(CONTROL_FD + 1, _MAX_FDS)


def _ignore(_line: str) -> None:
    """Say nothing: stderr is the workload's."""


if __name__ == "__main__":
    sys.exit("this is not a command: a Keep starts it")
