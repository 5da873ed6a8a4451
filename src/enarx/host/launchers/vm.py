# SPDX-License-Identifier: Apache-2.0
"""Start Keeps that are virtual machines: an image, a command line of `qemu`, and a guard beside it that outlives the host.

The process of such a Keep is its guard (`guard.py`), which has QEMU and swtpm as children. Everything that the machine is given is
opened here and handed on by descriptor: the listening sockets of its ports, the files of the image, the folder of its TPM's
state. Where the host is root, QEMU is a user of its own for each Keep, of which this machine knows nothing.

`vm` gives evidence in one of two ways: `vtpm`, a TPM by swtpm; or `emulated-snp`, this host's emulated platform, which measures the QEMU
that runs (`enarx.host.platform`) and answers on a port of its own. Both protect nothing from this host.

The image says of which architecture the machine is. One that is not this machine's is emulated, for `vm` alone, and only where that
was asked for (`foreign`): it is slow, and for trying things out.

    <folder>/link      the socket of the link
    <folder>/platform  the socket of the emulated platform's port, where there is one
    <folder>/console   what QEMU and the guest said before the Keep was ready, and next to nothing after
    <folder>/ending    why it ended, written by the guard into room that is there from the beginning
    <folder>/tpm       the TPM's state, where there is one
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enarx import __version__
from enarx.errors import ConfigError, EnarxError, PlatformError, UsageError
from enarx.host.launchers import KeepSpec, Launched
from enarx.host.launchers.guard import CONSOLE_FILE_FD, ENDING_FD, PLAN_FD, TPM_FOLDER_FD
from enarx.host.launchers.own_process import OwnProcess, make_ending, mark_of, move_up, read_ending, watch
from enarx.host.launchers.qemu import (
    FIRMWARE_FD,
    INITRAMFS_FD,
    KERNEL_FD,
    LINK_FD,
    MACHINES,
    PLATFORM_FD,
    TRANSLATED_MIB,
    MachineSpec,
    command_line,
    kind_of,
    this_arch,
)
from enarx.host.launchers.swtpm import copy_state, open_seed, swtpm_command
from enarx.host.platform import EmulatedPlatform, answer_port, measure_machine, parts_of_machine
from enarx.host.process_facts import children_of, start_ticks
from enarx.host.state import connect_link, listen_link
from enarx.image.measure import LaunchParts, launch_cmdline
from enarx.wire.machine import OVERHEAD_BYTES, READY_LINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.store import Image

__all__ = ["EVIDENCE", "GUARD_PROGRAM", "VmLauncher", "machine_bytes"]

EVIDENCE = ("vtpm", "emulated-snp")
GUARD_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")

BOOT_S = {"kvm": 30.0, "tcg": 120.0}
"""From the start of QEMU to the line that says that the Keep is ready."""

ANSWER_S = 30.0
"""For QEMU to answer on its monitor."""

BESIDE_BYTES = 96 << 20
"""What QEMU, the TPM and the guard take beside a machine's memory and translations; 55 MiB were seen when a Keep was ready."""

_AFTER_BOOT_S = 10.0
_STEP_BYTES = 32 << 20
_FIRST_USER = 0x7000_0000
_USERS = 0x0FFF_FFF0
_FIX = {
    "qemu-system-x86_64": "apt install qemu-system-x86",
    "qemu-system-aarch64": "apt install qemu-system-arm",
    "qemu-system-ppc64": "apt install qemu-system-ppc",
    "swtpm": "apt install swtpm swtpm-tools",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """A machine that is ready to be started."""

    image: Image
    accelerator: str
    memory_bytes: int
    qemu: tuple[str, ...]
    swtpm: tuple[str, ...] | None
    firmware: str | None
    user: int | None


def machine_bytes(memory_bytes: int) -> int:
    """Return the memory of the machine in which a workload may take so much."""
    return -(-(memory_bytes + OVERHEAD_BYTES) // _STEP_BYTES) * _STEP_BYTES


class VmLauncher(OwnProcess):
    """Starts machines of one backend.

    Args:
        backend: of `qemu.MACHINES`.
        evidence: for `vm`, of `EVIDENCE`; every other backend has its own.
        image: name or digest of the image; None is the one of this version and architecture.
        foreign: whether the image may be of another architecture than this machine, which is emulated then.
        cpus: how many CPUs of this machine each Keep may use, or None for all.
        dies_with_host: whether a Keep ends when the host does, however it does.
        find_program: of a name returns a path, or None.
        boot_s: likewise `BOOT_S`, or None for that.
        answer_s: likewise.
    """

    def __init__(
        self,
        backend: str = "vm",
        *,
        evidence: str = "vtpm",
        image: str | None = None,
        foreign: bool = False,
        cpus: int | None = None,
        dies_with_host: bool = False,
        find_program: Callable[[str], str | None] = shutil.which,
        boot_s: float | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.backend = backend
        self._evidence = evidence if backend == "vm" else ""
        self._image = image
        self._foreign = foreign
        self._arch = this_arch()
        self._cpus = cpus
        self._dies_with_host = dies_with_host
        self._find_program = find_program
        self._boot_s = boot_s
        self._answer_s = answer_s
        self._platform = EmulatedPlatform(measure=measure_machine)
        self._accelerator: str | None = None
        self._launched: dict[str, Launched] = {}
        self._answering: dict[str, threading.Thread] = {}

    @property
    def start_timeout_s(self) -> float:
        """Return how long a Keep may take from its start to its first word."""
        return (self._boot_s or BOOT_S[self._choose_accelerator()]) + _AFTER_BOOT_S

    def reserved_bytes(self, memory_bytes: int, package_bytes: int) -> int:
        """Return the memory of the whole machine, in which the package is as well, and what it takes to run it."""
        translated_bytes = TRANSLATED_MIB << 20 if self._choose_accelerator() == "tcg" else 0
        return machine_bytes(memory_bytes) + translated_bytes + BESIDE_BYTES

    # --- Beginning

    def start(self, spec: KeepSpec, folder: str) -> Launched:
        """Start a machine and its guard; see `Launcher.start`."""
        machine = self._prepare(spec)
        if self._evidence == "emulated-snp":
            self._platform.open()
        files: dict[int, int] = {}
        try:
            try:
                key = self._open_files(machine, folder, files)
                files[PLAN_FD] = self._write_plan(machine, sorted(set(files) & set(range(LINK_FD, FIRMWARE_FD + 1))))
                pid = self._spawn(spec.id, files)
            finally:
                for fd in files.values():
                    os.close(fd)
            launched = watch(pid, tpm_key_sha256=key)
        except OSError as error:
            raise PlatformError(f"cannot start a machine: {error.strerror}") from error
        self._launched[spec.id] = launched
        return launched

    def command(self, spec: KeepSpec) -> tuple[str, ...]:
        """Return the command line of QEMU that a machine would be started by; raises as `start` does where something is missing."""
        return self._prepare(spec).qemu

    def _prepare(self, spec: KeepSpec) -> _Machine:
        """Find everything that a machine needs.

        Raises:
            PlatformError: something is missing.
        """
        image = self._open_image()
        self._arch = image.arch
        kind = kind_of(self.backend, image.arch)
        program = self._require_program(kind.program)
        has_tpm = self._evidence == "vtpm"
        swtpm = swtpm_command(self._require_program("swtpm")) if has_tpm else None
        firmware = None if kind.firmware is None else image.firmware.get(kind.firmware)
        if kind.firmware is not None and firmware is None:
            raise PlatformError(
                f"cannot start a machine: image {image.name}: found no firmware for {self.backend}, want it",
                hint="enarx image build",
            )
        memory_bytes = machine_bytes(spec.memory_bytes)
        accelerator = self._choose_accelerator()
        command = command_line(
            MachineSpec(
                backend=self.backend,
                arch=image.arch,
                name=spec.id,
                accelerator=accelerator,
                memory_bytes=memory_bytes,
                cmdline=launch_cmdline(image.cmdline, self.backend),
                has_firmware=firmware is not None,
                has_tpm=has_tpm,
                has_platform=self._evidence == "emulated-snp",
            )
        )
        return _Machine(
            image=image,
            accelerator=accelerator,
            memory_bytes=memory_bytes,
            qemu=(program, *command[1:]),
            swtpm=swtpm,
            firmware=firmware,
            user=_user_of(spec.id),
        )

    def _open_image(self) -> Image:
        if self._image is None:
            # Before an image is asked for that nothing here could start.
            kind_of(self.backend, this_arch())
        name = self._image or f"keep-{__version__}-{this_arch()}"
        # Not for a host that starts no machine.
        from enarx.image.store import open_image

        try:
            image = open_image(name)
        except UsageError as error:
            raise PlatformError(
                f"cannot start a machine: image {name}: found none of that name, want it", hint="enarx image build"
            ) from error
        except ConfigError as error:
            raise PlatformError(f"cannot start a machine: {error}", hint="enarx image build makes it again") from error
        self._require_arch(image)
        return image

    def _require_arch(self, image: Image) -> None:
        """Let an image of another architecture only be emulated, and only where that is wanted."""
        kind = MACHINES.get((self.backend, image.arch))
        can_emulate = kind is not None and "tcg" in kind.accelerators
        if image.arch != this_arch() and not (can_emulate and self._foreign):
            raise PlatformError(
                f"cannot start a machine: image {image.name}: found it for {image.arch}, want {this_arch()}",
                hint="enarx host serve --experimental emulates it" if can_emulate else None,
            )
        if image.arch != "x86_64" and self._evidence == "emulated-snp":
            raise PlatformError(
                f"cannot start a machine: image {image.name}: found it for {image.arch}, want x86_64 for the emulated SNP platform",
                hint="--vm-evidence vtpm",
            )

    def _require_program(self, name: str) -> str:
        found = self._find_program(name)
        if found is None:
            raise PlatformError(f"cannot start a machine: found no {name} on PATH, want it", hint=_FIX[name])
        return os.path.abspath(found)

    def _choose_accelerator(self) -> str:
        """Choose KVM where it works for certain: a device that opens is not enough."""
        if self._arch != this_arch():
            return "tcg"
        if self._accelerator is None:
            from enarx.host.probes.machine import this_machine
            from enarx.host.probes.questions import ask_kvm_device

            kinds = kind_of(self.backend, this_arch()).accelerators
            works = "tcg" not in kinds or ask_kvm_device(this_machine()).passed is True
            self._accelerator = "kvm" if works else "tcg"
        return self._accelerator

    def _open_files(self, machine: _Machine, folder: str, files: dict[int, int]) -> str | None:
        """Open what the guard gets, by the number that it has there; return the digest of the TPM's key, where there is one."""

        def keep(number: int, fd: int) -> None:
            files[number] = move_up(fd)

        keep(LINK_FD, listen_link(folder).detach())
        if self._evidence == "emulated-snp":
            keep(PLATFORM_FD, listen_link(folder, "platform").detach())
        keep(KERNEL_FD, os.open(machine.image.kernel, os.O_RDONLY | os.O_CLOEXEC))
        keep(INITRAMFS_FD, os.open(machine.image.initramfs, os.O_RDONLY | os.O_CLOEXEC))
        if machine.firmware is not None:
            keep(FIRMWARE_FD, os.open(machine.firmware, os.O_RDONLY | os.O_CLOEXEC))
        made = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        keep(CONSOLE_FILE_FD, os.open(os.path.join(folder, "console"), made | os.O_APPEND, 0o600))
        keep(ENDING_FD, make_ending(folder))
        if machine.swtpm is None:
            return None
        seed, state = open_seed(), os.path.join(folder, "tpm")
        copy_state(seed, state, user=machine.user)
        keep(TPM_FOLDER_FD, os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return seed.key_sha256

    def _write_plan(self, machine: _Machine, files: Sequence[int]) -> int:
        plan = {
            "qemu": machine.qemu,
            "swtpm": machine.swtpm,
            "files": files,
            "ready": READY_LINE,
            "boot_s": self._boot_s or BOOT_S[machine.accelerator],
            "answer_s": self._answer_s,
            "memory_bytes": machine.memory_bytes,
            "user": machine.user,
            "groups": _groups("/dev/kvm", *(("/dev/sev",) if self.backend == "snp" else ())),
            "cpus": None if self._cpus is None else sorted(self._choose_cpus(self._cpus)),
            "parent": os.getpid() if self._dies_with_host else None,
        }
        made = os.memfd_create("plan", os.MFD_CLOEXEC)
        os.write(made, json.dumps(plan).encode())
        os.lseek(made, 0, os.SEEK_SET)
        return move_up(made)

    def _choose_cpus(self, count: int) -> frozenset[int]:
        """Choose the CPUs that fewest other Keeps of ours are bound to."""
        load = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0)
        for launched in self._launched.values():
            try:
                bound = os.sched_getaffinity(launched.pid)
            except ProcessLookupError:
                continue
            for cpu in bound & load.keys():
                load[cpu] += 1
        return frozenset(sorted(load, key=lambda cpu: load[cpu])[:count])

    def _spawn(self, identifier: str, files: dict[int, int]) -> int:
        command = [sys.executable, "-I", "-S", mark_of(identifier), GUARD_PROGRAM]
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, files[CONSOLE_FILE_FD], 1),
            (os.POSIX_SPAWN_DUP2, files[CONSOLE_FILE_FD], 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in files.items()]
        return os.posix_spawn(
            sys.executable,
            command,
            {"PATH": os.environ.get("PATH", os.defpath)},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )

    # --- While it runs

    def adopt(self, identifier: str, pid: int, ticks: int) -> Launched | None:
        """Take over a guard; see `Launcher.adopt`."""
        launched = super().adopt(identifier, pid, ticks)
        if launched is not None:
            self._launched[identifier] = launched
        return launched

    def connect(self, folder: str) -> socket.socket:
        """Connect to the link socket in the Keep's folder; QEMU takes it as soon as it runs."""
        if self._evidence == "emulated-snp":
            self._answer_platform(folder)
        return super().connect(folder)

    def _answer_platform(self, folder: str) -> None:
        """Answer on the port of the emulated platform, for as long as this host runs and the Keep does."""
        identifier = os.path.basename(folder)
        answering = self._answering.get(identifier)
        if answering is not None and answering.is_alive():
            return
        self._answering = {name: thread for name, thread in self._answering.items() if thread.is_alive()}
        port = connect_link(folder, "platform")
        launched = self._launched[identifier]

        def report(request: bytes) -> bytes:
            pid, ticks = _find_qemu(launched.pid, identifier)
            return self._platform.report(request, pid=pid, start_ticks=ticks)

        thread = threading.Thread(target=answer_port, args=(port, report), daemon=True)
        self._answering[identifier] = thread
        thread.start()

    def parts(self, folder: str) -> LaunchParts:
        """Say what the machine of a folder was started with; see `Launcher.parts`."""
        identifier = os.path.basename(folder)
        launched = self._launched.get(identifier)
        if launched is None:
            raise PlatformError("cannot say what the Keep was started with: found that it has ended, want it there")
        return parts_of_machine(*_find_qemu(launched.pid, identifier))

    def report(self, launched: Launched, request: bytes) -> bytes:
        """Refuse: a machine asks on a port, not on a stream."""
        raise PlatformError("cannot answer for the platform: found a stream of the link, want the port of the platform")

    # --- Ending

    def explain(self, folder: str) -> EnarxError | None:
        """Say why a Keep ended, where that was an error; see `Launcher.explain`."""
        self._launched.pop(os.path.basename(folder), None)
        return read_ending(folder)


def _find_qemu(guard: int, identifier: str) -> tuple[int, int]:
    """Return pid and start of the QEMU beside a guard.

    Raises:
        PlatformError: it is not there.
    """
    wanted = f"keep-{identifier}".encode()
    for pid in children_of(guard):
        ticks = start_ticks(pid)
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read(1 << 16).split(b"\0")
        except OSError:
            continue  # it has just ended
        if ticks is not None and b"-name" in words and wanted in words:
            return pid, ticks
    raise PlatformError("cannot measure a machine: found no QEMU beside its guard, want one")


def _user_of(identifier: str) -> int | None:
    """Return a user of the Keep's own, whom nobody else is; None where only root could make it one."""
    return _FIRST_USER + int(identifier, 16) % _USERS if os.geteuid() == 0 else None


def _groups(*devices: str) -> list[int]:
    """Return the groups that own devices, for who may need them."""
    found = set()
    for device in devices:
        try:
            found.add(os.stat(device).st_gid)
        except OSError:
            continue  # then it cannot be needed
    # Root's group owns what nobody gave away.
    return sorted(found - {0})
