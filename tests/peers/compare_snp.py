# SPDX-License-Identifier: Apache-2.0
"""Ask other verifiers of SEV-SNP evidence about the cases of a corpus, and compare their verdicts with ours.

The peers are go-sev-guest, through the program in `snp/go-sev-guest`, and snpguest, the command itself. Both are built
here, in versions that are pinned, and kept under build/peers/. A peer is given what enarx has: the evidence, the chain, the
trust anchor, the revocation list and the time, as far as it can take them.

A peer agrees when it accepts what enarx accepts, and refuses what enarx does not, for a reason that enarx names too. Every
other answer is a difference. `DIFFERENCES` explains those that are known; one that is not there, or is there and did not
happen, is a failure.

    python -m tests.peers.compare_snp [--record]
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from cryptography.x509.oid import NameOID

from enarx.crypto.certificates import load_certificate_untrusted
from enarx.rats import Evidence
from enarx.verifier import pinned_anchors, recognise
from enarx.verifier.endorsement_files import read_endorsements
from enarx.verifier.roots import amd_intermediates
from tests.evidence import FOLDER, IS_PRESENT, cases, evidence_path, read

TOP = Path(__file__).resolve().parents[2]
BUILT = TOP / "build" / "peers"
GO_SOURCES = Path(__file__).resolve().parent / "snp" / "go-sev-guest"
PAGE = TOP / "docs" / "peers.md"

SNPGUEST = "0.11.0"
LEAST_CARGO = (1, 86)  # what this snpguest asks for
LEAST_GO = (1, 21)
BUILD_TIMEOUT_S = 1800
ANSWER_TIMEOUT_S = 60
PREFIX = "snp/"
BEGIN, END = "<!-- compared -->\n", "<!-- end of compared -->"
VEK_NAMES = ("SEV-VCEK", "SEV-VLEK")


class MissingToolError(Exception):
    """A compiler that a peer needs is not installed. The message says which."""


class PeerError(Exception):
    """A peer does not build, or gives no answer. The message ends with what was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a peer is given.

    Args:
        vek: DER; empty where there is none, and then `ask` and `product` are too.
        ask: DER of the certificate that issued it, ASK or ASVK.
        ark: DER of the trust anchor.
        is_pinned: the anchor is AMD's, which everybody pins.
        product: the product line whose anchor it is: Milan, Genoa or Turin.
        at: the time of judging, as in the corpus.
        policy: what the case asks for beyond authenticity, in the corpus's words.
    """

    id: str
    report: bytes
    vek: bytes = b""
    is_vlek: bool = False
    ask: bytes = b""
    ark: bytes = b""
    is_pinned: bool = True
    product: str = ""
    crl: bytes = b""
    at: str
    policy: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict, and what was said when it was a no: sentences of a peer, or the corpus's words of enarx."""

    accepts: bool
    says: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An answer of a peer that is not ours, and why.

    Args:
        cases: ids, less their common beginning.
        says: what the peer says when it refuses, as a pattern; None when it accepts what enarx refuses.
        why: a sentence for docs/peers.md.
    """

    peer: str
    cases: tuple[str, ...]
    says: str | None
    why: str

    def explains(self, peer: str, case: str, answer: Answer) -> bool:
        """Tell whether this is about such an answer."""
        if (
            peer != self.peer
            or case.removeprefix(PREFIX) not in self.cases
            or answer.accepts is not (self.says is None)
        ):
            return False
        return self.says is None or re.search(self.says, answer.says) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a peer's answers stand to ours.

    Args:
        total: the number of cases.
        agreed: ids of cases.
        explained: ids of cases that differ, with the reason.
        failures: sentences: differences without a reason, reasons without a difference, answers that are missing.
    """

    peer: str
    total: int
    agreed: tuple[str, ...]
    explained: Mapping[str, Difference]
    failures: tuple[str, ...]


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        peer="go-sev-guest",
        cases=("turin-v5-azure-ms", "crl-turin-real"),
        says=r"not an AMD KDS OID: 1\.3\.6\.1\.4\.1\.3704\.1\.3\.9$",
        why="Turin's VCEK has an extension for the FMC, a TCB component that go-sev-guest does not know; it stops at the name.",
    ),
    Difference(
        peer="go-sev-guest",
        cases=("synthetic-milan/ok-vlek",),
        says=r'unknown AMD SEV product: "Milan-B0"',
        why=(
            "The synthetic VLEK names its product with a stepping, `Milan-B0`, as a VCEK does; AMD's say `Milan`."
            " enarx takes the product line from either."
        ),
    ),
    Difference(
        peer="go-sev-guest",
        cases=("crl-genoa-real-expired",),
        says=None,
        why=(
            "A list that is past its `nextUpdate` is asked for again, and what comes is used whatever its dates:"
            " where the store has nothing newer, an expired list decides."
        ),
    ),
    Difference(
        peer="snpguest",
        cases=("neg-vcek-before-validity", "neg-vlek-expired", "synthetic-milan/vek-expired"),
        says=None,
        why="snpguest compares no certificate's validity with any time.",
    ),
    Difference(
        peer="snpguest",
        cases=("synthetic-milan/ask-revoked", "crl-genoa-real-expired"),
        says=None,
        why="`snpguest verify` takes no revocation list.",
    ),
    Difference(
        peer="snpguest",
        cases=("synthetic-milan/hwid-mismatch",),
        says=None,
        why=(
            "snpguest compares CHIP_ID only with a VCEK's, and takes the name `SEV-VCEK` for an ASK's, because it looks for"
            " `sev` first: it never compares."
        ),
    ),
    Difference(
        peer="snpguest",
        cases=("synthetic-milan/debug-policy", "synthetic-milan/vmpl-3", "synthetic-milan/low-tcb"),
        says=None,
        why="`snpguest verify` has no option for the guest policy, the VMPL or a least TCB.",
    ),
    Difference(
        peer="snpguest",
        cases=("milan-vlek-v2-aws-us-east-2-2023", "ext-milan-vlek-cosmian-2023", "synthetic-milan/ok-vlek"),
        says=r"MASK_CHIP_ID is enabled, preventing the identification of the CPU generation",
        why=(
            "snpguest tells the generation of a version 2 report by its CHIP_ID and reads none where that is masked,"
            " not even with `--processor-model`."
        ),
    ),
)

# What a peer says, in the corpus's words.
WORDS: Mapping[str, Mapping[str, str]] = {
    "go-sev-guest": {
        r"missing V[CL]EK certificate": "vek_missing",
        r'candidate authority certificate "SEV-': "vek_not_signed_by_ask",
        r'candidate authority certificate "ARK-': "chain_not_to_pinned_ark",
        r"certificate has expired or is not yet valid": "certificate_not_valid_at_time",
        r"ASK was revoked": "intermediate_revoked",
        r"report signature verification error": "report_signature_invalid",
        r"REPORTED_TCB \S+ does not match the TCB of the V": "tcb_extension_mismatch",
        r"is not the same as the VCEK certificate's HWID": "hwid_mismatch",
        r"found unauthorized debug capability": "policy_debug_allowed",
        r"report VMPL \d is not": "vmpl_not_allowed",
        r"is lower than the policy minimum TCB": "tcb_below_minimum",
    },
    "snpguest": {
        # A folder without a VEK has no chain of it either, and the chain is looked for first.
        r"certificate not found in directory": "vek_missing",
        r"The VCEK was not signed by the AMD ASK": "vek_not_signed_by_ask",
        r"The AMD ASK was not signed by the AMD ARK": "chain_not_to_pinned_ark",
        r"VEK did NOT sign the Attestation Report": "report_signature_invalid",
        r"Report TCB .* mismatch": "tcb_extension_mismatch",
    },
}


def compare(
    peer: str,
    ours: Mapping[str, Answer],
    theirs: Mapping[str, Answer],
    differences: Iterable[Difference] = DIFFERENCES,
) -> Comparison:
    """Sort a peer's answers into those that agree, those that are explained and the rest."""
    reasons = [each for each in differences if each.peer == peer]
    agreed, failures = [], []
    explained: dict[str, Difference] = {}
    for case, answer in ours.items():
        if case not in theirs:
            failures.append(f"{case}: {peer} did not answer")
            continue
        found = theirs[case]
        if found.accepts == answer.accepts and (found.accepts or set(_words(peer, found.says)) & set(answer.words)):
            agreed.append(case)
        elif reason := next((each for each in reasons if each.explains(peer, case, found)), None):
            explained[case] = reason
        else:
            us = "accepts" if answer.accepts else f"refuses ({', '.join(answer.words)})"
            failures.append(f"{case}: enarx {us}, {peer} {'accepts' if found.accepts else f'refuses: {found.says}'}")
    for each in reasons:
        idle = [name for name in each.cases if explained.get(PREFIX + name) is not each]
        failures += [f"{PREFIX}{name}: {peer} does not differ, but it is explained why it does" for name in idle]
    return Comparison(peer=peer, total=len(ours), agreed=tuple(agreed), explained=explained, failures=tuple(failures))


def _words(peer: str, said: str) -> list[str]:
    return [word for pattern, word in WORDS[peer].items() if re.search(pattern, said)]


def case_of(line: Mapping[str, Any]) -> Case:
    """Gather what the corpus has for a case, and what enarx adds to it by itself."""
    inputs = line["inputs"]
    recognised = recognise(Evidence(data=read(inputs.get("report") or inputs["extended_report"])))
    files = [(name, read(inputs[name])) for name in ("vek", "ca") if name in inputs]
    certificates = (recognised.endorsements + read_endorsements(files)).certificates
    report = recognised.parsed.report.serialise()
    blank = Case(id=line["id"], report=report, at=line["eval_time"], policy=inputs.get("policy", {}))
    leaves = [each for each in map(load_certificate_untrusted, certificates) if _common_name(each) in VEK_NAMES]
    if not leaves:
        return blank
    leaf = leaves[0]
    ask = _issuer(leaf, (*certificates, *amd_intermediates()))
    root, anchors = inputs.get("trusted_root", ""), pinned_anchors().amd
    is_pinned = not os.path.isfile(evidence_path(root))
    if not is_pinned:
        anchors = read_endorsements([("root", read(root))]).certificates
    return Case(
        id=blank.id,
        report=report,
        vek=_der(leaf),
        is_vlek=_common_name(leaf) == "SEV-VLEK",
        ask=_der(ask),
        ark=_der(_issuer(ask, anchors)),
        is_pinned=is_pinned,
        product=_common_name(ask).rpartition("-")[2],
        crl=read(inputs["crl"]) if "crl" in inputs else b"",
        at=blank.at,
        policy=blank.policy,
    )


def _issuer(certificate: Certificate, candidates: Iterable[bytes]) -> Certificate:
    """Return the first that has the issuer's name; whether it signed is the peers' to say."""
    loaded = map(load_certificate_untrusted, candidates)
    return next(each for each in loaded if each.subject == certificate.issuer)


def _common_name(certificate: Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _der(certificate: Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def ask_enarx() -> dict[str, Answer]:
    """Return what enarx says of every SNP case."""
    tool = TOP / "tools" / "judge_corpus.py"
    answers = {}
    for text in _output([sys.executable, tool, FOLDER], timeout_s=300).splitlines():
        line = json.loads(text)
        if line["id"] in {case["id"] for case in cases("snp")}:
            answers[line["id"]] = Answer(accepts=line["verdict"] == "valid", words=tuple(line["reasons"]))
    return answers


def ask_go_sev_guest(asked: Iterable[Case]) -> dict[str, Answer]:
    """Return what go-sev-guest says.

    Raises:
        MissingToolError: there is no Go.
        PeerError: it does not build or does not answer.
    """
    command = _build_go_program()
    lines = []
    for case in asked:
        parts = {
            "report": case.report,
            "vek": case.vek,
            "ask": case.ask,
            "ark": b"" if case.is_pinned else case.ark,
            "crl": case.crl,
        }
        line: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in parts.items()}
        lines.append(line | {"id": case.id, "product": case.product, "now": case.at, "policy": case.policy})
    said = map(json.loads, _output([command], "".join(json.dumps(line) + "\n" for line in lines)).splitlines())
    return {line["id"]: Answer(accepts=line["accepts"], says=line["says"]) for line in said}


def ask_snpguest(asked: Iterable[Case]) -> dict[str, Answer]:
    """Return what snpguest says of chain and report: it takes neither a time nor a revocation list nor a policy.

    Raises:
        MissingToolError: there is no Cargo, or an old one.
        PeerError: it does not build.
    """
    command = _build_snpguest()
    return {case.id: _ask_snpguest_one(command, case) for case in asked}


def _ask_snpguest_one(command: Path, case: Case) -> Answer:
    with TemporaryDirectory() as name:
        folder = Path(name)
        vek, ask = ("vlek", "asvk") if case.is_vlek else ("vcek", "ask")
        for stem, data in ((vek, case.vek), (ask, case.ask), ("ark", case.ark)):
            if data:
                (folder / f"{stem}.der").write_bytes(data)
        report = folder / "report.bin"
        report.write_bytes(case.report)
        # A report of version 2 does not say what it comes from.
        model = ["-p", case.product.lower()] if case.report[0] < 3 and case.product else []
        for arguments in (["certs", folder], ["attestation", *model, folder, report]):
            done = _run([command, "verify", *arguments], timeout_s=ANSWER_TIMEOUT_S)
            if done.returncode:
                # It says everything twice: in its own words, and then as Rust shows an error.
                said = " ".join(done.stderr.partition("\nError: ")[0].split())
                return Answer(accepts=False, says=said)
    return Answer(accepts=True)


def _build_go_program() -> Path:
    go = shutil.which("go")
    if go is None or _version(_output([go, "version"])) < LEAST_GO:
        raise MissingToolError(f"go: not found in PATH, want Go {_dotted(LEAST_GO)} or later")
    program = BUILT / "snp-peer"
    environment = {"GOCACHE": str(TOP / "build" / "go"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    _output(
        [go, "build", "-trimpath", "-buildvcs=false", "-o", program, "."],
        cwd=GO_SOURCES,
        environment=environment,
        timeout_s=BUILD_TIMEOUT_S,
    )
    return program


def _build_snpguest() -> Path:
    root = BUILT / f"snpguest-{SNPGUEST}"
    program = root / "bin" / "snpguest"
    if program.exists():
        return program
    cargo = shutil.which("cargo")
    if cargo is None or _version(_output([cargo, "--version"])) < LEAST_CARGO:
        raise MissingToolError(f"cargo: not found in PATH, want Cargo {_dotted(LEAST_CARGO)} or later")
    crate = ["snpguest", "--version", SNPGUEST, "--locked"]
    BUILT.mkdir(parents=True, exist_ok=True)
    # It is asked a few times: what takes long is to compile it.
    environment = {"CARGO_PROFILE_RELEASE_OPT_LEVEL": "0", "CARGO_PROFILE_RELEASE_LTO": "off"}
    if shutil.which("pkg-config") and _run(["pkg-config", "--exists", "openssl >= 3"], timeout_s=10).returncode == 0:
        environment["OPENSSL_NO_VENDOR"] = "1"
    # Half a gigabyte that nothing needs again.
    with TemporaryDirectory(dir=BUILT) as target:
        _output(
            [cargo, "install", *crate, "--root", root, "--target-dir", target],
            environment=environment,
            timeout_s=BUILD_TIMEOUT_S,
        )
    return program


def _version(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _output(
    command: Sequence[str | Path],
    text: str = "",
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    cwd: Path = TOP,
    environment: Mapping[str, str] | None = None,
) -> str:
    done = _run(command, text, timeout_s=timeout_s, cwd=cwd, environment=environment)
    if done.returncode:
        words = " ".join(map(str, command[:3]))
        raise PeerError(f"ask a peer: {words} ...: ended with {done.returncode}, want 0\n{done.stderr}")
    return done.stdout


def _run(
    command: Sequence[str | Path],
    text: str = "",
    *,
    timeout_s: float,
    cwd: Path = TOP,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=text,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


PEERS: Mapping[str, Callable[[Iterable[Case]], dict[str, Answer]]] = {
    "go-sev-guest": ask_go_sev_guest,
    "snpguest": ask_snpguest,
}


def version_of(peer: str) -> str:
    """Return the version that is built here."""
    if peer == "snpguest":
        return SNPGUEST
    (found,) = re.findall(r"go-sev-guest v(\S+)", (GO_SOURCES / "go.mod").read_text(encoding="utf-8"))
    return str(found)


def compared(peer: str) -> Comparison:
    """Ask a peer about every SNP case of the corpus.

    Raises:
        MissingToolError: what it is built with is not installed.
        PeerError: it does not build, or does not answer.
    """
    return compare(peer, ask_enarx(), PEERS[peer]([case_of(line) for line in cases("snp")]))


def rows_of(comparison: Comparison) -> tuple[str, list[str]]:
    """Return the row of the table of peers, and the rows of the table of differences."""
    peer = comparison.peer
    counts = (comparison.total, len(comparison.agreed), len(comparison.explained))
    first = f"| {peer} | {version_of(peer)} | " + " | ".join(map(str, counts)) + " |"
    rest = []
    for each in DIFFERENCES:
        if each.peer == peer:
            names = ", ".join(f"`{name}`" for name in each.cases)
            answers = ("refuses", "accepts") if each.says is None else ("accepts", "refuses")
            rest.append(f"| {peer} | {names} | {' | '.join(answers)} | {each.why} |")
    return first, rest


def tables(comparisons: Sequence[Comparison]) -> str:
    """Return what docs/peers.md shows."""
    firsts, rests = zip(*map(rows_of, comparisons), strict=True)
    lines = ["| peer | version | cases | agrees | differs, explained |", "| --- | --- | --- | --- | --- |", *firsts, ""]
    lines += ["| peer | cases | enarx | peer | why |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(row for rest in rests for row in rest)]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or write them into docs/peers.md; 1 where a difference is not explained, 2 where a peer is missing."""
    if list(arguments) not in ([], ["--record"]) or not IS_PRESENT:
        print(f"{__doc__}\ncompare_snp: wants a corpus (ENARX_EVIDENCE) and no option but --record", file=sys.stderr)
        return 2
    try:
        comparisons = [compared(peer) for peer in PEERS]
    except (MissingToolError, PeerError) as error:
        print(error, file=sys.stderr)
        return 2
    failures = [f"{each.peer}: {failure}" for each in comparisons for failure in each.failures]
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        return 1
    if not arguments:
        print(tables(comparisons), end="")
        return 0
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(head + BEGIN + tables(comparisons) + END + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
