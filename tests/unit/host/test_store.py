# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from enarx.errors import PlatformError
from enarx.host.store import MAX_ENDED, SCHEMA_VERSION, KeepRecord, Store

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
)


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
    store.started(RECORD.id, 7, 1 << 40)
    store.ready(RECORD.id, (("http", 8080),))
    store.claimed(RECORD.id)
    ready = replace(RECORD, state="ready", pid=7, start_ticks=1 << 40, ports=(("http", 8080),), claimed=True)
    assert again() == [ready]
    store.add_blob(RECORD.id, "ab", 5)
    assert store.blobs(RECORD.id) == {"ab": 5}
    store.ended(RECORD.id, "ended", 9)
    assert again() == [replace(ready, state="ended", ended_ns=9)]
    assert store.blobs(RECORD.id) == {}


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
