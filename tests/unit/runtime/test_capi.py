# SPDX-License-Identifier: Apache-2.0
"""The binding is what the wasmtime package's own bindings say, so that an upgrade fails here and not in a workload."""

from __future__ import annotations

import ast
import ctypes
from importlib import metadata
from pathlib import Path

import pytest
from wasmtime import _bindings as package

from enarx.runtime import capi, component
from enarx.runtime.component import values

RUNTIME = Path(capi.__file__).parent
REGISTER_ARGUMENTS = 6  # integer and pointer arguments passed in registers, on x86-64; AArch64 has eight


def bound_functions():
    """Yield name, result and arguments of every `bind` call below the runtime, as written."""
    short = {name: kind for module in (capi, values) for name, kind in vars(module).items() if isinstance(kind, type)}
    for path in sorted(RUNTIME.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in {"bind", "capi.bind"}:
                continue
            name, *types = node.args
            if not isinstance(name, ast.Constant):
                continue  # a name put together where it is used, which that module's own test has to compare
            read = [
                None if ast.unparse(kind) == "None" else short.get(ast.unparse(kind).removeprefix("capi."), kind)
                for kind in types
            ]
            yield pytest.param(ast.literal_eval(name), read[0], read[1:], id=ast.literal_eval(name))


def shape(kind):
    """Return what the calling convention knows of a type: its class and its width in bytes."""
    if kind is None:
        return None
    code = getattr(kind, "_type_", None)
    if not isinstance(code, str) or code in {"P", "z", "O"}:
        assert not issubclass(kind, (ctypes.Structure, ctypes.Union)), "a structure by value"
        return "pointer", 8
    return ("float" if code in {"f", "d"} else "integer"), ctypes.sizeof(kind)


@pytest.mark.parametrize(("name", "result", "arguments"), list(bound_functions()))
def test_every_bound_function_has_the_prototype_of_the_package(name, result, arguments):
    theirs = getattr(package, f"_{name}")
    assert shape(result) == shape(theirs.restype)
    assert [shape(kind) for kind in arguments] == [shape(kind) for kind in theirs.argtypes]


def test_finds_the_functions_that_are_bound():
    names = [parameter.values[0] for parameter in bound_functions()]
    assert "wasm_engine_new_with_config" in names
    assert len(names) > 40


def test_the_version_is_the_installed_one():
    assert metadata.version("wasmtime") == capi.ENGINE_VERSION


@pytest.mark.parametrize(
    ("size", "theirs"),
    [
        (capi.SIZEOF_EXTERN, package.wasmtime_extern),
        (capi.SIZEOF_INSTANCE, package.wasmtime_instance),
        (capi.SIZEOF_FUNC, package.wasmtime_func),
        (capi.SIZEOF_MEMORY, package.wasmtime_memory),
        (capi.SIZEOF_BYTE_VEC, package.wasm_byte_vec_t),
        (capi.SIZEOF_BYTE_VEC, package.wasm_valtype_vec_t),
        (capi.SIZEOF_VAL, package.wasmtime_val),
    ],
)
def test_every_structure_has_the_size_of_the_package(size, theirs):
    assert ctypes.sizeof(theirs) == size


def test_the_layout_of_an_extern_is_the_package_s():
    assert package.wasmtime_extern.kind.offset == 0
    assert package.wasmtime_extern.kind.size == 1
    assert package.wasmtime_extern.of.offset == capi.OFFSET_EXTERN_OF
    assert package.wasm_byte_vec_t.size.offset == package.wasm_valtype_vec_t.size.offset == 0
    assert package.wasm_byte_vec_t.data.offset == 8


def test_the_kinds_of_an_extern_are_the_package_s():
    from wasmtime import _ffi

    assert _ffi.WASMTIME_EXTERN_FUNC.value == capi.EXTERN_FUNC
    assert _ffi.WASMTIME_EXTERN_TABLE.value == capi.EXTERN_TABLE
    assert _ffi.WASMTIME_EXTERN_MEMORY.value == capi.EXTERN_MEMORY


def test_out_of_fuel_is_the_package_s():
    assert package.wasmtime_trap_code_enum.WASMTIME_TRAP_CODE_OUT_OF_FUEL.value == capi.OUT_OF_FUEL


def test_a_callback_may_leave_its_arguments_out():
    """What is passed in registers can be ignored; what is on the stack would not be."""
    theirs = package.wasmtime_func_unchecked_callback_t
    # The package takes the pointer of a trap for a number of the same width.
    assert ctypes.sizeof(theirs._restype_) == ctypes.sizeof(capi.HostCallback._restype_) == 8
    assert shape(theirs._restype_)[0] != "float"
    assert capi.HostCallback._argtypes_ == ()
    assert len(theirs._argtypes_) <= REGISTER_ARGUMENTS
    assert {shape(kind)[0] for kind in theirs._argtypes_} <= {"pointer", "integer"}


def test_refuses_a_symbol_that_the_library_does_not_have():
    with pytest.raises(AttributeError, match="wasmtime_no_such_thing"):
        capi.bind("wasmtime_no_such_thing", None)


def test_a_buffer_is_zeroed_aligned_and_long_enough():
    for size in (1, 7, 8, 9, 33):
        made = capi.buffer(size)
        assert capi.address(made) % 8 == 0
        assert bytes(made) == bytes(max(32, (size + 7) // 8 * 8))


def test_a_view_is_the_memory_itself():
    made = capi.buffer(16)
    seen = capi.view(capi.address(made) + 8, 8)
    seen[:] = b"12345678"
    assert made[1] == int.from_bytes(b"12345678", "little")
    assert capi.read(capi.address(made) + 8, 8) == b"12345678"


def test_an_empty_view_can_be_taken_of_any_address():
    assert bytes(capi.view(0, 0)) == b""
    assert capi.read(0, 0) == b""


def test_an_error_of_the_engine_becomes_its_text():
    from enarx.runtime.engine import make_engine

    made = capi.buffer(8)
    with pytest.raises(capi.EngineError, match="No such file"):
        capi.require(capi.module_deserialize_file(make_engine(fuel=False), b"/no/such/file", capi.address(made)))


def test_a_trap_keeps_its_text():
    assert capi.take_trap(capi.trap_new(b"ended by the host", 17)) == "ended by the host"


def test_the_component_binding_is_compared_too():
    bound = (Path(component.__file__).parent / "binding.py").read_text(encoding="utf-8").count("capi.bind(")
    assert bound > 20
