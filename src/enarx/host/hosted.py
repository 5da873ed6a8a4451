# SPDX-License-Identifier: Apache-2.0
"""One Keep, as its host has it: a process, the link to it, its published ports and its blobs.

A Keep outlives its link and its host. What is made here from a record of the store, after the host was killed, is the same
object as for a new Keep. Neither believes the other: every stream that the Keep opens has a limit to its number, and a Keep
whose link breaks again and again is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from enarx.channel.link import Link, Stream, Target, open_link
from enarx.errors import EnarxError, KeepError, PlatformError, TransportError
from enarx.host.blobs import BlobFolder
from enarx.host.launchers import Launched, Launcher
from enarx.host.platform import answer_platform
from enarx.host.process_facts import Usage, usage_of
from enarx.host.relay import MAX_INBOUND, MAX_LOOKUPS, Outbound, PublishedPort, bind_port
from enarx.host.store import KeepRecord
from enarx.serving.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.image.measure import LaunchParts

__all__ = ["HostedKeep"]

RECONNECT_TIMEOUT_S = 20.0
"""From a new link to the first word of a Keep that runs."""

TIDY_S = 1.0
"""For a Keep that is told to end, to remove what it has in memory by name; then it is killed."""

STOP_TIMEOUT_S = 10.0
"""From the kill to the end of the process."""

ENDING_S = 5.0
"""From the end of a link to the end of the process, where that was the reason."""

RESTORE_S = 5.0
"""What a session waits for a link where the last one broke."""

MAX_SESSIONS = 16
"""At once; the Keep itself takes fewer, and a new one may come before the host saw the old one end."""

MAX_OF_KIND = {"outbound": 256, "blob": 8, "platform": 4}
MAX_BUFFERED_BYTES = 32 << 20
MAX_CONSOLE_BYTES = 64 << 10
MAX_BREAKS = 5
"""How often a link may break in `BREAKS_WITHIN_S`."""

BREAKS_WITHIN_S = 60.0
_PORT_RETRY_S = 2.0


class HostedKeep:
    """A Keep that runs, or is about to.

    Args:
        record: as it is in the store.
        folder: its folder in the state directory.
        launcher: which started it.
        launched: its process.
        outbound: connects to the network for it.
        blobs: what was uploaded for it.
        publish: the address on which its ports are published.
        log: where events go.
        on_end: is called once with this object when the process has ended.
    """

    def __init__(
        self,
        record: KeepRecord,
        *,
        folder: str,
        launcher: Launcher,
        launched: Launched,
        outbound: Outbound,
        blobs: BlobFolder,
        publish: str,
        log: Log,
        on_end: Callable[[HostedKeep], None],
    ) -> None:
        self.record = record
        self.blobs = blobs
        self.ended = asyncio.Event()
        self.is_lost = False
        """Whether it was ended because nothing could be said to it."""
        self.exit_status: int | None = None
        """Of the process, where it was our child; minus the number of the signal that ended it."""
        self.reason: EnarxError | None = None
        """Why it ended, where that was an error: its launcher's word, or else this host's own."""
        self.sessions = 0
        self._folder = folder
        self._launcher = launcher
        self._launched = launched
        self._outbound = outbound
        self._publish = publish
        self._log = log
        self._on_end = on_end
        self._link: Link | None = None
        # While there is a link, and once there will be none any more.
        self._settled = asyncio.Event()
        self._is_told_to_end = False
        self._received = self._sent = 0
        self._ports: list[PublishedPort] = []
        self._of_kind: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._parts: LaunchParts | None = None
        self._telling = asyncio.Lock()
        self._since = asyncio.get_running_loop().time()
        asyncio.get_running_loop().add_reader(launched.pidfd, self._process_ended)

    # --- Life

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect the link; from then on, keep it connected.

        Args:
            timeout_s: for its first word; None is as long as one may take that was just started.

        Raises:
            KeepError: the Keep ended, or said nothing in time.
            PlatformError: it ended because this machine does not give what it needs.
        """
        timeout_s = self._launcher.start_timeout_s if timeout_s is None else timeout_s
        until = asyncio.get_running_loop().time() + timeout_s
        try:
            await self._connect_once(timeout_s)
        except KeepError as error:
            # One that fails closes its end of the link a moment before it has said why.
            is_early = asyncio.get_running_loop().time() < until
            if is_early and await self._ends_within(ENDING_S) and self.reason is not None:
                raise self.reason from error
            raise
        self._spawn(self._stay_connected())

    async def _connect_once(self, timeout_s: float) -> None:
        try:
            if self.ended.is_set():
                raise TransportError("found it ended")
            sock = self._launcher.connect(self._folder)
            link = await open_link(
                sock, role="host", accept=self._accept, timeout_s=timeout_s, max_buffered_bytes=MAX_BUFFERED_BYTES
            )
            if self.ended.is_set():
                link.close()
                raise TransportError("found it ended")
        except (OSError, TransportError) as error:
            raise KeepError(f"cannot reach the Keep: {self.record.id}: {error}") from error
        self._link = link
        self._settled.set()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        breaks: list[float] = []
        while self._link is not None:
            reason = await self._link.wait_closed()
            self._forget_link()
            now = loop.time()
            breaks = [*(at for at in breaks if now - at < BREAKS_WITHIN_S), now]
            try:
                if len(breaks) > MAX_BREAKS:
                    raise KeepError(
                        f"cannot reach the Keep: {self.record.id}: found its link broken {len(breaks)} times"
                    )
                await self._connect_once(RECONNECT_TIMEOUT_S)
            except KeepError as error:
                # A process that ends closes its sockets a moment before.
                if not await self._ends_within(ENDING_S):
                    self._log.warning("keep-lost", keep=self.record.id, reason=str(error))
                    self.give_up(error, is_lost=True)
                return
            self._log.warning("link-restored", keep=self.record.id, reason=reason)
            self.publish_again([(port.name, port.port) for port in self._ports])

    def _forget_link(self) -> None:
        if self._link is not None:
            self._received += self._link.received_bytes
            self._sent += self._link.sent_bytes
            self._link = None
            self._settled.clear()

    def _process_ended(self) -> None:
        pidfd = self._launched.pidfd
        asyncio.get_running_loop().remove_reader(pidfd)
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None  # another host's child, which somebody else waits for
        os.close(pidfd)
        if result is not None:
            self.exit_status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
            if self.exit_status >= 0:
                # One that ended by itself while it was given up is as good as any that did.
                self.is_lost, self.reason = False, None
            elif not self._is_told_to_end:
                self.reason = KeepError(
                    f"the Keep ended: its process: found it killed by signal {-self.exit_status}, want it to run"
                )
        self.reason = self._launcher.explain(self._folder) or self.reason
        if self.reason is not None:
            self._log.warning("keep-failed", keep=self.record.id, reason=str(self.reason))
        self.ended.set()
        self._let_go()
        self._on_end(self)

    def _let_go(self) -> None:
        for port in self._ports:
            port.close()
        self._ports.clear()
        if self._link is not None:
            link = self._link
            if self.ended.is_set():
                # That it ended may be seen before the last that it said.
                link.close_after_peer("found the Keep ended")
            else:
                link.close("found the host about to end")
            self._forget_link()
        self._settled.set()
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """Let go of a Keep that goes on."""
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._launched.pidfd)
            self._let_go()
            os.close(self._launched.pidfd)

    @property
    def age_s(self) -> float:
        """Return for how long this host process has had it."""
        return asyncio.get_running_loop().time() - self._since

    def give_up(self, reason: EnarxError | None, *, is_lost: bool) -> None:
        """Kill the Keep, for a reason of this host's where there is one."""
        self.reason, self.is_lost = reason, is_lost
        self.kill()

    def kill(self) -> None:
        """End the Keep; that it has ended is seen a moment later."""
        if not self.ended.is_set():
            self._is_told_to_end = True
            self._launcher.stop(self._launched, at_once=True)

    async def stop(self) -> None:
        """Have the Keep end, kill it if it does not, and wait until it has ended.

        Raises:
            PlatformError: it has not, `STOP_TIMEOUT_S` after the kill.
        """
        if not self.ended.is_set():
            self._is_told_to_end = True
            self._launcher.stop(self._launched, at_once=False)
        if await self._ends_within(TIDY_S):
            return
        self.kill()
        if not await self._ends_within(STOP_TIMEOUT_S):
            raise PlatformError(f"cannot end the Keep: {self.record.id}: found it alive after it was killed")

    async def _ends_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- What the host opens

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Stream]:
        """Open a stream for a tenant's session, which is one of `sessions` until the block ends.

        Raises:
            KeepError: the Keep cannot be reached now.
            TransportError: it has too many sessions already.
        """
        if self.sessions >= MAX_SESSIONS:
            raise TransportError(f"cannot open a session: found {self.sessions}, want fewer than {MAX_SESSIONS}")
        # Before anything is waited for, so that two at the same moment cannot share the last place.
        self.sessions += 1
        try:
            stream = await (await self._await_link()).open(Target.session())
            try:
                yield stream
            finally:
                stream.close()
        finally:
            self.sessions -= 1

    async def _await_link(self) -> Link:
        """Return the link, waiting for a moment where it broke and is about to be restored."""
        if self._link is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTORE_S):
                    await self._settled.wait()
        if self._link is None:
            raise KeepError(f"cannot reach the Keep: {self.record.id}: found no link to it")
        return self._link

    def publish(self, listeners: list[tuple[str, socket.socket]]) -> None:
        """Publish ports on listening sockets, by name; they are this object's from here on."""
        if self._link is None:
            for _, listener in listeners:
                listener.close()
            return
        slots = asyncio.Semaphore(MAX_INBOUND)
        self._ports = [PublishedPort(name, listener, self._link, slots) for name, listener in listeners]

    def publish_again(self, ports: Sequence[tuple[str, int]]) -> None:
        """Publish ports that the Keep had before, as soon as nobody else has them."""
        for port in self._ports:
            port.close()
        self._ports.clear()
        self._spawn(self._publish_again(ports))

    async def _publish_again(self, ports: Sequence[tuple[str, int]]) -> None:
        listeners: list[tuple[str, socket.socket]] = []
        try:
            for name, port in ports:
                while True:
                    try:
                        listeners.append((name, bind_port(self._publish, port)))
                        break
                    except PlatformError as error:
                        self._log.warning("port-busy", keep=self.record.id, port=port, reason=str(error))
                    await asyncio.sleep(_PORT_RETRY_S)
        except BaseException:
            for _, listener in listeners:
                listener.close()
            raise
        self.publish(listeners)

    # --- What the Keep opens

    def _accept(self, stream: Stream) -> None:
        kind = stream.target.kind
        if self._of_kind[kind] >= MAX_OF_KIND[kind]:
            stream.reset("limit")
            return
        self._of_kind[kind] += 1
        self._spawn(self._serve(stream))

    async def _serve(self, stream: Stream) -> None:
        kind = stream.target.kind
        try:
            if kind == "outbound":
                await self._outbound.carry(stream, self._lookups)
            elif kind == "blob":
                await self._give_blob(stream)
            else:
                await answer_platform(stream, partial(self._launcher.report, self._launched))
        except EnarxError as error:
            # The stream is reset. Names of hosts are the workload's own affair, so they are not in the message.
            self._log.info("stream-failed", keep=self.record.id, kind=kind, reason=str(error))
        finally:
            # Ends what is not ended, whatever happened; a stream that is over stays as it is.
            stream.close()
            self._of_kind[kind] -= 1

    async def _give_blob(self, stream: Stream) -> None:
        try:
            blob = await self.blobs.wait_for(stream.target.digest.hex())
            async with contextlib.aclosing(blob.read()) as pieces:
                async for piece in pieces:
                    await stream.write(piece)
        except TransportError:
            stream.reset("timeout")
            raise
        except OSError as error:
            stream.reset("unreachable")
            raise PlatformError(f"cannot read a blob: {error.strerror}") from error

    # --- What it is

    async def parts(self) -> LaunchParts:
        """Return what the Keep's machine was started with, read from what runs when it is first asked for.

        Raises:
            PlatformError: it is no machine, or it cannot be told.
            DecodeError: it has no firmware that could be told.
        """
        async with self._telling:
            if self._parts is None:
                self._parts = await asyncio.to_thread(self._launcher.parts, self._folder)
            return self._parts

    # --- What the operator sees

    def usage(self) -> Usage | None:
        """Return what the Keep's processes use now; None where they are gone."""
        return None if self.ended.is_set() else usage_of(self._launched.pid)

    @property
    def relayed_bytes(self) -> tuple[int, int]:
        """Return how many bytes came from the Keep and went to it, in all."""
        received = sent = 0
        if self._link is not None:
            received, sent = self._link.received_bytes, self._link.sent_bytes
        return self._received + received, self._sent + sent

    def trim_console(self) -> None:
        """Empty the file of what the Keep says outside its sessions, when that is too much."""
        console = os.path.join(self._folder, "console")
        try:
            if os.stat(console).st_size > MAX_CONSOLE_BYTES:
                os.truncate(console, 0)
        except OSError as error:
            self._log.warning("console", keep=self.record.id, reason=str(error.strerror))
