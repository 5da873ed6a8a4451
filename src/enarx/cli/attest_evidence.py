# SPDX-License-Identifier: Apache-2.0
"""`enarx attest evidence`: ask this machine's TEE, and write what it says. Nothing is judged here."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.attest import REPORT_DATA_BYTES, report_data_of
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.attester import Attested
    from enarx.wire.cmw import Cmw

_BACKENDS = ("snp", "tdx", "cca", "sgx", "nitro", "vm")


def _evidence(parsed: Parsed) -> int:
    import os

    from enarx.attester import find_attester

    output = parsed.value("output")
    if output is None and not parsed.flag("json") and os.isatty(1):
        raise UsageError(
            "cannot print evidence: found a terminal, want a file or a pipe for bytes",
            hint="pass --output FILE, or --json",
        )
    nonce = report_data_of(parsed, "nonce") or os.urandom(REPORT_DATA_BYTES)
    report_data = nonce.ljust(REPORT_DATA_BYTES, b"\0")
    attester = find_attester(backend=parsed.value("backend"))
    _write(output, _collect(attester.attest(report_data), is_json=parsed.flag("json")))
    ui.note(f"evidence of backend {attester.backend}; judge it with --report-data {report_data.hex()}")
    return 0


def _collect(attested: Attested, *, is_json: bool) -> bytes:
    """Put evidence and what came with it into one CMW."""
    from enarx.wire.cmw import CmwCollection, decode_cmw_untrusted, encode_cmw_cbor, encode_cmw_json

    cmw = decode_cmw_untrusted(attested.evidence)
    if attested.endorsements:
        entries: dict[str | int, Cmw] = {"evidence": cmw}
        entries |= {f"endorsement-{at}": decode_cmw_untrusted(each) for at, each in enumerate(attested.endorsements)}
        cmw = CmwCollection(entries)
    return encode_cmw_json(cmw) + b"\n" if is_json else encode_cmw_cbor(cmw)


def _write(path: str | None, data: bytes) -> None:
    """Write to a file, or to stdout as it is."""
    try:
        with open(1 if path is None else path, "wb", closefd=path is not None) as file:
            file.write(data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path or 'stdout'}: {error.strerror}") from error


COMMANDS = {
    "attest evidence": Command(
        "attest evidence",
        summary="ask this machine's TEE for evidence",
        description=(
            "Ask the TEE that this machine is for evidence over a nonce, and write it as a CMW (RFC 9999), which enarx attest\n"
            "verify and inspect read, with the certificates and event logs that the machine has beside it. It needs a TEE or a\n"
            "TPM, and mostly root."
        ),
        options=(
            Option("backend", "B", "which, where there are several; the strongest if not given", choices=_BACKENDS),
            Option("nonce", "HEX", "1 to 64 bytes that the evidence shall carry; random if not given"),
            Option("output", "FILE", "where to write it, instead of stdout"),
            Option("json", "", "as JSON instead of CBOR"),
        ),
        examples=(
            ("enarx attest evidence --nonce 00ff1e --output evidence.cmw", "answer a challenge"),
            (
                "enarx attest evidence --json --output evidence.json",
                "see what this machine can prove, for enarx attest verify",
            ),
        ),
        run=_evidence,
    ),
}
