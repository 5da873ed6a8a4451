# SPDX-License-Identifier: Apache-2.0
"""The records of a report: one answer, one backend, and what a probe module returns.

An answer is yes, no or "could not be determined" (True, False, None); the third is never folded into the second. Texts
that come from the machine pass through `strip_unprintable` when a record is made, so no later step can forget it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BackendReport", "Datum", "Probed", "all_passed", "first_failure", "group", "strip_unprintable"]

# A brand string has 48 characters and a path at most some hundreds; longer is not ours to print.
MAX_TEXT_CHARS = 400


def strip_unprintable(text: str) -> str:
    """Drop what a terminal could act on: control, format, bidirectional and unassigned characters, and excess length."""
    return "".join(character for character in text[:MAX_TEXT_CHARS] if character.isprintable())


@dataclass(frozen=True, slots=True, kw_only=True)
class Datum:
    """One answer about the machine.

    Args:
        name: what was asked.
        passed: yes, no, or None where it could not be determined; `info` then says why.
        info: what was found.
        fix: what to do about it, where `passed` is not True and something can be done.
        data: the answers this one is made of.
    """

    name: str
    passed: bool | None
    info: str | None = None
    fix: str | None = None
    data: tuple[Datum, ...] = ()

    def __post_init__(self) -> None:
        for field in ("name", "info", "fix"):
            text: str | None = getattr(self, field)
            if text is not None:
                object.__setattr__(self, field, strip_unprintable(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a probe module found.

    Args:
        hardware: what the machine must have; nobody can configure it into being there.
        setup: what its owner must have set up.
        facts: what is worth knowing and decides nothing.
    """

    hardware: tuple[Datum, ...]
    setup: tuple[Datum, ...]
    facts: tuple[Datum, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """One backend on this machine.

    Args:
        backend: one of `enarx.host.BACKENDS`, or `pef`.
        present: the hardware is there; None where that could not be determined.
        configured: it is set up; None where that could not be determined.
        usable: both are certain, and this version has a launcher.
        why: one line that says why it is not usable, None where it is.
        data: every answer, those that decide first.
    """

    backend: str
    present: bool | None
    configured: bool | None
    usable: bool
    why: str | None
    data: tuple[Datum, ...]


def all_passed(data: tuple[Datum, ...]) -> bool | None:
    """Join answers: one no is a no, otherwise one unknown is an unknown."""
    answers = [datum.passed for datum in data]
    if False in answers:
        return False
    return None if None in answers else True


def group(name: str, *data: Datum) -> Datum:
    """Put answers under one heading that passes when all of them do."""
    return Datum(name=name, passed=all_passed(data), data=data)


def first_failure(data: tuple[Datum, ...]) -> Datum | None:
    """Find the innermost answer to blame: the first no, else the first unknown, else None."""
    for blamed in (False, None):
        for datum in data:
            if datum.passed is blamed:
                return first_failure(datum.data) or datum
    return None
