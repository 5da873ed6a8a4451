# SPDX-License-Identifier: Apache-2.0
"""Intel quotes: what is read is what is written, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.quote import SgxQuote, TdxQuote, parse_quote_untrusted
from enarx.errors import DecodeError
from enarx.testing.dcap import EnclaveReport, FakeIntel, Platform, TdReport
from tests.unit.verifier.dcap_corpus import quote_cases, read_quote

INTEL, PLATFORM = FakeIntel(), Platform()
TDX15 = TdReport(tee_tcb_svn2=bytes([6, 1, 4]).ljust(16, b"\0"))
QUOTES = {
    "SGX 3": INTEL.make_quote(EnclaveReport(), PLATFORM),
    "SGX 4": INTEL.make_quote(EnclaveReport(), PLATFORM, version=4),
    "SGX 5": INTEL.make_quote(EnclaveReport(), PLATFORM, version=5),
    "TDX 4": INTEL.make_quote(TdReport(), PLATFORM),
    "TDX 5": INTEL.make_quote(TdReport(), PLATFORM, version=5),
    "TDX 5 of TDX 1.5": INTEL.make_quote(TDX15, PLATFORM),
}
EVERY = pytest.mark.parametrize("data", QUOTES.values(), ids=QUOTES)


@EVERY
def test_writes_what_it_read(data):
    quote = parse_quote_untrusted(data)
    assert quote.serialise() == data
    assert data.startswith(quote.signed)
    assert isinstance(quote, SgxQuote if data[4] == 0 else TdxQuote)


def test_reads_the_fields_of_an_enclave():
    quote = parse_quote_untrusted(QUOTES["SGX 3"])
    report = EnclaveReport()
    assert (quote.version, quote.header.tee_type, quote.signature.certification_type) == (3, 0, 5)
    assert (quote.report.mr_enclave, quote.report.mr_signer) == (report.mr_enclave, report.mr_signer)
    assert (quote.report.isv_prod_id, quote.report.isv_svn, quote.report.debug) == (1, 8, False)


def test_reads_the_fields_of_a_domain():
    quote = parse_quote_untrusted(QUOTES["TDX 5 of TDX 1.5"])
    assert (quote.version, quote.body_type) == (5, 3)
    assert quote.report.mr_td == TDX15.mr_td
    assert (quote.report.tee_tcb_svn2, quote.report.mr_service_td) == (TDX15.tee_tcb_svn2, bytes(48))
    assert quote.report.sept_ve_disable
    assert not quote.report.debug
    assert parse_quote_untrusted(QUOTES["TDX 4"]).report.tee_tcb_svn2 is None


@EVERY
def test_takes_zeros_after_the_quote_and_nothing_else(data):
    assert parse_quote_untrusted(data + bytes(3000)) == parse_quote_untrusted(data)
    for rest in (b"\1", bytes(10) + b"\1", b"\n"):
        with pytest.raises(DecodeError, match="trailing bytes"):
            parse_quote_untrusted(data + rest)


@EVERY
def test_refuses_every_truncation(data):
    for size in range(0, len(data), 7):
        with pytest.raises(DecodeError):
            parse_quote_untrusted(data[:size])


@pytest.mark.parametrize(
    ("name", "offset", "value", "what"),
    [
        ("SGX 3", 0, 2, "version"),
        ("SGX 3", 0, 6, "version"),
        ("SGX 3", 2, 3, "attestation key type"),
        ("SGX 3", 4, 0x81, "TEE type"),
        ("TDX 4", 4, 0x82, "TEE type"),
        ("TDX 5", 48, 1, "body type"),
        ("TDX 5", 48, 4, "body type"),
        ("SGX 5", 48, 2, "body type"),
        ("TDX 5", 48, 3, "body size"),
        ("TDX 5", 50, 0x49, "body size"),
        ("SGX 3", 48 + 384, 0xFF, "size"),
        ("TDX 4", 48 + 584 + 4 + 128, 5, "certification data type"),
        ("TDX 4", 48 + 584 + 4 + 128 + 2, 1, "certification data size"),
        ("SGX 3", 48 + 384 + 4 + 128 + 384 + 64, 33, "certification data|size"),
    ],
)
def test_refuses_another_layout(name, offset, value, what):
    data = bytearray(QUOTES[name])
    assert data[offset] != value
    data[offset] = value
    with pytest.raises(DecodeError, match=what):
        parse_quote_untrusted(bytes(data))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(list(QUOTES.values())), st.integers(0, 4999), st.binary(min_size=1, max_size=8))
def test_any_bytes_are_a_quote_or_a_decode_error(data, offset, patch):
    offset %= len(data)
    data = data[:offset] + patch + data[offset + len(patch) :]
    try:
        quote = parse_quote_untrusted(data)
    except DecodeError:
        return
    assert quote.serialise() == data.ljust(len(quote.serialise()), b"\0")[: len(quote.serialise())]


@pytest.mark.parametrize("case", [*quote_cases("sgx"), *quote_cases("tdx")], ids=lambda case: case["id"])
def test_writes_the_real_quotes_that_it_read(case):
    data = read_quote(case)
    written = parse_quote_untrusted(data).serialise()
    assert data.startswith(written)
    assert not any(data[len(written) :])
