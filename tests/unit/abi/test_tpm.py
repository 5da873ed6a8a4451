# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.tpm import (
    parse_attest_untrusted,
    parse_pcr_file_untrusted,
    parse_public_untrusted,
    parse_signature_untrusted,
    serialise_attest,
    serialise_pcr_file,
    serialise_public,
    serialise_signature,
)
from enarx.errors import DecodeError
from enarx.testing.tpm import FakeTpm
from tests.evidence import needs_evidence, read

TPM = FakeTpm("abi")
ECC = FakeTpm("abi", kind="ecc")
MESSAGE, SIGNATURE = TPM.quote(b"nonce", selections=(("sha256", (0, 7, 23)), ("sha1", (4,))))
PARSERS = (parse_attest_untrusted, parse_signature_untrusted, parse_public_untrusted, parse_pcr_file_untrusted)
SAMPLES = (MESSAGE, SIGNATURE, TPM.public_area, TPM.make_pcr_file())


def test_reads_every_field_of_a_quote():
    attest = parse_attest_untrusted(MESSAGE)
    assert attest.extra_data == b"nonce"
    assert (attest.clock, attest.reset_count, attest.restart_count, attest.safe) == (123456, 3, 1, True)
    assert attest.firmware == bytes(7) + b"\1"
    assert [(each.bank, each.pcrs) for each in attest.selections] == [("sha256", (0, 7, 23)), ("sha1", (4,))]
    assert len(attest.pcr_digest) == 32
    assert len(attest.qualified_signer) == 34


def test_writes_a_quote_as_it_was_read():
    assert serialise_attest(parse_attest_untrusted(MESSAGE)) == MESSAGE


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"magic": 0x00544347}, "magic"),
        ({"type": 0x8017}, "type: found 0x8017"),
        ({"safe": 2}, "clock safe"),
        ({"digest": bytes(65)}, "size of a field"),
        ({"signer": bytes(67)}, "size of a field"),
    ],
)
def test_refuses_what_is_no_quote(changes, subject):
    with pytest.raises(DecodeError, match=subject):
        parse_attest_untrusted(TPM.quote(b"nonce", changes=changes)[0])


def _with_selection(selection):
    head = MESSAGE[: MESSAGE.index(struct.pack(">IHB", 2, 11, 3))]
    return head + selection


@pytest.mark.parametrize(
    ("selection", "subject"),
    [
        (struct.pack(">I", 0xFFFFFFFF), "PCR banks"),
        (struct.pack(">IHB", 1, 0x7777, 3), "hash algorithm"),
        (struct.pack(">IHB", 1, 11, 255), "PCR bitmap"),
        (struct.pack(">IHB", 1, 11, 4) + b"\0\0\0\1", "PCR: found 24"),
    ],
)
def test_refuses_an_absurd_selection(selection, subject):
    with pytest.raises(DecodeError, match=subject):
        parse_attest_untrusted(_with_selection(selection) + bytes(64))


@pytest.mark.parametrize(("parse", "sample"), list(zip(PARSERS, SAMPLES, strict=True)))
def test_refuses_every_truncation_and_a_trailing_byte(parse, sample):
    parse(sample)
    for size in range(len(sample)):
        with pytest.raises(DecodeError):
            parse(sample[:size])
    with pytest.raises(DecodeError):
        parse(sample + b"\0")


@pytest.mark.parametrize("scheme", ["rsassa", "rsapss"])
def test_reads_and_writes_rsa_signatures(scheme):
    data = TPM.sign(b"message", scheme=scheme)
    signature = parse_signature_untrusted(data)
    assert (signature.scheme, signature.hash, len(signature.values)) == (scheme, "sha256", 1)
    assert serialise_signature(signature) == data


def test_reads_and_writes_an_ecdsa_signature():
    data = ECC.sign(b"message")
    signature = parse_signature_untrusted(data)
    assert (signature.scheme, len(signature.values)) == ("ecdsa", 2)
    assert serialise_signature(signature) == data


def test_refuses_a_signature_scheme_that_is_none():
    with pytest.raises(DecodeError, match="scheme"):
        parse_signature_untrusted(struct.pack(">HH", 5, 11) + bytes(40))


@pytest.mark.parametrize("tpm", [TPM, ECC], ids=["rsa", "ecc"])
def test_reads_and_writes_a_public_area_of_both_forms(tpm):
    area = tpm.public_area
    public = parse_public_untrusted(area)
    assert public.words == {
        "fixed_tpm", "fixed_parent", "sensitive_data_origin", "user_with_auth", "restricted", "sign"
    }  # fmt: skip
    assert parse_public_untrusted(struct.pack(">H", len(area)) + area) == public
    assert serialise_public(public) == area


def test_refuses_a_modulus_of_another_size_than_it_says():
    area = bytearray(TPM.public_area)
    at = area.index(struct.pack(">HI", 2048, 0))
    area[at : at + 2] = struct.pack(">H", 3072)
    with pytest.raises(DecodeError, match="modulus"):
        parse_public_untrusted(bytes(area))


def test_reads_and_writes_a_pcr_file():
    data = TPM.make_pcr_file((("sha256", range(24)), ("sha1", (0, 1))))
    values = parse_pcr_file_untrusted(data)
    assert values["sha256"] == dict(enumerate(TPM.pcrs["sha256"]))
    assert values["sha1"] == {0: TPM.pcrs["sha1"][0], 1: TPM.pcrs["sha1"][1]}
    assert serialise_pcr_file(values) == data


def test_refuses_a_pcr_file_with_absurd_counts():
    data = TPM.make_pcr_file()
    for at, value, subject in (
        (0, 17, "PCR banks"),
        (0, 0, "PCR banks"),
        (132, 0xFFFFFFFF, "digest lists"),
        (136, 9, "digests in a list"),
    ):
        with pytest.raises(DecodeError, match=subject):
            parse_pcr_file_untrusted(data[:at] + struct.pack("<I", value) + data[at + 4 :])


def test_refuses_a_pcr_value_of_another_size():
    data = TPM.make_pcr_file()
    with pytest.raises(DecodeError, match="PCR 0"):
        parse_pcr_file_untrusted(data[:140] + struct.pack("<H", 20) + data[142:])


@needs_evidence
def test_reads_what_tpm2_tools_wrote():
    message, signature = read("tpm/keylime/quote.out"), read("tpm/keylime/quotesig.out")
    assert serialise_attest(parse_attest_untrusted(message)) == message
    assert serialise_signature(parse_signature_untrusted(signature)) == signature
    values = parse_pcr_file_untrusted(read("tpm/keylime/quotepcr.out"))
    assert sorted(values["sha256"]) == [15, 16, 22]
    assert serialise_pcr_file(values) == read("tpm/keylime/quotepcr.out")
    public = parse_public_untrusted(read("tpm/keylime/ak.pub"))
    assert serialise_public(public) == read("tpm/keylime/ak.pub")[2:]


def _check_any_bytes(which, position, change):
    sample = bytearray(SAMPLES[which])
    at = position % len(sample)
    sample[at : at + len(change)] = change
    for parse in PARSERS:
        try:
            parse(bytes(sample))
        except DecodeError:
            continue


ANYTHING = (st.integers(0, 3), st.integers(0, 1 << 16), st.binary(max_size=12))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(*ANYTHING)
def test_any_bytes_are_a_value_or_a_decode_error(which, position, change):
    _check_any_bytes(which, position, change)
