# SPDX-License-Identifier: Apache-2.0
"""The appraisal policy for evidence, decoded. Its file format is `enarx.verifier.policy_toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enarx.rats.expectations import Expectation
from enarx.rats.named_steward import NamedSteward
from enarx.rats.signers import PackageSigner

__all__ = ["AppraisalPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """What a relying party accepts.

    Args:
        name: where it comes from, for findings: a path, or `enarx's baseline`.
        expectations: by key (`snp.guest_policy.debug`). A TEE with any key here has all its keys here; a TEE with none is
            refused.
        tees: the TEEs that may be accepted: `snp`, `tdx`, `sgx`, `nitro`, `cca`, `tpm`, and `azure` on top of `snp` or `tdx`.
        insecure_emulated_roots: SHA-256 of emulated ARK certificates that are accepted, never as affirming.
        insecure_vtpm_aks: SHA-256 of the SubjectPublicKeyInfo of TPM keys that are accepted without a certificate.
        package_signers: who may sign the packages that are deployed by it; empty is no demand. No verdict on evidence depends on them.
        steward: that certifies what is deployed by it; None is no word on that. No verdict on evidence depends on it.
    """

    name: str
    expectations: Mapping[str, Expectation]
    tees: frozenset[str]
    insecure_emulated_roots: frozenset[bytes] = frozenset()
    insecure_vtpm_aks: frozenset[bytes] = frozenset()
    package_signers: tuple[PackageSigner, ...] = ()
    steward: NamedSteward | None = None
    plans: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What the verifier worked out of it, by section; nobody else's business."""
