# SPDX-License-Identifier: Apache-2.0
"""The lock of an image: each input with its SHA-256, so that whoever builds has the same.

A lock is TOML. `enarx image build --refresh` writes one; the locks of a release are data of this package. Where a file comes from
is not in it: a Debian package is asked of every mirror that apt has, by its path there, and a wheel of the index that pip has.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from enarx.errors import ConfigError
from enarx.image.contents import ARCHITECTURES

__all__ = ["MAX_INPUT_BYTES", "Input", "Lock", "decode_lock", "encode_lock", "own_lock_path", "read_lock", "write_lock"]

MAX_LOCK_BYTES = 1 << 20
MAX_INPUTS = 200
MAX_INPUT_BYTES = 200_000_000
_FORMAT = 1

Kind = Literal["deb", "wheel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file that an image is made of.

    Args:
        kind: what it is.
        name: the package's.
        version: the package's.
        suite: where a new lock looks for it, of a Debian package; else empty.
        filename: of a Debian package its path on a mirror, of a wheel its name.
        size: in bytes.
        sha256: 64 hex digits.
    """

    kind: Kind
    name: str
    version: str
    suite: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """All inputs of one architecture.

    Args:
        path: the file, for messages.
        arch: the architecture.
        inputs: sorted by kind and name, each once.
    """

    path: str
    arch: str
    inputs: tuple[Input, ...]

    def deb(self, name: str) -> Input:
        """Return a Debian package.

        Raises:
            ConfigError: the lock has none.
        """
        return self._find("deb", name)

    def wheel(self, name: str) -> Input:
        """Return a wheel.

        Raises:
            ConfigError: the lock has none.
        """
        return self._find("wheel", name)

    def kernel(self) -> Input:
        """Return the kernel's package, which has its version in its name.

        Raises:
            ConfigError: the lock has none.
        """
        for entry in self.inputs:
            if entry.kind == "deb" and entry.name.startswith("linux-image-"):
                return entry
        raise self._lacks("a package linux-image-*")

    def _find(self, kind: Kind, name: str) -> Input:
        for entry in self.inputs:
            if entry.kind == kind and entry.name == name:
                return entry
        raise self._lacks(f"the {kind} {name}")

    def _lacks(self, what: str) -> ConfigError:
        return ConfigError(
            f"cannot build an image: {self.path}: found no {what.removeprefix('the ').removeprefix('a ')}, want it pinned",
            hint="`enarx image build --refresh` writes a new lock",
            path=self.path,
        )


def own_lock_path(arch: str) -> str:
    """Return where the lock is that came with enarx."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "locks", f"{arch}.toml")


def read_lock(arch: str, path: str | None = None) -> Lock:
    """Read a lock.

    Args:
        arch: the architecture that it has to be of.
        path: the file, or None for the lock that came with enarx.

    Raises:
        ConfigError: it cannot be read, or is no lock of that architecture.
    """
    path = own_lock_path(arch) if path is None else path
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the image's lock: {path}: {error.strerror}", path=path) from error
    lock = decode_lock(data, path)
    if lock.arch != arch:
        raise _refusal(path, f"a lock of {lock.arch}", f"one of {arch}")
    return lock


def write_lock(lock: Lock) -> None:
    """Write a lock to its path, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(lock.path)), exist_ok=True)
        temporary = f"{lock.path}.{os.getpid()}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(encode_lock(lock))
        os.rename(temporary, lock.path)
    except OSError as error:
        raise ConfigError(f"cannot write the image's lock: {lock.path}: {error.strerror}", path=lock.path) from error


def encode_lock(lock: Lock) -> str:
    """Return a lock's text."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# What a Keep's image is made of. Written by `enarx image build --refresh`.",
        f"format = {_FORMAT}",
        f'arch = "{lock.arch}"',
    ]
    for entry in lock.inputs:
        lines += ["", "[[input]]"]
        # No value has a quote, a backslash or a control character: `decode_lock` refuses them.
        lines += [
            f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"'
            for key, value in _fields(entry).items()
        ]
    return "\n".join(lines) + "\n"


def decode_lock(data: bytes, path: str) -> Lock:
    """Decode a lock's text.

    Args:
        data: the file.
        path: its name, for messages.

    Raises:
        ConfigError: it is no lock.
    """
    if len(data) > MAX_LOCK_BYTES:
        raise _refusal(path, f"more than {MAX_LOCK_BYTES} bytes", "a lock")
    try:
        value = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"no TOML: {error}", "a lock") from error
    if value.get("format") != _FORMAT or value.keys() - {"format", "arch", "input"}:
        raise _refusal(path, f"format {value.get('format')!r} and keys {', '.join(sorted(value))}", f"format {_FORMAT}")
    arch, tables = value.get("arch"), value.get("input", [])
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise _refusal(path, f"arch {arch!r}", f"one of {', '.join(ARCHITECTURES)}")
    if not isinstance(tables, list) or len(tables) > MAX_INPUTS:
        raise _refusal(path, "another `input`", f"at most {MAX_INPUTS} tables")
    inputs = sorted((_decode_input(table, path) for table in tables), key=lambda entry: (entry.kind, entry.name))
    for one, other in pairwise(inputs):
        if (one.kind, one.name) == (other.kind, other.name):
            raise _refusal(path, f"the {one.kind} {one.name} twice", "it once")
    return Lock(path=path, arch=arch, inputs=tuple(inputs))


_TEXTS = {
    "kind": re.compile(r"deb|wheel"),
    "name": re.compile(r"[a-z0-9][a-z0-9.+_-]{0,99}"),
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~_-]{0,99}"),
    "suite": re.compile(r"[a-z0-9-]{0,50}"),
    # A path below a mirror, without a way out of it.
    "filename": re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9.+:~%_/-]{0,299}"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
}


def _fields(entry: Input) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Input.__slots__}


def _decode_input(table: Any, path: str) -> Input:
    if not isinstance(table, dict) or table.keys() != set(Input.__slots__):
        raise _refusal(path, f"an input {table!r:.200}", f"the keys {', '.join(Input.__slots__)}")
    for name, pattern in _TEXTS.items():
        value = table[name]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _refusal(path, f"{name} {value!r:.200}", f"text that matches {pattern.pattern}")
    size = table["size"]
    if type(size) is not int or not 0 < size <= MAX_INPUT_BYTES:
        raise _refusal(path, f"size {size!r:.40}", f"1 to {MAX_INPUT_BYTES}")
    return Input(**table)


def _refusal(path: str, found: str, want: str) -> ConfigError:
    return ConfigError(f"cannot read the image's lock: {path}: found {found}, want {want}", path=path)
