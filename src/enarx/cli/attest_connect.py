# SPDX-License-Identifier: Apache-2.0
"""`enarx attest connect`: what a service presents in its handshake, and the verdict on it. Nothing is judged here."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import FETCHING, fetch_for
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.deploy.service_judge import JudgedService, KeepPolicy

CONNECT_TIMEOUT_S = 15.0

_FORMS = ("explain", "json")


def _connect(parsed: Parsed) -> int:
    from enarx.cli.attest import time_of
    from enarx.deploy.connecting import fetch_chain
    from enarx.deploy.presented import Kind
    from enarx.deploy.service_judge import ServiceJudge

    host, port = _address(parsed.operands[0])
    if all(map(parsed.flag, _FORMS)):
        raise UsageError("cannot connect: found --explain and --json, want one of them")
    timeout_s = _timeout_s(parsed.value("timeout"))
    at = time_of(parsed.value("at"))
    policy = _policy(parsed)
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    server_name = parsed.value("server-name") or host
    chain = fetch_chain(host, port, server_name=server_name, timeout_s=timeout_s)
    judged = ServiceJudge(policy, now=lambda: at, fetch=fetch_for(parsed)).judge(chain, server_name=server_name)
    _show(parsed, judged, name)
    if judged.result.emulated:
        ui.note("EMULATED: this platform is software; nothing here protects data in use")
    if policy.appraisal is not None and judged.presented.kind is Kind.STEWARD:
        ui.note(
            "--policy is for evidence that is judged here; this was judged by the Steward, under the policy of its own"
        )
    judged.require(name)
    return 0


def _address(text: str) -> tuple[str, int]:
    from enarx.wire.endpoints import split_host_port

    host, port = split_host_port(text, name="HOST:PORT")
    if port is None:
        raise UsageError("cannot connect: HOST:PORT: found every port, want one")
    return host, port


def _timeout_s(text: str | None) -> float:
    if text is None:
        return CONNECT_TIMEOUT_S
    from enarx.wire.units import parse_duration

    return parse_duration(text, name="--timeout")


def _policy(parsed: Parsed) -> KeepPolicy:
    from enarx.deploy.connecting import load_steward_root
    from enarx.deploy.policy import find_policy
    from enarx.deploy.service_judge import KeepPolicy

    root, policy = parsed.value("steward-root"), parsed.value("policy")
    accepted = parsed.value("insecure-accept-emulated")
    return KeepPolicy(
        steward_root=None if root is None else load_steward_root(root),
        package=_digest(parsed, "package", 32),
        tenant=_digest(parsed, "tenant", 48),
        pristine=parsed.flag("pristine"),
        accept_key_only=parsed.flag("accept-key-only"),
        appraisal=None if policy is None else find_policy(policy, emulated=accepted is not None),
        insecure_accept_emulated=accepted,
    )


def _digest(parsed: Parsed, name: str, size: int) -> bytes | None:
    text = parsed.value(name)
    if text is None:
        return None
    try:
        digest = bytes.fromhex(text.removeprefix("sha256:").removeprefix("sha384:"))
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise UsageError(f"cannot connect: --{name}: found {text[:120]!a}, want {2 * size} hex digits")
    return digest


def _show(parsed: Parsed, judged: JudgedService, name: str) -> None:
    if parsed.flag("json"):
        import json

        ui.out(json.dumps(_document(judged, name), indent=2))
        return
    ui.out(_text(judged, name, everything=parsed.flag("explain")))


def _text(judged: JudgedService, name: str, *, everything: bool) -> str:
    from enarx.cli.attest_text import explain
    from enarx.rats import Verdict, render

    presented, result = judged.presented, judged.result
    emulated = "EMULATED " if result.emulated else ""
    lines = [f"{judged.verdict}: {emulated}{name} presents a {presented.kind}"]
    if result.emulated:
        lines.append("  EMULATED: this platform is software; nothing here protects data in use")
    if judged.verdict is not Verdict.ACCEPTED:
        lines.append("  what it says below is its own word")
    identity = presented.identity
    if identity is not None:
        given = "as it is" if identity.pristine else "with something given beyond it"
        lines += [
            f"  package   sha256:{identity.package.hex()}, {given}",
            f"  module    sha256:{identity.module.hex()}",
            f"  config    sha256:{identity.configuration.hex()}",
            f"  tenant    key sha384:{identity.tenant.hex()}",
        ]
    leaf = presented.leaf
    lines.append(f"  names     {', '.join(presented.names) or 'none'}")
    lines.append(f"  holds     {render((leaf.not_valid_before_utc, leaf.not_valid_after_utc))}")
    ear = presented.ear
    if ear is not None:
        lines.append(f"  issuer    {leaf.issuer.rfc4514_string()[:200]}")
        for appraisal in ear.submods.values():
            policies = ", ".join(appraisal.policy_ids) or "none"
            lines.append(
                f"  result    {appraisal.status.name.lower()}, {result.tee}, by the Steward's policy {policies}"
            )
        lines.append(
            f"  judged    {render(ear.issued_at)} by the Steward, which signed the certificate with this in it"
        )
    elif identity is not None:
        lines.append(f"  evidence  {emulated}{judged.format}, judged here by the policy {result.policy_name}")
        lines.append(
            "  fresh     no: key-only. The evidence is as old as the key may be, and nobody vouches for a name"
        )
    lines.append(f"  time      judged for {render(result.at)}")
    text = "\n".join(ui.printable(line) for line in lines)
    findings = explain(result, everything=everything, colour=False)
    return f"{text}\n{findings}" if findings else text


def _document(judged: JudgedService, name: str) -> dict[str, object]:
    from enarx.crypto.certificates import fingerprint
    from enarx.rats import render
    from enarx.wire.ear import ear_claims
    from enarx.wire.result_json import plain_claims, result_document

    presented, leaf = judged.presented, judged.presented.leaf
    identity, ear = presented.identity, presented.ear
    return {
        "kind": "service",
        "service": name,
        "verdict": str(judged.verdict),
        "emulated": judged.result.emulated,
        "presents": str(presented.kind),
        "fresh": ear is not None,
        "certificate": {
            "sha256": fingerprint(presented.chain[0]),
            "chain-length": len(presented.chain),
            "issuer": leaf.issuer.rfc4514_string(),
            "names": list(presented.names),
            "not-before": render(leaf.not_valid_before_utc),
            "not-after": render(leaf.not_valid_after_utc),
        },
        "identity": None if identity is None else plain_claims(identity._asdict()),
        "steward-result": None if ear is None else plain_claims(ear_claims(ear)),
        "result": result_document(judged.result, format_name=judged.format),
    }


COMMANDS = {
    "attest connect": Command(
        "attest connect",
        operands=("HOST:PORT",),
        summary="judge what a service presents",
        description=(
            "Do a TLS handshake with a service, say nothing more, and judge what it presented: which workload it says it is, and\n"
            "who vouches for that. A Steward's certificate must end in --steward-root and name the service. A self-signed one\n"
            "with evidence is judged here, by --policy or the one of this installation, and is bound to a key alone: it ends\n"
            "with 0 only with --accept-key-only and --package, and where something was given to the workload, --tenant.\n"
            "Ends with 0 if it is accepted, 104 if it is not authentic or names something else, 105 if it is not what was\n"
            "wanted or no Keep, 106 if it cannot be decided, 107 if there is no TLS 1.3."
        ),
        options=(
            Option("steward-root", "FILE", "the certificate of the Steward that you trust, in PEM: its root.pem"),
            Option("server-name", "NAME", "whom the certificate must name, if not HOST"),
            Option("package", "HEX", "the package that must run there: its SHA-256"),
            Option("tenant", "HEX", "for whom it must run: the SHA-384 of the tenant's key"),
            Option("pristine", "", "refuse it if anything was given to it beyond the package"),
            Option("accept-key-only", "", "accept evidence that is bound to a key, and to no time and name"),
            Option("policy", "FILE", "for evidence: what to accept; without it, images of this installation on genuine platforms"),
            Option("insecure-accept-emulated", "ROOT-SHA256",
                   "accept an EMULATED platform, which protects nothing: this installation's own and what a Steward calls one, or"
                   " evidence under the one of a root", optional=True),
            Option("at", "TIME", "judge for this time, RFC 3339, instead of now"),
            Option("timeout", "DURATION", f"how long to wait for the handshake; {CONNECT_TIMEOUT_S:g}s if not given"),
            *FETCHING,
            Option("explain", "", "show every check: found, expected, and who says so"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            ("enarx attest connect keep.example:443 --steward-root root.pem", "is this who it says it is?"),
            ("enarx attest connect 10.0.0.7:8443 --steward-root root.pem --server-name keep.example --package 5f…c0 --explain",
             "does that package run there? show every check"),
            ("enarx attest connect localhost:8443 --accept-key-only --package 5f…c0", "judge its evidence, without a Steward"),
        ),
        run=_connect,
    ),
}  # fmt: skip
