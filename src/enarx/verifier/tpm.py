# SPDX-License-Identifier: Apache-2.0
"""Judge TPM 2.0 quotes: whose key signed them, over which PCRs, and whether an event log explains these.

Rules of this file:

- A quote is worth what its attestation key is worth. The key is believed because a certificate of it chains to a trust anchor,
  or because its digest is pinned. `enarx.verifier.azure` believes one because hardware evidence names it, and uses what is here for the rest.
- A PCR value is believed only after the quote's digest over it was recomputed. What the quote does not select is dropped.
- An event log is believed only where its replay gives quoted registers, and then only as far as its digests go.
- One bank is appraised: SHA-256 where it is quoted, else SHA-384, SHA-512, and SHA-1 last.

`examine_quotes`, `examine_event_logs` and `find_ak_chain` are for the judges of composite evidence; they make the findings of
their own checks and decide nothing else.

Spec: TCG TPM 2.0 Library 1.59; TCG PC Client Platform Firmware Profile 1.06; TCG EK Credential Profile 2.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from enarx.abi.event_log import EventLog, parse_event_log_untrusted, replay
from enarx.abi.tpm import HASHES, MAX_PCR, Attest, Public, Signature, serialise_public
from enarx.abi.tpm_bundle import Quote, TpmEvidence
from enarx.crypto.certificates import load_certificate_untrusted, name_of
from enarx.errors import DecodeError
from enarx.rats import Check, Concern, Endorsements, OneOf, Outcome, Skip, render
from enarx.verifier.chain import Chain, make_chain_checks, verify_chain
from enarx.verifier.grammar import Digests, Flag, Freshness, Grammar, Words
from enarx.verifier.ledger import Examined, Judge, Ledger, Part, Rule, Setting
from enarx.verifier.roots import tpm_intermediates

__all__ = [
    "AK_CHAIN",
    "JUDGE",
    "RULES",
    "AkCertificate",
    "QuoteChecks",
    "TpmClaims",
    "appraised_bank",
    "check_ak_certificate",
    "examine_event_logs",
    "examine_quotes",
    "load_ak",
    "make_quote_checks",
    "replay_findings",
    "spki_of",
]

_PART2, _PFP = "TPM 2.0 Part 2", "TCG PFP 1.06"
_MIN_RSA_BITS = 2048
_BANKS = ("sha256", "sha384", "sha512", "sha1")
# tcg-kp-AIKCertificate; and tcg-kp-EKCertificate, as Google has it on the keys of its virtual TPMs that sign.
_AK_USAGES = frozenset({x509.ObjectIdentifier("2.23.133.8.3"), x509.ObjectIdentifier("2.23.133.8.1")})
# TPM_RH_OWNER, _ENDORSEMENT, _PLATFORM and _NULL, which are the names of the hierarchies that primary keys belong to.
_HIERARCHIES = {0x40000001: "owner", 0x4000000B: "endorsement", 0x4000000C: "platform", 0x40000007: "null"}
_WANTED_ATTRIBUTES = frozenset({"fixed_tpm", "fixed_parent", "sensitive_data_origin", "restricted", "sign"})
_UNWANTED_ATTRIBUTES = frozenset({"decrypt"})


class QuoteChecks(NamedTuple):
    """The checks that quotes and event logs get under one prefix."""

    key: Check
    algorithm: Check
    signature: Check
    digest: Check
    agreement: Check
    log: Check


def make_quote_checks(prefix: str) -> QuoteChecks:
    """Make the checks for quotes in evidence of one kind.

    Args:
        prefix: of their ids: `tpm`.
    """

    def make(name: str, title: str, spec: str) -> Check:
        return Check(f"{prefix}.{name}", title, Concern.AUTHENTICITY, spec)

    return QuoteChecks(
        make("ak.key", "the attestation key is RSA of at least 2048 bits or on a NIST curve", f"{_PART2} 12.2.4"),
        make("quote.algorithm", "the signature's scheme fits the key, and its hash is sound", f"{_PART2} 11.3.4"),
        make("quote.signature", "each quote is signed by the attestation key", "TPM 2.0 Part 3, 18.4"),
        make("quote.pcr_digest", "the PCR values are those that were quoted", f"{_PART2} 10.12.1"),
        make("quote.agreement", "all quotes answer the same challenge, on the same boot", f"{_PART2} 10.11"),
        make("event_log.replay", "the event logs replay to the quoted registers", f"{_PFP} 10.2"),
    )


CHECKS = make_quote_checks("tpm")
AK_CHAIN = make_chain_checks("tpm.ak_chain", "the attestation key's certificate", "TCG EK Credential Profile 2.5")
_AK_CERTIFICATE = Check(
    "tpm.ak_certificate.key", "the certificate is of the attestation key", Concern.AUTHENTICITY, "RFC 5280 4.1.2.7"
)
_AK_USAGE_CHECK = Check(
    "tpm.ak_certificate.usage",
    "the certificate is for an attestation key, not for another use",
    Concern.AUTHENTICITY,
    "TCG Infrastructure Credential Profiles; RFC 5280 4.2.1.3 and 4.2.1.12",
)
_AK_TRUST = Check(
    "tpm.ak.trust", "a trust anchor or a pinned digest vouches for the attestation key", Concern.AUTHENTICITY, _PART2
)
_AK_ATTRIBUTES = Check(
    "tpm.ak.attributes", "the attestation key signs only what its TPM made", Concern.AUTHENTICITY, f"{_PART2} 8.3"
)
_AK_NAME = Check(
    "tpm.ak.name",
    "the quote names the key's public area: a primary key's name shows it",
    Concern.AUTHENTICITY,
    "TPM 2.0 Part 1, 16",
)
_CLOCK = Check("tpm.quote.clock", "the TPM's clock and its resets", Concern.AUTHENTICITY, f"{_PART2} 10.11")


# Keys


def load_ak(evidence: TpmEvidence) -> bytes | None:
    """Return the attestation key as SubjectPublicKeyInfo in DER, or None where the evidence brings none.

    Raises:
        DecodeError: it is no key.
    """
    if evidence.ak_public is not None:
        return spki_of(evidence.ak_public)
    if evidence.ak_spki is None:
        return None
    try:
        key = load_der_public_key(evidence.ak_spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DecodeError(f"cannot decode the TPM evidence: key: found {error}, want a public key") from error
    # Written again, so that one key has one digest.
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_of(public: Public) -> bytes:
    """Return a public area's key as SubjectPublicKeyInfo in DER.

    Raises:
        DecodeError: a modulus or a point that is none.
    """
    numbers = [int.from_bytes(value, "big") for value in public.values]
    try:
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
        if public.kind == "rsa":
            key = rsa.RSAPublicNumbers(public.exponent or 65537, numbers[0]).public_key()
        else:
            curves: dict[str, type[ec.EllipticCurve]] = {
                "secp256r1": ec.SECP256R1,
                "secp384r1": ec.SECP384R1,
                "secp521r1": ec.SECP521R1,
            }
            key = ec.EllipticCurvePublicNumbers(numbers[0], numbers[1], curves[public.curve]()).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DecodeError(f"cannot decode the TPM public area: key: found {error}, want a public key") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_key(spki: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | str:
    """Return a key that may sign quotes, or what it is instead."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return f"no key: {error}"
    if isinstance(key, rsa.RSAPublicKey):
        return key if key.key_size >= _MIN_RSA_BITS else f"RSA of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        known = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
        return key if known else key.curve.name
    return type(key).__name__


_SOUND_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
    "sha3_256": hashes.SHA3_256,
    "sha3_384": hashes.SHA3_384,
    "sha3_512": hashes.SHA3_512,
}


def _is_signed(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signature: Signature, message: bytes) -> bool:
    """Return whether a key made a signature whose scheme is known to fit it."""
    digest = _SOUND_HASHES[signature.hash]()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(value, "big") for value in signature.values)
            key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(digest))
        elif signature.scheme == "rsapss":
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
            key.verify(signature.values[0], message, pss, digest)
        else:
            key.verify(signature.values[0], message, padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


# Quotes


def appraised_bank(attests: Iterable[Attest]) -> str | None:
    """Return the bank whose values are appraised, or None where nothing is quoted."""
    banks = [selection.bank for attest in attests for selection in attest.selections if selection.pcrs]
    return next((bank for bank in _BANKS if bank in banks), banks[0] if banks else None)


def examine_quotes(
    quotes: tuple[Quote, ...], spki: bytes, checks: QuoteChecks, setting: Setting, ledger: Ledger
) -> dict[str, dict[int, bytes]]:
    """Record whether an attestation key signed quotes, and over which values.

    Args:
        quotes: at least one.
        spki: the key, SubjectPublicKeyInfo in DER.
        checks: of this kind of evidence.
        setting: for the cache.
        ledger: receives the findings.

    Returns:
        The PCR values that are quoted, by bank and index: those whose digest was signed and matches, and no others.
    """
    key = setting.cache.remember(("tpm key", spki), lambda: _load_key(spki))
    usable = not isinstance(key, str)
    described = key if isinstance(key, str) else _describe_key(key)
    ledger.require(checks.key, usable, expected="RSA, P-256, P-384 or P-521", found=described, source="the key")
    values: dict[str, dict[int, bytes]] = {}
    for quote in quotes:
        signature = quote.signature
        fits = usable and (signature.scheme == "ecdsa") is isinstance(key, ec.EllipticCurvePublicKey)
        sound = signature.hash in _SOUND_HASHES
        ledger.require(
            checks.algorithm,
            fits and sound,
            expected="ECDSA for an elliptic curve, RSASSA or RSAPSS for RSA; SHA-2 or SHA-3",
            found=f"{signature.scheme} with {signature.hash}, {described}",
            source="the signature",
        )
        signed = False
        if fits and sound and not isinstance(key, str):
            signed = _is_signed(key, signature, quote.message)
            ledger.require(
                checks.signature,
                signed,
                expected="a signature by the attestation key",
                found="one" if signed else "another key's or over another message",
                source=f"SHA-256 of the key: {hashlib.sha256(spki).hexdigest()}",
            )
        believed = _examine_digest(quote, checks.digest, ledger)
        if signed:
            for bank, pcrs in believed.items():
                values.setdefault(bank, {}).update(pcrs)
    _examine_agreement(quotes, checks.agreement, ledger)
    return values


def _describe_key(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return f"RSA of {key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else key.curve.name


def _examine_digest(quote: Quote, check: Check, ledger: Ledger) -> dict[str, dict[int, bytes]]:
    """Recompute a quote's digest; return the values that it is over, or none."""
    attest, believed = quote.attest, dict[str, dict[int, bytes]]()
    missing: list[str] = []
    content: list[bytes] = []
    for selection in attest.selections:
        given = quote.pcrs.get(selection.bank, {})
        for index in selection.pcrs:
            value = given.get(index)
            if value is None or index in believed.setdefault(selection.bank, {}):
                missing.append(f"{selection.bank}:{index}")
            else:
                believed[selection.bank][index] = value
                content.append(value)
    if missing:
        ledger.require(
            check,
            passed=False,
            expected="a value for each PCR that is quoted, once",
            found=f"not {', '.join(missing)}",
            source="the quote",
        )
        return {}
    name = quote.signature.hash
    found = hashlib.new(name, b"".join(content)).digest() if name in _SOUND_HASHES else None
    passed = found == attest.pcr_digest and bool(content)
    ledger.require(check, passed, expected=attest.pcr_digest, found=found if content else "no PCR", source="the quote")
    return believed if passed else {}


def _examine_agreement(quotes: tuple[Quote, ...], check: Check, ledger: Ledger) -> None:
    attests = [quote.attest for quote in quotes]
    said = {(each.extra_data, each.reset_count, each.restart_count, each.firmware) for each in attests}
    banks = [(each.bank, index) for quote in quotes for each in quote.attest.selections for index in each.pcrs]
    passed = len(said) == 1 and len(set(banks)) == len(banks)
    if not passed:
        found = f"{len(said)} challenges or boots, {len(banks) - len(set(banks))} PCRs quoted twice"
    else:
        found = f"{len(quotes)} quote" + ("s" if len(quotes) > 1 else "")
    ledger.require(check, passed, expected="one challenge, one boot, each PCR once", found=found, source="the quotes")


# Event logs


def replay_findings(
    ledger: Ledger, check: Check, log: EventLog, registers: Mapping[str, Mapping[int, bytes]], source: str
) -> frozenset[str]:
    """Record whether an event log replays to registers that are believed.

    A TDX quote's RTMR n is register n + 1 of its CCEL log, in bank `sha384`.

    Args:
        ledger: receives one finding: passed, failed, or noted where log and registers have nothing in common.
        check: which.
        log: decoded.
        registers: believed values by bank and register. Registers that the log has and this has not are not compared.
        source: of these, for the finding: `the quote`.

    Returns:
        The banks that were compared and are equal, or none where any differs.

    Raises:
        DecodeError: the log cannot be replayed.
    """
    compared: list[str] = []
    wrong: list[str] = []
    for bank in log.banks:
        known = registers.get(bank)
        if not known:
            continue
        for index, value in replay(log, bank).items():
            if index in known:
                (compared if known[index] == value else wrong).append(f"{bank}:{index}")
    if not compared and not wrong:
        ledger.note(check, "a log with nothing in common with the registers", source)
        return frozenset()
    found = f"{len(compared)} registers equal" + (f", others in {', '.join(wrong)}" if wrong else "")
    ledger.require(check, not wrong, expected="equal registers", found=found, source=source)
    return frozenset() if wrong else frozenset(name.partition(":")[0] for name in compared)


class LogClaims(NamedTuple):
    """What event logs say that replay to the quote.

    Args:
        replays: whether at least one does, and none differs; None where there is no log.
        secure_boot: whether firmware measured that it is on; None where that is not known.
    """

    replays: bool | None
    secure_boot: bool | None


def examine_event_logs(
    logs: Iterable[bytes], values: Mapping[str, Mapping[int, bytes]], check: Check, ledger: Ledger
) -> LogClaims:
    """Record whether event logs replay to quoted PCRs.

    Args:
        logs: as they came; equal ones are looked at once.
        values: quoted PCRs by bank and index.
        check: which.
        ledger: receives a finding for each log.

    Raises:
        DecodeError: a log is not well formed.
    """
    replays: bool | None = None
    answers: set[bool] = set()
    for data in dict.fromkeys(logs):
        log = parse_event_log_untrusted(data)
        before = len(ledger.findings)
        banks = replay_findings(ledger, check, log, values, "the quote")
        if ledger.findings[before].outcome is Outcome.FAILED:
            replays = False
        elif banks and replays is None:
            replays = True
        # SHA-1 proves nothing about what was hashed; PCR 7 must be among what was compared.
        for bank in banks - {"sha1"}:
            answer = log.secure_boot(bank) if 7 in values[bank] else None
            if answer is not None:
                answers.add(answer)
    return LogClaims(replays, answers.pop() if len(answers) == 1 and replays else None)


# Trust in the attestation key


@dataclass(frozen=True, slots=True, kw_only=True)
class AkCertificate:
    """What an attestation key's certificate says.

    Args:
        subject: as RFC 4514 writes it.
        issuer: the same.
        not_before: first second of validity.
        not_after: last second of validity.
        chain: the path to a trust anchor, or None.
    """

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    chain: Chain | None = None

    def named(self) -> dict[str, object]:
        """Return the claims."""
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "not_before": render(self.not_before),
            "not_after": render(self.not_after),
        }


def describe_certificate(certificate: x509.Certificate, chain: Chain | None = None) -> AkCertificate:
    """Return what a certificate says."""
    return AkCertificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        chain=chain,
    )


def check_ak_certificate(leaf: bytes, candidates: tuple[bytes, ...], setting: Setting, ledger: Ledger) -> AkCertificate:
    """Record whether a certificate is for attestation and chains to a trust anchor for TPMs.

    Args:
        leaf: DER.
        candidates: intermediates in DER, any order; those of `enarx.verifier.roots` are known anyway.
        setting: for the time, the anchors and the cache.
        ledger: receives the findings.

    Raises:
        DecodeError: a certificate is not well formed.
    """
    others = tuple(dict.fromkeys((*(each for each in candidates if each != leaf), *tpm_intermediates())))
    chain = verify_chain(ledger, AK_CHAIN, leaf, others, setting.anchors.tpm, setting, signs="quotes")
    certificate = load_certificate_untrusted(leaf)
    problems = usage_problems(certificate)
    ledger.require(
        _AK_USAGE_CHECK,
        not problems,
        expected="digital signature, attestation key, no CA",
        found=problems or "as wanted",
        source="the certificate",
    )
    return describe_certificate(certificate, chain)


def usage_problems(certificate: x509.Certificate) -> frozenset[str]:
    """Return why a certificate is not one of an attestation key.

    Its key usage decides: it signs and does nothing else, which an endorsement key that decrypts does not. A certificate that says
    nothing about extended key usage may be one: Google's newer ones say nothing.
    """
    problems = set()
    extensions = certificate.extensions
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        problems.add("a CA")
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        problems.add("no digital signature usage")
    elif usage.key_encipherment or usage.key_cert_sign:
        problems.add("another key usage")
    extended = _find(extensions, x509.ExtendedKeyUsage)
    if extended is not None and _AK_USAGES.isdisjoint(extended):
        problems.add("another extended key usage")
    return frozenset(problems)


def _find(extensions: x509.Extensions, kind: Any) -> Any:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def has_key(certificate: x509.Certificate, spki: bytes) -> bool:
    """Return whether a certificate is of a key, given as SubjectPublicKeyInfo in DER."""
    try:
        key = certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki


def _first_leaf(certificates: tuple[bytes, ...]) -> bytes | None:
    """Return the key of the first certificate that is an attestation key's, for evidence that brings no key."""
    for der in certificates:
        certificate = load_certificate_untrusted(der)
        if not usage_problems(certificate):
            try:
                key = certificate.public_key()
            except (ValueError, TypeError, UnsupportedAlgorithm):
                continue
            return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return None


class TpmClaims(NamedTuple):
    """What quotes say.

    Args:
        attests: the quotes.
        bank: that is appraised, or None where nothing is quoted.
        pcrs: its values by index: those that the quote is over; not believed where its findings say so.
        ak_sha256: of the attestation key's SubjectPublicKeyInfo in DER, or None where there is no key.
        ak_trust: `certificate`, `pinned`, or None where nothing vouches for it.
        ak_attributes: of its public area, or None where that is not given.
        certificate: of the attestation key, or None.
        log: what event logs say that replay.
    """

    attests: tuple[Attest, ...]
    bank: str | None
    pcrs: Mapping[int, bytes]
    ak_sha256: bytes | None
    ak_trust: str | None
    ak_attributes: frozenset[str] | None
    certificate: AkCertificate | None
    log: LogClaims

    def named(self) -> Mapping[str, object]:
        """Return the claims by the TCG's names in snake case."""
        first = self.attests[0]
        index = next((at for at, each in enumerate(self.attests) if _has_bank(each, self.bank)), 0)
        return {
            "nonce": first.extra_data,
            "pcr_digest": self.attests[index].pcr_digest,
            "firmware": first.firmware,
            "bank": self.bank,
            "selection": [[each.bank, list(each.pcrs)] for attest in self.attests for each in attest.selections],
            "pcrs": [self.pcrs[at] for at in sorted(self.pcrs)],
            "clock": first.clock,
            "reset_count": first.reset_count,
            "restart_count": first.restart_count,
            "clock_safe": first.safe,
            "qualified_signer": first.qualified_signer,
            "ak": self.ak_sha256,
            "ak_trust": self.ak_trust,
            "ak_attributes": sorted(self.ak_attributes) if self.ak_attributes is not None else None,
            "ak_certificate": self.certificate.named() if self.certificate is not None else None,
            "event_log_replays": self.log.replays,
            "secure_boot": self.log.secure_boot,
        }


def _has_bank(attest: Attest, bank: str | None) -> bool:
    return any(each.bank == bank and each.pcrs for each in attest.selections)


def _examine(parsed: TpmEvidence, endorsements: Endorsements, setting: Setting, ledger: Ledger) -> Examined:
    certificates = tuple(dict.fromkeys((*parsed.certificates, *endorsements.certificates)))
    spki = load_ak(parsed) or _first_leaf(certificates)
    attests = tuple(quote.attest for quote in parsed.quotes)
    values: dict[str, dict[int, bytes]] = {}
    certificate, trust = None, None
    if spki is None:
        ledger.doubt(CHECKS.key, expected="an attestation key", found=None, source="the evidence")
        for quote in parsed.quotes:
            _examine_digest(quote, CHECKS.digest, ledger)
        _examine_agreement(parsed.quotes, CHECKS.agreement, ledger)
    else:
        values = examine_quotes(parsed.quotes, spki, CHECKS, setting, ledger)
        if parsed.ak_public is not None:
            _examine_public_area(parsed.ak_public, attests, ledger)
        certificate, trust = _examine_trust(spki, parsed.certificates, certificates, setting, ledger)
    first = attests[0]
    ledger.note(_CLOCK, f"{first.clock} ms, reset {first.reset_count}, restarted {first.restart_count}", "the quote")
    log = examine_event_logs((*parsed.event_logs, *endorsements.event_logs), values, CHECKS.log, ledger)
    bank = appraised_bank(attests)
    claims = TpmClaims(
        attests,
        bank,
        values.get(bank, {}) if bank is not None else {},
        hashlib.sha256(spki).digest() if spki is not None else None,
        trust,
        parsed.ak_public.words if parsed.ak_public is not None else None,
        certificate,
        log,
    )
    return Examined((Part("tpm", claims),), "tpm")


def _examine_public_area(public: Public, attests: tuple[Attest, ...], ledger: Ledger) -> None:
    """Record what a public area says of its key. Only where the quote's signer is a primary key does the quote say the same."""
    words = public.words
    passed = words >= _WANTED_ATTRIBUTES and not words & _UNWANTED_ATTRIBUTES
    ledger.require(_AK_ATTRIBUTES, passed, expected=_WANTED_ATTRIBUTES, found=words, source="the key's public area")
    if public.name_hash not in _SOUND_HASHES:
        return
    prefix = HASHES[public.name_hash].to_bytes(2, "big")
    name = prefix + hashlib.new(public.name_hash, serialise_public(public)).digest()
    signers = {each.qualified_signer for each in attests}
    for handle, hierarchy in _HIERARCHIES.items():
        if signers == {prefix + hashlib.new(public.name_hash, handle.to_bytes(4, "big") + name).digest()}:
            ledger.note(_AK_NAME, f"a primary key of the {hierarchy} hierarchy", "the quote")
            return
    ledger.note(_AK_NAME, "another name; a key below a primary key has one that cannot be computed", "the quote")


def _examine_trust(
    spki: bytes, own: tuple[bytes, ...], certificates: tuple[bytes, ...], setting: Setting, ledger: Ledger
) -> tuple[AkCertificate | None, str | None]:
    """Record who vouches for an attestation key. `own` came with the evidence: its first certificate claims to be the key's."""
    digest = hashlib.sha256(spki).digest()
    leaf = next((der for der in certificates if has_key(load_certificate_untrusted(der), spki)), None)
    pinned = digest in setting.anchors.tpm_aks
    if leaf is None and own:
        ledger.require(
            _AK_CERTIFICATE,
            passed=False,
            expected=digest,
            found=name_of(load_certificate_untrusted(own[0])),
            source="the certificate that came along",
        )
    certificate = None
    if leaf is not None:
        ledger.require(_AK_CERTIFICATE, passed=True, expected=digest, found=digest, source="the certificate")
    if pinned:
        ledger.require(_AK_TRUST, passed=True, expected="pinned", found=digest, source="pinned digests")
        if leaf is not None:
            certificate = describe_certificate(load_certificate_untrusted(leaf))
        return certificate, "pinned"
    if leaf is None:
        ledger.doubt(
            _AK_TRUST,
            expected="a certificate of the attestation key, or its digest pinned",
            found=digest,
            source="ak trust missing",
        )
        return None, None
    certificate = check_ak_certificate(leaf, certificates, setting, ledger)
    trusted = certificate.chain is not None
    ledger.require(
        _AK_TRUST,
        trusted,
        expected="a certificate that chains to a trust anchor, or the digest pinned",
        found=certificate.subject,
        source="the certificate",
        anchor=certificate.chain.anchor if certificate.chain is not None else None,
    )
    return certificate, "certificate" if trusted else None


# The appraisal

_NO_POLICY = Skip("no policy was given")


def _rule(
    name: str,
    title: str,
    read: Any,
    grammar: Grammar,
    strict: str | None,
    baseline: Any = _NO_POLICY,
    spec: str = f"{_PART2} 10.12.12",
) -> Rule:
    key = f"tpm.{name}"
    return Rule(key, Check(key, title, Concern.APPRAISAL, spec), read, grammar, strict, baseline)


def pcr_rules(section: str) -> tuple[Rule, ...]:
    """Make the rules for PCRs, the bank and the event log, over claims with `bank`, `pcrs` and `log`.

    Args:
        section: of the policy.
    """

    def make(name: str, title: str, read: Any, grammar: Grammar, strict: str | None, spec: str) -> Rule:
        key = f"{section}.{name}"
        return Rule(key, Check(key, title, Concern.APPRAISAL, spec), read, grammar, strict, _NO_POLICY)

    def reader(index: int) -> Any:
        return lambda claims: claims.pcrs.get(index)

    return (
        make(
            "bank",
            "the PCRs are of an accepted bank",
            lambda claims: claims.bank,
            Words("sha1", "sha256", "sha384", "sha512"),
            '["sha256", "sha384", "sha512"]',
            f"{_PART2} 10.6.2",
        ),
        *(
            make(
                f"pcr{index}",
                f"PCR {index} has an accepted value",
                reader(index),
                Digests(None),
                None if index <= 9 else '{ skip = "not measured by firmware or boot loader" }',
                f"{_PFP} 3.3.4",
            )
            for index in range(MAX_PCR + 1)
        ),
        make(
            "event_log",
            "an event log came along that replays to the quoted PCRs",
            lambda claims: claims.log.replays is True,
            Flag(),
            '{ skip = "the PCRs themselves are compared" }',
            f"{_PFP} 10.2",
        ),
        make(
            "secure_boot",
            "firmware measured that Secure Boot is on",
            lambda claims: claims.log.secure_boot,
            Flag(),
            '{ skip = "PCR 7 is compared" }',
            f"{_PFP} 3.3.4.8",
        ),
    )


RULES: tuple[Rule, ...] = (
    _rule(
        "nonce",
        "the quotes answer the caller's challenge",
        lambda claims: claims.attests[0].extra_data,
        Freshness(None),
        '"from-caller"',
    ),
    _rule(
        "ak_trust",
        "the attestation key is trusted in an accepted way",
        lambda claims: claims.ak_trust,
        Words("certificate", "pinned"),
        '["pinned"]',
        OneOf("certificate", "pinned"),
    ),
    _rule(
        "ak",
        "the attestation key is an accepted one, by the SHA-256 of its SubjectPublicKeyInfo",
        lambda claims: claims.ak_sha256,
        Digests(32),
        None,
    ),
    _rule(
        "firmware",
        "the TPM's firmware version is accepted",
        lambda claims: claims.attests[0].firmware,
        Digests(8),
        '{ skip = "vendors number firmware each in their own way" }',
    ),
    _rule(
        "clock_safe",
        "the TPM's clock did not go back",
        lambda claims: claims.attests[0].safe,
        Flag(),
        '{ skip = "freshness is by nonce" }',
        spec=f"{_PART2} 10.11.3",
    ),
    *pcr_rules("tpm"),
)

JUDGE = Judge(section="tpm", examine=_examine, rules=RULES)
