# SPDX-License-Identifier: Apache-2.0
"""Formats and wrappers: what is known is recognised by what it is, the rest is refused in words that help."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.abi.enarx_csr import SNP_OID
from enarx.errors import DecodeError
from enarx.rats import MAX_EVIDENCE_BYTES, Evidence, Outcome, Verdict
from enarx.testing.dcap import SGX, EnclaveReport, FakeIntel, Platform, TdReport
from enarx.testing.snp import AT, FakeAmd
from enarx.verifier import recognise, verify_evidence
from enarx.wire.cmw import CmwCollection, CmwRecord, Indicator, encode_cmw_cbor, encode_cmw_json
from tests.attesting import make_pem
from tests.evidence import cases, needs_evidence, read

MEDIA_TYPE = "application/vnd.example"
KEY = ec.derive_private_key(7, ec.SECP384R1())
SEEDS = [
    FakeIntel().make_quote(TdReport(), Platform()),
    encode_cmw_cbor(CmwRecord(MEDIA_TYPE, bytes(100), Indicator.EVIDENCE)),
    encode_cmw_json(CmwRecord(MEDIA_TYPE, bytes(100))),
    b'{"report": "' + bytes(1184).hex().encode() + b'"}',
]
OTHER_KEY = ec.derive_private_key(8, ec.SECP384R1())


@pytest.fixture(scope="module")
def amd():
    return FakeAmd()


@pytest.fixture(scope="module")
def case(amd):
    return amd.make_case()


@pytest.fixture(scope="module")
def report(case):
    return case.data


@pytest.fixture(scope="module")
def quote():
    return FakeIntel().make_quote(TdReport(), Platform())


def look(data):
    return recognise(Evidence(data=data))


def refuses(data, *words):
    with pytest.raises(DecodeError) as refused:
        look(data)
    assert "\n" not in str(refused.value)
    assert refused.value.hint
    for word in words:
        assert word in str(refused.value) + str(refused.value.hint)


def b64(data):
    return base64.b64encode(data).decode()


class TestFormats:
    def test_an_snp_report(self, report):
        found = look(report)
        assert (found.section, found.format, found.wrappers) == ("snp", "AMD SEV-SNP report version 3", ())
        assert found.parsed.report.serialise() == report

    @pytest.mark.parametrize("version", [2, 3, 5])
    def test_every_version_of_it(self, amd, version):
        assert look(amd.make_case(version=version).data).format == f"AMD SEV-SNP report version {version}"

    def test_quotes(self, quote):
        assert look(quote).format == "Intel TDX quote version 4"
        sgx = FakeIntel().make_quote(EnclaveReport(), Platform())
        assert (look(sgx).section, look(sgx).format) == (SGX.lower(), "Intel SGX quote version 3")

    @needs_evidence
    @pytest.mark.parametrize(
        ("tee", "inputs", "section"),
        [
            ("snp", "report", "snp"),
            ("tdx", "quote", "tdx"),
            ("sgx", "quote", "sgx"),
            ("nitro", "document", "nitro"),
            ("cca", "token", "cca"),
            ("azure", "evidence", "azure"),
            ("azure", "hcl_report", "azure"),
            ("tpm", "attestation", "tpm"),
        ],
    )
    def test_real_ones(self, tee, inputs, section):
        names = {case["inputs"][inputs] for case in cases(tee) if isinstance(case["inputs"].get(inputs), str)}
        assert names
        for name in names:
            assert look(read(name)).section == section, name


class TestTexts:
    @pytest.mark.parametrize("name", ["report", "quote"])
    @pytest.mark.parametrize(
        "encode",
        [
            lambda data: data.hex().encode(),
            lambda data: data.hex().upper().encode(),
            lambda data: b"0x" + data.hex().encode() + b"\n",
            lambda data: b"\n".join(data.hex().encode()[at : at + 60] for at in range(0, 2 * len(data), 60)),
            base64.b64encode,
            base64.encodebytes,
            base64.urlsafe_b64encode,
            lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
            lambda data: b"\n" + base64.b64encode(data) + b"\n\0\0",
        ],
    )
    def test_in_hex_and_base64(self, request, name, encode):
        data = request.getfixturevalue(name)
        found = look(encode(data))
        assert found.wrappers == ("text",)
        assert found.parsed == look(data).parsed

    def test_text_of_text(self, report):
        assert look(report.hex().encode().hex().encode()).wrappers == ("text", "text")

    def test_not_without_an_end(self, report):
        data = report
        for _ in range(5):
            data = base64.b64encode(data)
        refuses(data, "wrappers: found more than 4, want fewer")


class TestBinaryWrappers:
    def test_a_report_in_a_larger_buffer(self, report):
        assert look(report + bytes(2816)).parsed == look(report).parsed

    def test_the_kernels_answer(self, report):
        answer = bytes(4) + len(report).to_bytes(4, "little") + bytes(24) + report
        for data in (answer, answer.ljust(4000, b"\0")):
            found = look(data)
            assert found.wrappers == ("sev-guest response",)
            assert found.parsed == look(report).parsed
        refuses(answer[:600], "found 568 bytes, want 1184")
        # A status that is not zero is no report.
        refuses(b"\x16\0\0\0" + answer[4:])

    def test_an_extended_report(self, amd):
        processor = amd.make_processor()
        report, table = processor.extended_report(at=AT)
        found = look(report + table)
        assert found.wrappers == ("extended report",)
        assert len(found.endorsements.certificates) == 3
        result = verify_evidence(found, at=AT, anchors=amd.anchors)
        assert result.verdict is Verdict.ACCEPTED
        refuses(report + b"no table", "the certificate table: found none of the known formats")
        refuses(report + table[:-1])

    def test_as_configfs_tsm_gives_it(self, amd):
        from enarx.verifier.endorsement_files import read_endorsements

        report, table = amd.make_processor().extended_report(at=AT)
        beside = read_endorsements([("auxblob", table)])
        result = verify_evidence(look(report), at=AT, endorsements=beside, anchors=amd.anchors)
        assert result.verdict is Verdict.ACCEPTED


class TestJson:
    @pytest.mark.parametrize(
        "name",
        [
            "report",
            "attestationReport",
            "attestation-report",
            "attestation_report",
            "snp_report",
            "evidence",
            "outblob",
            "reportHex",
        ],
    )
    @pytest.mark.parametrize("encode", [bytes.hex, b64, list])
    def test_under_any_usual_name_and_encoding(self, report, name, encode):
        found = look(json.dumps({name: encode(report), "nonce": "00" * 32, "version": 1, "log": ["a"]}).encode())
        assert found.parsed == look(report).parsed
        assert found.wrappers[0] == "JSON"

    @pytest.mark.parametrize("encode", [bytes.hex, b64, list, lambda der: make_pem(der).decode()])
    def test_with_certificates_beside_it(self, case, encode):
        vek, ask, ark = case.certificates
        bundle = {
            "report": case.data.hex(),
            "vcek": encode(vek),
            "chain": {"ask": make_pem(ask).decode(), "ark": b64(ark)},
        }
        found = look(json.dumps(bundle).encode())
        assert set(found.endorsements.certificates) == set(case.certificates)
        assert verify_evidence(found, at=AT, anchors=case.anchors).verdict is Verdict.ACCEPTED

    def test_inside_of_an_object(self, report):
        assert look(json.dumps({"evidence": {"report": report.hex()}}).encode()).wrappers == ("JSON", "JSON")

    def test_what_could_be_two_pieces_is_neither(self, report, quote):
        refuses(json.dumps({"report": report.hex(), "quote": quote.hex()}).encode(), "found 2 members", "want one")
        refuses(json.dumps({"report": report.hex(), "evidence": {"quote": quote.hex()}}).encode(), "found 2 members")
        refuses(b'{"report": "' + report.hex().encode() + b'", "report": "00"}', "a key twice in one object")

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            '{"report": 5}',
            '{"report": ""}',
            '{"report": [256]}',
            '{"report": [true]}',
            '{"other": "aa"}',
            '{"report": null}',
        ],
    )
    def test_nothing_in_it_is_said(self, text):
        refuses(text.encode(), "found 0 members that are evidence, want one", "evidence is named attestation")

    def test_not_nested_without_an_end(self):
        refuses(b'{"report":' * 7 + b"1" + b"}" * 7, "wrappers: found more than 4")
        refuses(b'{"report":' * 100_000, "want JSON")
        refuses(b"[" * 100_000)

    def test_truncated(self, report):
        refuses(json.dumps({"report": report.hex()}).encode()[:-2], "want JSON")


class TestCmw:
    @pytest.mark.parametrize("encode", [encode_cmw_cbor, encode_cmw_json])
    def test_a_record(self, report, encode):
        for indicator in (None, Indicator.EVIDENCE):
            found = look(encode(CmwRecord(MEDIA_TYPE, report, indicator)))
            assert found.wrappers == ("CMW",)
            assert found.parsed == look(report).parsed

    @pytest.mark.parametrize("encode", [encode_cmw_cbor, encode_cmw_json])
    def test_a_collection_with_endorsements(self, case, encode):
        collection = CmwCollection(
            {
                "evidence": CmwRecord(MEDIA_TYPE, case.data, Indicator.EVIDENCE),
                "chain": CmwRecord("application/pem", make_pem(*case.certificates), Indicator.ENDORSEMENTS),
            }
        )
        found = look(encode(collection))
        assert set(found.endorsements.certificates) == set(case.certificates)
        assert verify_evidence(found, at=AT, anchors=case.anchors).verdict is Verdict.ACCEPTED

    @pytest.mark.parametrize("encode", [encode_cmw_cbor, encode_cmw_json])
    def test_two_pieces_of_evidence_are_neither(self, report, quote, encode):
        both = CmwCollection({"a": CmwRecord(MEDIA_TYPE, report), "b": CmwRecord(MEDIA_TYPE, quote)})
        refuses(encode(both), "found 2 messages that can be evidence, want one")
        none = CmwCollection({"a": CmwRecord(MEDIA_TYPE, report, Indicator.ENDORSEMENTS)})
        refuses(encode(none), "found 0 messages")

    def test_an_endorsement_that_is_none_is_refused(self, report):
        collection = CmwCollection(
            {"a": CmwRecord(MEDIA_TYPE, report), "b": CmwRecord(MEDIA_TYPE, b"?", Indicator.ENDORSEMENTS)}
        )
        refuses(encode_cmw_cbor(collection), "cannot read endorsements: b")

    def test_not_nested_without_an_end(self, report):
        data = report
        for _ in range(5):
            data = encode_cmw_cbor(CmwRecord(MEDIA_TYPE, data))
        refuses(data, "wrappers: found more than 4")


def der(tag, *contents):
    content = b"".join(contents)
    length = bytes([len(content)]) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes([tag]) + length + content


def make_request(amd, key=KEY, asks=KEY):
    """Return the original's certificate request: the evidence binds one key, and another may ask."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    case = amd.make_case(report={"report_data": hashlib.sha384(public).digest().ljust(64, b"\0")})
    value = der(0x30, der(0x30, case.certificates[0], der(0x30, der(0x30))), der(0x04, case.data))
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(SNP_OID), value), critical=False)
    return builder.sign(asks, hashes.SHA384()), case


class TestCertificateRequest:
    def judge(self, data, case):
        recognised = look(data)
        assert recognised.wrappers == ("Enarx certificate request",)
        from enarx.rats import Endorsements

        return verify_evidence(
            recognised, at=AT, endorsements=Endorsements(certificates=case.certificates), anchors=case.anchors
        )

    @pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
    def test_binds_its_key(self, amd, encoding):
        request, case = make_request(amd)
        result = self.judge(request.public_bytes(encoding), case)
        assert result.verdict is Verdict.ACCEPTED
        outcomes = {finding.check.id: finding.outcome for finding in result.findings}
        assert outcomes["wrapper.key"] is outcomes["wrapper.signature"] is Outcome.PASSED

    def test_is_refused_with_another_key(self, amd):
        request, case = make_request(amd, asks=OTHER_KEY)
        result = self.judge(request.public_bytes(Encoding.DER), case)
        assert result.verdict is Verdict.NOT_AUTHENTIC
        assert [finding.check.id for finding in result.failures] == ["wrapper.key"]

    def test_is_refused_where_the_key_did_not_sign_it(self, amd):
        request, case = make_request(amd)
        data = bytearray(request.public_bytes(Encoding.DER))
        data[-1] ^= 1
        result = self.judge(bytes(data), case)
        assert result.verdict is Verdict.NOT_AUTHENTIC
        assert [finding.check.id for finding in result.failures] == ["wrapper.signature"]

    @needs_evidence
    @pytest.mark.parametrize(
        "name",
        ["milan.signed.crl.csr", "icelake.signed.tcb.crl.multi.xeon.csr", "icelake.signed.tcb.crl.single.i5.csr"],
    )
    def test_real_ones_bind_their_keys(self, name):
        result = verify_evidence(look(read(f"enarx/{name}")), at=AT)
        outcomes = {finding.check.id: finding.outcome for finding in result.findings}
        assert outcomes["wrapper.key"] is outcomes["wrapper.signature"] is Outcome.PASSED

    def test_a_certificate_is_no_evidence(self, case):
        for data in (case.certificates[0], make_pem(*case.certificates)):
            refuses(data, "found a certificate, which is no evidence", "--endorsements")


class TestRefused:
    def test_nothing(self):
        for size in (0, MAX_EVIDENCE_BYTES + 1):
            with pytest.raises(DecodeError, match=f"size: found {size} bytes, want 1 to {MAX_EVIDENCE_BYTES}"):
                Evidence(data=bytes(size))

    @pytest.mark.parametrize("size", [1, 4, 7, 8, 100, 4096])
    def test_zeros(self, size):
        refuses(bytes(size), "format: found none that is known")

    @pytest.mark.parametrize("size", [8, 100, 1183])
    def test_a_truncated_report(self, report, size):
        refuses(report[:size], f"found {size} bytes, want 1184")

    @pytest.mark.parametrize("size", [8, 47, 48, 632, 1000, -1])
    def test_a_truncated_quote(self, quote, size):
        refuses(quote[:size], "cannot decode the quote: ", "want")

    def test_an_extended_quote(self, quote):
        refuses(quote + b"\1")

    @pytest.mark.parametrize(
        "data",
        [
            b"Salted__\x12\x34\x56\x78\x9a\xbc\xde\xf0\xff",
            b"-----BEGIN PGP MESSAGE-----\n\nhQEMA5J\n-----END PGP MESSAGE-----\n",
            b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24\n-----END AGE ENCRYPTED FILE-----\n",
            b"age-encryption.org/v1\n-> X25519 abc\n\xff",
            b"PK\x03\x04\x14\0\x01\0",
            hashlib.shake_256(b"noise").digest(3000),
        ],
    )
    def test_an_encrypted_file(self, data):
        refuses(data, "an encrypted file has to be decrypted first")


def is_read_or_refused(data):
    """Return whether bytes are evidence, or are refused with a next step."""
    try:
        return bool(look(data).format)
    except DecodeError as error:
        return bool(error.hint)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(min_size=1, max_size=300) | st.text(min_size=1, max_size=200).map(str.encode))
def test_any_bytes_are_a_value_or_a_decode_error(data):
    assert is_read_or_refused(data)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_any_neighbour_of_evidence_is_a_value_or_a_decode_error(data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    assert is_read_or_refused(bytes(seed[: data.draw(st.integers(1, len(seed)))]))
