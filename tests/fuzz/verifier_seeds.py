# SPDX-License-Identifier: Apache-2.0
"""What the fuzzing of each parser begins with: real evidence, read in place, and what `enarx.testing` makes.

What holds it together: a function for each kind of bytes, which later ones put together: reports into requests, requests into
evidence of any kind, all of it with endorsements and times into cases for a verdict.

Rules of this file:

- Without a corpus there are seeds all the same, and with one no file of it is written anywhere but a temporary folder.
- Keys that `enarx.testing` draws are those of one process. `roots_of_tests` says whom to trust who judges what they signed.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import cbor2

from tests.evidence import FOLDER, IS_PRESENT, read
from tests.fuzz.verifier_mutations import der_length, is_der, read_cbor, read_protobuf, write_cbor

AT = datetime(2026, 6, 1, tzinfo=UTC)
MAX_SEEDS = 60
MAX_SEED_BYTES = 48 << 10


@cache
def _names() -> tuple[str, ...]:
    return tuple(
        sorted(
            os.path.relpath(os.path.join(folder, name), FOLDER)
            for folder, _, names in os.walk(FOLDER)
            for name in names
            if name != "sealed.bin"
        )
    )


def real(*suffixes: str, below: str = "") -> list[bytes]:
    """Return the content of corpus files by the ends of their names, below a folder; no more than are useful."""
    found = []
    for name in _names():
        if name.startswith(below) and name.endswith(suffixes):
            with open(os.path.join(FOLDER, name), "rb") as file:
                found.append(file.read(MAX_SEED_BYTES + 1))
    found = [data for data in dict.fromkeys(found) if len(data) <= MAX_SEED_BYTES]
    return found[:: len(found) // MAX_SEEDS + 1]


@cache
def _amd() -> Any:
    from enarx.testing.snp import FakeAmd

    return FakeAmd("Milan")


@cache
def _intel() -> Any:
    from enarx.testing.dcap import FakeIntel

    return FakeIntel()


@cache
def collateral_of(tee: str) -> Any:
    from enarx.testing.dcap import Platform

    return _intel().make_collateral(tee, Platform())


@cache
def _tpm(kind: str = "rsa") -> Any:
    from enarx.testing.tpm import FakeTpm

    tpm = FakeTpm(kind=kind)
    tpm.boot()
    return tpm


@cache
def _arm() -> Any:
    from enarx.testing.cca import CcaPlatform

    return CcaPlatform()


@cache
def _aws() -> Any:
    from enarx.testing.nitro import NitroAuthority

    return NitroAuthority(at=AT)


@cache
def _cca() -> tuple[bytes, ...]:
    from enarx.abi.cca import COLLECTION_TAG

    return _arm().token(), _arm().token(tag=COLLECTION_TAG)


@cache
def _nitro() -> tuple[bytes, ...]:
    return _aws().document(), _aws().document(is_tpm=True, tagged=True)


def snp_reports() -> list[bytes]:
    from enarx.emulator.report import make_report

    made = [make_report(version=version).serialise() for version in (2, 3, 5)]
    return [*made, *(data for data in real("report.bin", below="snp") if len(data) == 1184)]


def certificates() -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    case = _amd().make_case()
    found = [*case.certificates, *collateral_of("TDX").tcb_info_chain, *real(".der", ".cer", ".crt", below="snp")]
    found += real(".cer", ".crt", ".der", below="roots")
    for pem in real(".pem", below="roots") + real("chain.pem", below="tdx"):
        try:
            found += [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem)]
        except ValueError:
            continue
    return list(dict.fromkeys(data for data in found if is_der(data)))[:MAX_SEEDS]


def crls() -> list[bytes]:
    collateral = collateral_of("SGX")
    return [
        _amd().make_crl(revoked=["ask"]),
        collateral.pck_crl,
        collateral.root_ca_crl,
        *real("crl.der"),
        *real(".der", below="snp/crl"),
    ]


def pem_chains() -> list[bytes]:
    from enarx.testing.dcap import make_pem

    return [make_pem(collateral_of("SGX").tcb_info_chain), *real(".pem")]


def certificate_tables() -> list[bytes]:
    from enarx.abi.snp import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, serialise_certificate_table

    vcek, ask, ark = _amd().make_case().certificates
    small = [(VCEK_GUID, b"vcek"), (ASK_GUID, b"ask"), (ARK_GUID, b"ark"), (CRL_GUID, b"crl")]
    return [
        serialise_certificate_table(small),
        serialise_certificate_table([(VCEK_GUID, vcek), (ASK_GUID, ask), (ARK_GUID, ark)]) + bytes(4000),
        *(data[1184:] for data in real("extended_report.bin")),
    ]


def sev_crate_tables() -> list[bytes]:
    from uuid import UUID

    def entry(kind: int, content: bytes, guid: str | None = None) -> bytes:
        head = kind.to_bytes(4, "little")
        if guid is not None:
            head += (16).to_bytes(8, "little") + UUID(guid).bytes
        return head + len(content).to_bytes(8, "little") + content

    one = (2).to_bytes(8, "little") + entry(0, b"ark") + entry(2, b"vcek")
    two = (2).to_bytes(8, "little") + entry(5, b"x" * 40, "63da758d-e664-4564-adc5-f4b93be8accd") + entry(3, b"vlek")
    return [one, two, *(data[1184:] for data in real("extended_report.bin"))]


def vek_extensions() -> list[bytes]:
    """Return extensions as pairs of a number and a sized value: the object identifiers are fixed, so none is misspelt."""
    from cryptography import x509

    from enarx.abi.snp import VEK_OIDS

    oids, found = sorted(VEK_OIDS), []
    for der in certificates():
        try:
            extensions = x509.load_der_x509_certificate(der).extensions
        except ValueError:
            continue
        values = [(each.oid.dotted_string, each.value) for each in extensions]
        items = [(oids.index(oid), value.value) for oid, value in values if oid in oids]
        if items:
            found.append(b"".join(bytes((index, len(value))) + value for index, value in items if len(value) < 256))
    return found


def quotes() -> list[bytes]:
    from enarx.testing.dcap import EnclaveReport, Platform, TdReport

    made = [_intel().make_quote(EnclaveReport(), Platform(), version=version) for version in (3, 4, 5)]
    made += [_intel().make_quote(TdReport(), Platform(), version=version) for version in (4, 5)]
    return made + real("quote.bin", "quote_padded.bin")


def pck_extensions() -> list[bytes]:
    from cryptography import x509

    from enarx.abi.pck import SGX_EXTENSION_OID
    from enarx.testing.dcap import Platform, make_sgx_extension

    found = [make_sgx_extension(Platform()), make_sgx_extension(Platform(instance_id=None))]
    for quote in real("quote.bin")[::4]:
        try:
            begin = quote.index(b"-----BEGIN")
            leaf = x509.load_pem_x509_certificate(
                quote[begin : quote.index(b"-----END", begin)] + b"-----END CERTIFICATE-----\n"
            )
            extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(SGX_EXTENSION_OID))
        except (ValueError, x509.ExtensionNotFound):
            continue
        found.append(extension.value.value)
    return list(dict.fromkeys(found))


def tcb_infos() -> list[bytes]:
    return [collateral_of("SGX").tcb_info, collateral_of("TDX").tcb_info, *real("tcb_info.json")[::4]]


def qe_identities() -> list[bytes]:
    return [collateral_of("SGX").qe_identity, collateral_of("TDX").qe_identity, *real("qe_identity.json")[::4]]


def nitro_documents() -> list[bytes]:
    return [*_nitro(), *real(".bin", ".cbor", ".cose", below="nitro")]


def cca_tokens() -> list[bytes]:
    return [*_cca(), *real("token.cbor", below="cca")]


def cbor_items() -> list[bytes]:
    found = [
        b"\x00",
        b"\x9f\x01\xff",
        b"\xbf\x61a\x01\xff",
        b"\x1b" + b"\xff" * 8,
        b"\xfb" + bytes(8),
        b"\xd9\x01\xf5\xa0",
        b"\xc2\x41\1",
    ]
    found += [b"\x81" * 14 + b"\x00", bytes.fromhex("a301020362616204834001f6")]
    return found + [data for data in cca_tokens() + nitro_documents() + real(".cbor") if len(data) < 3000]


def cose_messages() -> list[bytes]:
    return [*nitro_documents()[:20], *signed_corims()]


def cose_keys() -> list[bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    from enarx.crypto.cose import encode_key

    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    keys = [ec.derive_private_key(7, curve).public_key() for curve in curves]
    found = [encode_key(key) for key in (*keys, ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())]
    return [
        *found,
        *(
            write_cbor(read_cbor(data) | {3: algorithm})
            for data, algorithm in zip(found, (-7, -35, -36, -8), strict=True)
        ),
    ]


def tpm_quotes() -> list[tuple[bytes, bytes]]:
    selections = ((("sha256", range(24)),), (("sha1", range(8)), ("sha384", (0, 7, 23))))
    made = [_tpm(kind).quote(b"nonce", selections=each) for kind in ("rsa", "ecc") for each in selections]
    return [*made, (b"\xffTCG", _tpm().sign(b"x", scheme="rsapss"))]


def tpm_attests() -> list[bytes]:
    return [
        *(message for message, _ in tpm_quotes()),
        *(data for data in real(".bin", ".msg", ".out", below="tpm") if data[:4] == b"\xffTCG"),
    ]


def tpm_signatures() -> list[bytes]:
    files = real(".bin", ".sig", ".out", below="tpm")
    return [
        *(signature for _, signature in tpm_quotes()),
        *(data for data in files if data[:2] in {b"\0\x14", b"\0\x16", b"\0\x18"}),
    ]


def tpm_publics() -> list[bytes]:
    areas = [_tpm("rsa").public_area, _tpm("ecc").public_area]
    return [*areas, *(len(area).to_bytes(2, "big") + area for area in areas)]


def pcr_files() -> list[bytes]:
    tpm = _tpm()
    made = [tpm.make_pcr_file(), tpm.make_pcr_file((("sha1", range(24)), ("sha384", (0, 5, 23))))]
    return [*made, *(data for data in real(below="tpm") if len(data) > 132 and data[:4] in {b"\1\0\0\0", b"\2\0\0\0"})]


def event_logs() -> list[bytes]:
    made = _tpm().event_log()
    files = [
        data[:6000]
        for data in real(".bin", below="tdx/eventlog") + real(below="tpm")
        if b"Spec ID Event0" in data[:128]
    ]
    legacy = b"".join((n).to_bytes(4, "little") + b"\x08\0\0\0" + bytes(20) + b"\2\0\0\0ab" for n in range(4))
    from enarx.testing.tpm import FakeTpm

    local = FakeTpm(locality=3)
    local.boot()
    return [made, made + b"\xff" * 64, local.event_log(), legacy, legacy + bytes(40), *files]


def hcl_reports() -> list[bytes]:
    from enarx.emulator.report import make_report
    from enarx.testing.tpm import make_hcl_report, make_runtime_data

    runtime = make_runtime_data(_tpm())
    made = [
        make_hcl_report(make_report().serialise(), runtime, report_type=2),
        make_hcl_report(bytes(1024), runtime, report_type=4),
    ]
    return [*made, *real("hclreport.bin", "hcl-report-tdx.bin", "var-data.bin")]


def azure_bundles() -> list[bytes]:
    message, signature = _tpm().quote(b"nonce")
    quote = {"message": message.hex(), "signature": signature[6:].hex(), "pcrs": [bytes(32).hex()] * 24}
    made = {
        "hcl_report": base64.b64encode(hcl_reports()[0]).decode(),
        "tpm_quote": quote,
        "vcek": pem_chains()[0].decode(),
    }
    return [json.dumps(made).encode(), *azure_evidence(), *real("evidence.json", below="azure")]


@cache
def azure_evidence() -> tuple[bytes, ...]:
    """Return Azure's evidence of an SNP VM, every binding of which holds, with a good certificate of its key and a wrong one."""
    from hashlib import sha256

    from enarx.testing.dcap import make_pem
    from enarx.testing.tpm import FakeTpm, FakeTpmMaker, make_hcl_report, make_runtime_data

    tpm, maker = _tpm(), FakeTpmMaker()
    runtime = make_runtime_data(tpm)
    case = _amd().make_case(report={"report_data": sha256(runtime).digest().ljust(64, b"\0")})
    message, signature = tpm.quote(b"nonce", selections=(("sha256", range(24)),))
    quote = {
        "message": message.hex(),
        "signature": signature[6:].hex(),
        "pcrs": [each.hex() for each in tpm.pcrs["sha256"]],
    }
    made = {"hcl_report": list(make_hcl_report(case.report.serialise(), runtime, report_type=2)), "vcek": make_pem(case.certificates).decode()}  # fmt: skip
    chains = [
        [maker.certify(tpm), maker.intermediate],
        [maker.certify(FakeTpm("other", kind="ecc"))],
        [maker.certify(tpm)],
    ]
    return tuple(
        json.dumps(made | {"tpm_attestation": {"quote": quote, "ak_certificate_pem": make_pem(chain).decode(), "event_log": tpm.event_log().hex()}}).encode()
        for chain in chains
    )  # fmt: skip


def tpm_bundles() -> list[bytes]:
    made = _tpm().make_bundle(b"nonce") | {"event_log": base64.b64encode(_tpm().event_log()).decode()}
    certified = [
        made | {"ak_cert": pem_chains()[0].decode()},
        made | {"ak_cert": base64.b64encode(certificates()[0] + bytes(9)).decode()},
    ]
    pem = "-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(_tpm().spki).decode() + "-----END PUBLIC KEY-----\n"
    certified.append(made | {"ak_public": base64.b64encode(pem.encode()).decode()})
    return [json.dumps(each).encode() for each in (made, *certified)] + real(".json", below="tpm")


def tpm_protobufs() -> list[bytes]:
    return [
        _tpm().make_protobuf(b"nonce", certificates=certificates()[:2]),
        _tpm("ecc").make_protobuf(b"n", banks=["sha256"]),
        *(data for data in real(below="tpm") if data[:1] == b"\x0a" and _is_protobuf(data)),
    ]


def _wrappers() -> list[Any]:
    from enarx.wire.cmw import CmwCollection, CmwRecord, CmwTag, Indicator

    record = CmwRecord("application/x; a=b", b"evidence", Indicator.EVIDENCE | Indicator.ENDORSEMENTS)
    report = CmwRecord("application/vnd.amd.snp", snp_reports()[0], Indicator.EVIDENCE)
    inner = CmwCollection({"a": record, "b": CmwRecord("text/plain", b"x")}, "1.2.3")
    return [
        record,
        CmwTag(60, b"x"),
        CmwCollection({"e": report, 7: inner}, "https://example.com/t"),
        CmwRecord(60, b"1"),
        inner,
    ]


def cmws_in_cbor() -> list[bytes]:
    from enarx.wire.cmw import encode_cmw_cbor

    return [encode_cmw_cbor(each) for each in _wrappers()] + [b"\x9f\x18\x3c\x41\0\xff", b"\xbf\x61a\x82\0\x41\0\xff"]


def cmws_in_json() -> list[bytes]:
    from enarx.wire.cmw import encode_cmw_json

    wrappers = _wrappers()
    return [encode_cmw_json(each) for each in (wrappers[0], wrappers[4])]


def cmw_extensions() -> list[bytes]:
    from enarx.wire.cmw import encode_cmw_extension

    json_form = cmws_in_json()[0]
    return [encode_cmw_extension(each) for each in _wrappers()] + [b"\x0c" + bytes((len(json_form),)) + json_form]


@cache
def ed25519_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")


def _ears() -> list[Any]:
    from enarx.wire.ear import Appraisal, Ear, Tier, TrustVector

    vector = TrustVector(hardware=2, executables=3, configuration=2)
    claims = {"enarx": {"tee": "snp", "failed": ["snp.vmpl"]}}
    full = Appraisal(status=Tier.AFFIRMING, vector=vector, policy_ids=("p",), nonce=bytes(16), verifier_claims=claims)
    bad = Appraisal(status=Tier.CONTRAINDICATED, vector=TrustVector(hardware=97))
    return [
        Ear(issued_at=AT, developer="d", build="b", submods={"cpu0": full}, status=Tier.AFFIRMING, expires_at=datetime(2027, 1, 1, tzinfo=UTC), nonce=bytes(32)),
        Ear(issued_at=AT, developer="d", build="b", submods={"cpu0": full, "tpm": bad, "x": Appraisal(status=Tier.NONE)}),
    ]  # fmt: skip


def ear_jwts() -> list[bytes]:
    from enarx.wire.ear import sign_ear_jwt

    return [sign_ear_jwt(ear, ed25519_key()).encode() for ear in _ears()]


def ear_cwts() -> list[bytes]:
    from enarx.wire.ear import sign_ear_cwt

    return [sign_ear_cwt(ear, ed25519_key()) for ear in _ears()]


@cache
def _corim_values() -> Any:
    from uuid import UUID

    from enarx.wire.corim import Digest, Environment, Measurement, ReferenceValue, ReferenceValueSet

    digest = Digest("sha-384", bytes(48))
    environment = Environment(class_id="1.3.6.1.4.1.3704.2", vendor="AMD", model="Milan", layer=1, index=2)
    measurements = (
        Measurement(key="measurement", digests=(digest, Digest("sha-256", bytes(32))), name="m"),
        Measurement(key=7, svn=3),
        Measurement(min_svn=3),
        Measurement(key="policy", raw=b"\0\3", raw_mask=b"\xff\1"),
        Measurement(registers={0: (digest,), "rtmr1": (digest,)}),
    )
    values = tuple(
        ReferenceValue(environment=each, measurements=measurements)
        for each in (environment, Environment(class_id=UUID(int=7)), Environment(class_id=b"\1"))
    )
    return ReferenceValueSet(id=UUID(int=9), values=values, not_before=AT, not_after=datetime(2028, 1, 1, tzinfo=UTC))


def corims() -> list[bytes]:
    from enarx.wire.corim import encode_corim

    made = encode_corim(_corim_values())
    tag = cbor2.CBORTag
    entity = {0: "ACME", 1: tag(32, "https://example.com"), 2: [0, 1]}
    values = {1: tag(552, 7), 2: [["sha-256", bytes(32)]], 4: tag(560, b"raw"), 11: "name"}
    triple = [
        {0: {0: tag(111, bytes.fromhex("2b060104018e01")), 1: "ACME", 2: "m", 3: 1, 4: 0}},
        [{0: "m", 1: values}],
    ]
    comid = {0: "en", 1: {0: "x", 1: 1}, 2: [entity], 4: {0: [triple]}}
    plain = [{0: {1: "ACME"}}, [{1: {1: tag(553, 3), 4: tag(563, [b"ab", b"\xff\0"])}}]]
    others = [{0: "x", 1: [tag(506, cbor2.dumps(comid))], 3: tag(32, "https://example.com/p"), 5: [entity]}]
    others += [
        {
            0: "x",
            1: [tag(506, cbor2.dumps({1: {0: "x"}, 4: {0: [plain]}}))],
            3: tag(111, b"\x2b\6\1"),
            4: {1: tag(1, 1_900_000_000)},
        }
    ]
    return [made, *(cbor2.dumps(tag(501, each)) for each in others)]


def signed_corims() -> list[bytes]:
    from enarx.crypto import cose
    from enarx.wire.corim import sign_corim

    claims = {3: "application/rim+cbor", 15: {1: "ACME", 5: 1_700_000_000, 4: 1_900_000_000}}
    meta = write_cbor({0: {0: "ACME", 1: cbor2.CBORTag(32, "https://example.com")}, 1: {0: cbor2.CBORTag(1, 1_700_000_000), 1: cbor2.CBORTag(1, 1_900_000_000)}})  # fmt: skip
    others = [
        cose.sign(corims()[0], ed25519_key(), protected=header)
        for header in (claims, {3: "application/rim+cbor", 8: meta})
    ]
    window = {"not_before": AT, "not_after": datetime(2027, 1, 1, tzinfo=UTC)}
    return [
        sign_corim(_corim_values(), ed25519_key(), signer="ACME"),
        sign_corim(_corim_values(), ed25519_key(), signer="ACME", **window),
        *others,
    ]


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return bytes((tag,)) + der_length(len(content)) + content


@cache
def _enarx_extensions() -> tuple[tuple[str, bytes], ...]:
    from enarx.abi.enarx_csr import KVM_OID, SGX_OID, SNP_OID

    vcek, crl = _amd().make_case().certificates[0], collateral_of("SGX").root_ca_crl
    crl_list = _der(0x30, _der(0x30, _der(0x30, _der(0x0C, b"https://example.com/crl"), crl)))
    snp = _der(0x30, _der(0x30, vcek, crl_list), _der(0x04, snp_reports()[0]))
    chain = _der(0x30, *collateral_of("SGX").tcb_info_chain)
    sgx = _der(0x30, _der(0x04, quotes()[0]), crl_list, _der(0x30, chain, _der(0x04, b"{}")))
    return (KVM_OID, b""), (SNP_OID, snp), (SGX_OID, sgx)


def enarx_requests() -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key, made = ec.derive_private_key(7, ec.SECP256R1()), []
    for oid, value in _enarx_extensions():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(extension, critical=False)
        request = builder.sign(key, hashes.SHA256())
        made += [request.public_bytes(Encoding.DER), request.public_bytes(Encoding.PEM)]
    return made + real(".csr")


def enarx_certificates() -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key, made = ec.derive_private_key(7, ec.SECP256R1()), []
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    for oid, value in _enarx_extensions():
        if len(value) < 12 << 10:
            builder = x509.CertificateBuilder(name, name, key.public_key(), 1, AT, AT)
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            made.append(
                builder.add_extension(extension, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            )
    return made


def pki_paths() -> list[bytes]:
    return [_der(0x30, *collateral_of("SGX").tcb_info_chain), *real(".pkipath")]


def json_texts() -> list[bytes]:
    texts = [
        b"{}",
        b'{"a":[1,2.5,-3e7,"\\u00e9\\ud800",null,true,false,{"b":{}}]}',
        b'\xef\xbb\xbf{"a":1}\0\0',
        b"[" * 20 + b"]" * 20,
        b"1" * 41,
    ]
    return texts + [data for data in real(".json") if len(data) < 4000]


def encoded_texts() -> list[bytes]:
    report = snp_reports()[0]
    return [
        report.hex().encode(),
        b"0x" + report[:64].hex().encode(),
        base64.b64encode(report),
        base64.urlsafe_b64encode(report[:33]).rstrip(b"="),
        base64.encodebytes(report),
    ]


def policies() -> list[bytes]:
    from enarx.verifier.policy_write import write_policy
    from enarx.verifier.registry import SECTIONS

    strict = [write_policy([section], references={}, origin="fuzz").text for section in SECTIONS]
    full = [re.sub(r"^# (\S+) =$", r'\1 = { skip = "x" }', text, flags=re.MULTILINE) for text in strict]
    digest = "0" * 64
    odd = f'version = 1\ninsecure_emulated_roots = ["{digest}"]\nsnp.tcb = {{ preset = "x" }}\n[tdx]\nmr_td = {{ skip = "x" }}\n'
    return [text.encode() for text in (*full, *strict[:3], odd)]


def extended_reports() -> list[bytes]:
    report = snp_reports()[0]
    return [report + certificate_tables()[1], report + sev_crate_tables()[0], *real("extended_report.bin")]


def evidence_of_all_kinds() -> list[bytes]:
    report, quote = snp_reports()[0], quotes()[0]
    response = bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + report + bytes(100)
    found = [
        *snp_reports()[:8],
        *extended_reports(),
        response,
        *quotes()[:16],
        *nitro_documents()[:8],
        *cca_tokens()[:6],
        *hcl_reports(),
    ]
    found += [
        *azure_bundles(),
        *tpm_bundles()[:3],
        *tpm_protobufs()[:2],
        *enarx_requests(),
        *enarx_certificates(),
        *encoded_texts(),
    ]
    collateral = collateral_of("SGX")
    bundle = {"quote": quote.hex(), "tcb_info": collateral.tcb_info.decode(), "qe_identity": collateral.qe_identity.decode(), "tcb_info_issuer_chain": pem_chains()[0].decode(), "qe_identity_issuer_chain": pem_chains()[0].decode(), "pck_crl": collateral.pck_crl.hex(), "pck_crl_issuer_chain": pem_chains()[0].decode(), "root_ca_crl": collateral.root_ca_crl.hex()}  # fmt: skip
    bundles = [
        bundle,
        {"attestationReport": list(report), "vcek": pem_chains()[0].decode(), "nonce": "00" * 40},
        {"evidence": bundle},
    ]
    return (
        found
        + [json.dumps(each).encode() for each in bundles]
        + cmws_in_cbor()[2:3]
        + cmws_in_json()
        + real("evidence.json")
    )


def endorsement_files() -> list[bytes]:
    collateral = collateral_of("TDX")
    documents = [
        collateral.tcb_info,
        collateral.qe_identity,
        *real("collateral.json", below="tdx/bundles"),
        *real("collateral.json", below="sgx/bundles"),
    ]
    wrapped = [
        json.dumps({"a": pem_chains()[0].decode(), "b": [collateral.pck_crl.hex(), certificates()[0].hex()]}).encode()
    ]
    crl = "-----BEGIN X509 CRL-----\n" + base64.encodebytes(collateral.pck_crl).decode() + "-----END X509 CRL-----\n"
    chain = pem_chains()[0].decode()
    bundle = {"tcb_info": collateral.tcb_info.decode(), "qe_identity": collateral.qe_identity.decode(), "tcb_info_issuer_chain": chain, "qe_identity_issuer_chain": chain, "pck_crl": crl, "pck_crl_issuer_chain": chain, "root_ca_crl": collateral.root_ca_crl.hex().encode().hex()}  # fmt: skip
    wrapped += [crl.encode(), (chain + crl).encode(), json.dumps(bundle).encode(), certificates()[0] + bytes(40)]
    return [
        *certificates()[:12],
        *crls()[:6],
        *pem_chains()[:6],
        *certificate_tables(),
        *sev_crate_tables(),
        *pki_paths(),
        *event_logs()[:2],
        *documents,
        *wrapped,
    ]


_ENDORSING = (
    "vek", "ca", "crl", "bundle", "tcb_info", "qe_identity", "pck_crl", "root_ca_crl", "tcb_info_issuer_chain",
    "qe_identity_issuer_chain", "pck_crl_issuer_chain",
)  # fmt: skip


def _real_cases() -> Iterator[bytes]:
    """Yield the corpus' cases that are one file of evidence, with their endorsements and times."""
    for line in read("cases.jsonl").splitlines() if IS_PRESENT else ():
        case = json.loads(line)
        inputs = {name: path for name, path in case["inputs"].items() if isinstance(path, str)}
        files = {name: read(path) for name, path in inputs.items() if os.path.isfile(os.path.join(FOLDER, path))}
        main = [data for name, data in files.items() if name not in _ENDORSING and not inputs[name].endswith(".yaml")]
        given = [data for name, data in files.items() if name in _ENDORSING]
        if len(main) == 1 and _is_recognised(main[0]):
            try:
                at = datetime.fromisoformat(case.get("eval_time", ""))
            except ValueError:
                at = AT
            yield write_cbor([main[0], given, int(at.timestamp())])


def judged() -> list[bytes]:
    """Return evidence with endorsements and a time, packed in CBOR."""
    from enarx.testing.tpm import FakeTpmMaker

    case, sgx, tdx = _amd().make_case(), collateral_of("SGX"), collateral_of("TDX")
    found = [
        [case.data, [*case.certificates, _amd().make_crl()]],
        [case.data, [*case.certificates, _amd().make_crl(revoked=["ask"])]],
    ]
    made = quotes()
    for quote, collateral in ((made[0], sgx), (made[1], sgx), (made[3], tdx), (made[4], tdx)):
        chain, crl_files = (
            list(collateral.tcb_info_chain + collateral.pck_crl_chain),
            [collateral.pck_crl, collateral.root_ca_crl],
        )
        found.append([quote, [collateral.tcb_info, collateral.qe_identity, *chain, *crl_files]])
    maker = FakeTpmMaker()
    for tpm in (_tpm(), _tpm("ecc")):
        issued = [maker.certify(tpm), maker.intermediate]
        found += [
            [tpm.make_protobuf(b"n", certificates=issued), [tpm.event_log()]],
            [json.dumps(tpm.make_bundle(b"n")).encode(), issued],
        ]
    found += [
        [data, []] for data in (*nitro_documents()[:6], *cca_tokens()[:5], *azure_bundles()[:5], *hcl_reports()[:3])
    ]
    found += [[data, [pem_chains()[0]]] for data in (*enarx_requests()[-3:], *extended_reports()[-1:])]
    packed = [write_cbor([*each, int(AT.timestamp())]) for each in found]
    cases = [data for data in _real_cases() if len(data) < 100_000]
    return packed + cases[:: len(cases) // 150 + 1]


def _is_protobuf(data: bytes) -> bool:
    try:
        return bool(read_protobuf(data))
    except (ValueError, IndexError):
        return False


def _is_recognised(data: bytes) -> bool:
    from enarx.errors import DecodeError
    from enarx.rats import Evidence
    from enarx.verifier import recognise

    try:
        recognise(Evidence(data=data))
    except DecodeError:
        return False
    return True


def roots_of_tests() -> bytes:
    """Return the roots of the test PKI, some of whose keys are another process' own, packed."""
    from enarx.testing.tpm import FakeTpmMaker

    pins = [_tpm("ecc").pin]
    return write_cbor([_amd().anchors.amd, [_intel().root.der], _aws().anchors.aws, [FakeTpmMaker().root], dict(_arm().anchors.cca), pins])  # fmt: skip
