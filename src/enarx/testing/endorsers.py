# SPDX-License-Identifier: Apache-2.0
"""AMD's KDS and Intel's PCS on loopback: a real server that answers what it was given, and misbehaves as it is told.

    with FakeVendors() as vendors:
        vendors.serve_vcek("Milan", chip_id, reported_tcb, der)
        Endorsers(cache_dir, timing=..., amd_url=vendors.url, intel_url=vendors.url)

Answers belong to a path with its query, as the service spells it. What has no answer is a 404.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from enarx.endorsers import amd_kds, intel_pcs
from enarx.rats import IntelCollateral

__all__ = ["Answer", "FakeVendors", "TestAuthority"]

_WAIT_S = 30.0
_SINCE, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server says to one question.

    Args:
        status: of HTTP.
        headers: besides the length.
        body: any bytes.
        drip_s: None, or the pause between the bytes of the head, which then never ends.
        cut: close the connection in the middle of the body.
        raw: None, or what is sent in the place of an HTTP answer.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    drip_s: float | None = None
    cut: bool = False
    raw: bytes | None = None


class FakeVendors:
    """Both services on one port of loopback.

    Args:
        authority: makes it speak TLS, with a certificate of this authority.

    Attributes:
        asked: path and query of every question, in order.
        heads: the header fields of every question.
        gate: while it is not set, no question is answered; it is set at first.
        arrived: is released once for every question.
    """

    def __init__(self, authority: TestAuthority | None = None) -> None:
        self.asked: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self._answers: dict[str, Answer] = {}
        self._first: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._make_handler())
        if authority is not None:
            self._server.socket = authority.server_context().wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if authority is not None else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        """Answer a path from now on."""
        self._answers[path] = Answer(status=status, headers=headers or {}, body=body)

    def serve_first(self, path: str, *answers: Answer) -> None:
        """Answer a path with these first, one for each question."""
        self._first[path].extend(answers)

    def throttle(self, path: str, *, times: int, retry_after: str | None = None) -> None:
        """Answer 429 so many times first, as KDS does to whoever asks more than about once in ten seconds."""
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        self.serve_first(path, *[Answer(status=429, headers=headers)] * times)

    def change(self, path: str, **changes: Any) -> None:
        """Change an answer that was given before."""
        self._answers[path] = replace(self._answers[path], **changes)

    def serve_vcek(self, line: str, chip_id: bytes, reported_tcb: bytes, der: bytes) -> str:
        """Serve a VCEK certificate, whatever it is, and return its path."""
        return self._serve_at(amd_kds.vcek_wanted("", line, chip_id, reported_tcb).url, der)

    def serve_amd_chain(self, line: str, pem: bytes, key: str = "vcek") -> str:
        """Serve ASK or ASVK and ARK, and return their path."""
        return self._serve_at(amd_kds.chain_wanted("", line, key).url, pem)

    def serve_amd_crl(self, line: str, der: bytes, key: str = "vcek") -> str:
        """Serve the list of a line's ARK, and return its path."""
        return self._serve_at(amd_kds.crl_wanted("", line, key).url, der)

    def serve_collateral(
        self, tee: str, fmspc: bytes, ca: str, collateral: IntelCollateral, *, update: str = "standard"
    ) -> tuple[str, str, str, str]:
        """Serve Intel's collateral with its chains, as a PCCS does.

        Returns:
            The paths of TCB info, QE identity, PCK CRL and root CRL.
        """
        return (
            self._serve_at(
                intel_pcs.tcb_info_wanted("", tee, fmspc, update).url,
                collateral.tcb_info,
                {"TCB-Info-Issuer-Chain": encode_chain(collateral.tcb_info_chain)},
            ),
            self._serve_at(
                intel_pcs.qe_identity_wanted("", tee, update).url,
                collateral.qe_identity,
                {"SGX-Enclave-Identity-Issuer-Chain": encode_chain(collateral.qe_identity_chain)},
            ),
            self._serve_at(
                intel_pcs.pck_crl_wanted("", ca).url,
                collateral.pck_crl,
                {"SGX-PCK-CRL-Issuer-Chain": encode_chain(collateral.pck_crl_chain)},
            ),
            self._serve_at(intel_pcs.root_crl_wanted("").url, collateral.root_ca_crl.hex().encode()),
        )

    def _serve_at(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        self.serve(path, body, headers)
        return path

    def _answer_to(self, path: str) -> Answer:
        first = self._first[path]
        if first:
            return first.popleft()
        return self._answers.get(path, Answer(status=404))

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        vendors = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _WAIT_S

            def do_GET(self) -> None:
                vendors.asked.append(self.path)
                vendors.heads.append(dict(self.headers.items()))
                vendors.arrived.release()
                vendors.gate.wait(_WAIT_S)
                answer = vendors._answer_to(self.path)
                self.close_connection = True
                if answer.raw is not None:
                    self.wfile.write(answer.raw)
                    return
                if answer.drip_s is not None:
                    self._drip(answer.drip_s)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)

            def _drip(self, pause_s: float) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                while not vendors._ended.wait(pause_s):
                    self.wfile.write(b".")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Log nothing."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(_WAIT_S)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away in the middle are what is tested."""


class TestAuthority:
    """A certificate authority for TLS, and the certificate of its only server, 127.0.0.1; both valid in every test.

    Attributes:
        pem: the authority's certificate.
    """

    __test__ = False

    def __init__(self) -> None:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enarx test authority")])
        authority = _sign(ca_name, ca_name, ca_key, ca_key, is_ca=True)
        server = _sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), ca_name, key, ca_key, is_ca=False
        )
        self.pem = authority.public_bytes(Encoding.PEM)
        self._server_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + server.public_bytes(
            Encoding.PEM
        )

    def server_context(self) -> ssl.SSLContext:
        """Return the server's side of TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(self._server_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def encode_chain(chain: tuple[bytes, ...]) -> str:
    """Return certificates as PCS puts them into a header: PEM, percent-encoded."""
    return quote(b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain))


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_SINCE)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_ca:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signer, hashes.SHA256())
