# SPDX-License-Identifier: Apache-2.0
"""What the emulated platform answers a Keep: a signed report and the certificate table, as a guest gets them from the kernel.

What a request and an answer look like is in `enarx.wire.platform_answer`. Who asks, and what was launched there, the caller
says: a guest cannot choose its own measurement.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI, MSG_REPORT_REQ; AMD 56421 GHCB, the certificate table.
"""

from __future__ import annotations

from enarx.emulator.installation import PRODUCT, TCB, Installation
from enarx.emulator.report import make_report, sign_report
from enarx.errors import DecodeError
from enarx.wire.platform_answer import REQUEST_BYTES, encode_answer

__all__ = ["answer"]

_REPORT_VERSION = 3
_GUEST_POLICY = 0x30000


def answer(installation: Installation, request: bytes, *, measurement: bytes, report_id: bytes) -> bytes:
    """Answer one request of a guest.

    Args:
        installation: the platform.
        request: 64 bytes of report data.
        measurement: the launch digest of the guest, 48 bytes.
        report_id: of this guest and no other, 32 bytes.

    Raises:
        DecodeError: the request has another size.
    """
    if len(request) != REQUEST_BYTES:
        raise DecodeError(
            f"cannot answer for the platform: request: found {len(request)} bytes, want {REQUEST_BYTES} of report data"
        )
    report = make_report(
        PRODUCT,
        _REPORT_VERSION,
        policy=_GUEST_POLICY,
        vmpl=0,
        current_tcb=TCB,
        reported_tcb=TCB,
        committed_tcb=TCB,
        launch_tcb=TCB,
        report_data=request,
        measurement=measurement,
        report_id=report_id,
        chip_id=installation.processor.chip_id,
    )
    return encode_answer(sign_report(report, installation.signing_key).serialise(), installation.table)
