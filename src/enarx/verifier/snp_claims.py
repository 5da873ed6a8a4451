# SPDX-License-Identifier: Apache-2.0
"""What SNP evidence is before and after it was judged, and what the modules that judge it share.

`verifier.snp` examines, `snp_chain` knows the certificates, `snp_rules` the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from enarx.abi.snp import CHIP_ID_BYTES, SnpReport, VekClaims, tcb_components
from enarx.rats import Check, Concern

__all__ = ["ABI", "AMD_NAME", "KDS", "NOTHING", "SnpClaims", "SnpEvidence", "check_of", "is_masked"]

ABI = "AMD 56860"
KDS = "AMD 57230"
AMD_NAME = b"Advanced Micro Devices"
NOTHING: frozenset[str] = frozenset()
_NO_CHIP_ID = bytes(CHIP_ID_BYTES)


def check_of(name: str, title: str, spec: str) -> Check:
    """Make an authenticity check of SNP evidence."""
    return Check(f"snp.{name}", title, Concern.AUTHENTICITY, spec)


def is_masked(report: SnpReport) -> bool:
    """Return whether a report hides which chip it is of."""
    return report.chip_id == _NO_CHIP_ID


class SnpEvidence(NamedTuple):
    """A report, and what came in the same wrapper.

    Args:
        report: decoded.
        table: GUID and content of each entry of the certificate table; a GUID may be empty where the wrapper has none.
    """

    report: SnpReport
    table: tuple[tuple[str, bytes], ...] = ()


class SnpClaims(NamedTuple):
    """What a report and the VEK certificate it was judged with say.

    Args:
        report: decoded.
        product: whose TCB layout the report has: by CPUID, before version 3 by the VEK; None where neither says.
        vek: what the certificate says, or None where there was none.
        dates: its first and last second, or None.
        issuer: its issuer's common name, or None.
        entries: GUIDs of the certificate table that have no known meaning.
        revocation: `checked`, or UNDECIDED where no current revocation list came along.
    """

    report: SnpReport
    product: str | None
    vek: VekClaims | None
    dates: tuple[datetime, datetime] | None
    issuer: str | None
    entries: frozenset[str]
    revocation: object

    def named(self) -> Mapping[str, object]:
        """Return the claims by AMD's names in lower case."""
        report, vek = self.report, self.vek
        named: dict[str, object] = {
            "version": report.version,
            "guest_svn": report.guest_svn,
            "policy": report.policy,
            "vmpl": report.vmpl,
            "measurement": report.measurement,
            "host_data": report.host_data,
            "report_data": report.report_data,
            "chip_id": report.chip_id,
            "report_id": report.report_id,
            "report_id_ma": report.report_id_ma,
            "family_id": report.family_id,
            "image_id": report.image_id,
            "id_key_digest": report.id_key_digest,
            "author_key_digest": report.author_key_digest,
            "author_key_en": bool(report.key_info & 1),
            "mask_chip_key": bool(report.key_info & 2),
            "signing_key": report.signing_key,
            "signature_algo": report.signature_algo,
            "platform_info": report.platform_info,
            "current_tcb": report.current_tcb,
            "reported_tcb": report.reported_tcb,
            "committed_tcb": report.committed_tcb,
            "launch_tcb": report.launch_tcb,
            "cpuid": bytes((report.cpuid_family, report.cpuid_model, report.cpuid_stepping)),
            "cur_ver": f"{report.current_major}.{report.current_minor}.{report.current_build}",
            "com_ver": f"{report.committed_major}.{report.committed_minor}.{report.committed_build}",
            "launch_mit": report.launch_mit_vector,
            "current_mit": report.current_mit_vector,
        }
        if vek is not None:
            components = tcb_components(vek.tcb, "Turin" if vek.has_fmc else "Milan") or {}
            named |= {
                "vek_kind": vek.kind,
                "vek_issuer": self.issuer,
                "product": vek.product,
                "csp_id": vek.csp_id,
                "vek_tcb": {
                    "bl": components["bootloader"],
                    "tee": components["tee"],
                    "snp": components["snp"],
                    "ucode": components["microcode"],
                    "fmc": components.get("fmc"),
                },
            }
        if self.dates is not None:
            named["vek_not_before"], named["vek_not_after"] = (f"{date:%Y-%m-%d}" for date in self.dates)
        return named
