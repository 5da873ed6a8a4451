# SPDX-License-Identifier: Apache-2.0
"""Feed one parser of foreign bytes with changed inputs and say what came of it; a process of its own, because it may die or never end.

::

    verifier_worker.py seeds TARGET FOLDER             write the inputs to begin with into FOLDER
    verifier_worker.py fuzz TARGET COUNT SEED FOLDER   COUNT inputs; what reached new code is kept in FOLDER
    verifier_worker.py measure TARGET FOLDER           which lines the inputs in FOLDER reach
    verifier_worker.py campaign COUNT [TARGET ...]     all three, in child processes, for each target its part of COUNT

`fuzz` is guided by coverage where `atheris` can be imported (`tools/install-fuzz`), else the changes are made without looking. It
prints one line of JSON: inputs, what passes magic and length in a sample of them, the slowest in CPU time, the memory, and what must not be:
another exception than the target's errors, an input that takes too long. Memory is limited, and so is the time of an input.
`campaign` prints a line for each target, in the form of the table of `docs/fuzzing.md`. Run by `test_verifier_fuzz`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from math import ceil
from pathlib import Path
from random import Random
from types import CodeType, ModuleType

TOP = Path(__file__).resolve().parents[2]
ATHERIS = TOP / "build" / "fuzz"
if __name__ == "__main__":
    sys.path.insert(0, str(TOP))
    sys.path.append(str(ATHERIS))

from tests.fuzz import (  # noqa: E402
    deployment_targets,
    drawbridge_targets,
    package_encryption_targets,
    package_format_targets,
    package_signature_targets,
    steward_targets,
    verifier_mutations,
    verifier_targets,
)
from tests.fuzz.verifier_seeds import roots_of_tests  # noqa: E402
from tests.fuzz.verifier_targets import ROOTS_FILE, Target  # noqa: E402

TARGETS = (
    verifier_targets.TARGETS
    | deployment_targets.TARGETS
    | steward_targets.TARGETS
    | package_encryption_targets.TARGETS
    | package_format_targets.TARGETS
    | drawbridge_targets.TARGETS
    | package_signature_targets.TARGETS
)

MAX_MEMORY_BYTES = 3 << 30
SLOW_S = 1.0
LONGEST_S = 20
SAMPLE = 16
MAX_FAULTS = 20
MAX_MEASURED = 4000
KEPT_WITHOUT_ATHERIS = 1500
FRESH = 0.5
# What bytes, text and keys have methods of; where a parser's own function has such a name, it is among its target's entries.
NAMES_OF_OTHERS = frozenset({"decode", "encode", "serialise", "verify"})
CHILD_LIMIT_S = 3 * 3600


class Watched:
    """A target's call that counts, samples and keeps what must not be."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.call = target.make()
        errors = importlib.import_module("enarx.errors")
        self.errors = tuple(getattr(errors, name) for name in target.errors)
        self.forget()
        self.faults: dict[str, dict[str, str]] = {}

    def __call__(self, data: bytes) -> None:
        """Call with one input."""
        self.inputs += 1
        begin = time.process_time()
        try:
            self.call(data)
            self.values += 1
        except self.errors as error:
            if "\n" in str(error):
                self.keep(f"a message of two lines: {str(error)!r}", data)
        except Exception as error:  # noqa: BLE001  # it is the answer
            where = traceback.extract_tb(error.__traceback__)[-1]
            ours = [each for each in traceback.extract_tb(error.__traceback__) if "/enarx/" in each.filename]
            at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"{where.filename}:{where.lineno}"
            self.keep(f"{type(error).__name__} at {at}: {str(error)[:200]}", data, f"{type(error).__name__} at {at}")
        took_s = time.process_time() - begin
        if took_s > self.slowest_s:
            self.slowest_s = took_s
            if took_s > SLOW_S:
                self.keep(f"{took_s:.1f} s", data, "slow")
        if self.inputs % SAMPLE == 0:
            self.sampled += 1
            self.passed += bool(self.target.passes(data))

    def forget(self) -> None:
        """Count from here."""
        self.inputs = self.values = self.sampled = self.passed = 0
        self.slowest_s = 0.0

    def keep(self, what: str, data: bytes, key: str | None = None) -> None:
        """Keep one input of each kind of fault."""
        key = key or what[:80]
        if len(self.faults) < MAX_FAULTS or key in self.faults:
            kept = self.faults.get(key)
            if kept is None or len(data) * 2 < len(kept["input"]):
                self.faults[key] = {"what": what, "input": data.hex()}

    def report(self) -> dict[str, object]:
        """Return what came of it."""
        return {
            "target": self.target.name,
            "inputs": self.inputs,
            "values": self.values,
            "passing": round(self.passed / self.sampled, 4) if self.sampled else 0.0,
            "slowest_ms": round(self.slowest_s * 1000, 1),
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "faults": list(self.faults.values()),
        }


def plainly(watched: Watched, seeds: list[bytes], count: int, seed: int) -> list[bytes]:
    """Call with `count` inputs, the seeds and what comes of changing them a few times over, without knowing what they reach.

    Returns:
        Some of the inputs, evenly spread.
    """
    target, random, kept = watched.target, Random(seed), []
    for data in seeds[:count]:
        watched(data)
    every, data = count // KEPT_WITHOUT_ATHERIS + 1, b""
    while watched.inputs < count:
        if watched.inputs % 4 == 0 or len(data) > target.max_bytes:
            data = random.choice(seeds)
        data = target.mutate(data, random, verifier_mutations.scramble)
        watched(data)
        if watched.inputs % every == 0:
            kept.append(data)
    return kept


def guided(atheris: ModuleType, watched: Watched, seeds: list[bytes], count: int, seed: int, folder: str) -> None:
    """Call with `count` inputs, guided by coverage; ends the process."""
    target, random = watched.target, Random(seed)
    good = [data for data in seeds if target.passes(data)]

    def scramble(data: bytes, random: Random) -> bytes:
        # The library's own knows what the data was compared with.
        return (
            atheris.Mutate(data, target.max_bytes)
            if random.random() < 0.5
            else verifier_mutations.scramble(data, random)
        )

    def mutate(data: bytes, max_size: int, _seed: int) -> bytes:
        # What is kept for its coverage was often refused early; a share of the inputs begins with what was not.
        base = random.choice(good) if random.random() < FRESH else data
        changed = target.mutate(base, random, scramble)
        # Cut off, it would only be refused for its length; and what grows without end makes everything slow.
        return changed if len(changed) <= max_size else verifier_mutations.overwrite(base[:max_size], random)

    options = [
        *(f"-atheris_runs={count}", f"-seed={seed}", f"-max_len={target.max_bytes}", f"-timeout={LONGEST_S}"),
        *(f"-rss_limit_mb={MAX_MEMORY_BYTES >> 20}", "-verbosity=0", "-mutate_depth=2", "-reload=0"),
        *(f"-artifact_prefix={folder}.", folder),
    ]
    atheris.Setup([sys.argv[0], *options], watched, custom_mutator=mutate)
    atheris.Fuzz()


def write_seeds(name: str, folder: str) -> None:
    """Write a target's seeds; in a process of its own, because code that is instrumented is slow and is counted."""
    for number, data in enumerate(TARGETS[name].seeds()):
        Path(folder, f"{number:06}").write_bytes(data)
    if name in {"verdict", "verdict in words"}:
        Path(f"{folder}.roots").write_bytes(roots_of_tests())


def end(watched: Watched, *, is_guided: bool) -> None:
    """Print what came of it."""
    # The library's clock goes on while Python ends and has put the signal's handler away.
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    print(json.dumps(watched.report() | {"guided": is_guided}), flush=True)


def fuzz(name: str, count: int, seed: int, folder: str) -> None:
    """Run one target and print what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    warnings.simplefilter("error")
    seeds = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    try:
        import atheris
    except ImportError:
        atheris = None
    if early := sorted(name for name in sys.modules if name.startswith("enarx.")):
        raise RuntimeError(f"imported before anything could be instrumented: {early}")
    with atheris.instrument_imports(include=["enarx"]) if atheris else contextlib.nullcontext():
        importlib.import_module(
            "enarx.crypto.certificates"
        )  # Its own filters of warnings go in front of the one above.
        watched = Watched(TARGETS[name])
        # What is imported when it is first used is instrumented too, and none of the inputs' time.
        for data in seeds:
            watched(data)
    watched.forget()
    atexit.register(end, watched, is_guided=atheris is not None)
    if atheris is not None:
        guided(atheris, watched, seeds, count, seed, folder)
    for number, data in enumerate(plainly(watched, seeds, count, seed)):
        Path(folder, f"plain-{number:06}").write_bytes(data)


# --- Lines -----------------------------------------------------------------------------------------------------------


def functions_of(module: object) -> list[CodeType]:
    """Return the code of the functions and methods of a module, those inside of others with them."""
    source = module.__file__
    with open(source, "rb") as file:
        found, todo = [], [compile(file.read(), source, "exec")]
    while todo:
        code = todo.pop()
        inner = [each for each in code.co_consts if isinstance(each, CodeType)]
        todo += inner
        # A module or a class body runs when it is imported.
        found += [each for each in inner if "__module__" not in each.co_names or each.co_flags & 2]
    return found


def reachable(codes: list[CodeType], entries: tuple[str, ...]) -> dict[tuple[str, int], set[int]]:
    """Return the lines of the functions that entries reach, by file and first line: those they name, and those these name.

    A name that two functions have means both: more lines are counted then, never fewer.
    """
    by_name: dict[str, list[CodeType]] = {}
    for code in codes:
        by_name.setdefault(code.co_name, []).append(code)
        if code.co_name in {"__init__", "__call__", "__contains__", "__add__", "__post_init__"}:
            by_name.setdefault(code.co_qualname.rpartition(".")[0].rpartition(".")[2], []).append(code)
    for name in NAMES_OF_OTHERS - {*entries}:
        by_name.pop(name, None)
    todo, found = [code for name in entries for code in by_name.get(name, [])], {}
    while todo:
        code = todo.pop()
        key = (code.co_filename, code.co_firstlineno)
        if key in found and code.co_name not in {"<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"}:
            continue
        lines = {line for *_, line in code.co_lines() if line is not None} - {code.co_firstlineno}
        if key in found and lines <= found[key]:
            continue
        found[key] = found.get(key, set()) | lines
        names = {*code.co_names, *code.co_freevars, *code.co_cellvars}
        todo += [each for name in names for each in by_name.get(name, [])]
        todo += [each for each in code.co_consts if isinstance(each, CodeType)]
    return found


def lines_of(target: Target) -> set[tuple[str, int]]:
    """Return the lines of a target's modules that its entries can reach."""
    codes = [code for module in target.modules for code in functions_of(importlib.import_module(module))]
    return {(file, line) for (file, _), numbers in reachable(codes, target.entries).items() for line in numbers}


def measure(name: str, folder: str) -> None:
    """Print which lines of a target's modules the inputs in a folder reach."""
    target = TARGETS[name]
    watched = Watched(target)
    lines = lines_of(target)
    files, reached = {file for file, _ in lines}, set()

    def trace(frame, event, _argument):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    inputs = sorted(Path(folder).iterdir())
    kept = inputs[:: len(inputs) // MAX_MEASURED + 1]
    for path in kept:
        data = path.read_bytes()
        sys.settrace(trace)
        try:
            # `fuzz` has told what must not be.
            with contextlib.suppress(Exception):
                watched.call(data)
        finally:
            sys.settrace(None)
    missed: dict[str, list[int]] = {}
    for file, line in sorted(lines - reached):
        missed.setdefault(os.path.relpath(file, TOP), []).append(line)
    report = {"lines": len(lines & reached), "of_lines": len(lines), "kept": len(inputs), "missed": missed}
    print(json.dumps(report))


# --- Campaigns -------------------------------------------------------------------------------------------------------


def run(name: str, count: int, seed: int = 1, *, lines: bool = False) -> dict[str, object]:
    """Fuzz a target, and measure its lines if they are asked for, in child processes.

    Raises:
        RuntimeError: a child died, which is what no input may do.
    """
    with tempfile.TemporaryDirectory(prefix="enarx-fuzz-") as top:
        folder = os.path.join(top, "corpus")
        os.mkdir(folder)
        _child("seeds", name, folder)
        begin = time.monotonic()
        report = _child("fuzz", name, str(count), str(seed), folder)
        report["seconds"] = round(time.monotonic() - begin, 1)
        return report | (_child("measure", name, folder) if lines else {})


def _child(*arguments: str) -> dict[str, object]:
    path = os.pathsep.join([str(TOP), str(TOP / "src"), str(ATHERIS)])
    # What the seeds were made with is what the others trust.
    roots = {} if arguments[0] == "seeds" else {ROOTS_FILE: f"{arguments[-1]}.roots"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"} | roots,
        capture_output=True,
        text=True,
        timeout=CHILD_LIMIT_S,
        check=False,
    )
    found = re.findall(r"^\{.*\}$", done.stdout, flags=re.MULTILINE)
    if done.returncode or (not found and arguments[0] != "seeds"):
        left = {path: Path(path).read_bytes().hex()[:4000] for path in _artifacts(arguments[-1])}
        raise RuntimeError(f"{arguments[:2]}: ended with {done.returncode}: {done.stderr[-3000:]} {left}")
    return json.loads(found[-1]) if found else {}


def _artifacts(folder: str) -> list[str]:
    above, name = os.path.split(folder)
    return [
        os.path.join(above, each)
        for each in os.listdir(above)
        if each.startswith(f"{name}.") and not each.endswith(".roots")
    ]


def share_of(name: str, count: int) -> int:
    """Return how many of `count` inputs are a target's."""
    total = sum(target.parts for target in TARGETS.values())
    return max(200, ceil(count * TARGETS[name].parts / total))


def campaign(count: int, names: list[str]) -> int:
    """Run targets one after the other and print a line for each; return how many faults there were."""
    faults, total = 0, 0
    for name in names or TARGETS:
        report = run(name, share_of(name, count), lines=True)
        found, total = report["faults"], total + report["inputs"]
        faults += len(found)
        lines = f"{report['lines']} of {report['of_lines']} ({100 * report['lines'] / report['of_lines']:.0f} %)"
        row = (
            name,
            f"{report['inputs']:,}",
            f"{100 * report['passing']:.0f} %",
            lines,
            report["slowest_ms"],
            report["memory_mib"],
        )
        print("| " + " | ".join(map(str, row)) + " |", f"{report['seconds']} s", flush=True)
        print(json.dumps(report), file=sys.stderr, flush=True)
    print(f"{total:,} inputs, {faults} faults", flush=True)
    return faults


def main() -> int:
    """Do what the arguments say."""
    command, *rest = sys.argv[1:]
    if command == "seeds":
        write_seeds(*rest)
    elif command == "fuzz":
        fuzz(rest[0], int(rest[1]), int(rest[2]), rest[3])
    elif command == "measure":
        measure(*rest)
    elif command == "campaign":
        return min(1, campaign(int(rest[0]), rest[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
