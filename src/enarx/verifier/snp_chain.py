# SPDX-License-Identifier: Apache-2.0
"""AMD's certificates: the chain ARK, ASK or ASVK, VCEK or VLEK, and all that can be said of it without a report or a clock.

- The chain is three steps long and its names are AMD's, so it is walked here and not searched for. `cryptography`'s path
  builder refuses the RSA-PSS parameters of these certificates.
- Every certificate that comes along with AMD's name in it has to be signed by a trusted ARK or be one. So a chain that was
  tampered with is refused, and never mended silently with the intermediates that are part of this package; those are used where
  none came along.

Source: AMD 57230 VCEK Certificate and KDS Interface.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.abi.snp import VEK_OIDS, VekClaims, line_of, parse_vek_extensions_untrusted
from enarx.crypto.certificates import (
    common_name_of,
    describe,
    extension_of,
    fingerprint,
    issued_directly,
    load_certificate_untrusted,
    name_of,
    not_after_of,
    not_before_of,
    unknown_critical_extensions,
)
from enarx.errors import DecodeError
from enarx.rats import Check, Finding, Outcome
from enarx.verifier.cache import TrustCache
from enarx.verifier.roots import amd_intermediates
from enarx.verifier.snp_claims import AMD_NAME, KDS, NOTHING, check_of

__all__ = [
    "ARK_PINNED",
    "ASK_SIGNATURE",
    "VEK_PRESENT",
    "VEK_SIGNATURE",
    "VEK_VALIDITY",
    "KnownCertificates",
    "VekChain",
    "load_chains",
]

_MAX_CERTIFICATES = 64
_PSS_SALT_BYTES = 48
_MIN_RSA_BITS = 4096
_PASSED, _FAILED = Outcome.PASSED, Outcome.FAILED

VEK_PRESENT = check_of("vek.present", "a VCEK or VLEK certificate came along", f"{KDS} 3.1")
_CERTIFICATES = check_of(
    "chain.certificates", "the certificates that came along are signed by a trusted ARK", f"{KDS} 4"
)
VEK_SIGNATURE = check_of("vek.signature", "the VEK certificate is signed by AMD's ASK or ASVK", f"{KDS} 3.1")
ASK_SIGNATURE = check_of("ask.signature", "the ASK or ASVK certificate is signed by AMD's ARK", f"{KDS} 3.2")
ARK_PINNED = check_of("ark.pinned", "the ARK is a trust anchor", f"{KDS} 3.2")
_ALGORITHMS = check_of("chain.algorithms", "the chain is RSA-4096-PSS with SHA-384 and the VEK's key P-384", f"{KDS} 3")
_CONSTRAINTS = check_of(
    "chain.constraints", "each certificate is used for what it was made for", "RFC 5280 4.2.1.3, 4.2.1.9"
)
_EXTENSIONS = check_of("chain.extensions", "no certificate has an unknown critical extension", "RFC 5280 4.2")
_NAMES = check_of("chain.product", "VEK, ASK and ARK are of the same product line", f"{KDS} 3")
_KIND = check_of("vek.kind", "the VEK's name, issuer and extensions agree on its kind", f"{KDS} 3.1")
VEK_VALIDITY = check_of("vek.validity", "the VEK certificate is valid at the time", "RFC 5280 4.1.2.5")
_ASK_VALIDITY = check_of("ask.validity", "the ASK or ASVK certificate is valid at the time", "RFC 5280 4.1.2.5")
_ARK_VALIDITY = check_of("ark.validity", "the ARK certificate is valid at the time", "RFC 5280 4.1.2.5")


class VekChain(NamedTuple):
    """A VEK with all that can be said about it and its issuers without looking at a report or a clock.

    Args:
        vek: what its extensions say.
        key: None where it is not a P-384 key.
        dates: the VEK's first and last second.
        issuer: common name of the VEK's issuer.
        findings: about signatures, names and extensions.
        periods: for each certificate of the chain its check, first and last second.
        not_after: when the first of them ends.
        ask: None where no issuer was found; so is `ark`.
        anchor: as findings name it; None where the chain ends nowhere.
        ders: of those two.
        names: of the certificates, the trust anchor's first; empty where the chain ends nowhere.
        emulated: whether the anchor is an emulated platform's.
    """

    vek: VekClaims
    key: ec.EllipticCurvePublicKey | None
    dates: tuple[datetime, datetime]
    issuer: str
    findings: tuple[Finding, ...]
    periods: tuple[tuple[Check, datetime, datetime], ...]
    not_after: datetime
    ask: x509.Certificate | None
    ark: x509.Certificate | None
    ders: tuple[bytes, ...]
    anchor: str | None
    names: tuple[str, ...]
    emulated: bool


class KnownCertificates(NamedTuple):
    """Everything that was made of the certificates that came along."""

    chains: tuple[VekChain, ...]
    strangers: Finding


def load_chains(
    certificates: tuple[bytes, ...], roots: tuple[bytes, ...], emulated: frozenset[bytes], cache: TrustCache
) -> KnownCertificates:
    """Work out everything about the certificates that came along that depends on nothing else.

    Raises:
        DecodeError: one with AMD's name is not well formed, or there are more than 64.
    """
    # A bundle may bring other vendors' certificates. AMD's have its name in issuer and subject, so one flipped bit hides none.
    ours = tuple(dict.fromkeys(der for der in certificates if AMD_NAME in der))
    if len(ours) > _MAX_CERTIFICATES:
        raise DecodeError(f"cannot decode AMD's certificates: found {len(ours)}, want at most {_MAX_CERTIFICATES}")
    loaded = {der: _load(der, cache) for der in ours}
    anchors = {der: _load(der, cache) for der in roots}
    software = {der for der in (*ours, *roots) if bytes.fromhex(fingerprint(der)) in emulated}
    anchors |= {der: loaded[der] for der in software if der not in anchors}
    veks = [certificate for certificate in loaded.values() if _is_vek(certificate)]
    authorities = [certificate for certificate in loaded.values() if not _is_vek(certificate)]
    trusted = tuple(anchors.values())
    strangers = frozenset(
        name_of(certificate)
        for certificate in authorities
        if certificate not in trusted and not any(_issued(certificate, ark, cache) for ark in trusted)
    )
    finding = Finding(_CERTIFICATES, _FAILED if strangers else _PASSED, NOTHING, strangers, "the trust anchors", None)
    names = {certificate.subject for certificate in authorities}
    own = [_load(der, cache) for der in amd_intermediates()]
    authorities += [certificate for certificate in own if certificate.subject not in names]
    software_arks = tuple(anchors[der] for der in software)
    return KnownCertificates(tuple(_walk(vek, authorities, trusted, software_arks, cache) for vek in veks), finding)


def _walk(
    vek: x509.Certificate,
    authorities: list[x509.Certificate],
    anchors: tuple[x509.Certificate, ...],
    software: tuple[x509.Certificate, ...],
    cache: TrustCache,
) -> VekChain:
    """Follow one VEK to its ARK, and say what holds on the way."""
    values: dict[str, bytes] = {}
    for extension in vek.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            values[extension.oid.dotted_string] = extension.value.value
    claims = parse_vek_extensions_untrusted(values)
    ask, ask_signed = _find_issuer(vek, authorities, cache)
    ark, ark_signed = _find_issuer(ask, [*anchors, *authorities], cache) if ask is not None else (None, False)
    pinned = ark is not None and ark_signed and ark in anchors
    anchor = describe(ark) if ark is not None and pinned else None
    path = tuple(certificate for certificate in (vek, ask, ark) if certificate is not None)
    key = _key_of(vek)
    findings: list[Finding] = []

    def require(check: Check, passed: bool, expected: object, found: object, source: str) -> None:
        findings.append(Finding(check, _PASSED if passed else _FAILED, expected, found, source, anchor))

    require(VEK_PRESENT, True, "the VCEK or VLEK certificate", claims.kind, "certificates that came along")
    require(
        VEK_SIGNATURE,
        ask_signed,
        vek.issuer.rfc4514_string(),
        _signer(ask, ask_signed),
        "the VEK's issuer's signature",
    )
    wanted = ask.issuer.rfc4514_string() if ask is not None else "AMD's ARK"
    require(ASK_SIGNATURE, ark_signed, wanted, _signer(ark, ark_signed), "the ASK's issuer's signature")
    found = describe(ark) if ark is not None and ark_signed else "no ARK that signed the ASK"
    require(ARK_PINNED, pinned, frozenset(describe(each) for each in anchors), found, "the trust anchors")
    problems = frozenset().union(*(_algorithm_problems(each) for each in path)) | (
        frozenset() if key is not None else {f"{name_of(vek)}: not a P-384 key"}
    )
    require(_ALGORITHMS, not problems, NOTHING, problems, KDS)
    problems = _usage_problems(vek, depth=None)
    for depth, authority in enumerate(path[1:]):
        problems |= _usage_problems(authority, depth=depth)
    require(_CONSTRAINTS, not problems, NOTHING, problems, "the certificates")
    problems = frozenset().union(*(unknown_critical_extensions(each) for each in path))
    require(_EXTENSIONS, not problems, NOTHING, problems, "RFC 5280")
    line = line_of(claims.product) or "a known product"
    vlek = "VLEK-" if claims.kind == "VLEK" else ""
    require(_KIND, name_of(vek) == f"SEV-{claims.kind}", f"SEV-{claims.kind}", name_of(vek), "the VEK's extensions")
    names = tuple(name_of(each) for each in path[1:])
    wanted_names = (f"SEV-{vlek}{line}", f"ARK-{line}")
    right_layout = claims.has_fmc == (line == "Turin")
    require(_NAMES, names == wanted_names and right_layout, wanted_names, names, f"the VEK: {claims.product}")
    checks = (VEK_VALIDITY, _ASK_VALIDITY, _ARK_VALIDITY)
    periods = tuple((check, not_before_of(each), not_after_of(each)) for check, each in zip(checks, path, strict=False))
    return VekChain(
        vek=claims,
        key=key,
        dates=(not_before_of(vek), not_after_of(vek)),
        issuer=common_name_of(vek.issuer),
        findings=tuple(findings),
        periods=periods,
        not_after=min(not_after for _, _, not_after in periods),
        ask=ask,
        ark=ark if ark_signed else None,
        ders=tuple(each.public_bytes(Encoding.DER) for each in path[1:]),
        anchor=anchor,
        names=tuple(name_of(each) for each in reversed(path)) if pinned and ask_signed else (),
        emulated=pinned and ark in software,
    )


def _is_vek(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is an end entity's; each has nine extensions that say so, so one flipped bit hides none."""
    return any(extension.oid.dotted_string in VEK_OIDS for extension in certificate.extensions)


def _find_issuer(
    subject: x509.Certificate, candidates: list[x509.Certificate], cache: TrustCache
) -> tuple[x509.Certificate | None, bool]:
    """Return who signed a certificate and True; else somebody with the issuer's name, or None, and False."""
    named = [each for each in candidates if each.subject == subject.issuer]
    for issuer in named:
        if _issued(subject, issuer, cache):
            return issuer, True
    return (named[0] if named else None), False


def _issued(subject: x509.Certificate, issuer: x509.Certificate, cache: TrustCache) -> bool:
    """Return whether one certificate signed another, in the only encoding of a signature that has no unused bits."""
    if subject.issuer != issuer.subject:
        return False
    der, signature = subject.public_bytes(Encoding.DER), subject.signature
    return not der[-len(signature) - 1] and cache.remember(
        ("snp.issued", der, issuer.public_bytes(Encoding.DER)), lambda: issued_directly(subject, issuer)
    )


def _load(der: bytes, cache: TrustCache) -> x509.Certificate:
    return cache.remember(("snp.certificate", der), lambda: load_certificate_untrusted(der))


def _signer(issuer: x509.Certificate | None, signed: bool) -> str:
    if issuer is None:
        return "no certificate of that name"
    return name_of(issuer) if signed else f"a signature that {name_of(issuer)} did not make"


def _key_of(vek: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    try:
        key = vek.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1) else None


def _algorithm_problems(certificate: x509.Certificate) -> frozenset[str]:
    """Say what is not RSA-4096-PSS with SHA-384 about a certificate's signature, or about an authority's key."""
    problems, name = set(), name_of(certificate)
    try:
        digest, parameters = certificate.signature_hash_algorithm, certificate.signature_algorithm_parameters
    except (ValueError, UnsupportedAlgorithm):
        digest = parameters = None
    if (
        not isinstance(parameters, padding.PSS)
        or not isinstance(digest, SHA384)
        or not isinstance(parameters._mgf._algorithm, SHA384)
        or parameters._salt_length != _PSS_SALT_BYTES
    ):
        problems.add(f"{name}: another signature algorithm")
    if not _is_vek(certificate):
        try:
            key: object = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
            problems.add(f"{name}: another kind of key")
    return frozenset(problems)


def _usage_problems(certificate: x509.Certificate, *, depth: int | None) -> frozenset[str]:
    """Say what a certificate must not be used for although it is.

    Args:
        certificate: of the chain.
        depth: how many authorities are below it; None for the VEK.
    """
    problems, name = set(), name_of(certificate)
    constraints = extension_of(certificate, x509.BasicConstraints)
    usage = extension_of(certificate, x509.KeyUsage)
    if depth is None:
        if constraints is not None and constraints.ca:
            problems.add(f"{name}: a certificate authority")
        if usage is not None and not usage.digital_signature:
            problems.add(f"{name}: may not sign data")
        return frozenset(problems)
    if constraints is None or not constraints.ca:
        problems.add(f"{name}: no certificate authority")
    elif constraints.path_length is not None and constraints.path_length < depth:
        problems.add(f"{name}: allows {constraints.path_length} authorities below it")
    if usage is not None and not usage.key_cert_sign:
        problems.add(f"{name}: may not sign certificates")
    return frozenset(problems)
