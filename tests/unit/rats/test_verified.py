# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enarx.errors import DecodeError
from enarx.rats import MAX_EVIDENCE_BYTES, Endorsements, Evidence, TrustAnchors, Verified


def test_nobody_makes_verified_claims_by_calling_the_class():
    with pytest.raises(TypeError, match="no public constructor"):
        Verified()


@pytest.mark.parametrize("size", [0, MAX_EVIDENCE_BYTES + 1])
def test_refuses_evidence_of_no_size_or_too_large(size):
    with pytest.raises(DecodeError, match=f"found {size} bytes"):
        Evidence(data=bytes(size))


def test_endorsements_add_up_in_order():
    both = Endorsements(certificates=(b"a",), crls=(b"c",)) + Endorsements(certificates=(b"b",), event_logs=(b"e",))
    assert both == Endorsements(certificates=(b"a", b"b"), crls=(b"c",), event_logs=(b"e",))


def test_anchors_are_extended_by_what_is_accepted_as_insecure_and_nothing_else():
    anchors = TrustAnchors(amd=(b"ark",)).extended(emulated=frozenset({b"e"}), tpm_aks=frozenset({b"k"}))
    assert anchors == TrustAnchors(amd=(b"ark",), insecure_emulated=frozenset({b"e"}), tpm_aks=frozenset({b"k"}))
