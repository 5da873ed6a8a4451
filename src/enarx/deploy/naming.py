# SPDX-License-Identifier: Apache-2.0
"""By which names a Steward knows a deployment: the tenant's key, which can be kept from one to the next, and the Steward's own root.

A Steward grants names to a package of one tenant, whom it knows by the digest of his key. So a tenant who wants to be known keeps a
key, in a file that nobody else can read; everybody else has a new one for each deployment.
"""

from __future__ import annotations

import hashlib
import os

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from enarx.crypto.x509 import MAX_PEM_BYTES, load_certificates, load_private_key
from enarx.errors import ConfigError, PlatformError
from enarx.user_files import read_key_file
from enarx.wire.release import Steward
from enarx.wire.steward_url import parse_steward_url

__all__ = ["load_steward", "load_tenant_key", "tenant_digest"]

MAX_ROOT_BYTES = 8192


def load_steward(
    url: str, root_path: str, *, url_name: str = "--steward", root_name: str = "--steward-root"
) -> Steward:
    """Return a Steward that the tenant names.

    Args:
        url: where the Keep asks it.
        root_path: a PEM file with the certificate that the Keep is to trust: the Steward's own, alone.
        url_name: the flag or key that has the URL, for messages.
        root_name: the same for the root.

    Raises:
        ConfigError: the URL is none, or the file no certificate of an authority.
    """
    parse_steward_url(url, name=url_name)
    try:
        with open(root_path, "rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{root_name}: {root_path}: {error.strerror}", path=root_path) from error
    certificates = load_certificates(pem, path=root_path)
    if len(certificates) != 1:
        raise ConfigError(
            f"{root_name}: {root_path}: found {len(certificates)} certificates, want the Steward's own alone",
            path=root_path,
            hint="root.pem of the Steward's folder: an authority above the Steward's may have others below it",
        )
    (root,) = certificates
    der = root.public_bytes(Encoding.DER)
    try:
        is_authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        is_authority = False
    if not is_authority or len(der) > MAX_ROOT_BYTES:
        raise ConfigError(
            f"{root_name}: {root_path}: found {len(der)} bytes that are no authority's, want a CA certificate of at most"
            f" {MAX_ROOT_BYTES}",
            path=root_path,
            hint="root.pem of the Steward's folder, from whoever runs it, and not over a network that you do not trust",
        )
    return Steward(url=url, root=der)


def load_tenant_key(path: str) -> tuple[ec.EllipticCurvePrivateKey, bool]:
    """Return the tenant's key, and whether it was made just now, because there was no such file.

    Args:
        path: a PEM file that only its user can read.

    Raises:
        UsageError: it cannot be read, others can read it too, or it is not this user's.
        ConfigError: it is no P-256 key.
        PlatformError: it cannot be made.
    """
    if not os.path.lexists(path):
        return _make_key(path), True
    pem = read_key_file(path, what="the tenant's key", is_secret=True, max_bytes=MAX_PEM_BYTES)
    key = load_private_key(pem, path=path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"--tenant-key: {path}: found another kind of key, want one on the curve P-256", path=path)
    return key, False


def tenant_digest(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the digest by which grants and peers know a tenant: SHA-384 of the public key."""
    return hashlib.sha384(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _make_key(path: str) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # Exclusive: who makes the file at the same moment keeps his.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        raise PlatformError(f"cannot make the tenant's key: {path}: {error.strerror}") from error
    return key
