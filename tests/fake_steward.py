# SPDX-License-Identifier: Apache-2.0
"""A Steward for tests of those who ask one: real TLS and real certificates, and answers that a test can bend."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from enarx.crypto.x509 import Credential
from enarx.wire.cmw import CMW_EXTENSION_OID
from enarx.wire.keep_certificate import EMULATED, KeepCertificate, encode_keep_extension
from enarx.wire.release import Identity, encode_identity
from enarx.wire.steward import (
    CERTIFICATES_PATH,
    CHALLENGE_PATH,
    MEDIA_TYPE_JSON,
    MEDIA_TYPE_PROBLEM,
    CertificateAnswer,
    CertificateRequest,
    ChallengeAnswer,
    Problem,
    decode_certificate_request_untrusted,
    encode_certificate_answer,
    encode_challenge_answer,
    encode_problem,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


class FakeAuthority:
    """The authority of a Steward, which certifies whatever a test wants; other authorities too, where `below` are allowed."""

    def __init__(self, at: datetime, name: str = "steward", *, below: int = 0) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = (
            self._builder(self.name, self.key.public_key(), at - DAY * 400, at + DAY * 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
            .sign(self.key, hashes.SHA384())
        )
        self.root_der = self.root.public_bytes(Encoding.DER)

    def _builder(self, subject, public_key, first, last):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(last)
        )

    def issue(self, public_key, first, last, *, names=("localhost",), identity=None, keep=None, emulated=False):
        """Return a certificate: of a Keep where there is an identity record, else of anybody."""
        mark = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, EMULATED)] if emulated else []
        builder = self._builder(x509.Name(mark), public_key, first, last).add_extension(
            x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=True
        )
        if identity is not None:
            keep = KeepCertificate(identity, b"result")
        if keep is not None:
            value = encode_keep_extension(keep)
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(CMW_EXTENSION_OID), value), critical=False
            )
        return builder.sign(self.key, hashes.SHA384())

    def vouch(self, other: x509.Certificate) -> x509.Certificate:
        """Return a certificate for another authority's name and key, which is below this one then."""
        return (
            self._builder(other.subject, other.public_key(), other.not_valid_before_utc, other.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA384())
        )

    def credential(self, at, **options) -> Credential:
        """Return a certificate for an hour, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.issue(key.public_key(), at - MINUTE, at + 60 * MINUTE, **options)
        return Credential(chain=(leaf,), private_key=key)


def identity_of(package: bytes = b"p" * 32, tenant: bytes = b"t" * 48, *, pristine: bool = True) -> bytes:
    """Return an identity record."""
    return encode_identity(Identity(package, b"m" * 32, b"c" * 32, pristine, tenant))


class FakeSteward:
    """A Steward on a port of this machine, until the block ends.

    Args:
        folder: for its key, which the standard library reads from a file.
        at: the time by its clock.
        authority: whose certificates it gives out; None is one of its own.

    Attributes:
        change: is given each answer, and returns what is sent: an answer, a `Problem`, or bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        at: datetime | None = None,
        lifetime: timedelta = DAY,
        authority: FakeAuthority | None = None,
    ) -> None:
        self.at = at or datetime.now(UTC)  # noqa: DTZ005, TID251, RUF100  # as a service has it
        self.lifetime = lifetime
        self.authority = authority or FakeAuthority(self.at)
        self.requests: list[CertificateRequest] = []
        self.change: Callable[[Any], Any] = lambda answer: answer
        self.issued = threading.Semaphore(0)
        credential = self.authority.credential(self.at)
        pem = folder / "steward.pem"
        pem.write_bytes(
            credential.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + credential.chain[0].public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        steward = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                steward._answer(self, body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                # The handshake is the thread's own, or a client that fails would stop the next one.
                with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as tls:
                    Handler(tls, client_address, self)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"https://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, asked: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        if asked.path == CHALLENGE_PATH:
            answer: Any = ChallengeAnswer(hashlib.sha256(body).digest(), self.at.replace(microsecond=0) + 2 * MINUTE)
        else:
            assert asked.path == CERTIFICATES_PATH
            request = decode_certificate_request_untrusted(body)
            self.requests.append(request)
            answer = self.certify(request)
        answer = self.change(answer)
        if isinstance(answer, Problem):
            status, kind, data = answer.status, MEDIA_TYPE_PROBLEM, encode_problem(answer)
        elif isinstance(answer, ChallengeAnswer):
            status, kind, data = 200, MEDIA_TYPE_JSON, encode_challenge_answer(answer)
        elif isinstance(answer, CertificateAnswer):
            status, kind, data = 201, MEDIA_TYPE_JSON, encode_certificate_answer(answer)
            self.issued.release()
        else:
            status, kind, data = answer
        asked.send_response(status)
        asked.send_header("Content-Type", kind)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data)

    def certify(self, request: CertificateRequest, **changes: Any) -> CertificateAnswer:
        """Return what is right: a certificate for the key and the identity that were shown."""
        csr = x509.load_der_x509_csr(request.csr)
        options = {
            "public_key": csr.public_key(),
            "first": self.at - 5 * MINUTE,
            "last": self.at + self.lifetime,
            "identity": _identity_in(request.receipt),
        } | changes
        leaf = self.authority.issue(**options)
        return CertificateAnswer(
            chain=(leaf.public_bytes(Encoding.DER), self.authority.root_der),
            not_after=leaf.not_valid_after_utc,
            renew_after=(self.at + self.lifetime / 2).replace(microsecond=0),
            log_index=len(self.requests),
        )


def _identity_in(receipt: bytes) -> bytes:
    """Return the identity record of a receipt without evidence."""
    from enarx.crypto.cbor import decode_untrusted

    identity = decode_untrusted(receipt, max_bytes=4096)["identity"]
    assert type(identity) is bytes
    return identity
