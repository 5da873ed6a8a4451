# SPDX-License-Identifier: Apache-2.0
"""Signatures that are none, in every place where bytes of ours become an ECDSA signature: r and s at the edges of their range.

The classes are those of public ECDSA test vectors: zero, one, the order and its neighbours, the largest number that fits, values
swapped, and a signature that is right but for its size.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enarx.crypto.cose import parse_sign1_untrusted, sign, verifies
from enarx.errors import DecodeError
from enarx.rats import Evidence, Outcome, Verdict
from enarx.testing.snp import FakeAmd
from enarx.verifier import verify_evidence
from tests.unit.verifier.dcap_judging import intel, judge

ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int("F" * 48 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    "secp521r1": int("1FF" + "F" * 63 + "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16),
}


def edges(curve, r, s, size):
    """Pairs that are no signature, where `(r, s)` is one."""
    order, largest = ORDERS[curve], (1 << 8 * size) - 1
    special = [0, 1, order - 1, order, order + 1, largest]
    pairs = {f"r={name:x}"[:24]: (name, s) for name in special} | {f"s={name:x}"[:24]: (r, name) for name in special}
    pairs |= {f"both={name:x}"[:24]: (name, name) for name in special} | {"swapped": (s, r)}
    for name, (x, y) in {"r+n": (r + order, s), "s+n": (r, s + order)}.items():
        if x <= largest and y <= largest:
            pairs[name] = (x, y)
    return pairs


CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_cose_refuses_signatures_at_the_edges(curve):
    key = ec.generate_private_key(curve)
    message = parse_sign1_untrusted(sign(b"payload", key), max_bytes=1 << 10)
    assert verifies(message, key.public_key())
    size = len(message.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (message.signature[:size], message.signature[size:]))
    for name, (x, y) in edges(curve.name, r, s, size).items():
        changed = message._replace(signature=x.to_bytes(size, "big") + y.to_bytes(size, "big"))
        assert not verifies(changed, key.public_key()), name


@pytest.mark.parametrize("size", [0, 1, 63, 65, 72, 128])
def test_cose_refuses_signatures_of_another_size(size):
    key = ec.generate_private_key(ec.SECP256R1())
    message = parse_sign1_untrusted(sign(b"payload", key), max_bytes=1 << 10)
    signature = (message.signature + message.signature)[:size]
    assert not verifies(message._replace(signature=signature), key.public_key())


def test_an_snp_report_is_refused_with_a_signature_at_the_edges():
    case = FakeAmd().make_case()

    def judged(report):
        return verify_evidence(
            Evidence(data=report.serialise()), at=case.at, endorsements=case.endorsements, anchors=case.anchors
        )

    assert judged(case.report).verdict is Verdict.ACCEPTED
    data = case.data
    r, s = (int.from_bytes(data[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    for name, (x, y) in edges("secp384r1", r, s, 48).items():
        forged = data[:0x2A0] + x.to_bytes(72, "little") + y.to_bytes(72, "little") + data[0x330:]
        result = verify_evidence(
            Evidence(data=forged), at=case.at, endorsements=case.endorsements, anchors=case.anchors
        )
        failed = {each.check.id for each in result.findings if each.outcome is Outcome.FAILED}
        assert failed == {"snp.report.signature"}, name


@pytest.mark.parametrize("at", [48, 60, 71])
@pytest.mark.parametrize("start", [0x2A0, 0x2E8])
def test_an_snp_report_is_refused_where_its_signature_goes_beyond_the_curve(start, at):
    case = FakeAmd().make_case()
    data = bytearray(case.data)
    data[start + at] = 1
    result = verify_evidence(
        Evidence(data=bytes(data)), at=case.at, endorsements=case.endorsements, anchors=case.anchors
    )
    assert result.verdict is Verdict.NOT_AUTHENTIC


@pytest.mark.parametrize("tee", ["SGX", "TDX"])
@pytest.mark.parametrize("part", ["signature", "qe_report_signature"])
def test_a_quote_is_refused_with_signatures_at_the_edges(tee, part):
    from enarx.abi.quote import parse_quote_untrusted
    from tests.unit.verifier.dcap_judging import BODIES, PLATFORM

    quote = parse_quote_untrusted(intel().make_quote(BODIES[tee], PLATFORM))
    assert judge(tee, data=quote.serialise()).verdict is Verdict.ACCEPTED
    genuine = getattr(quote.signature, part)
    r, s = int.from_bytes(genuine[:32], "big"), int.from_bytes(genuine[32:], "big")
    for name, (x, y) in edges("secp256r1", r, s, 32).items():
        forged = x.to_bytes(32, "big") + y.to_bytes(32, "big")
        changed = quote._replace(signature=quote.signature._replace(**{part: forged}))
        assert judge(tee, data=changed.serialise()).verdict is Verdict.NOT_AUTHENTIC, name


@pytest.mark.parametrize("tee", ["SGX", "TDX"])
@pytest.mark.parametrize("key", [bytes(64), b"\xff" * 64, b"\x00" * 63 + b"\x01"], ids=["zero", "ones", "no point"])
def test_a_quote_is_refused_with_an_attestation_key_that_is_no_point(tee, key):
    from enarx.abi.quote import parse_quote_untrusted
    from tests.unit.verifier.dcap_judging import BODIES, PLATFORM

    quote = parse_quote_untrusted(intel().make_quote(BODIES[tee], PLATFORM))
    changed = quote._replace(signature=quote.signature._replace(attestation_key=key))
    try:
        assert judge(tee, data=changed.serialise()).verdict is Verdict.NOT_AUTHENTIC
    except DecodeError as error:
        raise AssertionError("a key that is no point is a forgery, and every other finding is shown") from error
