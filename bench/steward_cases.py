# SPDX-License-Identifier: Apache-2.0
"""The case of the Steward: certificates per second through the service, beside the bare cryptography that each of them needs.

The service is that of the installed `enarx`, with TLS and its log in SQLite. Keeps are in the benchmark's process: each request has
fresh evidence of one emulated platform over a nonce that the service gave, made before the clock starts. docs/benchmarks.md says why.
"""

from __future__ import annotations

import hashlib
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

from cases import Bench, Case, Row
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from timing import BenchError, cpu_s_of_all, free_port, median, now, resident_kb, run_once, server
from timing import Command as Timed

from enarx.attester import Attested
from enarx.attester.emulated import EmulatedAttester
from enarx.channel.transcript import identity_report_data
from enarx.deploy.reference import default_policy
from enarx.emulator.installation import open_installation
from enarx.emulator.service import answer
from enarx.image import measure_process, package_folder
from enarx.wire import steward as wire
from enarx.wire.release import Identity, encode_identity
from enarx.wire.session import Limits, Receipt, without_evidence

N_CLIENTS = 32
"""So many that there is always work for both cores; with 16 they are idle for 2 to 3 % of their time."""
N_BARE = 2
"""Processes, one for each core."""
NONCE_S = 60.0
"""So long after the first nonce of a round was given its last request has been sent; they hold for twice that."""

PACKAGE, TENANT = bytes(range(32)), bytes(range(48))
_ANSWER_BYTES = 1 << 16
ANSWER_LIMIT_S = 30.0

_Request: TypeAlias = tuple[bytes, bytes, int]
"""Head, body, and the status that is wanted."""

_Asking: TypeAlias = Generator[_Request, bytes, None]


def steward(bench: Bench) -> Iterator[Row]:
    """Certificates per second, and what the service holds after many."""
    is_quick = bench.options.load_s < 2
    count, more = (416, 2_080) if is_quick else (1216, 20_672)
    keep = _Keep(bench.enarx.configs / "steward-platform")
    with _service(bench, keep) as service, _Clients(service) as clients:
        rounds: list[tuple[_Time, _Time, _Time]] = []
        with _Bare() as bare:
            for turn in range(bench.options.load_rounds + 1):
                alone, with_evidence = clients.certify(keep, count), clients.certify(keep, count, ask_in_time=True)
                if turn:
                    rounds.append((alone, with_evidence, bare.run(count)))
        ours, whole, theirs = ([count / found.wall_s for found in times] for times in zip(*rounds, strict=True))
        cpu = median([alone.cpu_s / bare_time.cpu_s for alone, _, bare_time in rounds])
        peer = f"bare: P-384 and P-256 verify, two P-384 signatures, one Ed25519, digests and TLS records, in {N_BARE} processes"
        yield Row(
            name="certificates of a Steward",
            unit="/s",
            ours=ours,
            theirs=theirs,
            peer=peer,
            at_least=0.4,
            note=f"{N_CLIENTS} connections; processor time of the service alone {cpu:.2f}",
        )
        yield Row(name="the same, nonces and evidence too", unit="/s", ours=whole, theirs=theirs, peer=peer)
        issued = (len(rounds) + 1) * 2 * count
        before = resident_kb(service.pid)["Rss"] / 1024
        for _ in range(more // count):
            clients.certify(keep, count)
        after = resident_kb(service.pid)["Rss"] / 1024
        service.audit()
        yield Row(
            name=f"memory of a Steward after {more + issued} certificates",
            unit="MB",
            ours=[after],
            theirs=[before],
            peer=f"after {issued}",
            at_most=1.05,
        )


STEWARD_CASES: Mapping[str, Case] = {"steward": steward}


# --- Our side


class _Keep:
    """A Keep that asks again and again, on an emulated platform.

    Args:
        folder: for the platform.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        platform = open_installation(str(folder), at=now())
        measurement = measure_process(package_folder())
        self._attester = EmulatedAttester(
            lambda request: answer(platform, request, measurement=measurement, report_id=bytes(32))
        )
        self.root_sha256 = hashlib.sha256(platform.root).hexdigest()
        self.policy = default_policy({"process": measurement}).text
        identity = Identity(package=PACKAGE, module=bytes(32), configuration=bytes(32), pristine=False, tenant=TENANT)
        self._identity = encode_identity(identity)
        limits = Limits(memory_bytes=1 << 26, package_bytes=1 << 20, log_bytes=1 << 20)
        self._receipt = without_evidence(
            Receipt(identity=self._identity, limits=limits, endorsements=(), evidence=b"none")
        )
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._spki = hashlib.sha384(spki).digest()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        self._csr = csr.public_bytes(Encoding.DER)

    def request(self, nonce: bytes, root: bytes) -> bytes:
        """Return the body of a request, with evidence that was made for it.

        Args:
            nonce: of the Steward.
            root: SHA-384 of its certificate.
        """
        attested: Attested = self._attester.attest(identity_report_data(nonce, self._spki, self._identity, root))
        return wire.encode_certificate_request(
            wire.CertificateRequest(
                csr=self._csr,
                receipt=self._receipt,
                evidence=attested.evidence,
                endorsements=attested.endorsements,
                nonce=nonce,
                root=root,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """A Steward that is up."""

    bench: Bench
    state: Path
    pid: int
    port: int

    def audit(self) -> None:
        """Have the whole log proved."""
        command = [self.bench.enarx.command, "steward", "audit", "--state", str(self.state)]
        run_once(Timed(argv=command, env=self.bench.env, stdout=_require_entries))


def _require_entries(stdout: bytes) -> None:
    if b"\nentries " not in stdout:
        raise BenchError(f"steward audit: printed {stdout[:200]!r}, want how many entries there are")


@contextmanager
def _service(bench: Bench, keep: _Keep) -> Iterator[_Service]:
    """Found a Steward that knows the Keep, and keep it up."""
    state, port = bench.enarx.configs / "steward", free_port()
    shutil.rmtree(state, ignore_errors=True)
    policy = bench.enarx.configs / "steward-policy.toml"
    policy.write_text(keep.policy)
    found = [
        bench.enarx.command,
        "steward",
        "init",
        "--state",
        str(state),
        "--name",
        "localhost",
        "--policy",
        str(policy),
    ]
    run_once(Timed(argv=found, env=bench.env, stdout=b""))
    with (state / "steward.toml").open("a", encoding="utf-8") as configuration:
        configuration.write(f'[[grant]]\npackage = "{PACKAGE.hex()}"\ntenant = "{TENANT.hex()}"\ndns = ["localhost"]\n')
    line = [
        bench.enarx.command,
        "steward",
        "serve",
        "--state",
        str(state),
        "--listen",
        f"127.0.0.1:{port}",
        "--offline",
    ]
    with server([*line, f"--insecure-accept-emulated={keep.root_sha256}"], bench.env, port, asked=True) as pid:
        yield _Service(bench=bench, state=state, pid=pid, port=port)


class _Time(NamedTuple):
    """Wall and processor time in seconds; the latter of the side that is measured, without its clients."""

    wall_s: float
    cpu_s: float


class _Clients:
    """Connections that stay open, all asked by one thread, so that asking takes little of the processors that answer.

    Args:
        service: whom they ask.
    """

    def __init__(self, service: _Service) -> None:
        context = ssl.create_default_context(cafile=str(service.state / "root.pem"))
        own = x509.load_pem_x509_certificates((service.state / "root.pem").read_bytes())[0]
        self._root = hashlib.sha384(own.public_bytes(Encoding.DER)).digest()
        self._service = service
        self._open: list[ssl.SSLSocket] = []
        for _ in range(N_CLIENTS):
            plain = socket.create_connection(("127.0.0.1", service.port), ANSWER_LIMIT_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(context.wrap_socket(plain, server_hostname="localhost"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            each.close()

    def certify(self, keep: _Keep, count: int, *, ask_in_time: bool = False) -> _Time:
        """Get so many certificates.

        Args:
            keep: who asks.
            count: of certificates.
            ask_in_time: whether nonces and evidence are in the time.
        """
        began = time.perf_counter()
        share = count // N_CLIENTS
        bodies: list[list[bytes]] = [[] for _ in self._open]

        def prepare(bodies: list[bytes]) -> _Asking:
            while len(bodies) < share:
                bodies.append((yield from self._prepared(keep)))

        def ask(bodies: list[bytes]) -> _Asking:
            for number in range(share):
                body = (yield from self._prepared(keep)) if ask_in_time else bodies[number]
                yield _head(wire.CERTIFICATES_PATH, body), body, 201

        if not ask_in_time:
            self._together(prepare(each) for each in bodies)
        if time.perf_counter() - began > NONCE_S:
            raise BenchError(f"steward: {count} requests took more than {NONCE_S:g} s to make")
        cpu_s, began = cpu_s_of_all(self._service.pid), time.perf_counter()
        self._together(ask(each) for each in bodies)
        wall_s = time.perf_counter() - began
        return _Time(wall_s * count / (share * N_CLIENTS), cpu_s_of_all(self._service.pid) - cpu_s)

    def _prepared(self, keep: _Keep) -> Generator[_Request, bytes, bytes]:
        answer = yield _head(wire.CHALLENGE_PATH, b"{}"), b"{}", 200
        return keep.request(wire.decode_challenge_answer_untrusted(answer).nonce, self._root)

    def _together(self, asking: Iterable[_Asking]) -> None:
        """Ask on each connection what one of these asks, the next as soon as there is an answer."""
        of = {peer.fileno(): (peer, each) for peer, each in zip(self._open, asking, strict=True)}
        poll = select.poll()
        wanted: dict[int, int] = {}
        for fd, (peer, each) in of.items():
            if (first := next(each, None)) is not None:
                wanted[fd] = _send(peer, first)
                poll.register(fd, select.POLLIN)
        while wanted:
            ready = poll.poll(ANSWER_LIMIT_S * 1000)
            if not ready:
                raise BenchError(f"steward: found no answer in {ANSWER_LIMIT_S:g} s")
            for fd, _ in ready:
                peer, each = of[fd]
                try:
                    wanted[fd] = _send(peer, each.send(_receive(peer, wanted[fd])))
                except StopIteration:
                    del wanted[fd]
                    poll.unregister(fd)


def _head(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode("ascii")


def _send(peer: ssl.SSLSocket, request: _Request) -> int:
    """Ask, and return the status that is wanted."""
    head, body, status = request
    peer.sendall(head + body)
    return status


def _receive(peer: ssl.SSLSocket, status: int) -> bytes:
    """Return the body of the answer whose first byte has come."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(peer)
    answered, _, rest = data.partition(b"\r\n\r\n")
    length = int(answered.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(rest) < length:
        rest += _some(peer)
    if not answered.startswith(b"HTTP/1.1 %d " % status):
        raise BenchError(f"steward: answered {answered[:40]!r} {rest[:300]!r}, want {status}")
    return rest


def _some(peer: ssl.SSLSocket) -> bytes:
    data = peer.recv(_ANSWER_BYTES)
    if not data:
        raise BenchError("steward: found the end of a connection, want an answer")
    return data


# --- The bare side


class _Bare:
    """Processes that do nothing but the cryptography."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("steward_bare.py"))]
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(N_BARE)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.communicate()

    def run(self, count: int) -> _Time:
        """Do what so many certificates take, shared between them."""
        for child in self._children:
            if child.stdin is None or child.stdout is None:
                raise BenchError("steward: found no pipes to the bare side")
            child.stdin.write(f"{count // N_BARE}\n")
        for child in self._children:
            with suppress(BrokenPipeError):
                child.stdin.flush()  # type: ignore[union-attr]
        times = [tuple(map(float, child.stdout.readline().split())) for child in self._children]  # type: ignore[union-attr]
        if not all(times):
            raise BenchError("steward: the bare side ended")
        return _Time(max(wall for wall, _ in times), sum(cpu for _, cpu in times))
