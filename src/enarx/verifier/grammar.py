# SPDX-License-Identifier: Apache-2.0
"""How the values of an appraisal policy are written, and what each of them expects.

A grammar turns one TOML value into an `Expectation`, or raises `ValueError` with `found X, want Y`. `{ skip = "reason" }` is
understood by the policy file's reader, for every key alike.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

import re
from typing import Any

from enarx.rats import AtLeast, AtMost, EachAtLeast, Expectation, FromCaller, OneOf, Subset

__all__ = [
    "ByProduct",
    "Digests",
    "Flag",
    "Freshness",
    "Grammar",
    "Maximum",
    "Minimum",
    "MinimumVersion",
    "Numbers",
    "Words",
    "WordsOrFewer",
]

MAX_VALUES = 4096
_VERSION = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,5}){0,3}").fullmatch


class Grammar:
    """How one kind of policy value is written. `wanted` says it in a few words, for messages and documentation."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        """A few words: `a list of 48-byte values in hex`."""
        raise NotImplementedError

    def decode(self, value: Any) -> Expectation:
        """Return what a TOML value expects.

        Raises:
            ValueError: `found X, want Y`.
        """
        raise NotImplementedError

    def refuse(self, value: Any) -> ValueError:
        """Return the error for a value that this grammar does not have."""
        return ValueError(f"found {_shown(value)}, want {self.wanted}")


class Digests(Grammar):
    """A list of byte strings in hex, one of which the claim must be.

    Args:
        size: of each in bytes; None takes any from 1 to 64.
    """

    __slots__ = ("size",)

    def __init__(self, size: int | None) -> None:
        self.size = size

    @property
    def wanted(self) -> str:
        size = "1- to 64-byte" if self.size is None else f"{self.size}-byte"
        return f"a list of {size} values in hex, at least one"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
            raise self.refuse(value)
        values = []
        for item in value:
            try:
                data = bytes.fromhex(item)
            except (TypeError, ValueError):
                raise self.refuse(item) from None
            if len(data) != self.size if self.size is not None else not 0 < len(data) <= 64:
                raise ValueError(f"found a value of {len(data)} bytes, want {self.wanted}")
            values.append(data)
        return OneOf(*values)


class Flag(Grammar):
    """`"forbidden"` or `"required"`: what a bit must be. A bit that may be either is skipped, with a reason."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return '"forbidden" or "required"'

    def decode(self, value: Any) -> Expectation:
        if value == "forbidden":
            return OneOf(False)
        if value == "required":
            return OneOf(True)
        raise self.refuse(value)


class Numbers(Grammar):
    """A list of numbers, one of which the claim must be.

    Args:
        maximum: the largest that the claim can be.
    """

    __slots__ = ("maximum",)

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    @property
    def wanted(self) -> str:
        return f"a list of numbers from 0 to {self.maximum}, at least one"

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
            raise self.refuse(value)
        for item in value:
            if not _is_number(item, self.maximum):
                raise self.refuse(item)
        return OneOf(*value)


class Minimum(Grammar):
    """A number that the claim must reach.

    Args:
        maximum: the largest that the claim can be.
    """

    __slots__ = ("maximum",)

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    @property
    def wanted(self) -> str:
        return f"a number from 0 to {self.maximum}"

    def decode(self, value: Any) -> Expectation:
        if not _is_number(value, self.maximum):
            raise self.refuse(value)
        return AtLeast(value)


class Maximum(Minimum):
    """A number that the claim must not exceed."""

    __slots__ = ()

    def decode(self, value: Any) -> Expectation:
        if not _is_number(value, self.maximum):
            raise self.refuse(value)
        return AtMost(value)


class MinimumVersion(Grammar):
    """`"1.55.29"`: a version that the claim, a tuple of as many numbers, must reach.

    Args:
        parts: how many numbers it has.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: int) -> None:
        self.parts = parts

    @property
    def wanted(self) -> str:
        return "a version, like " + '"' + ".".join("1" * self.parts) + '"'

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, str) or _VERSION(value) is None or value.count(".") != self.parts - 1:
            raise self.refuse(value)
        return AtLeast(tuple(int(part) for part in value.split(".")))


class Words(Grammar):
    """A list of words, one of which the claim must be.

    Args:
        words: all that there are, in the order in which documentation lists them; empty takes any.
    """

    __slots__ = ("words",)

    def __init__(self, *words: str) -> None:
        self.words = words

    @property
    def wanted(self) -> str:
        return "a list of words, at least one" + (f", of {', '.join(self.words)}" if self.words else "")

    def decode(self, value: Any) -> Expectation:
        return OneOf(*self._read(value, at_least=1))

    def _read(self, value: Any, *, at_least: int) -> list[str]:
        if not isinstance(value, list) or not at_least <= len(value) <= MAX_VALUES:
            raise self.refuse(value)
        for item in value:
            if not isinstance(item, str) or not item or (self.words and item not in self.words):
                raise self.refuse(item)
        return value


class WordsOrFewer(Words):
    """A list of words; the claim, a set of words, has no others. An empty list wants an empty claim."""

    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "a list of words" + (f", of {', '.join(self.words)}" if self.words else "")

    def decode(self, value: Any) -> Expectation:
        return Subset(*self._read(value, at_least=0))


class ByProduct(Grammar):
    """A table of products, each a table of component minima: `{ Milan = { snp = 24, microcode = 219 } }`.

    Args:
        components: the components that each product has, with the largest value of each.
    """

    __slots__ = ("components",)

    def __init__(self, components: dict[str, dict[str, int]]) -> None:
        self.components = components

    @property
    def wanted(self) -> str:
        return "a table of " + "; ".join(f"{name} ({', '.join(parts)})" for name, parts in self.components.items())

    def decode(self, value: Any) -> Expectation:
        if not isinstance(value, dict) or not value:
            raise self.refuse(value)
        for product, minima in value.items():
            known = self.components.get(product)
            if known is None or not isinstance(minima, dict) or not minima:
                raise self.refuse({product: minima})
            for component, minimum in minima.items():
                if component not in known or not _is_number(minimum, known[component]):
                    raise self.refuse({component: minimum})
            missing = known.keys() - minima.keys()
            if missing:
                raise ValueError(f"found no {' and no '.join(sorted(missing))} for {product}, want {self.wanted}")
        return EachAtLeast(value)


class Freshness(Grammar):
    """`"from-caller"`: the claim is what the caller of the verifier passes in.

    Args:
        size: of the claim in bytes; what the caller passes is padded with zeros on the right, as attesters pad it. None is a
            claim of any size, which may also be the SHA-256 of what the caller passes, as TPM quotes carry it.
    """

    __slots__ = ("size",)

    def __init__(self, size: int | None) -> None:
        self.size = size

    @property
    def wanted(self) -> str:
        return '"from-caller"'

    def decode(self, value: Any) -> Expectation:
        if value != "from-caller":
            raise self.refuse(value)
        return FromCaller()

    def meets(self, found: Any, given: bytes) -> bool:
        """Return whether the claim answers what the caller passed."""
        if not isinstance(found, bytes):
            return False
        if self.size is None:
            if found == given:
                return True
            import hashlib

            return found == hashlib.sha256(given).digest()
        return len(given) <= self.size and found == given.ljust(self.size, b"\0")


def _is_number(value: Any, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
