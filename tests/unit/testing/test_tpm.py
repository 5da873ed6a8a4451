# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from enarx.testing.tpm import (
    AK_USAGE,
    FakeTpm,
    FakeTpmMaker,
    make_hcl_report,
    make_runtime_data,
    make_secure_boot_event,
)


def test_a_name_has_one_key():
    assert FakeTpm("one").spki == FakeTpm("one").spki
    assert FakeTpm("one").spki != FakeTpm("two").spki
    assert FakeTpm("one", kind="ecc").pin == hashlib.sha256(FakeTpm("one", kind="ecc").spki).digest()


def test_a_new_tpm_holds_what_a_reset_leaves():
    pcrs = FakeTpm("one").pcrs["sha256"]
    assert all(pcrs[index] == (b"\xff" if 17 <= index <= 22 else b"\0") * 32 for index in range(24))
    assert FakeTpm("one", locality=3).pcrs["sha1"][0] == bytes(19) + b"\3"


def test_extends_every_bank_and_writes_the_log():
    tpm = FakeTpm("one")
    tpm.extend(4, b"boot loader")
    for bank in tpm.banks:
        digest = hashlib.new(bank, b"boot loader").digest()
        assert tpm.pcrs[bank][4] == hashlib.new(bank, bytes(len(digest)) + digest).digest()
    assert tpm.event_log().endswith(b"\x0b\0\0\0boot loader")


def test_signs_what_it_says():
    tpm = FakeTpm("one")
    message, signature = tpm.quote(b"nonce")
    tpm.key.public_key().verify(signature[6:], message, padding.PKCS1v15(), hashes.SHA256())
    assert message[:6].hex() == "ff5443478018"
    assert b"\0\5nonce" in message


def test_certifies_a_key():
    maker, tpm = FakeTpmMaker(), FakeTpm("one")
    leaf = x509.load_der_x509_certificate(maker.certify(tpm))
    intermediate = x509.load_der_x509_certificate(maker.intermediate)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(x509.load_der_x509_certificate(maker.root))
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == [AK_USAGE]


def test_makes_reports_of_the_size_of_nv_memory():
    tpm = FakeTpm("one")
    runtime = make_runtime_data(tpm)
    report = make_hcl_report(bytes(1184), runtime, report_type=2)
    assert len(report) == 2600
    assert report[:4] == b"HCLA"
    assert report[0x4D4:].startswith(runtime)


def test_names_only_rsa_keys_in_runtime_data():
    with pytest.raises(TypeError):
        make_runtime_data(FakeTpm("one", kind="ecc"))


def test_the_secure_boot_event_is_a_uefi_variable():
    event = make_secure_boot_event(b"\1")
    assert event[16:32].hex() == "0a000000000000000100000000000000"
    assert event.endswith("SecureBoot".encode("utf-16-le") + b"\1")
