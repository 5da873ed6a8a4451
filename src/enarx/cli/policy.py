# SPDX-License-Identifier: Apache-2.0
"""`enarx policy init|check`: read files, ask `enarx.verifier` to write or to look over a policy, print what it says."""

from __future__ import annotations

import os

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import ConfigError, DecodeError, UsageError, VerificationError
from enarx.user_files import create_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from enarx.rats import AppraisalPolicy
    from enarx.verifier.ledger import Examined, Ledger, Part
    from enarx.verifier.policy_lint import Remark
    from enarx.verifier.policy_toml import PolicyText
    from enarx.verifier.policy_write import Reference
    from enarx.wire.corim import PublicKey

_MAX_KEY_BYTES = 100_000
_SOURCES = ("from-evidence", "from-image", "image", "corim")
_TEES = ("snp", "tdx", "sgx", "nitro", "cca", "tpm", "azure")


def load_policy(path: str) -> AppraisalPolicy:
    """Read a policy file; images that it names stand for their reference values.

    Raises:
        UsageError: it cannot be read, or an image is not installed.
        ConfigError: it is no policy.
        PlatformError: the installation cannot be read.
        VerificationError: an image is not what it was when it was made.
    """
    from enarx.verifier.policy_toml import MAX_BYTES, decode_policy

    return decode_policy(_expanded(_read(path, MAX_BYTES), path), path=path)


def _expanded(text: bytes, path: str) -> bytes:
    """Put reference values in place of the names of images."""
    if b"image" not in text:
        # What puts them there takes longer to import than most policies to judge by.
        return text
    from enarx.image.policies import expand_policy

    return expand_policy(text, path=path)[0]


def _read(path: str, max_bytes: int) -> bytes:
    """Read a file up to one byte more than it can have, so that whoever decodes it says that it is too large."""
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _init(parsed: Parsed) -> int:
    from enarx.verifier.policy_write import write_policy

    path = parsed.operands[0]
    tees = parsed.all("tee")
    for tee in tees:
        if tee not in _TEES:
            raise UsageError(f"cannot write a policy: --tee: found {tee}, want one of {', '.join(_TEES)}")
    given = [name for name in _SOURCES if parsed.flag(name)]
    if len(given) > 1:
        raise UsageError(f"cannot write a policy: found --{given[0]} and --{given[1]}, want one of them")
    sections, references, origin = _references(parsed, given[0] if given else "")
    wanted = [tee for tee in _TEES if tee in tees or (not tees and tee in sections)]
    if not wanted:
        raise UsageError(
            "cannot write a policy: found no TEE to accept, want one",
            hint="--tee snp, or --from-evidence FILE with evidence that is known to be good",
        )
    roots = [_emulated_root(value) for value in parsed.all("insecure-accept-emulated")]
    if roots and "snp" not in wanted:
        raise UsageError("cannot write a policy: found --insecure-accept-emulated without snp, want both or neither")
    draft = write_policy(wanted, references=references, origin=origin, insecure_emulated_roots=roots)
    create_file(path, draft.text.encode(), hint="remove it first, or name another file")
    ui.note(f"wrote {path}, which accepts {', '.join(wanted)}")
    if draft.missing:
        ui.note(f"fill in before it can be used: {', '.join(draft.missing)}")
    ui.show_hint(f"enarx policy check {path}")
    return 0


def _references(parsed: Parsed, source: str) -> tuple[tuple[str, ...], Mapping[str, Reference], str]:
    """Return the sections that a source has reference values for, the values, and what the source is."""
    from enarx.verifier import policy_write

    if parsed.flag("corim-key") != (source == "corim"):
        raise UsageError("cannot write a policy: found one of --corim and --corim-key, want both or neither")
    if source == "from-evidence":
        name = _given(parsed, source)
        parts = _good_parts(parsed, name)
        origin = f"Made from evidence that somebody called good: {os.path.basename(name)!r}"
        return tuple(part.section for part in parts), policy_write.references_from_claims(parts), origin
    if source == "from-image":
        name = _given(parsed, source)
        data = _read(name, policy_write.MAX_MANIFEST_BYTES)
        sections, references = policy_write.references_from_manifest(data, path=name)
        return sections, references, f"Reference values: the image manifest {os.path.basename(name)!r}"
    if source == "image":
        return _from_installation(_given(parsed, source), parsed.all("tee"))
    if source == "corim":
        name = _given(parsed, source)
        sections, references, signer = _from_corim(parsed, name)
        return sections, references, f"Reference values: {os.path.basename(name)!r}, signed by {signer!r}"
    return (), {}, "Strict; reference values have to be filled in."


def _from_installation(name: str, tees: list[str]) -> tuple[tuple[str, ...], Mapping[str, Reference], str]:
    from enarx.deploy.reference import image_references
    from enarx.image import PROCESS_IMAGE, measure_process, package_folder
    from enarx.image.policies import IMAGE_TEE, image_values
    from enarx.verifier.policy_write import references_from_tables

    origin = f"Reference values: the installed image {name!r}"
    if name == PROCESS_IMAGE:
        return (IMAGE_TEE,), image_references({name: measure_process(package_folder())}), origin
    values = image_values(name, tees or (IMAGE_TEE,))
    sections, references = references_from_tables(values, path=f"image {name}")
    return sections, references, origin


def _emulated_root(value: str) -> bytes:
    from enarx.endorsers.emulated_root import emulated_root

    return emulated_root(value)


def _from_corim(parsed: Parsed, name: str) -> tuple[tuple[str, ...], dict[str, Reference], str]:
    from enarx.cli.attest import time_of
    from enarx.verifier.policy_corim import references_from_corim
    from enarx.wire.corim import MAX_CORIM_BYTES, verify_corim

    key = _public_key(_given(parsed, "corim-key"))
    signed = verify_corim(_read(name, MAX_CORIM_BYTES), [key], at=time_of(parsed.value("at")))
    sections, references = references_from_corim(signed.values, path=name)
    return sections, references, signed.signer


def _public_key(path: str) -> PublicKey:
    """Read the public key of a signer, alone or in a certificate.

    Raises:
        UsageError: the file cannot be read.
        DecodeError: it has no such key.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path, _MAX_KEY_BYTES)
    key: object = None
    if len(data) <= _MAX_KEY_BYTES:
        try:
            if b"-----BEGIN CERTIFICATE-----" in data:
                key = x509.load_pem_x509_certificate(data).public_key()
            else:
                key = load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise DecodeError(f"cannot read {path}: found no public key for ECDSA or Ed25519, want one in PEM")
    return key


def _given(parsed: Parsed, name: str) -> str:
    value = parsed.value(name)
    if value is None:
        raise UsageError(f"cannot write a policy: found --{name} without a file, want one")
    return value


def _good_parts(parsed: Parsed, name: str) -> tuple[Part, ...]:
    """Return the claims of evidence that is authentic, as far as that can be said without a network.

    Raises:
        VerificationError: it is not.
        DecodeError: it is no evidence.
    """
    from enarx.rats import AttestationResult, Verdict

    examined, ledger, at = _examine(parsed, name)
    result = AttestationResult(
        tee=examined.tee, subject=examined.claims, findings=tuple(ledger.findings), at=at, policy_name="none"
    )
    if result.verdict is Verdict.NOT_AUTHENTIC:
        try:
            result.require()
        except VerificationError as error:
            error.hint = f"enarx attest verify {name} --explain says why; --at judges it for another time"
            raise
    if result.verdict is not Verdict.ACCEPTED:
        ui.note(f"taken on your word: whether {name} is authentic is undecided: {result.failures[0].line}")
    return examined.parts


def _examine(parsed: Parsed, name: str) -> tuple[Examined, Ledger, datetime]:
    """Decode evidence and look at it: its claims, what was found about it, and for which time."""
    from enarx.cli.attest import read_limited, read_paths, time_of
    from enarx.rats import Evidence
    from enarx.verifier import pinned_anchors, recognise
    from enarx.verifier.ledger import Ledger, Setting
    from enarx.verifier.registry import judge_of

    recognised = recognise(Evidence(data=read_limited(name)))
    at = time_of(parsed.value("at"))
    ledger = Ledger()
    endorsements = recognised.endorsements + read_paths(parsed.all("endorsements"))
    setting = Setting(at=at, anchors=pinned_anchors())
    return judge_of(recognised.section).examine(recognised.parsed, endorsements, setting, ledger), ledger, at


def _check(parsed: Parsed) -> int:
    from enarx.verifier.policy_lint import Level
    from enarx.verifier.policy_toml import MAX_BYTES, read_policy
    from enarx.wire.toml_lines import line_finder

    path = parsed.operands[0]
    written = _read(path, MAX_BYTES)
    data = _expanded(written, path)
    text = read_policy(data, path=path, lines_of=None if data == written else line_finder(written.decode()))
    remarks = _remarks(parsed, text)
    errors = [remark for remark in remarks if remark.level is Level.ERROR]
    count = len(errors) + len(text.problems)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps(_document(path, text, remarks), indent=2))
        return ConfigError.status if count else 0
    for problem in text.problems:
        ui.out(ui.printable(f"error: {problem}" + (f" ({problem.hint})" if problem.hint else "")))
    for remark in remarks:
        ui.out(ui.printable(_line(path, text, remark)))
    if count:
        raise ConfigError(f"{path}: found {_counted(count, 'error')}, want none", path=path)
    warnings = sum(remark.level is Level.WARNING for remark in remarks)
    tees = ", ".join(sorted(text.policy.tees)) if text.policy is not None else "nothing"
    ui.note(f"{path} can be used: it accepts {tees}" + (f"; {_counted(warnings, 'warning')}" if warnings else ""))
    return 0


def _remarks(parsed: Parsed, text: PolicyText) -> list[Remark]:
    from enarx.verifier.policy_lint import lint_against, lint_policy, lint_presets

    if text.policy is None:
        return []
    remarks = [*lint_policy(text.policy), *lint_presets(text)]
    name = parsed.value("evidence")
    if name is not None:
        remarks += lint_against(text.policy, _examine(parsed, name)[0].parts)
    return remarks


def _line(path: str, text: PolicyText, remark: Remark) -> str:
    at = text.find_line(tuple(remark.key.split("."))) if remark.key else None
    where = path if at is None else f"{path}:{at}"
    hint = f" ({remark.hint})" if remark.hint else ""
    return f"{remark.level}: {where}: {remark.key}: {remark.text}{hint}"


def _document(path: str, text: PolicyText, remarks: list[Remark]) -> dict[str, object]:
    problems = [
        {"level": "error", "key": problem.key, "line": problem.line, "message": str(problem), "hint": problem.hint}
        for problem in text.problems
    ]
    problems += [
        {
            "level": str(remark.level),
            "key": remark.key,
            "line": text.find_line(tuple(remark.key.split("."))),
            "message": remark.text,
            "hint": remark.hint,
        }
        for remark in remarks
    ]
    return {
        "file": path,
        "usable": not any(problem["level"] == "error" for problem in problems),
        "tees": sorted(text.policy.tees) if text.policy is not None else None,
        "presets": dict(text.presets),
        "remarks": problems,
    }


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count > 1 else "")


COMMANDS = {
    "policy init": Command(
        "policy init",
        operands=("FILE",),
        summary="write an appraisal policy to begin with",
        description=(
            "Write a strict, commented appraisal policy into FILE, which must not be there yet. What has to come from a\n"
            "reference value is filled in from an image manifest, from signed CoRIM, or from evidence that you say is\n"
            "good; what is left is marked, and the policy is refused until it is filled in."
        ),
        options=(
            Option("tee", "TEE", "accept this kind of TEE; may be repeated", repeat=True, choices=_TEES),
            Option("image", "NAME", "take reference values from an installed image: process is the package itself"),
            Option("from-image", "FILE", "take reference values from the manifest of an image"),
            Option("corim", "FILE", "take reference values from a signed CoRIM"),
            Option("corim-key", "PEM", "the public key or certificate of the CoRIM's signer"),
            Option("from-evidence", "FILE", "take reference values from this evidence, which you say is good"),
            Option("endorsements", "PATH", "a file or folder of endorsements of that evidence", repeat=True),
            Option("at", "TIME", "judge that CoRIM or evidence for this time instead of now"),
            Option(
                "insecure-accept-emulated",
                "ROOT-SHA256",
                "also accept an emulated platform, this installation's own if not given, by its root",
                repeat=True,
                optional=True,
            ),
        ),
        examples=(
            ("enarx policy init policy.toml --tee snp --tee tdx", "strict, to be filled in"),
            ("enarx policy init policy.toml --from-evidence report.bin", "accept what this evidence says, and newer"),
            ("enarx policy init policy.toml --image process", "accept Keeps that run this very enarx"),
        ),
        run=_init,
    ),
    "policy check": Command(
        "policy check",
        operands=("FILE",),
        summary="look an appraisal policy over",
        description=(
            "Say everything that is wrong with an appraisal policy: keys that are missing or misspelt, values that cannot\n"
            "be, checks that nothing can pass and checks that everything passes. Errors end with status 2; warnings do not."
        ),
        options=(
            Option("evidence", "FILE", "compare with evidence: which checks only recognise it, and which refuse it"),
            Option("endorsements", "PATH", "a file or folder of endorsements of that evidence", repeat=True),
            Option("at", "TIME", "look at that evidence for this time instead of now"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            ("enarx policy check policy.toml", "before it is used"),
            ("enarx policy check policy.toml --evidence report.bin", "would it accept this, and why"),
        ),
        run=_check,
    ),
}
