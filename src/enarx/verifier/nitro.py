# SPDX-License-Identifier: Apache-2.0
"""Judge AWS Nitro attestation documents: of enclaves and of NitroTPMs.

What holds it together: a document is signed by a key whose certificate lives for hours and is carried along with its issuers,
the root's first. The issuers' path is remembered, since they serve a whole zone for days; the signing certificate
is looked at once per certificate, and the document's own signature every time.

A certificate that is not well formed is a failed check and not a decoding error: it is part of the evidence, the rest of
which can still be shown. The signature covers all certificates, so none of them can be exchanged.

Source: AWS Nitro Enclaves, "Verifying the root of trust" (attestation_process.md), here "AWS attestation process".
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.abi.nitro import DIGEST_BYTES, NitroDocument
from enarx.crypto.certificates import (
    Issuer,
    common_name_of,
    extension_of,
    load_certificate_untrusted,
    load_crl_untrusted,
    not_after_of,
    not_before_of,
    unknown_critical_extensions,
)
from enarx.crypto.cose import ES384, algorithm_name, verifies
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, Expectation, OneOf, Outcome, Skip
from enarx.verifier.chain import Chain, check_crl, make_chain_checks, verify_chain
from enarx.verifier.grammar import Digests, Flag, Freshness, Maximum, Words
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Rule, Setting

__all__ = ["JUDGE", "MAX_CLOCK_SKEW_S", "NitroClaims"]

# A document may be from a clock that is this much ahead of the verifier's; beyond that it has no age.
MAX_CLOCK_SKEW_S = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPEC = "AWS attestation process"
_DEBUG_PCRS = (0, 1, 2)
_N_PCR_RULES = 16
# What the hypervisor puts into registers besides the image, for those who want to pin it.
_PCR_SKIPS = {
    3: "any role of the parent instance",
    4: "any parent instance",
    8: "any signer of the image, since registers 0 to 2 pin the image itself",
}
_LONGEST_AGE_S = 366 * 24 * 3600


def _authenticity(name: str, title: str, spec: str = _SPEC) -> Check:
    return Check(f"nitro.{name}", title, Concern.AUTHENTICITY, spec)


_CHAIN = make_chain_checks("nitro.ca_chain", "the issuing CA", _SPEC)
_FORM = _authenticity("certificate.form", "every certificate in the document is well formed", "RFC 5280 4.1")
_CONSTRAINTS = _authenticity(
    "ca_chain.constraints", "every issuer may issue certificates this far from it", "RFC 5280 4.2.1.9"
)
_ISSUED = _authenticity("certificate.signature", "the issuing CA signed the document's certificate")
_VALIDITY = _authenticity("certificate.validity", "the certificate is valid at the time", "RFC 5280 4.1.2.5")
_EXTENSIONS = _authenticity("certificate.extensions", "it has no unknown critical extension", "RFC 5280 4.2")
_USAGE = _authenticity("certificate.usage", "its key signs data and no certificates", "RFC 5280 4.2.1.3")
_ALGORITHM = _authenticity("document.algorithm", "the signature is ECDSA on P-384 with SHA-384", "RFC 9053 2.1")
_SIGNATURE = _authenticity("document.signature", "the certificate's key signed the document", "RFC 9052 4.4")
_TIMESTAMP = _authenticity("document.timestamp", "it was signed while its certificate was valid")


class NitroClaims(NamedTuple):
    """What the rules read.

    Args:
        document: parsed.
        age_s: of the document, in seconds at the time that is judged for; None where it is from the future.
        revocation: `checked` where a revocation list was at hand for every issuer, else `not checked`.
    """

    document: NitroDocument
    age_s: int | None
    revocation: str

    def named(self) -> dict[str, object]:
        """Return the document's claims."""
        return self.document.named()


class _Leaf(NamedTuple):
    """What there is to know about a signing certificate; nothing of it changes."""

    key: Any
    is_p384: bool
    is_issued: bool
    not_before: datetime
    not_after: datetime
    unknown: frozenset[str]
    usage: str | None
    name: str


class _Bundle(NamedTuple):
    """The issuers' certificates in a document, the root's first.

    Args:
        certificates: in DER.
        issuer: the last of them; None where one is not well formed.
        malformed: what is wrong with the first that is not, or None.
    """

    certificates: tuple[bytes, ...]
    issuer: Issuer | None
    malformed: str | None


def _examine(document: NitroDocument, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    bundle = setting.cache.remember(("nitro.cabundle", document.cabundle), lambda: _load_bundle(document.cabundle))
    malformed = bundle.malformed

    def look() -> _Leaf | str:
        try:
            return _look_at(document.certificate, bundle.issuer)
        except DecodeError as error:
            return str(error)

    # By the bundle that is remembered, so that not every certificate has a copy of it.
    leaf = setting.cache.remember(("nitro.certificate", document.certificate, bundle.certificates), look)
    is_signed = False
    if isinstance(leaf, str):
        malformed = leaf
    else:
        # Right after the certificate's signature, so that the interpreter loses the processor's caches once and not twice.
        is_signed = leaf.is_p384 and verifies(document.message, leaf.key)
    ledger.require(
        _FORM, not malformed, expected="X.509 in DER", found=malformed or "X.509 in DER", source="the document"
    )
    revocation = "not checked"
    if bundle.issuer is not None:
        signs = "nothing that is well formed" if isinstance(leaf, str) else leaf.name
        chain = verify_chain(
            ledger, _CHAIN, bundle.certificates[-1], bundle.certificates, setting.anchors.aws, setting, signs=signs
        )
        if chain is not None:
            ledger.chains[-1] += ("the document",)
            ledger.require(
                _CONSTRAINTS,
                not chain.excess,
                expected="certification authorities within their path lengths",
                found=chain.excess or "certification authorities within their path lengths",
                source="the certificates",
            )
            revocation = _check_revocation(ledger, chain, endorsements, setting)
    if isinstance(leaf, str):
        ledger.require(_SIGNATURE, passed=False, expected="the certificate's key", found="no key", source="COSE_Sign1")
    else:
        _check_leaf(ledger, leaf, setting)
        _check_document(ledger, document, leaf, is_signed=is_signed)
    age_s = round(setting.at.timestamp() - document.timestamp_ms / 1000)
    claims = NitroClaims(document, None if age_s < -MAX_CLOCK_SKEW_S else max(0, age_s), revocation)
    return Examined(parts=(Part("nitro", claims),), tee="nitro")


def _load_bundle(certificates: tuple[bytes, ...]) -> _Bundle:
    try:
        loaded = [load_certificate_untrusted(der) for der in certificates]
    except DecodeError as error:
        return _Bundle(certificates, None, str(error))
    return _Bundle(certificates, Issuer(loaded[-1]), None)


def _look_at(der: bytes, issuer: Issuer | None) -> _Leaf:
    # Most certificates bear the issuer's own name byte for byte, which is well formed.
    certificate = load_certificate_untrusted(der, decode_issuer=False)
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DecodeError(f"cannot decode a certificate: key: found {error}, want one on P-384") from error
    leaf = _Leaf(
        key=key,
        is_p384=isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1",
        is_issued=False,
        not_before=not_before_of(certificate),
        not_after=not_after_of(certificate),
        unknown=unknown_critical_extensions(certificate),
        usage=_wrong_usage(certificate),
        name=common_name_of(certificate.subject),
    )
    # Last, so that the interpreter loses the processor's caches once between the document's bytes and its signature.
    if issuer is not None and issuer.issued(certificate, der):
        return leaf._replace(is_issued=True)
    load_certificate_untrusted(der)
    return leaf


def _wrong_usage(certificate: x509.Certificate) -> str | None:
    """Return why a certificate's key must not sign documents, or None."""
    usage = extension_of(certificate, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        return "a key that is not for signatures"
    constraints = extension_of(certificate, x509.BasicConstraints)
    return "a certification authority's key" if usage.key_cert_sign or (constraints and constraints.ca) else None


def _check_revocation(ledger: Ledger, chain: Chain, endorsements: Endorsements, setting: Setting) -> str:
    """Record what the lists at hand say. AWS publishes them; documents do not carry them, and nobody has to have them."""
    checked, subjects = 0, chain.certificates[:-1]
    if endorsements.crls:
        crls = setting.cache.remember(
            ("nitro.crls", endorsements.crls),
            lambda: [(load_crl_untrusted(der).issuer, der) for der in endorsements.crls],
        )
        for subject, issuer in zip(subjects, chain.certificates[1:], strict=True):
            der = next((der for name, der in crls if name == issuer.subject), None)
            if der is not None:
                check_crl(ledger, _CHAIN.revocation, der, issuer, (subject,), setting, anchor=chain.anchor)
                checked += ledger.findings[-1].outcome is Outcome.PASSED
    if checked == len(subjects):
        return "checked"
    ledger.note(_CHAIN.revocation, "not checked: found no revocation list of every issuer", "the endorsements")
    return "not checked"


def _check_leaf(ledger: Ledger, leaf: _Leaf, setting: Setting) -> None:
    ledger.require(
        _ISSUED,
        leaf.is_issued,
        expected="the last certificate of the bundle",
        found="the last certificate of the bundle"
        if leaf.is_issued
        else "another issuer, or a signature that does not hold",
        source="signatures",
    )
    ledger.require(
        _VALIDITY,
        leaf.not_before <= setting.at <= leaf.not_after,
        expected=(leaf.not_before, leaf.not_after),
        found=setting.at,
        source="the certificate",
    )
    ledger.limit(leaf.not_after)
    ledger.require(_EXTENSIONS, not leaf.unknown, expected=frozenset[str](), found=leaf.unknown, source="RFC 5280")
    ledger.require(
        _USAGE,
        leaf.usage is None,
        expected="a key for signatures",
        found=leaf.usage or "a key for signatures",
        source="the certificate",
    )


def _check_document(ledger: Ledger, document: NitroDocument, leaf: _Leaf, *, is_signed: bool) -> None:
    message, is_p384 = document.message, leaf.is_p384
    ledger.require(
        _ALGORITHM,
        is_p384 and message.algorithm == ES384,
        expected="ES384 with a key on P-384",
        found=algorithm_name(message.algorithm) + ("" if is_p384 else " with another key"),
        source="COSE_Sign1",
    )
    ledger.require(
        _SIGNATURE,
        is_signed,
        expected=leaf.name,
        found=leaf.name if is_signed else "a signature that its key did not make",
        source="COSE_Sign1",
    )
    try:
        signed_at = _EPOCH + timedelta(milliseconds=document.timestamp_ms)
    except OverflowError:
        signed_at = datetime.max.replace(tzinfo=UTC)
    # The certificate's times are whole seconds; the last of them belongs to it. No second follows that of the year 9999.
    ledger.require(
        _TIMESTAMP,
        leaf.not_before <= signed_at and signed_at - timedelta(seconds=1) < leaf.not_after,
        expected=(leaf.not_before, leaf.not_after),
        found=signed_at,
        source="the certificate",
    )


# --- Appraisal -------------------------------------------------------------------------------------------------------


class _Matches(Expectation):
    """The claim is one of these texts; a `*` at the end of one stands for anything."""

    __slots__ = ("patterns",)

    def __init__(self, *patterns: str) -> None:
        self.patterns = frozenset(patterns)

    def holds(self, found: Any) -> bool:
        return isinstance(found, str) and any(
            found.startswith(pattern[:-1]) if pattern.endswith("*") else found == pattern for pattern in self.patterns
        )

    def __str__(self) -> str:
        return "one of " + ", ".join(sorted(self.patterns))


class _Names(Words):
    """A list of texts, one of which the claim must be; a `*` at the end stands for anything."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "a list of names, at least one; * at the end of one stands for anything"

    def decode(self, value: Any) -> Expectation:
        names = self._read(value, at_least=1)
        for name in names:
            if "*" in name[:-1] or name == "*":
                raise self.refuse(name)
        return _Matches(*names)


def _is_debug(claims: NitroClaims) -> bool:
    """Return whether the registers that say what runs say nothing, which is how a debuggable enclave shows itself."""
    pcrs = claims.document.pcrs
    return not all(any(pcrs.get(index, b"")) for index in _DEBUG_PCRS)


def _digest_of(value: bytes | None) -> bytes | None:
    return hashlib.sha256(value).digest() if value else None


_NO_POLICY = Skip("no policy was given")


def _rule(
    name: str,
    title: str,
    read: Any,
    grammar: Any,
    *,
    strict: str | None = None,
    baseline: Expectation = _NO_POLICY,
    spec: str = _SPEC,
) -> Rule:
    key = f"nitro.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, spec), read, grammar, strict, baseline)


def _pcr_rule(index: int) -> Rule:
    reason = _PCR_SKIPS.get(index, "what runs may use it as it likes")
    strict = None if index in _DEBUG_PCRS else f'{{ skip = "{reason}" }}'
    return _rule(
        f"pcr{index}",
        f"register {index} has a measurement that is known",
        lambda claims: claims.document.pcrs.get(index),
        Digests(48),
        strict=strict,
    )


_RULES = (
    _rule(
        "debug",
        "it cannot be debugged: registers 0, 1 and 2 are not zero",
        _is_debug,
        Flag(),
        strict='"forbidden"',
        baseline=OneOf(False),
    ),
    *(_pcr_rule(index) for index in range(_N_PCR_RULES)),
    _rule(
        "kind",
        "it is of a kind that is accepted",
        lambda claims: "nitrotpm" if claims.document.is_tpm else "enclave",
        Words("enclave", "nitrotpm"),
        strict='["enclave"]',
    ),
    _rule(
        "digest",
        "the registers were made with an accepted algorithm",
        attrgetter("document.digest"),
        Words(*DIGEST_BYTES),
        strict='["SHA384"]',
        baseline=OneOf("SHA384"),
    ),
    _rule(
        "module_id",
        "it is of an instance that is accepted",
        attrgetter("document.module_id"),
        _Names(),
        strict='{ skip = "any instance may run it" }',
    ),
    _rule(
        "max_age_s",
        "it was signed at most so many seconds ago",
        attrgetter("age_s"),
        Maximum(_LONGEST_AGE_S),
        strict="300",
    ),
    _rule(
        "nonce",
        "it answers the caller's challenge",
        attrgetter("document.nonce"),
        Freshness(None),
        strict='"from-caller"',
    ),
    _rule(
        "user_data_sha256",
        "the SHA-256 of its user data is known",
        lambda claims: _digest_of(claims.document.user_data),
        Digests(32),
        strict='{ skip = "nothing is bound in it" }',
    ),
    _rule(
        "public_key_sha256",
        "the SHA-256 of its public key is known",
        lambda claims: _digest_of(claims.document.public_key),
        Digests(32),
        strict='{ skip = "no key is bound in it" }',
    ),
    _rule(
        "revocation",
        "the issuers' revocation lists were looked at",
        attrgetter("revocation"),
        Words("checked", "not checked"),
        strict='{ skip = "the certificates live for hours to days, and AWS does not hand out the lists with the document" }',
        spec="RFC 5280 6.3",
    ),
)

JUDGE = Judge(section="nitro", examine=_examine, rules=_RULES)
