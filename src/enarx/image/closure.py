# SPDX-License-Identifier: Apache-2.0
"""Which modules a program can import, found by reading and not by running.

An import under `if TYPE_CHECKING` does not count. Whether one inside a function does is the caller's choice: ours do what they
import, while those of the standard library are mostly for what nobody here calls. A module imported by a name that is computed is not
found, and has to be a root of its own. Knows no files: the sources are given.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from enarx.errors import DecodeError

__all__ = ["Closure", "Imports", "Module", "find_closure", "find_imports"]

Imports = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module's source.

    Args:
        source: the text, as bytes.
        is_package: whether it has modules below it.
    """

    source: bytes
    is_package: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """What was found.

    Args:
        inside: names of given modules that are roots or imported by one that is inside, and of the packages they are in.
        outside: other names that those import.
    """

    inside: frozenset[str]
    outside: frozenset[str]


def find_closure(
    modules: Mapping[str, Module],
    roots: Iterable[str],
    *,
    in_functions: bool,
    without: frozenset[str] = frozenset(),
    read_imports: Callable[[str, Module, bool], Imports] | None = None,
) -> Closure:
    """Find what some modules import, and what those import.

    Args:
        modules: by dotted name.
        roots: names to begin with; one that is not among the modules is outside.
        in_functions: whether an import inside a function counts.
        without: names that are neither found nor followed.
        read_imports: `find_imports`, or what remembers its results.

    Raises:
        DecodeError: a source that is no Python.
    """
    inside: set[str] = set()
    outside: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if not name or name in inside or name in outside or name in without:
            continue
        waiting.append(name.rpartition(".")[0])
        module = modules.get(name)
        if module is None:
            outside.add(name)
            continue
        inside.add(name)
        for wanted, items in (read_imports or find_imports)(name, module, in_functions):
            waiting.append(wanted)
            # What is imported out of a package is a module of it, or a name in it.
            waiting += [f"{wanted}.{item}" for item in items if f"{wanted}.{item}" in modules]
    return Closure(inside=frozenset(inside), outside=frozenset(outside))


def find_imports(name: str, module: Module, in_functions: bool) -> Imports:
    """Return what one module imports: a name, and what of it.

    Args:
        name: the module's.
        module: its source.
        in_functions: whether an import inside a function counts.

    Raises:
        DecodeError: it is no Python.
    """
    try:
        tree = ast.parse(module.source)
    except (SyntaxError, ValueError) as error:
        raise DecodeError(f"cannot find what a module imports: {name}: {error}") from error
    return tuple(_imports(tree, name if module.is_package else name.rpartition(".")[0], in_functions))


def _imports(node: ast.AST, package: str, in_functions: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((name.name, ()) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package.split(".")
            parents = base[: len(base) - child.level + 1] if child.level else []
            yield (
                ".".join([*parents, *([child.module] if child.module else [])]),
                tuple(name.name for name in child.names),
            )
        elif isinstance(child, ast.If) and _is_for_types(child.test):
            for other in child.orelse:
                yield from _imports(ast.Module(body=[other], type_ignores=[]), package, in_functions)
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, package, in_functions)


def _is_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"
