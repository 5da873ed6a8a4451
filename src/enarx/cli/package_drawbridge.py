# SPDX-License-Identifier: Apache-2.0
"""`enarx package import`: bring a package of the original's out of a Drawbridge."""

from __future__ import annotations

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.progress import show_progress
from enarx.errors import UsageError

_TOKEN = "ENARX_DRAWBRIDGE_TOKEN"  # noqa: S105 - the name of a variable
_MAX_TOKEN_BYTES = 32 << 10


def _import(parsed: Parsed) -> int:
    from enarx.registry.drawbridge import import_package, parse_pin
    from enarx.registry.drawbridge_http import Asker
    from enarx.wire.drawbridge import parse_drawbridge_ref

    ref = parse_drawbridge_ref(parsed.operands[0])
    output, wanted = parsed.value("output"), parsed.value("digest")
    if output is None:
        raise UsageError(
            f"cannot import {ref.text}: found no --output, want it: the folder in which the package shall be",
            hint="--output app",
        )
    pin = None if wanted is None else parse_pin(wanted)
    asker = Asker(
        ref,
        token=_token(parsed.value("token-file")),
        ca_file=parsed.value("ca-bundle"),
        plain_http=parsed.flag("plain-http"),
    )
    with show_progress() as progress:
        found = import_package(ref, output, asker, pin=pin, progress=progress)
    if pin is None:
        ui.note(f"nothing was pinned: the registry says what {ref.text} is; --digest {found.digest} wants exactly this")
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"tree": found.digest, "place": output, "files": found.files, "bytes": found.size}, indent=2))
    else:
        lines = (
            f"tree      {found.digest}",
            f"place     {output}",
            f"files     {len(found.files)}, {found.size} bytes",
        )
        ui.out("\n".join(map(ui.printable, lines)))
    return 0


def _token(path: str | None) -> str | None:
    """Return the token of a file, else of the environment, else none."""
    import os

    from enarx.registry.drawbridge_http import require_token

    if path is None:
        text = os.environ.get(_TOKEN)
        return require_token(text) if text else None
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_TOKEN_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read the token: {path}: {error.strerror}") from error
    return require_token(data.decode("utf-8", "replace"))


COMMANDS = {
    "package import": Command(
        "package import",
        operands=("SLUG",),
        summary="get a package from a Drawbridge",
        description=(
            "Bring a package out of the original's registry into a folder with main.wasm and Enarx.toml, from which\n"
            "`enarx package build` and `enarx package publish` make an OCI package.\n"
            "SLUG is drawbridge://HOST[:PORT]/USER/REPOSITORY:VERSION. Every digest that the registry lists is checked; which\n"
            "package it is, the registry says, unless --digest does.\n"
            f"A private repository wants the token of its owner, in a file or in {_TOKEN}."
        ),
        options=(
            Option("output", "DIR", "the folder that is made"),
            Option("digest", "sha256:HEX", "what the root of the tree has to be; otherwise whatever the tag says"),
            Option("token-file", "FILE", "a bearer token, for a private repository"),
            Option("ca-bundle", "FILE", "PEM file of the authorities to trust", environment="ENARX_CA_BUNDLE"),
            Option("plain-http", "", "without TLS, for a registry on this machine only"),
            Option("json", "", "one JSON document"),
        ),
        examples=(
            ("enarx package import drawbridge://store.example/examples/fib:0.2.0 --output fib", "what the tag says"),
            (
                "enarx package import drawbridge://store.example/me/app:1.0.0 --output app --token-file token",
                "one of a private repository",
            ),
        ),
        run=_import,
    ),
}
