# SPDX-License-Identifier: Apache-2.0
"""Certificate chains and revocation, with a finding for each thing that must hold.

Paths are built by `cryptography`. What is here says why there is none, which is what people ask, and remembers paths: a
path's signatures do not change, its validity does, and that is compared every time.

Source: RFC 5280.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.crypto.certificates import (
    build_path,
    describe,
    extension_of,
    issued_directly,
    load_certificate_untrusted,
    load_crl_untrusted,
    name_of,
    not_after_of,
    not_before_of,
    unknown_critical_extensions,
)
from enarx.errors import DecodeError, VerificationError
from enarx.rats import Check, Concern, Finding
from enarx.verifier.ledger import Ledger, Setting

__all__ = ["Chain", "ChainChecks", "check_crl", "make_chain_checks", "verify_chain"]

# How far a broken chain is followed to say where it breaks. Candidates can be many, and each step looks at all of them.
_MAX_STEPS = 8
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainChecks:
    """The checks that `verify_chain` and `check_crl` make for one kind of chain."""

    anchor: Check
    validity: Check
    extensions: Check
    revocation: Check


def make_chain_checks(prefix: str, what: str, spec: str) -> ChainChecks:
    """Make the checks of one kind of chain.

    Args:
        prefix: of their ids: `tdx.pck_chain`.
        what: the leaf is, for titles: `the PCK certificate`.
        spec: document and section.
    """
    authenticity = Concern.AUTHENTICITY
    return ChainChecks(
        anchor=Check(f"{prefix}.anchor", f"{what} chains to a trust anchor", authenticity, spec),
        validity=Check(
            f"{prefix}.validity", f"{what} and its issuers are valid at the time", authenticity, "RFC 5280 4.1.2.5"
        ),
        extensions=Check(
            f"{prefix}.extensions", f"{what} has no unknown critical extension", authenticity, "RFC 5280 4.2"
        ),
        revocation=Check(
            f"{prefix}.revocation", f"{what} and its issuers are not revoked", authenticity, "RFC 5280 6.3"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A path whose signatures hold.

    Args:
        certificates: the leaf first, the trust anchor last.
        not_before: when the last of them becomes valid.
        not_after: when the first of them ends.
        anchor: the trust anchor, as findings name it.
        names: of the certificates, the leaf's first.
        unknown: object identifiers of their critical extensions that nobody here understands.
    """

    certificates: tuple[x509.Certificate, ...]
    not_before: datetime
    not_after: datetime
    anchor: str
    names: tuple[str, ...]
    unknown: frozenset[str]
    path: str = field(init=False)
    """The names as findings show them."""
    excess: str = field(init=False)
    """Which issuer may not issue, or not this far from the leaf, the leaf counted among the issuers; empty where all may."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", " < ".join(self.names))
        object.__setattr__(self, "excess", _find_excess(self.certificates))

    @property
    def leaf(self) -> x509.Certificate:
        """The end entity."""
        return self.certificates[0]


def verify_chain(
    ledger: Ledger,
    checks: ChainChecks,
    leaf: bytes,
    candidates: tuple[bytes, ...],
    roots: tuple[bytes, ...],
    setting: Setting,
    *,
    signs: str,
) -> Chain | None:
    """Find the path from a certificate to one of the roots.

    Args:
        ledger: receives the findings.
        checks: of this kind of chain.
        leaf: DER.
        candidates: DER, in any order.
        roots: trust anchors, DER.
        setting: for the time and the cache.
        signs: what the leaf's key signs, for people: `the QE report`.

    Returns:
        The path, or None where there is none; a path that is not valid at the time is returned with its failed finding.

    Raises:
        DecodeError: a certificate is not well formed.
    """

    def find() -> Chain | str:
        certificate = load_certificate_untrusted(leaf)
        others = tuple(load_certificate_untrusted(der) for der in candidates)
        anchors = tuple(load_certificate_untrusted(der) for der in roots)
        failure = "no trust anchor is configured"
        # A path is a path at some time: at the one asked for, else at one when the leaf was valid, to say what is wrong.
        times = (setting.at, not_before_of(certificate), not_after_of(certificate))
        for at in times if anchors else ():
            try:
                path = build_path(certificate, others, anchors, at=at)
            except VerificationError as error:
                failure = failure if failure.startswith("found") else _why(certificate, others, anchors) or str(error)
                continue
            return Chain(
                certificates=path,
                not_before=max(not_before_of(each) for each in path),
                not_after=min(not_after_of(each) for each in path),
                anchor=describe(path[-1]),
                names=tuple(name_of(each) for each in path),
                unknown=frozenset().union(*(unknown_critical_extensions(each) for each in path)),
            )
        return failure

    # At another time there may be another path.
    chain = setting.cache.remember(
        ("chain", leaf, candidates, roots),
        find,
        holds=lambda known: not isinstance(known, str) and known.not_before <= setting.at <= known.not_after,
    )
    if isinstance(chain, str):
        ledger.require(
            checks.anchor, passed=False, expected="a path to a trust anchor", found=chain, source="signatures"
        )
        return None
    ledger.require(
        checks.anchor,
        passed=True,
        expected="a path to a trust anchor",
        found=chain.path,
        source="signatures",
        anchor=chain.anchor,
    )
    ledger.require(
        checks.validity,
        chain.not_before <= setting.at <= chain.not_after,
        expected=(chain.not_before, chain.not_after),
        found=setting.at,
        source="the certificates",
        anchor=chain.anchor,
    )
    ledger.limit(chain.not_after)
    ledger.chains.append((*chain.names[::-1], signs))
    ledger.require(checks.extensions, not chain.unknown, expected=_NONE, found=chain.unknown, source="RFC 5280")
    return chain


def _find_excess(certificates: tuple[x509.Certificate, ...]) -> str:
    for below, certificate in enumerate(certificates):
        usage, constraints = extension_of(certificate, x509.KeyUsage), extension_of(certificate, x509.BasicConstraints)
        if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
            return f"{name_of(certificate)} may not issue"
        if constraints.path_length is not None and constraints.path_length < below:
            return f"{name_of(certificate)} may have {constraints.path_length} issuers below it and has {below}"
    return ""


def _why(
    leaf: x509.Certificate, others: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]
) -> str | None:
    """Say where a chain breaks, for the person who has to mend it."""
    current, seen = leaf, {leaf}
    for _ in range(_MAX_STEPS):
        if any(current == root for root in roots):
            return None
        for issuer in (*roots, *others):
            if issuer.subject == current.issuer and issuer not in seen:
                break
        else:
            itself = " (it signs itself, and is not a trust anchor)" if current.issuer == current.subject else ""
            return (
                f"found no certificate of {current.issuer.rfc4514_string()}, the issuer of {name_of(current)}{itself}"
            )
        if not issued_directly(current, issuer):
            return f"found a signature on {name_of(current)} that {name_of(issuer)} did not make"
        seen.add(issuer)
        current = issuer
    return None


def check_crl(
    ledger: Ledger,
    check: Check,
    crl_der: bytes | None,
    issuer: x509.Certificate,
    subjects: tuple[x509.Certificate, ...],
    setting: Setting,
    *,
    anchor: str | None = None,
    key: Hashable = None,
) -> None:
    """Record whether certificates of one issuer are revoked.

    Args:
        ledger: receives the finding: passed, failed (a bad signature or a revoked certificate), or undecided (there is no
            list, or it is not for this time).
        check: which.
        crl_der: the list in DER, or None where there is none.
        issuer: whose certificates, and whose signature on the list.
        subjects: the certificates to look up.
        setting: for the time and the cache.
        anchor: as in `Finding`.
        key: what the answer depends on besides the time, by value; with it, a list that names none of them is remembered for as long
            as it lasts. None remembers nothing.

    Raises:
        DecodeError: the list is not well formed.
    """

    def look_up() -> tuple[Finding, datetime, datetime | None]:
        found, since = Ledger(), load_crl_untrusted(crl_der or b"").last_update_utc
        _look_up(found, check, crl_der, issuer, subjects, replace(setting, at=since), anchor)
        return found.findings[0], since, found.valid_until

    if crl_der is not None and key is not None:
        finding, since, until = setting.cache.remember(key, look_up)
        if until is not None and since <= setting.at <= until:
            ledger.findings.append(finding)
            ledger.limit(until)
            return
    _look_up(ledger, check, crl_der, issuer, subjects, setting, anchor)


def _look_up(
    ledger: Ledger,
    check: Check,
    crl_der: bytes | None,
    issuer: x509.Certificate,
    subjects: tuple[x509.Certificate, ...],
    setting: Setting,
    anchor: str | None,
) -> None:
    who = name_of(issuer)
    wanted = f"a current list of {who} without {', '.join(name_of(each) for each in subjects)}"
    if crl_der is None:
        ledger.doubt(check, expected=wanted, found="no revocation list", source=f"{who}'s revocation list")
        return

    def load() -> tuple[x509.CertificateRevocationList, bool]:
        crl = load_crl_untrusted(crl_der)
        try:
            signed = crl.issuer == issuer.subject and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise DecodeError(f"cannot decode a CRL: found {error}, want a signature of a known kind") from error
        return crl, signed

    crl, signed = setting.cache.remember(("crl", crl_der, issuer.public_bytes(Encoding.DER)), load)
    source = f"{who}'s revocation list"
    if not signed:
        ledger.require(check, passed=False, expected=f"a list signed by {who}", found="another signer's", source=source)
        return
    revoked = [
        name_of(each)
        for each in subjects
        if crl.get_revoked_certificate_by_serial_number(each.serial_number) is not None
    ]
    if revoked:
        ledger.require(
            check, passed=False, expected=wanted, found=f"revoked: {', '.join(revoked)}", source=source, anchor=anchor
        )
        return
    next_update = crl.next_update_utc
    if next_update is None or not crl.last_update_utc <= setting.at <= next_update:
        ledger.doubt(check, expected=wanted, found=f"a list for {crl.last_update_utc} to {next_update}", source=source)
        return
    ledger.limit(next_update)
    ledger.require(check, passed=True, expected=wanted, found="not revoked", source=source, anchor=anchor)
