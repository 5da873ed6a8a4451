# SPDX-License-Identifier: Apache-2.0
"""Where a Keep's certificate comes from, and the certificates it trusts.

Whoever opens a TLS socket asks an `Identity` for a credential and does not learn how it was had. A provider may take its
time at the first call (a key is made, a file is read) and gives the same credential ever after; but for the one of a Keep
that is deployed, whose certificates are renewed while it runs (`credential_slot`).
Private keys stay in memory: nothing here writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from enarx.crypto.x509 import (
    MAX_PEM_BYTES,
    Credential,
    load_certificates,
    load_private_key,
    make_self_signed,
    require_match,
)
from enarx.errors import ConfigError

__all__ = ["FromFiles", "Identity", "SelfSigned", "load_root", "load_trust_anchors"]


class Identity(Protocol):
    """A source of the one credential this Keep shows on all its TLS sockets."""

    def credential(self) -> Credential:
        """Return the credential: the same object as long as it is the newest. It is asked for each connection."""
        ...


class SelfSigned:
    """A key made at the first use, known to no authority: it keeps eavesdroppers out and proves nothing.

    Args:
        wall_ns: tells the time since 1970.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._wall_ns = wall_ns
        self._made: Credential | None = None

    def credential(self) -> Credential:
        """Return the credential, making it at the first call; it is valid from then for a year."""
        if self._made is None:
            self._made = make_self_signed(at=datetime.fromtimestamp(self._wall_ns() // 10**9, UTC))
        return self._made


class FromFiles:
    """A certificate chain and its private key, both PEM files of the user's.

    Args:
        certificate: path of the chain, the end entity's certificate first.
        private_key: path of the unencrypted key.
        contents: of both, by path, where they travelled here; None reads them from this machine.
    """

    def __init__(self, *, certificate: str, private_key: str, contents: Mapping[str, bytes] | None = None) -> None:
        self._certificate = certificate
        self._private_key = private_key
        self._contents = contents
        self._loaded: Credential | None = None

    def credential(self) -> Credential:
        """Return the credential, reading both files at the first call.

        Raises:
            ConfigError: a file cannot be read, is not what it should be, or the two do not belong together.
        """
        if self._loaded is None:
            chain = load_certificates(_read(self._certificate, self._contents), path=self._certificate)
            key = load_private_key(_read(self._private_key, self._contents), path=self._private_key)
            require_match(chain[0], key, path=self._private_key)
            self._loaded = Credential(chain=chain, private_key=key)
        return self._loaded


def load_trust_anchors(path: str, contents: Mapping[str, bytes] | None = None) -> tuple[x509.Certificate, ...]:
    """Read the certificates that peers' chains may end in, roots or not.

    Args:
        path: a PEM file, as the user named it.
        contents: as of `FromFiles`.

    Raises:
        ConfigError: the file cannot be read, or holds no well-formed certificate.
    """
    return load_certificates(_read(path, contents), path=path)


def load_root(der: bytes) -> x509.Certificate:
    """Return a Steward's root, which the tenant has named.

    Args:
        der: the certificate.

    Raises:
        ConfigError: it is none.
    """
    try:
        root = x509.load_der_x509_certificate(der)
        root.public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ConfigError("the Steward's root: found no certificate, want one in DER") from error
    return root


def _read(path: str, contents: Mapping[str, bytes] | None) -> bytes:
    if contents is not None:
        if path not in contents:
            raise ConfigError(f"reading PEM failed: {path}: found no such file among those that travelled", path=path)
        return contents[path]
    try:
        with open(path, "rb") as file:  # pathlib is not worth its import
            return file.read(MAX_PEM_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"reading PEM failed: {path}: {str(reason).lower()}", path=path) from error
