# SPDX-License-Identifier: Apache-2.0
"""`enarx run`: a workload in a Keep on this machine.

On the path of every start: what is imported at the top is what saying hello needs.
"""

from __future__ import annotations

import gc
import posix

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import EnarxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.deploy.package_source import OpenedPackage
    from enarx.runtime.workload import Workload

_MAIN = "main.wasm"
_CONFIG = "Enarx.toml"
_MAX_STATUS = 99
_DIRECTORY, _FILE = 0o040000, 0o100000
PACKAGE_OPTIONS = ("accept-new-digest", "decryption-key")
BACKENDS = ("auto", "snp", "tdx", "cca", "sgx", "vm", "nil")


def fill_standard_descriptors() -> None:
    """Put the null device where the caller closed stdin, stdout or stderr.

    Else the next file or socket opened would get that number, and the workload would read or write it as its stdio.
    """
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            # Inheritable or not does not matter, and it gets `fd`: the lowest number that is free.
            posix.open("/dev/null", posix.O_RDWR)


def _run(parsed: Parsed) -> int:
    from enarx.host.backends import choose_backend

    fill_standard_descriptors()
    requested = parsed.value("backend") or "auto"
    backend = choose_backend(requested)
    if not _is_stored(parsed.operands[0]):
        return _run_at(parsed, None, requested, backend)
    from enarx.cli.package import open_named

    with open_named(parsed) as opened:
        return _run_at(parsed, opened, requested, backend)


def _run_at(parsed: Parsed, opened: OpenedPackage | None, requested: str, backend: str) -> int:
    module, config = _sources(parsed, parsed.operands[0] if opened is None else opened.path)
    workload = _workload(parsed, module, config)

    from enarx.runtime import run_workload
    from enarx.runtime.cache import Cache, default_root
    from enarx.runtime.watch import watch

    verbose = parsed.flag("verbose")

    def fail(error: EnarxError) -> None:
        ui.show_error(error, verbose=verbose)

    leave = None if opened is None else opened.remove
    say = ui.note if verbose else ui.silence
    # Compiling is the engine's too: Ctrl-C has to end it from outside.
    cache = Cache(default_root(), say, before_compiling=lambda: watch(None, fail, leave))
    if opened is not None and opened.was_encrypted:
        cache = cache.apart()

    def begin() -> None:
        if requested == "auto":
            ui.note(f"backend {backend}: nothing here protects data in use (enarx platform info says why)")
        watch(workload.limits.timeout_s, fail, leave)
        # The launcher switched it off for the start; what was made since lives as long as the workload.
        gc.freeze()
        gc.enable()

    outcome = run_workload(workload, cache, begin)
    if outcome.trap is not None:
        from enarx.cli.traps import show_trap

        show_trap(module if opened is None else opened.name, outcome.trap)
    elif outcome.status > _MAX_STATUS:
        ui.note(
            f"the workload ended with status {outcome.status}; ending with {_MAX_STATUS}, since what is above is ours"
        )
    if outcome.hint and outcome.status:
        ui.show_hint(outcome.hint)
    return outcome.status if outcome.trap is not None else min(outcome.status, _MAX_STATUS)


def _is(path: str, kind: int) -> bool:
    """Return whether a path leads to a file of a kind."""
    try:
        return posix.stat(path).st_mode & 0o170000 == kind
    except OSError:
        return False


def _is_stored(path: str) -> bool:
    """Return whether a package has to be opened first: it is in a registry, an OCI layout, or an archive of one."""
    if path.startswith("oci://") or path.endswith(".tar"):
        return True
    if _is(f"{path}/oci-layout", _FILE):
        return not _is(f"{path}/{_MAIN}", _FILE)
    # A tag or a digest stands behind the path of a layout.
    return ":" in path and not _is(path, _FILE) and not _is(path, _DIRECTORY)


def _sources(parsed: Parsed, module: str) -> tuple[str, str | None]:
    """Return the module's file and the configuration's, if there is one."""
    config = parsed.value("wasmcfgfile")
    if not _is(module, _DIRECTORY):
        return module, config
    main, beside = f"{module}/{_MAIN}", f"{module}/{_CONFIG}"
    if not _is(main, _FILE):
        raise UsageError(f"cannot run {module}: found a directory without {_MAIN}, want {main}")
    if config is None and _is(beside, _FILE):
        config = beside
    return main, config


def _workload(parsed: Parsed, module: str, config: str | None) -> Workload:
    """Put the configuration file and the options over it together."""
    from enarx.runtime.workload import Limits, Tls, Workload, standard_files

    if config is None and len(parsed.values) == parsed.flag("backend") + parsed.flag("verbose"):
        # Nothing is said at all: what holds then needs no records.
        return Workload(
            module, args=parsed.rest or (), files=standard_files(), announce_files=False, limits=Limits(), tls=Tls()
        )
    from enarx.cli.workload_options import read_config, read_directory, read_overrides
    from enarx.runtime.from_toml import make_workload
    from enarx.wire.overrides import apply_overrides, require_steward

    toml = None if config is None else read_config(config)
    dirs = [read_directory(word) for word in parsed.all("dir")]
    effective = apply_overrides(toml, read_overrides(parsed))
    require_steward(effective, has_steward=False)
    return make_workload(
        module,
        effective,
        announce_files=config is not None or bool(parsed.all("listen")),
        folder=(config or "").rpartition("/")[0],
        dirs=dirs,
    )


COMMANDS = {
    "run": Command(
        "run",
        operands=("MODULE",),
        rest="ARG...",
        summary="run an application in a Keep on this machine",
        description=(
            "Run a WebAssembly application in a Keep on this machine. MODULE is a core module, a component or\n"
            "WebAssembly text, a directory with main.wasm and Enarx.toml, or a package: an OCI layout, a .tar of one, or\n"
            "oci://HOST/REPOSITORY:TAG (docs/packages.md). The status is the workload's own, 0 to 99; 134 is a trap, 130\n"
            "is Ctrl-C, and from 101 on it is ours (docs/cli.md)."
        ),
        options=(
            Option(
                "backend",
                "KEEP",
                "auto, snp, tdx, cca, sgx, vm or nil; auto is the first that can be used here and protects data in"
                " use, else nil",
                environment="ENARX_BACKEND",
                choices=BACKENDS,
            ),
            Option(
                "wasmcfgfile",
                "FILE",
                "the Enarx.toml that says what the application is given",
                environment="ENARX_WASMCFGFILE",
            ),
            Option("env", "NAME=VALUE", "set an environment variable", repeat=True),
            Option("dir", "HOST::GUEST", "give it a directory; HOST::GUEST::ro for reading only", repeat=True),
            Option("listen", "NAME=PORT", "listen on a port, with TLS; NAME=tcp:PORT without", repeat=True),
            Option("memory", "SIZE", "limit of each memory, such as 64MiB; 1GiB if nothing is said"),
            Option("timeout", "DURATION", "limit of wall time, such as 1.5s or 2m"),
            Option("fuel", "N", "limit of instructions, in the engine's fuel; slows code down"),
            Option("output", "SIZE", "limit of what is written to stdout and stderr together"),
            Option("open-files", "N", "limit of files and sockets open at once; 1024 if nothing is said"),
            Option("accept-new-digest", "", "let a registry's tag lead to another package than it did last"),
            Option("decryption-key", "FILE", "opens an encrypted package", repeat=True),
        ),
        examples=(
            ("enarx run hello.wasm", "run it; `auto` says on stderr what does not protect it"),
            ("enarx run app.wasm --env LANG=C --dir ./data::/data::ro -- --verbose", "with all it needs"),
            ("enarx run server/ --listen http=tcp:8080 --timeout 10m", "serve for ten minutes"),
            ("enarx run oci://registry.example/team/app:1.0", "fetch it, and run it"),
        ),
        run=_run,
    )
}
