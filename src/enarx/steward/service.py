# SPDX-License-Identifier: Apache-2.0
"""The Steward service from its start to its end: what is read, locked, opened and bound in which order, and what signals do.

Started: folder, configuration, policy, keys, port, log, API. Whatever fails before the API does is an error of the command. Without a
policy it does not start: any genuine TEE would do.

SIGHUP reads steward.toml and the policy again; what they refuse of the certificates in force is revoked. A file with an error changes
nothing, and one that TLS needs keeps nobody's certificate from being judged. The same certificates are judged again once an hour, for what vendors revoked. SIGTERM and SIGINT let requests under way end; a
second one ends at once, and the log is whole then too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.crypto.x509 import Credential
from enarx.errors import EnarxError, PlatformError, UsageError
from enarx.serving.http_server import HttpServer, Listening, allow_many_files, bind_api, make_context, require_both
from enarx.serving.logs import Log
from enarx.steward.api import make_app
from enarx.steward.chambers import Chambers, make_undumpable
from enarx.steward.decisions import Decisions
from enarx.steward.folder import StewardFolder
from enarx.steward.founding import StewardKeys, database_url, load_keys
from enarx.steward.kept import KeptCheckpoint
from enarx.steward.ledger import open_ledger
from enarx.steward.metrics import Metrics
from enarx.steward.models import Policies
from enarx.steward.rules import LoadedRules, RuleSources, load_configuration, load_rules, make_fetch
from enarx.steward.vendors import Fetching

__all__ = ["StewardOptions", "serve"]

REVIEW_S = 3600.0
"""How often certificates in force are judged again."""

RETRY_S = 60.0
"""Where that could not be done."""

TLS_AGE = timedelta(days=1)
"""After which the Steward's own certificate is issued again; it lasts for 30."""

SWITCH_S = 0.0005
"""Python's own is ten times that."""

SECOND_SIGNAL_STATUS = 130

_GC_THRESHOLD = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StewardOptions:
    """How a Steward is to be.

    Args:
        host: address to listen on, an IP address or localhost.
        port: 0 is any that is free.
        state: its folder.
        sources: what rules are made of beside the files in the folder.
        database: URL of the log's database; None is the file in the folder.
        tls_certificate: PEM files for the API, both or neither; without them its own authority issues a certificate.
        tls_key: its key.
        insecure_http: whether it is to speak HTTP without TLS, as behind a proxy.
        metrics_for_all: whether others than this machine may see what is counted.
    """

    host: str
    port: int
    state: str
    sources: RuleSources
    database: str | None = field(default=None, repr=False)
    tls_certificate: str | None = None
    tls_key: str | None = None
    insecure_http: bool = False
    metrics_for_all: bool = False


def serve(options: StewardOptions, *, log: Log, announce: Callable[[str], None], clock: Callable[[], datetime]) -> int:
    """Serve until a signal ends it.

    Args:
        options: how.
        log: where events go.
        announce: is called with the URL once connections are accepted.
        clock: the time, aware UTC.

    Returns:
        the exit status.

    Raises:
        UsageError: the options do not go together, the folder is no Steward's, or there is no policy.
        ConfigError: steward.toml or the policy is wrong.
        PlatformError: the port is busy, the folder another Steward's, or the database out of reach.
        VerificationError: the authority's certificate is not its key's, or has ended; or something of the log was taken away.
    """
    require_both(options.tls_certificate, options.tls_key)
    if options.insecure_http and options.tls_certificate is not None:
        raise UsageError("cannot serve: found --insecure-http with --tls-certificate, want one of them")
    allow_many_files()
    make_undumpable()
    # The log's thread holds Python's lock while it has much to write, and the API waits so long for it each time.
    sys.setswitchinterval(SWITCH_S)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(StewardFolder(options.state))
        if options.database is None:
            folder.lock()
        configuration = load_configuration(folder)
        keys = load_keys(folder, name=configuration.name, at=clock())
        fetch = make_fetch(folder, options.sources)
        loaded = load_rules(folder, options.sources, configuration, keys, fetch)
        listening = bind_api(options.host, options.port, secure=not options.insecure_http)
        stack.callback(listening.sock.close)
        service = _Service(options, folder, loaded, keys, fetch, listening, log, clock)
        return asyncio.run(service.run(announce))


class _Service:
    """One run of the service."""

    def __init__(
        self,
        options: StewardOptions,
        folder: StewardFolder,
        loaded: LoadedRules,
        keys: StewardKeys,
        fetch: Fetching | None,
        listening: Listening,
        log: Log,
        clock: Callable[[], datetime],
    ) -> None:
        self._options = options
        self._folder = folder
        self._loaded = loaded
        self._keys = keys
        self._fetch = fetch
        self._listening = listening
        self._log = log
        self._clock = clock
        self._signals = 0
        self._ending = asyncio.Event()
        self._reload = asyncio.Event()
        self._pending: LoadedRules | None = None
        self._certified_at: datetime | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def policies(self) -> Policies:
        """By what is judged now."""
        return self._loaded.shown

    @property
    def chain_pem(self) -> bytes:
        """The authority's certificates, the root last."""
        return self._keys.authority.chain_pem

    async def run(self, announce: Callable[[str], None]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        if not self._options.insecure_http:
            self._context = self._make_context()
        metrics = Metrics()
        kept = KeptCheckpoint(self._folder)
        ledger = open_ledger(
            self._options.database or database_url(self._folder),
            self._keys.log_signer,
            kept=kept.checkpoint(self._keys.log_signer.verifier_key),
            keep=partial(self._keep_checkpoint, kept),
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(ledger.close)
            # One for each processor: what is left of the service waits for them, for clients, and for the disk.
            chambers = Chambers(len(os.sched_getaffinity(0)), self._log)
            stack.callback(chambers.close)
            await chambers.start(self._loaded.rules)
            decisions = Decisions(
                self._loaded.rules,
                bench=chambers,
                authority=self._keys.authority,
                ledger=ledger,
                nonce_key=self._keys.nonce_key,
                metrics=metrics,
                log=self._log,
                clock=self._clock,
            )
            stack.callback(decisions.close)
            await decisions.change_rules(self._loaded.rules)
            app = make_app(
                decisions=decisions,
                shown=self,
                result_key=self._keys.result_key.public_key(),
                metrics=metrics,
                log=self._log,
                is_draining=self._ending.is_set,
                metrics_for_all=self._options.metrics_for_all,
            )
            server = HttpServer(app, self._listening, self._context)
            await server.start()
            stack.push_async_callback(server.stop)
            # What is there by now stays, and requests leave few cycles: to look for them in all of it takes a fiftieth of the time.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GC_THRESHOLD, 20, 20)
            house = asyncio.create_task(self._keep_house(decisions))
            stack.push_async_callback(_end, house)
            for root in self._loaded.shown.insecure_accepted_roots:
                self._log.warning("insecure-emulated-platform-accepted", root=root)
            announce(self._listening.url)
            ending = asyncio.create_task(self._ending.wait())
            # It ends by a bug alone, and then so does the service: certificates that nobody reviews are no use.
            await asyncio.wait({house, ending}, return_when=asyncio.FIRST_COMPLETED)
            if house.done():
                house.result()
            self._log.info("ending")
        return 0

    def _keep_checkpoint(self, kept: KeptCheckpoint, text: str) -> None:
        try:
            kept.keep(text)
        except PlatformError as error:
            self._log.warning("checkpoint-not-kept", reason=str(error))

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            # At once: what was told is in the log already.
            os._exit(SECOND_SIGNAL_STATUS)
        self._ending.set()

    # --- Certificates of the API's own

    def _make_context(self) -> ssl.SSLContext:
        if self._options.tls_certificate is not None and self._options.tls_key is not None:
            return make_context(self._options.tls_certificate, self._options.tls_key, None)
        self._certified_at = self._clock()
        with _files(self._certify_own(self._certified_at)) as (certificate, key):
            return make_context(certificate, key, None)

    async def _renew_certificate(self, *, is_asked: bool) -> None:
        """Use the files of the operator again where he asks for it, or another certificate of ours where it is time."""
        if self._context is None:
            return
        if self._options.tls_certificate is not None and self._options.tls_key is not None:
            if is_asked:
                make_context(self._options.tls_certificate, self._options.tls_key, None)
                self._context.load_cert_chain(self._options.tls_certificate, self._options.tls_key)
        elif self._certified_at is None or not timedelta(0) <= self._clock() - self._certified_at < TLS_AGE:
            # A token that signs it may take its time.
            now = self._clock()
            with _files(await asyncio.to_thread(self._certify_own, now)) as (certificate, key):
                self._context.load_cert_chain(certificate, key)
            self._certified_at = now

    def _certify_own(self, now: datetime) -> Credential:
        return self._keys.authority.server_credential(self._loaded.configuration.name, at=now)

    # --- What has to be done now and then

    async def _keep_house(self, decisions: Decisions) -> None:
        """Load rules, review, and renew the API's certificate; what fails of these is tried again, and keeps nothing else from being done."""
        now = asyncio.get_running_loop().time
        review_at, is_asked = now(), False
        while True:
            is_changed = True
            if self._reload.is_set():
                self._reload.clear()
                is_asked, review_at = True, now()
                is_changed = await self._try("rules-not-changed", self._load_again(decisions))
            elif self._pending is not None:
                is_changed = await self._try("rules-not-changed", self._change_rules(decisions))
                review_at = now()
            if now() >= review_at:
                is_reviewed = await self._try("not-reviewed", decisions.review())
                review_at = now() + (REVIEW_S if is_reviewed else RETRY_S)
            is_renewed = await self._try("tls-certificate-not-renewed", self._renew_certificate(is_asked=is_asked))
            is_asked = is_asked and not is_renewed
            pause_s = min(review_at - now(), REVIEW_S if is_changed and is_renewed else RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._reload.wait()

    async def _try(self, event: str, step: Awaitable[object]) -> bool:
        try:
            await step
        except (EnarxError, OSError) as error:
            self._log.warning(event, reason=str(error))
            return False
        return True

    async def _load_again(self, decisions: Decisions) -> None:
        try:
            # Images that a policy names are measured again, which takes a while.
            self._pending = await asyncio.to_thread(self._load_rules)
        except EnarxError as error:
            self._log.warning("rules-not-loaded", reason=str(error))
            return
        await self._change_rules(decisions)

    async def _change_rules(self, decisions: Decisions) -> None:
        """Put rules in force that were read; they wait for that where the log cannot be written."""
        loaded = self._pending
        if loaded is None:
            return
        await decisions.change_rules(loaded.rules)
        self._loaded, self._pending = loaded, None
        self._log.info("rules-loaded", policy=loaded.rules.court.policy_sha256.hex())

    def _load_rules(self) -> LoadedRules:
        configuration = load_configuration(self._folder)
        name = self._loaded.configuration.name
        if configuration.name != name:
            raise UsageError(
                f"cannot change the name: found {configuration.name}, want {name}, which its log and its authority have"
            )
        return load_rules(self._folder, self._options.sources, configuration, self._keys, self._fetch)


@contextlib.contextmanager
def _files(made: Credential) -> Iterator[tuple[str, str]]:
    """Give paths of a certificate and its key, in memory; OpenSSL reads files only."""
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in made.chain)
    key = made.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _memory("certificate", chain) as certificate_path, _memory("key", key) as key_path:
        yield certificate_path, key_path


@contextlib.contextmanager
def _memory(name: str, data: bytes) -> Iterator[str]:
    with open(os.memfd_create(name, os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{file.fileno()}"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
