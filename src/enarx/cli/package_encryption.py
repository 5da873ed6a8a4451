# SPDX-License-Identifier: Apache-2.0
"""`enarx package recipient|encrypt`: make the keys for which packages are encrypted, and encrypt packages for them."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enarx.registry.layout import LayoutFolder
    from enarx.registry.recipients import Recipients
    from enarx.wire.oci import Descriptor


def _recipient(parsed: Parsed) -> int:
    from enarx.registry.recipient_keys import make_recipient

    path = parsed.operands[0]
    public = make_recipient(path)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"private": path, "public": public}, indent=2))
    else:
        _show({"private": path, "public": public})
    ui.note("without the private key nobody opens what is encrypted for the public one: keep a copy of it")
    return 0


def _encrypt(parsed: Parsed) -> int:
    from enarx.registry.archive import new_package
    from enarx.registry.recipient_keys import read_recipients

    recipients = read_recipients(parsed.all("to"))
    output = parsed.value("output")
    if output is None:
        raise UsageError("cannot encrypt the package: found no --output, want one", hint="a new folder, or FILE.tar")
    with new_package(output) as layout:
        made = _into(layout, parsed.operands[0], recipients)
    count = len(recipients.hpke) + len(recipients.rsa)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"package": made.digest, "output": output, "recipients": count}, indent=2))
    else:
        _show({"package": made.digest, "output": output, "recipients": str(count)})
        ui.note("encryption says nothing about who made a package: sign it with `enarx package sign`")
    return 0


def _show(facts: dict[str, str]) -> None:
    ui.out("\n".join(ui.printable(f"{name:<12}{value}") for name, value in facts.items()))


def _into(layout: LayoutFolder, text: str, recipients: Recipients) -> Descriptor:
    """Encrypt a package from wherever it is; a plain module or folder is built and encrypted in one go."""
    from enarx.deploy.package_source import find_package
    from enarx.registry.building import build_package
    from enarx.registry.encryption import EncryptingSink, encrypt_package
    from enarx.registry.opening import find_manifest, require_package

    with find_package(text) as found:
        if found is None:
            return build_package(text, EncryptingSink(layout, recipients))
        resolved, manifest = find_manifest(found.source, found.resolved)
        require_package(manifest, found.digest)
        return encrypt_package(found.source, resolved, layout, recipients, tag=found.ref.tag)


_JSON = Option("json", "", "one JSON document")

COMMANDS = {
    "package recipient": Command(
        "package recipient",
        operands=("FILE",),
        summary="make a key for which packages can be encrypted",
        description=(
            "Write a new private key to FILE, which only you can read, and its public key to FILE.pub, which is for whoever encrypts.\n"
            "The key is for MLKEM768-X25519: what is encrypted today cannot be opened by the quantum computers of some later day."
        ),
        options=(_JSON,),
        examples=(("enarx package recipient tenant.key", "writes tenant.key and tenant.key.pub"),),
        run=_recipient,
    ),
    "package encrypt": Command(
        "package encrypt",
        operands=("PACKAGE",),
        summary="encrypt a package for those who may open it",
        description=(
            "Write a package again with its layers encrypted, each with a key of its own that is wrapped for every recipient.\n"
            "PACKAGE is a module, a folder, a layout, an archive of one or oci://HOST/NAME:TAG. A registry sees how long it is and\n"
            "what kind of layers it has."
        ),
        options=(
            Option(
                "to", "FILE", "a public key: FILE.pub of `enarx package recipient`, or an RSA key in PEM", repeat=True
            ),
            Option("output", "PATH", "a new OCI layout: a folder, or FILE.tar"),
            _JSON,
        ),
        examples=(
            (
                "enarx package encrypt app --to tenant.key.pub --output app.tar",
                "for whoever has tenant.key: enarx run app.tar --decryption-key tenant.key",
            ),
        ),
        run=_encrypt,
    ),
}
