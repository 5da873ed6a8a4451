# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of Azure's confidential VMs make, and the tests that show it both ways."""

from __future__ import annotations

_RULE = "test_each_rule_accepts_and_refuses"
_SNP = "test_accepts_snp_evidence"

PEER_CHECKS: dict[str, tuple[tuple[str, ...], str, str] | str] = {
    "HCL report layout (`HCLA`, report at 0x20, runtime JSON at 0x4d4)": (
        ("azure.hcl.tee", "azure.hcl_report_type"),
        _SNP,
        "test_refuses_a_td_quote_with_an_snp_vms_report",
    ),
    "sha256(runtime JSON) = REPORT_DATA[:32]": (
        ("azure.runtime_data.binding", "azure.td_quote.binding"),
        _SNP,
        "test_refuses_runtime_data_that_the_hardware_does_not_bind",
    ),
    "the rest of REPORT_DATA is zero": (
        ("azure.runtime_data.binding", "azure.td_quote.binding"),
        _SNP,
        "test_refuses_report_data_with_more_than_the_hash",
    ),
    "AK JWK `HCLAkPub` signs the quote": (
        (
            "azure.runtime_data.form",
            "azure.ak.key",
            "azure.quote.algorithm",
            "azure.quote.signature",
            "azure.quote.present",
        ),
        _SNP,
        "test_refuses_a_quote_of_another_vms_tpm",
    ),
    "one attestation key in the runtime data": (
        ("azure.runtime_data.form",),
        _SNP,
        "test_refuses_bound_runtime_data_without_one_attestation_key",
    ),
    "nonce in qualifyingData": (
        ("azure.nonce", "azure.quote.agreement"),
        "test_compares_the_nonce",
        "test_compares_the_nonce",
    ),
    "PCR digest": (("azure.quote.pcr_digest",), _SNP, "test_refuses_pcr_values_that_were_not_quoted"),
    "hardware evidence inside (SNP report, TD quote)": (
        ("azure.td_quote.present",),
        "test_accepts_tdx_evidence",
        "test_refuses_a_forged_hardware_report",
    ),
    "AK certificate to the Azure vTPM root": (
        ("azure.ak_certificate.key", "azure.ak_certificate.chain", "azure.ak_certificate"),
        "test_shows_what_a_certificate_of_the_key_is_worth",
        "test_refuses_a_forged_certificate_of_the_key",
    ),
    "AK certificates read from NV carry zero padding": (
        ("azure.ak_certificate.key",),
        "test_reads_a_certificate_from_nv_memory_without_its_padding",
        "test_leaves_other_bytes_after_a_certificate_for_its_reader_to_refuse",
    ),
    "MRTD and RTMRs describe the paravisor; policy is on vTPM PCRs": (
        ("azure.hardware.measures", "azure.paravisor", "azure.bank", *(f"azure.pcr{index}" for index in range(24))),
        "test_says_whose_paravisor_is_trusted",
        _RULE,
    ),
    "VM configuration": (
        (
            "azure.vm_configuration.secure_boot",
            "azure.vm_configuration.tpm_enabled",
            "azure.vm_configuration.tpm_persisted",
            "azure.vm_configuration.console_enabled",
            "azure.vm_configuration.root_cert_thumbprint",
        ),
        _RULE,
        "test_takes_no_other_value_for_a_yes",
    ),
    "VM id and key allow-lists": (("azure.vm_id", "azure.ak"), _RULE, _RULE),
    "user data": (("azure.user_data",), _RULE, _RULE),
    "event log replay and Secure Boot": (
        ("azure.event_log.replay", "azure.event_log", "azure.secure_boot"),
        "test_event_logs_are_the_virtual_tpms",
        "test_event_logs_are_the_virtual_tpms",
    ),
    "trusted launch without SNP or TDX": "there is no hardware evidence: its quote is judged as a TPM's, by its AK certificate",
}
