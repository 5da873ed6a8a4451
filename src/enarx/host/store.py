# SPDX-License-Identifier: Apache-2.0
"""What the host has to remember when it is killed: its Keeps, their processes and their blobs, in one SQLite file.

One process writes it (the state directory is locked by `enarx.host.state`), on one thread, in statements of
microseconds. Write-ahead logging without a flush for each: what a killed host wrote is there, and when the machine
itself stops, its Keeps are gone with it. Nothing in it is worth reading: no token, no plaintext, no name of a
workload.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from enarx.errors import EnarxError, PlatformError

__all__ = ["SCHEMA_VERSION", "KeepRecord", "Reason", "Store"]

SCHEMA_VERSION = 2
MAX_ENDED = 256
"""How many Keeps that are no more are remembered; the oldest are forgotten first."""

_SCHEMA = """
CREATE TABLE keeps (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  backend TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('starting', 'ready', 'ended', 'lost')),
  created_ns INTEGER NOT NULL,
  ended_ns INTEGER,
  memory_bytes INTEGER NOT NULL,
  package_bytes INTEGER NOT NULL,
  ports TEXT NOT NULL,
  claimed INTEGER NOT NULL,
  boot TEXT NOT NULL,
  pid INTEGER,
  start_ticks INTEGER,
  reserved_bytes INTEGER NOT NULL,
  tpm_key_sha256 TEXT,
  reason TEXT
) STRICT;
CREATE TABLE blobs (
  keep TEXT NOT NULL REFERENCES keeps (id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  length INTEGER NOT NULL,
  PRIMARY KEY (keep, digest)
) STRICT;
"""
# What makes a file of that version one of the next.
_UPGRADES = {
    1: """
ALTER TABLE keeps ADD COLUMN reserved_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keeps ADD COLUMN tpm_key_sha256 TEXT;
ALTER TABLE keeps ADD COLUMN reason TEXT;
UPDATE keeps SET reserved_bytes = memory_bytes + package_bytes;
""",
}
_COLUMNS = (
    "id, tenant, backend, state, created_ns, ended_ns, memory_bytes, package_bytes, ports,"
    " claimed, boot, pid, start_ticks, reserved_bytes, tpm_key_sha256, reason"
)


class Reason(NamedTuple):
    """Why a Keep ended, where that was an error.

    Args:
        kind: name of the error's class, of `enarx.errors`.
        message: its one line.
        hint: the next step, or None.
    """

    kind: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: EnarxError) -> Self:
        """Return what there is to remember of an error."""
        return cls(type(error).__name__, str(error), error.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRecord:
    """A Keep, as it is remembered.

    Args:
        id: 16 hexadecimal digits.
        tenant: whose it is.
        backend: one of `enarx.host.BACKENDS`.
        state: `starting`, `ready`, `ended` or `lost`.
        created_ns: Unix time by the host's clock, like `ended_ns`.
        ended_ns: when it was noticed that it had ended, or None.
        memory_bytes: the most that the workload's memory may take.
        package_bytes: the largest package.
        ports: names and TCP ports that are published.
        claimed: whether anybody ever opened a session with it.
        boot: which start of the machine it belongs to: pids and times of other ones mean nothing.
        pid: of its process; None before it has one.
        start_ticks: when that process started, in clock ticks since the machine did; None before it has one.
        reserved_bytes: of this machine's memory, which count against quotas.
        tpm_key_sha256: of the key of its virtual TPM, 64 hexadecimal digits; None where it has none.
        reason: why it ended, where that was an error.
    """

    id: str
    tenant: str
    backend: str
    state: str
    created_ns: int
    ended_ns: int | None = None
    memory_bytes: int
    package_bytes: int
    ports: tuple[tuple[str, int], ...] = ()
    claimed: bool = False
    boot: str
    pid: int | None = None
    start_ticks: int | None = None
    reserved_bytes: int
    tpm_key_sha256: str | None = None
    reason: Reason | None = None


class Store:
    """The state file.

    Args:
        path: of the file; it is made where there is none.

    Whatever writes to it raises PlatformError where the disk is full or fails; then nothing was written.

    Raises:
        PlatformError: it cannot be opened, is damaged, or a later version of enarx wrote it.
    """

    def __init__(self, path: str) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
        except sqlite3.Error as error:
            raise _unusable(path, str(error), "move it away to start with an empty one") from error
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: str) -> None:
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
                version = SCHEMA_VERSION
            while version in _UPGRADES:
                self._db.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;")
                version += 1
        except sqlite3.Error as error:
            raise _unusable(path, str(error), "move it away to start with an empty one") from error
        if version != SCHEMA_VERSION:
            raise _unusable(
                path,
                f"found schema version {version}, want {SCHEMA_VERSION}",
                "another version of enarx wrote it; let that one end its Keeps, or move the file away",
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, record: KeepRecord) -> None:
        """Remember a new Keep, and forget the oldest of those that ended where there are too many."""
        with self._writing() as db:
            db.execute(
                f"INSERT INTO keeps (number, {_COLUMNS})"  # noqa: S608  # our own words
                f" VALUES ((SELECT coalesce(max(number), 0) + 1 FROM keeps){', ?' * len(_COLUMNS.split(','))})",
                (
                    record.id,
                    record.tenant,
                    record.backend,
                    record.state,
                    record.created_ns,
                    record.ended_ns,
                    record.memory_bytes,
                    record.package_bytes,
                    json.dumps(record.ports),
                    record.claimed,
                    record.boot,
                    record.pid,
                    record.start_ticks,
                    record.reserved_bytes,
                    record.tpm_key_sha256,
                    record.reason and json.dumps(record.reason),
                ),
            )
            db.execute(
                "DELETE FROM keeps WHERE number <= (SELECT number FROM keeps WHERE state IN ('ended', 'lost')"
                " ORDER BY number DESC LIMIT 1 OFFSET ?) AND state IN ('ended', 'lost')",
                (MAX_ENDED,),
            )

    def started(self, keep: str, pid: int, start_ticks: int, tpm_key_sha256: str | None = None) -> None:
        """Remember the process of a Keep, and the key of its TPM."""
        with self._writing() as db:
            db.execute(
                "UPDATE keeps SET pid = ?, start_ticks = ?, tpm_key_sha256 = ? WHERE id = ?",
                (pid, start_ticks, tpm_key_sha256, keep),
            )

    def ready(self, keep: str, ports: tuple[tuple[str, int], ...]) -> None:
        """Remember that a Keep can be used, and the ports that it got."""
        with self._writing() as db:
            db.execute("UPDATE keeps SET state = 'ready', ports = ? WHERE id = ?", (json.dumps(ports), keep))

    def claimed(self, keep: str) -> None:
        """Remember that somebody opened a session with a Keep."""
        with self._writing() as db:
            db.execute("UPDATE keeps SET claimed = 1 WHERE id = ?", (keep,))

    def ended(self, keep: str, state: str, ended_ns: int, reason: Reason | None = None) -> None:
        """Remember that a Keep is no more, and why, and forget its blobs."""
        with self._writing() as db:
            db.execute(
                "UPDATE keeps SET state = ?, ended_ns = ?, reason = ? WHERE id = ?",
                (state, ended_ns, reason and json.dumps(reason), keep),
            )
            db.execute("DELETE FROM blobs WHERE keep = ?", (keep,))

    def keeps(self) -> Iterator[KeepRecord]:
        """List every Keep that is remembered, in the order in which they were made."""
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM keeps ORDER BY number"):  # noqa: S608  # our own words
            (identifier, tenant, backend, state, created, ended, memory, package, *more) = row
            (ports, claimed, boot, pid, ticks, reserved, key, reason) = more
            yield KeepRecord(
                id=identifier,
                tenant=tenant,
                backend=backend,
                state=state,
                created_ns=created,
                ended_ns=ended,
                memory_bytes=memory,
                package_bytes=package,
                ports=tuple((name, port) for name, port in json.loads(ports)),
                claimed=bool(claimed),
                boot=boot,
                pid=pid,
                start_ticks=ticks,
                reserved_bytes=reserved,
                tpm_key_sha256=key,
                reason=None if reason is None else Reason(*json.loads(reason)),
            )

    def add_blob(self, keep: str, digest: str, length: int) -> None:
        """Remember how long a blob is going to be."""
        with self._writing() as db:
            db.execute("INSERT INTO blobs (keep, digest, length) VALUES (?, ?, ?)", (keep, digest, length))

    def blobs(self, keep: str) -> dict[str, int]:
        """Return the length of each blob of a Keep by its digest."""
        return dict(self._db.execute("SELECT digest, length FROM blobs WHERE keep = ?", (keep,)).fetchall())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write all that a block writes, or nothing."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.OperationalError as error:
            # Without its path: tenants are told of this.
            raise PlatformError(
                f"cannot write the host's state file: {error}", hint="its owner has to make room on its disk"
            ) from error


def _unusable(path: str, reason: str, hint: str) -> PlatformError:
    return PlatformError(f"cannot use the state file: {path}: {reason}", hint=hint)
