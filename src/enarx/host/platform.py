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
import os
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
from enarx.wire.platform_answer import REQUEST_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.channel.link import Stream

__all__ = ["EmulatedPlatform", "answer_platform", "package_of_process"]

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
    """

    def __init__(self, folder: str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
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
        measurement = measure_process(package_of_process(pid, start_ticks))
        with self._lock:
            if len(self._measurements) >= _MAX_REMEMBERED:
                del self._measurements[next(iter(self._measurements))]
            self._measurements[pid, start_ticks] = measurement
        return measurement


def package_of_process(pid: int, ticks: int) -> str:
    """Return the folder of the package that a Keep process runs, by what the kernel says of it.

    Args:
        pid: of the process.
        ticks: when it started, in clock ticks since the machine did.

    Raises:
        PlatformError: it is not there, or was started otherwise than Keeps are.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read(_MAX_COMMAND_BYTES).split(b"\0")]
    except OSError as error:
        raise PlatformError(f"cannot measure process {pid}: {error.strerror}") from error
    if start_ticks(pid) != ticks:
        raise PlatformError(f"cannot measure process {pid}: found that it has ended, want a Keep")
    program = _program_of(words)
    if program is None or not program.startswith("/") or not program.endswith("/enarx" + _ENTRY):
        raise PlatformError(
            f"cannot measure process {pid}: found {program or words[:1]!r}, want python -I -S .../enarx{_ENTRY}"
        )
    return program.removesuffix(_ENTRY)


def _program_of(words: list[str]) -> str | None:
    """Return what an isolated Python runs; None where it was told to run something of which there is no file to measure."""
    from enarx.host.launchers.nil import DIE_WITH_PARENT, MARK

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
