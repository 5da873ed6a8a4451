# SPDX-License-Identifier: Apache-2.0
"""How questions to Intel PCS are spelled, and which answers are answers to them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.endorsers import intel_pcs
from enarx.errors import DecodeError, UsageError
from enarx.testing.dcap import Platform
from enarx.testing.endorsers import encode_chain

from .conftest import NOW

BASE = "https://pccs.example:8081"
FMSPC = bytes.fromhex("e0d06f000000")


@pytest.fixture
def tcb_headers(collateral):
    return {"tcb-info-issuer-chain": encode_chain(collateral.tcb_info_chain)}


@pytest.fixture
def crl_headers(collateral):
    return {"sgx-pck-crl-issuer-chain": encode_chain(collateral.pck_crl_chain)}


def test_spells_each_question():
    assert (
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).url
        == BASE + "/tdx/certification/v4/tcb?fmspc=E0D06F000000&update=standard"
    )
    assert (
        intel_pcs.tcb_info_wanted(BASE, "sgx", FMSPC, "early").key
        == "https://api.trustedservices.intel.com/sgx/certification/v4/tcb?fmspc=E0D06F000000&update=early"
    )
    assert intel_pcs.qe_identity_wanted(BASE, "tdx").url == BASE + "/tdx/certification/v4/qe/identity?update=standard"
    assert (
        intel_pcs.pck_crl_wanted(BASE, "processor").url
        == BASE + "/sgx/certification/v4/pckcrl?ca=processor&encoding=der"
    )


def test_the_list_of_the_root_is_where_intel_or_a_mirror_has_it():
    at_intel = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    assert intel_pcs.root_crl_wanted(intel_pcs.INTEL_PCS_URL).url == at_intel
    mirrored = intel_pcs.root_crl_wanted(BASE)
    assert (mirrored.url, mirrored.key) == (BASE + "/sgx/certification/v4/rootcacrl", at_intel)


def test_refuses_an_unknown_update():
    with pytest.raises(UsageError, match="found late, want one of standard, early"):
        intel_pcs.tcb_info_wanted(BASE, "sgx", FMSPC, "late")


def test_accepts_tcb_info_with_its_chain(collateral, tcb_headers):
    content = intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(collateral.tcb_info, tcb_headers)
    assert content.value == (collateral.tcb_info, collateral.tcb_info_chain)
    assert content.issued_at == NOW - timedelta(days=1)
    assert content.valid_until == NOW + timedelta(days=29)


def test_accepts_the_chain_under_the_name_of_version_3(collateral, tcb_headers):
    headers = {"sgx-tcb-info-issuer-chain": tcb_headers["tcb-info-issuer-chain"]}
    content = intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(collateral.tcb_info, headers)
    assert content.value == (collateral.tcb_info, collateral.tcb_info_chain)


def test_refuses_tcb_info_of_another_platform_or_tee(collateral, tcb_headers):
    with pytest.raises(DecodeError, match="FMSPC"):
        intel_pcs.tcb_info_wanted(BASE, "tdx", bytes(6)).accept(collateral.tcb_info, tcb_headers)
    with pytest.raises(DecodeError, match="found tcbInfo of TDX, want SGX"):
        intel_pcs.tcb_info_wanted(BASE, "sgx", FMSPC).accept(collateral.tcb_info, tcb_headers)


def test_accepts_the_identity_of_the_tee_alone(collateral):
    headers = {"sgx-enclave-identity-issuer-chain": encode_chain(collateral.qe_identity_chain)}
    accept = intel_pcs.qe_identity_wanted(BASE, "tdx").accept
    assert accept(collateral.qe_identity, headers).value == (collateral.qe_identity, collateral.qe_identity_chain)
    with pytest.raises(DecodeError, match="found enclaveIdentity of TD_QE, want QE"):
        intel_pcs.qe_identity_wanted(BASE, "sgx").accept(collateral.qe_identity, headers)


@pytest.mark.parametrize(
    "change",
    [
        lambda chain: None,
        lambda chain: "",
        lambda chain: "garbage",
        lambda chain: "%ff%fe",
        lambda chain: encode_chain(chain[:1]),
        lambda chain: encode_chain(chain[::-1]),
        lambda chain: encode_chain(chain[1:]),
        lambda chain: encode_chain((chain[0], chain[0], chain[1])),
        lambda chain: encode_chain(chain) * 9,
    ],
)
def test_refuses_a_wrong_chain_header(collateral, change):
    value = change(collateral.tcb_info_chain)
    headers = {} if value is None else {"tcb-info-issuer-chain": value}
    with pytest.raises(DecodeError):
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(collateral.tcb_info, headers)


def test_refuses_the_chain_of_another_signer(collateral, crl_headers):
    headers = {"tcb-info-issuer-chain": crl_headers["sgx-pck-crl-issuer-chain"]}
    with pytest.raises(DecodeError, match="want one from Intel SGX TCB Signing to Intel SGX Root CA"):
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(collateral.tcb_info, headers)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"{", b"<html>", b"[" * 5000, b'{"tcbInfo": [], "signature": ""}', b'{"tcbInfo": {}}', b"\xff",
        b'{"tcbInfo": {"id": "TDX"}, "signature": ""}', b'{"tcbInfo": {"id": "TDX", "fmspc": 1}, "signature": ""}',
        b'{"tcbInfo": {"id": "TDX", "fmspc": "E0D06F000000"}, "signature": ""}',
    ],
)  # fmt: skip
def test_refuses_garbage(tcb_headers, body):
    with pytest.raises(DecodeError):
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(body, tcb_headers)


@pytest.mark.parametrize(
    "date", [None, 5, "", "tomorrow", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00+01:00"]
)
def test_refuses_a_date_of_another_form(collateral, tcb_headers, date):
    document = json.loads(collateral.tcb_info)
    document["tcbInfo"]["nextUpdate"] = date
    with pytest.raises(DecodeError, match="nextUpdate"):
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC).accept(json.dumps(document).encode(), tcb_headers)


def test_accepts_a_list_in_each_form_that_a_mirror_sends(collateral, crl_headers):
    accept = intel_pcs.pck_crl_wanted(BASE, "platform").accept
    pem = x509.load_der_x509_crl(collateral.pck_crl).public_bytes(Encoding.PEM)
    for body in (
        collateral.pck_crl,
        pem,
        collateral.pck_crl.hex().encode(),
        collateral.pck_crl.hex().upper().encode() + b"\n",
    ):
        assert accept(body, crl_headers).value == (collateral.pck_crl, collateral.pck_crl_chain)


def test_refuses_a_list_of_another_ca(intel, collateral, crl_headers):
    with pytest.raises(DecodeError, match="Intel SGX PCK Processor CA"):
        intel_pcs.pck_crl_wanted(BASE, "processor").accept(collateral.pck_crl, crl_headers)
    processor = intel.make_collateral("SGX", Platform(instance_id=None))
    with pytest.raises(DecodeError, match="found a list of Intel SGX PCK Processor CA"):
        intel_pcs.pck_crl_wanted(BASE, "platform").accept(processor.pck_crl, crl_headers)
    with pytest.raises(DecodeError, match="want one of Intel SGX Root CA"):
        intel_pcs.root_crl_wanted(BASE).accept(collateral.pck_crl, {})


@pytest.mark.parametrize("body", [b"", b"zz", b"\x30\x82", b"-----BEGIN X509 CRL-----", b"3080"])
def test_refuses_a_list_that_is_none(crl_headers, body):
    with pytest.raises(DecodeError):
        intel_pcs.pck_crl_wanted(BASE, "platform").accept(body, crl_headers)
    with pytest.raises(DecodeError):
        intel_pcs.root_crl_wanted(BASE).accept(body, {})


def test_knows_when_collateral_covers_a_platform(intel, collateral):
    def covers(given=collateral, tee="tdx", fmspc=FMSPC, ca="platform", at=NOW):
        return intel_pcs.covers(given, tee, fmspc, ca, at)

    assert covers()
    assert not covers(tee="sgx")
    assert not covers(fmspc=bytes(6))
    assert not covers(ca="processor")
    assert not covers(at=NOW + timedelta(days=30))
    assert not covers(at=NOW - timedelta(days=2))
    assert not covers(replace(collateral, root_ca_crl=b""))
    assert not covers(replace(collateral, qe_identity=b"{}"))


def test_refuses_a_field_of_another_size():
    with pytest.raises(ValueError, match="want 6"):
        intel_pcs.tcb_info_wanted(BASE, "tdx", FMSPC[:5])
