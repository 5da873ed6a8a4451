# SPDX-License-Identifier: Apache-2.0
"""The part of Wasmtime's C API that starts and serves a workload, bound once for the whole runtime.

Rules of this file:

- It is on the path of every start, so it is built on `_ctypes`, the extension that `ctypes` wraps: the wrapper alone
  costs as much as loading a compiled module. What is used of it has been the same from CPython 3.11 to 3.14, and
  `tests/unit/runtime/test_capi.py` compares every size and prototype here with the `wasmtime` package's own bindings,
  so that an upgrade of either fails a test and not a workload.
- `posix` is what `os` is made of, and `os` costs a tenth of a start.
- Every pointer is a plain `int` (0 is never passed where the API wants an object; None is NULL).
- Nothing here knows WASI, files or limits. Errors of the engine become `EngineError`, with the engine's text.

Source: Wasmtime 50 C API headers `wasmtime.h`, `wasi.h`; Python's `ctypes` for the prototypes.
"""

from __future__ import annotations

import _frozen_importlib
import _imp
import posix
import sys
from _frozen_importlib_external import ExtensionFileLoader

from enarx.errors import PlatformError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _load_ctypes() -> None:
    """Load the extension from where Python keeps its own, if it is there: looking for it takes as long as loading it."""
    for entry in sys.path:
        if entry.endswith("/lib-dynload"):
            path = f"{entry}/_ctypes{_imp.extension_suffixes()[0]}"
            try:
                posix.stat(path)
            except OSError:
                continue
            spec = _frozen_importlib.ModuleSpec("_ctypes", ExtensionFileLoader("_ctypes", path), origin=path)
            spec.has_location = True
            _frozen_importlib._load(spec)  # type: ignore[attr-defined]  # what `import` ends in
            return


if "_ctypes" not in sys.modules:
    _load_ctypes()
import _ctypes  # noqa: E402

ENGINE_VERSION = "50.0.1"
"""The release of the `wasmtime` package whose library this binding describes."""


class c_void_p(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: N801  # C's own name
    """A pointer; as a result it is an `int`, or None for NULL. A function of C takes `bytes` and callbacks for one, too."""

    _type_ = "P"


class c_int64(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: N801
    """`int64_t`, and `size_t` too: no size has the high bit, and each class here costs a start 10 to 20 us."""

    _type_ = "l"


class c_uint8(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: N801
    """`uint8_t`, and C99 `bool`."""

    _type_ = "B"


# Sizes in bytes of the structures that cross the boundary by value; asserted against the package by a test.
SIZEOF_EXTERN = 32
SIZEOF_INSTANCE = 16
SIZEOF_FUNC = 16
SIZEOF_MEMORY = 24
SIZEOF_BYTE_VEC = 16
SIZEOF_VAL = 32
OFFSET_EXTERN_OF = 8
EXTERN_FUNC = 0
EXTERN_TABLE = 2
EXTERN_MEMORY = 3


# Each length is a class of its own, so there is one for whatever is small.
_SmallBuffer = c_int64 * 4


def buffer(size: int) -> Any:
    """Make a zeroed buffer of at least `size` bytes, 8-byte aligned, that can be passed as a pointer."""
    return (_SmallBuffer if size <= 32 else c_int64 * ((size + 7) // 8))()


def address(buf: Any) -> int:
    """Return the address of a buffer made by `buffer`; the caller keeps the buffer alive."""
    return _ctypes.addressof(buf)


# A view of each length would be a class of its own, too, and a slice of this one is not.
MEMORY = memoryview((c_uint8 * (1 << 62)).from_address(0)).cast("B")
"""This process's memory."""


def view(start: int, size: int) -> memoryview:
    """Return a writable byte view of `size` bytes of this address space from `start`."""
    return MEMORY[start : start + size]


def read(start: int, size: int) -> bytes:
    """Copy `size` bytes from an address."""
    return bytes(MEMORY[start : start + size])


def _library_path() -> str:
    machine = posix.uname().machine
    # Beside our own package first, where an installer puts it: each place that has none costs a start 5 us.
    for entry in (__file__.removesuffix("/enarx/runtime/capi.py"), *sys.path):
        path = f"{entry}/wasmtime/linux-{machine}/_libwasmtime.so"
        try:
            posix.stat(path)
        except OSError:
            continue
        return path
    raise PlatformError(
        f"cannot start the engine: the wasmtime package: found no library for linux-{machine}, want one of x86_64, aarch64",
        hint="install enarx on 64-bit Linux, with its locked dependencies",
    )


_handle = _ctypes.dlopen(_library_path(), 0)


def callback_type(restype: type[Any] | None, *argtypes: type[Any]) -> type[Any]:
    """Return the type of the Python functions that C calls.

    Called with one, it gives a callback, which must be kept alive for as long as C may call it.
    """
    return type(
        "callback",
        (_ctypes.CFuncPtr,),
        {"_flags_": _ctypes.FUNCFLAG_CDECL, "_restype_": restype, "_argtypes_": argtypes},
    )


# What a callback of `linker_define_func_unchecked` looks like with the engine's four arguments left out: the calling
# conventions of x86-64 and AArch64 let a callee ignore them, and converting them would double the cost of a call.
HostCallback = callback_type(c_void_p)
# A function of the library has its prototype set on the object: a class for each prototype costs 0.2 ms of a start.
_Function = HostCallback


class _QuickFunction(_ctypes.CFuncPtr):
    """A function that is called without letting go of Python's lock."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI


def bind(name: str, restype: type[Any] | None, *argtypes: type[Any], quick: bool = False) -> Callable[..., Any]:
    """Bind one function of the engine's C API.

    Args:
        name: the symbol.
        restype: its result.
        argtypes: its arguments.
        quick: whether it returns at once and runs no code of a workload, so that letting other threads of Python go on
            meanwhile would cost more than the call.

    Raises:
        AttributeError: the library has no such symbol; a bug here or a foreign library.
    """
    try:
        function = (_QuickFunction if quick else _Function)(_ctypes.dlsym(_handle, name))
    except OSError as error:
        raise AttributeError(name) from error
    function.restype = restype
    function.argtypes = argtypes
    return function


P, N, I64, U8, BOOL, S = c_void_p, c_int64, c_int64, c_uint8, c_uint8, c_void_p

config_new = bind("wasm_config_new", P)
config_consume_fuel_set = bind("wasmtime_config_consume_fuel_set", None, P, BOOL)
config_concurrency_support_set = bind("wasmtime_config_concurrency_support_set", None, P, BOOL)
config_native_unwind_info_set = bind("wasmtime_config_native_unwind_info_set", None, P, BOOL)
config_wasm_exceptions_set = bind("wasmtime_config_wasm_exceptions_set", None, P, BOOL)
engine_new_with_config = bind("wasm_engine_new_with_config", P, P)
store_new = bind("wasmtime_store_new", P, P, P, P, quick=True)
store_delete = bind("wasmtime_store_delete", None, P, quick=True)
store_context = bind("wasmtime_store_context", P, P, quick=True)
store_limiter = bind("wasmtime_store_limiter", None, P, I64, I64, I64, I64, I64, quick=True)
context_set_fuel = bind("wasmtime_context_set_fuel", P, P, c_int64)
context_set_wasi = bind("wasmtime_context_set_wasi", P, P, P)
module_deserialize_file = bind("wasmtime_module_deserialize_file", P, P, S, P)
linker_new = bind("wasmtime_linker_new", P, P)
linker_define_func_unchecked = bind("wasmtime_linker_define_func_unchecked", P, P, S, N, S, N, P, P, P, P)
linker_define = bind("wasmtime_linker_define", P, P, P, S, N, S, N, P)
linker_define_instance = bind("wasmtime_linker_define_instance", P, P, P, S, N, P)
linker_define_wasi = bind("wasmtime_linker_define_wasi", P, P)
linker_instantiate_pre = bind("wasmtime_linker_instantiate_pre", P, P, P, P)
instance_pre_instantiate = bind("wasmtime_instance_pre_instantiate", P, P, P, P, P)
instance_export_get = bind("wasmtime_instance_export_get", BOOL, P, P, S, N, P)
func_type = bind("wasmtime_func_type", P, P, P)
functype_params = bind("wasm_functype_params", P, P)
functype_results = bind("wasm_functype_results", P, P)
functype_new = bind("wasm_functype_new", P, P, P)
functype_delete = bind("wasm_functype_delete", None, P)
func_call = bind("wasmtime_func_call", P, P, P, P, N, P, N, P)
memory_data = bind("wasmtime_memory_data", P, P, P)
memory_data_size = bind("wasmtime_memory_data_size", N, P, P)
trap_new = bind("wasmtime_trap_new", P, S, N)
trap_message = bind("wasm_trap_message", None, P, P)
trap_code = bind("wasmtime_trap_code", BOOL, P, P)
trap_delete = bind("wasm_trap_delete", None, P)
error_message = bind("wasmtime_error_message", None, P, P)
error_exit_status = bind("wasmtime_error_exit_status", BOOL, P, P)
error_delete = bind("wasmtime_error_delete", None, P)
byte_vec_delete = bind("wasm_byte_vec_delete", None, P)
wasi_config_new = bind("wasi_config_new", P)
wasi_config_set_argv = bind("wasi_config_set_argv", BOOL, P, N, P)
wasi_config_set_env = bind("wasi_config_set_env", BOOL, P, N, P, P)
wasi_config_preopen_dir = bind("wasi_config_preopen_dir", BOOL, P, S, S, BOOL)

OUT_OF_FUEL = 11
"""`wasmtime_trap_code_enum` WASMTIME_TRAP_CODE_OUT_OF_FUEL."""


class EngineError(Exception):
    """The engine refused something; the text is the engine's own."""


class UnmappableError(EngineError):
    """The engine refuses an artefact: it is damaged, or made by another engine or for another processor."""


def _take_text(get: Callable[..., Any], delete: Callable[..., Any], pointer: int) -> str:
    vec = buffer(SIZEOF_BYTE_VEC)
    get(pointer, address(vec))
    size, data = vec[0], vec[1]
    text = read(data, size).rstrip(b"\0").decode("utf-8", "replace")
    byte_vec_delete(address(vec))
    delete(pointer)
    return text


def take_error(pointer: int) -> str:
    """Return the text of a `wasmtime_error_t` and free it."""
    return _take_text(error_message, error_delete, pointer)


def take_trap(pointer: int) -> str:
    """Return the text of a `wasm_trap_t`, its backtrace included, and free it."""
    return _take_text(trap_message, trap_delete, pointer)


def require(error: int | None) -> None:
    """Raise what a C function returned, if it returned an error.

    Raises:
        EngineError: with the engine's text.
    """
    if error:
        raise EngineError(take_error(error))


def vec_size(pointer: int) -> int:
    """Return the length of a `wasm_*_vec_t`."""
    return int(c_int64.from_address(pointer).value)


def function_pointer(callback: Any) -> int:
    """Return the address C calls for a callback."""
    return int(c_void_p.from_address(_ctypes.addressof(callback)).value or 0)
