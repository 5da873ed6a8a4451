# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import timedelta

import pytest

from enarx.crypto.cbor import encode
from enarx.errors import DecodeError
from enarx.steward.entries import encode_entry
from enarx.steward.issued import Issued, fit, kept_digest
from tests.cddl import schema
from tests.unit.steward.issued_rows import AT, entry_of, make_certificate, row_of

ROW = row_of(7)
BODY = entry_of(ROW).body


def test_what_was_logged_together_fits():
    assert fit(BODY, ROW) == Issued(ROW, make_certificate(7)[0])


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("serial", 8, "serial number"),
        ("not_after", ROW.not_after + timedelta(days=1), "end"),
        ("evidence", b"other", "evidence"),
        ("endorsements", (b"one",), "endorsement"),
        ("endorsements", (b"onetwo",), "endorsement"),
        ("endorsements", (), "endorsement"),
        ("receipt", b"other", "receipt"),
        ("spki", make_certificate(8)[1], "key"),
        ("report_data", bytes(63) + b"\1", "report data"),
        ("report_data", bytes(63), "report data"),
    ],
)
def test_what_was_changed_does_not_fit_and_is_named(field, value, what):
    with pytest.raises(DecodeError, match=f"found another .*{what}"):
        fit(BODY, ROW._replace(**{field: value}))


def test_bytes_cannot_move_from_one_column_to_the_next():
    moved = ROW._replace(receipt=ROW.receipt[:-1], report_data=ROW.receipt[-1:] + ROW.report_data)
    with pytest.raises(DecodeError, match="receipt"):
        fit(BODY, moved)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (None, "no entry"),
        (b"x", "cannot decode"),
        (encode_entry(kind="result", at=AT), "kind result"),
        (encode_entry(kind="certificate", at=AT, serial=7, kept_sha256=ROW.kept_sha256), "issues none"),
        (
            encode_entry(kind="certificate", at=AT, serial=7, certificate=b"x", kept_sha256=ROW.kept_sha256),
            "certificate",
        ),
        (encode_entry(kind="certificate", at=AT, serial=7, certificate=make_certificate(7)[0]), "another evidence"),
        (entry_of(row_of(8)).body, "serial"),
    ],
)
def test_without_its_own_entry_nothing_fits(body, found):
    with pytest.raises(DecodeError, match=found):
        fit(body, ROW)


def test_the_digest_is_of_what_the_cddl_says():
    kept = [ROW.evidence, encode(list(ROW.endorsements)), ROW.receipt, ROW.spki, ROW.report_data]
    schema("steward-log", "kept").validate_cbor(encode(kept))
    assert kept_digest(*kept) == ROW.kept_sha256
