# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of SGX quotes make, and the tests that show it both ways."""

from __future__ import annotations

from importlib import import_module

_ACCEPTS = "test_accepts_a_quote_of_an_up_to_date_platform"
_POLICY = "test_a_policy_accepts_and_refuses"

PeerChecks = dict[str, tuple[tuple[str, ...], str, str] | str]


def make_peer_checks(section: str) -> PeerChecks:
    """Return the rows that are the same for SGX and TDX."""

    def of(*names: str) -> tuple[str, ...]:
        return tuple(f"{section}.{name}" for name in names)

    return {
        "quotes": (of("quote.signature"), "test_accepts_every_version", "test_refuses_another_layout"),
        "PCK chain to pinned root, order independent": (
            of("pck_chain.anchor", "pck_chain.root", "pck_chain.validity", "pck_chain.extensions", "pck_chain.purpose"),
            "test_takes_the_certificates_in_any_order",
            "test_refuses_a_chain_to_another_root",
        ),
        "PCK CA type vs CRL": (
            of("pck_chain.revocation"),
            "test_accepts_a_platform_of_the_processor_ca",
            "test_refuses_the_list_of_the_other_ca_or_of_nobody",
        ),
        "CRL signature/expiry/revocation of PCK and intermediate": (
            of("pck_chain.revocation", "pck_ca.revocation"),
            _ACCEPTS,
            "test_refuses_a_revoked_issuer",
        ),
        "TCB Info / QE identity signature, window, tcbType, FMSPC, PCE id": (
            of(
                "tcb_info.chain.anchor",
                "tcb_info.signer",
                "tcb_info.signature",
                "tcb_info.window",
                "tcb_info.type",
                "tcb_info.fmspc",
                "tcb_info.pce_id",
                "qe_identity.chain.anchor",
                "qe_identity.signer",
                "qe_identity.signature",
                "qe_identity.window",
            ),
            _ACCEPTS,
            "test_refuses_collateral_for_something_else",
        ),
        "QE report: MRSIGNER, ISVPRODID, ISVSVN, attributes, miscselect masks": (
            of("qe.mr_signer", "qe.isv_prod_id", "qe.tcb_level", "qe.attributes", "qe.misc_select"),
            _ACCEPTS,
            "test_refuses_a_quoting_enclave_of_another_signer",
        ),
        "QE report signature and binding of the attestation key": (
            of("qe_report.signature", "qe_report.binding", "quote.vendor_id"),
            _ACCEPTS,
            "test_refuses_a_flipped_bit_of_what_vouches",
        ),
        "statuses merged": (of("tcb_status", "tcb.known", "tcb.revoked"), _POLICY, _POLICY),
        "TCB level of the platform": (of("tcb.level"), _ACCEPTS, "test_refuses_a_platform_below_every_level"),
        "advisory ids": (of("advisory_ids"), _POLICY, _POLICY),
        "min tcbEvaluationDataNumber": (of("tcb_evaluation_data_number"), _POLICY, _POLICY),
        "grace periods: platform and QE": (of("out_of_date_days"), _POLICY, _POLICY),
        "grace periods: collateral": (
            "expired collateral is a doubt and never accepted; `collateral_age_days` can ask for younger collateral, and who "
            "must judge by old collateral passes a time at which it was valid"
        ),
        "SMT, dynamic platform, cached keys, SGX type": (
            of("smt", "dynamic_platform", "cached_keys", "sgx_type"),
            _POLICY,
            _POLICY,
        ),
        "debug": (of("debug"), _POLICY, _POLICY),
        "min QE/PCE SVN": (of("qe_svn", "pce_svn"), _POLICY, _POLICY),
        "allowed platforms": (of("fmspc", "ppid", "platform_instance_id", "pck_ca"), _POLICY, _POLICY),
        "report_data binding": (
            of("report_data"),
            "test_compares_the_report_data_that_the_caller_expects",
            "test_compares_the_report_data_that_the_caller_expects",
        ),
        "trailing bytes after quote": (
            of("quote.signature"),
            "test_takes_zeros_after_the_quote_and_nothing_else",
            "test_takes_zeros_after_the_quote_and_nothing_else",
        ),
        "missing collateral": (of("collateral.present"), _ACCEPTS, "test_missing_collateral_is_a_doubt"),
        "missing PCK certificate": (
            of("pck_chain.present", "qe_report.signature"),
            "test_a_missing_pck_certificate_is_a_doubt_and_can_come_from_elsewhere",
            "test_a_missing_pck_certificate_is_a_doubt_and_can_come_from_elsewhere",
        ),
        "multi-epoch caching": (of("tcb_info.window"), "test_uses_the_set_that_fits", "test_a_document_of_another_time_is_a_doubt"),
    }  # fmt: skip


PEER_CHECKS: PeerChecks = make_peer_checks("sgx") | {
    "MRENCLAVE, MRSIGNER, ISVPRODID, ISVSVN": (
        ("sgx.mr_enclave", "sgx.mr_signer", "sgx.isv_prod_id", "sgx.isv_svn"),
        _POLICY,
        _POLICY,
    ),
    "attributes, MISCSELECT": (("sgx.attributes", "sgx.misc_select"), _POLICY, _POLICY),
    "CONFIGID, CONFIGSVN, ISVEXTPRODID, ISVFAMILYID": (
        ("sgx.config_id", "sgx.config_svn", "sgx.isv_ext_prod_id", "sgx.isv_family_id"),
        _POLICY,
        _POLICY,
    ),
}


def check(rows: PeerChecks, made: set[str]) -> None:
    """Assert that each row names findings that are made and tests that exist.

    Args:
        rows: of one section.
        made: the ids of all findings that its verifier makes.
    """
    modules = [f"tests.unit.verifier.{name}" for name in ("test_dcap", "test_collateral", "test_sgx", "test_tdx")]
    tests = {name for module in (*modules, "tests.unit.abi.test_quote") for name in dir(import_module(module))}
    for row, answer in rows.items():
        if isinstance(answer, str):
            assert len(answer) > 20, row
            continue
        ids, accepting, refusing = answer
        assert set(ids) <= made, (row, set(ids) - made)
        assert {accepting, refusing} <= tests, row
