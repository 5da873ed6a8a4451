# SPDX-License-Identifier: Apache-2.0
"""Endorsements out of files of any kind and name."""

from __future__ import annotations

import base64
import json
from dataclasses import astuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError
from enarx.rats import Endorsements, Evidence, TrustAnchors, Verdict
from enarx.testing.dcap import AT, SGX, TDX, FakeIntel, Platform, TdReport, make_pem
from enarx.testing.snp import FakeAmd
from enarx.verifier import verify_evidence
from enarx.verifier.endorsement_files import MAX_ENDORSEMENT_BYTES, cut_der, read_endorsements, split_certificates
from tests.evidence import cases, needs_evidence, read


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture(scope="module")
def chain(amd):
    return amd.make_case().certificates


@pytest.fixture(scope="module")
def intel():
    return FakeIntel()


@pytest.fixture(scope="module")
def collateral(intel):
    return intel.make_collateral(TDX, Platform())


def take(*contents):
    return read_endorsements([(f"file {number}", content) for number, content in enumerate(contents)])


def refuses(data, *words):
    with pytest.raises(DecodeError) as refused:
        take(data)
    text = str(refused.value)
    assert text.startswith("cannot read endorsements: file 0: ")
    assert "\n" not in text
    for word in words:
        assert word in text


def parts_of(collateral):
    """Return Intel's collateral as the separate files that its service gives."""
    return [
        collateral.tcb_info,
        make_pem(collateral.tcb_info_chain),
        collateral.qe_identity,
        make_pem(collateral.qe_identity_chain),
        collateral.pck_crl,
        make_pem(collateral.pck_crl_chain),
        collateral.root_ca_crl,
    ]


def bundle_of(collateral, **changes):
    """Return it as quote libraries keep it."""
    tcb_info, qe_identity = json.loads(collateral.tcb_info), json.loads(collateral.qe_identity)
    inner = {
        name: raw[len(b'{"' + member + b'":') : raw.rindex(b',"signature"')].decode()
        for name, member, raw in (
            ("tcb_info", b"tcbInfo", collateral.tcb_info),
            ("qe_identity", b"enclaveIdentity", collateral.qe_identity),
        )
    }
    return {
        **inner,
        "tcb_info_signature": tcb_info["signature"],
        "qe_identity_signature": qe_identity["signature"],
        "tcb_info_issuer_chain": make_pem(collateral.tcb_info_chain).decode(),
        "qe_identity_issuer_chain": make_pem(collateral.qe_identity_chain).decode(),
        "pck_crl_issuer_chain": make_pem(collateral.pck_crl_chain).decode(),
        "pck_crl": collateral.pck_crl.hex(),
        "root_ca_crl": collateral.root_ca_crl.hex(),
    } | changes


class TestCertificates:
    def test_in_every_form(self, chain):
        vek = chain[0]
        for data in (
            vek,
            make_pem([vek]),
            b"A comment.\n" + make_pem([vek]),
            vek.hex().encode(),
            base64.encodebytes(vek),
            json.dumps({"vcek": make_pem([vek]).decode()}).encode(),
            json.dumps([{"a": {"b": base64.b64encode(vek).decode()}}]).encode(),
            vek + bytes(100),
        ):
            assert take(data).certificates == (vek,), data[:40]

    def test_several_in_one_file_and_over_files(self, chain):
        assert take(make_pem(chain)).certificates == chain
        assert take(*chain).certificates == chain
        assert take(chain[0], make_pem(chain)).certificates == chain

    def test_in_amds_table(self, amd):
        _, table = amd.make_processor().extended_report(at=AT)
        assert len(take(table).certificates) == 3
        assert len(take(table + bytes(4096 - len(table) % 4096)).certificates) == 3

    @needs_evidence
    def test_in_a_pki_path(self):
        found = take(read("enarx/milan.pkipath"))
        assert len(found.certificates) == 2
        assert split_certificates(read("enarx/genoa.pkipath"))

    def test_lists(self, amd):
        crl = amd.make_crl()
        pem = x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)
        for data in (crl, pem, crl.hex().encode()):
            assert take(data).crls == (crl,)
        assert take(pem + make_pem([amd.root])) == Endorsements(certificates=(amd.root,), crls=(crl,))


class TestIntel:
    def judge(self, intel, endorsements):
        quote = intel.make_quote(TdReport(), Platform())
        anchors = TrustAnchors(intel=(intel.root.der,))
        return verify_evidence(Evidence(data=quote), at=AT, endorsements=endorsements, anchors=anchors)

    def test_in_separate_files_in_any_order(self, intel, collateral):
        parts = parts_of(collateral)
        for files in (parts, parts[::-1]):
            assert self.judge(intel, take(*files)).verdict is Verdict.ACCEPTED

    def test_of_two_tees_at_once(self, intel, collateral):
        both = parts_of(intel.make_collateral(SGX, Platform())) + parts_of(collateral)
        assert self.judge(intel, take(*both)).verdict is Verdict.ACCEPTED

    def test_in_one_bundle(self, intel, collateral):
        text = json.dumps(bundle_of(collateral)).encode()
        (found,) = take(text).intel
        assert found.tcb_info == collateral.tcb_info
        assert found.qe_identity == collateral.qe_identity
        assert self.judge(intel, take(text)).verdict is Verdict.ACCEPTED

    def test_lists_in_a_bundle_are_hex_pem_or_hex_of_hex(self, collateral):
        pem = x509.load_der_x509_crl(collateral.pck_crl).public_bytes(Encoding.PEM).decode()
        twice = collateral.root_ca_crl.hex().encode().hex()
        (found,) = take(json.dumps(bundle_of(collateral, pck_crl=pem, root_ca_crl=twice)).encode()).intel
        assert astuple(found) == astuple(collateral)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("tcb_info_signature", None),
            ("tcb_info_signature", 5),
            ("tcb_info_issuer_chain", ""),
            ("qe_identity_issuer_chain", "no PEM"),
            ("pck_crl", "no hex"),
            ("root_ca_crl", None),
        ],
    )
    def test_a_bundle_with_less_is_refused(self, collateral, name, value):
        refuses(json.dumps(bundle_of(collateral, **{name: value})).encode(), "cannot decode")

    def test_half_of_it_is_nothing_yet(self, collateral):
        assert take(collateral.tcb_info).intel == ()

    @needs_evidence
    def test_real_ones(self):
        for case in cases("tdx")[:5]:
            names = [name for key, name in case["inputs"].items() if key != "quote"]
            if "tcb_info" in case["inputs"]:
                assert len(read_endorsements([(name, read(name)) for name in names]).intel) == 1


class TestRefused:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"?",
            b"just words, and many of them",
            b"{}x",
            b'{"a": 5',
            b"5",
            b'{"a": "just words, and many of them"}',
            b"[" * 100_000,
            b'{"a":' * 10 + b"1" + b"}" * 10,
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
            b"\x30\x82\x01\x00" + bytes(256),
            b'{"tcb_info": 1, "qe_identity": 2}',
        ],
    )
    def test_what_is_none(self, data):
        refuses(data)

    def test_a_truncated_certificate(self, chain):
        for size in (10, 500, len(chain[0]) - 1):
            refuses(chain[0][:size])

    def test_too_much(self):
        refuses(bytes(MAX_ENDORSEMENT_BYTES + 1), f"size: found {MAX_ENDORSEMENT_BYTES + 1} bytes, want at most")

    def test_no_files_and_an_empty_table_are_no_endorsements(self):
        assert take() == take(bytes(100)) == Endorsements()


def test_der_is_cut_only_where_zeros_follow():
    element = b"\x30\x82\x00\x02\x05\x00"
    assert cut_der(element + bytes(9)) == element
    assert cut_der(element + b"\0\1") == element + b"\0\1"
    assert cut_der(b"\x30\x82") == b"\x30\x82"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.binary(max_size=300) | st.text(max_size=200).map(str.encode) | st.binary(max_size=99).map(b"\x30\x82".__add__)
)
def test_any_bytes_are_endorsements_or_a_decode_error(data):
    try:
        found = take(data)
    except DecodeError:
        return
    assert isinstance(found, Endorsements)


def test_refuses_a_revocation_list_in_pem_of_a_version_that_there_is_not(collateral):
    genuine = x509.load_der_x509_crl(collateral.root_ca_crl)
    version = bytes((2, 1, 1))
    at = collateral.root_ca_crl.index(version)
    other = collateral.root_ca_crl[:at] + bytes((2, 1, 7)) + collateral.root_ca_crl[at + 3 :]
    label = b"-----%s X509 CRL-----\n"
    pem = label % b"BEGIN" + base64.encodebytes(other) + label % b"END"
    assert take(genuine.public_bytes(Encoding.PEM)).crls == (collateral.root_ca_crl,)
    refuses(pem, "not a valid CRL version")
    chain = make_pem(collateral.tcb_info_chain).decode()
    bundle = {
        "tcb_info": collateral.tcb_info.decode(),
        "qe_identity": collateral.qe_identity.decode(),
        **dict.fromkeys(("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"), chain),
        "pck_crl": collateral.pck_crl.hex(),
    }
    assert take(json.dumps(bundle | {"root_ca_crl": collateral.root_ca_crl.hex()}).encode()).intel
    refuses(json.dumps(bundle | {"root_ca_crl": pem.decode()}).encode(), "root_ca_crl", "not a valid CRL version")
