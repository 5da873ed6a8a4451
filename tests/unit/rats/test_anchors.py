# SPDX-License-Identifier: Apache-2.0
"""Trust anchors: the root of an emulated platform is one only under the name that says so."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509

from enarx.crypto.certificates import load_certificate_untrusted
from enarx.emulator.pki import make_authority, make_vendor_key
from enarx.errors import UsageError
from enarx.rats import TrustAnchors
from enarx.rats.anchors import EMULATED_ROOT
from enarx.testing.snp import FakeAmd


@pytest.fixture(scope="module")
def root():
    at = datetime(2026, 6, 1, tzinfo=UTC)
    return make_authority(
        "ARK-Genoa", make_vendor_key(), None, serial=1, at=at, signs_lists=True, says_emulated=True
    ).certificate


@pytest.mark.parametrize("family", ["amd", "intel", "aws", "tpm"])
def test_refuses_the_root_of_an_emulated_platform_among_a_vendors(root, family):
    with pytest.raises(UsageError, match=f"the roots of {family}: found the root of an emulated platform"):
        TrustAnchors(**{family: (FakeAmd().root, root)})


def test_takes_it_as_what_it_is(root):
    digest = hashlib.sha256(root).digest()
    assert TrustAnchors(insecure_emulated=frozenset({digest})).insecure_emulated == {digest}
    assert TrustAnchors().extended(emulated=frozenset({digest}), tpm_aks=frozenset()).insecure_emulated == {digest}


def test_the_same_extension_is_the_same_anchors(root):
    digest, anchors = hashlib.sha256(root).digest(), TrustAnchors()
    first = anchors.extended(emulated=frozenset({digest}), tpm_aks=frozenset())
    assert anchors.extended(emulated=frozenset({digest}), tpm_aks=frozenset()) is first
    assert anchors.extended(emulated=frozenset({digest}), tpm_aks=frozenset({b"k"})).tpm_aks == {b"k"}
    again = anchors.extended(emulated=frozenset(), tpm_aks=frozenset())
    assert again == anchors
    assert anchors.insecure_emulated == frozenset()


def test_takes_the_roots_of_vendors():
    roots = (FakeAmd().root,)
    assert TrustAnchors(amd=roots).amd == roots


def test_the_extension_is_not_critical(root):
    found = load_certificate_untrusted(root).extensions.get_extension_for_oid(x509.ObjectIdentifier(EMULATED_ROOT))
    assert not found.critical
