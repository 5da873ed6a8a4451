# SPDX-License-Identifier: Apache-2.0
"""Which finding answers to each row of the comparison of SEV-SNP verifiers, and which tests accept and refuse by it.

A row is its finding ids, an accepting test and a refusing test of `test_snp.py`; or, as a text, why there is no such finding.
"""

from __future__ import annotations

__all__ = ["PEER_CHECKS"]

_ACCEPTS_ALL = "test_accepts_every_version_product_and_kind_of_key"
_APPRAISES = "test_appraises"
_REFUSES = "test_refuses"

PEER_CHECKS: dict[str, tuple[tuple[str, ...], str, str] | str] = {
    "report versions": (("snp.version",), _APPRAISES, f"{_APPRAISES}[snp.version]"),
    "Milan / Genoa / Turin": (
        ("snp.product", "snp.chain.product", "snp.report.product"),
        _ACCEPTS_ALL,
        f"{_REFUSES}[a VCEK of another product]",
    ),
    "ARK pinned in code": (("snp.ark.pinned", "snp.chain.certificates"), _ACCEPTS_ALL, f"{_REFUSES}[another root]"),
    "VEK validity period": (
        ("snp.vek.validity", "snp.ask.validity", "snp.ark.validity"),
        "test_validity_includes_both_ends",
        f"{_REFUSES}[an expired VCEK]",
    ),
    "VLEK (ASVK, csp id)": (
        ("snp.vek.kind", "snp.signing_key", "snp.csp_id"),
        "test_appraises_what_the_vek_says",
        f"{_REFUSES}[a VCEK by the ASVK]",
    ),
    "SIGNING_KEY flag vs certificate": (
        ("snp.report.signing_key",),
        _ACCEPTS_ALL,
        f"{_REFUSES}[a report by a VLEK that says VCEK]",
    ),
    "TCB extensions == REPORTED_TCB": (
        (
            "snp.vek.tcb.fmc",
            "snp.vek.tcb.bootloader",
            "snp.vek.tcb.tee",
            "snp.vek.tcb.snp",
            "snp.vek.tcb.microcode",
            "snp.vek.tcb.reserved",
        ),
        _ACCEPTS_ALL,
        "test_refuses_a_vek_for_another_tcb_component",
    ),
    "HWID == CHIP_ID": (
        ("snp.vek.hwid",),
        _ACCEPTS_ALL,
        f"{_REFUSES}[a VCEK for another chip with the same key]",
    ),
    "masked CHIP_ID": (
        ("snp.masked_chip_id",),
        "test_a_masked_chip_id_is_the_policys_matter",
        f"{_APPRAISES}[snp.masked_chip_id]",
    ),
    "product string vs CPUID": (("snp.report.product",), _ACCEPTS_ALL, f"{_REFUSES}[a report of another product]"),
    "guest policy: debug, MA, SMT, single socket, CXL, AES-256-XTS, RAPL, ciphertext hiding, page swap": (
        (
            "snp.guest_policy.debug",
            "snp.guest_policy.migrate_ma",
            "snp.guest_policy.smt",
            "snp.guest_policy.single_socket",
            "snp.guest_policy.cxl",
            "snp.guest_policy.mem_aes_256_xts",
            "snp.guest_policy.rapl_dis",
            "snp.guest_policy.ciphertext_hiding_dram",
            "snp.guest_policy.page_swap_disable",
        ),
        _APPRAISES,
        _APPRAISES,
    ),
    "ABI major.minor in policy, FW build, API version minima": (
        ("snp.guest_policy.abi", "snp.firmware.build", "snp.firmware.version"),
        _APPRAISES,
        _APPRAISES,
    ),
    "TCB minima: reported / launch separately": (
        ("snp.tcb.reported", "snp.tcb.current", "snp.tcb.committed", "snp.tcb.launch"),
        _APPRAISES,
        _APPRAISES,
    ),
    "provisional firmware (committed != current)": (("snp.firmware.provisional",), _APPRAISES, _APPRAISES),
    "PLATFORM_INFO maxima (SMT, TSME, ECC, RAPL, cipher-hiding, alias check, TIO)": (
        (
            "snp.platform_info.smt",
            "snp.platform_info.tsme",
            "snp.platform_info.ecc",
            "snp.platform_info.rapl_dis",
            "snp.platform_info.ciphertext_hiding_dram",
            "snp.platform_info.alias_check_complete",
            "snp.platform_info.tio",
            "snp.platform_info.others",
        ),
        _APPRAISES,
        _APPRAISES,
    ),
    "VMPL": (("snp.vmpl",), _APPRAISES, "test_the_baseline_refuses_debugging_migration_and_other_vmpls"),
    "family_id, image_id, report_id(_ma), host_data": (
        ("snp.family_id", "snp.image_id", "snp.report_id", "snp.report_id_ma", "snp.host_data"),
        _APPRAISES,
        _APPRAISES,
    ),
    "measurement": (("snp.measurement",), _APPRAISES, _APPRAISES),
    "ID block / author key trust": (
        ("snp.id_block", "snp.id_key_digest", "snp.author_key", "snp.author_key_digest"),
        _APPRAISES,
        _APPRAISES,
    ),
    "mitigation vectors (v5)": (("snp.mitigations.launch", "snp.mitigations.current"), _APPRAISES, _APPRAISES),
    "CRL (ARK-signed)": (
        ("snp.chain.revocation", "snp.revocation"),
        "test_accepts_a_current_list_without_the_ask",
        "test_refuses_a_revoked_authority",
    ),
    "certificate table GUID entries, extra entry validators": (
        ("snp.certificate_table",),
        "test_uses_certificates_of_the_table",
        "test_appraises_other_entries_of_the_table",
    ),
    "offline endorsement store": "not a check: endorsements are an argument, and AMD's intermediates are package data",
}
