# SPDX-License-Identifier: Apache-2.0
"""Explain why a module cannot be linked: which import is missing and what would have offered it.

Only a failure comes here.
"""

from __future__ import annotations

import re

from enarx.errors import DecodeError

# Module names of imports, and what offers them: the first that matches the beginning of `module::name`.
_OFFERED_BY = (
    ("wasi_unstable::", "WASI preview 0; build for wasm32-wasip1"),
    ("wasi_snapshot_preview1::sock_", "WasmEdge's socket extension; use preopened sockets, or a WASI 0.2 component"),
    ("wasi_snapshot_preview1::", "an extension of WASI preview 1 that no standard has"),
    ("wasi::thread-spawn", "wasi-threads, an abandoned proposal; build without threads"),
    ("wasi_ephemeral_", "a proposal that became another interface; build for WASI 0.2"),
    ("wasix_", "WASIX; build for plain WASI preview 1 or 0.2"),
    ("env::memory", "a host that shares memory with the module; build without threads and without --import-memory"),
    ("env::", "Emscripten or a host of its own; build for wasm32-wasip1, not for Emscripten"),
    ("a::", "Emscripten's minified glue; build for wasm32-wasip1, not for Emscripten"),
    ("wbg::", "wasm-bindgen's JavaScript glue; build for wasm32-wasip1, not for the browser"),
    ("__wbindgen", "wasm-bindgen's JavaScript glue; build for wasm32-wasip1, not for the browser"),
    ("./", "a JavaScript module; build for wasm32-wasip1, not for the browser"),
    ("gojs::", "Go's browser glue; build with GOOS=wasip1, not GOOS=js"),
    ("go::", "Go's browser glue; build with GOOS=wasip1, not GOOS=js"),
    ("rb-js-abi-host::", "ruby.wasm's JavaScript host; use a build for WASI alone"),
    ("canonical_abi::", "a JavaScript host; use a build for WASI alone"),
    ("javy_quickjs_provider", "Javy's plugin; build with the engine inside the module"),
    ("host::", "a host of its own"),
)


def explain_link_failure(text: str, path: str) -> DecodeError:
    """Turn the engine's text about a failed instantiation into one line.

    Args:
        text: the engine's.
        path: the module.
    """
    found = re.search(r"unknown import: `([^`]*)`", text) or re.search(r"incompatible import type for `([^`]*)`", text)
    if found is None:
        causes = [line.strip() for line in text.splitlines() if line.strip()]
        reason = causes[-1].lstrip("0123456789").lstrip(": ") if causes else "refused by the engine"
        return DecodeError(f"cannot start the workload: {path}: {reason}")
    name = found[1]
    if name == "app::memory":
        return DecodeError(
            f"cannot start the workload: {path}: export memory: {text.splitlines()[-1].strip()}",
            hint="WASI preview 1 is for 32-bit memories",
        )
    if "incompatible import type" in text:
        return DecodeError(
            f"cannot start the workload: {path}: import {name}: found another type, want the one WASI gives it"
        )
    offered = next((by for prefix, by in _OFFERED_BY if name.startswith(prefix)), None)
    return DecodeError(
        f"cannot start the workload: {path}: found the import {name}, want only WASI preview 1",
        hint=f"it is offered by {offered}" if offered else "a Keep offers WASI and nothing else",
    )
