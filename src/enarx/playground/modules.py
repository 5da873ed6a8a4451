# SPDX-License-Identifier: Apache-2.0
"""What can be run here: examples of this installation and of the operator, and what visitors send.

A visitor's Enarx.toml may say everything that a workload by itself needs, and nothing that reaches beyond it: a directory would be one of
this machine, a socket or a Steward a connection to others. What he sends is in memory, and in no file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from enarx.deploy import load_package
from enarx.errors import ConfigError, EnarxError, UsageError
from enarx.wire import ConnectFile, ListenFile, decode_enarx_toml
from enarx.wire.enarx_toml import MAX_BYTES as MAX_TOML_BYTES
from enarx.wire.overrides import Overrides
from enarx.wire.records import DEFAULT, Tls
from enarx.wire.release import MAIN, TOML

if TYPE_CHECKING:
    from enarx.deploy import Package
    from enarx.wire import EnarxToml

__all__ = ["Example", "JobLimits", "find_examples", "pack_example", "pack_upload"]

MAX_EXAMPLES = 100
_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "examples")
_WAT = "main.wat"
_ABOUT = "about.txt"
_MAX_ABOUT_BYTES = 4096
_MAX_SOURCE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What one job may use.

    Args:
        memory_bytes: of the workload's.
        timeout_s: from its start to its end.
        output_bytes: of stdout and stderr together.
        module_bytes: of a module that is sent.
        stdin_bytes: of what the workload reads.
    """

    memory_bytes: int = 256 << 20
    timeout_s: float = 10.0
    output_bytes: int = 64 << 10
    module_bytes: int = 8 << 20
    stdin_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example.

    Args:
        name: of its folder.
        about: one line.
        module: its path.
        config_path: of its Enarx.toml, or None.
        config: that file's text, or empty.
        toml: what it says, or None.
        source: of the module where it is text, or empty.
    """

    name: str
    about: str
    module: str
    config_path: str | None
    config: str
    toml: EnarxToml | None
    source: str


def find_examples(folder: str | None) -> tuple[Example, ...]:
    """Return the examples: those of this installation, then those of the operator, each a package in a folder.

    Args:
        folder: with the operator's, or None.

    Raises:
        UsageError: the folder cannot be read, has none, or too many; or one of them cannot be used.
        ConfigError: an Enarx.toml is wrong.
    """
    found = _below(_OWN)
    if folder is not None:
        added = _below(folder)
        if not added:
            raise UsageError(
                f"cannot use the examples of {folder}: found none, want folders with {MAIN}",
                hint="make languages builds some in build/languages/packages",
            )
        found += added
    if len(found) > MAX_EXAMPLES:
        raise UsageError(f"cannot use the examples: found {len(found)}, want at most {MAX_EXAMPLES}")
    return tuple({example.name: example for example in found}.values())


def _below(folder: str) -> list[Example]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"cannot use the examples of {folder}: {error.strerror}") from error
    return [example for name in names if (example := _example(folder, name)) is not None]


def _example(folder: str, name: str) -> Example | None:
    here = os.path.join(folder, name)
    text, binary = (os.path.join(here, each) for each in (_WAT, MAIN))
    module = next((path for path in (text, binary) if os.path.isfile(path)), None)
    if module is None:
        return None
    config_path = os.path.join(here, TOML)
    config = _text(config_path, MAX_TOML_BYTES)
    toml = decode_enarx_toml(config.encode(), path=config_path) if config else None
    if toml is not None:
        _require_alone(toml, config_path, own=True)
    return Example(
        name=name,
        about=" ".join(_text(os.path.join(here, _ABOUT), _MAX_ABOUT_BYTES).split()),
        module=module,
        config_path=config_path if config else None,
        config=config,
        toml=toml,
        source=_text(module, _MAX_SOURCE_BYTES) if module == text else "",
    )


def _text(path: str, max_bytes: int) -> str:
    """Return a file's text; empty where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"cannot read the example's {path}: {error.strerror}") from error
    try:
        if len(data) <= max_bytes:
            return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read the example's {path}: found other bytes, want UTF-8") from error
    raise UsageError(f"cannot read the example's {path}: found more than {max_bytes} bytes, want at most that")


def pack_example(example: Example, limits: JobLimits) -> Package:
    """Return an example as it travels.

    Raises:
        UsageError: it cannot be read, or not be deployed.
        ConfigError: its Enarx.toml is wrong.
    """
    package = load_package(example.module, config_path=example.config_path, overrides=_within(limits, example.toml))
    return replace(package, path=example.name)


def pack_upload(module: bytes, config: str, limits: JobLimits) -> Package:
    """Return what a visitor sent as it travels.

    Args:
        module: WebAssembly, binary or text.
        config: Enarx.toml; empty is none.
        limits: that hold for him.

    Raises:
        UsageError: it is too large, or wants more than itself.
        ConfigError: its Enarx.toml is wrong.
    """
    if not module or len(module) > limits.module_bytes:
        raise UsageError(f"cannot run the module: found {len(module)} bytes, want 1 to {limits.module_bytes}")
    toml = decode_enarx_toml(config.encode(), path=TOML) if config.strip() else None
    if toml is not None:
        _require_alone(toml, TOML)
    with _MemoryFile(module) as main, _MemoryFile(config.encode()) as text:
        try:
            package = load_package(
                main.path, config_path=None if toml is None else text.path, overrides=_within(limits, toml)
            )
        except EnarxError as error:
            words = str(error).replace(main.path, MAIN).replace(text.path, TOML)
            raise type(error)(words, hint=error.hint) from error
    return replace(package, path=MAIN)


def _require_alone(toml: EnarxToml, path: str, *, own: bool = False) -> None:
    """Return only if a workload needs nobody else; a directory may be the operator's own."""
    sockets = [file for file in toml.files if isinstance(file, ListenFile | ConnectFile)]
    for what, there in (
        ("a socket", sockets),
        ("a directory", toml.dirs and not own),
        ("a Steward", toml.steward),
        ("[tls]", toml.tls != Tls()),
        ("allow_connect", toml.allow_connect),
    ):
        if there:
            raise ConfigError(
                f"{path}: found {what}, want a workload that needs nobody else: this page runs no services",
                path=path,
                hint="enarx deploy does",
            )


def _within(limits: JobLimits, toml: EnarxToml | None) -> Overrides:
    """Return the limits that hold: those of the file where they are narrower."""
    asked = (toml or DEFAULT).limits
    holds = {
        "memory-bytes": _least(limits.memory_bytes, asked.memory_bytes),
        "timeout-ms": _least(limits.timeout_s, asked.timeout_s) * 1000,
        "output-bytes": _least(limits.output_bytes, asked.output_bytes),
    }
    return Overrides(limits=holds)


def _least(ours: float, asked: float | None) -> float:
    return ours if asked is None else min(ours, asked)


class _MemoryFile:
    """A file that is in memory alone and gone with the block.

    Args:
        data: what it holds.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> Self:
        self._fd = os.memfd_create("enarx-playground", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._fd}"
        with open(self._fd, "wb", closefd=False) as file:
            file.write(self._data)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
