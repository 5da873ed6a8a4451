# SPDX-License-Identifier: Apache-2.0
"""What the Steward decides, and in which order: nonce, a court's judgement and certificate, log, and only then the answer.

Rules of this file:

- Nothing is told that is not in the log: certificates, results, refusals of requests with a nonce of ours, revocations, policies.
- Whether a nonce was used is decided by the log's unique index, whatever evidence it came with. Of the newest it is known before evidence
  is judged, which saves the work where somebody says the same twice.
- Courts sit in processes of their own, and what waits for them is bounded; what has to fetch from vendors has threads here, so that a
  vendor who does not answer stops nobody whose evidence is complete.
- What anybody may ask takes nothing from those who ask for certificates: it has threads of its own for what has to be fetched.
- What is undecided revokes nothing: a vendor that cannot be reached would end every certificate. Neither does what is stored and is not
  what the log says: whoever changed the database would decide.

What holds it together: rules that change while requests are judged, and what is on its way into the log then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from enarx.errors import (
    AppraisalError,
    DecodeError,
    EnarxError,
    EndorsementError,
    PlatformError,
    VerificationError,
)
from enarx.steward.court import Certifying, Court
from enarx.steward.facts import facts_of_error
from enarx.steward.ledger import Entry, ReplayedNonceError, encode_entry
from enarx.steward.nonces import NONCE_LIFETIME_S, ExpiredNonceError, check_nonce, make_nonce
from enarx.steward.rooms import BusyError, Room
from enarx.steward.token_key import TokenError
from enarx.wire.steward import CertificateAnswer, CertificateRequest, ChallengeAnswer, ResultRequest

if TYPE_CHECKING:
    from enarx.serving.logs import Log
    from enarx.steward.authority import Authority
    from enarx.steward.court import Bench, Rules
    from enarx.steward.issued import Issued
    from enarx.steward.ledger import Ledger, Logged
    from enarx.steward.metrics import Metrics

__all__ = ["Decisions"]

MAX_QUEUE_PER_COURT = 32
"""Requests that may be judged or wait for it, for each court that sits."""

FETCHING_THREADS = 8
MAX_FETCHING = 16
"""Requests for which something may be fetched at once."""

RESULT_THREADS = 2
MAX_FETCHING_RESULTS = 4
"""The same for results, for which anybody may ask."""

REVIEW_RETRY_S = 2.0
"""Before a certificate is judged again whose judge has ended; another one is there by then."""

MAX_USED_NONCES = 4096
"""Of the newest is known without the log that they were used."""

CRL_AGE = timedelta(minutes=1)
"""For so long a revocation list is answered again before another one is signed."""

_T = TypeVar("_T")


class Decisions:
    """Decides, one Steward process' worth of it.

    Args:
        rules: in force at first.
        bench: where they judge.
        authority: whose certificates they are.
        ledger: has every decision.
        nonce_key: 32 bytes, the same for all Stewards with one log.
        metrics: what is counted.
        log: where events go; neither evidence nor keys are in any.
        clock: the time, aware UTC.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        bench: Bench,
        authority: Authority,
        ledger: Ledger,
        nonce_key: bytes,
        metrics: Metrics,
        log: Log,
        clock: Callable[[], datetime],
    ) -> None:
        self._rules = rules
        self._authority = authority
        self._chain = tuple(each.public_bytes(Encoding.DER) for each in authority.chain)
        self._ledger = ledger
        self._nonce_key = nonce_key
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._bench = bench
        self._fetching = Room(FETCHING_THREADS, MAX_FETCHING, "fetching")
        self._fetching_results = Room(RESULT_THREADS, MAX_FETCHING_RESULTS, "fetching-results")
        # One thread for what nobody waits for, so that it never takes more than its share.
        self._reviewing = Room(1, 2, "reviewing")
        # A vendor that does not answer has the review wait, and whoever asks for a list of what is revoked not.
        self._listing = Room(1, 2, "listing")
        self._in_force: dict[int, datetime] = {}
        self._used: dict[bytes, None] = {}
        self._crl: tuple[datetime, bytes] | None = None
        self._crl_lock = asyncio.Lock()
        self._review_lock = asyncio.Lock()
        self._commits: set[asyncio.Event] = set()
        metrics.watch(in_force=self._count_in_force, under_way=self._count_under_way)

    def close(self) -> None:
        """End the threads, once nobody asks any more."""
        for room in (self._fetching, self._fetching_results, self._reviewing, self._listing):
            room.close()

    @property
    def rules(self) -> Rules:
        """By what is decided now."""
        return self._rules

    # --- Nonces

    def challenge(self) -> ChallengeAnswer:
        """Return a nonce for one request of a certificate."""
        now = self._clock()
        nonce = make_nonce(self._nonce_key, now)
        return ChallengeAnswer(nonce=nonce, expires=now + timedelta(seconds=NONCE_LIFETIME_S))

    def _require_fresh(self, nonce: bytes, now: datetime) -> None:
        why = "foreign"
        try:
            check_nonce(self._nonce_key, nonce, now)
            if nonce in self._used:
                raise ReplayedNonceError(
                    "the nonce was used before: found it in the log, want one for each request",
                    hint="ask for another challenge",
                )
        except VerificationError as error:
            if isinstance(error, ReplayedNonceError | ExpiredNonceError):
                why = "replayed" if isinstance(error, ReplayedNonceError) else "expired"
            self._metrics.nonce_refused(why)
            raise

    def _remember_used(self, nonce: bytes) -> None:
        self._used[nonce] = None
        if len(self._used) > MAX_USED_NONCES:
            del self._used[next(iter(self._used))]

    # --- Certificates

    async def certify(self, request: CertificateRequest) -> CertificateAnswer:
        """Judge a Keep, and certify its key.

        Args:
            request: what it shows.

        Raises:
            DecodeError: what is in the request is not well formed.
            VerificationError: nonce, evidence or request are not authentic.
            AppraisalError: the policy refuses it, or no grant names it.
            EndorsementError: it cannot be judged.
            BusyError: there is no room.
            PlatformError: the log cannot be written.
        """
        now = self._clock()
        self._require_fresh(request.nonce, now)
        while True:
            rules = self._rules
            try:
                made = await self._judged(rules, Certifying(request, now))
            except (DecodeError, VerificationError, AppraisalError, EndorsementError) as error:
                facts = {
                    "policy_sha256": rules.court.policy_sha256,
                    "evidence_sha256": sha256(request.evidence).digest(),
                    **facts_of_error(error),
                }
                await self._append("refusal", now, facts, nonce=request.nonce)
                raise
            if rules is self._rules:
                break
        row = made.row(request)
        with self._committing():
            # A court makes both of the same facts, in a process of its own: there is time for it.
            logged = await self._add(Entry("certificate", now, request.nonce, made.body, row), is_one_story=True)
        serial, not_after = row.serial, row.not_after
        self._in_force[serial] = not_after
        self._log.info("certificate", serial=f"{serial:x}", entry=logged.index)
        return CertificateAnswer(
            chain=(made.certificate, *self._chain),
            not_after=not_after,
            renew_after=now + (not_after - now) / 2,
            log_index=logged.index,
        )

    @contextlib.contextmanager
    def _committing(self) -> Iterator[None]:
        ended = asyncio.Event()
        self._commits.add(ended)
        try:
            yield
        finally:
            self._commits.discard(ended)
            ended.set()

    # --- Results

    async def appraise(self, request: ResultRequest) -> str:
        """Judge anybody's evidence.

        Args:
            request: the evidence.

        Returns:
            An EAR as JWT, whatever the verdict.

        Raises:
            DecodeError: what is in the request is not well formed.
            BusyError: there is no room.
            PlatformError: the log cannot be written.
        """
        now = self._clock()
        work = partial(Court.appraise, request=request, now=now)
        while True:
            rules = self._rules
            made = await self._judged(rules, work, is_result=True, is_undecided=lambda found: found.is_undecided)
            if rules is self._rules:
                break
        await self._add(Entry("result", now, None, made.body))
        return made.token

    # --- The original's protocol

    @property
    def answers_original(self) -> bool:
        """Say whether the operator enabled it."""
        return self._rules.court.original is not None

    async def certify_original(self, body: bytes, media_type: str) -> bytes:
        """Answer the original's protocol.

        Args:
            body: of the request.
            media_type: of it.

        Raises:
            UsageError: it is not enabled, or another media type.
            NoEvidenceError: a request has no evidence.
            DecodeError: a request is not well formed.
            VerificationError: a request or its evidence is not authentic.
            AppraisalError: the policy refuses it.
            EndorsementError: it cannot be judged.
            BusyError: there is no room.
            PlatformError: the log cannot be written.
        """
        now = self._clock()
        work = partial(Court.certify_original, body=body, media_type=media_type, now=now)
        while True:
            rules = self._rules
            made = await self._judged(rules, work)
            if rules is self._rules:
                break
        for entry in made.bodies:
            await self._add(Entry("original", now, None, entry))
        return made.answer

    # --- Revocation

    async def review(self) -> int:
        """Judge every certificate in force again, and revoke those that would not be given now.

        Returns:
            how many were revoked. What one certificate could not be judged for, a bug included, leaves it in force and is counted.
        """
        async with self._review_lock:
            # What was judged by the rules before these is on its way into the log, and would be missed.
            for commit in tuple(self._commits):
                await commit.wait()
            now = self._clock()
            pages = self._ledger.certificates_in_force(now)
            known: dict[int, datetime] = {}
            judged = revoked = undecided = tampered = unjudged = 0
            # A few at a time: evidence is large.
            while (found := await self._reviewing.run(partial(next, pages, None))) is not None:
                judged += len(found.issued)
                tampered += len(found.unfit)
                for unfit in found.unfit:
                    # Whoever changed the database may want it revoked, or may want it judged by other evidence.
                    self._log.warning(
                        "log-tampered",
                        serial=f"{unfit.serial:x}",
                        entry=unfit.entry,
                        reason=unfit.reason,
                        next="enarx steward audit",
                    )
                for each in found.issued:
                    row = each.row
                    known[row.serial] = row.not_after
                    try:
                        reason = await self._reason_to_revoke(each)
                    except Exception as error:  # noqa: BLE001  # a bug that one certificate meets must not keep the others from being judged
                        is_bug = not isinstance(error, EnarxError)
                        told = type(error).__name__ if is_bug else str(error)
                        self._log.warning("not-judged", serial=f"{row.serial:x}", reason=told)
                        if is_bug and not unjudged:
                            # Once is enough: it may be the same for all of them.
                            self._log.bug("not-judged", error)
                        unjudged += 1
                        reason = ""
                    if reason is None:
                        continue
                    if not reason:
                        undecided += 1
                        continue
                    with _log_errors():
                        logged = await self._ledger.revoke(row.serial, reason, self._clock())
                    if logged is not None:
                        self._metrics.decided("revocation", logged.size)
                    del known[row.serial]
                    self._in_force.pop(row.serial, None)
                    self._crl = None
                    revoked += 1
                    self._log.warning("revoked", serial=f"{row.serial:x}", reason=reason)
            self._metrics.tampered.set(tampered)
            self._metrics.unjudged.set(unjudged)
            self._in_force = {**known, **{serial: at for serial, at in self._in_force.items() if serial not in known}}
            self._log.info(
                "reviewed",
                certificates=judged,
                revoked=revoked,
                undecided=undecided,
                tampered=tampered,
                unjudged=unjudged,
            )
            return revoked

    async def _reason_to_revoke(self, issued: Issued) -> str | None:
        """Return why a certificate would not be given now, None where it would be, and nothing where that cannot be said."""
        rules = self._rules
        now = self._clock()
        work = partial(Court.reason_to_revoke, issued=issued, now=now)
        if rules.fetching is not None:
            # The lists that came along are those of the day when it was issued.
            await self._reviewing.run(partial(Court.refresh, rules.fetching, issued=issued, now=now))
        try:
            try:
                reason, _ = await self._bench.run(rules, work)
            except BusyError:
                await asyncio.sleep(REVIEW_RETRY_S)
                reason, _ = await self._bench.run(rules, work)
        except BusyError as error:
            # The others are judged all the same.
            self._log.warning("not-judged", serial=f"{issued.row.serial:x}", reason=str(error))
            return ""
        if not reason and reason is not None and rules.fetching is not None:
            reason = await self._reviewing.run(partial(work, rules.fetching))
        return reason

    async def change_rules(self, rules: Rules) -> None:
        """Decide by other rules from here on, and say so in the log.

        Args:
            rules: in force now. Certificates that they would refuse are revoked by `review`.
        """
        await self._append("policy", self._clock(), {"policy_sha256": rules.court.policy_sha256})
        self._rules = rules

    async def crl(self) -> bytes:
        """Return the list of revoked certificates, in DER.

        Raises:
            PlatformError: the log cannot be read, or the key not be used.
        """
        async with self._crl_lock:
            now = self._clock()
            if self._crl is None or not timedelta(0) <= now - self._crl[0] < CRL_AGE:
                try:
                    made = await self._listing.run(lambda: self._make_crl(now))
                except TokenError as error:
                    raise self._out_of_reach(error) from error
                self._crl = (now, made)
                return made
            return self._crl[1]

    def _make_crl(self, now: datetime) -> bytes:
        with _log_errors():
            revoked = self._ledger.revoked(now)
        # Of several Stewards with one log each list must have a number of its own, and a later one a greater.
        number = int(now.timestamp() * 1_000_000)
        return self._authority.crl(revoked, at=now, number=number)

    # --- What all have in common

    async def _judged(
        self,
        rules: Rules,
        work: Callable[[Court], _T],
        *,
        is_result: bool = False,
        is_undecided: Callable[[_T], bool] = lambda _: False,
    ) -> _T:
        """Have a court do something with what is at hand, and only where that does not suffice with what can be fetched.

        Args:
            rules: in force now.
            work: what is to be done; it can be pickled.
            is_result: whether anybody may ask for it.
            is_undecided: says whether fetching could decide it; EndorsementError means so in any case.
        """
        fetching = (rules.for_results or rules.fetching) if is_result else rules.fetching
        room = self._fetching_results if is_result else self._fetching
        try:
            if self._bench.taken >= MAX_QUEUE_PER_COURT * self._bench.count:
                raise BusyError(
                    "cannot judge now: found too many requests before this one", hint="ask again in a second"
                )
            try:
                found, took_s = await self._bench.run(rules, work)
            except EndorsementError:
                if fetching is None:
                    raise
            else:
                self._metrics.judging_seconds.observe(took_s)
                if fetching is None or not is_undecided(found):
                    return found
            return await room.run(partial(work, fetching))
        except BusyError:
            self._metrics.turned_away.inc()
            raise
        except TokenError as error:
            raise self._out_of_reach(error) from error

    def _out_of_reach(self, error: TokenError) -> PlatformError:
        """Tell the operator what a token says, and return what others are told."""
        self._log.warning("token-failed", reason=str(error))
        return PlatformError(
            "cannot sign now: found the authority's key out of reach, want its token",
            hint="the Steward's operator finds the reason in its log",
        )

    async def _append(self, kind: str, at: datetime, facts: dict[str, Any], *, nonce: bytes | None = None) -> Logged:
        """Add a decision to the log; when this returns it can be told."""
        return await self._add(Entry(kind, at, nonce, encode_entry(kind=kind, at=at, nonce=nonce, **facts)))

    async def _add(self, entry: Entry, *, is_one_story: bool = False) -> Logged:
        with _log_errors():
            try:
                logged = await self._ledger.append(entry, is_one_story=is_one_story)
            except ReplayedNonceError:
                if entry.nonce is not None:
                    self._remember_used(entry.nonce)
                self._metrics.nonce_refused("replayed")
                raise
        if entry.nonce is not None:
            self._remember_used(entry.nonce)
        self._metrics.decided(entry.kind, logged.size)
        return logged

    async def require_log(self) -> None:
        """Return if the log can be asked.

        Raises:
            PlatformError: it cannot.
        """
        with _log_errors():
            await self._ledger.seen(bytes(32))

    def _count_under_way(self) -> int:
        return self._bench.taken + self._fetching.taken + self._fetching_results.taken

    def _count_in_force(self) -> int:
        now = self._clock()
        self._in_force = {serial: at for serial, at in self._in_force.items() if at > now}
        return len(self._in_force)


@contextlib.contextmanager
def _log_errors() -> Iterator[None]:
    """Tell a log that is not what was signed from a request that is not authentic: nothing can be decided then."""
    try:
        yield
    except ReplayedNonceError:
        raise
    except VerificationError as error:
        raise PlatformError(f"cannot use the log: {error}", hint="enarx steward audit says more") from error
