# SPDX-License-Identifier: Apache-2.0
"""Compile before it is needed what every core module runs between: the trampoline and the router of `enarx.runtime.preview1`.

In an emulated machine compiling them takes a tenth of the time until a workload's first output. It is done by the engine's library out of
the lock, in a process of its own, for any processor of the architecture: nothing of the machine that builds decides a byte. The library
compiles for its own architecture alone, so an image has this only where its architecture is one whose images are built on it.
"""

from __future__ import annotations

import os
import posixpath
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from enarx.errors import PlatformError
from enarx.image.packages import Package

__all__ = ["AHEAD", "compile_ahead"]

AHEAD = ("enarx/runtime/preview1/router.wat", "enarx/runtime/preview1/trampoline.wat")
_TIMEOUT_S = 120.0

# Runs in this machine's interpreter, which only calls the library.
_PROGRAM = """\
import sys
folder, package, target = sys.argv[1:]
sys.path[:0] = [folder, package]
from enarx.runtime.compiling import compile_source
for path in sys.stdin.read().split():
    for fuel in False, True:
        with open(f"{folder}/{path}", "rb") as file:
            code = compile_source(file.read(), path, fuel=fuel, target=target)[1]
        with open(f"{folder}/{path.removesuffix('.wat')}{'-fuel' * fuel}.cwasm", "xb") as file:
            file.write(code)
"""


def compile_ahead(sources: Mapping[str, bytes], engine: Package, package_folder: str, target: str) -> dict[str, bytes]:
    """Compile sources, without and with counting fuel.

    Args:
        sources: WebAssembly text by its path beside the package.
        engine: files of the wheel `wasmtime`, its library among them.
        package_folder: the folder of the package `enarx`.
        target: the triple of the architecture, which is this machine's.

    Returns:
        Compiled code, by its path beside the package.

    Raises:
        PlatformError: it cannot be done here.
    """
    with tempfile.TemporaryDirectory(prefix="enarx-overlays-") as folder:
        for path, data in (*sources.items(), *engine.files.items()):
            place = os.path.join(folder, path)
            os.makedirs(posixpath.dirname(place), exist_ok=True)
            with open(place, "wb") as file:
                file.write(data)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, folder, os.path.dirname(package_folder), target],
                input="\n".join(sources).encode(),
                capture_output=True,
                env={},
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PlatformError(f"cannot build an image: the engine: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise PlatformError(f"cannot build an image: the engine: {said[-1] if said else 'it failed'}")
        made = {}
        for path in sources:
            for suffix in (".cwasm", "-fuel.cwasm"):
                name = path.removesuffix(".wat") + suffix
                with open(os.path.join(folder, name), "rb") as file:
                    made[name] = file.read()
        return made
