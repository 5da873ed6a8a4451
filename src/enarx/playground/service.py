# SPDX-License-Identifier: Apache-2.0
"""The playground from its start to its end.

Without a host of the operator's it has one of its own, as `enarx deploy` has, which connects nowhere for Keeps. SIGTERM and SIGINT end
every job with its Keep; a second one ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from enarx.deploy import HostClient, private_host
from enarx.playground.api import make_app
from enarx.playground.jobs import Deploying, Jobs
from enarx.playground.modules import Example, JobLimits, find_examples
from enarx.playground.visitors import Visitors
from enarx.serving.http_server import (
    HttpServer,
    Listening,
    allow_many_files,
    bind_api,
    make_context,
    require_both,
    require_tls,
)

if TYPE_CHECKING:
    import ssl

    from enarx.deploy import TenantPolicy
    from enarx.deploy.attesting import Fetch
    from enarx.serving.logs import Log

__all__ = ["PlaygroundOptions", "serve"]

SECOND_SIGNAL_STATUS = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaygroundOptions:
    """How a playground is to be.

    Args:
        host: address to listen on, an IP address or localhost.
        port: 0 is any that is free.
        policy: gives what is accepted; it is asked for every job, so that a changed file holds from the next one on.
        limits: of each job.
        tls_certificate: PEM files for the page, both or neither.
        tls_key: its key.
        insecure_http: whether others than this machine may come without TLS.
        connect: makes a client of the operator's host; None is a host of this playground's own.
        backend: that the host is asked for.
        fetch: for missing endorsements, or None.
        accept_emulated: as `enarx.deploy.deploy_package` has it.
        examples: folder of the operator's, or None.
        at_once: how many jobs may run.
        an_hour: how many each visitor may start.
        visitor_header: in which a proxy in front says who visits, or None.
    """

    host: str
    port: int
    policy: Callable[[], TenantPolicy]
    limits: JobLimits
    tls_certificate: str | None = None
    tls_key: str | None = None
    insecure_http: bool = False
    connect: Callable[[], HostClient] | None = None
    backend: str = "nil"
    fetch: Fetch | None = None
    accept_emulated: str | None = None
    examples: str | None = None
    at_once: int = 2
    an_hour: int = 60
    visitor_header: str | None = None


def serve(options: PlaygroundOptions, *, log: Log, announce: Callable[[str], None]) -> int:
    """Serve until a signal ends it.

    Args:
        options: how.
        log: where events go.
        announce: is called with the URL once connections are accepted.

    Returns:
        the exit status.

    Raises:
        UsageError: the options do not go together, or a file cannot be used.
        ConfigError: an example or the policy is wrong.
        PlatformError: the port is busy, or the host of its own does not start.
    """
    require_both(options.tls_certificate, options.tls_key)
    allow_many_files()
    examples = find_examples(options.examples)
    # What is wrong with the policy is said now, and not to the first visitor.
    options.policy()
    context = None
    if options.tls_certificate is not None and options.tls_key is not None:
        context = make_context(options.tls_certificate, options.tls_key, None)
    listening = bind_api(options.host, options.port, secure=context is not None)
    with contextlib.closing(listening.sock):
        require_tls(listening, secure=context is not None, insecure_http=options.insecure_http, what="modules")
        return asyncio.run(_run(options, examples, listening, context, log, announce))


async def _run(
    options: PlaygroundOptions,
    examples: tuple[Example, ...],
    listening: Listening,
    context: ssl.SSLContext | None,
    log: Log,
    announce: Callable[[str], None],
) -> int:
    ending = _watch_signals()
    async with contextlib.AsyncExitStack() as stack:
        connect = options.connect or await _own_host(stack, options.at_once)
        jobs = Jobs(
            Deploying(
                connect=connect,
                policy=options.policy,
                backend=options.backend,
                fetch=options.fetch,
                accept_emulated=options.accept_emulated,
                state_root=stack.enter_context(tempfile.TemporaryDirectory(prefix="enarx-playground-")),
            ),
            at_once=options.at_once,
            timeout_s=options.limits.timeout_s,
            log=log,
        )
        app = make_app(
            jobs=jobs,
            visitors=Visitors(an_hour=options.an_hour, header=options.visitor_header, time_s=time.monotonic),
            examples=examples,
            limits=options.limits,
            accepts_emulated=options.accept_emulated is not None,
            is_local=listening.is_loopback and options.visitor_header is None,
            log=log,
        )
        server = HttpServer(app, listening, context)
        await server.start()
        stack.push_async_callback(server.stop)
        # Before the server: who watches a job is told of its end.
        stack.push_async_callback(jobs.close)
        announce(listening.url)
        await ending.wait()
        log.info("ending", jobs=jobs.running)
    return 0


async def _own_host(stack: contextlib.AsyncExitStack, keeps: int) -> Callable[[], HostClient]:
    """Start a host, and return what makes a client of it."""
    own = await stack.enter_async_context(private_host(max_keeps=keeps, options=["--no-outbound"]))
    return partial(HostClient, own.address, token=own.token)


def _watch_signals() -> asyncio.Event:
    """Return what is set by the first signal; the second one ends the process."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        if ending.is_set():
            os._exit(SECOND_SIGNAL_STATUS)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signalled)
    return ending
