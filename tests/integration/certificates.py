# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for tests, and clients that show what they negotiate."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_DAY = timedelta(days=1)
_MIDNIGHT = datetime(2020, 1, 1, tzinfo=UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A root of its own.

    Args:
        folder: where its files go.
        name: of the root, and of its file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.root = folder / f"{name}.pem"
        root = self._builder(name, self._key, x509.BasicConstraints(ca=True, path_length=0)).sign(
            self._key, hashes.SHA256()
        )
        self.root.write_bytes(root.public_bytes(Encoding.PEM))

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_MIDNIGHT)
            .not_valid_after(_MIDNIGHT + 36500 * _DAY)
            .add_extension(constraints, critical=True)
        )

    def issue(self, name: str, *hosts: str) -> Pair:
        """Issue a certificate for hosts, which are names or addresses, and write it and its key to files."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(name, key, x509.BasicConstraints(ca=False, path_length=None))
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = Pair(certificate=self._folder / f"{name}.pem", key=self._folder / f"{name}.key")
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def client(*, anchors: Path | None = None, shows: Pair | None = None) -> ssl.SSLContext:
    """Return a client that believes these anchors, or anybody where there are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if anchors is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(anchors)
    if shows is not None:
        context.load_cert_chain(shows.certificate, shows.key)
    return context


def server(pair: Pair, *, asks: Path | None = None) -> ssl.SSLContext:
    """Return a server; with `asks` it wants a certificate of its clients that ends in these anchors."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if asks is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(asks)
    return context
