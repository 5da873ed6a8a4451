# SPDX-License-Identifier: Apache-2.0
"""The nouns of remote attestation, as frozen values, in the words of RFC 9334.

Runs: everywhere. Trusted by: everybody who imports it; it does nothing.

- `Evidence` is foreign bytes; a parsed report is `Claims` of its TEE (`enarx.abi`).
- `Endorsements` is what vendors say about attesters; `TrustAnchors` is whom the relying party believes.
- `AppraisalPolicy` maps keys to `Expectation`s; there is no key that means "not checked" by being absent.
- `Verified` marks claims as authentic. Only `enarx.verifier` makes one.
- `AttestationResult` is the verdict with one `Finding` for each `Check`.

Source: RFC 9334.
"""

from __future__ import annotations

from enarx.rats.anchors import TrustAnchors
from enarx.rats.endorsements import Endorsements, IntelCollateral
from enarx.rats.evidence import MAX_EVIDENCE_BYTES, Evidence
from enarx.rats.expectations import (
    AtLeast,
    AtMost,
    EachAtLeast,
    Expectation,
    FromCaller,
    OneOf,
    Skip,
    Subset,
)
from enarx.rats.findings import Check, Concern, Finding, Outcome, render
from enarx.rats.named_steward import NamedSteward
from enarx.rats.policy import AppraisalPolicy
from enarx.rats.results import AttestationResult, Claims, Verdict
from enarx.rats.signers import PackageSigner
from enarx.rats.verified import Verified

__all__ = [
    "MAX_EVIDENCE_BYTES",
    "AppraisalPolicy",
    "AtLeast",
    "AtMost",
    "AttestationResult",
    "Check",
    "Claims",
    "Concern",
    "EachAtLeast",
    "Endorsements",
    "Evidence",
    "Expectation",
    "Finding",
    "FromCaller",
    "IntelCollateral",
    "NamedSteward",
    "OneOf",
    "Outcome",
    "PackageSigner",
    "Skip",
    "Subset",
    "TrustAnchors",
    "Verdict",
    "Verified",
    "render",
]
