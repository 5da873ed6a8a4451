# SPDX-License-Identifier: Apache-2.0
"""A fake AMD: genuine-looking SEV-SNP evidence, and neighbours of it that are wrong in one way.

    amd = FakeAmd()
    case = amd.make_case()                                  # accepted at `AT` by whoever trusts `case.anchors`
    case = amd.make_case(vek={"hwid": bytes(64)})           # authentic in all but the chip
    case = dataclasses.replace(case, crls=(amd.make_crl(revoked=["ask"]),))

- A report's fields are changed before it is signed, with `report={...}`; to change them after, replace `case.report`.
- What the VEK certificate says is changed with `vek={...}`; how it is issued with `issuer`, `at`, `lifetime`, `name`, `extensions`.
- Swapping in another case's certificates, report, lists or anchors is `dataclasses.replace`.

The keys of each owner are made once per process, because RSA-4096 keys are slow to make. Nobody may trust these roots.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from enarx.abi.snp import SnpReport
from enarx.emulator.pki import (
    Authority,
    Vendor,
    issue_vek,
    make_crl,
    make_vendor,
    make_vendor_key,
)
from enarx.emulator.report import SecurityProcessor
from enarx.rats import Endorsements, TrustAnchors
from enarx.verifier.snp import SnpEvidence

__all__ = ["AT", "FakeAmd", "SnpCase"]

AT = datetime(2026, 6, 1, tzinfo=UTC)
"""When everything is valid, if not said otherwise."""

_START = AT - timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpCase:
    """Evidence with everything needed to judge it.

    Args:
        report: signed.
        certificates: DER, the VEK's first, then its issuers'.
        crls: DER.
        anchors: of the relying party.
        at: when to judge.
        table: entries of the certificate table: GUID and content.
    """

    report: SnpReport
    certificates: tuple[bytes, ...]
    anchors: TrustAnchors
    crls: tuple[bytes, ...] = ()
    at: datetime = AT
    table: tuple[tuple[str, bytes], ...] = ()

    @property
    def data(self) -> bytes:
        """The report's bytes."""
        return self.report.serialise()

    @property
    def parsed(self) -> SnpEvidence:
        """What the SNP judge examines."""
        return SnpEvidence(self.report, self.table)

    @property
    def endorsements(self) -> Endorsements:
        """Certificates and revocation lists."""
        return Endorsements(certificates=self.certificates, crls=self.crls)


class FakeAmd:
    """A vendor with AMD's names.

    Args:
        line: `Milan`, `Genoa` or `Turin`.
        owner: whose keys; another word makes a vendor whose certificates look the same and are not.
    """

    def __init__(self, line: str = "Milan", *, owner: str = "amd") -> None:
        self.line = line
        self.owner = owner
        self.vendor: Vendor = make_vendor(line=line, at=_START - timedelta(days=365), keys=_KEYS[owner])

    @property
    def root(self) -> bytes:
        """The ARK certificate in DER."""
        return self.vendor.ark.certificate

    @property
    def anchors(self) -> TrustAnchors:
        """What a relying party has that takes this vendor for AMD."""
        return TrustAnchors(amd=(self.root,))

    @property
    def emulated_anchors(self) -> TrustAnchors:
        """What a relying party has that accepts this vendor as an emulated platform's."""
        return TrustAnchors(insecure_emulated=frozenset({hashlib.sha256(self.root).digest()}))

    def make_processor(
        self, product: str | None = None, *, csp_id: str | None = None, chip: str = "chip"
    ) -> SecurityProcessor:
        """Return a chip; the same words give the same one."""
        secret = hashlib.sha256(f"{self.owner}/{chip}".encode()).digest()
        return SecurityProcessor(vendor=self.vendor, secret=secret, product=product or self.line, csp_id=csp_id)

    def make_case(
        self,
        *,
        product: str | None = None,
        version: int = 3,
        csp_id: str | None = None,
        chip: str = "chip",
        report: Mapping[str, Any] | None = None,
        vek: Mapping[str, Any] | None = None,
        issuer: Authority | None = None,
        at: datetime = _START,
        lifetime: timedelta = timedelta(days=365),
        name: str | None = None,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] | None = None,
    ) -> SnpCase:
        """Return evidence of one chip and its certificates; without arguments it is accepted at `AT`.

        Args:
            product: of the chip; None is the line's own.
            version: of the report.
            csp_id: signs with this cloud provider's VLEK instead of the VCEK.
            chip: which chip.
            report: fields of the report that are other than usual, before it is signed.
            vek: fields of `VekClaims` that are other than the chip's.
            issuer: who signs the VEK certificate; None is the ASK or ASVK.
            at: when the VEK certificate becomes valid.
            lifetime: for how long it is.
            name: the VEK's common name.
            public_key: in the VEK certificate instead of the chip's.
            extensions: of the VEK certificate, instead of all that its claims give.
        """
        processor = self.make_processor(product, csp_id=csp_id, chip=chip)
        signed = processor.report(**({"version": version} | dict(report or {})))
        key = public_key if public_key is not None else processor.key_for(signed.reported_tcb).public_key()
        usual_issuer = self.vendor.issuer_of(processor.kind)
        certificate = issue_vek(
            issuer if issuer is not None else usual_issuer,
            processor.claims_for(signed.reported_tcb)._replace(**(vek or {})),
            key,
            at=at,
            lifetime=lifetime,
            name=name,
            extensions=extensions,
        )
        return SnpCase(
            report=signed,
            certificates=(certificate, (issuer if issuer is not None else usual_issuer).certificate, self.root),
            anchors=self.anchors,
        )

    def make_crl(
        self,
        *,
        revoked: Sequence[str] = (),
        at: datetime = _START,
        lifetime: timedelta = timedelta(days=365),
        signer: rsa.RSAPrivateKey | None = None,
    ) -> bytes:
        """Return the ARK's revocation list in DER.

        Args:
            revoked: of `ark`, `ask` and `asvk`.
            at: when it becomes current.
            lifetime: for how long it is.
            signer: whose key signs it; None is the ARK's.
        """
        authorities = {"ark": self.vendor.ark, "ask": self.vendor.ask, "asvk": self.vendor.asvk}
        serials = [x509.load_der_x509_certificate(authorities[each].certificate).serial_number for each in revoked]
        return make_crl(self.vendor.ark, serials, at=at, lifetime=lifetime, signer=signer)


_KEYS: defaultdict[str, tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey, rsa.RSAPrivateKey]] = defaultdict(
    lambda: (make_vendor_key(), make_vendor_key(), make_vendor_key())
)
