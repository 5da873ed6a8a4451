# SPDX-License-Identifier: Apache-2.0
"""The type that says: these claims are authentic."""

from __future__ import annotations

from typing import Generic, TypeVar

from enarx.rats.findings import Finding

__all__ = ["Verified"]

T = TypeVar("T")


class Verified(Generic[T]):
    """Claims whose signatures, chain and bindings hold up to a trust anchor; authentic, not yet acceptable.

    There is no public constructor: only `enarx.verifier` makes one, so a search for `Verified._create` lists all that decide.
    """

    __slots__ = ("_claims", "_context", "_findings")

    _claims: T
    _findings: tuple[Finding, ...]
    _context: object

    def __init__(self) -> None:
        raise TypeError("Verified has no public constructor: only enarx.verifier decides what is authentic")

    @classmethod
    def _create(cls, claims: T, findings: tuple[Finding, ...], context: object) -> Verified[T]:
        verified = object.__new__(cls)
        verified._claims = claims
        verified._findings = findings
        verified._context = context
        return verified

    @property
    def claims(self) -> T:
        """What the attester said."""
        return self._claims

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why it is believed."""
        return self._findings
