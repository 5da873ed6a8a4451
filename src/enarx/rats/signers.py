# SPDX-License-Identifier: Apache-2.0
"""Whom a relying party lets sign packages, decoded. The table of the policy file is `enarx.verifier.policy_signers`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PackageSigner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSigner:
    """Somebody whose signature on a package is enough: the holder of a key, or whoever an issuer calls by an identity.

    Args:
        name: for messages.
        key: SubjectPublicKeyInfo in DER, Ed25519 or P-256; None for an identity.
        identity: an e-mail address or a URI, compared whole; None for a key.
        issuer: the URL of whoever vouches for the identity, compared whole; None for a key.
        repository: which packages are his: `registry.example/team/app`, or `registry.example/team/*` for all below; None is every
            package, also one that was not fetched from a registry.

    Raises:
        ValueError: it is neither a key nor an identity with its issuer, or both.
    """

    name: str
    key: bytes | None = None
    identity: str | None = None
    issuer: str | None = None
    repository: str | None = None

    def __post_init__(self) -> None:
        both = bool(self.identity), bool(self.issuer)
        if both != ((False, False) if self.key else (True, True)):
            raise ValueError("want a key, or an identity with its issuer")

    def may_sign_for(self, repository: str | None) -> bool:
        """Return whether packages of a repository are his.

        Args:
            repository: `host/name` as the tenant named it, or None where the package is in no registry.
        """
        if self.repository is None:
            return True
        if repository is None:
            return False
        if self.repository.endswith("/*"):
            return repository.startswith(self.repository[:-1])
        return repository == self.repository
