# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from enarx.errors import KeepError, PlatformError
from enarx.host.store import MAX_ENDED, SCHEMA_VERSION, KeepRecord, Reason, Store

RECORD = KeepRecord(
    id="0" * 16,
    tenant="one",
    backend="nil",
    state="starting",
    created_ns=1,
    memory_bytes=1 << 40,
    package_bytes=2,
    ports=(("http", 0),),
    boot="boot",
    reserved_bytes=(1 << 40) + 2,
)
# The table as version 1 had it.
VERSION_1 = """
CREATE TABLE keeps (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, tenant TEXT NOT NULL, backend TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('starting', 'ready', 'ended', 'lost')), created_ns INTEGER NOT NULL, ended_ns INTEGER,
  memory_bytes INTEGER NOT NULL, package_bytes INTEGER NOT NULL, ports TEXT NOT NULL, claimed INTEGER NOT NULL, boot TEXT NOT NULL,
  pid INTEGER, start_ticks INTEGER
) STRICT;
CREATE TABLE blobs (
  keep TEXT NOT NULL REFERENCES keeps (id) ON DELETE CASCADE, digest TEXT NOT NULL, length INTEGER NOT NULL,
  PRIMARY KEY (keep, digest)
) STRICT;
INSERT INTO keeps VALUES ('0000000000000000', 1, 'one', 'nil', 'starting', 1, NULL, 1099511627776, 2, '[["http", 0]]', 0, 'boot',
  NULL, NULL);
PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state.sqlite3")


@pytest.fixture
def store(path):
    opened = Store(path)
    yield opened
    opened.close()


def test_remembers_a_keep_through_its_life(store, path):
    def again():
        other = Store(path)
        try:
            return list(other.keeps())
        finally:
            other.close()

    store.add(RECORD)
    assert again() == [RECORD]
    store.started(RECORD.id, 7, 1 << 40, "ab" * 32)
    store.ready(RECORD.id, (("http", 8080),))
    store.claimed(RECORD.id)
    ready = replace(RECORD, state="ready", pid=7, start_ticks=1 << 40, ports=(("http", 8080),), claimed=True)
    ready = replace(ready, tpm_key_sha256="ab" * 32)
    assert again() == [ready]
    store.add_blob(RECORD.id, "ab", 5)
    assert store.blobs(RECORD.id) == {"ab": 5}
    store.ended(RECORD.id, "ended", 9)
    assert again() == [replace(ready, state="ended", ended_ns=9)]
    assert store.blobs(RECORD.id) == {}


@pytest.mark.parametrize("hint", [None, "do that"])
def test_remembers_why_a_keep_ended(store, path, hint):
    store.add(RECORD)
    reason = Reason.of(KeepError("it was killed", hint=hint))
    store.ended(RECORD.id, "lost", 9, reason)
    other = Store(path)
    (found,) = other.keeps()
    other.close()
    assert found == replace(RECORD, state="lost", ended_ns=9, reason=reason)
    assert found.reason == ("KeepError", "it was killed", hint)


def test_a_file_of_the_version_before_is_taken_over(path):
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
    db.close()
    for _ in range(2):
        store = Store(path)
        assert list(store.keeps()) == [RECORD]
        store.close()


def test_a_full_disk_is_an_error_and_changes_nothing(store):
    store.add(RECORD)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PlatformError, match="cannot write the host's state file") as caught:
        store.ended(RECORD.id, "ended", 9, Reason("KeepError", "x" * 100_000, None))
    assert "room" in caught.value.hint
    with pytest.raises(PlatformError, match="cannot write the host's state file"):
        store.add(replace(RECORD, id="1" * 16, tenant="x" * 100_000))
    assert list(store.keeps()) == [RECORD]
    store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.ended(RECORD.id, "ended", 9)
    assert [record.state for record in store.keeps()] == ["ended"]


def test_forgets_the_oldest_of_those_that_ended_and_none_that_runs(store):
    store.add(replace(RECORD, id="runs"))
    for number in range(MAX_ENDED + 5):
        store.add(replace(RECORD, id=f"{number:016}"))
        store.ended(f"{number:016}", "ended", 1)
    store.add(replace(RECORD, id="last"))
    names = [record.id for record in store.keeps()]
    assert names == ["runs", *(f"{number:016}" for number in range(5, MAX_ENDED + 5)), "last"]


def test_refuses_a_file_of_another_version(store, path):
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(PlatformError, match="schema version"):
        Store(path)


def test_refuses_a_file_that_is_none(tmp_path):
    (tmp_path / "state").write_bytes(b"not a database, and long enough to be taken for one" * 100)
    with pytest.raises(PlatformError, match="cannot use the state file"):
        Store(str(tmp_path / "state"))
    with pytest.raises(PlatformError, match="cannot use the state file"):
        Store(str(tmp_path / "nowhere" / "state"))
