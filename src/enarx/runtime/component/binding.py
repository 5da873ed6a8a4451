# SPDX-License-Identifier: Apache-2.0
"""Components on the engine's C API: linking, host functions, resources, stores.

Rules of this file:

- A WASI package declares `Interface`s; a function of one is `call(keep, *arguments)`, found by its WIT name. Only what a
  component imports is linked, each import under its own exact name, so that any 0.2.x is served by the one
  implementation and two versions in one component share their resources.
- A resource is a Python object in the `Keep`'s table of its kind, under a number (the representation) that no other
  live resource has. Its `drop()`, if it has one, is called once: when the guest drops it, or when the Keep closes. Taking
  an `Own` argument removes it without `drop()`: the host function has it now.
- What a host function may raise: `Err` is the error case of its result; `Trap` stops the guest with a message;
  anything else stops the guest too and comes out of `Instance.call` as it is. Nothing is swallowed.
- It knows no WASI interface.

What holds it together: everything here is one crossing of one boundary, told from the outside in: declarations,
resources, the Keep, linking, calls.

Source: Wasmtime 50 C API headers below `wasmtime/component/`.
"""

# What overrides a documented method needs no second text.
# ruff: noqa: D102

from __future__ import annotations

import _thread
from collections import defaultdict

from enarx.errors import DecodeError, KeepError
from enarx.runtime import capi
from enarx.runtime.capi import BOOL, MEMORY, N, P, S
from enarx.runtime.component.clock import Clock
from enarx.runtime.component.values import (
    RESOURCE,
    SIZEOF_VAL,
    WORDS,
    WORDS_PER_VAL,
    Codec,
    Err,
    ForeignTypeError,
    Result,
    c_uint32,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from enarx.runtime.network import Network
    from enarx.runtime.workload import Workload

MAX_TABLE_ELEMENTS = 10_000_000
MAX_MEMORIES = 64
# Of a name that a component chose, in a message.
MAX_SHOWN = 200

_ITEM_INSTANCE, _ITEM_FUNC, _ITEM_RESOURCE, _ITEM_TYPE = 1, 3, 4, 6
SIZEOF_ITEM = 24
SIZEOF_COMPONENT_INSTANCE = 16
SIZEOF_COMPONENT_FUNC = 32
HOST_REP_WORD = 1
"""Where a `wasmtime_component_resource_host_t` has its representation: reading it there takes half as long as asking."""
_MAX_REP = 0xFFFFFFFF

_component_deserialize_file = capi.bind("wasmtime_component_deserialize_file", P, P, S, P)
_component_type = capi.bind("wasmtime_component_type", P, P)
_type_delete = capi.bind("wasmtime_component_type_delete", None, P)
_type_import_count = capi.bind("wasmtime_component_type_import_count", N, P, P)
_type_import_nth = capi.bind("wasmtime_component_type_import_nth", BOOL, P, P, N, P, P, P)
_type_export_count = capi.bind("wasmtime_component_type_export_count", N, P, P)
_type_export_nth = capi.bind("wasmtime_component_type_export_nth", BOOL, P, P, N, P, P, P)
_instance_type_export_count = capi.bind("wasmtime_component_instance_type_export_count", N, P, P)
_instance_type_export_nth = capi.bind("wasmtime_component_instance_type_export_nth", BOOL, P, P, N, P, P, P)
_extern_type = capi.bind("wasmtime_component_extern_type", None, P, P)
_extern_delete = capi.bind("wasmtime_component_extern_delete", None, P)
_item_delete = capi.bind("wasmtime_component_item_delete", None, P)
_resource_type_new_host = capi.bind("wasmtime_component_resource_type_new_host", P, c_uint32)
_resource_host_new = capi.bind("wasmtime_component_resource_host_new", P, BOOL, c_uint32, c_uint32, quick=True)
_resource_host_delete = capi.bind("wasmtime_component_resource_host_delete", None, P, quick=True)
_resource_any_to_host = capi.bind("wasmtime_component_resource_any_to_host", P, P, P, P, quick=True)
_resource_host_to_any = capi.bind("wasmtime_component_resource_host_to_any", P, P, P, P, quick=True)
_linker_new = capi.bind("wasmtime_component_linker_new", P, P)
_linker_delete = capi.bind("wasmtime_component_linker_delete", None, P)
_linker_root = capi.bind("wasmtime_component_linker_root", P, P)
_linker_instantiate = capi.bind("wasmtime_component_linker_instantiate", P, P, P, P, P)
_linker_add_instance = capi.bind("wasmtime_component_linker_instance_add_instance", P, P, S, N, P)
_linker_add_func = capi.bind("wasmtime_component_linker_instance_add_func", P, P, S, N, P, P, P)
_linker_add_resource = capi.bind("wasmtime_component_linker_instance_add_resource", P, P, S, N, P, P, P, P)
_linker_instance_delete = capi.bind("wasmtime_component_linker_instance_delete", None, P)
_get_export_index = capi.bind("wasmtime_component_get_export_index", P, P, P, S, N)
_instance_get_func = capi.bind("wasmtime_component_instance_get_func", BOOL, P, P, P, P, quick=True)
_export_index_delete = capi.bind("wasmtime_component_export_index_delete", None, P)
_func_call = capi.bind("wasmtime_component_func_call", P, P, P, P, N, P, N)
_val_delete = capi.bind("wasmtime_component_val_delete", None, P, quick=True)
_error_new = capi.bind("wasmtime_error_new", P, S)
_context_get_fuel = capi.bind("wasmtime_context_get_fuel", P, P, P)

# env, context, function type, arguments, their number, results, their number; returns an error or 0.
_FuncCallback = capi.callback_type(N, N, N, N, N, N, N, N)
_DestructorCallback = capi.callback_type(N, N, N, c_uint32)


class Trap(Exception):  # noqa: N818  # what WIT's documentation calls it
    """Stop the guest, because it broke a rule of the interface; its run ends as with any other trap."""


class Exit(Exception):  # noqa: N818  # not an error
    """The guest ended itself.

    Args:
        status: 0 to 255.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Trapped(Exception):  # noqa: N818  # the engine's word
    """A call into the guest ended in a trap; the text is the engine's, its backtrace included."""


# --- Declarations ----------------------------------------------------------------------------------------------------

_kinds: list[Kind] = []
_KEPT_HOSTS = 64


class Kind:
    """A resource type, made by `Interface.resource`.

    Args:
        name: for messages: `wasi:io/streams.input-stream`.
    """

    __slots__ = ("hosts", "index", "name", "type_pointer")

    def __init__(self, name: str) -> None:
        self.name = name
        self.index = len(_kinds)
        # What the engine calls a host resource is a number and a type in a box, and giving the box to a store does not use
        # it up. Every Keep begins with the number 1, so the boxes of the first few serve them all, as long as the process
        # lives.
        self.hosts: list[int] = [0] * _KEPT_HOSTS
        self.type_pointer: int = _resource_type_new_host(self.index)
        _kinds.append(self)


class Function:
    """A host function: the codecs of its parameters and its result, and the Python function behind it."""

    __slots__ = ("call", "params", "result")

    def __init__(self, call: Callable[..., Any], params: tuple[Codec, ...], result: Codec | None) -> None:
        self.call = call
        self.params = params
        self.result = result


class Interface:
    """One interface of WASI 0.2 as this runtime offers it.

    Args:
        name: package and interface, without a version: `wasi:io/streams`.
        uses: resources of other interfaces that this one names: `{"pollable": POLLABLE}`.
    """

    __slots__ = ("functions", "name", "resources")

    def __init__(self, name: str, *, uses: dict[str, Kind] | None = None) -> None:
        self.name = name
        self.functions: dict[str, Function] = {}
        self.resources: dict[str, Kind] = dict(uses or {})

    def resource(self, name: str) -> Kind:
        """Declare a resource of this interface."""
        kind = Kind(f"{self.name}.{name}")
        self.resources[name] = kind
        return kind

    def func(
        self, name: str, params: tuple[Codec, ...] = (), result: Codec | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare a function: `@streams.func("[method]input-stream.read", (Borrow(INPUT_STREAM), U64), ...)`.

        It is called as `function(keep, *arguments)`.

        Args:
            name: as the component model names it: `now`, `[method]fields.get`, `[constructor]fields`,
                `[static]fields.from-list`.
            params: a codec each.
            result: its codec, or None.
        """

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            self.functions[name] = Function(function, params, result)
            return function

        return declare


class Own(Codec):
    """A resource that changes hands: as an argument it leaves the Keep's table, as a result it enters it."""

    __slots__ = ("hosts", "index", "kind")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.index = kind.index
        self.hosts = kind.hosts

    def decode(self, keep: Keep, at: int) -> Any:
        resource = keep.tables[self.index].pop(keep.lift(at), None)
        if resource is None:
            raise Trap(f"found a handle that is no {self.kind.name}")
        return resource

    def encode(self, keep: Keep, at: int, value: Any) -> None:
        """Write a resource that the guest will own.

        Raises:
            Trap: the guest has more handles than the engine allows.
        """
        rep = keep.next_rep
        # The pointer to the handle is the word after the value's kind.
        if rep < _KEPT_HOSTS:
            keep.next_rep = rep + 1
            keep.tables[self.index][rep] = value
            host = self.hosts[rep]
            if not host:
                host = self.hosts[rep] = _resource_host_new(True, rep, self.index)
            error = _resource_host_to_any(keep.context, host, at + 1 << 3)
        else:
            host = _resource_host_new(True, keep.insert(self.kind, value), self.index)
            error = _resource_host_to_any(keep.context, host, at + 1 << 3)
            _resource_host_delete(host)
        if error:
            raise Trap(capi.take_error(error))
        WORDS[at] = RESOURCE


class Borrow(Codec):
    """A resource lent for the time of the call; only an argument."""

    __slots__ = ("index", "kind")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.index = kind.index

    def decode(self, keep: Keep, at: int) -> Any:
        resource = keep.tables[self.index].get(keep.lift(at))
        if resource is None:
            raise Trap(f"found a handle that is no {self.kind.name}")
        return resource


# --- The Keep --------------------------------------------------------------------------------------------------------

_keeps: dict[int, Keep] = {}

# Addresses of words in which the engine puts what a Keep asks it for. They serve one Keep after another and are never freed.
_slots: list[int] = []
_slot_buffers: list[Any] = []


def _new_slot() -> int:
    _slot_buffers.append(capi.buffer(8))
    return capi.address(_slot_buffers[-1])


class Keep:
    """One store and all that one instance of a component is given.

    Args:
        engine: the `wasm_engine_t`.
        workload: what runs, its environment and its limits.
        network: the outbound rule and the certificates, shared by the Keeps of one workload; None makes them when asked.
        clock: wall and monotonic time.
        account: output and descriptors counted so far; Keeps of one workload share it. None starts a new one.
    """

    __slots__ = (
        "_network",
        "_slot",
        "_store",
        "account",
        "clock",
        "context",
        "next_rep",
        "state",
        "stopped_by",
        "tables",
        "workload",
    )

    def __init__(
        self,
        engine: int,
        workload: Workload,
        *,
        network: Network | None = None,
        clock: Clock | None = None,
        account: Account | None = None,
    ) -> None:
        self.workload = workload
        self._network = network
        self.clock = clock if clock is not None else Clock(workload.wall_clock_offset_ns)
        self.account = account if account is not None else Account(workload)
        self.state: dict[str, Any] = {}
        self.stopped_by: BaseException | None = None
        # By kind: a component that lies about a resource's type finds nothing under another's number.
        self.tables: defaultdict[int, dict[int, Any]] = defaultdict(dict)
        self.next_rep = 1
        self._slot = _slots.pop() if _slots else _new_slot()
        self._store: int = capi.store_new(engine, None, None)
        self.context: int = capi.store_context(self._store)
        limits = workload.limits
        # How many instances and tables there are is bounded by the component's own size.
        capi.store_limiter(self._store, limits.memory_bytes, MAX_TABLE_ELEMENTS, -1, -1, MAX_MEMORIES)
        if limits.fuel is not None:
            capi.require(capi.context_set_fuel(self.context, limits.fuel))
        _keeps[self.context] = self

    @property
    def network(self) -> Network:
        """The sockets that the workload's entries allow, and who may be connected to."""
        if self._network is None:
            from enarx.runtime.network import Network

            self._network = Network(self.workload)
        return self._network

    def close(self) -> None:
        """Drop every resource and the store. The Keep is not used again."""
        if _keeps.pop(self.context, None) is None:
            return
        try:
            for table in tuple(self.tables.values()):
                while table:
                    _drop(table.popitem()[1])
        finally:
            capi.store_delete(self._store)
            _slots.append(self._slot)

    def insert(self, kind: Kind, resource: Any) -> int:
        """Put a resource into the table and return its representation.

        How many there can be is bounded by the engine, which gives a store some ten thousand handles and then traps.
        """
        table = self.tables[kind.index]
        rep = self.next_rep
        while rep in table:
            rep = rep + 1 if rep < _MAX_REP else _KEPT_HOSTS
        table[rep] = resource
        # Numbers are not used again until all are used up, so that a stale one finds nothing; the first ones never are.
        self.next_rep = rep + 1 if rep < _MAX_REP else _KEPT_HOSTS
        return rep

    def lift(self, at: int) -> int:
        """Return the representation of the resource argument at a word index; its handle is given back.

        Raises:
            Trap: not a resource of the host.
            ForeignTypeError: not a resource.
        """
        words = WORDS
        if words[at] & 0xFF != RESOURCE:
            raise ForeignTypeError(f"found a value of kind {words[at] & 0xFF}, want a resource")
        # For a borrowed handle this also ends the loan, so that there is nothing to give back after the call.
        slot = self._slot
        error = _resource_any_to_host(self.context, words[at + 1], slot)
        if error:
            raise Trap(capi.take_error(error))
        host = words[slot >> 3]
        rep = words[(host >> 3) + HOST_REP_WORD] & _MAX_REP
        _resource_host_delete(host)
        return rep

    def stop(self, error: BaseException, label: str) -> int:
        """Keep what a host function raised, and return what makes the engine stop the guest."""
        if isinstance(error, Trap | ForeignTypeError):
            return _error_new(f"{label}: {error}".encode().replace(b"\0", b"?"))  # type: ignore[no-any-return]
        self.stopped_by = error
        return _error_new(b"stopped by the host")  # type: ignore[no-any-return]

    def raise_outcome(self, error: int | None) -> None:
        """Raise what a call into the guest ended with, if it did not end well.

        Args:
            error: a `wasmtime_error_t` or None.

        Raises:
            Trapped: a trap of the guest.
            KeepError: it used up its fuel.
            BaseException: what a host function raised, `Exit` among it.
        """
        if not error:
            return
        text = capi.take_error(error)
        stopped_by, self.stopped_by = self.stopped_by, None
        if stopped_by is not None:
            raise stopped_by
        limits = self.workload.limits
        if limits.fuel is not None:
            capi.require(_context_get_fuel(self.context, self._slot))
            if WORDS[self._slot >> 3] == 0:
                raise KeepError(
                    f"workload stopped: fuel: found more than {limits.fuel} units, want at most {limits.fuel}",
                    hint="raise --fuel, or limits.fuel in Enarx.toml",
                )
        raise Trapped(text)


class Account:
    """What a workload used of the limits that no engine counts. Its Keeps share one, in any number of threads.

    Args:
        workload: whose limits hold.

    Attributes:
        hint: one line about a limit that stood in its way, or None.
    """

    __slots__ = ("_files_left", "_lock", "_max_open_files", "_max_output_bytes", "_output_left", "hint")

    def __init__(self, workload: Workload) -> None:
        self._max_output_bytes = workload.limits.output_bytes
        self._output_left = workload.limits.output_bytes or 0
        self._max_open_files = workload.limits.open_files
        self._files_left = workload.limits.open_files
        self._lock = _thread.allocate_lock()
        self.hint: str | None = None

    def permit_output(self, size: int) -> int:
        """Take `size` bytes for stdout or stderr from what is left and return how many there were, at least one.

        Raises:
            KeepError: none.
        """
        if self._max_output_bytes is None or not size:
            return size
        with self._lock:
            if not self._output_left:
                raise KeepError(
                    f"workload stopped: output: found more than {self._max_output_bytes} bytes, want at most"
                    f" {self._max_output_bytes}",
                    hint="raise --output, or limits.output in Enarx.toml",
                )
            taken = min(size, self._output_left)
            self._output_left -= taken
        return taken

    def return_output(self, size: int) -> None:
        """Give back what was permitted and not written."""
        if self._max_output_bytes is not None and size:
            with self._lock:
                self._output_left += size

    def open_file(self) -> bool:
        """Count a descriptor about to be opened; False, and nothing counted, where there may be no more."""
        with self._lock:
            if not self._files_left:
                self.hint = (
                    f"it was refused more than {self._max_open_files} open files; raise limits.open_files in Enarx.toml"
                )
                return False
            self._files_left -= 1
        return True

    def close_file(self) -> None:
        """Count a descriptor that was closed."""
        with self._lock:
            self._files_left += 1

    @property
    def open_files(self) -> int:
        """Descriptors open now."""
        return self._max_open_files - self._files_left


def _drop(resource: Any) -> None:
    drop = getattr(resource, "drop", None)
    if drop is not None:
        drop()


# --- Host functions --------------------------------------------------------------------------------------------------


def _make_callback(label: str, function: Function) -> Any:
    call, result = function.call, function.result
    decoders = tuple(codec.decode for codec in function.params)
    encode = result.encode if result is not None else None
    want_arguments, want_results = len(decoders), 0 if result is None else 1
    # One and two parameters, which is what most have, need no list.
    first, second = (*decoders, None, None)[:2] if want_arguments <= 2 else (None, None)

    def callback(
        _env: int, context: int, _type: int, arguments: int, argument_count: int, results: int, result_count: int
    ) -> int:
        keep = _keeps[context]
        try:
            if argument_count != want_arguments or result_count != want_results:
                raise ForeignTypeError(
                    f"found {argument_count} parameters and {result_count} results, want {want_arguments} and"
                    f" {want_results}"
                )
            at = arguments >> 3
            try:
                if second is not None and first is not None:
                    value = call(keep, first(keep, at), second(keep, at + WORDS_PER_VAL))
                elif first is not None:
                    value = call(keep, first(keep, at))
                elif not want_arguments:
                    value = call(keep)
                else:
                    values = []
                    for decode in decoders:
                        values.append(decode(keep, at))
                        at += WORDS_PER_VAL
                    value = call(keep, *values)
            except Err as error:
                if not isinstance(result, Result):
                    raise
                result.encode_err(keep, results >> 3, error.value)
                return 0
            if encode is not None:
                encode(keep, results >> 3, value)
        except BaseException as error:  # noqa: BLE001  # kept, and raised again by whoever called the guest
            return keep.stop(error, label)
        return 0

    return _FuncCallback(callback)


def _make_destructor(kind: Kind) -> Any:
    index = kind.index

    def destructor(_env: int, context: int, rep: int) -> int:
        keep = _keeps[context]
        try:
            resource = keep.tables[index].pop(rep, None)
            if resource is not None:
                _drop(resource)
        except BaseException as error:  # noqa: BLE001  # as above
            return keep.stop(error, kind.name)
        return 0

    return _DestructorCallback(destructor)


# --- Linking ---------------------------------------------------------------------------------------------------------


class _ItemReader:
    """Walks the names and kinds of a type's imports or exports."""

    __slots__ = ("_engine", "_item", "_out")

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._out = capi.buffer(24)
        self._item = capi.buffer(SIZEOF_ITEM)

    def walk(self, owner: int, count: Callable[..., int], nth: Callable[..., bool]) -> Iterator[tuple[str, int, int]]:
        """Yield name, kind and pointer of each item; the pointer is valid until the next."""
        out, item = capi.address(self._out), capi.address(self._item)
        for index in range(count(owner, self._engine)):
            nth(owner, self._engine, index, out, out + 8, out + 16)
            name = MEMORY[self._out[0] : self._out[0] + self._out[1]].tobytes().decode("utf-8", "replace")
            _extern_type(self._out[2], item)
            _extern_delete(self._out[2])
            try:
                yield name, self._item[0] & 0xFF, self._item[1]
            finally:
                _item_delete(item)


class Component:
    """A compiled component, with its imports and exports.

    Args:
        engine: the `wasm_engine_t` it was compiled for.
        artefact_path: what `wasmtime_component_serialize` wrote; trusted.

    Raises:
        UnmappableError: not an artefact of this engine and processor.
    """

    __slots__ = ("_indices", "engine", "exports", "imports", "pointer")

    def __init__(self, engine: int, artefact_path: str) -> None:
        self.engine = engine
        out = capi.buffer(8)
        error = _component_deserialize_file(engine, artefact_path.encode(), capi.address(out))
        if error:
            raise capi.UnmappableError(capi.take_error(error))
        self.pointer: int = out[0]
        self._indices: dict[tuple[str, str], int] = {}
        component_type = _component_type(self.pointer)
        reader, inner = _ItemReader(engine), _ItemReader(engine)
        self.imports: dict[str, list[tuple[str, int]] | None] = {}
        for name, kind, pointer in reader.walk(component_type, _type_import_count, _type_import_nth):
            self.imports[name] = (
                [
                    (item, item_kind)
                    for item, item_kind, _ in inner.walk(
                        pointer, _instance_type_export_count, _instance_type_export_nth
                    )
                ]
                if kind == _ITEM_INSTANCE
                else None
            )
        self.exports = [name for name, _, _ in reader.walk(component_type, _type_export_count, _type_export_nth)]
        _type_delete(component_type)

    def export_index(self, interface: str, name: str) -> int:
        """Return the index of a function of an exported interface, good for every instance; 0 where there is none."""
        known = self._indices.get((interface, name))
        if known is None:
            outer = _get_export_index(self.pointer, None, interface.encode(), len(interface.encode()))
            known = (outer and _get_export_index(self.pointer, outer, name.encode(), len(name.encode()))) or 0
            if outer:
                _export_index_delete(outer)
            self._indices[interface, name] = known
        return known

    def find_export(self, interface: str) -> str | None:
        """Return the full name of the exported interface, its 0.2 version included, or None."""
        return next((name for name in self.exports if split_version(name)[0] == interface and _is_served(name)), None)


def split_version(name: str) -> tuple[str, str]:
    """Split `wasi:io/streams@0.2.3` into interface and version; the version is empty where there is none."""
    interface, _, version = name.partition("@")
    return interface, version


def _is_served(name: str) -> bool:
    release = split_version(name)[1].split(".")
    return len(release) == 3 and release[:2] == ["0", "2"] and release[2].isdecimal()


class Linker:
    """A component's imports, defined.

    Args:
        component: whose imports.
        find_interface: returns the interface of a name without version, or None where it is not offered.

    Raises:
        DecodeError: an import that is not offered.
    """

    __slots__ = ("_alive", "_pointer", "component")

    def __init__(self, component: Component, find_interface: Callable[[str], Interface | None]) -> None:
        self.component = component
        # What C calls must outlive the linker.
        self._alive: list[Any] = []
        destructors: dict[Kind, Any] = {}
        self._pointer: int = _linker_new(component.engine)
        root = _linker_root(self._pointer)
        out = capi.buffer(8)
        for name, items in component.imports.items():
            interface = _require_interface(name, items, find_interface)
            encoded = name.encode()
            capi.require(_linker_add_instance(root, encoded, len(encoded), capi.address(out)))
            instance = out[0]
            for item, kind in items or ():
                self._define(instance, name, interface, item, kind, destructors)
            _linker_instance_delete(instance)
        _linker_instance_delete(root)
        self._alive.extend(destructors.values())

    def _define(
        self, instance: int, name: str, interface: Interface, item: str, kind: int, destructors: dict[Kind, Any]
    ) -> None:
        encoded = item.encode()
        if kind == _ITEM_FUNC and item in interface.functions:
            callback = _make_callback(f"{name}#{item}", interface.functions[item])
            self._alive.append(callback)
            error = _linker_add_func(instance, encoded, len(encoded), callback, None, None)
        elif kind == _ITEM_RESOURCE and item in interface.resources:
            resource = interface.resources[item]
            if resource not in destructors:
                destructors[resource] = _make_destructor(resource)
            error = _linker_add_resource(
                instance,
                encoded,
                len(encoded),
                resource.type_pointer,
                destructors[resource],
                None,
                None,
            )
        elif kind == _ITEM_TYPE:
            return
        else:
            raise DecodeError(
                f"cannot start the workload: component: found the import {name}#{item[:MAX_SHOWN]}, want only"
                f" what WASI 0.2 has in {interface.name}",
                hint="a Keep offers WASI 0.2; build without unstable features",
            )
        capi.require(error)

    def instantiate(self, keep: Keep) -> Instance:
        """Instantiate the component in a Keep's store.

        Raises:
            DecodeError: the engine refuses to link it.
        KeepError: it does not start within its memory.
            Trapped: a start function trapped.
            BaseException: what a host function raised meanwhile.
        """
        instance = capi.buffer(SIZEOF_COMPONENT_INSTANCE)
        error = _linker_instantiate(self._pointer, keep.context, self.component.pointer, capi.address(instance))
        try:
            keep.raise_outcome(error)
        except Trapped as trap:
            text = str(trap)
            if "wasm backtrace" in text:
                raise
            if "exceeds memory limits" in text:
                limit = keep.workload.limits.memory_bytes
                raise KeepError(
                    f"cannot start the workload: {keep.workload.path}: memory: found a larger minimum, want at most"
                    f" {limit} bytes",
                    hint="raise --memory, or limits.memory in Enarx.toml",
                ) from trap
            reason = " ".join(text.split())
            raise DecodeError(f"cannot start the workload: {keep.workload.path}: {reason}") from trap
        return Instance(keep, instance, self.component)

    def close(self) -> None:
        """Free the linker. Its instances are not used again."""
        _linker_delete(self._pointer)
        self._alive.clear()


def _require_interface(
    name: str, items: Iterable[Any] | None, find_interface: Callable[[str], Interface | None]
) -> Interface:
    short = name[:MAX_SHOWN]
    interface_name, version = split_version(name)
    failure = f"cannot start the workload: component: found the import {short}, want only WASI 0.2"
    if not interface_name.startswith("wasi:"):
        raise DecodeError(
            failure, hint="it is offered by a host or a component of its own; compose it in, e.g. with wac"
        )
    if version.startswith("0.3"):
        raise DecodeError(failure, hint="it is offered by WASI 0.3; build for WASI 0.2")
    if not _is_served(name):
        raise DecodeError(failure, hint="it is offered by a preview of WASI; build for WASI 0.2")
    interface = find_interface(interface_name)
    if interface is None or items is None:
        raise DecodeError(failure, hint="a Keep offers wasi:cli, clocks, filesystem, http, io, random and sockets")
    return interface


# --- Calls into the guest --------------------------------------------------------------------------------------------


class ExportedFunction:
    """A function that a component exports; calls reuse its memory, so one thread uses it at a time."""

    __slots__ = ("_base", "_func_at", "_keep", "_memory", "_params", "_result")

    def __init__(self, keep: Keep, memory: Any, func_at: int, params: tuple[Codec, ...], result: Codec | None) -> None:
        self._keep = keep
        # The function, then its arguments, then its result.
        self._memory = memory
        self._func_at = func_at
        self._base = func_at + SIZEOF_COMPONENT_FUNC
        self._params = params
        self._result = result

    def __call__(self, *arguments: Any) -> Any:
        """Call it.

        Args:
            arguments: one for each codec; `Own` gives the guest the object.

        Returns:
            What the codec of the result decodes: `(is_ok, payload)` for a result.

        Raises:
            Trapped, KeepError, Exit: as `Keep.raise_outcome`.
        """
        keep, base, result = self._keep, self._base, self._result
        context, func_at, params = keep.context, self._func_at, self._params
        first = at = base >> 3
        for codec, argument in zip(params, arguments, strict=True):
            codec.encode(keep, at, argument)
            at += WORDS_PER_VAL
        result_count = 0 if result is None else 1
        try:
            error = _func_call(func_at, context, base, len(params), at << 3, result_count)
            if error:
                keep.raise_outcome(error)
            value = None if result is None else result.decode(keep, at)
        finally:
            for item in range(first, at + WORDS_PER_VAL * result_count, WORDS_PER_VAL):
                _val_delete(item << 3)
                WORDS[item] = 0
        return value


class Instance:
    """An instance of a component in its Keep.

    Args:
        keep: whose store it lives in.
        pointer: the buffer that holds its `wasmtime_component_instance_t`.
        component: of which it is one.
    """

    __slots__ = ("_component", "_pointer", "keep")

    def __init__(self, keep: Keep, pointer: Any, component: Component) -> None:
        self.keep = keep
        self._component = component
        self._pointer = pointer

    def function(
        self, interface: str, name: str, params: Sequence[Codec] = (), result: Codec | None = None
    ) -> ExportedFunction:
        """Look up a function of an exported interface.

        Args:
            interface: its full name, as `Component.find_export` returns it.
            name: of the function.
            params: codecs of its parameters.
            result: codec of its result, or None.

        Raises:
            DecodeError: the interface does not have it.
        """
        index = self._component.export_index(interface, name)
        memory = capi.buffer(SIZEOF_COMPONENT_FUNC + SIZEOF_VAL * (len(params) + 1))
        func_at = capi.address(memory)
        if not index or not _instance_get_func(capi.address(self._pointer), self.keep.context, index, func_at):
            raise DecodeError(f"cannot start the workload: component: found no export {interface}#{name}, want one")
        return ExportedFunction(self.keep, memory, func_at, tuple(params), result)
