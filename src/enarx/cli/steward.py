# SPDX-License-Identifier: Apache-2.0
"""`enarx steward init|serve|audit`: turn flags into what `enarx.steward` wants, and print what it says."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.host_options import FETCHING
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.user_files import write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from enarx.steward.auditing import Audited
    from enarx.steward.service import StewardOptions

DEFAULT_LISTEN = "127.0.0.1:8471"
_DATABASE = "ENARX_STEWARD_DATABASE"
_MAX_URL_BYTES = 4096
_MAX_FILE_BYTES = 4 << 20

_STATE = Option("state", "DIR", "the Steward's folder", environment="ENARX_STEWARD_STATE")
_DATABASE_FILE = Option(
    "database-file",
    "FILE",
    f"file with the URL of the log's database, if it is not in ${_DATABASE} and not in the folder",
)


def _init(parsed: Parsed) -> int:
    from enarx.steward import folder as files
    from enarx.steward import founding
    from enarx.steward.key_uris import decode_key_uri

    state = _state(parsed)
    chain = parsed.value("chain")
    name = parsed.value("name")
    if chain is not None:
        for option in ("name", "trust-domain", "policy", "intermediate", "key"):
            if parsed.flag(option):
                raise UsageError(f"cannot install the chain: found --{option} with --chain, want --chain alone")
        founding.install(state, _read(chain), chain_path=chain, at=_now())
        ui.note(f"installed the chain; Keeps and whoever asks them trust {state}/{files.ROOT}, and no root above it")
        ui.show_hint(f"enarx steward serve --state {state}")
        return 0
    if name is None:
        raise UsageError(
            "cannot make a Steward: found no --name, want the DNS name by which it is reached",
            hint="enarx steward init --name steward.example.com",
        )
    policy, uri = parsed.value("policy"), parsed.value("key")
    key_uri = None if uri is None else decode_key_uri(uri, path="--key")
    is_new = founding.found(
        state,
        name=name,
        at=_now(),
        trust_domain=parsed.value("trust-domain"),
        policy=None if policy is None else _read(policy),
        policy_path=policy or files.POLICY,
        is_intermediate=parsed.flag("intermediate"),
        key_uri=key_uri,
    )
    if key_uri is not None:
        ui.note(f"{'made' if is_new else 'found, and uses,'} the authority's key {key_uri}")
    return _tell_next_steps(state, has_policy=policy is not None, is_intermediate=parsed.flag("intermediate"))


def _tell_next_steps(state: str, *, has_policy: bool, is_intermediate: bool) -> int:
    from enarx.steward import folder as files

    ui.note(f"made a Steward in {state}")
    if is_intermediate:
        ui.note(
            f"have your authority sign {state}/{files.REQUEST}, then: enarx steward init --state {state} --chain FILE"
        )
    else:
        ui.note(f"Keeps and whoever asks them trust its root: {state}/{files.ROOT}")
    if not has_policy:
        from enarx import __version__
        from enarx.host.launchers.qemu import this_arch

        image = f"keep-{__version__}-{this_arch()}"
        ui.note(f"say which Keeps it believes: enarx policy init {state}/{files.POLICY} --image {image}")
        ui.note(
            "another image's name in its place, or `process` for a trial with Keeps that are processes, which nothing protects"
        )
    ui.note(f"say who gets which names: {state}/{files.CONFIGURATION}")
    ui.show_hint(f"enarx steward serve --state {state}")
    return 0


def _serve(parsed: Parsed) -> int:
    from enarx.serving.logs import make_log
    from enarx.steward.service import serve

    options = _options(parsed)
    log = make_log(parsed.value("log-format") or "text")
    return serve(options, log=log, announce=lambda url: ui.note(f"Steward listening on {url}"), clock=_now)


def _options(parsed: Parsed) -> StewardOptions:
    from enarx.cli.service_options import ServiceOptions
    from enarx.steward.rules import RuleSources
    from enarx.steward.service import StewardOptions

    host, port = ServiceOptions(parsed, "steward serve").listen(DEFAULT_LISTEN)
    sources = RuleSources(
        accept_emulated=tuple(parsed.all("insecure-accept-emulated")),
        is_offline=parsed.flag("offline"),
        amd_url=parsed.value("amd-kds"),
        intel_url=parsed.value("intel-pcs"),
        proxy=parsed.value("proxy"),
        now=_now,
    )
    return StewardOptions(
        host=host,
        port=port,
        state=_state(parsed),
        sources=sources,
        database=_database(parsed),
        tls_certificate=parsed.value("tls-certificate"),
        tls_key=parsed.value("tls-key"),
        insecure_http=parsed.flag("insecure-http"),
        metrics_for_all=parsed.flag("metrics-for-all"),
    )


def _state(parsed: Parsed) -> str:
    from enarx.steward.folder import default_folder

    return parsed.value("state") or default_folder()


def _database(parsed: Parsed) -> str | None:
    """Return the URL of the log's database, which may hold a password and so is no argument; None is the folder's own."""
    import os

    path = parsed.value("database-file")
    text = os.environ.get(_DATABASE, "") if path is None else _read(path, _MAX_URL_BYTES).decode("utf-8", "replace")
    return text.strip() or None


def _read(path: str, max_bytes: int = _MAX_FILE_BYTES) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise UsageError(f"cannot read {path}: found more than {max_bytes} bytes, want fewer")
    return data


def _audit(parsed: Parsed) -> int:
    from enarx.steward import folder as files
    from enarx.steward.auditing import audit
    from enarx.steward.configuration import decode_configuration
    from enarx.steward.folder import StewardFolder
    from enarx.steward.founding import database_url, load_log_signer
    from enarx.steward.kept import KeptCheckpoint
    from enarx.steward.log import parse_verifier_key_untrusted

    since, certificate = parsed.value("since"), parsed.value("certificate")
    save = parsed.value("save")
    database, key = _database(parsed), parsed.value("log-key")
    kept = None
    if database is None or key is None or parsed.value("state") is not None:
        with StewardFolder(_state(parsed)) as folder:
            path = folder.file(files.CONFIGURATION)
            name = decode_configuration(folder.read(files.CONFIGURATION), path=path).name
            key = key or load_log_signer(folder, name=name).verifier_key.text()
            database = database or database_url(folder)
            # Before the database is read: what is written meanwhile is in both or in the database alone.
            kept = KeptCheckpoint(folder).checkpoint(parse_verifier_key_untrusted(key))
    found = audit(
        database,
        key,
        since=None if since is None else _text(since),
        also_since=kept,
        certificate=None if certificate is None else _certificate(certificate),
    )
    if parsed.flag("json"):
        ui.out(_as_json(found, key))
    else:
        _show(found, key)
    found.require()
    if found.checkpoint is not None and save is not None:
        try:
            write_whole(save, found.checkpoint.encode(), mode=0o644)
        except OSError as error:
            raise PlatformError(f"cannot write {save}: {error.strerror}") from error
        ui.note(f"wrote {save}: keep it elsewhere, and give it to the next audit with --since")
    return 0


def _show(found: Audited, key: str) -> None:
    ui.out(f"log key      {key}")
    ui.out(f"entries      {found.size}")
    if found.checkpoint is not None:
        ui.out(f"root         {found.checkpoint.splitlines()[2]}")
    if found.certificate_index is not None:
        ui.out(f"certificate  entry {found.certificate_index}, {len(found.proof)} hashes prove it")
    for finding in found.findings:
        ui.out(ui.printable(f"{finding.kind}: {finding.message}"))
    if found.more_findings:
        ui.out(f"and {found.more_findings} more findings")


def _as_json(found: Audited, key: str) -> str:
    import json

    document = {
        "log-key": key,
        "entries": found.size,
        "checkpoint": found.checkpoint,
        "certificate": None
        if found.certificate_index is None
        else {"entry": found.certificate_index, "proof": [each.hex() for each in found.proof]},
        "findings": [
            {"kind": finding.kind, "entry": finding.index, "message": finding.message} for finding in found.findings
        ],
        "more-findings": found.more_findings,
    }
    return json.dumps(document, indent=2)


def _text(path: str) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"cannot read {path}: found no text, want a checkpoint that was saved") from error


def _certificate(path: str) -> bytes:
    """Return the first certificate in a file, PEM or DER, as DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from enarx.crypto.x509 import load_certificates

    data = _read(path)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        return data
    return load_certificates(data, path=path)[0].public_bytes(Encoding.DER)


def _now() -> datetime:
    from enarx.cli.clock import read_clock

    return read_clock("certify", hint="set the clock: evidence and certificates are judged and dated by it")


COMMANDS = {
    "steward init": Command(
        "steward init",
        summary="make a Steward: its keys, its root and a configuration",
        description=(
            "Make the folder of a Steward, which certifies Keeps: keys that nobody else can read, a root certificate, and a\n"
            "commented steward.toml that grants nothing yet. With --intermediate there is a request for your own authority\n"
            "instead of a root, and --chain installs what it signed. What is there already is never written over."
        ),
        options=(
            Option("name", "NAME", "DNS name by which it is reached; its log has this name for ever"),
            _STATE,
            Option("trust-domain", "DOMAIN", "of the SPIFFE IDs in certificates; the name if not given"),
            Option("policy", "FILE", "the policy by which it is to judge; enarx policy init writes one"),
            Option("intermediate", "", "write a request that your own authority signs"),
            Option(
                "key", "URI", "the authority's key is in a token, made there if it has none: pkcs11:..., without a PIN"
            ),
            Option("chain", "FILE", "install what it signed: PEM, the Steward's certificate first, the root last"),
        ),
        examples=(
            ("enarx steward init --name steward.example.com --policy policy.toml", "with a root of its own"),
            ("enarx steward init --name steward.example.com --intermediate", "below an authority of yours"),
            ("enarx steward init --chain chain.pem", "and this once it has signed"),
            (
                "enarx steward init --name steward.example.com --key"
                " 'pkcs11:token=steward;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/enarx/pin'",
                "with a key in a token",
            ),
        ),
        run=_init,
    ),
    "steward serve": Command(
        "steward serve",
        summary="certify Keeps, and judge evidence for everyone else",
        description=(
            "Serve the HTTP API by which Keeps get certificates and everyone else attestation results. What evidence must be\n"
            "is said by policy.toml in its folder, who gets which names by steward.toml; SIGHUP reads both again, and revokes\n"
            "what they refuse now. Every decision is in an append-only log before it is told."
        ),
        options=(
            Option("listen", "ADDR:PORT", f"where the API listens; {DEFAULT_LISTEN} if not given, port 0 is any"),
            _STATE,
            Option(
                "tls-certificate", "FILE", "PEM certificate of the API, chain included; its own root's if not given"
            ),
            Option("tls-key", "FILE", "its PEM private key"),
            Option("insecure-http", "", "speak HTTP without TLS, as behind a proxy that speaks it"),
            Option(
                "insecure-accept-emulated",
                "ROOT-SHA256",
                "also accept an emulated platform, this installation's own if not given, by its root",
                repeat=True,
                optional=True,
            ),
            _DATABASE_FILE,
            *FETCHING,
            Option("metrics-for-all", "", "answer /metrics to others than this machine"),
            Option("log-format", "FORM", "of the log on stderr: text or json", choices=("text", "json")),
        ),
        examples=(
            ("enarx steward serve", f"for this machine, on {DEFAULT_LISTEN}"),
            ("enarx steward serve --listen 0.0.0.0:8471", "for Keeps elsewhere, who trust its root"),
        ),
        run=_serve,
    ),
    "steward audit": Command(
        "steward audit",
        summary="prove a Steward's log, or find what was done to it",
        description=(
            "Compare the whole log of a Steward with what its key signed: every entry, every hash, every checkpoint. Ends with\n"
            "status 104 where something is not as it was signed."
        ),
        options=(
            _STATE,
            _DATABASE_FILE,
            Option("log-key", "KEY", "the log's public key, as an audit shows it, instead of the folder's"),
            Option("since", "FILE", "a checkpoint that was saved: all that it covers must still be there"),
            Option("certificate", "FILE", "PEM or DER of a certificate that must be in the log"),
            Option("save", "FILE", "write the newest checkpoint, for --since of the next audit"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            ("enarx steward audit --save newest.txt", "everything, and keep where it ended"),
            ("enarx steward audit --since newest.txt", "nothing that was there then was changed"),
            ("enarx steward audit --certificate keep.pem", "who certified this, and when"),
        ),
        run=_audit,
    ),
}
