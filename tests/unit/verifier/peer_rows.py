# SPDX-License-Identifier: Apache-2.0
"""What other verifiers check and let their users choose, as a survey of them listed it.

`PEER_CHECKS` of each `peer_checks_<section>` has to answer every row that is here. A row that two answers share is named with
both; what a TEE does not have is not asked of it.
"""

from __future__ import annotations

__all__ = ["ROWS"]

_DCAP = (
    "quotes",
    "PCK chain to pinned root, order independent",
    "PCK CA type vs CRL",
    "CRL signature/expiry/revocation of PCK and intermediate",
    "TCB Info / QE identity signature, window, tcbType, FMSPC, PCE id",
    "QE report: MRSIGNER, ISVPRODID, ISVSVN, attributes, miscselect masks",
    "statuses merged",
    "advisory ids",
    "min tcbEvaluationDataNumber",
    # grace periods
    "grace periods: platform and QE",
    "grace periods: collateral",
    "SMT, dynamic platform, cached keys, SGX type",
    "debug",
    # min QE/PCE SVN, min TEE_TCB_SVN: the second is a trust domain's
    "min QE/PCE SVN",
    "report_data binding",
    "trailing bytes after quote",
    "multi-epoch caching",
)

ROWS: dict[str, tuple[str, ...]] = {
    "snp": (
        "report versions",
        "Milan / Genoa / Turin",
        "ARK pinned in code",
        "VEK validity period",
        "VLEK (ASVK, csp id)",
        "SIGNING_KEY flag vs certificate",
        "TCB extensions == REPORTED_TCB",
        "HWID == CHIP_ID",
        "masked CHIP_ID",
        "product string vs CPUID",
        "guest policy: debug, MA, SMT, single socket, CXL, AES-256-XTS, RAPL, ciphertext hiding, page swap",
        "ABI major.minor in policy, FW build, API version minima",
        "TCB minima: reported / launch separately",
        "provisional firmware (committed != current)",
        "PLATFORM_INFO maxima (SMT, TSME, ECC, RAPL, cipher-hiding, alias check, TIO)",
        "VMPL",
        "family_id, image_id, report_id(_ma), host_data",
        "measurement",
        "ID block / author key trust",
        "mitigation vectors (v5)",
        "CRL (ARK-signed)",
        "certificate table GUID entries, extra entry validators",
        "offline endorsement store",
    ),
    "sgx": (*_DCAP, "MRENCLAVE, MRSIGNER, ISVPRODID, ISVSVN"),
    "tdx": (
        *_DCAP,
        "TDX module identity (MRSIGNERSEAM, attributes, per-version TCB)",
        "TDRelaunchAdvised from TEE_TCB_SVN2",
        "SEPT_VE_DISABLE",
        "mr_service_td (1.5)",
        "MRTD/RTMR/MRCONFIGID/MROWNER/MROWNERCONFIG/XFAM/attributes/MRSEAM list",
        "min TEE_TCB_SVN",
        "CCEL/RTMR replay",
    ),
    "nitro": (
        "COSE_Sign1 signature with ES384",
        "cabundle to AWS Nitro Enclaves Root G1, pinned by fingerprint",
        "certificate window at the time",
        "all-zero PCRs (debug mode) refused (base #4042)",
        "document age (aptos #20103)",
        "CRL consulted (dstack #1140)",
        "signature checked and not only PCRs compared (world-chain #698)",
        "document timestamp within the certificate's window",
        "nonce",
        "PCR pins",
        "public-key binding",
        "NitroTPM documents with other PCR sets",
    ),
    "cca": (
        "CPAK by instance id (33 bytes)",
        "platform COSE_Sign1 signature",
        "realm COSE_Sign1 signature by the RAK",
        "RAK hash is the platform challenge",
        "realm challenge",
        "RIM",
        "REM",
        "RPV",
        "lifecycle range",
        "software components' reference values",
        "implementation id",
        "legacy profile and tag:arm.com,2023:* with the RAK as COSE_Key",
        "AR4SI/EAR trust vector",
    ),
    "tpm": (
        "AK trust by key",
        "AK trust by certificate chain",
        "quote signature",
        "nonce",
        "PCR digest",
        "PCR policy",
        "Secure Boot state",
        "event log replay per bank",
        "IMA log",
        "measured boot reference state",
        "GCP: TDX or SNP attestation inside go-tpm-tools' message",
    ),
    "azure": (
        "HCL report layout (`HCLA`, report at 0x20, runtime JSON at 0x4d4)",
        "sha256(runtime JSON) = REPORT_DATA[:32]",
        "AK JWK `HCLAkPub` signs the quote",
        "nonce in qualifyingData",
        "PCR digest",
        "AK certificate to the Azure vTPM root",
        "AK certificates read from NV carry zero padding",
        "MRTD and RTMRs describe the paravisor; policy is on vTPM PCRs",
        "trusted launch without SNP or TDX",
    ),
}
