# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of TPM quotes make, and the tests that show it both ways."""

from __future__ import annotations

_RULE = "test_each_rule_accepts_and_refuses"
_VALID = "test_accepts_a_quote_of_every_scheme"
_CHAIN = "test_accepts_a_key_whose_certificate_chains_to_an_anchor"

PEER_CHECKS: dict[str, tuple[tuple[str, ...], str, str] | str] = {
    "AK trust by key": (
        ("tpm.ak.trust", "tpm.ak"),
        _VALID,
        "test_does_not_decide_about_a_key_that_nobody_vouches_for",
    ),
    "AK trust by certificate chain": (
        ("tpm.ak_chain.anchor", "tpm.ak_certificate.key", "tpm.ak.trust"),
        _CHAIN,
        "test_refuses_a_certificate_of_another_maker",
    ),
    "AK certificate window": (
        ("tpm.ak_chain.validity",),
        "test_accepts_certificates_on_their_first_and_last_second",
        "test_refuses_certificates_for_another_use_or_time",
    ),
    "AK certificate usage": (
        ("tpm.ak_certificate.usage", "tpm.ak_chain.extensions"),
        "test_accepts_a_certificate_without_extended_key_usage",
        "test_refuses_certificates_for_another_use_or_time",
    ),
    "AK certificate revocation": "no maker of these certificates publishes a list that evidence brings; an AK is withdrawn by its digest",
    "restricted AK attributes": (
        ("tpm.ak.attributes", "tpm.ak.name"),
        "test_shows_the_hierarchy_that_the_quote_names",
        "test_refuses_a_key_that_signs_what_anybody_asks_for",
    ),
    "quote signature": (
        ("tpm.ak.key", "tpm.quote.algorithm", "tpm.quote.signature"),
        _VALID,
        "test_refuses_flipped_bits",
    ),
    "quote magic and type": "a TPMS_ATTEST of another magic or type is not decoded: DecodeError, before anything is judged",
    "nonce": (("tpm.nonce", "tpm.quote.agreement"), "test_compares_the_nonce", "test_compares_the_nonce"),
    "PCR digest": (
        ("tpm.quote.pcr_digest",),
        _VALID,
        "test_refuses_pcr_values_that_are_swapped_changed_or_missing",
    ),
    "PCR policy": (
        tuple(f"tpm.pcr{index}" for index in range(24)),
        _RULE,
        "test_refuses_a_pcr_that_is_not_quoted",
    ),
    "PCR bank": (("tpm.bank",), _RULE, _RULE),
    "Secure Boot state": (
        ("tpm.secure_boot",),
        "test_accepts_event_logs_that_replay",
        "test_believes_no_log_about_secure_boot_where_pcr_7_is_not_quoted",
    ),
    "event log replay per bank": (
        ("tpm.event_log.replay", "tpm.event_log"),
        "test_accepts_event_logs_that_replay",
        "test_refuses_event_logs_that_do_not_replay",
    ),
    "TPM firmware version": (("tpm.firmware",), _RULE, _RULE),
    "clock and reset counts": (("tpm.quote.clock", "tpm.clock_safe", "tpm.quote.agreement"), _RULE, _RULE),
    "how the AK is trusted (a provider's virtual TPM)": (("tpm.ak_trust",), _RULE, _RULE),
    "IMA log": "PCR 10 is compared as a value; the IMA log's own format is not read",
    "measured boot reference state": "single events of a log are not appraised: only replay, PCR values and Secure Boot",
    "GCP: TDX or SNP attestation inside go-tpm-tools' message": "it is in a re-coded form; hand over the raw report or quote, which `snp` and `tdx` judge",
}
