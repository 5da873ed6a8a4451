# SPDX-License-Identifier: Apache-2.0
"""The Steward's log in a real PostgreSQL, which runs for these tests alone, as a user without rights, on a socket in a folder."""

from __future__ import annotations

import asyncio
import glob
import itertools
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enarx.errors import PlatformError, VerificationError
from enarx.steward import ledger as ledgers
from enarx.steward.auditing import audit
from enarx.steward.entries import encode_entry
from enarx.steward.issued import Issued
from enarx.steward.ledger import Entry, ReplayedNonceError, open_ledger
from enarx.steward.log import LogSigner
from enarx.steward.store import Append, open_store
from tests.unit.steward.issued_rows import entry_of, make_certificate, row_of

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]
SIGNER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
APPENDERS, ENTRIES = 32, 300


def entry(number):
    nonce = number.to_bytes(32)
    return Entry("result", AT, nonce, encode_entry(kind="result", at=AT, nonce=nonce, reason=f"{number}"))


async def append_all(url, numbers):
    """Append from many tasks at once, and return each place and which nonces were refused."""
    ledger, waiting = open_ledger(url, SIGNER), list(numbers)
    places, refused = [], []

    async def work():
        while waiting:
            number = waiting.pop()
            try:
                places.append((await ledger.append(entry(number))).index)
            except ReplayedNonceError:
                refused.append(number)

    try:
        await asyncio.gather(*(work() for _ in range(APPENDERS)))
    finally:
        await ledger.close()
    return places, refused


@pytest.fixture(scope="module")
def server():
    """Return how to reach a database server."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    if not programs:
        pytest.skip("no PostgreSQL: tools/install-slow installs it")
    control = programs[-1]
    # It does not run as root.
    user = "postgres" if os.geteuid() == 0 else None
    folder = tempfile.mkdtemp(prefix="enarx-postgres-", dir="/tmp")
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)

    def run(*arguments):
        subprocess.run(
            arguments, user=user, cwd=folder, check=True, timeout=120, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, extra_groups=[] if user else None,
        )  # fmt: skip

    data = f"{folder}/data"
    try:
        run(control, "-D", data, "-s", "initdb", "-o", "-A trust -U steward -E UTF8 --no-sync")
        run(control, "-D", data, "-s", "-w", "-t", "60", "-l", f"{folder}/log", "-o", f"-k {folder} -c listen_addresses=''", "start")  # fmt: skip
        try:
            yield folder
        finally:
            run(control, "-D", data, "-s", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server, request):
    """Return the URL of a database of this test's own."""
    name = f"log_{abs(hash(request.node.name))}"
    engine = sa.create_engine(f"postgresql+psycopg://steward@/postgres?host={server}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"postgresql://steward@/{name}?host={server}"


def change(url, *statements):
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_two_processes_make_one_log(url):
    """Both open an empty database at once, append at once, and have some nonces in common."""
    code = (
        "import asyncio, json, sys\n"
        "from tests.integration.test_steward_postgres import append_all\n"
        "print(json.dumps(asyncio.run(append_all(sys.argv[1], range(int(sys.argv[2]), int(sys.argv[3]))))))\n"
    )
    ranges = ((0, ENTRIES), (ENTRIES - 50, 2 * ENTRIES))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(begin), str(end)], stdout=subprocess.PIPE, text=True, cwd=TOP
        )
        for begin, end in ranges
    ]
    found = []
    try:
        for process in processes:
            text, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            found.append(json.loads(text))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
    assert sorted(found[0][0] + found[1][0]) == list(range(2 * ENTRIES))
    # Of each nonce that both had, one of them was refused.
    assert sorted(found[0][1] + found[1][1]) == list(range(ENTRIES - 50, ENTRIES))
    assert found[0][0]
    assert found[1][0]
    audited = audit(url, SIGNER.verifier_key)
    audited.require()
    assert audited.size == 2 * ENTRIES


def test_a_log_lives_as_in_a_file(url):
    row = row_of(1 << 125)

    async def run():
        ledger = open_ledger(url, SIGNER)
        first = await ledger.append(entry_of(row))
        assert list(ledger.certificates_in_force(AT)) == [([Issued(row, make_certificate(row.serial)[0])], [])]
        await ledger.revoke(row.serial, "policy", AT)
        assert ledger.revoked(AT) == [(row.serial, AT, "policy")]
        assert list(ledger.certificates_in_force(AT)) == []
        await ledger.append(entry(1))
        assert await ledger.seen((1).to_bytes(32))
        with pytest.raises(ReplayedNonceError):
            await ledger.append(entry(1))
        await ledger.close()
        return first.checkpoint

    kept = asyncio.run(run())
    audited = audit(url, SIGNER.verifier_key, since=kept)
    assert (audited.size, audited.findings) == (3, ())
    change(url, 'UPDATE entries SET nonce = NULL WHERE "index" = 2')
    assert [(each.kind, each.index) for each in audit(url, SIGNER.verifier_key).findings] == [("nonce-missing", 2)]


def test_a_log_of_the_first_version_goes_on(url):
    rows = [row_of(serial)._replace(endorsements=(bytes([serial % 3]),)) for serial in range(1, 150)]
    with closing(open_store(url)) as store:
        store.append([Append(entry_of(row).body, certificate=row) for row in rows], SIGNER)
    # As it was: each certificate with its own list.
    change(
        url,
        "UPDATE certificates SET endorsements = "
        "(SELECT list FROM endorsements AS e WHERE e.digest = certificates.endorsements)",
        "DROP TABLE endorsements",
        "UPDATE alembic_version SET version_num = '0001'",
    )
    with closing(open_store(url)) as store:
        assert [each.row for page in store.certificates_in_force(AT) for each in page.issued] == rows
        store.append([Append(entry_of(row_of(200)).body, certificate=row_of(200))], SIGNER)
    assert audit(url, SIGNER.verifier_key).findings == ()


def test_nothing_is_signed_over_a_log_that_was_cut_off(url):
    with closing(open_store(url)) as store:
        store.append([Append(b"a"), Append(b"b")], SIGNER)
        store.append([Append(b"c")], SIGNER)
        change(url, "DELETE FROM checkpoints WHERE size = 3", 'DELETE FROM entries WHERE "index" = 2')
        with pytest.raises(VerificationError, match="more than the 3 of before"):
            store.append([Append(b"d")], SIGNER)


def test_commits_are_durable_whatever_the_database_says(url):
    name = url.partition("@/")[2].partition("?")[0]
    change(url, f"ALTER DATABASE {name} SET synchronous_commit = 'off'")
    with closing(open_store(url)) as store, store.reading() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "10s"


def test_a_lost_connection_is_no_entry_and_the_next_is_one(url):
    with closing(open_store(url)) as store:
        store.append([Append(b"a")], SIGNER)
        change(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")  # fmt: skip
        assert store.append([Append(b"b")], SIGNER)[0].index == 1


def test_waits_no_longer_than_it_says(url, monkeypatch):
    monkeypatch.setattr("enarx.steward.store.LOCK_WAIT_S", 0.2)
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with closing(open_store(url)) as store, engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x656E61727801)))
        with pytest.raises(PlatformError, match="lock timeout"):
            store.append([Append(b"a")], SIGNER)
        connection.rollback()
        assert store.append([Append(b"a")], SIGNER)[0].index == 0
    engine.dispose()


def test_names_a_database_that_is_not_there(server):
    with pytest.raises(PlatformError, match='database "none" does not exist'):
        open_store(f"postgresql://steward@/none?host={server}")


class Silent:
    """A way to a server's socket that can fall silent: all that is sent arrives nowhere, and nothing is closed."""

    def __init__(self, path):
        self._path = path
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.fallen = threading.Event()
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._path)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.fallen.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self):
        for each in (self._listening, *self._sockets):
            each.close()


def test_a_server_that_falls_silent_holds_nobody_for_ever(server, url, monkeypatch):
    monkeypatch.setattr(ledgers, "ANSWER_WAIT_S", 2.0)
    name = url.partition("?")[0].rpartition("/")[2]

    async def run(way):
        ledger = open_ledger(f"postgresql://steward@127.0.0.1:{way.port}/{name}", SIGNER)
        try:
            await ledger.append(entry(1))
            await ledger.seen(bytes(32))
            way.fallen.set()
            for _ in range(2):
                with pytest.raises(PlatformError, match="cannot write the log"):
                    await ledger.append(entry(2))
                with pytest.raises(PlatformError, match="cannot read the log"):
                    await ledger.seen(bytes(32))
            way.fallen.clear()
            # Once it speaks again, what is written goes on.
            until = time.monotonic() + 60
            for number in itertools.count(3):
                # What was not answered may be there all the same: another one each time.
                with suppress(PlatformError):
                    return (await ledger.append(entry(number))).size
                assert time.monotonic() < until
        finally:
            await ledger.close()

    with closing(Silent(f"{server}/.s.PGSQL.5432")) as way:
        size = asyncio.run(run(way))
    found = audit(url, SIGNER.verifier_key)
    found.require()
    assert found.size >= size >= 2
