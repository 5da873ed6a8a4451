# SPDX-License-Identifier: Apache-2.0
"""The policy file's `[steward]`: which Steward certifies the Keeps that are deployed by it.

The table stands beside those of the TEEs, under the rules of `enarx.verifier.policy_toml`: what is not understood is refused, and both
keys have to be there. It says nothing about evidence, so that a verdict is the same with and without it; and it names a file, which is
not read here, because whoever judges by a policy again, from a receipt, has no use for it.

`docs/policy.md` is the reference for users.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from enarx.errors import ConfigError
from enarx.rats.named_steward import NamedSteward
from enarx.wire.quoting import kind_of, quote
from enarx.wire.steward_url import parse_steward_url
from enarx.wire.toml_lines import KeyPath
from enarx.wire.toml_text import one_of

__all__ = ["read_named_steward"]

_KEYS = ("url", "root")
_MAX_PATH = 4096

Refuse = Callable[[KeyPath, str], None]
"""Keeps a problem: where it is, and `found X, want Y`."""


def read_named_steward(table: Any, refuse: Refuse) -> NamedSteward | None:
    """Read the `steward` table of a policy.

    Args:
        table: what the file has for `steward`.
        refuse: is told each problem.

    Returns:
        None where there is a problem.
    """
    if not isinstance(table, dict):
        refuse(("steward",), f"found {kind_of(table)}, want a table with url and root")
        return None
    problems = 0
    for key in table:
        if key not in _KEYS:
            nearest = get_close_matches(str(key)[:40].lower(), _KEYS, n=1)
            refuse(("steward", key), f"found an unknown key, want {nearest[0] if nearest else one_of(_KEYS)}")
            problems += 1
    for key, want in (("url", "https://HOST or https://HOST:PORT"), ("root", "the path of a PEM file")):
        value = table.get(key)
        if key not in table:
            refuse(("steward",), f"found no {key}, want {want}")
        elif not isinstance(value, str) or not value or len(value) > _MAX_PATH or not value.isprintable():
            refuse(("steward", key), f"found {quote(value)}, want {want}")
        elif key == "url" and (problem := _problem_of(value)) is not None:
            refuse(("steward", key), problem)
        else:
            continue
        problems += 1
    return None if problems else NamedSteward(url=table["url"], root=table["root"])


def _problem_of(url: str) -> str | None:
    try:
        parse_steward_url(url, name="url")
    except ConfigError as error:
        return str(error).removeprefix("url: ")
    return None
