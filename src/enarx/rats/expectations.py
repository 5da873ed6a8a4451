# SPDX-License-Identifier: Apache-2.0
"""What a policy can expect of a claim.

Rules of this file:

- Each expectation judges one value and nothing else; a claim that is absent (None) meets none of them but `Skip`.
- None of them can be empty: an expectation that everything meets, or nothing, is a mistake and raises `ValueError` when
  it is made.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enarx.rats.findings import render

__all__ = ["AtLeast", "AtMost", "EachAtLeast", "Expectation", "FromCaller", "OneOf", "Skip", "Subset"]


class Expectation:
    """What a claim must be. Its text, `str(expectation)`, follows the word "want"."""

    __slots__: tuple[str, ...] = ()

    def holds(self, found: Any) -> bool:
        """Return whether the claim is as expected."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class OneOf(Expectation):
    """The claim is one of these values.

    Args:
        values: at least one, hashable, of the claim's own type.
    """

    __slots__ = ("values",)

    def __init__(self, *values: object) -> None:
        if not values:
            raise ValueError("found no value, want at least one")
        self.values = frozenset(values)

    def holds(self, found: Any) -> bool:
        return found is not None and found in self.values

    def __str__(self) -> str:
        text = [render(value) for value in self.values]
        return text[0] if len(text) == 1 else "one of " + ", ".join(sorted(text))


class AtLeast(Expectation):
    """The claim is this or more: a number, or a tuple compared from the left (a version)."""

    __slots__ = ("minimum",)

    def __init__(self, minimum: Any) -> None:
        self.minimum = minimum

    def holds(self, found: Any) -> bool:
        return found is not None and bool(found >= self.minimum)

    def __str__(self) -> str:
        return f"at least {_dotted(self.minimum)}"


class AtMost(Expectation):
    """The claim is this or less."""

    __slots__ = ("maximum",)

    def __init__(self, maximum: Any) -> None:
        self.maximum = maximum

    def holds(self, found: Any) -> bool:
        return found is not None and bool(found <= self.maximum)

    def __str__(self) -> str:
        return f"at most {_dotted(self.maximum)}"


class Subset(Expectation):
    """The claim, a set of words, has no others than these. An empty `allowed` means: none at all."""

    __slots__ = ("allowed",)

    def __init__(self, *allowed: str) -> None:
        self.allowed = frozenset(allowed)

    def holds(self, found: Any) -> bool:
        return found is not None and self.allowed.issuperset(found)

    def __str__(self) -> str:
        return f"none but {render(self.allowed)}" if self.allowed else "none"


class EachAtLeast(Expectation):
    """The claim is `(product, components)`; each component is at least the minimum of that product.

    Args:
        minima: by product, then by component: `{"Milan": {"snp": 24, "microcode": 219}}`; neither level empty. A product that is
            not listed is refused, and so is a component that the claim does not have.
    """

    __slots__ = ("minima",)

    def __init__(self, minima: Mapping[str, Mapping[str, int]]) -> None:
        if not minima or not all(minima.values()):
            raise ValueError("found no minimum, want at least one for each product")
        self.minima = {product: dict(components) for product, components in minima.items()}

    def holds(self, found: Any) -> bool:
        if found is None:
            return False
        product, components = found
        minima = self.minima.get(product)
        if minima is None:
            return False
        for name, minimum in minima.items():
            value = components.get(name)
            if value is None or value < minimum:
                return False
        return True

    def __str__(self) -> str:
        return "at least " + "; ".join(
            f"{product} " + " ".join(f"{name}={value}" for name, value in components.items())
            for product, components in self.minima.items()
        )


class FromCaller(Expectation):
    """The claim is what the caller of the verifier passes in, because it is new each time: a challenge's answer."""

    __slots__ = ()

    def holds(self, found: Any) -> bool:
        return False

    def __str__(self) -> str:
        return "the value that the caller expects"


class Skip(Expectation):
    """The relying party does not care, and says why.

    Args:
        reason: not empty.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        if not reason.strip():
            raise ValueError("found no reason, want one")
        self.reason = reason

    def holds(self, found: Any) -> bool:
        return True

    def __str__(self) -> str:
        return f"anything: {self.reason}"


def _dotted(value: object) -> str:
    return ".".join(str(part) for part in value) if isinstance(value, tuple) else render(value)
