# SPDX-License-Identifier: Apache-2.0
"""The emulated processor's reports have AMD's layout and its signatures hold."""

from __future__ import annotations

import pytest

from enarx.abi.snp import (
    ARK_GUID,
    ASK_GUID,
    VCEK_GUID,
    VLEK_GUID,
    parse_certificate_table_untrusted,
    parse_report_untrusted,
    tcb_components,
)
from enarx.emulator.report import CPUIDS, make_report, make_tcb
from enarx.testing.snp import AT, FakeAmd

PRODUCTS = [("Milan", "Milan"), ("Genoa", "Genoa"), ("Genoa", "Siena"), ("Turin", "Turin")]


@pytest.mark.parametrize(("line", "product"), PRODUCTS)
@pytest.mark.parametrize("version", [2, 3, 5])
def test_fills_in_reports_of_every_version_and_product(line, product, version):
    processor = FakeAmd(line).make_processor(product)
    report = parse_report_untrusted(processor.report(b"nonce", version=version).serialise())
    assert report.reserved_fields == frozenset()
    assert report.product == (product if version >= 3 else None)
    assert report.report_data == b"nonce".ljust(64, b"\0")
    assert report.chip_id == processor.chip_id
    assert report.signing_key == "VCEK"
    assert any(report.signature_r)


def test_turins_chip_number_has_eight_bytes():
    processor = FakeAmd("Turin").make_processor()
    assert len(processor.hwid) == 8
    assert processor.chip_id == processor.hwid + bytes(56)


def test_a_vlek_signs_for_a_chip_that_is_not_named():
    processor = FakeAmd().make_processor(csp_id="CN=cloud.example")
    report = processor.report()
    assert report.signing_key == "VLEK"
    assert not any(report.chip_id)


def test_derives_one_key_for_each_tcb_version():
    processor = FakeAmd().make_processor()
    low, high = make_tcb("Milan", snp=1), make_tcb("Milan", snp=2)
    assert processor.key_for(low).private_numbers() == processor.key_for(low).private_numbers()
    assert processor.key_for(low).private_numbers() != processor.key_for(high).private_numbers()


def test_chips_differ():
    amd = FakeAmd()
    assert amd.make_processor(chip="a").chip_id != amd.make_processor(chip="b").chip_id
    assert amd.make_processor(chip="a").chip_id == amd.make_processor(chip="a").chip_id


def test_lays_a_tcb_out_as_the_product_does():
    assert tcb_components(make_tcb("Turin", fmc=9, snp=7), "Turin")["fmc"] == 9
    assert make_tcb("Milan", bootloader=1, tee=2, snp=3, microcode=4) == bytes((1, 2, 0, 0, 0, 0, 3, 4))
    with pytest.raises(ValueError, match="found fmc, want components of Milan"):
        make_tcb("Milan", fmc=1)


@pytest.mark.parametrize(("csp_id", "guid"), [(None, VCEK_GUID), ("CN=cloud.example", VLEK_GUID)])
def test_writes_an_extended_report(csp_id, guid):
    processor = FakeAmd().make_processor(csp_id=csp_id)
    data, table = processor.extended_report(b"nonce", at=AT)
    assert parse_report_untrusted(data).report_data.startswith(b"nonce")
    entries = parse_certificate_table_untrusted(table)
    assert [each for each, _ in entries] == [guid, ASK_GUID, ARK_GUID]
    assert entries[2][1] == processor.vendor.ark.certificate


def test_refuses_a_chip_of_another_line():
    with pytest.raises(ValueError, match="found Turin, want a product of Milan"):
        FakeAmd("Milan").make_processor("Turin")


def test_an_unsigned_report_has_no_signature():
    report = make_report("Genoa", 5, vmpl=2)
    assert (report.vmpl, report.cpuid_family) == (2, CPUIDS["Genoa"][0])
    assert not any(report.signature_r + report.signature_s)
