# SPDX-License-Identifier: Apache-2.0
"""What tests of preview 1 share: WebAssembly text run to its end in this process, and a host without an engine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from enarx.runtime import capi, run_workload
from enarx.runtime.cache import Cache
from enarx.runtime.preview1 import errno, mailbox
from enarx.runtime.preview1.host import Host
from enarx.runtime.workload import File, Limits, Outcome, Tls, Workload

PAGE_BYTES = 65536
MEMORY_PAGES = 2
MEMORY_BYTES = MEMORY_PAGES * PAGE_BYTES
FILLING = 0xA5
NOBODY = 0xFFFFFFFF


def _load_generator():
    spec = importlib.util.spec_from_file_location("make_overlay", Path(__file__).parents[4] / "tools/make_overlay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _load_generator()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Cache:
    """A cache of this test session."""
    return Cache(str(tmp_path_factory.mktemp("cache") / "enarx"), lambda _: None)


@pytest.fixture
def run_wat(cache, tmp_path, monkeypatch) -> Callable[..., Outcome]:
    """Return a function that runs WebAssembly text, with `null` for stdio unless files are given."""
    stores = []
    new = capi.store_new

    def store_new(*arguments):
        stores.append(new(*arguments))
        return stores[-1]

    # A process that runs a workload ends with it; this one does not, and gives back what the engine has opened.
    monkeypatch.setattr(capi, "store_new", store_new)

    def run(text: str, *, files=None, dirs=(), **limits: object) -> Outcome:
        path = tmp_path / "guest.wat"
        path.write_text(text)
        files = [File("null", "null")] * 3 if files is None else files
        workload = Workload(str(path), files=files, dirs=dirs, limits=Limits(**limits), tls=Tls())
        try:
            return run_workload(workload, cache, lambda: None)
        finally:
            while stores:
                capi.store_delete(stores.pop())

    return run


class Machine:
    """A host with a memory and a mailbox of bytes: every callback can be called as the router calls it.

    Args:
        table: its descriptors.
    """

    def __init__(self, table) -> None:
        self.host = Host(table)
        self.bytes = bytearray([FILLING]) * MEMORY_BYTES
        box = memoryview(bytearray(PAGE_BYTES))
        self.host.box = box.cast("I")
        self.host.result = box[4 * mailbox.RESULT : 4 * mailbox.RESULT + mailbox.RESULT_BYTES]
        self.host.map = box[mailbox.MAP_OFFSET : mailbox.MAP_OFFSET + 2 * mailbox.MAP_ENTRIES].cast("H")
        for number in table:
            self.host.map[number] = mailbox.HELD
        self.host.box[mailbox.OPEN] = len(table)
        self.host.box[mailbox.OPEN_LIMIT] = 1000
        self.host.memory_source = lambda: memoryview(self.bytes)
        self._callbacks = self.host.callbacks()

    def call(self, name: str, *arguments: int, words: dict[int, int] | None = None) -> int | None:
        """Call a callback with i32 arguments; return its errno, or None where it ended the workload.

        `words` are further words of the mailbox. A first iovec is read, and an answer moved, as the router does it.
        """
        box = self.host.box
        box[mailbox.ERRNO] = errno.SUCCESS
        box[mailbox.PAGES] = len(self.bytes) // PAGE_BYTES
        for n, argument in enumerate(arguments):
            box[mailbox.ARG0 + 2 * n] = argument & 0xFFFFFFFF
            box[mailbox.ARG0 + 2 * n + 1] = 0
        for word, value in (words or {}).items():
            box[word] = value
        if name in generator.VECTORED or name == "poll_oneoff":
            box[mailbox.COUNT] = 0
        if name in generator.VECTORED:
            self._read_first_iovec(name, *arguments)
        pointer, size = generator.RESULTS.get(name, (None, 0))
        if size and arguments[pointer] + size > len(self.bytes):
            return errno.FAULT
        # Of the answer before nothing may be left in the next.
        self.host.result[:] = bytes([FILLING]) * mailbox.RESULT_BYTES
        before = bytes(self.bytes) if size else b""
        trap = self._callbacks[name]()
        if size:
            assert bytes(self.bytes) == before
        if trap:
            assert self.host.failure is not None
            return None
        if size and not box[mailbox.ERRNO]:
            self.bytes[arguments[pointer] : arguments[pointer] + size] = self.host.result[:size]
        return box[mailbox.ERRNO]

    def _read_first_iovec(self, name: str, fd: int, at: int, count: int, flags: int = 0, *_: int) -> None:
        box = self.host.box
        if count:
            box[mailbox.IOV_PTR], box[mailbox.IOV_LEN] = struct.unpack_from("<II", self.bytes, at)
        is_direct = (
            count == 1
            and box[mailbox.PAGES] == box[mailbox.MAPPED]
            and box[mailbox.IOV_PTR] + box[mailbox.IOV_LEN] <= len(self.bytes)
            and not (name.startswith("sock_") and flags)
        )
        box[mailbox.DIRECT] = fd & 0xFFFFFFFF if is_direct else NOBODY

    def iovecs(self, at: int, *vectors: tuple[int, int]) -> tuple[int, int]:
        """Write an iovec list; return its address and count."""
        for n, (start, length) in enumerate(vectors):
            struct.pack_into("<II", self.bytes, at + 8 * n, start, length)
        return at, len(vectors)

    @property
    def count(self) -> int:
        """The second result of the last call."""
        return self.host.box[mailbox.COUNT]

    @property
    def failure(self) -> BaseException | None:
        """What ended the workload."""
        return self.host.failure


@pytest.fixture
def machine() -> Callable[..., Machine]:
    """Return the class of hosts without an engine."""
    return Machine


@pytest.fixture
def pipe():
    """Both ends of a pipe, closed afterwards if the test has not done it."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def take(descriptor, size=16):
    buffer = bytearray(size)
    return bytes(buffer[: descriptor.read(memoryview(buffer))])
