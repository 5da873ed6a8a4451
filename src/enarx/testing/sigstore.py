# SPDX-License-Identifier: Apache-2.0
"""A sigstore instance of one's own: certificate authority, certificate log, signature log, and the trust root that names them.

    instance = FakeSigstore(at)
    bundle = instance.sign(digest, "tenant@example.org", "https://issuer.example", at=at)
    verify_bundle(bundle, digest, load_trust_root(instance.trust_root()), at=at)

What it makes has every part that a verifier asks for: certificates with an embedded SCT, entries with an inclusion promise, an
inclusion proof in a tree with others, and a signed checkpoint. `answer` is its HTTP API, for whoever gives it a socket. It believes
whatever token it is given. Its log is of the first version, or of the second, whose entries have no time: then somebody with the key
of its timestamp authority has to make timestamps (`openssl ts` does).

Source: Fulcio, docs/oid-info.md; RFC 6962 sections 2.1, 3.2 and 3.3; Rekor's types dsse 0.0.1; C2SP signed-note and tlog-checkpoint;
sigstore protobuf-specs, bundle v0.3 and trusted root 0.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from enarx.registry.referrers import BUNDLE
from enarx.wire.dsse import (
    IN_TOTO,
    Envelope,
    EnvelopeSignature,
    decode_envelope_untrusted,
    encode_envelope,
    encode_statement,
    pre_authentication,
)

__all__ = ["FakeSigstore"]

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ORIGIN = "log.sigstore.example"
_URL = "https://sigstore.example"
_OTHERS = (b"the entry before", b"and the one before that", b"and yet another")


class FakeSigstore:
    """An instance.

    Args:
        at: aware, whole seconds; its authority and its keys are valid from a day before, for ten years.
        secret: makes its keys, so that two processes have the same instance; None is new ones.
    """

    def __init__(self, at: datetime, *, secret: int | None = None) -> None:
        self._since = at - timedelta(days=1)
        self._ca_key, self._ct_key, self._log_key, self.timestamp_key = (
            ec.generate_private_key(ec.SECP256R1())
            if secret is None
            else ec.derive_private_key(secret + number, ec.SECP256R1())
            for number in range(4)
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake sigstore")])
        self._root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._ca_key.public_key())
            .serial_number(1)
            .not_valid_before(self._since)
            .not_valid_after(self._since + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._ca_key.public_key()), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        self._count = 2
        self.timestamp_certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake timestamps")]))
            .issuer_name(name)
            .public_key(self.timestamp_key.public_key())
            .serial_number(2)
            .not_valid_before(self._since)
            .not_valid_after(self._since + timedelta(days=3650))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
            .sign(self._ca_key, hashes.SHA256())
        )

    def trust_root(self) -> bytes:
        """Return its `trusted_root.json`."""
        return json.dumps(self._trust_root()).encode()

    def client_trust(self, url: str) -> bytes:
        """Return what a client needs to sign with it, where its API is at an address."""
        service = {
            "url": url,
            "majorApiVersion": 1,
            "validFor": {"start": _time_text(self._since)},
            "operator": "example",
        }
        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [service],
            "oidcUrls": [service],
            "rekorTlogUrls": [service],
            "rekorTlogConfig": {"selector": "ANY"},
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": self._trust_root(),
                "signingConfig": signing,
            }
        ).encode()

    def sign(
        self,
        digest: str,
        identity: str,
        issuer: str,
        *,
        at: datetime,
        logged_after: timedelta = timedelta(seconds=5),
        payload: bytes | None = None,
        payload_type: str = IN_TOTO,
        timestamp: Callable[[bytes], bytes] | None = None,
        log_version: int = 1,
    ) -> bytes:
        """Return a bundle.

        Args:
            digest: of the OCI manifest.
            identity: an e-mail address, or a URI if it has `://`.
            issuer: a URL.
            at: when the certificate begins, for ten minutes.
            logged_after: how much later the log says that it entered the signature.
            payload: to sign in the place of a statement.
            payload_type: of it.
            timestamp: makes a timestamp response (RFC 3161) over the signature.
            log_version: 1, or 2, whose entries have no time.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certify(key.public_key(), identity, issuer, at=at)
        payload = encode_statement(digest) if payload is None else payload
        signature = key.sign(pre_authentication(payload_type, payload), ec.ECDSA(hashes.SHA256()))
        envelope = Envelope(payload_type, payload, (EnvelopeSignature(signature),))
        if log_version == 1:
            entry = self._entry(certificate.public_bytes(Encoding.PEM), envelope, at + logged_after)
        else:
            entry = self._entry_without_time(certificate, envelope)
        bundle = _bundle(certificate, envelope, entry)
        if timestamp is not None:
            stamped = [{"signedTimestamp": _base64(timestamp(signature))}]
            bundle["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": stamped}
        return json.dumps(bundle).encode()

    def certify(self, key: ec.EllipticCurvePublicKey, identity: str, issuer: str, *, at: datetime) -> x509.Certificate:
        """Return a certificate for ten minutes, with the certificate log's promise in it."""
        name = x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        self._count += 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(self._count)
            .not_valid_before(at)
            .not_valid_after(at + timedelta(minutes=10))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, asn1.encode_der(issuer)), critical=False)
        )
        promised = builder.sign(self._ca_key, hashes.SHA256()).tbs_certificate_bytes
        extension = x509.UnrecognizedExtension(
            ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS, self._promise(promised, at)
        )
        return builder.add_extension(extension, critical=False).sign(self._ca_key, hashes.SHA256())

    def answer(self, path: str, body: bytes, *, identity: str, issuer: str, at: datetime) -> tuple[int, Any]:
        """Answer a POST of its API.

        Args:
            path: of the request.
            body: JSON.
            identity: what the token is taken to say, like the next.
            issuer: who made it.
            at: the time now, whole seconds.

        Returns:
            the status and the document.
        """
        document = json.loads(body)
        if path == "/api/v2/signingCert":
            request = x509.load_pem_x509_csr(base64.b64decode(document["certificateSigningRequest"]))
            key = request.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return 400, {"message": "not that key"}
            chain = [self.certify(key, identity, issuer, at=at), self._root]
            pems = [each.public_bytes(Encoding.PEM).decode() for each in chain]
            return 201, {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}
        if path == "/api/v1/log/entries":
            proposed = document["spec"]["proposedContent"]
            envelope = decode_envelope_untrusted(proposed["envelope"].encode())
            entry = self._entry(base64.b64decode(proposed["verifiers"][0]), envelope, at)
            return 201, {"24" * 32: _entry_answer(entry)}
        return 404, {"message": "no such thing"}

    def _trust_root(self) -> dict[str, Any]:
        valid = {"start": _time_text(self._since)}
        root, stamps = (
            {"certificates": [{"rawBytes": _base64(each.public_bytes(Encoding.DER))} for each in chain]}
            for chain in ((self._root,), (self.timestamp_certificate, self._root))
        )
        subject = {"organization": "example", "commonName": "fake sigstore"}
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self._log_key, valid)],
            "certificateAuthorities": [{"subject": subject, "uri": _URL, "certChain": root, "validFor": valid}],
            "ctlogs": [_log(self._ct_key, valid)],
            "timestampAuthorities": [{"subject": subject, "uri": _URL, "certChain": stamps, "validFor": valid}],
        }

    def _promise(self, tbs: bytes, at: datetime) -> bytes:
        """Return the extension that holds one SCT of a certificate without it."""
        milliseconds = int(at.timestamp()) * 1000
        issuer = _key_id(self._ca_key)
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + issuer + len(tbs).to_bytes(3, "big") + tbs + bytes(2)
        signature = self._ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        sct = struct.pack("!B32sQHBBH", 0, _key_id(self._ct_key), milliseconds, 0, 4, 3, len(signature)) + signature
        each = len(sct).to_bytes(2, "big") + sct
        return asn1.encode_der(len(each).to_bytes(2, "big") + each)

    def _entry(self, certificate: bytes, envelope: Envelope, logged_at: datetime) -> dict[str, Any]:
        """Return a log entry with its promise and its proof, as bundles have it."""
        signatures = [
            {"signature": _base64(each.signature), "verifier": _base64(certificate)} for each in envelope.signatures
        ]
        body = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": _sha256(encode_envelope(envelope)).hex()},
                    "payloadHash": {"algorithm": "sha256", "value": _sha256(envelope.payload).hex()},
                    "signatures": signatures,
                },
            }
        )
        entry, integrated = self._logged("dsse", "0.0.1", body), int(logged_at.timestamp())
        promised = {
            "body": _base64(body),
            "integratedTime": integrated,
            "logID": _key_id(self._log_key).hex(),
            "logIndex": len(_OTHERS),
        }
        promise = {"signedEntryTimestamp": _base64(self._log_signature(_canonical(promised)))}
        return entry | {"integratedTime": str(integrated), "inclusionPromise": promise}

    def _entry_without_time(self, certificate: x509.Certificate, envelope: Envelope) -> dict[str, Any]:
        """Return an entry of the second version: of the digest of what was signed."""
        message = pre_authentication(envelope.payload_type, envelope.payload)
        verifier = {
            "x509Certificate": {"rawBytes": _base64(certificate.public_bytes(Encoding.DER))},
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
        }
        record = {
            "data": {"algorithm": "SHA2_256", "digest": _base64(_sha256(message))},
            "signature": {"content": _base64(envelope.signatures[0].signature), "verifier": verifier},
        }
        body = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        return self._logged("hashedrekord", "0.0.2", _canonical(body))

    def _logged(self, kind: str, version: str, body: bytes) -> dict[str, Any]:
        """Return an entry with the proof that it is in the log, as bundles have it."""
        leaves = [_sha256(b"\0" + leaf) for leaf in (*_OTHERS, body)]
        left = _sha256(b"\1" + leaves[0] + leaves[1])
        root = _sha256(b"\1" + left + _sha256(b"\1" + leaves[2] + leaves[3]))
        return {
            "logIndex": str(len(_OTHERS)),
            "logId": {"keyId": _base64(_key_id(self._log_key))},
            "kindVersion": {"kind": kind, "version": version},
            "inclusionProof": {
                "logIndex": str(len(_OTHERS)),
                "rootHash": _base64(root),
                "treeSize": str(len(leaves)),
                "hashes": [_base64(leaves[2]), _base64(left)],
                "checkpoint": {"envelope": self._checkpoint(len(leaves), root)},
            },
            "canonicalizedBody": _base64(body),
        }

    def _checkpoint(self, size: int, root: bytes) -> str:
        note = f"{_ORIGIN}\n{size}\n{_base64(root)}\n"
        signature = _key_id(self._log_key)[:4] + self._log_signature(note.encode())
        return f"{note}\n\N{EM DASH} {_ORIGIN} {_base64(signature)}\n"

    def _log_signature(self, message: bytes) -> bytes:
        return self._log_key.sign(message, ec.ECDSA(hashes.SHA256()))


def _bundle(certificate: x509.Certificate, envelope: Envelope, entry: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(encode_envelope(envelope))
    for signature in document["signatures"]:
        del signature["keyid"]
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "certificate": {"rawBytes": _base64(certificate.public_bytes(Encoding.DER))},
            "tlogEntries": [entry],
        },
        "dsseEnvelope": document,
    }


def _entry_answer(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a log entry as the log's API has it."""
    proof = entry["inclusionProof"]
    return {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
        "logIndex": int(entry["logIndex"]),
        "verification": {
            "inclusionProof": {
                "checkpoint": proof["checkpoint"]["envelope"],
                "hashes": [base64.b64decode(each).hex() for each in proof["hashes"]],
                "logIndex": int(proof["logIndex"]),
                "rootHash": base64.b64decode(proof["rootHash"]).hex(),
                "treeSize": int(proof["treeSize"]),
            },
            "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
        },
    }


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _log(key: ec.EllipticCurvePrivateKey, valid: dict[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": _URL,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": _base64(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid},
        "logId": {"keyId": _base64(_key_id(key))},
    }


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return _sha256(_spki(key))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _canonical(document: dict[str, Any]) -> bytes:
    """Return what RFC 8785 makes of text and small numbers."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
