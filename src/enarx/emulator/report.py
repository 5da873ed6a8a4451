# SPDX-License-Identifier: Apache-2.0
"""The software security processor: reports of every version and product, and the keys that sign them.

A processor's keys follow from its secret and the TCB version, as the hardware's do: another TCB version is another VCEK, and the
same one is the same VCEK again.

Source: AMD 56860 SEV Secure Nested Paging Firmware ABI, table 23; AMD 57230, section 2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    CHIP_ID_BYTES,
    TCB_LAYOUTS,
    VCEK_GUID,
    VLEK_GUID,
    SnpReport,
    VekClaims,
    line_of,
    serialise_certificate_table,
)
from enarx.emulator.pki import Vendor, issue_vek

__all__ = ["CPUIDS", "SecurityProcessor", "make_report", "make_tcb", "sign_report"]

CPUIDS = {
    "Milan": (0x19, 0x01, 0x01),
    "Genoa": (0x19, 0x11, 0x01),
    "Siena": (0x19, 0xA0, 0x02),
    "Turin": (0x1A, 0x02, 0x01),
}
"""CPUID family, model and stepping, by product."""

_SIGNATURE_NUMBER_BYTES = 48
_DEFAULT_COMPONENTS = {"fmc": 1, "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
_KEY_KINDS = {"VCEK": 0, "VLEK": 1}
_DEFAULT_POLICY = 0x30000
_ALIAS_CHECKED_ECC_SMT = 0b100101


def make_tcb(product: str, **components: int) -> bytes:
    """Return a TCB version's eight bytes.

    Args:
        product: whose layout it has.
        components: from 0 to 255 by name; those left out are a plausible value.
    """
    layout, tcb = TCB_LAYOUTS[product], bytearray(8)
    for name, position in layout.items():
        tcb[position] = components.pop(name, _DEFAULT_COMPONENTS[name])
    if components:
        raise ValueError(f"found {', '.join(components)}, want components of {product}: {', '.join(layout)}")
    return bytes(tcb)


def make_report(product: str = "Milan", version: int = 3, **fields: Any) -> SnpReport:
    """Return an unsigned report as firmware would fill it in.

    Args:
        product: of `CPUIDS`.
        version: 2, 3 or 5.
        fields: of `SnpReport`, instead of the usual values.
    """
    tcb = make_tcb(product)
    cpuid = CPUIDS[product] if version >= 3 else (0, 0, 0)
    mitigations = 0b1011 if version >= 5 else 0
    report = SnpReport(
        version=version,
        guest_svn=0,
        policy=_DEFAULT_POLICY,
        family_id=bytes(16),
        image_id=bytes(16),
        vmpl=0,
        signature_algo=1,
        current_tcb=tcb,
        platform_info=_ALIAS_CHECKED_ECC_SMT,
        key_info=0,
        reserved_4c=bytes(4),
        report_data=bytes(64),
        measurement=hashlib.sha384(b"an emulated guest").digest(),
        host_data=bytes(32),
        id_key_digest=bytes(48),
        author_key_digest=bytes(48),
        report_id=hashlib.sha256(b"an emulated guest").digest(),
        report_id_ma=b"\xff" * 32,
        reported_tcb=tcb,
        cpuid_family=cpuid[0],
        cpuid_model=cpuid[1],
        cpuid_stepping=cpuid[2],
        reserved_18b=bytes(21),
        chip_id=bytes(CHIP_ID_BYTES),
        committed_tcb=tcb,
        current_build=35,
        current_minor=55,
        current_major=1,
        reserved_1eb=0,
        committed_build=35,
        committed_minor=55,
        committed_major=1,
        reserved_1ef=0,
        launch_tcb=tcb,
        launch_mit_vector=mitigations,
        current_mit_vector=mitigations,
        reserved_208=bytes(152),
        signature_r=bytes(48),
        reserved_2d0=bytes(24),
        signature_s=bytes(48),
        reserved_318=bytes(24),
        reserved_330=bytes(368),
    )
    return report._replace(**fields)


def sign_report(report: SnpReport, key: ec.EllipticCurvePrivateKey) -> SnpReport:
    """Return the report with the signature of a P-384 key over it."""
    r, s = decode_dss_signature(key.sign(report.signed_bytes, ec.ECDSA(SHA384())))
    return report._replace(
        signature_r=r.to_bytes(_SIGNATURE_NUMBER_BYTES, "little"),
        signature_s=s.to_bytes(_SIGNATURE_NUMBER_BYTES, "little"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityProcessor:
    """One chip with its firmware.

    Args:
        vendor: whose certificates it has.
        secret: at least 32 bytes, of which everything about the chip follows.
        product: of `CPUIDS`, one of the vendor's line.
        csp_id: the cloud provider whose VLEK it signs with; None signs with the VCEK.
    """

    vendor: Vendor
    secret: bytes = field(repr=False)
    product: str = "Milan"
    csp_id: str | None = None

    def __post_init__(self) -> None:
        if line_of(self.product) != self.vendor.line:
            raise ValueError(f"found {self.product}, want a product of {self.vendor.line}")

    @property
    def hwid(self) -> bytes:
        """Its number as VCEK certificates have it: 8 bytes for Turin, else 64."""
        return self._derive(b"hwid", 8 if self.product == "Turin" else CHIP_ID_BYTES)

    @property
    def chip_id(self) -> bytes:
        """Its number as reports have it: 64 bytes; zeros where a VLEK signs, as clouds mask it then."""
        return bytes(CHIP_ID_BYTES) if self.csp_id is not None else self.hwid.ljust(CHIP_ID_BYTES, b"\0")

    @property
    def kind(self) -> str:
        """The kind of its signing key, `VCEK` or `VLEK`."""
        return "VCEK" if self.csp_id is None else "VLEK"

    def key_for(self, tcb: bytes) -> ec.EllipticCurvePrivateKey:
        """Return the signing key for a TCB version, the same for the same one."""
        # 64 more bits than the order has, so that the remainder is as good as uniform; 0 does not happen.
        number = int.from_bytes(self._derive(self.kind.encode() + tcb, 56), "big")
        return ec.derive_private_key(number % (_P384_ORDER - 1) + 1, ec.SECP384R1())

    def claims_for(self, tcb: bytes) -> VekClaims:
        """Return what the certificate of the signing key for a TCB version says."""
        return VekClaims(
            kind=self.kind,
            product="Milan-B0" if self.product == "Milan" and self.csp_id is None else self.product,
            struct_version=1 if self.product == "Turin" else 0,
            tcb=tcb,
            has_fmc=self.product == "Turin",
            hwid=self.hwid if self.csp_id is None else None,
            csp_id=self.csp_id,
        )

    def certificate_for(self, tcb: bytes, *, at: datetime) -> bytes:
        """Return the certificate of the signing key for a TCB version in DER, valid from a time on."""
        key = self.key_for(tcb).public_key()
        return issue_vek(self.vendor.issuer_of(self.kind), self.claims_for(tcb), key, at=at)

    def certificates_for(self, tcb: bytes, *, at: datetime) -> tuple[bytes, ...]:
        """Return that certificate with its issuers', in DER."""
        return (
            self.certificate_for(tcb, at=at),
            self.vendor.issuer_of(self.kind).certificate,
            self.vendor.ark.certificate,
        )

    def report(self, report_data: bytes = b"", *, version: int = 3, **fields: Any) -> SnpReport:
        """Return a signed report.

        Args:
            report_data: at most 64 bytes, padded with zeros on the right.
            version: 2, 3 or 5.
            fields: of `SnpReport`, instead of the usual values; whatever they are is signed.
        """
        usual = {
            "report_data": report_data.ljust(64, b"\0"),
            "chip_id": self.chip_id,
            "key_info": _KEY_KINDS[self.kind] << 2,
        }
        report = make_report(self.product, version, **(usual | fields))
        return sign_report(report, self.key_for(report.reported_tcb))

    def extended_report(self, report_data: bytes = b"", *, at: datetime, **fields: Any) -> tuple[bytes, bytes]:
        """Return a signed report and the certificate table that comes with it, as bytes."""
        report = self.report(report_data, **fields)
        guids = (VLEK_GUID if self.csp_id is not None else VCEK_GUID, ASK_GUID, ARK_GUID)
        table = zip(guids, self.certificates_for(report.reported_tcb, at=at), strict=True)
        return report.serialise(), serialise_certificate_table(table)

    def _derive(self, what: bytes, size: int) -> bytes:
        return HKDF(algorithm=SHA384(), length=size, salt=None, info=b"enarx emulated chip " + what).derive(self.secret)


# Spec: FIPS 186-5 / SP 800-186 section 3.2.1.4, the order of P-384.
_P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
