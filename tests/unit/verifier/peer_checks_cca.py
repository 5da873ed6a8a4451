# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of CCA tokens make, and the tests that show it both ways."""

from __future__ import annotations

_APPRAISED = "test_appraises_what_the_token_says"

PEER_CHECKS: dict[str, tuple[tuple[str, ...], str, str] | str] = {
    "CPAK by instance id (33 bytes)": (
        ("cca.platform.signature",),
        "test_accepts_tokens_of_known_platforms",
        "test_does_not_decide_without_the_platform_key_and_still_checks_the_realm",
    ),
    "platform COSE_Sign1 signature": (
        ("cca.platform.algorithm", "cca.platform.signature"),
        "test_accepts_platform_keys_on_each_curve",
        "test_refuses_tokens_that_other_keys_signed",
    ),
    "realm COSE_Sign1 signature by the RAK": (
        ("cca.realm.key", "cca.realm.algorithm", "cca.realm.signature"),
        "test_accepts_tokens_of_known_platforms",
        "test_refuses_tokens_that_other_keys_signed",
    ),
    "RAK hash is the platform challenge": (
        ("cca.binding",),
        "test_accepts_tokens_of_known_platforms",
        "test_refuses_a_realm_token_with_a_key_that_the_platform_did_not_name",
    ),
    "realm challenge": (
        ("cca.nonce",),
        "test_compares_the_challenge_with_the_callers",
        "test_compares_the_challenge_with_the_callers",
    ),
    "RIM": (("cca.rim",), _APPRAISED, _APPRAISED),
    "REM": (tuple(f"cca.rem{index}" for index in range(4)), _APPRAISED, _APPRAISED),
    "RPV": (("cca.personalization",), _APPRAISED, _APPRAISED),
    "lifecycle range": (
        ("cca.lifecycle",),
        "test_accepts_a_secured_platform_without_a_policy",
        "test_refuses_a_platform_that_is_not_secured_without_a_policy",
    ),
    "software components' reference values": (
        ("cca.sw_components",),
        "test_knows_each_component_of_the_firmware",
        "test_knows_each_component_of_the_firmware",
    ),
    "implementation id": (("cca.implementation_id",), _APPRAISED, _APPRAISED),
    "instance ids allowed": (("cca.instance_id",), _APPRAISED, _APPRAISED),
    "platform configuration": (("cca.config",), _APPRAISED, _APPRAISED),
    "legacy profile and tag:arm.com,2023:* with the RAK as COSE_Key": (
        ("cca.platform.profile", "cca.realm.profile", "cca.platform_profile", "cca.realm_profile", "cca.realm.key"),
        "test_accepts_tokens_of_known_platforms",
        "test_refuses_a_realm_key_that_has_not_its_profiles_form",
    ),
    "hash algorithms": (
        ("cca.platform_hash_algorithm", "cca.realm_hash_algorithm", "cca.rak_hash_algorithm"),
        _APPRAISED,
        "test_refuses_a_hash_of_the_realm_key_with_another_algorithm",
    ),
    "AR4SI/EAR trust vector": "not a check of the evidence: the result's writer makes the vector from the findings",
}
