# SPDX-License-Identifier: Apache-2.0
"""Gramine's files: quotes of an enclave, and what its manifest and its threads can spoil."""

from __future__ import annotations

import errno
import threading

import pytest

from enarx.attester.attested import SGX_QUOTE
from enarx.attester.gramine import _ONE_AT_A_TIME, GramineAttester, find_gramine
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.rats import Endorsements, TrustAnchors
from enarx.testing.attesters import FakeFile, FakeGramine, FakeSystem
from enarx.testing.dcap import AT, SGX, FakeIntel, Platform, TdReport
from tests.unit.attester.judging import OTHER_DATA, REPORT_DATA, assert_judged, assert_marked, record

INTEL, PLATFORM = FakeIntel(), Platform()
ANCHORS = TrustAnchors(intel=(INTEL.root.der,))
COLLATERAL = Endorsements(intel=(INTEL.make_collateral(SGX, PLATFORM),))


def gramine(**options):
    return FakeGramine(INTEL, PLATFORM, **options)


def machine(device):
    return FakeSystem({"/dev/attestation": device})


def test_evidence_is_accepted():
    system = machine(gramine())
    attester = find_gramine(system)
    assert (attester.backend, attester.media_type, attester.register) == ("sgx", SGX_QUOTE, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, SGX_QUOTE)
    assert_judged(attested, at=AT, anchors=ANCHORS, freshness="sgx.report_data", endorsements=COLLATERAL)
    assert system.files == {}


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_a_manifest_without_dcap_is_said(kind):
    with pytest.raises(PlatformError, match=f"attestation_type: found '{kind}', want 'dcap'") as caught:
        GramineAttester(machine(gramine(kind=kind))).attest(REPORT_DATA)
    assert "sgx.remote_attestation" in caught.value.hint


def test_a_platform_that_refuses_is_said():
    device = gramine()
    device.error = errno.EACCES
    with pytest.raises(PlatformError, match=r"a refusal by the enclave's platform \(EACCES\)") as caught:
        GramineAttester(machine(device)).attest(REPORT_DATA)
    assert "AESM" in caught.value.hint


def test_a_quote_over_another_threads_data_is_refused():
    device = gramine()
    device.in_between = lambda: setattr(device, "user_report_data", OTHER_DATA)
    with pytest.raises(PlatformError, match="over other report data"):
        GramineAttester(machine(device)).attest(REPORT_DATA)


def test_threads_of_ours_wait_for_each_other():
    device, held = gramine(), []
    system = machine(device)
    device.in_between = lambda: held.append(_ONE_AT_A_TIME.locked())
    results = {}

    def ask(index):
        results[index] = GramineAttester(system).attest(bytes([index]) * 64)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held == [True] * 8
    for index, attested in results.items():
        assert record(attested.evidence).value[48 + 320 : 48 + 384] == bytes([index]) * 64


class Quoting(FakeGramine):
    """Returns what it is told for a quote."""

    def __init__(self, quote):
        super().__init__(INTEL, PLATFORM)
        self.quote = quote

    def open(self, rest, flags):
        return FakeFile(self.quote).open("", flags) if rest == "quote" else super().open(rest, flags)


def test_what_is_no_quote_is_refused():
    for data in (b"", bytes(1000)):
        with pytest.raises(DecodeError, match="cannot attest: /dev/attestation"):
            GramineAttester(machine(Quoting(data))).attest(REPORT_DATA)
    with pytest.raises(PlatformError, match="over other report data"):
        GramineAttester(machine(Quoting(INTEL.make_quote(TdReport(report_data=REPORT_DATA), PLATFORM)))).attest(
            REPORT_DATA
        )


def test_refuses_report_data_of_another_size():
    with pytest.raises(UsageError, match="found 65 bytes, want 64"):
        GramineAttester(machine(gramine())).attest(bytes(65))


def test_finds_it_where_it_is():
    assert find_gramine(FakeSystem({})) is None
