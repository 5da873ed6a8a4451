# SPDX-License-Identifier: Apache-2.0
"""CCA tokens: the layout, and nothing but the layout."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.cca import COLLECTION_TAG, LEGACY_COLLECTION_TAG, MAX_TOKEN_BYTES, encode_token, parse_token_untrusted
from enarx.crypto.cbor import Tagged, encode
from enarx.crypto.cose import sign
from enarx.errors import DecodeError
from enarx.testing.cca import CcaPlatform
from tests.evidence import cases, needs_evidence, read

PLATFORM = CcaPlatform()
COMPONENT = {2: bytes(32), 5: bytes(48)}


def shown(value: object) -> object:
    if isinstance(value, list):
        return [shown(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


@needs_evidence
@pytest.mark.parametrize("case", cases("cca"), ids=lambda case: case["id"])
def test_reads_what_tokens_of_others_say(case: dict[str, Any]):
    data = read(case["inputs"]["token"])
    token = parse_token_untrusted(data)
    assert token.serialise() == data
    named = token.named()
    assert {name: shown(named[name]) for name in case["claims"]} == case["claims"]


@needs_evidence
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("realm-claims.cbor", None),
        ("realm-claims-spurious-numeric-key.cbor", None),
        ("realm-claims-missing-challenge.cbor", "cca-realm-challenge"),
    ],
)
def test_reads_claims_of_others(name: str, reason: str | None):
    platform = sign(read("cca/rust-ccatoken/platform-claims.cbor"), PLATFORM.cpak)
    data = encode_token(platform=platform, realm=sign(read(f"cca/rust-ccatoken/{name}"), PLATFORM.rak))
    if reason is None:
        assert parse_token_untrusted(data).realm.profile is None
    else:
        with pytest.raises(DecodeError, match=reason):
            parse_token_untrusted(data)


@pytest.mark.parametrize("tag", [LEGACY_COLLECTION_TAG, COLLECTION_TAG])
@pytest.mark.parametrize("is_legacy", [True, False])
def test_reads_both_collections_with_both_profiles(tag: int, is_legacy: bool):
    platform = CcaPlatform(is_legacy=is_legacy, cpak=PLATFORM.cpak, rak=PLATFORM.rak)
    data = platform.token(tag=tag)
    token = parse_token_untrusted(data)
    assert token.serialise() == data
    assert token.tag == tag
    assert (token.realm.profile is None) == is_legacy
    assert token.realm.public_key == platform.realm_key()
    assert token.platform.instance_id == platform.instance_id
    assert [component.type for component in token.platform.sw_components] == ["BL2", "RMM"]
    assert str(token.platform.sw_components[0]).startswith("BL2 1.0.0 sha-256 measurement=1111")


def test_reads_a_token_without_its_optional_claims():
    token = parse_token_untrusted(PLATFORM.token(platform={2399: [COMPONENT]}, without=(2400,)))
    assert token.platform.verification_service is None
    assert token.platform.sw_components[0][::2] == (None, None, None)


def test_leaves_claims_alone_that_it_does_not_know():
    assert parse_token_untrusted(PLATFORM.token(realm={99999: 1}, platform={"vendor": b"x"}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({265: None}, "cca-platform-profile"),
        ({265: b"x"}, "cca-platform-profile"),
        ({265: ""}, "cca-platform-profile"),
        ({10: bytes(31)}, "cca-platform-challenge"),
        ({10: "x"}, "cca-platform-challenge"),
        ({2396: bytes(33)}, "cca-platform-implementation-id"),
        ({256: b"\x01" + bytes(31)}, "cca-platform-instance-id"),
        ({256: bytes(33)}, "found the type 0"),
        ({2401: "config"}, "cca-platform-config"),
        ({2401: bytes(4097)}, "cca-platform-config"),
        ({2395: 0x10000}, "cca-platform-lifecycle"),
        ({2395: -1}, "cca-platform-lifecycle"),
        ({2395: True}, "cca-platform-lifecycle"),
        ({2399: []}, "cca-platform-sw-components"),
        ({2399: {}}, "cca-platform-sw-components"),
        ({2399: [COMPONENT] * 65}, "cca-platform-sw-components"),
        ({2399: [[]]}, "cca-platform-sw-components"),
        ({2399: [{2: bytes(32)}]}, "signer id"),
        ({2399: [{5: bytes(32)}]}, "measurement value"),
        ({2399: [COMPONENT | {1: 1}]}, "component type"),
        ({2399: [COMPONENT | {4: b"1"}]}, "version"),
        ({2399: [COMPONENT | {6: 6}]}, "hash algorithm id"),
        ({2400: 1}, "cca-platform-verification-service"),
        ({2402: -16}, "cca-platform-hash-algo-id"),
    ],
)
def test_refuses_a_platform_claim_that_is_not_as_it_should_be(changes: dict[int, Any], reason: str):
    assert parse_token_untrusted(PLATFORM.token())
    with pytest.raises(DecodeError, match=reason):
        parse_token_untrusted(PLATFORM.token(platform=changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({265: 1}, "cca-realm-profile"),
        ({10: bytes(63)}, "cca-realm-challenge"),
        ({44235: bytes(65)}, "cca-realm-personalization-value"),
        ({44236: 1}, "cca-realm-hash-algo-id"),
        ({44237: b""}, "cca-realm-public-key"),
        ({44237: {1: 2}}, "cca-realm-public-key"),
        ({44237: bytes(1025)}, "cca-realm-public-key"),
        ({44238: bytes(20)}, "cca-realm-initial-measurement"),
        ({44239: [bytes(32)] * 3}, "cca-realm-extensible-measurements"),
        ({44239: [bytes(32)] * 5}, "cca-realm-extensible-measurements"),
        ({44239: [bytes(32)] * 3 + [bytes(31)]}, "cca-realm-extensible-measurements"),
        ({44240: None}, "cca-realm-public-key-hash-algo-id"),
    ],
)
def test_refuses_a_realm_claim_that_is_not_as_it_should_be(changes: dict[int, Any], reason: str):
    assert parse_token_untrusted(PLATFORM.token())
    with pytest.raises(DecodeError, match=reason):
        parse_token_untrusted(PLATFORM.token(realm=changes))


@pytest.mark.parametrize("label", [2396, 256, 2401, 2395, 2399, 2402, 44235, 44236, 44237, 44238, 44239, 44240, 10])
def test_refuses_a_token_without_a_claim(label: int):
    with pytest.raises(DecodeError):
        parse_token_untrusted(PLATFORM.token(without=(label,)))


MESSAGES = {
    44234: sign(encode(PLATFORM.platform_claims()), PLATFORM.cpak),
    44241: sign(encode(PLATFORM.realm_claims()), PLATFORM.rak),
}
RECORDS = {label: [263, message] for label, message in MESSAGES.items()}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(MESSAGES), "tag: found none"),
        (encode(Tagged(400, MESSAGES)), "tag: found 400"),
        (encode(Tagged(399, RECORDS)), "platform token: found another value"),
        (encode(Tagged(907, MESSAGES)), "another record"),
        (encode(Tagged(907, RECORDS | {44234: [264, MESSAGES[44234]]})), "another record"),
        (encode(Tagged(907, RECORDS | {44234: [263, MESSAGES[44234], 4]})), "another record"),
        (encode(Tagged(907, RECORDS | {44234: [263, None]})), "platform token: found another value"),
        (encode(Tagged(399, {44234: MESSAGES[44234]})), "other members"),
        (encode(Tagged(399, MESSAGES | {44258: b""})), "other members"),
        (encode(Tagged(399, {44234: MESSAGES[44241], 44241: MESSAGES[44234]})), "cca-platform"),
        (b"\xd9\x01\x8f\xa2" + encode(44241) + encode(b"") + encode(44234) + encode(b""), "other members"),
        (encode(Tagged(399, MESSAGES | {44241: MESSAGES[44241][1:]})), "realm token: found no tag"),
        (encode(Tagged(399, [])), "other members"),
        (encode(Tagged(399, MESSAGES)) + b"\0", "after the end"),
        (b"\xda\x00\x00\x01\x8f" + encode(MESSAGES), "shortest form"),
        (b"\xd9\x01\x8f\xbf" + encode(MESSAGES)[1:] + b"\xff", "indefinite"),
        (b"\xd9\x01\x8f\xa3" + encode(MESSAGES)[1:] + encode(44241) + encode(b""), "Duplicate"),
        (bytes(MAX_TOKEN_BYTES + 1), "size: found"),
        (b"", "nothing"),
    ],
)
def test_refuses_another_collection(data: bytes, reason: str):
    assert parse_token_untrusted(encode(Tagged(399, MESSAGES)))
    assert parse_token_untrusted(encode(Tagged(907, RECORDS)))
    with pytest.raises(DecodeError, match=reason):
        parse_token_untrusted(data)


@pytest.mark.parametrize("part", ["platform", "realm"])
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x80", "found list"),
        (b"\xa0\x00", "after the end"),
        (b"\xa2\x0a\x01\x0a\x02", "Duplicate"),
        (b"\xa1\x18\x0a\x01", "shortest form"),
    ],
)
def test_refuses_claims_that_are_no_map(part: str, payload: bytes, reason: str):
    parts = {"platform": MESSAGES[44234], "realm": MESSAGES[44241], part: sign(payload, PLATFORM.cpak)}
    with pytest.raises(DecodeError, match=f"{part} token.*{reason}"):
        parse_token_untrusted(encode_token(**parts))


TOKEN = PLATFORM.token()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.integers(0, len(TOKEN) - 1), change=st.binary(min_size=1, max_size=9))
def test_gives_a_token_or_a_decode_error_for_any_change(at: int, change: bytes):
    try:
        parse_token_untrusted(TOKEN[:at] + change + TOKEN[at + len(change) :])
    except DecodeError:
        return
