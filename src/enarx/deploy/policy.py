# SPDX-License-Identifier: Apache-2.0
"""The tenant's appraisal policy with its text, so that a receipt can be judged by it again.

A policy comes from the tenant alone: a file of his, or what this installation knows by itself (`enarx.deploy.reference`). Roots of
emulated platforms that he accepts beside it are kept apart, because they are no part of the text.

Images that a file names are replaced by their reference values when the file is read: the text in force, which a receipt keeps, has
none of their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from enarx.deploy.reference import POLICY_NAME, default_policy
from enarx.errors import UsageError
from enarx.image.policies import expand_policy
from enarx.rats import AppraisalPolicy
from enarx.verifier.policy_toml import MAX_BYTES, decode_policy

__all__ = ["TenantPolicy", "find_policy", "make_policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """A policy in force.

    Args:
        policy: the text's, and the accepted roots'.
        text: TOML, UTF-8.
        name: of the text, for messages.
        accepted_roots: SHA-256 of emulated roots that are accepted beside it.
        images: that the file named; None where they are all of this installation.
    """

    policy: AppraisalPolicy
    text: bytes
    name: str
    accepted_roots: frozenset[bytes] = frozenset()
    images: tuple[str, ...] | None = ()

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


def find_policy(path: str | None, *, emulated: bool = False) -> TenantPolicy:
    """Return the policy that a command names.

    Args:
        path: of the policy file; None is the installation's own policy.
        emulated: whether an emulated platform is going to be accepted beside it: images then also stand for machines whose
            firmware does not check what it boots.

    Raises:
        UsageError: the file cannot be read, or names an image that is not installed.
        ConfigError: it is no policy.
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    if path is None:
        made = default_policy(emulated=emulated)
        return TenantPolicy(policy=made.policy, text=made.text.encode(), name=POLICY_NAME, images=None)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the policy: {path}: {error.strerror}") from error
    text, images = expand_policy(text, path=path, emulated=emulated)
    return replace(make_policy(text, name=path), images=images)
