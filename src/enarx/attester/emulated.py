# SPDX-License-Identifier: Apache-2.0
"""The emulated platform: SEV-SNP reports by a software security processor of the host's, asked over the link.

What comes back is in the layout of the hardware's, and nothing in it says that it is not; whose root signed it does. It
proves nothing, and verifiers refuse it unless they were told to accept it.

One exchange is 64 bytes of report data, and then two blocks, each a 32-bit big-endian length and as many bytes: a report, as
configfs-tsm's `outblob` has it, and a certificate table, as its `auxblob` has it.
"""

from __future__ import annotations

from collections.abc import Callable

from enarx.attester.attested import SNP_REPORT, Attested, RuntimeRegister, attested_snp, require_report_data
from enarx.errors import DecodeError, PlatformError

__all__ = ["MAX_ANSWER_BYTES", "EmulatedAttester", "encode_answer"]

REPORT_BYTES = 1184
MAX_TABLE_BYTES = 64 << 10
MAX_ANSWER_BYTES = 4 + REPORT_BYTES + 4 + MAX_TABLE_BYTES


class EmulatedAttester:
    """The host's emulated platform.

    Args:
        exchange: sends a request on a stream of its own, and returns the whole answer, of which it need not read more than
            `MAX_ANSWER_BYTES` and one; it bounds its own time.
    """

    backend = "nil"
    media_type = SNP_REPORT
    register: RuntimeRegister | None = None

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a report; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        answer = self._exchange(report_data)
        if not answer:
            raise PlatformError(
                "cannot attest: the emulated platform: found no answer, want a report",
                hint="the host's log says why it refused",
            )
        report, table = _decode_answer(answer)
        return attested_snp(report, table, report_data, device="the emulated platform")


def encode_answer(report: bytes, table: bytes) -> bytes:
    """Return what the host answers.

    Args:
        report: 1184 bytes.
        table: certificates, at most `MAX_TABLE_BYTES`.
    """
    return b"".join(len(block).to_bytes(4, "big") + block for block in (report, table))


def _decode_answer(answer: bytes) -> tuple[bytes, bytes]:
    report, rest = _take_block(answer, REPORT_BYTES)
    table, rest = _take_block(rest, MAX_TABLE_BYTES)
    if rest:
        raise _refusal(f"{len(rest)} bytes after the end", "none")
    return report, table


def _take_block(data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    if len(data) < 4:
        raise _refusal(f"{len(data)} bytes", "a length of 4")
    size = int.from_bytes(data[:4], "big")
    if size > max_bytes:
        raise _refusal(f"a block of {size} bytes", f"at most {max_bytes}")
    if size > len(data) - 4:
        raise _refusal(f"{len(data) - 4} bytes of a block", f"{size}")
    return data[4 : 4 + size], data[4 + size :]


def _refusal(found: str, want: str) -> DecodeError:
    return DecodeError(f"cannot attest: the emulated platform: found {found}, want {want}")
