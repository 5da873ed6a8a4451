# SPDX-License-Identifier: Apache-2.0
"""The host service from its start to its end: what is locked, opened and bound in which order, and what signals do.

Started: state directory, store, tenants, port, Keeps of the host process before, API. Whatever fails before the API does is
an error of the command. Ended: SIGTERM and SIGINT let Keeps go on for the next host process (`leave`), wait until they have
ended (`wait`), or end them (`stop`); while it waits, sessions go on and new Keeps are refused. A second signal ends the host
at once, and its Keeps go on. SIGHUP reads the tenants file again.

The private host of one deployment ends with whoever started it: when the pipe that it was given closes, and its Keeps with it.
Through that pipe it tells its address and the token of its one tenant; everybody else on this machine is a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from enarx.channel.memory import keep_freed_memory
from enarx.errors import EnarxError, PlatformError, UsageError
from enarx.host.api import make_app
from enarx.host.backends import BACKENDS
from enarx.host.fetching import RegistryFetcher
from enarx.host.fleet import Fleet, HostLimits
from enarx.host.launchers import Launcher
from enarx.host.launchers.nil import KEEP_PROGRAM, NilLauncher
from enarx.host.launchers.qemu import MACHINES, this_arch
from enarx.host.launchers.remote import RemoteLauncher, RemoteMachine
from enarx.host.launchers.sgx import SgxLauncher
from enarx.host.launchers.vm import VmLauncher
from enarx.host.metrics import Metrics
from enarx.host.relay import Outbound, OutboundRules
from enarx.host.state import StateFolder
from enarx.host.store import Store
from enarx.host.tenants import Tenants, load_tenants, private_tenants
from enarx.serving.http_server import (
    HttpServer,
    Listening,
    allow_many_files,
    bind_api,
    make_context,
    require_both,
    require_tls,
)
from enarx.serving.logs import Log
from enarx.wire.host_api import MAX_SESSION_PIECE_BYTES

__all__ = ["DRAINS", "HostOptions", "serve"]

DRAINS = ("leave", "wait", "stop")
SECOND_SIGNAL_STATUS = 130
_TOKEN_BYTES = 32
_READ_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """How a host is to be.

    Args:
        host: address to listen on, an IP address or localhost.
        port: 0 is any that is free.
        state: the state directory.
        limits: of the host.
        tenants: path of the tenants file, or None.
        tls_certificate: PEM files for the API, both or neither.
        tls_key: its key.
        client_ca: PEM file of who signs client certificates, or None.
        insecure_http: whether tenants' tokens may travel in the clear on a network.
        outbound: whether Keeps may connect anywhere.
        outbound_local: whether to addresses that are not public; None is yes without a tenants file and no with one.
        publish: address on which ports are published; None is the API's.
        keep_cpus: how many CPUs each Keep may use; None is all.
        drain: one of `DRAINS`.
        parent_fd: a pipe or socket to whoever this host is private to, or None; he is the only tenant.
        keep_program: the Python file that is a Keep process.
        image: name or digest of the image that machines are started with; None is the one of this version.
        vm_evidence: of `enarx.host.launchers.vm.EVIDENCE`: what `vm` Keeps attest with.
        experimental: whether there are launchers too that nobody has seen start a Keep.
        registries: from which encrypted layers may be fetched, each as `enarx.host.fetching.parse_allowed` returns it.
        machines: elsewhere, that run: for their backends they stand in the place of those that this host would start.
    """

    host: str
    port: int
    state: str
    limits: HostLimits
    tenants: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    insecure_http: bool = False
    outbound: bool = True
    outbound_local: bool | None = None
    publish: str | None = None
    keep_cpus: int | None = None
    drain: str = "leave"
    parent_fd: int | None = None
    keep_program: str = KEEP_PROGRAM
    image: str | None = None
    vm_evidence: str = "vtpm"
    experimental: bool = False
    registries: tuple[str, ...] = ()
    machines: tuple[RemoteMachine, ...] = ()


def serve(options: HostOptions, *, log: Log, announce: Callable[[str], None]) -> int:
    """Serve until a signal, or the end of the parent, ends it.

    Args:
        options: how.
        log: where events go.
        announce: is called with the URL once connections are accepted.

    Returns:
        the exit status.

    Raises:
        UsageError: the options do not go together, or a file cannot be used.
        ConfigError: the tenants file is wrong.
        PlatformError: the port is busy, or the state directory another host's.
    """
    _require_sense(options)
    allow_many_files()
    keep_freed_memory()
    parent_token = None if options.parent_fd is None else secrets.token_urlsafe(_TOKEN_BYTES)
    if parent_token is not None:
        tenants = private_tenants(parent_token.encode())
    else:
        tenants = Tenants(None) if options.tenants is None else load_tenants(options.tenants)
    context = None
    if options.tls_certificate is not None and options.tls_key is not None:
        context = make_context(options.tls_certificate, options.tls_key, options.client_ca)
    if tenants.use_certificates and options.client_ca is None:
        raise UsageError(
            f"cannot use the tenants file: {options.tenants}: found certificate_sha256 and no --client-ca",
            hint="give --client-ca with the certificates that sign, or are, those of tenants",
        )
    with contextlib.ExitStack() as stack:
        folder = StateFolder(options.state)
        stack.callback(folder.close)
        listening = bind_api(options.host, options.port, secure=context is not None)
        stack.callback(listening.sock.close)
        _require_safe(options, listening, secure=context is not None)
        store = Store(folder.store_path)
        stack.callback(store.close)
        server = _Service(options, log, tenants, folder, store, listening, parent_token)
        return asyncio.run(
            server.run(
                announce, lambda app: HttpServer(app, listening, context, max_message_bytes=MAX_SESSION_PIECE_BYTES)
            )
        )


def _require_sense(options: HostOptions) -> None:
    require_both(options.tls_certificate, options.tls_key)
    if options.client_ca is not None and options.tls_certificate is None:
        raise UsageError("cannot serve: found --client-ca without --tls-certificate, want both")
    if options.parent_fd is not None and options.tenants is not None:
        raise UsageError("cannot serve: found --tenants with --parent-fd, want one: a private host has one tenant")
    if options.drain not in DRAINS:
        raise UsageError(f"cannot serve: --drain: found {options.drain[:64]}, want one of {', '.join(DRAINS)}")


def _require_safe(options: HostOptions, listening: Listening, *, secure: bool) -> None:
    """Refuse to let a network in without asking who it is, or to have it hear tokens."""
    if listening.is_loopback:
        return
    if options.tenants is None:
        raise UsageError(
            f"cannot listen on {listening.host}: found no tenants file, want one where others than this machine can connect",
            hint="give --tenants FILE, or listen on 127.0.0.1",
        )
    require_tls(listening, secure=secure, insecure_http=options.insecure_http, what="tokens")


def _launchers(options: HostOptions) -> Mapping[str, Launcher]:
    """Return what can start Keeps on a machine of this architecture, by backend."""
    is_private = options.parent_fd is not None
    found: dict[str, Launcher] = {
        backend: VmLauncher(
            backend,
            evidence=options.vm_evidence,
            image=options.image,
            # Whoever runs a host for himself named the image himself.
            foreign=options.experimental or is_private,
            cpus=options.keep_cpus,
            dies_with_host=is_private,
        )
        for (backend, arch), kind in MACHINES.items()
        # `pef` has no way to evidence, so no tenant could ask for it.
        if arch == this_arch() and backend in BACKENDS and (options.experimental or not kind.flagged)
    }
    if options.experimental and this_arch() == "x86_64":
        found["sgx"] = SgxLauncher(image=options.image, dies_with_host=is_private)
    for backend in {machine.backend for machine in options.machines}:
        machines = [machine for machine in options.machines if machine.backend == backend]
        found[backend] = RemoteLauncher(backend, machines, dies_with_host=is_private)
    nil = NilLauncher(cpus=options.keep_cpus, dies_with_host=is_private, program=options.keep_program)
    return {**found, nil.backend: nil}


class _Service:
    """One run of the service."""

    def __init__(
        self,
        options: HostOptions,
        log: Log,
        tenants: Tenants,
        folder: StateFolder,
        store: Store,
        listening: Listening,
        parent_token: str | None,
    ) -> None:
        self._options = options
        self._log = log
        self._tenants = tenants
        self._folder = folder
        self._store = store
        self._listening = listening
        self._parent_token = parent_token
        self._signals = 0
        self._ending = asyncio.Event()

    async def run(self, announce: Callable[[str], None], make_server: Callable[..., HttpServer]) -> int:
        options = self._options
        local = options.outbound_local
        outbound = Outbound(
            OutboundRules(
                allowed=options.outbound,
                local=options.tenants is None if local is None else local,
                api=((self._listening.host, self._listening.port),),
            ),
            keeps=options.limits.keeps,
        )
        fleet = Fleet(
            folder=self._folder,
            store=self._store,
            launchers=_launchers(options),
            limits=options.limits,
            outbound=outbound,
            publish=options.publish or self._listening.host,
            log=self._log,
        )
        self._watch_signals()
        await fleet.adopt_all()
        fetcher = RegistryFetcher(options.registries, self._log)
        server = make_server(
            make_app(
                fleet=fleet,
                tenants=lambda: self._tenants,
                metrics=Metrics(fleet),
                log=self._log,
                fetcher=fetcher,
            )
        )
        await server.start()
        house = asyncio.create_task(fleet.keep_house())
        try:
            self._tell_parent()
            announce(self._listening.url)
            await self._ending.wait()
            await self._drain(fleet)
        finally:
            house.cancel()
            fleet.is_draining = True
            await server.stop()
            await fetcher.close()
            fleet.leave_all()
            outbound.close()
        return 0

    async def _drain(self, fleet: Fleet) -> None:
        fleet.is_draining = True
        drain = "stop" if self._options.parent_fd is not None else self._options.drain
        self._log.info("draining", how=drain, keeps=len(fleet.reserved))
        if drain == "wait":
            await fleet.wait_empty()
        elif drain == "stop":
            await fleet.stop_all()

    # --- Who ends it

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        # Without a file to read again it is the end of the terminal.
        loop.add_signal_handler(signal.SIGHUP, self._load_tenants if self._options.tenants else self._signalled)

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            # At once: nothing here is worth waiting for, the state is written already.
            os._exit(SECOND_SIGNAL_STATUS)
        self._ending.set()

    def _load_tenants(self) -> None:
        if self._options.tenants is None:
            return
        try:
            self._tenants = load_tenants(self._options.tenants)
            self._log.info("tenants-loaded")
        except EnarxError as error:
            self._log.warning("tenants-not-loaded", reason=str(error))

    def _tell_parent(self) -> None:
        """Write our address and a token to whoever started us, and end when it does."""
        fd = self._options.parent_fd
        if fd is None:
            return
        try:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
            os.write(fd, f"{self._listening.url} {self._parent_token}\n".encode())
            asyncio.get_running_loop().add_reader(fd, self._parent_spoke)
        except (OSError, ValueError) as error:
            raise PlatformError(f"cannot tell our address: --parent-fd {fd}: {error}") from error

    def _parent_spoke(self) -> None:
        fd = self._options.parent_fd or 0
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            self._ending.set()
