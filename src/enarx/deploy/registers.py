# SPDX-License-Identifier: Apache-2.0
"""What the run-time register of a TEE must be: zero in an offer, and extended by the receipt in all that follows.

A Keep that ran something before its offer, or that was provisioned with something else, has another value there. Where there is such a
register the policy's own word on it is replaced: nobody can know its value beforehand. SNP and SGX have none.

Source: docs/protocol.md, steps 3 and 6; Intel TDX module, RTMR; TCG PC Client Platform Firmware Profile, PCR 15.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256, sha384

from enarx.rats import AppraisalPolicy, OneOf

__all__ = ["empty_keep", "provisioned_keep"]

# Azure's evidence has its vTPM's registers under a name of its own.
_ZEROS = {"tdx.rtmr3": bytes(48), "tpm.pcr15": bytes(32), "azure.pcr15": bytes(32)}


def empty_keep(policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return a policy for an offer: the register is as it was at boot."""
    return _expecting(policy, _ZEROS)


def provisioned_keep(policy: AppraisalPolicy, receipt_digest: bytes) -> AppraisalPolicy:
    """Return a policy for receipts and attachments: the register was extended once, by this receipt.

    Args:
        policy: the tenant's.
        receipt_digest: 48 bytes.
    """
    # Software extends a TPM's bank by the bank's own digest of what there is to say.
    pcr15 = sha256(bytes(32) + sha256(receipt_digest).digest()).digest()
    rtmr3 = sha384(bytes(48) + receipt_digest).digest()
    return _expecting(policy, {"tdx.rtmr3": rtmr3, "tpm.pcr15": pcr15, "azure.pcr15": pcr15})


def _expecting(policy: AppraisalPolicy, values: dict[str, bytes]) -> AppraisalPolicy:
    known = {key: OneOf(value) for key, value in values.items() if key in policy.expectations}
    return replace(policy, expectations={**policy.expectations, **known}) if known else policy
