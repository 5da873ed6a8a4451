# SPDX-License-Identifier: Apache-2.0
"""Whether a deployment wants its package signed, and by whom: the policy says who, the policy or the command line says that.

A policy that names signers wants a signature of every package that is deployed by it, whatever the command line says. The command
line alone can want one only of a policy that names somebody: that anybody signed a package says nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from enarx.deploy.package_source import Signers
from enarx.errors import UsageError
from enarx.rats.signers import PackageSigner

__all__ = ["find_signers"]

MAX_TRUST_ROOT_BYTES = 1 << 20


def find_signers(
    signers: Iterable[PackageSigner], *, is_required: bool, at: datetime, trust_root: str | None = None
) -> Signers | None:
    """Return who has to have signed the package, or None where nobody wants a signature.

    Args:
        signers: those that the policy names.
        is_required: whether the command line wants a signature.
        at: the time now, aware.
        trust_root: the path of sigstore's `trusted_root.json`, for keyless signatures; None is the shipped one.

    Raises:
        UsageError: a signature is wanted and nobody may sign, or the trust root cannot be read or is of no use.
    """
    known = tuple(signers)
    if not known:
        if is_required:
            raise UsageError(
                "cannot require a signature: found no signer in the policy, want one",
                hint="[[package.signer]] in the file of --policy says who may sign",
            )
        if trust_root is not None:
            raise UsageError("cannot use --trust-root: found no signer in the policy, want a keyless one")
        return None
    return Signers(known, at, None if trust_root is None else _read(trust_root))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TRUST_ROOT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the trust root: {path}: {error.strerror}") from error
