# SPDX-License-Identifier: Apache-2.0
"""What a service presents in its TLS handshake, decoded. Nothing is judged here, and nothing is believed.

A certificate is of a Keep where it has the extension that says so (`enarx.wire.keep_certificate`), of either kind. Any other one is of
some other kind, which is no error; an extension that is there and cannot be read is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509

from enarx.crypto.certificates import X509_ERRORS, extension_of
from enarx.errors import DecodeError
from enarx.wire.cmw import CMW_EXTENSION_OID
from enarx.wire.ear import Ear, decode_ear_cwt_untrusted
from enarx.wire.keep_certificate import KeepCertificate, decode_keep_extension_untrusted
from enarx.wire.release import Identity, decode_identity_untrusted

__all__ = ["MAX_CHAIN_BYTES", "MAX_CHAIN_LENGTH", "Kind", "Presented", "read_presented_untrusted"]

MAX_CHAIN_BYTES = 100 << 10
"""Of all certificates together; OpenSSL takes no more either."""
MAX_CHAIN_LENGTH = 8
_MAX_NAMES = 64
_MAX_NAME_CHARS = 300


class Kind(StrEnum):
    """What vouches for a certificate."""

    STEWARD = "Steward's certificate"
    SELF_SIGNED = "self-signed certificate with evidence"
    OTHER = "certificate without evidence of a Keep"


class Presented(NamedTuple):
    """What a service presented, decoded and not believed.

    Args:
        chain: DER, the leaf first.
        leaf: decoded.
        issuers: the others, decoded.
        kind: by what is in it.
        keep: what the leaf says of a Keep; None where it says nothing.
        identity: from there.
        ear: likewise, of a Steward's.
        names: in the leaf, DNS names, addresses and URIs.
    """

    chain: tuple[bytes, ...]
    leaf: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    kind: Kind
    keep: KeepCertificate | None
    identity: Identity | None
    ear: Ear | None
    names: tuple[str, ...]

    @property
    def emulated(self) -> bool:
        """Return whether a Steward's certificate says that the platform is emulated, or does not say that it is not."""
        return self.ear is not None and any(
            appraisal.verifier_claims.get("enarx_emulated") is not False for appraisal in self.ear.submods.values()
        )

    def named(self) -> dict[str, object]:
        """Return what it says by name, for findings and documents."""
        claims: dict[str, object] = {"kind": str(self.kind), "names": list(self.names)}
        if self.identity is not None:
            claims |= self.identity._asdict()
        return claims


def read_presented_untrusted(chain: Sequence[bytes]) -> Presented:
    """Decode what a service presented.

    Args:
        chain: certificates in DER, the service's own first.

    Raises:
        DecodeError: there is none, more than `MAX_CHAIN_LENGTH` or `MAX_CHAIN_BYTES`, one is no certificate, or what it says of a Keep
            is not well formed. Nothing else, for any input.
    """
    if not 0 < len(chain) <= MAX_CHAIN_LENGTH or sum(map(len, chain)) > MAX_CHAIN_BYTES:
        raise DecodeError(
            f"cannot read what the service presents: found {len(chain)} certificates of {sum(map(len, chain))} bytes,"
            f" want 1 to {MAX_CHAIN_LENGTH} of at most {MAX_CHAIN_BYTES}"
        )
    leaf, *issuers = (_load(der) for der in chain)
    value = _extension(leaf)
    if value is None:
        return Presented(tuple(chain), leaf, tuple(issuers), Kind.OTHER, None, None, None, _names(leaf))
    keep = decode_keep_extension_untrusted(value)
    return Presented(
        chain=tuple(chain),
        leaf=leaf,
        issuers=tuple(issuers),
        kind=Kind.SELF_SIGNED if keep.result is None else Kind.STEWARD,
        keep=keep,
        identity=decode_identity_untrusted(keep.identity),
        ear=None if keep.result is None else decode_ear_cwt_untrusted(keep.result),
        names=_names(leaf),
    )


def _load(der: bytes) -> x509.Certificate:
    """Decode a certificate of any size that a chain may have, and everything of it that is asked for later."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.extensions, certificate.issuer, certificate.subject, certificate.signature_algorithm_oid  # noqa: B018
        certificate.public_key()
    except X509_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise DecodeError(f"cannot read what the service presents: found {reason}, want X.509 in DER") from error
    return certificate


def _extension(leaf: x509.Certificate) -> bytes | None:
    try:
        found = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(CMW_EXTENSION_OID)).value
    except x509.ExtensionNotFound:
        return None
    return found.value if isinstance(found, x509.UnrecognizedExtension) else b""


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    names = extension_of(leaf, x509.SubjectAlternativeName) or ()
    kinds = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
    return tuple(str(each.value)[:_MAX_NAME_CHARS] for each in names if isinstance(each, kinds))[:_MAX_NAMES]
