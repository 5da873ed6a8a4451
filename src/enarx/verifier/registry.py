# SPDX-License-Identifier: Apache-2.0
"""Which module judges which kind of evidence; each is imported when it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from enarx.rats import AppraisalPolicy
from enarx.verifier.ledger import Judge

__all__ = ["SECTIONS", "baseline_policy", "judge_of"]

SECTIONS = ("snp", "tdx", "sgx", "nitro", "cca", "tpm", "azure")
"""The sections of a policy, which are the modules of this package that judge."""


@cache
def judge_of(section: str) -> Judge:
    """Return the judge of a section."""
    judge: Judge = import_module(f"enarx.verifier.{section}").JUDGE
    return judge


@cache
def baseline_policy(*sections: str) -> AppraisalPolicy:
    """Return what is expected where no policy is given: nothing debuggable, least privilege, and nothing said of what runs.

    Args:
        sections: those that will be needed; none means all.
    """
    wanted = sections or SECTIONS
    return AppraisalPolicy(
        name="enarx's baseline",
        expectations={rule.key: rule.baseline for section in wanted for rule in judge_of(section).rules},
        tees=frozenset(wanted),
    )
