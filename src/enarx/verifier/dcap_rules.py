# SPDX-License-Identifier: Apache-2.0
"""What a policy can ask of Intel platforms, the same for SGX and TDX, and how values with masks are written.

Rules of this file:

- It reads `claims.standing`, which `enarx.verifier.dcap` made, and nothing else.
- What is expected where no policy is given is in each rule. Intel's word for the TCB is then reported and not judged, except
  `Revoked`, which no policy can accept: it is an authenticity check.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, ge
from typing import Any

from enarx.abi.pck import SGX_TYPES
from enarx.rats import Check, Concern, Expectation, Skip
from enarx.verifier.dcap import mask_bytes
from enarx.verifier.grammar import MAX_VALUES, Digests, Flag, Grammar, Maximum, Minimum, Words, WordsOrFewer
from enarx.verifier.ledger import Rule
from enarx.verifier.tcb import STATUSES

__all__ = ["NO_POLICY", "MaskedDigests", "MinimumBytes", "RuleMaker", "make_platform_rules"]

NO_POLICY = Skip("no policy was given")
_PACKAGES = '{ skip = "only platforms with several packages say it" }'
_BY_STATUS = '{ skip = "the TCB status covers it" }'
_ANY = '{ skip = "any platform that Intel certified" }'
_MAX_DAYS = 36500
_MAX_NUMBER = 0xFFFF


class _OneOfMasked(Expectation):
    """The claim, where a mask selects its bits, is one of these values.

    Args:
        values: pairs of value and mask, at least one, each of the claim's size.
    """

    __slots__ = ("values",)

    def __init__(self, *values: tuple[bytes, bytes]) -> None:
        if not values:
            raise ValueError("found no value, want at least one")
        self.values = frozenset(values)

    def holds(self, found: Any) -> bool:
        if found is None:
            return False
        # A value is within its mask, so whatever equals it does so under the mask, too.
        return any(found == value or mask_bytes(found, mask) == value for value, mask in self.values)

    def __str__(self) -> str:
        text = sorted(_show_masked(value, mask) for value, mask in self.values)
        return text[0] if len(text) == 1 else "one of " + ", ".join(text)


class _EachByteAtLeast(Expectation):
    """Each byte of the claim is at least the byte of the minimum in its place."""

    __slots__ = ("minimum",)

    def __init__(self, minimum: bytes) -> None:
        self.minimum = minimum

    def holds(self, found: Any) -> bool:
        if found is None or len(found) != len(self.minimum):
            return False
        return found == self.minimum or all(map(ge, found, self.minimum))

    def __str__(self) -> str:
        return f"each byte at least that of {self.minimum.hex()}"


def _show_masked(value: bytes, mask: bytes) -> str:
    return value.hex() if mask == b"\xff" * len(mask) else f"{value.hex()}/{mask.hex()}"


class MaskedDigests(Grammar):
    """A list of byte strings in hex, each alone or with the mask of the bits that count: `"05/07"`.

    Args:
        size: of each in bytes.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def wanted(self) -> str:
        return f"a list of {self.size}-byte values in hex, each alone or as value/mask, at least one"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
            raise self.refuse(value)
        return _OneOfMasked(*(self._read(item) for item in value))

    def _read(self, item: Any) -> tuple[bytes, bytes]:
        parts = item.split("/") if isinstance(item, str) else ()
        try:
            pair = [bytes.fromhex(part) for part in parts]
        except ValueError:
            raise self.refuse(item) from None
        if len(pair) not in {1, 2} or any(len(part) != self.size for part in pair):
            raise self.refuse(item)
        value, mask = pair[0], pair[1] if len(pair) > 1 else b"\xff" * self.size
        if mask_bytes(value, mask) != value:
            raise ValueError(f"found a bit in {item} that its mask leaves out, want a value within its mask")
        if not any(mask):
            raise ValueError(f'found an empty mask in {item}, want a bit that counts, or {{ skip = "reason" }}')
        return value, mask


class MinimumBytes(Grammar):
    """A byte string in hex; each byte of the claim must reach the byte in its place.

    Args:
        size: in bytes.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def wanted(self) -> str:
        return f"a {self.size}-byte value in hex"

    def decode(self, value: Any) -> Expectation:
        try:
            minimum = bytes.fromhex(value)
        except (TypeError, ValueError):
            raise self.refuse(value) from None
        if len(minimum) != self.size:
            raise self.refuse(value)
        return _EachByteAtLeast(minimum)


class RuleMaker:
    """Makes the rules of one section.

    Args:
        section: `sgx` or `tdx`.
        spec: the document that defines the claims.
    """

    __slots__ = ("_section", "_spec")

    def __init__(self, section: str, spec: str) -> None:
        self._section, self._spec = section, spec

    def __call__(
        self,
        name: str,
        title: str,
        read: str | Callable[[Any], object],
        grammar: Grammar,
        strict: str | None = None,
        baseline: Expectation = NO_POLICY,
        spec: str | None = None,
    ) -> Rule:
        """Make a rule.

        Args:
            name: of the key within the section.
            title: what is true when it passes.
            read: the claim, as a path of attributes or a function.
            grammar: as in `Rule`, like all that follow.
            strict: what `policy init` writes.
            baseline: what is expected where no policy is given.
            spec: where it is not the section's document.
        """
        key = f"{self._section}.{name}"
        return Rule(
            key,
            Check(key, title, Concern.APPRAISAL, spec or self._spec),
            attrgetter(read) if isinstance(read, str) else read,
            grammar,
            strict,
            baseline,
        )


def make_platform_rules(section: str, *, strict_statuses: str, strict_advisories: str) -> tuple[Rule, ...]:
    """Make the rules about the platform.

    Args:
        section: `sgx` or `tdx`.
        strict_statuses: what `policy init` writes for the TCB status.
        strict_advisories: and for the advisories.
    """
    make = RuleMaker(section, "Intel PCS API 4")
    certificate = "Intel SGX PCK Certificate Profile 1.5"
    return (
        make("tcb_status", "the TCB status is accepted", "standing.tcb_status", Words(*STATUSES[:-1]), strict_statuses),
        make(
            "advisory_ids",
            "no other of Intel's advisories applies",
            "standing.advisory_ids",
            WordsOrFewer(),
            strict_advisories,
        ),
        make(
            "tcb_evaluation_data_number",
            "the collateral knows the TCB recoveries that are wanted",
            "standing.tcb_evaluation_data_number",
            Minimum(0xFFFFFFFF),
        ),
        make(
            "out_of_date_days",
            "an update that is due has not been due for longer",
            "standing.out_of_date_days",
            Maximum(_MAX_DAYS),
            "0",
        ),
        make(
            "collateral_age_days",
            "the collateral is no older",
            "standing.collateral_age_days",
            Maximum(_MAX_DAYS),
            '{ skip = "it is refused when it expires" }',
        ),
        make(
            "qe_svn",
            "the quoting enclave's SVN is high enough",
            "standing.qe.isv_svn",
            Minimum(_MAX_NUMBER),
            _BY_STATUS,
        ),
        make("pce_svn", "the PCE's SVN is high enough", "standing.platform.pce_svn", Minimum(_MAX_NUMBER), _BY_STATUS),
        make(
            "fmspc", "the kind of platform is accepted", "standing.platform.fmspc", Digests(6), _ANY, spec=certificate
        ),
        make("ppid", "the platform is one of these", "standing.platform.ppid", Digests(16), _ANY, spec=certificate),
        make(
            "platform_instance_id",
            "the platform instance is one of these",
            "standing.platform.platform_instance_id",
            Digests(16),
            _ANY,
            spec=certificate,
        ),
        make(
            "pck_ca",
            "the PCK certificate is of one of these CAs",
            "standing.platform.pck_ca",
            Words("platform", "processor"),
            '{ skip = "it follows from the kind of platform" }',
            spec=certificate,
        ),
        make(
            "sgx_type",
            "memory is protected in one of these ways",
            "standing.platform.sgx_type",
            Words(*SGX_TYPES),
            '{ skip = "it follows from the kind of platform" }',
            spec=certificate,
        ),
        make(
            "dynamic_platform",
            "whether packages can be added to the platform",
            "standing.platform.dynamic_platform",
            Flag(),
            _PACKAGES,
            spec=certificate,
        ),
        make(
            "cached_keys",
            "whether Intel keeps the platform's keys",
            "standing.platform.cached_keys",
            Flag(),
            _PACKAGES,
            spec=certificate,
        ),
        make(
            "smt",
            "whether simultaneous multithreading is on",
            "standing.platform.smt_enabled",
            Flag(),
            _PACKAGES,
            spec=certificate,
        ),
    )
