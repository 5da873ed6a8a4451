# SPDX-License-Identifier: Apache-2.0
"""The cases of the verifier: what a verdict costs beside the signatures it rests on, and beside dcap-qvl.

What is timed is `verify_evidence` on bytes: recognise, decode, check, appraise with a policy, conclude. It runs in the
benchmark's own process, from the sources of this checkout. docs/benchmarks.md says why each case is here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import installs
import verdicts
from cases import Bench, Case, Row
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from timing import BenchError, Command, alternate, median, tool
from verdicts import BareCheck, DcapQvl, Pace, Side, Subject

from enarx.abi.quote import parse_quote_untrusted
from enarx.testing.dcap import SGX, TDX
from enarx.verifier import TrustCache

N_KNOWN = 64  # pieces of evidence of one platform.
N_STRANGERS = 200  # pieces of evidence, each of its own.
N_BATCH = 40  # judged in a row before it is the other side's turn.
P384 = "bare P-384"
REFUSED = 104  # the status of evidence that is not authentic.
MEMORY_LIMIT_S = 1800

T = TypeVar("T")


def verify_snp(bench: Bench) -> Iterator[Row]:
    """SEV-SNP reports of one chip against the one signature in each."""
    subjects, known = verdicts.take(N_KNOWN, verdicts.make_snp), TrustCache()
    n_findings = verdicts.prove(subjects, known)
    bare = [verdicts.bare_snp(subject) for subject in subjects]
    verdicts.prove_bare(bare)
    sides = [_judging(subjects, known), _checking(bare)]
    with verdicts.one_core():
        ours, theirs = verdicts.alternate_batches(sides, rounds=bench.options.rounds)
    yield _row("verify SEV-SNP", ours, theirs, peer=P384, at_least=0.85, note=f"{n_findings} findings")


def verify_tdx(bench: Bench) -> Iterator[Row]:
    """TDX quotes against dcap-qvl, on one thread and on two."""
    yield from _verify_quotes(bench, TDX)


def verify_sgx(bench: Bench) -> Iterator[Row]:
    """SGX quotes against dcap-qvl, on one thread and on two."""
    yield from _verify_quotes(bench, SGX)


def verify_nitro(bench: Bench) -> Iterator[Row]:
    """Nitro documents of one zone against the signatures of the certificate and of the document."""
    subjects = verdicts.take(N_STRANGERS, verdicts.make_nitro)
    judged = _Judged(bench, "Nitro", verdicts.bare_nitro)
    yield judged.first(subjects, "each signing certificate seen for the first time", at_least=0.85)
    yield judged.again(subjects, "signing certificate seen before")


def verify_cca(bench: Bench) -> Iterator[Row]:
    """CCA tokens against the signatures of platform and realm.

    Where others have a chain, a platform has one key, which the relying party holds: so a platform that was seen before is what a chain in
    the cache is elsewhere.
    """
    judged = _Judged(bench, "CCA", verdicts.bare_cca)
    of_one = list(verdicts.with_policy(verdicts.make_cca(N_STRANGERS, platforms=1)))
    yield judged.first(of_one, "platform known, each realm seen for the first time", at_least=0.85)
    strangers = list(verdicts.with_policy(verdicts.make_cca(N_STRANGERS)))
    yield judged.first(strangers, "each platform and realm seen for the first time")
    yield judged.again(strangers, "platform and realm seen before")


def verify_cold(bench: Bench) -> Iterator[Row]:
    """A verdict from the shell against an interpreter that does nothing."""
    line, flipped = _cold_lines(bench)
    status = subprocess.run(flipped, env=bench.env, capture_output=True, timeout=60, check=False).returncode
    if status != REFUSED:
        raise BenchError(f"attest verify: a flipped report ended with {status}, want {REFUSED}")

    def is_accepted(stdout: bytes) -> None:
        if b"accepted" not in stdout.partition(b"\n")[0]:
            raise BenchError(f"attest verify: printed {stdout[:200]!r}, want accepted")

    python = str(Path(bench.enarx.command).parent / "python")
    commands = [
        Command(argv=line, env=bench.env, stdout=is_accepted),
        Command(argv=[python, "-c", "pass"], env=bench.env, stdout=b""),
    ]
    ours, theirs = alternate(commands, rounds=bench.options.short_rounds)
    cpu = median([run.cpu_s for run in ours]) / median([run.cpu_s for run in theirs])
    yield Row(
        name="verify SEV-SNP from the shell, cold",
        unit="ms",
        ours=[run.wall_s * 1000 for run in ours],
        theirs=[run.wall_s * 1000 for run in theirs],
        peer="python -c pass",
        at_most=12.0,
        note=f"processor time {cpu:.2f}",
    )


def verify_memory(bench: Bench) -> Iterator[Row]:
    """What a process holds that has judged a lot of evidence that it never saw before."""
    count = bench.options.verifications
    script = Path(__file__).with_name("verifier_memory.py")
    found = json.loads(tool([sys.executable, str(script), str(count)], limit_s=MEMORY_LIMIT_S))
    yield Row(
        name=f"memory after {count} verdicts",
        unit="MB",
        ours=found["late_mb"],
        theirs=found["early_mb"],
        peer=f"after {count // 5}",
        at_most=1.05,
        note=f"resident set; {found['accepted']} accepted, {found['refused']} flipped and refused",
    )


VERIFIER_CASES: Mapping[str, Case] = {
    "verify-snp": verify_snp,
    "verify-tdx": verify_tdx,
    "verify-sgx": verify_sgx,
    "verify-nitro": verify_nitro,
    "verify-cca": verify_cca,
    "verify-cold": verify_cold,
    "verify-memory": verify_memory,
}


def _verify_quotes(bench: Bench, tee: str) -> Iterator[Row]:
    subjects = verdicts.take(N_KNOWN, lambda numbers: verdicts.make_quotes(tee, numbers))
    strangers = verdicts.take(N_STRANGERS, lambda numbers: verdicts.make_quotes(tee, numbers, platforms=N_STRANGERS))
    known, peer, version = TrustCache(), DcapQvl(subjects), importlib.metadata.version("dcap-qvl")
    n_findings = verdicts.prove(subjects, known)
    peer.prove(subjects)
    sides = [_judging(subjects, known), Side(work=peer.judge_all), _judging_strangers(strangers)]
    with verdicts.one_core():
        ours, theirs, first = verdicts.alternate_batches(sides, rounds=bench.options.rounds)
    label = f"dcap-qvl {version}"
    yield _row(f"verify {tee}", ours, theirs, peer=label, at_least=2.0, note=f"{n_findings} findings")
    yield _row(f"verify {tee}, each platform seen for the first time", first, theirs, peer=label)
    if len(os.sched_getaffinity(0)) < verdicts.THREADS:
        raise installs.MissingError(f"cores: found 1, want {verdicts.THREADS}")
    paces = verdicts.alternate_threads([*sides[:2], _checking_quotes(subjects)], rounds=bench.options.rounds)
    (one, two), (their_one, their_two), bare = paces
    scaling = [median(double.per_s) / median(single.per_s) for single, double in ((their_one, their_two), bare)]
    yield _row(
        f"verify {tee}, {verdicts.THREADS} threads",
        two,
        one,
        peer="enarx, 1 thread",
        at_least=1.8,
        note=f"{median(two.per_s) / median(their_one.per_s):.2f} times dcap-qvl on 1 thread; "
        f"dcap-qvl the same: {median(their_two.per_s):.0f} against {median(their_one.per_s):.0f}, {scaling[0]:.2f}; "
        f"the two bare signatures of each quote the same: {scaling[1]:.2f}",
    )
    with verdicts.Processes(subjects) as processes:
        one, two = verdicts.alternate_processes(sides[0], processes, rounds=bench.options.rounds)
    yield Row(
        name=f"verify {tee}, {verdicts.THREADS} processes",
        unit="/s",
        ours=two.per_s,
        theirs=one.per_s,
        peer="enarx, 1 thread",
        at_least=1.8,
        note=f"{median(two.per_s) / median(their_one.per_s):.2f} times dcap-qvl on 1 thread; evidence in, verdict and what failed out",
    )


class _Judged:
    """Evidence with two signatures on P-384, beside the bare check of both.

    Args:
        bench: how often.
        name: of the TEE.
        make_bare: returns the checks of one piece.
    """

    def __init__(self, bench: Bench, name: str, make_bare: Callable[[Subject], tuple[BareCheck, ...]]) -> None:
        self._rounds = bench.options.rounds
        self._name = name
        self._make_bare = make_bare

    def first(self, subjects: Sequence[Subject], what: str, *, at_least: float | None = None) -> Row:
        """Judge evidence of signers that were never seen; the bare checks load the keys that come with it.

        Args:
            subjects: the first is what the cache knows of beforehand.
            what: is new.
            at_least: what is required of the ratio, or None.
        """
        return self._against(subjects, _judging_strangers(subjects), what, at_least, is_seen=False)

    def again(self, subjects: Sequence[Subject], what: str) -> Row:
        """Judge evidence of signers that were seen before; the bare checks have all keys at hand."""
        known = TrustCache()
        verdicts.judge_all(subjects, known)
        return self._against(subjects, _judging(subjects, known), what, None, is_seen=True)

    def _against(
        self, subjects: Sequence[Subject], side: Side, what: str, at_least: float | None, *, is_seen: bool
    ) -> Row:
        n_findings = verdicts.prove(subjects, TrustCache())
        bare = [self._make_bare(subject) for subject in subjects]
        verdicts.prove_bare(bare)
        at_hand = [tuple(check.with_key_at_hand for check in checks) for checks in bare]
        sides = [side, _checking(at_hand), *([] if is_seen else [_checking(bare)])]
        with verdicts.one_core():
            ours, warm, *loading = verdicts.alternate_batches(sides, rounds=self._rounds)
        note, peer = f"{n_findings} findings", f"{P384}, 2 signatures"
        if loading:
            peer += ", the evidence's own key loaded"
            note += f"; {median(ours.per_s) / median(warm.per_s):.3f} of the same with that key at hand"
        return _row(
            f"verify {self._name}, {what}", ours, loading[0] if loading else warm, peer, at_least=at_least, note=note
        )


def _row(name: str, ours: Pace, theirs: Pace, peer: str, *, at_least: float | None = None, note: str = "") -> Row:
    pairs = zip(ours.per_cpu_s, theirs.per_cpu_s, strict=True)
    cpu = f"processor time {median([our / their for our, their in pairs]):.3f}"
    return Row(
        name=name,
        unit="/s",
        ours=ours.per_s,
        theirs=theirs.per_s,
        peer=peer,
        at_least=at_least,
        note=f"{note}; {cpu}" if note else cpu,
    )


def _judging(subjects: Sequence[Subject], known: TrustCache) -> Side:
    batches = _batches(subjects)
    return Side(work=lambda: verdicts.judge_all(next(batches), known))


def _judging_strangers(subjects: Sequence[Subject]) -> Side:
    """Judge each as if it were the first time, by a cache that knows the issuers and collateral from one other piece only."""
    first, *others = subjects
    batches = _batches(others)
    known = TrustCache()

    def forget() -> None:
        nonlocal known
        known = TrustCache()
        verdicts.judge_all([first], known)

    return Side(work=lambda: verdicts.judge_all(next(batches), known), prepare=forget)


def _checking(bare: Sequence[tuple[BareCheck, ...]]) -> Side:
    batches = _batches(bare)
    return Side(work=lambda: verdicts.run_bare(next(batches)))


def _checking_quotes(subjects: Sequence[Subject]) -> Side:
    """Check the signatures of quotes and of their quoting enclaves' reports bare: what two threads can do at best."""
    algorithm = ECDSA(SHA256())
    checks: list[tuple[EllipticCurvePublicKey, bytes, bytes]] = []
    for subject in subjects:
        quote = parse_quote_untrusted(subject.data)
        vouching = quote.signature
        pck = load_pem_x509_certificate(vouching.certification_data.rstrip(b"\0")).public_key()
        if not isinstance(pck, EllipticCurvePublicKey):
            raise BenchError("found another kind of PCK key, want P-256")
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + vouching.attestation_key)
        for signer, raw, signed in (
            (pck, vouching.qe_report_signature, vouching.qe_report),
            (key, vouching.signature, quote.signed),
        ):
            r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            checks.append((signer, encode_dss_signature(r, s), signed))

    def work() -> int:
        for signer, signature, signed in checks:
            signer.verify(signature, signed, algorithm)
        return len(checks) // 2

    return Side(work=work)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Go round and round, so that nothing comes twice in a batch."""
    return itertools.cycle([items[at : at + N_BATCH] for at in range(0, len(items), N_BATCH)])


def _cold_lines(bench: Bench) -> tuple[list[str], list[str]]:
    """Write a report, one with a bit flipped, endorsements and a policy; return the commands that judge them.

    The command knows no other roots than the vendors', so the policy accepts the fake one's as an emulated platform's.
    """
    (subject,) = verdicts.make_snp(iter([1]))
    folder = bench.enarx.configs / "verify"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "endorsements").mkdir(parents=True)
    for number, der in enumerate((*subject.endorsements.certificates, *subject.endorsements.crls)):
        (folder / "endorsements" / f"{number}.der").write_bytes(der)
    root = hashlib.sha256(subject.anchors.amd[0]).hexdigest()
    policy, version, tables = verdicts.policy_text_for(subject).partition("version = 1\n")
    (folder / "policy.toml").write_text(f'{policy}{version}insecure_emulated_roots = ["{root}"]\n{tables}')
    lines = []
    for name, each in (("report.bin", subject), ("flipped.bin", subject.flipped)):
        (folder / name).write_bytes(each.data)
        options = {
            "--endorsements": folder / "endorsements",
            "--policy": folder / "policy.toml",
            "--report-data": (subject.report_data or b"").hex(),
            "--at": verdicts.AT.isoformat(),
        }
        words = [str(word) for option in options.items() for word in option]
        lines.append([bench.enarx.command, "attest", "verify", str(folder / name), *words, "--offline"])
    return lines[0], lines[1]
