# SPDX-License-Identifier: Apache-2.0
"""Rules for every file of the project, whoever writes it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

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


def read(path):
    return path.read_text(encoding="utf-8")


def test_finds_the_project():
    assert TOP / "src/enarx/errors.py" in PYTHON
    assert TOP / "bin/enarx" in SOURCES
    assert Path(__file__) in PYTHON


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_the_licence_is_the_first_line(path):
    lines = read(path).splitlines()
    first = lines[1] if lines and lines[0].startswith("#!") else (lines or [""])[0]
    assert re.fullmatch(r"(#|//|;;|/\*) SPDX-License-Identifier: Apache-2\.0( \*/)?", first)


@pytest.mark.parametrize("path", PYTHON, ids=named)
def test_a_module_says_what_it_is_for(path):
    tree = ast.parse(read(path))
    docstring = ast.get_docstring(tree)
    if not docstring:
        # Tests may be named so that nothing is left to say.
        assert path.is_relative_to(TOP / "tests")
        return
    assert docstring.split("\n\n")[0].strip().endswith((".", "?"))
    if len(read(path).splitlines()) > LONG_LINES and path.is_relative_to(TOP / "src"):
        assert len(docstring.splitlines()) > 2, "a long module says what holds it together"


@pytest.mark.parametrize("path", [path for path in PYTHON if path.is_relative_to(TOP / "src")], ids=named)
def test_annotations_cost_nothing(path):
    annotated = [node for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.FunctionDef | ast.AnnAssign)]
    assert "from __future__ import annotations" in read(path) or not annotated


@pytest.mark.parametrize("path", PYTHON, ids=named)
def test_no_error_is_passed_over_in_silence(path):
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            body = node.body[0]
            empty = isinstance(body, ast.Pass) or (isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant))
            assert not empty, f"line {node.lineno}: except and pass"


@pytest.mark.parametrize("path", [path for path in PYTHON if path.is_relative_to(TOP / "src")], ids=named)
def test_no_source_asserts(path):
    assert not [node.lineno for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.Assert)]


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


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS, *LOCKS], ids=named)
def test_nothing_names_this_machine_or_a_registry(path):
    found = [line for line in read(path).splitlines() if PRIVATE.search(line)]
    assert found == []


@pytest.mark.parametrize("path", [*SOURCES, *DOCUMENTS], ids=named)
def test_text_is_plain(path):
    text = path.read_bytes()
    assert b"\r" not in text
    # Go and shells have their own habits.
    assert b"\t" not in text or path.suffix in {".go", ""}
    assert text.endswith(b"\n") or not text
    assert not re.search(rb"[ \t]+$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "path",
    [path for path in PYTHON if path.is_relative_to(TOP / "src/enarx") and path.name != "__init__.py"],
    ids=named,
)
def test_names_say_what_a_module_is(path):
    assert not re.search(r"util|helper|manager|misc|common|stuff", path.stem)


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


@pytest.mark.parametrize(
    "path", [path for path in PYTHON if path.name == "__init__.py" and "def __getattr__(" in read(path)], ids=named
)
def test_what_a_package_loads_when_it_is_asked_for_is_not_called_as_a_module_of_its(path):
    """Loading such a module would put it in the place of what is asked for."""
    lists = [
        node.value
        for node in ast.parse(read(path)).body
        if isinstance(node, ast.Assign)
        and any(isinstance(each, ast.Name) and each.id == "__all__" for each in node.targets)
    ]
    offered = {name for each in lists for name in ast.literal_eval(each)}
    assert offered
    assert not offered & {each.stem for each in path.parent.iterdir()}
