# SPDX-License-Identifier: Apache-2.0
"""Azure's SNP machines: evidence that the verifier accepts, and what of a TPM is none."""

from __future__ import annotations

import hashlib

import pytest

from enarx.attester import find_attester
from enarx.attester.attested import AZURE_EVIDENCE
from enarx.attester.azure import AK_HANDLE, HCL_INDEX, AzureAttester, find_azure
from enarx.errors import DecodeError, PlatformError
from enarx.rats import Endorsements
from enarx.testing.attesters_tpm import FakeTpmDevice
from enarx.testing.snp import FakeAmd
from enarx.testing.tpm import AT, FakeTpm, make_hcl_report, make_runtime_data
from tests.unit.attester.judging import REPORT_DATA, assert_judged, assert_marked

AMD = FakeAmd()


def make_machine(*, persistent=(AK_HANDLE,), report_type=2, report=None, **changes):
    """Return a device like that of a machine of Azure's."""
    tpm = FakeTpm("azure", **changes)
    tpm.boot()
    runtime = make_runtime_data(tpm)
    bound = hashlib.sha256(runtime).digest().ljust(64, b"\0")
    case = AMD.make_case(report={"report_data": bound})
    hardware = case.data if report_type == 2 else bytes(128) + bound
    made = make_hcl_report(hardware, runtime, report_type=report_type) if report is None else report
    # The index is larger than the report in it.
    return FakeTpmDevice(tpm, persistent=persistent, nv={HCL_INDEX: made.ljust(2900, b"\0")}), case


def test_evidence_is_accepted_with_amds_certificates_from_elsewhere():
    device, case = make_machine()
    attester = find_azure(device.machine())
    assert (attester.backend, attester.media_type, attester.register.name) == ("snp", AZURE_EVIDENCE, "TPM PCR 15")
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, AZURE_EVIDENCE)
    result = assert_judged(
        attested,
        at=AT,
        anchors=AMD.anchors,
        endorsements=Endorsements(certificates=case.certificates),
        freshness="azure.nonce",
    )
    assert result.tee == "azure-snp"


def test_it_is_found_before_the_tpm_alone():
    device, _ = make_machine()
    assert isinstance(find_attester(system=device.machine()), AzureAttester)
    assert isinstance(find_attester(system=device.machine(), backend="snp"), AzureAttester)
    assert find_attester(system=device.machine(), backend="vm").backend == "vm"


@pytest.mark.parametrize(
    "device",
    [
        FakeTpmDevice(FakeTpm(kind="ecc")),
        FakeTpmDevice(FakeTpm(kind="ecc"), nv={HCL_INDEX: b"something else" * 200}),
        FakeTpmDevice(FakeTpm(kind="ecc"), nv={HCL_INDEX: bytes(20_000)}),
        make_machine(report_type=4)[0],
    ],
)
def test_another_tpm_is_none(device):
    assert find_azure(device.machine()) is None
    assert find_attester(system=device.machine()).backend == "vm"


def test_a_machine_without_a_tpm_is_none():
    device, _ = make_machine()
    system = device.machine()
    system.devices = {}
    assert find_azure(system) is None


def test_a_tpm_that_does_not_let_it_be_read_is_said():
    device, _ = make_machine()
    device.code = 0x921
    with pytest.raises(PlatformError, match="command 0x169: found a TPM that is locked"):
        find_azure(device.machine())


def test_an_index_that_went_is_said():
    device, _ = make_machine()
    attester = find_azure(device.machine())
    device.nv = {}
    with pytest.raises(PlatformError, match="NV index 0x1400001: found none, want the HCL report"):
        attester.attest(REPORT_DATA)


def test_a_machine_without_the_key_is_said():
    device, _ = make_machine(persistent=())
    with pytest.raises(PlatformError, match="command 0x173: found a refusal"):
        find_azure(device.machine()).attest(REPORT_DATA)


def test_a_key_of_another_kind_is_refused():
    device, _ = make_machine()
    device.tpm = FakeTpm(kind="ecc")
    with pytest.raises(DecodeError, match="a signature by ecdsa with sha256, want rsassa"):
        AzureAttester(device.machine()).attest(REPORT_DATA)


def test_a_report_that_is_none_by_then_is_refused():
    device, _ = make_machine()
    attester = find_azure(device.machine())
    device.nv = {HCL_INDEX: bytes(2900)}
    with pytest.raises(DecodeError, match="HCL report"):
        attester.attest(REPORT_DATA)
