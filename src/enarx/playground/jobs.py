# SPDX-License-Identifier: Apache-2.0
"""Jobs: one package of one visitor in one Keep, from its start until it is forgotten.

Rules of this file:

- A visitor has one job at a time, and all of them together as many as the Keeps that there may be. Nobody waits in a queue.
- What happens is a list of events, each a JSON document. Whoever has the job's id may follow them from any of them on; the id is a
  secret of whoever started it, and in no log.
- A job ends in one `ended` or `failed`, whatever happens. Its Keep is taken down first, and its key and receipt are gone from the disk.
- Nothing is kept. A minute after its end a job is forgotten with all its events.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enarx.deploy import Ended, deploy_package
from enarx.errors import EnarxError, PlatformError, TransportError, UsageError
from enarx.serving.requests import RefusedError
from enarx.wire.receipt_file import encode_receipt
from enarx.wire.result_json import result_document

if TYPE_CHECKING:
    from enarx.deploy import Attested, Deployment, HostClient, Package, TenantPolicy
    from enarx.deploy.attesting import Fetch
    from enarx.rats import AttestationResult
    from enarx.serving.logs import Log
    from enarx.wire.session import Exit

__all__ = ["Deploying", "Job", "Jobs"]

FORGET_S = 60.0
START_S = 60.0
"""For a Keep to boot and be judged, beside what the workload may run."""

LEAVE_S = 10.0
"""For the host to take a Keep down."""

MAX_FOLLOWERS = 4
_ID_BYTES = 16
_RETRY_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploying:
    """How every job is deployed.

    Args:
        connect: makes a client of the host, not entered yet.
        policy: gives what is accepted.
        backend: that the host is asked for.
        fetch: for missing endorsements, or None.
        accept_emulated: as `enarx.deploy.deploy_package` has it.
        state_root: a folder for keys and receipts while jobs run.
    """

    connect: Callable[[], HostClient]
    policy: Callable[[], TenantPolicy]
    backend: str
    fetch: Fetch | None
    accept_emulated: str | None
    state_root: str


class Job:
    """One job.

    Args:
        visitor: whose.
    """

    def __init__(self, visitor: str) -> None:
        self.visitor = visitor
        self.id = secrets.token_urlsafe(_ID_BYTES)
        self.receipt: bytes | None = None
        self.is_over = False
        self._events: list[str] = []
        self._more = asyncio.Event()
        self._followers = 0

    def tell(self, kind: str, **facts: object) -> None:
        """Add an event."""
        self._events.append(json.dumps({"kind": kind, **facts}))
        self._more.set()
        self._more = asyncio.Event()

    def end(self, kind: str, **facts: object) -> None:
        """Add the last event."""
        self.is_over = True
        self.tell(kind, **facts)

    def follow(self, begin: int) -> AsyncGenerator[tuple[int, str], None]:
        """Yield events and their numbers as they come, to the last.

        Args:
            begin: number of the first that is wanted.

        Raises:
            RefusedError: too many follow already (429).
        """
        if self._followers >= MAX_FOLLOWERS:
            raise RefusedError(
                429, UsageError(f"cannot show the job: found {self._followers} who watch it, want fewer")
            )
        self._followers += 1
        return self._follow(begin)

    async def _follow(self, number: int) -> AsyncGenerator[tuple[int, str], None]:
        try:
            while True:
                more = self._more
                while number < len(self._events):
                    yield number, self._events[number]
                    number += 1
                if self.is_over:
                    return
                await more.wait()
        finally:
            self._followers -= 1


class Jobs:
    """All jobs.

    Args:
        deploying: how they are deployed.
        at_once: how many may run at the same time.
        timeout_s: how long a workload may run.
        log: where it is told that jobs came and went; nothing of what is in them.
    """

    def __init__(self, deploying: Deploying, *, at_once: int, timeout_s: float, log: Log) -> None:
        self._deploying = deploying
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._log = log
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def running(self) -> int:
        """Return how many run."""
        return len(self._tasks)

    def require_room(self, visitor: str) -> None:
        """Return only if a visitor may start a job now.

        Raises:
            RefusedError: one of his runs (409), or too many of all (503).
        """
        if any(self._jobs[each].visitor == visitor for each in self._tasks):
            raise RefusedError(
                409, UsageError("cannot run another: found one of yours running, want its end; stop it, or wait")
            )
        if len(self._tasks) >= self._at_once:
            raise RefusedError(
                503,
                PlatformError(
                    f"cannot run another now: found {len(self._tasks)} running, want fewer", hint="try again soon"
                ),
                {"Retry-After": str(_RETRY_S)},
            )

    def start(self, visitor: str, package: Package, stdin: bytes) -> Job:
        """Start a job, after `require_room`.

        Args:
            visitor: whose.
            package: what to run.
            stdin: what the workload reads.
        """
        job = Job(visitor)
        self._jobs[job.id] = job
        task = self._tasks[job.id] = asyncio.create_task(self._run(job, package, stdin))

        def leave(_: asyncio.Task[None]) -> None:
            del self._tasks[job.id]
            if not job.is_over:
                # It was stopped before its first turn.
                self._finish(job, "failed", _failure(UsageError("stopped")), seconds=0.0)

        task.add_done_callback(leave)
        return job

    def find(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            RefusedError: there is none of that id (404).
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise RefusedError(404, UsageError("cannot show the job: found none of that id, want one of this minute"))
        return job

    def stop(self, job_id: str) -> None:
        """End a job that still runs; its events say so.

        Raises:
            RefusedError: there is none of that id (404).
        """
        self.find(job_id)
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, job: Job, package: Package, stdin: bytes) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome: tuple[str, dict[str, str | int | None]]
        try:
            async with asyncio.timeout(START_S + self._timeout_s):
                found = await self._deploy(job, package, stdin)
            outcome = "ended", _ending(found)
        except TimeoutError:
            outcome = "failed", _failure(TransportError("cannot run the job: found no end of it in time, want one"))
        except asyncio.CancelledError:
            outcome = "failed", _failure(UsageError("stopped"))
        except EnarxError as error:
            result: AttestationResult | None = getattr(error, "result", None)
            if result is not None:
                job.tell("verdict", **result_document(result, format_name=result.tee))
            outcome = "failed", _failure(error)
        except Exception as error:  # noqa: BLE001  # one job's bug is not every visitor's end
            self._log.bug("bug", error)
            outcome = "failed", _failure(PlatformError("cannot run the job: found a bug of this page's"))
        self._finish(job, *outcome, seconds=round(loop.time() - started, 3))

    def _finish(self, job: Job, kind: str, facts: dict[str, str | int | None], *, seconds: float) -> None:
        job.end(kind, seconds=seconds, **facts)
        self._log.info("job", outcome=kind, status=facts["status"], seconds=seconds)
        asyncio.get_running_loop().call_later(FORGET_S, self._jobs.pop, job.id, None)

    async def _deploy(self, job: Job, package: Package, stdin: bytes) -> Exit:
        how = self._deploying

        def accepted(attested: Attested) -> None:
            judged, image = attested.judged, attested.offer.image
            job.tell(
                "verdict",
                image=f"{image.name} {image.version}",
                **result_document(judged.result, format_name=judged.format),
            )

        async with how.connect() as host:
            job.tell("started", package=package.digest.hex(), backend=how.backend)
            deployment = await deploy_package(
                package,
                host=host,
                policy=how.policy,
                state_root=how.state_root,
                backend=how.backend,
                fetch=how.fetch,
                accept_emulated=how.accept_emulated,
                say=lambda text: job.tell("note", text=text),
                accepted=accepted,
            )
            try:
                job.receipt = encode_receipt(deployment.receipt_file)
                job.tell("running", keep=deployment.keep.id)
                return await self._converse(job, deployment, stdin)
            finally:
                deployment.folder.remove()
                # One whose end was heard is gone; and what the host does else is its affair.
                with contextlib.suppress(EnarxError, TimeoutError):
                    async with asyncio.timeout(LEAVE_S):
                        await host.delete_keep(deployment.keep.id)

    async def _converse(self, job: Job, deployment: Deployment, stdin: bytes) -> Exit:
        ended = await deployment.conversation.converse(_Text(stdin), _Events(job))
        if not isinstance(ended, Ended):
            raise TransportError("cannot follow the workload: found the session left, want its end")
        return ended.exit


class _Text:
    """Standard input that is there from the beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, max_bytes: int) -> bytes:
        data, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return data


class _Events:
    """Output that becomes events."""

    def __init__(self, job: Job) -> None:
        self.failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()
        self._job = job

    async def write(self, fd: int, data: bytes) -> None:
        self._job.tell("output", fd=fd, data=base64.b64encode(data).decode())


def _ending(found: Exit) -> dict[str, str | int | None]:
    if found.failure is not None:
        message, hint = found.failure.message, found.failure.hint
    else:
        message, hint = None, found.hint if found.status else None
    return {"status": found.status, "trap": found.trap, "message": message, "hint": hint}


def _failure(error: EnarxError) -> dict[str, str | int | None]:
    return {"status": error.status, "message": str(error), "hint": error.hint}
