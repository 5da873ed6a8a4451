# SPDX-License-Identifier: Apache-2.0
"""What the fuzzing of a Steward's parsers begins with: requests, answers and certificates, made by our own encoders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.fuzz import deployment_seeds, verifier_seeds

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def _receipt() -> Any:
    from enarx.wire.session import Limits, Receipt

    return Receipt(deployment_seeds.identities()[0], Limits(1 << 30, 1 << 20, 1 << 16), (b"e",), b"e")


def hashed_receipts() -> list[bytes]:
    """Return receipts without evidence."""
    from enarx.wire.session import Limits, without_evidence

    other = _receipt()._replace(identity=deployment_seeds.identities()[1], limits=Limits(0, 0, 0))
    return [without_evidence(_receipt()), without_evidence(other)]


def certificate_requests() -> list[bytes]:
    """Return requests for a certificate, without and with endorsements."""
    from enarx.wire.steward import CertificateRequest, encode_certificate_request

    one = CertificateRequest(b"c" * 100, hashed_receipts()[0], b"e" * 300, (), bytes(32), bytes(48))
    return [encode_certificate_request(each) for each in (one, one._replace(endorsements=(b"a", b"b" * 50)))]


def result_requests() -> list[bytes]:
    """Return requests for a result."""
    from enarx.wire.steward import ResultRequest, encode_result_request

    one = ResultRequest(b"e" * 100, (), bytes(64))
    return [encode_result_request(each) for each in (one, one._replace(endorsements=(b"a",), report_data=b"r"))]


def challenge_answers() -> list[bytes]:
    """Return a challenge."""
    from enarx.wire.steward import ChallengeAnswer, encode_challenge_answer

    return [encode_challenge_answer(ChallengeAnswer(bytes(range(32)), AT))]


def certificate_answers() -> list[bytes]:
    """Return a certificate that stands alone, and a chain of two."""
    from enarx.wire.steward import CertificateAnswer, encode_certificate_answer

    one = CertificateAnswer((b"c" * 50,), AT, AT, 0)
    return [encode_certificate_answer(each) for each in (one, one._replace(chain=(b"c", b"d"), log_index=1 << 40))]


def problems() -> list[bytes]:
    """Return a problem of a Steward's with all that one can have, one with the least, and somebody else's."""
    from enarx.wire.steward import encode_problem, make_problem

    full = make_problem("refused", "no", hint="ask", check="snp.measurement", findings=("one", "two"))
    return [encode_problem(full), encode_problem(make_problem("decode", "no")), b'{"status":502,"instance":"/x"}']


def keep_extensions() -> list[bytes]:
    """Return what a Steward's certificate says of a Keep, and what a Keep's own says, without and with endorsements."""
    from enarx.wire.cmw import CmwCollection, CmwRecord, CmwTag, encode_cmw_cbor
    from enarx.wire.keep_certificate import KeepCertificate, encode_keep_extension

    identity = deployment_seeds.identities()[0]
    evidence = encode_cmw_cbor(CmwRecord("application/vnd.enarx.sev-snp-report", b"e" * 60))
    more = (encode_cmw_cbor(CmwTag(7, b"x")), encode_cmw_cbor(CmwCollection({"a": CmwRecord(30, b"y")})))
    keeps = (
        KeepCertificate(identity, verifier_seeds.ear_cwts()[0]),
        KeepCertificate(identity, None, evidence),
        KeepCertificate(identity, None, evidence, more),
    )
    return [encode_keep_extension(keep) for keep in keeps]


def keep_certificates() -> list[bytes]:
    """Return a certificate with each of these extensions."""
    return _certificates(keep_extensions())


def presented_certificates() -> list[bytes]:
    """Return what services present: the same, one with a report of a processor, and one that is of no Keep."""
    from enarx.attester.attested import SNP_REPORT, make_evidence
    from enarx.wire.keep_certificate import KeepCertificate, encode_keep_extension

    evidence = make_evidence(SNP_REPORT, verifier_seeds.snp_reports()[0])
    keep = KeepCertificate(deployment_seeds.identities()[0], None, evidence)
    return _certificates([*keep_extensions(), encode_keep_extension(keep), None])


def _certificates(extensions: list[Any]) -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    from enarx.wire.cmw import CMW_EXTENSION_OID

    key = ec.derive_private_key(deployment_seeds.CREDENTIAL_KEY, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "keep")])
    oid = x509.ObjectIdentifier(CMW_EXTENSION_OID)
    found = []
    for extension in extensions:
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1 << 126, AT, AT.replace(year=2036))
        if extension is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
        found.append(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    return found


def bundles() -> list[bytes]:
    """Return requests of the original's in a sequence: one, and two."""
    from tests.unit.abi.test_enarx_csr import SNP, SNP_OID, der, make_request

    request = make_request((SNP_OID, SNP))
    return [der(0x30, request), der(0x30, request, b"\x30\x00")]


def configurations() -> list[bytes]:
    """Return the steward.toml of a new Steward, and one with all that there is."""
    from enarx.steward.configuration import configuration_text

    full = (
        'name = "s.example"\nlifetime = "2h"\ncrl_url = "http://s.example/crl"\n[original]\nenabled = true\n'
        f'[[grant]]\npackage = "{"ab" * 32}"\ntenant = "{"cd" * 48}"\ndns = ["a.example", "b.example"]\n'
        f'[[grant]]\npackage = "{"ab" * 32}"\ntenant = "any"\n'
    )
    return [configuration_text("s.example").encode(), full.encode()]


def judged_requests() -> list[bytes]:
    """Return requests that get a certificate, as `[csr, receipt, evidence, endorsements, nonce, root, SHA-256 of the accepted vendor's]`."""
    from tests.fuzz.verifier_mutations import write_cbor
    from tests.unit.steward import keeps

    requests = [keeps.make_request(), keeps.make_request(has_endorsements=False)]
    return [
        write_cbor([list(part) if isinstance(part, tuple) else part for part in (*each, keeps.vendor_digest())])
        for each in requests
    ]


def _log_signer() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from enarx.steward.log import LogSigner

    return LogSigner("steward.example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def log_notes() -> list[bytes]:
    """Return checkpoints with one signature and with two."""
    from enarx.steward.log import EMPTY_ROOT

    signed = _log_signer().sign(1 << 40, bytes(32))
    return [
        each.encode() for each in (signed, _log_signer().sign(0, EMPTY_ROOT), signed + signed.rpartition("\n\n")[2])
    ]


def log_checkpoints() -> list[bytes]:
    """Return what is signed of checkpoints."""
    return [note.rpartition(b"\n\n")[0] + b"\n" for note in log_notes()]


def log_keys() -> list[bytes]:
    """Return a log's key as auditors are told."""
    return [_log_signer().verifier_key.text().encode()]


def log_entries() -> list[bytes]:
    """Return an entry with nothing that may be left out, and one with all of it."""
    from enarx.steward.entries import encode_entry

    everything = encode_entry(
        kind="certificate",
        at=AT,
        nonce=bytes(32),
        policy_sha256=bytes(32),
        verdict="accepted",
        tee="snp",
        failed_checks=("snp.debug", "snp.tcb"),
        evidence_sha256=bytes(32),
        kept_sha256=bytes(32),
        spki_sha384=bytes(48),
        identity=deployment_seeds.identities()[0],
        certificate=b"c" * 400,
        serial=1 << 125,
        reason="because",
    )
    return [everything, encode_entry(kind="policy", at=AT), encode_entry(kind="refusal", at=AT, failed_checks=("x",))]
