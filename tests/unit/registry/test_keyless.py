# SPDX-License-Identifier: Apache-2.0
"""Keyless signatures, as sigstore's own verifier judges them under a trust root of an instance of our own. No network is reached."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.errors import AppraisalError, DecodeError, TransportError, UsageError, VerificationError
from enarx.registry.keyless import Keyless, _signer_of, load_trust_root, sign_keyless, verify_bundle
from enarx.registry.referrers import MAX_BUNDLE_BYTES
from enarx.testing.sigstore import FakeSigstore
from enarx.wire.dsse import SIGN_PREDICATE, encode_statement
from tests.unit.registry.signed import AT, IDENTITY, ISSUER, key, private_pem, sigstore

DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
NOT_AUTHENTIC = "the keyless signature is not authentic"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def root(name="one"):
    return load_trust_root(sigstore(name).trust_root(), name="root.json")


def bundle(**options):
    return sigstore().sign(DIGEST, IDENTITY, ISSUER, **({"at": AT} | options))


def judge(data, digest=DIGEST, trust=None, at=AT):
    return verify_bundle(data, digest, trust or root(), at=at)


def changed(data, *path, to):
    """Return a bundle with another value at a place; a function makes it of the value that is there."""
    document = json.loads(data)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to(place[path[-1]]) if callable(to) else to
    return json.dumps(document).encode()


def flipped(text):
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return base64.b64encode(data).decode()


ENTRY = ("verificationMaterial", "tlogEntries", 0)


def test_who_signed_and_when_is_what_the_certificate_and_the_log_say():
    logged_at = AT + timedelta(seconds=5)
    assert judge(bundle()) == Keyless(IDENTITY, ISSUER, logged_at, 3)
    workflow = "https://code.example/team/app/.ci/release.yml@refs/tags/v1"
    signed = sigstore().sign(DIGEST, workflow, "https://ci.example", at=AT)
    assert judge(signed) == Keyless(workflow, "https://ci.example", logged_at, 3)


def test_sigstores_own_policy_agrees_with_who_we_say_it_is():
    from sigstore import errors
    from sigstore.models import Bundle
    from sigstore.verify import policy

    made = Bundle.from_json(bundle())
    root().verifier.verify_dsse(made, policy.Identity(identity=IDENTITY, issuer=ISSUER))
    for identity, issuer in (("x@tenant.example", ISSUER), (IDENTITY, "https://other.example")):
        with pytest.raises(errors.VerificationError):
            root().verifier.verify_dsse(made, policy.Identity(identity=identity, issuer=issuer))


def test_years_later_the_log_still_says_that_the_certificate_was_valid():
    assert judge(bundle(), at=AT + timedelta(days=3000)).logged_at == AT + timedelta(seconds=5)


def test_a_signature_of_another_package_is_refused():
    with pytest.raises(VerificationError, match=f"of another package: found {DIGEST}, want {OTHER}"):
        judge(bundle(), OTHER)


def test_another_instances_signature_is_refused():
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*want one by root.json") as caught:
        judge(bundle(), trust=root("two"))
    assert "--trust-root" in caught.value.hint


def test_the_shipped_root_is_that_of_the_public_instance_and_refuses_ours():
    shipped = load_trust_root()
    assert shipped.name.startswith("the public instance's, as shipped with sigstore 4.")
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*want one by the public instance's, as shipped"):
        judge(bundle(), trust=shipped)


@pytest.mark.parametrize("after", [timedelta(minutes=11), timedelta(minutes=-1), timedelta(days=400)])
def test_a_certificate_that_was_not_valid_when_it_was_logged_is_refused(after):
    with pytest.raises(VerificationError, match=NOT_AUTHENTIC):
        judge(bundle(logged_after=after), at=AT + timedelta(days=500))


def test_a_log_entry_from_the_future_is_refused():
    assert judge(bundle(), at=AT - timedelta(minutes=9))
    with pytest.raises(VerificationError, match="from the future: found 2026-06-01T12:00:05Z, want 2026-06-01T11:40"):
        judge(bundle(), at=AT - timedelta(minutes=20))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("dsseEnvelope", "payload"), base64.b64encode(encode_statement(OTHER)).decode()),
        (("dsseEnvelope", "payloadType"), "text/plain"),
        (("dsseEnvelope", "signatures", 0, "sig"), flipped),
        (("verificationMaterial", "certificate", "rawBytes"), flipped),
        ((*ENTRY, "canonicalizedBody"), flipped),
        ((*ENTRY, "integratedTime"), "1780315206"),
        ((*ENTRY, "inclusionPromise", "signedEntryTimestamp"), flipped),
        ((*ENTRY, "inclusionProof", "rootHash"), flipped),
        ((*ENTRY, "inclusionProof", "hashes", 0), flipped),
        ((*ENTRY, "inclusionProof", "hashes"), []),
        ((*ENTRY, "inclusionProof", "treeSize"), "5"),
        ((*ENTRY, "inclusionProof", "logIndex"), "2"),
        ((*ENTRY, "logId", "keyId"), base64.b64encode(bytes(32)).decode()),
        ((*ENTRY, "inclusionProof", "checkpoint", "envelope"), lambda text: text.replace("\n4\n", "\n5\n")),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) and isinstance(value[-1], str) else None,
)
def test_a_bundle_with_anything_altered_is_refused(path, to):
    with pytest.raises(VerificationError, match=NOT_AUTHENTIC):
        judge(
            changed(bundle(), *path, to=to),
            OTHER if to == base64.b64encode(encode_statement(OTHER)).decode() else DIGEST,
        )


def test_the_entry_of_another_signature_is_refused():
    other = json.loads(sigstore().sign(OTHER, IDENTITY, ISSUER, at=AT))["verificationMaterial"]["tlogEntries"]
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*log entry"):
        judge(changed(bundle(), "verificationMaterial", "tlogEntries", to=other))


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("verificationMaterial", "tlogEntries"), [], "expected exactly one log entry"),
        (("verificationMaterial", "tlogEntries"), lambda entries: entries * 2, "expected exactly one log entry"),
        ((*ENTRY, "inclusionProof"), None, "inclusionProof"),
        ((*ENTRY, "inclusionPromise"), None, "inclusion promise or signed timestamp"),
        (("verificationMaterial", "certificate"), None, "want a certificate"),
        (("verificationMaterial", "certificate", "rawBytes"), "AAAA", "want a certificate"),
        (("dsseEnvelope",), None, "dsseEnvelope: found none"),
        (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.1", "mediaType: found"),
        (("mediaType",), {}, "mediaType: found a table"),
    ],
)
def test_a_bundle_without_a_part_is_none(path, to, message):
    with pytest.raises(DecodeError, match=message):
        judge(changed(bundle(), *path, to=to))


def test_a_bundle_of_a_blob_is_no_signature_of_a_package():
    document = json.loads(bundle())
    document["messageSignature"] = {"signature": document.pop("dsseEnvelope")["signatures"][0]["sig"]}
    with pytest.raises(DecodeError, match="dsseEnvelope: found none, want a signed statement"):
        judge(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 5000, b'{"mediaType":1,"mediaType":1}'])
def test_other_bytes_are_no_bundle(data):
    with pytest.raises(DecodeError, match="sigstore bundle"):
        judge(data)


def test_a_bundle_that_is_too_large_is_not_decoded():
    with pytest.raises(DecodeError, match="size: found 524289 bytes"):
        judge(bundle().ljust(MAX_BUNDLE_BYTES + 1))


def test_a_logged_statement_that_says_something_else_permits_nothing():
    scanned = json.loads(encode_statement(DIGEST)) | {"predicateType": "https://scans.example/failed"}
    with pytest.raises(AppraisalError, match="says something else: predicateType"):
        judge(bundle(payload=json.dumps(scanned).encode()))
    with pytest.raises(AppraisalError, match="payloadType: found 'text/plain'"):
        judge(bundle(payload_type="text/plain"))
    assert SIGN_PREDICATE.encode() in encode_statement(DIGEST)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"mediaType":"x"}'])
def test_other_bytes_are_no_trust_root(data):
    with pytest.raises(DecodeError, match="trust root"):
        load_trust_root(data, name="root.json")


def test_a_trust_root_without_a_log_is_none():
    document = json.loads(sigstore().trust_root())
    document["tlogs"] = []
    with pytest.raises(DecodeError, match=r"cannot read the trust root: root.json: .*no transparency log"):
        load_trust_root(json.dumps(document).encode(), name="root.json")


@pytest.mark.parametrize("lost", ["ctlogs", "certificateAuthorities"])
def test_a_trust_root_that_lacks_an_authority_believes_nobody(lost):
    document = json.loads(sigstore().trust_root())
    document[lost] = []
    with pytest.raises((VerificationError, DecodeError)):
        judge(bundle(), trust=load_trust_root(json.dumps(document).encode(), name="root.json"))


def test_a_certificate_that_no_certificate_log_promised_to_log_is_refused():
    document = json.loads(sigstore().trust_root())
    document["ctlogs"] = json.loads(sigstore("two").trust_root())["ctlogs"]
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*SCT"):
        judge(bundle(), trust=load_trust_root(json.dumps(document).encode(), name="root.json"))


def test_sigstore_is_imported_by_a_call_alone():
    script = "import sys, enarx.registry.keyless, enarx.registry.signatures; print('sigstore' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("token", ["", "  \n", "not a token", "a.b.c", "x" * 20_000])
def test_signing_without_a_usable_token_asks_nobody(token):
    with pytest.raises(UsageError, match="identity token: found"):
        sign_keyless(DIGEST, token=token, config=sigstore().client_trust("http://127.0.0.1:1"))


def test_a_configuration_that_is_none_is_refused():
    with pytest.raises(DecodeError, match="sigstore configuration"):
        sign_keyless(DIGEST, token=token_now(), config=b"{}")


def token_now():
    """Return a token that is valid now, which nobody signed: sigstore looks at its claims alone."""
    claims = {
        "aud": "sigstore",
        "sub": IDENTITY,
        "iss": ISSUER,
        "iat": int(time.time()) - 5,
        "exp": int(time.time()) + 600,
    }
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2ln"])


def test_a_service_that_is_not_reached_is_a_transport_error(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(TransportError, match=r"sigstore's services: found .*no route.*, want a certificate") as caught:
        sign_keyless(DIGEST, token=token_now(), config=sigstore().client_trust("http://sigstore.example"))
    assert "--key FILE" in caught.value.hint


def test_a_service_that_never_answers_is_not_waited_for(monkeypatch):
    from threading import Event

    monkeypatch.setattr("sigstore.sign.SigningContext.from_trust_config", lambda _: Event().wait(20))
    with pytest.raises(TransportError, match=r"found no answer in 0\.05 s, want one"):
        sign_keyless(DIGEST, token=token_now(), config=sigstore().client_trust("http://x.example"), timeout_s=0.05)


@pytest.fixture
def stamped(tmp_path):
    """Return an instance of now, and what makes its timestamps: openssl has no other clock than the machine's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program")
    now = datetime.fromtimestamp(int(time.time()), UTC)
    instance = FakeSigstore(now)
    (tmp_path / "key.pem").write_bytes(private_pem(instance.timestamp_key))
    (tmp_path / "cert.pem").write_bytes(instance.timestamp_certificate.public_bytes(Encoding.PEM))
    (tmp_path / "serial").write_text("01\n")
    (tmp_path / "ts.conf").write_text(
        "[tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256\n"
        "ess_cert_id_alg = sha256\n"
    )

    def timestamp(message):
        (tmp_path / "message").write_bytes(message)
        query = ["openssl", "ts", "-query", "-data", "message", "-sha256", "-cert", "-out", "query"]
        reply = ["openssl", "ts", "-reply", "-config", "ts.conf", "-queryfile", "query", "-inkey", "key.pem", "-signer", "cert.pem", "-out", "reply"]  # fmt: skip
        for command in (query, reply):
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=30)
        return (tmp_path / "reply").read_bytes()

    trust = load_trust_root(instance.trust_root(), name="root.json")
    return instance, now, trust, timestamp


def test_an_entry_without_a_time_needs_a_timestamp(stamped):
    instance, now, trust, timestamp = stamped
    begin = now - timedelta(minutes=1)
    good = instance.sign(DIGEST, IDENTITY, ISSUER, at=begin, timestamp=timestamp, log_version=2)
    assert judge(good, trust=trust, at=now) == Keyless(IDENTITY, ISSUER, None, 3)
    with pytest.raises(VerificationError, match="of another package"):
        judge(good, OTHER, trust=trust, at=now)
    with pytest.raises(DecodeError, match="inclusion promise or signed timestamp"):
        judge(instance.sign(DIGEST, IDENTITY, ISSUER, at=begin, log_version=2), trust=trust, at=now)
    # A time that nobody signed is not told, and does not help.
    assert (
        judge(changed(good, *ENTRY, "integratedTime", to=str(int(begin.timestamp()))), trust=trust, at=now).logged_at
        is None
    )


@pytest.mark.parametrize("log_version", [1, 2])
def test_a_timestamp_outside_of_the_certificates_time_is_refused(stamped, log_version):
    instance, now, trust, timestamp = stamped
    for begin in (now - timedelta(minutes=20), now + timedelta(minutes=5)):
        signed = instance.sign(DIGEST, IDENTITY, ISSUER, at=begin, timestamp=timestamp, log_version=log_version)
        with pytest.raises(VerificationError, match=NOT_AUTHENTIC):
            judge(signed, trust=trust, at=now)


def test_the_timestamp_of_another_signature_or_another_authority_is_refused(stamped):
    instance, now, trust, timestamp = stamped
    begin = now - timedelta(minutes=1)
    replayed = instance.sign(
        DIGEST, IDENTITY, ISSUER, at=begin, timestamp=lambda _: timestamp(b"another"), log_version=2
    )
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*not enough sources of verified time"):
        judge(replayed, trust=trust, at=now)
    document = json.loads(instance.trust_root())
    document["timestampAuthorities"] = json.loads(sigstore().trust_root())["timestampAuthorities"]
    other = load_trust_root(json.dumps(document).encode(), name="root.json")
    signed = instance.sign(DIGEST, IDENTITY, ISSUER, at=begin, timestamp=timestamp, log_version=2)
    with pytest.raises(VerificationError, match=f"{NOT_AUTHENTIC}.*not enough sources of verified time"):
        judge(signed, trust=other, at=now)


def test_a_log_entry_with_a_timestamp_beside_it_is_accepted(stamped):
    instance, now, trust, timestamp = stamped
    begin = now - timedelta(minutes=1)
    signed = instance.sign(DIGEST, IDENTITY, ISSUER, at=begin, timestamp=timestamp)
    assert judge(signed, trust=trust, at=now).logged_at == begin + timedelta(seconds=5)


SAN, V1, V2 = x509.SubjectAlternativeName, x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")  # fmt: skip
PERSON, JOB = x509.RFC822Name(IDENTITY), x509.UniformResourceIdentifier("https://ci.example/job")


def certificate(*extensions):
    """Return a certificate that says nothing else."""
    private = key(kind="p256")
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]), subject_name=x509.Name([]), public_key=private.public_key()
    )
    builder = builder.serial_number(1).not_valid_before(AT).not_valid_after(AT + timedelta(minutes=10))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(private, hashes.SHA256())


def says(oid, value):
    return x509.UnrecognizedExtension(oid, value)


@pytest.mark.parametrize(
    "extensions",
    [
        (SAN([PERSON]), says(V1, b"https://i.example")),
        (SAN([PERSON]), says(V2, b"\x0c\x11https://i.example")),
        (SAN([PERSON]), says(V1, b"https://i.example"), says(V2, b"\x0c\x11https://i.example")),
    ],
)
def test_the_issuer_is_in_either_extension_or_in_both(extensions):
    assert _signer_of(certificate(*extensions)) == (IDENTITY, "https://i.example")


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ((), "names nobody"),
        ((says(V1, b"https://i.example"),), "names nobody"),
        ((SAN([PERSON]),), "found 1 names and 0 issuers"),
        ((SAN([PERSON, JOB]), says(V1, b"https://i.example")), "found 2 names and 1 issuers"),
        ((SAN([x509.DNSName("x.example")]), says(V1, b"https://i.example")), "found 1 names and 1 issuers"),
        ((SAN([PERSON, x509.DNSName("x.example")]), says(V1, b"https://i.example")), "found 2 names and 1 issuers"),
        ((SAN([PERSON]), says(V1, b"https://j.example"), says(V2, b"\x0c\x11https://i.example")), "and 2 issuers"),
        ((SAN([PERSON]), says(V1, b"\xff")), "names nobody"),
        ((SAN([PERSON]), says(V2, b"https://i.example")), "names nobody"),
    ],
)
def test_a_certificate_that_names_one_identity_by_one_issuer_is_wanted(extensions, message):
    with pytest.raises(VerificationError, match=message):
        _signer_of(certificate(*extensions))
