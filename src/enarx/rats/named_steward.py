# SPDX-License-Identifier: Apache-2.0
"""Which Steward a relying party wants for what it deploys. The table of the policy file is `enarx.verifier.policy_steward`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NamedSteward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSteward:
    """A Steward, as a policy names it.

    Args:
        url: where Keeps ask it.
        root: path of a PEM file with its own certificate; one that is not absolute begins where the policy file is.
    """

    url: str
    root: str
