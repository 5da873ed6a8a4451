# SPDX-License-Identifier: Apache-2.0
"""A module that cannot be linked is told which import it is and who would have offered it."""

from __future__ import annotations

import pytest
import wasmtime

from enarx.errors import DecodeError
from enarx.runtime.imports import explain_link_failure


def refusal(module, name, kind="(func)"):
    """Let the engine refuse an import, and explain its own text."""
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    text = f'(module (import "{module}" "{name}" {kind}))'
    with pytest.raises(wasmtime.WasmtimeError) as caught:
        linker.instantiate(wasmtime.Store(engine), wasmtime.Module(engine, text))
    return explain_link_failure(str(caught.value), "app.wasm")


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("wasi_unstable", "fd_write", "preview 0"),
        ("wasi_snapshot_preview1", "sock_open", "WasmEdge"),
        ("wasi_snapshot_preview1", "fd_dup", "extension"),
        ("wasi", "thread-spawn", "threads"),
        ("wasix_32v1", "futex_wait", "WASIX"),
        ("env", "emscripten_memcpy_js", "Emscripten"),
        ("a", "b", "Emscripten"),
        ("wbg", "__wbg_log_1", "wasm-bindgen"),
        ("./bindings.js", "log", "JavaScript"),
        ("gojs", "runtime.ticks", "GOOS=wasip1"),
        ("host", "now", "host of its own"),
        ("nobody", "knows", "WASI and nothing else"),
    ],
)
def test_names_the_import_and_what_offers_it(module, name, hint):
    error = refusal(module, name)
    assert isinstance(error, DecodeError)
    assert f"the import {module}::{name}," in str(error)
    assert hint in error.hint


def test_an_imported_memory_is_threads_or_a_flag():
    assert "threads" in refusal("env", "memory", "(memory 1)").hint


def test_another_type_is_told_apart_from_another_name():
    assert "found another type" in str(refusal("wasi_snapshot_preview1", "fd_write", "(func (param i64))"))


@pytest.mark.parametrize(
    "text", ["", "\n", "1: ", "error while executing\n  0: the last cause\n", "`", "unknown import: `"]
)
def test_any_other_text_is_one_line(text):
    message = str(explain_link_failure(text, "app.wasm"))
    assert message.startswith("cannot start the workload: app.wasm: ")
    assert "\n" not in message


def test_the_last_cause_is_the_reason():
    error = explain_link_failure("failed to start\n\nCaused by:\n    0: first\n    1: the last cause", "app.wasm")
    assert str(error).endswith(": the last cause")
