# SPDX-License-Identifier: Apache-2.0
"""/dev/sev-guest: SEV-SNP reports by ioctl, for kernels without configfs-tsm.

The extended request also brings the host's certificate table. Where the host does not give it in any size that is tried, the
plain request is made instead: certificates can be had from elsewhere.

The kernel waits up to 60 seconds while the hypervisor is busy. Where it gives the busy answer to us, we ask again
`_BUSY_ATTEMPTS` times, `_BUSY_DELAY_S` apart.

Source: Linux include/uapi/linux/sev-guest.h, drivers/virt/coco/sev-guest; AMD 56860, MSG_REPORT_RSP; AMD 56421, section 4.1.8.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from enarx.attester.attested import SNP_REPORT, Attested, RuntimeRegister, attested_snp, require_report_data
from enarx.attester.system import REBOOT_HINT, exists, iowr, refusal
from enarx.errors import PlatformError

if TYPE_CHECKING:
    from enarx.attester.system import System

__all__ = ["ExtReportRequest", "GuestRequest", "ReportRequest", "ReportResponse", "SevGuestAttester", "find_sev_guest"]

DEVICE = "/dev/sev-guest"
_MESSAGE_VERSION = 1
_REPORT_BYTES = 1184
_BUSY_ATTEMPTS = 5
_BUSY_DELAY_S = 2.0
_PAGE_BYTES = 4096
# What the kernel passes on at most, and what we take where it learns to pass on more.
_FIRST_TABLE_BYTES = 4 * _PAGE_BYTES
_MAX_TABLE_BYTES = 64 * _PAGE_BYTES
_MAX_VMPL = 3
_VMM_INVALID_LENGTH = 1
_VMM_BUSY = 2
_FIRMWARE_STATUS = {0x16: "an invalid parameter", 0x27: "an invalid key selection"}


class ReportRequest(ctypes.Structure):
    """struct snp_report_req."""

    _fields_ = (("user_data", ctypes.c_uint8 * 64), ("vmpl", ctypes.c_uint32), ("rsvd", ctypes.c_uint8 * 28))


class ReportResponse(ctypes.Structure):
    """struct snp_report_resp, with the firmware's own header in front of the report."""

    _fields_ = (
        ("status", ctypes.c_uint32),
        ("report_size", ctypes.c_uint32),
        ("rsvd", ctypes.c_uint8 * 24),
        ("report", ctypes.c_uint8 * 3968),
    )


class ExtReportRequest(ctypes.Structure):
    """struct snp_ext_report_req."""

    _fields_ = (("data", ReportRequest), ("certs_address", ctypes.c_uint64), ("certs_len", ctypes.c_uint32))


class GuestRequest(ctypes.Structure):
    """struct snp_guest_request_ioctl."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("exitinfo2", ctypes.c_uint64),
    )


SNP_GET_REPORT = iowr(ord("S"), 0x0, ctypes.sizeof(GuestRequest))
SNP_GET_EXT_REPORT = iowr(ord("S"), 0x2, ctypes.sizeof(GuestRequest))

_MEANINGS: dict[int, tuple[str, str | None]] = {
    errno.EINVAL: ("a request that the kernel refuses", "the kernel may not know this version of the message"),
    errno.ENOTTY: ("a device without a key", REBOOT_HINT),
    errno.ETIMEDOUT: ("no answer in time", REBOOT_HINT),
    errno.EBADMSG: ("an answer that is not the security processor's", REBOOT_HINT),
}


class _RefusedError(Exception):
    """The kernel refused, and says by whom: `firmware` and `vmm` are the halves of `exitinfo2`."""

    def __init__(self, error: OSError, exitinfo2: int) -> None:
        super().__init__(error, exitinfo2)
        self.error, self.firmware, self.vmm = error, exitinfo2 & 0xFFFFFFFF, exitinfo2 >> 32


class SevGuestAttester:
    """A security processor behind /dev/sev-guest.

    Args:
        system: of the machine.
        vmpl: that the report is for, 0 to 3; one above the kernel's own is refused by firmware.
    """

    backend = "snp"
    media_type = SNP_REPORT
    register: RuntimeRegister | None = None

    def __init__(self, system: System, *, vmpl: int = 0) -> None:
        if not 0 <= vmpl <= _MAX_VMPL:
            raise PlatformError(f"cannot attest: {DEVICE}: VMPL: found {vmpl}, want 0 to {_MAX_VMPL}")
        self._system, self._vmpl = system, vmpl

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a report; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        try:
            fd = self._system.open(DEVICE, os.O_RDWR)
        except OSError as error:
            raise refusal(DEVICE, error, _MEANINGS) from error
        try:
            report, table = self._ask(fd, report_data)
        except _RefusedError as error:
            raise _explain(error) from error.error
        finally:
            self._system.close(fd)
        return attested_snp(report, table, report_data, device=DEVICE)

    def _ask(self, fd: int, report_data: bytes) -> tuple[bytes, bytes]:
        request = ReportRequest(vmpl=self._vmpl)
        request.user_data[:] = report_data
        size = _FIRST_TABLE_BYTES
        while size <= _MAX_TABLE_BYTES:
            table = ctypes.create_string_buffer(size)
            extended = ExtReportRequest(data=request, certs_address=ctypes.addressof(table), certs_len=size)
            try:
                return self._call(fd, SNP_GET_EXT_REPORT, extended), table.raw
            except _RefusedError as refused:
                if refused.vmm != _VMM_INVALID_LENGTH and refused.error.errno != errno.EINVAL:
                    raise
                # Either the host's table is larger, and the kernel says how large, or the kernel passes on less than that.
                wanted = -(-extended.certs_len // _PAGE_BYTES) * _PAGE_BYTES
                if wanted <= size:
                    break
                size = wanted
        return self._call(fd, SNP_GET_REPORT, request), b""

    def _call(self, fd: int, number: int, request: ctypes.Structure) -> bytes:
        """Make a request, again while the hypervisor is busy, and return the report in the answer."""
        attempts = 0
        while True:
            response = ReportResponse()
            call = GuestRequest(
                msg_version=_MESSAGE_VERSION,
                req_data=ctypes.addressof(request),
                resp_data=ctypes.addressof(response),
            )
            try:
                self._system.ioctl(fd, number, call)
            except OSError as error:
                refused = _RefusedError(error, call.exitinfo2)
                attempts += 1
                if refused.vmm != _VMM_BUSY or attempts == _BUSY_ATTEMPTS:
                    raise refused from error
                self._system.sleep(_BUSY_DELAY_S)
            else:
                return _take_report(response)


def _take_report(response: ReportResponse) -> bytes:
    if response.status:
        what = _FIRMWARE_STATUS.get(response.status, "an unknown status")
        raise PlatformError(f"cannot attest: {DEVICE}: firmware status: found {response.status:#x}, {what}, want 0")
    if response.report_size != _REPORT_BYTES:
        raise PlatformError(
            f"cannot attest: {DEVICE}: size of the report: found {response.report_size} bytes, want {_REPORT_BYTES}"
        )
    return bytes(response.report)[:_REPORT_BYTES]


def _explain(refused: _RefusedError) -> PlatformError:
    if refused.vmm == _VMM_BUSY:
        return PlatformError(
            f"cannot attest: {DEVICE}: found a busy hypervisor {_BUSY_ATTEMPTS} times, want an answer",
            hint="the host limits how often reports are made; try again later",
        )
    explained = refusal(DEVICE, refused.error, _MEANINGS)
    # The kernel puts 255 there before it asks anybody.
    if refused.vmm or refused.firmware not in {0, 0xFF}:
        told = f"{explained}: hypervisor error {refused.vmm:#x}, firmware error {refused.firmware:#x}"
        return PlatformError(told, hint=explained.hint)
    return explained


def find_sev_guest(system: System) -> SevGuestAttester | None:
    """Return the security processor behind the device, or None where it is not there."""
    return SevGuestAttester(system) if exists(system, DEVICE) else None
