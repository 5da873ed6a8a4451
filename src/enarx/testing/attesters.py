# SPDX-License-Identifier: Apache-2.0
"""Machines that do not exist: emulations of the devices that `enarx.attester` asks, exact to the system call.

    guest = FakeTdxGuest(FakeIntel(), Platform())
    attester = find_attester(system=guest.machine())          # the production driver
    attested = attester.attest(report_data)                   # evidence that the production verifier accepts

A `FakeSystem` stands in for the kernel: `devices` says what is under which path, and everything else is not there. Here are the
devices that files and ioctls make; `enarx.testing.attesters_configfs` has configfs-tsm, `enarx.testing.attesters_tpm` a TPM. What
they sign with are the fake vendors of this package.

Rules of these files:

- Written from the kernel's sources, and sharing no layout with `enarx.attester`: a mistake in a driver must not hide in its device.
- Memory is memory: an ioctl's pointers are followed, as the kernel follows them.
- What a test may make go wrong is an attribute.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError
from enarx.testing.dcap import EnclaveReport, FakeIntel, Platform
from enarx.testing.nitro import NitroAuthority
from enarx.testing.snp import AT, FakeAmd

__all__ = [
    "Device",
    "FakeFile",
    "FakeGramine",
    "FakeMeasurement",
    "FakeNsm",
    "FakeSevGuest",
    "FakeSystem",
    "NoFolder",
    "OpenFile",
    "SnpSource",
    "fail",
    "snp_source",
]

SnpSource = Callable[[bytes, int], tuple[bytes, bytes]]
"""Makes a report and a certificate table over 64 bytes of report data, at a VMPL."""

_FIRST_FD = 1000


def fail(number: int, what: str = "") -> OSError:
    """Return the error that a system call ends with."""
    return OSError(number, os.strerror(number), what)


class OpenFile:
    """An open file of a device; what it cannot do, it refuses as the kernel does."""

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        raise fail(errno.EINVAL)

    def write(self, data: bytes) -> int:
        """Write, and return how many bytes were."""
        raise fail(errno.EINVAL)

    def ioctl(self, request: int, argument: memoryview) -> None:
        """Run a call on a structure, as bytes that can be changed."""
        raise fail(errno.ENOTTY)

    def close(self) -> None:
        """Close it."""


class Device(Protocol):
    """What is under a path."""

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open the device, or what is below it by the rest of the path."""
        ...

    def mkdir(self, rest: str) -> None:
        """Make a directory below it."""
        ...

    def rmdir(self, rest: str) -> None:
        """Remove one."""
        ...


class NoFolder:
    """A device without directories."""

    def mkdir(self, rest: str) -> None:
        """Refuse."""
        raise fail(errno.EPERM, rest)

    def rmdir(self, rest: str) -> None:
        """Refuse."""
        raise fail(errno.ENOTDIR, rest)


class FakeSystem:
    """A machine with devices; a `System` for drivers.

    Args:
        devices: by path.

    Attributes:
        calls: every open, mkdir and rmdir with its path, in order.
        slept: every wait, in seconds; none takes time.
        files: open files by descriptor.
    """

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self.devices = dict(devices)
        self.calls: list[tuple[str, str]] = []
        self.slept: list[float] = []
        self.files: dict[int, OpenFile] = {}
        self._next_fd = _FIRST_FD

    def open(self, path: str, flags: int) -> int:
        """Open a file of a device."""
        self.calls.append(("open", path))
        device, rest = self._find(path)
        self._next_fd += 1
        self.files[self._next_fd] = device.open(rest, flags)
        return self._next_fd

    def close(self, fd: int) -> None:
        """Close it."""
        file = self._file(fd)
        del self.files[fd]
        file.close()

    def read(self, fd: int, size: int) -> bytes:
        """Read."""
        return self._file(fd).read(size)

    def write(self, fd: int, data: bytes) -> int:
        """Write."""
        return self._file(fd).write(data)

    def ioctl(self, fd: int, request: int, argument: Any) -> None:
        """Run a call."""
        self._file(fd).ioctl(request, memoryview(argument).cast("B"))

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        self.calls.append(("mkdir", path))
        device, rest = self._find(path)
        device.mkdir(rest)

    def rmdir(self, path: str) -> None:
        """Remove one."""
        self.calls.append(("rmdir", path))
        device, rest = self._find(path)
        device.rmdir(rest)

    def sleep(self, seconds: float) -> None:
        """Note a wait."""
        self.slept.append(seconds)

    def _file(self, fd: int) -> OpenFile:
        if fd not in self.files:
            raise fail(errno.EBADF)
        return self.files[fd]

    def _find(self, path: str) -> tuple[Device, str]:
        for base, device in self.devices.items():
            if path == base or path.startswith(f"{base}/"):
                return device, path[len(base) :].strip("/")
        raise fail(errno.ENOENT, path)


class _Contents(OpenFile):
    """Bytes that are read from their beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int) -> bytes:
        """Read on."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken


class FakeFile(NoFolder):
    """A file.

    Args:
        data: its contents.
        error: that opening it ends with, or None.
    """

    def __init__(self, data: bytes = b"", *, error: int | None = None) -> None:
        self.data, self.error = data, error

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open it."""
        if self.error is not None:
            raise fail(self.error)
        if rest:
            raise fail(errno.ENOTDIR, rest)
        return _Contents(self.data)


class FakeMeasurement(NoFolder):
    """A measurement register in sysfs: written with its size at its beginning, it is extended.

    Args:
        value: at first.
        size: in bytes.

    Attributes:
        ignores: whether it takes what is written and keeps its value.

    Source: Linux drivers/virt/coco/guest/tsm-mr.c.
    """

    def __init__(self, value: bytes | None = None, *, size: int = 48) -> None:
        self.value = bytes(size) if value is None else value
        self.ignores = False

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open it."""
        return _Measurement(self)


class _Measurement(OpenFile):
    def __init__(self, register: FakeMeasurement) -> None:
        self._register, self._at = register, 0

    def read(self, size: int) -> bytes:
        taken = self._register.value[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def write(self, data: bytes) -> int:
        register = self._register
        if self._at or len(data) != len(register.value):
            raise fail(errno.EINVAL)
        if not register.ignores:
            register.value = hashlib.sha384(register.value + data).digest()
        self._at += len(data)
        return len(data)


def snp_source(amd: FakeAmd, *, at: datetime | None = None, with_table: bool = True, **fields: Any) -> SnpSource:
    """Return what makes reports of a fake AMD's chip.

    Args:
        amd: whose.
        at: from when the VCEK's certificate is valid; None is 90 days before `enarx.testing.snp.AT`.
        with_table: whether the host has a certificate table.
        fields: of `SnpReport`, instead of the usual values.
    """
    processor = amd.make_processor()
    since = at if at is not None else AT - timedelta(days=90)

    def make(report_data: bytes, vmpl: int) -> tuple[bytes, bytes]:
        report, table = processor.extended_report(report_data, at=since, **{"vmpl": vmpl, **fields})
        return report, table if with_table else b""

    return make


_SNP_CALL = struct.Struct("<B7xQQQ")
_SNP_REQUEST = struct.Struct("<64sI28s")
_SNP_EXTENDED = struct.Struct("<96sQI4x")
_PAGE = 4096


class FakeSevGuest(NoFolder):
    """/dev/sev-guest.

    Args:
        source: of reports.
        floor: the kernel's own VMPL; firmware refuses reports for a lower one.

    Attributes:
        busy: how often the hypervisor is busy before it answers, in a kernel that passes this on.
        firmware_error: of the next request, or 0; after an error the kernel gives up its key.
        status: in the header of the next answer.
        report_size: that it says there, or None for the right one.
        max_table_bytes: that the kernel passes on.
        has_key: whether the kernel still has one.
        calls: numbers of the requests that were made.

    Source: Linux drivers/virt/coco/sev-guest/sev-guest.c, include/uapi/linux/sev-guest.h.
    """

    GET_REPORT = 0xC0205300
    GET_EXT_REPORT = 0xC0205302

    def __init__(self, source: SnpSource, *, floor: int = 0) -> None:
        self.source, self.floor = source, floor
        self.busy = 0
        self.firmware_error = 0
        self.status = 0
        self.report_size: int | None = None
        self.max_table_bytes = 0x4000
        self.has_key = True
        self.calls: list[int] = []

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open it."""
        if rest:
            raise fail(errno.ENOTDIR, rest)
        return _SevGuest(self)


class _SevGuest(OpenFile):
    def __init__(self, device: FakeSevGuest) -> None:
        self._device = device

    def ioctl(self, request: int, argument: memoryview) -> None:
        device = self._device
        device.calls.append(request)
        version, request_at, response_at, _ = _SNP_CALL.unpack(argument[: _SNP_CALL.size])
        if not version:
            raise fail(errno.EINVAL)
        number, exitinfo2 = 0, 0xFF
        if request == device.GET_REPORT:
            number, exitinfo2 = self._report(request_at, response_at)
        elif request == device.GET_EXT_REPORT:
            number, exitinfo2 = self._extended(request_at, response_at)
        else:
            number = errno.ENOTTY
        if exitinfo2:
            argument[: _SNP_CALL.size] = _SNP_CALL.pack(version, request_at, response_at, exitinfo2)
        if number:
            raise fail(number)

    def _report(self, request_at: int, response_at: int) -> tuple[int, int]:
        if not request_at or not response_at:
            return errno.EINVAL, 0xFF
        return self._ask(ctypes.string_at(request_at, _SNP_REQUEST.size), response_at)[:2]

    def _extended(self, request_at: int, response_at: int) -> tuple[int, int]:
        if not request_at or not response_at:
            return errno.EINVAL, 0xFF
        inner, table_at, size = _SNP_EXTENDED.unpack(ctypes.string_at(request_at, _SNP_EXTENDED.size))
        wants_table = bool(table_at and size)
        if wants_table and (size > self._device.max_table_bytes or size % _PAGE):
            return errno.EINVAL, 0xFF
        # Too small a buffer: the kernel makes the plain request, so that no message number is used twice, and throws it away.
        _, table = self._device.source(inner[:64], 0)
        needed = -(-len(table) // _PAGE) * _PAGE
        if wants_table and needed > size and self._device.has_key and not self._device.busy:
            ctypes.memmove(request_at, _SNP_EXTENDED.pack(inner, table_at, needed), _SNP_EXTENDED.size)
            return errno.EIO, 1 << 32
        number, exitinfo2, table = self._ask(inner, response_at)
        if wants_table and not number:
            ctypes.memmove(table_at, table.ljust(size, b"\0"), size)
        return number, exitinfo2

    def _ask(self, request: bytes, response_at: int) -> tuple[int, int, bytes]:
        device = self._device
        user_data, vmpl, reserved = _SNP_REQUEST.unpack(request)
        if not device.has_key:
            return errno.ENOTTY, 0xFF, b""
        if device.busy:
            device.busy -= 1
            return errno.EAGAIN, 2 << 32, b""
        error, device.firmware_error = device.firmware_error, 0
        if error:
            device.has_key = False
            return errno.EIO, error, b""
        status = device.status or (0x16 if any(reserved) or vmpl < device.floor or vmpl > 3 else 0)
        report, table = (b"", b"") if status else device.source(user_data, vmpl)
        size = len(report) if device.report_size is None else device.report_size
        answer = struct.pack("<II24x", status, 0 if status else size) + report
        ctypes.memmove(response_at, answer.ljust(4000, b"\0"), 4000)
        return 0, 0, table


class FakeGramine(NoFolder):
    """/dev/attestation of a process in an enclave under Gramine.

    Args:
        intel: who certifies the platform.
        platform: that it runs on.
        kind: `dcap`, `epid` or `none`, as the manifest has it.
        body: of the enclave.

    Attributes:
        error: that opening `quote` ends with, or None.
        in_between: is called before a quote is made, where another thread of the process may write.
        user_report_data: of the process; also what a quote is over.

    Source: Gramine libos/src/fs/dev/attestation.c.
    """

    def __init__(
        self, intel: FakeIntel, platform: Platform, *, kind: str = "dcap", body: EnclaveReport | None = None
    ) -> None:
        self.intel, self.platform, self.kind = intel, platform, kind
        self.body = body if body is not None else EnclaveReport()
        self.error: int | None = None
        self.in_between: Callable[[], None] | None = None
        self.user_report_data = bytes(64)

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open one of its files; a quote is made at that moment."""
        if rest == "attestation_type":
            return _Contents(self.kind.encode())
        if rest == "user_report_data":
            return _UserReportData(self)
        if rest != "quote" or self.kind == "none":
            raise fail(errno.ENOENT, rest)
        if self.error is not None:
            raise fail(self.error)
        if self.in_between is not None:
            self.in_between()
        return _Contents(self.intel.make_quote(replace(self.body, report_data=self.user_report_data), self.platform))


class _UserReportData(OpenFile):
    """Takes effect when it is closed; what is short is padded with zeros, what is long is cut."""

    def __init__(self, device: FakeGramine) -> None:
        self._device, self._written = device, b""

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def close(self) -> None:
        if self._written:
            self._device.user_report_data = self._written[:64].ljust(64, b"\0")


_NSM_MESSAGE = struct.Struct("<QQQQ")


class FakeNsm(NoFolder):
    """/dev/nsm.

    Args:
        authority: who certifies the documents.

    Attributes:
        answer: CBOR instead of its own answer, or None.
        error: that the call ends with, or None.

    Source: Linux drivers/misc/nsm.c; aws-nitro-enclaves-nsm-api, src/api.
    """

    IOCTL_RAW = 0xC0200A00

    def __init__(self, authority: NitroAuthority) -> None:
        self.authority = authority
        self.answer: bytes | None = None
        self.error: int | None = None

    def open(self, rest: str, flags: int) -> OpenFile:
        """Open it."""
        return _Nsm(self)


class _Nsm(OpenFile):
    def __init__(self, device: FakeNsm) -> None:
        self._device = device

    def ioctl(self, request: int, argument: memoryview) -> None:
        if request != self._device.IOCTL_RAW or len(argument) != _NSM_MESSAGE.size:
            raise fail(errno.EINVAL)
        request_at, request_size, response_at, response_size = _NSM_MESSAGE.unpack(argument)
        if request_size > 0x1000:
            raise fail(errno.EMSGSIZE)
        if self._device.error is not None:
            raise fail(self._device.error)
        answer = self._device.answer
        if answer is None:
            answer = encode(self._answer(ctypes.string_at(request_at, request_size)))
        # What does not fit is cut off.
        taken = min(response_size, len(answer), 0x3000)
        ctypes.memmove(response_at, answer, taken)
        argument[:] = _NSM_MESSAGE.pack(request_at, request_size, response_at, taken)

    def _answer(self, data: bytes) -> dict[str, Any]:
        try:
            request = decode_untrusted(data, max_bytes=0x1000)
        except DecodeError:
            return {"Error": "InvalidOperation"}
        wanted = request.get("Attestation") if isinstance(request, dict) and len(request) == 1 else None
        if not isinstance(wanted, dict) or wanted.keys() != {"user_data", "nonce", "public_key"}:
            return {"Error": "InvalidOperation"}
        if any(value is not None and type(value) is not bytes for value in wanted.values()):
            return {"Error": "InvalidArgument"}
        if any(len(value or b"") > 1024 for value in wanted.values()):
            return {"Error": "InputTooLarge"}
        return {"Attestation": {"document": self._device.authority.document(changes=wanted)}}
