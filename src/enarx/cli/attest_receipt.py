# SPDX-License-Identifier: Apache-2.0
"""`enarx attest verify RECEIPT`: judge a deployment again, offline, and print what that says. Nothing is judged here."""

from __future__ import annotations

import json
import sys

from enarx.cli import ui
from enarx.cli.attest import read_paths, time_of
from enarx.cli.attest_text import explain
from enarx.cli.options import Parsed
from enarx.deploy.policy import find_policy
from enarx.deploy.receipt import Rejudged, rejudge
from enarx.errors import UsageError
from enarx.rats import render
from enarx.wire.receipt_file import ReceiptFile, decode_receipt_untrusted
from enarx.wire.result_json import result_document

__all__ = ["verify_receipt"]

_NOT_HERE = ("report-data", "cpak", "ear", "html")


def verify_receipt(parsed: Parsed, data: bytes) -> int:
    """Judge a receipt and print the verdicts.

    Args:
        parsed: the command's arguments.
        data: the file.

    Raises:
        DecodeError: it is not well formed.
        VerificationError: it is not authentic; and as the verdicts say.
        UsageError: an option that has no meaning for a receipt.
    """
    for name in _NOT_HERE:
        if parsed.flag(name):
            raise UsageError(f"cannot verify: --{name}: found a receipt, which is judged without it")
    receipt = decode_receipt_untrusted(data)
    at, policy = parsed.value("at"), parsed.value("policy")
    judged = rejudge(
        receipt,
        at=None if at is None else time_of(at),
        policy=None if policy is None else find_policy(policy),
        endorsements=read_paths(parsed.all("endorsements")),
    )
    if parsed.flag("json"):
        ui.out(json.dumps(_document(receipt, judged), indent=2))
    else:
        ui.out(_text(receipt, judged, everything=parsed.flag("explain")))
        if policy is None:
            ui.note("judged by the policy in the receipt, which is its maker's; --policy judges by yours")
        if at is None:
            ui.note(
                "judged for the time at which the receipt says it was made; only its maker knows that time to be true"
            )
    if judged.emulated:
        ui.note("EMULATED: this platform is software; nothing here protects data in use")
    for remark in judged.remarks:
        ui.note(remark)
    judged.require()
    return 0


def _text(receipt: ReceiptFile, judged: Rejudged, *, everything: bool) -> str:
    colour = ui.wants_colour(sys.stdout)
    emulated = "EMULATED " if judged.emulated else ""
    given = "as it is" if judged.identity.pristine else "with something given beyond it"
    lines = [
        f"{judged.verdict}: receipt of {emulated}Keep {receipt.keep} on {receipt.host}",
        f"  made      {render(receipt.made_at)} by enarx {receipt.enarx}",
        f"  platform  {emulated}{judged.format}, {judged.backend} Keep, image {judged.image}",
        f"  offer     {judged.offer.verdict}",
        f"  receipt   {judged.receipt.verdict}",
        f"  package   sha256:{judged.identity.package.hex()}, {given}",
        f"  module    sha256:{judged.identity.module.hex()}",
        f"  tenant    key sha384:{judged.identity.tenant.hex()}",
        f"  policy    {judged.policy_name}",
        f"  time      judged for {render(judged.offer.at)}",
    ]
    text = "\n".join(ui.printable(line) for line in lines)
    for name, result in (("offer", judged.offer), ("receipt", judged.receipt)):
        found = explain(result, everything=everything, colour=colour)
        if found:
            text += f"\n{name}:\n{found}"
    return text


def _document(receipt: ReceiptFile, judged: Rejudged) -> dict[str, object]:
    return {
        "kind": "receipt",
        "verdict": str(judged.verdict),
        "emulated": judged.emulated,
        "made-at": render(receipt.made_at),
        "host": receipt.host,
        "keep": receipt.keep,
        "image": judged.image,
        "backend": judged.backend,
        "policy": judged.policy_name,
        "identity": {
            name: value if isinstance(value, bool) else value.hex() for name, value in judged.identity._asdict().items()
        },
        "offer": result_document(judged.offer, format_name=judged.format),
        "receipt": result_document(judged.receipt, format_name=judged.format),
        "remarks": list(judged.remarks),
    }
