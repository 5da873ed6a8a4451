# SPDX-License-Identifier: Apache-2.0
"""Whether what a service presents makes it the Keep that somebody wants to talk to. No I/O, but for what the caller fetches.

Rules of this file:

- What a certificate says of the Keep is its own word until it was judged. A Steward's is believed because the Steward's authority
  signed it, all that is in it included: the signature of the attestation result inside, by the Steward's result key, is for those who
  have nothing but that result, and is not looked at here.
- Evidence in a self-signed certificate proves that some Keep made the key. It does not say when, and no authority says for which
  name. So it is enough only where that was said, for a package that was named, and for a tenant that was named or for nobody's
  configuration: else anybody could deploy the same package with arguments of his own.
- A Steward's certificate needs the Steward's root. There is no other reason to believe one, and no default.
- Each check is a finding, whatever became of those before it; the verdict follows from them as in the verifier.

What holds it together is that one judgement: its checks with the next step for each, the policy, the verdict, the judge. Paths of
certificates and names in them are judged by `cryptography`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as PathError

from enarx.channel.transcript import self_signed_report_data, spki_hash
from enarx.crypto.certificates import build_path, describe, is_valid_at, name_of
from enarx.deploy.presented import MAX_CHAIN_LENGTH, Kind, Presented, read_presented_untrusted
from enarx.endorsers.emulated_root import OWN_ROOT, emulated_root
from enarx.errors import AppraisalError, EnarxError, EndorsementError, UsageError, VerificationError
from enarx.rats import AppraisalPolicy, AttestationResult, Check, Concern, Evidence, Finding, Outcome, Verdict
from enarx.verifier import TrustCache, recognise, verify_evidence
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.verifier.keep_evidence import BINDING, unknown_keep, weigh_binding
from enarx.wire.ear import Tier

if TYPE_CHECKING:
    from enarx.deploy.attesting import Fetch
    from enarx.deploy.policy import TenantPolicy

__all__ = ["JudgedService", "KeepPolicy", "ServiceJudge"]

_KEEP = Check("service.keep", "its certificate says which Keep it is of", Concern.APPRAISAL, "RFC 9999 4.4")
_TIME = Check("service.time", "its certificate holds at the time", Concern.AUTHENTICITY, "RFC 5280 4.1.2.5")
_CHAIN = Check("service.chain", "its certificate is of the Steward", Concern.AUTHENTICITY, "RFC 5280 6")
_NAME = Check("service.name", "its certificate names it", Concern.AUTHENTICITY, "RFC 9525 6")
_RESULT = Check("service.result", "the Steward accepted its evidence", Concern.APPRAISAL, "RFC 9334 8.4")
_RESULT_TIME = Check(
    "service.result_time", "the Steward's result holds at the time", Concern.AUTHENTICITY, "RFC 8392 3.1.4"
)
_EMULATED = Check("service.emulated", "its platform is a genuine one", Concern.APPRAISAL, "docs/connect.md")
_PACKAGE = Check("service.package", "it runs the package", Concern.APPRAISAL, "docs/connect.md")
_TENANT = Check("service.tenant", "it runs for the tenant", Concern.APPRAISAL, "docs/connect.md")
_PRISTINE = Check(
    "service.pristine", "nothing was given to it beyond the package", Concern.APPRAISAL, "docs/connect.md"
)
_FRESH = Check("service.fresh", "somebody says that this is so now", Concern.APPRAISAL, "RFC 9334 10")

_HINTS = {
    _KEEP.id: "whatever it is, nothing it presents says that it runs in a Keep: is this the right port?",
    _TIME.id: "compare this machine's clock; a Keep has its certificate renewed long before it ends",
    _CHAIN.id: "the root is the one of another Steward, or this is not the service: compare the root with what its operator says",
    _NAME.id: "connect by a name that the certificate has; --server-name says it where the address is another",
    _RESULT_TIME.id: "compare this machine's clock",
    _RESULT.id: "the Steward that issued this did not accept it: tell its operator",
    _EMULATED.id: "EMULATED is software that protects nothing from its host; for a trial, --insecure-accept-emulated",
    _PACKAGE.id: "enarx deploy and a receipt say the digest of a package; --package takes it",
    _TENANT.id: "a receipt says the digest of its tenant's key; --tenant takes it",
    _PRISTINE.id: "its tenant gave it arguments, environment or files; where that tenant's word is good enough, --tenant names him and --pristine is left out",
    _FRESH.id: "evidence bound to a key alone may be as old as the key: have a Steward certify the service, or say --accept-key-only",
}
_ROOT_HINT = "name the Steward's root with --steward-root FILE; its operator says which one it is"
_UNKNOWN_ROOT_HINT = (
    "if its platform is EMULATED, software that protects nothing from its host: for a trial,"
    " --insecure-accept-emulated accepts this installation's own, =ROOT-SHA256 another's"
)
_ERRORS: dict[Verdict, tuple[type[EnarxError], str]] = {
    Verdict.NOT_AUTHENTIC: (VerificationError, "is not authentic"),
    Verdict.REFUSED: (AppraisalError, "is refused"),
    Verdict.UNDECIDED: (EndorsementError, "cannot be judged"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """Which services a client takes for the Keep that it wants.

    Args:
        steward_root: the certificate that a Steward's chains must end in; None believes no Steward.
        package: SHA-256 of the package, or None for whatever the Steward gave the name to.
        tenant: SHA-384 of the tenant's key, or None for whomever the Steward gave the name to.
        pristine: refuse a Keep to which anything was given beyond the package: its digest does not say what.
        accept_key_only: accept self-signed certificates with evidence that is bound to their key, and to no time and name.
        appraisal: for that evidence; None is the installation's own policy, as for `enarx deploy`.
        insecure_accept_emulated: accept an emulated platform, which protects nothing: empty for what a Steward calls one and for this
            installation's own, the SHA-256 in hex of a root for evidence of that alone.

    Raises:
        UsageError: the two kinds of certificates are both wanted, or a digest has another size.
    """

    steward_root: x509.Certificate | None = None
    package: bytes | None = None
    tenant: bytes | None = None
    pristine: bool = False
    accept_key_only: bool = False
    appraisal: TenantPolicy | None = None
    insecure_accept_emulated: str | None = None

    def __post_init__(self) -> None:
        if self.steward_root is not None and self.accept_key_only:
            raise UsageError(
                "cannot judge a service: found a Steward's root and that a key alone is enough, want one of them",
                hint="whoever gets between could present the weaker kind of certificate",
            )
        for name, digest, size in (("package", self.package, 32), ("tenant", self.tenant, 48)):
            if digest is not None and len(digest) != size:
                raise UsageError(f"cannot judge a service: {name}: found {len(digest)} bytes, want {size}")
        if self.insecure_accept_emulated:
            emulated_root(self.insecure_accept_emulated)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedService:
    """A service that was judged, whatever the verdict.

    Args:
        presented: what it presented.
        result: with every finding; those of its evidence come after those of its certificate.
        format: of the evidence, or what the certificate is.
        missing: why something that would decide could not be fetched.
    """

    presented: Presented
    result: AttestationResult
    format: str
    missing: EndorsementError | None = None

    @property
    def verdict(self) -> Verdict:
        """Return the answer."""
        return self.result.verdict

    def require(self, service: str = "the service") -> None:
        """Return if the service is accepted.

        Args:
            service: for messages.

        Raises:
            VerificationError: it is not authentic, or is another one.
            AppraisalError: it is not what was wanted.
            EndorsementError: it cannot be decided. Each has the `AttestationResult` as `result`.
        """
        verdict = self.verdict
        if verdict is Verdict.ACCEPTED:
            return
        if verdict is Verdict.UNDECIDED and self.missing is not None:
            raise self.missing
        failures = self.result.failures
        kind, claim = _ERRORS[verdict]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        error = kind(f"{service} {claim}: {failures[0].line}{more}", hint=self._hint(verdict, failures))
        error.result = self.result  # type: ignore[attr-defined]
        raise error

    def _hint(self, verdict: Verdict, failures: tuple[Finding, ...]) -> str | None:
        own = next((finding.check.id for finding in failures if finding.check.id in _HINTS), None)
        if verdict is Verdict.UNDECIDED:
            return _ROOT_HINT if own == _CHAIN.id else "without --offline, what is missing is fetched from the vendor"
        if own is not None:
            return _HINTS[own]
        if verdict is Verdict.REFUSED:
            return f"the policy {self.result.policy_name} says what is accepted; enarx policy check explains it"
        if all(finding.check.id.endswith(BINDING) for finding in failures):
            return (
                "the evidence is about another key or another workload: somebody copied it, do not trust this service"
            )
        return None if self.result.emulated else _UNKNOWN_ROOT_HINT


class ServiceJudge:
    """Judges what services present, under one policy; any number of threads may use it.

    Args:
        policy: what is wanted.
        now: the time, aware UTC.
        fetch: for endorsements that evidence does not bring along, or None where nothing may be fetched.
    """

    def __init__(self, policy: KeepPolicy, *, now: Callable[[], datetime], fetch: Fetch | None = None) -> None:
        self.policy = policy
        self._now = now
        self._fetch = fetch
        self._cache = TrustCache()
        self._in_force: AppraisalPolicy | None = None

    def judge(self, chain: Sequence[bytes], *, server_name: str | None) -> JudgedService:
        """Judge what a service presented.

        Args:
            chain: as for `read_presented_untrusted`.
            server_name: whom a Steward's certificate must name: a DNS name or an address.

        Raises:
            DecodeError: it is not well formed.
            UsageError: the policy for evidence cannot be read.
            PlatformError: this installation has no emulated platform, and that one was to be accepted.
        """
        presented, at = read_presented_untrusted(chain), self._now().astimezone(UTC)
        if presented.kind is Kind.SELF_SIGNED:
            return self._judge_evidence(presented, at)
        if presented.kind is Kind.STEWARD:
            findings = (_kind_of(presented), *self._of_steward(presented, server_name, at), *self._identity(presented))
        else:
            wanted = "a Steward's certificate for a Keep, or a self-signed one with evidence"
            findings = (Finding(_KEEP, Outcome.FAILED, wanted, "no evidence of a Keep", "RFC 9999"),)
        return JudgedService(presented=presented, result=_result(presented, findings, at), format=str(presented.kind))

    def _of_steward(self, presented: Presented, server_name: str | None, at: datetime) -> Iterator[Finding]:
        yield _time_of(presented.leaf, at)
        yield from _chain_of(presented, self.policy.steward_root, server_name, at)
        ear = presented.ear
        if ear is None:
            raise UsageError("cannot judge a service: found no result in a Steward's certificate, want one")
        worst = max(appraisal.status for appraisal in ear.submods.values())
        verdicts = [appraisal.verifier_claims.get("enarx_verdict") for appraisal in ear.submods.values()]
        yield _finding(
            _RESULT,
            worst is not Tier.CONTRAINDICATED and all(each == str(Verdict.ACCEPTED) for each in verdicts),
            str(Verdict.ACCEPTED),
            f"{', '.join(str(each)[:64] for each in verdicts[:4])}: {worst.name.lower()}",
            "the attestation result in the certificate",
        )
        if ear.expires_at is not None:
            yield _finding(
                _RESULT_TIME, at < ear.expires_at, f"a time after {at:%Y-%m-%dT%H:%M:%SZ}", ear.expires_at, "the same"
            )
        accepted = self.policy.insecure_accept_emulated == OWN_ROOT
        yield _finding(
            _EMULATED,
            not presented.emulated or accepted,
            "a genuine one, or an EMULATED one" if accepted else "a genuine one",
            "EMULATED" if presented.emulated else "a genuine one",
            "the attestation result in the certificate",
        )

    def _identity(self, presented: Presented) -> Iterator[Finding]:
        """Compare what runs there, and for whom, with what is wanted."""
        identity, policy = presented.identity, self.policy
        if identity is None:
            raise UsageError("cannot judge a service: found no identity in a Keep's certificate, want one")
        key_only = presented.kind is Kind.SELF_SIGNED
        for check, wanted, found in (
            (_PACKAGE, policy.package, identity.package),
            (_TENANT, policy.tenant, identity.tenant),
        ):
            if wanted is not None:
                yield _finding(check, found == wanted, wanted, found, "the caller")
            elif key_only and check is _PACKAGE:
                # No authority gave it a name, so a stranger's would do as well.
                yield _finding(
                    check, passed=False, expected="one that the caller names", found=found, source="the caller"
                )
            else:
                yield Finding(check, Outcome.NOTED, None, found, "")
        if policy.pristine or (key_only and policy.tenant is None):
            source = "the caller" if policy.pristine else "no tenant is named"
            yield _finding(_PRISTINE, identity.pristine, expected=True, found=identity.pristine, source=source)
        else:
            yield Finding(_PRISTINE, Outcome.NOTED, None, identity.pristine, "")

    def _judge_evidence(self, presented: Presented, at: datetime) -> JudgedService:
        keep = presented.keep
        if keep is None or keep.evidence is None:
            raise UsageError("cannot judge a service: found no evidence in a self-signed certificate, want some")
        findings = [_kind_of(presented), _time_of(presented.leaf, at)]
        root = self.policy.steward_root
        if root is not None:
            findings.append(
                Finding(
                    _CHAIN,
                    Outcome.FAILED,
                    f"one that ends in {name_of(root)}",
                    "a self-signed one",
                    "the Steward's root",
                )
            )
        findings += self._identity(presented)
        findings.append(
            _finding(
                _FRESH,
                self.policy.accept_key_only,
                "a Steward's certificate" if not self.policy.accept_key_only else "a key at least",
                "key-only, not fresh",
                "the kind of certificate",
            )
        )
        recognised = recognise(Evidence(data=keep.evidence))
        endorsements = read_wrapped_endorsements(keep.endorsements, name="the certificate's")
        report_data = self_signed_report_data(spki_hash(presented.chain[0]), keep.identity)
        appraisal = self._appraisal()

        def verify() -> AttestationResult:
            return verify_evidence(
                recognised,
                at=at,
                endorsements=endorsements,
                policy=appraisal,
                cache=self._cache,
                report_data=report_data,
            )

        result, missing = weigh_binding(verify()), None
        if result.verdict is Verdict.UNDECIDED and self._fetch is not None:
            try:
                endorsements += self._fetch(recognised, endorsements, at)
            except EndorsementError as error:
                missing = error
            result = weigh_binding(verify())
        result = replace(result, findings=(*findings, *result.findings))
        if missing is not None:
            missing.result = result  # type: ignore[attr-defined]
        return JudgedService(presented=presented, result=result, format=recognised.format, missing=missing)

    def _appraisal(self) -> AppraisalPolicy:
        """Return the policy for evidence; the installation's own is found when there is some to judge."""
        if self._in_force is None:
            from enarx.deploy.policy import find_policy

            accepted = self.policy.insecure_accept_emulated
            policy = self.policy.appraisal or find_policy(None, emulated=accepted is not None)
            if accepted is not None:
                policy = policy.accepting({emulated_root(accepted)})
            self._in_force = unknown_keep(policy.policy)
        return self._in_force


def _finding(check: Check, passed: bool, expected: object, found: object, source: str) -> Finding:
    return Finding(check, Outcome.PASSED if passed else Outcome.FAILED, expected, found, source)


def _kind_of(presented: Presented) -> Finding:
    return Finding(_KEEP, Outcome.PASSED, None, str(presented.kind), "RFC 9999")


def _time_of(leaf: x509.Certificate, at: datetime) -> Finding:
    found = (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    return _finding(_TIME, is_valid_at(leaf, at), at, found, "the certificate")


def _chain_of(
    presented: Presented, root: x509.Certificate | None, server_name: str | None, at: datetime
) -> Iterator[Finding]:
    """Judge the path to the Steward's root, and the name.

    The path is built twice, first without the name, so that a wrong name is not taken for a foreign authority. What ended is said
    by the leaf's own finding.
    """
    leaf, source = presented.leaf, "the Steward's root"
    names = ", ".join(presented.names) or "none"
    if root is None:
        yield Finding(
            _CHAIN, Outcome.UNDECIDED, "one that ends in the Steward's root", "no root to compare with", source
        )
        yield Finding(_NAME, Outcome.NOTED, None, names, "")
        return
    anchor = describe(root)
    within = min(max(at, leaf.not_valid_before_utc), leaf.not_valid_after_utc)
    try:
        build_path(leaf, presented.issuers, (root,), at=within)
    except VerificationError as error:
        yield Finding(_CHAIN, Outcome.FAILED, f"one that ends in {anchor}", f"none ({_reason(error)})", source, anchor)
        yield Finding(_NAME, Outcome.NOTED, None, names, "")
        return
    yield Finding(_CHAIN, Outcome.PASSED, f"one that ends in {anchor}", "one", source, anchor)
    try:
        builder = PolicyBuilder().store(Store([root])).time(within.replace(tzinfo=None))
        builder.max_chain_depth(MAX_CHAIN_LENGTH).build_server_verifier(_subject(server_name)).verify(
            leaf, list(presented.issuers)
        )
    except (PathError, x509.UnsupportedGeneralNameType, ValueError) as error:
        yield Finding(_NAME, Outcome.FAILED, server_name, f"{names} ({_reason(error)})", "the address")
        return
    yield Finding(_NAME, Outcome.PASSED, server_name, names, "the address")


def _subject(server_name: str | None) -> x509.DNSName | x509.IPAddress:
    name = (server_name or "").removeprefix("[").removesuffix("]")
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.removesuffix("."))


def _reason(error: Exception) -> str:
    """Return what the library says of a path, without the certificates that it shows."""
    return " ".join(str(error).split("(encountered processing")[0].split())[-200:]


def _result(presented: Presented, findings: tuple[Finding, ...], at: datetime) -> AttestationResult:
    ear = presented.ear
    claims = next(iter(ear.submods.values())) if ear is not None else None
    tee = None if claims is None else claims.verifier_claims.get("enarx_tee")
    ends = (presented.leaf.not_valid_after_utc, None if ear is None else ear.expires_at)
    return AttestationResult(
        tee=tee if isinstance(tee, str) else "none",
        subject=presented,
        findings=findings,
        at=at,
        policy_name="none" if claims is None else ", ".join(claims.policy_ids)[:200] or "none",
        valid_until=min(end for end in ends if end is not None),
        emulated=presented.emulated,
    )
