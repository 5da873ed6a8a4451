# SPDX-License-Identifier: Apache-2.0
"""The attestation result: a verdict, and every finding it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Protocol

from enarx.errors import AppraisalError, EnarxError, EndorsementError, VerificationError
from enarx.rats.findings import Concern, Finding, Outcome

__all__ = ["AttestationResult", "Claims", "Verdict"]


class Claims(Protocol):
    """What an attester said, parsed."""

    def named(self) -> Mapping[str, object]:
        """Return the claims by the vendor's names in lower case; values are int, bool, str, bytes, None or nested."""


_OUTCOME_OF = attrgetter("outcome")
_AGAINST = frozenset({Outcome.FAILED, Outcome.UNDECIDED})


class Verdict(StrEnum):
    """The four answers. `could not decide` is an answer of its own, and never a no."""

    ACCEPTED = "accepted"
    NOT_AUTHENTIC = "not authentic"
    REFUSED = "refused"
    UNDECIDED = "undecided"


_ERRORS: Mapping[Verdict, type[EnarxError]] = {
    Verdict.NOT_AUTHENTIC: VerificationError,
    Verdict.REFUSED: AppraisalError,
    Verdict.UNDECIDED: EndorsementError,
}
_CLAIMS: Mapping[Verdict, str] = {
    Verdict.NOT_AUTHENTIC: "not authentic",
    Verdict.REFUSED: "authentic and refused",
    Verdict.UNDECIDED: "undecided",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """What a verifier concludes about one piece of evidence.

    Args:
        tee: `snp`, `tdx`, `sgx`, `nitro`, `cca`, `tpm`, `azure-snp` or `azure-tdx`.
        subject: the parsed evidence; see `claims`.
        findings: one for each check, all of them even when the first fails, in the order they were made.
        at: the time, aware UTC, that was judged for.
        policy_name: of the policy that was applied.
        valid_until: when the first endorsement that the result rests on ends, or None where none does.
        tcb_status: Intel's word for the platform's TCB, or None.
        advisory_ids: Intel's advisories that apply, in Intel's order: the platform's, the TDX module's, the quoting enclave's.
        chains: of trust, each the names of certificates from the trust anchor down, then what the last of them signs.
        emulated: whether it rests on the root of an emulated platform: then nothing protects data in use.

    Spec: RFC 9334 section 8.4.
    """

    tee: str
    subject: Claims
    findings: tuple[Finding, ...]
    at: datetime
    policy_name: str
    valid_until: datetime | None = None
    tcb_status: str | None = None
    advisory_ids: tuple[str, ...] = ()
    chains: tuple[tuple[str, ...], ...] = ()
    emulated: bool = False

    verdict: Verdict = field(init=False)
    """The answer: a forgery is said before a doubt, and a doubt before a dislike."""

    def __post_init__(self) -> None:
        # Asked for again and again, and to find it out means to look at every finding.
        object.__setattr__(self, "verdict", self._conclude())

    def _conclude(self) -> Verdict:
        if _AGAINST.isdisjoint(map(_OUTCOME_OF, self.findings)):
            return Verdict.ACCEPTED
        if any(each.outcome is Outcome.FAILED and each.check.concern is Concern.AUTHENTICITY for each in self.findings):
            return Verdict.NOT_AUTHENTIC
        if any(each.outcome is Outcome.UNDECIDED for each in self.findings):
            return Verdict.UNDECIDED
        return Verdict.REFUSED

    @property
    def claims(self) -> Mapping[str, object]:
        """What the attester said, by the vendor's names; believed only when the verdict is `ACCEPTED` or `REFUSED`."""
        return self.subject.named()

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that the verdict rests on, where it is not `ACCEPTED`."""
        verdict = self.verdict
        if verdict is Verdict.ACCEPTED:
            return ()
        if verdict is Verdict.UNDECIDED:
            return tuple(finding for finding in self.findings if finding.outcome is Outcome.UNDECIDED)
        concern = Concern.AUTHENTICITY if verdict is Verdict.NOT_AUTHENTIC else Concern.APPRAISAL
        return tuple(
            finding
            for finding in self.findings
            if finding.outcome is Outcome.FAILED and finding.check.concern is concern
        )

    def require(self) -> None:
        """Return if the evidence is accepted.

        Raises:
            VerificationError: it is not authentic.
            AppraisalError: it is authentic and the policy refuses it.
            EndorsementError: it cannot be decided. Each carries this result as `result`.
        """
        verdict = self.verdict
        if verdict is Verdict.ACCEPTED:
            return
        failures = self.failures
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        error = _ERRORS[verdict](
            f"{self.tee} evidence is {_CLAIMS[verdict]}: {failures[0].line}{more}",
            hint="--explain shows every check",
        )
        error.result = self  # type: ignore[attr-defined]
        raise error
