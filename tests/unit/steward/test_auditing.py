# SPDX-License-Identifier: Apache-2.0
"""Every way to change a log, done to a real file, and what the audit calls it."""
# ruff: noqa: S608  # statements are made of numbers that stand here

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enarx.errors import DecodeError, PlatformError, VerificationError
from enarx.steward.auditing import MAX_FINDINGS, audit
from enarx.steward.entries import encode_entry
from enarx.steward.log import (
    Frontier,
    LogSigner,
    hash_of_leaf,
    verify_checkpoint,
    verify_inclusion,
)
from enarx.steward.store import Append, open_store
from tests.unit.steward.issued_rows import entry_of, make_certificate, row_of

SIGNER = LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEY = SIGNER.verifier_key
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
SIZE = 23
CERTIFIED, REVOKED, REVOKING = 6, 9, 20


CERTIFICATES = {index: make_certificate(index) for index in (CERTIFIED, REVOKED)}


def nonce(index):
    return hashlib.sha256(bytes((index,))).digest()


def append_of(index):
    """Return entry number so many: results, certificates, a policy and a revocation."""
    if index in CERTIFICATES:
        entry = entry_of(row_of(index), nonce=nonce(index))
        return Append(entry.body, entry.nonce, entry.certificate)
    if index == REVOKING:
        body = encode_entry(kind="revocation", at=AT, serial=REVOKED, reason="policy")
        return Append(body, revokes=(REVOKED, AT, "policy"))
    if index % 5 == 0:
        return Append(encode_entry(kind="policy", at=AT, policy_sha256=bytes(32), reason=f"{index}"))
    return Append(encode_entry(kind="result", at=AT, nonce=nonce(index), reason=f"{index}"), nonce(index))


def make_log(path, sizes=(1, 4, 10, 16, SIZE), *, entry=append_of):
    """Make a log with a checkpoint at each size, and return those."""
    with closing(open_store(f"sqlite:///{path}")) as store:
        begin, texts = 0, {}
        for size in sizes:
            texts[size] = store.append([entry(index) for index in range(begin, size)], SIGNER)[-1].checkpoint
            begin = size
    return texts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "log.sqlite3"
    return path, make_log(path)


@pytest.fixture
def log(whole, tmp_path):
    """Return a copy of the log, and its checkpoints."""
    path = tmp_path / "log.sqlite3"
    shutil.copy(whole[0], path)
    return path, whole[1]


def change(path, *statements, parameters=()):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            assert database.execute(statement, parameters).rowcount, f"nothing was changed: {statement}"


def found(path, **options):
    return audit(f"sqlite:///{path}", KEY, **options)


def named(audited):
    return {(each.kind, each.index) for each in audited.findings}


# --- What holds


def test_a_log_that_nobody_changed_holds(log):
    path, checkpoints = log
    audited = found(path)
    assert (audited.size, audited.findings, audited.more_findings) == (SIZE, (), 0)
    assert audited.checkpoint == checkpoints[SIZE]
    audited.require()


@pytest.mark.parametrize("size", [1, 4, 10, 16, SIZE])
def test_a_log_goes_on_from_every_checkpoint_that_was_kept(log, size):
    path, checkpoints = log
    found(path, since=checkpoints[size]).require()


def test_a_certificate_is_in_the_log_and_its_proof_holds_elsewhere(log):
    path, checkpoints = log
    audited = found(path, certificate=CERTIFICATES[CERTIFIED][0])
    audited.require()
    assert audited.certificate_index == CERTIFIED
    checkpoint = verify_checkpoint(checkpoints[SIZE], KEY)
    leaf = hash_of_leaf(append_of(CERTIFIED).body)
    verify_inclusion(leaf, CERTIFIED, SIZE, audited.proof, checkpoint.root)


def test_an_empty_log_holds(tmp_path):
    open_store(f"sqlite:///{tmp_path}/log.sqlite3").close()
    audited = found(tmp_path / "log.sqlite3")
    assert (audited.size, audited.checkpoint, audited.findings) == (0, None, ())


@pytest.mark.parametrize("size", [1, 2, 3, 511, 512, 513, 1030])
def test_logs_of_all_sizes_hold(tmp_path, size):
    def entry(index):
        return Append(encode_entry(kind="result", at=AT, reason=f"{index}"))

    make_log(tmp_path / "log.sqlite3", sorted({1, size // 2 or 1, size}), entry=entry)
    found(tmp_path / "log.sqlite3").require()


def test_the_key_may_be_text(log):
    assert audit(f"sqlite:///{log[0]}", KEY.text()).findings == ()


def test_an_audit_changes_nothing(log):
    path, _ = log
    before = path.read_bytes()
    found(path)
    assert path.read_bytes() == before


# --- Entries

BODY = encode_entry(kind="result", at=AT, nonce=nonce(7), reason="other")


def test_names_an_entry_that_was_changed(log):
    change(log[0], 'UPDATE entries SET body = ? WHERE "index" = 7', parameters=(BODY,))
    audited = found(log[0])
    assert named(audited) == {("entry-changed", 7), ("entries-unlike-signed", 4)}
    assert "entry 7: found another one" in str([each.message for each in audited.findings])
    assert audited.checkpoint is None
    with pytest.raises(VerificationError, match="cannot verify the log: "):
        audited.require()


def test_names_an_entry_that_was_changed_with_its_hash(log):
    change(log[0], 'UPDATE entries SET body = ?, leaf = ? WHERE "index" = 7', parameters=(BODY, hash_of_leaf(BODY)))
    assert named(found(log[0])) == {("entry-changed", 6), ("entries-unlike-signed", 4)}


def test_names_the_checkpoint_where_every_hash_above_was_changed_too(log):
    path, checkpoints = log
    frontier, size = Frontier(), 0
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('UPDATE entries SET body = ?, leaf = ? WHERE "index" = 7', (BODY, hash_of_leaf(BODY)))
        for (leaf,) in database.execute('SELECT leaf FROM entries ORDER BY "index"').fetchall():
            for node in frontier.append(leaf)[1:]:
                database.execute(
                    'UPDATE hashes SET hash = ? WHERE level = ? AND "index" = ?', (node.hash, node.level, node.index)
                )
            size += 1
    audited = found(path, since=checkpoints[16])
    assert named(audited) == {("entries-unlike-signed", 4), ("history-forked", 15)}
    assert "entries 4 to 9" in audited.findings[0].message


def test_names_an_entry_that_was_removed(log):
    change(log[0], 'DELETE FROM entries WHERE "index" = 7')
    assert named(found(log[0])) == {("entry-removed", 7)}


def test_names_the_last_entry_that_was_removed(log):
    change(log[0], f'DELETE FROM entries WHERE "index" = {SIZE - 1}')
    assert named(found(log[0])) == {("entry-removed", SIZE - 1)}


def test_names_entries_that_are_in_each_others_place(log):
    change(
        log[0],
        'UPDATE entries SET "index" = -1 WHERE "index" = 3',
        'UPDATE entries SET "index" = 3 WHERE "index" = 12',
        'UPDATE entries SET "index" = 12 WHERE "index" = -1',
    )
    assert named(found(log[0])) >= {("entries-reordered", 3), ("entries-reordered", 12)}
    assert {each.kind for each in found(log[0]).findings} == {"entries-reordered", "entries-unlike-signed"}


def test_names_neighbours_that_are_in_each_others_place(log):
    change(
        log[0],
        'UPDATE entries SET "index" = -1 WHERE "index" = 2',
        'UPDATE entries SET "index" = 2 WHERE "index" = 3',
        'UPDATE entries SET "index" = 3 WHERE "index" = -1',
    )
    assert named(found(log[0])) >= {("entries-reordered", 2), ("entries-reordered", 3)}


def test_names_the_last_entry_in_the_place_of_another(log):
    last = SIZE - 1
    change(
        log[0],
        'UPDATE entries SET "index" = -1 WHERE "index" = 3',
        f'UPDATE entries SET "index" = 3 WHERE "index" = {last}',
        f'UPDATE entries SET "index" = {last} WHERE "index" = -1',
    )
    assert ("entries-reordered", 3) in named(found(log[0]))


def test_names_bodies_that_are_in_each_others_place(log):
    with closing(sqlite3.connect(log[0])) as database, database:
        bodies = dict(database.execute('SELECT "index", body FROM entries').fetchall())
        for index, other in ((3, 12), (12, 3)):
            database.execute('UPDATE entries SET body = ? WHERE "index" = ?', (bodies[other], index))
    assert named(found(log[0])) >= {("entries-reordered", 3), ("entries-reordered", 12)}


def test_names_an_entry_nobody_can_read(log):
    change(log[0], "UPDATE entries SET body = x'00' WHERE \"index\" = 7")
    assert named(found(log[0])) >= {("entry-undecodable", 7), ("entry-changed", 7)}


def test_names_entries_without_a_checkpoint(log):
    change(log[0], f"DELETE FROM checkpoints WHERE size = {SIZE}")
    audited = found(log[0])
    assert named(audited) == {("entries-unsigned", 16)}
    assert audited.checkpoint is None


def test_names_an_entry_that_was_slipped_in(log):
    change(log[0], f'INSERT INTO entries SELECT {SIZE}, leaf, NULL, body FROM entries WHERE "index" = 5')
    assert {kind for kind, _ in named(found(log[0]))} >= {"entries-unsigned", "hash-missing"}


# --- Hashes


def test_names_a_hash_that_was_changed(log):
    change(log[0], 'UPDATE hashes SET hash = zeroblob(32) WHERE level = 3 AND "index" = 0')
    audited = found(log[0])
    assert [each.kind for each in audited.findings] == ["hash-changed", "hash-changed"]
    assert "hash 0 of level 3: found another one, want that of entries 0 to 7" in audited.findings[0].message


def test_names_a_hash_that_is_missing(log):
    change(log[0], 'DELETE FROM hashes WHERE level = 2 AND "index" = 1')
    (finding,) = found(log[0]).findings
    assert (finding.kind, "hash 1 of level 2" in finding.message) == ("hash-missing", True)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO hashes VALUES (3, 2, zeroblob(32))",
        "INSERT INTO entries VALUES (-1, zeroblob(32), NULL, zeroblob(1))",
    ],
)
def test_names_rows_that_no_log_has(log, statement):
    change(log[0], statement)
    assert [each.kind for each in found(log[0]).findings] == ["surplus-rows"]


# --- Nonces, certificates


def test_names_a_nonce_that_could_be_replayed(log):
    change(log[0], 'UPDATE entries SET nonce = NULL WHERE "index" = 7')
    assert named(found(log[0])) == {("nonce-missing", 7)}


def test_names_a_nonce_that_was_changed(log):
    change(log[0], 'UPDATE entries SET nonce = zeroblob(32) WHERE "index" = 7')
    assert named(found(log[0])) == {("nonce-changed", 7)}


def test_names_a_certificate_whose_row_is_missing(log):
    change(log[0], f"DELETE FROM certificates WHERE entry = {CERTIFIED}")
    assert named(found(log[0])) == {("certificate-missing", CERTIFIED)}


def test_names_a_revoked_certificate_whose_row_is_missing(log):
    change(log[0], f"DELETE FROM certificates WHERE entry = {REVOKED}")
    assert named(found(log[0])) == {("certificate-missing", REVOKED), ("certificate-missing", REVOKING)}


@pytest.mark.parametrize("entry", [2, SIZE + 600])
def test_names_a_certificate_that_no_entry_issues(log, entry):
    change(
        log[0],
        "INSERT INTO certificates SELECT zeroblob(20), "
        f"{entry}, not_after_ms, evidence, endorsements, receipt, spki, report_data, NULL, NULL, NULL "
        f"FROM certificates WHERE entry = {CERTIFIED}",
    )
    assert named(found(log[0])) == {("certificate-without-entry", entry)}


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("evidence", b"other", "evidence"),
        ("endorsements", b"\x80", "endorsement"),
        ("endorsements", b"\xff", "endorsement"),
        ("receipt", b"other", "receipt"),
        ("report_data", bytes(63) + b"\1", "report data"),
        ("spki", b"other", "key"),
        ("not_after_ms", 1 << 41, "end"),
        ("serial", bytes(19) + b"\x42", "serial"),
    ],
)
def test_names_what_was_changed_of_a_certificate(log, column, value, what):
    change(log[0], f"UPDATE certificates SET {column} = ? WHERE entry = {CERTIFIED}", parameters=(value,))
    audited = found(log[0])
    assert named(audited) == {("certificate-changed", CERTIFIED)}
    assert what in audited.findings[0].message


@pytest.mark.parametrize("statement", ["UPDATE endorsements SET list = x'80'", "DELETE FROM endorsements"])
def test_names_certificates_whose_endorsements_were_changed(log, statement):
    change(log[0], statement)
    audited = found(log[0])
    assert named(audited) == {("certificate-changed", CERTIFIED), ("certificate-changed", REVOKED)}
    assert all("endorsement" in each.message for each in audited.findings)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (f"UPDATE certificates SET evidence = 'text' WHERE entry = {CERTIFIED}", CERTIFIED),
        (f"UPDATE certificates SET serial = 'text' WHERE entry = {CERTIFIED}", CERTIFIED),
        (f"UPDATE certificates SET not_after_ms = 'text' WHERE entry = {CERTIFIED}", CERTIFIED),
        (f"UPDATE certificates SET revoked_at_ms = 2.5, revoked_by = 3 WHERE entry = {CERTIFIED}", CERTIFIED),
        ("UPDATE entries SET body = 'text' WHERE \"index\" = 7", 7),
        ('UPDATE entries SET nonce = 5 WHERE "index" = 7', 7),
        ("INSERT INTO entries(\"index\", leaf, body) VALUES ('zz', x'00', x'00')", None),
        ("UPDATE hashes SET hash = 'text' WHERE level = 1 AND \"index\" = 2", None),
        (f"UPDATE checkpoints SET size = 'text' WHERE size = {SIZE}", None),
        ("UPDATE checkpoints SET text = x'00ff' WHERE size = 10", None),
        ("UPDATE endorsements SET list = 'text'", None),
    ],
)
def test_a_value_of_another_type_is_found(log, statement, index):
    change(log[0], statement)
    audited = found(log[0])
    assert named(audited) == {("type-changed", index)}
    assert audited.checkpoint is None
    with pytest.raises(VerificationError, match="found a value of type"):
        audited.require()


def test_text_that_is_none_is_found(log):
    change(log[0], "UPDATE checkpoints SET text = CAST(x'00ff' AS TEXT) WHERE size = 10")
    assert named(found(log[0])) == {("checkpoint-not-signed", 9)}


def test_a_time_or_number_that_is_none_is_found(log):
    change(log[0], f"UPDATE certificates SET revoked_at_ms = {(1 << 63) - 1}, revoked_by = 3 WHERE entry = {REVOKED}")
    assert ("revocation-changed", REVOKED) in named(found(log[0]))


def test_what_the_steward_kept_counts_beside_what_the_auditor_kept(log):
    path, checkpoints = log
    newest = verify_checkpoint(checkpoints[SIZE], KEY)
    assert found(path, since=checkpoints[10], also_since=newest).findings == ()
    audited = found(path, since=checkpoints[10], also_since=newest._replace(size=SIZE + 1))
    assert named(audited) == {("history-rolled-back", SIZE)}
    forked = found(path, since=checkpoints[10], also_since=newest._replace(root=bytes(32)))
    assert named(forked) == {("history-forked", SIZE - 1)}


def test_whoever_can_only_read_can_audit(log):
    path, _ = log
    # Others may not look into a test's own folder.
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    shutil.copy(path, folder / "log.sqlite3")
    (folder / "log.sqlite3").chmod(0o444)
    folder.chmod(0o555)
    code = (
        "import os, sys\n"
        "from enarx.steward.auditing import audit\n"
        "url, whole, key = sys.argv[1:]\n"
        "if os.geteuid() == 0:\n"
        "    # Root may write everywhere: as somebody else, once everything is imported.\n"
        "    audit(whole, key)\n"
        "    os.setgroups([])\n"
        "    os.setgid(65534)\n"
        "    os.setuid(65534)\n"
        "found = audit(url, key)\n"
        "found.require()\n"
        "print(found.size)\n"
    )
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, f"sqlite:///{folder}/log.sqlite3", f"sqlite:///{path}", KEY.text()],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (ran.stdout, ran.stderr, ran.returncode) == (f"{SIZE}\n", "", 0)
        assert [each.name for each in folder.iterdir()] == ["log.sqlite3"]
    finally:
        shutil.rmtree(folder)


def test_names_a_certificate_whose_entry_does_not_say_what_is_kept(tmp_path):
    def entry(index):
        row = row_of(index + 1)
        der = make_certificate(index + 1)[0]
        return Append(encode_entry(kind="certificate", at=AT, certificate=der, serial=index + 1), certificate=row)

    make_log(tmp_path / "log.sqlite3", (1,), entry=entry)
    assert named(found(tmp_path / "log.sqlite3")) == {("certificate-changed", 0)}


@pytest.mark.parametrize("change_of", ["revoked_at_ms = NULL, revoked_by = NULL", "reason = 'other'"])
def test_names_a_revocation_that_was_undone_or_changed(log, change_of):
    change(log[0], f"UPDATE certificates SET {change_of} WHERE revoked_by IS NOT NULL")
    assert named(found(log[0])) == {("revocation-changed", REVOKING)}


@pytest.mark.parametrize("by", ["NULL", "3", str(REVOKING)])
def test_names_a_revocation_that_no_entry_made(log, by):
    change(log[0], f"UPDATE certificates SET revoked_at_ms = 5, revoked_by = {by} WHERE entry = {CERTIFIED}")
    assert named(found(log[0])) == {("revocation-changed", CERTIFIED)}


# --- Checkpoints


def test_names_a_checkpoint_that_is_not_signed(log):
    change(log[0], "UPDATE checkpoints SET text = replace(text, 'log\n10', 'log\n11') WHERE size = 10")
    assert named(found(log[0])) == {("checkpoint-not-signed", 9)}


def test_names_a_checkpoint_of_another_size(log):
    path, checkpoints = log
    change(path, "UPDATE checkpoints SET text = ? WHERE size = 10", parameters=(checkpoints[4],))
    assert named(found(path)) == {("checkpoint-not-signed", 9)}


def test_another_key_signed_nothing_of_it(log):
    other = LogSigner(KEY.name, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    audited = audit(f"sqlite:///{log[0]}", other.verifier_key)
    assert {each.kind for each in audited.findings} == {"checkpoint-not-signed", "entries-unsigned"}


def test_names_a_log_that_was_cut_off_consistently(log):
    path, checkpoints = log
    change(
        path,
        "DELETE FROM checkpoints WHERE size > 16",
        "UPDATE certificates SET revoked_at_ms = NULL, revoked_by = NULL WHERE revoked_by IS NOT NULL",
        'DELETE FROM entries WHERE "index" >= 16',
        'DELETE FROM hashes WHERE ("index" + 1) << level > 16',
    )
    # By itself it is whole; who kept a checkpoint knows better.
    found(path).require()
    assert named(found(path, since=checkpoints[SIZE])) == {("history-rolled-back", 16)}


def test_names_a_history_that_was_written_anew_with_the_key(tmp_path, log):
    def entry(index):
        return Append(BODY, nonce(7)) if index == 7 else append_of(index)

    make_log(tmp_path / "forked.sqlite3", entry=entry)
    found(tmp_path / "forked.sqlite3").require()
    found(tmp_path / "forked.sqlite3", since=log[1][4]).require()
    for size in (10, 16, SIZE):
        audited = found(tmp_path / "forked.sqlite3", since=log[1][size])
        assert named(audited) == {("history-forked", size - 1)}


@pytest.mark.parametrize("is_whole", [True, False])
def test_names_a_certificate_that_is_not_in_the_log(log, is_whole):
    path, _ = log
    if not is_whole:
        change(path, f'DELETE FROM entries WHERE "index" = {CERTIFIED}')
    other = CERTIFICATES[CERTIFIED][0] if not is_whole else b"other"
    assert "not-included" in {each.kind for each in found(path, certificate=other).findings}


def test_refuses_a_kept_checkpoint_that_is_none_of_this_log(log):
    path, checkpoints = log
    with pytest.raises(DecodeError):
        found(path, since="nothing")
    with pytest.raises(VerificationError):
        found(path, since=checkpoints[4].replace("\n4\n", "\n5\n"))
    with pytest.raises(DecodeError):
        audit(f"sqlite:///{path}", "nothing")
    with pytest.raises(PlatformError):
        found(path.with_name("none.sqlite3"))


def test_says_a_hundred_things_and_counts_the_rest(tmp_path):
    path = tmp_path / "log.sqlite3"
    make_log(
        path,
        (300,),
        entry=lambda index: Append(encode_entry(kind="policy", at=AT, nonce=nonce(index % 250), reason=f"{index}")),
    )
    audited = found(path)
    assert {each.kind for each in audited.findings} == {"nonce-missing"}
    assert (len(audited.findings), audited.more_findings) == (MAX_FINDINGS, 200)
    with pytest.raises(VerificationError, match="299 more findings"):
        audited.require()


def test_memory_does_not_grow_with_the_log(tmp_path):
    """Twenty times the entries, and no more memory than a few of the parts that are read at once."""
    peaks = []
    for size in (1000, 20_000):
        path = tmp_path / f"{size}.sqlite3"
        with closing(open_store(f"sqlite:///{path}")) as store:
            for begin in range(0, size, 1000):
                entries = [
                    Append(encode_entry(kind="result", at=AT, identity=bytes(600), reason=f"{begin + at}"))
                    for at in range(1000)
                ]
                store.append(entries, SIGNER)
        code = (
            "import resource, sys\n"
            "from enarx.steward.auditing import audit\n"
            "audit(sys.argv[1], sys.argv[2]).require()\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        command = [sys.executable, "-c", code, f"sqlite:///{path}", KEY.text()]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout))
    assert peaks[1] - peaks[0] < 8 << 10
