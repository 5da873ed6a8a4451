# SPDX-License-Identifier: Apache-2.0
"""All Keeps of a host: who may have how many, how they begin and end, and how a new host process takes them over.

Quotas are reserved before anything is waited for, so that requests at the same moment cannot share one. A record is written
before a process is started and the pid as soon as there is one; a host that is killed in between finds that process by its
mark and ends it, because nobody was told of that Keep yet.

What holds it together: one account of what Keeps take (`reserved`, `hosted`, and the store behind them), which beginning,
adopting, uploading and ending a Keep all read and change.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from enarx.channel.link import Stream
from enarx.channel.segments import ciphertext_length
from enarx.errors import EnarxError, KeepError, PlatformError, TransportError, UsageError
from enarx.host.backends import reservation
from enarx.host.blobs import Blob, BlobFolder
from enarx.host.hosted import HostedKeep
from enarx.host.launchers import KeepSpec, Launched, Launcher
from enarx.host.models import MAX_BLOBS
from enarx.host.process_facts import boot_id
from enarx.host.relay import Outbound, bind_port
from enarx.host.state import StateFolder
from enarx.host.store import KeepRecord, Reason, Store
from enarx.host.tenants import Tenant
from enarx.serving.logs import Log

__all__ = ["Fleet", "HostLimits", "QuotaError", "UnknownKeepError", "blob_limit", "package_limit"]

QUEUE_TIMEOUT_S = 120.0
"""How long a new Keep waits for its turn to start, where many are started at once."""

UNCLAIMED_S = 120.0
"""How long a Keep is kept with which nobody ever opened a session. Whoever asked for it has gone."""

ADOPT_TIMEOUT_S = 10.0
HOUSEKEEPING_S = 30.0

MIN_PACKAGE_BYTES = 32 << 20
"""The package limit of Keeps that have little memory, if the host's is not lower."""

_ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What this host has for Keeps.

    Args:
        keeps: how many at once.
        memory_bytes: for all of them together, packages and machines included.
        disk_bytes: for uploaded blobs of all of them together.
        package_bytes: the largest package of one Keep, however much memory it has.
        log_bytes: of output that a Keep keeps.
        ports: the lowest and the highest port that may be asked for by number.
    """

    keeps: int = 256
    memory_bytes: int
    disk_bytes: int = 64 << 30
    package_bytes: int = 512 << 20
    log_bytes: int = 1 << 20
    ports: tuple[int, int] = (1024, 65_535)


class UnknownKeepError(UsageError):
    """There is no such Keep, or it is another tenant's, which is the same to whoever asks."""


class QuotaError(UsageError):
    """The tenant has as much as it may have."""


def package_limit(memory_bytes: int, most_bytes: int) -> int:
    """Return the largest package of a Keep: half of its memory, and at least what a language's runtime takes.

    Args:
        memory_bytes: of the Keep's workload.
        most_bytes: that the host allows.
    """
    return min(most_bytes, max(memory_bytes // 2, MIN_PACKAGE_BYTES))


def blob_limit(package_bytes: int) -> int:
    """Return the largest blob for a limit on plaintext."""
    return ciphertext_length(package_bytes)


class Fleet:
    """The Keeps of one host.

    Args:
        folder: the state directory.
        store: what is remembered.
        launchers: by backend.
        limits: of the host.
        outbound: connects to the network for Keeps.
        publish: address on which ports are published.
        log: where events go.
        clock_ns: Unix time.
    """

    def __init__(
        self,
        *,
        folder: StateFolder,
        store: Store,
        launchers: Mapping[str, Launcher],
        limits: HostLimits,
        outbound: Outbound,
        publish: str,
        log: Log,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.limits = limits
        self.is_draining = False
        self.ended_keeps = 0
        """How many ended since this host process began."""
        self.relayed_before = (0, 0)
        """Bytes from and to those that ended."""
        self._folder = folder
        self._store = store
        self._launchers = launchers
        self._outbound = outbound
        self._publish = publish
        self._log = log
        self._clock_ns = clock_ns
        self._boot = boot_id()
        # Starting ones are reserved here before they are hosted.
        self._reserved: dict[str, KeepRecord] = {}
        self._hosted: dict[str, HostedKeep] = {}
        # Those whose end the store could not be told of, because the disk was full.
        self._untold: dict[str, KeepRecord] = {}
        # A start is some tenths of a second of a CPU. All at once, none would be ready in time.
        self._starts = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._empty = asyncio.Event()
        self._empty.set()

    # --- What there is

    @property
    def hosted(self) -> Mapping[str, HostedKeep]:
        """Return the Keeps that can be reached, by id."""
        return self._hosted

    @property
    def reserved(self) -> Mapping[str, KeepRecord]:
        """Return the Keeps that count against limits: those that run and those that are starting."""
        return self._reserved

    @property
    def disk_bytes(self) -> int:
        """Return what uploaded blobs take or will take."""
        return sum(keep.blobs.reserved_bytes for keep in self._hosted.values())

    def records(self, tenant: Tenant | None = None) -> list[KeepRecord]:
        """List the Keeps that are remembered, of one tenant or of all."""
        return [
            self._untold.get(record.id, record)
            for record in self._store.keeps()
            if tenant is None or record.tenant == tenant.name
        ]

    def record_untrusted(self, tenant: Tenant, identifier: str) -> KeepRecord:
        """Return a tenant's Keep.

        Raises:
            UnknownKeepError: it has none of that name.
        """
        for record in self.records(tenant):
            if record.id == identifier:
                return record
        raise UnknownKeepError(f"cannot find the Keep: found none of the name {identifier[:64]!r}")

    def hosted_untrusted(self, tenant: Tenant, identifier: str) -> HostedKeep:
        """Return a tenant's Keep that runs.

        Raises:
            UnknownKeepError: it has none of that name.
            KeepError: it has ended, or is not there yet.
        """
        keep = self._hosted.get(identifier)
        if keep is None or keep.record.tenant != tenant.name:
            record = self.record_untrusted(tenant, identifier)
            raise KeepError(
                f"cannot reach the Keep: {record.id}: found it {record.state}, want it ready"
                + ("" if record.reason is None else f"; {record.reason.message}"),
                hint=record.reason and record.reason.hint,
            )
        return keep

    # --- Beginning

    async def create(
        self, tenant: Tenant, *, backend: str, memory_bytes: int, ports: tuple[tuple[str, int], ...]
    ) -> KeepRecord:
        """Start a Keep; it is ready when this returns.

        Raises:
            UsageError: no such backend, or ports that cannot be.
            QuotaError: the tenant has as much as it may have.
            PlatformError: the host has no room or cannot start it, or a port is not free.
            KeepError: the Keep did not answer.
            TransportError: too many wanted to start before it.
        """
        launcher = self._launcher(backend)
        self._require_ports(ports)
        package_bytes = package_limit(memory_bytes, self.limits.package_bytes)
        reserved_bytes = launcher.reserved_bytes(memory_bytes, package_bytes)
        self._require_room(tenant, reserved_bytes)
        record = KeepRecord(
            id=secrets.token_hex(_ID_BYTES),
            tenant=tenant.name,
            backend=backend,
            state="starting",
            created_ns=self._clock_ns(),
            memory_bytes=memory_bytes,
            package_bytes=package_bytes,
            ports=ports,
            boot=self._boot,
            reserved_bytes=reserved_bytes,
        )
        self._reserved[record.id] = record
        self._empty.clear()
        listeners: list[tuple[str, socket.socket]] = []
        try:
            # One by one, so that those that were bound are closed when the next cannot be.
            for name, port in ports:
                listeners.append((name, bind_port(self._publish, port)))
            self._store.add(record)
            return await self._start(record, launcher, listeners)
        except BaseException as error:
            for _, listener in listeners:
                listener.close()
            if record.id in self._reserved and record.id not in self._hosted:
                self._forget(record.id, "ended", reason=error if isinstance(error, EnarxError) else None)
            if isinstance(error, EnarxError):
                self._log.warning("keep-not-started", keep=record.id, tenant=tenant.name, reason=str(error))
            raise

    async def _start(
        self, record: KeepRecord, launcher: Launcher, listeners: list[tuple[str, socket.socket]]
    ) -> KeepRecord:
        try:
            async with asyncio.timeout(QUEUE_TIMEOUT_S):
                await self._starts.acquire()
        except TimeoutError as error:
            raise TransportError(
                "cannot start a Keep: found too many others starting", hint="try again later"
            ) from error
        try:
            if self.is_draining:
                raise PlatformError("cannot start a Keep: found the host draining", hint="use another host")
            folder = self._folder.make_keep(record.id)
            spec = KeepSpec(
                id=record.id,
                memory_bytes=record.memory_bytes,
                package_bytes=record.package_bytes,
                log_bytes=self.limits.log_bytes,
            )
            launched = launcher.start(spec, folder)
            keep = self._host(record, launcher, launched, {})
            bound = tuple((name, listener.getsockname()[1]) for name, listener in listeners)
            try:
                self._store.started(record.id, launched.pid, launched.start_ticks, launched.tpm_key_sha256)
                await keep.connect()
                self._store.ready(record.id, bound)
            except BaseException as error:
                # `_keep_ended` forgets it as soon as it is gone.
                keep.give_up(error if isinstance(error, EnarxError) else None, is_lost=False)
                raise
        finally:
            self._starts.release()
        keep.publish(listeners)
        keep.record = replace(record, state="ready", ports=bound, tpm_key_sha256=launched.tpm_key_sha256)
        self._reserved[record.id] = keep.record
        self._log.info("keep-ready", keep=record.id, tenant=record.tenant, backend=record.backend, pid=launched.pid)
        return keep.record

    def _launcher(self, backend: str) -> Launcher:
        if backend not in self._launchers:
            raise PlatformError(
                f"backend {backend}: found no launcher on this host, want {', '.join(self._launchers)}",
                hint=reservation(backend) or "enarx platform info says what a machine has",
            )
        return self._launchers[backend]

    def _require_ports(self, ports: tuple[tuple[str, int], ...]) -> None:
        low, high = self.limits.ports
        names = [name for name, _ in ports]
        if len(set(names)) != len(names):
            raise UsageError("cannot publish ports: found a name twice, want each once")
        for _, port in ports:
            if port and not low <= port <= high:
                raise UsageError(f"cannot publish ports: found {port}, want {low} to {high}, or 0 for any that is free")

    def _require_room(self, tenant: Tenant, wanted_bytes: int) -> None:
        if self.is_draining:
            raise PlatformError("cannot start a Keep: found the host draining", hint="use another host")
        own = [record for record in self._reserved.values() if record.tenant == tenant.name]
        if len(own) >= tenant.max_keeps:
            raise QuotaError(
                f"cannot start a Keep: found {len(own)}, want fewer than {tenant.max_keeps} of yours at once"
            )
        taken = sum(record.reserved_bytes for record in own)
        if taken + wanted_bytes > tenant.max_memory_bytes:
            raise QuotaError(
                f"cannot start a Keep: memory: found {taken} bytes taken and {wanted_bytes} wanted, package and machine"
                f" included, want at most {tenant.max_memory_bytes} of yours at once"
            )
        if len(self._reserved) >= self.limits.keeps:
            raise PlatformError("cannot start a Keep: found as many as this host can have", hint="try again later")
        taken = sum(record.reserved_bytes for record in self._reserved.values())
        if taken + wanted_bytes > self.limits.memory_bytes:
            raise PlatformError(
                "cannot start a Keep: found too little memory left on this host",
                hint="ask for less, or try again later",
            )

    def _host(self, record: KeepRecord, launcher: Launcher, launched: Launched, blobs: dict[str, int]) -> HostedKeep:
        folder = self._folder.keep(record.id)
        keep = self._hosted[record.id] = HostedKeep(
            record,
            folder=folder,
            launcher=launcher,
            launched=launched,
            outbound=self._outbound,
            blobs=BlobFolder(os.path.join(folder, "blobs"), blobs),
            publish=self._publish,
            log=self._log,
            on_end=self._keep_ended,
        )
        return keep

    async def adopt_all(self) -> None:
        """Take over what another host process left; what cannot be reached is ended, and none is forgotten."""
        self._folder.remove_strangers({record.id for record in self._store.keeps()})
        running = [record for record in self._store.keeps() if record.state in {"starting", "ready"}]
        await asyncio.gather(*(self._adopt(record) for record in running))

    async def _adopt(self, record: KeepRecord) -> None:
        self._reserved[record.id] = record
        self._empty.clear()
        launcher = self._launchers.get(record.backend)
        launched = None
        if launcher is not None and record.boot == self._boot:
            if record.pid is None or record.start_ticks is None:
                launcher.stop_strays(record.id)
            else:
                launched = launcher.adopt(record.id, record.pid, record.start_ticks)
        if launcher is None or launched is None:
            # A Keep that was starting and is gone was told to nobody; one that was ready ended while nobody looked.
            reason = None if launcher is None else launcher.explain(self._folder.keep(record.id))
            self._forget(record.id, "lost" if record.state == "starting" else "ended", reason=reason)
            return
        keep = self._host(record, launcher, launched, self._store.blobs(record.id))
        try:
            if record.state == "starting":
                raise KeepError("found it starting when the host before ended")
            await keep.connect(timeout_s=ADOPT_TIMEOUT_S)
        except KeepError as error:
            self._log.warning("keep-lost", keep=record.id, reason=str(error))
            keep.reason, keep.is_lost = error, True
            try:
                await keep.stop()
            except PlatformError as problem:
                # It counts as long as it is there, and when it goes that is seen.
                self._log.warning("keep-not-stopped", keep=record.id, reason=str(problem))
            return
        keep.publish_again(record.ports)
        self._log.info("keep-adopted", keep=record.id, tenant=record.tenant, backend=record.backend, pid=launched.pid)

    # --- Sessions and blobs

    @contextlib.asynccontextmanager
    async def session(self, tenant: Tenant, identifier: str) -> AsyncIterator[Stream]:
        """Open a stream for a session with a tenant's Keep, until the block ends.

        Raises:
            UnknownKeepError: the tenant has no such Keep.
            KeepError: it has ended, or cannot be reached now.
            TransportError: it has too many sessions.
        """
        keep = self.hosted_untrusted(tenant, identifier)
        async with keep.session() as stream:
            if not keep.record.claimed:
                keep.record = replace(keep.record, claimed=True)
                self._store.claimed(identifier)
            yield stream

    def blob_untrusted(self, tenant: Tenant, identifier: str, digest: str, length: int) -> Blob:
        """Return a blob to be uploaded, new or begun before.

        Raises:
            UnknownKeepError: the tenant has no such Keep.
            KeepError: it has ended.
            UsageError: it is too large, or was announced with another length.
            QuotaError: the tenant's disk quota has no room for it.
            PlatformError: the host's has none.
        """
        keep = self.hosted_untrusted(tenant, identifier)
        blob = keep.blobs.find(digest)
        if blob is not None:
            if blob.length != length:
                raise UsageError(f"cannot take the blob: length: found {length}, want {blob.length} as before")
            return blob
        most = blob_limit(keep.record.package_bytes)
        if length > most:
            raise UsageError(f"cannot take the blob: length: found {length} bytes, want at most {most}")
        if len(keep.blobs) >= MAX_BLOBS:
            raise UsageError(f"cannot take the blob: found {MAX_BLOBS} for this Keep, want no more")
        taken = sum(k.blobs.reserved_bytes for k in self._hosted.values() if k.record.tenant == tenant.name)
        if taken + length > tenant.max_disk_bytes:
            raise QuotaError(
                f"cannot take the blob: disk: found {taken} bytes taken and {length} wanted, want at most"
                f" {tenant.max_disk_bytes} of yours at once"
            )
        if self.disk_bytes + length > self.limits.disk_bytes:
            raise PlatformError("cannot take the blob: found too little disk left on this host", hint="try again later")
        self._store.add_blob(identifier, digest, length)
        return keep.blobs.announce(digest, length)

    # --- Ending

    async def delete(self, tenant: Tenant, identifier: str) -> KeepRecord:
        """End a tenant's Keep; one that has ended stays so.

        Raises:
            UnknownKeepError: the tenant has no such Keep.
            PlatformError: it does not end.
        """
        record = self.record_untrusted(tenant, identifier)
        keep = self._hosted.get(identifier)
        if keep is not None:
            await keep.stop()
        return self.record_untrusted(tenant, record.id)

    def _keep_ended(self, keep: HostedKeep) -> None:
        received, sent = keep.relayed_bytes
        self.relayed_before = (self.relayed_before[0] + received, self.relayed_before[1] + sent)
        self.ended_keeps += 1
        del self._hosted[keep.record.id]
        keep.blobs.close()
        self._forget(keep.record.id, "lost" if keep.is_lost else "ended", status=keep.exit_status, reason=keep.reason)

    def _forget(
        self, identifier: str, state: str, *, status: int | None = None, reason: EnarxError | None = None
    ) -> None:
        record = self._reserved.pop(identifier)
        # First the folder: what is in there may be what fills the disk.
        self._folder.remove_keep(identifier)
        self._untold[identifier] = replace(
            record, state=state, ended_ns=self._clock_ns(), reason=None if reason is None else Reason.of(reason)
        )
        self._tell_store()
        if not self._reserved:
            self._empty.set()
        self._log.info("keep-ended", keep=identifier, state=state, status=status)

    def _tell_store(self) -> None:
        """Have the store remember who ended; where it cannot now, that is tried again."""
        try:
            for record in list(self._untold.values()):
                self._store.ended(record.id, record.state, record.ended_ns or 0, record.reason)
                del self._untold[record.id]
        except PlatformError as error:
            self._log.warning("state-not-written", reason=str(error))

    async def wait_empty(self) -> None:
        """Wait until the last Keep has ended."""
        await self._empty.wait()

    async def stop_all(self) -> None:
        """End every Keep."""
        await asyncio.gather(*(keep.stop() for keep in list(self._hosted.values())))

    def leave_all(self) -> None:
        """Let go of every Keep; they go on, and the next host process takes them over."""
        for keep in list(self._hosted.values()):
            keep.leave()

    async def keep_house(self) -> None:
        """Look after files, and end Keeps that nobody came for, for ever."""
        while True:
            for keep in list(self._hosted.values()):
                keep.trim_console()
                if not keep.record.claimed and keep.age_s > UNCLAIMED_S:
                    self._log.info("keep-unclaimed", keep=keep.record.id)
                    keep.give_up(
                        KeepError(f"the Keep was ended: found no session in {UNCLAIMED_S:g} s, want one"), is_lost=False
                    )
            self._tell_store()
            await asyncio.sleep(HOUSEKEEPING_S)
