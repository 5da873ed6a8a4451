# SPDX-License-Identifier: Apache-2.0
"""The tenant's appraisal policy with its text, so that a receipt can be judged by it again.

A policy comes from the tenant alone: a file of his, or what this installation knows by itself (`enarx.deploy.reference`). Roots of
emulated platforms that he accepts beside it are kept apart, because they are no part of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from enarx.deploy.reference import POLICY_NAME, default_policy, own_emulated_root
from enarx.errors import UsageError
from enarx.rats import AppraisalPolicy
from enarx.verifier.policy_toml import MAX_BYTES, decode_policy

__all__ = ["OWN_ROOT", "TenantPolicy", "emulated_root", "find_policy", "make_policy"]

OWN_ROOT = ""
"""Stands for the root of this installation's own emulated platform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """A policy in force.

    Args:
        policy: the text's, and the accepted roots'.
        text: TOML, UTF-8.
        name: of the text, for messages.
        accepted_roots: SHA-256 of emulated roots that are accepted beside it.
    """

    policy: AppraisalPolicy
    text: bytes
    name: str
    accepted_roots: frozenset[bytes] = frozenset()

    def accepting(self, roots: Iterable[bytes]) -> TenantPolicy:
        """Return this policy with emulated roots that it accepts besides, by the SHA-256 of their DER."""
        accepted = frozenset(roots)
        if not accepted:
            return self
        policy = replace(self.policy, insecure_emulated_roots=self.policy.insecure_emulated_roots | accepted)
        return replace(self, policy=policy, accepted_roots=self.accepted_roots | accepted)


def make_policy(text: bytes, *, name: str, accepted_roots: Iterable[bytes] = ()) -> TenantPolicy:
    """Read a policy.

    Args:
        text: TOML, as `enarx.verifier.policy_toml` has it.
        name: for messages.
        accepted_roots: SHA-256 of the DER of emulated roots.

    Raises:
        ConfigError: the text is no policy.
    """
    return TenantPolicy(policy=decode_policy(text, path=name), text=text, name=name).accepting(accepted_roots)


def find_policy(path: str | None) -> TenantPolicy:
    """Return the policy that a command names.

    Args:
        path: of the policy file; None is the installation's own policy.

    Raises:
        UsageError: the file cannot be read.
        ConfigError: it is no policy.
        PlatformError: the installation cannot be read.
    """
    if path is None:
        made = default_policy()
        return TenantPolicy(policy=made.policy, text=made.text.encode(), name=POLICY_NAME)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the policy: {path}: {error.strerror}") from error
    return make_policy(text, name=path)


def emulated_root(text: str) -> bytes:
    """Return the SHA-256 of an emulated platform's root that the tenant accepts.

    Args:
        text: in hex, or `OWN_ROOT`. A host makes its platform when a Keep first asks it: the own root is there after an offer.

    Raises:
        UsageError: it is no digest.
        PlatformError: the installation has no emulated platform.
    """
    if text == OWN_ROOT:
        return own_emulated_root()
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError(
            f"cannot accept an emulated platform: found {text[:80]!r}, want the SHA-256 of its root certificate, 64 hex digits",
            hint="without a value, --insecure-accept-emulated accepts this installation's own",
        )
    return digest
