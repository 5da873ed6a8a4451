# SPDX-License-Identifier: Apache-2.0
"""The fake CCA platform makes what others make, as far as it can be compared."""

from __future__ import annotations

import cbor2
import pytest

from enarx.abi.cca import COLLECTION_TAG, LEGACY_COLLECTION_TAG, parse_token_untrusted
from enarx.testing.cca import CcaPlatform
from tests.evidence import cases, needs_evidence, read

PLATFORM = CcaPlatform()


@needs_evidence
@pytest.mark.parametrize(
    ("name", "is_legacy"), [("cca/rust-ccatoken-01", True), ("cca/rust-ccatoken-draft-ffm-00", False)]
)
def test_makes_tokens_in_the_form_of_others(name: str, is_legacy: bool):
    case = next(case for case in cases("cca") if case["id"] == name)
    real = parse_token_untrusted(read(case["inputs"]["token"]))
    fake = parse_token_untrusted(CcaPlatform(is_legacy=is_legacy).token())
    assert fake.tag == real.tag
    assert (fake.platform.profile, fake.realm.profile) == (real.platform.profile, real.realm.profile)
    assert len(fake.realm.public_key) == len(real.realm.public_key)
    for ours, theirs in ((fake.platform_message, real.platform_message), (fake.realm_message, real.realm_message)):
        assert ours.protected == theirs.protected
        assert cbor2.loads(ours.payload).keys() == cbor2.loads(theirs.payload).keys()


def test_makes_both_collections():
    legacy = cbor2.loads(PLATFORM.token())
    current = cbor2.loads(PLATFORM.token(tag=COLLECTION_TAG))
    assert (legacy.tag, current.tag) == (LEGACY_COLLECTION_TAG, COLLECTION_TAG)
    assert all(isinstance(message, bytes) for message in legacy.value.values())
    assert all(record[0] == 263 for record in current.value.values())


def test_bends_what_it_is_asked_to():
    token = parse_token_untrusted(PLATFORM.token(platform={2395: 0x4000}, realm={10: bytes(64)}, without=(2400,)))
    assert (token.platform.lifecycle, token.realm.challenge) == (0x4000, bytes(64))
    assert token.platform.verification_service is None
    assert PLATFORM.anchors.cca == {PLATFORM.instance_id: PLATFORM.spki}
