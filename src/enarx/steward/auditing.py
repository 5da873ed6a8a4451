# SPDX-License-Identifier: Apache-2.0
"""Prove a Steward's log: everything that is stored, from the entries up, against what its key signed.

Rules of this file:

- Nothing is taken on trust but the log's public key, and what the auditor kept: an older checkpoint, a certificate.
- The whole is read once, in one snapshot, by parts of a few hundred entries: memory does not grow with the log.
- What is wrong is said by its name, as near to the place as the hashes allow. Whoever changed an entry and every stored hash above it
  is caught by the next signed checkpoint; the finding then names the entries between it and the last checkpoint that holds.
- After a fault the audit goes on: a stored hash stands in for what is missing, so that one fault is not reported once for each
  entry that follows.

What holds it together: one walk from the first entry to the last, and what is asked on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256, sha384
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from enarx.errors import DecodeError, VerificationError
from enarx.steward.entries import Facts, decode_entry_untrusted
from enarx.steward.issued import RowDigests, kept_digest, misfits
from enarx.steward.log import (
    EMPTY_ROOT,
    Checkpoint,
    ReadHash,
    VerifierKey,
    consistency_proof,
    hash_of_leaf,
    hash_of_node,
    inclusion_proof,
    parse_verifier_key_untrusted,
    verify_checkpoint,
    verify_consistency,
    verify_inclusion,
)
from enarx.steward.store import Store, Tables, as_key, open_store, read_hash

__all__ = ["MAX_FINDINGS", "AuditFinding", "Audited", "audit"]

MAX_FINDINGS = 100
"""That are said one by one; more are counted."""
_PART = 512
_FEW = 16
_MAX_PAIRED = 128
_MAX_SUSPECTS = 2000


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """Something that is not as it was signed.

    Args:
        kind: what it is: `entry-changed`, `entry-removed`, `entries-reordered`, `entry-undecodable`, `entries-unlike-signed`,
            `entries-unsigned`, `entries-cut-off`, `hash-changed`, `hash-missing`, `surplus-rows`, `nonce-missing`, `nonce-changed`,
            `certificate-missing`, `certificate-without-entry`, `certificate-changed`, `revocation-changed`,
            `checkpoint-not-signed`, `history-forked`, `history-rolled-back`, `not-included`, `type-changed`.
        index: of the entry, or None where it is about no single one.
        message: one line.
    """

    kind: str
    index: int | None
    message: str


class Audited(NamedTuple):
    """What came of an audit.

    Args:
        size: how many entries the log has.
        checkpoint: its newest, signed, to be kept for the next audit; None where there is none or it does not hold.
        findings: at most `MAX_FINDINGS`, in the order of the log; none if everything holds.
        more_findings: how many others there are.
        certificate_index: of the entry that issued the certificate that was asked for, or None.
        proof: that this entry is in the tree of the newest checkpoint, as in RFC 6962.
    """

    size: int
    checkpoint: str | None
    findings: tuple[AuditFinding, ...]
    more_findings: int
    certificate_index: int | None
    proof: tuple[bytes, ...]

    def require(self) -> None:
        """Return if everything holds.

        Raises:
            VerificationError: something does not.
        """
        if self.findings:
            more = len(self.findings) - 1 + self.more_findings
            raise VerificationError(
                f"cannot verify the log: {self.findings[0].message}" + (f"; and {more} more findings" if more else "")
            )


def audit(
    source: str | Store,
    key: str | VerifierKey,
    *,
    since: str | None = None,
    also_since: Checkpoint | None = None,
    certificate: bytes | None = None,
) -> Audited:
    """Prove a log.

    Args:
        source: its database, or the URL of it; nothing in it is changed.
        key: of the log, as text `name+hash+key`, from elsewhere than the database.
        since: a signed checkpoint that was kept, of which the log must still be a continuation.
        also_since: another one, whose signature was verified.
        certificate: in DER, whose entry must be in the log.

    Returns:
        What was found. It proves nothing unless it is asked: `require`.

    Raises:
        DecodeError: key or kept checkpoint are none.
        VerificationError: the kept checkpoint is not of this log.
        PlatformError: the database cannot be read.
        UsageError: the URL is of no database.
    """
    log_key = parse_verifier_key_untrusted(key) if isinstance(key, str) else key
    kept = [] if since is None else [verify_checkpoint(since, log_key)]
    if also_since is not None and also_since not in kept:
        kept.append(also_since)
    store = open_store(source, must_exist=True) if isinstance(source, str) else source
    try:
        with store.reading() as connection:
            return _Audit(connection, log_key, kept, certificate).run()
    finally:
        if isinstance(source, str):
            store.close()


class _Row(NamedTuple):
    """What is stored of a certificate.

    Args:
        stored: of which its entry speaks.
        revoked_at_ms: when it was revoked, or None.
        revoked_by: index of the entry that revokes it, or None.
    """

    stored: RowDigests
    revoked_at_ms: int | None
    revoked_by: int | None


class _Suspects(NamedTuple):
    """Leaves that were found wrong, to see whether they are only in each other's place.

    Args:
        stored: index to the hash that is stored.
        computed: index to the hash of what is there.
        parents: index of the first of two to the hash that is stored above them.
    """

    stored: dict[int, bytes]
    computed: dict[int, bytes]
    parents: dict[int, bytes]


class _Edge(NamedTuple):
    """A complete subtree at the right edge.

    Args:
        level: of it.
        computed: its hash, of the entries.
        stored: its hash, as it is stored.
    """

    level: int
    computed: bytes
    stored: bytes


class _Audit:
    """One walk.

    Args:
        connection: a snapshot.
        key: of the log.
        kept: what the auditor kept.
        certificate: what is asked for, or None.
    """

    def __init__(
        self, connection: Connection, key: VerifierKey, kept: list[Checkpoint], certificate: bytes | None
    ) -> None:
        self._connection = connection
        self._key = key
        self._kept = kept
        self._certificate = certificate
        self._findings: list[AuditFinding] = []
        self._more = 0
        self._edges: list[_Edge] = []
        self._walked = 0
        self._suspects = _Suspects({}, {}, {})
        self._certificate_index: int | None = None
        # The last size whose signed root is that of the entries, and whether one since then is not.
        self._good = 0
        self._is_unlike = False
        self._newest: tuple[str, Checkpoint] | None = None

    def run(self) -> Audited:
        if self._compare_types():
            # Each value is used as what its table says; one that is none of these stands for nothing.
            entries = self._count(Tables.entries)
            return Audited(entries, None, tuple(self._findings), self._more, None, ())
        try:
            return self._run()
        except (TypeError, ValueError, OverflowError) as error:
            self._find(
                "type-changed", None, f"found a stored value that is none ({type(error).__name__}), want its own"
            )
            return Audited(self._count(Tables.entries), None, tuple(self._findings), self._more, None, ())

    def _run(self) -> Audited:
        size = self._size()
        self._compare_kept(0)
        for begin in range(0, size, _PART):
            self._walk(begin, min(begin + _PART, size))
        self._name_suspects()
        self._compare_counts(size)
        self._compare_end(size)
        proof = self._prove(size)
        findings = sorted(self._findings, key=lambda each: -1 if each.index is None else each.index)
        return Audited(
            size=size,
            checkpoint=self._newest[0]
            if self._newest and self._newest[1].size == size and not self._is_unlike
            else None,
            findings=tuple(findings),
            more_findings=self._more,
            certificate_index=self._certificate_index,
            proof=proof,
        )

    def _find(self, kind: str, index: int | None, message: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(AuditFinding(kind, index, message))
        else:
            self._more += 1

    def _compare_types(self) -> bool:
        """Say whether a column holds what is not of its type, which SQLite does where its rules were turned off."""
        if self._connection.dialect.name != "sqlite":
            return False
        places = {"entries": "index", "certificates": "entry"}
        for table in (Tables.entries, Tables.certificates, Tables.checkpoints, Tables.hashes, Tables.endorsements):
            types = {column.name: sa.func.typeof(column) for column in table.c}
            wanted = {column.name: _types_of(column) for column in table.c}
            other = sa.or_(*(found.not_in(wanted[name]) for name, found in types.items()))
            place = table.c[places[table.name]] if table.name in places else sa.null()
            rows = sa.select(place.label("place"), *(found.label(f"of_{name}") for name, found in types.items()))
            for row in self._connection.execute(rows.where(other)):
                name = next(each for each in types if getattr(row, f"of_{each}") not in wanted[each])
                index = row.place if isinstance(row.place, int) else None
                subject = table.name if index is None else f"{table.name} of entry {index}"
                self._find(
                    "type-changed",
                    index,
                    f"{subject}: {name}: found a value of type {getattr(row, f'of_{name}')}, want {wanted[name][0]}",
                )
        return bool(self._findings)

    def _size(self) -> int:
        entries, checkpoints = Tables.entries, Tables.checkpoints
        highest = self._connection.execute(sa.select(sa.func.max(entries.c.index))).scalar()
        signed = self._connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar() or 0
        # A checkpoint of what was never there says nothing about how long to look; one more than there is says that some are gone.
        return max(0 if highest is None else highest + 1, min(signed, self._count(entries) + _PART))

    # --- Entries and hashes

    def _walk(self, begin: int, end: int) -> None:
        entries = {row._mapping["index"]: row for row in self._rows(Tables.entries, "index", begin, end)}
        hashes = self._hashes(begin, end)
        issued = self._issued(begin, end)
        signed = {row.size: row.text for row in self._rows(Tables.checkpoints, "size", begin + 1, end + 1)}
        for index in range(begin, end):
            row = entries.get(index)
            if row is None:
                self._find("entry-removed", index, f"entry {index}: found none, want what was signed")
            else:
                facts = self._read(index, row)
                self._compare_row(index, issued.pop(index, None), facts)
            self._grow(index, row, hashes)
            text = signed.get(index + 1)
            if text is not None:
                self._compare_checkpoint(index + 1, text)
            self._compare_kept(index + 1)
        for index, row in issued.items():
            self._unentered(index, row.stored.serial)

    def _issued(self, begin: int, end: int) -> dict[int, _Row]:
        """Return what is stored of the certificates of these entries, without the evidence, which may be large."""
        table, endorsements = Tables.certificates, Tables.endorsements
        wanted = (
            sa.select(table, endorsements.c.list)
            .outerjoin(endorsements, table.c.endorsements == endorsements.c.digest)
            .where(table.c.entry >= begin, table.c.entry < end)
        )
        found = {}
        for row in self._connection.execute(wanted.execution_options(yield_per=_FEW)):
            stored = RowDigests(
                serial=int.from_bytes(row.serial),
                not_after_ms=row.not_after_ms,
                evidence_sha256=sha256(row.evidence).digest(),
                spki_sha384=sha384(row.spki).digest(),
                # Where the list is gone, none of its own is compared: an empty string is no list.
                kept_sha256=kept_digest(
                    *map(bytes, (row.evidence, row.list or b"", row.receipt, row.spki, row.report_data))
                ),
            )
            found[row.entry] = _Row(stored, row.revoked_at_ms, row.revoked_by)
        return found

    def _rows(self, table: sa.Table, column: str, begin: int, end: int) -> Iterable[Any]:
        wanted = sa.select(table).where(table.c[column] >= begin, table.c[column] < end)
        return self._connection.execute(wanted)

    def _hashes(self, begin: int, end: int) -> dict[tuple[int, int], bytes]:
        """Return the stored hashes of what these leaves complete."""
        table, level = Tables.hashes, 1
        found: dict[tuple[int, int], bytes] = {}
        while end >> level:
            first, last = begin >> level, end >> level
            if last > first:
                wanted = sa.select(table.c.index.label("at"), table.c.hash).where(
                    table.c.level == level, table.c.index >= first, table.c.index < last
                )
                found |= {(level, row.at): bytes(row.hash) for row in self._connection.execute(wanted)}
            level += 1
        return found

    def _read(self, index: int, row: Any) -> Facts | None:
        try:
            facts = decode_entry_untrusted(bytes(row.body))
        except DecodeError as error:
            self._find("entry-undecodable", index, f"entry {index}: {error}")
            return None
        nonce = None if row.nonce is None else bytes(row.nonce)
        if facts.nonce is not None and nonce is None:
            self._find("nonce-missing", index, f"entry {index}: its nonce: found none kept against replays, want it")
        elif facts.nonce != nonce:
            self._find("nonce-changed", index, f"entry {index}: its nonce: found another one kept, want its own")
        if self._certificate is not None and facts.certificate == self._certificate:
            self._certificate_index = index
        if facts.kind == "revocation":
            self._compare_revocation(index, facts)
        return facts

    def _grow(self, index: int, row: Any, hashes: dict[tuple[int, int], bytes]) -> None:
        """Add a leaf, and compare what it completes."""
        if row is None:
            # Nothing is known of it; what is stored above it stands for it, and where nothing does, its place is empty.
            computed = stored = b""
        else:
            computed, stored = hash_of_leaf(bytes(row.body)), bytes(row.leaf)
            if computed != stored:
                self._suspect(index, stored, computed)
        self._edges.append(_Edge(0, computed, stored))
        self._walked += 1
        while len(self._edges) > 1 and self._edges[-1].level == self._edges[-2].level:
            right, left = self._edges.pop(), self._edges.pop()
            level = left.level + 1
            at = index >> level
            kept = hashes.get((level, at))
            is_known = b"" not in {left.stored, right.stored}
            of_stored = hash_of_node(left.stored, right.stored) if is_known else kept
            of_entries = hash_of_node(left.computed, right.computed) if is_known else kept
            if kept is None:
                self._find(
                    "hash-missing", None, f"hash {at} of level {level}: found none, want that of {_range(level, at)}"
                )
            elif kept != of_stored:
                if level == 1:
                    self._suspects.parents[2 * at] = kept
                    self._suspect(2 * at, left.stored, left.computed)
                    self._suspect(2 * at + 1, right.stored, right.computed)
                else:
                    self._find(
                        "hash-changed",
                        None,
                        f"hash {at} of level {level}: found another one, want that of {_range(level, at)}",
                    )
            self._edges.append(_Edge(level, of_entries or b"", kept or of_stored or b""))

    def _suspect(self, index: int, stored: bytes, computed: bytes) -> None:
        if len(self._suspects.stored) < _MAX_SUSPECTS:
            self._suspects.stored[index] = stored
            self._suspects.computed[index] = computed
        else:
            self._changed(index, f"entry {index}")

    def _root(self) -> bytes | None:
        """Return the root of what was read so far, or None where something is missing that nothing stands for."""
        if not self._edges:
            return EMPTY_ROOT
        hashes = [each.computed for each in self._edges]
        if b"" in hashes:
            return None
        found = hashes[-1]
        for each in reversed(hashes[:-1]):
            found = hash_of_node(each, found)
        return found

    def _name_suspects(self) -> None:
        """Say of the leaves that are wrong whether they are in each other's place, or other ones."""
        stored, computed, parents = self._suspects
        by_stored = {digest: index for index, digest in stored.items()}
        named: set[int] = set()
        for index, digest in sorted(computed.items()):
            # The hash stayed, and the entry is another one.
            if digest != stored[index]:
                named.add(index)
                home = by_stored.get(digest)
                if home is None:
                    self._changed(index, f"entry {index}")
                else:
                    self._reordered(home, index)
        pairs = self._pairs() if parents else {}
        for first, parent in sorted(parents.items()):
            if {first, first + 1} & named:
                continue
            homes = pairs.get(parent)
            if homes is None:
                self._changed(first, f"entry {first} or {first + 1}")
                continue
            for index, place in zip((first, first + 1), homes, strict=True):
                if index != place:
                    self._reordered(index, place)

    def _pairs(self) -> dict[bytes, tuple[int, int]]:
        """Return what each two of the leaves that are wrong would have above them."""
        leaves = dict(self._suspects.stored)
        if self._edges[-1].level == 0:
            # The last entry of an odd number has nothing above it by which to see that it is wrong.
            leaves[self._walked - 1] = self._edges[-1].stored
        if len(leaves) > _MAX_PAIRED:
            return {}
        return {
            hash_of_node(leaves[left], leaves[right]): (left, right)
            for left in leaves
            for right in leaves
            if left != right
        }

    def _changed(self, index: int, subject: str) -> None:
        self._find("entry-changed", index, f"{subject}: found another one, want what was signed")

    def _reordered(self, index: int, place: int) -> None:
        self._find("entries-reordered", index, f"entry {index}: found it in the place of {place}, want it in its own")

    # --- Checkpoints

    def _compare_checkpoint(self, size: int, text: str) -> None:
        try:
            checkpoint = verify_checkpoint(text, self._key)
        except (DecodeError, VerificationError) as error:
            self._find("checkpoint-not-signed", size - 1, f"checkpoint {size}: {error}")
            return
        if checkpoint.size != size:
            self._find(
                "checkpoint-not-signed", size - 1, f"checkpoint {size}: found that of {checkpoint.size}, want its own"
            )
            return
        self._newest = text, checkpoint
        root = self._root()
        if root is None:
            # That an entry is gone is said already.
            return
        if root == checkpoint.root:
            self._good, self._is_unlike = size, False
            return
        if not self._is_unlike:
            entries = _entries(self._good, size)
            self._find(
                "entries-unlike-signed",
                self._good,
                f"{entries}: found others, want what the checkpoint of {size} is of",
            )
        self._is_unlike = True

    def _compare_kept(self, size: int) -> None:
        for kept in self._kept:
            if kept.size == size and self._root() not in {None, kept.root}:
                self._find(
                    "history-forked",
                    max(size - 1, 0),
                    f"the first {size} entries: found others than in the kept checkpoint, want the same",
                )

    def _compare_end(self, size: int) -> None:
        signed = 0 if self._newest is None else self._newest[1].size
        if signed < size:
            self._find(
                "entries-unsigned", signed, f"{_entries(signed, size)}: found no checkpoint that covers them, want one"
            )
        table = Tables.checkpoints
        beyond = self._connection.execute(sa.select(table.c.size).where(table.c.size > size)).first()
        if beyond is not None:
            self._find(
                "entries-cut-off", size, f"found {size} entries, want the {beyond.size} of the newest checkpoint"
            )
        most = max((kept.size for kept in self._kept), default=0)
        if most > size:
            self._find(
                "history-rolled-back", size, f"found {size} entries, want at least the {most} of the kept checkpoint"
            )

    # --- What is stored beside the entries

    def _compare_row(self, index: int, row: _Row | None, facts: Facts | None) -> None:
        if facts is None or facts.kind != "certificate":
            if row is not None:
                self._unentered(index, row.stored.serial)
            return
        if row is None:
            self._find("certificate-missing", index, f"entry {index}: found no row of its certificate, want one")
            return
        try:
            unlike = misfits(facts, row.stored)
        except DecodeError as error:
            self._find("entry-undecodable", index, f"entry {index}: {error}")
            return
        for what in unlike:
            self._find(
                "certificate-changed", index, f"the certificate of entry {index}: found another {what}, want its own"
            )
        if row.revoked_at_ms is not None or row.revoked_by is not None:
            self._compare_marked(index, row)

    def _compare_marked(self, index: int, row: _Row) -> None:
        """Require that a certificate that is marked has an entry which revokes it; the other way is `_compare_revocation`."""
        table = Tables.entries
        body = self._connection.execute(sa.select(table.c.body).where(table.c.index == row.revoked_by)).scalar()
        try:
            facts = None if body is None else decode_entry_untrusted(bytes(body))
        except DecodeError:
            facts = None
        if facts is None or (facts.kind, facts.serial, facts.time_ms) != (
            "revocation",
            row.stored.serial,
            row.revoked_at_ms,
        ):
            self._find(
                "revocation-changed",
                index,
                f"the certificate of entry {index}: found it revoked, want an entry that revokes it",
            )

    def _compare_revocation(self, index: int, facts: Facts) -> None:
        table = Tables.certificates
        wanted = sa.select(table.c.revoked_at_ms, table.c.revoked_by, table.c.reason)
        row = self._connection.execute(wanted.where(table.c.serial == as_key(facts.serial or 0))).first()
        if row is None:
            self._find(
                "certificate-missing", index, f"entry {index}: found no row of the certificate it revokes, want one"
            )
        elif (row.revoked_at_ms, row.revoked_by, row.reason or None) != (facts.time_ms, index, facts.reason):
            self._find(
                "revocation-changed", index, f"entry {index}: found its certificate not revoked as it says, want it so"
            )

    def _unentered(self, index: int, serial: int) -> None:
        self._find(
            "certificate-without-entry",
            index,
            f"certificate {serial:x}: found no entry {index} that issues it, want one",
        )

    def _compare_counts(self, size: int) -> None:
        table = Tables.certificates
        beyond = sa.select(table.c.entry, table.c.serial).where((table.c.entry < 0) | (table.c.entry >= size))
        for row in self._connection.execute(beyond.limit(MAX_FINDINGS)):
            self._unentered(row.entry, int.from_bytes(row.serial))
        entries = self._count(Tables.entries, Tables.entries.c.index < 0)
        hashes = self._count(Tables.hashes)
        missing = sum(each.kind == "hash-missing" for each in self._findings)
        wanted = size - size.bit_count()
        if entries or (not self._more and hashes + missing > wanted):
            self._find("surplus-rows", None, f"found {entries + hashes - wanted} rows more than the log has, want none")

    def _count(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        return self._connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar() or 0

    # --- Proofs

    def _prove(self, size: int) -> tuple[bytes, ...]:
        """Prove to ourselves what others would be shown: that the log goes on from what was kept, and has the certificate."""

        def read(level: int, index: int) -> bytes:
            return read_hash(self._connection, level, index)

        newest = None if self._newest is None else self._newest[1]
        for kept in self._kept:
            self._prove_kept(kept, newest, size, read)
        if self._certificate is None:
            return ()
        index = self._certificate_index
        if index is None or newest is None or index >= newest.size:
            self._find("not-included", None, "the certificate: found no signed entry that issues it, want one")
            return ()
        try:
            path = inclusion_proof(index, newest.size, read)
            verify_inclusion(read(0, index), index, newest.size, path, newest.root)
        except VerificationError as error:
            self._find("not-included", index, f"the certificate of entry {index}: {error}")
            return ()
        return tuple(path)

    def _prove_kept(self, kept: Checkpoint, newest: Checkpoint | None, size: int, read: ReadHash) -> None:
        if newest is None or not kept.size <= newest.size <= size:
            return
        try:
            proof = consistency_proof(kept.size, newest.size, read)
            verify_consistency(kept.size, newest.size, kept.root, newest.root, proof)
        except VerificationError as error:
            if not any(each.kind == "history-forked" for each in self._findings):
                self._find("history-forked", kept.size - 1, str(error))


def _types_of(column: sa.Column[Any]) -> tuple[str, ...]:
    """Return what SQLite calls the types that a column's values have."""
    if isinstance(column.type, sa.LargeBinary):
        kind = "blob"
    else:
        kind = "text" if isinstance(column.type, sa.Text) else "integer"
    return (kind, "null") if column.nullable else (kind,)


def _range(level: int, index: int) -> str:
    return _entries(index << level, (index + 1) << level)


def _entries(begin: int, end: int) -> str:
    return f"entry {begin}" if end - begin == 1 else f"entries {begin} to {end - 1}"
