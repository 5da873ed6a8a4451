# SPDX-License-Identifier: Apache-2.0
"""Read a source file, say what it is, and compile it. Only a cache miss comes here, so it may be slow to import.

What the engine accepts is decided here and nowhere else: a core module, a component, or WebAssembly text of either.
Every refusal is a DecodeError in one line, with the engine's reason; a missing import is explained by
`enarx.runtime.imports`, at link time.

The engine is called as `capi` calls it: in an emulated machine the `wasmtime` package alone would take half a second to load.

Source: Wasmtime 50 C API headers `wasm.h`, `wasmtime/{component/component,module,wat}.h`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from enarx.errors import ConfigError, DecodeError
from enarx.runtime import capi
from enarx.runtime.cache import COMPONENT, MODULE
from enarx.runtime.capi import BOOL, U8, N, P, S, bind
from enarx.runtime.engine import configure

_MAGIC = b"\0asm"
_MODULE_VERSION = b"\x01\x00\x00\x00"
_COMPONENT_VERSION = b"\x0d\x00\x01\x00"
_READ_BYTES = 1 << 20
_WASI = "wasi_snapshot_preview1"
_KIND_FUNC, _KIND_MEMORY = 0, 3

_wat2wasm = bind("wasmtime_wat2wasm", P, S, N, P)
_config_target_set = bind("wasmtime_config_target_set", P, P, S)
_engine_delete = bind("wasm_engine_delete", None, P)
_module_new = bind("wasmtime_module_new", P, P, S, N, P)
_module_serialize = bind("wasmtime_module_serialize", P, P, P)
_module_delete = bind("wasmtime_module_delete", None, P)
_module_imports = bind("wasmtime_module_imports", None, P, P)
_module_exports = bind("wasmtime_module_exports", None, P, P)
_component_new = bind("wasmtime_component_new", P, P, S, N, P)
_component_serialize = bind("wasmtime_component_serialize", P, P, P)
_component_delete = bind("wasmtime_component_delete", None, P)
_importtype_module = bind("wasm_importtype_module", P, P)
_importtype_name = bind("wasm_importtype_name", P, P)
_importtype_type = bind("wasm_importtype_type", P, P)
_importtype_vec_delete = bind("wasm_importtype_vec_delete", None, P)
_exporttype_type = bind("wasm_exporttype_type", P, P)
_exporttype_vec_delete = bind("wasm_exporttype_vec_delete", None, P)
_externtype_kind = bind("wasm_externtype_kind", U8, P)
_externtype_as_memorytype = bind("wasm_externtype_as_memorytype", P, P)
_memorytype_is_shared = bind("wasmtime_memorytype_isshared", BOOL, P)


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


def compile_source(source: bytes, path: str, *, fuel: bool, target: str | None = None) -> tuple[str, bytes]:
    """Compile a source.

    Args:
        source: what `read_source` returned.
        path: where it is from, for messages.
        fuel: whether code counts fuel.
        target: triple of this machine's architecture: code for any processor of it; None is code for this processor.

    Returns:
        MODULE or COMPONENT, and the engine's serialised form.

    Raises:
        DecodeError: the bytes are neither, with the engine's reason.
    """
    if source[:4] != _MAGIC:
        source = _assemble(source, path)
    version = source[4:8]
    try:
        if version == _MODULE_VERSION:
            with _compiled(source, _module_new, _module_delete, fuel=fuel, target=target) as module:
                _require_linkable(module, path)
                return MODULE, _serialized(_module_serialize, module)
        if version == _COMPONENT_VERSION:
            with _compiled(source, _component_new, _component_delete, fuel=fuel, target=target) as component:
                return COMPONENT, _serialized(_component_serialize, component)
    except capi.EngineError as error:
        raise DecodeError(f"cannot load the module: {path}: {_reason(error)}") from error
    raise DecodeError(
        f"cannot load the module: {path}: found version {version.hex() or 'nothing'} after the magic, want a core"
        f" module ({_MODULE_VERSION.hex()}) or a component ({_COMPONENT_VERSION.hex()})"
    )


@contextmanager
def _compiled(
    source: bytes, new: Callable[..., Any], delete: Callable[..., Any], *, fuel: bool, target: str | None
) -> Iterator[int]:
    """Compile, for as long as the block runs, by an engine of its own: it is configured as that which maps artefacts."""
    config = capi.config_new()
    configure(config, fuel=fuel)
    if target is not None:
        capi.require(_config_target_set(config, target.encode()))
    engine = capi.engine_new_with_config(config)
    try:
        made = capi.buffer(8)
        capi.require(new(engine, source, len(source), capi.address(made)))
        try:
            yield made[0]
        finally:
            delete(made[0])
    finally:
        _engine_delete(engine)


def _serialized(serialize: Callable[..., Any], compiled: int) -> bytes:
    vec = capi.buffer(capi.SIZEOF_BYTE_VEC)
    capi.require(serialize(compiled, capi.address(vec)))
    return _take_bytes(vec)


def _take_bytes(vec: Any) -> bytes:
    """Return what is in a `wasm_byte_vec_t`, and free it."""
    data = capi.read(vec[1], vec[0])
    capi.byte_vec_delete(capi.address(vec))
    return data


def _require_linkable(module: int, path: str) -> None:
    """Refuse shared memories, and a module that would reach for the trampoline's table beside WASI's functions."""
    with _types(_module_exports, _exporttype_vec_delete, module) as exports:
        for entry in exports:
            kind = _exporttype_type(entry)
            if _externtype_kind(kind) == _KIND_MEMORY and _memorytype_is_shared(_externtype_as_memorytype(kind)):
                raise DecodeError(
                    f"cannot load the module: {path}: found a shared memory, want none",
                    hint="a Keep offers no threads; build without them",
                )
    with _types(_module_imports, _importtype_vec_delete, module) as imports:
        for entry in imports:
            if _externtype_kind(_importtype_type(entry)) != _KIND_FUNC and _text(_importtype_module(entry)) == _WASI:
                raise DecodeError(
                    f"cannot load the module: {path}: import {_WASI}::{_text(_importtype_name(entry))}: found no"
                    " function, want only functions of WASI preview 1"
                )


@contextmanager
def _types(get: Callable[..., Any], delete: Callable[..., Any], module: int) -> Iterator[list[int]]:
    """Return pointers to what a module imports or exports, which are there while the block runs."""
    vec = capi.buffer(capi.SIZEOF_BYTE_VEC)
    get(module, capi.address(vec))
    try:
        yield [capi.vec_size(vec[1] + 8 * index) for index in range(vec[0])]
    finally:
        delete(capi.address(vec))


def _text(vec: int) -> str:
    """Return the text of a `wasm_byte_vec_t` that stays where it is."""
    return capi.read(capi.vec_size(vec + 8), capi.vec_size(vec)).decode("utf-8", "replace")


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
    vec = capi.buffer(capi.SIZEOF_BYTE_VEC)
    try:
        capi.require(_wat2wasm(source, len(source), capi.address(vec)))
    except capi.EngineError as error:
        raise DecodeError(f"cannot load the module: {path}: {_reason(error)}") from error
    return _take_bytes(vec)


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
