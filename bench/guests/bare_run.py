#!/usr/bin/python3.11 -IS
# SPDX-License-Identifier: Apache-2.0
"""The first program of a bare machine: it runs a module by the image's own engine, whose standard output is the console, and ends."""

import sys

sys.path.append("/usr/lib/enarx")
import wasmtime

engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, "/main.wasm")
linker = wasmtime.Linker(engine)
linker.define_wasi()
wasi = wasmtime.WasiConfig()
wasi.inherit_stdout()
store = wasmtime.Store(engine)
store.set_wasi(wasi)
linker.instantiate(store, module).exports(store)["_start"](store)
