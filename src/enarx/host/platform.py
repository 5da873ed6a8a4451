# SPDX-License-Identifier: Apache-2.0
"""The emulated platform that this host offers to Keeps without a Trusted Execution Environment.

It plays the part of the processor and its firmware: it says what was launched, and signs it. What was launched is read
from the process that runs, never from what the launcher meant to start. The measurement is taken once for each process,
as a processor takes it once at launch: a file that changes later is not what that process began with.

    platform = EmulatedPlatform()              # one for each host
    await answer_platform(stream, lambda request: platform.report(request, pid=pid, start_ticks=ticks))

One request on each stream, as `enarx.wire.platform_answer` has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from enarx.emulator.installation import Installation, open_installation
from enarx.emulator.service import answer
from enarx.endorsers.emulated_root import default_folder
from enarx.errors import EnarxError, PlatformError, TransportError
from enarx.host.process_facts import boot_id, start_ticks
from enarx.image import measure_process
from enarx.wire.platform_answer import REQUEST_BYTES, encode_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.channel.link import Stream
    from enarx.image.measure import LaunchParts

__all__ = [
    "EmulatedPlatform",
    "answer_platform",
    "answer_port",
    "measure_machine",
    "package_of_process",
    "parts_of_machine",
]

REQUEST_WAIT_S = 10.0
_MAX_REMEMBERED = 4096
_MAX_COMMAND_BYTES = 65_536
_ENTRY = "/keep/__main__.py"


async def answer_platform(stream: Stream, report: Callable[[bytes], bytes]) -> None:
    """Answer the one request of a stream, and end it.

    Args:
        stream: whose target is `platform`.
        report: `EmulatedPlatform.report` for the Keep at the other end; it is called in a thread.

    Raises:
        TransportError: the stream ended, or the request did not come in `REQUEST_WAIT_S`.
        DecodeError: the request has another size.
        PlatformError: the platform cannot answer. Before any of these the stream is reset.
    """
    request = b""
    try:
        try:
            async with asyncio.timeout(REQUEST_WAIT_S):
                while len(request) < REQUEST_BYTES and (data := await stream.read(REQUEST_BYTES - len(request))):
                    request += data
        except TimeoutError:
            stream.reset("timeout")
            raise TransportError(
                f"cannot answer for the platform: request: found {len(request)} bytes in {REQUEST_WAIT_S:.0f} s,"
                f" want {REQUEST_BYTES}"
            ) from None
        await stream.write(await asyncio.to_thread(report, request))
        stream.close()
    except EnarxError:
        stream.reset("refused")
        raise


class EmulatedPlatform:
    """The emulated platform of this installation; its calls block, and any number of threads may make them.

    Args:
        folder: where it is kept; None is the user's own.
        clock: Unix time in seconds.
        measure: returns the launch measurement of what runs as a process, by its pid and its start; None measures Keep processes.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        measure: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._measure = measure if measure is not None else _measure_keep_process
        self._lock = threading.Lock()
        self._installation: Installation | None = None
        self._measurements: dict[tuple[int, int], bytes] = {}

    def open(self) -> Installation:
        """Return the platform's keys and certificates, made if there are none, which takes about a second.

        Raises:
            PlatformError: they cannot be made, read or trusted.
        """
        now = datetime.fromtimestamp(self._clock(), tz=UTC)
        with self._lock:
            if self._installation is None or now >= self._installation.renew_at:
                folder = self._folder if self._folder is not None else default_folder()
                self._installation = open_installation(folder, at=now)
            return self._installation

    def report(self, request: bytes, *, pid: int, start_ticks: int) -> bytes:
        """Answer a request of a Keep that is a process.

        Args:
            request: 64 bytes of report data.
            pid: of the Keep.
            start_ticks: when it started, in clock ticks since the machine did; another process of that number is not it.

        Raises:
            DecodeError: the request has another size.
            PlatformError: the process is not there or no Keep, or `open` failed.
        """
        measurement = self.measure(pid, start_ticks)
        report_id = hashlib.sha256(f"enarx process {boot_id()} {pid} {start_ticks}".encode()).digest()
        return answer(self.open(), request, measurement=measurement, report_id=report_id)

    def measure(self, pid: int, start_ticks: int) -> bytes:
        """Return the launch measurement of a Keep process, taken when it is first asked for.

        Returns:
            48 bytes.

        Raises:
            PlatformError: the process is not there, or no Keep.
        """
        known = self._measurements.get((pid, start_ticks))
        if known is not None:
            return known
        measurement = self._measure(pid, start_ticks)
        with self._lock:
            if len(self._measurements) >= _MAX_REMEMBERED:
                del self._measurements[next(iter(self._measurements))]
            self._measurements[pid, start_ticks] = measurement
        return measurement


def _measure_keep_process(pid: int, ticks: int) -> bytes:
    return measure_process(package_of_process(pid, ticks))


def answer_port(port: socket.socket, report: Callable[[bytes], bytes]) -> None:
    """Answer the requests that come from a machine, one after the other, until it is gone; for a thread.

    A request that is refused is answered too, by two empty blocks: a port has no other way to say so.

    Args:
        port: connected to the machine's port; it is closed at the end.
        report: `EmulatedPlatform.report` for the machine.
    """
    with port:
        port.setblocking(True)
        try:
            while True:
                request = b""
                while len(request) < REQUEST_BYTES:
                    data = port.recv(REQUEST_BYTES - len(request))
                    if not data:
                        return
                    request += data
                try:
                    answered = report(request)
                except EnarxError:
                    answered = encode_answer(b"", b"")
                port.sendall(answered)
        except OSError:
            return  # the machine has ended


def measure_machine(pid: int, ticks: int) -> bytes:
    """Return the launch digest of a machine as a processor with SEV-SNP would take it: of what QEMU was started with.

    Command line and files are those of the process that runs. An option that could put something else into the machine than
    what is measured is refused.

    Args:
        pid: of QEMU.
        ticks: when it started, in clock ticks since the machine did.

    Returns:
        48 bytes.

    Raises:
        PlatformError: it is not there, or was started otherwise than Keeps are.
    """
    from enarx.image.measure import snp_launch_digest

    words = _words_of(pid, ticks)
    options: dict[str, str] = {}
    at = 1
    while at < len(words):
        word = words[at]
        if word in _BARE_OPTIONS:
            at += 1
            continue
        value = words[at + 1] if at + 1 < len(words) else None
        allowed = _OPTIONS.get(word)
        if allowed is None or value is None or not allowed.fullmatch(value) or (word in options and word in _MEASURED):
            raise PlatformError(
                f"cannot measure machine {pid}: found {word[:64]} {(value or '')[:64]}, want only options of Keeps"
            )
        options[word] = value
        at += 2
    missing = sorted(_MEASURED - options.keys())
    if missing:
        raise PlatformError(f"cannot measure machine {pid}: found no {', '.join(missing)}, want each once")
    files = {name: _read_of(pid, options[name]) for name in ("-bios", "-kernel", "-initrd")}
    if start_ticks(pid) != ticks:
        raise PlatformError(f"cannot measure machine {pid}: found that it has ended, want a Keep")
    return snp_launch_digest(
        firmware=files["-bios"],
        kernel=files["-kernel"],
        initramfs=files["-initrd"],
        cmdline=options["-append"],
        vcpus=int(options["-smp"]),
        vcpu_type=options["-cpu"],
    )


def parts_of_machine(pid: int, ticks: int) -> LaunchParts:
    """Return what a machine of any backend was started with, for whoever wants to know which part is another.

    Args:
        pid: of QEMU.
        ticks: when it started, in clock ticks since the machine did.

    Raises:
        PlatformError: it is not there, or was started without one of the parts.
        DecodeError: its firmware does not consist of pages.
    """
    from enarx.image.measure import LaunchParts, snp_cmdline_sha256, snp_firmware_pages

    words = _words_of(pid, ticks)
    options = dict(itertools.pairwise(words))
    missing = sorted({"-bios", "-kernel", "-initrd", "-append"} - options.keys())
    if missing:
        raise PlatformError(f"cannot say what machine {pid} is: found no {', '.join(missing)}, want each")
    return LaunchParts(
        snp_firmware_pages(_read_of(pid, options["-bios"])),
        hashlib.sha256(_read_of(pid, options["-kernel"])).digest(),
        hashlib.sha256(_read_of(pid, options["-initrd"])).digest(),
        snp_cmdline_sha256(options["-append"]),
    )


_ANYTHING = re.compile(r".*", re.DOTALL)
_FILE = re.compile(r"/proc/self/fd/(\d{1,3})")
_BARE_OPTIONS = frozenset({"-nodefaults", "-no-user-config", "-no-reboot"})
_MEASURED = frozenset({"-bios", "-kernel", "-initrd", "-append", "-smp", "-cpu"})
_OPTIONS = {
    **dict.fromkeys(("-name", "-append", "-sandbox", "-display"), _ANYTHING),
    **dict.fromkeys(("-bios", "-kernel", "-initrd"), _FILE),
    "-machine": re.compile(r"q35,vmport=off"),
    "-accel": re.compile(r"kvm|tcg(,[a-z]+(-[a-z]+)?=[a-z0-9]+)*"),
    "-cpu": re.compile(r"EPYC[A-Za-z0-9-]*"),
    "-smp": re.compile(r"\d{1,3}"),
    "-m": re.compile(r"\d{1,9}M"),
    "-chardev": re.compile(r"socket,id=[a-z]+,fd=\d{1,3}(,server=on,wait=off)?"),
    "-mon": re.compile(r"chardev=qmp,mode=control"),
    "-serial": re.compile(r"chardev:console"),
    "-device": re.compile(
        r"virtio-serial-pci,id=ports|virtserialport,bus=ports\.0,chardev=[a-z]+,name=(keep|platform)\.0"
    ),
}
_MAX_FILE_BYTES = 1 << 30


def _read_of(pid: int, path: str) -> bytes:
    """Read a file that a process has open, by the path that it was told."""
    found = _FILE.fullmatch(path)
    number = found[1] if found is not None else ""
    try:
        with open(f"/proc/{pid}/fd/{number}", "rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise PlatformError(f"cannot measure machine {pid}: {path}: {error.strerror}") from error


def package_of_process(pid: int, ticks: int) -> str:
    """Return the folder of the package that a Keep process runs, by what the kernel says of it.

    Args:
        pid: of the process.
        ticks: when it started, in clock ticks since the machine did.

    Raises:
        PlatformError: it is not there, or was started otherwise than Keeps are.
    """
    words = _words_of(pid, ticks)
    program = _program_of(words)
    if program is None or not program.startswith("/") or not program.endswith("/enarx" + _ENTRY):
        raise PlatformError(
            f"cannot measure process {pid}: found {program or words[:1]!r}, want python -I -S .../enarx{_ENTRY}"
        )
    return program.removesuffix(_ENTRY)


def _words_of(pid: int, ticks: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            # Each word ends with a zero byte.
            words = [os.fsdecode(word) for word in file.read(_MAX_COMMAND_BYTES).removesuffix(b"\0").split(b"\0")]
    except OSError as error:
        raise PlatformError(f"cannot measure process {pid}: {error.strerror}") from error
    if start_ticks(pid) != ticks:
        raise PlatformError(f"cannot measure process {pid}: found that it has ended, want a Keep")
    return words


def _program_of(words: list[str]) -> str | None:
    """Return what an isolated Python runs; None where it was told to run something of which there is no file to measure."""
    from enarx.host.launchers.nil import DIE_WITH_PARENT
    from enarx.host.launchers.own_process import MARK

    before, after = ("-c" + DIE_WITH_PARENT).split("{parent}")
    if words[1:3] != ["-I", "-S"]:
        return None
    for word in words[3:]:
        if not word.startswith("-"):
            return word
        # Python keeps a word that is not its own for whoever asks; one of its own, or other code, could change what is loaded.
        is_bootstrap = word.startswith(before) and word.endswith(after) and word[len(before) : -len(after)].isdecimal()
        if not is_bootstrap and not word.startswith(MARK):
            return None
    return None
