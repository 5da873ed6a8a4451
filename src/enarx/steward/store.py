# SPDX-License-Identifier: Apache-2.0
"""Where a Steward's log is kept: tables and transactions, in an SQLite file or in PostgreSQL.

Rules of this file:

- Whatever is appended comes with the checkpoint that covers it, in one transaction, which is durable when it returns.
- One transaction appends at a time, whoever else has the database open: SQLite takes its write lock first, PostgreSQL an advisory
  lock. Before it appends it reads the newest checkpoint and the right edge of the tree. Where they do not fit each other, or this
  process has seen a later one, nothing is signed.
- Every wait has an end. What goes wrong is PlatformError, with neither the database's URL nor a value in its message.
- The schema is the sum of the steps in `enarx.steward.migrations`; the tables here say the same to SQLAlchemy.

What holds it together: a statement and what it means for the log stand side by side.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url

from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError, EnarxError, PlatformError, UsageError, VerificationError
from enarx.steward.entries import MAX_TIME_MS, as_ms, as_time
from enarx.steward.issued import Issued, IssuedRow, fit
from enarx.steward.log import (
    Checkpoint,
    Frontier,
    LogSigner,
    VerifierKey,
    consistency_proof,
    hash_of_leaf,
    verify_checkpoint,
    verify_consistency,
)

__all__ = [
    "IN_FORCE_AT_ONCE",
    "Append",
    "InForce",
    "IssuedRow",
    "Logged",
    "ReplayedNonceError",
    "Store",
    "Tables",
    "Unfit",
    "UnknownCertificateError",
    "as_key",
    "as_ms",
    "as_time",
    "open_store",
    "read_hash",
]

IN_FORCE_AT_ONCE = 8
"""Certificates that are read at once; what is kept of one may be more than a mebibyte."""
LOCK_WAIT_S = 10
"""For another process's transaction; one takes milliseconds."""
_STATEMENT_WAIT_S = 30
_WAL_PAUSE_S = 0.01
_CONNECT_WAIT_S = 10
_SILENCE_S = 20
"""After which a connection to PostgreSQL on which nothing is confirmed any more has ended, as the kernel sees it."""
_ATTEMPTS = 5
_APPEND_LOCK = 0x656E617278_01
_SCHEMA_LOCK = 0x656E617278_02
_AGAIN = {"40001", "40P01"}
_SERIAL_BYTES = 20
_MAX_REMEMBERED = 4096
_REVOKED_KEPT = timedelta(days=1)

T = TypeVar("T")


class ReplayedNonceError(VerificationError):
    """A nonce was used before."""


class UnknownCertificateError(UsageError):
    """There is no certificate with that serial number."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Where an entry is.

    Args:
        index: of it.
        size: of the log that the checkpoint is of.
        checkpoint: covers the entry, signed.
    """

    index: int
    size: int
    checkpoint: str


class Append(NamedTuple):
    """What is to be appended.

    Args:
        body: of the entry.
        nonce: that no other entry may have, or None.
        certificate: that the entry issues, or None.
        revokes: serial number, time and reason of the certificate that the entry revokes, or None.
    """

    body: bytes
    nonce: bytes | None = None
    certificate: IssuedRow | None = None
    revokes: tuple[int, datetime, str] | None = None


class Unfit(NamedTuple):
    """What is stored of a certificate, and is not what its entry says: somebody changed the database.

    Args:
        serial: as it is stored, 0 where that is no number.
        entry: that issues it, as is stored; -1 where that is no number.
        reason: one line.
    """

    serial: int
    entry: int
    reason: str


class InForce(NamedTuple):
    """Some certificates that have not ended and are not revoked.

    Args:
        issued: what fits its entry.
        unfit: what does not, on whose word nothing is to be done.
    """

    issued: list[Issued]
    unfit: list[Unfit]


class Tables:
    """The tables, as SQLAlchemy is told."""

    metadata = sa.MetaData()
    entries = sa.Table(
        "entries",
        metadata,
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("nonce", name="entries_nonce_once"),
    )
    # Of level 1 and above: a leaf's is with its entry.
    hashes = sa.Table(
        "hashes",
        metadata,
        sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    certificates = sa.Table(
        "certificates",
        metadata,
        sa.Column("serial", sa.LargeBinary, primary_key=True),
        sa.Column("entry", sa.BigInteger, sa.ForeignKey("entries.index"), nullable=False, unique=True),
        sa.Column("not_after_ms", sa.BigInteger, nullable=False, index=True),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.Column("endorsements", sa.LargeBinary, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sa.Column("spki", sa.LargeBinary, nullable=False),
        sa.Column("report_data", sa.LargeBinary, nullable=False),
        sa.Column("revoked_by", sa.BigInteger, sa.ForeignKey("entries.index"), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
    )
    # Once, and not with each certificate: of one platform they are the same for months. A certificate has the digest of its list.
    endorsements = sa.Table(
        "endorsements",
        metadata,
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("list", sa.LargeBinary, nullable=False),
    )
    checkpoints = sa.Table(
        "checkpoints",
        metadata,
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
    )


# Of one statement: what any SQLite takes.
_MAX_PARAMETERS = 999
_INTO_ENTRIES = 'entries ("index", leaf, nonce, body)'
_INTO_HASHES = 'hashes (level, "index", hash)'
_INTO_CERTIFICATES = "certificates (serial, entry, not_after_ms, evidence, endorsements, receipt, spki, report_data)"
_INTO_CHECKPOINTS = "checkpoints (size, text)"
_INTO_ENDORSEMENTS = "endorsements (digest, list)"
_MARK_REVOKED = (
    sa.update(Tables.certificates)
    .where(Tables.certificates.c.serial == sa.bindparam("wanted"))
    .values(revoked_by=sa.bindparam("by"), revoked_at_ms=sa.bindparam("at_ms"), reason=sa.bindparam("why"))
)
_NEWEST = sa.select(Tables.checkpoints.c.size, Tables.checkpoints.c.text).order_by(Tables.checkpoints.c.size.desc()).limit(1)  # fmt: skip
_LEAF = sa.select(Tables.entries.c.leaf).where(Tables.entries.c.index == sa.bindparam("at"))
_HASH = sa.select(Tables.hashes.c.hash).where(
    Tables.hashes.c.level == sa.bindparam("height"), Tables.hashes.c.index == sa.bindparam("at")
)
_HIGHEST = sa.select(sa.func.max(Tables.entries.c.index))
# Both at once: each statement costs as much as what it asks for.
_NEWEST_AND_HIGHEST = _NEWEST.add_columns(_HIGHEST.scalar_subquery().label("highest"))
_SEEN = sa.select(Tables.entries.c.index).where(Tables.entries.c.nonce == sa.bindparam("wanted"))


class Store:
    """A log's database.

    Args:
        engine: connects to it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: set[socket.socket] = set()
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", self._connected, insert=True)
            event.listen(engine, "close", self._closed)
        # The newest checkpoint that this process saw, and the tree's right edge as of then.
        self._known: tuple[str, Frontier] | None = None
        # What an earlier process of this Steward saw, until there is one that this process saw.
        self._kept: Checkpoint | None = None
        # Digests of endorsements that are there, and need not be written again.
        self._stored: set[bytes] = set()

    def append(self, entries: Sequence[Append], signer: LogSigner) -> list[Logged | EnarxError | None]:
        """Append entries, with one checkpoint of all of them.

        Args:
            entries: in this order, as far as they can be appended.
            signer: of checkpoints.

        Returns:
            For each where it is now, durably. Or why it alone is not: ReplayedNonceError where an earlier one has its nonce,
            UnknownCertificateError where it revokes none. None where what it revokes is revoked already.

        Raises:
            PlatformError: the database does not do it. Nothing was appended, if it can still be asked.
            VerificationError: what is stored is not what was signed last. Nothing was appended.
        """
        # Whether a nonce was used is known from the index that refuses it; which of them it is, is asked then.
        is_doubted = False
        for attempt in range(_ATTEMPTS):
            try:
                with _plainly("write the log"), self._engine.begin() as connection:
                    _lock(connection, _APPEND_LOCK)
                    answers, known, stored = self._append(connection, entries, signer, is_doubted=is_doubted)
            except TypeError as error:
                raise _not_ours("a stored value of another type", "numbers and bytes") from error
            except PlatformError as error:
                if attempt + 1 < _ATTEMPTS and _is_to_be_tried_again(error):
                    continue
                if not is_doubted and attempt + 1 < _ATTEMPTS and isinstance(error.__cause__, sa.exc.IntegrityError):
                    is_doubted = True
                    continue
                if len(entries) == 1 or not isinstance(error.__cause__, sa.exc.IntegrityError | sa.exc.DataError):
                    raise
                # One of them does not go in, and the others need not suffer for it.
                return [self._alone(entry, signer) for entry in entries]
            else:
                # Not before the commit: what is not there is not known.
                self._known = known
                if len(self._stored) + len(stored) > _MAX_REMEMBERED:
                    self._stored.clear()
                self._stored |= stored
                return answers
        raise PlatformError("cannot write the log: found other transactions in the way, want an end of them")

    def _alone(self, entry: Append, signer: LogSigner) -> Logged | EnarxError | None:
        try:
            return self.append([entry], signer)[0]
        except EnarxError as error:
            return error

    def _append(
        self, connection: Connection, entries: Sequence[Append], signer: LogSigner, *, is_doubted: bool
    ) -> tuple[list[Logged | EnarxError | None], tuple[str, Frontier] | None, set[bytes]]:
        known = self._edge(connection, signer)
        frontier = known[1].copy() if known else Frontier()
        answers: list[Any] = []
        nonces = [each.nonce for each in entries if each.nonce is not None] if is_doubted else []
        used = _used_nonces(connection, nonces)
        rows: list[tuple[Any, ...]] = []
        hashes: list[tuple[Any, ...]] = []
        certificates: list[tuple[Any, ...]] = []
        endorsements: dict[bytes, bytes] = {}
        marked: dict[bytes, dict[str, Any]] = {}
        for entry in entries:
            if entry.nonce is not None and entry.nonce in used:
                answers.append(
                    ReplayedNonceError("cannot log a decision: its nonce: found it in the log, want a fresh one")
                )
                continue
            if entry.revokes is not None:
                mark = _mark(connection, entry.revokes, frontier.size)
                if not isinstance(mark, dict) or mark["wanted"] in marked:
                    answers.append(None if isinstance(mark, dict) else mark)
                    continue
                marked[mark["wanted"]] = mark
            if entry.nonce is not None:
                used.add(entry.nonce)
            leaf, *above = frontier.append(hash_of_leaf(entry.body))
            rows.append((leaf.index, leaf.hash, entry.nonce, entry.body))
            hashes += [(node.level, node.index, node.hash) for node in above]
            if entry.certificate is not None:
                endorsed = encode(list(entry.certificate.endorsements))
                digest = sha256(endorsed).digest()
                if digest not in self._stored:
                    endorsements[digest] = endorsed
                certificates.append(_certificate_row(entry.certificate, digest, leaf.index))
            answers.append(leaf.index)
        if not rows:
            return answers, known, set()
        text = signer.sign(frontier.size, frontier.root())
        _insert(connection, _INTO_ENTRIES, rows)
        _insert(connection, _INTO_HASHES, hashes)
        _insert(connection, _INTO_ENDORSEMENTS, list(endorsements.items()), or_not="ON CONFLICT DO NOTHING")
        _insert(connection, _INTO_CERTIFICATES, certificates)
        _insert(connection, _INTO_CHECKPOINTS, [(frontier.size, text)])
        if marked:
            connection.execute(_MARK_REVOKED, list(marked.values()))
        logged = [Logged(each, frontier.size, text) if isinstance(each, int) else each for each in answers]
        return logged, (text, frontier), {*endorsements}

    def _edge(self, connection: Connection, signer: LogSigner) -> tuple[str, Frontier] | None:
        """Return the newest checkpoint and the edge of its tree, or None where there is nothing yet."""
        newest = connection.execute(_NEWEST_AND_HIGHEST).first()
        highest = connection.execute(_HIGHEST).scalar() if newest is None else newest.highest
        size = 0 if highest is None else highest + 1
        if newest is None:
            if size or self._known or self._kept:
                raise _not_ours(f"{size} entries and no checkpoint", "the checkpoint of them")
            return None
        if newest.size != size:
            raise _not_ours(f"{size} entries under a checkpoint of {newest.size}", "as many")
        if self._known is not None and self._known[0] == newest.text:
            return self._known
        if self._known is not None and newest.size <= self._known[1].size:
            # A log never signs what contradicts what it signed before.
            raise _not_ours(f"a checkpoint of {newest.size} entries", f"more than the {self._known[1].size} of before")
        checkpoint = verify_checkpoint(newest.text, signer.verifier_key)
        frontier = Frontier.read(size, lambda level, index: read_hash(connection, level, index))
        if checkpoint.size != size or frontier.root() != checkpoint.root:
            raise _not_ours("stored hashes with another root", "the one that was signed")
        # Others append too. Somebody could have cut the log before they did, and they would not know.
        if self._known is not None:
            _require_continuation(connection, self._known[1].size, self._known[1].root(), checkpoint)
        elif self._kept is not None:
            _require_continuation(connection, self._kept.size, self._kept.root, checkpoint)
        return newest.text, frontier

    def require_continuation(self, kept: Checkpoint, key: VerifierKey) -> None:
        """Require that the log goes on from what was kept of it, now and whenever something is appended.

        Args:
            kept: whose signature was verified.
            key: of the log.

        Raises:
            VerificationError: it does not: something of it was taken away, or it is another one.
            PlatformError: the database cannot be read.
        """
        with self.reading() as connection:
            newest = connection.execute(_NEWEST).first()
            if newest is None:
                raise _cut_off(0, kept.size)
            try:
                checkpoint = verify_checkpoint(str(newest.text), key)
                _require_continuation(connection, kept.size, kept.root, checkpoint)
            except (DecodeError, TypeError, ValueError) as error:
                raise VerificationError(
                    "cannot verify the log: found no checkpoint of it, want the newest",
                    hint="audit the log: `enarx steward audit`",
                ) from error
        self._kept = kept

    def interrupt(self) -> None:
        """End what waits for a database that says nothing any more: whoever waits gets PlatformError. From any thread."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def has_nonce(self, nonce: bytes) -> bool:
        """Return whether an entry has that nonce."""
        with self.reading() as connection:
            return connection.execute(_SEEN, {"wanted": nonce}).first() is not None

    def newest_checkpoint(self) -> str | None:
        """Return the newest signed checkpoint, or None where there is no entry."""
        with self.reading() as connection:
            newest = connection.execute(_NEWEST).first()
            return None if newest is None else str(newest.text)

    def certificates_in_force(self, now: datetime) -> Iterator[InForce]:
        """Give the certificates that have not ended and are not revoked, the oldest first and a few at a time.

        Each time it is asked it reads as many as are given then, and nothing is held open in between. What is issued after it was
        asked first is not among them.
        """
        table, entries, endorsements = Tables.certificates, Tables.entries, Tables.endorsements
        wanted = (
            sa.select(table, entries.c.body, endorsements.c.list)
            .select_from(table)
            .outerjoin(entries, table.c.entry == entries.c.index)
            .outerjoin(endorsements, table.c.endorsements == endorsements.c.digest)
            .where(table.c.revoked_at_ms.is_(None), table.c.not_after_ms > as_ms(now))
            .order_by(table.c.entry)
            .limit(IN_FORCE_AT_ONCE)
        )
        with self.reading() as connection:
            highest = connection.execute(sa.select(sa.func.max(table.c.entry))).scalar()
        if highest is None:
            return
        # SQLite puts what is no number behind all numbers: it is seen, and nothing comes after it.
        upto = table.c.entry <= highest if isinstance(highest, int | float) else sa.true()
        after: object = None
        while True:
            beyond = sa.true() if after is None else table.c.entry > after
            found = InForce([], [])
            with self.reading() as connection:
                rows = list(connection.execute(wanted.where(upto, beyond)))
            for row in rows:
                try:
                    found.issued.append(fit(None if row.body is None else _bytes_of(row.body), _issued(row)))
                except (DecodeError, TypeError, ValueError, OverflowError) as error:
                    found.unfit.append(_unfit(row, error))
            if rows:
                after = rows[-1].entry
                yield found
            if len(rows) < IN_FORCE_AT_ONCE or not isinstance(after, int | float):
                return

    def revoked(self, now: datetime) -> list[tuple[int, datetime, str]]:
        """Return serial, time and reason of what is revoked, until a day after it would have ended."""
        table = Tables.certificates
        wanted = sa.select(table.c.serial, table.c.revoked_at_ms, table.c.reason).where(
            table.c.revoked_at_ms.is_not(None), table.c.not_after_ms > as_ms(now - _REVOKED_KEPT)
        )
        with self.reading() as connection:
            rows = connection.execute(wanted.order_by(table.c.revoked_at_ms, table.c.serial))
            try:
                return [
                    (int.from_bytes(_bytes_of(row.serial)), as_time(row.revoked_at_ms), str(row.reason or ""))
                    for row in rows
                ]
            except (DecodeError, TypeError, ValueError, OverflowError) as error:
                # A list that lacks one would be believed.
                raise PlatformError(
                    "cannot read the log: a revoked certificate: found a value of another type, want what was written",
                    hint="audit the log: `enarx steward audit`",
                ) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees the log as it is now, for as long as it is used."""
        with (
            _plainly("read the log"),
            self._engine.connect().execution_options(**_reading_options(self._engine)) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _connected(self, connection: Any, record: Any) -> None:
        # A second name of the same connection: it can be ended by another thread while the driver waits for it.
        own = socket.socket(fileno=os.dup(connection.fileno()))
        record.info["enarx_socket"] = own
        self._connections.add(own)

    def _closed(self, _connection: object, record: Any) -> None:
        own = record.info.pop("enarx_socket", None)
        if own is not None:
            self._connections.discard(own)
            own.close()


def open_store(url: str, *, must_exist: bool = False) -> Store:
    """Open a log's database, and bring its tables up to date.

    Args:
        url: `sqlite:///path` or `postgresql://...`; it may hold a password, and is not shown again.
        must_exist: take it as it is, change nothing, and refuse where there is none.

    Raises:
        UsageError: the URL is of neither.
        PlatformError: the database cannot be used, or a later version of enarx made its tables.
    """
    engine = _make_engine(_read_url(url), must_exist=must_exist)
    # Before there is a connection: it knows them all.
    store = Store(engine)
    try:
        with _plainly("open the log"):
            if must_exist:
                _require_schema(engine)
            else:
                _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return store


def read_hash(connection: Connection, level: int, index: int) -> bytes:
    """Return the stored hash of a complete subtree.

    Raises:
        VerificationError: it is not there.
    """
    if level:
        found = connection.execute(_HASH, {"height": level, "at": index}).scalar()
    else:
        found = connection.execute(_LEAF, {"at": index}).scalar()
    if found is None:
        raise _not_ours(f"no hash {index} of level {level}", "one")
    return bytes(found)


def as_key(serial: int) -> bytes:
    """Return a serial number as it is stored."""
    return serial.to_bytes(_SERIAL_BYTES)


# --- Rows ------------------------------------------------------------------------------------------------------------


def _used_nonces(connection: Connection, nonces: list[bytes]) -> set[bytes]:
    if not nonces:
        return set()
    column = Tables.entries.c.nonce
    return {bytes(found) for found in connection.execute(sa.select(column).where(column.in_(nonces))).scalars()}


def _mark(
    connection: Connection, revokes: tuple[int, datetime, str], entry: int
) -> UnknownCertificateError | dict[str, Any] | None:
    """Return what marks a certificate as revoked; or None where it is marked already."""
    serial, at, reason = revokes
    table, wanted = Tables.certificates, as_key(serial)
    found = connection.execute(sa.select(table.c.revoked_at_ms).where(table.c.serial == wanted)).first()
    if found is None:
        return UnknownCertificateError(f"cannot revoke: serial number {serial:x}: found no certificate, want one")
    if found.revoked_at_ms is not None:
        return None
    return {"wanted": wanted, "by": entry, "at_ms": as_ms(at), "why": reason}


def _certificate_row(row: IssuedRow, endorsements: bytes, entry: int) -> tuple[Any, ...]:
    return (
        as_key(row.serial),
        entry,
        as_ms(row.not_after),
        row.evidence,
        endorsements,
        row.receipt,
        row.spki,
        row.report_data,
    )


def _insert(connection: Connection, into: str, rows: Sequence[tuple[Any, ...]], *, or_not: str = "") -> None:
    """Add rows by few statements: for each one that a database is given, this thread has to wait for Python's lock again."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    at_once = _MAX_PARAMETERS // len(rows[0]) if rows else 1
    for at in range(0, len(rows), at_once):
        some = rows[at : at + at_once]
        statement = _insertion(into, mark, len(some[0]), len(some), or_not)
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))


@lru_cache(maxsize=256)
def _insertion(into: str, mark: str, width: int, count: int, or_not: str) -> str:
    row = f"({', '.join([mark] * width)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * count)} {or_not}"  # noqa: S608  # of words of this file


def _unfit(row: Any, error: Exception) -> Unfit:
    serial = int.from_bytes(row.serial) if isinstance(row.serial, bytes) else 0
    entry = row.entry if isinstance(row.entry, int) else -1
    reason = str(error) if isinstance(error, DecodeError) else "found a stored value of another type, want its own"
    return Unfit(serial, entry, reason)


def _issued(row: Any) -> IssuedRow:
    if not isinstance(row.not_after_ms, int) or not 0 <= row.not_after_ms <= MAX_TIME_MS:
        raise DecodeError("found a stored end that is no time, want one")
    if row.list is None:
        raise DecodeError("found no stored endorsements, want those that it was given for")
    endorsements = decode_untrusted(_bytes_of(row.list), max_bytes=1 << 26, what="stored endorsements")
    if not isinstance(endorsements, list) or not all(isinstance(each, bytes) for each in endorsements):
        raise DecodeError("found stored endorsements of another form, want a list of byte strings")
    return IssuedRow(
        serial=int.from_bytes(_bytes_of(row.serial)),
        not_after=as_time(row.not_after_ms),
        evidence=_bytes_of(row.evidence),
        endorsements=tuple(endorsements),
        receipt=_bytes_of(row.receipt),
        spki=_bytes_of(row.spki),
        report_data=_bytes_of(row.report_data),
    )


def _bytes_of(value: object) -> bytes:
    """Return bytes; a column of SQLite's holds whatever somebody writes there."""
    if not isinstance(value, bytes | memoryview):
        raise DecodeError(f"found a stored value of the type {type(value).__name__}, want bytes")
    return bytes(value)


# --- The database ----------------------------------------------------------------------------------------------------


def _read_url(url: str) -> URL:
    try:
        found = make_url(url)
    except sa.exc.ArgumentError:
        found = None
    if found is not None and found.drivername in {"postgresql", "postgresql+psycopg"}:
        return found.set(drivername="postgresql+psycopg")
    if found is not None and found.drivername == "sqlite" and found.database and not found.query:
        return found
    # The URL may have a password.
    raise UsageError(
        "cannot open the log: found another database URL, want sqlite:///path or postgresql://user@host/name"
    )


def _make_engine(url: URL, *, must_exist: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _make_sqlite(url.database or "", must_exist=must_exist)
    try:
        engine = sa.create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_timeout=LOCK_WAIT_S,
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": _CONNECT_WAIT_S,
                "application_name": "enarx steward",
                "keepalives": 1,
                "keepalives_idle": _SILENCE_S // 2,
                "keepalives_interval": 2,
                "keepalives_count": 5,
                "tcp_user_timeout": _SILENCE_S * 1000,
            },
        )
    except ModuleNotFoundError as error:
        raise PlatformError(
            "cannot open the log: found no module psycopg, want one for PostgreSQL",
            hint="pip install 'enarx[postgresql]'",
        ) from error
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _make_sqlite(path: str, *, must_exist: bool) -> Engine:
    if not must_exist:
        try:
            # Nobody else may read it; files beside it get the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise PlatformError(f"cannot open the log: {path}: {error.strerror}") from error
    elif not os.path.isfile(path):
        raise PlatformError(f"cannot open the log: {path}: found no file, want the log's")
    engine = sa.create_engine(
        _read_only_url(path) if must_exist else URL.create("sqlite", database=path),
        hide_parameters=True,
        pool_timeout=LOCK_WAIT_S,
        connect_args={"timeout": LOCK_WAIT_S, "isolation_level": None},
    )
    event.listen(engine, "connect", _prepare_read_only if must_exist else _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _read_only_url(path: str) -> URL:
    """Return the URL of a file that is read by somebody who perhaps can do no more."""
    query = {"mode": "ro", "uri": "true"}
    wal = f"{path}-wal"
    if not (os.path.exists(wal) and os.path.getsize(wal)) and not os.access(
        os.path.dirname(os.path.abspath(path)), os.W_OK
    ):
        # SQLite would make files beside it, to be told of others who write. Nobody does, or that file would be there.
        query["immutable"] = "1"
    return URL.create("sqlite", database=f"file:{urllib.parse.quote(os.path.abspath(path))}", query=query)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    _use_wal(connection)
    for statement in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {statement}")
    connection.text_factory = _text_of


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead of the file from here on: two that open a new one together disturb each other, whatever SQLite's own limit of time."""
    deadline_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return


def _prepare_read_only(connection: Any, _record: object) -> None:
    for statement in ("query_only=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {statement}")
    connection.text_factory = _text_of


def _text_of(data: bytes) -> str:
    """Return text, whatever somebody wrote where text should be."""
    return data.decode("utf-8", "replace")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("enarx_reads")
    # Who is going to write takes the lock before it reads what it writes after.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        for name, seconds in (
            ("lock_timeout", LOCK_WAIT_S),
            ("statement_timeout", _STATEMENT_WAIT_S),
            ("idle_in_transaction_session_timeout", _STATEMENT_WAIT_S),
        ):
            cursor.execute(f"SET {name} = {int(seconds * 1000)}")
        found = dict.fromkeys(("fsync", "synchronous_commit"), "")
        for name in found:
            cursor.execute(f"SHOW {name}")
            found[name] = cursor.fetchone()[0]
        if found["synchronous_commit"] == "off":
            cursor.execute("SET synchronous_commit = 'on'")
    connection.commit()
    if found["fsync"] == "off":
        raise PlatformError("cannot open the log: found PostgreSQL with fsync off, want commits that are durable")


def _reading_options(engine: Engine) -> dict[str, Any]:
    if engine.dialect.name == "sqlite":
        return {"enarx_reads": True}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _lock(connection: Connection, number: int) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", os.path.join(os.path.dirname(__file__), "migrations").replace("%", "%%"))
    with engine.begin() as connection:
        _lock(connection, _SCHEMA_LOCK)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise PlatformError(
                "cannot open the log: found tables of a later version of enarx, want this one's",
                hint="use the enarx that made them, or a newer one",
            ) from error


def _require_schema(engine: Engine) -> None:
    wanted = set(Tables.metadata.tables)
    with engine.connect().execution_options(**_reading_options(engine)) as connection:
        missing = wanted - set(sa.inspect(connection).get_table_names())
    if missing:
        raise PlatformError(
            f"cannot open the log: found no table {min(missing)}, want the tables of a Steward",
            hint="where an earlier version of enarx made them, `enarx steward serve` brings them up to date",
        )


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """Turn what a database says into one line."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        said = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        raise PlatformError(f"cannot {what}: the database: {said[0][:300]}") from error
    except sa.exc.SQLAlchemyError as error:
        raise PlatformError(f"cannot {what}: the database: {type(error).__name__}") from error


def _is_to_be_tried_again(error: PlatformError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sa.exc.DBAPIError) and getattr(cause.orig, "sqlstate", None) in _AGAIN


def _require_continuation(connection: Connection, size: int, root: bytes, newest: Checkpoint) -> None:
    """Require that a tree goes on from an older one.

    Raises:
        VerificationError: it does not.
    """
    if newest.size < size:
        raise _cut_off(newest.size, size)
    proof = consistency_proof(size, newest.size, lambda level, index: read_hash(connection, level, index))
    try:
        verify_consistency(size, newest.size, root, newest.root, proof)
    except VerificationError as error:
        raise VerificationError(
            f"cannot verify the log: found another one, want one that goes on from its first {size} entries",
            hint="audit the log: `enarx steward audit`",
        ) from error


def _cut_off(found: int, want: int) -> VerificationError:
    return VerificationError(
        f"cannot verify the log: found {found} entries, want at least the {want} that were signed before",
        hint="audit the log: `enarx steward audit`",
    )


def _not_ours(found: str, want: str) -> VerificationError:
    return VerificationError(
        f"cannot write the log: found {found}, want {want}", hint="audit the log: `enarx steward audit`"
    )
