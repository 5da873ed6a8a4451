# SPDX-License-Identifier: Apache-2.0
"""Azure's HCL report: what the paravisor of a confidential VM keeps in the virtual TPM's NV index 0x01400001.

    0x000  header: `HCLA`, version, size of what is used, request type, status, 12 reserved bytes
    0x020  the hardware's report, 1184 bytes: an SEV-SNP report, or a TDREPORT in its first 1024
    0x4c0  runtime data: its size with this header, version, report type, hash type, size of the JSON
    0x4d4  the JSON, and zeros to the end

The report data of the hardware's report is a hash of exactly the JSON's bytes. Decoding them is left to whoever has compared that
hash: they are kept as they are.

Source: Microsoft, "Guest attestation for confidential VMs", and github.com/kinvolk/azure-cvm-tooling.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from enarx.errors import DecodeError

__all__ = ["AK_NAME", "HARDWARE_REPORT_BYTES", "HclReport", "parse_hcl_report_untrusted", "serialise_hcl_report"]

MAGIC: Final = b"HCLA"
AK_NAME: Final = "HCLAkPub"
"""The key id of the attestation key among the runtime data's keys."""

HARDWARE_REPORT_BYTES: Final = 1184
MAX_REPORT_BYTES: Final = 8192
_VERSIONS = (1, 2)
_REQUEST_REPORT: Final = 2
_HEADER = struct.Struct("<4sIIII12s")
_RUNTIME = struct.Struct("<IIIII")
_RUNTIME_AT: Final = _HEADER.size + HARDWARE_REPORT_BYTES
_JSON_AT: Final = _RUNTIME_AT + _RUNTIME.size
_TEES: Final = {2: "snp", 4: "tdx"}
_HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
_REPORT_DATA_AT: Final = {2: 0x50, 4: 0x80}


class HclReport(NamedTuple):
    """An HCL report.

    Args:
        version: 1 or 2.
        report_type: 2 for SEV-SNP, 4 for TDX.
        hash_type: 1, 2 or 3 for SHA-256, SHA-384 and SHA-512.
        hardware_report: 1184 bytes.
        runtime_data: JSON, as it was hashed.
        padding: how many zeros follow it.
    """

    version: int
    report_type: int
    hash_type: int
    hardware_report: bytes
    runtime_data: bytes
    padding: int = 0

    @property
    def tee(self) -> str:
        """`snp` or `tdx`."""
        return _TEES[self.report_type]

    @property
    def hash(self) -> str:
        """The hash over the runtime data, by its name in `hashlib`."""
        return _HASHES[self.hash_type]

    @property
    def report_data(self) -> bytes:
        """The 64 bytes in the hardware's report that bind the runtime data."""
        at = _REPORT_DATA_AT[self.report_type]
        return self.hardware_report[at : at + 64]


def parse_hcl_report_untrusted(data: bytes) -> HclReport:
    """Decode an HCL report without believing it.

    Raises:
        DecodeError: anything else, also one that the paravisor marked as failed, of a VM without SNP or TDX, or with anything but zeros
            after the runtime data.
    """
    if not _JSON_AT < len(data) <= MAX_REPORT_BYTES:
        raise _refuse("size", f"{len(data)} bytes", f"{_JSON_AT + 1} to {MAX_REPORT_BYTES}")
    magic, version, size, request, status, reserved = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _refuse("magic", magic.hex(), MAGIC.hex())
    if version not in _VERSIONS:
        raise _refuse("version", version, "1 or 2")
    if request != _REQUEST_REPORT or status or any(reserved):
        raise _refuse("request type and status", f"{request} and {status}", "2 and 0, and zeros after them")
    runtime_size, runtime_version, report_type, hash_type, json_size = _RUNTIME.unpack_from(data, _RUNTIME_AT)
    if runtime_version != 1:
        raise _refuse("runtime data version", runtime_version, "1")
    if report_type not in _TEES:
        raise _refuse("report type", report_type, "2 for SEV-SNP or 4 for TDX")
    if hash_type not in _HASHES:
        raise _refuse("hash type", hash_type, "1 to 3")
    end = _JSON_AT + json_size
    if runtime_size != json_size + _RUNTIME.size or size != end or not json_size or end > len(data):
        raise _refuse(
            "sizes", f"{size}, {runtime_size} and {json_size} in {len(data)} bytes", "sizes that fit each other"
        )
    if any(data[end:]):
        raise _refuse("padding", "other bytes", "zeros to the end")
    if report_type == 4 and any(data[_HEADER.size + 1024 : _RUNTIME_AT]):
        raise _refuse("TDREPORT", "more than 1024 bytes", "zeros after it")
    return HclReport(
        version, report_type, hash_type, data[_HEADER.size : _RUNTIME_AT], data[_JSON_AT:end], len(data) - end
    )


def serialise_hcl_report(report: HclReport) -> bytes:
    """Encode an HCL report."""
    size = len(report.runtime_data)
    return (
        _HEADER.pack(MAGIC, report.version, _JSON_AT + size, _REQUEST_REPORT, 0, bytes(12))
        + report.hardware_report
        + _RUNTIME.pack(size + _RUNTIME.size, 1, report.report_type, report.hash_type, size)
        + report.runtime_data
        + bytes(report.padding)
    )


def _refuse(subject: str, found: object, wanted: str) -> DecodeError:
    return DecodeError(f"cannot decode the HCL report: {subject}: found {found}, want {wanted}")
