# SPDX-License-Identifier: Apache-2.0
"""Start a core module: three instances in one store, the workload between the trampoline and the router.

On the path of every start; what is imported here is what saying hello needs.
"""

from __future__ import annotations

from enarx.errors import ConfigError, DecodeError, KeepError
from enarx.runtime import capi
from enarx.runtime.capi import address, buffer, require
from enarx.runtime.preview1 import mailbox
from enarx.runtime.preview1.descriptors import Output, Stdin
from enarx.runtime.preview1.host import Host
from enarx.runtime.workload import TRAP_STATUS, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from enarx.runtime.preview1.configured import OutputBudget
    from enarx.runtime.preview1.descriptors import Descriptor
    from enarx.runtime.workload import Workload

_WASI = b"wasi_snapshot_preview1"
_MAX_FILES = 500
_TABLE_ELEMENTS = 10_000_000
# Of the whole store: two memories and one table are the overlay's. A workload with more would multiply its limit.
_TABLES = 1 + 10
_MEMORIES = 2 + 4
_POINTER_BYTES = 8


class _TrapError(Exception):
    """A start function trapped; the text is the engine's."""

    def __init__(self, trap: int) -> None:
        self.out_of_fuel = _out_of_fuel(trap)
        super().__init__(capi.take_trap(trap))


class _Instance:
    """An instance in the store, and a way to its exports."""

    __slots__ = ("_context", "instance")

    def __init__(self, linked: int, context: int) -> None:
        self._context = context
        self.instance = buffer(capi.SIZEOF_INSTANCE)
        trap = buffer(_POINTER_BYTES)
        error = capi.instance_pre_instantiate(linked, context, address(self.instance), address(trap))
        if trap[0]:
            raise _TrapError(trap[0])
        require(error)

    def export(self, name: bytes, kind: int) -> Any | None:
        """Return a `wasmtime_extern_t` of a kind, or None."""
        item = buffer(capi.SIZEOF_EXTERN)
        found = capi.instance_export_get(self._context, address(self.instance), name, len(name), address(item))
        return item if found and item[0] & 0xFF == kind else None


def _c_string(text: str) -> bytes:
    """Return what the user gave, UTF-8 or not; the engine refuses what is not."""
    return text.encode("utf-8", "surrogateescape")


def _strings(values: Sequence[str]) -> tuple[Any, Any]:
    """Return a `char *[]`, and the memory it points into."""
    strings = [_c_string(value) + b"\0" for value in values]
    text = b"".join(strings)
    memory = buffer(len(text))
    start = address(memory)
    capi.view(start, len(text))[:] = text
    array = buffer((len(strings) + 1) * _POINTER_BYTES)
    for number, string in enumerate(strings):
        array[number] = start
        start += len(string)
    return array, memory


def _configure_wasi(context: int, workload: Workload) -> None:
    config = capi.wasi_config_new()
    argv, _arguments = _strings(["main.wasm", *workload.args])
    env = list(workload.env)
    if workload.announce_files:
        # First, so that the workload's own variables cannot shadow them.
        joined = ":".join(file.name for file in workload.files)
        env = [("FD_COUNT", str(len(workload.files))), ("FD_NAMES", joined), *env]
    given = capi.wasi_config_set_argv(config, len(workload.args) + 1, address(argv))
    if given and env:
        names, _names = _strings([name for name, _ in env])
        values, _values = _strings([value for _, value in env])
        given = capi.wasi_config_set_env(config, len(env), address(names), address(values))
    if not given:
        raise ConfigError("cannot start the workload: arguments and environment: want UTF-8 without NUL")
    for directory in workload.dirs:
        if not capi.wasi_config_preopen_dir(
            config, _c_string(directory.host), _c_string(directory.guest), not directory.read_only
        ):
            raise ConfigError(
                f"cannot open the directory: {directory.host}: found no directory that can be read",
                hint="--dir takes HOST::GUEST",
            )
    require(capi.context_set_wasi(context, config))


def _descriptors(workload: Workload) -> dict[int, Descriptor]:
    if len(workload.files) > _MAX_FILES:
        raise ConfigError(f"cannot start the workload: files: found {len(workload.files)}, want at most {_MAX_FILES}")
    budget: OutputBudget | None = None
    if workload.limits.output_bytes is not None:
        from enarx.runtime.preview1.configured import OutputBudget

        budget = OutputBudget(workload.limits.output_bytes)
    table: dict[int, Descriptor] = {}
    sockets = []
    for number, file in enumerate(workload.files):
        if file.kind == "stdin":
            table[number] = Stdin()
        elif file.kind == "stdout":
            table[number] = Output(1, budget)
        elif file.kind == "stderr":
            table[number] = Output(2, budget)
        elif file.kind == "null":
            from enarx.runtime.preview1.configured import Null

            table[number] = Null()
        else:
            sockets.append(number)
    if sockets:
        from enarx.runtime.preview1.sockets import open_sockets

        table.update(open_sockets(workload, sockets))
    return table


def _map(engine: int, path: str) -> int:
    module = buffer(_POINTER_BYTES)
    error = capi.module_deserialize_file(engine, _c_string(path), address(module))
    if error:
        raise capi.UnmappableError(capi.take_error(error))
    return int(module[0])


def run_module(engine: int, paths: tuple[str, str, str], workload: Workload, begin: Callable[[], None]) -> Outcome:
    """Run a core module to its end.

    Args:
        engine: of `enarx.runtime.engine`.
        paths: artefacts of the workload, the trampoline and the router.
        workload: what it is given.
        begin: is called before the first of its code runs.

    Returns:
        its own status, or the trap that ended it.

    Raises:
        UnmappableError: an artefact is not of this engine and processor.
        DecodeError: it has no entry point, or imports what is not offered.
        ConfigError: a directory, certificate or name in it is wrong.
        PlatformError: a port is taken.
        KeepError: it cannot start within its memory, or ended at a limit.
        TransportError: a connect entry's peer cannot be reached.
    """
    # The modules are let go with the process: freeing them would only delay its end.
    main, trampoline_module, router_module = (_map(engine, path) for path in paths)
    host = Host(_descriptors(workload), workload.wall_clock_offset_ns)
    store = capi.store_new(engine, None, None)
    context = capi.store_context(store)
    limits = workload.limits
    capi.store_limiter(store, limits.memory_bytes, _TABLE_ELEMENTS, -1, _TABLES, _MEMORIES)
    if limits.fuel is not None:
        require(capi.context_set_fuel(context, limits.fuel))
    _configure_wasi(context, workload)

    wasi = capi.linker_new(engine)
    require(capi.linker_define_wasi(wasi))
    trampoline = _Instance(_resolve(wasi, trampoline_module), context)
    linker = capi.linker_new(engine)
    require(capi.linker_define_instance(linker, context, _WASI, len(_WASI), address(trampoline.instance)))
    linked = _link(linker, main, workload)
    begin()
    try:
        app = _instantiate(linked, context, workload)
    except _TrapError as error:
        if error.out_of_fuel:
            raise _fuel_error(workload) from error
        return Outcome(TRAP_STATUS, trap=str(error))
    entry = app.export(b"", capi.EXTERN_FUNC) or app.export(b"_start", capi.EXTERN_FUNC)
    if entry is None:
        raise DecodeError(
            f"cannot start the workload: {workload.path}: found no entry point, want an export named _start",
            hint="build a command, not a library or reactor",
        )
    memory = app.export(b"memory", capi.EXTERN_MEMORY)
    # Without a memory of its own, a workload can still end itself; the trampoline's, of no size, stands in.
    owner = app if memory else trampoline
    callbacks = _route(wasi, context, router_module, trampoline, owner, host, workload)
    initialize = app.export(b"_initialize", capi.EXTERN_FUNC)
    try:
        outcome = _call(context, initialize, host, workload) if initialize else None
        if outcome is None:
            outcome = _call(context, entry, host, workload) or Outcome(0)
    finally:
        for descriptor in host.table.values():
            descriptor.close()
        callbacks.clear()
    if outcome.status:
        outcome.hint = _memory_hint(context, memory, workload)
    return outcome


def _resolve(linker: int, module: int) -> int:
    """Return a module whose imports are resolved (`wasmtime_instance_pre_t`), before any of its code runs."""
    pre = buffer(_POINTER_BYTES)
    require(capi.linker_instantiate_pre(linker, module, address(pre)))
    return int(pre[0])


def _link(linker: int, module: int, workload: Workload) -> int:
    try:
        return _resolve(linker, module)
    except capi.EngineError as error:
        from enarx.runtime.imports import explain_link_failure

        raise explain_link_failure(str(error), workload.path) from error


def _instantiate(linked: int, context: int, workload: Workload) -> _Instance:
    try:
        return _Instance(linked, context)
    except _TrapError as error:
        # The trampoline's table is empty until the router is there, and the router needs the workload's memory.
        if "uninitialized element" in str(error):
            raise DecodeError(
                f"cannot start the workload: {workload.path}: start function: found a call of WASI, want it from _start on",
                hint="build a WASI command; its start section may only set up its own memory",
            ) from error
        raise
    except capi.EngineError as error:
        if "exceeds memory limits" in str(error):
            raise KeepError(
                f"cannot start the workload: {workload.path}: memory: found a larger minimum, want at most"
                f" {workload.limits.memory_bytes} bytes",
                hint="raise --memory, or limits.memory in Enarx.toml",
            ) from error
        raise DecodeError(f"cannot start the workload: {workload.path}: {error}".splitlines()[0]) from error


def _route(
    linker: int,
    context: int,
    module: int,
    trampoline: _Instance,
    app: _Instance,
    host: Host,
    workload: Workload,
) -> dict[str, Any]:
    """Instantiate the router behind the workload; return the callbacks, which the caller keeps alive."""
    # By name, because to define all that they export would take twice as long.
    for module_name, instance, name, kind in (
        (b"app", app, b"memory", capi.EXTERN_MEMORY),
        (b"trampoline", trampoline, b"table", capi.EXTERN_TABLE),
    ):
        item = instance.export(name, kind)
        require(capi.linker_define(linker, context, module_name, len(module_name), name, len(name), address(item)))
    empty = buffer(2 * capi.SIZEOF_BYTE_VEC)
    signature = capi.functype_new(address(empty), address(empty) + capi.SIZEOF_BYTE_VEC)
    callbacks = host.callbacks()
    for function, callback in callbacks.items():
        name = function.encode()
        require(capi.linker_define_func_unchecked(linker, b"host", 4, name, len(name), signature, callback, None, None))
    capi.functype_delete(signature)
    router = _instantiate(_link(linker, module, workload), context, workload)

    def view(name: bytes) -> memoryview:
        item = router.export(name, capi.EXTERN_MEMORY)
        memory = address(item) + capi.OFFSET_EXTERN_OF
        return capi.view(capi.memory_data(context, memory), capi.memory_data_size(context, memory))

    box = view(b"mailbox")
    host.box = box.cast("I")
    host.result = box[4 * mailbox.RESULT : 4 * mailbox.RESULT + mailbox.RESULT_BYTES]
    host.map = box[mailbox.MAP_OFFSET : mailbox.MAP_OFFSET + 2 * mailbox.MAP_ENTRIES].cast("H")
    for number in host.table:
        host.map[number] = mailbox.HELD
    for number in range(len(workload.dirs)):
        # Directories come after the files, and never below 3, where C libraries begin to look for them.
        host.map[max(3, len(workload.files)) + number] = mailbox.FIRST_NATIVE + number
    host.box[mailbox.OPEN] = len(host.table) + len(workload.dirs)
    host.box[mailbox.OPEN_LIMIT] = min(workload.limits.open_files, mailbox.MAP_ENTRIES)
    host.box[mailbox.OWN_CLOCK] = host.wall_offset_ns is not None
    host.memory_source = lambda: view(b"memory")
    return callbacks


def _call(context: int, function: Any, host: Host, workload: Workload) -> Outcome | None:
    """Call a function that takes nothing; None when it returned."""
    pointer = address(function) + capi.OFFSET_EXTERN_OF
    kind = capi.func_type(context, pointer)
    arguments = capi.vec_size(capi.functype_params(kind))
    count = capi.vec_size(capi.functype_results(kind))
    capi.functype_delete(kind)
    if arguments:
        raise DecodeError(
            f"cannot start the workload: {workload.path}: entry point: found {arguments} parameters, want none"
        )
    results = buffer(capi.SIZEOF_VAL * max(count, 1))
    trap = buffer(_POINTER_BYTES)
    error = capi.func_call(context, pointer, None, 0, address(results), count, address(trap))
    if not error and not trap[0]:
        return None
    # An exit is the common one; what the engine has to say of it, names and all, is left unsaid and not freed.
    if host.failure is not None:
        raise host.failure
    if host.box and host.box[mailbox.EXITED]:
        return Outcome(host.box[mailbox.EXIT_CODE])
    if trap[0] and _out_of_fuel(trap[0]):
        raise _fuel_error(workload)
    return Outcome(TRAP_STATUS, trap=capi.take_error(error) if error else capi.take_trap(trap[0]))


def _out_of_fuel(trap: int) -> bool:
    code = buffer(8)
    return bool(capi.trap_code(trap, address(code)) and code[0] & 0xFF == capi.OUT_OF_FUEL)


def _fuel_error(workload: Workload) -> KeepError:
    fuel = workload.limits.fuel
    return KeepError(
        f"workload stopped: fuel: found more than {fuel} units, want at most {fuel}",
        hint="raise --fuel, or limits.fuel in Enarx.toml",
    )


def _memory_hint(context: int, memory: Any | None, workload: Workload) -> str | None:
    """Say so when a workload that failed had used most of its memory: the engine keeps no record of refused growth."""
    if memory is None:
        return None
    used = capi.memory_data_size(context, address(memory) + capi.OFFSET_EXTERN_OF)
    limit = workload.limits.memory_bytes
    if used * 2 <= limit:
        return None
    return f"its memory stood at {used} of {limit} bytes; --memory or limits.memory raises the limit"
