# SPDX-License-Identifier: Apache-2.0
"""What an attacker can send, through the public API: lookalikes, floods, and values at the ends of their ranges."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from enarx.errors import DecodeError, UsageError
from enarx.rats import MAX_EVIDENCE_BYTES, AppraisalPolicy, Evidence, TrustAnchors, Verdict
from enarx.testing.dcap import AT as INTEL_AT
from enarx.testing.dcap import TDX, FakeIntel, Platform, TdReport
from enarx.testing.nitro import NitroAuthority
from enarx.testing.snp import AT, FakeAmd
from enarx.verifier import recognise, verify, verify_evidence
from enarx.verifier.endorsement_files import read_endorsements
from tests.unit.verifier.pki import Node

NOTHING = {"report_data": bytes(64)}
_LIMIT_S = 5.0


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


def judge(case, **changes):
    given = {"at": case.at, "endorsements": case.endorsements, "anchors": case.anchors} | changes
    return verify_evidence(Evidence(data=case.data), **given)


# Freshness


def test_no_expected_byte_is_not_taken_for_zeros(amd):
    case = amd.make_case(report=NOTHING)
    assert judge(case).verdict is Verdict.ACCEPTED
    assert judge(case, report_data=b"\1").verdict is Verdict.REFUSED
    with pytest.raises(UsageError, match="report_data: found no byte"):
        judge(case, report_data=b"")


def test_an_expected_value_that_is_too_long_is_refused(amd):
    case = amd.make_case(report={"report_data": b"\7" * 64})
    assert judge(case, report_data=b"\7" * 64).verdict is Verdict.ACCEPTED
    for given in (b"\7" * 65, b"\7" * 63):
        assert judge(case, report_data=given).verdict is Verdict.REFUSED


# Policies and anchors


def test_a_policy_without_the_keys_of_its_tee_is_no_policy(amd):
    policy = AppraisalPolicy(name="half", expectations={}, tees=frozenset({"snp"}))
    with pytest.raises(UsageError, match=r"policy half: snp\.version: found no expectation"):
        judge(amd.make_case(), policy=policy)


def test_an_emulated_root_is_said_even_where_it_is_trusted_as_well(amd):
    both = dataclasses.replace(amd.emulated_anchors, amd=(amd.root,))
    result = judge(amd.make_case(), anchors=both)
    assert (result.verdict, result.emulated) == (Verdict.ACCEPTED, True)
    assert not judge(amd.make_case()).emulated


def test_a_root_of_the_same_names_is_not_the_emulated_one(amd):
    other = FakeAmd(owner="lookalike")
    assert judge(other.make_case(), anchors=amd.emulated_anchors).verdict is Verdict.NOT_AUTHENTIC


def test_of_several_veks_that_fit_one_that_holds_is_taken(amd):
    old = amd.make_case(at=AT - timedelta(days=80), lifetime=timedelta(days=1))
    forged = FakeAmd(owner="lookalike").make_case()
    case = amd.make_case()
    assert judge(case).verdict is Verdict.ACCEPTED
    assert judge(dataclasses.replace(case, certificates=old.certificates)).verdict is Verdict.NOT_AUTHENTIC
    for first in (old.certificates[0], forged.certificates[0]):
        assert judge(dataclasses.replace(case, certificates=(first, *case.certificates))).verdict is Verdict.ACCEPTED


# Times


@pytest.mark.parametrize(
    "at",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_a_time_that_utc_does_not_have_is_a_usage_error(at):
    quote = recognise(Evidence(data=FakeIntel().make_quote(TdReport(), Platform())))
    for call in (verify_evidence, verify):
        with pytest.raises(UsageError, match="years 1 to 9999"):
            call(quote, at=at)


def test_the_time_that_was_judged_for_is_told_in_utc(amd):
    result = judge(amd.make_case(), at=AT.astimezone(timezone(timedelta(hours=9))))
    assert result.at.tzinfo is UTC


def test_a_certificate_that_lasts_to_the_end_of_time_is_judged():
    authority = NitroAuthority(at=AT)
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for signed_at, verdict in ((AT, Verdict.ACCEPTED), (AT - timedelta(days=1), Verdict.NOT_AUTHENTIC)):
        data = authority.document(at=signed_at, leaf=authority.leaf(not_after=end))
        assert verify_evidence(Evidence(data=data), at=AT, anchors=authority.anchors).verdict is verdict


# Floods


def judge_quote(beside):
    intel, platform = FakeIntel(), Platform()
    quote = base64.b64encode(intel.make_quote(TdReport(), platform)).decode()
    data = json.dumps({"quote": quote, "beside": beside}).encode()
    return verify_evidence(Evidence(data=data), at=INTEL_AT, anchors=TrustAnchors(intel=(intel.root.der,)))


def test_the_certificates_that_evidence_brings_along_are_counted():
    ders = [base64.b64encode(Node(f"{number}", is_ca=None).der).decode() for number in range(257)]
    assert judge_quote({"chain": ders[:256]}).verdict is Verdict.UNDECIDED
    with pytest.raises(DecodeError, match="certificates beside it: found 257, want at most 256"):
        judge_quote({"chain": ders})


@pytest.mark.parametrize(("count", "is_refused"), [(16, False), (17, True)])
def test_sets_of_collateral_are_not_multiplied_without_end(count, is_refused):
    names = ("tcbInfo", "enclaveIdentity")
    files = [(name, json.dumps({name: number}).encode()) for number in range(count) for name in names]
    if not is_refused:
        assert len(read_endorsements(files).intel) == count * count
        return
    with pytest.raises(DecodeError, match="289 sets of collateral, want at most 256"):
        read_endorsements(files)


def test_collateral_inside_other_json_keeps_its_signatures():
    intel, platform = FakeIntel(), Platform()
    collateral = intel.make_collateral(TDX, platform)
    chain = [base64.b64encode(der).decode() for der in (*collateral.tcb_info_chain, *collateral.pck_crl_chain)]
    lists = [collateral.pck_crl.hex(), collateral.root_ca_crl.hex()]
    documents = [json.loads(collateral.tcb_info), json.loads(collateral.qe_identity)]
    result = judge_quote({"documents": documents, "chain": chain, "lists": lists})
    assert result.verdict is Verdict.ACCEPTED, [finding.line for finding in result.failures]


_M = MAX_EVIDENCE_BYTES
HOSTILE = {
    "hex": b"ab" * (_M // 2),
    "hex in hex": b"6162" * (_M // 4),
    "base64": b"QUJD" * (_M // 4),
    "spaces": b" " * (_M - 1) + b"a",
    "JSON numbers": b'{"quote":[' + b"1," * (_M // 2 - 10) + b"1]}",
    "JSON arrays": b"[" * _M,
    "JSON objects": b"[" + b"{}," * (_M // 3 - 2) + b"{}]",
    "JSON escapes": b'{"quote":"' + b"\\u0041" * ((_M - 20) // 6) + b'"}',
    "CBOR numbers": b"\x9a" + (_M - 5).to_bytes(4, "big") + b"\1" * (_M - 5),
    "CBOR without lengths": b"\x9f" + b"\x9f\xff" * ((_M - 2) // 2) + b"\xff",
    "CBOR floats": b"\x9a" + ((_M - 5) // 3).to_bytes(4, "big") + b"\xf9\x3c\0" * ((_M - 5) // 3),
    "CBOR tags": b"\x9f" + b"\xda\x63\x74\1\2\x41\1" * ((_M - 5) // 7) + b"\xff",
    "PEM": b"-----BEGIN CERTIFICATE-----\n" * (_M // 28),
    "DER": b"\x30\x83\xff\xff\xff" + bytes(_M - 5),
    "COSE": b"\xd2\x84\x44\xa1\1\x38\x22\xa0\x5a\0\x3f\xff\0" + bytes(_M - 13),
    "protobuf": b"\x0a\0" * (_M // 2),
    "quote": bytes.fromhex("03000200") + bytes(_M - 4),
    "wrappers": ((0).to_bytes(4, "little") + (1184).to_bytes(4, "little") + bytes(24)) * (_M // 32),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_largest_nonsense_is_refused_in_time(name):
    data = HOSTILE[name]
    assert _M - 40 < len(data) <= _M
    begin = time.process_time()
    with pytest.raises(DecodeError):
        recognise(Evidence(data=data))
    assert time.process_time() - begin < _LIMIT_S
