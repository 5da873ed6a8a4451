# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enarx.errors import PlatformError, TransportError, UsageError, VerificationError
from enarx.steward import ledger as module
from enarx.steward.auditing import audit
from enarx.steward.entries import encode_entry
from enarx.steward.ledger import (
    Entry,
    Ledger,
    Logged,
    ReplayedNonceError,
    UnknownCertificateError,
    open_ledger,
)
from enarx.steward.log import LogSigner, verify_checkpoint
from enarx.steward.store import open_store
from tests.unit.steward.issued_rows import entry_of, row_of

SIGNER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
ROW = row_of(7)


def entry(number, *, has_nonce=True):
    nonce = number.to_bytes(32) if has_nonce else None
    return Entry("result", AT, nonce, encode_entry(kind="result", at=AT, nonce=nonce, reason=f"{number}"))


def certificate(serial=7, nonce=None):
    return entry_of(row_of(serial), nonce=nonce)


def in_force(ledger):
    found = list(ledger.certificates_in_force(AT))
    assert not any(each.unfit for each in found)
    return [issued.row.serial for each in found for issued in each.issued]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/steward.sqlite3"


@asynccontextmanager
async def opened(url, **options):
    ledger = open_ledger(url, SIGNER, **options)
    try:
        yield ledger
    finally:
        await ledger.close()


class Gate:
    """A store that appends when it is let, and counts what it is given."""

    def __init__(self, store):
        self.groups = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._store = store
        self.failure = None

    def append(self, entries, signer):
        self.groups.append(len(entries))
        self.begun.set()
        assert self.go_on.wait(30)
        if self.failure is not None:
            raise self.failure
        return self._store.append(entries, signer)

    def __getattr__(self, name):
        return getattr(self._store, name)


@asynccontextmanager
async def gated(url):
    gate = Gate(open_store(url))
    ledger = Ledger(gate, SIGNER)
    try:
        yield ledger, gate
    finally:
        gate.go_on.set()
        await ledger.close()


async def begun(gate):
    await asyncio.to_thread(gate.begun.wait, 30)


def test_many_at_once_share_a_transaction_and_a_checkpoint(url):
    async def run():
        async with gated(url) as (ledger, gate):
            first = asyncio.ensure_future(ledger.append(entry(0)))
            await begun(gate)
            others = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(1, 301)]
            await asyncio.sleep(0)
            gate.go_on.set()
            return gate.groups, [await first, *await asyncio.gather(*others)]

    groups, answers = asyncio.run(run())
    assert groups == [1, 256, 44]
    assert [each.index for each in answers] == list(range(301))
    assert len({each.checkpoint for each in answers}) == 3
    for each in answers:
        assert each.index < each.size == verify_checkpoint(each.checkpoint, SIGNER.verifier_key).size


def test_a_group_is_limited_in_bytes(url, monkeypatch):
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 3 * len(entry(1).body))

    async def run():
        async with gated(url) as (ledger, gate):
            first = asyncio.ensure_future(ledger.append(entry(0)))
            await begun(gate)
            others = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(1, 8)]
            await asyncio.sleep(0)
            gate.go_on.set()
            await asyncio.gather(first, *others)
            return gate.groups

    assert asyncio.run(run()) == [1, 3, 3, 1]


def test_nobody_is_answered_before_the_commit(url):
    async def run():
        async with gated(url) as (ledger, gate):
            waiting = asyncio.ensure_future(ledger.append(entry(0)))
            await begun(gate)
            await asyncio.sleep(0)
            is_answered = waiting.done()
            gate.go_on.set()
            return is_answered, await waiting

    is_answered, logged = asyncio.run(run())
    assert not is_answered
    with closing(open_store(url, must_exist=True)) as again:
        assert again.newest_checkpoint() == logged.checkpoint
        assert again.has_nonce(bytes(32))


def test_after_a_failed_commit_nobody_got_an_answer_and_the_next_are_served(url):
    async def run():
        async with gated(url) as (ledger, gate):
            gate.failure = PlatformError("cannot write the log: the database: disk I/O error", hint="space")
            group = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(3)]
            await begun(gate)
            gate.go_on.set()
            failures = await asyncio.gather(*group, return_exceptions=True)
            gate.failure = None
            return failures, await ledger.append(entry(9))

    failures, logged = asyncio.run(run())
    assert [(type(each), str(each), each.hint) for each in failures] == [
        (PlatformError, "cannot write the log: the database: disk I/O error", "space")
    ] * 3
    assert len(set(map(id, failures))) == 3
    assert (logged.index, logged.size) == (0, 1)


def test_a_commit_that_the_file_refuses_is_no_entry(url, tmp_path):
    """The database itself fails, after all statements were accepted."""

    async def run():
        async with opened(url) as ledger:
            await ledger.append(entry(0))
            with closing(sqlite3.connect(tmp_path / "steward.sqlite3")) as database, database:
                database.execute(
                    "CREATE TRIGGER full BEFORE INSERT ON checkpoints BEGIN SELECT RAISE(ABORT, 'full'); END"
                )
            with pytest.raises(PlatformError, match="full"):
                await ledger.append(entry(1))
            seen = await ledger.seen((1).to_bytes(32))
            with closing(sqlite3.connect(tmp_path / "steward.sqlite3")) as database, database:
                database.execute("DROP TRIGGER full")
            return seen, await ledger.append(entry(1))

    seen, logged = asyncio.run(run())
    assert not seen
    assert logged.index == 1
    assert audit(url, SIGNER.verifier_key).findings == ()


def test_an_error_nobody_foresaw_is_told_and_the_next_are_served(url):
    async def run():
        async with gated(url) as (ledger, gate):
            gate.go_on.set()
            gate.failure = ZeroDivisionError("a bug")
            with pytest.raises(ZeroDivisionError):
                await ledger.append(entry(0))
            gate.failure = None
            return await ledger.append(entry(1))

    assert asyncio.run(run()).index == 0


def test_a_replayed_nonce_fails_its_own_entry_alone(url):
    async def run():
        async with opened(url) as ledger:
            answers = await asyncio.gather(
                *(ledger.append(entry(number)) for number in (1, 2, 1, 3)), return_exceptions=True
            )
            assert await ledger.seen((3).to_bytes(32))
            assert not await ledger.seen((4).to_bytes(32))
            with pytest.raises(ReplayedNonceError):
                await ledger.append(entry(2))
            return answers

    answers = asyncio.run(run())
    assert [type(each) for each in answers] == [Logged, Logged, ReplayedNonceError, Logged]
    assert issubclass(ReplayedNonceError, VerificationError)
    assert [answers[at].index for at in (0, 1, 3)] == [0, 1, 2]


def test_what_waits_is_limited(url, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 5)

    async def run():
        async with gated(url) as (ledger, gate):
            first = asyncio.ensure_future(ledger.append(entry(0)))
            await begun(gate)
            waiting = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(1, 6)]
            await asyncio.sleep(0)
            with pytest.raises(TransportError, match="5 decisions that wait"):
                await ledger.append(entry(6))
            gate.go_on.set()
            await asyncio.gather(first, *waiting)
            return await ledger.append(entry(6))

    assert asyncio.run(run()).index == 6


def test_the_bytes_that_wait_are_limited(url, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1000)
    large = entry_of(ROW._replace(evidence=bytes(1000)))

    async def run():
        async with opened(url) as ledger:
            with pytest.raises(TransportError):
                await ledger.append(large)
            return await ledger.append(entry(1))

    assert asyncio.run(run()).index == 0


def test_who_goes_away_leaves_an_entry_and_no_error(url):
    async def run():
        async with gated(url) as (ledger, gate):
            waiting = asyncio.ensure_future(ledger.append(entry(0)))
            await begun(gate)
            waiting.cancel()
            gate.go_on.set()
            return await ledger.append(entry(1))

    assert asyncio.run(run()).index == 1


def test_a_loop_that_ended_stops_nobody_else(url):
    gate = Gate(open_store(url))
    ledger = Ledger(gate, SIGNER)

    async def leave():
        asyncio.ensure_future(ledger.append(entry(0)))  # noqa: RUF006
        await begun(gate)

    asyncio.run(leave())
    gate.go_on.set()

    async def go_on():
        logged = await ledger.append(entry(1))
        await ledger.close()
        return logged

    assert asyncio.run(go_on()).index == 1


def test_closing_writes_what_waits_and_nothing_after(url):
    async def run():
        async with gated(url) as (ledger, gate):
            waiting = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(3)]
            await begun(gate)
            gate.go_on.set()
            await ledger.close()
            with pytest.raises(PlatformError, match="closed"):
                await ledger.append(entry(9))
            return await asyncio.gather(*waiting)

    assert [each.index for each in asyncio.run(run())] == [0, 1, 2]


def test_certificates_come_back_until_they_are_revoked(url):
    async def run():
        async with opened(url) as ledger:
            await ledger.append(certificate(7))
            await ledger.append(certificate(8))
            await ledger.append(certificate(10))
            assert in_force(ledger) == [7, 8, 10]
            logged = await ledger.revoke(7, "policy.changed", AT)
            assert logged.index == 3
            assert await ledger.revoke(7, "again", AT) is None
            with pytest.raises(UnknownCertificateError):
                await ledger.revoke(9, "policy.changed", AT)
            await ledger.revoke(10, "\0\udc80" + "x" * 2000, AT)
            assert ledger.revoked(AT) == [(7, AT, "policy.changed"), (10, AT, " ?" + "x" * 1022)]
            assert in_force(ledger) == [8]
            return ledger.newest_checkpoint(), logged.checkpoint

    newest, last = asyncio.run(run())
    assert verify_checkpoint(newest, SIGNER.verifier_key).size == 5
    assert verify_checkpoint(last, SIGNER.verifier_key).size == 4
    assert audit(url, SIGNER.verifier_key).findings == ()


def test_refuses_an_entry_that_says_something_else_than_its_body(url):
    good = entry(1)
    wrong = [
        good._replace(kind="policy"),
        good._replace(nonce=None),
        good._replace(body=b"x"),
        good._replace(certificate=ROW),
        certificate()._replace(certificate=None),
        certificate()._replace(certificate=ROW._replace(serial=8)),
        certificate()._replace(certificate=ROW._replace(evidence=b"other")),
        Entry("certificate", AT, None, encode_entry(kind="certificate", at=AT, serial=7), ROW),
    ]

    async def run():
        async with opened(url) as ledger:
            for each in wrong:
                with pytest.raises(UsageError, match="cannot log a decision"):
                    await ledger.append(each)
            return await ledger.append(good)

    assert asyncio.run(run()).index == 0


def test_says_what_each_transaction_had(url):
    told = []

    async def run():
        async with opened(url, committed=lambda count, seconds: told.append((count, seconds))) as ledger:
            await ledger.append(entry(1))
            with pytest.raises(ReplayedNonceError):
                await ledger.append(entry(1))

    asyncio.run(run())
    assert [count for count, _ in told] == [1, 0]
    assert all(seconds > 0 for _, seconds in told)


def test_who_counts_transactions_may_fail_and_the_log_goes_on(url, monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(args.exc_value))

    def committed(count, seconds):
        raise ZeroDivisionError("a bug of who counts")

    async def run():
        async with opened(url, committed=committed) as ledger:
            first = await asyncio.wait_for(ledger.append(entry(1)), 30)
            return first, await asyncio.wait_for(ledger.append(entry(2)), 30)

    assert [each.index for each in asyncio.run(run())] == [0, 1]
    assert [str(error) for error in said] == ["a bug of who counts"] * 2


def test_where_the_writing_thread_ends_everybody_is_answered(url, monkeypatch):
    """Those whose entries it was writing, those who wait for the next transaction, and those who come later."""
    said = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(args.exc_value))
    monkeypatch.setattr(module, "MAX_GROUP", 2)

    async def run():
        async with gated(url) as (ledger, gate):
            gate.failure = KeyboardInterrupt("of no class that is caught")
            waiting = [asyncio.ensure_future(ledger.append(entry(number))) for number in range(2)]
            await begun(gate)
            waiting += [asyncio.ensure_future(ledger.append(entry(number))) for number in range(2, 9)]
            await asyncio.sleep(0)
            gate.go_on.set()
            answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
            for late in (ledger.append(entry(9)), ledger.seen(bytes(32))):
                with pytest.raises(PlatformError, match="closed"):
                    await asyncio.wait_for(late, 30)
            return answers

    answers = asyncio.run(run())
    assert {(type(each), "ended by a bug" in str(each)) for each in answers} == {(PlatformError, True)}
    assert len({id(each) for each in answers}) == len(answers) == 9
    assert [type(error) for error in said] == [KeyboardInterrupt]


def test_ledgers_of_two_loops_make_one_log(url):
    """As two processes would; two real ones do it on PostgreSQL in the slow tests."""

    def serve(numbers):
        async def run():
            async with opened(url) as ledger:
                return await asyncio.gather(*(ledger.append(entry(number)) for number in numbers))

        found.extend(asyncio.run(run()))

    found: list[Logged] = []
    threads = [threading.Thread(target=serve, args=(range(begin, begin + 40),)) for begin in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.index for each in found) == list(range(80))
    audited = audit(url, SIGNER.verifier_key)
    assert (audited.size, audited.findings) == (80, ())


def test_no_thread_is_left(url):
    before = threading.active_count()

    async def run():
        async with opened(url) as ledger:
            await ledger.append(entry(1, has_nonce=False))

    asyncio.run(run())
    assert threading.active_count() == before
    assert os.path.exists(url.removeprefix("sqlite:///"))


def test_keeps_the_newest_checkpoint_at_once_then_now_and_then_and_at_the_end(url):
    kept = []

    async def run():
        async with opened(url, keep=kept.append) as ledger:
            first = await ledger.append(entry(0))
            last = [await ledger.append(entry(number)) for number in range(1, 40)][-1]
        return first, last

    first, last = asyncio.run(run())
    assert (kept[0], kept[-1]) == (first.checkpoint, last.checkpoint)
    assert len(kept) < 40


def test_keeps_a_checkpoint_after_which_nothing_comes(url, monkeypatch):
    monkeypatch.setattr(module, "KEEP_PAUSE_S", 0.05)
    kept, came = [], threading.Event()

    def keep(text):
        kept.append(text)
        if len(kept) > 1:
            came.set()

    async def run():
        async with opened(url, keep=keep) as ledger:
            await ledger.append(entry(0))
            logged = await ledger.append(entry(1))
            assert await asyncio.to_thread(came.wait, 30)
            return logged

    logged = asyncio.run(run())
    assert kept[1] == kept[-1] == logged.checkpoint


def test_a_checkpoint_that_cannot_be_kept_ends_nothing(url, monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", said.append)

    def keep(_text):
        raise OSError("full")

    async def run():
        async with opened(url, keep=keep) as ledger:
            return [(await ledger.append(entry(number))).index for number in range(3)]

    assert asyncio.run(run()) == [0, 1, 2]
    assert all(each.exc_type is OSError for each in said)
    assert said


def test_a_log_that_lacks_what_was_kept_is_not_opened(url):
    async def run():
        async with opened(url) as ledger:
            return (await ledger.append(entry(0))).checkpoint

    kept = verify_checkpoint(asyncio.run(run()), SIGNER.verifier_key)
    with pytest.raises(VerificationError, match="found 1 entries, want at least the 2"):
        open_ledger(url, SIGNER, kept=kept._replace(size=2))

    async def go_on():
        async with opened(url, kept=kept) as ledger:
            return (await ledger.append(entry(1))).index

    assert asyncio.run(go_on()) == 1


def test_whoever_waits_for_a_silent_database_is_told_and_what_waits_is_ended(url, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.2)
    ended = []

    async def run():
        async with gated(url) as (ledger, gate):
            gate.interrupt = lambda: ended.append(gate.go_on.set())
            with pytest.raises(PlatformError, match="it is not known whether the entry is in the log") as caught:
                await ledger.append(entry(0))
            assert caught.value.hint
            # The thread goes on.
            monkeypatch.setattr(module, "ANSWER_WAIT_S", 30)
            return (await ledger.append(entry(1))).index

    assert asyncio.run(run()) == 1
    assert ended == [None]


def test_whoever_asks_a_silent_database_is_told(url, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.2)
    go_on = threading.Event()

    async def run():
        async with gated(url) as (ledger, gate):
            gate.has_nonce = lambda _nonce: go_on.wait(30)
            gate.interrupt = go_on.set
            with pytest.raises(PlatformError, match="found no answer of its database"):
                await ledger.seen(bytes(32))

    asyncio.run(run())
    assert go_on.is_set()
