# SPDX-License-Identifier: Apache-2.0
"""What evidence of a Keep must be beyond the words of a policy: over what was asked, with the right run-time register.

To a policy, freshness is one expectation among others. Of a Keep it says whether the evidence is about this session, nonce or key at all.

The run-time register is zero in an offer, and extended by the receipt in all that follows. A Keep that ran something before its offer, or that was provisioned with something else, has another value there. Where there is such a
register the policy's own word on it is replaced: nobody can know its value beforehand. SNP and SGX have none.

Source: docs/protocol.md, steps 3 and 6; Intel TDX module, RTMR; TCG PC Client Platform Firmware Profile, PCR 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256, sha384

from enarx.rats import AppraisalPolicy, AttestationResult, Concern, Expectation, Finding, OneOf, Outcome, Skip, Verdict

__all__ = ["BINDING", "empty_keep", "provisioned_keep", "unknown_keep", "weigh_binding"]

BINDING = (".report_data", ".nonce")
"""Ends of the names of the checks that evidence is over what was asked."""

# Azure's evidence has its vTPM's registers under a name of its own.
_ZEROS = {"tdx.rtmr3": bytes(48), "tpm.pcr15": bytes(32), "azure.pcr15": bytes(32)}


def empty_keep(policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return a policy for an offer: the register is as it was at boot."""
    return _expecting(policy, {key: OneOf(value) for key, value in _ZEROS.items()})


def provisioned_keep(policy: AppraisalPolicy, receipt_digest: bytes) -> AppraisalPolicy:
    """Return a policy for receipts and attachments: the register was extended once, by this receipt.

    Args:
        policy: the tenant's.
        receipt_digest: 48 bytes.
    """
    if policy.expectations.keys().isdisjoint(_ZEROS):
        return policy
    # Software extends a TPM's bank by the bank's own digest of what there is to say.
    pcr15 = sha256(bytes(32) + sha256(receipt_digest).digest()).digest()
    rtmr3 = sha384(bytes(48) + receipt_digest).digest()
    return _expecting(policy, {"tdx.rtmr3": OneOf(rtmr3), "tpm.pcr15": OneOf(pcr15), "azure.pcr15": OneOf(pcr15)})


def unknown_keep(policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return a policy for evidence in a self-signed certificate: whoever reads that has not seen the receipt.

    What the Keep runs is then its own word alone, in the identity record that the evidence is over.
    """
    return _expecting(policy, dict.fromkeys(_ZEROS, Skip("only who has the receipt can say what the register must be")))


def weigh_binding(result: AttestationResult) -> AttestationResult:
    """Return a verdict for which evidence over anything else than was asked is not authentic."""
    if result.verdict is Verdict.ACCEPTED:
        return result
    failed = Outcome.FAILED

    def weigh(finding: Finding) -> Finding:
        if finding.outcome is not failed or not finding.check.id.endswith(BINDING):
            return finding
        return finding._replace(check=finding.check._replace(concern=Concern.AUTHENTICITY))

    return replace(result, findings=tuple(map(weigh, result.findings)))


def _expecting(policy: AppraisalPolicy, values: Mapping[str, Expectation]) -> AppraisalPolicy:
    known = {key: value for key, value in values.items() if key in policy.expectations}
    return replace(policy, expectations={**policy.expectations, **known}) if known else policy
