# SPDX-License-Identifier: Apache-2.0
"""Read a source file, say what it is, and compile it. Only a cache miss comes here, so it may be slow to import.

What the engine accepts is decided here and nowhere else: a core module, a component, or WebAssembly text of either.
Every refusal is a DecodeError in one line, with the engine's reason; a missing import is explained by
`enarx.runtime.imports`, at link time.
"""

from __future__ import annotations

import hashlib
import os

import wasmtime
from wasmtime import component

from enarx.errors import ConfigError, DecodeError
from enarx.runtime.cache import COMPONENT, MODULE

_MAGIC = b"\0asm"
_MODULE_VERSION = b"\x01\x00\x00\x00"
_COMPONENT_VERSION = b"\x0d\x00\x01\x00"
_READ_BYTES = 1 << 20


def read_source(fd: int, path: str, max_bytes: int) -> bytes:
    """Read a whole source file.

    Raises:
        ConfigError: it is a directory or cannot be read.
        DecodeError: it is larger than `max_bytes`.
    """
    size = os.fstat(fd).st_size
    if size > max_bytes:
        raise DecodeError(f"cannot load the module: {path}: found {size} bytes, want at most {max_bytes}")
    chunks = []
    total = 0
    try:
        while chunk := os.read(fd, _READ_BYTES):
            chunks.append(chunk)
            total += len(chunk)
            if total > max_bytes:
                raise DecodeError(f"cannot load the module: {path}: found more than {max_bytes} bytes")
    except OSError as error:
        raise ConfigError(f"cannot read the module: {path}: {error.strerror}", path=path) from error
    return b"".join(chunks)


def digest(source: bytes) -> str:
    """Return the SHA-256 of the source in lower-case hexadecimal."""
    return hashlib.sha256(source).hexdigest()


def make_engine(*, fuel: bool) -> wasmtime.Engine:
    """Make an engine of the same configuration as `enarx.runtime.engine` maps artefacts with."""
    from enarx.runtime.engine import configure

    config = wasmtime.Config()
    configure(_address(config.ptr()), fuel=fuel)
    return wasmtime.Engine(config)


def _address(pointer: object) -> int:
    import ctypes

    value = ctypes.cast(pointer, ctypes.c_void_p).value  # type: ignore[arg-type]
    return value or 0


def compile_source(source: bytes, path: str, *, fuel: bool) -> tuple[str, bytes]:
    """Compile a source.

    Returns:
        MODULE or COMPONENT, and the engine's serialised form.

    Raises:
        DecodeError: the bytes are neither, with the engine's reason.
    """
    if source[:4] != _MAGIC:
        source = _assemble(source, path)
    version = source[4:8]
    engine = make_engine(fuel=fuel)
    try:
        if version == _MODULE_VERSION:
            module = wasmtime.Module(engine, source)
            _require_linkable(module, path)
            return MODULE, bytes(module.serialize())
        if version == _COMPONENT_VERSION:
            return COMPONENT, bytes(component.Component(engine, source).serialize())
    except wasmtime.WasmtimeError as error:
        raise DecodeError(f"cannot load the module: {path}: {_reason(error)}") from error
    raise DecodeError(
        f"cannot load the module: {path}: found version {version.hex() or 'nothing'} after the magic, want a core"
        f" module ({_MODULE_VERSION.hex()}) or a component ({_COMPONENT_VERSION.hex()})"
    )


def _require_linkable(module: wasmtime.Module, path: str) -> None:
    """Refuse shared memories, and a module that would reach for the trampoline's table beside WASI's functions."""
    if any(isinstance(entry.type, wasmtime.MemoryType) and entry.type.is_shared for entry in module.exports):
        raise DecodeError(
            f"cannot load the module: {path}: found a shared memory, want none",
            hint="a Keep offers no threads; build without them",
        )
    for entry in module.imports:
        if entry.module == "wasi_snapshot_preview1" and not isinstance(entry.type, wasmtime.FuncType):
            raise DecodeError(
                f"cannot load the module: {path}: import wasi_snapshot_preview1::{entry.name}: found no function, want"
                " only functions of WASI preview 1"
            )


def _assemble(source: bytes, path: str) -> bytes:
    """Turn WebAssembly text into bytes, if it is that."""
    text = source.lstrip()
    if not text.startswith((b"(", b";;")) and not path.endswith(".wat"):
        found = "an empty file" if not source else f"bytes {source[:4].hex(' ')}"
        raise DecodeError(
            f"cannot load the module: {path}: found {found} at the start, want 00 61 73 6d (a WebAssembly binary)"
            " or WebAssembly text",
            hint=_explain(source),
        )
    try:
        return bytes(wasmtime.wat2wasm(source))
    except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
        raise DecodeError(f"cannot load the module: {path}: {_reason(error)}") from error


def _explain(source: bytes) -> str | None:
    if source.startswith(b"\x7fELF"):
        return "this is a native program; build it for wasm32-wasip1"
    if source.startswith((b"#!", b"#include", b"import ", b"package ", b"fn ")):
        return "this is source text; compile it to WebAssembly first"
    if source.startswith(b"PK"):
        return "this is an archive; unpack it and name its main.wasm"
    return None


def _reason(error: Exception) -> str:
    """Return the engine's reason in one line: its innermost cause, which says what and where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = next((n for n, line in enumerate(lines) if line.startswith("--> <anon>:")), 0)
    if place:
        # Text is answered with a picture of the line; its coordinates do.
        line, _, column = lines[place].removeprefix("--> <anon>:").partition(":")
        return f"line {line}, column {column}: {lines[place - 1]}"
    # Several causes are numbered, one is not.
    return lines[-1].lstrip("0123456789").lstrip(": ").rstrip(".") if lines else "malformed"
