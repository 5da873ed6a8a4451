# SPDX-License-Identifier: Apache-2.0
"""The fake Intel, judged by somebody else's verifier: `dcap_qvl`, which shares nothing with us."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dcap_qvl
import pytest
from cryptography import x509

from enarx.testing.dcap import (
    AT,
    SGX,
    TDX,
    EnclaveReport,
    FakeIntel,
    Platform,
    TdReport,
    make_isv_level,
    make_qe_identity,
    make_qe_report,
    make_sgx_extension,
    make_tcb_info,
    make_tcb_level,
)
from tests.unit.verifier.dcap_cases import ask_oracle

INTEL = FakeIntel()
PLATFORM = Platform()
TDX_15 = TdReport(tee_tcb_svn2=TdReport().tee_tcb_svn)


def verdict(quote: bytes, collateral, at: datetime = AT):
    answer = ask_oracle(quote, collateral, INTEL.root.der, at)
    return answer.status if answer.accepted else answer.reason


@pytest.mark.parametrize("platform", [PLATFORM, Platform(instance_id=None, sgx_type=0)], ids=["platform", "processor"])
@pytest.mark.parametrize(
    ("body", "version", "size"),
    [(EnclaveReport(), 3, 384), (TdReport(), 4, 584), (TdReport(), 5, 584), (TDX_15, 5, 648)],
    ids=["sgx-3", "tdx-4", "tdx-5-1.0", "tdx-5-1.5"],
)
def test_writes_quotes_that_another_verifier_finds_up_to_date(platform, body, version, size):
    tee = SGX if version == 3 else TDX
    quote = INTEL.make_quote(body, platform, version=version)
    answer = ask_oracle(quote, INTEL.make_collateral(tee, platform), INTEL.root.der, AT)
    assert (answer.accepted, answer.status, answer.advisories) == (True, "UpToDate", frozenset())
    assert len(body.encode()) == size


def test_writes_the_same_bytes_each_time():
    assert FakeIntel().make_quote(TDX_15, PLATFORM) == INTEL.make_quote(TDX_15, PLATFORM)
    assert FakeIntel().make_collateral(TDX, PLATFORM) == INTEL.make_collateral(TDX, PLATFORM)


def test_another_name_is_a_rogue_that_the_first_ones_root_refuses():
    rogue = FakeIntel("rogue")
    assert rogue.root.certificate.subject == INTEL.root.certificate.subject
    collateral = INTEL.make_collateral(SGX, PLATFORM)
    assert verdict(INTEL.make_quote(EnclaveReport(), PLATFORM), collateral) == "UpToDate"
    assert "InvalidSignatureForPublicKey" in verdict(rogue.make_quote(EnclaveReport(), PLATFORM), collateral)


def test_every_report_field_is_where_another_reader_looks_for_it():
    fields = {
        "tee_tcb_svn": 16, "mr_seam": 48, "mr_signer_seam": 48, "seam_attributes": 8, "td_attributes": 8, "xfam": 8,
        "mr_td": 48, "mr_config_id": 48, "mr_owner": 48, "mr_owner_config": 48, "report_data": 64, "tee_tcb_svn2": 16,
        "mr_service_td": 48,
    }  # fmt: skip
    values = {name: bytes([index]) * size for index, (name, size) in enumerate(fields.items(), 1)}
    rtmrs = (b"\x61" * 48, b"\x62" * 48, b"\x63" * 48, b"\x64" * 48)
    report = dcap_qvl.parse_quote(INTEL.make_quote(TdReport(rtmrs=rtmrs, **values), PLATFORM)).report
    assert {name: getattr(report, name) for name in fields} == values
    assert (report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3) == rtmrs

    enclave = EnclaveReport(cpu_svn=b"\1" * 16, attributes=b"\2" * 16, mr_enclave=b"\3" * 32, mr_signer=b"\4" * 32)
    report = dcap_qvl.parse_quote(INTEL.make_quote(replace(enclave, report_data=b"\5" * 64), PLATFORM)).report
    assert (report.cpu_svn, report.attributes, report.mr_enclave) == (b"\1" * 16, b"\2" * 16, b"\3" * 32)
    assert (report.mr_signer, report.report_data) == (b"\4" * 32, b"\5" * 64)


def test_the_sgx_extension_says_what_the_platform_is():
    platform = Platform(
        fmspc=b"ABCDEF", components=(*range(120, 136),), pce_svn=20000, cpu_svn=b"c" * 16, pce_id=b"pi", sgx_type=2,
        configuration=(True, False, True),
    )  # fmt: skip
    extension = dcap_qvl.parse_quote(INTEL.make_quote(EnclaveReport(), platform)).pck_extension()
    assert (extension.fmspc, extension.cpu_svn, extension.pce_svn) == (b"ABCDEF", b"c" * 16, 20000)
    assert (extension.pce_id, extension.ppid, extension.sgx_type) == (b"pi", platform.ppid, 2)
    assert extension.platform_instance_id == platform.instance_id
    oid = "1.2.840.113741.1.13.1"
    assert [extension.get_value(f"{oid}.7.{flag}") for flag in (1, 2, 3)] == [b"\xff", b"\0", b"\xff"]
    # A component above 127 takes a leading zero, as any DER integer does.
    assert [extension.get_value(f"{oid}.2.{index}")[-1] for index in range(1, 17)] == list(range(120, 136))
    assert extension.get_value(f"{oid}.2.16") == b"\0\x87"
    assert b"\x87" not in make_sgx_extension(PLATFORM)


@pytest.mark.parametrize(
    ("components", "status", "advisories"),
    [
        ((9, 9, 3, 3, 5, 1, 0, 6), "UpToDate", []),
        ((9, 9, 3, 3, 5, 1, 0, 5), "OutOfDate", ["INTEL-SA-90001", "INTEL-SA-90002"]),
        ((1, 9, 3, 3, 5, 1, 0, 5), "OutOfDate", ["INTEL-SA-90001", "INTEL-SA-90002", "INTEL-SA-90004"]),
    ],
)
def test_the_default_tcb_info_has_a_level_for_each_of_three_platforms(components, status, advisories):
    platform = replace(PLATFORM, components=components + (0,) * 8)
    collateral = INTEL.make_collateral(SGX, platform, tcb_info=make_tcb_info(SGX, PLATFORM))
    answer = ask_oracle(INTEL.make_quote(EnclaveReport(), platform), collateral, INTEL.root.der, AT)
    assert (answer.status, sorted(answer.advisories)) == (status, advisories)


def test_documents_can_be_changed_and_are_signed_as_they_are():
    document = make_tcb_info(TDX, PLATFORM)
    document["tcbLevels"] = [make_tcb_level([0] * 16, 0, "SWHardeningNeeded", tdx=[0] * 16, advisories=["INTEL-SA-9"])]
    document["tdxModuleIdentities"][1]["tcbLevels"] = [make_isv_level(6, "OutOfDate", advisories=["INTEL-SA-8"])]
    collateral = INTEL.make_collateral(TDX, PLATFORM, tcb_info=document)
    answer = ask_oracle(INTEL.make_quote(TdReport(), PLATFORM), collateral, INTEL.root.der, AT)
    assert (answer.status, answer.advisories) == ("OutOfDate", {"INTEL-SA-8", "INTEL-SA-9"})


QUOTE = INTEL.make_quote(EnclaveReport(), PLATFORM)
GOOD = INTEL.make_collateral(SGX, PLATFORM)
PCK = INTEL.certify(PLATFORM)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("quote", "collateral", "reason"),
    [
        (QUOTE, INTEL.make_collateral(SGX, PLATFORM, revoked_pcks=[PCK.certificate]), "CertRevoked"),
        (QUOTE, INTEL.make_collateral(SGX, PLATFORM, revoked_by_root=[INTEL.platform_ca.certificate]), "CertRevoked"),
        (QUOTE, replace(GOOD, pck_crl=INTEL.make_crl(INTEL.processor_ca)), "UnknownRevocationStatus"),
        (QUOTE, INTEL.make_collateral(SGX, PLATFORM, until=AT - timedelta(seconds=1)), "CrlExpired"),
        (QUOTE, INTEL.make_collateral(SGX, PLATFORM, since=AT + timedelta(seconds=1)), "in the future"),
        (QUOTE, replace(GOOD, qe_identity=INTEL.sign_qe_identity(make_qe_identity(TDX))), "QE Identity"),
        (QUOTE, replace(GOOD, tcb_info=INTEL.sign_tcb_info(make_tcb_info(TDX, PLATFORM))), "TCB info"),
        (QUOTE, replace(GOOD, tcb_info=FakeIntel("rogue").sign_tcb_info(make_tcb_info(SGX, PLATFORM))), "tcb_info"),
        (
            INTEL.make_quote(EnclaveReport(), PLATFORM, pck=INTEL.certify(PLATFORM, until=PAST)),
            GOOD,
            "CertExpired",
        ),
        (INTEL.make_quote(EnclaveReport(), PLATFORM, pck=INTEL.certify(PLATFORM, sgx_extension=b"")), GOOD, "xtension"),
        (
            INTEL.make_quote(EnclaveReport(), PLATFORM, qe_report=replace(make_qe_report(SGX), report_data=bytes(64))),
            GOOD,
            "hash mismatch",
        ),
        (INTEL.make_quote(EnclaveReport(), PLATFORM, chain=(PCK.der, INTEL.root.der)), GOOD, "UnknownIssuer"),
        (INTEL.make_quote(replace(EnclaveReport(), attributes=b"\7" + bytes(15)), PLATFORM), GOOD, "ebug"),
    ],
)
def test_makes_the_refusals_that_another_verifier_gives_for_the_same_reason(quote, collateral, reason):
    assert verdict(QUOTE, GOOD) == "UpToDate"
    assert reason in verdict(quote, collateral)


def test_certificates_have_the_profile_of_intels():
    for identity, is_ca in [(INTEL.root, True), (INTEL.platform_ca, True), (INTEL.tcb_signing, False), (PCK, False)]:
        usage = identity.certificate.extensions.get_extension_for_class(x509.KeyUsage)
        constraints = identity.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert usage.critical
        assert constraints.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (is_ca, not is_ca)
        assert constraints.value.ca is is_ca
        assert identity.certificate.serial_number.bit_length() <= 159
