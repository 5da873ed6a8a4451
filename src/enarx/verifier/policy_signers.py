# SPDX-License-Identifier: Apache-2.0
"""The policy file's `[[package.signer]]`: who may sign the packages that are deployed by it.

The tables stand beside those of the TEEs, under the rules of `enarx.verifier.policy_toml`: what is not understood is refused, an
empty list is an error, and everything that is wrong is told. They say nothing about evidence, so that a verdict on evidence is the
same with and without them.

`docs/policy.md` is the reference for users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from enarx.crypto.signature_keys import key_id_of, load_public_key
from enarx.errors import DecodeError
from enarx.rats.signers import PackageSigner
from enarx.wire.quoting import kind_of, quote
from enarx.wire.toml_lines import KeyPath
from enarx.wire.toml_text import one_of

__all__ = ["MAX_SIGNERS", "read_signers"]

MAX_SIGNERS = 64
_MAX_TEXT = 500
_KEYS = ("name", "key", "identity", "issuer", "repository")
_REPOSITORY = re.compile(r"[A-Za-z0-9.\[\]:-]+(?:/[a-z0-9._-]+)*/(?:[a-z0-9._-]+|\*)", re.ASCII)

Refuse = Callable[[KeyPath, str], None]
"""Keeps a problem: where it is, and `found X, want Y`."""


def read_signers(table: Any, refuse: Refuse) -> tuple[PackageSigner, ...]:
    """Read the `package` table of a policy.

    Args:
        table: what the file has for `package`.
        refuse: is told each problem.

    Returns:
        the signers that have no problem.
    """
    if not isinstance(table, dict):
        refuse(("package",), f"found {kind_of(table)}, want tables, [[package.signer]]")
        return ()
    for key in table:
        if key != "signer":
            refuse(("package", key), "found an unknown key, want signer")
    signers = table.get("signer")
    if not isinstance(signers, list) or not 0 < len(signers) <= MAX_SIGNERS:
        found = f"{len(signers)} tables" if isinstance(signers, list) else kind_of(signers)
        refuse(("package", "signer"), f"found {found}, want 1 to {MAX_SIGNERS} tables, [[package.signer]]")
        return ()
    read = (_read(signer, ("package", "signer", index), refuse) for index, signer in enumerate(signers))
    return tuple(signer for signer in read if signer is not None)


def _read(table: Any, path: KeyPath, refuse: Refuse) -> PackageSigner | None:
    if not isinstance(table, dict):
        refuse(path, f"found {kind_of(table)}, want a table, [[package.signer]]")
        return None
    problems = 0
    values: dict[str, str] = {}
    for key, value in table.items():
        if key not in _KEYS:
            nearest = get_close_matches(str(key)[:40].lower(), _KEYS, n=1)
            refuse((*path, key), f"found an unknown key, want {nearest[0] if nearest else one_of(_KEYS)}")
        elif not isinstance(value, str) or not value.strip():
            refuse((*path, key), f"found {quote(value)}, want text")
        elif key != "key" and (len(value) > _MAX_TEXT or not value.isprintable()):
            refuse((*path, key), f"found {quote(value)}, want text of one line, of at most {_MAX_TEXT} characters")
        else:
            values[key] = value
            continue
        problems += 1
    if problems:
        return None
    has = tuple(key for key in ("key", "identity", "issuer") if key in values)
    if has not in {("key",), ("identity", "issuer")}:
        refuse(path, f"found {' and '.join(has) or 'neither'}, want key alone, or identity and issuer")
        return None
    key = None
    if "key" in values:
        try:
            key = load_public_key(values["key"].encode())
        except (DecodeError, UnicodeEncodeError) as error:
            refuse((*path, "key"), str(error).removeprefix("cannot decode a public key: "))
            return None
    repository = values.get("repository")
    if repository is not None and not _REPOSITORY.fullmatch(repository):
        refuse((*path, "repository"), f"found {quote(repository)}, want HOST/NAME, or HOST/NAME/* for all below")
        return None
    return PackageSigner(
        name=values.get("name") or (key_id_of(key)[:19] if key is not None else values["identity"]),
        key=key,
        identity=values.get("identity"),
        issuer=values.get("issuer"),
        repository=repository,
    )
