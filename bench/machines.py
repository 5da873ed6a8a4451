# SPDX-License-Identifier: Apache-2.0
"""Machines for the cases of images: the Keep's own, found while it runs, and a bare one beside it.

The bare machine is the same command of QEMU, word for word as the kernel shows it of the running one, with the same files on the
same descriptors. Only its initramfs is longer: behind the image's, which the kernel unpacks first, stands an archive with another
`/init` and the module. So firmware, devices, kernel, command line, interpreter and engine are the same, and what differs is what
this project adds.

Knows what machines are given; knows neither sessions nor what is measured of them.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import installs
from timing import BenchError, descendants

from enarx.host.launchers.guard import TPM_FOLDER_FD
from enarx.host.launchers.qemu import (
    CONSOLE_FD,
    FIRMWARE_FD,
    INITRAMFS_FD,
    KERNEL_FD,
    LINK_FD,
    PLATFORM_FD,
    QMP_FD,
    TPM_FD,
)
from enarx.host.launchers.swtpm import copy_state, open_seed, swtpm_command
from enarx.image.newc import Entry, file, write_newc
from enarx.image.store import Image

__all__ = ["BareMachine", "Started", "bare_machine", "elapsed_s", "find_machine", "overlay"]

BOOT_LIMIT_S = 120.0
END_LIMIT_S = 10.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_HIGH_FD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A QEMU of ours that runs.

    Args:
        pid: of it.
        argv: its command.
        at_s: when it was started, on the clock of `elapsed_s`, to a hundredth of a second.
    """

    pid: int
    argv: tuple[str, ...]
    at_s: float


def elapsed_s(started: Started) -> float:
    """Return how long ago a machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started.at_s


def find_machine() -> Started | None:
    """Return the QEMU among this process's descendants, or None where there is none yet."""
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            if words and b"qemu-system-" in words[0] and b"-initrd" in words:
                return Started(pid=pid, argv=tuple(map(os.fsdecode, words)), at_s=_start_of(pid))
    return None


def _start_of(pid: int) -> float:
    # Field 22 of proc(5), counted from the one after the name, which is the third.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]) / _TICKS_PER_S


def overlay(init: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return an archive that takes the place of an image's first program, and adds files."""
    entries: list[Entry] = [file("init", init, executable=True)]
    return write_newc([*entries, *(file(path, data) for path, data in files.items())])


class BareMachine:
    """A bare machine that runs.

    Args:
        started: its QEMU.
        console: what its kernel and its program say.
        link: path of the socket of the port that a Keep has its link on.
    """

    def __init__(self, started: Started, console: socket.socket, link: str) -> None:
        self.started = started
        self.link = link
        self._console = console
        self._said = b""

    def wait_for(self, words: bytes) -> float:
        """Wait until the console has said something, and return how long after the start that was, in seconds.

        Raises:
            BenchError: it did not.
        """
        while words not in self._said:
            ready, _, _ = select.select([self._console], [], [], max(0.0, BOOT_LIMIT_S - elapsed_s(self.started)))
            data = self._console.recv(1 << 16) if ready else b""
            if not data:
                raise BenchError(f"a bare machine: said {self._said[-500:]!r}, want {words!r}")
            self._said += data
        return elapsed_s(self.started)


@contextmanager
def bare_machine(image: Image, argv: Sequence[str], extra: bytes) -> Iterator[BareMachine]:
    """Run a machine by the command of a Keep's.

    Args:
        image: whose files it gets.
        argv: the command of a Keep's QEMU.
        extra: an archive behind the image's initramfs.
    """
    has_tpm = f"socket,id=tpm,fd={TPM_FD}" in argv
    with tempfile.TemporaryDirectory(prefix="enarx-bench-") as folder:
        ours: list[socket.socket] = []
        files: dict[int, int] = {}
        children: list[int] = []
        try:
            files[KERNEL_FD] = os.open(image.kernel, os.O_RDONLY)
            files[FIRMWARE_FD] = os.open(image.firmware["vm"], os.O_RDONLY)
            files[INITRAMFS_FD] = _join(Path(image.initramfs).read_bytes(), extra)
            for number, name in ((LINK_FD, "link"), (PLATFORM_FD, "platform")):
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(f"{folder}/{name}")
                    listener.listen()
                    files[number] = listener.detach()
            for number in (QMP_FD, CONSOLE_FD, *((TPM_FD,) if has_tpm else ())):
                end, theirs = socket.socketpair()
                files[number] = theirs.detach()
                ours.append(end)
            if has_tpm:
                children.append(_start_tpm(f"{folder}/tpm", ours.pop().detach()))
            children.append(_spawn(argv, files))
            started = Started(pid=children[-1], argv=tuple(argv), at_s=_start_of(children[-1]))
            yield BareMachine(started, ours[1], f"{folder}/link")
        finally:
            for fd in files.values():
                os.close(fd)
            for pid in reversed(children):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for end in ours:
                end.close()


def _join(initramfs: bytes, extra: bytes) -> int:
    """Return a file with both archives; the kernel skips zeros between them, and wants the second at a multiple of four."""
    fd = os.memfd_create("initramfs", 0)
    with open(fd, "wb", closefd=False) as made:
        made.write(initramfs + bytes(-len(initramfs) % 4) + extra)
    return fd


def _start_tpm(folder: str, control: int) -> int:
    program = shutil.which("swtpm")
    if program is None:
        raise installs.MissingError("swtpm: not found in PATH, want the Debian package swtpm")
    copy_state(open_seed(), folder, user=None)
    state = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _spawn(swtpm_command(program), {TPM_FD: control, TPM_FOLDER_FD: state})
    finally:
        os.close(state)
        os.close(control)


def _spawn(argv: Sequence[str], files: Mapping[int, int]) -> int:
    """Start a program with files under numbers of its own, and nothing else but an empty standard input and output."""
    # Out of the way first, so that none of the numbers that it shall have is one that it comes from.
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for number, fd in files.items()}
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)
    ]
    actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in moved.items()]
    try:
        return os.posix_spawn(argv[0], list(argv), {}, file_actions=actions)
    finally:
        for fd in moved.values():
            os.close(fd)
