# SPDX-License-Identifier: Apache-2.0
"""Rules for every file of the project, whoever writes it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TOP = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "tools", "bench", "bin", "examples")
KINDS = {".py", ".wat", ".wit", ".c", ".cpp", ".h", ".go", ".js", ".rs", ".sh", ".ts", ".zig", ""}
BUILT = {"__pycache__", ".mypy_cache", ".ruff_cache", "vendor", "target"}
# Interfaces of the standard, kept as they are published.
OTHERS = ("wit/deps/", "Cargo.toml", "go.mod", "go.sum")
LONG_LINES = 400

FILES = [
    path
    for folder in FOLDERS
    for path in sorted((TOP / folder).rglob("*"))
    if path.is_file() and not BUILT & set(path.parts)
]
SOURCES = [
    path for path in FILES if path.suffix in KINDS and not any(part in str(path.relative_to(TOP)) for part in OTHERS)
]
PYTHON = [path for path in SOURCES if path.suffix == ".py"]
LOCKS = [path for path in FILES if path.suffix == ".lock" or path.name == "package-lock.json"]
DOCUMENTS = [*sorted(TOP.glob("*.md")), *sorted(TOP.glob("docs/**/*.md")), TOP / "Makefile", TOP / "pyproject.toml"]


def named(path):
    return str(path.relative_to(TOP))


@cache
def read(path):
    return path.read_text(encoding="utf-8")


class Facts(NamedTuple):
    """What a Python file says of itself, and lines of it."""

    docstring: str | None
    annotates: bool
    passes_over: list[int]
    asserts: list[int]


@cache
def facts(path):
    # The trees themselves are millions of objects, among which every later search for garbage would look.
    tree = ast.parse(read(path))
    annotates, passes_over, asserts = False, [], []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AnnAssign():
                annotates = True
            case ast.ExceptHandler(type=None) | ast.ExceptHandler(body=[ast.Pass() | ast.Expr(ast.Constant()), *_]):
                passes_over.append(node.lineno)
            case ast.Assert():
                asserts.append(node.lineno)
    return Facts(ast.get_docstring(tree), annotates, passes_over, asserts)


def below(folder, paths=PYTHON):
    return [path for path in paths if path.is_relative_to(TOP / folder)]


# Each rule is one test for all files: thousands of tests would take longer than what they do.


def test_finds_the_project():
    assert TOP / "src/enarx/errors.py" in PYTHON
    assert TOP / "bin/enarx" in SOURCES
    assert Path(__file__) in PYTHON


def test_the_licence_is_the_first_line():
    def first(path):
        lines = read(path).splitlines()
        return lines[1] if lines and lines[0].startswith("#!") else (lines or [""])[0]

    licence = re.compile(r"(#|//|;;|/\*) SPDX-License-Identifier: Apache-2\.0( \*/)?")
    assert [named(path) for path in SOURCES if not licence.fullmatch(first(path))] == []


def test_a_module_says_what_it_is_for():
    wrong = []
    for path in PYTHON:
        docstring = facts(path).docstring
        if not docstring:
            # Tests may be named so that nothing is left to say.
            if not path.is_relative_to(TOP / "tests"):
                wrong.append(f"{named(path)}: nothing")
        elif not docstring.split("\n\n")[0].strip().endswith((".", "?")):
            wrong.append(f"{named(path)}: no sentence")
        elif (
            path.is_relative_to(TOP / "src")
            and len(read(path).splitlines()) > LONG_LINES
            and len(docstring.splitlines()) <= 2
        ):
            wrong.append(f"{named(path)}: a long module says what holds it together")
    assert wrong == []


def test_annotations_cost_nothing():
    told = "from __future__ import annotations"
    assert [named(path) for path in below("src") if told not in read(path) and facts(path).annotates] == []


def test_no_error_is_passed_over_in_silence():
    assert [f"{named(path)}:{line}" for path in PYTHON for line in facts(path).passes_over] == []


def test_no_source_asserts():
    assert [f"{named(path)}:{line}" for path in below("src") for line in facts(path).asserts] == []


# Written so that this file does not hold what it looks for.
PRIVATE = re.compile(
    "|".join(
        [
            r"/(?:root|home/\w+|work|Users)/" + r"(?!\.cache)[\w.]",
            r"/tmp/" + r"lab",
            r"(?:pypi|files\.python"
            + r"hosted|registry\.npm"
            + r"js|proxy\.golang|static\.crates|index\.crates)\.(?:org|io)",
            r"artifac" + r"tory|\.inter" + r"nal\b",
        ]
    )
)


def test_nothing_names_this_machine_or_a_registry():
    found = [
        f"{named(path)}: {line}"
        for path in (*SOURCES, *DOCUMENTS, *LOCKS)
        if PRIVATE.search(read(path))
        for line in read(path).splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []


def test_text_is_plain():
    wrong = []
    for path in (*SOURCES, *DOCUMENTS):
        text = path.read_bytes()
        # Go and shells have their own habits.
        if b"\r" in text or (b"\t" in text and path.suffix not in {".go", ""}):
            wrong.append(f"{named(path)}: carriage returns or tabs")
        if (text and not text.endswith(b"\n")) or re.search(rb"[ \t]+$", text, re.MULTILINE):
            wrong.append(f"{named(path)}: the end of a line")
    assert wrong == []


def test_names_say_what_a_module_is():
    vague = re.compile(r"util|helper|manager|misc|common|stuff")
    modules = [path for path in below("src/enarx") if path.name != "__init__.py"]
    assert [named(path) for path in modules if vague.search(path.stem)] == []


# Everything that saying hello from a warm cache needs. What is added here is added to every start.
HELLO_MODULES = {
    "__future__",
    "_ctypes",
    "enarx",
    "enarx.cli",
    "enarx.cli.options",
    "enarx.cli.run",
    "enarx.cli.ui",
    "enarx.errors",
    "enarx.host",
    "enarx.host.backends",
    "enarx.runtime",
    "enarx.runtime.cache",
    "enarx.runtime.capi",
    "enarx.runtime.engine",
    "enarx.runtime.preview1",
    "enarx.runtime.preview1.core",
    "enarx.runtime.preview1.descriptors",
    "enarx.runtime.preview1.errno",
    "enarx.runtime.preview1.host",
    "enarx.runtime.preview1.mailbox",
    "enarx.runtime.watch",
    "enarx.runtime.workload",
    "gc",
}


def test_hello_loads_exactly_what_is_listed(tmp_path):
    """Nothing that costs more than it is worth creeps into a start: no `os`, `re`, `typing`, `dataclasses`, `enum`."""
    guest = tmp_path / "hello.wat"
    guest.write_text('(module (func (export "_start")))')
    code = (
        "import sys\n"
        f"sys.path += {[path for path in sys.path if path]!r}\n"
        "before = set(sys.modules)\n"
        "from enarx.cli import main\n"
        f"status = main(['run', '--backend', 'nil', {str(guest)!r}])\n"
        "print(status, *sorted(set(sys.modules) - before))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    environment = {"HOME": str(tmp_path)}
    loaded = []
    for _ in range(3):
        # The first compiles. The second finds a file too young to be remembered, perhaps, and the third does not.
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        status, *names = done.stdout.split()
        assert status == "0"
        loaded.append(set(names))
    assert "enarx.runtime.compiling" in loaded[0]
    assert loaded[2] == HELLO_MODULES


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["config", "init", "--help"]])
def test_help_loads_no_engine(arguments):
    code = (
        "import sys\nfrom enarx.cli import main\n"
        f"main({arguments!r})\n"
        "assert not {'_ctypes', 'wasmtime', 'ssl', 'cryptography', 'OpenSSL', 'enarx.runtime.capi'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)


def test_what_a_package_loads_when_it_is_asked_for_is_not_called_as_a_module_of_its():
    """Loading such a module would put it in the place of what is asked for."""
    lazy = [path for path in below("src") if path.name == "__init__.py" and "def __getattr__(" in read(path)]
    assert len(lazy) > 1
    for path in lazy:
        lists = [
            node.value
            for node in ast.parse(read(path)).body
            if isinstance(node, ast.Assign)
            and any(isinstance(each, ast.Name) and each.id == "__all__" for each in node.targets)
        ]
        offered = {name for each in lists for name in ast.literal_eval(each)}
        assert offered, named(path)
        assert not offered & {each.stem for each in path.parent.iterdir()}, named(path)
