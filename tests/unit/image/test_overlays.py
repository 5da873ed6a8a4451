# SPDX-License-Identifier: Apache-2.0
"""What is compiled ahead is what the engine maps, on any processor of the architecture, and the same bytes every time."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import wasmtime

from enarx.errors import PlatformError
from enarx.image import package_folder
from enarx.image.overlays import AHEAD, compile_ahead
from enarx.image.packages import Package
from enarx.runtime import capi, overlay_paths
from enarx.runtime.engine import make_engine

MACHINE = platform.machine()
TARGET = f"{MACHINE}-unknown-linux-gnu"
PATH = "enarx/runtime/preview1/some.wat"


@pytest.fixture(scope="module")
def engine():
    path = f"wasmtime/linux-{MACHINE}/_libwasmtime.so"
    library = Path(wasmtime.__file__).parents[1] / path
    return Package(name="wasmtime", files={path: library.read_bytes()})


@pytest.fixture(scope="module")
def made(engine):
    return compile_ahead({PATH: b'(module (func (export "f")))'}, engine, package_folder(), TARGET)


def test_what_is_compiled_ahead_is_what_every_module_runs_between():
    assert {Path(path).name for path in overlay_paths()} == {Path(path).name for path in AHEAD}
    assert all((Path(package_folder()).parent / path).is_file() for path in AHEAD)


@pytest.mark.parametrize(("suffix", "fuel"), [(".cwasm", False), ("-fuel.cwasm", True)])
def test_the_engine_maps_it(made, tmp_path, suffix, fuel):
    path = tmp_path / "some.cwasm"
    path.write_bytes(made[PATH.removesuffix(".wat") + suffix])
    for counts in (fuel, not fuel):
        module = capi.buffer(8)
        error = capi.module_deserialize_file(make_engine(fuel=counts), str(path).encode(), capi.address(module))
        assert (error is None) is (counts is fuel)


def test_is_the_same_every_time(made, engine):
    assert compile_ahead({PATH: b'(module (func (export "f")))'}, engine, package_folder(), TARGET) == made


def test_says_why_it_cannot_be_done(engine):
    with pytest.raises(PlatformError, match="cannot build an image: the engine: "):
        compile_ahead({PATH: b"(module"}, engine, package_folder(), TARGET)
