# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enarx.crypto.certificates import load_certificate_untrusted
from enarx.errors import DecodeError
from enarx.rats import Outcome, TrustAnchors
from enarx.verifier import TrustCache
from enarx.verifier.chain import check_crl, make_chain_checks, verify_chain
from enarx.verifier.ledger import Ledger, Setting
from tests.unit.verifier.pki import AT, END, START, Node, a_second

CHECKS = make_chain_checks("test.chain", "the leaf", "a document 1")


@pytest.fixture(scope="module")
def root():
    return Node("Root")


@pytest.fixture(scope="module")
def ca(root):
    return Node("CA", root)


@pytest.fixture(scope="module")
def leaf(ca):
    return Node("Leaf", ca, is_ca=False)


def judge(leaf, candidates, roots, *, at=AT, cache=None):
    ledger = Ledger()
    setting = Setting(at=at, anchors=TrustAnchors(), cache=cache or TrustCache())
    chain = verify_chain(
        ledger,
        CHECKS,
        leaf.der,
        tuple(each.der for each in candidates),
        tuple(each.der for each in roots),
        setting,
        signs="the evidence",
    )
    return chain, {finding.check.id: finding for finding in ledger.findings}, ledger


def failed(findings):
    return {name for name, finding in findings.items() if finding.outcome is Outcome.FAILED}


def test_accepts_a_chain_in_any_order_and_names_its_anchor(root, ca, leaf):
    stranger = Node("Stranger")
    for candidates in ([ca, root, stranger], [stranger, root, ca], [ca]):
        chain, findings, ledger = judge(leaf, candidates, [root])
        assert failed(findings) == set()
        assert chain.certificates == (leaf.certificate, ca.certificate, root.certificate)
        assert findings["test.chain.anchor"].anchor.startswith("Root, ")
        assert ledger.chains == [("Root", "CA", "Leaf", "the evidence")]
        assert ledger.valid_until == END


@pytest.mark.parametrize(
    ("at", "valid"), [(START, True), (END, True), (START - a_second(), False), (END + a_second(), False)]
)
def test_validity_has_both_ends_and_the_cache_does_not_change_it(root, ca, leaf, at, valid):
    cache = TrustCache()
    for _ in range(2):
        _, findings, _ = judge(leaf, [ca], [root], at=at, cache=cache)
        assert failed(findings) == (set() if valid else {"test.chain.validity"})


@pytest.mark.parametrize("which", ["leaf", "ca"])
def test_refuses_a_certificate_that_expired_before_the_others(root, which):
    early = START + a_second()
    ca = Node("CA", root, end=early if which == "ca" else END)
    leaf = Node("Leaf", ca, is_ca=False, end=early if which == "leaf" else END)
    _, findings, _ = judge(leaf, [ca], [root])
    assert failed(findings) == {"test.chain.validity"}


def refused(leaf, candidates, roots):
    chain, findings, ledger = judge(leaf, candidates, roots)
    assert chain is None
    assert failed(findings) == {"test.chain.anchor"}
    assert ledger.chains == []
    return findings["test.chain.anchor"].found


def test_refuses_without_an_anchor(ca, leaf):
    assert "no trust anchor" in refused(leaf, [ca], [])


def test_refuses_a_chain_to_another_root_of_the_same_name(ca, leaf):
    assert "did not make" in refused(leaf, [ca], [Node("Root")])


def test_refuses_a_chain_with_a_gap(root, leaf):
    assert "found no certificate of CN=CA" in refused(leaf, [root], [root])


def test_refuses_a_leaf_that_signs_itself(root, ca):
    assert "signs itself" in refused(Node("Leaf"), [ca], [root])


def test_refuses_an_issuer_that_is_no_ca(root):
    not_ca = Node("CA", root, is_ca=False)
    refused(Node("Leaf", not_ca, is_ca=False), [not_ca], [root])


def test_refuses_an_issuer_without_basic_constraints(root):
    bare = Node("CA", root, is_ca=None)
    refused(Node("Leaf", bare, is_ca=False), [bare], [root])


def test_refuses_a_path_longer_than_an_issuer_allows(root):
    short = Node("Short", root, path_length=0)
    middle = Node("Middle", short)
    refused(Node("Leaf", middle, is_ca=False), [short, middle], [root])


def test_refuses_an_unknown_critical_extension(root):
    ca = Node("CA", root)
    leaf = Node("Leaf", ca, is_ca=False, critical="1.2.3.4")
    chain, findings, _ = judge(leaf, [ca], [root])
    assert chain is None or failed(findings) == {"test.chain.extensions"}
    assert failed(findings) & {"test.chain.extensions", "test.chain.anchor"}


def test_refuses_every_flipped_bit_of_the_leaf(root, ca, leaf):
    for position in range(0, 8 * len(leaf.der), 37):
        flipped = bytearray(leaf.der)
        flipped[position // 8] ^= 1 << position % 8
        ledger = Ledger()
        setting = Setting(at=AT, anchors=TrustAnchors())
        try:
            verify_chain(ledger, CHECKS, bytes(flipped), (ca.der,), (root.der,), setting, signs="x")
        except DecodeError:
            continue
        assert any(finding.outcome is Outcome.FAILED for finding in ledger.findings), position


# --- Revocation


def look_up(crl, issuer, *subjects, at=AT):
    ledger = Ledger()
    setting = Setting(at=at, anchors=TrustAnchors())
    check_crl(ledger, CHECKS.revocation, crl, issuer.certificate, tuple(each.certificate for each in subjects), setting)
    return ledger.findings[0].outcome, ledger


def test_accepts_what_is_not_on_a_current_list(ca, leaf):
    outcome, ledger = look_up(ca.crl(Node("Other", ca)), ca, leaf)
    assert outcome is Outcome.PASSED
    assert ledger.valid_until == END


def test_refuses_what_is_revoked_even_by_a_list_that_has_ended(ca, leaf):
    assert look_up(ca.crl(leaf), ca, leaf)[0] is Outcome.FAILED
    assert look_up(ca.crl(leaf), ca, leaf, at=END + a_second())[0] is Outcome.FAILED


@pytest.mark.parametrize("at", [START - a_second(), END + a_second()])
def test_a_list_for_another_time_decides_nothing(ca, leaf, at):
    assert look_up(ca.crl(), ca, leaf, at=at)[0] is Outcome.UNDECIDED


def test_no_list_decides_nothing(ca, leaf):
    assert look_up(None, ca, leaf)[0] is Outcome.UNDECIDED


def test_refuses_a_list_that_somebody_else_signed(ca, root, leaf):
    assert look_up(ca.crl(signer=root), ca, leaf)[0] is Outcome.FAILED
    assert look_up(root.crl(), ca, leaf)[0] is Outcome.FAILED


def test_a_list_that_is_none_is_a_decode_error(ca, leaf):
    with pytest.raises(DecodeError):
        look_up(b"\x30\x03\x02\x01\x00", ca, leaf)


def test_refuses_a_certificate_with_something_after_it(leaf):
    with pytest.raises(DecodeError):
        load_certificate_untrusted(leaf.der + b"\0")
