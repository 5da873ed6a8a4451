# SPDX-License-Identifier: Apache-2.0
"""One exchange with the emulated platform, over a stream of its own: what a Keep asks, and what its host answers.

A request is 64 bytes of report data. An answer is two blocks, each a 32-bit big-endian length and as many bytes: a report, as
configfs-tsm's `outblob` has it, and a certificate table, as its `auxblob` has it.
"""

from __future__ import annotations

from enarx.errors import DecodeError

__all__ = ["MAX_ANSWER_BYTES", "REQUEST_BYTES", "decode_answer_untrusted", "encode_answer"]

REQUEST_BYTES = 64
_REPORT_BYTES = 1184
_MAX_TABLE_BYTES = 64 << 10
MAX_ANSWER_BYTES = 4 + _REPORT_BYTES + 4 + _MAX_TABLE_BYTES


def encode_answer(report: bytes, table: bytes) -> bytes:
    """Return what the host answers.

    Args:
        report: 1184 bytes.
        table: certificates, at most 65536 bytes.
    """
    return b"".join(len(block).to_bytes(4, "big") + block for block in (report, table))


def decode_answer_untrusted(answer: bytes) -> tuple[bytes, bytes]:
    """Return the report and the table of an answer.

    Args:
        answer: all of it, or its first `MAX_ANSWER_BYTES` and one.

    Raises:
        DecodeError: it is none. Nothing else, for any input.
    """
    report, rest = _take_block(answer, _REPORT_BYTES)
    table, rest = _take_block(rest, _MAX_TABLE_BYTES)
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
