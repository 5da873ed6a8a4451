# SPDX-License-Identifier: Apache-2.0
"""The fake AMD's cases are what they say; what they are for is in `tests/unit/verifier/test_snp.py`."""

from __future__ import annotations

import dataclasses
import hashlib

from enarx.abi.snp import parse_report_untrusted
from enarx.crypto.certificates import load_certificate_untrusted as load
from enarx.crypto.certificates import load_crl_untrusted, name_of
from enarx.testing.snp import AT, FakeAmd
from enarx.verifier import TrustCache, pinned_anchors
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.snp import JUDGE


def is_accepted(case) -> bool:
    ledger = Ledger()
    JUDGE.examine(case.parsed, case.endorsements, Setting(at=case.at, anchors=case.anchors, cache=TrustCache()), ledger)
    return all(finding.outcome in {"passed", "noted"} for finding in ledger.findings)


def test_makes_a_case_that_is_accepted():
    case = FakeAmd().make_case()
    assert is_accepted(case)
    assert parse_report_untrusted(case.data) == case.report
    assert [name_of(load(der)) for der in case.certificates] == ["SEV-VCEK", "SEV-Milan", "ARK-Milan"]


def test_makes_a_case_that_nobody_else_accepts():
    case = FakeAmd().make_case()
    assert not is_accepted(dataclasses.replace(case, anchors=pinned_anchors()))
    assert not is_accepted(dataclasses.replace(case, anchors=FakeAmd(owner="somebody else").anchors))


def test_makes_what_a_case_is_told_to_have():
    case = FakeAmd("Genoa").make_case(product="Siena", version=5, csp_id="CN=x", report={"vmpl": 3}, name="SEV-X")
    assert (case.report.version, case.report.vmpl, case.report.product) == (5, 3, "Siena")
    assert [name_of(load(der)) for der in case.certificates] == ["SEV-X", "SEV-VLEK-Genoa", "ARK-Genoa"]


def test_owners_have_keys_of_their_own_and_keep_them():
    key = load(FakeAmd().root).public_key().public_numbers()
    assert load(FakeAmd("Turin").root).public_key().public_numbers() == key
    assert load(FakeAmd(owner="somebody else").root).public_key().public_numbers() != key


def test_an_emulated_anchor_is_the_roots_digest():
    amd = FakeAmd()
    assert amd.emulated_anchors.insecure_emulated == {hashlib.sha256(amd.root).digest()}
    assert not amd.emulated_anchors.amd


def test_makes_lists_that_revoke_by_name():
    amd = FakeAmd()
    crl = load_crl_untrusted(amd.make_crl(revoked=["ask"]))
    serial = load(amd.vendor.ask.certificate).serial_number
    assert crl.get_revoked_certificate_by_serial_number(serial) is not None
    assert crl.next_update_utc > AT
