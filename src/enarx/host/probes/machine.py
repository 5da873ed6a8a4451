# SPDX-License-Identifier: Apache-2.0
"""The only way a probe touches a machine: a file tree, some numbers read beforehand, and the answer of /dev/kvm.

Every read has a size limit, no open blocks, and every wait has a time limit. Nothing here judges; a test gives a probe a
tree of its own making and learns what it would say on hardware that nobody has to own.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enarx.errors import EnarxError
from enarx.host.launchers.qemu import MACHINES, this_arch
from enarx.host.probes.kvm import KvmAnswer, Registers, ask_kvm

__all__ = ["CpuInfo", "Machine", "read_cpuid", "this_machine"]

# The description of the first processor takes about 2 KiB; that of the others is never read.
MAX_FILE_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 0.5
QEMU_TIMEOUT_S = 10.0

# What the probes ask of CPUID: the two maxima, features, SGX with its memory sections, address sizes, memory encryption.
CPUID_LEAVES = (
    (0x0, 0),
    (0x80000000, 0),
    (0x7, 0),
    *((0x12, subleaf) for subleaf in range(10)),
    (0x80000008, 0),
    (0x8000001F, 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuInfo:
    """The first processor as /proc/cpuinfo describes it; empty where the kernel says nothing of the kind."""

    vendor: str
    brand: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine to probe.

    Args:
        root: the directory that stands for `/`.
        sysname, release, machine: what uname says (`Linux`, `6.16.1`, `x86_64`).
        search_path: the directories where programs are looked for.
        memlock_bytes: the soft limit of locked memory, None where there is none.
        cpuid: what the CPU itself answered, by leaf and subleaf; a leaf beyond the CPU's last is all zero.
        cpuid_unknown: why `cpuid` is empty, None where it is not.
        kvm: how far the questions to /dev/kvm came.
        qemu_objects: what each QEMU on the search path can make, by the program's name; one that did not answer is not there.
        images: the names of the images for machines that this user has; None where that could not be determined.
        tpm_key: SHA-256 of the key that this user's virtual TPMs attest with, in hex, or None where there is none yet.
    """

    root: Path
    sysname: str
    release: str
    machine: str
    search_path: tuple[str, ...]
    memlock_bytes: int | None
    cpuid: Mapping[tuple[int, int], Registers]
    cpuid_unknown: str | None
    kvm: KvmAnswer
    qemu_objects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    images: tuple[str, ...] | None = ()
    tpm_key: str | None = None

    def path(self, absolute: str) -> Path:
        """Map a path of the machine into its tree."""
        return self.root / absolute.lstrip("/")

    def exists(self, absolute: str) -> bool:
        """Tell whether something is there.

        Raises:
            OSError: it could not be determined.
        """
        try:
            self.path(absolute).stat()
        except FileNotFoundError:
            return False
        return True

    def read_text(self, absolute: str) -> str:
        """Read the beginning of a small text file.

        Raises:
            OSError: not there, or not readable.
        """
        content = b""
        fd = os.open(self.path(absolute), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            while len(content) < MAX_FILE_BYTES and (chunk := os.read(fd, MAX_FILE_BYTES - len(content))):
                content += chunk
        finally:
            os.close(fd)
        return content.decode("utf-8", "replace")

    def open_device(self, absolute: str, flags: int) -> None:
        """Open a device and close it again.

        Raises:
            OSError: it cannot be opened this way.
        """
        os.close(os.open(self.path(absolute), flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))

    def connect_unix(self, absolute: str) -> None:
        """Connect to a Unix socket and leave: a socket file outlives the service that made it.

        Raises:
            OSError: nothing there, or nothing listens.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(CONNECT_TIMEOUT_S)
            peer.connect(str(self.path(absolute)))

    def find_program(self, name: str) -> str | None:
        """Find an executable file on the search path, as the path that a user would type."""
        for directory in self.search_path:
            candidate = self.path(directory) / name
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return f"{directory.rstrip('/')}/{name}"
        return None

    def read_cpuinfo(self) -> CpuInfo:
        """Read the description of the first processor.

        Raises:
            OSError: /proc/cpuinfo cannot be read.
        """
        fields: dict[str, str] = {}
        for line in self.read_text("/proc/cpuinfo").splitlines():
            if not line.strip():
                break
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
        return CpuInfo(
            vendor=fields.get("vendor_id", ""),
            brand=fields.get("model name", ""),
            flags=frozenset(fields.get("flags", "").split()),
        )


def read_cpuid(device: Path) -> Mapping[tuple[int, int], Registers]:
    """Read CPUID through the kernel's device.

    Args:
        device: /dev/cpu/0/cpuid: 16 bytes at offset leaf + (subleaf << 32) are EAX, EBX, ECX, EDX, little-endian.

    Returns:
        Every leaf that the probes ask for. Beyond the CPU's last leaf some CPUs repeat another leaf; that is zero here.

    Raises:
        OSError: no such device, or not ours to read.

    Spec: cpuid(4); Intel SDM volume 2A, CPUID, "input values beyond the maximum".
    """
    answers: dict[tuple[int, int], Registers] = {}
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for leaf, subleaf in CPUID_LEAVES:
            answer = os.pread(fd, 16, leaf | subleaf << 32)
            if len(answer) != 16:
                raise OSError(f"found {len(answer)} bytes for leaf {leaf:#x}, want 16")
            eax, ebx, ecx, edx = struct.unpack("<4I", answer)
            answers[leaf, subleaf] = (eax, ebx, ecx, edx)
    finally:
        os.close(fd)
    for leaf, subleaf in CPUID_LEAVES:
        if leaf > answers[leaf & 0x80000000, 0][0]:
            answers[leaf, subleaf] = (0, 0, 0, 0)
    return answers


def ask_qemus() -> Mapping[str, frozenset[str]]:
    """Ask the QEMU for this machine's architecture what objects it can make."""
    program = MACHINES.get(("vm", this_arch()))
    found = None if program is None else shutil.which(program.program)
    if program is None or found is None:
        return {}
    try:
        done = subprocess.run(
            [found, "-object", "help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=QEMU_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {program.program: frozenset(done.stdout[:MAX_FILE_BYTES].decode("ascii", "replace").split())}


def find_images() -> tuple[str, ...] | None:
    """Find the names of this user's images; None where that could not be determined."""
    from enarx.image.store import image_names

    try:
        return image_names()
    except EnarxError:
        return None


def find_tpm_key() -> str | None:
    """Find the digest of the key of this user's virtual TPMs, if there are any."""
    from enarx.host.launchers.swtpm import read_key_digest

    try:
        return read_key_digest()
    except EnarxError:
        return None


def this_machine() -> Machine:
    """Take the real machine's picture: at most some seconds, and only if /dev/kvm hangs."""
    uname = os.uname()
    has_cpuid = uname.machine in {"x86_64", "i686"}
    cpuid: Mapping[tuple[int, int], Registers] = {}
    cpuid_unknown: str | None = None
    if has_cpuid:
        try:
            cpuid = read_cpuid(Path("/dev/cpu/0/cpuid"))
        except OSError as err:
            cpuid_unknown = f"/dev/cpu/0/cpuid: {(err.strerror or str(err)).lower()}"
    else:
        cpuid_unknown = f"{uname.machine} has no CPUID"
    memlock_bytes, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Machine(
        root=Path("/"),
        sysname=uname.sysname,
        release=uname.release,
        machine=uname.machine,
        # A relative entry means something else in every directory; no launcher will use one.
        search_path=tuple(entry for entry in os.get_exec_path() if entry.startswith("/")),
        memlock_bytes=None if memlock_bytes == resource.RLIM_INFINITY else memlock_bytes,
        cpuid=cpuid,
        cpuid_unknown=cpuid_unknown,
        kvm=ask_kvm(Path("/dev/kvm"), has_cpuid=has_cpuid),
        qemu_objects=ask_qemus(),
        images=find_images(),
        tpm_key=find_tpm_key(),
    )
