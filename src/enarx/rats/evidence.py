# SPDX-License-Identifier: Apache-2.0
"""Evidence: bytes that an attester, or whoever stands between, handed over. Nothing here believes them."""

from __future__ import annotations

from dataclasses import dataclass

from enarx.errors import DecodeError

__all__ = ["MAX_EVIDENCE_BYTES", "Evidence"]

# The largest real evidence known, a TPM quote with its event logs and certificates, is below 300 KB.
MAX_EVIDENCE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an attester sent.

    Args:
        data: 1 to `MAX_EVIDENCE_BYTES` bytes.
        media_type: what the sender calls it, or None. It is a hint for messages; the format is recognised from the bytes.

    Raises:
        DecodeError: empty, or larger than the limit.
    """

    data: bytes
    media_type: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.data) <= MAX_EVIDENCE_BYTES:
            raise DecodeError(
                f"cannot decode the evidence: size: found {len(self.data)} bytes, want 1 to {MAX_EVIDENCE_BYTES}",
                hint="pass the report, quote, token or bundle itself",
            )
