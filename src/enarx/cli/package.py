# SPDX-License-Identifier: Apache-2.0
"""`enarx package build|info`: make a package, look into one; and how every command opens the package it is given."""

from __future__ import annotations

import contextlib
import os

from enarx.cli import ui
from enarx.cli.options import Command, Option, Parsed
from enarx.cli.progress import show_progress
from enarx.errors import EnarxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from enarx.deploy.package_source import FoundPackage, OpenedPackage, Signers
    from enarx.registry.content import Source
    from enarx.registry.describing import Inside
    from enarx.registry.layout import LayoutFolder
    from enarx.wire.oci import Descriptor

_ARCHIVE = ".tar"
_MAX_SHOWN = 200


@contextlib.contextmanager
def open_named(parsed: Parsed, *, require: Signers | None = None) -> Iterator[OpenedPackage]:
    """Give a path to the package that a command is given, with the options that say what may be opened.

    Args:
        parsed: whose first operand names the package.
        require: who has to have signed it; None is nobody.
    """
    from enarx.cli.unwinding import unwound_by_signals
    from enarx.deploy.package_source import open_reference

    with contextlib.ExitStack() as stack:
        stack.enter_context(unwound_by_signals())
        # What is fetched is done before the package is used, and so is the line that shows it.
        with show_progress() as progress:
            opened = stack.enter_context(
                open_reference(
                    parsed.operands[0],
                    accept_new_digest=parsed.flag("accept-new-digest"),
                    require=require,
                    decryption_keys=parsed.all("decryption-key"),
                    say=ui.note,
                    progress=progress,
                )
            )
        for signature in opened.signatures:
            ui.note(f"signed by {signature.line}")
        try:
            yield opened
        except EnarxError as error:
            # Of the folder that it was opened in the user knows nothing.
            error.args = (str(error).replace(opened.path, opened.name),)
            raise


# --- build -----------------------------------------------------------------------------------------------------------


def _build(parsed: Parsed) -> int:
    from enarx.registry.archive import new_package

    path = parsed.operands[0]
    output = parsed.value("output") or _default_output(path)
    with new_package(output, replaces=True) as layout:
        built = _build_into(parsed, path, layout)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps({"path": output, **built}, indent=2))
        return 0
    ui.out(f"{output}\n  package  {built['package']}\n  OCI      {built['oci']}")
    return 0


def _build_into(parsed: Parsed, path: str, layout: LayoutFolder) -> dict[str, str]:
    from enarx.registry.building import build_package
    from enarx.registry.describing import package_digest
    from enarx.wire.oci import decode_manifest_untrusted

    descriptor = build_package(path, layout, tag=parsed.value("tag"), created_s=source_date())
    digest = package_digest(decode_manifest_untrusted(layout.resolve(descriptor.digest).data))
    if digest is None:
        raise UsageError(f"cannot build {path}: found no module in it, want one")
    return {"package": f"sha256:{digest.hex()}", "oci": descriptor.digest}


def _default_output(path: str) -> str:
    name = os.path.basename(os.path.abspath(path))
    if not os.path.isdir(path):
        name = name.removesuffix(".wasm")
    return (name or "package") + _ARCHIVE


def source_date() -> int:
    """Return the time that a package says it was made at (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise UsageError(f"cannot build: SOURCE_DATE_EPOCH: found {text}, want seconds since 1970")
    return int(text)


# --- info ------------------------------------------------------------------------------------------------------------


def _info(parsed: Parsed) -> int:
    from enarx.deploy.package_source import find_package

    text = parsed.operands[0]
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(show_progress())
        found = stack.enter_context(find_package(text, progress=progress))
        if found is None and not os.path.lexists(text):
            raise UsageError(f"cannot open {text}: found no such file, want a package")
        if found is None:
            found = _built(stack, text)
        facts = _facts(parsed, found)
    if parsed.flag("json"):
        import json

        ui.out(json.dumps(facts, indent=2))
        return 0
    ui.out("\n".join(map(ui.printable, _lines(text, facts))))
    return 0


def _built(stack: contextlib.ExitStack, path: str) -> FoundPackage:
    """Build a plain module or folder for the sake of looking into it."""
    import tempfile

    from enarx.deploy.package_source import FoundPackage
    from enarx.registry.building import build_package
    from enarx.registry.layout import make_layout
    from enarx.wire.package_ref import PathRef

    layout = make_layout(stack.enter_context(tempfile.TemporaryDirectory(prefix="enarx-build-")))
    built = build_package(path, layout, created_s=source_date())
    return FoundPackage(PathRef(path, None, None), layout, layout.resolve(built.digest), None)


def _facts(parsed: Parsed, found: FoundPackage) -> dict[str, Any]:
    from enarx.registry.describing import abilities, folder_digest, inside_of, package_digest
    from enarx.registry.opening import ENCRYPTED, find_manifest, require_package

    resolved, manifest = find_manifest(found.source, found.resolved)
    require_package(manifest, resolved.descriptor.digest)
    encrypted = any(layer.media_type.endswith(ENCRYPTED) for layer in manifest.layers)
    digest = package_digest(manifest)
    inside = None
    if not encrypted or parsed.all("decryption-key"):
        from enarx.deploy.package_source import opened_folder

        with opened_folder(found, parsed.all("decryption-key")) as folder:
            inside = inside_of(folder)
            if digest is None:
                digest = folder_digest(folder)
    return {
        "package": None if digest is None else f"sha256:{digest.hex()}",
        "oci": found.digest,
        "manifest": _descriptor(resolved.descriptor),
        "config": _descriptor(manifest.config),
        "layers": [_descriptor(layer) for layer in manifest.layers],
        "encrypted": encrypted,
        "signatures": _signatures(found.source, found.digest),
        **_inside(inside),
        "abilities": None if inside is None else list(abilities(inside)),
    }


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    from enarx.wire.oci import TITLE

    facts: dict[str, Any] = {
        "media_type": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if TITLE in descriptor.annotations:
        facts["title"] = descriptor.annotations[TITLE]
    return facts


def _inside(inside: Inside | None) -> dict[str, Any]:
    if inside is None:
        return {"kind": None, "imports": None, "exports": None, "files": None}
    return {
        "kind": "component" if inside.outline.is_component else "module",
        "imports": list(inside.outline.imports),
        "exports": list(inside.outline.exports),
        "files": {
            "count": inside.files,
            "bytes": inside.files_bytes,
            "tree": [{"path": path, "size": size} for path, size in inside.tree],
        },
    }


def _signatures(source: Source, digest: str) -> list[dict[str, str]]:
    """Return what is attached as a signature. Nothing of it is believed here."""
    from enarx.registry.referrers import attached
    from enarx.wire.dsse import DSSE

    return [
        {"digest": each.digest, "kind": "local key" if each.media_type == DSSE else "keyless"}
        for each in attached(source, digest).signatures
    ]


def _lines(text: str, facts: dict[str, Any]) -> Iterator[str]:
    yield text
    yield f"  package  {facts['package'] or 'not known: the package is encrypted'}"
    yield f"  OCI      {facts['oci']}"
    if facts["manifest"]["digest"] != facts["oci"]:
        yield f"  manifest {facts['manifest']['digest']}"
    # A title is anybody's text.
    rows = [("config", facts["config"]), *((each.get("title", "layer")[:40], each) for each in facts["layers"])]
    for name, each in rows:
        yield f"    {name:<12} {each['size']:>12} bytes  {each['digest']}  {each['media_type']}"
    yield f"  encrypted: {'yes' if facts['encrypted'] else 'no'}"
    if not facts["signatures"]:
        yield "  signatures: none"
    for each in facts["signatures"]:
        yield f"  signature attached, not judged: {each['kind']}, {each['digest']}"
    if facts["abilities"] is None:
        yield "  what is inside cannot be told without a key: --decryption-key FILE"
        return
    yield f"  a {facts['kind']} that"
    yield from (f"    {line}" for line in facts["abilities"])
    for kind in ("imports", "exports"):
        yield f"  {kind}: {len(facts[kind])}"
        yield from _first(facts[kind])
    files = facts["files"]
    yield f"  files: {files['count']}, {files['bytes']} bytes"
    yield from _first([f"{each['path']}  {each['size']} bytes" for each in files["tree"]])


def _first(lines: list[str]) -> Iterator[str]:
    yield from (f"    {line}" for line in lines[:_MAX_SHOWN])
    if len(lines) > _MAX_SHOWN:
        yield f"    and {len(lines) - _MAX_SHOWN} more (--json has all)"


_JSON = Option("json", "", "one JSON document")

COMMANDS = {
    "package build": Command(
        "package build",
        operands=("PATH",),
        summary="make a package: an OCI layout, the same bytes every time",
        description=(
            "Make a package of a module, or of a directory with main.wasm and Enarx.toml. The directories and PEM files that\n"
            "Enarx.toml names go with it and have to be below that directory. The same input gives the same bytes, wherever\n"
            "and whenever it is built. docs/packages.md has the format."
        ),
        options=(
            Option(
                "output", "FILE.tar|DIR", "one file if the name ends with .tar, else a directory; NAME.tar if not given"
            ),
            Option("tag", "TAG", "the package's name in the layout; others can be added to a directory later"),
            _JSON,
        ),
        examples=(
            ("enarx package build app/", "write app.tar"),
            (
                "enarx package build hello.wasm --output layout --tag 1.0",
                "write a directory, which skopeo reads as oci:layout:1.0",
            ),
        ),
        run=_build,
    ),
    "package info": Command(
        "package info",
        operands=("REF",),
        summary="show what is in a package, and what it will be able to do",
        description=(
            "Show a package's layers and digests, and what its workload will be able to do. REF is oci://HOST/REPOSITORY:TAG, an\n"
            "OCI layout, a .tar of one, or a directory or module that is not a package yet. Everything is told from what is in the\n"
            "package, which is checked on the way; signatures are listed and not judged (enarx package verify)."
        ),
        options=(Option("decryption-key", "FILE", "opens an encrypted package", repeat=True), _JSON),
        examples=(
            ("enarx package info app.tar", "a package in one file"),
            ("enarx package info oci://registry.example/team/app:1.0 --json", "one in a registry, as JSON"),
        ),
        run=_info,
    ),
}
