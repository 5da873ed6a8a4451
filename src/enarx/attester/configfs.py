# SPDX-License-Identifier: Apache-2.0
"""configfs-tsm: how Linux gives evidence of SEV-SNP, TDX and CCA guests since 6.7.

A request is a directory: what is written to it counts its `generation` up, and reading `outblob` makes the report. So the
count before and after, and how often we wrote, tell whether a report is ours. A directory of our own with a name that
nobody guesses is disturbed by accident only, and then `_ATTEMPTS` times at most. It is removed, however the request ends.

What is written to `inblob` takes effect when the file is closed, and an error at that moment is lost; the count shows it.
Reading `outblob` waits for firmware or, on TDX, for the host's quoting service: 30 to 60 seconds, which is the kernel's limit.

Source: Linux Documentation/ABI/testing/configfs-tsm-report, drivers/virt/coco/guest/report.c, fs/configfs/file.c.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from enarx.attester.attested import (
    CCA_TOKEN,
    EVENT_LOG,
    MAX_EVIDENCE_BYTES,
    SNP_REPORT,
    TDX_QUOTE,
    Attested,
    RuntimeRegister,
    attested_snp,
    make_endorsement,
    make_evidence,
    require_digest,
    require_report_data,
)
from enarx.attester.system import REBOOT_HINT, read_file, refusal, write_file
from enarx.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enarx.attester.system import System

__all__ = ["ConfigfsAttester", "TdxRegister", "find_configfs"]

REPORTS = "/sys/kernel/config/tsm/report"
RTMR3 = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"
CCEL = "/sys/firmware/acpi/tables/data/CCEL"
_RTMR_BYTES = 48
_ATTEMPTS = 5
_NAME_ATTEMPTS = 8
_MAX_ATTRIBUTE_BYTES = 4096
# The kernel counts in an unsigned long.
_GENERATION_LIMIT = 1 << 64
_HIGHEST_PRIVLEVEL = 3


class _Kind(NamedTuple):
    backend: str
    media_type: str
    has_privlevel: bool
    has_auxblob: bool


_PROVIDERS = {
    "sev_guest": _Kind("snp", SNP_REPORT, has_privlevel=True, has_auxblob=True),
    "tdx_guest": _Kind("tdx", TDX_QUOTE, has_privlevel=False, has_auxblob=False),
    "arm_cca_guest": _Kind("cca", CCA_TOKEN, has_privlevel=False, has_auxblob=False),
}
_MEANINGS: dict[int, tuple[str, str | None]] = {
    errno.EBUSY: ("a report that is being rewritten without end", "end the program that writes to it"),
    errno.EFBIG: ("a report larger than the kernel passes on", "boot a newer kernel"),
    errno.EINVAL: ("a request that the device refuses", "the kernel log (dmesg) says more"),
    errno.EIO: ("a failure of the device", "the kernel log (dmesg) says more"),
    errno.ENOTTY: ("a device without a key", REBOOT_HINT),
    errno.ENXIO: ("no provider of reports", "this machine is no guest of a TEE, or its driver is not loaded"),
    errno.ETIMEDOUT: ("no answer in time", "the host's quoting service may be down or not configured"),
}
_REGISTER_MEANINGS = _MEANINGS | {
    errno.ENOENT: ("not there", "boot Linux 6.16 or later, which lets a trust domain extend its registers"),
}


class _TornError(Exception):
    """The report may be another request's."""


class ConfigfsAttester:
    """A TEE behind configfs-tsm.

    Args:
        system: of the machine.
        provider: as the kernel names it: `sev_guest`, `tdx_guest`, `arm_cca_guest`.

    Raises:
        PlatformError: another provider.
    """

    def __init__(self, system: System, provider: str) -> None:
        kind = _PROVIDERS.get(provider)
        if kind is None:
            known = ", ".join(_PROVIDERS)
            raise PlatformError(f"cannot attest: configfs-tsm: provider: found {provider!r}, want one of {known}")
        self._system, self._kind = system, kind
        self.backend, self.media_type = kind.backend, kind.media_type
        self.register: RuntimeRegister | None = TdxRegister(system) if kind.backend == "tdx" else None

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a report; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        try:
            report, table = self._request(report_data)
        except OSError as error:
            raise refusal(f"configfs-tsm, {self.backend}", error, _MEANINGS) from error
        if self.backend == "snp":
            return attested_snp(report, table, report_data, device="configfs-tsm")
        logs = self._event_log() if self.backend == "tdx" else ()
        return Attested(make_evidence(self.media_type, report), logs)

    def _request(self, report_data: bytes) -> tuple[bytes, bytes]:
        with _directory(self._system) as folder:
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(_TornError):
                    return self._try(folder, report_data)
        raise PlatformError(
            f"cannot attest: configfs-tsm, {self.backend}: found a request that was disturbed {_ATTEMPTS} times, want it left alone",
            hint="end the program that writes to other programs' requests",
        )

    def _try(self, folder: str, report_data: bytes) -> tuple[bytes, bytes]:
        before, written = self._number(f"{folder}/generation"), 0
        if self._kind.has_privlevel:
            # The least privileged level would do, but the kernel's own is what the evidence is about.
            floor = self._number(f"{folder}/privlevel_floor")
            if floor > _HIGHEST_PRIVLEVEL:
                raise PlatformError(
                    f"cannot attest: configfs-tsm: privlevel_floor: found {floor}, want 0 to {_HIGHEST_PRIVLEVEL}"
                )
            write_file(self._system, f"{folder}/privlevel", b"%d" % floor)
            written += 1
        write_file(self._system, f"{folder}/inblob", report_data)
        written += 1
        report = read_file(self._system, f"{folder}/outblob", MAX_EVIDENCE_BYTES)
        table = read_file(self._system, f"{folder}/auxblob", MAX_EVIDENCE_BYTES) if self._kind.has_auxblob else b""
        if self._number(f"{folder}/generation") != (before + written) % _GENERATION_LIMIT:
            raise _TornError
        return report, table

    def _number(self, path: str) -> int:
        text = read_file(self._system, path, _MAX_ATTRIBUTE_BYTES).strip()
        if not text.isdigit() or len(text) > 20:
            raise PlatformError(f"cannot attest: configfs-tsm: {path}: found {text[:20]!r}, want a number")
        return int(text)

    def _event_log(self) -> tuple[bytes, ...]:
        """Return the firmware's log, which explains RTMR 0 to 2 to whoever wants it explained; evidence stands without it."""
        try:
            log = read_file(self._system, CCEL, MAX_EVIDENCE_BYTES)
        except OSError:
            return ()
        return (make_endorsement(EVENT_LOG, log),) if any(log) else ()


class TdxRegister:
    """RTMR 3 of a trust domain, which firmware and kernel leave alone. An older kernel lets nobody extend it.

    Args:
        system: of the machine.

    Source: Linux 6.16 Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
    """

    name = "TDX RTMR3"

    def __init__(self, system: System) -> None:
        self._system = system

    def read(self) -> bytes:
        """Return its 48 bytes."""
        try:
            value = read_file(self._system, RTMR3, _RTMR_BYTES)
        except OSError as error:
            raise refusal(self.name, error, _REGISTER_MEANINGS) from error
        if len(value) != _RTMR_BYTES:
            raise PlatformError(f"cannot read {self.name}: found {len(value)} bytes, want {_RTMR_BYTES}")
        return value

    def extend(self, digest: bytes) -> bytes:
        """Write a digest to it, which extends it, and read it again."""
        require_digest(digest)
        wanted = self.predict(digest, self.read())
        try:
            write_file(self._system, RTMR3, digest)
        except OSError as error:
            raise refusal(self.name, error, _REGISTER_MEANINGS) from error
        found = self.read()
        if found != wanted:
            raise PlatformError(f"cannot extend {self.name}: found {found.hex()} after it, want {wanted.hex()}")
        return found

    def predict(self, digest: bytes, before: bytes | None = None) -> bytes:
        """Return SHA-384 of the value before and the digest."""
        require_digest(digest)
        return hashlib.sha384((bytes(_RTMR_BYTES) if before is None else before) + digest).digest()


def find_configfs(system: System) -> ConfigfsAttester | None:
    """Return the TEE behind configfs-tsm, or None where the kernel has none: only a directory of ours tells.

    Raises:
        PlatformError: it cannot be asked, or is of an unknown kind.
    """
    try:
        with _directory(system) as folder:
            provider = read_file(system, f"{folder}/provider", _MAX_ATTRIBUTE_BYTES)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT, errno.ENOTDIR}:
            return None
        raise refusal("configfs-tsm", error, _MEANINGS) from error
    return ConfigfsAttester(system, provider.strip().decode("ascii", "replace"))


@contextlib.contextmanager
def _directory(system: System) -> Iterator[str]:
    """Make a directory for one request, and remove it at the end."""
    folder = _make_directory(system)
    try:
        yield folder
    except BaseException:
        # What went wrong first is what there is to tell.
        with contextlib.suppress(OSError):
            system.rmdir(folder)
        raise
    try:
        system.rmdir(folder)
    except FileNotFoundError:
        return


def _make_directory(system: System) -> str:
    for _ in range(_NAME_ATTEMPTS):
        folder = f"{REPORTS}/enarx-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            system.mkdir(folder)
        except FileExistsError:
            continue
        return folder
    raise PlatformError(f"cannot attest: configfs-tsm: found {_NAME_ATTEMPTS} random names taken, want a free one")
