# SPDX-License-Identifier: Apache-2.0
"""Find out whether a Keep is what the operator accepts, and which names it gets. Nothing is issued or logged here.

What has to hold for a certificate, in this order:

1. The request is signed with the key in it, of a kind that is certified.
2. The evidence is authentic, acceptable under the operator's policy, and over this Steward's nonce, that key, the identity record and this
   Steward's own certificate: the root by which that Keep judges its peers. One above it will not do: other authorities are below that.
   Where the TEE has a run-time register, it was extended by this very receipt and by nothing else.
3. A grant names the package and the tenant of that identity.

Rules of this file:

- Policy and grants are the operator's. What a Keep says about itself counts for nothing until evidence is over it.
- A platform that is emulated is accepted only if the policy has its root, or the operator named it beside the policy. Then the
  certificate says so, and no result affirms it.
- Judging blocks; what is fetched from vendors blocks for longer. The time is an argument.

Source: docs/protocol.md, "What evidence is over"; RFC 9334 section 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256, sha384
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import enarx
from enarx.channel.transcript import identity_report_data, leaf_hash
from enarx.crypto.certificates import extension_of, load_certificate_untrusted
from enarx.errors import AppraisalError, ConfigError, EndorsementError, VerificationError
from enarx.image.policies import expand_policy
from enarx.rats import AppraisalPolicy, AttestationResult, Endorsements, Evidence, Outcome, Verdict
from enarx.steward.certificates import Wanted, encode_key, require_request, spiffe_id
from enarx.steward.configuration import Configuration, names_for
from enarx.steward.vendors import Fetch
from enarx.verifier import Recognised, TrustCache, recognise, verify_evidence
from enarx.verifier.endorsement_files import read_wrapped_endorsements
from enarx.verifier.keep_evidence import BINDING, provisioned_keep, weigh_binding
from enarx.verifier.policy_toml import decode_policy
from enarx.wire.ear import build_ear, sign_ear_cwt
from enarx.wire.release import Identity, decode_identity_untrusted
from enarx.wire.session import decode_without_evidence_untrusted
from enarx.wire.steward import CertificateRequest

__all__ = [
    "Granted",
    "Judge",
    "NoGrantError",
    "OperatorPolicy",
    "ShownAgain",
    "WrongRootError",
    "make_policy",
    "read_policy",
]


class WrongRootError(VerificationError):
    """A Keep was given another root than this Steward's, and judges its peers and clients by that one."""

    check = "steward.root"


class NoGrantError(AppraisalError):
    """A Keep is genuine and acceptable, and no grant names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPolicy:
    """What evidence must be.

    Args:
        policy: decoded, with emulated roots that are accepted beside the text.
        text: TOML, with the values of images in place of their names.
        name: for messages and results.
        accepted_roots: SHA-256 of emulated roots that are accepted beside the text.
    """

    policy: AppraisalPolicy
    text: bytes
    name: str
    accepted_roots: frozenset[bytes] = frozenset()
    sha256: bytes = field(init=False)
    """Of the text."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", sha256(self.text).digest())


def make_policy(text: bytes, *, path: str, name: str, accepted_roots: Iterable[bytes] = ()) -> OperatorPolicy:
    """Read the operator's policy.

    Args:
        text: of the policy file. Images that it names are measured.
        path: of the file, for messages about it.
        name: for those who are judged by it, who need not know the path.
        accepted_roots: SHA-256 of the DER of emulated roots that are accepted beside it.

    Raises:
        ConfigError: it is no policy, or accepts nothing at all.
        UsageError: an image that it names is not installed.
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    accepted = frozenset(accepted_roots)
    whole, _ = expand_policy(text, path=path, emulated=bool(accepted))
    return read_policy(whole, path=path, name=name, accepted_roots=accepted)


def read_policy(text: bytes, *, path: str, name: str, accepted_roots: frozenset[bytes]) -> OperatorPolicy:
    """Read a policy that names no image; the arguments are those of `make_policy`.

    Raises:
        ConfigError: it is no policy, or accepts nothing at all.
    """
    policy = replace(decode_policy(text, path=path), name=name)
    if not policy.tees:
        raise ConfigError(f"{path}: found no section for a kind of TEE, want at least one", path=path)
    policy = replace(policy, insecure_emulated_roots=policy.insecure_emulated_roots | accepted_roots)
    return OperatorPolicy(policy=policy, text=text, name=name, accepted_roots=accepted_roots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A Keep that gets a certificate.

    Args:
        wanted: what the certificate is to be.
        result: the verdict, with every finding.
        identity: what runs, and for whom.
        names: DNS names, perhaps none.
        spki: SHA-384 of the key's SubjectPublicKeyInfo.
        report_data: 64 bytes that the evidence is over.
    """

    wanted: Wanted
    result: AttestationResult
    identity: Identity
    names: tuple[str, ...]
    spki: bytes
    report_data: bytes


class ShownAgain(Protocol):
    """What is kept of a request that got a certificate."""

    @property
    def evidence(self) -> bytes:
        """CMW in CBOR."""

    @property
    def endorsements(self) -> Sequence[bytes]:
        """CMWs in CBOR that came with it."""

    @property
    def receipt(self) -> bytes:
        """Without evidence, as the Keep sent it."""

    @property
    def report_data(self) -> bytes:
        """What the evidence is over."""


class Judge:
    """Judges by one policy and one configuration; for any number of threads.

    Args:
        policy: the operator's.
        configuration: has the grants, and what certificates are to be like.
        root: the Steward's own certificate, which Keeps have to be given as the root.
        result_key: signs results.
        fetch: for missing endorsements, or None where nothing is fetched.
        newest: gives lists and collateral of our own fetching, which count beside those that came along; or None.
        cache: remembers chains and collateral; None is a new one.
    """

    def __init__(
        self,
        policy: OperatorPolicy,
        configuration: Configuration,
        *,
        root: x509.Certificate,
        result_key: ec.EllipticCurvePrivateKey,
        fetch: Fetch | None = None,
        newest: Fetch | None = None,
        cache: TrustCache | None = None,
    ) -> None:
        self.policy = policy
        self.configuration = configuration
        self._root = leaf_hash(root.public_bytes(Encoding.DER))
        self._result_key = result_key
        self._fetch = fetch
        self._newest = newest
        self._cache = cache if cache is not None else TrustCache()

    @property
    def cache(self) -> TrustCache:
        """What it remembers of chains and collateral."""
        return self._cache

    def certify(self, request: CertificateRequest, *, now: datetime) -> Granted:
        """Find out whether a Keep gets a certificate, and which.

        Args:
            request: whose nonce was found to be ours.
            now: aware.

        Raises:
            DecodeError: a part of it is not well formed.
            WrongRootError: the Keep was given another root.
            VerificationError: the request is not its key's, or the evidence is not authentic or not over it. What is about evidence
                has every finding as `result`, like the next two.
            AppraisalError: the policy refuses it.
            EndorsementError: it cannot be decided.
            NoGrantError: no grant names it.
        """
        key = require_request(request.csr)
        receipt = decode_without_evidence_untrusted(request.receipt)
        identity = decode_identity_untrusted(receipt.identity)
        encoded = encode_key(key)
        spki = sha384(encoded).digest()
        self._require_root(request.root)
        report_data = identity_report_data(request.nonce, spki, receipt.identity, self._root)
        result = self._provisioned(request.evidence, request.endorsements, request.receipt, report_data, now)
        result.require()
        _require_binding(result)
        names = self._names(identity)
        wanted = Wanted(
            key=key,
            spki=encoded,
            package=identity.package,
            identity=receipt.identity,
            result=self._signed(result, request, report_data, now),
            dns=names,
            spiffe=spiffe_id(self.configuration.trust_domain, identity.package),
            lifetime=self.configuration.lifetime,
            valid_until=result.valid_until,
            is_emulated=result.emulated,
            crl_url=self.configuration.crl_url,
        )
        return Granted(wanted=wanted, result=result, identity=identity, names=names, spki=spki, report_data=report_data)

    def appraise(
        self, evidence: bytes, endorsements: Sequence[bytes], report_data: bytes, *, now: datetime
    ) -> AttestationResult:
        """Judge anybody's evidence.

        Args:
            evidence: of any format that is known.
            endorsements: CMWs.
            report_data: what it should be over, at least one byte.
            now: aware.

        Returns:
            The result, whatever the verdict.

        Raises:
            DecodeError: it is not well formed.
        """
        return self._judge(self.policy.policy, evidence, endorsements, report_data, now)

    def again(self, row: ShownAgain, certificate: bytes, *, now: datetime) -> AttestationResult:
        """Judge again what a certificate was given for.

        Args:
            row: what is kept of the request.
            certificate: that was issued, in DER.
            now: aware.

        Returns:
            The result, whatever the verdict.

        Raises:
            NoGrantError: it would be accepted, and no grant names it any more, or not all names that are in the certificate.
            DecodeError: what is kept is not well formed.
        """
        result = self._provisioned(row.evidence, row.endorsements, row.receipt, row.report_data, now)
        if result.verdict is Verdict.ACCEPTED:
            identity = decode_identity_untrusted(decode_without_evidence_untrusted(row.receipt).identity)
            self._require_granted(load_certificate_untrusted(certificate), identity)
        return result

    def _require_root(self, root: bytes) -> None:
        if root != self._root:
            raise WrongRootError(
                f"the Keep was given another root than this Steward's: found SHA-384 {root.hex()}, want {self._root.hex()}",
                hint="whoever deploys gives --steward-root the root.pem of the Steward's folder",
            )

    def refresh(self, row: ShownAgain, *, now: datetime) -> None:
        """Have the newest lists for what a certificate was given for at hand, where they can be had.

        Args:
            row: what is kept of the request.
            now: aware.

        Raises:
            DecodeError: what is kept is not well formed.
        """
        if self._newest is not None:
            self._newest(recognise(Evidence(data=row.evidence)), self._read(row.endorsements), now)

    def _require_granted(self, certificate: x509.Certificate, identity: Identity) -> None:
        spiffe = spiffe_id(self.configuration.trust_domain, identity.package)
        granted = {*map(x509.DNSName, self._names(identity)), x509.UniformResourceIdentifier(spiffe)}
        lost = [name for name in extension_of(certificate, x509.SubjectAlternativeName) or () if name not in granted]
        if lost:
            raise NoGrantError(
                f"the certificate is for more than is granted now: found {lost[0].value}, want names of the grants for package"
                f" {identity.package.hex()} of tenant {identity.tenant.hex()}"
            )

    def _provisioned(
        self, evidence: bytes, endorsements: Sequence[bytes], receipt: bytes, report_data: bytes, now: datetime
    ) -> AttestationResult:
        policy = provisioned_keep(self.policy.policy, sha384(receipt).digest())
        return self._judge(policy, evidence, endorsements, report_data, now)

    def _judge(
        self,
        policy: AppraisalPolicy,
        evidence: bytes,
        endorsements: Sequence[bytes],
        report_data: bytes,
        now: datetime,
    ) -> AttestationResult:
        recognised = recognise(Evidence(data=evidence))
        known = self._read(endorsements)
        if self._newest is not None:
            known += self._newest(recognised, known, now)
        return judge_recognised(
            recognised, known, policy, report_data=report_data, fetch=self._fetch, cache=self._cache, now=now
        )

    def _read(self, endorsements: Sequence[bytes]) -> Endorsements:
        # Of one platform they are the same for months.
        return self._cache.remember(
            ("steward.endorsements", tuple(endorsements)),
            lambda: read_wrapped_endorsements(endorsements, name="the request's"),
        )

    def _names(self, identity: Identity) -> tuple[str, ...]:
        names = names_for(self.configuration.grants, identity)
        if names is None:
            beyond = "" if identity.pristine else ", with arguments or files of its own"
            raise NoGrantError(
                f"no grant names this Keep: found package {identity.package.hex()} of tenant {identity.tenant.hex()}{beyond}, want"
                " both in one [[grant]]",
                hint='the Steward\'s operator adds it to steward.toml; tenant = "any" holds for Keeps without anything of their own',
            )
        return names

    def _signed(
        self, result: AttestationResult, request: CertificateRequest, report_data: bytes, now: datetime
    ) -> bytes:
        ear = build_ear(
            result,
            issued_at=now,
            evidence_sha256=sha256(request.evidence).digest(),
            build=enarx.__version__,
            nonce=request.nonce,
            evidence_nonce=report_data,
            policy_ids=(self.policy.name, f"sha256:{self.policy.sha256.hex()}"),
        )
        return sign_ear_cwt(ear, self._result_key)


def judge_recognised(
    recognised: Recognised,
    known: Endorsements,
    policy: AppraisalPolicy,
    *,
    report_data: bytes,
    fetch: Fetch | None,
    cache: TrustCache,
    now: datetime,
) -> AttestationResult:
    """Judge evidence, fetching what is missing; over anything else than it should be, it is not authentic.

    Args:
        recognised: the evidence.
        known: endorsements that are at hand.
        policy: what it must be.
        report_data: what it must be over.
        fetch: for what is missing, or None.
        cache: of chains and collateral.
        now: aware.

    Returns:
        The result, whatever the verdict. What cannot be fetched leaves it undecided.

    Raises:
        DecodeError: an endorsement is not well formed.
    """

    def verify(endorsements: Endorsements) -> AttestationResult:
        result = verify_evidence(
            recognised, at=now, endorsements=endorsements, policy=policy, cache=cache, report_data=report_data
        )
        return weigh_binding(result)

    result = verify(known)
    if result.verdict is Verdict.UNDECIDED and fetch is not None:
        try:
            fetched = fetch(recognised, known, now)
        except EndorsementError:
            return result
        result = verify(known + fetched)
    return result


def _require_binding(result: AttestationResult) -> None:
    """Refuse evidence of a kind that says nothing of what it is over; there is none yet."""
    passed = Outcome.PASSED
    # It was looked for last.
    for each in reversed(result.findings):
        if each.outcome is passed and each.check.id.endswith(BINDING):
            return
    raise VerificationError(
        f"the evidence cannot be of this request: {result.tee}: found nothing that it is over, want this request"
    )
