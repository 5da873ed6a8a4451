# SPDX-License-Identifier: Apache-2.0
"""Components written as text: what a guest imports, how it declares it, and the code that calls it.

A test says the types itself, because a hostile component lies about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enarx.runtime import compiling
from enarx.runtime.component import find_interface, run_component
from enarx.runtime.component.binding import Component, Keep, Linker
from enarx.runtime.engine import make_engine
from enarx.runtime.workload import Directory, Limits, Outcome, Tls, Workload, standard_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MEMORY = """
  (core module $memory
    (memory (export "memory") 1 65536)
    (global $top (mut i32) (i32.const 32768))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (block $fits
        (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
        (drop (memory.grow (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1)))))
      (local.get $at)))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $heap))
  (alias core export $memory "realloc" (core func $realloc))
"""


def component_text(
    imports: str, lowered: Sequence[tuple[str, str, str]], body: str, *, run: str = "wasi:cli/run@0.2.0"
) -> str:
    """Write a component around core code.

    Args:
        imports: of the component, as text.
        lowered: name for the core code, `$instance "function"` or `drop $type`, core type.
        body: of the core module; exports `run`, which returns 0 for ok.
        run: the interface it exports.
    """
    lines = []
    for name, function, _ in lowered:
        if function.startswith("drop "):
            lines.append(f"(core func ${name} (canon resource.drop {function[5:]}))")
        else:
            lines.extend(
                (
                    f"(alias export {function} (func $of_{name}))",
                    f"(core func ${name} (canon lower (func $of_{name}) (memory (core memory $heap)) (realloc (core func $realloc))))",
                )
            )
    core_imports = "\n".join(f'(import "host" "{name}" (func ${name} {core}))' for name, _, core in lowered)
    with_host = " ".join(f'(export "{name}" (func ${name}))' for name, _, _ in lowered)
    return f"""(component
  {imports}
  {MEMORY}
  {chr(10).join(lines)}
  (core module $main
    {core_imports}
    (import "memory" "memory" (memory 1))
    {body})
  (core instance $main (instantiate $main
    (with "memory" (instance $memory)) (with "host" (instance {with_host}))))
  (alias core export $main "run" (core func $core_run))
  (func $run (result (result)) (canon lift (core func $core_run)))
  (instance $exports (export "run" (func $run)))
  (export "{run}" (instance $exports)))"""


@pytest.fixture(scope="session")
def engine() -> int:
    return make_engine(fuel=False)


class Runner:
    """Compiles component text and runs it."""

    def __init__(self, engine: int, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.count = 0

    def compile(self, text: str | bytes) -> str:
        self.count += 1
        path = self.folder / f"{self.count}.compiled"
        source = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(compiling.compile_source(source, "test.wat", fuel=False)[1])
        return str(path)

    def run(self, text: str | bytes, **options) -> Outcome:
        return run_component(self.engine, self.compile(text), make_workload(**options))

    def link(self, text: str, find=find_interface) -> Linker:
        return Linker(Component(self.engine, self.compile(text)), find)


def make_workload(*, limits: Limits | None = None, files=None, dirs: Sequence[Directory] = (), **options) -> Workload:
    return Workload(
        "guest.wasm",
        limits=limits or Limits(),
        files=standard_files() if files is None else files,
        dirs=dirs,
        tls=Tls(),
        **options,
    )


@pytest.fixture
def runner(engine: int, tmp_path: Path) -> Runner:
    return Runner(engine, tmp_path)


@pytest.fixture
def keep(engine: int) -> Iterator[Keep]:
    # Every interface, because the resources of a Keep are those that are declared when it is made.
    for name in ("wasi:cli/run", "wasi:clocks/x", "wasi:filesystem/x", "wasi:io/x", "wasi:random/x"):
        find_interface(name)
    opened = Keep(engine, make_workload())
    yield opened
    opened.close()
