# SPDX-License-Identifier: Apache-2.0
"""Call the overlay's functions as told, line by line, and say what came of it; a process of its own, because it may die.

A line of stdin is one guest: what its memory holds, and calls of any function with any arguments. It has a listener, a
connection, a directory, standard streams and nothing; a thread feeds the sockets so that no call waits for ever. The
answer is a line too: the errno or the trap of every call, or what must not be. Run by `test_overlay_fuzz`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from enarx.errors import KeepError
from enarx.runtime import capi, run_workload
from enarx.runtime.cache import Cache
from enarx.runtime.preview1 import core, mailbox, polling
from enarx.runtime.workload import Directory, File, Limits, Outcome, Tls, Workload

LONGEST_WAIT_NS = 2_000_000
MAX_ERRNO = 76


def load_generator():
    path = Path(__file__).parents[2] / "tools/make_overlay.py"
    spec = importlib.util.spec_from_file_location("make_overlay", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_guest(path):
    """Write a guest that offers every function of preview 1 as an export of the same name."""
    generator = load_generator()
    functions = {**generator.SIGNATURES, **generator.PASSED_ON}
    imports, exports = [], []
    for name, signature in functions.items():
        types = " ".join(generator.TYPES[kind] for kind in signature)
        result = "" if name == "proc_exit" else "(result i32)"
        arguments = " ".join(f"local.get {n}" for n in range(len(signature)))
        imports.append(f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {types}) {result}))')
        exports.append(f'(func (export "{name}") (param {types}) {result} {arguments} call ${name})')
    exports.append('(func (export "grow") (param i32) (result i32) local.get 0 memory.grow)')
    path.write_text(
        f'(module {" ".join(imports)} (memory (export "memory") 1 4) {" ".join(exports)} (func (export "_start")))'
    )
    return {**functions, "grow": "i"}


class Driver:
    """Stands in for the call of `_start`: makes the calls of one line instead."""

    def __init__(self, functions):
        self.functions = functions
        self.app = None
        self.line = None
        self.answers = []

    def __call__(self, context, function, host, workload):
        for at, data in self.line["memory"]:
            memory = host.memory_source()
            content = bytes.fromhex(data)[: len(memory) - at]
            memory[at : at + len(content)] = content
        for name, arguments in self.line["calls"]:
            self.answers.append(self.call(context, host, name, arguments))
        return Outcome(0)

    def call(self, context, host, name, arguments):
        signature = self.functions[name]
        pointer = capi.address(export := self.app.export(name.encode(), capi.EXTERN_FUNC)) + capi.OFFSET_EXTERN_OF
        values = capi.buffer(capi.SIZEOF_VAL * max(1, len(signature)))
        raw = memoryview(values).cast("B")
        for n, (kind, value) in enumerate(zip(signature, arguments, strict=False)):
            start = n * capi.SIZEOF_VAL
            raw[start] = 0 if kind == "i" else 1
            size = 4 if kind == "i" else 8
            raw[start + 8 : start + 8 + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        results, trap = capi.buffer(capi.SIZEOF_VAL), capi.buffer(8)
        count = 0 if name == "proc_exit" else 1
        error = capi.func_call(
            context, pointer, capi.address(values), len(signature), capi.address(results), count, capi.address(trap)
        )
        del export
        text = capi.take_error(error) if error else capi.take_trap(trap[0]) if trap[0] else ""
        failure, host.failure = host.failure, None
        if failure is not None and not isinstance(failure, KeepError):
            raise AssertionError(f"{name}{arguments}: {failure!r}")
        held = set(host.table)
        if held != {n for n in range(mailbox.MAP_ENTRIES) if host.map[n] == mailbox.HELD}:
            raise AssertionError(f"{name}{arguments}: the map and the table differ")
        if host.box[mailbox.OPEN] != sum(1 for n in host.map.tolist() if n != mailbox.FREE):
            raise AssertionError(f"{name}{arguments}: {host.box[mailbox.OPEN]} are not what is open")
        if text:
            return "trap"
        found = memoryview(results).cast("B").cast("I")[2]
        if count and name != "grow" and found > MAX_ERRNO:
            raise AssertionError(f"{name}{arguments}: errno {found}")
        return found


def feed(server, port_of_listener, done):
    """Keep both sides of the sockets moving."""
    connections = []
    server.setblocking(False)
    while not done.is_set():
        with contextlib.suppress(OSError):
            connections.append(server.accept()[0])
            connections[-1].setblocking(False)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.send(b"fed")
            with contextlib.suppress(OSError):
                connection.recv(1 << 16)
        if port_of_listener:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port_of_listener[0]), 0.1) as other,
            ):
                other.send(b"hello")
        time.sleep(0.001)
    for connection in connections:
        connection.close()


def main():
    """Answer line by line until stdin ends."""
    with tempfile.TemporaryDirectory(prefix="enarx-fuzz-") as folder:
        answer_lines(Path(folder))


def answer_lines(folder):
    lines, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    guest = folder / "guest.wat"
    driver = Driver(write_guest(guest))
    (folder / "given").mkdir()
    listening = []

    real_route, real_listen, real_deadlines = core._route, socket.socket.listen, polling.Poller._deadlines

    def route(linker, context, module, trampoline, app, host, workload):
        driver.app = app
        return real_route(linker, context, module, trampoline, app, host, workload)

    def listen(self, backlog):
        real_listen(self, backlog)
        listening[:] = [self.getsockname()[1]]

    def deadlines(self, plan):
        soon = time.monotonic_ns() + LONGEST_WAIT_NS
        return [(min(due, soon), event) for due, event in real_deadlines(self, plan)]

    core._route, core._call, polling.Poller._deadlines = route, driver, deadlines
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.socket.listen = listen
        done = threading.Event()
        threading.Thread(target=feed, args=(server, listening, done), daemon=True).start()
        files = [
            *(File("stdin", "stdin"), File("stdout", "stdout"), File("stderr", "stderr"), File("null", "null")),
            File("listen", "in", prot="tcp", host="127.0.0.1", port=0),
            File("connect", "out", prot="tcp", host="127.0.0.1", port=server.getsockname()[1]),
        ]
        # Compiled once and kept in memory; from then on a file may have no more than a mebibyte.
        cache = Cache(None, lambda _: None)
        found = {}

        def find(path, *, fuel=False, remember=True):
            if path not in found:
                found[path] = Cache.find(cache, path, fuel=fuel)
            return found[path]

        cache.find = find
        for name in ("trampoline", "router"):
            find(f"{core.__file__.rpartition('/')[0]}/{name}.wat")
        find(str(guest))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        for line in lines:
            driver.line, driver.answers = json.loads(line), []
            (folder / "given/file").write_text("content")
            workload = Workload(
                str(guest),
                files=files,
                dirs=[Directory(str(folder / "given"), "/given")],
                limits=Limits(output_bytes=10_000, open_files=24),
                tls=Tls(),
            )
            try:
                run_workload(workload, cache, lambda: None)
                answer = {"answers": driver.answers}
            except BaseException as error:  # noqa: BLE001  # it is the answer
                answer = {"wrong": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        done.set()


if __name__ == "__main__":
    sys.exit(main())
