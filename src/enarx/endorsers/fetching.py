# SPDX-License-Identifier: Apache-2.0
"""Get one thing that a vendor publishes: from the cache while it lasts, else from the service, with patience and limits.

Rules of this file:

- It judges nothing. A caller's `accept` says whether an answer is one to the question, and for which time it is; signatures
  are the verifier's.
- A certificate is kept as long as it is valid. What has a next update is asked for again after a day, used without that
  until its next update, saying so, and after its next update only where `allow_stale` is set, saying so.
- An answer issued before the one at hand does not replace it.
- A service is asked by one thread of one process at a time; whoever waits looks into the cache again first.
- Time, waiting and chance are arguments.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from secrets import SystemRandom
from typing import Any, NamedTuple

from cryptography import x509

from enarx.crypto.certificates import load_crl_untrusted
from enarx.endorsers.disk_cache import DiskCache, Entry
from enarx.endorsers.http import Client, Reply, Unreachable
from enarx.errors import DecodeError, EndorsementError

__all__ = ["Content", "Fetcher", "Item", "Source", "Timing", "Wanted", "decode_crl"]

MAX_AGE = timedelta(days=1)
"""How long something with a next update is used before it is asked for again."""
CLOCK_SKEW = timedelta(days=1)
_MAX_ATTEMPTS = 5
_RETRY_AFTER_FAILURE_S = 600.0
_FIRST_PAUSE_S = {"amd": 10.0, "intel": 1.0}
_POLL_S = 0.1
_MAX_QUOTED = 500
# The answers after which a later one can be another.
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT = frozenset({400, 404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where time comes from, and how it passes.

    Args:
        now: the wall clock, aware.
        monotonic: in seconds.
        sleep: waits for seconds.
        jitter: 0.0 to 1.0, so that many clients do not come back together.
    """

    now: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = SystemRandom().random


class Content(NamedTuple):
    """An answer, decoded.

    Args:
        value: whatever was asked for.
        issued_at: aware UTC.
        valid_until: aware UTC, the end included.
    """

    value: Any
    issued_at: datetime
    valid_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One thing that a vendor publishes.

    Args:
        what: it is, for messages: `the VCEK of chip 3a75...`.
        service: `amd` or `intel`.
        key: its URL at the vendor, which is its name in the cache wherever it came from.
        url: where to ask for it: the vendor or a mirror.
        max_bytes: of an answer.
        headers: names in lower case of the headers that belong to the answer.
        accept: decodes an answer, or raises DecodeError where it is none to this question.
        keeps: whether it stays as it is while it is valid, as a certificate does.
        absent: what it means that the service does not have it, and what to do.
    """

    what: str
    service: str
    key: str
    url: str
    max_bytes: int
    accept: Callable[[bytes, dict[str, str]], Content]
    headers: tuple[str, ...] = ()
    keeps: bool = False
    absent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an endorsement came from, for whoever has to decide whether that is good enough.

    Args:
        what: it is.
        url: at the vendor.
        fetched_at: when the service, or a mirror of it, answered.
        valid_until: what it says about itself.
        from_cache: whether it was here already.
        stale: it is past `valid_until`, and the caller allowed that.
        note: why there is no newer one, or why it is not kept; else None.
    """

    what: str
    url: str
    fetched_at: datetime
    valid_until: datetime
    from_cache: bool
    stale: bool = False
    note: str | None = None


class Item(NamedTuple):
    """An endorsement and where it came from."""

    value: Any
    source: Source


class _Kept(NamedTuple):
    wanted: Wanted
    content: Content
    fetched_at: datetime


class Fetcher:
    """Gets things through a cache.

    Args:
        cache: for answers and turns.
        client: asks servers.
        timing: of everything.
        offline: never asks.
        refresh: asks even where the cache has an answer that lasts, and believes the service rather than the cache.
        allow_stale: uses what is past its next update where there is nothing newer.
        max_wait_s: for one thing: waiting for a turn, asking, and asking again.
        max_age: how long something with a next update is used before it is asked for again.
        say: is told one line about whatever takes time.
    """

    def __init__(
        self,
        cache: DiskCache,
        client: Client,
        timing: Timing,
        *,
        offline: bool = False,
        refresh: bool = False,
        allow_stale: bool = False,
        max_wait_s: float = 60.0,
        max_age: timedelta = MAX_AGE,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cache = cache
        self._client = client
        self._timing = timing
        self._offline = offline
        self._refresh = refresh
        self._allow_stale = allow_stale
        self._max_wait_s = max_wait_s
        self._max_age = max_age
        self._say = say
        self._failures: dict[str, tuple[float, str]] = {}

    def until(self, wait_s: float) -> float:
        """Return what `fetch` takes as the end of its time: so many seconds from now."""
        return self._timing.monotonic() + wait_s

    def fetch(self, *candidates: Wanted, until: float | None = None) -> Item:
        """Return the first of some things that there is.

        Args:
            candidates: at least one; more than one where the question has several possible spellings.
            until: when it has to be here at the latest, where that is sooner than `max_wait_s`; of `until`.

        Raises:
            EndorsementError: there is none, or none that is not stale, or no answer; it says what to do.
        """
        kept = before = self._find_kept(candidates)
        if kept is not None and not self._refresh:
            if self._is_fresh(kept):
                return self._item(kept)
            if problem := self._failed_lately(kept):
                return self._item(kept, note=problem)
        if self._offline:
            return self._offline_item(kept, candidates[0])
        deadline = self.until(self._max_wait_s) if until is None else min(until, self.until(self._max_wait_s))
        try:
            if self._timing.monotonic() >= deadline:
                raise _failed(
                    candidates[0], "found no time left to ask, want an answer to what was asked before sooner"
                )
            with self._turn(candidates[0], deadline):
                # Another thread or process may have got it while this one waited.
                kept = self._find_kept(candidates)
                if kept is not None and self._is_fresh(kept) and not (self._refresh and kept == before):
                    return self._item(kept)
                return self._ask(candidates, kept, deadline)
        except EndorsementError as error:
            if kept is None or not self._is_usable(kept):
                raise
            self._failures[kept.wanted.key] = (self._timing.monotonic(), str(error))
            return self._item(kept, note=str(error))

    def _offline_item(self, kept: _Kept | None, wanted: Wanted) -> Item:
        if kept is None:
            raise EndorsementError(
                f"cannot get {wanted.what}: found it neither in the evidence nor in {self._cache.path}, and enarx is"
                f" offline, want {wanted.key}",
                hint=_by_hand(wanted),
            )
        if not self._is_usable(kept):
            raise EndorsementError(
                f"cannot get {wanted.what}: found one that was valid until {_text(kept.content.valid_until)}, and enarx is"
                f" offline, want a current one of {wanted.key}",
                hint=_by_hand(wanted),
            )
        return self._item(kept, note=None if self._is_fresh(kept) else "enarx is offline")

    def _find_kept(self, candidates: tuple[Wanted, ...]) -> _Kept | None:
        for wanted in candidates:
            entry = self._cache.load(wanted.key)
            if entry is None:
                continue
            try:
                return _Kept(wanted, wanted.accept(entry.body, entry.headers), entry.fetched_at)
            except DecodeError:
                # It was accepted once, by an enarx with other rules.
                self._cache.forget(wanted.key)
        return None

    def _is_fresh(self, kept: _Kept) -> bool:
        now = self._timing.now()
        if now > kept.content.valid_until:
            return False
        return kept.wanted.keeps or now - self._max_age < kept.fetched_at <= now + CLOCK_SKEW

    def _is_usable(self, kept: _Kept) -> bool:
        return self._allow_stale or self._timing.now() <= kept.content.valid_until

    def _failed_lately(self, kept: _Kept) -> str | None:
        """Return how asking failed a short time ago, where what is kept does for now."""
        failed_at, problem = self._failures.get(kept.wanted.key, (0.0, None))
        if not self._is_usable(kept) or self._timing.monotonic() - failed_at >= _RETRY_AFTER_FAILURE_S:
            return None
        return problem

    def _item(self, kept: _Kept, *, from_cache: bool = True, note: str | None = None) -> Item:
        source = Source(
            what=kept.wanted.what,
            url=kept.wanted.key,
            fetched_at=kept.fetched_at,
            valid_until=kept.content.valid_until,
            from_cache=from_cache,
            stale=self._timing.now() > kept.content.valid_until,
            note=note,
        )
        return Item(kept.content.value, source)

    @contextlib.contextmanager
    def _turn(self, wanted: Wanted, deadline: float) -> Iterator[None]:
        said = False
        while True:
            with self._cache.try_turn(wanted.service) as ours:
                if ours:
                    yield
                    return
            if self._timing.monotonic() >= deadline:
                raise EndorsementError(
                    f"cannot get {wanted.what}: found another enarx asking {wanted.service} for {self._max_wait_s:.0f} s,"
                    " want a turn",
                    hint="try again later, or use a mirror",
                )
            if not said:
                self._say(f"waiting for another enarx that is asking {wanted.service}")
                said = True
            self._timing.sleep(_POLL_S)

    def _ask(self, candidates: tuple[Wanted, ...], kept: _Kept | None, deadline: float) -> Item:
        for wanted in candidates:
            attempts = 1 if kept is not None and self._is_usable(kept) else _MAX_ATTEMPTS
            reply = self._patiently(wanted, attempts, deadline)
            if reply.status in _ABSENT:
                continue
            if reply.status != 200:
                raise _failed(wanted, f"found status {reply.status}, want 200")
            headers = {name: reply.headers[name] for name in wanted.headers if name in reply.headers}
            return self._take(wanted, reply.body, headers, kept)
        asked = ", ".join(wanted.url for wanted in candidates)
        raise EndorsementError(
            f"cannot get {candidates[0].what}: {asked}: found none, want one", hint=candidates[0].absent
        )

    def _take(self, wanted: Wanted, body: bytes, headers: dict[str, str], kept: _Kept | None) -> Item:
        now = self._timing.now().astimezone(UTC)
        try:
            content = wanted.accept(body, headers)
        except DecodeError as error:
            raise _failed(wanted, str(error)) from error
        if content.issued_at > now + CLOCK_SKEW and not wanted.keeps:
            raise _failed(wanted, f"found one issued at {_text(content.issued_at)}, want none after {_text(now)}")
        if kept is not None and content.issued_at < kept.content.issued_at and not self._refresh:
            raise _failed(
                wanted,
                f"found one issued at {_text(content.issued_at)}, want none older than the one in {self._cache.path},"
                f" issued at {_text(kept.content.issued_at)}",
            )
        if now > content.valid_until and not self._allow_stale:
            raise _failed(wanted, f"found one that was valid until {_text(content.valid_until)}, want a current one")
        note = None
        try:
            self._cache.store(Entry(url=wanted.key, body=body, headers=headers, fetched_at=now))
        except OSError as error:
            note = f"not kept in {self._cache.path}: {error.strerror}"
        return self._item(_Kept(wanted, content, now), from_cache=False, note=note)

    def _patiently(self, wanted: Wanted, attempts: int, deadline: float) -> Reply:
        """Ask, and ask again as the service bids or in growing intervals, until there is an answer or no time left."""
        pause_s = _FIRST_PAUSE_S[wanted.service]
        attempt = 0
        while True:
            attempt += 1
            self._say(f"asking for {wanted.what}: {wanted.url}")
            bidden_s = None
            left_s = deadline - self._timing.monotonic()
            try:
                reply = self._client.get(wanted.url, max_bytes=wanted.max_bytes, timeout_s=left_s)
            except Unreachable as error:
                found = str(error)
            except EndorsementError as error:
                raise _failed(wanted, str(error), hint=error.hint) from error
            else:
                if reply.status not in _LATER:
                    return reply
                bidden_s = _retry_after_s(reply.headers.get("retry-after"), self._timing.now())
                found = f"found status {reply.status}, want 200"
            wait_s = (pause_s if bidden_s is None else bidden_s) + self._timing.jitter()
            left_s = deadline - self._timing.monotonic()
            if attempt >= attempts or wait_s >= left_s:
                raise _failed(
                    wanted,
                    f"{found} (asked {attempt} times; the next time would be in {wait_s:.0f} s, of"
                    f" {self._max_wait_s:.0f} s for all)",
                )
            self._say(f"{wanted.what}: {wanted.url}: {found}; asking again in {wait_s:.0f} s")
            self._timing.sleep(wait_s)
            pause_s *= 2


def _retry_after_s(text: str | None, now: datetime) -> float | None:
    """Return what a Retry-After header asks for, in seconds, or None where it asks for nothing that can be read.

    Spec: RFC 9110 10.2.3.
    """
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())


def _failed(wanted: Wanted, found: str, *, hint: str | None = None) -> EndorsementError:
    # It can quote the answer, which can be written for somebody's terminal.
    plain = "".join(character if character.isprintable() else "?" for character in found[:_MAX_QUOTED])
    return EndorsementError(f"cannot get {wanted.what}: {wanted.url}: {plain}", hint=hint or _by_hand(wanted))


def _by_hand(wanted: Wanted) -> str:
    with_headers = " -D headers" if wanted.headers else ""
    return (
        f"use a mirror, fill the cache on a machine with a network, or: curl -f{with_headers} -o FILE '{wanted.key}'"
        " and --endorsements FILE"
    )


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def decode_crl(der: bytes, issuer: str) -> Content:
    """Decode a list and see whose it is.

    Args:
        der: DER.
        issuer: the common name it must have.

    Raises:
        DecodeError: not a list, another's, or one without a next update.
    """
    crl = load_crl_untrusted(der)
    names = [str(each.value) for each in crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if names != [issuer]:
        raise DecodeError(f"found a list of {', '.join(names) or 'nobody'}, want one of {issuer}")
    if crl.next_update_utc is None:
        raise DecodeError(f"found a list of {issuer} without a next update, want one that says when it ends")
    return Content(der, crl.last_update_utc, crl.next_update_utc)
