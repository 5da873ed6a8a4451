# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enarx.crypto.cbor import encode
from enarx.errors import PlatformError, UsageError, VerificationError
from enarx.steward.issued import Issued
from enarx.steward.log import LogSigner, hash_of_leaf, root_of, verify_checkpoint
from enarx.steward.store import (
    IN_FORCE_AT_ONCE,
    Append,
    IssuedRow,
    Logged,
    ReplayedNonceError,
    Tables,
    UnknownCertificateError,
    open_store,
    read_hash,
)
from tests.unit.steward.issued_rows import entry_of, make_certificate, row_of

SIGNER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
ROW = IssuedRow(
    serial=1 << 125,
    not_after=AT + timedelta(hours=24),
    evidence=b"evidence",
    endorsements=(b"one", b"two"),
    receipt=b"receipt",
    spki=b"key",
    report_data=bytes(64),
)
GOOD = row_of(7)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "steward.sqlite3")


@pytest.fixture
def store(path):
    opened = open_store(f"sqlite:///{path}")
    yield opened
    opened.close()


def again(path):
    return open_store(f"sqlite:///{path}", must_exist=True)


def change(path, *statements):
    """Do something to the file that no Steward would."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            database.execute(statement)


def root_of_stored(store, size):
    with store.reading() as connection:
        return root_of(size, lambda level, index: read_hash(connection, level, index))


def test_what_is_appended_is_there_with_a_checkpoint_of_it(store, path):
    first = store.append([Append(b"a"), Append(b"b", b"n" * 32)], SIGNER)
    assert [(each.index, each.size) for each in first] == [(0, 2), (1, 2)]
    (second,) = store.append([Append(b"c")], SIGNER)
    assert (second.index, second.size) == (2, 3)
    with closing(again(path)) as other:
        assert other.newest_checkpoint() == second.checkpoint
        checkpoint = verify_checkpoint(second.checkpoint, SIGNER.verifier_key)
        assert checkpoint.root == root_of_stored(other, 3)
        assert verify_checkpoint(first[0].checkpoint, SIGNER.verifier_key).root == root_of_stored(other, 2)
        assert other.has_nonce(b"n" * 32)
        assert not other.has_nonce(b"m" * 32)


def test_appends_in_parts_make_the_tree_of_one_append(store, tmp_path):
    bodies = [bytes((number,)) for number in range(50)]
    for begin in range(0, 50, 7):
        store.append([Append(body) for body in bodies[begin : begin + 7]], SIGNER)
    with closing(open_store(f"sqlite:///{tmp_path}/other.sqlite3")) as other:
        other.append([Append(body) for body in bodies], SIGNER)
        assert other.newest_checkpoint() == store.newest_checkpoint()


def test_more_rows_than_one_statement_takes_are_all_there(store):
    rows = [row_of(serial) for serial in range(1, 301)]
    appended = store.append([Append(entry_of(row).body, None, row) for row in rows], SIGNER)
    assert [each.index for each in appended] == list(range(300))
    assert verify_checkpoint(appended[-1].checkpoint, SIGNER.verifier_key).root == root_of_stored(store, 300)
    stored = [each.row for page in store.certificates_in_force(AT) for each in page.issued]
    assert sorted(stored) == sorted(rows)


def test_nothing_appended_is_nothing_signed(store):
    assert store.append([], SIGNER) == []
    assert store.newest_checkpoint() is None


def test_a_nonce_is_good_for_one_entry(store):
    nonce = b"n" * 32
    answers = store.append([Append(b"a", nonce), Append(b"b", nonce), Append(b"c")], SIGNER)
    assert [type(each) for each in answers] == [Logged, ReplayedNonceError, Logged]
    assert answers[2].index == 1
    (refused,) = store.append([Append(b"d", nonce)], SIGNER)
    assert isinstance(refused, ReplayedNonceError)
    # Others that are appended with it go in, in the same transaction.
    answers = store.append([Append(b"e", b"m" * 32), Append(b"f", nonce), Append(b"g", b"o" * 32)], SIGNER)
    assert [type(each) for each in answers] == [Logged, ReplayedNonceError, Logged]
    assert (answers[0].checkpoint, answers[2].index) == (answers[2].checkpoint, answers[0].index + 1)
    assert isinstance(refused, VerificationError)


def test_remembers_certificates_until_they_end(store, path):
    row, body = GOOD, entry_of(GOOD).body
    store.append([Append(body, certificate=row)], SIGNER)
    with closing(again(path)) as other:
        assert list(other.certificates_in_force(AT)) == [([Issued(row, make_certificate(row.serial)[0])], [])]
        assert list(other.certificates_in_force(row.not_after)) == []
        assert other.revoked(AT) == []


@pytest.mark.parametrize(
    ("change_of", "what"),
    [
        ("evidence = x'00'", "evidence"),
        ("endorsements = x'80'", "no stored endorsements"),
        ("receipt = x'00'", "receipt"),
        ("spki = x'00'", "key"),
        ("report_data = x'00'", "report data"),
        ("not_after_ms = not_after_ms + 1000", "end"),
        ("entry = 2", "serial number"),
        ("entry = 77", "no entry"),
        ("evidence = 'text'", "type str"),
        ("not_after_ms = 'text'", "no time"),
        ("not_after_ms = 1 << 60", "no time"),
    ],
)
def test_a_certificate_that_is_not_what_its_entry_says_is_told_apart(store, path, change_of, what):
    for row in (GOOD, row_of(9)):
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    store.append([Append(entry_of(row_of(8)).body)], SIGNER)
    change(path, f"UPDATE certificates SET {change_of} WHERE entry = 0")  # noqa: S608  # it stands above
    with closing(again(path)) as other:
        (found,) = other.certificates_in_force(AT)
    assert [each.row.serial for each in found.issued] == [9]
    (unfit,) = found.unfit
    assert unfit.serial == GOOD.serial
    assert what in unfit.reason
    assert "\n" not in unfit.reason


@pytest.mark.parametrize(
    ("value", "what"),
    [("x'80'", "endorsement"), ("x'00'", "another form"), ("x'8100'", "another form"), ("x'ff'", "cannot decode")],
)
def test_endorsements_that_are_not_what_entries_say_are_those_of_no_certificate(store, path, value, what):
    other_row = row_of(9)._replace(endorsements=(b"three",))
    for row in (GOOD, row_of(8), other_row):
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    digest = sha256(encode([b"one", b"two"])).hexdigest()
    change(path, f"UPDATE endorsements SET list = {value} WHERE digest = x'{digest}'")  # noqa: S608  # it stands above
    with closing(again(path)) as other:
        (found,) = other.certificates_in_force(AT)
    assert [each.row for each in found.issued] == [other_row]
    assert [(each.serial, what in each.reason) for each in found.unfit] == [(7, True), (8, True)]


def test_endorsements_are_stored_once(store, path):
    with closing(open_store(f"sqlite:///{path}")) as second:
        for serial, each in enumerate((store, store, second, store), 1):
            row = row_of(serial)
            each.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    pair = [row_of(5), row_of(6)._replace(endorsements=())]
    store.append([Append(entry_of(row).body, certificate=row) for row in pair], SIGNER)
    with closing(sqlite3.connect(path)) as database:
        lists = database.execute("SELECT digest, list FROM endorsements").fetchall()
    assert sorted(lists) == sorted((sha256(each).digest(), each) for each in map(encode, ([b"one", b"two"], [])))
    with closing(again(path)) as other:
        (found,) = other.certificates_in_force(AT)
    assert [each.row for each in found.issued] == [*map(row_of, range(1, 6)), pair[1]]


def test_endorsements_of_what_was_not_appended_are_written_the_next_time(store, path):
    row = row_of(7)
    change(path, "CREATE TRIGGER stop BEFORE INSERT ON checkpoints BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(PlatformError, match="full"):
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    change(path, "DROP TRIGGER stop")
    store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    with closing(again(path)) as other:
        (found,) = other.certificates_in_force(AT)
    assert [each.row for each in found.issued] == [row]


def test_no_more_digests_of_endorsements_are_remembered_than_there_is_room_for(store, path, monkeypatch):
    monkeypatch.setattr("enarx.steward.store._MAX_REMEMBERED", 3)
    rows = [row_of(serial)._replace(endorsements=(bytes([serial % 5]),)) for serial in range(1, 11)]
    for row in rows:
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
        assert len(store._stored) <= 3
    with closing(again(path)) as other:
        assert [each.row for page in other.certificates_in_force(AT) for each in page.issued] == rows


def test_certificates_in_force_are_read_a_few_at_a_time(store, path):
    count = 2 * IN_FORCE_AT_ONCE + 3
    for serial in range(1, count + 1):
        row = row_of(serial)
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    with closing(again(path)) as other:
        pages = other.certificates_in_force(AT)
        serials = [each.row.serial for each in next(pages).issued]
        assert len(serials) == IN_FORCE_AT_ONCE
        # What was revoked meanwhile is not among the next, and neither is what was issued meanwhile.
        store.append([Append(b"r", revokes=(serials[-1] + 1, AT, "policy"))], SIGNER)
        store.append([Append(entry_of(row_of(99)).body, certificate=row_of(99))], SIGNER)
        for page in pages:
            assert len(page.issued) <= IN_FORCE_AT_ONCE
            serials += [each.row.serial for each in page.issued]
    assert serials == [each for each in range(1, count + 1) if each != IN_FORCE_AT_ONCE + 1]


@pytest.mark.parametrize("value", ["'text'", "x'00'", "9e999", "5.5", "9223372036854775807", "-1"])
def test_a_place_that_is_none_ends_no_review(store, path, value):
    for serial in range(1, IN_FORCE_AT_ONCE + 2):
        row = row_of(serial)
        store.append([Append(entry_of(row).body, certificate=row)], SIGNER)
    change(path, f"UPDATE certificates SET entry = {value} WHERE entry = 0")  # noqa: S608  # it stands above
    with closing(again(path)) as other:
        pages = list(other.certificates_in_force(AT))
    assert sorted(each.row.serial for page in pages for each in page.issued) == list(range(2, IN_FORCE_AT_ONCE + 2))
    assert [unfit.serial for page in pages for unfit in page.unfit] == [1]


def test_a_list_of_what_is_revoked_lacks_nothing(store, path):
    store.append([Append(b"a", certificate=ROW)], SIGNER)
    store.append([Append(b"r", revokes=(ROW.serial, AT, "policy"))], SIGNER)
    change(path, "UPDATE certificates SET revoked_at_ms = 9223372036854775807")
    with closing(again(path)) as other, pytest.raises(PlatformError, match="a value of another type") as caught:
        other.revoked(AT)
    assert caught.value.hint


@pytest.mark.parametrize("table", sorted(Tables.metadata.tables))
def test_a_column_takes_no_value_of_another_type(store, path, table):
    row = row_of(7)
    store.append([Append(entry_of(row).body, b"n" * 32, row), Append(b"b")], SIGNER)
    for column in Tables.metadata.tables[table].c:
        kind = "'text'" if not isinstance(column.type, sa.Text) else "x'00'"
        statement = f'UPDATE {table} SET "{column.name}" = {kind}'  # noqa: S608  # names of ours
        with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            database.execute(statement)


def test_a_number_that_is_text_is_not_appended_to(store, path):
    store.append([Append(b"a")], SIGNER)
    change(path, "UPDATE entries SET \"index\" = 'text'")
    with pytest.raises(VerificationError, match="cannot write the log: found a stored value of another type"):
        store.append([Append(b"b")], SIGNER)


def cut(path, size):
    """Take away all that came later, as whoever has the database alone."""
    change(
        path,
        f"DELETE FROM certificates WHERE entry >= {size}",  # noqa: S608  # numbers of ours
        f'DELETE FROM entries WHERE "index" >= {size}',  # noqa: S608
        f"DELETE FROM checkpoints WHERE size > {size}",  # noqa: S608
        f'DELETE FROM hashes WHERE ("index" + 1) << level > {size}',  # noqa: S608
    )


def test_a_log_must_go_on_from_what_was_kept(store, path):
    texts = [store.append([Append(bytes((number,)))], SIGNER)[0].checkpoint for number in range(11)]
    kept = [verify_checkpoint(text, SIGNER.verifier_key) for text in texts]
    with closing(open_store(f"sqlite:///{path}")) as other:
        for each in kept:
            other.require_continuation(each, SIGNER.verifier_key)
        for wrong in (kept[6]._replace(root=bytes(32)), kept[10]._replace(root=bytes(32))):
            with pytest.raises(VerificationError, match="found another one, want one that goes on from its first"):
                other.require_continuation(wrong, SIGNER.verifier_key)
    cut(path, 7)
    with closing(open_store(f"sqlite:///{path}")) as other:
        other.require_continuation(kept[6], SIGNER.verifier_key)
        with pytest.raises(VerificationError, match="found 7 entries, want at least the 8 that were signed before"):
            other.require_continuation(kept[7], SIGNER.verifier_key)
    cut(path, 0)
    with closing(open_store(f"sqlite:///{path}")) as other, pytest.raises(VerificationError, match="found 0 entries"):
        other.require_continuation(kept[0], SIGNER.verifier_key)


def test_a_log_that_is_cut_after_it_was_opened_is_not_appended_to(store, path):
    texts = [store.append([Append(bytes((number,)))], SIGNER)[0].checkpoint for number in range(5)]
    with closing(open_store(f"sqlite:///{path}")) as other:
        other.require_continuation(verify_checkpoint(texts[4], SIGNER.verifier_key), SIGNER.verifier_key)
        cut(path, 3)
        with pytest.raises(VerificationError, match="found 3 entries, want at least the 5"):
            other.append([Append(b"x")], SIGNER)


def test_a_log_that_was_cut_before_another_process_appended_is_not_appended_to(store, path):
    for number in range(5):
        store.append([Append(bytes((number,)))], SIGNER)
    cut(path, 3)
    with closing(open_store(f"sqlite:///{path}")) as other:
        other.append([Append(bytes((number,))) for number in range(50, 59)], SIGNER)
    with pytest.raises(VerificationError, match="found another one, want one that goes on from its first 5"):
        store.append([Append(b"x")], SIGNER)


def test_others_may_append_meanwhile(store, path):
    with closing(open_store(f"sqlite:///{path}")) as other:
        for number in range(40):
            (store if number % 3 else other).append([Append(bytes((number,)))], SIGNER)
        assert verify_checkpoint(other.newest_checkpoint(), SIGNER.verifier_key).size == 40


def test_reading_writes_nothing(store, path):
    store.append([Append(b"a")], SIGNER)
    with (
        closing(again(path)) as other,
        pytest.raises(PlatformError, match="cannot read the log: the database: attempt to write a readonly database"),
        other.reading() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM checkpoints")


def test_a_certificate_is_revoked_once(store, path):
    store.append([Append(b"a", certificate=ROW)], SIGNER)
    revokes = (ROW.serial, AT, "policy")
    answers = store.append([Append(b"r", revokes=revokes), Append(b"r2", revokes=revokes)], SIGNER)
    assert isinstance(answers[0], Logged)
    assert answers[1] is None
    assert store.append([Append(b"r3", revokes=revokes)], SIGNER) == [None]
    with closing(again(path)) as other:
        assert list(other.certificates_in_force(AT)) == []
        assert other.revoked(AT) == [revokes]
        assert other.revoked(ROW.not_after + timedelta(hours=23)) == [revokes]
        assert other.revoked(ROW.not_after + timedelta(hours=25)) == []


def test_refuses_to_revoke_what_was_never_issued(store):
    answers = store.append([Append(b"r", revokes=(7, AT, "policy")), Append(b"a")], SIGNER)
    assert isinstance(answers[0], UnknownCertificateError)
    assert answers[1].index == 0


def test_one_that_does_not_go_in_harms_no_other(store):
    store.append([Append(b"a", certificate=ROW)], SIGNER)
    answers = store.append([Append(b"b"), Append(b"c", certificate=ROW), Append(b"d")], SIGNER)
    assert [type(each) for each in answers] == [Logged, PlatformError, Logged]
    assert store.append([Append(b"e")], SIGNER)[0].index == 3
    with pytest.raises(PlatformError, match="UNIQUE"):
        store.append([Append(b"c", certificate=ROW)], SIGNER)


def test_two_open_stores_make_one_log(store, path):
    with closing(open_store(f"sqlite:///{path}")) as other:
        for number in range(10):
            (logged,) = (store, other)[number % 2].append([Append(bytes((number,)))], SIGNER)
            assert logged.index == number
        assert verify_checkpoint(other.newest_checkpoint(), SIGNER.verifier_key).root == root_of_stored(store, 10)


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["DELETE FROM checkpoints"], "no checkpoint"),
        (["DELETE FROM checkpoints WHERE size = 5"], "5 entries under a checkpoint of 3"),
        (['DELETE FROM entries WHERE "index" = 4'], "4 entries under a checkpoint of 5"),
        (
            ['DELETE FROM entries WHERE "index" > 2', "DELETE FROM checkpoints WHERE size > 3"],
            "more than the 5 of before",
        ),
    ],
)
def test_signs_nothing_over_a_log_that_was_changed(store, path, statements, why):
    store.append([Append(b"a"), Append(b"b"), Append(b"c")], SIGNER)
    store.append([Append(b"d"), Append(b"e")], SIGNER)
    change(path, *statements)
    with pytest.raises(VerificationError, match=why):
        store.append([Append(b"f")], SIGNER)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE hashes SET hash = zeroblob(32) WHERE level = 2", "another root"),
        ("DELETE FROM hashes WHERE level = 2", "no hash 0 of level 2"),
        ('UPDATE entries SET leaf = zeroblob(32) WHERE "index" = 4', "another root"),
        ("UPDATE checkpoints SET text = replace(text, 'steward', 'stewart')", "no signature"),
    ],
)
def test_a_new_process_signs_nothing_over_hashes_that_were_changed(store, path, statement, why):
    store.append([Append(bytes((number,))) for number in range(5)], SIGNER)
    change(path, statement)
    with closing(open_store(f"sqlite:///{path}")) as other, pytest.raises(VerificationError, match=why):
        other.append([Append(b"f")], SIGNER)


def test_a_new_process_with_another_key_signs_nothing(store, path):
    store.append([Append(b"a")], SIGNER)
    other_key = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with closing(open_store(f"sqlite:///{path}")) as other, pytest.raises(VerificationError, match="no signature"):
        other.append([Append(b"b")], other_key)


# --- The database


def test_the_file_is_ours_alone_and_durable(store, path):
    store.append([Append(b"a")], SIGNER)
    folder = os.path.dirname(path)
    assert {stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in os.listdir(folder)} == {0o600}
    with store.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10000}


def test_the_tables_of_the_migrations_are_those_of_the_code(store, tmp_path):
    declared = sa.create_engine(f"sqlite:///{tmp_path}/declared.sqlite3")
    Tables.metadata.create_all(declared)

    def columns(connection):
        inspector = sa.inspect(connection)
        return {
            table: (
                [(each["name"], str(each["type"]), each["nullable"]) for each in inspector.get_columns(table)],
                inspector.get_pk_constraint(table)["constrained_columns"],
                sorted(each["name"] for each in inspector.get_indexes(table)),
                sorted(str(each["column_names"]) for each in inspector.get_unique_constraints(table)),
                sorted(str(each["constrained_columns"]) for each in inspector.get_foreign_keys(table)),
            )
            for table in Tables.metadata.tables
        }

    with store.reading() as connection, declared.connect() as other:
        assert columns(connection) == columns(other)
    declared.dispose()


def test_a_log_of_the_first_version_goes_on(path):
    rows = [row_of(serial)._replace(endorsements=(bytes([serial % 3]),)) for serial in range(1, 150)]
    with closing(open_store(f"sqlite:///{path}")) as newer:
        newer.append([Append(entry_of(row).body, certificate=row) for row in rows], SIGNER)
        checkpoint = newer.newest_checkpoint()
    # As it was: each certificate with its own list.
    change(
        path,
        "UPDATE certificates SET endorsements = "
        "(SELECT list FROM endorsements AS e WHERE e.digest = certificates.endorsements)",
        "UPDATE certificates SET endorsements = 'text' WHERE entry = 5",
        "DROP TABLE endorsements",
        "UPDATE alembic_version SET version_num = '0001'",
    )
    with pytest.raises(PlatformError, match="no table endorsements") as caught:
        again(path)
    assert "enarx steward serve" in caught.value.hint
    with closing(open_store(f"sqlite:///{path}")) as newer:
        assert newer.newest_checkpoint() == checkpoint
        pages = list(newer.certificates_in_force(AT))
        assert [each.row for page in pages for each in page.issued] == rows[:5] + rows[6:]
        assert [each.serial for page in pages for each in page.unfit] == [rows[5].serial]
        newer.append([Append(entry_of(GOOD).body)], SIGNER)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM endorsements").fetchone() == (3,)


def test_opening_again_changes_nothing(store, path):
    store.append([Append(b"a")], SIGNER)
    with closing(open_store(f"sqlite:///{path}")) as other:
        assert other.newest_checkpoint() == store.newest_checkpoint()


def test_refuses_tables_of_a_later_version(store, path):
    change(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(PlatformError, match="later version") as caught:
        open_store(f"sqlite:///{path}")
    assert caught.value.hint


def test_refuses_to_read_what_is_not_there(tmp_path):
    with pytest.raises(PlatformError, match="no file"):
        open_store(f"sqlite:///{tmp_path}/none.sqlite3", must_exist=True)
    assert os.listdir(tmp_path) == []
    (tmp_path / "other.sqlite3").touch()
    with pytest.raises(PlatformError, match="no table certificates"):
        open_store(f"sqlite:///{tmp_path}/other.sqlite3", must_exist=True)


def test_refuses_a_file_that_is_no_database(tmp_path):
    (tmp_path / "other.sqlite3").write_text("x" * 5000)
    with pytest.raises(PlatformError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/other.sqlite3")


def test_refuses_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(PlatformError, match="No such file"):
        open_store(f"sqlite:///{tmp_path}/none/other.sqlite3")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite://",
        "sqlite:///x?mode=memory",
        "sqlite+aiosqlite:///x",
        "mysql://root:hunter2@localhost/x",
        "hunter2",
        "postgresql+psycopg2://u:hunter2@h/x",
    ],
)
def test_refuses_other_urls_and_shows_none(url):
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_password_is_not_shown_when_nobody_answers():
    with pytest.raises(PlatformError) as caught:
        open_store("postgresql://someone:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_values_bytes_are_in_no_message(store):
    store.append([Append(b"a", certificate=ROW)], SIGNER)
    with pytest.raises(PlatformError) as caught:
        store.append([Append(b"secret words", certificate=ROW)], SIGNER)
    assert "secret" not in str(caught.value)


def test_a_leaf_is_the_hash_of_its_body(store):
    store.append([Append(b"a")], SIGNER)
    with store.reading() as connection:
        assert read_hash(connection, 0, 0) == hash_of_leaf(b"a")


def test_what_was_committed_outlives_a_process_that_is_killed(path):
    code = (
        "import os, signal, sys\n"
        "from tests.unit.steward.test_store import SIGNER\n"
        "from enarx.steward.store import Append, open_store\n"
        "store = open_store(sys.argv[1])\n"
        "print(store.append([Append(b'a', b'n' * 32)], SIGNER)[0].checkpoint, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9
    with closing(again(path)) as other:
        assert other.newest_checkpoint() == done.stdout[:-1]
        assert other.has_nonce(b"n" * 32)
