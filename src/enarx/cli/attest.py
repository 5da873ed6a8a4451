# SPDX-License-Identifier: Apache-2.0
"""`enarx attest inspect|verify`: read files, ask the verifier, print what it says. Nothing is judged here.

`verify` looks without the network first. What is missing is fetched only where that can change the answer, and
`--offline` forbids it.
"""

from __future__ import annotations

import os
import sys

from enarx.cli import ui
from enarx.cli.clock import EARLIEST_YEAR, read_clock
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import ConfigError, DecodeError, EnarxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from enarx.rats import AppraisalPolicy, AttestationResult, Endorsements, TrustAnchors
    from enarx.verifier import Recognised

REPORT_DATA_BYTES = 64
FETCH_TIMEOUT_S = 60.0
"""AMD answers about one question in ten seconds, and three may be needed."""

_MAX_FILES = 256
_MAX_FILES_BYTES = 64 << 20
_ANOTHER_CHIP = "snp.vek.hwid"
_CPAK_SIGNATURE = "cca.platform.signature"
_FRESHNESS = (".report_data", ".nonce")
# A receipt begins with its type, and can hold evidence twice.
_RECEIPT = b'"type": "enarx-receipt"'
_MAX_RECEIPT_BYTES = 32 << 20
# Each of them is what stdout is for.
_FORMS = ("explain", "json", "ear")


def _inspect(parsed: Parsed) -> int:
    from enarx.cli.attest_inspect import inspect_bytes

    name = parsed.operands[0]
    document = inspect_bytes(read_limited(name))
    if parsed.flag("json"):
        import json

        ui.out(json.dumps(document, indent=2))
        return 0
    from enarx.cli.attest_text import show_claims

    ui.out(show_claims(document))
    ui.note("decoded only: nothing here was verified")
    return 0


def _verify(parsed: Parsed) -> int:
    from enarx.rats import Evidence, Verdict
    from enarx.verifier import TrustCache, recognise, verify_evidence

    name = parsed.operands[0]
    forms = [form for form in _FORMS if parsed.flag(form)]
    if len(forms) > 1:
        raise UsageError(f"cannot verify: found --{forms[0]} and --{forms[1]}, want one of them")
    timeout_s = _timeout_s(parsed.value("timeout"))
    at = time_of(parsed.value("at"))
    report_data = report_data_of(parsed, "report-data")
    policy = _policy(parsed.value("policy"))
    data = _read(name, _MAX_RECEIPT_BYTES)
    if data[:1] == b"{" and _RECEIPT in data[:64]:
        from enarx.cli.attest_receipt import verify_receipt

        return verify_receipt(parsed, data)
    evidence = Evidence(data=_not_too_large(data, name))
    recognised = recognise(evidence)
    endorsements = read_paths(parsed.all("endorsements"))
    anchors = _anchors(parsed.value("cpak"), recognised)
    cache = TrustCache()

    def judge(given: Endorsements) -> AttestationResult:
        return verify_evidence(
            recognised,
            at=at,
            endorsements=given,
            policy=policy,
            anchors=anchors,
            cache=cache,
            report_data=report_data,
        )

    result, missing = judge(endorsements), None
    if result.verdict is Verdict.UNDECIDED and _waits_for_vendor(result) and not parsed.flag("offline"):
        from enarx.cli.attest_fetch import fetch_missing

        fetched = fetch_missing(parsed, recognised, endorsements, at=at, timeout_s=timeout_s)
        if fetched.sources:
            result = judge(endorsements + fetched.endorsements)
        missing = fetched
    _show(parsed, result, recognised, evidence.data, name)
    if result.emulated:
        ui.note("EMULATED: this platform is software; nothing here protects data in use")
    if missing is not None and missing.missing and result.verdict is Verdict.UNDECIDED:
        first, *others = missing.missing
        for other in others:
            ui.note(str(other))
        raise first
    _require(result, is_offline=parsed.flag("offline"), is_explained=bool(forms))
    return 0


def _anchors(cpak: str | None, recognised: Recognised) -> TrustAnchors | None:
    """Return the pinned roots with the platform keys that were given; None, which is the pinned roots alone, where none were."""
    if cpak is None:
        return None
    if recognised.section != "cca":
        raise UsageError(f"cannot verify: --cpak: found {recognised.format}, want a CCA token, which alone needs it")
    from dataclasses import replace

    from enarx.verifier import pinned_anchors
    from enarx.verifier.cpaks import read_cpaks

    keys = read_cpaks(read_limited(cpak), instance_id=recognised.parsed.platform.instance_id)
    return replace(pinned_anchors(), cca=keys)


def _require(result: AttestationResult, *, is_offline: bool, is_explained: bool) -> None:
    """Raise what the verdict is, with the next step that fits it."""
    from enarx.rats import Verdict

    try:
        result.require()
    except EnarxError as error:
        if is_explained:
            error.hint = None
        if result.verdict is Verdict.UNDECIDED:
            error.hint = _next_step(result, is_offline=is_offline) or error.hint
        elif any(finding.check.id == _ANOTHER_CHIP for finding in result.failures):
            error.hint = "the certificate is another chip's: pass this one's, or none to have it fetched"
        raise


def _next_step(result: AttestationResult, *, is_offline: bool) -> str | None:
    """Return what would decide an undecided verdict, where one thing would."""
    waits_for = _undecided(result)
    if waits_for == {_CPAK_SIGNATURE}:
        return "pass the platform's key with --cpak"
    if all(name.endswith(_FRESHNESS) for name in waits_for):
        return "the policy wants an answer to your challenge: say what it was with --report-data"
    return "pass what is missing with --endorsements, or leave out --offline to have it fetched" if is_offline else None


def _waits_for_vendor(result: AttestationResult) -> bool:
    """Return whether something that a vendor publishes could decide a verdict."""
    return any(name != _CPAK_SIGNATURE and not name.endswith(_FRESHNESS) for name in _undecided(result))


def _undecided(result: AttestationResult) -> set[str]:
    from enarx.rats import Outcome

    return {finding.check.id for finding in result.findings if finding.outcome is Outcome.UNDECIDED}


def _show(parsed: Parsed, result: AttestationResult, recognised: Recognised, evidence: bytes, name: str) -> None:
    html = parsed.value("html")
    if html is not None:
        from enarx.cli.attest_html import result_page

        page = result_page(
            result,
            format_name=recognised.format,
            wrappers=recognised.wrappers,
            subject="standard input" if name == "-" else os.path.basename(name),
        )
        _write(html, page)
        ui.note(f"wrote {html}")
    key = parsed.value("ear")
    if key is not None:
        from enarx.cli.attest_ear import sign_result

        ui.out(sign_result(result, evidence, key, nonce=report_data_of(parsed, "report-data")))
    elif parsed.flag("json"):
        import json

        from enarx.wire.result_json import result_document

        ui.out(
            json.dumps(result_document(result, format_name=recognised.format, wrappers=recognised.wrappers), indent=2)
        )
    else:
        from enarx.cli.attest_text import explain, summarise

        colour = ui.wants_colour(sys.stdout)
        ui.out(summarise(result, recognised.format, recognised.wrappers, colour=colour))
        text = explain(result, everything=parsed.flag("explain"), colour=colour)
        if text:
            ui.out(text)
    if parsed.value("policy") is None and not result.failures:
        ui.note("no policy was given: this says where the evidence comes from, and nothing about what runs there")


def read_limited(name: str) -> bytes:
    """Read a file, or standard input for `-`, up to the size that evidence can have.

    Raises:
        UsageError: it cannot be read.
        DecodeError: it is larger.
    """
    from enarx.rats import MAX_EVIDENCE_BYTES

    return _not_too_large(_read(name, MAX_EVIDENCE_BYTES), name)


def _read(name: str, max_bytes: int) -> bytes:
    """Read one byte more than a limit at most."""
    try:
        with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
            data: bytes = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read {name}: {error.strerror}", hint="pass a file, or - for standard input"
        ) from error
    return data


def _not_too_large(data: bytes, name: str) -> bytes:
    from enarx.rats import MAX_EVIDENCE_BYTES

    if len(data) > MAX_EVIDENCE_BYTES:
        raise DecodeError(
            f"cannot decode {name}: size: found more than {MAX_EVIDENCE_BYTES} bytes, want at most that",
            hint="pass the report, quote, token or bundle itself",
        )
    return data


def read_paths(paths: list[str]) -> Endorsements:
    """Read endorsement files and the files of folders.

    A folder may have other files beside endorsements, which are named on stderr; a file that is named itself may not be one.

    Raises:
        UsageError: one cannot be read, or there are too many.
        DecodeError: a file is no endorsement.
    """
    from enarx.rats import Endorsements

    if not paths:
        return Endorsements()
    from enarx.verifier.endorsement_files import MAX_ENDORSEMENT_BYTES, read_endorsements

    files: list[tuple[str, bytes]] = []
    count = size = 0
    try:
        for path, is_named in _files(paths):
            with open(path, "rb") as file:
                data = file.read(MAX_ENDORSEMENT_BYTES + 1)
            count, size = count + 1, size + len(data)
            if count > _MAX_FILES or size > _MAX_FILES_BYTES:
                raise UsageError(
                    f"cannot read endorsements: {path}: found more than {_MAX_FILES} files or {_MAX_FILES_BYTES} bytes, want fewer",
                    hint="pass the files that belong to this evidence",
                )
            if is_named or _is_endorsement(path, data):
                files.append((path, data))
    except OSError as error:
        raise UsageError(
            f"cannot read endorsements: {error.filename}: {error.strerror}", hint="pass a file, or a folder of files"
        ) from error
    return read_endorsements(files)


def _files(paths: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield paths of files, and whether it was named itself."""
    for path in paths:
        if os.path.isdir(path):
            for entry in sorted(os.listdir(path)):
                inner = os.path.join(path, entry)
                if os.path.isfile(inner):
                    yield inner, False
        else:
            yield path, True


def _is_endorsement(path: str, data: bytes) -> bool:
    from enarx.verifier.endorsement_files import read_endorsements

    try:
        read_endorsements([(path, data)])
    except DecodeError as error:
        ui.note(f"left out: {error}")
        return False
    return True


def _policy(path: str | None) -> AppraisalPolicy | None:
    if path is None:
        return None
    from enarx.cli.policy import load_policy

    return load_policy(path)


def report_data_of(parsed: Parsed, name: str) -> bytes | None:
    """Return what an option says that evidence is over, in hex; None where it was not given.

    Raises:
        UsageError: it is not hex, or not 1 to `REPORT_DATA_BYTES` bytes.
    """
    text = parsed.value(name)
    if text is None:
        return None
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise UsageError(
            f"cannot attest: --{name}: found {text[:40]}, want hex", hint="two digits for each byte: 00ff1e"
        ) from None
    if not 0 < len(data) <= REPORT_DATA_BYTES:
        raise UsageError(f"cannot attest: --{name}: found {len(data)} bytes, want 1 to {REPORT_DATA_BYTES}")
    return data


def _timeout_s(text: str | None) -> float:
    if text is None:
        return FETCH_TIMEOUT_S
    from enarx.wire.units import parse_duration

    try:
        return parse_duration(text, name="--timeout")
    except ConfigError as error:
        error.hint = f"without it, {FETCH_TIMEOUT_S:g}s"
        raise


def time_of(text: str | None) -> datetime:
    """Return the time to judge for: the one given, or now.

    Raises:
        UsageError: a time that cannot be read, or before there was any evidence.
        PlatformError: this machine's clock is not set.
    """
    from datetime import UTC, datetime

    if text is None:
        return read_clock("verify", hint="set the clock, or say which time to judge for: --at 2026-01-31T00:00:00Z")
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"cannot verify: --at: found {text[:40]}, want a time",
            hint="--at 2026-01-31T12:00:00Z, or a date for its first moment in UTC",
        ) from None
    if at.year < EARLIEST_YEAR:
        raise UsageError(
            f"cannot verify: --at: found {at:%Y-%m-%d}, want {EARLIEST_YEAR} or later",
            hint="no evidence that is understood here is older",
        )
    return at


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


COMMANDS = {
    "attest inspect": Command(
        "attest inspect",
        operands=("FILE",),
        summary="decode any evidence, certificate or token",
        description=(
            "Decode evidence, an endorsement, reference values or an attestation result of any known format, and print what\n"
            "it says. Nothing is verified, and nothing it says should be believed. FILE may be - for stdin."
        ),
        options=(Option("json", "", "one JSON document"),),
        examples=(("enarx attest inspect report.bin", "show the fields of a report"),),
        run=_inspect,
    ),
    "attest verify": Command(
        "attest verify",
        operands=("FILE",),
        summary="judge evidence",
        description=(
            "Judge evidence of any known format: is it authentic, and does the policy accept it? FILE may be - for stdin.\n"
            "Ends with 0 if it is accepted, 104 if it is not authentic, 105 if the policy refuses it, 106 if it cannot be\n"
            "decided, 103 if it cannot be decoded. Without a policy it says where the evidence comes from, refuses what can be\n"
            "debugged, and says nothing about what runs there. What the evidence does not bring along is fetched from its\n"
            "vendor where the verdict waits for it, and kept: AMD and Intel learn which machine was asked about.\n"
            "A receipt of enarx deploy is judged again, offline: for the time and under the policy that it names, or others."
        ),
        options=(
            Option(
                "endorsements", "PATH", "a file or folder of certificates, CRLs, collateral, event logs", repeat=True
            ),
            Option("cpak", "FILE", "the key of a CCA platform, a JWK, or a list of keys with instance ids"),
            Option("policy", "FILE", "the appraisal policy; see enarx policy init"),
            Option("at", "TIME", "judge for this time, RFC 3339, instead of now"),
            Option(
                "report-data", "HEX", "the freshness value that the evidence must carry, whatever the policy says of it"
            ),
            Option("offline", "", "fetch nothing"),
            Option("amd-kds", "URL", "a mirror of AMD's key distribution service", environment="ENARX_AMD_KDS"),
            Option("intel-pcs", "URL", "a mirror of Intel's service: a PCCS", environment="ENARX_INTEL_PCS"),
            Option(
                "timeout",
                "DURATION",
                f"how long to wait for each thing that is fetched; {FETCH_TIMEOUT_S:g}s if not given",
            ),
            Option("proxy", "URL", "the HTTP proxy to fetch through", environment="ENARX_PROXY"),
            Option("explain", "", "show every check: found, expected, and who says so"),
            Option("json", "", "one JSON document"),
            Option("ear", "KEY", "print a signed attestation result (EAR, JWT), signed with this PEM key"),
            Option("html", "FILE", "also write a page that shows every check"),
        ),
        examples=(
            ("enarx attest verify report.bin --endorsements vcek.der --explain", "judge a report, showing every check"),
            ("enarx attest verify quote.bin --policy policy.toml --offline --json", "judge a quote, for a program"),
            ("enarx attest verify report.bin --html report.html", "write a page that draws the chain of trust"),
        ),
        run=_verify,
    ),
}
