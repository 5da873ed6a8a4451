# SPDX-License-Identifier: Apache-2.0
"""Measure enarx side by side with its peers: `make bench`, or `.venv/bin/python bench/run.py [CASE...]`.

Prints a table and writes build/bench/results.json and results.md. Ends with 1 when a required ratio is missed, with 2 when
a measurement cannot be believed. A case whose tools are missing is skipped and listed as not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import installs
from cases import CASES as RUN_CASES
from cases import Bench, Enarx, Options, Row, WasmtimeCli, environment
from deploy_cases import DEPLOY_CASES
from image_measuring import MEASURING_CASES
from machine_cases import MACHINE_CASES
from package_cases import PACKAGE_CASES
from steward_cases import STEWARD_CASES
from timing import BenchError, become_subreaper, median
from verifier_cases import VERIFIER_CASES

CASES = {
    **RUN_CASES,
    **VERIFIER_CASES,
    **DEPLOY_CASES,
    **MEASURING_CASES,
    **MACHINE_CASES,
    **STEWARD_CASES,
    **PACKAGE_CASES,
}
MIN_ROUNDS = 5
QUIET_LOAD = 0.25  # of the cores; above it, somebody else is working here.
RECORDED = installs.TOP / "bench" / "results.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    become_subreaper()
    home = installs.BUILD / "home"
    home.mkdir(parents=True, exist_ok=True)
    machine = _machine()
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    try:
        bench = Bench(
            enarx=Enarx(command=installs.enarx(), configs=home),
            cli=WasmtimeCli(major=49),
            cli_with_sockets=WasmtimeCli(major=36),
            env=environment(home),
            options=Options(
                rounds=options.rounds or (MIN_ROUNDS if options.quick else 9),
                short_rounds=options.rounds or (MIN_ROUNDS if options.quick else 31),
                load_rounds=options.rounds or MIN_ROUNDS,
                load_s=1 if options.quick else 3,
                verifications=5_000 if options.quick else 100_000,
            ),
        )
        for name in options.cases or CASES:
            try:
                for row in CASES[name](bench):
                    rows.append(row)
                    print(_line(row), flush=True)
            except installs.MissingError as error:
                skipped[name] = str(error)
                print(f"{name}: not measured: {error}", flush=True)
            except BenchError as error:
                failed[name] = str(error).partition("\n")[0]
                print(f"{name}: failed: {error}", flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        _write(rows, skipped | failed, machine)
    if options.record:
        RECORDED.write_text(_markdown(rows, skipped | failed, machine))
    missed = [row.name for row in rows if row.is_required and not row.is_met]
    met = sum(row.is_required for row in rows) - len(missed)
    print(f"{met} required met, {len(missed)} missed, {len(skipped)} cases not measured, {len(failed)} failed")
    for name in missed:
        print(f"missed: {name}")
    if machine["load_before"] > QUIET_LOAD * machine["cores"]:
        print(f"the machine was busy (load {machine['load_before']:.2f}): these figures are not for publication")
    return 2 if failed else 1 if missed else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, help=f"measurements per side, at least {MIN_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements: does it work at all?")
    parser.add_argument("--record", action="store_true", help="also write bench/results.md, which is checked in")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if options.rounds is not None and options.rounds < MIN_ROUNDS:
        parser.error(f"--rounds is {options.rounds}, want at least {MIN_ROUNDS}: a median of fewer says nothing")
    if options.record and (options.cases or options.quick):
        parser.error("--record writes the published table: it takes all cases, and not --quick")
    return options


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _limit(row: Row) -> str:
    limits = []
    if row.at_most is not None:
        limits.append(f"<= {row.at_most:g}")
    if row.at_least is not None:
        limits.append(f">= {row.at_least:g}")
    if row.ours_at_most is not None:
        limits.append(f"<= {row.ours_at_most:g} {row.unit}")
    if row.aim is not None:
        limits.append(f"(aim {row.aim:g})")
    return " ".join(limits) or "recorded"


def _spread(values: Sequence[float]) -> str:
    digits = 0 if median(values) >= 1000 else 1
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _cells(row: Row) -> list[str]:
    verdict = ("met" if row.is_met else "MISSED") if row.is_required else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    theirs = _spread(row.theirs) if row.theirs else ""
    return [row.name, row.unit, _spread(row.ours), theirs, row.peer, ratio, _limit(row), verdict, row.note]


def _line(row: Row) -> str:
    name, unit, ours, theirs, peer, ratio, limit, verdict, note = _cells(row)
    compared = f" against {theirs} {unit} of {peer}: {ratio}" if theirs else ""
    return f"{name}: {ours} {unit}{compared}; {limit}{' ' + verdict if verdict else ''}{'; ' + note if note else ''}"


def _markdown(rows: Sequence[Row], skipped: dict[str, str], machine: dict[str, Any]) -> str:
    return "\n".join(_markdown_lines(rows, skipped, machine)) + "\n"


def _markdown_lines(rows: Sequence[Row], skipped: dict[str, str], machine: dict[str, Any]) -> Iterator[str]:
    yield "# Benchmark results"
    yield ""
    yield "Written by `bench/run.py --record`; what each row means is in [docs/benchmarks.md](../docs/benchmarks.md)."
    yield "Values are medians, with the smallest and the largest behind them."
    yield ""
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}, load {machine['load_before']:.2f} before."
    )
    yield ""
    yield "| measurement | unit | enarx | peer's | peer | ratio | required | verdict | note |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        yield f"| {' | '.join(_cells(row))} |"
    for name, reason in skipped.items():
        yield ""
        yield f"Not measured: {name}: {reason}."


def _write(rows: Sequence[Row], skipped: dict[str, str], machine: dict[str, Any]) -> None:
    results = {
        "machine": machine,
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "ours": list(row.ours),
                "theirs": list(row.theirs),
                "peer": row.peer,
                "ratio": row.ratio,
                "required": _limit(row),
                "met": row.is_met if row.is_required else None,
                "note": row.note,
            }
            for row in rows
        ],
        "not_measured": skipped,
    }
    (installs.BUILD / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (installs.BUILD / "results.md").write_text(_markdown(rows, skipped, machine))


if __name__ == "__main__":
    sys.exit(main())
