# SPDX-License-Identifier: Apache-2.0
"""`enarx platform info`: print what `enarx.host.probes` found, as text or JSON. Printing only; it decides nothing."""

from __future__ import annotations

import sys

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

    from enarx.host.probes import BackendReport, Datum, PlatformReport

__all__ = ["COMMANDS", "datum_document", "datum_lines", "format_json", "format_text", "run_info"]

_MARKS: dict[bool | None, str] = {True: "\N{HEAVY CHECK MARK}", False: "\N{BALLOT X}", None: "?"}
_ASCII_MARKS: dict[bool | None, str] = {True: "+", False: "-", None: "?"}
_COLOURS: dict[bool | None, str] = {True: "\x1b[32m", False: "\x1b[31m", None: "\x1b[33m"}
_RESET = "\x1b[0m"


def run_info(*, json_output: bool, out: TextIO) -> int:
    """Report on this machine.

    Args:
        json_output: one JSON document instead of text.
        out: where the report goes, standard output as a rule.

    Returns:
        0 whatever was found: a report that says no is still the report.
    """
    # Not before the command runs: the help of every command reads this file.
    from enarx.host import probes

    report = probes.report_platform(probes.this_machine())
    if json_output:
        out.write(format_json(report))
        out.flush()
        return 0
    encoding = out.encoding or "utf-8"
    colour = ui.wants_colour(out)
    text = format_text(report, marks=_choose_marks(encoding), colour=colour)
    # A brand string may hold what a narrow encoding cannot carry; a mark in its place is better than no report.
    out.write(text.encode(encoding, "replace").decode(encoding))
    # Here, where a reader that has gone can still be answered for, and not at the interpreter's end.
    out.flush()
    return 0


def format_json(report: PlatformReport) -> str:
    """Write a report as one JSON document, ASCII, missing values as null."""
    import json

    document = {
        "version": report.version,
        "system": {"sysname": report.sysname, "release": report.release, "machine": report.machine},
        "backends": [
            {
                "backend": backend.backend,
                "present": backend.present,
                "configured": backend.configured,
                "usable": backend.usable,
                "why": backend.why,
                "data": [datum_document(datum) for datum in backend.data],
            }
            for backend in report.backends
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def format_text(report: PlatformReport, *, marks: dict[bool | None, str] | None = None, colour: bool = False) -> str:
    """Write a report for people: a line per backend, its answers indented beneath it.

    A piece of advice is printed once per backend, beside the first answer that calls for it.
    """
    painted = dict(marks or _MARKS)
    if colour:
        painted = {answer: f"{_COLOURS[answer]}{mark}{_RESET}" for answer, mark in painted.items()}
    lines = [f"enarx {report.version}", f"system: {report.sysname} {report.release} {report.machine}"]
    for backend in report.backends:
        lines.append(f"{painted[backend.usable]} {backend.backend}: {_verdict(backend)}")
        advised: set[str] = set()
        for datum in backend.data:
            lines.extend(_datum_lines(datum, painted, advised, indent="  "))
    return "\n".join(lines) + "\n"


def datum_lines(datum: Datum) -> Iterator[str]:
    """Yield the lines of an answer and of those that it is made of, for a report without colour."""
    return _datum_lines(datum, _MARKS, set(), indent="")


def _verdict(backend: BackendReport) -> str:
    if backend.usable:
        return "usable"
    state = {True: "present, not usable", False: "not present", None: "not usable, not known to be present"}
    return f"{state[backend.present]}: {backend.why}"


def _datum_lines(datum: Datum, marks: dict[bool | None, str], advised: set[str], *, indent: str) -> Iterator[str]:
    line = f"{indent}{marks[datum.passed]} {datum.name}"
    if datum.info is not None:
        line += f": {datum.info}"
    if datum.fix is not None and datum.fix not in advised:
        advised.add(datum.fix)
        line += f" -> {datum.fix}"
    yield line
    for inner in datum.data:
        yield from _datum_lines(inner, marks, advised, indent=indent + "  ")


def datum_document(datum: Datum) -> dict[str, Any]:
    """Return an answer and those that it is made of, as values that JSON has."""
    return {
        "name": datum.name,
        "pass": datum.passed,
        "info": datum.info,
        "fix": datum.fix,
        "data": [datum_document(inner) for inner in datum.data],
    }


def _choose_marks(encoding: str) -> dict[bool | None, str]:
    try:
        "".join(_MARKS.values()).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _ASCII_MARKS
    return _MARKS


def _info(parsed: Parsed) -> int:
    return run_info(json_output=parsed.flag("json"), out=sys.stdout)


COMMANDS = {
    "platform info": Command(
        "platform info",
        summary="say which Keeps this machine can run",
        description=(
            "Report on every backend: whether its hardware is present, whether it is configured, why not, and what to do"
            " about it. The report itself always exits 0."
        ),
        options=(Option("json", "", "one JSON document"),),
        examples=(("enarx platform info --json", "the same, for a program"),),
        run=_info,
    ),
}
