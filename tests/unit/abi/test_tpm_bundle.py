# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.tpm_bundle import (
    is_azure_bundle,
    is_tpm_bundle,
    make_azure_evidence_untrusted,
    make_tpm_evidence_untrusted,
    parse_azure_bundle_untrusted,
    parse_tpm_bundle_untrusted,
    parse_tpm_protobuf_untrusted,
)
from enarx.errors import DecodeError
from enarx.testing.tpm import FakeTpm, FakeTpmMaker, make_hcl_report, make_runtime_data
from tests.evidence import cases, needs_evidence, read

TPM = FakeTpm("bundle")
TPM.boot()
MAKER = FakeTpmMaker("bundle")
CERTIFICATE = MAKER.certify(TPM)
REPORT = make_hcl_report(bytes(1024), make_runtime_data(TPM), report_type=4)
BUNDLE = TPM.make_bundle(b"nonce")
PROTOBUF = TPM.make_protobuf(b"nonce", certificates=(CERTIFICATE, MAKER.intermediate))


def octets(data):
    return list(data)


def url_safe(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hexed(data):
    return data.hex()


def azure_bundle(encode, **more):
    message, signature = TPM.quote(b"nonce")
    quote = {
        "message": encode(message),
        "signature": encode(signature[6:]),
        "pcrs": [encode(value) for value in TPM.pcrs["sha256"]],
    }
    return {"hcl_report": encode(REPORT), "tpm_quote": quote} | more


@pytest.mark.parametrize("encode", [octets, url_safe, hexed], ids=lambda each: each.__name__)
def test_reads_byte_strings_in_every_encoding(encode):
    evidence = parse_azure_bundle_untrusted(azure_bundle(encode))
    assert evidence == parse_azure_bundle_untrusted(azure_bundle(octets))
    assert evidence.quote.attest.extra_data == b"nonce"
    assert evidence.quote.pcrs["sha256"] == dict(enumerate(TPM.pcrs["sha256"]))
    assert evidence.hcl.tee == "tdx"


@pytest.mark.parametrize("padding", [b"", bytes(1500)])
def test_reads_a_certificate_from_nv_memory_without_its_padding(padding):
    body = base64.encodebytes(CERTIFICATE + padding).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    message, signature = TPM.quote(b"nonce")
    quote = {"message": octets(message), "signature": octets(signature[6:]), "pcrs": []}
    evidence = parse_azure_bundle_untrusted(
        {"hcl_report_base64": url_safe(REPORT), "tpm_attestation": {"ak_certificate_pem": pem, "quote": quote}}
    )
    assert evidence.ak_certificates == (CERTIFICATE,)
    assert evidence.event_logs == ()


def test_leaves_other_bytes_after_a_certificate_for_its_reader_to_refuse():
    bundle = BUNDLE | {"ak_cert": url_safe(CERTIFICATE + b"\0\1")}
    assert parse_tpm_bundle_untrusted(bundle).certificates == (CERTIFICATE + b"\0\1",)


def test_reads_a_tpm_bundle_with_everything():
    bundle = BUNDLE | {"ak_cert": url_safe(CERTIFICATE), "event_log": url_safe(TPM.event_log())}
    evidence = parse_tpm_bundle_untrusted(bundle)
    assert evidence.ak_spki == TPM.spki
    assert evidence.certificates == (CERTIFICATE,)
    assert evidence.event_logs == (TPM.event_log(),)
    assert evidence.quotes[0].signature.scheme == "rsassa"


def test_tells_shapes_apart():
    assert is_tpm_bundle(BUNDLE)
    assert not is_azure_bundle(BUNDLE)
    assert is_azure_bundle(azure_bundle(octets))
    assert not is_tpm_bundle(azure_bundle(octets))
    for other in ([], None, 5, "text", {}, {"quote": "abc"}):
        assert not is_tpm_bundle(other)
        assert not is_azure_bundle(other)


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"hcl_report": None}, "hcl_report"),
        ({"hcl_report": [256]}, "hcl_report"),
        ({"hcl_report": ["a"]}, "hcl_report"),
        ({"hcl_report": "*"}, "hcl_report"),
        ({"hcl_report": "A" * 200_000}, "hcl_report"),
        ({"tpm_quote": []}, "the quote"),
        ({"tpm_quote": {}}, "message"),
        ({"td_quote": "00"}, "quote"),
        ({"vcek": "-----BEGIN CERTIFICATE-----"}, "vcek"),
        ({"vcek": "AAAA"}, "vcek"),
    ],
)
def test_refuses_an_azure_bundle_that_is_wrong(change, subject):
    with pytest.raises(DecodeError, match=subject):
        parse_azure_bundle_untrusted(azure_bundle(octets) | change)


@pytest.mark.parametrize("pcrs", [None, [[0] * 31], [[0] * 32] * 25, ["00"], [{}], "00" * 32], ids=str)
def test_refuses_pcr_values_that_are_none(pcrs):
    bundle = {**BUNDLE, "tpm_quote": {**BUNDLE["tpm_quote"], "pcrs": pcrs}}
    with pytest.raises(DecodeError, match=r"pcrs|PCR"):
        parse_tpm_bundle_untrusted(bundle)


def test_refuses_what_is_no_object():
    for parse in (parse_tpm_bundle_untrusted, parse_azure_bundle_untrusted):
        with pytest.raises(DecodeError, match="shape"):
            parse([])


def test_reads_a_protobuf_attestation():
    evidence = parse_tpm_protobuf_untrusted(PROTOBUF)
    assert [list(quote.pcrs) for quote in evidence.quotes] == [["sha1"], ["sha256"], ["sha384"]]
    assert evidence.quotes[1].pcrs["sha256"] == dict(enumerate(TPM.pcrs["sha256"]))
    assert evidence.ak_public.kind == "rsa"
    assert evidence.certificates == (CERTIFICATE, MAKER.intermediate)
    assert evidence.event_logs == (TPM.event_log(),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 11,
        b"\x12\x00",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b",
        b"\x02\x00",
        PROTOBUF[:-1],
        PROTOBUF + b"\x08\x01",
        PROTOBUF + b"\x12",
        b"\x12\x00" * 9,
        b"\x20\x01" * 5000,
    ],
)
def test_refuses_what_is_no_attestation_protobuf(data):
    with pytest.raises(DecodeError):
        parse_tpm_protobuf_untrusted(data)


def test_skips_protobuf_fields_that_it_does_not_know():
    more = b"\x22\x01x" + b"\x2d\0\0\0\0" + b"\x29" + bytes(8) + b"\x78\x01"
    assert parse_tpm_protobuf_untrusted(PROTOBUF + more) == parse_tpm_protobuf_untrusted(PROTOBUF)


@pytest.mark.parametrize("form", ["der", "pem", "public"])
def test_takes_a_key_in_every_form(form):
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(TPM.spki) + b"-----END PUBLIC KEY-----\n"
    ak = {"der": TPM.spki, "pem": pem, "public": TPM.public_area}[form]
    evidence = make_tpm_evidence_untrusted(*TPM.quote(b"nonce"), TPM.make_pcr_file(), ak=ak)
    assert (evidence.ak_public is not None) == (form == "public")
    assert form == "public" or evidence.ak_spki == TPM.spki


def test_refuses_a_td_quote_that_is_an_sgx_quote():
    from enarx.testing.dcap import EnclaveReport, FakeIntel, Platform

    with pytest.raises(DecodeError, match="SGX"):
        make_azure_evidence_untrusted(REPORT, td_quote=FakeIntel().make_quote(EnclaveReport(), Platform()))


@needs_evidence
def test_reads_every_real_bundle():
    for case in cases("azure"):
        if "evidence" in case["inputs"]:
            bundle = json.loads(read(case["inputs"]["evidence"]))
            assert is_azure_bundle(bundle)
            assert parse_azure_bundle_untrusted(bundle).quote is not None
    bundle = json.loads(read("tpm/trustee/tpm_evidence.json"))
    assert is_tpm_bundle(bundle)
    assert parse_tpm_bundle_untrusted(bundle).ak_spki is not None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.text(max_size=8) | st.just("00" * 32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("hcl_report", "tpm_quote", "td_quote", "vcek", "tpm_attestation", "event_log", "ak_public", "ak_cert", "pcrs")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(FIELDS), JSON_VALUES)
def test_any_json_is_evidence_or_a_decode_error(field, value):
    inner = {"message", "signature", "pcrs"}
    for parse, good in ((parse_azure_bundle_untrusted, azure_bundle(octets)), (parse_tpm_bundle_untrusted, BUNDLE)):
        bundle = good | ({"tpm_quote": good["tpm_quote"] | {field: value}} if field in inner else {field: value})
        try:
            parse(bundle)
        except DecodeError:
            continue


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, len(PROTOBUF) - 1), st.binary(max_size=6))
def test_any_bytes_are_a_protobuf_attestation_or_a_decode_error(at, change):
    with contextlib.suppress(DecodeError):
        parse_tpm_protobuf_untrusted(PROTOBUF[:at] + change + PROTOBUF[at + len(change) :])
