# SPDX-License-Identifier: Apache-2.0
"""The tenant's appraisal policy with its text, so that a receipt can be judged by it again.

A policy comes from the tenant alone: a file of his, or what this installation knows by itself (`enarx.deploy.reference`). Roots of
emulated platforms that he accepts beside it are kept apart, because they are no part of the text.

Images that a file names are replaced by their reference values when the file is read: the text in force, which a receipt keeps, has
none of their names.

A file may name the Steward that certifies what is deployed by it, as flags do. Where both do, they have to mean the same one: a policy
is what holds for every deployment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from enarx.deploy.naming import load_steward
from enarx.deploy.reference import POLICY_NAME, default_policy
from enarx.errors import ConfigError, UsageError
from enarx.image.policies import expand_policy
from enarx.rats import AppraisalPolicy
from enarx.verifier.policy_steward import read_named_steward
from enarx.verifier.policy_toml import MAX_BYTES, decode_policy
from enarx.wire.release import Steward
from enarx.wire.steward_url import parse_steward_url
from enarx.wire.toml_lines import KeyPath, find_line
from enarx.wire.toml_text import dotted, parse_toml

__all__ = ["TenantPolicy", "find_policy", "find_steward", "make_policy"]


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
    text, images = expand_policy(_read(path), path=path, emulated=emulated)
    return replace(make_policy(text, name=path), images=images)


def find_steward(path: str | None, flags: Steward | None = None) -> Steward | None:
    """Return the Steward that is to certify what is deployed by a policy, or None where nobody names one.

    Args:
        path: of the policy file; None is the installation's own policy, which names none.
        flags: the one that flags name, or None.

    Raises:
        UsageError: the file cannot be read, or flags name another Steward than it does.
        ConfigError: it is no TOML, its `[steward]` is wrong, or the root that it names is none.
    """
    if path is None:
        return flags
    text, document = parse_toml(_read(path), path=path, max_bytes=MAX_BYTES)
    if "steward" not in document:
        return flags

    def refuse(key: KeyPath, problem: str) -> None:
        line = find_line(text, key)
        where = path if line is None else f"{path}:{line}"
        raise ConfigError(f"{where}: {dotted(key)}: {problem}", path=path, line=line, key=dotted(key))

    named = read_named_steward(document["steward"], refuse)
    if named is None:
        return flags
    root_path = os.path.join(os.path.dirname(path), named.root)
    found = load_steward(named.url, root_path, url_name=f"{path}: steward.url", root_name=f"{path}: steward.root")
    if flags is None:
        return found
    for what, same in (
        ("--steward", parse_steward_url(flags.url) == parse_steward_url(found.url)),
        ("--steward-root", flags.root == found.root),
    ):
        if not same:
            raise UsageError(
                f"cannot deploy: {what}: found another Steward than [steward] of {path} names, want the same",
                hint="leave --steward and --steward-root out, or use a policy without [steward]",
            )
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the policy: {path}: {error.strerror}") from error
