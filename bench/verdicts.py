# SPDX-License-Identifier: Apache-2.0
"""Evidence to judge, and how the judging is timed inside this process.

Rules:
- Evidence is made here under public fakes of the vendors, so nothing has to be downloaded. A policy is made from it that expects
  everything it can say, so each verdict carries all findings of its kind and the signatures are not all the work there is.
- No two pieces of evidence are equal: whoever remembers a report would gain nothing.
- Sides are timed in turn, a few milliseconds each, so that what the clock and the neighbours do happens to both.
- Each verdict in a timed loop is looked at. Before it, each side refuses a copy with one bit flipped.

Knows enarx's verifier and dcap-qvl; knows nothing of rows and their limits.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from timing import BenchError

from enarx.abi.cca import parse_token_untrusted
from enarx.abi.nitro import parse_document_untrusted
from enarx.crypto.cbor import encode
from enarx.crypto.cose import Sign1
from enarx.rats import (
    AppraisalPolicy,
    AttestationResult,
    Endorsements,
    Evidence,
    IntelCollateral,
    TrustAnchors,
    Verdict,
)
from enarx.testing import dcap
from enarx.testing.cca import CcaPlatform
from enarx.testing.nitro import NitroAuthority
from enarx.testing.snp import FakeAmd
from enarx.verifier import TrustCache, recognise, verify_evidence
from enarx.verifier.ledger import Ledger, Setting
from enarx.verifier.policy_toml import decode_policy
from enarx.verifier.policy_write import Reference, references_from_claims, toml_of, write_policy
from enarx.verifier.registry import judge_of

AT = datetime(2026, 6, 15, 12, tzinfo=UTC)
BATCHES = 20  # of each side in a round
THREAD_BATCHES = 8  # likewise where threads are started, which takes time itself
THREADS = 2
PROCESS_BATCHES, PROCESS_CHUNK = 64, 1024  # likewise where processes are given so many pieces at a time
_ECDSA = ec.ECDSA(SHA384())
_NOTHING = Endorsements()
# What no policy can be made of evidence for: the software components of the fake CCA platform.
_COMPONENTS = ({"type": "BL2", "measurement": "11" * 32}, {"type": "RMM", "measurement": "44" * 32})
_BY_HAND = {"cca.sw_components": Reference(toml_of([each | {"signer_id": "22" * 32} for each in _COMPONENTS]))}


_judged_here: tuple[Subject, TrustCache]

# --- Evidence --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A piece of evidence with all it takes to accept it.

    Args:
        data: the evidence.
        signed: bytes of a measurement in it, which a signature covers.
        anchors: of the relying party.
        endorsements: that the evidence does not bring itself.
        policy: None is the baseline.
        report_data: what the caller wants to find as the freshness value.
    """

    data: bytes
    signed: bytes
    anchors: TrustAnchors
    endorsements: Endorsements = _NOTHING
    policy: AppraisalPolicy | None = None
    report_data: bytes | None = None

    def judge(self, known: TrustCache) -> AttestationResult:
        """Do what a relying party does with evidence that came in."""
        return verify_evidence(
            Evidence(data=self.data),
            at=AT,
            endorsements=self.endorsements,
            policy=self.policy,
            anchors=self.anchors,
            cache=known,
            report_data=self.report_data,
        )

    @property
    def flipped(self) -> Subject:
        """The same with one bit of the measurement flipped."""
        data = bytearray(self.data)
        data[self.data.index(self.signed)] ^= 1
        return replace(self, data=bytes(data))


def policy_text_for(subject: Subject) -> str:
    """Return a policy, as TOML, that expects of evidence whatever this one says."""
    recognised = recognise(Evidence(data=subject.data))
    endorsements = recognised.endorsements + subject.endorsements
    setting = Setting(at=AT, anchors=subject.anchors)
    parts = judge_of(recognised.section).examine(recognised.parsed, endorsements, setting, Ledger()).parts
    references = references_from_claims(parts) | _BY_HAND
    draft = write_policy(tuple(part.section for part in parts), references=references, origin="For the benchmark")
    if draft.missing:
        raise BenchError(f"policy: found nothing for {', '.join(draft.missing)}, want values")
    return draft.text


def with_policy(subjects: Iterable[Subject]) -> Iterator[Subject]:
    """Give all of them the policy that the first one meets."""
    policy = None
    for subject in subjects:
        policy = policy or decode_policy(policy_text_for(subject).encode(), path="policy.toml")
        yield replace(subject, policy=policy)


@cache
def _amd() -> FakeAmd:
    return FakeAmd()


@cache
def _intel() -> dcap.FakeIntel:
    return dcap.FakeIntel()


@cache
def _aws() -> NitroAuthority:
    return NitroAuthority(at=AT)


def make_snp(numbers: Iterator[int]) -> Iterator[Subject]:
    """Make reports of one chip, each for another challenge."""
    amd = _amd()
    case, processor = amd.make_case(), amd.make_processor()
    endorsements = Endorsements(certificates=case.certificates, crls=(amd.make_crl(),))
    for number in numbers:
        challenge = number.to_bytes(64, "big")
        report = processor.report(version=3, report_data=challenge)
        yield Subject(
            data=report.serialise(),
            signed=report.measurement,
            anchors=case.anchors,
            endorsements=endorsements,
            report_data=challenge,
        )


def make_quotes(tee: str, numbers: Iterator[int], *, platforms: int = 1) -> Iterator[Subject]:
    """Make quotes of a number of platforms in turn, each for another challenge.

    Args:
        tee: `SGX` or `TDX`.
        numbers: one for each quote.
        platforms: how many, all under the same collateral.
    """
    intel = _intel()
    machines = [dcap.Platform(ppid=number.to_bytes(16, "big")) for number in range(platforms)]
    certificates = [intel.certify(machine) for machine in machines]
    endorsements = Endorsements(intel=(intel.make_collateral(tee, machines[0]),))
    for number in numbers:
        challenge, which = number.to_bytes(64, "big"), number % platforms
        body: dcap.EnclaveReport | dcap.TdReport
        if tee == dcap.SGX:
            body = dcap.EnclaveReport(report_data=challenge)
            signed = body.mr_enclave
        else:
            body = dcap.TdReport(report_data=challenge, tee_tcb_svn2=dcap.TdReport().tee_tcb_svn)
            signed = body.mr_td
        yield Subject(
            data=intel.make_quote(body, machines[which], pck=certificates[which]),
            signed=signed,
            anchors=TrustAnchors(intel=(intel.root.der,)),
            endorsements=endorsements,
            report_data=challenge,
        )


def make_nitro(numbers: Iterator[int]) -> Iterator[Subject]:
    """Make documents of one zone, each signed with a key and a certificate of its own."""
    aws = _aws()
    for number in numbers:
        challenge = number.to_bytes(32, "big")
        yield Subject(
            data=aws.document(changes={"nonce": challenge}),
            signed=bytes([1]) * 48,
            anchors=aws.anchors,
            report_data=challenge,
        )


def make_cca(count: int, *, platforms: int | None = None) -> list[Subject]:
    """Make tokens, each of a realm of its own; all the platforms are trust anchors.

    Args:
        count: of tokens.
        platforms: of how many platforms, in turn; None makes one for each token.
    """
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(platforms or count)]
    realms = [CcaPlatform(cpak=key) for _, key in zip(range(count), itertools.cycle(keys), strict=False)]
    anchors = TrustAnchors(cca={each.instance_id: each.spki for each in realms})
    return [
        Subject(
            data=realm.token(realm={10: number.to_bytes(64, "big")}),
            signed=realm.platform_claims()[2396],
            anchors=anchors,
            report_data=number.to_bytes(64, "big"),
        )
        for number, realm in enumerate(realms)
    ]


def take(count: int, make: Callable[[Iterator[int]], Iterator[Subject]]) -> list[Subject]:
    """Make so many pieces of evidence, and a policy for all of them."""
    return list(with_policy(make(iter(range(count)))))


# --- Judging ---------------------------------------------------------------------------------------------------------


def judge_all(subjects: Sequence[Subject], known: TrustCache) -> int:
    """Judge each of them, and return how many.

    Raises:
        BenchError: one was not accepted.
    """
    for subject in subjects:
        result = subject.judge(known)
        if result.verdict is not Verdict.ACCEPTED:
            raise BenchError(f"{result.tee}: {result.verdict}: {result.failures[0].line}, want it accepted")
    return len(subjects)


class Processes:
    """Processes that judge what they are given, as a program would use them that has more evidence than one processor can judge.

    What is sent to them is the evidence, and what comes back the verdict and each finding that failed.

    Args:
        subjects: what differs between them is the evidence and the caller's challenge alone.
    """

    def __init__(self, subjects: Sequence[Subject]) -> None:
        global _judged_here  # what a child judges with, inherited by it
        _judged_here = subjects[0], TrustCache()
        self._asked = [(subject.data, subject.report_data) for subject in subjects]
        self._pool = ProcessPoolExecutor(THREADS, multiprocessing.get_context("fork"), gc.freeze)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def judge_all(self) -> int:
        """Have each of them judged `PROCESS_BATCHES` times, and return how many that is.

        Raises:
            BenchError: one was not accepted.
        """
        asked = self._asked * PROCESS_BATCHES
        for verdict, failures in self._pool.map(_judge_one, asked, chunksize=PROCESS_CHUNK):
            if verdict is not Verdict.ACCEPTED:
                raise BenchError(f"a process: {verdict}: {failures[0]}, want it accepted")
        return len(asked)


def _judge_one(asked: tuple[bytes, bytes | None]) -> tuple[Verdict, tuple[str, ...]]:
    subject, known = _judged_here
    result = replace(subject, data=asked[0], report_data=asked[1]).judge(known)
    return result.verdict, tuple(finding.line for finding in result.failures)


def prove(subjects: Sequence[Subject], known: TrustCache) -> int:
    """Accept each of them and refuse flipped copies; return how many findings the first verdict has.

    Raises:
        BenchError: a verdict was another.
    """
    judge_all(subjects, known)
    for subject in subjects:
        verdict = subject.flipped.judge(known).verdict
        if verdict is not Verdict.NOT_AUTHENTIC:
            raise BenchError(f"a flipped copy: {verdict}, want not authentic")
    return len(subjects[0].judge(known).findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class BareCheck:
    """One signature on P-384 with everything at hand that it takes to check it: what a verdict cannot do without.

    Args:
        key: whose signature it is.
        signature: in DER.
        signed: what it is over.
        carried: the key as SubjectPublicKeyInfo where it comes with the evidence, another one each time: it has to be loaded before
            anything can be checked with it. None where it is at hand.
    """

    key: ec.EllipticCurvePublicKey
    signature: bytes
    signed: bytes
    carried: bytes | None = None

    def run(self) -> None:
        """Check it as directly as it can be done.

        Raises:
            InvalidSignature: it does not hold.
        """
        key: Any = self.key if self.carried is None else load_der_public_key(self.carried)
        key.verify(self.signature, self.signed, _ECDSA)

    @property
    def with_key_at_hand(self) -> BareCheck:
        """The same with the key loaded before."""
        return replace(self, carried=None)


def run_bare(checks: Sequence[tuple[BareCheck, ...]]) -> int:
    """Check the signatures of each piece of evidence, and return how many pieces."""
    for each in checks:
        for check in each:
            check.run()
    return len(checks)


def prove_bare(checks: Sequence[tuple[BareCheck, ...]]) -> None:
    """Refuse each signature over something else.

    Raises:
        BenchError: one was accepted.
    """
    for check in itertools.chain.from_iterable(checks):
        other = replace(check, signed=bytes([check.signed[0] ^ 1]) + check.signed[1:])
        try:
            other.run()
        except InvalidSignature:
            continue
        raise BenchError("a bare signature check accepted what was not signed")


def bare_snp(subject: Subject) -> tuple[BareCheck, ...]:
    """Return the check of a report's signature."""
    report = recognise(Evidence(data=subject.data)).parsed.report
    certificate = x509.load_der_x509_certificate(subject.endorsements.certificates[0])
    r, s = (int.from_bytes(number, "little") for number in (report.signature_r, report.signature_s))
    return (BareCheck(key=_p384(certificate), signature=encode_dss_signature(r, s), signed=bytes(report.signed_bytes)),)


def bare_nitro(subject: Subject) -> tuple[BareCheck, ...]:
    """Return the checks of the signing certificate's signature and of the document's."""
    document = parse_document_untrusted(subject.data)
    leaf, issuer = (x509.load_der_x509_certificate(der) for der in (document.certificate, document.cabundle[-1]))
    issued = BareCheck(key=_p384(issuer), signature=leaf.signature, signed=leaf.tbs_certificate_bytes)
    return issued, _bare_message(document.message, _p384(leaf), is_carried=True)


def bare_cca(subject: Subject) -> tuple[BareCheck, ...]:
    """Return the checks of the platform token's signature and of the realm token's."""
    from enarx.crypto.cose import load_key_untrusted

    token = parse_token_untrusted(subject.data)
    platform = load_der_public_key(subject.anchors.cca[token.platform.instance_id])
    realm = load_key_untrusted(token.realm.public_key)
    if not isinstance(platform, ec.EllipticCurvePublicKey) or not isinstance(realm, ec.EllipticCurvePublicKey):
        raise BenchError("CCA: found another kind of key, want ECDSA")
    return _bare_message(token.platform_message, platform), _bare_message(token.realm_message, realm, is_carried=True)


def _bare_message(message: Sign1, key: ec.EllipticCurvePublicKey, *, is_carried: bool = False) -> BareCheck:
    """Return the check of a COSE_Sign1 message (RFC 9052 section 4.4)."""
    half = len(message.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (message.signature[:half], message.signature[half:]))
    signed = encode(["Signature1", message.protected, b"", message.payload])
    carried = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if is_carried else None
    return BareCheck(key=key, signature=encode_dss_signature(r, s), signed=signed, carried=carried)


def _p384(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise BenchError("found another kind of key, want P-384")
    return key


class DcapQvl:
    """dcap-qvl, called as directly as it can be: collateral parsed once, and no policy but its own.

    The quotes' root is not Intel's, so it is asked by the function that takes the root; its other one differs in nothing else.
    """

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.quotes = [subject.data for subject in subjects]
        self._root = subjects[0].anchors.intel[0]
        self._collateral = _foreign(subjects[0].endorsements.intel[0])
        self._at = int(AT.timestamp())

    def judge_all(self) -> int:
        """Verify each quote, and return how many."""
        verify, collateral, root, at = dcap_qvl.verify_with_root_ca, self._collateral, self._root, self._at
        for quote in self.quotes:
            if verify(quote, collateral, root, at).status != "UpToDate":
                raise BenchError("dcap-qvl: found another status, want UpToDate")
        return len(self.quotes)

    def prove(self, subjects: Sequence[Subject]) -> None:
        """Accept each quote and refuse flipped copies.

        Raises:
            BenchError: it accepted one of these.
        """
        self.judge_all()
        for subject in subjects:
            try:
                dcap_qvl.verify_with_root_ca(subject.flipped.data, self._collateral, self._root, self._at)
            except ValueError:
                continue
            raise BenchError("dcap-qvl: accepted a flipped copy")


def _foreign(collateral: IntelCollateral) -> dcap_qvl.QuoteCollateralV3:
    def pem(chain: tuple[bytes, ...]) -> str:
        return "".join(ssl.DER_cert_to_PEM_cert(der) for der in chain)

    def split(document: bytes) -> tuple[str, bytes]:
        start, end = document.index(b":") + 1, document.rindex(b',"signature":"')
        return document[start:end].decode(), bytes.fromhex(document[end + 14 :].rstrip(b'"}').decode())

    return dcap_qvl.QuoteCollateralV3(
        pem(collateral.pck_crl_chain),
        collateral.root_ca_crl,
        collateral.pck_crl,
        pem(collateral.tcb_info_chain),
        *split(collateral.tcb_info),
        pem(collateral.qe_identity_chain),
        *split(collateral.qe_identity),
    )


# --- Timing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Something to time.

    Args:
        work: does a batch and returns how many pieces of evidence that was.
        prepare: what has to be so before a batch, and is not timed.
    """

    work: Callable[[], int]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many pieces of evidence a side judged per second, and per second of processor time; one value for each round."""

    per_s: Sequence[float]
    per_cpu_s: Sequence[float]


def alternate_batches(sides: Sequence[Side], *, rounds: int) -> list[Pace]:
    """Time sides in turn, `BATCHES` each in a round, after a round that does not count."""
    return _alternate(sides, [_time_once] * len(sides), rounds=rounds, batches=BATCHES)


def alternate_threads(sides: Sequence[Side], *, rounds: int) -> list[tuple[Pace, Pace]]:
    """Time each side on one thread and on `THREADS` together, all in turn; return both paces of each."""
    both = [side for side in sides for _ in range(2)]
    paces = _alternate(both, [_time_threads(1), _time_threads(THREADS)] * len(sides), rounds=rounds, batches=1)
    return list(zip(paces[::2], paces[1::2], strict=True))


def alternate_processes(one: Side, processes: Processes, *, rounds: int) -> tuple[Pace, Pace]:
    """Time a side on one thread of this process and processes that do the same, in turn; the latter's processor time is not counted."""
    sides = [one, Side(work=processes.judge_all)]
    alone, together = _alternate(sides, [_time_threads(1), _time_once], rounds=rounds, batches=1)
    return alone, together


def _alternate(
    sides: Sequence[Side], timers: Sequence[Callable[[Side], tuple[int, float, float]]], *, rounds: int, batches: int
) -> list[Pace]:
    per_s: list[list[float]] = [[] for _ in sides]
    per_cpu_s: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        totals = [(0, 0.0, 0.0)] * len(sides)
        for _ in range(batches):
            for index, (side, timer) in enumerate(zip(sides, timers, strict=True)):
                side.prepare()
                (count, wall_s, cpu_s), (more, wall, cpu) = totals[index], timer(side)
                totals[index] = count + more, wall_s + wall, cpu_s + cpu
        if turn:
            for index, (count, wall_s, cpu_s) in enumerate(totals):
                per_s[index].append(count / wall_s)
                per_cpu_s[index].append(count / cpu_s)
    return [Pace(per_s=wall, per_cpu_s=cpu) for wall, cpu in zip(per_s, per_cpu_s, strict=True)]


def _time_once(side: Side) -> tuple[int, float, float]:
    cpu, began = time.thread_time(), time.perf_counter()
    count = side.work()
    return count, time.perf_counter() - began, time.thread_time() - cpu


def _time_threads(threads: int) -> Callable[[Side], tuple[int, float, float]]:
    def measure(side: Side) -> tuple[int, float, float]:
        counts: list[int] = []
        failures: list[BaseException] = []
        ready = threading.Barrier(threads + 1)

        def work() -> None:
            try:
                ready.wait()
                counts.extend(side.work() for _ in range(THREAD_BATCHES))
            except (BenchError, ValueError) as error:
                failures.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        cpu, began = time.process_time(), time.perf_counter()
        ready.wait()
        for worker in workers:
            worker.join()
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        if failures:
            raise BenchError(f"a thread: {failures[0]}") from failures[0]
        return sum(counts), wall_s, cpu_s

    return measure


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core for the length of the block."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
