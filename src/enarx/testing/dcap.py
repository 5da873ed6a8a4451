# SPDX-License-Identifier: Apache-2.0
"""A fake Intel: its certificate authorities, platforms, quoting enclaves and collateral, in the exact formats of the real one.

    intel, platform = FakeIntel(), Platform()
    quote = intel.make_quote(TdReport(), platform)
    collateral = intel.make_collateral(TDX, platform)

gives evidence that is up to date at `AT` for whoever trusts `intel.root.der`. Anything can be made different:

- A certificate, a report, a platform: pass another value. They are frozen records, so `dataclasses.replace` makes neighbours.
- A collateral document: `make_tcb_info` and `make_qe_identity` return plain dicts; change them, then let `intel` sign them.
- A set of collateral: it is an `IntelCollateral`, so `dataclasses.replace` swaps in any part of another.

Rules of this file:

- It is written from Intel's documents and shares no layout with `enarx.abi`: a mistake in a reader must not hide in a writer.
- Keys and serial numbers follow from names, and signatures are deterministic: the same calls give the same bytes, and
  everybody can sign. Nobody may trust these roots.

Source: Intel SGX ECDSA Quote Library Reference (quote 3), TDX DCAP Quoting Library API (quotes 4 and 5), Intel SGX PCK
Certificate and CRL Profile Specification 1.5, Intel SGX and TDX PCS API 4.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from enarx.rats import IntelCollateral

__all__ = [
    "AT",
    "QE_VENDOR_ID",
    "SGX",
    "TDX",
    "EnclaveReport",
    "FakeIntel",
    "Identity",
    "Platform",
    "TdReport",
    "make_isv_level",
    "make_pem",
    "make_qe_identity",
    "make_qe_report",
    "make_sgx_extension",
    "make_tcb_info",
    "make_tcb_level",
]

SGX, TDX = "SGX", "TDX"
AT = datetime(2026, 6, 15, 12, tzinfo=UTC)
"""When the defaults are valid: collateral from 1 June to 1 July 2026."""

QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_EXTENSION_OID = "1.2.840.113741.1.13.1"

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ISSUED, _ENDS = datetime(2018, 5, 21, tzinfo=UTC), datetime(2033, 5, 21, tzinfo=UTC)
_ROOT_ENDS = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
_SINCE, _UNTIL = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
_QE_SIGNER = {SGX: bytes([0x51]) * 32, TDX: bytes([0x7D]) * 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a PCK certificate says about a machine.

    Args:
        fmspc: 6 bytes: family, model, stepping, platform, custom SKU.
        components: 16 SVNs, each 0 to 255.
        pce_svn: 0 to 65535.
        cpu_svn: 16 bytes; None takes the components, as Intel does.
        pce_id: 2 bytes.
        ppid: 16 bytes; the certificate's key follows from them.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        instance_id: 16 bytes; None leaves it and the configuration out, as the Processor CA does.
        configuration: dynamic platform, cached keys, SMT enabled.
    """

    fmspc: bytes = bytes.fromhex("e0d06f000000")
    components: tuple[int, ...] = (9, 9, 3, 3, 5, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0)
    pce_svn: int = 15
    cpu_svn: bytes | None = None
    pce_id: bytes = bytes(2)
    ppid: bytes = bytes(range(16))
    sgx_type: int = 1
    instance_id: bytes | None = bytes(range(16, 32))
    configuration: tuple[bool, bool, bool] = (True, True, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """An SGX enclave's report body, 384 bytes; also a quoting enclave's.

    Args:
        report_data: 64 bytes; None is zeros, and in a quoting enclave's report the digest that certifies the attestation key.
        reserved: what the 4 reserved ranges, of 12, 32, 32 and 42 bytes, are filled with.
    """

    cpu_svn: bytes = bytes([9] * 16)
    misc_select: bytes = bytes(4)
    isv_ext_prod_id: bytes = bytes(16)
    attributes: bytes = bytes.fromhex("0500000000000000e700000000000000")
    mr_enclave: bytes = bytes([0xE1]) * 32
    mr_signer: bytes = bytes([0xE2]) * 32
    config_id: bytes = bytes(64)
    isv_prod_id: int = 1
    isv_svn: int = 8
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    report_data: bytes | None = None
    reserved: int = 0

    def encode(self) -> bytes:
        """Return the 384 bytes."""
        filler = bytes([self.reserved])
        return b"".join(
            (
                self.cpu_svn,
                self.misc_select,
                filler * 12,
                self.isv_ext_prod_id,
                self.attributes,
                self.mr_enclave,
                filler * 32,
                self.mr_signer,
                filler * 32,
                self.config_id,
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                self.config_svn.to_bytes(2, "little"),
                filler * 42,
                self.isv_family_id,
                bytes(64) if self.report_data is None else self.report_data,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """A trust domain's report body: 584 bytes for TDX 1.0, 648 for 1.5.

    Args:
        tee_tcb_svn2: 16 bytes; None makes the body of TDX 1.0, which lacks it and `mr_service_td`.
    """

    tee_tcb_svn: bytes = bytes([6, 1, 4]).ljust(16, b"\0")
    mr_seam: bytes = bytes([0xD1]) * 48
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: bytes = bytes.fromhex("0000001000000000")
    xfam: bytes = bytes.fromhex("e702060000000000")
    mr_td: bytes = bytes([0xD2]) * 48
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes([1]) * 48, bytes([2]) * 48, bytes([3]) * 48, bytes(48))
    report_data: bytes = bytes(64)
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes = bytes(48)

    def encode(self) -> bytes:
        """Return the 584 or 648 bytes."""
        body = b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes,
                self.td_attributes,
                self.xfam,
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmrs,
                self.report_data,
            )
        )
        return body if self.tee_tcb_svn2 is None else body + self.tee_tcb_svn2 + self.mr_service_td


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate and the key that it is for."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, data: bytes) -> bytes:
        """Return a signature as quotes and collateral carry it: r and s, 32 bytes each, big-endian."""
        return _sign(self.key, data)


class FakeIntel:
    """Intel's certificate authorities and what they sign.

    Args:
        name: another name makes other keys under the same subject names: a rogue of the first.

    Attributes:
        root: of everything.
        platform_ca: signs the PCK certificates of multi-socket machines.
        processor_ca: signs those of client machines.
        tcb_signing: signs collateral.
    """

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self.root = self.issue("Intel SGX Root CA", None, path_length=1, until=_ROOT_ENDS)
        self.platform_ca = self.issue("Intel SGX PCK Platform CA", self.root, path_length=0)
        self.processor_ca = self.issue("Intel SGX PCK Processor CA", self.root, path_length=0)
        self.tcb_signing = self.issue("Intel SGX TCB Signing", self.root)

    def issue(
        self,
        subject: str,
        issuer: Identity | None,
        *,
        path_length: int | None = None,
        since: datetime = _ISSUED,
        until: datetime = _ENDS,
        serial: int | None = None,
        key_name: str | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Identity:
        """Make a certificate in the profile of Intel's.

        Args:
            subject: its common name.
            issuer: None signs itself.
            path_length: None makes an end entity, a number a CA.
            since: the first second of validity.
            until: the last.
            serial: None makes one of 20 bytes from the names.
            key_name: names with equal key names have equal keys; None is the subject.
            extensions: more of them, each with whether it is critical.
        """
        key = self._derive_key(key_name or subject)
        public_key = key.public_key()
        signer = issuer.key if issuer is not None else key
        names = _name(subject)
        builder = (
            x509.CertificateBuilder(issuer_name=issuer.certificate.subject if issuer is not None else names)
            .subject_name(names)
            .public_key(public_key)
            .serial_number(self._derive(f"serial {subject} {key_name}") >> 353 if serial is None else serial)
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(_distribution_point(subject), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_key_usage(is_ca=path_length is not None), critical=True)
            .add_extension(x509.BasicConstraints(path_length is not None, path_length), critical=True)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return Identity(key=key, certificate=builder.sign(signer, SHA256(), ecdsa_deterministic=True))

    def certify(
        self,
        platform: Platform,
        *,
        issuer: Identity | None = None,
        since: datetime = _ISSUED,
        until: datetime = _ENDS,
        serial: int | None = None,
        sgx_extension: bytes | None = None,
    ) -> Identity:
        """Make the PCK certificate of a platform.

        Args:
            platform: what it says.
            issuer: None is the Platform CA, or the Processor CA where the platform has no instance id.
            since: as for `issue`, like `until` and `serial`.
            until: the last second of validity.
            serial: None makes one.
            sgx_extension: the extension's content in place of the platform's; empty leaves the extension out.
        """
        if issuer is None:
            issuer = self.processor_ca if platform.instance_id is None else self.platform_ca
        content = make_sgx_extension(platform) if sgx_extension is None else sgx_extension
        extension = x509.UnrecognizedExtension(ObjectIdentifier(SGX_EXTENSION_OID), content)
        return self.issue(
            "Intel SGX PCK Certificate",
            issuer,
            since=since,
            until=until,
            serial=serial,
            key_name=f"PCK {platform.ppid.hex()}",
            extensions=[(extension, False)] if content else [],
        )

    def make_quote(
        self,
        body: EnclaveReport | TdReport,
        platform: Platform,
        *,
        version: int | None = None,
        pck: Identity | None = None,
        chain: Sequence[bytes] | None = None,
        qe_report: EnclaveReport | None = None,
        qe_auth: bytes = bytes(range(32)),
        certification: tuple[int, bytes] | None = None,
        user_data: bytes = bytes(20),
    ) -> bytes:
        """Return a quote about an enclave or a trust domain.

        Args:
            body: of the attester; it decides the TEE.
            platform: it ran on.
            version: 3, 4 or 5; None is 3 for enclaves, 4 for TDX 1.0 and 5 for TDX 1.5.
            pck: who certifies the quoting enclave; None certifies the platform.
            chain: certificates that the quote carries, in DER or any other bytes; None is the PCK's, its CA's and the root's.
            qe_report: of the quoting enclave; None is one that `make_qe_identity` calls up to date.
            qe_auth: the quoting enclave's authentication data, at most 65535 bytes.
            certification: type and content of the certification data; None is 5, the chain in PEM with a zero after it.
            user_data: the header's last 20 bytes.
        """
        tee = SGX if isinstance(body, EnclaveReport) else TDX
        encoded = body.encode()
        if version is None:
            version = 3 if tee == SGX else 4 if len(encoded) == 584 else 5
        signed = _make_header(tee, version, user_data)
        if version == 5:
            signed += {384: 1, 584: 2, 648: 3}[len(encoded)].to_bytes(2, "little") + _sized(encoded)
        else:
            signed += encoded
        return self.sign_quote(
            signed,
            tee,
            platform,
            version=version,
            pck=pck,
            chain=chain,
            qe_report=qe_report,
            qe_auth=qe_auth,
            certification=certification,
        )

    def sign_quote(
        self,
        signed: bytes,
        tee: str,
        platform: Platform,
        *,
        version: int,
        pck: Identity | None = None,
        chain: Sequence[bytes] | None = None,
        qe_report: EnclaveReport | None = None,
        qe_auth: bytes = bytes(range(32)),
        certification: tuple[int, bytes] | None = None,
    ) -> bytes:
        """Return a quote over any bytes in the place of header and body; the other arguments are `make_quote`'s."""
        pck = pck if pck is not None else self.certify(platform)
        if chain is None:
            issuer = self.processor_ca if platform.instance_id is None else self.platform_ca
            chain = (pck.der, issuer.der, self.root.der)
        key = self._derive_key(f"attestation {tee} {platform.ppid.hex()}")
        public_key = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        report = (qe_report if qe_report is not None else make_qe_report(tee)).encode()
        if qe_report is None or qe_report.report_data is None:
            report = report[:320] + hashlib.sha256(public_key + qe_auth).digest() + bytes(32)
        kind, content = certification if certification is not None else (5, make_pem(chain) + b"\0")
        enclave = report + pck.sign(report) + len(qe_auth).to_bytes(2, "little") + qe_auth
        enclave += kind.to_bytes(2, "little") + _sized(content)
        if version > 3:
            enclave = (6).to_bytes(2, "little") + _sized(enclave)
        return signed + _sized(_sign(key, signed) + public_key + enclave)

    def sign_tcb_info(self, document: Mapping[str, Any] | bytes, *, signer: Identity | None = None) -> bytes:
        """Return TCB info as Intel's service returns it; bytes are signed as they are."""
        return _sign_document("tcbInfo", document, signer if signer is not None else self.tcb_signing)

    def sign_qe_identity(self, document: Mapping[str, Any] | bytes, *, signer: Identity | None = None) -> bytes:
        """Return a quoting enclave's identity as Intel's service returns it; bytes are signed as they are."""
        return _sign_document("enclaveIdentity", document, signer if signer is not None else self.tcb_signing)

    def make_crl(
        self,
        issuer: Identity,
        revoked: Sequence[x509.Certificate] = (),
        *,
        since: datetime = _SINCE,
        until: datetime = _UNTIL,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """Return a revocation list in DER.

        Args:
            issuer: whose list.
            revoked: its certificates that are revoked.
            since: the list's date.
            until: when the next one comes.
            key: that signs; None is the issuer's.
        """
        builder = (
            x509.CertificateRevocationListBuilder(issuer.certificate.subject, since, until)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        )
        for certificate in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(certificate.serial_number, since)
                .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
                .build()
            )
        crl = builder.sign(issuer.key if key is None else key, SHA256(), ecdsa_deterministic=True)
        return crl.public_bytes(Encoding.DER)

    def make_collateral(
        self,
        tee: str,
        platform: Platform,
        *,
        tcb_info: Mapping[str, Any] | bytes | None = None,
        qe_identity: Mapping[str, Any] | bytes | None = None,
        revoked_pcks: Sequence[x509.Certificate] = (),
        revoked_by_root: Sequence[x509.Certificate] = (),
        since: datetime = _SINCE,
        until: datetime = _UNTIL,
    ) -> IntelCollateral:
        """Return what Intel's service answers for a platform.

        Args:
            tee: `SGX` or `TDX`.
            platform: for its FMSPC and its CA.
            tcb_info: None is `make_tcb_info`'s, for which the platform is up to date.
            qe_identity: None is `make_qe_identity`'s.
            revoked_pcks: by the platform's CA.
            revoked_by_root: CAs, signers, or the root itself.
            since: when all of it was made.
            until: when all of it ends.
        """
        issuer = self.processor_ca if platform.instance_id is None else self.platform_ca
        if tcb_info is None:
            tcb_info = make_tcb_info(tee, platform, since=since, until=until)
        if qe_identity is None:
            qe_identity = make_qe_identity(tee, since=since, until=until)
        signers = (self.tcb_signing.der, self.root.der)
        return IntelCollateral(
            tcb_info=self.sign_tcb_info(tcb_info),
            tcb_info_chain=signers,
            qe_identity=self.sign_qe_identity(qe_identity),
            qe_identity_chain=signers,
            pck_crl=self.make_crl(issuer, revoked_pcks, since=since, until=until),
            pck_crl_chain=(issuer.der, self.root.der),
            root_ca_crl=self.make_crl(self.root, revoked_by_root, since=since, until=until),
        )

    def _derive(self, what: str) -> int:
        return int.from_bytes(hashlib.sha512(f"enarx fake Intel {self.name}: {what}".encode()).digest(), "big")

    def _derive_key(self, what: str) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(1 + self._derive(f"key {what}") % (_P256_ORDER - 1), ec.SECP256R1())


def make_pem(chain: Sequence[bytes]) -> bytes:
    """Return certificates in PEM; what is not DER is wrapped all the same."""
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in chain).encode()


def make_qe_report(tee: str) -> EnclaveReport:
    """Return the report of the quoting enclave of a TEE, as `make_qe_identity` describes it."""
    return EnclaveReport(
        attributes=bytes.fromhex("1500000000000000e700000000000000"),
        mr_enclave=bytes([0xE3]) * 32,
        mr_signer=_QE_SIGNER[tee],
        isv_prod_id=1 if tee == SGX else 2,
        isv_svn=8,
    )


def make_tcb_level(
    components: Sequence[int],
    pce_svn: int,
    status: str = "UpToDate",
    *,
    tdx: Sequence[int] | None = None,
    date: datetime = datetime(2025, 11, 12, tzinfo=UTC),
    advisories: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one level of TCB info.

    Args:
        components: 16 SVNs of the platform.
        pce_svn: of the provisioning certification enclave.
        status: Intel's word.
        tdx: 16 SVNs of TEE_TCB_SVN; None leaves them out.
        date: of the level.
        advisories: ids; none leaves the key out, as Intel does.
    """
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in components], "pcesvn": pce_svn}
    if tdx is not None:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in tdx]
    return _make_level(tcb, status, date, advisories)


def make_isv_level(
    isv_svn: int,
    status: str = "UpToDate",
    *,
    date: datetime = datetime(2025, 11, 12, tzinfo=UTC),
    advisories: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one level of a quoting enclave or of a TDX module; the arguments are `make_tcb_level`'s."""
    return _make_level({"isvsvn": isv_svn}, status, date, advisories)


def make_tcb_info(
    tee: str, platform: Platform, *, since: datetime = _SINCE, until: datetime = _UNTIL, evaluation: int = 20
) -> dict[str, Any]:
    """Return TCB info, version 3, with three levels, the platform at the highest; for TDX with the module of `TdReport`.

    Args:
        tee: `SGX` or `TDX`.
        platform: for its FMSPC, its PCE id and its SVNs.
        since: its issue date.
        until: its next update.
        evaluation: the TCB evaluation data number.
    """
    older = tuple(max(svn - 1, 0) for svn in platform.components)
    is_tdx = tee == TDX
    document: dict[str, Any] = {
        "id": tee,
        "version": 3,
        "issueDate": _time(since),
        "nextUpdate": _time(until),
        "fmspc": platform.fmspc.hex(),
        "pceId": platform.pce_id.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": evaluation,
    }
    if is_tdx:
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        levels = [
            make_isv_level(6),
            make_isv_level(
                4, "OutOfDate", date=datetime(2024, 3, 13, tzinfo=UTC), advisories=("INTEL-SA-90003", "INTEL-SA-90001")
            ),
        ]
        document["tdxModule"] = module
        document["tdxModuleIdentities"] = [
            {"id": "TDX_03", **module, "tcbLevels": [make_isv_level(3)]},
            {"id": "TDX_01", **module, "tcbLevels": levels},
        ]
    document["tcbLevels"] = [
        make_tcb_level(platform.components, platform.pce_svn, tdx=_tdx(5, 0, 4) if is_tdx else None),
        make_tcb_level(
            older,
            platform.pce_svn,
            "OutOfDate",
            tdx=_tdx(5, 0, 3) if is_tdx else None,
            date=datetime(2024, 3, 13, tzinfo=UTC),
            advisories=("INTEL-SA-90001", "INTEL-SA-90002"),
        ),
        make_tcb_level(
            (0,) * 16,
            5,
            "OutOfDate",
            tdx=_tdx(0, 0, 0) if is_tdx else None,
            date=datetime(2018, 1, 4, tzinfo=UTC),
            advisories=("INTEL-SA-90001", "INTEL-SA-90002", "INTEL-SA-90004"),
        ),
    ]
    return document


def make_qe_identity(
    tee: str, *, since: datetime = _SINCE, until: datetime = _UNTIL, evaluation: int = 20
) -> dict[str, Any]:
    """Return the identity, version 2, of the quoting enclave of a TEE; the arguments are `make_tcb_info`'s."""
    return {
        "id": "QE" if tee == SGX else "TD_QE",
        "version": 2,
        "issueDate": _time(since),
        "nextUpdate": _time(until),
        "tcbEvaluationDataNumber": evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": _QE_SIGNER[tee].hex().upper(),
        "isvprodid": 1 if tee == SGX else 2,
        "tcbLevels": [
            make_isv_level(8),
            make_isv_level(6, "OutOfDate", date=datetime(2024, 3, 13, tzinfo=UTC), advisories=("INTEL-SA-90005",)),
        ],
    }


def make_sgx_extension(platform: Platform) -> bytes:
    """Return the content of a PCK certificate's SGX extension in DER.

    Spec: Intel SGX PCK Certificate and CRL Profile Specification 1.5 section 1.3.5.
    """
    cpu_svn = bytes(platform.components) if platform.cpu_svn is None else platform.cpu_svn
    tcb = [_field(f"2.{index}", _integer(svn)) for index, svn in enumerate(platform.components, 1)]
    tcb += [_field("2.17", _integer(platform.pce_svn)), _field("2.18", _octets(cpu_svn))]
    fields = [
        _field("1", _octets(platform.ppid)),
        _field("2", _sequence(tcb)),
        _field("3", _octets(platform.pce_id)),
        _field("4", _octets(platform.fmspc)),
        _field("5", _tlv(0x0A, bytes([platform.sgx_type]))),
    ]
    if platform.instance_id is not None:
        flags = [
            _field(f"7.{index}", _tlv(1, b"\xff" if flag else b"\0"))
            for index, flag in enumerate(platform.configuration, 1)
        ]
        fields += [_field("6", _octets(platform.instance_id)), _field("7", _sequence(flags))]
    return _sequence(fields)


def _make_header(tee: str, version: int, user_data: bytes) -> bytes:
    """Return the 48 bytes of a quote's header; version 3 has the SVNs of QE and PCE where later ones have a reserved word."""
    tee_type = 0 if tee == SGX else 0x81
    header = version.to_bytes(2, "little") + (2).to_bytes(2, "little") + tee_type.to_bytes(4, "little")
    svns = (8).to_bytes(2, "little") + (15).to_bytes(2, "little") if version == 3 else bytes(4)
    return header + svns + QE_VENDOR_ID + user_data


def _make_level(tcb: Mapping[str, Any], status: str, date: datetime, advisories: Sequence[str]) -> dict[str, Any]:
    level: dict[str, Any] = {"tcb": tcb, "tcbDate": _time(date), "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _sign_document(member: str, document: Mapping[str, Any] | bytes, signer: Identity) -> bytes:
    if not isinstance(document, bytes):
        document = json.dumps(document, separators=(",", ":")).encode()
    signature = signer.sign(document).hex().encode()
    return b'{"' + member.encode() + b'":' + document + b',"signature":"' + signature + b'"}'


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _tdx(*svns: int) -> tuple[int, ...]:
    return svns + (0,) * (16 - len(svns))


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Intel Corporation"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _distribution_point(subject: str) -> x509.CRLDistributionPoints:
    """Return where a certificate's revocation list would be: a name that no resolver knows, so that nobody can fetch it."""
    location = x509.UniformResourceIdentifier(f"https://intel.invalid/{subject.replace(' ', '')}.crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([location], None, None, None)])


def _field(suffix: str, value: bytes) -> bytes:
    """Return an object identifier below the SGX extension's, and its value, as one SEQUENCE."""
    arcs = [int(arc) for arc in f"{SGX_EXTENSION_OID}.{suffix}".split(".")]
    content = bytes([40 * arcs[0] + arcs[1]])
    for arc in arcs[2:]:
        septets = [arc >> shift & 0x7F for shift in range(28, -1, -7) if arc >> shift or not shift]
        content += bytes([*(septet | 0x80 for septet in septets[:-1]), septets[-1]])
    return _sequence([_tlv(6, content), value])


def _integer(value: int) -> bytes:
    return _tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _octets(value: bytes) -> bytes:
    return _tlv(4, value)


def _sequence(items: Sequence[bytes]) -> bytes:
    return _tlv(0x30, b"".join(items))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
