# SPDX-License-Identifier: Apache-2.0
"""An emulation of configfs-tsm, and of the SEV-SNP, TDX and CCA guests behind it.

What is exact here, because drivers were seen to get it wrong:

- `inblob` takes effect when the file is closed, and what fails then fails in silence; more than 64 bytes are refused at once.
- `generation` counts what took effect, modulo 2^64. Where it is one below that of the last report, writes end with EBUSY.
- `outblob` and `auxblob` make the report when they are first read after a write, and are empty or EINVAL without one.
- An attribute that a provider does not have is not there; an open file of a request that is gone ends with ENOENT.
- Without a provider no request can be made: ENXIO.

Source: Linux drivers/virt/coco/guest/report.c, fs/configfs/file.c; tdx-guest.c, arm-cca-guest.c and sev-guest.c for the providers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from enarx.testing.attesters import Device, FakeFile, FakeMeasurement, FakeSystem, OpenFile, SnpSource, fail
from enarx.testing.cca import CcaPlatform
from enarx.testing.dcap import FakeIntel, Platform, TdReport

__all__ = ["FakeConfigfs", "FakeReportRequest", "FakeTdxGuest", "Provider", "cca_provider", "snp_provider"]

REPORTS = "/sys/kernel/config/tsm/report"
_WRAP = 1 << 64
_MAX_INBLOB_BYTES = 64
_TEXT_BYTES = 4095
_BLOBS = ("outblob", "auxblob", "manifestblob")
_EVERYWHERE = frozenset({"generation", "provider", "inblob", "outblob"})


class Provider(NamedTuple):
    """What a guest driver registers.

    Args:
        name: of the module.
        make: a report and the second blob over what is in `inblob`, at a privilege level. It raises `OSError` as the driver ends.
        attributes: that it has.
        privlevel_floor: of the driver.
        sizes: that `inblob` may have.
    """

    name: str
    make: Callable[[bytes, int], tuple[bytes, bytes]]
    attributes: frozenset[str] = _EVERYWHERE
    privlevel_floor: int = 0
    sizes: range = range(64, 65)


def snp_provider(source: SnpSource, *, floor: int = 0) -> Provider:
    """Return the SEV-SNP guest driver over a source of reports."""
    attributes = _EVERYWHERE | {"privlevel", "privlevel_floor", "auxblob"}
    return Provider("sev_guest", source, attributes, floor)


def cca_provider(platform: CcaPlatform) -> Provider:
    """Return the Arm CCA guest driver of a fake platform."""

    def make(challenge: bytes, _: int) -> tuple[bytes, bytes]:
        return platform.token(realm={10: challenge.ljust(64, b"\0")}), b""

    return Provider("arm_cca_guest", make, sizes=range(32, 65))


class FakeTdxGuest:
    """A trust domain: its quotes, and the register that they carry.

    Args:
        intel: who certifies the platform.
        platform: that it runs on.
        body: of the domain; its RTMR 3 is the register's.
        event_log: CCEL, or none.

    Attributes:
        rtmr3: the register.
        configfs: its requests.
        error: that making a quote ends with, or None.
    """

    def __init__(
        self, intel: FakeIntel, platform: Platform, *, body: TdReport | None = None, event_log: bytes = b""
    ) -> None:
        self.intel, self.platform = intel, platform
        self.body = body if body is not None else TdReport()
        self.event_log = event_log
        self.rtmr3 = FakeMeasurement()
        self.configfs = FakeConfigfs(Provider("tdx_guest", self._make))
        self.error: int | None = None

    def machine(self, *, has_register: bool = True) -> FakeSystem:
        """Return it as a machine; kernels before 6.16 have no file for the register."""
        devices: dict[str, Device] = {REPORTS: self.configfs}
        if has_register:
            devices["/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"] = self.rtmr3
        if self.event_log:
            devices["/sys/firmware/acpi/tables/data/CCEL"] = FakeFile(self.event_log)
        return FakeSystem(devices)

    def _make(self, report_data: bytes, _: int) -> tuple[bytes, bytes]:
        if self.error is not None:
            raise fail(self.error)
        rtmrs = (*self.body.rtmrs[:3], self.rtmr3.value)
        return self.intel.make_quote(replace(self.body, report_data=report_data, rtmrs=rtmrs), self.platform), b""


class FakeReportRequest:
    """One directory.

    Args:
        provider: of the reports.
        generation: to begin with.
        max_blob_bytes: that the kernel passes on.
    """

    def __init__(self, provider: Provider, generation: int, max_blob_bytes: int) -> None:
        self.provider, self.max_blob_bytes = provider, max_blob_bytes
        self.is_alive = True
        self.inblob = b""
        self.privlevel = 0
        self.written, self.made = generation, 0
        self.blobs: dict[str, bytes] | None = None

    def write_inblob(self, data: bytes) -> None:
        """Write `inblob`, as any program may."""
        self._advance()
        self.inblob = data

    def write_privlevel(self, text: bytes) -> None:
        """Write `privlevel`: a number as C writes it."""
        try:
            value = int(text.removesuffix(b"\n"), 0)
        except ValueError:
            raise fail(errno.EINVAL) from None
        if not 0 <= value < 1 << 32:
            raise fail(errno.ERANGE)
        if not self.provider.privlevel_floor <= value <= 3:
            raise fail(errno.EINVAL)
        self._advance()
        self.privlevel = value

    def read_text(self, name: str) -> bytes:
        """Return what is in an attribute that is no blob."""
        values = {
            "generation": self.written,
            "provider": self.provider.name,
            "privlevel_floor": self.provider.privlevel_floor,
        }
        return f"{values[name]}\n".encode()

    def read_blob(self, name: str) -> bytes:
        """Return a blob, for which the report is made if it is not there yet."""
        if not self.inblob:
            raise fail(errno.EINVAL)
        if self.blobs is None or self.made != self.written:
            self.blobs = None
            if len(self.inblob) not in self.provider.sizes:
                raise fail(errno.EINVAL)
            self.blobs = dict(zip(_BLOBS, self.provider.make(self.inblob, self.privlevel), strict=False))
            self.made = self.written
        return self.blobs.get(name, b"")

    def _advance(self) -> None:
        if self.written == (self.made - 1) % _WRAP:
            raise fail(errno.EBUSY)
        self.written = (self.written + 1) % _WRAP


class FakeConfigfs:
    """`/sys/kernel/config/tsm/report`.

    Args:
        provider: None where no driver registered.

    Attributes:
        requests: that there are, by name.
        generation: that requests begin with.
        max_blob_bytes: that the kernel passes on; the first kernels had 32 KiB.
        taken: how many times a name that is asked for is somebody's already.
        on_open: is called with a request and the attribute that is opened, where another program may write.
        errors: that opening an attribute ends with, by name; `mkdir` and `rmdir` too.
    """

    def __init__(self, provider: Provider | None) -> None:
        self.provider = provider
        self.requests: dict[str, FakeReportRequest] = {}
        self.generation = 0
        self.max_blob_bytes = 1 << 24
        self.taken = 0
        self.on_open: Callable[[FakeReportRequest, str], None] | None = None
        self.errors: dict[str, int] = {}

    def machine(self) -> FakeSystem:
        """Return a machine that has nothing else."""
        return FakeSystem({REPORTS: self})

    def mkdir(self, rest: str) -> None:
        """Make a request."""
        self._fail("mkdir")
        if not rest or rest in self.requests or self.taken:
            self.taken = max(0, self.taken - 1)
            raise fail(errno.EEXIST, rest)
        if "/" in rest:
            raise fail(errno.EPERM, rest)
        if self.provider is None:
            raise fail(errno.ENXIO, rest)
        self.requests[rest] = FakeReportRequest(self.provider, self.generation, self.max_blob_bytes)

    def rmdir(self, rest: str) -> None:
        """Remove one."""
        self._fail("rmdir")
        if rest not in self.requests:
            raise fail(errno.ENOENT, rest)
        self.requests.pop(rest).is_alive = False

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open an attribute."""
        name, _, attribute = rest.partition("/")
        request = self.requests.get(name)
        if request is None or attribute not in request.provider.attributes:
            raise fail(errno.ENOENT, rest)
        self._fail(attribute)
        is_written = attribute in {"inblob", "privlevel"}
        if (flags & os.O_ACCMODE) != (os.O_WRONLY if is_written else os.O_RDONLY):
            raise fail(errno.EACCES, rest)
        if self.on_open is not None:
            self.on_open(request, attribute)
        if attribute == "inblob":
            return _Inblob(request)
        return _Text(request, attribute) if attribute not in _BLOBS else _Blob(request, attribute)

    def _fail(self, what: str) -> None:
        if what in self.errors:
            raise fail(self.errors[what], what)


class _Text(OpenFile):
    """An attribute that is no blob: filled at the first read, stored at each write."""

    def __init__(self, request: FakeReportRequest, name: str) -> None:
        self._request, self._name = request, name
        self._page: bytes | None = None
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._page is None:
            _require_alive(self._request)
            self._page = self._request.read_text(self._name)
        taken = self._page[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def write(self, data: bytes) -> int:
        if not data:
            raise fail(errno.EFAULT)
        _require_alive(self._request)
        taken = data[:_TEXT_BYTES]
        self._request.write_privlevel(taken)
        return len(taken)


class _Blob(OpenFile):
    """A blob to read: filled at the first read."""

    def __init__(self, request: FakeReportRequest, name: str) -> None:
        self._request, self._name = request, name
        self._data: bytes | None = None
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._data is None:
            _require_alive(self._request)
            data = self._request.read_blob(self._name)
            if not data:
                return b""
            if len(data) > self._request.max_blob_bytes:
                raise fail(errno.EFBIG)
            self._data = data
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken


class _Inblob(OpenFile):
    """The blob to write: stored when it is closed, and nobody learns whether that failed."""

    def __init__(self, request: FakeReportRequest) -> None:
        self._request = request
        self._data = b""
        self._is_written = False

    def write(self, data: bytes) -> int:
        self._is_written = True
        if len(self._data) + len(data) > _MAX_INBLOB_BYTES:
            raise fail(errno.EFBIG)
        if not data:
            raise fail(errno.EFAULT)
        self._data += data
        return len(data)

    def close(self) -> None:
        if not self._is_written or not self._request.is_alive:
            return
        with contextlib.suppress(OSError):
            self._request.write_inblob(self._data)


def _require_alive(request: FakeReportRequest) -> None:
    if not request.is_alive:
        raise fail(errno.ENOENT)
