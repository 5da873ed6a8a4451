# SPDX-License-Identifier: Apache-2.0
"""The record of a self-test: what was tried of each backend, in which order, how long it took, what was found, and what failed.

Rules of this file:

- A step is ok, failed or not tried, and one that is not ok says why. What follows a failed step is not tried, and is in the record.
- Whoever keeps the record is told of it after every step that was tried, so that a machine that hangs has left what there was until then.
- Nothing secret is put in here, and this file looks for nothing: it has what it is given.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from enarx.cli.ui import printable
from enarx.errors import EnarxError

__all__ = ["FORMAT", "STEPS", "Outcome", "Report", "Step", "StepFailedError", "Trial"]

FORMAT = "enarx-selftest/1"

STEPS = (
    "probes",
    "image",
    "reference values",
    "command line",
    "start",
    "evidence",
    "verdict",
    "provision",
    "register",
    "hello",
    "teardown",
)
"""Of every trial, in their order."""

_MARKS = {"ok": "\N{HEAVY CHECK MARK}", "failed": "\N{BALLOT X}", "not tried": "-"}
_MAX_LINE = 4000
_MAX_SHOWN = 600


class Outcome(StrEnum):
    """What became of a step, or of a trial."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"


class StepFailedError(Exception):
    """A step failed, and is in the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step.

    Args:
        name: of `STEPS`.
        outcome: what became of it.
        elapsed_s: how long it took; None where it was not tried.
        facts: what was found, as values that JSON has.
        command: that was run, or would be; empty where none is.
        error: the class, the message and the hint of what failed.
        status: the exit status that stands for the error.
        reason: why it was not tried.
        lines: more for people, which JSON has among the facts.
    """

    name: str
    outcome: Outcome
    elapsed_s: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    error: Mapping[str, str | None] | None = None
    status: int = 0
    reason: str | None = None
    lines: Sequence[str] = ()


class _Finding:
    """What a step puts down while it runs: facts, the command, lines for people."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.command: Sequence[str] = ()
        self.lines: list[str] = []


class Trial:
    """One backend, tried or not.

    Args:
        name: for people: the backend, and the kind of its evidence where it has several.
        backend: of `enarx.host.BACKENDS`, or `pef`.
        changed: is called after every step that was tried, and after the last.
        clock: in seconds.
    """

    def __init__(
        self, name: str, backend: str, *, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.backend = name, backend
        self.steps: list[Step] = []
        self.host_said = ""
        """What the host said that was started for this."""
        self._changed, self._clock = changed, clock

    @contextmanager
    def step(self, name: str) -> Iterator[_Finding]:
        """Record what happens in a block.

        Raises:
            StepFailedError: it raised an error; of what is no error of ours, the record has the traceback too.
        """
        found, begun = _Finding(), self._clock()
        try:
            yield found
        except EnarxError as error:
            self._fail(name, found, begun, error, type(error).__name__, error.hint, error.status)
            raise StepFailedError(name) from error
        except Exception as error:  # the first machine of a kind is where bugs show, and they belong in the report
            found.facts["traceback"] = "".join(traceback.format_exception(error))[-_MAX_LINE:]
            found.lines += found.facts["traceback"].splitlines()
            self._fail(name, found, begun, error, f"bug: {type(error).__name__}", None, EnarxError.status)
            raise StepFailedError(name) from error
        self._add(
            Step(
                name=name,
                outcome=Outcome.OK,
                elapsed_s=self._clock() - begun,
                facts=found.facts,
                command=tuple(found.command),
                lines=tuple(found.lines),
            )
        )

    def skip(self, name: str, reason: str) -> None:
        """Record a step that is not tried."""
        self.steps.append(Step(name=name, outcome=Outcome.NOT_TRIED, reason=reason))

    def skip_rest(self, reason: str, *, but: Sequence[str] = ()) -> None:
        """Record all steps that are not in the record yet as not tried, but some."""
        known = {step.name for step in self.steps}
        for name in STEPS:
            if name not in known and name not in but:
                self.skip(name, reason)
        self._changed()

    @property
    def outcome(self) -> Outcome:
        """Return what became of all of it: failed where a step did, ok only where evidence was accepted."""
        outcomes = {step.name: step.outcome for step in self.steps}
        if Outcome.FAILED in outcomes.values():
            return Outcome.FAILED
        return Outcome.OK if outcomes.get("verdict") is Outcome.OK else Outcome.NOT_TRIED

    @property
    def why(self) -> str | None:
        """Return in one line why it is not ok, or not all of it; None where a workload ran."""
        for step in self.steps:
            if step.outcome is Outcome.FAILED and step.error is not None:
                return f"{step.name}: {step.error['message']}"
        return next((step.reason for step in self.steps if step.name == "hello"), None)

    @property
    def status(self) -> int:
        """Return the exit status of the first step that failed, or 0."""
        return next((step.status for step in self.steps if step.outcome is Outcome.FAILED), 0)

    def _fail(
        self,
        name: str,
        found: _Finding,
        begun: float,
        error: BaseException,
        kind: str,
        hint: str | None,
        status: int,
    ) -> None:
        self._add(
            Step(
                name=name,
                outcome=Outcome.FAILED,
                elapsed_s=self._clock() - begun,
                facts=found.facts,
                command=tuple(found.command),
                error={"class": kind, "message": str(error)[:_MAX_LINE], "hint": hint},
                status=status,
                lines=tuple(found.lines),
            )
        )

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self._changed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All trials of a machine.

    Args:
        made_at: the time, RFC 3339.
        enarx: version.
        system: facts about the machine and its programs, by name.
        trials: in the order in which they are made.
    """

    made_at: str
    enarx: str
    system: Mapping[str, str | None]
    trials: list[Trial] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Return the exit status: that of the first trial that failed, or 0."""
        return next((trial.status for trial in self.trials if trial.status), 0)

    def document(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        return {
            "format": FORMAT,
            "made_at": self.made_at,
            "enarx": self.enarx,
            "system": dict(self.system),
            "backends": [
                {
                    "name": trial.name,
                    "backend": trial.backend,
                    "outcome": str(trial.outcome),
                    "why": trial.why,
                    "steps": [_step_document(step) for step in trial.steps],
                    "host_said": trial.host_said,
                }
                for trial in self.trials
            ],
        }

    def text(self, *, brief: bool = False) -> str:
        """Return it for people.

        Args:
            brief: whether a trial is its steps alone, without what they found.
        """
        lines = [f"enarx {self.enarx} self-test, {self.made_at}"]
        lines += [f"{name}: {value or 'not there'}" for name, value in self.system.items()]
        for trial in self.trials:
            why = "" if trial.why is None else f": {trial.why}"
            lines += ["", f"{_MARKS[trial.outcome]} {trial.name}: {trial.outcome}{why}"]
            for step in trial.steps:
                if trial.outcome is not Outcome.NOT_TRIED or (step.outcome is Outcome.OK and not brief):
                    lines += _step_lines(step, brief=brief)
            if trial.host_said and (trial.outcome is Outcome.FAILED or not brief):
                lines += ["  the host said:", *(f"      {line}" for line in trial.host_said.splitlines())]
        return "\n".join(printable(line) for line in lines) + "\n"


def _step_document(step: Step) -> dict[str, Any]:
    document: dict[str, Any] = {"step": step.name, "outcome": str(step.outcome)}
    if step.elapsed_s is not None:
        document["elapsed_s"] = round(step.elapsed_s, 3)
    for name in ("reason", "error"):
        if getattr(step, name) is not None:
            document[name] = getattr(step, name)
    if step.command:
        document["command"] = list(step.command)
    return document | ({"facts": dict(step.facts)} if step.facts else {})


def _step_lines(step: Step, *, brief: bool) -> Iterator[str]:
    took = "" if step.elapsed_s is None else f" ({step.elapsed_s:.2f} s)"
    said = step.reason or (step.error or {}).get("message") or ""
    yield f"  {_MARKS[step.outcome]} {step.name}{took}{': ' if said else ''}{said}"
    if step.error is not None and step.error["hint"]:
        yield f"      hint: {step.error['hint']}"
    if brief and step.outcome is not Outcome.FAILED:
        return
    if step.command:
        import shlex

        yield f"      $ {shlex.join(step.command)}"
    for name, value in step.facts.items():
        yield from _fact_lines(name, value)
    for line in step.lines:
        yield f"      {line}"


def _fact_lines(name: str, value: object) -> Iterator[str]:
    """Yield a fact that is short and simple, or the facts of a table of such; the JSON has the others too."""
    if isinstance(value, Mapping) and all(isinstance(each, str | list) for each in value.values()):
        for inner, each in value.items():
            yield from _fact_lines(f"{name}, {inner}", each)
        return
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str | int | float):
        return
    text = str(value)
    if len(text) > _MAX_SHOWN or "\n" in text.rstrip("\n"):
        text = f"{len(text)} characters, which the JSON has"
    yield f"      {name}: {text.rstrip()}"
