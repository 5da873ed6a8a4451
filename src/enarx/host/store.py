# SPDX-License-Identifier: Apache-2.0
"""What the host has to remember when it is killed: its Keeps, their processes and their blobs, in one SQLite file.

One process writes it (the state directory is locked by `enarx.host.state`), on one thread, in statements of
microseconds. Write-ahead logging without a flush for each: what a killed host wrote is there, and when the machine
itself stops, its Keeps are gone with it. Nothing in it is worth reading: no token, no plaintext, no name of a
workload.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from enarx.errors import PlatformError

__all__ = ["SCHEMA_VERSION", "KeepRecord", "Store"]

SCHEMA_VERSION = 1
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
  start_ticks INTEGER
) STRICT;
CREATE TABLE blobs (
  keep TEXT NOT NULL REFERENCES keeps (id) ON DELETE CASCADE,
  digest TEXT NOT NULL,
  length INTEGER NOT NULL,
  PRIMARY KEY (keep, digest)
) STRICT;
"""
_COLUMNS = (
    "id, tenant, backend, state, created_ns, ended_ns, memory_bytes, package_bytes, ports,"
    " claimed, boot, pid, start_ticks"
)


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

    @property
    def reserved_bytes(self) -> int:
        """Return the memory that the Keep may take: a package is in memory beside what its workload uses."""
        return self.memory_bytes + self.package_bytes


class Store:
    """The state file.

    Args:
        path: of the file; it is made where there is none.

    Raises:
        PlatformError: it cannot be opened, is damaged, or another version of enarx wrote it.
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
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO keeps (number, id, tenant, backend, state, created_ns, ended_ns, memory_bytes,"
                " package_bytes, ports, claimed, boot, pid, start_ticks)"
                " VALUES ((SELECT coalesce(max(number), 0) + 1 FROM keeps), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                ),
            )
            self._db.execute(
                "DELETE FROM keeps WHERE number <= (SELECT number FROM keeps WHERE state IN ('ended', 'lost')"
                " ORDER BY number DESC LIMIT 1 OFFSET ?) AND state IN ('ended', 'lost')",
                (MAX_ENDED,),
            )

    def started(self, keep: str, pid: int, start_ticks: int) -> None:
        """Remember the process of a Keep."""
        self._db.execute("UPDATE keeps SET pid = ?, start_ticks = ? WHERE id = ?", (pid, start_ticks, keep))

    def ready(self, keep: str, ports: tuple[tuple[str, int], ...]) -> None:
        """Remember that a Keep can be used, and the ports that it got."""
        self._db.execute("UPDATE keeps SET state = 'ready', ports = ? WHERE id = ?", (json.dumps(ports), keep))

    def claimed(self, keep: str) -> None:
        """Remember that somebody opened a session with a Keep."""
        self._db.execute("UPDATE keeps SET claimed = 1 WHERE id = ?", (keep,))

    def ended(self, keep: str, state: str, ended_ns: int) -> None:
        """Remember that a Keep is no more, and forget its blobs."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE keeps SET state = ?, ended_ns = ? WHERE id = ?", (state, ended_ns, keep))
            self._db.execute("DELETE FROM blobs WHERE keep = ?", (keep,))

    def keeps(self) -> Iterator[KeepRecord]:
        """List every Keep that is remembered, in the order in which they were made."""
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM keeps ORDER BY number"):  # noqa: S608  # our own words
            (identifier, tenant, backend, state, created, ended, memory, package, ports, claimed, boot, pid, ticks) = (
                row
            )
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
            )

    def add_blob(self, keep: str, digest: str, length: int) -> None:
        """Remember how long a blob is going to be."""
        self._db.execute("INSERT INTO blobs (keep, digest, length) VALUES (?, ?, ?)", (keep, digest, length))

    def blobs(self, keep: str) -> dict[str, int]:
        """Return the length of each blob of a Keep by its digest."""
        return dict(self._db.execute("SELECT digest, length FROM blobs WHERE keep = ?", (keep,)).fetchall())


def _unusable(path: str, reason: str, hint: str) -> PlatformError:
    return PlatformError(f"cannot use the state file: {path}: {reason}", hint=hint)
