# SPDX-License-Identifier: Apache-2.0
"""Services that present certificates of Keeps, or others: a Steward's authority, evidence of a fake AMD, a TLS server in a thread."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, serialise_certificate_table
from enarx.attester.attested import CERTIFICATE_TABLE, SNP_REPORT, make_endorsement, make_evidence
from enarx.channel.transcript import self_signed_report_data
from enarx.testing.snp import FakeAmd
from enarx.wire.cmw import CMW_EXTENSION_OID
from enarx.wire.ear import Appraisal, Ear, Tier, sign_ear_cwt
from enarx.wire.keep_certificate import KeepCertificate, encode_keep_extension
from enarx.wire.release import Identity, encode_identity

WAIT_S = 20.0
IDENTITY = Identity(package=b"p" * 32, module=b"m" * 32, configuration=b"c" * 32, pristine=True, tenant=b"t" * 48)
_RESULT_KEY = ec.generate_private_key(ec.SECP384R1())
_REPORT_DATA_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A chain and the key of its leaf."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> tuple[bytes, ...]:
        """Return the chain in DER."""
        return tuple(each.public_bytes(Encoding.DER) for each in self.chain)

    @property
    def pem(self) -> bytes:
        """Return key and chain in PEM."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)


class FakeSteward:
    """An authority that certifies whatever a test wants.

    Args:
        at: now; all certificates are valid since an hour.
        name: of the root.
        intermediate: whether it issues by an authority below its root.
    """

    def __init__(self, *, at: datetime, name: str = "Steward", intermediate: bool = False) -> None:
        self.at = at
        key = ec.generate_private_key(ec.SECP384R1())
        self.root = _authority(name, key, None, at, path_length=1 if intermediate else 0)
        self.issuers: tuple[x509.Certificate, ...] = (self.root,)
        self._key = key
        if intermediate:
            self._key = ec.generate_private_key(ec.SECP384R1())
            below = _authority(f"{name} below", self._key, (self.root, key), at, path_length=0)
            self.issuers = (below,)

    @property
    def pem(self) -> bytes:
        """Return the root in PEM."""
        return self.root.public_bytes(Encoding.PEM)

    def issue(
        self,
        *,
        names: Sequence[str] = ("localhost",),
        identity: Identity = IDENTITY,
        extension: bytes | None = b"",
        since: timedelta = timedelta(hours=1),
        lasts: timedelta = timedelta(hours=24),
        **ear: Any,
    ) -> Shown:
        """Issue a certificate.

        Args:
            names: DNS names.
            identity: what runs there.
            extension: the value of the extension instead of the right one; None is none.
            since: how long ago it began.
            lasts: from then on.
            ear: as for `make_ear`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        if extension == b"":
            keep = KeepCertificate(encode_identity(identity), make_ear(self.at, **ear))
            extension = encode_keep_extension(keep)
        begin = self.at - since
        builder = _builder("keep", key, self.issuers[0].subject, begin, begin + lasts)
        spiffe = x509.UniformResourceIdentifier(f"spiffe://example/keep/{identity.package.hex()}")
        for added, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(is_authority=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
            (x509.SubjectAlternativeName([*map(x509.DNSName, names), spiffe]), False),
        ):
            builder = builder.add_extension(added, critical)
        return Shown(chain=(_with(builder, extension).sign(self._key, hashes.SHA384()), *self.issuers), key=key)


def make_ear(at: datetime, *, emulated: Any = False, verdict: str = "accepted", **fields: Any) -> bytes:
    """Return what a Steward concluded, as a CWT.

    Args:
        at: when.
        emulated: the claim; None leaves it out.
        verdict: likewise.
        fields: of `Ear` and `Appraisal` that are other than usual.
    """
    claims = {"enarx_tee": "snp", "enarx_verdict": verdict, "enarx_emulated": emulated}
    status = fields.pop("status", Tier.WARNING if emulated else Tier.AFFIRMING)
    appraisal = Appraisal(
        status=status,
        policy_ids=("policy.toml",),
        verifier_claims={name: value for name, value in claims.items() if value is not None},
    )
    known = {"issued_at": at.replace(microsecond=0), "developer": "enarx", "build": "1", "submods": {"cpu0": appraisal}}
    return sign_ear_cwt(Ear(**(known | fields)), _RESULT_KEY)


def make_self_signed_keep(
    amd: FakeAmd,
    *,
    at: datetime,
    identity: Identity = IDENTITY,
    said: Identity | None = None,
    lasts: timedelta = timedelta(days=90),
    with_endorsements: bool = True,
    key: ec.EllipticCurvePrivateKey | None = None,
    **report: Any,
) -> Shown:
    """Make a certificate with evidence, signed by itself.

    Args:
        amd: whose processor attests.
        at: now; it is valid since yesterday.
        identity: that the evidence is over.
        said: that is in the certificate, if it is another.
        lasts: from yesterday on.
        with_endorsements: whether the vendor's certificates come with it.
        key: that the evidence is over, if it is another than the certificate's.
        report: fields of the report.
    """
    yesterday = at - timedelta(days=1)
    own = ec.generate_private_key(ec.SECP256R1())
    public = (key or own).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = encode_identity(identity)
    data = self_signed_report_data(hashlib.sha384(public).digest(), record)
    assert len(data) == _REPORT_DATA_BYTES
    case = amd.make_case(at=yesterday, report={"report_data": data} | report)
    vek, ask, ark = case.certificates
    table = ((VCEK_GUID, vek), (ASK_GUID, ask), (ARK_GUID, ark), (CRL_GUID, amd.make_crl(at=yesterday)))
    keep = KeepCertificate(
        encode_identity(said or identity),
        None,
        make_evidence(SNP_REPORT, case.data),
        (make_endorsement(CERTIFICATE_TABLE, serialise_certificate_table(table)),) if with_endorsements else (),
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keep")])
    builder = _with(_builder("keep", own, name, yesterday, yesterday + lasts), encode_keep_extension(keep))
    return Shown(chain=(builder.sign(own, hashes.SHA256()),), key=own)


def _authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    at: datetime,
    *,
    path_length: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above, signer = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    builder = _builder(name, key, above, at - timedelta(days=1), at + timedelta(days=3650))
    for added, critical in (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_usage(is_authority=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(added, critical)
    return builder.sign(signer, hashes.SHA384())


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    builder = builder.issuer_name(issuer).public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(end)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _with(builder: x509.CertificateBuilder, extension: bytes | None) -> x509.CertificateBuilder:
    if extension is None:
        return builder
    return builder.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_EXTENSION_OID), extension), critical=False
    )


@dataclass
class Service:
    """What a service knows afterwards.

    Args:
        port: of it.
        received: all that came after handshakes, of all connections.
        greeted: how many handshakes were completed.
    """

    port: int
    received: bytearray = field(default_factory=bytearray)
    greeted: int = 0


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@contextmanager
def serving(shown: Shown, folder: Path, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[Service]:
    """Serve TLS on loopback, one connection after the other; answer what comes with one page. All is over at the end."""
    path = folder / "service.pem"
    path.write_bytes(shown.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service = Service(listener.getsockname()[1])

        def serve() -> None:
            while True:
                peer, _ = listener.accept()
                peer.settimeout(WAIT_S)
                # A client that refuses is what is tested.
                with peer, suppress(OSError), context.wrap_socket(peer, server_side=True) as secure:
                    service.greeted += 1
                    data = secure.recv(65536)
                    service.received += data
                    if data == b"end":
                        return
                    if data:
                        secure.sendall(ANSWER)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            with suppress(OSError):
                _say_end(service.port, newest)
            thread.join(WAIT_S)
    assert not thread.is_alive()
    assert service.received.endswith(b"end")
    del service.received[-3:]


def _say_end(port: int, newest: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"end")
        secure.recv(1)
