# SPDX-License-Identifier: Apache-2.0
"""/dev/sev-guest: the ioctls, the hypervisor's and the firmware's errors, and the certificate table."""

from __future__ import annotations

import errno

import pytest

from enarx.attester.attested import CERTIFICATE_TABLE, SNP_REPORT
from enarx.attester.sev_guest import SevGuestAttester, find_sev_guest
from enarx.errors import PlatformError, UsageError
from enarx.rats import Endorsements
from enarx.testing.attesters import FakeFile, FakeSevGuest, FakeSystem, snp_source
from enarx.testing.snp import AT, FakeAmd
from tests.unit.attester.judging import OTHER_DATA, REPORT_DATA, assert_judged, assert_marked, judge, record

AMD = FakeAmd()
SOURCE = snp_source(AMD)


def with_table_of(size):
    """A host whose table has this many bytes; zeros follow what is in it."""

    def make(report_data, vmpl):
        report, table = SOURCE(report_data, vmpl)
        return report, table.ljust(size, b"\0")

    return make


def machine(device):
    return FakeSystem({"/dev/sev-guest": device})


def assert_fails(device, *words, hint=None, vmpl=0):
    system = machine(device)
    with pytest.raises(PlatformError) as caught:
        SevGuestAttester(system, vmpl=vmpl).attest(REPORT_DATA)
    for word in words:
        assert word in str(caught.value)
    if hint is not None:
        assert hint in caught.value.hint
    assert system.files == {}
    return system


def test_evidence_is_accepted_with_the_hosts_certificates():
    device = FakeSevGuest(SOURCE)
    system = machine(device)
    attester = find_sev_guest(system)
    assert (attester.backend, attester.media_type, attester.register) == ("snp", SNP_REPORT, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, SNP_REPORT)
    assert [record(each).type for each in attested.endorsements] == [CERTIFICATE_TABLE]
    assert_judged(attested, at=AT, anchors=AMD.anchors, freshness="snp.report_data")
    assert device.calls == [FakeSevGuest.GET_EXT_REPORT]
    assert system.files == {}


def test_a_host_without_certificates_gives_a_report_alone():
    attested = SevGuestAttester(machine(FakeSevGuest(snp_source(AMD, with_table=False)))).attest(REPORT_DATA)
    assert attested.endorsements == ()
    along = Endorsements(certificates=AMD.make_case().certificates)
    assert_judged(attested, at=AT, anchors=AMD.anchors, freshness="snp.report_data", endorsements=along)


@pytest.mark.parametrize("size", [0x4001, 0x8000, 0x40000])
def test_a_larger_table_is_asked_for_again_with_the_size_that_it_has(size):
    device = FakeSevGuest(with_table_of(size))
    device.max_table_bytes = 0x40000
    attested = SevGuestAttester(machine(device)).attest(REPORT_DATA)
    assert device.calls == [FakeSevGuest.GET_EXT_REPORT] * 2
    assert_judged(attested, at=AT, anchors=AMD.anchors, freshness="snp.report_data")


@pytest.mark.parametrize(("size", "limit"), [(0x40001, 0x100000), (0x8000, 0x4000), (0x2000, 0x2000)])
def test_a_table_that_cannot_be_had_is_done_without(size, limit):
    """Larger than we take, than the kernel passes on, or a kernel that passes on less than we ask for."""
    device = FakeSevGuest(with_table_of(size))
    device.max_table_bytes = limit
    attested = SevGuestAttester(machine(device)).attest(REPORT_DATA)
    assert attested.endorsements == ()
    assert device.calls[-1] == FakeSevGuest.GET_REPORT
    assert len(device.calls) <= 3


@pytest.mark.parametrize("times", [1, 4])
def test_a_busy_hypervisor_is_asked_again(times):
    device = FakeSevGuest(SOURCE)
    device.busy = times
    system = machine(device)
    assert_judged(SevGuestAttester(system).attest(REPORT_DATA), at=AT, anchors=AMD.anchors, freshness="snp.report_data")
    assert system.slept == [2.0] * times


def test_a_hypervisor_that_stays_busy_is_given_up():
    device = FakeSevGuest(SOURCE)
    device.busy = 1000
    system = assert_fails(device, "found a busy hypervisor 5 times", hint="try again later")
    assert len(device.calls) == 5
    assert sum(system.slept) == 8.0


def test_a_firmware_error_is_told_with_its_number_and_the_key_is_gone_then():
    device = FakeSevGuest(SOURCE)
    device.firmware_error = 0x0B
    assert_fails(device, "(EIO)", "hypervisor error 0x0, firmware error 0xb")
    assert_fails(device, "a device without a key (ENOTTY)", hint="start the machine again")


def test_a_hypervisor_error_is_the_high_half():
    device = FakeSevGuest(SOURCE)
    device.firmware_error = 7 << 32 | 3
    assert_fails(device, "hypervisor error 0x7, firmware error 0x3")


@pytest.mark.parametrize(
    ("status", "words"), [(0x16, "an invalid parameter"), (0x27, "key selection"), (0x99, "unknown")]
)
def test_a_firmware_status_is_told(status, words):
    device = FakeSevGuest(SOURCE)
    device.status = status
    assert_fails(device, f"firmware status: found {status:#x}, ", words)


@pytest.mark.parametrize("size", [0, 1183, 1185, 4000, 0xFFFFFFFF])
def test_a_report_of_another_size_is_refused(size):
    device = FakeSevGuest(SOURCE)
    device.report_size = size
    assert_fails(device, f"size of the report: found {size} bytes, want 1184")


def test_a_report_is_for_the_level_that_is_asked_for():
    attested = SevGuestAttester(machine(FakeSevGuest(SOURCE, floor=1)), vmpl=2).attest(REPORT_DATA)
    assert judge(attested, at=AT, anchors=AMD.anchors).subject.report.vmpl == 2
    assert_fails(FakeSevGuest(SOURCE, floor=1), "an invalid parameter")
    for vmpl in (-1, 4):
        with pytest.raises(PlatformError, match=f"VMPL: found {vmpl}, want 0 to 3"):
            SevGuestAttester(machine(FakeSevGuest(SOURCE)), vmpl=vmpl)


def test_refuses_a_report_over_other_data():
    assert_fails(FakeSevGuest(lambda _, vmpl: SOURCE(OTHER_DATA, vmpl)), "found a report over other report data")


def test_refuses_report_data_of_another_size():
    with pytest.raises(UsageError, match="found 48 bytes, want 64"):
        SevGuestAttester(machine(FakeSevGuest(SOURCE))).attest(bytes(48))


@pytest.mark.parametrize(
    ("number", "words", "hint"),
    [(errno.EACCES, "permission denied (EACCES)", "root"), (errno.ENODEV, "no such device (ENODEV)", None)],
)
def test_a_device_that_does_not_open_is_said(number, words, hint):
    assert_fails(FakeFile(error=number), f"/dev/sev-guest: found {words}", hint=hint)


def test_finds_it_where_it_is():
    assert find_sev_guest(FakeSystem({})) is None
    assert find_sev_guest(machine(FakeFile(error=errno.ENODEV))) is None
    assert find_sev_guest(machine(FakeFile(error=errno.EACCES))) is not None
