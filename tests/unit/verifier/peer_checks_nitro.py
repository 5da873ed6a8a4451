# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of Nitro documents make, and the tests that show it both ways."""

from __future__ import annotations

PEER_CHECKS: dict[str, tuple[tuple[str, ...], str, str] | str] = {
    "COSE_Sign1 signature with ES384": (
        ("nitro.document.algorithm", "nitro.document.signature"),
        "test_accepts_a_document_of_the_authority",
        "test_refuses_a_document_that_another_key_signed",
    ),
    "algorithm from the protected header, of the key's curve": (
        ("nitro.document.algorithm",),
        "test_accepts_a_document_of_the_authority",
        "test_refuses_an_algorithm_that_is_not_the_keys",
    ),
    "cabundle to AWS Nitro Enclaves Root G1, pinned by fingerprint": (
        ("nitro.ca_chain.anchor",),
        "test_gives_real_documents_their_verdict",
        "test_refuses_real_documents_under_another_root",
    ),
    "certificate signed by the last of the cabundle": (
        ("nitro.certificate.signature",),
        "test_accepts_a_document_of_the_authority",
        "test_refuses_a_certificate_of_another_authority_with_the_same_names",
    ),
    "certificate window at the time": (
        ("nitro.certificate.validity", "nitro.ca_chain.validity"),
        "test_a_certificate_is_valid_from_its_first_second_to_its_last",
        "test_a_certificate_is_valid_from_its_first_second_to_its_last",
    ),
    "certificates well formed": (
        ("nitro.certificate.form",),
        "test_accepts_a_document_of_the_authority",
        "test_a_malformed_certificate_is_a_failed_check_and_the_rest_is_shown",
    ),
    "key usage and basic constraints of the certificate": (
        ("nitro.certificate.usage", "nitro.certificate.extensions"),
        "test_refuses_a_certificate_that_is_not_for_documents",
        "test_refuses_a_certificate_that_is_not_for_documents",
    ),
    "basic constraints, key usage and path length of the issuers": (
        ("nitro.ca_chain.constraints", "nitro.ca_chain.extensions"),
        "test_refuses_an_issuer_that_may_not_issue",
        "test_refuses_more_issuers_than_a_path_length_allows",
    ),
    "document timestamp within the certificate's window": (
        ("nitro.document.timestamp",),
        "test_a_document_is_signed_while_its_certificate_is_valid",
        "test_a_document_is_signed_while_its_certificate_is_valid",
    ),
    "all-zero PCRs (debug mode) refused (base #4042)": (
        ("nitro.debug",),
        "test_refuses_a_debuggable_enclave_without_a_policy",
        "test_refuses_a_debuggable_enclave_without_a_policy",
    ),
    "document age (aptos #20103)": (
        ("nitro.max_age_s",),
        "test_refuses_a_document_that_is_too_old",
        "test_refuses_a_document_that_is_too_old",
    ),
    "CRL consulted (dstack #1140)": (
        ("nitro.ca_chain.revocation", "nitro.revocation"),
        "test_looks_at_revocation_lists_that_are_at_hand",
        "test_refuses_a_revoked_issuer",
    ),
    "signature checked and not only PCRs compared (world-chain #698)": (
        ("nitro.document.signature",),
        "test_accepts_a_document_of_the_authority",
        "test_refuses_flipped_bits_of_a_document",
    ),
    "nonce": (
        ("nitro.nonce",),
        "test_compares_the_nonce_with_the_callers",
        "test_compares_the_nonce_with_the_callers",
    ),
    "PCR pins": (
        tuple(f"nitro.pcr{index}" for index in range(16)),
        "test_compares_each_register",
        "test_refuses_a_register_that_is_missing",
    ),
    "public-key binding": (
        ("nitro.public_key_sha256",),
        "test_appraises_what_the_document_says",
        "test_refuses_a_binding_that_is_missing",
    ),
    "user data": (
        ("nitro.user_data_sha256",),
        "test_appraises_what_the_document_says",
        "test_refuses_a_binding_that_is_missing",
    ),
    "module id": (
        ("nitro.module_id",),
        "test_appraises_what_the_document_says",
        "test_appraises_what_the_document_says",
    ),
    "digest algorithm": (
        ("nitro.digest",),
        "test_accepts_a_document_of_the_authority",
        "test_an_enclaves_digest_must_be_sha384_without_a_policy",
    ),
    "NitroTPM documents with other PCR sets": (
        ("nitro.kind",),
        "test_accepts_a_document_of_the_authority",
        "test_appraises_what_the_document_says",
    ),
}
