# SPDX-License-Identifier: Apache-2.0
"""Keeps that ask for certificates: evidence of a fake AMD over what a Steward asks, and policies that accept it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256, sha384
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attester.attested import SNP_REPORT, make_endorsement, make_evidence
from enarx.channel.transcript import identity_report_data, leaf_hash
from enarx.steward.authority import Authority, make_authority
from enarx.steward.certificates import spki_of
from enarx.steward.configuration import Configuration, Grant
from enarx.steward.judging import Judge, OperatorPolicy, make_policy
from enarx.testing.snp import FakeAmd
from enarx.wire.release import Identity, encode_identity
from enarx.wire.session import Limits, Receipt, without_evidence
from enarx.wire.steward import CertificateRequest
from tests.attesting import make_pem, make_policy_text

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PACKAGE, TENANT = b"p" * 32, b"t" * 48
IDENTITY = Identity(PACKAGE, b"m" * 32, b"c" * 32, pristine=True, tenant=TENANT)
GRANT = Grant(package=PACKAGE, tenant=TENANT, dns=("web.example.com",))
CONFIGURATION = Configuration(name="steward.example.com", trust_domain="example.com", grants=(GRANT,))
RESULT_KEY = ec.derive_private_key(11, ec.SECP384R1())
KEY = ec.derive_private_key(12, ec.SECP256R1())


@cache
def amd(owner: str = "amd") -> FakeAmd:
    """Return the vendor of all tests; its root is an emulated platform's to everybody else."""
    return FakeAmd(owner=owner)


@cache
def policy(**lines: str) -> OperatorPolicy:
    """Return a policy that accepts this vendor and skips what is not tested."""
    return make_policy(make_policy_text(amd().root, **lines).encode(), path="policy.toml", name="policy.toml")


@cache
def authority() -> Authority:
    """Return the authority of all tests."""
    return make_authority("steward.example.com", AT)


def judge(**changes: Any) -> Judge:
    """Return a judge by that policy and one grant."""
    made = {
        "policy": policy(),
        "configuration": CONFIGURATION,
        "root": authority().certificate,
        "result_key": RESULT_KEY,
    } | changes
    return Judge(made.pop("policy"), made.pop("configuration"), **made)


def make_csr(key: Any = KEY, *extensions: x509.ExtensionType, name: str = "anything") -> bytes:
    """Return a request of a key."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def receipt_of(identity: Identity = IDENTITY) -> bytes:
    """Return a receipt without evidence."""
    return without_evidence(Receipt(encode_identity(identity), Limits(1 << 30, 1 << 20, 1 << 16), (), b"e"))


def endorsements_of(certificates: tuple[bytes, ...], crl: bytes) -> tuple[bytes, ...]:
    """Return a chain and a list as they come with evidence."""
    return (
        make_endorsement("application/pem-certificate-chain", make_pem(*certificates)),
        make_endorsement("application/pkix-crl", crl),
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is kept of a request."""

    evidence: bytes
    endorsements: tuple[bytes, ...]
    receipt: bytes
    report_data: bytes


def make_request(
    identity: Identity = IDENTITY,
    *,
    key: Any = KEY,
    nonce: bytes = NONCE,
    root: bytes | None = None,
    report_data: bytes | None = None,
    csr: bytes | None = None,
    vendor: FakeAmd | None = None,
    has_endorsements: bool = True,
    crl_lifetime: timedelta = timedelta(days=365),
    revoked: tuple[str, ...] = (),
    **fields: Any,
) -> CertificateRequest:
    """Return a request that is accepted; the arguments are what is other than it should be."""
    vendor = vendor if vendor is not None else amd()
    root = root if root is not None else root_digest()
    if report_data is None:
        report_data = identity_report_data(nonce, spki_of(key.public_key()), encode_identity(identity), root)
    case = vendor.make_case(report={"report_data": report_data, **fields}, at=AT - timedelta(days=1))
    crl = vendor.make_crl(revoked=revoked, at=AT - timedelta(hours=1), lifetime=crl_lifetime)
    return CertificateRequest(
        csr=make_csr(key) if csr is None else csr,
        receipt=receipt_of(identity),
        evidence=make_evidence(SNP_REPORT, case.data),
        endorsements=endorsements_of(case.certificates, crl) if has_endorsements else (),
        nonce=nonce,
        root=root,
    )


def shown(request: CertificateRequest, report_data: bytes) -> Shown:
    """Return what is kept of a request that got a certificate."""
    return Shown(
        evidence=request.evidence,
        endorsements=request.endorsements,
        receipt=request.receipt,
        report_data=report_data,
    )


def root_digest() -> bytes:
    """Return what names the Steward's root."""
    return leaf_hash(authority().certificate.public_bytes(Encoding.DER))


def vendor_digest() -> bytes:
    """Return what names the vendor's root."""
    return sha256(amd().root).digest()


def receipt_digest(request: CertificateRequest) -> bytes:
    """Return what a run-time register is extended by."""
    return sha384(request.receipt).digest()
