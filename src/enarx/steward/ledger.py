# SPDX-License-Identifier: Apache-2.0
"""The log as a service sees it: a decision is appended, and when that returns it is there for ever.

Rules of this file:

- One thread writes. It takes all that waits, and appends it in one transaction with one checkpoint; whoever comes meanwhile waits for
  the next. So one flush of a disk serves as many as ask at once, and nobody is answered before it.
- What waits is limited in number and bytes. There is no room for more: TransportError.
- One entry that cannot be appended, because its nonce was used, harms no other.
- Whoever waits is answered. Should the thread end, then by PlatformError, and nothing is taken from there on. Should the database say
  nothing, then by PlatformError too, and what waits for it is ended.
- The newest checkpoint is given to whoever keeps it, once a second at most and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeAlias

from enarx.errors import DecodeError, EnarxError, PlatformError, TransportError, UsageError
from enarx.steward.entries import decode_entry_untrusted, encode_entry
from enarx.steward.log import Checkpoint, LogSigner
from enarx.steward.store import (
    Append,
    InForce,
    IssuedRow,
    Logged,
    ReplayedNonceError,
    Store,
    UnknownCertificateError,
    open_store,
)

__all__ = [
    "ANSWER_WAIT_S",
    "MAX_GROUP",
    "MAX_WAITING",
    "Entry",
    "InForce",
    "IssuedRow",
    "Ledger",
    "Logged",
    "ReplayedNonceError",
    "UnknownCertificateError",
    "encode_entry",
    "open_ledger",
]

MAX_GROUP = 256
"""Entries of one transaction."""
MAX_GROUP_BYTES = 4 << 20
MAX_PAUSE_S = 0.02
"""A transaction begins as long after the one before as that took, and so much at most: under load there is more in each of them."""
ANSWER_WAIT_S = 40.0
"""For the log, whatever happens to its database: longer than everything that a database that speaks may take."""
KEEP_PAUSE_S = 1.0
MAX_WAITING = 4096
MAX_WAITING_BYTES = 64 << 20

_Answer: TypeAlias = "Logged | BaseException | None"


class Entry(NamedTuple):
    """One decision.

    Args:
        kind: one of `enarx.steward.entries.KINDS`.
        at: when it was made, aware.
        nonce: 32 bytes that no other entry has, or None.
        body: as from `encode_entry`, of the same facts.
        certificate: that it issues, or None.
    """

    kind: str
    at: datetime
    nonce: bytes | None
    body: bytes
    certificate: IssuedRow | None = None


class _Waiting(NamedTuple):
    append: Append
    size_bytes: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Logged | None]


class Ledger:
    """The log of one Steward process.

    Args:
        store: the database.
        signer: of checkpoints.
        committed: is told how many entries a transaction had and how many seconds it took, in the writing thread.
        keep: is given the newest checkpoint, in the writing thread.
    """

    def __init__(
        self,
        store: Store,
        signer: LogSigner,
        *,
        committed: Callable[[int, float], None] | None = None,
        keep: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._signer = signer
        self._committed = committed
        self._keep = keep
        self._unkept: str | None = None
        self._kept_at = -KEEP_PAUSE_S
        self._commit_began: float | None = None
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._writer = threading.Thread(target=self._write, name="steward log", daemon=True)
        self._writer.start()

    async def append(self, entry: Entry, *, is_one_story: bool = False) -> Logged:
        """Append a decision.

        Args:
            entry: what it is.
            is_one_story: whether all of it was made of the same facts at once; otherwise it is looked at whether it could have been.

        Returns:
            Where it is, durably, with a signed checkpoint that covers it.

        Raises:
            ReplayedNonceError: another entry has its nonce.
            TransportError: too many wait already.
            PlatformError: it cannot be written, or the log is closed. Or the database says nothing: then nobody knows whether it is there.
            VerificationError: what is stored is not what was signed.
            UsageError: body and entry are of different facts.
        """
        if not is_one_story:
            _require_one_story(entry)
        done = await self._wait_for(Append(entry.body, entry.nonce, entry.certificate))
        if done is None:
            raise PlatformError("cannot write the log: found no place for an entry, want one")
        return done

    async def revoke(self, serial: int, reason: str, at: datetime) -> Logged | None:
        """Revoke a certificate, by an entry of its own.

        Args:
            serial: of the certificate.
            reason: in words, without secrets.
            at: when.

        Returns:
            Where the entry is; None where the certificate is revoked already.

        Raises:
            UnknownCertificateError: there is no such certificate.
            TransportError: see `append`, as for the others.
            PlatformError: see there.
            VerificationError: see there.
        """
        # Not every database keeps such a letter.
        body = encode_entry(kind="revocation", at=at, serial=serial, reason=reason.replace("\0", " "))
        words = decode_entry_untrusted(body).reason or ""
        return await self._wait_for(Append(body, revokes=(serial, at, words)))

    async def seen(self, nonce: bytes) -> bool:
        """Return whether an entry has that nonce.

        Raises:
            PlatformError: the log cannot be read, or nothing can be written to it any more.
        """
        with self._changed:
            self._require_open()
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                return await asyncio.to_thread(self._store.has_nonce, nonce)
        except TimeoutError as error:
            self._store.interrupt()
            raise PlatformError(
                f"cannot read the log: found no answer of its database in {ANSWER_WAIT_S:g} s, want one"
            ) from error

    def certificates_in_force(self, now: datetime) -> Iterator[InForce]:
        """Give the certificates that have not ended and are not revoked, the oldest first, a few at a time.

        Each `next` waits for the database.
        """
        return self._store.certificates_in_force(now)

    def revoked(self, now: datetime) -> list[tuple[int, datetime, str]]:
        """Return serial, time and reason of what is revoked, until a day after it would have ended. It waits for the database."""
        return self._store.revoked(now)

    def newest_checkpoint(self) -> str | None:
        """Return the newest signed checkpoint, or None where there is no entry. It waits for the database."""
        return self._store.newest_checkpoint()

    async def close(self) -> None:
        """Write what waits, and close the database."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        await asyncio.to_thread(self._writer.join, ANSWER_WAIT_S)
        if self._writer.is_alive():
            self._store.interrupt()
            await asyncio.to_thread(self._writer.join, ANSWER_WAIT_S)
        self._store.close()

    async def _wait_for(self, append: Append) -> Logged | None:
        size_bytes = _size_of(append)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Logged | None] = loop.create_future()
        with self._changed:
            self._require_open()
            if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
                raise TransportError(
                    f"cannot write the log: found {len(self._waiting)} decisions that wait, want fewer",
                    hint="try again later",
                )
            self._waiting.append(_Waiting(append, size_bytes, loop, answer))
            self._waiting_bytes += size_bytes
            if len(self._waiting) == 1:
                self._changed.notify()
        # A context with a time limit would cost more, and there is one for each decision.
        late = loop.call_later(ANSWER_WAIT_S, _be_late, answer)
        try:
            return await answer
        except TimeoutError as error:
            began = self._commit_began
            if began is not None and time.perf_counter() - began > ANSWER_WAIT_S / 2:
                # It is this transaction that gets no answer, and not only that there are many before ours.
                self._store.interrupt()
            raise PlatformError(
                f"cannot write the log: found no answer of its database in {ANSWER_WAIT_S:g} s, want one; it is not known whether the"
                " entry is in the log",
                hint="see whether the database can be reached",
            ) from error
        finally:
            late.cancel()

    def _require_open(self) -> None:
        if self._is_closing or not self._writer.is_alive():
            raise PlatformError("cannot write the log: found it closed, want it open")

    # --- The writing thread

    def _write(self) -> None:
        group: list[_Waiting] = []
        try:
            took_s, ended = 0.0, 0.0
            while (taken := self._take(ended + min(took_s, MAX_PAUSE_S))) is not None:
                group = taken
                if group:
                    self._commit_began = began = time.perf_counter()
                    answers = self._commit(group)
                    self._commit_began, ended = None, time.perf_counter()
                    took_s = ended - began
                    _answer(group, answers)
                    if self._committed is not None:
                        count = sum(isinstance(each, Logged) for each in answers)
                        self._say_committed(partial(self._committed, count, took_s))
                    self._note_newest(answers)
                self._keep_newest()
            group = []
            self._keep_newest(is_end=True)
        finally:
            self._give_up(group)

    def _note_newest(self, answers: list[_Answer]) -> None:
        newest = next((each.checkpoint for each in reversed(answers) if isinstance(each, Logged)), None)
        if newest is not None and self._keep is not None:
            self._unkept = newest

    def _keep_newest(self, *, is_end: bool = False) -> None:
        if self._keep is None or self._unkept is None or not (is_end or self._until_kept_s() <= 0):
            return
        text, self._unkept, self._kept_at = self._unkept, None, time.perf_counter()
        self._say_committed(partial(self._keep, text))

    def _until_kept_s(self) -> float:
        return self._kept_at + KEEP_PAUSE_S - time.perf_counter()

    @staticmethod
    def _say_committed(say: Callable[[], None]) -> None:
        """Tell who counts or keeps; that he fails is said as of any thread, and is no reason to write no more."""
        try:
            say()
        except Exception as error:  # noqa: BLE001  # whatever he does there
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    def _give_up(self, group: list[_Waiting]) -> None:
        """Answer everybody who still waits, where the thread ends for another reason than that it should."""
        with self._changed:
            self._is_closing = True
            waiting = [*group, *self._waiting]
            self._waiting.clear()
            self._waiting_bytes = 0
        ended = "cannot write the log: found the thread that writes it ended by a bug, want it to go on"
        _answer(waiting, [PlatformError(ended) for _ in waiting])

    def _take(self, not_before: float) -> list[_Waiting] | None:
        """Wait for something to write, and until a time for more of it; or until a checkpoint is to be kept. None is the end."""
        group: list[_Waiting] = []
        size_bytes = 0
        with self._changed:
            while not self._waiting and not self._is_closing:
                if self._unkept is None:
                    self._changed.wait()
                elif (until_s := self._until_kept_s()) <= 0:
                    return []
                else:
                    self._changed.wait(until_s)
            if not self._waiting:
                return None
            if (pause_s := not_before - time.perf_counter()) > 0:
                self._changed.wait_for(lambda: self._is_closing, pause_s)
            while self._waiting and len(group) < MAX_GROUP:
                if group and size_bytes + self._waiting[0].size_bytes > MAX_GROUP_BYTES:
                    break
                group.append(self._waiting.popleft())
                size_bytes += group[-1].size_bytes
            self._waiting_bytes -= size_bytes
        return group

    def _commit(self, group: list[_Waiting]) -> list[_Answer]:
        try:
            return list(self._store.append([each.append for each in group], self._signer))
        except EnarxError as error:
            return [_copy_of(error) for _ in group]
        except Exception as error:  # noqa: BLE001  # whoever waits hears of it, and the next ones are served
            return [error for _ in group]


def open_ledger(
    url: str,
    signer: LogSigner,
    *,
    committed: Callable[[int, float], None] | None = None,
    kept: Checkpoint | None = None,
    keep: Callable[[str], None] | None = None,
) -> Ledger:
    """Open a log, made where there is none.

    Args:
        url: of its database, `sqlite:///path` or `postgresql://...`; a password in it is not shown again.
        signer: of checkpoints.
        committed: see `Ledger`.
        kept: what it must go on from, whose signature was verified, or None.
        keep: see `Ledger`.

    Raises:
        UsageError: the URL is of no database that there is code for.
        PlatformError: the database cannot be used.
        VerificationError: it does not go on from what was kept.
    """
    store = open_store(url)
    if kept is not None:
        try:
            store.require_continuation(kept, signer.verifier_key)
        except BaseException:
            store.close()
            raise
    return Ledger(store, signer, committed=committed, keep=keep)


def _be_late(answer: asyncio.Future[Logged | None]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _answer(group: list[_Waiting], answers: list[_Answer]) -> None:
    told: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Logged | None], _Answer]]] = {}
    for each, answer in zip(group, answers, strict=True):
        told.setdefault(each.loop, []).append((each.answer, answer))
    for loop, pairs in told.items():
        # A loop that has ended has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell, pairs)


def _tell(pairs: list[tuple[asyncio.Future[Logged | None], _Answer]]) -> None:
    for future, answer in pairs:
        if future.done():
            # Whoever asked has gone.
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _copy_of(error: EnarxError) -> EnarxError:
    """Return an error of its own for each who waits, so that none has the traceback of another."""
    found = type(error)(str(error), hint=error.hint)
    found.__cause__ = error.__cause__
    return found


def _require_one_story(entry: Entry) -> None:
    """Require that what is stored beside a body is what the body says: an audit would find it otherwise."""
    try:
        facts = decode_entry_untrusted(entry.body)
    except DecodeError as error:
        raise UsageError(f"cannot log a decision: {error}") from error
    serial = None if entry.certificate is None else entry.certificate.serial
    if facts.kind != entry.kind or facts.nonce != entry.nonce or (serial is not None and facts.serial != serial):
        raise UsageError(
            "cannot log a decision: found a body of another kind, nonce or serial number, want the entry's"
        )
    if entry.certificate is not None and facts.kept_sha256 != entry.certificate.kept_sha256:
        raise UsageError("cannot log a decision: found a body without the digest of what is kept beside it, want it")
    if (facts.kind == "certificate") != (serial is not None):
        raise UsageError(
            f"cannot log a decision: found kind {facts.kind} and serial number {serial}, want both or none"
        )


def _size_of(append: Append) -> int:
    found = len(append.body)
    if append.certificate is not None:
        row = append.certificate
        found += len(row.evidence) + len(row.receipt) + len(row.spki) + sum(map(len, row.endorsements))
    return found
