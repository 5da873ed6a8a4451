# SPDX-License-Identifier: Apache-2.0
"""Trust anchors: the keys a relying party starts from. The vendors' own are in `enarx.verifier.roots`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from enarx.errors import UsageError

__all__ = ["EMULATED_ROOT", "TrustAnchors"]

EMULATED_ROOT = "2.25.56145321689887902900810908206672551938"
"""The extension in the root certificate of an emulated platform, which says that it is one."""

# That object identifier in DER.
_EMULATED_ROOT_DER = bytes.fromhex("061369d4bd998595cea290eb8a9e98b581b3eac002")

_NONE: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """Whom the relying party believes, by family; an empty family refuses everything of that family.

    Args:
        amd: ARK certificates in DER.
        intel: SGX root CA certificates in DER.
        aws: Nitro Enclaves root certificates in DER.
        tpm: roots of attestation-key and endorsement-key certificates in DER (Azure, GCP, TPM makers).
        cca: CPAK public keys, SubjectPublicKeyInfo in DER by the 33-byte instance id they are for.
        tpm_aks: SHA-256 of the SubjectPublicKeyInfo in DER of attestation keys that need no certificate.
        insecure_emulated: SHA-256 of the DER of ARK certificates of emulated platforms. What rests on one of these is never affirming.

    Raises:
        UsageError: the root of an emulated platform is in another family than `insecure_emulated`.
    """

    amd: tuple[bytes, ...] = ()
    intel: tuple[bytes, ...] = ()
    aws: tuple[bytes, ...] = ()
    tpm: tuple[bytes, ...] = ()
    cca: Mapping[bytes, bytes] = field(default_factory=lambda: _NONE)
    tpm_aks: frozenset[bytes] = frozenset()
    insecure_emulated: frozenset[bytes] = frozenset()
    _extensions: dict[tuple[frozenset[bytes], frozenset[bytes]], TrustAnchors] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for family in ("amd", "intel", "aws", "tpm"):
            if any(_EMULATED_ROOT_DER in root for root in getattr(self, family)):
                raise UsageError(
                    f"cannot trust the roots of {family}: found the root of an emulated platform, want it as insecure_emulated",
                    hint="a policy accepts it with insecure_emulated_roots, never as affirming",
                )

    def extended(self, *, emulated: frozenset[bytes], tpm_aks: frozenset[bytes]) -> TrustAnchors:
        """Return these anchors with what a policy accepts in spite of its being insecure."""
        emulated, tpm_aks = self.insecure_emulated | emulated, self.tpm_aks | tpm_aks
        # A policy is asked for them for each verdict, and these are the same anchors then.
        known = self._extensions.get((emulated, tpm_aks))
        if known is None:
            known = replace(self, insecure_emulated=emulated, tpm_aks=tpm_aks)
            self._extensions.clear()
            self._extensions[emulated, tpm_aks] = known
        return known
