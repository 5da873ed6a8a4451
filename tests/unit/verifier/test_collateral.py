# SPDX-License-Identifier: Apache-2.0
"""Intel's documents: their form, their signatures and their times."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.rats import Verdict
from enarx.testing.dcap import AT, SGX, TDX, make_qe_identity, make_tcb_info
from enarx.verifier.collateral import MAX_DOCUMENT_BYTES, parse_qe_identity_untrusted, parse_tcb_info_untrusted
from tests.unit.verifier.dcap_judging import PLATFORM, TEES, intel, judge, not_passed

BOTH = pytest.mark.parametrize("tee", TEES)
SIGNATURE = "00" * 64


def wrap(member, document):
    return json.dumps({member: document, "signature": SIGNATURE}).encode()


def read_tcb_info(document):
    return parse_tcb_info_untrusted(wrap("tcbInfo", document))[0]


@BOTH
def test_reads_tcb_info(tee):
    info = read_tcb_info(make_tcb_info(tee, PLATFORM))
    assert (info.tee, info.fmspc, info.pce_id, info.tcb_type) == (tee, PLATFORM.fmspc, PLATFORM.pce_id, 0)
    assert [level.status for level in info.levels] == ["UpToDate", "OutOfDate", "OutOfDate"]
    assert info.levels[0].components == PLATFORM.components
    assert info.levels[0].date == datetime(2025, 11, 12, tzinfo=UTC)
    assert [module.id for module in info.modules] == ([] if tee == SGX else ["TDX_03", "TDX_01"])


def test_reads_tcb_info_of_version_2():
    document = make_tcb_info(SGX, PLATFORM) | {"version": 2}
    del document["id"]
    for level in document["tcbLevels"]:
        components = level["tcb"].pop("sgxtcbcomponents")
        level["tcb"] |= {f"sgxtcbcomp{index + 1:02d}svn": each["svn"] for index, each in enumerate(components)}
    assert read_tcb_info(document).levels == read_tcb_info(make_tcb_info(SGX, PLATFORM)).levels
    assert judge(SGX, collateral={"tcb_info": document}).verdict is Verdict.ACCEPTED


@BOTH
def test_reads_a_qe_identity(tee):
    identity = parse_qe_identity_untrusted(wrap("enclaveIdentity", make_qe_identity(tee)))[0]
    assert identity.id == ("QE" if tee == SGX else "TD_QE")
    assert [level.isv_svn for level in identity.levels] == [8, 6]


def test_the_signed_bytes_are_those_that_were_received():
    inner = b'{ "id":"SGX","b":[1, 2 ,{"tcbInfo":"inner"}], "signature":"x" }'
    document = json.loads(inner)
    for text in (
        b'{"tcbInfo":%s,"signature":"%s"}',
        b'\xef\xbb\xbf \n{ "signature" : "%.0s%s" ,\t"tcbInfo" : %s } \n\0\0',
        b'{"x":{"tcbInfo":0},"tcbInfo": %s,"signature":"%s","y":[]}',
    ):
        if text.startswith(b"\xef"):
            data = (
                b'\xef\xbb\xbf \n{ "signature" : "' + SIGNATURE.encode() + b'" ,\t"tcbInfo" : ' + inner + b" } \n\0\0"
            )
        else:
            data = text % (inner, SIGNATURE.encode())
        from enarx.verifier.collateral import _bytes_of_member

        assert _bytes_of_member(data, "tcbInfo") == inner
        assert json.loads(_bytes_of_member(data, "tcbInfo")) == document


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 1}, "version"),
        ({"version": True}, "version"),
        ({"version": 3.0}, "version"),
        ({"id": "SNP"}, "id"),
        ({"issueDate": "2026-06-01T00:00:00+02:00"}, "issueDate"),
        ({"issueDate": "2026-06-01T00:00:00"}, "issueDate"),
        ({"issueDate": "2026-13-01T00:00:00Z"}, "issueDate"),
        ({"nextUpdate": 1780272000}, "nextUpdate"),
        ({"fmspc": "00"}, "fmspc"),
        ({"fmspc": "0x0000000000"}, "fmspc"),
        ({"pceId": None}, "pceId"),
        ({"tcbType": -1}, "tcbType"),
        ({"tcbEvaluationDataNumber": 1 << 32}, "tcbEvaluationDataNumber"),
        ({"tcbEvaluationDataNumber": "20"}, "tcbEvaluationDataNumber"),
        ({"tcbLevels": []}, "tcbLevels"),
        ({"tcbLevels": {}}, "tcbLevels"),
        ({"tcbLevels": [1]}, "tcbLevels"),
        ({"tcbLevels": [{}] * 1025}, "tcbLevels"),
        ({"tdxModule": None}, "tdxModule"),
        ({"tdxModuleIdentities": [{}]}, "id"),
    ],
)
def test_refuses_tcb_info_of_another_form(change, what):
    document = make_tcb_info(TDX, PLATFORM)
    assert read_tcb_info(document)
    with pytest.raises(DecodeError, match=what):
        read_tcb_info(document | change)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("tcb", "pcesvn"), 65536, "pcesvn"),
        (("tcb", "sgxtcbcomponents"), [{"svn": 1}] * 15, "sgxtcbcomponents"),
        (("tcb", "sgxtcbcomponents"), [{"svn": 256}] * 16, "svn"),
        (("tcb", "tdxtcbcomponents"), None, "tdxtcbcomponents"),
        (("tcbDate",), "2025-11-12", "tcbDate"),
        (("tcbStatus",), "", "tcbStatus"),
        (("advisoryIDs",), "INTEL-SA-1", "advisoryIDs"),
        (("advisoryIDs",), [1], "advisoryIDs"),
    ],
)
def test_refuses_a_level_of_another_form(path, value, what):
    document = make_tcb_info(TDX, PLATFORM)
    level = document["tcbLevels"][0]
    for name in path[:-1]:
        level = level[name]
    level[path[-1]] = value
    with pytest.raises(DecodeError, match=what):
        read_tcb_info(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":1,"signature":"00"}',
        b'{"tcbInfo":{"version":NaN},"signature":""}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":""}',
        b'{"tcbInfo":{"id":"SGX","id":"TDX"},"signature":""}',
        b'{"tcbInfo":' + b"[" * 100_000,
        b'{"tcbInfo":{"version":' + b"9" * 100_000 + b'},"signature":""}',
        b" " * (MAX_DOCUMENT_BYTES + 1),
        b"\xff{}",
    ],
)
def test_refuses_what_is_no_document(data):
    with pytest.raises(DecodeError):
        parse_tcb_info_untrusted(data)


def test_refuses_a_signature_of_another_size():
    document = make_tcb_info(SGX, PLATFORM)
    with pytest.raises(DecodeError, match="signature"):
        parse_tcb_info_untrusted(json.dumps({"tcbInfo": document, "signature": "00" * 63}).encode())


GOOD = intel().make_collateral(TDX, PLATFORM).tcb_info


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_tcb_info_or_a_decode_error(offset, patch):
    try:
        parse_tcb_info_untrusted(GOOD[:offset] + patch + GOOD[offset + len(patch) :])
    except DecodeError:
        return


# Signatures and times, through the verifier.


@BOTH
@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_refuses_a_document_that_was_changed_after_it_was_signed(tee, document):
    good = intel().make_collateral(tee, PLATFORM)
    changed = getattr(good, document).replace(b'"tcbEvaluationDataNumber":20', b'"tcbEvaluationDataNumber":21')
    assert changed != getattr(good, document)
    result = judge(tee, sets=(replace(good, **{document: changed}),))
    assert not_passed(result) == {f"{document}.signature"}
    assert (result.verdict, result.tcb_status) == (Verdict.NOT_AUTHENTIC, None)


@BOTH
@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_refuses_a_document_of_another_signer(tee, document):
    good, other = (intel(name).make_collateral(tee, PLATFORM) for name in ("test", "another"))
    parts = {document: getattr(other, document), f"{document}_chain": getattr(other, f"{document}_chain")}
    assert f"{document}.chain.anchor" in not_passed(judge(tee, sets=(replace(good, **parts),)))
    signed = getattr(intel(), f"sign_{document}")
    text = make_tcb_info(tee, PLATFORM) if document == "tcb_info" else make_qe_identity(tee)
    parts = {
        document: signed(text, signer=intel().platform_ca),
        f"{document}_chain": (intel().platform_ca.der, intel().root.der),
    }
    assert not_passed(judge(tee, sets=(replace(good, **parts),))) == {f"{document}.signer"}


@BOTH
def test_takes_the_signers_certificates_in_any_order_and_needs_them(tee):
    good = intel().make_collateral(tee, PLATFORM)
    turned = replace(good, tcb_info_chain=good.tcb_info_chain[::-1])
    assert judge(tee, sets=(turned,)).verdict is Verdict.ACCEPTED
    result = judge(tee, sets=(replace(good, tcb_info_chain=()),))
    assert (not_passed(result), result.verdict) == ({"tcb_info.chain.anchor"}, Verdict.UNDECIDED)


@BOTH
@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_a_document_of_another_time_is_a_doubt(tee, document):
    for since, until, expected in (
        (AT, AT, set()),
        (AT - timedelta(days=2), AT - timedelta(seconds=1), {f"{document}.window"}),
        (AT + timedelta(seconds=1), AT + timedelta(days=2), {f"{document}.window"}),
    ):
        if document == "tcb_info":
            text = make_tcb_info(tee, PLATFORM, since=since, until=until)
        else:
            text = make_qe_identity(tee, since=since, until=until)
        result = judge(tee, collateral={document: text})
        assert not_passed(result) == expected
        assert result.verdict is (Verdict.UNDECIDED if expected else Verdict.ACCEPTED)
